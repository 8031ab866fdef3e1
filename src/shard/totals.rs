//! What a shard counts.

use super::Shard;
use crate::bridge::BridgeCounts;
use crate::egress::CrowdTotals;
use crate::media::state::ErrorClass;
use crate::stream::{Media, RtpDropped, TrialDropped};

/// Counters of a shard since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub media_bytes_in: u64,
    pub media_bytes_copied: u64,
    pub config_bytes_copied: u64,
    /// Tags that streams did not take: broken, or of a source that takes over, or is to, before its keyframe.
    pub tags_dropped: u64,
    pub packets_dropped: RtpDropped,
    /// Of making the form that a source does not bring.
    pub bridge: BridgeCounts,
    /// Copied once more to send them in one piece to many.
    pub joined_bytes_copied: u64,
    pub media_bytes_out: u64,
    pub sends: u64,
    pub player_jumps: u64,
    /// Sends over UDP that a socket did not take.
    pub datagrams_lost: u64,
    pub player_evictions: u64,
    pub late_messages: u64,
    pub attempts: u64,
    pub attempts_failed: [u64; ErrorClass::ALL.len()],
    pub push_attempts: u64,
    pub push_attempts_failed: [u64; ErrorClass::ALL.len()],
    /// Pushes that were up and lost their destination.
    pub push_losses: u64,
    pub registrations: u64,
    pub losses: u64,
    pub waiters_refused: u64,
    pub publishes_refused: u64,
    pub resyncs: u64,
}

impl Totals {
    /// Adds what a stream has counted.
    pub(super) fn add_media(&mut self, media: &Media) {
        let bytes = media.bytes();
        self.media_bytes_in += bytes.received;
        self.media_bytes_copied += bytes.copied;
        self.config_bytes_copied += bytes.config_copied;
        self.tags_dropped += media.tags_dropped();
        self.packets_dropped += media.packets_dropped();
        self.bridge += media.bridge_counts();
    }

    /// Adds what a source has lost that has not taken over.
    pub(super) fn add_trial(&mut self, dropped: TrialDropped) {
        self.tags_dropped += dropped.tags;
        self.packets_dropped += dropped.packets;
    }
}

impl Shard {
    pub(super) fn count_egress(&mut self, totals: CrowdTotals) {
        self.totals.media_bytes_out += totals.sent_bytes;
        self.totals.sends += totals.sends;
        self.totals.player_jumps += totals.jumps;
        self.totals.joined_bytes_copied += totals.joined_bytes;
        self.totals.datagrams_lost += totals.datagrams_lost;
    }
}
