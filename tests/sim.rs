//! The simulation: real shards on a fake bus, a fake network and a virtual clock, with faults and
//! interleavings drawn from one seed.
//!
//! ```text
//! cargo test --test sim                                          # as in CI
//! SIM_SEED=123 cargo test --test sim                             # one seed, with its last events
//! SIM_FROM=1000000 SIM_SEEDS=500000 cargo test --release --test sim   # a long run
//! ```
//!
//! What must hold is checked after every step ([`world`]), in what each player gets ([`checker`]),
//! in each answer ([`api`]), when the node dies and begins again from its journal ([`journal`]), and at
//! the end, when nothing may be left.

#[path = "sim/api.rs"]
mod api;
#[path = "sim/bus.rs"]
mod bus;
#[path = "sim/checker.rs"]
mod checker;
#[path = "sim/journal.rs"]
mod journal;
#[path = "sim/media.rs"]
mod media;
#[path = "sim/origins.rs"]
mod origins;
#[path = "sim/packets.rs"]
mod packets;
#[path = "sim/parse.rs"]
mod parse;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/players.rs"]
mod players;
#[path = "sim/progress.rs"]
mod progress;
#[path = "sim/publishers.rs"]
mod publishers;
#[path = "sim/pushes.rs"]
mod pushes;
#[path = "sim/told.rs"]
mod told;
#[path = "sim/updates.rs"]
mod updates;
#[path = "sim/wire.rs"]
mod wire;
#[path = "sim/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use world::{Stats, World};

/// Seeds of a run in CI: under a minute on two cores.
const SEEDS: u64 = 2500;

#[test]
fn shards_keep_their_word_whatever_happens() {
    if let Some(seed) = number("SIM_SEED") {
        replay(seed);
        return;
    }
    let first = number("SIM_FROM").unwrap_or(1);
    let next = AtomicU64::new(first);
    let end = first + number("SIM_SEEDS").unwrap_or(SEEDS);
    let failed = AtomicU64::new(u64::MAX);
    let stop = AtomicBool::new(false);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    if catch_unwind(|| World::new(seed, false).run()).is_err() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    if failed != u64::MAX {
        replay(failed);
        panic!("seed {failed} failed, and does not when it is replayed");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 1..20 {
        let trace = || {
            let mut world = World::new(seed, true);
            let end = catch_unwind(AssertUnwindSafe(|| world.run()));
            (world.trace(), end.is_ok())
        };
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}

/// A simulation in which nothing happens proves nothing.
#[test]
fn seeds_reach_what_they_are_to_prove() {
    let mut sum = Stats::default();
    for seed in 1..60 {
        let mut world = World::new(seed, false);
        world.run();
        sum += world.stats;
    }
    let Stats { frames, gaps, jumps, evictions, resyncs, losses, registrations, .. } = sum;
    let Stats { attempts, admitted, refused, closes, closes_incomplete, answers, late, .. } = sum;
    let Stats { news, no_news, recoveries, redirects, kept, demands, .. } = sum;
    let Stats { update_failures, updates, rivals, packet_frames, .. } = sum;
    let Stats { changes_of_sets, hidden_losses, told_losses, .. } = sum;
    let Stats { crashes, restored, torn, acknowledged, pushed, restored_pushes, .. } = sum;
    let reached = [
        ("frames", frames),
        ("packet_frames", packet_frames),
        ("changes_of_sets", changes_of_sets),
        ("gaps", gaps),
        ("jumps", jumps),
        ("evictions", evictions),
        ("resyncs", resyncs),
        ("losses", losses),
        ("hidden_losses", hidden_losses),
        ("told_losses", told_losses),
        ("registrations", registrations),
        ("attempts", attempts),
        ("admitted", admitted),
        ("refused", refused),
        ("closes", closes),
        ("closes_incomplete", closes_incomplete),
        ("answers", answers),
        ("late", late),
        ("news", news),
        ("no_news", no_news),
        ("update_failures", update_failures),
        ("updates", updates),
        ("rivals", rivals),
        ("recoveries", recoveries),
        ("redirects", redirects),
        ("demands", demands),
        ("kept", kept),
        ("crashes", crashes),
        ("restored", restored),
        ("pushed", pushed),
        ("restored_pushes", restored_pushes),
        ("torn", torn),
        ("acknowledged", acknowledged),
    ];
    for (what, count) in reached {
        assert!(count > 0, "no {what}: {sum:?}");
    }
}

/// Runs a seed again and shows what led to its fault.
fn replay(seed: u64) {
    let mut world = World::new(seed, true);
    if let Err(fault) = catch_unwind(AssertUnwindSafe(|| world.run())) {
        eprintln!("{}", world.trace());
        eprintln!("seed {seed} failed; replay it with SIM_SEED={seed} cargo test --test sim");
        resume_unwind(fault);
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("the variable is a number"))
}
