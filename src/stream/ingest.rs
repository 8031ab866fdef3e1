//! Media parts into a log: the one place where media bytes are copied, each of them once.
//!
//! A tag says its length when it begins, so its place in the log is reserved then and its bytes are
//! written there as they come in. Tags that come in side by side (interleaved RTMP chunk streams)
//! have places one behind the other, and are committed in the order of their begins.

use std::collections::VecDeque;

use super::log::{Entry, Log};
use super::tracks::Tracks;
use super::video_wait::SOUND_ALONE_MS_MAX;
use crate::limits::{DRAFTS_LEN_MAX, DRAFTS_MAX};
use crate::media::timeline::{Timeline, distance};
use crate::media::{MediaPart, Payload, StartPoints, TagKind};
use crate::proto::flv::classify::{self, TagClass};
use crate::proto::flv::{TAG_HEADER_LEN, TAG_SIZE_LEN, TagHeader};
use crate::ring::prefetch_at;

/// What a part led to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Tags were committed.
    pub committed: bool,
    /// One of them is a coded frame.
    pub frame: bool,
    /// One of them is video, so the log is to be flushed in this tick.
    pub video: bool,
    /// The stream has no video any more: what others know of the tracks holds no more.
    pub lost_video: bool,
    /// What came goes beside audio and video, and is no sign that those still come.
    pub beside: bool,
}

impl Progress {
    fn add(&mut self, other: Self) {
        self.committed |= other.committed;
        self.frame |= other.frame;
        self.video |= other.video;
        self.lost_video |= other.lost_video;
    }
}

/// Bytes in, and bytes copied in user space to bring them into the log: as many, or fewer where a
/// tag is not taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IngestBytes {
    pub received: u64,
    pub copied: u64,
    /// Copies of metadata and configurations beyond that: assembled to be read, and kept for
    /// players to come.
    pub config_copied: u64,
}

/// Writes one stream's log.
#[derive(Default)]
pub struct Ingest {
    timeline: Timeline,
    tracks: Tracks,
    /// Tags whose places are reserved, in the order of their begins; the log's tape has an open
    /// range for each.
    drafts: VecDeque<Draft>,
    /// A video frame was dropped: drop those that need it, up to the next keyframe.
    lacks_video: bool,
    /// After a change of source: drop frames until this source's first keyframe, or what stands in for
    /// it.
    splice: Option<Splice>,
    starts: StartPoints,
    bytes: IngestBytes,
    /// Tags dropped at a change of source or because they came in broken.
    dropped: u64,
}

/// A tag that is not in the log yet: it is incomplete, or one before it is.
struct Draft {
    lane: u32,
    kind: TagKind,
    timestamp_ms: u32,
    position: u64,
    len: u32,
    received: u32,
    /// The first bytes of the payload, for its class.
    head: [u8; CLASS_HEAD_LEN],
}

#[derive(Default)]
struct Splice {
    /// A frame of the new source has come and was dropped.
    passed_over: bool,
    audio_from_ms: Option<u32>,
    saw_video: bool,
    without_video: bool,
}

const CLASS_HEAD_LEN: usize = classify::TAG_HEAD_LEN;
/// Places of `drafts` that are used in turn, where no more than one is there at a time.
const DRAFTS_USUAL: usize = 4;

impl Ingest {
    /// Tags of a source that takes over from one of packets: they come behind a time, from a keyframe on.
    pub(super) fn behind(timestamp_ms: u32) -> Self {
        let (timeline, splice) = (Timeline::behind(timestamp_ms), Some(Splice::default()));
        Self { timeline, splice, ..Self::default() }
    }

    /// There are these tracks at the least, also before something of them comes.
    pub(super) fn expect(&mut self, tracks: &Tracks) {
        self.tracks.expect(tracks);
    }

    /// The next parts come from another source: continue its timeline, start at its keyframe.
    pub fn change_source(&mut self, log: &mut Log) {
        self.drop_unfinished(log);
        self.timeline.join();
        self.starts = StartPoints::default();
        if log.next_seq() > 0 {
            self.splice = Some(Splice::default());
            log.forget_gop();
        }
    }

    /// The next picture stands in for a keyframe.
    pub fn start_at_next(&mut self) {
        self.starts.start_at_next();
    }

    /// The source to come brings no video: its sound waits for none.
    pub fn start_without_video(&mut self) {
        self.splice.iter_mut().for_each(|splice| splice.without_video = true);
    }

    /// The source brings no video after all: nobody is to wait for a keyframe of it.
    pub(super) fn give_up_video(&mut self, log: &mut Log) {
        self.splice = None;
        self.lacks_video = true;
        self.tracks.forget_video();
        log.forget_video();
    }

    /// The last keyframe is too far back to be kept.
    pub fn forget_keyframe(&mut self) {
        self.starts.forget_keyframe();
    }

    /// Nobody has anything of the log any more: begin anew. What was counted stays counted.
    pub fn start_over(&mut self, log: &mut Log) {
        let dropped = self.dropped + self.drafts.len() as u64;
        *self = Self { bytes: self.bytes, dropped, ..Self::default() };
        *log = Log::default();
    }

    /// What was counted is counted elsewhere.
    pub fn count_anew(&mut self) {
        self.bytes = IngestBytes::default();
        self.dropped = 0;
    }

    /// The source is gone: what it has not finished will not come.
    pub fn drop_unfinished(&mut self, log: &mut Log) {
        self.dropped += self.drafts.len() as u64;
        self.drafts.clear();
        log.tape_mut().give_back_all();
    }

    /// Frames of a source that is to go on have come, and nothing yet with which it can.
    pub fn has_passed_over(&self) -> bool {
        self.splice.as_ref().is_some_and(|splice| splice.passed_over)
    }

    /// Some of a tag of audio or video has come, and not all.
    pub fn is_within_frame(&self) -> bool {
        self.drafts.iter().any(|draft| draft.received > 0)
    }

    /// Takes the next part. The parts of a lane follow the contract of [`MediaPart`]; a part that
    /// does not is dropped and counted.
    pub fn handle(&mut self, log: &mut Log, part: MediaPart) -> Progress {
        match part {
            MediaPart::Begin { lane, kind, timestamp_ms, len } => {
                self.begin(log, lane, kind, timestamp_ms, len);
                Progress::default()
            }
            MediaPart::Data { lane, bytes } => self.data(log, lane, &bytes),
            MediaPart::Abort { lane } => self.abort(log, lane),
            MediaPart::Script { timestamp_ms, payload } => self.script(log, timestamp_ms, &payload),
        }
    }

    /// Takes a whole tag, in pieces.
    pub fn handle_tag(
        &mut self,
        log: &mut Log,
        kind: TagKind,
        timestamp_ms: u32,
        payload: &Payload,
    ) -> Progress {
        self.begin(log, SCRIPT_LANE, kind, timestamp_ms, payload.len() as u32);
        let mut progress = Progress::default();
        for slice in payload.slices() {
            progress.add(self.data(log, SCRIPT_LANE, slice));
        }
        progress
    }

    /// Has the CPU fetch what this points to.
    pub(super) fn prefetch(&self) {
        let drafts = self.drafts.as_slices().0.as_ptr();
        prefetch_at(drafts.cast(), DRAFTS_USUAL * size_of::<Draft>());
    }

    pub fn bytes(&self) -> IngestBytes {
        self.bytes
    }

    pub fn tracks(&self) -> &Tracks {
        &self.tracks
    }

    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The newest timestamp of the stream.
    pub fn timestamp_ms(&self) -> Option<u32> {
        self.timeline.last()
    }

    /// A tag that is not taken has no draft that its bytes could go to.
    fn begin(&mut self, log: &mut Log, lane: u32, kind: TagKind, timestamp_ms: u32, len: u32) {
        let tape = log.tape_mut();
        let tag_len = TAG_OVERHEAD + u64::from(len);
        let is_too_much = tape.reserved_len() + tag_len > DRAFTS_LEN_MAX;
        if len == 0 || is_too_much || self.drafts.len() == DRAFTS_MAX {
            self.dropped += 1;
            return;
        }
        let position = tape.reserve(tag_len);
        // The header is known when the tag is whole.
        tape.append(self.drafts.len(), &[0; TAG_HEADER_LEN]);
        let head = [0; CLASS_HEAD_LEN];
        self.drafts.push_back(Draft { lane, kind, timestamp_ms, position, len, received: 0, head });
    }

    fn data(&mut self, log: &mut Log, lane: u32, bytes: &[u8]) -> Progress {
        self.bytes.received += bytes.len() as u64;
        let Some(index) = self.unfinished(lane) else { return Progress::default() };
        let draft = &mut self.drafts[index];
        if bytes.len() > (draft.len - draft.received) as usize {
            return self.abort(log, lane);
        }
        draft.note(bytes);
        log.tape_mut().append(index, bytes);
        self.bytes.copied += bytes.len() as u64;
        self.finish_whole(log)
    }

    /// The draft that a lane's bytes belong to.
    fn unfinished(&self, lane: u32) -> Option<usize> {
        self.drafts.iter().position(|draft| draft.lane == lane && !draft.is_whole())
    }

    /// Ends the first draft if it is whole, and those behind it that have waited for it.
    fn finish_whole(&mut self, log: &mut Log) -> Progress {
        let mut progress = Progress::default();
        while self.drafts.front().is_some_and(Draft::is_whole) {
            progress.add(self.finish(log));
        }
        progress
    }

    /// Ends the first draft, which is whole: into the log with it, or away.
    fn finish(&mut self, log: &mut Log) -> Progress {
        let draft = self.drafts.pop_front().expect("called with a draft");
        let head = &draft.head[..CLASS_HEAD_LEN.min(draft.len as usize)];
        let class = classify::classify(draft.kind, head);
        let config = match class {
            Some(class) => class.config,
            None => draft.kind == TagKind::Script && head.starts_with(METADATA_HEAD),
        };
        let keyframe = class.is_some_and(|class| class.keyframe);
        let is_picture = draft.kind == TagKind::Video && !config;
        let keyframe = match is_picture {
            true => self.starts.is_start(keyframe, draft.timestamp_ms),
            false => keyframe,
        };
        let had_video = self.tracks.has_video();
        let was_open = self.splice.is_some();
        let timestamp_ms = if !self.passes_splice(&draft, config, keyframe) {
            None
        } else if config {
            // A configuration is in force from where the stream stands, and sets no clock.
            Some(self.config_timestamp(draft.kind, draft.timestamp_ms))
        } else {
            self.frame_timestamp(&draft, class, keyframe)
        };
        let closed = was_open && self.splice.is_none();
        let lost_video = closed && had_video && draft.kind == TagKind::Audio;
        if lost_video {
            self.give_up_video(log);
        }
        let Some(timestamp_ms) = timestamp_ms else {
            self.dropped += 1;
            log.tape_mut().give_back(0);
            return Progress::default();
        };
        let tape = log.tape_mut();
        tape.patch(0, &TagHeader::new(draft.kind, timestamp_ms, draft.len).encode());
        tape.append(0, &(TAG_HEADER_LEN as u32 + draft.len).to_be_bytes());
        let entry = Entry {
            position: draft.position,
            len: TAG_OVERHEAD as u32 + draft.len,
            timestamp_ms,
            kind: draft.kind,
            keyframe,
            config,
            channel: 0,
            lead: 0,
        };
        log.commit(entry);
        self.bytes.config_copied += log.take_config_bytes_copied();
        if let Some(class) = class {
            self.tracks.note(&entry, &class, log);
        }
        let frame = !config && draft.kind != TagKind::Script;
        let video = draft.kind == TagKind::Video;
        Progress { committed: true, frame, video, lost_video, ..Progress::default() }
    }

    /// While the splice to a new source is open only configurations pass, then its first keyframe
    /// closes it; audio does where no video comes.
    fn passes_splice(&mut self, draft: &Draft, config: bool, keyframe: bool) -> bool {
        let Some(splice) = &mut self.splice else { return true };
        if config {
            return true;
        }
        splice.saw_video |= draft.kind == TagKind::Video;
        let closes = match draft.kind {
            TagKind::Video => keyframe,
            TagKind::Audio => {
                let from = *splice.audio_from_ms.get_or_insert(draft.timestamp_ms);
                let waited_ms = distance(from, draft.timestamp_ms);
                let has_waited = splice.without_video || waited_ms > SOUND_ALONE_MS_MAX;
                !splice.saw_video && (!self.tracks.has_video() || has_waited)
            }
            TagKind::Script => false,
        };
        splice.passed_over |= draft.kind != TagKind::Script;
        if closes {
            self.splice = None;
        }
        closes
    }

    /// `None` where the frame is to be dropped.
    fn frame_timestamp(
        &mut self,
        draft: &Draft,
        class: Option<TagClass>,
        keyframe: bool,
    ) -> Option<u32> {
        let (kind, timestamp_ms) = (draft.kind, draft.timestamp_ms);
        if kind != TagKind::Video {
            return self.timeline.map(kind, timestamp_ms, 0);
        }
        if self.lacks_video && !keyframe {
            return None;
        }
        let composition_ms = class.map_or(0, |class| class.composition_ms);
        let mapped = self.timeline.map(kind, timestamp_ms, composition_ms);
        self.lacks_video = mapped.is_none();
        mapped
    }

    fn config_timestamp(&self, kind: TagKind, timestamp_ms: u32) -> u32 {
        match self.timeline.last() {
            Some(last) => last,
            None if kind == TagKind::Script => 0,
            None => timestamp_ms,
        }
    }

    fn abort(&mut self, log: &mut Log, lane: u32) -> Progress {
        if let Some(index) = self.unfinished(lane) {
            self.drafts.remove(index);
            log.tape_mut().give_back(index);
            self.dropped += 1;
        }
        self.finish_whole(log)
    }

    /// Metadata. Other scripts (cue points, text) pass as frames of their own between the media.
    fn script(&mut self, log: &mut Log, timestamp_ms: u32, payload: &[u8]) -> Progress {
        // The session has put it together.
        self.bytes.config_copied += payload.len() as u64;
        self.begin(log, SCRIPT_LANE, TagKind::Script, timestamp_ms, payload.len() as u32);
        self.data(log, SCRIPT_LANE, payload)
    }
}

/// The AMF0 string with which metadata begins.
pub(super) const METADATA_HEAD: &[u8] = b"\x02\x00\x0aonMetaData";
/// No chunk stream has this id.
const SCRIPT_LANE: u32 = u32::MAX;

/// Bytes of a tag around its payload.
const TAG_OVERHEAD: u64 = (TAG_HEADER_LEN + TAG_SIZE_LEN) as u64;

impl Draft {
    fn is_whole(&self) -> bool {
        self.received == self.len
    }

    /// Counts bytes of the payload, and keeps them as far as they tell its class.
    fn note(&mut self, bytes: &[u8]) {
        let start = (self.received as usize).min(CLASS_HEAD_LEN);
        let taken = bytes.len().min(CLASS_HEAD_LEN - start);
        self.head[start..start + taken].copy_from_slice(&bytes[..taken]);
        self.received += bytes.len() as u32;
    }
}

#[cfg(test)]
mod tests;
