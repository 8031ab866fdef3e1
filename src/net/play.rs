//! Players: admitted, refused, ended, kicked, each in the words of its protocol.

use bytes::Bytes;
use tracing::{debug, info};

use super::driver::Driver;
use super::link::{Link, Part, Role, Session};
use super::verdicts::Wanted;
use crate::bus::event::Refusal;
use crate::egress::{Removed, Socket};
use crate::media::state::EndReason;
use crate::media::{ConnectionId, StreamKey};
use crate::proto::Output;
use crate::proto::http::response::Response;
use crate::proto::http::server::ServerEvent as HttpEvent;
use crate::proto::http::server::StreamStart;
use crate::proto::rtmp::{PlayEnd, PlayRefusal, PublishEnd, ServerEvent as RtmpEvent};
use crate::proto::rtsp::server::Refusal::{MediaType, NotFound, Unavailable};
use crate::ring::Token;
use crate::shard::{Admitted, PlayRequest};
use crate::stream::Packaging;

impl Driver {
    /// Keeps in what protocol and with what query a connection asks to play; nothing is checked yet.
    pub(super) fn asks_to_play(&mut self, token: Token, packaging: Packaging, params: String) {
        if let Some(link) = self.links.get_mut(token) {
            (link.protocol, link.params) = (protocol_of(packaging), params);
        }
    }

    /// A connection may play as far as our rules are concerned; a hook may have to be asked first.
    pub(super) fn play(&mut self, token: Token, key: StreamKey, packaging: Packaging) {
        if let Some(Wanted::Play { key, packaging }) =
            self.ask_verdict(token, Wanted::Play { key, packaging })
        {
            self.play_allowed(token, key, packaging);
        }
    }

    pub(super) fn play_allowed(&mut self, token: Token, key: StreamKey, packaging: Packaging) {
        let Some(link) = self.links.get_mut(token) else { return };
        let key = self.shard.own_copy(key);
        link.role = Role::Waiter;
        link.part = Some(Part::new("player", key.clone()));
        let (connection, local, peer) = (link.id, link.local, link.peer);
        let params = link.params.clone();
        debug!(%connection, %peer, %key, ?packaging, "asks to play");
        // Whoever called acts on it. A peer that asks again and again in one message must not have us
        // answer within the answer.
        let request = PlayRequest { connection, key: key.clone(), packaging, local, peer, params };
        self.shard.play(self.now, request);
        self.tell_waits(token, &key);
    }

    /// The stream is there: the session is told, and its socket is fed from now on.
    pub(super) fn admit(&mut self, connection: ConnectionId) {
        let Some(&token) = self.by_connection.get(&connection) else {
            self.shard.leave(connection);
            return;
        };
        let now = self.now;
        self.note_life(token);
        let Some(link) = self.links.get_mut(token) else { return };
        let begun = match &mut link.session {
            Session::Rtsp(_) => {
                self.describe(token);
                return;
            }
            Session::Rtmp(session) => {
                session.exchange_room(&mut self.outputs_room);
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
            Session::Destination(_) => {
                self.push_admitted(token);
                return;
            }
            Session::Origin(_) => return,
        };
        while let Some(link) = self.links.get_mut(token) {
            let output = match &mut link.session {
                Session::Rtmp(session) => session.poll_output().and_then(sent),
                Session::Http(session) => session.poll_output().and_then(sent),
                Session::Rtsp(_) | Session::Origin(_) | Session::Destination(_) => None,
            };
            match output {
                Some(bytes) => link.queue(bytes),
                None => break,
            }
        }
        if let Some((_, session)) = self.links.rtmp_mut(token) {
            session.exchange_room(&mut self.outputs_room);
        }
        if !matches!(begun, Ok(StreamStart::Body)) {
            // The session died while it waited.
            self.close(token);
            return;
        }
        let Some(link) = self.links.get_mut(token) else { return };
        link.role = Role::Player;
        if let Some(part) = &link.part {
            info!(%connection, peer = %link.peer, key = %part.key, "plays");
        }
        self.tell_started(token);
        let Some(link) = self.links.get_mut(token) else { return };
        let unsent = link.take_unsent();
        let socket = Socket(link.raw_fd());
        self.shard.admitted(
            now,
            Admitted { connection, socket, unsent, rtp: None },
            &mut self.wire,
        );
        self.set_deadline(token);
        self.drop_deadline(token);
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
        if matches!(link.session, Session::Destination(_)) {
            self.shard.released(connection);
            self.end_push(token, reason, true);
            return;
        }
        self.tell_refused(token, Refusal::For(reason));
        let Some(link) = self.links.get_mut(token) else { return };
        let failed = matches!(reason, EndReason::OriginFailed | EndReason::KnownFailed);
        let not_carried = reason == EndReason::NotCarried;
        let overloaded = failed
            || matches!(
                reason,
                EndReason::Busy
                    | EndReason::TooManyPulls
                    | EndReason::Overloaded
                    | EndReason::Shutdown
            );
        match &mut link.session {
            Session::Rtmp(session) => {
                let refusal =
                    if overloaded { PlayRefusal::Unavailable } else { PlayRefusal::StreamNotFound };
                session.refuse_play(refusal, if not_carried { NOT_CARRIED } else { "" });
            }
            Session::Http(session) if session.is_websocket() => {
                let code = if overloaded { WS_TRY_AGAIN } else { WS_NOT_FOUND };
                session.close_websocket(code, reason.as_str());
            }
            Session::Http(session) => {
                let status = if failed {
                    502
                } else if overloaded {
                    503
                } else if not_carried {
                    406
                } else {
                    404
                };
                let text = match not_carried {
                    true => format!("{NOT_CARRIED}\n"),
                    false => format!("no such stream: {}\n", reason.as_str()),
                };
                let mut response = Response::text(status, text);
                if !reason.is_absence() {
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
            Session::Rtsp(_) => {
                // It may ask again at once, for the same stream.
                self.shard.released(connection);
                let refusal = match reason {
                    EndReason::NotCarried => MediaType,
                    _ if overloaded => Unavailable,
                    _ => NotFound,
                };
                self.refuse_rtsp(token, refusal);
                return;
            }
            Session::Origin(_) | Session::Destination(_) => return,
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
            // RTSP has no word for it but the end of the connection.
            Session::Rtsp(_) | Session::Origin(_) | Session::Destination(_) => {}
        }
        while let Some(link) = self.links.get_mut(token) {
            let output = match &mut link.session {
                Session::Rtmp(session) => session.poll_output(),
                Session::Http(session) => session.poll_output().map(without_event),
                Session::Rtsp(_) | Session::Origin(_) | Session::Destination(_) => None,
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

    /// Ends a player's or publisher's session with its protocol's goodbye.
    pub(super) fn end(
        &mut self,
        connection: ConnectionId,
        reason: EndReason,
        player: Option<Removed>,
    ) {
        let Some(&token) = self.by_connection.get(&connection) else {
            self.shard.released(connection);
            return;
        };
        let Some(link) = self.links.get_mut(token) else { return };
        let was_player = matches!(link.role, Role::Player);
        // The shard has forgotten it already.
        link.role = Role::None;
        link.sent_bytes += player.map_or(0, |player| player.sent_bytes);
        if matches!(link.session, Session::Destination(_)) {
            self.end_push(token, reason, player.is_none_or(|player| player.between_tags));
            return;
        }
        if let Some(part) = &mut link.part {
            part.ended = Some(reason);
        }
        if player.is_none_or(|player| player.between_tags) {
            self.say_goodbye(token, reason, was_player);
        }
        self.close(token);
    }

    pub(super) fn kick(&mut self, connection: ConnectionId) -> bool {
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
}

fn protocol_of(packaging: Packaging) -> &'static str {
    match packaging {
        Packaging::Rtmp | Packaging::RtmpPush { .. } => "rtmp",
        Packaging::Flv => "http",
        Packaging::WsFlv => "ws",
        Packaging::Rtsp => "rtsp",
    }
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

pub(super) const FLV_TYPE: &str = "video/x-flv";
pub(super) const NO_STORE: (&str, &str) = ("Cache-Control", "no-store");
/// What players are told of a stream whose codecs their protocol can't carry.
const NOT_CARRIED: &str = "None of the stream's codecs can be carried here.";
/// The node ends the stream (RFC 6455, 7.4.1).
const WS_GOING_AWAY: u16 = 1001;
const WS_TRY_AGAIN: u16 = 1013;
/// HTTP's code in the range for applications; 404 itself is not a valid close code.
const WS_NOT_FOUND: u16 = 4404;
