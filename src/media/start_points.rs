//! Where players may start in video, also where its source has no keyframes.
//!
//! Encoders that refresh their pictures bit by bit send one keyframe at their start or none at all. Who
//! waited for one there would wait for ever. So where none has come for [`KEYFRAME_WAIT_MS`], and while
//! none comes, a picture each so long stands in for it: decoders show a damaged picture until it is
//! refreshed. The same holds where the last keyframe is too far back to be kept.

use crate::limits::KEYFRAME_WAIT_MS;
use crate::media::timeline::distance;

/// Finds the start points in one source's video.
#[derive(Debug, Default)]
pub struct StartPoints {
    /// A keyframe has come, and players can start there or at a later one.
    has_keyframes: bool,
    /// The first picture, or the last one that players could start at.
    since_ms: Option<u32>,
    newest_ms: Option<u32>,
    next_is_one: bool,
}

impl StartPoints {
    /// The next picture is one: who looked at those before has waited long enough.
    pub fn start_at_next(&mut self) {
        self.next_is_one = true;
    }

    /// The source began anew: its times tell nothing of those before.
    pub fn restart(&mut self) {
        *self = Self { next_is_one: self.next_is_one, ..Self::default() };
    }

    /// What has come since the last keyframe is too much to be kept: nobody starts there any more.
    pub fn forget_keyframe(&mut self) {
        self.has_keyframes = false;
    }

    /// Whether a player may start at the next picture, by its own word and its time, which may wrap.
    pub fn is_start(&mut self, is_keyframe: bool, time_ms: u32) -> bool {
        self.has_keyframes |= is_keyframe;
        let newest_ms = self.newest_ms.replace(time_ms);
        // A clock that jumps does not tell how long it was.
        if newest_ms.is_some_and(|ms| distance(ms, time_ms).abs() > KEYFRAME_WAIT_MS / 2) {
            self.since_ms = None;
        }
        let waited_ms = distance(*self.since_ms.get_or_insert(time_ms), time_ms);
        let is_due = !self.has_keyframes && waited_ms >= KEYFRAME_WAIT_MS;
        let is_start = std::mem::take(&mut self.next_is_one) || is_keyframe || is_due;
        if is_start {
            self.since_ms = Some(time_ms);
        }
        is_start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(pictures: impl Iterator<Item = (bool, u32)>) -> Vec<u32> {
        let mut points = StartPoints::default();
        let pictures = pictures.filter(|&(keyframe, time_ms)| points.is_start(keyframe, time_ms));
        pictures.map(|(_, time_ms)| time_ms).collect()
    }

    #[test]
    fn keyframes_alone_count_where_there_are_any() {
        let pictures = (0..2000).map(|n| (n == 100 || n == 1900, 40 * n));
        assert_eq!(starts(pictures), [4000, 76_000]);
    }

    #[test]
    fn clock_that_jumps_makes_no_picture_stand_in() {
        let pictures = (0..300).map(|n| (false, 40 * n + if n < 200 { 0 } else { 3_000_000_000 }));
        assert!(starts(pictures).is_empty());
    }

    #[test]
    fn next_picture_stands_in_where_somebody_waited() {
        let mut points = StartPoints::default();
        points.start_at_next();
        let starts = [0, 4_000, 8_000, 10_000].map(|time_ms| points.is_start(false, time_ms));
        assert_eq!(starts, [true, false, false, true]);
    }

    #[test]
    fn keyframe_that_is_not_kept_is_none() {
        // It is forgotten after so many pictures, and the next one comes 60 s after it.
        for (forgotten, expected) in [
            (100, &[0, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 120_000][..]),
            (800, &[0, 32_000, 42_000, 52_000, 60_000, 120_000]),
        ] {
            let mut points = StartPoints::default();
            let pictures = (0..3001_u32).filter(|&n| {
                if n == forgotten {
                    points.forget_keyframe();
                }
                points.is_start(n % 1500 == 0, 40 * n)
            });
            assert_eq!(pictures.map(|n| 40 * n).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn without_keyframes_a_picture_stands_in_now_and_then() {
        let first = u32::MAX - 4999;
        let pictures = (0..600).map(|n| (false, first.wrapping_add(40 * n)));
        assert_eq!(starts(pictures), [5000, 15_000]);
        // One that has keyframes after all needs no others.
        let pictures = (0..2000).map(|n| (n == 700, 40 * n));
        assert_eq!(starts(pictures), [10_000, 20_000, 28_000]);
    }
}
