//! Pulls: adds, attempts under their origin's connect budget, failures and retries. What a second
//! source does is in `failover.rs`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::demand::gives_way;
use super::failover::Side;
use super::lifecycle::{AfterFailure, KEYFRAME, Pull, PullState, Redirect, Try, silent_fault};
use super::tables::{Source, StreamHandle};
use super::timers::Timer;
use super::{Action, PullNews, Shard, Stage};
use crate::access::{PendingPlace, PendingPulls};
use crate::bus::event::{Asker, What};
use crate::bus::message::{Answer, PullOptions, Ticket};
use crate::limits::REDIRECTS_MAX;
use crate::media::state::{ErrorClass, Fault, StreamState};
use crate::media::{AttemptId, SourceUrl, StreamKey};

impl Shard {
    /// Counts pending pulls together with the node's other shards; to be called before it has any.
    pub fn share_pending(&mut self, pulls: PendingPulls) {
        self.pending_pulls = pulls;
    }

    /// Enters a pull. Whoever asked is answered at once or by the first result.
    pub(super) fn add_pull(
        &mut self,
        now: Instant,
        ticket: Ticket,
        key: StreamKey,
        urls: Vec<Arc<SourceUrl>>,
        options: PullOptions,
    ) {
        let found = self.tables.find(&key);
        if self.shutting_down
            || found.is_none() && self.tables.pending_count() >= self.policy.pending_max
        {
            self.answer(ticket, Answer::Overloaded("too many pending streams"));
            return;
        }
        let stream = found.and_then(|handle| self.tables.get(handle));
        let is_free = stream.is_none_or(|stream| stream.is_free() || gives_way(stream));
        let mut place = None;
        if is_free {
            match self.enter_pending(found, options.asked_by) {
                Ok(entered) => place = Some(entered),
                Err(limit) => {
                    self.answer(ticket, Answer::Overloaded(limit));
                    return;
                }
            }
            self.somebody_brings(now, &key);
        }
        let handle = match found {
            None => {
                let generation = self.next_generation();
                let source = Source::None { kept: false };
                self.tables.insert(key, generation, source, (now, self.now_unix))
            }
            Some(handle) => {
                if !is_free {
                    self.add_again(ticket, handle, &urls, options);
                    return;
                }
                handle
            }
        };
        let wanted = urls.first().cloned();
        let mut pull = Pull::new(urls, options);
        pull.place = place;
        if !options.no_wait {
            pull.adds.push(ticket);
        }
        let stream = self.tables.get_mut(handle).expect("just made or found");
        stream.source = Source::Pull(Box::new(pull));
        stream.since = now;
        if options.force || options.no_wait {
            self.keep_pull(handle);
        }
        self.tell(handle, |_| What::Pending { by: Asker::Pull, url: wanted });
        self.start_next(now, handle);
        if options.no_wait {
            let state = self.state_of(handle);
            self.answer(ticket, Answer::Added { state, generation: handle.generation });
        }
    }

    /// A place among the pending pulls for one that is added. The search whose stream it takes leaves it
    /// its own.
    fn enter_pending(
        &mut self,
        found: Option<StreamHandle>,
        asked_by: Option<IpAddr>,
    ) -> Result<PendingPlace, &'static str> {
        let stream = found.and_then(|handle| self.tables.get_mut(handle));
        let mut search = stream.and_then(|stream| stream.pull_mut());
        if let Some(search) = &mut search {
            search.set_pending(false);
        }
        let place = self.pending_pulls.enter(asked_by, &self.policy.pending_pulls);
        if let Some(search) = search.filter(|_| place.is_err()) {
            search.set_pending(true);
        }
        place
    }

    /// An add of a key that is taken: one of the same URLs joins an attempt that is under way.
    pub(super) fn add_again(
        &mut self,
        ticket: Ticket,
        handle: StreamHandle,
        urls: &[Arc<SourceUrl>],
        options: PullOptions,
    ) {
        let state = self.state_of(handle);
        let stream = self.tables.get_mut(handle).expect("the caller found it");
        let taken_by = stream.url();
        if let Some(pull) = stream.pull_mut()
            && !pull.on_demand
            && pull.sources.are(urls)
        {
            match state {
                StreamState::Registered => {}
                _ if options.no_wait => {
                    // Its caller is told that there is one: it stays.
                    pull.options.no_wait = true;
                    self.keep_pull(handle);
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

    /// Dials, or queues for the origin's budget.
    pub(super) fn start_attempt(&mut self, now: Instant, handle: StreamHandle, side: Side) {
        let stream = self.tables.get(handle).expect("callers look");
        let pull = stream.pull().expect("only pulls are attempted");
        let timeout = pull.timeout(side);
        let origin = pull.try_of(side).expect("callers have one").origin();
        let places = self.places_now(now, &origin);
        if self.budget.take(&origin, handle, places) {
            self.paces.take(now, &origin);
            self.dial(now, handle, side);
        } else {
            let stream = self.tables.get_mut(handle).expect("just seen");
            let pull = stream.pull_mut().expect("only pulls are attempted");
            let way = pull.try_mut(side).expect("callers have one");
            let timer = self.timers.set(way.deadline(now, timeout), Timer::Queue(handle, side));
            way.state = PullState::Queued { timer, is_late: false };
            self.await_pace(now, &origin);
        }
    }

    pub(super) fn dial(&mut self, now: Instant, handle: StreamHandle, side: Side) {
        let attempt = AttemptId(self.next_serial());
        self.hold_or_take_form(now, handle, side);
        let stream = self.tables.get_mut(handle).expect("callers look");
        stream.open_attempts.insert(attempt);
        let key = stream.key.clone();
        let pull = stream.pull_mut().expect("only pulls are dialed");
        let (timeout, rtp_transport) = (pull.timeout(side), pull.options.rtp_transport);
        let way = pull.try_mut(side).expect("callers have one");
        if let PullState::Queued { timer, .. } = way.state {
            self.timers.cancel(Some(timer));
        }
        let (url, deadline) = (way.target().clone(), way.deadline(now, timeout));
        way.dialed = Some(now);
        self.hosts.dialed(&url.authority());
        let is_new = way.redirect.is_none();
        way.patience = None;
        way.state = PullState::Trying {
            attempt,
            stage: Stage::Resolving,
            awaiting: "address",
            timer: Some(self.timers.set(deadline, Timer::Attempt(attempt))),
            holds_place: true,
        };
        if is_new {
            pull.attempts += 1;
            self.totals.attempts += 1;
        }
        let timeout = deadline.saturating_duration_since(now);
        self.attempts.insert(attempt, handle);
        let stream = handle;
        self.actions.push_back(Action::Dial { attempt, stream, key, url, rtp_transport, timeout });
    }

    /// An attempt has come further; `awaiting` is what the peer was asked.
    pub fn attempt_stage(
        &mut self,
        now: Instant,
        attempt: AttemptId,
        new: Stage,
        awaiting_now: &'static str,
    ) {
        if let Some(push) = self.pushes.of_attempt(attempt) {
            self.push_stage(now, push, attempt, (new, awaiting_now));
            return;
        }
        let Some((_, pull, side)) = self.current_pull(attempt) else { return };
        let way = pull.try_mut(side).expect("it is one of the two");
        let PullState::Trying { stage, awaiting, holds_place, .. } = &mut way.state else {
            return;
        };
        let is_connected = *stage <= Stage::Connecting && new > Stage::Connecting;
        if *stage != Stage::Up {
            *stage = new;
        }
        // What comes is told as a stage too, with each piece over HTTP.
        if *awaiting != KEYFRAME {
            *awaiting = awaiting_now;
        }
        if !is_connected {
            return;
        }
        let gives_back = !way.on_demand && std::mem::take(holds_place);
        let (origin, took) = (way.origin(), way.took(now));
        self.hosts.connected(now, &origin, took);
        if gives_back {
            self.give_place_back(now, &origin);
        }
    }

    /// Both ends of an attempt's connection.
    pub fn attempt_connected(
        &mut self,
        attempt: AttemptId,
        ends: (std::net::SocketAddr, std::net::SocketAddr),
    ) {
        if let Some((_, pull, side)) = self.current_pull(attempt) {
            pull.try_mut(side).expect("it is one of the two").ends = Some(ends);
        }
    }

    /// An attempt has failed. What is left of it is being closed.
    pub fn attempt_failed(&mut self, now: Instant, attempt: AttemptId, fault: Fault) {
        if let Some(push) = self.pushes.of_attempt(attempt) {
            self.push_failed(now, push, attempt, fault);
            return;
        }
        let Some((handle, pull, side)) = self.current_pull(attempt) else { return };
        let way = pull.try_of(side).expect("it is one of the two");
        let (origin, was_up) = (way.origin(), way.is_up());
        self.hosts.failed(now, &origin, &fault, was_up);
        self.try_has_ended(&origin, was_up);
        let index = ErrorClass::ALL.iter().position(|&class| class == fault.class);
        self.totals.attempts_failed[index.expect("ALL is all")] += 1;
        match side {
            Side::Lead => self.lead_failed(now, handle, fault),
            Side::Rival => self.rival_failed(now, handle, fault),
        }
    }

    fn lead_failed(&mut self, now: Instant, handle: StreamHandle, fault: Fault) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let was_registered = stream.registered;
        let last_media = stream.last_media;
        let silence = stream.silence.take();
        let pull = stream.pull_mut().expect("callers look");
        let served = pull.up_since.take().map(|since| last_media.duration_since(since));
        if served.is_some_and(|served| served >= self.policy.retry.base) {
            pull.sources.begin_round_after_current();
        }
        let (timer, place) = (pull.lead.timer(), pull.lead.place());
        self.timers.cancel(timer);
        self.timers.cancel(silence);
        let after = self.go_on_after(now, handle, fault);
        if after != AfterFailure::GiveUp {
            let stream = self.tables.get_mut(handle).expect("it goes on");
            if was_registered {
                self.totals.losses += 1;
                let grace = self.policy.reconnect_grace;
                self.suspend(now, handle, grace);
            } else {
                stream.media.change_source();
            }
            self.forget_media(handle);
        }
        if let Some(place) = place {
            self.leave_place(now, place);
        }
        if after == AfterFailure::Next {
            self.start_next(now, handle);
        }
    }

    /// The origin has sent an attempt elsewhere. What is left of it is being closed; the try goes on
    /// there, under that origin's budget and in the time that it has left.
    pub fn attempt_redirected(&mut self, now: Instant, attempt: AttemptId, url: Arc<SourceUrl>) {
        let Some((handle, pull, side)) = self.current_pull(attempt) else { return };
        let way = pull.try_mut(side).expect("it is one of the two");
        let PullState::Trying { timer, .. } = way.state else { return };
        // Without a timer it is up.
        let Some(timer) = timer else { return self.moved(now, attempt, url) };
        let count = way.redirect.as_ref().map_or(0, |redirect| redirect.count) + 1;
        if count > REDIRECTS_MAX {
            let fault = Fault::new(ErrorClass::Rejected, "redirected too often");
            self.attempt_failed(now, attempt, fault);
            return;
        }
        let (origin, place) = (way.origin(), way.place());
        way.redirect = Some(Redirect { url, count, deadline: timer.due() });
        way.ends = None;
        way.state = PullState::New;
        self.hosts.redirected(&origin);
        self.try_has_ended(&origin, false);
        self.timers.cancel(Some(timer));
        if let Some(place) = place {
            self.leave_place(now, place);
        }
        self.start_attempt(now, handle, side);
    }

    /// An origin that is up sends us elsewhere (RFC 2326, 10.10): the stream is lost, and asked for there at
    /// once where no other source follows. Not after less than a retry's wait: two that send us to each
    /// other would have us dial without a pause.
    fn moved(&mut self, now: Instant, attempt: AttemptId, url: Arc<SourceUrl>) {
        let pause = self.policy.retry.base;
        let Some((handle, pull, side)) = self.current_pull(attempt) else { return };
        let has_served = pull.up_since.is_some_and(|since| now.duration_since(since) >= pause);
        let text = format!("the origin sent us on to {}", url.authority());
        self.attempt_failed(now, attempt, Fault::new(ErrorClass::Lost, text));
        let pull = self.tables.get_mut(handle).and_then(|stream| stream.pull_mut());
        let Some(pull) = pull.filter(|_| has_served && side == Side::Lead) else { return };
        let PullState::BackingOff { timer, .. } = pull.lead.state else { return };
        let deadline = now + pull.timeout(side);
        pull.lead.redirect = Some(Redirect { url, count: 1, deadline });
        pull.lead.state = PullState::New;
        self.timers.cancel(Some(timer));
        self.start_attempt(now, handle, side);
    }

    /// Nothing is left of an attempt: its sockets are closed, its operations have ended.
    pub fn attempt_closed(&mut self, attempt: AttemptId, sockets: u32) {
        if let Some(push) = self.pushes.of_attempt(attempt) {
            self.push_attempt_closed(push, attempt, sockets);
            return;
        }
        self.free_place(attempt);
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

    /// The pull that an attempt belongs to, if it is not given up, and as which of its two ways.
    pub(super) fn current_pull(
        &mut self,
        attempt: AttemptId,
    ) -> Option<(StreamHandle, &mut Pull, Side)> {
        let handle = *self.attempts.get(&attempt)?;
        let pull = self.tables.get_mut(handle)?.pull_mut()?;
        let side = pull.side_of(attempt)?;
        Some((handle, pull, side))
    }

    pub(super) fn retry(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("its timers go with it");
        stream.pull_mut().expect("only pulls try again").sources.begin_round();
        self.start_next(now, handle);
    }

    /// Its turn did not come, or too late: a failure like another, so that whoever waits gets an answer.
    pub(super) fn queue_is_over(&mut self, now: Instant, handle: StreamHandle, side: Side) {
        let stream = self.tables.get_mut(handle).expect("its timers go with it");
        let pull = stream.pull_mut().expect("only pulls queue");
        let way = pull.try_of(side).expect("its timers go with it");
        let (origin, is_queued) = (way.origin(), way.is_queued());
        let fault = Fault::new(
            ErrorClass::Busy,
            format!("no turn at {origin}: other pulls use up its budget or its rate of connects"),
        );
        if is_queued {
            self.budget.leave(&origin, handle);
        }
        match side {
            Side::Rival => self.rival_failed(now, handle, fault),
            Side::Lead => {
                if self.go_on_after(now, handle, fault) == AfterFailure::Next {
                    self.start_next(now, handle);
                }
            }
        }
    }

    /// Ends a pull that has failed, or has it try again later; whoever waits for it is answered.
    fn go_on_after(&mut self, now: Instant, handle: StreamHandle, fault: Fault) -> AfterFailure {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let key = stream.key.clone();
        let pull = stream.pull_mut().expect("only pulls fail");
        let origin = pull.lead.origin();
        let hedge = pull.hedge.take();
        let after = pull.fail(fault.clone(), &self.policy.retry, &mut self.rng);
        // One that is on demand and never was up is one of many.
        let is_counted = pull.on_demand && !pull.was_up;
        let is_news = pull.row.add(fault.class) && !is_counted;
        let (failures, attempt) = (pull.row.count, pull.attempts);
        let after = self.after_demand(now, handle, &fault, after);
        let told = fault.clone();
        self.timers.cancel(hedge);
        self.tell_failure(handle, &fault, &after);
        self.actions.push_back(Action::Tell(match after {
            AfterFailure::GiveUp if !is_counted => {
                PullNews::GaveUp { key, origin, fault: told, failures }
            }
            AfterFailure::Next | AfterFailure::Retry(_) if is_news => {
                let next_try = after.delay().unwrap_or_default();
                PullNews::Failed { key, origin, fault: told, attempt, next_try }
            }
            _ => PullNews::FailedAgain,
        }));
        let stream = self.tables.get_mut(handle).expect("callers look");
        let pull = stream.pull_mut().expect("only pulls fail");
        pull.lead.state = PullState::New;
        let adds = match after {
            AfterFailure::Next => Vec::new(),
            AfterFailure::GiveUp | AfterFailure::Retry(_) => std::mem::take(&mut pull.adds),
        };
        match after {
            AfterFailure::Next => {}
            AfterFailure::GiveUp => {
                for ticket in adds {
                    self.answer(ticket, Answer::AddFailed(fault.clone()));
                }
                let reason = self.giving_up(now, handle, &fault);
                self.end_stream(now, handle, reason, None);
            }
            AfterFailure::Retry(delay) => {
                let next = now + delay;
                let timer = self.timers.set(next, Timer::Retry(handle));
                pull.lead.state = PullState::BackingOff { next, timer };
                for ticket in adds {
                    let state = StreamState::BackingOff;
                    self.answer(ticket, Answer::Added { state, generation: handle.generation });
                }
            }
        }
        after
    }

    pub(super) fn attempt_is_over(&mut self, now: Instant, attempt: AttemptId) {
        if let Some(push) = self.pushes.of_attempt(attempt) {
            self.push_attempt_is_over(now, push, attempt);
            return;
        }
        let Some((handle, pull, side)) = self.current_pull(attempt) else { return };
        let (timeout, media_timeout) = (pull.timeout(side), pull.options.media_timeout);
        let way = pull.try_of(side).expect("it is one of the two");
        let is_silent = way.patience.is_some_and(|patience| now < patience.until);
        let due = way.patience.map(|patience| patience.due(media_timeout));
        if let Some(due) = due.filter(|due| now < *due) {
            let due = self.timers.set(due, Timer::Attempt(attempt));
            let pull = self.tables.get_mut(handle).and_then(|stream| stream.pull_mut());
            let way = pull.and_then(|pull| pull.try_mut(side));
            if let Some(Try { state: PullState::Trying { timer, .. }, .. }) = way {
                *timer = Some(due);
            }
            return;
        }
        let held = way.held.as_ref().map(|held| held.is_within_frame());
        let stream = self.tables.get(handle).expect("it has the attempt");
        let is_within_frame = held.unwrap_or_else(|| stream.media.is_within_frame());
        let way = stream.pull().and_then(|pull| pull.try_of(side)).expect("just seen");
        let fault = match is_silent {
            true => silent_fault("media", media_timeout),
            false => way.timeout_fault(timeout, is_within_frame),
        };
        self.actions.push_back(Action::HangUp { attempt });
        self.attempt_failed(now, attempt, fault);
    }
}
