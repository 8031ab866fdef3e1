//! What the server session says: results, statuses and the reasons behind them.

use crate::proto::amf0::Value;
use crate::proto::rtmp::command::{Status, command, data};
use crate::proto::rtmp::message::Message;
use crate::proto::rtmp::server::STREAM_ID;

/// Why a publisher may not publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishRefusal {
    /// The stream is published already, or its name can't be one.
    BadName,
    /// Not allowed.
    Denied,
    /// We can't take it now.
    Unavailable,
}

/// Why a player may not play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlayRefusal {
    StreamNotFound,
    /// Not allowed.
    Denied,
    /// We can't serve it now.
    Unavailable,
}

/// Why we end a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishEnd {
    /// Closed by the operator.
    Kicked,
    /// Its media broke a rule.
    Rejected,
    /// It sent nothing for too long.
    Silent,
}

/// Why we end a player.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlayEnd {
    /// The stream is over.
    Unpublished,
    /// Closed by the operator.
    Kicked,
    /// Too far behind for too long.
    TooSlow,
}

impl PublishRefusal {
    pub(super) fn status(self, detail: &str) -> Status<'_> {
        let (code, usual) = match self {
            Self::BadName => ("NetStream.Publish.BadName", "Already publishing."),
            Self::Denied => ("NetStream.Publish.BadAuth", "Not allowed to publish."),
            Self::Unavailable => ("NetStream.Publish.Failed", "Server is busy."),
        };
        error(code, if detail.is_empty() { usual } else { detail })
    }
}

impl PlayRefusal {
    pub(super) fn status(self, detail: &str) -> Status<'_> {
        let (code, usual) = match self {
            Self::StreamNotFound => ("NetStream.Play.StreamNotFound", "No such stream."),
            Self::Denied => ("NetStream.Play.BadAuth", "Not allowed to play."),
            Self::Unavailable => ("NetStream.Play.Failed", "Server is busy."),
        };
        error(code, if detail.is_empty() { usual } else { detail })
    }
}

impl PublishEnd {
    pub(super) fn status(self) -> Status<'static> {
        match self {
            Self::Kicked => error("NetConnection.Connect.Closed", "Closed by the operator."),
            Self::Rejected => error("NetStream.Publish.Denied", "Media was rejected."),
            Self::Silent => error("NetStream.Publish.Idle", "No media came in time."),
        }
    }
}

impl PlayEnd {
    pub(super) fn status(self) -> Status<'static> {
        match self {
            Self::Unpublished => status("NetStream.Play.UnpublishNotify", "Stream is over."),
            Self::Kicked => error("NetConnection.Connect.Closed", "Closed by the operator."),
            Self::TooSlow => error("NetStream.Play.InsufficientBW", "Too far behind."),
        }
    }
}

pub(super) const PUBLISH_START: Status<'static> =
    status("NetStream.Publish.Start", "Started publishing stream.");
pub(super) const UNPUBLISHED: Status<'static> =
    status("NetStream.Unpublish.Success", "Stopped publishing.");
pub(super) const PLAY_RESET: Status<'static> =
    status("NetStream.Play.Reset", "Resetting and playing.");
pub(super) const PLAY_START: Status<'static> = status("NetStream.Play.Start", "Started playing.");
pub(super) const CALL_FAILED: Status<'static> =
    error("NetConnection.Call.Failed", "No such command.");

/// The answer to `connect`: accepted, with what we pass through of Enhanced RTMP.
pub(super) fn connect_result(transaction: f64, object_encoding: f64) -> Message {
    let codec = |fourcc: &&str| ((*fourcc).to_owned(), Value::Number(CAN_FORWARD));
    let list = VIDEO_FOURCCS.iter().chain(&AUDIO_FOURCCS).map(|fourcc| Value::string(fourcc));
    let properties = Value::object([
        ("fmsVer", Value::string("FMS/3,0,1,123")),
        ("capabilities", Value::Number(31.0)),
        ("fourCcList", Value::StrictArray(list.collect())),
        ("videoFourCcInfoMap", Value::Object(VIDEO_FOURCCS.iter().map(codec).collect())),
        ("audioFourCcInfoMap", Value::Object(AUDIO_FOURCCS.iter().map(codec).collect())),
        ("capsEx", Value::Number(CAPS_EX)),
    ]);
    let information = Value::object([
        ("level", Value::string("status")),
        ("code", Value::string("NetConnection.Connect.Success")),
        ("description", Value::string("Connection succeeded.")),
        ("objectEncoding", Value::Number(object_encoding)),
    ]);
    command(0, "_result", transaction, &[properties, information])
}

pub(super) fn sample_access() -> Message {
    let allowed = Value::Boolean(true);
    data(STREAM_ID, &[Value::string("|RtmpSampleAccess"), allowed.clone(), allowed])
}

pub(super) fn data_start() -> Message {
    let info = Value::object([("code", Value::string("NetStream.Data.Start"))]);
    data(STREAM_ID, &[Value::string("onStatus"), info])
}

const fn status<'a>(code: &'static str, description: &'a str) -> Status<'a> {
    Status { is_error: false, code, description }
}

const fn error<'a>(code: &'static str, description: &'a str) -> Status<'a> {
    Status { is_error: true, code, description }
}

/// Codecs that pass through.
const VIDEO_FOURCCS: [&str; 5] = ["avc1", "hvc1", "av01", "vp09", "vp08"];
const AUDIO_FOURCCS: [&str; 6] = ["Opus", "fLaC", "ac-3", "ec-3", ".mp3", "mp4a"];

/// `FourCcInfoMask.CanForward`
const CAN_FORWARD: f64 = 4.0;

/// `CapsExMask`: multitrack (2), ModEx (4) and nanosecond offsets (8) pass through; we ask nobody
/// to reconnect (1).
const CAPS_EX: f64 = 14.0;
