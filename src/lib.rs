//! rillcast, a live-stream edge relay: io_uring, one thread per core, nothing shared.
//!
//! Modules in layer order; a file imports only from the layers before its own (`tests/tidy.rs`):
//!
//! 1. [`clock`], [`limits`], [`rt`]: the OS clock, every maximum, the executors.
//! 2. [`media`]: what all protocols agree on, plain data.
//! 3. [`proto`]: sans-IO protocol sessions, bytes in, events and bytes out.
//! 4. [`ring`]: the shard's io_uring, sockets and receive buffers.
//! 5. [`net`]: name lookups.

pub mod clock;
pub mod limits;
pub mod media;
pub mod net;
pub mod proto;
pub mod ring;
pub mod rt;
