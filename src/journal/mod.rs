//! What the API asked for and must survive a crash: an append-only file of adds and removes.
//!
//! - `record.rs`: one record as bytes, with its checksum.
//! - `state.rs`: what a row of records amounts to, and when to write the file anew.
//! - `file.rs`: the file: opened and cut at its last whole record, appended to, compacted.
//! - `writer.rs`: the one thread that writes it; many records share a sync.
//!
//! The shard that owns a key puts its records in the order of its decisions. Whoever acknowledges
//! one asks for a [`Handle::sync`] after that, whose answer says that all before it is on the disk.

mod file;
mod record;
mod state;
mod writer;

pub use file::OpenError;
pub use record::{Frame, PullRecord, PushRecord, Record, decode, encode};
pub use state::{Damage, Replay, replay, whole};
pub use writer::{Handle, Journal, Synced};
