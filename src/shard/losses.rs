//! Sources that are lost or silent, and how long players are kept for the next one.

use std::time::{Duration, Instant};

use super::tables::{Lost, Source, StreamHandle};
use super::timers::Timer;
use super::{Action, Shard};
use crate::bus::message::Message;
use crate::media::state::{EndReason, ErrorClass, Fault};

impl Shard {
    /// From registered back to pending; players are kept for the grace period.
    pub(super) fn suspend(&mut self, now: Instant, handle: StreamHandle, grace: Duration) {
        // Audio that waits for video to ride on goes out with what it belongs to.
        self.flush_now(handle);
        self.tables.unregister(handle);
        let stream = self.tables.get_mut(handle).expect("just unregistered");
        stream.media.drop_unfinished();
        let key = stream.key.clone();
        let attached: Vec<_> = stream
            .subscribers
            .iter_mut()
            .filter(|(_, subscriber)| subscriber.attached && !subscriber.suspended)
            .map(|(&(shard, _), subscriber)| {
                subscriber.suspended = true;
                (shard, subscriber.local)
            })
            .collect();
        stream.media.change_source();
        let kept_until = now + grace;
        stream.lost = Some(Lost { since: stream.last_media, kept_until });
        stream.grace = Some(self.timers.set(kept_until, Timer::Grace(handle)));
        for (shard, local) in attached {
            self.send(shard, Message::Suspended { key: key.clone(), local });
        }
    }

    /// The lost source has not come back: its players go. A pull goes on trying. One that brings media has
    /// come back as far as it goes: they stay for its keyframe.
    pub(super) fn grace_is_over(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("its timers go with it");
        stream.grace =
            stream.keyframe_awaited(now).map(|due| self.timers.set(due, Timer::Grace(handle)));
        if stream.grace.is_some() {
            return;
        }
        if stream.pull().is_none() {
            self.end_stream(now, handle, EndReason::SourceLost, None);
            return;
        }
        stream.lost = None;
        self.tell_grace_over(handle);
        self.end_attached(handle, |_| true, EndReason::SourceLost);
        self.forget_media(handle);
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
}
