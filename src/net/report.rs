//! What a shard's connections and counters look like from outside.

use std::sync::atomic::{AtomicU64, Ordering};

use super::counters::Counters;
use super::driver::Driver;
use super::link::{Links, Session};
use crate::bus::keeper::HookCounts;
use crate::bus::message::{Answer, NodeAsk};
use crate::bus::view::{Metric, MetricKind, SessionProtocol, SessionView};
use crate::clock;
use crate::metrics;
use crate::proto::rtsp::ServerError;
use crate::ring::tcp_facts;

impl Driver {
    /// What the API asks this shard's connections.
    pub(super) fn node_answer(&mut self, ask: NodeAsk) -> Answer {
        match ask {
            NodeAsk::Sessions => Answer::Sessions(sessions(&self.links)),
            NodeAsk::Metrics => Answer::Metrics(metrics(self)),
            NodeAsk::Load => {
                let fd_count =
                    (self.links.len() + self.udp.sockets() + self.listeners.len()) as u32;
                Answer::Load(self.load.view(fd_count))
            }
            NodeAsk::Configure => {
                self.configure();
                Answer::Done
            }
            NodeAsk::Tcp { connection } => {
                let token = self.by_connection.get(&connection);
                let link = token.and_then(|&token| self.links.get(token));
                Answer::Tcp(link.and_then(|link| tcp_facts(&link.fd).ok()))
            }
            NodeAsk::Kick { connection } => Answer::Kicked(self.kick(connection)),
        }
    }
}

fn sessions(links: &Links) -> Vec<SessionView> {
    links
        .iter()
        .filter_map(|link| {
            let protocol = match link.session {
                Session::Rtmp(_) => SessionProtocol::Rtmp,
                Session::Http(_) => SessionProtocol::Http,
                Session::Rtsp(_) => SessionProtocol::Rtsp,
                Session::Origin(_) | Session::Destination(_) => return None,
            };
            Some(SessionView { connection: link.id, protocol, local: link.local, peer: link.peer })
        })
        .collect()
}

fn metrics(driver: &Driver) -> Vec<Metric> {
    let counters = &driver.counters;
    let counter = |name, value| Metric { name, label: None, kind: MetricKind::Counter, value };
    let gauge = |name, value| Metric { name, label: None, kind: MetricKind::Gauge, value };
    let mut metrics = metrics::of_shard(clock::now(), &driver.shard, &driver.ledger());
    metrics.extend(rtp_metrics(driver));
    metrics.extend([
        counter("bus_messages_dropped_total", driver.port.dropped()),
        counter("bus_messages_kept_total", driver.port.kept()),
        gauge("bus_messages_waiting", driver.port.waiting() as u64),
        counter("connections_accepted_total", counters.accepted),
        counter("connections_refused_total", counters.refused),
        counter("connections_shed_total", counters.shed),
        counter("joins_denied_total", counters.denied),
        counter("connections_handed_over_total", counters.handed_over),
        counter("session_errors_total", counters.session_errors),
        counter("events_lost_total", driver.events.outbox.lost_total()),
        counter("event_followers_dropped_total", driver.events.followers_dropped),
        gauge("event_followers", driver.events.followers as u64),
        counter("ticks_total", counters.ticks),
        counter("receives_total", counters.receives),
        counter("receive_marks_lifted_total", driver.marks.lifted),
        gauge("origins_dialed", driver.shard.origins_dialed() as u64),
        gauge("receive_buffers_out", driver.ring.buffers_out() as u64),
        gauge("ring_operations", driver.ring.ops_in_flight() as u64),
    ]);
    if driver.shard.id().0 == 0 {
        metrics.extend(hooks(&driver.events.keeper.hooks));
    }
    metrics.extend(driver.residence.metrics());
    metrics
}

/// What the keeper counts, for the whole node.
fn hooks(counts: &HookCounts) -> [Metric; 9] {
    let of = |name, (label, of): (_, &'static str), value: &AtomicU64| {
        let value = value.load(Ordering::Relaxed);
        Metric { name, label: Some((label, of.into())), kind: MetricKind::Counter, value }
    };
    let calls = |result, value| of("hook_calls_total", ("result", result), value);
    let verdicts = |verdict, value| of("hook_verdicts_total", ("verdict", verdict), value);
    let waiting = counts.waiting.load(Ordering::Relaxed);
    [
        calls("taken", &counts.taken),
        calls("failed", &counts.failed),
        calls("dropped", &counts.dropped),
        verdicts("allowed", &counts.allowed),
        verdicts("denied", &counts.denied),
        verdicts("unanswered", &counts.unanswered),
        verdicts("overflow", &counts.overflowed),
        verdicts("withdrawn", &counts.withdrawn),
        Metric { name: "hook_calls_waiting", label: None, kind: MetricKind::Gauge, value: waiting },
    ]
}

/// What came of RTP and was no use, sources that are still up included.
fn rtp_metrics(driver: &Driver) -> Vec<Metric> {
    let mut counters = driver.counters;
    driver.links.iter().for_each(|link| counters.count_rtp(&link.session));
    let Counters { rtp, stray_interleaved, datagrams_too_long, datagrams_unwanted, .. } = counters;
    let reasons = [
        ("malformed", rtp.malformed),
        ("foreign_type", rtp.foreign_type),
        ("foreign_source", rtp.foreign_source),
        ("duplicate", rtp.duplicate),
        ("late", rtp.late),
        ("stray", rtp.stray),
        ("stray_interleaved", stray_interleaved),
        ("too_long", datagrams_too_long),
        ("unwanted", datagrams_unwanted),
        ("malformed_rtcp", rtp.malformed_rtcp),
    ];
    let dropped = reasons.map(|(reason, value)| Metric {
        name: metrics::RTP_DROPPED,
        label: Some(("reason", reason.into())),
        kind: MetricKind::Counter,
        value,
    });
    let errors = ServerError::REASONS.into_iter().zip(counters.rtsp_errors);
    let errors = errors.map(|(reason, value)| Metric {
        name: "rtsp_errors_total",
        label: Some(("reason", reason.into())),
        kind: MetricKind::Counter,
        value,
    });
    let timeouts = counters.rtsp_errors[ServerError::SessionTimeout.reason()];
    let plain = [
        ("rtp_packets_lost_total", MetricKind::Counter, rtp.lost),
        ("rtp_packets_truncated_total", MetricKind::Counter, rtp.truncated),
        ("udp_ports_refused_total", MetricKind::Counter, counters.udp_refused),
        ("rtsp_bad_descriptions_total", MetricKind::Counter, counters.rtsp_bad_descriptions),
        ("rtsp_session_timeouts_total", MetricKind::Counter, timeouts),
        ("udp_port_pairs_free", MetricKind::Gauge, driver.udp.free_pairs() as u64),
    ];
    let plain = plain.map(|(name, kind, value)| Metric { name, label: None, kind, value });
    dropped.into_iter().chain(errors).chain(plain).collect()
}
