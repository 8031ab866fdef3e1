//! The only reader of the OS clock.
//!
//! Everything else gets `now` as an argument, so that it can be driven by a virtual clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// The monotonic time.
#[allow(clippy::disallowed_methods, reason = "the one reader of the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Seconds since the Unix epoch; 0 where the clock stands before it.
#[allow(clippy::disallowed_methods, reason = "the one reader of the clock")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Nanoseconds of `CLOCK_MONOTONIC`, one time for all processes of a machine; what [`now`] shows,
/// as a number.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds since the Unix epoch; the clock of the kernel's receive timestamps.
pub fn realtime_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_REALTIME)
}

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID))
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("Linux has these clocks");
    let (seconds, nanoseconds) = (time.tv_sec(), time.tv_nsec());
    // Neither is negative but for a wall clock before 1970, which shows as its first second.
    u64::try_from(seconds).unwrap_or(0) * 1_000_000_000 + u64::try_from(nanoseconds).unwrap_or(0)
}
