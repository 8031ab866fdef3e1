//! How the camera's tracks go out: what SETUP agrees on, and packets over TCP and UDP.

use std::io::{ErrorKind, Result, Write};
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use super::Link;
use super::habits::{Control, ServerPorts, Ssrc, Stage};
use crate::kit::rtp_media::Timed;
use crate::kit::rtsp::{Message, first_of_pair, interleaved, transport_parameter};
use crate::kit::rtsp_player::udp_pair;

/// How a track goes out.
#[derive(Debug)]
pub(super) enum Setup {
    Tcp { track: usize, channel: u8 },
    Udp { track: usize, sockets: [UdpSocket; 2] },
}

impl Setup {
    pub(super) fn track(&self) -> usize {
        match self {
            Self::Tcp { track, .. } | Self::Udp { track, .. } => *track,
        }
    }
}

/// What a SETUP asks for.
pub(super) fn is_over_tcp(request: &Message) -> bool {
    request.header("transport").is_some_and(|asked| asked.contains("RTP/AVP/TCP"))
}

impl Link {
    pub(super) fn set_up(&mut self, request: &Message) -> Result<()> {
        let asked = request.header("transport").unwrap_or_default().to_owned();
        self.record(|connection| connection.set_up.push(request.uri().to_owned()));
        let formats = &self.media.formats;
        let named = formats.iter().position(|format| request.uri().ends_with(&format.control));
        let is_aggregate = self.habits.control == Control::AggregateOnly;
        let Some(track) = named.or_else(|| is_aggregate.then_some(0)) else {
            return self.reply(request, 404, &[], "");
        };
        if self.habits.multicast {
            let transport = "RTP/AVP;multicast;destination=239.1.2.3;port=5000-5001;ttl=16";
            return self.reply(request, 200, &[("Transport", transport), ("Session", "1")], "");
        }
        let is_tcp = is_over_tcp(request);
        if !is_tcp && self.habits.udp_refused {
            return self.reply(request, 461, &[], "");
        }
        let ssrc = match (self.habits.ssrc, self.media.rtp(track).first()) {
            (Ssrc::True, Some(packet)) => Some(packet.ssrc),
            (Ssrc::False, _) => Some(0xdead_beef),
            _ => None,
        };
        let mut parts = Vec::new();
        if is_tcp {
            let channel = transport_parameter(&asked, "interleaved").and_then(first_of_pair::<u8>);
            let channel = channel.unwrap_or(0);
            parts.extend(["RTP/AVP/TCP", "unicast"].map(str::to_owned));
            parts.push(format!("interleaved={channel}-{}", channel + 1));
            self.setups.push(Setup::Tcp { track, channel });
        } else {
            let client = transport_parameter(&asked, "client_port").and_then(first_of_pair::<u16>);
            let Some(client) = client else { return self.reply(request, 461, &[], "") };
            let sockets = self.open_pair()?;
            let peer: IpAddr = self.socket.peer_addr()?.ip();
            for (socket, port) in sockets.iter().zip([client, client + 1]) {
                socket.connect((peer, port))?;
                socket.set_nonblocking(true)?;
            }
            let port = sockets[0].local_addr()?.port();
            parts.extend(["RTP/AVP", "unicast"].map(str::to_owned));
            parts.push(format!("client_port={client}-{}", client + 1));
            if self.habits.server_ports == ServerPorts::Told {
                parts.push(format!("server_port={port}-{}", port + 1));
            }
            self.setups.push(Setup::Udp { track, sockets });
        }
        parts.extend(self.habits.source.map(|source| format!("source={source}")));
        parts.extend(ssrc.map(|ssrc| format!("ssrc={ssrc:08X}")));
        let separator = if self.habits.spaced_transport { " ; " } else { ";" };
        let transport = parts.join(separator);
        let session = match self.habits.timeout {
            Some(timeout) => format!("12345678;timeout={}", timeout.as_secs()),
            None => "12345678".to_owned(),
        };
        self.reply(request, 200, &[("Transport", &transport), ("Session", &session)], "")
    }

    /// A pair of the camera's own address; where it names another source, that one's same ports are
    /// kept on record.
    fn open_pair(&self) -> Result<[UdpSocket; 2]> {
        let own = self.socket.local_addr()?.ip();
        if self.habits.server_ports == ServerPorts::UntoldApart {
            // The RTCP port of one pair with the RTP port of another.
            let [[_, rtcp], [rtp, _]] = [udp_pair(own), udp_pair(own)];
            return Ok([rtp, rtcp]);
        }
        loop {
            let sockets = udp_pair(own);
            let Some(source) = self.habits.source else { return Ok(sockets) };
            let port = sockets[0].local_addr()?.port();
            let others = [port, port + 1].map(|port| UdpSocket::bind((source, port)));
            if let [Ok(rtp), Ok(rtcp)] = others {
                let others = [rtp, rtcp].map(Arc::new);
                self.record(|connection| connection.other_sources.extend(others));
                return Ok(sockets);
            }
        }
    }

    /// What came in a channel.
    pub(super) fn note_packet(&self, channel: u8, bytes: Vec<u8>) {
        let is_rtcp =
            |setup: &&Setup| matches!(setup, Setup::Tcp { channel: rtp, .. } if rtp + 1 == channel);
        if let Some(setup) = self.setups.iter().find(is_rtcp) {
            let track = setup.track();
            self.record(|connection| connection.rtcp.push((track, bytes)));
        }
    }

    /// What came to the ports.
    pub(super) fn note_datagrams(&self) {
        let mut buffer = [0; 2048];
        for setup in &self.setups {
            let Setup::Udp { track, sockets } = setup else { continue };
            while let Ok(len) = sockets[0].recv(&mut buffer) {
                let opener = (*track, buffer[..len].to_vec());
                self.record(|connection| connection.rtp.push(opener));
            }
            while let Ok(len) = sockets[1].recv(&mut buffer) {
                let report = (*track, buffer[..len].to_vec());
                self.record(|connection| connection.rtcp.push(report));
            }
        }
    }

    pub(super) fn send(&mut self, packet: &Timed) -> Result<()> {
        let setup = self.setups.iter().find(|setup| setup.track() == packet.track);
        match setup {
            None => Ok(()),
            Some(Setup::Udp { sockets, .. }) => {
                // The relay may have closed its port.
                let _ = sockets[usize::from(packet.is_rtcp)].send(&packet.bytes);
                Ok(())
            }
            Some(Setup::Tcp { channel, .. }) => {
                let channel = channel + u8::from(packet.is_rtcp);
                let bytes = interleaved(channel, &packet.bytes);
                let stray = self.habits.payload_type_50 && !packet.is_rtcp && self.next % 5 == 1;
                let stray = stray.then(|| {
                    let mut twin = packet.bytes.clone();
                    twin[1] = 50;
                    twin.truncate(40);
                    interleaved(channel, &twin)
                });
                self.socket.write_all(&[bytes, stray.unwrap_or_default()].concat())
            }
        }
    }

    /// Sends half of a packet over TCP, over UDP all of it: it is the first part of a slice. Nothing comes
    /// behind it.
    pub(super) fn break_off(&mut self) -> Result<()> {
        if self.is_stalled {
            return Ok(());
        }
        self.is_stalled = true;
        let media = Arc::clone(&self.media);
        let packet = media.packets.iter().find(|packet| begins_fragments(packet));
        let packet = packet.expect("a picture that takes several packets");
        match self.setups.iter().find(|setup| setup.track() == packet.track) {
            Some(Setup::Tcp { channel, .. }) => {
                let bytes = interleaved(*channel, &packet.bytes);
                self.socket.write_all(&bytes[..bytes.len() / 2])?;
            }
            _ => self.send(packet)?,
        }
        self.record(|connection| connection.reached.push(Stage::MidPacket));
        match self.habits.drop {
            Some(Stage::MidPacket) => Err(ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }
}

/// Whether it is the first fragment of a slice of H.264 (RFC 6184, 5.8).
fn begins_fragments(packet: &Timed) -> bool {
    let payload = packet.bytes.get(12..14).filter(|_| packet.track == 0 && !packet.is_rtcp);
    payload.is_some_and(|payload| payload[0] & 0x1f == 28 && payload[1] & 0x80 != 0)
}
