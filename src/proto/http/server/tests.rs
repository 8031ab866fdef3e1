//! The server session on its own: requests, answers, streams, deadlines.

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
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx", "400 Bad Request"),
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
    let head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
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
    assert!(!peer.session.begin_pause(peer.now));
    peer.respond("{}").unwrap();
    assert_eq!(peer.pass(29), Ok(()));
    assert!(peer.session.begin_pause(peer.now), "the answer is long");
    assert_eq!(peer.pass(29), Ok(()));
    assert_eq!(peer.pass(1), Err(HttpError::IdleTimeout));
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
