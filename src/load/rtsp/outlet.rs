//! How a stream leaves over RTSP: the session that publishes, and the packets of the clip behind it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use super::super::Failure;
use super::super::clip::Clip;
use super::super::player::USER_AGENT;
use super::super::target::Target;
use super::source::{self, RtpSource};
use super::udp::UdpPair;
use crate::clock;
use crate::proto::Output;
use crate::proto::rtsp::message::interleaved_header;
use crate::proto::rtsp::{
    Delivery, LowerTransport, PacketKind, Ports, PublisherConfig, PublisherEvent, PublisherSession,
};

#[derive(Debug)]
pub(in crate::load) struct RtspOutlet {
    session: PublisherSession,
    source: RtpSource,
    server: IpAddr,
    /// How the packets of each track travel.
    paths: VecDeque<Path>,
    /// Ports for the track that is being set up.
    opened: Option<UdpPair>,
    next_report_ms: u64,
    /// Bytes and packets that went out over UDP, and packets that the kernel did not take.
    pub(in crate::load) sent_len: u64,
    pub(in crate::load) unsent_packets: u64,
}

#[derive(Debug)]
enum Path {
    Tcp { rtp: u8, rtcp: u8 },
    Udp(UdpPair),
}

impl RtspOutlet {
    /// # Errors
    /// When the clip can't be sent as RTP.
    pub(in crate::load) fn new(
        target: &Target,
        transport: LowerTransport,
        clip: &Clip,
        seed: u64,
    ) -> Result<Self, Failure> {
        let source = RtpSource::new(clip, seed)?;
        let config = PublisherConfig::new(target.url.as_str(), source.description());
        let config = config.ok_or("the URL is none of RTSP")?;
        let user_agent = USER_AGENT.to_owned();
        let config = PublisherConfig { user_agent, transport, ..config };
        Ok(Self {
            session: PublisherSession::new(clock::now(), seed, config),
            source,
            server: target.address.ip(),
            paths: VecDeque::new(),
            opened: None,
            next_report_ms: 0,
            sent_len: 0,
            unsent_packets: 0,
        })
    }

    pub(in crate::load) fn session(&mut self) -> &mut PublisherSession {
        &mut self.session
    }

    /// What is to be sent on the connection, or done by who holds it. Sockets are opened at
    /// `address`, which is ours.
    pub(in crate::load) fn poll_output(
        &mut self,
        now: Instant,
        address: IpAddr,
    ) -> Result<Option<Output<PublisherEvent>>, Failure> {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Event(PublisherEvent::UdpWanted { .. }) => {
                    let pair = UdpPair::bind(address)?;
                    self.session.open_udp(now, pair.ports());
                    self.opened = Some(pair);
                }
                Output::Event(PublisherEvent::Setup(setup)) => {
                    let source = setup.source.as_deref().and_then(|source| source.parse().ok());
                    let path = self.path(setup.delivery, source.unwrap_or(self.server))?;
                    self.paths.push_back(path);
                }
                output => return Ok(Some(output)),
            }
        }
        Ok(None)
    }

    fn path(&mut self, delivery: Delivery, server: IpAddr) -> Result<Path, Failure> {
        match (delivery, self.opened.take()) {
            (Delivery::Interleaved(channels), _) => {
                Ok(Path::Tcp { rtp: channels.rtp, rtcp: channels.rtcp })
            }
            (Delivery::Udp { server_port: Ports { rtp: 0, .. }, .. }, _) => {
                Err("the server tells no port".into())
            }
            (Delivery::Udp { server_port, .. }, Some(pair)) => {
                pair.connect(server, server_port)?;
                Ok(Path::Udp(pair))
            }
            (Delivery::Udp { .. }, None) => Err("the server set up what was not asked for".into()),
        }
    }

    /// Sends the tag at `index`, which is due at `due_ns`: over UDP at once, else behind `out`.
    pub(in crate::load) fn append(
        &mut self,
        clip: &Clip,
        index: u64,
        due_ns: u64,
        out: &mut Vec<u8>,
    ) {
        let (_, at_ms) = clip.tag(index);
        if at_ms >= self.next_report_ms {
            self.next_report_ms = at_ms + REPORT_INTERVAL_MS;
            for (path, report) in self.paths.iter().zip(self.source.reports(at_ms, due_ns)) {
                match path {
                    Path::Tcp { rtcp, .. } => {
                        out.extend_from_slice(&interleaved_header(*rtcp, report.len() as u16));
                        out.extend_from_slice(&report);
                    }
                    // One that is lost is followed by another.
                    Path::Udp(pair) => drop(pair.socket(PacketKind::Rtcp).send(&report)),
                }
            }
        }
        let mut datagram = Vec::new();
        let (paths, sent_len) = (&self.paths, &mut self.sent_len);
        let unsent_packets = &mut self.unsent_packets;
        self.source.packetize(clip, index, due_ns, |track, packet| match &paths[track] {
            Path::Tcp { rtp, .. } => {
                out.extend_from_slice(&interleaved_header(*rtp, packet.len() as u16));
                source::append(&packet, out);
            }
            Path::Udp(pair) => {
                datagram.clear();
                source::append(&packet, &mut datagram);
                match pair.socket(PacketKind::Rtp).send(&datagram) {
                    Ok(len) => *sent_len += len as u64,
                    Err(_) => *unsent_packets += 1,
                }
            }
        });
    }
}

const REPORT_INTERVAL_MS: u64 = 5000;
