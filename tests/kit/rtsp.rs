//! RTSP as the tests speak it (RFC 2326): messages, interleaved packets, a client that asks and
//! waits. Strict, and nothing shared with the relay's own parser.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::LIVENESS;
use super::player::{Buffer, connect};
use super::tape::{Tape, Way};

/// What carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lower {
    Tcp,
    Udp,
}

impl Lower {
    /// As ffmpeg and GStreamer call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What comes over a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Message(Message),
    Packet { channel: u8, bytes: Vec<u8> },
}

/// A request or a response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// The value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// `None` of a request.
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("RTSP/1.0 ")?.split(' ').next()?.parse().ok()
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub fn uri(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Bytes in, items out.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole item.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn next_item(&mut self) -> std::result::Result<Option<Item>, String> {
        match self.buffer.first() {
            None => Ok(None),
            Some(b'$') => Ok(self.packet()),
            Some(_) => self.message(),
        }
    }

    fn packet(&mut self) -> Option<Item> {
        let [_, channel, high, low] = *self.buffer.first_chunk()?;
        let end = 4 + usize::from(u16::from_be_bytes([high, low]));
        let bytes = self.buffer.get(4..end)?.to_vec();
        self.buffer.drain(..end);
        Some(Item::Packet { channel, bytes })
    }

    fn message(&mut self) -> std::result::Result<Option<Item>, String> {
        let head_end = self.buffer.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(head_end) = head_end else {
            let is_text = self.buffer.iter().take(64).all(|byte| byte.is_ascii());
            return if is_text { Ok(None) } else { Err(format!("no RTSP: {:02x?}", self.buffer)) };
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        if !start.contains("RTSP/1.0") {
            return Err(format!("no RTSP: {start:?}"));
        }
        let header = |line: &str| {
            let (name, value) =
                line.split_once(':').ok_or_else(|| format!("no header: {line:?} of {head:?}"))?;
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        };
        let headers: std::result::Result<Vec<_>, String> = lines.map(header).collect();
        let mut message = Message { start, headers: headers?, body: Vec::new() };
        let len = message.header("content-length").map_or(Ok(0), str::parse);
        let len: usize = len.map_err(|error| format!("Content-Length: {error}"))?;
        let Some(body) = self.buffer.get(head_end + 4..head_end + 4 + len) else { return Ok(None) };
        message.body = body.to_vec();
        self.buffer.drain(..head_end + 4 + len);
        Ok(Some(Item::Message(message)))
    }
}

/// A packet behind its interleaved header.
pub fn interleaved(channel: u8, packet: &[u8]) -> Vec<u8> {
    let len = u16::try_from(packet.len()).expect("a packet is short");
    let [high, low] = len.to_be_bytes();
    [&[b'$', channel, high, low], packet].concat()
}

/// One side of a connection that asks, one request at a time.
#[derive(Debug)]
pub struct Client {
    pub socket: TcpStream,
    pub reader: Reader,
    /// Packets that came while an answer was awaited.
    pub early: Vec<(u8, Vec<u8>)>,
    pub session: Option<String>,
    pub tape: Tape,
    /// Goes with every request.
    pub authorization: Option<String>,
    cseq: u32,
}

impl Client {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let socket = connect(address, Buffer::Large);
        socket.set_nodelay(true).expect("TCP_NODELAY");
        socket.set_read_timeout(Some(LIVENESS)).expect("a timeout");
        Self {
            tape: Tape::new(),
            socket,
            reader: Reader::default(),
            early: Vec::new(),
            session: None,
            authorization: None,
            cseq: 0,
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// When the peer closes or is silent, or what it says is no RTSP.
    pub fn ask(
        &mut self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Message> {
        self.cseq += 1;
        let mut request = format!("{method} {uri} RTSP/1.0\r\nCSeq: {}\r\n", self.cseq);
        let own = [("Session", &self.session), ("Authorization", &self.authorization)];
        let own = own.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        for (name, value) in own.chain(headers.iter().copied()) {
            request += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        request += &format!("\r\n{body}");
        self.send(request.as_bytes())?;
        loop {
            match self.next_item()? {
                Item::Packet { channel, bytes } => self.early.push((channel, bytes)),
                Item::Message(message) if message.status().is_some() => {
                    let cseq = message.header("cseq").unwrap_or_default();
                    if cseq != self.cseq.to_string() {
                        return Err(Error::other(format!("CSeq {cseq:?}, want {}", self.cseq)));
                    }
                    if let Some(session) = message.header("session") {
                        self.session = session.split(';').next().map(str::to_owned);
                    }
                    return Ok(message);
                }
                Item::Message(request) => return Err(Error::other(format!("asks: {request:?}"))),
            }
        }
    }

    /// As [`Self::ask`]; any other status than 200 fails the test.
    #[track_caller]
    pub fn demand(
        &mut self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Message {
        let answer = self.ask(method, uri, headers, body);
        let answer = answer.unwrap_or_else(|error| panic!("{method} {uri}: {error}"));
        assert_eq!(answer.status(), Some(200), "{method} {uri}: {answer:?}");
        answer
    }

    /// The next answer, to what was sent by [`Self::send`].
    pub fn answer(&mut self) -> Result<Message> {
        match self.next_item()? {
            Item::Message(message) if message.status().is_some() => Ok(message),
            other => Err(Error::other(format!("no answer: {other:?}"))),
        }
    }

    /// As [`Self::answer`], behind packets, which are kept.
    pub fn answer_behind_packets(&mut self) -> Result<Message> {
        loop {
            match self.next_item()? {
                Item::Packet { channel, bytes } => self.early.push((channel, bytes)),
                Item::Message(message) => return Ok(message),
            }
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.tape.tcp(&self.socket, Way::Out, bytes);
        self.socket.write_all(bytes)
    }

    fn next_item(&mut self) -> Result<Item> {
        let deadline = Instant::now() + LIVENESS;
        let mut buffer = [0; 16_384];
        loop {
            if let Some(item) = self.reader.next_item().map_err(Error::other)? {
                return Ok(item);
            }
            let len = self.socket.read(&mut buffer)?;
            if len == 0 || Instant::now() > deadline {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.tape.tcp(&self.socket, Way::In, &buffer[..len]);
            self.reader.push(&buffer[..len]);
        }
    }
}

/// A parameter of a `Transport` header, such as `server_port`.
pub fn transport_parameter<'a>(transport: &'a str, name: &str) -> Option<&'a str> {
    let mut parameters = transport.split(';').filter_map(|part| part.trim().split_once('='));
    parameters.find(|(have, _)| *have == name).map(|(_, value)| value)
}

/// The first of two numbers with a dash between them.
pub fn first_of_pair<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.split('-').next()?.trim().parse().ok()
}
