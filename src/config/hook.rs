//! Web hooks: which events and questions go to which URL. Each key is also one of ZLMediaKit's, or
//! ours under its `hook.`, and acts as soon as it is set through the API.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use url::Url;

use super::zlm::{parse_flag, parse_seconds, to_seconds};
use super::{TIME_MS_MAX, ValueError};
use crate::limits::HOOK_QUESTIONS_MAX;

/// What is told or asked over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    Play,
    Publish,
    StreamChanged,
    StreamNoneReader,
    StreamNotFound,
    FlowReport,
    ServerStarted,
    ServerKeepalive,
    ServerExited,
    ProxyState,
}

impl Hook {
    pub const ALL: [Self; 10] = [
        Self::Play,
        Self::Publish,
        Self::StreamChanged,
        Self::StreamNoneReader,
        Self::StreamNotFound,
        Self::FlowReport,
        Self::ServerStarted,
        Self::ServerKeepalive,
        Self::ServerExited,
        Self::ProxyState,
    ];

    /// `section.key`, here and in ZLMediaKit.
    pub fn key(self) -> &'static str {
        match self {
            Self::Play => "hook.on_play",
            Self::Publish => "hook.on_publish",
            Self::StreamChanged => "hook.on_stream_changed",
            Self::StreamNoneReader => "hook.on_stream_none_reader",
            Self::StreamNotFound => "hook.on_stream_not_found",
            Self::FlowReport => "hook.on_flow_report",
            Self::ServerStarted => "hook.on_server_started",
            Self::ServerKeepalive => "hook.on_server_keepalive",
            Self::ServerExited => "hook.on_server_exited",
            Self::ProxyState => "hook.on_proxy_state",
        }
    }
}

/// Web hooks. A URL that is empty is not called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookSection {
    pub enable: bool,
    pub on_play: String,
    pub on_publish: String,
    pub on_stream_changed: String,
    pub on_stream_none_reader: String,
    pub on_stream_not_found: String,
    pub on_flow_report: String,
    pub on_server_started: String,
    pub on_server_keepalive: String,
    pub on_server_exited: String,
    pub on_proxy_state: String,
    pub stream_changed_schemas: String,
    pub flow_threshold_kb: u64,
    pub timeout_ms: u64,
    pub retry_count: u64,
    pub retry_delay_ms: u64,
    pub alive_interval_ms: u64,
    pub fail_open: bool,
    pub verdict_cache_ms: u64,
    pub queue_max: u64,
    pub concurrent_max: u64,
    pub hmac_secret: String,
}

impl Default for HookSection {
    fn default() -> Self {
        Self {
            enable: false,
            on_play: String::new(),
            on_publish: String::new(),
            on_stream_changed: String::new(),
            on_stream_none_reader: String::new(),
            on_stream_not_found: String::new(),
            on_flow_report: String::new(),
            on_server_started: String::new(),
            on_server_keepalive: String::new(),
            on_server_exited: String::new(),
            on_proxy_state: String::new(),
            stream_changed_schemas: "rtsp/rtmp/fmp4/ts/hls/hls.fmp4".to_owned(),
            flow_threshold_kb: 1024,
            timeout_ms: 10_000,
            retry_count: 1,
            retry_delay_ms: 3000,
            alive_interval_ms: 10_000,
            fail_open: false,
            verdict_cache_ms: 0,
            queue_max: 10_000,
            concurrent_max: 128,
            hmac_secret: String::new(),
        }
    }
}

impl HookSection {
    /// Whether this is told or asked.
    pub fn wants(&self, hook: Hook) -> bool {
        self.enable && !self.text(hook).is_empty()
    }

    /// The URL of a hook that is wanted.
    pub fn url(&self, hook: Hook) -> Option<Url> {
        if self.wants(hook) { Url::parse(self.text(hook)).ok() } else { None }
    }

    /// Whether a change of streams of a schema is told; an empty list is all.
    pub fn tells_schema(&self, schema: &str) -> bool {
        let list = &self.stream_changed_schemas;
        list.is_empty() || list.split('/').any(|listed| listed == schema)
    }

    /// Calls at once of a hook whose answer somebody waits for.
    pub fn questions_max(&self) -> usize {
        usize::try_from(self.concurrent_max).unwrap_or(HOOK_QUESTIONS_MAX)
    }

    pub(super) fn ranges(&self) -> [(&'static str, u64, RangeInclusive<u64>); 8] {
        [
            ("hook.flow_threshold_kb", self.flow_threshold_kb, 0..=1 << 40),
            ("hook.timeout_ms", self.timeout_ms, 100..=TIME_MS_MAX),
            ("hook.retry_count", self.retry_count, 0..=100),
            ("hook.retry_delay_ms", self.retry_delay_ms, 0..=TIME_MS_MAX),
            ("hook.alive_interval_ms", self.alive_interval_ms, 100..=TIME_MS_MAX),
            ("hook.verdict_cache_ms", self.verdict_cache_ms, 0..=TIME_MS_MAX),
            ("hook.queue_max", self.queue_max, 1..=1_000_000),
            ("hook.concurrent_max", self.concurrent_max, 1..=HOOK_QUESTIONS_MAX as u64),
        ]
    }

    pub(super) fn validate(&self) -> Result<(), ValueError> {
        for hook in Hook::ALL {
            let text = self.text(hook);
            let is_http = |url: &Url| url.scheme() == "http" && url.has_host();
            if !text.is_empty() && !Url::parse(text).as_ref().is_ok_and(is_http) {
                let reason = "is no http:// URL".to_owned();
                return Err(ValueError { key: hook.key(), reason });
            }
        }
        Ok(())
    }

    /// Every key under ZLMediaKit's name. The secret is in the file only: all of these are told to
    /// `on_server_started`, whose connection is in clear.
    pub(super) fn zlm_values(&self) -> Vec<(&'static str, String)> {
        let mut values: Vec<_> =
            Hook::ALL.iter().map(|&hook| (hook.key(), self.text(hook).to_owned())).collect();
        let flag = |on: bool| u8::from(on).to_string();
        values.extend([
            ("hook.enable", flag(self.enable)),
            ("hook.stream_changed_schemas", self.stream_changed_schemas.clone()),
            ("general.flowThreshold", self.flow_threshold_kb.to_string()),
            ("hook.timeoutSec", to_seconds(self.timeout_ms)),
            ("hook.retry", self.retry_count.to_string()),
            ("hook.retry_delay", to_seconds(self.retry_delay_ms)),
            ("hook.alive_interval", to_seconds(self.alive_interval_ms)),
            ("hook.fail_open", flag(self.fail_open)),
            ("hook.verdict_cache_ms", self.verdict_cache_ms.to_string()),
            ("hook.queue_max", self.queue_max.to_string()),
            ("hook.concurrent_max", self.concurrent_max.to_string()),
        ]);
        values
    }

    /// Sets a key by ZLMediaKit's name; `None` when the text is no value of it, or there is none.
    pub(super) fn set_zlm(&mut self, name: &str, text: &str) -> Option<()> {
        if let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.key() == name) {
            *self.text_mut(hook) = text.to_owned();
            return Some(());
        }
        match name {
            "hook.enable" => self.enable = parse_flag(text)?,
            "hook.stream_changed_schemas" => self.stream_changed_schemas = text.to_owned(),
            "general.flowThreshold" => self.flow_threshold_kb = text.parse().ok()?,
            "hook.timeoutSec" => self.timeout_ms = parse_seconds(text)?,
            "hook.retry" => self.retry_count = text.parse().ok()?,
            "hook.retry_delay" => self.retry_delay_ms = parse_seconds(text)?,
            "hook.alive_interval" => self.alive_interval_ms = parse_seconds(text)?,
            "hook.fail_open" => self.fail_open = parse_flag(text)?,
            "hook.verdict_cache_ms" => self.verdict_cache_ms = text.parse().ok()?,
            "hook.queue_max" => self.queue_max = text.parse().ok()?,
            "hook.concurrent_max" => self.concurrent_max = text.parse().ok()?,
            _ => return None,
        }
        Some(())
    }

    fn text(&self, hook: Hook) -> &str {
        match hook {
            Hook::Play => &self.on_play,
            Hook::Publish => &self.on_publish,
            Hook::StreamChanged => &self.on_stream_changed,
            Hook::StreamNoneReader => &self.on_stream_none_reader,
            Hook::StreamNotFound => &self.on_stream_not_found,
            Hook::FlowReport => &self.on_flow_report,
            Hook::ServerStarted => &self.on_server_started,
            Hook::ServerKeepalive => &self.on_server_keepalive,
            Hook::ServerExited => &self.on_server_exited,
            Hook::ProxyState => &self.on_proxy_state,
        }
    }

    fn text_mut(&mut self, hook: Hook) -> &mut String {
        match hook {
            Hook::Play => &mut self.on_play,
            Hook::Publish => &mut self.on_publish,
            Hook::StreamChanged => &mut self.on_stream_changed,
            Hook::StreamNoneReader => &mut self.on_stream_none_reader,
            Hook::StreamNotFound => &mut self.on_stream_not_found,
            Hook::FlowReport => &mut self.on_flow_report,
            Hook::ServerStarted => &mut self.on_server_started,
            Hook::ServerKeepalive => &mut self.on_server_keepalive,
            Hook::ServerExited => &mut self.on_server_exited,
            Hook::ProxyState => &mut self.on_proxy_state,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Hook, ZlmSet};

    #[test]
    fn every_hook_is_set_and_wanted_by_its_own_key() {
        for hook in Hook::ALL {
            let mut config = Config::default();
            assert_eq!(config.set_zlm(hook.key(), "http://h:1/x"), ZlmSet::Changed);
            assert!(!config.hook.wants(hook), "hooks are off");
            assert_eq!(config.set_zlm("hook.enable", "1"), ZlmSet::Changed);
            for other in Hook::ALL {
                assert_eq!(config.hook.wants(other), other == hook, "{}", other.key());
            }
            assert_eq!(config.hook.url(hook).unwrap().as_str(), "http://h:1/x");
            assert_eq!(config.zlm_map()[hook.key()], "http://h:1/x");
        }
    }

    #[test]
    fn the_secret_of_signatures_is_told_nobody() {
        let mut config = Config::default();
        config.hook.hmac_secret = "k3y".to_owned();
        assert!(config.zlm_map().values().all(|value| value != "k3y"));
        assert_eq!(config.set_zlm("hook.hmac_secret", "other"), ZlmSet::Unknown);
    }

    #[test]
    fn times_are_seconds_in_zlmediakits_words() {
        let mut config = Config::default();
        for (name, value) in [("hook.timeoutSec", "30"), ("hook.retry_delay", "0.5")] {
            assert_eq!(config.set_zlm(name, value), ZlmSet::Changed, "{name}");
            assert_eq!(config.zlm_map()[name], value);
        }
        assert_eq!((config.hook.timeout_ms, config.hook.retry_delay_ms), (30_000, 500));
        for (name, value) in
            [("hook.timeoutSec", "0"), ("hook.retry", "x"), ("hook.on_play", "https://h/x")]
        {
            assert_eq!(config.set_zlm(name, value), ZlmSet::Invalid, "{name}={value}");
        }
    }

    #[test]
    fn schemas_are_listed_between_slashes() {
        let mut hook = Config::default().hook;
        assert!(hook.tells_schema("rtmp") && !hook.tells_schema("mp4"));
        hook.stream_changed_schemas = "rtsp".to_owned();
        assert!(!hook.tells_schema("rtmp"));
        hook.stream_changed_schemas.clear();
        assert!(hook.tells_schema("rtmp"));
    }
}
