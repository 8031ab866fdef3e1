//! Attempts of pulls: we are the client. Resolve, connect, ask, take the media.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::errno::Errno;
use tracing::{debug, info};
use url::Url;

use super::driver::Driver;
use super::link::{Link, Phase, Role, Session};
use super::resolver::{self, ResolveError};
use crate::media::state::{ErrorClass, Fault};
use crate::media::url::SourceProtocol;
use crate::media::{AttemptId, MediaPart, SourceUrl, StreamKey};
use crate::proto::Output;
use crate::proto::flv::TagReader;
use crate::proto::http::client::ClientSession as HttpSession;
use crate::proto::http::client::{ClientConfig as HttpConfig, ClientEvent as HttpEvent};
use crate::proto::rtmp::{
    ClientConfig as RtmpConfig, ClientEvent as RtmpEvent, ClientSession as RtmpSession, ClientStage,
};
use crate::ring::{Token, socket};
use crate::shard::{PullNews, Stage};

/// One try of a pull.
pub(super) struct Attempt {
    key: StreamKey,
    url: Arc<SourceUrl>,
    state: AttemptState,
    /// Addresses that were not tried yet.
    addresses: Vec<SocketAddr>,
    /// The shard was told that it failed, or has given it up.
    over: bool,
    sockets_open: u32,
    sockets_closed: u32,
}

#[derive(Clone, Copy)]
enum AttemptState {
    Resolving,
    Linked(Token),
    /// Between two sockets: the old one is being closed, another address follows.
    Changing,
}

/// The session with an origin.
pub(super) enum OriginSession {
    Rtmp(RtmpSession),
    Http(HttpSession, TagReader),
}

/// What an origin's session wants done.
pub(super) enum Wanted {
    Send(Bytes),
    Stage(Stage, &'static str),
    Media(MediaPart),
    Redirect(String),
    Fail(Fault),
}

/// The resolver's word for an attempt.
pub(super) struct Resolved {
    pub(super) attempt: AttemptId,
    pub(super) result: Result<Vec<SocketAddr>, ResolveError>,
}

/// Sessions do not judge an origin's silence: the shard's timers do, by the pull's options.
const NO_TIMEOUT: Duration = Duration::from_secs(3600);

impl OriginSession {
    pub(super) fn new(now: Instant, url: &SourceUrl) -> Self {
        match url.protocol {
            SourceProtocol::Rtmp => {
                let (app, stream) = url.rtmp_names();
                let tc_url = format!("rtmp://{}/{app}", url.authority());
                let config = RtmpConfig {
                    handshake_timeout: NO_TIMEOUT,
                    command_timeout: NO_TIMEOUT,
                    media_timeout: NO_TIMEOUT,
                    ..RtmpConfig::new(app, stream, tc_url)
                };
                Self::Rtmp(RtmpSession::new(now, fastrand::u64(..), config))
            }
            SourceProtocol::HttpFlv => {
                let config = HttpConfig {
                    url: Url::parse(url.as_str()).expect("a source URL is a URL"),
                    user_agent: concat!("rillcast/", env!("CARGO_PKG_VERSION")).to_owned(),
                    reply_timeout: NO_TIMEOUT,
                    body_timeout: NO_TIMEOUT,
                };
                Self::Http(HttpSession::new(now, config), TagReader::new())
            }
        }
    }

    pub(super) fn handle_input(&mut self, now: Instant, bytes: Bytes) -> Option<Fault> {
        match self {
            Self::Rtmp(session) => session.handle_input(now, bytes).err().map(protocol_fault),
            Self::Http(session, _) => session.handle_input(now, bytes).err().map(protocol_fault),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Fault> {
        let silent =
            |error: &dyn std::fmt::Display| Fault::new(ErrorClass::Silent, error.to_string());
        match self {
            Self::Rtmp(session) => session.handle_timeout(now).err().map(|error| silent(&error)),
            Self::Http(session, _) => session.handle_timeout(now).err().map(|error| silent(&error)),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Rtmp(session) => session.poll_timeout(),
            Self::Http(session, _) => session.poll_timeout(),
        }
    }

    fn handle_eof(&mut self, now: Instant) {
        if let Self::Http(session, _) = self {
            // The fault is the loss itself.
            let _ = session.handle_eof(now);
        }
    }

    pub(super) fn poll(&mut self) -> Option<Wanted> {
        match self {
            Self::Rtmp(session) => Some(match session.poll_output()? {
                Output::Send(bytes) => Wanted::Send(bytes),
                Output::Event(event) => rtmp_wants(event),
            }),
            Self::Http(session, tags) => {
                if let Some(part) = tags.poll_part() {
                    return Some(Wanted::Media(part));
                }
                Some(match session.poll_output()? {
                    Output::Send(bytes) => Wanted::Send(bytes),
                    Output::Event(event) => http_wants(event, tags),
                })
            }
        }
    }
}

fn rtmp_wants(event: RtmpEvent) -> Wanted {
    match event {
        RtmpEvent::Progress(stage) => match stage {
            ClientStage::Handshaking => Wanted::Stage(Stage::Handshaking, "RTMP handshake"),
            ClientStage::Connecting => Wanted::Stage(Stage::Handshaking, "answer to connect"),
            ClientStage::CreatingStream => {
                Wanted::Stage(Stage::Handshaking, "answer to createStream")
            }
            ClientStage::AwaitingPlay => Wanted::Stage(Stage::Handshaking, "answer to play"),
            ClientStage::AwaitingMedia => Wanted::Stage(Stage::AwaitingMedia, "media"),
        },
        RtmpEvent::Media(part) => Wanted::Media(part),
        RtmpEvent::Refused { not_found, code, description } => {
            let class = if not_found { ErrorClass::NotFound } else { ErrorClass::Rejected };
            Wanted::Fail(Fault::new(class, format!("the origin refused: {code} {description}")))
        }
        RtmpEvent::Ended => {
            Wanted::Fail(Fault::new(ErrorClass::Lost, "the origin ended the stream"))
        }
    }
}

fn http_wants(event: HttpEvent, tags: &mut TagReader) -> Wanted {
    match event {
        HttpEvent::Redirect(url) => Wanted::Redirect(url),
        HttpEvent::Status { code, reason } => {
            let class = match code {
                404 | 410 => ErrorClass::NotFound,
                _ => ErrorClass::Rejected,
            };
            Wanted::Fail(Fault::new(class, format!("the origin answered {code} {reason}")))
        }
        HttpEvent::BodyBegins { .. } => Wanted::Stage(Stage::AwaitingMedia, "media"),
        HttpEvent::Body(bytes) => match tags.handle_input(bytes) {
            Ok(()) => Wanted::Stage(Stage::AwaitingMedia, "media"),
            Err(error) => Wanted::Fail(protocol_fault(error)),
        },
        HttpEvent::BodyEnds => {
            Wanted::Fail(Fault::new(ErrorClass::Lost, "end of file: the origin ended the stream"))
        }
    }
}

fn protocol_fault(error: impl std::fmt::Display) -> Fault {
    Fault::new(ErrorClass::Protocol, error.to_string())
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
    pub(super) fn dial(&mut self, id: AttemptId, key: StreamKey, url: Arc<SourceUrl>) {
        debug!(attempt = id.0, %key, url = %url.authority(), "dials");
        let attempt = Attempt {
            key,
            url: url.clone(),
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
        let url = attempt.url.clone();
        let fd = match socket::stream(peer) {
            Ok(fd) => fd,
            Err(error) => {
                let fault = Fault::new(ErrorClass::Unreachable, error.to_string());
                self.connect_next(id, fault);
                return;
            }
        };
        let raw = fd.as_raw_fd();
        let session = Session::Origin(Box::new(OriginSession::new(self.now, &url)));
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
                self.shard.attempt_media(self.now, id, part);
            }
            Some(Wanted::Redirect(url)) => self.redirected(id, &url),
            Some(Wanted::Fail(fault)) => self.attempt_failed(id, fault),
        }
        true
    }

    fn redirected(&mut self, id: AttemptId, url: &str) {
        let target = match SourceUrl::parse(url, true) {
            Ok(target) => target,
            Err(error) => {
                let text = format!("redirected to {url}: {error}");
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
            && let Role::Attempt(id) = link.role
        {
            let offset = link.received_bytes;
            debug!(attempt = id.0, offset, error = %fault.text, "origin session failed");
            self.attempt_failed(id, fault);
        }
    }

    /// The origin's side of a connection has ended.
    pub(super) fn origin_ended(&mut self, token: Token, orderly: bool) {
        let Some(link) = self.links.get_mut(token) else { return };
        let Role::Attempt(id) = link.role else { return };
        if orderly && let Session::Origin(session) = &mut link.session {
            session.handle_eof(self.now);
            self.drain(token);
        }
        let text = if orderly { "end of file" } else { "connection reset" };
        self.attempt_failed(id, Fault::new(ErrorClass::Lost, text));
    }

    /// Tells the shard once, and closes what is left.
    fn attempt_failed(&mut self, id: AttemptId, fault: Fault) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        if std::mem::replace(&mut attempt.over, true) {
            return;
        }
        debug!(attempt = id.0, key = %attempt.key, url = %attempt.url.authority(),
            class = fault.class.as_str(), error = %fault.text, "attempt failed");
        self.shard.attempt_failed(self.now, id, fault);
        self.end_attempt(id);
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
    pub(super) fn attempt_link_closed(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.sockets_open -= 1;
        attempt.sockets_closed += 1;
        if attempt.over {
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
            PullNews::FailedAgain => {
                self.repeats.count(self.now, "pull failed again as it had before");
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
