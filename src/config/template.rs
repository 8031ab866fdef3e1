//! The URL of an origin with places for the parts of a stream's name, and patterns of names.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::limits::PATTERN_LEN_MAX;

/// `rtmp://host/{app}/{stream}`: a URL whose path and query may have `{vhost}`, `{app}` and `{stream}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UrlTemplate {
    text: String,
    pieces: Vec<TemplatePiece>,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePiece {
    Text(String),
    Vhost,
    App,
    Stream,
}

/// Why a text is no template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("a template has {{vhost}}, {{app}} and {{stream}}, and no other braces")]
    Brace,
    #[error("a template is an rtmp://, http:// or rtsp:// URL with a host")]
    Url,
    #[error("scheme, host and port of a template must be fixed")]
    Authority,
    #[error("an RTMP template needs an app and a stream")]
    RtmpPath,
    #[error("a template may not have a fragment")]
    Fragment,
    #[error("an origin of ZLMediaKit has two %s, for app and stream")]
    ZlmPlaces,
}

/// Names of which `*` stands for any characters and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a pattern is not empty")]
    Empty,
    #[error("a pattern is longer than {PATTERN_LEN_MAX} bytes")]
    TooLong,
}

impl UrlTemplate {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub fn pieces(&self) -> &[TemplatePiece] {
        &self.pieces
    }

    /// Its protocol has a place for user and password.
    pub fn takes_login(&self) -> bool {
        !self.text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("rtmp:"))
    }

    /// ZLMediaKit's `cluster.origin_url`: templates with two `%s`, separated by `;`. Empty is none.
    ///
    /// # Errors
    /// [`TemplateError`] of the first that is wrong.
    pub fn parse_zlm(text: &str) -> Result<Vec<Self>, TemplateError> {
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        parts
            .map(|part| {
                if part.matches("%s").count() != 2 || part.contains(['{', '}']) {
                    return Err(TemplateError::ZlmPlaces);
                }
                Self::try_from(part.replacen("%s", "{app}", 1).replacen("%s", "{stream}", 1))
            })
            .collect()
    }
}

impl TryFrom<String> for UrlTemplate {
    type Error = TemplateError;

    fn try_from(text: String) -> Result<Self, TemplateError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let pieces = split(&text)?;
        let url = filled(&pieces, "x")?;
        if !matches!(url.scheme(), "rtmp" | "http" | "rtsp") || !url.has_host() {
            return Err(TemplateError::Url);
        }
        if url.fragment().is_some() {
            return Err(TemplateError::Fragment);
        }
        let other = filled(&pieces, "y")?;
        if other.authority() != url.authority() {
            return Err(TemplateError::Authority);
        }
        let levels = url.path().split('/').filter(|level| !level.is_empty()).count();
        if url.scheme() == "rtmp" && levels < 2 {
            return Err(TemplateError::RtmpPath);
        }
        Ok(Self { text, pieces })
    }
}

impl From<UrlTemplate> for String {
    fn from(template: UrlTemplate) -> Self {
        template.text
    }
}

/// With the same in all places.
fn filled(pieces: &[TemplatePiece], name: &str) -> Result<Url, TemplateError> {
    let text = |piece| match piece {
        TemplatePiece::Text(text) => text,
        _ => name.to_owned(),
    };
    let text: String = pieces.iter().cloned().map(text).collect();
    Url::parse(&text).map_err(|_| TemplateError::Url)
}

fn split(text: &str) -> Result<Vec<TemplatePiece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        if at > 0 {
            pieces.push(TemplatePiece::Text(rest[..at].to_owned()));
        }
        let (piece, place) = [
            (TemplatePiece::Vhost, "{vhost}"),
            (TemplatePiece::App, "{app}"),
            (TemplatePiece::Stream, "{stream}"),
        ]
        .into_iter()
        .find(|(_, place)| rest[at..].starts_with(place))
        .ok_or(TemplateError::Brace)?;
        pieces.push(piece);
        rest = &rest[at + place.len()..];
    }
    if !rest.is_empty() {
        pieces.push(TemplatePiece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

impl Pattern {
    /// Whether a name is of this pattern. Takes time in proportion to both lengths multiplied.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name): (Vec<char>, Vec<char>) =
            (self.0.chars().collect(), name.chars().collect());
        let (mut at, mut place) = (0, 0);
        // The last star, and the first character that it does not stand for.
        let mut star = None;
        while at < name.len() {
            match pattern.get(place) {
                Some('*') => {
                    star = Some((place, at));
                    place += 1;
                }
                Some(&want) if want == '?' || want == name[at] => (at, place) = (at + 1, place + 1),
                _ => {
                    let Some((of, from)) = star else { return false };
                    star = Some((of, from + 1));
                    (at, place) = (from + 1, of + 1);
                }
            }
        }
        pattern[place..].iter().all(|&left| left == '*')
    }
}

impl Default for Pattern {
    /// Every name.
    fn default() -> Self {
        Self("*".to_owned())
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        match text.len() {
            0 => Err(PatternError::Empty),
            len if len > PATTERN_LEN_MAX => Err(PatternError::TooLong),
            _ => Ok(Self(text)),
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Result<UrlTemplate, TemplateError> {
        UrlTemplate::try_from(text.to_owned())
    }

    #[test]
    fn a_template_is_a_url_with_places() {
        let parsed = template("rtmp://[::1]:1936/{app}/{stream}?v={vhost}").unwrap();
        let text = |text: &str| TemplatePiece::Text(text.to_owned());
        assert_eq!(
            parsed.pieces(),
            [
                text("rtmp://[::1]:1936/"),
                TemplatePiece::App,
                text("/"),
                TemplatePiece::Stream,
                text("?v="),
                TemplatePiece::Vhost,
            ]
        );
        assert!(template("http://o/one.flv").is_ok(), "it may be the same for all");
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_template() {
        for (text, error) in [
            ("rtmp://{app}/live/{stream}", TemplateError::Authority),
            ("rtmp://o{app}/live/{stream}", TemplateError::Authority),
            ("rtmp://o:{app}/live/{stream}", TemplateError::Url),
            ("{app}://o/live/{stream}", TemplateError::Url),
            ("http:////{app}/{stream}.flv", TemplateError::Authority),
            ("rtsp://u:{app}@o/{stream}", TemplateError::Authority),
            ("rtmp://o/{app}", TemplateError::RtmpPath),
            ("rtmp://o/{app}/{name}", TemplateError::Brace),
            ("rtmp://o/{app}/{stream", TemplateError::Brace),
            ("rtmp://o/{app}/stream}", TemplateError::Brace),
            ("http://o/{app}#{stream}", TemplateError::Fragment),
            ("ftp://o/{app}/{stream}", TemplateError::Url),
            ("{app}/{stream}", TemplateError::Url),
            ("rtmp:///{app}/{stream}", TemplateError::Url),
        ] {
            assert_eq!(template(text), Err(error), "{text}");
        }
    }

    #[test]
    fn origins_of_zlmediakit_have_two_places_each() {
        let parsed = UrlTemplate::parse_zlm(" rtmp://a/%s/%s ;rtsp://b:554/%s/%s; ").unwrap();
        let texts: Vec<&str> = parsed.iter().map(UrlTemplate::as_str).collect();
        assert_eq!(texts, ["rtmp://a/{app}/{stream}", "rtsp://b:554/{app}/{stream}"]);
        assert_eq!(UrlTemplate::parse_zlm(""), Ok(Vec::new()));
        for text in ["rtmp://a/%s/a", "rtmp://a/%s/%s/%s", "rtmp://a/{app}/%s%s"] {
            assert_eq!(UrlTemplate::parse_zlm(text), Err(TemplateError::ZlmPlaces), "{text}");
        }
        assert!(UrlTemplate::parse_zlm("rtmp://%s/live/%s").is_err());
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, is_match) in [
            ("*", "live/a", true),
            ("live/*", "live/a/b", true),
            ("live/*", "live2/a", false),
            ("*/cam?", "live/cam1", true),
            ("*/cam?", "live/cam", false),
            ("*a*b", "xaxbxb", true),
            ("*a*b", "xaxbx", false),
            ("live/a", "live/a", true),
            ("live/a", "live/ab", false),
            ("l*é?", "live/éa", true),
            ("a**", "a", true),
        ] {
            let parsed = Pattern::try_from(pattern.to_owned()).unwrap();
            assert_eq!(parsed.matches(name), is_match, "{pattern} {name}");
        }
        assert_eq!(Pattern::try_from(String::new()), Err(PatternError::Empty));
        let long = "x".repeat(PATTERN_LEN_MAX + 1);
        assert_eq!(Pattern::try_from(long), Err(PatternError::TooLong));
    }
}
