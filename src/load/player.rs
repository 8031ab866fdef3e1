//! One player: connects, asks for its stream and hands the tags that come to its [`Watch`].

use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::errno::Errno;

use super::connection::{Connection, Received};
use super::rtsp::player::{RtspPlayer, UdpPlace};
use super::scan::{Broken, FlvScan, PartScan, TagSeen};
use super::target::{Protocol, Target};
use super::watch::{Figures, Picture, Watch};
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
    /// When it was to join. Beginning late is part of what it waited.
    pub(super) due_ns: u64,
    pub(super) connected_ns: Option<u64>,
    /// The first byte of media: of the FLV stream, of the first RTMP media message, or the first RTP
    /// packet.
    pub(super) first_byte_ns: Option<u64>,
    /// The last byte of the first keyframe.
    pub(super) keyframe_ns: Option<u64>,
}

#[derive(Debug)]
enum Session {
    Flv { http: Box<http::ClientSession>, scan: Box<FlvScan> },
    Ws { ws: Box<http::WebSocketClient>, scan: Box<FlvScan> },
    Rtmp { rtmp: Box<rtmp::ClientSession>, scan: PartScan },
    Rtsp(Box<RtspPlayer>),
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
    /// Begins to connect; its times count from `due_ns`.
    pub(super) fn start(target: &Target, seed: u64, due_ns: u64) -> io::Result<Self> {
        let connection = Connection::start(target.address)?;
        let mut player = Self {
            connection,
            session: Session::new(target, seed),
            watch: Watch::default(),
            times: Times { due_ns, ..Times::default() },
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

    /// Reads all that is there at a UDP socket.
    ///
    /// # Errors
    /// The player's end.
    pub(super) fn on_datagrams(
        &mut self,
        place: UdpPlace,
        look: &Look,
        buffer: &mut [u8],
        figures: &mut Figures,
    ) -> Result<(), End> {
        let Session::Rtsp(rtsp) = &mut self.session else { return Ok(()) };
        while let Some(arrival) = rtsp.receive(place, buffer)? {
            self.unstamped_reads += u64::from(arrival.stamp_ns.is_none());
            self.watch.counts.bytes += arrival.len as u64;
            let arrived_ns = look.arrival_ns(arrival.stamp_ns);
            let (watch, times) = (&mut self.watch, &mut self.times);
            let mut sink = Sink { watch, times, figures, arrived_ns };
            for datagram in arrival.datagrams(buffer) {
                rtsp.handle_datagram(place, Bytes::copy_from_slice(datagram), &mut sink);
            }
        }
        Ok(())
    }

    /// Does what is due: RTSP wants signs of life.
    ///
    /// # Errors
    /// The player's end.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), End> {
        match &mut self.session {
            Session::Rtsp(rtsp) => rtsp.handle_timeout(now, &mut self.connection),
            _ => Ok(()),
        }
    }

    /// Tracks of RTSP that are set up.
    pub(super) fn track_count(&self) -> usize {
        match &self.session {
            Session::Rtsp(rtsp) => rtsp.track_count(),
            _ => 0,
        }
    }

    /// The UDP sockets of the tracks from `track` on.
    pub(super) fn sockets_from(
        &self,
        track: usize,
    ) -> impl Iterator<Item = (UdpPlace, &UdpSocket)> {
        let rtsp = match &self.session {
            Session::Rtsp(rtsp) => Some(rtsp),
            _ => None,
        };
        rtsp.into_iter().flat_map(move |rtsp| rtsp.sockets_from(track))
    }

    /// Tags whose length stood wrong behind them, and packets that were none.
    pub(super) fn wrong_sizes(&self) -> u64 {
        match &self.session {
            Session::Flv { scan, .. } | Session::Ws { scan, .. } => scan.wrong_sizes,
            Session::Rtmp { .. } => 0,
            Session::Rtsp(rtsp) => rtsp.malformed(),
        }
    }

    fn take(&mut self, input: Bytes, arrived_ns: u64, figures: &mut Figures) -> Result<(), End> {
        let (watch, times) = (&mut self.watch, &mut self.times);
        let mut sink = Sink { watch, times, figures, arrived_ns };
        self.session.handle_input(input, &mut self.connection, &mut sink)
    }
}

/// Where a session puts what comes at one time.
pub(super) struct Sink<'a> {
    pub(super) watch: &'a mut Watch,
    times: &'a mut Times,
    figures: &'a mut Figures,
    arrived_ns: u64,
}

impl Sink<'_> {
    pub(super) fn media_came(&mut self) {
        self.times.first_byte_ns.get_or_insert(self.arrived_ns);
    }

    fn tag(&mut self, tag: TagSeen<'_>) {
        self.watch.on_tag(tag, self.arrived_ns, self.figures);
        self.note_keyframe();
    }

    pub(super) fn picture(&mut self, picture: Picture) {
        self.watch.on_picture(picture, self.arrived_ns, self.figures);
        self.note_keyframe();
    }

    fn note_keyframe(&mut self) {
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
            Protocol::Rtsp(transport) => {
                Self::Rtsp(Box::new(RtspPlayer::new(target, transport, seed)))
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
                Self::Rtsp(rtsp) => return rtsp.begin(connection),
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
            Self::Rtsp(rtsp) => rtsp.handle_input(input, connection, sink)?,
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

pub(super) const USER_AGENT: &str = concat!("rillcast-load/", env!("CARGO_PKG_VERSION"));

/// It is the crowd that gives up on a player that does not come to its keyframe.
pub(super) const NEVER: Duration = Duration::from_secs(1 << 30);

/// Oldest stamp that is believed: bytes that lay unread for longer were not looked at by us.
const STAMP_AGE_NS_MAX: u64 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::target;
    use super::*;
    use crate::media::TagKind;
    use crate::proto::amf0::Value;
    use crate::proto::flv::{FILE_HEADER, TagHeader};
    use crate::proto::http::websocket::{accept_of, encode_header};
    use crate::proto::rtmp::chunk_encoding::encode_message;
    use crate::proto::rtmp::command::{Status, command};
    use crate::proto::rtmp::message::Message;
    use crate::proto::rtp::RtpHeader;
    use crate::proto::rtsp::message::interleaved_header;

    /// Ten frames with a keyframe at first, 40 ms apart.
    fn frames() -> Vec<(u32, Vec<u8>)> {
        let frame = |index: u32| {
            let mut payload = vec![if index == 0 { 0x17 } else { 0x27 }, 1, 0, 0, 0];
            payload.resize(30 + index as usize, 7);
            (index * 40, payload)
        };
        (0..10).map(frame).collect()
    }

    fn flv() -> Vec<u8> {
        let mut bytes = FILE_HEADER.to_vec();
        for (timestamp_ms, payload) in frames() {
            let len = payload.len() as u32;
            bytes.extend_from_slice(&TagHeader::new(TagKind::Video, timestamp_ms, len).encode());
            bytes.extend_from_slice(&payload);
            bytes.extend_from_slice(&(len + 11).to_be_bytes());
        }
        bytes
    }

    fn chunked(body: &[u8]) -> Vec<u8> {
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for piece in body.chunks(100) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    fn websocket(body: &[u8], request: &str) -> Vec<u8> {
        let (_, key) = request.split_once("Sec-WebSocket-Key: ").expect("a key");
        let accept = accept_of(key.trim_end());
        let head = format!("HTTP/1.1 101 S\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
        let mut bytes = head.into_bytes();
        for piece in body.chunks(100) {
            let (header, header_len) = encode_header(piece.len() as u64);
            bytes.extend_from_slice(&header[..header_len]);
            bytes.extend_from_slice(piece);
        }
        bytes
    }

    fn rtmp() -> Vec<u8> {
        let mut bytes = [&[3][..], &[0; 2 * 1536]].concat();
        let start = Status { is_error: false, code: "NetStream.Play.Start", description: "" };
        let mut messages = vec![
            command(0, "_result", 1.0, &[Value::Null, Value::Null]),
            command(0, "_result", 2.0, &[Value::Null, Value::Number(1.0)]),
            start.to_message(1),
        ];
        messages.extend(frames().into_iter().map(|(timestamp_ms, payload)| Message {
            kind: 9,
            timestamp_ms,
            stream_id: 1,
            payload: payload.into(),
        }));
        messages.iter().for_each(|message| encode_message(6, message, 128, &mut bytes));
        bytes
    }

    fn rtsp() -> Vec<u8> {
        let sdp = "v=0\r\ns=-\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";
        let mut bytes = Vec::new();
        for (cseq, body) in [(1, ""), (2, sdp), (3, ""), (4, "")] {
            let (session, len) = ("Session: abc\r\n", body.len());
            let head = format!("RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n{session}Content-Length: {len}");
            bytes.extend_from_slice(format!("{head}\r\n\r\n{body}").as_bytes());
        }
        for (index, (timestamp_ms, payload)) in (0_u16..).zip(frames()) {
            let first = if timestamp_ms == 0 { 0x65 } else { 0x41 };
            let (sequence, timestamp) = (index.wrapping_add(65_530), timestamp_ms * 90);
            let header = RtpHeader { marker: true, payload_type: 96, sequence, timestamp, ssrc: 1 };
            let packet = [&header.encode()[..], &[first], &payload].concat();
            bytes.extend_from_slice(&interleaved_header(0, packet.len() as u16));
            bytes.extend_from_slice(&packet);
        }
        bytes
    }

    /// To a peer that reads, and says nothing.
    fn connection() -> Connection {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let (mut peer, _) = listener.accept()?;
            io::copy(&mut peer, &mut io::sink())
        });
        Connection::start(address).expect("it listens")
    }

    /// What is seen of `bytes` cut at `at`.
    fn play(url: &str, connection: &mut Connection, bytes: &[u8], at: usize) -> (u64, Times) {
        let target = &target::expand(url, 0, 1).expect("a URL")[0];
        let (mut session, mut watch) = (Session::new(target, 7), Watch::default());
        let (mut times, mut figures) = (Times::default(), Figures::default());
        session.begin(connection).expect("an open connection");
        for (arrived_ns, piece) in [(1, &bytes[..at]), (2, &bytes[at..])] {
            let (watch, times, figures) = (&mut watch, &mut times, &mut figures);
            let mut sink = Sink { watch, times, figures, arrived_ns };
            let piece = Bytes::copy_from_slice(piece);
            session.handle_input(piece, connection, &mut sink).expect("what a server may send");
        }
        while !connection.is_flushed() {
            connection.flush().expect("it is read");
        }
        assert_eq!((watch.counts.missing, watch.counts.misplaced), (0, 0));
        (watch.counts.frames, times)
    }

    #[test]
    fn frames_are_the_same_at_every_split() {
        let mut connection = connection();
        let ws = "ws://127.0.0.1/a.flv";
        let mut session = Session::new(&target::expand(ws, 0, 1).expect("a URL")[0], 7);
        let Session::Ws { ws: client, .. } = &mut session else { panic!("no WebSocket") };
        let Some(Output::Send(request)) = client.poll_output() else { panic!("no request") };
        let request = String::from_utf8_lossy(&request).into_owned();
        let plain = [b"HTTP/1.1 200 OK\r\n\r\n", &flv()[..]].concat();
        for (url, bytes) in [
            ("http://127.0.0.1/a.flv", plain),
            ("http://127.0.0.1/a.flv", chunked(&flv())),
            (ws, websocket(&flv(), &request)),
            ("rtmp://127.0.0.1/live/a", rtmp()),
            ("rtsp://127.0.0.1/live/a", rtsp()),
        ] {
            for at in 0..=bytes.len() {
                let (count, times) = play(url, &mut connection, &bytes, at);
                assert_eq!(count, 10, "{url} at {at}");
                assert!(times.first_byte_ns <= times.keyframe_ns, "{url} at {at}");
            }
            // The first byte of media is not the first of the answer.
            let (_, times) = play(url, &mut connection, &bytes, 19);
            assert_eq!((times.first_byte_ns, times.keyframe_ns), (Some(2), Some(2)), "{url}");
        }
    }

    #[test]
    fn ends_are_told_apart() {
        let mut connection = connection();
        let mut end_of = |url: &str, bytes: &[u8]| {
            let target = &target::expand(url, 0, 1).expect("a URL")[0];
            let (mut session, mut watch) = (Session::new(target, 7), Watch::default());
            let (mut times, mut figures) = (Times::default(), Figures::default());
            session.begin(&mut connection).expect("an open connection");
            let (watch, times, figures) = (&mut watch, &mut times, &mut figures);
            let mut sink = Sink { watch, times, figures, arrived_ns: 1 };
            let bytes = Bytes::copy_from_slice(bytes);
            session.handle_input(bytes, &mut connection, &mut sink).expect_err("an end")
        };
        let refused = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\nRTSP/1.0 404 No\r\nCSeq: 2\r\n\r\n";
        let end_of_rtsp = end_of("rtsp://127.0.0.1/a/b", refused);
        assert!(matches!(end_of_rtsp, End::Refused(reason) if reason == "RTSP 404 No"));
        let mut end = |bytes: &[u8]| end_of("http://127.0.0.1/a.flv", bytes);
        assert!(matches!(end(b"HTTP/1.1 403 No\r\n\r\n"), End::Refused(_)));
        assert!(matches!(end(b"HTTP/1.1 302 F\r\nLocation: /b\r\n\r\n"), End::Refused(_)));
        assert!(matches!(end(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), End::Closed));
        assert!(end(b"HTTP/1.1 200 OK\r\n\r\nno FLV at all").is_broken());
        assert!(end(b"220 smtp\r\n\r\n").is_broken());
    }
}
