//! A player over RTSP: its session, and its tracks over TCP or UDP.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::connection::{Arrival, Connection};
use super::super::options::RtspTransport;
use super::super::player::{End, NEVER, Sink, USER_AGENT};
use super::super::target::Target;
use super::scan::TrackScan;
use super::udp::UdpPair;
use crate::clock;
use crate::proto::Output;
use crate::proto::rtsp::{
    ClientConfig, ClientError, ClientEvent, ClientSession, ClientTrack, Delivery, PacketKind,
    Ports, SessionDescription,
};

#[derive(Debug)]
pub(in crate::load) struct RtspPlayer {
    session: ClientSession,
    description: SessionDescription,
    tracks: Vec<Track>,
    /// Ports for the track that is being set up.
    opened: Option<UdpPair>,
    /// Packets over UDP may come joined.
    is_joined: bool,
    server: IpAddr,
    ssrc: u32,
    reports_at: Option<Instant>,
}

/// A track that is set up.
#[derive(Debug)]
struct Track {
    number: usize,
    scan: TrackScan,
    udp: Option<UdpTrack>,
}

#[derive(Debug)]
struct UdpTrack {
    pair: UdpPair,
    /// Where reports go; none where the server does not tell.
    reports_to: Option<SocketAddr>,
    /// Of each of our sockets, by its own count.
    dropped: [u32; 2],
}

/// One UDP socket of a player: the place of its track, and what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::load) struct UdpPlace {
    track: usize,
    kind: PacketKind,
}

impl UdpPlace {
    pub(in crate::load) fn of_number(number: usize) -> Self {
        let kind = if number.is_multiple_of(2) { PacketKind::Rtp } else { PacketKind::Rtcp };
        Self { track: number / 2, kind }
    }

    pub(in crate::load) fn number(self) -> usize {
        2 * self.track + usize::from(self.kind == PacketKind::Rtcp)
    }
}

impl RtspPlayer {
    pub(in crate::load) fn new(target: &Target, transport: RtspTransport, seed: u64) -> Self {
        let config = ClientConfig::new(target.url.as_str()).expect("targets were checked");
        let config = ClientConfig {
            user_agent: USER_AGENT.to_owned(),
            transports: vec![transport.into()],
            command_timeout: NEVER,
            media_timeout: NEVER,
            ..config
        };
        Self {
            session: ClientSession::new(clock::now(), seed, config),
            description: SessionDescription::default(),
            tracks: Vec::new(),
            opened: None,
            is_joined: transport == RtspTransport::UdpGro,
            server: target.address.ip(),
            ssrc: fastrand::Rng::with_seed(seed).u32(..),
            reports_at: None,
        }
    }

    /// Sends what the session has to say of itself: that it begins, that it lives. No event comes
    /// with that which would matter.
    pub(in crate::load) fn begin(&mut self, connection: &mut Connection) -> io::Result<()> {
        while let Some(output) = self.session.poll_output() {
            if let Output::Send(bytes) = output {
                connection.send(&bytes)?;
            }
        }
        Ok(())
    }

    pub(in crate::load) fn handle_input(
        &mut self,
        input: Bytes,
        connection: &mut Connection,
        sink: &mut Sink<'_>,
    ) -> Result<(), End> {
        let now = clock::now();
        self.session.handle_input(now, input)?;
        let result = self.drain(now, connection, sink);
        self.count(sink);
        result
    }

    /// Keeps the session alive and reports what was received, when it is time to.
    pub(in crate::load) fn handle_timeout(
        &mut self,
        now: Instant,
        connection: &mut Connection,
    ) -> Result<(), End> {
        self.session.handle_timeout(now)?;
        if self.reports_at.is_some_and(|due| now >= due) {
            self.reports_at = Some(now + REPORT_INTERVAL);
            self.report(now);
        }
        Ok(self.begin(connection)?)
    }

    /// The UDP sockets of the tracks from `track` on.
    pub(in crate::load) fn sockets_from(
        &self,
        track: usize,
    ) -> impl Iterator<Item = (UdpPlace, &UdpSocket)> {
        let tracks = self.tracks.iter().enumerate().skip(track);
        tracks.flat_map(|(track, found)| {
            let pair = found.udp.as_ref().map(|udp| &udp.pair);
            let kinds = [PacketKind::Rtp, PacketKind::Rtcp];
            let sockets = kinds.map(|kind| Some((UdpPlace { track, kind }, pair?.socket(kind))));
            sockets.into_iter().flatten()
        })
    }

    pub(in crate::load) fn track_count(&self) -> usize {
        self.tracks.len()
    }

    /// The next datagram at one of our sockets, if there is one.
    pub(in crate::load) fn receive(
        &mut self,
        place: UdpPlace,
        buffer: &mut [u8],
    ) -> io::Result<Option<Arrival>> {
        let track = self.tracks.get_mut(place.track).and_then(|track| track.udp.as_mut());
        let Some(udp) = track else { return Ok(None) };
        let arrival = udp.pair.receive(place.kind, buffer)?;
        if let Some(dropped) = arrival.and_then(|arrival| arrival.dropped) {
            udp.dropped[usize::from(place.kind == PacketKind::Rtcp)] = dropped;
        }
        Ok(arrival)
    }

    /// Takes what [`Self::receive`] gave.
    pub(in crate::load) fn handle_datagram(
        &mut self,
        place: UdpPlace,
        datagram: Bytes,
        sink: &mut Sink<'_>,
    ) {
        let now = clock::now();
        if place.kind == PacketKind::Rtp {
            self.session.note_media(now);
        }
        self.take(now, place.track, place.kind, datagram, sink);
        self.count(sink);
    }

    /// Packets that are none.
    pub(in crate::load) fn malformed(&self) -> u64 {
        let counts = self.tracks.iter().map(|track| track.scan.receiver.counts());
        counts.map(|counts| counts.malformed + counts.malformed_rtcp).sum()
    }

    fn drain(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        sink: &mut Sink<'_>,
    ) -> Result<(), End> {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(bytes) => connection.send(&bytes)?,
                Output::Event(ClientEvent::UdpWanted { .. }) => {
                    let pair = UdpPair::bind(connection.local_ip()?)?;
                    if self.is_joined {
                        pair.join_packets()?;
                    }
                    self.session.open_udp(now, pair.ports());
                    self.opened = Some(pair);
                }
                Output::Event(event) => self.on_event(now, event, sink)?,
            }
        }
        Ok(())
    }

    fn on_event(
        &mut self,
        now: Instant,
        event: ClientEvent,
        sink: &mut Sink<'_>,
    ) -> Result<(), End> {
        match event {
            ClientEvent::Described(description) => self.description = description,
            ClientEvent::Setup(setup) => self.add_track(&setup),
            ClientEvent::Playing(_) => self.reports_at = Some(now + FIRST_REPORT),
            ClientEvent::Packet { track, kind, packet } => {
                let place = self.tracks.iter().position(|known| known.number == track);
                let place = place.expect("packets are of tracks that are set up");
                self.take(now, place, kind, packet.packet(), sink);
            }
            ClientEvent::Refused { status, reason } => {
                return Err(End::Refused(format!("RTSP {status} {reason}")));
            }
            ClientEvent::Redirect(url) => {
                return Err(End::Refused(format!("redirected to {url}")));
            }
            ClientEvent::Ended => return Err(End::Closed),
            ClientEvent::Progress(_)
            | ClientEvent::UdpWanted { .. }
            | ClientEvent::UdpRefused { .. } => {}
        }
        Ok(())
    }

    fn add_track(&mut self, setup: &ClientTrack) {
        let udp = match setup.delivery {
            Delivery::Interleaved(_) => None,
            Delivery::Udp { server_port, .. } => {
                let source = setup.source.as_deref().and_then(|source| source.parse().ok());
                let Ports { rtcp, .. } = server_port;
                let reports_to = SocketAddr::new(source.unwrap_or(self.server), rtcp);
                let reports_to = Some(reports_to).filter(|_| rtcp != 0);
                self.opened.take().map(|pair| UdpTrack { pair, reports_to, dropped: [0; 2] })
            }
        };
        let scan = TrackScan::new(&self.description.media[setup.track].format);
        self.tracks.push(Track { number: setup.track, scan, udp });
    }

    fn take(
        &mut self,
        now: Instant,
        place: usize,
        kind: PacketKind,
        packet: Bytes,
        sink: &mut Sink<'_>,
    ) {
        let scan = &mut self.tracks[place].scan;
        match kind {
            PacketKind::Rtcp => {
                scan.receiver.handle_rtcp(now, &packet);
            }
            PacketKind::Rtp => {
                sink.media_came();
                scan.handle_packet(now, packet, |picture| sink.picture(picture));
            }
        }
    }

    fn report(&mut self, now: Instant) {
        for track in &mut self.tracks {
            let report = track.scan.receiver.receiver_report(now, self.ssrc, USER_AGENT);
            match &track.udp {
                None => {
                    self.session.send_packet(track.number, PacketKind::Rtcp, &report);
                }
                Some(UdpTrack { pair, reports_to: Some(peer), .. }) => {
                    // One that is lost is followed by another.
                    let _ = pair.socket(PacketKind::Rtcp).send_to(&report, peer);
                }
                Some(_) => {}
            }
        }
    }

    /// Tells what came of the packets so far.
    fn count(&self, sink: &mut Sink<'_>) {
        let counts = &mut sink.watch.counts;
        (counts.packets, counts.missing_packets, counts.misplaced_packets) = (0, 0, 0);
        counts.dropped_packets = 0;
        for track in &self.tracks {
            let reorder = track.scan.receiver.counts().reorder;
            counts.packets += reorder.delivered;
            counts.missing_packets += reorder.lost;
            counts.misplaced_packets += reorder.late + reorder.duplicate + reorder.stray;
            let dropped = track.udp.iter().flat_map(|udp| udp.dropped);
            counts.dropped_packets += dropped.map(u64::from).sum::<u64>();
        }
    }
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// The first ones tell a server soon that its packets arrive.
const FIRST_REPORT: Duration = Duration::from_secs(1);
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
