//! The sessions with origins, of each protocol, as pulls drive them.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::rtsp_origin::{RtspOrigin, RtspWanted};
use crate::media::state::{ErrorClass, Fault};
use crate::media::url::SourceProtocol;
use crate::media::{MediaPart, SourceUrl};
use crate::proto::Output;
use crate::proto::flv::TagReader;
use crate::proto::http::client::ClientSession as HttpSession;
use crate::proto::http::client::{ClientConfig as HttpConfig, ClientEvent as HttpEvent};
use crate::proto::rtmp::{
    ClientConfig as RtmpConfig, ClientEvent as RtmpEvent, ClientSession as RtmpSession, ClientStage,
};
use crate::proto::rtp::SourceCounts;
use crate::proto::rtsp::{LowerTransport, PacketKind};
use crate::shard::Stage;

/// The session with an origin.
pub(super) enum OriginSession {
    Rtmp(RtmpSession),
    Http(HttpSession, TagReader),
    Rtsp(Box<RtspOrigin>),
}

/// What an origin's session wants done.
pub(super) enum Wanted {
    Send(Bytes),
    Stage(Stage, &'static str),
    Media(MediaPart),
    /// Of RTSP alone.
    Rtsp(RtspWanted),
    Redirect(String),
    Fail(Fault),
}

/// Sessions do not judge an origin's silence: the shard's timers do, by the pull's options.
pub(super) const NO_TIMEOUT: Duration = Duration::from_secs(3600);

impl OriginSession {
    pub(super) fn new(
        now: Instant,
        url: &SourceUrl,
        rtp_transport: LowerTransport,
        reorder: Duration,
    ) -> Self {
        match url.protocol {
            SourceProtocol::Rtsp => {
                Self::Rtsp(Box::new(RtspOrigin::new(now, url, rtp_transport, reorder)))
            }
            SourceProtocol::Rtmp => {
                let (app, stream) = url.rtmp_names();
                let tc_url = format!("rtmp://{}/{app}", url.authority());
                let config = RtmpConfig {
                    handshake_timeout: NO_TIMEOUT,
                    command_timeout: NO_TIMEOUT,
                    media_timeout: NO_TIMEOUT,
                    ..RtmpConfig::new(app, stream, tc_url)
                };
                Self::Rtmp(RtmpSession::new(now, fastrand::u64(..), config))
            }
            SourceProtocol::HttpFlv => {
                let config = HttpConfig {
                    url: url.to_url(),
                    user_agent: concat!("rillcast/", env!("CARGO_PKG_VERSION")).to_owned(),
                    reply_timeout: NO_TIMEOUT,
                    body_timeout: NO_TIMEOUT,
                };
                Self::Http(HttpSession::new(now, config), TagReader::new())
            }
        }
    }

    pub(super) fn handle_input(&mut self, now: Instant, bytes: Bytes) -> Option<Fault> {
        match self {
            Self::Rtmp(session) => session.handle_input(now, bytes).err().map(protocol_fault),
            Self::Http(session, _) => session.handle_input(now, bytes).err().map(protocol_fault),
            Self::Rtsp(origin) => origin.handle_input(now, bytes),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Fault> {
        let silent =
            |error: &dyn std::fmt::Display| Fault::new(ErrorClass::Silent, error.to_string());
        match self {
            Self::Rtmp(session) => session.handle_timeout(now).err().map(|error| silent(&error)),
            Self::Http(session, _) => session.handle_timeout(now).err().map(|error| silent(&error)),
            Self::Rtsp(origin) => origin.handle_timeout(now),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Rtmp(session) => session.poll_timeout(),
            Self::Http(session, _) => session.poll_timeout(),
            Self::Rtsp(origin) => origin.poll_timeout(),
        }
    }

    /// A datagram of one of its tracks; whether it was of use.
    pub(super) fn handle_datagram(
        &mut self,
        now: Instant,
        track: usize,
        kind: PacketKind,
        bytes: Bytes,
    ) -> bool {
        match self {
            Self::Rtsp(origin) => origin.handle_datagram(now, track, kind, bytes),
            Self::Rtmp(_) | Self::Http(..) => false,
        }
    }

    /// Our last words.
    pub(super) fn goodbye(&mut self) -> Vec<Bytes> {
        match self {
            Self::Rtsp(origin) => origin.goodbye(),
            Self::Rtmp(_) | Self::Http(..) => Vec::new(),
        }
    }

    /// That of an RTSP origin.
    pub(super) fn rtsp(&mut self) -> Option<&mut RtspOrigin> {
        match self {
            Self::Rtsp(origin) => Some(origin),
            Self::Rtmp(_) | Self::Http(..) => None,
        }
    }

    /// As [`RtspOrigin::counts`].
    pub(super) fn rtp_counts(&self) -> (SourceCounts, u64) {
        match self {
            Self::Rtsp(origin) => origin.counts(),
            Self::Rtmp(_) | Self::Http(..) => Default::default(),
        }
    }

    pub(super) fn handle_eof(&mut self, now: Instant) {
        if let Self::Http(session, _) = self {
            // The fault is the loss itself.
            let _ = session.handle_eof(now);
        }
    }

    pub(super) fn poll(&mut self) -> Option<Wanted> {
        match self {
            Self::Rtmp(session) => Some(match session.poll_output()? {
                Output::Send(bytes) => Wanted::Send(bytes),
                Output::Event(event) => rtmp_wants(event),
            }),
            Self::Http(session, tags) => {
                if let Some(part) = tags.poll_part() {
                    return Some(Wanted::Media(part));
                }
                Some(match session.poll_output()? {
                    Output::Send(bytes) => Wanted::Send(bytes),
                    Output::Event(event) => http_wants(event, tags),
                })
            }
            Self::Rtsp(origin) => origin.poll(),
        }
    }
}

fn rtmp_wants(event: RtmpEvent) -> Wanted {
    match event {
        RtmpEvent::Progress(stage) => match stage {
            ClientStage::Handshaking => Wanted::Stage(Stage::Handshaking, "RTMP handshake"),
            ClientStage::Connecting => Wanted::Stage(Stage::Handshaking, "answer to connect"),
            ClientStage::CreatingStream => {
                Wanted::Stage(Stage::Handshaking, "answer to createStream")
            }
            ClientStage::AwaitingPlay => Wanted::Stage(Stage::Handshaking, "answer to play"),
            ClientStage::AwaitingMedia => Wanted::Stage(Stage::AwaitingMedia, "media"),
        },
        RtmpEvent::Media(part) => Wanted::Media(part),
        RtmpEvent::Refused { code, description } => {
            let text = format!("the origin refused: {code} {description}");
            Wanted::Fail(Fault::new(class_of_code(&code), text))
        }
        RtmpEvent::Ended => {
            Wanted::Fail(Fault::new(ErrorClass::Lost, "the origin ended the stream"))
        }
    }
}

fn http_wants(event: HttpEvent, tags: &mut TagReader) -> Wanted {
    match event {
        HttpEvent::Redirect(url) => Wanted::Redirect(url),
        HttpEvent::Status { code, reason } => {
            let text = format!("the origin answered {code} {reason}");
            Wanted::Fail(Fault::new(class_of_status(code), text))
        }
        HttpEvent::BodyBegins { .. } => Wanted::Stage(Stage::AwaitingMedia, "media"),
        HttpEvent::Body(bytes) => match tags.handle_input(bytes) {
            Ok(()) => Wanted::Stage(Stage::AwaitingMedia, "media"),
            Err(error) => Wanted::Fail(protocol_fault(error)),
        },
        HttpEvent::BodyEnds => {
            Wanted::Fail(Fault::new(ErrorClass::Lost, "end of file: the origin ended the stream"))
        }
    }
}

/// What a status of RTMP means that is none of success.
pub(super) fn class_of_code(code: &str) -> ErrorClass {
    if code.ends_with("NotFound") {
        ErrorClass::NotFound
    } else if code.ends_with(".Failed") || code.ends_with(".AppShutdown") {
        ErrorClass::Unavailable
    } else {
        ErrorClass::Rejected
    }
}

/// What a status of HTTP or RTSP means that is none of success (RFC 9110, 15; RFC 2326, 7.1.1).
pub(super) fn class_of_status(status: u16) -> ErrorClass {
    match status {
        404 | 410 => ErrorClass::NotFound,
        408 | 429 | 453 | 500 | 502..=504 => ErrorClass::Unavailable,
        _ => ErrorClass::Rejected,
    }
}

pub(super) fn protocol_fault(error: impl std::fmt::Display) -> Fault {
    Fault::new(ErrorClass::Protocol, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_an_origin_can_not_now_is_no_refusal() {
        use ErrorClass::{NotFound, Rejected, Unavailable};
        for (status, class) in [
            (400, Rejected),
            (401, Rejected),
            (403, Rejected),
            (404, NotFound),
            (410, NotFound),
            (429, Unavailable),
            (453, Unavailable),
            (500, Unavailable),
            (501, Rejected),
            (502, Unavailable),
            (503, Unavailable),
            (504, Unavailable),
            (505, Rejected),
        ] {
            assert_eq!(class_of_status(status), class, "{status}");
        }
        for (code, class) in [
            ("NetStream.Play.StreamNotFound", NotFound),
            ("NetStream.Play.FileNotFound", NotFound),
            ("NetStream.Play.Failed", Unavailable),
            ("NetStream.Publish.Failed", Unavailable),
            ("NetConnection.Connect.AppShutdown", Unavailable),
            ("NetStream.Play.BadAuth", Rejected),
            ("NetStream.Publish.BadName", Rejected),
            ("NetConnection.Connect.Rejected", Rejected),
        ] {
            assert_eq!(class_of_code(code), class, "{code}");
        }
    }
}
