//! H.264 and H.265 payloads: single NAL units, STAP-A and aggregation packets, FU-A and
//! fragmentation units (RFC 6184, 5.6 to 5.8; RFC 7798, 4.4).
//!
//! Neighboring units that fit a packet together go in one. Parameter sets go before every keyframe
//! that does not bring its own.

use super::PacketizeError;
use crate::media::codec::ParameterSets;
use crate::media::{Codec, Frame, Payload};

#[derive(Debug)]
pub(super) struct NalPacketizer {
    codec: Codec,
    sets: ParameterSets,
    length_size: usize,
}

/// A NAL unit with its header, which is one byte of H.264 and two of H.265.
#[derive(Debug)]
struct Nal {
    header: [u8; 2],
    bytes: Payload,
}

impl NalPacketizer {
    pub(super) fn new(codec: Codec, sets: ParameterSets) -> Self {
        Self { codec, sets, length_size: 4 }
    }

    pub(super) fn set_config(&mut self, sets: ParameterSets, length_size: Option<usize>) {
        self.sets = sets;
        self.length_size = length_size.unwrap_or(4);
    }

    /// The payloads of a frame's packets, each of `len_max` bytes at most.
    pub(super) fn payloads(
        &self,
        frame: &Frame,
        len_max: usize,
    ) -> Result<Vec<Payload>, PacketizeError> {
        let mut payloads = Vec::new();
        let mut waiting = Vec::new();
        let mut waiting_len = self.header_len();
        for nal in self.nals(frame)? {
            let len = nal.bytes.len();
            if waiting_len + 2 + len > len_max {
                payloads.extend(self.joined(std::mem::take(&mut waiting)));
                waiting_len = self.header_len();
            }
            if len > len_max {
                self.fragment(&nal, len_max, &mut payloads);
            } else {
                waiting_len += 2 + len;
                waiting.push(nal);
            }
        }
        payloads.extend(self.joined(waiting));
        Ok(payloads)
    }

    /// The frame's units, with parameter sets before those of a keyframe that has none.
    fn nals(&self, frame: &Frame) -> Result<Vec<Nal>, PacketizeError> {
        let mut nals = Vec::new();
        let mut reader = frame.payload.reader();
        while reader.left() > 0 {
            let mut len = 0;
            for _ in 0..self.length_size {
                let [byte] = reader.array().ok_or(PacketizeError::NalLength)?;
                len = len << 8 | usize::from(byte);
            }
            let bytes = reader.take(len).ok_or(PacketizeError::NalLength)?;
            nals.extend(self.nal(bytes));
        }
        let is_set = |nal: &Nal| ParameterSets::is_parameter_set(self.codec, &nal.header);
        if frame.keyframe && !nals.iter().any(is_set) {
            let sets = self.sets.nals().filter_map(|nal| self.nal(nal.clone().into()));
            // A delimiter begins its picture's access unit (H.264, 7.4.1.2.3; H.265, 7.4.2.4.4).
            let at = usize::from(nals.first().is_some_and(|nal| self.is_delimiter(nal)));
            nals.splice(at..at, sets);
        }
        Ok(nals)
    }

    fn is_delimiter(&self, nal: &Nal) -> bool {
        match self.codec {
            Codec::H264 => nal.header[0] & 0x1f == 9,
            _ => nal.header[0] >> 1 & 0x3f == 35,
        }
    }

    /// `None` for what is shorter than a header: it can't be sent.
    fn nal(&self, bytes: Payload) -> Option<Nal> {
        let mut reader = bytes.reader();
        let header = match self.codec {
            Codec::H264 => reader.array().map(|[first]| [first, 0]),
            _ => reader.array(),
        };
        header.map(|header| Nal { header, bytes })
    }

    fn header_len(&self) -> usize {
        if self.codec == Codec::H264 { 1 } else { 2 }
    }

    /// One packet of units that fit it: the unit itself, or all behind their lengths.
    fn joined(&self, mut nals: Vec<Nal>) -> Option<Payload> {
        if nals.len() < 2 {
            return nals.pop().map(|nal| nal.bytes);
        }
        let mut payload = Payload::new();
        let header = self.aggregation_header(&nals);
        payload.push_inline(&header[..self.header_len()]);
        for nal in nals {
            let len = u16::try_from(nal.bytes.len()).expect("it fits a packet");
            payload.push_inline(&len.to_be_bytes());
            payload.append(nal.bytes);
        }
        Some(payload)
    }

    /// The most important of the units' headers (RFC 6184, 5.7.1; RFC 7798, 4.4.2).
    fn aggregation_header(&self, nals: &[Nal]) -> [u8; 2] {
        let headers = nals.iter().map(|nal| nal.header);
        if self.codec == Codec::H264 {
            let forbidden = headers.clone().fold(0, |bits, header| bits | header[0] & 0x80);
            let importance = headers.map(|header| header[0] & 0x60).max().unwrap_or(0);
            return [forbidden | importance | STAP_A, 0];
        }
        let forbidden = headers.clone().fold(0, |bits, header| bits | header[0] & 0x80);
        let layer = |header: [u8; 2]| (header[0] & 1) << 5 | header[1] >> 3;
        let lowest_layer = headers.clone().map(layer).min().unwrap_or(0);
        let lowest_id = headers.map(|header| header[1] & 0x07).min().unwrap_or(1);
        let first = forbidden | AGGREGATION_PACKET << 1 | lowest_layer >> 5;
        [first, lowest_layer << 3 | lowest_id]
    }

    fn fragment(&self, nal: &Nal, len_max: usize, payloads: &mut Vec<Payload>) {
        let [first, second] = nal.header;
        let (indicator, kind) = if self.codec == Codec::H264 {
            (first & 0xe0 | FU_A, first & 0x1f)
        } else {
            (first & 0x81 | FRAGMENTATION_UNIT << 1, first >> 1 & 0x3f)
        };
        let header_len = self.header_len();
        let mut reader = nal.bytes.reader();
        reader.skip(header_len);
        let mut place = START_BIT;
        while reader.left() > 0 {
            let len = reader.left().min(len_max - header_len - 1);
            if len == reader.left() {
                place |= END_BIT;
            }
            let mut payload = Payload::new();
            if self.codec == Codec::H264 {
                payload.push_inline(&[indicator, place | kind]);
            } else {
                payload.push_inline(&[indicator, second, place | kind]);
            }
            reader.take_into(len, &mut payload);
            payloads.push(payload);
            place = 0;
        }
    }
}

const STAP_A: u8 = 24;
const FU_A: u8 = 28;
const AGGREGATION_PACKET: u8 = 48;
const FRAGMENTATION_UNIT: u8 = 49;
const START_BIT: u8 = 0x80;
const END_BIT: u8 = 0x40;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const SPS: &[u8] =
        b"\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a";
    const PPS: &[u8] = b"\x68\xce\x0f\xc8";

    fn sets() -> ParameterSets {
        let mut sets = ParameterSets::new(Codec::H264);
        assert!(sets.insert(SPS) && sets.insert(PPS));
        sets
    }

    fn frame(codec: Codec, keyframe: bool, payload: &'static [u8]) -> Frame {
        let payload = Bytes::from_static(payload).into();
        Frame { codec, keyframe, timestamp: 0, payload }
    }

    fn payloads(packetizer: &NalPacketizer, frame: &Frame, len_max: usize) -> Vec<Vec<u8>> {
        let payloads = packetizer.payloads(frame, len_max).unwrap();
        payloads.iter().map(Payload::to_vec).collect()
    }

    #[test]
    fn units_that_fit_go_together() {
        let packetizer = NalPacketizer::new(Codec::H264, ParameterSets::new(Codec::H264));
        let two = frame(Codec::H264, false, b"\0\0\0\x03\x06ab\0\0\0\x04\x61cde");
        assert_eq!(payloads(&packetizer, &two, 12), [b"\x78\0\x03\x06ab\0\x04\x61cde"]);
        assert_eq!(payloads(&packetizer, &two, 11), [&b"\x06ab"[..], b"\x61cde"]);
        let pieces = [&b"\x06ab"[..], b"\x7c\x81c", b"\x7c\x01d", b"\x7c\x41e"];
        assert_eq!(payloads(&packetizer, &two, 3), pieces);
    }

    #[test]
    fn parameter_sets_go_before_keyframes() {
        let packetizer = NalPacketizer::new(Codec::H264, sets());
        let keyframe = frame(Codec::H264, true, b"\0\0\0\x02\x65\x88");
        let expected = [b"\x78\0\x17", SPS, b"\0\x04", PPS, b"\0\x02\x65\x88"].concat();
        assert_eq!(payloads(&packetizer, &keyframe, 100), [expected]);
        let other = frame(Codec::H264, false, b"\0\0\0\x02\x41\x88");
        assert_eq!(payloads(&packetizer, &other, 100), [b"\x41\x88"]);
        // One that brings its own gets no others.
        let own = frame(Codec::H264, true, b"\0\0\0\x02\x67\x42\0\0\0\x02\x65\x88");
        assert_eq!(payloads(&packetizer, &own, 100), [b"\x78\0\x02\x67\x42\0\x02\x65\x88"]);
    }

    #[test]
    fn a_delimiter_stays_first() {
        let packetizer = NalPacketizer::new(Codec::H264, sets());
        let keyframe = frame(Codec::H264, true, b"\0\0\0\x02\x09\xf0\0\0\0\x02\x65\x88");
        let together =
            [b"\x78\0\x02\x09\xf0\0\x17", SPS, b"\0\x04", PPS, b"\0\x02\x65\x88"].concat();
        assert_eq!(payloads(&packetizer, &keyframe, 100), [together]);
        let rest = [b"\x78\0\x04", PPS, b"\0\x02\x65\x88"].concat();
        assert_eq!(payloads(&packetizer, &keyframe, 23), [&b"\x09\xf0"[..], SPS, &rest]);
    }

    #[test]
    fn h265_has_longer_headers() {
        let packetizer = NalPacketizer::new(Codec::H265, ParameterSets::new(Codec::H265));
        let payload = b"\0\0\0\x03\x4e\x02a\0\0\0\x05\x02\x01bcd\0\0\0\0\0\0\0\x01\x02";
        let two = frame(Codec::H265, false, payload);
        assert_eq!(payloads(&packetizer, &two, 14), [b"\x60\x01\0\x03\x4e\x02a\0\x05\x02\x01bcd"]);
        let pieces = [&b"\x4e\x02a"[..], b"\x62\x01\x81b", b"\x62\x01\x01c", b"\x62\x01\x41d"];
        assert_eq!(payloads(&packetizer, &two, 4), pieces);
    }

    #[test]
    fn lengths_have_the_size_of_the_record() {
        let mut packetizer = NalPacketizer::new(Codec::H264, sets());
        packetizer.set_config(sets(), Some(2));
        let two = frame(Codec::H264, false, b"\0\x03\x06ab\0\x02\x61c");
        assert_eq!(payloads(&packetizer, &two, 4), [&b"\x06ab"[..], b"\x61c"]);
        for bad in [&b"\0"[..], b"\0\x03\x06a", b"\0\x01\x41\0"] {
            let bad = packetizer.payloads(&frame(Codec::H264, false, bad), 100);
            assert_eq!(bad.map(|_| ()), Err(PacketizeError::NalLength));
        }
    }
}
