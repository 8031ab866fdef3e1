//! An RTSP origin's session and its source, as a pull sees them. The stream gets the tracks that were set
//! up, in their order, and no others.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::driver::Driver;
use super::link::Session;
use super::origin::{NO_TIMEOUT, Wanted, class_of_status, protocol_fault};
use crate::media::AttemptId;
use crate::media::state::{ErrorClass, Fault};
use crate::media::url::{Login, SourceUrl};
use crate::proto::Output;
use crate::proto::rtp::rtcp::encode_receiver_report;
use crate::proto::rtp::source::CNAME;
use crate::proto::rtp::{RtpPart, SourceCounts, SourceOutput, SourceReceiver};
use crate::proto::rtsp::client::{ClientStart, ClientTrack};
use crate::proto::rtsp::{
    ClientConfig, ClientEvent, ClientSession, ClientStage, Credentials, Delivery, Interleaved,
    LowerTransport, PacketKind, Ports, SessionDescription,
};
use crate::ring::Token;
use crate::shard::Stage;

/// The session with an RTSP origin.
pub(super) struct RtspOrigin {
    session: ClientSession,
    description: SessionDescription,
    /// Those that are set up; the place of each is its number in the stream.
    tracks: Vec<ClientTrack>,
    /// From the last SETUP on.
    source: Option<SourceReceiver>,
    /// For packets over UDP.
    reorder: Duration,
    /// Our own, in reports.
    ssrc: u32,
    /// The origin said that packets come from an address that is not its own.
    is_elsewhere: bool,
    wanted: VecDeque<Wanted>,
}

/// What only an RTSP origin's session wants done.
pub(super) enum RtspWanted {
    Part(RtpPart),
    /// Give an interleaved packet to [`RtspOrigin::handle_packet`], with the time.
    Packet {
        track: usize,
        kind: PacketKind,
        packet: Interleaved,
    },
    /// Send a report about a track of the stream.
    Report {
        track: usize,
        report: Bytes,
    },
    /// Open ports for a track of the origin.
    OpenUdp {
        track: usize,
    },
    /// They are not used.
    CloseUdp {
        track: usize,
    },
    /// They are for these ports of the origin.
    ConnectUdp {
        track: usize,
        server_port: Ports,
    },
}

impl RtspOrigin {
    /// A session whose connection is being made. `first` is tried first, the other transport where the
    /// origin refuses it.
    pub(super) fn new(
        now: Instant,
        url: &SourceUrl,
        first: LowerTransport,
        reorder: Duration,
    ) -> Self {
        let config = ClientConfig::new(url.as_str()).expect("a source URL of RTSP");
        let other = match first {
            LowerTransport::Tcp => LowerTransport::Udp,
            LowerTransport::Udp => LowerTransport::Tcp,
        };
        let login =
            url.login.clone().map(|Login { user, password }| Credentials { user, password });
        let config = ClientConfig {
            credentials: login.or_else(|| config.credentials.clone()),
            user_agent: concat!("rillcast/", env!("CARGO_PKG_VERSION")).to_owned(),
            transports: vec![first, other],
            command_timeout: NO_TIMEOUT,
            media_timeout: NO_TIMEOUT,
            ..config
        };
        Self {
            session: ClientSession::new(now, fastrand::u64(..), config),
            description: SessionDescription::default(),
            tracks: Vec::new(),
            source: None,
            reorder,
            ssrc: fastrand::u32(..),
            is_elsewhere: false,
            wanted: VecDeque::new(),
        }
    }

    pub(super) fn handle_input(&mut self, now: Instant, bytes: Bytes) -> Option<Fault> {
        self.session.handle_input(now, bytes).err().map(protocol_fault)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Fault> {
        if let Some(source) = &mut self.source {
            source.handle_timeout(now);
        }
        let timed_out = self.session.handle_timeout(now).err();
        timed_out.map(|error| Fault::new(ErrorClass::Silent, error.to_string()))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let source = self.source.as_ref().and_then(SourceReceiver::poll_timeout);
        self.session.poll_timeout().into_iter().chain(source).min()
    }

    /// A datagram of a track, as the origin's description counts it; whether it was of use.
    pub(super) fn handle_datagram(
        &mut self,
        now: Instant,
        track: usize,
        kind: PacketKind,
        bytes: Bytes,
    ) -> bool {
        if kind == PacketKind::Rtp {
            self.session.note_media(now);
        }
        self.handle_packet(now, track, kind, (bytes, Bytes::new()))
    }

    /// Ports for a track are open, or there are none.
    pub(super) fn udp_opened(&mut self, now: Instant, ports: Option<Ports>) {
        match ports {
            Some(ports) => self.session.open_udp(now, ports),
            None => self.session.refuse_udp(now),
        }
    }

    /// The ports of a track are for this address alone: the origin's, behind which its own word of it may
    /// be another one, that of a camera behind a NAT.
    pub(super) fn udp_connected(&mut self, track: usize, peer: IpAddr) {
        let source = self.tracks.iter().find(|known| known.track == track);
        let source = source.and_then(|track| track.source.as_deref()?.parse::<IpAddr>().ok());
        self.is_elsewhere |= source.is_some_and(|source| {
            !source.is_unspecified() && source.to_canonical() != peer.to_canonical()
        });
    }

    /// What a track's port for reports says first.
    pub(super) fn first_report(&self) -> Vec<u8> {
        encode_receiver_report(self.ssrc, None, CNAME)
    }

    /// A report about a track of the stream: what carries it, if that is not the connection.
    pub(super) fn send_report(&mut self, track: usize, report: &[u8]) -> Option<usize> {
        let track = self.tracks.get(track)?.track;
        let sent = self.session.send_packet(track, PacketKind::Rtcp, report);
        (!sent).then_some(track)
    }

    /// What an origin is told before we go.
    pub(super) fn goodbye(&mut self) -> Vec<Bytes> {
        self.session.teardown();
        let outputs = std::iter::from_fn(|| self.session.poll_output());
        let said = outputs.filter_map(|output| match output {
            Output::Send(bytes) => Some(bytes),
            Output::Event(_) => None,
        });
        said.collect()
    }

    /// What the source counted, and interleaved packets that nothing was agreed for.
    pub(super) fn counts(&self) -> (SourceCounts, u64) {
        let counts = self.source.as_ref().map(SourceReceiver::counts).unwrap_or_default();
        (counts, self.session.stray_packets())
    }

    pub(super) fn poll(&mut self) -> Option<Wanted> {
        loop {
            if let Some(wanted) = self.wanted.pop_front() {
                return Some(wanted);
            }
            if let Some(output) = self.source.as_mut().and_then(SourceReceiver::poll_output) {
                return Some(match output {
                    SourceOutput::Part(part) => Wanted::Rtsp(RtspWanted::Part(part)),
                    SourceOutput::Send { track, report } => {
                        Wanted::Rtsp(RtspWanted::Report { track, report })
                    }
                    SourceOutput::Ended => lost("the origin said goodbye"),
                });
            }
            match self.session.poll_output()? {
                Output::Send(bytes) => return Some(Wanted::Send(bytes)),
                Output::Event(event) => self.on_event(event),
            }
        }
    }

    fn on_event(&mut self, event: ClientEvent) {
        let wanted = match event {
            ClientEvent::Progress(stage) => {
                if stage == ClientStage::AwaitingPlay {
                    self.begin();
                }
                stage_of(stage, self.is_elsewhere)
            }
            ClientEvent::Described(description) => {
                self.description = description;
                return;
            }
            ClientEvent::UdpWanted { track } => Wanted::Rtsp(RtspWanted::OpenUdp { track }),
            ClientEvent::UdpRefused { track } => Wanted::Rtsp(RtspWanted::CloseUdp { track }),
            ClientEvent::Setup(track) => return self.on_setup(track),
            ClientEvent::Playing(starts) => return self.on_playing(&starts),
            ClientEvent::Packet { track, kind, packet } => {
                Wanted::Rtsp(RtspWanted::Packet { track, kind, packet })
            }
            ClientEvent::Refused { status, reason } => {
                let text = format!("the origin answered {status} {reason}");
                Wanted::Fail(Fault::new(class_of_status(status), text))
            }
            ClientEvent::Redirect(url) => Wanted::Redirect(url),
            ClientEvent::Ended => lost("the origin ended the stream"),
        };
        self.wanted.push_back(wanted);
    }

    /// A packet of a track, as the origin's description counts it. Before all tracks are set up there is
    /// no stream for it.
    pub(super) fn handle_packet(
        &mut self,
        now: Instant,
        track: usize,
        kind: PacketKind,
        (packet, tail): (Bytes, Bytes),
    ) -> bool {
        let place = self.place_of(track);
        let (Some(source), Some(place)) = (&mut self.source, place) else { return false };
        match kind {
            PacketKind::Rtp => source.handle_pieces(now, place, (packet, tail)),
            PacketKind::Rtcp => source.handle_rtcp(now, place, [packet, tail].concat().into()),
        }
        true
    }

    /// All tracks that can be had are set up.
    fn begin(&mut self) {
        if self.source.is_some() {
            return;
        }
        let media = self.tracks.iter().map(|track| self.description.media[track.track].clone());
        let description = SessionDescription { media: media.collect(), ..self.description.clone() };
        let is_udp = |track: &ClientTrack| matches!(track.delivery, Delivery::Udp { .. });
        let hold = if self.tracks.iter().any(is_udp) { self.reorder } else { Duration::ZERO };
        self.source = Some(SourceReceiver::new(&description, hold, self.ssrc));
        self.wanted
            .push_back(Wanted::Rtsp(RtspWanted::Part(RtpPart::Begin(Arc::new(description)))));
    }

    fn on_setup(&mut self, track: ClientTrack) {
        if let Delivery::Udp { server_port, .. } = track.delivery {
            let wanted = RtspWanted::ConnectUdp { track: track.track, server_port };
            self.wanted.push_back(Wanted::Rtsp(wanted));
        }
        self.tracks.push(track);
    }

    fn on_playing(&mut self, starts: &[ClientStart]) {
        for start in starts {
            let Some(track) = self.place_of(start.track) else { continue };
            if let (Some(source), Some(sequence)) = (&mut self.source, start.sequence) {
                source.announce(track, sequence);
            }
            if let Some(timestamp) = start.timestamp {
                let part = RtpPart::Announced { track, timestamp };
                self.wanted.push_back(Wanted::Rtsp(RtspWanted::Part(part)));
            }
        }
    }

    fn place_of(&self, track: usize) -> Option<usize> {
        self.tracks.iter().position(|known| known.track == track)
    }
}

impl Driver {
    pub(super) fn rtsp_origin_wants(&mut self, token: Token, id: AttemptId, wanted: RtspWanted) {
        let now = self.now;
        match wanted {
            RtspWanted::Part(part) => {
                if self.attempts.get(&id).is_some_and(|attempt| !attempt.over) {
                    self.shard.attempt_rtp(now, id, part);
                }
            }
            RtspWanted::Packet { track, kind, packet } => {
                if let Some(origin) = self.rtsp_origin(token) {
                    origin.handle_packet(now, track, kind, packet.pieces());
                }
            }
            RtspWanted::Report { track, report } => {
                let origin = self.rtsp_origin(token);
                if let Some(track) = origin.and_then(|origin| origin.send_report(track, &report)) {
                    self.send_udp(token, track, PacketKind::Rtcp, &report);
                }
            }
            RtspWanted::OpenUdp { track } => {
                let ports = self.open_udp(token, track);
                if let Some(origin) = self.rtsp_origin(token) {
                    origin.udp_opened(now, ports);
                }
            }
            RtspWanted::CloseUdp { track } => self.close_udp_track(token, track),
            RtspWanted::ConnectUdp { track, server_port } => {
                if self.connect_udp(token, track, server_port) {
                    let peer = self.links.get(token).map(|link| link.peer.ip());
                    if let (Some(origin), Some(peer)) = (self.rtsp_origin(token), peer) {
                        origin.udp_connected(track, peer);
                    }
                    self.open_path(token, track);
                } else {
                    let text = "the origin's UDP ports can't be used";
                    self.attempt_failed(id, Fault::new(ErrorClass::Unreachable, text));
                }
            }
        }
    }

    /// Opens the firewalls between an origin and us, as players do, as far as its ports are known.
    pub(super) fn open_path(&mut self, token: Token, track: usize) {
        let Some(origin) = self.rtsp_origin(token) else { return };
        let report = origin.first_report();
        self.send_udp(token, track, PacketKind::Rtp, &EMPTY_RTP);
        self.send_udp(token, track, PacketKind::Rtcp, &report);
    }

    fn rtsp_origin(&mut self, token: Token) -> Option<&mut RtspOrigin> {
        match &mut self.links.get_mut(token)?.session {
            Session::Origin(session) => session.rtsp(),
            _ => None,
        }
    }
}

/// A packet with nothing in it: version 2, and zeros.
pub(super) const EMPTY_RTP: [u8; 12] = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn stage_of(stage: ClientStage, is_elsewhere: bool) -> Wanted {
    match stage {
        ClientStage::AskingOptions => Wanted::Stage(Stage::Handshaking, "answer to OPTIONS"),
        ClientStage::Describing => Wanted::Stage(Stage::Handshaking, "answer to DESCRIBE"),
        ClientStage::SettingUp => Wanted::Stage(Stage::Handshaking, "answer to SETUP"),
        ClientStage::AwaitingPlay => Wanted::Stage(Stage::Handshaking, "answer to PLAY"),
        ClientStage::AwaitingMedia if is_elsewhere => Wanted::Stage(
            Stage::AwaitingMedia,
            "media from its own address, where it said that it sends from another",
        ),
        ClientStage::AwaitingMedia => Wanted::Stage(Stage::AwaitingMedia, "media"),
    }
}

fn lost(text: &str) -> Wanted {
    Wanted::Fail(Fault::new(ErrorClass::Lost, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDP: &str = "m=audio 0 RTP/AVP 8\r\na=control:a\r\n";

    /// What a pull over UDP awaits at last, from an origin at 127.0.0.1 that says this of its source.
    fn awaited(source: &str) -> &'static str {
        let now = crate::clock::now();
        let url = SourceUrl::parse("rtsp://127.0.0.1/live/a", true).expect("a URL");
        let mut origin = RtspOrigin::new(now, &url, LowerTransport::Udp, Duration::ZERO);
        let transport = format!("Transport: RTP/AVP;unicast;server_port=6000-6001{source}\r\n");
        let answers = [
            String::new(),
            format!("Content-Length: {}\r\n", SDP.len()),
            transport,
            "Session: 1\r\n".to_owned(),
        ];
        let mut awaited = "nothing";
        for (index, headers) in answers.iter().enumerate() {
            let body = if index == 1 { SDP } else { "" };
            let answer = format!("RTSP/1.0 200 OK\r\nCSeq: {}\r\n{headers}\r\n{body}", index + 1);
            let fault = origin.handle_input(now, answer.into());
            assert!(fault.is_none(), "{fault:?}");
            while let Some(wanted) = origin.poll() {
                match wanted {
                    Wanted::Rtsp(RtspWanted::OpenUdp { .. }) => {
                        origin.udp_opened(now, Some(Ports { rtp: 5000, rtcp: 5001 }));
                    }
                    Wanted::Rtsp(RtspWanted::ConnectUdp { track, .. }) => {
                        origin.udp_connected(track, IpAddr::from([127, 0, 0, 1]));
                    }
                    Wanted::Stage(_, text) => awaited = text,
                    _ => {}
                }
            }
        }
        awaited
    }

    #[test]
    fn media_of_another_address_is_not_awaited_in_silence() {
        for source in ["", ";source=127.0.0.1", ";source=0.0.0.0", ";source=camera.local"] {
            assert_eq!(awaited(source), "media", "{source}");
        }
        assert!(awaited(";source=10.0.0.9").contains("sends from another"));
    }
}
