//! What a peer can do wrong.

use crate::limits::{
    HEADERS_MAX, HELD_INPUT_LEN_MAX, RTSP_AUTH_ATTEMPTS_MAX, RTSP_BODY_LEN_MAX, RTSP_HEAD_LEN_MAX,
    RTSP_REQUESTS_AT_ONCE_MAX,
};

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

/// Why a server session died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("no PLAY or RECORD came in time")]
    CommandTimeout,
    #[error("player over UDP, or one that paused, gave no sign of life in time")]
    SessionTimeout,
    #[error("more than {HELD_INPUT_LEN_MAX} bytes before the answer to a request")]
    TooMuchBeforeAnswer,
    #[error("more than {RTSP_REQUESTS_AT_ONCE_MAX} requests at once")]
    TooManyAtOnce,
    #[error("more than {RTSP_AUTH_ATTEMPTS_MAX} wrong credentials")]
    TooManyAttempts,
}

impl ServerError {
    /// What peers did wrong, in few words, for those who count it.
    pub const REASONS: [&str; 6] =
        ["malformed", "too_large", "no_request", "silent", "too_many", "credentials"];

    /// Its place in [`Self::REASONS`].
    pub fn reason(self) -> usize {
        match self {
            Self::Message(MessageError::HeadTooLong | MessageError::BodyTooLong) => 1,
            Self::Message(_) => 0,
            Self::CommandTimeout => 2,
            Self::SessionTimeout => 3,
            Self::TooMuchBeforeAnswer | Self::TooManyAtOnce => 4,
            Self::TooManyAttempts => 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_counted_by_its_reason() {
        let table = [
            (MessageError::NoMessage(0).into(), "malformed"),
            (MessageError::Version.into(), "malformed"),
            (MessageError::BadHead("blank").into(), "malformed"),
            (MessageError::HeadTooLong.into(), "too_large"),
            (MessageError::BodyTooLong.into(), "too_large"),
            (ServerError::CommandTimeout, "no_request"),
            (ServerError::SessionTimeout, "silent"),
            (ServerError::TooMuchBeforeAnswer, "too_many"),
            (ServerError::TooManyAtOnce, "too_many"),
            (ServerError::TooManyAttempts, "credentials"),
        ];
        for (error, reason) in table {
            assert_eq!(ServerError::REASONS[error.reason()], reason, "{error}");
        }
    }
}
