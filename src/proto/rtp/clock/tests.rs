//! Tracks that join, drift, jump and are reported on.

use super::*;
use crate::proto::rtp::rtcp::NtpTime;

const VIDEO: usize = 0;
const AUDIO: usize = 1;
const MS: i64 = 1_000_000;

struct Bench {
    clock: StreamClock,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { clock: StreamClock::new(&[90_000, 48_000]), start: crate::clock::now() }
    }

    /// The place in ms of a packet that arrives `at_ms` after the start.
    fn map(&mut self, track: usize, timestamp: u32, at_ms: u64) -> i64 {
        let arrival = self.start + Duration::from_millis(at_ms);
        let position_ns = self.clock.map(track, timestamp, arrival).position_ns;
        (position_ns + MS / 2).div_euclid(MS)
    }

    fn report(&mut self, track: usize, timestamp: u32, wall_ms: u64) {
        let (seconds, rest) = (1_700_000_000 + wall_ms / 1000, wall_ms % 1000);
        let ntp = NtpTime::from_unix(seconds, rest as u32 * 1_000_000);
        let (packet_count, octet_count) = (0, 0);
        let report =
            SenderReport { ssrc: 1, ntp, rtp_timestamp: timestamp, packet_count, octet_count };
        self.clock.on_sender_report(track, &report);
    }

    /// Reports on the moment `at_s` after both tracks' timestamp 0; those of audio say that it was
    /// `off_ms` later.
    fn report_both(&mut self, at_s: u32, off_ms: i64) {
        let wall_ms = 10_000 + u64::from(at_s) * 1000;
        self.report(VIDEO, at_s * 90_000, wall_ms);
        self.report(AUDIO, at_s * 48_000, wall_ms.saturating_add_signed(off_ms));
    }
}

#[test]
fn reference_is_exact_over_the_wrap() {
    let mut bench = Bench::new();
    let first = u32::MAX - 3599;
    assert_eq!(bench.map(VIDEO, first, 0), 0);
    assert_eq!(bench.map(VIDEO, 0, 40), 40);
    assert_eq!(bench.map(VIDEO, 7200, 77), 120);
    // A B-frame steps back.
    assert_eq!(bench.map(VIDEO, 3600, 120), 80);
    let stamp = bench.clock.map(VIDEO, 10_800, bench.start);
    assert_eq!(stamp.ticks, (1 << 32) + 10_800);
    assert_eq!(bench.clock.position(VIDEO, stamp.ticks - 3600), 120 * MS);
}

/// ONVIF's metadata: its first packet comes first, it has no sender reports, or rare ones.
#[test]
fn what_goes_beside_is_no_reference() {
    const METADATA: usize = 2;
    for is_reported in [false, true] {
        let clock = StreamClock::new(&[90_000, 48_000, 90_000]).led_by(&[VIDEO, AUDIO]);
        let mut bench = Bench { clock, start: crate::clock::now() };
        assert_eq!(bench.map(METADATA, 7, 0), 0);
        assert_eq!(bench.map(AUDIO, 0, 40), 40);
        // 300 ms late.
        assert_eq!(bench.map(VIDEO, 0, 340), 340);
        for second in 0..60_u32 {
            let at_ms = 1000 * u64::from(second) + 500;
            if is_reported && second == 0 {
                bench.report(METADATA, 7, 9900);
            }
            bench.report_both(second, 0);
            bench.map(AUDIO, second * 48_000 + 24_000, at_ms + 40);
            let place = bench.map(VIDEO, second * 90_000 + 45_000, at_ms + 340);
            let expected = 540 + 1000 * i64::from(second);
            assert!(second == 0 || place == expected, "{place} after {second} s");
        }
        // By its own report it begins 100 ms before the other two.
        let begins_ms = if is_reported { -60 } else { 0 };
        assert_eq!(bench.map(METADATA, 7 + 60 * 90_000, 60_300), 60_000 + begins_ms);
        assert_eq!(bench.clock.ignored_reports(), 0);
    }
}

#[test]
fn days_go_by() {
    let mut bench = Bench::new();
    let mut at_ms = 0;
    let mut place = bench.map(VIDEO, 5, 0);
    // 25 hours in steps of 5 s are twice around.
    for step in 1..=18_000_u64 {
        at_ms += 5000;
        place = bench.map(VIDEO, (5 + step * 450_000) as u32, at_ms);
    }
    assert_eq!(place, 90_000_000);
}

#[test]
fn track_without_reports_joins_by_arrival() {
    let mut bench = Bench::new();
    bench.map(VIDEO, 1000, 0);
    assert_eq!(bench.map(AUDIO, 77, 130), 130);
    assert_eq!(bench.map(AUDIO, 77 + 960, 500), 150);
}

#[test]
fn track_with_reports_joins_by_the_wall_clock() {
    let mut bench = Bench::new();
    bench.report(VIDEO, 90_000, 5000);
    bench.report(AUDIO, 48_000, 5500);
    bench.map(VIDEO, 90_000, 0);
    // Recorded 200 ms before the first picture, whenever it comes.
    assert_eq!(bench.map(AUDIO, 48_000 - 33_600, 1900), -200);
    assert_eq!(bench.map(AUDIO, 48_000, 1900), 500);
}

/// Sound that a camera sends late, behind a video that began at once.
#[test]
fn track_that_lies_far_before_its_arrival_goes_back_from_near_it() {
    for (late_ms, off_ms) in [(0, 2000), (0, 5000), (0, 30_000), (10_000, 12_000)] {
        let mut bench = Bench::new();
        bench.report(VIDEO, 0, 40_000);
        bench.report(AUDIO, 0, 40_000 - off_ms);
        bench.map(VIDEO, 0, 0);
        let places =
            (0..500).map(|tenth| bench.map(AUDIO, tenth * 4800, late_ms + u64::from(tenth) * 100));
        let places: Vec<i64> = places.collect();
        let begins_ms = (-off_ms.cast_signed()).max(late_ms.cast_signed() - 2500);
        assert_eq!(places[0], begins_ms, "{off_ms}");
        assert_eq!(places[499], 49_900 - off_ms.cast_signed(), "{off_ms}");
        assert!(places.is_sorted_by(|a, b| a + 24 < *b), "{places:?}");
        // Another pair that says the same moves nothing.
        bench.map(VIDEO, 50 * 90_000, 50_000);
        bench.report(VIDEO, 50 * 90_000, 90_000);
        bench.report(AUDIO, 50 * 48_000, 90_000 - off_ms);
        assert_eq!(bench.map(AUDIO, 51 * 48_000, 51_000 + late_ms), 51_000 - off_ms.cast_signed());
        assert_eq!(bench.clock.ignored_reports(), 0);
    }
}

#[test]
fn track_with_announced_start_joins_by_it() {
    let mut bench = Bench::new();
    bench.clock.announce(VIDEO, 90_000);
    bench.clock.announce(AUDIO, 10);
    bench.map(VIDEO, 99_000, 0);
    // 100 ms after the start is position 0.
    assert_eq!(bench.map(AUDIO, 10 + 2400, 700), -50);
    // An announcement that has nothing to do with the media is not believed.
    let mut bench = Bench::new();
    bench.clock.announce(VIDEO, 0);
    bench.clock.announce(AUDIO, 0);
    bench.map(VIDEO, 99_000_000, 0);
    assert_eq!(bench.map(AUDIO, 10, 700), 700);
}

#[test]
fn late_report_moves_a_track_ahead_at_once() {
    let mut bench = Bench::new();
    bench.map(VIDEO, 0, 0);
    assert_eq!(bench.map(AUDIO, 48_000, 1000), 1000);
    bench.report(VIDEO, 0, 1000);
    bench.report(AUDIO, 0, 1300);
    assert_eq!(bench.map(AUDIO, 48_960, 1020), 1320);
    assert!(bench.clock.map(AUDIO, 48_960, bench.start).is_settled);
    // What belongs before it keeps its place.
    assert_eq!(bench.map(AUDIO, 47_040, 1030), 980);
    // The reference has not moved.
    assert_eq!(bench.map(VIDEO, 90_000, 1000), 1000);
}

#[test]
fn first_pair_of_reports_that_is_far_off_is_undone_in_haste() {
    let mut bench = Bench::new();
    bench.map(VIDEO, 0, 0);
    let mut places = Vec::new();
    for tenth in 0..140 {
        if tenth % 50 == 1 {
            // The wall clock was set between the first two.
            bench.report_both(tenth / 10, if tenth == 1 { 2000 } else { 0 });
        }
        places.push(bench.map(AUDIO, tenth * 4800, u64::from(tenth) * 100));
    }
    assert_eq!((places[50], places[100], places[139]), (7000, 12_000, 13_900));
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
}

#[test]
fn late_report_moves_a_track_back_within_a_second_and_never_steps_back() {
    let mut bench = Bench::new();
    bench.map(AUDIO, 0, 0);
    bench.map(VIDEO, 0, 600);
    bench.report(VIDEO, 0, 1000);
    bench.report(AUDIO, 0, 1000);
    // Audio is the reference here; video, which came later, is moved. P, B, b, b.
    let (mut shown, mut previous) = (vec![(0, 600)], 0);
    for group in 0..6 {
        for frame in [4, 2, 1, 3].map(|frame| 4 * group + frame) {
            let place = bench.map(VIDEO, frame * 3600, 600 + u64::from(frame) * 40);
            shown.push((frame, place));
            previous = place;
        }
    }
    shown.sort_unstable();
    assert!(shown.is_sorted_by(|a, b| a.1 + 9 <= b.1), "{shown:?}");
    assert_eq!(shown[20..].iter().map(|of| of.1).collect::<Vec<_>>(), [800, 840, 880, 920, 960]);
    assert_eq!(previous, 920);
}

#[test]
fn later_reports_move_a_track_slowly() {
    let mut bench = Bench::new();
    bench.map(VIDEO, 0, 0);
    bench.map(AUDIO, 0, 0);
    bench.report_both(0, 0);
    bench.report_both(0, 300);
    bench.report_both(0, 300);
    let mut previous = 0;
    for packet in 1..400 {
        let place = bench.map(AUDIO, packet * 960, u64::from(packet) * 20);
        assert!((19..=22).contains(&(place - previous)), "{packet}");
        previous = place;
    }
    assert_eq!(previous, 399 * 20 + 300);
}

#[test]
fn wobble_and_nonsense_are_not_followed() {
    let mut bench = Bench::new();
    bench.map(VIDEO, 0, 0);
    bench.map(AUDIO, 0, 0);
    for off_ms in [0, 5, 4, 5] {
        bench.report_both(0, off_ms);
    }
    assert_eq!(bench.map(AUDIO, 48_000, 1000), 1000);
    // Each track has another wall clock.
    (0..3).for_each(|_| bench.report_both(0, 900_000_000));
    assert_eq!(bench.map(AUDIO, 96_000, 2000), 2000);
    // The timestamp is none of the track's.
    bench.report(AUDIO, 1 << 31, 3000);
    assert_eq!(bench.clock.ignored_reports(), 4);
    assert_eq!(bench.map(AUDIO, 144_000, 3000), 3000);
}

#[test]
fn wall_clock_that_is_set_moves_nothing() {
    let mut bench = Bench::new();
    bench.map(VIDEO, 0, 0);
    bench.map(AUDIO, 0, 0);
    bench.report(VIDEO, 0, 1000);
    bench.report(AUDIO, 0, 1000);
    // Two seconds back; video is reported on more often.
    bench.report(VIDEO, 90_000, 0);
    bench.report(VIDEO, 180_000, 1000);
    assert_eq!(bench.map(AUDIO, 48_000 * 3, 3000), 3000);
    bench.report(AUDIO, 48_000 * 3, 2000);
    assert_eq!(bench.map(AUDIO, 48_000 * 5, 5000), 5000);
    bench.report(VIDEO, 90_000 * 5, 4000);
    assert_eq!(bench.map(AUDIO, 48_000 * 9, 9000), 9000);
}

#[test]
fn first_report_of_a_track_that_was_put_by_arrival_is_exact() {
    let mut bench = Bench::new();
    bench.map(VIDEO, 0, 0);
    // Sent at the same moment as the picture, and 15 ms late.
    assert_eq!(bench.map(AUDIO, 0, 15), 15);
    bench.report(VIDEO, 0, 1000);
    bench.report(AUDIO, 0, 1000);
    bench.map(AUDIO, 24_000, 500);
    assert_eq!(bench.map(AUDIO, 48_000, 1000), 1000);
    // From now on it is wobble.
    bench.report(AUDIO, 48_000, 2012);
    bench.map(AUDIO, 96_000, 2000);
    assert_eq!(bench.map(AUDIO, 144_000, 3000), 3000);
}

#[test]
fn restarted_clock_goes_on_by_arrival() {
    let mut bench = Bench::new();
    bench.map(VIDEO, 0, 0);
    bench.map(VIDEO, 3600, 40);
    assert_eq!(bench.map(VIDEO, 3_000_000_000, 90), 90);
    assert_eq!(bench.map(VIDEO, 3_000_003_600, 120), 130);
    // A new source may begin near where the old one was.
    bench.clock.restart(VIDEO);
    assert_eq!(bench.map(VIDEO, 3_000_000_000, 1130), 1140);
    // Silence alone is no restart, nor is a stall.
    assert_eq!(bench.map(VIDEO, 3_000_000_000 + 90_000 * 60, 61_130), 61_140);
    assert_eq!(bench.map(VIDEO, 3_000_003_600 + 90_000 * 60, 99_000), 61_180);
}

#[test]
fn clock_that_is_set_back_goes_on_by_arrival() {
    let mut bench = Bench::new();
    for frame in 0..50 {
        bench.map(VIDEO, 900_000 + frame * 3600, u64::from(frame) * 40);
    }
    // By a little: that may be all tracks' common clock.
    assert_eq!(bench.map(VIDEO, 900_000 + 30 * 3600, 2000), 1200);
    assert_eq!(bench.map(VIDEO, 900_000 + 51 * 3600, 2040), 2040);
    // By 2 s and more.
    assert_eq!(bench.map(VIDEO, 900_000, 2080), 2080);
    assert_eq!(bench.map(VIDEO, 903_600, 2120), 2120);
}

#[test]
fn pictures_far_apart_may_be_sent_out_of_order() {
    let mut bench = Bench::new();
    // One a second.
    let sent = [0, 4, 2, 1, 3, 8, 6, 5, 7];
    let places = sent.map(|at: u32| bench.map(VIDEO, at * 90_000, u64::from(at) * 1000));
    assert_eq!(places, sent.map(|at| i64::from(at) * 1000));
}

#[test]
fn reference_that_restarts_is_told_by_the_next_reports() {
    let mut bench = Bench::new();
    bench.map(VIDEO, 0, 0);
    bench.map(AUDIO, 0, 0);
    bench.report(VIDEO, 0, 1000);
    bench.report(AUDIO, 0, 1000);
    // 15 ms late by the network.
    bench.clock.restart(VIDEO);
    assert_eq!(bench.map(VIDEO, 7_000_000, 1015), 1015);
    bench.report(VIDEO, 7_000_000, 2000);
    assert_eq!(bench.map(AUDIO, 96_000, 2000), 2000, "audio's report may be of another wall clock");
    bench.report(AUDIO, 96_000, 3000);
    assert_eq!(bench.map(AUDIO, 144_000, 3000), 3015);
}

#[test]
fn restart_with_a_wall_clock_that_is_set_moves_nothing() {
    for restarted in [VIDEO, AUDIO] {
        let mut bench = Bench::new();
        bench.map(VIDEO, 0, 0);
        bench.map(AUDIO, 0, 0);
        bench.report(VIDEO, 0, 1000);
        bench.report(AUDIO, 0, 1000);
        bench.map(VIDEO, 90_000, 1000);
        bench.map(AUDIO, 48_000, 1000);
        // Seven seconds ahead. The timestamps begin elsewhere.
        bench.clock.restart(restarted);
        let from = [[7_000_000, 48_960], [91_800, 7_000_000]][restarted];
        assert_eq!(bench.map(restarted, from[restarted], 1020), 1020);
        bench.report(restarted, from[restarted], 9020);
        let other = 1 - restarted;
        assert_eq!(bench.map(other, from[other], 1020), 1020);
        bench.report(other, from[other], 9020);
        assert_eq!(bench.map(VIDEO, from[VIDEO] + 90_000, 2020), 2020);
        assert_eq!(bench.map(AUDIO, from[AUDIO] + 48_000, 2020), 2020);
    }
}

#[test]
fn clocks_that_drift_stay_within_10_ms() {
    for (rate, report_each_s) in [(48_009.6, 1), (48_009.6, 5), (47_990.4, 5)] {
        let mut bench = Bench::new();
        let (mut previous, mut off_max) = (-1, 0);
        for at_ms in (0..3_600_000_u32).step_by(20) {
            // 200 ppm.
            let timestamp = (f64::from(at_ms) * rate / 1000.0) as u32;
            if at_ms % 40 == 0 {
                bench.map(VIDEO, at_ms * 90, u64::from(at_ms));
            }
            let place = bench.map(AUDIO, timestamp, u64::from(at_ms));
            assert!(place > previous, "{at_ms}");
            previous = place;
            off_max = off_max.max((place - i64::from(at_ms)).abs());
            if at_ms % (report_each_s * 1000) == 0 {
                bench.report(VIDEO, at_ms * 90, u64::from(at_ms) + 10_000);
                bench.report(AUDIO, timestamp, u64::from(at_ms) + 10_000);
            }
        }
        assert!(off_max < 10, "{off_max} ms with a report each {report_each_s} s");
    }
}

#[test]
fn first_report_that_was_wrong_is_corrected() {
    for wrong_ms in [-15, 15] {
        let mut bench = Bench::new();
        bench.map(VIDEO, 0, 0);
        bench.map(AUDIO, 0, 0);
        let mut places = Vec::new();
        for (second, off_ms) in (1..6).zip([wrong_ms, 0, 0, 0, 0]) {
            for packet in 0..50 {
                let at_ms = 1000 * second + 20 * packet;
                places.push((at_ms, bench.map(AUDIO, at_ms * 48, u64::from(at_ms))));
            }
            bench.report_both(second, off_ms);
        }
        assert!(places.is_sorted_by(|a, b| a.1 < b.1));
        let off_at = |second: usize| places[50 * second].1 - i64::from(places[50 * second].0);
        assert_eq!([0, 2, 4].map(off_at), [0, wrong_ms, 0]);
    }
}

#[test]
fn report_that_wobbles_moves_nothing() {
    for wobbling in [VIDEO, AUDIO] {
        let mut bench = Bench::new();
        bench.map(VIDEO, 0, 0);
        bench.map(AUDIO, 0, 0);
        for (second, off_ms) in (1..).zip([0, 15, 0, 0, -15, 1, -1, 15, -15, 0, 3, 15, 0]) {
            let (timestamps, wall_ms) = ([second * 90_000, second * 48_000], second * 1000);
            let wall_ms = 10_000 + u64::from(wall_ms);
            // The other one is reported on more often.
            bench.report(wobbling, timestamps[wobbling], wall_ms.saturating_add_signed(off_ms));
            (0..4).for_each(|_| bench.report(1 - wobbling, timestamps[1 - wobbling], wall_ms));
            let places = [VIDEO, AUDIO].map(|track| bench.map(track, timestamps[track], 0));
            assert_eq!(places, [i64::from(second) * 1000; 2], "{wobbling}");
        }
    }
}

#[test]
fn reports_at_any_time_leave_the_order_of_pictures() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::new();
        bench.map(AUDIO, 0, 0);
        let (mut shown, mut now_ms) = (Vec::new(), 0);
        for group in 0..100_u32 {
            // P, B, b, b.
            for frame in [4, 2, 1, 3].map(|frame| 4 * group + frame) {
                now_ms += 40;
                let timestamp = frame * 3600;
                let arrival = bench.start + Duration::from_millis(now_ms);
                shown.push((timestamp, bench.clock.map(VIDEO, timestamp, arrival).position_ns));
                if random.u32(..4) == 0 {
                    let wall_ms = 10_000 + u64::from(frame) * 40;
                    bench.report(VIDEO, timestamp, wall_ms + random.u64(..2000));
                    bench.report(AUDIO, frame * 1920, wall_ms + 1000);
                }
            }
        }
        shown.sort_unstable();
        let is_in_order = shown.is_sorted_by(|a, b| a.1 + 9 * MS <= b.1);
        assert!(is_in_order, "seed {seed}");
    }
}
