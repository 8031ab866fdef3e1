//! Hooks that are to be told something: in order for each stream and server, until they take it.
//!
//! Pure. What a server does not take stays at the head of its stream and is told again, with the
//! same sequence number; the other streams go on unless the server itself is not there.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::config::Hook;
use crate::limits::HOOK_POSTS_MAX;
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
}

/// What came of telling it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    /// The server is there and could not take it.
    NotNow,
    /// The server is not there.
    Unreachable,
}

#[derive(Default)]
pub(super) struct Queue {
    /// In the order in which it happened.
    waiting: BTreeMap<u64, Item>,
    urgent: VecDeque<(u64, Item)>,
    under_way: HashMap<u64, Item>,
    busy: HashSet<Lane>,
    /// Streams of which something was not taken.
    lanes: HashMap<Lane, Trouble>,
    servers: HashMap<Arc<str>, Server>,
    newest: u64,
}

/// What is told one after the other.
type Lane = (Arc<str>, Option<StreamKey>);

#[derive(Debug, Clone, Copy, Default)]
struct Trouble {
    failures: u32,
    not_before: Option<Instant>,
}

#[derive(Debug, Default)]
struct Server {
    under_way: usize,
    trouble: Trouble,
}

impl Queue {
    /// Enters something. Where more than `max` would wait the oldest goes; `false` says that it did.
    pub(super) fn push(&mut self, item: Item, max: usize) -> bool {
        self.newest += 1;
        self.servers.entry(item.server.clone()).or_default();
        if item.once {
            self.urgent.retain(|(_, waiting)| waiting.hook != item.hook);
            self.urgent.push_back((self.newest, item));
            return true;
        }
        let has_room = self.waiting.len() < max;
        if !has_room {
            self.waiting.pop_first();
        }
        self.waiting.insert(self.newest, item);
        has_room
    }

    /// The next that may be told now, under its number.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u64, &Item)> {
        if self.under_way.len() >= HOOK_POSTS_MAX {
            return None;
        }
        let (id, item) = match self.urgent.pop_front() {
            Some(urgent) => urgent,
            None => self.take_waiting(now)?,
        };
        self.servers.entry(item.server.clone()).or_default().under_way += 1;
        Some((id, self.under_way.entry(id).or_insert(item)))
    }

    fn take_waiting(&mut self, now: Instant) -> Option<(u64, Item)> {
        // A server that is gone must not cost a look at all that waits for it.
        if self.servers.values().all(|server| server.is_shut(now)) {
            return None;
        }
        let is_free = |item: &Item| {
            let lane = item.lane();
            !self.servers.get(&item.server).is_some_and(|server| server.is_shut(now))
                && !self.busy.contains(&lane)
                && !self.lanes.get(&lane).is_some_and(|trouble| trouble.lasts(now))
        };
        let id = self.waiting.iter().find(|(_, item)| is_free(item)).map(|(&id, _)| id)?;
        let item = self.waiting.remove(&id)?;
        self.busy.insert(item.lane());
        Some((id, item))
    }

    /// What came of one that was taken out; gives it back when it is done with.
    pub(super) fn done(&mut self, now: Instant, id: u64, outcome: Outcome) -> Option<Item> {
        let item = self.under_way.remove(&id)?;
        let lane = item.lane();
        let server = self.servers.entry(item.server.clone()).or_default();
        server.under_way -= 1;
        match outcome {
            Outcome::Unreachable => server.trouble.add(now),
            Outcome::Taken | Outcome::NotNow => server.trouble = Trouble::default(),
        }
        if item.once {
            return Some(item);
        }
        self.busy.remove(&lane);
        match outcome {
            Outcome::Taken => {
                self.lanes.remove(&lane);
                return Some(item);
            }
            Outcome::NotNow => self.lanes.entry(lane).or_default().add(now),
            Outcome::Unreachable => {}
        }
        self.waiting.insert(id, item);
        None
    }

    /// The URLs have changed: what waits goes to the new servers, and what is not wanted any more
    /// goes.
    pub(super) fn retarget(&mut self, server_of: impl Fn(Hook) -> Option<Arc<str>>) {
        let keep = |item: &mut Item| match server_of(item.hook) {
            Some(server) => {
                item.server = server;
                true
            }
            None => false,
        };
        self.waiting.retain(|_, item| keep(item));
        self.urgent.retain_mut(|(_, item)| keep(item));
        self.lanes.clear();
        self.servers.retain(|_, server| server.under_way > 0);
        let waiting = self.waiting.values().chain(self.urgent.iter().map(|(_, item)| item));
        for server in waiting.map(|item| item.server.clone()).collect::<HashSet<_>>() {
            self.servers.entry(server).or_default();
        }
    }

    /// When something may be told that may not now.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        let servers = self.servers.values().filter_map(|server| server.trouble.not_before);
        servers.chain(self.lanes.values().filter_map(|trouble| trouble.not_before)).min()
    }

    /// Forgets waits that are over, so that [`Self::poll_timeout`] looks ahead.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let servers = self.servers.values_mut().map(|server| &mut server.trouble);
        for trouble in servers.chain(self.lanes.values_mut()) {
            if trouble.not_before.is_some_and(|at| at <= now) {
                trouble.not_before = None;
            }
        }
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len() + self.urgent.len() + self.under_way.len()
    }
}

impl Item {
    fn lane(&self) -> Lane {
        (self.server.clone(), self.key.clone())
    }
}

impl Server {
    /// One that has failed is tried with one call at a time.
    fn is_shut(&self, now: Instant) -> bool {
        self.trouble.lasts(now) || self.trouble.failures > 0 && self.under_way > 0
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
        Item { hook, server, key: Some(key), generation: None, body, once: false }
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
            assert!(queue.push(item(stream, number), 10));
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
            queue.handle_timeout(now);
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
    fn the_oldest_goes_when_it_is_full() {
        let (mut queue, now) = (Queue::default(), clock::now());
        assert!(queue.push(item("a", 1), 2) && queue.push(item("a", 2), 2));
        assert!(!queue.push(item("a", 3), 2));
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
        queue.retarget(|hook| (hook == Hook::ProxyState).then(|| "other:80".into()));
        let (_, item) = queue.take(now).unwrap();
        assert_eq!((item.hook, &*item.server), (Hook::ProxyState, "other:80"));
        assert_eq!(queue.waiting_count(), 1);
    }
}
