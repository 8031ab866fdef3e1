//! Where a stream is looked for that players ask for and nobody brings: the origins of the config as
//! URLs of one key. Pure; shards ask.
//!
//! - `hops.rs`: the nodes that a request has come through.
//! - `url.rs`: the URL of a key at an origin.

mod hops;
mod url;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use hops::{Asking, HOPS_PARAM};

use crate::config::{Config, Hook, OriginEntry, RetryClass};
use crate::media::state::ErrorClass;
use crate::media::url::Login;
use crate::media::{SourceUrl, StreamKey};

/// The origins of a node, and its name among others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Origins {
    /// In the order in which they are asked, but for the weights of those with one priority.
    origins: Vec<Origin>,
    connects_max: BTreeMap<String, u32>,
    connects_per_second_max: BTreeMap<String, u32>,
    node: String,
    hops_max: usize,
    hook_wait: Option<Duration>,
    retry_count: u32,
    media_timeout: Duration,
    not_found: Duration,
    failed: Duration,
    avoid: Duration,
}

#[derive(Debug, Clone, PartialEq)]
struct Origin {
    entry: OriginEntry,
    /// Host and port.
    authority: String,
    /// Of ZLMediaKit's list, whose servers know what an edge is by `edge=1`.
    is_zlm: bool,
}

/// A place where a stream may be.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub url: Arc<SourceUrl>,
    /// From the connect to the first media.
    pub timeout: Duration,
    /// It is asked with words of the player's own, so that its answer may be for that one alone.
    pub is_personal: bool,
    retries_left: u32,
    retry_on: Vec<RetryClass>,
}

impl Origins {
    /// Those of a config. `token` tells this node from others of its name.
    pub fn of(config: &Config, token: u32) -> Self {
        let entries = config.origin.iter().map(|entry| (entry.clone(), false));
        let templates = config.demand.zlm_origins();
        let timeout_ms = config.demand.timeout_ms / templates.len().max(1) as u64;
        let connects_max = config.pull.connects_per_origin_max;
        let zlm = templates.into_iter().map(|url| {
            let (priority, retry_count) = (u32::MAX, 0);
            let plain = OriginEntry::default();
            (OriginEntry { url, priority, timeout_ms, connects_max, retry_count, ..plain }, true)
        });
        let origin = |(entry, is_zlm): (OriginEntry, bool)| {
            let authority = url::authority(&entry.url)?;
            Some(Origin { entry, authority, is_zlm })
        };
        let mut origins: Vec<Origin> = entries.chain(zlm).filter_map(origin).collect();
        origins.sort_by_key(|origin| origin.entry.priority);
        let mut places: BTreeMap<String, u32> = BTreeMap::new();
        for Origin { entry, authority, .. } in &origins {
            let max = places.entry(authority.clone()).or_insert(entry.connects_max);
            *max = entry.connects_max.min(*max);
        }
        let mut rates: BTreeMap<String, u32> = BTreeMap::new();
        for Origin { entry, authority, .. } in &origins {
            if entry.connects_per_second_max > 0 {
                let max = rates.entry(authority.clone()).or_insert(u32::MAX);
                *max = entry.connects_per_second_max.min(*max);
            }
        }
        let ms = Duration::from_millis;
        let hook_wait = config.hook.timeout_ms.min(config.stream.max_stream_wait_ms / 3);
        Self {
            connects_max: places,
            connects_per_second_max: rates,
            node: hops::name(&config.server.id, token),
            hops_max: config.demand.hops_max as usize,
            hook_wait: config.hook.wants(Hook::StreamNotFound).then_some(ms(hook_wait)),
            retry_count: config.demand.retry_count,
            media_timeout: ms(config.pull.media_timeout_ms),
            not_found: ms(config.demand.not_found_ms),
            failed: ms(config.demand.failed_ms),
            avoid: ms(config.demand.avoid_ms),
            origins,
        }
    }

    /// Whether any may be asked for anything.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Whether these are the same origins, whatever else is different.
    pub fn are_those_of(&self, other: &Self) -> bool {
        self.origins == other.origins
    }

    /// How long a hook that brings streams may take before origins are asked.
    pub fn hook_wait(&self) -> Option<Duration> {
        self.hook_wait
    }

    /// Retries of a stream that was up.
    pub fn retry_count(&self) -> u32 {
        self.retry_count
    }

    /// Silence after which a source that is up is lost.
    pub fn media_timeout(&self) -> Duration {
        self.media_timeout
    }

    /// Connections to a host and port that may be without media, on the node; `None` where the config
    /// says nothing of it.
    pub fn connects_max(&self, authority: &str) -> Option<u32> {
        self.connects_max.get(authority).copied()
    }

    /// Connects in a second to each host and port that has a limit, of the node.
    pub fn rates(&self) -> impl Iterator<Item = (&str, u32)> {
        self.connects_per_second_max.iter().map(|(name, &max)| (name.as_str(), max))
    }

    /// Host and port of each, in the order of their names.
    pub fn authorities(&self) -> impl Iterator<Item = &str> {
        self.connects_max.keys().map(String::as_str)
    }

    /// What the config has for a host and port: the templates of its URLs.
    pub fn templates(&self, authority: &str) -> impl Iterator<Item = &str> {
        let of = self.origins.iter().filter(move |origin| origin.authority == authority);
        of.map(|origin| origin.entry.url.as_str())
    }

    /// For how long one that has not answered is asked after its equals.
    pub fn avoid(&self) -> Duration {
        self.avoid
    }

    /// For how long players of a stream are refused that could not be had for this reason.
    pub fn absence(&self, class: ErrorClass) -> Duration {
        match class {
            // Our own budget says nothing about the stream.
            ErrorClass::Busy => Duration::ZERO,
            ErrorClass::NotFound | ErrorClass::Rejected | ErrorClass::Denied => self.not_found,
            _ => self.failed,
        }
    }

    /// What a player's query means for who would pull for it.
    pub fn asking(&self, params: &str) -> Asking {
        hops::asking(params, &self.node, self.hops_max)
    }

    /// Where a key may be, in the order to try: by priority; of equals those first that are not avoided
    /// (told of a host and port), and of these by weight. `asking` is that of its first player.
    pub fn candidates(
        &self,
        key: &StreamKey,
        asking: &Asking,
        is_avoided: impl Fn(&str) -> bool,
        rng: &mut fastrand::Rng,
    ) -> Vec<Candidate> {
        let name = format!("{}/{}", key.app(), key.stream());
        let is_of = |origin: &&Origin| origin.entry.pattern.matches(&name);
        let mut matching: Vec<(&Origin, bool, f64)> = self
            .origins
            .iter()
            .filter(is_of)
            .map(|origin| {
                let place = draw(origin.entry.weight, rng);
                (origin, is_avoided(&origin.authority), place)
            })
            .collect();
        matching.sort_by(|(a, avoided_a, at_a), (b, avoided_b, at_b)| {
            let by_priority = a.entry.priority.cmp(&b.entry.priority);
            by_priority.then(avoided_a.cmp(avoided_b)).then(at_a.total_cmp(at_b))
        });
        matching.iter().filter_map(|(origin, ..)| self.candidate(origin, key, asking)).collect()
    }

    /// `None` where the name can't be part of a URL there.
    fn candidate(&self, origin: &Origin, key: &StreamKey, asking: &Asking) -> Option<Candidate> {
        let Origin { entry, is_zlm, .. } = origin;
        let mut query = Vec::new();
        if *is_zlm {
            query.push(format!("edge=1&vhost={}", url::encode(key.vhost())));
        }
        let passes_query = entry.pass_query && !asking.params().is_empty();
        if passes_query {
            query.push(asking.params().to_owned());
        }
        if entry.send_hops {
            query.push(asking.hops_with(&self.node));
        }
        let text = url::expand(&entry.url, key, &query.join("&"))?;
        let login = (!entry.user.is_empty())
            .then(|| Login { user: entry.user.clone(), password: entry.password.clone() });
        let url = SourceUrl::parse(&text, true).ok()?.with_login(login);
        Some(Candidate {
            url: Arc::new(url),
            timeout: Duration::from_millis(entry.timeout_ms),
            is_personal: passes_query || asking.has_hops(),
            retries_left: entry.retry_count,
            retry_on: entry.retry_on.clone(),
        })
    }
}

impl Candidate {
    /// Counts a failure; whether it may be tried again.
    pub fn fail(&mut self, class: ErrorClass) -> bool {
        let may = self.retries_left > 0
            && retry_class(class).is_some_and(|class| self.retry_on.contains(&class));
        self.retries_left = self.retries_left.saturating_sub(1);
        may
    }
}

fn retry_class(class: ErrorClass) -> Option<RetryClass> {
    Some(match class {
        ErrorClass::Unresolved => RetryClass::Unresolved,
        ErrorClass::Refused => RetryClass::Refused,
        ErrorClass::Unreachable => RetryClass::Unreachable,
        ErrorClass::TimedOut => RetryClass::TimedOut,
        ErrorClass::Rejected => RetryClass::Rejected,
        ErrorClass::NotFound => RetryClass::NotFound,
        ErrorClass::Unavailable => RetryClass::Unavailable,
        ErrorClass::Silent => RetryClass::Silent,
        ErrorClass::Protocol => RetryClass::ProtocolError,
        ErrorClass::Lost => RetryClass::Lost,
        // Our own limits and rules.
        ErrorClass::Busy | ErrorClass::Denied => return None,
    })
}

/// A place in the order of equals: sorted by it, each is first as often as its weight says (Efraimidis
/// and Spirakis, "Weighted random sampling with a reservoir").
fn draw(weight: u32, rng: &mut fastrand::Rng) -> f64 {
    // 0 is never drawn, whose logarithm is no number.
    -(1.0 - rng.f64()).ln() / f64::from(weight.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(text: &str) -> Origins {
        let path = std::env::temp_dir().join(format!(
            "rillcast-origins-{}-{:x}.toml",
            std::process::id(),
            fastrand::u64(..)
        ));
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&path);
        std::fs::remove_file(&path).unwrap();
        Origins::of(&config.unwrap(), 0xabc)
    }

    fn key(stream: &str) -> StreamKey {
        StreamKey::in_default_vhost("live", stream).unwrap()
    }

    fn urls(origins: &Origins, stream: &str, params: &str) -> Vec<String> {
        let asking = origins.asking(params);
        let rng = &mut fastrand::Rng::with_seed(1);
        let found = origins.candidates(&key(stream), &asking, |_| false, rng);
        found.iter().map(|candidate| candidate.url.as_str().to_owned()).collect()
    }

    #[test]
    fn origins_come_by_pattern_and_priority() {
        let origins = origins(
            "[[origin]]\nurl = \"rtmp://late/{app}/{stream}\"\npriority = 2\nsend_hops = false\n\
             [[origin]]\nurl = \"rtmp://cams/{app}/{stream}\"\nmatch = \"live/cam*\"\nsend_hops = false\n\
             [[origin]]\nurl = \"http://o/{vhost}/{stream}.flv?a={app}\"\nsend_hops = false\n\
             priority = 1\n",
        );
        let other = "http://o/__defaultVhost__/cam1.flv?a=live";
        assert_eq!(
            urls(&origins, "cam1", "t=1"),
            ["rtmp://cams/live/cam1", other, "rtmp://late/live/cam1"]
        );
        assert_eq!(urls(&origins, "x", "")[1..], ["rtmp://late/live/x"]);
        assert_eq!(origins.connects_max("late:1935"), Some(64));
        assert_eq!(origins.connects_max("late:80"), None);
    }

    #[test]
    fn the_smallest_budget_of_a_host_counts() {
        let origins = origins(
            "[demand]\norigin_url = \"rtmp://a/%s/%s\"\n\
             [[origin]]\nurl = \"rtmp://a/x/{stream}\"\nconnects_max = 3\n\
             [[origin]]\nurl = \"rtmp://a/y/{stream}\"\nconnects_per_second_max = 9\n\
             [[origin]]\nurl = \"rtmp://b/y/{stream}\"\nconnects_per_second_max = 0\n",
        );
        assert_eq!(origins.connects_max("a:1935"), Some(3));
        assert_eq!(origins.rates().collect::<Vec<_>>(), [("a:1935", 9)]);
    }

    #[test]
    fn equals_are_first_as_often_as_their_weights_say() {
        let origins = origins(
            "[[origin]]\nurl = \"rtmp://a/x/{stream}\"\nweight = 3\n\
             [[origin]]\nurl = \"rtmp://b/x/{stream}\"\n",
        );
        let mut rng = fastrand::Rng::with_seed(5);
        let asking = origins.asking("");
        let firsts = (0..4000).filter(|_| {
            origins.candidates(&key("x"), &asking, |_| false, &mut rng)[0].url.host == "a"
        });
        assert!((2800..3200).contains(&firsts.count()));
    }

    #[test]
    fn one_that_is_avoided_comes_after_its_equals_and_before_the_next_priority() {
        let origins = origins(
            "[[origin]]\nurl = \"rtmp://a/x/{stream}\"\nweight = 1000000\n\
             [[origin]]\nurl = \"rtmp://b/x/{stream}\"\n\
             [[origin]]\nurl = \"rtmp://c/x/{stream}\"\npriority = 1\n",
        );
        let asking = origins.asking("");
        let hosts = |avoided: &[&str]| -> Vec<String> {
            let rng = &mut fastrand::Rng::with_seed(5);
            let is_avoided = |name: &str| avoided.contains(&name);
            let found = origins.candidates(&key("x"), &asking, is_avoided, rng);
            found.iter().map(|candidate| candidate.url.host.clone()).collect()
        };
        assert_eq!(hosts(&[]), ["a", "b", "c"]);
        assert_eq!(hosts(&["a:1935"]), ["b", "a", "c"]);
        assert_eq!(hosts(&["a:1935", "b:1935"]), ["a", "b", "c"]);
        assert_eq!(origins.authorities().collect::<Vec<_>>(), ["a:1935", "b:1935", "c:1935"]);
        assert_eq!(origins.templates("c:1935").collect::<Vec<_>>(), ["rtmp://c/x/{stream}"]);
    }

    #[test]
    fn a_query_is_passed_where_the_config_says_so() {
        let origins = origins(
            "[server]\nid = \"n 1\"\n\
             [[origin]]\nurl = \"rtmp://a/x/{stream}?k=v\"\npass_query = true\n\
             [[origin]]\nurl = \"rtmp://b/x/{stream}\"\npriority = 1\n",
        );
        assert_eq!(
            urls(&origins, "s", "t=1&rillcast_hops=up~1&u=a b#c"),
            [
                "rtmp://a/x/s?k=v&t=1&u=a%20b%23c&rillcast_hops=up~1,n%201~00000abc",
                "rtmp://b/x/s?rillcast_hops=up~1,n%201~00000abc",
            ]
        );
    }

    #[test]
    fn origins_of_zlmediakit_are_told_that_an_edge_asks() {
        let origins = origins(
            "[demand]\norigin_url = \"rtmp://a/%s/%s;rtsp://b/%s/%s\"\ntimeout_ms = 8000\n\
             [server]\nid = \"e\"\n",
        );
        let rng = &mut fastrand::Rng::with_seed(1);
        let found = origins.candidates(&key("s"), &origins.asking(""), |_| false, rng);
        assert_eq!(found.len(), 2);
        for candidate in &found {
            assert_eq!(candidate.timeout, Duration::from_secs(4));
            let query = candidate.url.query.as_deref();
            assert_eq!(query, Some("edge=1&vhost=__defaultVhost__&rillcast_hops=e~00000abc"));
        }
    }

    #[test]
    fn an_origin_is_asked_again_as_its_entry_says() {
        let text = "[[origin]]\nurl = \"rtmp://a/x/{stream}\"\nretry_count = 2\n";
        let origins = origins(text);
        let rng = &mut fastrand::Rng::with_seed(1);
        let fresh = origins.candidates(&key("s"), &origins.asking(""), |_| false, rng).remove(0);
        let fails = |classes: &[ErrorClass]| {
            let mut candidate = fresh.clone();
            classes.iter().map(|&class| candidate.fail(class)).collect::<Vec<_>>()
        };
        assert_eq!(fails(&[ErrorClass::Refused; 3]), [true, true, false]);
        assert_eq!(fails(&[ErrorClass::NotFound, ErrorClass::Busy]), [false, false]);
        assert_eq!(fails(&[ErrorClass::Unavailable]), [true]);
        assert_eq!(fails(&[ErrorClass::Rejected]), [false]);
    }

    #[test]
    fn what_an_origin_said_counts_for_longer_than_that_none_was_reached() {
        let origins = origins("[demand]\nnot_found_ms = 9000\nfailed_ms = 1000\n");
        let seconds = |class| origins.absence(class).as_secs();
        assert_eq!(seconds(ErrorClass::NotFound), 9);
        assert_eq!(seconds(ErrorClass::TimedOut), 1);
        assert_eq!(seconds(ErrorClass::Unavailable), 1);
        assert_eq!(seconds(ErrorClass::Busy), 0);
    }
}
