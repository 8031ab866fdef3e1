//! A WS-FLV player: FLV in the binary frames of a WebSocket (RFC 6455).

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::flv::Reader;
use super::player::{Buffer, End, Player, Seen, Wire, connect, take_head};

impl Player {
    pub fn ws_flv(address: SocketAddr, path: &str) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n"
        );
        let socket = connect(address, Buffer::Large);
        Self::start(&format!("ws {path}"), socket, request.as_bytes(), WsFlv::default())
    }
}

/// An open WebSocket.
#[derive(Debug, Default)]
struct WsFlv {
    head: Vec<u8>,
    frames: Vec<u8>,
    /// A message in fragments is under way.
    fragmented: bool,
    flv: Reader,
}

/// The nonce of RFC 6455, 1.3.
const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

impl Wire for WsFlv {
    fn push(
        &mut self,
        bytes: &[u8],
        socket: &mut TcpStream,
        seen: &mut Seen,
    ) -> Result<(), String> {
        let was_open = seen.status.is_some();
        let Some(body) = take_head(&mut self.head, bytes, seen) else { return Ok(()) };
        if seen.status != Some(101) {
            seen.body.extend_from_slice(&body);
            return Ok(());
        }
        if !was_open {
            check_accept(seen)?;
        }
        self.frames.extend_from_slice(&body);
        while let Some((first, payload)) = self.next_frame()? {
            let is_final = first & 0x80 != 0;
            match first & 0x0f {
                0 if self.fragmented => {
                    self.fragmented = !is_final;
                    seen.tags.extend(self.flv.push(&payload)?);
                }
                2 if !self.fragmented => {
                    self.fragmented = !is_final;
                    seen.tags.extend(self.flv.push(&payload)?);
                }
                8 => {
                    let code = payload.get(..2).map_or(1005, |c| u16::from_be_bytes([c[0], c[1]]));
                    let reason = payload.get(2..).unwrap_or_default();
                    let reason = String::from_utf8_lossy(reason).into_owned();
                    seen.end = Some(End::WebSocket(code, reason));
                }
                9 => {
                    // A masked pong with a zero mask. The peer may be gone already.
                    let len = u8::try_from(payload.len()).expect("a control frame is short");
                    let mut pong = vec![0x8a, 0x80 | len, 0, 0, 0, 0];
                    pong.extend_from_slice(&payload);
                    let _ = socket.write_all(&pong);
                }
                10 => {}
                opcode => return Err(format!("opcode {opcode}, fragmented {}", self.fragmented)),
            }
        }
        Ok(())
    }
}

impl WsFlv {
    fn next_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        let [first, second, rest @ ..] = self.frames.as_slice() else { return Ok(None) };
        if second & 0x80 != 0 {
            return Err("a server must not mask".to_owned());
        }
        let extended_len = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(extended) = rest.get(..extended_len) else { return Ok(None) };
        let len = match extended_len {
            0 => usize::from(second & 0x7f),
            _ => extended.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)),
        };
        let start = 2 + extended_len;
        if self.frames.len() < start + len {
            return Ok(None);
        }
        let first = *first;
        let payload = self.frames[start..start + len].to_vec();
        self.frames.drain(..start + len);
        Ok(Some((first, payload)))
    }
}

fn check_accept(seen: &Seen) -> Result<(), String> {
    let mut hash = Sha1::new();
    hash.update(WEBSOCKET_KEY);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let want = STANDARD.encode(hash.finalize());
    let have = seen.headers.iter().find(|(name, _)| name == "sec-websocket-accept");
    match have {
        Some((_, value)) if *value == want => Ok(()),
        other => Err(format!("Sec-WebSocket-Accept {other:?}, want {want}")),
    }
}
