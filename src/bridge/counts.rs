//! What a bridge has done, and what of its source was no use to it.

use std::ops::AddAssign;

use crate::proto::rtp::DepacketizeError;

/// Counts of a bridge from when it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeCounts {
    /// Copied to make the form that the source does not bring.
    pub bytes_copied: u64,
    /// Packets that can't be read, by [`DepacketizeError::reason`].
    pub packets_unread: [u64; DepacketizeError::REASONS.len()],
    /// Frames of packets of which a part is missing or can't be read.
    pub damaged: u64,
    /// Frames without the configuration that they need.
    pub unconfigured: u64,
    /// Pictures before one that players can start at.
    pub before_keyframe: u64,
    /// Tags that are neither a frame nor a configuration, and frames that do not hold what they say.
    pub unreadable: u64,
    /// Frames of tags that are of a codec that no packets are made of, or of a track that came too late.
    pub left_out: u64,
    /// Frames of tags that are longer than their packet can be.
    pub too_long: u64,
}

impl BridgeCounts {
    /// Frames that were not made, by reason.
    pub fn frames_dropped(&self) -> [(&'static str, u64); 6] {
        [
            ("damaged", self.damaged),
            ("unconfigured", self.unconfigured),
            ("before_keyframe", self.before_keyframe),
            ("unreadable", self.unreadable),
            ("left_out", self.left_out),
            ("too_long", self.too_long),
        ]
    }
}

impl AddAssign for BridgeCounts {
    fn add_assign(&mut self, other: Self) {
        self.bytes_copied += other.bytes_copied;
        let packets = self.packets_unread.iter_mut().zip(other.packets_unread);
        packets.for_each(|(count, more)| *count += more);
        self.damaged += other.damaged;
        self.unconfigured += other.unconfigured;
        self.before_keyframe += other.before_keyframe;
        self.unreadable += other.unreadable;
        self.left_out += other.left_out;
        self.too_long += other.too_long;
    }
}
