//! What the server used while it was measured, per byte and per player, and whether it grew.

use serde::Serialize;

use super::report::{line, or_dash, round};
use super::server::Sample;

/// What the server used in the window.
#[derive(Debug, Serialize)]
pub(super) struct ServerUse {
    #[serde(flatten)]
    pub(super) process: Option<ProcessUse>,
    #[serde(flatten)]
    pub(super) soak: Option<SoakUse>,
}

/// What its processes say.
#[derive(Debug, Serialize)]
pub(super) struct ProcessUse {
    pub(super) processes: usize,
    /// By the scheduler's clock where it counts, and as user and system time.
    pub(super) cpu_s: Option<f64>,
    pub(super) cpu_ticked_s: f64,
    pub(super) cpu_s_per_gb: Option<f64>,
    pub(super) cpu_us_per_player_second: Option<f64>,
    /// Before the first player, when the steady ones had joined, at the end, and at most.
    pub(super) rss_before_bytes: u64,
    pub(super) rss_settled_bytes: u64,
    pub(super) rss_bytes: u64,
    pub(super) rss_max_bytes: u64,
    pub(super) rss_per_player_bytes: Option<f64>,
    /// None where we may not see them.
    pub(super) fds: Option<u64>,
    /// By least squares over the window.
    pub(super) rss_slope_kb_per_s: Option<f64>,
    pub(super) fd_slope_per_s: Option<f64>,
}

/// What was used of the soaked CPU, by anybody.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct SoakUse {
    pub(super) soak_busy_s: f64,
    pub(super) soak_busy_ratio: f64,
    pub(super) soak_s_per_gb: Option<f64>,
}

/// The server at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at_ns: u64,
    rss_bytes: u64,
    fds: Option<u64>,
}

/// The server's samples of a run.
pub(super) struct Samples<'a> {
    pub(super) before: &'a Sample,
    pub(super) settled: &'a Sample,
    pub(super) start: &'a Sample,
    pub(super) end: &'a Sample,
    pub(super) moments: &'a [Moment],
    /// The most RSS between `settled` and `start`.
    pub(super) warm_up_rss_bytes: u64,
}

/// What was done for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) wall_s: f64,
    pub(super) gigabytes: f64,
    /// The steady ones.
    pub(super) players: usize,
    pub(super) has_guests: bool,
}

impl Work {
    fn per_gb(self, seconds: f64) -> Option<f64> {
        (self.gigabytes > 0.0).then(|| round(seconds / self.gigabytes, 4))
    }

    fn per_player(self, number: f64) -> Option<f64> {
        (self.players > 0).then(|| number / self.players as f64)
    }
}

impl ProcessUse {
    pub(super) fn new(samples: &Samples<'_>, work: Work) -> Self {
        let Samples { before, settled, start, end, moments, warm_up_rss_bytes } = samples;
        let cpu_s = end.cpu_seconds_since(start);
        // With guests the growth after the ramp is theirs.
        let with_players = if work.has_guests { settled } else { end };
        let grown = with_players.rss_bytes as f64 - before.rss_bytes as f64;
        let rss_bytes = moments.iter().map(|moment| moment.rss_bytes).chain([*warm_up_rss_bytes]);
        let rss_max_bytes = rss_bytes.max().unwrap_or(0);
        Self {
            processes: end.processes,
            cpu_s: cpu_s.map(|seconds| round(seconds, 4)),
            cpu_ticked_s: round(end.ticked_seconds_since(start), 2),
            cpu_s_per_gb: cpu_s.and_then(|seconds| work.per_gb(seconds)),
            // What guests cost is not told apart.
            cpu_us_per_player_second: cpu_s
                .filter(|_| !work.has_guests)
                .and_then(|seconds| work.per_player(seconds * 1e6 / work.wall_s))
                .map(|micros| round(micros, 1)),
            rss_before_bytes: before.rss_bytes,
            rss_settled_bytes: settled.rss_bytes,
            rss_bytes: end.rss_bytes,
            rss_max_bytes: rss_max_bytes.max(end.rss_bytes),
            rss_per_player_bytes: work.per_player(grown).map(f64::round),
            fds: end.fds,
            rss_slope_kb_per_s: slope(moments, |moment| Some(moment.rss_bytes as f64 / 1000.0)),
            fd_slope_per_s: slope(moments, |moment| moment.fds.map(|fds| fds as f64)),
        }
    }

    fn render(&self, out: &mut String) {
        line(
            out,
            format_args!(
                "server CPU {} s ({:.2} s by ticks), {} per GB, {} µs per player and second",
                or_dash(self.cpu_s, 3),
                self.cpu_ticked_s,
                or_dash(self.cpu_s_per_gb, 3),
                or_dash(self.cpu_us_per_player_second, 1)
            ),
        );
        line(
            out,
            format_args!(
                "server RSS {:.1} MB, before the players {:.1} MB, {} KB per player; {} processes, \
                 {} descriptors",
                self.rss_bytes as f64 / 1e6,
                self.rss_before_bytes as f64 / 1e6,
                or_dash(self.rss_per_player_bytes.map(|bytes| bytes / 1000.0), 1),
                self.processes,
                or_dash(self.fds.map(|fds| fds as f64), 0)
            ),
        );
    }

    /// Whether it grows while as many come as leave.
    pub(super) fn render_slopes(&self, out: &mut String) {
        line(
            out,
            format_args!(
                "server growth: RSS {} KB/s, descriptors {} /s (least squares over the window)",
                or_dash(self.rss_slope_kb_per_s, 1),
                or_dash(self.fd_slope_per_s, 2)
            ),
        );
    }
}

impl SoakUse {
    pub(super) fn new(busy_s: f64, work: Work) -> Self {
        Self {
            soak_busy_s: round(busy_s, 4),
            soak_busy_ratio: round(busy_s / work.wall_s, 4),
            soak_s_per_gb: work.per_gb(busy_s),
        }
    }

    fn render(&self, out: &mut String) {
        line(
            out,
            format_args!(
                "soaked CPU busy {:.1} %: {:.3} s, {} per GB",
                self.soak_busy_ratio * 100.0,
                self.soak_busy_s,
                or_dash(self.soak_s_per_gb, 3)
            ),
        );
    }
}

impl ServerUse {
    pub(super) fn render(&self, out: &mut String) {
        self.process.iter().for_each(|process| process.render(out));
        self.soak.iter().for_each(|soak| soak.render(out));
    }
}

impl Moment {
    pub(super) fn of(at_ns: u64, sample: &Sample) -> Self {
        Self { at_ns, rss_bytes: sample.rss_bytes, fds: sample.fds }
    }
}

/// By how much a number grows in a second, by least squares; `None` of fewer than three moments, and
/// when one lacks it.
fn slope(moments: &[Moment], number: impl Fn(&Moment) -> Option<f64>) -> Option<f64> {
    let numbers: Vec<f64> = moments.iter().map(number).collect::<Option<_>>()?;
    let count = moments.len() as f64;
    if moments.len() < 3 {
        return None;
    }
    let start_ns = moments[0].at_ns;
    let seconds = |moment: &Moment| (moment.at_ns - start_ns) as f64 / 1e9;
    let mean_s = moments.iter().map(seconds).sum::<f64>() / count;
    let mean = numbers.iter().sum::<f64>() / count;
    let (mut product, mut square) = (0.0, 0.0);
    for (moment, number) in moments.iter().zip(numbers) {
        let from_mean_s = seconds(moment) - mean_s;
        product += from_mean_s * (number - mean);
        square += from_mean_s * from_mean_s;
    }
    (square > 0.0).then(|| round(product / square, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slope_is_that_of_the_line() {
        let moment = |second: u64, fds| Moment { at_ns: second * 1_000_000_000, rss_bytes: 0, fds };
        let of = |seen: &[(u64, u64)]| {
            let moments: Vec<_> = seen.iter().map(|&(at, fds)| moment(at, Some(fds))).collect();
            slope(&moments, |moment| moment.fds.map(|fds| fds as f64))
        };
        assert_eq!(of(&[(7, 3), (8, 5), (9, 7)]), Some(2.0));
        assert_eq!(of(&[(7, 3), (8, 9), (9, 3)]), Some(0.0));
        assert_eq!(of(&[(7, 3), (8, 9)]), None);
        assert_eq!(of(&[(7, 3); 3]), None);
    }

    fn sample(threads_ns: &[(u32, u64)], ticks: u64, megabytes: u64) -> Sample {
        let threads_ns = threads_ns.iter().copied().collect();
        Sample { threads_ns, ticks, rss_bytes: megabytes * 1_000_000, fds: Some(9), processes: 2 }
    }

    fn use_of(work: Work) -> ProcessUse {
        let before = sample(&[], 0, 10);
        let settled = sample(&[], 0, 30);
        let start = sample(&[(1, 1_000_000_000), (2, 500_000_000)], 150, 31);
        // One thread has ended, another is new.
        let end = sample(&[(1, 2_500_000_000), (3, 300_000_000)], 400, 40);
        let moments = [31, 45, 33].map(|megabytes| Moment::of(0, &sample(&[], 0, megabytes)));
        let samples = Samples {
            before: &before,
            settled: &settled,
            start: &start,
            end: &end,
            moments: &moments,
            warm_up_rss_bytes: 50_000_000,
        };
        ProcessUse::new(&samples, work)
    }

    #[test]
    fn use_is_told_per_gigabyte_and_per_player() {
        let work = Work { wall_s: 10.0, gigabytes: 0.9, players: 20, has_guests: false };
        let of_all = use_of(work);
        // 1.5 s and 0.3 s for 0.9 GB, and for 20 players over 10 s; 30 MB more for 20 players.
        assert_eq!((of_all.cpu_s, of_all.cpu_ticked_s), (Some(1.8), 2.5));
        assert_eq!(of_all.cpu_s_per_gb, Some(2.0));
        assert_eq!(of_all.cpu_us_per_player_second, Some(9000.0));
        assert_eq!(of_all.rss_per_player_bytes, Some(1_500_000.0));
        assert_eq!((of_all.rss_before_bytes, of_all.rss_settled_bytes), (10_000_000, 30_000_000));
        assert_eq!((of_all.rss_bytes, of_all.rss_max_bytes), (40_000_000, 50_000_000));
        assert_eq!((of_all.fds, of_all.processes), (Some(9), 2));
        // What grows once the steady ones are there is the guests'.
        let with_guests = use_of(Work { has_guests: true, ..work });
        assert_eq!(with_guests.rss_per_player_bytes, Some(1_000_000.0));
        assert_eq!(with_guests.cpu_us_per_player_second, None, "guests cost something too");
        let of_none = use_of(Work { gigabytes: 0.0, players: 0, ..work });
        assert_eq!((of_none.cpu_s_per_gb, of_none.rss_per_player_bytes), (None, None));
        assert_eq!(of_none.cpu_us_per_player_second, None);
    }

    #[test]
    fn what_may_not_be_seen_is_no_zero() {
        let unseen = Sample { fds: None, ..sample(&[], 0, 10) };
        let moments = [1, 2, 3].map(|at_ns| Moment::of(at_ns, &unseen));
        let samples = Samples {
            before: &unseen,
            settled: &unseen,
            start: &unseen,
            end: &unseen,
            moments: &moments,
            warm_up_rss_bytes: 50_000_000,
        };
        let work = Work { wall_s: 10.0, gigabytes: 0.9, players: 20, has_guests: false };
        let used = ProcessUse::new(&samples, work);
        assert_eq!((used.cpu_s, used.cpu_s_per_gb), (None, None));
        assert_eq!((used.fds, used.fd_slope_per_s), (None, None));
        let mut text = String::new();
        used.render(&mut text);
        assert!(text.starts_with("server CPU - s (0.00 s by ticks), - per GB"), "{text}");
        assert!(text.ends_with(" - descriptors\n"), "{text}");
    }

    #[test]
    fn soaked_cpu_is_told_per_gigabyte_and_of_the_time() {
        let work = Work { wall_s: 10.0, gigabytes: 0.5, players: 1, has_guests: false };
        let soak = SoakUse::new(2.5, work);
        assert_eq!((soak.soak_busy_s, soak.soak_busy_ratio), (2.5, 0.25));
        assert_eq!(soak.soak_s_per_gb, Some(5.0));
    }
}
