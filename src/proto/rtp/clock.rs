//! The RTP clocks of a stream's tracks on one timeline (RFC 3550, 5.1 and 6.4.1).
//!
//! Each track counts ticks of its own rate from a random start, modulo 2^32. They are put on one
//! timeline, in nanoseconds, like this:
//!
//! 1. Timestamps are unwrapped to the nearest 64-bit count.
//! 2. The first track with media is the *reference*: its first packet is position 0, and it is
//!    never corrected.
//! 3. Another track joins by the first of these that is known and plausible: the NTP times in both
//!    tracks' sender reports; the starts in `RTP-Info`; the time of arrival.
//! 4. Later sender reports show by how much a track is off. The first that does, where none had told
//!    the track's place, is followed exactly, and in haste: ahead at once, back as fast as places
//!    can rise. After that, nothing is done within [`DEAD_BAND_NS`], because senders' reports wobble
//!    by that; beyond, the track is moved so slowly that nobody hears it. More than
//!    [`CORRECTION_NS_MAX`] is a wall clock that was set, or that each track has its own of: ignored.
//! 5. A timestamp that jumps by more than [`JUMP_NS`] while the arrivals do not is a source that
//!    restarted its clock, and so is one that steps back by more than [`STEP_BACK_NS_MAX`] behind all
//!    of the last pictures: the track goes on where arrival says, and its old report is forgotten.
//!
//! Positions before the reference's first packet are negative.

mod correction;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::proto::rtp::rtcp::SenderReport;
use correction::{Correction, Pace};

/// The clocks of one stream. Tracks are counted from 0.
#[derive(Debug)]
pub struct StreamClock {
    tracks: Vec<TrackClock>,
    /// Arrival of the reference's first packet, which is position 0.
    start: Option<Instant>,
    reference: usize,
    ignored_reports: u64,
}

/// A packet's place in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The timestamp, unwrapped.
    pub ticks: i64,
    /// Nanoseconds from the start of the stream.
    pub position_ns: i64,
    /// The track is not being moved: places that follow are as far from this one as timestamps say.
    pub is_settled: bool,
}

#[derive(Debug)]
struct TrackClock {
    rate: u32,
    anchor: Option<Anchor>,
    /// The highest count so far, and when the last packet came.
    newest_ticks: i64,
    newest_arrival: Option<Instant>,
    /// The last counts that differ, [`RECENT_LEN`] at most.
    recent: VecDeque<i64>,
    /// What is added to positions.
    correction: Correction,
    report: Option<Report>,
    /// The timestamp that the server announced for the start (`RTP-Info`).
    announced: Option<u32>,
    /// The source began anew.
    is_restarting: bool,
    /// It lies where its first packet arrived: no report has told better.
    is_guessed: bool,
}

/// `ticks` lie at `position_ns`, but for the correction.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    ticks: i64,
    position_ns: i64,
}

/// The wall clock at a timestamp.
#[derive(Debug, Clone, Copy)]
struct Report {
    ntp_ns: i64,
    timestamp: u32,
}

/// Wobble of sender reports that is not acted on, where they have told the track's place before.
pub const DEAD_BAND_NS: i64 = 20_000_000;

/// Distance that sender reports may put between where a track is and where it should be.
pub const CORRECTION_NS_MAX: i64 = 30_000_000_000;

/// Steps of a track's timestamps that are not taken for media time.
pub const JUMP_NS: i64 = 10_000_000_000;

/// Steps back that may be those of a clock that is set a little: what was sent lies apart as the
/// timestamps say.
pub const STEP_BACK_NS_MAX: i64 = 1_000_000_000;

impl StreamClock {
    /// One clock rate in Hz for each track; 0 is taken for 90,000.
    pub fn new(clock_rates: &[u32]) -> Self {
        let tracks = clock_rates.iter().map(|&rate| TrackClock::new(rate)).collect();
        Self { tracks, start: None, reference: 0, ignored_reports: 0 }
    }

    /// The server says that the track begins with this timestamp (`rtptime` of `RTP-Info`, RFC 2326,
    /// 12.33). Of use only before the track's media.
    pub fn announce(&mut self, track: usize, timestamp: u32) {
        self.tracks[track].announced = Some(timestamp);
    }

    /// The source of the track began anew, with another SSRC or sequence: its next timestamp has
    /// nothing to do with the last.
    pub fn restart(&mut self, track: usize) {
        let clock = &mut self.tracks[track];
        clock.is_restarting = true;
        clock.report = None;
    }

    /// Takes a sender report of the track's source.
    pub fn on_sender_report(&mut self, track: usize, report: &SenderReport) {
        let ntp_ns = report.ntp.as_nanoseconds();
        // A sender without a wall clock may say 0.
        if ntp_ns == 0 || !self.tracks[track].is_near(report.rtp_timestamp) {
            self.ignored_reports += 1;
            return;
        }
        self.tracks[track].report = Some(Report { ntp_ns, timestamp: report.rtp_timestamp });
        self.aim_all(track);
    }

    /// The place of a packet of the track that arrived now. Packets come in the order of sending,
    /// which need not be that of their timestamps (B-frames).
    pub fn map(&mut self, track: usize, timestamp: u32, arrival: Instant) -> Stamp {
        if self.tracks[track].anchor.is_none() {
            self.join(track, timestamp, arrival);
        } else if self.tracks[track].is_jump(timestamp, arrival) {
            self.rejoin(track, timestamp, arrival);
        }
        let clock = &mut self.tracks[track];
        let ticks = clock.unwrap(timestamp);
        clock.advance(ticks, arrival);
        clock.stamp(ticks)
    }

    /// The place of an unwrapped timestamp, such as a decoding time; nothing changes. 0 before the
    /// track's first packet.
    pub fn position(&self, track: usize, ticks: i64) -> i64 {
        self.tracks[track].position(ticks)
    }

    /// Sender reports that could not be true.
    pub fn ignored_reports(&self) -> u64 {
        self.ignored_reports
    }

    fn join(&mut self, track: usize, timestamp: u32, arrival: Instant) {
        let Some(start) = self.start else {
            self.start = Some(arrival);
            self.reference = track;
            return self.tracks[track].anchor(timestamp, 0);
        };
        let by_arrival = signed_ns(arrival, start);
        let is_plausible = |place: &i64| (place - by_arrival).abs() <= CORRECTION_NS_MAX;
        let reference = &self.tracks[self.reference];
        let clock = &self.tracks[track];
        let by_report = clock.place_by_reports(reference, timestamp).filter(is_plausible);
        let by_announcement = || clock.place_by_announcements(reference, timestamp);
        let place = by_report.or_else(|| by_announcement().filter(is_plausible));
        self.tracks[track].anchor(timestamp, place.unwrap_or(by_arrival));
        self.tracks[track].is_guessed = by_report.is_none();
    }

    /// Goes on by arrival. Where that was the reference, all others lie there by guess as well.
    fn rejoin(&mut self, track: usize, timestamp: u32, arrival: Instant) {
        self.tracks[track].rejoin(timestamp, arrival);
        if track == self.reference {
            self.tracks.iter_mut().for_each(|clock| clock.is_guessed = true);
        }
        self.aim_all(track);
    }

    /// Compares by the last reports what a change of this track concerns.
    fn aim_all(&mut self, track: usize) {
        for other in 0..self.tracks.len() {
            if other != self.reference && (other == track || track == self.reference) {
                self.aim(other);
            }
        }
    }

    /// Compares the track with the reference by their last reports and sets what to correct.
    fn aim(&mut self, track: usize) {
        let (clock, reference) = (&self.tracks[track], &self.tracks[self.reference]);
        let (Some(anchor), Some(report)) = (clock.anchor, clock.report) else { return };
        let Some(wanted_ns) = clock.place_by_reports(reference, report.timestamp) else { return };
        let ticks = clock.unwrap(report.timestamp);
        let target_ns = wanted_ns - anchor.position_ns - clock.since_anchor(ticks);
        let off_ns = target_ns - clock.correction.target_ns();
        let clock = &mut self.tracks[track];
        if off_ns.abs() > CORRECTION_NS_MAX {
            self.ignored_reports += 1;
            return;
        }
        let newest_ns = clock.since_anchor(clock.newest_ticks);
        if std::mem::take(&mut clock.is_guessed) {
            clock.correction.aim(newest_ns, target_ns, Pace::Hasty);
        } else if off_ns.abs() > DEAD_BAND_NS {
            clock.correction.aim(newest_ns, target_ns, Pace::Gentle);
        }
    }
}

impl TrackClock {
    fn new(rate: u32) -> Self {
        Self {
            rate: if rate == 0 { RATE_DEFAULT } else { rate },
            anchor: None,
            newest_ticks: 0,
            newest_arrival: None,
            recent: VecDeque::new(),
            correction: Correction::default(),
            report: None,
            announced: None,
            is_restarting: false,
            is_guessed: false,
        }
    }

    fn anchor(&mut self, timestamp: u32, position_ns: i64) {
        let ticks = i64::from(timestamp);
        self.anchor = Some(Anchor { ticks, position_ns });
        self.newest_ticks = ticks;
        self.recent.clear();
        self.correction = Correction::default();
        self.report = self.report.filter(|report| self.is_near(report.timestamp));
    }

    /// Goes on after a jump: as much later as the packet came.
    fn rejoin(&mut self, timestamp: u32, arrival: Instant) {
        let last_ns = self.position(self.newest_ticks);
        let passed_ns = self.newest_arrival.map_or(0, |newest| signed_ns(arrival, newest));
        // One that came since a restart is of the new source.
        if !std::mem::take(&mut self.is_restarting) {
            self.report = None;
        }
        self.anchor(timestamp, last_ns + passed_ns.max(0));
        self.is_guessed = true;
    }

    fn advance(&mut self, ticks: i64, arrival: Instant) {
        if self.recent.back() != Some(&ticks) {
            if self.recent.len() == RECENT_LEN {
                self.recent.pop_front();
            }
            self.recent.push_back(ticks);
        }
        self.newest_ticks = self.newest_ticks.max(ticks);
        self.newest_arrival = Some(arrival);
    }

    fn is_jump(&self, timestamp: u32, arrival: Instant) -> bool {
        let ticks = self.unwrap(timestamp);
        let step_ns = to_ns(ticks - self.newest_ticks, self.rate);
        let passed_ns = self.newest_arrival.map_or(0, |newest| signed_ns(arrival, newest));
        let is_far = step_ns.abs() > JUMP_NS && (step_ns - passed_ns).abs() > JUMP_NS;
        // A B-frame lies behind one that was sent before it.
        let is_back =
            step_ns < -STEP_BACK_NS_MAX && self.recent.iter().all(|&recent| recent > ticks);
        self.is_restarting || is_far || is_back
    }

    /// Whether a report's timestamp can be one of this track's present.
    fn is_near(&self, timestamp: u32) -> bool {
        let step_ns = to_ns(self.unwrap(timestamp) - self.newest_ticks, self.rate);
        self.anchor.is_none() || self.is_restarting || step_ns.abs() <= CORRECTION_NS_MAX
    }

    fn unwrap(&self, timestamp: u32) -> i64 {
        let step = timestamp.wrapping_sub(self.newest_ticks as u32).cast_signed();
        self.newest_ticks + i64::from(step)
    }

    fn stamp(&self, ticks: i64) -> Stamp {
        let is_settled =
            self.correction.at(self.since_anchor(ticks)) == self.correction.target_ns();
        Stamp { ticks, position_ns: self.position(ticks), is_settled }
    }

    /// 0 before the first packet.
    fn position(&self, ticks: i64) -> i64 {
        let since_ns = self.since_anchor(ticks);
        self.anchor.map_or(0, |anchor| anchor.position_ns + since_ns + self.correction.at(since_ns))
    }

    fn since_anchor(&self, ticks: i64) -> i64 {
        self.anchor.map_or(0, |anchor| to_ns(ticks - anchor.ticks, self.rate))
    }

    /// Where the timestamp lies when the wall clocks of both tracks are the same.
    fn place_by_reports(&self, reference: &Self, timestamp: u32) -> Option<i64> {
        let (own, other) = (self.report?, reference.report?);
        let since_report = timestamp.wrapping_sub(own.timestamp).cast_signed();
        let other_ns = reference.position(reference.unwrap(other.timestamp));
        let between_ns = own.ntp_ns - other.ntp_ns;
        Some(other_ns + between_ns + to_ns(i64::from(since_report), self.rate))
    }

    /// Where the timestamp lies when both tracks begin with what was announced.
    fn place_by_announcements(&self, reference: &Self, timestamp: u32) -> Option<i64> {
        let (own, other, anchor) = (self.announced?, reference.announced?, reference.anchor?);
        let from_start = |announced: u32, first: u32, rate| {
            let passed = first.wrapping_sub(announced).cast_signed();
            Some(to_ns(i64::from(passed), rate)).filter(|ns: &i64| ns.abs() <= JUMP_NS)
        };
        let own_ns = from_start(own, timestamp, self.rate)?;
        let other_ns = from_start(other, anchor.ticks as u32, reference.rate)?;
        Some(anchor.position_ns + own_ns - other_ns)
    }
}

fn to_ns(ticks: i64, rate: u32) -> i64 {
    (i128::from(ticks) * NS_PER_SECOND).div_euclid(i128::from(rate)) as i64
}

/// Nanoseconds from `from` to `to`, 292 years at most.
fn signed_ns(to: Instant, from: Instant) -> i64 {
    let ns = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    match to.checked_duration_since(from) {
        Some(passed) => ns(passed),
        None => -ns(from.duration_since(to)),
    }
}

const NS_PER_SECOND: i128 = 1_000_000_000;
/// As many pictures as H.264 and H.265 may put out of order.
const RECENT_LEN: usize = 16;
const RATE_DEFAULT: u32 = 90_000;

#[cfg(test)]
mod tests {
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
        assert_eq!(
            shown[20..].iter().map(|of| of.1).collect::<Vec<_>>(),
            [800, 840, 880, 920, 960]
        );
        assert_eq!(previous, 920);
    }

    #[test]
    fn later_reports_move_a_track_slowly() {
        let mut bench = Bench::new();
        bench.map(VIDEO, 0, 0);
        bench.map(AUDIO, 0, 0);
        for (track, wall_ms) in [(VIDEO, 1000), (AUDIO, 1000), (AUDIO, 1300)] {
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
}
