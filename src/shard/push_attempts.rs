//! Attempts of pushes: under their destination's connect budget, as players of their stream when the
//! destination is ready, and what follows when that ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::push::{Progress, Push};
use super::timers::Timer;
use super::{Action, PlayRequest, Shard, Stage};
use crate::bus::event::PushStep;
use crate::bus::message::Answer;
use crate::media::state::{EndReason, ErrorClass, Fault, Generation};
use crate::media::{AttemptId, PushState, SourceUrl, StreamKey};
use crate::proto::rtsp::LowerTransport;

/// A push's attempt that is to be made.
pub struct PushDial {
    pub attempt: AttemptId,
    /// The stream that is pushed.
    pub key: StreamKey,
    pub url: Arc<SourceUrl>,
    pub rtp_transport: LowerTransport,
    /// From now to when it is up.
    pub timeout: Duration,
}

impl Shard {
    /// A stream is registered: pushes that wait for it begin.
    pub(super) fn wake_pushes(&mut self, now: Instant, key: &StreamKey) {
        for id in self.pushes.of_stream(key) {
            let push = self.pushes.get(id);
            if push.is_some_and(|push| push.progress == Progress::AwaitingSource) {
                self.start_push(now, id);
            }
        }
    }

    /// Dials, queues for the destination's budget, or waits for the stream.
    pub(super) fn start_push(&mut self, now: Instant, id: Generation) {
        let places = self.policy.connects_per_origin_max;
        let Some(push) = self.pushes.get(id) else { return };
        if !self.is_registered(&push.key) {
            self.push_waits(id);
            return;
        }
        let (destination, timeout) = (push.url.authority(), push.options.timeout);
        let key = push.key.clone();
        if self.pushes.budget.take(&destination, id, places) {
            self.dial_push(now, id);
        } else {
            let timer = self.timers.set(now + timeout, Timer::Push(id));
            let push = self.pushes.get_mut(id).expect("just seen");
            push.progress = Progress::Queued { timer };
        }
        self.look_who_plays_key(now, &key);
    }

    fn is_registered(&self, key: &StreamKey) -> bool {
        let stream = self.tables.find(key).and_then(|handle| self.tables.get(handle));
        stream.is_some_and(|stream| stream.registered)
    }

    fn push_waits(&mut self, id: Generation) {
        let Some(push) = self.pushes.get_mut(id) else { return };
        push.progress = Progress::AwaitingSource;
        push.up_since = None;
        if push.was_up || push.attempts > 0 {
            self.tell_push(id, PushStep::Waits);
        }
    }

    fn dial_push(&mut self, now: Instant, id: Generation) {
        let attempt = AttemptId(self.next_serial());
        self.pushes.begin_attempt(id, attempt);
        let push = self.pushes.get_mut(id).expect("callers look");
        if let Progress::Queued { timer } = push.progress {
            self.timers.cancel(Some(timer));
        }
        push.attempts += 1;
        self.totals.push_attempts += 1;
        let due = now + push.options.timeout;
        push.progress = Progress::Trying {
            attempt,
            stage: Stage::Resolving,
            awaiting: "address",
            timer: Some(self.timers.set(due, Timer::Attempt(attempt))),
            holds_place: true,
        };
        let (key, url) = (push.key.clone(), push.url.clone());
        let (rtp_transport, timeout) = (push.options.rtp_transport, push.options.timeout);
        let dial = PushDial { attempt, key, url, rtp_transport, timeout };
        self.actions.push_back(Action::DialPush(dial));
    }

    /// The push of an attempt that is under way or up.
    fn current_push(&mut self, id: Generation, attempt: AttemptId) -> Option<&mut Push> {
        self.pushes.get_mut(id).filter(|push| push.attempt() == Some(attempt))
    }

    pub(super) fn push_stage(
        &mut self,
        now: Instant,
        id: Generation,
        attempt: AttemptId,
        (new, awaiting_now): (Stage, &'static str),
    ) {
        let Some(push) = self.current_push(id, attempt) else { return };
        let destination = push.url.authority();
        let Progress::Trying { stage, awaiting, holds_place, .. } = &mut push.progress else {
            return;
        };
        if *stage != Stage::Up {
            *stage = new;
        }
        *awaiting = awaiting_now;
        if new > Stage::Connecting && std::mem::take(holds_place) {
            self.give_push_place_back(now, &destination);
        }
    }

    /// The destination of an attempt is ready, so the push asks to play its stream. `false` where
    /// that is gone: the push waits for it, and what is left of the attempt is to be closed.
    pub fn push_joins(&mut self, now: Instant, attempt: AttemptId, request: PlayRequest) -> bool {
        let Some(id) = self.pushes.of_attempt(attempt) else { return false };
        let Some(push) = self.current_push(id, attempt) else { return false };
        push.player = Some(request.connection);
        let key = push.key.clone();
        let found = self.tables.find(&key).and_then(|handle| self.tables.get(handle));
        // One that has lost its source has a grace period, in which it is waited for.
        if found.is_none_or(|stream| !stream.registered && stream.grace.is_none()) {
            self.push_ended(now, attempt, EndReason::SourceLost, 0);
            return false;
        }
        self.push_stage(now, id, attempt, (Stage::AwaitingMedia, "media of the stream"));
        self.play(now, request);
        true
    }

    /// The destination takes the stream, and gets it from now on.
    pub fn push_is_up(&mut self, now: Instant, attempt: AttemptId) {
        let Some(id) = self.pushes.of_attempt(attempt) else { return };
        let Some(push) = self.current_push(id, attempt) else { return };
        let Progress::Trying { timer, .. } = push.progress else { return };
        let adds = std::mem::take(&mut push.adds);
        push.succeed(now);
        self.timers.cancel(timer);
        self.keep_push(id);
        self.tell_push(id, PushStep::Up);
        for ticket in adds {
            let state = PushState::Up;
            self.answer(ticket, Answer::PushAdded { state, generation: id });
        }
    }

    /// A push is no player any more, by no fault of its destination unless `reason` says so. Its
    /// connection has sent so many bytes; what is left of the attempt is being closed.
    pub fn push_ended(
        &mut self,
        now: Instant,
        attempt: AttemptId,
        reason: EndReason,
        sent_bytes: u64,
    ) {
        let Some(id) = self.pushes.of_attempt(attempt) else { return };
        let text = match reason {
            EndReason::TooSlow => "the destination was too far behind for too long".to_owned(),
            EndReason::Broken => "the connection broke".to_owned(),
            EndReason::NotCarried => {
                "the destination's protocol carries none of the stream's codecs".to_owned()
            }
            reason => format!("the stream ended it: {}", reason.as_str()),
        };
        let Some(push) = self.current_push(id, attempt) else { return };
        push.sent.see(now, sent_bytes);
        let key = push.key.clone();
        let is_unfit = reason == EndReason::NotCarried;
        let is_fault = is_unfit || matches!(reason, EndReason::TooSlow | EndReason::Broken);
        // Where the stream is there, the push would be back at once and perhaps sent away again.
        let class = if is_unfit { ErrorClass::Protocol } else { ErrorClass::Lost };
        let fault = Fault::new(class, text);
        if is_fault {
            self.push_failed(now, id, attempt, fault);
            return;
        }
        self.leave_attempt(now, id);
        match self.is_registered(&key) {
            true => self.push_goes_on(now, id, fault, false),
            false => self.push_lacks_source(now, id),
        }
    }

    /// The stream of a push is gone, and no attempt is under way: it waits, or ends where it was not to
    /// stay; whoever waits for it is answered.
    fn push_lacks_source(&mut self, now: Instant, id: Generation) {
        let Some(push) = self.pushes.get_mut(id) else { return };
        let adds = std::mem::take(&mut push.adds);
        let stays = push.is_to_stay();
        self.push_waits(id);
        for ticket in adds {
            let text = "the stream ended before the destination took it";
            let state = PushState::AwaitingSource;
            self.answer(
                ticket,
                match stays {
                    true => Answer::PushAdded { state, generation: id },
                    false => Answer::AddFailed(Fault::new(ErrorClass::NotFound, text)),
                },
            );
        }
        if !stays {
            self.end_push(now, id, EndReason::SourceLost, None);
        }
    }

    /// Takes back the timer and the place of the attempt that is over.
    fn leave_attempt(&mut self, now: Instant, id: Generation) {
        let Some(push) = self.pushes.get_mut(id) else { return };
        push.player = None;
        push.sent.end();
        let destination = push.url.authority();
        if let Progress::Trying { timer, holds_place, .. } = push.progress {
            self.timers.cancel(timer);
            if holds_place {
                self.give_push_place_back(now, &destination);
            }
        }
    }

    pub(super) fn push_failed(
        &mut self,
        now: Instant,
        id: Generation,
        attempt: AttemptId,
        fault: Fault,
    ) {
        if self.current_push(id, attempt).is_none() {
            return;
        }
        let index = ErrorClass::ALL.iter().position(|&class| class == fault.class);
        self.totals.push_attempts_failed[index.expect("ALL is all")] += 1;
        self.see_pushed(now, id);
        self.leave_attempt(now, id);
        self.push_goes_on(now, id, fault, true);
    }

    /// It may try again; or its turn did not come, which is a failure like another, so that whoever
    /// waits gets an answer.
    pub(super) fn push_is_due(&mut self, now: Instant, id: Generation) {
        let Some(push) = self.pushes.get(id) else { return };
        if !matches!(push.progress, Progress::Queued { .. }) {
            self.start_push(now, id);
            return;
        }
        let (key, destination) = (push.key.clone(), push.url.authority());
        self.pushes.budget.leave(&destination, id);
        if !self.is_registered(&key) {
            self.push_lacks_source(now, id);
            return;
        }
        let text = format!("the connect budget of {destination} is used up by other pushes");
        // Its turn did not come, so it was no try.
        self.push_goes_on(now, id, Fault::new(ErrorClass::Busy, text), false);
    }

    pub(super) fn push_attempt_is_over(
        &mut self,
        now: Instant,
        id: Generation,
        attempt: AttemptId,
    ) {
        let Some(push) = self.current_push(id, attempt) else { return };
        let (fault, key) = (push.timeout_fault(), push.key.clone());
        let awaits_media = push.state() == PushState::AwaitingMedia;
        self.actions.push_back(Action::HangUp { attempt });
        // The destination was ready, and the stream's source has not come back.
        if awaits_media && !self.is_registered(&key) {
            self.push_ended(now, attempt, EndReason::SourceLost, 0);
            return;
        }
        self.push_failed(now, id, attempt, fault);
    }

    /// Ends a push that has failed, or has it try again later; whoever waits for it is answered.
    fn push_goes_on(&mut self, now: Instant, id: Generation, fault: Fault, was_tried: bool) {
        let push = self.pushes.get_mut(id).expect("callers look");
        let adds = std::mem::take(&mut push.adds);
        let (was_up, attempt) = (push.is_up(), push.attempts);
        let after = push.fail(fault.clone(), was_tried, &self.policy.retry, &mut self.rng);
        self.totals.push_losses += u64::from(was_up);
        let next_try = after.delay();
        let told = fault.clone();
        self.tell_push(id, PushStep::Failed { fault: told, was_up, attempt, next_try });
        let Some(delay) = next_try else {
            let push = self.pushes.get_mut(id).expect("it is still there");
            push.progress = Progress::AwaitingSource;
            for ticket in adds {
                self.answer(ticket, Answer::AddFailed(fault.clone()));
            }
            self.end_push(now, id, EndReason::GaveUp, None);
            return;
        };
        let next = now + delay;
        let timer = self.timers.set(next, Timer::Push(id));
        let push = self.pushes.get_mut(id).expect("it goes on");
        push.progress = Progress::BackingOff { next, timer };
        for ticket in adds {
            let state = PushState::BackingOff;
            self.answer(ticket, Answer::PushAdded { state, generation: id });
        }
    }

    /// Nothing is left of an attempt: its sockets are closed, its operations have ended.
    pub(super) fn push_attempt_closed(&mut self, id: Generation, attempt: AttemptId, sockets: u32) {
        self.pushes.end_attempt(attempt);
        if let Some(push) = self.pushes.get_mut(id) {
            push.open_attempts.remove(&attempt);
            return;
        }
        self.closed_for(id, |closing| {
            if closing.attempts.remove(&attempt) {
                closing.released.sockets += sockets;
            }
        });
    }

    pub(super) fn give_push_place_back(&mut self, now: Instant, destination: &str) {
        self.pushes.budget.give_back(destination);
        self.hand_out_push_places(now, destination);
    }

    pub(super) fn hand_out_push_places(&mut self, now: Instant, destination: &str) {
        let places = self.policy.connects_per_origin_max;
        while let Some(id) = self.pushes.budget.next(destination, places) {
            let queued = self.pushes.get(id).and_then(|push| match push.progress {
                Progress::Queued { timer } => Some((timer, push.key.clone())),
                _ => None,
            });
            if let Some((timer, key)) = queued
                && !self.shutting_down
            {
                if self.is_registered(&key) {
                    self.dial_push(now, id);
                    continue;
                }
                self.timers.cancel(Some(timer));
                self.push_lacks_source(now, id);
            }
            self.pushes.budget.give_back(destination);
        }
    }
}
