//! What this shard's connections have to do with the event log: what is told of players, and who
//! follows it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tracing::debug;

use super::driver::Driver;
use super::link::{Link, Part, Phase, Role, Session};
use super::play::NO_STORE;
use super::sockets::log_closed;
use crate::bus::event::{Peer, Refusal, Traffic, What};
use crate::bus::keeper::{Figures, Follow, Follower, FromKeeper, ToKeeper};
use crate::bus::message::{Answer, Message, Ticket};
use crate::bus::{KeeperPort, Outbox};
use crate::clock;
use crate::limits::{FOLLOWER_QUEUE_LEN_MAX, FOLLOWERS_MAX, REFUSALS_TOLD_MAX};
use crate::media::state::Generation;
use crate::media::{ShardId, StreamKey};
use crate::proto::http::response::Response;
use crate::proto::http::server::StreamStart;
use crate::ring::{Token, Waker};

/// A shard's end of the way to the keeper and back.
pub(super) struct Events {
    pub(super) keeper: KeeperPort,
    pub(super) outbox: Outbox,
    pub(super) inbox: Receiver<FromKeeper>,
    pub(super) followers: usize,
    pub(super) followers_dropped: u64,
    refusals: Allowance,
}

/// Refusals that may be told, so many a second.
struct Allowance {
    since: Instant,
    taken: u32,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, taken: 0 };
        }
        let is_left = self.taken < REFUSALS_TOLD_MAX;
        self.taken += u32::from(is_left);
        is_left
    }
}

impl Events {
    /// Introduces a shard to the keeper.
    pub(super) fn connect(shard: ShardId, keeper: KeeperPort, waker: Waker) -> Self {
        let (sender, inbox) = channel();
        let waker = Arc::new(waker);
        keeper.tell(ToKeeper::Shard { shard, inbox: sender, waker });
        let refusals = Allowance { since: clock::now(), taken: 0 };
        let outbox = Outbox::new(keeper.clone());
        Self { keeper, outbox, inbox, followers: 0, followers_dropped: 0, refusals }
    }

    /// When what waits is to be told again.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        (!self.outbox.is_empty()).then(|| now + TELL_AGAIN)
    }
}

impl Driver {
    /// Tells the keeper what has happened in this turn, and what it had no room for before.
    pub(super) fn tell_events(&mut self) {
        let events = self.shard.take_events();
        if !events.is_empty() || !self.events.outbox.is_empty() {
            self.events.outbox.tell(time_ms(), events);
        }
    }

    /// Tells the keeper everything: the shard ends.
    pub(super) fn tell_last_events(&mut self) {
        self.tell_events();
        self.events.outbox.tell_rest(time_ms());
    }

    /// Tells the keeper what this shard holds.
    pub(super) fn tell_figures(&self) {
        let sessions = self.links.iter().filter(|link| link.is_inbound()).count();
        let figures = Figures {
            sockets: self.ledger().sockets,
            sessions: sessions as u64,
            registered: self.shard.registered_count() as u64,
        };
        self.events.keeper.tell(ToKeeper::Figures { shard: self.shard.id(), figures });
    }

    pub(super) fn take_from_keeper(&mut self) {
        while let Ok(message) = self.events.inbox.try_recv() {
            match message {
                FromKeeper::Feed { follower, bytes } => {
                    follower.take(bytes.len());
                    let token = Token::new(follower.token);
                    let Some(link) = self.links.get_mut(token) else { continue };
                    link.queue(bytes);
                    if link.unsent_bytes() > FOLLOWER_QUEUE_LEN_MAX {
                        self.drop_follower(&follower);
                    } else {
                        self.send_out(token);
                    }
                }
                FromKeeper::Judged { serial, verdict } => self.judged(serial, verdict),
                FromKeeper::Recent { serial, lines } => {
                    self.give_answer(serial, Answer::Recent(lines));
                }
                FromKeeper::Ended { follower } => self.drop_follower(&follower),
                FromKeeper::Ask { key, ask } => {
                    let ticket = Ticket { shard: self.shard.id(), serial: NOBODY };
                    let owner = self.shard.owner_of(&key);
                    self.port.put(owner, Message::Ask { ticket, ask });
                    self.again = true;
                }
            }
        }
    }

    /// Answers a request with the event log, from now on or from where the peer was.
    pub(super) fn follow(&mut self, token: Token, follow: Follow) {
        let now = self.now;
        let Some(link) = self.links.get_mut(token) else { return };
        let Session::Http(session) = &mut link.session else { return };
        link.role = Role::None;
        if link.phase != Phase::Open {
            return;
        }
        if self.events.followers >= FOLLOWERS_MAX {
            self.respond(token, Response::text(503, "too many follow the event log\n"));
            return;
        }
        match session.begin_stream(now, EVENT_STREAM, &[NO_STORE]) {
            Ok(StreamStart::Body) => {
                debug!(connection = %link.id, peer = %link.peer, "follows the event log");
                let follower = Arc::new(Follower::new(token.value()));
                link.role = Role::Follower(follower.clone());
                self.events.followers += 1;
                self.drain(token);
                let shard = self.shard.id();
                self.events.keeper.tell(ToKeeper::Follow { shard, follower, follow });
            }
            Ok(StreamStart::HeadOnly) => self.drain(token),
            Err(error) => self.session_failed(token, &error),
        }
    }

    /// A follower's connection is closed, or is about to be.
    pub(super) fn unfollow(&mut self, follower: Arc<Follower>) {
        self.events.followers -= 1;
        self.events.keeper.tell(ToKeeper::Unfollow { follower });
    }

    fn drop_follower(&mut self, follower: &Follower) {
        self.events.followers_dropped += 1;
        self.repeats.count(self.now, "a follower of the event log did not read, and was closed");
        self.close(Token::new(follower.token));
    }

    /// A connection has asked to play, and there is no stream for it here yet.
    pub(super) fn tell_waits(&mut self, token: Token, key: &StreamKey) {
        if let Some(link) = self.links.get(token)
            && self.shard.is_awaited(link.id)
        {
            let what = What::PlayerWaits(Box::new(peer_of(link, true)));
            let generation = self.shard.life_of(link.id, key);
            self.shard.tell_of(key.clone(), generation, what);
        }
    }

    pub(super) fn tell_started(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        link.has_started = true;
        if let Some(part) = &link.part {
            let (key, peer) = (part.key.clone(), Box::new(peer_of(link, true)));
            self.shard.tell_of(key, part.generation, What::PlayerStarted(peer));
        }
    }

    /// A rule or a hook is against a player before it has any part in the stream. Told of so many a
    /// second: whoever likes may be refused, and is not to push out what happens to streams.
    pub(super) fn tell_not_let_in(&mut self, token: Token, key: StreamKey, reason: Refusal) {
        if !self.events.refusals.take(self.now) {
            return;
        }
        if let Some(link) = self.links.get_mut(token) {
            link.part = Some(Part { ended: Some(reason.end()), ..Part::new("player", key) });
            self.tell_refused(token, reason);
        }
    }

    pub(super) fn tell_refused(&mut self, token: Token, reason: Refusal) {
        self.note_life(token);
        if let Some(link) = self.links.get(token)
            && let Some(part) = &link.part
        {
            let (key, peer) = (part.key.clone(), Box::new(peer_of(link, true)));
            self.shard.tell_of(key, part.generation, What::PlayerRefused { peer, reason });
        }
    }

    /// A connection is closed.
    pub(super) fn tell_left(&mut self, link: &Link) {
        if let Some((key, generation, what)) = left(link, self.now) {
            self.shard.tell_of(key, generation, what);
        }
    }

    /// The peer plays or publishes no more, and may go on with something else.
    pub(super) fn tell_part_left(&mut self, token: Token) {
        let now = self.now;
        let Some(link) = self.links.get_mut(token) else { return };
        let Some((key, generation, what)) = left(link, now) else { return };
        log_closed(link, now);
        (link.part, link.has_started) = (None, false);
        link.told = Some(Box::new((now, link.received_bytes, link.sent_bytes)));
        self.shard.tell_of(key, generation, what);
    }

    /// Keeps which life of its stream a connection has a part in, if that is not known yet.
    pub(super) fn note_life(&mut self, token: Token) {
        if let Some(link) = self.links.get_mut(token)
            && let Some(part) = &mut link.part
        {
            part.generation = part.generation.or_else(|| self.shard.life_of(link.id, &part.key));
        }
    }
}

/// What is told when a connection has no part in its stream any more. What was refused has been
/// told already.
fn left(link: &Link, now: Instant) -> Option<(StreamKey, Option<Generation>, What)> {
    let part = link.part.as_ref()?;
    if !link.has_started && part.ended.is_some() {
        return None;
    }
    let told = link.told.as_deref().copied();
    let (since, received_bytes, sent_bytes) = told.unwrap_or((link.opened, 0, 0));
    let traffic = Traffic {
        received_bytes: link.received_bytes - received_bytes,
        sent_bytes: link.sent_bytes - sent_bytes,
        seconds: (now - since).as_secs(),
    };
    let peer = Box::new(peer_of(link, part.what == "player"));
    Some((part.key.clone(), part.generation, What::Left { peer, reason: part.ended, traffic }))
}

pub(super) fn peer_of(link: &Link, is_player: bool) -> Peer {
    Peer {
        connection: link.id,
        address: link.peer,
        protocol: link.protocol,
        params: link.params.clone(),
        is_player,
    }
}

/// The Unix time, as events have it.
fn time_ms() -> u64 {
    clock::realtime_ns() / 1_000_000
}

/// From finding no room to the next try: the keeper takes thousands in that time.
const TELL_AGAIN: Duration = Duration::from_millis(5);
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
/// The serial of a question whose answer nobody waits for; those of the API begin at 1.
const NOBODY: u64 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_refusals_are_told_in_a_second() {
        let start = clock::now();
        let mut allowance = Allowance { since: start, taken: 0 };
        for second in 1..4 {
            let now = start + Duration::from_secs(second);
            let told = (0..1000).filter(|_| allowance.take(now)).count();
            assert_eq!(told, REFUSALS_TOLD_MAX as usize);
        }
    }
}
