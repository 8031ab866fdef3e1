//! Replies that we give: head, CORS fields (WHATWG Fetch 3.2) and the date (RFC 9110 5.6.7).

use std::fmt::Write as _;

use bytes::Bytes;

use crate::proto::http::error::HttpError;
use crate::proto::http::headers::Headers;

/// A reply with a fixed body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: u16,
    content_type: &'static str,
    fields: Vec<(&'static str, String)>,
    body: Bytes,
    closes: bool,
}

/// What the session adds to each head.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadContext<'a> {
    pub(super) unix_seconds: u64,
    /// The `Origin` of the request, if cross-domain use is allowed.
    pub(super) origin: Option<&'a str>,
    pub(super) connection: Connection,
}

/// What becomes of the connection after the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    KeepAlive {
        idle_seconds: u64,
    },
    Close,
    /// Goes on as a WebSocket.
    Upgrade,
}

impl Response {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, fields: Vec::new(), body: body.into(), closes: false }
    }

    /// A reply of the API, as ZLMediaKit types it.
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self::new(200, "application/json; charset=utf-8", body)
    }

    pub fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    /// A reply without a body.
    pub fn empty(status: u16) -> Self {
        Self::new(status, "", Bytes::new())
    }

    /// Adds a field. Control characters in the value become spaces, so that no value can end the
    /// line.
    #[must_use]
    pub fn with_field(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.replace(char::is_control, " ")));
        self
    }

    /// Closes the connection after this reply.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    pub(super) fn closes(&self) -> bool {
        self.closes
    }

    /// The answer to a request that cannot be served on.
    pub(super) fn of_error(error: HttpError) -> Option<Self> {
        let response = Self::text(error.status()?, format!("{error}\n")).closing();
        Some(match error {
            HttpError::WebSocketVersion => response.with_field("Sec-WebSocket-Version", "13"),
            _ => response,
        })
    }

    /// The reply as bytes. `with_body` is false for the answer to a HEAD.
    pub(super) fn encode(&self, context: HeadContext<'_>, with_body: bool) -> Bytes {
        let mut head = begin_head(self.status, context);
        if !self.content_type.is_empty() {
            push_field(&mut head, "Content-Type", self.content_type);
        }
        // Neither may carry a length (RFC 9110 8.6).
        if self.status >= 200 && self.status != 204 {
            push_field(&mut head, "Content-Length", &self.body.len().to_string());
        }
        for (name, value) in &self.fields {
            push_field(&mut head, name, value);
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if with_body {
            bytes.extend_from_slice(&self.body);
        }
        bytes.into()
    }
}

/// The head of a reply whose body lasts until we close.
pub(super) fn encode_stream_head(
    context: HeadContext<'_>,
    content_type: &str,
    fields: &[(&str, &str)],
) -> Bytes {
    let mut head = begin_head(200, context);
    push_field(&mut head, "Content-Type", content_type);
    for (name, value) in fields {
        push_field(&mut head, name, &value.replace(char::is_control, " "));
    }
    head.push_str("\r\n");
    head.into()
}

/// The answer to `OPTIONS` (CORS preflight): what is asked for is allowed.
pub(super) fn preflight(request: &Headers, cross_domains_allowed: bool) -> Response {
    let response = Response::empty(200).with_field("Allow", METHODS);
    if !cross_domains_allowed || request.find("origin").is_none() {
        return response;
    }
    let headers = request.find("access-control-request-headers").unwrap_or("*");
    response
        .with_field("Access-Control-Allow-Methods", METHODS)
        .with_field("Access-Control-Allow-Headers", headers)
        .with_field("Access-Control-Max-Age", "86400")
}

fn begin_head(status: u16, context: HeadContext<'_>) -> String {
    let mut head = String::with_capacity(512);
    let reason = reason(status);
    write!(head, "HTTP/1.1 {status} {reason}\r\n").expect("a String takes every write");
    push_field(&mut head, "Server", concat!("rillcast/", env!("CARGO_PKG_VERSION")));
    push_field(&mut head, "Date", &http_date(context.unix_seconds));
    match context.connection {
        Connection::KeepAlive { idle_seconds } => {
            push_field(&mut head, "Connection", "keep-alive");
            push_field(&mut head, "Keep-Alive", &format!("timeout={idle_seconds}"));
        }
        Connection::Close => push_field(&mut head, "Connection", "close"),
        Connection::Upgrade => push_field(&mut head, "Connection", "Upgrade"),
    }
    // Browsers refuse `*` together with credentials, so the origin is named.
    if let Some(origin) = context.origin {
        push_field(&mut head, "Access-Control-Allow-Origin", origin);
        push_field(&mut head, "Access-Control-Allow-Credentials", "true");
        push_field(&mut head, "Vary", "Origin");
    }
    head
}

fn push_field(head: &mut String, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        head.push_str(part);
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        // The phrase may be empty (RFC 9112 4).
        _ => "",
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(unix_seconds: u64) -> String {
    let (days, second_of_day) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) =
        (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    // 1 January 1970 was a Thursday.
    let weekday = WEEKDAYS[(days % 7) as usize];
    let month = MONTHS[month as usize - 1];
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Year, month and day of a day since the epoch, counted in eras of 400 years that begin on
/// 1 March, so that the leap day is the last of its year.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

const METHODS: &str = "GET, POST, PUT, HEAD, OPTIONS, DELETE";
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    fn context(connection: Connection) -> HeadContext<'static> {
        HeadContext { unix_seconds: 784_111_777, origin: None, connection }
    }

    #[test]
    fn dates_are_rendered() {
        // Expected values from GNU date -u -R -d @N.
        let table = [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (1_798_761_599, "Thu, 31 Dec 2026 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ];
        for (seconds, text) in table {
            assert_eq!(http_date(seconds), text);
        }
    }

    #[test]
    fn reply_has_head_and_body() {
        let response = Response::json("{}").with_field("X", "a\r\nSet-Cookie: b");
        let bytes = response.encode(context(Connection::KeepAlive { idle_seconds: 30 }), true);
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            std::str::from_utf8(&bytes).unwrap(),
            format!(
                "HTTP/1.1 200 OK\r\nServer: rillcast/{version}\r\n\
                 Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: keep-alive\r\n\
                 Keep-Alive: timeout=30\r\nContent-Type: application/json; charset=utf-8\r\n\
                 Content-Length: 2\r\nX: a  Set-Cookie: b\r\n\r\n{{}}"
            )
        );
    }

    #[test]
    fn head_reply_tells_the_length_without_the_body() {
        let bytes = Response::text(404, "gone").encode(context(Connection::Close), false);
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.contains("\r\nContent-Length: 4\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn reply_without_content_has_no_length() {
        let bytes = Response::empty(204).encode(context(Connection::Close), true);
        assert!(!std::str::from_utf8(&bytes).unwrap().contains("Content-"));
    }
}
