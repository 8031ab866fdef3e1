//! What the media ring reports, and the tokens that say to whom.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::buffers::Received;

/// The caller's name for an operation, handed back with each of its completions.
///
/// Token and [`OpKind`] together must be unique among the operations in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

impl Token {
    /// The largest value: the kernel's 64 bits of user data less the byte for the [`OpKind`].
    pub const VALUE_MAX: u64 = (1 << KIND_SHIFT) - 1;

    /// A token of the caller's 56 bits.
    ///
    /// # Panics
    ///
    /// If `value` is above [`Self::VALUE_MAX`].
    pub const fn new(value: u64) -> Self {
        assert!(value <= Self::VALUE_MAX, "a token has 56 bits");
        Self(value)
    }

    /// The caller's 56 bits.
    pub const fn value(self) -> u64 {
        self.0
    }

    pub(super) const fn user_data(self, kind: OpKind) -> u64 {
        self.0 | (kind as u64) << KIND_SHIFT
    }

    /// The inverse of [`Self::user_data`]; `None` for the ring's own operations (cancel, wake).
    pub(super) const fn from_user_data(user_data: u64) -> Option<(Self, OpKind)> {
        let kind = match user_data >> KIND_SHIFT {
            1 => OpKind::Accept,
            2 => OpKind::Receive,
            3 => OpKind::Connect,
            4 => OpKind::PollWritable,
            5 => OpKind::PollReadable,
            _ => return None,
        };
        Some((Self(user_data & Self::VALUE_MAX), kind))
    }
}

/// The kinds of operation of a [`super::MediaRing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpKind {
    /// Multishot accept.
    Accept = 1,
    /// Multishot receive.
    Receive = 2,
    /// Connect.
    Connect = 3,
    /// One-shot poll for writability.
    PollWritable = 4,
    /// One-shot poll for input.
    PollReadable = 5,
}

/// One thing that happened to an operation in flight.
#[derive(Debug)]
pub struct Completion {
    /// The token that the operation was armed with.
    pub token: Token,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to an operation.
///
/// Every armed operation yields exactly one outcome that [`Self::is_terminal`]; it is the last one.
#[derive(Debug)]
pub enum Outcome {
    /// A connection was accepted: nonblocking, close-on-exec. Its options are not set.
    Accepted(OwnedFd),
    /// The accept operation is over. After `Rearm` or an error the listener still works.
    AcceptEnded(Ended),
    /// Bytes came in.
    Received(Received),
    /// The receive operation is over. After `Rearm` and `NoBuffers` no byte was lost: arm it again.
    ReceiveEnded(Ended),
    /// The connect operation is over; `ECANCELED` after a cancel.
    Connected(Result<(), Errno>),
    /// The socket takes bytes again, or has an error that the next send will tell.
    Writable,
    /// The poll operation is over without an answer.
    PollEnded(Ended),
    /// The socket has input or an error, which the next receive will tell, or a cancel reached the poll.
    Readable,
}

impl Outcome {
    /// Whether the operation is over: the kernel holds nothing of it any more.
    pub const fn is_terminal(&self) -> bool {
        !matches!(self, Self::Accepted(_) | Self::Received(_))
    }

    /// The kind of the operation.
    pub const fn kind(&self) -> OpKind {
        match self {
            Self::Accepted(_) | Self::AcceptEnded(_) => OpKind::Accept,
            Self::Received(_) | Self::ReceiveEnded(_) => OpKind::Receive,
            Self::Connected(_) => OpKind::Connect,
            Self::Writable | Self::PollEnded(_) => OpKind::PollWritable,
            Self::Readable => OpKind::PollReadable,
        }
    }
}

/// Why an operation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The peer sends no more.
    Eof,
    /// The socket failed.
    Error(Errno),
    /// A cancel reached it.
    Cancelled,
    /// All receive buffers are held by views. Arm again when some have been dropped.
    NoBuffers,
    /// The kernel gave up the multishot for a reason of its own (its completion queue was full).
    Rearm,
}

impl Ended {
    pub(super) fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::ECANCELED => Self::Cancelled,
            Errno::ENOBUFS => Self::NoBuffers,
            errno => Self::Error(errno),
        }
    }
}

pub(super) const CANCEL_USER_DATA: u64 = 6 << KIND_SHIFT;
pub(super) const WAKE_USER_DATA: u64 = 7 << KIND_SHIFT;

const KIND_SHIFT: u32 = 56;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_and_kind_survive_user_data() {
        let kinds = [
            OpKind::Accept,
            OpKind::Receive,
            OpKind::Connect,
            OpKind::PollWritable,
            OpKind::PollReadable,
        ];
        for kind in kinds {
            for value in [0, 1, Token::VALUE_MAX] {
                let token = Token::new(value);
                assert_eq!(Token::from_user_data(token.user_data(kind)), Some((token, kind)));
            }
        }
        assert_eq!(Token::from_user_data(CANCEL_USER_DATA), None);
        assert_eq!(Token::from_user_data(WAKE_USER_DATA), None);
    }

    #[test]
    #[should_panic(expected = "56 bits")]
    fn token_of_57_bits_is_refused() {
        let _ = Token::new(Token::VALUE_MAX + 1);
    }
}
