//! Sources of media: tags of H.264 and AAC, as far as anybody looks, that carry their own name, so that whoever
//! gets one can tell which it is and whether it is whole.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use fastrand::Rng;
use rillcast::media::{Form, MediaPart, TagKind};

use super::packets::{AUDIO_RECORD, Sending, name_place, named, video_record};

/// What a tag is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Metadata,
    Config,
    Keyframe,
    /// A frame that is no video keyframe.
    Frame,
}

/// A tag as its source sent it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SourceTag {
    pub(crate) kind: TagKind,
    pub(crate) class: Class,
    pub(crate) timestamp_ms: u32,
    pub(crate) len: u32,
    /// The index that its payload names: an earlier one where a configuration is repeated.
    pub(crate) says: u32,
    /// When its first part was handed in.
    pub(crate) begun_at: Instant,
    /// When all of it was handed in.
    pub(crate) whole_at: Option<Instant>,
    /// The source's clock was set anew before it.
    pub(crate) clock_restarted: bool,
}

/// A tag's name, as its payload says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TagName {
    pub(crate) source: u32,
    pub(crate) index: u32,
}

/// One life of a publisher or of a pull's connection.
pub(crate) struct Source {
    pub(crate) serial: u32,
    pub(crate) key: usize,
    pub(crate) form: Form,
    pub(crate) has_video: bool,
    pub(crate) has_audio: bool,
    pub(crate) tags: Vec<SourceTag>,
    /// Lanes interleave, as RTMP chunk streams do.
    pub(crate) interleaves: bool,
    /// When bytes were handed in last.
    pub(crate) last_media: Option<Instant>,
    /// Where it brings packets.
    pub(crate) sending: Sending,
    lanes: Vec<Lane>,
    opening: VecDeque<(TagKind, Class)>,
    pub(crate) video_ms: u32,
    pub(crate) audio_ms: u32,
    video_step_ms: u32,
    frames_to_keyframe: u32,
    gop_frames: u32,
    keyframe_len_max: u32,
}

struct Lane {
    lane: u32,
    index: u32,
    rest: Bytes,
}

impl SourceTag {
    pub(crate) fn is_whole(&self) -> bool {
        self.whole_at.is_some()
    }

    pub(crate) fn is_frame(&self) -> bool {
        matches!(self.class, Class::Keyframe | Class::Frame)
    }
}

/// Bytes of the longest head with the name behind it.
pub(crate) const TAG_LEN_MIN: u32 = 21;
const AUDIO_STEP_MS: u32 = 64;
pub(crate) const METADATA_HEAD: &[u8] = b"\x02\x00\x0aonMetaData";

impl Source {
    pub(crate) fn new(
        serial: u32,
        (key, form): (usize, Form),
        interleaves: bool,
        rng: &mut Rng,
    ) -> Self {
        let (has_video, has_audio) = match rng.u32(0..10) {
            0 => (false, true),
            1 => (true, false),
            _ => (true, true),
        };
        let base = match rng.u32(0..4) {
            0 => 0,
            // Near the border of RTMP's extended timestamps, and near the wrap-around.
            1 => 0x00ff_ffff - rng.u32(0..2000),
            2 => u32::MAX - rng.u32(0..4000),
            _ => rng.u32(..),
        };
        let mut opening = VecDeque::new();
        if rng.u32(0..3) > 0 {
            opening.push_back((TagKind::Script, Class::Metadata));
        }
        if has_video {
            opening.push_back((TagKind::Video, Class::Config));
        }
        if has_audio {
            opening.push_back((TagKind::Audio, Class::Config));
        }
        let gop_frames = rng.u32(1..12);
        Self {
            serial,
            key,
            form,
            has_video,
            has_audio,
            sending: Sending::new(base, rng),
            tags: Vec::new(),
            interleaves,
            last_media: None,
            lanes: Vec::new(),
            opening,
            video_ms: base,
            audio_ms: base,
            video_step_ms: rng.u32(40..120),
            // Most begin at a keyframe; some origins do not wait for one, and some of those have few.
            frames_to_keyframe: match rng.u32(0..32) {
                0..4 => rng.u32(0..gop_frames),
                4 => rng.u32(0..100),
                _ => 0,
            },
            gop_frames,
            // A packet has 64 KiB.
            keyframe_len_max: match (form, rng.u32(0..6)) {
                (Form::Flv, 0) => 300_000,
                (Form::Rtp, 0) => 100_000,
                _ => 3000,
            },
        }
    }

    /// The next parts, and the milliseconds until those after them.
    pub(crate) fn step(&mut self, now: Instant, rng: &mut Rng) -> (Vec<MediaPart>, u64) {
        let mut parts = Vec::new();
        let may_begin = self.lanes.is_empty() || self.interleaves && rng.bool();
        if may_begin {
            self.begin(now, rng, &mut parts);
        }
        if !self.lanes.is_empty() {
            let at = rng.usize(0..self.lanes.len());
            self.send_piece(at, now, rng, &mut parts);
        }
        let is_opening = !self.opening.is_empty();
        let wait_ms = if !self.lanes.is_empty() || is_opening {
            rng.u64(0..4)
        } else {
            u64::from(self.tag_step_ms())
        };
        (parts, wait_ms)
    }

    /// The tag of a name that a player got, which must be one that was sent.
    pub(crate) fn tag(&self, index: u32) -> &SourceTag {
        self.tags.get(index as usize).expect("a player got a tag that nobody sent")
    }

    pub(crate) fn payload(&self, index: u32) -> Vec<u8> {
        let tag = self.tag(index);
        let (name, len) = (TagName { source: self.serial, index: tag.says }, tag.len as usize);
        match (tag.kind, tag.class) {
            (_, Class::Metadata) => named(METADATA_HEAD, name, len),
            (TagKind::Video, Class::Config) => named(&video_record(self.sets()), name, len),
            // It is the same for all, so that packets of one source can go on behind another one's.
            (_, Class::Config) => AUDIO_RECORD.to_vec(),
            _ => self.frame_payload(index),
        }
    }

    /// The newest configuration of a kind before a tag, if any was whole.
    pub(crate) fn config_before(&self, kind: TagKind, index: u32) -> Option<u32> {
        let before = self.tags[..index as usize].iter();
        let mut configs = before.filter(|tag| tag.kind == kind && tag.class == Class::Config);
        configs.rfind(|tag| tag.is_whole()).map(|tag| tag.says)
    }

    /// Whether no whole keyframe came before this one.
    pub(crate) fn is_first_keyframe(&self, index: u32) -> bool {
        let mut before = self.tags[..index as usize].iter();
        let is_keyframe = self.tag(index).class == Class::Keyframe;
        is_keyframe && !before.any(|tag| tag.class == Class::Keyframe && tag.is_whole())
    }

    pub(crate) fn tag_step_ms(&self) -> u32 {
        match (self.has_video, self.has_audio) {
            (true, true) => {
                self.video_step_ms * AUDIO_STEP_MS / (self.video_step_ms + AUDIO_STEP_MS)
            }
            (true, false) => self.video_step_ms,
            _ => AUDIO_STEP_MS,
        }
    }

    /// The newest tag that a player can start at and that was in order before a time: whole, and
    /// no longer held up by one that was begun before it.
    pub(crate) fn start_before(&self, time: Instant) -> Option<(u32, Instant)> {
        let held_from = self.lanes.iter().map(|open| open.index as usize).min();
        let mut newest_first = (0..held_from.unwrap_or(self.tags.len())).rev();
        let index = newest_first.find(|&index| {
            let tag = &self.tags[index];
            tag.class == Class::Keyframe && tag.whole_at.is_some_and(|at| at < time)
        })?;
        let at = self.tags[..=index].iter().filter_map(|tag| tag.whole_at).max()?;
        (at < time).then_some((index as u32, at))
    }

    fn begin(&mut self, now: Instant, rng: &mut Rng, parts: &mut Vec<MediaPart>) {
        let mut clock_restarted = false;
        let (kind, class) = match self.opening.pop_front() {
            Some(opening) => opening,
            None => {
                let has = |kind| self.tags.iter().any(|tag| tag.is_frame() && tag.kind == kind);
                let has_begun = (!self.has_video || has(TagKind::Video))
                    && (!self.has_audio || has(TagKind::Audio));
                if has_begun && self.lanes.is_empty() && rng.u32(0..400) == 0 {
                    self.restart_clock(rng);
                    clock_restarted = true;
                }
                if rng.u32(0..60) == 0 { self.again(rng) } else { self.next_frame() }
            }
        };
        let lane = match kind {
            TagKind::Script => 5,
            _ if !self.interleaves => 0,
            TagKind::Video => 6,
            TagKind::Audio => 4,
        };
        if self.lanes.iter().any(|open| open.lane == lane) {
            // A lane's tags come one behind the other; this one has its turn later.
            self.opening.push_front((kind, class));
            return;
        }
        let timestamp_ms = match kind {
            TagKind::Video => self.video_ms,
            _ => self.audio_ms,
        };
        let index = self.tags.len() as u32;
        let len = self.len_of(kind, class, rng);
        let mut tag = SourceTag {
            kind,
            class,
            timestamp_ms,
            len,
            says: index,
            begun_at: now,
            whole_at: None,
            clock_restarted,
        };
        if class == Class::Config && rng.u32(0..3) > 0 {
            let before = self.tags.iter().rfind(|old| old.kind == kind && old.class == class);
            if let Some(old) = before {
                (tag.says, tag.len) = (old.says, old.len);
            }
        }
        if matches!(class, Class::Keyframe | Class::Frame) {
            self.count_frame(kind);
        }
        self.tags.push(tag);
        let payload = Bytes::from(self.payload(index));
        if kind == TagKind::Script {
            self.tags[index as usize].whole_at = Some(now);
            parts.push(MediaPart::Script { timestamp_ms, payload });
        } else {
            let len = payload.len() as u32;
            parts.push(MediaPart::Begin { lane, kind, timestamp_ms, len });
            self.lanes.push(Lane { lane, index, rest: payload });
        }
    }

    /// Hands on the next bytes of an open tag, or gives it up, which happens but rarely.
    fn send_piece(&mut self, at: usize, now: Instant, rng: &mut Rng, parts: &mut Vec<MediaPart>) {
        let open = &mut self.lanes[at];
        let lane = open.lane;
        if self.interleaves && rng.u32(0..300) == 0 {
            self.lanes.remove(at);
            parts.push(MediaPart::Abort { lane });
            return;
        }
        let whole = rng.u32(0..4) > 0;
        let len = if whole { open.rest.len() } else { rng.usize(1..=open.rest.len()) };
        parts.push(MediaPart::Data { lane, bytes: open.rest.split_to(len) });
        self.last_media = Some(now);
        if open.rest.is_empty() {
            self.tags[open.index as usize].whole_at = Some(now);
            self.lanes.remove(at);
        }
    }

    /// The clock of a kind goes on by a frame.
    pub(crate) fn count_frame(&mut self, kind: TagKind) {
        match kind {
            TagKind::Video => self.video_ms = self.video_ms.wrapping_add(self.video_step_ms),
            _ => self.audio_ms = self.audio_ms.wrapping_add(AUDIO_STEP_MS),
        }
    }

    pub(crate) fn next_frame(&mut self) -> (TagKind, Class) {
        let is_audio_due = self.video_ms.wrapping_sub(self.audio_ms).cast_signed() > 0;
        if !self.has_video || self.has_audio && is_audio_due {
            return (TagKind::Audio, Class::Frame);
        }
        if self.frames_to_keyframe == 0 {
            self.frames_to_keyframe = self.gop_frames - 1;
            return (TagKind::Video, Class::Keyframe);
        }
        self.frames_to_keyframe -= 1;
        (TagKind::Video, Class::Frame)
    }

    /// A configuration or metadata once more. A new configuration comes right before a keyframe.
    fn again(&mut self, rng: &mut Rng) -> (TagKind, Class) {
        match rng.u32(0..3) {
            0 => (TagKind::Script, Class::Metadata),
            1 if self.has_audio => (TagKind::Audio, Class::Config),
            _ if self.has_video => {
                self.frames_to_keyframe = 0;
                (TagKind::Video, Class::Config)
            }
            _ => (TagKind::Audio, Class::Config),
        }
    }

    fn restart_clock(&mut self, rng: &mut Rng) {
        let base = rng.u32(..);
        self.video_ms = base;
        self.audio_ms = base;
    }

    pub(crate) fn len_of(&self, kind: TagKind, class: Class, rng: &mut Rng) -> u32 {
        let max = match (kind, class) {
            (TagKind::Video, Class::Keyframe) => self.keyframe_len_max,
            (TagKind::Video, Class::Frame) => 900,
            (_, Class::Frame) => 250,
            _ => 80,
        };
        rng.u32(TAG_LEN_MIN..=max)
    }
}

/// The name in a payload.
///
/// # Panics
/// When the payload is none of ours.
pub(crate) fn name_of(kind: TagKind, payload: &[u8]) -> TagName {
    let at = match kind {
        TagKind::Script => METADATA_HEAD.len(),
        TagKind::Video => name_place(payload),
        TagKind::Audio => 2,
    };
    let word = |at: usize| {
        let bytes = payload.get(at..at + 4).expect("a payload is shorter than any that was sent");
        u32::from_be_bytes(bytes.try_into().expect("four bytes"))
    };
    TagName { source: word(at), index: word(at + 4) }
}
