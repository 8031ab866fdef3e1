//! A bounded cursor over bytes in hand. Reading past the end is [`Incomplete`], never a panic.
//!
//! Big endian, as everything in RTMP, FLV and AMF is; the one little-endian field (the message
//! stream id, RTMP 1.0, 5.3.1.2.1) has its own method.

/// A cursor over a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// The bytes in hand end before the value does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("input ends within a value")]
pub struct Incomplete;

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// # Errors
    /// [`Incomplete`] when fewer than `len` bytes are left; nothing is read then.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Incomplete> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Incomplete)?;
        self.rest = rest;
        Ok(head)
    }

    /// # Errors
    /// As [`Self::take`], and so for the rest.
    pub fn u8(&mut self) -> Result<u8, Incomplete> {
        self.array().map(|[byte]| byte)
    }

    /// # Errors
    /// As [`Self::take`].
    pub fn u16(&mut self) -> Result<u16, Incomplete> {
        self.array().map(u16::from_be_bytes)
    }

    /// # Errors
    /// As [`Self::take`].
    pub fn u24(&mut self) -> Result<u32, Incomplete> {
        self.array().map(|[a, b, c]| u32::from_be_bytes([0, a, b, c]))
    }

    /// # Errors
    /// As [`Self::take`].
    pub fn u32(&mut self) -> Result<u32, Incomplete> {
        self.array().map(u32::from_be_bytes)
    }

    /// # Errors
    /// As [`Self::take`].
    pub fn u32_le(&mut self) -> Result<u32, Incomplete> {
        self.array().map(u32::from_le_bytes)
    }

    /// # Errors
    /// As [`Self::take`].
    pub fn f64(&mut self) -> Result<f64, Incomplete> {
        self.array().map(f64::from_be_bytes)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], Incomplete> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Incomplete)?;
        self.rest = rest;
        Ok(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_in_network_order() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 0, 0, 0, 0x40, 8, 0, 0, 0, 0, 0, 0, 9, 9];
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(0x0203));
        assert_eq!(reader.u24(), Ok(0x0004_0506));
        assert_eq!(reader.u32(), Ok(0x0708_090a));
        assert_eq!(reader.u32_le(), Ok(1));
        assert_eq!(reader.f64(), Ok(3.0));
        assert_eq!(reader.rest(), [9, 9]);
        assert_eq!(reader.take(2), Ok(&[9, 9][..]));
        assert!(reader.is_empty());
    }

    #[test]
    fn short_input_is_incomplete_and_nothing_is_read() {
        let mut reader = Reader::new(&[1, 2]);
        assert_eq!(reader.u24(), Err(Incomplete));
        assert_eq!(reader.u32(), Err(Incomplete));
        assert_eq!(reader.f64(), Err(Incomplete));
        assert_eq!(reader.take(3), Err(Incomplete));
        assert_eq!(reader.u16(), Ok(0x0102));
        assert_eq!(reader.u8(), Err(Incomplete));
    }
}
