//! Players of one stream that get its packets over UDP.
//!
//! Packets of a channel that are equally long, and a shorter one behind them, are one *run*: one
//! submission to a player, which the kernel cuts into datagrams (UDP GSO). Runs are made once for all
//! players that get the same packets. A socket that is full loses what it does not take, as UDP does; so
//! nobody is ever blocked.
//!
//! Who joins gets what there is since the keyframe a piece at a time, because more at once would not
//! fit into a receiver's socket buffer. Who holds up the log with that goes on at the next keyframe, with
//! all others (decision 0003).

use std::io::IoSlice;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::crowd::{CrowdEvents, CrowdTotals};
use super::flush::{Batch, Lists, Send, Shortfall, Socket, Wire};
use super::player::UdpTrack;
use crate::limits::{
    CATCH_UP_LEN, DATAGRAM_RUNS_KEPT_MAX, DATAGRAMS_LEN_MAX, DATAGRAMS_PER_SEND_MAX,
};
use crate::media::ConnectionId;
use crate::proto::rtsp::message::INTERLEAVED_HEADER_LEN;
use crate::stream::Log;

/// A player over UDP.
pub(super) struct DatagramPlayer {
    pub(super) id: ConnectionId,
    /// By channel.
    sockets: Vec<Option<Socket>>,
    /// Where it stands; `None` before its keyframe.
    cursor: Option<u64>,
    pub(super) sent_bytes: u64,
    /// Sends that its sockets did not take.
    pub(super) lost: u32,
    /// Times that it was moved to a keyframe because it was too far behind.
    pub(super) jumps: u32,
    /// Its way takes no datagrams that the kernel cut.
    refuses_gso: bool,
    /// When the next piece may go, of one who is behind.
    piece_due: Option<Instant>,
}

/// The players over UDP.
#[derive(Default)]
pub(super) struct DatagramCrowd {
    pub(super) players: Vec<DatagramPlayer>,
}

/// Where datagrams go out, and what counts them.
pub(super) struct Outlet<'a> {
    pub(super) now: Instant,
    pub(super) gso: bool,
    /// Bytes of the log that a player may be behind before it goes on at a keyframe.
    pub(super) lag_bytes_max: u64,
    pub(super) wire: &'a mut dyn Wire,
    pub(super) lists: &'a mut Lists,
    pub(super) scratch: &'a mut DatagramScratch,
    pub(super) totals: &'a mut CrowdTotals,
    pub(super) events: &'a mut CrowdEvents,
}

/// Memory that flushes use again and again.
#[derive(Default)]
pub(super) struct DatagramScratch {
    parts: Vec<Part>,
    runs: Runs,
}

/// What a player is to get, in the order of what is got together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    from: u64,
    end: u64,
    gso: bool,
    /// The player's, in its crowd.
    place: usize,
}

/// The runs of a range of packets, in the order of each channel.
#[derive(Default)]
struct Runs {
    /// Those in use, and behind them others' memory.
    all: Vec<Run>,
    count: usize,
}

/// Equally long packets of one channel, in order.
#[derive(Default)]
struct Run {
    channel: u8,
    segment_len: u32,
    len: u32,
    /// The entries of the log, by sequence number.
    seqs: Vec<u64>,
    /// A shorter packet ends it.
    is_over: bool,
}

impl DatagramPlayer {
    pub(super) fn new(id: ConnectionId, tracks: &[UdpTrack]) -> Self {
        let channels = tracks.iter().map(|track| 2 * usize::from(track.track) + 2).max();
        let mut sockets = vec![None; channels.unwrap_or(0)];
        for &UdpTrack { track, rtp, rtcp } in tracks {
            sockets[2 * usize::from(track)] = Some(rtp);
            sockets[2 * usize::from(track) + 1] = Some(rtcp);
        }
        Self {
            id,
            sockets,
            cursor: None,
            sent_bytes: 0,
            lost: 0,
            jumps: 0,
            refuses_gso: false,
            piece_due: None,
        }
    }

    /// Where it stands in the log, where it is behind.
    fn behind(&self, log: &Log) -> Option<u64> {
        self.cursor.filter(|&seq| seq < log.flushed_seq())
    }

    pub(super) fn lag_bytes(&self, log: &Log) -> u64 {
        self.behind(log).map_or(0, |seq| log.position_of(log.flushed_seq()) - log.position_of(seq))
    }

    fn socket(&self, channel: u8) -> Option<Socket> {
        self.sockets.get(usize::from(channel)).copied().flatten()
    }
}

impl DatagramCrowd {
    /// Adds a player. Its media goes out with the next flush, or with that of a keyframe, and the reports
    /// that tell where tracks lie before its media.
    pub(super) fn join(&mut self, mut player: DatagramPlayer, log: &Log, outlet: &mut Outlet<'_>) {
        if !log.awaits_keyframe() {
            player.cursor = Some(log.start_seq());
            outlet.report(log, &player);
        }
        self.players.push(player);
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<DatagramPlayer> {
        let index = self.players.iter().position(|player| player.id == id)?;
        Some(self.players.swap_remove(index))
    }

    /// The sequence number that the log must keep for those who are behind.
    pub(super) fn slowest_seq(&self) -> Option<u64> {
        self.players.iter().filter_map(|player| player.cursor).min()
    }

    /// Goes over to another view of the same stream. Who stands outside of it goes on at a keyframe.
    pub(super) fn relocate(&mut self, new: &Log) {
        let held = new.first_seq()..=new.flushed_seq();
        for player in &mut self.players {
            player.cursor = player.cursor.filter(|seq| held.contains(seq));
        }
    }

    /// Whether somebody is to get more soon, without a flush.
    pub(super) fn is_behind(&self, log: &Log) -> bool {
        self.players.iter().any(|player| player.behind(log).is_some())
    }

    /// Sends `staged`, which was flushed last, to all who have everything before it, and more to the
    /// others.
    pub(super) fn flush(&mut self, log: &Log, staged: Range<u64>, outlet: &mut Outlet<'_>) {
        let mut parts = std::mem::take(&mut outlet.scratch.parts);
        for (place, player) in self.players.iter_mut().enumerate() {
            let is_waiting = player.cursor.is_none();
            if let Some(seqs) = player.next_part(log, &staged, outlet) {
                if is_waiting {
                    outlet.report(log, player);
                }
                let Range { start: from, end } = seqs;
                parts.push(Part { from, end, gso: outlet.gso && !player.refuses_gso, place });
            }
        }
        parts.sort_unstable();
        for same in parts.chunk_by(Part::is_shared) {
            outlet.give(log, same, &mut self.players);
        }
        parts.clear();
        outlet.scratch.parts = parts;
    }
}

impl DatagramPlayer {
    /// What it is to get with this flush.
    fn next_part(
        &mut self,
        log: &Log,
        staged: &Range<u64>,
        outlet: &mut Outlet<'_>,
    ) -> Option<Range<u64>> {
        if self.holds_up(log, outlet.lag_bytes_max) {
            self.cursor = None;
            self.jumps += 1;
            outlet.totals.jumps += 1;
            if self.jumps.is_power_of_two() {
                outlet.events.jumped.push((self.id, self.jumps));
            }
        }
        let end = log.flushed_seq();
        match self.cursor {
            None => {
                // It gets a keyframe with this flush, as all others do.
                self.cursor = log.resume_from(staged.start);
                return self.cursor.map(|from| from..end).filter(|seqs| !seqs.is_empty());
            }
            Some(seq) if seq < log.first_seq() => self.cursor = log.resume_from(seq),
            Some(_) => {}
        }
        let from = self.behind(log)?;
        if from == staged.start {
            return Some(from..end);
        }
        if self.piece_due.is_some_and(|due| due > outlet.now) {
            return None;
        }
        self.piece_due = Some(outlet.now + CATCH_UP_INTERVAL);
        Some(from..piece_end(log, from))
    }

    /// Whether the log is kept longer for it than for players to come, and longer than it may be.
    fn holds_up(&self, log: &Log, lag_bytes_max: u64) -> bool {
        self.cursor.is_some_and(|seq| seq < log.start_seq()) && self.lag_bytes(log) > lag_bytes_max
    }
}

impl Outlet<'_> {
    /// Gives a player the latest report of each track from before where players start. One that is lost is
    /// followed by another one.
    fn report(&mut self, log: &Log, player: &DatagramPlayer) {
        let prelude = log.prelude_at_start().clone();
        let mut batch = Batch::new(std::mem::take(self.lists));
        for (channel, report) in &prelude.reports {
            if let Some(socket) = player.socket(*channel) {
                let packet = &report[INTERLEAVED_HEADER_LEN..];
                let span = batch.add_span(|slices| slices.push(IoSlice::new(packet)));
                batch.sends.push(Send { socket, span, ticket: 0 });
            }
        }
        self.wire.send(&batch, &mut Vec::new());
        *self.lists = batch.into_lists();
    }

    /// Gives the same packets to players, who stand behind them then.
    fn give(&mut self, log: &Log, parts: &[Part], players: &mut [DatagramPlayer]) {
        let Some(&Part { from, end, gso, .. }) = parts.first() else { return };
        let mut batch = Batch::new(std::mem::take(self.lists));
        let mut memory = std::mem::take(&mut self.scratch.runs);
        let runs = memory.fill(log, from..end, gso);
        for (index, run) in (0_u64..).zip(runs) {
            let packets = run.seqs.iter().filter_map(|&seq| log.entry(seq));
            let slices = packets.flat_map(|entry| log.slices(entry.packet()));
            let segment_len = if run.seqs.len() > 1 { run.segment_len } else { 0 };
            let span = batch.add_datagrams(segment_len, |out| out.extend(slices));
            for part in parts {
                let player = &mut players[part.place];
                if let Some(socket) = player.socket(run.channel) {
                    let ticket = index << TICKET_RUN_SHIFT | part.place as u64;
                    batch.sends.push(Send { socket, span, ticket });
                    player.sent_bytes += u64::from(run.len);
                    self.totals.sent_bytes += u64::from(run.len);
                }
            }
        }
        self.totals.sends += batch.sends.len() as u64;
        let mut shortfalls: Vec<Shortfall> = Vec::new();
        if !batch.sends.is_empty() {
            self.wire.send(&batch, &mut shortfalls);
        }
        *self.lists = batch.into_lists();
        let mut refused = Vec::new();
        for Shortfall { ticket, errno, .. } in shortfalls {
            let (run, place) = of_ticket(runs, ticket);
            let player = &mut players[place];
            // Longer than its way takes, or nobody on it makes checksums. Without the cut the kernel
            // fragments.
            let is_refusal = matches!(errno, Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO));
            if is_refusal && run.seqs.len() > 1 {
                player.refuses_gso = true;
                refused.push(ticket);
            } else {
                self.totals.lose(player, run.len);
            }
        }
        if !refused.is_empty() {
            refused.sort_unstable();
            self.give_singly(log, runs, &refused, players);
        }
        for part in parts {
            players[part.place].cursor = Some(end);
        }
        self.scratch.runs = memory;
    }

    /// Gives the packets of runs one by one to players who were refused them as a whole.
    fn give_singly(
        &mut self,
        log: &Log,
        runs: &[Run],
        refused: &[u64],
        players: &mut [DatagramPlayer],
    ) {
        let mut batch = Batch::new(std::mem::take(self.lists));
        let mut given = Vec::new();
        for &ticket in refused {
            let (run, place) = of_ticket(runs, ticket);
            let Some(socket) = players[place].socket(run.channel) else { continue };
            for entry in run.seqs.iter().filter_map(|&seq| log.entry(seq)) {
                let span = batch.add_span(|out| out.extend(log.slices(entry.packet())));
                batch.sends.push(Send { socket, span, ticket: given.len() as u64 });
                given.push((place, entry.len - INTERLEAVED_HEADER_LEN as u32));
            }
        }
        self.totals.sends += batch.sends.len() as u64;
        let mut shortfalls: Vec<Shortfall> = Vec::new();
        self.wire.send(&batch, &mut shortfalls);
        *self.lists = batch.into_lists();
        for shortfall in shortfalls {
            let (place, len) = given[shortfall.ticket as usize];
            self.totals.lose(&mut players[place], len);
        }
    }
}

impl CrowdTotals {
    /// Datagrams of so many bytes were not taken.
    fn lose(&mut self, player: &mut DatagramPlayer, len: u32) {
        player.lost += 1;
        player.sent_bytes -= u64::from(len);
        self.sent_bytes -= u64::from(len);
        self.datagrams_lost += 1;
    }
}

fn of_ticket(runs: &[Run], ticket: u64) -> (&Run, usize) {
    (&runs[(ticket >> TICKET_RUN_SHIFT) as usize], (ticket & TICKET_PLACE_MASK) as usize)
}

impl Part {
    fn is_shared(&self, other: &Self) -> bool {
        (self.from, self.end, self.gso) == (other.from, other.end, other.gso)
    }
}

/// A ticket is the place of a run in the batch, then of a player.
const TICKET_RUN_SHIFT: u32 = 32;
const TICKET_PLACE_MASK: u64 = (1 << TICKET_RUN_SHIFT) - 1;

/// Between two pieces of what one who is behind gets: 49 Mbit/s with [`CATCH_UP_LEN`].
pub(crate) const CATCH_UP_INTERVAL: Duration = Duration::from_millis(4);

/// The end of what one who is behind gets at once.
fn piece_end(log: &Log, from: u64) -> u64 {
    let mut len = 0;
    let mut end = from;
    for entry in log.range(from..log.flushed_seq()) {
        len += u64::from(entry.len);
        end += 1;
        if len >= CATCH_UP_LEN {
            break;
        }
    }
    end
}

impl Runs {
    /// The runs of these packets, of one each where they are not to be cut by the kernel.
    fn fill(&mut self, log: &Log, seqs: Range<u64>, gso: bool) -> &[Run] {
        self.all.truncate(DATAGRAM_RUNS_KEPT_MAX);
        self.count = 0;
        for (seq, entry) in (seqs.start..).zip(log.range(seqs)) {
            let len = entry.len - INTERLEAVED_HEADER_LEN as u32;
            let mut open = self.all[..self.count].iter_mut().rev();
            let open = open.find(|run| run.channel == entry.channel);
            match open.filter(|run| gso && run.takes(len)) {
                Some(run) => run.add(seq, len),
                None => self.begin(entry.channel, seq, len),
            }
        }
        &self.all[..self.count]
    }

    fn begin(&mut self, channel: u8, seq: u64, len: u32) {
        if self.count == self.all.len() {
            self.all.push(Run::default());
        }
        let run = &mut self.all[self.count];
        self.count += 1;
        run.seqs.clear();
        *run = Run {
            channel,
            segment_len: len,
            seqs: std::mem::take(&mut run.seqs),
            ..Run::default()
        };
        run.add(seq, len);
    }
}

impl Run {
    fn takes(&self, len: u32) -> bool {
        !self.is_over
            && len <= self.segment_len
            && self.seqs.len() < DATAGRAMS_PER_SEND_MAX
            && self.len + len <= DATAGRAMS_LEN_MAX
    }

    fn add(&mut self, seq: u64, len: u32) {
        self.seqs.push(seq);
        self.len += len;
        self.is_over = len < self.segment_len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::testing::{FakeWire, id};
    use crate::media::TagKind;
    use crate::stream::log::testing::push;

    /// Keyframe, its rest in packets of 100 and 40 bytes, audio between them.
    fn log() -> Log {
        let mut log = Log::default();
        for (channel, len, keyframe) in
            [(0, 100, true), (0, 100, false), (2, 30, false), (0, 40, false), (0, 100, false)]
        {
            let kind = if channel == 0 { TagKind::Video } else { TagKind::Audio };
            push(&mut log, channel, kind, keyframe, len);
        }
        log.flush();
        log
    }

    fn lens(runs: &[Run]) -> Vec<(u8, u32, usize)> {
        runs.iter().map(|run| (run.channel, run.len, run.seqs.len())).collect()
    }

    #[test]
    fn equal_packets_and_a_shorter_one_are_a_run() {
        let (log, mut runs) = (log(), Runs::default());
        let expected = [(0, 240, 3), (2, 30, 1), (0, 100, 1)];
        assert_eq!(lens(runs.fill(&log, 0..5, true)), expected);
        assert_eq!(runs.fill(&log, 0..5, false).len(), 5);
        // In memory that was used before.
        assert_eq!(lens(runs.fill(&log, 0..5, true)), expected);
    }

    #[test]
    fn runs_are_no_longer_than_one_send() {
        let (mut log, mut runs) = (Log::default(), Runs::default());
        for _ in 0..200 {
            push(&mut log, 0, TagKind::Video, false, 1400);
        }
        let runs = runs.fill(&log, 0..200, true);
        let most = DATAGRAMS_LEN_MAX / 1400;
        assert!(
            runs.iter().all(|run| run.seqs.len() <= most as usize && run.len <= DATAGRAMS_LEN_MAX)
        );
        assert_eq!(runs.iter().map(|run| run.seqs.len()).sum::<usize>(), 200);
    }

    #[derive(Default)]
    struct Scene {
        log: Log,
        crowd: DatagramCrowd,
        wire: FakeWire,
        lists: Lists,
        scratch: DatagramScratch,
        totals: CrowdTotals,
        events: CrowdEvents,
        passed: Duration,
    }

    impl Scene {
        fn of(log: Log) -> Self {
            Self { log, ..Self::default() }
        }

        /// A keyframe of 1,000 bytes and 99 packets of as many.
        fn with_gop() -> Self {
            let mut scene = Self::default();
            scene.packets(true, 1);
            scene.packets(false, 99);
            scene.log.flush();
            scene
        }

        fn packets(&mut self, keyframe: bool, count: usize) {
            for _ in 0..count {
                push(&mut self.log, 0, TagKind::Video, keyframe, 1000);
            }
        }

        fn act(
            &mut self,
            start: Instant,
            act: impl FnOnce(&mut DatagramCrowd, &Log, &mut Outlet<'_>),
        ) {
            let mut outlet = Outlet {
                now: start + self.passed,
                gso: true,
                lag_bytes_max: LAG_BYTES_MAX,
                wire: &mut self.wire,
                lists: &mut self.lists,
                scratch: &mut self.scratch,
                totals: &mut self.totals,
                events: &mut self.events,
            };
            act(&mut self.crowd, &self.log, &mut outlet);
        }

        fn join(&mut self, start: Instant, fd: i32) {
            let track = UdpTrack { track: 0, rtp: Socket(fd), rtcp: Socket(fd + 100) };
            let player = DatagramPlayer::new(id(fd), &[track]);
            self.act(start, |crowd, log, outlet| crowd.join(player, log, outlet));
        }

        /// Flushes what has come, and 4 ms go by.
        fn flush(&mut self, start: Instant) {
            let staged = self.log.flushed_seq()..self.log.next_seq();
            self.log.flush();
            self.act(start, |crowd, log, outlet| crowd.flush(log, staged, outlet));
            self.passed += CATCH_UP_INTERVAL;
        }

        fn player(&self, fd: i32) -> &DatagramPlayer {
            self.crowd.players.iter().find(|player| player.id == id(fd)).expect("it plays")
        }
    }

    const LAG_BYTES_MAX: u64 = 200_000;
    /// Whole packets of 1,000 bytes that go at once.
    const PIECE: usize = (CATCH_UP_LEN as usize).div_ceil(1004);

    #[test]
    fn a_player_gets_its_tracks_from_the_keyframe_on() {
        let (mut scene, start) = (Scene::of(log()), crate::clock::now());
        scene.join(start, 10);
        scene.passed += CATCH_UP_INTERVAL;
        scene.flush(start);
        push(&mut scene.log, 0, TagKind::Video, false, 100);
        scene.flush(start);
        assert_eq!(scene.wire.got[&10].len(), 440);
        assert_eq!(scene.wire.got.len(), 1, "no audio");
        assert_eq!(scene.crowd.remove(id(10)).expect("it was there").sent_bytes, 440);
    }

    /// A report lies before the packets of its keyframe, which are where the player begins.
    #[test]
    fn who_waits_for_a_keyframe_gets_the_reports_before_it() {
        let (mut scene, start) = (Scene::default(), crate::clock::now());
        scene.packets(false, 1);
        scene.flush(start);
        scene.join(start, 10);
        push(&mut scene.log, 1, TagKind::Script, false, 28);
        scene.flush(start);
        assert!(scene.wire.got.is_empty(), "it waits");
        scene.packets(true, 1);
        scene.flush(start);
        scene.packets(false, 1);
        scene.flush(start);
        let lens = [10, 110].map(|socket| scene.wire.got[&socket].len());
        assert_eq!(lens, [2000, 28]);
    }

    #[test]
    fn who_is_refused_a_run_gets_its_packets_one_by_one() {
        let (mut scene, start) = (Scene::of(log()), crate::clock::now());
        scene.wire.uncut.push(10);
        scene.join(start, 10);
        scene.join(start, 20);
        scene.flush(start);
        assert!(scene.player(10).refuses_gso && !scene.player(20).refuses_gso);
        let mut players = scene.crowd.players.iter();
        assert!(players.all(|player| player.sent_bytes == 340 && player.lost == 0));
        assert_eq!((scene.wire.got[&10].len(), scene.wire.got[&20].len()), (340, 340));
        assert_eq!((scene.totals.sent_bytes, scene.totals.datagrams_lost), (680, 0));
    }

    #[test]
    fn who_joins_late_gets_it_in_pieces_and_a_full_socket_loses() {
        let (mut scene, start) = (Scene::with_gop(), crate::clock::now());
        scene.wire.room.insert(10, 30_000);
        scene.join(start, 10);
        let mut flushes = 0;
        while scene.crowd.is_behind(&scene.log) {
            scene.flush(start);
            flushes += 1;
        }
        assert_eq!(flushes, 100_usize.div_ceil(PIECE));
        assert!(scene.totals.datagrams_lost > 0);
    }

    #[test]
    fn who_has_caught_up_gets_what_is_flushed_at_once() {
        let (mut scene, start) = (Scene::with_gop(), crate::clock::now());
        scene.join(start, 10);
        while scene.crowd.is_behind(&scene.log) {
            scene.flush(start);
        }
        scene.passed -= CATCH_UP_INTERVAL;
        scene.packets(false, 40);
        scene.flush(start);
        assert_eq!(scene.wire.got[&10].len(), 140_000);
    }

    #[test]
    fn who_stands_at_the_same_place_shares_a_submission() {
        let (mut scene, start) = (Scene::with_gop(), crate::clock::now());
        scene.join(start, 10);
        scene.join(start, 11);
        scene.flush(start);
        scene.join(start, 12);
        scene.wire.submissions.clear();
        scene.flush(start);
        // A run each of the first two, and one of the third.
        assert_eq!(scene.wire.submissions, [1, 2]);
        while scene.crowd.is_behind(&scene.log) {
            scene.flush(start);
        }
        let got = &scene.wire.got;
        assert_eq!(got[&10].len(), 100_000);
        assert!(got[&10] == got[&11] && got[&10] == got[&12]);
    }

    #[test]
    fn who_never_catches_up_goes_on_with_all_others_at_a_keyframe() {
        let (mut scene, start) = (Scene::with_gop(), crate::clock::now());
        scene.join(start, 10);
        // 80 Mbit/s.
        for _ in 0..30 {
            scene.packets(false, 40);
            scene.flush(start);
        }
        // It holds no more than the GOP, which is held for players to come.
        assert_eq!(
            (scene.player(10).jumps, scene.crowd.slowest_seq()),
            (0, Some(30 * PIECE as u64))
        );
        scene.packets(true, 1);
        scene.packets(false, 39);
        scene.flush(start);
        assert_eq!((scene.player(10).jumps, scene.totals.jumps), (1, 1));
        assert_eq!(scene.events.jumped, [(id(10), 1)]);
        assert_eq!(scene.crowd.slowest_seq(), Some(scene.log.flushed_seq()));
        scene.packets(false, 40);
        scene.flush(start);
        assert_eq!(scene.wire.got[&10].len(), 1000 * (30 * PIECE + 80));
        // Where the GOP was given up it waits for the next keyframe.
        scene.log.trim(scene.crowd.slowest_seq(), 0);
        scene.join(start, 11);
        assert_eq!(scene.player(11).cursor, None);
    }

    #[test]
    fn a_gop_that_is_given_up_is_not_held_for_one_player() {
        let (mut scene, start) = (Scene::with_gop(), crate::clock::now());
        scene.join(start, 10);
        scene.packets(false, 300);
        scene.log.flush();
        let slowest = scene.crowd.slowest_seq();
        scene.log.trim(slowest, 100_000);
        assert_eq!(scene.log.first_seq(), 0);
        scene.flush(start);
        assert_eq!((scene.crowd.slowest_seq(), scene.player(10).jumps), (None, 1));
        scene.packets(true, 1);
        scene.packets(false, 1);
        scene.flush(start);
        assert_eq!(scene.wire.got[&10].len(), 2000);
    }
}
