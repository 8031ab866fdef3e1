//! Whether what a payload begins with is all there: told of each packet, also where nobody wants frames.
//!
//! A packet may have been cut off, or made so, and still be sound RTP. It is passed on as it came; a
//! depacketizer makes nothing of it.

use crate::media::Codec;
use crate::proto::rtp::depacketizer::has_unit_headers;
use crate::proto::rtp::format::Format;
use crate::proto::rtp::packet::RtpPacket;

/// What the payloads of a track begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Structure {
    /// Headers of NAL units, lengths within STAP-A (RFC 6184, 5.6 to 5.8).
    H264,
    /// The same, and AP (RFC 7798, 4.4).
    H265,
    /// The headers of access units (RFC 3640, 3.2.1).
    UnitHeaders,
    /// Nothing that tells.
    Plain,
}

impl Structure {
    pub(super) fn of(format: &Format) -> Self {
        match format.codec() {
            Codec::H264 => Self::H264,
            Codec::H265 => Self::H265,
            Codec::Aac if !format.is_latm() && has_unit_headers(format) => Self::UnitHeaders,
            _ => Self::Plain,
        }
    }

    /// Whether the payload ends before its structure does. An empty one keeps a path open.
    pub(super) fn is_cut_off(self, packet: &RtpPacket) -> bool {
        let len = packet.payload_len();
        let whole = |packet: &RtpPacket| packet.payload();
        let head = packet.payload_head();
        let Some(&first) = head.first().filter(|_| self != Self::Plain) else { return false };
        match self {
            Self::Plain => false,
            Self::H264 => match first & 0x1f {
                24 => !holds_units(&whole(packet)[1..]),
                28 => len < 2,
                _ => false,
            },
            Self::H265 => match first >> 1 & 0x3f {
                48 if len > 2 => !holds_units(&whole(packet)[2..]),
                49 => len < 3,
                _ => len < 2,
            },
            Self::UnitHeaders => match head.first_chunk() {
                Some(bits) => len < 2 + usize::from(u16::from_be_bytes(*bits)).div_ceil(8),
                None => true,
            },
        }
    }
}

/// Whether NAL units behind 16-bit lengths are whole.
fn holds_units(mut rest: &[u8]) -> bool {
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let Some(next) = behind.get(usize::from(u16::from_be_bytes(*len))..) else { return false };
        rest = next;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rtp::RtpHeader;
    use crate::proto::rtsp::SessionDescription;

    const HBR: &str = "audio mpeg4-generic/44100/2\na=fmtp:96 mode=AAC-hbr;config=1210";

    /// Whole payloads, and how long they are where that is told to be too short.
    const TABLE: [(&str, &str, &[u8], &[usize]); 8] = [
        ("H.264 slice", "video H264/90000", b"\x41\x9a\x02", &[]),
        ("H.264 FU-A", "video H264/90000", b"\x7c\x85abc", &[1]),
        ("H.264 STAP-A", "video H264/90000", b"\x78\0\x03abc", &[3, 4, 5]),
        ("H.265 slice", "video H265/90000", b"\x02\x01\x80", &[1]),
        ("H.265 FU", "video H265/90000", b"\x62\x01\x93abc", &[1, 2]),
        ("H.265 AP", "video H265/90000", b"\x60\x01\0\x03abc", &[1, 4, 5, 6]),
        ("AAC with headers", HBR, b"\0\x20\0\x08\0\x08ab", &[1, 2, 3, 4, 5]),
        ("AAC without", "audio mpeg4-generic/44100/2\na=fmtp:96 config=1210", b"abc", &[]),
    ];

    #[test]
    fn payload_that_ends_within_its_structure_is_told() {
        for (name, format, payload, short) in TABLE {
            let (kind, rtpmap) = format.split_once(' ').unwrap();
            let text = format!("m={kind} 0 RTP/AVP 96\na=rtpmap:96 {rtpmap}\n");
            let description = SessionDescription::parse(text.as_bytes()).unwrap();
            let structure = Structure::of(&description.media[0].format);
            let (payload_type, sequence, timestamp, ssrc) = (96, 1, 2, 3);
            let header = RtpHeader { marker: true, payload_type, sequence, timestamp, ssrc };
            for len in 0..=payload.len() {
                let bytes = [&header.encode()[..], &payload[..len]].concat();
                for at in 12..=bytes.len() {
                    let pieces = (bytes[..at].to_vec().into(), bytes[at..].to_vec().into());
                    let packet = RtpPacket::parse_pieces(pieces.0, pieces.1).unwrap();
                    let is_cut_off = structure.is_cut_off(&packet);
                    assert_eq!(is_cut_off, short.contains(&len), "{name} of {len}");
                }
            }
        }
    }
}
