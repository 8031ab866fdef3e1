//! How fast completions come, which decides whether gathering them is worth its delay.

use std::time::{Duration, Instant};

/// The rate of a shard's completions.
pub(super) struct Pace {
    since: Instant,
    count: u32,
    per_second: u32,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, count: 0, per_second: 0 }
    }

    /// So many completions have come.
    pub(super) fn count(&mut self, now: Instant, completions: usize) {
        self.count = self.count.saturating_add(completions as u32);
        let time = now.duration_since(self.since);
        if time >= SAMPLE {
            self.per_second = (f64::from(self.count) / time.as_secs_f64()) as u32;
            (self.since, self.count) = (now, 0);
        }
    }

    /// The time in which to gather, `most` or nothing: few completions gain less than they lose.
    pub(super) fn gather(&self, most: Duration) -> Duration {
        let expected = f64::from(self.per_second) * most.as_secs_f64();
        if expected >= GATHER_FROM { most } else { Duration::ZERO }
    }
}

const SAMPLE: Duration = Duration::from_millis(100);
/// Completions that must be expected in the time. One stream has under 150 a second.
const GATHER_FROM: f64 = 4.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_streams_are_gathered_and_one_is_not() {
        let start = crate::clock::now();
        let most = Duration::from_millis(1);
        for (per_second, gathers) in [(150, false), (3_900, false), (4_100, true), (27_000, true)] {
            let mut pace = Pace::new(start);
            assert_eq!(pace.gather(most), Duration::ZERO);
            for tick in 1..=20 {
                pace.count(start + Duration::from_millis(10 * tick), per_second / 100);
            }
            assert_eq!(pace.gather(most) == most, gathers, "{per_second}");
            pace.count(start + Duration::from_secs(10), 0);
            assert_eq!(pace.gather(most), Duration::ZERO);
        }
    }
}
