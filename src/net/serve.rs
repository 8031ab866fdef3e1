//! Inbound sessions: publishers, players, requests.

use std::any::Any;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{debug, info};

use super::driver::{Driver, Protocol};
use super::link::{Link, Part, Phase, Role, Session};
use super::{Call, live_path};
use crate::bus::message::Message;
use crate::bus::view::PublisherView;
use crate::clock;
use crate::egress::Socket;
use crate::limits::CHUNK_SIZE_OUT;
use crate::media::state::EndReason;
use crate::media::{ConnectionId, StreamKey};
use crate::proto::Output;
use crate::proto::http::request::{Method, Request};
use crate::proto::http::response::Response;
use crate::proto::http::server::{ServerConfig as HttpConfig, StreamStart, WallClock};
use crate::proto::http::server::{ServerEvent as HttpEvent, ServerSession as HttpSession};
use crate::proto::rtmp::{
    PlayEnd, PlayRefusal, PublishEnd, PublishRefusal as RtmpRefusal, ServerConfig as RtmpConfig,
    ServerEvent as RtmpEvent, ServerSession as RtmpSession, StreamRequest,
};
use crate::ring::{OpKind, Token};
use crate::shard::{Admitted, PlayRequest, PublishRefusal};
use crate::stream::Packaging;

/// A publisher's connection on its way to the owner of its key.
struct Moved {
    id: ConnectionId,
    fd: OwnedFd,
    local: SocketAddr,
    peer: SocketAddr,
    session: Box<RtmpSession>,
    key: StreamKey,
    params: String,
    held: Vec<Bytes>,
    /// Answers that the peer has not taken yet.
    unsent: Bytes,
    opened: Instant,
    received_bytes: u64,
}

impl Driver {
    pub(super) fn new_session(&self, protocol: Protocol) -> Session {
        let ms = Duration::from_millis;
        match protocol {
            Protocol::Rtmp => {
                let seed = fastrand::u64(..);
                let config = RtmpConfig {
                    chunk_size_out: CHUNK_SIZE_OUT as u32,
                    handshake_timeout: ms(self.config.rtmp.handshake_ms),
                    command_timeout: ms(self.config.rtmp.handshake_ms),
                    ..RtmpConfig::default()
                };
                Session::Rtmp(Box::new(RtmpSession::new(self.now, seed, config)))
            }
            Protocol::Http => {
                let config = HttpConfig {
                    header_timeout: ms(self.config.http.header_timeout_ms),
                    idle_timeout: ms(self.config.http.keep_alive_ms),
                    cross_domains_allowed: self.config.http.allow_cross_domains,
                    wall_clock: WallClock { at: self.now, unix_seconds: clock::unix_seconds() },
                };
                Session::Http(Box::new(HttpSession::new(self.now, config)))
            }
        }
    }

    /// Bytes for a session.
    pub(super) fn input(&mut self, token: Token, bytes: Bytes) {
        let Some(link) = self.links.get_mut(token) else { return };
        let now = self.now;
        let failed: Option<Box<dyn std::fmt::Display>> = match &mut link.session {
            Session::Rtmp(session) => boxed(session.handle_input(now, bytes)),
            Session::Http(session) => boxed(session.handle_input(now, bytes)),
            Session::Origin(session) => {
                let fault = session.handle_input(now, bytes);
                self.drain(token);
                if let Some(fault) = fault {
                    self.origin_failed(token, fault);
                }
                return;
            }
        };
        self.drain(token);
        if let Some(error) = failed {
            self.session_failed(token, &*error);
        }
    }

    /// The peer sends no more, or its connection is broken.
    pub(super) fn peer_ended(&mut self, token: Token, orderly: bool) {
        let Some(link) = self.links.get_mut(token) else { return };
        if !orderly {
            if matches!(link.session, Session::Origin(_)) {
                self.origin_ended(token, false);
            } else {
                self.close(token);
            }
            return;
        }
        match &mut link.session {
            Session::Rtmp(_) => self.close(token),
            Session::Origin(_) => self.origin_ended(token, true),
            Session::Http(session) => {
                let waits_for_stream = matches!(link.role, Role::Player | Role::Waiter);
                let answering = matches!(link.role, Role::Asking);
                let ended = session.handle_eof(self.now);
                self.drain(token);
                let Some(link) = self.links.get(token) else { return };
                // A half-closed peer may still read the answer that it asked for.
                let nothing_left = link.unsent_bytes() == 0 && !answering;
                let finishing = matches!(link.phase, Phase::Finishing { .. });
                if ended.is_err() || waits_for_stream || nothing_left || finishing {
                    self.close(token);
                }
            }
        }
    }

    pub(super) fn session_timeout(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        let now = self.now;
        let failed: Option<Box<dyn std::fmt::Display>> = match &mut link.session {
            Session::Rtmp(session) => boxed(session.handle_timeout(now)),
            Session::Http(session) => boxed(session.handle_timeout(now)),
            Session::Origin(session) => {
                if let Some(fault) = session.handle_timeout(now) {
                    self.origin_failed(token, fault);
                }
                return;
            }
        };
        self.drain(token);
        if let Some(error) = failed {
            self.session_failed(token, &*error);
        }
    }

    /// Does what a session wants done, until it wants nothing more.
    pub(super) fn drain(&mut self, token: Token) {
        loop {
            let Some(link) = self.links.get_mut(token) else { return };
            match &mut link.session {
                Session::Rtmp(session) => match session.poll_output() {
                    None => break,
                    Some(Output::Send(bytes)) => self.session_sends(token, bytes),
                    Some(Output::Event(event)) => self.rtmp_event(token, event),
                },
                Session::Http(session) => match session.poll_output() {
                    None => break,
                    Some(Output::Send(bytes)) => self.session_sends(token, bytes),
                    Some(Output::Event(event)) => self.http_event(token, event),
                },
                Session::Origin(_) => {
                    if !self.drain_origin_step(token) {
                        break;
                    }
                }
            }
        }
        self.send_out(token);
        self.set_deadline(token);
    }

    fn session_sends(&mut self, token: Token, bytes: Bytes) {
        let Some(link) = self.links.get_mut(token) else { return };
        if matches!(link.role, Role::Player) {
            let id = link.id;
            self.shard.insert(self.now, id, bytes, &mut self.wire);
        } else {
            link.queue(bytes);
        }
    }

    fn rtmp_event(&mut self, token: Token, event: RtmpEvent) {
        match event {
            RtmpEvent::Publish(request) => self.rtmp_publish(token, request),
            RtmpEvent::Play(request) => self.rtmp_play(token, request),
            RtmpEvent::Media(part) => {
                let Some(link) = self.links.get(token) else { return };
                if let Role::Publisher(handle) = link.role
                    && !self.shard.media(self.now, handle, part)
                {
                    self.close(token);
                }
            }
            RtmpEvent::Unpublish => self.leave_role(token, true),
            RtmpEvent::StopPlay => self.close(token),
        }
    }

    fn rtmp_publish(&mut self, token: Token, request: StreamRequest) {
        let Ok(key) = StreamKey::in_default_vhost(&request.app, &request.stream) else {
            self.refuse_publish(token, RtmpRefusal::BadName, "The stream has no usable name.");
            return;
        };
        if self.shutting_down {
            self.refuse_publish(token, RtmpRefusal::Unavailable, "");
            return;
        }
        if self.shard.owner_of(&key) == self.shard.id() {
            self.publish_here(token, &key, request.params);
            return;
        }
        let Some(link) = self.links.get_mut(token) else { return };
        link.role = Role::Leaving { key, params: request.params, held: Vec::new() };
        if link.receiving && !link.receive_cancelled {
            link.receive_cancelled = true;
            self.ring.cancel(token, OpKind::Receive);
        }
    }

    fn publish_here(&mut self, token: Token, key: &StreamKey, params: String) {
        let Some(link) = self.links.get(token) else { return };
        let (connection, local, peer) = (link.id, link.local, link.peer);
        let view = PublisherView { connection, local, peer, params };
        match self.shard.publish(self.now, key, view) {
            Ok(handle) => {
                info!(%connection, %peer, %key, "publishes");
                let link = self.links.get_mut(token).expect("just seen");
                link.role = Role::Publisher(handle);
                link.part = Some(Part { what: "publisher", key: key.clone(), ended: None });
                let Session::Rtmp(session) = &mut link.session else { return };
                let held = session.accept_publish(self.now);
                self.drain(token);
                if let Err(error) = held {
                    self.session_failed(token, &error);
                }
            }
            Err(refusal) => {
                info!(%connection, %peer, %key, ?refusal, "may not publish");
                let (refusal, detail) = match refusal {
                    PublishRefusal::NameTaken => {
                        (RtmpRefusal::BadName, "The name is taken by another source.")
                    }
                    PublishRefusal::Overloaded => (RtmpRefusal::Unavailable, ""),
                };
                self.refuse_publish(token, refusal, detail);
            }
        }
    }

    fn refuse_publish(&mut self, token: Token, refusal: RtmpRefusal, detail: &str) {
        let Some(link) = self.links.get_mut(token) else { return };
        if let Session::Rtmp(session) = &mut link.session {
            session.refuse_publish(refusal, detail);
        }
        self.drain(token);
        self.finish(token);
    }

    /// The kernel has let go of a publisher's socket: off to the owner of its key.
    pub(super) fn hand_over(&mut self, token: Token) {
        let Some(link) = self.links.get(token) else { return };
        if link.has_operations() {
            return;
        }
        let Some(mut link) = self.links.remove(token) else { return };
        self.by_connection.remove(&link.id);
        if let Some(at) = link.deadline {
            self.forget_deadline(at, token);
        }
        let unsent = link.take_unsent();
        let Link { id, fd, local, peer, session, role, opened, received_bytes, .. } = *link;
        let (Session::Rtmp(session), Role::Leaving { key, params, held }) = (session, role) else {
            return;
        };
        self.counters.handed_over += 1;
        let owner = self.shard.owner_of(&key);
        let moved = Moved {
            id,
            fd,
            local,
            peer,
            session,
            key,
            params,
            held,
            unsent,
            opened,
            received_bytes,
        };
        self.port.put(owner, Message::Adopt(Box::new(moved)));
    }

    /// A publisher's connection comes from the shard that accepted it.
    pub(super) fn adopt(&mut self, moved: Box<dyn Any + Send>) {
        let moved = *moved.downcast::<Moved>().expect("only connections are moved");
        let ends = (moved.local, moved.peer);
        let session = Session::Rtmp(moved.session);
        let mut link = Link::new(moved.id, moved.fd, ends, session, Role::None, moved.opened);
        link.received_bytes = moved.received_bytes;
        link.queue(moved.unsent);
        let token = self.enter(link);
        self.publish_here(token, &moved.key, moved.params);
        for bytes in moved.held {
            self.input(token, bytes);
        }
    }

    fn rtmp_play(&mut self, token: Token, request: StreamRequest) {
        match StreamKey::in_default_vhost(&request.app, &request.stream) {
            Ok(key) => self.play(token, key, Packaging::Rtmp),
            Err(_) => {
                let Some(link) = self.links.get_mut(token) else { return };
                if let Session::Rtmp(session) = &mut link.session {
                    session.refuse_play(PlayRefusal::StreamNotFound, "It has no usable name.");
                }
                self.drain(token);
                self.finish(token);
            }
        }
    }

    fn play(&mut self, token: Token, key: StreamKey, packaging: Packaging) {
        let Some(link) = self.links.get_mut(token) else { return };
        link.role = Role::Waiter;
        link.part = Some(Part { what: "player", key: key.clone(), ended: None });
        let (connection, local, peer) = (link.id, link.local, link.peer);
        debug!(%connection, %peer, %key, ?packaging, "asks to play");
        self.shard.play(self.now, PlayRequest { connection, key, packaging, local, peer });
        self.act();
    }

    fn http_event(&mut self, token: Token, event: HttpEvent) {
        match event {
            HttpEvent::Request(request) => self.http_request(token, request),
            HttpEvent::WebSocketClosed(_) => self.leave_role(token, false),
            HttpEvent::Close => self.finish(token),
        }
    }

    fn http_request(&mut self, token: Token, request: Request) {
        let is_get = request.method == Method::Get;
        let live = live_path(&request.path).filter(|_| is_get || request.method == Method::Head);
        let Some(key) = live else {
            self.call_handler(token, request);
            return;
        };
        let Some(link) = self.links.get_mut(token) else { return };
        let Session::Http(session) = &mut link.session else { return };
        let answered = if !is_get {
            session.begin_stream(self.now, FLV_TYPE, &[NO_STORE]).map(|_| ())
        } else if request.websocket_key.is_some() {
            let accepted = session.accept_websocket(self.now);
            self.play(token, key, Packaging::WsFlv);
            accepted
        } else {
            self.play(token, key, Packaging::Flv);
            Ok(())
        };
        if let Err(error) = answered {
            self.session_failed(token, &error);
        }
    }

    /// Has a request answered by the API, in a task of its own that starts when this turn is over.
    fn call_handler(&mut self, token: Token, request: Request) {
        let Some(link) = self.links.get_mut(token) else { return };
        link.role = Role::Asking;
        let call = Call { peer: link.peer, local: link.local, connection: link.id, request };
        let node = self.handle.clone().expect("set when the driver was made");
        let answer = (self.handler)(node.clone(), call);
        self.tasks.push(Box::pin(async move {
            let response = answer.await;
            node.respond(token, response);
        }));
    }

    pub(super) fn respond(&mut self, token: Token, response: Response) {
        let now = self.now;
        let Some(link) = self.links.get_mut(token) else { return };
        let Session::Http(session) = &mut link.session else { return };
        link.role = Role::None;
        if link.phase != Phase::Open {
            return;
        }
        let answered = session.respond(now, response);
        self.drain(token);
        if let Err(error) = answered {
            self.session_failed(token, &error);
        }
        if self.shutting_down {
            self.finish(token);
        }
    }

    /// The stream is there: the session is told, and its socket is fed from now on.
    pub(super) fn admit(&mut self, connection: ConnectionId) {
        let Some(&token) = self.by_connection.get(&connection) else {
            self.shard.leave(connection);
            return;
        };
        let now = self.now;
        let Some(link) = self.links.get_mut(token) else { return };
        let begun = match &mut link.session {
            Session::Rtmp(session) => {
                session.accept_play();
                Ok(StreamStart::Body)
            }
            Session::Http(session) => {
                if session.is_websocket() {
                    Ok(StreamStart::Body)
                } else {
                    session.begin_stream(now, FLV_TYPE, &[NO_STORE])
                }
            }
            Session::Origin(_) => return,
        };
        while let Some(link) = self.links.get_mut(token) {
            let output = match &mut link.session {
                Session::Rtmp(session) => session.poll_output().and_then(sent),
                Session::Http(session) => session.poll_output().and_then(sent),
                Session::Origin(_) => None,
            };
            match output {
                Some(bytes) => link.queue(bytes),
                None => break,
            }
        }
        if !matches!(begun, Ok(StreamStart::Body)) {
            self.shard.leave(connection);
            return;
        }
        let Some(link) = self.links.get_mut(token) else { return };
        link.role = Role::Player;
        if let Some(part) = &link.part {
            info!(%connection, peer = %link.peer, key = %part.key, "plays");
        }
        let unsent = link.take_unsent();
        let socket = Socket(link.raw_fd());
        self.shard.admitted(now, Admitted { connection, socket, unsent }, &mut self.wire);
        self.set_deadline(token);
    }

    /// There is no stream for it: said in the protocol's own words.
    pub(super) fn refuse(&mut self, connection: ConnectionId, reason: EndReason) {
        let Some(&token) = self.by_connection.get(&connection) else {
            self.shard.released(connection);
            return;
        };
        let now = self.now;
        let Some(link) = self.links.get_mut(token) else { return };
        link.role = Role::None;
        if let Some(part) = &mut link.part {
            part.ended = Some(reason);
        }
        debug!(%connection, reason = reason.as_str(), "refused");
        let overloaded = matches!(reason, EndReason::Overloaded | EndReason::Shutdown);
        match &mut link.session {
            Session::Rtmp(session) => {
                let refusal =
                    if overloaded { PlayRefusal::Unavailable } else { PlayRefusal::StreamNotFound };
                session.refuse_play(refusal, "");
            }
            Session::Http(session) if session.is_websocket() => {
                let code = if overloaded { WS_TRY_AGAIN } else { WS_NOT_FOUND };
                session.close_websocket(code, reason.as_str());
            }
            Session::Http(session) => {
                let status = if overloaded { 503 } else { 404 };
                let text = format!("no such stream: {}\n", reason.as_str());
                let mut response = Response::text(status, text);
                if reason != EndReason::NotFound {
                    response = response.closing();
                }
                let answered = session.respond(now, response);
                self.drain(token);
                self.shard.released(connection);
                if let Err(error) = answered {
                    self.session_failed(token, &error);
                } else if self.shutting_down {
                    self.finish(token);
                }
                return;
            }
            Session::Origin(_) => return,
        }
        self.drain(token);
        self.finish(token);
        // The stream has no part in it any more, however long the peer takes to read our answer.
        self.shard.released(connection);
    }

    /// Last words to a player or publisher, as far as its socket takes them at once.
    pub(super) fn say_goodbye(&mut self, token: Token, reason: EndReason, was_player: bool) {
        let Some(link) = self.links.get_mut(token) else { return };
        match &mut link.session {
            Session::Rtmp(session) if was_player => session.end_play(match reason {
                EndReason::Kicked | EndReason::Closed | EndReason::Deleted => PlayEnd::Kicked,
                EndReason::TooSlow => PlayEnd::TooSlow,
                _ => PlayEnd::Unpublished,
            }),
            Session::Rtmp(session) => session.end_publish(match reason {
                EndReason::SourceLost => PublishEnd::Silent,
                _ => PublishEnd::Kicked,
            }),
            Session::Http(session) => {
                session.close_websocket(WS_GOING_AWAY, reason.as_str());
            }
            Session::Origin(_) => {}
        }
        while let Some(link) = self.links.get_mut(token) {
            let output = match &mut link.session {
                Session::Rtmp(session) => session.poll_output(),
                Session::Http(session) => session.poll_output().map(without_event),
                Session::Origin(_) => None,
            };
            match output {
                Some(Output::Send(bytes)) => link.queue(bytes),
                Some(Output::Event(_)) => {}
                None => {
                    link.send_out();
                    break;
                }
            }
        }
    }
}

fn boxed<E: std::fmt::Display + 'static>(
    result: Result<(), E>,
) -> Option<Box<dyn std::fmt::Display>> {
    result.err().map(|error| Box::new(error) as Box<dyn std::fmt::Display>)
}

/// What a session sends; its events have no one to act on them any more.
fn sent<E>(output: Output<E>) -> Option<Bytes> {
    match output {
        Output::Send(bytes) => Some(bytes),
        Output::Event(_) => None,
    }
}

fn without_event(output: Output<HttpEvent>) -> Output<RtmpEvent> {
    match output {
        Output::Send(bytes) => Output::Send(bytes),
        Output::Event(_) => Output::Event(RtmpEvent::StopPlay),
    }
}

const FLV_TYPE: &str = "video/x-flv";
const NO_STORE: (&str, &str) = ("Cache-Control", "no-store");
/// The node ends the stream (RFC 6455, 7.4.1).
const WS_GOING_AWAY: u16 = 1001;
const WS_TRY_AGAIN: u16 = 1013;
/// HTTP's code in the range for applications; 404 itself is not a valid close code.
const WS_NOT_FOUND: u16 = 4404;
