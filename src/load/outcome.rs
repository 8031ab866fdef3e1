//! What came of the players of a run, added up over its threads.

use std::collections::BTreeMap;

use super::figures::Spread;
use super::player::{End, Times};
use super::watch::{Figures, Seen};

/// What a player is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Is measured, and stays.
    Steady,
    /// Comes and leaves.
    Visitor,
    /// Stops reading, or reads too slowly.
    Slow,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) steady: Joins,
    pub(super) visitors: Joins,
    pub(super) slow: Joins,
    pub(super) figures: Figures,
    /// The steady ones.
    pub(super) players: Vec<Seen>,
    pub(super) broken_tags: u64,
    pub(super) threads: Vec<ThreadUse>,
}

/// How the players of one role came and went.
#[derive(Debug, Default)]
pub(super) struct Joins {
    pub(super) asked: u64,
    /// Got their first keyframe.
    pub(super) joined: u64,
    /// Did not, by reason.
    pub(super) failed: BTreeMap<String, u64>,
    /// Joined and did not stay, by reason.
    pub(super) lost: BTreeMap<String, u64>,
    /// Left as they should.
    pub(super) left: u64,
    pub(super) connect: Spread,
    pub(super) first_byte: Spread,
    pub(super) keyframe: Spread,
}

/// How busy a thread of ours was in the window.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ThreadUse {
    pub(super) cpu_ns: u64,
    pub(super) wall_ns: u64,
    /// Whether the kernel told when each read's bytes came; else it is the time of the read.
    pub(super) has_kernel_stamps: bool,
    /// 99th percentile of how late a sweep began.
    pub(super) sweep_late_p99_ms: f64,
}

impl Joins {
    /// A player has its first keyframe.
    pub(super) fn note(&mut self, times: &Times, now_ns: u64) {
        self.joined += 1;
        self.record_steps(times, now_ns);
    }

    /// A player waits no longer. For what it lacks it waited that long at least.
    pub(super) fn give_up(&mut self, times: &Times, now_ns: u64, end: &End) {
        self.record_steps(times, now_ns);
        self.fail(end);
    }

    fn record_steps(&mut self, times: &Times, now_ns: u64) {
        let steps = [
            (&mut self.connect, times.connected_ns),
            (&mut self.first_byte, times.first_byte_ns),
            (&mut self.keyframe, times.keyframe_ns),
        ];
        for (spread, at_ns) in steps {
            spread.record_ns(at_ns.unwrap_or(now_ns).saturating_sub(times.due_ns));
        }
    }

    /// A player was turned away.
    pub(super) fn fail(&mut self, end: &End) {
        *self.failed.entry(end.to_string()).or_default() += 1;
    }

    pub(super) fn lose(&mut self, end: &End) {
        *self.lost.entry(end.to_string()).or_default() += 1;
    }

    pub(super) fn lost_count(&self) -> u64 {
        self.lost.values().sum()
    }

    fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.joined += other.joined;
        self.left += other.left;
        let reasons = [(&mut self.failed, other.failed), (&mut self.lost, other.lost)];
        for (own, more) in reasons {
            add_reasons(own, more);
        }
        self.connect.add(&other.connect);
        self.first_byte.add(&other.first_byte);
        self.keyframe.add(&other.keyframe);
    }
}

/// Adds up how often each reason was given.
pub(super) fn add_reasons(own: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>) {
    more.into_iter().for_each(|(reason, count)| *own.entry(reason).or_default() += count);
}

impl Outcome {
    pub(super) fn of(&mut self, role: Role) -> &mut Joins {
        match role {
            Role::Steady => &mut self.steady,
            Role::Visitor => &mut self.visitors,
            Role::Slow => &mut self.slow,
        }
    }

    /// Takes in what another thread saw.
    pub(super) fn add(&mut self, other: Self) {
        self.steady.add(other.steady);
        self.visitors.add(other.visitors);
        self.slow.add(other.slow);
        self.figures.add(&other.figures);
        self.players.extend(other.players);
        self.broken_tags += other.broken_tags;
        self.threads.extend(other.threads);
    }
}
