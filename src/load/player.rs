//! One player: connects, asks for its stream and hands the tags that come to its [`Watch`].

use std::io;
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;

use super::connection::{Connection, Received};
use super::scan::{Broken, FlvScan, PartScan, TagSeen};
use super::target::{Protocol, Target};
use super::watch::{Figures, Watch};
use crate::clock;
use crate::proto::Output;
use crate::proto::http::{self, HttpError};
use crate::proto::rtmp::{self, ClientError};

#[derive(Debug)]
pub(super) struct Player {
    pub(super) connection: Connection,
    session: Session,
    pub(super) watch: Watch,
    pub(super) times: Times,
    /// Reads whose time of arrival the kernel did not tell.
    pub(super) unstamped_reads: u64,
}

/// When the steps of joining were done; ns of the monotonic clock.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Times {
    pub(super) started_ns: u64,
    pub(super) connected_ns: Option<u64>,
    /// The first byte of media: of the FLV stream, or of the first RTMP media message.
    pub(super) first_byte_ns: Option<u64>,
    /// The last byte of the first keyframe.
    pub(super) keyframe_ns: Option<u64>,
}

#[derive(Debug)]
enum Session {
    Flv { http: Box<http::ClientSession>, scan: Box<FlvScan> },
    Ws { ws: Box<http::WebSocketClient>, scan: Box<FlvScan> },
    Rtmp { rtmp: Box<rtmp::ClientSession>, scan: PartScan },
}

/// Why a player came to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// It was not admitted.
    #[error("refused: {0}")]
    Refused(String),
    #[error("closed by the server")]
    Closed,
    /// What came is not what the protocol allows.
    #[error("broken: {0}")]
    Broken(String),
    #[error("{0}")]
    Connection(#[from] io::Error),
}

/// The time of one look at the sockets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) now_ns: u64,
    /// The wall clock less the monotonic one.
    wall_ns: i64,
}

impl Times {
    /// What a player that has not joined is waiting for.
    pub(super) fn missing_step(&self) -> &'static str {
        match (self.connected_ns, self.first_byte_ns) {
            (None, _) => "no connection in time",
            (_, None) => "no media in time",
            _ => "no keyframe in time",
        }
    }
}

impl End {
    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken(_))
    }
}

impl Look {
    pub(super) fn now() -> Self {
        let now_ns = clock::monotonic_ns();
        Self { now_ns, wall_ns: clock::realtime_ns() as i64 - now_ns as i64 }
    }

    /// The monotonic time of a kernel's stamp; of reading, where there is none or it makes no sense.
    fn arrival_ns(&self, stamp_ns: Option<u64>) -> u64 {
        let now_ns = clock::monotonic_ns();
        let Some(stamp_ns) = stamp_ns else { return now_ns };
        let arrived_ns = u64::try_from(stamp_ns as i64 - self.wall_ns).unwrap_or(now_ns);
        if now_ns.saturating_sub(arrived_ns) < STAMP_AGE_NS_MAX {
            arrived_ns.min(now_ns)
        } else {
            now_ns
        }
    }
}

impl Player {
    /// Begins to connect.
    pub(super) fn start(target: &Target, seed: u64) -> io::Result<Self> {
        let started_ns = clock::monotonic_ns();
        let connection = Connection::start(target.address)?;
        let mut player = Self {
            connection,
            session: Session::new(target, seed),
            watch: Watch::default(),
            times: Times { started_ns, ..Times::default() },
            unstamped_reads: 0,
        };
        // On one machine the connection is there already.
        if player.connection.is_made() {
            player.on_connected()?;
        }
        Ok(player)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.times.connected_ns.is_some()
    }

    /// The socket is writable: it has connected, or takes what waits.
    ///
    /// # Errors
    /// The player's end.
    pub(super) fn on_writable(&mut self) -> Result<(), End> {
        if !self.is_connected() {
            self.connection.connect_result()?;
            self.on_connected()?;
        }
        Ok(self.connection.flush()?)
    }

    fn on_connected(&mut self) -> io::Result<()> {
        self.times.connected_ns = Some(clock::monotonic_ns());
        self.session.begin(&mut self.connection)
    }

    /// Reads all that is there.
    ///
    /// # Errors
    /// The player's end.
    pub(super) fn on_readable(
        &mut self,
        look: &Look,
        buffer: &mut [u8],
        figures: &mut Figures,
    ) -> Result<(), End> {
        while self.read_once(look, buffer, figures)? == buffer.len() {}
        Ok(())
    }

    /// Reads into the buffer once; how many bytes that were.
    ///
    /// # Errors
    /// The player's end.
    pub(super) fn read_once(
        &mut self,
        look: &Look,
        buffer: &mut [u8],
        figures: &mut Figures,
    ) -> Result<usize, End> {
        let (len, stamp_ns) = match self.connection.receive(buffer) {
            Ok(Received::Bytes(len, stamp_ns)) => (len, stamp_ns),
            Ok(Received::Nothing) => return Ok(0),
            Ok(Received::End) => return Err(End::Closed),
            Err(error) if error.raw_os_error() == Some(Errno::ECONNRESET as i32) => {
                return Err(End::Closed);
            }
            Err(error) => return Err(error.into()),
        };
        self.unstamped_reads += u64::from(stamp_ns.is_none());
        let arrived_ns = look.arrival_ns(stamp_ns);
        self.watch.counts.bytes += len as u64;
        self.take(Bytes::copy_from_slice(&buffer[..len]), arrived_ns, figures)?;
        Ok(len)
    }

    /// Tags whose length stood wrong behind them.
    pub(super) fn wrong_sizes(&self) -> u64 {
        match &self.session {
            Session::Flv { scan, .. } | Session::Ws { scan, .. } => scan.wrong_sizes,
            Session::Rtmp { .. } => 0,
        }
    }

    fn take(&mut self, input: Bytes, arrived_ns: u64, figures: &mut Figures) -> Result<(), End> {
        let (watch, times) = (&mut self.watch, &mut self.times);
        let mut sink = Sink { watch, times, figures, arrived_ns };
        self.session.handle_input(input, &mut self.connection, &mut sink)
    }
}

/// Where a session puts what comes at one time.
struct Sink<'a> {
    watch: &'a mut Watch,
    times: &'a mut Times,
    figures: &'a mut Figures,
    arrived_ns: u64,
}

impl Sink<'_> {
    fn media_came(&mut self) {
        self.times.first_byte_ns.get_or_insert(self.arrived_ns);
    }

    fn tag(&mut self, tag: TagSeen<'_>) {
        self.watch.on_tag(tag, self.arrived_ns, self.figures);
        if self.watch.has_keyframe {
            self.times.keyframe_ns.get_or_insert(self.arrived_ns);
        }
    }
}

impl Session {
    fn new(target: &Target, seed: u64) -> Self {
        let now = clock::now();
        match target.protocol {
            Protocol::HttpFlv => {
                let config = http::ClientConfig {
                    url: target.url.clone(),
                    user_agent: USER_AGENT.to_owned(),
                    reply_timeout: NEVER,
                    body_timeout: NEVER,
                };
                let http = Box::new(http::ClientSession::new(now, config));
                Self::Flv { http, scan: Box::default() }
            }
            Protocol::WsFlv => {
                let config = http::WebSocketClientConfig {
                    url: target.url.clone(),
                    user_agent: USER_AGENT.to_owned(),
                    reply_timeout: NEVER,
                };
                let ws = Box::new(http::WebSocketClient::new(now, seed, &config));
                Self::Ws { ws, scan: Box::default() }
            }
            Protocol::Rtmp => {
                let config = rtmp::ClientConfig::new(
                    target.app.clone(),
                    target.stream.clone(),
                    target.tc_url.clone(),
                );
                let rtmp = Box::new(rtmp::ClientSession::new(now, seed, config));
                Self::Rtmp { rtmp, scan: PartScan::default() }
            }
        }
    }

    /// Sends what the session begins with.
    fn begin(&mut self, connection: &mut Connection) -> io::Result<()> {
        loop {
            let output = match self {
                Self::Flv { http, .. } => http.poll_output().map(only_send),
                Self::Ws { ws, .. } => ws.poll_output().map(only_send),
                Self::Rtmp { rtmp, .. } => rtmp.poll_output().map(only_send),
            };
            match output {
                None => return Ok(()),
                Some(Some(bytes)) => connection.send(&bytes)?,
                Some(None) => {}
            }
        }
    }

    fn handle_input(
        &mut self,
        input: Bytes,
        connection: &mut Connection,
        sink: &mut Sink<'_>,
    ) -> Result<(), End> {
        let now = clock::now();
        match self {
            Self::Flv { http, scan } => {
                http.handle_input(now, input)?;
                while let Some(output) = http.poll_output() {
                    match output {
                        Output::Send(bytes) => connection.send(&bytes)?,
                        Output::Event(event) => on_http(event, scan, sink)?,
                    }
                }
            }
            Self::Ws { ws, scan } => {
                ws.handle_input(now, input)?;
                while let Some(output) = ws.poll_output() {
                    match output {
                        Output::Send(bytes) => connection.send(&bytes)?,
                        Output::Event(event) => on_websocket(event, scan, sink)?,
                    }
                }
            }
            Self::Rtmp { rtmp, scan } => {
                rtmp.handle_input(now, input)?;
                while let Some(output) = rtmp.poll_output() {
                    match output {
                        Output::Send(bytes) => connection.send(&bytes)?,
                        Output::Event(event) => on_rtmp(event, scan, sink)?,
                    }
                }
            }
        }
        Ok(())
    }
}

fn on_http(event: http::ClientEvent, scan: &mut FlvScan, sink: &mut Sink<'_>) -> Result<(), End> {
    match event {
        http::ClientEvent::BodyBegins { .. } => Ok(()),
        http::ClientEvent::Body(bytes) => {
            sink.media_came();
            Ok(scan.feed(&bytes, |tag| sink.tag(tag))?)
        }
        http::ClientEvent::BodyEnds => Err(End::Closed),
        http::ClientEvent::Status { code, reason } => {
            Err(End::Refused(format!("HTTP {code} {reason}")))
        }
        http::ClientEvent::Redirect(url) => Err(End::Refused(format!("redirected to {url}"))),
    }
}

fn on_websocket(
    event: http::WebSocketEvent,
    scan: &mut FlvScan,
    sink: &mut Sink<'_>,
) -> Result<(), End> {
    match event {
        http::WebSocketEvent::Opened => Ok(()),
        http::WebSocketEvent::Data(bytes) => {
            sink.media_came();
            Ok(scan.feed(&bytes, |tag| sink.tag(tag))?)
        }
        http::WebSocketEvent::Closed(_) => Err(End::Closed),
        http::WebSocketEvent::Status { code, reason } => {
            Err(End::Refused(format!("HTTP {code} {reason}")))
        }
    }
}

fn on_rtmp(event: rtmp::ClientEvent, scan: &mut PartScan, sink: &mut Sink<'_>) -> Result<(), End> {
    match event {
        rtmp::ClientEvent::Progress(_) => Ok(()),
        rtmp::ClientEvent::Media(part) => {
            sink.media_came();
            scan.take(&part, |tag| sink.tag(tag));
            Ok(())
        }
        rtmp::ClientEvent::Refused { code, description, .. } => {
            Err(End::Refused(format!("{code} {description}")))
        }
        rtmp::ClientEvent::Ended => Err(End::Closed),
    }
}

fn only_send<E>(output: Output<E>) -> Option<Bytes> {
    match output {
        Output::Send(bytes) => Some(bytes),
        Output::Event(_) => None,
    }
}

impl From<Broken> for End {
    fn from(error: Broken) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<HttpError> for End {
    fn from(error: HttpError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Broken(error.to_string())
    }
}

const USER_AGENT: &str = concat!("rillcast-load/", env!("CARGO_PKG_VERSION"));

/// It is the crowd that gives up on a player that does not come to its keyframe.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// Oldest stamp that is believed: bytes that lay unread for longer were not looked at by us.
const STAMP_AGE_NS_MAX: u64 = 60_000_000_000;
