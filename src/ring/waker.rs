//! Waking a shard from another thread through the eventfd of its media ring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes the shard that owns a [`super::MediaRing`]; any thread may hold one.
///
/// Waking a sleeping core costs 6 to 7 µs, so repeated wakes between two harvests are one write.
#[derive(Debug, Clone)]
pub struct Waker(Arc<WakeState>);

#[derive(Debug)]
struct WakeState {
    eventfd: EventFd,
    pending: AtomicBool,
}

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(Arc::new(WakeState { eventfd, pending: AtomicBool::new(false) })))
    }

    /// Ends the shard's sleep, or its next one before it begins; what was queued for the shard before
    /// this call is seen by the tick that follows.
    pub fn wake(&self) {
        // The swap pairs with the one in `clear`: a wake that finds the flag still set was ordered
        // before the clear, so the shard drains its queues after the caller filled them.
        if !self.0.pending.swap(true, Ordering::AcqRel) {
            self.signal();
        }
    }

    /// Forgets earlier wakes. Called before the queues that they announce are drained.
    pub(super) fn clear(&self) {
        self.0.pending.swap(false, Ordering::AcqRel);
    }

    fn signal(&self) {
        match self.0.eventfd.write(1) {
            // Nobody reads the count, the ring sees each write. EAGAIN would mean 2^64 of them.
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(errno) => panic!("eventfd write failed: {errno}"),
        }
    }

    pub(super) fn eventfd(&self) -> BorrowedFd<'_> {
        self.0.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_before_a_clear_are_one_write() {
        let waker = Waker::new().expect("an eventfd");
        let other = waker.clone();
        waker.wake();
        other.wake();
        assert_eq!(waker.0.eventfd.read(), Ok(1));
        waker.clear();
        waker.wake();
        assert_eq!(waker.0.eventfd.read(), Ok(1));
    }
}
