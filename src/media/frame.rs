//! One coded frame: a picture of a video codec, a unit of an audio codec.

use crate::media::{Codec, Payload};

/// A coded frame, as depacketizers make it and packetizers take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub codec: Codec,
    /// A player can start at this frame. Only video has keyframes.
    pub keyframe: bool,
    /// Presentation time in ticks of the track's RTP clock, modulo 2^32.
    pub timestamp: u32,
    /// H.264 and H.265: NAL units, each behind its length in four bytes, without parameter sets,
    /// delimiters and filler. AAC: a raw access unit. Others: the codec's own bytes.
    pub payload: Payload,
}
