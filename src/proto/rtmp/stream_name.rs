//! From `connect` and the stream name of `publish` or `play` to app, stream and parameters, by
//! ZLMediaKit's rules.
//!
//! ```text
//! app           live/a?x=1       the first segment is the app, further ones go before the stream
//! stream name   mp4:b?token=t    -> app live, stream a/b.mp4, params token=t
//! ```

use crate::limits::PARAMS_LEN_MAX;
use crate::proto::rtmp::error::ServerError;

/// What a peer asks to publish or play. Nothing is validated but the length of `params`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRequest {
    pub app: String,
    pub stream: String,
    /// What followed the stream name's question mark, raw.
    pub params: String,
}

impl StreamRequest {
    pub(super) fn new(app: &str, name: &str) -> Result<Self, ServerError> {
        let (app_path, _) = split_query(app);
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
        Ok(Self { app: app.to_owned(), stream, params: params.to_owned() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_urls_is_split() {
        let table = [
            // app, name, then app, stream, params
            ("live", "cam", "live", "cam", ""),
            ("live", "cam?token=a&b=c", "live", "cam", "token=a&b=c"),
            ("live/a/b", "cam", "live", "a/b/cam", ""),
            ("live/cam", "", "live", "cam", ""),
            ("/live/", "/cam/", "live", "cam", ""),
            ("live?x=1", "cam", "live", "cam", ""),
            ("vod", "mp4:film", "vod", "film.mp4", ""),
            ("vod", "mp4:film.mp4", "vod", "film.mp4", ""),
            ("live", "flv:cam", "live", "cam", ""),
            ("live", "a:b", "live", "a:b", ""),
            ("", "", "", "", ""),
        ];
        for (app, name, app_out, stream, params) in table {
            let request = StreamRequest {
                app: app_out.to_owned(),
                stream: stream.to_owned(),
                params: params.to_owned(),
            };
            assert_eq!(StreamRequest::new(app, name), Ok(request), "{app} {name}");
        }
    }

    #[test]
    fn parameters_are_bounded() {
        let name = |len| format!("cam?{}", "x".repeat(len));
        assert!(StreamRequest::new("live", &name(PARAMS_LEN_MAX)).is_ok());
        assert_eq!(
            StreamRequest::new("live", &name(PARAMS_LEN_MAX + 1)),
            Err(ServerError::ParamsTooLong)
        );
    }
}
