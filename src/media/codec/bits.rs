//! A bit reader with Exp-Golomb codes (ITU-T H.264, 9.1), and the removal of emulation prevention
//! bytes (7.4.1). `None` is the end of the bits, or a code too long to be one.

#[derive(Debug, Clone)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Bits read so far.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// The next `count` bytes, wherever in a byte they begin: a copy.
    pub(crate) fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let start = self.position;
        self.skip(count.checked_mul(8)?)?;
        let shift = start % 8;
        let covered = &self.bytes[start / 8..(start + count * 8).div_ceil(8)];
        if shift == 0 {
            return Some(covered.to_vec());
        }
        let pairs = covered.windows(2);
        Some(pairs.map(|pair| pair[0] << shift | pair[1] >> (8 - shift)).collect())
    }

    pub(crate) fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.position / 8)?;
        let bit = byte >> (7 - self.position % 8) & 1;
        self.position += 1;
        Some(bit == 1)
    }

    /// The next `count` bits, 32 at most.
    pub(crate) fn bits(&mut self, count: u32) -> Option<u32> {
        debug_assert!(count <= 32, "more bits than the result holds");
        (0..count).try_fold(0, |value, _| Some(value << 1 | u32::from(self.bit()?)))
    }

    pub(crate) fn skip(&mut self, count: usize) -> Option<()> {
        let position = self.position.checked_add(count)?;
        if position > self.bytes.len() * 8 {
            return None;
        }
        self.position = position;
        Some(())
    }

    /// `ue(v)`
    pub(crate) fn unsigned(&mut self) -> Option<u32> {
        let mut zero_count = 0;
        while !self.bit()? {
            zero_count += 1;
            if zero_count > 31 {
                return None;
            }
        }
        Some((1 << zero_count) - 1 + self.bits(zero_count)?)
    }

    /// `se(v)`
    pub(crate) fn signed(&mut self) -> Option<i32> {
        let code = self.unsigned()?;
        let magnitude = code.div_ceil(2).cast_signed();
        Some(if code % 2 == 1 { magnitude } else { -magnitude })
    }
}

/// The payload of a NAL unit without its emulation prevention bytes.
pub(crate) fn unescape(nal: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(nal.len());
    let mut zero_count = 0;
    for &byte in nal {
        if zero_count >= 2 && byte == 3 {
            zero_count = 0;
            continue;
        }
        zero_count = if byte == 0 { zero_count + 1 } else { 0 };
        payload.push(byte);
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read() {
        // 1 010 011 00100 00101 1, then zeros to the end.
        let mut reader = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1100_0000]);
        let codes: Vec<_> = std::iter::from_fn(|| reader.unsigned()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 0]);
        let mut reader = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1100_0000]);
        let codes: Vec<_> = std::iter::from_fn(|| reader.signed()).collect();
        assert_eq!(codes, [0, 1, -1, 2, -2, 0]);
    }

    #[test]
    fn longest_code_is_read_and_a_longer_one_refused() {
        let mut reader = BitReader::new(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(reader.unsigned(), Some(u32::MAX - 1));
        assert_eq!(BitReader::new(&[0; 8]).unsigned(), None);
        assert_eq!(BitReader::new(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff]).unsigned(), None);
        let mut reader = BitReader::new(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(reader.signed(), Some(i32::MIN + 1));
    }

    #[test]
    fn reading_past_the_end_is_none() {
        let mut reader = BitReader::new(&[0xff]);
        assert_eq!(reader.bits(7), Some(0x7f));
        assert_eq!(reader.clone().bits(2), None);
        assert_eq!(reader.skip(2), None);
        assert_eq!(reader.skip(1), Some(()));
        assert_eq!(reader.bit(), None);
    }

    #[test]
    fn bytes_are_read_from_any_bit() {
        let bytes = [0b1010_1010, 0b1100_1100, 0b1111_0000];
        let mut reader = BitReader::new(&bytes);
        assert_eq!(reader.clone().bytes(3).unwrap(), bytes);
        assert_eq!(reader.clone().bytes(4), None);
        reader.bit();
        assert_eq!(reader.clone().bytes(3), None);
        assert_eq!(reader.bytes(2).unwrap(), [0b0101_0101, 0b1001_1001]);
        assert_eq!((reader.position(), reader.bytes(0)), (17, Some(vec![])));
    }

    #[test]
    fn emulation_prevention_is_removed() {
        assert_eq!(unescape(&[1, 0, 0, 3, 1, 0, 0, 3, 0, 0, 3]), [1, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(unescape(&[0, 3, 0, 0, 0, 3]), [0, 3, 0, 0, 0]);
    }
}
