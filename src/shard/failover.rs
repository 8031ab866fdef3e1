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

use super::lifecycle::{KEYFRAME, Place, Pull, PullState, Try};
use super::tables::StreamHandle;
use super::timers::Timer;
use super::{Action, PullNews, Shard, Stage};
use crate::bus::event::What;
use crate::bus::message::{Answer, Ticket};
use crate::limits::KEYFRAME_PATIENCE;
use crate::media::state::{ErrorClass, Fault, StreamState};
use crate::media::{AttemptId, MediaPart, SourceUrl, StreamKey};
use crate::proto::rtp::RtpPart;
use crate::stream::Tryout;

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
        let pull = stream.pull_mut().expect("only pulls have sources");
        if pull.is_hedged() {
            let rival = pull.rival.take().expect("it is hedged");
            pull.lead_with(*rival);
            if let PullState::Queued { timer } = &mut pull.lead.state {
                let old = *timer;
                *timer = self.timers.set(old.due(), Timer::Queue(handle, Side::Lead));
                self.timers.cancel(Some(old));
            }
        } else {
            let index = pull.sources.next_untried().expect("callers look");
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
        let pull = stream.pull_mut().expect("only pulls have sources");
        let hedge = pull.options.hedge;
        if !hedge.is_zero() && pull.sources.has_untried() && pull.hedge.is_none() {
            pull.hedge = Some(self.timers.set(now + hedge, Timer::Hedge(handle)));
        }
    }

    /// The lead is slow.
    pub(super) fn hedge_is_due(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("its timers go with it");
        let pull = stream.pull_mut().expect("only pulls are hedged");
        pull.hedge = None;
        if pull.rival.is_some() {
            // Of an update; this one's turn comes after it.
            self.hedge_later(now, handle);
        } else if let Some(index) = pull.sources.next_untried() {
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
        let (key, origin) = (stream.key.clone(), way.origin());
        let stream = self.tables.get_mut(handle).expect("callers look");
        let pull = stream.pull_mut().expect("only pulls have rivals");
        self.actions.push_back(Action::Tell(match &purpose {
            Purpose::Hedge { .. } => PullNews::FailedAgain,
            Purpose::Update { .. } => PullNews::UpdateFailed { key, origin, fault: fault.clone() },
        }));
        let (next, failed) = match purpose {
            Purpose::Hedge { index } => {
                pull.sources.fail_source(index, fault.clone());
                let next = pull.sources.next_untried();
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

    /// Media of an attempt. `false` when it is not that of the stream any more.
    pub fn attempt_media(&mut self, now: Instant, attempt: AttemptId, part: MediaPart) -> bool {
        let Some((handle, held)) = self.way_of(attempt) else { return false };
        let Some(held) = held else { return self.media(now, handle, part) };
        if let Some(parts) = held.handle(part) {
            self.take_over(now, handle, attempt);
            for part in parts {
                self.media(now, handle, part);
            }
        } else if held.needs_patience() {
            self.await_keyframe(now, attempt);
        }
        true
    }

    /// The next step of an attempt whose origin brings RTP. `false` as of [`Self::attempt_media`].
    pub fn attempt_rtp(&mut self, now: Instant, attempt: AttemptId, part: RtpPart) -> bool {
        let Some((handle, held)) = self.way_of(attempt) else { return false };
        let Some(held) = held else { return self.rtp(now, handle, part) };
        if let Some(parts) = held.handle_rtp(part) {
            self.take_over(now, handle, attempt);
            for part in parts {
                self.rtp(now, handle, part);
            }
        } else if held.needs_patience() {
            self.await_keyframe(now, attempt);
        }
        true
    }

    /// A source that is held back brings media, so it is not silent: its keyframe may take longer than
    /// its first media.
    fn await_keyframe(&mut self, now: Instant, attempt: AttemptId) {
        let Some(&handle) = self.attempts.get(&attempt) else { return };
        let pull = self.tables.get_mut(handle).and_then(|stream| stream.pull_mut());
        let way = pull.and_then(|pull| pull.try_mut(pull.side_of(attempt)?));
        if let Some(Try { state: PullState::Trying { awaiting, timer, .. }, .. }) = way {
            *awaiting = KEYFRAME;
            let until = self.timers.set(now + KEYFRAME_PATIENCE, Timer::Attempt(attempt));
            let old = timer.replace(until);
            self.timers.cancel(old);
        }
    }

    /// The stream that an attempt brings media to, and what holds that back.
    fn way_of(&mut self, attempt: AttemptId) -> Option<(StreamHandle, Option<&mut Tryout>)> {
        let handle = *self.attempts.get(&attempt)?;
        let pull = self.tables.get_mut(handle).and_then(|stream| stream.pull_mut());
        let way = pull.and_then(|pull| pull.try_mut(pull.side_of(attempt)?));
        let Some(way) = way else {
            self.totals.late_messages += 1;
            return None;
        };
        Some((handle, way.held.as_deref_mut()))
    }

    /// Decides before a try whether what it brings goes into the log at once. It does not while another
    /// source brings the stream, or where it has players of another form, who stay as long as this one
    /// may fail.
    pub(super) fn hold_or_take_form(&mut self, handle: StreamHandle, side: Side) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let wants_video = stream.media.tracks().video.is_some();
        let is_had = stream.subscribers.values().any(|subscriber| subscriber.attached);
        let form = stream.media.form();
        let pull = stream.pull_mut().expect("only pulls are dialed");
        let way = pull.try_mut(side).expect("callers have one");
        let brings = way.target().form();
        way.held = None;
        if side == Side::Rival || is_had && brings != form {
            way.held = Some(Box::new(Tryout::new(wants_video)));
        } else {
            self.take_form(handle, brings);
        }
    }

    /// A source that was held back has a keyframe: from here on it brings the stream.
    fn take_over(&mut self, now: Instant, handle: StreamHandle, attempt: AttemptId) {
        let stream = self.tables.get_mut(handle).expect("its media just came");
        let registered = stream.registered;
        let pull = stream.pull_mut().expect("its attempt's media just came");
        let is_rival = pull.side_of(attempt) == Some(Side::Rival);
        if is_rival {
            self.replace_lead(now, handle);
        }
        let stream = self.tables.get_mut(handle).expect("it stays");
        let pull = stream.pull_mut().expect("it stays");
        let stands_in = pull.lead.held.take().is_some_and(|held| held.stands_in());
        let form = pull.lead.target().form();
        if registered && form != stream.media.form() {
            let grace = self.policy.reconnect_grace;
            let fault = Fault::new(ErrorClass::Lost, "a source of another form takes over");
            self.tell(handle, |stream| What::Lost {
                url: stream.pull().and_then(|pull| pull.up_url.clone()),
                fault,
                next_try: Some(Duration::ZERO),
                forms: stream.told_forms.clone(),
            });
            self.suspend(now, handle, grace);
        }
        self.flush_now(handle);
        let stream = self.tables.get_mut(handle).expect("it stays");
        let is_had = stream.subscribers.values().any(|subscriber| subscriber.attached);
        if is_had || registered {
            stream.media.drop_unfinished();
            stream.media.change_source();
        } else {
            stream.media.start_over();
        }
        self.take_form(handle, form);
        let stream = self.tables.get_mut(handle).expect("it stays");
        if stands_in {
            stream.media.start_at_next();
        }
        if stream.registered {
            self.goes_up(now, handle);
        }
    }

    /// Gives the lead up for the rival.
    fn replace_lead(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let silence = stream.silence.take();
        let pull = stream.pull_mut().expect("callers look");
        let rival = *pull.rival.take().expect("callers look");
        let (old, hedge) = (pull.lead_state(), pull.hedge.take());
        let is_update = matches!(rival.purpose, Purpose::Update { .. });
        pull.lead_with(rival);
        self.timers.cancel(silence);
        self.timers.cancel(hedge);
        self.give_up(now, handle, old);
        if is_update {
            self.keep_again(handle);
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

    /// The lead brings media: whoever waits is answered, and no other one of its sources is needed.
    pub(super) fn goes_up(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let key = stream.key.clone();
        let Some(pull) = stream.pull_mut() else { return };
        let (was_up, took) = (pull.lead.is_up(), pull.lead.took(now));
        let failures = pull.succeed(now);
        let hedge = pull.hedge.take();
        let url = pull.lead.url.clone();
        let before = pull.up_url.replace(url.clone());
        pull.up_since = Some(now);
        let (timer, place) = (pull.lead.timer(), pull.lead.place());
        if let PullState::Trying { stage, awaiting, timer, holds_place, .. } = &mut pull.lead.state
        {
            (*stage, *awaiting, *timer, *holds_place) = (Stage::Up, "media", None, false);
        }
        let is_hedged = pull.is_hedged();
        let due = now + pull.options.media_timeout;
        let adds = std::mem::take(&mut pull.adds);
        let origin = pull.lead.origin();
        stream.last_media = now;
        if !was_up {
            self.hosts.went_up(now, &origin, took);
        }
        let silence = stream.silence.replace(self.timers.set(due, Timer::Silence(handle)));
        for timer in [timer, hedge, silence] {
            self.timers.cancel(timer);
        }
        if failures > 0 {
            self.actions.push_back(Action::Tell(PullNews::Recovered { key, origin, failures }));
        }
        if let Some(place) = place {
            self.give_place_back(now, &place.origin);
        }
        if is_hedged {
            self.drop_rival(now, handle);
        }
        if let Some(from) = before.filter(|before| before.as_str() != url.as_str()) {
            self.tell(handle, |_| What::SourceReplaced { from, url });
        }
        self.keep_pull(handle);
        for ticket in adds {
            let state = StreamState::Registered;
            self.answer(ticket, Answer::Added { state, generation: handle.generation });
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
        pull.set_sources(urls, timeout);
        pull.lead = Try::new(pull.sources.current().url.clone());
        let adds = std::mem::replace(&mut pull.adds, vec![ticket]);
        stream.media.change_source();
        self.timers.cancel(hedge);
        self.give_up(now, handle, old);
        self.forget_media(handle);
        self.keep_again(handle);
        for ticket in adds {
            self.answer(ticket, Answer::AddCancelled);
        }
        self.start_next(now, handle);
    }

    /// Whether what an attempt brings goes into its stream's log; for tests.
    pub fn brings_media(&self, attempt: AttemptId) -> bool {
        let stream = self.attempts.get(&attempt).and_then(|&handle| self.tables.get(handle));
        let pull = stream.and_then(|stream| stream.pull());
        pull.is_some_and(|pull| pull.attempt() == Some(attempt) && pull.lead.held.is_none())
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

impl Pull {
    fn lead_state(&self) -> Abandoned {
        Abandoned::of(&self.lead)
    }

    /// The rival is the lead now. Who waits for it is answered as those who wait for the lead are.
    fn lead_with(&mut self, rival: Rival) {
        self.lead = rival.way;
        match rival.purpose {
            Purpose::Hedge { index } => self.sources.use_source(index),
            Purpose::Update { urls, index, ticket, timeout } => {
                self.set_sources(urls, timeout);
                for _ in 0..=index {
                    self.sources.next_untried();
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
