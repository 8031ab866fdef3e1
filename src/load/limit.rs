//! `load limit`: the floor under every server's price. The clip over HTTP-FLV, or as the packets of
//! RTSP, to N sockets by a bare loop of sends, or by batches of an io_uring, and nothing else: no
//! queues, no timers, and no ingest but, where asked for, a receive of the bytes that are sent. A
//! player that does not keep up is closed.
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
use super::flush::Flush;
use super::options::{LimitOptions, Method, Wire};
use super::rtsp::floor::{Calls, FloorPlayer, Packets};
use super::stamp::Stamp;
use super::{Failure, Wait, soak};
use crate::clock;
use crate::config::CpuList;
use crate::limits::LOAD_REQUEST_LEN_MAX;
use crate::proto::flv::{FILE_HEADER, TAG_HEADER_LEN, TAG_SIZE_LEN, TagHeader};
use crate::proto::rtsp::LowerTransport;
use crate::ring::EgressRing;
use crate::ring::socket;

/// Runs the senders here and the players in a process of their own.
pub(super) fn run(options: &LimitOptions, wait: Wait<'_>) -> Result<ExitCode, Failure> {
    if options.wire == Wire::Flv && options.method == Method::Joined {
        return Err("--method joined is for packets: --wire rtsp-tcp or rtsp-udp".into());
    }
    if matches!(options.wire, Wire::Flv | Wire::RtspTcp) && options.method == Method::Sendto {
        return Err("--method sendto is for datagrams: --wire rtsp-udp".into());
    }
    if options.relayed && options.wire != Wire::Flv {
        return Err("--relayed is for FLV: --wire flv".into());
    }
    let clip = Clip::load(options.file.as_deref())?;
    if options.relayed && cpus(options).len() > 1 {
        return Err("--relayed is for one sender: one CPU in --cpus".into());
    }
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    socket2::SockRef::from(&listener).listen(4096)?;
    let mut players = start_players(options, listener.local_addr()?)?;
    let stopped = AtomicBool::new(false);
    let status = thread::scope(|scope| -> Result<_, Failure> {
        let (clip, stopped) = (&clip, &stopped);
        let serve = scope.spawn(move || serve(options, clip, &listener, stopped));
        let (mut finished_ns, mut told_ns) = (None, None);
        let status = loop {
            if let Some(status) = players.try_wait()? {
                break status;
            }
            // At the end players close first, and print what they have. Where they stay, they read nothing.
            let now_ns = clock::monotonic_ns();
            if serve.is_finished() {
                finished_ns.get_or_insert(now_ns);
            }
            let is_alone = finished_ns.is_some_and(|at_ns| now_ns - at_ns > GOODBYE_NS_MAX);
            let has_nobody = is_alone && told_ns.is_none();
            if wait(Duration::from_millis(50)) || has_nobody {
                kill(Pid::from_raw(players.id().cast_signed()), Signal::SIGINT)?;
            }
            if has_nobody {
                told_ns = Some(clock::monotonic_ns());
            }
            if told_ns.is_some_and(|at_ns| clock::monotonic_ns() - at_ns > LAST_WORDS_NS_MAX) {
                players.kill()?;
            }
        };
        stopped.store(true, Relaxed);
        serve.join().expect("a panic of the thread is one of ours")?;
        if told_ns.is_some() {
            return Err("no player kept up with what was sent: fewer players, or more CPUs".into());
        }
        Ok(status)
    })?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// From the first request until the players are gone, or we are to stop.
fn serve(
    options: &LimitOptions,
    clip: &Clip,
    listener: &TcpListener,
    stopped: &AtomicBool,
) -> Result<(), Failure> {
    let cpus = cpus(options);
    let floor = Floor::new(options.wire, clip)?;
    let players = accept_all(listener, options.players as usize, &floor, stopped)?;
    let start_ns = clock::monotonic_ns() + START_DELAY_NS;
    let mut parts: Vec<Vec<Player>> = (0..cpus.len().max(1)).map(|_| Vec::new()).collect();
    let count = parts.len();
    for (number, player) in players.into_iter().enumerate() {
        parts[number % count].push(player);
    }
    let (publisher, mut ingest) = options.relayed.then(pair).transpose()?.unzip();
    let publisher_cpu = publisher_cpu(options)?;
    thread::scope(|scope| {
        let publisher = publisher.map(|socket| {
            scope.spawn(move || publish(publisher_cpu, clip, start_ns, socket, stopped))
        });
        let mut threads: Vec<_> = publisher.into_iter().collect();
        for (number, players) in parts.into_iter().enumerate() {
            let (cpu, ingest) = (cpus.get(number).copied(), ingest.take());
            threads.push(scope.spawn(move || {
                cpu.map(soak::pin).transpose()?;
                let mut sender = Sender::new(options, clip, players)?;
                let mut schedule = Schedule { clip, flush: options.flush(), start_ns, ingest };
                schedule.send_all(&mut sender, stopped);
                Ok(())
            }));
        }
        let joined = |thread: thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
            thread.join().expect("a panic of a thread is one of ours")
        };
        threads.into_iter().try_for_each(joined)
    })
}

fn cpus(options: &LimitOptions) -> &[usize] {
    options.cpus.as_ref().map_or(&[][..], |list| list.cpus())
}

/// Starts `load play` against us.
fn start_players(options: &LimitOptions, address: SocketAddr) -> Result<Child, Failure> {
    let method = match options.method {
        Method::Send => "send",
        Method::Sendto => "sendto",
        Method::Joined => "joined send",
        Method::Uring => "io_uring",
    };
    let (what, url, transport) = match options.wire {
        Wire::Flv => ("", format!("http://{address}/limit.flv"), "tcp"),
        Wire::RtspTcp => (" of RTP packets over TCP", format!("rtsp://{address}/limit/a"), "tcp"),
        Wire::RtspUdp => (" of RTP packets over UDP", format!("rtsp://{address}/limit/a"), "udp"),
        Wire::RtspUdpGro => {
            (" of RTP packets over UDP, joined", format!("rtsp://{address}/limit/a"), "udp-gro")
        }
    };
    let relayed = if options.relayed { ", relayed" } else { "" };
    let label = format!("limit: bare {method}{what}, {}{relayed}", options.flush().name());
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["load", "play", "--url", &url, "--rtsp-transport", transport]);
    command.args(["--label", &label, "--players", &options.players.to_string()]);
    command.args(["--pid", &std::process::id().to_string()]);
    command.args(["--warm-up", &options.warm_up.to_string()]);
    command.args(["--duration", &options.duration.to_string()]);
    // Nothing is sent until the last player is there.
    let ramp = options.ramp.unwrap_or_else(|| f64::from(options.players) / 500.0);
    // Players of RTSP are served one after another, a few sweeps of theirs each.
    let patience = 20.0 + ramp + f64::from(options.players) / 50.0;
    command.args(["--ramp", &ramp.to_string(), "--join-timeout", &patience.to_string()]);
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

/// What players are sent.
enum Floor {
    /// The head of the stream.
    Flv(Vec<u8>),
    Rtsp(Packets),
}

/// A player that has asked for its stream.
enum Player {
    Flv(TcpStream),
    Rtsp(FloorPlayer),
}

impl Floor {
    fn new(wire: Wire, clip: &Clip) -> Result<Self, Failure> {
        let transport = match wire {
            Wire::Flv => {
                let mut head = b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n\r\n".to_vec();
                head.extend_from_slice(&FILE_HEADER);
                for tag in &clip.configs {
                    let header = TagHeader::new(tag.kind, 0, tag.payload.len() as u32);
                    append_tag(header, &tag.payload, &mut head);
                }
                return Ok(Self::Flv(head));
            }
            Wire::RtspTcp => LowerTransport::Tcp,
            Wire::RtspUdp | Wire::RtspUdpGro => LowerTransport::Udp,
        };
        Ok(Self::Rtsp(Packets::new(clip, transport)?))
    }

    fn accept(&self, mut socket: TcpStream) -> Result<Player, Failure> {
        let head = match self {
            Self::Flv(head) => head,
            Self::Rtsp(packets) => {
                return Ok(Player::Rtsp(FloorPlayer::accept(socket, &packets.description())?));
            }
        };
        read_request(&mut socket)?;
        socket.set_nodelay(true)?;
        if socket::send_now(&socket, head)? < head.len() {
            return Err("a socket does not take the head of its stream".into());
        }
        Ok(Player::Flv(socket))
    }
}

/// Waits for all players and answers each.
fn accept_all(
    listener: &TcpListener,
    count: usize,
    floor: &Floor,
    stopped: &AtomicBool,
) -> Result<Vec<Player>, Failure> {
    listener.set_nonblocking(true)?;
    let mut players = Vec::new();
    while players.len() < count && !stopped.load(Relaxed) {
        let (socket, _) = match listener.accept() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                sleep_ns(ACCEPT_PAUSE_NS);
                continue;
            }
            result => result?,
        };
        socket.set_nonblocking(false)?;
        players.push(floor.accept(socket)?);
    }
    Ok(players)
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

/// Where the publisher runs: beside the players.
fn publisher_cpu(options: &LimitOptions) -> Result<Option<usize>, Failure> {
    let list = options.client_cpus.clone().map(CpuList::try_from).transpose()?;
    Ok(list.and_then(|list| list.cpus().first().copied()))
}

/// Both ends of a connection over loopback.
fn pair() -> Result<(TcpStream, TcpStream), Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    near.set_nodelay(true)?;
    let (far, _) = listener.accept()?;
    Ok((near, far))
}

/// Sends each tag when it is due, to who passes it on.
fn publish(
    cpu: Option<usize>,
    clip: &Clip,
    start_ns: u64,
    socket: TcpStream,
    stopped: &AtomicBool,
) -> Result<(), Failure> {
    cpu.map(soak::pin).transpose()?;
    let mut sender = Sender::Flv(FlvSender::new(vec![socket], None));
    let mut schedule = Schedule { clip, flush: Flush::Tag, start_ns, ingest: None };
    schedule.send_all(&mut sender, stopped);
    Ok(())
}

/// What is sent when.
struct Schedule<'a> {
    clip: &'a Clip,
    flush: Flush,
    /// When the first tag is due.
    start_ns: u64,
    /// Where the bytes come from that are passed on.
    ingest: Option<TcpStream>,
}

impl Schedule<'_> {
    fn send_all(&mut self, sender: &mut Sender, stopped: &AtomicBool) {
        let mut next = 0;
        while !stopped.load(Relaxed) && !sender.is_done() {
            let (at_ms, tags) = self.flush.next(self.clip, next);
            next = tags.end;
            sender.prepare(self.clip, tags, self.start_ns);
            match &mut self.ingest {
                None => {
                    let at_ns = self.start_ns + at_ms * 1_000_000;
                    sleep_ns(at_ns.saturating_sub(clock::monotonic_ns()));
                }
                Some(ingest) => {
                    if sender.receive(ingest).is_err() {
                        return;
                    }
                }
            }
            sender.send();
        }
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

/// The players of one thread, what they are sent next, and how.
enum Sender {
    Flv(FlvSender),
    Rtsp { packets: Packets, calls: Calls, players: Vec<FloorPlayer> },
}

struct FlvSender {
    bytes: Vec<u8>,
    sockets: Vec<TcpStream>,
    ring: Option<Box<EgressRing>>,
    /// Slots of sockets that did not take all.
    slow: Vec<usize>,
}

impl Sender {
    fn new(options: &LimitOptions, clip: &Clip, players: Vec<Player>) -> Result<Self, Failure> {
        let ring = (options.method == Method::Uring).then(EgressRing::new).transpose()?;
        let ring = ring.map(Box::new);
        let packets = match Floor::new(options.wire, clip)? {
            Floor::Flv(_) => {
                let of_flv = |player| match player {
                    Player::Flv(socket) => Some(socket),
                    Player::Rtsp(_) => None,
                };
                let sockets = players.into_iter().filter_map(of_flv).collect();
                return Ok(Self::Flv(FlvSender::new(sockets, ring)));
            }
            Floor::Rtsp(packets) => packets,
        };
        let of_rtsp = |player| match player {
            Player::Rtsp(player) => Some(player),
            Player::Flv(_) => None,
        };
        let players = players.into_iter().filter_map(of_rtsp).collect();
        let calls = match ring {
            Some(ring) => Calls::Uring(ring),
            None => match options.method {
                Method::Joined => Calls::Joined,
                Method::Sendto => Calls::Addressed,
                Method::Send | Method::Uring => Calls::Single,
            },
        };
        Ok(Self::Rtsp { packets, calls, players })
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Flv(sender) => sender.sockets.is_empty(),
            Self::Rtsp { players, .. } => players.is_empty(),
        }
    }

    fn prepare(&mut self, clip: &Clip, tags: Range<u64>, start_ns: u64) {
        match self {
            Self::Flv(sender) => {
                sender.bytes.clear();
                tags.for_each(|index| append_clip_tag(clip, index, start_ns, &mut sender.bytes));
            }
            Self::Rtsp { packets, .. } => packets.make(clip, tags, start_ns),
        }
    }

    /// Takes the bytes that were prepared from where they come; they are as many.
    fn receive(&mut self, ingest: &mut TcpStream) -> std::io::Result<()> {
        match self {
            Self::Flv(sender) => ingest.read_exact(&mut sender.bytes),
            Self::Rtsp { .. } => unreachable!("packets are not relayed"),
        }
    }

    fn send(&mut self) {
        match self {
            Self::Flv(sender) => sender.send(),
            Self::Rtsp { packets, calls, players } => packets.send(calls, players),
        }
    }
}

impl FlvSender {
    fn new(sockets: Vec<TcpStream>, ring: Option<Box<EgressRing>>) -> Self {
        Self { bytes: Vec::new(), sockets, ring, slow: Vec::new() }
    }

    fn send(&mut self) {
        let (slow, bytes) = (&mut self.slow, &self.bytes);
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
/// For the players' report when there is none left to send to.
const LAST_WORDS_NS_MAX: u64 = 20_000_000_000;
/// From when nobody is sent to any more to the end of the players that ended by themselves.
const GOODBYE_NS_MAX: u64 = 2_000_000_000;
const ACCEPT_PAUSE_NS: u64 = 1_000_000;
