//! What is played or published: a URL in which `{i}` is the number of the stream.

use std::net::{SocketAddr, ToSocketAddrs};

use url::Url;

use super::Failure;
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
}

impl Protocol {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::HttpFlv => "HTTP-FLV",
            Self::WsFlv => "WS-FLV",
            Self::Rtmp => "RTMP",
        }
    }
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
            _ => return Err("the URL must begin with http://, ws:// or rtmp://".into()),
        };
        let source = SourceUrl::parse(&plain, true)?;
        let authority = source.authority();
        let (app, stream) = match protocol {
            Protocol::Rtmp => source.rtmp_names(),
            _ => (String::new(), String::new()),
        };
        let url = Url::parse(&plain)?;
        let is_known = |known: &&Self| {
            (known.url.host(), known.url.port()) == (url.host(), url.port())
                && known.protocol == protocol
        };
        let address = match known.filter(is_known) {
            Some(known) => known.address,
            None => authority.to_socket_addrs()?.next().ok_or("the name has no address")?,
        };
        let tc_url = format!("rtmp://{authority}/{app}");
        Ok(Self { protocol, address, url, app, stream, tc_url })
    }
}

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
        ] {
            let targets = expand(text, 0, 1).unwrap();
            assert_eq!((targets[0].protocol, targets[0].address.port()), (protocol, port));
        }
    }

    #[test]
    fn what_cannot_be_loaded_is_refused() {
        assert!(expand("rtsp://127.0.0.1/a", 0, 1).is_err());
        assert!(expand("rtmp://127.0.0.1/a", 0, 1).is_err());
        assert!(expand("http://127.0.0.1/a.flv", 0, 2).is_err());
        assert!(expand("http://127.0.0.1/a{i}.flv", 0, 2).is_ok());
    }
}
