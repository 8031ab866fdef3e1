//! HTTP/1 as far as we serve and call it: API requests, live bodies, WebSocket, pulls of HTTP-FLV.
//!
//! Left out: HTTP/2, TLS, content codings, ranges, static files, WebSocket extensions.

pub mod chunked;
pub mod client;
pub mod error;
pub mod headers;
pub mod post;
pub mod request;
mod request_reader;
pub mod response;
pub mod server;
pub mod websocket;
pub mod websocket_client;

pub use client::{ClientConfig, ClientEvent, ClientSession};
pub use error::HttpError;
pub use headers::Headers;
pub use post::{PostReply, ReplyReader, encode_post};
pub use request::{Method, Request};
pub use response::Response;
pub use server::{ServerConfig, ServerEvent, ServerSession, StreamStart, WallClock};
pub use websocket_client::{WebSocketClient, WebSocketClientConfig, WebSocketEvent};

#[cfg(test)]
mod testing {
    use crate::proto::Output;
    use bytes::Bytes;

    /// Input cut at every point, then byte by byte; `feed` gets the pieces in order.
    pub(super) fn at_every_split(input: &[u8], mut feed: impl FnMut(&[Bytes])) {
        let whole = Bytes::copy_from_slice(input);
        for at in 0..=whole.len() {
            feed(&[whole.slice(..at), whole.slice(at..)]);
        }
        let bytes: Vec<Bytes> = (0..whole.len()).map(|at| whole.slice(at..at + 1)).collect();
        feed(&bytes);
    }

    /// All sent bytes as one text, and all events.
    pub(super) fn drain<E>(mut poll: impl FnMut() -> Option<Output<E>>) -> (String, Vec<E>) {
        let (mut sent, mut events) = (Vec::new(), Vec::new());
        while let Some(output) = poll() {
            match output {
                Output::Send(bytes) => sent.extend_from_slice(&bytes),
                Output::Event(event) => events.push(event),
            }
        }
        (sent.iter().map(|&byte| char::from(byte)).collect(), events)
    }
}
