//! What is played or published: a URL in which `{i}` is the number of the stream.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use url::Url;

use super::Failure;
use super::options::RtspTransport;
use crate::media::SourceUrl;

/// One stream at the server.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
    /// With the scheme `http` for WebSocket too.
    pub(super) url: Url,
    /// Of RTMP: application, stream name with its query, and `rtmp://host:port/app`.
    pub(super) app: String,
    pub(super) stream: String,
    pub(super) tc_url: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    HttpFlv,
    WsFlv,
    Rtmp,
    Rtsp(RtspTransport),
}

impl Protocol {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::HttpFlv => "HTTP-FLV",
            Self::WsFlv => "WS-FLV",
            Self::Rtmp => "RTMP",
            Self::Rtsp(RtspTransport::Tcp) => "RTSP over TCP",
            Self::Rtsp(RtspTransport::Udp) => "RTSP over UDP",
            Self::Rtsp(RtspTransport::UdpGro) => "RTSP over UDP, joined",
        }
    }
}

/// As [`expand`], with this transport for the media of RTSP.
pub(super) fn expand_over(
    transport: RtspTransport,
    pattern: &str,
    first: u32,
    count: u32,
) -> Result<Vec<Target>, Failure> {
    let mut targets = expand(pattern, first, count)?;
    for target in &mut targets {
        if let Protocol::Rtsp(over) = &mut target.protocol {
            *over = transport;
        }
    }
    Ok(targets)
}

/// The URLs of streams `first` to `first + count - 1`. Names are looked up once for each host.
pub(super) fn expand(pattern: &str, first: u32, count: u32) -> Result<Vec<Target>, Failure> {
    if count > 1 && !pattern.contains(PLACE) {
        return Err(format!("{count} streams need {PLACE} in the URL {pattern}").into());
    }
    let mut targets: Vec<Target> = Vec::new();
    for number in first..first.saturating_add(count) {
        let text = pattern.replace(PLACE, &number.to_string());
        let target =
            Target::parse(&text, targets.last()).map_err(|error| format!("{text}: {error}"))?;
        targets.push(target);
    }
    Ok(targets)
}

impl Target {
    /// `known` has an address that the same host need not be asked for again.
    fn parse(text: &str, known: Option<&Self>) -> Result<Self, Failure> {
        let (protocol, plain) = match text.split_once("://") {
            Some(("http", _)) => (Protocol::HttpFlv, text.to_owned()),
            Some(("ws", rest)) => (Protocol::WsFlv, format!("http://{rest}")),
            Some(("rtmp", _)) => (Protocol::Rtmp, text.to_owned()),
            Some(("rtsp", _)) => (Protocol::Rtsp(RtspTransport::Tcp), text.to_owned()),
            _ => return Err("the URL must begin with http://, ws://, rtmp:// or rtsp://".into()),
        };
        let url = Url::parse(&plain)?;
        let (authority, app, stream) = match protocol {
            Protocol::Rtsp(_) => (rtsp_authority(&url)?, String::new(), String::new()),
            Protocol::Rtmp => {
                let source = SourceUrl::parse(&plain, true)?;
                let (app, stream) = source.rtmp_names();
                (source.authority(), app, stream)
            }
            _ => (SourceUrl::parse(&plain, true)?.authority(), String::new(), String::new()),
        };
        let is_known = |known: &&Self| {
            (known.url.host(), known.url.port()) == (url.host(), url.port())
                && known.protocol == protocol
        };
        let address = match known.filter(is_known) {
            Some(known) => known.address,
            None => {
                let addresses = authority.to_socket_addrs()?.collect();
                first_reachable(addresses).ok_or("the name has no address")?
            }
        };
        let tc_url = format!("rtmp://{authority}/{app}");
        Ok(Self { protocol, address, url, app, stream, tc_url })
    }
}

/// Of the addresses of a name the first that takes a connection; the first of all where none does,
/// or where there is no other.
pub(super) fn first_reachable(addresses: Vec<SocketAddr>) -> Option<SocketAddr> {
    let takes = |address: &&SocketAddr| TcpStream::connect_timeout(address, TRY_TIMEOUT).is_ok();
    let taking = addresses.iter().filter(|_| addresses.len() > 1).find(takes);
    taking.or_else(|| addresses.first()).copied()
}

/// For an address that says nothing, when there are others.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);

fn rtsp_authority(url: &Url) -> Result<String, Failure> {
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("the URL has no host")?;
    Ok(format!("{host}:{}", url.port().unwrap_or(RTSP_PORT)))
}

/// RFC 2326, 3.2.
const RTSP_PORT: u16 = 554;

const PLACE: &str = "{i}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_becomes_the_number_of_the_stream() {
        let targets = expand("rtmp://127.0.0.1:1936/live/cam{i}?n={i}", 7, 2).unwrap();
        let names: Vec<_> = targets.iter().map(|target| target.stream.as_str()).collect();
        assert_eq!(names, ["cam7?n=7", "cam8?n=8"]);
        assert_eq!(targets[1].app, "live");
        assert_eq!(targets[1].tc_url, "rtmp://127.0.0.1:1936/live");
        assert_eq!(targets[1].address, "127.0.0.1:1936".parse().unwrap());
    }

    #[test]
    fn scheme_is_the_protocol() {
        for (text, protocol, port) in [
            ("http://127.0.0.1:8080/live/a.flv", Protocol::HttpFlv, 8080),
            ("ws://127.0.0.1/live/a.live.flv", Protocol::WsFlv, 80),
            ("rtmp://127.0.0.1/live/a", Protocol::Rtmp, 1935),
            ("rtsp://127.0.0.1/live/a", Protocol::Rtsp(RtspTransport::Tcp), 554),
            ("rtsp://u:p@[::1]:8554/a?b=c", Protocol::Rtsp(RtspTransport::Tcp), 8554),
        ] {
            let targets = expand(text, 0, 1).unwrap();
            assert_eq!((targets[0].protocol, targets[0].address.port()), (protocol, port));
        }
    }

    #[test]
    fn name_is_taken_at_the_address_that_listens() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let listens = listener.local_addr().expect("bound");
        // Whether there is IPv6 or not, nobody listens there.
        let refuses = SocketAddr::new("::1".parse().unwrap(), listens.port());
        let refuses_too = SocketAddr::new("127.0.0.2".parse().unwrap(), listens.port());
        assert_eq!(first_reachable(vec![refuses, refuses_too, listens]), Some(listens));
        assert_eq!(first_reachable(vec![refuses, refuses_too]), Some(refuses));
        assert_eq!(first_reachable(vec![refuses]), Some(refuses));
        assert_eq!(first_reachable(Vec::new()), None);
    }

    #[test]
    fn what_cannot_be_loaded_is_refused() {
        assert!(expand("srt://127.0.0.1/a", 0, 1).is_err());
        assert!(expand("rtsp:///a", 0, 1).is_err());
        assert!(expand("rtmp://127.0.0.1/a", 0, 1).is_err());
        assert!(expand("http://127.0.0.1/a.flv", 0, 2).is_err());
        assert!(expand("http://127.0.0.1/a{i}.flv", 0, 2).is_ok());
    }
}
