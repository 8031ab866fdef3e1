//! A source that is tried beside another one, or that brings another form: what it sends is held back
//! until it can take over, which is when its first keyframe has come.
//!
//! Of what comes before, only configurations are kept: the newest of each sort. Frames before it are of
//! no use to anybody. All that is held is copied, so that no receive buffer waits for a keyframe.

mod packets;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::limits::{
    DRAFTS_MAX, HELD_CONFIG_LEN_MAX, HELD_CONFIGS_MAX, HELD_PART_COST, HELD_START_LEN_MAX,
};
use crate::media::codec::ParameterSets;
use crate::media::start_points::StartPoints;
use crate::media::timeline::distance;
use crate::media::{MediaPart, TagKind};
use crate::proto::flv::classify;
use crate::proto::rtp::{RandomAccess, RtpPart};
use crate::proto::rtsp::SessionDescription;

use super::ingest::METADATA_HEAD;
use super::media::Media;
use super::rtp_ingest::RtpDropped;
use super::video_wait::{SOUND_ALONE_MS_MAX, VideoWait};
use packets::Pictures;

/// What a source has brought that has not taken over yet.
#[derive(Default)]
pub struct Tryout {
    /// The stream has video, so that audio alone does not take over at once.
    wants_video: bool,
    /// A configuration of video or a picture has come.
    has_video: bool,
    /// A picture has come.
    saw_video: bool,
    audio_from_ms: Option<u32>,
    open: Vec<OpenTag>,
    configs: VecDeque<Config>,
    description: Option<Arc<SessionDescription>>,
    /// Its main track of video.
    video: Option<usize>,
    /// Of H.264 and H.265 those of that track, told before or in band.
    sets: Option<ParameterSets>,
    accesses: Vec<RandomAccess>,
    /// What the source said of its tracks' clocks.
    told: Vec<RtpPart>,
    /// Packets that may belong to a keyframe that comes next.
    lead: Vec<RtpPart>,
    starts: StartPoints,
    pictures: Pictures,
    /// Of packets: the main track of sound, its first timestamp, and how long it has come alone.
    audio: Option<usize>,
    sound_first: Option<u32>,
    video_wait: VideoWait,
    /// It is to begin with a picture that is no keyframe.
    stands_in: bool,
    /// It is to begin with sound, though video was told of or is wanted.
    lacks_video: bool,
    /// Something has come that is not held.
    passed_over: bool,
    start: Option<Start<MediaPart>>,
    packets: Option<Start<RtpPart>>,
    dropped: TrialDropped,
}

/// What a source has brought that nobody gets: what came before its keyframe, or was broken off. What is
/// held of one that ends is not in it, nor are configurations whose place newer ones took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrialDropped {
    pub tags: u64,
    pub packets: RtpDropped,
}

/// What is held of a source that can take over, from the configurations on, until its first frame is
/// whole: one that breaks off there is not to have ended what it was to replace.
struct Start<P> {
    parts: Vec<P>,
    /// What is held counts for so much.
    cost: usize,
    /// Of tags the lane of the frame, of packets the track.
    of: u32,
    /// Of tags the bytes to come.
    left: u32,
}

impl<P> Start<P> {
    fn is_large(&self) -> bool {
        self.cost >= HELD_START_LEN_MAX
    }
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

#[derive(Clone)]
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
        Self { wants_video, ..Self::default() }
    }

    /// The source that can take over begins with a picture that stands in for a keyframe.
    pub fn stands_in(&self) -> bool {
        self.stands_in
    }

    /// The source that can take over begins without the video that it has told of, or that is wanted.
    pub fn lacks_video(&self) -> bool {
        self.lacks_video
    }

    /// Has a stream begin with what the source that can take over begins with.
    pub fn begin_in(&self, media: &mut Media) {
        if self.stands_in {
            media.start_at_next();
        }
        if self.lacks_video {
            media.start_without_video();
        }
    }

    /// Media has come, and no keyframe yet.
    pub fn needs_patience(&self) -> bool {
        self.passed_over
    }

    /// What has been dropped since the last call.
    pub fn take_dropped(&mut self) -> TrialDropped {
        std::mem::take(&mut self.dropped)
    }

    /// Some of what it is to take over with has come, and not all.
    pub fn is_within_frame(&self) -> bool {
        self.start.is_some() || self.packets.is_some()
    }

    /// Takes the next part of a source of tags. When the source can take over, returns the parts that
    /// the stream is to get, this one included; what follows goes there directly.
    pub fn handle(&mut self, part: MediaPart) -> Option<Vec<MediaPart>> {
        if self.start.is_some() {
            return self.follow(part);
        }
        match part {
            MediaPart::Begin { lane, kind, timestamp_ms, len } => {
                self.abort(lane);
                if self.open.len() == DRAFTS_MAX {
                    self.dropped.tags += 1;
                } else {
                    let (verdict, bytes) = (None, BytesMut::new());
                    let open =
                        OpenTag { lane, kind, timestamp_ms, len, received: 0, verdict, bytes };
                    self.open.push(open);
                }
                None
            }
            MediaPart::Data { lane, bytes } => self.data(lane, bytes),
            MediaPart::Abort { lane } => {
                self.abort(lane);
                None
            }
            MediaPart::Script { timestamp_ms, payload } => {
                if payload.starts_with(METADATA_HEAD) && payload.len() <= HELD_CONFIG_LEN_MAX {
                    let bytes = Bytes::copy_from_slice(&payload);
                    self.keep(Config { kind: TagKind::Script, timestamp_ms, bytes });
                } else {
                    self.dropped.tags += 1;
                }
                None
            }
        }
    }

    /// What has come of a tag is all that comes.
    fn abort(&mut self, lane: u32) {
        let open = self.open.len();
        self.open.retain(|tag| tag.lane != lane);
        self.dropped.tags += (open - self.open.len()) as u64;
    }

    /// Holds parts until the frame is whole.
    fn follow(&mut self, part: MediaPart) -> Option<Vec<MediaPart>> {
        let start = self.start.as_mut()?;
        let of = start.of;
        start.cost += HELD_PART_COST;
        let held = match part {
            MediaPart::Begin { lane, .. } | MediaPart::Abort { lane } if lane == of => {
                self.drop_start();
                return self.handle(part);
            }
            MediaPart::Begin { .. } | MediaPart::Abort { .. } => part,
            MediaPart::Data { lane, bytes } => {
                if lane == of {
                    let Some(left) = start.left.checked_sub(bytes.len() as u32) else {
                        self.drop_start();
                        return None;
                    };
                    start.left = left;
                }
                start.cost += bytes.len();
                MediaPart::Data { lane, bytes: Bytes::copy_from_slice(&bytes) }
            }
            MediaPart::Script { timestamp_ms, payload } => {
                start.cost += payload.len();
                MediaPart::Script { timestamp_ms, payload: Bytes::copy_from_slice(&payload) }
            }
        };
        start.parts.push(held);
        let can_go = start.left == 0 || start.is_large();
        can_go.then(|| self.start.take().map(|start| start.parts)).flatten()
    }

    /// The frame that it was to take over with does not come whole. What is begun beside it goes with it.
    fn drop_start(&mut self) {
        let parts = self.start.take().map(|start| start.parts).unwrap_or_default();
        let of_media = |part: &&MediaPart| match part {
            MediaPart::Begin { lane, .. } => *lane != CONFIG_LANE,
            _ => false,
        };
        self.dropped.tags += parts.iter().filter(of_media).count() as u64;
    }

    fn data(&mut self, lane: u32, bytes: Bytes) -> Option<Vec<MediaPart>> {
        let index = self.open.iter().position(|tag| tag.lane == lane)?;
        let tag = &mut self.open[index];
        if bytes.len() > (tag.len - tag.received) as usize {
            self.abort(lane);
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
                    return self.start(index, bytes);
                }
            }
        }
        let tag = &mut self.open[index];
        if tag.verdict == Some(Verdict::Config) {
            tag.bytes.extend_from_slice(rest);
        }
        if is_whole {
            let OpenTag { kind, timestamp_ms, bytes, verdict, .. } = self.open.remove(index);
            match verdict {
                Some(Verdict::Config) => {
                    self.keep(Config { kind, timestamp_ms, bytes: bytes.freeze() });
                }
                _ => self.dropped.tags += 1,
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
        self.has_video |= kind == TagKind::Video;
        let starts = match kind {
            _ if is_config => return self.judge_config(index),
            TagKind::Video => {
                self.saw_video = true;
                let is_keyframe = class.is_some_and(|class| class.keyframe);
                let starts = self.starts.is_start(is_keyframe, timestamp_ms);
                self.stands_in = starts && !is_keyframe;
                starts
            }
            TagKind::Audio => {
                let from = *self.audio_from_ms.get_or_insert(timestamp_ms);
                let waited_ms = distance(from, timestamp_ms);
                let has_waited = waited_ms > SOUND_ALONE_MS_MAX;
                self.lacks_video = self.wants_video && has_waited && !self.saw_video;
                self.lacks_video || !self.wants_video && !self.has_video
            }
            TagKind::Script => false,
        };
        self.passed_over |= !starts;
        if starts { Verdict::Start } else { Verdict::Drop }
    }

    /// What the source can take over with begins.
    fn start(&mut self, index: usize, bytes: Bytes) -> Option<Vec<MediaPart>> {
        let OpenTag { lane, len, received, .. } = self.open[index];
        let left = len - received;
        if left == 0 {
            return Some(self.take(index, bytes));
        }
        let cost = received as usize;
        let parts = self.take(index, Bytes::copy_from_slice(&bytes));
        self.start = Some(Start { parts, cost, of: lane, left });
        None
    }

    fn judge_config(&self, index: usize) -> Verdict {
        match self.open[index].len as usize <= HELD_CONFIG_LEN_MAX {
            true => Verdict::Config,
            false => Verdict::Drop,
        }
    }

    fn keep(&mut self, config: Config) {
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
        for Config { kind, timestamp_ms, bytes } in self.configs.iter().cloned() {
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
                self.dropped.tags += 1;
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
mod tests;
