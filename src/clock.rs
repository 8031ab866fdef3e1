//! The only reader of the OS clock.
//!
//! Everything else gets `now` as an argument, so that it can be driven by a virtual clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
