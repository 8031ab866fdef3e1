//! `load play`: players that join over the ramp, settle, and are measured.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::crowd::{Crowd, Join, Mode, Outcome, Plan, Window};
use super::options::{CrowdOptions, PlayOptions};
use super::progress::Progress;
use super::report::{PlayReport, Run};
use super::server::{Sample, Server};
use super::server_use::ServerUse;
use super::soak::{self, Soak};
use super::target::{self, Target};
use super::{Failure, Wait, report, seconds_ns};
use crate::clock;

pub(super) fn run(options: &PlayOptions, wait: Wait<'_>) -> Result<ExitCode, Failure> {
    let crowd = &options.crowd;
    let targets = Arc::new(target::expand(&options.url, crowd.first, crowd.streams.max(1))?);
    let server = Server::new(&options.server.pid)?;
    let soak = options.server.soak.map(Soak::start).transpose()?;
    let times = Times::of(crowd);
    let progress = Progress::default();
    let mut gauge = Gauge { server: &server, soak: soak.as_ref(), progress: &progress };
    let before = server.sample();
    let (outcome, marks) = thread::scope(|scope| -> Result<_, Failure> {
        let threads: Vec<_> = plans(crowd, &targets, &times)
            .into_iter()
            .map(|(cpu, plan)| {
                let progress = &progress;
                scope.spawn(move || -> Result<Outcome, Failure> {
                    cpu.map(soak::pin).transpose()?;
                    Ok(Crowd::new(plan, progress)?.run()?)
                })
            })
            .collect();
        let marks = attend(&times, &mut gauge, wait);
        progress.stop();
        let mut outcome = Outcome::default();
        for thread in threads {
            outcome.add(thread.join().expect("a panic of a thread is one of ours")?);
        }
        Ok((outcome, marks))
    })?;
    let run = Run {
        label: options.label.clone(),
        url: options.url.clone(),
        protocol: targets[0].protocol.name(),
        players: crowd.players,
        streams: crowd.streams,
        mode: mode_of(crowd),
        window_s: marks.as_ref().map_or(0.0, Marks::seconds),
    };
    let server = marks.and_then(|marks| marks.server_use(&server, &before, &outcome));
    let report = PlayReport::new(&run, &outcome, server);
    report::publish(&options.output, &report, &report.render())?;
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// When what happens; ns of the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    start_ns: u64,
    ramp_ns: u64,
    window: Window,
}

impl Times {
    fn of(options: &CrowdOptions) -> Self {
        let ramp = options.ramp.unwrap_or_else(|| f64::from(options.players) / JOINS_PER_SECOND);
        let start_ns = clock::monotonic_ns() + START_DELAY_NS;
        let ramp_ns = seconds_ns(ramp);
        let window_ns = start_ns + ramp_ns + seconds_ns(options.warm_up);
        let end_ns = window_ns + seconds_ns(options.duration);
        Self { start_ns, ramp_ns, window: Window { start_ns: window_ns, end_ns } }
    }
}

/// What each thread has to do, and on which CPU.
fn plans(
    options: &CrowdOptions,
    targets: &Arc<Vec<Target>>,
    times: &Times,
) -> Vec<(Option<usize>, Plan)> {
    let cpus: Vec<Option<usize>> = match &options.cpus {
        Some(list) if !list.cpus().is_empty() => list.cpus().iter().copied().map(Some).collect(),
        _ => vec![None],
    };
    let players = u64::from(options.players);
    let join = |number: u64| Join {
        at_ns: times.start_ns + times.ramp_ns * number / players.max(1),
        target: (number % targets.len() as u64) as usize,
    };
    let plan = |thread: usize| Plan {
        targets: Arc::clone(targets),
        joins: (thread as u64..players).step_by(cpus.len()).map(join).collect(),
        mode: mode_of(options),
        window: times.window,
        join_timeout: Duration::from_nanos(seconds_ns(options.join_timeout)),
    };
    cpus.iter().enumerate().map(|(thread, cpu)| (*cpu, plan(thread))).collect()
}

fn mode_of(options: &CrowdOptions) -> Mode {
    if options.blocking { Mode::Blocking } else { Mode::Sweep }
}

/// What is read off while the players play.
struct Gauge<'a> {
    server: &'a Server,
    soak: Option<&'a Soak>,
    progress: &'a Progress,
}

impl Gauge<'_> {
    fn mark(&self) -> Mark {
        Mark {
            at_ns: clock::monotonic_ns(),
            bytes: self.progress.bytes(),
            sample: self.server.sample(),
            soak_ns: self.soak.map(Soak::got_ns),
        }
    }
}

/// Numbers at one end of the window.
#[derive(Debug, Clone)]
struct Mark {
    at_ns: u64,
    bytes: u64,
    sample: Sample,
    soak_ns: Option<u64>,
}

struct Marks {
    start: Mark,
    end: Mark,
}

impl Marks {
    fn seconds(&self) -> f64 {
        (self.end.at_ns - self.start.at_ns) as f64 / 1e9
    }

    fn server_use(&self, server: &Server, before: &Sample, outcome: &Outcome) -> Option<ServerUse> {
        let soaked = self.start.soak_ns.zip(self.end.soak_ns).map(|(start, end)| end - start);
        if !server.is_given() && soaked.is_none() {
            return None;
        }
        let wall_s = self.seconds();
        Some(ServerUse::new(
            server.is_given().then_some((before, &self.start.sample, &self.end.sample)),
            soaked.map(|ns| (wall_s - ns as f64 / 1e9).max(0.0)),
            wall_s,
            (self.end.bytes - self.start.bytes) as f64 / 1e9,
            outcome.players.len(),
        ))
    }
}

/// Watches over the run; the numbers at both ends of the window if it came to that.
fn attend(times: &Times, gauge: &mut Gauge<'_>, wait: Wait<'_>) -> Option<Marks> {
    if wait_until(times.window.start_ns, gauge.progress, wait) {
        return None;
    }
    let start = gauge.mark();
    wait_until(times.window.end_ns, gauge.progress, wait);
    Some(Marks { start, end: gauge.mark() })
}

/// Waits and shows how it goes; whether the run is to end before.
fn wait_until(until_ns: u64, progress: &Progress, wait: Wait<'_>) -> bool {
    loop {
        let left_ns = until_ns.saturating_sub(clock::monotonic_ns());
        if left_ns == 0 {
            return false;
        }
        if wait(Duration::from_nanos(left_ns.min(SHOW_NS))) {
            return true;
        }
        progress.show();
    }
}

const JOINS_PER_SECOND: f64 = 500.0;
const START_DELAY_NS: u64 = 50_000_000;
const SHOW_NS: u64 = 1_000_000_000;
