//! WebSocket, the server's side (RFC 6455): the handshake, frames of a player, frame headers of
//! ours. Left out: extensions, subprotocols, what texts and binaries of a player say.
//!
//! ```text
//!  0               1               2 ...
//! |F|RSV|op (4)   |M| length (7)   | 16 or 64 bits of length | masking key (4) | payload
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha1::{Digest, Sha1};

use crate::limits::WEBSOCKET_FRAME_LEN_MAX;

/// What a player does that the protocol forbids; all but two close with 1002.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("reserved bits are set")]
    ReservedBits,
    #[error("opcode {0} is reserved")]
    UnknownOpcode(u8),
    #[error("frame of a client is not masked")]
    Unmasked,
    #[error("frame of a server is masked")]
    Masked,
    #[error("length is not in its shortest form")]
    LongLength,
    #[error("frame is longer than {WEBSOCKET_FRAME_LEN_MAX} bytes")]
    TooLong,
    #[error("control frame is fragmented")]
    FragmentedControl,
    #[error("control frame is longer than 125 bytes")]
    LongControl,
    #[error("continuation without a beginning, or a beginning inside a message")]
    Continuation,
    #[error("close code is reserved or cut")]
    CloseCode,
    #[error("close reason is not UTF-8")]
    CloseReason,
}

impl FrameError {
    /// The close code that tells the peer (RFC 6455 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::TooLong => CLOSE_TOO_BIG,
            Self::CloseReason => CLOSE_INVALID_TEXT,
            _ => CLOSE_PROTOCOL_ERROR,
        }
    }
}

/// A frame of a player that needs an answer. Texts, binaries and pongs are read over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Ping(Bytes),
    /// [`CLOSE_NO_CODE`] when the peer gave none.
    Close(u16),
}

/// Reads a player's frames piece by piece.
#[derive(Debug)]
pub struct FrameReader {
    header: [u8; HEADER_LEN_MAX],
    header_len: usize,
    /// The payload of a control frame; a data frame's is dropped as it comes.
    control: [u8; CONTROL_LEN_MAX],
    payload: Option<Payload>,
    in_message: bool,
}

#[derive(Debug, Clone, Copy)]
struct Payload {
    opcode: u8,
    mask: [u8; 4],
    len: usize,
    at: usize,
}

impl FrameReader {
    pub fn new() -> Self {
        Self {
            header: [0; HEADER_LEN_MAX],
            header_len: 0,
            control: [0; CONTROL_LEN_MAX],
            payload: None,
            in_message: false,
        }
    }

    /// Reads on in `input`, taking what it consumes off its front, up to the next frame that needs
    /// an answer; `None` when all is consumed.
    ///
    /// # Errors
    /// [`FrameError`]; no frame can be read after it.
    pub fn poll_frame(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(mut payload) = self.payload {
                let len = input.len().min(payload.len - payload.at);
                let (taken, rest) = input.split_at(len);
                *input = rest;
                self.take(&mut payload, taken);
                self.payload = Some(payload);
                if payload.at < payload.len {
                    return Ok(None);
                }
                self.payload = None;
                if let Some(frame) = self.finish(payload)? {
                    return Ok(Some(frame));
                }
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            self.header[self.header_len] = byte;
            self.header_len += 1;
            self.payload = self.parse_header()?;
        }
    }

    fn take(&mut self, payload: &mut Payload, taken: &[u8]) {
        if payload.opcode & CONTROL_BIT != 0 {
            for (index, &byte) in (payload.at..).zip(taken) {
                self.control[index] = byte ^ payload.mask[index % 4];
            }
        }
        payload.at += taken.len();
    }

    /// Checks the header bytes so far; the payload that they announce once they are complete.
    fn parse_header(&mut self) -> Result<Option<Payload>, FrameError> {
        let first = self.header[0];
        let (is_final, opcode) = (first & 0x80 != 0, first & 0x0f);
        if self.header_len == 1 {
            self.check_first(first, is_final, opcode)?;
            return Ok(None);
        }
        let short_len = self.header[1] & 0x7f;
        if self.header_len == 2 {
            if self.header[1] & 0x80 == 0 {
                return Err(FrameError::Unmasked);
            }
            if opcode & CONTROL_BIT != 0 && usize::from(short_len) > CONTROL_LEN_MAX {
                return Err(FrameError::LongControl);
            }
        }
        let mask_start = match short_len {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        if self.header_len < mask_start + 4 {
            return Ok(None);
        }
        let extended =
            self.header[2..mask_start].iter().fold(0, |len: u64, &byte| len << 8 | u64::from(byte));
        let len = match short_len {
            126 if extended < 126 => return Err(FrameError::LongLength),
            127 if extended <= u64::from(u16::MAX) => return Err(FrameError::LongLength),
            126 | 127 => extended,
            short => u64::from(short),
        };
        if len > WEBSOCKET_FRAME_LEN_MAX as u64 {
            return Err(FrameError::TooLong);
        }
        if opcode & CONTROL_BIT == 0 {
            self.in_message = !is_final;
        }
        let mask = self.header[mask_start..mask_start + 4].try_into().expect("four bytes");
        self.header_len = 0;
        Ok(Some(Payload { opcode, mask, len: len as usize, at: 0 }))
    }

    fn check_first(&self, first: u8, is_final: bool, opcode: u8) -> Result<(), FrameError> {
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBits);
        }
        match opcode {
            OPCODE_CONTINUATION if !self.in_message => Err(FrameError::Continuation),
            OPCODE_TEXT | OPCODE_BINARY if self.in_message => Err(FrameError::Continuation),
            OPCODE_CONTINUATION | OPCODE_TEXT | OPCODE_BINARY => Ok(()),
            OPCODE_CLOSE | OPCODE_PING | OPCODE_PONG if is_final => Ok(()),
            OPCODE_CLOSE | OPCODE_PING | OPCODE_PONG => Err(FrameError::FragmentedControl),
            _ => Err(FrameError::UnknownOpcode(opcode)),
        }
    }

    fn finish(&self, payload: Payload) -> Result<Option<Frame>, FrameError> {
        match payload.opcode {
            OPCODE_PING => {
                Ok(Some(Frame::Ping(Bytes::copy_from_slice(&self.control[..payload.len]))))
            }
            OPCODE_CLOSE => Ok(Some(Frame::Close(parse_close(&self.control[..payload.len])?))),
            _ => Ok(None),
        }
    }
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) fn parse_close(payload: &[u8]) -> Result<u16, FrameError> {
    match payload {
        [] => Ok(CLOSE_NO_CODE),
        [_] => Err(FrameError::CloseCode),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(FrameError::CloseCode);
            }
            std::str::from_utf8(reason).map_err(|_| FrameError::CloseReason)?;
            Ok(code)
        }
    }
}

/// The header of a binary frame of ours, which is never masked, and how many of its bytes count.
pub fn encode_header(len: u64) -> ([u8; 10], usize) {
    encode_header_of(OPCODE_BINARY, len)
}

/// A pong with the payload of the ping that it answers.
///
/// # Panics
/// If `payload` is longer than a control frame may be; that of a read ping never is.
pub fn encode_pong(payload: &[u8]) -> Bytes {
    encode_control(OPCODE_PONG, payload)
}

/// A close frame. A reason that does not fit is cut; [`CLOSE_NO_CODE`] is sent as no code.
pub fn encode_close(code: u16, reason: &str) -> Bytes {
    if code == CLOSE_NO_CODE {
        return encode_control(OPCODE_CLOSE, &[]);
    }
    let mut reason_len = reason.len().min(CONTROL_LEN_MAX - 2);
    while !reason.is_char_boundary(reason_len) {
        reason_len -= 1;
    }
    let payload = [&code.to_be_bytes()[..], &reason.as_bytes()[..reason_len]].concat();
    encode_control(OPCODE_CLOSE, &payload)
}

fn encode_control(opcode: u8, payload: &[u8]) -> Bytes {
    assert!(payload.len() <= CONTROL_LEN_MAX, "control frames are short");
    let (header, header_len) = encode_header_of(opcode, payload.len() as u64);
    [&header[..header_len], payload].concat().into()
}

fn encode_header_of(opcode: u8, len: u64) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = 0x80 | opcode;
    let header_len = match len {
        0..=125 => {
            header[1] = len as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&len.to_be_bytes());
            10
        }
    };
    (header, header_len)
}

/// Whether a `Sec-WebSocket-Key` is 16 bytes in Base64.
pub(super) fn is_key(text: &str) -> bool {
    STANDARD.decode(text).is_ok_and(|key| key.len() == 16)
}

/// The `Sec-WebSocket-Accept` that answers a key (RFC 6455 4.2.2).
pub fn accept_of(key: &str) -> String {
    let hash = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize();
    STANDARD.encode(hash)
}

/// Close code of a close frame without one; never sent (RFC 6455 7.4.1).
pub const CLOSE_NO_CODE: u16 = 1005;
/// Close code of a connection that ended without a close frame; never sent.
pub const CLOSE_ABNORMAL: u16 = 1006;
pub const CLOSE_PROTOCOL_ERROR: u16 = 1002;
pub const CLOSE_INVALID_TEXT: u16 = 1007;
pub const CLOSE_TOO_BIG: u16 = 1009;

pub(super) const OPCODE_CONTINUATION: u8 = 0;
pub(super) const OPCODE_TEXT: u8 = 1;
pub(super) const OPCODE_BINARY: u8 = 2;
pub(super) const OPCODE_CLOSE: u8 = 8;
pub(super) const OPCODE_PING: u8 = 9;
pub(super) const OPCODE_PONG: u8 = 10;
pub(super) const CONTROL_BIT: u8 = 8;
pub(super) const CONTROL_LEN_MAX: usize = 125;
const HEADER_LEN_MAX: usize = 14;
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::proto::http::testing::at_every_split;

    /// A client's frame, masked.
    pub(in crate::proto::http) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let (header, header_len) = encode_header(payload.len() as u64);
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![first, header[1] | 0x80];
        frame.extend_from_slice(&header[2..header_len]);
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
        frame
    }

    fn read(pieces: &[Bytes]) -> (Vec<Frame>, Option<FrameError>) {
        let (mut reader, mut frames) = (FrameReader::new(), Vec::new());
        for piece in pieces {
            let mut rest = &piece[..];
            loop {
                match reader.poll_frame(&mut rest) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    }

    #[test]
    fn accept_matches_the_example_of_the_specification() {
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for bad in ["", "dGhl", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZXh4"] {
            assert!(!is_key(bad), "{bad}");
        }
    }

    #[test]
    fn frames_are_read_at_every_split() {
        let input = [
            client_frame(0x81, b"text"),
            client_frame(0x89, b"12345"),
            client_frame(0x02, &[7; 200]),
            client_frame(0x89, b""),
            client_frame(0x80, b"end of the binary"),
            client_frame(0x8a, b"pong"),
            client_frame(0x88, &[&1001u16.to_be_bytes()[..], "é".as_bytes()].concat()),
        ]
        .concat();
        at_every_split(&input, |pieces| {
            let (frames, error) = read(pieces);
            assert_eq!(error, None);
            let ping = |payload| Frame::Ping(Bytes::from_static(payload));
            assert_eq!(frames, [ping(b"12345"), ping(b""), Frame::Close(1001)]);
        });
    }

    #[test]
    fn forbidden_frames_are_refused_at_every_split() {
        let too_long = client_frame(0x82, &[0; WEBSOCKET_FRAME_LEN_MAX + 1]);
        let text_in_message = [client_frame(0x01, b"a"), client_frame(0x81, b"b")].concat();
        let late_continuation = [client_frame(0x81, b"a"), client_frame(0x80, b"b")].concat();
        let table: &[(FrameError, u16, &[u8])] = &[
            (FrameError::ReservedBits, 1002, &client_frame(0xc1, b"")),
            (FrameError::UnknownOpcode(3), 1002, &client_frame(0x83, b"")),
            (FrameError::UnknownOpcode(11), 1002, &client_frame(0x8b, b"")),
            (FrameError::Unmasked, 1002, &[0x81, 1, b'a']),
            (FrameError::LongLength, 1002, &[0x81, 0xfe, 0, 125, 1, 2, 3, 4]),
            (FrameError::LongLength, 1002, &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4]),
            (FrameError::TooLong, 1009, &too_long[..8]),
            (FrameError::TooLong, 1009, &[0x82, 0xff, 255, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
            (FrameError::FragmentedControl, 1002, &client_frame(0x09, b"")),
            (FrameError::LongControl, 1002, &client_frame(0x89, &[0; 126])),
            (FrameError::Continuation, 1002, &client_frame(0x80, b"")),
            (FrameError::Continuation, 1002, &text_in_message),
            (FrameError::Continuation, 1002, &late_continuation),
            (FrameError::CloseCode, 1002, &client_frame(0x88, b"x")),
            (FrameError::CloseCode, 1002, &client_frame(0x88, &1005u16.to_be_bytes())),
            (FrameError::CloseCode, 1002, &client_frame(0x88, &999u16.to_be_bytes())),
            (FrameError::CloseReason, 1007, &client_frame(0x88, b"\x03\xe8\xff")),
        ];
        for &(error, code, input) in table {
            assert_eq!(error.close_code(), code);
            at_every_split(input, |pieces| {
                assert_eq!(read(pieces), (vec![], Some(error)), "{input:?}");
            });
        }
    }

    #[test]
    fn longest_frame_is_read() {
        let input = client_frame(0x82, &[0; WEBSOCKET_FRAME_LEN_MAX]);
        assert_eq!(read(&[input.into()]), (vec![], None));
    }

    #[test]
    fn headers_are_the_shortest() {
        let table: &[(u64, &[u8])] = &[
            (0, &[0x82, 0]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 255, 255]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ];
        for &(len, bytes) in table {
            let (header, header_len) = encode_header(len);
            assert_eq!(&header[..header_len], bytes);
        }
    }

    #[test]
    fn close_frames_fit_and_stay_text() {
        assert_eq!(&encode_close(CLOSE_NO_CODE, "x")[..], [0x88, 0]);
        assert_eq!(&encode_close(1001, "by")[..], [0x88, 4, 3, 233, b'b', b'y']);
        let long = encode_close(1001, &"é".repeat(100));
        assert_eq!(long[1], 124, "123 bytes of reason would cut a character");
        assert!(std::str::from_utf8(&long[4..]).is_ok());
    }
}
