//! The server session: a publisher or a player of ours (RFC 2326, 10 and A.2).
//!
//! ```text
//!           describe, setup …              play            pause
//!   init ───────────────────► ready (play) ────► playing ◄──────► paused
//!        ───────────────────► ready (record) ──► recording
//!           announce, setup …             record
//! ```
//!
//! TEARDOWN leads back to init from everywhere. While the driver owes an answer, input is kept and
//! not read: requests are answered in their order, and packets that a publisher sends before it may
//! are not lost. Media to players is sent by the driver, not through the session.
//!
//! Tracks that are played over TCP have the channels `2 × track` and the next, whatever the player
//! asks for, so that one run of interleaved packets is for all of them.

mod event;
mod requests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::event::{FirstPacket, Refusal, ServerEvent, TrackSetup};
use crate::limits::{HELD_INPUT_LEN_MAX, RTSP_REQUESTS_AT_ONCE_MAX};
use crate::proto::Output;
use crate::proto::rtsp::auth::{AuthScheme, Credentials, ServerAuth};
use crate::proto::rtsp::error::{MessageError, ServerError};
use crate::proto::rtsp::message::{Interleaved, Item, MessageReader, Request, Response};
use crate::proto::rtsp::rtp_info::TrackStart;
use crate::proto::rtsp::sdp::{MediaDescription, SessionDescription};
use crate::proto::rtsp::transport::{Delivery, LowerTransport, Mode, PacketKind, Ports, Transport};

/// What the operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// `Server` header.
    pub name: String,
    /// What may carry media (`rtsp.rtp_transport`); others are answered with 461.
    pub transports: Vec<LowerTransport>,
    pub auth: Option<AuthConfig>,
    /// Players may pause; if not, PAUSE is answered with 405.
    pub pause_allowed: bool,
    /// How long a player over UDP, or one that paused, may give no sign of life.
    pub session_timeout: Duration,
    /// From the connection to PLAY or RECORD, whatever is asked meanwhile; again from where a session that
    /// played or published is torn down. What the driver takes for its answers does not count.
    pub command_timeout: Duration,
}

/// How peers prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    pub schemes: Vec<AuthScheme>,
    pub realm: String,
    pub credentials: Credentials,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            name: "rillcast".to_owned(),
            transports: vec![LowerTransport::Tcp, LowerTransport::Udp],
            auth: None,
            pause_allowed: true,
            session_timeout: Duration::from_secs(60),
            command_timeout: Duration::from_secs(15),
        }
    }
}

/// The session of one accepted connection.
#[derive(Debug)]
pub struct ServerSession {
    config: ServerConfig,
    auth: Option<ServerAuth>,
    /// Wrong credentials so far.
    auth_attempts: u32,
    authorized: bool,
    session_id: String,
    reader: MessageReader,
    phase: Phase,
    /// What the driver is asked for.
    asked: Option<Asked>,
    /// Input that came since.
    held: Vec<u8>,
    /// Requests read since input came last: that one, and what was kept.
    requests_at_once: u32,
    /// Of the request that is being answered.
    cseq: Option<String>,
    /// What the stream has, of a player or a publisher.
    media: Vec<MediaDescription>,
    url: String,
    description_text: String,
    setups: Vec<TrackSetup>,
    alive_at: Instant,
    /// PLAY or RECORD comes until then.
    begins_by: Instant,
    /// When the driver was asked.
    asked_at: Option<Instant>,
    stray_packets: u64,
    outputs: VecDeque<Output<ServerEvent>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Init,
    /// Described or announced, perhaps with tracks set up.
    Ready(Mode),
    Playing,
    Paused,
    Recording,
}

#[derive(Debug)]
enum Asked {
    Describe {
        url: String,
    },
    /// A player that knows the description from elsewhere begins with SETUP.
    DescribeForSetup {
        request: Box<Request>,
        url: String,
    },
    Announce {
        url: String,
        media: Vec<MediaDescription>,
    },
    SetupUdp {
        track: usize,
        url: String,
        client_port: Ports,
    },
    Play,
    Record,
}

impl ServerSession {
    /// A session whose connection was just accepted. `seed` is random: the session's name and the
    /// nonce come of it.
    pub fn new(now: Instant, seed: u64, config: ServerConfig) -> Self {
        let auth = config.auth.as_ref().map(|auth| {
            let AuthConfig { schemes, realm, credentials } = auth;
            ServerAuth::new(schemes, realm, credentials.clone(), seed)
        });
        Self {
            auth,
            auth_attempts: 0,
            authorized: false,
            session_id: format!("{:016X}", fastrand::Rng::with_seed(seed).u64(..)),
            reader: MessageReader::new(),
            phase: Phase::Init,
            asked: None,
            held: Vec::new(),
            requests_at_once: 0,
            cseq: None,
            media: Vec::new(),
            url: String::new(),
            description_text: String::new(),
            setups: Vec::new(),
            alive_at: now,
            begins_by: now + config.command_timeout,
            asked_at: None,
            stray_packets: 0,
            outputs: VecDeque::new(),
            config,
        }
    }

    /// Takes bytes from the peer.
    ///
    /// # Errors
    /// [`ServerError`]; the session is dead then.
    pub fn handle_input(&mut self, now: Instant, input: Bytes) -> Result<(), ServerError> {
        self.requests_at_once = 0;
        self.read(now, input)
    }

    fn read(&mut self, now: Instant, mut input: Bytes) -> Result<(), ServerError> {
        while self.asked.is_none() {
            let item = match self.reader.next_item(&mut input) {
                Ok(Some(item)) => item,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.answer_fault(error);
                    return Err(error.into());
                }
            };
            match item {
                Item::Request(request) => {
                    self.requests_at_once += 1;
                    if self.requests_at_once > RTSP_REQUESTS_AT_ONCE_MAX {
                        return Err(ServerError::TooManyAtOnce);
                    }
                    self.alive_at = now;
                    let had_begun = self.has_begun();
                    self.on_request(request)?;
                    if had_begun && !self.has_begun() {
                        self.begins_by = now + self.config.command_timeout;
                    }
                    self.asked_at = self.asked.is_some().then_some(now);
                }
                Item::Interleaved(packet) => self.on_packet(now, packet),
                // To a request that we never make.
                Item::Response(_) => {}
            }
        }
        if self.held.len() + input.len() > HELD_INPUT_LEN_MAX {
            return Err(ServerError::TooMuchBeforeAnswer);
        }
        // A copy, because views would keep receive buffers from the kernel for as long as a hook
        // takes.
        self.held.extend_from_slice(&input);
        Ok(())
    }

    /// Says why nothing more is read, where what was wrong is known to be a request.
    fn answer_fault(&mut self, error: MessageError) {
        if error == MessageError::BodyTooLong
            && let Some(headers) = self.reader.refused_request()
        {
            self.cseq = requests::cseq(headers);
            self.reply(413);
        }
    }

    /// Tells the session the time.
    ///
    /// # Errors
    /// [`ServerError::CommandTimeout`] or [`ServerError::SessionTimeout`] past the deadline.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ServerError> {
        if self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        Err(match self.phase {
            Phase::Playing | Phase::Paused => ServerError::SessionTimeout,
            _ => ServerError::CommandTimeout,
        })
    }

    pub fn poll_output(&mut self) -> Option<Output<ServerEvent>> {
        self.outputs.pop_front()
    }

    /// Over TCP the connection itself tells that a player lives as long as it takes media, and of a
    /// publisher its media does.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.asked.is_some() {
            return None;
        }
        match self.phase {
            Phase::Init | Phase::Ready(_) => Some(self.begins_by),
            Phase::Playing if !self.is_over_udp() => None,
            Phase::Playing | Phase::Paused => {
                Some(self.alive_at + self.config.session_timeout + SESSION_GRACE)
            }
            Phase::Recording => None,
        }
    }

    /// The player gave a sign of life outside the connection: a receiver report.
    pub fn note_alive(&mut self, now: Instant) {
        self.alive_at = now;
    }

    /// Interleaved packets in channels, or at times, that nothing was agreed for.
    pub fn stray_packets(&self) -> u64 {
        self.stray_packets
    }

    /// The stream can be played: answers [`ServerEvent::Describe`]. Tracks are addressed by their
    /// place in the description; their `control` is replaced.
    ///
    /// # Errors
    /// [`ServerError`] in the input that was kept; the session is dead then. So for the others.
    pub fn accept_describe(
        &mut self,
        now: Instant,
        mut description: SessionDescription,
    ) -> Result<(), ServerError> {
        for (track, media) in description.media.iter_mut().enumerate() {
            media.control = Some(format!("trackID={track}"));
        }
        description.control = None;
        match self.asked.take() {
            Some(Asked::Describe { url }) => {
                self.begin_play(url, description);
                self.send_description();
            }
            Some(Asked::DescribeForSetup { request, url }) => {
                self.begin_play(url, description);
                self.on_setup(&request);
            }
            other => self.asked = other,
        }
        self.resume(now)
    }

    /// The publisher may set up its tracks: answers [`ServerEvent::Announce`].
    ///
    /// # Errors
    /// As [`Self::accept_describe`].
    pub fn accept_announce(&mut self, now: Instant) -> Result<(), ServerError> {
        if let Some(Asked::Announce { url, media }) =
            self.asked.take_if(|asked| matches!(asked, Asked::Announce { .. }))
        {
            (self.url, self.media) = (url, media);
            self.phase = Phase::Ready(Mode::Record);
            self.reply(200);
        }
        self.resume(now)
    }

    /// These ports of ours are open for the track: answers [`ServerEvent::SetupUdp`].
    ///
    /// # Errors
    /// As [`Self::accept_describe`].
    pub fn accept_udp(&mut self, now: Instant, server_port: Ports) -> Result<(), ServerError> {
        if let Some(Asked::SetupUdp { track, url, client_port }) =
            self.asked.take_if(|asked| matches!(asked, Asked::SetupUdp { .. }))
        {
            let delivery = Delivery::Udp { client_port, server_port };
            self.finish_setup(TrackSetup { track, delivery, url });
        }
        self.resume(now)
    }

    /// Media follows, of each track from this packet on: answers [`ServerEvent::Play`].
    ///
    /// Of a track that has no packet yet nothing is told in `RTP-Info`: neither of its numbers is known, an
    /// entry has one at the least (RFC 2326, 12.33), and players drop what lies before numbers that are
    /// too high. GStreamer and ffmpeg look entries up by their addresses, and take a track without one
    /// from its first packet and sender report on. live555, which VLC plays with, looks at no
    /// address: its nth track gets the nth entry. So tracks behind one that has none are not told of
    /// either.
    ///
    /// # Errors
    /// As [`Self::accept_describe`].
    pub fn accept_play(&mut self, now: Instant, first: &[FirstPacket]) -> Result<(), ServerError> {
        if self.asked.take_if(|asked| matches!(asked, Asked::Play)).is_some() {
            self.phase = Phase::Playing;
            self.send_playing(first);
        }
        self.resume(now)
    }

    /// The publisher's media is taken: answers [`ServerEvent::Record`].
    ///
    /// # Errors
    /// As [`Self::accept_describe`].
    pub fn accept_record(&mut self, now: Instant) -> Result<(), ServerError> {
        if self.asked.take_if(|asked| matches!(asked, Asked::Record)).is_some() {
            self.phase = Phase::Recording;
            self.reply(200);
        }
        self.resume(now)
    }

    /// Refuses what was asked for. The peer may ask again; mostly it closes.
    ///
    /// # Errors
    /// As [`Self::accept_describe`].
    pub fn refuse(&mut self, now: Instant, refusal: Refusal) -> Result<(), ServerError> {
        if self.asked.take().is_some() {
            self.reply(refusal.status());
        }
        self.resume(now)
    }

    /// Reads what came while the driver was asked.
    fn resume(&mut self, now: Instant) -> Result<(), ServerError> {
        self.alive_at = now;
        if self.asked.is_none()
            && let Some(asked_at) = self.asked_at.take()
        {
            self.begins_by += now.duration_since(asked_at);
        }
        let held = std::mem::take(&mut self.held);
        self.read(now, held.into())
    }

    fn on_packet(&mut self, now: Instant, packet: Interleaved) {
        let channel = packet.channel();
        let found = self.setups.iter().find_map(|setup| match setup.delivery {
            Delivery::Interleaved(channels) if channels.rtp == channel => {
                Some((setup.track, PacketKind::Rtp))
            }
            Delivery::Interleaved(channels) if channels.rtcp == channel => {
                Some((setup.track, PacketKind::Rtcp))
            }
            _ => None,
        });
        match (found, self.phase) {
            (Some((track, kind)), Phase::Recording)
            | (Some((track, kind @ PacketKind::Rtcp)), Phase::Playing | Phase::Paused) => {
                // A player's reports tell that it lives.
                self.alive_at = now;
                let event = ServerEvent::Packet { track, kind, packet };
                self.outputs.push_back(Output::Event(event));
            }
            _ => self.stray_packets += 1,
        }
    }

    fn begin_play(&mut self, url: String, description: SessionDescription) {
        self.description_text = description.encode();
        self.media = description.media;
        self.url = url;
        self.phase = Phase::Ready(Mode::Play);
    }

    fn has_begun(&self) -> bool {
        !matches!(self.phase, Phase::Init | Phase::Ready(_))
    }

    fn is_over_udp(&self) -> bool {
        self.setups.iter().any(|setup| matches!(setup.delivery, Delivery::Udp { .. }))
    }

    fn send_description(&mut self) {
        let mut response = self.response(200);
        response.headers.push("Content-Type", "application/sdp");
        response.headers.push("Content-Base", &format!("{}/", self.url));
        response.body = self.description_text.clone().into();
        self.send(&response);
    }

    fn send_playing(&mut self, first: &[FirstPacket]) {
        let mut response = self.response(200);
        response.headers.push("Range", "npt=0.000-");
        let start_of = |setup: &TrackSetup| {
            let first = first.iter().find(|first| first.track == setup.track)?;
            let (sequence, timestamp) = (Some(first.sequence), Some(first.timestamp));
            Some(TrackStart { url: setup.url.clone(), sequence, timestamp })
        };
        let starts: Vec<TrackStart> = self.setups.iter().map_while(start_of).collect();
        if !starts.is_empty() {
            response.headers.push("RTP-Info", &TrackStart::format_list(&starts));
        }
        self.send(&response);
    }

    fn finish_setup(&mut self, setup: TrackSetup) {
        let mode = if self.phase == Phase::Ready(Mode::Record) { Mode::Record } else { Mode::Play };
        let transport = match setup.delivery {
            Delivery::Interleaved(channels) => Transport::interleaved(channels),
            Delivery::Udp { client_port, server_port } => {
                Transport { server_port: Some(server_port), ..Transport::udp(client_port) }
            }
        };
        let transport = Transport { mode: Some(mode), ..transport };
        self.setups.retain(|other| other.track != setup.track);
        self.setups.push(setup);
        self.setups.sort_by_key(|setup| setup.track);
        let mut response = self.response(200);
        response.headers.push("Transport", &transport.to_string());
        self.send(&response);
    }

    fn reply(&mut self, status: u16) {
        let response = self.response(status);
        self.send(&response);
    }

    /// A response to the request under way, with what every one has.
    fn response(&self, status: u16) -> Response {
        let mut response = Response::new(status);
        if let Some(cseq) = &self.cseq {
            response.headers.push("CSeq", cseq);
        }
        response.headers.push("Server", &self.config.name);
        if !self.setups.is_empty() {
            let seconds = self.config.session_timeout.as_secs();
            let session = format!("{};timeout={seconds}", self.session_id);
            response.headers.push("Session", &session);
        }
        response
    }

    fn send(&mut self, response: &Response) {
        self.outputs.push_back(Output::Send(response.encode()));
    }
}

/// A sign of life may be late by that.
const SESSION_GRACE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
