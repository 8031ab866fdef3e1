//! Access units out of NAL units, for H.264 and H.265 alike.
//!
//! A unit ends with the marker or a new timestamp, whichever is first, once it has a slice: Reolink
//! cameras set the marker behind parameter sets and change the timestamp after them. Where slices
//! of a picture come after its marker, markers mean nothing and the timestamps alone count from
//! there on, which costs one frame of delay.
//!
//! Parameter sets go into the configuration, not into frames; delimiters, filler and ends of
//! sequence are left out.

use bytes::Bytes;

use super::{DepacketizeError, LossPolicy, Sink};
use crate::limits::{FRAME_LEN_MAX, FRAME_PIECES_MAX, PARAMETER_SET_LEN_MAX};
use crate::media::codec::ParameterSets;
use crate::media::payload::PieceIndex;
use crate::media::{Codec, Frame, Payload};
use crate::proto::rtp::reorder::Gap;

/// What a NAL unit is to an access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NalKind {
    /// `first`: with the first block of the picture.
    Slice {
        keyframe: bool,
        first: bool,
    },
    ParameterSet,
    /// Where the decoder may begin without an IDR picture (H.264, D.2.8).
    RecoveryPoint,
    /// Not kept.
    Dropped,
    Other,
}

/// Puts NAL units together.
#[derive(Debug)]
pub(super) struct Assembler {
    codec: Codec,
    sets: ParameterSets,
    /// The configuration that was told last.
    config: Option<Bytes>,
    config_changed: bool,
    policy: LossPolicy,
    unit: Unit,
    /// Of the last unit that ended.
    last_timestamp: Option<u32>,
    markers_trusted: bool,
    /// Something is missing: the next picture may lack its beginning.
    start_unsure: bool,
    awaiting_keyframe: bool,
    starts_at_next: bool,
}

/// The access unit in progress.
#[derive(Debug, Default)]
struct Unit {
    timestamp: u32,
    payload: Payload,
    open: Option<OpenNal>,
    has_picture: bool,
    keyframe: bool,
    damaged: bool,
}

/// A NAL unit that comes in fragments.
#[derive(Debug)]
struct OpenNal {
    start: PieceIndex,
    /// Bytes of the payload before it.
    start_len: usize,
    kind: NalKind,
    header: [u8; 2],
    header_len: usize,
}

impl Assembler {
    pub(super) fn new(sets: ParameterSets, codec: Codec, policy: LossPolicy) -> Self {
        Self {
            codec,
            config_changed: true,
            sets,
            config: None,
            policy,
            unit: Unit::default(),
            last_timestamp: None,
            markers_trusted: true,
            start_unsure: false,
            awaiting_keyframe: false,
            starts_at_next: false,
        }
    }

    /// The next packet begins a picture that stands in for a keyframe.
    pub(super) fn start_at_next(&mut self) {
        self.starts_at_next = true;
    }

    /// A packet begins.
    pub(super) fn begin_packet(&mut self, timestamp: u32, gap: Gap, sink: &mut Sink) {
        if gap != Gap::None {
            self.start_unsure = true;
            self.awaiting_keyframe |= self.policy == LossPolicy::AwaitKeyframe;
            if !self.unit.payload.is_empty() || self.unit.has_picture {
                self.damage();
            }
        }
        if timestamp != self.unit.timestamp {
            self.finish(sink);
            self.unit.timestamp = timestamp;
        }
        if std::mem::take(&mut self.starts_at_next) {
            // What comes before it may have the timestamp of the picture before.
            if self.unit.has_picture {
                self.finish(sink);
            }
            self.unit.keyframe = true;
        }
    }

    /// A packet that was read without an error ends.
    pub(super) fn end_packet(&mut self, marker: bool, sink: &mut Sink) {
        if marker && self.markers_trusted {
            self.finish(sink);
        }
    }

    /// A whole NAL unit.
    pub(super) fn push_nal(&mut self, kind: NalKind, nal: Bytes) -> Result<(), DepacketizeError> {
        self.close_nal();
        if kind == NalKind::ParameterSet {
            self.config_changed |= self.sets.insert(&nal);
        }
        if !self.admit(kind) {
            return Ok(());
        }
        let len = u32::try_from(nal.len()).expect("a packet is shorter");
        self.unit.payload.push_inline(&len.to_be_bytes());
        self.unit.payload.push(nal);
        self.check_len()
    }

    /// The first fragment of a NAL unit: its header, as it would stand before the whole, and what
    /// follows it.
    pub(super) fn begin_nal(
        &mut self,
        kind: NalKind,
        header: &[u8],
        body: Bytes,
    ) -> Result<(), DepacketizeError> {
        self.close_nal();
        let is_left_out = matches!(kind, NalKind::ParameterSet | NalKind::Dropped);
        if !self.admit(kind) && !is_left_out {
            return Ok(());
        }
        let mut open = OpenNal {
            start: self.unit.payload.push_inline(&[]),
            start_len: self.unit.payload.len(),
            kind,
            header: [0; 2],
            header_len: header.len(),
        };
        open.header[..header.len()].copy_from_slice(header);
        // The length is not known yet; its place is kept.
        self.unit.payload.replace_inline(open.start, &[&[0; 4], header].concat());
        self.unit.payload.push(body);
        self.unit.open = Some(open);
        self.check_len()
    }

    /// A further fragment of the NAL unit.
    pub(super) fn continue_nal(&mut self, body: Bytes) -> Result<(), DepacketizeError> {
        if self.unit.open.is_none() {
            // Of a unit that is dropped anyway it is no news.
            return if self.unit.damaged { Ok(()) } else { Err(DepacketizeError::NoStart) };
        }
        self.unit.payload.push(body);
        self.check_len()
    }

    /// The NAL unit in fragments is complete. Where a sender forgets to say so, the next one ends it.
    pub(super) fn close_nal(&mut self) {
        let Some(open) = self.unit.open.take() else { return };
        let len = self.unit.payload.len() - open.start_len - 4;
        if matches!(open.kind, NalKind::ParameterSet | NalKind::Dropped) {
            let nal = self.unit.payload.split_off(open.start);
            if open.kind == NalKind::ParameterSet && len <= PARAMETER_SET_LEN_MAX {
                self.config_changed |= self.sets.insert(&nal.to_vec()[4..]);
            }
            return;
        }
        let len = u32::try_from(len).expect("a frame is shorter");
        let header = &open.header[..open.header_len];
        self.unit.payload.replace_inline(open.start, &[&len.to_be_bytes(), header].concat());
    }

    /// What has come of the unit in progress can't be used.
    pub(super) fn damage(&mut self) {
        self.unit.payload = Payload::new();
        self.unit.open = None;
        self.unit.damaged = true;
    }

    /// Ends the unit in progress. What came before its first slice is kept for the next.
    pub(super) fn finish(&mut self, sink: &mut Sink) {
        self.close_nal();
        if !self.unit.has_picture {
            if self.unit.damaged {
                self.unit = Unit { timestamp: self.unit.timestamp, ..Unit::default() };
            }
            return;
        }
        let next = Unit { timestamp: self.unit.timestamp, ..Unit::default() };
        let unit = std::mem::replace(&mut self.unit, next);
        self.last_timestamp = Some(unit.timestamp);
        if unit.damaged {
            sink.counts.damaged += 1;
            self.awaiting_keyframe |= self.policy == LossPolicy::AwaitKeyframe;
            return;
        }
        self.tell_config(sink);
        if self.config.is_none() {
            sink.counts.unconfigured += 1;
        } else if self.awaiting_keyframe && !unit.keyframe {
            sink.counts.awaiting_keyframe += 1;
        } else {
            self.awaiting_keyframe = false;
            let Unit { timestamp, keyframe, payload, .. } = unit;
            sink.frame(Frame { codec: self.codec, keyframe, timestamp, payload });
        }
    }

    fn tell_config(&mut self, sink: &mut Sink) {
        if !std::mem::take(&mut self.config_changed) {
            return;
        }
        let Some(record) = self.sets.to_record() else { return };
        if self.config.as_ref() != Some(&record) {
            self.config = Some(record.clone());
            sink.config(self.codec, record);
        }
    }

    /// Notes a NAL unit; whether it goes into the frame.
    fn admit(&mut self, kind: NalKind) -> bool {
        match kind {
            NalKind::Slice { keyframe, first } => self.note_slice(keyframe, first),
            NalKind::RecoveryPoint => self.unit.keyframe = true,
            NalKind::Dropped | NalKind::ParameterSet => return false,
            NalKind::Other => {}
        }
        !self.unit.damaged
    }

    fn note_slice(&mut self, keyframe: bool, first: bool) {
        let unit = &mut self.unit;
        if !unit.has_picture && !first {
            if self.start_unsure {
                self.damage();
            } else if self.last_timestamp == Some(unit.timestamp) {
                // The picture's beginning went out with a marker that was none.
                self.markers_trusted = false;
                self.damage();
            }
        }
        self.start_unsure = false;
        self.unit.has_picture = true;
        self.unit.keyframe |= keyframe;
    }

    fn check_len(&mut self) -> Result<(), DepacketizeError> {
        let payload = &self.unit.payload;
        if payload.len() > FRAME_LEN_MAX || payload.piece_count() > FRAME_PIECES_MAX {
            self.damage();
            return Err(DepacketizeError::TooLong);
        }
        Ok(())
    }
}

/// Reads NAL units that each stand behind a 16-bit length.
pub(super) fn aggregated(
    mut bytes: Bytes,
) -> impl Iterator<Item = Result<Bytes, DepacketizeError>> {
    std::iter::from_fn(move || {
        let (len, _) = bytes.split_first_chunk::<2>()?;
        let end = 2 + usize::from(u16::from_be_bytes(*len));
        if end > bytes.len() {
            bytes.clear();
            return Some(Err(DepacketizeError::CutOff));
        }
        Some(Ok(bytes.split_to(end).slice(2..)))
    })
}
