//! How much of a CPU was left over: a thread of the idle class (SCHED_IDLE, sched(7)) that takes
//! whatever nobody else wants there.
//!
//! Process clocks under-report long batches of sends on some virtual machines; what this thread did
//! not get was used, whoever used it.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread::{JoinHandle, spawn};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};

use super::Failure;
use crate::clock;

pub(super) struct Soak {
    got_ns: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Soak {
    /// Begins to take what is left of `cpu`.
    pub(super) fn start(cpu: usize) -> Result<Self, Failure> {
        let (got_ns, stopped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (sender, receiver) = channel();
        let (got_for_thread, stopped_for_thread) = (Arc::clone(&got_ns), Arc::clone(&stopped));
        let thread = spawn(move || {
            let ready = pin(cpu).and_then(|()| become_idle());
            let is_ready = ready.is_ok();
            if sender.send(ready.map_err(|error| error.to_string())).is_err() || !is_ready {
                return;
            }
            while !stopped_for_thread.load(Relaxed) {
                for _ in 0..SPINS {
                    std::hint::spin_loop();
                }
                got_for_thread.store(clock::thread_cpu().as_nanos() as u64, Relaxed);
            }
        });
        let soak = Self { got_ns, stopped, thread: Some(thread) };
        receiver.recv()??;
        Ok(soak)
    }

    /// CPU time that was left over so far.
    pub(super) fn got_ns(&self) -> u64 {
        self.got_ns.load(Relaxed)
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        self.stopped.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}

/// Keeps the calling thread on one CPU.
pub(super) fn pin(cpu: usize) -> Result<(), Failure> {
    pin_to(&[cpu])
}

/// Keeps the calling thread, and those that it will start, on these CPUs.
pub(super) fn pin_to(cpus: &[usize]) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    cpus.iter()
        .try_for_each(|cpu| set.set(*cpu))
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|error| format!("CPUs {cpus:?}: {error}"))?;
    Ok(())
}

/// The call has no safe binding; util-linux has a program for it.
fn become_idle() -> Result<(), Failure> {
    let thread = gettid().to_string();
    let status = Command::new("chrt")
        .args(["--idle", "--pid", "0", &thread])
        .status()
        .map_err(|error| format!("--soak needs chrt (util-linux): {error}"))?;
    if status.success() { Ok(()) } else { Err("chrt could not set the idle class".into()) }
}

/// Some microseconds of spinning for each look at the clock.
const SPINS: u32 = 1000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Keeps the CPU busy until this thread has had so much of it.
    fn work(time: Duration) {
        let until = clock::thread_cpu() + time;
        while clock::thread_cpu() < until {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn soak_gets_what_is_left_over_and_takes_nothing() {
        // In a thread of its own, which takes its CPU with it.
        let test = spawn(|| {
            pin(0).expect("there is a CPU 0");
            let soak = Soak::start(0).expect("chrt");
            work(Duration::from_millis(20));
            let before_ns = soak.got_ns();
            work(Duration::from_millis(200));
            let taken_ns = soak.got_ns() - before_ns;
            // A thread of our own class would have had as much as we.
            assert!(taken_ns < 50_000_000, "{taken_ns}");
            while soak.got_ns() < before_ns + taken_ns + 1_000_000 {
                std::thread::yield_now();
            }
        });
        test.join().expect("what it said");
    }
}
