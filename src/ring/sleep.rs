//! How a shard sleeps: in its media ring, until something happens (decision 0011).

use std::time::Duration;

use io_uring::types::Timespec;

use super::MediaRing;

impl MediaRing {
    /// Hands the armed operations to the kernel and sleeps until something has happened, a [`Waker`]
    /// was used or the time is over. One system call; none with nothing to arm and a time of zero.
    ///
    /// Where completions come in quick succession, `gather` lets that many microseconds of them come
    /// before the return, [`GATHER_MAX`] at most; the first one after a longer silence still ends
    /// the sleep at once.
    pub fn wait(&mut self, time: Duration, gather: Duration) {
        self.refill_from_backlog();
        if time.is_zero() || !self.backlog.is_empty() || !self.ring.completion().is_empty() {
            self.submit();
            return;
        }
        match self.enter_and_sleep(time, gather) {
            // Whatever was not taken or not waited for is so in the next tick.
            Ok(_) | Err(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => {}
            Err(libc::EINVAL) if self.gathers => self.gathers = false,
            Err(errno) => panic!("io_uring_enter failed: errno {errno}"),
        }
    }

    fn enter_and_sleep(&mut self, time: Duration, gather: Duration) -> Result<usize, i32> {
        let timespec = Timespec::from(time);
        let gather_us = if self.gathers { gather.min(time).as_micros() as u32 } else { 0 };
        let argument = EnterArgument {
            sigmask: 0,
            sigmask_len: 0,
            gather_us,
            timespec: (&raw const timespec) as u64,
        };
        let count = if gather_us == 0 { 1 } else { GATHER_MAX };
        let armed = self.ring.submission().len() as u32;
        let flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
        // SAFETY: the argument is what IORING_ENTER_EXT_ARG wants, and outlives the call as the time
        // that it points to does. The armed operations are in the submission queue.
        let entered = unsafe { self.ring.submitter().enter(armed, count, flags, Some(&argument)) };
        entered.map_err(|error| error.raw_os_error().unwrap_or_default())
    }
}

/// `struct io_uring_getevents_arg` (io_uring_enter2(2)), which the crate has no way to fill.
#[repr(C)]
struct EnterArgument {
    sigmask: u64,
    sigmask_len: u32,
    gather_us: u32,
    timespec: u64,
}

const IORING_ENTER_GETEVENTS: u32 = 1 << 0;
const IORING_ENTER_EXT_ARG: u32 = 1 << 3;

/// Completions that end the gathering early: a tick of so many is cheap for each, and they are half
/// of the receive buffers.
const GATHER_MAX: u32 = 256;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::clock;
    use crate::ring::{RingSizes, Waker};

    const SMALL: RingSizes =
        RingSizes { submissions: 8, completions: 16, buffer_count: 4, buffer_len: 1024 };

    /// Two shards hand a number back and forth: an atomic is the queue, the waker its bell.
    #[test]
    fn two_threads_wake_each_other() {
        const ROUNDS: u64 = 2000;
        let ball = Arc::new(AtomicU64::new(0));
        let (send_waker, wakers) = channel();
        let mut give_waker = Vec::new();
        let mut threads = Vec::new();
        for player in 0..2 {
            let (give, other) = channel::<Waker>();
            give_waker.push(give);
            let (send_waker, ball) = (send_waker.clone(), Arc::clone(&ball));
            threads.push(thread::spawn(move || {
                let mut ring = MediaRing::new(SMALL).expect("io_uring");
                send_waker.send((player, ring.waker())).expect("the test listens");
                let other = other.recv().expect("the test answers");
                let mut out = Vec::new();
                loop {
                    ring.harvest(&mut out);
                    assert!(out.is_empty());
                    let count = ball.load(Ordering::Acquire);
                    if count % 2 == player {
                        ball.store(count + 1, Ordering::Release);
                        other.wake();
                    }
                    if count >= ROUNDS {
                        return;
                    }
                    let slept = clock::now();
                    ring.wait(Duration::from_secs(60), Duration::ZERO);
                    assert!(slept.elapsed() < Duration::from_secs(30), "a wake was lost");
                }
            }));
        }
        for _ in 0..2 {
            let (player, waker) = wakers.recv().expect("a player");
            give_waker[1 - player as usize].send(waker).expect("the other player");
        }
        for thread in threads {
            thread.join().expect("no panic");
        }
    }

    #[test]
    fn a_sleep_ends_by_time_and_by_a_wake_before_it() {
        let mut ring = MediaRing::new(SMALL).expect("io_uring");
        for gather in [Duration::ZERO, Duration::from_millis(1)] {
            let start = clock::now();
            ring.wait(Duration::from_millis(5), gather);
            assert!(start.elapsed() >= Duration::from_millis(5));
            ring.waker().wake();
            ring.wait(Duration::from_secs(60), gather);
            assert!(start.elapsed() < Duration::from_secs(30));
            let mut out = Vec::new();
            ring.harvest(&mut out);
            assert!(out.is_empty());
        }
    }
}
