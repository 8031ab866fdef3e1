//! What a peer can do wrong.

use crate::limits::{
    CHUNK_STREAMS_MAX, HELD_INPUT_LEN_MAX, MESSAGE_LEN_MAX, PARAMS_LEN_MAX, SCRIPT_LEN_MAX,
};
use crate::proto::flv::FlvError;
use crate::proto::rtmp::client::ClientStage;
use crate::proto::rtmp::publisher::PublisherStage;

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

/// Why a server session died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error("handshake did not complete in time")]
    HandshakeTimeout,
    #[error("neither publish nor play was asked for in time")]
    CommandTimeout,
    #[error("command {0} is not allowed now")]
    UnexpectedCommand(&'static str),
    #[error("command {0} has no usable arguments")]
    MalformedCommand(&'static str),
    #[error("stream parameters are longer than {PARAMS_LEN_MAX} bytes")]
    ParamsTooLong,
    #[error("more than {HELD_INPUT_LEN_MAX} bytes before the publisher was accepted")]
    TooMuchBeforeAccept,
}

/// Why a client session died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error("timed out {0}")]
    Timeout(ClientStage),
    #[error("createStream was answered without a stream id")]
    NoStreamId,
}

/// Why a publisher session died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublisherError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error("timed out {0}")]
    Timeout(PublisherStage),
    #[error("createStream was answered without a stream id")]
    NoStreamId,
}
