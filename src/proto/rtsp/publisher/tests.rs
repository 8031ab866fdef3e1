//! Our publisher at our server, in memory, and against scripted answers.

use super::*;
use crate::media::Codec;
use crate::proto::rtp::Format;
use crate::proto::rtsp::server::{AuthConfig, Refusal};
use crate::proto::rtsp::{
    AuthScheme, Delivery, MediaDescription, PacketKind, ServerConfig, ServerEvent, ServerSession,
};

struct Pair {
    now: Instant,
    publisher: PublisherSession,
    server: ServerSession,
    events: Vec<PublisherEvent>,
    server_events: Vec<ServerEvent>,
    to_publisher: Vec<u8>,
    to_server: Vec<u8>,
    /// Bytes that each side gets at once.
    piece_len: usize,
    refusal: Option<Refusal>,
}

fn description() -> SessionDescription {
    let head = b"OpusHead\x01\x02\0\0\x80\xbb\0\0\0\0\0";
    let formats = [(Codec::PcmA, &b""[..]), (Codec::Opus, head)];
    let formats = formats.into_iter().enumerate().map(|(track, (codec, record))| {
        MediaDescription::new(Format::of_codec(codec, record).unwrap(), track)
    });
    SessionDescription { name: "a".to_owned(), control: None, media: formats.collect() }
}

fn config() -> PublisherConfig {
    PublisherConfig::new("rtsp://us%20er:p%22w@h/live/room/a?t=1", description()).unwrap()
}

impl Pair {
    fn new(config: PublisherConfig, server: ServerConfig, piece_len: usize) -> Self {
        let now = crate::clock::now();
        Self {
            now,
            publisher: PublisherSession::new(now, 1, config),
            server: ServerSession::new(now, 2, server),
            events: Vec::new(),
            server_events: Vec::new(),
            to_publisher: Vec::new(),
            to_server: Vec::new(),
            piece_len,
            refusal: None,
        }
    }

    /// Carries bytes to and fro until both are still.
    fn run(&mut self) {
        loop {
            self.drain();
            let to_publisher = std::mem::take(&mut self.to_publisher);
            let to_server = std::mem::take(&mut self.to_server);
            if to_publisher.is_empty() && to_server.is_empty() {
                return;
            }
            for piece in to_server.chunks(self.piece_len) {
                self.server.handle_input(self.now, Bytes::copy_from_slice(piece)).unwrap();
                self.drain();
            }
            for piece in to_publisher.chunks(self.piece_len) {
                self.publisher.handle_input(self.now, Bytes::copy_from_slice(piece)).unwrap();
                self.drain();
            }
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.publisher.poll_output() {
            match output {
                Output::Send(bytes) => self.to_server.extend_from_slice(&bytes),
                Output::Event(event) => {
                    if matches!(event, PublisherEvent::UdpWanted { .. }) {
                        self.publisher.open_udp(self.now, Ports { rtp: 5000, rtcp: 5001 });
                    }
                    self.events.push(event);
                }
            }
        }
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Send(bytes) => self.to_publisher.extend_from_slice(&bytes),
                Output::Event(event) => {
                    self.answer(&event);
                    self.server_events.push(event);
                }
            }
        }
    }

    fn answer(&mut self, event: &ServerEvent) {
        let (server, now) = (&mut self.server, self.now);
        let answered = match (event, self.refusal) {
            (ServerEvent::Announce { .. }, Some(refusal)) => server.refuse(now, refusal),
            (ServerEvent::Announce { .. }, None) => server.accept_announce(now),
            (ServerEvent::SetupUdp { .. }, _) => {
                server.accept_udp(now, Ports { rtp: 6000, rtcp: 6001 })
            }
            (ServerEvent::Record(_), _) => server.accept_record(now),
            _ => Ok(()),
        };
        answered.unwrap();
    }

    fn deliveries(&self) -> Vec<(usize, Delivery)> {
        let setups = self.events.iter().filter_map(|event| match event {
            PublisherEvent::Setup(setup) => Some((setup.track, setup.delivery)),
            _ => None,
        });
        setups.collect()
    }
}

#[test]
fn stream_is_published_over_tcp_in_pieces_of_any_length() {
    for piece_len in (1..80).chain([1000]) {
        let mut pair = Pair::new(config(), ServerConfig::default(), piece_len);
        pair.run();
        assert_eq!(pair.events.last(), Some(&PublisherEvent::Started), "{piece_len}");
        let ServerEvent::Announce { request, description: announced } = &pair.server_events[0]
        else {
            panic!("{:?}", pair.server_events)
        };
        assert_eq!((request.app.as_str(), request.stream.as_str()), ("live", "room/a"));
        assert_eq!(announced.media, description().media);
        let channels = |rtp| Delivery::Interleaved(Channels { rtp, rtcp: rtp + 1 });
        assert_eq!(pair.deliveries(), [(0, channels(0)), (1, channels(2))]);

        // Media one way, reports the other.
        pair.to_server.extend_from_slice(b"$\x02\0\x05media");
        pair.to_publisher.extend_from_slice(b"$\x03\0\x01r");
        pair.run();
        let Some(ServerEvent::Packet { track: 1, kind: PacketKind::Rtp, packet }) =
            pair.server_events.last()
        else {
            panic!("{:?}", pair.server_events)
        };
        assert_eq!(packet.packet(), b"media"[..]);
        pair.publisher.teardown();
        pair.run();
        assert_eq!(pair.server_events.last(), Some(&ServerEvent::Teardown));
        assert_eq!(pair.publisher.poll_timeout(), None);
    }
}

#[test]
fn stream_is_published_over_udp() {
    let config = PublisherConfig { transport: LowerTransport::Udp, ..config() };
    let mut pair = Pair::new(config, ServerConfig::default(), 100);
    pair.run();
    assert_eq!(pair.events.last(), Some(&PublisherEvent::Started));
    let delivery = Delivery::Udp {
        client_port: Ports { rtp: 5000, rtcp: 5001 },
        server_port: Ports { rtp: 6000, rtcp: 6001 },
    };
    assert_eq!(pair.deliveries(), [(0, delivery), (1, delivery)]);
}

#[test]
fn credentials_are_sent_where_they_are_asked_for() {
    for scheme in [AuthScheme::Basic, AuthScheme::DigestMd5, AuthScheme::DigestSha256] {
        for (password, is_right) in [("p\"w", true), ("other", false)] {
            let credentials =
                Credentials { user: "us er".to_owned(), password: password.to_owned() };
            let auth = AuthConfig { schemes: vec![scheme], realm: "r".to_owned(), credentials };
            let server = ServerConfig { auth: Some(auth), ..ServerConfig::default() };
            let mut pair = Pair::new(config(), server, 1000);
            pair.run();
            let last = pair.events.last();
            if is_right {
                assert_eq!(last, Some(&PublisherEvent::Started), "{scheme:?}");
            } else {
                let is_refused = matches!(last, Some(PublisherEvent::Refused { status: 401, .. }));
                assert!(is_refused && pair.server_events.is_empty(), "{scheme:?}: {last:?}");
            }
        }
    }
}

#[test]
fn refusal_ends_the_session() {
    let mut pair = Pair::new(config(), ServerConfig::default(), 1000);
    pair.refusal = Some(Refusal::InUse);
    pair.run();
    let reason = "Not Acceptable".to_owned();
    assert_eq!(pair.events.last(), Some(&PublisherEvent::Refused { status: 406, reason }));
    assert_eq!(pair.publisher.poll_timeout(), None);
    let udp = PublisherConfig { transport: LowerTransport::Udp, ..config() };
    let transports = vec![LowerTransport::Tcp];
    let mut pair = Pair::new(udp, ServerConfig { transports, ..ServerConfig::default() }, 1000);
    pair.run();
    let last = pair.events.last();
    assert!(matches!(last, Some(PublisherEvent::Refused { status: 461, .. })), "{last:?}");
}

#[test]
fn server_that_tells_no_port_ends_the_session() {
    let udp = "RTP/AVP;unicast;client_port=5000-5001";
    let no_port = Err(PublisherError::NoServerPort);
    let other = Err(PublisherError::Transport);
    for (transport, expected) in [
        (format!("Transport: {udp};server_port=6000-6001\r\n"), Ok(())),
        (format!("Transport: {udp}\r\n"), no_port),
        (format!("Transport: {udp};server_port=0-1\r\n"), no_port),
        (String::new(), no_port),
        ("Transport: RTP/AVP/TCP;interleaved=0-1\r\n".to_owned(), other),
    ] {
        let config = PublisherConfig { transport: LowerTransport::Udp, ..config() };
        let now = crate::clock::now();
        let mut session = PublisherSession::new(now, 1, config);
        let mut answer = |number, fields: &str| {
            let answer = format!("RTSP/1.0 200 OK\r\nCSeq: {number}\r\nSession: 1\r\n{fields}\r\n");
            session.handle_input(now, answer.into())?;
            session.open_udp(now, Ports { rtp: 5000, rtcp: 5001 });
            Ok(())
        };
        answer(1, "").and_then(|()| answer(2, "")).unwrap();
        assert_eq!(answer(3, &transport), expected, "{transport}");
    }
}

#[test]
fn silence_is_told_by_what_was_asked() {
    let config = config();
    let timeout = config.command_timeout;
    let now = crate::clock::now();
    let mut session = PublisherSession::new(now, 1, config);
    assert_eq!(session.handle_timeout(now + timeout / 2), Ok(()));
    let error = PublisherError::Timeout(PublisherStage::AskingOptions);
    assert_eq!(session.handle_timeout(now + timeout), Err(error));
    let answer = Bytes::from_static(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n");
    session.handle_input(now + timeout, answer).unwrap();
    assert_eq!(session.handle_timeout(now + timeout), Ok(()));
    let error = PublisherError::Timeout(PublisherStage::Announcing);
    assert_eq!(session.handle_timeout(now + 2 * timeout), Err(error));
}

#[test]
fn session_is_kept_alive_until_the_server_ends_it() {
    let mut pair = Pair::new(config(), ServerConfig::default(), 1000);
    pair.run();
    for _ in 0..3 {
        pair.now = pair.publisher.poll_timeout().expect("to keep alive");
        pair.publisher.handle_timeout(pair.now).unwrap();
        pair.drain();
        assert!(pair.to_server.starts_with(b"GET_PARAMETER rtsp://h/live/room/a?t=1 RTSP/1.0"));
        pair.run();
    }
    pair.to_publisher.extend_from_slice(b"TEARDOWN * RTSP/1.0\r\nCSeq: 9\r\n\r\n");
    pair.run();
    assert_eq!(pair.events.last(), Some(&PublisherEvent::Ended));
    assert_eq!(pair.publisher.poll_timeout(), None);
}
