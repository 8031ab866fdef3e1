//! An origin that misbehaves on demand: it hangs at each stage of a pull, refuses, resets, lies, or
//! is healthy, and can be switched while it runs. It tells RTMP from HTTP by the first byte.
//!
//! Every connection is kept on record with the stage that it reached and when its peer closed it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::flv::{self, Tag};
use super::{LIVENESS, wait_until};

mod http;
mod listener;
mod rtmp;
mod timeline;

use listener::{bound, listen};
use timeline::Timeline;

/// What the origin does with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The listener's queue is full, so that the kernel drops each SYN.
    SynDropped,
    Refused,
    /// Reset: those who come as soon as they are accepted, those who are being served at once.
    Reset,
    AcceptedSilent,
    /// C0 and C1 are read, nothing is answered.
    AfterC0C1,
    /// The handshake is done; what comes after it is not read.
    AfterHandshake,
    ConnectUnanswered,
    PlayUnanswered,
    /// Play is accepted (HTTP: 200 and the FLV header), no media comes until the mode is `Healthy`.
    NoMedia,
    /// Half of a video frame, then nothing.
    MidFrame,
    /// HTTP 404, `NetStream.Play.StreamNotFound`.
    NotFound,
    /// HTTP 503, `NetStream.Play.Failed`.
    Unavailable,
    /// HTTP 200 with bytes that are no FLV; a handshake that is no RTMP.
    NotFlv,
    /// HTTP 302 to this URL.
    Redirect(String),
    Healthy,
    /// Healthy, but a connection begins anywhere, and gets no keyframe for so long.
    KeyframeLate(Duration),
    /// Healthy, with a chunked body over HTTP.
    HealthyChunked,
}

impl Mode {
    fn is_healthy(&self) -> bool {
        matches!(self, Self::Healthy | Self::HealthyChunked | Self::KeyframeLate(_))
    }
}

/// How far a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Accepted,
    /// C0 and C1, or an HTTP request's head, are read.
    Greeted,
    HandshakeDone,
    ConnectRead,
    PlayRead,
    /// Media is being sent.
    Serving,
}

/// One connection's record.
#[derive(Debug, Clone)]
pub struct Connection {
    pub stage: Stage,
    /// The request's path with its query; over RTMP the app and the name played.
    pub request: String,
    /// When the peer closed it.
    pub closed: Option<Instant>,
    /// The origin closed it by itself.
    pub cut: bool,
}

/// The origin.
#[derive(Debug)]
pub struct Origin {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    mode: Mutex<Mode>,
    /// Counts changes of mode; `applied` follows when the listener obeys.
    epoch: AtomicU64,
    applied: AtomicU64,
    records: Mutex<Vec<Record>>,
    stopped: AtomicBool,
    timeline: Mutex<Timeline>,
}

#[derive(Debug)]
struct Record {
    connection: Connection,
    /// A second handle, so that the origin can cut what its thread is blocked on.
    socket: Option<TcpStream>,
}

impl Origin {
    /// An origin on a free port that loops a file of tests/media whenever it is healthy.
    pub fn start(mode: Mode) -> Self {
        Self::start_with(mode, "av.flv")
    }

    pub fn start_with(mode: Mode, file: &str) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let reserved = bound(any);
        let address = reserved.local_addr().ok().and_then(|address| address.as_socket());
        let shared = Arc::new(Shared {
            address: address.expect("a bound socket"),
            mode: Mutex::new(Mode::Refused),
            epoch: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            records: Mutex::new(Vec::new()),
            stopped: AtomicBool::new(false),
            timeline: Mutex::new(Timeline::new(flv::read(&super::media(file)))),
        });
        let for_thread = Arc::clone(&shared);
        let thread = spawn_small("origin", move || listen(&for_thread, reserved));
        let origin = Self { shared, thread: Some(thread) };
        origin.set(mode);
        origin
    }

    /// Switches. Connections that were being served fall silent; `Refused` cuts them all, `Reset` resets
    /// them.
    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().expect("no panic while locked") = mode;
        let epoch = self.shared.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        wait_until(LIVENESS, "the origin obeys", || {
            self.shared.applied.load(Ordering::SeqCst) >= epoch
        });
    }

    /// The media clock starts at 0 again, as an encoder's does that was restarted.
    pub fn restart_clock(&self) {
        self.shared.timeline.lock().expect("no panic while locked").restart();
    }

    /// Every tag that a connection open since the clock started has been sent, and a few to come.
    pub fn sent(&self) -> Vec<Tag> {
        self.shared.timeline.lock().expect("no panic while locked").until_now()
    }

    /// Closes every open connection from this end.
    pub fn cut_all(&self) {
        self.shared.cut_all();
    }

    pub fn port(&self) -> u16 {
        self.shared.address.port()
    }

    pub fn rtmp_url(&self, stream: &str) -> String {
        format!("rtmp://{}/live/{stream}", self.shared.address)
    }

    pub fn flv_url(&self, stream: &str) -> String {
        format!("http://{}/live/{stream}.flv", self.shared.address)
    }

    pub fn connections(&self) -> Vec<Connection> {
        let records = self.shared.records.lock().expect("no panic while locked");
        records.iter().map(|record| record.connection.clone()).collect()
    }

    /// Connections accepted since the start.
    pub fn count(&self) -> usize {
        self.shared.records.lock().expect("no panic while locked").len()
    }

    /// Connections that the peer still holds open.
    pub fn open_count(&self) -> usize {
        self.connections().iter().filter(|c| c.closed.is_none() && !c.cut).count()
    }

    /// Waits until the connection number `index` has come to `stage`.
    #[track_caller]
    pub fn wait_stage(&self, index: usize, stage: Stage) {
        wait_until(LIVENESS, &format!("connection {index} comes to {stage:?}"), || {
            self.connections().get(index).is_some_and(|connection| connection.stage >= stage)
        });
    }

    /// Waits until the peer has closed everything that it opened.
    #[track_caller]
    pub fn wait_all_closed(&self, bound: Duration) {
        wait_until(bound, "the origin sees its sockets closed", || self.open_count() == 0);
    }

    /// Sockets that are trying to connect here and have no answer yet.
    pub fn half_open_count(&self) -> usize {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
        let remote = format!("0100007F:{:04X}", self.port());
        let is_syn_sent = |line: &str| {
            let mut fields = line.split_whitespace().skip(2);
            fields.next() == Some(&remote) && fields.next() == Some("02")
        };
        table.lines().filter(|line| is_syn_sent(line)).count()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.cut_all();
        if let Some(thread) = self.thread.take() {
            // A panic there has already been reported.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn mode(&self) -> Mode {
        self.mode.lock().expect("no panic while locked").clone()
    }

    fn cut_all(&self) {
        for record in self.records.lock().expect("no panic while locked").iter_mut() {
            if let Some(socket) = record.socket.take()
                && record.connection.closed.is_none()
            {
                record.connection.cut = true;
                // The peer may have closed it in this moment.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }
}

/// A connection in the hands of its thread.
struct Link {
    shared: Arc<Shared>,
    index: usize,
    socket: TcpStream,
}

/// The connection is over; nothing more can be done with it.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl Link {
    fn run(mut self) {
        // How it ended does not matter; that it did is recorded.
        let _ = self.serve();
        let mut records = self.shared.records.lock().expect("no panic while locked");
        let record = &mut records[self.index];
        record.socket = None;
        if !record.connection.cut {
            record.connection.closed = Some(Instant::now());
        }
    }

    fn serve(&mut self) -> Result<(), Over> {
        if self.mode() == Mode::AcceptedSilent {
            return self.hold();
        }
        let mut first = [0];
        if self.socket.peek(&mut first)? == 0 {
            return Err(Over);
        }
        if first[0] == 3 { rtmp::serve(self) } else { http::serve(self) }
    }

    fn mode(&self) -> Mode {
        self.shared.mode()
    }

    fn reached(&self, stage: Stage) {
        self.record(|connection| connection.stage = stage);
    }

    fn record(&self, change: impl FnOnce(&mut Connection)) {
        let mut records = self.shared.records.lock().expect("no panic while locked");
        change(&mut records[self.index].connection);
    }

    /// Reads and forgets until the peer closes.
    fn hold(&mut self) -> Result<(), Over> {
        self.socket.set_read_timeout(None)?;
        let mut buffer = [0; 1024];
        while self.socket.read(&mut buffer)? > 0 {}
        Err(Over)
    }

    /// Sends tags in real time for as long as the origin is healthy, then holds.
    fn send_media(&mut self, mut encode: impl FnMut(&Tag) -> Vec<u8>) -> Result<(), Over> {
        self.reached(Stage::Serving);
        let late = match self.mode() {
            Mode::KeyframeLate(late) => Some((Instant::now(), late)),
            _ => None,
        };
        let lacks_keyframe = || late.is_some_and(|(since, late)| since.elapsed() < late);
        let mut cursor = self.shared.timeline.lock().expect("no panic while locked").join();
        for tag in &cursor.opening {
            let bytes = encode(tag);
            self.socket.write_all(&bytes)?;
        }
        self.socket.set_read_timeout(Some(Duration::from_millis(5)))?;
        let mut buffer = [0; 1024];
        while self.mode().is_healthy() {
            let due = self.shared.timeline.lock().expect("no panic while locked").due(&mut cursor);
            for tag in due.iter().filter(|tag| !(tag.is_video_keyframe() && lacks_keyframe())) {
                let bytes = encode(tag);
                self.socket.write_all(&bytes)?;
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(Over),
                Ok(_) => {}
                Err(error) if super::player::is_wait(&error) => {}
                Err(_) => return Err(Over),
            }
        }
        if self.mode() == Mode::Reset { self.reset() } else { self.hold() }
    }

    /// Has the kernel send RST, and no FIN, when the last handle goes.
    fn reset(&mut self) -> Result<(), Over> {
        socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO))?;
        self.record(|connection| connection.cut = true);
        Err(Over)
    }

    /// Holds until the origin is healthy, then sends.
    fn send_media_later(&mut self, encode: impl FnMut(&Tag) -> Vec<u8>) -> Result<(), Over> {
        self.socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut buffer = [0; 1024];
        while self.mode() == Mode::NoMedia {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(Over),
                Ok(_) => {}
                Err(error) if super::player::is_wait(&error) => {}
                Err(_) => return Err(Over),
            }
        }
        if self.mode() == Mode::Healthy { self.send_media(encode) } else { self.hold() }
    }

    /// A keyframe for the half-frame mode, and what goes before it.
    fn opening(&self) -> (Vec<Tag>, Tag) {
        self.shared.timeline.lock().expect("no panic while locked").first_keyframe()
    }
}

/// A thread with a small stack: there may be thousands.
fn spawn_small(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let builder = Builder::new().name(name.to_owned()).stack_size(256 * 1024);
    builder.spawn(work).expect("a thread")
}
