//! The publishing client session: we push a stream to a server (RFC 2326, 10.3 and 10.11).
//!
//! ```text
//! asking for options -> announcing -> setting up, track by track -> awaiting record -> recording
//! ```
//!
//! Media does not pass through the session: who sends it learns of each track how it travels. What
//! comes back in interleaved channels, receiver reports, is passed over.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::proto::Output;
use crate::proto::rtsp::auth::Credentials;
use crate::proto::rtsp::client::{Asked, ClientTrack, bounded_reason, delivery, split_credentials};
use crate::proto::rtsp::dialog::{self, Dialog};
use crate::proto::rtsp::error::MessageError;
use crate::proto::rtsp::message::{Item, MessageReader, Method, Request, Response};
use crate::proto::rtsp::sdp::{SessionDescription, control_url};
use crate::proto::rtsp::transport::{Channels, Delivery, LowerTransport, Mode, Ports, Transport};

/// What to publish, and how long to wait for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherConfig {
    /// An `rtsp` URL without user and password.
    pub url: String,
    pub credentials: Option<Credentials>,
    pub user_agent: String,
    /// The tracks with their addresses: relative to the URL, and none of them twice.
    pub description: SessionDescription,
    pub transport: LowerTransport,
    /// For each request to be answered.
    pub command_timeout: Duration,
}

impl PublisherConfig {
    /// A push to this URL; user and password are taken out of it. `None` for what is no `rtsp` URL.
    pub fn new(url: &str, description: SessionDescription) -> Option<Self> {
        let (url, credentials) = split_credentials(url)?;
        Some(Self {
            url,
            credentials,
            user_agent: "rillcast".to_owned(),
            description,
            transport: LowerTransport::Tcp,
            command_timeout: Duration::from_secs(5),
        })
    }
}

/// How far a push has come. Shows as what it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PublisherStage {
    AskingOptions,
    Announcing,
    SettingUp,
    AwaitingRecord,
}

impl fmt::Display for PublisherStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AskingOptions => "asking for options",
            Self::Announcing => "announcing the stream",
            Self::SettingUp => "setting up tracks",
            Self::AwaitingRecord => "waiting for RECORD to be answered",
        })
    }
}

/// What the driver must act on. A track is named by its place in the description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublisherEvent {
    Progress(PublisherStage),
    /// Answer with [`PublisherSession::open_udp`], or close.
    UdpWanted {
        track: usize,
    },
    /// The track is set up.
    Setup(ClientTrack),
    /// The server takes the stream: send packets.
    Started,
    /// The server does not take it. Close.
    Refused {
        status: u16,
        /// At most [`REASON_LEN_MAX`](super::client::REASON_LEN_MAX) bytes.
        reason: String,
    },
    /// The server ended the session. Close.
    Ended,
}

/// Why a publishing session died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublisherError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("timed out {0}")]
    Timeout(PublisherStage),
    #[error("server answers SETUP with a transport that was not asked for")]
    Transport,
    /// Where a client that plays could send to the port that packets come from, none come here.
    #[error("server answers SETUP without the port that it takes packets at (server_port)")]
    NoServerPort,
}

/// The session of one connection that publishes.
#[derive(Debug)]
pub struct PublisherSession {
    config: PublisherConfig,
    phase: Phase,
    deadline: Option<Instant>,
    keep_alive_at: Option<Instant>,
    reader: MessageReader,
    dialog: Dialog<Purpose>,
    offers_get_parameter: bool,
    /// The track that is set up next.
    next_track: usize,
    outputs: VecDeque<Output<PublisherEvent>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Asking(PublisherStage),
    Recording,
    /// Refused or over; whatever comes is ignored until the driver closes.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Options,
    Announce,
    Setup(Asked),
    Record,
    KeepAlive,
    Teardown,
}

impl PublisherSession {
    /// A session whose connection was just made; its first bytes are ready to be sent. `seed` is
    /// random.
    ///
    /// # Panics
    /// If the description has no track.
    pub fn new(now: Instant, seed: u64, config: PublisherConfig) -> Self {
        assert!(!config.description.media.is_empty(), "a description with tracks");
        let mut session = Self {
            phase: Phase::Asking(PublisherStage::AskingOptions),
            deadline: None,
            keep_alive_at: None,
            reader: MessageReader::new(),
            dialog: Dialog::new(config.user_agent.clone(), config.credentials.clone(), seed),
            offers_get_parameter: false,
            next_track: 0,
            outputs: VecDeque::new(),
            config,
        };
        session.ask(now, PublisherStage::AskingOptions);
        session.request(Purpose::Options, Method::Options, &[]);
        session
    }

    /// Takes bytes from the server.
    ///
    /// # Errors
    /// [`PublisherError`]; the session is dead then.
    pub fn handle_input(&mut self, now: Instant, mut input: Bytes) -> Result<(), PublisherError> {
        while self.phase != Phase::Over {
            match self.reader.next_item(&mut input)? {
                None => return Ok(()),
                Some(Item::Response(response)) => self.on_response(now, &response)?,
                Some(Item::Request(request)) => self.on_server_request(&request),
                Some(Item::Interleaved(_)) => {}
            }
        }
        Ok(())
    }

    /// Tells the session the time.
    ///
    /// # Errors
    /// [`PublisherError::Timeout`] past the deadline.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), PublisherError> {
        if let Phase::Asking(stage) = self.phase
            && self.deadline.is_some_and(|deadline| now >= deadline)
        {
            return Err(PublisherError::Timeout(stage));
        }
        if self.keep_alive_at.is_some_and(|due| now >= due) {
            self.dialog.forget(Purpose::KeepAlive);
            let method =
                if self.offers_get_parameter { Method::GetParameter } else { Method::Options };
            self.request(Purpose::KeepAlive, method, &[]);
            self.keep_alive_at = Some(now + self.dialog.keep_alive_interval());
        }
        Ok(())
    }

    pub fn poll_output(&mut self) -> Option<Output<PublisherEvent>> {
        self.outputs.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.keep_alive_at).min()
    }

    /// These ports of ours are open: answers [`PublisherEvent::UdpWanted`].
    pub fn open_udp(&mut self, now: Instant, client_port: Ports) {
        let is_waiting = self.phase == Phase::Asking(PublisherStage::SettingUp)
            && !self.dialog.is_pending(|purpose| matches!(purpose, Purpose::Setup(_)));
        if is_waiting {
            self.send_setup(now, Asked::Udp(client_port));
        }
    }

    /// Ends the stream in an orderly way; close once the output is sent.
    pub fn teardown(&mut self) {
        if self.phase != Phase::Over && self.dialog.has_session() {
            self.request(Purpose::Teardown, Method::Teardown, &[]);
        }
        self.over();
    }

    fn on_response(&mut self, now: Instant, response: &Response) -> Result<(), PublisherError> {
        // Interim.
        if response.status < 200 {
            return Ok(());
        }
        let Some(pending) = self.dialog.take(response) else { return Ok(()) };
        if response.status == 401
            && let Some(bytes) = self.dialog.authorize(&pending, response)
        {
            self.outputs.push_back(Output::Send(bytes));
            return Ok(());
        }
        match pending.purpose {
            Purpose::Options => self.on_options(now, response),
            Purpose::KeepAlive => {
                // Some offer GET_PARAMETER and refuse it.
                self.offers_get_parameter &= response.is_success() || response.status == 401;
            }
            Purpose::Teardown => {}
            _ if !response.is_success() => self.refuse(response),
            Purpose::Announce => self.set_up_next(now),
            Purpose::Setup(asked) => {
                return self.on_setup(now, response, asked, pending.request.uri);
            }
            Purpose::Record => self.start(now),
        }
        Ok(())
    }

    fn on_options(&mut self, now: Instant, response: &Response) {
        if response.status == 401 && self.dialog.is_denied() {
            return self.refuse(response);
        }
        // Servers that do not know it, or want credentials for it, may well take the stream.
        self.offers_get_parameter = response.headers.has_token("public", "GET_PARAMETER");
        self.ask(now, PublisherStage::Announcing);
        let fields = [("Content-Type", "application/sdp")];
        let request = dialog::request(Method::Announce, self.config.url.clone(), &fields);
        let body = self.config.description.encode().into();
        let bytes = self.dialog.send(Purpose::Announce, Request { body, ..request });
        self.outputs.push_back(Output::Send(bytes));
    }

    /// Sets up the next track, or records when all are.
    fn set_up_next(&mut self, now: Instant) {
        let track = self.next_track;
        if track == self.config.description.media.len() {
            self.ask(now, PublisherStage::AwaitingRecord);
            return self.request(Purpose::Record, Method::Record, &[("Range", "npt=0.000-")]);
        }
        self.ask(now, PublisherStage::SettingUp);
        match self.config.transport {
            LowerTransport::Udp => self.event(PublisherEvent::UdpWanted { track }),
            LowerTransport::Tcp => {
                let rtp = 2 * track as u8;
                self.send_setup(now, Asked::Tcp(Channels { rtp, rtcp: rtp + 1 }));
            }
        }
    }

    fn send_setup(&mut self, now: Instant, asked: Asked) {
        self.ask(now, PublisherStage::SettingUp);
        let control = self.config.description.media[self.next_track].control.as_deref();
        let url = control_url(&self.config.url, control);
        let transport = match asked {
            Asked::Tcp(channels) => Transport::interleaved(channels),
            Asked::Udp(client_port) => Transport::udp(client_port),
        };
        let transport = Transport { mode: Some(Mode::Record), ..transport }.to_string();
        let request = dialog::request(Method::Setup, url, &[("Transport", &transport)]);
        let bytes = self.dialog.send(Purpose::Setup(asked), request);
        self.outputs.push_back(Output::Send(bytes));
    }

    fn on_setup(
        &mut self,
        now: Instant,
        response: &Response,
        asked: Asked,
        url: String,
    ) -> Result<(), PublisherError> {
        self.dialog.note_session(response);
        let transport = response.headers.find("transport").unwrap_or_default();
        let transport = Transport::parse_list(transport).into_iter().next();
        let delivery = delivery(asked, transport.as_ref()).ok_or(PublisherError::Transport)?;
        if let Delivery::Udp { server_port: Ports { rtp, rtcp }, .. } = delivery
            && (rtp == 0 || rtcp == 0)
        {
            return Err(PublisherError::NoServerPort);
        }
        let (ssrc, source) =
            transport.map_or((None, None), |transport| (transport.ssrc, transport.source));
        let track = self.next_track;
        self.event(PublisherEvent::Setup(ClientTrack { track, delivery, ssrc, source, url }));
        self.next_track += 1;
        self.set_up_next(now);
        Ok(())
    }

    fn start(&mut self, now: Instant) {
        self.phase = Phase::Recording;
        self.deadline = None;
        self.keep_alive_at = Some(now + self.dialog.keep_alive_interval());
        self.event(PublisherEvent::Started);
    }

    fn on_server_request(&mut self, request: &Request) {
        self.outputs.push_back(Output::Send(dialog::answer(request)));
        if matches!(request.method, Method::Redirect | Method::Teardown) {
            self.event(PublisherEvent::Ended);
            self.over();
        }
    }

    /// Redirects included: who publishes chooses the place.
    fn refuse(&mut self, response: &Response) {
        let reason = bounded_reason(&response.reason);
        self.event(PublisherEvent::Refused { status: response.status, reason });
        self.over();
    }

    fn ask(&mut self, now: Instant, stage: PublisherStage) {
        if self.phase != Phase::Asking(stage) || stage == PublisherStage::AskingOptions {
            self.event(PublisherEvent::Progress(stage));
        }
        self.phase = Phase::Asking(stage);
        self.deadline = Some(now + self.config.command_timeout);
    }

    fn over(&mut self) {
        self.phase = Phase::Over;
        self.deadline = None;
        self.keep_alive_at = None;
    }

    /// Asks for something of the whole stream.
    fn request(&mut self, purpose: Purpose, method: Method, fields: &[(&str, &str)]) {
        let request = dialog::request(method, self.config.url.clone(), fields);
        let bytes = self.dialog.send(purpose, request);
        self.outputs.push_back(Output::Send(bytes));
    }

    fn event(&mut self, event: PublisherEvent) {
        self.outputs.push_back(Output::Event(event));
    }
}

#[cfg(test)]
mod tests;
