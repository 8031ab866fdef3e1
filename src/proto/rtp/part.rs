//! RTP as a source's session hands it on: in order, validated, track by track.

use std::sync::Arc;

use bytes::Bytes;

use super::packet::RtpPacket;
use super::reorder::Gap;
use super::rtcp::SenderReport;
use crate::proto::rtsp::sdp::SessionDescription;

/// One step of RTP in. Tracks are counted by their place in the description.
#[derive(Debug, Clone)]
pub enum RtpPart {
    /// What the source brings, before anything else of it.
    Begin(Arc<SessionDescription>),
    /// The source says that the track begins with this timestamp (`RTP-Info`).
    Announced { track: usize, timestamp: u32 },
    /// The next packet of a track in the order of sequence numbers, and what is missing before it.
    Packet { track: usize, packet: RtpPacket, gap: Gap },
    /// A compound RTCP packet of the source as it came, and the sender report in it.
    Report { track: usize, bytes: Bytes, report: Option<SenderReport> },
}
