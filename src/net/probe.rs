//! A look at an origin: as a pull would go about it, step by step with the time of each, and nothing
//! is registered. Each has a thread of its own that may block; no shard waits for it.

mod sockets;

use std::io::{PipeReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{io, thread};

use bytes::Bytes;
use nix::poll::PollFlags;
use sockets::{UdpPair, connect_fault, is_wait};

use super::NodeHandle;
use super::origin::{OriginSession, Wanted};
use super::pull::connect_time;
use super::resolver::{self, Resolver};
use super::rtsp_origin::RtspWanted;
use crate::access;
use crate::bus::message::Answer;
use crate::bus::view::ProbeView;
use crate::clock;
use crate::config::{AccessSection, PortRange};
use crate::limits::{DATAGRAM_LEN_MAX, MESSAGE_LEN_MAX, PROBES_MAX, REDIRECTS_MAX};
use crate::media::state::{ErrorClass, Fault};
use crate::media::{Codec, ConnectionId, Form, SourceUrl};
use crate::proto::rtsp::LowerTransport;
use crate::rt::oneshot;
use crate::shard::Stage;
use crate::stream::ingest::Progress;
use crate::stream::{Media, MediaProgress};

/// What to look at.
#[derive(Debug, Clone)]
pub struct ProbeRequest {
    pub url: SourceUrl,
    /// Over RTSP: what is tried first, the other one where the origin refuses it.
    pub rtp_transport: LowerTransport,
    /// For packets over UDP.
    pub udp_ports: PortRange,
    /// For all of it.
    pub timeout: Duration,
    /// Whose rules for pulls hold.
    pub access: AccessSection,
}

/// Looks at an origin. Blocks for the request's timeout at most.
pub fn probe(resolver: &Resolver, request: ProbeRequest) -> ProbeView {
    look(resolver, request, None)
}

/// As [`probe`]; it ends at once when the other end of `caller` is closed.
fn look(resolver: &Resolver, request: ProbeRequest, caller: Option<PipeReader>) -> ProbeView {
    let mut probe = Probe::new(resolver, &request, caller);
    let result = probe.follow(request.url);
    probe.view.fault = result.err();
    probe.view.tracks = probe.media.tracks().clone();
    probe.view
}

struct Probe<'a> {
    resolver: &'a Resolver,
    start: Instant,
    deadline: Instant,
    access: AccessSection,
    rtp_transport: LowerTransport,
    udp_ports: PortRange,
    /// Of the tracks that come over UDP.
    udp: Vec<UdpPair>,
    /// Closed at its other end when nobody waits for the answer.
    caller: Option<PipeReader>,
    awaiting: &'static str,
    view: ProbeView,
    media: Media,
    /// Everything was found; what is still to come tells more of the tracks.
    enough_at: Option<Instant>,
}

impl<'a> Probe<'a> {
    fn new(resolver: &'a Resolver, request: &ProbeRequest, caller: Option<PipeReader>) -> Self {
        let start = clock::now();
        Self {
            resolver,
            start,
            deadline: start + request.timeout,
            access: request.access.clone(),
            rtp_transport: request.rtp_transport,
            udp_ports: request.udp_ports.clone(),
            udp: Vec::new(),
            caller,
            awaiting: "an address",
            view: ProbeView::default(),
            media: Media::default(),
            enough_at: None,
        }
    }

    fn follow(&mut self, mut url: SourceUrl) -> Result<(), Fault> {
        for _ in 0..=REDIRECTS_MAX {
            let Some(next) = self.look_at(&url)? else { return Ok(()) };
            let target = SourceUrl::parse(&next, true).map_err(|error| {
                Fault::new(ErrorClass::Rejected, format!("redirected to {next}: {error}"))
            })?;
            url = target.with_login_of(&url);
        }
        Err(Fault::new(ErrorClass::Rejected, "redirected too often"))
    }

    /// Where it was sent on to, or nothing where it is done.
    fn look_at(&mut self, url: &SourceUrl) -> Result<Option<String>, Fault> {
        let addresses = self.resolve(url)?;
        self.view.resolved_ms = Some(self.elapsed_ms());
        let mut socket = self.connect(&addresses)?;
        self.view.connected_ms = Some(self.elapsed_ms());
        self.media = Media::new(url.form());
        self.udp.clear();
        let (first, hold) = (self.rtp_transport, Duration::ZERO);
        let mut session = OriginSession::new(clock::now(), url, first, hold);
        let mut buffer = vec![0; DATAGRAM_LEN_MAX];
        loop {
            if let Some(url) = self.drain(&mut session, &mut socket)? {
                return Ok(Some(url));
            }
            let now = clock::now();
            if self.enough_at.is_some_and(|at| at <= now) {
                return Ok(None);
            }
            self.check_time()?;
            let until = self.enough_at.map_or(self.deadline, |at| at.min(self.deadline));
            let readable = (socket.as_fd(), PollFlags::POLLIN);
            let pairs = self.udp.iter().flat_map(|pair| [&pair.rtp, &pair.rtcp]);
            let datagrams = pairs.map(|socket| (socket.as_fd(), PollFlags::POLLIN));
            self.wait(datagrams.chain([readable]).collect(), until)?;
            self.receive_datagrams(&mut session, &mut buffer);
            match socket.read(&mut buffer) {
                Ok(0) => return Err(Fault::new(ErrorClass::Lost, "end of file")),
                Ok(len) => {
                    let bytes = Bytes::copy_from_slice(&buffer[..len]);
                    let fault = session.handle_input(clock::now(), bytes);
                    if let Some(fault) = fault {
                        return Err(fault);
                    }
                }
                Err(error) if is_wait(&error) => {}
                Err(error) => return Err(Fault::new(ErrorClass::Lost, error.to_string())),
            }
        }
    }

    fn resolve(&self, url: &SourceUrl) -> Result<Vec<SocketAddr>, Fault> {
        if let Some(address) = resolver::literal(&url.host, url.port) {
            return Ok(vec![address]);
        }
        let (give, found) = mpsc::channel();
        let answer = Box::new(move |result| {
            // Who asked may have run out of time.
            let _ = give.send(result);
        });
        self.resolver.resolve(&url.host, url.port, answer);
        let unresolved = |text: String| Fault::new(ErrorClass::Unresolved, text);
        while clock::now() < self.deadline {
            match found.recv_timeout(self.left().min(CALLER_GONE_WITHIN)) {
                Ok(Ok(addresses)) => return Ok(addresses),
                Ok(Err(error)) => return Err(unresolved(format!("{}: {error}", url.host))),
                Err(_) => self.wait(Vec::new(), clock::now())?,
            }
        }
        Err(unresolved(format!("no address of {} in time", url.host)))
    }

    fn connect(&mut self, addresses: &[SocketAddr]) -> Result<TcpStream, Fault> {
        let mut last = Fault::new(ErrorClass::Unresolved, "the name has no address");
        let is_allowed = |address: &SocketAddr| access::may_pull_from(&self.access, address.ip());
        let (allowed, denied): (Vec<SocketAddr>, Vec<_>) =
            addresses.iter().copied().partition(is_allowed);
        if let Some(address) = denied.last() {
            last =
                Fault::new(ErrorClass::Denied, format!("{} is in access.pull_deny", address.ip()));
        }
        for (index, &address) in allowed.iter().enumerate() {
            self.view.address = Some(address);
            let time = connect_time(self.left(), allowed.len() - 1 - index);
            let time = time.unwrap_or_else(|| self.left()).max(Duration::from_millis(1));
            match self.connect_to(address, clock::now() + time)? {
                Ok(socket) => return Ok(socket),
                Err(error) => last = connect_fault(&error),
            }
        }
        Err(last)
    }

    /// Does what the session wants, and takes its media.
    fn drain(
        &mut self,
        session: &mut OriginSession,
        socket: &mut TcpStream,
    ) -> Result<Option<String>, Fault> {
        while let Some(wanted) = session.poll() {
            match wanted {
                Wanted::Send(bytes) => self.send(socket, &bytes)?,
                Wanted::Stage(stage, awaiting) => {
                    self.awaiting = awaiting;
                    if stage == Stage::AwaitingMedia {
                        let now = self.elapsed_ms();
                        self.view.handshake_ms.get_or_insert(now);
                    }
                }
                Wanted::Media(part) => {
                    let progress = self.media.handle(part);
                    self.note_media(progress);
                }
                Wanted::Rtsp(wanted) => self.take_rtsp(session, wanted, socket)?,
                Wanted::Redirect(url) => return Ok(Some(url)),
                Wanted::Fail(fault) => return Err(fault),
            }
        }
        // No more is kept than a GOP, as of a stream.
        self.media.flush();
        let form = self.media.form();
        if let Some(log) = self.media.log_mut(form) {
            log.trim(None, 2 * MESSAGE_LEN_MAX as u64);
        }
        Ok(None)
    }

    /// What only an RTSP origin wants. Nobody reports on its media.
    fn take_rtsp(
        &mut self,
        session: &mut OriginSession,
        wanted: RtspWanted,
        socket: &TcpStream,
    ) -> Result<(), Fault> {
        let OriginSession::Rtsp(origin) = session else { return Ok(()) };
        let now = clock::now();
        match wanted {
            RtspWanted::Part(part) => {
                if let MediaProgress::Went(progress) = self.media.handle_rtp((now, 0), part) {
                    self.note_media(progress);
                }
            }
            RtspWanted::Packet { track, kind, packet } => {
                origin.handle_packet(now, track, kind, packet.pieces());
            }
            RtspWanted::OpenUdp { track } => {
                let ports = self.open_udp(track, socket);
                origin.udp_opened(now, ports);
            }
            RtspWanted::CloseUdp { track } => self.udp.retain(|pair| pair.track != track),
            RtspWanted::ConnectUdp { track, server_port } => {
                self.connect_udp(origin, (track, server_port), socket).map_err(|error| {
                    let text = format!("the origin's UDP ports can't be used: {error}");
                    Fault::new(ErrorClass::Unreachable, text)
                })?;
            }
            RtspWanted::Report { .. } => {}
        }
        Ok(())
    }

    fn note_media(&mut self, progress: Progress) {
        if !progress.committed {
            return;
        }
        let now = self.elapsed_ms();
        self.view.first_media_ms.get_or_insert(now);
        let tracks = self.media.tracks();
        if tracks.video.as_ref().is_some_and(|video| video.keyframes > 0) {
            self.view.first_keyframe_ms.get_or_insert(now);
        }
        let all: Vec<_> = tracks.video.iter().chain(&tracks.audio).collect();
        if all.is_empty() || !all.iter().all(|track| track.ready) {
            return;
        }
        self.view.tracks_ms.get_or_insert(now);
        // Which packets of other codecs begin a keyframe is not known; a pull takes them as they come.
        let has_keyframes = tracks.video.as_ref().is_some_and(|video| {
            self.media.form() == Form::Flv || matches!(video.codec, Codec::H264 | Codec::H265)
        });
        let frames = all.iter().map(|track| track.frames).max().unwrap_or(0);
        let is_all = self.view.first_keyframe_ms.is_some() || !has_keyframes && frames > 0;
        if is_all && self.enough_at.is_none() {
            self.enough_at = Some((clock::now() + MORE_MEDIA).min(self.deadline));
        }
    }

    /// A fault where the time is over before everything was found.
    fn check_time(&self) -> Result<(), Fault> {
        if self.enough_at.is_some() || clock::now() < self.deadline {
            return Ok(());
        }
        let text = match self.view.first_media_ms {
            None => format!("the origin is silent: no {} in time", self.awaiting),
            Some(_) if self.view.first_keyframe_ms.is_some() => {
                "no configuration of each track in time".to_owned()
            }
            Some(_) => "no keyframe in time".to_owned(),
        };
        Err(Fault::new(ErrorClass::Silent, text))
    }

    /// What is left of the time; never zero, which sockets take for no limit.
    fn left(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(clock::now());
        left.max(Duration::from_millis(1))
    }

    fn elapsed_ms(&self) -> u64 {
        (clock::now() - self.start).as_millis() as u64
    }
}

/// Starts looks, at most so many at once. Its thread is not bound to a CPU, nor are theirs.
#[derive(Clone)]
pub(super) struct Prober {
    tasks: mpsc::Sender<Task>,
    running: Arc<AtomicUsize>,
}

type Done = Box<dyn FnOnce(ProbeView) + Send>;

struct Task {
    request: ProbeRequest,
    caller: PipeReader,
    done: Done,
}

impl Prober {
    pub(super) fn start(resolver: Arc<Resolver>) -> io::Result<Self> {
        let (tasks, queue) = mpsc::channel::<Task>();
        let running = Arc::new(AtomicUsize::new(0));
        let count = running.clone();
        thread::Builder::new().name("prober".to_owned()).spawn(move || {
            for Task { request, caller, done } in queue {
                let (resolver, of_look) = (resolver.clone(), count.clone());
                let look = move || {
                    let view = look(&resolver, request, Some(caller));
                    of_look.fetch_sub(1, Ordering::AcqRel);
                    done(view);
                };
                if thread::Builder::new().name("probe".to_owned()).spawn(look).is_err() {
                    // Whoever waits has a bound.
                    count.fetch_sub(1, Ordering::AcqRel);
                }
            }
        })?;
        Ok(Self { tasks, running })
    }

    /// `false` when so many are under way that this one was not begun.
    fn begin(&self, request: ProbeRequest, caller: PipeReader, done: Done) -> bool {
        let next = |count| (count < PROBES_MAX).then_some(count + 1);
        if self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_err() {
            return false;
        }
        self.tasks.send(Task { request, caller, done }).is_ok()
    }
}

impl NodeHandle {
    /// Looks at an origin, by the rules of this node, for as long as the connection stays that asked for
    /// it. `None` when too many looks are under way.
    pub async fn probe(
        &self,
        by: ConnectionId,
        (url, rtp_transport): (SourceUrl, LowerTransport),
        timeout: Duration,
    ) -> Option<ProbeView> {
        let (caller, ours) = io::pipe().ok()?;
        let receiver = {
            let mut driver = self.driver.borrow_mut();
            let (sender, receiver) = oneshot();
            let serial = driver.await_answer(sender, clock::now() + timeout + SLACK);
            let tell = driver.answer_from_thread(serial);
            let (access, udp_ports) =
                (driver.config.access.clone(), driver.config.rtsp.udp_ports.clone());
            let request = ProbeRequest { url, rtp_transport, udp_ports, timeout, access };
            let done = Box::new(move |view| tell(Answer::Probed(Box::new(view))));
            if driver.prober.begin(request, caller, done) {
                driver.probes.insert(by, ours);
            } else {
                driver.give_answer(serial, Answer::Done);
            }
            receiver
        };
        let answer = receiver.await;
        self.driver.borrow_mut().probes.remove(&by);
        match answer {
            Ok(Answer::Probed(view)) => Some(*view),
            _ => None,
        }
    }
}

/// How soon a look that waits for an address ends when its caller has gone.
const CALLER_GONE_WITHIN: Duration = Duration::from_millis(100);
/// The second track and the frame rate show within it.
const MORE_MEDIA: Duration = Duration::from_secs(1);
/// What a thread may need beyond the time of its look.
const SLACK: Duration = Duration::from_millis(400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rtp::{Gap, RtpHeader, RtpPacket, RtpPart};
    use crate::proto::rtsp::SessionDescription;

    /// As of a camera that sends its parameter sets late.
    #[test]
    fn a_keyframe_has_its_own_time() {
        const SPS: &[u8] = &[
            0x67, 0x42, 0xc0, 0x1f, 0xda, 0x01, 0x40, 0x16, 0xe9, 0x52, 0, 0, 3, 0, 2, 0, 0, 3, 0,
            0x64, 0xc0, 0x80,
        ];
        let resolver = Resolver::start().expect("threads");
        let request = ProbeRequest {
            url: SourceUrl::parse("rtsp://127.0.0.1/live/a", true).expect("a URL"),
            rtp_transport: LowerTransport::Tcp,
            udp_ports: PortRange::new(20_000, 20_009).expect("ports"),
            timeout: Duration::from_secs(60),
            access: AccessSection::default(),
        };
        let mut probe = Probe::new(&resolver, &request, None);
        probe.media = Media::new(Form::Rtp);
        let sdp = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";
        let description = Arc::new(SessionDescription::parse(sdp).expect("a description"));
        let now = clock::now();
        let take = |probe: &mut Probe<'_>, part| {
            if let MediaProgress::Went(progress) = probe.media.handle_rtp((now, 0), part) {
                probe.note_media(progress);
            }
            probe.media.flush();
        };
        take(&mut probe, RtpPart::Begin(description));
        let pictures: [(u32, &[u8]); 5] = [
            (0, &[0x65, 1]),
            (3000, &[0x41, 1]),
            (6000, SPS),
            (6000, &[0x68, 0xce]),
            (6000, &[0x65, 1]),
        ];
        for (sequence, (timestamp, payload)) in (0..).zip(pictures) {
            if sequence == 2 {
                assert!(probe.view.first_keyframe_ms.is_some() && probe.view.tracks_ms.is_none());
                probe.start -= Duration::from_millis(800);
            }
            let (marker, payload_type, ssrc) = (payload[0] & 0x1f < 7, 96, 9);
            let header = RtpHeader { marker, payload_type, sequence, timestamp, ssrc };
            let packet = RtpPacket::parse([&header.encode()[..], payload].concat().into());
            let (packet, gap) = (packet.expect("sound"), Gap::None);
            take(&mut probe, RtpPart::Packet { track: 0, packet, gap });
        }
        let ProbeView { tracks_ms, first_keyframe_ms, .. } = probe.view;
        assert!(tracks_ms >= Some(800), "{tracks_ms:?}");
        assert!(first_keyframe_ms < Some(800), "{first_keyframe_ms:?}");
    }
}
