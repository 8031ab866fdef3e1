//! Where players may start in video, also where its source has no keyframes.
//!
//! Encoders that refresh their pictures bit by bit send one keyframe at their start or none at all. Who
//! waited for one there would wait for ever. So where none has come for [`KEYFRAME_WAIT_MS`], and while
//! none comes, a picture each so long stands in for it: decoders show a damaged picture until it is
//! refreshed.

use crate::limits::KEYFRAME_WAIT_MS;
use crate::media::timeline::distance;

/// Finds the start points in one source's video.
#[derive(Debug, Default)]
pub struct StartPoints {
    has_keyframes: bool,
    /// The first picture, or the last that stood in for a keyframe.
    since_ms: Option<u32>,
}

impl StartPoints {
    /// Whether a player may start at the next picture, by its own word and its time, which may wrap.
    pub fn is_start(&mut self, is_keyframe: bool, time_ms: u32) -> bool {
        self.has_keyframes |= is_keyframe;
        if self.has_keyframes {
            return is_keyframe;
        }
        let since_ms = *self.since_ms.get_or_insert(time_ms);
        let is_due = distance(since_ms, time_ms) >= KEYFRAME_WAIT_MS;
        if is_due {
            self.since_ms = Some(time_ms);
        }
        is_due
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
    fn without_keyframes_a_picture_stands_in_now_and_then() {
        let first = u32::MAX - 4999;
        let pictures = (0..600).map(|n| (false, first.wrapping_add(40 * n)));
        assert_eq!(starts(pictures), [5000, 15_000]);
        // One that has keyframes after all needs no others.
        let pictures = (0..2000).map(|n| (n == 700, 40 * n));
        assert_eq!(starts(pictures), [10_000, 20_000, 28_000]);
    }
}
