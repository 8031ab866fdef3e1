//! One stream's bytes: an arena, a log over it, and the log in each wire form.

pub mod arena;
pub mod ingest;
pub mod log;
pub mod packaging;
#[cfg(test)]
pub(crate) mod testing;
pub mod tracks;

pub use ingest::Ingest;
pub use log::{Entry, Log, Prelude, Snapshot};
pub use packaging::{Cursor, Packaging, Span};
pub use tracks::Tracks;
