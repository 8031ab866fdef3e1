//! Just enough RTMP for a test player, a test publisher and a test origin (Adobe RTMP 1.0, simple handshake).

use std::collections::HashMap;

/// C1, S1, C2 and S2 are this long.
pub const HANDSHAKE_LEN: usize = 1536;

/// Chunk size that both ends of the kit send with, announced before anything else.
pub const CHUNK_SIZE: usize = 4096;

/// Message types.
pub const SET_CHUNK_SIZE: u8 = 1;
pub const ACKNOWLEDGEMENT: u8 = 3;
pub const USER_CONTROL: u8 = 4;
pub const WINDOW_SIZE: u8 = 5;
pub const COMMAND: u8 = 20;
pub const AGGREGATE: u8 = 22;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub number: u8,
    pub timestamp_ms: u32,
    pub stream_id: u32,
    pub payload: Vec<u8>,
}

impl Message {
    /// The name of a command and its transaction number.
    pub fn command(&self) -> Option<(String, f64)> {
        if self.number != COMMAND || self.payload.first() != Some(&2) {
            return None;
        }
        let len = usize::from(u16::from_be_bytes([self.payload[1], self.payload[2]]));
        let name = String::from_utf8_lossy(self.payload.get(3..3 + len)?).into_owned();
        let number = self.payload.get(4 + len..12 + len)?;
        Some((name, f64::from_be_bytes(number.try_into().expect("eight bytes"))))
    }

    /// The string value of a property, wherever it stands in the payload.
    pub fn property(&self, name: &str) -> Option<String> {
        let mut marker = u16::try_from(name.len()).expect("a short name").to_be_bytes().to_vec();
        marker.extend_from_slice(name.as_bytes());
        marker.push(2);
        let at = self.payload.windows(marker.len()).position(|window| window == marker)?;
        let rest = &self.payload[at + marker.len()..];
        let len = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
        Some(String::from_utf8_lossy(rest.get(2..2 + len)?).into_owned())
    }
}

/// Bytes after the handshake in, messages out.
#[derive(Debug)]
pub struct ChunkReader {
    buffer: Vec<u8>,
    chunk_size: usize,
    streams: HashMap<u32, ChunkStream>,
}

#[derive(Debug, Default, Clone)]
struct ChunkStream {
    timestamp_ms: u32,
    delta_ms: u32,
    extended: bool,
    len: usize,
    number: u8,
    stream_id: u32,
    payload: Vec<u8>,
}

impl Default for ChunkReader {
    fn default() -> Self {
        Self { buffer: Vec::new(), chunk_size: 128, streams: HashMap::new() }
    }
}

impl ChunkReader {
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Message>, String> {
        self.buffer.extend_from_slice(bytes);
        let mut messages = Vec::new();
        let mut at = 0;
        while let Some((message, len)) = self.next_chunk(at)? {
            at += len;
            let Some(message) = message else { continue };
            if message.number == SET_CHUNK_SIZE {
                let size = message.payload.get(..4).ok_or("a short Set Chunk Size")?;
                self.chunk_size = u32::from_be_bytes(size.try_into().expect("four bytes")) as usize;
            }
            messages.push(message);
        }
        self.buffer.drain(..at);
        Ok(messages)
    }

    /// The chunk at `at`: the message that it completes, if it does, and its length.
    fn next_chunk(&mut self, at: usize) -> Result<Option<(Option<Message>, usize)>, String> {
        let bytes = &self.buffer[at..];
        let Some(&first) = bytes.first() else { return Ok(None) };
        let (format, basic_len) = (first >> 6, 1 + usize::from(matches!(first & 0x3f, 0)));
        let header_len = basic_len + [11, 7, 3, 0][usize::from(format)];
        if first & 0x3f == 1 {
            return Err("three-byte chunk stream ids are not expected".to_owned());
        }
        if bytes.len() < header_len {
            return Ok(None);
        }
        let id = if basic_len == 2 { u32::from(bytes[1]) + 64 } else { u32::from(first & 0x3f) };
        if format == 3 && !self.streams.contains_key(&id) {
            return Err(format!("chunk stream {id} begins with a format 3 chunk"));
        }
        let mut stream = self.streams.get(&id).cloned().unwrap_or_default();
        let field = &bytes[basic_len..];
        let u24 =
            |from: usize| u32::from_be_bytes([0, field[from], field[from + 1], field[from + 2]]);
        if format < 2 {
            stream.len = u24(3) as usize;
            stream.number = field[6];
        }
        if format == 0 {
            stream.stream_id = u32::from_le_bytes([field[7], field[8], field[9], field[10]]);
        }
        let mut time = if format < 3 { u24(0) } else { stream.delta_ms };
        if format < 3 {
            stream.extended = time == 0x00ff_ffff;
        }
        let mut len = header_len;
        if stream.extended {
            let Some(extended) = bytes.get(len..len + 4) else { return Ok(None) };
            time = u32::from_be_bytes(extended.try_into().expect("four bytes"));
            len += 4;
        }
        let body_len = self.chunk_size.min(stream.len - stream.payload.len());
        let Some(body) = bytes.get(len..len + body_len) else { return Ok(None) };
        if stream.payload.is_empty() {
            stream.timestamp_ms =
                if format == 0 { time } else { stream.timestamp_ms.wrapping_add(time) };
            stream.delta_ms = time;
        }
        stream.payload.extend_from_slice(body);
        let message = (stream.payload.len() == stream.len).then(|| Message {
            number: stream.number,
            timestamp_ms: stream.timestamp_ms,
            stream_id: stream.stream_id,
            payload: std::mem::take(&mut stream.payload),
        });
        self.streams.insert(id, stream);
        Ok(Some((message, len + body_len)))
    }
}

/// A message in chunks of [`CHUNK_SIZE`].
pub fn encode(chunk_stream: u8, message: &Message) -> Vec<u8> {
    chunks(chunk_stream, message, CHUNK_SIZE).concat()
}

/// A message's chunks, one by one.
pub fn chunks(chunk_stream: u8, message: &Message, chunk_size: usize) -> Vec<Vec<u8>> {
    let len = u32::try_from(message.payload.len()).expect("a small message");
    let header_time = message.timestamp_ms.min(0x00ff_ffff);
    let extended = (header_time == 0x00ff_ffff).then(|| message.timestamp_ms.to_be_bytes());
    let mut bytes = vec![chunk_stream];
    bytes.extend_from_slice(&header_time.to_be_bytes()[1..]);
    bytes.extend_from_slice(&len.to_be_bytes()[1..]);
    bytes.push(message.number);
    bytes.extend_from_slice(&message.stream_id.to_le_bytes());
    let mut chunks = Vec::new();
    for chunk in message.payload.chunks(chunk_size) {
        bytes.extend(extended.iter().flatten());
        bytes.extend_from_slice(chunk);
        chunks.push(std::mem::replace(&mut bytes, vec![0xc0 | chunk_stream]));
    }
    chunks
}

/// Set Chunk Size to [`CHUNK_SIZE`]: goes first.
pub fn set_chunk_size() -> Vec<u8> {
    set_chunk_size_to(CHUNK_SIZE)
}

pub fn set_chunk_size_to(chunk_size: usize) -> Vec<u8> {
    let payload = u32::try_from(chunk_size).expect("small").to_be_bytes().to_vec();
    encode(2, &Message { number: SET_CHUNK_SIZE, timestamp_ms: 0, stream_id: 0, payload })
}

/// A command message.
pub fn command(stream_id: u32, name: &str, transaction: f64, values: &[Value<'_>]) -> Vec<u8> {
    let mut payload = Vec::new();
    Value::String(name).encode(&mut payload);
    Value::Number(transaction).encode(&mut payload);
    values.iter().for_each(|value| value.encode(&mut payload));
    encode(3, &Message { number: COMMAND, timestamp_ms: 0, stream_id, payload })
}

/// An AMF0 value to send.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    Null,
    Number(f64),
    String(&'a str),
    Object(&'a [(&'a str, Self)]),
}

impl Value<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.push(5),
            Value::Number(number) => {
                out.push(0);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Value::String(text) => {
                out.push(2);
                encode_name(out, text);
            }
            Value::Object(members) => {
                out.push(3);
                for (name, value) in *members {
                    encode_name(out, name);
                    value.encode(out);
                }
                out.extend_from_slice(&[0, 0, 9]);
            }
        }
    }
}

fn encode_name(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).expect("a short text").to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
