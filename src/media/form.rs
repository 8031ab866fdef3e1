//! In what the bytes of a stream are kept and given out.

/// The form that a source brings, and that a player's packaging is made of. A stream that is wanted
/// in the form that its source does not bring is bridged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// FLV tags: RTMP, HTTP-FLV, WebSocket-FLV.
    Flv,
    /// RTP packets: RTSP.
    Rtp,
}

impl Form {
    pub const ALL: [Self; 2] = [Self::Flv, Self::Rtp];

    /// The one that this one is bridged to.
    pub fn other(self) -> Self {
        match self {
            Self::Flv => Self::Rtp,
            Self::Rtp => Self::Flv,
        }
    }
}
