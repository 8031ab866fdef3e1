//! The name of a stream: vhost, app and stream.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::limits::KEY_LEN_MAX;

/// The vhost of every stream while vhosts are off, as ZLMediaKit calls it.
pub const DEFAULT_VHOST: &str = "__defaultVhost__";

/// A stream's name. Cheap to clone; shows as `vhost/app/stream`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    text: Arc<str>,
    app_start: u16,
    stream_start: u16,
}

/// Why a text is no stream key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("vhost, app and stream must not be empty")]
    Empty,
    #[error("vhost, app and stream are longer than {KEY_LEN_MAX} bytes together")]
    TooLong,
    #[error("control characters are not allowed in a stream key")]
    ControlCharacter,
    #[error("vhost and app must not contain a slash")]
    Slash,
}

impl StreamKey {
    /// A key of the three parts. `stream` may contain slashes; the other two may not.
    ///
    /// # Errors
    /// [`KeyError`] when a part is empty, too long, or has characters that no name may have.
    pub fn new(vhost: &str, app: &str, stream: &str) -> Result<Self, KeyError> {
        if vhost.is_empty() || app.is_empty() || stream.is_empty() {
            return Err(KeyError::Empty);
        }
        if vhost.len() + app.len() + stream.len() > KEY_LEN_MAX {
            return Err(KeyError::TooLong);
        }
        if [vhost, app, stream].iter().any(|part| part.chars().any(char::is_control)) {
            return Err(KeyError::ControlCharacter);
        }
        if vhost.contains('/') || app.contains('/') {
            return Err(KeyError::Slash);
        }
        let app_start = vhost.len() + 1;
        let stream_start = app_start + app.len() + 1;
        Ok(Self {
            text: format!("{vhost}/{app}/{stream}").into(),
            app_start: u16::try_from(app_start).expect("bounded by KEY_LEN_MAX"),
            stream_start: u16::try_from(stream_start).expect("bounded by KEY_LEN_MAX"),
        })
    }

    /// A key in the default vhost.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn in_default_vhost(app: &str, stream: &str) -> Result<Self, KeyError> {
        Self::new(DEFAULT_VHOST, app, stream)
    }

    /// Parses `vhost/app/stream`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (vhost, rest) = text.split_once('/').ok_or(KeyError::Empty)?;
        let (app, stream) = rest.split_once('/').ok_or(KeyError::Empty)?;
        Self::new(vhost, app, stream)
    }

    pub fn vhost(&self) -> &str {
        &self.text[..usize::from(self.app_start) - 1]
    }

    pub fn app(&self) -> &str {
        &self.text[usize::from(self.app_start)..usize::from(self.stream_start) - 1]
    }

    pub fn stream(&self) -> &str {
        &self.text[usize::from(self.stream_start)..]
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Hash for StreamKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_again() {
        let key = StreamKey::new("v", "live", "a/b").unwrap();
        assert_eq!((key.vhost(), key.app(), key.stream()), ("v", "live", "a/b"));
        assert_eq!(key.to_string(), "v/live/a/b");
        assert_eq!(StreamKey::parse("v/live/a/b"), Ok(key));
    }

    #[test]
    fn bad_names_are_refused() {
        assert_eq!(StreamKey::new("", "a", "b"), Err(KeyError::Empty));
        assert_eq!(StreamKey::new("v", "a/b", "c"), Err(KeyError::Slash));
        assert_eq!(StreamKey::new("v", "a", "c\n"), Err(KeyError::ControlCharacter));
        assert_eq!(StreamKey::new("v", "a", &"x".repeat(KEY_LEN_MAX)), Err(KeyError::TooLong));
        assert_eq!(StreamKey::parse("a/b"), Err(KeyError::Empty));
    }
}
