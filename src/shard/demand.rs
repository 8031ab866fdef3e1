//! Pull on demand: what players ask for and nobody brings is looked for at the origins of the config.
//!
//! ```text
//!  asked for ──► hook told, its answer awaited ──► pulled from the first origin, the next, ... ──► up
//!     │                    │ it brings the stream,          │ none has it
//!     │                    │ or sends players away          ▼
//!     └ no hook: at once   ▼                      all who wait are refused, and for a while who comes
//! ```
//!
//! A key has one such pull, for all its players. A publisher or an added pull takes its place as long
//! as it is not up. Until it is up, its attempt holds its place in the budget of its origin, and gives
//! it back when its socket is closed: so an origin has never more connections of this kind that lead
//! to nothing than its budget says.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shard;
use super::absences::Absences;
use super::failover::Abandoned;
use super::health::{Sources, Turn};
use super::lifecycle::{AfterFailure, Place, Pull, RetryPolicy};
use super::tables::{Source, Stream, StreamHandle};
use super::timers::{Timer, TimerId};
use crate::bus::event::{Asker, End, What};
use crate::bus::message::{IdleClose, LocalId, Message, PullOptions};
use crate::bus::view::AbsenceView;
use crate::config::Config;
use crate::media::state::{EndReason, ErrorClass, Fault};
use crate::media::{AttemptId, ShardId, StreamKey};
use crate::origin::{Asking, Candidate, Origins};
use crate::proto::rtsp::LowerTransport;

/// What a shard knows about pulling on demand.
#[derive(Default)]
pub(super) struct Demands {
    origins: Origins,
    absences: Absences,
    /// Places in budgets, of attempts that are being closed.
    held: HashMap<AttemptId, String>,
    /// Places to be given back in this turn.
    freed: Vec<String>,
    totals: DemandTotals,
}

/// Counters since the start, but for the last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DemandTotals {
    pub pulls: u64,
    /// Players that came in a loop, through too many nodes, or from an edge of ZLMediaKit.
    pub passive: u64,
    /// Asked for on a shard, and refused at once: it was missing a moment ago.
    pub refused: u64,
    /// Streams that are known to be missing.
    pub absences: u64,
}

/// How far the search for a stream is.
#[derive(Default)]
pub(super) enum Demand {
    #[default]
    Unasked,
    /// It was told that players wait; nobody else is asked.
    Told,
    /// The hook is asked, until then.
    Hook {
        timer: TimerId,
        asking: Arc<Asking>,
    },
    Pulled(Box<Search>),
}

/// Origins of one key: the sources of its pull, in the same order.
pub(super) struct Search {
    candidates: Vec<Candidate>,
    rounds: u32,
    /// Nothing is tried after this, as long as it was never up.
    deadline: Instant,
    /// Why it can't be had, as far as is known.
    fault: Option<Fault>,
    /// Nobody is left to be asked.
    is_over: bool,
}

impl Demands {
    pub(super) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Forgets missing streams whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.absences.expire(now);
    }

    /// Where a player's query lets us pull for it: what it is asked with; and how long it may wait.
    pub(super) fn ask(
        &mut self,
        (params, by): (&str, IpAddr),
        wait: Duration,
    ) -> (Option<Arc<Asking>>, Duration) {
        let asking = self.origins.asking(params);
        if asking.is_passive {
            self.totals.passive += 1;
            return (None, wait.min(PASSIVE_WAIT));
        }
        (Some(Arc::new(asking.by(by))), wait)
    }
}

impl Search {
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
        next.filter(|next| *next < self.deadline).map_or(AfterFailure::GiveUp, |_| after)
    }
}

impl Shard {
    /// Looks for streams where this config says. What is known to be missing is forgotten where that
    /// has changed.
    pub fn set_origins(&mut self, config: &Config) {
        let mut hasher = DefaultHasher::new();
        (NODE_TOKEN, self.hash_seed).hash(&mut hasher);
        let origins = Origins::of(config, hasher.finish() as u32);
        if !origins.are_those_of(&self.demands.origins) {
            self.demands.absences.forget_all();
        }
        self.demands.origins = origins;
        let origins = &self.demands.origins;
        self.hosts.configure(|name| origins.connects_max(name).is_some());
    }

    pub fn demand_totals(&self) -> DemandTotals {
        DemandTotals { absences: self.demands.absences.len() as u64, ..self.demands.totals }
    }

    /// Enters a key that players ask for, or sends them away.
    pub(super) fn enter_awaited(
        &mut self,
        now: Instant,
        (from, local): (ShardId, LocalId),
        key: StreamKey,
        is_passive: bool,
    ) -> Option<StreamHandle> {
        let refusal = if self.shutting_down {
            Some(EndReason::Shutdown)
        } else if self.tables.pending_count() >= self.policy.pending_max {
            Some(EndReason::Overloaded)
        } else {
            let absence = self.demands.absences.ask(now, &key);
            self.demands.totals.refused += u64::from(absence.is_some());
            absence.map(refusal_again)
        };
        let generation = self.next_generation();
        if let Some(reason) = refusal {
            self.ended_locals.insert(local);
            self.send(from, Message::End { key, local, generation, reason });
            return None;
        }
        let source = Source::None { kept: false };
        let handle = self.tables.insert(key, generation, source, (now, self.now_unix));
        if is_passive {
            self.tell(handle, |_| What::Pending { by: Asker::Edge, url: None });
        }
        Some(handle)
    }

    /// Players wait for a key. Where nobody brings it, those who might are asked, once.
    pub(super) fn demand_for(
        &mut self,
        now: Instant,
        handle: StreamHandle,
        asking: Option<Arc<Asking>>,
    ) {
        let Some(asking) = asking else { return };
        let stream = self.tables.get_mut(handle).expect("callers look");
        let nobody_brings = matches!(stream.source, Source::None { kept: false });
        if !nobody_brings || !matches!(stream.demand, Demand::Unasked) {
            return;
        }
        stream.demand = Demand::Told;
        self.tell(handle, |_| What::Pending { by: Asker::Players, url: None });
        if self.demands.origins.is_empty() {
            return;
        }
        let Some(wait) = self.demands.origins.hook_wait() else {
            self.pull_on_demand(now, handle, &asking);
            return;
        };
        let timer = self.timers.set(now + wait, Timer::Demand(handle));
        self.tables.get_mut(handle).expect("just seen").demand = Demand::Hook { timer, asking };
    }

    /// The hook has been told that a stream is missing, and leaves the search to us.
    pub(super) fn hook_has_answered(&mut self, now: Instant, key: &StreamKey) {
        if let Some(handle) = self.tables.find(key) {
            self.hook_is_over(now, handle);
        }
    }

    /// The hook has answered, or has had its time.
    pub(super) fn hook_is_over(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        if matches!(stream.demand, Demand::Hook { .. })
            && let Demand::Hook { timer, asking } =
                std::mem::replace(&mut stream.demand, Demand::Told)
        {
            self.timers.cancel(Some(timer));
            self.pull_on_demand(now, handle, &asking);
        }
    }

    fn pull_on_demand(&mut self, now: Instant, handle: StreamHandle, asking: &Asking) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let (origins, hosts) = (&self.demands.origins, &self.hosts);
        let is_avoided = |name: &str| hosts.avoided(now, name, origins.avoid()).is_some();
        let candidates = origins.candidates(&stream.key, asking, is_avoided, &mut self.rng);
        let urls: Vec<_> = candidates.iter().map(|candidate| candidate.url.clone()).collect();
        let Some(url) = urls.first().cloned() else { return };
        let place = self.pending_pulls.enter(asking.asked_by, &self.policy.pending_pulls);
        let Ok(place) = place else {
            self.end_stream(now, handle, EndReason::TooManyPulls, None);
            return;
        };
        let options = PullOptions {
            retries_max: Some(self.demands.origins.retry_count()),
            force: true,
            no_wait: true,
            // Each origin has its own.
            timeout: Duration::ZERO,
            media_timeout: self.demands.origins.media_timeout(),
            // One that is missing would cost two connects for one.
            hedge: Duration::ZERO,
            rtp_transport: LowerTransport::Tcp,
            idle_close: IdleClose { after: None, always: Some(true) },
            asked_by: asking.asked_by,
        };
        let pull = Pull { on_demand: true, place: Some(place), ..Pull::new(urls, options) };
        stream.source = Source::Pull(Box::new(pull));
        // Those who wait hear what came of it before their own time is over.
        let deadline = now + self.policy.stream_wait * 15 / 16;
        let search = Search { candidates, rounds: 0, deadline, fault: None, is_over: false };
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
            let time = self.demands.origins.absence(fault.class);
            self.demands.absences.insert(now, stream.key.clone(), fault, time);
        }
        if was_up { EndReason::GaveUp } else { refusal_of(fault.class) }
    }

    /// A publisher or an added pull that was let in comes for a key: it is not missing any more, and not
    /// searched.
    pub(super) fn somebody_brings(&mut self, now: Instant, key: &StreamKey) {
        self.demands.absences.forget(key);
        let Some(handle) = self.tables.find(key) else { return };
        let stream = self.tables.get_mut(handle).expect("just found");
        if gives_way(stream) {
            stream.demand = Demand::Unasked;
            self.drop_pull(now, handle);
            return;
        }
        if matches!(stream.demand, Demand::Pulled(_)) {
            return;
        }
        let timer = std::mem::take(&mut stream.demand).timer();
        self.timers.cancel(timer);
    }

    /// Gives up a pull that is not up, and leaves its stream to another source.
    fn drop_pull(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let none = Source::None { kept: false };
        let Source::Pull(pull) = std::mem::replace(&mut stream.source, none) else { return };
        stream.media.change_source();
        self.give_up(now, handle, Abandoned::of(&pull.lead));
        self.forget_media(handle);
    }

    /// The last player or waiter of a key has gone. An attempt that is under way is not for nothing: it
    /// tells whether the stream can be had.
    pub(super) fn nobody_is_left(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        match &stream.source {
            Source::None { kept: false } => {
                let timer = std::mem::take(&mut stream.demand).timer();
                self.timers.cancel(timer);
                let stream = self.tables.remove(handle).expect("just seen");
                self.leave_idle(handle, stream.watch);
                self.tell_end(&stream, End::Abandoned);
            }
            Source::Pull(pull)
                if pull.on_demand && pull.attempt().is_none() && !self.pushes.hold(&stream.key) =>
            {
                self.end_stream(now, handle, EndReason::Idle, None);
            }
            _ => {}
        }
    }

    /// Connects that may be under way to an origin from this shard.
    pub(super) fn places(&self, origin: &str) -> usize {
        let Some(max) = self.demands.origins.connects_max(origin) else {
            return self.policy.connects_per_origin_max;
        };
        let (max, shards) = (max as usize, self.shards);
        let share = max / shards + usize::from(self.id.index() < max % shards);
        share.max(1)
    }

    /// An attempt needs its place no more; one on demand keeps it until it is closed.
    pub(super) fn leave_place(&mut self, now: Instant, place: Place) {
        if place.until_closed {
            self.demands.held.insert(place.attempt, place.origin);
        } else {
            self.give_place_back(now, &place.origin);
        }
    }

    /// An attempt is closed.
    pub(super) fn free_place(&mut self, attempt: AttemptId) {
        self.demands.freed.extend(self.demands.held.remove(&attempt));
    }

    /// Gives the places of this turn's closed attempts to who waits for them.
    pub(super) fn give_freed_places(&mut self, now: Instant) {
        for origin in std::mem::take(&mut self.demands.freed) {
            self.give_place_back(now, &origin);
        }
    }

    /// Those that are known to be missing, or that one, and how many there are.
    pub(super) fn absences(
        &mut self,
        now: Instant,
        key: Option<&StreamKey>,
    ) -> (Vec<AbsenceView>, usize) {
        let absences = &mut self.demands.absences;
        let views = match key {
            Some(key) => absences.view(now, key).into_iter().collect(),
            None => absences.views(now),
        };
        (views, self.demands.absences.len())
    }

    /// Forgets that a stream is missing, or all of them. Returns how many there were.
    pub(super) fn forget_absences(&mut self, key: Option<&StreamKey>) -> usize {
        match key {
            Some(key) => usize::from(self.demands.absences.forget(key)),
            None => self.demands.absences.forget_all(),
        }
    }
}

impl Demand {
    pub(super) fn timer(&self) -> Option<TimerId> {
        match self {
            Self::Hook { timer, .. } => Some(*timer),
            _ => None,
        }
    }
}

/// Whether a publisher or an added pull takes the place of what a stream is pulled from. One that is up
/// keeps its name, and so does one whose players are kept for it.
pub(super) fn gives_way(stream: &Stream) -> bool {
    matches!(stream.demand, Demand::Pulled(_)) && !stream.registered && stream.grace.is_none()
}

/// What players are told of a stream that could not be had.
fn refusal_of(class: ErrorClass) -> EndReason {
    match class {
        ErrorClass::NotFound => EndReason::NotFound,
        ErrorClass::Busy => EndReason::Busy,
        _ => EndReason::OriginFailed,
    }
}

/// What players are told of one that could not be had a moment ago; a used-up budget is not remembered.
fn refusal_again(class: ErrorClass) -> EndReason {
    match class {
        ErrorClass::NotFound => EndReason::KnownMissing,
        _ => EndReason::KnownFailed,
    }
}

/// What a player may wait that is not pulled for: as long as another shard takes to say that it has the
/// stream.
const PASSIVE_WAIT: Duration = Duration::from_millis(200);

/// Makes the node's token another number than what else comes of its seed.
const NODE_TOKEN: &str = "node";
