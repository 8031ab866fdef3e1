//! Why a file is no config, and where in it.

use std::ops::Range;
use std::path::PathBuf;

/// Why a file is no config; one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Invalid { path: PathBuf, line: usize, column: usize, reason: String },
}

/// A value that its key cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct ValueError {
    /// `section.key`.
    pub key: &'static str,
    pub reason: String,
}

/// Where `section.key` stands in a file that parses; its section's place if the key has none.
pub(super) fn find_key(text: &str, key: &str) -> Option<Range<usize>> {
    let (section, name) = key.split_once('.')?;
    let table = toml::de::DeTable::parse(text).ok()?;
    let (_, section) = table.get_ref().iter().find(|(found, _)| found.get_ref() == section)?;
    let Some(keys) = section.get_ref().as_table() else { return Some(section.span()) };
    let found = keys.iter().find(|(found, _)| found.get_ref() == name);
    Some(found.map_or_else(|| section.span(), |(_, value)| value.span()))
}

/// Line and column of a byte, both from 1; the column counts characters.
pub(super) fn line_and_column(text: &str, place: usize) -> (usize, usize) {
    let mut end = place.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
