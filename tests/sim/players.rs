//! Players: they come, wait, watch at their own pace, and go.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rillcast::egress::{RtpStart, Socket};
use rillcast::media::state::EndReason;
use rillcast::media::{ConnectionId, ShardId};
use rillcast::proto::http::websocket;
use rillcast::shard::{Admitted, PlayRequest};
use rillcast::stream::Packaging;

use super::checker::Checker;
use super::origins::AttemptName;
use super::packets::PacketChecker;
use super::plan::pick;
use super::wire::{FakeSocket, Pace};
use super::world::{Event, Visit, World};

/// A connection that plays, or wants to.
pub(crate) struct Player {
    pub(crate) key: usize,
    pub(crate) phase: Phase,
    pub(crate) visit: u32,
    /// It is the attempt of a push.
    pub(crate) push: Option<AttemptName>,
    asked_at: Instant,
    packaging: Packaging,
    pub(crate) pace: Pace,
    pub(crate) playing_since: Instant,
    /// When its socket was found full; it is polled since.
    polled_at: Option<Instant>,
    pub(crate) checker: Option<Checker>,
    /// Of a player over RTSP.
    packets: Option<PacketChecker>,
    fd: i32,
    replies: u64,
}

/// How far a player is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Neither admitted nor refused.
    Asked,
    /// Its session is being told that it plays.
    Admitted,
    Playing,
    Refused,
    /// Told to end; its socket is being closed.
    Ended,
    Gone,
}

/// A user control message (ping response) on the control chunk stream.
const RTMP_REPLY: [u8; 18] = [2, 0, 0, 0, 0, 0, 6, 4, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1];
pub(crate) const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

impl World {
    pub(crate) fn new_player(&mut self) {
        let serial = self.next_serial() as u32;
        let shard = self.rng.usize(0..self.shards.len());
        let connection = ConnectionId { serial, shard: ShardId(shard as u16) };
        let key = self.rng.usize(0..self.keys.len());
        let packaging = match self.plan.has_packets() && self.rng.u32(0..3) == 0 {
            true => Packaging::Rtsp,
            false => *pick(&mut self.rng, &Packaging::OF_FLV),
        };
        let player = self.a_player(serial, key, packaging);
        self.players.insert(connection, player);
        self.ask_to_play(connection);
    }

    /// A connection that has not asked for anything.
    pub(crate) fn a_player(&mut self, serial: u32, key: usize, packaging: Packaging) -> Player {
        let pace = match self.rng.u32(0..8) {
            0 | 1 => Pace::Slow(self.rng.u64(1..20_000)),
            2 => Pace::Stalls,
            3 => Pace::Breaks,
            _ => Pace::Fast,
        };
        Player {
            key,
            phase: Phase::Gone,
            visit: 0,
            push: None,
            asked_at: self.now,
            packaging,
            pace,
            playing_since: self.now,
            polled_at: None,
            checker: None,
            packets: None,
            fd: serial.cast_signed(),
            replies: 0,
        }
    }

    /// A connection asks to play, for the first time or again.
    fn ask_to_play(&mut self, connection: ConnectionId) {
        let player = self.players.get_mut(&connection).expect("a known player");
        assert_eq!(player.phase, Phase::Gone);
        player.phase = Phase::Asked;
        player.visit += 1;
        player.asked_at = self.now;
        let key = self.keys[player.key].clone();
        let packaging = player.packaging;
        let visit = Visit { connection, number: player.visit };
        self.note(|_| format!("  player {connection} asks for {}", key.stream()));
        let (local, peer, params) = (ADDRESS, ADDRESS, String::new());
        let request = PlayRequest { connection, key, packaging, local, peer, params };
        self.on_shard(connection.shard.index(), |shard, now, _| shard.play(now, request));
        let stay_ms = self.rng.u64(0..20_000);
        self.after_ms(stay_ms, Event::Leave(visit));
    }

    pub(crate) fn admit(&mut self, connection: ConnectionId) {
        self.note(|_| format!("  admit {connection}"));
        let player = self.players.get_mut(&connection).expect("a known player");
        assert_eq!(player.phase, Phase::Asked, "{connection} is answered twice");
        player.phase = Phase::Admitted;
        self.stats.admitted += 1;
        if let Some(push) = player.push {
            self.push_admitted(push, connection);
            return;
        }
        let visit = Visit { connection, number: player.visit };
        let delay_ms = self.rng.u64(0..50);
        self.after_ms(delay_ms, Event::Admitted(visit));
    }

    pub(crate) fn refuse(&mut self, connection: ConnectionId, reason: EndReason) {
        self.note(|_| format!("  refuse {connection}: {reason:?}"));
        let player = self.players.get_mut(&connection).expect("a known player");
        assert_eq!(player.phase, Phase::Asked, "{connection} is answered twice");
        if reason == EndReason::WaitOver && !self.plan.on_demand {
            let waited = self.now.duration_since(player.asked_at);
            assert!(waited >= self.plan.policy.stream_wait, "{connection} waited {waited:?} only");
        }
        player.phase = Phase::Refused;
        self.stats.refused += 1;
        if let Some(push) = player.push {
            self.within_action(push.shard, |shard, _, _| shard.released(connection));
            self.push_ended(push, reason);
            return;
        }
        let visit = Visit { connection, number: player.visit };
        let delay_ms = self.plan.confirm_ms(&mut self.rng);
        self.after_ms(delay_ms, Event::Released(visit));
    }

    pub(crate) fn end_connection(
        &mut self,
        connection: ConnectionId,
        reason: EndReason,
        between_tags: bool,
    ) {
        self.note(|_| format!("  end {connection}: {reason:?}"));
        if self.publishers.contains_key(&connection) {
            self.end_publisher(connection);
            return;
        }
        let player = self.players.get_mut(&connection).expect("a known player");
        let may_end = matches!(player.phase, Phase::Admitted | Phase::Playing);
        assert!(may_end, "{connection} is ended while {:?}", player.phase);
        let key = player.key;
        let is_here = connection.shard.index() == self.owner(key);
        match reason {
            EndReason::SourceLost => self.ends_of_lost[key] += u64::from(is_here),
            // Elsewhere it comes late, and yet another source may be there by then.
            EndReason::TracksChanged if is_here => self.check_other_tracks(connection),
            _ => {}
        }
        let player = self.players.get_mut(&connection).expect("a known player");
        if between_tags && let Some(checker) = &player.checker {
            assert!(checker.is_between_tags(), "{connection} got a goodbye within a tag");
        }
        if between_tags && let Some(packets) = &player.packets {
            assert!(packets.is_between_packets(), "{connection} got a goodbye within a packet");
        }
        if player.pace == Pace::Fast {
            assert_ne!(reason, EndReason::TooSlow, "{connection} takes everything at once");
        }
        let lost = self.lost_flushes.get(&(connection.shard.index(), player.key));
        let is_orderly = reason == EndReason::Unpublished && player.pace == Pace::Fast;
        if let Some(checker) = &player.checker
            && is_orderly
            && lost.is_none()
        {
            let lacks = checker.lacks_end(&self.sources);
            assert!(!lacks, "{connection} is fast and did not get the end");
        }
        player.phase = Phase::Ended;
        if let Some(push) = player.push {
            self.push_ended(push, reason);
            return;
        }
        let visit = Visit { connection, number: player.visit };
        self.close_socket(connection);
        let delay_ms = self.plan.confirm_ms(&mut self.rng);
        self.after_ms(delay_ms, Event::Released(visit));
    }

    pub(crate) fn admitted(&mut self, visit: Visit) {
        let connection = visit.connection;
        let player = self.players.get_mut(&connection).expect("a known player");
        if player.visit != visit.number || player.phase != Phase::Admitted {
            return;
        }
        let admitted = self.seat(connection);
        self.on_shard(connection.shard.index(), |shard, now, wire| {
            shard.admitted(now, admitted, wire);
        });
        let delay_ms = self.rng.u64(0..2000);
        self.after_ms(delay_ms, Event::Reply(visit));
    }

    /// A player that was let in has a socket from now on.
    pub(crate) fn seat(&mut self, connection: ConnectionId) -> Admitted {
        let player = self.players.get_mut(&connection).expect("a known player");
        player.phase = Phase::Playing;
        player.playing_since = self.now;
        let unsent = Bytes::from(vec![b'-'; self.rng.usize(0..200)]);
        let shard = &self.shards[connection.shard.index()];
        let is_rtsp = player.packaging == Packaging::Rtsp;
        let description = is_rtsp.then(|| shard.description(connection).expect("it was admitted"));
        match &description {
            Some(description) => {
                let checker = PacketChecker::new(player.key, unsent.len(), description);
                player.packets = Some(checker);
            }
            None => {
                player.checker = Some(Checker::new(player.packaging, player.key, unsent.len()));
            }
        }
        let room = self.rng.u64(0..30_000);
        let socket = FakeSocket { pace: player.pace, room, inbox: Vec::new() };
        self.wire.sockets.insert(player.fd, socket);
        let socket = Socket(player.fd);
        let rtp = description.map(|description| {
            let first = shard.first_packets(connection);
            assert!(first.len() <= description.media.len());
            RtpStart { tracks: (0..description.media.len() as u8).collect(), udp: Vec::new() }
        });
        Admitted { connection, socket, unsent, rtp }
    }

    /// A player is none any more.
    pub(crate) fn unseat(&mut self, connection: ConnectionId) {
        self.players.get_mut(&connection).expect("a known player").phase = Phase::Gone;
        self.close_socket(connection);
    }

    /// Its socket is closed, or it was told that it does not play.
    pub(crate) fn released(&mut self, visit: Visit) {
        let connection = visit.connection;
        let player = self.players.get_mut(&connection).expect("a known player");
        assert_eq!(player.visit, visit.number);
        let was_refused = player.phase == Phase::Refused;
        player.phase = Phase::Gone;
        self.on_shard(connection.shard.index(), |shard, _, _| shard.released(connection));
        if was_refused && !self.ending && self.rng.u32(0..3) == 0 {
            self.ask_to_play(connection);
        }
    }

    pub(crate) fn leave(&mut self, visit: Visit) {
        let connection = visit.connection;
        let player = self.players.get_mut(&connection).expect("a known player");
        let is_here = matches!(player.phase, Phase::Asked | Phase::Admitted | Phase::Playing);
        if player.visit != visit.number || !is_here {
            return;
        }
        self.note(|_| format!("  {connection} leaves"));
        let player = self.players.get_mut(&connection).expect("a known player");
        player.phase = Phase::Gone;
        self.close_socket(connection);
        self.on_shard(connection.shard.index(), |shard, _, _| shard.leave(connection));
    }

    pub(crate) fn poll_writable(&mut self, connection: ConnectionId) {
        let player = self.players.get_mut(&connection).expect("a known player");
        if player.phase != Phase::Playing {
            return;
        }
        let before = player.polled_at.replace(self.now);
        assert!(before.is_none(), "{connection} is polled twice at once");
        let delay_ms = match player.pace {
            Pace::Stalls => return,
            Pace::Fast => 0,
            Pace::Slow(_) | Pace::Breaks => self.rng.u64(0..400),
        };
        let visit = Visit { connection, number: player.visit };
        self.after_ms(delay_ms, Event::Writable(visit));
    }

    pub(crate) fn writable(&mut self, visit: Visit) {
        let connection = visit.connection;
        let player = self.players.get_mut(&connection).expect("a known player");
        if player.visit != visit.number || player.phase != Phase::Playing {
            return;
        }
        player.polled_at = None;
        let socket = self.wire.sockets.get_mut(&player.fd).expect("it plays");
        if let Pace::Slow(bytes) = player.pace {
            socket.room += self.rng.u64(1..=bytes);
        }
        self.on_shard(connection.shard.index(), |shard, now, wire| {
            shard.writable(now, connection, wire);
        });
    }

    /// The protocol has something to say to a player.
    pub(crate) fn reply(&mut self, visit: Visit) {
        let connection = visit.connection;
        let player = self.players.get_mut(&connection).expect("a known player");
        if player.visit != visit.number || player.phase != Phase::Playing {
            return;
        }
        let bytes = match player.packaging {
            Packaging::Flv | Packaging::Rtsp => return,
            Packaging::WsFlv => websocket::encode_pong(b"ping"),
            Packaging::Rtmp | Packaging::RtmpPush { .. } => Bytes::from_static(&RTMP_REPLY),
        };
        player.replies += 1;
        self.on_shard(connection.shard.index(), |shard, now, wire| {
            shard.insert(now, connection, bytes, wire);
        });
        let delay_ms = self.rng.u64(0..4000);
        self.after_ms(delay_ms, Event::Reply(visit));
    }

    /// Checks what players got since the last time.
    pub(crate) fn read_players(&mut self) {
        for fd in std::mem::take(&mut self.wire.touched) {
            let Some(socket) = self.wire.sockets.get_mut(&fd) else { continue };
            let inbox = std::mem::take(&mut socket.inbox);
            let player = self.players.values_mut().find(|player| player.fd == fd);
            let player = player.expect("a socket of a player");
            if let Some(packets) = &mut player.packets {
                let gaps = packets.gaps;
                packets.handle_input(&inbox, &self.sources);
                let new = packets.gaps - gaps;
                if new > 0 {
                    self.count_gaps(fd, new);
                }
                continue;
            }
            let checker = player.checker.as_mut().expect("it plays");
            let gaps = checker.gaps;
            checker.handle_input(&inbox, &self.sources);
            let new = checker.gaps - gaps;
            if new > 0 {
                self.count_gaps(fd, new);
            }
        }
    }

    /// A gap is a jump that was counted before; a fast player has one only where its shard lost a
    /// flush.
    fn count_gaps(&mut self, fd: i32, gaps: u64) {
        let mut players = self.players.iter();
        let (connection, player) = players.find(|(_, player)| player.fd == fd).expect("a player");
        let shard = connection.shard.index();
        if player.pace == Pace::Fast {
            let lost = self.lost_flushes.get(&(shard, player.key)).copied().unwrap_or(0);
            assert!(lost > 0, "{connection} ({:?}) is fast and lacks something", player.packaging);
        }
        self.gaps[shard] += gaps;
        let jumps = self.shards[shard].totals().player_jumps;
        let gaps = self.gaps[shard];
        assert!(gaps <= jumps, "{connection} has a gap that is not counted: {gaps}, {jumps} jumps");
    }

    /// A player over RTSP is ended for other tracks: those of the source that brings the stream now are.
    fn check_other_tracks(&self, connection: ConnectionId) {
        let player = &self.players[&connection];
        let told = player.packets.as_ref().map(PacketChecker::told);
        let Some((told, now)) = told.zip(self.source_of(player.key)) else { return };
        let now = self.sources[now as usize].tracks();
        assert_ne!(told, now, "{connection} is ended and could have gone on");
    }

    fn close_socket(&mut self, connection: ConnectionId) {
        let player = self.players.get_mut(&connection).expect("a known player");
        if let Some(checker) = player.checker.take() {
            self.wire.sockets.remove(&player.fd);
            self.stats.frames += checker.frames;
            assert!(checker.replies() <= player.replies, "a reply that nobody gave");
        }
        if let Some(packets) = player.packets.take() {
            self.wire.sockets.remove(&player.fd);
            self.stats.packet_frames += packets.frames;
            self.stats.changes_of_sets += packets.changes_of_sets;
            self.stats.changes_of_form += packets.changes_of_form;
        }
        player.polled_at = None;
        player.replies = 0;
    }

    /// Nobody is left without an answer for longer than is promised.
    pub(crate) fn check_waiters(&self) {
        let bound = self.plan.policy.stream_wait + Duration::from_millis(5);
        for (connection, player) in &self.players {
            if player.phase == Phase::Asked {
                let waited = self.now.duration_since(player.asked_at);
                assert!(waited <= bound, "{connection} waits for {waited:?}");
            }
            if let Some(polled_at) = player.polled_at.filter(|_| player.pace == Pace::Stalls) {
                // Looked at once a second.
                let bound = self.plan.policy.crowd.lag_evict + Duration::from_millis(1100);
                let stuck = self.now.duration_since(polled_at);
                assert!(self.ending || stuck <= bound, "{connection} is stuck for {stuck:?}");
            }
        }
    }

    /// The current stay of each connection that has one.
    pub(crate) fn visits(&self) -> impl Iterator<Item = Visit> {
        let is_here = |player: &Player| player.phase != Phase::Gone && player.push.is_none();
        let here = self.players.iter().filter(move |(_, player)| is_here(player));
        here.map(|(&connection, player)| Visit { connection, number: player.visit })
    }
}
