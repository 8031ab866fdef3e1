//! Where media bytes lie: reference-counted chunks, each byte written once.
//!
//! A stream's bytes have positions that only grow; chunk `n` holds the positions from
//! `n * CHUNK_LEN` on. One [`Tape`] appends; any number of readers, on any shard, hold the same
//! chunks and read only below what was committed before the chunk, or the span in it, was given to
//! them. So reader and writer never touch the same byte at the same time.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of a chunk. A stream holds up to two partly used ones, and a span of n bytes is
/// `n / CHUNK_LEN + 1` slices: 32 KiB keeps both small.
pub const CHUNK_LEN: usize = 32 * 1024;

/// A piece of memory whose bytes are written once, by the tape that made it.
pub struct Chunk {
    memory: NonNull<u8>,
}

// SAFETY: a chunk is plain memory. The tape that made it is its only writer and writes only bytes
// at or above its committed position; everybody else reads only below a committed position that
// reached them through a channel, which orders the writes before the reads.
unsafe impl Send for Chunk {}
// SAFETY: as for Send.
unsafe impl Sync for Chunk {}

impl Chunk {
    const LAYOUT: Layout = match Layout::from_size_align(CHUNK_LEN, 64) {
        Ok(layout) => layout,
        Err(_) => unreachable!(),
    };

    fn new() -> Arc<Self> {
        // SAFETY: the layout has a size that is not zero.
        let memory = unsafe { alloc(Self::LAYOUT) };
        let memory = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(Self::LAYOUT));
        Arc::new(Self { memory })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, and freed only here.
        unsafe { dealloc(self.memory.as_ptr(), Self::LAYOUT) }
    }
}

/// A run of chunks: the bytes of a stream between two positions.
#[derive(Default)]
pub struct Tape {
    chunks: VecDeque<Arc<Chunk>>,
    /// Number of the first chunk held.
    chunk_first: u64,
    /// Everything below is written and will not change.
    committed: u64,
    /// Where the next byte goes; between it and `committed` lies what may still be taken back.
    tail: u64,
}

impl Tape {
    /// Appends bytes behind the tail; they can't be read before [`Self::commit`].
    pub fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let taken = room.min(bytes.len());
            self.write_at(self.tail, &bytes[..taken]);
            self.tail += taken as u64;
            bytes = &bytes[taken..];
        }
    }

    /// Leaves room, filled with zeros, for bytes that are written later with [`Self::patch`].
    pub fn reserve(&mut self, len: usize) {
        const ZEROS: [u8; 64] = [0; 64];
        for start in (0..len).step_by(ZEROS.len()) {
            self.append(&ZEROS[..ZEROS.len().min(len - start)]);
        }
    }

    /// Writes over bytes that are appended or reserved but not committed.
    ///
    /// # Panics
    /// When the range is not between the committed position and the tail.
    pub fn patch(&mut self, mut position: u64, mut bytes: &[u8]) {
        assert!(position >= self.committed && position + bytes.len() as u64 <= self.tail);
        while !bytes.is_empty() {
            let room = CHUNK_LEN - offset_in_chunk(position);
            let taken = room.min(bytes.len());
            self.write_at(position, &bytes[..taken]);
            position += taken as u64;
            bytes = &bytes[taken..];
        }
    }

    /// Makes everything up to the tail readable, for good.
    pub fn commit(&mut self) {
        self.committed = self.tail;
    }

    /// Takes back what is not committed.
    pub fn roll_back(&mut self) {
        self.tail = self.committed;
    }

    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// The position up to which bytes can be read.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Drops the chunks that lie wholly below a position.
    pub fn trim(&mut self, position: u64) {
        let keep_from = position.min(self.committed) / CHUNK_LEN as u64;
        while self.chunk_first < keep_from && !self.chunks.is_empty() {
            self.chunks.pop_front();
            self.chunk_first += 1;
        }
        if self.chunks.is_empty() {
            self.chunk_first = self.chunk_first.max(keep_from);
        }
    }

    /// Bytes of memory held.
    pub fn held_bytes(&self) -> u64 {
        (self.chunks.len() * CHUNK_LEN) as u64
    }

    /// The committed bytes of a range, a slice for each chunk that it lies in.
    ///
    /// # Panics
    /// When the range is not committed or no longer held.
    pub fn slices(&self, range: Range<u64>) -> impl Iterator<Item = IoSlice<'_>> {
        assert!(range.end <= self.committed, "read beyond the committed bytes");
        assert!(
            range.is_empty() || range.start / CHUNK_LEN as u64 >= self.chunk_first,
            "read below the held bytes"
        );
        let mut position = range.start;
        std::iter::from_fn(move || {
            if position >= range.end {
                return None;
            }
            let offset = offset_in_chunk(position);
            let len = (CHUNK_LEN - offset).min((range.end - position) as usize);
            let chunk = self.chunk_at(position);
            position += len as u64;
            // SAFETY: the bytes lie in the chunk and below `committed`, so they are initialized
            // and nobody writes them again; the chunk lives as long as `self` is borrowed.
            Some(IoSlice::new(unsafe {
                std::slice::from_raw_parts(chunk.memory.as_ptr().add(offset), len)
            }))
        })
    }

    /// The chunks that a reader needs for the positions from `position` to the committed one, and
    /// the number of the first of them.
    pub fn share(&self, position: u64) -> (u64, Vec<Arc<Chunk>>) {
        self.share_range(position..self.committed)
    }

    /// As [`Self::share`], for a range of committed positions.
    pub fn share_range(&self, range: Range<u64>) -> (u64, Vec<Arc<Chunk>>) {
        let first = range.start / CHUNK_LEN as u64;
        if range.is_empty() {
            return (first, Vec::new());
        }
        let last = (range.end - 1) / CHUNK_LEN as u64;
        let from = (first - self.chunk_first) as usize;
        let to = (last - self.chunk_first) as usize;
        (first, self.chunks.range(from..=to).cloned().collect())
    }

    /// Takes over chunks of another shard's tape, up to its committed position. Chunks that this
    /// one holds already are passed over.
    ///
    /// # Panics
    /// When they leave a gap behind what is held.
    pub fn adopt(&mut self, first: u64, chunks: Vec<Arc<Chunk>>, committed: u64) {
        if self.chunks.is_empty() {
            self.chunk_first = first;
        }
        for (number, chunk) in (first..).zip(chunks) {
            let next = self.chunk_first + self.chunks.len() as u64;
            if number >= next {
                assert_eq!(number, next, "a gap between chunks");
                self.chunks.push_back(chunk);
            }
        }
        self.committed = committed;
        self.tail = committed;
    }

    fn room(&mut self) -> usize {
        let number = self.tail / CHUNK_LEN as u64;
        if self.chunks.is_empty() {
            self.chunk_first = number;
        }
        if number >= self.chunk_first + self.chunks.len() as u64 {
            self.chunks.push_back(Chunk::new());
        }
        CHUNK_LEN - offset_in_chunk(self.tail)
    }

    fn write_at(&mut self, position: u64, bytes: &[u8]) {
        debug_assert!(position >= self.committed);
        let offset = offset_in_chunk(position);
        debug_assert!(offset + bytes.len() <= CHUNK_LEN);
        let chunk = self.chunk_at(position);
        // SAFETY: the target lies in one chunk (callers split at its end) and at or above
        // `committed`, where no reader looks; `bytes` is another allocation.
        unsafe {
            let target = chunk.memory.as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        }
    }

    fn chunk_at(&self, position: u64) -> &Chunk {
        let index = position / CHUNK_LEN as u64 - self.chunk_first;
        &self.chunks[index as usize]
    }
}

fn offset_in_chunk(position: u64) -> usize {
    (position % CHUNK_LEN as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tape: &Tape, range: Range<u64>) -> Vec<u8> {
        tape.slices(range).flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn bytes_come_back_over_chunk_borders() {
        let mut tape = Tape::default();
        let bytes: Vec<u8> = (0..3 * CHUNK_LEN + 100).map(|i| i as u8).collect();
        for piece in bytes.chunks(777) {
            tape.append(piece);
        }
        tape.commit();
        assert_eq!(read(&tape, 0..bytes.len() as u64), bytes);
        let cut = CHUNK_LEN as u64 - 3..CHUNK_LEN as u64 + 3;
        assert_eq!(read(&tape, cut.clone()), bytes[cut.start as usize..cut.end as usize]);
    }

    #[test]
    fn reserved_room_is_patched_over_a_border() {
        let mut tape = Tape::default();
        tape.append(&vec![1; CHUNK_LEN - 2]);
        tape.commit();
        let position = tape.tail();
        tape.reserve(5);
        tape.append(&[9]);
        tape.patch(position, &[2, 3, 4, 5, 6]);
        tape.commit();
        assert_eq!(read(&tape, position..position + 6), [2, 3, 4, 5, 6, 9]);
    }

    #[test]
    fn roll_back_forgets_what_was_not_committed() {
        let mut tape = Tape::default();
        tape.append(b"kept");
        tape.commit();
        tape.append(&vec![0; 2 * CHUNK_LEN]);
        tape.roll_back();
        tape.append(b"next");
        tape.commit();
        assert_eq!(read(&tape, 0..8), b"keptnext");
    }

    #[test]
    fn trimmed_chunks_are_given_back_and_the_rest_stays() {
        let mut tape = Tape::default();
        tape.append(&vec![7; 3 * CHUNK_LEN]);
        tape.commit();
        tape.trim(2 * CHUNK_LEN as u64 + 5);
        assert_eq!(tape.held_bytes(), CHUNK_LEN as u64);
        assert_eq!(read(&tape, 2 * CHUNK_LEN as u64..3 * CHUNK_LEN as u64), vec![7; CHUNK_LEN]);
        tape.trim(u64::MAX);
        assert_eq!(tape.held_bytes(), 0);
        tape.append(b"on");
        tape.commit();
        assert_eq!(read(&tape, 3 * CHUNK_LEN as u64..3 * CHUNK_LEN as u64 + 2), b"on");
    }

    #[test]
    fn another_shard_reads_while_the_owner_writes_on() {
        let mut owner = Tape::default();
        owner.append(&vec![1; CHUNK_LEN + 10]);
        owner.commit();
        let (first, chunks) = owner.share(5);
        let committed = owner.committed();
        let reader = std::thread::spawn(move || {
            let mut replica = Tape::default();
            replica.adopt(first, chunks, committed);
            read(&replica, 5..committed).iter().map(|&byte| u64::from(byte)).sum::<u64>()
        });
        owner.append(&vec![2; CHUNK_LEN]);
        owner.commit();
        assert_eq!(reader.join().unwrap(), (CHUNK_LEN + 5) as u64);
    }

    #[test]
    #[should_panic(expected = "read beyond the committed bytes")]
    fn uncommitted_bytes_cannot_be_read() {
        let mut tape = Tape::default();
        tape.append(b"draft");
        let _ = tape.slices(0..1).count();
    }
}
