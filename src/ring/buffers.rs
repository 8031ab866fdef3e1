//! Receive buffers that the kernel picks from a ring and that come back when their views drop.
//!
//! One mapping holds the kernel's ring of buffer descriptors, then the buffers:
//!
//! ```text
//! | descriptor 0 (its last 2 bytes: tail) | ... | pad to page | buffer 0 | buffer 1 | ...
//! ```

use std::cell::Cell;
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The buffers of one ring; lives until the ring and the last view of a buffer are gone.
#[derive(Debug)]
pub(super) struct BufferPool {
    owner: ThreadMark,
    mapping: Mapping,
    buffers_offset: usize,
    buffer_len: u32,
    buffer_count: u16,
    /// Descriptors ever published, modulo 2^16; the kernel reads its copy in descriptor 0.
    tail: Cell<u16>,
    out: Cell<usize>,
}

impl BufferPool {
    /// Maps the buffers and publishes all of them; `buffer_count` is a power of two up to 2^15.
    pub(super) fn new(buffer_count: u16, buffer_len: u32) -> io::Result<Rc<Self>> {
        assert!(buffer_count.is_power_of_two() && buffer_len > 0, "sizes of the buffer ring");
        let descriptors_len = usize::from(buffer_count) * size_of::<BufRingEntry>();
        let buffers_offset = descriptors_len.next_multiple_of(PAGE_LEN);
        let mapping =
            Mapping::new(buffers_offset + usize::from(buffer_count) * buffer_len as usize)?;
        let pool = Self {
            owner: ThreadMark::current(),
            mapping,
            buffers_offset,
            buffer_len,
            buffer_count,
            tail: Cell::new(0),
            out: Cell::new(0),
        };
        for buffer_id in 0..buffer_count {
            pool.publish(buffer_id);
        }
        Ok(Rc::new(pool))
    }

    /// Gives the descriptors to `ring` as buffer group [`BUFFER_GROUP`].
    pub(super) fn register(&self, ring: &IoUring) -> io::Result<()> {
        let address = self.mapping.start.as_ptr() as u64;
        // SAFETY: the mapping is page-aligned and holds `buffer_count` descriptors at its start.
        // It outlives the ring, because the ring's owner keeps an `Rc` of the pool and drops the
        // ring first.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                address,
                self.buffer_count,
                BUFFER_GROUP,
                0,
            )
        }
    }

    /// A view of the first `len` bytes of a buffer that a completion named.
    pub(super) fn view(self: &Rc<Self>, buffer_id: u16, len: usize) -> Received {
        assert!(buffer_id < self.buffer_count && len <= self.buffer_len as usize);
        self.out.set(self.out.get() + 1);
        Received { pool: ManuallyDrop::new(Rc::clone(self)), buffer_id, len }
    }

    /// Gives a buffer that holds no bytes back to the kernel.
    pub(super) fn give_back_unused(&self, buffer_id: u16) {
        self.publish(buffer_id);
    }

    /// Buffers held by views.
    pub(super) fn buffers_out(&self) -> usize {
        self.out.get()
    }

    fn publish(&self, buffer_id: u16) {
        let tail = self.tail.get();
        let index = usize::from(tail & (self.buffer_count - 1));
        let descriptors = self.mapping.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `index` is below the number of descriptors in the mapping. The kernel reads a
        // descriptor only once the tail below has passed it, and the slot is free: there are as
        // many slots as buffers and this buffer is in none. The setters leave the tail alone.
        let descriptor = unsafe { &mut *descriptors.add(index) };
        descriptor.set_addr(self.buffer_start(buffer_id) as u64);
        descriptor.set_len(self.buffer_len);
        descriptor.set_bid(buffer_id);

        let tail = tail.wrapping_add(1);
        self.tail.set(tail);
        // SAFETY: the first descriptor is mapped and holds the tail, which only this thread writes
        // and which the kernel reads atomically.
        let shared_tail = unsafe { &*BufRingEntry::tail(descriptors).cast::<AtomicU16>() };
        shared_tail.store(tail, Ordering::Release);
    }

    fn buffer_start(&self, buffer_id: u16) -> *mut u8 {
        let offset = self.buffers_offset + usize::from(buffer_id) * self.buffer_len as usize;
        // SAFETY: ids are below `buffer_count`, so the offset is inside the mapping.
        unsafe { self.mapping.start.as_ptr().add(offset) }
    }
}

/// One filled receive buffer, which goes back to the kernel with this.
///
/// Not really `Send`: it may be read, cloned and sliced anywhere (those touch only the `Bytes`
/// count), but must be dropped on the thread of its ring, and its drop aborts the shard otherwise.
/// What crosses a core is copied first.
pub struct Received {
    pool: ManuallyDrop<Rc<BufferPool>>,
    buffer_id: u16,
    len: usize,
}

impl Received {
    /// The bytes, to be sliced and kept; the buffer goes back with the last clone or slice.
    ///
    /// One small allocation (the reference count), no copy. It is made when the bytes are read and
    /// not when they are harvested: the allocator is quick with one that comes and goes, not with as
    /// many as completions are harvested at once.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

// SAFETY: the bytes are plain memory that nobody writes while the view lives. The `Rc` and the
// pool's cells are touched only in `drop`, which checks the thread before it does.
unsafe impl Send for Received {}

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the kernel filled `len` bytes (checked against the buffer's length in `view`) and
        // does not touch the buffer until it is published again, in `drop`.
        unsafe { slice::from_raw_parts(self.pool.buffer_start(self.buffer_id), self.len) }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // On the wrong thread the `Rc` is leaked, so that unwinding stays sound.
        assert!(
            self.pool.owner == ThreadMark::current(),
            "a receive buffer was dropped on a thread other than its ring's"
        );
        self.pool.out.set(self.pool.out.get() - 1);
        self.pool.publish(self.buffer_id);
        // SAFETY: dropped exactly once, here, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.pool) };
    }
}

/// Tells threads apart at the price of one thread-local address; `thread::current().id()` counts
/// references.
///
/// The address may be reused after the thread's end, when nobody is left to race with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ThreadMark(usize);

impl ThreadMark {
    fn current() -> Self {
        thread_local!(static MARK: u8 = const { 0 });
        MARK.with(|mark| Self(ptr::from_ref(mark) as usize))
    }
}

/// Zeroed, page-aligned memory that takes no page until it is touched.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping touches no existing memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("mmap returns no null page");
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it: views keep the pool alive.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        assert_eq!(result, 0, "munmap of a mapping of ours");
    }
}

pub(super) const BUFFER_GROUP: u16 = 0;

/// Where the kernel's pages are larger, the mapping is still aligned to them; only padding differs.
const PAGE_LEN: usize = 4096;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn buffer_comes_back_with_the_last_view() {
        let pool = BufferPool::new(4, 64).expect("a mapping");
        let view = pool.view(2, 10).into_bytes();
        let slice = view.slice(3..5);
        drop(view);
        assert_eq!(pool.buffers_out(), 1);
        assert_eq!(pool.tail.get(), 4);
        drop(slice);
        assert_eq!(pool.buffers_out(), 0);
        assert_eq!(pool.tail.get(), 5);
    }

    #[test]
    fn tail_wraps_around() {
        let pool = BufferPool::new(4, 64).expect("a mapping");
        for turn in 0..70_000_u32 {
            drop(pool.view((turn % 4) as u16, 1));
        }
        assert_eq!(usize::from(pool.tail.get()), (4 + 70_000) % 65_536);
    }

    #[test]
    fn views_outlive_the_pool_handle() {
        let pool = BufferPool::new(2, 4096).expect("a mapping");
        let view = pool.view(1, 4096).into_bytes();
        drop(pool);
        assert!(view.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn drop_on_another_thread_is_caught() {
        let pool = BufferPool::new(2, 64).expect("a mapping");
        let view = pool.view(0, 1).into_bytes();
        let other = thread::spawn(move || drop(view));
        assert!(other.join().is_err());
        assert_eq!(pool.buffers_out(), 1);
    }
}
