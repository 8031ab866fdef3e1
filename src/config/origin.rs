//! Where streams come from that players ask for and nobody brings.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::template::{Pattern, UrlTemplate};
use super::{TIME_MS_MAX, ValueError};
use crate::limits::ORIGINS_MAX;

/// Pull on demand. ZLMediaKit's `cluster.` keys are its first three.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DemandSection {
    pub origin_url: String,
    pub timeout_ms: u64,
    pub retry_count: u32,
    pub hops_max: u32,
    pub not_found_ms: u64,
    pub failed_ms: u64,
    pub avoid_ms: u64,
}

/// One `[[origin]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginEntry {
    pub url: UrlTemplate,
    #[serde(rename = "match")]
    pub pattern: Pattern,
    pub priority: u32,
    pub weight: u32,
    pub timeout_ms: u64,
    pub connects_max: u32,
    pub connects_per_second_max: u32,
    pub user: String,
    pub password: String,
    pub pass_query: bool,
    pub send_hops: bool,
    pub retry_count: u32,
    pub retry_on: Vec<RetryClass>,
}

/// A class of failures after which an origin may be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryClass {
    Unresolved,
    Refused,
    Unreachable,
    TimedOut,
    Rejected,
    NotFound,
    Silent,
    ProtocolError,
    Lost,
}

impl Default for DemandSection {
    fn default() -> Self {
        Self {
            origin_url: String::new(),
            timeout_ms: 15_000,
            retry_count: 3,
            hops_max: 4,
            not_found_ms: 10_000,
            failed_ms: 2_000,
            avoid_ms: 10_000,
        }
    }
}

impl Default for OriginEntry {
    fn default() -> Self {
        Self {
            url: UrlTemplate::default(),
            pattern: Pattern::default(),
            priority: 0,
            weight: 1,
            timeout_ms: 5_000,
            connects_max: 64,
            connects_per_second_max: 256,
            user: String::new(),
            password: String::new(),
            pass_query: false,
            send_hops: true,
            retry_count: 1,
            retry_on: vec![RetryClass::Refused, RetryClass::Unreachable, RetryClass::Lost],
        }
    }
}

impl DemandSection {
    /// The origins of `origin_url`, which [`Self::validate`] has looked at.
    pub fn zlm_origins(&self) -> Vec<UrlTemplate> {
        UrlTemplate::parse_zlm(&self.origin_url).unwrap_or_default()
    }

    pub(super) fn ranges(&self) -> [(&'static str, u64, RangeInclusive<u64>); 6] {
        [
            ("demand.timeout_ms", self.timeout_ms, 100..=TIME_MS_MAX),
            ("demand.retry_count", self.retry_count.into(), 0..=1000),
            ("demand.hops_max", self.hops_max.into(), 1..=16),
            ("demand.not_found_ms", self.not_found_ms, 0..=TIME_MS_MAX),
            ("demand.failed_ms", self.failed_ms, 0..=TIME_MS_MAX),
            ("demand.avoid_ms", self.avoid_ms, 0..=TIME_MS_MAX),
        ]
    }

    pub(super) fn validate(&self) -> Result<(), ValueError> {
        let fault = |reason: String| ValueError { key: "demand.origin_url", reason };
        let templates = UrlTemplate::parse_zlm(&self.origin_url);
        match templates.map_err(|error| fault(error.to_string()))?.len() {
            count if count > ORIGINS_MAX => Err(fault(format!("is more than {ORIGINS_MAX}"))),
            _ => Ok(()),
        }
    }
}

/// Checks every `[[origin]]`.
///
/// # Errors
/// [`ValueError`] with the first key that is wrong; the reason says of which entry.
pub(super) fn validate(origins: &[OriginEntry]) -> Result<(), ValueError> {
    if origins.len() > ORIGINS_MAX {
        let reason = format!("more than {ORIGINS_MAX} entries");
        return Err(ValueError { key: "origin.url", reason });
    }
    for (number, origin) in (1..).zip(origins) {
        origin.validate().map_err(|(key, reason)| {
            let reason = format!("in entry {number}: {reason}");
            ValueError { key, reason }
        })?;
    }
    Ok(())
}

/// What is valid and may still surprise, on so many shards.
pub(super) fn warnings(origins: &[OriginEntry], shards: usize) -> Vec<String> {
    let is_slow =
        |origin: &&OriginEntry| (1..shards as u64).contains(&origin.connects_per_second_max.into());
    let warning = |origin: &OriginEntry| {
        let (url, rate) = (origin.url.as_str(), origin.connects_per_second_max);
        let ms = 1000 * shards as u64 / u64::from(rate);
        format!(
            "origin.connects_per_second_max: {rate} of {url} is less than one a second for each of \
             {shards} shards: a second stream of a shard waits up to {ms} ms for its turn, and others \
             longer; who can't wait for so long is refused as busy"
        )
    };
    origins.iter().filter(is_slow).map(warning).collect()
}

impl OriginEntry {
    /// The first key that is wrong, and why.
    fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.url.is_empty() {
            return Err(("origin.url", "is empty".to_owned()));
        }
        for (key, value, range) in self.ranges() {
            if !range.contains(&value) {
                let (min, max) = range.into_inner();
                return Err((key, format!("{value} is not in {min} to {max}")));
            }
        }
        let login = [&self.user, &self.password];
        if login.iter().any(|text| text.chars().any(char::is_control)) {
            return Err(("origin.user", "has control characters".to_owned()));
        }
        if !self.url.takes_login() && login.iter().any(|text| !text.is_empty()) {
            return Err(("origin.user", "is not for RTMP, which has none".to_owned()));
        }
        Ok(())
    }

    pub(super) fn ranges(&self) -> [(&'static str, u64, RangeInclusive<u64>); 6] {
        [
            ("origin.priority", self.priority.into(), 0..=1_000_000),
            ("origin.weight", self.weight.into(), 1..=1_000_000),
            ("origin.timeout_ms", self.timeout_ms, 100..=TIME_MS_MAX),
            ("origin.connects_max", self.connects_max.into(), 1..=65_536),
            ("origin.connects_per_second_max", self.connects_per_second_max.into(), 0..=1_000_000),
            ("origin.retry_count", self.retry_count.into(), 0..=100),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const EXAMPLE: &str = include_str!("../../docs/rillcast.example.toml");

    /// The entry of the example, where it is a comment because there is none by default.
    fn example() -> String {
        let entry = EXAMPLE.split("#[[origin]]\n").nth(1).expect("an entry in the example");
        let lines = entry.lines().take_while(|line| line.starts_with('#') || line.is_empty());
        lines.map(|line| line.trim_start_matches('#').to_owned() + "\n").collect()
    }

    fn parse(entry: &str) -> Result<Config, String> {
        Config::parse(&format!("[[origin]]\n{entry}")).map_err(|(_, reason)| reason)
    }

    #[test]
    fn the_example_of_an_entry_has_every_key_with_its_default_and_range() {
        let keys: Vec<String> = example()
            .lines()
            .filter(|line| line.contains(" = ") && !line.starts_with(' '))
            .map(|line| line.to_owned() + "\n")
            .collect();
        let config = parse(&keys.concat()).unwrap();
        let url = config.origin[0].url.clone();
        let expected = OriginEntry { url, ..OriginEntry::default() };
        assert_eq!((config.origin.len(), &config.origin[0]), (1, &expected));
        let all = toml::Table::try_from(expected).unwrap();
        assert_eq!(keys.len(), all.len());
        for (key, _, range) in config.origin[0].ranges() {
            let range = format!("{} to {}", range.start(), range.end());
            assert!(example().contains(&range), "{key}: {range}");
        }
    }

    #[test]
    fn a_rate_below_one_a_second_and_shard_is_warned_of() {
        let warnings = |rate: &str, shards| {
            let config = parse(&format!("url = \"rtmp://o/a/{{stream}}\"\n{rate}\n")).unwrap();
            config.warnings(shards)
        };
        for (rate, shards) in [("", 64), ("connects_per_second_max = 0", 64)] {
            assert!(warnings(rate, shards).is_empty(), "{rate} {shards}");
        }
        let rate = "connects_per_second_max = 4";
        assert!(warnings(rate, 4).is_empty());
        let [warning] = &warnings(rate, 6)[..] else { panic!("one warning") };
        for part in ["origin.connects_per_second_max: 4 of rtmp://o/a/", "6 shards", "1500 ms"] {
            assert!(warning.contains(part), "{warning}");
        }
    }

    #[test]
    fn what_is_wrong_in_an_entry_says_where() {
        for (entry, reason) in [
            ("priority = 1\n", "origin.url: in entry 1: is empty"),
            ("url = \"rtmp://o/{x}/y\"\n", "no other braces"),
            (
                "url = \"rtmp://o/a/{stream}\"\nuser = \"u\"\n",
                "origin.user: in entry 1: is not for",
            ),
            ("url = \"http://o/{stream}.flv\"\nweight = 0\n", "0 is not in 1 to 1000000"),
            ("url = \"http://o/{stream}.flv\"\nretry_on = [\"busy\"]\n", "unknown variant"),
            ("url = \"http://o/{stream}.flv\"\nmatch = \"\"\n", "not empty"),
            ("url = \"http://o/{stream}.flv\"\nport = 1\n", "unknown field"),
        ] {
            let found = parse(entry).expect_err(entry);
            assert!(found.contains(reason), "{entry}: {found}");
        }
        let many = "[[origin]]\nurl = \"rtsp://o/{stream}\"\n".repeat(ORIGINS_MAX + 1);
        assert!(Config::parse(&many).is_err());
    }
}
