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
    for (track, wall_ms) in [(VIDEO, 1000), (AUDIO, 1000), (AUDIO, 1300), (VIDEO, 1000)] {
        bench.report(track, 0, wall_ms);
    }
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
    bench.report(VIDEO, 0, 1000);
    bench.report(AUDIO, 0, 1000);
    bench.report(AUDIO, 0, 1019);
    assert_eq!(bench.map(AUDIO, 48_000, 1000), 1000);
    // Each track has another wall clock.
    bench.report(AUDIO, 48_000, 900_000_000);
    assert_eq!(bench.map(AUDIO, 96_000, 2000), 2000);
    // The timestamp is none of the track's.
    bench.report(AUDIO, 1 << 31, 3000);
    assert_eq!(bench.clock.ignored_reports(), 2);
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
    assert_eq!(bench.map(AUDIO, 96_000, 2000), 2015);
}
