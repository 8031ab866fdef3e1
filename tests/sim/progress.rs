//! That things go on: what has come goes out in time, to those who take it.

use std::time::{Duration, Instant};

use super::media::TagName;
use super::origins::Feed;
use super::players::{Phase, Player};
use super::wire::Pace;
use super::world::World;

/// How late a tick may be for a timer.
const TIMER_SLACK: Duration = Duration::from_millis(3);
/// How long a keyframe may take to a fast player, beside the bus.
const WAY: Duration = Duration::from_millis(1000);
/// Bytes of a stream's log beside its bounds: partly used chunks, and what one flush adds.
const LOG_SLACK: u64 = 2_000_000;

impl World {
    /// After a tick of the owner a fast player there has all video and audio that has waited long
    /// enough.
    pub(crate) fn check_tick(&self, shard: usize) {
        // Audio that was waiting when the time was changed may wait for the old one as well.
        let settled = Duration::from_millis(200);
        let is_settled = self.policy_changed_at.is_none_or(|at| self.now > at + settled);
        let audio_wait = Duration::from_millis(if is_settled { 43 } else { 83 });
        let Some(audio_before) = self.now.checked_sub(audio_wait) else { return };
        let window = self.plan.policy.flush_window;
        let video_wait = if window.is_zero() { window } else { window + TIMER_SLACK };
        let Some(video_before) = self.now.checked_sub(video_wait) else { return };
        for (connection, player) in &self.players {
            if connection.shard.index() != shard || self.owner(player.key) != shard {
                continue;
            }
            let Some(source) = player.checker.as_ref().and_then(|checker| checker.source()) else {
                continue;
            };
            if !is_watching(player)
                || !self.is_live(source)
                || self.sources[source as usize].interleaves
            {
                continue;
            }
            let checker = player.checker.as_ref().expect("just seen");
            let is_behind = checker.is_behind(&self.sources, (video_before, audio_before));
            assert!(!is_behind, "{connection} is fast and has not got what was flushed");
        }
    }

    /// A fast player has the newest keyframe of a live source as soon as it can.
    pub(crate) fn check_progress(&self) {
        let Some(time) = self.now.checked_sub(WAY + self.plan.bus_delay_max()) else { return };
        for (connection, player) in &self.players {
            if !is_watching(player) || self.may_lack_gop(connection.shard.index(), player.key) {
                continue;
            }
            let Some((name, at)) = self.start_of(player.key, time) else { continue };
            let Some(checker) = &player.checker else { continue };
            let has = at < player.playing_since || checker.has(name);
            assert!(has, "{connection} is fast and never got {name:?}");
        }
    }

    /// Logs are bounded, whoever is slow.
    pub(crate) fn check_memory(&self) {
        let policy = &self.plan.policy;
        let forms = 1 + u64::from(self.plan.has_packets());
        let each = (policy.gop_bytes_max + policy.crowd.lag_bytes_max + LOG_SLACK) * forms;
        for shard in &self.shards {
            let ledger = shard.ledger();
            assert!(ledger.log_bytes <= ledger.streams * each, "{ledger}");
        }
    }

    /// The newest keyframe of a key's live source, if it was whole before a time.
    fn start_of(&self, key: usize, time: Instant) -> Option<(TagName, Instant)> {
        let mut newest_first = self.sources.iter().rev();
        let source = newest_first.find(|of| of.key == key && self.is_live(of.serial))?;
        let (index, at) = source.start_before(time)?;
        Some((TagName { source: source.serial, index }, at))
    }

    fn is_live(&self, source: u32) -> bool {
        match self.feeds[source as usize] {
            Feed::Publisher(connection) => self.publisher_handle(connection).is_some(),
            Feed::Attempt(name) => {
                self.attempts.get(&name).is_some_and(|of| of.is_open())
                    && self.shards[name.shard].brings_media(name.attempt)
            }
        }
    }

    /// Where a flush was lost and GOPs are larger than what is kept of them, a player waits for a
    /// keyframe that comes later.
    fn may_lack_gop(&self, shard: usize, key: usize) -> bool {
        self.plan.policy.gop_bytes_max < 1_000_000 && self.lost_flushes.contains_key(&(shard, key))
    }
}

fn is_watching(player: &Player) -> bool {
    player.phase == Phase::Playing && player.pace == Pace::Fast
}
