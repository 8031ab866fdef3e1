//! What a dead hook server costs a live stream and the callers of the API: phases with hooks off, with a
//! server that takes connections and says nothing, and with a black hole, in turn.
//!
//! Each phase has something to tell: a pull of a refused origin is added and deleted, one after the
//! other. Those calls are timed too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use hdrhistogram::Histogram;
use rillcast::clock;
use rillcast::load::dead::DeadOrigins;

use crate::api::Callers;
use crate::kit::hook_server::TOLD;
use crate::kit::relay::{add_params, key};
use crate::kit::{Api, Relay, pause};
use crate::players::Players;
use crate::report::{self, Phase, micros};
use crate::source::Source;
use crate::{LOAD_CPU, PLAYERS, QUICK_PHASE, RELAY_CPU, process};

const ROUNDS: usize = 3;
const PHASE: Duration = Duration::from_secs(10);
/// The queue of calls is full when a phase is measured.
const SETTLE: Duration = Duration::from_secs(2);
/// Between an add and a delete, and before the next add.
const PACE: Duration = Duration::from_millis(5);

/// All phases of one kind of hook server.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    server: Option<String>,
    pub(crate) phases: Vec<Phase>,
    /// Adds and deletes, µs.
    pub(crate) changes: Vec<Histogram<u64>>,
}

pub(crate) fn run(quick: bool) {
    process::pin(RELAY_CPU);
    let config = format!("[server]\ncpus = \"{RELAY_CPU}\"\n[hook]\nqueue_max = 1000\n");
    let relay = Relay::start_with(1, &config);
    process::pin(LOAD_CPU);
    let source = Source::start();
    let reply = relay.add("bench", &source.url(), &[]);
    assert_eq!(reply["code"], 0, "{reply}");
    let players = Players::start(PLAYERS, relay.http, "/live/bench.live.flv", &source);
    let origins = DeadOrigins::start().expect("three ports");
    let [silent, refused, black_hole] = origins.urls("dead");
    let callers = Callers::start(&relay.api);
    let changer = Changer::start(&relay.api, refused);
    let server = |url: &str| Some(url.replace("rtmp://", "http://"));
    let kind = |name, server| Kind { name, server, phases: Vec::new(), changes: Vec::new() };
    let mut kinds = [
        kind("off", None),
        kind("silent", server(&silent)),
        kind("black hole", server(&black_hole)),
    ];
    let (rounds, time) = if quick { (1, QUICK_PHASE) } else { (ROUNDS, PHASE) };
    pause(SETTLE);
    for _ in 0..rounds {
        for kind in &mut kinds {
            set_hooks(&relay.api, kind.server.as_deref());
            pause(SETTLE);
            changer.take();
            kind.phases.push(crate::watch(&relay, &players, &callers, time));
            kind.changes.push(changer.take());
        }
    }
    players.assert_all_open();
    let dropped = relay.samples("rillcast_hook_calls_total");
    drop((callers, changer));
    report::print_hooks(&kinds, &dropped);
    relay.stop();
}

fn set_hooks(api: &Api, server: Option<&str>) {
    let names = TOLD.map(|name| format!("hook.{name}"));
    let mut params = vec![("hook.enable", if server.is_some() { "1" } else { "0" })];
    params.extend(names.iter().filter_map(|name| Some((name.as_str(), server?))));
    let reply = api.call("setServerConfig", &params);
    assert_eq!(reply["code"], 0, "{reply}");
}

/// Adds and deletes a pull, again and again.
struct Changer {
    latencies: Arc<Mutex<Histogram<u64>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Changer {
    fn start(api: &Api, url: String) -> Self {
        let latencies = Arc::new(Mutex::new(micros()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (api, for_thread, stop) = (api.clone(), Arc::clone(&latencies), Arc::clone(&stopped));
        let thread = spawn(move || {
            let of_pull = key("changes");
            let timed = |name: &str, params: &[(&str, &str)]| {
                pause(PACE);
                let start = clock::now();
                let reply = api.call(name, params);
                let took = start.elapsed().as_micros() as u64;
                assert_eq!(reply["code"], 0, "{name}: {reply}");
                for_thread.lock().expect("no panic while locked").saturating_record(took);
            };
            while !stop.load(Ordering::Relaxed) {
                let more = [("async", "1"), ("force", "1")];
                timed("addStreamProxy", &add_params("changes", &url, &more));
                timed("delStreamProxy", &[("key", &of_pull)]);
            }
        });
        Self { latencies, stopped, thread: Some(thread) }
    }

    /// Latencies since the last call, µs.
    fn take(&self) -> Histogram<u64> {
        let mut latencies = self.latencies.lock().expect("no panic while locked");
        std::mem::replace(&mut latencies, micros())
    }
}

impl Drop for Changer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}
