//! Where media bytes lie: reference-counted chunks, each byte written once.
//!
//! A stream's bytes have positions that only grow; chunk `n` holds the positions from
//! `n * CHUNK_LEN` on. One [`Tape`] writes; any number of readers, on any shard, hold the same
//! chunks and read only below what was committed before the chunk, or the span in it, was given to
//! them. So reader and writer never touch the same byte at the same time.
//!
//! What is written has a range of positions reserved for it, so that several things can come in at
//! once, each to its own place:
//!
//! ```text
//!                committed            open[0]                  open[1]
//! ───────────────────┐      ┌────────────────────────┬─────────────────────┐
//!  whole, for good   │ hole │ written ──►            │ written ──►         │ next reservation
//! ───────────────────┘      └────────────────────────┴─────────────────────┘
//! ```
//!
//! They are committed in order. A range that is given back while one behind it is open leaves a
//! hole: positions that nothing refers to. Chunks come with the bytes, so a hole has none of its own.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;

use crate::limits::SPARE_CHUNKS_MAX;
use crate::ring::{prefetch, prefetch_at};

/// Bytes of a chunk. A stream holds up to two partly used ones, and a span of n bytes is
/// `n / CHUNK_LEN + 1` slices: 32 KiB keeps both small.
pub const CHUNK_LEN: usize = 32 * 1024;

/// A piece of memory whose bytes are written once, by the tape that made it.
pub struct Chunk {
    memory: ManuallyDrop<Memory>,
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
        let spare = SPARE.with_borrow_mut(Vec::pop);
        Arc::new(Self { memory: ManuallyDrop::new(spare.unwrap_or_else(Memory::new)) })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: nobody uses it after this, here or elsewhere.
        let memory = unsafe { ManuallyDrop::take(&mut self.memory) };
        // A thread that ends has no spares any more; the memory is then freed.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_CHUNKS_MAX {
                spare.push(memory);
            }
        });
    }
}

/// The memory of a chunk.
struct Memory(NonNull<u8>);

impl Memory {
    fn new() -> Self {
        // SAFETY: the layout has a size that is not zero.
        let memory = unsafe { alloc(Chunk::LAYOUT) };
        Self(NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(Chunk::LAYOUT)))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, and freed only here.
        unsafe { dealloc(self.0.as_ptr(), Chunk::LAYOUT) }
    }
}

/// Committed bytes of a chunk.
struct View {
    chunk: Arc<Chunk>,
    offset: usize,
    len: usize,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: made of a slice that `Tape::slices` found in the chunk, whose bytes are committed:
        // nobody writes them again, and the chunk lives as long as this.
        unsafe {
            std::slice::from_raw_parts(self.chunk.memory.0.as_ptr().add(self.offset), self.len)
        }
    }
}

thread_local! {
    /// What this thread's chunks leave for its next ones. Freed, they would be split for small
    /// allocations that outlive them: 400 streams held 110 KB each and took 350.
    static SPARE: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
}

/// A run of chunks: the bytes of a stream between two positions.
#[derive(Default)]
pub struct Tape {
    /// `None` where all of a chunk is a hole, or reserved and not written.
    chunks: VecDeque<Option<Arc<Chunk>>>,
    /// Number of the first chunk held.
    chunk_first: u64,
    /// Everything below is written, or a hole, and will not change.
    committed: u64,
    /// The ranges that are being written, in order and at or above `committed`.
    open: VecDeque<Reserved>,
    /// Chunks that are there.
    held: usize,
}

/// Places of `open` that are used in turn, where no more than one range is open at a time.
const OPEN_USUAL: usize = 4;

/// A range of positions and how far it is written.
struct Reserved {
    start: u64,
    written: u64,
    end: u64,
}

impl Tape {
    /// Sets a range aside for bytes to come, behind those that are open; returns where it begins.
    /// It is known by its index, the number of open ranges before it. Takes no memory for the bytes.
    pub fn reserve(&mut self, len: u64) -> u64 {
        let start = self.reserved_end();
        self.open.push_back(Reserved { start, written: start, end: start + len });
        start
    }

    /// Writes the next bytes of an open range; they can't be read before [`Self::commit_first`].
    ///
    /// # Panics
    /// When the range has less room.
    pub fn append(&mut self, index: usize, mut bytes: &[u8]) {
        let range = &mut self.open[index];
        assert!(bytes.len() as u64 <= range.end - range.written, "more than was reserved");
        let mut position = range.written;
        range.written += bytes.len() as u64;
        while !bytes.is_empty() {
            let taken = self.room(position).min(bytes.len());
            self.write_at(position, &bytes[..taken]);
            position += taken as u64;
            bytes = &bytes[taken..];
        }
    }

    /// Writes over the first bytes of an open range.
    ///
    /// # Panics
    /// When they are not written yet.
    pub fn patch(&mut self, index: usize, mut bytes: &[u8]) {
        let range = &self.open[index];
        assert!(range.start + bytes.len() as u64 <= range.written, "nothing to write over");
        let mut position = range.start;
        while !bytes.is_empty() {
            let taken = (CHUNK_LEN - offset_in_chunk(position)).min(bytes.len());
            self.write_at(position, &bytes[..taken]);
            position += taken as u64;
            bytes = &bytes[taken..];
        }
    }

    /// Makes the first open range readable, for good.
    ///
    /// # Panics
    /// When it is not written to its end.
    pub fn commit_first(&mut self) {
        let range = self.open.pop_front().expect("a range is open");
        assert_eq!(range.written, range.end, "a range is committed when it is whole");
        self.close_hole(range.start);
        self.committed = range.end;
    }

    /// Forgets an open range. Those behind it keep their places.
    pub fn give_back(&mut self, index: usize) {
        self.open.remove(index).expect("an open range");
    }

    /// Forgets all that is not committed.
    pub fn give_back_all(&mut self) {
        self.open.clear();
    }

    /// Positions from the committed one to the end of the last open range.
    pub fn reserved_len(&self) -> u64 {
        self.reserved_end() - self.committed
    }

    /// The position up to which bytes can be read.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Drops the chunks that lie wholly below a position.
    pub fn trim(&mut self, position: u64) {
        let keep_from = position.min(self.committed) / CHUNK_LEN as u64;
        while self.chunk_first < keep_from
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.held -= usize::from(chunk.is_some());
            self.chunk_first += 1;
        }
        if self.chunks.is_empty() {
            self.chunk_first = self.chunk_first.max(keep_from);
        }
    }

    /// Has the CPU fetch what the next `len` bytes need, `depth` pointers from here.
    pub(super) fn prefetch(&self, depth: u32, len: usize) {
        let Some(last) = self.chunks.back() else { return };
        match (depth, last) {
            (1, _) => {
                prefetch(last);
                let open = self.open.as_slices().0.as_ptr();
                prefetch_at(open.cast(), OPEN_USUAL * size_of::<Reserved>());
            }
            (2, Some(chunk)) => prefetch(&**chunk),
            (3, Some(chunk)) => {
                let offset = offset_in_chunk(self.committed);
                let start = chunk.memory.0.as_ptr().wrapping_add(offset);
                prefetch_at(start, len.min(CHUNK_LEN - offset));
            }
            _ => {}
        }
    }

    /// Bytes of memory held.
    pub fn held_bytes(&self) -> u64 {
        (self.held * CHUNK_LEN) as u64
    }

    /// The committed bytes of a range, a slice for each chunk that it lies in.
    ///
    /// # Panics
    /// When the range is not committed or no longer held, or a hole.
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
            let chunk = self.chunk_at(position).expect("nobody reads a hole");
            position += len as u64;
            // SAFETY: the bytes lie in the chunk and below `committed`. There every byte of a
            // chunk is initialized: by `append`, which fills a range before it is committed, or by
            // `close_hole`, before the range behind the hole is. Nobody writes them again, and the
            // chunk lives as long as `self` is borrowed.
            Some(IoSlice::new(unsafe {
                std::slice::from_raw_parts(chunk.memory.0.as_ptr().add(offset), len)
            }))
        })
    }

    /// The committed bytes of a range, a view for each chunk that it lies in, which keeps the chunk.
    ///
    /// # Panics
    /// As [`Self::slices`].
    pub fn views(&self, range: Range<u64>) -> impl Iterator<Item = Bytes> {
        let mut position = range.start;
        self.slices(range).map(move |slice| {
            let index = (position / CHUNK_LEN as u64 - self.chunk_first) as usize;
            let chunk = self.chunks[index].clone().expect("just read");
            let (offset, len) = (offset_in_chunk(position), slice.len());
            position += len as u64;
            Bytes::from_owner(View { chunk, offset, len })
        })
    }

    /// As [`Self::views`] in one piece: a copy where the range lies in more than one chunk.
    pub fn bytes(&self, range: Range<u64>) -> Bytes {
        let is_whole =
            offset_in_chunk(range.start) + (range.end - range.start) as usize <= CHUNK_LEN;
        if is_whole {
            return self.views(range).next().unwrap_or_default();
        }
        self.slices(range)
            .fold(Vec::new(), |mut bytes, slice| {
                bytes.extend_from_slice(&slice);
                bytes
            })
            .into()
    }

    /// The chunks that a reader needs for the positions from `position` to the committed one, and
    /// the number of the first of them.
    pub fn share(&self, position: u64) -> (u64, Vec<Option<Arc<Chunk>>>) {
        self.share_range(position..self.committed)
    }

    /// As [`Self::share`], for a range of committed positions. Its last byte must be written: a
    /// chunk of it that is not there now is a hole, and will not be there later.
    pub fn share_range(&self, range: Range<u64>) -> (u64, Vec<Option<Arc<Chunk>>>) {
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
    /// one has already are passed over; what lies between them and those is a hole.
    pub fn adopt(&mut self, first: u64, chunks: Vec<Option<Arc<Chunk>>>, committed: u64) {
        if self.chunks.is_empty() {
            self.chunk_first = first;
        }
        for (number, chunk) in (first..).zip(chunks) {
            let next = self.chunk_first + self.chunks.len() as u64;
            if number >= next {
                self.chunks.extend((next..number).map(|_| None));
                self.held += usize::from(chunk.is_some());
                self.chunks.push_back(chunk);
            }
        }
        self.committed = committed;
    }

    fn reserved_end(&self) -> u64 {
        self.open.back().map_or(self.committed, |range| range.end)
    }

    /// Bytes that the chunk of a position has from there on; makes the chunk where it is not there.
    fn room(&mut self, position: u64) -> usize {
        if self.chunks.is_empty() {
            self.chunk_first = self.committed / CHUNK_LEN as u64;
        }
        let index = (position / CHUNK_LEN as u64 - self.chunk_first) as usize;
        if index >= self.chunks.len() {
            self.chunks.resize(index + 1, None);
        }
        if self.chunks[index].is_none() {
            self.chunks[index] = Some(Chunk::new());
            self.held += 1;
        }
        CHUNK_LEN - offset_in_chunk(position)
    }

    /// Passes over the positions from the committed one to `end`: chunks that hold nothing else go,
    /// and zeros stand in what is left of them.
    fn close_hole(&mut self, end: u64) {
        const ZEROS: [u8; 1024] = [0; 1024];
        let mut position = self.committed;
        while position < end {
            let room = CHUNK_LEN - offset_in_chunk(position);
            let len = room.min((end - position) as usize);
            let index = (position / CHUNK_LEN as u64 - self.chunk_first) as usize;
            match self.chunks.get_mut(index) {
                Some(chunk) if len == CHUNK_LEN => {
                    self.held -= usize::from(chunk.take().is_some());
                }
                Some(Some(_)) => {
                    for start in (0..len).step_by(ZEROS.len()) {
                        let zeros = &ZEROS[..ZEROS.len().min(len - start)];
                        self.write_at(position + start as u64, zeros);
                    }
                }
                Some(None) | None => {}
            }
            position += len as u64;
        }
    }

    fn write_at(&mut self, position: u64, bytes: &[u8]) {
        debug_assert!(position >= self.committed);
        let offset = offset_in_chunk(position);
        debug_assert!(offset + bytes.len() <= CHUNK_LEN);
        let chunk = self.chunk_at(position).expect("a chunk comes before its bytes");
        // SAFETY: the target lies in one chunk (callers split at its end) and at or above
        // `committed`, where no reader looks; `bytes` is another allocation.
        unsafe {
            let target = chunk.memory.0.as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        }
    }

    fn chunk_at(&self, position: u64) -> Option<&Chunk> {
        let index = position / CHUNK_LEN as u64 - self.chunk_first;
        self.chunks.get(index as usize)?.as_deref()
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

    /// Reserves a range and writes it, in pieces.
    fn append(tape: &mut Tape, bytes: &[u8]) -> Range<u64> {
        let start = tape.reserve(bytes.len() as u64);
        for piece in bytes.chunks(777) {
            tape.append(tape.open.len() - 1, piece);
        }
        start..start + bytes.len() as u64
    }

    fn commit_all(tape: &mut Tape) {
        while !tape.open.is_empty() {
            tape.commit_first();
        }
    }

    #[test]
    fn bytes_come_back_over_chunk_borders() {
        let mut tape = Tape::default();
        let bytes: Vec<u8> = (0..3 * CHUNK_LEN + 100).map(|i| i as u8).collect();
        append(&mut tape, &bytes);
        tape.commit_first();
        assert_eq!(read(&tape, 0..bytes.len() as u64), bytes);
        let cut = CHUNK_LEN as u64 - 3..CHUNK_LEN as u64 + 3;
        assert_eq!(read(&tape, cut.clone()), bytes[cut.start as usize..cut.end as usize]);
    }

    #[test]
    fn the_first_bytes_are_patched_over_a_border() {
        let mut tape = Tape::default();
        append(&mut tape, &vec![1; CHUNK_LEN - 2]);
        let range = append(&mut tape, &[0, 0, 0, 0, 0, 9]);
        tape.patch(1, &[2, 3, 4, 5, 6]);
        commit_all(&mut tape);
        assert_eq!(read(&tape, range), [2, 3, 4, 5, 6, 9]);
    }

    #[test]
    fn open_ranges_fill_side_by_side() {
        let mut tape = Tape::default();
        let (first, second) = (vec![1; 2 * CHUNK_LEN + 5], vec![2; CHUNK_LEN]);
        tape.reserve(first.len() as u64);
        tape.reserve(second.len() as u64);
        for at in 0..first.len().max(second.len()).div_ceil(777) {
            for (index, bytes) in [&first, &second].into_iter().enumerate() {
                let piece = bytes.chunks(777).nth(at).unwrap_or_default();
                tape.append(index, piece);
            }
        }
        commit_all(&mut tape);
        assert!(read(&tape, 0..tape.committed()) == [first, second].concat());
    }

    #[test]
    fn a_range_takes_no_memory_before_its_bytes() {
        let mut tape = Tape::default();
        tape.reserve(100 * CHUNK_LEN as u64);
        tape.reserve(10);
        assert_eq!(tape.held_bytes(), 0);
        tape.append(1, &[7]);
        assert_eq!(tape.held_bytes(), CHUNK_LEN as u64);
        assert_eq!(tape.reserved_len(), 100 * CHUNK_LEN as u64 + 10);
    }

    #[test]
    fn the_place_of_the_last_range_is_used_again() {
        let mut tape = Tape::default();
        append(&mut tape, b"kept");
        append(&mut tape, &vec![0; 2 * CHUNK_LEN]);
        tape.commit_first();
        tape.give_back(0);
        assert_eq!(append(&mut tape, b"next"), 4..8);
        tape.commit_first();
        assert_eq!(read(&tape, 0..8), b"keptnext");
        append(&mut tape, b"one");
        append(&mut tape, b"two");
        tape.give_back_all();
        assert_eq!(append(&mut tape, b"last").start, 8);
    }

    /// A hole of each length between two ranges; what was written of it is in no reader's way.
    #[test]
    fn a_range_given_back_before_another_leaves_a_hole() {
        let lens = [1, 100, CHUNK_LEN, CHUNK_LEN + 1, 5 * CHUNK_LEN + 77];
        for (len, written) in
            lens.into_iter().flat_map(|len| [(len, 0), (len, len / 2), (len, len)])
        {
            let mut tape = Tape::default();
            let before = append(&mut tape, &vec![1; CHUNK_LEN - 50]);
            tape.reserve(len as u64);
            tape.append(1, &vec![9; written]);
            let behind = append(&mut tape, &[2; 100]);
            tape.give_back(1);
            let held = tape.held_bytes();
            commit_all(&mut tape);
            assert!(tape.held_bytes() <= held.min(3 * CHUNK_LEN as u64), "the hole's chunks go");
            assert_eq!(behind.start, before.end + len as u64);
            assert_eq!(read(&tape, behind.clone()), [2; 100]);
            let mut replica = Tape::default();
            let (first, chunks) = tape.share(0);
            replica.adopt(first, chunks, tape.committed());
            assert_eq!(read(&replica, behind.clone()), [2; 100]);
            assert_eq!(read(&replica, before.clone()), vec![1; CHUNK_LEN - 50]);
            tape.trim(behind.start);
            assert_eq!(read(&tape, behind), [2; 100]);
            tape.trim(u64::MAX);
            assert!(tape.held_bytes() <= CHUNK_LEN as u64);
        }
    }

    #[test]
    fn a_replica_follows_over_a_hole() {
        let mut owner = Tape::default();
        append(&mut owner, &[1; 10]);
        owner.commit_first();
        let mut replica = Tape::default();
        let (first, chunks) = owner.share(0);
        replica.adopt(first, chunks, owner.committed());
        owner.reserve(4 * CHUNK_LEN as u64);
        let behind = append(&mut owner, &[2; 10]);
        owner.give_back(0);
        owner.commit_first();
        let (first, chunks) = owner.share(behind.start);
        assert_eq!(chunks.len(), 1);
        replica.adopt(first, chunks, owner.committed());
        assert_eq!((read(&replica, 0..10), read(&replica, behind)), (vec![1; 10], vec![2; 10]));
        assert_eq!(replica.held_bytes(), 2 * CHUNK_LEN as u64);
    }

    #[test]
    fn trimmed_chunks_are_given_back_and_the_rest_stays() {
        let mut tape = Tape::default();
        append(&mut tape, &vec![7; 3 * CHUNK_LEN]);
        tape.commit_first();
        tape.trim(2 * CHUNK_LEN as u64 + 5);
        assert_eq!(tape.held_bytes(), CHUNK_LEN as u64);
        assert_eq!(read(&tape, 2 * CHUNK_LEN as u64..3 * CHUNK_LEN as u64), vec![7; CHUNK_LEN]);
        tape.trim(u64::MAX);
        assert_eq!(tape.held_bytes(), 0);
        let range = append(&mut tape, b"on");
        tape.commit_first();
        assert_eq!(read(&tape, range), b"on");
    }

    #[test]
    fn another_shard_reads_while_the_owner_writes_on() {
        let mut owner = Tape::default();
        append(&mut owner, &vec![1; CHUNK_LEN + 10]);
        owner.commit_first();
        let (first, chunks) = owner.share(5);
        let committed = owner.committed();
        let reader = std::thread::spawn(move || {
            let mut replica = Tape::default();
            replica.adopt(first, chunks, committed);
            read(&replica, 5..committed).iter().map(|&byte| u64::from(byte)).sum::<u64>()
        });
        // A hole begins in the chunk that the other shard reads.
        append(&mut owner, &[2; 100]);
        append(&mut owner, &vec![2; CHUNK_LEN]);
        owner.give_back(0);
        owner.commit_first();
        assert_eq!(reader.join().unwrap(), (CHUNK_LEN + 5) as u64);
    }

    #[test]
    #[should_panic(expected = "read beyond the committed bytes")]
    fn uncommitted_bytes_cannot_be_read() {
        let mut tape = Tape::default();
        append(&mut tape, b"draft");
        let _ = tape.slices(0..1).count();
    }

    #[test]
    #[should_panic(expected = "a range is committed when it is whole")]
    fn half_a_range_is_not_committed() {
        let mut tape = Tape::default();
        tape.reserve(2);
        tape.append(0, b"h");
        tape.commit_first();
    }

    #[test]
    #[should_panic(expected = "more than was reserved")]
    fn a_range_takes_no_more_than_its_length() {
        let mut tape = Tape::default();
        tape.reserve(2);
        tape.append(0, b"two");
    }
}
