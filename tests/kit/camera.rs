//! An RTSP origin with the habits of cameras, each of which can be switched on: what they leave out,
//! put elsewhere, or get wrong.
//!
//! Every connection plays the file from its beginning, and is kept on record with what was asked.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::player::is_wait;
use super::rtp::{Packet, description};
use super::rtp_media::{Media, Plan};
use super::rtsp::{Item, Message, Reader, interleaved};
use super::{LIVENESS, wait_until};

mod auth;
mod delivery;
mod habits;

pub use habits::{
    Access, Control, Cseq, Habits, KeepAlive, Loss, PlayAnswer, ServerPorts, Ssrc, Stage,
};

use auth::{Proof, proof};
use delivery::{Setup, is_over_tcp};

/// One connection's record.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// The methods of the requests, in their order.
    pub asked: Vec<String>,
    /// Of these, those that were answered with 401 because of the age of their nonce.
    pub stale: Vec<String>,
    /// The addresses that were set up.
    pub set_up: Vec<String>,
    /// What came as RTCP, each with its track.
    pub rtcp: Vec<(usize, Vec<u8>)>,
    /// What came to the ports of RTP, each with its track.
    pub rtp: Vec<(usize, Vec<u8>)>,
    /// Track and sequence number of the packets that were not sent.
    pub lost: Vec<(usize, u16)>,
    /// The stages that it came to, in their order.
    pub reached: Vec<Stage>,
    pub is_closed: bool,
    /// The camera closed it, because nobody kept the session alive.
    pub is_timed_out: bool,
    /// The ports of the source that it named in place of its own.
    pub other_sources: Vec<Arc<UdpSocket>>,
}

/// The camera.
#[derive(Debug)]
pub struct Camera {
    pub address: SocketAddr,
    pub media: Arc<Media>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    habits: Mutex<Habits>,
    records: Mutex<Vec<Connection>>,
    stopped: AtomicBool,
}

impl Camera {
    /// H.264 with B-frames, and AAC.
    #[track_caller]
    pub fn start(habits: Habits) -> Self {
        Self::start_with(habits, "av.flv", Plan::default())
    }

    #[track_caller]
    pub fn start_with(habits: Habits, file: &str, plan: Plan) -> Self {
        Self::start_of(habits, Media::of(file, plan))
    }

    /// A camera that sends this.
    #[track_caller]
    pub fn start_of(habits: Habits, media: Media) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        listener.set_nonblocking(true).expect("a nonblocking listener");
        let media = Arc::new(media);
        let shared = Arc::new(Shared {
            habits: Mutex::new(habits),
            records: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let (for_thread, for_media) = (Arc::clone(&shared), Arc::clone(&media));
        let listen = move || {
            while !for_thread.stopped.load(Ordering::SeqCst) {
                let Ok((socket, _)) = listener.accept() else {
                    sleep(Duration::from_millis(5));
                    continue;
                };
                accept(&for_thread, &for_media, socket);
            }
        };
        let thread = Some(Builder::new().name("camera".into()).spawn(listen).expect("a thread"));
        Self { address, media, shared, thread }
    }

    pub fn url(&self) -> String {
        format!("rtsp://{}/cam", self.address)
    }

    /// For connections to come.
    pub fn set(&self, habits: Habits) {
        *self.shared.habits.lock().expect("no panic while locked") = habits;
    }

    pub fn connections(&self) -> Vec<Connection> {
        self.shared.records.lock().expect("no panic while locked").clone()
    }

    pub fn open_count(&self) -> usize {
        self.connections().iter().filter(|connection| !connection.is_closed).count()
    }

    /// Waits until a connection after the first `before` has come to this stage.
    #[track_caller]
    pub fn wait_reached(&self, before: usize, stage: Stage) {
        wait_until(LIVENESS, &format!("the camera is at {stage:?}"), || {
            let connections = self.connections();
            let new = connections.get(before..).unwrap_or_default();
            new.iter().any(|connection| connection.reached.contains(&stage))
        });
    }

    #[track_caller]
    pub fn wait_all_closed(&self) {
        wait_until(LIVENESS, "all connections to the camera are closed", || self.open_count() == 0);
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A test that fails has said why.
            let _ = thread.join();
        }
    }
}

fn accept(shared: &Arc<Shared>, media: &Arc<Media>, socket: TcpStream) {
    let mut records = shared.records.lock().expect("no panic while locked");
    let index = records.len();
    records.push(Connection::default());
    drop(records);
    socket.set_nonblocking(false).expect("a blocking socket");
    socket.set_nodelay(true).expect("TCP_NODELAY");
    socket.set_read_timeout(Some(Duration::from_millis(2))).expect("a timeout");
    let habits = shared.habits.lock().expect("no panic while locked").clone();
    let link = Link {
        shared: Arc::clone(shared),
        media: Arc::clone(media),
        index,
        socket,
        habits,
        setups: Vec::new(),
        start: None,
        next: 0,
        alive: Instant::now(),
        is_stalled: false,
        unanswered: None,
        has_redirected: false,
    };
    let run = move || link.run();
    Builder::new().name("camera connection".into()).spawn(run).expect("a thread");
}

/// A connection under way.
struct Link {
    shared: Arc<Shared>,
    media: Arc<Media>,
    index: usize,
    socket: TcpStream,
    habits: Habits,
    setups: Vec<Setup>,
    /// When PLAY was answered.
    start: Option<Instant>,
    /// The packet that is due next.
    next: usize,
    alive: Instant,
    is_stalled: bool,
    /// A PLAY that is answered later.
    unanswered: Option<Message>,
    has_redirected: bool,
}

impl Link {
    fn run(mut self) {
        // An error is the peer's leaving.
        let _ = self.serve();
        let _ = self.socket.shutdown(Shutdown::Both);
        self.record(|connection| connection.is_closed = true);
    }

    fn serve(&mut self) -> std::io::Result<()> {
        let mut reader = Reader::default();
        let mut buffer = [0; 16_384];
        while !self.shared.stopped.load(Ordering::SeqCst) {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => reader.push(&buffer[..len]),
                Err(error) if is_wait(&error) => {}
                Err(error) => return Err(error),
            }
            while let Some(item) = reader.next_item().map_err(std::io::Error::other)? {
                match item {
                    Item::Packet { channel, bytes } => self.note_packet(channel, bytes),
                    // Ours is REDIRECT.
                    Item::Message(answer) if answer.status().is_some() => {}
                    Item::Message(request) => {
                        if !self.answer(&request)? {
                            return Ok(());
                        }
                    }
                }
            }
            self.note_datagrams();
            self.send_due()?;
            self.say_due()?;
            let is_late = |timeout: Duration| self.alive.elapsed() > 2 * timeout;
            if self.start.is_some() && self.habits.timeout.is_some_and(is_late) {
                self.record(|connection| connection.is_timed_out = true);
                return Ok(());
            }
        }
        Ok(())
    }

    fn record(&self, change: impl FnOnce(&mut Connection)) {
        change(&mut self.shared.records.lock().expect("no panic while locked")[self.index]);
    }

    /// Whether the connection goes on.
    fn answer(&mut self, request: &Message) -> std::io::Result<bool> {
        let method = request.method().to_owned();
        self.record(|connection| connection.asked.push(method.clone()));
        if method == "TEARDOWN" {
            self.reply(request, 200, &[], "")?;
            return Ok(false);
        }
        let stage = self.stage_of(request);
        self.record(|connection| connection.reached.extend(stage));
        if self.is_stalled || (stage.is_some() && self.habits.stall == stage) {
            self.is_stalled = true;
            return Ok(true);
        }
        if stage.is_some() && self.habits.drop == stage {
            return Ok(false);
        }
        let is_checked = method != "OPTIONS" || self.habits.checks_options;
        if is_checked
            && let Some(access) = self.habits.access
            && !self.is_allowed(request, access)?
        {
            return Ok(true);
        }
        self.note_alive(&method);
        match method.as_str() {
            "OPTIONS" => {
                self.reply(request, 200, &[("Public", self.habits.public())], "")?;
            }
            "DESCRIBE" => self.describe(request)?,
            "SETUP" => self.set_up(request)?,
            "PLAY" => self.play(request)?,
            "GET_PARAMETER" if self.habits.keep_alive == KeepAlive::OptionsOnly => {
                self.reply(request, 501, &[], "")?;
            }
            "GET_PARAMETER" => self.reply(request, 200, &[], "")?,
            _ => self.reply(request, 501, &[], "")?,
        }
        Ok(true)
    }

    /// Whether the password is proven; if not, it is asked for.
    fn is_allowed(&self, request: &Message, access: Access) -> std::io::Result<bool> {
        let played = self.start.map(|start| start.elapsed());
        let is_later = |after| played.is_some_and(|played| played >= after);
        let nonce = u32::from(self.habits.stale_after.is_some_and(is_later));
        let proof = proof(&access, nonce, request);
        if proof == Proof::Right {
            return Ok(true);
        }
        if proof == Proof::Stale {
            self.record(|connection| connection.stale.push(request.method().to_owned()));
        }
        let challenges = auth::challenges(&access, nonce, proof == Proof::Stale);
        let headers: Vec<_> =
            challenges.iter().map(|value| ("WWW-Authenticate", value.as_str())).collect();
        self.reply(request, 401, &headers, "")?;
        Ok(false)
    }

    /// The stage that a request begins; media follows PLAY.
    fn stage_of(&self, request: &Message) -> Option<Stage> {
        Some(match request.method() {
            "OPTIONS" => Stage::Options,
            "DESCRIBE" if request.header("authorization").is_some() => Stage::Login,
            "DESCRIBE" => Stage::Describe,
            // A SETUP that is refused is no step ahead.
            "SETUP" if self.habits.udp_refused && !is_over_tcp(request) => return None,
            "SETUP" if self.setups.is_empty() => Stage::Setup,
            "SETUP" => Stage::SecondSetup,
            "PLAY" => Stage::Play,
            _ => return None,
        })
    }

    fn note_alive(&mut self, method: &str) {
        let counts = match self.habits.keep_alive {
            KeepAlive::Any => true,
            KeepAlive::GetParameter => method != "OPTIONS",
            KeepAlive::OptionsOnly => method != "GET_PARAMETER",
        };
        if counts {
            self.alive = Instant::now();
        }
    }

    fn reply(
        &self,
        request: &Message,
        status: u16,
        headers: &[(&'static str, &str)],
        body: &str,
    ) -> std::io::Result<()> {
        let mut text = format!("RTSP/1.0 {status} {}\r\n", reason(status));
        let cseq = request.header("cseq").unwrap_or("0").to_owned();
        match self.habits.cseq {
            Cseq::Echoed => text += &format!("CSeq: {cseq}\r\n"),
            Cseq::Named(name) => text += &format!("{name}: {cseq}\r\n"),
            Cseq::Wrong => text += "CSeq: 7777\r\n",
            Cseq::Missing => {}
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += &format!("\r\n{body}");
        (&self.socket).write_all(text.as_bytes())
    }

    fn base(&self) -> String {
        let address = self.socket.local_addr().expect("a connected socket");
        format!("rtsp://{address}/cam")
    }

    fn describe(&mut self, request: &Message) -> std::io::Result<()> {
        if let Some(url) = self.habits.redirect.clone() {
            let status = self.habits.redirect_status;
            return self.reply(request, status, &[("Location", &url)], "");
        }
        let base = self.base();
        let mut formats = self.media.formats.clone();
        for (index, format) in formats.iter_mut().enumerate() {
            format.control = match self.habits.control {
                Control::Absolute => format!("{base}/{}", format.control),
                Control::AggregateOnly if index == 0 => String::new(),
                _ => format.control.clone(),
            };
        }
        if self.habits.control == Control::AggregateOnly {
            formats.truncate(1);
        }
        let content_base = format!("{base}/");
        let session = match self.habits.control {
            Control::Absolute => base.as_str(),
            Control::BehindAbsolute => content_base.as_str(),
            Control::RelativeWithoutBase | Control::AggregateOnly => "",
            Control::Relative | Control::PerTrack => "*",
        };
        let mut body = description(session, &[]);
        let direction = if self.habits.back_channel { "a=recvonly\r\n" } else { "" };
        body += if self.habits.back_channel { BACK_CHANNEL } else { "" };
        formats.iter().for_each(|format| body += &(format.lines() + direction));
        let body = self.habits.absurd.clone().unwrap_or(body);
        let mut headers = vec![("Content-Type", "application/sdp")];
        if matches!(self.habits.control, Control::Relative | Control::PerTrack) {
            headers.push(("Content-Base", content_base.as_str()));
        }
        self.reply(request, 200, &headers, &body)
    }

    fn play(&mut self, request: &Message) -> std::io::Result<()> {
        if self.habits.control == Control::PerTrack && !request.uri().contains("/track") {
            return self.reply(request, 459, &[], "");
        }
        if self.habits.stray && self.start.is_none() {
            // Channels that nobody set up, and media before the answer.
            self.socket.write_all(&interleaved(40, b"not for anybody"))?;
            self.send_first(2)?;
            self.socket.write_all(&interleaved(41, &[0x80; 40]))?;
        }
        if self.habits.play_answer == PlayAnswer::AtOnce {
            self.answer_play(request)?;
        } else {
            self.unanswered = Some(request.clone());
        }
        self.start.get_or_insert_with(Instant::now);
        self.record(|connection| connection.reached.push(Stage::Media));
        Ok(())
    }

    fn answer_play(&mut self, request: &Message) -> std::io::Result<()> {
        if self.habits.tells_start {
            let base = self.base();
            let start = |setup: &Setup| {
                let track = setup.track();
                let packets = self.media.rtp(track);
                let Packet { sequence, .. } = &packets[0];
                let control = &self.media.formats[track].control;
                // Of all tracks at the start of the range (RFC 2326, 12.33).
                let timestamp = self.media.start_timestamp;
                format!("url={base}/{control};seq={sequence};rtptime={timestamp}")
            };
            let starts: Vec<String> = self.setups.iter().map(start).collect();
            let headers = [("Range", "npt=0.000-"), ("RTP-Info", &starts.join(","))];
            return self.reply(request, 200, &headers, "");
        }
        self.reply(request, 200, &[], "")
    }

    /// What is said while media goes out.
    fn say_due(&mut self) -> std::io::Result<()> {
        let Some(played) = self.start.map(|start| start.elapsed()) else { return Ok(()) };
        let is_late = self.habits.play_answer == PlayAnswer::Late;
        if is_late
            && played >= PLAY_LATE
            && let Some(request) = self.unanswered.take()
        {
            self.answer_play(&request)?;
        }
        if let Some((after, url)) = self.habits.redirect_later.clone()
            && played >= after
            && !self.has_redirected
        {
            self.has_redirected = true;
            let base = self.base();
            let request = format!("REDIRECT {base} RTSP/1.0\r\nCSeq: 1\r\nLocation: {url}\r\n\r\n");
            self.socket.write_all(request.as_bytes())?;
        }
        Ok(())
    }

    fn send_first(&mut self, count: usize) -> std::io::Result<()> {
        let media = Arc::clone(&self.media);
        for packet in &media.packets[..count] {
            self.send(packet)?;
        }
        self.next = count;
        Ok(())
    }

    fn send_due(&mut self) -> std::io::Result<()> {
        let Some(start) = self.start else { return Ok(()) };
        let is_silent = self.habits.is_silent || self.habits.stall == Some(Stage::Media);
        if is_silent {
            return Ok(());
        }
        if [self.habits.stall, self.habits.drop].contains(&Some(Stage::MidPacket)) {
            return self.break_off();
        }
        let media = Arc::clone(&self.media);
        let elapsed = start.elapsed();
        while let Some(packet) = media.packets.get(self.next) {
            if Duration::from_millis(packet.at_ms.into()) > elapsed {
                break;
            }
            if self.habits.drop == Some(Stage::Media) && self.next > 100 {
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            if self.habits.stray && self.next % 20 == 19 {
                self.socket.write_all(&interleaved(40, b"nor this"))?;
            }
            match self.habits.loss {
                // Not the same of each picture's packets.
                Loss::Lost if self.next % 47 == 46 && !packet.is_rtcp => {
                    let Packet { sequence, .. } = Packet::parse(&packet.bytes).expect("made here");
                    self.record(|connection| connection.lost.push((packet.track, sequence)));
                }
                // Every third packet after the one that follows it.
                Loss::Reordered if self.next % 3 == 2 => {
                    if let Some(following) = media.packets.get(self.next + 1) {
                        self.send(following)?;
                    }
                    self.send(packet)?;
                    self.next += 1;
                }
                // Behind the report of the track.
                Loss::FirstReordered if self.next == 1 => {
                    self.send(&media.packets[2])?;
                    self.send(packet)?;
                    self.next += 1;
                }
                _ if self.habits.silent_track == Some(packet.track) => {}
                _ => self.send(packet)?,
            }
            self.next += 1;
        }
        Ok(())
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        301 => "Moved Permanently",
        302 => "Found",
        401 => "Unauthorized",
        404 => "Not Found",
        459 => "Aggregate Operation Not Allowed",
        461 => "Unsupported Transport",
        _ => "Not Implemented",
    }
}

/// When a PLAY is answered that is answered late.
const PLAY_LATE: Duration = Duration::from_millis(500);

const BACK_CHANNEL: &str =
    "m=audio 0 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=control:track9\r\na=sendonly\r\n";
