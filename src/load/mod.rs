//! `rillcast load`: a load generator for any live server, ours or another.
//!
//! Threads and epoll, nothing of the relay's own runtime, so that what is measured and what measures
//! have no code in common but the protocols. `docs/load.md` says what is measured and how.

#![allow(clippy::print_stdout, reason = "what a load shows is its result")]

pub(crate) mod api;
mod clip;
mod connection;
mod crowd;
pub mod dead;
mod figures;
mod flush;
mod guests;
mod limit;
mod member;
mod options;
mod outcome;
pub mod pace;
mod pending;
mod plan;
mod play;
mod player;
mod progress;
mod publish;
mod publisher;
mod report;
mod results;
mod rtsp;
mod scan;
mod server;
mod server_use;
mod soak;
mod stage;
mod stamp;
mod stream;
mod target;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

pub(crate) use clip::EMBEDDED;
pub use options::{
    ChurnOptions, Command, CrowdOptions, Leave, LimitOptions, Method, OutputOptions,
    PendingOptions, PlayOptions, PublishOptions, RtspTransport, ServerOptions, SlowOptions,
    TargetOptions, Wire,
};

/// One line for who started it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Waits at most so long; whether the run is to end.
pub type Wait<'a> = &'a mut dyn FnMut(Duration) -> bool;

/// Runs the load to its end.
///
/// # Errors
/// What stood in its way, before anything was measured.
pub fn run(command: &Command, wait: Wait<'_>) -> Result<ExitCode, Failure> {
    match command {
        Command::Play(options) => play::play(options, wait),
        Command::Churn(options) => play::churn(options, wait),
        Command::Slow(options) => play::slow(options, wait),
        Command::Pending(options) => pending::run(options, wait),
        Command::Publish(options) => publish::run(options, wait),
        Command::Limit(options) => limit::run(options, wait),
    }
}

/// Seconds of the command line, which may be fractions.
fn seconds_ns(seconds: f64) -> u64 {
    (seconds.clamp(0.0, 1e9) * 1e9) as u64
}
