//! rillcast, a live-stream edge relay: io_uring, one thread per core, nothing shared.
//!
//! Modules in layer order; a file imports only from the layers before its own (`tests/tidy.rs`):
//!
//! 1. [`clock`], [`limits`], [`config`], [`logging`]: the OS clock, every maximum, the file, the log.
//! 2. [`media`]: what all protocols agree on, plain data.
//! 3. [`proto`]: sans-IO protocol sessions, bytes in, events and bytes out.

pub mod api;
pub mod bus;
pub mod clock;
pub mod config;
pub mod egress;
pub mod limits;
pub mod logging;
pub mod media;
pub mod metrics;
pub mod proto;
pub mod shard;
pub mod stream;
