//! HTTP-FLV players, all read by one thread, that time the pictures they get.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread::spawn;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rillcast::clock;

use crate::kit::flv::{Kind, Reader};
use crate::kit::http::parse_head;
use crate::kit::pause;
use crate::report::micros;
use crate::source::{SentTimes, Source};

/// The crowd.
pub(crate) struct Players {
    shared: Arc<Mutex<Seen>>,
}

struct Seen {
    /// Between two pictures at one player, µs.
    gaps: Histogram<u64>,
    /// From the origin's send to the player's read, µs.
    delays: Histogram<u64>,
    /// Pictures that were sent and did not come.
    skipped: u64,
    open: usize,
    count: usize,
}

struct Player {
    socket: TcpStream,
    head: Option<Vec<u8>>,
    reader: Reader,
    last: Option<(u32, Instant)>,
}

/// Pictures of the GOP that a player starts with come in one burst and are no measure.
const BURST_AGE_MAX: Duration = Duration::from_secs(1);
const FRAME_MS: u32 = 40;

impl Players {
    pub(crate) fn start(count: usize, address: SocketAddr, path: &str, source: &Source) -> Self {
        let seen = Seen { gaps: micros(), delays: micros(), skipped: 0, open: count, count };
        let shared = Arc::new(Mutex::new(seen));
        let players: Vec<Player> = (0..count).map(|_| Player::open(address, path)).collect();
        let (for_thread, sent) = (Arc::clone(&shared), Arc::clone(&source.sent));
        spawn(move || read_all(players, &for_thread, &sent));
        Self { shared }
    }

    /// Gaps and delays since the last call.
    pub(crate) fn take(&self) -> (Histogram<u64>, Histogram<u64>) {
        let mut seen = self.shared.lock().expect("no panic while locked");
        (std::mem::replace(&mut seen.gaps, micros()), std::mem::replace(&mut seen.delays, micros()))
    }

    /// As [`Self::take`], when the next pictures have come: a gap is known by its end.
    pub(crate) fn take_soon(&self) -> (Histogram<u64>, Histogram<u64>) {
        pause(Duration::from_millis(100));
        self.take()
    }

    pub(crate) fn skipped(&self) -> u64 {
        self.shared.lock().expect("no panic while locked").skipped
    }

    pub(crate) fn assert_all_open(&self) {
        let seen = self.shared.lock().expect("no panic while locked");
        assert_eq!(seen.open, seen.count, "players were closed");
    }
}

impl Player {
    fn open(address: SocketAddr, path: &str) -> Self {
        let mut socket = TcpStream::connect(address).expect("the relay listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        socket.write_all(request.as_bytes()).expect("a fresh socket takes the request");
        socket.set_nonblocking(true).expect("a nonblocking socket");
        Self { socket, head: Some(Vec::new()), reader: Reader::default(), last: None }
    }

    /// Reads what there is. `false` at the end.
    fn read(&mut self, buffer: &mut [u8], shared: &Mutex<Seen>, sent: &SentTimes) -> bool {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return false,
                Ok(len) => self.take(&buffer[..len], shared, sent),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], shared: &Mutex<Seen>, sent: &SentTimes) {
        let body = match &mut self.head {
            None => bytes.to_vec(),
            Some(head) => {
                head.extend_from_slice(bytes);
                let Some((reply, end)) = parse_head(head) else { return };
                assert_eq!(reply.status, 200, "a player is refused");
                assert_eq!(reply.header("transfer-encoding"), None, "the body is plain");
                self.head.take().expect("just seen").split_off(end)
            }
        };
        let tags = self.reader.push(&body).expect("FLV");
        let now = clock::now();
        for tag in tags.iter().filter(|tag| tag.kind == Kind::Video && tag.is_coded()) {
            let at = sent.lock().expect("no panic while locked").get(&tag.timestamp_ms).copied();
            let at = at.expect("the relay passes timestamps on as they are");
            let mut seen = shared.lock().expect("no panic while locked");
            if let Some((before_ms, before)) = self.last {
                // Each picture that it held up waited too.
                let gap = ((now - before).as_micros() as u64).min(seen.gaps.high());
                let _ = seen.gaps.record_correct(gap, u64::from(FRAME_MS) * 1000);
                let step_ms = tag.timestamp_ms - before_ms;
                seen.skipped += u64::from(step_ms / FRAME_MS).saturating_sub(1);
            }
            if self.last.is_some() || now - at < BURST_AGE_MAX {
                seen.delays.saturating_record((now - at).as_micros() as u64);
                self.last = Some((tag.timestamp_ms, now));
            }
        }
    }
}

fn read_all(mut players: Vec<Player>, shared: &Mutex<Seen>, sent: &SentTimes) {
    let mut buffer = vec![0; 256 * 1024];
    while !players.is_empty() {
        let mut fds: Vec<PollFd<'_>> = players
            .iter()
            .map(|player| PollFd::new(player.socket.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut fds, PollTimeout::NONE).expect("poll");
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        let mut ready = ready.into_iter();
        players.retain_mut(|player| {
            !ready.next().expect("one for each") || player.read(&mut buffer, shared, sent)
        });
        shared.lock().expect("no panic while locked").open = players.len();
    }
}
