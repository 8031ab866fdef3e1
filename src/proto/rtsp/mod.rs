//! RTSP 1.0 as we serve and speak it: publishers and players of ours, pulls from servers and cameras.
//!
//! Left out: RTSP 2.0, TLS, tunnels through HTTP, multicast, seeking and recorded media.

pub mod auth;
pub mod client;
mod dialog;
pub mod error;
pub mod message;
pub mod publisher;
pub mod rtp_info;
pub mod sdp;
pub mod server;
pub mod session_id;
pub mod stream_url;
pub mod transport;

pub use auth::{AuthScheme, Credentials};
pub use client::{ClientConfig, ClientError, ClientEvent, ClientSession, ClientStage, ClientTrack};
pub use error::{MessageError, ServerError};
pub use message::{Interleaved, Item, MessageReader, Method, Request, Response};
pub use publisher::{
    PublisherConfig, PublisherError, PublisherEvent, PublisherSession, PublisherStage,
};
pub use rtp_info::TrackStart;
pub use sdp::{MediaDescription, SessionDescription};
pub use server::{ServerConfig, ServerEvent, ServerSession};
pub use stream_url::StreamRequest;
pub use transport::{Channels, Delivery, LowerTransport, PacketKind, Ports, Transport};

#[cfg(test)]
pub(crate) mod capture_tests;
#[cfg(test)]
mod pair_tests;
