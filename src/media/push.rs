//! A push: a stream that is sent on to another server.

/// How far a push has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushState {
    /// The stream that it sends on is not registered.
    AwaitingSource,
    /// It waits for its destination's connect budget.
    Queued,
    Resolving,
    Connecting,
    Handshaking,
    /// The destination is ready, and the stream's media is not yet.
    AwaitingMedia,
    /// The last attempt failed, the next one has its time.
    BackingOff,
    Up,
}

impl PushState {
    pub const ALL: [Self; 8] = [
        Self::AwaitingSource,
        Self::Queued,
        Self::Resolving,
        Self::Connecting,
        Self::Handshaking,
        Self::AwaitingMedia,
        Self::BackingOff,
        Self::Up,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwaitingSource => "awaiting_source",
            Self::Queued => "queued",
            Self::Resolving => "resolving",
            Self::Connecting => "connecting",
            Self::Handshaking => "handshaking",
            Self::AwaitingMedia => "awaiting_media",
            Self::BackingOff => "backing_off",
            Self::Up => "up",
        }
    }
}

/// MD5 of a destination's URL: tells the pushes of a stream apart, as ZLMediaKit has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UrlDigest(pub [u8; 16]);
