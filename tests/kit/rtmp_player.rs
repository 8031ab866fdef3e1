//! An RTMP player that keeps the raw messages, as `player` does for FLV.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use super::flv::{Kind, Tag};
use super::player::{Buffer, Player, Seen, Wire, connect};
use super::rtmp::{
    ACKNOWLEDGEMENT, AGGREGATE, COMMAND, ChunkReader, HANDSHAKE_LEN, Message, Value, WINDOW_SIZE,
    command, encode, set_chunk_size,
};

impl Player {
    /// Plays `stream` (its query string is part of the name, as players send it).
    pub fn rtmp(address: SocketAddr, app: &str, stream: &str) -> Self {
        Self::rtmp_with(address, app, stream, "play")
    }

    /// Asks to publish and sends nothing: only the answer's code is of interest.
    pub fn rtmp_publish(address: SocketAddr, app: &str, stream: &str) -> Self {
        Self::rtmp_with(address, app, stream, "publish")
    }

    fn rtmp_with(address: SocketAddr, app: &str, stream: &str, verb: &'static str) -> Self {
        let mut hello = vec![3];
        hello.extend_from_slice(&[0; HANDSHAKE_LEN]);
        let wire = RtmpPlay {
            address,
            app: app.to_owned(),
            stream: stream.to_owned(),
            verb,
            handshake: Vec::new(),
            connected: false,
            chunks: ChunkReader::default(),
            bytes_in: 0,
            window: u64::MAX,
            acknowledged: 0,
        };
        let socket = connect(address, Buffer::Large);
        Self::start(&format!("rtmp {verb} {app}/{stream}"), socket, &hello, wire)
    }
}

struct RtmpPlay {
    address: SocketAddr,
    app: String,
    stream: String,
    verb: &'static str,
    handshake: Vec<u8>,
    connected: bool,
    chunks: ChunkReader,
    bytes_in: u64,
    window: u64,
    acknowledged: u64,
}

impl Wire for RtmpPlay {
    fn push(
        &mut self,
        bytes: &[u8],
        socket: &mut TcpStream,
        seen: &mut Seen,
    ) -> Result<(), String> {
        self.bytes_in += bytes.len() as u64;
        let rest;
        let bytes = if self.connected {
            bytes
        } else {
            self.handshake.extend_from_slice(bytes);
            if self.handshake.len() < 1 + 2 * HANDSHAKE_LEN {
                return Ok(());
            }
            rest = self.handshake.split_off(1 + 2 * HANDSHAKE_LEN);
            self.connect(socket);
            &rest
        };
        for message in self.chunks.push(bytes)? {
            self.take(&message, socket, seen)?;
        }
        if self.bytes_in - self.acknowledged >= self.window / 2 {
            self.acknowledged = self.bytes_in;
            let [.., a, b, c, d] = self.bytes_in.to_be_bytes();
            let payload = vec![a, b, c, d];
            let message =
                Message { number: ACKNOWLEDGEMENT, timestamp_ms: 0, stream_id: 0, payload };
            send(socket, &encode(2, &message));
        }
        Ok(())
    }
}

impl RtmpPlay {
    fn connect(&mut self, socket: &mut TcpStream) {
        self.connected = true;
        // C2 echoes S1.
        send(socket, &self.handshake[1..=HANDSHAKE_LEN]);
        let url = format!("rtmp://{}/{}", self.address, self.app);
        let object = [
            ("app", Value::String(&self.app)),
            ("flashVer", Value::String("LNX 9,0,124,2")),
            ("tcUrl", Value::String(&url)),
            ("capabilities", Value::Number(15.0)),
        ];
        send(socket, &set_chunk_size());
        send(socket, &command(0, "connect", 1.0, &[Value::Object(&object)]));
    }

    fn take(
        &mut self,
        message: &Message,
        socket: &mut TcpStream,
        seen: &mut Seen,
    ) -> Result<(), String> {
        match message.number {
            WINDOW_SIZE => {
                let size = message.payload.get(..4).ok_or("a short Window Acknowledgement Size")?;
                self.window = u32::from_be_bytes(size.try_into().expect("four bytes")).into();
            }
            AGGREGATE => return Err("aggregate messages are not for players".to_owned()),
            COMMAND => {
                let (name, transaction) = message.command().ok_or("a bad command")?;
                match (name.as_str(), transaction) {
                    ("_result", 1.0) => {
                        send(socket, &command(0, "createStream", 2.0, &[Value::Null]))
                    }
                    ("_result", 2.0) => {
                        let name = [Value::Null, Value::String(&self.stream)];
                        send(socket, &command(1, self.verb, 3.0, &name));
                    }
                    ("onStatus" | "_error", _) => {
                        seen.codes.push(message.property("code").unwrap_or_default());
                    }
                    _ => {}
                }
            }
            number => {
                if let Some(kind) = Kind::of(number) {
                    let (timestamp_ms, payload) = (message.timestamp_ms, message.payload.clone());
                    seen.tags.push(Tag { kind, timestamp_ms, payload });
                }
            }
        }
        Ok(())
    }
}

/// The relay may have closed already; then reading shows it.
fn send(socket: &mut TcpStream, bytes: &[u8]) {
    let _ = socket.write_all(bytes);
}
