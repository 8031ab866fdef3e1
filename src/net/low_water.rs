//! When a source's socket is to be read: once it holds as much as a video frame (decision 0018).
//!
//! The kernel tells of input from a mark on (`SO_RCVLOWAT`). Between two tags the mark is the length
//! of the shortest of the source's last video frames, so that audio, which waits for the next video
//! frame anyway (decision 0010), waits in the socket; within a tag it is what the tag lacks. The mark
//! is lifted shortly after the next frame was due, for whatever is there by then.
//!
//! Times are since the start of the shard.

use std::time::Duration;

use crate::limits::READ_MARK_MAX;

/// What is known of a source's frames, and the mark of its socket.
#[derive(Debug)]
pub(super) struct LowWater {
    /// What the kernel was told.
    mark: u32,
    /// Until when, in milliseconds.
    until_ms: Option<u64>,
    /// The peer is so near that it does not matter when it is told that its bytes have come.
    pub(super) is_near: bool,
    timestamp_ms: u32,
    /// From the first frame to the last one, by their timestamps.
    media_us: i64,
    window: Window,
    /// The last one that is complete; without frames there is none.
    previous: Window,
    /// Windows in which the mark is not set, because it did not do.
    rest: u32,
}

/// Some frames, one after the other.
#[derive(Debug, Clone, Copy)]
struct Window {
    frames: u32,
    len_min: u32,
    step_min_us: i64,
    /// Times of arrival less media times, together.
    offsets_us: i64,
    lifts: u32,
}

impl Window {
    const EMPTY: Self =
        Self { frames: 0, len_min: u32::MAX, step_min_us: i64::MAX, offsets_us: 0, lifts: 0 };
}

impl LowWater {
    /// Of a source whose first frame begins.
    pub(super) fn new(timestamp_ms: u32) -> Self {
        Self {
            mark: MARK_NONE,
            until_ms: None,
            is_near: false,
            timestamp_ms,
            media_us: 0,
            window: Window::EMPTY,
            previous: Window::EMPTY,
            rest: 0,
        }
    }

    /// A video frame begins. `true` when it is time to look at how near the peer is.
    pub(super) fn video(&mut self, now: Duration, timestamp_ms: u32, len: u32) -> bool {
        let step_ms = timestamp_ms.wrapping_sub(self.timestamp_ms);
        self.timestamp_ms = timestamp_ms;
        if step_ms > STEP_MS_MAX {
            (self.window, self.previous) = (Window::EMPTY, Window::EMPTY);
        } else {
            self.media_us += i64::from(step_ms) * 1000;
        }
        let window = &mut self.window;
        window.frames += 1;
        window.len_min = window.len_min.min(len);
        if (1..=STEP_MS_MAX).contains(&step_ms) {
            window.step_min_us = window.step_min_us.min(i64::from(step_ms) * 1000);
        }
        window.offsets_us += now.as_micros() as i64 - self.media_us;
        if window.frames < WINDOW_FRAMES {
            return false;
        }
        self.rest = self.rest.saturating_sub(1);
        self.previous = std::mem::replace(window, Window::EMPTY);
        true
    }

    /// Sets the mark anew after input. `lacking` is what the tags that have begun lack, `wait_max` how
    /// long bytes may wait. The mark, where it is another than before.
    pub(super) fn set(&mut self, now: Duration, lacking: usize, wait_max: Duration) -> Option<u32> {
        let (mark, until_ms) = match self.next(now, lacking, wait_max) {
            Some((mark, until_ms)) => (mark, Some(until_ms)),
            None => (MARK_NONE, None),
        };
        self.until_ms = until_ms;
        (std::mem::replace(&mut self.mark, mark) != mark).then_some(mark)
    }

    /// The time of the mark is over. `late` is by how much this comes too late. The mark, where it is
    /// another than before.
    pub(super) fn lift(&mut self, late: Duration) -> Option<u32> {
        self.until_ms = None;
        // What a shard that is behind has not seen yet may have come in time.
        if late < SLACK {
            self.window.lifts += 1;
            if self.window.lifts > WINDOW_FRAMES / 2 {
                (self.rest, self.window.lifts) = (REST_WINDOWS, 0);
            }
        }
        (std::mem::replace(&mut self.mark, MARK_NONE) != MARK_NONE).then_some(MARK_NONE)
    }

    pub(super) fn until_ms(&self) -> Option<u64> {
        self.until_ms
    }

    fn next(&self, now: Duration, lacking: usize, wait_max: Duration) -> Option<(u32, u64)> {
        let Window { frames, len_min, step_min_us, offsets_us, .. } = self.previous;
        if frames == 0 || self.rest > 0 || !self.is_near || wait_max.is_zero() {
            return None;
        }
        let latest = now + wait_max;
        let (mark, until) = if lacking > 0 {
            (lacking, latest)
        } else {
            let due_us = self.media_us + offsets_us / i64::from(frames);
            let due_us = due_us.saturating_add(step_min_us.min(self.window.step_min_us));
            let due = Duration::from_micros(u64::try_from(due_us).ok()?);
            (len_min.min(self.window.len_min) as usize, due.min(latest))
        };
        let mark = mark.min(READ_MARK_MAX) as u32;
        let until = until + SLACK;
        let is_worth_it = mark >= MARK_MIN && until > now + SLACK;
        is_worth_it.then_some((mark, until.as_millis() as u64 + 1))
    }
}

/// How the kernel is told to tell of every byte.
const MARK_NONE: u32 = 1;
/// Below, not even one audio tag would wait.
const MARK_MIN: u32 = 128;
/// After the time at which a frame was due; the clock of the marks adds a millisecond.
const SLACK: Duration = Duration::from_millis(2);
/// Between two frames. More, or less than none, is a break.
const STEP_MS_MAX: u32 = 1000;
/// A second of most streams.
const WINDOW_FRAMES: u32 = 25;
/// Where more than every second mark of a window had to be lifted: a minute.
const REST_WINDOWS: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(40);

    fn ms(time_ms: u64) -> Duration {
        Duration::from_millis(time_ms)
    }

    /// A source of 25 frames a second, begun at 1 s; frames are `len` bytes long.
    fn source(frames: u64, len: u32) -> LowWater {
        let mut source = LowWater::new(0);
        source.is_near = true;
        for frame in 0..frames {
            source.video(ms(1000 + 40 * frame), 40 * frame as u32, len);
        }
        source
    }

    #[test]
    fn nothing_waits_before_the_frames_are_known() {
        let mut source = source(24, 2000);
        assert_eq!(source.set(ms(1920), 0, WAIT), None);
        assert!(source.video(ms(1960), 960, 2000), "a window is complete");
        assert_eq!(source.set(ms(1960), 0, WAIT), Some(2000));
        assert_eq!(source.until_ms(), Some(1960 + 40 + 2 + 1));
        assert_eq!(source.set(ms(1960), 0, WAIT), None, "it is what the kernel knows");
    }

    #[test]
    fn the_shortest_frame_of_the_last_ones_is_the_mark() {
        let mut source = source(50, 2000);
        source.video(ms(3000), 2000, 700);
        assert_eq!(source.set(ms(3000), 0, WAIT), Some(700));
        source.video(ms(3040), 2040, 30);
        assert_eq!(source.set(ms(3040), 0, WAIT), Some(1), "too short a frame to wait for");
        assert_eq!(source.until_ms(), None);
    }

    #[test]
    fn within_a_tag_the_mark_is_what_it_lacks() {
        let mut source = source(50, 2000);
        assert_eq!(source.set(ms(2960), 300, WAIT), Some(300));
        assert_eq!(source.until_ms(), Some(2960 + 40 + 2 + 1));
        assert_eq!(source.set(ms(2961), usize::MAX, WAIT), Some(READ_MARK_MAX as u32));
        assert_eq!(source.set(ms(2962), 1, WAIT), Some(1));
    }

    #[test]
    fn a_lifted_mark_stays_away_until_the_frame_has_come() {
        let mut source = source(50, 2000);
        source.set(ms(2960), 0, WAIT);
        assert_eq!(source.lift(ms(0)), Some(1));
        assert_eq!(source.set(ms(3004), 0, WAIT), None);
        source.video(ms(3006), 2000, 2000);
        assert_eq!(source.set(ms(3006), 0, WAIT), Some(2000));
        assert_eq!(source.until_ms(), Some(2960 + 80 + 2 + 1), "by the rhythm, not the last one");
    }

    #[test]
    fn a_source_that_is_always_late_is_left_alone() {
        let mut source = source(50, 2000);
        for frame in 50..63 {
            let now = ms(1000 + 40 * frame);
            source.video(now, 40 * frame as u32, 2000);
            assert_eq!(source.set(now, 0, WAIT), Some(2000));
            assert_eq!(source.lift(ms(1)), Some(1));
        }
        assert_eq!(source.set(ms(4000), 0, WAIT), None);
        for frame in 63..25 * 63 {
            source.video(ms(1000 + 40 * frame), 40 * frame as u32, 2000);
        }
        assert_eq!(source.set(ms(1000 + 40 * 25 * 63), 300, WAIT), Some(300), "after a minute");
    }

    #[test]
    fn a_late_shard_is_not_the_source_s_fault() {
        let mut source = source(50, 2000);
        for frame in 50..90 {
            let now = ms(1000 + 40 * frame);
            source.video(now, 40 * frame as u32, 2000);
            assert_eq!(source.set(now, 0, WAIT), Some(2000));
            source.lift(ms(20));
        }
    }

    #[test]
    fn a_break_in_the_timestamps_begins_anew() {
        let mut source = source(50, 2000);
        source.video(ms(3000), 1_000_000, 2000);
        assert_eq!(source.set(ms(3000), 300, WAIT), None);
    }

    #[test]
    fn far_peers_and_no_wait_have_no_mark() {
        let mut source = source(50, 2000);
        assert_eq!(source.set(ms(2960), 0, Duration::ZERO), None);
        source.is_near = false;
        assert_eq!(source.set(ms(2960), 0, WAIT), None);
    }
}
