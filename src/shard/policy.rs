//! What the operator decides about a shard.

use std::time::Duration;

use super::lifecycle::RetryPolicy;
use crate::access::PullLimits;
use crate::config::{Config, Hook};
use crate::egress::CrowdLimits;
use crate::limits::HOOK_ANSWER_TIMEOUTS;

/// What the operator decides.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub retry: RetryPolicy,
    /// Connects under way to one origin from this shard.
    pub connects_per_origin_max: usize,
    /// Keys that may be pending on this shard.
    pub pending_max: usize,
    /// Pulls that may be pending on the node.
    pub pending_pulls: PullLimits,
    /// Waiters of one key on this shard.
    pub waiters_per_key_max: usize,
    /// How long players of a lost pull are kept.
    pub reconnect_grace: Duration,
    /// How long players of a publisher that dropped are kept; zero not at all.
    pub continue_push: Duration,
    /// How long a publisher may be silent.
    pub publisher_silence: Duration,
    pub stream_wait: Duration,
    /// After so long without a player a registered stream is told to be unwatched.
    pub none_reader_delay: Duration,
    /// And closed, whatever a hook says.
    pub auto_close: bool,
    /// A hook is asked whether an unwatched stream is to be closed.
    pub none_reader_is_asked: bool,
    /// And is closed without its word after so long, if it would be closed without a hook.
    pub none_reader_answer: Duration,
    /// How long a close waits to be confirmed before it is answered nevertheless.
    pub close_bound: Duration,
    /// How long audio waits for video to ride on.
    pub audio_wait: Duration,
    /// All that comes within it goes out together; zero flushes video as it comes.
    pub flush_window: Duration,
    pub gop_bytes_max: u64,
    pub crowd: CrowdLimits,
}

impl Policy {
    /// A shard's share of what the operator decides for the node.
    pub fn of(config: &Config, shards: usize) -> Self {
        let ms = Duration::from_millis;
        let share = |of: u32| (of as usize).div_ceil(shards).max(1);
        Self {
            retry: RetryPolicy {
                base: ms(config.pull.retry_base_ms),
                step: ms(config.pull.retry_step_ms),
                max: ms(config.pull.retry_max_ms),
                jitter_percent: u32::from(config.pull.retry_jitter_percent),
            },
            connects_per_origin_max: share(config.pull.connects_per_origin_max),
            pending_max: config.limits.pending_per_shard_max as usize,
            pending_pulls: PullLimits {
                pending_max: config.limits.pending_pulls_max,
                pending_per_address_max: config.limits.pending_pulls_per_address_max,
            },
            waiters_per_key_max: share(config.stream.waiters_per_key_max),
            reconnect_grace: ms(config.stream.reconnect_grace_ms),
            continue_push: ms(config.stream.continue_push_ms),
            publisher_silence: ms(config.rtmp.keep_alive_ms),
            stream_wait: ms(config.stream.max_stream_wait_ms),
            none_reader_delay: ms(config.stream.none_reader_delay_ms),
            auto_close: config.stream.auto_close,
            none_reader_is_asked: config.hook.wants(Hook::StreamNoneReader),
            none_reader_answer: ms(config.hook.timeout_ms) * HOOK_ANSWER_TIMEOUTS,
            close_bound: ms(config.api.reply_bound_ms),
            audio_wait: ms(config.egress.audio_wait_ms),
            flush_window: ms(config.egress.flush_window_ms),
            gop_bytes_max: config.stream.gop_bytes_max,
            crowd: CrowdLimits {
                lag_bytes_max: config.egress.lag_bytes_max,
                lag_evict: ms(config.egress.lag_evict_ms),
                gso: config.egress.udp_gso,
            },
        }
    }
}
