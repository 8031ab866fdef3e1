//! rillcast, a live-stream edge relay: io_uring, one thread per core, nothing shared.
//!
//! Modules in layer order; a file imports only from the layers before its own (`tests/tidy.rs`):
//!
//! 1. [`clock`], [`limits`], [`config`], [`logging`], [`rt`]: the OS clock, every maximum, the
//!    config file, the log, the executor.
//! 2. [`media`]: what all protocols agree on, plain data.
//! 3. [`proto`], [`access`], [`journal`], [`origin`]: sans-IO protocol sessions, bytes in, events and
//!    bytes out; who may do what; what survives a restart; where absent streams are looked for.
//! 4. [`bridge`]: frames of FLV tags as RTP packets, and the other way.
//! 5. [`ring`], [`stream`]: a shard's io_uring; one stream's bytes.
//! 6. [`egress`], [`bus`]: bytes to many players; what crosses a core.
//! 7. [`shard`], [`metrics`]: one core's world, synchronous; what it counts, as Prometheus text.
//! 8. [`net`]: the sockets, and what drives the sessions on them.
//! 9. [`api`]: ZLMediaKit's HTTP API, health and metrics.
//! 10. [`events`]: the event log: who follows it, the web hooks.
//! 11. [`load`]: the load generator.
//! 12. [`cli`], `demo`, `doctor`: the command line.

pub mod access;
pub mod api;
pub mod bridge;
pub mod bus;
pub mod cli;
pub mod clock;
pub mod config;
mod demo;
mod doctor;
pub mod egress;
pub mod events;
pub mod journal;
pub mod limits;
pub mod load;
pub mod logging;
pub mod media;
pub mod metrics;
pub mod net;
pub mod origin;
pub mod proto;
pub mod ring;
pub mod rt;
pub mod shard;
pub mod stream;
