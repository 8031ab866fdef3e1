//! Our client pulling from our server, in memory.

use std::time::Instant;

use bytes::Bytes;

use super::client::ClientStart;
use super::server::{AuthConfig, FirstPacket, Refusal};
use super::{
    AuthScheme, ClientConfig, ClientEvent, ClientSession, ClientStage, Credentials, Delivery,
    LowerTransport, MediaDescription, PacketKind, Ports, ServerConfig, ServerEvent, ServerSession,
    SessionDescription,
};
use crate::media::Codec;
use crate::proto::Output;
use crate::proto::rtp::Format;
use crate::proto::rtp::rtcp::encode_receiver_report;

struct Pair {
    now: Instant,
    client: ClientSession,
    server: ServerSession,
    client_events: Vec<ClientEvent>,
    server_events: Vec<ServerEvent>,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    /// Bytes that each side gets at once.
    piece_len: usize,
    refusal: Option<Refusal>,
}

const FIRST: [FirstPacket; 2] = [
    FirstPacket { track: 0, sequence: 7, timestamp: 8 },
    FirstPacket { track: 1, sequence: 65_535, timestamp: u32::MAX },
];

fn description() -> SessionDescription {
    let head = b"OpusHead\x01\x02\0\0\x80\xbb\0\0\0\0\0";
    let formats = [(Codec::PcmA, &b""[..]), (Codec::Opus, head)];
    let media = formats
        .map(|(codec, record)| MediaDescription::new(Format::of_codec(codec, record).unwrap(), 0));
    SessionDescription { name: "a".to_owned(), control: None, media: media.to_vec() }
}

fn credentials() -> Credentials {
    Credentials { user: "us er".to_owned(), password: "p\"w".to_owned() }
}

impl Pair {
    fn new(config: ClientConfig, server: ServerConfig, piece_len: usize) -> Self {
        let now = crate::clock::now();
        Self {
            now,
            client: ClientSession::new(now, 1, config),
            server: ServerSession::new(now, 2, server),
            client_events: Vec::new(),
            server_events: Vec::new(),
            to_client: Vec::new(),
            to_server: Vec::new(),
            piece_len,
            refusal: None,
        }
    }

    fn config() -> ClientConfig {
        ClientConfig::new("rtsp://us%20er:p%22w@h/live/room/a?t=1").unwrap()
    }

    /// Carries bytes to and fro until both are still.
    fn run(&mut self) {
        loop {
            self.drain_client();
            self.drain_server();
            let (to_client, to_server) =
                (std::mem::take(&mut self.to_client), std::mem::take(&mut self.to_server));
            if to_client.is_empty() && to_server.is_empty() {
                return;
            }
            for piece in to_server.chunks(self.piece_len) {
                self.server.handle_input(self.now, Bytes::copy_from_slice(piece)).unwrap();
                self.drain_server();
            }
            for piece in to_client.chunks(self.piece_len) {
                self.client.handle_input(self.now, Bytes::copy_from_slice(piece)).unwrap();
                self.drain_client();
            }
        }
    }

    fn drain_client(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Send(bytes) => self.to_server.extend_from_slice(&bytes),
                Output::Event(event) => {
                    if matches!(event, ClientEvent::UdpWanted { .. }) {
                        self.client.open_udp(self.now, Ports { rtp: 5000, rtcp: 5001 });
                    }
                    self.client_events.push(event);
                }
            }
        }
    }

    fn drain_server(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Send(bytes) => self.to_client.extend_from_slice(&bytes),
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
            (ServerEvent::Describe(_), Some(refusal)) => server.refuse(now, refusal),
            (ServerEvent::Describe(_), None) => server.accept_describe(now, description()),
            (ServerEvent::SetupUdp { .. }, _) => {
                server.accept_udp(now, Ports { rtp: 6000, rtcp: 6001 })
            }
            (ServerEvent::Play(_), _) => server.accept_play(now, &FIRST),
            _ => Ok(()),
        };
        answered.unwrap();
    }

    fn starts(&self) -> Option<&[ClientStart]> {
        self.client_events.iter().find_map(|event| match event {
            ClientEvent::Playing(starts) => Some(&starts[..]),
            _ => None,
        })
    }
}

fn expected_starts() -> Vec<ClientStart> {
    let start = |first: &FirstPacket| {
        let FirstPacket { track, sequence, timestamp } = *first;
        ClientStart { track, sequence: Some(sequence), timestamp: Some(timestamp) }
    };
    FIRST.iter().map(start).collect()
}

#[test]
fn stream_is_pulled_over_tcp_in_pieces_of_any_length() {
    for piece_len in (1..80).chain([1000]) {
        let mut pair = Pair::new(Pair::config(), ServerConfig::default(), piece_len);
        pair.run();
        assert_eq!(pair.starts(), Some(&expected_starts()[..]), "{piece_len}");
        let ServerEvent::Describe(stream) = &pair.server_events[0] else { panic!() };
        assert_eq!((stream.app.as_str(), stream.stream.as_str()), ("live", "room/a"));
        assert_eq!(stream.params, "t=1");
        let ClientEvent::Described(found) = &pair.client_events[2] else { panic!() };
        let formats = |description: &SessionDescription| {
            description.media.iter().map(|media| media.format.clone()).collect::<Vec<_>>()
        };
        assert_eq!(formats(found), formats(&description()));

        // Media one way, reports the other.
        pair.to_client.extend_from_slice(b"$\x02\0\x05media$\x03\0\x01r");
        let report = encode_receiver_report(1, None, "c");
        assert!(pair.client.send_packet(1, PacketKind::Rtcp, &report));
        pair.run();
        let packets: Vec<_> = pair
            .client_events
            .iter()
            .filter_map(|event| match event {
                ClientEvent::Packet { track, kind, packet } => {
                    Some((*track, *kind, packet.packet()))
                }
                _ => None,
            })
            .collect();
        assert_eq!(packets[0], (1, PacketKind::Rtp, Bytes::from_static(b"media")));
        assert_eq!(packets[1], (1, PacketKind::Rtcp, Bytes::from_static(b"r")));
        let Some(ServerEvent::Packet { track: 1, kind: PacketKind::Rtcp, packet }) =
            pair.server_events.last()
        else {
            panic!("{:?}", pair.server_events)
        };
        assert_eq!(packet.packet(), report);
        pair.client.teardown();
        pair.run();
        assert_eq!(pair.server_events.last(), Some(&ServerEvent::Teardown));
    }
}

#[test]
fn stream_is_pulled_over_udp_where_tcp_is_not_allowed() {
    let transports = vec![LowerTransport::Tcp, LowerTransport::Udp];
    let config = ClientConfig { transports, ..Pair::config() };
    let transports = vec![LowerTransport::Udp];
    let server = ServerConfig { transports, ..ServerConfig::default() };
    let mut pair = Pair::new(config, server, 100);
    pair.run();
    assert_eq!(pair.starts(), Some(&expected_starts()[..]));
    let Some(ServerEvent::Play(setups)) = pair.server_events.last() else { panic!() };
    let delivery = Delivery::Udp {
        client_port: Ports { rtp: 5000, rtcp: 5001 },
        server_port: Ports { rtp: 6000, rtcp: 6001 },
    };
    assert!(setups.iter().all(|setup| setup.delivery == delivery), "{setups:?}");
    let ours = pair.client_events.iter().filter_map(|event| match event {
        ClientEvent::Setup(setup) => Some(setup.delivery),
        _ => None,
    });
    assert!(ours.eq([delivery, delivery]));
    pair.client.note_media(pair.now);
    assert_eq!(pair.client.handle_timeout(pair.now + std::time::Duration::from_secs(11)), Ok(()));
}

#[test]
fn credentials_open_the_stream() {
    for scheme in [AuthScheme::Basic, AuthScheme::DigestMd5, AuthScheme::DigestSha256] {
        let auth = |password: &str| {
            let credentials = Credentials { password: password.to_owned(), ..credentials() };
            let auth = AuthConfig { schemes: vec![scheme], realm: "r".to_owned(), credentials };
            ServerConfig { auth: Some(auth), ..ServerConfig::default() }
        };
        let mut pair = Pair::new(Pair::config(), auth("p\"w"), 1000);
        pair.run();
        assert!(pair.starts().is_some(), "{scheme:?}");

        let mut pair = Pair::new(Pair::config(), auth("other"), 1000);
        pair.run();
        let refused = pair.client_events.last();
        assert!(matches!(refused, Some(ClientEvent::Refused { status: 401, .. })), "{refused:?}");
        assert!(pair.server_events.is_empty());
    }
}

#[test]
fn refusal_reaches_the_client() {
    let mut pair = Pair::new(Pair::config(), ServerConfig::default(), 1000);
    pair.refusal = Some(Refusal::NotFound);
    pair.run();
    let reason = "Not Found".to_owned();
    assert_eq!(pair.client_events.last(), Some(&ClientEvent::Refused { status: 404, reason }));
}

#[test]
fn session_over_udp_is_kept_alive() {
    let config = ClientConfig { transports: vec![LowerTransport::Udp], ..Pair::config() };
    let mut pair = Pair::new(config, ServerConfig::default(), 1000);
    pair.run();
    pair.client.note_media(pair.now);
    for _ in 0..10 {
        pair.now = pair.client.poll_timeout().expect("to keep alive");
        pair.server.handle_timeout(pair.now).unwrap();
        pair.client.handle_timeout(pair.now).unwrap();
        pair.run();
    }
    let stages = pair.client_events.iter().filter_map(|event| match event {
        ClientEvent::Progress(stage) => Some(*stage),
        _ => None,
    });
    assert!(stages.eq([
        ClientStage::AskingOptions,
        ClientStage::Describing,
        ClientStage::SettingUp,
        ClientStage::AwaitingPlay,
        ClientStage::AwaitingMedia,
    ]));
}
