//! How long media stays with us, as a histogram of Prometheus.

use std::time::Duration;

use crate::bus::view::{Metric, MetricKind};

/// From the last byte of a video frame in to the first byte of it out, by streams and flushes. An
/// observation costs one search in a list of fixed length.
#[derive(Debug, Clone, Default)]
pub struct Residence {
    /// By bucket; the last is what lies beyond all bounds.
    counts: [u64; BUCKETS.len() + 1],
    sum_ns: u64,
}

/// Name of the histogram.
pub const RESIDENCE: &str = "residence_seconds";

/// Upper bounds of the buckets: microseconds, and the label in seconds.
const BUCKETS: [(u64, &str); 22] = [
    (25, "0.000025"),
    (50, "0.00005"),
    (75, "0.000075"),
    (100, "0.0001"),
    (150, "0.00015"),
    (200, "0.0002"),
    (300, "0.0003"),
    (400, "0.0004"),
    (500, "0.0005"),
    (750, "0.00075"),
    (1_000, "0.001"),
    (1_250, "0.00125"),
    (1_500, "0.0015"),
    (2_000, "0.002"),
    (3_000, "0.003"),
    (5_000, "0.005"),
    (7_500, "0.0075"),
    (10_000, "0.01"),
    (20_000, "0.02"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (500_000, "0.5"),
];

/// The label of the last bucket.
const BEYOND: &str = "+Inf";

impl Residence {
    pub fn observe(&mut self, time: Duration) {
        let ns = time.as_nanos() as u64;
        let bucket = BUCKETS.partition_point(|&(bound_us, _)| bound_us * 1000 < ns);
        self.counts[bucket] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// One number for each bucket, without those below it, and the sum in nanoseconds.
    pub fn metrics(&self) -> impl Iterator<Item = Metric> {
        let metric =
            |label, value| Metric { name: RESIDENCE, label, kind: MetricKind::Histogram, value };
        let buckets = labels().zip(self.counts);
        let buckets = buckets.map(move |(of, count)| metric(Some(("le", of.into())), count));
        buckets.chain(std::iter::once(metric(None, self.sum_ns)))
    }
}

/// The labels of all buckets, in the order in which a page must have them.
pub(super) fn labels() -> impl Iterator<Item = &'static str> {
    BUCKETS.iter().map(|&(_, label)| label).chain(std::iter::once(BEYOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_bounds_in_seconds_and_grow() {
        for (bound_us, label) in BUCKETS {
            let seconds: f64 = label.parse().expect("a number");
            assert_eq!((seconds * 1e6).round() as u64, bound_us, "{label}");
        }
        assert!(BUCKETS.is_sorted_by(|one, next| one.0 < next.0));
    }

    #[test]
    fn a_time_at_a_bound_is_within_it() {
        let mut residence = Residence::default();
        for us in [0, 25, 26, 500_000, 500_001] {
            residence.observe(Duration::from_micros(us));
        }
        let of = |le: &'static str| {
            residence.metrics().find(|of| of.label == Some(("le", le.into()))).unwrap().value
        };
        assert_eq!([of("0.000025"), of("0.00005"), of("0.5"), of("+Inf")], [2, 1, 1, 1]);
        assert_eq!(residence.metrics().last().unwrap().value, 1_000_052_000);
    }
}
