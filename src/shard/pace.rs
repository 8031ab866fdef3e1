//! How fast connects to an origin of the config may follow each other on this shard: an origin that
//! says "no" at once would get any number of them by its budget of connects under way.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::Shard;

/// Origins with a highest rate, by host and port.
#[derive(Default)]
pub(super) struct Paces {
    by_name: HashMap<String, Pace>,
    /// Origins whose next connect is waited for.
    turns: BTreeSet<(Instant, String)>,
}

struct Pace {
    /// Between two connects in the long run.
    step: Duration,
    /// When the connects so far would be done at the highest rate.
    done: Option<Instant>,
    turn: Option<Instant>,
}

impl Paces {
    /// Takes the rates of a config, of the whole node; what went before counts on.
    fn configure<'a>(&mut self, rates: impl Iterator<Item = (&'a str, u32)>, shards: usize) {
        let mut before = std::mem::take(&mut self.by_name);
        self.turns.clear();
        for (name, per_second) in rates {
            let step = SECOND * shards as u32 / per_second;
            let done = before.remove(name).and_then(|pace| pace.done);
            self.by_name.insert(name.to_owned(), Pace { step, done, turn: None });
        }
    }

    /// Whether an origin may be connected to now.
    pub(super) fn is_open(&self, now: Instant, name: &str) -> bool {
        self.by_name.get(name).is_none_or(|pace| pace.opens_at(now) <= now)
    }

    /// It is connected to.
    pub(super) fn take(&mut self, now: Instant, name: &str) {
        if let Some(pace) = self.by_name.get_mut(name) {
            pace.done = Some(pace.done_by(now) + pace.step);
        }
    }

    /// Somebody waits for its next connect.
    fn wait(&mut self, now: Instant, name: &str) {
        if let Some(pace) = self.by_name.get_mut(name)
            && pace.turn.is_none()
        {
            let at = pace.opens_at(now);
            pace.turn = Some(at);
            self.turns.insert((at, name.to_owned()));
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.turns.first().map(|&(at, _)| at)
    }

    /// An origin whose turn has come.
    fn next_turn(&mut self, now: Instant) -> Option<String> {
        self.turns.first().filter(|(at, _)| *at <= now)?;
        let (_, name) = self.turns.pop_first()?;
        self.by_name.get_mut(&name)?.turn = None;
        Some(name)
    }
}

impl Pace {
    fn done_by(&self, now: Instant) -> Instant {
        self.done.map_or(now, |done| done.max(now))
    }

    /// As many as in a second may come at once, and one in any case.
    fn opens_at(&self, now: Instant) -> Instant {
        let ahead = SECOND.saturating_sub(self.step);
        self.done_by(now).checked_sub(ahead).map_or(now, |at| at.max(now))
    }
}

impl Shard {
    pub(super) fn configure_paces(&mut self) {
        self.paces.configure(self.demands.origins().rates(), self.shards);
    }

    /// Gives connects to who waits for their pace.
    pub(super) fn keep_pace(&mut self, now: Instant) {
        while let Some(origin) = self.paces.next_turn(now) {
            self.hand_out_places(now, &origin);
        }
    }

    /// Comes back to who still waits for an origin's pace. Those who wait for a place come with one.
    pub(super) fn await_pace(&mut self, now: Instant, origin: &str) {
        if self.budget.use_of(origin).1 > 0 && !self.paces.is_open(now, origin) {
            self.paces.wait(now, origin);
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// How many connects there are in so many milliseconds of always wanting one.
    fn count(paces: &mut Paces, now: &mut Instant, ms: u64) -> u32 {
        let mut count = 0;
        for _ in 0..ms {
            while paces.is_open(*now, "o") {
                paces.take(*now, "o");
                count += 1;
            }
            *now += Duration::from_millis(1);
        }
        count
    }

    fn paces(per_second: u32, shards: usize) -> Paces {
        let mut paces = Paces::default();
        paces.configure([("o", per_second)].into_iter(), shards);
        paces
    }

    #[test]
    fn a_second_may_come_at_once_and_the_rest_at_the_rate() {
        for (per_second, shards, first, then) in
            [(100, 1, 100, 100), (100, 4, 25, 25), (1, 1, 1, 1)]
        {
            let (mut paces, mut now) = (paces(per_second, shards), clock::now());
            assert_eq!(count(&mut paces, &mut now, 1), first, "{per_second}");
            assert_eq!(count(&mut paces, &mut now, 1000), then, "{per_second}");
            now += Duration::from_secs(60);
            assert_eq!(count(&mut paces, &mut now, 1), first, "not more for a rest");
        }
        let (mut slow, mut now) = (paces(2, 8), clock::now());
        assert_eq!(count(&mut slow, &mut now, 4000), 1, "one in four seconds of each shard");
        assert_eq!(count(&mut slow, &mut now, 1), 1);
        assert!(slow.is_open(now, "of no rate"));
    }

    #[test]
    fn who_waits_gets_the_next_turn_once() {
        let (mut paces, start) = (paces(4, 1), clock::now());
        (0..4).for_each(|_| paces.take(start, "o"));
        assert!(!paces.is_open(start, "o"));
        paces.wait(start, "o");
        paces.wait(start, "o");
        let turn = paces.poll_timeout().unwrap();
        assert_eq!(turn - start, Duration::from_millis(250));
        assert_eq!(paces.next_turn(turn - Duration::from_millis(1)), None);
        assert_eq!(paces.next_turn(turn).as_deref(), Some("o"));
        assert_eq!((paces.next_turn(turn), paces.poll_timeout()), (None, None));
        assert!(paces.is_open(turn, "o"));
    }

    #[test]
    fn a_reload_does_not_begin_a_second_anew() {
        let (mut paces, now) = (paces(4, 1), clock::now());
        (0..4).for_each(|_| paces.take(now, "o"));
        paces.wait(now, "o");
        paces.configure([("o", 4)].into_iter(), 1);
        assert!(!paces.is_open(now, "o") && paces.poll_timeout().is_none());
        paces.configure([].into_iter(), 1);
        assert!(paces.is_open(now, "o"));
    }
}
