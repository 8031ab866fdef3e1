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

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shard;
use super::absences::Absences;
use super::failover::Abandoned;
use super::search::Search;
use super::tables::{Source, Stream, StreamHandle};
use super::timers::{Timer, TimerId};
use crate::bus::event::{Asker, End, What};
use crate::bus::message::{LocalId, Message};
use crate::bus::view::AbsenceView;
use crate::config::Config;
use crate::media::state::{EndReason, ErrorClass, Generation};
use crate::media::{ShardId, StreamKey};
use crate::origin::{Asking, Origins};

/// What a shard knows about pulling on demand.
#[derive(Default)]
pub(super) struct Demands {
    origins: Origins,
    pub(super) absences: Absences,
    pub(super) totals: DemandTotals,
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
    /// The hook is asked, until the timer.
    Hook {
        timer: TimerId,
        asking: Arc<Asking>,
    },
    Pulled(Box<Search>),
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
        now: Instant,
        wait: Duration,
    ) -> (Option<Arc<Asking>>, Duration) {
        let asking = self.origins.asking(params);
        if asking.is_passive {
            self.totals.passive += 1;
            return (None, wait.min(PASSIVE_WAIT));
        }
        (Some(Arc::new(asking.by(by, now))), wait)
    }
}

impl Shard {
    /// Looks for streams where this config says. What is known to be missing is forgotten where that
    /// has changed, which is returned.
    pub fn set_origins(&mut self, config: &Config) -> bool {
        let mut hasher = DefaultHasher::new();
        (NODE_TOKEN, self.hash_seed).hash(&mut hasher);
        let origins = Origins::of(config, hasher.finish() as u32);
        let have_changed = !origins.are_those_of(&self.demands.origins);
        if have_changed {
            self.demands.absences.forget_all();
        }
        self.demands.origins = origins;
        let origins = &self.demands.origins;
        self.hosts.configure(|name| origins.connects_max(name).is_some());
        self.configure_paces();
        have_changed
    }

    /// Asks the origins of now for what players wait for and those of before did not bring.
    pub(super) fn search_again(&mut self, now: Instant) {
        for handle in self.tables.handles() {
            let told = self
                .tables
                .get(handle)
                .filter(|stream| matches!(stream.demand, Demand::Told) && stream.is_free());
            if let Some(asking) = told.and_then(|stream| stream.askings().next().cloned()) {
                self.pull_on_demand(now, handle, &asking);
            }
        }
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
        let stream = self.tables.get(handle).expect("callers look");
        if !stream.is_free() || !matches!(stream.demand, Demand::Unasked) {
            return;
        }
        if !self.demands.origins.is_empty() && self.search_deadline(now, handle).is_none() {
            // Those who wait will have gone in a moment. Who has come since then asks anew.
            return;
        }
        let stream = self.tables.get_mut(handle).expect("just seen");
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
        let stream = self.tables.get_mut(handle).expect("just seen");
        stream.demand = Demand::Hook { timer, asking };
    }

    /// The hook has been told that a stream is missing, and leaves the search to us. What it said of an
    /// earlier life says nothing of this one, of which it is told as well.
    pub(super) fn hook_has_answered(
        &mut self,
        now: Instant,
        key: &StreamKey,
        generation: Option<Generation>,
    ) {
        let found = self.tables.find(key);
        let found = found.filter(|handle| generation.is_none_or(|of| of == handle.generation));
        if let Some(handle) = found {
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
