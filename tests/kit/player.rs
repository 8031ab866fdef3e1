//! Players that keep every tag they get, raw, as the wire had it: HTTP-FLV here, WS-FLV in
//! `ws_player`, RTMP in `rtmp_player`.
//!
//! Each reads on a thread of its own. `pause` stops reading, so that the kernel's buffers fill and
//! the relay sees a player that is stalled.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::compare::coded;
use super::flv::{Kind, Reader, Tag};
use super::http::{Dechunk, parse_head};
use super::{LIVENESS, wait_until};

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Eof,
    Reset,
    /// A WebSocket close frame with its code and reason.
    WebSocket(u16, String),
}

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// HTTP status; 101 for an open WebSocket.
    pub status: Option<u16>,
    pub headers: Vec<(String, String)>,
    /// Bytes of a reply that is no stream.
    pub body: Vec<u8>,
    /// Codes of `onStatus`.
    pub codes: Vec<String>,
    pub tags: Vec<Tag>,
    /// When each of them had come.
    pub arrivals: Vec<Instant>,
    pub last_tag: Option<Instant>,
    pub end: Option<End>,
    /// What was wrong with the bytes.
    pub fault: Option<String>,
}

/// One connection's protocol: bytes in, what was seen out.
pub trait Wire: Send + 'static {
    /// # Errors
    /// What is wrong with the bytes.
    fn push(&mut self, bytes: &[u8], socket: &mut TcpStream, seen: &mut Seen)
    -> Result<(), String>;
}

/// A connected player.
#[derive(Debug)]
pub struct Player {
    what: String,
    seen: Arc<Mutex<Seen>>,
    paused: Arc<AtomicBool>,
    socket: TcpStream,
    thread: Option<JoinHandle<()>>,
}

/// Receive buffer of a player: large, or as small as the kernel allows, so that it stalls soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffer {
    Large,
    Small,
}

impl Player {
    /// `path` as in a URL, with the leading slash.
    pub fn http_flv(address: SocketAddr, path: &str) -> Self {
        Self::http_flv_with(address, path, Buffer::Large)
    }

    pub fn http_flv_with(address: SocketAddr, path: &str, buffer: Buffer) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\n\r\n");
        let socket = connect(address, buffer);
        Self::start(&format!("http {path}"), socket, request.as_bytes(), HttpFlv::default())
    }

    /// Sends `hello` and reads until the end.
    pub fn start(what: &str, mut socket: TcpStream, hello: &[u8], mut wire: impl Wire) -> Self {
        socket.write_all(hello).expect("a fresh socket takes the request");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let paused = Arc::new(AtomicBool::new(false));
        let mut reading = socket.try_clone().expect("a second handle");
        let (seen_by_thread, paused_in_thread) = (Arc::clone(&seen), Arc::clone(&paused));
        let thread = spawn(move || {
            let mut buffer = vec![0; 65_536];
            loop {
                if paused_in_thread.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(10));
                    continue;
                }
                let result = reading.read(&mut buffer);
                let mut seen = seen_by_thread.lock().expect("no panic while locked");
                match result {
                    Ok(0) => {
                        seen.end.get_or_insert(End::Eof);
                        return;
                    }
                    Ok(len) => {
                        let tags_before = seen.tags.len();
                        if let Err(fault) = wire.push(&buffer[..len], &mut reading, &mut seen) {
                            seen.fault = Some(fault);
                            return;
                        }
                        if seen.tags.len() > tags_before {
                            let (count, now) = (seen.tags.len(), Instant::now());
                            seen.arrivals.resize(count, now);
                            seen.last_tag = Some(now);
                        }
                    }
                    Err(error) if is_wait(&error) => {}
                    Err(_) => {
                        seen.end.get_or_insert(End::Reset);
                        return;
                    }
                }
            }
        });
        Self { what: what.to_owned(), seen, paused, socket, thread: Some(thread) }
    }

    pub fn what(&self) -> &str {
        &self.what
    }

    /// Looks at what has been seen. A fault in the bytes fails the test here.
    #[track_caller]
    pub fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        let seen = self.seen.lock().expect("no panic while locked");
        assert_eq!(seen.fault, None, "{}: bad bytes", self.what);
        look(&seen)
    }

    #[track_caller]
    pub fn tags(&self) -> Vec<Tag> {
        self.look(|seen| seen.tags.clone())
    }

    #[track_caller]
    pub fn frame_count(&self, kind: Kind) -> usize {
        self.look(|seen| coded(&seen.tags, kind).len())
    }

    /// The longest time without a picture since then, up to the newest one.
    #[track_caller]
    pub fn longest_gap(&self, since: Instant) -> Duration {
        self.look(|seen| {
            let pictures = seen.tags.iter().zip(&seen.arrivals);
            let pictures = pictures.filter(|(tag, _)| tag.kind == Kind::Video && tag.is_coded());
            let times = pictures.map(|(_, &at)| at).filter(|&at| at >= since);
            let times: Vec<Instant> = std::iter::once(since).chain(times).collect();
            times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
        })
    }

    /// Waits for so many coded frames in all.
    #[track_caller]
    pub fn wait_frames(&self, kind: Kind, count: usize) {
        wait_until(LIVENESS, &format!("{}: {count} {kind:?} frames", self.what), || {
            let end = self.look(|seen| seen.end.clone());
            let have = self.frame_count(kind);
            assert!(
                end.is_none() || have >= count,
                "{}: ended ({end:?}) with {have} {kind:?} frames",
                self.what
            );
            have >= count
        });
    }

    /// Waits for so many coded frames beyond those already here.
    #[track_caller]
    pub fn wait_more_frames(&self, kind: Kind, count: usize) {
        self.wait_frames(kind, self.frame_count(kind) + count);
    }

    #[track_caller]
    pub fn wait_end(&self, bound: Duration) -> End {
        wait_until(bound, &format!("{}: closed by the relay", self.what), || {
            self.look(|seen| seen.end.is_some())
        });
        self.look(|seen| seen.end.clone()).expect("just seen")
    }

    #[track_caller]
    pub fn assert_open(&self) {
        assert_eq!(self.look(|seen| seen.end.clone()), None, "{}: closed", self.what);
    }

    /// Stops reading.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    pub fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
    }

    /// Closes the connection; what came until then.
    #[track_caller]
    pub fn stop(mut self) -> Vec<Tag> {
        self.close();
        self.tags()
    }

    fn close(&mut self) {
        self.resume();
        // The peer may have closed it first.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the reading thread does not panic");
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.resume();
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A connected socket.
pub fn connect(address: SocketAddr, buffer: Buffer) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    if buffer == Buffer::Small {
        socket.set_recv_buffer_size(2048).expect("a small receive buffer");
    }
    socket.connect(&address.into()).unwrap_or_else(|error| panic!("{address}: {error}"));
    socket.into()
}

pub fn is_wait(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// An HTTP reply, FLV in its body when the status is 200.
#[derive(Debug, Default)]
struct HttpFlv {
    head: Vec<u8>,
    chunks: Option<Dechunk>,
    flv: Reader,
}

impl Wire for HttpFlv {
    fn push(&mut self, bytes: &[u8], _: &mut TcpStream, seen: &mut Seen) -> Result<(), String> {
        let Some(body) = take_head(&mut self.head, bytes, seen) else { return Ok(()) };
        let chunked = seen.headers.iter().any(|(name, _)| name == "transfer-encoding");
        let body = if chunked { self.chunks.get_or_insert_default().push(&body) } else { body };
        if seen.status == Some(200) {
            seen.tags.extend(self.flv.push(&body)?);
        } else {
            seen.body.extend_from_slice(&body);
        }
        Ok(())
    }
}

/// The bytes after the head; `None` while it is not whole.
pub fn take_head(head: &mut Vec<u8>, bytes: &[u8], seen: &mut Seen) -> Option<Vec<u8>> {
    if seen.status.is_some() {
        return Some(bytes.to_vec());
    }
    head.extend_from_slice(bytes);
    let (reply, end) = parse_head(head)?;
    seen.status = Some(reply.status);
    seen.headers = reply.headers;
    Some(head.split_off(end))
}
