//! Two callers of the API, one call after another at a steady pace.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use hdrhistogram::Histogram;
use rillcast::clock;

use crate::kit::relay::key;
use crate::kit::{Api, pause};
use crate::report::micros;

/// Pause between two calls of one caller.
const PACE: Duration = Duration::from_millis(20);

pub(crate) struct Callers {
    latencies: Arc<Mutex<Histogram<u64>>>,
    paused: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Callers {
    /// `getMediaList` and `listStreamProxy` of one key.
    pub(crate) fn start(api: &Api) -> Self {
        let latencies = Arc::new(Mutex::new(micros()));
        let paused = Arc::new(AtomicBool::new(false));
        let stopped = Arc::new(AtomicBool::new(false));
        let of_rtmp = ("schema", "rtmp".to_owned());
        let calls = [("getMediaList", of_rtmp), ("listStreamProxy", ("key", key("bench")))];
        let threads = calls.map(|(name, (param, value))| {
            let (api, latencies) = (api.clone(), Arc::clone(&latencies));
            let (paused, stopped) = (Arc::clone(&paused), Arc::clone(&stopped));
            spawn(move || {
                let params = [(param, value.as_str())];
                while !stopped.load(Ordering::Relaxed) {
                    pause(PACE);
                    if paused.load(Ordering::Relaxed) {
                        continue;
                    }
                    let start = clock::now();
                    let reply = api.call(name, &params);
                    let took = start.elapsed().as_micros() as u64;
                    assert_eq!(reply["data"].as_array().map(Vec::len), Some(1), "{name}: {reply}");
                    latencies.lock().expect("no panic while locked").saturating_record(took);
                }
            })
        });
        Self { latencies, paused, stopped, threads: threads.into() }
    }

    /// Latencies since the last call, µs.
    pub(crate) fn take(&self) -> Histogram<u64> {
        let mut latencies = self.latencies.lock().expect("no panic while locked");
        std::mem::replace(&mut latencies, micros())
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
