//! One core's world: the streams that it owns, the players that it accepted, and what hangs on
//! them. Synchronous, with no socket and no clock of its own: `net` tells it what happens, and does
//! the [`Action`]s that it takes from [`Shard::poll_action`]. The simulation does the same with a
//! fake network.
//!
//! - `sources.rs`: a stream's source and media, from pending to registered and back.
//! - `pulls.rs`: pulls and their attempts.
//! - `failover.rs`: several sources of one pull.
//! - `pushes.rs`: pushes; `push_attempts.rs`: how they reach their destinations; `push.rs`: the way of one.
//! - `players.rs`: players and waiters, and the presence of a stream on this shard.
//! - `demand.rs`, `search.rs`, `absences.rs`: what players ask for and nobody brings.
//! - `places.rs`, `pace.rs`: whose turn it is at an origin, and when.
//! - `hosts.rs`: how the hosts do that are pulled from.
//! - `ending.rs`: closes, and the proof that nothing is left.
//! - `asks.rs`: what the API asks.
//! - `events.rs`: what is told to the event log.
//! - `idle.rs`: streams that nobody plays.
//! - `keeping.rs`: what survives a restart, and how it comes back.

mod absences;
mod asks;
mod bridging;
#[cfg(test)]
mod bridging_tests;
mod budget;
#[cfg(test)]
mod bus_tests;
mod closing;
mod demand;
#[cfg(test)]
mod demand_tests;
mod ending;
mod events;
mod failover;
#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod forms_tests;
mod gaps;
mod health;
mod hosts;
mod idle;
#[cfg(test)]
mod idle_tests;
mod invariants;
mod keeping;
pub mod ledger;
pub mod lifecycle;
mod losses;
mod pace;
#[cfg(test)]
mod patience_tests;
mod places;
mod player;
mod players;
mod policy;
#[cfg(test)]
mod pull_tests;
mod pulls;
mod push;
mod push_attempts;
#[cfg(test)]
mod push_tests;
mod pushes;
mod replica;
mod rtp;
mod search;
#[cfg(test)]
mod search_tests;
mod sources;
mod tables;
mod take_over;
#[cfg(test)]
mod telling_tests;
mod timers;
mod totals;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use budget::Budget;
use closing::Closing;
pub use demand::DemandTotals;
use demand::Demands;
use ending::EndOfLocal;
use hosts::Hosts;
use idle::Idle;
pub use keeping::RestoreError;
pub use lifecycle::{PullNews, Stage};
use pace::Paces;
use places::HeldPlaces;
pub use player::{Admitted, PlayRequest};
pub use policy::Policy;
pub use push_attempts::PushDial;
use pushes::Pushes;
use replica::{Ending, Locals, Member, Role};
pub use sources::PublishRefusal;
pub use tables::StreamHandle;
use tables::Tables;
use timers::{Timer, Timers};
pub use totals::Totals;

use crate::access::PendingPulls;
use crate::bus::event::Event;
use crate::bus::message::{Answer, LocalId, Message, Ticket};
use crate::config::Config;
use crate::egress::{Removed, Scratch, Wire};
use crate::journal::Record;
use crate::media::state::{EndReason, Generation};
use crate::media::{AttemptId, ConnectionId, Form, ShardId, SourceUrl, StreamKey};
use crate::proto::rtsp::LowerTransport;
use crate::ring::prefetch;

/// What the shard wants done.
pub enum Action {
    /// Put this into another shard's queue.
    Send { to: ShardId, message: Message },
    /// Somebody on this shard gets an answer.
    Answer { ticket: Ticket, answer: Answer },
    /// Tell the session that it plays, then call [`Shard::admitted`] or [`Shard::leave`].
    Admit { connection: ConnectionId },
    /// Tell the session that it does not play, then call [`Shard::released`].
    Refuse { connection: ConnectionId, reason: EndReason },
    /// End the session, with its protocol's goodbye unless `player` says that a tag is half sent;
    /// call [`Shard::released`] when its socket is closed.
    End { connection: ConnectionId, reason: EndReason, player: Option<Removed> },
    /// Pull this, and call [`Shard::attempt_closed`] when nothing is left of it.
    Dial {
        attempt: AttemptId,
        stream: StreamHandle,
        key: StreamKey,
        url: Arc<SourceUrl>,
        rtp_transport: LowerTransport,
        timeout: Duration,
    },
    /// Connect to where a push goes, and call [`Shard::attempt_closed`] when nothing is left of it.
    DialPush(PushDial),
    /// Give the attempt up.
    HangUp { attempt: AttemptId },
    /// Call [`Shard::writable`] when the socket takes bytes again.
    PollWritable { connection: ConnectionId },
    /// Write this to the log.
    Tell(PullNews),
    /// Put this into the journal before what comes after it is done.
    Keep(Record),
}

/// One core's world.
pub struct Shard {
    id: ShardId,
    shards: usize,
    policy: Policy,
    hash_seed: u64,
    rng: fastrand::Rng,
    serial: u64,
    tables: Tables,
    publishers: HashMap<ConnectionId, StreamHandle>,
    attempts: HashMap<AttemptId, StreamHandle>,
    budget: Budget<StreamHandle>,
    held_places: HeldPlaces,
    paces: Paces,
    demands: Demands,
    idle: Idle,
    hosts: Hosts,
    pending_pulls: PendingPulls,
    pushes: Pushes,
    timers: Timers,
    locals: Locals,
    members: HashMap<ConnectionId, Box<Member>>,
    /// Presences that were told to end and have not said `Released`.
    ended_locals: HashSet<LocalId>,
    closings: HashMap<Generation, Closing>,
    /// The closings that wait for a publisher's connection.
    closing_of: HashMap<ConnectionId, Generation>,
    endings: HashMap<LocalId, Ending>,
    ending_of: HashMap<ConnectionId, LocalId>,
    actions: VecDeque<Action>,
    dirty_streams: Vec<StreamHandle>,
    /// Streams whose audio waits for video, or all of them where there is a flush window.
    flush_queue: BTreeSet<(Instant, StreamHandle)>,
    /// To be entered there at the end of this turn, unless they are flushed in it.
    flush_later: Vec<StreamHandle>,
    /// Where the first flush window began.
    flush_grid: Option<Instant>,
    dirty_locals: Vec<LocalId>,
    /// Presences with players over UDP who are to get more, and when.
    behind: Vec<LocalId>,
    behind_due: Option<Instant>,
    /// Streams of which some is still to be made in the form that their source does not bring.
    bridging: VecDeque<StreamHandle>,
    bridging_due: Option<Instant>,
    /// Presences whose players get what was flushed before they are ended.
    due_ends: Vec<EndOfLocal>,
    changed_interest: Vec<(StreamKey, Form)>,
    /// By shard: messages to it wait for room in its queue.
    backed_up: Vec<bool>,
    scratch: Scratch,
    sent_video: Vec<Instant>,
    totals: Totals,
    now_unix: u64,
    shutting_down: bool,
    /// What happened and was not taken; `None` where nobody takes it.
    events: Option<Vec<Event>>,
}

impl Shard {
    /// A shard with nothing in it. `hash_seed` must be the same on all shards.
    pub fn new(id: ShardId, shards: usize, hash_seed: u64, policy: Policy) -> Self {
        Self {
            id,
            shards,
            policy,
            hash_seed,
            rng: fastrand::Rng::with_seed(hash_seed ^ u64::from(id.0)),
            serial: 0,
            tables: Tables::default(),
            publishers: HashMap::new(),
            attempts: HashMap::new(),
            budget: Budget::default(),
            held_places: HeldPlaces::default(),
            paces: Paces::default(),
            demands: Demands::default(),
            idle: Idle::default(),
            hosts: Hosts::default(),
            pending_pulls: PendingPulls::default(),
            pushes: Pushes::default(),
            timers: Timers::default(),
            locals: Locals::default(),
            members: HashMap::new(),
            ended_locals: HashSet::new(),
            closings: HashMap::new(),
            closing_of: HashMap::new(),
            endings: HashMap::new(),
            ending_of: HashMap::new(),
            actions: VecDeque::new(),
            dirty_streams: Vec::new(),
            flush_queue: BTreeSet::new(),
            flush_later: Vec::new(),
            flush_grid: None,
            dirty_locals: Vec::new(),
            behind: Vec::new(),
            behind_due: None,
            bridging: VecDeque::new(),
            bridging_due: None,
            due_ends: Vec::new(),
            changed_interest: Vec::new(),
            backed_up: vec![false; shards],
            scratch: Scratch::default(),
            sent_video: Vec::new(),
            totals: Totals::default(),
            now_unix: 0,
            shutting_down: false,
            events: None,
        }
    }

    pub fn id(&self) -> ShardId {
        self.id
    }

    pub fn shards(&self) -> usize {
        self.shards
    }

    pub fn set_policy(&mut self, policy: Policy) {
        let is_other_delay = policy.none_reader_delay != self.policy.none_reader_delay;
        self.policy = policy;
        if is_other_delay {
            self.await_idle_anew();
        }
    }

    /// Goes by this configuration from now on.
    pub fn configure(&mut self, now: Instant, config: &Config) {
        self.set_policy(Policy::of(config, self.shards));
        if self.set_origins(config) {
            self.search_again(now);
        }
        self.hand_out_all_places(now);
    }

    /// The wall clock, for what is shown to people.
    pub fn set_unix_seconds(&mut self, now: u64) {
        self.now_unix = now;
    }

    /// The shard that owns a key.
    pub fn owner_of(&self, key: &StreamKey) -> ShardId {
        owner_of(key, self.shards, self.hash_seed)
    }

    /// What is to be done next. Drain it after each call that changes the shard.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let flush = self.flush_queue.first().map(|&(due, _)| due);
        let idle = self.idle.first().map(|&(due, _)| due);
        let pace = self.paces.poll_timeout();
        let own = [flush, idle, pace, self.behind_due, self.bridging_due];
        self.timers.next().into_iter().chain(own.into_iter().flatten()).min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(due, handle)) = self.flush_queue.first()
            && due <= now
        {
            self.flush_queue.pop_first();
            if let Some(stream) = self.tables.get_mut(handle) {
                stream.flush_due = None;
                self.flush_soon(handle);
            }
        }
        if self.behind_due.is_some_and(|due| due <= now) {
            self.catch_up();
        }
        self.tell_idle(now);
        self.keep_pace(now);
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Wait(connection) => self.wait_is_over(connection),
                Timer::Retry(stream) => self.retry(now, stream),
                Timer::Queue(stream, side) => self.queue_is_over(now, stream, side),
                Timer::Hedge(stream) => self.hedge_is_due(now, stream),
                Timer::Grace(stream) => self.grace_is_over(now, stream),
                Timer::Silence(stream) => self.check_silence(now, stream),
                Timer::Attempt(attempt) => self.attempt_is_over(now, attempt),
                Timer::Demand(stream) => self.hook_is_over(now, stream),
                Timer::Push(push) => self.push_is_due(now, push),
                Timer::Close(generation) => self.close_is_over(generation),
            }
        }
    }

    /// A bus message has come.
    pub fn handle_message(&mut self, now: Instant, from: ShardId, message: Message) {
        match message {
            Message::Interest { key, local, players, waiters, askings } => {
                self.interest(now, (from, local), key, (players, waiters), askings);
            }
            Message::Released { key, local, generation, released } => {
                self.local_released(now, &key, local, generation, released);
            }
            Message::Attached { key, local, generation, snapshot } => {
                self.attached(&key, local, generation, snapshot);
            }
            Message::Flushed { local, delta, video_since, .. } => {
                self.flushed(local, delta, video_since);
            }
            Message::Suspended { local, .. } => self.suspended(local),
            Message::Resumed { key, local } => self.resumed(&key, local),
            Message::End { key, local, generation, reason } => {
                self.end_local_flushed(EndOfLocal { key, local, owner: from, generation, reason });
            }
            Message::Ask { ticket, ask } => self.handle_ask(now, ticket, ask),
            Message::Answer { ticket, answer } => {
                self.actions.push_back(Action::Answer { ticket, answer });
            }
            Message::Adopt(_) => unreachable!("net takes it before it comes here"),
        }
    }

    /// A flush for a replica was lost to a full queue: give it a new snapshot with the next one.
    pub fn flush_was_dropped(&mut self, to: ShardId, key: &StreamKey, form: Form) {
        if let Some(handle) = self.tables.find(key)
            && let Some(stream) = self.tables.get_mut(handle)
            && let Some(subscriber) = stream.subscribers.get_mut(&(to, form))
        {
            subscriber.lacks_flush = true;
        }
    }

    /// Messages to a shard wait for room in its queue, or do so no more. Meanwhile it is told only
    /// what must not be missed, each thing once; counts, flushes and snapshots follow later, as they
    /// are then. Returns whether there is room again, so that the next turn is due.
    pub fn set_backed_up(&mut self, to: ShardId, backed_up: bool) -> bool {
        std::mem::replace(&mut self.backed_up[to.index()], backed_up) && !backed_up
    }

    /// Sends what this turn brought: flushes, and what other shards are to know.
    pub fn tick(&mut self, now: Instant, wire: &mut dyn Wire) {
        self.give_freed_places(now);
        self.flush_streams();
        self.queue_flushes();
        self.flush_locals(now, wire);
        for end in std::mem::take(&mut self.due_ends) {
            self.end_local(end);
        }
        self.bridge_one(now);
        self.report_interest();
    }

    /// Of each stream of which the last tick sent video: when the oldest frame of that had come in
    /// with its last byte, as `now` was told then.
    pub fn sent_video(&self) -> &[Instant] {
        &self.sent_video
    }

    /// Once a second: slow players of streams that stand still.
    pub fn housekeep(&mut self, now: Instant, wire: &mut dyn Wire) {
        self.check_slow_players(now, wire);
        self.demands.expire(now);
        self.count_pushed(now);
    }

    /// Ends everything.
    pub fn shut_down(&mut self, now: Instant) {
        self.shutting_down = true;
        self.shut_down_pushes(now);
        for handle in self.tables.handles() {
            self.end_stream(now, handle, EndReason::Shutdown, None);
        }
    }

    /// Has the CPU fetch what the next `len` bytes of a stream's source need, `depth` pointers from
    /// the stream's place. To be called for each depth from 0 to [`Self::DEPTH_MAX`].
    pub fn prefetch(&self, handle: StreamHandle, depth: u32, len: usize) {
        let Some(stream) = self.tables.at(handle.slot) else { return };
        if depth == 0 {
            prefetch(stream);
            return;
        }
        stream.media.prefetch(depth, len);
        // Most streams have one presence with players, and in most places it is here.
        let Some((place, subscriber)) = stream.subscribers.first_key_value() else { return };
        if depth == 1 {
            prefetch(place);
            prefetch(subscriber);
            return;
        }
        let Some(here) = self.locals.at(subscriber.local.slot) else { return };
        match depth {
            2 => prefetch(here),
            _ => here.crowd.prefetch(),
        }
    }

    /// Pointers between a stream's place and the last of what its next bytes need.
    pub const DEPTH_MAX: u32 = 3;

    /// The stream that an attempt was made for, while it has one.
    pub fn stream_of(&self, attempt: AttemptId) -> Option<StreamHandle> {
        self.attempts.get(&attempt).copied()
    }

    pub fn totals(&self) -> Totals {
        let mut totals = self.totals;
        self.tables.iter().for_each(|stream| totals.add_media(&stream.media));
        totals
    }

    pub fn pending_count(&self) -> usize {
        self.tables.pending_count()
    }

    pub fn registered_count(&self) -> usize {
        self.tables.registered_count()
    }

    /// Origins with connects under way or waiting for their turn.
    pub fn origins_dialed(&self) -> usize {
        self.budget.len()
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn next_generation(&mut self) -> Generation {
        let serial = self.next_serial();
        Generation(serial * self.shards as u64 + u64::from(self.id.0))
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        if ticket.shard == self.id {
            self.actions.push_back(Action::Answer { ticket, answer });
        } else {
            let message = Message::Answer { ticket, answer };
            self.actions.push_back(Action::Send { to: ticket.shard, message });
        }
    }

    fn send(&mut self, to: ShardId, message: Message) {
        self.actions.push_back(Action::Send { to, message });
    }
}

/// The shard that owns a key, of so many.
pub fn owner_of(key: &StreamKey, shards: usize, hash_seed: u64) -> ShardId {
    let mut hasher = DefaultHasher::new();
    hash_seed.hash(&mut hasher);
    key.hash(&mut hasher);
    ShardId((hasher.finish() % shards as u64) as u16)
}
