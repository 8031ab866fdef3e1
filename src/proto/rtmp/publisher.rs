//! The publishing client session: we push a stream to a server (RTMP 1.0, 7.2.2.6).
//!
//! ```text
//! handshaking -> connecting -> creating stream -> awaiting publish -> publishing
//! ```
//!
//! `releaseStream` and `FCPublish` are Flash Media Live Encoder's, unspecified, and sent before
//! `createStream` as ffmpeg and OBS do: some CDNs free the name by them. Tags do not pass through
//! the session: [`PublisherSession::encode_tag`] packages them for who sends them.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::media::TagKind;
use crate::proto::Output;
use crate::proto::amf0::Value;
use crate::proto::rtmp::acknowledgement::ReceivedBytes;
use crate::proto::rtmp::chunk::{CHUNK_SIZE_DEFAULT, ChunkItem, ChunkReader};
use crate::proto::rtmp::chunk_encoding::{
    CSID_AUDIO, CSID_COMMAND, CSID_CONTROL, CSID_SCRIPT, CSID_VIDEO, FirstChunk,
    encode_continuation, encode_message,
};
use crate::proto::rtmp::client::{CODE_LEN_MAX, DESCRIPTION_LEN_MAX, bounded, is_error};
use crate::proto::rtmp::command::{Command, command};
use crate::proto::rtmp::error::{ChunkError, PublisherError};
use crate::proto::rtmp::handshake::{ClientHandshake, HandshakeKind};
use crate::proto::rtmp::message::{Control, Message, kind};

/// What to publish as, and how long to wait for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherConfig {
    pub app: String,
    /// The stream's name, with its query.
    pub stream: String,
    /// `rtmp://host[:port]/app`
    pub tc_url: String,
    pub handshake: HandshakeKind,
    /// Bytes of a chunk of ours, announced before the first tag; 128 to 0x7fff_ffff. OBS sends
    /// 4096, ffmpeg 60,000.
    pub chunk_size: u32,
    /// From [`PublisherSession::new`] to the end of the handshake.
    pub handshake_timeout: Duration,
    /// For each of `connect`, `createStream` and `publish` to be answered.
    pub command_timeout: Duration,
}

impl PublisherConfig {
    pub fn new(app: String, stream: String, tc_url: String) -> Self {
        Self {
            app,
            stream,
            tc_url,
            handshake: HandshakeKind::Plain,
            chunk_size: 4096,
            handshake_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(5),
        }
    }
}

/// How far a push has come. Shows as what it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PublisherStage {
    Handshaking,
    Connecting,
    CreatingStream,
    AwaitingPublish,
}

impl fmt::Display for PublisherStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshaking => "handshaking",
            Self::Connecting => "connecting to the app",
            Self::CreatingStream => "creating the stream",
            Self::AwaitingPublish => "waiting for publish to be answered",
        })
    }
}

/// What the driver must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublisherEvent {
    Progress(PublisherStage),
    /// The server takes the stream: send tags.
    Started,
    /// The server does not take it, or not any longer. Close.
    Refused {
        /// At most [`CODE_LEN_MAX`] bytes.
        code: String,
        /// At most [`DESCRIPTION_LEN_MAX`] bytes.
        description: String,
    },
    /// The server has ended it, in an orderly way. Close.
    Ended,
}

/// The session of one connection that publishes.
#[derive(Debug)]
pub struct PublisherSession {
    config: PublisherConfig,
    phase: Phase,
    deadline: Option<Instant>,
    reader: ChunkReader,
    received: ReceivedBytes,
    stream_id: u32,
    /// What the server knows of: the default until ours is announced.
    chunk_size: usize,
    outputs: VecDeque<Output<PublisherEvent>>,
}

#[derive(Debug)]
enum Phase {
    Handshaking(Box<ClientHandshake>),
    Asking(PublisherStage),
    Publishing,
    /// Refused or over; whatever comes is ignored until the driver closes.
    Over,
}

impl PublisherSession {
    /// A session whose connection was just made; its first bytes are ready to be sent.
    ///
    /// # Panics
    /// If the chunk size is out of its range.
    pub fn new(now: Instant, seed: u64, config: PublisherConfig) -> Self {
        assert!((128..=0x7fff_ffff).contains(&config.chunk_size), "a chunk size in its range");
        let (handshake, hello) = ClientHandshake::new(seed, config.handshake);
        Self {
            phase: Phase::Handshaking(Box::new(handshake)),
            deadline: Some(now + config.handshake_timeout),
            reader: ChunkReader::new(),
            received: ReceivedBytes::new(WINDOW_DEFAULT),
            stream_id: 0,
            chunk_size: CHUNK_SIZE_DEFAULT,
            outputs: VecDeque::from([
                Output::Event(PublisherEvent::Progress(PublisherStage::Handshaking)),
                Output::Send(hello),
            ]),
            config,
        }
    }

    /// Takes bytes from the server.
    ///
    /// # Errors
    /// [`PublisherError`]; the session is dead then.
    pub fn handle_input(&mut self, now: Instant, mut input: Bytes) -> Result<(), PublisherError> {
        if let Some(acknowledgement) = self.received.add(input.len())
            && !matches!(self.phase, Phase::Handshaking(_) | Phase::Over)
        {
            self.send(CSID_CONTROL, &acknowledgement.encode());
        }
        if let Phase::Handshaking(handshake) = &mut self.phase {
            let Some(answer) = handshake.handle_input(&mut input)? else { return Ok(()) };
            self.outputs.push_back(Output::Send(answer));
            self.send_connect(now);
        }
        while !matches!(self.phase, Phase::Over) {
            match self.reader.next_item(&mut input)? {
                None => return Ok(()),
                // A server has no media for a publisher.
                Some(ChunkItem::Part(_)) => {}
                Some(ChunkItem::Message(message)) => self.on_message(now, &message)?,
            }
        }
        Ok(())
    }

    /// Tells the session the time.
    ///
    /// # Errors
    /// [`PublisherError::Timeout`] past the deadline.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), PublisherError> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        Err(PublisherError::Timeout(match self.phase {
            Phase::Asking(stage) => stage,
            _ => PublisherStage::Handshaking,
        }))
    }

    pub fn poll_output(&mut self) -> Option<Output<PublisherEvent>> {
        self.outputs.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// The number that the server gave the message stream; 0 before it did.
    pub fn stream_id(&self) -> u32 {
        self.stream_id
    }

    /// Appends a tag as chunks to `out`; what it appended begins with a header of 12 bytes, or 16
    /// from a timestamp of 0xffffff ms on. To be sent after [`PublisherEvent::Started`], in order
    /// with the session's own output and never inside of it.
    ///
    /// # Panics
    /// If the payload is longer than 24 bits can say.
    pub fn encode_tag(&self, kind: TagKind, timestamp_ms: u32, payload: &[u8], out: &mut Vec<u8>) {
        let csid = match kind {
            TagKind::Audio => CSID_AUDIO,
            TagKind::Video => CSID_VIDEO,
            TagKind::Script => CSID_SCRIPT,
        };
        assert!(payload.len() < 1 << 24, "a message's length has 24 bits");
        let message_len = payload.len() as u32;
        let kind = kind as u8;
        let first = FirstChunk { csid, timestamp_ms, message_len, kind, stream_id: self.stream_id };
        let mut header = [0; 16];
        let header_len = first.encode(&mut header);
        out.extend_from_slice(&header[..header_len]);
        for (index, chunk) in payload.chunks(self.chunk_size).enumerate() {
            if index > 0 {
                let (header, header_len) = encode_continuation(csid, timestamp_ms);
                out.extend_from_slice(&header[..header_len]);
            }
            out.extend_from_slice(chunk);
        }
    }

    /// Ends the stream; close once the output is sent.
    pub fn unpublish(&mut self) {
        if matches!(self.phase, Phase::Publishing) {
            let name = Value::string(&self.config.stream);
            self.send(CSID_COMMAND, &command(0, "FCUnpublish", 6.0, &[Value::Null, name]));
            let id = Value::Number(f64::from(self.stream_id));
            self.send(CSID_COMMAND, &command(0, "deleteStream", 7.0, &[Value::Null, id]));
        }
        self.phase = Phase::Over;
        self.deadline = None;
    }

    fn on_message(&mut self, now: Instant, message: &Message) -> Result<(), PublisherError> {
        if matches!(message.kind, kind::COMMAND_AMF0 | kind::COMMAND_AMF3) {
            let command = Command::decode(message);
            return command.map_or(Ok(()), |command| self.on_command(now, &command));
        }
        let control = Control::decode(message);
        match control.map_err(|_| ChunkError::ControlCutOff(message.kind))? {
            Some(Control::WindowAckSize(window)) => self.received.set_window(window),
            Some(Control::PingRequest(time)) => {
                self.send(CSID_CONTROL, &Control::PingResponse(time).encode());
            }
            _ => {}
        }
        Ok(())
    }

    fn on_command(&mut self, now: Instant, command: &Command) -> Result<(), PublisherError> {
        let transaction = command.transaction;
        match (command.name.as_str(), &self.phase) {
            ("_result", Phase::Asking(PublisherStage::Connecting))
                if transaction == CONNECT_TRANSACTION =>
            {
                // Some servers refuse in a `_result`.
                if is_error(command.argument(0)) {
                    self.on_refusal(command.argument(0));
                } else {
                    self.send_create_stream(now);
                }
            }
            ("_result", Phase::Asking(PublisherStage::CreatingStream))
                if transaction == CREATE_STREAM_TRANSACTION =>
            {
                let id = command.argument(0).as_number().ok_or(PublisherError::NoStreamId)?;
                self.stream_id = id as u32;
                self.send_publish(now);
            }
            // Servers without `releaseStream` and `FCPublish` say so; nothing hangs on them.
            ("_error", _) if AWAITED_TRANSACTIONS.contains(&transaction) => {
                self.on_refusal(command.argument(0));
            }
            ("onStatus", _) => self.on_status(command.argument(0)),
            ("close", _) => self.over(PublisherEvent::Ended),
            _ => {}
        }
        Ok(())
    }

    fn on_status(&mut self, status: &Value) {
        let code = status.property("code").and_then(Value::as_str).unwrap_or_default();
        match (code, &self.phase) {
            ("NetStream.Publish.Start", Phase::Asking(PublisherStage::AwaitingPublish)) => {
                self.phase = Phase::Publishing;
                self.deadline = None;
                self.outputs.push_back(Output::Event(PublisherEvent::Started));
            }
            ("NetStream.Unpublish.Success" | "NetConnection.Connect.Closed", _) => {
                self.over(PublisherEvent::Ended);
            }
            // The level is right with all servers, the code not: nginx-rtmp, SRS and ZLMediaKit
            // each have their own for a name that is taken.
            _ if is_error(status) || code.ends_with(".BadName") => self.on_refusal(status),
            _ => {}
        }
    }

    fn on_refusal(&mut self, status: &Value) {
        let text = |name, len_max| {
            bounded(status.property(name).and_then(Value::as_str).unwrap_or_default(), len_max)
        };
        let code = text("code", CODE_LEN_MAX);
        let description = text("description", DESCRIPTION_LEN_MAX);
        self.over(PublisherEvent::Refused { code, description });
    }

    fn over(&mut self, event: PublisherEvent) {
        self.phase = Phase::Over;
        self.deadline = None;
        self.outputs.push_back(Output::Event(event));
    }

    fn send_connect(&mut self, now: Instant) {
        let properties = Value::object([
            ("app", Value::string(&self.config.app)),
            ("type", Value::string("nonprivate")),
            // Some servers serve encoders by this name only.
            ("flashVer", Value::string("FMLE/3.0 (compatible; FMSc/1.0)")),
            ("tcUrl", Value::string(&self.config.tc_url)),
        ]);
        self.send(CSID_COMMAND, &command(0, "connect", CONNECT_TRANSACTION, &[properties]));
        self.enter(PublisherStage::Connecting, now);
    }

    fn send_create_stream(&mut self, now: Instant) {
        self.send(CSID_CONTROL, &Control::SetChunkSize(self.config.chunk_size).encode());
        self.chunk_size = self.config.chunk_size as usize;
        for (name, transaction) in [("releaseStream", 2.0), ("FCPublish", 3.0)] {
            let arguments = [Value::Null, Value::string(&self.config.stream)];
            self.send(CSID_COMMAND, &command(0, name, transaction, &arguments));
        }
        let create = command(0, "createStream", CREATE_STREAM_TRANSACTION, &[Value::Null]);
        self.send(CSID_COMMAND, &create);
        self.enter(PublisherStage::CreatingStream, now);
    }

    fn send_publish(&mut self, now: Instant) {
        let arguments = [Value::Null, Value::string(&self.config.stream), Value::string("live")];
        let publish = command(self.stream_id, "publish", PUBLISH_TRANSACTION, &arguments);
        self.send(CSID_COMMAND, &publish);
        self.enter(PublisherStage::AwaitingPublish, now);
    }

    fn enter(&mut self, stage: PublisherStage, now: Instant) {
        self.phase = Phase::Asking(stage);
        self.deadline = Some(now + self.config.command_timeout);
        self.outputs.push_back(Output::Event(PublisherEvent::Progress(stage)));
    }

    fn send(&mut self, csid: u8, message: &Message) {
        let mut bytes = Vec::new();
        encode_message(csid, message, self.chunk_size, &mut bytes);
        self.outputs.push_back(Output::Send(bytes.into()));
    }
}

const CONNECT_TRANSACTION: f64 = 1.0;
const CREATE_STREAM_TRANSACTION: f64 = 4.0;
const PUBLISH_TRANSACTION: f64 = 5.0;
const AWAITED_TRANSACTIONS: [f64; 3] =
    [CONNECT_TRANSACTION, CREATE_STREAM_TRANSACTION, PUBLISH_TRANSACTION];

/// Until the server states its own.
const WINDOW_DEFAULT: u32 = 2_500_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::MediaPart;
    use crate::proto::rtmp::command::Status;
    use crate::proto::rtmp::error::HandshakeError;
    use crate::proto::rtmp::server::{PublishEnd, PublishRefusal};
    use crate::proto::rtmp::{ServerConfig, ServerEvent, ServerSession};

    /// Our publisher at our server, in memory.
    struct Pair {
        now: Instant,
        publisher: PublisherSession,
        server: ServerSession,
        events: Vec<PublisherEvent>,
        server_events: Vec<ServerEvent>,
        piece_len: usize,
    }

    impl Pair {
        fn new(chunk_size: u32, piece_len: usize) -> Self {
            let now = crate::clock::now();
            let publisher = PublisherSession::new(now, 1, config(chunk_size));
            let server = ServerSession::new(now, 2, ServerConfig::default());
            let (events, server_events) = (Vec::new(), Vec::new());
            Self { now, publisher, server, events, server_events, piece_len }
        }

        fn run(&mut self) {
            loop {
                let mut to_server = Vec::new();
                while let Some(output) = self.publisher.poll_output() {
                    match output {
                        Output::Send(bytes) => to_server.extend_from_slice(&bytes),
                        Output::Event(event) => self.events.push(event),
                    }
                }
                let mut to_publisher = Vec::new();
                while let Some(output) = self.server.poll_output() {
                    match output {
                        Output::Send(bytes) => to_publisher.extend_from_slice(&bytes),
                        Output::Event(event) => self.server_events.push(event),
                    }
                }
                if to_server.is_empty() && to_publisher.is_empty() {
                    return;
                }
                self.give_server(&to_server);
                for piece in to_publisher.chunks(self.piece_len) {
                    let piece = Bytes::copy_from_slice(piece);
                    self.publisher.handle_input(self.now, piece).unwrap();
                }
            }
        }

        fn give_server(&mut self, bytes: &[u8]) {
            for piece in bytes.chunks(self.piece_len) {
                self.server.handle_input(self.now, Bytes::copy_from_slice(piece)).unwrap();
            }
        }
    }

    fn config(chunk_size: u32) -> PublisherConfig {
        PublisherConfig {
            chunk_size,
            ..PublisherConfig::new(
                "live".to_owned(),
                "cam?t=1".to_owned(),
                "rtmp://h:1935/live".to_owned(),
            )
        }
    }

    const PROGRESS: [PublisherEvent; 4] = [
        PublisherEvent::Progress(PublisherStage::Handshaking),
        PublisherEvent::Progress(PublisherStage::Connecting),
        PublisherEvent::Progress(PublisherStage::CreatingStream),
        PublisherEvent::Progress(PublisherStage::AwaitingPublish),
    ];

    #[test]
    fn server_takes_what_is_published() {
        for (chunk_size, piece_len) in [(128, 1), (4096, 13), (60_000, 1460), (1 << 20, 1 << 20)] {
            let mut pair = Pair::new(chunk_size, piece_len);
            pair.run();
            let [ServerEvent::Publish(request)] = &pair.server_events[..] else {
                panic!("{:?}", pair.server_events)
            };
            assert_eq!((request.app.as_str(), request.stream.as_str()), ("live", "cam"));
            assert_eq!(request.params, "t=1");
            assert_eq!(pair.events, PROGRESS);
            pair.server.accept_publish(pair.now).unwrap();
            pair.server_events.clear();
            pair.run();
            assert_eq!(pair.events[PROGRESS.len()..], [PublisherEvent::Started]);
            assert_eq!(pair.publisher.poll_timeout(), None);

            let payload: Vec<u8> = (0..150_000_u32).map(|at| at as u8).collect();
            for timestamp_ms in [0, 0x00ff_ffff, u32::MAX] {
                let mut bytes = Vec::new();
                let publisher = &pair.publisher;
                publisher.encode_tag(TagKind::Video, timestamp_ms, &payload, &mut bytes);
                publisher.encode_tag(TagKind::Audio, timestamp_ms, b"sound", &mut bytes);
                pair.give_server(&bytes);
                pair.run();
                let tags = tags_of(pair.server_events.drain(..));
                let expected = [
                    (TagKind::Video, timestamp_ms, payload.clone()),
                    (TagKind::Audio, timestamp_ms, b"sound".to_vec()),
                ];
                assert!(tags == expected, "{chunk_size} {timestamp_ms}");
            }

            pair.publisher.unpublish();
            pair.run();
            assert_eq!(pair.server_events, [ServerEvent::Unpublish]);
        }
    }

    fn tags_of(events: impl Iterator<Item = ServerEvent>) -> Vec<(TagKind, u32, Vec<u8>)> {
        let mut tags: Vec<(TagKind, u32, Vec<u8>)> = Vec::new();
        for event in events {
            match event {
                ServerEvent::Media(MediaPart::Begin { kind, timestamp_ms, .. }) => {
                    tags.push((kind, timestamp_ms, Vec::new()));
                }
                ServerEvent::Media(MediaPart::Data { bytes, .. }) => {
                    tags.last_mut().expect("begun").2.extend_from_slice(&bytes);
                }
                event => panic!("{event:?}"),
            }
        }
        tags
    }

    #[test]
    fn refused_publisher_learns_why() {
        let mut pair = Pair::new(4096, 100);
        pair.run();
        pair.server.refuse_publish(PublishRefusal::BadName, "because");
        pair.run();
        let [PublisherEvent::Refused { code, description }] = &pair.events[PROGRESS.len()..] else {
            panic!("{:?}", pair.events)
        };
        assert_eq!((code.as_str(), description.as_str()), ("NetStream.Publish.BadName", "because"));
        assert_eq!(pair.publisher.poll_timeout(), None);
    }

    #[test]
    fn publisher_learns_that_it_was_ended() {
        let mut pair = Pair::new(4096, 100);
        pair.run();
        pair.server.accept_publish(pair.now).unwrap();
        pair.run();
        pair.server.end_publish(PublishEnd::Kicked);
        pair.run();
        assert_eq!(pair.events.last(), Some(&PublisherEvent::Ended));
    }

    /// A publisher that has got these messages after the handshake, cut at `at`.
    fn after(messages: &[Message], at: usize) -> (PublisherSession, Vec<PublisherEvent>) {
        let now = crate::clock::now();
        let mut session = PublisherSession::new(now, 1, config(4096));
        let bytes = transcript(messages);
        let (first, second) = bytes.split_at(at.min(bytes.len()));
        for piece in [first, second] {
            session.handle_input(now, Bytes::copy_from_slice(piece)).unwrap();
        }
        let events =
            std::iter::from_fn(|| session.poll_output()).filter_map(|output| match output {
                Output::Event(event) => Some(event),
                Output::Send(_) => None,
            });
        let events = events.collect();
        (session, events)
    }

    fn transcript(messages: &[Message]) -> Vec<u8> {
        let mut bytes = [&[3][..], &[0; 2 * 1536]].concat();
        messages.iter().for_each(|message| encode_message(3, message, 128, &mut bytes));
        bytes
    }

    fn accepted() -> Vec<Message> {
        let status = |code| Status { is_error: false, code, description: "" }.to_message(1);
        vec![
            Control::WindowAckSize(2_500_000).encode(),
            command(0, "_result", 1.0, &[Value::Null, Value::Null]),
            // nginx-rtmp knows neither of these.
            command(0, "_error", 2.0, &[Value::Null, Value::Null]),
            command(0, "_error", 3.0, &[Value::Null, Value::Null]),
            command(0, "_result", 4.0, &[Value::Null, Value::Number(1.0)]),
            status("NetStream.Publish.Start"),
        ]
    }

    #[test]
    fn events_are_the_same_at_every_split() {
        let messages = accepted();
        let (_, whole) = after(&messages, 0);
        assert_eq!(whole[4..], [PublisherEvent::Started]);
        for at in 0..transcript(&messages).len() {
            assert_eq!(after(&messages, at).1, whole, "at {at}");
        }
    }

    #[test]
    fn each_stage_has_its_deadline() {
        for (messages, stage) in [
            (0, PublisherStage::Connecting),
            (2, PublisherStage::CreatingStream),
            (5, PublisherStage::AwaitingPublish),
        ] {
            let (mut session, _) = after(&accepted()[..messages], 0);
            let deadline = session.poll_timeout().expect("an answer is awaited");
            assert_eq!(session.handle_timeout(deadline - Duration::from_millis(1)), Ok(()));
            assert_eq!(session.handle_timeout(deadline), Err(PublisherError::Timeout(stage)));
        }
        let now = crate::clock::now();
        let mut session = PublisherSession::new(now, 1, config(4096));
        let late = session.handle_timeout(now + Duration::from_secs(5));
        assert_eq!(late, Err(PublisherError::Timeout(PublisherStage::Handshaking)));
    }

    #[test]
    fn faults_are_errors() {
        let now = crate::clock::now();
        let fault = |bytes: &[u8]| {
            let mut session = PublisherSession::new(now, 1, config(4096));
            session.handle_input(now, Bytes::copy_from_slice(bytes)).unwrap_err()
        };
        let version = HandshakeError::Version(b'H');
        assert_eq!(fault(b"HTTP"), PublisherError::Handshake(version));
        let mut no_id = accepted();
        no_id.truncate(4);
        no_id.push(command(0, "_result", 4.0, &[Value::Null, Value::Null]));
        assert_eq!(fault(&transcript(&no_id)), PublisherError::NoStreamId);
    }
}
