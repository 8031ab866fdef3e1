//! What an RTSP session wants: to publish (as RTMP's do, see `rtmp.rs`), to be told what there is, and to
//! play it, interleaved or over UDP.
//!
//! ```text
//!  player:     DESCRIBE ─ waiter ─ admitted ─► described ── PLAY ──► player, or player over UDP
//!                                                  ▲──────── PAUSE ──────┘
//!  publisher:  ANNOUNCE ─ (moves to the key's owner) ─► publisher ── RECORD ──► its packets are taken
//! ```
//!
//! The connection of a player over UDP stays ours: answers go out as for any other session. That of an
//! interleaved player is the egress's, which puts them between its packets.

use std::sync::Arc;

use bytes::Bytes;
use tracing::info;

use super::admission::Refused;
use super::driver::Driver;
use super::link::{Phase, Role, Session};
use super::rtsp_peer::{RtspPeer, Wanted};
use crate::egress::{RtpStart, Socket};
use crate::media::StreamKey;
use crate::proto::Output;
use crate::proto::rtmp::PublishRefusal as RtmpRefusal;
use crate::proto::rtp::{RtpPart, SourceOutput};
use crate::proto::rtsp::server::{FirstPacket, Refusal, TrackSetup};
use crate::proto::rtsp::{
    Delivery, Interleaved, PacketKind, Ports, ServerError, ServerEvent, SessionDescription,
    StreamRequest,
};
use crate::ring::Token;
use crate::shard::Admitted;
use crate::stream::Packaging;

impl Driver {
    fn rtsp_peer(&mut self, token: Token) -> Option<&mut RtspPeer> {
        match &mut self.links.get_mut(token)?.session {
            Session::Rtsp(peer) => Some(peer),
            _ => None,
        }
    }

    /// Everything that an RTSP session wants, unless that is under way.
    pub(super) fn drain_rtsp(&mut self, token: Token) {
        let Some(peer) = self.rtsp_peer(token) else { return };
        if std::mem::replace(&mut peer.draining, true) {
            return;
        }
        while let Some(link) = self.links.get_mut(token)
            && link.phase == Phase::Open
            && let Session::Rtsp(peer) = &mut link.session
            && let Some(wanted) = peer.poll()
        {
            match wanted {
                Wanted::Send(bytes) => self.session_sends(token, bytes),
                Wanted::Event(event) => self.rtsp_event(token, event),
                Wanted::Source(output) => self.source_output(token, output),
            }
        }
        if let Some(peer) = self.rtsp_peer(token) {
            peer.draining = false;
        }
    }

    fn rtsp_event(&mut self, token: Token, event: ServerEvent) {
        match event {
            ServerEvent::Describe(request) => self.rtsp_describe(token, &request),
            ServerEvent::Announce { request, description } => {
                self.rtsp_announce(token, request, description);
            }
            ServerEvent::BadDescription => self.counters.rtsp_bad_descriptions += 1,
            ServerEvent::SetupUdp { track, client_port, .. } => {
                self.rtsp_setup_udp(token, track, client_port);
            }
            ServerEvent::Play(setups) => self.rtsp_play(token, &setups),
            ServerEvent::Record(setups) => self.rtsp_record(token, setups),
            ServerEvent::Pause => self.rtsp_pause(token),
            ServerEvent::Packet { track, kind, packet } => {
                self.rtsp_packet(token, track, kind, &packet);
            }
            ServerEvent::Teardown => self.rtsp_teardown(token),
        }
    }

    fn rtsp_describe(&mut self, token: Token, request: &StreamRequest) {
        // Asked again, for something else perhaps.
        self.leave_role(token, false);
        self.tell_part_left(token);
        match StreamKey::in_default_vhost(&request.app, &request.stream) {
            Ok(key) => {
                self.asks_to_play(token, Packaging::Rtsp, request.params.clone());
                match self.may_play(token, &key) {
                    Ok(()) => self.play(token, key, Packaging::Rtsp),
                    Err(Refused::Denied(_)) => self.refuse_rtsp(token, Refusal::Forbidden),
                    Err(Refused::TooMany) => self.refuse_rtsp(token, Refusal::Unavailable),
                }
            }
            Err(_) => self.refuse_rtsp(token, Refusal::NotFound),
        }
    }

    fn rtsp_announce(
        &mut self,
        token: Token,
        request: StreamRequest,
        description: SessionDescription,
    ) {
        let Ok(key) = StreamKey::in_default_vhost(&request.app, &request.stream) else {
            self.refuse_rtsp(token, Refusal::NotFound);
            return;
        };
        if let Some(peer) = self.rtsp_peer(token) {
            peer.announced = Some(description);
        }
        self.publish(token, key, request.params);
    }

    /// The publisher has its stream, and may set up its tracks.
    pub(super) fn begin_rtp(&mut self, token: Token) {
        let now = self.now;
        let Some(peer) = self.rtsp_peer(token) else { return };
        let answered = peer.session.accept_announce(now);
        self.rtsp_answered(token, answered);
    }

    /// There is no stream for a publisher.
    pub(super) fn refuse_rtp(&mut self, token: Token, refusal: RtmpRefusal) {
        self.refuse_rtsp(
            token,
            match refusal {
                RtmpRefusal::BadName => Refusal::InUse,
                RtmpRefusal::Unavailable => Refusal::Unavailable,
                _ => Refusal::Denied,
            },
        );
    }

    /// Refuses what was asked for. The peer may ask for something else, unless we shut down.
    pub(super) fn refuse_rtsp(&mut self, token: Token, refusal: Refusal) {
        let now = self.now;
        let Some(peer) = self.rtsp_peer(token) else { return };
        let answered = peer.session.refuse(now, refusal);
        self.rtsp_answered(token, answered);
        if self.shutting_down {
            self.flush_rtsp(token);
            self.finish(token);
        }
    }

    /// An admitted player is told what the stream has.
    pub(super) fn describe(&mut self, token: Token) {
        let now = self.now;
        let Some(link) = self.links.get_mut(token) else { return };
        if !matches!(link.role, Role::Waiter) {
            return;
        }
        let Some(description) = self.shard.description(link.id) else {
            self.close(token);
            return;
        };
        link.role = Role::Described;
        let Session::Rtsp(peer) = &mut link.session else { return };
        let answered = peer.session.accept_describe(now, (*description).clone());
        self.rtsp_answered(token, answered);
    }

    fn rtsp_setup_udp(&mut self, token: Token, track: usize, client_port: Ports) {
        let now = self.now;
        let ports = self.open_udp(token, track);
        let ports = ports.filter(|_| self.connect_udp(token, track, client_port));
        let Some(peer) = self.rtsp_peer(token) else { return };
        let answered = match ports {
            Some(server_port) => peer.session.accept_udp(now, server_port),
            // Clients then ask for TCP.
            None => peer.session.refuse(now, Refusal::Transport),
        };
        self.rtsp_answered(token, answered);
    }

    fn rtsp_play(&mut self, token: Token, setups: &[TrackSetup]) {
        let now = self.now;
        let Some(link) = self.links.get(token) else { return };
        if !matches!(link.role, Role::Described) {
            self.refuse_rtsp(token, Refusal::NotFound);
            return;
        }
        let (connection, socket) = (link.id, Socket(link.raw_fd()));
        let tracks = setups.iter().filter_map(|setup| u8::try_from(setup.track).ok()).collect();
        let udp: Vec<_> = setups
            .iter()
            .filter(is_udp)
            .filter_map(|setup| self.udp_track(token, setup.track))
            .collect();
        if !self.has_ports(token, setups) {
            self.close(token);
            return;
        }
        let over_udp = !udp.is_empty();
        let first = self.shard.first_packets(connection);
        let after = match self.begin_play(token, &first) {
            Ok(after) => after,
            Err(error) => {
                self.counters.count_error(&Err(error));
                self.session_failed(token, &error);
                return;
            }
        };
        let Some(link) = self.links.get_mut(token) else { return };
        link.role = if over_udp { Role::PlayerOverUdp } else { Role::Player };
        if let Some(part) = &link.part {
            info!(%connection, peer = %link.peer, key = %part.key, over_udp, "plays");
        }
        if !link.has_started {
            self.tell_started(token);
        }
        let Some(link) = self.links.get_mut(token) else { return };
        let unsent = if over_udp { Bytes::new() } else { link.take_unsent() };
        if over_udp {
            // The answer goes before the packets as far as that can be.
            self.send_out(token);
        }
        let rtp = Some(RtpStart { tracks, udp });
        self.shard.admitted(now, Admitted { connection, socket, unsent, rtp }, &mut self.wire);
        if let Some(event) = after {
            self.rtsp_event(token, event);
        }
    }

    /// The connection is ours again until the next PLAY. What its socket has not taken of a packet goes
    /// before our answer.
    fn rtsp_pause(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if matches!(link.role, Role::Player | Role::PlayerOverUdp) {
            let (sent_bytes, rest) = self.shard.pause(link.id).unwrap_or_default();
            link.sent_bytes += sent_bytes;
            link.queue(rest);
            link.role = Role::Described;
        }
    }

    /// Answers PLAY, before any packet. An event that comes of what was asked meanwhile is for after it.
    fn begin_play(
        &mut self,
        token: Token,
        first: &[FirstPacket],
    ) -> Result<Option<ServerEvent>, ServerError> {
        let now = self.now;
        let Some(link) = self.links.get_mut(token) else { return Ok(None) };
        let Session::Rtsp(peer) = &mut link.session else { return Ok(None) };
        let answered = peer.session.accept_play(now, first);
        let mut answers = Vec::new();
        let after = loop {
            match peer.session.poll_output() {
                Some(Output::Send(bytes)) => answers.push(bytes),
                Some(Output::Event(event)) => break Some(event),
                None => break None,
            }
        };
        answers.into_iter().for_each(|bytes| link.queue(bytes));
        answered.map(|()| after)
    }

    /// `false` where it set a track up again and got no ports for it.
    fn has_ports(&self, token: Token, setups: &[TrackSetup]) -> bool {
        let mut over_udp = setups.iter().filter(is_udp);
        over_udp.all(|setup| self.udp_track(token, setup.track).is_some())
    }

    fn rtsp_record(&mut self, token: Token, setups: Vec<TrackSetup>) {
        let now = self.now;
        if !self.has_ports(token, &setups) {
            return self.close(token);
        }
        let Some(link) = self.links.get_mut(token) else { return };
        let (Session::Rtsp(peer), &Role::Publisher(handle)) = (&mut link.session, &link.role)
        else {
            return self.refuse_rtsp(token, Refusal::Unavailable);
        };
        let begun = peer.begin_source(setups).is_some_and(|description| {
            self.shard.rtp(now, handle, RtpPart::Begin(Arc::new(description)))
        });
        if !begun {
            return self.close(token);
        }
        let Some(peer) = self.rtsp_peer(token) else { return };
        let answered = peer.session.accept_record(now);
        self.rtsp_answered(token, answered);
    }

    fn rtsp_packet(&mut self, token: Token, track: usize, kind: PacketKind, packet: &Interleaved) {
        let now = self.now;
        if let Some(peer) = self.rtsp_peer(token) {
            peer.handle_packet(now, track, kind, packet.pieces());
        }
    }

    fn source_output(&mut self, token: Token, output: SourceOutput) {
        let Some(link) = self.links.get(token) else { return };
        match (output, &link.role) {
            (SourceOutput::Part(part), &Role::Publisher(handle)) => {
                if !self.shard.rtp(self.now, handle, part) {
                    self.close(token);
                }
            }
            (SourceOutput::Part(_), _) => {}
            (SourceOutput::Send { track, report }, _) => {
                let Session::Rtsp(peer) = &link.session else { return };
                match peer.report(track, &report) {
                    Some((_, Some(frame))) => self.session_sends(token, frame),
                    Some((track, None)) => self.send_udp(token, track, PacketKind::Rtcp, &report),
                    None => {}
                }
            }
            (SourceOutput::Ended, _) => {
                self.leave_role(token, true);
                self.close(token);
            }
        }
    }

    /// The peer plays or publishes no more, and may go on with something else.
    fn rtsp_teardown(&mut self, token: Token) {
        self.rtsp_pause(token);
        self.leave_role(token, true);
        self.tell_part_left(token);
        self.close_udp_of(token);
        let Some(link) = self.links.get_mut(token) else { return };
        self.counters.count_source(&mut link.session);
    }

    /// After an answer to a session: the input that was kept may have ended it.
    fn rtsp_answered(&mut self, token: Token, answered: Result<(), ServerError>) {
        self.counters.count_error(&answered);
        match answered {
            Ok(()) => self.drain(token),
            Err(error) => {
                self.flush_rtsp(token);
                self.session_failed(token, &error);
            }
        }
    }

    /// Queues what a session still has to say, whatever else it wants.
    fn flush_rtsp(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        let Session::Rtsp(peer) = &mut link.session else { return };
        let outputs = std::iter::from_fn(|| peer.session.poll_output());
        let said: Vec<Bytes> = outputs
            .filter_map(|output| match output {
                Output::Send(bytes) => Some(bytes),
                Output::Event(_) => None,
            })
            .collect();
        if !matches!(link.role, Role::Player) {
            said.into_iter().for_each(|bytes| link.queue(bytes));
        }
    }
}

fn is_udp(setup: &&TrackSetup) -> bool {
    matches!(setup.delivery, Delivery::Udp { .. })
}
