//! `load publish`: streams that are published until told otherwise.

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use serde::Serialize;

use super::clip::Clip;
use super::figures::Summary;
use super::options::{PublishOptions, RtspTransport};
use super::progress::{Progress, Shown};
use super::publisher::{Publishers, Sent};
use super::report::{self, line, or_dash, round, row};
use super::results::Results;
use super::server::{Sample, Server};
use super::server_use::{ProcessUse, Samples, Work};
use super::target::{self, Protocol, Target};
use super::{Failure, Wait, seconds_ns, soak};
use crate::clock;

pub(super) fn run(options: &PublishOptions, wait: Wait<'_>) -> Result<ExitCode, Failure> {
    let (over, streams) = (options.rtsp_transport, options.streams.max(1));
    if over == RtspTransport::UdpGro {
        return Err("udp-gro is for players: a publisher receives no packets".into());
    }
    let targets = target::expand_over(over, &options.url, options.first, streams)?;
    let is_published =
        |target: &Target| matches!(target.protocol, Protocol::Rtmp | Protocol::Rtsp(_));
    if !targets.iter().all(is_published) {
        return Err("publishing is over rtmp:// or rtsp://".into());
    }
    let results = Results::open(&options.output)?;
    let protocol = targets[0].protocol.name();
    let clip = Arc::new(Clip::load(options.file.as_deref())?);
    let start_ns = clock::monotonic_ns();
    let starts = starts(options, targets, clip.period_ms, start_ns);
    let end_ns = options.duration.map_or(u64::MAX, |seconds| start_ns + seconds_ns(seconds));
    let server = Server::new(&options.pid)?;
    let mut ingest = Ingest::new(&server, starts.len());
    let progress = Progress::default();
    let mut shown = Shown::new(start_ns, end_ns);
    let threads: Vec<_> = parts(options, starts)
        .into_iter()
        .map(|(cpu, starts)| {
            Ok((cpu, Publishers::new(Arc::clone(&clip), options.chunk_size, starts)?))
        })
        .collect::<Result<_, Failure>>()?;
    let (sent, used) = thread::scope(|scope| -> Result<_, Failure> {
        let progress = &progress;
        let publish = move |cpu: Option<usize>, mut publishers: Publishers| {
            cpu.map(soak::pin).transpose()?;
            publishers.run(progress)?;
            Ok::<Sent, Failure>(publishers.sent)
        };
        let threads: Vec<_> = threads
            .into_iter()
            .map(|(cpu, publishers)| scope.spawn(move || publish(cpu, publishers)))
            .collect();
        while !threads.iter().all(ScopedJoinHandle::is_finished) {
            let left_ns = end_ns.saturating_sub(clock::monotonic_ns());
            if left_ns == 0 || wait(Duration::from_nanos(left_ns.min(SHOW_NS))) {
                break;
            }
            shown.show("publishing", progress);
            ingest.look(progress);
        }
        let used = ingest.finish(progress);
        progress.stop();
        shown.clear();
        let mut sent = Sent::default();
        for thread in threads {
            sent.add(thread.join().expect("a panic of a thread is one of ours")?);
        }
        Ok((sent, used))
    })?;
    let seconds = (clock::monotonic_ns() - start_ns) as f64 / 1e9;
    let mut report = PublishReport::new(options, protocol, &clip, &sent, seconds);
    report.server = used;
    results.publish(&report, &report.render())?;
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Streams and when they connect.
type Starts = VecDeque<(u64, Target)>;

/// When each stream connects. Spread over a round of the file, their keyframes do not come all at
/// once, as those of independent publishers would not.
fn starts(options: &PublishOptions, targets: Vec<Target>, period_ms: u32, start_ns: u64) -> Starts {
    let count = targets.len() as u64;
    let ramp_ns = match options.ramp {
        Some(seconds) => seconds_ns(seconds),
        None if count == 1 => 0,
        None => (u64::from(period_ms) * 1_000_000).max(count * START_INTERVAL_NS),
    };
    let starts = targets.into_iter().zip(0..);
    starts.map(|(target, number)| (start_ns + ramp_ns * number / count, target)).collect()
}

/// The streams of each thread, in turns, and the CPU that it runs on.
fn parts(options: &PublishOptions, starts: Starts) -> Vec<(Option<usize>, Starts)> {
    let cpus = options.cpus.as_ref().map_or(&[][..], |list| list.cpus());
    let mut parts: Vec<(Option<usize>, Starts)> =
        cpus.iter().map(|cpu| (Some(*cpu), Starts::new())).collect();
    if parts.is_empty() {
        return vec![(None, starts)];
    }
    let count = parts.len();
    for (number, start) in starts.into_iter().enumerate() {
        parts[number % count].1.push_back(start);
    }
    parts
}

/// Reads off the server from when the last stream has begun.
struct Ingest<'a> {
    server: &'a Server,
    streams: usize,
    before: Sample,
    start: Option<Mark>,
}

/// What was sent and used up to a moment.
struct Mark {
    at_ns: u64,
    bytes: u64,
    sample: Sample,
}

/// What the server used to take the streams in.
#[derive(Debug, Serialize)]
struct IngestUse {
    seconds: f64,
    cpu_s: Option<f64>,
    cpu_s_per_gb: Option<f64>,
    cpu_us_per_stream_second: Option<f64>,
    /// Before the first stream, and at the end.
    rss_before_bytes: u64,
    rss_bytes: u64,
    rss_per_stream_bytes: Option<f64>,
    fds: Option<u64>,
}

impl<'a> Ingest<'a> {
    fn new(server: &'a Server, streams: usize) -> Self {
        Self { server, streams, before: server.sample(), start: None }
    }

    fn look(&mut self, progress: &Progress) {
        let settled = progress.settled.load(Relaxed);
        if self.server.is_given() && self.start.is_none() && settled >= self.streams as u64 {
            self.start = Some(self.mark(progress));
        }
    }

    fn mark(&self, progress: &Progress) -> Mark {
        Mark { at_ns: clock::monotonic_ns(), bytes: progress.bytes(), sample: self.server.sample() }
    }

    /// `None` when not all of them had begun.
    fn finish(&self, progress: &Progress) -> Option<IngestUse> {
        let (start, end) = (self.start.as_ref()?, self.mark(progress));
        Some(IngestUse::new(&self.before, start, &end, self.streams))
    }
}

impl IngestUse {
    fn new(before: &Sample, start: &Mark, end: &Mark, streams: usize) -> Self {
        let wall_s = (end.at_ns - start.at_ns) as f64 / 1e9;
        let gigabytes = (end.bytes - start.bytes) as f64 / 1e9;
        let samples = Samples {
            before,
            settled: &start.sample,
            start: &start.sample,
            end: &end.sample,
            moments: &[],
            warm_up_rss_bytes: 0,
        };
        // A stream is to a publisher what a player is to the others.
        let work = Work { wall_s, gigabytes, players: streams, has_guests: false };
        let used = ProcessUse::new(&samples, work);
        Self {
            seconds: round(wall_s, 3),
            cpu_s: used.cpu_s,
            cpu_s_per_gb: used.cpu_s_per_gb,
            cpu_us_per_stream_second: used.cpu_us_per_player_second,
            rss_before_bytes: used.rss_before_bytes,
            rss_bytes: used.rss_bytes,
            rss_per_stream_bytes: used.rss_per_player_bytes,
            fds: used.fds,
        }
    }

    fn render(&self, out: &mut String) {
        line(
            out,
            format_args!(
                "server CPU {} s of {:.1} s, {} per GB, {} µs per stream and second; RSS {:.1} MB, \
                 {} KB per stream; {} descriptors",
                or_dash(self.cpu_s, 3),
                self.seconds,
                or_dash(self.cpu_s_per_gb, 3),
                or_dash(self.cpu_us_per_stream_second, 1),
                self.rss_bytes as f64 / 1e6,
                or_dash(self.rss_per_stream_bytes.map(|bytes| bytes / 1000.0), 1),
                or_dash(self.fds.map(|fds| fds as f64), 0)
            ),
        );
    }
}

/// What came of publishing.
#[derive(Debug, Serialize)]
struct PublishReport {
    command: &'static str,
    version: &'static str,
    url: String,
    protocol: &'static str,
    streams: u64,
    started: u64,
    failed: BTreeMap<String, u64>,
    seconds: f64,
    /// Whether frames carry our timestamp.
    is_stamped: bool,
    frames: u64,
    bytes: u64,
    /// Packets that the kernel did not take.
    unsent_packets: u64,
    mbit_per_s_per_stream: f64,
    accept_ms: Option<Summary>,
    lateness_ms: Option<Summary>,
    server: Option<IngestUse>,
    faults: Vec<String>,
}

impl PublishReport {
    fn new(
        options: &PublishOptions,
        protocol: &'static str,
        clip: &Clip,
        sent: &Sent,
        seconds: f64,
    ) -> Self {
        let round_bytes: usize = clip.tags.iter().map(|tag| tag.payload.len()).sum();
        let mut report = Self {
            command: "publish",
            version: env!("CARGO_PKG_VERSION"),
            url: options.url.clone(),
            protocol,
            streams: sent.streams,
            started: sent.started,
            failed: sent.failed.clone(),
            seconds: round(seconds, 3),
            is_stamped: clip.is_stamped(),
            frames: sent.frames,
            bytes: sent.bytes,
            unsent_packets: sent.unsent_packets,
            mbit_per_s_per_stream: round(round_bytes as f64 * 8e-3 / f64::from(clip.period_ms), 3),
            accept_ms: sent.accept.summary(),
            lateness_ms: sent.lateness.summary(),
            server: None,
            faults: Vec::new(),
        };
        report.faults = report.find_faults();
        report
    }

    fn find_faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self
            .failed
            .iter()
            .map(|(reason, count)| format!("{count} of {} streams: {reason}", self.streams))
            .collect();
        if self.started == 0 {
            faults.push("nothing was published".to_owned());
        }
        if self.unsent_packets > 0 {
            faults.push(format!("{} packets could not be sent", self.unsent_packets));
        }
        if self.lateness_ms.is_some_and(|lateness| lateness.p99 > LATE_P99_MS_MAX) {
            faults.push(
                "THE PUBLISHER WAS LATE: what players measured in this time is invalid".to_owned(),
            );
        }
        faults
    }

    fn render(&self) -> String {
        let mut text = String::new();
        let out = &mut text;
        line(
            out,
            format_args!(
                "published {} of {} streams of {:.2} Mbit/s over {} for {:.1} s to {}",
                self.started,
                self.streams,
                self.mbit_per_s_per_stream,
                self.protocol,
                self.seconds,
                self.url
            ),
        );
        if !self.is_stamped {
            line(
                out,
                format_args!("frames carry no timestamp of ours: H.264 with 4-byte lengths does"),
            );
        }
        line(out, format_args!("{}", report::head()));
        line(out, format_args!("{}", row("accepted", self.accept_ms.as_ref())));
        line(out, format_args!("{}", row("sent late", self.lateness_ms.as_ref())));
        self.server.iter().for_each(|server| server.render(out));
        self.faults.iter().for_each(|fault| line(out, format_args!("! {fault}")));
        text
    }
}

const SHOW_NS: u64 = 1_000_000_000;

/// 200 connections a second at most.
const START_INTERVAL_NS: u64 = 5_000_000;

/// Beyond this the publisher was not on time.
const LATE_P99_MS_MAX: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ingest_is_told_per_gigabyte_and_per_stream() {
        let sample = |ns, megabytes: u64| Sample {
            threads_ns: [(1, ns)].into(),
            rss_bytes: megabytes * 1_000_000,
            ..Sample::default()
        };
        let mark = |at_s: u64, bytes, sample| Mark { at_ns: at_s * 1_000_000_000, bytes, sample };
        let start = mark(3, 7, sample(500_000_000, 30));
        let end = mark(13, 2_000_000_007, sample(3_500_000_000, 50));
        let used = IngestUse::new(&sample(0, 10), &start, &end, 100);
        // 3 s for 2 GB of 100 streams in ten seconds, which hold 40 MB.
        assert_eq!((used.seconds, used.cpu_s, used.cpu_s_per_gb), (10.0, Some(3.0), Some(1.5)));
        assert_eq!(used.cpu_us_per_stream_second, Some(3000.0));
        assert_eq!(used.rss_per_stream_bytes, Some(400_000.0));
    }
}
