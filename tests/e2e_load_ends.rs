//! The load generator where its server is gone or stands still, and where it only waits: what it adds by the
//! API and deletes again, and the floor that nobody keeps up with.

#![allow(clippy::disallowed_methods, reason = "signals to a process of its own, on real time")]

mod kit;

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use rillcast::clock;
use serde_json::Value;

use kit::load::{load, number};
use kit::process::Process;
use kit::relay::{SECRET, run};
use kit::{LIVENESS, Relay, TempDir, wait_until};

/// A tag with a frame of 250 KB, 25 a second.
fn frame(index: u32) -> Vec<u8> {
    let (len, at_ms) = (250_000u32, index * 40);
    let mut tag = vec![9];
    tag.extend_from_slice(&len.to_be_bytes()[1..]);
    tag.extend_from_slice(&at_ms.to_be_bytes()[1..]);
    tag.extend_from_slice(&[0, 0, 0, 0, if index == 0 { 0x17 } else { 0x27 }, 1, 0, 0, 0]);
    tag.resize(11 + len as usize, 7);
    tag.extend_from_slice(&(11 + len).to_be_bytes());
    tag
}

#[test]
fn pulls_that_never_come_up_are_added_and_deleted() {
    let relay = Relay::start(1);
    let api = format!("http://{}", relay.http);
    let pid = relay.process.child.id().to_string();
    let pending = ["pending", "--api", &api, "--secret", SECRET, "--count", "60", "--pid", &pid];
    let (report, was_content) = std::thread::scope(|scope| {
        let pending = scope.spawn(|| load(&[&pending[..], &["--duration", "2"]].concat()));
        wait_until(LIVENESS, "the pulls are held", || relay.ledger()["pulls"] == 60);
        pending.join().expect("a report")
    });
    assert!(was_content, "{report:#}");
    assert_eq!(report["added"], 60);
    assert_eq!(number(&report, "/add_ms/count"), 60.0);
    assert_eq!(number(&report, "/delete_ms/count"), 60.0);
    assert!(number(&report, "/media_list_ms/count") >= 2.0);
    assert!(number(&report, "/rss_bytes") > 1e6);
    assert_eq!(report["left"], 0);
    let wrong = ["load", "pending", "--api", &api, "--secret", "wrong", "--count", "1"];
    let (code, _, log) = run(&wrong);
    assert_eq!(code, Some(1));
    assert!(log.contains("Incorrect secret"), "{log}");
    relay.stop();
}

#[test]
fn what_a_server_that_died_held_is_reported() {
    let mut relay = Relay::start(1);
    let api = format!("http://{}", relay.http);
    let pending = ["pending", "--api", &api, "--secret", SECRET, "--count", "30"];
    let (report, was_content) = std::thread::scope(|scope| {
        let pending = scope.spawn(|| load(&[&pending[..], &["--duration", "5"]].concat()));
        wait_until(LIVENESS, "the pulls are held", || relay.ledger()["pulls"] == 30);
        relay.process.kill();
        pending.join().expect("a report")
    });
    assert!(!was_content);
    assert_eq!((&report["added"], &report["left"]), (&30.into(), &Value::Null), "{report:#}");
    let faults = report["faults"].to_string();
    assert!(faults.contains("deletes failed: "), "{report:#}");
    assert!(faults.contains("whether pulls are left is not known"), "{report:#}");
}

#[test]
fn pending_ends_by_a_signal_whatever_the_server_does() {
    let relay = Relay::start(1);
    let (dir, api) = (TempDir::new("pending"), format!("http://{}", relay.http));
    let mut command = Command::new(env!("CARGO_BIN_EXE_rillcast"));
    command.args(["load", "pending", "--api", &api, "--secret", SECRET, "--count", "1000"]);
    command.args(["--duration", "1000", "--json", "-"]);
    command.stdout(File::create(dir.file("report.json")).expect("a file"));
    let mut pending = Process::start("load pending", &mut command, dir.file("stderr.log"));
    wait_until(LIVENESS, "the pulls are held", || relay.ledger()["pulls"] == 1000);
    // It takes connections and answers none; each of a thousand deletes could wait a minute.
    relay.process.signal(Signal::SIGSTOP);
    let until = clock::now() + LIVENESS;
    while pending.is_running() && clock::now() < until {
        pending.signal(Signal::SIGINT);
        kit::pause(Duration::from_millis(200));
    }
    assert!(!pending.is_running(), "it does not end: {}", pending.log());
    let report = std::fs::read(dir.file("report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("a report in JSON");
    assert_eq!((&report["added"], &report["left"]), (&1000.into(), &Value::Null), "{report:#}");
    assert!(number(&report, "/not_deleted") > 900.0, "{report:#}");
    relay.process.signal(Signal::SIGCONT);
    relay.stop();
}

#[test]
fn floor_that_no_player_keeps_up_with_is_reported() {
    let dir = TempDir::new("limit");
    // 50 Mbit/s, so that the sockets are full soon.
    let mut clip = b"FLV\x01\x01\0\0\0\x09\0\0\0\0".to_vec();
    (0..25).for_each(|index| clip.extend(frame(index)));
    std::fs::write(dir.file("clip.flv"), clip).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rillcast"));
    command.args(["load", "limit", "--players", "2", "--warm-up", "1", "--duration", "600"]);
    command.arg("--file").arg(dir.file("clip.flv")).args(["--json", "-"]);
    command.stdout(File::create(dir.file("report.json")).expect("a file"));
    let mut limit = Process::start("load limit", &mut command, dir.file("stderr.log"));
    let pid = limit.pid();
    let children = || {
        let path = format!("/proc/{pid}/task/{pid}/children");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    wait_until(LIVENESS, "it has players", || !children().is_empty());
    let players = children().trim().parse().expect("a pid");
    // Time to join, before they stand still.
    kit::pause(Duration::from_secs(3));
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(players), signal);
    signal(Signal::SIGSTOP).expect("players");
    // It tells them to end when none of them takes any more.
    wait_until(LIVENESS, "they are told to end", || {
        let status = std::fs::read_to_string(format!("/proc/{players}/status")).expect("players");
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:\t"));
        let pending = pending.and_then(|mask| u64::from_str_radix(mask, 16).ok());
        pending.expect("signals") & 1 << (Signal::SIGINT as i32 - 1) != 0
    });
    signal(Signal::SIGCONT).expect("players");
    let status = limit.wait(LIVENESS);
    assert!(status.is_some_and(|status| !status.success()), "{}", limit.log());
    assert!(limit.log().contains("no player kept up"), "{}", limit.log());
    let report = std::fs::read(dir.file("report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("a report in JSON");
    assert_eq!(report["players"], 2, "{report:#}");
}
