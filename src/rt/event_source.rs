//! Waiting for an eventfd.
//!
//! Two traps of glommio are handled: a read that is dropped goes on in the kernel until its cancel
//! gets there, and takes a count with it; and a read adds a waker to its list each time it is
//! polled, of which 32,768 are fatal. So one task does the reads, one after another, and whoever
//! waits, with or without a timeout, waits for that task.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use glommio::io::BufferedFile;

use super::{Task, spawn_local};

/// An eventfd that a task can wait for. Made once per eventfd and executor.
#[derive(Debug)]
pub struct EventSource {
    desk: Rc<Desk>,
    _reader: Task<()>,
}

impl EventSource {
    /// Takes a duplicate of `eventfd`, which must not be nonblocking. Panics outside an executor.
    pub fn new(eventfd: BorrowedFd<'_>) -> io::Result<Self> {
        let duplicate = eventfd.try_clone_to_owned()?;
        // SAFETY: the descriptor is open and has no other owner; the file closes it when dropped.
        let file = unsafe { BufferedFile::from_raw_fd(duplicate.into_raw_fd()) };
        let desk = Rc::new(Desk::default());
        let reader = spawn_local(serve(file, Rc::clone(&desk)));
        Ok(Self { desk, _reader: reader })
    }

    /// Waits until the eventfd's count is above zero, takes it and sets it to zero.
    ///
    /// Reads only while somebody waits, so that counts gather in the kernel meanwhile. A wait that
    /// is dropped loses nothing: the next one gets its count.
    pub async fn wait(&mut self) -> io::Result<u64> {
        let desk = &self.desk;
        poll_fn(|context| {
            if let Some(result) = desk.result.take() {
                return Poll::Ready(result);
            }
            desk.waiter.replace(Some(context.waker().clone()));
            desk.read_wanted.set(true);
            wake(&desk.reader);
            Poll::Pending
        })
        .await
    }
}

/// Where a waiter and the reading task meet.
#[derive(Debug, Default)]
struct Desk {
    /// Set by the waiter, cleared with a result.
    read_wanted: Cell<bool>,
    result: RefCell<Option<io::Result<u64>>>,
    waiter: RefCell<Option<Waker>>,
    reader: RefCell<Option<Waker>>,
}

async fn serve(file: BufferedFile, desk: Rc<Desk>) {
    loop {
        poll_fn(|context| {
            if desk.read_wanted.get() {
                return Poll::Ready(());
            }
            desk.reader.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
        let result = read_count(&file).await;
        desk.read_wanted.set(false);
        desk.result.replace(Some(result));
        wake(&desk.waiter);
    }
}

async fn read_count(file: &BufferedFile) -> io::Result<u64> {
    let read = file.read_at(0, size_of::<u64>()).await?;
    let count = read.first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(u64::from_ne_bytes(*count))
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use nix::sys::eventfd::{EfdFlags, EventFd};

    use super::*;
    use crate::rt::{TimedOut, sleep, start_executor, timeout};

    #[test]
    fn count_is_taken_again_and_again() {
        on_executor(|eventfd, mut source| async move {
            for count in 1..=100 {
                eventfd.write(count).expect("room");
                assert_eq!(source.wait().await.expect("readable"), count);
            }
        });
    }

    #[test]
    fn dropped_wait_loses_nothing() {
        on_executor(|eventfd, mut source| async move {
            for _ in 0..10 {
                let empty = timeout(Duration::from_micros(100), source.wait()).await;
                assert!(matches!(empty, Err(TimedOut)));
            }
            eventfd.write(5).expect("room");
            assert_eq!(source.wait().await.expect("readable"), 5);
        });
    }

    #[test]
    fn counts_gather_while_nobody_waits() {
        on_executor(|eventfd, mut source| async move {
            eventfd.write(1).expect("room");
            assert_eq!(source.wait().await.expect("readable"), 1);
            for _ in 0..3 {
                eventfd.write(1).expect("room");
                sleep(Duration::from_micros(100)).await;
            }
            assert_eq!(source.wait().await.expect("readable"), 3);
        });
    }

    fn on_executor<F: Future<Output = ()> + 'static>(
        test: impl FnOnce(EventFd, EventSource) -> F + Send + 'static,
    ) {
        let run = move || async move {
            let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("an eventfd");
            let source = EventSource::new(eventfd.as_fd()).expect("a duplicate");
            test(eventfd, source).await;
        };
        start_executor("test", 0, run).expect("an executor").join().expect("no panic");
    }
}
