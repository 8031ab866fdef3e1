//! The URL of a key at an origin: each part of its name percent-encoded (RFC 3986, 2.1), so that a name
//! is nothing but a name there.

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::{TemplatePiece, UrlTemplate};
use crate::media::{SourceUrl, StreamKey};

/// The template with a key's names, and more of a query. `None` where a name would lead elsewhere: an
/// empty or dotted level of the path, or a character that servers take for the path's end.
pub(super) fn expand(template: &UrlTemplate, key: &StreamKey, query: &str) -> Option<String> {
    let names = [key.vhost(), key.app(), key.stream()];
    if names.iter().any(|name| escapes(name)) {
        return None;
    }
    let mut text = String::new();
    for piece in template.pieces() {
        let name = match piece {
            TemplatePiece::Text(fixed) => {
                text.push_str(fixed);
                continue;
            }
            TemplatePiece::Vhost => key.vhost(),
            TemplatePiece::App => key.app(),
            TemplatePiece::Stream => key.stream(),
        };
        if text.contains('?') {
            text.push_str(&encode(name));
        } else {
            let levels: Vec<String> = name.split('/').map(encode).collect();
            text.push_str(&levels.join("/"));
        }
    }
    if !query.is_empty() {
        text.push(if text.contains('?') { '&' } else { '?' });
        text.push_str(query);
    }
    Some(text)
}

/// The host and port of a template.
pub(super) fn authority(template: &UrlTemplate) -> Option<String> {
    let key = StreamKey::in_default_vhost("x", "x").ok()?;
    SourceUrl::parse(&expand(template, &key, "")?, true).ok().map(|url| url.authority())
}

/// A name as one level of a path, or a value of a query.
pub(super) fn encode(name: &str) -> String {
    utf8_percent_encode(name, NAME).to_string()
}

/// A query as a peer sent it, with nothing in it that can't be in one.
pub(super) fn query(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

fn escapes(name: &str) -> bool {
    name.contains(['?', '#', '\\', '%'])
        || name.split('/').any(|level| matches!(level, "" | "." | ".."))
}

/// All but the unreserved characters (RFC 3986, 2.3).
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is no character of a query (RFC 3986, 3.4); a percent sign is what the peer made of it.
const QUERY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(template: &str, app: &str, stream: &str) -> Option<String> {
        let template = UrlTemplate::try_from(template.to_owned()).unwrap();
        expand(&template, &StreamKey::in_default_vhost(app, stream).unwrap(), "")
    }

    #[test]
    fn names_are_encoded_where_they_stand() {
        for (template, app, stream, expected) in [
            ("rtmp://o/{app}/{stream}", "live", "a", "rtmp://o/live/a"),
            ("rtmp://o/{app}/{stream}", "l v", "a/b&=é", "rtmp://o/l%20v/a/b%26%3D%C3%A9"),
            ("http://o/{stream}.flv", "x", "a@b:c;d", "http://o/a%40b%3Ac%3Bd.flv"),
            ("http://o/p?n={app}/{stream}", "x", "a/b", "http://o/p?n=x/a%2Fb"),
            ("rtsp://o/{stream}", "x", "...", "rtsp://o/..."),
        ] {
            let found = expanded(template, app, stream);
            assert_eq!(found.as_deref(), Some(expected), "{app} {stream}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for stream in
            ["..", ".", "../a", "a/../b", "a//b", "a/", "a?b", "a#b", "a\\b", "%2e%2e", "/a"]
        {
            assert_eq!(expanded("rtmp://o/{app}/{stream}", "live", stream), None, "{stream}");
        }
        assert_eq!(expanded("rtmp://o/{app}/{stream}", "..", "a"), None);
    }

    /// The URL that is parsed has the host of the template and the names of the key, whatever they are.
    #[test]
    fn a_name_is_found_again_at_the_host_of_the_template() {
        let template = UrlTemplate::try_from("rtmp://o:1/{app}/{stream}".to_owned()).unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..2000 {
            let text: String = (0..rng.usize(1..8)).map(|_| rng.choice(TRICKY).unwrap()).collect();
            let Ok(key) = StreamKey::in_default_vhost("live", &text) else { continue };
            let Some(url) = expand(&template, &key, "q=1") else { continue };
            let url = SourceUrl::parse(&url, true).expect("it is a URL");
            assert_eq!(
                (url.authority().as_str(), url.query.as_deref()),
                ("o:1", Some("q=1")),
                "{text}"
            );
            let (app, stream) = url.rtmp_names();
            assert_eq!(format!("{app}/{stream}"), format!("live/{text}?q=1"));
        }
    }

    const TRICKY: &[char] =
        &['a', '.', '/', '%', '2', 'e', ':', '@', '?', '#', '&', ' ', '\\', 'é', ';', '[', '|'];
}
