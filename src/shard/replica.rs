//! A stream's presence on a shard that has players or waiters of it, its owner's own included: one for
//! each form that is wanted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::tables::{StreamHandle, Tables};
use super::timers::TimerId;
use crate::bus::message::LocalId;
use crate::egress::Crowd;
use crate::media::state::{Generation, Released};
use crate::media::{ConnectionId, Form, ShardId, StreamKey};
use crate::origin::Asking;
use crate::stream::{Log, Packaging};

/// The presences of all keys.
#[derive(Default)]
pub(super) struct Locals {
    by_form: [HashMap<StreamKey, Local>; Form::ALL.len()],
}

impl Locals {
    pub(super) fn get(&self, key: &StreamKey, form: Form) -> Option<&Local> {
        self.by_form[form as usize].get(key)
    }

    pub(super) fn get_mut(&mut self, key: &StreamKey, form: Form) -> Option<&mut Local> {
        self.by_form[form as usize].get_mut(key)
    }

    /// The presence of this id, where it is not gone.
    pub(super) fn of(&self, key: &StreamKey, id: LocalId) -> Option<&Local> {
        self.get(key, id.form).filter(|local| local.id == id)
    }

    pub(super) fn of_mut(&mut self, key: &StreamKey, id: LocalId) -> Option<&mut Local> {
        self.get_mut(key, id.form).filter(|local| local.id == id)
    }

    pub(super) fn insert(&mut self, key: StreamKey, local: Local) {
        self.by_form[local.id.form as usize].insert(key, local);
    }

    pub(super) fn remove(&mut self, key: &StreamKey, form: Form) -> Option<Local> {
        self.by_form[form as usize].remove(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&StreamKey, &Local)> {
        self.by_form.iter().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.by_form.iter().map(HashMap::len).sum()
    }
}

/// A key on this shard, in one form.
pub(super) struct Local {
    pub(super) id: LocalId,
    /// Whose log it has; none before it is attached.
    pub(super) generation: Option<Generation>,
    pub(super) log: LocalLog,
    pub(super) state: LocalState,
    pub(super) crowd: Crowd,
    /// In the order of their ids, so that a run of the simulation can be had again.
    pub(super) waiters: BTreeSet<ConnectionId>,
    /// What the first of them asks with who is pulled for.
    pub(super) asking: Option<Arc<Asking>>,
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
    /// The log in the presence's form, where there is one.
    pub(super) fn get<'a>(&'a self, form: Form, tables: &'a Tables) -> Option<&'a Log> {
        match self {
            Self::None => None,
            Self::Replica(log) => Some(log),
            Self::Owner(handle) => tables.get(*handle)?.media.log(form),
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

impl Member {
    pub(super) fn form(&self) -> Form {
        self.packaging.form()
    }

    pub(super) fn is_of(&self, key: &StreamKey, form: Form) -> bool {
        self.key == *key && self.form() == form
    }
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
            asking: None,
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
