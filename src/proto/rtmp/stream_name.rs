//! From `connect` and the stream name of `publish` or `play` to app, stream and parameters, by
//! ZLMediaKit's rules.
//!
//! ```text
//! app           live/a?x=1       the first segment is the app, further ones go before the stream
//! tcUrl         rtmp://h:1935/live/a?vhost=v
//! stream name   mp4:b?token=t    -> app live, stream a/b.mp4, params token=t, host v
//! ```

use crate::limits::PARAMS_LEN_MAX;
use crate::proto::rtmp::error::ServerError;

/// What a peer asks to publish or play. Nothing is validated but the length of `params`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRequest {
    /// The host of `tcUrl` without port, or the `vhost` parameter. May be empty or an address.
    pub vhost_host: String,
    pub app: String,
    pub stream: String,
    /// What followed the stream name's question mark, raw.
    pub params: String,
}

impl StreamRequest {
    pub(super) fn new(app: &str, tc_url: &str, name: &str) -> Result<Self, ServerError> {
        let (app_path, app_query) = split_query(app);
        let (name_path, params) = split_query(name);
        if params.len() > PARAMS_LEN_MAX {
            return Err(ServerError::ParamsTooLong);
        }
        let app_path = app_path.trim_matches('/');
        let (app, prefix) = app_path.split_once('/').unwrap_or((app_path, ""));
        let stem = strip_format(name_path.trim_matches('/'));
        let stream = match (prefix.is_empty(), stem.is_empty()) {
            (true, _) => stem,
            (false, true) => prefix.to_owned(),
            (false, false) => format!("{prefix}/{stem}"),
        };
        let (tc_path, tc_query) = split_query(tc_url);
        let vhost = [params, app_query, tc_query].into_iter().find_map(vhost_parameter);
        Ok(Self {
            vhost_host: vhost.unwrap_or_else(|| host(tc_path)).to_owned(),
            app: app.to_owned(),
            stream,
            params: params.to_owned(),
        })
    }
}

fn split_query(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

/// Players of Flash ancestry ask for `rtmp://h/app/x.mp4` as `mp4:x`, some as `mp4:x.mp4`.
fn strip_format(name: &str) -> String {
    if let Some(name) = name.strip_prefix("flv:") {
        return name.to_owned();
    }
    match name.strip_prefix("mp4:") {
        Some(stem) if stem.ends_with(".mp4") => stem.to_owned(),
        Some(stem) => format!("{stem}.mp4"),
        None => name.to_owned(),
    }
}

/// The value of `vhost`; a path may follow it where the query stood in the middle of an URL.
fn vhost_parameter(query: &str) -> Option<&str> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("vhost="))?;
    value.split('/').next().filter(|vhost| !vhost.is_empty())
}

fn host(url: &str) -> &str {
    let Some((_, rest)) = url.split_once("://") else { return "" };
    let authority = rest.split('/').next().unwrap_or("");
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    authority.split(':').next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_urls_is_split() {
        let url = "rtmp://h.example:1935/live";
        let table = [
            // app, tcUrl, name, then host, app, stream, params
            ("live", url, "cam", "h.example", "live", "cam", ""),
            ("live", url, "cam?token=a&b=c", "h.example", "live", "cam", "token=a&b=c"),
            ("live/a/b", url, "cam", "h.example", "live", "a/b/cam", ""),
            ("live/cam", url, "", "h.example", "live", "cam", ""),
            ("/live/", url, "/cam/", "h.example", "live", "cam", ""),
            ("live?x=1", url, "cam", "h.example", "live", "cam", ""),
            ("live?vhost=v.example", url, "cam", "v.example", "live", "cam", ""),
            ("live", "rtmp://h/live?a=b&vhost=v/x", "cam", "v", "live", "cam", ""),
            ("live", url, "cam?vhost=v", "v", "live", "cam", "vhost=v"),
            ("live", url, "cam?vhost=", "h.example", "live", "cam", "vhost="),
            ("vod", url, "mp4:film", "h.example", "vod", "film.mp4", ""),
            ("vod", url, "mp4:film.mp4", "h.example", "vod", "film.mp4", ""),
            ("live", url, "flv:cam", "h.example", "live", "cam", ""),
            ("live", url, "a:b", "h.example", "live", "a:b", ""),
            ("live", "rtmp://[2001:db8::1]:1935/live", "cam", "2001:db8::1", "live", "cam", ""),
            ("live", "rtmp://u:p@h/live", "cam", "h", "live", "cam", ""),
            ("live", "nonsense", "cam", "", "live", "cam", ""),
            ("", "", "", "", "", "", ""),
        ];
        for (app, tc_url, name, host, app_out, stream, params) in table {
            let request = StreamRequest {
                vhost_host: host.to_owned(),
                app: app_out.to_owned(),
                stream: stream.to_owned(),
                params: params.to_owned(),
            };
            assert_eq!(StreamRequest::new(app, tc_url, name), Ok(request), "{app} {name}");
        }
    }

    #[test]
    fn parameters_are_bounded() {
        let name = |len| format!("cam?{}", "x".repeat(len));
        assert!(StreamRequest::new("live", "", &name(PARAMS_LEN_MAX)).is_ok());
        assert_eq!(
            StreamRequest::new("live", "", &name(PARAMS_LEN_MAX + 1)),
            Err(ServerError::ParamsTooLong)
        );
    }
}
