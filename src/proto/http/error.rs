//! Why an HTTP connection cannot go on, and the status that tells the peer.

use crate::limits::{
    HEADERS_MAX, HOOK_REPLY_LEN_MAX, REPLY_HEAD_LEN_MAX, REQUEST_BODY_LEN_MAX,
    REQUEST_HEAD_LEN_MAX, REQUEST_HELD_LEN_MAX, REQUEST_LINE_LEN_MAX,
};
use crate::proto::http::websocket::FrameError;

/// A fault of the peer or a passed deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    #[error("malformed head: {0}")]
    BadHead(&'static str),
    #[error("request line is longer than {REQUEST_LINE_LEN_MAX} bytes")]
    LineTooLong,
    #[error("request head is longer than {REQUEST_HEAD_LEN_MAX} bytes or {HEADERS_MAX} headers")]
    HeadTooLarge,
    #[error("reply head is longer than {REPLY_HEAD_LEN_MAX} bytes or {HEADERS_MAX} headers")]
    ReplyHeadTooLarge,
    #[error("request body is larger than {REQUEST_BODY_LEN_MAX} bytes")]
    BodyTooLarge,
    #[error("reply is larger than {HOOK_REPLY_LEN_MAX} bytes")]
    ReplyTooLarge,
    #[error("method is not one that we serve")]
    MethodUnknown,
    #[error("HTTP version is not 1.0 or 1.1")]
    VersionUnsupported,
    #[error("transfer coding is not chunked")]
    TransferCodingUnknown,
    #[error("expectation is not 100-continue")]
    ExpectationUnknown,
    #[error("WebSocket version is not 13")]
    WebSocketVersion,
    #[error("malformed chunk: {0}")]
    BadChunk(&'static str),
    #[error("request was not complete in time")]
    RequestTimeout,
    #[error("no request came in time")]
    IdleTimeout,
    #[error("more than {REQUEST_HELD_LEN_MAX} bytes came before the answer to the last request")]
    HeldTooMuch,
    #[error("no reply came in time")]
    ReplyTimeout,
    #[error("reply body fell silent")]
    BodyTimeout,
    #[error("peer closed in the middle of a message")]
    Truncated,
    #[error("WebSocket: {0}")]
    WebSocket(#[from] FrameError),
}

impl HttpError {
    /// The status that a server answers before it closes; `None` where it closes without a word.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::BadHead(_) | Self::BadChunk(_) => Some(400),
            Self::LineTooLong => Some(414),
            Self::HeadTooLarge => Some(431),
            Self::BodyTooLarge => Some(413),
            Self::MethodUnknown | Self::TransferCodingUnknown => Some(501),
            Self::VersionUnsupported => Some(505),
            Self::ExpectationUnknown => Some(417),
            Self::WebSocketVersion => Some(426),
            Self::RequestTimeout => Some(408),
            Self::IdleTimeout
            | Self::HeldTooMuch
            | Self::ReplyHeadTooLarge
            | Self::ReplyTooLarge
            | Self::ReplyTimeout
            | Self::BodyTimeout
            | Self::Truncated
            | Self::WebSocket(_) => None,
        }
    }
}
