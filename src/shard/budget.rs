//! How many connects may be under way to one origin, so that thousands of pulls of a dead origin
//! cost it and us little.

use std::collections::{HashMap, VecDeque};

/// Connect budgets by origin (host and port) of pulls, or by destination of pushes.
pub(super) struct Budget<T> {
    origins: HashMap<String, Origin<T>>,
}

struct Origin<T> {
    under_way: usize,
    queue: VecDeque<T>,
}

impl<T> Default for Budget<T> {
    fn default() -> Self {
        Self { origins: HashMap::new() }
    }
}

impl<T: Copy + PartialEq> Budget<T> {
    /// Takes a place; `false` puts the pull into the origin's queue.
    pub(super) fn take(&mut self, origin: &str, pull: T, places: usize) -> bool {
        if !self.origins.contains_key(origin) {
            let unused = Origin { under_way: 0, queue: VecDeque::new() };
            self.origins.insert(origin.to_owned(), unused);
        }
        let origin = self.origins.get_mut(origin).expect("just entered");
        if origin.under_way < places && origin.queue.is_empty() {
            origin.under_way += 1;
            return true;
        }
        origin.queue.push_back(pull);
        false
    }

    /// Gives a place back. [`Self::next`] is to follow until nobody gets one.
    pub(super) fn give_back(&mut self, name: &str) {
        if let Some(origin) = self.origins.get_mut(name) {
            origin.under_way -= 1;
        }
    }

    /// The pull that has waited longest takes a place, where there is one.
    pub(super) fn next(&mut self, name: &str, places: usize) -> Option<T> {
        let origin = self.origins.get_mut(name)?;
        if origin.under_way < places
            && let Some(next) = origin.queue.pop_front()
        {
            origin.under_way += 1;
            return Some(next);
        }
        if origin.under_way == 0 && origin.queue.is_empty() {
            self.origins.remove(name);
        }
        None
    }

    /// Origins for whose places somebody waits, in the order of their names.
    pub(super) fn awaited(&self) -> Vec<String> {
        let awaited = self.origins.iter().filter(|(_, origin)| !origin.queue.is_empty());
        let mut awaited: Vec<String> = awaited.map(|(name, _)| name.clone()).collect();
        awaited.sort_unstable();
        awaited
    }

    /// Takes a pull out of the queue, once if it is there for two of its sources.
    pub(super) fn leave(&mut self, name: &str, pull: T) {
        if let Some(origin) = self.origins.get_mut(name)
            && let Some(index) = origin.queue.iter().position(|&queued| queued == pull)
        {
            origin.queue.remove(index);
            if origin.under_way == 0 && origin.queue.is_empty() {
                self.origins.remove(name);
            }
        }
    }

    /// How many places of an origin are taken, and how many wait for one.
    pub(super) fn use_of(&self, name: &str) -> (usize, usize) {
        self.origins.get(name).map_or((0, 0), |origin| (origin.under_way, origin.queue.len()))
    }

    /// Origins with connects under way or waiting.
    pub(super) fn len(&self) -> usize {
        self.origins.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::StreamHandle;
    use super::*;
    use crate::media::state::Generation;

    fn give_back(
        budget: &mut Budget<StreamHandle>,
        name: &str,
        places: usize,
    ) -> Option<StreamHandle> {
        budget.give_back(name);
        budget.next(name, places)
    }

    fn pull(slot: u32) -> StreamHandle {
        StreamHandle { slot, generation: Generation(u64::from(slot)) }
    }

    #[test]
    fn places_are_given_in_the_order_of_asking() {
        let mut budget = Budget::default();
        assert!(budget.take("a", pull(1), 2) && budget.take("a", pull(2), 2));
        assert!(!budget.take("a", pull(3), 2) && !budget.take("a", pull(4), 2));
        assert!(budget.take("b", pull(5), 2), "another origin has its own");
        assert_eq!((budget.use_of("a"), budget.use_of("c")), ((2, 2), (0, 0)));
        assert_eq!(give_back(&mut budget, "a", 2), Some(pull(3)));
        assert_eq!(give_back(&mut budget, "a", 2), Some(pull(4)));
        assert_eq!(give_back(&mut budget, "a", 2), None);
        assert!(budget.take("a", pull(6), 2), "one place is free again");
    }

    #[test]
    fn a_pull_that_leaves_the_queue_gets_no_place() {
        let mut budget = Budget::default();
        budget.take("a", pull(1), 1);
        budget.take("a", pull(2), 1);
        budget.take("a", pull(3), 1);
        budget.leave("a", pull(2));
        assert_eq!(give_back(&mut budget, "a", 1), Some(pull(3)));
    }

    #[test]
    fn an_origin_is_forgotten_with_its_last_place() {
        let mut budget = Budget::default();
        budget.take("a", pull(1), 1);
        budget.take("a", pull(2), 1);
        assert_eq!(budget.len(), 1);
        give_back(&mut budget, "a", 1);
        give_back(&mut budget, "a", 1);
        assert_eq!(budget.len(), 0);
        assert_eq!(give_back(&mut budget, "a", 1), None, "nothing is there to give back");
    }

    #[test]
    fn who_comes_where_there_is_no_place_yet_waits_and_leaves_nothing() {
        let mut budget = Budget::default();
        assert!(!budget.take("a", pull(1), 0) && !budget.take("a", pull(2), 0));
        assert_eq!(budget.next("a", 0), None);
        assert_eq!(budget.next("a", 1), Some(pull(1)));
        budget.give_back("a");
        budget.leave("a", pull(2));
        assert_eq!(budget.len(), 0);
    }

    #[test]
    fn fewer_places_hold_until_enough_are_free() {
        let mut budget = Budget::default();
        for slot in 1..=3 {
            budget.take("a", pull(slot), 3);
        }
        budget.take("a", pull(4), 1);
        assert_eq!((give_back(&mut budget, "a", 1), give_back(&mut budget, "a", 1)), (None, None));
        assert_eq!(give_back(&mut budget, "a", 1), Some(pull(4)));
    }

    #[test]
    fn more_places_go_to_who_waits_at_once() {
        let mut budget = Budget::default();
        for slot in 1..=4 {
            budget.take("a", pull(slot), 1);
        }
        budget.take("b", pull(5), 1);
        assert_eq!((budget.awaited(), budget.next("a", 1)), (vec!["a".to_owned()], None));
        assert_eq!((budget.next("a", 3), budget.next("a", 3)), (Some(pull(2)), Some(pull(3))));
        assert_eq!((budget.next("a", 3), budget.use_of("a")), (None, (3, 1)));
    }
}
