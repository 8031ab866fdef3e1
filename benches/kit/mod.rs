//! The stream that the benches are fed with: 720p H.264 at 25 fps and 2 Mbit/s with a keyframe each
//! 2 s, and AAC of 128 kbit/s at 44.1 kHz, which makes 68 tags/s: the stream of the design's
//! measurements. A keyframe has eight times the bytes of another frame, by assumption.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod allocations;

use bytes::Bytes;
use rillcast::media::{MediaPart, TagKind};
use rillcast::stream::{Ingest, Log};

/// One tag of the stream.
pub(crate) struct Tag {
    pub(crate) kind: TagKind,
    pub(crate) timestamp_ms: u32,
    pub(crate) payload: Bytes,
}

/// Video frames of a GOP, and its length.
pub(crate) const GOP_FRAMES: u32 = 50;
pub(crate) const GOP_MS: u32 = GOP_FRAMES * FRAME_MS;
pub(crate) const FRAME_MS: u32 = 40;

/// What the shard lets a GOP grow to by default.
pub(crate) const GOP_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// 2 Mbit/s are 500 KB in 2 s: 8 parts for the keyframe, 49 for the others.
const FRAME_LEN: usize = 500_000 / (8 + 49);
const KEYFRAME_LEN: usize = 8 * FRAME_LEN;

/// 1024 samples at 44.1 kHz and 128 kbit/s.
const AUDIO_LEN: usize = 372;
const AUDIO_US: u32 = 23_220;

/// The configurations of both codecs.
pub(crate) fn configurations() -> Vec<Tag> {
    let avc = b"\x17\0\0\0\0\x01\x64\0\x1f\xff\xe1\0\x04\x67\x64\0\x1f\x01\0\x02\x68\xee";
    let aac = b"\xaf\0\x12\x10";
    let tag = |kind, bytes: &'static [u8]| Tag {
        kind,
        timestamp_ms: 0,
        payload: Bytes::from_static(bytes),
    };
    vec![tag(TagKind::Video, avc), tag(TagKind::Audio, aac)]
}

/// One GOP in the order of its timestamps, from its keyframe on.
pub(crate) fn gop(start_ms: u32) -> Vec<Tag> {
    let video = (0..GOP_FRAMES).map(|index| {
        let (head, len) = if index == 0 {
            (b"\x17\x01\0\0\0", KEYFRAME_LEN)
        } else {
            (b"\x27\x01\0\0\0", FRAME_LEN)
        };
        (index * FRAME_MS, TagKind::Video, payload(head, len))
    });
    let audio = (0..GOP_MS * 1000 / AUDIO_US)
        .map(|index| (index * AUDIO_US / 1000, TagKind::Audio, payload(b"\xaf\x01", AUDIO_LEN)));
    let mut tags: Vec<_> = video.chain(audio).collect();
    tags.sort_by_key(|(at, ..)| *at);
    let tag = |(at, kind, payload)| Tag { kind, timestamp_ms: start_ms + at, payload };
    tags.into_iter().map(tag).collect()
}

fn payload(head: &[u8], len: usize) -> Bytes {
    let mut payload = head.to_vec();
    payload.extend((head.len()..len).map(|index| (index * 31) as u8));
    payload.into()
}

/// A tag as a session gives it on, its data in pieces of at most `piece_len` bytes.
pub(crate) fn parts(tag: &Tag, piece_len: usize) -> Vec<MediaPart> {
    let len = tag.payload.len();
    let lane = tag.kind as u32;
    let begin =
        MediaPart::Begin { lane, kind: tag.kind, timestamp_ms: tag.timestamp_ms, len: len as u32 };
    let pieces = (0..len).step_by(piece_len);
    let data = pieces
        .map(|at| MediaPart::Data { lane, bytes: tag.payload.slice(at..len.min(at + piece_len)) });
    std::iter::once(begin).chain(data).collect()
}

/// Writes a tag into a log.
pub(crate) fn write(ingest: &mut Ingest, log: &mut Log, tag: &Tag) {
    for part in parts(tag, tag.payload.len()) {
        ingest.handle(log, part);
    }
}

/// A stream that goes on without end, and its log.
pub(crate) struct Stream {
    pub(crate) log: Log,
    ingest: Ingest,
    gop: Vec<Tag>,
    next: usize,
    start_ms: u32,
}

impl Stream {
    /// A stream with its configurations and first keyframe.
    pub(crate) fn new() -> Self {
        let (log, ingest) = (Log::default(), Ingest::default());
        let mut stream = Self { log, ingest, gop: gop(0), next: 0, start_ms: 0 };
        for tag in configurations() {
            write(&mut stream.ingest, &mut stream.log, &tag);
        }
        stream.flush_frame();
        stream
    }

    /// Flushes the next video frame and the audio before it, as the shard does; their bytes.
    pub(crate) fn flush_frame(&mut self) -> u64 {
        self.log.trim(None, GOP_BYTES_MAX);
        let from = self.log.next_seq();
        loop {
            if self.next == self.gop.len() {
                self.next = 0;
                self.start_ms += GOP_MS;
            }
            let tag = &self.gop[self.next];
            let timestamp_ms = self.start_ms + tag.timestamp_ms;
            let tag = Tag { kind: tag.kind, timestamp_ms, payload: tag.payload.clone() };
            write(&mut self.ingest, &mut self.log, &tag);
            self.next += 1;
            if tag.kind == TagKind::Video {
                break;
            }
        }
        self.log.flush();
        self.log.range(from..self.log.next_seq()).map(|entry| u64::from(entry.len)).sum()
    }
}
