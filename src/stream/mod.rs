//! One stream's bytes: an arena, a log over it, and the log in each wire form.

pub mod arena;
mod bridged;
mod entry;
pub mod ingest;
pub mod log;
pub mod media;
pub mod packaging;
pub mod rtp_ingest;
mod rtp_lane;
#[cfg(test)]
pub(crate) mod testing;
pub mod tracks;
mod trail;
mod tryout;
mod video_wait;

pub use ingest::Ingest;
pub use log::{Entry, Log, Prelude, Snapshot};
pub use media::{Media, MediaProgress};
pub use packaging::{Cursor, Packaging, Span, TrackSet};
pub use rtp_ingest::{RtpDropped, RtpIngest, RtpProgress};
pub use tracks::Tracks;
pub use tryout::{TrialDropped, Tryout};
