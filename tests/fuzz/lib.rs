//! What the fuzz targets share: inputs in pieces, sessions driven to their end, outputs compared.
//!
//! A session that is given its input in pieces must tell the same as one that is given it whole.
//! The bytes that they send may differ only in acknowledgements, so of RTMP the events are
//! compared and of HTTP all.

pub mod bridge;
pub mod ingest;
pub mod rtp;
pub mod rtsp;

use std::fmt::Debug;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use rillcast::clock;
use rillcast::media::MediaPart;
use rillcast::proto::flv::{FlvError, TagReader};
use rillcast::proto::http::chunked::{ChunkedDecoder, Step};
use rillcast::proto::http::websocket::{Frame, FrameError, FrameReader, accept_of};
use rillcast::proto::rtmp::ChunkError;
use rillcast::proto::rtmp::chunk::{ChunkItem, ChunkReader};
use rillcast::proto::{Output, http, rtmp};

/// Reads the input whole and in pieces of lengths that its first byte seeds, and compares.
pub fn any_split<T: Debug + PartialEq>(data: &[u8], read: impl Fn(&[Bytes]) -> T) {
    any_split_after(&[], data, read);
}

/// The same, with `head` before the input and as one piece of its own.
pub fn any_split_after<T: Debug + PartialEq>(
    head: &[u8],
    data: &[u8],
    read: impl Fn(&[Bytes]) -> T,
) {
    let Some((&seed, rest)) = data.split_first() else { return };
    let whole = Bytes::from([head, rest].concat());
    let mut pieces = vec![whole.slice(..head.len())];
    let mut at = head.len();
    let mut random = fastrand::Rng::with_seed(seed.into());
    while at < whole.len() {
        let len = random.usize(1..=1 + usize::from(seed)).min(whole.len() - at);
        pieces.push(whole.slice(at..at + len));
        at += len;
    }
    assert_eq!(read(&pieces), read(&[whole]), "{} pieces and one", pieces.len());
}

/// An FLV stream's parts, and how it ended.
pub fn read_tags(pieces: &[Bytes]) -> (Vec<MediaPart>, Result<(), FlvError>) {
    let mut reader = TagReader::new();
    let ended = pieces.iter().try_for_each(|piece| reader.handle_input(piece.clone()));
    let parts = std::iter::from_fn(|| reader.poll_part());
    (joined(parts, as_data), ended)
}

/// A chunk stream's items, and how it ended.
pub fn read_chunks(pieces: &[Bytes]) -> (Vec<ChunkItem>, Result<(), ChunkError>) {
    let mut reader = ChunkReader::new();
    let mut items = Vec::new();
    let ended = pieces.iter().cloned().try_for_each(|mut piece| {
        while let Some(item) = reader.next_item(&mut piece)? {
            items.push(item);
        }
        assert!(piece.is_empty(), "a reader that waits has taken its input");
        Ok(())
    });
    let items = joined(items, |item| match item {
        ChunkItem::Part(part) => as_data(part),
        ChunkItem::Message(_) => None,
    });
    (items, ended)
}

/// The events of an RTMP server session that accepts whoever asks, and how it ended.
pub fn serve_rtmp(pieces: &[Bytes]) -> (Vec<rtmp::ServerEvent>, Result<(), rtmp::ServerError>) {
    let now = clock::now();
    let mut session = rtmp::ServerSession::new(now, 0, rtmp::ServerConfig::default());
    let mut events = Vec::new();
    let ended = pieces.iter().try_for_each(|piece| {
        session.handle_input(now, piece.clone())?;
        while let Some(output) = session.poll_output() {
            let Output::Event(event) = output else { continue };
            events.push(event.clone());
            match event {
                rtmp::ServerEvent::Publish(_) => session.accept_publish(now)?,
                rtmp::ServerEvent::Play(_) => session.accept_play(),
                _ => {}
            }
        }
        Ok(())
    });
    // What was told before the fault, in the same call.
    events.extend(std::iter::from_fn(|| session.poll_output()).filter_map(event));
    let events = joined(events, |event| match event {
        rtmp::ServerEvent::Media(part) => as_data(part),
        _ => None,
    });
    (events, ended)
}

/// The events of an RTMP pull, and how it ended.
pub fn pull_rtmp(pieces: &[Bytes]) -> (Vec<rtmp::ClientEvent>, Result<(), rtmp::ClientError>) {
    let now = clock::now();
    let tc_url = "rtmp://origin/live".to_owned();
    let config = rtmp::ClientConfig::new("live".to_owned(), "a".to_owned(), tc_url);
    let mut session = rtmp::ClientSession::new(now, 0, config);
    let ended = pieces.iter().try_for_each(|piece| session.handle_input(now, piece.clone()));
    let events = std::iter::from_fn(|| session.poll_output()).filter_map(event);
    let events = joined(events, |event| match event {
        rtmp::ClientEvent::Media(part) => as_data(part),
        _ => None,
    });
    (events, ended)
}

/// The events of an RTMP push, and how it ended.
pub fn push_rtmp(
    pieces: &[Bytes],
) -> (Vec<rtmp::PublisherEvent>, Result<(), rtmp::PublisherError>) {
    let now = clock::now();
    let tc_url = "rtmp://server/live".to_owned();
    let config = rtmp::PublisherConfig::new("live".to_owned(), "a".to_owned(), tc_url);
    let mut session = rtmp::PublisherSession::new(now, 0, config);
    let ended = pieces.iter().try_for_each(|piece| session.handle_input(now, piece.clone()));
    let events = std::iter::from_fn(|| session.poll_output()).filter_map(event).collect();
    (events, ended)
}

/// All outputs of an HTTP server session that answers each request in kind, and how it ended.
pub fn serve_http(
    pieces: &[Bytes],
) -> (Vec<Output<http::ServerEvent>>, Result<(), http::HttpError>) {
    let now = clock::now();
    let mut session = http::ServerSession::new(now, http_config(now));
    let mut outputs = Vec::new();
    let ended = pieces.iter().try_for_each(|piece| {
        session.handle_input(now, piece.clone())?;
        while let Some(output) = session.poll_output() {
            outputs.push(output.clone());
            if let Output::Event(http::ServerEvent::Request(request)) = output {
                answer(&mut session, now, &request)?;
            }
        }
        Ok(())
    });
    outputs.extend(std::iter::from_fn(|| session.poll_output()));
    // A body that came with its head is not asked for.
    outputs.retain(|output| *output != Output::Send(CONTINUE.into()));
    let outputs = joined(outputs, |output| match output {
        Output::Send(bytes) => Some((0, bytes)),
        Output::Event(_) => None,
    });
    (outputs, ended)
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The events of an HTTP pull, and how it ended.
pub fn pull_http(pieces: &[Bytes]) -> (Vec<http::ClientEvent>, Result<(), http::HttpError>) {
    let now = clock::now();
    let config = http::ClientConfig {
        url: "http://origin/live/a.flv".parse().expect("a URL"),
        user_agent: "fuzz".to_owned(),
        reply_timeout: std::time::Duration::from_secs(1),
        body_timeout: std::time::Duration::from_secs(1),
    };
    let mut session = http::ClientSession::new(now, config);
    let ended = pieces.iter().try_for_each(|piece| session.handle_input(now, piece.clone()));
    let ended = ended.and_then(|()| session.handle_eof(now));
    let events = std::iter::from_fn(|| session.poll_output()).filter_map(event);
    let events = joined(events, |event| match event {
        http::ClientEvent::Body(bytes) => Some((0, bytes)),
        _ => None,
    });
    (events, ended)
}

/// A chunked body's data and what came after its end, and how it ended.
pub fn read_chunked(pieces: &[Bytes]) -> (Vec<u8>, Vec<u8>, Result<(), http::HttpError>) {
    let mut decoder = ChunkedDecoder::new();
    let (mut data, mut behind) = (Vec::new(), Vec::new());
    let ended = pieces.iter().try_for_each(|piece| {
        let mut rest = &piece[..];
        loop {
            let (framing_len, step) = decoder.decode(rest)?;
            rest = &rest[framing_len..];
            match step {
                Step::Data(len) => {
                    data.extend_from_slice(&rest[..len]);
                    rest = &rest[len..];
                }
                Step::End => {
                    behind.extend_from_slice(rest);
                    return Ok(());
                }
                Step::Incomplete => return Ok(()),
            }
        }
    });
    (data, behind, ended)
}

/// A player's WebSocket frames, and how they ended.
pub fn read_frames(pieces: &[Bytes]) -> (Vec<Frame>, Result<(), FrameError>) {
    let mut reader = FrameReader::new();
    let mut frames = Vec::new();
    let ended = pieces.iter().try_for_each(|piece| {
        let mut input = &piece[..];
        while let Some(frame) = reader.poll_frame(&mut input)? {
            frames.push(frame);
        }
        assert!(input.is_empty(), "a reader that waits has taken its input");
        Ok(())
    });
    (frames, ended)
}

/// What a WebSocket server that has accepted us sends, and how it ended.
pub fn play_websocket(
    pieces: &[Bytes],
) -> (Vec<Output<http::WebSocketEvent>>, Result<(), http::HttpError>) {
    let now = clock::now();
    let mut session = websocket_client(now);
    let Some(Output::Send(request)) = session.poll_output() else { panic!("no request") };
    let request = String::from_utf8_lossy(&request).into_owned();
    let (_, key) = request.split_once("Sec-WebSocket-Key: ").expect("a key");
    let accept = accept_of(key.trim_end());
    let head = format!("HTTP/1.1 101 S\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
    let head = [Bytes::from(head)];
    let pieces = head.iter().chain(pieces);
    let ended = pieces.into_iter().try_for_each(|piece| session.handle_input(now, piece.clone()));
    let outputs = joined(std::iter::from_fn(|| session.poll_output()), |output| match output {
        Output::Event(http::WebSocketEvent::Data(bytes)) => Some((0, bytes)),
        Output::Send(bytes) => Some((1, bytes)),
        Output::Event(_) => None,
    });
    (outputs, ended)
}

fn websocket_client(now: Instant) -> http::WebSocketClient {
    let config = http::WebSocketClientConfig {
        url: "http://server/live/a.flv".parse().expect("a URL"),
        user_agent: "fuzz".to_owned(),
        reply_timeout: std::time::Duration::from_secs(1),
    };
    http::WebSocketClient::new(now, 0, &config)
}

/// C0, C1 and C2 of a client, or S0, S1 and S2 of a server: plain, all zeros.
pub fn handshake() -> Vec<u8> {
    let mut bytes = vec![0; 1 + 2 * 1536];
    bytes[0] = 3;
    bytes
}

fn answer(
    session: &mut http::ServerSession,
    now: Instant,
    request: &http::Request,
) -> Result<(), http::HttpError> {
    if request.websocket_key.is_some() {
        session.accept_websocket(now)
    } else if request.path.ends_with(".flv") {
        session.begin_stream(now, "video/x-flv", &[]).map(|_| ())
    } else {
        session.respond(now, http::Response::text(200, request.path.clone()))
    }
}

fn http_config(now: Instant) -> http::ServerConfig {
    http::ServerConfig {
        header_timeout: std::time::Duration::from_secs(1),
        idle_timeout: std::time::Duration::from_secs(1),
        cross_domains_allowed: true,
        wall_clock: http::WallClock { at: now, unix_seconds: 0 },
    }
}

fn event<E>(output: Output<E>) -> Option<E> {
    match output {
        Output::Event(event) => Some(event),
        Output::Send(_) => None,
    }
}

fn as_data(part: &mut MediaPart) -> Option<(u32, &mut Bytes)> {
    match part {
        MediaPart::Data { lane, bytes } => Some((*lane, bytes)),
        _ => None,
    }
}

/// The items with neighboring data of one lane made one.
fn joined<T>(
    items: impl IntoIterator<Item = T>,
    data: impl Fn(&mut T) -> Option<(u32, &mut Bytes)>,
) -> Vec<T> {
    let mut joined: Vec<T> = Vec::new();
    for mut item in items {
        if let Some((lane, bytes)) = data(&mut item) {
            assert!(!bytes.is_empty(), "data is never empty");
            if let Some((last_lane, last)) = joined.last_mut().and_then(&data)
                && last_lane == lane
            {
                let mut longer = BytesMut::from(&last[..]);
                longer.extend_from_slice(bytes);
                *last = longer.freeze();
                continue;
            }
        }
        joined.push(item);
    }
    joined
}
