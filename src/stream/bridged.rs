//! The form of a stream that its source does not bring: a reader of the source's log that writes
//! another one.

use std::time::Duration;

use super::ingest::Ingest;
use super::log::{Entry, Log, PacketEntry};
use super::tracks::Tracks;
use super::trail::{Given, TrackTrail, Trail};
use super::video_wait::VideoWait;
use crate::bridge::{BridgeCounts, FlvTag, InPacket, OutPacket, ToFlv, ToRtp, TrackStart};
use crate::media::timeline::distance;
use crate::media::{Codec, Form, Payload, TagKind};
use crate::proto::rtp::rtcp::{NtpTime, SENDER_REPORT_INTERVAL};
use crate::proto::rtp::{Gap, PacketizerConfig, RtpHeader, RtpPacket, TrackKind};
use crate::proto::rtsp::SessionDescription;

/// One stream in the form that is made of the other.
pub(super) struct Bridged {
    log: Log,
    /// What was read of the source's log.
    next_seq: u64,
    direction: Direction,
    is_ready: bool,
    /// Another source has taken over since it was made.
    source_changed: bool,
}

enum Direction {
    ToFlv(Box<Tags>),
    ToRtp(Box<Packets>),
}

/// Tags made of packets.
#[derive(Default)]
struct Tags {
    converter: Option<ToFlv>,
    ingest: Ingest,
    /// The sequence number after that of the last packet, by track; unknown after a change.
    due: Vec<Option<u16>>,
    /// The sequence number in the log from which on the track's source has begun anew.
    restarts: Vec<Option<u64>>,
    /// Of converters for tracks that the source had before.
    counts: BridgeCounts,
}

/// Packets made of tags.
struct Packets {
    converter: ToRtp,
    /// The wall clock at timestamp 0.
    epoch_unix: u64,
    /// What is added to the timestamps of tags, modulo 2^32.
    shift_ms: u32,
    /// The newest timestamp, unwrapped.
    newest_ms: i64,
    /// By track: when its last report was, unwrapped.
    reported_ms: Vec<Option<i64>>,
    given: Vec<Option<LastPacket>>,
    /// No picture has come that players can start at: those before it are of no use to anybody.
    awaits_keyframe: bool,
    /// One was read, and not compared with what the log was told.
    has_new_config: bool,
    /// Until the first picture.
    video_wait: Option<VideoWait>,
    /// There was none for too long, which nobody was told yet.
    lost_video: bool,
    /// Some players were told other parameter sets than the log's description has.
    has_new_sets: bool,
    /// Beside those of the converter.
    counts: BridgeCounts,
}

/// Of a track.
#[derive(Clone, Copy)]
struct LastPacket {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    /// Of all packets: pictures are not sent in the order in which they are shown.
    newest_timestamp: u32,
}

impl Bridged {
    /// Begins at the newest keyframe of the source's log, of which these tracks are known. `seed` is random;
    /// the wall clock is in seconds since 1970.
    pub(super) fn new(
        form: Form,
        (source, tracks): (&Log, &Tracks),
        seed: u64,
        now_unix: u64,
    ) -> Self {
        let timestamp_ms = source.timestamp_at(source.start_seq());
        let direction = match form {
            Form::Flv => Direction::ToFlv(Box::new(Tags::new(source))),
            Form::Rtp => Direction::ToRtp(Box::new(Packets {
                converter: ToRtp::new(seed),
                epoch_unix: now_unix.wrapping_sub(u64::from(timestamp_ms / 1000)),
                shift_ms: 0,
                newest_ms: i64::from(timestamp_ms),
                reported_ms: Vec::new(),
                given: Vec::new(),
                awaits_keyframe: true,
                has_new_config: false,
                video_wait: None,
                lost_video: false,
                has_new_sets: false,
                counts: BridgeCounts::default(),
            })),
        };
        let mut bridged = Self {
            log: Log::default(),
            next_seq: source.start_seq(),
            direction,
            is_ready: false,
            source_changed: false,
        };
        if let Direction::ToRtp(packets) = &mut bridged.direction {
            packets.expect(source, tracks);
            // The configurations are behind the keyframe.
            for (kind, payload) in &source.prelude_at_start().tags {
                let tag = FlvTag { kind: *kind, timestamp_ms, payload: payload.clone().into() };
                packets.converter.handle_tag(tag, false, &mut |_| {});
            }
        }
        bridged
    }

    /// Tags that a source brought until now, and that are to be made of another one's packets, which begin
    /// at `next_seq`: players go on, though no packet has come.
    pub(super) fn of_tags(mut log: Log, mut ingest: Ingest, next_seq: u64) -> Self {
        ingest.change_source(&mut log);
        ingest.count_anew();
        let tags = Tags { ingest, ..Tags::default() };
        Self {
            log,
            next_seq,
            direction: Direction::ToFlv(Box::new(tags)),
            is_ready: true,
            source_changed: true,
        }
    }

    /// Packets that a source brought until now, or something else wrote, and that are to be made of another
    /// one's tags: those begin at `next_seq` and behind a time. `None` where tags can't be made what players
    /// were told.
    pub(super) fn of_packets(
        mut log: Log,
        trail: &Trail,
        (next_seq, behind_ms): (u64, u32),
        silence: Duration,
    ) -> Option<Self> {
        let packets = Packets::behind(log.description()?, trail, behind_ms, silence)?;
        log.forget_gop();
        Some(Self {
            log,
            next_seq,
            direction: Direction::ToRtp(Box::new(packets)),
            is_ready: true,
            source_changed: true,
        })
    }

    /// The packets and where they end, for a source that brings packets itself. `None` where tags are made,
    /// or nobody has packets.
    pub(super) fn into_packets(self) -> Option<(Log, Trail)> {
        let Direction::ToRtp(packets) = self.direction else { return None };
        let trail = packets.trail(self.log.description().filter(|_| self.is_ready)?);
        Some((self.log, trail))
    }

    /// Whether players of packets that were described so can go on with what is made of tags.
    pub(super) fn can_go_behind(description: &SessionDescription) -> bool {
        ToRtp::can_go_behind(description)
    }

    /// The tags and what writes them, for a source that brings tags itself. `None` where packets are
    /// made.
    pub(super) fn into_tags(mut self) -> Option<(Log, Ingest)> {
        let Direction::ToFlv(tags) = self.direction else { return None };
        let mut ingest = tags.ingest;
        ingest.change_source(&mut self.log);
        ingest.count_anew();
        Some((self.log, ingest))
    }

    /// Whether packets can be made of tags of these tracks, as far as they are known.
    pub(super) fn can_be_packets(tracks: &Tracks) -> bool {
        let mut tracks = [&tracks.video, &tracks.audio].into_iter().flatten();
        tracks.any(|track| is_packetized(track.codec))
    }

    /// Whether tags can be made of packets that are described so.
    pub(super) fn can_be_tags(description: &SessionDescription) -> bool {
        ToFlv::new(description).is_some()
    }

    /// Whether what players were told of the tracks still holds: each is of its codec, AAC of its record,
    /// and a source that took over brings no other one.
    pub(super) fn fits(&self, tracks: &Tracks) -> bool {
        let Some(description) = self.log.description().filter(|_| self.is_ready) else {
            return true;
        };
        if matches!(&self.direction, Direction::ToRtp(packets) if packets.converter.is_void()) {
            return false;
        }
        let told = |kind| description.media.iter().find(|media| media.format.kind == kind);
        let kinds = [(TrackKind::Video, &tracks.video), (TrackKind::Audio, &tracks.audio)];
        kinds.into_iter().all(|(kind, track)| match (told(kind), track) {
            // Those that are known stay known, but for video of a source that brings none.
            (told, None) => told.is_none(),
            (None, Some(track)) => !self.source_changed || !is_packetized(track.codec),
            (Some(media), Some(track)) => track.codec == media.format.codec(),
        })
    }

    /// Makes what was flushed and not read yet, and lets players have it: entries until `len_max` bytes
    /// of the source's log are read, one at the least.
    pub(super) fn follow(&mut self, source: &Log, len_max: u64) {
        let mut len = 0;
        while len < len_max && self.is_behind(source) {
            let seq = self.next_seq;
            let entry = *source.entry(seq).expect("what is flushed is held until it was read");
            match &mut self.direction {
                Direction::ToFlv(tags) => tags.handle(&mut self.log, source, seq),
                Direction::ToRtp(packets) => packets.handle(&mut self.log, source, &entry),
            }
            self.next_seq = seq + 1;
            len += u64::from(entry.len);
        }
        self.is_ready |= match &mut self.direction {
            Direction::ToFlv(tags) => tags.is_ready(),
            Direction::ToRtp(packets) => packets.is_ready(&mut self.log, source.has_video()),
        };
        if self.is_ready {
            self.log.flush();
        }
    }

    /// Whether something that was flushed is still to be read.
    pub(super) fn is_behind(&self, source: &Log) -> bool {
        self.next_seq < source.flushed_seq()
    }

    /// The sequence number from which on the source's log is to be held.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Whether it can be played.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// The source is another one from now on. What is still to be read of the old one is passed over: it
    /// would be taken for the new one's.
    pub(super) fn change_source(&mut self, source: &Log) {
        self.source_changed = true;
        self.next_seq = source.flushed_seq();
        if let Direction::ToFlv(tags) = &mut self.direction {
            tags.ingest.change_source(&mut self.log);
            tags.due.fill(None);
            tags.restarts.fill(None);
        }
        self.log.forget_gop();
    }

    /// The source's packets are of other tracks from now on; as for [`Self::change_source`].
    pub(super) fn change_tracks(&mut self, source: &Log) {
        self.next_seq = source.flushed_seq();
        if let Direction::ToFlv(tags) = &mut self.direction {
            tags.begin(source);
            tags.ingest.change_source(&mut self.log);
            self.log.forget_tracks();
            if tags.has_no_video() {
                tags.ingest.give_up_video(&mut self.log);
            }
        }
    }

    /// The source that takes over has other parameter sets; as for [`Self::change_source`].
    pub(super) fn change_sets(&mut self, source: &Log) {
        if let Direction::ToFlv(tags) = &mut self.direction {
            tags.begin(source);
        }
    }

    /// The source brings no video after all: players of tags wait for none.
    pub(super) fn give_up_video(&mut self) {
        if let Direction::ToFlv(tags) = &mut self.direction {
            tags.converter.iter_mut().for_each(ToFlv::silence_video);
            tags.ingest.give_up_video(&mut self.log);
        }
    }

    /// Whether it has shown since the last call that no pictures are made packets: replicas are to be told.
    pub(super) fn take_lost_video(&mut self) -> bool {
        match &mut self.direction {
            Direction::ToFlv(_) => false,
            Direction::ToRtp(packets) => std::mem::take(&mut packets.lost_video),
        }
    }

    /// The source of a track began anew before the packet that will have this number in its log.
    pub(super) fn restart(&mut self, track: usize, seq: u64) {
        if let Direction::ToFlv(tags) = &mut self.direction
            && let Some(restart) = tags.restarts.get_mut(track)
        {
            *restart = Some(seq);
        }
    }

    /// Whether it is known that nothing can be made of the source's tracks.
    pub(super) fn is_barren(&self) -> bool {
        match &self.direction {
            Direction::ToFlv(tags) => tags.converter.is_none(),
            Direction::ToRtp(packets) => packets.is_barren(),
        }
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    pub(super) fn counts(&self) -> BridgeCounts {
        match &self.direction {
            Direction::ToFlv(tags) => tags.counts(),
            Direction::ToRtp(packets) => {
                let mut counts = packets.counts;
                counts += packets.converter.counts();
                counts
            }
        }
    }
}

impl Tags {
    fn new(source: &Log) -> Self {
        let mut tags = Self::default();
        tags.begin(source);
        tags
    }

    /// Takes the tracks that the source has now.
    fn begin(&mut self, source: &Log) {
        let description = source.description();
        let count = description.map_or(0, |description| description.media.len());
        self.counts += self.converter.as_ref().map(ToFlv::counts).unwrap_or_default();
        self.converter = description.and_then(|description| ToFlv::new(description));
        if !source.has_video() {
            self.converter.iter_mut().for_each(ToFlv::silence_video);
        }
        self.due = vec![None; count];
        self.restarts = vec![None; count];
    }

    /// The source has told its tracks, and none of them is made video.
    fn has_no_video(&self) -> bool {
        self.converter.as_ref().is_some_and(|converter| !converter.has_video())
    }

    fn counts(&self) -> BridgeCounts {
        let mut counts = self.counts;
        counts += self.converter.as_ref().map(ToFlv::counts).unwrap_or_default();
        counts.bytes_copied += self.ingest.bytes().copied;
        counts
    }

    fn is_ready(&self) -> bool {
        let tracks = self.ingest.tracks();
        [&tracks.video, &tracks.audio].into_iter().flatten().any(|track| track.frames > 0)
    }

    fn handle(&mut self, log: &mut Log, source: &Log, seq: u64) {
        let entry = source.entry(seq).expect("callers look");
        let Some(converter) = self.converter.as_mut().filter(|_| !entry.is_rtcp()) else { return };
        let Ok(packet) = RtpPacket::parse(source.bytes(entry.packet())) else { return };
        let Some(due) = self.due.get_mut(entry.track()) else { return };
        if self.restarts[entry.track()].take_if(|restart| *restart <= seq).is_some() {
            *due = None;
        }
        let sequence = packet.header().sequence;
        let gap = match due.replace(sequence.wrapping_add(1)) {
            None => Gap::Restart,
            Some(due) if due == sequence => Gap::None,
            Some(due) => Gap::Lost(u32::from(sequence.wrapping_sub(due))),
        };
        let ingest = &mut self.ingest;
        // Of a source without keyframes only its log knows where players may start.
        let (time_ms, is_start) = (entry.timestamp_ms, entry.keyframe);
        let incoming = InPacket { track: entry.track(), packet: &packet, gap, time_ms, is_start };
        converter.handle_packet(incoming, &mut |tag| {
            let FlvTag { kind, timestamp_ms, payload } = tag;
            ingest.handle_tag(log, kind, timestamp_ms, &payload);
        });
    }
}

impl Packets {
    /// Tells the converter of tracks that the source's log has, and whose first word comes behind the
    /// keyframe at which it begins: it is not to wait for them in vain.
    fn expect(&mut self, source: &Log, tracks: &Tracks) {
        let told = &source.prelude_at_start().tags;
        for kind in [TagKind::Video, TagKind::Audio] {
            let mut entries = source.range(source.start_seq()..source.flushed_seq());
            if let Some(first) = entries.find(|entry| entry.kind == kind && entry.config)
                && !told.iter().any(|(of, _)| *of == kind)
            {
                self.converter.expect_config(kind, &source.bytes(first.payload()).into());
            }
        }
        if let Some(track) = &tracks.audio {
            let is_stereo = track.audio.is_some_and(|audio| audio.channels == 2);
            self.converter.expect_sound(track.codec, is_stereo);
        }
    }

    /// Goes on behind packets with those of tags, which come behind a time, when nothing has come for so
    /// long.
    fn behind(
        description: &SessionDescription,
        trail: &Trail,
        behind_ms: u32,
        silence: Duration,
    ) -> Option<Self> {
        let newest_ms = trail.newest_ns.div_euclid(NS_PER_MS) + 1 + silence.as_millis() as i64;
        // A track of which nothing came has any number that no other one has.
        let known = trail.tracks.iter().find_map(|track| track.last);
        let mut random = fastrand::Rng::with_seed(known.map_or(0, |last| u64::from(last.ssrc)));
        let tracks = description.media.iter().zip(&trail.tracks);
        let starts = tracks.map(|(media, track)| {
            let numbering = match track.last {
                None => PacketizerConfig::new(random.u32(..), random.u16(..), random.u32(..)),
                Some(Given { ssrc, sequence, timestamp, place_ns }) => {
                    let ticks = i128::from(place_ns) * i128::from(media.format.clock_rate);
                    let ticks = ticks.div_euclid(1_000_000_000) as u32;
                    let sequence = sequence.wrapping_add(1);
                    PacketizerConfig::new(ssrc, sequence, timestamp.wrapping_sub(ticks))
                }
            };
            TrackStart { numbering, packet_count: track.packets, octet_count: track.octets }
        });
        let starts: Vec<TrackStart> = starts.collect();
        let given = trail.tracks.iter().map(|track| {
            let Given { ssrc, sequence, timestamp, .. } = track.last?;
            Some(LastPacket { ssrc, sequence, timestamp, newest_timestamp: timestamp })
        });
        Some(Self {
            converter: ToRtp::behind(description, &starts, newest_ms)?,
            epoch_unix: trail.start_unix,
            shift_ms: (newest_ms as u32).wrapping_sub(behind_ms),
            newest_ms,
            reported_ms: Vec::new(),
            given: given.collect(),
            awaits_keyframe: true,
            has_new_config: false,
            video_wait: None,
            lost_video: false,
            has_new_sets: trail.has_new_sets,
            counts: BridgeCounts::default(),
        })
    }

    /// Where the packets end.
    fn trail(&self, description: &SessionDescription) -> Trail {
        let mut newest_ns = self.newest_ms * NS_PER_MS;
        let tracks = (0..description.media.len()).map(|track| {
            let (packets, octets) = self.converter.sent(track);
            let given = self.given.get(track).copied().flatten();
            let last = given.and_then(|last| {
                let place_ns = self.converter.place_ns(track, last.timestamp)?;
                let shown_ns = self.converter.place_ns(track, last.newest_timestamp)?;
                newest_ns = newest_ns.max(shown_ns);
                let LastPacket { ssrc, sequence, timestamp, .. } = last;
                Some(Given { ssrc, sequence, timestamp, place_ns })
            });
            TrackTrail { last, packets, octets }
        });
        let tracks = tracks.collect();
        let (start_unix, has_new_sets) = (self.epoch_unix, self.has_new_sets);
        Trail { tracks, newest_ns, start_unix, has_new_sets }
    }

    /// Whether the tracks are known; tells them to the log then, and again where a configuration is
    /// another one. Players wait for pictures where those of tags do.
    fn is_ready(&mut self, log: &mut Log, has_video: bool) -> bool {
        let has_new_config = std::mem::take(&mut self.has_new_config);
        if log.description().is_some() && !has_new_config {
            return true;
        }
        if !self.converter.is_complete() || log.next_seq() == 0 {
            return false;
        }
        let Some(description) = self.converter.description() else { return false };
        if log.description().is_none()
            && has_video
            && description.main_track(TrackKind::Video).is_some()
        {
            self.expect_video(log);
        }
        let told = log.description();
        self.has_new_sets |= told.is_some_and(|told| has_other_sets(told, &description));
        if told.is_none_or(|told| **told != description) {
            log.set_description(description.into());
        }
        true
    }

    fn is_barren(&self) -> bool {
        self.converter.is_complete() && self.converter.description().is_none()
    }

    fn handle(&mut self, log: &mut Log, source: &Log, entry: &Entry) {
        self.has_new_config |= entry.config;
        if entry.kind == TagKind::Video && !entry.config {
            self.awaits_keyframe &= !entry.keyframe;
            if self.awaits_keyframe {
                self.counts.before_keyframe += 1;
                return;
            }
        }
        let mut payload = Payload::new();
        source.views(entry.payload()).for_each(|view| payload.push(view));
        let mut made: Vec<OutPacket> = Vec::new();
        let timestamp_ms = entry.timestamp_ms.wrapping_add(self.shift_ms);
        let tag = FlvTag { kind: entry.kind, timestamp_ms, payload };
        // Of a source without keyframes only its log knows where players may start.
        self.converter.handle_tag(tag, entry.keyframe, &mut |packet| made.push(packet));
        for packet in made {
            self.report_if_due(log, &packet);
            self.look_for_video(log, &packet);
            match write(log, &packet) {
                Some(copied) => {
                    self.counts.bytes_copied += copied;
                    self.note(&packet);
                }
                None => self.counts.too_long += 1,
            }
        }
    }

    /// Players are to begin with a picture, unless there is sound alone for too long.
    fn expect_video(&mut self, log: &mut Log) {
        if log.has_video() {
            return;
        }
        log.expect_video();
        self.video_wait = Some(VideoWait::default());
    }

    fn look_for_video(&mut self, log: &mut Log, packet: &OutPacket) {
        let Some(wait) = &mut self.video_wait else { return };
        let at_ms = self.newest_ms + distance(self.newest_ms as u32, packet.time_ms);
        if wait.is_over(packet.kind, at_ms) {
            self.lost_video = true;
            log.forget_video();
        }
        if self.lost_video || packet.kind == TagKind::Video {
            self.video_wait = None;
        }
    }

    fn note(&mut self, packet: &OutPacket) {
        let track = packet.track;
        let RtpHeader { ssrc, sequence, timestamp, .. } = packet.packet.header;
        if self.given.len() <= track {
            self.given.resize(track + 1, None);
        }
        let newest_timestamp = self.given[track].map_or(timestamp, |before| {
            let is_newer = distance(before.newest_timestamp, timestamp) > 0;
            if is_newer { timestamp } else { before.newest_timestamp }
        });
        self.given[track] = Some(LastPacket { ssrc, sequence, timestamp, newest_timestamp });
    }

    fn report_if_due(&mut self, log: &mut Log, packet: &OutPacket) {
        let (track, time_ms) = (packet.track, packet.time_ms);
        let place_ms = self.newest_ms + distance(self.newest_ms as u32, time_ms);
        self.newest_ms = self.newest_ms.max(place_ms);
        if self.reported_ms.len() <= track {
            self.reported_ms.resize(track + 1, None);
        }
        let last = self.reported_ms[track];
        if last.is_some_and(|last| place_ms - last < SENDER_REPORT_INTERVAL.as_millis() as i64) {
            return;
        }
        let ntp = NtpTime::from_unix(
            self.epoch_unix.wrapping_add_signed(place_ms.div_euclid(1000)),
            place_ms.rem_euclid(1000) as u32 * 1_000_000,
        );
        let Some(bytes) = self.converter.sender_report(track, time_ms, ntp) else { return };
        self.reported_ms[track] = Some(place_ms);
        let entry = PacketEntry {
            channel: 2 * track as u8 + 1,
            kind: TagKind::Script,
            timestamp_ms: time_ms,
            keyframe: false,
            lead: 0,
            is_report: true,
        };
        log.push_packet(entry, bytes.len(), [&bytes[..]]);
    }
}

const NS_PER_MS: i64 = 1_000_000;

/// Whether frames of the codec are made packets, and the other way.
fn is_packetized(codec: Codec) -> bool {
    use Codec::{Aac, H264, H265, Opus, PcmA, PcmU};
    matches!(codec, H264 | H265 | Aac | Opus | PcmA | PcmU)
}

/// Whether some track has other parameter sets, however they are written.
fn has_other_sets(one: &SessionDescription, other: &SessionDescription) -> bool {
    let mut tracks = one.media.iter().zip(&other.media);
    tracks.any(|(one, other)| one.format.parameter_sets() != other.format.parameter_sets())
}

/// Returns the bytes that were copied; `None` of a packet that is too long, of a codec whose frames are
/// not cut: no encoder makes such a frame.
fn write(log: &mut Log, made: &OutPacket) -> Option<u64> {
    let OutPacket { track, kind, time_ms, keyframe, packet } = made;
    u16::try_from(packet.len()).ok()?;
    let entry = PacketEntry {
        channel: 2 * *track as u8,
        kind: *kind,
        timestamp_ms: *time_ms,
        keyframe: *keyframe,
        lead: 0,
        is_report: false,
    };
    let header = packet.header.encode();
    let pieces = std::iter::once(&header[..]).chain(packet.payload.slices());
    log.push_packet(entry, packet.len(), pieces);
    Some(packet.len() as u64)
}
