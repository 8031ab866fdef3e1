//! The tasks of a shard: API requests, run between two ticks.
//!
//! A shard sleeps in its own ring and never in glommio (decision 0011), so its tasks are polled
//! here. All that they wait for comes from the shard itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::stream::{FuturesUnordered, Stream};

/// A future that a shard runs to its end.
pub type LocalTask = Pin<Box<dyn Future<Output = ()>>>;

/// Futures that run side by side on one thread.
pub struct Tasks {
    running: FuturesUnordered<LocalTask>,
    woken: Arc<Woken>,
    waker: Waker,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Default for Tasks {
    fn default() -> Self {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        Self { running: FuturesUnordered::new(), woken, waker }
    }
}

impl Tasks {
    /// Enters a task; it begins with the next [`Self::run`].
    pub fn push(&mut self, task: LocalTask) {
        self.running.push(task);
        self.woken.0.store(true, Ordering::Release);
    }

    /// Whether a task can go on, or a run has more to look at.
    pub fn are_ready(&self) -> bool {
        self.woken.0.load(Ordering::Acquire)
    }

    /// Polls each task that can go on, once; one that wakes itself goes on in the next run.
    pub fn run(&mut self) {
        if !self.woken.0.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut context = Context::from_waker(&self.waker);
        // Each poll of the set ends with a task that ended, or when all had their turn.
        while let Poll::Ready(Some(())) = Pin::new(&mut self.running).poll_next(&mut context) {}
    }

    /// Tasks that have not ended.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::poll_fn;
    use std::rc::Rc;

    use super::*;
    use crate::rt::oneshot;

    #[test]
    fn a_task_goes_on_when_it_is_woken_and_not_before() {
        let mut tasks = Tasks::default();
        let (sender, receiver) = oneshot();
        let got = Rc::new(Cell::new(0));
        let result = got.clone();
        tasks.push(Box::pin(async move { result.set(receiver.await.expect("sent")) }));
        assert!(tasks.are_ready());
        tasks.run();
        // The set looks twice whether all had their turn.
        tasks.run();
        assert!(!tasks.are_ready());
        assert_eq!(sender.send(7), Ok(()));
        assert!(tasks.are_ready());
        assert_eq!(got.get(), 0);
        tasks.run();
        assert_eq!((got.get(), tasks.len(), tasks.are_ready()), (7, 0, false));
    }

    #[test]
    fn a_task_that_wakes_itself_takes_turns_with_the_others() {
        let mut tasks = Tasks::default();
        let order = Rc::new(RefCell::new(Vec::new()));
        for name in 0..2 {
            let order = order.clone();
            let mut rounds = 0;
            tasks.push(Box::pin(poll_fn(move |context| {
                order.borrow_mut().push(name);
                rounds += 1;
                if rounds == 3 {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                Poll::Pending
            })));
        }
        let mut runs = 0;
        while tasks.are_ready() {
            tasks.run();
            runs += 1;
        }
        assert!((3..9).contains(&runs) && tasks.is_empty());
        let mut seen = order.borrow().clone();
        seen[..2].sort_unstable();
        assert_eq!((seen.len(), &seen[..2]), (6, &[0, 1][..]));
    }
}
