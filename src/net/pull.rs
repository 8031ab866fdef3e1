//! Attempts of pulls, and of pushes up to their connection: we are the client. Resolve, connect, ask,
//! take the media.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tracing::{debug, info};

use super::destination::Destination;
use super::driver::Driver;
use super::link::{Link, Phase, Role, Session};
use super::origin::{OriginSession, Wanted};
use super::resolver::{self, ResolveError};
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
    state: AttemptState,
    /// Addresses that were not tried yet.
    addresses: Vec<SocketAddr>,
    /// The shard was told that it failed, or has given it up.
    pub(super) over: bool,
    /// Connections; datagram sockets go before theirs.
    sockets_open: u32,
    pub(super) sockets_closed: u32,
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
    pub(super) fn dial(
        &mut self,
        id: AttemptId,
        key: StreamKey,
        url: Arc<SourceUrl>,
        rtp_transport: LowerTransport,
    ) {
        self.dial_for(Purpose::Pull, id, key, (url, rtp_transport));
    }

    pub(super) fn dial_for(
        &mut self,
        purpose: Purpose,
        id: AttemptId,
        key: StreamKey,
        (url, rtp_transport): (Arc<SourceUrl>, LowerTransport),
    ) {
        debug!(attempt = id.0, %key, url = %url.authority(), ?purpose, "dials");
        let attempt = Attempt {
            purpose,
            key,
            url: url.clone(),
            rtp_transport,
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

    /// Connects to the next address; without one the attempt has failed with the last fault.
    fn connect_next(&mut self, id: AttemptId, last: Fault) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let Some(peer) = attempt.addresses.pop() else {
            self.attempt_failed(id, last);
            return;
        };
        let (purpose, url) = (attempt.purpose, attempt.url.clone());
        let rtp_transport = attempt.rtp_transport;
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
        let token = self.links.insert(link);
        self.by_connection.insert(connection, token);
        self.ring.connect(raw, peer, token);
        let attempt = self.attempts.get_mut(&id).expect("just seen");
        attempt.state = AttemptState::Linked(token);
        attempt.sockets_open += 1;
        self.shard.attempt_stage(self.now, id, Stage::Connecting, "connection");
    }

    pub(super) fn connected(&mut self, token: Token, result: Result<(), Errno>) {
        let Some(link) = self.links.get_mut(token) else { return };
        let Role::Attempt(id) = link.role else { return };
        if let Err(errno) = result {
            let fault = connect_fault(errno);
            let more = self.attempts.get(&id).is_some_and(|attempt| !attempt.addresses.is_empty());
            if more {
                if let Some(attempt) = self.attempts.get_mut(&id) {
                    attempt.state = AttemptState::Changing;
                }
                self.close(token);
                self.connect_next(id, fault);
            } else {
                self.attempt_failed(id, fault);
            }
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
