//! Attempts of pulls, and of pushes up to their connection: we are the client. Resolve, connect, ask,
//! take the media.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tracing::{debug, info};

use super::destination::Destination;
use super::driver::Driver;
use super::link::{Link, Phase, Role, Session};
use super::origin::{OriginSession, Wanted};
use super::resolver::{self, ResolveError};
use crate::limits::CONNECT_TIME_MAX;
use crate::media::state::{ErrorClass, Fault};
use crate::media::{AttemptId, SourceUrl, StreamKey};
use crate::proto::rtsp::LowerTransport;
use crate::ring::{Token, socket};
use crate::shard::{PullNews, Stage};

/// One try of a pull or push.
pub(super) struct Attempt {
    purpose: Purpose,
    key: StreamKey,
    url: Arc<SourceUrl>,
    rtp_transport: LowerTransport,
    /// The shard gives it up then.
    deadline: Instant,
    state: AttemptState,
    /// Addresses that were not tried yet.
    addresses: Vec<SocketAddr>,
    /// The shard was told that it failed, or has given it up.
    pub(super) over: bool,
    /// Connections; datagram sockets go before theirs.
    sockets_open: u32,
    pub(super) sockets_closed: u32,
}

/// What is to be tried, and for how long.
pub(super) struct Dial {
    pub(super) purpose: Purpose,
    pub(super) key: StreamKey,
    pub(super) url: Arc<SourceUrl>,
    pub(super) rtp_transport: LowerTransport,
    pub(super) timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Pull,
    Push,
}

#[derive(Clone, Copy)]
enum AttemptState {
    Resolving,
    Linked(Token),
    /// Between two sockets: the old one is being closed, another address follows.
    Changing,
}

/// The resolver's word for an attempt.
pub(super) struct Resolved {
    pub(super) attempt: AttemptId,
    pub(super) result: Result<Vec<SocketAddr>, ResolveError>,
}

/// How long an address may take to answer with so many others behind it, of the time that is left; `None`
/// for the last one, which has all of it. They are tried one after the other (RFC 8305 begins with the next
/// one beside a slow one), so that a try never has two connections in an origin's budget.
pub(super) fn connect_time(left: Duration, behind_count: usize) -> Option<Duration> {
    let share = left / u32::try_from(behind_count + 1).unwrap_or(u32::MAX);
    (behind_count > 0).then(|| share.min(CONNECT_TIME_MAX))
}

fn connect_fault(errno: Errno) -> Fault {
    let class = match errno {
        Errno::ECONNREFUSED | Errno::ECONNRESET => ErrorClass::Refused,
        Errno::ETIMEDOUT => ErrorClass::TimedOut,
        _ => ErrorClass::Unreachable,
    };
    let text = match errno {
        Errno::ECONNREFUSED => "connection refused".to_owned(),
        errno => errno.desc().to_lowercase(),
    };
    Fault::new(class, text)
}

impl Driver {
    pub(super) fn dial(&mut self, id: AttemptId, dial: Dial) {
        let Dial { purpose, key, url, rtp_transport, timeout } = dial;
        debug!(attempt = id.0, %key, url = %url.authority(), ?purpose, "dials");
        let attempt = Attempt {
            purpose,
            key,
            url: url.clone(),
            rtp_transport,
            deadline: self.now + timeout,
            state: AttemptState::Resolving,
            addresses: Vec::new(),
            over: false,
            sockets_open: 0,
            sockets_closed: 0,
        };
        self.attempts.insert(id, attempt);
        self.resolve(id, &url);
    }

    fn resolve(&mut self, id: AttemptId, url: &SourceUrl) {
        self.shard.attempt_stage(self.now, id, Stage::Resolving, "address");
        if let Some(address) = resolver::literal(&url.host, url.port) {
            self.connect_to(id, vec![address]);
            return;
        }
        let (results, waker) = (self.resolved_in.clone(), self.waker.clone());
        let answer = Box::new(move |result| {
            // A shard that is gone wants no answer.
            let _ = results.send(Resolved { attempt: id, result });
            waker.wake();
        });
        self.resolver.resolve(&url.host, url.port, answer);
    }

    pub(super) fn resolved(&mut self, resolved: Resolved) {
        let Resolved { attempt: id, result } = resolved;
        let Some(attempt) = self.attempts.get(&id) else { return };
        if !matches!(attempt.state, AttemptState::Resolving) {
            return;
        }
        match result {
            Ok(addresses) => self.connect_to(id, addresses),
            Err(error) => {
                let text = format!("{}: {error}", attempt.url.host);
                self.attempt_failed(id, Fault::new(ErrorClass::Unresolved, text));
            }
        }
    }

    fn connect_to(&mut self, id: AttemptId, mut addresses: Vec<SocketAddr>) {
        let denied = self.drop_denied(&mut addresses);
        if let Some(address) = denied.filter(|_| addresses.is_empty()) {
            let text = format!("{address} is in access.pull_deny");
            self.attempt_failed(id, Fault::new(ErrorClass::Denied, text));
            return;
        }
        addresses.reverse();
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.addresses = addresses;
        self.connect_next(id, Fault::new(ErrorClass::Unresolved, "the name has no address"));
    }

    /// Connects to the next address; without one the attempt has failed with the last fault. One that
    /// swallows everything leaves time for those behind it.
    fn connect_next(&mut self, id: AttemptId, last: Fault) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let Some(peer) = attempt.addresses.pop() else {
            self.attempt_failed(id, last);
            return;
        };
        let (purpose, url) = (attempt.purpose, attempt.url.clone());
        let rtp_transport = attempt.rtp_transport;
        let left = attempt.deadline.saturating_duration_since(self.now);
        let time = connect_time(left, attempt.addresses.len());
        let fd = match socket::stream(peer) {
            Ok(fd) => fd,
            Err(error) => {
                let fault = Fault::new(ErrorClass::Unreachable, error.to_string());
                self.connect_next(id, fault);
                return;
            }
        };
        let raw = fd.as_raw_fd();
        let session = match purpose {
            Purpose::Pull => {
                let reorder = Duration::from_millis(self.config.rtsp.reorder_ms);
                let session = OriginSession::new(self.now, &url, rtp_transport, reorder);
                Session::Origin(Box::new(session))
            }
            Purpose::Push => {
                let session = Destination::new(self.now, id, url, rtp_transport);
                Session::Destination(Box::new(session))
            }
        };
        let connection = self.new_connection_id();
        let mut link =
            Link::new(connection, fd, (peer, peer), session, Role::Attempt(id), self.now);
        link.connecting = true;
        link.connect_by = time.map(|time| self.now + time);
        let token = self.links.insert(link);
        self.by_connection.insert(connection, token);
        self.ring.connect(raw, peer, token);
        self.set_deadline(token);
        let attempt = self.attempts.get_mut(&id).expect("just seen");
        attempt.state = AttemptState::Linked(token);
        attempt.sockets_open += 1;
        self.shard.attempt_stage(self.now, id, Stage::Connecting, "connection");
    }

    pub(super) fn connected(&mut self, token: Token, result: Result<(), Errno>) {
        let Some(link) = self.links.get_mut(token) else { return };
        let Role::Attempt(id) = link.role else { return };
        if let Err(errno) = result {
            self.connect_failed(token, id, connect_fault(errno));
            return;
        }
        let options = socket::StreamOptions::default();
        if let Err(error) = socket::set_stream_options(&link.fd, options) {
            debug!(%error, "socket options were not set");
        }
        if let Ok(local) = socket::local_addr(&link.fd) {
            link.local = local;
        }
        let ends = (link.local, link.peer);
        let fd = link.raw_fd();
        link.receiving = true;
        self.ring.recv_multishot(fd, token);
        self.shard.attempt_connected(id, ends);
        self.shard.attempt_stage(self.now, id, Stage::Handshaking, "answer");
        self.drain(token);
    }

    /// An address has not answered in its part of the time.
    pub(super) fn connect_is_over(&mut self, token: Token) {
        let Some(link) = self.links.get(token) else { return };
        let Role::Attempt(id) = link.role else { return };
        let text = format!("no answer from {}", link.peer.ip());
        self.connect_failed(token, id, Fault::new(ErrorClass::TimedOut, text));
    }

    /// The next address has its turn, where there is one.
    fn connect_failed(&mut self, token: Token, id: AttemptId, fault: Fault) {
        let attempt = self.attempts.get_mut(&id);
        let Some(attempt) = attempt.filter(|attempt| !attempt.addresses.is_empty()) else {
            self.attempt_failed(id, fault);
            return;
        };
        attempt.state = AttemptState::Changing;
        self.close(token);
        self.connect_next(id, fault);
    }

    /// One output of an origin's session. `false` when there is none.
    pub(super) fn drain_origin_step(&mut self, token: Token) -> bool {
        let Some(link) = self.links.get_mut(token) else { return false };
        if link.phase != Phase::Open {
            return false;
        }
        let Role::Attempt(id) = link.role else { return false };
        let Session::Origin(session) = &mut link.session else { return false };
        match session.poll() {
            None => return false,
            Some(Wanted::Send(bytes)) => link.queue(bytes),
            Some(Wanted::Stage(stage, awaiting)) => {
                self.shard.attempt_stage(self.now, id, stage, awaiting);
            }
            Some(Wanted::Media(part)) => {
                self.note_media(token, &part);
                self.shard.attempt_media(self.now, id, part);
            }
            Some(Wanted::Redirect(url)) => self.redirected(id, &url),
            Some(Wanted::Fail(fault)) => self.attempt_failed(id, fault),
            Some(Wanted::Rtsp(wanted)) => self.rtsp_origin_wants(token, id, wanted),
        }
        true
    }

    fn redirected(&mut self, id: AttemptId, url: &str) {
        let target = match SourceUrl::parse(url, true) {
            Ok(target) => match self.attempts.get(&id) {
                Some(attempt) => target.with_login_of(&attempt.url),
                None => return,
            },
            Err(error) => {
                let text = format!("redirected to what can't be pulled: {error}");
                self.attempt_failed(id, Fault::new(ErrorClass::Rejected, text));
                return;
            }
        };
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if std::mem::replace(&mut attempt.over, true) {
            return;
        }
        debug!(attempt = id.0, key = %attempt.key, to = %target.authority(), "redirected");
        self.shard.attempt_redirected(self.now, id, Arc::new(target));
        self.end_attempt(id);
    }

    pub(super) fn origin_failed(&mut self, token: Token, fault: Fault) {
        if let Some(link) = self.links.get(token)
            && let Some(id) = link.attempt()
        {
            let offset = link.received_bytes;
            debug!(attempt = id.0, offset, error = %fault.text, "origin session failed");
            self.attempt_failed(id, fault);
        }
    }

    /// The origin's side of a connection has ended.
    pub(super) fn origin_ended(&mut self, token: Token, orderly: bool) {
        let Some(link) = self.links.get_mut(token) else { return };
        let Some(id) = link.attempt() else { return };
        if orderly && let Session::Origin(session) = &mut link.session {
            session.handle_eof(self.now);
            self.drain(token);
        }
        let text = if orderly { "end of file" } else { "connection reset" };
        self.attempt_failed(id, Fault::new(ErrorClass::Lost, text));
    }

    /// Tells the shard once, and closes what is left.
    pub(super) fn attempt_failed(&mut self, id: AttemptId, fault: Fault) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if std::mem::replace(&mut attempt.over, true) {
            return;
        }
        debug!(attempt = id.0, key = %attempt.key, url = %attempt.url.authority(),
            class = fault.class.as_str(), error = %fault.text, "attempt failed");
        self.shard.attempt_failed(self.now, id, fault);
        self.end_attempt(id);
    }

    /// The stream that an attempt is for.
    pub(super) fn attempt_key(&self, id: AttemptId) -> Option<StreamKey> {
        self.attempts.get(&id).map(|attempt| attempt.key.clone())
    }

    pub(super) fn hang_up(&mut self, id: AttemptId) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.over = true;
            self.end_attempt(id);
        }
    }

    fn end_attempt(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get(&id) else { return };
        match attempt.state {
            AttemptState::Linked(token) => self.close(token),
            AttemptState::Resolving | AttemptState::Changing => self.attempt_is_closed(id),
        }
    }

    /// A socket of an attempt is closed.
    pub(super) fn attempt_link_closed(&mut self, id: AttemptId, token: Token) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.sockets_open -= 1;
        attempt.sockets_closed += 1;
        let is_current = matches!(attempt.state, AttemptState::Linked(of) if of == token);
        if is_current && !attempt.over {
            // It broke while something was sent to it.
            self.attempt_failed(id, Fault::new(ErrorClass::Lost, "the connection broke"));
        }
        if self.attempts.get(&id).is_some_and(|attempt| attempt.over) {
            self.attempt_is_closed(id);
        }
    }

    fn attempt_is_closed(&mut self, id: AttemptId) {
        if self.attempts.get(&id).is_some_and(|attempt| attempt.sockets_open == 0) {
            let attempt = self.attempts.remove(&id).expect("just seen");
            self.shard.attempt_closed(id, attempt.sockets_closed);
        }
    }

    /// Writes what the shard wants told of its pulls.
    pub(super) fn tell(&mut self, news: &PullNews) {
        match news {
            PullNews::Failed { key, origin, fault: Fault { class, text }, attempt, next_try } => {
                let (class, next_try_ms) = (class.as_str(), next_try.as_millis());
                info!(%key, origin, class, error = text, attempt, next_try_ms, "pull failed");
            }
            PullNews::UpdateFailed { key, origin, fault: Fault { class, text } } => {
                let class = class.as_str();
                info!(%key, origin, class, error = text, "a pull's new source failed");
            }
            PullNews::FailedAgain => {
                self.repeats.count(self.now, "pull failed as before, or on demand");
            }
            PullNews::GaveUp { key, origin, fault: Fault { class, text }, failures } => {
                let class = class.as_str();
                info!(%key, origin, class, error = text, failures, "pull given up");
            }
            PullNews::Recovered { key, origin, failures } => {
                info!(%key, origin, failures, "pull is up again");
            }
        }
    }

    /// Takes what the resolver has found since the last turn.
    pub(super) fn take_resolved(&mut self) {
        while let Ok(resolved) = self.resolved_out.try_recv() {
            self.resolved(resolved);
            self.act();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::Future;
    use std::net::{TcpListener, TcpStream};
    use std::pin::Pin;
    use std::rc::Rc;

    use super::super::admission::Shared;
    use super::super::driver::Parts;
    use super::super::events::Events;
    use super::super::probe::Prober;
    use super::super::resolver::Resolver;
    use super::super::wire::RingWire;
    use super::super::{Call, NodeHandle, Reply, Setup};
    use super::*;
    use crate::bus::Mesh;
    use crate::bus::keeper::keeper_channel;
    use crate::config::{Config, NewestConfig};
    use crate::media::ShardId;
    use crate::ring::{EgressRing, MediaRing, RingSizes};
    use crate::shard::{Policy, Shard};

    fn never(_: NodeHandle, _: Call) -> Pin<Box<dyn Future<Output = Reply>>> {
        Box::pin(std::future::pending())
    }

    fn driver() -> Rc<RefCell<Driver>> {
        let config = Arc::new(Config::default());
        let (keeper, _) = keeper_channel();
        let ring = MediaRing::new(RingSizes::default()).expect("io_uring");
        let resolver = Arc::new(Resolver::start().expect("threads"));
        let setup = Setup {
            make_handler: Arc::new(|| Rc::new(never)),
            kept: None,
            config_reader: None,
            newest_config: Arc::new(NewestConfig::new(config.clone())),
            keeper: keeper.clone(),
        };
        Driver::new(Parts {
            shard: Shard::new(ShardId(0), 1, 7, Policy::of(&config, 1)),
            wire: RingWire::new(EgressRing::new().expect("io_uring")),
            port: Mesh::new(1).take_port(ShardId(0)),
            events: Events::connect(ShardId(0), keeper, ring.waker()),
            prober: Prober::start(resolver.clone()).expect("a thread"),
            guests: Shared::default().guests,
            ring,
            config,
            resolver,
            setup,
        })
    }

    fn turn_until(driver: &mut Driver, mut holds: impl FnMut(&Driver) -> bool) {
        // Each sleeps for 100 ms at most.
        for _ in 0..200 {
            driver.turn();
            if holds(driver) {
                return;
            }
            driver.sleep();
        }
        panic!("it does not come to that");
    }

    #[test]
    fn an_address_that_swallows_everything_leaves_time_for_the_next() {
        // The accept queue takes one connection; the SYNs of later ones are dropped.
        let dead = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        dead.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        dead.listen(0).expect("bound");
        let dead = (socket::local_addr(&dead).expect("bound"), dead);
        let _queued = TcpStream::connect(dead.0).expect("the one");
        let live = TcpListener::bind("127.0.0.1:0").expect("a free port");
        live.set_nonblocking(true).expect("a socket");
        for purpose in [Purpose::Pull, Purpose::Push] {
            let shared = driver();
            let driver = &mut *shared.borrow_mut();
            let (id, start) = (AttemptId(1), driver.now);
            let key = StreamKey::in_default_vhost("live", "a").expect("a key");
            let url = Arc::new(SourceUrl::parse("rtmp://localhost/live/a", false).expect("a URL"));
            let (rtp_transport, timeout) = (LowerTransport::Tcp, Duration::from_secs(10));
            driver.dial(id, Dial { purpose, key, url, rtp_transport, timeout });
            let addresses = vec![dead.0, live.local_addr().expect("bound")];
            driver.resolved(Resolved { attempt: id, result: Ok(addresses) });
            driver.turn();
            driver.now = start + CONNECT_TIME_MAX - Duration::from_millis(1);
            driver.run_due();
            assert_eq!(driver.attempts[&id].sockets_open, 1, "it has its time");
            driver.now = start + CONNECT_TIME_MAX;
            driver.run_due();
            let mut accepted = None;
            turn_until(driver, |_| {
                accepted = live.accept().ok();
                accepted.is_some()
            });
            turn_until(driver, |driver| driver.attempts[&id].sockets_open == 1);
            driver.hang_up(id);
            turn_until(driver, |driver| driver.attempts.is_empty() && driver.links.len() == 0);
            driver.handle = None;
        }
    }

    #[test]
    fn the_last_address_has_all_the_time_that_is_left() {
        let second = Duration::from_secs(1);
        assert_eq!(connect_time(second * 10, 0), None);
        assert_eq!(connect_time(second * 10, 1), Some(CONNECT_TIME_MAX));
        assert_eq!(connect_time(second * 3, 2), Some(second));
        assert_eq!(connect_time(Duration::ZERO, 1), Some(Duration::ZERO));
    }
}
