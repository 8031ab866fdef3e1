//! What a peer can do wrong.

use crate::limits::{HEADERS_MAX, RTSP_BODY_LEN_MAX, RTSP_HEAD_LEN_MAX};

/// Faults in the stream of messages. The place of the next message is not known after one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("byte {0:#04x} begins no message")]
    NoMessage(u8),
    #[error("message is not RTSP/1.0")]
    Version,
    #[error("malformed head: {0}")]
    BadHead(&'static str),
    #[error("head is longer than {RTSP_HEAD_LEN_MAX} bytes or {HEADERS_MAX} headers")]
    HeadTooLong,
    #[error("body is longer than {RTSP_BODY_LEN_MAX} bytes")]
    BodyTooLong,
}
