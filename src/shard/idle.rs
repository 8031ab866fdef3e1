//! Streams that nobody plays: told once, and closed where the operator, the pull or a hook wants it.
//!
//! Players and waiters on all shards and in all forms count. The time runs while a stream is
//! registered and nobody is there; whoever comes sets it back, and takes the ground away from under a
//! hook's answer that was on its way.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Shard;
use super::closing::AskedFor;
use super::tables::{Stream, StreamHandle};
use crate::bus::event::What;
use crate::bus::message::{Answer, CloseOutcome, IdleClose, Ticket};
use crate::limits::IDLE_TOLD_PER_TURN;
use crate::media::StreamKey;
use crate::media::state::{EndReason, Generation};

/// Whether somebody plays a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Watch {
    /// Somebody does, or it was never registered.
    #[default]
    Watched,
    /// Nobody since then. Its place in the queue, which it has while it is registered.
    Unwatched { since: Instant, due: Option<Instant> },
    /// Nobody, and that was told. Where a hook is asked whether it is to be closed, its place in the queue
    /// until that has said so: without a word it is closed then.
    Told { answer_by: Option<Instant> },
}

impl Watch {
    /// Its place in the queue.
    fn due(self) -> Option<Instant> {
        match self {
            Self::Watched => None,
            Self::Unwatched { due, .. } => due,
            Self::Told { answer_by } => answer_by,
        }
    }
}

/// Streams that nobody plays, by when that is to be told, or a hook's word on it is awaited no more.
pub(super) type Idle = BTreeSet<(Instant, StreamHandle)>;

impl Shard {
    /// Players or waiters of a stream, or pushes that hold it, have come or gone.
    pub(super) fn look_who_plays(&mut self, now: Instant, handle: StreamHandle) {
        let Some(stream) = self.tables.get_mut(handle) else { return };
        if stream.players() + stream.waiters() > 0 || self.pushes.hold(&stream.key) {
            let before = std::mem::take(&mut stream.watch);
            self.leave_idle(handle, before);
        } else if stream.registered && stream.watch == Watch::Watched {
            self.await_idle(handle, now);
        }
    }

    /// As [`Self::look_who_plays`], of the stream that a key has.
    pub(super) fn look_who_plays_key(&mut self, now: Instant, key: &StreamKey) {
        if let Some(handle) = self.tables.find(key) {
            self.look_who_plays(now, handle);
        }
    }

    /// A stream is registered, for the first time or again. A source that comes and goes does not set
    /// the time back.
    pub(super) fn watch_registered(&mut self, now: Instant, handle: StreamHandle) {
        let Some(stream) = self.tables.get_mut(handle) else { return };
        match stream.watch {
            Watch::Watched => {}
            Watch::Unwatched { since, .. } => self.await_idle(handle, since),
            Watch::Told { .. } => {
                let before = std::mem::take(&mut stream.watch);
                self.leave_idle(handle, before);
            }
        }
        self.look_who_plays(now, handle);
    }

    /// Nobody has played a stream since then.
    fn await_idle(&mut self, handle: StreamHandle, since: Instant) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let due = since + idle_close(stream).after.unwrap_or(self.policy.none_reader_delay);
        let watch = Watch::Unwatched { since, due: Some(due) };
        let before = std::mem::replace(&mut stream.watch, watch);
        self.leave_idle(handle, before);
        self.idle.insert((due, handle));
    }

    /// A stream is not watched for in this way any more.
    pub(super) fn leave_idle(&mut self, handle: StreamHandle, before: Watch) {
        if let Some(due) = before.due() {
            self.idle.remove(&(due, handle));
        }
    }

    /// The delay of those that have none of their own is another one now.
    pub(super) fn await_idle_anew(&mut self) {
        for (due, handle) in std::mem::take(&mut self.idle) {
            let stream = self.tables.get(handle).expect("who ends leaves the queue");
            if let Watch::Unwatched { since, .. } = stream.watch {
                self.await_idle(handle, since);
            } else {
                self.idle.insert((due, handle));
            }
        }
    }

    /// Tells of the streams that nobody has played for as long as the operator or the pull says, and
    /// closes those that are to be closed without asking, or of which the hook has said nothing in its time.
    /// Of many, those that are left are due at once.
    pub(super) fn tell_idle(&mut self, now: Instant) {
        for _ in 0..IDLE_TOLD_PER_TURN {
            let Some(&(due, handle)) = self.idle.first().filter(|(due, _)| *due <= now) else {
                return;
            };
            self.idle.remove(&(due, handle));
            let stream = self.tables.get_mut(handle).expect("who ends leaves the queue");
            let registered = stream.registered;
            let since = match &mut stream.watch {
                Watch::Watched => continue,
                Watch::Unwatched { since, due } => {
                    *due = None;
                    *since
                }
                Watch::Told { answer_by } => {
                    *answer_by = None;
                    // When it is back, it is asked anew.
                    if registered {
                        self.end_stream(now, handle, EndReason::Idle, None);
                    }
                    continue;
                }
            };
            if !registered {
                continue;
            }
            let IdleClose { after, always } = idle_close(stream);
            if now < since + after.unwrap_or(self.policy.none_reader_delay) {
                self.await_idle(handle, since);
                continue;
            }
            let is_to_go = after.is_some() || stream.pull().is_some_and(|pull| pull.on_demand);
            let is_asked = is_to_go && self.policy.none_reader_is_asked;
            let answer_by = is_asked.then(|| now + self.policy.none_reader_answer);
            stream.watch = Watch::Told { answer_by };
            self.idle.extend(answer_by.map(|by| (by, handle)));
            self.tell(handle, |_| What::Unwatched);
            if always.unwrap_or(self.policy.auto_close) || is_to_go && !is_asked {
                self.end_stream(now, handle, EndReason::Idle, None);
            }
        }
    }

    /// Asserts that the queue has who it should; for tests.
    pub(super) fn check_idle(&self) {
        let awaited = |(_, stream): &(StreamHandle, &Stream)| stream.watch.due().is_some();
        let all = self.tables.handles().into_iter();
        let all = all.map(|handle| (handle, self.tables.get(handle).expect("just listed")));
        assert_eq!(all.filter(awaited).count(), self.idle.len());
        for (due, handle) in &self.idle {
            let stream = self.tables.get(*handle).expect("who ends leaves the queue");
            assert_eq!(stream.watch.due(), Some(*due));
        }
    }

    /// A hook says that a stream which it was told to be unwatched may go. It stays where somebody has
    /// come since, also where they have left again: that hook will be told anew.
    pub(super) fn close_idle(
        &mut self,
        now: Instant,
        ticket: Ticket,
        key: &StreamKey,
        generation: Option<Generation>,
    ) {
        let found = self.tables.find(key);
        let found = found.filter(|handle| generation.is_none_or(|of| of == handle.generation));
        let Some(handle) = found else {
            self.answer(ticket, Answer::Close(CloseOutcome::NotFound));
            return;
        };
        self.look_who_plays(now, handle);
        let stream = self.tables.get(handle).expect("just found");
        if !stream.registered || !matches!(stream.watch, Watch::Told { .. }) {
            self.answer(ticket, Answer::Close(CloseOutcome::HasPlayers));
            return;
        }
        self.end_stream(now, handle, EndReason::Idle, Some((ticket, AskedFor::Close)));
    }

    /// The hook that was told of an unwatched stream lets it be.
    pub(super) fn keep_idle(&mut self, key: &StreamKey, generation: Option<Generation>) {
        let found = self.tables.find(key);
        let found = found.filter(|handle| generation.is_none_or(|of| of == handle.generation));
        let Some(handle) = found else { return };
        let stream = self.tables.get_mut(handle).expect("just found");
        if matches!(stream.watch, Watch::Told { .. }) {
            let before = std::mem::replace(&mut stream.watch, Watch::Told { answer_by: None });
            self.leave_idle(handle, before);
        }
    }
}

fn idle_close(stream: &Stream) -> IdleClose {
    stream.pull().map_or_else(IdleClose::default, |pull| pull.options.idle_close)
}
