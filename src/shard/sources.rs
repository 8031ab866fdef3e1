//! Publishers and pulls: a stream's way from pending to registered and back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::ending::EndOfLocal;
use super::lifecycle::{AfterFailure, Pull, PullState};
use super::tables::{Source, StreamHandle, Subscriber};
use super::timers::Timer;
use super::{Action, Shard, Stage};
use crate::bus::message::{Answer, Message, PullOptions, Ticket};
use crate::bus::view::PublisherView;
use crate::media::state::{EndReason, ErrorClass, Fault, StreamState};
use crate::media::{AttemptId, ConnectionId, MediaPart, ShardId, SourceUrl, StreamKey};

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
        let connection = view.connection;
        let source = Source::Publisher { connection, view: Box::new(view) };
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
        let is_first = stream.unflushed_since.is_none();
        stream.unflushed_since.get_or_insert(now);
        if progress.frame && !stream.registered {
            self.register(now, handle);
        }
        if progress.video {
            self.flush_soon(handle);
        } else if is_first {
            self.mark_dirty(handle);
        }
        true
    }

    /// Has a stream flushed in this turn's tick.
    fn flush_soon(&mut self, handle: StreamHandle) {
        if let Some(stream) = self.tables.get_mut(handle) {
            stream.flush_now = true;
            self.mark_dirty(handle);
        }
    }

    fn mark_dirty(&mut self, handle: StreamHandle) {
        if let Some(stream) = self.tables.get_mut(handle)
            && !std::mem::replace(&mut stream.dirty, true)
        {
            self.dirty_streams.push(handle);
        }
    }

    /// Media of an attempt.
    pub fn attempt_media(&mut self, now: Instant, attempt: AttemptId, part: MediaPart) -> bool {
        let Some(&handle) = self.attempts.get(&attempt) else { return false };
        let current = self.tables.get(handle).and_then(|stream| stream.pull()?.attempt());
        if current != Some(attempt) {
            self.totals.late_messages += 1;
            return false;
        }
        self.media(now, handle, part)
    }

    /// Enters a pull. Whoever asked is answered at once or by the first result.
    pub(super) fn add_pull(
        &mut self,
        now: Instant,
        ticket: Ticket,
        key: StreamKey,
        url: Arc<SourceUrl>,
        options: PullOptions,
    ) {
        let found = self.tables.find(&key);
        if self.shutting_down
            || found.is_none() && self.tables.pending_count() >= self.policy.pending_max
        {
            self.answer(ticket, Answer::Overloaded("too many pending streams"));
            return;
        }
        let handle = match found {
            None => {
                let generation = self.next_generation();
                let source = Source::None { kept: false };
                self.tables.insert(key, generation, source, (now, self.now_unix))
            }
            Some(handle) => {
                let stream = self.tables.get_mut(handle).expect("just found");
                if !matches!(stream.source, Source::None { kept: false }) {
                    self.add_again(ticket, handle, &url, options);
                    return;
                }
                handle
            }
        };
        let mut pull = Pull::new(url, options);
        if !options.no_wait {
            pull.adds.push(ticket);
        }
        let stream = self.tables.get_mut(handle).expect("just made or found");
        stream.source = Source::Pull(Box::new(pull));
        stream.since = now;
        self.start_attempt(now, handle);
        if options.no_wait {
            let state = self.state_of(handle);
            self.answer(ticket, Answer::Added { state, generation: handle.generation });
        }
    }

    /// An add of a key that is taken: the same URL joins an attempt that is under way.
    fn add_again(
        &mut self,
        ticket: Ticket,
        handle: StreamHandle,
        url: &SourceUrl,
        options: PullOptions,
    ) {
        let state = self.state_of(handle);
        let stream = self.tables.get_mut(handle).expect("the caller found it");
        let taken_by = stream.url();
        if let Some(pull) = stream.pull_mut()
            && pull.url.as_str() == url.as_str()
        {
            match state {
                StreamState::Registered => {}
                _ if options.no_wait => {
                    self.answer(ticket, Answer::Added { state, generation: handle.generation });
                    return;
                }
                StreamState::BackingOff => {}
                _ => {
                    pull.adds.push(ticket);
                    return;
                }
            }
        }
        let generation = handle.generation;
        self.answer(ticket, Answer::Exists { state, url: taken_by, generation });
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

    /// Dials, or queues for the origin's budget.
    fn start_attempt(&mut self, now: Instant, handle: StreamHandle) {
        let places = self.policy.connects_per_origin_max;
        let stream = self.tables.get_mut(handle).expect("callers look");
        let pull = stream.pull_mut().expect("only pulls are attempted");
        let origin = pull.url.authority();
        if self.budget.take(&origin, handle, places) {
            self.dial(now, handle);
        } else {
            let timer = self.timers.set(now + pull.options.timeout, Timer::Queue(handle));
            pull.state = PullState::Queued { timer };
        }
    }

    fn dial(&mut self, now: Instant, handle: StreamHandle) {
        let attempt = AttemptId(self.next_serial());
        let stream = self.tables.get_mut(handle).expect("callers look");
        stream.open_attempts.insert(attempt);
        let key = stream.key.clone();
        let pull = stream.pull_mut().expect("only pulls are dialed");
        if let PullState::Queued { timer } = pull.state {
            self.timers.cancel(Some(timer));
        }
        let (url, timeout) = (pull.url.clone(), pull.options.timeout);
        let timer = Some(self.timers.set(now + timeout, Timer::Attempt(attempt)));
        pull.attempts += 1;
        pull.state = PullState::Trying {
            attempt,
            stage: Stage::Resolving,
            awaiting: "address",
            timer,
            holds_place: true,
        };
        self.totals.attempts += 1;
        self.attempts.insert(attempt, handle);
        self.actions.push_back(Action::Dial { attempt, stream: handle, key, url, timeout });
    }

    /// An attempt has come further; `awaiting` is what the peer was asked.
    pub fn attempt_stage(
        &mut self,
        now: Instant,
        attempt: AttemptId,
        new: Stage,
        awaiting_now: &'static str,
    ) {
        let Some((_, pull)) = self.current_pull(attempt) else { return };
        let PullState::Trying { stage, awaiting, holds_place, .. } = &mut pull.state else {
            return;
        };
        if *stage != Stage::Up {
            *stage = new;
        }
        *awaiting = awaiting_now;
        if new > Stage::Connecting && std::mem::take(holds_place) {
            let origin = pull.url.authority();
            self.give_place_back(now, &origin);
        }
    }

    /// Both ends of an attempt's connection.
    pub fn attempt_connected(
        &mut self,
        attempt: AttemptId,
        ends: (std::net::SocketAddr, std::net::SocketAddr),
    ) {
        if let Some((_, pull)) = self.current_pull(attempt) {
            pull.ends = Some(ends);
        }
    }

    /// An attempt has failed. What is left of it is being closed.
    pub fn attempt_failed(&mut self, now: Instant, attempt: AttemptId, fault: Fault) {
        let Some((handle, _)) = self.current_pull(attempt) else { return };
        let stream = self.tables.get_mut(handle).expect("just found");
        let was_registered = stream.registered;
        let silence = stream.silence.take();
        let pull = stream.pull_mut().expect("just found");
        let index = ErrorClass::ALL.iter().position(|&class| class == fault.class);
        self.totals.attempts_failed[index.expect("ALL is all")] += 1;
        let text = fault.clone();
        let after = pull.fail(fault, &self.policy.retry, &mut self.rng);
        let state = pull.state;
        let origin = pull.url.authority();
        let adds = std::mem::take(&mut pull.adds);
        let mut place = false;
        if let PullState::Trying { timer, holds_place, .. } = state {
            self.timers.cancel(timer);
            place = holds_place;
        }
        self.timers.cancel(silence);
        match after {
            AfterFailure::GiveUp => {
                pull.state = PullState::New;
                for ticket in adds {
                    self.answer(ticket, Answer::AddFailed(text.clone()));
                }
                self.end_stream(now, handle, EndReason::GaveUp, None);
            }
            AfterFailure::Retry(delay) => {
                let next = now + delay;
                let timer = self.timers.set(next, Timer::Retry(handle));
                pull.state = PullState::BackingOff { next, timer };
                stream.ingest.change_source(&mut stream.log);
                for ticket in adds {
                    let state = StreamState::BackingOff;
                    self.answer(ticket, Answer::Added { state, generation: handle.generation });
                }
                if was_registered {
                    self.totals.losses += 1;
                    let grace = self.policy.reconnect_grace;
                    self.suspend(now, handle, grace);
                }
                self.forget_media(handle);
            }
        }
        if place {
            self.give_place_back(now, &origin);
        }
    }

    /// Nothing is left of an attempt: its sockets are closed, its operations have ended.
    pub fn attempt_closed(&mut self, attempt: AttemptId, sockets: u32) {
        let Some(handle) = self.attempts.remove(&attempt) else { return };
        if let Some(stream) = self.tables.get_mut(handle) {
            stream.open_attempts.remove(&attempt);
        } else {
            self.closed_for(handle.generation, |closing| {
                if closing.attempts.remove(&attempt) {
                    closing.released.sockets += sockets;
                }
            });
        }
    }

    fn current_pull(&mut self, attempt: AttemptId) -> Option<(StreamHandle, &mut Pull)> {
        let handle = *self.attempts.get(&attempt)?;
        let pull = self.tables.get_mut(handle)?.pull_mut()?;
        (pull.attempt() == Some(attempt)).then_some((handle, pull))
    }

    pub(super) fn give_place_back(&mut self, now: Instant, origin: &str) {
        let places = self.policy.connects_per_origin_max;
        let mut next = self.budget.give_back(origin, places);
        while let Some(handle) = next {
            let queued = self.tables.get(handle).and_then(|stream| stream.pull());
            let is_queued =
                queued.is_some_and(|pull| matches!(pull.state, PullState::Queued { .. }));
            if is_queued && !self.shutting_down {
                self.dial(now, handle);
                return;
            }
            next = self.budget.give_back(origin, places);
        }
    }

    pub(super) fn leave_queue(&mut self, origin: &str, handle: StreamHandle) {
        self.budget.leave(origin, handle);
    }

    pub(super) fn retry(&mut self, now: Instant, handle: StreamHandle) {
        self.start_attempt(now, handle);
    }

    /// Its turn did not come: a failure like another, so that whoever waits gets an answer.
    pub(super) fn queue_is_over(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("its timers go with it");
        let pull = stream.pull_mut().expect("only pulls queue");
        let origin = pull.url.authority();
        let fault = Fault::new(
            ErrorClass::Busy,
            format!("the connect budget of {origin} is used up by other pulls"),
        );
        let text = fault.clone();
        let adds = std::mem::take(&mut pull.adds);
        self.budget.leave(&origin, handle);
        match pull.fail(fault, &self.policy.retry, &mut self.rng) {
            AfterFailure::GiveUp => {
                pull.state = PullState::New;
                for ticket in adds {
                    self.answer(ticket, Answer::AddFailed(text.clone()));
                }
                self.end_stream(now, handle, EndReason::GaveUp, None);
            }
            AfterFailure::Retry(delay) => {
                let next = now + delay;
                let timer = self.timers.set(next, Timer::Retry(handle));
                pull.state = PullState::BackingOff { next, timer };
                for ticket in adds {
                    let state = StreamState::BackingOff;
                    self.answer(ticket, Answer::Added { state, generation: handle.generation });
                }
            }
        }
    }

    pub(super) fn attempt_is_over(&mut self, now: Instant, attempt: AttemptId) {
        let Some((_, pull)) = self.current_pull(attempt) else { return };
        let fault = pull.timeout_fault();
        self.actions.push_back(Action::HangUp { attempt });
        self.attempt_failed(now, attempt, fault);
    }

    /// First media: from pending to registered.
    fn register(&mut self, now: Instant, handle: StreamHandle) {
        self.tables.register(handle, (now, self.now_unix));
        self.totals.registrations += 1;
        let stream = self.tables.get_mut(handle).expect("just registered");
        let grace = stream.grace.take();
        let key = stream.key.clone();
        let mut adds = Vec::new();
        if let Source::Pull(pull) = &mut stream.source {
            pull.succeed();
            if let PullState::Trying { attempt, stage, timer, holds_place, .. } = pull.state {
                let place = holds_place.then(|| pull.url.authority());
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
            let subscriber = stream.subscribers[&shard];
            if subscriber.attached && !subscriber.lacks_flush {
                // What it has ends before the splice; the next flush carries the rest.
                let message = Message::Resumed { key: key.clone(), local: subscriber.local };
                self.send(shard, message);
            } else {
                self.attach(handle, shard);
            }
        }
        self.flush_soon(handle);
    }

    /// Gives a shard the log as far as it is flushed.
    pub(super) fn attach(&mut self, handle: StreamHandle, shard: ShardId) {
        let own = shard == self.id;
        let Some(stream) = self.tables.get_mut(handle) else { return };
        let snapshot = (!own).then(|| Box::new(stream.log.snapshot()));
        let flushed_seq = stream.log.flushed_seq();
        let key = stream.key.clone();
        let Some(subscriber) = stream.subscribers.get_mut(&shard) else { return };
        subscriber.attached = true;
        subscriber.lacks_flush = false;
        subscriber.sent_seq = flushed_seq;
        let local = subscriber.local;
        let generation = handle.generation;
        self.send(shard, Message::Attached { key, local, generation, snapshot });
    }

    /// From registered back to pending; players are kept for the grace period.
    fn suspend(&mut self, now: Instant, handle: StreamHandle, grace: std::time::Duration) {
        // Audio that waits for video to ride on goes out with what it belongs to.
        self.flush_now(handle);
        self.tables.unregister(handle);
        let stream = self.tables.get_mut(handle).expect("just unregistered");
        stream.ingest.drop_unfinished(&mut stream.log);
        let key = stream.key.clone();
        let attached: Vec<_> = stream
            .subscribers
            .iter()
            .filter(|(_, subscriber)| subscriber.attached)
            .map(|(&shard, subscriber)| (shard, subscriber.local))
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
    fn forget_media(&mut self, handle: StreamHandle) {
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

    pub(super) fn audio_is_due(&mut self, now: Instant, handle: StreamHandle) {
        let Some(stream) = self.tables.get_mut(handle) else { return };
        stream.in_audio_queue = false;
        if let Some(since) = stream.unflushed_since {
            let due = since + self.policy.audio_wait;
            if now >= due {
                self.flush_soon(handle);
            } else {
                stream.in_audio_queue = true;
                self.audio_queue.push_back((due, handle));
            }
        }
    }

    /// Flushes the owned streams that have video, or audio that has waited long enough.
    pub(super) fn flush_streams(&mut self) {
        for handle in std::mem::take(&mut self.dirty_streams) {
            let Some(stream) = self.tables.get_mut(handle) else { continue };
            stream.dirty = false;
            let Some(since) = stream.unflushed_since else { continue };
            if !stream.flush_now && !self.policy.audio_wait.is_zero() {
                if !stream.in_audio_queue {
                    stream.in_audio_queue = true;
                    self.audio_queue.push_back((since + self.policy.audio_wait, handle));
                }
                continue;
            }
            self.flush_now(handle);
        }
    }

    /// Lets players have everything that has come. What comes before a stream is registered waits
    /// for that.
    pub(super) fn flush_now(&mut self, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        stream.flush_now = false;
        if stream.unflushed_since.take().is_some() && stream.registered {
            stream.log.flush();
            self.send_flush(handle);
        }
    }

    fn send_flush(&mut self, handle: StreamHandle) {
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
            self.totals.resyncs += 1;
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
