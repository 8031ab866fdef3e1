//! The origin over RTMP: enough of a server for a player.

use std::io::{Read, Write};

use super::super::flv::Tag;
use super::super::rtmp::{
    ChunkReader, HANDSHAKE_LEN, Message, Value, WINDOW_SIZE, command, encode, set_chunk_size,
};
use super::{Link, Mode, Over, Stage};

pub(super) fn serve(link: &mut Link) -> Result<(), Over> {
    let mut hello = [0; 1 + HANDSHAKE_LEN];
    link.socket.read_exact(&mut hello)?;
    link.reached(Stage::Greeted);
    match link.mode() {
        Mode::AfterC0C1 => return link.hold(),
        Mode::NotFlv => {
            link.socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n<html>No RTMP.</html>")?;
            return link.hold();
        }
        _ => {}
    }
    // S0, S1 and the echo of C1. C2 is not checked. The zeros in S1 say that this is the simple
    // handshake; ffmpeg looks for a digest where a version stands there.
    link.socket.write_all(&[&[3], [0; HANDSHAKE_LEN].as_slice(), &hello[1..]].concat())?;
    link.socket.read_exact(&mut hello[1..])?;
    link.reached(Stage::HandshakeDone);
    if link.mode() == Mode::AfterHandshake {
        return link.hold();
    }
    let mut peer = Peer { chunks: ChunkReader::default(), ready: Vec::new() };
    let connect = peer.wait_command(link, "connect")?;
    let app = connect.property("app").unwrap_or_default();
    link.reached(Stage::ConnectRead);
    if link.mode() == Mode::ConnectUnanswered {
        return link.hold();
    }
    accept_connect(link)?;
    let transaction = peer.wait_command(link, "createStream")?.command().map_or(0.0, |c| c.1);
    let result = command(0, "_result", transaction, &[Value::Null, Value::Number(1.0)]);
    link.socket.write_all(&result)?;
    let play = peer.wait_command(link, "play")?;
    link.record(|connection| connection.request = format!("{app}/{}", played_name(&play)));
    link.reached(Stage::PlayRead);
    answer_play(link)
}

fn accept_connect(link: &mut Link) -> Result<(), Over> {
    let window = Message {
        number: WINDOW_SIZE,
        timestamp_ms: 0,
        stream_id: 0,
        payload: 2_500_000_u32.to_be_bytes().to_vec(),
    };
    let properties =
        [("fmsVer", Value::String("FMS/3,0,1,123")), ("capabilities", Value::Number(31.0))];
    let info = [
        ("level", Value::String("status")),
        ("code", Value::String("NetConnection.Connect.Success")),
        ("objectEncoding", Value::Number(0.0)),
    ];
    let result = command(0, "_result", 1.0, &[Value::Object(&properties), Value::Object(&info)]);
    link.socket.write_all(&[set_chunk_size(), encode(2, &window), result].concat())?;
    Ok(())
}

fn answer_play(link: &mut Link) -> Result<(), Over> {
    let status = |level, code| {
        let info = [
            ("level", Value::String(level)),
            ("code", Value::String(code)),
            ("description", Value::String("as the test wants it")),
        ];
        command(1, "onStatus", 0.0, &[Value::Null, Value::Object(&info)])
    };
    let mode = link.mode();
    if mode == Mode::PlayUnanswered {
        return link.hold();
    }
    if mode == Mode::NotFound {
        link.socket.write_all(&status("error", "NetStream.Play.StreamNotFound"))?;
        return link.hold();
    }
    if mode == Mode::Unavailable {
        link.socket.write_all(&status("error", "NetStream.Play.Failed"))?;
        return link.hold();
    }
    link.socket.write_all(&status("status", "NetStream.Play.Start"))?;
    match mode {
        Mode::MidFrame => {
            let (before, keyframe) = link.opening();
            let mut bytes: Vec<u8> = before.iter().flat_map(media).collect();
            let half = media(&keyframe);
            bytes.extend_from_slice(&half[..half.len() / 2]);
            link.socket.write_all(&bytes)?;
            link.hold()
        }
        Mode::NoMedia => link.send_media_later(media),
        mode if mode.is_healthy() => link.send_media(media),
        _ => link.hold(),
    }
}

/// A tag as a message on stream 1; audio and video on chunk streams of their own.
fn media(tag: &Tag) -> Vec<u8> {
    let message = Message {
        number: tag.kind.number(),
        timestamp_ms: tag.timestamp_ms,
        stream_id: 1,
        payload: tag.payload.clone(),
    };
    encode(tag.kind.number() - 4, &message)
}

/// The stream name: the string after the transaction number and the null.
fn played_name(play: &Message) -> String {
    let values = play.payload.get(3 + 4 + 9..).unwrap_or_default();
    match values {
        [5, 2, high, low, rest @ ..] => {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            String::from_utf8_lossy(rest.get(..len).unwrap_or_default()).into_owned()
        }
        _ => String::new(),
    }
}

/// What the peer sends after the handshake.
struct Peer {
    chunks: ChunkReader,
    ready: Vec<Message>,
}

impl Peer {
    /// Reads until this command comes; others are ignored.
    fn wait_command(&mut self, link: &mut Link, name: &str) -> Result<Message, Over> {
        let mut buffer = [0; 4096];
        loop {
            while !self.ready.is_empty() {
                let message = self.ready.remove(0);
                if message.command().is_some_and(|(found, _)| found == name) {
                    return Ok(message);
                }
            }
            let len = link.socket.read(&mut buffer)?;
            if len == 0 {
                return Err(Over);
            }
            self.ready = self.chunks.push(&buffer[..len]).map_err(|_| Over)?;
        }
    }
}
