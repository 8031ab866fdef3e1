//! Frames out of RTP packets, one payload format each.
//!
//! Packets come in order with the gaps between them marked. A frame that a gap has damaged is dropped
//! whole. What follows is passed on, as it is to players of the RTP itself, unless
//! [`LossPolicy::AwaitKeyframe`] says to show nothing until a whole picture comes: decoders conceal
//! what they lack, and a frozen picture is the worse of the two for most.
//!
//! A frame's payload refers to the packets. Whoever keeps it keeps them; feed packets from memory that
//! may stay, not from a receive buffer.

mod h264;
mod h265;
mod latm;
mod mpeg4_generic;
mod video;

use std::collections::VecDeque;

use bytes::Bytes;

use self::h264::H264;
use self::h265::H265;
use self::latm::Latm;
use self::mpeg4_generic::Mpeg4Generic;
use crate::limits::{FRAME_LEN_MAX, FRAME_PIECES_MAX};
use crate::media::{Codec, Frame};
use crate::proto::rtp::format::Format;
use crate::proto::rtp::packet::RtpPacket;
use crate::proto::rtp::reorder::Gap;

/// Makes frames of one track's packets.
#[derive(Debug)]
pub struct Depacketizer {
    format: PayloadFormat,
    sink: Sink,
}

/// What comes out, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Depacketized {
    /// The codec's configuration record for what follows: at first, and whenever it changes. G.711
    /// has none.
    Config {
        codec: Codec,
        record: Bytes,
    },
    Frame(Frame),
}

/// What to do with video after a loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LossPolicy {
    /// Drop the damaged frame and go on.
    #[default]
    DropFrame,
    /// Drop everything up to the next keyframe.
    AwaitKeyframe,
}

/// What became of frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DepacketizerCounts {
    pub frames: u64,
    /// Dropped because a part of them is missing or can't be read.
    pub damaged: u64,
    /// Dropped because no configuration has come yet.
    pub unconfigured: u64,
    /// Dropped because a keyframe is waited for.
    pub awaiting_keyframe: u64,
}

/// Why a packet was no use. The frame that it belongs to is dropped; the track goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DepacketizeError {
    #[error("payload is cut off")]
    CutOff,
    #[error("payload structure of type {0} is not known")]
    UnknownType(u8),
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    #[error("fragment without the one before")]
    NoStart,
    #[error("frame is longer than {FRAME_LEN_MAX} bytes or {FRAME_PIECES_MAX} pieces")]
    TooLong,
    #[error("configuration in the payload can't be read")]
    BadConfig,
}

impl DepacketizeError {
    /// In few words, for those who count it.
    pub const REASONS: [&str; 6] =
        ["cut_off", "unknown_type", "unsupported", "no_start", "too_long", "bad_config"];

    /// Its place in [`Self::REASONS`].
    pub fn reason(self) -> usize {
        match self {
            Self::CutOff => 0,
            Self::UnknownType(_) => 1,
            Self::Unsupported(_) => 2,
            Self::NoStart => 3,
            Self::TooLong => 4,
            Self::BadConfig => 5,
        }
    }
}

/// Where a format puts what it makes.
#[derive(Debug, Default)]
struct Sink {
    items: VecDeque<Depacketized>,
    counts: DepacketizerCounts,
}

#[derive(Debug)]
enum PayloadFormat {
    H264(Box<H264>),
    H265(Box<H265>),
    Mpeg4Generic(Box<Mpeg4Generic>),
    Latm(Box<Latm>),
    /// A packet is a frame: Opus (RFC 7587, 4.2), G.711 (RFC 3551, 4.5.14).
    Whole(Codec),
}

impl Depacketizer {
    /// A depacketizer for the format; `None` for formats that are only passed through, video whose units
    /// are not in their order among them, and for AAC whose configuration can't be read.
    pub fn new(format: &Format, policy: LossPolicy) -> Option<Self> {
        let mut sink = Sink::default();
        let payload_format = match format.codec() {
            Codec::H264 => PayloadFormat::H264(Box::new(H264::new(format, policy)?)),
            Codec::H265 => PayloadFormat::H265(Box::new(H265::new(format, policy)?)),
            Codec::Aac if format.is_latm() => {
                PayloadFormat::Latm(Box::new(Latm::new(format, &mut sink)?))
            }
            Codec::Aac => {
                PayloadFormat::Mpeg4Generic(Box::new(Mpeg4Generic::new(format, &mut sink)?))
            }
            Codec::Opus => {
                sink.config(Codec::Opus, format.opus_head());
                PayloadFormat::Whole(Codec::Opus)
            }
            codec @ (Codec::PcmA | Codec::PcmU) => PayloadFormat::Whole(codec),
            _ => return None,
        };
        Some(Self { format: payload_format, sink })
    }

    /// The next packet begins a picture, or what comes before one, that stands in for a keyframe: it is
    /// one by its frame, unless it is damaged. Of audio that says nothing.
    pub fn start_at_next(&mut self) {
        match &mut self.format {
            PayloadFormat::H264(format) => format.start_at_next(),
            PayloadFormat::H265(format) => format.start_at_next(),
            _ => {}
        }
    }

    /// Takes the next packet, and what is missing before it.
    ///
    /// # Errors
    /// [`DepacketizeError`]; the next packet can be taken all the same.
    pub fn handle_packet(&mut self, packet: &RtpPacket, gap: Gap) -> Result<(), DepacketizeError> {
        match &mut self.format {
            PayloadFormat::H264(format) => format.handle_packet(packet, gap, &mut self.sink),
            PayloadFormat::H265(format) => format.handle_packet(packet, gap, &mut self.sink),
            PayloadFormat::Mpeg4Generic(format) => {
                format.handle_packet(packet, gap, &mut self.sink)
            }
            PayloadFormat::Latm(format) => format.handle_packet(packet, gap, &mut self.sink),
            PayloadFormat::Whole(codec) => {
                let timestamp = packet.header().timestamp;
                self.sink.audio_frame(*codec, timestamp, packet.payload());
                Ok(())
            }
        }
    }

    /// No more packets come: what is whole is handed out.
    pub fn flush(&mut self) {
        match &mut self.format {
            PayloadFormat::H264(format) => format.flush(&mut self.sink),
            PayloadFormat::H265(format) => format.flush(&mut self.sink),
            _ => {}
        }
    }

    /// The next configuration or frame.
    pub fn poll_item(&mut self) -> Option<Depacketized> {
        self.sink.items.pop_front()
    }

    pub fn counts(&self) -> DepacketizerCounts {
        self.sink.counts
    }
}

/// Whether payloads of AAC begin with the headers of their units, as most do.
pub(super) fn has_unit_headers(format: &Format) -> bool {
    mpeg4_generic::has_headers(format)
}

impl Sink {
    fn config(&mut self, codec: Codec, record: Bytes) {
        self.items.push_back(Depacketized::Config { codec, record });
    }

    fn frame(&mut self, frame: Frame) {
        self.counts.frames += 1;
        self.items.push_back(Depacketized::Frame(frame));
    }

    /// An empty one, as some cameras send to keep a path open, is left out.
    fn audio_frame(&mut self, codec: Codec, timestamp: u32, bytes: Bytes) {
        if !bytes.is_empty() {
            let payload = bytes.into();
            self.frame(Frame { codec, keyframe: false, timestamp, payload });
        }
    }
}

#[cfg(test)]
mod testing {
    use super::*;
    use crate::proto::rtp::format::TrackKind;
    use crate::proto::rtp::packet::RtpHeader;

    pub(super) struct Bench {
        depacketizer: Depacketizer,
        sequence: u16,
    }

    /// What came out, for comparison: configurations in hexadecimal, frames as timestamp, keyframe and
    /// payload.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) enum Item {
        Config(Vec<u8>),
        Frame(u32, bool, Vec<u8>),
    }

    pub(super) fn frame(timestamp: u32, payload: &[u8]) -> Item {
        Item::Frame(timestamp, false, payload.to_vec())
    }

    pub(super) fn keyframe(timestamp: u32, payload: &[u8]) -> Item {
        Item::Frame(timestamp, true, payload.to_vec())
    }

    pub(super) fn format(kind: TrackKind, rtpmap: &str, parameters: &str) -> Format {
        let mut format = Format::of_payload_type(kind, 96);
        format.read_rtpmap(rtpmap);
        format.parameters = parameters.to_owned();
        format
    }

    impl Bench {
        pub(super) fn new(format: &Format, policy: LossPolicy) -> Self {
            let depacketizer = Depacketizer::new(format, policy).expect("a format that we know");
            Self { depacketizer, sequence: 0 }
        }

        pub(super) fn try_feed(
            &mut self,
            gap: Gap,
            timestamp: u32,
            marker: bool,
            payload: &[u8],
        ) -> Result<(), DepacketizeError> {
            let sequence = self.sequence;
            self.sequence = sequence.wrapping_add(1);
            let header = RtpHeader { marker, payload_type: 96, sequence, timestamp, ssrc: 1 };
            let bytes = [&header.encode()[..], payload].concat();
            let packet = RtpPacket::parse(bytes.into()).unwrap();
            self.depacketizer.handle_packet(&packet, gap)
        }

        /// Feeds a packet without a gap before it.
        pub(super) fn feed(&mut self, timestamp: u32, marker: bool, payload: &[u8]) -> Vec<Item> {
            self.try_feed(Gap::None, timestamp, marker, payload).unwrap();
            self.items()
        }

        /// Feeds a packet with one missing before it.
        pub(super) fn feed_after_loss(
            &mut self,
            timestamp: u32,
            marker: bool,
            payload: &[u8],
        ) -> Vec<Item> {
            let _ = self.try_feed(Gap::Lost(1), timestamp, marker, payload);
            self.items()
        }

        pub(super) fn items(&mut self) -> Vec<Item> {
            let items = std::iter::from_fn(|| self.depacketizer.poll_item());
            let told = items.map(|item| match item {
                Depacketized::Config { record, .. } => Item::Config(record.to_vec()),
                Depacketized::Frame(frame) => {
                    Item::Frame(frame.timestamp, frame.keyframe, frame.payload.to_vec())
                }
            });
            told.collect()
        }

        pub(super) fn start_at_next(&mut self) {
            self.depacketizer.start_at_next();
        }

        pub(super) fn flush(&mut self) -> Vec<Item> {
            self.depacketizer.flush();
            self.items()
        }

        pub(super) fn counts(&self) -> DepacketizerCounts {
            self.depacketizer.counts()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Bench, Item, format, frame};
    use super::*;
    use crate::proto::rtp::format::TrackKind;

    #[test]
    fn packet_of_opus_or_g711_is_a_frame() {
        let opus = format(TrackKind::Audio, "opus/48000/2", "sprop-stereo=1");
        let mut bench = Bench::new(&opus, LossPolicy::default());
        let head = b"OpusHead\x01\x02\0\0\x80\xbb\0\0\0\0\0".to_vec();
        assert_eq!(bench.feed(960, true, b"a"), [Item::Config(head), frame(960, b"a")]);
        assert_eq!(bench.feed(1920, false, b""), []);
        assert_eq!(bench.feed_after_loss(3840, false, b"c"), [frame(3840, b"c")]);

        let pcmu = Format::of_payload_type(TrackKind::Audio, 0);
        let mut bench = Bench::new(&pcmu, LossPolicy::default());
        assert_eq!(bench.feed(160, false, &[0xff; 160]), [frame(160, &[0xff; 160])]);
        assert_eq!(bench.counts().frames, 1);
    }

    #[test]
    fn unknown_formats_have_no_depacketizer() {
        for (kind, rtpmap, parameters) in [
            (TrackKind::Video, "JPEG/90000", ""),
            (TrackKind::Other, "vnd.onvif.metadata/90000", ""),
            (TrackKind::Audio, "G726-32/8000", ""),
            (TrackKind::Audio, "mpeg4-generic/44100/2", "mode=AAC-hbr"),
            (TrackKind::Audio, "MP4A-LATM/44100/2", "cpresent=0;config=zz"),
            (TrackKind::Video, "H265/90000", "sprop-max-don-diff=2"),
            (TrackKind::Video, "H264/90000", "packetization-mode=2"),
        ] {
            let format = format(kind, rtpmap, parameters);
            assert!(Depacketizer::new(&format, LossPolicy::default()).is_none(), "{rtpmap}");
        }
    }
}
