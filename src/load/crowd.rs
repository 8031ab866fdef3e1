//! The players of one thread: joins them as planned, reads them all, measures in the window.
//!
//! A sweep sleeps for a millisecond and then reads all that came: the server is never charged for
//! waking us. Times of arrival are the kernel's all the same. What was not yet there at the sweep
//! is seen by the next one; that the loop itself comes late is recorded, because then it is us who
//! are measured.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::figures::Spread;
use super::player::{End, Look, Player, Times};
use super::progress::Progress;
use super::target::Target;
use super::watch::{Counts, Figures, Seen};
use crate::clock;
use crate::limits::LOAD_RECEIVE_LEN;

/// What the players of one thread do, and when.
pub(super) struct Plan {
    pub(super) targets: Arc<Vec<Target>>,
    /// In the order of their times.
    pub(super) joins: VecDeque<Join>,
    pub(super) mode: Mode,
    pub(super) window: Window,
    /// From the connect to the first keyframe.
    pub(super) join_timeout: Duration,
}

/// One player to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Join {
    pub(super) at_ns: u64,
    /// Index of what it plays.
    pub(super) target: usize,
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

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) joins: Joins,
    pub(super) figures: Figures,
    pub(super) players: Vec<Seen>,
    pub(super) broken_tags: u64,
    /// Players that were measured and did not stay to the end, by reason.
    pub(super) lost: BTreeMap<String, u64>,
    pub(super) threads: Vec<ThreadUse>,
}

/// How joining went.
#[derive(Debug, Default)]
pub(super) struct Joins {
    pub(super) asked: u64,
    pub(super) joined: u64,
    /// By reason.
    pub(super) failed: BTreeMap<String, u64>,
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

/// The thread's state.
pub(super) struct Crowd<'a> {
    plan: Plan,
    progress: &'a Progress,
    epoll: Epoll,
    members: Vec<Option<Member>>,
    /// Indexes of members on their way to their keyframe.
    joining: Vec<usize>,
    measure: Option<Measure>,
    outcome: Outcome,
    /// Counted since the progress was last told.
    untold: Counts,
    next_check_ns: u64,
    last_look_ns: u64,
    is_finished: bool,
    unstamped_reads: u64,
}

struct Member {
    player: Player,
    /// What its socket is watched for.
    interest: EpollFlags,
    has_joined: bool,
}

/// What is measured of ourselves.
struct Measure {
    start_ns: u64,
    cpu: Duration,
    sweep_late: Spread,
}

impl<'a> Crowd<'a> {
    pub(super) fn new(plan: Plan, progress: &'a Progress) -> std::io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            members: Vec::new(),
            joining: Vec::new(),
            measure: None,
            outcome: Outcome::default(),
            untold: Counts::default(),
            next_check_ns: 0,
            last_look_ns: 0,
            is_finished: false,
            unstamped_reads: 0,
            plan,
            progress,
        })
    }

    /// Measures to the end of the window, then goes on playing until told to stop: what the server
    /// holds is read off meanwhile.
    pub(super) fn run(mut self) -> std::io::Result<Outcome> {
        let mut buffer = vec![0; LOAD_RECEIVE_LEN];
        let mut events = vec![EpollEvent::empty(); EVENTS];
        loop {
            let now_ns = clock::monotonic_ns();
            let is_stopping = self.progress.is_stopping();
            if !self.is_finished && (is_stopping || now_ns >= self.plan.window.end_ns) {
                self.finish(now_ns);
            }
            if is_stopping {
                return Ok(self.outcome);
            }
            if now_ns >= self.plan.window.start_ns && self.measure.is_none() && !self.is_finished {
                self.begin_window(now_ns);
            }
            self.note_lateness(now_ns);
            if !self.is_finished {
                self.join_due(now_ns);
            }
            if now_ns >= self.next_check_ns {
                self.next_check_ns = now_ns + CHECK_NS;
                self.check_joining(now_ns);
            }
            self.pause();
            self.read(&mut events, &mut buffer)?;
            self.tell();
        }
    }

    fn begin_window(&mut self, now_ns: u64) {
        for member in self.members.iter_mut().flatten() {
            member.player.watch.begin_window(now_ns);
        }
        self.last_look_ns = now_ns;
        self.unstamped_reads = 0;
        let (cpu, sweep_late) = (clock::thread_cpu(), Spread::default());
        self.measure = Some(Measure { start_ns: now_ns, cpu, sweep_late });
    }

    fn join_due(&mut self, now_ns: u64) {
        for _ in 0..JOINS_PER_LOOK {
            let next = self.plan.joins.front().copied();
            let Some(join) = next.filter(|join| join.at_ns <= now_ns) else { return };
            self.plan.joins.pop_front();
            self.outcome.joins.asked += 1;
            if let Err(error) = self.join(join) {
                self.outcome.joins.fail(&error.into());
                self.progress.failed.fetch_add(1, Relaxed);
            }
        }
    }

    fn join(&mut self, join: Join) -> std::io::Result<()> {
        let index = self.members.len();
        let player = Player::start(&self.plan.targets[join.target], index as u64)?;
        let interest = interest_of(&player);
        self.epoll.add(&player.connection, EpollEvent::new(interest, index as u64))?;
        self.members.push(Some(Member { player, interest, has_joined: false }));
        self.joining.push(index);
        self.progress.open.fetch_add(1, Relaxed);
        Ok(())
    }

    fn note_lateness(&mut self, now_ns: u64) {
        let passed_ns = now_ns - std::mem::replace(&mut self.last_look_ns, now_ns);
        if let Some(measure) = self.measure.as_mut().filter(|_| self.plan.mode == Mode::Sweep) {
            measure.sweep_late.record_ns(passed_ns.saturating_sub(SWEEP_NS));
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a thread of its own; sweeping is its design")]
    fn pause(&self) {
        if self.plan.mode == Mode::Sweep {
            std::thread::sleep(Duration::from_nanos(SWEEP_NS));
        }
    }

    fn read(&mut self, events: &mut [EpollEvent], buffer: &mut [u8]) -> std::io::Result<()> {
        let mut timeout = match self.plan.mode {
            Mode::Sweep => EpollTimeout::ZERO,
            Mode::Blocking => EpollTimeout::from(BLOCKED_MS_MAX),
        };
        let mut rounds = 0;
        loop {
            let count = match self.epoll.wait(events, timeout) {
                Err(Errno::EINTR) => 0,
                result => result?,
            };
            let look = Look::now();
            for event in &events[..count] {
                self.advance(event.data() as usize, event.events(), &look, buffer);
            }
            rounds += 1;
            if count < events.len() || rounds == READS_PER_LOOK {
                return Ok(());
            }
            timeout = EpollTimeout::ZERO;
        }
    }

    fn advance(&mut self, index: usize, events: EpollFlags, look: &Look, buffer: &mut [u8]) {
        let Some(member) = &mut self.members[index] else { return };
        let before = member.player.watch.counts;
        let result = member.step(events, look, buffer, &mut self.outcome.figures);
        self.unstamped_reads += std::mem::take(&mut member.player.unstamped_reads);
        self.untold.add(&member.player.watch.counts.since(&before));
        let interest = interest_of(&member.player);
        if interest != member.interest {
            member.interest = interest;
            let mut event = EpollEvent::new(interest, index as u64);
            // It is in the list: it was added when it joined.
            let _ = self.epoll.modify(&member.player.connection, &mut event);
        }
        if !member.has_joined && !self.is_finished && member.player.times.keyframe_ns.is_some() {
            member.has_joined = true;
            self.outcome.joins.note(&member.player.times);
            self.progress.joined.fetch_add(1, Relaxed);
        }
        if let Err(end) = result {
            self.end(index, look.now_ns, &end);
        }
    }

    fn check_joining(&mut self, now_ns: u64) {
        let timeout_ns = self.plan.join_timeout.as_nanos() as u64;
        let mut joining = std::mem::take(&mut self.joining);
        joining.retain(|index| {
            let Some(member) = &self.members[*index] else { return false };
            if member.has_joined {
                return false;
            }
            if now_ns.saturating_sub(member.player.times.started_ns) < timeout_ns {
                return true;
            }
            let end = End::Refused(member.player.times.missing_step().to_owned());
            self.end(*index, now_ns, &end);
            false
        });
        self.joining = joining;
    }

    /// A member is gone.
    fn end(&mut self, index: usize, now_ns: u64, end: &End) {
        let Some(mut member) = self.members[index].take() else { return };
        self.progress.open.fetch_sub(1, Relaxed);
        if self.is_finished {
            return;
        }
        let outcome = &mut self.outcome;
        outcome.broken_tags += member.player.wrong_sizes() + u64::from(end.is_broken());
        outcome.players.extend(member.player.watch.finish(now_ns, &mut outcome.figures));
        if member.has_joined {
            *outcome.lost.entry(end.to_string()).or_default() += 1;
        } else {
            outcome.joins.fail(end);
            self.progress.failed.fetch_add(1, Relaxed);
        }
    }

    /// Takes stock of all members.
    fn finish(&mut self, now_ns: u64) {
        self.is_finished = true;
        if let Some(measure) = self.measure.take() {
            let is_stamped = self.unstamped_reads == 0;
            self.outcome.threads.push(measure.finish(now_ns, is_stamped));
        }
        for member in self.members.iter_mut().flatten() {
            let outcome = &mut self.outcome;
            outcome.broken_tags += member.player.wrong_sizes();
            outcome.players.extend(member.player.watch.finish(now_ns, &mut outcome.figures));
            if !member.has_joined {
                let step = member.player.times.missing_step();
                outcome.joins.fail(&End::Refused(format!("{step} (when the run ended)")));
            }
        }
    }

    fn tell(&mut self) {
        let counts = std::mem::take(&mut self.untold);
        self.progress.bytes.fetch_add(counts.bytes, Relaxed);
        self.progress.frames.fetch_add(counts.frames, Relaxed);
        self.progress.missing.fetch_add(counts.missing, Relaxed);
    }
}

impl Member {
    fn step(
        &mut self,
        events: EpollFlags,
        look: &Look,
        buffer: &mut [u8],
        figures: &mut Figures,
    ) -> Result<(), End> {
        if events.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLERR) {
            self.player.on_writable()?;
        }
        if events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP) {
            self.player.on_readable(look, buffer, figures)?;
        }
        Ok(())
    }
}

impl Measure {
    fn finish(&self, now_ns: u64, has_kernel_stamps: bool) -> ThreadUse {
        ThreadUse {
            has_kernel_stamps,
            cpu_ns: (clock::thread_cpu() - self.cpu).as_nanos() as u64,
            wall_ns: now_ns - self.start_ns,
            sweep_late_p99_ms: self.sweep_late.percentile_ms(99.0),
        }
    }
}

impl Joins {
    fn note(&mut self, times: &Times) {
        self.joined += 1;
        let from_start = |at_ns: Option<u64>| at_ns.map(|at_ns| at_ns - times.started_ns);
        let steps = [
            (&mut self.connect, times.connected_ns),
            (&mut self.first_byte, times.first_byte_ns),
            (&mut self.keyframe, times.keyframe_ns),
        ];
        for (spread, at_ns) in steps {
            from_start(at_ns).into_iter().for_each(|ns| spread.record_ns(ns));
        }
    }

    fn fail(&mut self, end: &End) {
        *self.failed.entry(end.to_string()).or_default() += 1;
    }

    fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.joined += other.joined;
        for (reason, count) in &other.failed {
            *self.failed.entry(reason.clone()).or_default() += count;
        }
        self.connect.add(&other.connect);
        self.first_byte.add(&other.first_byte);
        self.keyframe.add(&other.keyframe);
    }
}

impl Outcome {
    /// Takes in what another thread saw.
    pub(super) fn add(&mut self, other: Self) {
        self.joins.add(&other.joins);
        self.figures.add(&other.figures);
        self.players.extend(other.players);
        self.broken_tags += other.broken_tags;
        for (reason, count) in other.lost {
            *self.lost.entry(reason).or_default() += count;
        }
        self.threads.extend(other.threads);
    }
}

fn interest_of(player: &Player) -> EpollFlags {
    if player.is_connected() && player.connection.is_flushed() {
        EpollFlags::EPOLLIN
    } else {
        EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT
    }
}

const SWEEP_NS: u64 = 1_000_000;
const EVENTS: usize = 1024;

/// Rounds of a full list of events before joins and the clock get a turn.
const READS_PER_LOOK: usize = 8;

/// Players that are started between two looks at the sockets: at 30 µs each, 2 ms.
const JOINS_PER_LOOK: usize = 64;

/// How often players on their way are looked at.
const CHECK_NS: u64 = 50_000_000;

/// A blocking wait ends after this, for joins and the clock.
const BLOCKED_MS_MAX: u8 = 2;
