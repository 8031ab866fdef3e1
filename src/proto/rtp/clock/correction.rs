//! How a track is moved to where sender reports say that it lies, without a step back.

/// What is added to a track's places. It is a function of the timestamp alone, and places rise with
/// timestamps under it: so pictures that are sent out of order keep theirs.
///
/// ```text
/// place   gentle           hasty, ahead      hasty, back
///  ^           .'               .'               .'
///  |         .'               .'                .'
///  |       ..'               .'               .'
///  |     ..'                 |             _.-'
///  |   .'                  .'            .'
///  +-----+----> timestamp ---+---->       -+---->
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Correction {
    /// What is added up to where it begins.
    before_ns: i64,
    target_ns: i64,
    /// Where it begins: timestamps in nanoseconds, counted as the caller likes.
    begins_ns: i64,
    pace: Pace,
}

/// How fast the target is approached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Pace {
    /// By 1/20 of the media time that passes: nobody hears it, and 100 ms are made good in 2 s.
    #[default]
    Gentle,
    /// Ahead at once; back by 3/4 of the media time that passes, so that units of 4 ms and more are
    /// still a millisecond apart, and 700 ms are made good within 1 s.
    Hasty,
}

impl Correction {
    /// Goes on from what is added at a timestamp.
    pub(super) fn aim(&mut self, begins_ns: i64, target_ns: i64, pace: Pace) {
        *self = Self { before_ns: self.at(begins_ns), target_ns, begins_ns, pace };
    }

    /// What is added at a timestamp.
    pub(super) fn at(&self, timestamp_ns: i64) -> i64 {
        let off_ns = self.target_ns - self.before_ns;
        let passed_ns = timestamp_ns - self.begins_ns;
        if passed_ns <= 0 {
            return self.before_ns;
        }
        let step_ns = match self.pace {
            Pace::Gentle => passed_ns / 20,
            Pace::Hasty if off_ns > 0 => return self.target_ns,
            Pace::Hasty => passed_ns / 4 * 3,
        };
        self.before_ns + off_ns.clamp(-step_ns, step_ns)
    }

    /// What is added in the end.
    pub(super) fn target_ns(&self) -> i64 {
        self.target_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_rise_at_any_pace() {
        for pace in [Pace::Gentle, Pace::Hasty] {
            for target_ns in [-3000, -1, 0, 1, 3000] {
                let mut correction = Correction::default();
                correction.aim(1000, target_ns, pace);
                let places: Vec<i64> =
                    (0..100_000).step_by(8).map(|ns| ns + correction.at(ns)).collect();
                assert!(places.is_sorted_by(|a, b| a < b), "{pace:?} {target_ns}");
                assert_eq!((correction.at(1000), correction.at(100_000)), (0, target_ns));
            }
        }
    }

    #[test]
    fn another_aim_goes_on_from_where_the_first_one_came_to() {
        let mut correction = Correction::default();
        correction.aim(0, -3000, Pace::Hasty);
        assert_eq!(correction.at(2000), -1500);
        correction.aim(2000, 0, Pace::Gentle);
        assert_eq!([2000, 4000, 32_000, 90_000].map(|at| correction.at(at)), [-1500, -1400, 0, 0]);
    }

    #[test]
    fn hasty_is_done_within_a_second() {
        let mut correction = Correction::default();
        correction.aim(0, 30_000, Pace::Hasty);
        assert_eq!((correction.at(0), correction.at(1)), (0, 30_000));
        correction.aim(1000, 29_300, Pace::Hasty);
        assert_eq!((correction.at(1000), correction.at(1933)), (30_000, 29_301));
        assert_eq!(correction.at(1940), 29_300);
    }
}
