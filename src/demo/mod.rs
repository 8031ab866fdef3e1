//! `rillcast demo`: the main job with nothing else installed.
//!
//! A relay on embedded defaults, an origin in the same process that loops a few seconds of H.264
//! and AAC, an origin that never answers, and a pull of each.

#![allow(clippy::print_stdout, reason = "what the demo shows is its result")]

mod client;
mod origin;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use crate::cli::{self, DemoOptions, Failure, Signals};
use crate::clock;
use crate::config::Config;
use crate::logging;
use client::ApiClient;
use origin::{LoopingOrigin, SilentOrigin};
use table::Table;

/// Runs until Ctrl-C, or for as long as asked.
pub(crate) fn run(options: &DemoOptions) -> Result<ExitCode, Failure> {
    let mut config = Config::default();
    config.http.listen = options.http;
    config.rtmp.listen = options.rtmp;
    config.rtsp.listen = options.rtsp;
    cli::ensure_secret(&mut config)?;
    logging::init("warn")?;
    let signals = Signals::block()?;
    let looping = LoopingOrigin::start()?;
    let silent = SilentOrigin::start()?;
    let secret = config.api.secret.clone();
    let (node, keeper) = cli::start(config, None, None)?;
    let api = ApiClient::new(node.http, &secret)?;
    let (http, rtmp, rtsp) = (node.http, node.rtmp, node.rtsp);

    println!("rillcast demo: {} shards, Ctrl-C ends it", node.shard_count());
    println!();
    println!("  play    ffplay http://{http}/live/demo.live.flv");
    println!("          ffplay rtmp://{rtmp}/live/demo");
    println!("          ffplay rtsp://{rtsp}/live/demo");
    println!("          ws://{http}/live/demo.live.flv   (mpegts.js)");
    println!("  ask     curl 'http://{http}/index/api/listStreamProxy?secret={secret}'");
    println!("  origin  {} (loops), {} (never answers)", looping.url(), silent.url());
    println!();
    api.add("demo", &looping.url())?;
    api.add("never", &silent.url())?;

    let until = options.seconds.map(|seconds| clock::now() + Duration::from_secs(seconds));
    let mut table = Table::new();
    loop {
        table.show(&api.streams()?);
        if signals.wait(Some(Duration::from_secs(1)))?
            || until.is_some_and(|until| clock::now() >= until)
        {
            break;
        }
    }
    println!();
    let ledger = cli::shut_down(node, keeper, &signals)?;
    Ok(cli::report(&ledger))
}
