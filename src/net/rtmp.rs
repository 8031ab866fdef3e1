//! What an RTMP session wants: to publish or to play. Publishers, also those over RTSP, move to the
//! shard that owns their key.

use std::any::Any;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use bytes::Bytes;
use tracing::info;

use super::admission::Refused;
use super::driver::Driver;
use super::link::{Leaving, Link, Part, Role, Session};
use super::verdicts::Wanted;
use crate::access::Entry;
use crate::bus::message::Message;
use crate::bus::view::PublisherView;
use crate::media::{ConnectionId, Form, StreamKey};
use crate::proto::rtmp::{
    PlayRefusal, PublishRefusal as RtmpRefusal, ServerEvent as RtmpEvent, StreamRequest,
};
use crate::proto::rtsp::server::Refusal as RtspRefusal;
use crate::ring::{OpKind, Token};
use crate::shard::PublishRefusal;
use crate::stream::Packaging;

/// A publisher's connection on its way to the owner of its key.
struct Moved {
    id: ConnectionId,
    fd: OwnedFd,
    local: SocketAddr,
    peer: SocketAddr,
    session: Session,
    key: StreamKey,
    params: String,
    held: Vec<Bytes>,
    /// Answers that the peer has not taken yet.
    unsent: Bytes,
    opened: Instant,
    received_bytes: u64,
    guest: Option<Entry>,
}

impl Driver {
    pub(super) fn rtmp_event(&mut self, token: Token, event: RtmpEvent) {
        match event {
            RtmpEvent::Publish(request) => self.rtmp_publish(token, request),
            RtmpEvent::Play(request) => self.rtmp_play(token, request),
            RtmpEvent::Media(part) => {
                let Some(link) = self.links.get(token) else { return };
                let Role::Publisher(handle) = link.role else { return };
                self.note_media(token, &part);
                if !self.shard.media(self.now, handle, part) {
                    self.close(token);
                }
            }
            RtmpEvent::Unpublish => {
                self.leave_role(token, true);
                self.tell_part_left(token);
            }
            RtmpEvent::StopPlay => self.close(token),
        }
    }

    pub(super) fn rtmp_publish(&mut self, token: Token, request: StreamRequest) {
        match StreamKey::in_default_vhost(&request.app, &request.stream) {
            Ok(key) => self.publish(token, key, request.params),
            Err(_) => {
                self.refuse_publish(token, RtmpRefusal::BadName, "The stream has no usable name.");
            }
        }
    }

    /// A session wants to publish: here, or on the shard that owns the key.
    pub(super) fn publish(&mut self, token: Token, key: StreamKey, params: String) {
        if self.shutting_down {
            self.refuse_publish(token, RtmpRefusal::Unavailable, "");
            return;
        }
        if let Err(refused) = self.may_publish(token, &key, &params) {
            let link = self.links.get(token);
            let is_rtsp = link.is_some_and(|link| matches!(link.session, Session::Rtsp(_)));
            let (refusal, text) = match refused {
                Refused::Denied(_) if is_rtsp => {
                    self.refuse_rtsp(token, RtspRefusal::Forbidden);
                    return;
                }
                Refused::Denied(_) => (RtmpRefusal::Denied, ""),
                Refused::TooMany => (RtmpRefusal::Unavailable, "Too many at once."),
            };
            self.refuse_publish(token, refusal, text);
            return;
        }
        let Some(link) = self.links.get_mut(token) else { return };
        (link.params, link.protocol) = (params.clone(), publisher_protocol(&link.session));
        if let Some(Wanted::Publish { key, params }) =
            self.ask_verdict(token, Wanted::Publish { key, params })
        {
            self.publish_allowed(token, key, params);
        }
    }

    /// A publisher may publish, as far as rules and hooks are concerned: here, or on the shard that
    /// owns the key.
    pub(super) fn publish_allowed(&mut self, token: Token, key: StreamKey, params: String) {
        if self.shard.owner_of(&key) == self.shard.id() {
            self.publish_here(token, &key, params);
            return;
        }
        let Some(link) = self.links.get_mut(token) else { return };
        link.role = Role::Leaving(Box::new(Leaving { key, params, held: Vec::new() }));
        if link.polling {
            self.ring.cancel(token, OpKind::PollWritable);
        }
        if link.receiving && !link.receive_cancelled {
            link.receive_cancelled = true;
            self.ring.cancel(token, OpKind::Receive);
        }
    }

    pub(super) fn publish_here(&mut self, token: Token, key: &StreamKey, params: String) {
        let Some(link) = self.links.get(token) else { return };
        let (connection, local, peer) = (link.id, link.local, link.peer);
        let form = match &link.session {
            Session::Rtsp(_) => Form::Rtp,
            _ => Form::Flv,
        };
        let view = PublisherView { connection, form, local, peer, params: params.clone() };
        match self.shard.publish(self.now, key, view) {
            Ok(handle) => {
                info!(%connection, %peer, %key, "publishes");
                let link = self.links.get_mut(token).expect("just seen");
                link.role = Role::Publisher(handle);
                (link.has_started, link.params) = (true, params);
                link.protocol = publisher_protocol(&link.session);
                let part = Part::new("publisher", key.clone());
                link.part = Some(Part { generation: Some(handle.generation), ..part });
                let Session::Rtmp(session) = &mut link.session else {
                    self.begin_rtp(token);
                    return;
                };
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

    pub(super) fn refuse_publish(&mut self, token: Token, refusal: RtmpRefusal, detail: &str) {
        let Some(link) = self.links.get_mut(token) else { return };
        match &mut link.session {
            Session::Rtmp(session) => session.refuse_publish(refusal, detail),
            _ => {
                self.refuse_rtp(token, refusal);
                return;
            }
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
        let Link { id, fd, local, peer, session, role, opened, received_bytes, guest, .. } = *link;
        let Role::Leaving(leaving) = role else { return };
        let Leaving { key, params, held } = *leaving;
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
            guest,
        };
        self.port.put(owner, Message::Adopt(Box::new(moved)));
    }

    /// A publisher's connection comes from the shard that accepted it.
    pub(super) fn adopt(&mut self, moved: Box<dyn Any + Send>) {
        let moved = *moved.downcast::<Moved>().expect("only connections are moved");
        let ends = (moved.local, moved.peer);
        let mut link = Link::new(moved.id, moved.fd, ends, moved.session, Role::None, moved.opened);
        link.received_bytes = moved.received_bytes;
        link.guest = moved.guest;
        link.queue(moved.unsent);
        let token = self.enter(link);
        self.publish_here(token, &moved.key, moved.params);
        for bytes in moved.held {
            self.input(token, bytes);
        }
    }

    pub(super) fn rtmp_play(&mut self, token: Token, request: StreamRequest) {
        let Ok(key) = StreamKey::in_default_vhost(&request.app, &request.stream) else {
            let text = "It has no usable name.";
            self.refuse_rtmp_play(token, PlayRefusal::StreamNotFound, text);
            return;
        };
        self.asks_to_play(token, Packaging::Rtmp, request.params);
        match self.may_play(token, &key) {
            Ok(()) => self.play(token, key, Packaging::Rtmp),
            Err(Refused::Denied(_)) => self.refuse_rtmp_play(token, PlayRefusal::Denied, ""),
            Err(Refused::TooMany) => self.refuse_rtmp_play(token, PlayRefusal::Unavailable, ""),
        }
    }

    fn refuse_rtmp_play(&mut self, token: Token, refusal: PlayRefusal, text: &str) {
        let Some(link) = self.links.get_mut(token) else { return };
        if let Session::Rtmp(session) = &mut link.session {
            session.refuse_play(refusal, text);
        }
        self.drain(token);
        self.finish(token);
    }
}

/// ZLMediaKit's word for what a publisher speaks.
fn publisher_protocol(session: &Session) -> &'static str {
    match session {
        Session::Rtsp(_) => "rtsp",
        _ => "rtmp",
    }
}
