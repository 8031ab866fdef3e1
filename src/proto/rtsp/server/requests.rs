//! What the server session makes of requests (RFC 2326, 10).

use super::{Asked, Phase, ServerError, ServerEvent, ServerSession, TrackSetup};
use crate::limits::{RTSP_AUTH_ATTEMPTS_MAX, RTSP_TRACKS_MAX};
use crate::proto::Output;
use crate::proto::http::Headers;
use crate::proto::rtp::format::TrackKind;
use crate::proto::rtsp::auth::{Target, Verdict};
use crate::proto::rtsp::message::{Method, Request, Response};
use crate::proto::rtsp::sdp::{MediaDescription, SessionDescription, control_url};
use crate::proto::rtsp::stream_url::{StreamRequest, split_track};
use crate::proto::rtsp::transport::{Channels, Delivery, LowerTransport, Mode, Ports, Transport};

impl ServerSession {
    pub(super) fn on_request(&mut self, request: Request) -> Result<(), ServerError> {
        self.cseq = cseq(&request.headers);
        // What a server can do is no secret (RFC 2326, 10.1), and clients ask before they log in.
        if request.method == Method::Options {
            self.send_options();
            return Ok(());
        }
        if !self.is_authorized(&request)? {
            return Ok(());
        }
        if let Some(feature) = request.headers.find("require").filter(|value| !value.is_empty()) {
            let mut response = self.response(551);
            response.headers.push("Unsupported", feature);
            self.send(&response);
            return Ok(());
        }
        if self.is_of_another_session(&request) {
            self.reply(454);
            return Ok(());
        }
        match request.method {
            Method::Describe => self.on_describe(&request),
            Method::Announce => self.on_announce(&request),
            Method::Setup => self.on_setup(&request),
            Method::Play => self.on_play(),
            Method::Record => self.on_record(),
            Method::Pause => self.on_pause(),
            // Clients ask for nothing, to keep the session alive.
            Method::GetParameter => self.reply(200),
            Method::SetParameter if request.body.is_empty() => self.reply(200),
            Method::SetParameter => self.reply(451),
            Method::Teardown => self.on_teardown(),
            Method::Options | Method::Redirect | Method::Unknown => self.reply(501),
        }
        Ok(())
    }

    fn send_options(&mut self) {
        let mut response = self.response(200);
        response.headers.push("Public", PUBLIC);
        self.send(&response);
    }

    /// Once for a connection: clients leave credentials out of later requests.
    fn is_authorized(&mut self, request: &Request) -> Result<bool, ServerError> {
        let Some(auth) = self.auth.as_ref().filter(|_| !self.authorized) else { return Ok(true) };
        let target = Target { method: request.method.as_str(), uri: &request.uri };
        match auth.verify(request.headers.find("authorization"), target) {
            Verdict::Allowed => {
                self.authorized = true;
                return Ok(true);
            }
            Verdict::Missing => {}
            Verdict::Denied => self.auth_attempts += 1,
        }
        if self.auth_attempts > RTSP_AUTH_ATTEMPTS_MAX {
            return Err(ServerError::TooManyAttempts);
        }
        let challenges = auth.challenges();
        let mut response = self.response(401);
        for challenge in &challenges {
            response.headers.push("WWW-Authenticate", challenge);
        }
        self.send(&response);
        Ok(false)
    }

    /// A client that leaves the session out means that of its connection.
    fn is_of_another_session(&self, request: &Request) -> bool {
        let named = request.headers.find("session").unwrap_or_default();
        let named = named.split(';').next().unwrap_or_default().trim();
        let is_about_session = !matches!(request.method, Method::Describe | Method::Announce);
        let is_first_setup = request.method == Method::Setup && self.setups.is_empty();
        is_about_session && !is_first_setup && !named.is_empty() && named != self.session_id
    }

    fn on_describe(&mut self, request: &Request) {
        match self.phase {
            Phase::Init => {}
            // Asked again, in the middle of it.
            Phase::Ready(Mode::Play) | Phase::Playing | Phase::Paused
                if !self.setups.is_empty() && self.is_same_stream(&request.uri) =>
            {
                return self.send_description();
            }
            Phase::Ready(Mode::Play) if self.setups.is_empty() => self.reset(),
            _ => return self.reply(455),
        }
        let Some(stream) = StreamRequest::parse(&request.uri) else { return self.reply(404) };
        self.asked = Some(Asked::Describe { url: stream.url.clone() });
        self.outputs.push_back(Output::Event(ServerEvent::Describe(stream)));
    }

    fn on_announce(&mut self, request: &Request) {
        if self.phase != Phase::Init {
            return self.reply(455);
        }
        let content_type = request.headers.find("content-type").unwrap_or("application/sdp");
        if !content_type.to_ascii_lowercase().starts_with("application/sdp") {
            return self.reply(415);
        }
        let Some(stream) = StreamRequest::parse(&request.uri) else { return self.reply(404) };
        let description = SessionDescription::parse(&request.body).ok();
        let Some(description) = description.filter(is_served) else {
            self.outputs.push_back(Output::Event(ServerEvent::BadDescription));
            return self.reply(400);
        };
        let (url, media) = (stream.url.clone(), description.media.clone());
        self.asked = Some(Asked::Announce { url, media });
        let event = ServerEvent::Announce { request: stream, description };
        self.outputs.push_back(Output::Event(event));
    }

    pub(super) fn on_setup(&mut self, request: &Request) {
        let mode = match self.phase {
            Phase::Init => return self.ask_before_setup(request),
            Phase::Ready(mode) => mode,
            _ => return self.reply(455),
        };
        let track = match self.track_of(&request.uri, mode) {
            Ok(track) => track,
            Err(status) => return self.reply(status),
        };
        let value = request.headers.find("transport").unwrap_or_default();
        let mut choices = Transport::parse_list(value).into_iter();
        let choice = choices.find_map(|transport| self.choose(&transport, track, mode));
        match choice {
            None => self.reply(461),
            Some(Choice::Tcp(channels)) => {
                let delivery = Delivery::Interleaved(channels);
                let setup = TrackSetup { track, delivery, url: request.uri.clone() };
                self.finish_setup(setup);
            }
            Some(Choice::Udp(client_port)) => {
                self.asked = Some(Asked::SetupUdp { track, url: request.uri.clone(), client_port });
                let event = ServerEvent::SetupUdp { track, mode, client_port };
                self.outputs.push_back(Output::Event(event));
            }
        }
    }

    fn ask_before_setup(&mut self, request: &Request) {
        let Some(stream) = StreamRequest::parse(&request.uri) else { return self.reply(404) };
        // Nobody could set up what it has not announced.
        let transports = Transport::parse_list(request.headers.find("transport").unwrap_or(""));
        if transports.iter().any(|transport| transport.mode == Some(Mode::Record)) {
            return self.reply(455);
        }
        let (request, url) = (Box::new(request.clone()), stream.url.clone());
        self.asked = Some(Asked::DescribeForSetup { request, url });
        self.outputs.push_back(Output::Event(ServerEvent::Describe(stream)));
    }

    /// The track that an address names, or the status that says why none.
    fn track_of(&self, uri: &str, mode: Mode) -> Result<usize, u16> {
        if !self.is_same_stream(uri) {
            return Err(404);
        }
        let track = match mode {
            Mode::Play => split_track(uri).1,
            // The publisher's own description says how its tracks are called.
            Mode::Record => {
                let find = |is_it: &dyn Fn(&str) -> bool| {
                    self.media.iter().position(|media| media.control.as_deref().is_some_and(is_it))
                };
                let ends = |uri: &str, control: &str| {
                    uri.strip_suffix(control).is_some_and(|base| base.ends_with('/'))
                };
                let path = uri.split('?').next().unwrap_or_default();
                find(&|control| control_url(&self.url, Some(control)) == uri || ends(uri, control))
                    // GStreamer puts it before the query.
                    .or_else(|| find(&|control| ends(path, control)))
            }
        };
        match track {
            Some(track) if track < self.media.len() => Ok(track),
            Some(_) => Err(404),
            // The one there is; of several it would be all.
            None if self.media.len() == 1 => Ok(0),
            None if mode == Mode::Record && uri.trim_end_matches('/') != self.url => Err(404),
            None => Err(459),
        }
    }

    /// Whether an address is that of the stream under way or of something in it. Only the path counts:
    /// clients change the host where a server is behind another, and drop queries.
    fn is_same_stream(&self, uri: &str) -> bool {
        let path = |uri: &str| {
            StreamRequest::parse(uri).map(|request| format!("{}/{}/", request.app, request.stream))
        };
        let (Some(own), Some(other)) = (path(&self.url), path(uri)) else { return false };
        other.starts_with(&own)
    }

    /// What we would use of an alternative; `None` where it is not allowed, makes no sense, or is
    /// not that of the other tracks.
    fn choose(&self, transport: &Transport, track: usize, mode: Mode) -> Option<Choice> {
        let is_usual = |setup: &TrackSetup| match setup.delivery {
            Delivery::Interleaved(_) => transport.lower == LowerTransport::Tcp,
            Delivery::Udp { .. } => transport.lower == LowerTransport::Udp,
        };
        let is_allowed = self.config.transports.contains(&transport.lower)
            && !transport.multicast
            && self.setups.iter().all(is_usual);
        if !is_allowed {
            return None;
        }
        if transport.lower == LowerTransport::Udp {
            let port = transport.client_port.filter(|port| port.rtp != 0 && port.rtcp != 0);
            return port.map(Choice::Udp);
        }
        let rtp = u8::try_from(2 * track).ok()?;
        let ours = Channels { rtp, rtcp: rtp.checked_add(1)? };
        let asked = transport.interleaved.filter(|_| mode == Mode::Record).unwrap_or(ours);
        let is_taken = |channel: u8| {
            self.setups.iter().filter(|setup| setup.track != track).any(|setup| {
                matches!(setup.delivery, Delivery::Interleaved(other)
                    if other.rtp == channel || other.rtcp == channel)
            })
        };
        let is_free = !is_taken(asked.rtp) && !is_taken(asked.rtcp) && asked.rtp != asked.rtcp;
        is_free.then_some(Choice::Tcp(asked))
    }

    fn on_play(&mut self) {
        match self.phase {
            Phase::Ready(Mode::Play) | Phase::Paused if !self.setups.is_empty() => {
                self.asked = Some(Asked::Play);
                let event = ServerEvent::Play(self.setups.clone());
                self.outputs.push_back(Output::Event(event));
            }
            // Some keep the session alive like this.
            Phase::Playing => self.reply(200),
            _ => self.reply(455),
        }
    }

    fn on_record(&mut self) {
        match self.phase {
            Phase::Ready(Mode::Record) if !self.setups.is_empty() => {
                self.asked = Some(Asked::Record);
                let event = ServerEvent::Record(self.setups.clone());
                self.outputs.push_back(Output::Event(event));
            }
            Phase::Recording => self.reply(200),
            _ => self.reply(455),
        }
    }

    fn on_pause(&mut self) {
        match self.phase {
            Phase::Playing | Phase::Paused if !self.config.pause_allowed => {
                let mut response = self.response(405);
                response.headers.push("Allow", PUBLIC_WITHOUT_PAUSE);
                self.send(&response);
            }
            Phase::Playing => {
                self.phase = Phase::Paused;
                self.outputs.push_back(Output::Event(ServerEvent::Pause));
                self.reply(200);
            }
            // A publisher sends nothing meanwhile. GStreamer's rtspclientsink pauses at its end.
            Phase::Paused | Phase::Recording => self.reply(200),
            _ => self.reply(455),
        }
    }

    /// Of one track or of all: what is left of a stream is no use to anybody.
    fn on_teardown(&mut self) {
        let response: Response = self.response(200);
        if self.phase != Phase::Init {
            // Clients close right after it: the event goes before what can't be sent then.
            self.outputs.push_back(Output::Event(ServerEvent::Teardown));
        }
        self.reset();
        self.send(&response);
    }

    fn reset(&mut self) {
        self.phase = Phase::Init;
        self.setups.clear();
        self.media.clear();
        self.url.clear();
    }
}

/// Whether a stream can be made of what is announced. A payload type that is assigned by the description
/// needs its encoding and clock rate there (RFC 3551, 6): without, no player could take the track.
fn is_served(description: &SessionDescription) -> bool {
    let is_named = |media: &MediaDescription| {
        let format = &media.format;
        let is_assigned_here = format.kind != TrackKind::Other && format.payload_type >= 96;
        !is_assigned_here || !format.encoding.is_empty()
    };
    description.media.len() <= RTSP_TRACKS_MAX && description.media.iter().all(is_named)
}

/// What an answer repeats of a request's number; one that is too long for one is left out.
pub(super) fn cseq(headers: &Headers) -> Option<String> {
    headers.find("cseq").filter(|cseq| cseq.len() <= CSEQ_LEN_MAX).map(str::to_owned)
}

/// The transport of a track.
#[derive(Debug)]
enum Choice {
    Tcp(Channels),
    Udp(Ports),
}

const PUBLIC: &str = "OPTIONS, DESCRIBE, ANNOUNCE, SETUP, PLAY, PAUSE, RECORD, TEARDOWN, \
                      GET_PARAMETER, SET_PARAMETER";
const PUBLIC_WITHOUT_PAUSE: &str = "OPTIONS, DESCRIBE, ANNOUNCE, SETUP, PLAY, RECORD, TEARDOWN, \
                                    GET_PARAMETER, SET_PARAMETER";

/// A number with some blanks.
const CSEQ_LEN_MAX: usize = 32;
