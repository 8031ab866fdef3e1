//! The client session: our pull of a stream from an origin (RTMP 1.0, 7.2.2.1).
//!
//! ```text
//! handshaking -> connecting -> creating stream -> awaiting play -> awaiting media -> media
//! ```
//!
//! Servers differ after `play`: some send no NetStream.Play.Start, some media before it. Media is
//! taken as soon as it comes.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::media::MediaPart;
use crate::proto::Output;
use crate::proto::amf0::Value;
use crate::proto::rtmp::acknowledgement::ReceivedBytes;
use crate::proto::rtmp::chunk::{CHUNK_SIZE_DEFAULT, ChunkItem, ChunkReader};
use crate::proto::rtmp::chunk_encoding::{CSID_COMMAND, CSID_CONTROL, CSID_SCRIPT, encode_message};
use crate::proto::rtmp::command::{Command, command, script_payload};
use crate::proto::rtmp::error::{ChunkError, ClientError};
use crate::proto::rtmp::handshake::{ClientHandshake, HandshakeKind};
use crate::proto::rtmp::message::{Control, Message, kind};

/// What to pull, and how long to wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    pub app: String,
    /// The stream's name, with its query.
    pub stream: String,
    /// `rtmp://host[:port]/app`
    pub tc_url: String,
    pub handshake: HandshakeKind,
    /// Window that we announce, and acknowledge by until the server states its own.
    pub window_ack_size: u32,
    /// From [`ClientSession::new`] to the end of the handshake.
    pub handshake_timeout: Duration,
    /// For each of `connect`, `createStream` and `play` to be answered.
    pub command_timeout: Duration,
    /// From the answer to `play` to the first media. Silence after that is the driver's to judge.
    pub media_timeout: Duration,
}

impl ClientConfig {
    pub fn new(app: String, stream: String, tc_url: String) -> Self {
        Self {
            app,
            stream,
            tc_url,
            handshake: HandshakeKind::Plain,
            window_ack_size: 5_000_000,
            handshake_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(5),
            media_timeout: Duration::from_secs(10),
        }
    }
}

/// How far a pull has come. Shows as what it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientStage {
    Handshaking,
    Connecting,
    CreatingStream,
    AwaitingPlay,
    AwaitingMedia,
}

impl fmt::Display for ClientStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshaking => "handshaking",
            Self::Connecting => "connecting to the app",
            Self::CreatingStream => "creating the stream",
            Self::AwaitingPlay => "waiting for play to be answered",
            Self::AwaitingMedia => "waiting for media",
        })
    }
}

/// What the driver must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    Progress(ClientStage),
    Media(MediaPart),
    /// The server does not serve it, or not any longer. Close.
    Refused {
        /// At most [`CODE_LEN_MAX`] bytes.
        code: String,
        /// At most [`DESCRIPTION_LEN_MAX`] bytes.
        description: String,
    },
    /// The stream is over, in an orderly way. Close.
    Ended,
}

/// Bytes of a status code that are kept.
pub const CODE_LEN_MAX: usize = 128;

/// Bytes of a status description that are kept.
pub const DESCRIPTION_LEN_MAX: usize = 256;

/// The session of one connection to an origin.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    phase: Phase,
    deadline: Option<Instant>,
    reader: ChunkReader,
    received: ReceivedBytes,
    stream_id: u32,
    outputs: VecDeque<Output<ClientEvent>>,
}

#[derive(Debug)]
enum Phase {
    Handshaking(Box<ClientHandshake>),
    Asking(ClientStage),
    /// Media has come.
    Playing,
    /// Refused or over; whatever comes is ignored until the driver closes.
    Over,
}

impl ClientSession {
    /// A session whose connection was just made; its first bytes are ready to be sent.
    pub fn new(now: Instant, seed: u64, config: ClientConfig) -> Self {
        let (handshake, hello) = ClientHandshake::new(seed, config.handshake);
        Self {
            phase: Phase::Handshaking(Box::new(handshake)),
            deadline: Some(now + config.handshake_timeout),
            reader: ChunkReader::new(),
            received: ReceivedBytes::new(config.window_ack_size),
            stream_id: 0,
            outputs: VecDeque::from([
                Output::Event(ClientEvent::Progress(ClientStage::Handshaking)),
                Output::Send(hello),
            ]),
            config,
        }
    }

    /// Takes bytes from the server.
    ///
    /// # Errors
    /// [`ClientError`]; the session is dead then.
    pub fn handle_input(&mut self, now: Instant, mut input: Bytes) -> Result<(), ClientError> {
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
            let Some(item) = self.reader.next_item(&mut input)? else { return Ok(()) };
            match item {
                ChunkItem::Part(part) => self.on_part(part),
                ChunkItem::Message(message) => self.on_message(now, &message)?,
            }
        }
        Ok(())
    }

    /// Tells the session the time.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] past the deadline.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ClientError> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        Err(ClientError::Timeout(match self.phase {
            Phase::Asking(stage) => stage,
            _ => ClientStage::Handshaking,
        }))
    }

    pub fn poll_output(&mut self) -> Option<Output<ClientEvent>> {
        self.outputs.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Bytes received, handshake and all.
    pub fn received_bytes(&self) -> u64 {
        self.received.total()
    }

    /// As [`ChunkReader::lacking`].
    pub fn lacking(&self) -> usize {
        self.reader.lacking()
    }

    fn on_part(&mut self, part: MediaPart) {
        // Metadata alone is no stream yet: some servers send it for a stream that is not there.
        if !matches!(part, MediaPart::Script { .. }) {
            self.phase = Phase::Playing;
            self.deadline = None;
        }
        self.outputs.push_back(Output::Event(ClientEvent::Media(part)));
    }

    fn on_message(&mut self, now: Instant, message: &Message) -> Result<(), ClientError> {
        match message.kind {
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 => {
                let command = Command::decode(message);
                return command.map_or(Ok(()), |command| self.on_command(now, &command));
            }
            kind::DATA_AMF0 | kind::DATA_AMF3 => {
                if let Some(payload) = script_payload(message) {
                    let timestamp_ms = message.timestamp_ms;
                    self.on_part(MediaPart::Script { timestamp_ms, payload });
                }
                return Ok(());
            }
            _ => {}
        }
        let control = Control::decode(message);
        match control.map_err(|_| ChunkError::ControlCutOff(message.kind))? {
            Some(Control::WindowAckSize(window)) => self.received.set_window(window),
            Some(Control::PingRequest(time)) => {
                self.send(CSID_CONTROL, &Control::PingResponse(time).encode());
            }
            Some(Control::StreamEof(_) | Control::StreamDry(_)) => self.on_end(),
            _ => {}
        }
        Ok(())
    }

    fn on_command(&mut self, now: Instant, command: &Command) -> Result<(), ClientError> {
        match (command.name.as_str(), &self.phase) {
            ("_result", Phase::Asking(ClientStage::Connecting))
                if command.transaction == CONNECT_TRANSACTION =>
            {
                // Some servers refuse in a `_result`.
                if is_error(command.argument(0)) {
                    self.on_refusal(command.argument(0));
                } else {
                    self.send_create_stream(now);
                }
            }
            ("_result", Phase::Asking(ClientStage::CreatingStream))
                if command.transaction == CREATE_STREAM_TRANSACTION =>
            {
                let id = command.argument(0).as_number().ok_or(ClientError::NoStreamId)?;
                self.stream_id = id as u32;
                self.send_play(now);
            }
            ("_error", _) if is_answer_awaited(command.transaction) => {
                self.on_refusal(command.argument(0));
            }
            ("onStatus", _) => self.on_status(now, command.argument(0)),
            // librtmp knows this from Red5.
            ("close", _) => self.on_end(),
            _ => {}
        }
        Ok(())
    }

    fn on_status(&mut self, now: Instant, info: &Value) {
        let code = info.property("code").and_then(Value::as_str).unwrap_or_default();
        match code {
            "NetStream.Play.Start"
            | "NetStream.Play.Reset"
            | "NetStream.Play.PublishNotify"
            | "NetStream.Play.Transition" => {
                if matches!(self.phase, Phase::Asking(ClientStage::AwaitingPlay)) {
                    let deadline = now + self.config.media_timeout;
                    self.enter(ClientStage::AwaitingMedia, deadline);
                }
            }
            "NetStream.Play.UnpublishNotify"
            | "NetStream.Play.Stop"
            | "NetStream.Play.Complete"
            | "NetConnection.Connect.Closed" => self.on_end(),
            _ if is_error(info) => self.on_refusal(info),
            _ => {}
        }
    }

    fn on_end(&mut self) {
        self.over(ClientEvent::Ended);
    }

    fn on_refusal(&mut self, info: &Value) {
        let text = |name, len_max| {
            let text = info.property(name).and_then(Value::as_str).unwrap_or_default();
            bounded(text, len_max)
        };
        let code = text("code", CODE_LEN_MAX);
        let description = text("description", DESCRIPTION_LEN_MAX);
        self.over(ClientEvent::Refused { code, description });
    }

    fn over(&mut self, event: ClientEvent) {
        self.phase = Phase::Over;
        self.deadline = None;
        self.outputs.push_back(Output::Event(event));
    }

    fn send_connect(&mut self, now: Instant) {
        let fourccs = ["avc1", "hvc1", "av01", "vp09", "vp08", "Opus", "fLaC", "ac-3", "ec-3"];
        let fourccs = fourccs.into_iter().chain([".mp3", "mp4a"]).map(Value::string).collect();
        let everything =
            || Value::object([("*", Value::Number(FOURCC_CAN_DECODE + FOURCC_CAN_FORWARD))]);
        let properties = Value::object([
            ("app", Value::string(&self.config.app)),
            ("flashVer", Value::string("LNX 9,0,124,2")),
            ("tcUrl", Value::string(&self.config.tc_url)),
            ("fpad", Value::Boolean(false)),
            ("capabilities", Value::Number(15.0)),
            ("audioCodecs", Value::Number(4071.0)),
            ("videoCodecs", Value::Number(252.0)),
            ("videoFunction", Value::Number(1.0)),
            ("objectEncoding", Value::Number(0.0)),
            ("fourCcList", Value::StrictArray(fourccs)),
            ("videoFourCcInfoMap", everything()),
            ("audioFourCcInfoMap", everything()),
            ("capsEx", Value::Number(CAPS_EX)),
        ]);
        self.send(CSID_COMMAND, &command(0, "connect", CONNECT_TRANSACTION, &[properties]));
        self.enter(ClientStage::Connecting, now + self.config.command_timeout);
    }

    fn send_create_stream(&mut self, now: Instant) {
        let window = Control::WindowAckSize(self.config.window_ack_size);
        self.send(CSID_CONTROL, &window.encode());
        let create = command(0, "createStream", CREATE_STREAM_TRANSACTION, &[Value::Null]);
        self.send(CSID_COMMAND, &create);
        self.enter(ClientStage::CreatingStream, now + self.config.command_timeout);
    }

    fn send_play(&mut self, now: Instant) {
        let name = Value::string(&self.config.stream);
        // A start of -2 s (here in ms, as ffmpeg and librtmp write it) asks for the live stream.
        let arguments = [Value::Null, name, Value::Number(-2000.0)];
        self.send(CSID_SCRIPT, &command(self.stream_id, "play", PLAY_TRANSACTION, &arguments));
        let buffer =
            Control::SetBufferLength { stream_id: self.stream_id, buffer_ms: BUFFER_LENGTH_MS };
        self.send(CSID_CONTROL, &buffer.encode());
        self.enter(ClientStage::AwaitingPlay, now + self.config.command_timeout);
    }

    fn enter(&mut self, stage: ClientStage, deadline: Instant) {
        self.phase = Phase::Asking(stage);
        self.deadline = Some(deadline);
        self.outputs.push_back(Output::Event(ClientEvent::Progress(stage)));
    }

    fn send(&mut self, csid: u8, message: &Message) {
        let mut bytes = Vec::new();
        encode_message(csid, message, CHUNK_SIZE_DEFAULT, &mut bytes);
        self.outputs.push_back(Output::Send(bytes.into()));
    }
}

fn is_answer_awaited(transaction: f64) -> bool {
    [CONNECT_TRANSACTION, CREATE_STREAM_TRANSACTION, PLAY_TRANSACTION].contains(&transaction)
}

/// Whether a status tells of a failure, by its level or, with servers that state none, its code.
pub(super) fn is_error(info: &Value) -> bool {
    let property = |name| info.property(name).and_then(Value::as_str).unwrap_or_default();
    let code = property("code");
    property("level") == "error"
        || ["NotFound", ".Failed", ".BadAuth", ".Rejected", ".InvalidApp"]
            .iter()
            .any(|end| code.ends_with(end))
}

pub(super) fn bounded(text: &str, len_max: usize) -> String {
    let mut len = text.len().min(len_max);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    text[..len].to_owned()
}

const CONNECT_TRANSACTION: f64 = 1.0;
const CREATE_STREAM_TRANSACTION: f64 = 2.0;
const PLAY_TRANSACTION: f64 = 3.0;

/// What we tell the server of our buffer, as ffmpeg does. Servers that pace by it send early.
const BUFFER_LENGTH_MS: u32 = 3000;

const FOURCC_CAN_DECODE: f64 = 1.0;
const FOURCC_CAN_FORWARD: f64 = 4.0;

/// `CapsExMask`: multitrack (2), ModEx (4) and nanosecond offsets (8).
const CAPS_EX: f64 = 14.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::TagKind;
    use crate::proto::rtmp::command::{Status, data};
    use crate::proto::rtmp::error::HandshakeError;

    /// A client and what it put out.
    struct Client {
        session: ClientSession,
        now: Instant,
        events: Vec<ClientEvent>,
        sent: Vec<u8>,
    }

    impl Client {
        fn new() -> Self {
            let now = crate::clock::now();
            let config =
                ClientConfig::new("live".to_owned(), "cam".to_owned(), "rtmp://h/live".to_owned());
            let session = ClientSession::new(now, 1, config);
            let mut client = Self { session, now, events: Vec::new(), sent: Vec::new() };
            client.drain();
            client
        }

        /// A client that has got these messages after the handshake.
        fn after(messages: &[Message]) -> Self {
            let mut client = Self::new();
            client.feed(&handshake()).unwrap();
            client.feed(&chunks(messages)).unwrap();
            client
        }

        fn feed(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
            let result = self.session.handle_input(self.now, Bytes::copy_from_slice(bytes));
            self.drain();
            result
        }

        fn drain(&mut self) {
            while let Some(output) = self.session.poll_output() {
                match output {
                    Output::Send(bytes) => self.sent.extend_from_slice(&bytes),
                    Output::Event(event) => self.events.push(event),
                }
            }
        }

        /// What was sent after the handshake.
        fn messages(&self) -> Vec<Message> {
            let mut reader = ChunkReader::new();
            let mut input = Bytes::copy_from_slice(&self.sent[1 + 2 * 1536..]);
            let mut messages = Vec::new();
            while let Some(ChunkItem::Message(message)) = reader.next_item(&mut input).unwrap() {
                messages.push(message);
            }
            messages
        }

        fn timeout_stage(&mut self, after: Duration) -> Option<ClientStage> {
            match self.session.handle_timeout(self.now + after) {
                Ok(()) => None,
                Err(ClientError::Timeout(stage)) => Some(stage),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn handshake() -> Vec<u8> {
        [&[3][..], &[0; 2 * 1536]].concat()
    }

    fn chunks(messages: &[Message]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            encode_message(2 + (message.kind > 7) as u8, message, 128, &mut bytes);
        }
        bytes
    }

    fn connected() -> Message {
        let information = Value::object([("level", Value::string("status"))]);
        command(0, "_result", 1.0, &[Value::Null, information])
    }

    fn created() -> Message {
        command(0, "_result", 2.0, &[Value::Null, Value::Number(7.0)])
    }

    fn status(is_error: bool, code: &'static str) -> Message {
        Status { is_error, code, description: "why" }.to_message(7)
    }

    fn audio() -> Message {
        Message { kind: 8, timestamp_ms: 3, stream_id: 7, payload: Bytes::from_static(b"a") }
    }

    fn refused(code: &str) -> ClientEvent {
        let description = "why".to_owned();
        ClientEvent::Refused { code: code.to_owned(), description }
    }

    #[test]
    fn events_are_the_same_at_every_split() {
        let transcript = [
            handshake(),
            chunks(&[
                Control::WindowAckSize(2_500_000).encode(),
                connected(),
                command(0, "onBWDone", 0.0, &[Value::Null]),
                created(),
                Control::StreamBegin(7).encode(),
                status(false, "NetStream.Play.Reset"),
                status(false, "NetStream.Play.Start"),
                data(7, &[Value::string("onMetaData"), Value::Null]),
                audio(),
                Control::StreamEof(7).encode(),
                audio(),
            ]),
        ]
        .concat();
        let mut whole = Client::new();
        whole.feed(&transcript).unwrap();
        let expected = [
            ClientEvent::Progress(ClientStage::Handshaking),
            ClientEvent::Progress(ClientStage::Connecting),
            ClientEvent::Progress(ClientStage::CreatingStream),
            ClientEvent::Progress(ClientStage::AwaitingPlay),
            ClientEvent::Progress(ClientStage::AwaitingMedia),
            ClientEvent::Media(MediaPart::Script {
                timestamp_ms: 0,
                payload: Bytes::from_static(b"\x02\0\x0aonMetaData\x05"),
            }),
            ClientEvent::Media(MediaPart::Begin {
                lane: 3,
                kind: TagKind::Audio,
                timestamp_ms: 3,
                len: 1,
            }),
            ClientEvent::Media(MediaPart::Data { lane: 3, bytes: Bytes::from_static(b"a") }),
            ClientEvent::Ended,
        ];
        assert_eq!(whole.events, expected);
        for at in 0..transcript.len() {
            let mut split = Client::new();
            split.feed(&transcript[..at]).unwrap();
            split.feed(&transcript[at..]).unwrap();
            assert_eq!((&split.events, &split.sent), (&whole.events, &whole.sent), "at {at}");
        }
    }

    #[test]
    fn commands_say_what_is_pulled() {
        let client = Client::after(&[connected(), created()]);
        let messages = client.messages();
        let commands: Vec<_> = messages.iter().filter_map(Command::decode).collect();
        let [connect, create, play] = &commands[..] else { panic!("{commands:?}") };
        assert_eq!(connect.object().property("app"), Some(&Value::string("live")));
        assert_eq!(connect.object().property("tcUrl"), Some(&Value::string("rtmp://h/live")));
        assert_eq!(create.name, "createStream");
        assert_eq!((play.name.as_str(), play.argument(0)), ("play", &Value::string("cam")));
        let play = messages.iter().rev().find(|message| message.kind == 20).unwrap();
        assert_eq!(play.stream_id, 7);
        let buffer = Control::SetBufferLength { stream_id: 7, buffer_ms: 3000 }.encode();
        assert_eq!(messages.last(), Some(&buffer));
    }

    #[test]
    fn media_without_an_answer_to_play_is_taken() {
        let client = Client::after(&[connected(), created(), audio()]);
        assert!(matches!(client.events[4], ClientEvent::Media(MediaPart::Begin { .. })));
        assert_eq!(client.session.poll_timeout(), None);
    }

    #[test]
    fn failures_are_told_in_the_servers_words() {
        let failure = Value::object([
            ("level", Value::string("error")),
            ("code", Value::string("NetConnection.Connect.Rejected")),
            ("description", Value::string("why")),
        ]);
        let arguments = [Value::Null, failure];
        let rejected = refused("NetConnection.Connect.Rejected");
        for name in ["_error", "_result"] {
            let client = Client::after(&[command(0, name, 1.0, &arguments)]);
            assert_eq!(client.events.last(), Some(&rejected), "{name}");
        }
        let client = Client::after(&[connected(), command(0, "_error", 2.0, &arguments)]);
        assert_eq!(client.events.last(), Some(&rejected));

        let after_play = |message| {
            let mut client = Client::after(&[connected(), created(), message]);
            client.events.pop()
        };
        for (is_error, code) in [
            (true, "NetStream.Play.StreamNotFound"),
            (false, "NetStream.Play.FileNotFound"),
            (true, "NetStream.Play.BadAuth"),
            (false, "NetStream.Play.Failed"),
            (true, "NetStream.Unheard.Of"),
        ] {
            let expected = Some(refused(code));
            assert_eq!(after_play(status(is_error, code)), expected, "{code}");
        }
        // An answer to a call that nobody made means nothing.
        let stray = after_play(command(0, "_error", 99.0, &arguments));
        assert_eq!(stray, Some(ClientEvent::Progress(ClientStage::AwaitingPlay)));
    }

    #[test]
    fn orderly_ends_are_told() {
        for message in [
            status(false, "NetStream.Play.UnpublishNotify"),
            status(false, "NetStream.Play.Stop"),
            status(false, "NetStream.Play.Complete"),
            Control::StreamEof(7).encode(),
            Control::StreamDry(7).encode(),
            command(0, "close", 0.0, &[Value::Null]),
        ] {
            let mut client = Client::after(&[connected(), created(), audio(), message]);
            assert_eq!(client.events.pop(), Some(ClientEvent::Ended));
            client.feed(&chunks(&[audio(), audio()])).unwrap();
            assert_eq!(client.events.len(), 6);
        }
    }

    #[test]
    fn words_of_the_server_are_cut_to_length() {
        let failure = Value::object([
            ("level", Value::string("error")),
            ("code", Value::string(&"c".repeat(CODE_LEN_MAX + 1))),
            ("description", Value::string(&"\u{e9}".repeat(DESCRIPTION_LEN_MAX))),
        ]);
        let onstatus = command(0, "onStatus", 0.0, &[Value::Null, failure]);
        let client = Client::after(&[connected(), created(), onstatus]);
        let Some(ClientEvent::Refused { code, description }) = client.events.last() else {
            panic!("{:?}", client.events)
        };
        assert_eq!((code.len(), description.len()), (CODE_LEN_MAX, DESCRIPTION_LEN_MAX));
    }

    #[test]
    fn each_stage_has_its_deadline() {
        let second = Duration::from_secs(1);
        let mut client = Client::new();
        assert_eq!(client.timeout_stage(4 * second), None);
        assert_eq!(client.timeout_stage(5 * second), Some(ClientStage::Handshaking));
        client.now += 4 * second;
        client.feed(&handshake()).unwrap();
        assert_eq!(client.timeout_stage(4 * second), None);
        assert_eq!(client.timeout_stage(5 * second), Some(ClientStage::Connecting));
        client.feed(&chunks(&[connected()])).unwrap();
        assert_eq!(client.timeout_stage(5 * second), Some(ClientStage::CreatingStream));
        client.feed(&chunks(&[created()])).unwrap();
        assert_eq!(client.timeout_stage(5 * second), Some(ClientStage::AwaitingPlay));
        client.feed(&chunks(&[status(false, "NetStream.Play.Start")])).unwrap();
        assert_eq!(client.timeout_stage(9 * second), None);
        assert_eq!(client.timeout_stage(10 * second), Some(ClientStage::AwaitingMedia));
        // Metadata is no media.
        client.feed(&chunks(&[data(7, &[Value::string("onMetaData")])])).unwrap();
        assert_eq!(client.timeout_stage(10 * second), Some(ClientStage::AwaitingMedia));
        client.feed(&chunks(&[audio()])).unwrap();
        assert_eq!(client.timeout_stage(99 * second), None);
    }

    #[test]
    fn pings_and_windows_are_answered() {
        let window = Control::WindowAckSize(3500).encode();
        let mut client = Client::after(&[window, Control::PingRequest(5).encode()]);
        assert_eq!(client.messages().pop(), Some(Control::PingResponse(5).encode()));
        client.feed(&chunks(&vec![audio(); 40])).unwrap();
        let received = client.session.received_bytes() as u32;
        assert_eq!(client.messages().pop(), Some(Control::Acknowledgement(received).encode()));
    }

    #[test]
    fn faults_are_errors() {
        let fault = |bytes: &[u8]| Client::new().feed(bytes).unwrap_err();
        assert_eq!(fault(b"HTTP"), ClientError::Handshake(HandshakeError::Version(b'H')));
        let bad_chunk = [handshake(), vec![0xc4]].concat();
        assert_eq!(fault(&bad_chunk), ClientError::Chunk(ChunkError::NoMessageHeader(4)));
        let no_id = command(0, "_result", 2.0, &[Value::Null, Value::Null]);
        let no_id = [handshake(), chunks(&[connected(), no_id])].concat();
        assert_eq!(fault(&no_id), ClientError::NoStreamId);
    }
}
