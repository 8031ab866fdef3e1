//! Bytes in pieces: views of what was received, and a few bytes of our own between them.
//!
//! A coded frame arrives in packets and leaves in others. Its bytes are referred to, never joined;
//! length prefixes and packet headers are held in the pieces themselves.

use bytes::Bytes;

/// Bytes in pieces. Cloning copies no payload.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    pieces: Vec<Piece>,
    len: usize,
}

#[derive(Debug, Clone)]
enum Piece {
    Inline { bytes: [u8; INLINE_LEN_MAX], len: u8 },
    View(Bytes),
}

/// Where a piece lies in its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceIndex(usize);

/// Reads a payload from its start, over the bounds of its pieces.
#[derive(Debug, Clone)]
pub struct PayloadReader<'a> {
    pieces: &'a [Piece],
    /// Bytes of the first piece that are read.
    offset: usize,
    left: usize,
}

/// Bytes that a piece can hold itself: an interleaved RTP header with a fragment's is 19.
pub const INLINE_LEN_MAX: usize = 24;

impl Payload {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a view; an empty one is left out.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.pieces.push(Piece::View(bytes));
        }
    }

    /// Appends a copy of [`INLINE_LEN_MAX`] bytes at most, without allocation for them.
    pub fn push_inline(&mut self, bytes: &[u8]) -> PieceIndex {
        let index = PieceIndex(self.pieces.len());
        self.len += bytes.len();
        self.pieces.push(Piece::inline(bytes));
        index
    }

    /// Puts other bytes in the place of an inline piece.
    pub fn replace_inline(&mut self, index: PieceIndex, bytes: &[u8]) {
        let piece = &mut self.pieces[index.0];
        self.len = self.len + bytes.len() - piece.as_slice().len();
        *piece = Piece::inline(bytes);
    }

    /// Appends all of another payload.
    pub fn append(&mut self, mut other: Self) {
        self.len += other.len;
        self.pieces.append(&mut other.pieces);
    }

    /// Takes the piece and all behind it off.
    pub fn split_off(&mut self, index: PieceIndex) -> Self {
        let pieces = self.pieces.split_off(index.0);
        let len = pieces.iter().map(|piece| piece.as_slice().len()).sum();
        self.len -= len;
        Self { pieces, len }
    }

    /// Bytes of all pieces.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn piece_count(&self) -> usize {
        self.pieces.len()
    }

    /// The bytes, piece by piece; no slice is empty.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(Piece::as_slice).filter(|slice| !slice.is_empty())
    }

    /// The bytes as views, piece by piece; none is empty. Small pieces of our own are copied.
    pub fn into_views(self) -> impl Iterator<Item = Bytes> {
        let views = self.pieces.into_iter().map(|piece| match piece {
            Piece::View(bytes) => bytes,
            Piece::Inline { .. } => Bytes::copy_from_slice(piece.as_slice()),
        });
        views.filter(|bytes| !bytes.is_empty())
    }

    /// All bytes in one: a copy.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len);
        self.slices().for_each(|slice| bytes.extend_from_slice(slice));
        bytes
    }

    pub fn reader(&self) -> PayloadReader<'_> {
        PayloadReader { pieces: &self.pieces, offset: 0, left: self.len }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        let mut payload = Self::new();
        payload.push(bytes);
        payload
    }
}

impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(views: I) -> Self {
        let mut payload = Self::new();
        views.into_iter().for_each(|view| payload.push(view));
        payload
    }
}

/// Equal where the bytes are, however they are cut.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.slices().flatten().eq(other.slices().flatten())
    }
}

impl Eq for Payload {}

impl Piece {
    fn inline(bytes: &[u8]) -> Self {
        let mut inline = [0; INLINE_LEN_MAX];
        inline[..bytes.len()].copy_from_slice(bytes);
        Self::Inline { bytes: inline, len: bytes.len() as u8 }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline { bytes, len } => &bytes[..usize::from(*len)],
            Self::View(bytes) => bytes,
        }
    }

    /// A part of the piece, appended to a payload.
    fn append_to(&self, start: usize, end: usize, payload: &mut Payload) {
        match self {
            Self::Inline { bytes, .. } => {
                payload.push_inline(&bytes[start..end]);
            }
            Self::View(bytes) => payload.push(bytes.slice(start..end)),
        }
    }
}

impl PayloadReader<'_> {
    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next byte, which stays unread.
    pub fn peek(&self) -> Option<u8> {
        let mut slices = self.pieces.iter().map(Piece::as_slice);
        let first = slices.next()?;
        let rest = first.get(self.offset).or_else(|| slices.find_map(|slice| slice.first()));
        rest.copied()
    }

    /// The next bytes as a value; `None`, and nothing is read, when fewer are left.
    pub fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        if self.left < LEN {
            return None;
        }
        let mut array = [0; LEN];
        let mut filled = 0;
        self.advance(LEN, |slice| {
            array[filled..filled + slice.len()].copy_from_slice(slice);
            filled += slice.len();
        });
        Some(array)
    }

    /// Passes the next `len` bytes; `None`, and nothing is read, when fewer are left.
    pub fn skip(&mut self, len: usize) -> Option<()> {
        (len <= self.left).then(|| self.advance(len, |_| {}))
    }

    /// The next `len` bytes in pieces; `None`, and nothing is read, when fewer are left.
    pub fn take(&mut self, len: usize) -> Option<Payload> {
        let mut taken = Payload::new();
        self.take_into(len, &mut taken)?;
        Some(taken)
    }

    /// Appends the next `len` bytes to a payload; `None`, and nothing is read, when fewer are left.
    pub fn take_into(&mut self, len: usize, payload: &mut Payload) -> Option<()> {
        if self.left < len {
            return None;
        }
        self.left -= len;
        let mut wanted = len;
        while wanted > 0 {
            let (piece, rest) = self.pieces.split_first().expect("the pieces hold what is left");
            let end = piece.as_slice().len().min(self.offset + wanted);
            if end > self.offset {
                piece.append_to(self.offset, end, payload);
            }
            wanted -= end - self.offset;
            self.offset = end;
            if end == piece.as_slice().len() {
                (self.pieces, self.offset) = (rest, 0);
            }
        }
        Some(())
    }

    fn advance(&mut self, len: usize, mut visit: impl FnMut(&[u8])) {
        self.left -= len;
        let mut wanted = len;
        while wanted > 0 {
            let (piece, rest) = self.pieces.split_first().expect("the pieces hold what is left");
            let slice = piece.as_slice();
            let end = slice.len().min(self.offset + wanted);
            visit(&slice[self.offset..end]);
            wanted -= end - self.offset;
            self.offset = end;
            if end == slice.len() {
                (self.pieces, self.offset) = (rest, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text cut before each of these places.
    fn cut(text: &'static [u8], places: &[usize]) -> Payload {
        let mut payload = Payload::new();
        let mut start = 0;
        for &place in places.iter().chain([&text.len()]) {
            if place % 2 == 0 {
                payload.push(Bytes::from_static(&text[start..place]));
            } else {
                payload.push_inline(&text[start..place]);
            }
            start = place;
        }
        payload
    }

    #[test]
    fn bytes_are_read_over_every_cut() {
        const TEXT: &[u8] = b"abcdefghij";
        for first in 0..=TEXT.len() {
            for second in first..=TEXT.len() {
                let payload = cut(TEXT, &[first, second]);
                assert_eq!((payload.len(), payload.to_vec()), (10, TEXT.to_vec()));
                assert_eq!(payload, Payload::from(Bytes::from_static(TEXT)));
                let mut reader = payload.reader();
                assert_eq!(reader.peek(), Some(b'a'));
                assert_eq!(reader.array(), Some(*b"abc"));
                assert_eq!(reader.peek(), Some(b'd'));
                assert_eq!(reader.take(4).unwrap().to_vec(), b"defg");
                assert_eq!((reader.array::<4>(), reader.take(4)), (None, None));
                assert_eq!((reader.skip(4), reader.left()), (None, 3));
                assert_eq!(reader.skip(2), Some(()));
                assert_eq!(reader.array(), Some(*b"j"));
                assert_eq!((reader.peek(), reader.left()), (None, 0));
            }
        }
    }

    #[test]
    fn pieces_can_be_replaced_and_taken_off() {
        let mut payload = Payload::from(Bytes::from_static(b"ab"));
        let index = payload.push_inline(b"\0\0\0\0");
        payload.push(Bytes::from_static(b"cd"));
        payload.replace_inline(index, b"xyz");
        assert_eq!((payload.len(), payload.to_vec()), (7, b"abxyzcd".to_vec()));
        let rest = payload.split_off(index);
        assert_eq!((rest.to_vec(), payload.to_vec()), (b"xyzcd".to_vec(), b"ab".to_vec()));
        assert_eq!((rest.len(), payload.len()), (5, 2));
        payload.append(rest);
        let views: Vec<Bytes> = payload.into_views().collect();
        assert_eq!(views, [&b"ab"[..], b"xyz", b"cd"]);
    }

    #[test]
    fn views_are_not_copied() {
        let bytes = Bytes::from_static(b"abcdef");
        let payload = Payload::from_iter([bytes.slice(..3), Bytes::new(), bytes.slice(3..)]);
        assert_eq!(payload.piece_count(), 2);
        let mut reader = payload.reader();
        reader.skip(1);
        let taken = reader.take(4).unwrap();
        let addresses: Vec<_> = taken.slices().map(<[u8]>::as_ptr).collect();
        assert_eq!(addresses, [bytes[1..].as_ptr(), bytes[3..].as_ptr()]);
    }
}
