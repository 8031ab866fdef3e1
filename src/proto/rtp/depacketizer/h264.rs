//! H.264 payloads: single NAL units, STAP-A, FU-A (RFC 6184, 5.6 to 5.8).
//!
//! Interleaved mode (`packetization-mode=2`: STAP-B, MTAP, FU-B) is passed through and not read: nothing
//! live uses it.

use bytes::Bytes;

use super::video::{Assembler, NalKind, aggregated};
use super::{DepacketizeError, LossPolicy, Sink};
use crate::media::Codec;
use crate::proto::rtp::format::Format;
use crate::proto::rtp::packet::RtpPacket;
use crate::proto::rtp::random_access::tells_recovery_point;
use crate::proto::rtp::reorder::Gap;

#[derive(Debug)]
pub(super) struct H264 {
    assembler: Assembler,
}

impl H264 {
    /// `None` in interleaved mode.
    pub(super) fn new(format: &Format, policy: LossPolicy) -> Option<Self> {
        let assembler = Assembler::new(format.parameter_sets(), Codec::H264, policy);
        (!format.is_interleaved()).then_some(Self { assembler })
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
        // Some cameras send empty packets to keep a path open.
        let Some(&first) = payload.first() else { return Ok(()) };
        match first & 0x1f {
            0 => self.read_start_codes(&payload),
            1..=23 => self.read_nal(payload),
            24 => {
                for nal in aggregated(payload.slice(1..)) {
                    self.read_nal(nal?)?;
                }
                Ok(())
            }
            28 => self.read_fragment(payload),
            25 | 26 | 27 | 29 => Err(DepacketizeError::Unsupported("interleaved mode")),
            unknown => Err(DepacketizeError::UnknownType(unknown)),
        }
    }

    fn read_nal(&mut self, nal: Bytes) -> Result<(), DepacketizeError> {
        let Some(&header) = nal.first() else { return Ok(()) };
        check_type(header)?;
        self.assembler.push_nal(kind_of(header, &nal[1..]), nal)
    }

    fn read_fragment(&mut self, payload: Bytes) -> Result<(), DepacketizeError> {
        let &[indicator, fragment, ..] = &payload[..] else {
            return Err(DepacketizeError::CutOff);
        };
        let body = payload.slice(2..);
        if fragment & START_BIT != 0 {
            let header = indicator & 0xe0 | fragment & 0x1f;
            check_type(header)?;
            let mut kind = kind_of(header, &body);
            // Where the message that tells a recovery point lies is not known of a part.
            if kind == NalKind::RecoveryPoint {
                kind = NalKind::Other;
            }
            self.assembler.begin_nal(kind, &[header], body)?;
        } else {
            self.assembler.continue_nal(body)?;
        }
        if fragment & END_BIT != 0 {
            self.assembler.close_nal();
        }
        Ok(())
    }

    /// Some recorders leave start codes (H.264, B.1) before the NAL units of a packet.
    fn read_start_codes(&mut self, payload: &Bytes) -> Result<(), DepacketizeError> {
        let starts: Vec<usize> = start_codes(payload).collect();
        if starts.first().is_none_or(|first| *first > 4) {
            return Err(DepacketizeError::UnknownType(0));
        }
        for (index, &start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).map_or(payload.len(), |next| next - 3);
            let nal = payload.slice(start..end);
            let zeros = nal.iter().rev().take_while(|byte| **byte == 0).count();
            self.read_nal(nal.slice(..nal.len() - zeros))?;
        }
        Ok(())
    }
}

/// What stands within a packet is a NAL unit, not another packet structure.
fn check_type(header: u8) -> Result<(), DepacketizeError> {
    match header & 0x1f {
        1..=23 => Ok(()),
        unknown => Err(DepacketizeError::UnknownType(unknown)),
    }
}

/// Where the NAL units behind three-byte start codes begin.
fn start_codes(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let places = bytes.windows(3).enumerate();
    places.filter(|(_, window)| *window == [0, 0, 1]).map(|(at, _)| at + 3)
}

/// What a NAL unit is, by its header and what follows (H.264, 7.4.1, table 7-1).
fn kind_of(header: u8, body: &[u8]) -> NalKind {
    // `first_mb_in_slice` is 0 where its code is one bit.
    let first = body.first().is_none_or(|byte| byte & 0x80 != 0);
    match header & 0x1f {
        1 | 2 => NalKind::Slice { keyframe: false, first },
        5 => NalKind::Slice { keyframe: true, first },
        6 if tells_recovery_point(body) => NalKind::RecoveryPoint,
        7 | 8 => NalKind::ParameterSet,
        9..=12 => NalKind::Dropped,
        _ => NalKind::Other,
    }
}

const START_BIT: u8 = 0x80;
const END_BIT: u8 = 0x40;

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, Item, format, frame, keyframe};
    use super::*;
    use crate::limits::FRAME_LEN_MAX;
    use crate::proto::rtp::format::TrackKind;

    const SPS: &[u8] =
        b"\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a";
    const PPS: &[u8] = b"\x68\xce\x0f\xc8";
    const RECORD: &[u8] =
        b"\x01\x42\xc0\x28\xff\xe1\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\0\0\x3e\
          \x90\0\x0e\xa6\0\xf1\x83\x2a\x01\0\x04\x68\xce\x0f\xc8";

    /// Without parameter sets out of band.
    fn bench(policy: LossPolicy) -> Bench {
        Bench::new(&format(TrackKind::Video, "H264/90000", "packetization-mode=1"), policy)
    }

    /// One that has told its configuration and a first frame, at timestamp 0.
    fn configured(policy: LossPolicy) -> Bench {
        let mut bench = bench(policy);
        bench.feed(0, false, SPS);
        bench.feed(0, false, PPS);
        assert_eq!(bench.feed(0, true, b"\x65\x88").len(), 2);
        bench
    }

    fn config() -> Item {
        Item::Config(RECORD.to_vec())
    }

    #[test]
    fn single_units_make_a_frame() {
        let mut bench = bench(LossPolicy::default());
        assert_eq!(bench.feed(7, false, b"\x09\xf0"), []);
        assert_eq!(bench.feed(7, false, SPS), []);
        assert_eq!(bench.feed(7, false, PPS), []);
        assert_eq!(bench.feed(7, false, b"\x06\x05\x01\xaa\x80"), []);
        assert_eq!(bench.feed(7, false, b"\x65\x88abc"), []);
        let payload = b"\0\0\0\x05\x06\x05\x01\xaa\x80\0\0\0\x05\x65\x88abc\0\0\0\x03\x65\x08d";
        assert_eq!(bench.feed(7, true, b"\x65\x08d"), [config(), keyframe(7, payload)]);
        assert_eq!(bench.feed(8, true, b"\x41\x9a"), [frame(8, b"\0\0\0\x02\x41\x9a")]);
    }

    #[test]
    fn picture_that_stands_in_for_a_keyframe_is_one() {
        let mut bench = configured(LossPolicy::default());
        let other = |timestamp| frame(timestamp, b"\0\0\0\x02\x41\x9a");
        let start = |timestamp| keyframe(timestamp, b"\0\0\0\x02\x41\x9a");
        assert_eq!(bench.feed(1, false, b"\x41\x9a"), []);
        bench.start_at_next();
        // The picture before ends with it.
        assert_eq!(bench.feed(2, false, b"\x41\x9a"), [other(1)]);
        assert_eq!(bench.feed(3, false, b"\x41\x9a"), [start(2)]);
        // Parameter sets under the timestamp of the picture before, and under one of their own.
        bench.start_at_next();
        assert_eq!(bench.feed(3, false, PPS), [other(3)]);
        assert_eq!(bench.feed(4, true, b"\x41\x9a"), [start(4)]);
        bench.start_at_next();
        assert_eq!(bench.feed(5, true, PPS), []);
        assert_eq!(bench.feed(6, true, b"\x41\x9a"), [start(6)]);
        // One that lacks its beginning is dropped, and the next one stands in for nothing.
        bench.start_at_next();
        assert_eq!(bench.feed_after_loss(7, true, b"\x41\x1a"), []);
        assert_eq!(bench.feed(8, true, b"\x41\x9a"), [other(8)]);
    }

    #[test]
    fn aggregated_units_make_a_frame() {
        let mut bench = bench(LossPolicy::default());
        let mut packet = vec![0x78];
        for nal in [b"\x09\xf0", SPS, PPS, b"\x65\x88a", b""] {
            packet.extend_from_slice(&(nal.len() as u16).to_be_bytes());
            packet.extend_from_slice(nal);
        }
        let expected = [config(), keyframe(1, b"\0\0\0\x03\x65\x88a")];
        assert_eq!(bench.feed(1, true, &packet), expected);
        // A length that goes beyond the packet.
        let error = bench.try_feed(Gap::None, 2, true, b"\x78\0\x02\x41\x9a\0\x03ab");
        assert_eq!(error, Err(DepacketizeError::CutOff));
        assert_eq!(bench.items(), []);
        assert_eq!(bench.counts().damaged, 1);
    }

    #[test]
    fn fragments_make_a_unit() {
        let mut bench = configured(LossPolicy::default());
        assert_eq!(bench.feed(1, false, b"\x7c\x85\x88a"), []);
        assert_eq!(bench.feed(1, false, b"\x7c\x05bc"), []);
        let payload = b"\0\0\0\x06\x65\x88abcd";
        assert_eq!(bench.feed(1, true, b"\x7c\x45d"), [keyframe(1, payload)]);
        // Senders that leave out the end bit.
        assert_eq!(bench.feed(2, false, b"\x5c\x81\x9aa"), []);
        assert_eq!(bench.feed(2, false, b"\x5c\x01b"), []);
        let payload = b"\0\0\0\x04\x41\x9aab\0\0\0\x03\x41\x1ac";
        assert_eq!(bench.feed(2, true, b"\x41\x1ac"), [frame(2, payload)]);
    }

    #[test]
    fn parameter_set_in_fragments_is_a_configuration() {
        let mut bench = bench(LossPolicy::default());
        let mut first = vec![0x7c, 0x87];
        first.extend_from_slice(&SPS[1..9]);
        bench.feed(1, false, &first);
        let mut last = vec![0x7c, 0x47];
        last.extend_from_slice(&SPS[9..]);
        bench.feed(1, false, &last);
        bench.feed(1, false, PPS);
        let payload = b"\0\0\0\x02\x65\x88";
        assert_eq!(bench.feed(1, true, b"\x65\x88"), [config(), keyframe(1, payload)]);
    }

    #[test]
    fn filler_in_fragments_is_left_out() {
        let mut bench = configured(LossPolicy::default());
        bench.feed(1, false, b"\x41\x9a");
        bench.feed(1, false, b"\x1c\x8c\xff\xff");
        bench.feed(1, false, b"\x1c\x0c\xff\xff");
        assert_eq!(bench.feed(1, true, b"\x1c\x4c\x80"), [frame(1, b"\0\0\0\x02\x41\x9a")]);
    }

    #[test]
    fn configuration_out_of_band_is_told_with_the_first_frame() {
        let parameters = "sprop-parameter-sets=Z0LAKNoB4AiflwEQAAA+kAAOpgDxgyo=,aM4PyA==";
        let format = format(TrackKind::Video, "H264/90000", parameters);
        let mut bench = Bench::new(&format, LossPolicy::default());
        let payload = b"\0\0\0\x02\x41\x9a";
        assert_eq!(bench.feed(1, true, b"\x41\x9a"), [config(), frame(1, payload)]);
        // The same again in band is no news.
        bench.feed(2, false, SPS);
        bench.feed(2, false, PPS);
        assert_eq!(bench.feed(2, true, b"\x65\x88"), [keyframe(2, b"\0\0\0\x02\x65\x88")]);
        // Another set is.
        bench.feed(3, false, b"\x68\xce\x0f\xcc");
        let items = bench.feed(3, true, b"\x65\x88");
        assert!(matches!(&items[..], [Item::Config(_), Item::Frame(3, true, _)]));
    }

    #[test]
    fn frames_before_any_configuration_are_dropped() {
        let mut bench = bench(LossPolicy::default());
        assert_eq!(bench.feed(1, true, b"\x41\x9a"), []);
        assert_eq!(bench.counts().unconfigured, 1);
    }

    #[test]
    fn new_timestamp_ends_a_frame_without_a_marker() {
        let mut bench = configured(LossPolicy::default());
        assert_eq!(bench.feed(1, false, b"\x41\x9aa"), []);
        assert_eq!(bench.feed(2, false, b"\x41\x9ab"), [frame(1, b"\0\0\0\x03\x41\x9aa")]);
        assert_eq!(bench.flush(), [frame(2, b"\0\0\0\x03\x41\x9ab")]);
    }

    #[test]
    fn marker_and_timestamp_behind_parameter_sets_end_nothing() {
        let mut bench = bench(LossPolicy::default());
        assert_eq!(bench.feed(1, true, SPS), []);
        assert_eq!(bench.feed(1, true, PPS), []);
        assert_eq!(bench.feed(1, true, b"\x06\x05\x01\xaa\x80"), []);
        let payload = b"\0\0\0\x05\x06\x05\x01\xaa\x80\0\0\0\x02\x65\x88";
        assert_eq!(bench.feed(2, true, b"\x65\x88"), [config(), keyframe(2, payload)]);
    }

    #[test]
    fn markers_between_slices_are_found_out() {
        let mut bench = configured(LossPolicy::default());
        assert_eq!(bench.feed(1, true, b"\x41\x9aa").len(), 1);
        assert_eq!(bench.feed(1, true, b"\x41\x1ab"), []);
        assert_eq!(bench.feed(2, true, b"\x41\x9ac"), []);
        assert_eq!(bench.feed(2, true, b"\x41\x1ad"), []);
        let payload = b"\0\0\0\x03\x41\x9ac\0\0\0\x03\x41\x1ad";
        assert_eq!(bench.feed(3, true, b"\x41\x9ae"), [frame(2, payload)]);
        assert_eq!(bench.counts().damaged, 1);
    }

    #[test]
    fn damaged_frame_is_dropped_and_the_next_taken() {
        let mut bench = configured(LossPolicy::default());
        // The middle of a picture is missing.
        bench.feed(1, false, b"\x5c\x81\x9aa");
        assert_eq!(bench.feed_after_loss(1, false, b"\x5c\x01c"), []);
        assert_eq!(bench.feed(1, true, b"\x5c\x41d"), []);
        assert_eq!(bench.feed(2, true, b"\x41\x9a"), [frame(2, b"\0\0\0\x02\x41\x9a")]);
        // The end of one is missing, and the next is whole.
        bench.feed(3, false, b"\x5c\x81\x9aa");
        let items = bench.feed_after_loss(4, true, b"\x41\x9a");
        assert_eq!(items, [frame(4, b"\0\0\0\x02\x41\x9a")]);
        // The beginning of one is missing.
        assert_eq!(bench.feed_after_loss(5, false, b"\x41\x1a"), []);
        assert_eq!(bench.feed(5, true, b"\x41\x1a"), []);
        assert_eq!(bench.feed(6, true, b"\x41\x9a").len(), 1);
        // Whole pictures are missing, which can't be seen of the next.
        assert_eq!(bench.feed_after_loss(9, true, b"\x41\x9a").len(), 1);
        assert_eq!((bench.counts().damaged, bench.counts().frames), (3, 5));
    }

    #[test]
    fn parameter_sets_of_a_damaged_frame_are_kept() {
        let mut bench = bench(LossPolicy::default());
        bench.feed(1, false, SPS);
        bench.feed(1, false, PPS);
        bench.feed(1, false, b"\x7c\x85\x88a");
        assert_eq!(bench.feed_after_loss(1, true, b"\x7c\x45d"), []);
        let payload = b"\0\0\0\x02\x41\x9a";
        assert_eq!(bench.feed(2, true, b"\x41\x9a"), [config(), frame(2, payload)]);
    }

    #[test]
    fn keyframe_is_awaited_after_a_loss_by_policy() {
        let mut bench = configured(LossPolicy::AwaitKeyframe);
        assert_eq!(bench.feed_after_loss(1, true, b"\x41\x9a"), []);
        assert_eq!(bench.feed(2, true, b"\x41\x9a"), []);
        assert_eq!(bench.feed(3, true, b"\x65\x88").len(), 1);
        assert_eq!(bench.feed(4, true, b"\x41\x9a").len(), 1);
        assert_eq!(bench.counts().awaiting_keyframe, 2);
    }

    #[test]
    fn recovery_point_is_a_keyframe() {
        let mut bench = configured(LossPolicy::default());
        bench.feed(1, false, b"\x06\x05\x02ab\x06\x01\xc4\x80");
        let payload = b"\0\0\0\x09\x06\x05\x02ab\x06\x01\xc4\x80\0\0\0\x02\x41\x9a";
        assert_eq!(bench.feed(1, true, b"\x41\x9a"), [keyframe(1, payload)]);
        // A number in the middle of another message is none.
        bench.feed(2, false, b"\x06\x05\x03\x06\x01\xc4\x80");
        assert!(matches!(bench.feed(2, true, b"\x41\x9a")[..], [Item::Frame(2, false, _)]));
    }

    #[test]
    fn start_codes_in_packets_are_passed() {
        let mut bench = configured(LossPolicy::default());
        let packet = b"\0\0\0\x01\x09\xf0\0\0\0\x01\x65\x88a\0\0\x01\x65\x08b";
        let payload = b"\0\0\0\x03\x65\x88a\0\0\0\x03\x65\x08b";
        assert_eq!(bench.feed(1, true, packet), [keyframe(1, payload)]);
    }

    #[test]
    fn what_can_not_be_read_is_an_error_and_no_end() {
        let mut bench = configured(LossPolicy::default());
        for (payload, error) in [
            (&b"\x7c"[..], DepacketizeError::CutOff),
            (b"\x7c\x05a", DepacketizeError::NoStart),
            (b"\x79\0\0\0\x01\x41", DepacketizeError::Unsupported("interleaved mode")),
            (b"\x7a", DepacketizeError::Unsupported("interleaved mode")),
            (b"\x7d\x85\0\0a", DepacketizeError::Unsupported("interleaved mode")),
            (b"\x7f", DepacketizeError::UnknownType(31)),
            (b"\x78\0\x02\x7c\x85", DepacketizeError::UnknownType(28)),
            (b"\x7c\x98a", DepacketizeError::UnknownType(24)),
            (b"\0ab", DepacketizeError::UnknownType(0)),
        ] {
            assert_eq!(bench.try_feed(Gap::None, 5, false, payload), Err(error));
            assert_eq!(bench.feed(6, true, b"\x41\x9a").len(), 1, "{error}");
        }
        assert_eq!(bench.feed(7, true, b""), []);
    }

    #[test]
    fn endless_frame_is_dropped() {
        let mut bench = configured(LossPolicy::default());
        bench.feed(1, false, b"\x5c\x81\x9a");
        let mut fragment = vec![0; 60_000];
        fragment[..2].copy_from_slice(b"\x5c\x01");
        let mut errors = 0;
        for _ in 0..FRAME_LEN_MAX / 59_000 {
            errors += usize::from(bench.try_feed(Gap::None, 1, false, &fragment).is_err());
        }
        assert_eq!(errors, 1);
        assert_eq!(bench.feed(2, true, b"\x41\x9a").len(), 1);
        assert_eq!(bench.counts().damaged, 1);
    }

    #[test]
    fn pieces_are_views_of_the_packets() {
        let format = format(TrackKind::Video, "H264/90000", "");
        let mut depacketizer =
            super::super::Depacketizer::new(&format, LossPolicy::default()).unwrap();
        let packet = |marker: u8, payload: &[u8]| {
            let head = [0x80, 96 | marker, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            RtpPacket::parse([&head, payload].concat().into()).unwrap()
        };
        let slice = packet(0x80, b"\x65\x88 a slice");
        for packet in [&packet(0, SPS), &packet(0, PPS), &slice] {
            depacketizer.handle_packet(packet, Gap::None).unwrap();
        }
        depacketizer.poll_item();
        let Some(super::super::Depacketized::Frame(frame)) = depacketizer.poll_item() else {
            panic!("a frame")
        };
        let addresses: Vec<_> = frame.payload.slices().map(<[u8]>::as_ptr).collect();
        assert_eq!(addresses[1], slice.payload().as_ptr());
    }
}
