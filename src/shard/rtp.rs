//! Streams as RTP: packets of a source in, and what a player over RTSP is told before it gets any.

use std::sync::Arc;
use std::time::Instant;

use super::Shard;
use super::tables::StreamHandle;
use crate::media::ConnectionId;
use crate::proto::rtp::RtpPart;
use crate::proto::rtsp::SessionDescription;
use crate::proto::rtsp::server::FirstPacket;

impl Shard {
    /// The next step of a source that brings RTP. `false` when the source is not that of the stream
    /// any more.
    pub fn rtp(&mut self, now: Instant, handle: StreamHandle, part: RtpPart) -> bool {
        let _ = (now, handle, part);
        todo!()
    }

    /// What the stream has, for a player over RTSP that was admitted: the answer to its DESCRIBE.
    /// `None` for whoever is no such player.
    pub fn description(&self, connection: ConnectionId) -> Option<Arc<SessionDescription>> {
        let _ = connection;
        todo!()
    }

    /// The first packet of each track that [`Self::admitted`] would send now: for the answer to
    /// PLAY. A track that has none yet is left out.
    pub fn first_packets(&self, connection: ConnectionId) -> Vec<FirstPacket> {
        let _ = connection;
        todo!()
    }

    /// The player wants nothing until the next [`Self::admitted`].
    pub fn pause(&mut self, connection: ConnectionId) {
        let _ = connection;
        todo!()
    }
}
