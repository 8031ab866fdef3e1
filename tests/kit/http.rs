//! A small HTTP/1.1 client: one request per connection, whole reply, a bound on the wait.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// Longest wait for a reply: above every bound that the API promises.
const REPLY_BOUND: Duration = Duration::from_secs(45);

/// A reply.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// Sends one request and reads the reply. `headers` are whole lines without the line end.
///
/// # Errors
/// When the peer refuses, is silent for too long, or closes before a reply.
pub fn request(
    address: SocketAddr,
    line: &str,
    headers: &[&str],
    body: &[u8],
) -> std::io::Result<Reply> {
    let mut socket = TcpStream::connect_timeout(&address, REPLY_BOUND)?;
    socket.set_read_timeout(Some(REPLY_BOUND))?;
    let mut head = format!("{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    headers.iter().for_each(|header| head += &format!("{header}\r\n"));
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    socket.write_all(head.as_bytes())?;
    socket.write_all(body)?;
    let mut bytes = Vec::new();
    let is_head = line.starts_with("HEAD ");
    let mut buffer = [0; 16_384];
    loop {
        if let Some(reply) = parse(&bytes, is_head, false) {
            return Ok(reply);
        }
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => bytes.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    parse(&bytes, is_head, true).ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

/// Head and where the body starts; `None` while the head is not whole.
pub fn parse_head(bytes: &[u8]) -> Option<(Reply, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some((Reply { status, headers, body: Vec::new() }, end))
}

fn parse(bytes: &[u8], is_head: bool, at_end: bool) -> Option<Reply> {
    let (mut reply, start) = parse_head(bytes)?;
    let body = &bytes[start..];
    if is_head {
        return Some(reply);
    }
    if reply.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        let mut chunks = Dechunk::default();
        reply.body = chunks.push(body);
        return chunks.done.then_some(reply);
    }
    match reply.header("content-length").and_then(|value| value.parse::<usize>().ok()) {
        Some(len) if body.len() >= len => reply.body = body[..len].to_vec(),
        None if at_end => reply.body = body.to_vec(),
        _ => return None,
    }
    Some(reply)
}

/// Takes the chunk frames off a chunked body (RFC 9112, 7.1).
#[derive(Debug, Default)]
pub struct Dechunk {
    buffer: Vec<u8>,
    pub done: bool,
}

impl Dechunk {
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.buffer.extend_from_slice(bytes);
        let mut body = Vec::new();
        while let Some(line_end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
            let line = String::from_utf8_lossy(&self.buffer[..line_end]).into_owned();
            let text = line.split(';').next().unwrap_or("").trim();
            let len = usize::from_str_radix(text, 16).expect("a chunk size");
            if len == 0 {
                self.done = true;
                break;
            }
            let end = line_end + 2 + len;
            if self.buffer.len() < end + 2 {
                break;
            }
            body.extend_from_slice(&self.buffer[line_end + 2..end]);
            self.buffer.drain(..end + 2);
        }
        body
    }
}

/// The API of a relay.
#[derive(Debug, Clone)]
pub struct Api {
    pub address: SocketAddr,
    pub secret: String,
}

impl Api {
    /// Calls an endpoint with its parameters in the query.
    #[track_caller]
    pub fn call(&self, name: &str, params: &[(&str, &str)]) -> Value {
        let reply = self.call_raw(name, params);
        assert_eq!(reply.status, 200, "{name}: {reply:?}");
        reply.json()
    }

    /// As [`Self::call`], with status and headers.
    #[track_caller]
    pub fn call_raw(&self, name: &str, params: &[(&str, &str)]) -> Reply {
        let query = encode(&[params, &[("secret", &self.secret)]].concat());
        self.get(&format!("/index/api/{name}?{query}"))
    }

    /// A plain GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        request(self.address, &format!("GET {path}"), &[], b"")
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// As [`Self::call`], on a thread of its own.
    pub fn call_later(&self, name: &str, params: &[(&str, &str)]) -> JoinHandle<Value> {
        let api = self.clone();
        let name = name.to_owned();
        let params: Vec<(String, String)> =
            params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        spawn(move || {
            let params: Vec<(&str, &str)> =
                params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            api.call(&name, &params)
        })
    }
}

/// Parameters as a query or a form.
pub fn encode(params: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = params
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    pairs.join("&")
}
