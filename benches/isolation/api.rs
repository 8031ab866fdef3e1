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

/// Between two calls of one caller, from one that is due to the next.
const INTERVAL_NS: u64 = 20_000_000;

pub(crate) struct Callers {
    seen: Arc<Mutex<Seen>>,
    paused: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Of the calls that were due at `since_ns` or later. Those that were due before and answered after
/// belong to what went on before.
struct Seen {
    since_ns: u64,
    latencies: Histogram<u64>,
}

impl Seen {
    fn new() -> Self {
        Self { since_ns: clock::monotonic_ns(), latencies: micros() }
    }

    fn note(&mut self, due_ns: u64) {
        if due_ns >= self.since_ns {
            let micros = (clock::monotonic_ns() - due_ns) / 1000;
            self.latencies.saturating_record(micros);
        }
    }
}

impl Callers {
    /// `getMediaList` and `listStreamProxy` of one key.
    pub(crate) fn start(api: &Api) -> Self {
        let seen = Arc::new(Mutex::new(Seen::new()));
        let paused = Arc::new(AtomicBool::new(false));
        let stopped = Arc::new(AtomicBool::new(false));
        let of_rtmp = ("schema", "rtmp".to_owned());
        let calls = [("getMediaList", of_rtmp), ("listStreamProxy", ("key", key("bench")))];
        let threads = calls.map(|(name, (param, value))| {
            let (api, seen) = (api.clone(), Arc::clone(&seen));
            let (paused, stopped) = (Arc::clone(&paused), Arc::clone(&stopped));
            spawn(move || {
                let mut pace = Pace::new(clock::monotonic_ns(), INTERVAL_NS);
                while !stopped.load(Ordering::Relaxed) {
                    if paused.load(Ordering::Relaxed) {
                        pause(Duration::from_nanos(INTERVAL_NS));
                        pace.skip_to(clock::monotonic_ns());
                        continue;
                    }
                    match pace.take(clock::monotonic_ns()) {
                        Err(left_ns) => pause(Duration::from_nanos(left_ns)),
                        Ok(due_ns) => {
                            let reply = api.call(name, &[(param, value.as_str())]);
                            let rows = reply["data"].as_array().map(Vec::len);
                            assert_eq!(rows, Some(1), "{name}: {reply}");
                            seen.lock().expect("no panic while locked").note(due_ns);
                        }
                    }
                }
            })
        });
        Self { seen, paused, stopped, threads: threads.into() }
    }

    /// Latencies since the last call, µs.
    pub(crate) fn take(&self) -> Histogram<u64> {
        let mut seen = self.seen.lock().expect("no panic while locked");
        std::mem::replace(&mut *seen, Seen::new()).latencies
    }

    pub(crate) fn pause(&self, pause: bool) {
        self.paused.store(pause, Ordering::Relaxed);
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
