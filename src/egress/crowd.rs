//! The players of one stream on one shard.
//!
//! A flush gives every caught-up player the same span of the log, encoded once for each packaging.
//! Per player and flush the work is one entry in a batch: no allocation, no hashing, no reference
//! count.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::datagrams::{DatagramCrowd, DatagramPlayer, DatagramScratch, Outlet};
use super::flush::{Batch, Lists, Send, Shortfall, Wire};
use super::player::{Next, Player, PlayerStart, PlayerState, UdpTrack};
use super::round::{self, Due, Staged};
use crate::media::ConnectionId;
use crate::ring::prefetch;
use crate::stream::{Cursor, Log, Packaging, Span, TrackSet, packaging};

/// Bounds for slow players.
#[derive(Debug, Clone, Copy)]
pub struct CrowdLimits {
    /// Bytes of the log that a player may be behind before it jumps to the newest keyframe.
    pub lag_bytes_max: u64,
    /// Time without progress, or of jumping without catching up, before a player is evicted.
    pub lag_evict: Duration,
    /// Datagrams of one length go to the kernel together.
    pub gso: bool,
}

/// What happened to players since the shard started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrowdTotals {
    pub sent_bytes: u64,
    pub sends: u64,
    pub jumps: u64,
    /// Bytes copied to send them in one piece to many.
    pub joined_bytes: u64,
    /// Sends over UDP that a socket did not take.
    pub datagrams_lost: u64,
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
    /// Players whose number of jumps, which stands beside them, has doubled.
    pub jumped: Vec<(ConnectionId, u32)>,
    /// Players over UDP are to get more soon, whether something comes or not.
    pub is_behind: bool,
}

impl CrowdEvents {
    pub(super) fn append(&mut self, mut later: Self) {
        self.blocked.append(&mut later.blocked);
        self.broken.append(&mut later.broken);
        self.evicted.append(&mut later.evicted);
        self.jumped.append(&mut later.jumped);
        self.is_behind |= later.is_behind;
    }
}

/// The players of one stream on one shard.
#[derive(Default)]
pub struct Crowd {
    pub(super) players: Vec<Player>,
    pub(super) datagrams: DatagramCrowd,
    index_of: HashMap<ConnectionId, usize>,
    /// Players by packaging, where it is one that they share.
    counts: [u32; Packaging::SHARED.len()],
    /// Caught-up players have everything before this.
    pub(super) sent_seq: u64,
    pub(super) totals: CrowdTotals,
}

/// Memory that flushes use again and again.
#[derive(Default)]
pub struct Scratch {
    pub(super) span: Span,
    pub(super) staged: Vec<Staged>,
    pub(super) lists: Lists,
    pub(super) shortfalls: Vec<Shortfall>,
    pub(super) datagrams: DatagramScratch,
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

/// Players from which on the headers and payloads of a flush are joined: copying 10 KB once costs as much as
/// a piece each more for two of them.
const JOIN_FROM: u32 = 4;

impl Crowd {
    /// Has the CPU fetch the first of the players.
    pub fn prefetch(&self) {
        if let Some(player) = self.players.first() {
            prefetch(player);
        }
    }

    /// Begins to read a log, as it stands.
    pub fn follow(&mut self, log: &Log) {
        self.sent_seq = log.flushed_seq();
    }

    /// Adds a player at the log's start point and returns its index, which is good until a removal.
    pub fn join(&mut self, log: &Log, start: PlayerStart, now: Instant) -> usize {
        let mut player = Player::new(start, now);
        if !log.awaits_keyframe() {
            place(&mut player, log, log.start_seq());
        }
        self.index_of.insert(player.id, self.players.len());
        if let Some(place) = player.packaging.place() {
            self.counts[place] += 1;
        }
        self.players.push(player);
        self.players.len() - 1
    }

    /// Adds a player over UDP at the log's start point. It gets reports at once, and media with this
    /// flush and the next ones.
    pub fn join_datagrams(&mut self, id: ConnectionId, tracks: &[UdpTrack], turn: &mut Turn<'_>) {
        let log = turn.log;
        let (datagrams, mut outlet) = self.outlet(turn);
        datagrams.join(DatagramPlayer::new(id, tracks), log, &mut outlet);
        let end = log.flushed_seq();
        self.flush_datagrams(end..end, turn);
    }

    /// Sends what was flushed to all who have everything before it, and lets the others catch up.
    pub fn flush(&mut self, turn: &mut Turn<'_>) {
        let Turn { log, now, limits, wire, scratch, events } = turn;
        let mut dues = [Due { crowd: self, log, events: CrowdEvents::default() }];
        round::flush(&mut dues, *now, limits, *wire, scratch);
        let [due] = dues;
        events.append(due.events);
    }

    /// Encodes what was flushed since the last round, once for each packaging that is wanted.
    pub(super) fn stage(&mut self, log: &Log, staged: &mut Staged) {
        staged.from = std::mem::replace(&mut self.sent_seq, log.flushed_seq());
        staged.to = self.sent_seq;
        let spans = staged.spans.iter_mut().zip(self.counts);
        for (packaging, (span, count)) in Packaging::SHARED.into_iter().zip(spans) {
            if count == 0 {
                // What it held last must not be looked up in the log again.
                span.clear(Cursor::at(staged.to));
                continue;
            }
            span.encode(packaging, log, Cursor::at(staged.from), staged.to);
            if count >= JOIN_FROM {
                self.totals.joined_bytes += span.join(log);
            }
        }
    }

    /// Adds those who have everything before what is staged to the batch, and counts it as sent.
    pub(super) fn fill<'a>(
        &mut self,
        staged: &'a Staged,
        log: &'a Log,
        ticket_base: u64,
        now: Instant,
        batch: &mut Batch<'a>,
    ) {
        if staged.from == staged.to {
            return;
        }
        let lens: [u64; Packaging::SHARED.len()] = std::array::from_fn(|place| staged.len(place));
        let mut spans = [0; Packaging::SHARED.len()];
        for (place, span) in staged.spans.iter().enumerate().filter(|&(place, _)| lens[place] > 0) {
            spans[place] = batch.add_span(|slices| span.slices(log, slices));
        }
        let sends = batch.sends.len();
        for (index, player) in self.players.iter_mut().enumerate() {
            let Some(place) = player.packaging.place() else { continue };
            let len = lens[place];
            let shares = player.state == PlayerState::CaughtUp
                && player.tracks == TrackSet::ALL
                && player.cursor == Cursor::at(staged.from)
                && !player.has_own_bytes();
            if !shares || len == 0 {
                continue;
            }
            batch.sends.push(Send {
                socket: player.socket,
                span: spans[place],
                ticket: ticket_base + index as u64,
            });
            player.cursor = Cursor::at(staged.to);
            player.sent_bytes += len;
            player.last_progress = now;
            self.totals.sent_bytes += len;
        }
        self.totals.sends += (batch.sends.len() - sends) as u64;
    }

    /// Takes back what a player's socket did not take of what is staged.
    pub(super) fn take_back(
        &mut self,
        staged: &Staged,
        log: &Log,
        (index, shortfall): (usize, Shortfall),
        now: Instant,
        events: &mut CrowdEvents,
    ) {
        let player = &mut self.players[index];
        let place = player.packaging.place().expect("it shared the round");
        let missing = staged.len(place) - shortfall.sent;
        player.sent_bytes -= missing;
        self.totals.sent_bytes -= missing;
        let start = Cursor::at(staged.from);
        player.cursor =
            packaging::advance(player.packaging, player.tracks, log, start, shortfall.sent);
        if shortfall.errno.is_some() {
            break_off(player, events);
        } else {
            block(player, now, events);
        }
    }

    /// Lets those who did not share the round go on from their own cursors.
    pub(super) fn flush_others(&mut self, staged_from: u64, turn: &mut Turn<'_>) {
        for index in 0..self.players.len() {
            let player = &mut self.players[index];
            match player.state {
                PlayerState::Broken => {}
                PlayerState::CaughtUp if player.cursor == Cursor::at(self.sent_seq) => {}
                PlayerState::AwaitingKeyframe => {
                    if let Some(seq) = turn.log.resume_from(staged_from) {
                        place(player, turn.log, seq);
                        self.advance(index, turn);
                    }
                }
                PlayerState::Blocked if player.polling => self.restrain(index, turn),
                PlayerState::CaughtUp | PlayerState::Blocked => self.advance(index, turn),
            }
        }
    }

    /// Gives players over UDP what was flushed, or the next piece of what they lack.
    pub(super) fn flush_datagrams(&mut self, staged: Range<u64>, turn: &mut Turn<'_>) {
        if self.datagrams.players.is_empty() {
            return;
        }
        let log = turn.log;
        let (datagrams, mut outlet) = self.outlet(turn);
        datagrams.flush(log, staged, &mut outlet);
        turn.events.is_behind |= self.datagrams.is_behind(log);
    }

    fn outlet<'a>(&'a mut self, turn: &'a mut Turn<'_>) -> (&'a mut DatagramCrowd, Outlet<'a>) {
        let Turn { now, limits, wire, scratch, events, .. } = turn;
        let outlet = Outlet {
            now: *now,
            gso: limits.gso,
            lag_bytes_max: limits.lag_bytes_max,
            wire: *wire,
            lists: &mut scratch.lists,
            scratch: &mut scratch.datagrams,
            totals: &mut self.totals,
            events,
        };
        (&mut self.datagrams, outlet)
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
        if self.players[index].state == PlayerState::Broken {
            return;
        }
        let log = turn.log;
        for _ in 0..SENDS_PER_TURN_MAX {
            let player = &mut self.players[index];
            let next = player.encode_next(log, &mut turn.scratch.span);
            if matches!(next, Next::Nothing) {
                if player.state != PlayerState::AwaitingKeyframe {
                    player.state = PlayerState::CaughtUp;
                    player.jumped_since = None;
                }
                return;
            }
            let mut batch = Batch::new(std::mem::take(&mut turn.scratch.lists));
            let mut len = 0;
            let span = batch.add_span(|slices| {
                len = player.next_slices(&next, log, &turn.scratch.span, slices);
            });
            batch.sends.push(Send { socket: player.socket, span, ticket: 0 });
            turn.scratch.shortfalls.clear();
            turn.wire.send(&batch, &mut turn.scratch.shortfalls);
            turn.scratch.lists = batch.into_lists();
            self.totals.sends += 1;
            let shortfall = turn.scratch.shortfalls.pop();
            let sent = shortfall.map_or(len, |shortfall| shortfall.sent);
            self.totals.sent_bytes += sent;
            let player = &mut self.players[index];
            player.sent(&next, log, sent, turn.now);
            match shortfall {
                None => {}
                Some(Shortfall { errno: Some(_), .. }) => {
                    break_off(player, turn.events);
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
        let Some(index) = self.index_of.remove(&id) else {
            let sent_bytes = self.datagrams.remove(id)?.sent_bytes;
            // Its packets do not go over its connection, which is free for a goodbye.
            return Some(Removed { between_tags: true, sent_bytes });
        };
        let player = self.players.swap_remove(index);
        if let Some(place) = player.packaging.place() {
            self.counts[place] -= 1;
        }
        if let Some(moved) = self.players.get(index) {
            self.index_of.insert(moved.id, index);
        }
        Some(Removed { between_tags: player.is_between_tags(), sent_bytes: player.sent_bytes })
    }

    /// What a player that is to be removed has half got, and the peer must have before anything else.
    pub fn rest_of(&self, id: ConnectionId, log: &Log) -> Bytes {
        let index = self.index_of.get(&id);
        index.map(|index| self.players[*index].rest(log)).unwrap_or_default()
    }

    /// The sequence number that the log must keep for blocked players.
    pub fn slowest_seq(&self) -> Option<u64> {
        let blocked = self.players.iter().filter(|player| player.state == PlayerState::Blocked);
        blocked.map(|player| player.cursor.seq).chain(self.datagrams.slowest_seq()).min()
    }

    /// What a player has got so far.
    pub fn sent_bytes_of(&self, id: ConnectionId) -> Option<u64> {
        match self.index_of.get(&id) {
            Some(&index) => Some(self.players[index].sent_bytes),
            None => {
                let mut datagrams = self.datagrams.players.iter();
                datagrams.find(|player| player.id == id).map(|player| player.sent_bytes)
            }
        }
    }

    pub fn len(&self) -> usize {
        self.players.len() + self.datagrams.players.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        let datagrams = self.datagrams.players.iter().map(|player| player.id);
        self.players.iter().map(|player| player.id).chain(datagrams)
    }

    /// Each player with its packaging, bytes sent, lag in bytes and jumps.
    pub fn stats(&self, log: &Log) -> impl Iterator<Item = PlayerStats> {
        let datagrams = self.datagrams.players.iter().map(|player| PlayerStats {
            id: player.id,
            packaging: Packaging::Rtsp,
            sent_bytes: player.sent_bytes,
            lag_bytes: player.lag_bytes(log),
            jumps: player.lost + player.jumps,
        });
        let players = self.players.iter().map(|player| PlayerStats {
            id: player.id,
            packaging: player.packaging,
            sent_bytes: player.sent_bytes,
            lag_bytes: player.lag_bytes(log),
            jumps: player.jumps,
        });
        players.chain(datagrams)
    }

    /// Takes the totals counted since the last call.
    pub fn take_totals(&mut self) -> CrowdTotals {
        std::mem::take(&mut self.totals)
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
    /// Over UDP: sends that were lost.
    pub jumps: u32,
}

/// Puts a player at a tag, with the prelude before it where it does not have it yet.
pub(super) fn place(player: &mut Player, log: &Log, seq: u64) {
    let prelude =
        if seq == log.start_seq() { log.prelude_at_start() } else { log.prelude() }.clone();
    if !player.greeted || player.prelude_version != prelude.version {
        let timestamp_ms = log.timestamp_at(seq);
        let greeting = (!player.greeted).then(|| log.kinds());
        let bytes =
            player.packaging.encode_prelude(&prelude, timestamp_ms, greeting, player.tracks);
        player.insert_prelude(bytes.into());
        player.greeted = true;
        player.prelude_version = prelude.version;
    }
    player.cursor = Cursor::at(seq);
    player.state = PlayerState::CaughtUp;
}

fn break_off(player: &mut Player, events: &mut CrowdEvents) {
    player.state = PlayerState::Broken;
    events.broken.push(player.id);
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
    use super::super::testing::{Scene, id};
    use super::*;
    use crate::proto::flv::FILE_HEADER;

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
            scene.join(fd, Packaging::SHARED[fd as usize % 3]);
        }
        scene.wire.submissions.clear();
        scene.writer.frame(80, 300);
        scene.flush();
        assert_eq!(scene.wire.submissions, [6]);
        assert!(scene.wire.got[&0] == scene.wire.got[&3]);
        assert_eq!(scene.timestamps(0), [0, 40, 80]);
    }

    #[test]
    fn many_players_get_the_same_as_one() {
        let mut scene = Scene::new();
        let mut many = Scene::new();
        scene.join(0, Packaging::Rtmp);
        (0..5).for_each(|fd| drop(many.join(fd, Packaging::Rtmp)));
        for scene in [&mut scene, &mut many] {
            scene.writer.audio(60, 30);
            scene.writer.frame(80, 300);
            scene.flush();
        }
        for fd in 0..5 {
            assert!(many.wire.got[&fd] == scene.wire.got[&0]);
        }
        assert_eq!(scene.crowd.take_totals().joined_bytes, 0);
        assert_eq!(many.crowd.take_totals().joined_bytes, 330 + 2 * 12);
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
        for packaging in Packaging::OF_FLV {
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
    fn rest_of_a_player_completes_what_it_got() {
        for (is_left_over, has_reply) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let mut scene = Scene::new();
            scene.join(1, Packaging::Flv);
            scene.join(2, Packaging::Flv);
            assert_eq!(scene.crowd.rest_of(id(2), &scene.writer.log), Bytes::new());
            scene.wire.room.insert(2, 5);
            scene.writer.frame(80, 100);
            scene.flush();
            let tag_end = scene.wire.got[&1].len();
            if is_left_over {
                // So much more than it may be behind that it waits for a keyframe.
                scene.writer.frame(120, 6000);
                scene.flush();
            }
            let reply = if has_reply { &b"pong"[..] } else { b"" };
            if has_reply {
                let reply = Bytes::from_static(reply);
                scene.turn(|crowd, turn| crowd.insert(id(2), reply, turn));
            }
            let rest = scene.crowd.rest_of(id(2), &scene.writer.log);
            let got = [&scene.wire.got[&2][..], &rest].concat();
            assert_eq!(got, [&scene.wire.got[&1][..tag_end], reply].concat());
        }
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
}
