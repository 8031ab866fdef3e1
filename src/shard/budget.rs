//! How many connects may be under way to one origin, so that thousands of pulls of a dead origin
//! cost it and us little.

use std::collections::{HashMap, VecDeque};

use super::tables::StreamHandle;

/// Connect budgets by origin (host and port).
#[derive(Default)]
pub(super) struct Budget {
    origins: HashMap<String, Origin>,
}

#[derive(Default)]
struct Origin {
    under_way: usize,
    queue: VecDeque<StreamHandle>,
}

impl Budget {
    /// Takes a place; `false` puts the pull into the origin's queue.
    pub(super) fn take(&mut self, origin: &str, pull: StreamHandle, places: usize) -> bool {
        if let Some(origin) = self.origins.get_mut(origin) {
            if origin.under_way < places && origin.queue.is_empty() {
                origin.under_way += 1;
                return true;
            }
            origin.queue.push_back(pull);
            return false;
        }
        self.origins.insert(origin.to_owned(), Origin { under_way: 1, queue: VecDeque::new() });
        true
    }

    /// Gives a place back and returns the pull that gets it.
    pub(super) fn give_back(&mut self, name: &str, places: usize) -> Option<StreamHandle> {
        let origin = self.origins.get_mut(name)?;
        origin.under_way -= 1;
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

    /// Takes a pull out of the queue.
    pub(super) fn leave(&mut self, name: &str, pull: StreamHandle) {
        if let Some(origin) = self.origins.get_mut(name) {
            origin.queue.retain(|&queued| queued != pull);
        }
    }

    /// Origins with connects under way or waiting.
    pub(super) fn len(&self) -> usize {
        self.origins.len()
    }
}
