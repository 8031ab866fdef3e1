//! AAC in LATM payloads (RFC 6416, 6; ISO/IEC 14496-3, 1.7.3).
//!
//! The configuration comes out of band (`cpresent=0`) or before the first unit and again at will
//! (`cpresent=1`), and then units begin at any bit and are copied. Left out: several programs or
//! layers, frame lengths that are not told (1.7.3.1, types 3 to 7), error protection.
//!
//! GStreamer 1.22 ends an out-of-band configuration with the AudioSpecificConfig. What is missing is
//! taken for the usual: each length told, no other data.

use bytes::{Bytes, BytesMut};

use super::{DepacketizeError, Sink};
use crate::limits::AUDIO_FRAME_LEN_MAX;
use crate::media::Codec;
use crate::media::codec::bits::BitReader;
use crate::media::codec::{AacFrameTime, pass_audio_specific_config};
use crate::proto::rtp::format::Format;
use crate::proto::rtp::packet::RtpPacket;
use crate::proto::rtp::reorder::Gap;

#[derive(Debug)]
pub(super) struct Latm {
    clock_rate: u32,
    /// The configuration is in the payload.
    in_band: bool,
    mux: Option<StreamMux>,
    /// An element that is longer than a packet.
    fragments: BytesMut,
    fragments_timestamp: u32,
    /// Elements in one packet each since the last one in several, of which nothing marks the first
    /// packet; [`MEMORY_ELEMENTS`] at most.
    whole_count: u32,
    /// Packets are of an element whose beginning is missing, up to one with a marker.
    awaits_marker: bool,
}

/// What a StreamMuxConfig tells (1.7.3.2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
struct StreamMux {
    config: Bytes,
    /// Frames in one element.
    frame_count: u32,
    /// Bytes of each frame; `None` where it is told before each.
    frame_len: Option<usize>,
    other_bits: u32,
}

impl Latm {
    pub(super) fn new(format: &Format, sink: &mut Sink) -> Option<Self> {
        // In band is the default (RFC 6416, 7.3).
        let in_band = format.parameter("cpresent") != Some("0");
        let config = format.config();
        let mux = config.and_then(|config| StreamMux::read_out_of_band(&config));
        if mux.is_none() && !in_band {
            return None;
        }
        if let Some(mux) = &mux {
            sink.config(Codec::Aac, mux.config.clone());
        }
        let (clock_rate, fragments) = (format.clock_rate, BytesMut::new());
        Some(Self {
            clock_rate,
            in_band,
            mux,
            fragments,
            fragments_timestamp: 0,
            whole_count: MEMORY_ELEMENTS,
            awaits_marker: false,
        })
    }

    pub(super) fn handle_packet(
        &mut self,
        packet: &RtpPacket,
        gap: Gap,
        sink: &mut Sink,
    ) -> Result<(), DepacketizeError> {
        let header = packet.header();
        let is_other = gap != Gap::None || header.timestamp != self.fragments_timestamp;
        let is_cut_off = is_other && !self.fragments.is_empty();
        if !header.marker {
            self.whole_count = 0;
        }
        let is_fragmented = self.whole_count < MEMORY_ELEMENTS;
        let may_be_rest = gap != Gap::None && is_fragmented && !self.awaits_marker;
        if is_cut_off || may_be_rest {
            self.fragments.clear();
            sink.counts.damaged += 1;
        }
        self.awaits_marker |= may_be_rest;
        if self.awaits_marker {
            self.awaits_marker = !header.marker;
            return Ok(());
        }
        let payload = packet.payload();
        if header.marker && self.fragments.is_empty() {
            self.whole_count = MEMORY_ELEMENTS.min(self.whole_count + 1);
            return self.read_elements(header.timestamp, payload, sink);
        }
        if self.fragments.len() + payload.len() > AUDIO_FRAME_LEN_MAX {
            self.fragments.clear();
            self.awaits_marker = !header.marker;
            sink.counts.damaged += 1;
            return Err(DepacketizeError::TooLong);
        }
        self.fragments_timestamp = header.timestamp;
        self.fragments.extend_from_slice(&payload);
        if !header.marker {
            return Ok(());
        }
        let payload = self.fragments.split().freeze();
        self.read_elements(header.timestamp, payload, sink)
    }

    fn read_elements(
        &mut self,
        timestamp: u32,
        payload: Bytes,
        sink: &mut Sink,
    ) -> Result<(), DepacketizeError> {
        let mut reader = BitReader::new(&payload);
        let mut place = timestamp;
        while reader.position() < payload.len() * 8 {
            let read = self.read_element(&mut place, &payload, &mut reader, sink);
            if let Err(error) = read {
                sink.counts.damaged += 1;
                return Err(error);
            }
            // The next one begins at a byte.
            let odd = reader.position() % 8;
            reader.skip((8 - odd) % 8).ok_or(DepacketizeError::CutOff)?;
        }
        Ok(())
    }

    /// Reads one AudioMuxElement (1.7.3.1).
    fn read_element(
        &mut self,
        place: &mut u32,
        payload: &Bytes,
        reader: &mut BitReader<'_>,
        sink: &mut Sink,
    ) -> Result<(), DepacketizeError> {
        let cut_off = DepacketizeError::CutOff;
        if self.in_band && !reader.bit().ok_or(cut_off)? {
            let mux = StreamMux::read(reader).ok_or(DepacketizeError::BadConfig)?;
            let is_news = self.mux.as_ref().is_none_or(|known| known.config != mux.config);
            if is_news {
                sink.config(Codec::Aac, mux.config.clone());
            }
            self.mux = Some(mux);
        }
        let Some(mux) = &self.mux else {
            sink.counts.unconfigured += 1;
            // Its length is not known either: nothing more of the packet can be read.
            reader.skip(payload.len() * 8 - reader.position());
            return Ok(());
        };
        let frame_ticks =
            AacFrameTime::from_config(&mux.config).map_or(0, |time| time.ticks(self.clock_rate));
        for _ in 0..mux.frame_count {
            let len = mux.frame_len.map_or_else(|| read_len(reader), Some).ok_or(cut_off)?;
            let frame = take(payload, reader, len).ok_or(cut_off)?;
            sink.audio_frame(Codec::Aac, *place, frame);
            *place = place.wrapping_add(frame_ticks);
        }
        reader.skip(mux.other_bits as usize).ok_or(cut_off)
    }
}

impl StreamMux {
    fn read(reader: &mut BitReader<'_>) -> Option<Self> {
        let (mut mux, version) = Self::read_config(reader)?;
        mux.read_lengths(reader, version)?;
        Some(mux)
    }

    fn read_out_of_band(bytes: &[u8]) -> Option<Self> {
        let mut reader = BitReader::new(bytes);
        let (mux, version) = Self::read_config(&mut reader)?;
        let mut with_lengths = mux.clone();
        let is_whole = with_lengths.read_lengths(&mut reader, version).is_some();
        Some(if is_whole { with_lengths } else { mux })
    }

    /// Reads up to the end of the AudioSpecificConfig; also whether the version is 1.
    fn read_config(reader: &mut BitReader<'_>) -> Option<(Self, bool)> {
        let version = reader.bit()?;
        if version && reader.bit()? {
            return None;
        }
        if version {
            latm_value(reader)?;
        }
        let same_framing = reader.bit()?;
        let frame_count = reader.bits(6)? + 1;
        let (program, layer) = (reader.bits(4)?, reader.bits(3)?);
        if !same_framing || program != 0 || layer != 0 {
            return None;
        }
        let config = if version { config_of_told_len(reader)? } else { config(reader)? };
        AacFrameTime::from_config(&config)?;
        Some((Self { config, frame_count, frame_len: None, other_bits: 0 }, version))
    }

    fn read_lengths(&mut self, reader: &mut BitReader<'_>, version: bool) -> Option<()> {
        self.frame_len = match reader.bits(3)? {
            0 => {
                reader.skip(8)?;
                None
            }
            1 => Some(reader.bits(9)? as usize + 20),
            _ => return None,
        };
        self.other_bits = match reader.bit()? {
            false => 0,
            true if version => latm_value(reader)?,
            true => other_bits(reader)?,
        };
        if reader.bit()? {
            reader.skip(8)?;
        }
        Some(())
    }
}

/// An AudioSpecificConfig whose length only its content tells.
fn config(reader: &mut BitReader<'_>) -> Option<Bytes> {
    let mut behind = reader.clone();
    pass_audio_specific_config(&mut behind)?;
    let bits = behind.position() - reader.position();
    config_bits(reader, bits)
}

fn config_of_told_len(reader: &mut BitReader<'_>) -> Option<Bytes> {
    let bits = latm_value(reader)? as usize;
    if bits > CONFIG_BITS_MAX {
        return None;
    }
    config_bits(reader, bits)
}

/// The next bits as bytes, filled up with zeros.
fn config_bits(reader: &mut BitReader<'_>, bits: usize) -> Option<Bytes> {
    let mut bytes = reader.bytes(bits / 8)?;
    let odd = (bits % 8) as u32;
    if odd > 0 {
        bytes.push((reader.bits(odd)? << (8 - odd)) as u8);
    }
    Some(bytes.into())
}

/// `LatmGetValue`: one to four bytes.
fn latm_value(reader: &mut BitReader<'_>) -> Option<u32> {
    let len = reader.bits(2)? + 1;
    reader.bits(8 * len)
}

/// `otherDataLenBits` before version 1: bytes, each behind a bit that says whether one follows.
fn other_bits(reader: &mut BitReader<'_>) -> Option<u32> {
    let mut bits: u32 = 0;
    loop {
        let continues = reader.bit()?;
        bits = bits.checked_mul(256)?.checked_add(reader.bits(8)?)?;
        if !continues {
            return Some(bits);
        }
    }
}

/// `PayloadLengthInfo`: bytes of 255 and one less.
fn read_len(reader: &mut BitReader<'_>) -> Option<usize> {
    let mut len = 0;
    loop {
        let byte = reader.bits(8)? as usize;
        len += byte;
        if byte < 255 {
            return Some(len);
        }
    }
}

/// The next bytes: a view where they begin at a byte.
fn take(payload: &Bytes, reader: &mut BitReader<'_>, len: usize) -> Option<Bytes> {
    let start = reader.position();
    if !start.is_multiple_of(8) {
        return reader.bytes(len).map(Bytes::from);
    }
    reader.skip(len.checked_mul(8)?)?;
    Some(payload.slice(start / 8..start / 8 + len))
}

/// Two seconds of 48 kHz: a source that sends elements in several packets has done so again by then.
const MEMORY_ELEMENTS: u32 = 94;

/// An AudioSpecificConfig with everything in it is under 100 bytes.
const CONFIG_BITS_MAX: usize = 8 * 256;

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, Item, format, frame};
    use super::*;
    use crate::proto::rtp::depacketizer::LossPolicy;
    use crate::proto::rtp::format::TrackKind;

    /// A StreamMuxConfig of AAC-LC, 48 kHz, stereo, as ffmpeg and GStreamer write it: version 0, same
    /// framing, one frame, one program, one layer; the configuration `1190`; length told before each
    /// frame; neither other data nor checksum.
    const CONFIG: &str = "400023203fc0";

    fn bench(parameters: &str) -> Bench {
        let format = format(TrackKind::Audio, "MP4A-LATM/48000/2", parameters);
        Bench::new(&format, LossPolicy::default())
    }

    fn config() -> Item {
        Item::Config(vec![0x11, 0x90])
    }

    /// The bits, shifted by those before them.
    fn shifted(bits: &str, bytes: &[u8]) -> Vec<u8> {
        let mut all = bits.to_owned();
        bytes.iter().for_each(|byte| all.push_str(&format!("{byte:08b}")));
        let bytes = all.as_bytes().chunks(8);
        let byte = |bits: &[u8]| {
            let value = bits.iter().fold(0, |value, bit| value << 1 | (bit - b'0'));
            value << (8 - bits.len())
        };
        bytes.map(byte).collect()
    }

    #[test]
    fn configuration_out_of_band() {
        let mut bench = bench(&format!("profile-level-id=15;cpresent=0;config={CONFIG}"));
        assert_eq!(bench.items(), [config()]);
        assert_eq!(bench.feed(1, true, b"\x03abc"), [frame(1, b"abc")]);
        // Two elements, one of 300 bytes.
        let long = [b"\xff\x2d".as_slice(), &[7; 300], b"\x01a"].concat();
        assert_eq!(bench.feed(9, true, &long), [frame(9, &[7; 300]), frame(1033, b"a")]);
    }

    #[test]
    fn configuration_of_gstreamer_ends_early() {
        // With the announcement that ffmpeg's encoder adds, and without.
        for (hex, config) in [("40002410adca00", "120856e500"), ("40002320", "1190")] {
            let mut bench = bench(&format!("cpresent=0;config={hex}"));
            let [Item::Config(record)] = &bench.items()[..] else { panic!("{hex}") };
            let told: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(told, config);
            assert_eq!(bench.feed(1, true, b"\x01a"), [frame(1, b"a")]);
        }
    }

    #[test]
    fn configuration_in_band() {
        let mut bench = bench("cpresent=1");
        // The same multiplex as before, which nobody has told.
        assert_eq!(bench.feed(1, true, &shifted("1", b"\x01a")), []);
        assert_eq!(bench.counts().unconfigured, 1);
        // Version 0, same framing, the configuration, then length type, fullness, nothing more.
        let mux = "0 0 1 000000 0000 000 0001000110010000 000 11111111 0 0".replace(' ', "");
        let first = shifted(&mux, b"\x03abc");
        assert_eq!(bench.feed(2, true, &first), [config(), frame(2, b"abc")]);
        assert_eq!(bench.feed(3, true, &shifted("1", b"\x02de")), [frame(3, b"de")]);
        // Told again it is no news.
        assert_eq!(bench.feed(4, true, &first), [frame(4, b"abc")]);
    }

    #[test]
    fn version_1_tells_lengths() {
        // Fullness; same framing; configuration of 16 bits; other data of 12 bits; checksum.
        let mux = "1 0 00 11111111 1 000001 0000 000 00 00010000 0001000110010000 000 11111111 \
                   1 00 00001100 1 10101010"
            .replace(' ', "");
        let config_hex: String =
            shifted(&mux, b"").iter().map(|byte| format!("{byte:02x}")).collect();
        let mut bench = bench(&format!("cpresent=0;config={config_hex}"));
        assert_eq!(bench.items(), [config()]);
        // Two frames an element, then 12 bits of something.
        let packet = b"\x01a\x02bc\xff\xf0";
        assert_eq!(bench.feed(0, true, packet), [frame(0, b"a"), frame(1024, b"bc")]);
    }

    #[test]
    fn element_in_fragments_is_a_frame() {
        let mut bench = bench(&format!("cpresent=0;config={CONFIG}"));
        bench.items();
        assert_eq!(bench.feed(1, false, b"\x05ab"), []);
        assert_eq!(bench.feed(1, false, b"cd"), []);
        assert_eq!(bench.feed(1, true, b"e"), [frame(1, b"abcde")]);
        // One is missing, or its end never came.
        bench.feed(2, false, b"\x05ab");
        assert_eq!(bench.feed_after_loss(2, true, b"e"), []);
        bench.feed(3, false, b"\x05ab");
        assert_eq!(bench.feed(4, true, b"\x01x"), [frame(4, b"x")]);
        assert_eq!(bench.counts().damaged, 2);
    }

    #[test]
    fn rest_of_an_element_is_no_element() {
        let mut bench = bench(&format!("cpresent=0;config={CONFIG}"));
        bench.items();
        // As long as each is in one packet, what comes after a loss is whole.
        assert_eq!(bench.feed_after_loss(1, true, b"\x01x"), [frame(1, b"x")]);
        // The first of three fragments is lost; the others would be an element of their own.
        assert_eq!(bench.feed_after_loss(2, false, b"\x01"), []);
        assert_eq!(bench.feed(2, true, b"b"), []);
        assert_eq!(bench.counts().damaged, 1);
        assert_eq!(bench.feed(3, true, b"\x01x"), [frame(3, b"x")]);
        // The first of two.
        assert_eq!(bench.feed_after_loss(4, true, b"\x01b"), []);
        assert_eq!(bench.counts().damaged, 2);
        assert_eq!(bench.feed(5, true, b"\x01x"), [frame(5, b"x")]);
    }

    #[test]
    fn elements_in_several_packets_are_forgotten() {
        let mut bench = bench(&format!("cpresent=0;config={CONFIG}"));
        bench.items();
        let mut feed = |timestamp, marker, payload: &[u8]| bench.feed(timestamp, marker, payload);
        feed(0, false, b"\x05ab");
        assert_eq!(feed(0, true, b"cde").len(), 1);
        for timestamp in 1..=MEMORY_ELEMENTS {
            assert_eq!(feed(timestamp, true, b"\x01x").len(), 1);
        }
        for timestamp in 1000..1003 {
            assert_eq!(bench.feed_after_loss(timestamp, true, b"\x01x").len(), 1);
        }
        assert_eq!(bench.counts().damaged, 0);
    }

    #[test]
    fn what_can_not_be_read_is_an_error_and_no_end() {
        let mut bench = bench("cpresent=1");
        let many_programs = "0 0 1 000000 0001 000".replace(' ', "");
        let error = bench.try_feed(Gap::None, 1, true, &shifted(&many_programs, &[0; 9]));
        assert_eq!(error, Err(DepacketizeError::BadConfig));
        let mux = "0 0 1 000000 0000 000 0001000110010000 000 11111111 0 0".replace(' ', "");
        let error = bench.try_feed(Gap::None, 1, true, &shifted(&mux, b"\x09abc"));
        assert_eq!(error, Err(DepacketizeError::CutOff));
        assert_eq!(bench.items(), [config()]);
        assert_eq!(bench.feed(2, true, &shifted(&mux, b"\x01a")), [frame(2, b"a")]);
        let fragment = [0; 60_000];
        assert_eq!(bench.feed(3, false, &fragment), []);
        let error = bench.try_feed(Gap::None, 3, false, &fragment);
        assert_eq!(error, Err(DepacketizeError::TooLong));
    }
}
