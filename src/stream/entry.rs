//! What a stream's log holds and hands on: an index entry for each tag or packet, what a player needs
//! before them, and what a replica is sent.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::arena::Chunk;
use crate::media::TagKind;
use crate::proto::flv::{TAG_HEADER_LEN, TAG_SIZE_LEN};
use crate::proto::rtsp::SessionDescription;
use crate::proto::rtsp::message::INTERLEAVED_HEADER_LEN;

/// Where a tag lies, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub position: u64,
    /// Bytes of the whole tag: header, payload, `PreviousTagSize`; or of the interleaved packet.
    pub len: u32,
    pub timestamp_ms: u32,
    pub kind: TagKind,
    /// A video keyframe that is coded media.
    pub keyframe: bool,
    /// A codec configuration (sequence header), metadata, or a sender report.
    pub config: bool,
    /// Of a packet; 0 of a tag.
    pub channel: u8,
    /// Entries right before a keyframe's at which it begins: delimiters, messages and parameter sets in
    /// packets of their own.
    pub lead: u16,
}

impl Entry {
    /// Positions of a packet behind its interleaved header.
    pub fn packet(&self) -> Range<u64> {
        self.position + INTERLEAVED_HEADER_LEN as u64..self.end()
    }

    /// The track of a packet, by its place in the description.
    pub fn track(&self) -> usize {
        usize::from(self.channel / 2)
    }

    /// Whether a packet is RTCP.
    pub fn is_rtcp(&self) -> bool {
        self.channel % 2 == 1
    }

    /// Positions of a tag's payload.
    pub fn payload(&self) -> Range<u64> {
        let start = self.position + TAG_HEADER_LEN as u64;
        start..start + u64::from(self.payload_len())
    }

    pub fn payload_len(&self) -> u32 {
        self.len - (TAG_HEADER_LEN + TAG_SIZE_LEN) as u32
    }

    pub fn end(&self) -> u64 {
        self.position + u64::from(self.len)
    }
}

/// What the log is to know of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct PacketEntry {
    pub(super) channel: u8,
    pub(super) kind: TagKind,
    pub(super) timestamp_ms: u32,
    pub(super) keyframe: bool,
    pub(super) lead: u16,
    /// A sender report.
    pub(super) is_report: bool,
}

/// What a player needs before the first frame: metadata and the codec configurations in force, or
/// the latest sender report of each track.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prelude {
    /// Grows with each change, so that a player can tell whether it has this one.
    pub version: u32,
    /// Tag payloads in the order in which they first came, one for each kind.
    pub tags: Vec<(TagKind, Bytes)>,
    /// Interleaved packets, one for each channel.
    pub reports: Vec<(u8, Bytes)>,
}

/// Which kinds of media a stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaKinds {
    pub video: bool,
    pub audio: bool,
}

/// A stream's tags from its newest keyframe on, for a replica to start from.
pub struct Snapshot {
    pub first_seq: u64,
    pub entries: Vec<Entry>,
    pub gop_seq: Option<u64>,
    pub gop_lead: u64,
    pub has_video: bool,
    pub has_audio: bool,
    pub timestamp_ms: u32,
    pub chunk_first: u64,
    pub chunks: Vec<Option<Arc<Chunk>>>,
    pub committed: u64,
    pub prelude: Arc<Prelude>,
    pub gop_prelude: Arc<Prelude>,
    pub description: Option<Arc<SessionDescription>>,
}

/// What was flushed since the last span, for the replicas on other shards.
#[derive(Clone)]
pub struct Delta {
    pub first_seq: u64,
    pub entries: Vec<Entry>,
    pub chunk_first: u64,
    pub chunks: Vec<Option<Arc<Chunk>>>,
    pub committed: u64,
    /// Of packets: what players to come are told of the tracks.
    pub description: Option<Arc<SessionDescription>>,
}
