//! Several sources of one pull: the next one at once when one fails, another one beside a slow one, and
//! others in place of those that it has.
//!
//! A pull has two ways to media at most: the *lead*, which brings the stream or is to, and a *rival*.
//! What a rival brings is held back until its first keyframe; there it becomes the lead, and what was
//! the lead is given up. So nothing of two sources is ever mixed in the log.
//!
//! ```text
//!  lead    A ── up ───────────────╳ given up          lead    A ── no media ───────╳ given up
//!  rival        update: B ── keyframe: B is the lead   rival     hedge: B ── keyframe: B is the lead
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::Turn;
use super::lifecycle::{Place, Pull, PullState, Try};
use super::tables::{Stream, StreamHandle};
use super::timers::Timer;
use super::{Action, PullNews, Shard};
use crate::bus::event::{Asker, Switch, What};
use crate::bus::message::{Answer, Ticket};
use crate::media::state::Fault;
use crate::media::{AttemptId, SourceUrl, StreamKey};

/// One of the two ways of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Lead,
    Rival,
}

impl Side {
    pub(super) const ALL: [Self; 2] = [Self::Lead, Self::Rival];
}

/// A source that is tried beside the lead.
pub(super) struct Rival {
    pub(super) way: Try,
    pub(super) purpose: Purpose,
}

pub(super) enum Purpose {
    /// The lead is slow: this is another one of the pull's sources.
    Hedge { index: usize },
    /// The pull is to have these sources, of which this is the one with that index.
    Update { urls: Vec<Arc<SourceUrl>>, index: usize, ticket: Ticket, timeout: Duration },
}

impl Rival {
    /// Who waits for it.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        match self.purpose {
            Purpose::Hedge { .. } => None,
            Purpose::Update { ticket, .. } => Some(ticket),
        }
    }

    /// Time from the dial to the first media; `of_pull` is that of the pull.
    pub(super) fn timeout(&self, of_pull: Duration) -> Duration {
        match self.purpose {
            Purpose::Hedge { .. } => of_pull,
            Purpose::Update { timeout, .. } => timeout,
        }
    }
}

impl Shard {
    /// Has the next source be the lead: the rival where there is one, else one that was not tried in
    /// this round.
    pub(super) fn start_next(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let turn = stream.turn();
        let pull = stream.pull_mut().expect("only pulls have sources");
        if pull.is_hedged() {
            let rival = pull.rival.take().expect("it is hedged");
            pull.lead_with(*rival);
            if let PullState::Queued { timer, .. } = &mut pull.lead.state {
                let old = *timer;
                *timer = self.timers.set(old.due(), Timer::Queue(handle, Side::Lead));
                self.timers.cancel(Some(old));
            }
        } else {
            let index = pull.sources.next_untried(turn).expect("callers look");
            pull.sources.use_source(index);
            pull.lead = pull.way_to(pull.sources.url(index).clone());
            self.take_time_of_origin(now, handle);
            self.start_attempt(now, handle, Side::Lead);
        }
        self.hedge_later(now, handle);
    }

    /// Sets the time at which another source is tried beside the lead, where there is one.
    fn hedge_later(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let turn = stream.turn();
        let pull = stream.pull_mut().expect("only pulls have sources");
        let hedge = pull.options.hedge;
        if !hedge.is_zero() && pull.sources.has_untried(turn) && pull.hedge.is_none() {
            pull.hedge = Some(self.timers.set(now + hedge, Timer::Hedge(handle)));
        }
    }

    /// The lead is slow.
    pub(super) fn hedge_is_due(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("its timers go with it");
        let turn = stream.turn();
        let pull = stream.pull_mut().expect("only pulls are hedged");
        pull.hedge = None;
        if pull.rival.is_some() {
            // Of an update; this one's turn comes after it.
            self.hedge_later(now, handle);
        } else if let Some(index) = pull.sources.next_untried(turn) {
            let way = Try::new(pull.sources.url(index).clone());
            pull.rival = Some(Box::new(Rival { way, purpose: Purpose::Hedge { index } }));
            self.start_attempt(now, handle, Side::Rival);
        }
    }

    /// A rival brings no media: the next one in its place, where there is one.
    pub(super) fn rival_failed(&mut self, now: Instant, handle: StreamHandle, fault: Fault) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let pull = stream.pull_mut().expect("only pulls have rivals");
        let Some(Rival { way, purpose }) = pull.rival.take().map(|rival| *rival) else { return };
        let (key, origin, turn) = (stream.key.clone(), way.origin(), stream.turn());
        let pull = stream.pull_mut().expect("only pulls have rivals");
        self.actions.push_back(Action::Tell(match &purpose {
            Purpose::Hedge { .. } => PullNews::FailedAgain,
            Purpose::Update { .. } => PullNews::UpdateFailed { key, origin, fault: fault.clone() },
        }));
        let (next, failed) = match purpose {
            Purpose::Hedge { index } => {
                pull.sources.fail_source(index, fault.clone());
                let next = pull.sources.next_untried(turn);
                (
                    next.map(|index| (pull.sources.url(index).clone(), Purpose::Hedge { index })),
                    None,
                )
            }
            Purpose::Update { urls, index, ticket, timeout } => {
                match urls.get(index + 1).cloned() {
                    Some(url) => {
                        let index = index + 1;
                        (Some((url, Purpose::Update { urls, index, ticket, timeout })), None)
                    }
                    None => (None, Some(ticket)),
                }
            }
        };
        let is_next = next.is_some();
        pull.rival = next.map(|(url, purpose)| Box::new(Rival { way: Try::new(url), purpose }));
        let (timer, place) = (way.timer(), way.place());
        self.timers.cancel(timer);
        let told = fault.clone();
        self.tell(handle, |_| What::SourceFailed { url: way.url.clone(), fault: told });
        if let Some(ticket) = failed {
            self.answer(ticket, Answer::AddFailed(fault));
        }
        if let Some(place) = place {
            self.leave_place(now, place);
        }
        if is_next {
            self.start_attempt(now, handle, Side::Rival);
        }
    }

    /// Ends a way that a pull does not have any more: its attempt, its timer, its place.
    pub(super) fn give_up(&mut self, now: Instant, handle: StreamHandle, way: Abandoned) -> u32 {
        let Abandoned { attempt, origin, is_up, timer, place, is_queued } = way;
        if let Some(attempt) = attempt {
            self.actions.push_back(Action::HangUp { attempt });
            self.try_has_ended(&origin, is_up);
        }
        let count = u32::from(self.timers.cancel(timer));
        if is_queued {
            self.budget.leave(&origin, handle);
        }
        if let Some(place) = place {
            self.leave_place(now, place);
        }
        count
    }

    /// Gives the rival up; who waits for it is told.
    pub(super) fn drop_rival(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let Some(rival) = stream.pull_mut().and_then(|pull| pull.rival.take()) else { return };
        self.give_up(now, handle, Abandoned::of(&rival.way));
        if let Purpose::Update { ticket, .. } = rival.purpose {
            self.answer(ticket, Answer::AddCancelled);
        }
    }

    /// Gives a pull other sources. While one of the old ones brings the stream, the new ones are tried
    /// beside it, and it stays if none of them has media.
    pub(super) fn update_pull(
        &mut self,
        now: Instant,
        ticket: Ticket,
        key: &StreamKey,
        (urls, timeout): (Vec<Arc<SourceUrl>>, Duration),
    ) {
        let is_pull = |handle: &StreamHandle| {
            let pull = self.tables.get(*handle).and_then(|stream| stream.pull());
            pull.is_some_and(|pull| !pull.on_demand)
        };
        let Some(handle) = self.tables.find(key).filter(is_pull) else {
            self.answer(ticket, Answer::NoSuchPull);
            return;
        };
        self.drop_rival(now, handle);
        let stream = self.tables.get_mut(handle).expect("just found");
        let registered = stream.registered;
        let pull = stream.pull_mut().expect("just found");
        if registered {
            let way = Try::new(urls[0].clone());
            let purpose = Purpose::Update { urls, index: 0, ticket, timeout };
            pull.rival = Some(Box::new(Rival { way, purpose }));
            self.start_attempt(now, handle, Side::Rival);
            return;
        }
        let (old, hedge) = (pull.lead_state(), pull.hedge.take());
        let wanted = urls.first().cloned();
        pull.set_sources(urls, timeout);
        pull.switch = Switch::Updated;
        pull.lead = Try::new(pull.sources.current().url.clone());
        let adds = std::mem::replace(&mut pull.adds, vec![ticket]);
        stream.media.change_source();
        self.timers.cancel(hedge);
        self.give_up(now, handle, old);
        self.forget_media(handle);
        self.keep_again(handle);
        self.tell(handle, |_| What::Pending { by: Asker::Pull, url: wanted });
        for ticket in adds {
            self.answer(ticket, Answer::AddCancelled);
        }
        self.start_next(now, handle);
    }

    /// Asserts what must always hold of the ways of pulls; for tests.
    pub(super) fn check_ways(&self) {
        let mut live: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        for stream in self.tables.iter() {
            let Some(pull) = stream.pull() else { continue };
            pull.sources.check();
            for way in Side::ALL.into_iter().filter_map(|side| pull.try_of(side)) {
                let Some(attempt) = way.attempt() else { continue };
                let of = self.attempts.get(&attempt).expect("a way's attempt is known");
                assert_eq!(of.generation, stream.generation);
                assert!(stream.open_attempts.contains(&attempt), "it is not closed");
                let (count, up_count) = live.entry(way.origin()).or_default();
                *count += 1;
                *up_count += u32::from(way.is_up());
            }
            let is_up = pull.lead.is_up();
            assert_eq!(stream.registered, is_up, "the lead brings the stream");
            assert!(!is_up || pull.hedge.is_none() && !pull.is_hedged(), "it needs no other one");
            assert!(!is_up || pull.lead.held.is_none(), "what it brings is taken");
            if let Some(rival) = &pull.rival {
                let state = rival.way.state;
                assert!(matches!(state, PullState::Trying { .. } | PullState::Queued { .. }));
            }
        }
        assert_eq!(self.hosts.live(), live, "hosts know of their tries");
    }
}

/// What is left of a way that is given up.
pub(super) struct Abandoned {
    attempt: Option<AttemptId>,
    origin: String,
    is_up: bool,
    timer: Option<super::timers::TimerId>,
    place: Option<Place>,
    /// It is in its origin's queue.
    is_queued: bool,
}

impl Abandoned {
    /// Both ways of a pull that ends.
    pub(super) fn all_of(pull: &Pull) -> Vec<Self> {
        Side::ALL.into_iter().filter_map(|side| pull.try_of(side)).map(Self::of).collect()
    }

    pub(super) fn of(way: &Try) -> Self {
        Self {
            attempt: way.attempt(),
            origin: way.origin(),
            is_up: way.is_up(),
            timer: way.timer(),
            place: way.place(),
            is_queued: way.is_queued(),
        }
    }
}

impl Stream {
    /// Which source has its turn next. A change of form is heard of as a loss and a return.
    fn turn(&self) -> Turn {
        if self.is_had() { Turn::First(self.media.form()) } else { Turn::Any }
    }
}

impl Pull {
    pub(super) fn lead_state(&self) -> Abandoned {
        Abandoned::of(&self.lead)
    }

    /// The rival is the lead now. Who waits for it is answered as those who wait for the lead are.
    pub(super) fn lead_with(&mut self, rival: Rival) {
        self.lead = rival.way;
        match rival.purpose {
            Purpose::Hedge { index } => self.sources.use_source(index),
            Purpose::Update { urls, index, ticket, timeout } => {
                self.set_sources(urls, timeout);
                for _ in 0..=index {
                    self.sources.next_untried(Turn::Any);
                }
                self.sources.use_source(index);
                self.adds.push(ticket);
            }
        }
    }

    fn set_sources(&mut self, urls: Vec<Arc<SourceUrl>>, timeout: Duration) {
        self.sources = super::health::Sources::new(urls);
        self.options.timeout = timeout;
        self.failures = 0;
    }
}
