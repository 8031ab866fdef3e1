//! What the server used while it was measured, per byte and per player.

use serde::Serialize;

use super::report::{line, or_dash, round};
use super::server::Sample;

/// What the server used in the window.
#[derive(Debug, Serialize)]
pub(super) struct ServerUse {
    pub(super) processes: usize,
    /// By the scheduler's clock, and as user and system time.
    pub(super) cpu_s: Option<f64>,
    pub(super) cpu_ticked_s: Option<f64>,
    pub(super) cpu_s_per_gb: Option<f64>,
    pub(super) cpu_us_per_player_second: Option<f64>,
    pub(super) rss_before_bytes: Option<u64>,
    pub(super) rss_bytes: Option<u64>,
    pub(super) rss_per_player_bytes: Option<f64>,
    pub(super) fds: Option<u64>,
    /// Of the soaked CPU: what was used of it, by anybody.
    pub(super) soak_busy_s: Option<f64>,
    pub(super) soak_busy_ratio: Option<f64>,
    pub(super) soak_s_per_gb: Option<f64>,
}

impl ServerUse {
    /// `samples` before the first player, and at both ends of the window; `soak_busy_s` what of
    /// the soaked CPU was used.
    pub(super) fn new(
        samples: Option<(&Sample, &Sample, &Sample)>,
        soak_busy_s: Option<f64>,
        wall_s: f64,
        gigabytes: f64,
        players: usize,
    ) -> Self {
        let per_gb = |seconds: f64| (gigabytes > 0.0).then(|| round(seconds / gigabytes, 4));
        let players = players as f64;
        let mut server = Self {
            processes: samples.map_or(0, |(_, _, end)| end.processes),
            cpu_s: None,
            cpu_ticked_s: None,
            cpu_s_per_gb: None,
            cpu_us_per_player_second: None,
            rss_before_bytes: None,
            rss_bytes: None,
            rss_per_player_bytes: None,
            fds: None,
            soak_busy_s: soak_busy_s.map(|seconds| round(seconds, 4)),
            soak_busy_ratio: soak_busy_s.map(|seconds| round(seconds / wall_s, 4)),
            soak_s_per_gb: soak_busy_s.and_then(per_gb),
        };
        if let Some((before, start, end)) = samples {
            let cpu_s = end.cpu_seconds_since(start);
            let grown = end.rss_bytes as f64 - before.rss_bytes as f64;
            server.cpu_s = Some(round(cpu_s, 4));
            server.cpu_ticked_s = Some(round(end.ticked_seconds_since(start), 2));
            server.cpu_s_per_gb = per_gb(cpu_s);
            server.cpu_us_per_player_second =
                (players > 0.0).then(|| round(cpu_s * 1e6 / players / wall_s, 1));
            server.rss_before_bytes = Some(before.rss_bytes);
            server.rss_bytes = Some(end.rss_bytes);
            server.rss_per_player_bytes = (players > 0.0).then(|| round(grown / players, 0));
            server.fds = Some(end.fds);
        }
        server
    }

    pub(super) fn render(&self, out: &mut String) {
        if let (Some(cpu_s), Some(ticked_s)) = (self.cpu_s, self.cpu_ticked_s) {
            line(
                out,
                format_args!(
                    "server CPU {cpu_s:.3} s ({ticked_s:.2} s by ticks), {} per GB, {} µs per player \
                 and second",
                    or_dash(self.cpu_s_per_gb, 3),
                    or_dash(self.cpu_us_per_player_second, 1)
                ),
            );
        }
        if let (Some(before), Some(rss)) = (self.rss_before_bytes, self.rss_bytes) {
            line(
                out,
                format_args!(
                    "server RSS {:.1} MB, before the players {:.1} MB, {} KB per player; {} processes, \
                 {} descriptors",
                    rss as f64 / 1e6,
                    before as f64 / 1e6,
                    or_dash(self.rss_per_player_bytes.map(|bytes| bytes / 1000.0), 1),
                    self.processes,
                    self.fds.unwrap_or(0)
                ),
            );
        }
        if let (Some(busy_s), Some(ratio)) = (self.soak_busy_s, self.soak_busy_ratio) {
            line(
                out,
                format_args!(
                    "soaked CPU busy {:.1} %: {busy_s:.3} s, {} per GB",
                    ratio * 100.0,
                    or_dash(self.soak_s_per_gb, 3)
                ),
            );
        }
    }
}
