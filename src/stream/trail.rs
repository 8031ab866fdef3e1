//! What players of packets have got of a stream: where whoever writes the packets from now on goes on, which
//! is a source that brings them or the bridge.

/// How far the packets of a stream have come.
#[derive(Debug)]
pub(super) struct Trail {
    /// As the log's description has them.
    pub(super) tracks: Vec<TrackTrail>,
    /// The newest place on the timeline, at which something is shown or heard.
    pub(super) newest_ns: i64,
    /// The wall clock where the timeline begins.
    pub(super) start_unix: u64,
    /// Some players were told other parameter sets than the log's description has.
    pub(super) has_new_sets: bool,
}

/// Of one track.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TrackTrail {
    pub(super) last: Option<Given>,
    pub(super) packets: u32,
    pub(super) octets: u32,
}

/// A packet as players got it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given {
    pub(super) ssrc: u32,
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    pub(super) place_ns: i64,
}
