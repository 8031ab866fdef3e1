//! Players that do not keep up: who lags over the bound jumps to the newest keyframe, who makes no
//! progress is evicted (decision 0003).

use super::crowd::{Crowd, Turn, place};
use super::player::PlayerState;
use crate::stream::Log;

impl Crowd {
    /// Goes over to another view of the same stream, where the old one lacks something. Who stands
    /// within the new one goes on; the others finish the tag that is half sent and jump to the next
    /// keyframe.
    pub fn relocate(&mut self, old: &Log, new: &Log) {
        let held = new.first_seq()..=new.flushed_seq();
        let open = self.players.iter_mut().filter(|player| player.state != PlayerState::Broken);
        for player in open {
            if player.state != PlayerState::AwaitingKeyframe {
                if held.contains(&player.cursor.seq) {
                    player.state = PlayerState::Blocked;
                    continue;
                }
                player.jumps += 1;
                self.totals.jumps += 1;
                player.leave_log(old);
            }
            if let Some(seq) = new.resume_from(player.cursor.seq) {
                place(player, new, seq);
                player.state = PlayerState::Blocked;
            }
        }
        self.datagrams.relocate(new);
        self.sent_seq = new.flushed_seq();
    }

    /// Evicts players that make no progress while nothing is flushed.
    pub fn check_slow(&mut self, turn: &mut Turn<'_>) {
        for index in 0..self.players.len() {
            if self.players[index].polling {
                self.restrain(index, turn);
            }
        }
    }

    /// Holds a blocked player to its bounds.
    pub(super) fn restrain(&mut self, index: usize, turn: &mut Turn<'_>) {
        let Turn { log, now, limits, events, .. } = turn;
        let (log, now) = (*log, *now);
        let player = &mut self.players[index];
        let stuck = now.duration_since(player.last_progress) >= limits.lag_evict;
        let jumping =
            player.jumped_since.is_some_and(|since| now.duration_since(since) >= limits.lag_evict);
        if stuck || jumping {
            events.evicted.push(player.id);
            return;
        }
        if player.lag_bytes(log) <= limits.lag_bytes_max {
            return;
        }
        player.jumps += 1;
        self.totals.jumps += 1;
        if player.jumps.is_power_of_two() {
            events.jumped.push((player.id, player.jumps));
        }
        player.jumped_since.get_or_insert(now);
        player.leave_log(log);
        let after = player.cursor.seq + 1;
        let Some(seq) = log.resume_from(after).map(|seq| seq.max(after)) else { return };
        let lag = log.position_of(log.flushed_seq()) - log.position_of(seq);
        if lag <= limits.lag_bytes_max {
            place(player, log, seq);
            player.state = PlayerState::Blocked;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{Scene, id};
    use crate::stream::Packaging;
    use crate::stream::testing::Writer;

    #[test]
    fn a_player_over_its_bound_finishes_its_tag_and_jumps_to_the_newest_keyframe() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        scene.wire.room.insert(1, 100);
        for timestamp_ms in (80..400).step_by(40) {
            scene.writer.frame(timestamp_ms, 1000);
            scene.flush();
        }
        assert_eq!((scene.stats(1).jumps, scene.stats(1).lag_bytes), (1, 0));
        let slowest = scene.crowd.slowest_seq();
        scene.writer.log.trim(slowest, 0);
        scene.writable(1, u64::MAX);
        assert_eq!(scene.timestamps(1), [0, 40, 80], "the tag that was begun is whole");
        scene.writer.frame(400, 10);
        scene.writer.keyframe(440, 10);
        scene.writer.frame(480, 10);
        scene.flush();
        assert_eq!(scene.timestamps(1), [0, 40, 80, 440, 480]);
        assert_eq!(scene.crowd.take_totals().jumps, 1);
    }

    #[test]
    fn a_jump_brings_the_configuration_that_is_in_force() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        scene.wire.room.insert(1, 0);
        scene.writer.frame(80, 6000);
        scene.flush();
        scene.writer.tag(crate::media::TagKind::Video, 120, &[0x17, 0, 0, 0, 0, 7]);
        scene.writer.frame(120, 6000);
        scene.flush();
        scene.writer.keyframe(160, 10);
        scene.flush();
        scene.writable(1, u64::MAX);
        assert_eq!(scene.timestamps(1), [0, 40, 160]);
        let config = [0x17, 0, 0, 0, 0, 7];
        assert!(scene.wire.got[&1].windows(config.len()).any(|at| at == config));
    }

    #[test]
    fn a_jump_is_over_when_the_player_has_caught_up() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        scene.wire.room.insert(1, 0);
        scene.writer.frame(80, 6000);
        scene.flush();
        assert!(scene.flush().evicted.is_empty());
        assert_eq!(scene.stats(1).jumps, 1);
        scene.writable(1, u64::MAX);
        scene.writer.keyframe(120, 10);
        scene.flush();
        scene.now += scene.limits.lag_evict * 2;
        scene.wire.room.insert(1, 0);
        scene.writer.frame(160, 10);
        scene.flush();
        let events = scene.turn(|crowd, turn| crowd.check_slow(turn));
        assert!(events.evicted.is_empty(), "it is full for the first time since then");
    }

    #[test]
    fn a_player_that_jumps_without_catching_up_is_evicted() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        scene.wire.room.insert(1, 0);
        let start = scene.now;
        for timestamp_ms in (80..2000).step_by(40) {
            scene.writer.keyframe(timestamp_ms, 4000);
            if !scene.flush().evicted.is_empty() {
                break;
            }
            // A little goes out each time, so that it is never stuck.
            scene.writable(1, 50);
            scene.now += Duration::from_secs(1);
        }
        // It jumped when the second keyframe came.
        let until_eviction = scene.limits.lag_evict + Duration::from_secs(1);
        assert_eq!(scene.now.duration_since(start), until_eviction);
        assert!(scene.stats(1).jumps > 2);
    }

    #[test]
    fn a_player_is_evicted_for_the_time_that_it_was_owed_something() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        // Nothing to send for long: not its fault.
        scene.now += scene.limits.lag_evict * 3;
        scene.wire.room.insert(1, 0);
        scene.writer.frame(80, 10);
        assert_eq!(scene.flush().blocked, [id(1)]);
        for _ in 0..10 {
            let events = scene.turn(|crowd, turn| crowd.check_slow(turn));
            assert!(events.evicted.is_empty());
            scene.now += scene.limits.lag_evict / 10;
        }
        let events = scene.turn(|crowd, turn| crowd.check_slow(turn));
        assert_eq!(events.evicted, [id(1)]);
    }

    #[test]
    fn a_new_view_keeps_who_stands_within_it_and_moves_the_others() {
        let mut scene = Scene::new();
        scene.join(1, Packaging::Flv);
        scene.join(2, Packaging::Flv);
        scene.wire.room.insert(2, 20);
        scene.writer.frame(80, 100);
        scene.flush();
        let old = std::mem::take(&mut scene.writer.log);
        // The owner went on: a keyframe, then what the first player stands behind.
        let mut new = Writer::opened();
        new.frame(0, 500);
        new.frame(40, 100);
        new.keyframe(80, 100);
        new.frame(120, 100);
        new.log.flush();
        new.log.trim(None, u64::MAX);
        assert_eq!(new.log.first_seq(), 5);
        scene.writer = new;
        scene.crowd.relocate(&old, &scene.writer.log);
        scene.flush();
        assert_eq!(scene.timestamps(1), [0, 40, 80, 120]);
        assert_eq!((scene.stats(1).jumps, scene.stats(2).jumps), (0, 0));
        scene.writable(2, u64::MAX);
        assert_eq!(scene.timestamps(2), [0, 40, 80, 120]);
        let old = std::mem::take(&mut scene.writer.log);
        let mut new = Writer::opened();
        for timestamp_ms in (0..400).step_by(40) {
            new.keyframe(timestamp_ms, 10);
        }
        new.log.flush();
        new.log.trim(None, u64::MAX);
        scene.writer = new;
        scene.crowd.relocate(&old, &scene.writer.log);
        scene.flush();
        assert_eq!(scene.timestamps(1), [0, 40, 80, 120, 360]);
        assert_eq!(scene.stats(1).jumps, 1);
    }
}
