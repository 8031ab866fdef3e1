//! A run from its first join to its end: the threads of players, and beside them the one that
//! reads off the server and shows how it goes.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::crowd::Crowd;
use super::options::{CrowdOptions, RtspTransport, ServerOptions};
use super::outcome::Outcome;
use super::plan::{self, Guests, Mode, Times};
use super::progress::{Progress, Shown};
use super::server::{Sample, Server};
use super::server_use::{Moment, ProcessUse, Samples, ServerUse, SoakUse, Work};
use super::soak::{self, Soak};
use super::target::{self, Protocol};
use super::{Failure, Wait};
use crate::clock;

/// What is to be run.
pub(super) struct Stage<'a> {
    pub(super) url: &'a str,
    pub(super) rtsp_transport: RtspTransport,
    pub(super) crowd: &'a CrowdOptions,
    pub(super) server: &'a ServerOptions,
    pub(super) guests: Guests,
}

/// What came of it.
pub(super) struct Performance {
    pub(super) protocol: Protocol,
    pub(super) mode: Mode,
    /// Seconds that were measured; 0 when it did not come to that.
    pub(super) window_s: f64,
    pub(super) outcome: Outcome,
    pub(super) server: Option<ServerUse>,
}

impl Stage<'_> {
    pub(super) fn perform(&self, wait: Wait<'_>) -> Result<Performance, Failure> {
        let crowd = self.crowd;
        let (over, streams) = (self.rtsp_transport, crowd.streams.max(1));
        let targets = target::expand_over(over, self.url, crowd.first, streams)?;
        let is_datagrams = matches!(
            targets[0].protocol,
            Protocol::Rtsp(RtspTransport::Udp | RtspTransport::UdpGro)
        );
        if is_datagrams && matches!(self.guests, Guests::Slow { .. }) {
            return Err("over UDP nobody learns that a player is slow".into());
        }
        let targets = Arc::new(targets);
        let server = Server::new(&self.server.pid)?;
        let soak = self.server.soak.map(Soak::start).transpose()?;
        let times = Times::of(crowd);
        let plans = plan::plans(crowd, self.guests, &targets, &times);
        let progress = Progress::new(plans.len());
        let before = server.sample();
        let watcher = Watcher { server: &server, soak: soak.as_ref(), progress: &progress };
        let (outcome, marks) = thread::scope(|scope| -> Result<_, Failure> {
            let progress = &progress;
            let play = move |cpu: Option<usize>, plan| -> Result<Outcome, Failure> {
                cpu.map(soak::pin).transpose()?;
                Ok(Crowd::new(plan, progress)?.run()?)
            };
            let threads: Vec<_> =
                plans.into_iter().map(|(cpu, plan)| scope.spawn(move || play(cpu, plan))).collect();
            let marks = watcher.watch(&times, wait);
            progress.stop();
            let mut outcome = Outcome::default();
            for thread in threads {
                outcome.add(thread.join().expect("a panic of a thread is one of ours")?);
            }
            Ok((outcome, marks))
        })?;
        Ok(Performance {
            protocol: targets[0].protocol,
            mode: plan::mode_of(crowd),
            window_s: marks.as_ref().map_or(0.0, Marks::seconds),
            server: marks
                .and_then(|marks| marks.server_use(&server, &before, self.guests, &outcome)),
            outcome,
        })
    }
}

/// What is read off while the players play.
struct Watcher<'a> {
    server: &'a Server,
    soak: Option<&'a Soak>,
    progress: &'a Progress,
}

impl Watcher<'_> {
    /// Waits for the end; the numbers at both ends of the window if it came to that.
    fn watch(&self, times: &Times, wait: Wait<'_>) -> Option<Marks> {
        let mut shown = Shown::new(times.start_ns, times.window.end_ns);
        let mut until = |until_ns, phase, each: &mut dyn FnMut()| loop {
            let left_ns = until_ns - clock::monotonic_ns().min(until_ns);
            if left_ns == 0 {
                return false;
            }
            if wait(Duration::from_nanos(left_ns.min(LOOK_NS))) {
                return true;
            }
            each();
            shown.show(phase, self.progress);
        };
        let mut nothing = || {};
        if until(times.settled_ns, "joining", &mut nothing) {
            return None;
        }
        let settled = self.server.sample();
        // Slow players may be there and gone again before the window.
        let mut warm_up_rss_bytes = settled.rss_bytes;
        let mut note_rss = || {
            warm_up_rss_bytes = warm_up_rss_bytes.max(self.server.sample().rss_bytes);
        };
        if until(times.window.start_ns, "warming up", &mut note_rss) {
            return None;
        }
        let start = self.mark();
        let mut moments = vec![Moment::of(start.at_ns, &start.sample)];
        until(times.window.end_ns, "measuring", &mut || {
            if self.server.is_given() {
                moments.push(Moment::of(clock::monotonic_ns(), &self.server.sample()));
            }
        });
        let end = self.mark();
        shown.clear();
        Some(Marks { settled, warm_up_rss_bytes, start, end, moments })
    }

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
    /// When the steady players had joined.
    settled: Sample,
    /// The most from then to the window.
    warm_up_rss_bytes: u64,
    start: Mark,
    end: Mark,
    /// Once a second in between.
    moments: Vec<Moment>,
}

impl Marks {
    fn seconds(&self) -> f64 {
        (self.end.at_ns - self.start.at_ns) as f64 / 1e9
    }

    fn server_use(
        &self,
        server: &Server,
        before: &Sample,
        guests: Guests,
        outcome: &Outcome,
    ) -> Option<ServerUse> {
        let work = Work {
            wall_s: self.seconds(),
            gigabytes: (self.end.bytes - self.start.bytes) as f64 / 1e9,
            players: outcome.players.len(),
            has_guests: !matches!(guests, Guests::None),
        };
        let samples = Samples {
            before,
            settled: &self.settled,
            start: &self.start.sample,
            end: &self.end.sample,
            moments: &self.moments,
            warm_up_rss_bytes: self.warm_up_rss_bytes,
        };
        let process = server.is_given().then(|| ProcessUse::new(&samples, work));
        let soaked = self.start.soak_ns.zip(self.end.soak_ns);
        let soak = soaked.map(|(start, end)| {
            let busy_s = work.wall_s - (end - start) as f64 / 1e9;
            SoakUse::new(busy_s.max(0.0), work)
        });
        (process.is_some() || soak.is_some()).then_some(ServerUse { process, soak })
    }
}

/// How often the server is looked at, and the progress shown.
const LOOK_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_soak_did_not_get_was_used() {
        let mark = |at_s: u64, bytes, soak_ms: u64| Mark {
            at_ns: at_s * 1_000_000_000,
            bytes,
            sample: Sample::default(),
            soak_ns: Some(soak_ms * 1_000_000),
        };
        // Of ten seconds it got seven and a half.
        let (start, end) = (mark(5, 100, 1_000), mark(15, 500_000_100, 8_500));
        let marks = Marks {
            settled: Sample::default(),
            warm_up_rss_bytes: 0,
            start,
            end,
            moments: Vec::new(),
        };
        let (server, before) = (Server::new(&[]).expect("none"), Sample::default());
        let server_use = marks.server_use(&server, &before, Guests::None, &Outcome::default());
        let server_use = server_use.expect("there was a soak");
        let soak = server_use.soak.expect("there was a soak");
        assert_eq!((soak.soak_busy_s, soak.soak_s_per_gb), (2.5, Some(5.0)));
        assert!(server_use.process.is_none(), "no process was named");
    }
}
