//! Streams that nobody plays: told once, and closed where the operator, the pull or a hook wants it.
//!
//! Players and waiters on all shards and in all forms count. The time runs while a stream is
//! registered and nobody is there; whoever comes sets it back, and takes the ground away from under a
//! hook's answer that was on its way.

use std::time::Instant;

use super::Shard;
use super::closing::AskedFor;
use super::tables::{Stream, StreamHandle};
use crate::bus::event::What;
use crate::bus::message::{Answer, CloseOutcome, IdleClose, Ticket};
use crate::media::StreamKey;
use crate::media::state::{EndReason, Generation};

/// Whether somebody plays a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Watch {
    /// Somebody does, or it was never registered.
    #[default]
    Watched,
    /// Nobody since then.
    Unwatched(Instant),
    /// Nobody, and that was told.
    Told,
}

impl Shard {
    /// Players or waiters of a stream have come or gone.
    pub(super) fn look_who_plays(&mut self, now: Instant, handle: StreamHandle) {
        let Some(stream) = self.tables.get_mut(handle) else { return };
        if stream.players() + stream.waiters() > 0 || self.pushes.hold(&stream.key) {
            stream.watch = Watch::Watched;
        } else if stream.registered && stream.watch == Watch::Watched {
            stream.watch = Watch::Unwatched(now);
        }
    }

    /// A stream is registered, for the first time or again. A source that comes and goes does not set
    /// the time back.
    pub(super) fn watch_registered(&mut self, now: Instant, handle: StreamHandle) {
        if let Some(stream) = self.tables.get_mut(handle)
            && stream.watch == Watch::Told
        {
            stream.watch = Watch::Watched;
        }
        self.look_who_plays(now, handle);
    }

    /// Tells of the streams that nobody has played for as long as the operator or the pull says, and
    /// closes those that are to be closed without asking.
    pub(super) fn look_for_unwatched(&mut self, now: Instant) {
        for handle in self.tables.handles() {
            self.look_who_plays(now, handle);
            let stream = self.tables.get_mut(handle).expect("just listed");
            let Watch::Unwatched(since) = stream.watch else { continue };
            let IdleClose { after, always } = idle_close(stream);
            let delay = after.unwrap_or(self.policy.none_reader_delay);
            if !stream.registered || now.duration_since(since) < delay {
                continue;
            }
            stream.watch = Watch::Told;
            self.tell(handle, |_| What::Unwatched);
            let nobody_decides = after.is_some() && !self.policy.none_reader_is_asked;
            if always.unwrap_or(self.policy.auto_close) || nobody_decides {
                self.end_stream(now, handle, EndReason::Idle, None);
            }
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
        if !stream.registered || stream.watch != Watch::Told {
            self.answer(ticket, Answer::Close(CloseOutcome::HasPlayers));
            return;
        }
        self.end_stream(now, handle, EndReason::Idle, Some((ticket, AskedFor::Close)));
    }
}

fn idle_close(stream: &Stream) -> IdleClose {
    stream.pull().map_or_else(IdleClose::default, |pull| pull.options.idle_close)
}
