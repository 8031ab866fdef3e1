//! What a shard has set itself to do later. Each timer has a holder, which takes it back when it
//! is not needed any more; the ledger counts those that are set.

use std::collections::BTreeMap;
use std::time::Instant;

use super::tables::StreamHandle;
use crate::media::state::Generation;
use crate::media::{AttemptId, ConnectionId};

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// A waiter has waited long enough.
    Wait(ConnectionId),
    /// A pull may try again.
    Retry(StreamHandle),
    /// A pull has waited long enough for its origin's connect budget.
    Queue(StreamHandle),
    /// A lost source has not come back.
    Grace(StreamHandle),
    /// Has the source been silent for too long?
    Silence(StreamHandle),
    /// An attempt has not led to media.
    Attempt(AttemptId),
    /// The hook that is told of a missing stream has had its time.
    Demand(StreamHandle),
    /// A push may try again, or has waited long enough for its destination's connect budget.
    Push(Generation),
    /// A close is not confirmed yet; answer nevertheless.
    Close(Generation),
}

/// A set timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerId(Instant, u64);

impl TimerId {
    pub(super) fn due(self) -> Instant {
        self.0
    }
}

#[derive(Default)]
pub(super) struct Timers {
    set: BTreeMap<TimerId, Timer>,
    serial: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) -> TimerId {
        self.serial += 1;
        let id = TimerId(at, self.serial);
        self.set.insert(id, timer);
        id
    }

    /// Takes a timer back. Whether it was still set.
    pub(super) fn cancel(&mut self, id: Option<TimerId>) -> bool {
        id.is_some_and(|id| self.set.remove(&id).is_some())
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.set.first_key_value().map(|(id, _)| id.0)
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let entry = self.set.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    pub(super) fn any(&self, is: impl FnMut(&Timer) -> bool) -> bool {
        self.set.values().any(is)
    }

    pub(super) fn len(&self) -> usize {
        self.set.len()
    }
}
