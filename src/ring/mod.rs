//! The shard's io_uring for media bytes, and the sockets it works on.
//!
//! A shard has two rings. [`MediaRing`] takes in: accept, receive, connect, writability; the shard
//! sleeps in it. [`EgressRing`] gives out: batches of sends that are complete when the call returns.
//!
//! Needs Linux 6.1 (deferred task run); [`crate::rt::preflight`] says so at start.

mod buffers;
mod completion;
mod egress;
#[cfg(test)]
mod mark_tests;
mod media;
mod prefetch;
mod sleep;
pub mod socket;
mod steering;
mod tcp_facts;
mod waker;

pub use buffers::Received;
pub use completion::{Completion, Ended, OpKind, Outcome, Token};
pub use egress::{Batch, EgressRing, SendFailure, SpanId};
pub use media::{MediaRing, RingSizes};
pub use prefetch::{prefetch, prefetch_at};
pub use steering::steer_by_cpu;
pub use tcp_facts::{TcpFacts, least_rtt_us, tcp_facts, unacked_bytes};
pub use waker::Waker;
