//! An FLV file as a stream without end: its tags in a loop, with timestamps that go on.
//!
//! Configurations and metadata come once, before the first round. A round is as long as the video
//! is with its last frame's time, so that video frames are evenly spaced over the seam; audio that
//! would overlap the next round is left out. Files of our users: read whole, parsed by the same
//! reader as the streams of origins.

use std::path::Path;

use bytes::Bytes;

use super::Failure;
use super::stamp::{STAMP_LEN, Stamp, insertion_point};
use crate::media::{Codec, MediaPart, TagKind};
use crate::proto::flv::TagReader;
use crate::proto::flv::classify::{TagClass, classify};

/// The loop.
#[derive(Debug)]
pub(super) struct Clip {
    /// To be sent first, at timestamp 0.
    pub(super) configs: Vec<ClipTag>,
    /// One round.
    pub(super) tags: Vec<ClipTag>,
    pub(super) period_ms: u32,
    /// Video frames of a round.
    pub(super) frames: u32,
}

/// One tag of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClipTag {
    pub(super) kind: TagKind,
    /// From the beginning of its round.
    pub(super) at_ms: u32,
    pub(super) payload: Bytes,
    /// Where in the payload room was made for a stamp.
    pub(super) stamp_at: Option<usize>,
    /// Video frames before it in its round.
    pub(super) frames_before: u32,
    pub(super) is_frame: bool,
}

impl Clip {
    /// The file at `path`, or the seconds of video that are built in.
    pub(super) fn load(path: Option<&Path>) -> Result<Self, Failure> {
        match path {
            None => Self::parse(Bytes::from_static(EMBEDDED)),
            Some(path) => {
                let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                let bytes = std::fs::read(path).map_err(|error| named(&error))?;
                Ok(Self::parse(bytes.into()).map_err(|error| named(&error))?)
            }
        }
    }

    pub(super) fn parse(file: Bytes) -> Result<Self, Failure> {
        let mut configs: Vec<ClipTag> = Vec::new();
        let mut tags: Vec<ClipTag> = Vec::new();
        let mut stamps = false;
        for (kind, timestamp_ms, payload) in read_tags(file)? {
            let Some(class) = classify(kind, &payload) else {
                if kind == TagKind::Script && configs.iter().all(|tag| tag.kind != kind) {
                    configs.push(ClipTag::new(kind, 0, payload));
                }
                continue;
            };
            if class.end_of_sequence {
                continue;
            }
            if class.config && tags.iter().all(|tag| tag.kind != kind) {
                if kind == TagKind::Video {
                    stamps = has_long_lengths(class, &payload);
                }
                configs.retain(|tag| tag.kind != kind);
                configs.push(ClipTag::new(kind, 0, payload));
                continue;
            }
            let mut tag = ClipTag::new(kind, timestamp_ms, payload);
            tag.is_frame = kind == TagKind::Video && !class.config;
            if stamps && tag.is_frame {
                tag.make_room(class.header_len);
            }
            tags.push(tag);
        }
        Self::looped(configs, tags)
    }

    /// Whether its frames carry stamps.
    pub(super) fn is_stamped(&self) -> bool {
        self.tags.iter().any(|tag| tag.stamp_at.is_some())
    }

    /// The tag at `index`, counted over all rounds, and its time since the beginning.
    pub(super) fn tag(&self, index: u64) -> (&ClipTag, u64) {
        let count = self.tags.len() as u64;
        let tag = &self.tags[(index % count) as usize];
        (tag, index / count * u64::from(self.period_ms) + u64::from(tag.at_ms))
    }

    /// The number of the frame at `index`, counted over all rounds; it wraps.
    pub(super) fn sequence(&self, index: u64) -> u32 {
        let round = index / self.tags.len() as u64;
        (round as u32).wrapping_mul(self.frames).wrapping_add(self.tag(index).0.frames_before)
    }

    fn looped(configs: Vec<ClipTag>, mut tags: Vec<ClipTag>) -> Result<Self, Failure> {
        let first_ms = tags.iter().map(|tag| tag.at_ms).min().ok_or("no audio or video in it")?;
        tags.iter_mut().for_each(|tag| tag.at_ms -= first_ms);
        let times = |kind| tags.iter().filter(move |tag| tag.kind == kind).map(|tag| tag.at_ms);
        let (video, audio): (Vec<u32>, Vec<u32>) =
            (times(TagKind::Video).collect(), times(TagKind::Audio).collect());
        let main = if video.is_empty() { &audio } else { &video };
        let (&first, &last) = main.first().zip(main.last()).ok_or("no audio or video in it")?;
        let period_ms = last.saturating_sub(first) + interval(main);
        let audio_end_ms = period_ms.saturating_sub(interval(&audio) / 2);
        tags.retain(|tag| tag.kind == TagKind::Video || tag.at_ms < audio_end_ms);
        // Files interleave loosely; what is sent by a schedule is sent in its order.
        tags.sort_by_key(|tag| tag.at_ms);
        let mut frames = 0;
        for tag in &mut tags {
            tag.frames_before = frames;
            frames += u32::from(tag.is_frame);
        }
        Ok(Self { configs, tags, period_ms, frames })
    }
}

impl ClipTag {
    fn new(kind: TagKind, at_ms: u32, payload: Bytes) -> Self {
        Self { kind, at_ms, payload, stamp_at: None, frames_before: 0, is_frame: false }
    }

    fn make_room(&mut self, header_len: usize) {
        let at = header_len + insertion_point(&self.payload[header_len..]);
        let mut payload = Vec::with_capacity(self.payload.len() + STAMP_LEN);
        payload.extend_from_slice(&self.payload[..at]);
        payload.extend_from_slice(&Stamp { sequence: 0, due_ns: 0 }.encode());
        payload.extend_from_slice(&self.payload[at..]);
        (self.payload, self.stamp_at) = (payload.into(), Some(at));
    }
}

fn read_tags(file: Bytes) -> Result<Vec<(TagKind, u32, Bytes)>, Failure> {
    let mut reader = TagReader::new();
    reader.handle_input(file)?;
    let mut tags = Vec::new();
    let mut current: Option<(TagKind, u32, usize, Vec<u8>)> = None;
    while let Some(part) = reader.poll_part() {
        match part {
            MediaPart::Begin { kind, timestamp_ms, len, .. } => {
                current = Some((kind, timestamp_ms, len as usize, Vec::new()));
            }
            MediaPart::Data { bytes, .. } => {
                let Some((kind, timestamp_ms, len, payload)) = &mut current else { continue };
                payload.extend_from_slice(&bytes);
                if payload.len() == *len {
                    tags.push((*kind, *timestamp_ms, std::mem::take(payload).into()));
                    current = None;
                }
            }
            MediaPart::Script { timestamp_ms, payload } => {
                tags.push((TagKind::Script, timestamp_ms, payload));
            }
            MediaPart::Abort { .. } => current = None,
        }
    }
    Ok(tags)
}

/// Whether an AVC configuration record says that NAL units have lengths of four bytes (ISO/IEC
/// 14496-15, 5.2.4.1): where a stamp can be put in between.
fn has_long_lengths(class: TagClass, payload: &[u8]) -> bool {
    class.codec == Codec::H264
        && payload.get(class.header_len + 4).is_some_and(|byte| byte & 3 == 3)
}

/// The median distance of the times; 40 ms where there are fewer than two.
fn interval(times: &[u32]) -> u32 {
    let mut steps: Vec<u32> =
        times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    steps.sort_unstable();
    steps.get(steps.len() / 2).copied().filter(|step| *step > 0).unwrap_or(INTERVAL_MS_DEFAULT)
}

const INTERVAL_MS_DEFAULT: u32 = 40;

/// Five seconds of H.264 and AAC, made by `tests/media/make`.
pub(crate) const EMBEDDED: &[u8] = include_bytes!("../demo/origin.flv");

#[cfg(test)]
mod tests {
    use super::super::stamp::STAMPED_HEAD_LEN;
    use super::*;
    use crate::proto::flv::{FILE_HEADER, TagHeader};

    fn file(tags: &[(TagKind, u32, &[u8])]) -> Bytes {
        let mut bytes = FILE_HEADER.to_vec();
        for (kind, timestamp_ms, payload) in tags {
            let len = payload.len() as u32;
            bytes.extend_from_slice(&TagHeader::new(*kind, *timestamp_ms, len).encode());
            bytes.extend_from_slice(payload);
            bytes.extend_from_slice(&(len + 11).to_be_bytes());
        }
        bytes.into()
    }

    #[test]
    fn the_embedded_file_loops_evenly() {
        let clip = Clip::load(None).expect("it is ours");
        assert_eq!((clip.period_ms, clip.frames, clip.configs.len()), (5000, 125, 3));
        assert!(clip.is_stamped());
        for kind in [TagKind::Video, TagKind::Audio] {
            let times: Vec<u64> = (0..3 * clip.tags.len() as u64)
                .map(|index| clip.tag(index))
                .filter(|(tag, _)| tag.kind == kind)
                .map(|(_, at_ms)| at_ms)
                .collect();
            let steps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            match kind {
                TagKind::Video => assert!(steps.iter().all(|step| *step == 40), "{steps:?}"),
                _ => assert!(steps.iter().all(|step| (10..=36).contains(step)), "{steps:?}"),
            }
        }
    }

    #[test]
    fn frames_are_numbered_over_the_rounds() {
        let clip = Clip::load(None).expect("it is ours");
        let numbers: Vec<u32> = (0..3 * clip.tags.len() as u64)
            .filter(|index| clip.tag(*index).0.is_frame)
            .map(|index| clip.sequence(index))
            .collect();
        assert_eq!(numbers, (0..375).collect::<Vec<u32>>());
    }

    #[test]
    fn each_frame_has_room_for_a_stamp_that_is_found() {
        let clip = Clip::load(None).expect("it is ours");
        for tag in clip.tags.iter().filter(|tag| tag.is_frame) {
            let head = &tag.payload[..tag.payload.len().min(STAMPED_HEAD_LEN)];
            assert_eq!(tag.stamp_at, Some(5));
            assert_eq!(Stamp::find(&head[5..]), Some(Stamp { sequence: 0, due_ns: 0 }));
        }
    }

    #[test]
    fn other_codecs_and_short_lengths_get_no_stamp() {
        let avc = b"\x17\0\0\0\0\x01\x64\0\x1f\xfd\xe1\0";
        let frame = b"\x17\x01\0\0\0\0\x01\x65";
        let short =
            Clip::parse(file(&[(TagKind::Video, 0, avc), (TagKind::Video, 0, frame)])).unwrap();
        assert!(!short.is_stamped());
        assert_eq!((short.frames, short.period_ms), (1, 40));
        let hevc = b"\x1c\x01\0\0\0\0\0\0\x01\x26";
        assert!(!Clip::parse(file(&[(TagKind::Video, 0, hevc)])).unwrap().is_stamped());
    }

    #[test]
    fn audio_alone_loops_by_itself() {
        let tags = [0, 23, 46, 69].map(|at| (TagKind::Audio, at + 500, &b"\xaf\x01ab"[..]));
        let clip = Clip::parse(file(&tags)).unwrap();
        assert_eq!((clip.period_ms, clip.tags.len(), clip.frames), (92, 4, 0));
        assert_eq!(clip.tag(5).1, 115);
    }

    #[test]
    fn a_file_without_media_is_refused() {
        assert!(Clip::parse(file(&[])).is_err());
        assert!(Clip::parse(Bytes::from_static(b"RIFF")).is_err());
    }
}
