//! Closes, and the proof that nothing is left: everything that hung on a stream confirms that it
//! is released, and only then the close is answered.

use std::collections::HashSet;
use std::time::Instant;

use super::closing::{AskedFor, Closing};
use super::failover::Abandoned;
use super::replica::{Ending, LocalLog, Role};
use super::tables::{Source, Stream, StreamHandle};
use super::timers::Timer;
use super::{Action, Shard};
use crate::bus::event::End;
use crate::bus::message::{Answer, LocalId, Message, Ticket};
use crate::media::state::{EndReason, Generation, Released};
use crate::media::{ConnectionId, Form, ShardId, StreamKey};

/// The end of a presence, as its owner wants it.
pub(super) struct EndOfLocal {
    pub(super) key: StreamKey,
    pub(super) local: LocalId,
    pub(super) owner: ShardId,
    pub(super) generation: Generation,
    pub(super) reason: EndReason,
}

impl Shard {
    /// Takes a stream out of its table and ends everything that hangs on it.
    pub(super) fn end_stream(
        &mut self,
        now: Instant,
        handle: StreamHandle,
        reason: EndReason,
        asked: Option<(Ticket, AskedFor)>,
    ) {
        if self.tables.get(handle).is_none() {
            return;
        }
        self.flush_now(handle);
        let mut stream = self.tables.remove(handle).expect("just seen");
        self.leave_idle(handle, stream.watch);
        let generation = handle.generation;
        self.tell_end(&stream, End::For(reason));
        self.totals.add_media(&stream.media);
        self.forget_pull(&stream, reason);
        for ticket in stream.take_adds() {
            self.answer(ticket, Answer::AddCancelled);
        }
        let ways = stream.pull().map_or_else(Vec::new, Abandoned::all_of);
        let mut released = Released { bytes: stream.media.held_bytes(), ..Released::default() };
        released.timers = self.cancel_timers(&mut stream);
        // Attempts before these were given up when they failed, and are being closed.
        for way in ways {
            released.timers += self.give_up(now, handle, way);
        }
        let mut publisher = None;
        if let Source::Publisher { connection, .. } = &stream.source {
            publisher = Some(*connection);
            let connection = *connection;
            self.publishers.remove(&connection);
            self.closing_of.insert(connection, generation);
            self.actions.push_back(Action::End { connection, reason, player: None });
        }
        let timer = self.timers.set(now + self.policy.close_bound, Timer::Close(generation));
        let subscribed = stream.subscribers.values().map(|subscriber| subscriber.local);
        let closing = Closing {
            asked: asked.into_iter().collect(),
            locals: subscribed.chain(stream.ended_locals.iter().copied()).collect(),
            attempts: stream.open_attempts.clone(),
            publisher,
            released,
            timer,
        };
        let subscribers: Vec<(ShardId, LocalId)> =
            stream.subscribers.iter().map(|(&(shard, _), to)| (shard, to.local)).collect();
        self.closings.insert(generation, closing);
        for (shard, local) in subscribers {
            self.ended_locals.insert(local);
            let key = stream.key.clone();
            if shard == self.id {
                self.keep_log(&mut stream, local.form);
                self.end_local_flushed(EndOfLocal { key, local, owner: shard, generation, reason });
            } else {
                self.send(shard, Message::End { key, local, generation, reason });
            }
        }
        drop(stream);
        self.closed_for(generation, |_| {});
    }

    /// Leaves the log of a stream that ends to this shard's players, who have its end still to get.
    fn keep_log(&mut self, stream: &mut Stream, form: Form) {
        if let Some(here) = self.locals.get_mut(&stream.key, form)
            && matches!(here.log, LocalLog::Owner(_))
        {
            here.log = LocalLog::Replica(Box::new(stream.media.take_log(form)));
        }
    }

    fn cancel_timers(&mut self, stream: &mut Stream) -> u32 {
        let hedge = stream.pull_mut().and_then(|pull| pull.hedge.take());
        let held = [stream.grace.take(), stream.silence.take(), hedge, stream.demand.timer()];
        held.into_iter().map(|timer| u32::from(self.timers.cancel(timer))).sum()
    }

    /// Confirms something of a close, and answers it when it was the last.
    pub(super) fn closed_for(
        &mut self,
        generation: Generation,
        confirm: impl FnOnce(&mut Closing),
    ) {
        let Some(closing) = self.closings.get_mut(&generation) else { return };
        confirm(closing);
        if !closing.is_complete() {
            return;
        }
        let mut closing = self.closings.remove(&generation).expect("just seen");
        self.timers.cancel(Some(closing.timer));
        for (ticket, answer) in closing.take_answers() {
            self.answer(ticket, answer);
        }
    }

    /// The bound of a close has passed: answer with what is confirmed. The rest is still awaited.
    pub(super) fn close_is_over(&mut self, generation: Generation) {
        let Some(closing) = self.closings.get_mut(&generation) else { return };
        for (ticket, answer) in closing.take_answers() {
            self.answer(ticket, answer);
        }
    }

    /// Ends a presence on this shard, after the tick's flush where one is due.
    pub(super) fn end_local_flushed(&mut self, end: EndOfLocal) {
        let here = self.locals.of(end.local);
        if here.is_some_and(|here| here.dirty && !matches!(here.log, LocalLog::None)) {
            self.due_ends.push(end);
        } else {
            self.end_local(end);
        }
    }

    /// Ends a presence on this shard: players and waiters are sent away; when all are, the owner is
    /// told what was released.
    pub(super) fn end_local(&mut self, end: EndOfLocal) {
        let EndOfLocal { key, local, owner, generation, reason } = end;
        let mut ending = Ending {
            key: key.clone(),
            owner,
            generation,
            open: HashSet::new(),
            released: Released::default(),
        };
        if self.locals.of(local).is_none() {
            // It went by itself meanwhile, and its last word is before this one in the owner's
            // queue.
            self.say_released(local, ending);
            return;
        }
        let mut here = self.locals.remove(&key, local.form).expect("just seen");
        let mut gone: Vec<ConnectionId> =
            here.crowd.ids().chain(here.waiters.keys().copied()).collect();
        if here.admitting > 0 {
            let admitting = self.members.iter().filter(|(_, member)| {
                member.role == Role::Admitting && member.is_of(&key, local.form)
            });
            gone.extend(admitting.map(|(&connection, _)| connection));
        }
        gone.sort_unstable();
        for connection in gone {
            let member = self.members.remove(&connection).expect("just seen");
            ending.open.insert(connection);
            self.ending_of.insert(connection, local);
            match member.role {
                Role::Waiter(timer) => {
                    ending.released.waiters += 1;
                    ending.released.timers += u32::from(self.timers.cancel(Some(timer)));
                    self.totals.waiters_refused += 1;
                    self.actions.push_back(Action::Refuse { connection, reason });
                }
                Role::Admitting | Role::Player => {
                    ending.released.players += 1;
                    ending.released.sockets += 1;
                    let player = here.crowd.remove(connection);
                    self.actions.push_back(Action::End { connection, reason, player });
                }
            }
        }
        let totals = here.crowd.take_totals();
        self.count_egress(totals);
        if ending.open.is_empty() {
            self.say_released(local, ending);
        } else {
            self.endings.insert(local, ending);
        }
    }

    /// Also where the owner is this shard: what the presence told it before is in the same queue,
    /// and must not come later.
    fn say_released(&mut self, local: LocalId, ending: Ending) {
        let Ending { key, owner, generation, released, .. } = ending;
        self.send(owner, Message::Released { key, local, generation, released });
    }

    pub(super) fn local_released(
        &mut self,
        now: Instant,
        key: &StreamKey,
        local: LocalId,
        generation: Generation,
        released: Released,
    ) {
        self.ended_locals.remove(&local);
        self.look_who_plays_key(now, key);
        if let Some(handle) = self.tables.find(key)
            && let Some(stream) = self.tables.get_mut(handle)
        {
            stream.ended_locals.remove(&local);
        }
        self.closed_for(generation, |closing| {
            if closing.locals.remove(&local) {
                closing.released += released;
            }
        });
    }

    /// Nothing of a connection belongs to a stream any more: its socket is closed, or it was only
    /// refused and lives on.
    pub fn released(&mut self, connection: ConnectionId) {
        if let Some(local) = self.ending_of.remove(&connection)
            && let Some(ending) = self.endings.get_mut(&local)
        {
            ending.open.remove(&connection);
            if ending.open.is_empty() {
                let ending = self.endings.remove(&local).expect("just seen");
                self.say_released(local, ending);
            }
        }
        if let Some(generation) = self.closing_of.remove(&connection) {
            self.closed_for(generation, |closing| {
                closing.publisher = None;
                closing.released.sockets += 1;
            });
        }
    }
}
