//! Logs to test with: written by an [`Ingest`], as those of streams are.

use bytes::Bytes;

use super::ingest::{Ingest, Progress};
use super::log::Log;
use crate::media::{MediaPart, TagKind};

/// A log and what writes it.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) log: Log,
    pub(crate) ingest: Ingest,
}

pub(crate) const VIDEO_CONFIG: &[u8] = &[0x17, 0, 0, 0, 0, 1, 0x64];
pub(crate) const AUDIO_CONFIG: &[u8] = &[0xaf, 0, 0x12, 0x10];
pub(crate) const METADATA: &[u8] = b"\x02\x00\x0aonMetaData\x05";

impl Writer {
    /// A log that begins as an encoder's stream does: metadata and both configurations.
    pub(crate) fn opened() -> Self {
        let mut writer = Self::default();
        writer.script(METADATA);
        writer.tag(TagKind::Video, 0, VIDEO_CONFIG);
        writer.tag(TagKind::Audio, 0, AUDIO_CONFIG);
        writer
    }

    pub(crate) fn keyframe(&mut self, timestamp_ms: u32, len: usize) {
        self.tag(TagKind::Video, timestamp_ms, &payload(&[0x17, 1, 0, 0, 0], len));
    }

    /// A video frame that is no keyframe.
    pub(crate) fn frame(&mut self, timestamp_ms: u32, len: usize) {
        self.tag(TagKind::Video, timestamp_ms, &payload(&[0x27, 1, 0, 0, 0], len));
    }

    pub(crate) fn audio(&mut self, timestamp_ms: u32, len: usize) {
        self.tag(TagKind::Audio, timestamp_ms, &payload(&[0xaf, 1], len));
    }

    pub(crate) fn script(&mut self, payload: &'static [u8]) -> Progress {
        self.part(MediaPart::Script { timestamp_ms: 0, payload: Bytes::from_static(payload) })
    }

    /// A whole tag in one piece.
    pub(crate) fn tag(&mut self, kind: TagKind, timestamp_ms: u32, payload: &[u8]) -> Progress {
        let lane = kind as u32;
        self.begin(lane, kind, timestamp_ms, payload.len());
        self.data(lane, payload)
    }

    pub(crate) fn begin(&mut self, lane: u32, kind: TagKind, timestamp_ms: u32, len: usize) {
        self.part(MediaPart::Begin { lane, kind, timestamp_ms, len: len as u32 });
    }

    pub(crate) fn data(&mut self, lane: u32, bytes: &[u8]) -> Progress {
        self.part(MediaPart::Data { lane, bytes: Bytes::copy_from_slice(bytes) })
    }

    pub(crate) fn part(&mut self, part: MediaPart) -> Progress {
        self.ingest.handle(&mut self.log, part)
    }

    /// Each tag's payload.
    pub(crate) fn payloads(&self) -> Vec<Vec<u8>> {
        let seqs = self.log.first_seq()..self.log.next_seq();
        seqs.map(|seq| payload_of(&self.log, seq)).collect()
    }
}

/// A payload of a length that begins with a head and goes on with bytes that tell their place.
pub(crate) fn payload(head: &[u8], len: usize) -> Vec<u8> {
    let rest = (head.len()..len).map(|at| (at % 251) as u8);
    head.iter().copied().chain(rest).collect()
}

pub(crate) fn payload_of(log: &Log, seq: u64) -> Vec<u8> {
    let entry = log.entry(seq).expect("a tag that is held");
    log.slices(entry.payload()).flat_map(|slice| slice.to_vec()).collect()
}
