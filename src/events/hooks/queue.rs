//! Hooks that are to be told something: in order for each stream and server, until they take it.
//!
//! Pure. What a server does not take stays at the head of its lane and is told again, with the same
//! sequence number; the other streams go on unless the server itself is not there. What it refuses
//! again and again goes, so that what follows is told. No server has another one's slots.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::config::Hook;
use crate::limits::{
    HOOK_ABSENT_WAITING_MAX, HOOK_POSTS_ALL_MAX, HOOK_POSTS_MAX, HOOK_REFUSALS_MAX,
};
use crate::media::StreamKey;
use crate::media::state::Generation;

/// Something to tell.
#[derive(Debug, Clone)]
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
    /// The server is there and could not take it.
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
    trouble: Trouble,
    /// Heads of lanes that may be told now.
    ready: BTreeSet<u64>,
    /// Heads of lanes that may be told later.
    resting: BTreeSet<(Instant, u64)>,
}

impl Queue {
    /// Enters something; gives back the hook of what went for it, where more than `max` would wait:
    /// the oldest that tells of an absent stream, and nothing else for one of these, or the oldest.
    pub(super) fn push(&mut self, item: Item, max: usize) -> Option<Hook> {
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
                None if is_absent => return Some(item.hook),
                None => self.waiting.first_key_value().map(|(&id, _)| id),
                Some(&id) => Some(id),
            };
            gone = oldest.and_then(|id| self.remove(id)).map(|item| item.hook);
        }
        self.insert(self.newest, item);
        gone
    }

    /// The next that may be told now, under its number.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u64, &Item)> {
        self.wake(now);
        let (id, item) = match self.take_urgent() {
            Some(urgent) => urgent,
            None => self.take_waiting(now)?,
        };
        let call = Call { server: item.server.clone(), item, is_wanted: true };
        Some((id, &self.under_way.entry(id).or_insert(call).item))
    }

    /// What came of one that was taken out; gives it back when it is done with: taken, or refused
    /// [`HOOK_REFUSALS_MAX`] times.
    pub(super) fn done(&mut self, now: Instant, id: u64, outcome: Outcome) -> Option<Item> {
        let Call { mut item, server: called, is_wanted } = self.under_way.remove(&id)?;
        let server = self.servers.entry(called).or_default();
        match outcome {
            Outcome::Unreachable => server.trouble.add(now),
            _ => server.trouble = Trouble::default(),
        }
        if item.once {
            return Some(item);
        }
        server.under_way -= 1;
        if !is_wanted {
            return (outcome == Outcome::Taken).then_some(item);
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
    /// goes; gives back the hooks of that. What is under way holds its lane at the new server, to which it
    /// goes if it must again.
    pub(super) fn retarget(&mut self, server_of: impl Fn(Hook) -> Option<Arc<str>>) -> Vec<Hook> {
        let turn = |item: &mut Item| match server_of(item.hook) {
            Some(server) => {
                item.server = server;
                true
            }
            None => false,
        };
        let mut gone = Vec::new();
        self.waiting.retain(|_, item| {
            let stays = turn(item);
            gone.extend((!stays).then_some(item.hook));
            stays
        });
        self.absent.retain(|id| self.waiting.contains_key(id));
        self.urgent.retain_mut(|(_, item)| turn(item));
        for call in self.under_way.values_mut() {
            call.is_wanted = turn(&mut call.item);
        }
        self.servers.retain(|_, server| server.under_way > 0);
        for server in self.servers.values_mut() {
            server.ready.clear();
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
            let end = server.trouble.not_before.filter(|_| !server.ready.is_empty());
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

    fn take_waiting(&mut self, now: Instant) -> Option<(u64, Item)> {
        if self.under_way.len() >= HOOK_POSTS_ALL_MAX {
            return None;
        }
        let open = self.servers.values().filter(|server| server.is_open(now));
        let id = *open.filter_map(|server| server.ready.first()).min()?;
        let item = self.waiting.remove(&id)?;
        self.absent.remove(&id);
        let name = item.lane();
        self.servers.get_mut(&name.0).expect("just found").under_way += 1;
        let lane = self.lanes.get_mut(&name).expect("something of it waited");
        lane.waiting.remove(&id);
        lane.under_way += 1;
        self.settle(&name);
        Some((id, item))
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
            Some(Place::Resting(at, id)) => server.resting.remove(&(at, id)),
            None => false,
        };
        lane.place = lane.next_place();
        match lane.place {
            Some(Place::Ready(id)) => server.ready.insert(id),
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
mod tests {
    use super::*;
    use crate::clock;

    fn item(stream: &str, number: u64) -> Item {
        let key = StreamKey::in_default_vhost("live", stream).unwrap();
        let mut body = Map::new();
        body.insert("number".to_owned(), number.into());
        let (hook, server) = (Hook::StreamChanged, "h:80".into());
        let (key, generation) = (Some(key), None);
        Item { hook, server, key, generation, body, once: false, refusals: 0 }
    }

    fn take(queue: &mut Queue, now: Instant) -> Option<(u64, String, u64)> {
        let (id, item) = queue.take(now)?;
        let stream = item.key.as_ref().unwrap().stream().to_owned();
        Some((id, stream, item.body["number"].as_u64().unwrap()))
    }

    #[test]
    fn a_stream_is_told_one_after_the_other_and_others_beside_it() {
        let (mut queue, now) = (Queue::default(), clock::now());
        for (stream, number) in [("a", 1), ("a", 2), ("b", 3), ("b", 4)] {
            assert_eq!(queue.push(item(stream, number), 10), None);
        }
        let (first, ..) = take(&mut queue, now).unwrap();
        let (other, stream, number) = take(&mut queue, now).unwrap();
        assert_eq!((stream.as_str(), number), ("b", 3));
        assert_eq!(take(&mut queue, now), None);
        assert!(queue.done(now, first, Outcome::Taken).is_some());
        assert_eq!(take(&mut queue, now).unwrap().2, 2);
        assert!(queue.done(now, other, Outcome::Taken).is_some());
        assert_eq!(take(&mut queue, now).unwrap().2, 4);
    }

    #[test]
    fn what_is_not_taken_comes_again_before_what_followed() {
        let (mut queue, mut now) = (Queue::default(), clock::now());
        for (stream, number) in [("a", 1), ("a", 2), ("b", 3)] {
            queue.push(item(stream, number), 10);
        }
        let (first, ..) = take(&mut queue, now).unwrap();
        assert!(queue.done(now, first, Outcome::NotNow).is_none());
        // Another stream of the same server is not held up.
        assert_eq!(take(&mut queue, now).unwrap().2, 3);
        assert_eq!(take(&mut queue, now), None);
        now = queue.poll_timeout().unwrap();
        let again = take(&mut queue, now).unwrap();
        assert_eq!((again.0, again.2), (first, 1));
        assert_eq!(take(&mut queue, now), None);
        queue.done(now, first, Outcome::Taken);
        assert_eq!(take(&mut queue, now).unwrap().2, 2);
    }

    #[test]
    fn a_server_that_is_gone_is_tried_with_one_call_and_longer_each_time() {
        let (mut queue, mut now) = (Queue::default(), clock::now());
        for number in 0..5 {
            queue.push(item(&format!("s{number}"), number), 10);
        }
        let ids: Vec<u64> = (0..5).map(|_| take(&mut queue, now).unwrap().0).collect();
        for id in ids {
            queue.done(now, id, Outcome::Unreachable);
        }
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(take(&mut queue, now), None);
            let due = queue.poll_timeout().unwrap();
            waits.push((due - now).as_millis());
            now = due;
            let (id, _, number) = take(&mut queue, now).unwrap();
            assert_eq!(number, 0, "the oldest is tried");
            assert_eq!(take(&mut queue, now), None, "and no other beside it");
            queue.done(now, id, Outcome::Unreachable);
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
        now += BACKOFF_MAX;
        let (id, ..) = take(&mut queue, now).unwrap();
        queue.done(now, id, Outcome::Taken);
        assert_eq!((0..4).filter_map(|_| take(&mut queue, now)).count(), 4);
    }

    #[test]
    fn what_is_refused_comes_again_and_not_for_ever() {
        let (mut queue, mut now) = (Queue::default(), clock::now());
        queue.push(item("a", 1), 10);
        queue.push(item("a", 2), 10);
        let start = now;
        for refusals in 1..=HOOK_REFUSALS_MAX {
            let (id, _, number) = take(&mut queue, now).unwrap();
            assert_eq!((number, take(&mut queue, now)), (1, None));
            let done = queue.done(now, id, Outcome::Refused);
            assert_eq!(done.is_some(), refusals == HOOK_REFUSALS_MAX);
            now = queue.poll_timeout().unwrap_or(now);
        }
        assert!(now - start > Duration::from_secs(30), "a server may start again meanwhile");
        assert_eq!(take(&mut queue, now).unwrap().2, 2, "what follows is not held up for ever");
    }

    #[test]
    fn the_oldest_goes_when_it_is_full() {
        let (mut queue, now) = (Queue::default(), clock::now());
        assert_eq!((queue.push(item("a", 1), 2), queue.push(item("a", 2), 2)), (None, None));
        assert_eq!(queue.push(item("a", 3), 2), Some(Hook::StreamChanged));
        assert_eq!(take(&mut queue, now).unwrap().2, 2);
    }

    #[test]
    fn what_is_urgent_overtakes_and_is_told_once() {
        let (mut queue, now) = (Queue::default(), clock::now());
        queue.push(item("a", 1), 10);
        let (id, ..) = take(&mut queue, now).unwrap();
        queue.done(now, id, Outcome::Unreachable);
        for number in [7, 8] {
            let hook = Hook::ServerKeepalive;
            queue.push(Item { hook, once: true, ..item("x", number) }, 10);
        }
        let (id, _, number) = take(&mut queue, now).unwrap();
        assert_eq!(number, 8, "only the newest, and although the server is in trouble");
        assert!(queue.done(now, id, Outcome::Unreachable).is_some());
        assert_eq!(queue.waiting_count(), 1);
    }

    #[test]
    fn what_is_not_wanted_any_more_goes_and_the_rest_finds_its_new_server() {
        let (mut queue, now) = (Queue::default(), clock::now());
        queue.push(item("a", 1), 10);
        queue.push(Item { hook: Hook::ProxyState, ..item("a", 2) }, 10);
        let (id, ..) = take(&mut queue, now).unwrap();
        queue.done(now, id, Outcome::Unreachable);
        let gone = queue.retarget(|hook| (hook == Hook::ProxyState).then(|| "other:80".into()));
        assert_eq!(gone.len(), 1);
        let (_, item) = queue.take(now).unwrap();
        assert_eq!((item.hook, &*item.server), (Hook::ProxyState, "other:80"));
        assert_eq!(queue.waiting_count(), 1);
    }

    fn of(server: &str, stream: &str, number: u64) -> Item {
        Item { server: server.into(), ..item(stream, number) }
    }

    #[test]
    fn a_server_that_stalls_has_its_own_slots_and_no_other_ones() {
        let (mut queue, now) = (Queue::default(), clock::now());
        for number in 0..20 {
            queue.push(of("stalled:80", &format!("s{number}"), number), 100);
        }
        let taken = std::iter::from_fn(|| take(&mut queue, now)).count();
        assert_eq!(taken, HOOK_POSTS_MAX);
        for number in 20..40 {
            queue.push(of("other:80", &format!("s{number}"), number), 100);
        }
        let other: Vec<u64> =
            std::iter::from_fn(|| take(&mut queue, now)).map(|(_, _, number)| number).collect();
        assert_eq!(other, (20..20 + HOOK_POSTS_MAX as u64).collect::<Vec<_>>());
    }

    #[test]
    fn one_sign_of_life_is_under_way_and_takes_no_slot() {
        let (mut queue, now) = (Queue::default(), clock::now());
        let alive = |number| {
            let hook = Hook::ServerKeepalive;
            Item { hook, once: true, ..of("stalled:80", "x", number) }
        };
        for number in 0..20 {
            queue.push(of("stalled:80", &format!("s{number}"), number), 100);
        }
        assert_eq!(std::iter::from_fn(|| take(&mut queue, now)).count(), HOOK_POSTS_MAX);
        queue.push(alive(50), 100);
        let (first, _, number) = take(&mut queue, now).unwrap();
        assert_eq!(number, 50, "although its server has all its slots taken");
        queue.push(alive(51), 100);
        queue.push(alive(52), 100);
        assert_eq!(take(&mut queue, now), None, "not a second one beside it");
        queue.push(Item { hook: Hook::ServerExited, once: true, ..item("x", 60) }, 100);
        assert_eq!(take(&mut queue, now).unwrap().2, 60, "another hook does not wait for it");
        queue.done(now, first, Outcome::Unreachable);
        assert_eq!(take(&mut queue, now).unwrap().2, 52, "the newest follows");
    }

    #[test]
    fn a_lane_goes_with_the_last_of_it() {
        let (mut queue, mut now) = (Queue::default(), clock::now());
        for number in 0..3 {
            queue.push(item(&format!("s{number}"), number), 3);
        }
        for _ in 0..3 {
            let (id, ..) = take(&mut queue, now).unwrap();
            queue.done(now, id, Outcome::NotNow);
        }
        queue.push(item("x", 3), 3);
        assert_eq!(queue.lanes.len(), 3, "that of the one that was pushed out is gone");
        now = queue.poll_timeout().unwrap();
        while let Some((id, ..)) = take(&mut queue, now) {
            queue.done(now, id, Outcome::Taken);
        }
        assert!(queue.lanes.is_empty() && queue.poll_timeout().is_none());
    }

    #[test]
    fn order_is_kept_when_the_url_changes_while_a_call_is_under_way() {
        let (mut queue, now) = (Queue::default(), clock::now());
        queue.push(of("old:80", "a", 1), 10);
        queue.push(Item { hook: Hook::ProxyState, ..of("older:80", "a", 2) }, 10);
        let (first, ..) = take(&mut queue, now).unwrap();
        let (second, ..) = take(&mut queue, now).unwrap();
        assert_eq!(queue.retarget(|_| Some("new:80".into())), []);
        queue.push(of("new:80", "a", 3), 10);
        assert_eq!(take(&mut queue, now), None, "nothing overtakes what is under way");
        assert!(queue.done(now, second, Outcome::Unreachable).is_none());
        assert_eq!(take(&mut queue, now), None);
        assert!(queue.done(now, first, Outcome::Unreachable).is_none());
        for expected in 1..=3 {
            let (id, item) = queue.take(now).expect("the new server has not failed");
            assert_eq!((&*item.server, &item.body["number"]), ("new:80", &expected.into()));
            assert!(queue.take(now).is_none());
            queue.done(now, id, Outcome::Taken);
        }
        assert!(queue.lanes.is_empty());
    }

    #[test]
    fn what_is_under_way_and_not_wanted_any_more_is_not_told_again() {
        let (mut queue, now) = (Queue::default(), clock::now());
        queue.push(item("a", 1), 10);
        queue.push(item("b", 2), 10);
        let [first, second] = [0; 2].map(|_| take(&mut queue, now).unwrap().0);
        queue.push(item("a", 3), 10);
        let hook = item("a", 3).hook;
        assert_eq!(queue.retarget(|_| None), [hook], "what was not under way");
        assert!(queue.done(now, first, Outcome::NotNow).is_none());
        assert!(queue.done(now, second, Outcome::Taken).is_some(), "its answer counts");
        assert_eq!((queue.waiting_count(), queue.lanes.len()), (0, 0));
    }

    /// Servers that fail at random and URLs that change: all is told, each stream in its order.
    #[test]
    fn nothing_is_lost_or_overtaken_whatever_servers_do() {
        let (mut queue, mut now, mut state) = (Queue::default(), clock::now(), 7_u64);
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let (mut next, mut server, mut calls) = (0, 0, Vec::new());
        let mut told: HashMap<String, Vec<u64>> = HashMap::new();
        for turn in 0..20_000 {
            let is_over = turn >= 10_000;
            match random(10) {
                0 if !is_over && random(20) == 0 => {
                    server = random(3);
                    assert_eq!(queue.retarget(|_| Some(format!("h{server}:80").into())), []);
                }
                0..2 if !is_over => {
                    let (server, stream) = (format!("h{server}:80"), random(5));
                    queue.push(of(&server, &format!("s{stream}"), next), usize::MAX);
                    next += 1;
                }
                2..6 => calls.extend(take(&mut queue, now)),
                6 => now = queue.poll_timeout().map_or(now, |due| due.max(now)),
                _ if !calls.is_empty() => {
                    let at = random(calls.len() as u64) as usize;
                    let (id, stream, number) = calls.swap_remove(at);
                    assert!(calls.iter().all(|call| call.1 != stream), "one call at a time");
                    let outcome = match random(4) {
                        0 if !is_over => Outcome::NotNow,
                        1 if !is_over => Outcome::Unreachable,
                        _ => Outcome::Taken,
                    };
                    assert_eq!(queue.done(now, id, outcome).is_some(), outcome == Outcome::Taken);
                    if outcome == Outcome::Taken {
                        told.entry(stream).or_default().push(number);
                    }
                }
                _ => {}
            }
        }
        assert_eq!((queue.waiting_count(), queue.lanes.len()), (0, 0));
        assert_eq!(told.values().map(Vec::len).sum::<usize>() as u64, next);
        assert!(told.values().all(|numbers| numbers.is_sorted()), "{told:?}");
    }

    #[test]
    fn what_anybody_can_cause_pushes_nothing_else_out() {
        let (mut queue, now) = (Queue::default(), clock::now());
        let absent = |number| Item {
            hook: Hook::StreamNotFound,
            ..item(&format!("random{number}"), number)
        };
        assert_eq!(queue.push(absent(1), 3), None);
        assert_eq!(queue.push(item("a", 2), 3), None);
        assert_eq!(queue.push(absent(3), 3), None);
        assert_eq!(queue.push(item("a", 4), 3), Some(Hook::StreamNotFound));
        assert_eq!(queue.push(absent(5), 3), Some(Hook::StreamNotFound));
        assert_eq!(queue.push(item("b", 6), 3), Some(Hook::StreamNotFound));
        assert_eq!(queue.push(absent(7), 3), Some(Hook::StreamNotFound), "this one itself");
        let mut left = Vec::new();
        while let Some((id, _, number)) = take(&mut queue, now) {
            left.push(number);
            queue.done(now, id, Outcome::Taken);
        }
        assert_eq!(left, [2, 4, 6]);
        for number in 0..2 * HOOK_ABSENT_WAITING_MAX as u64 {
            queue.push(absent(number), usize::MAX);
        }
        assert_eq!(queue.waiting_count(), HOOK_ABSENT_WAITING_MAX, "others wait for no more");
        assert_eq!(queue.lanes.len(), HOOK_ABSENT_WAITING_MAX);
    }
}
