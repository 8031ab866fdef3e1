//! One track of packets on its way into the log: what is changed in its headers, and what it tells of
//! itself.

use bytes::Bytes;

use super::log::Entry;
use super::tracks::Tracks;
use super::trail::{Given, TrackTrail};
use crate::limits::REPEATED_SETS_LEN_MAX;
use crate::media::codec::{AudioParameters, ParameterSets};
use crate::media::{Codec, StartPoints, TagKind};
use crate::proto::rtp::random_access::{Step, for_each_nal, may_hold_sets};
use crate::proto::rtp::rtcp::SENDER_REPORT_INTERVAL;
use crate::proto::rtp::{Format, RandomAccess, RtpHeader, RtpPacket, TrackKind};

/// One track.
pub(super) struct Lane {
    pub(super) kind: TagKind,
    /// The track of the API that it is.
    shown: Option<TagKind>,
    /// It is shown at once: nothing else carries it along.
    pub(super) is_urgent: bool,
    /// Neither audio nor video, of a source that has those.
    pub(super) is_beside: bool,
    format: Format,
    codec: Codec,
    access: RandomAccess,
    starts: StartPoints,
    /// Of H.264 and H.265 those of the source, as far as they are known. With decoding order numbers none
    /// are read, nor can any be repeated: packets of ours would need numbers as well.
    sets: Option<ParameterSets>,
    /// Some came in band that the description does not tell.
    has_new_sets: bool,
    /// Some players were told others: these go before each keyframe that comes without its own.
    repeats_sets: bool,
    /// What is done to the headers of this source, known from its first packet on.
    mapping: Option<Mapping>,
    /// The last packet that was given out.
    pub(super) last: Option<Given>,
    /// What its last sender report told.
    pub(super) reported: Option<Reported>,
    /// Where in the log the newest frame begins, with what comes before it; `None` until a packet of
    /// it was given out.
    frame_seq: Option<u64>,
    /// Where players are of the source before; what lies before that is not for them.
    floor_ns: Option<i64>,
    pub(super) loss: Loss,
    pub(super) packets: u32,
    pub(super) octets: u32,
}

/// Packets of a track that did not come, as a share of all.
#[derive(Default)]
pub(super) struct Loss {
    lost: u32,
    received: u32,
    /// In percent, of the last whole interval.
    before: Option<f64>,
}

#[derive(Clone, Copy)]
struct Mapping {
    ssrc: u32,
    sequence_offset: u16,
    timestamp_offset: u32,
}

/// A timestamp that players were told to lie there on the timeline.
#[derive(Clone, Copy)]
pub(super) struct Reported {
    pub(super) timestamp: u32,
    pub(super) place_ns: i64,
}

impl Lane {
    /// Beside the main track of its kind another one is handed on, and neither starts players nor is told
    /// of.
    pub(super) fn new(format: &Format, is_main: bool) -> Self {
        let codec = format.codec();
        let is_known_video = matches!(codec, Codec::H264 | Codec::H265);
        let kind = match format.kind {
            TrackKind::Video if is_known_video && is_main => TagKind::Video,
            TrackKind::Audio => TagKind::Audio,
            // Where its keyframes are is not known, so players can't be made to wait for one.
            TrackKind::Video | TrackKind::Other => TagKind::Script,
        };
        let shown = match format.kind {
            TrackKind::Video => Some(TagKind::Video),
            TrackKind::Audio => Some(TagKind::Audio),
            TrackKind::Other => None,
        };
        Self {
            kind,
            shown: shown.filter(|_| is_main),
            is_urgent: kind != TagKind::Audio,
            is_beside: false,
            format: format.clone(),
            codec,
            access: RandomAccess::of(format),
            starts: StartPoints::default(),
            sets: (is_known_video && !format.has_order_numbers()).then(|| format.parameter_sets()),
            has_new_sets: false,
            repeats_sets: false,
            mapping: None,
            last: None,
            reported: None,
            frame_seq: None,
            floor_ns: None,
            loss: Loss::default(),
            packets: 0,
            octets: 0,
        }
    }

    /// A track whose last packets something else has written; `has_new_sets` as of a [`Trail`].
    ///
    /// [`Trail`]: super::trail::Trail
    pub(super) fn behind(self, trail: TrackTrail, has_new_sets: bool) -> Self {
        let TrackTrail { last, packets, octets } = trail;
        let repeats_sets = has_new_sets && self.sets.is_some();
        Self { last, packets, octets, repeats_sets, ..self }
    }

    pub(super) fn trail(&self) -> TrackTrail {
        let Self { last, packets, octets, .. } = *self;
        TrackTrail { last, packets, octets }
    }

    /// Some players were told other parameter sets than the source's.
    pub(super) fn repeats_sets(&self) -> bool {
        self.repeats_sets
    }

    /// So many bytes of parameter sets can be repeated.
    pub(super) fn repeated_len_max(&self) -> usize {
        if self.sets.is_some() { REPEATED_SETS_LEN_MAX } else { 0 }
    }

    /// The source began anew with the next packet.
    pub(super) fn restart(&mut self) {
        self.mapping = None;
        self.access.restart();
        self.starts.restart();
        self.frame_seq = None;
    }

    /// The next picture stands in for a keyframe.
    pub(super) fn start_at_next(&mut self) {
        self.starts.start_at_next();
    }

    /// The last keyframe is too far back to be kept.
    pub(super) fn forget_keyframe(&mut self) {
        self.starts.forget_keyframe();
    }

    /// Whether a packet of a source that took over lies where players have had the old one's.
    pub(super) fn is_behind_join(&mut self, place_ns: i64) -> bool {
        self.floor_ns.take_if(|floor_ns| place_ns - *floor_ns > FLOOR_MEMORY_NS);
        self.floor_ns.is_some_and(|floor_ns| place_ns <= floor_ns)
    }

    /// The next packet is of a source that goes on where the last one ended, and describes the track so:
    /// `anew` where that is not what all players were told.
    pub(super) fn join(&mut self, format: &Format, anew: bool) {
        self.restart();
        self.starts = StartPoints::default();
        self.floor_ns = self.last.map(|last| last.place_ns);
        if let Some(sets) = &mut self.sets {
            let told = format.parameter_sets();
            self.repeats_sets |= anew || *sets != told;
            *sets = told;
        }
        self.has_new_sets = false;
    }

    /// Takes the parameter sets that a packet brings. Who was told others before they begin to play is to
    /// get these as well.
    pub(super) fn note_sets(&mut self, packet: &RtpPacket, tracks: &mut Tracks) {
        let may_hold = may_hold_sets(self.codec, packet.payload_head());
        let Some(sets) = self.sets.as_mut().filter(|_| may_hold) else { return };
        let mut changed = false;
        for_each_nal(self.codec, &packet.payload(), |nal| changed |= sets.insert(nal));
        self.has_new_sets |= changed;
        self.repeats_sets |= changed;
        let record = changed.then(|| sets.to_record()).flatten();
        if let Some(record) = record.filter(|_| self.shown.is_some()) {
            tracks.configure(TagKind::Video, &record);
        }
    }

    /// The track's parameter sets where they have changed in band, once.
    pub(super) fn take_new_sets(&mut self) -> Option<&ParameterSets> {
        let has_new = std::mem::take(&mut self.has_new_sets);
        self.sets.as_ref().filter(|_| has_new)
    }

    /// The track's parameter sets in packets of their own, with a header like this one. None where they
    /// are longer than those that encoders make.
    pub(super) fn set_packets(&self, header: RtpHeader) -> Vec<RtpPacket> {
        let head = RtpHeader { marker: false, ..header }.encode();
        let sets = self.sets.as_ref().filter(|sets| sets.nals_len() <= REPEATED_SETS_LEN_MAX);
        let nals = sets.into_iter().flat_map(ParameterSets::nals);
        let packet = |nal: &Bytes| RtpPacket::parse([&head[..], nal].concat().into());
        nals.map(|nal| packet(nal).expect("a header of ours")).collect()
    }

    /// A packet of our own has taken the sequence number of the source's next one.
    pub(super) fn make_room(&mut self) {
        if let Some(mapping) = &mut self.mapping {
            mapping.sequence_offset = mapping.sequence_offset.wrapping_add(1);
        }
    }

    /// Where the frame begins in the log whose next entry is a packet of it.
    pub(super) fn frame_begins(&mut self, next_seq: u64) -> u64 {
        *self.frame_seq.get_or_insert(next_seq)
    }

    /// Enters what the description tells.
    pub(super) fn describe(&self, tracks: &mut Tracks) {
        let Some(shown) = self.shown else { return };
        tracks.announce(shown, self.codec);
        let unread = self.format.has_order_numbers().then(|| self.format.parameter_sets());
        let sets = self.sets.as_ref().or(unread.as_ref());
        if let Some(record) = sets.and_then(ParameterSets::to_record) {
            tracks.configure(TagKind::Video, &record);
        }
        if shown == TagKind::Audio {
            let Format { clock_rate: sample_rate, channels, .. } = self.format;
            let stated = AudioParameters { sample_rate, channels, sample_bits: 16 };
            let config = self.format.config().filter(|_| !self.format.is_latm());
            let read = config.and_then(|record| AudioParameters::from_config(self.codec, &record));
            tracks.set_audio(read.unwrap_or(stated));
        }
    }

    /// What a packet is, which lies there on the stream's timeline: a start where players may start, and
    /// without parameter sets where the track's are to go before it.
    pub(super) fn step(&mut self, packet: &RtpPacket, time_ms: u32) -> Step {
        let step = self.access.step(packet);
        if step.begins {
            self.frame_seq = None;
        }
        let is_start = self.kind == TagKind::Video
            && (step.begins || step.is_start)
            && self.starts.is_start(step.is_start, time_ms);
        let lacks_sets = self.repeats_sets && (is_start || step.is_start) && !step.has_sets;
        Step { is_start, has_sets: !lacks_sets, ..step }
    }

    /// The header that players get.
    pub(super) fn map(&mut self, header: RtpHeader, place_ns: i64) -> RtpHeader {
        let (last, rate) = (self.last, self.format.clock_rate);
        let mapping =
            *self.mapping.get_or_insert_with(|| Mapping::new(last, header, place_ns, rate));
        let header = RtpHeader {
            ssrc: mapping.ssrc,
            sequence: header.sequence.wrapping_add(mapping.sequence_offset),
            timestamp: header.timestamp.wrapping_add(mapping.timestamp_offset),
            payload_type: self.format.payload_type,
            ..header
        };
        let RtpHeader { ssrc, sequence, timestamp, .. } = header;
        self.last = Some(Given { ssrc, sequence, timestamp, place_ns });
        header
    }

    /// Whether players are to be told where a timestamp of theirs lies: none was told, or long ago, or
    /// what was told does not hold any more and what is told now will.
    pub(super) fn is_report_due(&self, timestamp: u32, place_ns: i64, is_settled: bool) -> bool {
        let Some(last) = self.reported else { return true };
        let passed_ns = place_ns - last.place_ns;
        let ticks = i64::from(timestamp.wrapping_sub(last.timestamp).cast_signed());
        let told_ns = ticks * 1_000_000_000 / i64::from(self.format.clock_rate.max(1));
        // B-frames step back a little; a track that was put back is reported on again.
        let is_old = u128::from(passed_ns.unsigned_abs()) >= SENDER_REPORT_INTERVAL.as_nanos();
        is_old || is_settled && (passed_ns - told_ns).abs() >= REPORT_OFF_NS
    }

    /// Counts a packet that was given out, the first of its frame or not.
    pub(super) fn count(
        &mut self,
        entry: &Entry,
        is_first: bool,
        packet: &RtpPacket,
        tracks: &mut Tracks,
    ) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(packet.payload_len() as u32);
        let Some(kind) = self.shown else { return };
        let entry = Entry { kind, ..*entry };
        if self.sets.is_none() {
            tracks.set_ready(kind);
        }
        if is_first {
            tracks.set_loss(kind, self.loss.percent());
            tracks.count(&entry);
        } else if entry.keyframe {
            tracks.count_keyframe(&entry);
        }
    }
}

impl Loss {
    /// Counts a packet, and those that are missing before it.
    pub(super) fn count(&mut self, lost: u32) {
        self.received = self.received.saturating_add(1);
        self.lost = self.lost.saturating_add(lost);
    }

    /// What is counted from now on is told when it is as long.
    pub(super) fn end_interval(&mut self) {
        self.before = Some(self.current());
        (self.lost, self.received) = (0, 0);
    }

    /// Of the last interval, and of the first one while it lasts.
    fn percent(&self) -> f64 {
        self.before.unwrap_or_else(|| self.current())
    }

    fn current(&self) -> f64 {
        let expected = f64::from(self.lost) + f64::from(self.received);
        f64::from(self.lost) * 100.0 / expected.max(1.0)
    }
}

impl Mapping {
    /// The first source's headers stay as they are; another one's go on behind the last packet.
    fn new(last: Option<Given>, first: RtpHeader, place_ns: i64, rate: u32) -> Self {
        let Some(last) = last else {
            return Self { ssrc: first.ssrc, sequence_offset: 0, timestamp_offset: 0 };
        };
        let passed_ns = i128::from(place_ns - last.place_ns);
        let ticks = (passed_ns * i128::from(rate)).div_euclid(1_000_000_000) as u32;
        Self {
            ssrc: last.ssrc,
            sequence_offset: last.sequence.wrapping_add(1).wrapping_sub(first.sequence),
            timestamp_offset: last.timestamp.wrapping_add(ticks).wrapping_sub(first.timestamp),
        }
    }
}

/// What players may believe wrongly of a track's place until its next report.
const REPORT_OFF_NS: i64 = 1_000_000;

/// Tracks of a source lie closer together than this.
const FLOOR_MEMORY_NS: i64 = 1_000_000_000;
