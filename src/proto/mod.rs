//! Sans-IO protocol sessions: bytes in, events and bytes out. No socket, clock, task or log.
//!
//! # The session contract
//!
//! Every session has these four methods, plus commands named by a verb (`accept_publish`,
//! `close`). After each call that changes it, `poll_output` is drained before the next one.
//!
//! ```ignore
//! fn handle_input(&mut self, now: Instant, input: Bytes) -> Result<(), Error>;
//! fn handle_timeout(&mut self, now: Instant) -> Result<(), Error>;
//! fn poll_output(&mut self) -> Option<Output>; // Send(bytes) | Event(event)
//! fn poll_timeout(&self) -> Option<Instant>;
//! ```
//!
//! After an error the session is dead: its output so far may still be drained, then the connection
//! is closed. `now` never runs backwards.
//!
//! # Specifications followed
//!
//! | Module | Specification |
//! |---|---|
//! | [`amf0`] | Action Message Format, AMF 0 (2007); of AMF 3 (2013) the scalars |
//! | [`flv`] | Adobe Flash Video File Format 10.1, Annex E; Enhanced RTMP v2 (Veovera) |
//! | [`http`] | RFC 9110, RFC 9112 (HTTP/1.1), RFC 6455 (WebSocket), WHATWG Fetch 3.2 (CORS) |
//! | [`rtmp`] | Adobe RTMP 1.0 (2012); Enhanced RTMP v2 (Veovera); the digest handshake is unpublished |
//! | [`rtp`] | RFC 3550 and 3551 (RTP, RTCP), 5761 (telling them apart), 6184 (H.264), 7798 (H.265), 3640 and 6416 (AAC), 7587 (Opus) |
//! | [`rtsp`] | RFC 2326 (RTSP 1.0), RFC 8866 (SDP), RFC 7617 (Basic), RFC 7616 and 2617 (Digest) |

pub mod amf0;
pub mod flv;
pub mod http;
pub mod reader;
pub mod rtmp;
pub mod rtp;
pub mod rtsp;

use bytes::Bytes;

/// What a session wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output<E> {
    /// Send these bytes to the peer, in order.
    Send(Bytes),
    /// Something happened that the driver must act on.
    Event(E),
}
