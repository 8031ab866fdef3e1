//! Players of one stream that get its packets over UDP.
//!
//! Packets of a channel that are equally long, and a shorter one behind them, are one *run*: one
//! submission to a player, which the kernel cuts into datagrams (UDP GSO). Runs are made once for all
//! players. A socket that is full loses what it does not take, as UDP does; so nobody is ever blocked.
//!
//! Who joins gets what there is since the keyframe a piece at a time, because more at once would not
//! fit into a receiver's socket buffer.

use std::io::IoSlice;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::crowd::CrowdTotals;
use super::flush::{Batch, Lists, Send, Shortfall, Socket, Wire};
use super::player::UdpTrack;
use crate::limits::{CATCH_UP_LEN, DATAGRAMS_LEN_MAX, DATAGRAMS_PER_SEND_MAX};
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
    pub(super) wire: &'a mut dyn Wire,
    pub(super) lists: &'a mut Lists,
    pub(super) totals: &'a mut CrowdTotals,
}

/// Equally long packets of one channel, in order.
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
    /// Adds a player; its reports go out at once, its media with the next flush.
    pub(super) fn join(&mut self, mut player: DatagramPlayer, log: &Log, outlet: &mut Outlet<'_>) {
        if !log.awaits_keyframe() {
            player.cursor = Some(log.start_seq());
        }
        let prelude = log.prelude_at_start().clone();
        let mut batch = Batch::new(std::mem::take(outlet.lists));
        for (channel, report) in &prelude.reports {
            if let Some(socket) = player.socket(*channel) {
                let packet = &report[INTERLEAVED_HEADER_LEN..];
                let span = batch.add_span(|slices| slices.push(IoSlice::new(packet)));
                batch.sends.push(Send { socket, span, ticket: 0 });
            }
        }
        // A report that is lost is followed by another one.
        outlet.wire.send(&batch, &mut Vec::new());
        *outlet.lists = batch.into_lists();
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
        if !staged.is_empty() {
            let players = self.players.iter_mut();
            let caught_up = players.filter(|player| player.cursor == Some(staged.start));
            let (plain, cut): (Vec<_>, Vec<_>) = caught_up.partition(|player| player.refuses_gso);
            outlet.give(log, staged.clone(), cut, outlet.gso);
            outlet.give(log, staged.clone(), plain, false);
        }
        for player in &mut self.players {
            match player.cursor {
                None => player.cursor = log.resume_from(staged.start),
                Some(seq) if seq < log.first_seq() => player.cursor = log.resume_from(seq),
                Some(_) => {}
            }
            let is_due = player.piece_due.is_none_or(|due| due <= outlet.now);
            if let Some(from) = player.behind(log).filter(|_| is_due) {
                player.piece_due = Some(outlet.now + CATCH_UP_INTERVAL);
                let gso = outlet.gso && !player.refuses_gso;
                outlet.give(log, from..piece_end(log, from), vec![player], gso);
            }
        }
    }
}

impl Outlet<'_> {
    /// Gives packets to players, who stand behind them then.
    fn give(
        &mut self,
        log: &Log,
        seqs: Range<u64>,
        mut players: Vec<&mut DatagramPlayer>,
        gso: bool,
    ) {
        if players.is_empty() {
            return;
        }
        let end = seqs.end;
        let mut batch = Batch::new(std::mem::take(self.lists));
        let runs = runs_of(log, seqs, gso);
        for (index, run) in (0_u64..).zip(&runs) {
            let packets = run.seqs.iter().filter_map(|&seq| log.entry(seq));
            let slices = packets.flat_map(|entry| log.slices(entry.packet()));
            let segment_len = if run.seqs.len() > 1 { run.segment_len } else { 0 };
            let span = batch.add_datagrams(segment_len, |out| out.extend(slices));
            for (place, player) in (0_u64..).zip(&mut players) {
                if let Some(socket) = player.socket(run.channel) {
                    let ticket = index << TICKET_RUN_SHIFT | place;
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
            let (run, place) = of_ticket(&runs, ticket);
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
            self.give_singly(log, &runs, &refused, &mut players);
        }
        for player in players {
            player.cursor = Some(end);
        }
    }

    /// Gives the packets of runs one by one to players who were refused them as a whole.
    fn give_singly(
        &mut self,
        log: &Log,
        runs: &[Run],
        refused: &[u64],
        players: &mut [&mut DatagramPlayer],
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
            self.totals.lose(players[place], len);
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

/// The runs of a range of packets, in the order of each channel.
fn runs_of(log: &Log, seqs: Range<u64>, gso: bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (seq, entry) in (seqs.start..).zip(log.range(seqs)) {
        let len = entry.len - INTERLEAVED_HEADER_LEN as u32;
        let open = runs.iter_mut().rev().find(|run| run.channel == entry.channel);
        match open.filter(|run| gso && run.takes(len)) {
            Some(run) => {
                run.seqs.push(seq);
                run.len += len;
                run.is_over = len < run.segment_len;
            }
            None => runs.push(Run {
                channel: entry.channel,
                segment_len: len,
                len,
                seqs: vec![seq],
                is_over: false,
            }),
        }
    }
    runs
}

impl Run {
    fn takes(&self, len: u32) -> bool {
        !self.is_over
            && len <= self.segment_len
            && self.seqs.len() < DATAGRAMS_PER_SEND_MAX
            && self.len + len <= DATAGRAMS_LEN_MAX
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
        let log = log();
        assert_eq!(lens(&runs_of(&log, 0..5, true)), [(0, 240, 3), (2, 30, 1), (0, 100, 1)]);
        assert_eq!(runs_of(&log, 0..5, false).len(), 5);
    }

    #[test]
    fn runs_are_no_longer_than_one_send() {
        let mut log = Log::default();
        for _ in 0..200 {
            push(&mut log, 0, TagKind::Video, false, 1400);
        }
        let runs = runs_of(&log, 0..200, true);
        let most = DATAGRAMS_LEN_MAX / 1400;
        assert!(
            runs.iter().all(|run| run.seqs.len() <= most as usize && run.len <= DATAGRAMS_LEN_MAX)
        );
        assert_eq!(runs.iter().map(|run| run.seqs.len()).sum::<usize>(), 200);
    }

    #[test]
    fn a_player_gets_its_tracks_from_the_keyframe_on() {
        let (mut log, mut wire, mut lists) = (log(), FakeWire::default(), Lists::default());
        let mut totals = CrowdTotals::default();
        let mut crowd = DatagramCrowd::default();
        let track = UdpTrack { track: 0, rtp: Socket(10), rtcp: Socket(11) };
        let player = DatagramPlayer::new(id(1), &[track]);
        let mut outlet = Outlet {
            now: crate::clock::now(),
            gso: true,
            wire: &mut wire,
            lists: &mut lists,
            totals: &mut totals,
        };
        crowd.join(player, &log, &mut outlet);
        crowd.flush(&log, 5..5, &mut outlet);
        push(&mut log, 0, TagKind::Video, false, 100);
        log.flush();
        crowd.flush(&log, 5..6, &mut outlet);
        assert_eq!(wire.got[&10].len(), 440);
        assert_eq!(wire.got.len(), 1, "no audio");
        assert_eq!(crowd.remove(id(1)).expect("it was there").sent_bytes, 440);
    }

    #[test]
    fn who_is_refused_a_run_gets_its_packets_one_by_one() {
        let (log, mut wire, mut lists) = (log(), FakeWire::default(), Lists::default());
        wire.uncut.push(10);
        let mut totals = CrowdTotals::default();
        let mut crowd = DatagramCrowd::default();
        let mut outlet = Outlet {
            now: crate::clock::now(),
            gso: true,
            wire: &mut wire,
            lists: &mut lists,
            totals: &mut totals,
        };
        for fd in [10, 20] {
            let track = UdpTrack { track: 0, rtp: Socket(fd), rtcp: Socket(fd + 1) };
            crowd.join(DatagramPlayer::new(id(fd), &[track]), &log, &mut outlet);
        }
        crowd.flush(&log, 5..5, &mut outlet);
        let refuses: Vec<bool> = crowd.players.iter().map(|player| player.refuses_gso).collect();
        assert_eq!(refuses, [true, false]);
        assert!(crowd.players.iter().all(|player| player.sent_bytes == 340 && player.lost == 0));
        assert_eq!((wire.got[&10].len(), wire.got[&20].len()), (340, 340));
        assert_eq!((totals.sent_bytes, totals.datagrams_lost), (680, 0));
    }

    #[test]
    fn who_joins_late_gets_it_in_pieces_and_a_full_socket_loses() {
        let mut log = Log::default();
        push(&mut log, 0, TagKind::Video, true, 1000);
        for _ in 0..99 {
            push(&mut log, 0, TagKind::Video, false, 1000);
        }
        log.flush();
        let (mut wire, mut lists) = (FakeWire::default(), Lists::default());
        let mut totals = CrowdTotals::default();
        let mut crowd = DatagramCrowd::default();
        let track = UdpTrack { track: 0, rtp: Socket(10), rtcp: Socket(11) };
        wire.room.insert(10, 30_000);
        let mut outlet = Outlet {
            now: crate::clock::now(),
            gso: true,
            wire: &mut wire,
            lists: &mut lists,
            totals: &mut totals,
        };
        crowd.join(DatagramPlayer::new(id(1), &[track]), &log, &mut outlet);
        let mut flushes = 0;
        while crowd.is_behind(&log) || flushes == 0 {
            crowd.flush(&log, 100..100, &mut outlet);
            outlet.now += CATCH_UP_INTERVAL;
            flushes += 1;
        }
        assert_eq!(flushes, 100_400_u64.div_ceil(25 * 1004), "25 packets at once");
        assert!(totals.datagrams_lost > 0);
    }
}
