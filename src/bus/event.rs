//! What happens to streams and their players, as shards tell the keeper of the event log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::view::StreamView;
use crate::access::Denied;
use crate::media::state::{EndReason, Fault, Generation};
use crate::media::{ConnectionId, Form, SourceUrl, StreamKey};

/// Something happened to a stream. What a key's owner tells comes in the order in which it happened;
/// what is told of players comes from the shard that has them.
#[derive(Debug, Clone)]
pub struct Event {
    pub key: StreamKey,
    /// Which life of the key; `None` where the shard of a player does not know it.
    pub generation: Option<Generation>,
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum What {
    /// The key is asked for, somebody has come to bring it, or a pull that is not up has other sources.
    Pending {
        by: Asker,
        url: Option<Arc<SourceUrl>>,
    },
    /// A try of a pull that was not up; `next_try` is `None` where it was the last.
    AttemptFailed {
        url: Arc<SourceUrl>,
        fault: Fault,
        attempt: u32,
        next_try: Option<Duration>,
    },
    /// Media has come: for the first time, or again where `back`. `before` are the forms in which it was
    /// told to be registered and not to be gone since.
    Registered {
        view: Option<Box<StreamView>>,
        url: Option<Arc<SourceUrl>>,
        back: bool,
        before: Vec<Form>,
    },
    /// A publisher goes on with a stream that was kept.
    SourceSwitched {
        connection: ConnectionId,
        peer: SocketAddr,
    },
    /// Another source of a pull brings the stream.
    SourceReplaced {
        from: Arc<SourceUrl>,
        url: Arc<SourceUrl>,
        why: Switch,
    },
    /// A source that was tried beside another one has failed.
    SourceFailed {
        url: Arc<SourceUrl>,
        fault: Fault,
    },
    /// A registered stream can be played in other forms than was told, as its codecs are others now.
    FormsChanged {
        view: Option<Box<StreamView>>,
        before: Vec<Form>,
        forms: Vec<Form>,
    },
    /// A registered stream has lost its source; its players are kept.
    Lost {
        url: Option<Arc<SourceUrl>>,
        fault: Fault,
        next_try: Option<Duration>,
    },
    /// A lost source has not come back in time: the players go. `forms` are those in which the stream was
    /// told to be registered.
    GraceOver {
        forms: Vec<Form>,
    },
    /// The life of the key is over; `url` is that of a pull, `forms` are those in which it was told to be
    /// registered.
    Ended {
        reason: End,
        forms: Vec<Form>,
        url: Option<Arc<SourceUrl>>,
    },
    /// How a push of the stream gets on; `url` is its destination.
    Push {
        url: Arc<SourceUrl>,
        step: PushStep,
    },
    /// Registered, and without a player for as long as the pull or `stream.none_reader_delay_ms` says.
    Unwatched,
    /// It asked to play what is not here, and waits.
    PlayerWaits(Box<Peer>),
    PlayerStarted(Box<Peer>),
    PlayerRefused {
        peer: Box<Peer>,
        reason: Refusal,
    },
    /// A player was too far behind and has jumped to a keyframe, so often by now; told when the
    /// number doubles.
    PlayerSlow {
        connection: ConnectionId,
        jumps: u32,
    },
    PlayerEvicted {
        connection: ConnectionId,
    },
    /// A connection that played or published is closed. Without a reason the peer ended it.
    Left {
        peer: Box<Peer>,
        reason: Option<EndReason>,
        traffic: Traffic,
    },
}

/// Why another source of a pull brings its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Switch {
    /// The one before was lost, or silent.
    #[default]
    Lost,
    /// The pull was to have it.
    Updated,
}

impl Switch {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Updated => "updated",
        }
    }
}

/// What happened to a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushStep {
    Pending,
    /// A try has failed, or the destination that took the stream is lost; `next_try` is `None` where
    /// it was the last.
    Failed {
        fault: Fault,
        was_up: bool,
        attempt: u32,
        next_try: Option<Duration>,
    },
    Up,
    /// Its stream is gone; it waits for it.
    Waits,
    Ended(EndReason),
}

/// Who made a key pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Players,
    /// A node that is not pulled for.
    Edge,
    Publisher,
    Pull,
    /// A pull on demand.
    Demand,
}

/// Why the life of a key is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    For(EndReason),
    /// It was pending, and the last of those who waited for it went.
    Abandoned,
}

/// Why a player is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// What it asked for is not to be had, or a hook did not let it.
    For(EndReason),
    /// A rule of `access` is against it.
    Access(Denied),
    /// `limits.joins_per_second_max`, or that of its address.
    TooManyJoins,
}

/// A connection that plays or publishes, or wants to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub connection: ConnectionId,
    pub address: SocketAddr,
    /// ZLMediaKit's word for what it speaks: `rtmp`, `http`, `ws`, `rtsp`.
    pub protocol: &'static str,
    /// The query that it came with, raw.
    pub params: String,
    pub is_player: bool,
}

/// What went over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub seconds: u64,
}

impl Refusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::For(reason) => reason.as_str(),
            Self::Access(denied) => denied.as_str(),
            Self::TooManyJoins => "too_many_joins",
        }
    }

    /// Why the player's part in the stream is over.
    pub fn end(self) -> EndReason {
        match self {
            Self::For(reason) => reason,
            Self::Access(_) => EndReason::Denied,
            Self::TooManyJoins => EndReason::Overloaded,
        }
    }
}

impl What {
    /// Whether it is of a player alone, and changes nothing for the stream.
    pub fn is_of_player(&self) -> bool {
        match self {
            Self::PlayerWaits(_)
            | Self::PlayerStarted(_)
            | Self::PlayerRefused { .. }
            | Self::PlayerSlow { .. }
            | Self::PlayerEvicted { .. } => true,
            Self::Left { peer, .. } => peer.is_player,
            Self::Pending { .. }
            | Self::AttemptFailed { .. }
            | Self::Registered { .. }
            | Self::SourceSwitched { .. }
            | Self::SourceReplaced { .. }
            | Self::SourceFailed { .. }
            | Self::FormsChanged { .. }
            | Self::Lost { .. }
            | Self::GraceOver { .. }
            | Self::Ended { .. }
            | Self::Push { .. }
            | Self::Unwatched => false,
        }
    }

    /// The name under which it is told.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::AttemptFailed { .. } => "attempt_failed",
            Self::Registered { back: false, .. } => "registered",
            Self::Registered { back: true, .. } => "back",
            Self::SourceSwitched { .. } | Self::SourceReplaced { .. } => "source_switched",
            Self::SourceFailed { .. } => "source_failed",
            Self::FormsChanged { .. } => "schemas_changed",
            Self::Lost { .. } => "lost",
            Self::GraceOver { .. } => "grace_over",
            Self::Ended { reason: End::For(EndReason::Deleted), .. } => "deleted",
            Self::Ended { .. } => "closed",
            Self::Push { step, .. } => step.name(),
            Self::Unwatched => "unwatched",
            Self::PlayerWaits(_) => "player_waits",
            Self::PlayerStarted(_) => "player_started",
            Self::PlayerRefused { .. } => "player_refused",
            Self::PlayerSlow { .. } => "player_slow",
            Self::PlayerEvicted { .. } => "player_evicted",
            Self::Left { peer, .. } if peer.is_player => "player_left",
            Self::Left { .. } => "publisher_left",
        }
    }
}

impl PushStep {
    fn name(&self) -> &'static str {
        match self {
            Self::Pending => "push_pending",
            Self::Failed { was_up: false, .. } => "push_failed",
            Self::Failed { was_up: true, .. } => "push_lost",
            Self::Up => "push_up",
            Self::Waits => "push_waits",
            Self::Ended(EndReason::Deleted) => "push_deleted",
            Self::Ended(_) => "push_closed",
        }
    }
}

impl Asker {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Players => "players",
            Self::Publisher => "publisher",
            Self::Edge => "edge",
            Self::Pull => "pull",
            Self::Demand => "demand",
        }
    }
}

impl End {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::For(reason) => reason.as_str(),
            Self::Abandoned => "abandoned",
        }
    }
}
