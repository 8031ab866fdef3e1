//! The header of one chunk as it stands on the wire (RTMP 1.0, 5.3.1).
//!
//! ```text
//! basic header    fmt (2) csid (6)                    csid 2..63
//!                 fmt (2) 0        csid - 64 (8)      csid 64..319
//!                 fmt (2) 1        csid - 64 (16, LE) csid 64..65599
//! message header  fmt 0: timestamp (24) length (24) type (8) stream id (32, LE)
//!                 fmt 1: delta     (24) length (24) type (8)
//!                 fmt 2: delta     (24)
//!                 fmt 3: nothing
//! extended        timestamp or delta (32) when the 24 bits are all ones
//! ```

use crate::proto::reader::{Incomplete, Reader};

/// Bytes of the longest header: 3 basic, 11 message, 4 extended timestamp.
pub(super) const CHUNK_HEADER_LEN_MAX: usize = 18;

/// In the 24 bits: the timestamp is in the extended field.
pub(super) const TIMESTAMP_EXTENDED: u32 = 0x00ff_ffff;

/// A chunk's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    pub(super) csid: u32,
    pub(super) fields: Fields,
    /// Bytes on the wire.
    pub(super) len: usize,
}

/// What a header states; the rest is as in the chunk stream's header before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fields {
    /// fmt 0: `time` is absolute.
    Full { time: Time, message_len: u32, kind: u8, stream_id: u32 },
    /// fmt 1
    SameStream { delta: Time, message_len: u32, kind: u8 },
    /// fmt 2
    SameLength { delta: Time },
    /// fmt 3
    None,
}

/// A timestamp or delta, and whether it came in the extended field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Time {
    pub(super) value: u32,
    pub(super) extended: bool,
}

impl ChunkHeader {
    /// Decodes the header at the start of `bytes`. `extended_before` gives, for a chunk stream,
    /// the values that the extended field of an fmt 3 chunk would repeat, if its last header had
    /// that field.
    ///
    /// Whether fmt 3 chunks repeat the field is where peers differ (the specification, librtmp,
    /// ffmpeg and ours do; older Flash encoders do not), so the four bytes are compared.
    pub(super) fn decode(
        bytes: &[u8],
        extended_before: impl Fn(u32) -> Option<[u32; 2]>,
    ) -> Result<Self, Incomplete> {
        let mut reader = Reader::new(bytes);
        let first = reader.u8()?;
        let csid = match first & 0x3f {
            0 => u32::from(reader.u8()?) + 64,
            1 => u32::from(reader.u16()?.swap_bytes()) + 64,
            csid => u32::from(csid),
        };
        let fields = match first >> 6 {
            0 => {
                let time = reader.u24()?;
                let message_len = reader.u24()?;
                let kind = reader.u8()?;
                let stream_id = reader.u32_le()?;
                Fields::Full { time: extend(time, &mut reader)?, message_len, kind, stream_id }
            }
            1 => {
                let delta = reader.u24()?;
                let message_len = reader.u24()?;
                let kind = reader.u8()?;
                Fields::SameStream { delta: extend(delta, &mut reader)?, message_len, kind }
            }
            2 => {
                let delta = reader.u24()?;
                Fields::SameLength { delta: extend(delta, &mut reader)? }
            }
            _ => {
                if let Some(values) = extended_before(csid) {
                    pass_repeated(&mut reader, values)?;
                }
                Fields::None
            }
        };
        Ok(Self { csid, fields, len: bytes.len() - reader.rest().len() })
    }
}

fn extend(short: u32, reader: &mut Reader<'_>) -> Result<Time, Incomplete> {
    if short == TIMESTAMP_EXTENDED {
        Ok(Time { value: reader.u32()?, extended: true })
    } else {
        Ok(Time { value: short, extended: false })
    }
}

/// Passes the extended field if it is there. Payload may be shorter than the field and nothing
/// may follow it, so bytes that differ decide before four are there.
fn pass_repeated(reader: &mut Reader<'_>, values: [u32; 2]) -> Result<(), Incomplete> {
    let head = &reader.rest()[..reader.rest().len().min(4)];
    if values.iter().any(|value| value.to_be_bytes().starts_with(head)) {
        reader.take(4)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(value: u32) -> Time {
        Time { value, extended: false }
    }

    fn extended(value: u32) -> Time {
        Time { value, extended: true }
    }

    fn table() -> Vec<(&'static [u8], u32, Fields)> {
        vec![
            (
                &[0x04, 0, 0, 1, 0, 0, 9, 8, 1, 0, 0, 0],
                4,
                Fields::Full { time: plain(1), message_len: 9, kind: 8, stream_id: 1 },
            ),
            (
                &[0x00, 6, 0xff, 0xff, 0xff, 0, 0, 9, 9, 0, 1, 0, 0, 1, 2, 3, 4],
                70,
                Fields::Full {
                    time: extended(0x0102_0304),
                    message_len: 9,
                    kind: 9,
                    stream_id: 256,
                },
            ),
            (
                &[0x41, 1, 1, 0, 0, 40, 0, 0, 9, 9],
                64 + 257,
                Fields::SameStream { delta: plain(40), message_len: 9, kind: 9 },
            ),
            (&[0x84, 0, 0, 40], 4, Fields::SameLength { delta: plain(40) }),
            (
                &[0x84, 0xff, 0xff, 0xff, 1, 0, 0, 0],
                4,
                Fields::SameLength { delta: extended(0x0100_0000) },
            ),
            (&[0xc4], 4, Fields::None),
            (&[0xc0, 255], 319, Fields::None),
            (&[0xc1, 0xff, 0xff], 65_599, Fields::None),
        ]
    }

    #[test]
    fn table_decodes_and_every_cut_is_incomplete() {
        for (bytes, csid, fields) in table() {
            let header = ChunkHeader { csid, fields, len: bytes.len() };
            assert!(bytes.len() <= CHUNK_HEADER_LEN_MAX);
            assert_eq!(ChunkHeader::decode(bytes, |_| None), Ok(header));
            for len in 0..bytes.len() {
                assert_eq!(ChunkHeader::decode(&bytes[..len], |_| None), Err(Incomplete));
            }
        }
    }

    #[test]
    fn repeated_extended_timestamp_is_told_from_payload() {
        let before = |csid| (csid == 4).then_some([0x0102_0304, 0x0a0b_0c0d]);
        let len = |bytes| ChunkHeader::decode(bytes, before).map(|header| header.len);
        assert_eq!(len(&[0xc4, 1, 2, 3, 4, 9]), Ok(5));
        assert_eq!(len(&[0xc4, 10, 11, 12, 13, 9]), Ok(5));
        assert_eq!(len(&[0xc4, 1, 2, 3, 5, 9]), Ok(1));
        assert_eq!(len(&[0xc4, 9]), Ok(1));
        assert_eq!(len(&[0xc4, 1, 2]), Err(Incomplete));
        assert_eq!(len(&[0xc5, 1, 2]), Ok(1));
    }
}
