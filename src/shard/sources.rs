//! Publishers and pulls: a stream's way from pending to registered and back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::ending::EndOfLocal;
use super::lifecycle::PullState;
use super::tables::{Source, StreamHandle, Subscriber};
use super::timers::Timer;
use super::{Action, PullNews, Shard};
use crate::bus::event::{Asker, What};
use crate::bus::message::{Answer, Message};
use crate::bus::view::PublisherView;
use crate::media::state::{EndReason, ErrorClass, Fault, StreamState};
use crate::media::{ConnectionId, MediaPart, ShardId, StreamKey};

/// Why a publisher may not publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishRefusal {
    /// Somebody else has the name.
    NameTaken,
    Overloaded,
}

impl Shard {
    /// A publisher that was accepted here or moved here asks for a key that this shard owns.
    ///
    /// # Errors
    /// [`PublishRefusal`]; whoever has the name is not touched.
    pub fn publish(
        &mut self,
        now: Instant,
        key: &StreamKey,
        view: PublisherView,
    ) -> Result<StreamHandle, PublishRefusal> {
        debug_assert_eq!(self.owner_of(key), self.id);
        let (connection, peer) = (view.connection, view.peer);
        let source = Source::Publisher { connection, view: Box::new(view) };
        let mut was_kept = false;
        let handle = match self.tables.find(key) {
            _ if self.shutting_down => return Err(PublishRefusal::Overloaded),
            None if self.tables.pending_count() >= self.policy.pending_max => {
                return Err(PublishRefusal::Overloaded);
            }
            None => {
                let generation = self.next_generation();
                self.tables.insert(key.clone(), generation, source, (now, self.now_unix))
            }
            Some(handle) => {
                let stream = self.tables.get_mut(handle).expect("just found");
                if !matches!(stream.source, Source::None { .. }) {
                    self.totals.publishes_refused += 1;
                    return Err(PublishRefusal::NameTaken);
                }
                was_kept = matches!(stream.source, Source::None { kept: true });
                stream.source = source;
                let grace = stream.grace.take();
                stream.ingest.change_source(&mut stream.log);
                self.timers.cancel(grace);
                handle
            }
        };
        self.publishers.insert(connection, handle);
        let stream = self.tables.get_mut(handle).expect("just made or found");
        stream.last_media = now;
        let due = now + self.policy.publisher_silence;
        stream.silence = Some(self.timers.set(due, Timer::Silence(handle)));
        self.tell(handle, |_| match was_kept {
            true => What::SourceSwitched { connection, peer },
            false => What::Pending { by: Asker::Publisher, url: None },
        });
        Ok(handle)
    }

    /// A publisher has ended its stream (`clean`), or its connection broke. Its socket is not the
    /// shard's any more.
    pub fn unpublish(&mut self, now: Instant, connection: ConnectionId, clean: bool) {
        let Some(handle) = self.publishers.remove(&connection) else { return };
        let stream = self.tables.get_mut(handle).expect("a publisher's stream is in a table");
        let keep = !clean && stream.registered && !self.policy.continue_push.is_zero();
        stream.source = Source::None { kept: keep };
        let silence = stream.silence.take();
        self.timers.cancel(silence);
        if keep {
            let grace = self.policy.continue_push;
            let fault = Fault::new(ErrorClass::Lost, "the publisher's connection has ended");
            self.tell(handle, |_| What::Lost { url: None, fault, next_try: None });
            self.suspend(now, handle, grace);
            return;
        }
        if stream.subscribers.values().any(|subscriber| subscriber.attached) && !stream.registered {
            // It had come back for players that are kept, and brought nothing.
            stream.source = Source::None { kept: true };
            stream.ingest.change_source(&mut stream.log);
            let due = now + self.policy.continue_push;
            stream.grace = Some(self.timers.set(due, Timer::Grace(handle)));
            return;
        }
        if !stream.registered && !stream.subscribers.is_empty() {
            // It never came up, so those who wait for it go on waiting.
            self.forget_media(handle);
            self.tell(handle, |_| What::Pending { by: Asker::Players, url: None });
            return;
        }
        let reason = if clean { EndReason::Unpublished } else { EndReason::SourceLost };
        self.end_stream(now, handle, reason, None);
    }

    /// The next piece of media of a source. `false` when the source is not that of the stream any
    /// more.
    pub fn media(&mut self, now: Instant, handle: StreamHandle, part: MediaPart) -> bool {
        let stream = self.tables.get_mut(handle);
        let stream = stream.filter(|stream| !matches!(stream.source, Source::None { .. }));
        let Some(stream) = stream else {
            self.totals.late_messages += 1;
            return false;
        };
        let received = stream.ingest.bytes().received;
        let progress = stream.ingest.handle(&mut stream.log, part);
        let received = stream.ingest.bytes().received - received;
        stream.rate.count(now, received);
        if received > 0 {
            stream.last_media = now;
        }
        if !progress.committed {
            return true;
        }
        stream.unflushed = true;
        if progress.frame && !stream.registered {
            self.register(now, handle);
        }
        self.flush_in_time(now, handle, progress.video);
        true
    }

    /// Has a stream flushed when what came now is due: video at once, audio when it has waited for
    /// video, and all streams of the shard together where the operator wants a flush window.
    fn flush_in_time(&mut self, now: Instant, handle: StreamHandle, is_video: bool) {
        let wait = if is_video { Duration::ZERO } else { self.policy.audio_wait };
        let mut due = now + wait;
        let window = self.policy.flush_window;
        if !window.is_zero() {
            let start = *self.flush_grid.get_or_insert(now);
            let into_window = now.duration_since(start).as_nanos() % window.as_nanos();
            due = due.max(now + window - Duration::from_nanos(into_window as u64));
        }
        if due <= now {
            self.flush_soon(handle);
            return;
        }
        let stream = self.tables.get_mut(handle).expect("its media just came");
        if stream.flush_due.is_none_or(|old| due < old) {
            if let Some(old) = stream.flush_due.replace(due) {
                self.flush_queue.remove(&(old, handle));
            }
            self.flush_queue.insert((due, handle));
        }
    }

    /// Has a stream flushed in this turn's tick.
    pub(super) fn flush_soon(&mut self, handle: StreamHandle) {
        if let Some(stream) = self.tables.get_mut(handle)
            && !std::mem::replace(&mut stream.dirty, true)
        {
            self.dirty_streams.push(handle);
        }
    }

    pub(super) fn state_of(&self, handle: StreamHandle) -> StreamState {
        let Some(stream) = self.tables.get(handle) else { return StreamState::AwaitingSource };
        if stream.registered {
            return StreamState::Registered;
        }
        match &stream.source {
            Source::None { .. } => StreamState::AwaitingSource,
            Source::Publisher { .. } => StreamState::AwaitingMedia,
            Source::Pull(pull) => pull.state(),
        }
    }

    /// First media: from pending to registered.
    pub(super) fn register(&mut self, now: Instant, handle: StreamHandle) {
        self.tables.register(handle, (now, self.now_unix));
        self.totals.registrations += 1;
        let stream = self.tables.get_mut(handle).expect("just registered");
        let grace = stream.grace.take();
        let key = stream.key.clone();
        let mut adds = Vec::new();
        if let Source::Pull(pull) = &mut stream.source {
            let failures = pull.succeed();
            if failures > 0 {
                let (key, origin) = (key.clone(), pull.origin());
                let news = PullNews::Recovered { key, origin, failures };
                self.actions.push_back(Action::Tell(news));
            }
            if let PullState::Trying { attempt, stage, timer, holds_place, .. } = pull.state {
                let place = holds_place.then(|| pull.origin());
                pull.state = PullState::Trying {
                    attempt,
                    stage,
                    awaiting: "media",
                    timer: None,
                    holds_place: false,
                };
                adds = std::mem::take(&mut pull.adds);
                let due = now + pull.options.media_timeout;
                self.timers.cancel(timer);
                stream.silence = Some(self.timers.set(due, Timer::Silence(handle)));
                if let Some(origin) = place {
                    self.give_place_back(now, &origin);
                }
            }
        }
        self.timers.cancel(grace);
        for ticket in adds {
            let state = StreamState::Registered;
            self.answer(ticket, Answer::Added { state, generation: handle.generation });
        }
        let stream = self.tables.get_mut(handle).expect("just registered");
        let shards: Vec<ShardId> = stream.subscribers.keys().copied().collect();
        for shard in shards {
            let stream = self.tables.get_mut(handle).expect("just registered");
            let subscriber = stream.subscribers.get_mut(&shard).expect("just listed");
            if subscriber.attached && !subscriber.lacks_flush {
                subscriber.suspended = false;
                // What it has ends before the splice; the next flush carries the rest.
                let message = Message::Resumed { key: key.clone(), local: subscriber.local };
                self.send(shard, message);
            } else {
                self.attach(handle, shard);
            }
        }
        self.flush_soon(handle);
        self.tell_registered(now, handle);
    }

    /// Gives a shard the log as far as it is flushed; one whose queue is full gets it with a flush
    /// after that, so that no snapshots pile up which nobody can use.
    pub(super) fn attach(&mut self, handle: StreamHandle, shard: ShardId) {
        let own = shard == self.id;
        let Some(stream) = self.tables.get_mut(handle) else { return };
        if !own && self.backed_up[shard.index()] {
            if let Some(subscriber) = stream.subscribers.get_mut(&shard) {
                subscriber.lacks_flush = true;
            }
            return;
        }
        let snapshot = (!own).then(|| Box::new(stream.log.snapshot()));
        let flushed_seq = stream.log.flushed_seq();
        let key = stream.key.clone();
        let Some(subscriber) = stream.subscribers.get_mut(&shard) else { return };
        subscriber.attached = true;
        subscriber.lacks_flush = false;
        subscriber.suspended = false;
        subscriber.sent_seq = flushed_seq;
        let local = subscriber.local;
        let generation = handle.generation;
        self.send(shard, Message::Attached { key, local, generation, snapshot });
    }

    /// From registered back to pending; players are kept for the grace period.
    pub(super) fn suspend(&mut self, now: Instant, handle: StreamHandle, grace: Duration) {
        // Audio that waits for video to ride on goes out with what it belongs to.
        self.flush_now(handle);
        self.tables.unregister(handle);
        let stream = self.tables.get_mut(handle).expect("just unregistered");
        stream.ingest.drop_unfinished(&mut stream.log);
        let key = stream.key.clone();
        let attached: Vec<_> = stream
            .subscribers
            .iter_mut()
            .filter(|(_, subscriber)| subscriber.attached && !subscriber.suspended)
            .map(|(&shard, subscriber)| {
                subscriber.suspended = true;
                (shard, subscriber.local)
            })
            .collect();
        stream.ingest.change_source(&mut stream.log);
        stream.grace = Some(self.timers.set(now + grace, Timer::Grace(handle)));
        for (shard, local) in attached {
            self.send(shard, Message::Suspended { key: key.clone(), local });
        }
    }

    /// The lost source has not come back: its players go. A pull goes on trying.
    pub(super) fn grace_is_over(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("its timers go with it");
        stream.grace = None;
        if stream.pull().is_none() {
            self.end_stream(now, handle, EndReason::SourceLost, None);
            return;
        }
        let all = std::mem::take(&mut stream.subscribers);
        let (attached, waiting) = all.into_iter().partition(|(_, subscriber)| subscriber.attached);
        stream.subscribers = waiting;
        let attached: BTreeMap<ShardId, Subscriber> = attached;
        stream.ended_locals.extend(attached.values().map(|subscriber| subscriber.local));
        let key = stream.key.clone();
        for (shard, Subscriber { local, .. }) in attached {
            let (generation, reason) = (handle.generation, EndReason::SourceLost);
            self.ended_locals.insert(local);
            if shard == self.id {
                // At once: this shard's players read the log that may be taken away below.
                let key = key.clone();
                self.end_local(EndOfLocal { key, local, owner: shard, generation, reason });
            } else {
                self.send(shard, Message::End { key: key.clone(), local, generation, reason });
            }
        }
        self.forget_media(handle);
    }

    /// Gives the memory of a lost source back when nobody has anything of it any more. An attempt
    /// that is under way may have brought its configurations already, so it keeps the log.
    pub(super) fn forget_media(&mut self, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let is_had = stream.subscribers.values().any(|subscriber| subscriber.attached);
        let is_coming = stream.pull().is_some_and(|pull| pull.attempt().is_some());
        if !is_had && !is_coming && !stream.registered && stream.grace.is_none() {
            stream.ingest.start_over(&mut stream.log);
        }
    }

    /// Is a source that should bring media still doing so?
    pub(super) fn check_silence(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("its timers go with it");
        stream.silence = None;
        let limit = match &stream.source {
            Source::Pull(pull) => pull.options.media_timeout,
            _ => self.policy.publisher_silence,
        };
        let due = stream.last_media + limit;
        if now < due {
            stream.silence = Some(self.timers.set(due, Timer::Silence(handle)));
            return;
        }
        match &stream.source {
            Source::None { .. } => {}
            Source::Publisher { connection, .. } => {
                let (connection, reason) = (*connection, EndReason::SourceLost);
                self.actions.push_back(Action::End { connection, reason, player: None });
                self.unpublish(now, connection, false);
            }
            Source::Pull(pull) => {
                let Some(attempt) = pull.attempt() else { return };
                let text =
                    format!("the origin went silent: no media for {} s", limit.as_secs_f64());
                self.actions.push_back(Action::HangUp { attempt });
                self.attempt_failed(now, attempt, Fault::new(ErrorClass::Silent, text));
            }
        }
    }

    /// Flushes the owned streams whose time has come.
    pub(super) fn flush_streams(&mut self) {
        for handle in std::mem::take(&mut self.dirty_streams) {
            if let Some(stream) = self.tables.get_mut(handle) {
                stream.dirty = false;
                self.flush_now(handle);
            }
        }
    }

    /// Lets players have everything that has come. What comes before a stream is registered waits
    /// for that.
    pub(super) fn flush_now(&mut self, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        if let Some(due) = stream.flush_due.take() {
            self.flush_queue.remove(&(due, handle));
        }
        if std::mem::take(&mut stream.unflushed) && stream.registered {
            stream.log.flush();
            self.send_flush(handle);
        }
    }

    pub(super) fn send_flush(&mut self, handle: StreamHandle) {
        let own = self.id;
        let stream = self.tables.get_mut(handle).expect("just flushed");
        let key = stream.key.clone();
        let flushed_seq = stream.log.flushed_seq();
        let mut others = Vec::new();
        let mut behind = Vec::new();
        let mut is_here = false;
        for (&shard, subscriber) in &mut stream.subscribers {
            if shard == own {
                is_here = subscriber.attached;
            } else if !subscriber.lacks_flush {
                others.push((shard, subscriber.local, stream.log.delta(subscriber.sent_seq)));
                subscriber.sent_seq = flushed_seq;
            } else {
                behind.push(shard);
            }
        }
        for (shard, local, delta) in others {
            self.send(shard, Message::Flushed { key: key.clone(), local, delta });
        }
        for shard in behind {
            self.totals.resyncs += u64::from(!self.backed_up[shard.index()]);
            self.attach(handle, shard);
        }
        if is_here {
            self.mark_local_dirty(&key);
        } else {
            let gop_bytes_max = self.policy.gop_bytes_max;
            let stream = self.tables.get_mut(handle).expect("just flushed");
            stream.log.trim(None, gop_bytes_max);
        }
    }
}
