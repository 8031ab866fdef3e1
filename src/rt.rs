//! glommio behind our names: threads bound to a CPU, each with an executor that runs one future.
//!
//! That future is a shard's loop, and it sleeps in the shard's own ring (decision 0011): an executor
//! of glommio 0.9.0 may park although a task is ready and no timer is armed, and then sleeps until
//! its next event, for ever where none comes. Its other traps: the first sleep takes 30 to 80 ms;
//! some memory of an executor is never freed, so they are started once per process; its sockets,
//! datagrams and cross-core channels have faults of their own and are not used.

mod oneshot;
mod preflight;
mod tasks;

use std::future::Future;
use std::io;
use std::sync::mpsc;

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

pub use oneshot::{OneshotReceiver, OneshotSender, SenderDropped, oneshot};
pub use preflight::{LOCKED_MEMORY_MIN, StartError, check_cpus, preflight, probe_io_uring};
pub use tasks::{LocalTask, Tasks};

/// Starts a thread bound to `cpu` that runs the future of `make`, and returns when it runs.
///
/// The future has the thread for itself: it may block it.
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
        .spawn(move || async move {
            // The starter waits for this, or has ended with the process.
            let _ = started.send(());
            make().await
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

/// For glommio's registered file buffers, which we do not use: its minimum instead of 10 MiB, of
/// locked memory, times three rings.
const IO_MEMORY_LEN: usize = 64 * 1024;

#[cfg(test)]
mod tests {

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
}
