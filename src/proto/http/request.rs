//! Requests that we are asked: finding the end of a head and reading it (RFC 9112 2, 3, 5).
//!
//! Stricter than the specification demands: lines end in CRLF only, header lines are not folded,
//! and a body length that could be read in two ways is refused.

use bytes::Bytes;
use percent_encoding::percent_decode_str;

use crate::limits::{
    HEADERS_MAX, REQUEST_BODY_LEN_MAX, REQUEST_HEAD_LEN_MAX, REQUEST_LINE_LEN_MAX,
};
use crate::proto::http::error::HttpError;
use crate::proto::http::headers::{Framing, Headers};
use crate::proto::http::websocket;

/// One request, head and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// Percent-decoded, without control characters. `*` for an `OPTIONS *`.
    pub path: String,
    /// What stands after the first `?`, as sent; empty without one.
    pub query: String,
    pub headers: Headers,
    pub body: Bytes,
    /// Whether the peer leaves the connection open for another request.
    pub keep_alive: bool,
    /// Present when the peer asks to go on as a WebSocket.
    pub websocket_key: Option<WebSocketKey>,
}

/// The methods that we serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
}

/// A valid `Sec-WebSocket-Key`: 16 bytes in Base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketKey(String);

/// A head that is read, and what it says about the body.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) request: Request,
    pub(super) framing: Framing,
    /// The peer waits for `100 Continue` before it sends the body.
    pub(super) continue_expected: bool,
}

/// Finds the end of a head that comes in pieces, looking at each byte once.
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    scanned_len: usize,
    line_start: usize,
    in_headers: bool,
}

impl WebSocketKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Method {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            _ => return None,
        })
    }
}

impl HeadScanner {
    /// The length of the head at the start of `buffer`, once it is complete. `buffer` may only
    /// grow at its end between calls.
    pub(super) fn find_end(&mut self, buffer: &[u8]) -> Result<Option<usize>, HttpError> {
        while let Some(&byte) = buffer.get(self.scanned_len) {
            let at = self.scanned_len;
            if !self.in_headers && at >= REQUEST_LINE_LEN_MAX {
                return Err(HttpError::LineTooLong);
            }
            if at >= REQUEST_HEAD_LEN_MAX {
                return Err(HttpError::HeadTooLarge);
            }
            let after_cr = at > self.line_start && buffer[at - 1] == b'\r';
            self.scanned_len += 1;
            match byte {
                b'\n' if !after_cr => return Err(HttpError::BadHead("LF without CR")),
                _ if after_cr && byte != b'\n' => {
                    return Err(HttpError::BadHead("CR without LF"));
                }
                b'\n' if at == self.line_start + 1 => return Ok(Some(self.scanned_len)),
                b'\n' => {
                    self.line_start = self.scanned_len;
                    self.in_headers = true;
                }
                b'\r' => {}
                // A TLS hello on the plain port ends here at once instead of at its deadline.
                b'\t' if self.in_headers => {}
                _ if byte.is_ascii_control() => {
                    return Err(HttpError::BadHead("control character"));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// Reads a complete head, which ends in an empty line.
pub(super) fn parse_head(head: &[u8]) -> Result<Head, HttpError> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {}
        Ok(_) => return Err(HttpError::BadHead("no request line")),
        Err(error) => return Err(head_error(error, head)),
    }
    let method = parsed.method.and_then(Method::from_name).ok_or(HttpError::MethodUnknown)?;
    let version_minor = parsed.version.unwrap_or(0);
    let headers = Headers::from_parsed(parsed.headers);

    let host_count = headers.find_all("host").count();
    if host_count > 1 || (host_count == 0 && version_minor == 1) {
        return Err(HttpError::BadHead("not exactly one Host"));
    }
    let framing = headers.request_framing(version_minor)?;
    if let Framing::Length(len) = framing
        && len > REQUEST_BODY_LEN_MAX as u64
    {
        return Err(HttpError::BodyTooLarge);
    }
    let continue_expected = match headers.find("expect") {
        Some(value) if value.eq_ignore_ascii_case("100-continue") => version_minor == 1,
        Some(_) if version_minor == 1 => return Err(HttpError::ExpectationUnknown),
        _ => false,
    };
    let (path, query) = parse_target(parsed.path.unwrap_or_default(), method)?;
    let keep_alive = !headers.has_token("connection", "close")
        && (version_minor == 1 || headers.has_token("connection", "keep-alive"));
    let websocket_key = match version_minor {
        1 if method == Method::Get => parse_upgrade(&headers)?,
        _ => None,
    };
    let body = Bytes::new();
    let request = Request { method, path, query, headers, body, keep_alive, websocket_key };
    Ok(Head { request, framing, continue_expected })
}

fn head_error(error: httparse::Error, head: &[u8]) -> HttpError {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => HttpError::HeadTooLarge,
        Error::Version if has_foreign_version(head) => HttpError::VersionUnsupported,
        Error::Version => HttpError::BadHead("version"),
        Error::HeaderName => HttpError::BadHead("header name"),
        Error::HeaderValue => HttpError::BadHead("header value"),
        Error::Token => HttpError::BadHead("request line"),
        _ => HttpError::BadHead("line end"),
    }
}

/// Whether the request line has three words, the last a well-formed `HTTP/digit.digit`.
fn has_foreign_version(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ').skip(2);
    matches!((words.next(), words.next()), (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None)
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Path and query of a request target in origin, absolute or asterisk form (RFC 9112 3.2).
fn parse_target(target: &str, method: Method) -> Result<(String, String), HttpError> {
    let target = target.split('#').next().unwrap_or_default();
    if target == "*" && method == Method::Options {
        return Ok((target.to_owned(), String::new()));
    }
    let local = match target.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            let path_start = rest.find(['/', '?']).unwrap_or(rest.len());
            &rest[path_start..]
        }
        _ if target.starts_with('/') => target,
        _ => return Err(HttpError::BadHead("request target")),
    };
    let (raw_path, query) = local.split_once('?').unwrap_or((local, ""));
    let raw_path = if raw_path.is_empty() { "/" } else { raw_path };
    let path = percent_decode_str(raw_path)
        .decode_utf8()
        .map_err(|_| HttpError::BadHead("path is not UTF-8"))?;
    if path.chars().any(char::is_control) {
        return Err(HttpError::BadHead("control character in path"));
    }
    Ok((path.into_owned(), query.to_owned()))
}

/// The key of a WebSocket handshake (RFC 6455 4.2.1); `None` for any other request.
fn parse_upgrade(headers: &Headers) -> Result<Option<WebSocketKey>, HttpError> {
    if !headers.has_token("upgrade", "websocket") || !headers.has_token("connection", "upgrade") {
        return Ok(None);
    }
    if headers.find("sec-websocket-version") != Some("13") {
        return Err(HttpError::WebSocketVersion);
    }
    let mut keys = headers.find_all("sec-websocket-key");
    match (keys.next(), keys.next()) {
        (Some(key), None) if websocket::is_key(key) => Ok(Some(WebSocketKey(key.to_owned()))),
        _ => Err(HttpError::BadHead("WebSocket key")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http::testing::at_every_split;

    /// What the session does: collect, scan, parse.
    fn read(pieces: &[Bytes]) -> Result<Option<(Head, usize)>, HttpError> {
        let (mut scanner, mut buffer) = (HeadScanner::default(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            if let Some(len) = scanner.find_end(&buffer)? {
                let total_len: usize = pieces.iter().map(Bytes::len).sum();
                return Ok(Some((parse_head(&buffer[..len])?, total_len - len)));
            }
        }
        Ok(None)
    }

    fn read_one(head: &str) -> Result<Request, HttpError> {
        read(&[Bytes::copy_from_slice(head.as_bytes())])
            .map(|found| found.expect("a complete head").0.request)
    }

    #[test]
    fn head_is_read_at_every_split() {
        let input = "POST /index/api/%C3%A9?a=%20b&c HTTP/1.1\r\nHost: h\r\n\
                     Content-Length: 3\r\nExpect: 100-Continue\r\n\r\nabc";
        at_every_split(input.as_bytes(), |pieces| {
            let (head, left_over) = read(pieces).unwrap().expect("complete");
            assert_eq!(left_over, 3);
            assert_eq!(head.framing, Framing::Length(3));
            assert!(head.continue_expected);
            assert_eq!(head.request.method, Method::Post);
            assert_eq!(head.request.path, "/index/api/é");
            assert_eq!(head.request.query, "a=%20b&c");
            assert!(head.request.keep_alive);
        });
    }

    #[test]
    fn targets_are_read() {
        let table = [
            ("/", "/", ""),
            ("/a/b?x=1?y", "/a/b", "x=1?y"),
            ("/a%2fb?", "/a/b", ""),
            ("http://h:80/a?b", "/a", "b"),
            ("http://h?b", "/", "b"),
            ("/a?u=http://x/y", "/a", "u=http://x/y"),
            ("/a#b", "/a", ""),
        ];
        for (target, path, query) in table {
            let request = read_one(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
            assert_eq!((&*request.path, &*request.query), (path, query), "{target}");
        }
        assert_eq!(read_one("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().path, "*");
    }

    #[test]
    fn connection_header_decides_on_keep_alive() {
        let table = [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: x, CLOSE\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ];
        for (version, line, keep_alive) in table {
            let request = read_one(&format!("GET / HTTP/{version}\r\nHost: h\r\n{line}\r\n"));
            assert_eq!(request.unwrap().keep_alive, keep_alive, "{version} {line}");
        }
    }

    #[test]
    fn bad_heads_are_refused_with_their_status() {
        let table = [
            // Request smuggling (RFC 9112 11.2).
            (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked"),
            (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3"),
            (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3"),
            (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3"),
            (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3"),
            (400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length:"),
            (400, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked"),
            (
                400,
                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: a\r\nTransfer-Encoding: chunked",
            ),
            (400, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked"),
            (400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked"),
            (501, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked"),
            (400, "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n folded"),
            (400, "GET / HTTP/1.1\r\n Host: h"),
            (400, "GET / HTTP/1.1\nHost: h\n"),
            (400, "GET / HTTP/1.1\r\nHost: h\nX: y"),
            (400, "GET / HTTP/1.1\r\nHost: h\rX: y"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b"),
            (400, "GET / HTTP/1.1"),
            // Request lines.
            (400, "GET  / HTTP/1.1\r\nHost: h"),
            (400, "GET /a b HTTP/1.1\r\nHost: h"),
            (400, "GET a HTTP/1.1\r\nHost: h"),
            (400, "GET * HTTP/1.1\r\nHost: h"),
            (400, "GET /%00 HTTP/1.1\r\nHost: h"),
            (400, "GET /%ff HTTP/1.1\r\nHost: h"),
            (400, "GET /\r\nHost: h"),
            (400, "GET / http/1.1\r\nHost: h"),
            (400, "G(T / HTTP/1.1\r\nHost: h"),
            (400, "\x16\x03\x01\x02\x00\x01"),
            (501, "PATCH / HTTP/1.1\r\nHost: h"),
            (501, "get / HTTP/1.1\r\nHost: h"),
            (501, "CONNECT h:1 HTTP/1.1\r\nHost: h"),
            (505, "GET / HTTP/2.0\r\nHost: h"),
            (505, "GET / HTTP/1.2\r\nHost: h"),
            // Bodies and upgrades.
            (413, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 40961"),
            (413, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999"),
            (417, "POST / HTTP/1.1\r\nHost: h\r\nExpect: cake\r\nContent-Length: 1"),
            (426, "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade"),
            (
                400,
                "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short",
            ),
        ];
        for (status, head) in table {
            let input = format!("{head}\r\n\r\n");
            at_every_split(input.as_bytes(), |pieces| {
                let error = read(pieces).expect_err(head);
                assert_eq!(error.status(), Some(status), "{head:?}: {error}");
            });
        }
    }

    #[test]
    fn longest_head_is_read_and_one_byte_more_is_not() {
        let head = |fill: usize| {
            let half = "x".repeat(REQUEST_LINE_LEN_MAX - 100);
            let rest = "y".repeat(fill);
            format!("GET /{half} HTTP/1.1\r\nHost: h\r\nX: {rest}\r\n\r\n")
        };
        let fill = REQUEST_HEAD_LEN_MAX - head(0).len();
        assert!(read_one(&head(fill)).is_ok());
        assert_eq!(read_one(&head(fill + 1)), Err(HttpError::HeadTooLarge));
        let line = format!("GET /{}", "x".repeat(REQUEST_LINE_LEN_MAX));
        assert_eq!(read_one(&line), Err(HttpError::LineTooLong));
    }

    #[test]
    fn headers_beyond_the_limit_are_refused() {
        let head = |count: usize| {
            let fields: String = (1..count).map(|index| format!("X{index}: y\r\n")).collect();
            format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
        };
        assert_eq!(read_one(&head(HEADERS_MAX)).unwrap().headers.iter().count(), HEADERS_MAX);
        assert_eq!(read_one(&head(HEADERS_MAX + 1)), Err(HttpError::HeadTooLarge));
    }
}
