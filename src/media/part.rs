//! Media as a session hands it on: a tag in pieces, each a view of the receive buffer.
//!
//! A tag is never assembled in a session. Its bytes are copied once, from the receive buffer into
//! the stream's arena, by whoever takes these parts.

use bytes::Bytes;

/// What an FLV tag or RTMP message carries (FLV 10.1, E.4.1 `TagType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TagKind {
    Audio = 8,
    Video = 9,
    Script = 18,
}

impl TagKind {
    /// The kind of a type number, if it is one of the three.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            8 => Some(Self::Audio),
            9 => Some(Self::Video),
            18 => Some(Self::Script),
            _ => None,
        }
    }
}

/// One step of media in. For each lane the order is `Begin`, then `Data` until exactly `len` bytes
/// have come, then the next `Begin`. Lanes may interleave (RTMP chunk streams); FLV has one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaPart {
    /// An audio or video tag begins. `len` is at least 1 and at most `MESSAGE_LEN_MAX`.
    Begin { lane: u32, kind: TagKind, timestamp_ms: u32, len: u32 },
    /// The next bytes of the lane's tag; never empty, never more than the tag still lacks.
    Data { lane: u32, bytes: Bytes },
    /// The lane's unfinished tag will not be finished; forget it.
    Abort { lane: u32 },
    /// A whole script tag (AMF0: a name such as `onMetaData` and its values), without a
    /// `@setDataFrame` before it. At most `SCRIPT_LEN_MAX` bytes.
    Script { timestamp_ms: u32, payload: Bytes },
}
