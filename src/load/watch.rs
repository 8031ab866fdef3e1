//! What one player sees of its stream, frame by frame.
//!
//! **Lateness** of a video frame: its arrival less its timestamp, less the least such difference
//! of this player before the window (the frame that came soonest is the one on time). Frames of the
//! GOP that a player starts with are old when they come: they are late, never early, and do not
//! move the baseline. A frame of the window that came sooner than the baseline counts as on time.
//! Without a frame before the window there is no baseline, and no lateness: the first frame of a
//! burst is none to measure others by. Frames that have not come when the player or the window ends,
//! more than 2.5 intervals after the last one, are recorded as late by then, and with the delay that
//! they have by then where they are stamped; those that were due before the window are not.
//!
//! **Gap**: between two video frames, corrected for what it hid ([`Spread::record_corrected_ns`]).
//! Of a silence that began before the window counts what lies in it. Those within the GOP that a
//! player starts with are none.
//!
//! **Missing**: frames whose number in the stamp was passed over; without stamps, a step of the
//! timestamps of more than 1.5 intervals is as many frames as intervals fit in, less one.
//!
//! **Stalled**: time that the last video frame is older than 200 ms, or 2.5 intervals if that is
//! longer.

use hdrhistogram::Histogram;

use super::figures::Spread;
use super::scan::TagSeen;
use super::stamp::Stamp;
use crate::media::timeline::distance;
use crate::media::{Codec, TagKind};
use crate::proto::flv::classify::classify;

/// What the measured players of one thread saw together.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) gap: Spread,
    pub(super) lateness: Spread,
    /// From when a frame was due at our publisher to its arrival.
    pub(super) delay: Spread,
}

impl Figures {
    pub(super) fn add(&mut self, other: &Self) {
        self.gap.add(&other.gap);
        self.lateness.add(&other.lateness);
        self.delay.add(&other.delay);
    }
}

/// One player's view.
#[derive(Debug, Default)]
pub(super) struct Watch {
    last: Option<Frame>,
    /// Least arrival less timestamp, ns.
    baseline_ns: Option<i64>,
    interval: Interval,
    window: Option<Window>,
    /// Its frames come as they are made: the burst that it started with is over.
    is_live: bool,
    pub(super) counts: Counts,
    pub(super) has_keyframe: bool,
}

/// What is counted for all of a player's life.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) frames: u64,
    pub(super) missing: u64,
    /// Frames that came again or in the wrong order.
    pub(super) misplaced: u64,
    pub(super) stamped: u64,
    pub(super) bytes: u64,
    /// Of RTP: packets in their order, numbers passed over, packets out of order or again.
    pub(super) packets: u64,
    pub(super) missing_packets: u64,
    pub(super) misplaced_packets: u64,
    /// Datagrams that our own sockets had no room for.
    pub(super) dropped_packets: u64,
}

/// The video frame that came last.
#[derive(Debug, Clone, Copy)]
struct Frame {
    arrived_ns: u64,
    timestamp_ms: u32,
    /// Since the player's first frame.
    at_ms: i64,
    stamp: Option<Stamp>,
}

/// What is measured from the end of the warm-up on.
#[derive(Debug)]
struct Window {
    start_ns: u64,
    at_start: Counts,
    /// Two digits are enough to find the player that starves; 3 KB each.
    lateness: Histogram<u32>,
    stalls: Stalls,
}

/// Time without a new video frame.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stalls {
    /// Times that the last frame became older than 200 ms, and than 1 s.
    pub(super) count: u64,
    pub(super) long_count: u64,
    /// For how long, beyond these ages.
    pub(super) ns: u64,
    pub(super) long_ns: u64,
}

/// A video frame that has come to its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Picture {
    /// Of decoding; wraps.
    pub(super) timestamp_ms: u32,
    pub(super) keyframe: bool,
    pub(super) stamp: Option<Stamp>,
}

/// What one player saw in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) counts: Counts,
    pub(super) missing_before: u64,
    pub(super) stalls: Stalls,
    pub(super) watched_ns: u64,
    /// How old the last frame was at the end, if that was more than half a second.
    pub(super) silent_ns: Option<u64>,
    /// None of a player that had no frame before the window.
    pub(super) lateness_p99_us: Option<u64>,
}

impl Watch {
    /// From here on frames are measured.
    pub(super) fn begin_window(&mut self, start_ns: u64) {
        let lateness = Histogram::new_with_bounds(1, 60_000_000, 1).expect("bounds that fit");
        let (at_start, stalls) = (self.counts, Stalls::default());
        self.window = Some(Window { start_ns, at_start, lateness, stalls });
    }

    /// Takes a tag that was complete at `arrived_ns`.
    pub(super) fn on_tag(&mut self, tag: TagSeen<'_>, arrived_ns: u64, figures: &mut Figures) {
        if tag.kind != TagKind::Video {
            return;
        }
        let Some(class) = classify(TagKind::Video, tag.head) else { return };
        if class.config || class.end_of_sequence {
            return;
        }
        let stamp = match class.codec {
            Codec::H264 => Stamp::find(&tag.head[class.header_len..]),
            _ => None,
        };
        let (timestamp_ms, keyframe) = (tag.timestamp_ms, class.keyframe);
        self.on_picture(Picture { timestamp_ms, keyframe, stamp }, arrived_ns, figures);
    }

    /// Takes a video frame that was complete at `arrived_ns`.
    pub(super) fn on_picture(&mut self, picture: Picture, arrived_ns: u64, figures: &mut Figures) {
        self.has_keyframe |= picture.keyframe;
        self.on_frame(picture.timestamp_ms, picture.stamp, arrived_ns, figures);
    }

    fn on_frame(
        &mut self,
        timestamp_ms: u32,
        stamp: Option<Stamp>,
        arrived_ns: u64,
        figures: &mut Figures,
    ) {
        let step_ms = self.last.map(|last| distance(last.timestamp_ms, timestamp_ms));
        let frame = Frame {
            arrived_ns,
            timestamp_ms,
            at_ms: self.last.map_or(0, |last| last.at_ms) + step_ms.unwrap_or(0),
            stamp,
        };
        self.counts.frames += 1;
        self.counts.stamped += u64::from(stamp.is_some());
        if let (Some(last), Some(step_ms)) = (self.last, step_ms) {
            self.check_order(&last, &frame, step_ms);
            self.interval.note(step_ms);
            self.is_live |= arrived_ns.saturating_sub(last.arrived_ns) >= self.interval.ns() / 2;
        }
        if self.window.is_some() {
            self.measure(&frame, figures);
        } else {
            let offset_ns = frame.offset_ns();
            self.baseline_ns =
                Some(self.baseline_ns.map_or(offset_ns, |known| known.min(offset_ns)));
        }
        self.last = Some(frame);
    }

    fn check_order(&mut self, last: &Frame, frame: &Frame, step_ms: i64) {
        let skipped = match (last.stamp, frame.stamp) {
            (Some(before), Some(now)) => distance(before.sequence, now.sequence) - 1,
            _ if step_ms < 0 => -1,
            _ => self.interval.skipped(step_ms),
        };
        match u64::try_from(skipped) {
            Ok(missing) => self.counts.missing += missing,
            Err(_) => self.counts.misplaced += 1,
        }
    }

    fn measure(&mut self, frame: &Frame, figures: &mut Figures) {
        let Some(window) = &mut self.window else { return };
        if let Some(baseline_ns) = self.baseline_ns {
            let late_ns = u64::try_from(frame.offset_ns() - baseline_ns).unwrap_or(0);
            figures.lateness.record_ns(late_ns);
            window.lateness.saturating_record((late_ns / 1000).max(1));
        }
        if let Some(stamp) = frame.stamp {
            figures.delay.record_ns(frame.arrived_ns.saturating_sub(stamp.due_ns));
        }
        if let Some(last) = self.last {
            if self.is_live {
                let gap_ns = window.gap_ns(&last, frame.arrived_ns, &self.interval);
                figures.gap.record_corrected_ns(gap_ns, self.interval.ns());
            }
            let from_ns = last.arrived_ns.max(window.start_ns);
            let age_ns = frame.arrived_ns.saturating_sub(from_ns);
            window.stalls.add(age_ns, self.interval.ns());
        }
    }

    /// Ends the measurement; what was seen in the window, if it had begun.
    pub(super) fn finish(&mut self, end_ns: u64, figures: &mut Figures) -> Option<Seen> {
        let mut window = self.window.take()?;
        let interval_ns = self.interval.ns();
        let last_ns = self.last.map_or(window.start_ns, |last| last.arrived_ns);
        let age_ns = end_ns.saturating_sub(last_ns.max(window.start_ns));
        window.stalls.add(age_ns, interval_ns);
        if age_ns > self.interval.overdue_ns() {
            figures.gap.record_corrected_ns(age_ns, interval_ns);
            self.record_overdue(end_ns, &mut window, figures);
        }
        let lateness_p99_us = self.baseline_ns.map(|_| window.lateness.value_at_percentile(99.0));
        Some(Seen {
            counts: self.counts.since(&window.at_start),
            missing_before: window.at_start.missing,
            stalls: window.stalls,
            watched_ns: end_ns.saturating_sub(window.start_ns),
            silent_ns: (self.last.is_some() && age_ns > SILENT_NS.max(self.interval.overdue_ns()))
                .then_some(age_ns),
            lateness_p99_us,
        })
    }

    /// Records the frames that were to come in the window after the last one.
    fn record_overdue(&self, end_ns: u64, window: &mut Window, figures: &mut Figures) {
        let Some(last) = self.last else { return };
        let interval_ns = self.interval.ns();
        // When the last one was to come; as it came, where nothing else is known.
        let last_due_ns = match self.baseline_ns {
            Some(baseline_ns) => baseline_ns + last.at_ms * 1_000_000,
            None => last.arrived_ns as i64,
        };
        for after_ns in (1..).map(|number| number * interval_ns) {
            let due_ns = last_due_ns + after_ns as i64;
            let Ok(late_ns) = u64::try_from(end_ns as i64 - due_ns) else { return };
            if due_ns < window.start_ns as i64 {
                continue;
            }
            if self.baseline_ns.is_some() {
                figures.lateness.record_ns(late_ns);
                window.lateness.saturating_record((late_ns / 1000).max(1));
            }
            if let Some(stamp) = last.stamp {
                figures.delay.record_ns(end_ns.saturating_sub(stamp.due_ns + after_ns));
            }
        }
    }
}

impl Window {
    /// Between a frame and the one that comes at `arrived_ns`. What was silent before the window is
    /// not seen in it.
    fn gap_ns(&self, last: &Frame, arrived_ns: u64, interval: &Interval) -> u64 {
        let gap_ns = arrived_ns.saturating_sub(last.arrived_ns);
        if gap_ns > interval.overdue_ns() {
            gap_ns.min(arrived_ns.saturating_sub(self.start_ns))
        } else {
            gap_ns
        }
    }
}

impl Frame {
    fn offset_ns(&self) -> i64 {
        self.arrived_ns as i64 - self.at_ms * 1_000_000
    }
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.missing += other.missing;
        self.misplaced += other.misplaced;
        self.stamped += other.stamped;
        self.bytes += other.bytes;
        self.packets += other.packets;
        self.missing_packets += other.missing_packets;
        self.misplaced_packets += other.misplaced_packets;
        self.dropped_packets += other.dropped_packets;
    }

    /// What was counted since `start`.
    pub(super) fn since(&self, start: &Self) -> Self {
        Self {
            frames: self.frames - start.frames,
            missing: self.missing - start.missing,
            misplaced: self.misplaced - start.misplaced,
            stamped: self.stamped - start.stamped,
            bytes: self.bytes - start.bytes,
            packets: self.packets - start.packets,
            missing_packets: self.missing_packets - start.missing_packets,
            misplaced_packets: self.misplaced_packets - start.misplaced_packets,
            dropped_packets: self.dropped_packets - start.dropped_packets,
        }
    }
}

impl Stalls {
    fn add(&mut self, age_ns: u64, interval_ns: u64) {
        let threshold_ns = STALL_NS.max(interval_ns * 5 / 2);
        if age_ns > threshold_ns {
            self.count += 1;
            self.ns += age_ns - threshold_ns;
        }
        if age_ns > LONG_STALL_NS.max(threshold_ns) {
            self.long_count += 1;
            self.long_ns += age_ns - LONG_STALL_NS.max(threshold_ns);
        }
    }
}

/// The time between two video frames of the stream: the median of the first steps.
#[derive(Debug, Default)]
struct Interval {
    steps_ms: Vec<u16>,
    median_ms: Option<u16>,
}

impl Interval {
    fn note(&mut self, step_ms: i64) {
        if self.steps_ms.len() == STEPS {
            return;
        }
        if let Ok(step_ms) = u16::try_from(step_ms)
            && step_ms > 0
        {
            self.steps_ms.push(step_ms);
            if self.steps_ms.len() >= STEPS_MIN {
                let mut sorted = self.steps_ms.clone();
                sorted.sort_unstable();
                self.median_ms = Some(sorted[sorted.len() / 2]);
            }
        }
    }

    /// 40 ms as long as it is not known.
    fn ns(&self) -> u64 {
        u64::from(self.median_ms.unwrap_or(40)) * 1_000_000
    }

    /// Age of the last frame from which on the next one is overdue.
    fn overdue_ns(&self) -> u64 {
        self.ns() * 5 / 2
    }

    /// Frames that a step of the timestamps passes over.
    fn skipped(&self, step_ms: i64) -> i64 {
        let Some(median_ms) = self.median_ms.map(i64::from) else { return 0 };
        if step_ms * 2 <= median_ms * 3 { 0 } else { (step_ms + median_ms / 2) / median_ms - 1 }
    }
}

const STALL_NS: u64 = 200_000_000;
const LONG_STALL_NS: u64 = 1_000_000_000;

/// Age of the last frame at the end that is longer than the longest merging of a server (350 ms).
const SILENT_NS: u64 = 500_000_000;

/// Steps whose median is taken, and how many of them say something.
const STEPS: usize = 25;
const STEPS_MIN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A player that gets frames of 40 ms.
    struct Player {
        watch: Watch,
        figures: Figures,
    }

    impl Player {
        fn new() -> Self {
            Self { watch: Watch::default(), figures: Figures::default() }
        }

        fn frame(&mut self, timestamp_ms: u32, arrived_ms: u64) {
            self.watch.on_frame(timestamp_ms, None, arrived_ms * MS, &mut self.figures);
        }

        fn stamped(&mut self, sequence: u32, arrived_ms: u64) {
            let stamp = Stamp { sequence, due_ns: u64::from(sequence) * 40 * MS };
            let timestamp_ms = sequence.wrapping_mul(40);
            self.watch.on_frame(timestamp_ms, Some(stamp), arrived_ms * MS, &mut self.figures);
        }

        /// Frames `from` to `to`, each 5 ms after its timestamp.
        fn on_time(&mut self, from: u32, to: u32) {
            for index in from..to {
                self.frame(index * 40, u64::from(index) * 40 + 5);
            }
        }

        fn finish(&mut self, end_ms: u64) -> Seen {
            self.watch.finish(end_ms * MS, &mut self.figures).expect("the window had begun")
        }
    }

    fn about(spread: &Spread, percentile: f64, ms: f64) -> bool {
        (spread.percentile_ms(percentile) - ms).abs() <= ms / 500.0 + 0.001
    }

    #[test]
    fn burst_at_the_start_does_not_move_the_baseline() {
        let mut player = Player::new();
        // A GOP of 2 s comes at once when the newest frame is just due.
        (0..50).for_each(|index| player.frame(index * 40, 1965));
        player.on_time(50, 100);
        player.watch.begin_window(4000 * MS);
        player.on_time(100, 125);
        let seen = player.finish(5000);
        assert_eq!((seen.counts.frames, seen.counts.missing), (25, 0));
        assert!(about(&player.figures.lateness, 100.0, 0.001));
        assert_eq!(seen.stalls, Stalls::default());
    }

    #[test]
    fn held_back_frame_is_late_by_that_much() {
        let mut player = Player::new();
        player.on_time(0, 50);
        player.watch.begin_window(2000 * MS);
        player.on_time(50, 60);
        player.frame(2400, 2400 + 5 + 300);
        (61..68).for_each(|index| player.frame(index * 40, 2705));
        player.on_time(68, 100);
        let seen = player.finish(4000);
        assert!(about(&player.figures.lateness, 100.0, 300.0));
        assert!(about(&player.figures.lateness, 50.0, 0.001));
        // 340 ms since the frame before: 300, 260 ... 60 were hidden in it.
        assert!(about(&player.figures.gap, 100.0, 340.0));
        assert_eq!((seen.stalls.count, seen.stalls.long_count), (1, 0));
        assert_eq!(seen.stalls.ns, 140 * MS);
    }

    #[test]
    fn frame_before_the_baseline_is_on_time() {
        let mut player = Player::new();
        player.on_time(0, 50);
        player.watch.begin_window(2000 * MS);
        player.frame(2000, 2001);
        player.finish(2010);
        assert!(about(&player.figures.lateness, 100.0, 0.001));
    }

    #[test]
    fn frames_that_never_came_are_late_all_the_same() {
        let mut player = Player::new();
        player.on_time(0, 100);
        player.watch.begin_window(4000 * MS);
        player.on_time(100, 150);
        let seen = player.finish(6000 - 40 + 5 + 2000);
        assert_eq!(player.figures.lateness.summary().expect("recorded").count, 50 + 50);
        assert!(about(&player.figures.lateness, 100.0, 1960.0));
        assert!(about(&player.figures.gap, 100.0, 2000.0));
        assert_eq!((seen.stalls.count, seen.stalls.long_count), (1, 1));
        assert_eq!((seen.stalls.ns, seen.stalls.long_ns), (1800 * MS, 1000 * MS));
    }

    #[test]
    fn short_silence_at_the_end_is_overdue_from_two_and_a_half_intervals_on() {
        for (silence_ms, overdue) in [(100, 0), (101, 2), (900, 22)] {
            let mut player = Player::new();
            player.on_time(0, 100);
            player.watch.begin_window(4000 * MS);
            player.on_time(100, 150);
            player.finish(5965 + silence_ms);
            let count = player.figures.lateness.summary().expect("recorded").count;
            assert_eq!(count, 50 + overdue, "{silence_ms}");
        }
    }

    #[test]
    fn missing_frames_are_told_by_their_numbers() {
        let mut player = Player::new();
        (0..10).for_each(|number| player.stamped(number, 0));
        player.watch.begin_window(0);
        [10, 13, 14, 14, 12].into_iter().for_each(|number| player.stamped(number, 600));
        let seen = player.finish(600);
        assert_eq!((seen.counts.missing, seen.counts.misplaced), (2, 2));
        assert_eq!((seen.counts.stamped, seen.missing_before), (5, 0));
        assert!(about(&player.figures.delay, 100.0, 200.0));
        // The number wraps as the timestamp does.
        let mut player = Player::new();
        player.stamped(u32::MAX, 0);
        player.stamped(0, 40);
        assert_eq!((player.watch.counts.missing, player.watch.counts.misplaced), (0, 0));
    }

    #[test]
    fn missing_frames_are_told_by_steps_without_numbers() {
        let mut player = Player::new();
        player.on_time(0, 30);
        for (step, missing) in [(40, 0), (59, 0), (61, 1), (80, 1), (120, 2), (1240, 30)] {
            let last = player.watch.last.expect("frames came").timestamp_ms;
            let before = player.watch.counts.missing;
            player.frame(last + step, 0);
            assert_eq!(player.watch.counts.missing - before, missing, "{step}");
        }
        player.frame(0, 0);
        assert_eq!(player.watch.counts.misplaced, 1);
    }

    #[test]
    fn stall_of_a_slow_stream_is_measured_against_its_interval() {
        let mut stalls = Stalls::default();
        stalls.add(400 * MS, 200 * MS);
        assert_eq!(stalls, Stalls::default());
        stalls.add(400 * MS, 40 * MS);
        assert_eq!((stalls.count, stalls.ns), (1, 200 * MS));
    }

    #[test]
    fn player_without_a_frame_before_the_window_has_no_lateness() {
        let mut player = Player::new();
        player.watch.begin_window(0);
        player.frame(0, 500);
        player.frame(40, 550);
        let seen = player.finish(2000);
        assert_eq!((seen.counts.frames, seen.lateness_p99_us), (2, None));
        assert!(player.figures.lateness.is_empty());
        assert!(!player.figures.gap.is_empty());
    }

    #[test]
    fn frames_that_never_came_have_a_delay_all_the_same() {
        let mut player = Player::new();
        // Each comes 200 ms after it was due.
        let on_time = |player: &mut Player, numbers: std::ops::Range<u32>| {
            numbers.for_each(|number| player.stamped(number, u64::from(number) * 40 + 200));
        };
        on_time(&mut player, 0..100);
        player.watch.begin_window(4160 * MS);
        on_time(&mut player, 100..150);
        // The last one came at 6160 ms; a silence of 2 s hides 50, of 240 to 2200 ms.
        player.finish(8160);
        let (delay, lateness) = (&player.figures.delay, &player.figures.lateness);
        assert_eq!(delay.summary().expect("recorded").count, 50 + 50);
        assert_eq!(lateness.summary().expect("recorded").count, 50 + 50);
        assert!(about(delay, 100.0, 2160.0) && about(lateness, 100.0, 1960.0), "{delay:?}");
        assert!(about(delay, 50.0, 200.0), "those that are not overdue yet have none");
    }

    #[test]
    fn silence_from_before_the_window_counts_from_its_start() {
        let mut player = Player::new();
        // The last one of 100 comes at 3965 ms, a second before the window.
        player.on_time(0, 100);
        player.watch.begin_window(4965 * MS);
        let seen = player.finish(6965);
        assert_eq!(player.figures.lateness.summary().expect("recorded").count, 51);
        assert!(about(&player.figures.gap, 100.0, 2000.0));
        assert_eq!(seen.silent_ns, Some(2000 * MS));
        let mut player = Player::new();
        player.on_time(0, 100);
        player.watch.begin_window(4965 * MS);
        player.frame(4000, 5965);
        assert!(about(&player.figures.gap, 100.0, 1000.0));
        assert_eq!(player.finish(5990).silent_ns, None);
    }

    #[test]
    fn burst_at_the_start_has_no_gaps() {
        let mut player = Player::new();
        player.watch.begin_window(0);
        (0..50).for_each(|index| player.frame(index * 40, 1965));
        assert!(player.figures.gap.is_empty());
        player.on_time(50, 60);
        assert_eq!(player.figures.gap.summary().expect("recorded").count, 10);
        assert!(about(&player.figures.gap, 0.0, 40.0));
    }
}
