//! The RTP clocks of a stream's tracks on one timeline (RFC 3550, 5.1 and 6.4.1).
//!
//! Each track counts ticks of its own rate from a random start, modulo 2^32. They are put on one
//! timeline, in nanoseconds, by the rules of [`StreamClock`].

mod correction;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::proto::rtp::rtcp::SenderReport;
use correction::{Correction, Pace};

/// The clocks of one stream. Tracks are counted from 0.
///
/// 1. Timestamps are unwrapped to the nearest 64-bit count.
/// 2. The first packet of all is position 0. Positions before that are negative.
/// 3. The first track with media of those that can be it ([`Self::led_by`]) is the *reference*: it
///    lies where its first packet arrived, and is never corrected.
/// 4. Another track joins by the first of these that is known and plausible: the NTP times in its
///    sender reports and the reference's; the starts in `RTP-Info`; the time of arrival. Where that is
///    more than [`LAG_NS_MAX`] before it arrived it begins so far before, and goes back from there in
///    haste: nothing lies far before the start, nor far behind what players have.
/// 5. Later sender reports show by how much a track is off: each pair of a report of its own and one
///    of the reference, once. The first pair, where none had told the track's place, is followed
///    exactly, and in haste: ahead at once, back as fast as places can rise. After that the median of
///    the last three counts, so that one report that wobbles, or a wall clock that is set between two
///    of them, moves nothing. Where that is off by more than [`DEAD_BAND_NS`] the track is moved so
///    slowly that nobody hears it, from [`HASTE_NS`] on in haste. More than [`CORRECTION_NS_MAX`] is
///    a wall clock that was set, or one that each track has its own of: ignored.
/// 6. A timestamp that jumps by more than [`JUMP_NS`] while the arrivals do not is a source that
///    restarted its clock, and so is one that steps back by more than [`STEP_BACK_NS_MAX`] behind all
///    of the last pictures: the track goes on where arrival says, and reports from before it tell
///    nothing of what comes after.
#[derive(Debug)]
pub struct StreamClock {
    tracks: Vec<TrackClock>,
    /// Arrival of the first packet, which is position 0.
    start: Option<Instant>,
    reference: Option<usize>,
    /// Reports that were taken so far.
    report_count: u64,
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
    can_lead: bool,
    anchor: Option<Anchor>,
    /// The highest count so far, and when the last packet came.
    newest_ticks: i64,
    newest_arrival: Option<Instant>,
    /// The last counts that differ, [`RECENT_LEN`] at most.
    recent: VecDeque<i64>,
    /// What is added to positions.
    correction: Correction,
    report: Option<Report>,
    /// Reports up to that number, of this track and of the reference, are not compared any more.
    compared: u64,
    /// The corrections that the last pairs of reports asked for, [`PAIRS_LEN`] at most.
    asked: VecDeque<i64>,
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
    /// Counted over all tracks.
    number: u64,
    ntp_ns: i64,
    timestamp: u32,
}

/// How far the median of sender reports may be off before a track is moved. With what a clock drifts
/// by until the median knows (2 ms at 200 ppm and a report each 5 s) it stays within 10 ms.
pub const DEAD_BAND_NS: i64 = 5_000_000;

/// From how far off three pairs of reports that agree are followed in haste: the first pair was wrong, and at
/// the gentle pace a second would take twenty.
pub const HASTE_NS: i64 = 500_000_000;

/// Distance that sender reports may put between where a track is and where it should be.
pub const CORRECTION_NS_MAX: i64 = 30_000_000_000;

/// How long before its arrival a track begins at the most: by less than what the tags that are made of it
/// may step back (`media::timeline`), where the others have not come ahead of their own times.
pub const LAG_NS_MAX: i64 = 2_500_000_000;

/// Steps of a track's timestamps that are not taken for media time.
pub const JUMP_NS: i64 = 10_000_000_000;

/// Steps back that may be those of a clock that is set a little: what was sent lies apart as the
/// timestamps say.
pub const STEP_BACK_NS_MAX: i64 = 1_000_000_000;

impl StreamClock {
    /// One clock rate in Hz for each track; 0 is taken for 90,000.
    pub fn new(clock_rates: &[u32]) -> Self {
        let tracks = clock_rates.iter().map(|&rate| TrackClock::new(rate)).collect();
        Self { tracks, start: None, reference: None, report_count: 0, ignored_reports: 0 }
    }

    /// Only these tracks can be the reference, where there are any: those that all players are to get
    /// together. What goes beside them, such as ONVIF's metadata, may have no sender reports, or be silent
    /// for minutes.
    #[must_use]
    pub fn led_by(mut self, leads: &[usize]) -> Self {
        for (track, clock) in self.tracks.iter_mut().enumerate() {
            clock.can_lead = leads.is_empty() || leads.contains(&track);
        }
        self
    }

    /// The server says that the track begins with this timestamp (`rtptime` of `RTP-Info`, RFC 2326,
    /// 12.33). Of use only before the track's media.
    pub fn announce(&mut self, track: usize, timestamp: u32) {
        self.tracks[track].announced = Some(timestamp);
    }

    /// The source of the track began anew, with another SSRC or sequence: its next timestamp has
    /// nothing to do with the last.
    pub fn restart(&mut self, track: usize) {
        self.tracks[track].is_restarting = true;
    }

    /// Takes a sender report of the track's source.
    pub fn on_sender_report(&mut self, track: usize, report: &SenderReport) {
        let ntp_ns = report.ntp.as_nanoseconds();
        // A sender without a wall clock may say 0.
        if ntp_ns == 0 || !self.tracks[track].is_near(report.rtp_timestamp) {
            self.ignored_reports += 1;
            return;
        }
        self.report_count += 1;
        let (number, timestamp) = (self.report_count, report.rtp_timestamp);
        self.tracks[track].report = Some(Report { number, ntp_ns, timestamp });
        let Some(reference) = self.reference else { return };
        for other in 0..self.tracks.len() {
            if other != reference && (other == track || track == reference) {
                self.compare(other, reference);
            }
        }
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
        let by_arrival = signed_ns(arrival, *self.start.get_or_insert(arrival));
        let Some(reference) = self.reference else {
            let clock = &mut self.tracks[track];
            clock.is_guessed = !clock.can_lead;
            self.reference = clock.can_lead.then_some(track);
            return clock.anchor(timestamp, by_arrival);
        };
        let is_plausible = |place: &i64| (place - by_arrival).abs() <= CORRECTION_NS_MAX;
        let reference = &self.tracks[reference];
        let clock = &self.tracks[track];
        let by_report = clock.place_by_reports(reference, timestamp).filter(is_plausible);
        let by_announcement = || clock.place_by_announcements(reference, timestamp);
        let place = by_report.or_else(|| by_announcement().filter(is_plausible));
        let place = place.unwrap_or(by_arrival);
        let begins = place.max(by_arrival - LAG_NS_MAX);
        let clock = &mut self.tracks[track];
        clock.anchor(timestamp, begins);
        clock.correction.aim(0, place - begins, Pace::Hasty);
        match by_report {
            Some(_) => clock.note_asked(place - begins, self.report_count),
            None => clock.is_guessed = true,
        }
    }

    /// Goes on by arrival. Where that was the reference, all others lie there by guess as well.
    fn rejoin(&mut self, track: usize, timestamp: u32, arrival: Instant) {
        self.tracks[track].rejoin(timestamp, arrival);
        for (other, clock) in self.tracks.iter_mut().enumerate() {
            if other == track || Some(track) == self.reference {
                // The wall clock may have been set as well.
                clock.compared = self.report_count;
                clock.asked.clear();
                clock.is_guessed = true;
            }
        }
    }

    /// Compares the track with the reference, where both have been reported on since they were the
    /// last time, and sets what to correct.
    fn compare(&mut self, track: usize, reference: usize) {
        let (clock, reference) = (&self.tracks[track], &self.tracks[reference]);
        let (Some(anchor), Some(own), Some(other)) = (clock.anchor, clock.report, reference.report)
        else {
            return;
        };
        if own.number.min(other.number) <= clock.compared {
            return;
        }
        let Some(wanted_ns) = clock.place_by_reports(reference, own.timestamp) else { return };
        let ticks = clock.unwrap(own.timestamp);
        let asked_ns = wanted_ns - anchor.position_ns - clock.since_anchor(ticks);
        let clock = &mut self.tracks[track];
        if (asked_ns - clock.correction.target_ns()).abs() > CORRECTION_NS_MAX {
            clock.compared = self.report_count;
            self.ignored_reports += 1;
            return;
        }
        clock.note_asked(asked_ns, self.report_count);
        clock.aim();
    }
}

impl TrackClock {
    fn new(rate: u32) -> Self {
        Self {
            rate: if rate == 0 { RATE_DEFAULT } else { rate },
            can_lead: true,
            anchor: None,
            newest_ticks: 0,
            newest_arrival: None,
            recent: VecDeque::new(),
            correction: Correction::default(),
            report: None,
            compared: 0,
            asked: VecDeque::new(),
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
        self.asked.clear();
        self.report = self.report.filter(|report| self.is_near(report.timestamp));
    }

    /// Goes on after a jump: as much later as the packet came.
    fn rejoin(&mut self, timestamp: u32, arrival: Instant) {
        let last_ns = self.position(self.newest_ticks);
        let passed_ns = self.newest_arrival.map_or(0, |newest| signed_ns(arrival, newest));
        self.is_restarting = false;
        self.report = None;
        self.anchor(timestamp, last_ns + passed_ns.max(0));
    }

    /// Notes the correction that a pair of reports asks for, the newer of which has this number.
    fn note_asked(&mut self, asked_ns: i64, number: u64) {
        self.compared = number;
        if self.asked.len() == PAIRS_LEN {
            self.asked.pop_front();
        }
        self.asked.push_back(asked_ns);
    }

    /// Corrects what the last pairs of reports ask for.
    fn aim(&mut self) {
        if !self.has_arrived() {
            return;
        }
        let newest_ns = self.since_anchor(self.newest_ticks);
        let mut sorted: Vec<i64> = self.asked.iter().copied().collect();
        if std::mem::take(&mut self.is_guessed) {
            let last_ns = sorted.last().copied().unwrap_or(0);
            return self.correction.aim(newest_ns, last_ns, Pace::Hasty);
        }
        sorted.sort_unstable();
        let Some(&[_, median_ns, _]) = sorted.first_chunk() else { return };
        let off_ns = (median_ns - self.correction.target_ns()).abs();
        if off_ns > DEAD_BAND_NS {
            let pace = if off_ns > HASTE_NS { Pace::Hasty } else { Pace::Gentle };
            self.correction.aim(newest_ns, median_ns, pace);
        }
    }

    /// Whether the last correction is complete for all that may still come. Until then there is no
    /// other one: pictures that are sent out of order would lie out of order as well.
    fn has_arrived(&self) -> bool {
        let oldest = self.recent.iter().min().map_or(0, |&ticks| self.since_anchor(ticks));
        self.correction.at(oldest) == self.correction.target_ns()
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
        self.anchor.is_none() || step_ns.abs() <= CORRECTION_NS_MAX
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
/// Three have a median that one alone does not move.
const PAIRS_LEN: usize = 3;
const RATE_DEFAULT: u32 = 90_000;

#[cfg(test)]
mod tests;
