//! Places in the connect budgets of origins: taken by tries of pulls, handed on to who waits for one.

use std::collections::HashMap;
use std::time::Instant;

use super::Shard;
use super::demand::Demand;
use super::failover::Side;
use super::lifecycle::{Place, PullState};
use super::tables::StreamHandle;
use super::timers::Timer;
use crate::limits::TRY_TIME_MIN;
use crate::media::AttemptId;

/// Places that are not free before their attempts are closed.
#[derive(Default)]
pub(super) struct HeldPlaces {
    by_attempt: HashMap<AttemptId, String>,
    /// To be given back in this turn.
    freed: Vec<String>,
}

impl Shard {
    /// Connects that may be under way to an origin from this shard.
    pub(super) fn places(&self, origin: &str) -> usize {
        let Some(max) = self.demands.origins().connects_max(origin) else {
            return self.policy.connects_per_origin_max;
        };
        let (max, shards) = (max as usize, self.shards);
        let share = max / shards + usize::from(self.id.index() < max % shards);
        share.max(1)
    }

    /// Those that may be under way if one more is to be now: none where it would come too soon after others.
    pub(super) fn places_now(&self, now: Instant, origin: &str) -> usize {
        if self.paces.is_open(now, origin) { self.places(origin) } else { 0 }
    }

    /// An attempt needs its place no more; one on demand keeps it until it is closed.
    pub(super) fn leave_place(&mut self, now: Instant, place: Place) {
        if place.until_closed {
            self.held_places.by_attempt.insert(place.attempt, place.origin);
        } else {
            self.give_place_back(now, &place.origin);
        }
    }

    /// An attempt is closed.
    pub(super) fn free_place(&mut self, attempt: AttemptId) {
        let places = &mut self.held_places;
        places.freed.extend(places.by_attempt.remove(&attempt));
    }

    /// Gives the places of this turn's closed attempts to who waits for them.
    pub(super) fn give_freed_places(&mut self, now: Instant) {
        for origin in std::mem::take(&mut self.held_places.freed) {
            self.give_place_back(now, &origin);
        }
    }

    pub(super) fn give_place_back(&mut self, now: Instant, origin: &str) {
        self.budget.give_back(origin);
        self.hand_out_places(now, origin);
    }

    /// Gives the places that other budgets than before leave free to who waits for them.
    pub(super) fn hand_out_all_places(&mut self, now: Instant) {
        for origin in self.budget.awaited() {
            self.hand_out_places(now, &origin);
        }
        for destination in self.pushes.budget.awaited() {
            self.hand_out_push_places(now, &destination);
        }
    }

    /// Whether a try whose turn comes now may still come to something. One with too little time left would
    /// fail by that, and count as one that its origin has not answered.
    fn has_time(&self, now: Instant, handle: StreamHandle, side: Side) -> bool {
        let stream = self.tables.get(handle).expect("callers look");
        let pull = stream.pull().expect("only pulls queue");
        let timeout = pull.timeout(side);
        let least = match &stream.demand {
            Demand::Pulled(search) if !pull.was_up => search.least(&pull.sources),
            _ => TRY_TIME_MIN.min(timeout),
        };
        let way = pull.try_of(side).expect("callers have one");
        now + least <= way.deadline(now, timeout)
    }

    /// A try whose turn comes too late has left its queue. It fails when whoever frees a place is done with
    /// that, who may be about to go on with the same pull.
    fn come_too_late(&mut self, now: Instant, handle: StreamHandle, side: Side) {
        let pull = self.tables.get_mut(handle).and_then(|stream| stream.pull_mut());
        let way = pull.and_then(|pull| pull.try_mut(side)).expect("callers have one");
        let old = way.timer();
        let due = old.map_or(now, |old| old.due().min(now));
        let timer = self.timers.set(due, Timer::Queue(handle, side));
        way.state = PullState::Queued { timer, is_late: true };
        self.timers.cancel(old);
    }

    pub(super) fn hand_out_places(&mut self, now: Instant, origin: &str) {
        while let Some(handle) = self.budget.next(origin, self.places_now(now, origin)) {
            let pull = self.tables.get(handle).and_then(|stream| stream.pull());
            let waits = |side: &Side| {
                let way = pull.and_then(|pull| pull.try_of(*side));
                way.is_some_and(|way| way.is_queued() && way.origin() == origin)
            };
            let waiting = Side::ALL.into_iter().find(waits).filter(|_| !self.shutting_down);
            let Some(side) = waiting else {
                self.budget.give_back(origin);
                continue;
            };
            self.take_time_of_origin(now, handle);
            if self.has_time(now, handle, side) {
                self.paces.take(now, origin);
                self.dial(now, handle, side);
            } else {
                self.budget.give_back(origin);
                self.come_too_late(now, handle, side);
            }
        }
        self.await_pace(now, origin);
    }
}
