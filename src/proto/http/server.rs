//! The server's side of an HTTP/1 connection: one request at a time, its answer, and on.
//!
//! ```text
//!          request complete           respond
//!  ┌─► reading ─────────► answering ───────────► reading (kept alive), or closed
//!  │      │                  ├─ begin_stream ────► streaming: raw bytes by the egress
//!  │      └─ fault: closed   └─ accept_websocket ► WebSocket ─ close frame ─► closed
//!  └── what came meanwhile is held, up to one more request
//! ```
//!
//! `OPTIONS` is answered here. After [`ServerEvent::Close`] or an error the driver sends what is
//! left, shuts down its direction and reads on for a moment before it closes: a close with unread
//! input resets the connection, and the peer would lose the last answer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::proto::Output;
use crate::proto::http::error::HttpError;
use crate::proto::http::request::{Method, Request, WebSocketKey};
use crate::proto::http::request_reader::{Progress, RequestReader};
use crate::proto::http::response::{self, Connection, HeadContext, Response};
use crate::proto::http::websocket::{self, Frame, FrameReader};

/// One accepted connection.
#[derive(Debug)]
pub struct ServerSession {
    config: ServerConfig,
    state: State,
    reader: RequestReader,
    output: VecDeque<Output<ServerEvent>>,
    deadline: Option<Instant>,
    /// The peer sends no more, yet may still read its answer.
    input_ended: bool,
}

/// What an operator sets, and the wall clock for `Date`.
#[derive(Debug, Clone, Copy)]
pub struct ServerConfig {
    /// From the first byte of a head to its last, and from there to the end of the body.
    pub header_timeout: Duration,
    /// From an answer to the first byte of the next request.
    pub idle_timeout: Duration,
    /// Whether browsers may use us from pages of other origins.
    pub cross_domains_allowed: bool,
    pub wall_clock: WallClock,
}

/// One moment as both clocks tell it, from which the session reckons on.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    pub at: Instant,
    pub unix_seconds: u64,
}

/// What the driver must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// Answer with exactly one of the commands.
    Request(Request),
    /// The player ended its WebSocket with this code ([`websocket::CLOSE_ABNORMAL`] without a close
    /// frame). Send no more media; `Close` follows.
    WebSocketClosed(u16),
    /// Close the connection once everything is sent.
    Close,
}

/// What follows the head of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum StreamStart {
    /// The body: raw bytes until the driver closes.
    Body,
    /// Nothing, the request was a HEAD; the session goes on to the next request.
    HeadOnly,
}

#[derive(Debug)]
enum State {
    /// `has_begun` tells that the deadline is that of the request, not that of the pause before it.
    Reading {
        has_begun: bool,
    },
    Answering(Exchange),
    Streaming,
    WebSocket(Box<FrameReader>),
    Closed,
}

/// What the answer depends on, kept from the request.
#[derive(Debug)]
struct Exchange {
    is_head: bool,
    keep_alive: bool,
    origin: Option<String>,
    websocket_key: Option<WebSocketKey>,
}

impl ServerSession {
    pub fn new(now: Instant, config: ServerConfig) -> Self {
        Self {
            config,
            state: State::Reading { has_begun: true },
            reader: RequestReader::default(),
            output: VecDeque::new(),
            deadline: Some(now + config.header_timeout),
            input_ended: false,
        }
    }

    /// Takes received bytes.
    ///
    /// # Errors
    /// A fault of the peer. The answer to it, if there is one, is in the output.
    pub fn handle_input(&mut self, now: Instant, input: Bytes) -> Result<(), HttpError> {
        match &mut self.state {
            State::Streaming | State::Closed => Ok(()),
            State::WebSocket(_) => self.read_frames(&input),
            State::Reading { .. } | State::Answering(_) => {
                self.reader.push(&input);
                self.advance(now)
            }
        }
    }

    /// The peer sends no more.
    ///
    /// # Errors
    /// [`HttpError::Truncated`] in the middle of a request.
    pub fn handle_eof(&mut self, _now: Instant) -> Result<(), HttpError> {
        self.input_ended = true;
        match self.state {
            State::Closed | State::Answering(_) => return Ok(()),
            State::Reading { .. } if self.reader.is_between_requests() => {}
            State::Reading { .. } => {
                self.end();
                return Err(HttpError::Truncated);
            }
            State::Streaming => {}
            State::WebSocket(_) => {
                let closed = ServerEvent::WebSocketClosed(websocket::CLOSE_ABNORMAL);
                self.output.push_back(Output::Event(closed));
            }
        }
        self.close();
        Ok(())
    }

    /// Acts on a passed deadline.
    ///
    /// # Errors
    /// [`HttpError::RequestTimeout`] when a request is not complete in time,
    /// [`HttpError::IdleTimeout`] when none has begun.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), HttpError> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        let error = match self.reader.is_between_requests() {
            true => HttpError::IdleTimeout,
            false => HttpError::RequestTimeout,
        };
        Err(self.fail(now, error))
    }

    pub fn poll_output(&mut self) -> Option<Output<ServerEvent>> {
        let output = self.output.pop_front();
        if output.is_none() && matches!(self.state, State::Streaming) {
            // Half a kilobyte that a player's session has no use for any more.
            self.output = VecDeque::new();
        }
        output
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Answers the outstanding request. As every answer, it does nothing on a session that died
    /// meanwhile.
    ///
    /// # Errors
    /// A fault in the next request, if that came already.
    ///
    /// # Panics
    /// As every answer, if no request is outstanding.
    pub fn respond(&mut self, now: Instant, response: Response) -> Result<(), HttpError> {
        let Some(exchange) = self.take_exchange() else { return Ok(()) };
        self.answer(now, &exchange, &response);
        self.go_on(now)
    }

    /// Answers the outstanding request with a short text and closes.
    pub fn refuse(&mut self, now: Instant, status: u16, reason: &str) {
        self.respond(now, Response::text(status, reason.to_owned()).closing())
            .expect("a closed session reads no further request");
    }

    /// Answers the outstanding request with a body that lasts until the driver closes.
    ///
    /// # Errors
    /// As [`Self::respond`], after a HEAD.
    pub fn begin_stream(
        &mut self,
        now: Instant,
        content_type: &str,
        fields: &[(&str, &str)],
    ) -> Result<StreamStart, HttpError> {
        let Some(exchange) = self.take_exchange() else { return Ok(StreamStart::HeadOnly) };
        let connection = match exchange.is_head {
            true => self.connection_after(&exchange),
            false => Connection::Close,
        };
        let context = self.context(now, exchange.origin.as_deref(), connection);
        let head = response::encode_stream_head(context, content_type, fields);
        self.output.push_back(Output::Send(head));
        if exchange.is_head {
            self.await_request(now, connection);
            self.go_on(now)?;
            return Ok(StreamStart::HeadOnly);
        }
        self.reader = RequestReader::default();
        self.state = State::Streaming;
        Ok(StreamStart::Body)
    }

    /// Answers the outstanding request, which has a key, with the switch to WebSocket. No
    /// subprotocol is chosen of those that the player offers.
    ///
    /// From here on a `Send` (pong, close) must go out between two frames of the egress.
    ///
    /// # Errors
    /// A fault in the frames that came already.
    ///
    /// # Panics
    /// If the request has no `websocket_key`.
    pub fn accept_websocket(&mut self, now: Instant) -> Result<(), HttpError> {
        let Some(exchange) = self.take_exchange() else { return Ok(()) };
        let key = exchange.websocket_key.as_ref().expect("only a request with a key is accepted");
        let context = self.context(now, exchange.origin.as_deref(), Connection::Upgrade);
        let response = Response::empty(101)
            .with_field("Upgrade", "websocket")
            .with_field("Sec-WebSocket-Accept", &websocket::accept_of(key.as_str()));
        self.output.push_back(Output::Send(response.encode(context, false)));
        self.state = State::WebSocket(Box::default());
        let held = self.reader.take_held();
        self.read_frames(&held)?;
        if self.input_ended {
            self.handle_eof(now)?;
        }
        Ok(())
    }

    /// Whether the connection has become a WebSocket.
    pub fn is_websocket(&self) -> bool {
        matches!(self.state, State::WebSocket(_))
    }

    /// Ends an accepted WebSocket with a close frame; `Close` follows.
    pub fn close_websocket(&mut self, code: u16, reason: &str) {
        if matches!(self.state, State::WebSocket(_)) {
            self.output.push_back(Output::Send(websocket::encode_close(code, reason)));
            self.close();
        }
    }

    /// Reads what came while the last request was answered.
    fn go_on(&mut self, now: Instant) -> Result<(), HttpError> {
        self.advance(now)?;
        if self.input_ended { self.handle_eof(now) } else { Ok(()) }
    }

    /// Reads requests until one must be answered or more is needed.
    fn advance(&mut self, now: Instant) -> Result<(), HttpError> {
        let read = match self.read_requests(now) {
            Ok(()) if self.reader.is_full() => Err(HttpError::HeldTooMuch),
            other => other,
        };
        read.map_err(|error| self.fail(now, error))
    }

    fn read_requests(&mut self, now: Instant) -> Result<(), HttpError> {
        while let State::Reading { has_begun } = &mut self.state {
            if !*has_begun && !self.reader.is_empty() {
                *has_begun = true;
                self.deadline = Some(now + self.config.header_timeout);
            }
            match self.reader.poll_progress()? {
                Progress::Incomplete => break,
                Progress::Head { is_continue_awaited } => {
                    self.deadline = Some(now + self.config.header_timeout);
                    if is_continue_awaited {
                        self.output.push_back(Output::Send(Bytes::from_static(CONTINUE)));
                    }
                }
                Progress::Request(request) => self.deliver(now, *request),
            }
        }
        Ok(())
    }

    fn deliver(&mut self, now: Instant, request: Request) {
        self.deadline = None;
        let origin = request.headers.find("origin").filter(|_| self.config.cross_domains_allowed);
        let exchange = Exchange {
            is_head: request.method == Method::Head,
            keep_alive: request.keep_alive,
            origin: origin.map(str::to_owned),
            websocket_key: request.websocket_key.clone(),
        };
        if request.method == Method::Options {
            let response = response::preflight(&request.headers, self.config.cross_domains_allowed);
            self.answer(now, &exchange, &response);
        } else {
            self.state = State::Answering(exchange);
            self.output.push_back(Output::Event(ServerEvent::Request(request)));
        }
    }

    fn answer(&mut self, now: Instant, exchange: &Exchange, response: &Response) {
        let connection = match response.closes() {
            true => Connection::Close,
            false => self.connection_after(exchange),
        };
        let context = self.context(now, exchange.origin.as_deref(), connection);
        self.output.push_back(Output::Send(response.encode(context, !exchange.is_head)));
        self.await_request(now, connection);
    }

    /// What the reply says about the connection, and [`Self::await_request`] then does.
    fn connection_after(&self, exchange: &Exchange) -> Connection {
        let can_go_on = !self.input_ended || !self.reader.is_empty();
        match exchange.keep_alive && can_go_on {
            true => Connection::KeepAlive { idle_seconds: self.config.idle_timeout.as_secs() },
            false => Connection::Close,
        }
    }

    fn await_request(&mut self, now: Instant, connection: Connection) {
        if connection == Connection::Close {
            return self.close();
        }
        self.state = State::Reading { has_begun: false };
        self.deadline = Some(now + self.config.idle_timeout);
    }

    fn read_frames(&mut self, mut input: &[u8]) -> Result<(), HttpError> {
        while let State::WebSocket(reader) = &mut self.state {
            match reader.poll_frame(&mut input) {
                Ok(None) => break,
                Ok(Some(Frame::Ping(payload))) => {
                    self.output.push_back(Output::Send(websocket::encode_pong(&payload)));
                }
                Ok(Some(Frame::Close(code))) => {
                    self.output.push_back(Output::Send(websocket::encode_close(code, "")));
                    self.output.push_back(Output::Event(ServerEvent::WebSocketClosed(code)));
                    self.close();
                }
                Err(error) => {
                    let close = websocket::encode_close(error.close_code(), "");
                    self.output.push_back(Output::Send(close));
                    self.end();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// The outstanding request's exchange; `None` on a session that is closed.
    fn take_exchange(&mut self) -> Option<Exchange> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Answering(exchange) => Some(exchange),
            State::Closed => None,
            other => panic!("no request is outstanding: {other:?}"),
        }
    }

    fn context<'a>(
        &self,
        now: Instant,
        origin: Option<&'a str>,
        connection: Connection,
    ) -> HeadContext<'a> {
        let WallClock { at, unix_seconds } = self.config.wall_clock;
        let unix_seconds = unix_seconds + now.saturating_duration_since(at).as_secs();
        HeadContext { unix_seconds, origin, connection }
    }

    /// Ends the session for a fault, with an answer if the fault has one.
    fn fail(&mut self, now: Instant, error: HttpError) -> HttpError {
        if let Some(response) = Response::of_error(error) {
            let context = self.context(now, None, Connection::Close);
            self.output.push_back(Output::Send(response.encode(context, true)));
        }
        self.end();
        error
    }

    fn close(&mut self) {
        self.end();
        self.output.push_back(Output::Event(ServerEvent::Close));
    }

    fn end(&mut self) {
        self.state = State::Closed;
        self.deadline = None;
        self.reader = RequestReader::default();
    }
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REQUEST_HELD_LEN_MAX;
    use crate::proto::http::testing::{at_every_split, drain};
    use crate::proto::http::websocket::FrameError;
    use crate::proto::http::websocket::tests::client_frame;

    const GET: &str = "GET /live/a.live.flv?k=v HTTP/1.1\r\nHost: h\r\n\r\n";
    const UPGRADE: &str = "GET /live/a.live.flv HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: flv\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    struct Peer {
        session: ServerSession,
        now: Instant,
    }

    impl Peer {
        fn new() -> Self {
            let now = crate::clock::now();
            let config = ServerConfig {
                header_timeout: Duration::from_secs(15),
                idle_timeout: Duration::from_secs(30),
                cross_domains_allowed: true,
                wall_clock: WallClock { at: now, unix_seconds: 784_111_777 },
            };
            Self { session: ServerSession::new(now, config), now }
        }

        fn input(&mut self, input: impl AsRef<[u8]>) -> Result<(), HttpError> {
            self.session.handle_input(self.now, Bytes::copy_from_slice(input.as_ref()))
        }

        fn pass(&mut self, seconds: u64) -> Result<(), HttpError> {
            self.now += Duration::from_secs(seconds);
            self.session.handle_timeout(self.now)
        }

        fn respond(&mut self, body: &'static str) -> Result<(), HttpError> {
            self.session.respond(self.now, Response::json(body))
        }

        fn drain(&mut self) -> (String, Vec<ServerEvent>) {
            drain(|| self.session.poll_output())
        }

        fn request(&mut self) -> Request {
            match self.drain().1.pop() {
                Some(ServerEvent::Request(request)) => request,
                other => panic!("no request but {other:?}"),
            }
        }
    }

    #[test]
    fn pipelined_requests_are_given_one_by_one() {
        let mut peer = Peer::new();
        peer.input(format!("{GET}{}{GET}", GET.replace("live", "b"))).unwrap();
        for path in ["/live/a.live.flv", "/b/a.b.flv", "/live/a.live.flv"] {
            let (_, events) = peer.drain();
            let [ServerEvent::Request(request)] = &events[..] else { panic!("{events:?}") };
            assert_eq!((&*request.path, &*request.query), (path, "k=v"));
            peer.respond("{}").unwrap();
        }
        let (sent, events) = peer.drain();
        assert!(sent.starts_with("HTTP/1.1 200 OK\r\n") && sent.ends_with("\r\n\r\n{}"));
        assert!(sent.contains("\r\nConnection: keep-alive\r\nKeep-Alive: timeout=30\r\n"));
        assert_eq!(events, []);
    }

    #[test]
    fn pipelining_beyond_the_limit_ends_the_connection() {
        let mut peer = Peer::new();
        peer.input(GET).unwrap();
        peer.input(vec![b'x'; REQUEST_HELD_LEN_MAX]).unwrap();
        assert_eq!(peer.input("x"), Err(HttpError::HeldTooMuch));
        peer.drain();
        peer.respond("too late").unwrap();
        assert_eq!(peer.drain(), (String::new(), vec![]));
    }

    #[test]
    fn reply_says_close_and_closes() {
        let closing = GET.replace("Host", "Connection: close\r\nHost");
        let old = GET.replace("HTTP/1.1", "HTTP/1.0");
        for head in [closing, old] {
            let mut peer = Peer::new();
            peer.input(head + GET).unwrap();
            peer.drain();
            peer.respond("{}").unwrap();
            let (sent, events) = peer.drain();
            assert!(sent.contains("\r\nConnection: close\r\n"), "{sent}");
            assert_eq!(events, [ServerEvent::Close], "what follows is not read");
        }
        let mut peer = Peer::new();
        peer.input(GET).unwrap();
        peer.drain();
        peer.session.refuse(peer.now, 404, "no such stream");
        let (sent, events) = peer.drain();
        assert!(sent.starts_with("HTTP/1.1 404 Not Found\r\n") && sent.ends_with("no such stream"));
        assert!(sent.contains("\r\nConnection: close\r\n"));
        assert_eq!(events, [ServerEvent::Close]);
    }

    #[test]
    fn fault_is_answered_and_ends_the_session() {
        let table: [(&[u8], &str); 4] = [
            (b"GET / HTTP/1.1\n", "400 Bad Request"),
            (
                b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx",
                "400 Bad Request",
            ),
            (b"GET / HTTP/3.0\r\n\r\n", "505 HTTP Version Not Supported"),
            (b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n", "501 Not Implemented"),
        ];
        for (input, status) in table {
            let mut peer = Peer::new();
            let error = peer.input(input).unwrap_err();
            let (sent, events) = peer.drain();
            assert!(sent.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{error}: {sent}");
            assert!(sent.contains("\r\nConnection: close\r\n"));
            assert_eq!(events, []);
            assert_eq!(peer.input(GET), Ok(()), "a dead session ignores input");
            assert_eq!(peer.drain(), (String::new(), vec![]));
        }
    }

    #[test]
    fn continue_is_sent_only_to_a_peer_that_waits() {
        let head =
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        let mut peer = Peer::new();
        peer.input(head).unwrap();
        assert_eq!(peer.drain(), ("HTTP/1.1 100 Continue\r\n\r\n".to_owned(), vec![]));
        peer.input("ok").unwrap();
        assert_eq!(peer.request().body, "ok");
        let mut peer = Peer::new();
        peer.input(format!("{head}ok")).unwrap();
        assert_eq!(peer.drain().0, "");
    }

    #[test]
    fn slow_head_is_answered_408_and_silence_is_not() {
        let mut peer = Peer::new();
        assert_eq!(peer.pass(14), Ok(()));
        peer.input("GET / HTTP/1.1\r\n").unwrap();
        assert_eq!(peer.pass(1), Err(HttpError::RequestTimeout));
        assert!(peer.drain().0.starts_with("HTTP/1.1 408 "));
        assert_eq!(peer.session.poll_timeout(), None);

        let mut peer = Peer::new();
        assert_eq!(peer.pass(15), Err(HttpError::IdleTimeout));
        assert_eq!(peer.drain(), (String::new(), vec![]));
    }

    #[test]
    fn deadlines_follow_the_state() {
        let mut peer = Peer::new();
        peer.input(GET).unwrap();
        peer.drain();
        assert_eq!(peer.pass(3600), Ok(()), "an answer may take long");
        peer.respond("{}").unwrap();
        assert_eq!(peer.pass(29), Ok(()));
        peer.input("G").unwrap();
        assert_eq!(peer.pass(14), Ok(()), "the head has its own time");
        peer.input("ET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n").unwrap();
        assert_eq!(peer.pass(14), Ok(()), "and so has the body");
        assert_eq!(peer.pass(1), Err(HttpError::RequestTimeout));

        let mut peer = Peer::new();
        peer.input(GET).unwrap();
        peer.respond("{}").unwrap();
        assert_eq!(peer.pass(30), Err(HttpError::IdleTimeout));
    }

    #[test]
    fn stream_head_is_followed_by_nothing_of_the_session() {
        let mut peer = Peer::new();
        peer.input(GET.replace("Host", "Origin: http://o\r\nHost")).unwrap();
        peer.drain();
        let fields = [("Cache-Control", "no-store")];
        let start = peer.session.begin_stream(peer.now, "video/x-flv", &fields);
        assert_eq!(start, Ok(StreamStart::Body));
        let version = env!("CARGO_PKG_VERSION");
        let head = format!(
            "HTTP/1.1 200 OK\r\nServer: rillcast/{version}\r\n\
             Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n\
             Access-Control-Allow-Origin: http://o\r\n\
             Access-Control-Allow-Credentials: true\r\nVary: Origin\r\n\
             Content-Type: video/x-flv\r\nCache-Control: no-store\r\n\r\n"
        );
        assert_eq!(peer.drain(), (head, vec![]));
        assert_eq!(peer.input([0xff; 100]), Ok(()));
        assert_eq!(peer.session.poll_timeout(), None);
        peer.session.handle_eof(peer.now).unwrap();
        assert_eq!(peer.drain(), (String::new(), vec![ServerEvent::Close]));
    }

    #[test]
    fn head_of_a_stream_is_answered_without_a_body() {
        let mut peer = Peer::new();
        peer.input(GET.replace("GET", "HEAD")).unwrap();
        peer.drain();
        let start = peer.session.begin_stream(peer.now, "video/x-flv", &[]);
        assert_eq!(start, Ok(StreamStart::HeadOnly));
        let (sent, _) = peer.drain();
        assert!(sent.contains("\r\nConnection: keep-alive\r\n") && sent.ends_with("\r\n\r\n"));
        peer.input(GET).unwrap();
        assert_eq!(peer.request().method, Method::Get);
    }

    #[test]
    fn options_is_answered_with_what_was_asked() {
        let mut peer = Peer::new();
        peer.input(
            "OPTIONS /x HTTP/1.1\r\nHost: h\r\nOrigin: http://o\r\n\
             Access-Control-Request-Headers: x-a, secret\r\n\r\n",
        )
        .unwrap();
        let (sent, events) = peer.drain();
        assert_eq!(events, []);
        for field in [
            "Allow: GET, POST, PUT, HEAD, OPTIONS, DELETE",
            "Access-Control-Allow-Methods: GET, POST, PUT, HEAD, OPTIONS, DELETE",
            "Access-Control-Allow-Headers: x-a, secret",
            "Access-Control-Allow-Origin: http://o",
            "Access-Control-Allow-Credentials: true",
            "Access-Control-Max-Age: 86400",
            "Content-Length: 0",
        ] {
            assert!(sent.contains(&format!("\r\n{field}\r\n")), "{field} in {sent}");
        }
        peer.session.config.cross_domains_allowed = false;
        peer.input("OPTIONS * HTTP/1.1\r\nHost: h\r\nOrigin: http://o\r\n\r\n").unwrap();
        let (sent, _) = peer.drain();
        assert!(sent.contains("\r\nAllow: GET") && !sent.contains("Access-Control"), "{sent}");
    }

    #[test]
    fn websocket_answers_pings_and_the_close_at_every_split() {
        let input = [
            UPGRADE.as_bytes().to_vec(),
            client_frame(0x89, b"hi"),
            client_frame(0x81, b"text"),
            client_frame(0x88, &1001u16.to_be_bytes()),
            client_frame(0x89, b"late"),
        ]
        .concat();
        at_every_split(&input, |pieces| {
            let mut peer = Peer::new();
            let (mut sent, mut events) = (String::new(), Vec::new());
            for piece in pieces {
                peer.input(piece).unwrap();
                let (mut more_sent, mut more_events) = peer.drain();
                if matches!(more_events.pop(), Some(ServerEvent::Request(_))) {
                    peer.session.accept_websocket(peer.now).unwrap();
                    (more_sent, more_events) = peer.drain();
                }
                sent += &more_sent;
                events.extend(more_events);
            }
            let (head, frames) = sent.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
            assert!(head.contains("\r\nConnection: Upgrade\r\n"));
            assert!(head.contains("\r\nUpgrade: websocket\r\n"));
            assert!(head.ends_with("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
            assert!(!head.contains("Protocol:") && !head.contains("Content-Length"));
            assert_eq!(frames, "\u{8a}\u{2}hi\u{88}\u{2}\u{3}\u{e9}");
        });
    }

    fn websocket() -> Peer {
        let mut peer = Peer::new();
        peer.input(UPGRADE).unwrap();
        assert!(peer.request().websocket_key.is_some());
        peer.session.accept_websocket(peer.now).unwrap();
        peer.drain();
        peer
    }

    #[test]
    fn end_of_a_websocket_is_told_once() {
        let mut peer = websocket();
        peer.input(client_frame(0x88, b"")).unwrap();
        let closed = |code| vec![ServerEvent::WebSocketClosed(code), ServerEvent::Close];
        assert_eq!(peer.drain(), ("\u{88}\0".to_owned(), closed(websocket::CLOSE_NO_CODE)));
        peer.session.close_websocket(1000, "");
        peer.session.handle_eof(peer.now).unwrap();
        assert_eq!(peer.drain(), (String::new(), vec![]));

        let mut peer = websocket();
        peer.session.handle_eof(peer.now).unwrap();
        assert_eq!(peer.drain(), (String::new(), closed(websocket::CLOSE_ABNORMAL)));

        let mut peer = websocket();
        peer.session.close_websocket(1001, "gone");
        let close = "\u{88}\u{6}\u{3}\u{e9}gone".to_owned();
        assert_eq!(peer.drain(), (close, vec![ServerEvent::Close]));
    }

    #[test]
    fn forbidden_frame_is_answered_with_its_code() {
        let mut peer = websocket();
        assert_eq!(peer.input([0x81, 0]), Err(FrameError::Unmasked.into()));
        assert_eq!(peer.drain(), ("\u{88}\u{2}\u{3}\u{ea}".to_owned(), vec![]));
    }

    #[test]
    fn end_of_input_counts_by_state() {
        let mut peer = Peer::new();
        peer.session.handle_eof(peer.now).unwrap();
        assert_eq!(peer.drain().1, [ServerEvent::Close]);

        let mut peer = Peer::new();
        peer.input("GET").unwrap();
        assert_eq!(peer.session.handle_eof(peer.now), Err(HttpError::Truncated));

        // A peer that has shut down its sending side still gets all its answers.
        let mut peer = Peer::new();
        peer.input(format!("{GET}{GET}")).unwrap();
        peer.session.handle_eof(peer.now).unwrap();
        peer.request();
        peer.respond("1").unwrap();
        let (sent, events) = peer.drain();
        assert!(sent.contains("\r\nConnection: keep-alive\r\n"));
        assert!(matches!(events[..], [ServerEvent::Request(_)]));
        peer.respond("2").unwrap();
        let (sent, events) = peer.drain();
        assert!(sent.contains("\r\nConnection: close\r\n"));
        assert_eq!(events, [ServerEvent::Close]);
    }
}
