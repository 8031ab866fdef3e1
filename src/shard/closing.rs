//! Streams that are out of their table and not yet gone: a close is answered when everything that
//! hung on the stream has confirmed that it is released.

use std::collections::{BTreeSet, HashSet};

use super::timers::TimerId;
use crate::bus::message::{Answer, CloseOutcome, Closed, LocalId, Ticket};
use crate::media::state::Released;
use crate::media::{AttemptId, ConnectionId};

/// A close under way.
pub(super) struct Closing {
    pub(super) asked: Vec<(Ticket, AskedFor)>,
    pub(super) locals: HashSet<LocalId>,
    pub(super) attempts: BTreeSet<AttemptId>,
    pub(super) publisher: Option<ConnectionId>,
    pub(super) released: Released,
    pub(super) timer: TimerId,
}

/// What the answer is to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedFor {
    Delete,
    Close,
}

impl Closing {
    pub(super) fn is_complete(&self) -> bool {
        self.locals.is_empty() && self.attempts.is_empty() && self.publisher.is_none()
    }

    /// The answers, once.
    pub(super) fn take_answers(&mut self) -> Vec<(Ticket, Answer)> {
        let closed = Closed { released: self.released, complete: self.is_complete() };
        let asked = std::mem::take(&mut self.asked);
        asked.into_iter().map(|(ticket, what)| (ticket, what.answer(closed))).collect()
    }
}

impl AskedFor {
    fn answer(self, closed: Closed) -> Answer {
        match self {
            Self::Delete => Answer::Deleted(Some(closed)),
            Self::Close => Answer::Close(CloseOutcome::Closed(closed)),
        }
    }
}
