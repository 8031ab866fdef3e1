//! The players of one stream on one shard.
//!
//! A flush gives every caught-up player the same span of the log, encoded once for each packaging.
//! Per player and flush the work is one entry in a batch: no allocation, no hashing, no reference
//! count.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::flush::{Batch, Send, Shortfall, Wire};
use super::player::{Next, Player, PlayerStart, PlayerState};
use crate::media::ConnectionId;
use crate::stream::{Cursor, Log, Packaging, Span, packaging};

/// Bounds for slow players.
#[derive(Debug, Clone, Copy)]
pub struct CrowdLimits {
    /// Bytes of the log that a player may be behind before it jumps to the newest keyframe.
    pub lag_bytes_max: u64,
    /// Time without progress, or of jumping without catching up, before a player is evicted.
    pub lag_evict: Duration,
}

/// What happened to players since the shard started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrowdTotals {
    pub sent_bytes: u64,
    pub sends: u64,
    pub jumps: u64,
}

/// What a flush or a writable socket led to, for the shard to act on.
#[derive(Default)]
pub struct CrowdEvents {
    /// Sockets that are full: tell when they can be written again.
    pub blocked: Vec<ConnectionId>,
    /// Sockets that failed.
    pub broken: Vec<ConnectionId>,
    /// Players over the eviction bound.
    pub evicted: Vec<ConnectionId>,
}

/// The players of one stream on one shard.
#[derive(Default)]
pub struct Crowd {
    players: Vec<Player>,
    index_of: HashMap<ConnectionId, usize>,
    /// Caught-up players have everything before this.
    sent_seq: u64,
    totals: CrowdTotals,
}

/// Memory that flushes use again and again.
#[derive(Default)]
pub struct Scratch {
    spans: [Span; 3],
    shortfalls: Vec<Shortfall>,
}

/// What a crowd works with in one turn of its shard.
pub struct Turn<'a> {
    pub log: &'a Log,
    pub now: Instant,
    pub limits: &'a CrowdLimits,
    pub wire: &'a mut dyn Wire,
    pub scratch: &'a mut Scratch,
    pub events: &'a mut CrowdEvents,
}

/// Sends to one player in one go, so that a fast player with a long way to go does not hold up the
/// tick; the rest follows when its socket is polled.
const SENDS_PER_TURN_MAX: usize = 16;

impl Crowd {
    /// Begins to read a log, as it stands.
    pub fn follow(&mut self, log: &Log) {
        self.sent_seq = log.flushed_seq();
    }

    /// Goes over to another view of the same stream, where the old one lacks something. Who stands
    /// within the new one goes on; the others finish the tag that is half sent and jump to the next
    /// keyframe.
    pub fn relocate(&mut self, old: &Log, new: &Log) {
        let held = new.first_seq()..=new.flushed_seq();
        for player in &mut self.players {
            if player.state != PlayerState::AwaitingKeyframe {
                if held.contains(&player.cursor.seq) {
                    player.state = PlayerState::Blocked;
                    continue;
                }
                player.jumps += 1;
                self.totals.jumps += 1;
                player.leave_log(old);
            }
            if let Some(seq) = new.resume_from(player.cursor.seq) {
                place(player, new, seq);
                player.state = PlayerState::Blocked;
            }
        }
        self.sent_seq = new.flushed_seq();
    }

    /// Adds a player at the log's start point and returns its index, which is good until a removal.
    pub fn join(&mut self, log: &Log, start: PlayerStart, now: Instant) -> usize {
        let mut player = Player::new(start, now);
        if !log.awaits_keyframe() {
            place(&mut player, log, log.start_seq());
        }
        self.index_of.insert(player.id, self.players.len());
        self.players.push(player);
        self.players.len() - 1
    }

    /// Sends what was flushed to all who have everything before it, and lets the others catch up.
    pub fn flush(&mut self, turn: &mut Turn<'_>) {
        let log = turn.log;
        let from = self.sent_seq;
        self.sent_seq = log.flushed_seq();
        self.flush_caught_up(from, turn);
        for index in 0..self.players.len() {
            match self.players[index].state {
                PlayerState::CaughtUp => {}
                PlayerState::AwaitingKeyframe => {
                    if let Some(seq) = log.resume_from(from) {
                        place(&mut self.players[index], log, seq);
                        self.advance(index, turn);
                    }
                }
                PlayerState::Blocked if self.players[index].polling => self.restrain(index, turn),
                PlayerState::Blocked => self.advance(index, turn),
            }
        }
    }

    /// Evicts players that make no progress while nothing is flushed.
    pub fn check_slow(&mut self, turn: &mut Turn<'_>) {
        for index in 0..self.players.len() {
            if self.players[index].polling {
                self.restrain(index, turn);
            }
        }
    }

    /// A blocked player's socket takes bytes again.
    pub fn writable(&mut self, id: ConnectionId, turn: &mut Turn<'_>) {
        if let Some(&index) = self.index_of.get(&id) {
            self.players[index].polling = false;
            self.advance(index, turn);
        }
    }

    /// Puts protocol bytes between a player's tags and sends what its socket takes.
    pub fn insert(&mut self, id: ConnectionId, bytes: Bytes, turn: &mut Turn<'_>) {
        if let Some(&index) = self.index_of.get(&id) {
            if !self.players[index].insert(bytes) {
                turn.events.evicted.push(id);
                return;
            }
            if !self.players[index].polling {
                self.advance(index, turn);
            }
        }
    }

    /// Lets one player have as much as its socket takes now.
    pub fn advance(&mut self, index: usize, turn: &mut Turn<'_>) {
        let log = turn.log;
        for _ in 0..SENDS_PER_TURN_MAX {
            let player = &mut self.players[index];
            let next = player.encode_next(log, &mut turn.scratch.spans[0]);
            if matches!(next, Next::Nothing) {
                if player.state != PlayerState::AwaitingKeyframe {
                    player.state = PlayerState::CaughtUp;
                    player.jumped_since = None;
                }
                return;
            }
            let mut batch = Batch::default();
            let mut len = 0;
            let span = batch.add_span(|slices| {
                len = player.next_slices(&next, log, &turn.scratch.spans[0], slices);
            });
            batch.sends.push(Send { socket: player.socket, span, ticket: 0 });
            turn.scratch.shortfalls.clear();
            turn.wire.send(&batch, &mut turn.scratch.shortfalls);
            self.totals.sends += 1;
            let shortfall = turn.scratch.shortfalls.pop();
            let sent = shortfall.map_or(len, |shortfall| shortfall.sent);
            self.totals.sent_bytes += sent;
            let player = &mut self.players[index];
            player.sent(&next, log, sent, turn.now);
            match shortfall {
                None => {}
                Some(Shortfall { errno: Some(_), .. }) => {
                    turn.events.broken.push(player.id);
                    return;
                }
                Some(_) => {
                    block(player, turn.now, turn.events);
                    return;
                }
            }
        }
        block(&mut self.players[index], turn.now, turn.events);
    }

    /// Removes a player. Returns what it has got, and whether its peer can make sense of a goodbye.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Removed> {
        let index = self.index_of.remove(&id)?;
        let player = self.players.swap_remove(index);
        if let Some(moved) = self.players.get(index) {
            self.index_of.insert(moved.id, index);
        }
        Some(Removed { between_tags: player.is_between_tags(), sent_bytes: player.sent_bytes })
    }

    /// The sequence number that the log must keep for blocked players.
    pub fn slowest_seq(&self) -> Option<u64> {
        let blocked = self.players.iter().filter(|player| player.state == PlayerState::Blocked);
        blocked.map(|player| player.cursor.seq).min()
    }

    pub fn len(&self) -> usize {
        self.players.len()
    }

    pub fn is_empty(&self) -> bool {
        self.players.is_empty()
    }

    pub fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        self.players.iter().map(|player| player.id)
    }

    /// Each player with its packaging, bytes sent, lag in bytes and jumps.
    pub fn stats(&self, log: &Log) -> impl Iterator<Item = PlayerStats> {
        self.players.iter().map(|player| PlayerStats {
            id: player.id,
            packaging: player.packaging,
            sent_bytes: player.sent_bytes,
            lag_bytes: player.lag_bytes(log),
            jumps: player.jumps,
        })
    }

    /// Takes the totals counted since the last call.
    pub fn take_totals(&mut self) -> CrowdTotals {
        std::mem::take(&mut self.totals)
    }

    fn flush_caught_up(&mut self, from: u64, turn: &mut Turn<'_>) {
        let (log, to) = (turn.log, self.sent_seq);
        if from == to {
            return;
        }
        let mut lens = [0; 3];
        let Scratch { spans, shortfalls } = &mut *turn.scratch;
        for (packaging, span) in Packaging::ALL.into_iter().zip(spans.iter_mut()) {
            let wanted = self.players.iter().any(|player| player.packaging == packaging);
            // What a packaging without players held last must not be looked up in the log again.
            let start = if wanted { from } else { to };
            span.encode(packaging, log, Cursor::at(start), to);
            // More than one send takes: everybody goes on from their own cursor.
            lens[packaging as usize] = if span.end().seq == to { span.len() } else { 0 };
        }
        let mut batch = Batch::default();
        for span in spans.iter() {
            batch.add_span(|slices| span.slices(log, slices));
        }
        let mut stragglers = Vec::new();
        for (index, player) in self.players.iter_mut().enumerate() {
            if player.state != PlayerState::CaughtUp {
                continue;
            }
            let len = lens[player.packaging as usize];
            if len == 0 || player.has_own_bytes() || player.cursor.seq != from {
                stragglers.push(index);
                continue;
            }
            let span = player.packaging as u32;
            let (socket, ticket) = (player.socket, index as u64);
            batch.sends.push(Send { socket, span, ticket });
            player.cursor = Cursor::at(to);
            player.sent_bytes += len;
            player.last_progress = turn.now;
            self.totals.sent_bytes += len;
        }
        shortfalls.clear();
        turn.wire.send(&batch, shortfalls);
        self.totals.sends += batch.sends.len() as u64;
        drop(batch);
        for shortfall in std::mem::take(shortfalls) {
            let player = &mut self.players[shortfall.ticket as usize];
            let missing = lens[player.packaging as usize] - shortfall.sent;
            player.sent_bytes -= missing;
            self.totals.sent_bytes -= missing;
            let start = Cursor::at(from);
            player.cursor = packaging::advance(player.packaging, log, start, shortfall.sent);
            if shortfall.errno.is_some() {
                turn.events.broken.push(player.id);
            } else {
                block(player, turn.now, turn.events);
            }
        }
        for index in stragglers {
            self.advance(index, turn);
        }
    }

    /// Holds a blocked player to its bounds.
    fn restrain(&mut self, index: usize, turn: &mut Turn<'_>) {
        let Turn { log, now, limits, events, .. } = turn;
        let (log, now) = (*log, *now);
        let player = &mut self.players[index];
        let stuck = now.duration_since(player.last_progress) >= limits.lag_evict;
        let jumping =
            player.jumped_since.is_some_and(|since| now.duration_since(since) >= limits.lag_evict);
        if stuck || jumping {
            events.evicted.push(player.id);
            return;
        }
        if player.lag_bytes(log) <= limits.lag_bytes_max {
            return;
        }
        player.jumps += 1;
        self.totals.jumps += 1;
        player.jumped_since.get_or_insert(now);
        player.leave_log(log);
        let Some(seq) = log.resume_from(player.cursor.seq + 1) else { return };
        let lag = log.position_of(log.flushed_seq()) - log.position_of(seq);
        if lag <= limits.lag_bytes_max {
            place(player, log, seq);
            player.state = PlayerState::Blocked;
        }
    }
}

/// What is left of a player that was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    pub between_tags: bool,
    pub sent_bytes: u64,
}

/// A player as the API shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlayerStats {
    pub id: ConnectionId,
    pub packaging: Packaging,
    pub sent_bytes: u64,
    pub lag_bytes: u64,
    pub jumps: u32,
}

/// Puts a player at a tag, with the prelude before it where it does not have it yet.
fn place(player: &mut Player, log: &Log, seq: u64) {
    let prelude =
        if seq == log.start_seq() { log.prelude_at_start() } else { log.prelude() }.clone();
    if !player.greeted || player.prelude_version != prelude.version {
        let timestamp_ms = log.timestamp_at(seq);
        let greeting = (!player.greeted).then(|| log.kinds());
        let bytes = player.packaging.encode_prelude(&prelude, timestamp_ms, greeting);
        player.insert_prelude(bytes.into());
        player.greeted = true;
        player.prelude_version = prelude.version;
    }
    player.cursor = Cursor::at(seq);
    player.state = PlayerState::CaughtUp;
}

fn block(player: &mut Player, now: Instant, events: &mut CrowdEvents) {
    if player.state == PlayerState::CaughtUp {
        player.state = PlayerState::Blocked;
    }
    if !player.polling {
        player.polling = true;
        // Before that it was owed nothing, however long ago it got something.
        player.last_progress = now;
        events.blocked.push(player.id);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::egress::flush::Socket;
    use crate::media::ShardId;
    use crate::proto::flv::FILE_HEADER;
    use crate::stream::testing::Writer;

    /// Sockets that take what there is room for; one without an entry takes everything.
    #[derive(Default)]
    struct FakeWire {
        room: BTreeMap<i32, u64>,
        broken: Vec<i32>,
        got: BTreeMap<i32, Vec<u8>>,
        submissions: Vec<usize>,
    }

    impl Wire for FakeWire {
        fn send(&mut self, batch: &Batch<'_>, shortfalls: &mut Vec<Shortfall>) {
            self.submissions.push(batch.sends.len());
            for send in &batch.sends {
                let bytes: Vec<u8> =
                    batch.span(send.span).iter().flat_map(|slice| slice.to_vec()).collect();
                let Send { socket: Socket(fd), ticket, .. } = *send;
                let room = self.room.get(&fd).copied().unwrap_or(u64::MAX);
                let sent = room.min(bytes.len() as u64);
                self.room.entry(fd).and_modify(|room| *room -= sent);
                self.got.entry(fd).or_default().extend_from_slice(&bytes[..sent as usize]);
                let errno = self.broken.contains(&fd).then_some(32);
                if sent < bytes.len() as u64 || errno.is_some() {
                    shortfalls.push(Shortfall { ticket, sent, errno });
                }
            }
        }
    }

    struct Scene {
        writer: Writer,
        crowd: Crowd,
        wire: FakeWire,
        limits: CrowdLimits,
        scratch: Scratch,
        now: Instant,
    }

    impl Scene {
        /// A stream with its configurations, a keyframe and a frame, all flushed.
        fn new() -> Self {
            let mut writer = Writer::opened();
            writer.keyframe(0, 500);
            writer.frame(40, 100);
            writer.log.flush();
            let mut crowd = Crowd::default();
            crowd.follow(&writer.log);
            Self {
                writer,
                crowd,
                wire: FakeWire::default(),
                limits: CrowdLimits { lag_bytes_max: 5000, lag_evict: Duration::from_secs(10) },
                scratch: Scratch::default(),
                now: crate::clock::now(),
            }
        }

        fn turn(&mut self, act: impl FnOnce(&mut Crowd, &mut Turn<'_>)) -> CrowdEvents {
            let mut events = CrowdEvents::default();
            let mut turn = Turn {
                log: &self.writer.log,
                now: self.now,
                limits: &self.limits,
                wire: &mut self.wire,
                scratch: &mut self.scratch,
                events: &mut events,
            };
            act(&mut self.crowd, &mut turn);
            events
        }

        fn join(&mut self, fd: i32, packaging: Packaging) -> CrowdEvents {
            let start =
                PlayerStart { id: id(fd), socket: Socket(fd), packaging, unsent: Bytes::new() };
            self.turn(|crowd, turn| {
                let index = crowd.join(turn.log, start, turn.now);
                crowd.advance(index, turn);
            })
        }

        fn flush(&mut self) -> CrowdEvents {
            self.writer.log.flush();
            self.turn(|crowd, turn| crowd.flush(turn))
        }

        fn writable(&mut self, fd: i32, room: u64) -> CrowdEvents {
            self.wire.room.insert(fd, room);
            self.turn(|crowd, turn| crowd.writable(id(fd), turn))
        }

        fn stats(&self, fd: i32) -> PlayerStats {
            self.crowd.stats(&self.writer.log).find(|of| of.id == id(fd)).expect("it plays")
        }

        fn timestamps(&self, fd: i32) -> Vec<u32> {
            flv_timestamps(&self.wire.got[&fd])
        }
    }

    fn id(fd: i32) -> ConnectionId {
        ConnectionId { serial: fd.unsigned_abs(), shard: ShardId(0) }
    }

    /// Timestamps of all tags, each of which must be whole, configurations left out.
    fn flv_timestamps(bytes: &[u8]) -> Vec<u32> {
        let mut rest = bytes.strip_prefix(&FILE_HEADER[..]).expect("the file header");
        let mut stamps = Vec::new();
        while !rest.is_empty() {
            let len = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
            let is_frame = rest[0] != 18 && rest[12] == 1;
            if is_frame {
                stamps.push(u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]]));
            }
            rest = &rest[11 + len + 4..];
        }
        stamps
    }

    #[test]
    fn who_joins_gets_configurations_and_the_gop() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        assert_eq!(scene.timestamps(1), [0, 40]);
        let got = &scene.wire.got[&1];
        let opening = scene.writer.log.range(0..3).map(|entry| entry.len as usize).sum::<usize>();
        assert_eq!(got[FILE_HEADER.len() + opening..][11..13], [0x17, 1], "then the keyframe");
    }

    #[test]
    fn who_joins_before_the_first_keyframe_starts_with_it() {
        let mut scene = Scene::new();
        scene.writer.log.forget_gop();
        scene.join(1, Packaging::Flv);
        scene.writer.frame(80, 10);
        scene.flush();
        assert!(!scene.wire.got.contains_key(&1));
        scene.writer.keyframe(120, 10);
        scene.writer.frame(160, 10);
        scene.flush();
        assert_eq!(scene.timestamps(1), [120, 160]);
    }

    #[test]
    fn who_is_caught_up_shares_one_submission() {
        let mut scene = Scene::new();
        for fd in 0..6 {
            scene.join(fd, Packaging::ALL[fd as usize % 3]);
        }
        scene.wire.submissions.clear();
        scene.writer.frame(80, 300);
        scene.flush();
        assert_eq!(scene.wire.submissions, [6]);
        assert!(scene.wire.got[&0] == scene.wire.got[&3]);
        assert_eq!(scene.timestamps(0), [0, 40, 80]);
    }

    #[test]
    fn a_span_of_another_stream_is_not_looked_up_in_this_one() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Rtmp);
        scene.writer.keyframe(80, 3000);
        scene.flush();
        let mut other = Scene::new();
        other.scratch = scene.scratch;
        other.join(2, Packaging::Flv);
        other.writer.frame(80, 10);
        other.flush();
        assert_eq!(other.timestamps(2), [0, 40, 80]);
    }

    #[test]
    fn a_full_socket_goes_on_from_its_cursor_and_costs_others_nothing() {
        for packaging in Packaging::ALL {
            let mut scene = Scene::new();
            scene.join(1, packaging);
            scene.join(2, packaging);
            for room in 0..250 {
                scene.wire.room.insert(2, room);
                scene.writer.frame(80 + room as u32 * 40, 150);
                scene.writer.audio(85 + room as u32 * 40, 20);
                let events = scene.flush();
                assert_eq!(events.blocked.is_empty(), scene.stats(2).lag_bytes == 0);
                if !events.blocked.is_empty() {
                    scene.writable(2, u64::MAX);
                }
                assert!(scene.wire.got[&1] == scene.wire.got[&2], "{packaging:?} {room}");
            }
            assert_eq!(scene.stats(2).jumps, 0);
            assert_eq!(scene.stats(1).sent_bytes, scene.wire.got[&1].len() as u64);
            assert_eq!(scene.stats(2).sent_bytes, scene.stats(1).sent_bytes);
        }
    }

    #[test]
    fn a_player_over_its_bound_finishes_its_tag_and_jumps_to_the_newest_keyframe() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        scene.wire.room.insert(1, 100);
        for timestamp_ms in (80..400).step_by(40) {
            scene.writer.frame(timestamp_ms, 1000);
            scene.flush();
        }
        assert_eq!((scene.stats(1).jumps, scene.stats(1).lag_bytes), (1, 0));
        let slowest = scene.crowd.slowest_seq();
        scene.writer.log.trim(slowest, 0);
        scene.writable(1, u64::MAX);
        assert_eq!(scene.timestamps(1), [0, 40, 80], "the tag that was begun is whole");
        scene.writer.frame(400, 10);
        scene.writer.keyframe(440, 10);
        scene.writer.frame(480, 10);
        scene.flush();
        assert_eq!(scene.timestamps(1), [0, 40, 80, 440, 480]);
        assert_eq!(scene.crowd.take_totals().jumps, 1);
    }

    #[test]
    fn a_jump_brings_the_configuration_that_is_in_force() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        scene.wire.room.insert(1, 0);
        scene.writer.frame(80, 6000);
        scene.flush();
        scene.writer.tag(crate::media::TagKind::Video, 120, &[0x17, 0, 0, 0, 0, 7]);
        scene.writer.frame(120, 6000);
        scene.flush();
        scene.writer.keyframe(160, 10);
        scene.flush();
        scene.writable(1, u64::MAX);
        assert_eq!(scene.timestamps(1), [0, 40, 160]);
        let config = [0x17, 0, 0, 0, 0, 7];
        assert!(scene.wire.got[&1].windows(config.len()).any(|at| at == config));
    }

    #[test]
    fn a_jump_is_over_when_the_player_has_caught_up() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        scene.wire.room.insert(1, 0);
        scene.writer.frame(80, 6000);
        scene.flush();
        assert!(scene.flush().evicted.is_empty());
        assert_eq!(scene.stats(1).jumps, 1);
        scene.writable(1, u64::MAX);
        scene.writer.keyframe(120, 10);
        scene.flush();
        scene.now += scene.limits.lag_evict * 2;
        scene.wire.room.insert(1, 0);
        scene.writer.frame(160, 10);
        scene.flush();
        let events = scene.turn(|crowd, turn| crowd.check_slow(turn));
        assert!(events.evicted.is_empty(), "it is full for the first time since then");
    }

    #[test]
    fn a_player_that_jumps_without_catching_up_is_evicted() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        scene.wire.room.insert(1, 0);
        let start = scene.now;
        for timestamp_ms in (80..2000).step_by(40) {
            scene.writer.keyframe(timestamp_ms, 4000);
            if !scene.flush().evicted.is_empty() {
                break;
            }
            // A little goes out each time, so that it is never stuck.
            scene.writable(1, 50);
            scene.now += Duration::from_secs(1);
        }
        // It jumped when the second keyframe came.
        let until_eviction = scene.limits.lag_evict + Duration::from_secs(1);
        assert_eq!(scene.now.duration_since(start), until_eviction);
        assert!(scene.stats(1).jumps > 2);
    }

    #[test]
    fn a_player_is_evicted_for_the_time_that_it_was_owed_something() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        // Nothing to send for long: not its fault.
        scene.now += scene.limits.lag_evict * 3;
        scene.wire.room.insert(1, 0);
        scene.writer.frame(80, 10);
        assert_eq!(scene.flush().blocked, [id(1)]);
        for _ in 0..10 {
            let events = scene.turn(|crowd, turn| crowd.check_slow(turn));
            assert!(events.evicted.is_empty());
            scene.now += scene.limits.lag_evict / 10;
        }
        let events = scene.turn(|crowd, turn| crowd.check_slow(turn));
        assert_eq!(events.evicted, [id(1)]);
    }

    #[test]
    fn replies_go_between_two_tags() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        let before = scene.wire.got[&1].len();
        scene.wire.room.insert(1, 30);
        scene.writer.frame(80, 100);
        scene.writer.frame(120, 100);
        scene.flush();
        scene.turn(|crowd, turn| crowd.insert(id(1), Bytes::from_static(b"pong"), turn));
        scene.writable(1, u64::MAX);
        let got = &scene.wire.got[&1][before..];
        assert_eq!(&got[115..119], b"pong");
        assert_eq!(got.len(), 115 + 4 + 115);
        assert!(scene.crowd.remove(id(1)).expect("it plays").between_tags);
    }

    #[test]
    fn a_removed_player_tells_whether_it_is_within_a_tag() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::WsFlv);
        scene.wire.room.insert(1, 5);
        scene.writer.frame(80, 100);
        scene.flush();
        let removed = scene.crowd.remove(id(1)).expect("it plays");
        assert!(!removed.between_tags);
        assert_eq!(removed.sent_bytes, scene.wire.got[&1].len() as u64);
    }

    #[test]
    fn a_broken_socket_is_reported_and_the_others_go_on() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        scene.join(2, Packaging::Flv);
        scene.wire.broken.push(1);
        scene.writer.frame(80, 10);
        assert_eq!(scene.flush().broken, [id(1)]);
        assert_eq!(scene.timestamps(2), [0, 40, 80]);
    }

    #[test]
    fn what_is_more_than_a_span_comes_in_several_sends() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        for index in 0..40 {
            scene.writer.frame(80 + index * 40, 30_000);
        }
        assert!(scene.flush().blocked.is_empty());
        assert_eq!(scene.timestamps(1).len(), 42);
        assert!(scene.wire.submissions.len() > 4);
    }

    #[test]
    fn a_new_view_keeps_who_stands_within_it_and_moves_the_others() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        scene.join(2, Packaging::Flv);
        scene.wire.room.insert(2, 20);
        scene.writer.frame(80, 100);
        scene.flush();
        let old = std::mem::take(&mut scene.writer.log);
        // The owner went on: a keyframe, then what the first player stands behind.
        let mut new = Writer::opened();
        new.frame(0, 500);
        new.frame(40, 100);
        new.keyframe(80, 100);
        new.frame(120, 100);
        new.log.flush();
        new.log.trim(None, u64::MAX);
        assert_eq!(new.log.first_seq(), 5);
        scene.writer = new;
        scene.crowd.relocate(&old, &scene.writer.log);
        scene.flush();
        assert_eq!(scene.timestamps(1), [0, 40, 80, 120]);
        assert_eq!((scene.stats(1).jumps, scene.stats(2).jumps), (0, 0));
        scene.writable(2, u64::MAX);
        assert_eq!(scene.timestamps(2), [0, 40, 80, 120]);
        let old = std::mem::take(&mut scene.writer.log);
        let mut new = Writer::opened();
        for timestamp_ms in (0..400).step_by(40) {
            new.keyframe(timestamp_ms, 10);
        }
        new.log.flush();
        new.log.trim(None, u64::MAX);
        scene.writer = new;
        scene.crowd.relocate(&old, &scene.writer.log);
        scene.flush();
        assert_eq!(scene.timestamps(1), [0, 40, 80, 120, 360]);
        assert_eq!(scene.stats(1).jumps, 1);
    }
}
