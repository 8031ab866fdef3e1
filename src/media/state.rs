//! The words for what a stream is doing and why it failed or ended; the life cycle, the bus and
//! the API share them.

use std::fmt;

/// Tells one life of a key from the next: what carries an older one is late, and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// Pending: players wait for it, and nobody brings it.
    AwaitingSource,
    /// Pending: the pull waits for its origin's connect budget.
    Queued,
    Resolving,
    Connecting,
    Handshaking,
    AwaitingMedia,
    /// Pending: the last attempt failed, the next one has its time.
    BackingOff,
    Registered,
}

impl StreamState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwaitingSource => "awaiting_source",
            Self::Queued => "queued",
            Self::Resolving => "resolving",
            Self::Connecting => "connecting",
            Self::Handshaking => "handshaking",
            Self::AwaitingMedia => "awaiting_media",
            Self::BackingOff => "backing_off",
            Self::Registered => "registered",
        }
    }
}

/// Why an attempt to pull failed; decides how soon the next one may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The name has no address.
    Unresolved,
    /// The host answered the connect with a reset.
    Refused,
    /// No route, or an ICMP error.
    Unreachable,
    /// The connect was not answered in time.
    TimedOut,
    /// Its turn in the origin's connect budget did not come in time.
    Busy,
    /// The origin said no, other than that the stream is missing.
    Rejected,
    NotFound,
    /// The origin said that it can't now: it is overloaded, shutting down, or failed itself.
    Unavailable,
    /// Our own rules forbid to connect there.
    Denied,
    /// Connected, and then nothing.
    Silent,
    Protocol,
    /// The connection ended.
    Lost,
}

impl ErrorClass {
    pub const ALL: [Self; 12] = [
        Self::Unresolved,
        Self::Refused,
        Self::Unreachable,
        Self::TimedOut,
        Self::Busy,
        Self::Rejected,
        Self::NotFound,
        Self::Unavailable,
        Self::Denied,
        Self::Silent,
        Self::Protocol,
        Self::Lost,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Busy => "busy",
            Self::Rejected => "rejected",
            Self::NotFound => "not_found",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Silent => "silent",
            Self::Protocol => "protocol_error",
            Self::Lost => "lost",
        }
    }
}

/// An attempt's failure: its class, and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub class: ErrorClass,
    pub text: String,
}

impl Fault {
    pub fn new(class: ErrorClass, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }

    /// With no more than so many bytes of its text.
    pub fn clipped(&self, len_max: usize) -> Self {
        let mut len = len_max.min(self.text.len());
        while !self.text.is_char_boundary(len) {
            len -= 1;
        }
        Self::new(self.class, &self.text[..len])
    }
}

/// Why players and waiters of a stream are sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The publisher ended it in an orderly way.
    Unpublished,
    /// The source was lost and did not come back within the grace period.
    SourceLost,
    /// Another source took over, whose tracks are not those that the player was told.
    TracksChanged,
    /// `delStreamProxy`.
    Deleted,
    /// `close_stream` or `close_streams`.
    Closed,
    /// A pull that is not retried any more.
    GaveUp,
    /// Nobody had played it for as long as it may be idle.
    Idle,
    /// Every origin said that it lacks it.
    NotFound,
    /// No stream came within `max_stream_wait_ms`.
    WaitOver,
    /// The hook that was told of a missing stream had its waiters sent away.
    SentAway,
    /// Origins said a moment ago that they lack it.
    KnownMissing,
    /// Origins could not be asked for it a moment ago.
    KnownFailed,
    /// None of the stream's codecs can be carried in the form that was asked for.
    NotCarried,
    /// No origin could be asked for it.
    OriginFailed,
    /// The player was too far behind for too long.
    TooSlow,
    /// Its connection broke while it was sent to.
    Broken,
    /// A hook did not let it.
    Denied,
    /// Kicked by the operator.
    Kicked,
    /// The connect budget of its origins was used up.
    Busy,
    /// It would have to be pulled, and too many pulls are pending.
    TooManyPulls,
    /// A limit of this node.
    Overloaded,
    Shutdown,
}

impl EndReason {
    /// There is just no such stream here; nothing failed and nobody ended it.
    pub fn is_absence(self) -> bool {
        matches!(self, Self::NotFound | Self::WaitOver | Self::SentAway | Self::KnownMissing)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unpublished => "unpublished",
            Self::SourceLost => "source_lost",
            Self::TracksChanged => "tracks_changed",
            Self::Deleted => "deleted",
            Self::Closed => "closed",
            Self::GaveUp => "gave_up",
            Self::Idle => "idle",
            Self::NotFound => "not_found",
            Self::WaitOver => "wait_over",
            Self::SentAway => "sent_away",
            Self::KnownMissing => "known_missing",
            Self::KnownFailed => "known_failed",
            Self::NotCarried => "not_carried",
            Self::OriginFailed => "origin_failed",
            Self::TooSlow => "too_slow",
            Self::Broken => "broken",
            Self::Denied => "denied",
            Self::Kicked => "kicked",
            Self::Busy => "busy",
            Self::TooManyPulls => "too_many_pulls",
            Self::Overloaded => "overloaded",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What a close gave back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Released {
    pub sockets: u32,
    pub timers: u32,
    pub players: u32,
    pub waiters: u32,
    /// Bytes of media that were held for the stream, counted once where shards share them.
    pub bytes: u64,
}

impl std::ops::AddAssign for Released {
    fn add_assign(&mut self, other: Self) {
        self.sockets += other.sockets;
        self.timers += other.timers;
        self.players += other.players;
        self.waiters += other.waiters;
        self.bytes += other.bytes;
    }
}
