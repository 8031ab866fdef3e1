//! Hooks that are to be told something: in order for each stream and server, until they take it.
//!
//! Pure. What a server does not take stays at the head of its lane and is told again, with the same
//! sequence number; the other streams go on unless the server itself is not there, and have slots that
//! no such call takes. What it refuses again and again goes, so that what follows is told. No server
//! has another one's slots.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::config::Hook;
use crate::limits::{
    HOOK_ABSENT_WAITING_MAX, HOOK_POSTS_AGAIN_MAX, HOOK_POSTS_ALL_MAX, HOOK_POSTS_MAX,
    HOOK_REFUSALS_MAX,
};
use crate::media::StreamKey;
use crate::media::state::Generation;

/// Something to tell.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) hook: Hook,
    /// Host and port of its URL.
    pub(super) server: Arc<str>,
    /// `None` for what is about the node.
    pub(super) key: Option<StreamKey>,
    pub(super) generation: Option<Generation>,
    pub(super) body: Map<String, Value>,
    /// It is of no use later: told at once, and not again.
    pub(super) once: bool,
    /// How often it was refused.
    pub(super) refusals: u32,
}

/// What came of telling it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    /// The server is there and could not take it, or did not say so.
    NotNow,
    /// The server says that it does not take it. Where it is being changed, it may later.
    Refused,
    /// The server is not there.
    Unreachable,
}

#[derive(Default)]
pub(super) struct Queue {
    /// In the order in which it happened.
    waiting: BTreeMap<u64, Item>,
    /// Those of them that tell of absent streams: anybody can cause such.
    absent: BTreeSet<u64>,
    /// Told once and before all else; at most one of each hook, and beside the slots of its server.
    urgent: VecDeque<(u64, Item)>,
    under_way: HashMap<u64, Call>,
    /// Those of which something waits or is under way.
    lanes: HashMap<LaneName, Lane>,
    servers: HashMap<Arc<str>, Server>,
    newest: u64,
}

struct Call {
    item: Item,
    /// The server that is called; the item may have another by now.
    server: Arc<str>,
    /// Its hook has a URL still.
    is_wanted: bool,
    /// Its lane was in trouble.
    is_again: bool,
}

type LaneName = (Arc<str>, Option<StreamKey>);

/// What is told one after the other.
#[derive(Default)]
struct Lane {
    waiting: BTreeSet<u64>,
    /// More than one only where a change of URLs has made one lane of two.
    under_way: usize,
    trouble: Trouble,
    /// Where its server has its head.
    place: Option<Place>,
}

/// The head of a lane, from when on it may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Ready(u64),
    /// It may be told, and is of a lane in trouble.
    Again(u64),
    Resting(Instant, u64),
}

#[derive(Debug, Clone, Copy, Default)]
struct Trouble {
    failures: u32,
    not_before: Option<Instant>,
}

#[derive(Debug, Default)]
struct Server {
    under_way: usize,
    /// Of these, those of lanes in trouble.
    again_under_way: usize,
    trouble: Trouble,
    /// Heads of lanes that may be told now.
    ready: BTreeSet<u64>,
    /// The same of lanes in trouble.
    again: BTreeSet<u64>,
    /// Heads of lanes that may be told later.
    resting: BTreeSet<(Instant, u64)>,
}

impl Queue {
    /// Enters something; gives back what went for it, where more than `max` would wait: the oldest that
    /// tells of an absent stream, and nothing else for one of these, or the oldest.
    pub(super) fn push(&mut self, item: Item, max: usize) -> Option<Item> {
        self.newest += 1;
        if item.once {
            self.urgent.retain(|(_, waiting)| waiting.hook != item.hook);
            self.urgent.push_back((self.newest, item));
            return None;
        }
        let is_absent = item.hook == Hook::StreamNotFound;
        let is_full = self.waiting.len() >= max;
        let mut gone = None;
        if is_full || is_absent && self.absent.len() >= HOOK_ABSENT_WAITING_MAX {
            let oldest = match self.absent.first() {
                None if is_absent => return Some(item),
                None => self.waiting.first_key_value().map(|(&id, _)| id),
                Some(&id) => Some(id),
            };
            gone = oldest.and_then(|id| self.remove(id));
        }
        self.insert(self.newest, item);
        gone
    }

    /// The next that may be told now, under its number.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u64, &Item)> {
        self.wake(now);
        let (id, item, is_again) = match self.take_urgent() {
            Some((id, item)) => (id, item, false),
            None => self.take_waiting(now)?,
        };
        let call = Call { server: item.server.clone(), item, is_wanted: true, is_again };
        Some((id, &self.under_way.entry(id).or_insert(call).item))
    }

    /// Whether a server was not there when it was called last.
    pub(super) fn is_gone(&self, server: &str) -> bool {
        self.servers.get(server).is_some_and(|server| server.trouble.failures > 0)
    }

    /// One that was taken out.
    pub(super) fn under_way(&self, id: u64) -> Option<&Item> {
        self.under_way.get(&id).map(|call| &call.item)
    }

    /// What came of one that was taken out; gives it back when it is done with: taken, refused
    /// [`HOOK_REFUSALS_MAX`] times, or failed when its hook had no URL any more.
    pub(super) fn done(&mut self, now: Instant, id: u64, outcome: Outcome) -> Option<Item> {
        let Call { mut item, server: called, is_wanted, is_again } = self.under_way.remove(&id)?;
        let server = self.servers.entry(called).or_default();
        match outcome {
            Outcome::Unreachable => server.trouble.add(now),
            _ => server.trouble = Trouble::default(),
        }
        if item.once {
            return Some(item);
        }
        server.under_way -= 1;
        server.again_under_way -= usize::from(is_again);
        if !is_wanted {
            return Some(item);
        }
        let name = item.lane();
        let lane = self.lanes.get_mut(&name).expect("something of it was under way");
        lane.under_way -= 1;
        item.refusals += u32::from(outcome == Outcome::Refused);
        let is_over = outcome == Outcome::Taken || item.refusals >= HOOK_REFUSALS_MAX;
        match outcome {
            _ if is_over => lane.trouble = Trouble::default(),
            Outcome::Unreachable => {}
            _ => lane.trouble.add(now),
        }
        if is_over {
            self.settle(&name);
            return Some(item);
        }
        self.insert(id, item);
        None
    }

    /// The URLs have changed: what waits goes to the new servers, and what is not wanted any more
    /// goes and is given back. What is under way holds its lane at the new server, to which it goes if it
    /// must again.
    pub(super) fn retarget(&mut self, server_of: impl Fn(Hook) -> Option<Arc<str>>) -> Vec<Item> {
        let turn = |item: &mut Item| match server_of(item.hook) {
            Some(server) => {
                item.server = server;
                true
            }
            None => false,
        };
        let mut gone = Vec::new();
        for (id, mut item) in std::mem::take(&mut self.waiting) {
            if turn(&mut item) {
                self.waiting.insert(id, item);
            } else {
                gone.push(item);
            }
        }
        self.absent.retain(|id| self.waiting.contains_key(id));
        self.urgent.retain_mut(|(_, item)| turn(item));
        for call in self.under_way.values_mut() {
            call.is_wanted = turn(&mut call.item);
        }
        self.servers.retain(|_, server| server.under_way > 0);
        for server in self.servers.values_mut() {
            server.ready.clear();
            server.again.clear();
            server.resting.clear();
        }
        self.lanes.clear();
        for (&id, item) in &self.waiting {
            self.lanes.entry(item.lane()).or_default().waiting.insert(id);
        }
        let calls = self.under_way.values().filter(|call| call.is_wanted && !call.item.once);
        for call in calls {
            self.lanes.entry(call.item.lane()).or_default().under_way += 1;
        }
        for name in self.lanes.keys().cloned().collect::<Vec<_>>() {
            self.settle(&name);
        }
        gone
    }

    /// When something may be told that may not now.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let ends = self.servers.values().flat_map(|server| {
            let end = server.trouble.not_before.filter(|_| server.has_ready());
            [end, server.resting.first().map(|&(at, _)| at)]
        });
        ends.flatten().min()
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len() + self.urgent.len() + self.under_way.len()
    }

    /// Ends the waits that are over.
    fn wake(&mut self, now: Instant) {
        let mut awake = Vec::new();
        for server in self.servers.values_mut() {
            if server.trouble.not_before.is_some_and(|at| at <= now) {
                server.trouble.not_before = None;
            }
            let due = server.resting.iter().take_while(|&&(at, _)| at <= now);
            awake.extend(due.map(|&(_, id)| id));
        }
        for id in awake {
            let name = self.waiting[&id].lane();
            self.lanes.get_mut(&name).expect("its head waits").trouble.not_before = None;
            self.settle(&name);
        }
    }

    fn take_urgent(&mut self) -> Option<(u64, Item)> {
        let is_under_way = |hook| self.under_way.values().any(|call| call.item.hook == hook);
        let at = self.urgent.iter().position(|(_, item)| !is_under_way(item.hook))?;
        self.urgent.remove(at)
    }

    /// With it, whether its lane is in trouble.
    fn take_waiting(&mut self, now: Instant) -> Option<(u64, Item, bool)> {
        if self.under_way.len() >= HOOK_POSTS_ALL_MAX {
            return None;
        }
        let open = self.servers.values().filter(|server| server.is_open(now));
        let (id, is_again) = open.filter_map(Server::first).min()?;
        let item = self.waiting.remove(&id)?;
        self.absent.remove(&id);
        let name = item.lane();
        let server = self.servers.get_mut(&name.0).expect("just found");
        server.under_way += 1;
        server.again_under_way += usize::from(is_again);
        let lane = self.lanes.get_mut(&name).expect("something of it waited");
        lane.waiting.remove(&id);
        lane.under_way += 1;
        self.settle(&name);
        Some((id, item, is_again))
    }

    fn insert(&mut self, id: u64, item: Item) {
        let name = item.lane();
        self.lanes.entry(name.clone()).or_default().waiting.insert(id);
        if item.hook == Hook::StreamNotFound {
            self.absent.insert(id);
        }
        self.waiting.insert(id, item);
        self.settle(&name);
    }

    fn remove(&mut self, id: u64) -> Option<Item> {
        let item = self.waiting.remove(&id)?;
        self.absent.remove(&id);
        let name = item.lane();
        self.lanes.get_mut(&name).expect("something of it waited").waiting.remove(&id);
        self.settle(&name);
        Some(item)
    }

    /// Puts the head of a lane that has changed where it belongs, and forgets an empty lane.
    fn settle(&mut self, name: &LaneName) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let server = self.servers.entry(name.0.clone()).or_default();
        match lane.place {
            Some(Place::Ready(id)) => server.ready.remove(&id),
            Some(Place::Again(id)) => server.again.remove(&id),
            Some(Place::Resting(at, id)) => server.resting.remove(&(at, id)),
            None => false,
        };
        lane.place = lane.next_place();
        match lane.place {
            Some(Place::Ready(id)) => server.ready.insert(id),
            Some(Place::Again(id)) => server.again.insert(id),
            Some(Place::Resting(at, id)) => server.resting.insert((at, id)),
            None => false,
        };
        if lane.waiting.is_empty() && lane.under_way == 0 {
            self.lanes.remove(name);
        }
    }
}

impl Item {
    fn lane(&self) -> LaneName {
        (self.server.clone(), self.key.clone())
    }
}

impl Lane {
    fn next_place(&self) -> Option<Place> {
        let &head = self.waiting.first()?;
        match self.trouble.not_before {
            _ if self.under_way > 0 => None,
            None if self.trouble.failures > 0 => Some(Place::Again(head)),
            None => Some(Place::Ready(head)),
            Some(at) => Some(Place::Resting(at, head)),
        }
    }
}

impl Server {
    /// One that has failed is tried with one call at a time.
    fn is_open(&self, now: Instant) -> bool {
        let slots = if self.trouble.failures > 0 { 1 } else { HOOK_POSTS_MAX };
        !self.trouble.lasts(now) && self.under_way < slots
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.again.is_empty()
    }

    /// The oldest that may be told, and whether its lane is in trouble. Those have some of the slots
    /// only: a server that never answers them holds each for its whole time.
    fn first(&self) -> Option<(u64, bool)> {
        let again = self.again.first().filter(|_| self.again_under_way < HOOK_POSTS_AGAIN_MAX);
        let ready = self.ready.first().map(|&id| (id, false));
        ready.into_iter().chain(again.map(|&id| (id, true))).min()
    }
}

impl Trouble {
    fn lasts(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|at| now < at)
    }

    fn add(&mut self, now: Instant) {
        // Several that were under way and fail together are one failure.
        if !self.lasts(now) {
            self.failures += 1;
            self.not_before =
                Some(now + (BACKOFF * (1 << (self.failures - 1).min(10))).min(BACKOFF_MAX));
        }
    }
}

const BACKOFF: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
