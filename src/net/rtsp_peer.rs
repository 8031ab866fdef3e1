//! The session of an RTSP connection, with the receiver of what it publishes.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::counters::Counters;
use super::link::Session;
use crate::config::{RtpTransport, RtspSection};
use crate::proto::Output;
use crate::proto::rtp::{SourceOutput, SourceReceiver};
use crate::proto::rtsp::message::interleaved_header;
use crate::proto::rtsp::server::{AuthConfig, TrackSetup};
use crate::proto::rtsp::{
    AuthScheme, Credentials, Delivery, LowerTransport, PacketKind, ServerConfig, ServerError,
    ServerEvent, ServerSession, SessionDescription,
};

/// The session of an accepted connection, and what it publishes.
pub(super) struct RtspPeer {
    pub(super) session: ServerSession,
    /// By ANNOUNCE.
    pub(super) announced: Option<SessionDescription>,
    /// From RECORD on.
    pub(super) source: Option<SourceReceiver>,
    /// The tracks of that; the place of each is its number in the stream.
    setups: Vec<TrackSetup>,
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
        if self.source.is_some() {
            return self.handle_packet(now, track, kind, (bytes, Bytes::new()));
        }
        // A player's reports tell that it lives. Else it is what players open their firewalls with, or a
        // publisher that did not wait for our answer.
        if kind == PacketKind::Rtcp {
            self.session.note_alive(now);
        }
        kind == PacketKind::Rtcp
    }

    /// A packet of a track of what was announced, in pieces; whether it was of use.
    pub(super) fn handle_packet(
        &mut self,
        now: Instant,
        track: usize,
        kind: PacketKind,
        (packet, tail): (Bytes, Bytes),
    ) -> bool {
        let place = self.setups.iter().position(|setup| setup.track == track);
        let (Some(source), Some(place)) = (&mut self.source, place) else { return false };
        match kind {
            PacketKind::Rtp => source.handle_pieces(now, place, (packet, tail)),
            PacketKind::Rtcp => source.handle_rtcp(now, place, [packet, tail].concat().into()),
        }
        true
    }

    /// What the stream has: of what was announced the tracks that are set up. Players would wait for
    /// others. `None` where nothing was announced.
    pub(super) fn begin_source(
        &mut self,
        mut setups: Vec<TrackSetup>,
    ) -> Option<SessionDescription> {
        let announced = self.announced.as_ref()?;
        setups.sort_unstable_by_key(|setup| setup.track);
        let media = setups.iter().filter_map(|setup| announced.media.get(setup.track).cloned());
        let description = SessionDescription { media: media.collect(), ..announced.clone() };
        let over_udp = setups.iter().any(|setup| matches!(setup.delivery, Delivery::Udp { .. }));
        let hold = if over_udp { self.reorder } else { Duration::ZERO };
        self.source = Some(SourceReceiver::new(&description, hold, fastrand::u32(..)));
        self.setups = setups;
        Some(description)
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

    /// How the publisher of a track of the stream is reported to: the number of the track among those that
    /// were announced, and the frame if it is interleaved.
    pub(super) fn report(&self, place: usize, report: &[u8]) -> Option<(usize, Option<Bytes>)> {
        let setup = self.setups.get(place)?;
        let Delivery::Interleaved(channels) = setup.delivery else {
            return Some((setup.track, None));
        };
        let len = u16::try_from(report.len()).ok()?;
        let frame = [&interleaved_header(channels.rtcp, len)[..], report].concat();
        Some((setup.track, Some(frame.into())))
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
    /// Counts a session that its peer ended by a fault.
    pub(super) fn count_error(&mut self, result: &Result<(), ServerError>) {
        if let Err(error) = result {
            self.rtsp_errors[error.reason()] += 1;
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::proto::rtp::{RtpHeader, RtpPart, TrackKind};

    #[test]
    fn tracks_that_are_not_set_up_are_none_of_the_stream() {
        let now = crate::clock::now();
        let mut peer = RtspPeer::new(now, 1, &Config::default().rtsp);
        let sdp = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
                   a=control:track1\r\nm=audio 0 RTP/AVP 8\r\na=control:track2\r\n";
        let ask = |peer: &mut RtspPeer, request: String| {
            peer.handle_input(now, request.into()).expect("sound");
            loop {
                match peer.poll() {
                    Some(Wanted::Event(event)) => break Some(event),
                    Some(_) => {}
                    None => break None,
                }
            }
        };
        let announce = format!(
            "ANNOUNCE rtsp://h/live/a RTSP/1.0\r\nCSeq: 1\r\nContent-Length: {}\r\n\r\n{sdp}",
            sdp.len()
        );
        let event = ask(&mut peer, announce);
        let Some(ServerEvent::Announce { description, .. }) = event else { panic!("{event:?}") };
        peer.announced = Some(description);
        peer.session.accept_announce(now).expect("nothing was kept");
        let set_up = "SETUP rtsp://h/live/a/track2 RTSP/1.0\r\nCSeq: 2\r\n\
                      Transport: RTP/AVP/TCP;unicast;interleaved=4-5;mode=record\r\n\r\n";
        assert_eq!(ask(&mut peer, set_up.to_owned()), None);
        let record = "RECORD rtsp://h/live/a RTSP/1.0\r\nCSeq: 3\r\n\r\n";
        let event = ask(&mut peer, record.to_owned());
        let Some(ServerEvent::Record(setups)) = event else { panic!("{event:?}") };
        let description = peer.begin_source(setups).expect("it was announced");
        let kinds: Vec<TrackKind> = description.media.iter().map(|of| of.format.kind).collect();
        assert_eq!(kinds, [TrackKind::Audio]);
        peer.session.accept_record(now).expect("nothing was kept");

        let header =
            RtpHeader { marker: false, payload_type: 8, sequence: 1, timestamp: 0, ssrc: 1 };
        let frame = [&interleaved_header(4, 13)[..], &header.encode(), b"x"].concat();
        peer.handle_input(now, frame.into()).expect("sound");
        let packet = std::iter::from_fn(|| peer.poll()).find_map(|wanted| match wanted {
            Wanted::Event(ServerEvent::Packet { track, kind, packet }) => {
                Some((track, kind, packet))
            }
            _ => None,
        });
        let (track, kind, packet) = packet.expect("it is of a track");
        assert_eq!(track, 1);
        assert!(peer.handle_packet(now, track, kind, packet.pieces()));
        let part = peer.poll();
        let is_first = |part: &Option<Wanted>| {
            matches!(
                part,
                Some(Wanted::Source(SourceOutput::Part(RtpPart::Packet { track: 0, .. })))
            )
        };
        assert!(is_first(&part));
        assert!(!peer.handle_packet(now, 0, kind, packet.pieces()), "it was not set up");
        let (track, frame) = peer.report(0, b"report").expect("a track");
        assert_eq!((track, &frame.expect("interleaved")[..]), (1, &b"$\x05\0\x06report"[..]));
    }
}
