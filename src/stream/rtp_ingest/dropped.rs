//! Why packets of a source are not in its stream's log.

use std::ops::AddAssign;

/// Packets that were not taken, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RtpDropped {
    /// Of a track that the description does not have.
    pub no_track: u64,
    /// Too long to be interleaved.
    pub too_long: u64,
    /// Of a source that takes over, or is to, before its keyframe.
    pub before_keyframe: u64,
    /// Of a source that takes over, where players have had the one before.
    pub overtaken: u64,
}

impl RtpDropped {
    pub fn by_reason(&self) -> [(&'static str, u64); 4] {
        [
            ("no_track", self.no_track),
            ("too_long", self.too_long),
            ("before_keyframe", self.before_keyframe),
            ("overtaken", self.overtaken),
        ]
    }
}

impl AddAssign for RtpDropped {
    fn add_assign(&mut self, other: Self) {
        self.no_track += other.no_track;
        self.too_long += other.too_long;
        self.before_keyframe += other.before_keyframe;
        self.overtaken += other.overtaken;
    }
}
