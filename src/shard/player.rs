//! What a connection comes with that wants to play.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::egress::{RtpStart, Socket};
use crate::media::{ConnectionId, StreamKey};
use crate::stream::Packaging;

/// A player that asks for a stream.
pub struct PlayRequest {
    pub connection: ConnectionId,
    pub key: StreamKey,
    pub packaging: Packaging,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// The query that it came with, raw.
    pub params: String,
}

/// A player's socket and what it has not sent yet, when its session has been told that it plays.
pub struct Admitted {
    pub connection: ConnectionId,
    pub socket: Socket,
    pub unsent: Bytes,
    /// Of a player over RTSP: which tracks it gets, and how.
    pub rtp: Option<RtpStart>,
}
