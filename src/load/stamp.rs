//! The timestamp that our publisher puts into each H.264 frame: a sequence number and the time at
//! which the frame was due, in an SEI message (H.264, 7.3.2.3 and D.1.7, user_data_unregistered).
//!
//! ```text
//! length (32) | 06 | 05 | 31 | UUID (16 bytes) | sequence (5 bytes) | time (10 bytes) | 80
//! ```
//!
//! Numbers stand in groups of seven bits, the most significant first, each in a byte whose top bit
//! is set: no byte is zero, so that there is nothing to be escaped (7.4.1.1) and all stamps are of
//! one length. The time is `CLOCK_MONOTONIC`: player and publisher must be on one machine.

use crate::proto::reader::Reader;

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Counts a stream's video frames from 0.
    pub(super) sequence: u32,
    /// When the frame was due at its publisher.
    pub(super) due_ns: u64,
}

/// Bytes of a stamp with the length before it.
pub(super) const STAMP_LEN: usize = 4 + 3 + USER_DATA_LEN + 1;

/// Payload bytes of a video tag within which the stamp ends: the tag's own header, an access unit
/// delimiter and a buffering period may stand before it.
pub(super) const STAMPED_HEAD_LEN: usize = 112;

impl Stamp {
    /// The stamp as a NAL unit behind its 4-byte length.
    pub(super) fn encode(self) -> [u8; STAMP_LEN] {
        let mut nal = [0; STAMP_LEN];
        nal[3] = (STAMP_LEN - 4) as u8;
        nal[4..7].copy_from_slice(&[NAL_SEI, PAYLOAD_USER_DATA, USER_DATA_LEN as u8]);
        nal[7..23].copy_from_slice(&UUID);
        write_groups(&mut nal[23..28], u64::from(self.sequence));
        write_groups(&mut nal[28..38], self.due_ns);
        nal[38] = RBSP_TRAILING;
        nal
    }

    /// The stamp in the NAL units of a frame, of which `head` is the beginning. `None` where it is
    /// not within `head`.
    pub(super) fn find(head: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(head);
        loop {
            let len = reader.u32().ok()? as usize;
            let Ok(nal) = reader.take(len) else { return None };
            if let Some(stamp) = Self::decode(nal) {
                return Some(stamp);
            }
        }
    }

    /// The stamp that a NAL unit is, if it is one.
    pub(super) fn decode(nal: &[u8]) -> Option<Self> {
        let rest = nal.strip_prefix(&[NAL_SEI, PAYLOAD_USER_DATA, USER_DATA_LEN as u8])?;
        let numbers = rest.strip_prefix(&UUID)?.get(..15)?;
        let sequence = u32::try_from(read_groups(&numbers[..5])).ok()?;
        Some(Self { sequence, due_ns: read_groups(&numbers[5..]) })
    }
}

/// Where among the NAL units of a frame the stamp goes: behind an access unit delimiter and a
/// buffering period, which must be the first (H.264, 7.4.1.2.3), before all else.
pub(super) fn insertion_point(nals: &[u8]) -> usize {
    let mut reader = Reader::new(nals);
    let mut at = 0;
    while let Ok(len) = reader.u32()
        && let Ok(nal) = reader.take(len as usize)
    {
        let goes_first = matches!(nal, [first, ..] if first & 0x1f == NAL_DELIMITER)
            || matches!(nal, [first, PAYLOAD_BUFFERING, ..] if first & 0x1f == NAL_SEI);
        if !goes_first || at + 4 + nal.len() + STAMP_LEN > STAMPED_HEAD_LEN - TAG_OWN_LEN_MAX {
            break;
        }
        at += 4 + nal.len();
    }
    at
}

fn write_groups(out: &mut [u8], number: u64) {
    for (index, byte) in out.iter_mut().rev().enumerate() {
        *byte = 0x80 | (number >> (7 * index)) as u8;
    }
}

fn read_groups(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
}

/// Made for this and used for nothing else.
const UUID: [u8; 16] = *b"\xa3\x51\x7c\x3e\x9d\x24\x4f\x8b\xb6\x1d\x72\x69\x6c\x6c\x63\x73";
const USER_DATA_LEN: usize = 16 + 5 + 10;
const NAL_SEI: u8 = 6;
const NAL_DELIMITER: u8 = 9;
const PAYLOAD_BUFFERING: u8 = 0;
const PAYLOAD_USER_DATA: u8 = 5;
const RBSP_TRAILING: u8 = 0x80;

/// Bytes of a video tag before its NAL units: 5 of the old form, 8 of the enhanced.
const TAG_OWN_LEN_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn nal(first: u8, len: usize) -> Vec<u8> {
        let mut bytes = (len as u32).to_be_bytes().to_vec();
        bytes.push(first);
        bytes.resize(4 + len, 1);
        bytes
    }

    fn stamps() -> [Stamp; 4] {
        [(0, 0), (1, 1_234_567_890_123), (u32::MAX, u64::MAX), (0x0000_0300, 3)]
            .map(|(sequence, due_ns)| Stamp { sequence, due_ns })
    }

    #[test]
    fn what_is_written_is_read() {
        for stamp in stamps() {
            let bytes = stamp.encode();
            assert_eq!(Stamp::find(&bytes), Some(stamp));
            assert_eq!(bytes[..4], (STAMP_LEN as u32 - 4).to_be_bytes());
            for len in 0..STAMP_LEN {
                assert_eq!(Stamp::find(&bytes[..len]), None, "{len}");
            }
        }
    }

    #[test]
    fn nothing_has_to_be_escaped() {
        for stamp in stamps() {
            let bytes = stamp.encode();
            assert!(bytes[4..].iter().all(|byte| *byte != 0), "{bytes:?}");
        }
    }

    #[test]
    fn stamp_is_found_behind_other_units() {
        let stamp = stamps()[1];
        let units = [nal(0x09, 2), stamp.encode().to_vec(), nal(0x65, 5000)].concat();
        assert_eq!(Stamp::find(&units[..STAMPED_HEAD_LEN]), Some(stamp));
        assert_eq!(Stamp::find(&[nal(0x06, 40), nal(0x65, 50)].concat()), None);
        assert_eq!(Stamp::find(&nal(0x65, 5000)[..STAMPED_HEAD_LEN]), None);
        assert_eq!(Stamp::find(b""), None);
    }

    #[test]
    fn delimiter_and_buffering_period_stay_first() {
        let mut buffering = nal(0x06, 12);
        buffering[5] = PAYLOAD_BUFFERING;
        let slice = nal(0x41, 500);
        assert_eq!(insertion_point(&slice), 0);
        assert_eq!(insertion_point(&[nal(0x09, 2), slice.clone()].concat()), 6);
        let both = [nal(0x09, 2), buffering.clone(), slice.clone()].concat();
        assert_eq!(insertion_point(&both), 22);
        // Not so far back that nobody would look there.
        let mut long = nal(0x06, 90);
        long[5] = PAYLOAD_BUFFERING;
        assert_eq!(insertion_point(&[long, slice].concat()), 0);
        assert_eq!(insertion_point(b"\0\0"), 0);
        assert_eq!(insertion_point(b"\0\0\0\x09\x09"), 0);
    }
}
