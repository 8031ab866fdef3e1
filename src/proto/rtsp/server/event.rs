//! What the server session tells its driver, and what it is told.

#[cfg(doc)]
use super::ServerSession;
use crate::proto::rtsp::message::Interleaved;
use crate::proto::rtsp::sdp::SessionDescription;
use crate::proto::rtsp::stream_url::StreamRequest;
use crate::proto::rtsp::transport::{Delivery, Mode, PacketKind, Ports};

/// What the driver must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// Answer with [`ServerSession::accept_describe`] or [`ServerSession::refuse`].
    Describe(StreamRequest),
    /// Answer with [`ServerSession::accept_announce`] or [`ServerSession::refuse`].
    Announce { request: StreamRequest, description: SessionDescription },
    /// One was announced that is none, or that can't be served; the peer was told, and may try again.
    BadDescription,
    /// Answer with [`ServerSession::accept_udp`] or [`ServerSession::refuse`].
    SetupUdp { track: usize, mode: Mode, client_port: Ports },
    /// Answer with [`ServerSession::accept_play`] or [`ServerSession::refuse`].
    Play(Vec<TrackSetup>),
    /// Answer with [`ServerSession::accept_record`] or [`ServerSession::refuse`].
    Record(Vec<TrackSetup>),
    /// The player wants nothing until the next [`Self::Play`].
    Pause,
    /// A packet of a publisher, or a report of a player.
    Packet { track: usize, kind: PacketKind, packet: Interleaved },
    /// The peer wants no more, or publishes no more; also before it began.
    Teardown,
}

/// A track that is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackSetup {
    /// Its place in the description.
    pub track: usize,
    pub delivery: Delivery,
    /// As in the SETUP.
    pub(super) url: String,
}

/// The first packet that a player is sent of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstPacket {
    pub track: usize,
    pub sequence: u16,
    pub timestamp: u32,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NotFound,
    /// Whom a hook did not let in: 401 as ZLMediaKit says it, with no challenge, as no password would help.
    Denied,
    /// Whom a rule of ours does not let in.
    Forbidden,
    /// The stream is published already: 406, as ZLMediaKit says it.
    InUse,
    /// No codec of the stream can be sent as RTP.
    MediaType,
    /// A transport that can't be had now.
    Transport,
    /// We can't take or serve it now.
    Unavailable,
}

impl Refusal {
    pub(super) fn status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Denied => 401,
            Self::Forbidden => 403,
            Self::InUse => 406,
            Self::MediaType => 415,
            Self::Transport => 461,
            Self::Unavailable => 503,
        }
    }
}
