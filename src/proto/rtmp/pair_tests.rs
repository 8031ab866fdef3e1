//! Our client pulling from our server, in memory.

use std::time::Instant;

use bytes::Bytes;

use super::chunk_encoding::{CSID_VIDEO, FirstChunk, encode_continuation};
use super::handshake::HandshakeKind;
use super::server::STREAM_ID;
use super::{
    ClientConfig, ClientEvent, ClientSession, ClientStage, PlayEnd, PlayRefusal, ServerConfig,
    ServerEvent, ServerSession,
};
use crate::limits::CHUNK_SIZE_OUT;
use crate::media::{MediaPart, TagKind};
use crate::proto::Output;

struct Pair {
    now: Instant,
    client: ClientSession,
    server: ServerSession,
    client_events: Vec<ClientEvent>,
    server_events: Vec<ServerEvent>,
    /// Bytes that each side gets at once.
    piece_len: usize,
}

impl Pair {
    fn new(handshake: HandshakeKind, piece_len: usize) -> Self {
        let now = crate::clock::now();
        let config = ClientConfig {
            handshake,
            ..ClientConfig::new(
                "live".to_owned(),
                "cam?t=1".to_owned(),
                "rtmp://h:1935/live".to_owned(),
            )
        };
        let client = ClientSession::new(now, 1, config);
        let server = ServerSession::new(now, 2, ServerConfig::default());
        let (client_events, server_events) = (Vec::new(), Vec::new());
        Self { now, client, server, client_events, server_events, piece_len }
    }

    /// Carries bytes to and fro until both are still.
    fn run(&mut self) {
        loop {
            let to_server = self.drain_client();
            let to_client = self.drain_server();
            if to_server.is_empty() && to_client.is_empty() {
                return;
            }
            for piece in to_server.chunks(self.piece_len) {
                self.server.handle_input(self.now, Bytes::copy_from_slice(piece)).unwrap();
            }
            self.give_client(&to_client);
        }
    }

    fn give_client(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.piece_len) {
            self.client.handle_input(self.now, Bytes::copy_from_slice(piece)).unwrap();
        }
    }

    fn drain_client(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Send(bytes) => sent.extend_from_slice(&bytes),
                Output::Event(event) => self.client_events.push(event),
            }
        }
        sent
    }

    fn drain_server(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Send(bytes) => sent.extend_from_slice(&bytes),
                Output::Event(event) => self.server_events.push(event),
            }
        }
        sent
    }
}

const PROGRESS: [ClientEvent; 4] = [
    ClientEvent::Progress(ClientStage::Handshaking),
    ClientEvent::Progress(ClientStage::Connecting),
    ClientEvent::Progress(ClientStage::CreatingStream),
    ClientEvent::Progress(ClientStage::AwaitingPlay),
];

/// A video message as the egress packages it.
fn packaged(timestamp_ms: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 16];
    let first = FirstChunk {
        csid: CSID_VIDEO,
        timestamp_ms,
        message_len: payload.len() as u32,
        kind: TagKind::Video as u8,
        stream_id: STREAM_ID,
    };
    let header_len = first.encode(&mut header);
    let mut bytes = header[..header_len].to_vec();
    for (index, chunk) in payload.chunks(CHUNK_SIZE_OUT).enumerate() {
        if index > 0 {
            let (header, header_len) = encode_continuation(CSID_VIDEO, timestamp_ms);
            bytes.extend_from_slice(&header[..header_len]);
        }
        bytes.extend_from_slice(chunk);
    }
    bytes
}

#[test]
fn client_plays_what_the_server_packages() {
    let handshakes = [HandshakeKind::Plain, HandshakeKind::Digest];
    for (handshake, piece_len) in handshakes
        .into_iter()
        .flat_map(|kind| [1, 13, 1460, 1 << 20].into_iter().map(move |piece_len| (kind, piece_len)))
    {
        let mut pair = Pair::new(handshake, piece_len);
        pair.run();
        let [ServerEvent::Play(request)] = &pair.server_events[..] else {
            panic!("{:?}", pair.server_events)
        };
        assert_eq!((request.app.as_str(), request.stream.as_str()), ("live", "cam"));
        assert_eq!(request.params, "t=1");
        assert_eq!(pair.client_events, PROGRESS);
        assert!(pair.client.poll_timeout().is_some());

        pair.server.accept_play();
        pair.run();
        let awaiting = ClientEvent::Progress(ClientStage::AwaitingMedia);
        assert_eq!(pair.client_events.split_off(PROGRESS.len()), [awaiting]);

        let payload: Vec<u8> = (0..150_000_u32).map(|at| at as u8).collect();
        for timestamp_ms in [0, 0x00ff_ffff, u32::MAX] {
            pair.client_events.clear();
            pair.give_client(&packaged(timestamp_ms, &payload));
            pair.run();
            assert_eq!(pair.client.poll_timeout(), None);
            let mut received = Vec::new();
            for event in pair.client_events.drain(..) {
                match event {
                    ClientEvent::Media(MediaPart::Begin { timestamp_ms: time, len, .. }) => {
                        assert_eq!((time, len), (timestamp_ms, 150_000));
                    }
                    ClientEvent::Media(MediaPart::Data { bytes, .. }) => {
                        received.extend_from_slice(&bytes);
                    }
                    event => panic!("{event:?}"),
                }
            }
            assert!(received == payload);
        }

        pair.server.end_play(PlayEnd::Unpublished);
        pair.run();
        assert_eq!(pair.client_events, [ClientEvent::Ended]);
    }
}

#[test]
fn refused_client_learns_why() {
    for (refusal, code) in [
        (PlayRefusal::StreamNotFound, "NetStream.Play.StreamNotFound"),
        (PlayRefusal::Denied, "NetStream.Play.BadAuth"),
    ] {
        let mut pair = Pair::new(HandshakeKind::Plain, 100);
        pair.run();
        pair.server.refuse_play(refusal, "because");
        pair.run();
        let refused =
            ClientEvent::Refused { code: code.to_owned(), description: "because".to_owned() };
        assert_eq!(pair.client_events[PROGRESS.len()..], [refused]);
        assert_eq!(pair.client.poll_timeout(), None);
    }
}
