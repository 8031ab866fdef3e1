//! What a seed decides before anything happens.

use std::time::Duration;

use fastrand::Rng;
use rillcast::access::PullLimits;
use rillcast::config::{Config, OriginEntry};
use rillcast::egress::CrowdLimits;
use rillcast::media::Form;
use rillcast::shard::Policy;
use rillcast::shard::lifecycle::RetryPolicy;

use super::api::MEDIA_TIMEOUT_MAX;
use super::origins::Behavior;

/// One run's parameters.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) shards: usize,
    pub(crate) keys: usize,
    pub(crate) origins: usize,
    /// What each of them brings.
    pub(crate) forms: Vec<Form>,
    pub(crate) policy: Policy,
    /// Time in which things happen, before everything is ended.
    pub(crate) run: Duration,
    /// How often the node dies and begins again.
    pub(crate) crashes: u32,
    pub(crate) ending: Ending,
    /// Whoever must confirm something does so at once, and the bus is never full: each close is
    /// confirmed within its bound.
    pub(crate) prompt: bool,
    /// How often people do what, in proportion. Each seed has its own mixture, so that one sees
    /// little but adds and deletes and another little but players.
    pub(crate) deeds: Vec<(Deed, u32)>,
    /// How origins behave, each as often as it stands here.
    pub(crate) behaviors: Vec<Behavior>,
    /// Milliseconds between two things that people do, on average.
    pub(crate) pause_ms: u64,
    pub(crate) bus_latency_us_max: u64,
    pub(crate) bus_full_one_in: u32,
    pub(crate) bus_full_ms_max: u64,
    /// How many of the adds with several sources hedge; 0 for none.
    pub(crate) hedge_one_in: u32,
    /// What nobody brings is looked for at the origins.
    pub(crate) on_demand: bool,
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All shards are shut down under load.
    ShutDown,
    /// Everything is deleted, and everybody goes.
    Drain,
}

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Play,
    Publish,
    Add,
    Delete,
    Close,
    Look,
    Kick,
    /// An origin changes its behavior.
    Turn,
    ChangePolicy,
    /// A pull gets other sources.
    Update,
    Push,
    DeletePush,
}

impl Deed {
    const ALL: [Self; 12] = [
        Self::Play,
        Self::Publish,
        Self::Add,
        Self::Delete,
        Self::Close,
        Self::Look,
        Self::Kick,
        Self::Turn,
        Self::ChangePolicy,
        Self::Update,
        Self::Push,
        Self::DeletePush,
    ];

    fn weight(self, rng: &mut Rng) -> u32 {
        let most = match self {
            Self::Play => 80,
            Self::Publish | Self::Add | Self::Turn => 30,
            Self::Delete | Self::Close | Self::Look | Self::Update | Self::Push => 10,
            Self::Kick | Self::DeletePush => 5,
            Self::ChangePolicy => 1,
        };
        1 + rng.u32(0..=most) * rng.u32(0..=1)
    }
}

impl Plan {
    /// What is done next.
    pub(crate) fn deed(&self, rng: &mut Rng) -> Deed {
        let all = self.deeds.iter().map(|(_, weight)| weight).sum();
        let mut at = rng.u32(0..all);
        let found = self.deeds.iter().find(|(_, weight)| {
            let is_it = at < *weight;
            at = at.saturating_sub(*weight);
            is_it
        });
        found.expect("within the sum").0
    }

    pub(crate) fn new(rng: &mut Rng) -> Self {
        let prompt = rng.u32(0..3) == 0;
        let mut ms = |from: u64, to: u64| Duration::from_millis(rng.u64(from..=to));
        let retry = RetryPolicy {
            base: ms(50, 1000),
            step: ms(50, 1500),
            max: ms(1000, 5000),
            jitter_percent: 20,
        };
        let reconnect_grace = ms(0, 6000);
        let continue_push = ms(0, 3000);
        let publisher_silence = ms(500, 6000);
        let stream_wait = ms(100, 8000);
        let lag_evict = ms(500, 6000);
        let crowd = CrowdLimits { lag_bytes_max: rng.u64(4_000..200_000), lag_evict, gso: true };
        let policy = Policy {
            retry,
            connects_per_origin_max: rng.usize(1..4),
            pending_max: if rng.u32(0..4) == 0 { rng.usize(1..4) } else { 100 },
            pending_pulls: PullLimits {
                pending_max: *pick(rng, &[0, 0, 2]),
                pending_per_address_max: *pick(rng, &[0, 0, 1]),
            },
            waiters_per_key_max: if rng.u32(0..4) == 0 { rng.usize(0..4) } else { 100 },
            reconnect_grace,
            continue_push: if rng.u32(0..3) == 0 { Duration::ZERO } else { continue_push },
            publisher_silence,
            stream_wait,
            none_reader_delay: Duration::from_secs(6),
            auto_close: false,
            // A hook that never says a word.
            none_reader_is_asked: lag_evict.as_millis().is_multiple_of(2),
            none_reader_answer: Duration::from_secs(1),
            close_bound: Duration::from_millis(1000),
            audio_wait: Duration::from_millis(if rng.u32(0..4) == 0 { 0 } else { 40 }),
            flush_window: Duration::from_millis(if rng.u32(0..4) == 0 {
                rng.u64(1..=30)
            } else {
                0
            }),
            gop_bytes_max: if rng.u32(0..5) == 0 { 6000 } else { 1_000_000 },
            crowd,
        };
        let origins = rng.usize(1..=3);
        // Half of the seeds are of tags alone.
        let has_packets = rng.bool();
        let mut form = || *pick(rng, &[Form::Flv, if has_packets { Form::Rtp } else { Form::Flv }]);
        let forms = (0..origins).map(|_| form()).collect();
        Self {
            shards: rng.usize(1..=4),
            keys: rng.usize(1..=6),
            origins,
            forms,
            hedge_one_in: *pick(rng, &[0, 1, 3]),
            on_demand: rng.bool(),
            policy,
            run: Duration::from_millis(rng.u64(4_000..=25_000)),
            crashes: if rng.u32(0..3) == 0 { rng.u32(1..=3) } else { 0 },
            ending: if rng.bool() { Ending::ShutDown } else { Ending::Drain },
            prompt,
            deeds: Deed::ALL.iter().map(|&deed| (deed, deed.weight(rng))).collect(),
            behaviors: (0..6).map(|_| Behavior::new(rng)).collect(),
            pause_ms: rng.u64(20..=250),
            bus_latency_us_max: if prompt { 2_000 } else { rng.u64(0..=60_000) },
            bus_full_one_in: if prompt { 0 } else { *pick(rng, &[0, 30, 300]) },
            bus_full_ms_max: 400,
        }
    }

    /// The config that the shards have their origins from.
    pub(crate) fn config(&self, rng: &mut Rng) -> Config {
        let mut config = Config::default();
        config.pull.media_timeout_ms = MEDIA_TIMEOUT_MAX.as_millis() as u64;
        config.demand.retry_count = rng.u32(0..4);
        config.demand.not_found_ms = rng.u64(0..2000);
        config.demand.failed_ms = rng.u64(0..500);
        if !self.on_demand {
            return config;
        }
        let entry = |origin| OriginEntry {
            url: self.url(origin, "{stream}").try_into().expect("a template"),
            priority: rng.u32(0..2),
            timeout_ms: rng.u64(300..=3000),
            // One of each shard.
            connects_max: self.shards as u32,
            connects_per_second_max: if rng.bool() { 0 } else { rng.u32(1..50) },
            send_hops: false,
            retry_count: rng.u32(0..3),
            ..OriginEntry::default()
        };
        config.origin = (0..self.origins).map(entry).collect();
        config
    }

    /// Where an origin has a stream.
    pub(crate) fn url(&self, origin: usize, stream: &str) -> String {
        let scheme = if self.forms[origin] == Form::Flv { "rtmp" } else { "rtsp" };
        format!("{scheme}://origin{origin}/live/{stream}")
    }

    /// Whether any stream may be of packets.
    pub(crate) fn has_packets(&self) -> bool {
        self.forms.contains(&Form::Rtp)
    }

    /// A delay that those who confirm things have.
    pub(crate) fn confirm_ms(&self, rng: &mut Rng) -> u64 {
        match rng.u32(0..10) {
            0 => 0,
            1 if !self.prompt => rng.u64(500..=2500),
            _ => rng.u64(0..=150),
        }
    }

    /// Longest way of a message over the bus, one that a full queue held up included.
    pub(crate) fn bus_delay_max(&self) -> Duration {
        // A queue can become full again as soon as it has room, a few times in a row.
        let full_ms = if self.bus_full_one_in > 0 { 6 * self.bus_full_ms_max } else { 0 };
        Duration::from_millis(full_ms) + Duration::from_micros(self.bus_latency_us_max)
    }
}

pub(crate) fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(0..from.len())]
}
