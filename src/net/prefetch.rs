//! Fetching ahead: what completions are about to need, from memory.
//!
//! With some hundred streams nothing of a stream is in the CPU's cache when its next frame comes: its
//! link, session, log, players and what these point to are some twenty misses in a row, each of which
//! has to end before the next begins. Here they are asked for level by level for several streams at
//! once, so that those of a level run side by side (decision 0023).

use std::vec::Drain;

use super::driver::Driver;
use super::link::{Link, Role, Session};
use crate::ring::{Completion, Outcome, prefetch, prefetch_at};
use crate::shard::{Shard, StreamHandle};

impl Driver {
    /// Handles completions, in order.
    pub(super) fn complete_all(&mut self, mut completions: Drain<'_, Completion>) {
        while !completions.as_slice().is_empty() {
            self.prefetch(completions.as_slice());
            for completion in completions.by_ref().take(PREFETCHED_MAX) {
                self.complete(completion);
                self.act();
            }
        }
    }

    /// Has the CPU fetch what the next completions need, [`PREFETCHED_MAX`] of them.
    fn prefetch(&self, completions: &[Completion]) {
        let completions = &completions[..completions.len().min(PREFETCHED_MAX)];
        if completions.len() < PREFETCHED_MIN {
            return;
        }
        for completion in completions {
            if let Some(link) = self.links.at(completion.token) {
                prefetch(link);
            }
        }
        let mut sources = [None; PREFETCHED_MAX];
        for (completion, source) in completions.iter().zip(&mut sources) {
            *source = self.prefetch_source(completion);
        }
        for depth in 1..=Shard::DEPTH_MAX {
            for (link, handle, len) in sources.iter().flatten() {
                if depth == 1 {
                    link.prefetch_parts();
                }
                self.shard.prefetch(*handle, depth, *len);
            }
        }
    }

    /// The first level. The stream that the completion brings bytes of, and how many.
    fn prefetch_source(&self, completion: &Completion) -> Option<(&Link, StreamHandle, usize)> {
        let Outcome::Received(bytes) = &completion.outcome else { return None };
        let bytes = bytes.as_ref();
        let link = self.links.get(completion.token)?;
        let handle = match link.role {
            Role::Publisher(handle) => handle,
            Role::Attempt(attempt) => self.shard.stream_of(attempt)?,
            _ => return None,
        };
        prefetch(&bytes[..bytes.len().min(HEAD_LEN)]);
        link.prefetch();
        self.shard.prefetch(handle, 0, bytes.len());
        Some((link, handle, bytes.len()))
    }
}

impl Link {
    /// Has the CPU fetch what this points to.
    fn prefetch(&self) {
        if let Some(low_water) = &self.low_water {
            prefetch(&**low_water);
        }
        match &self.session {
            Session::Rtmp(session) => prefetch(&**session),
            Session::Http(session) => prefetch(&**session),
            Session::Rtsp(session) => prefetch(&**session),
            Session::Origin(session) => prefetch(&**session),
            Session::Destination(session) => prefetch(&**session),
        }
    }

    /// What the session of a publisher points to.
    fn prefetch_parts(&self) {
        if let Session::Rtmp(session) = &self.session {
            let (start, len) = session.chunk_streams();
            prefetch_at(start, len);
        }
    }
}

/// Completions whose memory is fetched together: at some 100 lines each they fill a fifth of a second
/// cache of 512 KiB.
const PREFETCHED_MAX: usize = 16;
/// Fewer have nothing to run side by side with.
const PREFETCHED_MIN: usize = 3;
/// Of what was received, where reading begins; the CPU itself sees how it goes on.
const HEAD_LEN: usize = 192;
