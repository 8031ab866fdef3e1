//! What a shard's connections and counters look like from outside.

use super::driver::Driver;
use super::link::{Links, Session};
use crate::bus::view::{Metric, MetricKind, SessionProtocol, SessionView};
use crate::media::state::ErrorClass;

pub(super) fn sessions(links: &Links) -> Vec<SessionView> {
    links
        .iter()
        .filter_map(|link| {
            let protocol = match link.session {
                Session::Rtmp(_) => SessionProtocol::Rtmp,
                Session::Http(_) => SessionProtocol::Http,
                Session::Origin(_) => return None,
            };
            Some(SessionView { connection: link.id, protocol, local: link.local, peer: link.peer })
        })
        .collect()
}

pub(super) fn metrics(driver: &Driver) -> Vec<Metric> {
    let totals = driver.shard.totals();
    let counters = &driver.counters;
    let counter = |name, value| Metric { name, label: None, kind: MetricKind::Counter, value };
    let gauge = |name, value| Metric { name, label: None, kind: MetricKind::Gauge, value };
    let mut metrics = vec![
        counter("media_bytes_in_total", totals.media_bytes_in),
        counter("media_bytes_copied_total", totals.media_bytes_copied),
        counter("media_bytes_out_total", totals.media_bytes_out),
        counter("sends_total", totals.sends),
        counter("player_jumps_total", totals.player_jumps),
        counter("player_evictions_total", totals.player_evictions),
        counter("waiters_refused_total", totals.waiters_refused),
        counter("publishes_refused_total", totals.publishes_refused),
        counter("registrations_total", totals.registrations),
        counter("source_losses_total", totals.losses),
        counter("pull_attempts_total", totals.attempts),
        counter("late_messages_total", totals.late_messages),
        counter("replica_resyncs_total", totals.resyncs),
        counter("bus_messages_dropped_total", driver.port.dropped()),
        counter("connections_accepted_total", counters.accepted),
        counter("connections_refused_total", counters.refused),
        counter("connections_shed_total", counters.shed),
        counter("connections_handed_over_total", counters.handed_over),
        counter("session_errors_total", counters.session_errors),
        counter("ticks_total", counters.ticks),
        gauge("streams_pending", driver.shard.pending_count() as u64),
        gauge("streams_registered", driver.shard.registered_count() as u64),
        gauge("origins_dialed", driver.shard.origins_dialed() as u64),
        gauge("receive_buffers_out", driver.ring.buffers_out() as u64),
        gauge("ring_operations", driver.ring.ops_in_flight() as u64),
    ];
    for (class, count) in ErrorClass::ALL.iter().zip(totals.attempts_failed) {
        metrics.push(Metric {
            name: "pull_attempts_failed_total",
            label: Some(("class", class.as_str())),
            kind: MetricKind::Counter,
            value: count,
        });
    }
    for (kind, value) in driver.ledger().items() {
        metrics.push(Metric {
            name: "ledger",
            label: Some(("kind", kind)),
            kind: MetricKind::Gauge,
            value,
        });
    }
    metrics
}
