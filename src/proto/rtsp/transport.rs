//! The `Transport` header (RFC 2326, 12.39).
//!
//! Read tolerantly: a lone port or channel stands for itself and the next, blanks are everywhere,
//! an SSRC may be of any width. Alternatives that are neither RTP/AVP over UDP nor over TCP, and
//! such as nobody could use, are left out.

use std::fmt;

use crate::limits::TRANSPORTS_MAX;

/// One alternative of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    pub lower: LowerTransport,
    pub multicast: bool,
    pub interleaved: Option<Channels>,
    pub client_port: Option<Ports>,
    pub server_port: Option<Ports>,
    pub ssrc: Option<u32>,
    pub mode: Option<Mode>,
    /// Where the packets come from, when that is not the server's own address.
    pub source: Option<String>,
}

/// What carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LowerTransport {
    /// Interleaved with the messages.
    Tcp,
    Udp,
}

/// Channels of an interleaved track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    pub rtp: u8,
    pub rtcp: u8,
}

/// Ports of a track over UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub rtp: u16,
    pub rtcp: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Play,
    Record,
}

/// What a track's packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    Rtp,
    Rtcp,
}

/// How a track's packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Interleaved(Channels),
    Udp { client_port: Ports, server_port: Ports },
}

impl Transport {
    /// Over TCP, in these channels.
    pub fn interleaved(channels: Channels) -> Self {
        Self { interleaved: Some(channels), ..Self::new(LowerTransport::Tcp) }
    }

    /// Over UDP, to these ports of the client.
    pub fn udp(client_port: Ports) -> Self {
        Self { client_port: Some(client_port), ..Self::new(LowerTransport::Udp) }
    }

    fn new(lower: LowerTransport) -> Self {
        Self {
            lower,
            multicast: false,
            interleaved: None,
            client_port: None,
            server_port: None,
            ssrc: None,
            mode: None,
            source: None,
        }
    }

    /// The alternatives of a header's value in the sender's order of preference.
    pub fn parse_list(value: &str) -> Vec<Self> {
        split_unquoted(value, ',').filter_map(Self::parse).take(TRANSPORTS_MAX).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = split_unquoted(text, ';').map(str::trim);
        let lower = match parts.next()?.to_ascii_uppercase().as_str() {
            "RTP/AVP" | "RTP/AVP/UDP" => LowerTransport::Udp,
            "RTP/AVP/TCP" => LowerTransport::Tcp,
            _ => return None,
        };
        let mut transport = Self::new(lower);
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            transport.read_parameter(name.trim(), value.trim().trim_matches('"'))?;
        }
        Some(transport)
    }

    /// `None` for a value that makes the alternative useless.
    fn read_parameter(&mut self, name: &str, value: &str) -> Option<()> {
        match name.to_ascii_lowercase().as_str() {
            "multicast" => self.multicast = true,
            "interleaved" => {
                let (rtp, rtcp) = pair(value, u8::MAX)?;
                self.interleaved = Some(Channels { rtp, rtcp });
            }
            "client_port" => {
                let (rtp, rtcp) = pair(value, u16::MAX)?;
                self.client_port = Some(Ports { rtp, rtcp });
            }
            "server_port" => {
                let (rtp, rtcp) = pair(value, u16::MAX)?;
                self.server_port = Some(Ports { rtp, rtcp });
            }
            // Eight digits of hexadecimal; some servers write more, or something else.
            "ssrc" => self.ssrc = u32::from_str_radix(value.trim_start_matches("0x"), 16).ok(),
            "mode" => {
                let is_record = ["record", "receive"].iter().any(|m| value.eq_ignore_ascii_case(m));
                self.mode = Some(if is_record { Mode::Record } else { Mode::Play });
            }
            "source" if !value.is_empty() => self.source = Some(value.to_owned()),
            _ => {}
        }
        Some(())
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.lower {
            LowerTransport::Tcp => "RTP/AVP/TCP",
            LowerTransport::Udp => "RTP/AVP",
        })?;
        f.write_str(if self.multicast { ";multicast" } else { ";unicast" })?;
        if let Some(Channels { rtp, rtcp }) = self.interleaved {
            write!(f, ";interleaved={rtp}-{rtcp}")?;
        }
        if let Some(Ports { rtp, rtcp }) = self.client_port {
            write!(f, ";client_port={rtp}-{rtcp}")?;
        }
        if let Some(source) = &self.source {
            write!(f, ";source={source}")?;
        }
        if let Some(Ports { rtp, rtcp }) = self.server_port {
            write!(f, ";server_port={rtp}-{rtcp}")?;
        }
        if let Some(ssrc) = self.ssrc {
            write!(f, ";ssrc={ssrc:08X}")?;
        }
        match self.mode {
            Some(Mode::Play) => f.write_str(";mode=\"PLAY\""),
            Some(Mode::Record) => f.write_str(";mode=record"),
            None => Ok(()),
        }
    }
}

/// Two numbers with a dash between them, or one, which the next one follows.
fn pair<T>(text: &str, max: T) -> Option<(T, T)>
where
    T: std::str::FromStr + Copy + PartialEq + std::ops::Add<Output = T> + From<u8>,
{
    let (first, second) = match text.split_once('-') {
        Some((first, second)) => (first, Some(second)),
        None => (text, None),
    };
    let first: T = first.trim().parse().ok()?;
    let second = match second.map(|second| second.trim().parse()) {
        Some(second) => second.ok()?,
        None if first == max => return None,
        None => first + T::from(1),
    };
    Some((first, second))
}

/// The parts between separators that are not in quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Transport {
        let mut list = Transport::parse_list(text);
        assert_eq!(list.len(), 1, "{text}");
        list.remove(0)
    }

    #[test]
    fn values_are_read_and_written() {
        let tcp = Transport::interleaved(Channels { rtp: 2, rtcp: 3 });
        let udp = Transport::udp(Ports { rtp: 5000, rtcp: 5001 });
        let table = [
            ("RTP/AVP/TCP;unicast;interleaved=2-3", tcp.clone()),
            (
                "RTP/AVP/TCP;unicast;interleaved=2-3;ssrc=0000AB12;mode=\"PLAY\"",
                Transport { ssrc: Some(0xab12), mode: Some(Mode::Play), ..tcp },
            ),
            ("RTP/AVP;unicast;client_port=5000-5001", udp.clone()),
            (
                "RTP/AVP;unicast;client_port=5000-5001;source=10.0.0.1;server_port=6000-6001;\
                 mode=record",
                Transport {
                    server_port: Some(Ports { rtp: 6000, rtcp: 6001 }),
                    source: Some("10.0.0.1".to_owned()),
                    mode: Some(Mode::Record),
                    ..udp
                },
            ),
            (
                "RTP/AVP;multicast",
                Transport { multicast: true, ..Transport::new(LowerTransport::Udp) },
            ),
        ];
        for (text, transport) in table {
            assert_eq!(one(text), transport, "{text}");
            assert_eq!(transport.to_string(), text);
        }
    }

    #[test]
    fn what_servers_write_is_read() {
        let spaced = one(" rtp/avp/tcp ; unicast ; Interleaved = 4 ; ssrc=0x1f;mode=\"RECORD\"");
        assert_eq!(spaced.interleaved, Some(Channels { rtp: 4, rtcp: 5 }));
        assert_eq!((spaced.ssrc, spaced.mode), (Some(0x1f), Some(Mode::Record)));
        let lone = one("RTP/AVP/UDP;unicast;client_port=5000;x;destination=1.2.3.4;append");
        assert_eq!(lone.client_port, Some(Ports { rtp: 5000, rtcp: 5001 }));
        assert_eq!(one("RTP/AVP;ssrc=no").ssrc, None);
        assert_eq!(one("RTP/AVP;ssrc=123456789AB").ssrc, None);
        assert_eq!(one("RTP/AVP;mode=\"PLAY,RECORD\"").mode, Some(Mode::Play));
    }

    #[test]
    fn alternatives_keep_their_order() {
        let list = Transport::parse_list(
            "RTP/SAVP;unicast, RTP/AVP;unicast;client_port=1-2, RTP/AVP/TCP;mode=\"a,b\";\
             interleaved=0-1,RAW/RAW/UDP",
        );
        let lowers: Vec<LowerTransport> = list.iter().map(|transport| transport.lower).collect();
        assert_eq!(lowers, [LowerTransport::Udp, LowerTransport::Tcp]);
        let many = "RTP/AVP,".repeat(100);
        assert_eq!(Transport::parse_list(&many).len(), TRANSPORTS_MAX);
    }

    #[test]
    fn useless_alternatives_are_left_out() {
        for text in [
            "",
            "RTP",
            "RTP/AVP/TCP;interleaved=255",
            "RTP/AVP/TCP;interleaved=256-257",
            "RTP/AVP/TCP;interleaved=a-b",
            "RTP/AVP;client_port=65535",
            "RTP/AVP;client_port=70000-70001",
            "RTP/AVP;client_port=",
        ] {
            assert_eq!(Transport::parse_list(text), [], "{text}");
        }
    }
}
