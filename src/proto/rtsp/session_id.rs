//! The `Session` header (RFC 2326, 12.37): an opaque name, and how long it lives without a sign of
//! life.

use std::time::Duration;

use crate::limits::SESSION_ID_LEN_MAX;

/// A session's name and its timeout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionId {
    pub id: String,
    /// `None` where the header does not tell: [`TIMEOUT_DEFAULT`], or what was told before.
    pub timeout: Option<Duration>,
}

impl SessionId {
    /// Reads `id[;timeout=seconds]`. `None` without an id, or for one that is longer than
    /// [`SESSION_ID_LEN_MAX`].
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split(';').map(str::trim);
        let id = parts.next().filter(|id| (1..=SESSION_ID_LEN_MAX).contains(&id.len()))?;
        let timeout = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            let seconds = value.trim().trim_matches('"').parse::<u32>().ok()?;
            name.trim().eq_ignore_ascii_case("timeout").then_some(seconds)
        });
        let timeout = timeout.filter(|seconds| *seconds > 0);
        let timeout = timeout.map(|seconds| Duration::from_secs(seconds.into()));
        Some(Self { id: id.to_owned(), timeout })
    }
}

/// What RFC 2326, 12.37 says for a server that does not tell.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_timeout_are_read() {
        for (value, id, seconds) in [
            ("12345678", "12345678", None),
            ("abc;timeout=30", "abc", Some(30)),
            (" a b ; Timeout = \"15\" ; x", "a b", Some(15)),
            ("abc;timeout=0", "abc", None),
            ("abc;timeout=soon", "abc", None),
        ] {
            let session = SessionId::parse(value).unwrap();
            let timeout = seconds.map(Duration::from_secs);
            assert_eq!((session.id.as_str(), session.timeout), (id, timeout), "{value}");
        }
        assert_eq!(SessionId::parse(""), None);
        assert_eq!(SessionId::parse(";timeout=3"), None);
        assert_eq!(SessionId::parse(&"x".repeat(SESSION_ID_LEN_MAX + 1)), None);
    }
}
