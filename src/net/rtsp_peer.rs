//! The session of an RTSP connection, with the receiver of what it publishes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::driver::Counters;
use super::link::Session;
use crate::config::{RtpTransport, RtspSection};
use crate::proto::Output;
use crate::proto::rtp::{SourceOutput, SourceReceiver};
use crate::proto::rtsp::message::interleaved_header;
use crate::proto::rtsp::server::{AuthConfig, TrackSetup};
use crate::proto::rtsp::{
    AuthScheme, Credentials, Delivery, Interleaved, LowerTransport, PacketKind, ServerConfig,
    ServerError, ServerEvent, ServerSession, SessionDescription,
};

/// The session of an accepted connection, and what it publishes.
pub(super) struct RtspPeer {
    pub(super) session: ServerSession,
    /// By ANNOUNCE.
    pub(super) announced: Option<Arc<SessionDescription>>,
    /// From RECORD on.
    pub(super) source: Option<SourceReceiver>,
    /// The tracks of that.
    pub(super) setups: Vec<TrackSetup>,
    /// For packets over UDP.
    reorder: Duration,
    /// Its outputs are being drained: an answer within an answer waits for its turn there, so that a
    /// peer that asks many things at once takes no deeper stack.
    pub(super) draining: bool,
}

/// What a session or its source wants.
pub(super) enum Wanted {
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

    pub(super) fn handle_packet(
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

    pub(super) fn begin_source(&mut self, setups: Vec<TrackSetup>) {
        let Some(announced) = &self.announced else { return };
        let over_udp = setups.iter().any(|setup| matches!(setup.delivery, Delivery::Udp { .. }));
        let hold = if over_udp { self.reorder } else { Duration::ZERO };
        self.source = Some(SourceReceiver::new(announced, hold, fastrand::u32(..)));
        self.setups = setups;
    }

    pub(super) fn poll(&mut self) -> Option<Wanted> {
        if let Some(output) = self.source.as_mut().and_then(SourceReceiver::poll_output) {
            return Some(Wanted::Source(output));
        }
        Some(match self.session.poll_output()? {
            Output::Send(bytes) => Wanted::Send(bytes),
            Output::Event(event) => Wanted::Event(event),
        })
    }

    /// The frame of a report about an interleaved track.
    pub(super) fn interleaved(&self, track: usize, report: &[u8]) -> Option<Bytes> {
        let setup = self.setups.iter().find(|setup| setup.track == track)?;
        let Delivery::Interleaved(channels) = setup.delivery else { return None };
        let len = u16::try_from(report.len()).ok()?;
        Some([&interleaved_header(channels.rtcp, len)[..], report].concat().into())
    }
}

fn server_config(config: &RtspSection) -> ServerConfig {
    let ms = Duration::from_millis;
    let transports = match config.rtp_transport {
        RtpTransport::Both => vec![LowerTransport::Tcp, LowerTransport::Udp],
        RtpTransport::Tcp => vec![LowerTransport::Tcp],
        RtpTransport::Udp => vec![LowerTransport::Udp],
    };
    let auth = (!config.auth_user.is_empty()).then(|| AuthConfig {
        schemes: match config.auth_basic {
            true => vec![AuthScheme::Basic, AuthScheme::DigestMd5, AuthScheme::DigestSha256],
            false => vec![AuthScheme::DigestMd5, AuthScheme::DigestSha256],
        },
        realm: "rillcast".to_owned(),
        credentials: Credentials {
            user: config.auth_user.clone(),
            password: config.auth_password.clone(),
        },
    });
    ServerConfig {
        transports,
        auth,
        session_timeout: ms(config.session_timeout_ms),
        command_timeout: ms(config.handshake_ms),
        ..ServerConfig::default()
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
            Session::Rtmp(_) | Session::Http(_) | Session::Destination(_) => {}
        }
    }

    /// Ends what a session publishes, and takes over what was counted of it.
    pub(super) fn count_source(&mut self, session: &mut Session) {
        let Session::Rtsp(peer) = session else { return };
        if let Some(source) = peer.source.take() {
            self.rtp += source.counts();
        }
        peer.announced = None;
        peer.setups.clear();
    }
}
