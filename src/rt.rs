//! glommio behind our names: executors, tasks, timers, waiting for an eventfd.
//!
//! Its traps are handled here and nowhere else (glommio 0.9.0):
//!
//! - An executor may park although a task is ready, until its next event. Each executor has a
//!   housekeeping timer that bounds this.
//! - Its first sleep takes 30 to 80 ms. Executors sleep once before they report that they started.
//! - Some memory of an executor is never freed. Executors are started once per process.
//! - A dropped read goes on for a while, and each poll of one adds a waker: [`EventSource`].
//! - A task may have no more than 32,767 wakers, and spawning takes a process-wide lock. Tasks are
//!   for listeners, timers and API requests, never for players.
//! - Its sockets, datagrams and cross-core channels have faults of their own and are not used: media
//!   goes through [`crate::ring`], the bus wakes shards by eventfd.

mod event_source;
mod oneshot;
mod preflight;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::timer::Timer;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

pub use event_source::EventSource;
pub use oneshot::{OneshotReceiver, OneshotSender, SenderDropped, oneshot};
pub use preflight::{LOCKED_MEMORY_MIN, StartError, check_cpus, preflight, probe_io_uring};

/// Starts a thread bound to `cpu` that runs the future of `make`, and returns when it runs.
///
/// Everything that the future spawns runs on that thread and ends with it.
pub fn start_executor<M, F, T>(name: &str, cpu: usize, make: M) -> Result<JoinHandle<T>, StartError>
where
    M: FnOnce() -> F + Send + 'static,
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let (started, starts) = mpsc::sync_channel(1);
    let handle = LocalExecutorBuilder::new(Placement::Fixed(cpu))
        .name(name)
        .io_memory(IO_MEMORY_LEN)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT_AFTER)
        .spawn(move || async move {
            sleep(WARM_UP).await;
            let housekeeping = spawn_local(async {
                loop {
                    sleep(HOUSEKEEPING_INTERVAL).await;
                }
            });
            // The starter waits for this, or has ended with the process.
            let _ = started.send(());
            let output = make().await;
            housekeeping.cancel().await;
            output
        })
        .map_err(|error| StartError::Executor { cpu, source: error.into() })?;
    if starts.recv().is_ok() {
        return Ok(JoinHandle(handle));
    }
    let source = match handle.join() {
        Err(error) => error.into(),
        Ok(_) => unreachable!("an executor that did not start has no output"),
    };
    Err(StartError::Executor { cpu, source })
}

/// Waits for the end of an executor's future.
#[derive(Debug)]
pub struct JoinHandle<T: Send + 'static>(ExecutorJoinHandle<T>);

impl<T: Send + 'static> JoinHandle<T> {
    /// Blocks until the executor ends; an error when it panicked.
    pub fn join(self) -> io::Result<T> {
        self.0.join().map_err(Into::into)
    }
}

/// A future running on this executor; dropping it cancels it.
#[must_use = "a dropped task is cancelled; use `detach`"]
#[derive(Debug)]
pub struct Task<T>(glommio::Task<T>);

impl<T> Task<T> {
    /// Lets the future run to its end, or to the executor's.
    pub fn detach(self) {
        self.0.detach();
    }

    /// Cancels the future and waits until it is dropped; its output if it was done before.
    pub async fn cancel(self) -> Option<T> {
        self.0.cancel().await
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// Runs a future on the calling executor.
///
/// # Panics
///
/// Outside an executor.
pub fn spawn_local<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    Task(glommio::spawn_local(future))
}

/// Waits. Not for the hot path: two tree look-ups per call.
pub async fn sleep(duration: Duration) {
    Timer::new(duration).await;
}

/// Lets other tasks run if this one has had its time (2 ms); 3 ns if not.
pub async fn yield_if_needed() {
    glommio::yield_if_needed().await;
}

/// Waits for `future` at most `duration`; then drops it.
pub async fn timeout<T>(
    duration: Duration,
    future: impl Future<Output = T>,
) -> Result<T, TimedOut> {
    let mut future = pin!(future);
    let mut timer = Timer::new(duration);
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut timer).poll(context).map(|_| Err(TimedOut))
    })
    .await
}

/// The time of a [`timeout`] was over first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct TimedOut;

/// The longest that a ready task may be forgotten. Each wake of an idle executor costs 0.1 ms of
/// CPU, so this is 0.2 % of a core; a shard with players ticks faster anyway.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(50);

const WARM_UP: Duration = Duration::from_millis(1);

/// glommio's 100 ms lets a busy task queue starve timers and I/O.
const PREEMPT_AFTER: Duration = Duration::from_millis(2);

/// For glommio's registered file buffers, which we do not use: its minimum instead of 10 MiB, of
/// locked memory, times three rings.
const IO_MEMORY_LEN: usize = 64 * 1024;

/// Of each of glommio's three rings; its 128 are fewer than the API connections of a busy shard.
const RING_DEPTH: usize = 1024;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    fn on_executor<T: Send + 'static, F: Future<Output = T> + 'static>(
        make: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        start_executor("test", 0, make).expect("an executor").join().expect("no panic")
    }

    #[test]
    fn executor_runs_on_its_cpu_and_returns_its_output() {
        let cpus = on_executor(|| async {
            nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("an affinity")
        });
        let bound: Vec<_> = (0..64).filter(|&cpu| cpus.is_set(cpu) == Ok(true)).collect();
        assert_eq!(bound, [0]);
    }

    #[test]
    fn executor_on_a_missing_cpu_does_not_start() {
        let error = start_executor("test", 100_000, || async {}).expect_err("no such CPU");
        assert!(matches!(error, StartError::Executor { cpu: 100_000, .. }));
    }

    #[test]
    fn tasks_return_cancel_and_detach() {
        let (output, dropped, detached) = on_executor(|| async {
            let output = spawn_local(async { 7 }).await;
            let alive = Rc::new(());
            let held = Rc::clone(&alive);
            let task = spawn_local(async move {
                let _held = held;
                std::future::pending::<()>().await;
            });
            assert_eq!(Rc::strong_count(&alive), 2);
            task.cancel().await;
            let dropped = Rc::strong_count(&alive) == 1;
            let flag = Rc::new(Cell::new(false));
            let set = Rc::clone(&flag);
            spawn_local(async move { set.set(true) }).detach();
            spawn_local(async {}).await;
            (output, dropped, flag.get())
        });
        assert_eq!((output, dropped, detached), (7, true, true));
    }

    #[test]
    fn timeout_returns_the_output_or_drops_the_future() {
        on_executor(|| async {
            assert_eq!(timeout(Duration::from_secs(60), async { 1 }).await, Ok(1));
            let alive = Rc::new(());
            let held = Rc::clone(&alive);
            let never = async move {
                let _held = held;
                std::future::pending::<()>().await;
            };
            assert_eq!(timeout(Duration::from_millis(1), never).await, Err(TimedOut));
            assert_eq!(Rc::strong_count(&alive), 1);
        });
    }
}
