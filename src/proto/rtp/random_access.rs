//! Where in a run of packets a player can start, told from each packet alone.
//!
//! For those who keep packets and not frames: an index of keyframes needs no depacketizer. A start is
//! the first packet of a picture's that carries a parameter set, a recovery point or the beginning of a
//! keyframe, so that parameter sets in band go before their picture, also where they have a timestamp of
//! their own (Reolink's cameras).

use bytes::Bytes;

use crate::media::Codec;
use crate::media::codec::ParameterSets;
use crate::proto::rtp::packet::RtpPacket;

/// Finds the starts in one track's packets, in order.
#[derive(Debug)]
pub struct RandomAccess {
    codec: Codec,
    /// Of the picture whose start was told last.
    told: Option<u32>,
    /// Nothing that is shown has come since: what comes next belongs to it.
    leads: bool,
}

impl RandomAccess {
    pub fn new(codec: Codec) -> Self {
        Self { codec, told: None, leads: false }
    }

    /// Whether a player can start at this packet: true once for each keyframe. Any packet of audio
    /// is a start; of video codecs other than H.264 and H.265 it is not known.
    pub fn is_start(&mut self, packet: &RtpPacket) -> bool {
        if !self.codec.is_video() {
            return true;
        }
        let timestamp = packet.header().timestamp;
        let head = packet.payload_head();
        let is_whole = head.len() == packet.payload_len() || !is_aggregate(self.codec, head);
        let payload = if is_whole { Bytes::new() } else { packet.payload() };
        let payload = if is_whole { head } else { &payload };
        let is_start =
            !self.leads && self.told != Some(timestamp) && begins_keyframe(self.codec, payload);
        if is_start || self.leads {
            self.told = Some(timestamp);
            self.leads = !holds_slice(self.codec, payload);
        }
        is_start
    }

    /// Whether the next packet belongs to the start that was told last, whatever its timestamp.
    pub fn leads(&self) -> bool {
        self.leads
    }
}

/// Whether a payload has something of a picture (RFC 6184, 5.2; RFC 7798, 1.1.4).
fn holds_slice(codec: Codec, payload: &[u8]) -> bool {
    let is_slice = |header: u8| match codec {
        Codec::H264 => matches!(header & 0x1f, 1..=5),
        _ => header >> 1 & 0x3f < 32,
    };
    match (codec, payload) {
        (Codec::H264, [header, fragment, ..]) if header & 0x1f == 28 => is_slice(*fragment),
        (Codec::H264, [header, rest @ ..]) if header & 0x1f == 24 => {
            aggregated(rest).any(|nal| is_slice(nal[0]))
        }
        (Codec::H265, [header, _, fragment, ..]) if header >> 1 & 0x3f == 49 => {
            fragment & 0x3f < 32
        }
        (Codec::H265, [header, _, rest @ ..]) if header >> 1 & 0x3f == 48 => {
            aggregated(rest).any(|nal| is_slice(nal[0]))
        }
        (_, [header, ..]) => is_slice(*header),
        _ => false,
    }
}

/// A payload of several NAL units: STAP-A, AP.
fn is_aggregate(codec: Codec, payload: &[u8]) -> bool {
    payload.first().is_some_and(|first| match codec {
        Codec::H264 => first & 0x1f == 24,
        _ => first >> 1 & 0x3f == 48,
    })
}

fn begins_keyframe(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::H264 => h264_begins_keyframe(payload),
        Codec::H265 => h265_begins_keyframe(payload),
        _ => false,
    }
}

/// RFC 6184, 5.4: an IDR slice, its first fragment, a parameter set, the message of a recovery point, or
/// one of those in a STAP-A.
fn h264_begins_keyframe(payload: &[u8]) -> bool {
    let is_key = |header: u8| matches!(header & 0x1f, 5 | 7 | 8);
    let begins = |nal: &[u8]| match *nal {
        [header, ref body @ ..] => {
            is_key(header) || header & 0x1f == 6 && tells_recovery_point(body)
        }
        [] => false,
    };
    match *payload {
        [header, fragment, ..] if header & 0x1f == 28 => fragment & 0x80 != 0 && is_key(fragment),
        [header, ref rest @ ..] if header & 0x1f == 24 => aggregated(rest).any(begins),
        _ => begins(payload),
    }
}

/// RFC 7798, 4.4: the same with random access pictures and three kinds of sets.
fn h265_begins_keyframe(payload: &[u8]) -> bool {
    let is_key = |kind: u8| matches!(kind, 16..=23 | 32..=34);
    let begins = |nal: &[u8]| match *nal {
        [header, _, ref body @ ..] => {
            let kind = header >> 1 & 0x3f;
            is_key(kind) || kind == 39 && tells_recovery_point(body)
        }
        _ => false,
    };
    match *payload {
        [header, _, fragment, ..] if header >> 1 & 0x3f == 49 => {
            fragment & 0x80 != 0 && is_key(fragment & 0x3f)
        }
        [header, _, ref rest @ ..] if header >> 1 & 0x3f == 48 => aggregated(rest).any(begins),
        _ => begins(payload),
    }
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
            aggregated(payload.get(header_len..).unwrap_or_default()).for_each(each);
        }
        (Codec::H264, 25..) | (Codec::H265, 49..) => {}
        _ => each(payload),
    }
}

/// Whether [`for_each_nal`] may find parameter sets in a payload that begins like this.
pub fn may_hold_sets(codec: Codec, head: &[u8]) -> bool {
    is_aggregate(codec, head) || ParameterSets::is_parameter_set(codec, head)
}

/// NAL units behind 16-bit lengths, as far as they are whole; none is empty.
fn aggregated(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, behind) = rest.split_first_chunk::<2>()?;
        let (nal, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        rest = behind;
        Some(nal)
    })
    .filter(|nal| !nal.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(codec: Codec, packets: &[(u8, &[u8])]) -> Vec<bool> {
        let mut access = RandomAccess::new(codec);
        let starts = packets.iter().map(|&(timestamp, payload)| {
            let head = [0x80, 96, 0, 0, 0, 0, 0, timestamp, 0, 0, 0, 0];
            let packet = RtpPacket::parse([&head, payload].concat().into()).unwrap();
            access.is_start(&packet)
        });
        starts.collect()
    }

    #[test]
    fn first_packet_of_a_keyframe_is_told_once() {
        let h264: [(u8, &[u8]); 9] = [
            (0, b"\x41\x9a"),
            (1, b"\x09\xf0"),
            (1, b"\x67\x42"),
            (1, b"\x68\xce"),
            (1, b"\x7c\x85a"),
            (2, b"\x7c\x05a"),
            (3, b"\x7c\x85a"),
            (4, b"\x78\0\x02\x09\xf0\0\x02\x67\x42"),
            (5, b"\x78\0\0\0\x09"),
        ];
        let expected = [false, false, true, false, false, false, true, true, false];
        assert_eq!(starts(Codec::H264, &h264), expected);
        let h265: [(u8, &[u8]); 7] = [
            (0, b"\x02\x01\x80"),
            (1, b"\x40\x01"),
            (1, b"\x26\x01\x80"),
            (2, b"\x62\x01\x93"),
            (3, b"\x62\x01\x13"),
            (4, b"\x60\x01\0\x02\x42\x01"),
            (5, b"\x60"),
        ];
        let expected = [false, true, false, true, false, true, false];
        assert_eq!(starts(Codec::H265, &h265), expected);
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
        let expected = [true, false, false, false, false, true, false, true, true];
        assert_eq!(starts(Codec::H264, &h264), expected);
        let h265: [(u8, &[u8]); 6] = [
            (1, b"\x40\x01"),
            (1, b"\x42\x01"),
            (2, b"\x62\x01\x93"),
            (3, b"\x62\x01\x93"),
            (4, b"\x60\x01\0\x02\x42\x01"),
            (5, b"\x60\x01\0\x02\x26\x01"),
        ];
        let expected = [true, false, false, true, true, false];
        assert_eq!(starts(Codec::H265, &h265), expected);
    }

    #[test]
    fn recovery_point_is_a_start() {
        let h264: [(u8, &[u8]); 5] = [
            (0, b"\x41\x9a"),
            // Another message before it.
            (1, b"\x06\x05\x02ab\x06\x01\xc4\x80"),
            (1, b"\x41\x9a"),
            (2, b"\x06\x05\x02ab\x80"),
            (3, b"\x78\0\x02\x09\xf0\0\x05\x06\x06\x01\xc4\x80"),
        ];
        assert_eq!(starts(Codec::H264, &h264), [false, true, false, false, true]);
        let h265: [(u8, &[u8]); 3] =
            [(0, b"\x02\x01\x80"), (1, b"\x4e\x01\x06\x01\xc4\x80"), (2, b"\x4e\x01\x05\0\x80")];
        assert_eq!(starts(Codec::H265, &h265), [false, true, false]);
    }

    #[test]
    fn audio_starts_anywhere_and_the_unknown_nowhere() {
        assert_eq!(starts(Codec::Opus, &[(0, b"a"), (0, b"b")]), [true, true]);
        assert_eq!(starts(Codec::OtherVideo, &[(0, b"\x67"), (1, b"")]), [false, false]);
        assert_eq!(starts(Codec::H264, &[(0, b"")]), [false]);
    }
}
