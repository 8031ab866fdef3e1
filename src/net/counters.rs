//! What `net` counts of connections, and of sources that bring packets.

use crate::proto::rtp::SourceCounts;
use crate::proto::rtsp::ServerError;

/// What `net` counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    /// Plays and publishes that a rule or limit was against.
    pub(super) denied: u64,
    pub(super) shed: u64,
    pub(super) session_errors: u64,
    pub(super) handed_over: u64,
    pub(super) ticks: u64,
    pub(super) receives: u64,
    /// Of sources that are over.
    pub(super) rtp: SourceCounts,
    /// Interleaved packets that nothing was agreed for, of connections that are closed.
    pub(super) stray_interleaved: u64,
    pub(super) datagrams_too_long: u64,
    /// Before the session took media, or of no use to it.
    pub(super) datagrams_unwanted: u64,
    /// Tracks that got no UDP ports.
    pub(super) udp_refused: u64,
    /// Announced, and not taken.
    pub(super) rtsp_bad_descriptions: u64,
    /// Sessions of RTSP that their peers ended by a fault, by its reason.
    pub(super) rtsp_errors: [u64; ServerError::REASONS.len()],
}
