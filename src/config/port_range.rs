//! A range of ports: `30000-34999`.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Ports, used in pairs of an even one and the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is no port range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    #[error("a port range is two numbers, such as 30000-34999")]
    Malformed,
    #[error("a port range has a pair at least: an even port above 1023 and the next")]
    NoPair,
}

impl PortRange {
    /// A range from its first port to its last.
    ///
    /// # Errors
    /// [`PortRangeError::NoPair`] where it has no even port with the next, or ports below 1024.
    pub fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        let range = Self { first, last };
        if first < 1024 || range.pairs().is_empty() {
            return Err(PortRangeError::NoPair);
        }
        Ok(range)
    }

    /// The pairs, each by half of its even port.
    pub fn pairs(&self) -> RangeInclusive<u16> {
        // The last pair ends with an odd port.
        self.first.div_ceil(2)..=(self.last.max(1) - 1) / 2
    }
}

impl TryFrom<String> for PortRange {
    type Error = PortRangeError;

    fn try_from(text: String) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').ok_or(PortRangeError::Malformed)?;
        let port = |text: &str| text.trim().parse().map_err(|_| PortRangeError::Malformed);
        Self::new(port(first)?, port(last)?)
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        format!("{}-{}", range.first, range.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PortRange, PortRangeError> {
        PortRange::try_from(text.to_owned())
    }

    #[test]
    fn pairs_are_whole() {
        for (text, pairs) in [
            ("30000-34999", 15_000..=17_499),
            ("30001-30003", 15_001..=15_001),
            ("30000-30002", 15_000..=15_000),
            ("65534-65535", 32_767..=32_767),
        ] {
            let range = parse(text).unwrap();
            assert_eq!(range.pairs(), pairs, "{text}");
            assert_eq!(String::from(range), text);
        }
    }

    #[test]
    fn what_has_no_pair_is_refused() {
        for text in ["", "30000", "a-b", "1-65536", "-1-5"] {
            assert_eq!(parse(text), Err(PortRangeError::Malformed), "{text}");
        }
        for text in ["30000-30000", "30001-30002", "30002-30001", "1000-2000", "0-0"] {
            assert_eq!(parse(text), Err(PortRangeError::NoPair), "{text}");
        }
    }
}
