//! A stream and a pull, as lists show them.

use std::borrow::Cow;

use serde::Serialize;

use super::node::Ends;
use super::schema;
use super::track::{self, TrackRow};
use crate::bus::view::{PullSourceView, PullView, SourceView, StreamView};
use crate::media::{Form, StreamKey};

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

/// A stream in one schema: `getMediaList`, `getMediaInfo`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct MediaRow<'a> {
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
    pub(in crate::api) fn of(view: &'a StreamView, form: Form) -> Self {
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
            reader_count: view.form(form).players,
            schema: schema(form),
            stream: key.stream(),
            total_bytes: view.bytes_total,
            total_reader_count: view.players(),
            tracks: track::rows(&view.tracks),
            vhost: key.vhost(),
            pending: !view.registered,
            life: Life::of(view),
            tries,
        }
    }

    /// With the `loss` of each track, which `getMediaInfo` shows.
    pub(in crate::api) fn with_loss(mut self) -> Self {
        self.tracks.iter_mut().for_each(TrackRow::show_loss);
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
            SourceView::Publisher(publisher) => {
                let (number, name) = match publisher.form {
                    Form::Flv => (1, "rtmp_push"),
                    Form::Rtp => (2, "rtsp_push"),
                };
                let sock = OriginSock {
                    identifier: publisher.connection.to_string(),
                    ends: Ends::of(publisher.local, publisher.peer),
                };
                Self {
                    number,
                    name,
                    url: format!("{}://{}", schema(publisher.form), view.key),
                    params: &publisher.params,
                    sock: Some(sock),
                }
            }
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
pub(in crate::api) struct ProxyRow<'a> {
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
    on_demand: bool,
    url: &'a str,
    sources: Vec<SourceRow<'a>>,
    /// What is tried beside `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    rival: Option<&'a str>,
    #[serde(flatten)]
    life: Life,
    #[serde(flatten)]
    tries: Tries<'a>,
}

/// One of the sources of a pull.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct SourceRow<'a> {
    url: &'a str,
    in_use: bool,
    failures: u32,
    last_error: Option<&'a str>,
    error_class: Option<&'static str>,
    up_ago_ms: Option<u64>,
}

impl<'a> SourceRow<'a> {
    /// Those of a pull, in the order in which they are tried.
    pub(in crate::api) fn of(pull: &'a PullView) -> Vec<Self> {
        let row = |source: &'a PullSourceView| Self {
            url: source.url.as_str(),
            in_use: source.in_use,
            failures: source.failures,
            last_error: source.last_fault.as_ref().map(|fault| fault.text.as_str()),
            error_class: source.last_fault.as_ref().map(|fault| fault.class.as_str()),
            up_ago_ms: source.up_ago_ms,
        };
        pull.sources.iter().map(row).collect()
    }
}

#[derive(Serialize)]
pub(super) struct Src<'a> {
    app: &'a str,
    params: &'static str,
    stream: &'a str,
    vhost: &'a str,
}

impl<'a> Src<'a> {
    pub(super) fn of(key: &'a StreamKey) -> Self {
        Self { app: key.app(), params: "", stream: key.stream(), vhost: key.vhost() }
    }
}

impl<'a> ProxyRow<'a> {
    /// `None` for a stream that is not pulled.
    pub(in crate::api) fn of(view: &'a StreamView) -> Option<Self> {
        let SourceView::Pull(pull) = &view.source else { return None };
        let key = &view.key;
        Some(Self {
            bytes_speed: view.bytes_per_second,
            key: Some(key.as_str()),
            live_secs: view.alive_ms / 1000,
            re_pull_count: pull.losses,
            src: Src::of(key),
            status: i32::from(!view.registered),
            status_str: status_text(view, pull),
            total_bytes: view.bytes_total,
            total_reader_count: view.players(),
            tracks: track::rows(&view.tracks),
            on_demand: pull.on_demand,
            url: pull.url.as_str(),
            sources: SourceRow::of(pull),
            rival: pull.rival.as_ref().map(|url| url.as_str()),
            life: Life::of(view),
            tries: Tries::of(pull),
        })
    }

    /// As `getProxyInfo` shows it.
    pub(in crate::api) fn without_key(self) -> Self {
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
