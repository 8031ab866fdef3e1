//! What came of the players beside those that are measured: visitors and slow ones.

use std::collections::BTreeMap;

use serde::Serialize;

use super::outcome::Joins;
use super::plan::Guests;
use super::report::{JoinReport, line, or_dash, round, row};
use super::server_use::ServerUse;

/// Players that came and left.
#[derive(Debug, Serialize)]
pub(super) struct VisitorReport {
    pub(super) asked_per_s: f64,
    pub(super) joins: JoinReport,
    pub(super) left: u64,
    /// Closed by the server, by reason.
    pub(super) lost: BTreeMap<String, u64>,
}

/// Players that stopped reading or read too slowly.
#[derive(Debug, Serialize)]
pub(super) struct SlowReport {
    pub(super) bytes_per_s: u32,
    pub(super) joins: JoinReport,
    pub(super) closed_by_server: u64,
    /// From the end of the ramp to the most that the server held, for each of them.
    pub(super) rss_growth_bytes: Option<i64>,
    pub(super) rss_growth_per_player_bytes: Option<f64>,
}

impl VisitorReport {
    pub(super) fn of(guests: Guests, joins: &Joins, window_s: f64) -> Option<Self> {
        let Guests::Visitors { per_second, .. } = guests else { return None };
        (window_s > 0.0).then(|| Self {
            asked_per_s: per_second,
            joins: JoinReport::new(joins),
            left: joins.left,
            lost: joins.lost.clone(),
        })
    }

    pub(super) fn find_faults(&self, faults: &mut Vec<String>) {
        for (reason, count) in &self.joins.failed {
            faults.push(format!("{count} of {} visitors did not join: {reason}", self.joins.asked));
        }
        for (reason, count) in &self.lost {
            faults.push(format!("{count} visitors were lost: {reason}"));
        }
    }

    pub(super) fn render(&self, out: &mut String) {
        line(
            out,
            format_args!(
                "visitors, {} a second: {} came, {} joined, {} left",
                self.asked_per_s, self.joins.asked, self.joins.joined, self.left
            ),
        );
        for (name, summary) in [
            ("  connect", &self.joins.connect_ms),
            ("  first byte", &self.joins.first_byte_ms),
            ("  first keyframe", &self.joins.first_keyframe_ms),
        ] {
            line(out, format_args!("{}", row(name, summary.as_ref())));
        }
    }
}

impl SlowReport {
    pub(super) fn of(guests: Guests, joins: &Joins, server: Option<&ServerUse>) -> Option<Self> {
        let Guests::Slow { count, bytes_per_s } = guests else { return None };
        let process = server.and_then(|server| server.process.as_ref());
        let grown = process.map(|process| {
            process.rss_max_bytes.cast_signed() - process.rss_settled_bytes.cast_signed()
        });
        Some(Self {
            bytes_per_s,
            joins: JoinReport::new(joins),
            closed_by_server: joins.lost_count(),
            rss_growth_bytes: grown,
            rss_growth_per_player_bytes: grown
                .map(|bytes| round(bytes as f64 / f64::from(count.max(1)), 0)),
        })
    }

    pub(super) fn find_faults(&self, faults: &mut Vec<String>) {
        for (reason, count) in &self.joins.failed {
            faults.push(format!(
                "{count} of {} slow players did not join: {reason}",
                self.joins.asked
            ));
        }
    }

    pub(super) fn render(&self, out: &mut String) {
        let how = match self.bytes_per_s {
            0 => "that stopped reading".to_owned(),
            rate => format!("that read {rate} bytes a second"),
        };
        line(
            out,
            format_args!(
                "slow players {how}: {} joined, {} closed by the server",
                self.joins.joined, self.closed_by_server
            ),
        );
        let growth = self.rss_growth_bytes.map(|bytes| bytes as f64 / 1e6);
        let each = self.rss_growth_per_player_bytes.map(|bytes| bytes / 1000.0);
        line(
            out,
            format_args!(
                "  server RSS grew by {} MB, {} KB for each",
                or_dash(growth, 1),
                or_dash(each, 1)
            ),
        );
    }
}
