//! `load pending`: pulls that never come up, added by the API, held, and deleted.
//!
//! Each call is timed. While the pulls are held, the API is asked for what it has, and the server's
//! memory and CPU time are read off: the price of waiting for what is not there.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::api::{Api, ApiError};
use super::dead::DeadOrigins;
use super::figures::{Spread, Summary};
use super::options::PendingOptions;
use super::outcome::add_reasons;
use super::pace::Pace;
use super::progress::{Shown, filled};
use super::report::{self, CPU_RATIO_MAX, line, or_dash, round, row};
use super::results::Results;
use super::server::{Sample, Server};
use super::{Failure, Wait, seconds_ns, soak};
use crate::clock;
use crate::limits::LOAD_CALLS_AT_ONCE_MAX;

pub(super) fn run(options: &PendingOptions, wait: Wait<'_>) -> Result<ExitCode, Failure> {
    let api = Api::new(&options.api, &options.secret, CALL_TIMEOUT)?;
    let server = Server::new(&options.pid)?;
    let results = Results::open(&options.output)?;
    // Threads that are started from now on have the same.
    options.cpus.as_ref().map(|list| soak::pin_to(list.cpus())).transpose()?;
    if options.origin.is_empty() && !api.is_local() {
        return Err("dead origins are on this machine, the server is not: give --origin".into());
    }
    let origins = DeadOrigins::start()?;
    let pulls = Pulls { api: &api, options, origins: &origins };
    // Whether there is somebody who answers us.
    expect_success(&api.call("getMediaList", &[])?)?;
    let before = server.sample();
    let mut is_stopped = false;
    let mut begin_wait = |at_most| {
        is_stopped |= wait(at_most);
        is_stopped
    };
    let (ourselves, cpus) = (Server::new(&[std::process::id()])?, cpu_count(options));
    let idle = ourselves.sample();
    let added = pulls.each("adding", seconds_ns(options.ramp), &mut begin_wait, Pulls::add);
    let busy_s = ourselves.sample().ticked_seconds_since(&idle);
    let client_cpu_ratio = busy_s / (added.took_s * cpus as f64);
    let held = pulls.hold(&server, &mut begin_wait);
    let mut is_stopped_again = false;
    let mut end_wait = |at_most| {
        is_stopped_again |= wait(at_most);
        is_stopped_again
    };
    // Whatever happened: nothing is left behind, unless the signal comes once more.
    let deleted = pulls.each("deleting", 0, &mut end_wait, Pulls::delete);
    let left = pulls.count_left(&mut end_wait);
    let course = Course { before, added, client_cpu_ratio, held, deleted, left };
    let report = PendingReport::new(options, &server, course);
    results.publish(&report, &report.render())?;
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Pulls<'a> {
    api: &'a Api,
    options: &'a PendingOptions,
    origins: &'a DeadOrigins,
}

/// Calls of one kind.
#[derive(Debug, Default)]
struct Calls {
    times: Spread,
    /// By what was answered.
    failed: BTreeMap<String, u64>,
    took_s: f64,
    /// Those that were not begun any more.
    not_made: u64,
}

impl Calls {
    fn note(&mut self, start_ns: u64, result: &Result<(), Failure>) {
        self.times.record_ns(clock::monotonic_ns() - start_ns);
        if let Err(error) = result {
            *self.failed.entry(error.to_string()).or_default() += 1;
        }
    }

    fn succeeded_count(&self) -> u64 {
        let all = self.times.summary().map_or(0, |times| times.count);
        all - self.failed.values().sum::<u64>()
    }
}

/// What came of it, in its order.
struct Course {
    before: Sample,
    added: Calls,
    /// What we used of our CPUs meanwhile.
    client_cpu_ratio: f64,
    held: Held,
    deleted: Calls,
    left: Result<u64, Failure>,
}

/// What was seen while the pulls were held.
struct Held {
    media_list: Calls,
    pull_list: Calls,
    start: Sample,
    end: Sample,
    seconds: f64,
}

impl Pulls<'_> {
    /// Makes a call for each pull, many at once, and waits for all of them. Over a ramp each is due
    /// at its time, and counts from then. Ends early when told to, or when nobody answers any more.
    fn each(
        &self,
        what: &str,
        ramp_ns: u64,
        wait: Wait<'_>,
        call: impl Fn(&Self, u32, &AtomicBool) -> Result<(), Failure> + Sync,
    ) -> Calls {
        let count = u64::from(self.options.count);
        let (next, calls) = (AtomicU64::new(0), Mutex::new(Calls::default()));
        let stopped = AtomicBool::new(false);
        let start_ns = clock::monotonic_ns();
        let answered_ns = AtomicU64::new(start_ns);
        let make = || {
            while let Some(number) = Some(next.fetch_add(1, Relaxed)).filter(|n| *n < count) {
                let due_ns = (ramp_ns > 0).then(|| start_ns + due_after_ns(number, count, ramp_ns));
                let from_ns = due_ns.unwrap_or_else(clock::monotonic_ns);
                while !stopped.load(Relaxed) && clock::monotonic_ns() < from_ns {
                    let left_ns = from_ns.saturating_sub(clock::monotonic_ns());
                    pause(Duration::from_nanos(left_ns).min(PACE));
                }
                if stopped.load(Relaxed) {
                    return;
                }
                let result = call(self, number as u32, &stopped);
                if result.as_ref().err().is_none_or(|error| !error.is::<ApiError>()) {
                    answered_ns.store(clock::monotonic_ns(), Relaxed);
                }
                calls.lock().expect("no panic while locked").note(from_ns, &result);
            }
        };
        thread::scope(|scope| {
            let callers = self.options.at_once.min(LOAD_CALLS_AT_ONCE_MAX).min(count as usize);
            let threads: Vec<_> = (0..callers).map(|_| scope.spawn(make)).collect();
            let mut shown = Shown::new(start_ns, u64::MAX);
            while !threads.iter().all(ScopedJoinHandle::is_finished) {
                // A ramp has pauses of its own.
                let quiet_from_ns = answered_ns.load(Relaxed).max(start_ns + ramp_ns);
                let quiet_ns = clock::monotonic_ns().saturating_sub(quiet_from_ns);
                if wait(PACE) || quiet_ns > SILENCE_NS_MAX {
                    stopped.store(true, Relaxed);
                }
                let begun = next.load(Relaxed).min(count);
                shown.say(|| format!("{} {what} {begun} of {count}", filled(begun, count)));
            }
            shown.clear();
        });
        let mut calls = calls.into_inner().expect("no panic while locked");
        calls.took_s = (clock::monotonic_ns() - start_ns) as f64 / 1e9;
        calls.not_made = count - calls.times.summary().map_or(0, |times| times.count);
        calls
    }

    fn add(&self, number: u32, stopped: &AtomicBool) -> Result<(), Failure> {
        let (stream, url) = (number.to_string(), self.origin(number));
        expect_success(&self.api.call_unless(
            stopped,
            "addStreamProxy",
            &[
                ("vhost", VHOST),
                ("app", APP),
                ("stream", &stream),
                ("url", &url),
                ("retry_count", "-1"),
                // Ours answers at once, ZLMediaKit after the first try; both then keep it.
                ("async", "1"),
                ("force", "1"),
            ],
        )?)
    }

    fn delete(&self, number: u32, stopped: &AtomicBool) -> Result<(), Failure> {
        let key = format!("{VHOST}/{APP}/{number}");
        expect_success(&self.api.call_unless(stopped, "delStreamProxy", &[("key", &key)])?)
    }

    fn origin(&self, number: u32) -> String {
        let given = &self.options.origin;
        if given.is_empty() {
            let urls = self.origins.urls("{i}");
            return urls[number as usize % urls.len()].replace("{i}", &number.to_string());
        }
        given[number as usize % given.len()].replace("{i}", &number.to_string())
    }

    /// Holds the pulls for as long as asked, and asks what there is.
    fn hold(&self, server: &Server, wait: Wait<'_>) -> Held {
        let start_ns = clock::monotonic_ns();
        let start = server.sample();
        let (stop_ns, stopped) = (AtomicU64::new(u64::MAX), AtomicBool::new(false));
        let ask = |name| expect_success(&self.api.call_unless(&stopped, name, &[])?);
        let (media_list, pull_list, end, seconds) = thread::scope(|scope| {
            let media_list = scope.spawn(|| poll(MEDIA_LIST_NS, &stop_ns, || ask("getMediaList")));
            let pull_list = scope.spawn(|| poll(PULL_LIST_NS, &stop_ns, || ask("listStreamProxy")));
            let mut shown = Shown::new(start_ns, start_ns + seconds_ns(self.options.duration));
            while clock::monotonic_ns() < shown.end_ns() && !stopped.load(Relaxed) {
                stopped.store(wait(PACE), Relaxed);
                shown.say_phase("holding");
            }
            shown.clear();
            let end_ns = clock::monotonic_ns();
            stop_ns.store(end_ns, Relaxed);
            let seconds = (end_ns - start_ns) as f64 / 1e9;
            let end = server.sample();
            while !(media_list.is_finished() && pull_list.is_finished()) {
                stopped.store(wait(PACE), Relaxed);
            }
            let join = |thread: ScopedJoinHandle<'_, Calls>| thread.join().expect("no panic");
            (join(media_list), join(pull_list), end, seconds)
        });
        Held { media_list, pull_list, start, end, seconds }
    }

    /// Pulls of ours that are still there.
    fn count_left(&self, wait: Wait<'_>) -> Result<u64, Failure> {
        let stopped = AtomicBool::new(false);
        let reply = thread::scope(|scope| {
            let call = || self.api.call_unless(&stopped, "listStreamProxy", &[]);
            let call = scope.spawn(call);
            while !call.is_finished() {
                stopped.store(wait(PACE), Relaxed);
            }
            call.join().expect("no panic")
        })?;
        expect_success(&reply)?;
        Ok(count_ours(&reply))
    }
}

/// Calls at a steady pace until `stop_ns`. A call that is late because the one before took long counts
/// from when it was due; one that was held up until the end counts up to it, and is not made.
fn poll(interval_ns: u64, stop_ns: &AtomicU64, call: impl Fn() -> Result<(), Failure>) -> Calls {
    let mut calls = Calls::default();
    let mut pace = Pace::new(clock::monotonic_ns(), interval_ns);
    loop {
        let (now_ns, stop_ns) = (clock::monotonic_ns(), stop_ns.load(Relaxed));
        if now_ns >= stop_ns {
            while let Ok(due_ns) = pace.take(stop_ns) {
                calls.times.record_ns(now_ns - due_ns);
            }
            return calls;
        }
        match pace.take(now_ns) {
            Err(left_ns) => {
                pause(Duration::from_nanos(left_ns).min(PACE));
            }
            Ok(due_ns) => calls.note(due_ns, &call()),
        }
    }
}

/// When a call of a ramp is due, from its beginning on.
fn due_after_ns(number: u64, count: u64, ramp_ns: u64) -> u64 {
    (u128::from(ramp_ns) * u128::from(number) / u128::from(count)) as u64
}

/// Waits, and never tells to stop.
#[allow(clippy::disallowed_methods, reason = "a command that waits for its threads")]
fn pause(time: Duration) -> bool {
    thread::sleep(time);
    false
}

/// CPUs that the calls are made on.
fn cpu_count(options: &PendingOptions) -> usize {
    let given = options.cpus.as_ref().map(|list| list.cpus().len());
    given.or_else(|| thread::available_parallelism().map(usize::from).ok()).unwrap_or(1)
}

/// ZLMediaKit leaves `data` out when there is nothing.
fn count_ours(reply: &Value) -> u64 {
    let rows = reply["data"].as_array().map_or(&[][..], Vec::as_slice);
    rows.iter().filter(|row| row["src"]["app"] == APP).count() as u64
}

fn expect_success(reply: &Value) -> Result<(), Failure> {
    match reply["code"].as_i64() {
        Some(0) => Ok(()),
        code => Err(format!(
            "code {}: {}",
            code.map_or_else(|| "none".to_owned(), |code| code.to_string()),
            reply["msg"].as_str().unwrap_or("without a message")
        )
        .into()),
    }
}

/// The price of pulls that never come up.
#[derive(Debug, Serialize)]
struct PendingReport {
    command: &'static str,
    version: &'static str,
    api: String,
    pulls: u32,
    /// Of these: the server said yes.
    added: u64,
    add_ms: Option<Summary>,
    add_s: f64,
    add_failed: BTreeMap<String, u64>,
    /// What we used of our CPUs while we added.
    client_cpu_ratio: f64,
    held_s: f64,
    media_list_ms: Option<Summary>,
    pull_list_ms: Option<Summary>,
    list_failed: BTreeMap<String, u64>,
    delete_ms: Option<Summary>,
    delete_s: f64,
    delete_failed: BTreeMap<String, u64>,
    /// Deletes that it did not come to.
    not_deleted: u64,
    /// Pulls that were still listed after they were deleted; null when nobody said.
    left: Option<u64>,
    rss_before_bytes: Option<u64>,
    rss_bytes: Option<u64>,
    rss_per_pull_bytes: Option<f64>,
    /// While they were held.
    cpu_ratio: Option<f64>,
    fds: Option<u64>,
    faults: Vec<String>,
}

impl PendingReport {
    fn new(options: &PendingOptions, server: &Server, course: Course) -> Self {
        let Course { before, added, client_cpu_ratio, held, deleted, left } = course;
        let pulls_added = added.succeeded_count();
        let grown = held.end.rss_bytes as f64 - before.rss_bytes as f64;
        let mut list_failed = held.media_list.failed;
        add_reasons(&mut list_failed, held.pull_list.failed);
        let mut report = Self {
            command: "pending",
            version: env!("CARGO_PKG_VERSION"),
            api: options.api.clone(),
            pulls: options.count,
            added: pulls_added,
            add_ms: added.times.summary(),
            add_s: round(added.took_s, 3),
            add_failed: added.failed,
            client_cpu_ratio: round(client_cpu_ratio, 4),
            held_s: round(held.seconds, 3),
            media_list_ms: held.media_list.times.summary(),
            pull_list_ms: held.pull_list.times.summary(),
            list_failed,
            delete_ms: deleted.times.summary(),
            delete_s: round(deleted.took_s, 3),
            delete_failed: deleted.failed,
            not_deleted: deleted.not_made,
            left: left.as_ref().ok().copied(),
            rss_before_bytes: server.is_given().then_some(before.rss_bytes),
            rss_bytes: server.is_given().then_some(held.end.rss_bytes),
            rss_per_pull_bytes: (server.is_given() && pulls_added > 0)
                .then(|| (grown / pulls_added as f64).round()),
            cpu_ratio: (held.end.cpu_seconds_since(&held.start))
                .map(|seconds| round(seconds / held.seconds, 4)),
            fds: held.end.fds.filter(|_| server.is_given()),
            faults: Vec::new(),
        };
        report.faults = report.find_faults();
        if let Err(error) = left {
            report.faults.push(format!("whether pulls are left is not known: {error}"));
        }
        report
    }

    fn find_faults(&self) -> Vec<String> {
        let kinds = [
            ("adds", &self.add_failed),
            ("lists", &self.list_failed),
            ("deletes", &self.delete_failed),
        ];
        let mut faults: Vec<String> = kinds
            .into_iter()
            .flat_map(|(what, failed)| {
                failed.iter().map(move |(reason, count)| format!("{count} {what} failed: {reason}"))
            })
            .collect();
        if self.not_deleted > 0 {
            faults
                .push(format!("{} pulls were not deleted: it was ended before", self.not_deleted));
        }
        if let Some(left @ 1..) = self.left {
            faults.push(format!("{left} pulls are still listed after their delete"));
        }
        if self.client_cpu_ratio > CPU_RATIO_MAX {
            faults.push("THE CLIENT IS THE BOTTLENECK: adding was measured of itself".to_owned());
        }
        faults
    }

    fn render(&self) -> String {
        let mut text = String::new();
        let out = &mut text;
        line(
            out,
            format_args!("{} of {} pulls that never come up, {}", self.added, self.pulls, self.api),
        );
        line(
            out,
            format_args!(
                "added in {:.2} s, held for {:.1} s, deleted in {:.2} s, {} left",
                self.add_s,
                self.held_s,
                self.delete_s,
                or_dash(self.left.map(|left| left as f64), 0)
            ),
        );
        line(out, format_args!(""));
        line(out, format_args!("{}", report::head()));
        for (name, summary) in [
            ("addStreamProxy", &self.add_ms),
            ("getMediaList", &self.media_list_ms),
            ("listStreamProxy", &self.pull_list_ms),
            ("delStreamProxy", &self.delete_ms),
        ] {
            line(out, format_args!("{}", row(name, summary.as_ref())));
        }
        if let (Some(before), Some(rss)) = (self.rss_before_bytes, self.rss_bytes) {
            line(
                out,
                format_args!(
                    "server RSS {:.1} MB, before {:.1} MB, {} KB per pull; {} descriptors; CPU {} % \
                     while they were held",
                    rss as f64 / 1e6,
                    before as f64 / 1e6,
                    or_dash(self.rss_per_pull_bytes.map(|bytes| bytes / 1000.0), 2),
                    or_dash(self.fds.map(|fds| fds as f64), 0),
                    or_dash(self.cpu_ratio.map(|ratio| ratio * 100.0), 2)
                ),
            );
        }
        self.faults.iter().for_each(|fault| line(out, format_args!("! {fault}")));
        text
    }
}

const VHOST: &str = "__defaultVhost__";
const APP: &str = "rillcast-load";

/// ZLMediaKit takes 10 s for a silent origin, and longer behind others.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Without any answer for so long the rest of the calls is not made.
const SILENCE_NS_MAX: u64 = 120_000_000_000;

const PACE: Duration = Duration::from_millis(50);

/// Between two calls of `getMediaList`, and of the list of all pulls, which is long.
const MEDIA_LIST_NS: u64 = 50_000_000;
const PULL_LIST_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn codes_are_told_with_their_message() {
        assert!(expect_success(&json!({"code": 0})).is_ok());
        let error = |reply| expect_success(&reply).expect_err("no success").to_string();
        assert_eq!(error(json!({"code": -1, "msg": "exists"})), "code -1: exists");
        assert_eq!(error(json!({})), "code none: without a message");
    }

    #[test]
    fn calls_that_the_last_one_held_up_are_recorded() {
        const MS: u64 = 1_000_000;
        let stop_ns = AtomicU64::new(u64::MAX);
        let calls = poll(MS, &stop_ns, || {
            let until_ns = clock::monotonic_ns() + 20 * MS;
            while clock::monotonic_ns() < until_ns {
                std::hint::spin_loop();
            }
            stop_ns.store(until_ns, Relaxed);
            Ok(())
        });
        let times = calls.times.summary().expect("recorded");
        assert!(times.count >= 21 && times.p50 >= 9.0, "{times:?}");
        assert_eq!(calls.succeeded_count(), times.count);
    }

    #[test]
    fn ramp_is_shared_evenly() {
        let due: Vec<u64> = (0..4).map(|number| due_after_ns(number, 4, 2_000)).collect();
        assert_eq!(due, [0, 500, 1_000, 1_500]);
        assert_eq!(due_after_ns(u32::MAX.into(), u32::MAX.into(), u64::MAX), u64::MAX);
    }

    #[test]
    fn only_our_pulls_count_as_left() {
        let rows = json!({"data": [{"src": {"app": APP}}, {"src": {"app": "live"}}]});
        assert_eq!(count_ours(&rows), 1);
        assert_eq!(count_ours(&json!({"code": 0})), 0);
    }
}
