//! What the threads of a run tell each other while it goes on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::publisher::Sent;

/// Counted by the threads that load, read by the one that shows.
#[derive(Debug, Default)]
pub(super) struct Progress {
    stopping: AtomicBool,
    pub(super) joined: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) frames: AtomicU64,
    pub(super) missing: AtomicU64,
}

impl Progress {
    /// Has all threads come to their end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Shows how it goes.
    pub(super) fn show(&self) {}

    /// Of one thread that publishes.
    pub(super) fn set_publishing(&self, sent: &Sent) {
        self.joined.store(sent.started, Relaxed);
        self.failed.store(sent.failed_count(), Relaxed);
        self.bytes.store(sent.bytes, Relaxed);
        self.frames.store(sent.frames, Relaxed);
    }
}
