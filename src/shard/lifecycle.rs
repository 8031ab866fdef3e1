//! A pull's way to media and back: pure, with no socket and no clock of its own.
//!
//! ```text
//!            ┌──────────── place in the budget ────────────┐
//!  queued ───┘                                             ▼
//!            resolving → connecting → handshaking → awaiting media → up
//!               │            │             │              │          │ lost, silent
//!               └────────────┴──────┬──────┴──────────────┘          │
//!                                   ▼                                │
//!     the next source at once; when each was tried:                  │
//!                  backing off (next try at t, last fault) ◄─────────┘
//!                                   │ no retries left
//!                                   ▼ gone
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failover::{Purpose, Rival, Side};
use super::health::{Sources, Turn};
use super::take_over::Patience;
use super::timers::TimerId;
use crate::access::PendingPlace;
use crate::bus::event::Switch;
use crate::bus::message::{PullOptions, Ticket};
use crate::limits::KEYFRAME_PATIENCE;
use crate::media::state::{ErrorClass, Fault, StreamState};
use crate::media::{AttemptId, SourceUrl, StreamKey};
use crate::stream::Tryout;

/// How soon a failed pull tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    pub base: Duration,
    /// Added for each failure in a row.
    pub step: Duration,
    pub max: Duration,
    /// Share of the delay by which it varies either way, so that many pulls of one origin do not
    /// come back together.
    pub jitter_percent: u32,
}

impl RetryPolicy {
    /// The delay before the next try. `failures` are those in a row since the last success, the
    /// current one not counted (a source that was up and is lost: 0). ZLMediaKit waits 2, 3, 6,
    /// 9 … 60 s. An origin that says no will say no for longer than one that is down: twice that.
    pub fn delay(&self, class: ErrorClass, failures: u32, rng: &mut fastrand::Rng) -> Duration {
        let plain = (self.step * failures.min(10_000)).min(self.max).max(self.base);
        let by_class = match class {
            ErrorClass::NotFound | ErrorClass::Rejected | ErrorClass::Denied => {
                (plain * 2).min(self.max)
            }
            _ => plain,
        };
        let spread = f64::from(self.jitter_percent) / 100.0;
        by_class.mul_f64(1.0 + spread * (2.0 * rng.f64() - 1.0))
    }
}

/// A pull of a stream from one of its sources.
pub(super) struct Pull {
    pub(super) sources: Sources,
    pub(super) options: PullOptions,
    /// What brings the stream, or is to.
    pub(super) lead: Try,
    /// What is tried beside that.
    pub(super) rival: Option<Box<Rival>>,
    /// When another source is to be tried beside the lead.
    pub(super) hedge: Option<TimerId>,
    /// Tries since the add.
    pub(super) attempts: u32,
    /// Failed tries since the last success.
    pub(super) failures: u32,
    pub(super) losses: u32,
    pub(super) was_up: bool,
    /// When the lead came up.
    pub(super) up_since: Option<Instant>,
    /// Which source was up last.
    pub(super) up_url: Option<Arc<SourceUrl>>,
    /// Why the lead is another one than that.
    pub(super) switch: Switch,
    pub(super) last_fault: Option<Fault>,
    pub(super) row: FailureRow,
    /// Adds that wait for the first result.
    pub(super) adds: Vec<Ticket>,
    /// Its place among the pending ones of the node.
    pub(super) place: Option<PendingPlace>,
    /// It is in the journal.
    pub(super) kept: bool,
    /// It is for its players alone.
    pub(super) on_demand: bool,
}

/// A way to a source's media, from the dial to its end.
pub(super) struct Try {
    pub(super) url: Arc<SourceUrl>,
    pub(super) state: PullState,
    /// It keeps its place in the budget until it is up or closed.
    pub(super) on_demand: bool,
    /// When it was dialed last.
    pub(super) dialed: Option<Instant>,
    /// Both ends of its connection.
    pub(super) ends: Option<(SocketAddr, SocketAddr)>,
    /// Where it was sent; the next try asks the source's own URL again.
    pub(super) redirect: Option<Redirect>,
    /// What it brings does not go into the log before it can take over.
    pub(super) held: Option<Box<Tryout>>,
    /// It brings media, and its keyframe is awaited.
    pub(super) patience: Option<Patience>,
}

/// A place of an attempt in the connect budget of an origin.
pub(super) struct Place {
    pub(super) origin: String,
    pub(super) attempt: AttemptId,
    /// It is not free before the attempt is closed.
    pub(super) until_closed: bool,
}

/// A try that goes on at another URL.
pub(super) struct Redirect {
    pub(super) url: Arc<SourceUrl>,
    /// How often it was sent on.
    pub(super) count: usize,
    /// When the try that it is part of is over.
    pub(super) deadline: Instant,
}

/// What is worth a line in the log about a pull.
#[derive(Debug, PartialEq, Eq)]
pub enum PullNews {
    /// The first failure in a row, or one of another class than the last that was told.
    Failed { key: StreamKey, origin: String, fault: Fault, attempt: u32, next_try: Duration },
    /// One more failure like that, or one of a pull on demand that was never up. There may be thousands
    /// a second: count them.
    FailedAgain,
    /// A source that it was to have in place of its own.
    UpdateFailed { key: StreamKey, origin: String, fault: Fault },
    /// It is not tried any more. `failures` are those in a row, the last included.
    GaveUp { key: StreamKey, origin: String, fault: Fault, failures: u32 },
    /// Media has come after so many failures in a row.
    Recovered { key: StreamKey, origin: String, failures: u32 },
}

/// Failures since the last success, as the log tells them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FailureRow {
    /// Also those that were no try.
    pub(super) count: u32,
    told: Option<ErrorClass>,
}

impl FailureRow {
    /// Counts a failure. `true` when it is to be told: the first, or another class than was told
    /// last. A pull whose turn does not come now and then has not changed for that.
    pub(super) fn add(&mut self, class: ErrorClass) -> bool {
        self.count += 1;
        let is_news = match self.told {
            None => true,
            Some(told) => class != told && class != ErrorClass::Busy,
        };
        if is_news {
            self.told = Some(class);
        }
        is_news
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PullState {
    /// Not begun.
    New,
    Queued {
        timer: TimerId,
        /// Its turn came too late: it is in no queue any more, and fails when the timer is due, at once.
        is_late: bool,
    },
    /// An attempt is under way, or up.
    Trying {
        attempt: AttemptId,
        stage: Stage,
        /// What the peer was asked last, for the fault's text.
        awaiting: &'static str,
        timer: Option<TimerId>,
        /// It holds a place in its origin's connect budget.
        holds_place: bool,
    },
    BackingOff {
        next: Instant,
        timer: TimerId,
    },
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Resolving,
    Connecting,
    Handshaking,
    AwaitingMedia,
    Up,
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterFailure {
    /// The next source at once.
    Next,
    Retry(Duration),
    GiveUp,
}

impl AfterFailure {
    /// The time to the next try; `None` where there is none.
    pub(super) fn delay(self) -> Option<Duration> {
        match self {
            Self::Next => Some(Duration::ZERO),
            Self::Retry(delay) => Some(delay),
            Self::GiveUp => None,
        }
    }
}

/// What a source is awaited for that brings other media. It is the last thing before it is up.
pub(super) const KEYFRAME: &str = "keyframe";

impl Try {
    pub(super) fn new(url: Arc<SourceUrl>) -> Self {
        Self {
            url,
            state: PullState::New,
            on_demand: false,
            dialed: None,
            ends: None,
            redirect: None,
            held: None,
            patience: None,
        }
    }

    /// What is dialed.
    pub(super) fn target(&self) -> &Arc<SourceUrl> {
        self.redirect.as_ref().map_or(&self.url, |redirect| &redirect.url)
    }

    /// Whose connect budget it needs.
    pub(super) fn origin(&self) -> String {
        self.target().authority()
    }

    /// When it is over if it is dialed or queued now.
    pub(super) fn deadline(&self, now: Instant, timeout: Duration) -> Instant {
        self.redirect.as_ref().map_or(now + timeout, |redirect| redirect.deadline)
    }

    pub(super) fn attempt(&self) -> Option<AttemptId> {
        match self.state {
            PullState::Trying { attempt, .. } => Some(attempt),
            _ => None,
        }
    }

    /// The timer that it has set.
    pub(super) fn timer(&self) -> Option<TimerId> {
        match self.state {
            PullState::New => None,
            PullState::Queued { timer, .. } | PullState::BackingOff { timer, .. } => Some(timer),
            PullState::Trying { timer, .. } => timer,
        }
    }

    /// Until when its keyframe is awaited, where it brings media.
    pub(super) fn keyframe_due(&self) -> Option<Instant> {
        match self.state {
            PullState::Trying { awaiting: KEYFRAME, .. } => self.patience.map(|of| of.until),
            _ => None,
        }
    }

    /// The place that it holds in a connect budget.
    pub(super) fn place(&self) -> Option<Place> {
        match self.state {
            PullState::Trying { attempt, holds_place: true, .. } => {
                Some(Place { origin: self.origin(), attempt, until_closed: self.on_demand })
            }
            _ => None,
        }
    }

    /// Time since the dial.
    pub(super) fn took(&self, now: Instant) -> Duration {
        self.dialed.map_or(Duration::ZERO, |dialed| now.duration_since(dialed))
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, PullState::Trying { stage: Stage::Up, .. })
    }

    pub(super) fn is_queued(&self) -> bool {
        matches!(self.state, PullState::Queued { is_late: false, .. })
    }

    /// The fault when its time is over; `is_within_frame` where some of its first frame has come.
    pub(super) fn timeout_fault(&self, timeout: Duration, is_within_frame: bool) -> Fault {
        let seconds = timeout.as_secs_f64();
        let PullState::Trying { stage, awaiting, .. } = self.state else {
            return Fault::new(ErrorClass::TimedOut, format!("no media within {seconds} s"));
        };
        match stage {
            Stage::Resolving => Fault::new(
                ErrorClass::Unresolved,
                format!("no address of {} within {seconds} s", self.target().host),
            ),
            Stage::Connecting => Fault::new(
                ErrorClass::TimedOut,
                format!("connection timed out: no answer within {seconds} s"),
            ),
            Stage::AwaitingMedia if is_within_frame => Fault::new(
                ErrorClass::TimedOut,
                "the origin is too slow: its first frame has begun and is not whole in time",
            ),
            Stage::AwaitingMedia if awaiting == KEYFRAME => Fault::new(
                ErrorClass::TimedOut,
                format!("no keyframe within {} s", KEYFRAME_PATIENCE.as_secs_f64()),
            ),
            Stage::Handshaking | Stage::AwaitingMedia => silent_fault(awaiting, timeout),
            Stage::Up => silent_fault("media", timeout),
        }
    }
}

/// The fault of an origin that does not send what is awaited.
pub(super) fn silent_fault(awaiting: &str, timeout: Duration) -> Fault {
    let seconds = timeout.as_secs_f64();
    let text = format!("the origin is silent: no {awaiting} within {seconds} s");
    Fault::new(ErrorClass::Silent, text)
}

impl Pull {
    /// `urls` are its sources in the order in which they are tried, one at least.
    pub(super) fn new(urls: Vec<Arc<SourceUrl>>, options: PullOptions) -> Self {
        let sources = Sources::new(urls);
        let lead = Try::new(sources.current().url.clone());
        Self {
            sources,
            options,
            lead,
            rival: None,
            hedge: None,
            attempts: 0,
            failures: 0,
            losses: 0,
            was_up: false,
            up_since: None,
            up_url: None,
            switch: Switch::Lost,
            last_fault: None,
            row: FailureRow::default(),
            adds: Vec::new(),
            place: None,
            kept: false,
            on_demand: false,
        }
    }

    pub(super) fn try_of(&self, side: Side) -> Option<&Try> {
        match side {
            Side::Lead => Some(&self.lead),
            Side::Rival => self.rival.as_ref().map(|rival| &rival.way),
        }
    }

    pub(super) fn try_mut(&mut self, side: Side) -> Option<&mut Try> {
        match side {
            Side::Lead => Some(&mut self.lead),
            Side::Rival => self.rival.as_mut().map(|rival| &mut rival.way),
        }
    }

    /// Which of its two ways an attempt belongs to.
    pub(super) fn side_of(&self, attempt: AttemptId) -> Option<Side> {
        let is_it = |side: &Side| self.try_of(*side).and_then(Try::attempt) == Some(attempt);
        Side::ALL.into_iter().find(is_it)
    }

    /// Time from the dial to the first media.
    pub(super) fn timeout(&self, side: Side) -> Duration {
        match (side, &self.rival) {
            (Side::Rival, Some(rival)) => rival.timeout(self.options.timeout),
            _ => self.options.timeout,
        }
    }

    pub(super) fn state(&self) -> StreamState {
        match self.lead.state {
            PullState::New | PullState::Queued { .. } => StreamState::Queued,
            PullState::BackingOff { .. } => StreamState::BackingOff,
            PullState::Trying { stage, .. } => match stage {
                Stage::Resolving => StreamState::Resolving,
                Stage::Connecting => StreamState::Connecting,
                Stage::Handshaking => StreamState::Handshaking,
                Stage::AwaitingMedia => StreamState::AwaitingMedia,
                Stage::Up => StreamState::Registered,
            },
        }
    }

    /// That of the lead.
    pub(super) fn attempt(&self) -> Option<AttemptId> {
        self.lead.attempt()
    }

    /// Milliseconds to the next try; 0 while one is under way.
    pub(super) fn next_retry_ms(&self, now: Instant) -> u64 {
        match self.lead.state {
            PullState::BackingOff { next, .. } => {
                next.saturating_duration_since(now).as_millis() as u64
            }
            _ => 0,
        }
    }

    /// Counts a failure and decides what follows. A first failure ends a pull that is not to be
    /// kept, whatever its retries, as ZLMediaKit has it.
    pub(super) fn fail(
        &mut self,
        fault: Fault,
        policy: &RetryPolicy,
        rng: &mut fastrand::Rng,
    ) -> AfterFailure {
        let was_up = self.lead.is_up();
        let class = fault.class;
        self.sources.fail(fault.clone());
        self.last_fault = Some(fault);
        self.lead.ends = None;
        self.lead.redirect = None;
        self.lead.held = None;
        let retries_done = if was_up { 0 } else { self.failures };
        if self.is_hedged() || self.sources.has_untried(Turn::Any) {
            self.count_loss(was_up);
            self.failures = retries_done;
            return AfterFailure::Next;
        }
        let keep = self.was_up || self.options.force || self.options.no_wait;
        // Its turn did not come, so it was no try.
        let was_tried = class != ErrorClass::Busy;
        let may_retry = self.options.retries_max.is_none_or(|max| retries_done < max);
        let may_retry = may_retry || !was_tried;
        // Sources that it is being given may do better.
        if self.rival.is_none() && (!keep || !may_retry) {
            return AfterFailure::GiveUp;
        }
        self.count_loss(was_up);
        let delay = policy.delay(class, retries_done, rng);
        self.failures = retries_done + u32::from(was_tried);
        AfterFailure::Retry(delay)
    }

    fn count_loss(&mut self, was_up: bool) {
        if was_up {
            self.losses += 1;
            self.set_pending(true);
        }
    }

    /// Counts it as pending, or not any more.
    pub(super) fn set_pending(&mut self, is_pending: bool) {
        if let Some(place) = &mut self.place {
            place.set_pending(is_pending);
        }
    }

    /// A way that is not begun.
    pub(super) fn way_to(&self, url: Arc<SourceUrl>) -> Try {
        Try { on_demand: self.on_demand, ..Try::new(url) }
    }

    /// Media has come. Returns the failures in a row that it ends.
    pub(super) fn succeed(&mut self, now: Instant) -> u32 {
        self.was_up = true;
        self.failures = 0;
        self.set_pending(false);
        if let Some(place) = self.place.as_mut().filter(|_| self.on_demand) {
            // Who it is played for from now on, nobody says: who began it may have gone.
            place.leave_address();
        }
        self.sources.succeed(now);
        if let PullState::Trying { stage, .. } = &mut self.lead.state {
            *stage = Stage::Up;
        }
        std::mem::take(&mut self.row).count
    }

    /// Whether another of its sources is tried beside the lead.
    pub(super) fn is_hedged(&self) -> bool {
        self.rival.as_ref().is_some_and(|rival| matches!(rival.purpose, Purpose::Hedge { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::message::IdleClose;
    use crate::proto::rtsp::LowerTransport;

    const POLICY: RetryPolicy = RetryPolicy {
        base: Duration::from_secs(2),
        step: Duration::from_secs(3),
        max: Duration::from_secs(60),
        jitter_percent: 0,
    };

    fn pull(retries_max: Option<u32>, force: bool) -> Pull {
        let url = SourceUrl::parse("rtmp://h/live/a", false).unwrap();
        let options = PullOptions {
            hedge: Duration::ZERO,
            retries_max,
            force,
            no_wait: false,
            timeout: Duration::from_secs(10),
            media_timeout: Duration::from_secs(5),
            rtp_transport: LowerTransport::Tcp,
            idle_close: IdleClose::default(),
            asked_by: None,
        };
        let mut pull = Pull::new(vec![Arc::new(url)], options);
        start(&mut pull);
        pull
    }

    fn start(pull: &mut Pull) {
        pull.sources.begin_round();
        pull.sources.next_untried(Turn::Any);
        pull.lead.state = PullState::Trying {
            attempt: AttemptId(1),
            stage: Stage::Connecting,
            awaiting: "",
            timer: None,
            holds_place: true,
        };
    }

    fn fail(pull: &mut Pull, class: ErrorClass) -> AfterFailure {
        let after = pull.fail(Fault::new(class, "x"), &POLICY, &mut fastrand::Rng::with_seed(1));
        start(pull);
        after
    }

    #[test]
    fn delays_are_those_of_zlmediakit() {
        let mut pull = pull(None, true);
        let seconds: Vec<u64> = (0..25)
            .map(|_| match fail(&mut pull, ErrorClass::Refused) {
                AfterFailure::Retry(delay) => delay.as_secs(),
                other => panic!("it retries without end, not {other:?}"),
            })
            .collect();
        assert_eq!(seconds[..6], [2, 3, 6, 9, 12, 15]);
        assert_eq!(seconds[19..23], [57, 60, 60, 60]);
    }

    #[test]
    fn a_missing_stream_is_asked_for_less_often_than_a_dead_host() {
        let mut rng = fastrand::Rng::with_seed(1);
        let refused = POLICY.delay(ErrorClass::Refused, 2, &mut rng);
        assert_eq!(POLICY.delay(ErrorClass::NotFound, 2, &mut rng), refused * 2);
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let policy = RetryPolicy { jitter_percent: 20, ..POLICY };
        let mut rng = fastrand::Rng::with_seed(7);
        let delays: Vec<f64> = (0..1000)
            .map(|_| policy.delay(ErrorClass::Refused, 0, &mut rng).as_secs_f64())
            .collect();
        assert!(delays.iter().all(|delay| (1.6..=2.4).contains(delay)));
        assert!(delays.iter().any(|delay| *delay < 1.7) && delays.iter().any(|delay| *delay > 2.3));
    }

    #[test]
    fn first_failure_ends_a_pull_that_is_not_forced() {
        assert_eq!(fail(&mut pull(None, false), ErrorClass::Refused), AfterFailure::GiveUp);
        assert_ne!(fail(&mut pull(None, true), ErrorClass::Refused), AfterFailure::GiveUp);
    }

    #[test]
    fn retries_are_counted_from_the_last_success() {
        let mut pull = pull(Some(2), true);
        assert_ne!(fail(&mut pull, ErrorClass::Refused), AfterFailure::GiveUp);
        assert_ne!(fail(&mut pull, ErrorClass::Refused), AfterFailure::GiveUp);
        pull.succeed(crate::clock::now());
        assert_ne!(fail(&mut pull, ErrorClass::Lost), AfterFailure::GiveUp);
        assert_ne!(fail(&mut pull, ErrorClass::Refused), AfterFailure::GiveUp);
        assert_eq!(fail(&mut pull, ErrorClass::Refused), AfterFailure::GiveUp);
        assert_eq!(pull.losses, 1);
    }

    #[test]
    fn a_turn_that_did_not_come_is_no_try() {
        let mut pull = pull(Some(1), true);
        for _ in 0..5 {
            assert_ne!(fail(&mut pull, ErrorClass::Busy), AfterFailure::GiveUp);
        }
        assert_ne!(fail(&mut pull, ErrorClass::Refused), AfterFailure::GiveUp);
        assert_eq!(fail(&mut pull, ErrorClass::Refused), AfterFailure::GiveUp);
    }

    #[test]
    fn a_row_of_failures_is_told_where_it_changes() {
        use ErrorClass::{Busy, NotFound, Refused, Unresolved};
        let row = [Refused, Refused, Busy, Refused, NotFound, NotFound, Refused, Busy, Unresolved];
        let mut told = FailureRow::default();
        let news = row.map(|class| told.add(class));
        assert_eq!(news, [true, false, false, false, true, false, true, false, true]);
        assert_eq!(told.count, 9);
        let mut told = FailureRow::default();
        assert_eq!([Busy, Busy, Refused].map(|class| told.add(class)), [true, false, true]);
    }

    #[test]
    fn without_retries_the_first_loss_ends_it() {
        let mut pull = pull(Some(0), false);
        pull.succeed(crate::clock::now());
        assert_eq!(fail(&mut pull, ErrorClass::Lost), AfterFailure::GiveUp);
    }

    #[test]
    fn a_timeout_says_what_was_awaited() {
        let mut pull = pull(None, true);
        assert_eq!(
            pull.lead.timeout_fault(pull.options.timeout, false).class,
            ErrorClass::TimedOut
        );
        let PullState::Trying { stage, awaiting, .. } = &mut pull.lead.state else {
            panic!("started")
        };
        (*stage, *awaiting) = (Stage::Handshaking, "answer to play");
        let fault = pull.lead.timeout_fault(pull.options.timeout, false);
        assert_eq!(fault.class, ErrorClass::Silent);
        assert!(fault.text.contains("answer to play"), "{}", fault.text);
    }
}
