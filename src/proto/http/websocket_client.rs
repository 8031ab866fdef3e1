//! WebSocket, the client's side (RFC 6455): one GET that asks for the upgrade, then the payloads of
//! what the server sends, as they come. Left out: extensions, subprotocols, redirects, sending data.
//!
//! Texts are read over: media is in binaries.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use url::{Position, Url};

use crate::limits::REPLY_HEAD_LEN_MAX;
use crate::proto::Output;
use crate::proto::http::client::{find_end, parse_head};
use crate::proto::http::error::HttpError;
use crate::proto::http::websocket::{
    CLOSE_ABNORMAL, CONTROL_BIT, CONTROL_LEN_MAX, FrameError, OPCODE_BINARY, OPCODE_CLOSE,
    OPCODE_CONTINUATION, OPCODE_PING, OPCODE_PONG, OPCODE_TEXT, accept_of, parse_close,
};

/// One connection to a server.
#[derive(Debug)]
pub struct WebSocketClient {
    state: State,
    key: String,
    rng: fastrand::Rng,
    deadline: Option<Instant>,
    output: VecDeque<Output<WebSocketEvent>>,
}

/// What to ask for and how long to wait.
#[derive(Debug, Clone)]
pub struct WebSocketClientConfig {
    /// An `http` URL, or a `ws` one, which says the same here.
    pub url: Url,
    pub user_agent: String,
    /// From the request to the end of the reply's head.
    pub reply_timeout: Duration,
}

/// What the driver must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebSocketEvent {
    Opened,
    /// The server did not upgrade. Close.
    Status {
        code: u16,
        reason: String,
    },
    /// The next bytes of a binary message; never empty. Where messages end is not told.
    Data(Bytes),
    /// The server ended it with this code. Close, once the output is sent.
    Closed(u16),
}

#[derive(Debug)]
enum State {
    /// `scanned_len` bytes of `head` do not end it.
    Head {
        head: BytesMut,
        scanned_len: usize,
    },
    Open(Frames),
    Done,
}

impl WebSocketClient {
    /// Begins with the request in the output. `seed` feeds the key and the masks; they are no
    /// secret.
    pub fn new(now: Instant, seed: u64, config: &WebSocketClientConfig) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut key = [0; 16];
        rng.fill(&mut key);
        let key = STANDARD.encode(key);
        let request = encode_request(config, &key);
        Self {
            state: State::Head { head: BytesMut::new(), scanned_len: 0 },
            key,
            rng,
            deadline: Some(now + config.reply_timeout),
            output: VecDeque::from([Output::Send(request)]),
        }
    }

    /// Takes received bytes. Data in the output are views of them.
    ///
    /// # Errors
    /// A fault of the server.
    pub fn handle_input(&mut self, _now: Instant, input: Bytes) -> Result<(), HttpError> {
        let read = match &mut self.state {
            State::Head { head, .. } => {
                head.extend_from_slice(&input);
                self.read_head()
            }
            State::Open(_) => self.read_frames(input),
            State::Done => Ok(()),
        };
        read.inspect_err(|_| self.end())
    }

    /// The server sends no more.
    pub fn handle_eof(&mut self, _now: Instant) {
        if matches!(self.state, State::Open(_)) {
            self.output.push_back(Output::Event(WebSocketEvent::Closed(CLOSE_ABNORMAL)));
        }
        self.end();
    }

    /// Acts on a passed deadline.
    ///
    /// # Errors
    /// [`HttpError::ReplyTimeout`].
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), HttpError> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        self.end();
        Err(HttpError::ReplyTimeout)
    }

    pub fn poll_output(&mut self) -> Option<Output<WebSocketEvent>> {
        self.output.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn read_head(&mut self) -> Result<(), HttpError> {
        let State::Head { head, scanned_len } = &mut self.state else { return Ok(()) };
        let Some(head_len) = find_end(head, scanned_len) else {
            return match head.len() > REPLY_HEAD_LEN_MAX {
                true => Err(HttpError::ReplyHeadTooLarge),
                false => Ok(()),
            };
        };
        if head_len > REPLY_HEAD_LEN_MAX {
            return Err(HttpError::ReplyHeadTooLarge);
        }
        let reply = parse_head(&head.split_to(head_len))?;
        let rest = std::mem::take(head).freeze();
        if reply.code != 101 {
            let (code, reason) = (reply.code, reply.reason);
            self.output.push_back(Output::Event(WebSocketEvent::Status { code, reason }));
            self.end();
            return Ok(());
        }
        if reply.headers.find("sec-websocket-accept") != Some(&accept_of(&self.key)) {
            return Err(HttpError::BadHead("Sec-WebSocket-Accept"));
        }
        self.deadline = None;
        self.state = State::Open(Frames::default());
        self.output.push_back(Output::Event(WebSocketEvent::Opened));
        self.read_frames(rest)
    }

    fn read_frames(&mut self, mut input: Bytes) -> Result<(), HttpError> {
        let State::Open(frames) = &mut self.state else { return Ok(()) };
        while let Some(frame) = frames.next(&mut input)? {
            match frame {
                Frame::Data(bytes) => {
                    self.output.push_back(Output::Event(WebSocketEvent::Data(bytes)));
                }
                Frame::Ping(payload) => {
                    let pong = encode_masked(OPCODE_PONG, &payload, &mut self.rng);
                    self.output.push_back(Output::Send(pong));
                }
                Frame::Close(payload) => {
                    let code = parse_close(&payload)?;
                    let answer = &payload[..payload.len().min(2)];
                    let close = encode_masked(OPCODE_CLOSE, answer, &mut self.rng);
                    self.output.push_back(Output::Send(close));
                    self.output.push_back(Output::Event(WebSocketEvent::Closed(code)));
                    self.end();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        self.state = State::Done;
        self.deadline = None;
    }
}

/// Frames of a server: never masked, data of any length.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER_LEN_MAX],
    header_len: usize,
    payload: Option<Payload>,
    control: Vec<u8>,
    /// The opcode that the message under way began with.
    message: Option<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Payload {
    opcode: u8,
    left: u64,
}

/// What a server's frames come to.
enum Frame {
    Data(Bytes),
    Ping(Vec<u8>),
    Close(Vec<u8>),
}

impl Frames {
    /// Takes from `input` up to the next thing to act on; `None` when it is used up.
    fn next(&mut self, input: &mut Bytes) -> Result<Option<Frame>, FrameError> {
        loop {
            let Some(payload) = &mut self.payload else {
                if input.is_empty() {
                    return Ok(None);
                }
                self.header[self.header_len] = input.get_u8();
                self.header_len += 1;
                self.payload = self.parse_header()?;
                continue;
            };
            let len = payload.left.min(input.len() as u64);
            let taken = input.split_to(len as usize);
            payload.left -= len;
            let (opcode, left) = (payload.opcode, payload.left);
            if left == 0 {
                self.payload = None;
            }
            match opcode {
                OPCODE_BINARY if !taken.is_empty() => return Ok(Some(Frame::Data(taken))),
                _ if opcode & CONTROL_BIT != 0 => self.control.extend_from_slice(&taken),
                _ => {}
            }
            match opcode {
                _ if left > 0 => return Ok(None),
                OPCODE_PING => return Ok(Some(Frame::Ping(std::mem::take(&mut self.control)))),
                OPCODE_CLOSE => return Ok(Some(Frame::Close(std::mem::take(&mut self.control)))),
                _ => self.control.clear(),
            }
        }
    }

    /// Checks the header bytes so far; the payload that they announce once they are complete. Of a
    /// data frame its opcode is that of its message.
    fn parse_header(&mut self) -> Result<Option<Payload>, FrameError> {
        let (first, opcode) = (self.header[0], self.header[0] & 0x0f);
        let is_final = first & 0x80 != 0;
        let is_control = opcode & CONTROL_BIT != 0;
        match opcode {
            _ if first & 0x70 != 0 => return Err(FrameError::ReservedBits),
            OPCODE_CONTINUATION if self.message.is_none() => return Err(FrameError::Continuation),
            OPCODE_TEXT | OPCODE_BINARY if self.message.is_some() => {
                return Err(FrameError::Continuation);
            }
            OPCODE_CLOSE | OPCODE_PING | OPCODE_PONG if !is_final => {
                return Err(FrameError::FragmentedControl);
            }
            OPCODE_CONTINUATION | OPCODE_TEXT | OPCODE_BINARY => {}
            OPCODE_CLOSE | OPCODE_PING | OPCODE_PONG => {}
            _ => return Err(FrameError::UnknownOpcode(opcode)),
        }
        if self.header_len == 1 {
            return Ok(None);
        }
        if self.header[1] & 0x80 != 0 {
            return Err(FrameError::Masked);
        }
        let short_len = self.header[1];
        if is_control && usize::from(short_len) > CONTROL_LEN_MAX {
            return Err(FrameError::LongControl);
        }
        let header_len = match short_len {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        if self.header_len < header_len {
            return Ok(None);
        }
        let extended =
            self.header[2..header_len].iter().fold(0, |len: u64, &byte| len << 8 | u64::from(byte));
        let left = match short_len {
            126 if extended < 126 => return Err(FrameError::LongLength),
            127 if extended <= u64::from(u16::MAX) || extended >> 63 != 0 => {
                return Err(FrameError::LongLength);
            }
            126 | 127 => extended,
            short => u64::from(short),
        };
        self.header_len = 0;
        if is_control {
            return Ok(Some(Payload { opcode, left }));
        }
        let message = self.message.unwrap_or(opcode);
        self.message = (!is_final).then_some(message);
        Ok(Some(Payload { opcode: message, left }))
    }
}

fn encode_request(config: &WebSocketClientConfig, key: &str) -> Bytes {
    let target = &config.url[Position::BeforePath..Position::AfterQuery];
    let host = &config.url[Position::BeforeHost..Position::AfterPort];
    let user_agent = config.user_agent.replace(char::is_control, " ");
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {user_agent}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n\r\n"
    )
    .into()
}

/// A control frame of a client, which must be masked (RFC 6455 5.3).
fn encode_masked(opcode: u8, payload: &[u8], rng: &mut fastrand::Rng) -> Bytes {
    assert!(payload.len() <= CONTROL_LEN_MAX, "control frames are short");
    let mask = rng.u32(..).to_be_bytes();
    let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8];
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame.into()
}

/// Without a mask.
const HEADER_LEN_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http::testing::{at_every_split, drain};
    use crate::proto::http::websocket::{
        self, CLOSE_NO_CODE, FrameReader, encode_close, encode_header,
    };
    use crate::proto::http::{ServerConfig, ServerEvent, ServerSession, WallClock};

    fn client() -> (WebSocketClient, Instant) {
        let now = crate::clock::now();
        let config = WebSocketClientConfig {
            url: Url::parse("http://h:81/live/a.live.flv?x=1").unwrap(),
            user_agent: "rillcast/1".to_owned(),
            reply_timeout: Duration::from_secs(10),
        };
        (WebSocketClient::new(now, 7, &config), now)
    }

    fn accepted() -> Vec<u8> {
        let accept = accept_of(&client().0.key);
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        )
        .into()
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let (mut header, header_len) = encode_header(payload.len() as u64);
        header[0] = first;
        [&header[..header_len], payload].concat()
    }

    /// What the pieces lead to: the data as one, other events, and what was sent after the request.
    type Read = (Vec<u8>, Vec<WebSocketEvent>, Vec<u8>, Result<(), HttpError>);

    fn read(pieces: &[Bytes]) -> Read {
        let (mut client, now) = client();
        client.poll_output().expect("the request");
        let mut result = Ok(());
        for piece in pieces {
            result = result.and_then(|()| client.handle_input(now, piece.clone()));
        }
        let (mut data, mut events, mut sent) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(output) = client.poll_output() {
            match output {
                Output::Send(bytes) => sent.extend_from_slice(&bytes),
                Output::Event(WebSocketEvent::Data(bytes)) => data.extend_from_slice(&bytes),
                Output::Event(event) => events.push(event),
            }
        }
        (data, events, sent, result)
    }

    #[test]
    fn messages_are_the_same_at_every_split() {
        let long = vec![7; 300];
        let stream = [
            accepted(),
            frame(0x82, b"one "),
            frame(0x02, b"two "),
            frame(0x89, b"ping"),
            frame(0x80, b"three "),
            frame(0x81, b"a text"),
            frame(0x8a, b"a pong"),
            frame(0x82, b""),
            frame(0x82, &long),
            frame(0x88, &[0x03, 0xe8, b'b', b'y', b'e']),
            frame(0x82, b"after the end"),
        ]
        .concat();
        let expected = [b"one two three ".to_vec(), long].concat();
        at_every_split(&stream, |pieces| {
            let (data, events, sent, result) = read(pieces);
            assert_eq!(result, Ok(()));
            assert_eq!(data, expected);
            assert_eq!(events, [WebSocketEvent::Opened, WebSocketEvent::Closed(1000)]);
            let mut sent = &sent[..];
            let mut frames = FrameReader::new();
            // Our server reads over the pong.
            let close = frames.poll_frame(&mut sent);
            assert_eq!(close, Ok(Some(websocket::Frame::Close(1000))));
            assert!(sent.is_empty());
        });
    }

    #[test]
    fn refusal_is_told() {
        let (_, events, _, result) = read(&[Bytes::from("HTTP/1.1 404 Not Found\r\n\r\n")]);
        let status = WebSocketEvent::Status { code: 404, reason: "Not Found".to_owned() };
        assert_eq!((events, result), (vec![status], Ok(())));
    }

    #[test]
    fn faults_of_the_server_are_errors() {
        let fault = |bytes: &[u8]| {
            let bytes = [accepted(), bytes.to_vec()].concat();
            read(&[bytes.into()]).3.unwrap_err()
        };
        for (bytes, error) in [
            (&[0x82, 0x80][..], FrameError::Masked),
            (&[0xc2], FrameError::ReservedBits),
            (&[0x83], FrameError::UnknownOpcode(3)),
            (&[0x80], FrameError::Continuation),
            (&[0x02, 0, 0x82], FrameError::Continuation),
            (&[0x09], FrameError::FragmentedControl),
            (&[0x89, 126], FrameError::LongControl),
            (&[0x82, 126, 0, 125], FrameError::LongLength),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 255, 255], FrameError::LongLength),
            (&[0x82, 127, 128, 0, 0, 0, 0, 0, 0, 0], FrameError::LongLength),
            (&[0x88, 1, 3], FrameError::CloseCode),
        ] {
            assert_eq!(fault(bytes), HttpError::WebSocket(error), "{bytes:?}");
        }
        let wrong = "HTTP/1.1 101 S\r\nSec-WebSocket-Accept: abc\r\n\r\n";
        let error = HttpError::BadHead("Sec-WebSocket-Accept");
        assert_eq!(read(&[Bytes::from(wrong)]).3, Err(error));
        let endless = vec![b'x'; REPLY_HEAD_LEN_MAX + 1];
        assert_eq!(read(&[endless.into()]).3, Err(HttpError::ReplyHeadTooLarge));
    }

    #[test]
    fn silence_and_an_end_without_a_frame_are_told() {
        let (mut client, now) = client();
        assert_eq!(client.handle_timeout(now + Duration::from_secs(9)), Ok(()));
        let late = client.handle_timeout(now + Duration::from_secs(10));
        assert_eq!(late, Err(HttpError::ReplyTimeout));
        let (mut client, now) = self::client();
        client.handle_input(now, accepted().into()).unwrap();
        assert_eq!(client.poll_timeout(), None);
        client.handle_eof(now);
        let events = drain(|| client.poll_output()).1;
        assert_eq!(events, [WebSocketEvent::Opened, WebSocketEvent::Closed(CLOSE_ABNORMAL)]);
    }

    #[test]
    fn our_server_upgrades_us() {
        let (mut client, now) = client();
        let config = ServerConfig {
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            cross_domains_allowed: true,
            wall_clock: WallClock { at: now, unix_seconds: 0 },
        };
        let mut server = ServerSession::new(now, config);
        let Some(Output::Send(request)) = client.poll_output() else { panic!("no request") };
        server.handle_input(now, request).unwrap();
        let mut answer = Vec::new();
        let mut asked = false;
        while let Some(output) = server.poll_output() {
            match output {
                Output::Event(ServerEvent::Request(_)) => asked = true,
                other => panic!("{other:?}"),
            }
        }
        assert!(asked);
        server.accept_websocket(now).unwrap();
        while let Some(output) = server.poll_output() {
            if let Output::Send(bytes) = output {
                answer.extend_from_slice(&bytes);
            }
        }
        answer.extend_from_slice(&frame(0x82, b"FLV"));
        answer.extend_from_slice(&encode_close(CLOSE_NO_CODE, ""));
        client.handle_input(now, answer.into()).unwrap();
        let (sent, events) = drain(|| client.poll_output());
        let data = WebSocketEvent::Data(Bytes::from_static(b"FLV"));
        let closed = WebSocketEvent::Closed(CLOSE_NO_CODE);
        assert_eq!(events, [WebSocketEvent::Opened, data, closed]);
        let sent: Vec<u8> = sent.chars().map(|byte| byte as u8).collect();
        server.handle_input(now, sent.into()).unwrap();
        let closed = std::iter::from_fn(|| server.poll_output())
            .any(|output| matches!(output, Output::Event(ServerEvent::WebSocketClosed(_))));
        assert!(closed);
    }
}
