//! Origins for the demo: one that loops a few seconds of media, one that never answers.
//!
//! Threads and blocking sockets: an origin is somebody else's machine, not a part of the relay.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::clock;
use crate::load::EMBEDDED as MEDIA;
use crate::proto::flv::{FILE_HEADER, TAG_HEADER_LEN, TAG_SIZE_LEN, TagHeader};

/// Serves the media over HTTP-FLV, in real time and with timestamps that go on over the loop.
pub(super) struct LoopingOrigin {
    address: SocketAddr,
}

/// Accepts connections and says nothing.
pub(super) struct SilentOrigin {
    listener: TcpListener,
}

impl LoopingOrigin {
    pub(super) fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        thread::Builder::new().name("demo-origin".to_owned()).spawn(move || {
            for connection in listener.incoming().flatten() {
                // A peer that goes ends its own thread and nothing else.
                thread::spawn(move || serve(connection).err());
            }
        })?;
        Ok(Self { address })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/live/demo.flv", self.address)
    }
}

impl SilentOrigin {
    pub(super) fn start() -> std::io::Result<Self> {
        // The kernel completes connections up to the backlog; nobody ever accepts them.
        Ok(Self { listener: TcpListener::bind(("127.0.0.1", 0))? })
    }

    pub(super) fn url(&self) -> String {
        let address = self.listener.local_addr().map_or_else(|_| String::new(), |a| a.to_string());
        format!("rtmp://{address}/live/never")
    }
}

#[allow(clippy::disallowed_methods, reason = "a thread of its own, paced by sleeping")]
fn serve(mut connection: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let mut len = 0;
    while !request[..len].windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let read = connection.read(&mut request[len..])?;
        if read == 0 {
            return Ok(());
        }
        len += read;
    }
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n")?;
    connection.write_all(b"Connection: close\r\n\r\n")?;
    connection.write_all(&FILE_HEADER)?;
    let tags = tags();
    let last = tags.iter().map(|(header, _)| header.timestamp_ms).max().unwrap_or(0);
    let loop_ms = last + FRAME_MS;
    let started = clock::now();
    for round in 0u32.. {
        for (header, payload) in &tags {
            let first_round = round == 0 || header.timestamp_ms > 0 || !is_config(payload);
            if !first_round {
                continue;
            }
            let timestamp_ms = header.timestamp_ms + round * loop_ms;
            let due = started + Duration::from_millis(u64::from(timestamp_ms));
            thread::sleep(due.saturating_duration_since(clock::now()));
            connection.write_all(&TagHeader { timestamp_ms, ..*header }.encode())?;
            connection.write_all(payload)?;
            let size = (TAG_HEADER_LEN + payload.len()) as u32;
            connection.write_all(&size.to_be_bytes())?;
        }
    }
    Ok(())
}

/// The file's tags: headers and payloads.
fn tags() -> Vec<(TagHeader, &'static [u8])> {
    let mut tags = Vec::new();
    let mut rest = &MEDIA[FILE_HEADER.len()..];
    while let Some((head, behind)) = rest.split_first_chunk::<TAG_HEADER_LEN>() {
        let header = TagHeader::decode(*head);
        let Some((payload, next)) = behind.split_at_checked(header.len as usize) else { break };
        tags.push((header, payload));
        rest = next.get(TAG_SIZE_LEN..).unwrap_or_default();
    }
    tags
}

/// Metadata and sequence headers, which are sent once.
fn is_config(payload: &[u8]) -> bool {
    matches!(payload, [0x02, ..] | [0x17, 0, ..] | [0xaf, 0, ..])
}

const FRAME_MS: u32 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_media_is_whole_and_begins_with_its_configuration() {
        let tags = tags();
        assert!(tags.len() > 200, "{} tags", tags.len());
        assert_eq!(tags.iter().filter(|(_, payload)| is_config(payload)).count(), 3);
        assert!(tags.iter().take(3).all(|(_, payload)| is_config(payload)));
        let bytes: usize = tags.iter().map(|(_, payload)| payload.len() + 15).sum();
        assert_eq!(bytes + FILE_HEADER.len(), MEDIA.len());
    }
}
