//! ZLMediaKit's field names, casing, types and codes. Nowhere else.
//!
//! Members that ZLMediaKit does not have are ours and only ever added: `state`, `generation`,
//! `ageMs`, `waiters`, `pending`, `attempts`, `lastError`, `errorClass`, `nextRetryMs`, `released`,
//! and those of a player.

use std::borrow::Cow;
use std::net::SocketAddr;

use serde::Serialize;

use super::gather::give_way;
use crate::bus::message::Closed;
use crate::bus::view::{
    LoadView, PlayerView, PullView, SessionProtocol, SessionView, SourceView, StreamView,
};
use crate::limits::API_ROWS_PER_TURN;
use crate::media::{Codec, StreamKey};
use crate::proto::http::Response;
use crate::stream::Packaging;
use crate::stream::tracks::Track;

/// The one schema that streams count in: RTMP, HTTP-FLV and WebSocket-FLV players read it.
pub(super) const SCHEMA: &str = "rtmp";

/// `code` of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Code {
    Success = 0,
    OtherFailed = -1,
    AuthFailed = -100,
    InvalidArgs = -300,
    /// Here: a shard did not answer.
    Exception = -400,
    NotFound = -500,
}

/// A call that failed, with nothing more to tell than why.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) msg: Cow<'static, str>,
}

impl Failure {
    pub(super) fn new(code: Code, msg: impl Into<Cow<'static, str>>) -> Self {
        Self { code, msg: msg.into() }
    }

    pub(super) fn stream_not_found() -> Self {
        Self::new(Code::NotFound, "can not find the stream")
    }

    /// A shard answered what it was not asked.
    pub(super) fn other_answer() -> Self {
        Self::new(Code::Exception, "a shard gave the answer to another question")
    }

    pub(super) fn response(self, status: u16) -> Response {
        let body = render(self.code, Some(&self.msg), Nothing {});
        Response::new(status, "application/json; charset=utf-8", body)
    }
}

/// No member but `code` and `msg`.
#[derive(Serialize)]
pub(super) struct Nothing {}

/// A payload under the name `data`.
#[derive(Serialize)]
pub(super) struct Data<T> {
    pub(super) data: T,
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    code: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<&'a str>,
    #[serde(flatten)]
    rest: T,
}

/// A reply whose members stand beside `code`.
pub(super) fn reply(code: Code, msg: Option<&str>, rest: impl Serialize) -> Response {
    Response::json(render(code, msg, rest))
}

pub(super) fn success(rest: impl Serialize) -> Response {
    reply(Code::Success, None, rest)
}

fn render(code: Code, msg: Option<&str>, rest: impl Serialize) -> Vec<u8> {
    let envelope = Envelope { code: code as i32, msg, rest };
    serde_json::to_vec(&envelope).expect("replies are plain data with text keys")
}

/// A reply whose `data` is a list. A long one is rendered in turns, so that the shard's streams do
/// not wait for it.
pub(super) async fn list<T: Serialize>(rows: impl IntoIterator<Item = T>) -> Response {
    let mut body = b"{\"code\":0,\"data\":[".to_vec();
    for (index, row) in rows.into_iter().enumerate() {
        if index > 0 {
            body.push(b',');
            if index % API_ROWS_PER_TURN == 0 {
                give_way().await;
            }
        }
        serde_json::to_writer(&mut body, &row).expect("rows are plain data with text keys");
    }
    body.extend_from_slice(b"]}");
    Response::json(body)
}

/// What a close gave back.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct ReleasedRow {
    sockets: u32,
    timers: u32,
    players: u32,
    waiters: u32,
    bytes: u64,
    /// All of it was confirmed within the bound.
    complete: bool,
}

impl ReleasedRow {
    pub(super) fn of(closed: &Closed) -> Self {
        let released = closed.released;
        Self {
            sockets: released.sockets,
            timers: released.timers,
            players: released.players,
            waiters: released.waiters,
            bytes: released.bytes,
            complete: closed.complete,
        }
    }
}

/// Both ends of a connection.
#[derive(Serialize)]
struct Ends {
    local_ip: String,
    local_port: u16,
    peer_ip: String,
    peer_port: u16,
}

impl Ends {
    fn of(local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            local_ip: ip_text(local),
            local_port: local.port(),
            peer_ip: ip_text(peer),
            peer_port: peer.port(),
        }
    }
}

/// An IPv4 address of a dual-stack socket as what it is.
pub(super) fn ip_text(address: SocketAddr) -> String {
    address.ip().to_canonical().to_string()
}

/// How far a stream is, of every stream.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Life {
    state: &'static str,
    generation: u64,
    age_ms: u64,
    waiters: u32,
}

impl Life {
    fn of(view: &StreamView) -> Self {
        Self {
            state: view.state.as_str(),
            generation: view.generation.0,
            age_ms: view.age_ms,
            waiters: view.waiters,
        }
    }
}

/// How a pull gets on.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tries<'a> {
    attempts: u32,
    last_error: Option<&'a str>,
    error_class: Option<&'static str>,
    next_retry_ms: u64,
}

impl<'a> Tries<'a> {
    fn of(pull: &'a PullView) -> Self {
        let fault = pull.last_fault.as_ref();
        Self {
            attempts: pull.attempts,
            last_error: fault.map(|fault| fault.text.as_str()),
            error_class: fault.map(|fault| fault.class.as_str()),
            next_retry_ms: pull.next_retry_ms,
        }
    }
}

/// A stream: `getMediaList`, `getMediaInfo`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MediaRow<'a> {
    alive_second: u64,
    app: &'a str,
    bytes_speed: u64,
    create_stamp: u64,
    current_stamp: u32,
    #[serde(rename = "isRecordingHLS")]
    is_recording_hls: bool,
    #[serde(rename = "isRecordingMP4")]
    is_recording_mp4: bool,
    origin_sock: Option<OriginSock>,
    origin_type: i32,
    origin_type_str: &'static str,
    origin_url: String,
    params: &'a str,
    reader_count: u32,
    schema: &'static str,
    stream: &'a str,
    total_bytes: u64,
    total_reader_count: u32,
    tracks: Vec<TrackRow>,
    vhost: &'a str,
    pending: bool,
    #[serde(flatten)]
    life: Life,
    /// Where it is pending and pulled.
    #[serde(flatten)]
    tries: Option<Tries<'a>>,
}

#[derive(Serialize)]
struct OriginSock {
    identifier: String,
    #[serde(flatten)]
    ends: Ends,
}

impl<'a> MediaRow<'a> {
    pub(super) fn of(view: &'a StreamView) -> Self {
        let key = &view.key;
        let origin = Origin::of(view);
        let tries = match &view.source {
            SourceView::Pull(pull) if !view.registered => Some(Tries::of(pull)),
            _ => None,
        };
        Self {
            alive_second: view.alive_ms / 1000,
            app: key.app(),
            bytes_speed: view.bytes_per_second,
            create_stamp: view.created_unix,
            current_stamp: view.timestamp_ms,
            is_recording_hls: false,
            is_recording_mp4: false,
            origin_sock: origin.sock,
            origin_type: origin.number,
            origin_type_str: origin.name,
            origin_url: origin.url,
            params: origin.params,
            reader_count: view.players,
            schema: SCHEMA,
            stream: key.stream(),
            total_bytes: view.bytes_total,
            total_reader_count: view.players,
            tracks: tracks(view),
            vhost: key.vhost(),
            pending: !view.registered,
            life: Life::of(view),
            tries,
        }
    }

    /// With the `loss` of each track, which `getMediaInfo` shows and nobody knows over TCP.
    pub(super) fn with_loss(mut self) -> Self {
        for track in &mut self.tracks {
            track.loss = Some(-1.0);
        }
        self
    }
}

/// Where media comes from, in ZLMediaKit's numbers and names.
struct Origin<'a> {
    number: i32,
    name: &'static str,
    url: String,
    params: &'a str,
    sock: Option<OriginSock>,
}

impl<'a> Origin<'a> {
    fn of(view: &'a StreamView) -> Self {
        let none = Self { number: 0, name: "unknown", url: String::new(), params: "", sock: None };
        match &view.source {
            SourceView::None => none,
            SourceView::Publisher(publisher) => Self {
                number: 1,
                name: "rtmp_push",
                url: format!("{SCHEMA}://{}", view.key),
                params: publisher.as_ref().map_or("", |publisher| &publisher.params),
                sock: publisher.as_ref().map(|publisher| OriginSock {
                    identifier: publisher.connection.to_string(),
                    ends: Ends::of(publisher.local, publisher.peer),
                }),
            },
            SourceView::Pull(pull) => Self {
                number: 4,
                name: "pull",
                url: pull.url.as_str().to_owned(),
                sock: pull.ends.map(|(local, peer)| OriginSock {
                    // Not one of our sessions, so nothing that could be kicked.
                    identifier: format!("pull-{}", view.generation),
                    ends: Ends::of(local, peer),
                }),
                ..none
            },
        }
    }
}

/// A pull: `listStreamProxy`, `getProxyInfo`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProxyRow<'a> {
    bytes_speed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    live_secs: u64,
    re_pull_count: u32,
    src: Src<'a>,
    status: i32,
    #[serde(rename = "status_str")]
    status_str: Cow<'static, str>,
    total_bytes: u64,
    total_reader_count: u32,
    tracks: Vec<TrackRow>,
    url: &'a str,
    #[serde(flatten)]
    life: Life,
    #[serde(flatten)]
    tries: Tries<'a>,
}

#[derive(Serialize)]
struct Src<'a> {
    app: &'a str,
    params: &'static str,
    stream: &'a str,
    vhost: &'a str,
}

impl<'a> ProxyRow<'a> {
    /// `None` for a stream that is not pulled.
    pub(super) fn of(view: &'a StreamView) -> Option<Self> {
        let SourceView::Pull(pull) = &view.source else { return None };
        let key = &view.key;
        Some(Self {
            bytes_speed: view.bytes_per_second,
            key: Some(key.as_str()),
            live_secs: view.alive_ms / 1000,
            re_pull_count: pull.losses,
            src: Src { app: key.app(), params: "", stream: key.stream(), vhost: key.vhost() },
            status: i32::from(!view.registered),
            status_str: status_text(view, pull),
            total_bytes: view.bytes_total,
            total_reader_count: view.players,
            tracks: tracks(view),
            url: pull.url.as_str(),
            life: Life::of(view),
            tries: Tries::of(pull),
        })
    }

    /// As `getProxyInfo` shows it.
    pub(super) fn without_key(self) -> Self {
        Self { key: None, ..self }
    }
}

fn status_text(view: &StreamView, pull: &PullView) -> Cow<'static, str> {
    match &pull.last_fault {
        _ if view.registered => "playing".into(),
        None => "connecting".into(),
        Some(fault) if pull.was_up => format!("play shutdown: {}", fault.text).into(),
        Some(fault) => format!("play failed: {}", fault.text).into(),
    }
}

/// An elementary stream.
#[derive(Serialize)]
struct TrackRow {
    codec_id: i32,
    codec_id_name: &'static str,
    codec_type: i32,
    ready: bool,
    frames: u64,
    duration: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f64>,
    #[serde(flatten)]
    kind: TrackKindRow,
}

#[derive(Serialize)]
#[serde(untagged)]
enum TrackKindRow {
    Video {
        fps: f64,
        gop_interval_ms: u32,
        gop_size: u32,
        height: u32,
        key_frames: u64,
        width: u32,
    },
    Audio {
        channels: u32,
        sample_bit: u32,
        sample_rate: u32,
    },
}

fn tracks(view: &StreamView) -> Vec<TrackRow> {
    let tracks = &view.tracks;
    let video = tracks.video.as_ref().map(|track| {
        let fps = track.video.fps.unwrap_or(track.fps_measured);
        let kind = TrackKindRow::Video {
            // What an encoder claims may be no number at all, which JSON cannot say.
            fps: if fps.is_finite() { fps.round() } else { 0.0 },
            gop_interval_ms: track.gop_interval_ms,
            gop_size: track.gop_frames,
            height: track.video.height,
            key_frames: track.keyframes,
            width: track.video.width,
        };
        track_row(track, 0, kind)
    });
    let audio = tracks.audio.as_ref().map(|track| {
        let kind = TrackKindRow::Audio {
            channels: track.audio.channels,
            sample_bit: track.audio.sample_bits,
            sample_rate: track.audio.sample_rate,
        };
        track_row(track, 1, kind)
    });
    video.into_iter().chain(audio).collect()
}

fn track_row(track: &Track, codec_type: i32, kind: TrackKindRow) -> TrackRow {
    let (codec_id, codec_id_name) = codec_identity(track.codec);
    TrackRow {
        codec_id,
        codec_id_name,
        codec_type,
        ready: track.ready,
        frames: track.frames,
        duration: track.duration_ms,
        loss: None,
        kind,
    }
}

fn codec_identity(codec: Codec) -> (i32, &'static str) {
    match codec {
        Codec::H264 => (0, "H264"),
        Codec::H265 => (1, "H265"),
        Codec::Aac => (2, "mpeg4-generic"),
        Codec::PcmA => (3, "PCMA"),
        Codec::PcmU => (4, "PCMU"),
        Codec::Opus => (5, "opus"),
        Codec::Vp8 => (7, "VP8"),
        Codec::Vp9 => (8, "VP9"),
        Codec::Av1 => (9, "AV1"),
        Codec::Mp3 => (14, "MP3"),
        _ => (-1, "invalid"),
    }
}

/// A player: `getMediaPlayerList`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlayerRow {
    identifier: String,
    #[serde(flatten)]
    ends: Ends,
    typeid: &'static str,
    sent_bytes: u64,
    lag_bytes: u64,
    jumps: u32,
}

impl PlayerRow {
    pub(super) fn of(view: &PlayerView) -> Self {
        let protocol = match view.packaging {
            Packaging::Rtmp => SessionProtocol::Rtmp,
            Packaging::Flv | Packaging::WsFlv => SessionProtocol::Http,
        };
        Self {
            identifier: view.connection.to_string(),
            ends: Ends::of(view.local, view.peer),
            typeid: type_id(protocol),
            sent_bytes: view.sent_bytes,
            lag_bytes: view.lag_bytes,
            jumps: view.jumps,
        }
    }
}

/// An accepted connection: `getAllSession`.
#[derive(Serialize)]
pub(super) struct SessionRow {
    id: String,
    identifier: String,
    #[serde(flatten)]
    ends: Ends,
    #[serde(rename = "type")]
    transport: &'static str,
    typeid: &'static str,
}

impl SessionRow {
    pub(super) fn of(view: &SessionView) -> Self {
        let id = view.connection.to_string();
        Self {
            id: id.clone(),
            identifier: id,
            ends: Ends::of(view.local, view.peer),
            transport: "tcp",
            typeid: type_id(view.protocol),
        }
    }
}

/// ZLMediaKit's class, by which control planes tell protocols apart.
fn type_id(protocol: SessionProtocol) -> &'static str {
    match protocol {
        SessionProtocol::Rtmp => "mediakit::RtmpSession",
        SessionProtocol::Http => "mediakit::HttpSession",
    }
}

/// A thread: `getThreadsLoad`, `getWorkThreadsLoad`.
#[derive(Serialize)]
pub(super) struct LoadRow {
    delay: u32,
    fd_count: u32,
    load: u32,
    name: String,
}

impl LoadRow {
    pub(super) fn of(name: String, view: LoadView) -> Self {
        Self { delay: view.delay_ms, fd_count: view.fd_count, load: view.percent, name }
    }
}

/// How much of what is there: `getStatistic`. What we have nothing like is 0.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Statistic {
    pub(super) buffer: u64,
    pub(super) buffer_like_string: u64,
    pub(super) buffer_list: u64,
    pub(super) buffer_raw: u64,
    pub(super) frame: u64,
    pub(super) frame_imp: u64,
    pub(super) media_source: u64,
    pub(super) multi_media_source_muxer: u64,
    pub(super) rtmp_packet: u64,
    pub(super) rtp_packet: u64,
    pub(super) socket: u64,
    pub(super) tcp_client: u64,
    pub(super) tcp_server: u64,
    pub(super) tcp_session: u64,
    pub(super) udp_server: u64,
    pub(super) udp_session: u64,
}

/// The key of a pull that was added, and how far it is.
#[derive(Serialize)]
pub(super) struct AddedRow<'a> {
    pub(super) key: &'a str,
    pub(super) state: &'static str,
    pub(super) generation: u64,
}

/// What has the key that was to be added.
#[derive(Serialize)]
pub(super) struct TakenRow<'a> {
    pub(super) key: &'a str,
    pub(super) state: &'static str,
    pub(super) generation: u64,
    /// `null` where it is not pulled.
    pub(super) url: Option<&'a str>,
}

/// Whether a pull was deleted, and then what that gave back.
#[derive(Serialize)]
pub(super) struct DeletedRow {
    pub(super) flag: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) released: Option<ReleasedRow>,
}

/// The outcome of `close_stream`.
#[derive(Serialize)]
pub(super) struct CloseRow {
    pub(super) result: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) released: Option<ReleasedRow>,
}

/// The outcome of `close_streams`.
#[derive(Debug, Default, Serialize)]
pub(super) struct CloseCounts {
    /// Registered ones that matched.
    pub(super) count_hit: u64,
    /// Those and pending ones that are closed.
    pub(super) count_closed: u64,
    /// Pending ones that matched.
    pub(super) count_pending: u64,
    pub(super) released: ReleasedRow,
}

#[derive(Serialize)]
pub(super) struct Online {
    pub(super) online: bool,
}

/// A stream's members beside `code`; `online` is for clients of before 2022, which look for it.
#[derive(Serialize)]
pub(super) struct MediaInfo<'a> {
    pub(super) online: bool,
    #[serde(flatten)]
    pub(super) row: MediaRow<'a>,
}

#[derive(Serialize)]
pub(super) struct Changed {
    pub(super) changed: u64,
}

#[derive(Serialize)]
pub(super) struct Hit {
    pub(super) count_hit: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VersionRow {
    pub(super) branch_name: &'static str,
    pub(super) build_time: &'static str,
    pub(super) commit_hash: &'static str,
    pub(super) version: &'static str,
}

/// A key as a caller may write it, in the vhost that all streams are in; `None` when it is none.
pub(super) fn parse_key(text: &str) -> Option<StreamKey> {
    let key = StreamKey::parse(text).ok()?;
    StreamKey::in_default_vhost(key.app(), key.stream()).ok()
}
