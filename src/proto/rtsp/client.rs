//! The client session: our pull of a stream from a server or a camera (RFC 2326, 10).
//!
//! ```text
//! asking for options -> describing -> setting up, track by track -> awaiting play -> awaiting media
//! ```
//!
//! Servers differ, and what follows is taken as it comes: answers without CSeq or with a wrong one,
//! packets before the answer to PLAY, a PLAY for each track where none is allowed for all, tracks
//! that can't be set up beside others that can. A session is kept alive by GET_PARAMETER where the
//! server offers it, else by OPTIONS; what it answers to that does not matter while media comes.

mod responses;

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use url::{Position, Url};

pub(super) use self::responses::{bounded_reason, delivery};
use crate::proto::Output;
use crate::proto::rtsp::auth::Credentials;
use crate::proto::rtsp::dialog::{self, Dialog};
use crate::proto::rtsp::error::MessageError;
use crate::proto::rtsp::message::{
    Interleaved, Item, MessageReader, Method, Request, interleaved_header,
};
use crate::proto::rtsp::sdp::{SdpError, SessionDescription};
use crate::proto::rtsp::transport::{Channels, Delivery, LowerTransport, PacketKind, Ports};

/// What to pull, and how long to wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// An `rtsp` URL without user and password.
    pub url: String,
    pub credentials: Option<Credentials>,
    pub user_agent: String,
    /// In the order of preference; the next one is tried where the server refuses with 461.
    pub transports: Vec<LowerTransport>,
    /// For each request to be answered.
    pub command_timeout: Duration,
    /// From the answer to PLAY to the first media. Silence after that is the driver's to judge.
    pub media_timeout: Duration,
}

impl ClientConfig {
    /// A pull of this URL; user and password are taken out of it. `None` for what is no `rtsp` URL.
    pub fn new(url: &str) -> Option<Self> {
        let (url, credentials) = split_credentials(url)?;
        Some(Self {
            url,
            credentials,
            user_agent: "rillcast".to_owned(),
            transports: vec![LowerTransport::Tcp],
            command_timeout: Duration::from_secs(5),
            media_timeout: Duration::from_secs(10),
        })
    }
}

/// An `rtsp` URL without user and password, and these. `None` for what is no `rtsp` URL.
pub(super) fn split_credentials(url: &str) -> Option<(String, Option<Credentials>)> {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "rtsp" && url.has_host())?;
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let has_credentials = !url.username().is_empty() || url.password().is_some();
    let credentials = has_credentials.then(|| Credentials {
        user: decode(url.username()),
        password: decode(url.password().unwrap_or_default()),
    });
    let plain = format!("rtsp://{}", &url[Position::BeforeHost..Position::AfterQuery]);
    Some((plain, credentials))
}

/// How far a pull has come. Shows as what it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientStage {
    AskingOptions,
    Describing,
    SettingUp,
    AwaitingPlay,
    AwaitingMedia,
}

impl fmt::Display for ClientStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AskingOptions => "asking for options",
            Self::Describing => "asking for the description",
            Self::SettingUp => "setting up tracks",
            Self::AwaitingPlay => "waiting for PLAY to be answered",
            Self::AwaitingMedia => "waiting for media",
        })
    }
}

/// What the driver must act on. A track is named by its place in the description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    Progress(ClientStage),
    /// What the stream has. Audio and video are set up next, and then what goes beside them.
    Described(SessionDescription),
    /// Answer with [`ClientSession::open_udp`] or [`ClientSession::refuse_udp`].
    UdpWanted {
        track: usize,
    },
    /// The server does not carry the track over the ports that were opened for it.
    UdpRefused {
        track: usize,
    },
    /// The track is set up.
    Setup(ClientTrack),
    /// The server plays. Packets may have come before.
    Playing(Vec<ClientStart>),
    /// A packet of an interleaved track.
    Packet {
        track: usize,
        kind: PacketKind,
        packet: Interleaved,
    },
    /// The server does not serve it. Close.
    Refused {
        status: u16,
        /// At most [`REASON_LEN_MAX`] bytes.
        reason: String,
    },
    /// The server sends us elsewhere: an absolute URL of any scheme. Close.
    Redirect(String),
    /// The server ended the session. Close.
    Ended,
}

/// A track that is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTrack {
    pub track: usize,
    /// Ports of the server are 0 where it did not tell them.
    pub delivery: Delivery,
    /// As the server announces it; some announce what is not so.
    pub ssrc: Option<u32>,
    /// The address that packets come from, where it is not the server's.
    pub source: Option<String>,
    /// As in its SETUP.
    pub(super) url: String,
}

/// With which packet the server says that a track begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientStart {
    pub track: usize,
    pub sequence: Option<u16>,
    pub timestamp: Option<u32>,
}

/// Bytes of a status's reason that are kept.
pub const REASON_LEN_MAX: usize = 256;

/// Why a client session died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("timed out {0}")]
    Timeout(ClientStage),
    #[error(transparent)]
    Description(#[from] SdpError),
    #[error("session description has neither audio nor video over RTP")]
    NoTrack,
    #[error("server answers SETUP with a transport that was not asked for")]
    Transport,
    #[error("server sends to a multicast address, which is not pulled from")]
    Multicast,
}

/// The session of one connection to a server.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    phase: Phase,
    deadline: Option<Instant>,
    keep_alive_at: Option<Instant>,
    reader: MessageReader,
    dialog: Dialog<Purpose>,
    offers_get_parameter: bool,
    /// Where addresses of tracks begin.
    base: String,
    description: SessionDescription,
    /// Tracks still to be set up, the next one last.
    planned: Vec<usize>,
    /// The place in `transports` of what is asked for.
    transport: usize,
    tracks: Vec<ClientTrack>,
    /// Tracks that still need a PLAY of their own, the next one last.
    unplayed: Vec<usize>,
    starts: Vec<ClientStart>,
    has_media: bool,
    /// The last status that refused a track.
    refusal: Option<(u16, String)>,
    stray_packets: u64,
    outputs: VecDeque<Output<ClientEvent>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Asking(ClientStage),
    /// Media has come.
    Playing,
    /// Refused or over; whatever comes is ignored until the driver closes.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Options,
    Describe,
    Setup {
        track: usize,
        asked: Asked,
    },
    /// Of all tracks.
    Play {
        has_range: bool,
    },
    PlayTrack,
    KeepAlive,
    Teardown,
}

/// The transport of a SETUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Tcp(Channels),
    Udp(Ports),
}

impl ClientSession {
    /// A session whose connection was just made; its first bytes are ready to be sent. `seed` is
    /// random.
    pub fn new(now: Instant, seed: u64, config: ClientConfig) -> Self {
        let mut session = Self {
            base: config.url.clone(),
            dialog: Dialog::new(config.user_agent.clone(), config.credentials.clone(), seed),
            config,
            phase: Phase::Asking(ClientStage::AskingOptions),
            deadline: None,
            keep_alive_at: None,
            reader: MessageReader::new(),
            offers_get_parameter: false,
            description: SessionDescription::default(),
            planned: Vec::new(),
            transport: 0,
            tracks: Vec::new(),
            unplayed: Vec::new(),
            starts: Vec::new(),
            has_media: false,
            refusal: None,
            stray_packets: 0,
            outputs: VecDeque::new(),
        };
        session.enter(ClientStage::AskingOptions, now);
        let url = session.config.url.clone();
        session.request(Purpose::Options, Method::Options, url, &[]);
        session
    }

    /// Takes bytes from the server.
    ///
    /// # Errors
    /// [`ClientError`]; the session is dead then.
    pub fn handle_input(&mut self, now: Instant, mut input: Bytes) -> Result<(), ClientError> {
        while self.phase != Phase::Over {
            let Some(item) = self.reader.next_item(&mut input)? else { return Ok(()) };
            match item {
                Item::Response(response) => self.on_response(now, &response)?,
                Item::Interleaved(packet) => self.on_packet(now, packet),
                Item::Request(request) => self.on_server_request(&request),
            }
        }
        Ok(())
    }

    /// Tells the session the time.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] past the deadline.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ClientError> {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let Phase::Asking(stage) = self.phase else { return Ok(()) };
            // Media is the better answer.
            if stage < ClientStage::AwaitingPlay || !self.has_media {
                return Err(ClientError::Timeout(stage));
            }
            self.begin_playing(now);
        }
        if self.keep_alive_at.is_some_and(|due| now >= due) {
            self.keep_alive(now);
        }
        Ok(())
    }

    pub fn poll_output(&mut self) -> Option<Output<ClientEvent>> {
        self.outputs.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.keep_alive_at).min()
    }

    /// These ports of ours are open: answers [`ClientEvent::UdpWanted`].
    pub fn open_udp(&mut self, now: Instant, client_port: Ports) {
        if self.is_waiting_for_ports() {
            self.send_setup(now, Asked::Udp(client_port));
        }
    }

    /// There are no ports: answers [`ClientEvent::UdpWanted`]. The next transport is tried, if there
    /// is one.
    pub fn refuse_udp(&mut self, now: Instant) {
        if self.is_waiting_for_ports() {
            self.on_transport_refused(now, (461, "No ports for UDP".to_owned()));
        }
    }

    /// Media came over UDP, which the session does not see.
    pub fn note_media(&mut self, now: Instant) {
        self.has_media = true;
        // Whether PLAY will be answered or not, the server counts the time.
        if self.phase == Phase::Asking(ClientStage::AwaitingPlay) && self.keep_alive_at.is_none() {
            self.keep_alive_at = Some(now + self.dialog.keep_alive_interval());
        }
        if self.phase == Phase::Asking(ClientStage::AwaitingMedia) {
            self.phase = Phase::Playing;
            self.deadline = None;
        }
    }

    /// Sends a packet on the channel of a track, such as a receiver report; whether the track is
    /// interleaved.
    pub fn send_packet(&mut self, track: usize, kind: PacketKind, packet: &[u8]) -> bool {
        let delivery = self.tracks.iter().find(|setup| setup.track == track);
        let Some(Delivery::Interleaved(channels)) = delivery.map(|setup| setup.delivery) else {
            return false;
        };
        let channel = if kind == PacketKind::Rtp { channels.rtp } else { channels.rtcp };
        if let Ok(len) = u16::try_from(packet.len()) {
            let bytes = [&interleaved_header(channel, len)[..], packet].concat();
            self.outputs.push_back(Output::Send(bytes.into()));
        }
        true
    }

    /// Ends the session in an orderly way. The driver closes once the output is sent.
    pub fn teardown(&mut self) {
        self.end_session();
        self.over();
    }

    /// Interleaved packets in channels that nothing was agreed for.
    pub fn stray_packets(&self) -> u64 {
        self.stray_packets
    }

    fn on_packet(&mut self, now: Instant, packet: Interleaved) {
        let channel = packet.channel();
        let found = self.tracks.iter().find_map(|setup| match setup.delivery {
            Delivery::Interleaved(channels) if channels.rtp == channel => {
                Some((setup.track, PacketKind::Rtp))
            }
            Delivery::Interleaved(channels) if channels.rtcp == channel => {
                Some((setup.track, PacketKind::Rtcp))
            }
            _ => None,
        });
        let Some((track, kind)) = found else {
            self.stray_packets += 1;
            return;
        };
        if kind == PacketKind::Rtp {
            self.note_media(now);
        }
        self.event(ClientEvent::Packet { track, kind, packet });
    }

    fn on_server_request(&mut self, request: &Request) {
        self.outputs.push_back(Output::Send(dialog::answer(request)));
        match (request.method, request.headers.find("location")) {
            (Method::Redirect, Some(location)) => {
                self.end_session();
                self.redirect(location);
            }
            (Method::Redirect | Method::Teardown, _) => {
                self.event(ClientEvent::Ended);
                self.over();
            }
            _ => {}
        }
    }

    fn end_session(&mut self) {
        if self.phase != Phase::Over && self.dialog.has_session() {
            let url = self.aggregate_url();
            self.request(Purpose::Teardown, Method::Teardown, url, &[]);
        }
    }

    fn keep_alive(&mut self, now: Instant) {
        self.dialog.forget(Purpose::KeepAlive);
        let method = if self.offers_get_parameter { Method::GetParameter } else { Method::Options };
        let url = self.aggregate_url();
        self.request(Purpose::KeepAlive, method, url, &[]);
        self.keep_alive_at = Some(now + self.dialog.keep_alive_interval());
    }

    fn is_waiting_for_ports(&self) -> bool {
        self.phase == Phase::Asking(ClientStage::SettingUp)
            && !self.dialog.is_pending(|purpose| matches!(purpose, Purpose::Setup { .. }))
            && !self.planned.is_empty()
    }

    fn enter(&mut self, stage: ClientStage, now: Instant) {
        let timeout = match stage {
            ClientStage::AwaitingMedia => self.config.media_timeout,
            _ => self.config.command_timeout,
        };
        if self.phase != Phase::Asking(stage) || stage == ClientStage::AskingOptions {
            self.event(ClientEvent::Progress(stage));
        }
        self.phase = Phase::Asking(stage);
        self.deadline = Some(now + timeout);
    }

    fn over(&mut self) {
        self.phase = Phase::Over;
        self.deadline = None;
        self.keep_alive_at = None;
    }

    fn request(&mut self, purpose: Purpose, method: Method, uri: String, fields: &[(&str, &str)]) {
        let bytes = self.dialog.send(purpose, dialog::request(method, uri, fields));
        self.outputs.push_back(Output::Send(bytes));
    }

    fn event(&mut self, event: ClientEvent) {
        self.outputs.push_back(Output::Event(event));
    }
}

#[cfg(test)]
mod tests;
