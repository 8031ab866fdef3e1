//! An RTMP publisher whose chunk streams interleave: small chunks, and between those of a picture
//! the audio that follows it, as nginx-rtmp with `interleave on` and some encoders send it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use super::LIVENESS;
use super::flv::{Kind, Tag};
use super::player::{Buffer, connect};
use super::rtmp::{
    COMMAND, ChunkReader, HANDSHAKE_LEN, Message, Value, chunks, command, set_chunk_size,
    set_chunk_size_to,
};

/// Sends tags in real time, once.
#[derive(Debug)]
pub struct Interleaver {
    socket: TcpStream,
    /// What the relay says.
    reader: ChunkReader,
    thread: Option<JoinHandle<()>>,
}

/// The specification's default: a picture of 100 KB is 800 chunks.
const SMALL_CHUNK: usize = 128;

impl Interleaver {
    /// Publishes `live/<stream>`. `tags` are audio and video, a picture first.
    #[track_caller]
    pub fn start(address: SocketAddr, stream: &str, tags: Vec<Tag>) -> Self {
        let mut socket = connect(address, Buffer::Large);
        socket.set_read_timeout(Some(LIVENESS)).expect("a timeout");
        let reader = ask(&mut socket, address, stream).expect("the relay lets us publish");
        socket.write_all(&set_chunk_size_to(SMALL_CHUNK)).expect("the relay reads");
        let mut writing = socket.try_clone().expect("a second handle");
        let thread = spawn(move || {
            let start = Instant::now();
            let is_picture = |tag: &Tag| tag.kind == Kind::Video;
            for group in tags.chunk_by(|_, next| !is_picture(next)) {
                let due = start + Duration::from_millis(group[0].timestamp_ms.into());
                sleep(due.saturating_duration_since(Instant::now()));
                writing.write_all(&interleave(group)).expect("the relay reads");
            }
        });
        Self { socket, reader, thread: Some(thread) }
    }

    /// Waits until everything is sent. The connection stays open.
    pub fn wait_sent(&mut self) {
        let thread = self.thread.take().expect("waited for once");
        thread.join().expect("the writing thread does not panic");
    }

    /// Ends its stream and plays another one over the same connection, until so many pictures of it have
    /// come. Everything must have been sent.
    #[track_caller]
    pub fn play_instead(&mut self, stream: &str, pictures: usize) {
        assert!(self.thread.is_none(), "it still publishes");
        let delete = command(0, "deleteStream", 4.0, &[Value::Null, Value::Number(1.0)]);
        let create = command(0, "createStream", 5.0, &[Value::Null]);
        let play = command(1, "play", 0.0, &[Value::Null, Value::String(stream)]);
        let asked = [delete, create, play].concat();
        self.socket.write_all(&asked).expect("the relay reads");
        let mut buffer = [0; 65_536];
        let mut came = 0;
        while came < pictures {
            let len = self.socket.read(&mut buffer).expect("the relay sends");
            assert!(len > 0, "it is closed after {came} pictures");
            let messages = self.reader.push(&buffer[..len]).expect("whole chunks");
            came += messages.iter().filter(|of| of.number == Kind::Video.number()).count();
        }
    }
}

impl Drop for Interleaver {
    fn drop(&mut self) {
        // The relay may have closed it first.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// A picture's chunks with those of the audio behind it between them, in turns.
fn interleave(group: &[Tag]) -> Vec<u8> {
    let message = |tag: &Tag| Message {
        number: tag.kind.number(),
        timestamp_ms: tag.timestamp_ms,
        stream_id: 1,
        payload: tag.payload.clone(),
    };
    let chunks = |tag: &Tag| chunks(tag.kind.number() - 4, &message(tag), SMALL_CHUNK);
    let (picture, audio) = group.split_first().expect("a group is not empty");
    let mut audio = audio.iter().flat_map(chunks);
    let mut bytes = Vec::new();
    for chunk in chunks(picture) {
        bytes.extend(chunk);
        bytes.extend(audio.next().into_iter().flatten());
    }
    bytes.extend(audio.flatten());
    bytes
}

/// Handshake and commands, up to the relay's word that we publish.
fn ask(socket: &mut TcpStream, address: SocketAddr, stream: &str) -> std::io::Result<ChunkReader> {
    socket.write_all(&[&[3], [0; HANDSHAKE_LEN].as_slice()].concat())?;
    let mut answer = [0; 1 + 2 * HANDSHAKE_LEN];
    socket.read_exact(&mut answer)?;
    socket.write_all(&answer[1..=HANDSHAKE_LEN])?;
    let url = format!("rtmp://{address}/live");
    let object = [("app", Value::String("live")), ("tcUrl", Value::String(&url))];
    socket.write_all(&set_chunk_size())?;
    socket.write_all(&command(0, "connect", 1.0, &[Value::Object(&object)]))?;
    socket.write_all(&command(0, "createStream", 2.0, &[Value::Null]))?;
    let name = [Value::Null, Value::String(stream), Value::String("live")];
    socket.write_all(&command(1, "publish", 3.0, &name))?;
    let mut reader = ChunkReader::default();
    let mut buffer = [0; 4096];
    loop {
        let len = socket.read(&mut buffer)?;
        let messages = reader.push(&buffer[..len]).map_err(std::io::Error::other)?;
        let codes = messages.iter().filter(|of| of.number == COMMAND);
        let codes: Vec<String> = codes.filter_map(|of| of.property("code")).collect();
        if codes.iter().any(|code| code == "NetStream.Publish.Start") {
            return Ok(reader);
        }
        if len == 0 || codes.iter().any(|code| code.starts_with("NetStream.")) {
            return Err(std::io::Error::other(format!("refused: {codes:?}")));
        }
    }
}
