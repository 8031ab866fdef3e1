//! A shard's driver: harvest what the kernel has done, feed the sessions, drain the bus, run what
//! is due, flush, submit.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::PipeWriter;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::events::Events;
use super::keeping::Keeper;
use super::link::{Links, Phase};
use super::marks::Marks;
use super::pace::Pace;
use super::probe::Prober;
use super::pull::{Attempt, Dial, Purpose, Resolved};
use super::resolver::Resolver;
use super::udp::{PortPool, UDP_BIT, UdpPairs};
use super::verdicts::Wanted;
use super::wire::RingWire;
use super::{Handler, NodeHandle, Setup};
use crate::access::Guests;
use crate::bus::message::{Answer, Ask, Message};
use crate::bus::{MeshPort, mesh};
use crate::clock;
use crate::config::Config;
use crate::logging::Repeats;
use crate::media::{AttemptId, ConnectionId, ShardId};
use crate::metrics::Residence;
use crate::proto::{Output, rtmp};
use crate::ring::{Completion, MediaRing, OpKind, Outcome, Token, Waker, socket};
use crate::rt::{LocalTask, OneshotSender};
use crate::shard::ledger::Ledger;
use crate::shard::{Action, Shard};

/// What a shard's thread works with.
pub(super) struct Driver {
    pub(super) shard: Shard,
    pub(super) ring: MediaRing,
    pub(super) wire: RingWire,
    pub(super) port: MeshPort,
    pub(super) waker: Waker,
    pub(super) config: Arc<Config>,
    pub(super) resolver: Arc<Resolver>,
    /// What lookup threads have found; each shard has its own queue.
    pub(super) resolved_in: mpsc::Sender<Resolved>,
    pub(super) resolved_out: mpsc::Receiver<Resolved>,
    pub(super) keeper: Option<Keeper>,
    pub(super) prober: Prober,
    /// Looks at origins, by the connection that asked; closing its end ends one.
    pub(super) probes: HashMap<ConnectionId, PipeWriter>,
    /// What threads that may block have to say, to questions by their number.
    pub(super) answers_in: mpsc::Sender<(u64, Answer)>,
    pub(super) answers_out: mpsc::Receiver<(u64, Answer)>,
    pub(super) setup: Setup,
    pub(super) handler: Handler,
    /// Itself, for the tasks that it starts.
    pub(super) handle: Option<NodeHandle>,
    pub(super) links: Links,
    pub(super) guests: Arc<Guests>,
    pub(super) by_connection: HashMap<ConnectionId, Token>,
    pub(super) udp: UdpPairs,
    pub(super) attempts: HashMap<AttemptId, Attempt>,
    pub(super) asks: HashMap<u64, (OneshotSender<Answer>, Instant)>,
    pub(super) next_ask: u64,
    /// Until when each may be answered.
    pub(super) ask_deadlines: BTreeSet<(Instant, u64)>,
    /// To be started when the driver is not borrowed.
    pub(super) tasks: Vec<LocalTask>,
    /// There is something to do already: the next turn comes without a sleep.
    pub(super) again: bool,
    pace: Pace,
    pub(super) listeners: Vec<Listener>,
    pub(super) next_connection: u32,
    pub(super) deadlines: BTreeSet<(Instant, Token)>,
    pub(super) marks: Marks,
    /// Room for the outputs of RTMP sessions, lent to each for as long as its input is handled.
    pub(super) outputs_room: VecDeque<Output<rtmp::ServerEvent>>,
    completions: Vec<Completion>,
    pub(super) now: Instant,
    pub(super) shutting_down: bool,
    next_housekeeping: Instant,
    pub(super) load: super::load::LoadMeter,
    pub(super) counters: Counters,
    pub(super) events: Events,
    /// Connections that wait for a hook's verdict, by the question.
    pub(super) judged: HashMap<u64, (ConnectionId, Wanted)>,
    pub(super) next_verdict: u64,
    pub(super) residence: Residence,
    pub(super) repeats: Repeats,
    pub(super) reserve: Option<socket::ReserveFd>,
}

/// What a listening port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Rtmp,
    Http,
    Rtsp,
}

pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) protocol: Protocol,
    pub(super) accepting: bool,
}

/// Marks a token as that of a listener.
pub(super) const LISTENER_BIT: u64 = 1 << 55;
/// How long a peer may take to read our last words, without reading any of them.
pub(super) const FINISH_TIME: Duration = Duration::from_secs(2);
/// How long it may take to read an answer at all, from when it was first found to be slow: 10 MB at 2
/// Mbit/s. As long its bytes are held.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes that a peer may leave unread while it asks for more.
pub(super) const UNSENT_BYTES_MAX: usize = 1024 * 1024;
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// A turn at least so often: what a shut-down may wait for a shard that has nothing to do.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// The parts of a driver that come from outside.
pub(super) struct Parts {
    pub(super) shard: Shard,
    pub(super) ring: MediaRing,
    pub(super) wire: RingWire,
    pub(super) port: MeshPort,
    pub(super) config: Arc<Config>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) events: Events,
    pub(super) prober: Prober,
    pub(super) setup: Setup,
    pub(super) guests: Arc<Guests>,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Rc<RefCell<Self>> {
        let now = clock::now();
        let waker = parts.ring.waker();
        let (shard, shards) = (parts.shard.id().index(), parts.shard.shards());
        let udp = UdpPairs::new(PortPool::new(&parts.config.rtsp.udp_ports, shard, shards));
        let (resolved_in, resolved_out) = mpsc::channel();
        let (answers_in, answers_out) = mpsc::channel();
        let driver = Rc::new(RefCell::new(Self {
            shard: parts.shard,
            ring: parts.ring,
            wire: parts.wire,
            port: parts.port,
            waker,
            config: parts.config,
            resolver: parts.resolver,
            resolved_in,
            resolved_out,
            prober: parts.prober,
            probes: HashMap::new(),
            answers_in,
            answers_out,
            keeper: parts.setup.kept.as_ref().map(|kept| Keeper::new(kept.journal.clone())),
            handler: (parts.setup.make_handler)(),
            setup: parts.setup,
            handle: None,
            links: Links::default(),
            guests: parts.guests,
            by_connection: HashMap::new(),
            udp,
            attempts: HashMap::new(),
            asks: HashMap::new(),
            next_ask: 0,
            ask_deadlines: BTreeSet::new(),
            tasks: Vec::new(),
            again: false,
            pace: Pace::new(now),
            listeners: Vec::new(),
            next_connection: 0,
            deadlines: BTreeSet::new(),
            marks: Marks::new(now),
            outputs_room: VecDeque::new(),
            completions: Vec::new(),
            now,
            shutting_down: false,
            next_housekeeping: now + HOUSEKEEPING,
            load: super::load::LoadMeter::default(),
            counters: Counters::default(),
            events: parts.events,
            judged: HashMap::new(),
            next_verdict: 0,
            residence: Residence::default(),
            repeats: Repeats::default(),
            reserve: socket::ReserveFd::open().ok(),
        }));
        driver.borrow_mut().handle = Some(NodeHandle::new(&driver));
        driver
    }

    /// One tick.
    pub(super) fn turn(&mut self) {
        self.again = false;
        self.now = clock::now();
        self.counters.ticks += 1;
        self.shard.set_unix_seconds(clock::unix_seconds());
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.harvest(&mut completions);
        self.pace.count(self.now, completions.len());
        self.complete_all(completions.drain(..));
        self.completions = completions;
        self.set_marks();
        self.take_messages();
        self.take_resolved();
        self.take_synced();
        self.take_answers();
        self.take_from_keeper();
        self.run_due();
        // Before owners hear of new waiters, so that the keeper knows who waits.
        self.tell_events();
        self.flush();
        self.act();
        self.tell_events();
        // What is kept for a full queue is tried again soon.
        self.again |= self.port.flush();
        for index in 0..self.port.shards() {
            let to = ShardId(index as u16);
            // What the shard held back for want of room goes out in the next turn.
            self.again |= self.shard.set_backed_up(to, self.port.is_backed_up(to));
        }
    }

    /// Sends what this turn brought, and counts how long it was here.
    fn flush(&mut self) {
        if self.port.shards() > 1 {
            // The other shards serve their players while this one does.
            self.shard.flush_streams();
            self.act();
            self.again |= self.port.flush();
        }
        // Joins and sockets that take bytes again have been served before.
        self.wire.take_first_send();
        self.shard.tick(self.now, &mut self.wire);
        if let Some(at) = self.wire.take_first_send() {
            for &since in self.shard.sent_video() {
                self.residence.observe(at.duration_since(since));
            }
        }
    }

    fn take_messages(&mut self) {
        for _ in 0..MESSAGES_PER_TURN_MAX {
            let Some((from, message)) = self.port.take() else { return };
            self.handle_message(from, message);
            self.act();
        }
        self.again = true;
    }

    /// Sleeps until something happens or the next turn is due.
    pub(super) fn sleep(&mut self) {
        let time = match std::mem::take(&mut self.again) {
            true => Duration::ZERO,
            false => self.next_deadline().saturating_duration_since(clock::now()),
        };
        let gather = self.pace.gather(Duration::from_micros(self.config.media_ring.coalesce_us));
        self.ring.wait(time.min(SLEEP_MAX), gather);
    }

    /// When the next turn must be, at the latest.
    fn next_deadline(&self) -> Instant {
        let shard = self.shard.poll_timeout();
        let link = self.deadlines.first().map(|&(at, _)| at);
        let repeats = self.repeats.poll_timeout();
        let ask = self.ask_deadlines.first().map(|&(at, _)| at);
        let (marks, events) = (self.marks.poll_timeout(), self.events.next_try(self.now));
        let others = [shard, link, repeats, ask, marks, events].into_iter().flatten();
        others.fold(self.next_housekeeping, Instant::min)
    }

    /// Sockets, and everything that the shard holds.
    pub(super) fn ledger(&self) -> Ledger {
        let listeners = self.listeners.iter().filter(|listener| listener.accepting).count();
        let mut ledger = self.shard.ledger();
        ledger.sockets = (self.links.len() + self.udp.sockets() + listeners) as u64;
        ledger
    }

    /// Stops accepting, ends every stream and connection.
    pub(super) fn shut_down(&mut self) {
        if std::mem::replace(&mut self.shutting_down, true) {
            return;
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            if listener.accepting {
                let token = Token::new(LISTENER_BIT | index as u64);
                self.ring.cancel(token, OpKind::Accept);
            }
        }
        self.shard.shut_down(self.now);
        self.act();
        let idle: Vec<Token> =
            self.links.iter().filter(|link| link.role.is_idle()).map(|link| link.token).collect();
        for token in idle {
            self.close(token);
        }
        self.act();
        // The turn is over, and what this brought is for the next.
        self.again = true;
    }

    pub(super) fn run_due(&mut self) {
        let now = self.now;
        if self.shard.poll_timeout().is_some_and(|at| at <= now) {
            self.load.timer_was_late(now - self.shard.poll_timeout().unwrap_or(now));
            self.shard.handle_timeout(now);
            self.act();
        }
        while let Some(&(at, token)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            self.link_timeout(token);
            self.act();
        }
        self.lift_marks();
        while let Some(&(at, serial)) = self.ask_deadlines.first()
            && at <= now
        {
            self.ask_deadlines.pop_first();
            self.asks.remove(&serial);
        }
        if self.repeats.poll_timeout().is_some_and(|at| at <= now) {
            self.repeats.report(now);
        }
        if now >= self.next_housekeeping {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.load.sample(now);
            self.tell_figures();
            self.shard.housekeep(now, &mut self.wire);
            self.act();
            self.accept_again();
        }
    }

    fn link_timeout(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        link.deadline = None;
        let due = link.next_timeout().is_some_and(|at| at <= self.now);
        let is_slow_reader = due && link.is_slow_reader(self.now);
        match link.phase {
            Phase::Closing => {}
            Phase::Finishing { shut, .. } if due => {
                if !self.shutting_down && link.goes_on_reading(self.now) {
                    link.phase = Phase::Finishing { until: self.now + FINISH_TIME, shut };
                } else {
                    self.close(token);
                }
            }
            Phase::Open if due && link.connecting => self.connect_is_over(token),
            // It reads a long answer; the time for its next request has not begun.
            Phase::Open if due && is_slow_reader => {}
            Phase::Open if due => self.session_timeout(token),
            _ => {}
        }
        self.set_deadline(token);
    }

    pub(super) fn forget_deadline(&mut self, at: Instant, token: Token) {
        self.deadlines.remove(&(at, token));
    }

    /// Takes out the entry of a link that wants to be called no more: those who play by the thousand
    /// need none.
    pub(super) fn drop_deadline(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if link.next_timeout().is_none()
            && let Some(at) = link.deadline.take()
        {
            self.forget_deadline(at, token);
        }
    }

    /// Enters when a link wants to be called. Entries are not moved when that gets later: a link
    /// that has nothing to do when its entry comes up is entered again.
    pub(super) fn set_deadline(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        let Some(at) = link.next_timeout() else { return };
        if link.deadline.is_some_and(|set| set <= at) {
            return;
        }
        if let Some(old) = link.deadline.replace(at) {
            self.deadlines.remove(&(old, token));
        }
        self.deadlines.insert((at, token));
    }

    pub(super) fn complete(&mut self, completion: Completion) {
        let Completion { token, outcome } = completion;
        if token.value() & LISTENER_BIT != 0 {
            let index = (token.value() & !LISTENER_BIT) as usize;
            self.complete_accept(index, outcome);
            return;
        }
        if token.value() & UDP_BIT != 0 {
            self.complete_udp(token, outcome);
            return;
        }
        match outcome {
            Outcome::Received(bytes) => self.received(token, bytes.into_bytes()),
            Outcome::ReceiveEnded(ended) => self.receive_ended(token, ended),
            Outcome::Connected(result) => {
                if let Some(link) = self.links.get_mut(token) {
                    link.connecting = false;
                }
                if !self.gone_if_closing(token) {
                    self.connected(token, result);
                }
            }
            Outcome::Writable | Outcome::PollEnded(_) => {
                if let Some(link) = self.links.get_mut(token) {
                    link.polling = false;
                }
                if !self.gone_if_closing(token) {
                    self.writable(token);
                }
            }
            Outcome::Accepted(_) | Outcome::AcceptEnded(_) | Outcome::Readable => {}
        }
    }

    /// Does what the shard wants done.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Send { to, message } => self.put(to, message),
                Action::Answer { ticket, answer } => self.give_answer(ticket.serial, answer),
                Action::Admit { connection } => self.admit(connection),
                Action::Refuse { connection, reason } => self.refuse(connection, reason),
                Action::End { connection, reason, player } => self.end(connection, reason, player),
                Action::Dial { attempt, key, url, rtp_transport, timeout, .. } => {
                    let purpose = Purpose::Pull;
                    self.dial(attempt, Dial { purpose, key, url, rtp_transport, timeout });
                }
                Action::DialPush(dial) => self.dial_push(dial),
                Action::HangUp { attempt } => self.hang_up(attempt),
                Action::Tell(news) => self.tell(&news),
                Action::Keep(record) => self.keep(record),
                Action::PollWritable { connection } => {
                    if let Some(&token) = self.by_connection.get(&connection) {
                        self.poll_writable(token);
                    }
                }
            }
        }
    }

    fn put(&mut self, to: ShardId, message: Message) {
        let flushed = match &message {
            Message::Flushed { key, local, .. } => Some((key.clone(), local.form)),
            _ => None,
        };
        let put = self.port.put(to, message);
        match put {
            mesh::Put::Sent => {}
            mesh::Put::Kept => {
                self.shard.set_backed_up(to, true);
            }
            mesh::Put::Dropped => {
                if let Some((key, form)) = flushed {
                    self.shard.flush_was_dropped(to, &key, form);
                }
            }
        }
    }

    fn handle_message(&mut self, from: ShardId, message: Message) {
        match message {
            Message::Adopt(moved) => self.adopt(moved),
            Message::Ask { ticket, ask: Ask::Node(ask) } => {
                let answer = self.node_answer(ask);
                if ticket.shard == self.shard.id() {
                    self.give_answer(ticket.serial, answer);
                } else {
                    self.put(ticket.shard, Message::Answer { ticket, answer });
                }
            }
            message => self.shard.handle_message(self.now, from, message),
        }
    }
}

/// Bus messages of one turn; the rest comes in the next, after the flush.
const MESSAGES_PER_TURN_MAX: usize = 4096;
