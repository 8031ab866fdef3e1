//! The way of a push to its destination and back: pure, with no socket and no clock of its own.
//!
//! ```text
//!  awaiting source ── the stream registers ──► queued ──► resolving → connecting → handshaking ──► up
//!        ▲                                                      │          │            │          │
//!        │ the stream is gone                                   └──────────┴─────┬──────┴──────────┤
//!        └──────────────── backing off (next try at t, last fault) ◄─────────────┘ failed, lost    │
//!        ▲                                │ no retries left                                        │
//!        │                                ▼ gone                                                   │
//!        └─────────────────────────────── the stream is gone ◄─────────────────────────────────────┘
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::lifecycle::{AfterFailure, RetryPolicy, Stage};
use super::tables::Rate;
use super::timers::TimerId;
use crate::bus::message::{PushOptions, Ticket};
use crate::media::state::{ErrorClass, Fault};
use crate::media::{AttemptId, ConnectionId, PushState, SourceUrl, StreamKey, UrlDigest};

/// A stream that is sent on to another server.
pub(super) struct Push {
    pub(super) key: StreamKey,
    pub(super) url: Arc<SourceUrl>,
    pub(super) digest: UrlDigest,
    pub(super) options: PushOptions,
    pub(super) progress: Progress,
    /// Since the add.
    pub(super) since: Instant,
    /// `None` where it is not up.
    pub(super) up_since: Option<Instant>,
    /// Tries since the add.
    pub(super) attempts: u32,
    /// Failed tries since the last success.
    failures: u32,
    pub(super) was_up: bool,
    /// Times that it was up again.
    pub(super) returns: u32,
    pub(super) last_fault: Option<Fault>,
    /// Adds that wait for the first result.
    pub(super) adds: Vec<Ticket>,
    /// It is in the journal.
    pub(super) kept: bool,
    /// Attempts whose sockets are not confirmed closed, the current one among them.
    pub(super) open_attempts: BTreeSet<AttemptId>,
    /// As a player of its stream, from when it is one.
    pub(super) player: Option<ConnectionId>,
    pub(super) sent: Sent,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    AwaitingSource,
    Queued {
        timer: TimerId,
    },
    /// An attempt is under way, or up.
    Trying {
        attempt: AttemptId,
        stage: Stage,
        /// What the destination was asked last, for the fault's text.
        awaiting: &'static str,
        timer: Option<TimerId>,
        /// It holds a place in its destination's connect budget.
        holds_place: bool,
    },
    BackingOff {
        next: Instant,
        timer: TimerId,
    },
}

/// Bytes of media that went to the destination.
pub(super) struct Sent {
    /// By connections that are over.
    before: u64,
    /// By this one, as it was seen last.
    now: u64,
    pub(super) rate: Rate,
}

impl Sent {
    /// The current connection has sent so many by now.
    pub(super) fn see(&mut self, now: Instant, bytes: u64) {
        self.rate.count(now, bytes.saturating_sub(self.now));
        self.now = self.now.max(bytes);
    }

    /// The current connection is over.
    pub(super) fn end(&mut self) {
        self.before += std::mem::take(&mut self.now);
    }

    pub(super) fn total(&self) -> u64 {
        self.before + self.now
    }
}

impl Push {
    pub(super) fn new(
        now: Instant,
        key: StreamKey,
        url: Arc<SourceUrl>,
        options: PushOptions,
    ) -> Self {
        Self {
            key,
            digest: url.digest(),
            url,
            options,
            progress: Progress::AwaitingSource,
            since: now,
            up_since: None,
            attempts: 0,
            failures: 0,
            was_up: false,
            returns: 0,
            last_fault: None,
            adds: Vec::new(),
            kept: false,
            open_attempts: BTreeSet::new(),
            player: None,
            sent: Sent { before: 0, now: 0, rate: Rate::new(now) },
        }
    }

    pub(super) fn state(&self) -> PushState {
        match self.progress {
            Progress::AwaitingSource => PushState::AwaitingSource,
            Progress::Queued { .. } => PushState::Queued,
            Progress::BackingOff { .. } => PushState::BackingOff,
            Progress::Trying { stage, .. } => match stage {
                Stage::Resolving => PushState::Resolving,
                Stage::Connecting => PushState::Connecting,
                Stage::Handshaking => PushState::Handshaking,
                Stage::AwaitingMedia => PushState::AwaitingMedia,
                Stage::Up => PushState::Up,
            },
        }
    }

    /// The attempt that is under way or up.
    pub(super) fn attempt(&self) -> Option<AttemptId> {
        match self.progress {
            Progress::Trying { attempt, .. } => Some(attempt),
            _ => None,
        }
    }

    /// Milliseconds to the next try; 0 where none is waited for.
    pub(super) fn next_retry_ms(&self, now: Instant) -> u64 {
        match self.progress {
            Progress::BackingOff { next, .. } => {
                next.saturating_duration_since(now).as_millis() as u64
            }
            _ => 0,
        }
    }

    /// A push that never was up goes with its first failure, whatever its retries, unless it was to be
    /// kept.
    pub(super) fn is_to_stay(&self) -> bool {
        self.was_up || self.options.force || self.options.no_wait
    }

    pub(super) fn is_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// Decides what follows a failure, which counts where it was the destination's (`was_tried`).
    pub(super) fn fail(
        &mut self,
        fault: Fault,
        was_tried: bool,
        policy: &RetryPolicy,
        rng: &mut fastrand::Rng,
    ) -> AfterFailure {
        let class = fault.class;
        self.last_fault = Some(fault);
        let retries_done = if self.up_since.take().is_some() { 0 } else { self.failures };
        let may_retry = self.options.retries_max.is_none_or(|max| retries_done < max);
        if !self.is_to_stay() || was_tried && !may_retry {
            return AfterFailure::GiveUp;
        }
        let delay = policy.delay(class, retries_done, rng);
        self.failures = retries_done + u32::from(was_tried);
        AfterFailure::Retry(delay)
    }

    /// The destination takes the stream.
    pub(super) fn succeed(&mut self, now: Instant) {
        self.returns += u32::from(std::mem::replace(&mut self.was_up, true));
        self.up_since = Some(now);
        self.failures = 0;
        if let Progress::Trying { stage, timer, .. } = &mut self.progress {
            *stage = Stage::Up;
            *timer = None;
        }
    }

    /// The fault of an attempt whose time is over.
    pub(super) fn timeout_fault(&self) -> Fault {
        let seconds = self.options.timeout.as_secs_f64();
        let Progress::Trying { stage, awaiting, .. } = self.progress else {
            return Fault::new(ErrorClass::TimedOut, format!("not up within {seconds} s"));
        };
        match stage {
            Stage::Resolving => Fault::new(
                ErrorClass::Unresolved,
                format!("no address of {} within {seconds} s", self.url.host),
            ),
            Stage::Connecting => Fault::new(
                ErrorClass::TimedOut,
                format!("connection timed out: no answer within {seconds} s"),
            ),
            Stage::Handshaking => Fault::new(
                ErrorClass::Silent,
                format!("the destination is silent: no {awaiting} within {seconds} s"),
            ),
            Stage::AwaitingMedia | Stage::Up => Fault::new(
                ErrorClass::Silent,
                format!("the stream has brought no media within {seconds} s"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::proto::rtsp::LowerTransport;

    const POLICY: RetryPolicy = RetryPolicy {
        base: Duration::from_secs(2),
        step: Duration::from_secs(3),
        max: Duration::from_secs(60),
        jitter_percent: 0,
    };

    fn push(retries_max: Option<u32>, force: bool) -> Push {
        let url = SourceUrl::parse("rtmp://h/live/a", false).unwrap();
        let options = PushOptions {
            retries_max,
            force,
            no_wait: false,
            timeout: Duration::from_secs(10),
            rtp_transport: LowerTransport::Tcp,
        };
        let key = StreamKey::in_default_vhost("live", "a").unwrap();
        Push::new(clock::now(), key, Arc::new(url), options)
    }

    fn fail(push: &mut Push, class: ErrorClass) -> AfterFailure {
        push.fail(
            Fault::new(class, "x"),
            class != ErrorClass::Busy,
            &POLICY,
            &mut fastrand::Rng::with_seed(1),
        )
    }

    #[test]
    fn first_failure_ends_a_push_that_is_not_forced() {
        let mut plain = push(None, false);
        assert_eq!(fail(&mut plain, ErrorClass::Refused), AfterFailure::GiveUp);
        let mut was_up = push(None, false);
        was_up.succeed(clock::now());
        let two_seconds = AfterFailure::Retry(Duration::from_secs(2));
        assert_eq!(fail(&mut was_up, ErrorClass::Lost), two_seconds);
        assert_eq!(fail(&mut push(None, true), ErrorClass::Refused), two_seconds);
    }

    #[test]
    fn retries_are_counted_from_the_last_success() {
        let mut push = push(Some(1), true);
        assert_ne!(fail(&mut push, ErrorClass::Refused), AfterFailure::GiveUp);
        push.succeed(clock::now());
        assert_ne!(fail(&mut push, ErrorClass::Lost), AfterFailure::GiveUp);
        assert_ne!(fail(&mut push, ErrorClass::Busy), AfterFailure::GiveUp, "that was no try");
        assert_eq!(fail(&mut push, ErrorClass::Refused), AfterFailure::GiveUp);
        assert_eq!(push.returns, 0);
        push.succeed(clock::now());
        assert_eq!(push.returns, 1);
    }

    #[test]
    fn bytes_of_all_connections_add_up_once() {
        let mut push = push(None, true);
        let now = clock::now();
        push.sent.see(now, 10);
        push.sent.see(now, 30);
        push.sent.end();
        push.sent.end();
        push.sent.see(now, 5);
        assert_eq!(push.sent.total(), 35);
    }
}
