//! The sessions with the destinations of pushes, of each protocol, as pushes drive them.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::origin::{NO_TIMEOUT, class_of_code, class_of_status, protocol_fault};
use crate::limits::CHUNK_SIZE_OUT;
use crate::media::state::{ErrorClass, Fault};
use crate::media::url::Login;
use crate::media::{AttemptId, Form, SourceUrl};
use crate::proto::Output;
use crate::proto::rtmp::{
    PublisherConfig as RtmpConfig, PublisherEvent as RtmpEvent, PublisherSession as RtmpSession,
    PublisherStage as RtmpStage,
};
use crate::proto::rtsp::{
    Channels, Credentials, Delivery, LowerTransport, Ports, PublisherConfig as RtspConfig,
    PublisherEvent as RtspEvent, PublisherSession as RtspSession, PublisherStage as RtspStage,
    SessionDescription,
};
use crate::shard::Stage;
use crate::stream::Packaging;

/// The session with the destination of a push.
pub(super) struct Destination {
    pub(super) attempt: AttemptId,
    url: Arc<SourceUrl>,
    rtp_transport: LowerTransport,
    publishing: Publishing,
}

enum Publishing {
    Rtmp(Box<RtmpSession>),
    /// An announcement says what the stream has, so the push must be a player of it first. `true`
    /// when it has asked to be one.
    RtspToCome(bool),
    Rtsp(Box<RtspSession>),
}

/// What a destination's session wants done.
pub(super) enum Wanted {
    Send(Bytes),
    Stage(Stage, &'static str),
    /// Become a player of the stream.
    Join,
    /// Over RTSP: begin to play, the destination is ready.
    Begin,
    /// Open ports for a track.
    OpenUdp {
        track: usize,
    },
    /// They are for these ports of the destination.
    ConnectUdp {
        track: usize,
        server_port: Ports,
    },
    Fail(Fault),
}

impl Destination {
    pub(super) fn new(
        now: Instant,
        attempt: AttemptId,
        url: Arc<SourceUrl>,
        rtp_transport: LowerTransport,
    ) -> Self {
        let publishing = match url.form() {
            Form::Rtp => Publishing::RtspToCome(false),
            Form::Flv => {
                let (app, stream) = url.rtmp_names();
                let tc_url = format!("rtmp://{}/{app}", url.authority());
                let config = RtmpConfig {
                    // That of the packaging, which all players share.
                    chunk_size: CHUNK_SIZE_OUT as u32,
                    handshake_timeout: NO_TIMEOUT,
                    command_timeout: NO_TIMEOUT,
                    ..RtmpConfig::new(app, stream, tc_url)
                };
                Publishing::Rtmp(Box::new(RtmpSession::new(now, fastrand::u64(..), config)))
            }
        };
        Self { attempt, url, rtp_transport, publishing }
    }

    /// As which the push plays its stream.
    pub(super) fn packaging(&self) -> Packaging {
        match &self.publishing {
            Publishing::Rtmp(session) => Packaging::RtmpPush { stream_id: session.stream_id() },
            Publishing::Rtsp(_) | Publishing::RtspToCome(_) => Packaging::Rtsp,
        }
    }

    pub(super) fn is_over_udp(&self) -> bool {
        self.packaging() == Packaging::Rtsp && self.rtp_transport == LowerTransport::Udp
    }

    /// Begins to publish what the stream has, over RTSP.
    pub(super) fn announce(&mut self, now: Instant, mut description: SessionDescription) -> bool {
        description.control = None;
        for (index, media) in description.media.iter_mut().enumerate() {
            media.control = Some(format!("streamid={index}"));
        }
        let Some(config) = RtspConfig::new(self.url.as_str(), description) else { return false };
        if config.description.media.is_empty() {
            return false;
        }
        let login = self.url.login.clone();
        let login = login.map(|Login { user, password }| Credentials { user, password });
        let config = RtspConfig {
            credentials: login.or_else(|| config.credentials.clone()),
            user_agent: concat!("rillcast/", env!("CARGO_PKG_VERSION")).to_owned(),
            transport: self.rtp_transport,
            command_timeout: NO_TIMEOUT,
            ..config
        };
        let session = RtspSession::new(now, fastrand::u64(..), config);
        self.publishing = Publishing::Rtsp(Box::new(session));
        true
    }

    /// Tracks of what was announced.
    pub(super) fn udp_opened(&mut self, now: Instant, ports: Ports) {
        if let Publishing::Rtsp(session) = &mut self.publishing {
            session.open_udp(now, ports);
        }
    }

    pub(super) fn handle_input(&mut self, now: Instant, bytes: Bytes) -> Option<Fault> {
        match &mut self.publishing {
            Publishing::Rtmp(session) => session.handle_input(now, bytes).err().map(protocol_fault),
            Publishing::Rtsp(session) => session.handle_input(now, bytes).err().map(protocol_fault),
            Publishing::RtspToCome(_) => Some(protocol_fault("the destination speaks unasked")),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Fault> {
        let silent =
            |error: &dyn std::fmt::Display| Fault::new(ErrorClass::Silent, error.to_string());
        match &mut self.publishing {
            Publishing::Rtmp(session) => {
                session.handle_timeout(now).err().map(|error| silent(&error))
            }
            Publishing::Rtsp(session) => {
                session.handle_timeout(now).err().map(|error| silent(&error))
            }
            Publishing::RtspToCome(_) => None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.publishing {
            Publishing::Rtmp(session) => session.poll_timeout(),
            Publishing::Rtsp(session) => session.poll_timeout(),
            Publishing::RtspToCome(_) => None,
        }
    }

    /// Our last words.
    pub(super) fn goodbye(&mut self) -> Vec<Bytes> {
        match &mut self.publishing {
            Publishing::Rtmp(session) => session.unpublish(),
            Publishing::Rtsp(session) => session.teardown(),
            Publishing::RtspToCome(_) => {}
        }
        let said = std::iter::from_fn(|| self.poll_output()).filter_map(|output| match output {
            Output::Send(bytes) => Some(bytes),
            Output::Event(()) => None,
        });
        said.collect()
    }

    fn poll_output(&mut self) -> Option<Output<()>> {
        let without_event = |bytes: Option<Bytes>| bytes.map_or(Output::Event(()), Output::Send);
        Some(match &mut self.publishing {
            Publishing::Rtmp(session) => without_event(sent(session.poll_output()?)),
            Publishing::Rtsp(session) => without_event(sent(session.poll_output()?)),
            Publishing::RtspToCome(_) => return None,
        })
    }

    pub(super) fn poll(&mut self) -> Option<Wanted> {
        loop {
            let wanted = match &mut self.publishing {
                Publishing::RtspToCome(asked) => {
                    return (!std::mem::replace(asked, true)).then_some(Wanted::Join);
                }
                Publishing::Rtmp(session) => match session.poll_output()? {
                    Output::Send(bytes) => Some(Wanted::Send(bytes)),
                    Output::Event(event) => Some(rtmp_wants(event)),
                },
                Publishing::Rtsp(session) => match session.poll_output()? {
                    Output::Send(bytes) => Some(Wanted::Send(bytes)),
                    Output::Event(event) => rtsp_wants(event),
                },
            };
            if wanted.is_some() {
                return wanted;
            }
        }
    }
}

fn sent<E>(output: Output<E>) -> Option<Bytes> {
    match output {
        Output::Send(bytes) => Some(bytes),
        Output::Event(_) => None,
    }
}

fn rtmp_wants(event: RtmpEvent) -> Wanted {
    match event {
        RtmpEvent::Progress(stage) => {
            let awaiting = match stage {
                RtmpStage::Handshaking => "RTMP handshake",
                RtmpStage::Connecting => "answer to connect",
                RtmpStage::CreatingStream => "answer to createStream",
                RtmpStage::AwaitingPublish => "answer to publish",
            };
            Wanted::Stage(Stage::Handshaking, awaiting)
        }
        RtmpEvent::Started => Wanted::Join,
        RtmpEvent::Refused { code, description } => {
            let text = format!("the destination refused: {code} {description}");
            Wanted::Fail(Fault::new(class_of_code(&code), text))
        }
        RtmpEvent::Ended => {
            Wanted::Fail(Fault::new(ErrorClass::Lost, "the destination ended the stream"))
        }
    }
}

fn rtsp_wants(event: RtspEvent) -> Option<Wanted> {
    Some(match event {
        RtspEvent::Progress(stage) => {
            let awaiting = match stage {
                RtspStage::AskingOptions => "answer to OPTIONS",
                RtspStage::Announcing => "answer to ANNOUNCE",
                RtspStage::SettingUp => "answer to SETUP",
                RtspStage::AwaitingRecord => "answer to RECORD",
            };
            Wanted::Stage(Stage::Handshaking, awaiting)
        }
        RtspEvent::UdpWanted { track } => Wanted::OpenUdp { track },
        RtspEvent::Setup(track) => match track.delivery {
            Delivery::Udp { server_port, .. } => {
                Wanted::ConnectUdp { track: track.track, server_port }
            }
            Delivery::Interleaved(channels) if channels == channels_of(track.track) => return None,
            Delivery::Interleaved(_) => {
                // Those are the ones that the packets in the log are marked with.
                let text = "the destination wants other channels than it was offered";
                Wanted::Fail(Fault::new(ErrorClass::Protocol, text))
            }
        },
        RtspEvent::Started => Wanted::Begin,
        RtspEvent::Refused { status, reason } => {
            let text = format!("the destination answered {status} {reason}");
            Wanted::Fail(Fault::new(class_of_status(status), text))
        }
        RtspEvent::Ended => {
            Wanted::Fail(Fault::new(ErrorClass::Lost, "the destination ended the stream"))
        }
    })
}

fn channels_of(track: usize) -> Channels {
    let rtp = 2 * track as u8;
    Channels { rtp, rtcp: rtp + 1 }
}
