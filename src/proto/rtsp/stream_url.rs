//! From the address of a request to app, stream and parameters, as with RTMP.
//!
//! ```text
//! rtsp://user@h:554/live/room/a?token=t/trackID=1    -> app live, stream room/a,
//! rtsp://h/live/room/a/trackID=1?token=t                params token=t, track 1
//! ```
//!
//! Clients append the track to the whole address, query and all, or put it before the query.

use percent_encoding::percent_decode_str;

use crate::limits::PARAMS_LEN_MAX;

/// What a peer asks to publish or play. Nothing is validated but the length of `params`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRequest {
    /// As sent, without a track and without a slash at the end.
    pub url: String,
    pub app: String,
    pub stream: String,
    /// What followed the question mark, raw.
    pub params: String,
}

impl StreamRequest {
    /// `None` without app or stream, or with params longer than [`PARAMS_LEN_MAX`].
    pub fn parse(uri: &str) -> Option<Self> {
        let (url, _) = split_track(uri);
        let url = url.trim_end_matches('/').to_owned();
        let (scheme, rest) = url.split_once("://")?;
        if !["rtsp", "rtsps", "rtspu"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return None;
        }
        let (_, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (path, params) = rest.split_once('?').unwrap_or((rest, ""));
        let path = percent_decode_str(path.trim_matches('/')).decode_utf8_lossy();
        let (app, stream) = path.split_once('/')?;
        let stream = stream.trim_matches('/');
        if app.is_empty() || stream.is_empty() || params.len() > PARAMS_LEN_MAX {
            return None;
        }
        Some(Self {
            app: app.to_owned(),
            stream: stream.to_owned(),
            params: params.to_owned(),
            url,
        })
    }
}

/// The address without the track that our descriptions put behind it (`trackID=1`), and the track's
/// number.
pub fn split_track(uri: &str) -> (String, Option<usize>) {
    if let Some((url, track)) = split_suffix(uri) {
        return (url.to_owned(), Some(track));
    }
    if let Some((path, query)) = uri.split_once('?')
        && let Some((path, track)) = split_suffix(path)
    {
        return (format!("{path}?{query}"), Some(track));
    }
    (uri.to_owned(), None)
}

fn split_suffix(uri: &str) -> Option<(&str, usize)> {
    let (url, last) = uri.trim_end_matches('/').rsplit_once('/')?;
    let (name, number) = last.split_once('=')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (name.eq_ignore_ascii_case("trackid") && is_number).then_some(())?;
    Some((url, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split() {
        for (uri, parts) in [
            ("rtsp://h/live/a", ["rtsp://h/live/a", "live", "a", ""]),
            ("RTSP://h:554/live/a/", ["RTSP://h:554/live/a", "live", "a", ""]),
            (
                "rtsp://u:p@[::1]:554/live/r%20m/a?t=1&vhost=v/trackID=0",
                ["rtsp://u:p@[::1]:554/live/r%20m/a?t=1&vhost=v", "live", "r m/a", "t=1&vhost=v"],
            ),
            (
                "rtsp://[::1]/live/a/trackid=10/?t=/x",
                ["rtsp://[::1]/live/a?t=/x", "live", "a", "t=/x"],
            ),
            ("rtsp://h/live/trackID=x", ["rtsp://h/live/trackID=x", "live", "trackID=x", ""]),
        ] {
            let request = StreamRequest::parse(uri).unwrap();
            let StreamRequest { url, app, stream, params } = &request;
            assert_eq!([url, app, stream, params], parts, "{uri}");
        }
    }

    #[test]
    fn tracks_are_found() {
        for (uri, track) in [
            ("rtsp://h/live/a/trackID=1", Some(1)),
            ("rtsp://h/live/a/trackID=1/", Some(1)),
            ("rtsp://h/live/a?x/TrackId=7", Some(7)),
            ("rtsp://h/live/a/trackID=2?x", Some(2)),
            ("rtsp://h/live/a", None),
            ("rtsp://h/live/a/trackID=", None),
            ("rtsp://h/live/a/trackID=+1", None),
            ("rtsp://h/live/a/trackID=99999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(split_track(uri).1, track, "{uri}");
        }
    }

    #[test]
    fn what_names_no_stream_is_none() {
        let long = format!("rtsp://h/live/a?{}", "x".repeat(PARAMS_LEN_MAX + 1));
        for uri in [
            "",
            "*",
            "http://h/live/a",
            "rtsp://h",
            "rtsp://h/",
            "rtsp://h/live",
            "rtsp://h//a",
            &long,
        ] {
            assert_eq!(StreamRequest::parse(uri), None, "{uri}");
        }
    }
}
