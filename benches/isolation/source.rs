//! An HTTP-FLV origin with frames of realistic sizes, sent to the millisecond.
//!
//! 720p at 2 Mbit/s as in `docs/benchmarks.md`: 25 pictures a second, a keyframe of 48 KiB each 2 s
//! and 9 KiB for the others, AAC of 340 B each 23 ms. The payload is noise: nobody here decodes.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::spawn;
use std::time::{Duration, Instant};

use rillcast::clock;

use crate::kit::flv::{self, Kind, Role, Tag};
use crate::kit::{media, pause};

const FRAME_MS: u32 = 40;
const AUDIO_MS: u32 = 23;
const FRAMES_PER_GOP: u32 = 50;
const KEYFRAME_LEN: usize = 48 * 1024;
const FRAME_LEN: usize = 9 * 1024;
const AUDIO_LEN: usize = 340;

/// When each picture was sent, by its timestamp.
pub(crate) type SentTimes = Arc<Mutex<HashMap<u32, Instant>>>;

pub(crate) struct Source {
    address: SocketAddr,
    pub(crate) sent: SentTimes,
}

impl Source {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let sent = SentTimes::default();
        let for_thread = Arc::clone(&sent);
        spawn(move || {
            let (socket, _) = listener.accept().expect("the relay's pull");
            // It ends when the relay does.
            let _ = serve(socket, &for_thread);
        });
        Self { address, sent }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/live/bench.flv", self.address)
    }
}

fn serve(mut socket: TcpStream, sent: &SentTimes) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut request = [0; 4096];
    let _ = socket.read(&mut request)?;
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n\r\n")?;
    socket.write_all(&flv::header(true, true))?;
    for config in flv::read(&media("av.flv")).iter().filter(|tag| tag.role() == Role::Config) {
        socket.write_all(&flv::encode(&Tag { timestamp_ms: 0, ..config.clone() }))?;
    }
    let start = clock::now();
    let (mut picture, mut sound) = (0, 0);
    loop {
        let next_ms = (picture * FRAME_MS).min(sound * AUDIO_MS);
        let due = start + Duration::from_millis(u64::from(next_ms));
        pause(due.saturating_duration_since(clock::now()));
        let tag = if sound * AUDIO_MS < picture * FRAME_MS {
            sound += 1;
            audio(next_ms)
        } else {
            picture += 1;
            video(next_ms, (picture - 1) % FRAMES_PER_GOP == 0)
        };
        let bytes = flv::encode(&tag);
        if tag.kind == Kind::Video {
            sent.lock().expect("no panic while locked").insert(next_ms, clock::now());
        }
        socket.write_all(&bytes)?;
    }
}

fn video(timestamp_ms: u32, keyframe: bool) -> Tag {
    let (first, len) = if keyframe { (0x17, KEYFRAME_LEN) } else { (0x27, FRAME_LEN) };
    let mut payload = vec![first, 1, 0, 0, 0];
    payload.resize(len, 0xa5);
    Tag { kind: Kind::Video, timestamp_ms, payload }
}

fn audio(timestamp_ms: u32) -> Tag {
    let mut payload = vec![0xaf, 1];
    payload.resize(AUDIO_LEN, 0x5a);
    Tag { kind: Kind::Audio, timestamp_ms, payload }
}
