//! Who joins when: the steady players over the ramp, guests after it.
//!
//! ```text
//! start        ramp          warm-up           window                 end
//!   |--- steady join ---|--- guests come ---|--- all is measured ---|
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::options::{CrowdOptions, Leave};
use super::outcome::Role;
use super::seconds_ns;
use super::target::Target;
use crate::clock;

/// What the players of one thread do, and when.
pub(super) struct Plan {
    /// The thread's number.
    pub(super) thread: usize,
    pub(super) targets: Arc<Vec<Target>>,
    /// In the order of their times.
    pub(super) joins: VecDeque<Join>,
    pub(super) mode: Mode,
    pub(super) window: Window,
    /// From when it was to join to the first keyframe.
    pub(super) join_timeout: Duration,
    pub(super) visit: Visit,
    /// Bytes that slow players read in a second from their first keyframe on.
    pub(super) slow_bytes_per_s: u32,
}

/// One player to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Join {
    pub(super) at_ns: u64,
    /// Index of what it plays.
    pub(super) target: usize,
    pub(super) role: Role,
}

/// How long visitors stay, and how they leave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    /// From when it was to join; unless given, until a second after the first keyframe.
    pub(super) stay_ns: Option<u64>,
    pub(super) leave: Leave,
}

/// When is measured; ns of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
}

/// How the sockets are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Sweep,
    /// Wakes with the first byte.
    Blocking,
}

/// When what happens; ns of the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) start_ns: u64,
    /// The last of the steady players joins.
    pub(super) settled_ns: u64,
    pub(super) window: Window,
}

/// Players beside those that are measured.
#[derive(Debug, Clone, Copy)]
pub(super) enum Guests {
    None,
    /// So many come each second, from the end of the ramp to the end of the window.
    Visitors {
        per_second: f64,
        visit: Visit,
    },
    /// So many join over a part of the warm-up, and read so many bytes per second.
    Slow {
        count: u32,
        bytes_per_s: u32,
    },
}

impl Times {
    pub(super) fn of(options: &CrowdOptions) -> Self {
        let ramp = options.ramp.unwrap_or_else(|| f64::from(options.players) / JOINS_PER_SECOND);
        let start_ns = clock::monotonic_ns() + START_DELAY_NS;
        let settled_ns = start_ns + seconds_ns(ramp);
        let window_ns = settled_ns + seconds_ns(options.warm_up);
        let end_ns = window_ns + seconds_ns(options.duration);
        Self { start_ns, settled_ns, window: Window { start_ns: window_ns, end_ns } }
    }
}

/// What each thread has to do, and on which CPU.
pub(super) fn plans(
    options: &CrowdOptions,
    guests: Guests,
    targets: &Arc<Vec<Target>>,
    times: &Times,
) -> Vec<(Option<usize>, Plan)> {
    let cpus: Vec<Option<usize>> = match &options.cpus {
        Some(list) if !list.cpus().is_empty() => list.cpus().iter().copied().map(Some).collect(),
        _ => vec![None],
    };
    let mut parts: Vec<VecDeque<Join>> = cpus.iter().map(|_| VecDeque::new()).collect();
    for (number, join) in joins(options, guests, targets.len(), times).enumerate() {
        parts[number % cpus.len()].push_back(join);
    }
    let plan = |(thread, joins)| Plan {
        thread,
        targets: Arc::clone(targets),
        joins,
        mode: mode_of(options),
        window: times.window,
        join_timeout: Duration::from_nanos(seconds_ns(options.join_timeout)),
        visit: guests.visit(),
        slow_bytes_per_s: guests.slow_bytes_per_s(),
    };
    cpus.into_iter().zip(parts.into_iter().enumerate().map(plan)).collect()
}

fn joins(
    options: &CrowdOptions,
    guests: Guests,
    targets: usize,
    times: &Times,
) -> impl Iterator<Item = Join> {
    let join = move |number: u64, at_ns, role| Join {
        at_ns,
        target: (number % targets as u64) as usize,
        role,
    };
    let players = u64::from(options.players);
    let (start_ns, ramp_ns) = (times.start_ns, times.settled_ns - times.start_ns);
    let steady = (0..players)
        .map(move |number| join(number, start_ns + ramp_ns * number / players, Role::Steady));
    let (count, spacing_ns, role) = guests.arrivals(times);
    let settled_ns = times.settled_ns;
    let guests = (0..count).map(move |number| join(number, settled_ns + number * spacing_ns, role));
    steady.chain(guests)
}

impl Guests {
    /// How many come, how far apart, and what for.
    fn arrivals(self, times: &Times) -> (u64, u64, Role) {
        let Window { start_ns, end_ns } = times.window;
        match self {
            Self::None => (0, 0, Role::Visitor),
            Self::Visitors { per_second, .. } => {
                let spacing_ns = (1e9 / per_second.clamp(0.001, 1e6)) as u64;
                ((end_ns - times.settled_ns) / spacing_ns, spacing_ns, Role::Visitor)
            }
            Self::Slow { count, .. } => {
                let count = u64::from(count);
                (count, (start_ns - times.settled_ns) / 2 / count.max(1), Role::Slow)
            }
        }
    }

    fn visit(self) -> Visit {
        match self {
            Self::Visitors { visit, .. } => visit,
            _ => Visit { stay_ns: None, leave: Leave::Reset },
        }
    }

    fn slow_bytes_per_s(self) -> u32 {
        match self {
            Self::Slow { bytes_per_s, .. } => bytes_per_s,
            _ => 0,
        }
    }
}

pub(super) fn mode_of(options: &CrowdOptions) -> Mode {
    if options.blocking { Mode::Blocking } else { Mode::Sweep }
}

/// Unless a ramp is given.
const JOINS_PER_SECOND: f64 = 500.0;
const START_DELAY_NS: u64 = 50_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn options(players: u32) -> CrowdOptions {
        CrowdOptions {
            players,
            streams: 1,
            first: 0,
            ramp: None,
            warm_up: 5.0,
            duration: 15.0,
            join_timeout: 10.0,
            cpus: None,
            blocking: false,
        }
    }

    fn times() -> Times {
        let window = Window { start_ns: 7 * S, end_ns: 17 * S };
        Times { start_ns: S, settled_ns: 3 * S, window }
    }

    fn planned(players: u32, guests: Guests) -> Vec<Join> {
        joins(&options(players), guests, 3, &times()).collect()
    }

    #[test]
    fn steady_players_are_spread_over_ramp_and_streams() {
        let joins = planned(4, Guests::None);
        let at: Vec<u64> = joins.iter().map(|join| join.at_ns).collect();
        assert_eq!(at, [S, S + S / 2, 2 * S, 2 * S + S / 2]);
        assert_eq!(joins.iter().map(|join| join.target).collect::<Vec<_>>(), [0, 1, 2, 0]);
        assert!(planned(0, Guests::None).is_empty());
    }

    #[test]
    fn visitors_come_from_the_end_of_the_ramp_on() {
        let visit = Visit { stay_ns: None, leave: Leave::Fin };
        let joins = planned(1, Guests::Visitors { per_second: 100.0, visit });
        assert_eq!(joins.len(), 1 + 14 * 100);
        assert!(joins[1..].iter().all(|join| join.role == Role::Visitor));
        assert_eq!((joins[1].at_ns, joins[2].at_ns), (3 * S, 3 * S + S / 100));
    }

    #[test]
    fn slow_players_are_there_before_the_window() {
        let joins = planned(1, Guests::Slow { count: 10, bytes_per_s: 7 });
        assert_eq!(joins.len(), 11);
        assert!(joins[1..].iter().all(|join| (3 * S..5 * S).contains(&join.at_ns)));
        let targets = Arc::new(super::super::target::expand("http://127.0.0.1/a", 0, 1).unwrap());
        let slow = Guests::Slow { count: 10, bytes_per_s: 7 };
        let plans = plans(&options(1), slow, &targets, &times());
        assert_eq!(plans[0].1.slow_bytes_per_s, 7);
    }

    #[test]
    fn threads_share_the_players() {
        let mut options = options(5);
        options.cpus = Some("0-1".to_owned().try_into().expect("a list"));
        let targets = Arc::new(super::super::target::expand("http://127.0.0.1/a", 0, 1).unwrap());
        let plans = plans(&options, Guests::None, &targets, &times());
        let shares: Vec<_> = plans.iter().map(|(cpu, plan)| (*cpu, plan.joins.len())).collect();
        assert_eq!(shares, [(Some(0), 3), (Some(1), 2)]);
    }
}
