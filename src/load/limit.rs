//! `load limit`: the floor under every server's price. The clip over HTTP-FLV to N sockets by a
//! bare loop of sends, or by batches of an io_uring, and nothing else: no ingest, no queues, no
//! timers. A player that does not keep up is closed.
//!
//! The players are `load play` in a process of its own, as with any server, so that both are
//! measured by the same means.

use std::io::{IoSlice, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::clip::Clip;
use super::options::{LimitOptions, Method};
use super::stamp::Stamp;
use super::{Failure, Wait, soak};
use crate::clock;
use crate::limits::LOAD_REQUEST_LEN_MAX;
use crate::proto::flv::{FILE_HEADER, TAG_HEADER_LEN, TAG_SIZE_LEN, TagHeader};
use crate::ring::EgressRing;
use crate::ring::socket;

/// Runs the senders here and the players in a process of their own.
pub(super) fn run(options: &LimitOptions, wait: Wait<'_>) -> Result<ExitCode, Failure> {
    let clip = Clip::load(options.file.as_deref())?;
    let cpus = options.cpus.as_ref().map_or(&[][..], |list| list.cpus());
    let threads = cpus.len().max(1);
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    socket2::SockRef::from(&listener).listen(4096)?;
    let mut players = start_players(options, listener.local_addr()?)?;
    let stopped = AtomicBool::new(false);
    let status = thread::scope(|scope| -> Result<_, Failure> {
        let (clip, stopped) = (&clip, &stopped);
        let serve = scope.spawn(move || -> Result<(), Failure> {
            let sockets = accept_all(&listener, options.players as usize, clip, stopped)?;
            let start_ns = clock::monotonic_ns() + START_DELAY_NS;
            let mut parts: Vec<Vec<TcpStream>> = (0..threads).map(|_| Vec::new()).collect();
            for (number, socket) in sockets.into_iter().enumerate() {
                parts[number % threads].push(socket);
            }
            thread::scope(|scope| {
                let senders: Vec<_> = parts
                    .into_iter()
                    .enumerate()
                    .map(|(number, sockets)| {
                        let cpu = cpus.get(number).copied();
                        scope.spawn(move || -> Result<(), Failure> {
                            cpu.map(soak::pin).transpose()?;
                            let mut sender = Sender::new(options.method, sockets)?;
                            send_all(clip, options.flush(), start_ns, &mut sender, stopped);
                            Ok(())
                        })
                    })
                    .collect();
                senders.into_iter().try_for_each(|sender| {
                    sender.join().expect("a panic of a thread is one of ours")
                })
            })
        });
        let status = loop {
            if let Some(status) = players.try_wait()? {
                break status;
            }
            // The players end the run, and print what they have.
            if wait(Duration::from_millis(50)) {
                kill(Pid::from_raw(players.id().cast_signed()), Signal::SIGINT)?;
            }
            if serve.is_finished() {
                players.kill()?;
            }
        };
        stopped.store(true, Relaxed);
        serve.join().expect("a panic of the thread is one of ours")?;
        Ok(status)
    })?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts `load play` against us.
fn start_players(options: &LimitOptions, address: SocketAddr) -> Result<Child, Failure> {
    let method = match options.method {
        Method::Send => "send",
        Method::Uring => "io_uring",
    };
    let label = format!("limit: bare {method}, {}", options.flush().name());
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["load", "play", "--url", &format!("http://{address}/limit.flv")]);
    command.args(["--label", &label, "--players", &options.players.to_string()]);
    command.args(["--pid", &std::process::id().to_string()]);
    command.args(["--warm-up", &options.warm_up.to_string()]);
    command.args(["--duration", &options.duration.to_string()]);
    // Nothing is sent until the last player is there.
    let ramp = f64::from(options.players) / 500.0;
    command.args(["--ramp", &ramp.to_string(), "--join-timeout", &(ramp + 20.0).to_string()]);
    if let Some(cpus) = &options.client_cpus {
        command.args(["--cpus", cpus]);
    }
    if let Some(cpu) = options.soak {
        command.args(["--soak", &cpu.to_string()]);
    }
    if options.blocking {
        command.arg("--blocking");
    }
    if let Some(path) = &options.output.json {
        command.arg("--json").arg(path);
    }
    Ok(command.spawn()?)
}

/// Waits for all players and answers each with the head of its stream.
fn accept_all(
    listener: &TcpListener,
    count: usize,
    clip: &Clip,
    stopped: &AtomicBool,
) -> Result<Vec<TcpStream>, Failure> {
    listener.set_nonblocking(true)?;
    let mut head = b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n\r\n".to_vec();
    head.extend_from_slice(&FILE_HEADER);
    for tag in &clip.configs {
        append_tag(TagHeader::new(tag.kind, 0, tag.payload.len() as u32), &tag.payload, &mut head);
    }
    let mut sockets = Vec::new();
    while sockets.len() < count && !stopped.load(Relaxed) {
        let (mut socket, _) = match listener.accept() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                sleep_ns(ACCEPT_PAUSE_NS);
                continue;
            }
            result => result?,
        };
        socket.set_nonblocking(false)?;
        read_request(&mut socket)?;
        socket.set_nodelay(true)?;
        if socket::send_now(&socket, &head)? < head.len() {
            return Err("a socket does not take the head of its stream".into());
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

fn read_request(socket: &mut TcpStream) -> Result<(), Failure> {
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = vec![0; LOAD_REQUEST_LEN_MAX];
    let mut len = 0;
    while !request[..len].ends_with(b"\r\n\r\n") {
        match socket.read(&mut request[len..])? {
            0 => return Err("no request".into()),
            read => len += read,
        }
    }
    Ok(())
}

/// Sends the clip from `start_ns` on.
fn send_all(clip: &Clip, flush: Flush, start_ns: u64, sender: &mut Sender, stopped: &AtomicBool) {
    let mut bytes = Vec::new();
    let mut next = 0;
    while !stopped.load(Relaxed) && !sender.sockets.is_empty() {
        let (at_ms, tags) = flush.next(clip, next);
        next = tags.end;
        bytes.clear();
        tags.for_each(|index| append_clip_tag(clip, index, start_ns, &mut bytes));
        let at_ns = start_ns + at_ms * 1_000_000;
        sleep_ns(at_ns.saturating_sub(clock::monotonic_ns()));
        sender.send(&bytes);
    }
}

#[allow(clippy::disallowed_methods, reason = "a thread of its own, paced by sleeping")]
fn sleep_ns(ns: u64) {
    if ns > 0 {
        thread::sleep(Duration::from_nanos(ns));
    }
}

fn append_clip_tag(clip: &Clip, index: u64, start_ns: u64, out: &mut Vec<u8>) {
    let (tag, at_ms) = clip.tag(index);
    let header = TagHeader::new(tag.kind, at_ms as u32, tag.payload.len() as u32);
    let start = out.len();
    append_tag(header, &tag.payload, out);
    if let Some(at) = tag.stamp_at {
        let due_ns = start_ns + at_ms * 1_000_000;
        let stamp = Stamp { sequence: clip.sequence(index), due_ns }.encode();
        let at = start + TAG_HEADER_LEN + at;
        out[at..at + stamp.len()].copy_from_slice(&stamp);
    }
}

fn append_tag(header: TagHeader, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(payload);
    let size = (TAG_HEADER_LEN + payload.len()) as u32;
    let size: [u8; TAG_SIZE_LEN] = size.to_be_bytes();
    out.extend_from_slice(&size);
}

/// Which tags go out together, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// Each tag by itself, when it is due.
    Tag,
    /// All that became due within so many ms, at their end.
    Window(u32),
    /// Video when it is due, with the audio that waited for it; audio waits so many ms at most.
    AudioOnVideo(u32),
}

impl Flush {
    fn name(self) -> String {
        match self {
            Self::Tag => "each tag by itself".to_owned(),
            Self::Window(ms) => format!("tags of {ms} ms together"),
            Self::AudioOnVideo(ms) => format!("audio with the next video, {ms} ms at most"),
        }
    }

    /// The flush that begins with the tag at `index`: when, in ms from the beginning, and of which
    /// tags.
    fn next(self, clip: &Clip, index: u64) -> (u64, Range<u64>) {
        let (first, first_ms) = clip.tag(index);
        match self {
            Self::Window(window_ms) => {
                let at_ms = (first_ms / u64::from(window_ms) + 1) * u64::from(window_ms);
                let end = (index..).find(|next| clip.tag(*next).1 >= at_ms);
                (at_ms, index..end.expect("clips go on"))
            }
            Self::AudioOnVideo(wait_ms) if !first.is_frame => {
                let until_ms = first_ms + u64::from(wait_ms);
                let ends = |next: &u64| clip.tag(*next).0.is_frame || clip.tag(*next).1 > until_ms;
                let end = (index + 1..).find(ends).expect("clips go on");
                match clip.tag(end) {
                    (_, at_ms) if at_ms > until_ms => (until_ms, index..end),
                    (_, at_ms) => (at_ms, index..end + 1),
                }
            }
            Self::Tag | Self::AudioOnVideo(_) => (first_ms, index..index + 1),
        }
    }
}

/// The sockets of one thread, and how they are sent to.
struct Sender {
    sockets: Vec<TcpStream>,
    ring: Option<EgressRing>,
    /// Slots of sockets that did not take all.
    slow: Vec<usize>,
}

impl Sender {
    fn new(method: Method, sockets: Vec<TcpStream>) -> std::io::Result<Self> {
        let ring = match method {
            Method::Send => None,
            Method::Uring => Some(EgressRing::new()?),
        };
        Ok(Self { sockets, ring, slow: Vec::new() })
    }

    fn send(&mut self, bytes: &[u8]) {
        let slow = &mut self.slow;
        match &mut self.ring {
            None => {
                for (slot, socket) in self.sockets.iter().enumerate() {
                    if !matches!(socket::send_now(socket, bytes), Ok(len) if len == bytes.len()) {
                        slow.push(slot);
                    }
                }
            }
            Some(ring) => {
                let mut batch = ring.batch();
                let span = batch.add_span(&[IoSlice::new(bytes)]);
                for (slot, socket) in self.sockets.iter().enumerate() {
                    batch.push(socket.as_raw_fd(), slot as u32, span);
                }
                batch.submit(|slot, _| slow.push(slot as usize));
            }
        }
        if !self.slow.is_empty() {
            self.slow.sort_unstable();
            for slot in self.slow.drain(..).rev() {
                self.sockets.swap_remove(slot);
            }
        }
    }
}

/// From the last player's request to the first tag.
const START_DELAY_NS: u64 = 100_000_000;
const ACCEPT_PAUSE_NS: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::TagKind;

    /// All flushes of ten seconds: when, and the times of their tags.
    fn flushes(flush: Flush, clip: &Clip) -> Vec<(u64, Vec<(TagKind, u64)>)> {
        let mut next = 0;
        let mut flushes = Vec::new();
        while clip.tag(next).1 < 10_000 {
            let (at_ms, tags) = flush.next(clip, next);
            assert_eq!(tags.start, next, "no tag is left out");
            assert!(tags.end > next, "each flush has a tag");
            next = tags.end;
            let of = |index| (clip.tag(index).0.kind, clip.tag(index).1);
            flushes.push((at_ms, tags.map(of).collect()));
        }
        flushes
    }

    #[test]
    fn flushes_take_what_their_policy_says() {
        let clip = Clip::load(None).expect("it is ours");
        let each = flushes(Flush::Tag, &clip);
        assert!(each.iter().all(|(at_ms, tags)| tags.len() == 1 && tags[0].1 == *at_ms));
        let windows = flushes(Flush::Window(100), &clip);
        assert_eq!(windows.len(), 100);
        for (at_ms, tags) in &windows {
            assert!(tags.iter().all(|(_, tag_ms)| (at_ms - 100..*at_ms).contains(tag_ms)));
        }
        let riding = flushes(Flush::AudioOnVideo(40), &clip);
        assert_eq!(riding.len(), 250);
        for (at_ms, tags) in &riding {
            assert_eq!(*tags.last().expect("a tag"), (TagKind::Video, *at_ms));
        }
        for (at_ms, tags) in flushes(Flush::AudioOnVideo(10), &clip) {
            assert!(tags.iter().all(|(_, tag_ms)| (*tag_ms..=tag_ms + 10).contains(&at_ms)));
            let frames = tags.iter().filter(|(kind, _)| *kind == TagKind::Video).count();
            assert!(frames <= 1 && (frames == 0 || tags[tags.len() - 1].0 == TagKind::Video));
        }
    }
}
