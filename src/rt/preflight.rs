//! What must hold before the first executor starts, each with its cause and remedy in one line.

use std::io;

use io_uring::{IoUring, cqueue, squeue};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;

/// Why the relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel was built without io_uring.
    #[error("this kernel has no io_uring; use Linux 6.1 or later, built with CONFIG_IO_URING")]
    NoIoUring,
    /// The kernel or a sandbox refuses io_uring to this process.
    #[error(
        "io_uring is refused to this process; set kernel.io_uring_disabled=0 (sysctl), and in a \
         container allow io_uring_setup, io_uring_enter and io_uring_register (seccomp)"
    )]
    IoUringRefused,
    /// The kernel's io_uring lacks what the media ring needs.
    #[error("this kernel's io_uring is too old (no deferred task run); use Linux 6.1 or later")]
    KernelTooOld,
    /// io_uring fails for another reason.
    #[error("io_uring cannot be set up: {0}")]
    IoUringFailed(#[source] io::Error),
    /// The limit of locked memory is too low.
    #[error(
        "locked memory is limited to {limit_kib} KiB and {needed_kib} KiB are needed; raise it \
         with LimitMEMLOCK= (systemd), --ulimit memlock= (docker) or ulimit -l"
    )]
    LockedMemory {
        /// The soft limit.
        limit_kib: u64,
        /// What executors ask for.
        needed_kib: u64,
    },
    /// A CPU of the configuration is not ours to use.
    #[error(
        "CPU {cpu} is not available to this process; change the list of CPUs, or the affinity \
         (taskset, CPUAffinity=, cpuset) that it was started with"
    )]
    CpuUnavailable {
        /// The CPU asked for.
        cpu: usize,
    },
    /// A CPU is listed twice; two shards on one core would take turns.
    #[error("CPU {cpu} is listed twice; list each CPU once")]
    CpuRepeated {
        /// The CPU.
        cpu: usize,
    },
    /// No CPU is listed.
    #[error("no CPU is listed; list at least one")]
    NoCpu,
    /// An executor did not start although all of the above holds.
    #[error("the executor on CPU {cpu} did not start: {source}")]
    Executor {
        /// Its CPU.
        cpu: usize,
        /// What glommio says.
        #[source]
        source: io::Error,
    },
}

/// Checks that the kernel lets this process do what shards need.
pub fn preflight() -> Result<(), StartError> {
    probe_io_uring()?;
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|errno| cause_of(errno.into()))?;
    check_locked_memory(limit.0)
}

/// Sets up a ring as shards do, and drops it.
pub fn probe_io_uring() -> Result<(), StartError> {
    let ring = IoUring::<squeue::Entry, cqueue::Entry>::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .build(PROBE_ENTRIES);
    ring.map(drop).map_err(cause_of)
}

/// Checks the CPUs that shards are to be bound to.
pub fn check_cpus(cpus: &[usize]) -> Result<(), StartError> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(|errno| cause_of(errno.into()))?;
    check_cpus_against(cpus, &allowed)
}

fn check_cpus_against(cpus: &[usize], allowed: &CpuSet) -> Result<(), StartError> {
    if cpus.is_empty() {
        return Err(StartError::NoCpu);
    }
    for (index, &cpu) in cpus.iter().enumerate() {
        if allowed.is_set(cpu) != Ok(true) {
            return Err(StartError::CpuUnavailable { cpu });
        }
        if cpus[..index].contains(&cpu) {
            return Err(StartError::CpuRepeated { cpu });
        }
    }
    Ok(())
}

fn check_locked_memory(limit: u64) -> Result<(), StartError> {
    if limit >= LOCKED_MEMORY_MIN {
        return Ok(());
    }
    Err(StartError::LockedMemory { limit_kib: limit / 1024, needed_kib: LOCKED_MEMORY_MIN / 1024 })
}

fn cause_of(error: io::Error) -> StartError {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS) => StartError::NoIoUring,
        Some(Errno::EPERM | Errno::EACCES) => StartError::IoUringRefused,
        Some(Errno::EINVAL) => StartError::KernelTooOld,
        _ => StartError::IoUringFailed(error),
    }
}

/// Bytes of locked memory that must be allowed; glommio refuses to start below it.
pub const LOCKED_MEMORY_MIN: u64 = 512 * 1024;

const PROBE_ENTRIES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes() {
        preflight().expect("tests need io_uring");
    }

    #[test]
    fn locked_memory_is_checked_at_its_limit() {
        assert!(check_locked_memory(LOCKED_MEMORY_MIN).is_ok());
        let error = check_locked_memory(LOCKED_MEMORY_MIN - 1).expect_err("one byte less");
        assert!(error.to_string().contains("511 KiB and 512 KiB"), "{error}");
    }

    #[test]
    fn errors_of_the_kernel_name_their_remedy() {
        let table = [
            (libc::ENOSYS, "CONFIG_IO_URING"),
            (libc::EPERM, "kernel.io_uring_disabled=0"),
            (libc::EINVAL, "6.1 or later"),
            (libc::ENOMEM, "cannot be set up"),
        ];
        for (errno, remedy) in table {
            let text = cause_of(io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(remedy), "{text}");
            assert!(!text.contains('\n'));
        }
    }

    #[test]
    fn cpus_are_checked_one_by_one() {
        let mut allowed = CpuSet::new();
        allowed.set(0).expect("in range");
        allowed.set(2).expect("in range");
        assert!(check_cpus_against(&[2, 0], &allowed).is_ok());
        let check = |cpus: &[usize]| check_cpus_against(cpus, &allowed).expect_err("bad list");
        assert!(matches!(check(&[]), StartError::NoCpu));
        assert!(matches!(check(&[0, 1]), StartError::CpuUnavailable { cpu: 1 }));
        assert!(matches!(check(&[0, 2, 0]), StartError::CpuRepeated { cpu: 0 }));
        let beyond = CpuSet::count();
        assert!(matches!(check(&[beyond]), StartError::CpuUnavailable { .. }));
        assert!(check_cpus(&[0]).is_ok());
    }
}
