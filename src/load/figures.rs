//! Durations as distributions: HDR histograms from 1 µs to 60 s with three digits.

use hdrhistogram::Histogram;
use serde::Serialize;

/// A distribution of durations.
#[derive(Debug, Clone)]
pub(super) struct Spread(Histogram<u64>);

impl Default for Spread {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("bounds that fit"))
    }
}

impl Spread {
    /// Longer than 60 s counts as 60 s.
    pub(super) fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record((ns / 1000).max(1));
    }

    /// Records what was seen every `interval_ns`, and what would have been seen meanwhile: a time
    /// of 1.2 s where there should be 40 ms hides 29 more of 1.16 s, 1.12 s and so on.
    pub(super) fn record_corrected_ns(&mut self, ns: u64, interval_ns: u64) {
        let micros = (ns / 1000).clamp(1, MICROS_MAX);
        // In its bounds, so that it is taken.
        let _ = self.0.record_correct(micros, interval_ns / 1000);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the same bounds");
    }

    pub(super) fn percentile_ms(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1000.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `None` when there is nothing to tell.
    pub(super) fn summary(&self) -> Option<Summary> {
        if self.is_empty() {
            return None;
        }
        Some(Summary {
            count: self.0.len(),
            min: self.0.min() as f64 / 1000.0,
            mean: (self.0.mean() / 10.0).round() / 100.0,
            p50: self.percentile_ms(50.0),
            p90: self.percentile_ms(90.0),
            p99: self.percentile_ms(99.0),
            p999: self.percentile_ms(99.9),
            max: self.percentile_ms(100.0),
        })
    }
}

/// What a report says of a distribution, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) count: u64,
    pub(super) min: f64,
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

const MICROS_MAX: u64 = 60_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_stall_weighs_as_many_frames_as_it_hid() {
        let mut spread = Spread::default();
        for _ in 0..70 {
            spread.record_corrected_ns(40 * MS, 40 * MS);
        }
        spread.record_corrected_ns(1200 * MS, 40 * MS);
        let summary = spread.summary().expect("recorded");
        assert_eq!(summary.count, 70 + 30);
        assert!((39.9..40.1).contains(&summary.p50), "{summary:?}");
        assert!((700.0..900.0).contains(&summary.p90), "{summary:?}");
        assert!((1199.0..1202.0).contains(&summary.max), "{summary:?}");
    }

    #[test]
    fn bounds_are_not_left() {
        let mut spread = Spread::default();
        spread.record_ns(0);
        spread.record_ns(u64::MAX);
        spread.record_corrected_ns(u64::MAX, 20_000 * MS);
        assert_eq!(spread.summary().expect("recorded").count, 2 + 3);
        assert_eq!(Spread::default().summary(), None);
    }
}
