//! rillcast, a live-stream edge relay: io_uring, one thread per core, nothing shared.
//!
//! Modules in layer order; a file imports only from the layers before its own (`tests/tidy.rs`):
//!
//! 1. [`clock`], [`limits`]: the OS clock and every maximum.
//! 2. [`media`]: what all protocols agree on, plain data.
//! 3. [`proto`]: sans-IO protocol sessions, bytes in, events and bytes out.

pub mod clock;
pub mod limits;
pub mod media;
pub mod proto;
