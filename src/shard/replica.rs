//! A stream's presence on a shard that has players or waiters of it, its owner's own included.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::Instant;

use super::tables::{StreamHandle, Tables};
use super::timers::TimerId;
use crate::bus::message::LocalId;
use crate::egress::Crowd;
use crate::media::state::{Generation, Released};
use crate::media::{ConnectionId, ShardId, StreamKey};
use crate::stream::{Log, Packaging};

/// A key on this shard.
pub(super) struct Local {
    pub(super) id: LocalId,
    /// Whose log it has; none before it is attached.
    pub(super) generation: Option<Generation>,
    pub(super) log: LocalLog,
    pub(super) state: LocalState,
    pub(super) crowd: Crowd,
    /// In the order of their ids, so that a run of the simulation can be had again.
    pub(super) waiters: BTreeSet<ConnectionId>,
    /// Players that were let in and whose session is being told.
    pub(super) admitting: u32,
    /// Counts were changed since the owner was told.
    pub(super) interest_changed: bool,
    /// The owner was told of it.
    pub(super) reported: bool,
    pub(super) dirty: bool,
    /// When the oldest video frame that its players are to get came in.
    pub(super) video_since: Option<Instant>,
}

/// Whose log the players read.
pub(super) enum LocalLog {
    /// None yet.
    None,
    /// This shard owns the stream.
    Owner(StreamHandle),
    Replica(Box<Log>),
}

impl LocalLog {
    /// The log, where there is one.
    pub(super) fn get<'a>(&'a self, tables: &'a Tables) -> Option<&'a Log> {
        match self {
            Self::None => None,
            Self::Replica(log) => Some(log),
            Self::Owner(handle) => tables.get(*handle).map(|stream| &stream.log),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalState {
    /// The owner has not attached it: the key is pending there, or the answer is on its way.
    Waiting,
    Live,
    /// The source is lost; players are kept.
    Suspended,
}

/// A connection that plays, or waits to.
pub(super) struct Member {
    pub(super) key: StreamKey,
    pub(super) role: Role,
    pub(super) packaging: Packaging,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Waiter(TimerId),
    Admitting,
    Player,
}

/// An ended presence whose connections are not all closed.
pub(super) struct Ending {
    pub(super) key: StreamKey,
    pub(super) owner: ShardId,
    pub(super) generation: Generation,
    pub(super) open: HashSet<ConnectionId>,
    pub(super) released: Released,
}

impl Local {
    pub(super) fn new(id: LocalId) -> Self {
        Self {
            id,
            generation: None,
            log: LocalLog::None,
            state: LocalState::Waiting,
            crowd: Crowd::default(),
            waiters: BTreeSet::new(),
            admitting: 0,
            interest_changed: true,
            reported: false,
            dirty: false,
            video_since: None,
        }
    }

    pub(super) fn players(&self) -> u32 {
        self.crowd.len() as u32 + self.admitting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.crowd.is_empty() && self.waiters.is_empty() && self.admitting == 0
    }
}
