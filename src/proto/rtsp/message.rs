//! Requests, responses and interleaved packets out of one stream of bytes (RFC 2326, 4 to 7, 10.12).
//!
//! ```text
//! request      METHOD uri RTSP/1.0 CRLF  name: value CRLF …  CRLF  body
//! response     RTSP/1.0 status reason CRLF  name: value CRLF …  CRLF  body
//! interleaved  '$'  channel (8)  length (16)  packet
//! ```
//!
//! Cameras and servers take liberties, which are taken with them: lines that end in LF alone, empty
//! lines between messages, blanks before a colon, folded lines, lines without a colon, no reason.
//! Where the next message begins is never guessed: what can't be read ends the connection.

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::{HEADERS_MAX, RTSP_BODY_LEN_MAX, RTSP_HEAD_LEN_MAX};
use crate::proto::http::Headers;
use crate::proto::rtsp::error::MessageError;

/// One item of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Request(Request),
    Response(Response),
    Interleaved(Interleaved),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// As sent: an absolute URL, or `*`.
    pub uri: String,
    pub headers: Headers,
    pub body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 100 to 999
    pub status: u16,
    pub reason: String,
    pub headers: Headers,
    pub body: Bytes,
}

/// An interleaved packet with its four-byte header: what a player of the same channels is sent.
#[derive(Debug, Clone)]
pub struct Interleaved {
    /// Header, and as much of the packet as came with it.
    frame: Bytes,
    tail: Bytes,
}

/// The methods of RFC 2326, 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Options,
    Describe,
    Announce,
    Setup,
    Play,
    Pause,
    Record,
    GetParameter,
    SetParameter,
    Teardown,
    Redirect,
    Unknown,
}

/// Reads the items of one connection.
#[derive(Debug, Default)]
pub struct MessageReader {
    /// The beginning of an item whose end has not come.
    held: BytesMut,
    part: Part,
}

#[derive(Debug, Default)]
enum Part {
    #[default]
    Between,
    Interleaved,
    /// Bytes of `held` that were looked at.
    Head {
        scanned_len: usize,
    },
    Body {
        head: Head,
        len: usize,
    },
}

#[derive(Debug)]
enum Head {
    Request { method: Method, uri: String, headers: Headers },
    Response { status: u16, reason: String, headers: Headers },
}

/// Bytes of an interleaved packet's header.
pub const INTERLEAVED_HEADER_LEN: usize = 4;

/// The header before an interleaved packet of this length.
pub fn interleaved_header(channel: u8, len: u16) -> [u8; INTERLEAVED_HEADER_LEN] {
    let [high, low] = len.to_be_bytes();
    [b'$', channel, high, low]
}

/// The same packet, however many pieces it came in.
impl PartialEq for Interleaved {
    fn eq(&self, other: &Self) -> bool {
        self.frame.iter().chain(&self.tail).eq(other.frame.iter().chain(&other.tail))
    }
}

impl Eq for Interleaved {}

impl Interleaved {
    pub fn channel(&self) -> u8 {
        self.frame[1]
    }

    /// What the header is before; a view, or a copy of what came in two pieces.
    pub fn packet(&self) -> Bytes {
        let (head, tail) = self.pieces();
        if tail.is_empty() { head } else { [head, tail].concat().into() }
    }

    /// What the header is before: in one piece, or in two, of which the first was copied.
    pub fn pieces(&self) -> (Bytes, Bytes) {
        (self.frame.slice(INTERLEAVED_HEADER_LEN..), self.tail.clone())
    }
}

impl Method {
    const NAMES: [(&str, Self); 11] = [
        ("OPTIONS", Self::Options),
        ("DESCRIBE", Self::Describe),
        ("ANNOUNCE", Self::Announce),
        ("SETUP", Self::Setup),
        ("PLAY", Self::Play),
        ("PAUSE", Self::Pause),
        ("RECORD", Self::Record),
        ("GET_PARAMETER", Self::GetParameter),
        ("SET_PARAMETER", Self::SetParameter),
        ("TEARDOWN", Self::Teardown),
        ("REDIRECT", Self::Redirect),
    ];

    fn from_name(name: &str) -> Self {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map_or(Self::Unknown, |(_, method)| *method)
    }

    /// The method as it is sent; `?` for an unknown one.
    pub fn as_str(self) -> &'static str {
        let known = Self::NAMES.iter().find(|(_, method)| *method == self);
        known.map_or("?", |(name, _)| name)
    }
}

impl Request {
    /// The request's bytes; a `Content-Length` is added where there is a body. Control characters
    /// become spaces.
    pub fn encode(&self) -> Bytes {
        let uri: String = self.uri.chars().filter(|c| !c.is_control() && *c != ' ').collect();
        let line = format!("{} {uri} RTSP/1.0\r\n", self.method.as_str());
        encode(line, &self.headers, &self.body)
    }
}

impl Response {
    /// An answer with no body and the reason that the specification gives (RFC 2326, 7.1.1).
    pub fn new(status: u16) -> Self {
        let known = REASONS.iter().find(|(known, _)| *known == status);
        let reason = known.map_or("Error", |(_, reason)| reason).to_owned();
        Self { status, reason, headers: Headers::default(), body: Bytes::new() }
    }

    /// The response's bytes, as [`Request::encode`].
    pub fn encode(&self) -> Bytes {
        let line = format!("RTSP/1.0 {} {}\r\n", self.status, printable(&self.reason));
        encode(line, &self.headers, &self.body)
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl MessageReader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes from `input` up to the end of the next item; `None` when the input is used up. A packet
    /// is a view of the input that it lies in; of one that lies in several all but the last piece is
    /// copied. So is everything else: the reader keeps no input.
    ///
    /// # Errors
    /// [`MessageError`]; the reader is of no use then.
    pub fn next_item(&mut self, input: &mut Bytes) -> Result<Option<Item>, MessageError> {
        loop {
            match &mut self.part {
                Part::Between => {
                    let Some(&first) = input.first() else { return Ok(None) };
                    match first {
                        b'\r' | b'\n' => input.advance(1),
                        b'$' => match whole_interleaved(input) {
                            Some(interleaved) => return Ok(Some(Item::Interleaved(interleaved))),
                            None => self.part = Part::Interleaved,
                        },
                        b'A'..=b'Z' => self.part = Part::Head { scanned_len: 0 },
                        other => return Err(MessageError::NoMessage(other)),
                    }
                }
                Part::Interleaved => {
                    let interleaved = self.read_interleaved(input);
                    return Ok(interleaved.map(Item::Interleaved));
                }
                Part::Head { scanned_len } => {
                    let Some(head_len) = find_end(&mut self.held, scanned_len, input)? else {
                        return Ok(None);
                    };
                    let head = parse_head(&self.held.split_to(head_len))?;
                    let len = head.body_len();
                    self.part = Part::Body { head, len: len.unwrap_or_default() };
                    len?;
                }
                Part::Body { len, .. } => {
                    let missing = len.saturating_sub(self.held.len()).min(input.len());
                    self.held.extend_from_slice(&input.split_to(missing));
                    if self.held.len() < *len {
                        return Ok(None);
                    }
                    return Ok(Some(self.finish()));
                }
            }
        }
    }

    /// The headers of a request whose body is not read, after [`MessageError::BodyTooLong`].
    pub fn refused_request(&self) -> Option<&Headers> {
        match &self.part {
            Part::Body { head: Head::Request { headers, .. }, .. } => Some(headers),
            _ => None,
        }
    }

    /// Whether no byte of the next item has come.
    pub fn is_between_items(&self) -> bool {
        matches!(self.part, Part::Between)
    }

    /// A packet whose beginning is held, or will be: a view of that would keep a receive buffer from
    /// the kernel for as long as the peer likes.
    fn read_interleaved(&mut self, input: &mut Bytes) -> Option<Interleaved> {
        fill(&mut self.held, input, INTERLEAVED_HEADER_LEN)?;
        let missing = INTERLEAVED_HEADER_LEN + packet_len(&self.held) - self.held.len();
        if input.len() < missing {
            self.held.extend_from_slice(&std::mem::take(input));
            return None;
        }
        self.part = Part::Between;
        let frame = std::mem::take(&mut self.held).freeze();
        Some(Interleaved { frame, tail: input.split_to(missing) })
    }

    fn finish(&mut self) -> Item {
        let body = std::mem::take(&mut self.held).freeze();
        match std::mem::take(&mut self.part) {
            Part::Body { head: Head::Request { method, uri, headers }, .. } => {
                Item::Request(Request { method, uri, headers, body })
            }
            Part::Body { head: Head::Response { status, reason, headers }, .. } => {
                Item::Response(Response { status, reason, headers, body })
            }
            _ => unreachable!("only a body is finished"),
        }
    }
}

impl Head {
    fn body_len(&self) -> Result<usize, MessageError> {
        let (Self::Request { headers, .. } | Self::Response { headers, .. }) = self;
        let Some(text) = headers.find("content-length") else { return Ok(0) };
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(MessageError::BadHead("content length is not a number"));
        }
        let len = text.parse().ok().filter(|len| *len <= RTSP_BODY_LEN_MAX);
        len.ok_or(MessageError::BodyTooLong)
    }
}

fn whole_interleaved(input: &mut Bytes) -> Option<Interleaved> {
    if input.len() < INTERLEAVED_HEADER_LEN {
        return None;
    }
    let len = INTERLEAVED_HEADER_LEN + packet_len(input);
    (input.len() >= len).then(|| Interleaved { frame: input.split_to(len), tail: Bytes::new() })
}

fn packet_len(frame: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([frame[2], frame[3]]))
}

/// Moves bytes until `held` has `len` of them.
fn fill(held: &mut BytesMut, input: &mut Bytes, len: usize) -> Option<()> {
    let missing = len.saturating_sub(held.len()).min(input.len());
    held.extend_from_slice(&input.split_to(missing));
    (held.len() >= len).then_some(())
}

/// Moves bytes up to the empty line that ends a head; the head's length.
fn find_end(
    held: &mut BytesMut,
    scanned_len: &mut usize,
    input: &mut Bytes,
) -> Result<Option<usize>, MessageError> {
    while let Some(at) = input.iter().position(|byte| *byte == b'\n') {
        held.extend_from_slice(&input.split_to(at + 1));
        if held.len() > RTSP_HEAD_LEN_MAX {
            return Err(MessageError::HeadTooLong);
        }
        let line = &held[*scanned_len..];
        *scanned_len = held.len();
        if matches!(line, b"\n" | b"\r\n") {
            return Ok(Some(held.len()));
        }
    }
    held.extend_from_slice(&std::mem::take(input));
    if held.len() > RTSP_HEAD_LEN_MAX {
        return Err(MessageError::HeadTooLong);
    }
    Ok(None)
}

fn parse_head(bytes: &[u8]) -> Result<Head, MessageError> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let headers = parse_headers(lines)?;
    let mut words = first.split_ascii_whitespace();
    let (one, two) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if is_version(one) {
        let reason = words.collect::<Vec<_>>().join(" ");
        let status = two.parse().ok().filter(|status| (100..1000).contains(status));
        let status = status.ok_or(MessageError::BadHead("status"))?;
        return Ok(Head::Response { status, reason, headers });
    }
    let version = words.next_back().ok_or(MessageError::BadHead("no request line"))?;
    if !is_version(version) {
        return Err(MessageError::Version);
    }
    // An address with a blank in it, as some recorders send.
    let uri = [two].into_iter().chain(words).collect::<Vec<_>>().join("%20");
    Ok(Head::Request { method: Method::from_name(one), uri, headers })
}

fn is_version(word: &str) -> bool {
    word == "RTSP/1.0"
}

fn parse_headers<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Headers, MessageError> {
    let mut headers = Headers::default();
    for line in lines {
        if line.starts_with([' ', '\t']) {
            headers.extend_last(line.trim());
        } else if let Some((name, value)) = line.split_once(':') {
            headers.push(name.trim(), value.trim());
        }
        if headers.len() > HEADERS_MAX {
            return Err(MessageError::HeadTooLong);
        }
    }
    Ok(headers)
}

fn encode(line: String, headers: &Headers, body: &Bytes) -> Bytes {
    let mut text = line;
    for (name, value) in headers.iter() {
        text += &format!("{}: {}\r\n", printable(name), printable(value));
    }
    if !body.is_empty() {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes.into()
}

fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// RFC 2326, 7.1.1, as far as we send them.
const REASONS: [(u16, &str); 22] = [
    (200, "OK"),
    (400, "Bad Request"),
    (401, "Unauthorized"),
    (403, "Forbidden"),
    (404, "Not Found"),
    (405, "Method Not Allowed"),
    (406, "Not Acceptable"),
    (413, "Request Entity Too Large"),
    (415, "Unsupported Media Type"),
    (451, "Parameter Not Understood"),
    (453, "Not Enough Bandwidth"),
    (454, "Session Not Found"),
    (455, "Method Not Valid in This State"),
    (457, "Invalid Range"),
    (459, "Aggregate Operation Not Allowed"),
    (460, "Only Aggregate Operation Allowed"),
    (461, "Unsupported Transport"),
    (500, "Internal Server Error"),
    (501, "Not Implemented"),
    (503, "Service Unavailable"),
    (505, "RTSP Version Not Supported"),
    (551, "Option Not Supported"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        fields.iter().for_each(|(name, value)| headers.push(name, value));
        headers
    }

    fn request(method: Method, uri: &str, fields: &[(&str, &str)], body: &'static str) -> Item {
        let (uri, headers) = (uri.to_owned(), headers(fields));
        Item::Request(Request { method, uri, headers, body: body.into() })
    }

    fn interleaved(frame: &'static [u8]) -> Item {
        Item::Interleaved(Interleaved { frame: Bytes::from_static(frame), tail: Bytes::new() })
    }

    /// The items of one connection, in order.
    fn table() -> Vec<(&'static str, &'static [u8], Item)> {
        vec![
            (
                "a request",
                b"OPTIONS rtsp://h/live/a RTSP/1.0\r\nCSeq: 1\r\n\r\n",
                request(Method::Options, "rtsp://h/live/a", &[("CSeq", "1")], ""),
            ),
            (
                "a request with a body",
                b"ANNOUNCE rtsp://h/a RTSP/1.0\r\nCSeq: 2\r\nContent-Length: 5\r\n\r\nv=0\r\n",
                request(
                    Method::Announce,
                    "rtsp://h/a",
                    &[("CSeq", "2"), ("Content-Length", "5")],
                    "v=0\r\n",
                ),
            ),
            ("an interleaved packet", b"$\x02\0\x03abc", interleaved(b"$\x02\0\x03abc")),
            ("an empty packet", b"$\x01\0\0", interleaved(b"$\x01\0\0")),
            (
                "an unknown method, after empty lines",
                b"\r\n\n\r\nFLY * RTSP/1.0\r\n\r\n",
                request(Method::Unknown, "*", &[], ""),
            ),
            (
                "lines that end in LF, blanks and folds",
                b"PLAY  rtsp://h/a  RTSP/1.0\nCSeq :7\nRange:npt=0-\n\tand more\nnonsense\n\n",
                request(
                    Method::Play,
                    "rtsp://h/a",
                    &[("CSeq", "7"), ("Range", "npt=0- and more")],
                    "",
                ),
            ),
            (
                "an address with a blank",
                b"SETUP rtsp://h/a b/c RTSP/1.0\r\n\r\n",
                request(Method::Setup, "rtsp://h/a%20b/c", &[], ""),
            ),
            (
                "a response",
                b"RTSP/1.0 454 Session Not Found\r\ncseq: 3\r\n\r\n",
                Item::Response(Response {
                    status: 454,
                    reason: "Session Not Found".to_owned(),
                    headers: headers(&[("cseq", "3")]),
                    body: Bytes::new(),
                }),
            ),
            (
                "a response without a reason",
                b"RTSP/1.0 200\r\n\r\n",
                Item::Response(Response { reason: String::new(), ..Response::new(200) }),
            ),
        ]
    }

    fn read(pieces: &[&[u8]]) -> Result<Vec<Item>, MessageError> {
        let mut reader = MessageReader::new();
        let mut items = Vec::new();
        for piece in pieces {
            let mut input = Bytes::copy_from_slice(piece);
            while let Some(item) = reader.next_item(&mut input)? {
                items.push(item);
            }
            assert!(input.is_empty(), "a reader that waits has taken its input");
        }
        Ok(items)
    }

    #[test]
    fn items_are_the_same_at_every_split() {
        let transcript: Vec<u8> =
            table().iter().flat_map(|(_, bytes, _)| bytes.iter().copied()).collect();
        let expected: Vec<Item> = table().into_iter().map(|(_, _, item)| item).collect();
        for at in 0..=transcript.len() {
            let (one, two) = transcript.split_at(at);
            assert_eq!(read(&[one, two]).unwrap(), expected, "at {at}");
        }
        let single: Vec<&[u8]> = transcript.chunks(1).collect();
        assert_eq!(read(&single).unwrap(), expected);
    }

    #[test]
    fn packet_in_one_piece_is_a_view() {
        let mut reader = MessageReader::new();
        let mut input = Bytes::from_static(b"$\x02\0\x03abc$\x02\0\x03d");
        let start = input.as_ptr();
        let Ok(Some(Item::Interleaved(packet))) = reader.next_item(&mut input) else { panic!() };
        assert_eq!((packet.channel(), packet.packet()), (2, Bytes::from_static(b"abc")));
        assert_eq!(packet.frame.as_ptr(), start);
        assert_eq!(reader.next_item(&mut input), Ok(None));
        assert!(!reader.is_between_items());
        let mut input = Bytes::from_static(b"ef");
        let Ok(Some(Item::Interleaved(packet))) = reader.next_item(&mut input) else { panic!() };
        assert_eq!(packet.packet(), &b"def"[..]);
        assert!(reader.is_between_items());
    }

    #[test]
    fn packet_in_many_pieces_tells_what_was_copied_of_it() {
        let head: &[u8] = &[b'$', 0, 1, 144, 0x80, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        let sound = [head, &[7; 388]].concat();
        for (pieces, copied_len) in [
            (vec![404], 0),
            (vec![200, 204], 196),
            (vec![150, 50, 204], 196),
            (vec![3, 197, 100, 104], 296),
            // A header in two pieces is put together once more.
            (vec![10, 394], 6 + 400),
        ] {
            let (mut reader, mut rest, mut items) = (MessageReader::new(), &sound[..], Vec::new());
            for len in &pieces {
                let (piece, after) = rest.split_at(*len);
                rest = after;
                let mut input = Bytes::copy_from_slice(piece);
                items.extend(reader.next_item(&mut input).unwrap());
            }
            let [Item::Interleaved(packet)] = &items[..] else { panic!("{items:?}") };
            let (head, tail) = packet.pieces();
            let packet = crate::proto::rtp::RtpPacket::parse_pieces(head, tail).unwrap();
            assert_eq!(packet.copied_len(), copied_len, "{pieces:?}");
        }
    }

    #[test]
    fn written_messages_are_read_again() {
        for (name, _, item) in table() {
            let bytes = match &item {
                Item::Request(request) if request.method != Method::Unknown => request.encode(),
                Item::Response(response) => response.encode(),
                _ => continue,
            };
            let again = read(&[&bytes]).unwrap().remove(0);
            let (method, body) = match (&item, &again) {
                (Item::Request(one), Item::Request(two)) => {
                    (one.method == two.method && one.uri == two.uri, one.body == two.body)
                }
                (Item::Response(one), Item::Response(two)) => {
                    (one.status == two.status, one.body == two.body)
                }
                _ => (false, false),
            };
            assert!(method && body, "{name}");
        }
        let mut evil = Response::new(200);
        evil.headers.push("X", "a\r\nEvil: 1");
        assert_eq!(evil.encode(), "RTSP/1.0 200 OK\r\nX: a  Evil: 1\r\n\r\n");
        let uri = "rtsp://h/a b\r\n".to_owned();
        let (headers, body) = (Headers::default(), Bytes::new());
        let evil = Request { method: Method::Play, uri, headers, body };
        assert_eq!(evil.encode(), "PLAY rtsp://h/ab RTSP/1.0\r\n\r\n");
    }

    #[test]
    fn faults_end_the_connection() {
        for (bytes, error) in [
            (&b"\x16\x03\x01"[..], MessageError::NoMessage(0x16)),
            (b"rtsp", MessageError::NoMessage(b'r')),
            (b"GET / HTTP/1.1\r\n\r\n", MessageError::Version),
            (b"PLAY rtsp://h/a RTSP/2.0\r\n\r\n", MessageError::Version),
            (b"PLAY\r\n\r\n", MessageError::BadHead("no request line")),
            (b"RTSP/1.0 OK\r\n\r\n", MessageError::BadHead("status")),
            (b"RTSP/1.0 20 OK\r\n\r\n", MessageError::BadHead("status")),
            (
                b"PLAY * RTSP/1.0\r\nContent-Length: -1\r\n\r\n",
                MessageError::BadHead("content length is not a number"),
            ),
            (b"PLAY * RTSP/1.0\r\nContent-Length: 65537\r\n\r\n", MessageError::BodyTooLong),
            (
                b"PLAY * RTSP/1.0\r\nContent-Length: 99999999999999999999\r\n\r\n",
                MessageError::BodyTooLong,
            ),
        ] {
            assert_eq!(read(&[bytes]), Err(error));
        }
    }

    #[test]
    fn heads_are_bounded() {
        let endless = vec![b'A'; RTSP_HEAD_LEN_MAX + 1];
        assert_eq!(read(&[&endless]), Err(MessageError::HeadTooLong));
        let head = |count: usize| {
            let fields = "a: b\r\n".repeat(count);
            format!("PLAY * RTSP/1.0\r\n{fields}\r\n")
        };
        assert!(read(&[head(HEADERS_MAX).as_bytes()]).is_ok());
        let too_many = read(&[head(HEADERS_MAX + 1).as_bytes()]);
        assert_eq!(too_many, Err(MessageError::HeadTooLong));
        let lines = format!("PLAY * RTSP/1.0\r\n{}", "a\r\n".repeat(RTSP_HEAD_LEN_MAX / 3));
        assert_eq!(read(&[lines.as_bytes()]), Err(MessageError::HeadTooLong));
    }
}
