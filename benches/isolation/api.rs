//! Two callers of the API at a steady pace. A call that waited for the one before counts from when it
//! was due: a shard that stands still costs as many calls as it held up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use hdrhistogram::Histogram;
use rillcast::clock;
use rillcast::load::pace::Pace;

use crate::kit::relay::key;
use crate::kit::{Api, pause};
use crate::report::micros;

/// How many there are.
const CALLERS: usize = 2;

/// Between two calls of one caller, from one that is due to the next.
const INTERVAL_NS: u64 = 20_000_000;

pub(crate) struct Callers {
    seen: Arc<Mutex<Seen>>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Of the calls that were due at `since_ns` or later. Those that were due before and answered after
/// belong to what went on before, with what they had waited by then.
struct Seen {
    since_ns: u64,
    latencies: Histogram<u64>,
    /// When the call was due that each caller waits for.
    outstanding_ns: [Option<u64>; CALLERS],
}

impl Seen {
    fn new() -> Self {
        let since_ns = clock::monotonic_ns();
        Self { since_ns, latencies: micros(), outstanding_ns: [None; CALLERS] }
    }

    fn note(&mut self, due_ns: u64) {
        if due_ns >= self.since_ns {
            let micros = (clock::monotonic_ns() - due_ns) / 1000;
            self.latencies.saturating_record(micros);
        }
    }

    fn take(&mut self) -> Histogram<u64> {
        for due_ns in self.outstanding_ns.into_iter().flatten() {
            self.note(due_ns);
        }
        let new = Self { outstanding_ns: self.outstanding_ns, ..Self::new() };
        std::mem::replace(self, new).latencies
    }
}

impl Callers {
    /// `getMediaList` and `listStreamProxy` of one key.
    pub(crate) fn start(api: &Api) -> Self {
        let seen = Arc::new(Mutex::new(Seen::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let of_rtmp = ("schema", "rtmp".to_owned());
        let calls = [("getMediaList", of_rtmp), ("listStreamProxy", ("key", key("bench")))];
        let mut numbers = 0..CALLERS;
        let threads = calls.map(|(name, (param, value))| {
            let number = numbers.next().expect("a number for each");
            let (api, seen) = (api.clone(), Arc::clone(&seen));
            let stopped = Arc::clone(&stopped);
            spawn(move || {
                let mut pace = Pace::new(clock::monotonic_ns(), INTERVAL_NS);
                while !stopped.load(Ordering::Relaxed) {
                    match pace.take(clock::monotonic_ns()) {
                        Err(left_ns) => pause(Duration::from_nanos(left_ns)),
                        Ok(due_ns) => {
                            let seen = || seen.lock().expect("no panic while locked");
                            seen().outstanding_ns[number] = Some(due_ns);
                            let reply = api.call(name, &[(param, value.as_str())]);
                            let rows = reply["data"].as_array().map(Vec::len);
                            assert_eq!(rows, Some(1), "{name}: {reply}");
                            let mut seen = seen();
                            seen.outstanding_ns[number] = None;
                            seen.note(due_ns);
                        }
                    }
                }
            })
        });
        Self { seen, stopped, threads: threads.into() }
    }

    /// Latencies since the last call, µs.
    pub(crate) fn take(&self) -> Histogram<u64> {
        self.seen.lock().expect("no panic while locked").take()
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}
