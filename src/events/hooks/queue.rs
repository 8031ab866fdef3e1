//! Hooks that are to be told something: in order for each stream and server, until they take it.
//!
//! Pure. What a server does not take stays at the head of its lane and is told again, with the same
//! sequence number; the other streams go on unless the server itself is not there, and have slots that
//! no such call takes. What it refuses again and again goes, so that what follows is told. No server
//! has another one's slots. Calls about absent streams, which anybody can cause and for whose answer players
//! wait, have slots and a bound of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::config::Hook;
use crate::limits::{
    HOOK_ABSENT_WAITING_MAX, HOOK_FAILURES_MAX, HOOK_POSTS_AGAIN_MAX, HOOK_POSTS_ALL_MAX,
    HOOK_POSTS_MAX, HOOK_REFUSALS_MAX, HOOK_SERVERS_MAX,
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
    /// How often the server failed at it.
    pub(super) failures: u32,
}

/// What came of telling it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    /// The server is there and can't take it now, or did not say so.
    NotNow,
    /// The server has failed at it.
    Failed,
    /// The server says that it does not take it. Where it is being changed, it may later.
    Refused,
    /// The server is not there.
    Unreachable,
}

#[derive(Default)]
pub(super) struct Queue {
    /// In the order in which it happened.
    waiting: BTreeMap<u64, Item>,
    /// The same, by what they are.
    told: BTreeSet<u64>,
    absent: BTreeSet<u64>,
    /// Told once and before all else; at most one of each hook, and beside the slots of its server.
    urgent: VecDeque<(u64, Item)>,
    under_way: HashMap<u64, Call>,
    /// Of those, calls about absent streams.
    absent_under_way: usize,
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
    place: Option<(Kind, Place)>,
}

/// What has slots of its own at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Told,
    Absent,
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
    trouble: Trouble,
    told: Slots,
    absent: Slots,
}

/// Calls of one kind of a server.
#[derive(Debug, Default)]
struct Slots {
    under_way: usize,
    /// Of these, those of lanes in trouble.
    again_under_way: usize,
    /// Heads of lanes that may be told now.
    ready: BTreeSet<u64>,
    /// The same of lanes in trouble.
    again: BTreeSet<u64>,
    /// Heads of lanes that may be told later.
    resting: BTreeSet<(Instant, u64)>,
}

impl Queue {
    /// Enters something; gives back what went for it, where more than `max` would wait: the oldest, of those
    /// that tell of absent streams where it does, and else of the others.
    pub(super) fn push(&mut self, item: Item, max: usize) -> Option<Item> {
        self.newest += 1;
        if item.once {
            self.urgent.retain(|(_, waiting)| waiting.hook != item.hook);
            self.urgent.push_back((self.newest, item));
            return None;
        }
        let (ids, max) = match item.kind() {
            Kind::Told => (&self.told, max),
            Kind::Absent => (&self.absent, max.min(HOOK_ABSENT_WAITING_MAX)),
        };
        let oldest = ids.first().filter(|_| ids.len() >= max).copied();
        let gone = oldest.and_then(|id| self.remove(id));
        self.insert(self.newest, item);
        gone
    }

    /// The next that may be told now, under its number; of absent streams a server is told with up to
    /// `absent_max` calls at once.
    pub(super) fn take(&mut self, now: Instant, absent_max: usize) -> Option<(u64, &Item)> {
        self.wake(now);
        let (id, item, is_again) = match self.take_urgent() {
            Some((id, item)) => (id, item, false),
            None => self.take_waiting(now, absent_max)?,
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
    /// [`HOOK_REFUSALS_MAX`] times, failed at [`HOOK_FAILURES_MAX`] times, or not taken when its hook had no URL any
    /// more.
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
        let kind = item.kind();
        let slots = server.slots(kind);
        slots.under_way -= 1;
        slots.again_under_way -= usize::from(is_again);
        self.absent_under_way -= usize::from(kind == Kind::Absent);
        if !is_wanted {
            return Some(item);
        }
        let name = item.lane();
        let lane = self.lanes.get_mut(&name).expect("something of it was under way");
        lane.under_way -= 1;
        item.refusals += u32::from(outcome == Outcome::Refused);
        item.failures += u32::from(outcome == Outcome::Failed);
        let is_over = outcome == Outcome::Taken
            || item.refusals >= HOOK_REFUSALS_MAX
            || item.failures >= HOOK_FAILURES_MAX;
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
        self.told.retain(|id| self.waiting.contains_key(id));
        self.absent.retain(|id| self.waiting.contains_key(id));
        self.urgent.retain_mut(|(_, item)| turn(item));
        for call in self.under_way.values_mut() {
            call.is_wanted = turn(&mut call.item);
        }
        self.servers.retain(|_, server| server.under_way() > 0);
        for slots in self.servers.values_mut().flat_map(Server::all_slots) {
            slots.ready.clear();
            slots.again.clear();
            slots.resting.clear();
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
            let Server { trouble, told, absent } = server;
            let end = trouble.not_before.filter(|_| told.has_ready() || absent.has_ready());
            [end, told.awake_at(), absent.awake_at()]
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
            for slots in server.all_slots() {
                let due = slots.resting.iter().take_while(|&&(at, _)| at <= now);
                awake.extend(due.map(|&(_, id)| id));
            }
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
    fn take_waiting(&mut self, now: Instant, absent_max: usize) -> Option<(u64, Item, bool)> {
        let told_under_way = self.under_way.len() - self.absent_under_way;
        let told_max = if told_under_way < HOOK_POSTS_ALL_MAX { HOOK_POSTS_MAX } else { 0 };
        let is_full = self.absent_under_way >= HOOK_SERVERS_MAX * absent_max;
        let absent_max = if is_full { 0 } else { absent_max };
        let open = self.servers.values().filter(|server| server.is_open(now));
        let first = open.flat_map(|server| {
            let told = server.told.first((told_max, HOOK_POSTS_AGAIN_MAX));
            [told, server.absent.first((absent_max, absent_max.div_ceil(2)))]
        });
        let (id, is_again) = first.flatten().min()?;
        let item = self.waiting.remove(&id)?;
        let (name, kind) = (item.lane(), item.kind());
        self.ids(kind).remove(&id);
        let slots = self.servers.get_mut(&name.0).expect("just found").slots(kind);
        slots.under_way += 1;
        slots.again_under_way += usize::from(is_again);
        self.absent_under_way += usize::from(kind == Kind::Absent);
        let lane = self.lanes.get_mut(&name).expect("something of it waited");
        lane.waiting.remove(&id);
        lane.under_way += 1;
        self.settle(&name);
        Some((id, item, is_again))
    }

    fn insert(&mut self, id: u64, item: Item) {
        let name = item.lane();
        self.lanes.entry(name.clone()).or_default().waiting.insert(id);
        self.ids(item.kind()).insert(id);
        self.waiting.insert(id, item);
        self.settle(&name);
    }

    fn remove(&mut self, id: u64) -> Option<Item> {
        let item = self.waiting.remove(&id)?;
        self.ids(item.kind()).remove(&id);
        let name = item.lane();
        self.lanes.get_mut(&name).expect("something of it waited").waiting.remove(&id);
        self.settle(&name);
        Some(item)
    }

    fn ids(&mut self, kind: Kind) -> &mut BTreeSet<u64> {
        match kind {
            Kind::Told => &mut self.told,
            Kind::Absent => &mut self.absent,
        }
    }

    /// Puts the head of a lane that has changed where it belongs, and forgets an empty lane.
    fn settle(&mut self, name: &LaneName) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let server = self.servers.entry(name.0.clone()).or_default();
        if let Some((kind, place)) = lane.place.take() {
            server.slots(kind).leave(place);
        }
        if let Some(place) = lane.next_place() {
            let kind = self.waiting[&place.id()].kind();
            server.slots(kind).enter(place);
            lane.place = Some((kind, place));
        }
        if lane.waiting.is_empty() && lane.under_way == 0 {
            self.lanes.remove(name);
        }
    }
}

impl Item {
    fn lane(&self) -> LaneName {
        (self.server.clone(), self.key.clone())
    }

    fn kind(&self) -> Kind {
        if self.hook == Hook::StreamNotFound { Kind::Absent } else { Kind::Told }
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

impl Place {
    fn id(self) -> u64 {
        let (Self::Ready(id) | Self::Again(id) | Self::Resting(_, id)) = self;
        id
    }
}

impl Server {
    /// One that has failed is tried with one call at a time.
    fn is_open(&self, now: Instant) -> bool {
        !self.trouble.lasts(now) && (self.trouble.failures == 0 || self.under_way() == 0)
    }

    fn under_way(&self) -> usize {
        self.told.under_way + self.absent.under_way
    }

    fn slots(&mut self, kind: Kind) -> &mut Slots {
        match kind {
            Kind::Told => &mut self.told,
            Kind::Absent => &mut self.absent,
        }
    }

    fn all_slots(&mut self) -> [&mut Slots; 2] {
        [&mut self.told, &mut self.absent]
    }
}

impl Slots {
    fn enter(&mut self, place: Place) {
        match place {
            Place::Ready(id) => self.ready.insert(id),
            Place::Again(id) => self.again.insert(id),
            Place::Resting(at, id) => self.resting.insert((at, id)),
        };
    }

    fn leave(&mut self, place: Place) {
        match place {
            Place::Ready(id) => self.ready.remove(&id),
            Place::Again(id) => self.again.remove(&id),
            Place::Resting(at, id) => self.resting.remove(&(at, id)),
        };
    }

    fn awake_at(&self) -> Option<Instant> {
        self.resting.first().map(|&(at, _)| at)
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.again.is_empty()
    }

    /// The oldest that may be told with `max` calls at once, and whether its lane is in trouble. Those have
    /// some of the slots only: a server that never answers them holds each for its whole time.
    fn first(&self, (max, again_max): (usize, usize)) -> Option<(u64, bool)> {
        if self.under_way >= max {
            return None;
        }
        let again = self.again.first().filter(|_| self.again_under_way < again_max);
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
