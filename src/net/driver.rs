//! A shard's driver: harvest what the kernel has done, feed the sessions, drain the bus, run what
//! is due, flush, submit.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{debug, info, warn};

use super::link::{Link, Links, Part, Phase, Role, Session};
use super::pull::{Attempt, Resolved};
use super::resolver::Resolver;
use super::wire::RingWire;
use super::{Handler, NodeHandle};
use crate::bus::message::{Answer, Ask, Message, NodeAsk};
use crate::bus::{MeshPort, mesh};
use crate::clock;
use crate::config::Config;
use crate::egress::Removed;
use crate::logging::Repeats;
use crate::media::state::EndReason;
use crate::media::{AttemptId, ConnectionId, ShardId};
use crate::ring::{Completion, Ended, MediaRing, OpKind, Outcome, Token, Waker, socket};
use crate::rt::OneshotSender;
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
    pub(super) handler: Handler,
    /// Itself, for the tasks that it starts.
    pub(super) handle: Option<NodeHandle>,
    pub(super) links: Links,
    pub(super) by_connection: HashMap<ConnectionId, Token>,
    pub(super) attempts: HashMap<AttemptId, Attempt>,
    pub(super) asks: HashMap<u64, OneshotSender<Answer>>,
    pub(super) next_ask: u64,
    /// To be started when the driver is not borrowed: a task runs as far as it can at once.
    pub(super) tasks: Vec<Pin<Box<dyn Future<Output = ()>>>>,
    listeners: Vec<Listener>,
    next_connection: u32,
    deadlines: BTreeSet<(Instant, Token)>,
    completions: Vec<Completion>,
    pub(super) now: Instant,
    pub(super) shutting_down: bool,
    next_housekeeping: Instant,
    pub(super) load: super::load::LoadMeter,
    pub(super) counters: Counters,
    pub(super) repeats: Repeats,
    reserve: Option<socket::ReserveFd>,
}

/// What `net` counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) shed: u64,
    pub(super) session_errors: u64,
    pub(super) handed_over: u64,
    pub(super) ticks: u64,
}

/// What a listening port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Rtmp,
    Http,
}

struct Listener {
    fd: OwnedFd,
    protocol: Protocol,
    accepting: bool,
}

/// Marks a token as that of a listener.
const LISTENER_BIT: u64 = 1 << 55;
/// How long a peer may take to read our last words.
const FINISH_TIME: Duration = Duration::from_secs(2);
/// Bytes that a peer may leave unread while it asks for more.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// The parts of a driver that come from outside.
pub(super) struct Parts {
    pub(super) shard: Shard,
    pub(super) ring: MediaRing,
    pub(super) wire: RingWire,
    pub(super) port: MeshPort,
    pub(super) config: Arc<Config>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) handler: Handler,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Rc<RefCell<Self>> {
        let now = clock::now();
        let waker = parts.ring.waker();
        let (resolved_in, resolved_out) = mpsc::channel();
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
            handler: parts.handler,
            handle: None,
            links: Links::default(),
            by_connection: HashMap::new(),
            attempts: HashMap::new(),
            asks: HashMap::new(),
            next_ask: 0,
            tasks: Vec::new(),
            listeners: Vec::new(),
            next_connection: 0,
            deadlines: BTreeSet::new(),
            completions: Vec::new(),
            now,
            shutting_down: false,
            next_housekeeping: now + HOUSEKEEPING,
            load: super::load::LoadMeter::default(),
            counters: Counters::default(),
            repeats: Repeats::default(),
            reserve: socket::ReserveFd::open().ok(),
        }));
        driver.borrow_mut().handle = Some(NodeHandle::new(&driver));
        driver
    }

    pub(super) fn listen(&mut self, fd: OwnedFd, protocol: Protocol) {
        let token = Token::new(LISTENER_BIT | self.listeners.len() as u64);
        self.ring.accept_multishot(fd.as_raw_fd(), token);
        self.listeners.push(Listener { fd, protocol, accepting: true });
    }

    /// One tick.
    pub(super) fn turn(&mut self) {
        self.now = clock::now();
        self.counters.ticks += 1;
        self.shard.set_unix_seconds(clock::unix_seconds());
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.harvest(&mut completions);
        for completion in completions.drain(..) {
            self.complete(completion);
            self.act();
        }
        self.completions = completions;
        for _ in 0..MESSAGES_PER_TURN_MAX {
            let Some((from, message)) = self.port.take() else { break };
            self.handle_message(from, message);
            self.act();
        }
        self.take_resolved();
        self.run_due();
        self.shard.tick(self.now, &mut self.wire);
        self.act();
        self.ring.submit();
        if self.port.flush() {
            // Something is kept for a full queue: come back soon.
            self.waker.wake();
        }
    }

    /// When the next turn must be, at the latest.
    pub(super) fn next_deadline(&self) -> Instant {
        let shard = self.shard.poll_timeout();
        let link = self.deadlines.first().map(|&(at, _)| at);
        let repeats = self.repeats.poll_timeout();
        let others = [shard, link, repeats].into_iter().flatten();
        others.fold(self.next_housekeeping, Instant::min)
    }

    /// Sockets, and everything that the shard holds.
    pub(super) fn ledger(&self) -> Ledger {
        let listeners = self.listeners.iter().filter(|listener| listener.accepting).count();
        let mut ledger = self.shard.ledger();
        ledger.sockets = (self.links.len() + listeners) as u64;
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
        let idle: Vec<Token> = self
            .links
            .iter()
            .filter(|link| matches!(link.role, Role::None | Role::Leaving { .. }))
            .map(|link| link.token)
            .collect();
        for token in idle {
            self.close(token);
        }
        self.act();
    }

    fn run_due(&mut self) {
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
        if self.repeats.poll_timeout().is_some_and(|at| at <= now) {
            self.repeats.report(now);
        }
        if now >= self.next_housekeeping {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.load.sample(now);
            self.shard.housekeep(now, &mut self.wire);
            self.act();
            self.accept_again();
        }
    }

    fn link_timeout(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        link.deadline = None;
        let due = link.next_timeout().is_some_and(|at| at <= self.now);
        match link.phase {
            Phase::Closing => {}
            Phase::Finishing { .. } if due => self.close(token),
            Phase::Open if due => self.session_timeout(token),
            _ => {}
        }
        self.set_deadline(token);
    }

    pub(super) fn forget_deadline(&mut self, at: Instant, token: Token) {
        self.deadlines.remove(&(at, token));
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

    fn complete(&mut self, completion: Completion) {
        let Completion { token, outcome } = completion;
        if token.value() & LISTENER_BIT != 0 {
            let index = (token.value() & !LISTENER_BIT) as usize;
            self.complete_accept(index, outcome);
            return;
        }
        match outcome {
            Outcome::Received(bytes) => self.received(token, bytes),
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
            Outcome::Accepted(_) | Outcome::AcceptEnded(_) => {}
        }
    }

    fn complete_accept(&mut self, index: usize, outcome: Outcome) {
        match outcome {
            Outcome::Accepted(fd) => {
                let protocol = self.listeners[index].protocol;
                self.accepted(fd, protocol);
            }
            Outcome::AcceptEnded(ended) => {
                self.listeners[index].accepting = false;
                if self.shutting_down {
                    return;
                }
                if let Ended::Error(errno) = ended {
                    self.repeats.count(self.now, "accept failed");
                    debug!(%errno, "accept failed");
                    let listener = &self.listeners[index].fd;
                    if let Some(reserve) = &mut self.reserve
                        && let Ok(shed) = reserve.shed(listener, SHED_MAX)
                    {
                        self.counters.shed += shed as u64;
                    }
                    // Armed again by the housekeeping, so that a lasting error costs little.
                    return;
                }
                self.accept_again();
            }
            _ => {}
        }
    }

    fn accept_again(&mut self) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if !listener.accepting && !self.shutting_down {
                listener.accepting = true;
                let token = Token::new(LISTENER_BIT | index as u64);
                self.ring.accept_multishot(listener.fd.as_raw_fd(), token);
            }
        }
    }

    fn accepted(&mut self, fd: OwnedFd, protocol: Protocol) {
        let max = self.config.limits.connections_per_shard_max as usize;
        if self.shutting_down || self.links.len() >= max {
            self.counters.refused += 1;
            self.repeats.count(self.now, "connection refused: the shard's limit is reached");
            return;
        }
        // A peer that is gone already has no address; its connection ends here.
        let Ok(peer) = socket::peer_addr(&fd) else { return };
        let Ok(local) = socket::local_addr(&fd) else { return };
        self.counters.accepted += 1;
        let notsent_bytes_max = self.config.egress.send_notsent_lowat_bytes;
        let options = socket::StreamOptions { nodelay: true, notsent_bytes_max };
        if let Err(error) = socket::set_stream_options(&fd, options) {
            debug!(%peer, %error, "socket options were not set");
        }
        let session = self.new_session(protocol);
        let id = self.new_connection_id();
        let ends = (unmapped(local), unmapped(peer));
        let link = Link::new(id, fd, ends, session, Role::None, self.now);
        debug!(connection = %id, peer = %link.peer, ?protocol, "opened");
        self.enter(link);
    }

    /// Enters a link and begins to receive on it.
    pub(super) fn enter(&mut self, link: Link) -> Token {
        let (id, fd) = (link.id, link.raw_fd());
        let token = self.links.insert(link);
        self.by_connection.insert(id, token);
        let link = self.links.get_mut(token).expect("just entered");
        link.receiving = true;
        self.ring.recv_multishot(fd, token);
        self.drain(token);
        token
    }

    pub(super) fn new_connection_id(&mut self) -> ConnectionId {
        self.next_connection = self.next_connection.wrapping_add(1);
        ConnectionId { serial: self.next_connection, shard: self.shard.id() }
    }

    fn received(&mut self, token: Token, bytes: Bytes) {
        let Some(link) = self.links.get_mut(token) else { return };
        link.received_bytes += bytes.len() as u64;
        if let Role::Leaving { held, .. } = &mut link.role {
            // A view of this shard's receive buffers must not leave it.
            held.push(Bytes::copy_from_slice(&bytes));
            return;
        }
        if link.phase == Phase::Open {
            if link.unsent_bytes() > UNSENT_BYTES_MAX && !matches!(link.role, Role::Player) {
                self.repeats.count(self.now, "peer asks and does not read");
                self.close(token);
                return;
            }
            self.input(token, bytes);
            self.set_deadline(token);
        }
    }

    fn receive_ended(&mut self, token: Token, ended: Ended) {
        let Some(link) = self.links.get_mut(token) else { return };
        link.receiving = false;
        link.receive_cancelled = false;
        let fd = link.raw_fd();
        if self.gone_if_closing(token) {
            return;
        }
        let link = self.links.get_mut(token).expect("it is not gone");
        if matches!(link.role, Role::Leaving { .. }) {
            match ended {
                Ended::Eof | Ended::Error(_) => self.close(token),
                _ => self.hand_over(token),
            }
            return;
        }
        match ended {
            Ended::NoBuffers | Ended::Rearm => {
                link.receiving = true;
                self.ring.recv_multishot(fd, token);
            }
            Ended::Eof => self.peer_ended(token, true),
            Ended::Error(_) | Ended::Cancelled => self.peer_ended(token, false),
        }
    }

    fn writable(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if matches!(link.role, Role::Player) && link.phase == Phase::Open {
            let id = link.id;
            self.shard.writable(self.now, id, &mut self.wire);
        } else if matches!(link.role, Role::Leaving { .. }) && !link.receiving {
            self.hand_over(token);
        } else {
            self.send_out(token);
        }
    }

    /// Sends what the socket takes and polls for the rest; goes on with finishing when all is sent.
    pub(super) fn send_out(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if link.connecting || link.phase == Phase::Closing {
            return;
        }
        if !link.send_out() {
            self.close(token);
            return;
        }
        if link.unsent_bytes() > 0 {
            self.poll_writable(token);
        } else if let Phase::Finishing { shut, .. } = &mut link.phase
            && !std::mem::replace(shut, true)
        {
            let _ = nix::sys::socket::shutdown(link.raw_fd(), nix::sys::socket::Shutdown::Write);
            if !link.receiving {
                self.close(token);
            }
        }
    }

    pub(super) fn poll_writable(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if !link.polling && link.phase != Phase::Closing {
            link.polling = true;
            let fd = link.raw_fd();
            self.ring.poll_writable(fd, token);
        }
    }

    /// Sends what is queued, then ends our direction and waits a little for the peer to read it.
    pub(super) fn finish(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if link.phase != Phase::Open {
            return;
        }
        link.phase = Phase::Finishing { until: self.now + FINISH_TIME, shut: false };
        self.leave_role(token, false);
        self.send_out(token);
        self.set_deadline(token);
    }

    /// Ends a link: every operation is cancelled; when the last has ended the socket is closed.
    pub(super) fn close(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if link.phase == Phase::Closing {
            return;
        }
        link.phase = Phase::Closing;
        self.leave_role(token, false);
        let link = self.links.get_mut(token).expect("leaving a role keeps the link");
        if link.receiving && !link.receive_cancelled {
            link.receive_cancelled = true;
            self.ring.cancel(token, OpKind::Receive);
        }
        if link.polling {
            self.ring.cancel(token, OpKind::PollWritable);
        }
        if link.connecting {
            self.ring.cancel(token, OpKind::Connect);
        }
        self.gone_if_closing(token);
    }

    /// Tells the shard that the connection has no part in a stream any more.
    pub(super) fn leave_role(&mut self, token: Token, clean: bool) {
        let Some(link) = self.links.get_mut(token) else { return };
        let id = link.id;
        match std::mem::replace(&mut link.role, Role::None) {
            Role::Waiter | Role::Player => {
                let player = self.shard.leave(id);
                link.sent_bytes += player.map_or(0, |player| player.sent_bytes);
            }
            Role::Publisher(_) => self.shard.unpublish(self.now, id, clean),
            // An attempt's link stays its own to the end.
            Role::Attempt(attempt) => link.role = Role::Attempt(attempt),
            Role::None | Role::Leaving { .. } | Role::Asking => {}
        }
    }

    /// Removes a closing link that the kernel has let go of. `true` when it is closing or gone.
    fn gone_if_closing(&mut self, token: Token) -> bool {
        let Some(link) = self.links.get(token) else { return true };
        if link.phase != Phase::Closing {
            return false;
        }
        if link.has_operations() {
            return true;
        }
        let link = self.links.remove(token).expect("just seen");
        self.forget(link);
        true
    }

    fn forget(&mut self, link: Box<Link>) {
        let Link { id, token, peer, role, opened, part, deadline, .. } = *link;
        let (received_bytes, sent_bytes) = (link.received_bytes, link.sent_bytes);
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, token));
        }
        self.by_connection.remove(&id);
        let seconds = (self.now - opened).as_secs();
        match part {
            Some(Part { what, key, ended }) => {
                let reason = ended.map_or("peer", EndReason::as_str);
                info!(connection = %id, %peer, %key, reason, seconds, received_bytes, sent_bytes,
                    "{what} closed");
            }
            None => {
                debug!(connection = %id, %peer, seconds, received_bytes, sent_bytes, "closed");
            }
        }
        match role {
            Role::Attempt(attempt) => self.attempt_link_closed(attempt),
            _ => self.shard.released(id),
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
                Action::Dial { attempt, key, url, .. } => self.dial(attempt, key, url),
                Action::HangUp { attempt } => self.hang_up(attempt),
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
            Message::Flushed { key, .. } => Some(key.clone()),
            _ => None,
        };
        let put = self.port.put(to, message);
        if to == self.shard.id() {
            self.waker.wake();
        }
        if put == mesh::Put::Dropped
            && let Some(key) = flushed
        {
            self.shard.flush_was_dropped(to, &key);
        }
    }

    pub(super) fn give_answer(&mut self, serial: u64, answer: Answer) {
        if let Some(sender) = self.asks.remove(&serial) {
            // Who asked may have gone meanwhile.
            let _ = sender.send(answer);
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
            Message::Ask { ticket, ask: Ask::Configure { config } } => {
                self.config = config.clone();
                self.shard.handle_message(
                    self.now,
                    from,
                    Message::Ask { ticket, ask: Ask::Configure { config } },
                );
            }
            message => self.shard.handle_message(self.now, from, message),
        }
    }

    fn node_answer(&mut self, ask: NodeAsk) -> Answer {
        match ask {
            NodeAsk::Sessions => Answer::Sessions(super::report::sessions(&self.links)),
            NodeAsk::Metrics => Answer::Metrics(super::report::metrics(self)),
            NodeAsk::Load => {
                let fd_count = (self.links.len() + self.listeners.len()) as u32;
                Answer::Load(self.load.view(fd_count))
            }
            NodeAsk::Kick { connection } => Answer::Kicked(self.kick(connection)),
        }
    }

    fn kick(&mut self, connection: ConnectionId) -> bool {
        let Some(&token) = self.by_connection.get(&connection) else { return false };
        let inbound = self.links.get(token).is_some_and(Link::is_inbound);
        if !inbound {
            return false;
        }
        info!(%connection, "kicked");
        if !self.shard.kick(self.now, connection) {
            self.close(token);
        }
        true
    }

    /// Ends a player's or publisher's session with its protocol's goodbye.
    fn end(&mut self, connection: ConnectionId, reason: EndReason, player: Option<Removed>) {
        let Some(&token) = self.by_connection.get(&connection) else {
            self.shard.released(connection);
            return;
        };
        let Some(link) = self.links.get_mut(token) else { return };
        let was_player = matches!(link.role, Role::Player);
        // The shard has forgotten it already.
        link.role = Role::None;
        link.sent_bytes += player.map_or(0, |player| player.sent_bytes);
        if let Some(part) = &mut link.part {
            part.ended = Some(reason);
        }
        if player.is_none_or(|player| player.between_tags) {
            self.say_goodbye(token, reason, was_player);
        }
        self.close(token);
    }

    /// A fault of a peer: counted, told once, and the connection ends.
    pub(super) fn session_failed(&mut self, token: Token, error: &dyn std::fmt::Display) {
        self.counters.session_errors += 1;
        self.repeats.count(self.now, "session ended by an error of its peer");
        let Some(link) = self.links.get(token) else { return };
        warn_fault(link, error);
        match &link.session {
            // The reply that says what was wrong is on its way.
            Session::Http(_) if !matches!(link.role, Role::Player) => self.finish(token),
            _ => {
                self.send_out(token);
                self.close(token);
            }
        }
    }
}

fn warn_fault(link: &Link, error: &dyn std::fmt::Display) {
    let offset = link.received_bytes;
    let (connection, peer) = (link.id, link.peer);
    if link.is_inbound() {
        debug!(%connection, %peer, offset, %error, "session failed");
    } else {
        warn!(%connection, %peer, offset, %error, "session failed");
    }
}

/// An IPv4 address as itself where the socket is a dual-stack one.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Bus messages of one turn; the rest comes in the next, after the flush.
const MESSAGES_PER_TURN_MAX: usize = 4096;
/// Waiting connections that are closed at once when descriptors run out.
const SHED_MAX: usize = 64;
