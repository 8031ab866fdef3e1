//! RTP packets (RFC 3550, 5.1 and 5.3.1).
//!
//! ```text
//!  0                   1                   2                   3
//! +---+-+-+-------+-+-------------+-------------------------------+
//! |V=2|P|X|  CC   |M|payload type |        sequence number        |
//! +---+-+-+-------+-+-------------+-------------------------------+
//! |                           timestamp                           |
//! +---------------------------------------------------------------+
//! |                             SSRC                              |
//! +---------------------------------------------------------------+
//! |  CSRCs (CC), extension (X): profile 16, length in words 16, … |
//! |  payload, padding (P) whose last byte is its length           |
//! +---------------------------------------------------------------+
//! ```

use bytes::Bytes;

/// Bytes of a header without CSRCs and extension.
pub const HEADER_LEN: usize = 12;

/// A packet whose header was found to be sound. A view: cloning copies nothing. It is in two pieces
/// where it came in two, so that nobody has to join them who only hands it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtpPacket {
    /// Header and as much of the payload as came with it.
    bytes: Bytes,
    tail: Bytes,
    copied_len: usize,
    header: RtpHeader,
    payload_start: usize,
    payload_end: usize,
}

/// The fixed part of a header, without CSRCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpHeader {
    /// What it marks is up to the payload format: mostly the last packet of a frame.
    pub marker: bool,
    /// 0 to 127
    pub payload_type: u8,
    pub sequence: u16,
    /// In ticks of the track's clock.
    pub timestamp: u32,
    pub ssrc: u32,
}

/// A header extension (RFC 3550, 5.3.1): what its first 16 bits say, and its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extension<'a> {
    pub profile: u16,
    pub words: &'a [u8],
}

/// Why bytes are no RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    #[error("RTP packet of {0} bytes is shorter than its header")]
    Short(usize),
    #[error("RTP version {0} is not 2")]
    Version(u8),
    #[error("RTP padding of {0} bytes does not fit")]
    Padding(u8),
}

impl RtpPacket {
    /// Reads a packet that fills `bytes`.
    ///
    /// # Errors
    /// [`PacketError`] where the header contradicts itself or the length.
    pub fn parse(bytes: Bytes) -> Result<Self, PacketError> {
        Self::parse_pieces(bytes, Bytes::new())
    }

    /// Reads a packet in two pieces, of which the first was copied. They are joined where the header is
    /// in both.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_pieces(bytes: Bytes, tail: Bytes) -> Result<Self, PacketError> {
        if !tail.is_empty() && bytes.len() < HEADER_PIECE_LEN_MIN {
            let joined = join(&bytes, &tail);
            let copied_len = bytes.len() + joined.len();
            return Ok(Self { copied_len, ..Self::parse_pieces(joined, Bytes::new())? });
        }
        let whole_len = bytes.len() + tail.len();
        let short = PacketError::Short(whole_len);
        let (head, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(short)?;
        if head[0] >> 6 != 2 {
            return Err(PacketError::Version(head[0] >> 6));
        }
        let csrcs_len = 4 * usize::from(head[0] & 0x0f);
        let mut payload_start = HEADER_LEN + csrcs_len;
        if head[0] & EXTENSION_BIT != 0 {
            let extension = rest.get(csrcs_len..).and_then(|rest| rest.split_first_chunk::<4>());
            let ([_, _, high, low], _) = extension.ok_or(short)?;
            payload_start += 4 + 4 * usize::from(u16::from_be_bytes([*high, *low]));
        }
        let body_len = whole_len.checked_sub(payload_start).ok_or(short)?;
        if !tail.is_empty() && payload_start + PAYLOAD_HEAD_LEN_MIN > bytes.len() {
            let joined = join(&bytes, &tail);
            let copied_len = bytes.len() + joined.len();
            return Ok(Self { copied_len, ..Self::parse_pieces(joined, Bytes::new())? });
        }
        let last = if tail.is_empty() { bytes[payload_start..].last() } else { tail.last() };
        let padding = match last {
            Some(&len) if head[0] & PADDING_BIT != 0 => len,
            None if head[0] & PADDING_BIT != 0 => return Err(PacketError::Padding(0)),
            _ => 0,
        };
        let is_padded = head[0] & PADDING_BIT != 0;
        if usize::from(padding) > body_len || (is_padded && padding == 0) {
            return Err(PacketError::Padding(padding));
        }
        let payload_end = whole_len - usize::from(padding);
        let header = RtpHeader::decode(head);
        let copied_len = if tail.is_empty() { 0 } else { bytes.len() };
        Ok(Self { bytes, tail, copied_len, header, payload_start, payload_end })
    }

    pub fn header(&self) -> RtpHeader {
        self.header
    }

    /// What the packet carries, without padding; a view, or a copy of what is in two pieces. May be
    /// empty.
    pub fn payload(&self) -> Bytes {
        if self.payload_end <= self.bytes.len() {
            return self.bytes.slice(self.payload_start..self.payload_end);
        }
        let tail_len = self.payload_end - self.bytes.len();
        join(&self.bytes[self.payload_start..], &self.tail[..tail_len])
    }

    /// The payload as far as it came with the header.
    pub fn payload_head(&self) -> &[u8] {
        &self.bytes[self.payload_start..self.payload_end.min(self.bytes.len())]
    }

    /// Bytes of the payload.
    pub fn payload_len(&self) -> usize {
        self.payload_end - self.payload_start
    }

    /// Sources that a mixer took the packet from; 15 at most.
    pub fn csrcs(&self) -> impl Iterator<Item = u32> {
        let (words, _) = self.bytes[HEADER_LEN..HEADER_LEN + self.csrcs_len()].as_chunks();
        words.iter().map(|word| u32::from_be_bytes(*word))
    }

    pub fn extension(&self) -> Option<Extension<'_>> {
        if self.bytes[0] & EXTENSION_BIT == 0 {
            return None;
        }
        let start = HEADER_LEN + self.csrcs_len();
        let profile = u16::from_be_bytes([self.bytes[start], self.bytes[start + 1]]);
        Some(Extension { profile, words: &self.bytes[start + 4..self.payload_start] })
    }

    /// The whole packet, as it came: the fixed header is in the first piece; the second may be empty.
    pub fn pieces(&self) -> [&[u8]; 2] {
        [&self.bytes, &self.tail]
    }

    /// Bytes of the packet.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.tail.len()
    }

    /// A packet is never empty: it has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes that were copied to have the packet in this form.
    pub fn copied_len(&self) -> usize {
        self.copied_len
    }

    /// The same packet in memory of its own.
    pub fn into_copy(self) -> Self {
        let bytes = join(&self.bytes, &self.tail);
        let copied_len = self.copied_len + bytes.len();
        Self { bytes, tail: Bytes::new(), copied_len, ..self }
    }

    fn csrcs_len(&self) -> usize {
        4 * usize::from(self.bytes[0] & 0x0f)
    }
}

impl RtpHeader {
    /// The header's bytes, for a packet without CSRCs, extension and padding.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        debug_assert!(self.payload_type < 128, "a payload type has seven bits");
        let [s1, s0] = self.sequence.to_be_bytes();
        let [t3, t2, t1, t0] = self.timestamp.to_be_bytes();
        let [r3, r2, r1, r0] = self.ssrc.to_be_bytes();
        let marked_type = self.payload_type | if self.marker { 0x80 } else { 0 };
        [0x80, marked_type, s1, s0, t3, t2, t1, t0, r3, r2, r1, r0]
    }

    fn decode(head: &[u8; HEADER_LEN]) -> Self {
        let [_, marked_type, s1, s0, t3, t2, t1, t0, r3, r2, r1, r0] = *head;
        Self {
            marker: marked_type & 0x80 != 0,
            payload_type: marked_type & 0x7f,
            sequence: u16::from_be_bytes([s1, s0]),
            timestamp: u32::from_be_bytes([t3, t2, t1, t0]),
            ssrc: u32::from_be_bytes([r3, r2, r1, r0]),
        }
    }
}

/// Whether a datagram that could be either is RTCP (RFC 5761, 4): where a sender muddles up its
/// ports or channels, as some cameras do.
pub fn is_rtcp(bytes: &[u8]) -> bool {
    matches!(bytes, [first, 192..=223, ..] if first >> 6 == 2)
}

fn join(bytes: &[u8], tail: &[u8]) -> Bytes {
    [bytes, tail].concat().into()
}

/// A first piece shorter than that is joined with the second,
const HEADER_PIECE_LEN_MIN: usize = HEADER_LEN + 15 * 4 + 4;

/// and one with less of the payload, so that whoever looks at the beginning of a payload finds it: the
/// headers of a fragment of H.265 are three bytes.
const PAYLOAD_HEAD_LEN_MIN: usize = 4;

const PADDING_BIT: u8 = 0x20;
const EXTENSION_BIT: u8 = 0x10;

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RtpHeader {
        RtpHeader {
            marker: true,
            payload_type: 96,
            sequence: 0xfffe,
            timestamp: 0x0102_0304,
            ssrc: 0xa0b0_c0d0,
        }
    }

    /// Name, packet, and where its payload lies.
    fn table() -> Vec<(&'static str, Vec<u8>, std::ops::Range<usize>)> {
        let head = header().encode();
        let with = |first: u8, rest: &[u8]| {
            let mut bytes = [&head, rest].concat();
            bytes[0] = first;
            bytes
        };
        vec![
            ("plain", with(0x80, b"payload"), 12..19),
            ("empty", with(0x80, b""), 12..12),
            ("two CSRCs", with(0x82, b"\0\0\0\x01\0\0\0\x02p"), 20..21),
            ("extension", with(0x90, b"\xbe\xde\0\x01\x10\xff\0\0p"), 20..21),
            ("empty extension", with(0x90, b"\xbe\xde\0\0p"), 16..17),
            ("CSRC and extension", with(0x91, b"\0\0\0\x01\xbe\xde\0\x01abcdp"), 24..25),
            ("padding", with(0xa0, b"p\0\0\x03"), 12..13),
            ("nothing but padding", with(0xa0, b"\0\x02"), 12..12),
        ]
    }

    #[test]
    fn payload_is_found() {
        for (name, bytes, range) in table() {
            let packet = RtpPacket::parse(Bytes::from(bytes.clone())).unwrap();
            assert_eq!(packet.header(), header(), "{name}");
            assert_eq!(packet.payload(), bytes[range], "{name}");
            assert_eq!(packet.pieces()[0], &bytes[..], "{name}");
        }
    }

    #[test]
    fn beginning_of_a_payload_is_in_one_piece() {
        // 16 words of extension: the payload begins at byte 80.
        let mut bytes = [&header().encode(), &b"\xbe\xde\0\x10"[..], &[0; 64], b"payload"].concat();
        bytes[0] = 0x90;
        for cut in 64..=bytes.len() {
            let (first, tail) = (&bytes[..cut], &bytes[cut..]);
            let [first, tail] = [first, tail].map(Bytes::copy_from_slice);
            let packet = RtpPacket::parse_pieces(first, tail).unwrap();
            assert!(packet.payload_head().starts_with(b"payl"), "{cut}");
            assert_eq!(packet.payload(), b"payload"[..], "{cut}");
        }
    }

    #[test]
    fn every_cut_off_header_is_refused() {
        for (name, bytes, range) in table() {
            for len in 0..range.start {
                let cut = RtpPacket::parse(Bytes::copy_from_slice(&bytes[..len]));
                assert_eq!(cut, Err(PacketError::Short(len)), "{name} {len}");
            }
        }
    }

    #[test]
    fn sources_and_extension_are_told() {
        let (_, bytes, _) = table().swap_remove(5);
        let packet = RtpPacket::parse(Bytes::from(bytes)).unwrap();
        assert_eq!(packet.csrcs().collect::<Vec<_>>(), [1]);
        let extension = Extension { profile: 0xbede, words: b"abcd" };
        assert_eq!(packet.extension(), Some(extension));
        let (_, bytes, _) = table().swap_remove(0);
        let packet = RtpPacket::parse(Bytes::from(bytes)).unwrap();
        assert_eq!((packet.csrcs().count(), packet.extension()), (0, None));
    }

    #[test]
    fn contradictions_are_refused() {
        let parse = |first: u8, rest: &[u8]| {
            let mut bytes = [&header().encode(), rest].concat();
            bytes[0] = first;
            RtpPacket::parse(Bytes::from(bytes)).unwrap_err()
        };
        assert_eq!(parse(0x40, b""), PacketError::Version(1));
        assert_eq!(parse(0xa0, b""), PacketError::Padding(0));
        assert_eq!(parse(0xa0, b"a\0"), PacketError::Padding(0));
        assert_eq!(parse(0xa0, b"a\x03"), PacketError::Padding(3));
        assert_eq!(parse(0x90, b"\0\0\xff\xff"), PacketError::Short(16));
    }

    #[test]
    fn rtcp_is_told_apart() {
        assert!(is_rtcp(&[0x80, 200, 0, 6]));
        assert!(is_rtcp(&[0x81, 203]));
        assert!(!is_rtcp(&[0x80, 96, 0, 6]));
        assert!(!is_rtcp(&[0x40, 200]));
        assert!(!is_rtcp(&[0x80]));
    }
}
