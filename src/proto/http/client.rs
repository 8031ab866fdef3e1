//! The client's side of a pull over HTTP: one GET, one reply, its body as it comes.
//!
//! The connection is used once. Left out: TLS, content codings, cookies. Following a redirect is
//! the driver's: it counts them and begins a new session.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::limits::{HEADERS_MAX, REPLY_HEAD_LEN_MAX};
use crate::proto::Output;
use crate::proto::http::chunked::{ChunkedDecoder, Step};
use crate::proto::http::error::HttpError;
use crate::proto::http::headers::{Framing, Headers};

/// One request to an origin.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    state: State,
    output: VecDeque<Output<ClientEvent>>,
    deadline: Option<Instant>,
}

/// What to ask for and how long to wait.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// An `http` URL. Its user and password, if any, are sent as Basic credentials.
    pub url: Url,
    pub user_agent: String,
    /// From the request to the end of the reply's head.
    pub reply_timeout: Duration,
    /// Between two pieces of the body.
    pub body_timeout: Duration,
}

/// What the driver must act on. After a redirect, a status or the body's end the connection is
/// done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The origin sends us elsewhere: an absolute URL of any scheme.
    Redirect(String),
    /// The reply has no body for us.
    Status {
        code: u16,
        reason: String,
    },
    BodyBegins {
        content_type: Option<String>,
    },
    /// The next bytes of the body; never empty.
    Body(Bytes),
    BodyEnds,
}

#[derive(Debug)]
enum State {
    /// `scanned_len` bytes of `head` do not end it; `interim_len` bytes of interim replies came
    /// before.
    Head {
        head: BytesMut,
        scanned_len: usize,
        interim_len: usize,
    },
    Body(Body),
    Done,
}

#[derive(Debug)]
enum Body {
    Length { left: u64 },
    Chunked(ChunkedDecoder),
    UntilClose,
}

impl ClientSession {
    /// Begins with the request in the output.
    pub fn new(now: Instant, config: ClientConfig) -> Self {
        let output = VecDeque::from([Output::Send(encode_request(&config))]);
        let deadline = Some(now + config.reply_timeout);
        let state = State::Head { head: BytesMut::new(), scanned_len: 0, interim_len: 0 };
        Self { config, state, output, deadline }
    }

    /// Takes received bytes. Pieces of the body in the output are views of them.
    ///
    /// # Errors
    /// A fault of the origin.
    pub fn handle_input(&mut self, now: Instant, input: Bytes) -> Result<(), HttpError> {
        let read = match &mut self.state {
            State::Head { head, .. } => {
                head.extend_from_slice(&input);
                self.read_head(now)
            }
            State::Body(_) => self.read_body(now, input),
            State::Done => Ok(()),
        };
        read.inspect_err(|_| self.end())
    }

    /// The origin sends no more.
    ///
    /// # Errors
    /// [`HttpError::Truncated`] where the reply is not complete.
    pub fn handle_eof(&mut self, _now: Instant) -> Result<(), HttpError> {
        let was_complete = match self.state {
            State::Done => return Ok(()),
            State::Body(Body::UntilClose) => true,
            State::Head { .. } | State::Body(_) => false,
        };
        self.end();
        if !was_complete {
            return Err(HttpError::Truncated);
        }
        self.output.push_back(Output::Event(ClientEvent::BodyEnds));
        Ok(())
    }

    /// Acts on a passed deadline.
    ///
    /// # Errors
    /// [`HttpError::ReplyTimeout`] before the body, [`HttpError::BodyTimeout`] in it.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), HttpError> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        let error = match self.state {
            State::Body(_) => HttpError::BodyTimeout,
            State::Head { .. } | State::Done => HttpError::ReplyTimeout,
        };
        self.end();
        Err(error)
    }

    pub fn poll_output(&mut self) -> Option<Output<ClientEvent>> {
        self.output.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn read_head(&mut self, now: Instant) -> Result<(), HttpError> {
        let State::Head { head, scanned_len, interim_len } = &mut self.state else {
            return Ok(());
        };
        loop {
            let Some(head_len) = find_end(head, scanned_len) else {
                return match head.len() + *interim_len > REPLY_HEAD_LEN_MAX {
                    true => Err(HttpError::ReplyHeadTooLarge),
                    false => Ok(()),
                };
            };
            if head_len + *interim_len > REPLY_HEAD_LEN_MAX {
                return Err(HttpError::ReplyHeadTooLarge);
            }
            let reply = parse_head(&head.split_to(head_len))?;
            // Interim replies come before the real one; 101 is none of them.
            if (100..200).contains(&reply.code) && reply.code != 101 {
                *interim_len += head_len;
                *scanned_len = 0;
                continue;
            }
            let rest = std::mem::take(head).freeze();
            return self.begin(now, reply, rest);
        }
    }

    fn begin(&mut self, now: Instant, reply: Reply, rest: Bytes) -> Result<(), HttpError> {
        let Reply { code, reason, headers } = reply;
        let location = headers.find("location");
        let event = match (code, location) {
            (200 | 206, _) => {
                let content_type = headers.find("content-type").map(str::to_owned);
                ClientEvent::BodyBegins { content_type }
            }
            (301 | 302 | 303 | 307 | 308, Some(location)) => {
                // What the target is told of our login is decided by who goes there.
                let mut base = self.config.url.clone();
                let _ = base.set_username("");
                let _ = base.set_password(None);
                let target = base.join(location);
                ClientEvent::Redirect(target.map_err(|_| HttpError::BadHead("location"))?.into())
            }
            _ => ClientEvent::Status { code, reason },
        };
        if !matches!(event, ClientEvent::BodyBegins { .. }) {
            self.output.push_back(Output::Event(event));
            self.end();
            return Ok(());
        }
        let body = match headers.reply_framing()? {
            Framing::Length(left) => Body::Length { left },
            Framing::Chunked => Body::Chunked(ChunkedDecoder::new()),
            Framing::UntilClose => Body::UntilClose,
        };
        self.output.push_back(Output::Event(event));
        self.state = State::Body(body);
        self.deadline = Some(now + self.config.body_timeout);
        self.read_body(now, rest)
    }

    fn read_body(&mut self, now: Instant, mut input: Bytes) -> Result<(), HttpError> {
        if !input.is_empty() {
            self.deadline = Some(now + self.config.body_timeout);
        }
        let State::Body(body) = &mut self.state else { return Ok(()) };
        let has_ended = match body {
            Body::UntilClose => {
                push_body(&mut self.output, input);
                false
            }
            Body::Length { left } => {
                let len = (*left).min(input.len() as u64);
                *left -= len;
                push_body(&mut self.output, input.split_to(len as usize));
                *left == 0
            }
            Body::Chunked(decoder) => loop {
                let (framing_len, step) = decoder.decode(&input)?;
                input.advance(framing_len);
                match step {
                    Step::Data(len) => push_body(&mut self.output, input.split_to(len)),
                    Step::End => break true,
                    Step::Incomplete => break false,
                }
            },
        };
        if has_ended {
            self.output.push_back(Output::Event(ClientEvent::BodyEnds));
            self.end();
        }
        Ok(())
    }

    fn end(&mut self) {
        self.state = State::Done;
        self.deadline = None;
    }
}

/// The head of a reply.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) headers: Headers,
}

fn push_body(output: &mut VecDeque<Output<ClientEvent>>, bytes: Bytes) {
    if !bytes.is_empty() {
        output.push_back(Output::Event(ClientEvent::Body(bytes)));
    }
}

/// The length of the head at the start of `buffer`, once its empty line has come. Old streaming
/// servers end lines in a bare LF; nothing stands behind us that could read it otherwise.
pub(super) fn find_end(buffer: &[u8], scanned_len: &mut usize) -> Option<usize> {
    while *scanned_len < buffer.len() {
        *scanned_len += 1;
        let seen = &buffer[..*scanned_len];
        if seen.ends_with(b"\n\r\n") || seen.ends_with(b"\n\n") {
            return Some(*scanned_len);
        }
    }
    None
}

pub(super) fn parse_head(head: &[u8]) -> Result<Reply, HttpError> {
    let line_len = head.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let (line, fields) = head.split_at(line_len);
    let line = std::str::from_utf8(line).map_err(|_| HttpError::BadHead("status line"))?;
    let (version, status) = line.trim_end().split_once(' ').unwrap_or((line, ""));
    // SHOUTcast and Icecast 1 name themselves where the version stands.
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0" | "ICY") {
        return Err(HttpError::BadHead("status line"));
    }
    let (code, reason) = status.split_once(' ').unwrap_or((status, ""));
    if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HttpError::BadHead("status code"));
    }
    let code = code.parse().map_err(|_| HttpError::BadHead("status code"))?;

    let mut parsed = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let headers = match httparse::parse_headers(fields, &mut parsed) {
        Ok(httparse::Status::Complete((_, parsed))) => Headers::from_parsed(parsed),
        Ok(httparse::Status::Partial) => return Err(HttpError::BadHead("header")),
        Err(httparse::Error::TooManyHeaders) => return Err(HttpError::ReplyHeadTooLarge),
        Err(_) => return Err(HttpError::BadHead("header")),
    };
    Ok(Reply { code, reason: reason.to_owned(), headers })
}

fn encode_request(config: &ClientConfig) -> Bytes {
    let url = &config.url;
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    // Without the port where it is 80, with brackets around an IPv6 address.
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let user_agent = config.user_agent.replace(char::is_control, " ");
    let mut head = format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {user_agent}\r\n\
         Accept: */*\r\nConnection: close\r\n"
    );
    if !url.username().is_empty() || url.password().is_some() {
        let user = percent_decode_str(url.username());
        let password = percent_decode_str(url.password().unwrap_or_default());
        let credentials: Vec<u8> = user.chain(b":".iter().copied()).chain(password).collect();
        head += &format!("Authorization: Basic {}\r\n", STANDARD.encode(credentials));
    }
    head += "\r\n";
    head.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http::testing::{at_every_split, drain};

    fn session(url: &str) -> (ClientSession, Instant) {
        let now = crate::clock::now();
        let config = ClientConfig {
            url: Url::parse(url).unwrap(),
            user_agent: "rillcast/1".to_owned(),
            reply_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(5),
        };
        (ClientSession::new(now, config), now)
    }

    /// What a reply leads to: the events, with the body as one piece, and how it ended.
    fn read(pieces: &[Bytes]) -> (Vec<ClientEvent>, Result<(), HttpError>) {
        let (mut session, now) = session("http://h/live/a.flv?x=1");
        let mut result = Ok(());
        for piece in pieces {
            result = result.and_then(|()| session.handle_input(now, piece.clone()));
        }
        result = result.and_then(|()| session.handle_eof(now));
        let mut events: Vec<ClientEvent> = Vec::new();
        for event in drain(|| session.poll_output()).1 {
            match (events.last_mut(), event) {
                (Some(ClientEvent::Body(body)), ClientEvent::Body(more)) => {
                    assert!(!more.is_empty());
                    *body = [&body[..], &more].concat().into();
                }
                (_, event) => events.push(event),
            }
        }
        (events, result)
    }

    fn body_events(content_type: Option<&str>, body: &'static str) -> Vec<ClientEvent> {
        vec![
            ClientEvent::BodyBegins { content_type: content_type.map(str::to_owned) },
            ClientEvent::Body(Bytes::from_static(body.as_bytes())),
            ClientEvent::BodyEnds,
        ]
    }

    #[test]
    fn requests_name_the_host_as_the_url_does() {
        let table = [
            ("http://h/live/a.flv?x=1&y#z", "/live/a.flv?x=1&y", "h", ""),
            ("http://h:80", "/", "h", ""),
            ("http://h:8080/?", "/?", "h:8080", ""),
            ("http://[::1]:8080/a b", "/a%20b", "[::1]:8080", ""),
            ("http://u%40:p@h/", "/", "h", "Authorization: Basic dUA6cA==\r\n"),
        ];
        for (url, target, host, authorization) in table {
            let (mut session, _) = session(url);
            let request = format!(
                "GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: rillcast/1\r\n\
                 Accept: */*\r\nConnection: close\r\n{authorization}\r\n"
            );
            assert_eq!(drain(|| session.poll_output()), (request, vec![]), "{url}");
        }
    }

    #[test]
    fn bodies_of_every_framing_come_at_every_split() {
        let flv = Some("video/x-flv");
        let table: [(&str, Option<&str>); 7] = [
            (
                "HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\nContent-Length: 5\r\n\r\nhello+",
                flv,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n\r\nhello", flv),
            ("HTTP/1.1 200\r\nTransfer-Encoding: Identity\r\n\r\nhello", None),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\nmore",
                None,
            ),
            ("HTTP/1.0 206 Partial Content\r\ncontent-length: 5\r\n\r\nhello", None),
            ("ICY 200 OK\nicy-name: x\ncontent-type:video/x-flv\n\nhello", flv),
            ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello", None),
        ];
        for (input, content_type) in table {
            at_every_split(input.as_bytes(), |pieces| {
                assert_eq!(read(pieces), (body_events(content_type, "hello"), Ok(())), "{input}");
            });
        }
    }

    #[test]
    fn empty_body_ends() {
        let (events, result) = read(&["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into()]);
        assert_eq!(result, Ok(()));
        assert_eq!(events, [ClientEvent::BodyBegins { content_type: None }, ClientEvent::BodyEnds]);
    }

    #[test]
    fn body_is_a_view_of_the_input() {
        let (mut session, now) = session("http://h/");
        session.handle_input(now, Bytes::from_static(b"HTTP/1.1 200 OK\r\n\r\n")).unwrap();
        let input = Bytes::from(vec![7; 100]);
        session.handle_input(now, input.clone()).unwrap();
        let (_, mut events) = drain(|| session.poll_output());
        let Some(ClientEvent::Body(body)) = events.pop() else { panic!("{events:?}") };
        assert_eq!(body.as_ptr(), input.as_ptr());
    }

    #[test]
    fn redirects_are_resolved_against_the_request() {
        let table = [
            ("http://o:81/b?c", "http://o:81/b?c"),
            ("//o/b", "http://o/b"),
            ("/b", "http://h/b"),
            ("b?c", "http://h/live/b?c"),
            ("?c", "http://h/live/a.flv?c"),
            ("https://o/", "https://o/"),
        ];
        for (location, target) in table {
            for code in [301, 302, 303, 307, 308] {
                let input = format!("HTTP/1.1 {code} Moved\r\nLocation: {location}\r\n\r\nbody");
                at_every_split(input.as_bytes(), |pieces| {
                    let redirect = ClientEvent::Redirect(target.to_owned());
                    assert_eq!(read(pieces), (vec![redirect], Ok(())));
                });
            }
        }
    }

    #[test]
    fn other_statuses_are_told() {
        let table = [
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone", 404, "Not Found"),
            ("HTTP/1.1 302 Found\r\n\r\n", 302, "Found"),
            ("HTTP/1.1 304 \r\nLocation: /x\r\n\r\n", 304, ""),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", 101, "Switching Protocols"),
            ("HTTP/1.0 503\r\n\r\n", 503, ""),
        ];
        for (input, code, reason) in table {
            at_every_split(input.as_bytes(), |pieces| {
                let status = ClientEvent::Status { code, reason: reason.to_owned() };
                assert_eq!(read(pieces), (vec![status], Ok(())), "{input}");
            });
        }
    }

    #[test]
    fn malformed_replies_are_refused_at_every_split() {
        let table = [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 +20 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        ];
        for input in table {
            at_every_split(input.as_bytes(), |pieces| {
                let (events, result) = read(pieces);
                assert!(matches!(result, Err(HttpError::BadHead(_))), "{input}: {result:?}");
                assert_eq!(events, []);
            });
        }
        let coding = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n";
        assert_eq!(read(&[coding.into()]).1, Err(HttpError::TransferCodingUnknown));
    }

    #[test]
    fn early_end_is_told_from_the_end_of_the_body() {
        let table = [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        ];
        for input in table {
            assert_eq!(read(&[input.into()]).1, Err(HttpError::Truncated), "{input}");
        }
    }

    #[test]
    fn heads_are_bounded_with_their_interim_replies() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(REPLY_HEAD_LEN_MAX));
        assert_eq!(read(&[long.into()]).1, Err(HttpError::ReplyHeadTooLarge));
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(REPLY_HEAD_LEN_MAX / 25 + 1);
        assert_eq!(read(&[interim.into()]).1, Err(HttpError::ReplyHeadTooLarge));
        let fields = "X: y\r\n".repeat(HEADERS_MAX + 1);
        let many = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        assert_eq!(read(&[many.into()]).1, Err(HttpError::ReplyHeadTooLarge));
    }

    #[test]
    fn silence_before_and_in_the_body_is_told_apart() {
        let second = Duration::from_secs(1);
        let (mut session, now) = session("http://h/");
        session.handle_input(now + 9 * second, "HTTP/1.1 200 OK\r\n".into()).unwrap();
        assert_eq!(session.poll_timeout(), Some(now + 10 * second), "a slow head gains nothing");
        session.handle_timeout(now + 9 * second).unwrap();
        let mut slow = ClientSession::new(now, session.config.clone());
        assert_eq!(slow.handle_timeout(now + 10 * second), Err(HttpError::ReplyTimeout));

        session.handle_input(now + 9 * second, "\r\n".into()).unwrap();
        session.handle_input(now + 12 * second, "x".into()).unwrap();
        assert_eq!(session.poll_timeout(), Some(now + 17 * second));
        assert_eq!(session.handle_timeout(now + 17 * second), Err(HttpError::BodyTimeout));
        assert_eq!(session.poll_timeout(), None);
    }
}
