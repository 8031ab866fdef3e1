//! `load play`, `load churn` and `load slow`: measured players, alone or beside guests.

use std::process::ExitCode;

use super::options::{ChurnOptions, CrowdOptions, PlayOptions, SlowOptions, TargetOptions};
use super::plan::{Guests, Visit};
use super::report::{Asked, Report};
use super::results::Results;
use super::stage::Stage;
use super::{Failure, Wait, seconds_ns};

pub(super) fn play(options: &PlayOptions, wait: Wait<'_>) -> Result<ExitCode, Failure> {
    run("play", &options.target, &options.crowd, Guests::None, wait)
}

pub(super) fn churn(options: &ChurnOptions, wait: Wait<'_>) -> Result<ExitCode, Failure> {
    let stay_ns = options.stay.map(seconds_ns);
    let visit = Visit { stay_ns, leave: options.leave };
    let guests = Guests::Visitors { per_second: options.rate, visit };
    run("churn", &options.target, &options.crowd, guests, wait)
}

pub(super) fn slow(options: &SlowOptions, wait: Wait<'_>) -> Result<ExitCode, Failure> {
    let bytes_per_s = options.trickle.unwrap_or(0);
    let guests = Guests::Slow { count: options.slow, bytes_per_s };
    run("slow", &options.target, &options.crowd, guests, wait)
}

fn run(
    command: &'static str,
    target: &TargetOptions,
    crowd: &CrowdOptions,
    guests: Guests,
    wait: Wait<'_>,
) -> Result<ExitCode, Failure> {
    let results = Results::open(&target.output)?;
    let stage = Stage {
        url: &target.url,
        rtsp_transport: target.rtsp_transport,
        crowd,
        server: &target.server,
        guests,
    };
    let performance = stage.perform(wait)?;
    let asked = Asked {
        command,
        label: target.label.as_ref(),
        url: &target.url,
        players: crowd.players,
        streams: crowd.streams,
        guests,
    };
    let report = Report::new(&asked, performance);
    results.publish(&report, &report.render())?;
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
