//! ZLMediaKit's field names, casing, types and codes. Nowhere else.
//!
//! Members that ZLMediaKit does not have are ours and only ever added: `state`, `generation`,
//! `ageMs`, `waiters`, `pending`, `attempts`, `lastError`, `errorClass`, `nextRetryMs`, `released`,
//! and those of a player.

mod node;
mod probe;
mod push;
mod stream;
mod track;

use std::borrow::Cow;

use serde::Serialize;

pub(super) use node::{LoadRow, PlayerRow, SessionRow, Statistic, VersionRow, ip_text};
pub(super) use probe::ProbeRow;
pub(super) use push::{PushName, PushRow};
pub(super) use stream::{MediaRow, ProxyRow, SourceRow};

use super::gather::give_way;
use crate::bus::message::Closed;
use crate::limits::API_ROWS_PER_TURN;
use crate::media::{Form, StreamKey};
use crate::proto::http::Response;

/// The schema of a form: RTMP, HTTP-FLV and WebSocket-FLV players read `rtmp`, RTSP players `rtsp`.
pub fn schema(form: Form) -> &'static str {
    match form {
        Form::Flv => "rtmp",
        Form::Rtp => "rtsp",
    }
}

/// The form of a schema that streams can count in.
pub(super) fn parse_schema(text: &str) -> Option<Form> {
    Form::ALL.into_iter().find(|form| schema(*form) == text)
}

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
    /// Schemas that matched of registered ones.
    pub(super) count_hit: u64,
    /// Those, and pending ones, that are closed.
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
    /// Keys whose values are none of theirs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) refused: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReloadedRow {
    pub(super) changed: Vec<String>,
    pub(super) needs_restart: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct Hit {
    pub(super) count_hit: u64,
}

/// A key as a caller may write it, in the vhost that all streams are in; `None` when it is none.
pub(super) fn parse_key(text: &str) -> Option<StreamKey> {
    let key = StreamKey::parse(text).ok()?;
    StreamKey::in_default_vhost(key.app(), key.stream()).ok()
}
