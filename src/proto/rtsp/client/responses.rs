//! What the client session makes of responses, and what it asks for next.

use std::time::Instant;

use url::Url;

use super::{
    Asked, ClientError, ClientEvent, ClientSession, ClientStage, ClientStart, ClientTrack, Purpose,
    REASON_LEN_MAX,
};
use crate::limits::RTSP_TRACKS_MAX;
use crate::proto::Output;
use crate::proto::rtp::format::TrackKind;
use crate::proto::rtsp::message::{Method, Response};
use crate::proto::rtsp::rtp_info::TrackStart;
use crate::proto::rtsp::sdp::{MediaDescription, SessionDescription, control_url, is_absolute};
use crate::proto::rtsp::transport::{Channels, Delivery, LowerTransport, Ports, Transport};

impl ClientSession {
    pub(super) fn on_response(
        &mut self,
        now: Instant,
        response: &Response,
    ) -> Result<(), ClientError> {
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
        let location = response.headers.find("location");
        if let (300..400, Some(location)) = (response.status, location)
            && pending.purpose != Purpose::KeepAlive
        {
            self.redirect(location);
            return Ok(());
        }
        match pending.purpose {
            Purpose::Options => self.on_options(now, response),
            Purpose::Describe => return self.on_described(now, response),
            Purpose::Setup { track, asked } => {
                return self.on_setup(now, response, track, asked, pending.request.uri);
            }
            Purpose::Play { has_range } => self.on_play(now, response, has_range),
            Purpose::PlayTrack => self.on_play_track(now, response),
            Purpose::KeepAlive => self.on_kept_alive(response),
            Purpose::Teardown => {}
        }
        Ok(())
    }

    fn on_options(&mut self, now: Instant, response: &Response) {
        if response.status == 401 && self.dialog.is_denied() {
            return self.refuse(response.status, &response.reason);
        }
        // Servers that do not know it, or want credentials for it, may well describe.
        self.offers_get_parameter = response.headers.has_token("public", "GET_PARAMETER");
        self.enter(ClientStage::Describing, now);
        let url = self.config.url.clone();
        let accept = [("Accept", "application/sdp")];
        self.request(Purpose::Describe, Method::Describe, url, &accept);
    }

    fn on_described(&mut self, now: Instant, response: &Response) -> Result<(), ClientError> {
        if !response.is_success() {
            self.refuse(response.status, &response.reason);
            return Ok(());
        }
        self.description = SessionDescription::parse(&response.body)?;
        // Before the answer's own base, as ffmpeg and GStreamer have it.
        let told = self.description.control.as_deref().filter(|control| is_absolute(control));
        let bases = ["content-base", "content-location"];
        let bases = bases.iter().filter_map(|name| response.headers.find(name));
        let bases = bases.filter(|base| base.contains("://"));
        if let Some(base) = told.into_iter().chain(bases).next() {
            self.base = base.to_owned();
        }
        self.planned = wanted_tracks(&self.description);
        if !self.planned.iter().any(|track| self.is_audio_or_video(*track)) {
            return Err(ClientError::NoTrack);
        }
        self.event(ClientEvent::Described(self.description.clone()));
        self.set_up_next(now);
        Ok(())
    }

    /// Sets up the next track, or plays when all are.
    fn set_up_next(&mut self, now: Instant) {
        let Some(&track) = self.planned.last() else { return self.play(now) };
        self.enter(ClientStage::SettingUp, now);
        match self.config.transports.get(self.transport) {
            Some(LowerTransport::Udp) => self.event(ClientEvent::UdpWanted { track }),
            _ => {
                let rtp = 2 * self.tracks.len() as u8;
                self.send_setup(now, Asked::Tcp(Channels { rtp, rtcp: rtp + 1 }));
            }
        }
    }

    pub(super) fn send_setup(&mut self, now: Instant, asked: Asked) {
        let Some(&track) = self.planned.last() else { return };
        self.enter(ClientStage::SettingUp, now);
        let url = control_url(&self.base, self.description.media[track].control.as_deref());
        let transport = match asked {
            Asked::Tcp(channels) => Transport::interleaved(channels),
            Asked::Udp(client_port) => Transport::udp(client_port),
        };
        let fields = [("Transport", transport.to_string())];
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        self.request(Purpose::Setup { track, asked }, Method::Setup, url, &fields);
    }

    fn on_setup(
        &mut self,
        now: Instant,
        response: &Response,
        track: usize,
        asked: Asked,
        url: String,
    ) -> Result<(), ClientError> {
        if !response.is_success() {
            let refusal = (response.status, response.reason.clone());
            if matches!(asked, Asked::Udp(_)) {
                self.event(ClientEvent::UdpRefused { track });
            }
            if response.status == 461 {
                self.on_transport_refused(now, refusal);
            } else {
                self.leave_out(now, refusal);
            }
            return Ok(());
        }
        self.dialog.note_session(response);
        let transport = response.headers.find("transport").unwrap_or_default();
        let transport = Transport::parse_list(transport).into_iter().next();
        let delivery = delivery(asked, transport.as_ref()).ok_or(ClientError::Transport)?;
        let is_udp = matches!(delivery, Delivery::Udp { .. });
        if is_udp && transport.as_ref().is_some_and(|transport| transport.multicast) {
            return Err(ClientError::Multicast);
        }
        let (ssrc, source) =
            transport.map_or((None, None), |transport| (transport.ssrc, transport.source));
        let setup = ClientTrack { track, delivery, ssrc, source, url };
        self.tracks.push(setup.clone());
        self.planned.pop();
        self.event(ClientEvent::Setup(setup));
        self.set_up_next(now);
        Ok(())
    }

    /// The first track tells what the server can; tracks are not carried in different ways.
    pub(super) fn on_transport_refused(&mut self, now: Instant, refusal: (u16, String)) {
        if self.tracks.is_empty() && self.transport + 1 < self.config.transports.len() {
            self.transport += 1;
            self.set_up_next(now);
        } else {
            self.leave_out(now, refusal);
        }
    }

    /// Goes on without a track; without audio and video there is nothing to pull.
    fn leave_out(&mut self, now: Instant, refusal: (u16, String)) {
        self.planned.pop();
        self.refusal = Some(refusal);
        let set_up = self.tracks.iter().map(|setup| setup.track);
        if !set_up.chain(self.planned.iter().copied()).any(|track| self.is_audio_or_video(track)) {
            let (status, reason) = self.refusal.take().expect("it was just set");
            return self.refuse(status, &reason);
        }
        self.set_up_next(now);
    }

    fn play(&mut self, now: Instant) {
        self.enter(ClientStage::AwaitingPlay, now);
        let url = self.aggregate_url();
        let range = [("Range", "npt=0.000-")];
        self.request(Purpose::Play { has_range: true }, Method::Play, url, &range);
    }

    fn on_play(&mut self, now: Instant, response: &Response, has_range: bool) {
        match response.status {
            200..300 => {
                self.dialog.note_session(response);
                self.note_starts(response);
                self.begin_playing(now);
            }
            457 if has_range => {
                let url = self.aggregate_url();
                self.request(Purpose::Play { has_range: false }, Method::Play, url, &[]);
            }
            // Aggregate operations are not allowed.
            459 => {
                self.unplayed = (0..self.tracks.len()).rev().collect();
                self.play_next_track(now);
            }
            status => self.refuse(status, &response.reason),
        }
    }

    fn play_next_track(&mut self, now: Instant) {
        let Some(index) = self.unplayed.pop() else { return self.begin_playing(now) };
        let url = self.tracks[index].url.clone();
        self.enter(ClientStage::AwaitingPlay, now);
        self.request(Purpose::PlayTrack, Method::Play, url, &[("Range", "npt=0.000-")]);
    }

    fn on_play_track(&mut self, now: Instant, response: &Response) {
        if response.is_success() {
            self.note_starts(response);
            self.play_next_track(now);
        } else {
            self.refuse(response.status, &response.reason);
        }
    }

    /// Finds the tracks that `RTP-Info` tells of: by their address, by its end, by their number.
    fn note_starts(&mut self, response: &Response) {
        let value = response.headers.find("rtp-info").unwrap_or_default();
        let starts = TrackStart::parse_list(value);
        let by_number = starts.len() == self.tracks.len();
        for (index, start) in starts.iter().enumerate() {
            let control = |track: &ClientTrack| {
                self.description.media[track.track].control.as_deref().unwrap_or_default()
            };
            let addressed = self.tracks.iter().find(|track| track.url == start.url);
            let is_end = |end: &str| !end.is_empty() && start.url.ends_with(end);
            let ended = self.tracks.iter().filter(|track| is_end(control(track)));
            let named = || ended.max_by_key(|track| control(track).len());
            let numbered = || self.tracks.get(index).filter(|_| by_number);
            let Some(setup) = addressed.or_else(named).or_else(numbered) else { continue };
            let TrackStart { sequence, timestamp, .. } = *start;
            self.starts.push(ClientStart { track: setup.track, sequence, timestamp });
        }
        self.starts.truncate(RTSP_TRACKS_MAX);
    }

    /// The answer to PLAY is there, or media in its place.
    pub(super) fn begin_playing(&mut self, now: Instant) {
        let starts = std::mem::take(&mut self.starts);
        self.event(ClientEvent::Playing(starts));
        self.enter(ClientStage::AwaitingMedia, now);
        self.keep_alive_at = Some(now + self.dialog.keep_alive_interval());
        if self.has_media {
            self.note_media(now);
        }
    }

    fn on_kept_alive(&mut self, response: &Response) {
        // Some offer GET_PARAMETER and refuse it.
        if !response.is_success() && response.status != 401 {
            self.offers_get_parameter = false;
        }
    }

    pub(super) fn redirect(&mut self, location: &str) {
        let base = Url::parse(&self.config.url).ok();
        match base.and_then(|base| base.join(location).ok()) {
            Some(target) => self.event(ClientEvent::Redirect(target.into())),
            None => self.refuse(302, "Location is no address"),
        }
        self.over();
    }

    fn refuse(&mut self, status: u16, reason: &str) {
        let reason = bounded_reason(reason);
        self.event(ClientEvent::Refused { status, reason });
        self.over();
    }

    fn is_audio_or_video(&self, track: usize) -> bool {
        self.description.media[track].format.kind != TrackKind::Other
    }

    /// The address of all tracks together.
    pub(super) fn aggregate_url(&self) -> String {
        control_url(&self.base, self.description.control.as_deref())
    }
}

/// The tracks to set up, the first one last: audio and video, and then what goes beside them, such as
/// ONVIF's metadata. Of that a track without an encoding is left out: no player could take it.
fn wanted_tracks(description: &SessionDescription) -> Vec<usize> {
    let is_known = |media: &MediaDescription| {
        let MediaDescription { format, is_rtp, .. } = media;
        *is_rtp && (format.kind != TrackKind::Other || !format.encoding.is_empty())
    };
    let known = description.media.iter().enumerate().filter(|(_, media)| is_known(media));
    let (media, beside): (Vec<_>, Vec<_>) =
        known.partition(|(_, media)| media.format.kind != TrackKind::Other);
    // Nothing comes of back channels, unless the server calls all that it sends so.
    let all_alike = media.iter().all(|(_, media)| media.is_send_only);
    let wanted = media.iter().chain(&beside).filter(|(_, of)| all_alike || !of.is_send_only);
    let mut tracks: Vec<usize> = wanted.map(|(track, _)| *track).take(RTSP_TRACKS_MAX).collect();
    tracks.reverse();
    tracks
}

/// At most [`REASON_LEN_MAX`] bytes of a status's reason.
pub(in crate::proto::rtsp) fn bounded_reason(reason: &str) -> String {
    let mut len = reason.len().min(REASON_LEN_MAX);
    while !reason.is_char_boundary(len) {
        len -= 1;
    }
    reason[..len].to_owned()
}

/// What was asked for, as the server changed it. `None` where it made something else of it.
pub(in crate::proto::rtsp) fn delivery(
    asked: Asked,
    answer: Option<&Transport>,
) -> Option<Delivery> {
    match (asked, answer) {
        (Asked::Tcp(channels), None) => Some(Delivery::Interleaved(channels)),
        (Asked::Tcp(channels), Some(answer)) => {
            let told = answer.interleaved;
            // Some leave out that it is TCP and tell the channels.
            let is_tcp = answer.lower == LowerTransport::Tcp || told.is_some();
            is_tcp.then(|| Delivery::Interleaved(told.unwrap_or(channels)))
        }
        (Asked::Udp(client_port), answer) => {
            let is_udp = answer.is_none_or(|answer| {
                answer.lower == LowerTransport::Udp && answer.interleaved.is_none()
            });
            let told = answer.and_then(|answer| answer.server_port);
            let server_port = told.unwrap_or(Ports { rtp: 0, rtcp: 0 });
            is_udp.then_some(Delivery::Udp { client_port, server_port })
        }
    }
}
