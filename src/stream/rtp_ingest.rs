//! RTP packets into a log: each copied once, as it came, with its interleaved header before it.
//!
//! What players get of a track keeps one SSRC, one run of sequence numbers and one timeline for as
//! long as the stream lives. The first source's are taken as they are; those of a source that takes
//! over are changed to go on where the one before it ended, once for all players.
//!
//! Sender reports are made here, from the one timeline on which all tracks are put (`StreamClock`):
//! so there are some from the first packet on, whenever the source's own come, and all tracks agree.

mod described;
mod dropped;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::described::{can_go_on, lanes_of, with_sets_of};
pub use self::dropped::RtpDropped;
use super::ingest::{IngestBytes, Progress};
use super::log::{Log, PacketEntry};
use super::rtp_lane::{Lane, Reported};
use super::tracks::Tracks;
use super::trail::{Given, Trail};
use super::video_wait::VideoWait;
use crate::limits::LEAD_PACKETS_MAX;
use crate::media::TagKind;
use crate::proto::rtp::clock::{LAG_NS_MAX, STEP_BACK_NS_MAX};
use crate::proto::rtp::packet::HEADER_LEN;
use crate::proto::rtp::random_access::Step;
use crate::proto::rtp::rtcp::{NtpTime, SenderReport, encode_sender_report};
use crate::proto::rtp::source::CNAME;
use crate::proto::rtp::{Gap, RtpHeader, RtpPacket, RtpPart, StreamClock, TrackKind};
use crate::proto::rtsp::SessionDescription;

/// Writes one stream's log of packets.
#[derive(Default)]
pub struct RtpIngest {
    lanes: Vec<Lane>,
    clock: Option<StreamClock>,
    /// The wall clock where the timeline begins.
    start_unix: u64,
    /// Where the source's timeline begins on the stream's.
    base_ns: i64,
    /// The newest place on the stream's timeline, and when it came.
    newest: Option<(i64, Instant)>,
    /// The next source goes on where this one ended.
    joins: bool,
    /// The next picture stands in for a keyframe.
    starts_at_next: bool,
    /// The source to come is known to bring no video.
    starts_without_video: bool,
    /// No video passes before a keyframe, or what stands in for it ([`StartPoints`]); nor does anything
    /// else while video is waited for.
    awaits_keyframe: bool,
    /// Something has come that did not pass for that, and no keyframe since.
    pub(super) passed_over: bool,
    /// The source has told of video and brought none that passed.
    video_wait: Option<VideoWait>,
    /// What came then and may belong to that keyframe.
    held: Vec<Placed>,
    tracks: Tracks,
    bytes: IngestBytes,
    dropped: RtpDropped,
}

/// A packet of a track, and where it lies on the stream's timeline.
struct Placed {
    track: usize,
    packet: RtpPacket,
    place_ns: i64,
    /// The track is not being moved.
    is_settled: bool,
}

/// What a step led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtpProgress {
    Media(Progress),
    /// The source has the same tracks with other parameter sets: its description is another one, and
    /// players get them before its keyframes.
    NewSets,
    /// The source has other tracks than the one before it: what players were told is void.
    NewTracks,
}

impl RtpIngest {
    /// Goes on in a log that something else has written until now, when nothing has come for so long.
    pub(super) fn behind(
        log: &mut Log,
        trail: &Trail,
        (now, silence): (Instant, Duration),
    ) -> Option<Self> {
        let description = log.description()?.clone();
        let newest_ns = trail.newest_ns + silence.as_nanos() as i64;
        let lanes = lanes_of(&description).zip(&trail.tracks);
        let lanes = lanes.map(|(lane, track)| lane.behind(*track, trail.has_new_sets));
        let mut ingest = Self {
            lanes: lanes.collect(),
            start_unix: trail.start_unix,
            newest: Some((newest_ns, now)),
            ..Self::default()
        };
        for lane in &ingest.lanes {
            lane.describe(&mut ingest.tracks);
        }
        ingest.change_source(log);
        Some(ingest)
    }

    /// Where the packets end; `None` where none were given out.
    pub(super) fn trail(&self) -> Option<Trail> {
        let (newest_ns, _) = self.newest?;
        Some(Trail {
            tracks: self.lanes.iter().map(Lane::trail).collect(),
            newest_ns,
            start_unix: self.start_unix,
            has_new_sets: self.lanes.iter().any(Lane::repeats_sets),
        })
    }

    /// The next packets come from another source: go on where this one ended, at a keyframe.
    pub fn change_source(&mut self, log: &mut Log) {
        if self.newest.is_some() {
            self.joins = true;
            log.forget_gop();
        }
    }

    /// The first picture of the source to come stands in for a keyframe.
    pub fn start_at_next(&mut self) {
        self.starts_at_next = true;
    }

    /// The source to come brings no video: its sound waits for none.
    pub fn start_without_video(&mut self) {
        self.starts_without_video = true;
    }

    /// The last keyframe is too far back to be kept.
    pub fn forget_keyframe(&mut self) {
        self.lanes.iter_mut().for_each(Lane::forget_keyframe);
    }

    /// Nobody has anything of the log any more: begin anew. What was counted stays counted.
    pub fn start_over(&mut self, log: &mut Log) {
        *self = Self { bytes: self.bytes, dropped: self.dropped, ..Self::default() };
        *log = Log::default();
    }

    /// Takes the next step of the source; `now` and the wall clock in seconds since 1970.
    pub fn handle(
        &mut self,
        log: &mut Log,
        (now, now_unix): (Instant, u64),
        part: RtpPart,
    ) -> RtpProgress {
        let mut progress = Progress::default();
        match part {
            RtpPart::Begin(description) => {
                if self.newest.is_none() {
                    self.start_unix = now_unix.saturating_sub((START_NS / NS_PER_SECOND) as u64);
                }
                return self.begin(log, now, description);
            }
            RtpPart::Announced { track, timestamp } => {
                if let Some(clock) = self.clock_of(track) {
                    clock.announce(track, timestamp);
                }
            }
            RtpPart::Report { track, report, .. } => {
                if let (Some(clock), Some(report)) = (self.clock_of(track), report) {
                    clock.on_sender_report(track, &report);
                }
            }
            RtpPart::Packet { track, packet, gap } => {
                let beside = self.lanes.get(track).is_some_and(|lane| lane.is_beside);
                progress = self.packet(log, now, track, packet, gap);
                progress.frame &= !beside;
                progress.beside = beside;
            }
        }
        RtpProgress::Media(progress)
    }

    pub fn bytes(&self) -> IngestBytes {
        self.bytes
    }

    pub fn tracks(&self) -> &Tracks {
        &self.tracks
    }

    pub fn dropped(&self) -> RtpDropped {
        self.dropped
    }

    /// The newest place on the stream's timeline.
    pub fn timestamp_ms(&self) -> Option<u32> {
        self.newest.map(|(place_ns, _)| to_ms(place_ns))
    }

    fn clock_of(&mut self, track: usize) -> Option<&mut StreamClock> {
        self.clock.as_mut().filter(|_| track < self.lanes.len())
    }

    fn begin(
        &mut self,
        log: &mut Log,
        now: Instant,
        description: Arc<SessionDescription>,
    ) -> RtpProgress {
        let rates = description.media.iter().map(|media| media.format.clock_rate);
        let rates: Vec<u32> = rates.collect();
        let main = [TrackKind::Video, TrackKind::Audio].map(|kind| description.main_track(kind));
        let leads: Vec<usize> = main.into_iter().flatten().collect();
        self.clock = Some(StreamClock::new(&rates).led_by(&leads));
        self.drop_held();
        self.base_ns = START_NS;
        if let Some((place_ns, at)) = self.newest {
            let passed_ns = now.duration_since(at).as_nanos() as i64;
            self.base_ns = place_ns + passed_ns.max(JOIN_STEP_NS);
            (self.awaits_keyframe, self.passed_over) = (std::mem::take(&mut self.joins), false);
        }
        if log.description().is_some_and(|known| can_go_on(&self.lanes, known, &description)) {
            return self.go_on(log, &description);
        }
        let had_tracks = !self.lanes.is_empty();
        self.lanes = lanes_of(&description).collect();
        self.let_start();
        self.tracks = Tracks::default();
        for lane in &self.lanes {
            lane.describe(&mut self.tracks);
        }
        log.set_description(description);
        if had_tracks {
            log.forget_tracks();
        }
        self.await_video(log);
        match had_tracks {
            true => RtpProgress::NewTracks,
            false => RtpProgress::Media(Progress::default()),
        }
    }

    /// The source has the tracks that players were told.
    fn go_on(&mut self, log: &mut Log, description: &SessionDescription) -> RtpProgress {
        let told = log.description().and_then(|known| with_sets_of(known, description));
        for (lane, media) in self.lanes.iter_mut().zip(&description.media) {
            lane.join(&media.format, told.is_some());
        }
        self.let_start();
        self.await_video(log);
        let Some(told) = told else { return RtpProgress::Media(Progress::default()) };
        log.set_description(told.into());
        for lane in &self.lanes {
            lane.describe(&mut self.tracks);
        }
        RtpProgress::NewSets
    }

    /// Players to come are told the parameter sets that the tracks have where those start.
    fn tell_sets(&mut self, log: &mut Log) {
        for (track, lane) in self.lanes.iter_mut().enumerate() {
            let (Some(sets), Some(known)) = (lane.take_new_sets(), log.description()) else {
                continue;
            };
            if known.media[track].format.parameter_sets() != *sets {
                let mut told = SessionDescription::clone(known);
                told.media[track].format.set_parameter_sets(sets);
                log.set_description(told.into());
            }
        }
    }

    fn let_start(&mut self) {
        if std::mem::take(&mut self.starts_at_next) {
            self.lanes.iter_mut().for_each(Lane::start_at_next);
        }
    }

    /// Players begin with a picture where the source tells of video, whatever comes first.
    fn await_video(&mut self, log: &mut Log) {
        let has_video = self.lanes.iter().any(|lane| lane.kind == TagKind::Video);
        let is_over = std::mem::take(&mut self.starts_without_video);
        let wait = if is_over { VideoWait::over() } else { VideoWait::default() };
        self.awaits_keyframe &= has_video;
        self.video_wait = has_video.then_some(wait);
        if has_video {
            log.expect_video();
        }
    }

    /// Whether there was sound alone for too long with this packet: nobody waits for video any more. It
    /// passes from its next keyframe on.
    fn gives_up_video(&mut self, log: &mut Log, placed: &Placed) -> bool {
        let Some(wait) = &mut self.video_wait else { return false };
        let kind = self.lanes[placed.track].kind;
        let is_over = wait.is_over(kind, placed.place_ns / NS_PER_MS);
        if is_over {
            self.awaits_keyframe = true;
            self.drop_held();
            log.forget_video();
        }
        if is_over || kind == TagKind::Video && !self.awaits_keyframe {
            self.video_wait = None;
        }
        is_over
    }

    fn packet(
        &mut self,
        log: &mut Log,
        now: Instant,
        track: usize,
        packet: RtpPacket,
        gap: Gap,
    ) -> Progress {
        let len = packet.len();
        self.bytes.received += len as u64;
        let (Some(lane), Some(clock)) = (self.lanes.get_mut(track), &mut self.clock) else {
            self.dropped.no_track += 1;
            return Progress::default();
        };
        if u16::try_from(len).is_err() {
            self.dropped.too_long += 1;
            return Progress::default();
        }
        match gap {
            Gap::None => lane.loss.count(0),
            Gap::Lost(count) => lane.loss.count(count),
            Gap::Restart => {
                clock.restart(track);
                lane.restart();
            }
        }
        let stamp = clock.map(track, packet.header().timestamp, now);
        let place_ns = self.base_ns + stamp.position_ns;
        lane.note_sets(&packet, &mut self.tracks);
        let step = lane.step(&packet, to_ms(place_ns));
        let is_behind = lane.is_behind_join(place_ns);
        let placed = Placed { track, packet, place_ns, is_settled: stamp.is_settled };
        let lost_video = self.gives_up_video(log, &placed);
        let of_video = self.lanes[track].kind == TagKind::Video;
        let must_wait = self.awaits_keyframe && (of_video || self.video_wait.is_some());
        if must_wait && !step.is_start {
            self.passed_over = true;
            self.hold(placed, step);
            return Progress::default();
        }
        if is_behind {
            self.dropped.overtaken += 1;
            return Progress { lost_video, ..Progress::default() };
        }
        if step.is_start {
            self.tell_sets(log);
        }
        if step.is_start && std::mem::take(&mut self.awaits_keyframe) {
            (self.video_wait, self.passed_over) = (None, false);
            if step.begins {
                self.drop_held();
            }
            for held in std::mem::take(&mut self.held) {
                self.hand_on(log, now, &held, false);
            }
        }
        if !step.has_sets {
            self.give_sets(log, now, &placed);
        }
        let progress = self.hand_on(log, now, &placed, step.is_start);
        Progress { lost_video, ..progress }
    }

    /// Keeps a packet before a keyframe that may belong to it, as parameter sets do; drops others.
    fn hold(&mut self, placed: Placed, step: Step) {
        let is_video = self.lanes[placed.track].kind == TagKind::Video;
        if is_video && step.begins {
            self.drop_held();
        }
        if is_video && step.is_lead && self.held.len() < LEAD_PACKETS_MAX {
            // A copy, because a view would keep a receive buffer from the kernel.
            self.held.push(Placed { packet: placed.packet.into_copy(), ..placed });
        } else {
            self.dropped.before_keyframe += 1;
        }
    }

    fn drop_held(&mut self) {
        self.dropped.before_keyframe += self.held.len() as u64;
        self.held.clear();
    }

    /// Puts the parameter sets of a track into the log, before a packet and at its time.
    fn give_sets(&mut self, log: &mut Log, now: Instant, before: &Placed) {
        let &Placed { track, ref packet, place_ns, is_settled } = before;
        for packet in self.lanes[track].set_packets(packet.header()) {
            self.bytes.config_copied += packet.len() as u64;
            self.give(log, now, &Placed { track, packet, place_ns, is_settled }, false);
            self.lanes[track].make_room();
        }
    }

    /// Puts a packet of the source into the log.
    fn hand_on(&mut self, log: &mut Log, now: Instant, placed: &Placed, start: bool) -> Progress {
        self.bytes.copied += (placed.packet.len() + placed.packet.copied_len()) as u64;
        self.give(log, now, placed, start)
    }

    /// Puts a packet into the log, and a report before it where one is due.
    fn give(&mut self, log: &mut Log, now: Instant, placed: &Placed, keyframe: bool) -> Progress {
        let &Placed { track, ref packet, place_ns, is_settled } = placed;
        let lane = &mut self.lanes[track];
        let header = lane.map(packet.header(), place_ns);
        let is_due = lane.is_report_due(header.timestamp, place_ns, is_settled);
        if self.newest.is_none_or(|(newest_ns, _)| place_ns > newest_ns) {
            self.newest = Some((place_ns, now));
        }
        if is_due {
            let lane = &mut self.lanes[track];
            if lane.reported.is_some() {
                lane.loss.end_interval();
            }
            self.report(log, track, Reported { timestamp: header.timestamp, place_ns });
        }
        self.write(log, placed, header, keyframe)
    }

    fn write(
        &mut self,
        log: &mut Log,
        placed: &Placed,
        header: RtpHeader,
        keyframe: bool,
    ) -> Progress {
        let &Placed { track, ref packet, place_ns, .. } = placed;
        let [bytes, tail] = packet.pieces();
        let lane = &mut self.lanes[track];
        // The first byte tells of sources, extension and padding, which stay.
        let mut head = header.encode();
        head[0] = bytes[0];
        let next_seq = log.next_seq();
        let lead = next_seq - lane.frame_begins(next_seq);
        let entry = PacketEntry {
            channel: 2 * track as u8,
            kind: lane.kind,
            timestamp_ms: to_ms(place_ns),
            keyframe,
            lead: u16::try_from(lead).map_or(0, |lead| lead * u16::from(keyframe)),
            is_report: false,
        };
        let entry = log.push_packet(entry, packet.len(), [&head[..], &bytes[HEADER_LEN..], tail]);
        lane.count(&entry, lead == 0, packet, &mut self.tracks);
        let video = lane.is_urgent;
        Progress { committed: true, frame: true, video, ..Progress::default() }
    }

    /// Puts a sender report of the track into the log (RFC 3550, 6.4.1).
    fn report(&mut self, log: &mut Log, track: usize, reported: Reported) {
        let Reported { timestamp, place_ns } = reported;
        let lane = &mut self.lanes[track];
        lane.reported = Some(reported);
        let Some(Given { ssrc, .. }) = lane.last else { return };
        let seconds = self.start_unix.wrapping_add_signed(place_ns.div_euclid(NS_PER_SECOND));
        let report = SenderReport {
            ssrc,
            ntp: NtpTime::from_unix(seconds, place_ns.rem_euclid(NS_PER_SECOND) as u32),
            rtp_timestamp: timestamp,
            packet_count: lane.packets,
            octet_count: lane.octets,
        };
        let bytes = encode_sender_report(report, CNAME);
        let entry = PacketEntry {
            channel: 2 * track as u8 + 1,
            kind: TagKind::Script,
            timestamp_ms: to_ms(place_ns),
            keyframe: false,
            lead: 0,
            is_report: true,
        };
        log.push_packet(entry, bytes.len(), [&bytes[..], &[]]);
        self.bytes.config_copied += log.take_config_bytes_copied();
    }
}

/// Wraps, as timestamps of tags do.
fn to_ms(place_ns: i64) -> u32 {
    place_ns.div_euclid(NS_PER_MS) as u32
}

/// From the last packet of a source to the first of the next one, at the least: a frame.
const JOIN_STEP_NS: i64 = 40_000_000;
/// Where the first packet lies on the timeline, so that what belongs before it has a place as well.
const START_NS: i64 = 4 * NS_PER_SECOND;
const _: () = assert!(START_NS > LAG_NS_MAX + STEP_BACK_NS_MAX);
const NS_PER_SECOND: i64 = 1_000_000_000;
const NS_PER_MS: i64 = 1_000_000;

#[cfg(test)]
mod tests;
