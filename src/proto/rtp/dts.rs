//! Decoding times for pictures of which RTP tells only the presentation time.
//!
//! The exact way is to read each picture's order count, which takes a parser of slice headers for
//! every codec. This one needs the times alone.

/// Decoding times of one track, in the ticks of its clock.
///
/// Where at most `depth` pictures are decoded between a picture and one that is shown before it, the
/// `depth + 1`-th highest presentation time so far is a decoding time. It rises with every picture, it
/// is never above the picture's own time, and it needs no picture that is still to come, so nothing is
/// delayed. Without B-frames (`depth` 0) it is the presentation time.
///
/// `depth` is what the parameter sets tell (H.265 always does). Where they do not, it is learned: when
/// a picture comes that is shown before more pictures than `depth` allows, `depth` grows, and for
/// that many pictures decoding times are only one tick apart and may be above presentation times. So
/// they may be where a stream begins with a keyframe that others are shown before (an open group), and
/// where the source's clock was set back. What was learned is forgotten when the last
/// [`MEMORY_PICTURES`] have not needed it.
#[derive(Debug, Clone)]
pub struct DecodingTimes {
    depth: usize,
    /// By the parameter sets.
    told: usize,
    /// What the last pictures have needed, and how many they are.
    needed: usize,
    seen: u32,
    frame_ticks: i64,
    /// The highest presentation times so far, rising; [`HIGHEST_LEN`] at most.
    highest: Vec<i64>,
    last: Option<i64>,
}

impl DecodingTimes {
    /// `depth` where it is told, `frame_ticks` the usual distance of two pictures, which is needed
    /// for the first `depth` of them.
    pub fn new(depth: Option<usize>, frame_ticks: i64) -> Self {
        let depth = depth.unwrap_or(0).min(HIGHEST_LEN - 1);
        let (highest, last) = (Vec::new(), None);
        Self { depth, told: depth, needed: 0, seen: 0, frame_ticks, highest, last }
    }

    /// The parameter sets have changed.
    pub fn set_depth(&mut self, depth: Option<usize>) {
        self.told = depth.unwrap_or(0).min(HIGHEST_LEN - 1);
        if depth.is_some() {
            (self.depth, self.needed) = (self.told, 0);
        }
    }

    /// The decoding time of the next picture in the order of decoding. Presentation times that jump by
    /// more than [`JUMP_FRAMES`] pictures begin anew.
    pub fn next(&mut self, presentation: i64) -> i64 {
        let newest = self.highest.last().copied().unwrap_or(presentation);
        if (presentation - newest).abs() > JUMP_FRAMES * self.frame_ticks {
            (self.highest, self.last) = (Vec::new(), None);
        }
        let at = self.highest.partition_point(|&time| time <= presentation);
        let later_count = self.highest.len() - at;
        self.learn(later_count.min(HIGHEST_LEN - 1));
        self.highest.insert(at, presentation);
        if self.highest.len() > HIGHEST_LEN {
            self.highest.remove(0);
        }
        let decoding = match self.highest.len().checked_sub(self.depth + 1) {
            Some(at) => self.highest[at],
            None => {
                let missing = (self.depth + 1 - self.highest.len()) as i64;
                self.highest[0] - missing * self.frame_ticks
            }
        };
        let decoding = self.last.map_or(decoding, |last| decoding.max(last + 1));
        self.last = Some(decoding);
        decoding
    }

    /// Notes how many pictures were decoded before one that is shown before them.
    fn learn(&mut self, later_count: usize) {
        self.needed = self.needed.max(later_count);
        self.depth = self.depth.max(later_count);
        self.seen += 1;
        if self.seen == MEMORY_PICTURES {
            self.depth = self.told.max(self.needed);
            (self.seen, self.needed) = (0, 0);
        }
    }
}

/// One more than the deepest reordering that H.264 and H.265 allow.
const HIGHEST_LEN: usize = 17;

/// Five seconds of 25 pictures each: an encoder may do without B-frames for a while.
pub const MEMORY_PICTURES: u32 = 125;

/// Ten seconds of 25 pictures each.
const JUMP_FRAMES: i64 = 250;

#[cfg(test)]
mod tests {
    use super::*;

    /// Presentation times in the order of decoding, of `count` groups of four: P, B, b, b.
    fn pyramid(count: i64) -> Vec<i64> {
        let group = |start: i64| [start + 4, start + 2, start + 1, start + 3];
        let mut times = vec![0];
        times.extend((0..count).flat_map(|n| group(4 * n)).map(|time| time * 3600));
        times
    }

    fn decode(times: &mut DecodingTimes, presentation: &[i64]) -> Vec<i64> {
        presentation.iter().map(|&time| times.next(time)).collect()
    }

    #[test]
    fn without_reordering_the_times_are_the_same() {
        let mut times = DecodingTimes::new(Some(0), 3600);
        assert_eq!(decode(&mut times, &[90, 3690, 7290, 9000]), [90, 3690, 7290, 9000]);
    }

    #[test]
    fn told_depth_gives_even_times() {
        let mut times = DecodingTimes::new(Some(2), 3600);
        let expected: Vec<i64> = (0..41).map(|n| (n - 2) * 3600).collect();
        assert_eq!(decode(&mut times, &pyramid(10)), expected);
    }

    #[test]
    fn times_rise_and_stay_below_for_any_order_within_the_depth() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let depth = random.usize(..=4);
            // The next picture to decode is any of those that nothing shown before must wait for.
            let mut waiting: Vec<i64> = (0..200).map(|n| n * 3000 + random.i64(0..2000)).collect();
            // The first is shown first, as in a stream that begins with a whole group.
            let mut presentation = vec![waiting.remove(0)];
            while !waiting.is_empty() {
                let early = presentation.iter().filter(|&&time| time > waiting[0]).count();
                let at = if early >= depth { 0 } else { random.usize(..waiting.len().min(8)) };
                presentation.push(waiting.remove(at));
            }
            let mut times = DecodingTimes::new(Some(depth), 3000);
            let decoding = decode(&mut times, &presentation);
            assert!(decoding.is_sorted_by(|a, b| a < b), "seed {seed}: {decoding:?}");
            let in_time = decoding.iter().zip(&presentation).all(|(dts, pts)| dts <= pts);
            assert!(in_time, "seed {seed}: {presentation:?} {decoding:?}");
        }
    }

    #[test]
    fn depth_is_learned() {
        let mut times = DecodingTimes::new(None, 3600);
        let presentation = pyramid(10);
        let decoding = decode(&mut times, &presentation);
        assert!(decoding.is_sorted_by(|a, b| a < b));
        // Once it is known, all is as if it had been told.
        let expected: Vec<i64> = (0..41).map(|n| (n - 2) * 3600).collect();
        assert_eq!(decoding[7..], expected[7..]);
    }

    #[test]
    fn clock_that_is_set_back_is_forgotten() {
        for (told, depth) in [(Some(0), 0), (None, 0), (Some(2), 2)] {
            let mut times = DecodingTimes::new(told, 40);
            let before: Vec<i64> = (0..100).map(|n| 40 * n).collect();
            let after: Vec<i64> = before.iter().map(|time| time + 3500).collect();
            let mut decoding = decode(&mut times, &before);
            decoding.extend(decode(&mut times, &after));
            let long_after: Vec<i64> = (0..200).map(|n| 7500 + 40 * n).collect();
            decoding.extend(decode(&mut times, &long_after));
            assert!(decoding.is_sorted_by(|a, b| a < b), "{told:?}");
            assert_eq!(decoding.last(), Some(&(long_after[199] - 40 * depth)), "{told:?}");
        }
    }

    #[test]
    fn learned_depth_stays_while_it_is_needed() {
        let mut times = DecodingTimes::new(None, 3600);
        let decoding = decode(&mut times, &pyramid(200));
        let expected: Vec<i64> = (0..801).map(|n| (n - 2) * 3600).collect();
        assert_eq!(decoding[7..], expected[7..]);
    }

    #[test]
    fn jump_begins_anew() {
        let mut times = DecodingTimes::new(Some(1), 3600);
        assert_eq!(decode(&mut times, &[90_000_000, 90_003_600]), [89_996_400, 90_000_000]);
        assert_eq!(decode(&mut times, &[500, 4100]), [-3100, 500]);
        times.set_depth(Some(0));
        assert_eq!(times.next(7700), 7700);
    }
}
