//! AAC in `mpeg4-generic` payloads (RFC 3640, 3.2): a list of headers, then the access units.
//!
//! Any layout of headers is read, interleaving is not: units are taken in the order of the packet.

use bytes::Bytes;

use super::{DepacketizeError, Sink};
use crate::limits::AUDIO_FRAME_LEN_MAX;
use crate::media::codec::AacFrameTime;
use crate::media::codec::bits::BitReader;
use crate::media::{Codec, Frame, Payload};
use crate::proto::rtp::format::Format;
use crate::proto::rtp::packet::RtpPacket;
use crate::proto::rtp::reorder::Gap;

#[derive(Debug)]
pub(super) struct Mpeg4Generic {
    layout: Layout,
    frame_ticks: u32,
    fragment: Option<Fragment>,
}

/// Bits of each field of a header (RFC 3640, 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    size: u32,
    index: u32,
    index_delta: u32,
    composition_delta: u32,
    decoding_delta: u32,
    random_access: u32,
    stream_state: u32,
    auxiliary_size: u32,
    /// Of units that have no size field; 0 where a packet is a unit.
    constant_size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UnitHeader {
    size: usize,
    /// Units left out before it.
    skipped: u32,
}

/// A unit that is longer than a packet.
#[derive(Debug)]
struct Fragment {
    timestamp: u32,
    size: usize,
    payload: Payload,
}

impl Mpeg4Generic {
    pub(super) fn new(format: &Format, sink: &mut Sink) -> Option<Self> {
        let config = format.config()?;
        let frame_ticks = AacFrameTime::from_config(&config)?.ticks(format.clock_rate);
        let layout = Layout::of_format(format)?;
        sink.config(Codec::Aac, config);
        Some(Self { layout, frame_ticks, fragment: None })
    }

    pub(super) fn handle_packet(
        &mut self,
        packet: &RtpPacket,
        gap: Gap,
        sink: &mut Sink,
    ) -> Result<(), DepacketizeError> {
        let timestamp = packet.header().timestamp;
        let continues = |fragment: &Fragment| gap == Gap::None && fragment.timestamp == timestamp;
        if self.fragment.take_if(|fragment| !continues(fragment)).is_some() {
            sink.counts.damaged += 1;
        }
        let payload = packet.payload();
        // Some cameras send empty packets to keep a path open.
        if payload.is_empty() {
            return Ok(());
        }
        let read = self.read(timestamp, payload, sink);
        if read.is_err() {
            self.fragment = None;
            sink.counts.damaged += 1;
        }
        read
    }

    fn read(
        &mut self,
        timestamp: u32,
        payload: Bytes,
        sink: &mut Sink,
    ) -> Result<(), DepacketizeError> {
        let (headers, mut data) = self.layout.read_headers(payload)?;
        if self.fragment.is_some() {
            return self.read_fragment(data, sink);
        }
        if let [header] = headers[..]
            && header.size > data.len()
        {
            if header.size > AUDIO_FRAME_LEN_MAX {
                return Err(DepacketizeError::TooLong);
            }
            let payload = Payload::from(data);
            self.fragment = Some(Fragment { timestamp, size: header.size, payload });
            return Ok(());
        }
        let mut place = timestamp;
        for header in headers {
            if header.size > data.len() {
                return Err(DepacketizeError::CutOff);
            }
            place = place.wrapping_add(header.skipped.wrapping_mul(self.frame_ticks));
            sink.audio_frame(Codec::Aac, place, without_adts(data.split_to(header.size)));
            place = place.wrapping_add(self.frame_ticks);
        }
        Ok(())
    }

    fn read_fragment(&mut self, data: Bytes, sink: &mut Sink) -> Result<(), DepacketizeError> {
        let mut fragment = self.fragment.take().ok_or(DepacketizeError::NoStart)?;
        fragment.payload.push(data);
        let len = fragment.payload.len();
        if len > fragment.size {
            return Err(DepacketizeError::TooLong);
        }
        if len < fragment.size {
            self.fragment = Some(fragment);
            return Ok(());
        }
        let Fragment { timestamp, payload, .. } = fragment;
        sink.frame(Frame { codec: Codec::Aac, keyframe: false, timestamp, payload });
        Ok(())
    }
}

/// Whether payloads of the format begin with headers.
pub(super) fn has_headers(format: &Format) -> bool {
    Layout::of_format(format).is_some_and(|layout| layout.has_headers())
}

impl Layout {
    /// `None` for lengths that no header can have.
    fn of_format(format: &Format) -> Option<Self> {
        let bits = |name| format.number(name).unwrap_or(0);
        let mut layout = Self {
            size: bits("sizelength"),
            index: bits("indexlength"),
            index_delta: bits("indexdeltalength"),
            composition_delta: bits("ctsdeltalength"),
            decoding_delta: bits("dtsdeltalength"),
            random_access: bits("randomaccessindication").min(1),
            stream_state: bits("streamstateindication"),
            auxiliary_size: bits("auxiliarydatasizelength"),
            constant_size: bits("constantsize") as usize,
        };
        let mode = format.parameter("mode").unwrap_or_default();
        // Cameras name the mode and leave out what it means (RFC 3640, 3.3.5 and 3.3.6).
        if layout.size == 0 && layout.constant_size == 0 {
            (layout.size, layout.index) = match mode.to_ascii_lowercase().as_str() {
                "aac-hbr" => (13, 3),
                "aac-lbr" => (6, 2),
                _ => (layout.size, layout.index),
            };
            layout.index_delta = layout.index_delta.max(layout.index);
        }
        let widths = [layout.size, layout.index, layout.index_delta, layout.composition_delta];
        let others = [layout.decoding_delta, layout.stream_state, layout.auxiliary_size];
        let is_sound = widths.iter().chain(&others).all(|bits| *bits <= 32);
        is_sound.then_some(layout)
    }

    fn has_headers(&self) -> bool {
        let Self { size, index, index_delta, composition_delta, decoding_delta, .. } = self;
        let bits = size + index + index_delta + composition_delta + decoding_delta;
        bits + self.random_access + self.stream_state > 0
    }

    /// The headers of a payload, and what follows them and the auxiliary data.
    fn read_headers(
        &self,
        mut payload: Bytes,
    ) -> Result<(Vec<UnitHeader>, Bytes), DepacketizeError> {
        let cut_off = DepacketizeError::CutOff;
        let mut headers = Vec::new();
        if self.has_headers() {
            let bits = usize::from(u16::from_be_bytes(*payload.first_chunk().ok_or(cut_off)?));
            let end = 2 + bits.div_ceil(8);
            if end > payload.len() {
                return Err(cut_off);
            }
            let section = payload.split_to(end).slice(2..);
            let mut reader = BitReader::new(&section);
            while reader.position() < bits {
                let before = reader.position();
                headers.push(self.read_header(&mut reader, headers.is_empty()).ok_or(cut_off)?);
                // Headers that take no bits would never end.
                if reader.position() == before && headers.len() > 1 {
                    return Err(cut_off);
                }
            }
        }
        if self.auxiliary_size > 0 {
            let mut reader = BitReader::new(&payload);
            let bits = reader.bits(self.auxiliary_size).ok_or(cut_off)?;
            reader.skip(bits as usize).ok_or(cut_off)?;
            let len = reader.position().div_ceil(8);
            drop(payload.split_to(len));
        }
        self.add_sizes(&mut headers, payload.len());
        Ok((headers, payload))
    }

    /// Gives units their sizes where the headers have none.
    fn add_sizes(&self, headers: &mut Vec<UnitHeader>, data_len: usize) {
        if self.size > 0 {
            return;
        }
        let size = if self.constant_size > 0 { self.constant_size } else { data_len };
        if headers.is_empty() {
            let count = data_len.div_ceil(size.max(1));
            headers.resize(count, UnitHeader { size, skipped: 0 });
        }
        headers.iter_mut().for_each(|header| header.size = size);
    }

    fn read_header(&self, reader: &mut BitReader<'_>, is_first: bool) -> Option<UnitHeader> {
        let size = reader.bits(self.size)? as usize;
        let skipped = if is_first {
            reader.bits(self.index)?;
            0
        } else {
            reader.bits(self.index_delta)?
        };
        for delta in [self.composition_delta, self.decoding_delta] {
            if delta > 0 && reader.bit()? {
                reader.bits(delta)?;
            }
        }
        reader.bits(self.random_access)?;
        reader.bits(self.stream_state)?;
        Some(UnitHeader { size, skipped })
    }
}

/// A unit without the ADTS header (ISO/IEC 14496-3, 1.A.2.2) that some cameras leave before it. A raw
/// unit never begins with those bits: they would end it at once.
fn without_adts(unit: Bytes) -> Bytes {
    let &[0xff, second, _, fourth, fifth, sixth, _, ..] = &unit[..] else { return unit };
    let len = usize::from(fourth & 0x03) << 11 | usize::from(fifth) << 3 | usize::from(sixth >> 5);
    let header_len = if second & 1 == 1 { 7 } else { 9 };
    if second & 0xf6 != 0xf0 || len != unit.len() || len < header_len {
        return unit;
    }
    unit.slice(header_len..)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, Item, format, frame};
    use super::*;
    use crate::proto::rtp::depacketizer::LossPolicy;
    use crate::proto::rtp::format::TrackKind;

    const HBR: &str = "streamtype=5; profile-level-id=15; mode=AAC-hbr; config=1190; \
                       SizeLength=13; IndexLength=3; IndexDeltaLength=3";

    fn started(parameters: &str) -> Bench {
        let format = format(TrackKind::Audio, "mpeg4-generic/48000/2", parameters);
        let mut bench = Bench::new(&format, LossPolicy::default());
        assert_eq!(bench.items(), [Item::Config(vec![0x11, 0x90])]);
        bench
    }

    /// Headers of AAC-hbr, then the data.
    fn payload(sizes: &[u16], data: &[u8]) -> Vec<u8> {
        let mut bytes = (16 * sizes.len() as u16).to_be_bytes().to_vec();
        sizes.iter().for_each(|size| bytes.extend_from_slice(&(size << 3).to_be_bytes()));
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn units_of_a_packet_are_frames_one_after_the_other() {
        let mut bench = started(HBR);
        assert_eq!(bench.feed(100, true, &payload(&[3], b"abc")), [frame(100, b"abc")]);
        let items = bench.feed(u32::MAX, true, &payload(&[1, 2], b"abb"));
        assert_eq!(items, [frame(u32::MAX, b"a"), frame(1023, b"bb")]);
        assert_eq!(bench.feed(1, true, b""), []);
    }

    #[test]
    fn mode_alone_tells_the_layout() {
        let mut bench = started("mode=AAC-hbr;config=1190");
        assert_eq!(bench.feed(1, true, &payload(&[3], b"abc")), [frame(1, b"abc")]);
        let mut bench = started("mode=AAC-lbr;config=1190");
        assert_eq!(bench.feed(1, true, b"\0\x10\x04\x08abb"), [frame(1, b"a"), frame(1025, b"bb")]);
    }

    #[test]
    fn unit_in_fragments_is_a_frame() {
        let mut bench = started(HBR);
        assert_eq!(bench.feed(1, false, &payload(&[7], b"abc")), []);
        assert_eq!(bench.feed(1, false, &payload(&[7], b"def")), []);
        assert_eq!(bench.feed(1, true, &payload(&[7], b"g")), [frame(1, b"abcdefg")]);
        // One is lost; another begins before the end.
        bench.feed(2, false, &payload(&[7], b"abc"));
        assert_eq!(bench.feed_after_loss(2, true, &payload(&[7], b"g")), []);
        assert_eq!(bench.feed(3, true, &payload(&[1], b"x")), [frame(3, b"x")]);
        // The rest of a lost start looks like a start.
        assert_eq!(bench.counts().damaged, 2);
        // More than was announced.
        bench.feed(4, false, &payload(&[4], b"abc"));
        let error = bench.try_feed(Gap::None, 4, true, &payload(&[4], b"def"));
        assert_eq!(error, Err(DepacketizeError::TooLong));
    }

    #[test]
    fn other_layouts_are_read() {
        // Time deltas, random access and stream state in each header, and auxiliary data.
        let mut bench = started(
            "config=1190;sizelength=8;indexlength=2;indexdeltalength=2;ctsdeltalength=4;\
             dtsdeltalength=4;randomaccessindication=1;streamstateindication=1;\
             auxiliarydatasizelength=8",
        );
        // 8 size, 2 index, 0, 1 dddd, 1, 0 = 18 bits; then 8, 2, 1 cccc, 0, 0, 1 = 18 bits.
        let bits = "000000010001111110000000100110110001".replace(' ', "");
        let headers: Vec<u8> = bits
            .as_bytes()
            .chunks(8)
            .map(|byte| {
                let digits = byte.iter().fold(0, |value, bit| value << 1 | (bit - b'0'));
                digits << (8 - byte.len())
            })
            .collect();
        let packet = [b"\0\x24", &headers[..], b"\x0c\xab\xcdabb"].concat();
        // The second unit has one left out before it.
        assert_eq!(bench.feed(0, true, &packet), [frame(0, b"a"), frame(2048, b"bb")]);

        let mut whole = started("config=1190");
        assert_eq!(whole.feed(5, true, b"abc"), [frame(5, b"abc")]);
        let mut constant = started("config=1190;constantsize=2");
        assert_eq!(constant.feed(0, true, b"aabb"), [frame(0, b"aa"), frame(1024, b"bb")]);
    }

    #[test]
    fn adts_header_is_taken_off() {
        let mut bench = started(HBR);
        let unit = b"\xff\xf1\x4c\x80\x01\x3f\xfcab";
        assert_eq!(bench.feed(1, true, &payload(&[9], unit)), [frame(1, b"ab")]);
        let other = b"\xff\xf1\x4c\x80\x01\x5f\xfcab";
        assert_eq!(bench.feed(2, true, &payload(&[9], other)), [frame(2, other)]);
    }

    #[test]
    fn what_can_not_be_read_is_an_error_and_no_end() {
        let mut bench = started(HBR);
        for bad in [&b"\0"[..], b"\0\x10\0", b"\0\x08\x08abc", &payload(&[1, 9], b"abc")] {
            let error = bench.try_feed(Gap::None, 1, true, bad);
            assert_eq!(error, Err(DepacketizeError::CutOff), "{bad:?}");
        }
        bench.items();
        assert_eq!(bench.feed(2, true, &payload(&[1], b"x")), [frame(2, b"x")]);
        // A layout whose second header takes no bits.
        let mut bench = started("config=1190;indexlength=3");
        let error = bench.try_feed(Gap::None, 1, true, b"\0\x10\0\0abc");
        assert_eq!(error, Err(DepacketizeError::CutOff));
    }
}
