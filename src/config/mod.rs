//! The config type, its defaults and validation. The only reader of the file.
//!
//! `docs/rillcast.example.toml` documents every key. What ZLMediaKit calls our keys is in [`zlm`].

mod access;
mod cpu_list;
mod defaults;
mod error;
mod hook;
mod ip_ranges;
mod networks;
mod newest;
mod origin;
mod port_range;
mod reload;
mod template;
mod zlm;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

pub use access::AccessSection;
pub use cpu_list::{CpuList, CpuListError, parse_cpu_list};
pub use error::{ConfigError, ValueError};
use error::{find_key, line_and_column};
pub use hook::{Hook, HookSection};
pub use ip_ranges::IpRanges;
pub use networks::{Networks, NetworksError};
pub use newest::NewestConfig;
pub use origin::{DemandSection, OriginEntry, RetryClass};
pub use port_range::{PortRange, PortRangeError};
pub use reload::{ConfigSource, ReloadError, Reloaded, Reread};
pub use template::{Pattern, PatternError, TemplateError, TemplatePiece, UrlTemplate};
pub use zlm::ZlmSet;

use crate::limits::MESSAGE_LEN_MAX;

/// Everything that an operator sets. A key that the file lacks has its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: ServerSection,
    pub http: HttpSection,
    pub rtmp: RtmpSection,
    pub rtsp: RtspSection,
    pub pull: PullSection,
    pub stream: StreamSection,
    pub egress: EgressSection,
    pub limits: LimitsSection,
    pub access: AccessSection,
    pub api: ApiSection,
    pub hook: HookSection,
    pub log: LogSection,
    pub media_ring: MediaRingSection,
    pub demand: DemandSection,
    /// In the file as `[[origin]]`.
    pub origin: Vec<OriginEntry>,
    /// What a control plane set of ZLMediaKit's keys that have no key of ours.
    #[serde(skip)]
    zlm_stored: BTreeMap<String, String>,
}

/// The node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSection {
    pub shards: u16,
    pub cpus: CpuList,
    pub steer_by_cpu: bool,
    pub id: String,
    pub data_dir: PathBuf,
}

/// HTTP-FLV, WebSocket-FLV and the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSection {
    pub listen: SocketAddr,
    pub header_timeout_ms: u64,
    pub keep_alive_ms: u64,
    pub allow_ip_range: IpRanges,
    pub allow_cross_domains: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RtmpSection {
    pub listen: SocketAddr,
    pub handshake_ms: u64,
    pub keep_alive_ms: u64,
}

/// Publishers and players over RTSP, and the ports of pulls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RtspSection {
    pub listen: SocketAddr,
    pub handshake_ms: u64,
    pub session_timeout_ms: u64,
    pub rtp_transport: RtpTransport,
    pub udp_ports: PortRange,
    pub reorder_ms: u64,
    /// Without one nobody is asked for credentials.
    pub auth_user: String,
    pub auth_password: String,
    pub auth_basic: bool,
}

/// What may carry the RTP of peers that connect to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RtpTransport {
    #[default]
    Both,
    Tcp,
    Udp,
}

/// Streams that we fetch from origins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PullSection {
    pub timeout_ms: u64,
    pub media_timeout_ms: u64,
    pub retry_base_ms: u64,
    pub retry_step_ms: u64,
    pub retry_max_ms: u64,
    pub retry_jitter_percent: u8,
    pub connects_per_origin_max: u32,
    pub hedge_ms: u64,
}

/// The life of a stream and what it keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamSection {
    pub continue_push_ms: u64,
    pub reconnect_grace_ms: u64,
    pub max_stream_wait_ms: u64,
    pub none_reader_delay_ms: u64,
    pub auto_close: bool,
    pub gop_bytes_max: u64,
    pub waiters_per_key_max: u32,
}

/// Media on its way to players.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressSection {
    pub audio_wait_ms: u64,
    pub flush_window_ms: u64,
    pub lag_bytes_max: u64,
    pub lag_evict_ms: u64,
    pub send_notsent_lowat_bytes: u32,
    pub udp_gso: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    pub connections_max: u32,
    pub connections_per_shard_max: u32,
    pub connections_per_address_max: u32,
    pub joins_per_second_max: u32,
    pub joins_per_second_per_address_max: u32,
    pub pending_per_shard_max: u32,
    pub pending_pulls_max: u32,
    pub pending_pulls_per_address_max: u32,
}

/// The ZLMediaKit-compatible API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSection {
    pub secret: String,
    pub force_closes_pending: bool,
    pub reply_bound_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    pub filter: String,
}

/// The shard's io_uring for media.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaRingSection {
    pub coalesce_us: u64,
    pub await_frames: bool,
}

/// What the command line sets over the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    pub shards: Option<u16>,
    pub cpus: Option<CpuList>,
    pub id: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub http_listen: Option<SocketAddr>,
    pub rtmp_listen: Option<SocketAddr>,
    pub rtsp_listen: Option<SocketAddr>,
    pub secret: Option<String>,
    pub log_filter: Option<String>,
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line, column and reason.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(place, reason)| {
            let (line, column) = line_and_column(&text, place);
            ConfigError::Invalid { path: path.to_owned(), line, column, reason }
        })
    }

    /// The config, or the byte that is wrong and why.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let place = error.span().map_or(0, |span| span.start);
            (place, error.message().replace('\n', "; "))
        })?;
        config.validate().map_err(|error| {
            let place = find_key(text, error.key).map_or(0, |span| span.start);
            (place, error.to_string())
        })?;
        Ok(config)
    }

    /// Checks what the types alone do not: ranges, and values against each other.
    ///
    /// # Errors
    /// [`ValueError`] with the first key that is wrong.
    pub fn validate(&self) -> Result<(), ValueError> {
        let fault = |key, reason: String| Err(ValueError { key, reason });
        for (key, value, range) in self.ranges() {
            if !range.contains(&value) {
                let (min, max) = range.into_inner();
                return fault(key, format!("{value} is not in {min} to {max}"));
            }
        }
        let cpu_count = self.server.cpus.cpus().len();
        if cpu_count != 0 && usize::from(self.server.shards) > cpu_count {
            return fault("server.shards", format!("more shards than the {cpu_count} CPUs listed"));
        }
        if self.pull.retry_base_ms > self.pull.retry_max_ms {
            return fault("pull.retry_base_ms", "is above pull.retry_max_ms".to_owned());
        }
        let texts = [
            ("server.id", &self.server.id),
            ("rtsp.auth_user", &self.rtsp.auth_user),
            ("rtsp.auth_password", &self.rtsp.auth_password),
            ("api.secret", &self.api.secret),
        ];
        for (key, text) in texts {
            if text.chars().any(char::is_control) {
                return fault(key, "has control characters".to_owned());
            }
        }
        self.access.validate()?;
        if self.server.id.is_empty() {
            return fault("server.id", "is empty".to_owned());
        }
        let listeners = [
            ("http.listen", self.http.listen),
            ("rtmp.listen", self.rtmp.listen),
            ("rtsp.listen", self.rtsp.listen),
        ];
        for (index, &(key, address)) in listeners.iter().enumerate() {
            let twin = listeners[..index].iter().find(|(_, other)| *other == address);
            if let Some((other, _)) = twin.filter(|_| address.port() != 0) {
                return fault(key, format!("{address} is taken by {other}"));
            }
        }
        self.hook.validate()?;
        self.demand.validate()?;
        origin::validate(&self.origin)?;
        match EnvFilter::builder().parse(&self.log.filter) {
            Ok(_) => Ok(()),
            Err(error) => fault("log.filter", error.to_string()),
        }
    }

    /// What is valid and may still surprise on so many shards, each a line for the operator.
    pub fn warnings(&self, shards: usize) -> Vec<String> {
        origin::warnings(&self.origin, shards)
    }

    /// Lays the command line over the file; validate afterwards.
    pub fn apply(&mut self, overrides: Overrides) {
        let Overrides {
            shards,
            cpus,
            id,
            data_dir,
            http_listen,
            rtmp_listen,
            rtsp_listen,
            secret,
            log_filter,
        } = overrides;
        set(&mut self.server.shards, shards);
        set(&mut self.server.cpus, cpus);
        set(&mut self.server.id, id);
        set(&mut self.server.data_dir, data_dir);
        set(&mut self.http.listen, http_listen);
        set(&mut self.rtmp.listen, rtmp_listen);
        set(&mut self.rtsp.listen, rtsp_listen);
        set(&mut self.api.secret, secret);
        set(&mut self.log.filter, log_filter);
    }

    /// Puts a secret made of `random` where none is set, or the one that ZLMediaKit ships and
    /// everybody knows. Tells whether it did, so that the operator can be told the secret.
    pub fn ensure_secret(&mut self, random: [u8; 16]) -> bool {
        if !self.api.secret.is_empty() && self.api.secret != ZLM_SHIPPED_SECRET {
            return false;
        }
        self.api.secret = format!("{:032x}", u128::from_be_bytes(random));
        true
    }

    /// Every number with the range that it may have.
    fn ranges(&self) -> Vec<(&'static str, u64, RangeInclusive<u64>)> {
        let Self { http, rtmp, rtsp, pull, stream, egress, limits, .. } = self;
        let mut ranges = vec![
            ("server.shards", self.server.shards.into(), 0..=1024),
            ("http.header_timeout_ms", http.header_timeout_ms, 100..=TIME_MS_MAX),
            ("http.keep_alive_ms", http.keep_alive_ms, 100..=TIME_MS_MAX),
            ("rtmp.handshake_ms", rtmp.handshake_ms, 100..=TIME_MS_MAX),
            ("rtmp.keep_alive_ms", rtmp.keep_alive_ms, 100..=TIME_MS_MAX),
            ("rtsp.handshake_ms", rtsp.handshake_ms, 100..=TIME_MS_MAX),
            ("rtsp.session_timeout_ms", rtsp.session_timeout_ms, 1000..=TIME_MS_MAX),
            ("rtsp.reorder_ms", rtsp.reorder_ms, 0..=1000),
            ("pull.timeout_ms", pull.timeout_ms, 100..=TIME_MS_MAX),
            ("pull.media_timeout_ms", pull.media_timeout_ms, 100..=TIME_MS_MAX),
            ("pull.retry_base_ms", pull.retry_base_ms, 10..=TIME_MS_MAX),
            ("pull.retry_step_ms", pull.retry_step_ms, 0..=TIME_MS_MAX),
            ("pull.retry_max_ms", pull.retry_max_ms, 10..=TIME_MS_MAX),
            ("pull.retry_jitter_percent", pull.retry_jitter_percent.into(), 0..=100),
            ("pull.connects_per_origin_max", pull.connects_per_origin_max.into(), 1..=65_536),
            ("pull.hedge_ms", pull.hedge_ms, 0..=TIME_MS_MAX),
            ("stream.continue_push_ms", stream.continue_push_ms, 0..=TIME_MS_MAX),
            ("stream.reconnect_grace_ms", stream.reconnect_grace_ms, 0..=TIME_MS_MAX),
            ("stream.max_stream_wait_ms", stream.max_stream_wait_ms, 0..=TIME_MS_MAX),
            ("stream.none_reader_delay_ms", stream.none_reader_delay_ms, 0..=TIME_MS_MAX),
            ("stream.gop_bytes_max", stream.gop_bytes_max, MESSAGE_LEN_MAX as u64..=GIB),
            ("stream.waiters_per_key_max", stream.waiters_per_key_max.into(), 1..=1_000_000),
            ("egress.audio_wait_ms", egress.audio_wait_ms, 0..=1000),
            ("egress.flush_window_ms", egress.flush_window_ms, 0..=1000),
            ("egress.lag_bytes_max", egress.lag_bytes_max, 65_536..=GIB),
            ("egress.lag_evict_ms", egress.lag_evict_ms, 100..=TIME_MS_MAX),
            ("egress.send_notsent_lowat_bytes", egress.send_notsent_lowat_bytes.into(), 4096..=GIB),
            ("limits.connections_max", limits.connections_max.into(), 0..=100_000_000),
            ("limits.pending_pulls_max", limits.pending_pulls_max.into(), 0..=1_000_000),
            (
                "limits.pending_pulls_per_address_max",
                limits.pending_pulls_per_address_max.into(),
                0..=1_000_000,
            ),
            (
                "limits.connections_per_shard_max",
                self.limits.connections_per_shard_max.into(),
                1..=1_000_000,
            ),
            (
                "limits.connections_per_address_max",
                limits.connections_per_address_max.into(),
                0..=1_000_000,
            ),
            ("limits.joins_per_second_max", limits.joins_per_second_max.into(), 0..=1_000_000),
            (
                "limits.joins_per_second_per_address_max",
                limits.joins_per_second_per_address_max.into(),
                0..=1_000_000,
            ),
            (
                "limits.pending_per_shard_max",
                self.limits.pending_per_shard_max.into(),
                1..=1_000_000,
            ),
            ("api.reply_bound_ms", self.api.reply_bound_ms, 10..=TIME_MS_MAX),
            ("media_ring.coalesce_us", self.media_ring.coalesce_us, 0..=100_000),
        ];
        ranges.extend(self.hook.ranges());
        ranges.extend(self.demand.ranges());
        ranges
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// One day: a longer wait is a slip of the unit.
const TIME_MS_MAX: u64 = 86_400_000;

/// The secret in the sample file of ZLMediaKit.
const ZLM_SHIPPED_SECRET: &str = "035c73f7-bb6b-4889-a715-d9eb2d1925cc";

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../docs/rillcast.example.toml");

    fn fault(text: &str) -> (usize, usize, String) {
        let (place, reason) = Config::parse(text).expect_err(text);
        let (line, column) = line_and_column(text, place);
        (line, column, reason)
    }

    /// `section.key` of every key; entries of lists are checked where they are.
    fn keys(value: &toml::Value) -> Vec<String> {
        let sections = value.as_table().expect("a table of sections");
        let keys = sections.iter().filter_map(|(section, keys)| Some((section, keys.as_table()?)));
        let keys =
            keys.flat_map(|(section, keys)| keys.keys().map(move |key| format!("{section}.{key}")));
        keys.collect()
    }

    #[test]
    fn example_is_the_default_and_has_every_key() {
        assert_eq!(Config::parse(EXAMPLE), Ok(Config::default()));
        let example: toml::Value = toml::from_str(EXAMPLE).unwrap();
        let default = toml::Value::try_from(Config::default()).unwrap();
        assert_eq!(keys(&example), keys(&default));
    }

    #[test]
    fn example_tells_the_range_of_every_number() {
        for (key, _, range) in Config::default().ranges() {
            let place = find_key(EXAMPLE, key).unwrap().start;
            let paragraph = EXAMPLE[..place].rsplit("\n\n").next().unwrap();
            let range = format!("{} to {}", range.start(), range.end());
            assert!(paragraph.contains(&range), "{key}: {range} not in {paragraph}");
        }
    }

    #[test]
    fn every_number_is_checked_at_both_ends() {
        assert_eq!(Config::default().validate(), Ok(()));
        let default = toml::Value::try_from(Config::default()).unwrap();
        let is_number = |key: &String| {
            let (section, name) = key.split_once('.').unwrap();
            default[section][name].is_integer()
        };
        let number_count = keys(&default).into_iter().filter(is_number).count();
        assert_eq!(Config::default().ranges().len(), number_count);
        for (key, _, range) in Config::default().ranges() {
            let (section, name) = key.split_once('.').unwrap();
            let outside = [range.start().checked_sub(1), Some(range.end() + 1)];
            for value in outside.into_iter().flatten() {
                let text = format!("[{section}]\n{name} = {value}\n");
                let (line, _, reason) = fault(&text);
                assert_eq!(line, 2, "{text}{reason}");
            }
        }
    }

    #[test]
    fn faults_name_line_column_and_reason() {
        let table: &[(&str, usize, usize, &str)] = &[
            ("[http]\nlisten = \"8080\"\n", 2, 10, "invalid socket address"),
            ("[http]\n\nlisten 8080\n", 3, 8, ""),
            ("[htp]\n", 1, 2, "unknown field `htp`"),
            ("[http]\nport = 80\n", 2, 1, "unknown field `port`"),
            ("[log]\nfilter = 3\n", 2, 10, "invalid type"),
            ("[log]\nfilter = \"a=b=c\"\n", 2, 10, "log.filter: "),
            ("[server]\ncpus = \"3-1\"\n", 2, 8, "CPU range"),
            ("[server]\ncpus = \"0\"\nshards = 2\n", 3, 10, "server.shards: more shards"),
            ("[access]\nplay_keys = { a = \"\" }\n", 2, 13, "access.play_keys: has an empty"),
            ("[access]\npull_deny = \"nowhere\"\n", 2, 13, "nor a network"),
            ("[server]\nid = \"\"\n", 2, 6, "server.id: is empty"),
            ("[http]\nallow_ip_range = \"x\"\n", 2, 18, "not an IP address"),
            ("[rtsp]\nudp_ports = \"5\"\n", 2, 13, "a port range is two numbers"),
            ("[rtsp]\nrtp_transport = \"x\"\n", 2, 17, "unknown variant `x`"),
            ("[rtsp]\nauth_user = \"\\n\"\n", 2, 13, "rtsp.auth_user: has control"),
            ("[pull]\nretry_max_ms = 99\n", 1, 1, "pull.retry_base_ms: is above"),
            ("# é\n[api]\nsecret = \"\\u0000\"", 3, 10, "api.secret: has control"),
            (
                "[rtmp]\nlisten = \"[::]:8080\"\n",
                2,
                10,
                "rtmp.listen: [::]:8080 is taken by http.listen",
            ),
        ];
        for &(text, line, column, reason) in table {
            let (found_line, found_column, found) = fault(text);
            assert_eq!((found_line, found_column), (line, column), "{text}{found}");
            assert!(found.contains(reason) && !found.contains('\n'), "{text}{found}");
        }
    }

    #[test]
    fn file_is_loaded_and_its_name_is_told() {
        let path = std::env::temp_dir().join(format!("rillcast-{}.toml", std::process::id()));
        std::fs::write(&path, "[http]\nkeep_alive_ms = 5000\n").unwrap();
        let loaded = Config::load(&path);
        std::fs::write(&path, "[http]\nkeep_alive_ms = 5\n").unwrap();
        let refused = Config::load(&path);
        std::fs::remove_file(&path).unwrap();
        let missing = Config::load(&path);
        assert_eq!(loaded.unwrap().http.keep_alive_ms, 5000);
        let name = path.display();
        assert_eq!(
            refused.unwrap_err().to_string(),
            format!("{name}:2:17: http.keep_alive_ms: 5 is not in 100 to 86400000")
        );
        assert!(missing.unwrap_err().to_string().starts_with(&format!("{name}: cannot be read: ")));
    }

    #[test]
    fn command_line_wins_over_the_file() {
        let mut config = Config::parse("[server]\nid = \"a\"\nshards = 3\n").unwrap();
        config.apply(Overrides {
            shards: Some(2),
            rtmp_listen: Some(([127, 0, 0, 1], 0).into()),
            ..Overrides::default()
        });
        assert_eq!((config.server.shards, &*config.server.id), (2, "a"));
        assert_eq!(config.rtmp.listen.to_string(), "127.0.0.1:0");
        assert_eq!(config.http, HttpSection::default());
    }

    #[test]
    fn secret_is_made_where_none_is_set() {
        let mut config = Config::default();
        assert!(config.ensure_secret([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]));
        assert_eq!(config.api.secret, "000102030405060708090a0b0c0d0e0f");
        assert!(!config.ensure_secret([9; 16]), "a secret is kept");
        config.api.secret = ZLM_SHIPPED_SECRET.to_owned();
        assert!(config.ensure_secret([9; 16]));
    }
}
