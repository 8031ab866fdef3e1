//! Sources that bring RTP: pictures of H.264 in one packet or two, and AAC, each with its name in it. And
//! what a player over RTSP may get of them.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fastrand::Rng;
use rillcast::media::{Form, TagKind};
use rillcast::proto::rtp::{Gap, RtpHeader, RtpPacket, RtpPart, TrackKind};
use rillcast::proto::rtsp::SessionDescription;

use super::media::{Class, Source, SourceTag, TagName};

const H264: &str = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1; \
    sprop-parameter-sets=";
/// Parameter sets of sources, which they tell in their descriptions alone. Nothing but the level differs.
const SETS: [&str; 2] = [
    "Z0LAKNoB4AiflwEQAAA+kAAOpgDxgyo=,aM4PyA==\r\n",
    "Z0LAH9oB4AiflwEQAAA+kAAOpgDxgyo=,aM4PyA==\r\n",
];
/// The level in each of them.
const LEVELS: [u8; 2] = [0x28, 0x1f];
const AAC: &str = "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 mpeg4-generic/16000/1\r\na=fmtp:97 \
    streamtype=5; profile-level-id=1; mode=AAC-hbr; sizelength=13; indexlength=3; \
    indexdeltalength=3; config=1408\r\n";
/// Pictures longer than that are two slices, each in a packet.
const SLICE_LEN_MAX: usize = 600;
/// Before the name in a slice: its type, and where in the picture it begins.
const SLICE_HEAD_LEN: usize = 2;
/// Before the name in a packet of audio: one unit, and its length.
const UNIT_HEAD_LEN: usize = 4;
const NAME_LEN: usize = 8;
/// The tag of an avcC with one set of each kind.
const VIDEO_RECORD_LEN: usize = 43;
/// The tag of the AudioSpecificConfig of all sources.
pub(crate) const AUDIO_RECORD: &[u8] = &[0xaf, 0, 0x14, 0x08];
/// Types of packets that do not hold one unit.
const AGGREGATED: u8 = 24;
const FRAGMENT: u8 = 28;
/// The first bytes of parameter sets.
const SPS: u8 = 0x67;
const PPS: u8 = 0x68;

/// What of a source of packets is still to be sent, and how its clocks and counters stand.
#[derive(Default)]
pub(crate) struct Sending {
    has_begun: bool,
    /// Which parameter sets it has.
    sets: usize,
    base_ms: u32,
    timestamps: [u32; 2],
    sequences: [u16; 2],
    /// Of the frame that is being sent.
    rest: Vec<(usize, Bytes)>,
}

impl Sending {
    pub(crate) fn new(base_ms: u32, rng: &mut Rng) -> Self {
        let (timestamps, sequences) = ([rng.u32(..), rng.u32(..)], [rng.u16(..), rng.u16(..)]);
        let sets = rng.usize(0..SETS.len());
        Self { base_ms, timestamps, sequences, sets, ..Self::default() }
    }
}

impl Source {
    /// As [`Source::step`], of a source of packets.
    pub(crate) fn step_rtp(&mut self, now: Instant, rng: &mut Rng) -> (Vec<RtpPart>, u64) {
        if !std::mem::replace(&mut self.sending.has_begun, true) {
            return (self.opening_rtp(), rng.u64(0..4));
        }
        if self.sending.rest.is_empty() {
            self.begin_frame(now, rng);
        }
        let (track, bytes) = self.sending.rest.remove(0);
        self.last_media = Some(now);
        let is_whole = self.sending.rest.is_empty();
        if is_whole {
            self.tags.last_mut().expect("just begun").whole_at = Some(now);
        }
        let packet = RtpPacket::parse(bytes).expect("a packet");
        let wait_ms = if is_whole { u64::from(self.tag_step_ms()) } else { rng.u64(0..40) };
        (vec![RtpPart::Packet { track, packet, gap: Gap::None }], wait_ms)
    }

    fn opening_rtp(&self) -> Vec<RtpPart> {
        let mut text = "v=0\r\n".to_owned();
        if self.has_video {
            text.push_str(H264);
            text.push_str(SETS[self.sets()]);
        }
        text += if self.has_audio { AAC } else { "" };
        let description = SessionDescription::parse(text.as_bytes()).expect("a description");
        let mut parts = vec![RtpPart::Begin(Arc::new(description))];
        for kind in [TagKind::Video, TagKind::Audio].into_iter().filter(|&kind| self.has(kind)) {
            let timestamp = self.sending.timestamps[of(kind)];
            parts.push(RtpPart::Announced { track: self.track_of(kind), timestamp });
        }
        parts
    }

    /// Which parameter sets it has, of those that there are.
    pub(crate) fn sets(&self) -> usize {
        self.sending.sets
    }

    /// What players over RTSP need to know of it, beside its parameter sets: whether it has video and sound.
    pub(crate) fn tracks(&self) -> [bool; 2] {
        [self.has_video, self.has_audio]
    }

    fn begin_frame(&mut self, begun_at: Instant, rng: &mut Rng) {
        let (kind, class) = self.next_frame();
        let timestamp_ms = match kind {
            TagKind::Video => self.video_ms,
            _ => self.audio_ms,
        };
        let index = self.tags.len() as u32;
        let (len, whole_at, clock_restarted) = (self.len_of(kind, class, rng), None, false);
        let says = index;
        self.tags.push(SourceTag {
            kind,
            class,
            timestamp_ms,
            len,
            says,
            begun_at,
            whole_at,
            clock_restarted,
        });
        self.count_frame(kind);
        let bodies = self.bodies(index);
        let ticks = if kind == TagKind::Video { 90 } else { 16 };
        let since = timestamp_ms.wrapping_sub(self.sending.base_ms).wrapping_mul(ticks);
        let timestamp = self.sending.timestamps[of(kind)].wrapping_add(since);
        let (track, payload_type) = (self.track_of(kind), 96 + of(kind) as u8);
        let ssrc = 2 * self.serial + of(kind) as u32 + 1;
        let count = bodies.len();
        for (at, body) in bodies.into_iter().enumerate() {
            let sequence = &mut self.sending.sequences[of(kind)];
            *sequence = sequence.wrapping_add(1);
            let (marker, sequence) = (at + 1 == count, *sequence);
            let header = RtpHeader { marker, payload_type, sequence, timestamp, ssrc };
            let bytes = [&header.encode()[..], &body].concat();
            self.sending.rest.push((track, bytes.into()));
        }
    }

    /// The payloads of a frame's packets.
    fn bodies(&self, index: u32) -> Vec<Vec<u8>> {
        let tag = self.tag(index);
        let name = TagName { source: self.serial, index };
        if tag.kind == TagKind::Audio {
            let unit = named(&[], name, tag.len as usize);
            let size = (unit.len() as u16) << 3;
            let head = [&16_u16.to_be_bytes()[..], &size.to_be_bytes()].concat();
            return vec![[head, unit].concat()];
        }
        let head = if tag.class == Class::Keyframe { 0x65 } else { 0x41 };
        let len = tag.len as usize;
        match len > SLICE_LEN_MAX {
            true => vec![named(&[head, 0x80], name, len / 2), named(&[head, 0x40], name, len / 2)],
            false => vec![named(&[head, 0x80], name, len)],
        }
    }

    /// The tag of a frame, or that is made of it.
    pub(crate) fn frame_payload(&self, index: u32) -> Vec<u8> {
        let tag = self.tag(index);
        let bodies = self.bodies(index);
        if tag.kind == TagKind::Audio {
            return [&[0xaf, 1], &bodies[0][UNIT_HEAD_LEN..]].concat();
        }
        let head = if tag.class == Class::Keyframe { 0x17 } else { 0x27 };
        let mut payload = vec![head, 1, 0, 0, 0];
        for slice in bodies {
            payload.extend_from_slice(&(slice.len() as u32).to_be_bytes());
            payload.extend_from_slice(&slice);
        }
        payload
    }

    fn has(&self, kind: TagKind) -> bool {
        if kind == TagKind::Video { self.has_video } else { self.has_audio }
    }

    fn track_of(&self, kind: TagKind) -> usize {
        usize::from(kind == TagKind::Audio && self.has_video)
    }
}

/// Follows the packets of one player over RTSP, interleaved.
#[derive(Default)]
pub(crate) struct PacketChecker {
    key: usize,
    /// Bytes of the protocol that go before the first packet.
    unsent: usize,
    /// Whether it was told of video and sound.
    told: [bool; 2],
    /// The fragments of a NAL unit, as far as they have come.
    fragments: Vec<u8>,
    /// Which parameter sets it was told last, by its description or since.
    sets: Option<usize>,
    bytes: Vec<u8>,
    tracks: [Option<RtpHeader>; 2],
    last: Option<TagName>,
    former: Vec<u32>,
    /// Nothing but a keyframe may be the next video.
    awaits_keyframe: bool,
    gaps_of: [u64; 2],
    pub(crate) gaps: u64,
    pub(crate) frames: u64,
    /// How often it was told other parameter sets than before.
    pub(crate) changes_of_sets: u64,
    /// That the source of the last frame brings.
    form: Option<Form>,
    /// How often it went on with a source of another form.
    pub(crate) changes_of_form: u64,
}

impl PacketChecker {
    /// Of a player that was described the stream so.
    pub(crate) fn new(key: usize, unsent: usize, description: &SessionDescription) -> Self {
        let formats = description.media.iter().map(|media| &media.format);
        let told = [TrackKind::Video, TrackKind::Audio]
            .map(|kind| formats.clone().any(|format| format.kind == kind));
        let video = formats.filter(|format| format.kind == TrackKind::Video);
        let sets = video.filter_map(|format| format.parameter_sets().sps().next().cloned());
        let sets = sets.map(|sps| sets_of(&sps)).next();
        Self { key, unsent, sets, told, awaits_keyframe: true, ..Self::default() }
    }

    /// Whether it was told of video and sound.
    pub(crate) fn told(&self) -> [bool; 2] {
        self.told
    }

    pub(crate) fn handle_input(&mut self, mut bytes: &[u8], sources: &[Source]) {
        let skipped = self.unsent.min(bytes.len());
        self.unsent -= skipped;
        bytes = &bytes[skipped..];
        self.bytes.extend_from_slice(bytes);
        while let Some(head) = self.bytes.get(..4) {
            assert_eq!(head[0], b'$', "no interleaved packet");
            let channel = head[1];
            let end = 4 + usize::from(u16::from_be_bytes([head[2], head[3]]));
            if self.bytes.len() < end {
                break;
            }
            let packet: Bytes = self.bytes.drain(..end).skip(4).collect::<Vec<u8>>().into();
            if channel % 2 == 0 {
                let packet = RtpPacket::parse(packet).expect("a packet");
                self.handle_packet(usize::from(channel / 2), &packet, sources);
            }
        }
    }

    pub(crate) fn is_between_packets(&self) -> bool {
        self.unsent == 0 && self.bytes.is_empty()
    }

    fn handle_packet(&mut self, track: usize, packet: &RtpPacket, sources: &[Source]) {
        let payload = packet.payload();
        // The length of AU headers begins with a zero.
        let is_video = payload[0] != 0;
        self.check_header(track, packet.header(), is_video);
        if is_video {
            self.units(&payload).iter().for_each(|unit| self.handle_unit(unit, true, sources));
        } else {
            self.handle_unit(&payload, false, sources);
        }
        self.frames += u64::from(packet.header().marker);
    }

    /// The NAL units that end with a packet (RFC 6184, 5.6 to 5.8).
    fn units(&mut self, payload: &[u8]) -> Vec<Vec<u8>> {
        match payload[0] & 0x1f {
            AGGREGATED => {
                let mut units = Vec::new();
                let mut rest = &payload[1..];
                while let Some((len, behind)) = rest.split_first_chunk() {
                    let (unit, behind) = behind.split_at(usize::from(u16::from_be_bytes(*len)));
                    units.push(unit.to_vec());
                    rest = behind;
                }
                units
            }
            FRAGMENT => {
                if payload[1] & 0x80 != 0 {
                    self.fragments = vec![payload[0] & 0xe0 | payload[1] & 0x1f];
                }
                // Of a unit whose beginning came before a gap nothing is of use.
                if !self.fragments.is_empty() {
                    self.fragments.extend_from_slice(&payload[2..]);
                }
                let is_end = payload[1] & 0x40 != 0 && !self.fragments.is_empty();
                is_end.then(|| std::mem::take(&mut self.fragments)).into_iter().collect()
            }
            _ => vec![payload.to_vec()],
        }
    }

    fn handle_unit(&mut self, unit: &[u8], is_video: bool, sources: &[Source]) {
        if is_video && matches!(unit[0], SPS | PPS) {
            let sets = if unit[0] == SPS { Some(sets_of(unit)) } else { self.sets };
            self.changes_of_sets += u64::from(sets != self.sets);
            self.sets = sets;
            return;
        }
        let name = name_at(unit, if is_video { SLICE_HEAD_LEN } else { UNIT_HEAD_LEN });
        let source = sources.get(name.source as usize).filter(|source| {
            let is_known = (name.index as usize) < source.tags.len();
            is_known && source.bodies(name.index).iter().any(|body| body[..] == *unit)
        });
        let source = source.unwrap_or_else(|| panic!("{name:?} came in damaged"));
        assert_eq!(source.key, self.key, "a packet of another stream");
        self.check_order(name, source);
        if is_video {
            let may_come = !self.awaits_keyframe || source.tag(name.index).class == Class::Keyframe;
            assert!(may_come, "{name:?} is to be the first picture and is no keyframe");
            self.awaits_keyframe = false;
            let is_told = source.form == Form::Rtp
                || source.config_before(TagKind::Video, name.index).is_some();
            let sets = Some(source.sets());
            assert!(!is_told || self.sets == sets, "it lacks the parameter sets of {name:?}");
        }
        self.last = Some(name);
    }

    fn check_header(&mut self, track: usize, header: RtpHeader, is_video: bool) {
        let Some(last) = self.tracks[track].replace(header) else { return };
        assert_eq!(header.ssrc, last.ssrc, "a track has one sender");
        let step = header.timestamp.wrapping_sub(last.timestamp).cast_signed();
        assert!(step >= 0, "{header:?} steps back by {step}");
        let missing = header.sequence.wrapping_sub(last.sequence).wrapping_sub(1);
        assert!(missing < 0x8000, "{header:?} came again");
        if missing > 0 {
            // A jump shows in each track, in video at its keyframe and in audio behind that.
            self.gaps_of[track] += 1;
            self.gaps = self.gaps_of[0].max(self.gaps_of[1]);
            self.awaits_keyframe |= is_video;
            if is_video {
                self.fragments.clear();
            }
        }
    }

    fn check_order(&mut self, name: TagName, source: &Source) {
        match self.last {
            Some(last) if last.source == name.source => assert!(last.index <= name.index),
            Some(last) => {
                assert!(!self.former.contains(&name.source), "{name:?} behind {last:?}");
                self.former.push(last.source);
                self.awaits_keyframe = true;
                self.changes_of_form += u64::from(self.form != Some(source.form));
            }
            None => {}
        }
        self.form = Some(source.form);
    }
}

/// Of metadata or a configuration that has no name, because it was made of packets or is the same for all
/// sources: of which parameter sets.
pub(crate) fn made_config(kind: TagKind, payload: &[u8]) -> Option<usize> {
    let is_made = match kind {
        TagKind::Script => payload.get(super::media::METADATA_HEAD.len()) == Some(&8),
        TagKind::Video => payload[1] == 0 && payload.len() == VIDEO_RECORD_LEN,
        TagKind::Audio => payload == AUDIO_RECORD,
    };
    // Behind the tag's head comes what an SPS begins with (ISO 14496-15, 5.3.3.1).
    is_made.then(|| if kind == TagKind::Video { sets_of(&payload[5..]) } else { 0 })
}

/// Which parameter sets they are, by an SPS or an avcC.
fn sets_of(bytes: &[u8]) -> usize {
    LEVELS.iter().position(|level| *level == bytes[3]).expect("one of ours")
}

/// Where the name is in a tag of video: behind a configuration's record, or in a slice behind its length.
pub(crate) fn name_place(payload: &[u8]) -> usize {
    if payload[1] == 0 { VIDEO_RECORD_LEN } else { 9 + SLICE_HEAD_LEN }
}

/// The tag of a configuration with these parameter sets, to which a source adds its name.
pub(crate) fn video_record(sets: usize) -> Vec<u8> {
    let media = ["v=0\r\n", H264, SETS[sets]].concat();
    let description = SessionDescription::parse(media.as_bytes()).expect("a description");
    let record = description.media[0].format.parameter_sets().to_record().expect("both of them");
    let tag = [&[0x17, 0, 0, 0, 0][..], &record].concat();
    assert_eq!(tag.len(), VIDEO_RECORD_LEN);
    tag
}

fn name_at(payload: &[u8], at: usize) -> TagName {
    let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
    TagName { source: word(at), index: word(at + 4) }
}

/// A head, the name, and a pattern that follows from it.
pub(crate) fn named(head: &[u8], name: TagName, len: usize) -> Vec<u8> {
    let mut bytes = head.to_vec();
    bytes.extend_from_slice(&name.source.to_be_bytes());
    bytes.extend_from_slice(&name.index.to_be_bytes());
    let pattern = name.source.wrapping_mul(31).wrapping_add(name.index.wrapping_mul(7)) as u8;
    bytes.resize(len.max(head.len() + NAME_LEN), pattern);
    bytes
}

fn of(kind: TagKind) -> usize {
    usize::from(kind == TagKind::Audio)
}
