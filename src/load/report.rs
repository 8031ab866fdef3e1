//! The results: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::figures::Summary;
use super::guests::{SlowReport, VisitorReport};
use super::outcome::{Joins, ThreadUse};
use super::plan::{Guests, Mode};
use super::server_use::ServerUse;
use super::stage::Performance;
use super::target::Protocol;
use super::watch::Seen;

/// What was asked for.
pub(super) struct Asked<'a> {
    pub(super) command: &'static str,
    pub(super) label: Option<&'a String>,
    pub(super) url: &'a str,
    pub(super) players: u32,
    pub(super) streams: u32,
    pub(super) guests: Guests,
}

/// What players saw of a server.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) command: &'static str,
    pub(super) version: &'static str,
    pub(super) label: Option<String>,
    pub(super) url: String,
    pub(super) protocol: &'static str,
    pub(super) players: u32,
    pub(super) streams: u32,
    pub(super) window_s: f64,
    pub(super) joins: JoinReport,
    /// Players that did not stay, by reason.
    pub(super) lost: BTreeMap<String, u64>,
    /// Players that got their first frame while it was measured: they are not in lateness.
    pub(super) without_baseline: u64,
    pub(super) frame_gap_ms: Option<Summary>,
    pub(super) lateness_ms: Option<Summary>,
    pub(super) delay_ms: Option<Summary>,
    /// Over the players: each one's 99th percentile of lateness.
    pub(super) player_p99_lateness_ms: Option<Extent>,
    pub(super) bytes_per_player: Option<Extent>,
    pub(super) bytes: u64,
    pub(super) gbit_per_s: f64,
    pub(super) frames: u64,
    pub(super) stamped_frames: u64,
    pub(super) broken_tags: u64,
    pub(super) missing_frames: u64,
    pub(super) missing_frames_before: u64,
    pub(super) misplaced_frames: u64,
    /// Of RTSP.
    pub(super) rtp: Option<PacketReport>,
    pub(super) stalls: StallReport,
    pub(super) visitors: Option<VisitorReport>,
    pub(super) slow: Option<SlowReport>,
    pub(super) server: Option<ServerUse>,
    pub(super) client: ClientReport,
    /// Why the run means nothing or the server failed; empty when all is well.
    pub(super) faults: Vec<String>,
}

/// How joining went; times in ms.
#[derive(Debug, Serialize)]
pub(super) struct JoinReport {
    pub(super) asked: u64,
    pub(super) joined: u64,
    pub(super) failed: BTreeMap<String, u64>,
    pub(super) connect_ms: Option<Summary>,
    pub(super) first_byte_ms: Option<Summary>,
    pub(super) first_keyframe_ms: Option<Summary>,
}

/// RTP packets, by their sequence numbers.
#[derive(Debug, Serialize)]
pub(super) struct PacketReport {
    pub(super) packets: u64,
    /// Numbers passed over.
    pub(super) missing: u64,
    /// Out of order, or again.
    pub(super) misplaced: u64,
    /// Datagrams that sockets of the players had no room for: ours to answer for.
    pub(super) dropped_by_client: u64,
}

/// A number over the players.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Extent {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
}

/// Time without a new video frame, over all players.
#[derive(Debug, Default, Serialize)]
pub(super) struct StallReport {
    pub(super) over_200_ms: u64,
    pub(super) over_1_s: u64,
    /// Player-seconds beyond these ages, and their share of all.
    pub(super) stalled_s: f64,
    pub(super) long_stalled_s: f64,
    pub(super) stalled_ratio: f64,
    /// Players whose last frame was older than half a second when it ended, and the oldest of these.
    pub(super) silent_at_end: u64,
    pub(super) silent_at_end_s_max: f64,
}

/// What the load generator itself used.
#[derive(Debug, Serialize)]
pub(super) struct ClientReport {
    pub(super) mode: &'static str,
    pub(super) threads: Vec<ThreadReport>,
    /// What was measured is us: a thread had no CPU left, or came late to its sockets.
    pub(super) is_bottleneck: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct ThreadReport {
    pub(super) cpu_ratio: f64,
    /// Whether arrival times are the kernel's; else they are those of reading.
    pub(super) has_kernel_stamps: bool,
    pub(super) sweep_late_p99_ms: f64,
}

impl Report {
    pub(super) fn new(asked: &Asked<'_>, performance: Performance) -> Self {
        let Performance { protocol, mode, window_s, outcome, server } = performance;
        let players = &outcome.players;
        let sum = |of: fn(&Seen) -> u64| players.iter().map(of).sum::<u64>();
        let bytes = sum(|seen| seen.counts.bytes);
        let figures = &outcome.figures;
        let mut report = Self {
            command: asked.command,
            version: env!("CARGO_PKG_VERSION"),
            label: asked.label.cloned(),
            url: asked.url.to_owned(),
            protocol: protocol.name(),
            players: asked.players,
            streams: asked.streams,
            window_s: round(window_s, 3),
            joins: JoinReport::new(&outcome.steady),
            lost: outcome.steady.lost.clone(),
            without_baseline: sum(|seen| {
                u64::from(seen.lateness_p99_us.is_none() && seen.counts.frames > 0)
            }),
            frame_gap_ms: figures.gap.summary(),
            lateness_ms: figures.lateness.summary(),
            delay_ms: figures.delay.summary(),
            player_p99_lateness_ms: Extent::of(
                players.iter().filter_map(|seen| Some(seen.lateness_p99_us? as f64 / 1000.0)),
            ),
            bytes_per_player: Extent::of(players.iter().map(|seen| seen.counts.bytes as f64)),
            bytes,
            gbit_per_s: round(bytes as f64 * 8e-9 / window_s.max(0.001), 4),
            frames: sum(|seen| seen.counts.frames),
            stamped_frames: sum(|seen| seen.counts.stamped),
            broken_tags: outcome.broken_tags,
            missing_frames: sum(|seen| seen.counts.missing),
            missing_frames_before: sum(|seen| seen.missing_before),
            misplaced_frames: sum(|seen| seen.counts.misplaced),
            rtp: matches!(protocol, Protocol::Rtsp(_)).then(|| PacketReport {
                packets: sum(|seen| seen.counts.packets),
                missing: sum(|seen| seen.counts.missing_packets),
                misplaced: sum(|seen| seen.counts.misplaced_packets),
                dropped_by_client: sum(|seen| seen.counts.dropped_packets),
            }),
            stalls: StallReport::new(players),
            visitors: VisitorReport::of(asked.guests, &outcome.visitors, window_s),
            slow: SlowReport::of(asked.guests, &outcome.slow, server.as_ref()),
            server,
            client: ClientReport::new(mode, &outcome.threads),
            faults: Vec::new(),
        };
        report.faults = report.find_faults();
        report
    }

    fn find_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.window_s == 0.0 {
            faults.push("nothing was measured: the run ended before its warm-up did".to_owned());
        } else if self.frames == 0 && self.joins.asked > 0 {
            faults.push("no video frame came while it was measured".to_owned());
        }
        for (reason, count) in &self.joins.failed {
            faults.push(format!("{count} of {} players did not join: {reason}", self.joins.asked));
        }
        for (reason, count) in &self.lost {
            faults.push(format!("{count} players were lost: {reason}"));
        }
        if self.without_baseline > 0 {
            faults.push(format!(
                "{} players had no frame before the measurement, and are not in lateness: raise \
                 --warm-up",
                self.without_baseline
            ));
        }
        let stalls = &self.stalls;
        if stalls.over_1_s > 0 {
            faults.push(format!(
                "{} stalls over 1 s: {:.2} player-seconds beyond that",
                stalls.over_1_s, stalls.long_stalled_s
            ));
        }
        if stalls.silent_at_end > 0 {
            faults.push(format!(
                "{} players had no frame at the end, for up to {:.2} s",
                stalls.silent_at_end, stalls.silent_at_end_s_max
            ));
        }
        if self.broken_tags > 0 {
            faults.push(format!("{} broken tags", self.broken_tags));
        }
        let dropped = self.rtp.as_ref().map_or(0, |rtp| rtp.dropped_by_client);
        if dropped > 0 {
            faults.push(format!("{dropped} packets found no room in the players' sockets"));
        }
        self.visitors.iter().for_each(|visitors| visitors.find_faults(&mut faults));
        self.slow.iter().for_each(|slow| slow.find_faults(&mut faults));
        if self.client.is_bottleneck {
            faults.push("THE CLIENT IS THE BOTTLENECK: it measured itself".to_owned());
        }
        faults
    }

    /// The table.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        let out = &mut text;
        self.label.iter().for_each(|label| line(out, format_args!("{label}")));
        line(
            out,
            format_args!(
                "{} players of {} streams, {}, {:.1} s measured, {}",
                self.players, self.streams, self.protocol, self.window_s, self.client.mode
            ),
        );
        line(out, format_args!("{}", self.url));
        line(
            out,
            format_args!(
                "joined {} of {}, lost {}",
                self.joins.joined,
                self.joins.asked,
                self.lost.values().sum::<u64>()
            ),
        );
        line(out, format_args!(""));
        line(out, format_args!("{}", head()));
        for (name, summary) in [
            ("connect", &self.joins.connect_ms),
            ("first byte", &self.joins.first_byte_ms),
            ("first keyframe", &self.joins.first_keyframe_ms),
            ("frame gap", &self.frame_gap_ms),
            ("lateness", &self.lateness_ms),
            ("end-to-end delay", &self.delay_ms),
        ] {
            line(out, format_args!("{}", row(name, summary.as_ref())));
        }
        line(out, format_args!(""));
        self.render_media(out);
        self.visitors.iter().for_each(|visitors| visitors.render(out));
        self.slow.iter().for_each(|slow| slow.render(out));
        if let Some(server) = &self.server {
            server.render(out);
            let process = server.process.as_ref().filter(|_| self.visitors.is_some());
            process.iter().for_each(|process| process.render_slopes(out));
        }
        self.client.render(out);
        if !self.faults.is_empty() {
            line(out, format_args!(""));
            self.faults.iter().for_each(|fault| line(out, format_args!("! {fault}")));
        }
        text
    }

    fn render_media(&self, out: &mut String) {
        if let Some(worst) = &self.player_p99_lateness_ms {
            line(
                out,
                format_args!(
                    "p99 lateness of each player: min {:.2}, median {:.2}, worst {:.2} ms",
                    worst.min, worst.median, worst.max
                ),
            );
        }
        if let Some(bytes) = &self.bytes_per_player {
            line(
                out,
                format_args!(
                    "bytes of each player: min {:.0}, median {:.0}, max {:.0}; {:.3} Gbit/s in all",
                    bytes.min, bytes.median, bytes.max, self.gbit_per_s
                ),
            );
        }
        line(
            out,
            format_args!(
                "frames {}, missing {} (before the window {}), misplaced {}, broken tags {}",
                self.frames,
                self.missing_frames,
                self.missing_frames_before,
                self.misplaced_frames,
                self.broken_tags
            ),
        );
        if let Some(rtp) = &self.rtp {
            line(
                out,
                format_args!(
                    "RTP packets {}, missing {}, misplaced {}, dropped by the client {}",
                    rtp.packets, rtp.missing, rtp.misplaced, rtp.dropped_by_client
                ),
            );
        }
        line(
            out,
            format_args!(
                "stalls over 200 ms {}, over 1 s {}; {:.2} player-seconds, {:.4} % of all",
                self.stalls.over_200_ms,
                self.stalls.over_1_s,
                self.stalls.stalled_s,
                self.stalls.stalled_ratio * 100.0
            ),
        );
    }
}

impl JoinReport {
    pub(super) fn new(joins: &Joins) -> Self {
        Self {
            asked: joins.asked,
            joined: joins.joined,
            failed: joins.failed.clone(),
            connect_ms: joins.connect.summary(),
            first_byte_ms: joins.first_byte.summary(),
            first_keyframe_ms: joins.keyframe.summary(),
        }
    }
}

impl Extent {
    /// `None` of nothing.
    pub(super) fn of(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        let (min, max) = (*numbers.first()?, *numbers.last()?);
        Some(Self { min, median: numbers[numbers.len() / 2], max })
    }
}

impl StallReport {
    fn new(players: &[Seen]) -> Self {
        let sum = |of: fn(&Seen) -> u64| players.iter().map(of).sum::<u64>();
        let seconds = |ns: u64| ns as f64 / 1e9;
        let watched_s = seconds(sum(|seen| seen.watched_ns));
        let stalled_s = seconds(sum(|seen| seen.stalls.ns));
        Self {
            over_200_ms: sum(|seen| seen.stalls.count),
            over_1_s: sum(|seen| seen.stalls.long_count),
            stalled_s: round(stalled_s, 3),
            long_stalled_s: round(seconds(sum(|seen| seen.stalls.long_ns)), 3),
            stalled_ratio: if watched_s > 0.0 { stalled_s / watched_s } else { 0.0 },
            silent_at_end: sum(|seen| u64::from(seen.silent_ns.is_some())),
            silent_at_end_s_max: {
                let longest_ns = players.iter().filter_map(|seen| seen.silent_ns).max();
                round(seconds(longest_ns.unwrap_or(0)), 3)
            },
        }
    }
}

impl ThreadReport {
    fn sweep_late_max(&self) -> f64 {
        if self.has_kernel_stamps { STAMPED_SWEEP_LATE_MS_MAX } else { SWEEP_LATE_MS_MAX }
    }
}

impl ClientReport {
    fn new(mode: Mode, threads: &[ThreadUse]) -> Self {
        let threads: Vec<ThreadReport> = threads
            .iter()
            .map(|thread| ThreadReport {
                cpu_ratio: round(thread.cpu_ns as f64 / thread.wall_ns.max(1) as f64, 4),
                has_kernel_stamps: thread.has_kernel_stamps,
                sweep_late_p99_ms: thread.sweep_late_p99_ms,
            })
            .collect();
        let is_over = |thread: &ThreadReport| {
            thread.cpu_ratio > CPU_RATIO_MAX || thread.sweep_late_p99_ms > thread.sweep_late_max()
        };
        let is_bottleneck = threads.iter().any(is_over);
        let mode = match mode {
            Mode::Sweep => "sweep",
            Mode::Blocking => "blocking",
        };
        Self { mode, threads, is_bottleneck }
    }

    fn render(&self, out: &mut String) {
        let shares: Vec<String> = self
            .threads
            .iter()
            .map(|thread| {
                format!(
                    "{:.1} % (sweeps late {:.2} ms)",
                    thread.cpu_ratio * 100.0,
                    thread.sweep_late_p99_ms
                )
            })
            .collect();
        let has_stamps = self.threads.iter().all(|thread| thread.has_kernel_stamps);
        let clock = if has_stamps { "the kernel" } else { "reading, up to a sweep late" };
        line(out, format_args!("client CPU {}; arrival times by {clock}", shares.join(", ")));
    }
}

/// The first line of a table of times.
pub(super) fn head() -> String {
    format!(
        "{:<20}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "ms", "p50", "p90", "p99", "p99.9", "max", "count"
    )
}

/// One line of the table of times.
pub(super) fn row(name: &str, summary: Option<&Summary>) -> String {
    match summary {
        None => format!("{name:<20}{:>10}", "-"),
        Some(of) => format!(
            "{name:<20}{:>10.2}{:>10.2}{:>10.2}{:>10.2}{:>10.2}{:>12}",
            of.p50, of.p90, of.p99, of.p999, of.max, of.count
        ),
    }
}

pub(super) fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a String takes everything");
}

pub(super) fn or_dash(number: Option<f64>, digits: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
}

pub(super) fn round(number: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (number * scale).round() / scale
}

/// Share of a CPU from which on a thread of ours may be what limits.
pub(super) const CPU_RATIO_MAX: f64 = 0.85;

/// Lateness of sweeps from which on it is us who are late. With the kernel's stamps a late sweep
/// falsifies nothing until it finds two frames of a player at once, or its socket full.
const SWEEP_LATE_MS_MAX: f64 = 5.0;
const STAMPED_SWEEP_LATE_MS_MAX: f64 = 20.0;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::super::options::Leave;
    use super::super::outcome::Outcome;
    use super::super::plan::Visit;
    use super::super::target::Protocol;
    use super::super::watch::{Counts, Stalls};
    use super::*;

    const MS: u64 = 1_000_000;

    fn asked(guests: Guests) -> Asked<'static> {
        let url = "http://h/{i}.flv";
        Asked { command: "play", label: None, url, players: 3, streams: 1, guests }
    }

    /// Three players that saw 100 frames each, and what went wrong.
    fn performance(change: impl FnOnce(&mut Outcome)) -> Performance {
        let seen = |bytes, lateness_p99_us: u64| Seen {
            counts: Counts { frames: 100, stamped: 100, bytes, ..Counts::default() },
            missing_before: 0,
            stalls: Stalls::default(),
            watched_ns: 4000 * MS,
            silent_ns: None,
            lateness_p99_us: Some(lateness_p99_us),
        };
        let mut outcome = Outcome {
            players: vec![seen(1000, 700), seen(3000, 900), seen(2000, 50_000)],
            ..Outcome::default()
        };
        (outcome.steady.asked, outcome.steady.joined) = (3, 3);
        (0..300).for_each(|_| outcome.figures.lateness.record_ns(2 * MS));
        outcome.threads = vec![ThreadUse {
            cpu_ns: 1000 * MS,
            wall_ns: 4000 * MS,
            has_kernel_stamps: true,
            sweep_late_p99_ms: 3.0,
        }];
        change(&mut outcome);
        Performance {
            protocol: Protocol::HttpFlv,
            mode: Mode::Sweep,
            window_s: 4.0,
            outcome,
            server: None,
        }
    }

    fn report(change: impl FnOnce(&mut Outcome)) -> Report {
        Report::new(&asked(Guests::None), performance(change))
    }

    #[test]
    fn table_and_json_tell_the_same() {
        let report = report(|_| {});
        let table = report.render();
        for text in [
            "3 players of 1 streams, HTTP-FLV, 4.0 s measured, sweep\n",
            "joined 3 of 3, lost 0\n",
            "bytes of each player: min 1000, median 2000, max 3000; 0.000 Gbit/s in all\n",
            "p99 lateness of each player: min 0.70, median 0.90, worst 50.00 ms\n",
            "frames 300, missing 0 (before the window 0), misplaced 0, broken tags 0\n",
            "client CPU 25.0 % (sweeps late 3.00 ms); arrival times by the kernel\n",
        ] {
            assert!(table.contains(text), "{text}{table}");
        }
        let row = table.lines().find(|line| line.starts_with("lateness")).expect("a row");
        let row: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(row, ["lateness", "2.00", "2.00", "2.00", "2.00", "2.00", "300"]);
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["bytes_per_player"]["median"], 2000.0);
        assert_eq!(json["player_p99_lateness_ms"]["max"], 50.0);
        assert_eq!(json["lateness_ms"]["count"], 300);
        assert_eq!((&json["delay_ms"], &json["faults"]), (&Value::Null, &json!([])));
    }

    #[test]
    fn faults_are_named_in_both() {
        let reasons = |reason: &str| BTreeMap::from([(reason.to_owned(), 2)]);
        let report = report(|outcome| {
            outcome.steady.failed = reasons("no connection in time");
            outcome.steady.lost = reasons("closed by the server");
            outcome.broken_tags = 5;
            outcome.threads[0].cpu_ns = 3500 * MS;
        });
        let expected = [
            "2 of 3 players did not join: no connection in time",
            "2 players were lost: closed by the server",
            "5 broken tags",
            "THE CLIENT IS THE BOTTLENECK: it measured itself",
        ];
        assert_eq!(report.faults, expected);
        let table = report.render();
        assert!(expected.iter().all(|fault| table.contains(&format!("\n! {fault}\n"))), "{table}");
    }

    #[test]
    fn server_that_stands_still_is_a_fault() {
        let report = report(|outcome| {
            let stalls = &mut outcome.players[0].stalls;
            (stalls.count, stalls.long_count) = (3, 2);
            stalls.long_ns = 1250 * MS;
            outcome.players[1].silent_ns = Some(600 * MS);
            outcome.players[2].silent_ns = Some(950 * MS);
        });
        let expected = [
            "2 stalls over 1 s: 1.25 player-seconds beyond that",
            "2 players had no frame at the end, for up to 0.95 s",
        ];
        assert_eq!(report.faults, expected);
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["stalls"]["silent_at_end"], 2);
        let short = self::report(|outcome| outcome.players[0].stalls.count = 3);
        assert!(short.faults.is_empty(), "{:?}", short.faults);
    }

    #[test]
    fn players_without_a_baseline_are_a_fault_and_in_no_lateness() {
        let report = report(|outcome| {
            outcome.players[2].lateness_p99_us = None;
            // Nothing came to this one: that is told by other words.
            outcome.players[1].lateness_p99_us = None;
            outcome.players[1].counts.frames = 0;
        });
        let fault = "1 players had no frame before the measurement, and are not in lateness: raise \
                     --warm-up";
        assert_eq!(report.faults, [fault]);
        assert_eq!(report.player_p99_lateness_ms.expect("of one").max, 0.7);
    }

    #[test]
    fn late_sweeps_count_by_what_they_falsify() {
        let is_bottleneck = |has_kernel_stamps, sweep_late_p99_ms| {
            let change = |outcome: &mut Outcome| {
                outcome.threads[0].has_kernel_stamps = has_kernel_stamps;
                outcome.threads[0].sweep_late_p99_ms = sweep_late_p99_ms;
            };
            report(change).client.is_bottleneck
        };
        assert!(!is_bottleneck(true, 19.0) && is_bottleneck(true, 21.0));
        assert!(!is_bottleneck(false, 4.9) && is_bottleneck(false, 5.1));
    }

    #[test]
    fn run_that_saw_nothing_is_no_success() {
        let mut nothing = performance(|outcome| outcome.players.clear());
        assert_eq!(Report::new(&asked(Guests::None), nothing).faults.len(), 1);
        nothing = performance(|_| {});
        nothing.window_s = 0.0;
        assert!(Report::new(&asked(Guests::None), nothing).faults[0].contains("warm-up"));
        let nobody = performance(|outcome| {
            outcome.players.clear();
            (outcome.steady.asked, outcome.steady.joined) = (0, 0);
        });
        let faults = Report::new(&asked(Guests::None), nobody).faults;
        assert!(faults.is_empty(), "nobody was to see anything: {faults:?}");
    }

    #[test]
    fn guests_have_a_part_of_their_own() {
        let visit = Visit { stay_ns: None, leave: Leave::Reset };
        let visitors = Guests::Visitors { per_second: 50.0, visit };
        let performed = performance(|outcome| {
            let joins = &mut outcome.visitors;
            (joins.asked, joins.joined, joins.left) = (200, 199, 150);
            joins.failed = BTreeMap::from([("refused: HTTP 503 ".to_owned(), 1)]);
        });
        let report = Report::new(&asked(visitors), performed);
        let text = "visitors, 50 a second: 200 came, 199 joined, 150 left\n";
        assert!(report.render().contains(text), "{}", report.render());
        assert_eq!(report.faults, ["1 of 200 visitors did not join: refused: HTTP 503 "]);
        let slow = Guests::Slow { count: 7, bytes_per_s: 0 };
        let performed = performance(|outcome| {
            outcome.slow.joined = 7;
            outcome.slow.lost = BTreeMap::from([("closed by the server".to_owned(), 6)]);
        });
        let table = Report::new(&asked(slow), performed).render();
        let text = "slow players that stopped reading: 7 joined, 6 closed by the server\n";
        assert!(table.contains(text), "{table}");
    }
}
