//! How busy a shard's thread is.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use crate::bus::view::LoadView;

/// Samples the thread's CPU time once a second.
#[derive(Default)]
pub(super) struct LoadMeter {
    last: Option<(Instant, Duration)>,
    percent: u32,
    late_max: Duration,
    late_shown: Duration,
}

impl LoadMeter {
    pub(super) fn sample(&mut self, now: Instant) {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else { return };
        let micros = |time: nix::sys::time::TimeVal| {
            Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000)
        };
        let used = micros(usage.user_time()) + micros(usage.system_time());
        if let Some((since, used_then)) = self.last {
            let wall = now.duration_since(since).as_secs_f64().max(0.001);
            let busy = used.saturating_sub(used_then).as_secs_f64();
            self.percent = (busy / wall * 100.0).min(100.0) as u32;
        }
        self.last = Some((now, used));
        self.late_shown = std::mem::take(&mut self.late_max);
    }

    /// A timer came up late by so much.
    pub(super) fn timer_was_late(&mut self, by: Duration) {
        self.late_max = self.late_max.max(by);
    }

    pub(super) fn view(&self, fd_count: u32) -> LoadView {
        let delay_ms = self.late_shown.max(self.late_max).as_millis() as u32;
        LoadView { percent: self.percent, delay_ms, fd_count }
    }
}
