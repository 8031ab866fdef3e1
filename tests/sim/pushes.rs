//! Pushes and their destinations: each try gets as far as its fate says, and is a player of its stream
//! from when the destination is ready. What it then gets is checked as what any player gets.

use std::time::Duration;

use fastrand::Rng;
use rillcast::bus::Ask;
use rillcast::bus::message::PushOptions;
use rillcast::media::state::{EndReason, ErrorClass, Fault, Generation};
use rillcast::media::{ConnectionId, ShardId, SourceUrl};
use rillcast::proto::rtsp::LowerTransport;
use rillcast::shard::{PlayRequest, PushDial, Stage};
use rillcast::stream::Packaging;

use super::api::{TIMEOUT_MS_MAX, What};
use super::origins::AttemptName;
use super::plan::pick;
use super::players::{ADDRESS, Phase};
use super::world::{Event, World};

/// Destinations of each stream.
pub(crate) const DESTINATIONS: usize = 2;
/// What destinations answer to `createStream`, nearly all of them the first.
const STREAM_IDS: [u32; 2] = [1, 7];

/// What becomes of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The stream is taken, and after a while the connection breaks.
    Taken(Duration),
    SilentAt(Stage),
    FailsAt(Stage, ErrorClass),
}

/// A try at a destination, from `DialPush` to `attempt_closed`.
pub(crate) struct PushAttempt {
    key: usize,
    fate: Fate,
    stage: Stage,
    /// As a player of its stream, from when it asked for that.
    connection: Option<ConnectionId>,
    /// It has failed, or was given up.
    is_over: bool,
}

impl Fate {
    fn new(rng: &mut Rng) -> Self {
        let stage = *pick(rng, &[Stage::Resolving, Stage::Connecting, Stage::Handshaking]);
        match rng.u32(0..8) {
            0 => Self::SilentAt(stage),
            1 | 2 => Self::FailsAt(stage, ErrorClass::Refused),
            _ => Self::Taken(Duration::from_millis(rng.u64(0..12_000))),
        }
    }
}

impl World {
    pub(crate) fn add_push(&mut self) {
        let key = self.rng.usize(0..self.keys.len());
        let number = self.rng.usize(0..DESTINATIONS);
        let url = destination(key, number);
        let rng = &mut self.rng;
        let options = PushOptions {
            retries_max: *pick(rng, &[None, Some(0), Some(2)]),
            force: rng.bool(),
            no_wait: rng.u32(0..3) == 0,
            timeout: Duration::from_millis(rng.u64(300..=TIMEOUT_MS_MAX)),
            rtp_transport: LowerTransport::Tcp,
        };
        // Its turn in the budget, and its try.
        let bound = 2 * Duration::from_millis(TIMEOUT_MS_MAX);
        let ask = Ask::AddPush { key: self.keys[key].clone(), url: url.into(), options };
        self.ask(key, What::AddPush { number }, bound, ask);
    }

    pub(crate) fn delete_push(&mut self) {
        let key = self.rng.usize(0..self.keys.len());
        let number = self.rng.usize(0..DESTINATIONS);
        self.delete_push_of(key, number);
    }

    pub(crate) fn delete_all_pushes(&mut self) {
        for key in 0..self.keys.len() {
            for number in 0..DESTINATIONS {
                self.delete_push_of(key, number);
            }
        }
    }

    fn delete_push_of(&mut self, key: usize, number: usize) {
        let digest = destination(key, number).digest();
        let ask = Ask::DeletePush { key: self.keys[key].clone(), digest };
        self.ask(key, What::DeletePush { number }, self.plan.policy.close_bound, ask);
    }

    /// Which life of a push of a stream there is.
    pub(crate) fn push_generation(&self, key: usize, number: usize) -> Option<Generation> {
        let name = (&self.keys[key], destination(key, number).digest());
        self.shards[self.owner(key)].generation_of_push(name)
    }

    pub(crate) fn dial_push(&mut self, shard: usize, dial: PushDial) {
        let PushDial { attempt, key, url, .. } = dial;
        let name = AttemptName { shard, attempt };
        self.note(|_| format!("  dial {name:?} {url} to push"));
        assert!(!self.is_shut[shard], "dialed after the shut-down");
        let key = self.key_index(&key);
        assert_eq!(self.owner(key), shard);
        let fate = Fate::new(&mut self.rng);
        let (stage, connection) = (Stage::Resolving, None);
        let attempt = PushAttempt { key, fate, stage, connection, is_over: false };
        let before = self.push_attempts.insert(name, attempt);
        assert!(before.is_none(), "{name:?} is dialed twice");
        self.push_soon(name);
    }

    fn push_soon(&mut self, name: AttemptName) {
        let delay_ms = self.rng.u64(0..300);
        self.after_ms(delay_ms, Event::Push(name));
    }

    /// An attempt gets one stage further, or does not; one that is up breaks.
    pub(crate) fn push_step(&mut self, name: AttemptName) {
        let Some(attempt) = self.push_attempts.get_mut(&name) else { return };
        let (stage, fate) = (attempt.stage, attempt.fate);
        if attempt.is_over {
            return;
        }
        match (fate, attempt.connection) {
            (Fate::SilentAt(at), _) if at == stage => return,
            (Fate::FailsAt(at, class), _) if at == stage => return self.push_fails(name, class),
            (_, Some(_)) => return self.push_fails(name, ErrorClass::Lost),
            _ => {}
        }
        let next = match stage {
            Stage::Resolving => Stage::Connecting,
            Stage::Connecting => Stage::Handshaking,
            _ => return self.push_joins(name),
        };
        attempt.stage = next;
        self.on_shard(name.shard, |shard, now, _| {
            shard.attempt_stage(now, name.attempt, next, "an answer");
        });
        self.push_soon(name);
    }

    /// The destination is ready.
    fn push_joins(&mut self, name: AttemptName) {
        let serial = self.next_serial() as u32;
        let connection = ConnectionId { serial, shard: ShardId(name.shard as u16) };
        let packaging = Packaging::RtmpPush { stream_id: *pick(&mut self.rng, &STREAM_IDS) };
        let attempt = self.push_attempts.get_mut(&name).expect("it steps");
        attempt.connection = Some(connection);
        let (key, fate) = (attempt.key, attempt.fate);
        let mut player = self.a_player(serial, key, packaging);
        (player.phase, player.visit, player.push) = (Phase::Asked, 1, Some(name));
        self.players.insert(connection, player);
        self.note(|_| format!("  {name:?} asks for its stream as {connection}"));
        let (key, local, peer) = (self.keys[key].clone(), ADDRESS, ADDRESS);
        let request =
            PlayRequest { connection, key, packaging, local, peer, params: String::new() };
        let joined =
            self.on_shard(name.shard, |shard, now, _| shard.push_joins(now, name.attempt, request));
        if let Fate::Taken(stay) = fate {
            self.after(stay, Event::Push(name));
        }
        if !joined {
            self.push_is_over(name);
        }
    }

    /// The stream is there for it.
    pub(crate) fn push_admitted(&mut self, name: AttemptName, connection: ConnectionId) {
        self.stats.pushed += 1;
        self.within_action(name.shard, |shard, now, _| shard.push_is_up(now, name.attempt));
        let admitted = self.seat(connection);
        self.within_action(name.shard, |shard, now, wire| shard.admitted(now, admitted, wire));
    }

    /// Its stream has ended it, or has none for it.
    pub(crate) fn push_ended(&mut self, name: AttemptName, reason: EndReason) {
        self.push_attempts.get_mut(&name).expect("it is not closed").is_over = true;
        self.within_action(name.shard, |shard, now, _| {
            shard.push_ended(now, name.attempt, reason, 0);
        });
        self.push_is_over(name);
    }

    fn push_fails(&mut self, name: AttemptName, class: ErrorClass) {
        self.note(|_| format!("  {name:?} fails: {class:?}"));
        let fault = Fault::new(class, "it failed");
        self.push_attempts.get_mut(&name).expect("it steps").is_over = true;
        self.on_shard(name.shard, |shard, now, _| shard.attempt_failed(now, name.attempt, fault));
        self.push_is_over(name);
    }

    /// The shard has given it up.
    pub(crate) fn hang_up_push(&mut self, name: AttemptName) {
        self.note(|_| format!("  hang up {name:?}"));
        // Its part as a player may have been ended just before.
        if !self.push_attempts[&name].is_over {
            self.push_is_over(name);
        }
    }

    fn push_is_over(&mut self, name: AttemptName) {
        let attempt = self.push_attempts.get_mut(&name).expect("it is not closed");
        attempt.is_over = true;
        if let Some(connection) = attempt.connection {
            let phase = self.players[&connection].phase;
            self.unseat(connection);
            if matches!(phase, Phase::Asked | Phase::Admitted | Phase::Playing) {
                self.within_action(name.shard, |shard, _, _| {
                    shard.leave(connection);
                });
            }
        }
        let delay_ms = self.plan.confirm_ms(&mut self.rng);
        self.after_ms(delay_ms, Event::PushClosed(name));
    }

    /// Whether a connection is that of a push's attempt which is over: what its shard decided of it before
    /// comes to nothing.
    pub(crate) fn is_late_for_push(&self, connection: ConnectionId) -> bool {
        let push = self.players.get(&connection).and_then(|player| player.push);
        push.is_some_and(|name| self.push_attempts.get(&name).is_none_or(|of| of.is_over))
    }

    /// Nothing is left of an attempt.
    pub(crate) fn push_closed(&mut self, name: AttemptName) {
        let attempt = self.push_attempts.remove(&name).expect("closed once");
        self.on_shard(name.shard, |shard, _, _| {
            if let Some(connection) = attempt.connection {
                shard.released(connection);
            }
            shard.attempt_closed(name.attempt, 1);
        });
    }
}

/// One of a stream's destinations.
pub(crate) fn destination(key: usize, number: usize) -> SourceUrl {
    let text = format!("rtmp://destination{number}/live/s{key}");
    SourceUrl::parse(&text, false).expect("a good URL")
}
