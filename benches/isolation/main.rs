//! Isolation: what thousands of pulls that never come up cost a live stream on the same core.
//!
//! One shard on CPU 0; the origin, the players and the callers of the API on CPU 1. A 2 Mbit/s
//! stream is pulled and played by 50 HTTP-FLV players, in alternating phases without and with dead
//! pulls, a third each silent, refused and black-holed. Prints Markdown; `docs/benchmarks.md` has
//! the method and results. `cargo bench --bench isolation`, `-- --quick` for one short alternation,
//! `-- --hooks` for a dead hook server in the place of dead pulls.
#![allow(clippy::print_stdout, reason = "what a bench prints is its result")]

#[path = "../../tests/kit/mod.rs"]
mod kit;

mod api;
mod dead;
mod hooks;
mod players;
mod process;
mod report;
mod source;

use std::time::Duration;

use kit::{LIVENESS, Relay, raise_file_limit, wait_until};
use rillcast::clock;
use rillcast::load::dead::DeadOrigins;

use api::Callers;
use players::Players;
use report::{Lift, Lifting, Phase, Run};
use source::Source;

const PLAYERS: usize = 50;
const PULLS: [usize; 2] = [2_000, 10_000];
const ALTERNATIONS: usize = 3;
const PHASE: Duration = Duration::from_secs(8);
/// The retries of a phase come in bursts, the attempts of the silent third end after 10 s; the
/// measured time with dead pulls covers both.
const DEAD_PHASE: Duration = Duration::from_secs(12);
const QUICK_PHASE: Duration = Duration::from_secs(3);

const SETTLE: Duration = Duration::from_millis(500);

/// Where the relay runs, and where everything else does.
const RELAY_CPU: usize = 0;
const LOAD_CPU: usize = 1;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    raise_file_limit();
    if std::env::args().any(|arg| arg == "--hooks") {
        hooks::run(quick);
        return;
    }
    let runs: Vec<Run> = PULLS.iter().map(|&pulls| measure(pulls, quick)).collect();
    report::print(&runs);
}

fn measure(pulls: usize, quick: bool) -> Run {
    process::pin(RELAY_CPU);
    let relay = Relay::start_with(1, &format!("[server]\ncpus = \"{RELAY_CPU}\"\n"));
    process::pin(LOAD_CPU);
    let source = Source::start();
    let reply = relay.add("bench", &source.url(), &[]);
    assert_eq!(reply["code"], 0, "{reply}");
    let players = Players::start(PLAYERS, relay.http, "/live/bench.live.flv", &source);
    let origins = DeadOrigins::start().expect("three ports");
    let callers = Callers::start(&relay.api);
    let (alternations, quiet_time, dead_time) =
        if quick { (1, QUICK_PHASE, QUICK_PHASE) } else { (ALTERNATIONS, PHASE, DEAD_PHASE) };
    let watch = |time: Duration| watch(&relay, &players, &callers, time);
    // The first seconds fill the caches of allocator and kernel.
    watch(QUICK_PHASE);
    let mut run = Run::new(pulls);
    for _ in 0..alternations {
        run.quiet.push(watch(quiet_time));
        let rss_before = process::rss_bytes(relay.process.child.id());
        let beside = (&players, &callers);
        let ((), add) = of_all(beside, || dead::add(&origins, &relay.api, pulls));
        run.dead.push(watch(dead_time));
        run.grown_bytes.push(process::rss_bytes(relay.process.child.id()) - rss_before);
        kit::pause(SETTLE);
        let (reply, list) = of_all(beside, || relay.api.call_raw("listStreamProxy", &[]));
        assert_eq!(reply.json()["data"].as_array().map(Vec::len), Some(pulls + 1));
        // So that what this program was busy with is not taken for the relay's.
        kit::pause(SETTLE);
        let all = [("app", dead::APP), ("force", "1")];
        let (reply, close) = of_all(beside, || relay.api("close_streams", &all));
        assert_eq!(reply["count_closed"], pulls, "{}", reply["released"]);
        assert_eq!(reply["released"]["complete"], true, "{}", reply["released"]);
        wait_until(LIVENESS, "only the live pull is left", || relay.ledger()["pulls"] == 1);
        run.lifting.push(Lifting { add, list, close });
    }
    dead::add(&origins, &relay.api, pulls);
    players.assert_all_open();
    drop(callers);
    let stopping = clock::now();
    relay.stop();
    run.stop = stopping.elapsed();
    run
}

/// Does something with all pulls at once, and what players and callers see until shortly after: a
/// call is due each 20 ms.
fn of_all<T>((players, callers): (&Players, &Callers), work: impl FnOnce() -> T) -> (T, Lift) {
    players.take();
    callers.take();
    let start = clock::now();
    let done = work();
    let took = start.elapsed();
    let (gaps, _) = players.take_soon();
    let calls = callers.take();
    (done, Lift { took, gap_us_max: gaps.max(), call_us_max: calls.max() })
}

/// What players and callers see in so long.
fn watch(relay: &Relay, players: &Players, callers: &Callers, time: Duration) -> Phase {
    let pid = relay.process.child.id();
    let cpu = process::cpu_seconds(pid);
    let (start, skipped) = (clock::now(), players.skipped());
    players.take();
    callers.take();
    kit::pause(time);
    let (gaps, delays) = players.take();
    Phase {
        gaps,
        delays,
        calls: callers.take(),
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: process::cpu_seconds(pid) - cpu,
        rss_bytes: process::rss_bytes(pid),
        skipped: players.skipped() - skipped,
    }
}
