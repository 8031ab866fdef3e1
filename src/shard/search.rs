//! The search for a stream that players ask for: a pull from the origins of the config, one after the
//! other, as long as who waits may wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shard;
use super::demand::Demand;
use super::health::{Sources, Turn};
use super::lifecycle::{AfterFailure, Pull, RetryPolicy};
use super::tables::{Source, StreamHandle};
use crate::bus::event::{Asker, What};
use crate::bus::message::{IdleClose, PullOptions};
use crate::limits::TRY_TIME_MIN;
use crate::media::state::{EndReason, ErrorClass, Fault};
use crate::origin::{Asking, Candidate, Origins};
use crate::proto::rtsp::LowerTransport;

/// Origins of one key: the sources of its pull, in the same order.
pub(super) struct Search {
    candidates: Vec<Candidate>,
    rounds: u32,
    /// Nothing is tried after this, as long as it was never up.
    deadline: Instant,
    /// Nor with less time than this left.
    least: Duration,
    /// Why it can't be had, as far as is known.
    fault: Option<Fault>,
    /// Nobody is left to be asked.
    is_over: bool,
}

impl Search {
    /// The least time in which a try at the origin in use may come to something.
    pub(super) fn least(&self, sources: &Sources) -> Duration {
        self.candidates[sources.current_index()].timeout.min(self.least)
    }

    /// Notes why the stream could not be had from one of them.
    fn note(&mut self, fault: &Fault) {
        // That one origin lacks it says little where another one was not reached.
        if self.fault.is_none() || fault.class != ErrorClass::NotFound {
            self.fault = Some(fault.clone());
        }
    }

    /// What follows a failure of a pull that was never up: another source of this round, those that may
    /// be tried again once more, or the end where nobody is left or no time.
    fn fail(
        &mut self,
        now: Instant,
        sources: &mut Sources,
        fault: &Fault,
        (retry, rng): (&RetryPolicy, &mut fastrand::Rng),
    ) -> AfterFailure {
        self.note(fault);
        let may_again = self.candidates[sources.current_index()].fail(fault.class);
        let is_one_left = may_again || sources.bar_current();
        let after = match sources.has_untried(Turn::Any) {
            true => AfterFailure::Next,
            false if is_one_left => {
                self.rounds += 1;
                AfterFailure::Retry(retry.delay(fault.class, self.rounds - 1, rng))
            }
            false => AfterFailure::GiveUp,
        };
        let next = after.delay().map(|delay| now + delay);
        let in_time = next.filter(|next| *next + self.least <= self.deadline);
        in_time.map_or(AfterFailure::GiveUp, |_| after)
    }
}

impl Shard {
    /// Until when a search that begins now may go on: those hear what came of it who wait longest and can
    /// still be told in time. `None` where there is nobody.
    pub(super) fn search_deadline(&self, now: Instant, handle: StreamHandle) -> Option<Instant> {
        // They hear it before their own time is over.
        let time = self.policy.stream_wait * 15 / 16;
        let stream = self.tables.get(handle).expect("callers look");
        let deadlines = stream.askings().map(|asking| asking.since.unwrap_or(now) + time);
        deadlines.filter(|deadline| now + self.least_time() <= *deadline).min()
    }

    /// The least time that is left for a try of a search.
    fn least_time(&self) -> Duration {
        TRY_TIME_MIN.min(self.policy.stream_wait / 4)
    }

    /// Begins a search for who asks like this; or for another one who waits, where they have left or their
    /// address has as many as it may.
    pub(super) fn pull_on_demand(
        &mut self,
        now: Instant,
        handle: StreamHandle,
        first: &Arc<Asking>,
    ) {
        let (deadline, least) = (self.search_deadline(now, handle), self.least_time());
        let stream = self.tables.get_mut(handle).expect("callers look");
        let Some(deadline) = deadline else {
            // Nobody is left who is pulled for and has time. Who comes is, anew.
            stream.demand = Demand::Unasked;
            return;
        };
        let mut askings: Vec<&Arc<Asking>> = stream.askings().collect();
        askings.sort_by_key(|asking| !Arc::ptr_eq(asking, first));
        let enter = |asking: &&Arc<Asking>| {
            let place = self.pending_pulls.enter(asking.asked_by, &self.policy.pending_pulls);
            Some(((*asking).clone(), place.ok()?))
        };
        let entered = askings.iter().find_map(enter);
        let asked = entered.as_ref().map(|(asking, _)| asking);
        let asking = asked.or_else(|| askings.first().copied()).expect("somebody has time").clone();
        let (origins, hosts) = (self.demands.origins(), &self.hosts);
        let is_avoided = |name: &str| hosts.avoided(now, name, origins.avoid()).is_some();
        let candidates = origins.candidates(&stream.key, &asking, is_avoided, &mut self.rng);
        let urls: Vec<_> = candidates.iter().map(|candidate| candidate.url.clone()).collect();
        let Some(url) = urls.first().cloned() else { return };
        let Some((_, place)) = entered else {
            self.end_stream(now, handle, EndReason::TooManyPulls, None);
            return;
        };
        let pull = Pull::new(urls, search_options(origins, &asking));
        let pull = Pull { on_demand: true, place: Some(place), ..pull };
        stream.source = Source::Pull(Box::new(pull));
        let (rounds, fault, is_over) = (0, None, false);
        let search = Search { candidates, rounds, deadline, least, fault, is_over };
        stream.demand = Demand::Pulled(Box::new(search));
        self.demands.totals.pulls += 1;
        self.tell(handle, |_| What::Pending { by: Asker::Demand, url: Some(url) });
        self.start_next(now, handle);
    }

    /// Gives a try of a pull on demand the time of its origin; as long as the stream was never up, no
    /// more than is left.
    pub(super) fn take_time_of_origin(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        if let (Demand::Pulled(search), Source::Pull(pull)) = (&stream.demand, &mut stream.source) {
            let timeout = search.candidates[pull.sources.current_index()].timeout;
            let left = search.deadline.saturating_duration_since(now);
            pull.options.timeout = if pull.was_up { timeout } else { timeout.min(left) };
        }
    }

    /// What follows a failure of a pull, which for another one would be `after`. One on demand that was
    /// up is one like another, as long as somebody plays it.
    pub(super) fn after_demand(
        &mut self,
        now: Instant,
        handle: StreamHandle,
        fault: &Fault,
        after: AfterFailure,
    ) -> AfterFailure {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let is_pushed = self.pushes.hold(&stream.key);
        let is_awaited = is_pushed || stream.players() + stream.waiters() > 0;
        let (Demand::Pulled(search), Source::Pull(pull)) = (&mut stream.demand, &mut stream.source)
        else {
            return after;
        };
        let after = match pull.was_up {
            true => after,
            false => {
                let how = (&self.policy.retry, &mut self.rng);
                search.fail(now, &mut pull.sources, fault, how)
            }
        };
        search.is_over = after == AfterFailure::GiveUp;
        if is_awaited { after } else { AfterFailure::GiveUp }
    }

    /// Why a pull ends that is not tried again. Where everybody was asked, that is remembered.
    pub(super) fn giving_up(
        &mut self,
        now: Instant,
        handle: StreamHandle,
        fault: &Fault,
    ) -> EndReason {
        let stream = self.tables.get(handle).expect("callers look");
        let was_up = stream.pull().is_some_and(|pull| pull.was_up);
        let Demand::Pulled(search) = &stream.demand else { return EndReason::GaveUp };
        let fault = search.fault.as_ref().filter(|_| !was_up).unwrap_or(fault);
        // What an origin answers to one player's query is no answer to all the others.
        let is_for_all = match fault.class {
            ErrorClass::NotFound | ErrorClass::Rejected | ErrorClass::Denied => {
                !search.candidates.iter().any(|candidate| candidate.is_personal)
            }
            _ => true,
        };
        if search.is_over && is_for_all {
            let time = self.demands.origins().absence(fault.class);
            self.demands.absences.insert(now, stream.key.clone(), fault, time);
        }
        if was_up { EndReason::GaveUp } else { refusal_of(fault.class) }
    }
}

fn search_options(origins: &Origins, asking: &Asking) -> PullOptions {
    PullOptions {
        retries_max: Some(origins.retry_count()),
        force: true,
        no_wait: true,
        // Each origin has its own.
        timeout: Duration::ZERO,
        media_timeout: origins.media_timeout(),
        // One that is missing would cost two connects for one.
        hedge: Duration::ZERO,
        rtp_transport: LowerTransport::Tcp,
        idle_close: IdleClose::default(),
        asked_by: asking.asked_by,
    }
}

/// What players are told of a stream that could not be had.
fn refusal_of(class: ErrorClass) -> EndReason {
    match class {
        ErrorClass::NotFound => EndReason::NotFound,
        ErrorClass::Busy => EndReason::Busy,
        _ => EndReason::OriginFailed,
    }
}
