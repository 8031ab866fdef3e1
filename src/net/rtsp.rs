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
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::info;

use super::admission::Refused;
use super::driver::{Counters, Driver};
use super::link::{Phase, Role, Session};
use super::rtsp_config::server_config;
use crate::config::RtspSection;
use crate::egress::{RtpStart, Socket};
use crate::media::StreamKey;
use crate::proto::Output;
use crate::proto::rtmp::PublishRefusal as RtmpRefusal;
use crate::proto::rtp::{RtpPart, SourceOutput, SourceReceiver};
use crate::proto::rtsp::message::interleaved_header;
use crate::proto::rtsp::server::{FirstPacket, Refusal, TrackSetup};
use crate::proto::rtsp::{
    Delivery, Interleaved, PacketKind, Ports, ServerError, ServerEvent, ServerSession,
    SessionDescription, StreamRequest,
};
use crate::ring::Token;
use crate::shard::{Admitted, StreamHandle};
use crate::stream::Packaging;

/// The session of an accepted connection, and what it publishes.
pub(super) struct RtspPeer {
    session: ServerSession,
    /// By ANNOUNCE.
    announced: Option<Arc<SessionDescription>>,
    /// From RECORD on.
    source: Option<SourceReceiver>,
    /// The tracks of that.
    setups: Vec<TrackSetup>,
    /// For packets over UDP.
    reorder: Duration,
    /// Its outputs are being drained: an answer within an answer waits for its turn there, so that a
    /// peer that asks many things at once takes no deeper stack.
    draining: bool,
}

/// What a session or its source wants.
enum Wanted {
    Send(Bytes),
    Event(ServerEvent),
    Source(SourceOutput),
}

impl RtspPeer {
    /// A session whose connection was just accepted. `seed` is random.
    pub(super) fn new(now: Instant, seed: u64, config: &RtspSection) -> Self {
        Self {
            session: ServerSession::new(now, seed, server_config(config)),
            announced: None,
            source: None,
            setups: Vec::new(),
            reorder: Duration::from_millis(config.reorder_ms),
            draining: false,
        }
    }

    pub(super) fn handle_input(&mut self, now: Instant, bytes: Bytes) -> Result<(), ServerError> {
        self.session.handle_input(now, bytes)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), ServerError> {
        if let Some(source) = &mut self.source {
            source.handle_timeout(now);
        }
        self.session.handle_timeout(now)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let source = self.source.as_ref().and_then(SourceReceiver::poll_timeout);
        self.session.poll_timeout().into_iter().chain(source).min()
    }

    /// A datagram of a track that is set up; whether it was of use.
    pub(super) fn handle_datagram(
        &mut self,
        now: Instant,
        track: usize,
        kind: PacketKind,
        bytes: Bytes,
    ) -> bool {
        match (&mut self.source, kind) {
            (Some(source), PacketKind::Rtp) => source.handle_packet(now, track, bytes),
            (Some(source), PacketKind::Rtcp) => source.handle_rtcp(now, track, bytes),
            // A player's reports tell that it lives.
            (None, PacketKind::Rtcp) => self.session.note_alive(now),
            // What players open their firewalls with, or a publisher that did not wait for our answer.
            (None, PacketKind::Rtp) => return false,
        }
        true
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        track: usize,
        kind: PacketKind,
        packet: &Interleaved,
    ) {
        if let Some(source) = &mut self.source {
            match kind {
                PacketKind::Rtp => source.handle_pieces(now, track, packet.pieces()),
                PacketKind::Rtcp => source.handle_rtcp(now, track, packet.packet()),
            }
        }
    }

    fn begin_source(&mut self, setups: Vec<TrackSetup>) {
        let Some(announced) = &self.announced else { return };
        let over_udp = setups.iter().any(|setup| matches!(setup.delivery, Delivery::Udp { .. }));
        let hold = if over_udp { self.reorder } else { Duration::ZERO };
        self.source = Some(SourceReceiver::new(announced, hold, fastrand::u32(..)));
        self.setups = setups;
    }

    fn poll(&mut self) -> Option<Wanted> {
        if let Some(output) = self.source.as_mut().and_then(SourceReceiver::poll_output) {
            return Some(Wanted::Source(output));
        }
        Some(match self.session.poll_output()? {
            Output::Send(bytes) => Wanted::Send(bytes),
            Output::Event(event) => Wanted::Event(event),
        })
    }

    /// The frame of a report about an interleaved track.
    fn interleaved(&self, track: usize, report: &[u8]) -> Option<Bytes> {
        let setup = self.setups.iter().find(|setup| setup.track == track)?;
        let Delivery::Interleaved(channels) = setup.delivery else { return None };
        let len = u16::try_from(report.len()).ok()?;
        Some([&interleaved_header(channels.rtcp, len)[..], report].concat().into())
    }
}

impl Counters {
    /// Takes over what a session that is over has counted.
    pub(super) fn count_rtp(&mut self, session: &Session) {
        match session {
            Session::Rtsp(peer) => {
                self.stray_interleaved += peer.session.stray_packets();
                self.rtp += peer.source.as_ref().map(SourceReceiver::counts).unwrap_or_default();
            }
            Session::Origin(origin) => {
                let (counts, stray) = origin.rtp_counts();
                self.rtp += counts;
                self.stray_interleaved += stray;
            }
            Session::Rtmp(_) | Session::Http(_) => {}
        }
    }

    /// Ends what a session publishes, and takes over what was counted of it.
    fn count_source(&mut self, session: &mut Session) {
        let Session::Rtsp(peer) = session else { return };
        if let Some(source) = peer.source.take() {
            self.rtp += source.counts();
        }
        peer.announced = None;
        peer.setups.clear();
    }
}

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
            Ok(key) => match self.may_play(token, &key, &request.params) {
                Ok(()) => {
                    self.set_params(token, request.params.clone());
                    self.play(token, key, Packaging::Rtsp);
                }
                Err(Refused::Denied) => self.refuse_rtsp(token, Refusal::Denied),
                Err(Refused::TooMany) => self.refuse_rtsp(token, Refusal::Unavailable),
            },
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
            peer.announced = Some(Arc::new(description));
        }
        self.publish(token, key, request.params);
    }

    /// The publisher has its stream: what it announced is the stream's, and it may set up its tracks.
    pub(super) fn begin_rtp(&mut self, token: Token, handle: StreamHandle) {
        let now = self.now;
        let Some(peer) = self.rtsp_peer(token) else { return };
        let Some(announced) = peer.announced.clone() else { return };
        if !self.shard.rtp(now, handle, RtpPart::Begin(announced)) {
            self.close(token);
            return;
        }
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
        let is_udp = |setup: &&TrackSetup| matches!(setup.delivery, Delivery::Udp { .. });
        let udp: Vec<_> = setups
            .iter()
            .filter(is_udp)
            .filter_map(|setup| self.udp_track(token, setup.track))
            .collect();
        let over_udp = setups.iter().any(|setup| is_udp(&setup));
        let first = self.shard.first_packets(connection);
        let after = match self.begin_play(token, &first) {
            Ok(after) => after,
            Err(error) => {
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

    /// The connection is ours again until the next PLAY.
    fn rtsp_pause(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if matches!(link.role, Role::Player | Role::PlayerOverUdp) {
            let is_cut = self.shard.pause(link.id).is_some_and(|player| !player.between_tags);
            link.role = Role::Described;
            if is_cut {
                // Our answer would stand within a packet.
                self.close(token);
            }
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

    fn rtsp_record(&mut self, token: Token, setups: Vec<TrackSetup>) {
        let now = self.now;
        let Some(peer) = self.rtsp_peer(token) else { return };
        peer.begin_source(setups);
        let answered = peer.session.accept_record(now);
        self.rtsp_answered(token, answered);
    }

    fn rtsp_packet(&mut self, token: Token, track: usize, kind: PacketKind, packet: &Interleaved) {
        let now = self.now;
        if let Some(peer) = self.rtsp_peer(token) {
            peer.handle_packet(now, track, kind, packet);
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
                match peer.interleaved(track, &report) {
                    Some(frame) => self.session_sends(token, frame),
                    None => self.send_udp(token, track, PacketKind::Rtcp, &report),
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
        let player = self.leave_role(token, true);
        self.tell_part_left(token);
        if player.is_some_and(|player| !player.between_tags) {
            // Half a packet is on its way: nothing could be said that the peer would understand.
            self.close(token);
            return;
        }
        self.close_udp_of(token);
        let Some(link) = self.links.get_mut(token) else { return };
        self.counters.count_source(&mut link.session);
    }

    /// After an answer to a session: the input that was kept may have ended it.
    fn rtsp_answered(&mut self, token: Token, answered: Result<(), ServerError>) {
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
