//! H.265 payloads: single NAL units, aggregation packets, fragmentation units (RFC 7798, 4.4).
//!
//! PACI packets are rejected, and so are decoding order numbers (`sprop-max-don-diff`), which come
//! with interleaving. Layers above the base are left out.

use bytes::Bytes;

use super::video::{Assembler, NalKind, aggregated};
use super::{DepacketizeError, LossPolicy, Sink};
use crate::media::Codec;
use crate::proto::rtp::format::Format;
use crate::proto::rtp::packet::RtpPacket;
use crate::proto::rtp::random_access::tells_recovery_point;
use crate::proto::rtp::reorder::Gap;

#[derive(Debug)]
pub(super) struct H265 {
    assembler: Assembler,
}

impl H265 {
    pub(super) fn new(format: &Format, policy: LossPolicy) -> Option<Self> {
        let assembler = Assembler::new(format.parameter_sets(), Codec::H265, policy);
        (!format.has_order_numbers()).then_some(Self { assembler })
    }

    pub(super) fn handle_packet(
        &mut self,
        packet: &RtpPacket,
        gap: Gap,
        sink: &mut Sink,
    ) -> Result<(), DepacketizeError> {
        let header = packet.header();
        self.assembler.begin_packet(header.timestamp, gap, sink);
        let read = self.read(packet.payload());
        if read.is_err() {
            self.assembler.damage();
        }
        self.assembler.end_packet(header.marker, sink);
        read
    }

    pub(super) fn start_at_next(&mut self) {
        self.assembler.start_at_next();
    }

    pub(super) fn flush(&mut self, sink: &mut Sink) {
        self.assembler.finish(sink);
    }

    fn read(&mut self, payload: Bytes) -> Result<(), DepacketizeError> {
        let &[first, ..] = &payload[..] else { return Ok(()) };
        if payload.len() < HEADER_LEN {
            return Err(DepacketizeError::CutOff);
        }
        match first >> 1 & 0x3f {
            0..=47 => self.read_nal(payload),
            48 => {
                for nal in aggregated(payload.slice(HEADER_LEN..)) {
                    self.read_nal(nal?)?;
                }
                Ok(())
            }
            49 => self.read_fragment(payload),
            50 => Err(DepacketizeError::Unsupported("PACI")),
            unknown => Err(DepacketizeError::UnknownType(unknown)),
        }
    }

    fn read_nal(&mut self, nal: Bytes) -> Result<(), DepacketizeError> {
        match *nal {
            [] => Ok(()),
            [_] => Err(DepacketizeError::CutOff),
            [first, second, ..] => {
                check_type(first)?;
                let kind = kind_of([first, second], &nal[HEADER_LEN..]);
                self.assembler.push_nal(kind, nal)
            }
        }
    }

    fn read_fragment(&mut self, payload: Bytes) -> Result<(), DepacketizeError> {
        let &[first, second, fragment, ..] = &payload[..] else {
            return Err(DepacketizeError::CutOff);
        };
        let body = payload.slice(HEADER_LEN + 1..);
        if fragment & START_BIT != 0 {
            let header = [first & 0x81 | (fragment & 0x3f) << 1, second];
            check_type(header[0])?;
            let mut kind = kind_of(header, &body);
            // Where the message that tells a recovery point lies is not known of a part.
            if kind == NalKind::RecoveryPoint {
                kind = NalKind::Other;
            }
            self.assembler.begin_nal(kind, &header, body)?;
        } else {
            self.assembler.continue_nal(body)?;
        }
        if fragment & END_BIT != 0 {
            self.assembler.close_nal();
        }
        Ok(())
    }
}

/// What stands within a packet is a NAL unit, not another packet structure.
fn check_type(first: u8) -> Result<(), DepacketizeError> {
    match first >> 1 & 0x3f {
        0..=47 => Ok(()),
        unknown => Err(DepacketizeError::UnknownType(unknown)),
    }
}

/// What a NAL unit is, by its header and what follows (H.265, 7.4.2.2, table 7-1).
fn kind_of(header: [u8; 2], body: &[u8]) -> NalKind {
    let layer = (header[0] & 1) << 5 | header[1] >> 3;
    if layer != 0 {
        return NalKind::Dropped;
    }
    // `first_slice_segment_in_pic_flag`
    let first = body.first().is_none_or(|byte| byte & 0x80 != 0);
    match header[0] >> 1 & 0x3f {
        0..=15 => NalKind::Slice { keyframe: false, first },
        16..=23 => NalKind::Slice { keyframe: true, first },
        24..=31 => NalKind::Slice { keyframe: false, first },
        32..=34 => NalKind::ParameterSet,
        35..=38 => NalKind::Dropped,
        // The same message as in H.264 (H.265, D.2.8).
        39 if tells_recovery_point(body) => NalKind::RecoveryPoint,
        _ => NalKind::Other,
    }
}

const HEADER_LEN: usize = 2;
const START_BIT: u8 = 0x80;
const END_BIT: u8 = 0x40;

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, Item, format, frame, keyframe};
    use super::*;
    use crate::media::codec::ParameterSets;
    use crate::proto::rtp::format::TrackKind;

    const VPS: &[u8] = b"\x40\x01\x0c\x01\xff\xff\x01\x60\0\0\x03\0\x90\0\0\x03\0\0\x03\0\x3c\x95\
                         \x98\x09";
    const SPS: &[u8] = b"\x42\x01\x01\x01\x60\0\0\x03\0\x90\0\0\x03\0\0\x03\0\x3c\xa0\x0a\x48\x0b\
                         \x9c\x95\x96\x56\x69\x24\xca\xf0\x16\x80\x80\0\0\x03\0\x80\0\0\x0c\x84";
    const PPS: &[u8] = b"\x44\x01\xc1\x72\xb4\x62\x40";

    fn config() -> Item {
        let mut sets = ParameterSets::new(Codec::H265);
        [VPS, SPS, PPS].iter().for_each(|nal| assert!(sets.insert(nal)));
        Item::Config(sets.to_record().unwrap().to_vec())
    }

    fn bench() -> Bench {
        Bench::new(&format(TrackKind::Video, "H265/90000", ""), LossPolicy::default())
    }

    fn configured() -> Bench {
        let mut bench = bench();
        [VPS, SPS, PPS].iter().for_each(|nal| assert_eq!(bench.feed(0, false, nal), []));
        let items = bench.feed(0, true, b"\x26\x01\x80");
        assert_eq!(items, [config(), keyframe(0, b"\0\0\0\x03\x26\x01\x80")]);
        bench
    }

    #[test]
    fn single_units_make_a_frame() {
        let mut bench = configured();
        assert_eq!(bench.feed(1, false, b"\x46\x01\x50"), []);
        assert_eq!(bench.feed(1, false, b"\x4e\x01\x05\x01a\x80"), []);
        assert_eq!(bench.feed(1, false, b"\x02\x01\xd0a"), []);
        // A layer that is not the base.
        assert_eq!(bench.feed(1, false, b"\x02\x09\xd0x"), []);
        let payload =
            b"\0\0\0\x06\x4e\x01\x05\x01a\x80\0\0\0\x04\x02\x01\xd0a\0\0\0\x04\x02\x01\x10b";
        assert_eq!(bench.feed(1, true, b"\x02\x01\x10b"), [frame(1, payload)]);
        // Clean random access is a place to start, too.
        let payload = b"\0\0\0\x03\x2a\x01\x80";
        assert_eq!(bench.feed(2, true, b"\x2a\x01\x80"), [keyframe(2, payload)]);
    }

    #[test]
    fn aggregated_units_make_a_frame() {
        let mut bench = bench();
        let mut packet = vec![0x60, 0x01];
        for nal in [VPS, SPS, PPS, b"\x26\x01\x80a"] {
            packet.extend_from_slice(&(nal.len() as u16).to_be_bytes());
            packet.extend_from_slice(nal);
        }
        let expected = [config(), keyframe(1, b"\0\0\0\x04\x26\x01\x80a")];
        assert_eq!(bench.feed(1, true, &packet), expected);
    }

    #[test]
    fn fragments_make_a_unit() {
        let mut bench = configured();
        assert_eq!(bench.feed(1, false, b"\x62\x01\x93\x80a"), []);
        assert_eq!(bench.feed(1, false, b"\x62\x01\x13b"), []);
        let payload = b"\0\0\0\x05\x26\x01\x80ab";
        let last = bench.feed(1, true, b"\x62\x01\x53c");
        assert_eq!(last, [keyframe(1, &[&payload[..3], b"\x06", &payload[4..], b"c"].concat())]);
        // One is missing.
        bench.feed(2, false, b"\x62\x01\x81\x80a");
        assert_eq!(bench.feed_after_loss(2, true, b"\x62\x01\x41c"), []);
        assert_eq!(bench.counts().damaged, 1);
        assert_eq!(bench.feed(3, true, b"\x02\x01\x80").len(), 1);
    }

    #[test]
    fn configuration_out_of_band_is_told_with_the_first_frame() {
        let parameters = "sprop-vps=QAEMAf//AWAAAAMAkAAAAwAAAwA8lZgJ; \
                          sprop-sps=QgEBAWAAAAMAkAAAAwAAAwA8oApIC5yVllZpJMrwFoCAAAADAIAAAAyE; \
                          sprop-pps=RAHBcrRiQA==";
        let format = format(TrackKind::Video, "H265/90000", parameters);
        let mut bench = Bench::new(&format, LossPolicy::default());
        let payload = b"\0\0\0\x03\x02\x01\x80";
        assert_eq!(bench.feed(1, true, b"\x02\x01\x80"), [config(), frame(1, payload)]);
    }

    #[test]
    fn what_can_not_be_read_is_an_error_and_no_end() {
        let mut bench = configured();
        for (payload, error) in [
            (&b"\x02"[..], DepacketizeError::CutOff),
            (b"\x60\x01\0\x01\x02", DepacketizeError::CutOff),
            (b"\x60\x01\0\x04\x02", DepacketizeError::CutOff),
            (b"\x62\x01", DepacketizeError::CutOff),
            (b"\x62\x01\x01a", DepacketizeError::NoStart),
            (b"\x64\x01\0\0", DepacketizeError::Unsupported("PACI")),
            (b"\x7e\x01", DepacketizeError::UnknownType(63)),
            (b"\x60\x01\0\x02\x62\x01", DepacketizeError::UnknownType(49)),
            (b"\x62\x01\xb0a", DepacketizeError::UnknownType(48)),
        ] {
            assert_eq!(bench.try_feed(Gap::None, 5, false, payload), Err(error));
            assert_eq!(bench.feed(6, true, b"\x02\x01\x80").len(), 1, "{error}");
        }
        assert_eq!(bench.feed(7, true, b""), []);
    }
}
