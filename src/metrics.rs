//! What the shards count, as one page of Prometheus text (exposition format 0.0.4).
//!
//! Shards count for themselves and are asked when somebody looks; their numbers of one name and
//! label add up.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::bridge::BridgeCounts;
use crate::bus::view::{Label, Metric, MetricKind, OriginView};
use crate::media::state::ErrorClass;
use crate::proto::rtp::DepacketizeError;
use crate::shard::Shard;
use crate::shard::ledger::Ledger;

mod residence;

pub use residence::{RESIDENCE, Residence};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a shard holds; label `kind`.
pub const LEDGER: &str = "ledger";

/// Streams in each table; label `state`.
pub const STREAMS: &str = "streams";

/// Packets that were no use to anybody, of what connections and streams have seen; label `reason`.
pub const RTP_DROPPED: &str = "rtp_packets_dropped_total";

/// Pushes; label `state`.
const PUSHES: &str = "pushes";

/// The numbers of a shard. `ledger` is that of the shard with the sockets that `net` has counted.
pub fn of_shard(now: Instant, shard: &Shard, ledger: &Ledger) -> Vec<Metric> {
    let totals = shard.totals();
    let plain = |name, value| Metric { name, label: None, kind: MetricKind::Counter, value };
    let labeled = |name, (label, of): (_, &'static str), kind, value| Metric {
        name,
        label: Some((label, of.into())),
        kind,
        value,
    };
    let demand = shard.demand_totals();
    let mut metrics = vec![
        plain("demand_pulls_total", demand.pulls),
        plain("demand_passive_total", demand.passive),
        plain("demand_refused_total", demand.refused),
        plain("media_bytes_in_total", totals.media_bytes_in),
        plain("media_bytes_copied_total", totals.media_bytes_copied),
        plain("config_bytes_copied_total", totals.config_bytes_copied),
        plain("bridge_bytes_copied_total", totals.bridge.bytes_copied),
        plain("joined_bytes_copied_total", totals.joined_bytes_copied),
        plain("media_tags_dropped_total", totals.tags_dropped),
        plain("media_bytes_out_total", totals.media_bytes_out),
        plain("sends_total", totals.sends),
        plain("player_jumps_total", totals.player_jumps),
        plain("udp_sends_lost_total", totals.datagrams_lost),
        plain("player_evictions_total", totals.player_evictions),
        plain("late_messages_total", totals.late_messages),
        plain("attempts_total", totals.attempts),
        plain("push_attempts_total", totals.push_attempts),
        plain("push_losses_total", totals.push_losses),
        plain("registrations_total", totals.registrations),
        plain("losses_total", totals.losses),
        plain("waiters_refused_total", totals.waiters_refused),
        plain("publishes_refused_total", totals.publishes_refused),
        plain("resyncs_total", totals.resyncs),
    ];
    metrics.extend(ErrorClass::ALL.iter().zip(totals.attempts_failed).map(|(class, value)| {
        let label = ("class", class.as_str());
        labeled("attempts_failed_total", label, MetricKind::Counter, value)
    }));
    let dropped = totals.packets_dropped.by_reason().into_iter();
    metrics.extend(dropped.map(|(reason, value)| {
        labeled(RTP_DROPPED, ("reason", reason), MetricKind::Counter, value)
    }));
    metrics.extend(of_bridges(&totals.bridge));
    let (name, kind) = ("demand_absences", MetricKind::Gauge);
    metrics.push(Metric { name, label: None, kind, value: demand.absences });
    metrics.extend(ErrorClass::ALL.iter().zip(totals.push_attempts_failed).map(
        |(class, value)| {
            let label = ("class", class.as_str());
            labeled("push_attempts_failed_total", label, MetricKind::Counter, value)
        },
    ));
    metrics.extend(shard.configured_origins(now).flat_map(of_origin));
    metrics.extend(shard.pushes_by_state().map(|(state, value)| {
        labeled(PUSHES, ("state", state.as_str()), MetricKind::Gauge, value)
    }));
    metrics.extend(
        ledger
            .items()
            .map(|(kind, value)| labeled(LEDGER, ("kind", kind), MetricKind::Gauge, value)),
    );
    let tables = [("pending", shard.pending_count()), ("registered", shard.registered_count())];
    metrics.extend(
        tables.map(|(state, count)| {
            labeled(STREAMS, ("state", state), MetricKind::Gauge, count as u64)
        }),
    );
    metrics
}

/// What was no use for making the form that a source does not bring.
fn of_bridges(counts: &BridgeCounts) -> impl Iterator<Item = Metric> {
    let packets = DepacketizeError::REASONS.into_iter().zip(counts.packets_unread);
    let packets = packets.map(|of| ("bridge_packets_unread_total", of));
    let frames = counts.frames_dropped().map(|of| ("bridge_frames_dropped_total", of));
    packets.chain(frames).map(|(name, (reason, value))| {
        let label = Some(("reason", reason.into()));
        Metric { name, label, kind: MetricKind::Counter, value }
    })
}

/// The numbers of an origin of the config: others have no end.
fn of_origin(view: OriginView) -> [Metric; 5] {
    let numbers = [
        ("origin_connects_total", MetricKind::Counter, view.connects),
        ("origin_failures_total", MetricKind::Counter, view.failures.iter().sum()),
        ("origin_pulls", MetricKind::Gauge, view.pulls.into()),
        ("origin_connecting", MetricKind::Gauge, view.connecting.into()),
        ("origin_avoided", MetricKind::Gauge, view.avoided.is_some().into()),
    ];
    numbers.map(|(name, kind, value)| {
        let label = Some(("origin", Cow::Owned(view.name.clone())));
        Metric { name, label, kind, value }
    })
}

/// The page.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<&'static str, Family>,
    shards: u64,
    unanswered: u64,
}

/// All numbers of one name.
#[derive(Debug)]
struct Family {
    kind: MetricKind,
    samples: BTreeMap<Option<Label>, u64>,
}

impl Page {
    pub fn add_shard(&mut self, metrics: &[Metric]) {
        self.shards += 1;
        for metric in metrics {
            let family = self
                .families
                .entry(metric.name)
                .or_insert_with(|| Family { kind: metric.kind, samples: BTreeMap::new() });
            *family.samples.entry(metric.label.clone()).or_default() += metric.value;
        }
    }

    /// A shard has not answered: the sums lack its numbers.
    pub fn add_unanswered(&mut self) {
        self.shards += 1;
        self.unanswered += 1;
    }

    pub fn render(&self) -> String {
        let mut text = String::new();
        let version = Some(("version", env!("CARGO_PKG_VERSION")));
        push_head(&mut text, "build_info", MetricKind::Gauge);
        push_sample(&mut text, "build_info", version, 1);
        push_head(&mut text, "cpu_seconds_total", MetricKind::Counter);
        push_sample(&mut text, "cpu_seconds_total", None, cpu_seconds());
        let own = [
            ("shards", MetricKind::Gauge, self.shards),
            ("shards_unanswered", MetricKind::Gauge, self.unanswered),
        ];
        for (name, kind, value) in own {
            push_head(&mut text, name, kind);
            push_sample(&mut text, name, None, value);
        }
        for (name, family) in &self.families {
            push_head(&mut text, name, family.kind);
            if family.kind == MetricKind::Histogram {
                push_histogram(&mut text, name, family);
                continue;
            }
            for (label, &value) in &family.samples {
                let label = label.as_ref().map(|(label, of)| (*label, &**of));
                push_sample(&mut text, name, label, value);
            }
        }
        text
    }
}

/// Of the whole process; 0 where the kernel does not tell.
fn cpu_seconds() -> f64 {
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(0.0, |usage| seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn push_head(text: &mut String, name: &str, kind: MetricKind) {
    let kind = match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    };
    // The end-to-end tests look whether each name is there.
    if let Some((_, help)) = HELP.iter().find(|(known, _)| *known == name) {
        push_line(text, format_args!("# HELP rillcast_{name} {help}"));
    }
    push_line(text, format_args!("# TYPE rillcast_{name} {kind}"));
}

fn push_sample(text: &mut String, name: &str, label: Option<(&str, &str)>, value: impl Display) {
    match label {
        None => push_line(text, format_args!("rillcast_{name} {value}")),
        Some((label, of)) => {
            let of = escape(of);
            push_line(text, format_args!("rillcast_{name}{{{label}=\"{of}\"}} {value}"));
        }
    }
}

/// Each bucket with those below it, as the format has them; the shards' are without.
fn push_histogram(text: &mut String, name: &str, family: &Family) {
    let sample = |label: Option<Label>| family.samples.get(&label).copied().unwrap_or(0);
    let mut count = 0;
    for le in residence::labels() {
        count += sample(Some(("le", le.into())));
        push_sample(text, &format!("{name}_bucket"), Some(("le", le)), count);
    }
    push_sample(text, &format!("{name}_sum"), None, sample(None) as f64 / 1e9);
    push_sample(text, &format!("{name}_count"), None, count);
}

fn push_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes everything");
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What each number of ours is.
const HELP: &[(&str, &str)] = &[
    ("demand_pulls_total", "Pulls on demand that were begun."),
    ("demand_passive_total", "Plays that nothing is pulled for: loops, and edges of ZLMediaKit."),
    (
        "demand_refused_total",
        "Streams asked for again and refused, as they were missing just then.",
    ),
    ("demand_absences", "Streams that are known to be missing."),
    ("build_info", "The version that runs; always 1."),
    ("cpu_seconds_total", "CPU time of the process, user and system."),
    ("shards", "Shards of this node."),
    ("shards_unanswered", "Shards whose numbers are missing on this page."),
    (LEDGER, "What is held, by kind; all zero when nothing is going on."),
    (STREAMS, "Streams by table."),
    (PUSHES, "Pushes to other servers, by how far they are."),
    ("push_attempts_total", "Attempts to push."),
    ("push_attempts_failed_total", "Attempts to push that failed, by class."),
    ("push_losses_total", "Pushes that were up and lost their destination."),
    ("media_bytes_in_total", "Bytes of media received."),
    ("media_bytes_copied_total", "Bytes of media copied in user space: each once, at ingest."),
    ("config_bytes_copied_total", "Bytes of metadata and configurations copied beyond that."),
    (
        "joined_bytes_copied_total",
        "Bytes of flushes copied into one piece for four or more RTMP or WS-FLV players.",
    ),
    ("media_bytes_out_total", "Bytes of media sent to players."),
    ("sends_total", "Sends to players."),
    (
        "bridge_bytes_copied_total",
        "Bytes copied to make RTP of FLV, or FLV of RTP, while somebody wants it.",
    ),
    ("bridge_packets_unread_total", "Packets that no frames could be made of for FLV, by reason."),
    (
        "bridge_frames_dropped_total",
        "Frames that were not made RTP of FLV, or FLV of RTP, by reason.",
    ),
    (RTP_DROPPED, "Packets of RTP and RTCP that were not taken, by reason."),
    ("rtp_packets_lost_total", "Packets of sources that did not come, or too late."),
    (
        "rtp_packets_truncated_total",
        "Packets that were passed on, though a header in them is cut off.",
    ),
    ("rtsp_errors_total", "RTSP sessions ended by a fault of their peer, by reason."),
    ("rtsp_bad_descriptions_total", "Descriptions of publishers that were refused."),
    ("rtsp_session_timeouts_total", "RTSP players closed because they gave no sign of life."),
    ("udp_ports_refused_total", "Tracks that got no UDP ports."),
    ("udp_port_pairs_free", "Pairs of UDP ports that nobody has."),
    ("media_tags_dropped_total", "Tags of FLV and RTMP that were not taken."),
    ("event_followers", "Connections that follow the event log."),
    (
        "event_followers_dropped_total",
        "Connections closed because they did not read the event log.",
    ),
    ("events_lost_total", "Events that found no room."),
    ("hook_calls_total", "Hooks told, by result."),
    ("hook_calls_waiting", "Hooks told or asked and not done with."),
    ("hook_verdicts_total", "Players and publishers decided on by hooks, by verdict."),
    ("udp_sends_lost_total", "Sends to players over UDP that their sockets did not take."),
    ("player_jumps_total", "Times that a slow player was moved to the newest keyframe."),
    ("player_evictions_total", "Players closed because they were too slow for too long."),
    ("late_messages_total", "Bus messages for something that had ended."),
    ("attempts_total", "Attempts to pull."),
    ("attempts_failed_total", "Attempts that failed, by class."),
    ("registrations_total", "Streams that became registered, also again."),
    ("losses_total", "Registered pulls that lost their origin and are tried again."),
    ("waiters_refused_total", "Players that waited and were sent away."),
    ("publishes_refused_total", "Publishers that found their name taken."),
    ("bus_messages_dropped_total", "Flushes to another shard that a full queue cost."),
    ("bus_messages_kept_total", "Messages to another shard that waited for room in its queue."),
    ("bus_messages_waiting", "Messages to other shards that wait for room now."),
    ("connections_accepted_total", "Connections accepted."),
    ("connections_refused_total", "Connections closed at once: a limit, or shut-down."),
    ("joins_denied_total", "Plays and publishes that an access rule or rate was against."),
    ("connections_shed_total", "Connections closed because no descriptor was left."),
    ("connections_handed_over_total", "Publishers moved to the shard that owns their key."),
    ("session_errors_total", "Sessions ended by an error of their peer."),
    ("ticks_total", "Turns of the shards' loops."),
    ("receives_total", "Pieces of input that connections have brought."),
    ("receive_marks_lifted_total", "Sources that were read before a whole video frame had come."),
    ("origin_connects_total", "Tries at an origin of the config."),
    ("origin_failures_total", "Tries at an origin that failed, and streams of it that were lost."),
    ("origin_pulls", "Streams that are up from an origin."),
    ("origin_connecting", "Places of an origin's connect budget in use."),
    ("origin_avoided", "Shards that ask others of an origin's priority first."),
    ("origins_dialed", "Origins with connects under way or queued."),
    ("receive_buffers_out", "Receive buffers that are not with the kernel."),
    ("ring_operations", "Operations that the kernel has."),
    (RESIDENCE, "From the last byte of a flush's oldest video frame in to the first byte out."),
    ("resyncs_total", "Replicas that got a new snapshot because a flush was dropped."),
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::config::Config;
    use crate::media::ShardId;
    use crate::shard::Policy;

    fn metric(name: &'static str, label: Option<(&'static str, &'static str)>) -> Metric {
        let label = label.map(|(label, of)| (label, of.into()));
        Metric { name, label, kind: MetricKind::Counter, value: 3 }
    }

    #[test]
    fn shards_add_up_and_each_name_has_one_head() {
        let mut page = Page::default();
        let kinds = [Some(("kind", "b")), Some(("kind", "a"))];
        page.add_shard(&kinds.map(|label| metric("x_total", label)));
        page.add_shard(&[metric("x_total", kinds[0]), metric("sends_total", None)]);
        page.add_unanswered();
        let text = page.render();
        let (_, families) = text.split_once("rillcast_shards 3\n").expect("the shards");
        assert_eq!(
            families,
            "# HELP rillcast_shards_unanswered Shards whose numbers are missing on this page.\n\
             # TYPE rillcast_shards_unanswered gauge\n\
             rillcast_shards_unanswered 1\n\
             # HELP rillcast_sends_total Sends to players.\n\
             # TYPE rillcast_sends_total counter\n\
             rillcast_sends_total 3\n\
             # TYPE rillcast_x_total counter\n\
             rillcast_x_total{kind=\"a\"} 3\n\
             rillcast_x_total{kind=\"b\"} 6\n"
        );
        assert!(text.contains("rillcast_build_info{version=\"0."), "{text}");
    }

    #[test]
    fn a_histogram_adds_up_over_buckets_and_shards() {
        let mut page = Page::default();
        for us in [30, 2_900, 900_000] {
            let mut residence = Residence::default();
            residence.observe(Duration::from_micros(us));
            page.add_shard(&residence.metrics().collect::<Vec<_>>());
        }
        let text = page.render();
        let (_, histogram) = text.split_once("# TYPE rillcast_residence_seconds ").unwrap();
        let lines: Vec<&str> = histogram.lines().collect();
        let bucket =
            |le: &str, count| format!("rillcast_residence_seconds_bucket{{le=\"{le}\"}} {count}");
        assert_eq!(lines[..3], ["histogram", &bucket("0.000025", 0), &bucket("0.00005", 1)]);
        assert_eq!(lines[14..17], [bucket("0.002", 1), bucket("0.003", 2), bucket("0.005", 2)]);
        assert_eq!(lines[22..24], [bucket("0.5", 2), bucket("+Inf", 3)]);
        let totals =
            ["rillcast_residence_seconds_sum 0.90293", "rillcast_residence_seconds_count 3"];
        assert_eq!(lines[24..], totals);
    }

    #[test]
    fn label_values_are_escaped() {
        let mut page = Page::default();
        page.add_shard(&[metric("x", Some(("l", "a\"b\\c\nd")))]);
        assert!(page.render().contains(r#"rillcast_x{l="a\"b\\c\nd"} 3"#), "{}", page.render());
    }

    #[test]
    fn every_number_of_a_shard_is_explained() {
        let mut config = Config::default();
        config.demand.origin_url = "rtmp://a/%s/%s".to_owned();
        let mut shard = Shard::new(ShardId(0), 1, 1, Policy::of(&config, 1));
        shard.set_origins(&config);
        let ledger = shard.ledger();
        let metrics = of_shard(clock::now(), &shard, &ledger);
        for metric in &metrics {
            assert!(HELP.iter().any(|(name, _)| *name == metric.name), "{}", metric.name);
        }
        let of_a = Some(("origin", "a:1935".into()));
        assert_eq!(metrics.iter().filter(|metric| metric.label == of_a).count(), 5);
    }
}
