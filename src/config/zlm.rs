//! The config as ZLMediaKit's flat keys, for control planes that read and set it through the API.
//!
//! Three kinds: keys that are ours under another name, keys that are fixed while we run (ports),
//! and keys that are only stored, so that a control plane finds again what it set.

use std::collections::BTreeMap;

use crate::config::{Config, IpRanges, RtpTransport, ZLM_SHIPPED_SECRET};
use crate::limits::REQUEST_BODY_LEN_MAX;

/// What became of a key that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZlmSet {
    /// ZLMediaKit has no such key, or none that matters to a relay.
    Unknown,
    /// The value was this already, or cannot change while we run.
    Unchanged,
    /// It is no value of this key.
    Invalid,
    Changed,
}

/// A key of ours under its ZLMediaKit name.
struct Shared {
    name: &'static str,
    read: fn(&Config) -> String,
    /// `None` when the text is no value of this key.
    write: fn(&mut Config, &str) -> Option<()>,
}

impl Config {
    /// Every key of ZLMediaKit that we know, with its value as text.
    pub fn zlm_map(&self) -> BTreeMap<String, String> {
        let stored = STORED.iter().map(|&(name, default)| {
            let value = self.zlm_stored.get(name).map_or(default, String::as_str);
            (name.to_owned(), value.to_owned())
        });
        let fixed = self.zlm_fixed().map(|(name, value)| (name.to_owned(), value.to_string()));
        let shared = SHARED.iter().map(|key| (key.name.to_owned(), (key.read)(self)));
        let hooks = self.hook.zlm_values().into_iter();
        let hooks = hooks.map(|(name, value)| (name.to_owned(), value));
        stored.chain(fixed).chain(shared).chain(hooks).collect()
    }

    /// Sets one key while we run. A value that would make the config invalid changes nothing.
    pub fn set_zlm(&mut self, name: &str, value: &str) -> ZlmSet {
        if let Some(key) = SHARED.iter().find(|key| key.name == name) {
            return self.set_checked(|config| (key.write)(config, value));
        }
        if self.hook.zlm_values().iter().any(|(hook, _)| *hook == name) {
            return self.set_checked(|config| config.hook.set_zlm(name, value));
        }
        if let Some(&(name, default)) = STORED.iter().find(|(stored, _)| *stored == name) {
            if self.zlm_stored.get(name).map_or(default, String::as_str) == value {
                return ZlmSet::Unchanged;
            }
            self.zlm_stored.insert(name.to_owned(), value.to_owned());
            return ZlmSet::Changed;
        }
        match self.zlm_fixed().iter().any(|(fixed, _)| *fixed == name) {
            true => ZlmSet::Unchanged,
            false => ZlmSet::Unknown,
        }
    }

    fn set_checked(&mut self, write: impl FnOnce(&mut Self) -> Option<()>) -> ZlmSet {
        let mut changed = self.clone();
        if write(&mut changed).is_none() || changed.validate().is_err() {
            return ZlmSet::Invalid;
        }
        if changed == *self {
            return ZlmSet::Unchanged;
        }
        *self = changed;
        ZlmSet::Changed
    }

    /// Our limits and ports; 0 is ZLMediaKit's word for a listener that is off.
    fn zlm_fixed(&self) -> [(&'static str, usize); 10] {
        [
            ("http.maxReqSize", REQUEST_BODY_LEN_MAX),
            ("http.port", self.http.listen.port().into()),
            ("http.sslport", 0),
            ("rtmp.port", self.rtmp.listen.port().into()),
            ("rtmp.sslport", 0),
            ("rtp_proxy.port", 0),
            ("rtsp.port", self.rtsp.listen.port().into()),
            ("rtsp.sslport", 0),
            ("shell.port", 0),
            ("srt.port", 0),
        ]
    }
}

const SHARED: &[Shared] = &[
    Shared {
        name: "api.secret",
        read: |config| config.api.secret.clone(),
        // An empty secret, or one that everybody knows, would open the API to everyone.
        write: |config, text| {
            let is_secret = !text.is_empty() && text != ZLM_SHIPPED_SECRET;
            is_secret.then(|| config.api.secret = text.to_owned())
        },
    },
    Shared {
        name: "cluster.origin_url",
        read: |config| config.demand.origin_url.clone(),
        write: |config, text| {
            config.demand.origin_url = text.to_owned();
            Some(())
        },
    },
    Shared {
        name: "cluster.retry_count",
        read: |config| config.demand.retry_count.to_string(),
        write: |config, text| text.parse().map(|count| config.demand.retry_count = count).ok(),
    },
    Shared {
        name: "cluster.timeout_sec",
        read: |config| to_seconds(config.demand.timeout_ms),
        write: |config, text| parse_seconds(text).map(|ms| config.demand.timeout_ms = ms),
    },
    Shared {
        name: "general.maxStreamWaitMS",
        read: |config| config.stream.max_stream_wait_ms.to_string(),
        write: |config, text| text.parse().map(|ms| config.stream.max_stream_wait_ms = ms).ok(),
    },
    Shared {
        name: "general.mediaServerId",
        read: |config| config.server.id.clone(),
        write: |config, text| {
            config.server.id = text.to_owned();
            Some(())
        },
    },
    Shared {
        name: "general.streamNoneReaderDelayMS",
        read: |config| config.stream.none_reader_delay_ms.to_string(),
        write: |config, text| text.parse().map(|ms| config.stream.none_reader_delay_ms = ms).ok(),
    },
    Shared {
        name: "http.allow_cross_domains",
        read: |config| u8::from(config.http.allow_cross_domains).to_string(),
        write: |config, text| parse_flag(text).map(|on| config.http.allow_cross_domains = on),
    },
    Shared {
        name: "http.allow_ip_range",
        read: |config| config.http.allow_ip_range.as_str().to_owned(),
        write: |config, text| {
            config.http.allow_ip_range = IpRanges::try_from(text.to_owned()).ok()?;
            Some(())
        },
    },
    Shared {
        name: "http.keepAliveSecond",
        read: |config| to_seconds(config.http.keep_alive_ms),
        write: |config, text| parse_seconds(text).map(|ms| config.http.keep_alive_ms = ms),
    },
    Shared {
        name: "protocol.auto_close",
        read: |config| u8::from(config.stream.auto_close).to_string(),
        write: |config, text| parse_flag(text).map(|on| config.stream.auto_close = on),
    },
    Shared {
        name: "protocol.continue_push_ms",
        read: |config| config.stream.continue_push_ms.to_string(),
        write: |config, text| text.parse().map(|ms| config.stream.continue_push_ms = ms).ok(),
    },
    Shared {
        name: "rtmp.handshakeSecond",
        read: |config| to_seconds(config.rtmp.handshake_ms),
        write: |config, text| parse_seconds(text).map(|ms| config.rtmp.handshake_ms = ms),
    },
    Shared {
        name: "rtmp.keepAliveSecond",
        read: |config| to_seconds(config.rtmp.keep_alive_ms),
        write: |config, text| parse_seconds(text).map(|ms| config.rtmp.keep_alive_ms = ms),
    },
    Shared {
        name: "rtsp.authBasic",
        read: |config| u8::from(config.rtsp.auth_basic).to_string(),
        write: |config, text| parse_flag(text).map(|on| config.rtsp.auth_basic = on),
    },
    Shared {
        name: "rtsp.handshakeSecond",
        read: |config| to_seconds(config.rtsp.handshake_ms),
        write: |config, text| parse_seconds(text).map(|ms| config.rtsp.handshake_ms = ms),
    },
    Shared {
        name: "rtsp.keepAliveSecond",
        read: |config| to_seconds(config.rtsp.session_timeout_ms),
        write: |config, text| parse_seconds(text).map(|ms| config.rtsp.session_timeout_ms = ms),
    },
    Shared {
        name: "rtsp.rtpTransportType",
        read: |config| match config.rtsp.rtp_transport {
            RtpTransport::Both => "-1".to_owned(),
            RtpTransport::Tcp => "0".to_owned(),
            RtpTransport::Udp => "1".to_owned(),
        },
        write: |config, text| {
            config.rtsp.rtp_transport = match text {
                "-1" => RtpTransport::Both,
                "0" => RtpTransport::Tcp,
                "1" => RtpTransport::Udp,
                // 2 is multicast.
                _ => return None,
            };
            Some(())
        },
    },
];

/// Name and default of the keys that are only stored. Where ZLMediaKit's default says that it does
/// something which we do not, ours says so: `enable_hls` is 0.
const STORED: &[(&str, &str)] = &[
    ("api.apiDebug", "0"),
    ("general.enableVhost", "0"),
    ("general.listen_ip", "::"),
    ("general.mergeWriteMS", "0"),
    ("general.resetWhenRePlay", "1"),
    ("general.unready_frame_cache", "100"),
    ("general.wait_add_track_ms", "3000"),
    ("general.wait_audio_track_data_ms", "1000"),
    ("general.wait_track_ready_ms", "10000"),
    ("hls.deleteDelaySec", "10"),
    ("hls.fastRegister", "0"),
    ("hls.segDelay", "0"),
    ("hls.segDur", "2"),
    ("hls.segKeep", "0"),
    ("hls.segNum", "3"),
    ("hls.segRetain", "5"),
    ("hook.on_http_access", ""),
    ("hook.on_record_mp4", ""),
    ("hook.on_record_ts", ""),
    ("hook.on_rtp_server_timeout", ""),
    ("hook.on_rtsp_auth", ""),
    ("hook.on_rtsp_realm", ""),
    ("hook.on_send_rtp_stopped", ""),
    ("hook.on_shell_login", ""),
    ("http.charSet", "utf-8"),
    ("http.dirMenu", "0"),
    ("http.forwarded_ip_header", ""),
    ("http.notFound", ""),
    ("http.rootPath", ""),
    ("http.sendBufSize", "65536"),
    ("http.virtualPath", ""),
    ("protocol.add_mute_audio", "0"),
    ("protocol.enable_audio", "1"),
    ("protocol.enable_fmp4", "0"),
    ("protocol.enable_hls", "0"),
    ("protocol.enable_hls_fmp4", "0"),
    ("protocol.enable_mp4", "0"),
    ("protocol.enable_rtmp", "1"),
    ("protocol.enable_rtsp", "0"),
    ("protocol.enable_ts", "0"),
    ("protocol.fmp4_demand", "0"),
    ("protocol.hls_demand", "0"),
    ("protocol.modify_stamp", "0"),
    ("protocol.paced_sender_ms", "0"),
    ("protocol.rtmp_demand", "0"),
    ("protocol.rtsp_demand", "0"),
    ("protocol.ts_demand", "0"),
    ("record.appName", "record"),
    ("rtc.externIP", ""),
    ("rtmp.directProxy", "1"),
    ("rtp_proxy.gop_cache", "1"),
    ("rtp_proxy.port_range", "30000-35000"),
    ("rtp_proxy.timeoutSec", "15"),
    ("rtsp.directProxy", "1"),
    ("rtsp.lowLatency", "0"),
];

pub(super) fn parse_flag(text: &str) -> Option<bool> {
    match text {
        "1" => Some(true),
        "0" => Some(false),
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Milliseconds of seconds that may have a fraction.
pub(super) fn parse_seconds(text: &str) -> Option<u64> {
    let seconds: f64 = text.parse().ok()?;
    // A cast saturates; what is too large then fails the validation.
    (seconds.is_finite() && seconds >= 0.0).then_some((seconds * 1000.0).round() as u64)
}

pub(super) fn to_seconds(ms: u64) -> String {
    match ms % 1000 {
        0 => (ms / 1000).to_string(),
        _ => (ms as f64 / 1000.0).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_once() {
        let config = Config::default();
        let hooks = config.hook.zlm_values().len();
        let name_count = SHARED.len() + STORED.len() + config.zlm_fixed().len() + hooks;
        assert_eq!(config.zlm_map().len(), name_count);
    }

    #[test]
    fn every_value_that_is_told_can_be_set_again() {
        let mut config = Config::default();
        config.ensure_secret([7; 16]);
        for (name, value) in config.zlm_map() {
            assert_eq!(config.set_zlm(&name, &value), ZlmSet::Unchanged, "{name}");
        }
    }

    #[test]
    fn shared_keys_change_the_config() {
        let mut config = Config::default();
        let table = [
            ("api.secret", "new"),
            ("cluster.origin_url", "rtmp://o/%s/%s"),
            ("cluster.retry_count", "5"),
            ("cluster.timeout_sec", "2.5"),
            ("general.maxStreamWaitMS", "2000"),
            ("general.mediaServerId", "edge-1"),
            ("general.streamNoneReaderDelayMS", "500"),
            ("http.allow_cross_domains", "0"),
            ("http.allow_ip_range", "8.0.0.0/8"),
            ("http.keepAliveSecond", "1.5"),
            ("protocol.auto_close", "1"),
            ("protocol.continue_push_ms", "3000"),
            ("rtmp.handshakeSecond", "7"),
            ("rtmp.keepAliveSecond", "8"),
            ("rtsp.authBasic", "1"),
            ("rtsp.handshakeSecond", "9"),
            ("rtsp.keepAliveSecond", "10"),
            ("rtsp.rtpTransportType", "0"),
        ];
        assert_eq!(
            table.map(|(name, _)| name).to_vec(),
            Vec::from_iter(SHARED.iter().map(|key| key.name))
        );
        for (name, value) in table {
            assert_eq!(config.set_zlm(name, value), ZlmSet::Changed, "{name}");
            assert_eq!(config.set_zlm(name, value), ZlmSet::Unchanged, "{name}");
            assert_eq!(config.zlm_map()[name], value);
        }
        assert_eq!(config.api.secret, "new");
        assert_eq!(config.demand.zlm_origins().len(), 1);
        assert_eq!((config.demand.retry_count, config.demand.timeout_ms), (5, 2500));
        assert_eq!(config.stream.max_stream_wait_ms, 2000);
        assert_eq!(config.server.id, "edge-1");
        assert!(!config.http.allow_cross_domains);
        assert!(config.http.allow_ip_range.contains("8.8.8.8".parse().unwrap()));
        assert!(!config.http.allow_ip_range.contains("127.0.0.1".parse().unwrap()));
        assert_eq!(config.http.keep_alive_ms, 1500);
        assert!(config.stream.auto_close);
        assert_eq!(config.stream.continue_push_ms, 3000);
        assert_eq!((config.rtmp.handshake_ms, config.rtmp.keep_alive_ms), (7000, 8000));
        assert_eq!((config.rtsp.handshake_ms, config.rtsp.session_timeout_ms), (9000, 10_000));
        assert!(config.rtsp.auth_basic);
        assert_eq!(config.rtsp.rtp_transport, RtpTransport::Tcp);
    }

    #[test]
    fn bad_values_ports_and_strangers_change_nothing() {
        let mut config = Config::default();
        let before = config.clone();
        let table = [
            ("api.secret", "", ZlmSet::Invalid),
            ("api.secret", ZLM_SHIPPED_SECRET, ZlmSet::Invalid),
            ("cluster.origin_url", "rtmp://o/%s", ZlmSet::Invalid),
            ("general.mediaServerId", "a\nb", ZlmSet::Invalid),
            ("general.maxStreamWaitMS", "x", ZlmSet::Invalid),
            ("http.allow_cross_domains", "2", ZlmSet::Invalid),
            ("http.allow_ip_range", "nonsense", ZlmSet::Invalid),
            ("http.keepAliveSecond", "-1", ZlmSet::Invalid),
            ("http.keepAliveSecond", "inf", ZlmSet::Invalid),
            ("http.keepAliveSecond", "1e300", ZlmSet::Invalid),
            ("http.keepAliveSecond", "0", ZlmSet::Invalid),
            ("http.port", "81", ZlmSet::Unchanged),
            ("rtsp.rtpTransportType", "2", ZlmSet::Invalid),
            ("rtmp.sslport", "19350", ZlmSet::Unchanged),
            ("http.nosuch", "1", ZlmSet::Unknown),
            ("ffmpeg.bin", "/bin/sh", ZlmSet::Unknown),
        ];
        for (name, value, result) in table {
            assert_eq!(config.set_zlm(name, value), result, "{name}={value}");
        }
        assert_eq!(config, before);
    }

    /// WVP-PRO reads these first and takes no node that lacks one, then sets these.
    #[test]
    fn wvp_pro_finds_and_sets_what_it_needs() {
        let mut config = Config::default();
        let map = config.zlm_map();
        for name in [
            "http.port",
            "http.sslport",
            "rtmp.port",
            "rtmp.sslport",
            "rtsp.port",
            "rtsp.sslport",
            "rtp_proxy.port",
        ] {
            assert!(map[name].parse::<u16>().is_ok(), "{name}");
        }
        assert!(map["hook.alive_interval"].parse::<f32>().is_ok());
        assert_eq!(map["general.mediaServerId"], "rillcast");
        assert_eq!(map["http.port"], "8080");
        let set = [
            ("hook.enable", "1"),
            ("hook.on_play", "http://wvp/index/hook/on_play"),
            ("hook.on_send_rtp_stopped", "http://wvp/index/hook/on_send_rtp_stopped"),
            ("hook.timeoutSec", "30"),
            ("protocol.auto_close", "1"),
            ("protocol.continue_push_ms", "3000"),
            ("rtp_proxy.port_range", "40000-45000"),
        ];
        for (name, value) in set {
            assert_eq!(config.set_zlm(name, value), ZlmSet::Changed, "{name}");
            assert_eq!(config.zlm_map()[name], value);
            assert_eq!(config.set_zlm(name, value), ZlmSet::Unchanged, "{name}");
        }
    }
}
