//! An RTMP server that takes one stream, and numbers its message stream as the test wants it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

use super::LIVENESS;
use super::rtmp::{
    COMMAND, ChunkReader, HANDSHAKE_LEN, Message, USER_CONTROL, Value, command, set_chunk_size,
};

/// Keeps what it gets.
#[derive(Debug)]
pub struct Destination {
    pub address: SocketAddr,
    media: Arc<Mutex<Vec<Message>>>,
}

impl Destination {
    /// Answers `createStream` with this number.
    pub fn start(stream_id: u32) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let media = Arc::new(Mutex::new(Vec::new()));
        let kept = media.clone();
        spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let kept = kept.clone();
                // It ends with its peer.
                spawn(move || serve(socket, stream_id, &kept));
            }
        });
        Self { address, media }
    }

    /// Audio, video and scripts so far.
    pub fn media(&self) -> Vec<Message> {
        self.media.lock().unwrap().clone()
    }
}

fn serve(mut socket: TcpStream, stream_id: u32, kept: &Mutex<Vec<Message>>) -> std::io::Result<()> {
    socket.set_read_timeout(Some(LIVENESS))?;
    let mut hello = [0; 1 + HANDSHAKE_LEN];
    socket.read_exact(&mut hello)?;
    socket.write_all(&[&[3], [0; HANDSHAKE_LEN].as_slice(), &hello[1..]].concat())?;
    socket.read_exact(&mut hello[1..])?;
    socket.write_all(&set_chunk_size())?;
    let mut reader = ChunkReader::default();
    let mut buffer = [0; 65536];
    loop {
        let len = socket.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        for message in reader.push(&buffer[..len]).map_err(std::io::Error::other)? {
            match message.number {
                COMMAND => socket.write_all(&answer(&message, stream_id))?,
                number if number > USER_CONTROL + 2 => kept.lock().unwrap().push(message),
                _ => {}
            }
        }
    }
}

fn answer(message: &Message, stream_id: u32) -> Vec<u8> {
    let status = |code| [("level", Value::String("status")), ("code", Value::String(code))];
    let Some((name, transaction)) = message.command() else { return Vec::new() };
    match name.as_str() {
        "connect" => {
            let info = status("NetConnection.Connect.Success");
            command(0, "_result", transaction, &[Value::Null, Value::Object(&info)])
        }
        "createStream" => {
            let number = Value::Number(f64::from(stream_id));
            command(0, "_result", transaction, &[Value::Null, number])
        }
        "publish" => {
            let info = status("NetStream.Publish.Start");
            command(stream_id, "onStatus", 0.0, &[Value::Null, Value::Object(&info)])
        }
        _ => Vec::new(),
    }
}
