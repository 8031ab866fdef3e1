//! A stream's presence on a shard that has players or waiters of it, its owner's own included: one for
//! each form that is wanted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::tables::{StreamHandle, Tables};
use super::timers::TimerId;
use crate::access::network;
use crate::bus::message::LocalId;
use crate::egress::Crowd;
use crate::limits::ASKINGS_MAX;
use crate::media::state::{Generation, Released};
use crate::media::{ConnectionId, Form, ShardId, StreamKey};
use crate::origin::Asking;
use crate::stream::{Log, Packaging};

/// The presences of all keys, each at its place.
#[derive(Default)]
pub(super) struct Locals {
    slots: Vec<Option<Box<Local>>>,
    free: Vec<u32>,
    by_form: [HashMap<StreamKey, u32>; Form::ALL.len()],
}

impl Locals {
    pub(super) fn get(&self, key: &StreamKey, form: Form) -> Option<&Local> {
        self.slots[*self.by_form[form as usize].get(key)? as usize].as_deref()
    }

    pub(super) fn get_mut(&mut self, key: &StreamKey, form: Form) -> Option<&mut Local> {
        self.slots[*self.by_form[form as usize].get(key)? as usize].as_deref_mut()
    }

    /// The presence of this id, which is one of this shard's, where it is not gone.
    pub(super) fn of(&self, id: LocalId) -> Option<&Local> {
        self.slots.get(id.slot as usize)?.as_deref().filter(|local| local.id == id)
    }

    pub(super) fn of_mut(&mut self, id: LocalId) -> Option<&mut Local> {
        self.slots.get_mut(id.slot as usize)?.as_deref_mut().filter(|local| local.id == id)
    }

    /// Enters a presence of a key that has none in this form.
    pub(super) fn insert(&mut self, key: StreamKey, form: Form, shard: ShardId, serial: u64) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        let id = LocalId { shard, form, slot, serial };
        self.slots[slot as usize] = Some(Box::new(Local::new(id, key.clone())));
        let earlier = self.by_form[form as usize].insert(key, slot);
        assert!(earlier.is_none(), "a key has one presence in a form");
    }

    pub(super) fn remove(&mut self, key: &StreamKey, form: Form) -> Option<Box<Local>> {
        let slot = self.by_form[form as usize].remove(key)?;
        self.free.push(slot);
        self.slots[slot as usize].take()
    }

    /// Takes a presence from its place for a while in which nobody asks for it.
    pub(super) fn lend(&mut self, id: LocalId) -> Option<Box<Local>> {
        self.of(id)?;
        self.slots[id.slot as usize].take()
    }

    /// Puts back what was lent.
    pub(super) fn put_back(&mut self, local: Box<Local>) {
        let place = &mut self.slots[local.id.slot as usize];
        assert!(place.is_none(), "its place was kept");
        *place = Some(local);
    }

    /// Whatever presence is at a place.
    pub(super) fn at(&self, slot: u32) -> Option<&Local> {
        self.slots.get(slot as usize)?.as_deref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Local> {
        self.slots.iter().flatten().map(|local| &**local)
    }

    pub(super) fn len(&self) -> usize {
        self.by_form.iter().map(HashMap::len).sum()
    }
}

/// A key on this shard, in one form.
pub(super) struct Local {
    pub(super) id: LocalId,
    pub(super) key: StreamKey,
    /// Whose log it has; none before it is attached.
    pub(super) generation: Option<Generation>,
    pub(super) log: LocalLog,
    pub(super) state: LocalState,
    pub(super) crowd: Crowd,
    /// In the order of their ids, so that a run of the simulation can be had again; and what those ask with
    /// who are pulled for.
    pub(super) waiters: BTreeMap<ConnectionId, Option<Arc<Asking>>>,
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
    fn new(id: LocalId, key: StreamKey) -> Self {
        Self {
            id,
            key,
            generation: None,
            log: LocalLog::None,
            state: LocalState::Waiting,
            crowd: Crowd::default(),
            waiters: BTreeMap::new(),
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

    /// What those who wait and are pulled for ask with, one of each address: of the first addresses, where
    /// there are many.
    pub(super) fn askings(&self) -> Vec<Arc<Asking>> {
        let address_of = |asking: &Arc<Asking>| asking.asked_by.map(network);
        let mut askings: Vec<Arc<Asking>> = Vec::new();
        for asking in self.waiters.values().flatten() {
            if !askings.iter().any(|known| address_of(known) == address_of(asking)) {
                askings.push(asking.clone());
            }
            if askings.len() == ASKINGS_MAX {
                break;
            }
        }
        askings
    }

    pub(super) fn is_empty(&self) -> bool {
        self.crowd.is_empty() && self.waiters.is_empty() && self.admitting == 0
    }
}
