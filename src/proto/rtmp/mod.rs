//! RTMP over TCP: the server, client and publisher sessions (Adobe RTMP 1.0; Enhanced RTMP v2).
//!
//! Media leaves a session as [`MediaPart`](crate::media::MediaPart)s, views of the input. Media to
//! a player does not pass through its session: the egress packages it once for all with the helpers
//! in [`chunk_encoding`]. RTMPE, RTMPT and shared objects are left out.

pub mod chunk;
pub mod chunk_encoding;
pub mod client;
pub mod command;
pub mod error;
pub mod handshake;
pub mod message;
pub mod publisher;
pub mod server;

mod acknowledgement;
mod chunk_header;
mod stream_name;

pub use client::{ClientConfig, ClientEvent, ClientSession, ClientStage};
pub use error::{ChunkError, ClientError, HandshakeError, PublisherError, ServerError};
pub use publisher::{PublisherConfig, PublisherEvent, PublisherSession, PublisherStage};
pub use server::{
    PlayEnd, PlayRefusal, PublishEnd, PublishRefusal, ServerConfig, ServerEvent, ServerSession,
    StreamRequest,
};

#[cfg(test)]
mod pair_tests;
