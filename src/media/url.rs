//! The address of a stream at an origin.

use std::fmt;

use md5::{Digest, Md5};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{Form, UrlDigest};
use crate::limits::SOURCE_URL_LEN_MAX;

/// A URL that a pull can fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceUrl {
    pub protocol: SourceProtocol,
    /// A name in lower case or a literal address, IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// Path with its leading slash, as written (percent-encoded).
    pub path: String,
    /// Query string without the question mark, as written.
    pub query: Option<String>,
    /// User and password that were given beside the URL; those in it are in the text.
    pub login: Option<Login>,
    text: String,
}

/// A user and a password. Written in full for the journal, whose file is its owner's alone; shown
/// nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// Without the password, so that no log has it.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceProtocol {
    Rtmp,
    HttpFlv,
    Rtsp,
}

/// Why a URL can't be pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SourceUrlError {
    #[error("not supported play schema")]
    Scheme,
    #[error("the URL has no host")]
    Host,
    #[error("the URL is malformed")]
    Malformed,
    #[error("an RTMP URL needs an app and a stream")]
    Path,
    #[error("the URL is longer than 2048 bytes")]
    TooLong,
}

impl SourceUrl {
    /// Parses `rtmp://host[:port]/app/stream[?query]`, `http://host[:port]/path[?query]` or
    /// `rtsp://[user[:password]@]host[:port]/path[?query]`.
    ///
    /// # Errors
    /// [`SourceUrlError`]; an `http` URL must end in `.flv` (before its query) unless
    /// `any_http_path` says that it is known to be FLV (a redirect's target, `schema=flv`).
    pub fn parse(text: &str, any_http_path: bool) -> Result<Self, SourceUrlError> {
        if text.len() > SOURCE_URL_LEN_MAX {
            return Err(SourceUrlError::TooLong);
        }
        let url = Url::parse(text).map_err(|_| SourceUrlError::Malformed)?;
        let (protocol, port_default) = match url.scheme() {
            "rtmp" => (SourceProtocol::Rtmp, 1935),
            "http" => (SourceProtocol::HttpFlv, 80),
            "rtsp" => (SourceProtocol::Rtsp, 554),
            _ => return Err(SourceUrlError::Scheme),
        };
        let host = match url.host().ok_or(SourceUrlError::Host)? {
            // Of a scheme that the web has not the parser leaves it as it is.
            Host::Domain(name) => name.to_ascii_lowercase(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let path = url.path().to_owned();
        match protocol {
            SourceProtocol::HttpFlv => {
                let is_flv = path.to_ascii_lowercase().ends_with(".flv");
                if !is_flv && !any_http_path {
                    return Err(SourceUrlError::Scheme);
                }
            }
            SourceProtocol::Rtsp => {}
            SourceProtocol::Rtmp => {
                let mut segments = path.trim_matches('/').splitn(2, '/');
                let complete = segments.by_ref().all(|segment| !segment.is_empty());
                if !complete || path.trim_matches('/').split('/').count() < 2 {
                    return Err(SourceUrlError::Path);
                }
            }
        }
        let query = url.query().map(str::to_owned);
        let port = url.port().unwrap_or(port_default);
        Ok(Self { protocol, host, port, path, query, login: None, text: text.to_owned() })
    }

    /// With a user and a password that were given beside the URL.
    pub fn with_login(mut self, login: Option<Login>) -> Self {
        self.login = login;
        self
    }

    /// With those that are named for RTSP: another protocol's host is told nothing of a camera's.
    pub fn with_rtsp_login(self, login: Option<Login>) -> Self {
        let login = login.filter(|_| self.protocol == SourceProtocol::Rtsp);
        self.with_login(login)
    }

    /// With those of a URL that redirected to this one, if it is the same server's: another one is not
    /// told our password. A camera may send to another port, an HTTP server would send it in clear to
    /// another service there.
    pub fn with_login_of(self, from: &Self) -> Self {
        let is_same = self.protocol == from.protocol && self.host == from.host;
        let is_same = is_same && (self.port == from.port || self.protocol == SourceProtocol::Rtsp);
        if is_same && let Some(login) = from.login.clone().or_else(|| from.login_within()) {
            return self.with_login(Some(login));
        }
        self
    }

    /// User and password that the URL itself has.
    fn login_within(&self) -> Option<Login> {
        let url = Url::parse(&self.text).ok()?;
        let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let password = decode(url.password().unwrap_or_default());
        (!url.username().is_empty()).then(|| Login { user: decode(url.username()), password })
    }

    /// With the login as its user and password, where it has one.
    pub fn to_url(&self) -> Url {
        let mut url = Url::parse(&self.text).expect("it was parsed");
        if let Some(Login { user, password }) = &self.login {
            let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            // A URL with a host takes both.
            let _ = url.set_username(&encode(user));
            let _ = url.set_password(Some(&encode(password)));
        }
        url
    }

    /// What such an origin brings.
    pub fn form(&self) -> Form {
        match self.protocol {
            SourceProtocol::Rtmp | SourceProtocol::HttpFlv => Form::Flv,
            SourceProtocol::Rtsp => Form::Rtp,
        }
    }

    /// Of the URL as it was given.
    pub fn digest(&self) -> UrlDigest {
        UrlDigest(Md5::digest(&self.text).into())
    }

    /// The URL as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Host and port, IPv6 in brackets: what a connect budget is counted by.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// An RTMP URL's app and stream name (with the query, if any), percent-decoded as encoders do:
    /// the first path segment is the app, two where there are more than two levels.
    pub fn rtmp_names(&self) -> (String, String) {
        let path = self.path.trim_matches('/');
        let levels = path.split('/').count();
        let app_levels = if levels > 2 { 2 } else { 1 };
        let split = path.match_indices('/').nth(app_levels - 1).map_or(path.len(), |(at, _)| at);
        let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let app = decode(&path[..split]);
        let mut stream = decode(path[split..].trim_start_matches('/'));
        if let Some(query) = &self.query {
            stream.push('?');
            stream.push_str(query);
        }
        (app, stream)
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtmp_urls_split_into_app_and_stream() {
        let table = [
            ("rtmp://h/live/a", "h", 1935, "live", "a"),
            ("rtmp://h:1936/live/a?sign=1&t=/x", "h", 1936, "live", "a?sign=1&t=/x"),
            ("rtmp://[::1]:1936/live/room/a", "::1", 1936, "live/room", "a"),
            ("rtmp://10.0.0.1/live/a/b/c", "10.0.0.1", 1935, "live/a", "b/c"),
        ];
        for (text, host, port, app, stream) in table {
            let url = SourceUrl::parse(text, false).unwrap();
            assert_eq!((url.host.as_str(), url.port), (host, port), "{text}");
            assert_eq!(url.rtmp_names(), (app.to_owned(), stream.to_owned()), "{text}");
            assert_eq!(url.as_str(), text);
        }
    }

    #[test]
    fn http_urls_keep_path_and_query() {
        let url = SourceUrl::parse("http://[::1]:8080/live/a.live.flv?x=%20y", false).unwrap();
        assert_eq!(url.protocol, SourceProtocol::HttpFlv);
        assert_eq!(url.authority(), "[::1]:8080");
        assert_eq!((url.path.as_str(), url.query.as_deref()), ("/live/a.live.flv", Some("x=%20y")));
    }

    #[test]
    fn rtsp_urls_may_have_a_user_and_any_path() {
        let table = [
            ("rtsp://h", "h", 554, ""),
            ("rtsp://u:p%40@h:8554/live/a?x=1", "h", 8554, "/live/a"),
            (
                "rtsp://u@[fe80::1]/Streaming/Channels/101",
                "fe80::1",
                554,
                "/Streaming/Channels/101",
            ),
        ];
        for (text, host, port, path) in table {
            let url = SourceUrl::parse(text, false).unwrap();
            assert_eq!(url.protocol, SourceProtocol::Rtsp);
            assert_eq!((url.host.as_str(), url.port, url.path.as_str()), (host, port, path));
            assert_eq!(url.as_str(), text);
        }
    }

    #[test]
    fn hosts_are_the_same_in_either_case() {
        for (text, authority) in [
            ("rtmp://Cam.LAN/live/A", "cam.lan:1935"),
            ("rtsp://Cam.LAN:8554/A", "cam.lan:8554"),
            ("http://Cam.LAN/live/A.flv", "cam.lan:80"),
        ] {
            let url = SourceUrl::parse(text, false).unwrap();
            assert_eq!((&*url.authority(), url.as_str()), (authority, text));
            assert!(url.path.contains('A'), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_pulled_says_why() {
        let table = [
            ("foo://127.0.0.1:1/live/x", SourceUrlError::Scheme),
            ("rtsps://h/live/x", SourceUrlError::Scheme),
            ("rtsp:///live/x", SourceUrlError::Host),
            ("http://h/live/x.m3u8", SourceUrlError::Scheme),
            ("rtmp://h/live", SourceUrlError::Path),
            ("rtmp://h", SourceUrlError::Path),
            ("live/x", SourceUrlError::Malformed),
        ];
        for (text, error) in table {
            assert_eq!(SourceUrl::parse(text, false), Err(error), "{text}");
        }
        assert!(SourceUrl::parse("http://h/live/x", true).is_ok());
    }

    #[test]
    fn login_goes_along_to_the_same_server_alone() {
        let login = Login { user: "u".to_owned(), password: "p@".to_owned() };
        let table = [
            ("http://h/a.flv", "http://h/b.flv", true),
            ("http://h/a.flv", "http://h:8081/b.flv", false),
            ("http://h/a.flv", "http://other/b.flv", false),
            ("rtsp://h/a", "rtsp://h:8554/b", true),
            ("rtsp://h/a", "rtsp://other/b", false),
            ("rtsp://h/a", "http://h/a.flv", false),
        ];
        for (from, to, goes) in table {
            let to = SourceUrl::parse(to, false).unwrap();
            let given = SourceUrl::parse(from, false).unwrap().with_login(Some(login.clone()));
            let within = SourceUrl::parse(&from.replace("://", "://u:p%40@"), false).unwrap();
            for from in [given, within] {
                let to = to.clone().with_login_of(&from);
                assert_eq!(to.login, goes.then(|| login.clone()), "{from} {to}");
            }
        }
        let camera =
            |text| SourceUrl::parse(text, false).unwrap().with_rtsp_login(Some(login.clone()));
        assert!(camera("rtsp://h/a").login.is_some());
        assert!(camera("http://h/a.flv").login.is_none());
    }

    #[test]
    fn login_is_part_of_the_url_that_is_asked_for_and_of_none_that_is_shown() {
        let (user, password) = ("ed/ge".to_owned(), "p@ss:%41".to_owned());
        let url = SourceUrl::parse("http://old:one@h:81/a.flv?x=1", false).unwrap();
        assert_eq!(url.to_url().as_str(), "http://old:one@h:81/a.flv?x=1");
        let url = SourceUrl::parse("http://h:81/a.flv?x=1", false).unwrap();
        let url = url.with_login(Some(Login { user, password }));
        assert_eq!(url.to_url().as_str(), "http://ed%2Fge:p%40ss%3A%2541@h:81/a.flv?x=1");
        assert_eq!(url.as_str(), "http://h:81/a.flv?x=1");
    }
}
