//! What a peer can do wrong.

use crate::limits::{CHUNK_STREAMS_MAX, MESSAGE_LEN_MAX, SCRIPT_LEN_MAX};
use crate::proto::flv::FlvError;

/// Faults in the chunk stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("chunk stream {0} begins without a message header")]
    NoMessageHeader(u32),
    #[error("more than {CHUNK_STREAMS_MAX} chunk streams")]
    TooManyChunkStreams,
    #[error("media message of {0} bytes is longer than {MESSAGE_LEN_MAX}")]
    MediaTooLong(u32),
    #[error("message of type {kind} with {len} bytes is longer than {SCRIPT_LEN_MAX}")]
    MessageTooLong { kind: u8, len: u32 },
    #[error("chunk size of zero")]
    ChunkSizeZero,
    #[error("protocol control message of type {0} is cut off")]
    ControlCutOff(u8),
    #[error("aggregate message: {0}")]
    Aggregate(#[from] FlvError),
}

/// Faults before the first chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("RTMP version {0} is not 3")]
    Version(u8),
    #[error("encrypted RTMP (version {0}) is not served")]
    Encrypted(u8),
}
