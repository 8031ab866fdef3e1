//! Where in a run of packets a player can start, told from each packet alone.
//!
//! For those who keep packets and not frames: an index of keyframes needs no depacketizer. A player can
//! start at a picture that is a keyframe, has the message of a recovery point, or (H.264) begins with an
//! intra slice behind parameter sets, as open GOPs do; the packet where that begins tells. The first that
//! it needs is an earlier one: delimiters, messages and parameter sets in packets of their own come
//! before, also under a timestamp of their own (Reolink's cameras) or that of the picture before.
//! Parameter sets alone are no start: encoders repeat them between keyframes.

use bytes::Bytes;

use crate::media::Codec;
use crate::media::codec::ParameterSets;
use crate::proto::rtp::format::Format;
use crate::proto::rtp::packet::RtpPacket;

/// Finds the pictures and the starts in one track's packets, in order.
#[derive(Debug)]
pub struct RandomAccess {
    codec: Codec,
    has_order_numbers: bool,
    /// Of the last packet.
    timestamp: Option<u32>,
    /// Of the picture that the last packet is of: something of itself has come,
    has_slice: bool,
    /// something that may come under another timestamp than itself has come,
    has_lead: bool,
    /// and the set with which a lead begins,
    has_first_set: bool,
    /// and one that slices refer to,
    has_last_set: bool,
    /// it was told to be a start.
    is_told: bool,
    /// Timestamp of the last start.
    told: Option<u32>,
}

/// What a packet is in its track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The first of a picture, or of what comes before one.
    pub begins: bool,
    /// Of the picture itself nothing has come yet.
    pub is_lead: bool,
    /// A player can start where the picture began: true once for each keyframe. Any packet of audio
    /// is a start; of video codecs other than H.264 and H.265 it is not known.
    pub is_start: bool,
    /// Parameter sets of both ends of the order in which they refer to each other have come with the
    /// picture, in this packet or before it.
    pub has_sets: bool,
}

/// What of a picture a payload has.
#[derive(Default)]
struct Contents {
    /// Parameter sets, or the message of a recovery point.
    lead: bool,
    /// The first of the parameter sets, in the order in which they refer to each other.
    first_set: bool,
    /// The last of them.
    last_set: bool,
    slice: bool,
    /// Where a keyframe begins, or the message of a recovery point.
    key: bool,
    /// Where a picture begins with a slice that needs no other picture.
    intra: bool,
}

/// How much of a NAL unit a payload has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    First,
    Further,
}

impl RandomAccess {
    pub fn new(codec: Codec) -> Self {
        Self {
            codec,
            has_order_numbers: false,
            timestamp: None,
            has_slice: false,
            has_lead: false,
            has_first_set: false,
            has_last_set: false,
            is_told: false,
            told: None,
        }
    }

    /// For a track that is described so.
    pub fn of(format: &Format) -> Self {
        Self { has_order_numbers: format.has_order_numbers(), ..Self::new(format.codec()) }
    }

    /// The next packet is of a source that began anew.
    pub fn restart(&mut self) {
        *self = Self { has_order_numbers: self.has_order_numbers, ..Self::new(self.codec) };
    }

    /// Takes the next packet.
    pub fn step(&mut self, packet: &RtpPacket) -> Step {
        let timestamp = packet.header().timestamp;
        let is_same = self.timestamp.replace(timestamp) == Some(timestamp);
        if !matches!(self.codec, Codec::H264 | Codec::H265) {
            let is_start = !self.codec.is_video();
            return Step { begins: !is_same, is_lead: false, is_start, has_sets: false };
        }
        let head = packet.payload_head();
        let is_whole = head.len() == packet.payload_len() || !is_aggregate(self.codec, head);
        let payload = if is_whole { Bytes::new() } else { packet.payload() };
        let payload = if is_whole { head } else { &payload };
        let contents = match self.has_order_numbers {
            true => Contents::of_numbered(payload),
            false => Contents::of(self.codec, payload),
        };
        // Parameter sets behind a slice are of the next picture (H.264, 7.4.1.2.3; H.265, 7.4.2.4.4). Of
        // those that are repeated while no picture comes the last count.
        let is_repeated = contents.first_set && self.has_first_set;
        let begins = match is_same {
            true => self.has_slice && contents.lead,
            false => self.has_slice || !self.has_lead || is_repeated,
        };
        if begins {
            (self.has_slice, self.has_lead, self.is_told) = (false, false, false);
            (self.has_first_set, self.has_last_set) = (false, false);
        }
        self.has_slice |= contents.slice;
        self.has_lead |= contents.lead;
        self.has_first_set |= contents.first_set;
        self.has_last_set |= contents.last_set;
        let is_key = contents.key || contents.intra && self.has_first_set;
        let is_start = is_key && !self.is_told && self.told != Some(timestamp);
        if is_start {
            (self.is_told, self.told) = (true, Some(timestamp));
        }
        let has_sets = self.has_first_set && self.has_last_set;
        Step { begins, is_lead: !self.has_slice, is_start, has_sets }
    }
}

impl Contents {
    /// Of a NAL unit, one fragment of it, or several in a STAP-A (RFC 6184, 5.2) or an AP (RFC 7798,
    /// 4.4.2).
    fn of(codec: Codec, payload: &[u8]) -> Self {
        let mut contents = Self::default();
        match (codec, payload) {
            (Codec::H264, [header, fragment, body @ ..]) if header & 0x1f == 28 => {
                contents.note(codec, fragment & 0x1f, Extent::of_fragment(*fragment), body);
            }
            (Codec::H265, [header, _, fragment, body @ ..]) if header >> 1 & 0x3f == 49 => {
                contents.note(codec, fragment & 0x3f, Extent::of_fragment(*fragment), body);
            }
            _ => for_each_nal(codec, payload, |nal| match (codec, nal) {
                (Codec::H264, [header, body @ ..]) => {
                    contents.note(codec, header & 0x1f, Extent::Whole, body);
                }
                (_, [header, _, body @ ..]) => {
                    contents.note(codec, header >> 1 & 0x3f, Extent::Whole, body);
                }
                _ => {}
            }),
        }
        contents
    }

    /// As [`Self::of`], of H.265 with decoding order numbers: these lie behind the header of a unit or a
    /// fragment, and in an AP before the lengths.
    fn of_numbered(payload: &[u8]) -> Self {
        let codec = Codec::H265;
        let mut contents = Self::default();
        match payload {
            [header, _, units @ ..] if header >> 1 & 0x3f == 48 => {
                for nal in aggregated(units, true) {
                    let body = nal.get(2..).unwrap_or_default();
                    contents.note(codec, nal[0] >> 1 & 0x3f, Extent::Whole, body);
                }
            }
            [header, _, _, _, body @ ..] if header >> 1 & 0x3f < 48 => {
                contents.note(codec, header >> 1 & 0x3f, Extent::Whole, body);
            }
            // Of a fragment nothing is read but its headers.
            _ => return Self::of(codec, payload),
        }
        contents
    }

    /// Notes a NAL unit of this type, or a part of it. Of a part no message is read.
    fn note(&mut self, codec: Codec, kind: u8, extent: Extent, body: &[u8]) {
        let (is_slice, is_key, is_set, is_message) = match codec {
            Codec::H264 => (matches!(kind, 1..=5), kind == 5, matches!(kind, 7 | 8), kind == 6),
            _ => (kind < 32, matches!(kind, 16..=23), matches!(kind, 32..=34), kind == 39),
        };
        let is_recovery_point = is_message && extent == Extent::Whole && tells_recovery_point(body);
        let begins = extent != Extent::Further;
        self.lead |= is_set || is_recovery_point;
        self.first_set |= kind == if codec == Codec::H264 { 7 } else { 32 };
        self.last_set |= kind == if codec == Codec::H264 { 8 } else { 34 };
        self.slice |= is_slice;
        self.key |= is_key && begins || is_recovery_point;
        self.intra |= codec == Codec::H264 && kind == 1 && begins && begins_intra(body);
    }
}

impl Extent {
    fn of_fragment(header: u8) -> Self {
        if header & START_BIT != 0 { Self::First } else { Self::Further }
    }
}

/// Whether a slice of H.264 is the first of its picture and intra (7.3.3, table 7-6): `first_mb_in_slice`
/// is 0, `slice_type` 2 or 7, of one bit and of three or seven (9.1).
fn begins_intra(slice: &[u8]) -> bool {
    slice.first().is_some_and(|first| first >> 4 == 0b1011 || *first == 0b1000_1000)
}

/// A payload of several NAL units: STAP-A, AP.
fn is_aggregate(codec: Codec, payload: &[u8]) -> bool {
    payload.first().is_some_and(|first| match codec {
        Codec::H264 => first & 0x1f == 24,
        _ => first >> 1 & 0x3f == 48,
    })
}

/// Whether supplemental information tells a recovery point: where a decoder may begin without a keyframe
/// (H.264, 7.3.2.3, D.1.8; H.265, D.2.8). Emulation prevention bytes before it would only mislead for
/// messages that nobody sends first.
pub(super) fn tells_recovery_point(mut body: &[u8]) -> bool {
    while let Some((kind, after_kind)) = extended(body)
        && let Some((len, message)) = extended(after_kind)
    {
        if kind == RECOVERY_POINT {
            return true;
        }
        let Some(rest) = message.get(len..) else { return false };
        body = rest;
    }
    false
}

/// A number in bytes of 255 and one less.
fn extended(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let full = bytes.iter().take_while(|byte| **byte == 255).count();
    let last = *bytes.get(full)?;
    Some((255 * full + usize::from(last), &bytes[full + 1..]))
}

const RECOVERY_POINT: usize = 6;
/// Of the header of a fragment.
const START_BIT: u8 = 0x80;

/// The whole NAL units in a payload of H.264 or H.265: itself, or those that it aggregates; none of a
/// fragment.
pub fn for_each_nal(codec: Codec, payload: &[u8], mut each: impl FnMut(&[u8])) {
    let Some(&first) = payload.first() else { return };
    let (kind, header_len) = match codec {
        Codec::H264 => (first & 0x1f, 1),
        Codec::H265 => (first >> 1 & 0x3f, 2),
        _ => return,
    };
    match (codec, kind) {
        (Codec::H264, 24) | (Codec::H265, 48) => {
            let units = payload.get(header_len..).unwrap_or_default();
            aggregated(units, false).for_each(each);
        }
        (Codec::H264, 25..) | (Codec::H265, 49..) => {}
        _ => each(payload),
    }
}

/// Whether [`for_each_nal`] may find parameter sets in a payload that begins like this.
pub fn may_hold_sets(codec: Codec, head: &[u8]) -> bool {
    is_aggregate(codec, head) || ParameterSets::is_parameter_set(codec, head)
}

/// NAL units behind 16-bit lengths, as far as they are whole; none is empty. Before the lengths there may be
/// decoding order numbers: 16 bits, and then 8 for the distance to the last one.
fn aggregated(mut rest: &[u8], has_order_numbers: bool) -> impl Iterator<Item = &[u8]> {
    let mut number_len = if has_order_numbers { 2 } else { 0 };
    std::iter::from_fn(move || {
        let (len, behind) = rest.get(number_len..)?.split_first_chunk::<2>()?;
        number_len = number_len.min(1);
        let (nal, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        rest = behind;
        Some(nal)
    })
    .filter(|nal| !nal.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rtp::TrackKind;

    /// Of each packet `b` where a picture begins, `l` where nothing of the picture itself has come, `s`
    /// where it is known to be a start.
    fn steps(codec: Codec, packets: &[(u8, &[u8])]) -> Vec<String> {
        steps_of(RandomAccess::new(codec), packets)
    }

    fn steps_of(mut access: RandomAccess, packets: &[(u8, &[u8])]) -> Vec<String> {
        let steps = packets.iter().map(|&(timestamp, payload)| {
            let head = [0x80, 96, 0, 0, 0, 0, 0, timestamp, 0, 0, 0, 0];
            let packet = RtpPacket::parse([&head, payload].concat().into()).unwrap();
            let Step { begins, is_lead, is_start, .. } = access.step(&packet);
            let told = [(begins, 'b'), (is_lead, 'l'), (is_start, 's')];
            told.iter().filter(|(is_so, _)| *is_so).map(|(_, letter)| *letter).collect()
        });
        steps.collect()
    }

    #[test]
    fn keyframe_is_told_once_and_where_it_began() {
        let h264: [(u8, &[u8]); 10] = [
            (0, b"\x41\x9a"),
            (1, b"\x09\xf0"),
            (1, b"\x67\x42"),
            (1, b"\x68\xce"),
            (1, b"\x7c\x85a"),
            (1, b"\x7c\x85a"),
            (2, b"\x7c\x05a"),
            (3, b"\x7c\x85a"),
            (4, b"\x78\0\x02\x67\x42\0\x02\x65\x88"),
            (5, b"\x78\0\0\0\x09"),
        ];
        let expected = ["b", "bl", "l", "l", "s", "", "b", "bs", "bs", "bl"];
        assert_eq!(steps(Codec::H264, &h264), expected);
        let h265: [(u8, &[u8]); 7] = [
            (0, b"\x02\x01\x80"),
            (1, b"\x40\x01"),
            (1, b"\x26\x01\x80"),
            (2, b"\x62\x01\x93"),
            (3, b"\x62\x01\x13"),
            (4, b"\x60\x01\0\x02\x42\x01\0\x02\x26\x01"),
            (5, b"\x60"),
        ];
        assert_eq!(steps(Codec::H265, &h265), ["b", "bl", "s", "bs", "b", "bs", "bl"]);
    }

    #[test]
    fn keyframes_behind_decoding_order_numbers_are_known() {
        let mut format = Format::of_payload_type(TrackKind::Video, 96);
        format.read_rtpmap("H265/90000");
        format.parameters = "sprop-max-don-diff=1".to_owned();
        let packets: [(u8, &[u8]); 10] = [
            (0, b"\x02\x01\0\x01\x80"),
            // Sets, and a keyframe whose numbers look like lengths.
            (1, b"\x60\x01\0\x02\0\x02\x40\x01\x01\0\x02\x44\x01\x01\0\x02\x26\x01"),
            (2, b"\x60\x01\0\0\0\x02\x02\x01\0\0\x02\x02\x01"),
            // A fragment.
            (3, b"\x62\x01\x93\0\x07a"),
            (3, b"\x62\x01\x13a"),
            // A number that looks like the message of a recovery point, and one behind a number.
            (4, b"\x4e\x01\x06\x01\x05\x01a\x80"),
            (4, b"\x02\x01\0\x09\x80"),
            (5, b"\x4e\x01\0\x0a\x06\x01\xc4\x80"),
            (5, b"\x02\x01\0\x0b\x80"),
            (6, b"\x60\x01\0"),
        ];
        let expected = ["b", "bs", "b", "bs", "", "bl", "", "bls", "", "bl"];
        let mut access = RandomAccess::of(&format);
        access.restart();
        assert_eq!(steps_of(access, &packets), expected);
    }

    #[test]
    fn sets_with_a_timestamp_of_their_own_are_of_the_next_picture() {
        let h264: [(u8, &[u8]); 9] = [
            (1, b"\x67\x42"),
            (2, b"\x68\xce"),
            (3, b"\x7c\x85a"),
            (3, b"\x7c\x45a"),
            (4, b"\x41\x9a"),
            (5, b"\x78\0\x02\x67\x42\0\x02\x68\xce"),
            (6, b"\x65\x88"),
            (7, b"\x78\0\x02\x67\x42\0\x02\x65\x88"),
            (8, b"\x65\x88"),
        ];
        let expected = ["bl", "l", "s", "", "b", "bl", "s", "bs", "bs"];
        assert_eq!(steps(Codec::H264, &h264), expected);
        let h265: [(u8, &[u8]); 6] = [
            (1, b"\x40\x01"),
            (1, b"\x42\x01"),
            (2, b"\x62\x01\x93"),
            (3, b"\x62\x01\x93"),
            (4, b"\x60\x01\0\x02\x42\x01"),
            (5, b"\x60\x01\0\x02\x26\x01"),
        ];
        assert_eq!(steps(Codec::H265, &h265), ["bl", "l", "s", "bs", "bl", "s"]);
    }

    #[test]
    fn pictures_with_parameter_sets_of_their_own_are_known() {
        let has_sets = |codec, packets: &[(u8, &[u8])]| -> Vec<bool> {
            let mut access = RandomAccess::new(codec);
            let steps = packets.iter().map(|&(timestamp, payload)| {
                let head = [0x80, 96, 0, 0, 0, 0, 0, timestamp, 0, 0, 0, 0];
                access.step(&RtpPacket::parse([&head, payload].concat().into()).unwrap()).has_sets
            });
            steps.collect()
        };
        let h264: [(u8, &[u8]); 7] = [
            (1, b"\x67\x42"),
            (1, b"\x68\xce"),
            (2, b"\x65\x88"),
            (3, b"\x65\x88"),
            (4, b"\x68\xce"),
            (4, b"\x65\x88"),
            (5, b"\x78\0\x02\x67\x42\0\x02\x68\xce\0\x02\x65\x88"),
        ];
        let expected = [false, true, true, false, false, false, true];
        assert_eq!(has_sets(Codec::H264, &h264), expected);
        let h265: [(u8, &[u8]); 4] =
            [(1, b"\x40\x01"), (1, b"\x42\x01"), (1, b"\x44\x01"), (1, b"\x26\x01\x80")];
        assert_eq!(has_sets(Codec::H265, &h265), [false, false, true, true]);
    }

    #[test]
    fn sets_that_are_repeated_without_a_picture_begin_anew() {
        let h264: [(u8, &[u8]); 6] = [
            (1, b"\x67\x42"),
            (1, b"\x67\x43"),
            (1, b"\x68\xce"),
            (2, b"\x78\0\x02\x67\x42\0\x02\x68\xce"),
            (3, b"\x68\xcf"),
            (4, b"\x65\x88"),
        ];
        assert_eq!(steps(Codec::H264, &h264), ["bl", "l", "l", "bl", "l", "s"]);
        let h265: [(u8, &[u8]); 4] =
            [(1, b"\x40\x01"), (2, b"\x42\x01"), (3, b"\x40\x01"), (4, b"\x26\x01\x80")];
        assert_eq!(steps(Codec::H265, &h265), ["bl", "l", "bl", "s"]);
    }

    #[test]
    fn sets_with_the_timestamp_of_the_picture_before_are_of_the_next_one() {
        let packets: [(u8, &[u8]); 5] = [
            (1, b"\x65\x88"),
            (1, b"\x67\x42"),
            (1, b"\x68\xce"),
            (2, b"\x65\x88"),
            (2, b"\x65\x40"),
        ];
        assert_eq!(steps(Codec::H264, &packets), ["bs", "bl", "l", "s", ""]);
    }

    #[test]
    fn sets_before_a_picture_that_is_no_keyframe_are_no_start() {
        let h264: [(u8, &[u8]); 7] = [
            (0, b"\x65\x88"),
            (1, b"\x67\x42"),
            (1, b"\x68\xce"),
            (1, b"\x41\x9a"),
            (2, b"\x68\xce"),
            (3, b"\x41\x9a"),
            (4, b"\x78\0\x02\x67\x42\0\x02\x41\x9a"),
        ];
        assert_eq!(steps(Codec::H264, &h264), ["bs", "bl", "l", "", "bl", "", "b"]);
        let h265: [(u8, &[u8]); 3] = [(1, b"\x40\x01"), (1, b"\x42\x01"), (1, b"\x62\x01\x81")];
        assert_eq!(steps(Codec::H265, &h265), ["bl", "l", ""]);
    }

    #[test]
    fn recovery_point_is_a_start() {
        let h264: [(u8, &[u8]); 6] = [
            (0, b"\x41\x9a"),
            // Another message before it.
            (1, b"\x06\x05\x02ab\x06\x01\xc4\x80"),
            (1, b"\x41\x9a"),
            (2, b"\x06\x05\x02ab\x80"),
            (3, b"\x78\0\x02\x09\xf0\0\x05\x06\x06\x01\xc4\x80"),
            // Under another timestamp than its message.
            (4, b"\x65\x88"),
        ];
        assert_eq!(steps(Codec::H264, &h264), ["b", "bls", "", "bl", "bls", ""]);
        let h265: [(u8, &[u8]); 3] =
            [(0, b"\x02\x01\x80"), (1, b"\x4e\x01\x06\x01\xc4\x80"), (2, b"\x4e\x01\x05\0\x80")];
        assert_eq!(steps(Codec::H265, &h265), ["b", "bls", "l"]);
    }

    #[test]
    fn intra_slice_behind_parameter_sets_is_a_start() {
        let h264: [(u8, &[u8]); 12] = [
            (1, b"\x67\x42"),
            (1, b"\x68\xce"),
            // All of the picture is intra, and the next slice as well.
            (1, b"\x41\x88"),
            (1, b"\x41\x88"),
            // In one packet, only this slice.
            (2, b"\x78\0\x02\x67\x42\0\x02\x41\xb8"),
            // In fragments.
            (3, b"\x67\x42"),
            (3, b"\x5c\x81\x88"),
            (3, b"\x5c\x41\x88"),
            // Without a set, behind one of pictures alone, and not the first slice.
            (4, b"\x41\x88"),
            (5, b"\x68\xce"),
            (5, b"\x41\x88"),
            (6, b"\x78\0\x02\x67\x42\0\x02\x41\x9a\0\x02\x41\x0b"),
        ];
        let expected = ["bl", "l", "s", "", "bs", "bl", "s", "", "b", "bl", "", "b"];
        assert_eq!(steps(Codec::H264, &h264), expected);
        // The rest of a fragmented slice, and a slice of H.265, may look the same.
        let rest: [(u8, &[u8]); 2] = [(1, b"\x67\x42"), (1, b"\x5c\x01\x88")];
        assert_eq!(steps(Codec::H264, &rest), ["bl", ""]);
        let h265: [(u8, &[u8]); 2] = [(1, b"\x40\x01"), (1, b"\x02\x01\x88")];
        assert_eq!(steps(Codec::H265, &h265), ["bl", ""]);
    }

    #[test]
    fn audio_starts_anywhere_and_the_unknown_nowhere() {
        assert_eq!(steps(Codec::Opus, &[(0, b"a"), (0, b"b"), (1, b"c")]), ["bs", "s", "bs"]);
        assert_eq!(steps(Codec::OtherVideo, &[(0, b"\x67"), (1, b"")]), ["b", "b"]);
        assert_eq!(steps(Codec::H264, &[(0, b"")]), ["bl"]);
    }
}
