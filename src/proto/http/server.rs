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

    /// The last answer is on its way, or has all been sent: the time for the next request begins now.
    /// `false` where none is waited for, or it has begun.
    pub fn begin_pause(&mut self, now: Instant) -> bool {
        let is_pause = matches!(self.state, State::Reading { has_begun: false });
        if is_pause {
            self.deadline = Some(now + self.config.idle_timeout);
        }
        is_pause
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
mod tests;
