//! The packets that are made of a stream's tags, on their way into a log: what they are described as, their
//! reports, and where they end.

use std::time::Duration;

use crate::bridge::{BridgeCounts, FlvTag, OutPacket, ToRtp, TrackStart};
use crate::media::timeline::distance;
use crate::media::{Payload, TagKind};
use crate::proto::flv::classify;
use crate::proto::rtp::rtcp::{NtpTime, SENDER_REPORT_INTERVAL};
use crate::proto::rtp::{PacketizerConfig, RtpHeader, TrackKind};
use crate::proto::rtsp::SessionDescription;
use crate::stream::log::{Entry, Log, PacketEntry};
use crate::stream::tracks::Tracks;
use crate::stream::trail::{Given, TrackTrail, Trail};
use crate::stream::video_wait::VideoWait;

/// Packets made of tags.
pub(super) struct Packets {
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

impl Packets {
    /// Begins with the tags that a source's log has from its newest keyframe on, of which these tracks are
    /// known.
    pub(super) fn new((source, tracks): (&Log, &Tracks), seed: u64, now_unix: u64) -> Self {
        let timestamp_ms = source.timestamp_at(source.start_seq());
        let mut packets = Self {
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
        };
        packets.expect(source, tracks);
        // The configurations are behind the keyframe. One of a codec that the track has no more says nothing.
        for (kind, payload) in &source.prelude_at_start().tags {
            let track = match kind {
                TagKind::Video => tracks.video.as_ref(),
                TagKind::Audio => tracks.audio.as_ref(),
                TagKind::Script => None,
            };
            let codec = classify::classify(*kind, payload).map(|class| class.codec);
            if track.is_some_and(|track| Some(track.codec) != codec) {
                continue;
            }
            let tag = FlvTag { kind: *kind, timestamp_ms, payload: payload.clone().into() };
            packets.converter.handle_tag(tag, false, &mut |_| {});
        }
        packets
    }

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
    pub(super) fn behind(
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
    pub(super) fn trail(&self, description: &SessionDescription) -> Trail {
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
    pub(super) fn is_ready(&mut self, log: &mut Log, has_video: bool) -> bool {
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

    /// Whether what comes can't be read by what players were told any more.
    pub(super) fn is_void(&self) -> bool {
        self.converter.is_void()
    }

    /// Whether it has shown since the last call that no pictures come.
    pub(super) fn take_lost_video(&mut self) -> bool {
        std::mem::take(&mut self.lost_video)
    }

    pub(super) fn counts(&self) -> BridgeCounts {
        let mut counts = self.counts;
        counts += self.converter.counts();
        counts
    }

    /// Whether it is known that nothing can be made of the tracks.
    pub(super) fn is_barren(&self) -> bool {
        self.converter.is_complete() && self.converter.description().is_none()
    }

    pub(super) fn handle(&mut self, log: &mut Log, source: &Log, entry: &Entry) {
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
