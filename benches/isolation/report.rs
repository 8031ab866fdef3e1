//! The figures as Markdown: medians over the alternations.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::hooks::Kind;
use crate::process;

/// Microseconds, to a minute with three digits.
pub(crate) fn micros() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds that make sense")
}

/// What was seen in one phase.
pub(crate) struct Phase {
    pub(crate) gaps: Histogram<u64>,
    pub(crate) delays: Histogram<u64>,
    pub(crate) calls: Histogram<u64>,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_bytes: u64,
    pub(crate) skipped: u64,
}

/// A call for all dead pulls at once, or a call for each, and the longest that players and callers
/// of the API waited meanwhile.
pub(crate) struct Lift {
    pub(crate) took: Duration,
    pub(crate) gap_us_max: u64,
    pub(crate) call_us_max: u64,
}

/// All dead pulls are added, listed and closed.
pub(crate) struct Lifting {
    pub(crate) add: Lift,
    pub(crate) list: Lift,
    pub(crate) close: Lift,
}

/// All phases with one number of pulls.
pub(crate) struct Run {
    pub(crate) pulls: usize,
    pub(crate) quiet: Vec<Phase>,
    pub(crate) dead: Vec<Phase>,
    pub(crate) lifting: Vec<Lifting>,
    /// By how much the resident set grew, in each alternation.
    pub(crate) grown_bytes: Vec<u64>,
    pub(crate) stop: Duration,
}

impl Run {
    pub(crate) fn new(pulls: usize) -> Self {
        Self {
            pulls,
            quiet: Vec::new(),
            dead: Vec::new(),
            lifting: Vec::new(),
            grown_bytes: Vec::new(),
            stop: Duration::ZERO,
        }
    }
}

pub(crate) fn print(runs: &[Run]) {
    println!("{}\n", process::machine());
    println!(
        "| dead pulls | gap p50 / p99 / max, ms | delay p50 / p99 / max, ms | lost pictures \
         | API p50 / p99 / max, ms | CPU % | RSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|");
    for run in runs {
        print_phases("none", &run.quiet);
        print_phases(&run.pulls.to_string(), &run.dead);
    }
    println!(
        "\n| dead pulls | add all, s | list all, ms | close all, s | longest gap meanwhile: add / \
         list / close, ms | longest API call meanwhile: add / list / close, ms \
         | RSS per pull, bytes | SIGTERM to exit, s |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for run in runs {
        let of = |pick: fn(&Lifting) -> f64| median(run.lifting.iter().map(pick));
        println!(
            "| {} | {:.2} | {:.1} | {:.2} | {:.1} / {:.1} / {:.1} | {:.1} / {:.1} / {:.1} | {} \
             | {:.2} |",
            run.pulls,
            of(|all| all.add.took.as_secs_f64()),
            of(|all| all.list.took.as_secs_f64() * 1000.0),
            of(|all| all.close.took.as_secs_f64()),
            of(|all| ms(all.add.gap_us_max)),
            of(|all| ms(all.list.gap_us_max)),
            of(|all| ms(all.close.gap_us_max)),
            of(|all| ms(all.add.call_us_max)),
            of(|all| ms(all.list.call_us_max)),
            of(|all| ms(all.close.call_us_max)),
            // The first time: afterwards the allocator has them.
            run.grown_bytes.first().expect("an alternation") / run.pulls as u64,
            run.stop.as_secs_f64(),
        );
    }
}

/// Phases by what the hook server does, and what has become of the calls of hooks by label.
pub(crate) fn print_hooks(kinds: &[Kind], calls: &[(String, u64)]) {
    println!("{}\n", process::machine());
    println!(
        "| hook server | gap p50 / p99 / max, ms | delay p50 / p99 / max, ms | lost pictures \
         | API p50 / p99 / max, ms | CPU % | RSS MiB | add, delete p50 / p99 / max, ms |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for kind in kinds {
        let row = row(kind.name, &kind.phases);
        println!("{row} {} |", spread(&kind.changes.iter().collect::<Vec<_>>()));
    }
    println!("\ncalls of hooks: {calls:?}");
}

/// Medians over the phases.
fn spread(phases: &[&Histogram<u64>]) -> String {
    let at =
        |quantile: f64| median(phases.iter().map(|phase| ms(phase.value_at_quantile(quantile))));
    let max = median(phases.iter().map(|phase| ms(phase.max())));
    format!("{:.2} / {:.2} / {max:.2}", at(0.5), at(0.99))
}

fn print_phases(name: &str, phases: &[Phase]) {
    println!("{}", row(name, phases));
}

fn row(name: &str, phases: &[Phase]) -> String {
    let spread =
        |pick: fn(&Phase) -> &Histogram<u64>| spread(&phases.iter().map(pick).collect::<Vec<_>>());
    format!(
        "| {name} | {} | {} | {} | {} | {:.1} | {:.1} |",
        spread(|phase| &phase.gaps),
        spread(|phase| &phase.delays),
        phases.iter().map(|phase| phase.skipped).sum::<u64>(),
        spread(|phase| &phase.calls),
        median(phases.iter().map(|phase| 100.0 * phase.cpu_seconds / phase.seconds)),
        median(phases.iter().map(|phase| phase.rss_bytes as f64 / 1024.0 / 1024.0)),
    )
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
