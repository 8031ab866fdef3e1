//! Decoding times of pictures and sounds in the milliseconds of FLV.

use crate::proto::rtp::DecodingTimes;

/// Decoding times that rise with every picture and begin at the first one's presentation.
///
/// [`DecodingTimes`] puts the first pictures of a stream with B-frames before its beginning. FLV has
/// no time below 0, and to move the stream would move it against what is told of its clock. So
/// these pictures come a millisecond apart, from the first one's presentation on: each is decoded
/// well before it is shown, and presentation times stay what they are.
#[derive(Debug)]
pub(super) struct PictureTimes {
    times: DecodingTimes,
    last: Option<i64>,
}

impl PictureTimes {
    pub(super) fn new(depth: Option<usize>) -> Self {
        Self { times: DecodingTimes::new(depth, FRAME_MS), last: None }
    }

    /// The parameter sets have changed.
    pub(super) fn set_depth(&mut self, depth: Option<usize>) {
        self.times.set_depth(depth);
    }

    /// The decoding time of the next picture in the order of decoding. It is above `presentation`
    /// only where the depth was not told, or a picture is shown before the first keyframe.
    pub(super) fn next(&mut self, presentation: i64) -> i64 {
        self.last.take_if(|last| (presentation - *last).abs() > JUMP_MS);
        let rising = self.last.map_or(presentation, |last| last + 1);
        let decoding = self.times.next(presentation).max(rising);
        self.last = Some(decoding);
        decoding
    }
}

/// Times of sounds, which rise.
///
/// A packet of several may reach into the time of the one after it, where reports have moved the
/// track back: those lie a millisecond apart then.
#[derive(Debug, Default)]
pub(super) struct SoundTimes {
    last: Option<i64>,
}

impl SoundTimes {
    /// The time of the next sound.
    pub(super) fn next(&mut self, presentation: i64) -> i64 {
        self.last.take_if(|last| presentation < *last - OVERLAP_MS_MAX);
        let time = self.last.map_or(presentation, |last| presentation.max(last + 1));
        self.last = Some(time);
        time
    }
}

/// Of 25 pictures a second.
const FRAME_MS: i64 = 40;

/// Sounds further back are of a new timeline.
const OVERLAP_MS_MAX: i64 = 1000;

/// Beyond this a new timeline begins.
const JUMP_MS: i64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_picture_comes_before_the_first_is_shown() {
        let mut times = PictureTimes::new(Some(2));
        let presentation = [0, 160, 80, 40, 120, 320, 240, 200, 280];
        let decoding = presentation.map(|time| times.next(time));
        assert_eq!(decoding, [0, 1, 2, 40, 80, 120, 160, 200, 240]);
        // A new timeline.
        assert_eq!([1_000_000, 1_000_040].map(|time| times.next(time)), [1_000_000, 1_000_001]);
        assert_eq!([0, 40, 80, 120].map(|time| times.next(time)), [0, 1, 2, 40]);
    }

    #[test]
    fn times_rise_where_the_depth_was_not_told() {
        let mut times = PictureTimes::new(None);
        let presentation = [0, 160, 80, 40, 120, 320, 240, 200, 280];
        let decoding = presentation.map(|time| times.next(time));
        assert_eq!(decoding, [0, 160, 161, 162, 163, 164, 165, 200, 240]);
    }
}
