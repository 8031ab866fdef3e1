//! What the RTSP targets share: sessions driven to their end.

use bytes::Bytes;
use rillcast::clock;
use rillcast::media::Codec;
use rillcast::proto::Output;
use rillcast::proto::rtp::Format;
use rillcast::proto::rtsp::server::FirstPacket;
use rillcast::proto::rtsp::{
    ClientConfig, ClientError, ClientEvent, ClientSession, Item, MediaDescription, MessageError,
    MessageReader, Ports, PublisherConfig, PublisherError, PublisherEvent, PublisherSession,
    ServerConfig, ServerError, ServerEvent, ServerSession, SessionDescription,
};

/// The items of a stream, and how it ended.
pub fn read_messages(pieces: &[Bytes]) -> (Vec<Item>, Result<(), MessageError>) {
    let mut reader = MessageReader::new();
    let mut items = Vec::new();
    let ended = pieces.iter().cloned().try_for_each(|mut piece| {
        while let Some(item) = reader.next_item(&mut piece)? {
            items.push(item);
        }
        assert!(piece.is_empty(), "a reader that waits has taken its input");
        Ok(())
    });
    (items, ended)
}

/// All outputs of a server session that accepts whoever asks, and how it ended.
pub fn serve(pieces: &[Bytes]) -> (Vec<Output<ServerEvent>>, Result<(), ServerError>) {
    let now = clock::now();
    let mut session = ServerSession::new(now, 0, ServerConfig::default());
    let mut outputs = Vec::new();
    let ended = pieces.iter().try_for_each(|piece| {
        let read = session.handle_input(now, piece.clone());
        while let Some(output) = session.poll_output() {
            outputs.push(output.clone());
            let Output::Event(event) = output else { continue };
            match event {
                ServerEvent::Describe(_) => session.accept_describe(now, description())?,
                ServerEvent::Announce { .. } => session.accept_announce(now)?,
                ServerEvent::SetupUdp { .. } => session.accept_udp(now, PORTS)?,
                ServerEvent::Play(_) => session.accept_play(now, &[FIRST])?,
                ServerEvent::Record(_) => session.accept_record(now)?,
                _ => {}
            }
        }
        read
    });
    outputs.extend(std::iter::from_fn(|| session.poll_output()));
    (outputs, ended)
}

/// All outputs of a pull, and how it ended.
pub fn pull(pieces: &[Bytes]) -> (Vec<Output<ClientEvent>>, Result<(), ClientError>) {
    let now = clock::now();
    let config = ClientConfig::new("rtsp://u:p@h/live/a").expect("a URL");
    let mut session = ClientSession::new(now, 0, config);
    let mut outputs = Vec::new();
    let ended = pieces.iter().try_for_each(|piece| session.handle_input(now, piece.clone()));
    outputs.extend(std::iter::from_fn(|| session.poll_output()));
    (outputs, ended)
}

/// All outputs of a push, and how it ended.
pub fn push(pieces: &[Bytes]) -> (Vec<Output<PublisherEvent>>, Result<(), PublisherError>) {
    let now = clock::now();
    let config = PublisherConfig::new("rtsp://u:p@h/live/a", description()).expect("a URL");
    let mut session = PublisherSession::new(now, 0, config);
    let mut outputs = Vec::new();
    let ended = pieces.iter().try_for_each(|piece| session.handle_input(now, piece.clone()));
    outputs.extend(std::iter::from_fn(|| session.poll_output()));
    (outputs, ended)
}

const PORTS: Ports = Ports { rtp: 5000, rtcp: 5001 };
const FIRST: FirstPacket = FirstPacket { track: 0, sequence: 1, timestamp: 2 };

fn description() -> SessionDescription {
    let formats = [(Codec::Aac, &b"\x11\x90"[..]), (Codec::PcmA, b"")];
    let media = formats.map(|(codec, record)| {
        MediaDescription::new(Format::of_codec(codec, record).expect("a format of ours"), 0)
    });
    SessionDescription { name: "a".to_owned(), control: None, media: media.to_vec() }
}
