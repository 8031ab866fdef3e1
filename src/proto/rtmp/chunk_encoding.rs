//! The chunk stream, as we write it (RTMP 1.0, 5.3).
//!
//! Each message begins with an fmt 0 chunk: a player may begin at any of them, and one packaging
//! serves all players. Deltas would save 4 to 8 bytes of a message and cost that.

use crate::proto::rtmp::chunk_header::TIMESTAMP_EXTENDED;
use crate::proto::rtmp::message::Message;

/// Chunk stream of protocol control messages (RTMP 1.0, 5.3.1.1).
pub const CSID_CONTROL: u8 = 2;

/// Chunk stream that we use for commands.
pub const CSID_COMMAND: u8 = 3;

/// Chunk stream that we use for audio, as nginx-rtmp and librtmp do; and so for the next two.
pub const CSID_AUDIO: u8 = 4;

/// Chunk stream that we use for scripts.
pub const CSID_SCRIPT: u8 = 5;

/// Chunk stream that we use for video.
pub const CSID_VIDEO: u8 = 6;

/// The fields of a first chunk's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstChunk {
    /// 2 to 63: a basic header of one byte.
    pub csid: u8,
    pub timestamp_ms: u32,
    /// Bytes of the whole message.
    pub message_len: u32,
    pub kind: u8,
    pub stream_id: u32,
}

impl FirstChunk {
    /// Writes the fmt 0 header at the start of `out`; its length, 12 or 16.
    pub fn encode(&self, out: &mut [u8; 16]) -> usize {
        debug_assert!((2..64).contains(&self.csid), "a basic header of one byte");
        let short = self.timestamp_ms.min(TIMESTAMP_EXTENDED);
        out[0] = self.csid;
        out[1..4].copy_from_slice(&short.to_be_bytes()[1..]);
        out[4..7].copy_from_slice(&self.message_len.to_be_bytes()[1..]);
        out[7] = self.kind;
        out[8..12].copy_from_slice(&self.stream_id.to_le_bytes());
        out[12..16].copy_from_slice(&self.timestamp_ms.to_be_bytes());
        if short == TIMESTAMP_EXTENDED { 16 } else { 12 }
    }
}

/// The fmt 3 header of a message's further chunks, and its length, 1 or 5.
pub fn encode_continuation(csid: u8, timestamp_ms: u32) -> ([u8; 5], usize) {
    let [t3, t2, t1, t0] = timestamp_ms.to_be_bytes();
    let len = if timestamp_ms >= TIMESTAMP_EXTENDED { 5 } else { 1 };
    ([0xc0 | csid, t3, t2, t1, t0], len)
}

/// Appends `message` as chunks of at most `chunk_size` to `out`.
pub fn encode_message(csid: u8, message: &Message, chunk_size: usize, out: &mut Vec<u8>) {
    let message_len = u32::try_from(message.payload.len()).expect("our messages are short");
    let Message { kind, timestamp_ms, stream_id, .. } = *message;
    let mut header = [0; 16];
    let first = FirstChunk { csid, timestamp_ms, message_len, kind, stream_id };
    let header_len = first.encode(&mut header);
    out.extend_from_slice(&header[..header_len]);
    for (index, chunk) in message.payload.chunks(chunk_size).enumerate() {
        if index > 0 {
            let (header, header_len) = encode_continuation(csid, timestamp_ms);
            out.extend_from_slice(&header[..header_len]);
        }
        out.extend_from_slice(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn encode(timestamp_ms: u32, payload: &'static [u8]) -> Vec<u8> {
        let payload = Bytes::from_static(payload);
        let message = Message { kind: 9, timestamp_ms, stream_id: 1, payload };
        let mut out = Vec::new();
        encode_message(CSID_VIDEO, &message, 2, &mut out);
        out
    }

    #[test]
    fn message_is_cut_into_chunks() {
        let expected = b"\x06\0\0\x28\0\0\x05\x09\x01\0\0\0ab\xc6cd\xc6e";
        assert_eq!(encode(40, b"abcde"), expected);
        assert_eq!(encode(40, b"").len(), 12);
    }

    #[test]
    fn extended_timestamp_is_in_every_chunk() {
        let expected = b"\x06\xff\xff\xff\0\0\x03\x09\x01\0\0\0\0\xff\xff\xffab\xc6\0\xff\xff\xffc";
        assert_eq!(encode(0x00ff_ffff, b"abc"), expected);
        assert_eq!(encode(0x00ff_fffe, b"abc")[..4], [6, 0xff, 0xff, 0xfe]);
    }
}
