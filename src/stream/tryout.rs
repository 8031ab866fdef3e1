//! A source that is tried beside another one, or that brings another form: what it sends is held back
//! until it can take over, which is at its first keyframe.
//!
//! Of what comes before, only configurations are kept: the newest few of them, copied, so that no
//! receive buffer waits for a keyframe. Frames before it are of no use to anybody.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::limits::{DRAFTS_MAX, HELD_CONFIG_LEN_MAX, HELD_CONFIGS_MAX};
use crate::media::timeline::distance;
use crate::media::{Codec, MediaPart, TagKind};
use crate::proto::flv::classify;
use crate::proto::rtp::{Format, RandomAccess, RtpPart};
use crate::proto::rtsp::SessionDescription;

use super::ingest::{METADATA_HEAD, SPLICE_AUDIO_MS_MAX};

/// What a source has brought that has not taken over yet.
pub struct Tryout {
    /// The stream has video, so that audio alone does not take over at once.
    wants_video: bool,
    saw_video: bool,
    audio_from_ms: Option<u32>,
    open: Vec<OpenTag>,
    configs: VecDeque<Config>,
    description: Option<Arc<SessionDescription>>,
    accesses: Vec<RandomAccess>,
    /// What the source said of its tracks' clocks.
    told: Vec<RtpPart>,
}

/// A tag of which something has come.
struct OpenTag {
    lane: u32,
    kind: TagKind,
    timestamp_ms: u32,
    len: u32,
    received: u32,
    verdict: Option<Verdict>,
    bytes: BytesMut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Config,
    Start,
    Drop,
}

struct Config {
    kind: TagKind,
    timestamp_ms: u32,
    bytes: Bytes,
}

impl Config {
    /// Of which kind, codec and track it is: a newer one of these takes its place.
    fn sort(&self) -> (TagKind, &[u8]) {
        let class = classify::classify(self.kind, &self.bytes);
        let head_len = class.map_or(0, |class| class.header_len.min(self.bytes.len()));
        (self.kind, &self.bytes[..head_len])
    }
}

impl Tryout {
    /// Nothing yet; `wants_video` where the stream that it is to take over has video.
    pub fn new(wants_video: bool) -> Self {
        Self {
            wants_video,
            saw_video: false,
            audio_from_ms: None,
            open: Vec::new(),
            configs: VecDeque::new(),
            description: None,
            accesses: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Takes the next part of a source of tags. When the source can take over, returns the parts that
    /// the stream is to get, this one included; what follows goes there directly.
    pub fn handle(&mut self, part: MediaPart) -> Option<Vec<MediaPart>> {
        match part {
            MediaPart::Begin { lane, kind, timestamp_ms, len } => {
                self.open.retain(|tag| tag.lane != lane);
                if self.open.len() < DRAFTS_MAX {
                    let (verdict, bytes) = (None, BytesMut::new());
                    let open =
                        OpenTag { lane, kind, timestamp_ms, len, received: 0, verdict, bytes };
                    self.open.push(open);
                }
                None
            }
            MediaPart::Data { lane, bytes } => self.data(lane, bytes),
            MediaPart::Abort { lane } => {
                self.open.retain(|tag| tag.lane != lane);
                None
            }
            MediaPart::Script { timestamp_ms, payload } => {
                if payload.starts_with(METADATA_HEAD) {
                    let bytes = Bytes::copy_from_slice(&payload);
                    self.keep(Config { kind: TagKind::Script, timestamp_ms, bytes });
                }
                None
            }
        }
    }

    /// As [`Self::handle`], of a source of packets.
    pub fn handle_rtp(&mut self, part: RtpPart) -> Option<Vec<RtpPart>> {
        match part {
            RtpPart::Begin(description) => {
                let codecs = description.media.iter().map(|media| media.format.codec());
                self.accesses = codecs.map(RandomAccess::new).collect();
                self.told.clear();
                self.description = Some(description);
                None
            }
            RtpPart::Announced { track, .. } => {
                self.tell(
                    |of| matches!(of, RtpPart::Announced { track: of, .. } if *of == track),
                    part,
                );
                None
            }
            RtpPart::Report { track, .. } => {
                self.tell(
                    |of| matches!(of, RtpPart::Report { track: of, .. } if *of == track),
                    part,
                );
                None
            }
            RtpPart::Packet { track, ref packet, .. } => {
                let description = self.description.clone()?;
                let formats = description.media.iter().map(|media| &media.format);
                // Of other codecs it is not known where their keyframes are.
                let known = |of: &Format| matches!(of.codec(), Codec::H264 | Codec::H265);
                let starts = self.accesses.get_mut(track)?.is_start(packet);
                let is_known = formats.clone().nth(track).is_some_and(known);
                if formats.clone().any(known) && !(is_known && starts) {
                    return None;
                }
                let mut parts = vec![RtpPart::Begin(description)];
                parts.append(&mut self.told);
                parts.push(part);
                Some(parts)
            }
        }
    }

    /// Keeps what is said of a track, in place of what was said before.
    fn tell(&mut self, is_before: impl Fn(&RtpPart) -> bool, part: RtpPart) {
        self.told.retain(|told| !is_before(told));
        if self.told.len() < 2 * self.accesses.len() {
            self.told.push(part);
        }
    }

    fn data(&mut self, lane: u32, bytes: Bytes) -> Option<Vec<MediaPart>> {
        let index = self.open.iter().position(|tag| tag.lane == lane)?;
        let tag = &mut self.open[index];
        if bytes.len() > (tag.len - tag.received) as usize {
            self.open.remove(index);
            return None;
        }
        tag.received += bytes.len() as u32;
        let is_whole = tag.received == tag.len;
        let before = tag.bytes.len();
        let mut rest = &bytes[..];
        if tag.verdict.is_none() {
            let (head, behind) = bytes.split_at(bytes.len().min(classify::TAG_HEAD_LEN - before));
            tag.bytes.extend_from_slice(head);
            rest = behind;
            if is_whole || tag.bytes.len() == classify::TAG_HEAD_LEN {
                let verdict = self.judge(index);
                self.open[index].verdict = Some(verdict);
                if verdict == Verdict::Start {
                    self.open[index].bytes.truncate(before);
                    return Some(self.take(index, bytes));
                }
            }
        }
        let tag = &mut self.open[index];
        if tag.verdict == Some(Verdict::Config) {
            tag.bytes.extend_from_slice(rest);
        }
        if is_whole {
            let OpenTag { kind, timestamp_ms, bytes, verdict, .. } = self.open.remove(index);
            if verdict == Some(Verdict::Config) {
                self.keep(Config { kind, timestamp_ms, bytes: bytes.freeze() });
            }
        }
        None
    }

    fn judge(&mut self, index: usize) -> Verdict {
        let tag = &self.open[index];
        let (kind, timestamp_ms) = (tag.kind, tag.timestamp_ms);
        let class = classify::classify(kind, &tag.bytes);
        let is_config = match class {
            Some(class) => class.config,
            None => kind == TagKind::Script && tag.bytes.starts_with(METADATA_HEAD),
        };
        self.saw_video |= kind == TagKind::Video;
        let starts = match kind {
            _ if is_config => return self.judge_config(index),
            TagKind::Video => class.is_some_and(|class| class.keyframe),
            TagKind::Audio => {
                let from = *self.audio_from_ms.get_or_insert(timestamp_ms);
                let waited_ms = distance(from, timestamp_ms);
                !self.saw_video && (!self.wants_video || waited_ms > SPLICE_AUDIO_MS_MAX)
            }
            TagKind::Script => false,
        };
        if starts { Verdict::Start } else { Verdict::Drop }
    }

    fn judge_config(&self, index: usize) -> Verdict {
        match self.open[index].len as usize <= HELD_CONFIG_LEN_MAX {
            true => Verdict::Config,
            false => Verdict::Drop,
        }
    }

    fn keep(&mut self, config: Config) {
        if config.bytes.len() > HELD_CONFIG_LEN_MAX {
            return;
        }
        self.configs.retain(|before| before.sort() != config.sort());
        if self.configs.len() == HELD_CONFIGS_MAX {
            self.configs.pop_front();
        }
        self.configs.push_back(config);
    }

    /// The configurations, what may be one and has not all come, and the tag that begins, of which
    /// `bytes` have just come.
    fn take(&mut self, start: usize, bytes: Bytes) -> Vec<MediaPart> {
        let mut parts = Vec::new();
        for Config { kind, timestamp_ms, bytes } in self.configs.drain(..) {
            if kind == TagKind::Script {
                parts.push(MediaPart::Script { timestamp_ms, payload: bytes });
                continue;
            }
            let (lane, len) = (CONFIG_LANE, bytes.len() as u32);
            parts.push(MediaPart::Begin { lane, kind, timestamp_ms, len });
            parts.push(MediaPart::Data { lane, bytes });
        }
        // In the order of their begins, as they are to lie in the log.
        for (index, tag) in self.open.drain(..).enumerate() {
            // Of some it is not known yet what they are.
            if tag.verdict == Some(Verdict::Drop) {
                continue;
            }
            let OpenTag { lane, kind, timestamp_ms, len, bytes: before, .. } = tag;
            parts.push(MediaPart::Begin { lane, kind, timestamp_ms, len });
            if !before.is_empty() {
                parts.push(MediaPart::Data { lane, bytes: before.freeze() });
            }
            if index == start {
                parts.push(MediaPart::Data { lane, bytes: bytes.clone() });
            }
        }
        parts
    }
}

/// No chunk stream has this id.
const CONFIG_LANE: u32 = u32::MAX - 1;

#[cfg(test)]
mod tests {
    use super::super::testing::{AUDIO_CONFIG, METADATA, VIDEO_CONFIG, payload};
    use super::*;
    use crate::proto::rtp::{Gap, RtpHeader, RtpPacket};

    /// Feeds a tag in pieces, and returns what is handed on.
    fn tag(
        tryout: &mut Tryout,
        (lane, kind, timestamp_ms): (u32, TagKind, u32),
        bytes: &[u8],
        piece: usize,
    ) -> Vec<MediaPart> {
        let len = bytes.len() as u32;
        let mut given = Vec::new();
        let begin = MediaPart::Begin { lane, kind, timestamp_ms, len };
        assert!(tryout.handle(begin).is_none());
        for bytes in bytes.chunks(piece) {
            let part = MediaPart::Data { lane, bytes: Bytes::copy_from_slice(bytes) };
            match given.is_empty() {
                true => given.extend(tryout.handle(part).into_iter().flatten()),
                false => given.push(part),
            }
        }
        given
    }

    /// The tags that the parts make: kinds and payloads.
    fn tags(parts: &[MediaPart]) -> Vec<(TagKind, Vec<u8>)> {
        let mut tags: Vec<(u32, TagKind, Vec<u8>)> = Vec::new();
        for part in parts {
            match part {
                MediaPart::Begin { lane, kind, .. } => tags.push((*lane, *kind, Vec::new())),
                MediaPart::Data { lane, bytes } => {
                    let tag = tags.iter_mut().rfind(|tag| tag.0 == *lane).expect("it has begun");
                    tag.2.extend_from_slice(bytes);
                }
                MediaPart::Script { payload, .. } => {
                    tags.push((0, TagKind::Script, payload.to_vec()))
                }
                MediaPart::Abort { .. } => panic!("nothing is aborted"),
            }
        }
        tags.into_iter().map(|(_, kind, bytes)| (kind, bytes)).collect()
    }

    #[test]
    fn a_source_begins_with_its_configurations_and_its_keyframe() {
        let keyframe = payload(&[0x17, 1, 0, 0, 0], 3000);
        for piece in [1, 2, 5, 23, 24, 25, 1000, 5000] {
            let mut tryout = Tryout::new(true);
            let payload_of = Bytes::from_static(METADATA);
            assert!(
                tryout.handle(MediaPart::Script { timestamp_ms: 0, payload: payload_of }).is_none()
            );
            let video = |at| (6, TagKind::Video, at);
            let audio = |at| (4, TagKind::Audio, at);
            assert!(tag(&mut tryout, video(0), VIDEO_CONFIG, piece).is_empty());
            assert!(tag(&mut tryout, audio(0), AUDIO_CONFIG, piece).is_empty());
            assert!(tag(&mut tryout, audio(10), &payload(&[0xaf, 1], 300), piece).is_empty());
            assert!(
                tag(&mut tryout, video(40), &payload(&[0x27, 1, 0, 0, 0], 900), piece).is_empty()
            );
            let given = tag(&mut tryout, video(80), &keyframe, piece);
            let wanted = [
                (TagKind::Script, METADATA.to_vec()),
                (TagKind::Video, VIDEO_CONFIG.to_vec()),
                (TagKind::Audio, AUDIO_CONFIG.to_vec()),
                (TagKind::Video, keyframe.clone()),
            ];
            assert_eq!(tags(&given), wanted, "{piece}");
        }
    }

    #[test]
    fn of_each_configuration_the_newest_is_held() {
        let mut tryout = Tryout::new(true);
        let other = [VIDEO_CONFIG, &[7]].concat();
        let video = |at| (6, TagKind::Video, at);
        tag(&mut tryout, video(0), VIDEO_CONFIG, 9);
        tag(&mut tryout, video(0), &other, 9);
        for timestamp_ms in 0..20 {
            tag(&mut tryout, (4, TagKind::Audio, timestamp_ms), AUDIO_CONFIG, 9);
            let payload = Bytes::from_static(METADATA);
            tryout.handle(MediaPart::Script { timestamp_ms, payload });
        }
        let given = tag(&mut tryout, video(80), &payload(&[0x17, 1, 0, 0, 0], 90), 200);
        let kinds: Vec<TagKind> = tags(&given).iter().map(|(kind, _)| *kind).collect();
        let scripts = given.iter().filter(|part| matches!(part, MediaPart::Script { .. }));
        assert_eq!(scripts.count(), 1);
        assert_eq!(kinds.iter().filter(|kind| **kind == TagKind::Audio).count(), 1);
        assert!(tags(&given).contains(&(TagKind::Video, other)));
        assert!(!tags(&given).contains(&(TagKind::Video, VIDEO_CONFIG.to_vec())));
    }

    #[test]
    fn audio_begins_where_no_video_comes() {
        let sound = payload(&[0xaf, 1], 30);
        let at = |ms| (4, TagKind::Audio, ms);
        assert!(!tag(&mut Tryout::new(false), at(0), &sound, 8).is_empty());
        let mut tryout = Tryout::new(true);
        assert!(tag(&mut tryout, at(1000), &sound, 8).is_empty());
        assert!(tag(&mut tryout, at(4000), &sound, 8).is_empty());
        assert!(!tag(&mut tryout, at(4001), &sound, 8).is_empty());
        let mut tryout = Tryout::new(false);
        tag(&mut tryout, (6, TagKind::Video, 0), VIDEO_CONFIG, 8);
        assert!(tag(&mut tryout, at(0), &sound, 8).is_empty(), "its video has a keyframe to come");
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut tryout = Tryout::new(true);
        for number in 0..3 * HELD_CONFIGS_MAX as u32 {
            let of_another_codec = [0x90, b'a' + number as u8, b'a', b'a', b'a', 1];
            tag(&mut tryout, (6, TagKind::Audio, number), &of_another_codec, 9);
            tryout.handle(MediaPart::Begin {
                lane: 100 + number,
                kind: TagKind::Video,
                timestamp_ms: 0,
                len: 1 << 20,
            });
        }
        let large = [VIDEO_CONFIG, &vec![0; HELD_CONFIG_LEN_MAX]].concat();
        tag(&mut tryout, (6, TagKind::Video, 0), &large, 4096);
        assert_eq!(tryout.configs.len(), HELD_CONFIGS_MAX);
        assert!(tryout.open.len() <= DRAFTS_MAX);
        let held: usize = tryout.open.iter().map(|tag| tag.bytes.len()).sum();
        assert!(held < HELD_CONFIG_LEN_MAX, "{held}");
    }

    #[test]
    fn what_a_source_breaks_off_is_forgotten() {
        let mut tryout = Tryout::new(true);
        let keyframe = payload(&[0x17, 1, 0, 0, 0], 100);
        let (lane, kind, timestamp_ms) = (6, TagKind::Video, 0);
        let data = |bytes: &[u8]| MediaPart::Data { lane, bytes: Bytes::copy_from_slice(bytes) };
        tryout.handle(MediaPart::Begin { lane, kind, timestamp_ms, len: 105 });
        assert!(tryout.handle(data(&keyframe[..10])).is_none());
        tryout.handle(MediaPart::Abort { lane });
        assert!(tryout.handle(data(&keyframe[10..])).is_none());
        tryout.handle(MediaPart::Begin { lane, kind, timestamp_ms, len: 5 });
        assert!(tryout.handle(data(&keyframe)).is_none(), "it brings too much");
        assert!(!tag(&mut tryout, (6, kind, 9), &keyframe, 50).is_empty());
    }

    #[test]
    fn packets_begin_with_a_keyframe_and_what_was_said_of_their_clocks() {
        let sdp =
            b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\nm=audio 0 RTP/AVP 8\r\n";
        let description = Arc::new(SessionDescription::parse(sdp).expect("a description"));
        let packet = |track: usize, payload: &[u8]| {
            let payload_type = if track == 0 { 96 } else { 8 };
            let (marker, sequence, timestamp, ssrc) = (false, 1, 7, 9);
            let header = RtpHeader { marker, payload_type, sequence, timestamp, ssrc };
            let packet = RtpPacket::parse([&header.encode()[..], payload].concat().into());
            RtpPart::Packet { track, packet: packet.expect("sound"), gap: Gap::None }
        };
        let mut tryout = Tryout::new(true);
        assert!(tryout.handle_rtp(packet(0, &[0x65, 1])).is_none(), "of no description");
        assert!(tryout.handle_rtp(RtpPart::Begin(description)).is_none());
        for timestamp in [1, 2] {
            assert!(tryout.handle_rtp(RtpPart::Announced { track: 0, timestamp }).is_none());
        }
        assert!(tryout.handle_rtp(packet(1, &[1, 2])).is_none());
        assert!(tryout.handle_rtp(packet(0, &[0x41, 1])).is_none());
        assert!(tryout.handle_rtp(packet(7, &[0x65, 1])).is_none());
        let given = tryout.handle_rtp(packet(0, &[0x65, 1])).expect("a keyframe");
        let told = RtpPart::Announced { track: 0, timestamp: 2 };
        assert!(matches!(given[..], [RtpPart::Begin(_), _, RtpPart::Packet { track: 0, .. }]));
        assert_eq!(format!("{:?}", given[1]), format!("{told:?}"));
    }
}
