//! The server session against scripted peers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Lanes, PlayEnd, PlayRefusal, PublishEnd, PublishRefusal, STREAM_ID, ServerConfig, ServerEvent,
    ServerSession, StreamRequest,
};
use crate::limits::HELD_INPUT_LEN_MAX;
use crate::media::{MediaPart, TagKind};
use crate::proto::Output;
use crate::proto::amf0::Value;
use crate::proto::rtmp::chunk::{ChunkItem, ChunkReader};
use crate::proto::rtmp::chunk_encoding::encode_message;
use crate::proto::rtmp::command::{Command, command, data};
use crate::proto::rtmp::error::{ChunkError, HandshakeError, ServerError};
use crate::proto::rtmp::handshake::{ClientHandshake, HandshakeKind};
use crate::proto::rtmp::message::{Control, Message};

/// A server session and what it put out.
struct Server {
    session: ServerSession,
    now: Instant,
    events: Vec<ServerEvent>,
    sent: Vec<u8>,
    accepts: bool,
}

impl Server {
    fn new() -> Self {
        Self::with(ServerConfig::default())
    }

    fn with(config: ServerConfig) -> Self {
        let now = crate::clock::now();
        let session = ServerSession::new(now, 1, config);
        Self { session, now, events: Vec::new(), sent: Vec::new(), accepts: true }
    }

    /// A session past the given commands.
    fn after(commands: &[Message]) -> Self {
        let mut server = Self::new();
        server.feed(&handshake()).unwrap();
        server.feed_messages(commands).unwrap();
        server
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), ServerError> {
        self.session.handle_input(self.now, Bytes::copy_from_slice(bytes))?;
        self.drain()
    }

    fn feed_messages(&mut self, messages: &[Message]) -> Result<(), ServerError> {
        self.feed(&chunks(messages))
    }

    /// Takes all outputs and, like a driver without hooks, accepts what is asked.
    fn drain(&mut self) -> Result<(), ServerError> {
        while let Some(output) = self.session.poll_output() {
            let event = match output {
                Output::Send(bytes) => {
                    self.sent.extend_from_slice(&bytes);
                    continue;
                }
                Output::Event(event) => event,
            };
            let asked = event.clone();
            if let (
                Some(ServerEvent::Media(MediaPart::Data { bytes: before, .. })),
                ServerEvent::Media(MediaPart::Data { bytes, .. }),
            ) = (self.events.last_mut(), &event)
            {
                *before = [&before[..], bytes].concat().into();
            } else {
                self.events.push(event);
            }
            match asked {
                ServerEvent::Publish(_) if self.accepts => self.session.accept_publish(self.now)?,
                ServerEvent::Play(_) if self.accepts => self.session.accept_play(),
                _ => {}
            }
        }
        Ok(())
    }

    /// What was sent after the handshake.
    fn messages(&self) -> Vec<Message> {
        let mut reader = ChunkReader::new();
        let mut input = Bytes::copy_from_slice(&self.sent[1 + 2 * 1536..]);
        let mut messages = Vec::new();
        while let Some(item) = reader.next_item(&mut input).unwrap() {
            let ChunkItem::Message(message) = item else { panic!("{item:?} is no message") };
            messages.push(message);
        }
        messages
    }

    fn commands(&self) -> Vec<Command> {
        self.messages().iter().filter_map(Command::decode).collect()
    }

    /// The code of the status sent last.
    fn last_code(&self) -> String {
        let commands = self.commands();
        let status = commands.iter().rev().find(|command| command.name == "onStatus").unwrap();
        status.argument(0).property("code").unwrap().as_str().unwrap().to_owned()
    }
}

fn handshake() -> Vec<u8> {
    let (_, hello) = ClientHandshake::new(2, HandshakeKind::Plain);
    [&hello[..], &[0; 1536]].concat()
}

fn chunks(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        let csid = match message.kind {
            8 => 4,
            9 => 6,
            kind => 2 + (kind > 7) as u8,
        };
        encode_message(csid, message, 128, &mut bytes);
    }
    bytes
}

fn connect() -> Message {
    let properties = Value::object([
        ("app", Value::string("live/a")),
        ("tcUrl", Value::string("rtmp://h.example/live/a")),
        ("objectEncoding", Value::Number(3.0)),
    ]);
    command(0, "connect", 1.0, &[properties])
}

fn call(name: &str, transaction: f64) -> Message {
    command(0, name, transaction, &[Value::Null])
}

fn publish() -> Message {
    command(1, "publish", 5.0, &[Value::Null, Value::string("cam?t=1"), Value::string("live")])
}

fn play() -> Message {
    command(1, "play", 5.0, &[Value::Null, Value::string("cam?t=1"), Value::Number(-2000.0)])
}

fn media(kind: u8, timestamp_ms: u32, payload: &'static [u8]) -> Message {
    Message { kind, timestamp_ms, stream_id: 1, payload: Bytes::from_static(payload) }
}

fn request() -> StreamRequest {
    StreamRequest { app: "live".to_owned(), stream: "a/cam".to_owned(), params: "t=1".to_owned() }
}

fn begin(lane: u32, kind: TagKind, timestamp_ms: u32, len: u32) -> ServerEvent {
    ServerEvent::Media(MediaPart::Begin { lane, kind, timestamp_ms, len })
}

fn bytes(lane: u32, bytes: &'static [u8]) -> ServerEvent {
    ServerEvent::Media(MediaPart::Data { lane, bytes: Bytes::from_static(bytes) })
}

#[test]
fn publisher_is_the_same_at_every_split() {
    let metadata = data(1, &[Value::string("@setDataFrame"), Value::string("onMetaData")]);
    let transcript = [
        handshake(),
        chunks(&[
            connect(),
            call("releaseStream", 2.0),
            call("FCPublish", 3.0),
            call("createStream", 4.0),
            publish(),
            metadata,
            media(9, 40, b"video"),
            media(8, 41, b"audio"),
            call("FCUnpublish", 6.0),
            call("deleteStream", 7.0),
        ]),
    ]
    .concat();
    let expected = [
        ServerEvent::Publish(request()),
        ServerEvent::Media(MediaPart::Script {
            timestamp_ms: 0,
            payload: Bytes::from_static(b"\x02\0\x0aonMetaData"),
        }),
        begin(6, TagKind::Video, 40, 5),
        bytes(6, b"video"),
        begin(4, TagKind::Audio, 41, 5),
        bytes(4, b"audio"),
        ServerEvent::Unpublish,
    ];
    let mut whole = Server::new();
    whole.feed(&transcript).unwrap();
    assert_eq!(whole.events, expected);
    let names: Vec<_> = whole.commands().into_iter().map(|command| command.name).collect();
    assert_eq!(
        names,
        [
            "_result",
            "_result",
            "_result",
            "onFCPublish",
            "_result",
            "onStatus",
            "onStatus",
            "onFCUnpublish"
        ]
    );
    for at in 0..transcript.len() {
        let mut split = Server::new();
        split.feed(&transcript[..at]).unwrap();
        split.feed(&transcript[at..]).unwrap();
        assert_eq!((&split.events, &split.sent), (&whole.events, &whole.sent), "split at {at}");
    }
    let mut single = Server::new();
    transcript.chunks(1).for_each(|byte| single.feed(byte).unwrap());
    assert_eq!((&single.events, &single.sent), (&whole.events, &whole.sent));
}

#[test]
fn connect_is_answered_with_what_passes_through() {
    let server = Server::after(&[connect()]);
    let messages = server.messages();
    let controls: Vec<_> = messages.iter().filter_map(|it| Control::decode(it).unwrap()).collect();
    let window = 5_000_000;
    assert_eq!(
        controls,
        [Control::WindowAckSize(window), Control::SetPeerBandwidth { window, limit: 2 }]
    );
    let [result] = &server.commands()[..] else { panic!("one answer") };
    assert_eq!((result.name.as_str(), result.transaction), ("_result", 1.0));
    let map = result.object().property("videoFourCcInfoMap").unwrap();
    assert_eq!(map.property("hvc1"), Some(&Value::Number(4.0)));
    let information = result.argument(0);
    assert_eq!(information.property("objectEncoding"), Some(&Value::Number(3.0)));
    assert_eq!(information.property("code"), Some(&Value::string("NetConnection.Connect.Success")));
}

#[test]
fn player_is_told_the_chunk_size_before_anything_else() {
    let server = Server::after(&[connect(), call("createStream", 2.0), play()]);
    assert_eq!(server.events, [ServerEvent::Play(request())]);
    let messages = server.messages();
    let controls: Vec<_> = messages.iter().filter_map(|it| Control::decode(it).unwrap()).collect();
    assert_eq!(controls[2..], [Control::StreamBegin(1)]);
    let raw_size = chunks(&[Control::SetChunkSize(65_536).encode()]);
    assert!(server.sent.windows(raw_size.len()).any(|window| window == raw_size));
    assert_eq!(server.last_code(), "NetStream.Play.Start");
    let data_count = messages.iter().filter(|message| message.kind == 18).count();
    assert_eq!(data_count, 2);
}

#[test]
fn player_is_still_heard_while_playing() {
    let mut server = Server::after(&[connect(), play()]);
    server
        .feed_messages(&[
            Control::Acknowledgement(77).encode(),
            Control::SetBufferLength { stream_id: 1, buffer_ms: 3000 }.encode(),
            Control::PingRequest(9).encode(),
            call("pause", 8.0),
            call("closeStream", 0.0),
        ])
        .unwrap();
    assert_eq!(server.session.peer_acknowledged_bytes(), 77);
    assert_eq!(server.messages().last(), Some(&Control::PingResponse(9).encode()));
    assert_eq!(server.events.last(), Some(&ServerEvent::StopPlay));
    server.feed_messages(&[play()]).unwrap();
    assert_eq!(server.events.last(), Some(&ServerEvent::Play(request())));
}

#[test]
fn parked_player_can_give_up() {
    let mut server = Server::new();
    server.accepts = false;
    server.feed(&handshake()).unwrap();
    server.feed_messages(&[connect(), play(), call("deleteStream", 0.0)]).unwrap();
    assert_eq!(server.events, [ServerEvent::Play(request()), ServerEvent::StopPlay]);
    let sent_len = server.sent.len();
    server.session.accept_play();
    server.drain().unwrap();
    assert_eq!(server.sent.len(), sent_len);
}

#[test]
fn early_media_is_kept_until_the_publisher_is_accepted() {
    let mut server = Server::new();
    server.accepts = false;
    server.feed(&handshake()).unwrap();
    server.feed_messages(&[connect(), publish(), media(9, 1, b"v")]).unwrap();
    server.feed_messages(&[media(8, 2, b"a")]).unwrap();
    assert_eq!(server.events, [ServerEvent::Publish(request())]);
    server.session.accept_publish(server.now).unwrap();
    server.drain().unwrap();
    let expected = [
        begin(6, TagKind::Video, 1, 1),
        bytes(6, b"v"),
        begin(4, TagKind::Audio, 2, 1),
        bytes(4, b"a"),
    ];
    assert_eq!(server.events[1..], expected);
}

#[test]
fn too_much_early_media_is_an_error() {
    let mut server = Server::new();
    server.accepts = false;
    server.feed(&handshake()).unwrap();
    server.feed_messages(&[connect(), publish()]).unwrap();
    server.feed(&vec![0; HELD_INPUT_LEN_MAX]).unwrap();
    assert_eq!(server.feed(&[0]), Err(ServerError::TooMuchBeforeAccept));
}

#[test]
fn tag_that_began_before_publish_is_dropped_to_its_end() {
    let video = chunks(&[media(9, 1, &[1; 200])]);
    let (first, rest) = video.split_at(12 + 128);
    let mut server = Server::after(&[connect()]);
    server.feed(first).unwrap();
    server.feed_messages(&[publish()]).unwrap();
    server.feed(rest).unwrap();
    server.feed_messages(&[media(9, 2, b"v")]).unwrap();
    assert_eq!(server.events[1..], [begin(6, TagKind::Video, 2, 1), bytes(6, b"v")]);
}

#[test]
fn lanes_of_any_number_are_known_from_when_a_tag_of_theirs_began() {
    let mut lanes = Lanes::default();
    let all = [2, 63, 64, 65_599];
    for (known, lane) in all.into_iter().enumerate() {
        lanes.add(lane);
        lanes.add(lane);
        let have: Vec<u32> = all.into_iter().filter(|&lane| lanes.have(lane)).collect();
        assert_eq!(have, all[..=known]);
    }
    assert_eq!(lanes.others, [64, 65_599]);
}

#[test]
fn room_for_outputs_is_exchanged_when_they_are_taken() {
    let mut session = Server::new().session;
    let mut room = VecDeque::with_capacity(100);
    session.exchange_room(&mut room);
    assert_eq!((room.capacity(), session.outputs.capacity()), (0, 100));
    session.send_control(Control::StreamBegin(STREAM_ID));
    session.exchange_room(&mut room);
    assert!(room.is_empty() && session.poll_output().is_some());
    session.exchange_room(&mut room);
    assert_eq!((room.capacity(), session.outputs.capacity()), (100, 0));
}

#[test]
fn refusals_name_their_reason_and_end_the_session() {
    let ask = |command| {
        let mut server = Server::new();
        server.accepts = false;
        server.feed(&handshake()).unwrap();
        server.feed_messages(&[connect(), command]).unwrap();
        server
    };
    let table = [
        (PublishRefusal::BadName, "NetStream.Publish.BadName"),
        (PublishRefusal::Denied, "NetStream.Publish.BadAuth"),
        (PublishRefusal::Unavailable, "NetStream.Publish.Failed"),
    ];
    for (refusal, code) in table {
        let mut server = ask(publish());
        server.session.refuse_publish(refusal, "not today");
        server.drain().unwrap();
        assert_eq!(server.last_code(), code);
        let status = server.commands().pop().unwrap();
        let description = status.argument(0).property("description").cloned();
        assert_eq!(description, Some(Value::string("not today")));
        server.feed_messages(&[publish(), media(9, 1, b"v")]).unwrap();
        assert_eq!(server.events.len(), 1);
    }
    let table = [
        (PlayRefusal::StreamNotFound, "NetStream.Play.StreamNotFound"),
        (PlayRefusal::Denied, "NetStream.Play.BadAuth"),
        (PlayRefusal::Unavailable, "NetStream.Play.Failed"),
    ];
    for (refusal, code) in table {
        let mut server = ask(play());
        server.session.refuse_play(refusal, "");
        server.drain().unwrap();
        assert_eq!(server.last_code(), code);
    }
}

#[test]
fn ends_name_their_reason() {
    for (end, code) in [
        (PlayEnd::Unpublished, "NetStream.Play.UnpublishNotify"),
        (PlayEnd::Kicked, "NetConnection.Connect.Closed"),
        (PlayEnd::TooSlow, "NetStream.Play.InsufficientBW"),
    ] {
        let mut server = Server::after(&[connect(), play()]);
        server.session.end_play(end);
        server.drain().unwrap();
        assert_eq!(server.last_code(), code);
        assert_eq!(server.messages().last(), Some(&Control::StreamEof(1).encode()));
    }
    for (end, code) in [
        (PublishEnd::Kicked, "NetConnection.Connect.Closed"),
        (PublishEnd::Rejected, "NetStream.Publish.Denied"),
        (PublishEnd::Silent, "NetStream.Publish.Idle"),
    ] {
        let mut server = Server::after(&[connect(), publish()]);
        server.session.end_publish(end);
        server.drain().unwrap();
        assert_eq!(server.last_code(), code);
        server.feed_messages(&[media(9, 1, b"v")]).unwrap();
        assert_eq!(server.events.len(), 1);
    }
}

#[test]
fn small_commands_get_their_usual_answers() {
    let calls = ["_checkbw", "getStreamLength", "FCSubscribe", "unheardOf", "pause", "_result"];
    let calls: Vec<_> = calls.iter().map(|name| call(name, 9.0)).collect();
    let mut server = Server::after(&[connect()]);
    server.feed_messages(&calls).unwrap();
    let unasked = [call("unheardOf", 0.0), call("getStreamLength", 0.0)];
    server.feed_messages(&unasked).unwrap();
    let answers: Vec<_> =
        server.commands().into_iter().map(|it| (it.name, it.transaction)).collect();
    let expected = [
        ("_result".to_owned(), 1.0),
        ("_result".to_owned(), 9.0),
        ("_result".to_owned(), 9.0),
        ("onFCSubscribe".to_owned(), 0.0),
        ("_error".to_owned(), 9.0),
    ];
    assert_eq!(answers, expected);
}

#[test]
fn play2_and_publish_false_are_understood() {
    let parameters = Value::object([("streamName", Value::string("cam?t=1"))]);
    let play2 = command(1, "play2", 0.0, &[Value::Null, parameters]);
    let server = Server::after(&[connect(), play2]);
    assert_eq!(server.events, [ServerEvent::Play(request())]);

    let stop = command(1, "publish", 0.0, &[Value::Null, Value::Boolean(false)]);
    let server = Server::after(&[connect(), publish(), stop]);
    assert_eq!(server.events, [ServerEvent::Publish(request()), ServerEvent::Unpublish]);
}

#[test]
fn received_bytes_are_acknowledged_by_the_peers_window() {
    let mut server = Server::after(&[connect(), Control::WindowAckSize(4000).encode()]);
    let before = server.session.received_bytes() as u32;
    server.feed(&chunks(&[media(8, 0, &[0; 4000])])).unwrap();
    let acknowledged = server.messages().iter().find_map(|it| match Control::decode(it) {
        Ok(Some(Control::Acknowledgement(count))) => Some(count),
        _ => None,
    });
    assert_eq!(acknowledged, Some(server.session.received_bytes() as u32));
    assert!(acknowledged > Some(before));
}

#[test]
fn peers_that_dawdle_are_timed_out() {
    let config = ServerConfig {
        handshake_timeout: Duration::from_secs(2),
        command_timeout: Duration::from_secs(3),
        ..ServerConfig::default()
    };
    let mut server = Server::with(config);
    let start = server.now;
    assert_eq!(server.session.poll_timeout(), Some(start + Duration::from_secs(2)));
    assert_eq!(server.session.handle_timeout(start + Duration::from_millis(1999)), Ok(()));
    assert_eq!(
        server.session.handle_timeout(start + Duration::from_secs(2)),
        Err(ServerError::HandshakeTimeout)
    );

    let mut server = Server::with(config);
    let start = server.now;
    server.feed(&handshake()).unwrap();
    server.now += Duration::from_secs(2);
    server.feed_messages(&[connect()]).unwrap();
    // What a peer sends meanwhile wins it no time.
    assert_eq!(
        server.session.handle_timeout(start + Duration::from_secs(3)),
        Err(ServerError::CommandTimeout)
    );

    let mut server = Server::with(config);
    let start = server.now;
    server.feed(&handshake()).unwrap();
    server.feed_messages(&[connect(), play()]).unwrap();
    assert_eq!(server.session.poll_timeout(), None);
    server.feed_messages(&[call("closeStream", 0.0)]).unwrap();
    assert_eq!(server.session.poll_timeout(), Some(start + Duration::from_secs(3)));
}

#[test]
fn misplaced_commands_are_errors() {
    let fault = |messages: &[Message]| {
        let mut server = Server::new();
        server.feed(&handshake()).unwrap();
        server.feed_messages(messages).unwrap_err()
    };
    assert_eq!(fault(&[play()]), ServerError::UnexpectedCommand("play before connect"));
    assert_eq!(fault(&[connect(), connect()]), ServerError::UnexpectedCommand("second connect"));
    assert_eq!(fault(&[connect(), play(), play()]), ServerError::UnexpectedCommand("play"));
    assert_eq!(fault(&[connect(), publish(), play()]), ServerError::UnexpectedCommand("play"));
    assert_eq!(fault(&[call("connect", 1.0)]), ServerError::MalformedCommand("connect"));
    assert_eq!(fault(&[connect(), call("play", 1.0)]), ServerError::MalformedCommand("play"));
    assert_eq!(fault(&[connect(), call("publish", 1.0)]), ServerError::MalformedCommand("publish"));
    let cut_off =
        Message { payload: Bytes::from_static(&[0, 6]), ..Control::PingRequest(1).encode() };
    assert_eq!(fault(&[cut_off]), ServerError::Chunk(ChunkError::ControlCutOff(4)));
}

#[test]
fn strangers_are_refused_at_once() {
    let mut server = Server::new();
    let fault = server.feed(b"GET / HTTP/1.1\r\n");
    assert_eq!(fault, Err(ServerError::Handshake(HandshakeError::Version(b'G'))));
}

#[test]
fn session_can_move_to_another_thread() {
    let mut server = Server::after(&[connect(), publish()]);
    let now = server.now;
    let session = std::thread::spawn(move || {
        let input = Bytes::from(chunks(&[media(9, 1, b"v")]));
        server.session.handle_input(now, input).unwrap();
        server.session
    });
    let mut session = session.join().unwrap();
    assert_eq!(session.poll_output(), Some(Output::Event(begin(6, TagKind::Video, 1, 1))));
}

#[test]
fn player_takes_little_memory() {
    let mut server = Server::new();
    let mut room = VecDeque::new();
    for input in [handshake(), chunks(&[connect(), play()])] {
        server.session.exchange_room(&mut room);
        server.feed(&input).unwrap();
        server.session.exchange_room(&mut room);
    }
    assert_eq!(server.last_code(), "NetStream.Play.Start");
    let session = &server.session;
    assert_eq!((session.outputs.capacity(), size_of::<ServerSession>()), (0, 216));
    // All of its commands came on one chunk stream.
    assert_eq!(session.chunk_streams().1, 40);
}
