//! A look at an origin: as a pull would go about it, step by step with the time of each, and nothing
//! is registered. Each has a thread of its own that may block; no shard waits for it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{io, thread};

use bytes::Bytes;

use super::NodeHandle;
use super::origin::{OriginSession, Wanted};
use super::pull::connect_time;
use super::resolver::{self, Resolver};
use super::rtsp_origin::RtspWanted;
use crate::access;
use crate::bus::message::Answer;
use crate::bus::view::ProbeView;
use crate::clock;
use crate::config::AccessSection;
use crate::limits::{MESSAGE_LEN_MAX, PROBES_MAX, REDIRECTS_MAX};
use crate::media::SourceUrl;
use crate::media::state::{ErrorClass, Fault};
use crate::proto::rtsp::LowerTransport;
use crate::rt::oneshot;
use crate::shard::Stage;
use crate::stream::ingest::Progress;
use crate::stream::{Media, MediaProgress};

/// What to look at.
#[derive(Debug, Clone)]
pub struct ProbeRequest {
    pub url: SourceUrl,
    /// For all of it.
    pub timeout: Duration,
    /// Whose rules for pulls hold.
    pub access: AccessSection,
}

/// Looks at an origin. Blocks for the request's timeout at most.
pub fn probe(resolver: &Resolver, request: ProbeRequest) -> ProbeView {
    let start = clock::now();
    let mut probe = Probe {
        resolver,
        start,
        deadline: start + request.timeout,
        access: request.access,
        awaiting: "an address",
        view: ProbeView::default(),
        media: Media::default(),
        enough_at: None,
    };
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
    awaiting: &'static str,
    view: ProbeView,
    media: Media,
    /// Everything was found; what is still to come tells more of the tracks.
    enough_at: Option<Instant>,
}

impl Probe<'_> {
    fn follow(&mut self, mut url: SourceUrl) -> Result<(), Fault> {
        for _ in 0..=REDIRECTS_MAX {
            let Some(next) = self.look_at(&url)? else { return Ok(()) };
            url = SourceUrl::parse(&next, true).map_err(|error| {
                Fault::new(ErrorClass::Rejected, format!("redirected to {next}: {error}"))
            })?;
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
        let (transport, hold) = (LowerTransport::Tcp, Duration::ZERO);
        let mut session = OriginSession::new(clock::now(), url, transport, hold);
        let mut buffer = vec![0; RECEIVE_LEN];
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
            let left = until.saturating_duration_since(now).max(Duration::from_millis(1));
            let read = socket.set_read_timeout(Some(left)).and_then(|()| socket.read(&mut buffer));
            match read {
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
        match found.recv_timeout(self.left()) {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(unresolved(format!("{}: {error}", url.host))),
            Err(_) => Err(unresolved(format!("no address of {} in time", url.host))),
        }
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
            match TcpStream::connect_timeout(&address, time) {
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
                Wanted::Send(bytes) => {
                    let sent = socket
                        .set_write_timeout(Some(self.left()))
                        .and_then(|()| socket.write_all(&bytes));
                    sent.map_err(|error| Fault::new(ErrorClass::Lost, error.to_string()))?;
                }
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
                Wanted::Rtsp(wanted) => self.take_rtsp(session, wanted),
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

    /// What only an RTSP origin wants. Media comes over TCP; nobody reports on it.
    fn take_rtsp(&mut self, session: &mut OriginSession, wanted: RtspWanted) {
        let OriginSession::Rtsp(origin) = session else { return };
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
            RtspWanted::OpenUdp { .. } => origin.udp_opened(now, None),
            RtspWanted::Report { .. }
            | RtspWanted::CloseUdp { .. }
            | RtspWanted::ConnectUdp { .. } => {}
        }
    }

    fn note_media(&mut self, progress: Progress) {
        if !progress.committed {
            return;
        }
        let now = self.elapsed_ms();
        self.view.first_media_ms.get_or_insert(now);
        let tracks = self.media.tracks();
        let all: Vec<_> = tracks.video.iter().chain(&tracks.audio).collect();
        if all.is_empty() || !all.iter().all(|track| track.ready) {
            return;
        }
        self.view.tracks_ms.get_or_insert(now);
        if tracks.video.as_ref().is_some_and(|video| video.keyframes > 0) {
            self.view.first_keyframe_ms.get_or_insert(now);
        }
        let frames = all.iter().map(|track| track.frames).max().unwrap_or(0);
        let is_all = self.view.first_keyframe_ms.is_some() || tracks.video.is_none() && frames > 0;
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

fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn connect_fault(error: &io::Error) -> Fault {
    let class = match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => ErrorClass::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => ErrorClass::TimedOut,
        _ => ErrorClass::Unreachable,
    };
    Fault::new(class, error.to_string())
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
    done: Done,
}

impl Prober {
    pub(super) fn start(resolver: Arc<Resolver>) -> io::Result<Self> {
        let (tasks, queue) = mpsc::channel::<Task>();
        let running = Arc::new(AtomicUsize::new(0));
        let count = running.clone();
        thread::Builder::new().name("prober".to_owned()).spawn(move || {
            for Task { request, done } in queue {
                let (resolver, of_look) = (resolver.clone(), count.clone());
                let look = move || {
                    let view = probe(&resolver, request);
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
    fn begin(&self, request: ProbeRequest, done: Done) -> bool {
        let next = |count| (count < PROBES_MAX).then_some(count + 1);
        if self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_err() {
            return false;
        }
        self.tasks.send(Task { request, done }).is_ok()
    }
}

impl NodeHandle {
    /// Looks at an origin, by the rules of this node. `None` when too many looks are under way.
    pub async fn probe(&self, url: SourceUrl, timeout: Duration) -> Option<ProbeView> {
        let receiver = {
            let mut driver = self.driver.borrow_mut();
            let (sender, receiver) = oneshot();
            let serial = driver.await_answer(sender, clock::now() + timeout + SLACK);
            let tell = driver.answer_from_thread(serial);
            let request = ProbeRequest { url, timeout, access: driver.config.access.clone() };
            let done = Box::new(move |view| tell(Answer::Probed(Box::new(view))));
            if !driver.prober.begin(request, done) {
                driver.give_answer(serial, Answer::Done);
            }
            receiver
        };
        match receiver.await {
            Ok(Answer::Probed(view)) => Some(*view),
            _ => None,
        }
    }
}

const RECEIVE_LEN: usize = 16 * 1024;
/// The second track and the frame rate show within it.
const MORE_MEDIA: Duration = Duration::from_secs(1);
/// What a thread may need beyond the time of its look.
const SLACK: Duration = Duration::from_millis(400);
