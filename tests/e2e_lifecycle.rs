//! The process: start, the ways not to start, the end, and the counters that hold it to account.

mod kit;

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use kit::fault::{Mode, Origin};
use kit::ffmpeg::{Modern, Publisher};
use kit::flv::Kind;
use kit::player::End;
use kit::process::Process;
use kit::relay::{SECRET, assert_zero_ledger, lines_of, run, wait_line};
use kit::{LIVENESS, Player, Relay, TempDir};
use nix::sys::signal::Signal;

/// A relay with one of everything on it.
struct Busy {
    relay: Relay,
    publisher: Publisher,
    _origins: [Origin; 3],
    players: Vec<Player>,
    _waiters: Vec<Player>,
}

fn busy(shards: usize) -> Busy {
    let relay = Relay::start(shards);
    let publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let origins = [Mode::Healthy, Mode::AcceptedSilent, Mode::Refused].map(Origin::start);
    for (index, origin) in origins.iter().enumerate() {
        let more = [("async", "1"), ("force", "1")];
        let reply = relay.add(&format!("pull{index}"), &origin.rtmp_url("a"), &more);
        assert_eq!(reply["code"], 0, "{reply}");
    }
    let each = |stream: &str| {
        let path = format!("/live/{stream}.live.flv");
        [
            Player::http_flv(relay.http, &path),
            Player::ws_flv(relay.http, &path),
            Player::rtmp(relay.rtmp, "live", stream),
        ]
    };
    let players: Vec<Player> = (0..3).flat_map(|_| each("a")).chain(each("pull0")).collect();
    let waiters: Vec<Player> = each("pull1").into_iter().chain(each("absent")).collect();
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 10));
    kit::wait_until(LIVENESS, "six waiters", || relay.ledger().get("waiters") == Some(&6));
    Busy { relay, publisher, _origins: origins, players, _waiters: waiters }
}

#[test]
fn sigterm_ends_everything_with_a_goodbye_and_a_zero_ledger() {
    for shards in [1, 2] {
        let mut busy = busy(shards);
        busy.relay.process.signal(Signal::SIGTERM);
        busy.relay.assert_clean_exit();
        for player in &busy.players {
            assert_ne!(player.wait_end(LIVENESS), End::Reset, "{}", player.what());
        }
        assert!(busy.publisher.wait_end(), "the publisher sees it");
    }
}

#[test]
fn sigint_ends_as_sigterm_does() {
    let mut busy = busy(2);
    busy.relay.process.signal(Signal::SIGINT);
    busy.relay.assert_clean_exit();
}

#[test]
fn second_signal_ends_at_once() {
    let mut busy = busy(2);
    // Players that take nothing, so that there may be something to wait for.
    busy.players.iter().for_each(Player::pause);
    busy.relay.process.signal(Signal::SIGTERM);
    busy.relay.process.signal(Signal::SIGTERM);
    assert!(busy.relay.process.wait(LIVENESS).is_some());
}

#[test]
fn health_and_readiness_answer() {
    let relay = Relay::start(2);
    assert_eq!(relay.api.get("/healthz").status, 200);
    assert_eq!(relay.api.get("/readyz").status, 200);
    relay.stop();
}

#[test]
fn secrets_are_not_logged() {
    let relay = Relay::start(1);
    relay.api("getMediaList", &[]);
    relay.add("a", "rtmp://user:hush@127.0.0.1:1/live/a?sign=hush", &[]);
    let wrong = relay.api.get("/index/api/getMediaList?secret=wrong-hush");
    assert_eq!(wrong.json()["code"], -100);
    let log = relay.log();
    assert!(!log.contains(SECRET), "{log}");
    assert!(!log.contains("hush"), "{log}");
    relay.stop();
}

#[test]
fn missing_secret_is_generated_and_printed_once() {
    let dir = TempDir::new("secret");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rillcast"));
    command.args(["serve", "--http", "127.0.0.1:0", "--rtmp", "127.0.0.1:0"]);
    command.args(["--rtsp", "127.0.0.1:0", "--shards", "1"]).stdout(Stdio::piped());
    let mut process = Process::start("rillcast", &mut command, dir.file("stderr.log"));
    let stdout = lines_of(&mut process);
    let ready = wait_line(&stdout, "ready ").unwrap_or_else(|| panic!("{}", process.log()));
    process.signal(Signal::SIGTERM);
    assert!(process.wait(LIVENESS).is_some_and(|status| status.success()));
    let mut text = ready + &process.log();
    while let Ok(line) = stdout.recv_timeout(LIVENESS) {
        text += &line;
    }
    assert_eq!(text.matches("secret").count(), 1, "{text}");
}

/// The process does not start: one line that names the cause, and a failure for an exit code.
#[track_caller]
fn fails_to_start(args: &[&str], names: &str) {
    let (code, stdout, stderr) = run(args);
    assert!(code.is_some_and(|code| code != 0), "{args:?}: exit {code:?}");
    assert!(!stdout.contains("ready"), "{args:?}: {stdout}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.contains(names), "{args:?}: {names:?} is not named: {stderr:?}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
}

const QUIET: [&str; 7] = ["serve", "--shards", "1", "--secret", SECRET, "--log", "off"];

#[test]
fn taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let any = "127.0.0.1:0";
    for (http, rtmp) in [(address.as_str(), any), (any, address.as_str())] {
        let args = [&QUIET[..], &["--http", http, "--rtmp", rtmp, "--rtsp", any]].concat();
        fails_to_start(&args, &address);
    }
}

#[test]
fn port_that_needs_a_right_is_told_with_its_remedy() {
    let dir = TempDir::new("privileged");
    // As in the unit: whoever it is, not with this capability.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service"]);
    command.args([env!("CARGO_BIN_EXE_rillcast"), "serve", "--shards", "1"]);
    command.args(["--http", "127.0.0.1:0", "--rtmp", "127.0.0.1:0", "--rtsp", "127.0.0.1:1"]);
    let mut relay = Process::start("rillcast", &mut command, dir.file("stderr.log"));
    let status = relay.wait(LIVENESS);
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{}", relay.log());
    assert!(relay.log().contains("rtsp address 127.0.0.1:1 needs a right"), "{}", relay.log());
    assert!(relay.log().contains("AmbientCapabilities="), "{}", relay.log());
}

#[test]
fn second_relay_on_the_same_port_does_not_start() {
    let relay = Relay::start(1);
    let (http, any) = (relay.http.to_string(), "127.0.0.1:0");
    let args = [&QUIET[..], &["--http", &http, "--rtmp", any, "--rtsp", any]].concat();
    fails_to_start(&args, &http);
    relay.stop();
}

#[test]
fn bad_arguments_are_named() {
    let any = ["--http", "127.0.0.1:0", "--rtmp", "127.0.0.1:0", "--rtsp", "127.0.0.1:0"];
    fails_to_start(&[&["serve", "--cpus", "9999"], &any[..]].concat(), "9999");
    fails_to_start(&[&["serve", "--cpus", "zero"], &any[..]].concat(), "zero");
    fails_to_start(
        &[&["serve", "--config", "/nowhere/at.toml"], &any[..]].concat(),
        "/nowhere/at.toml",
    );
}

#[test]
fn check_config_names_line_and_reason() {
    let dir = TempDir::new("config");
    let file = dir.file("rillcast.toml");
    let path = file.to_str().expect("a plain path");
    fs::write(&file, kit::config::max_stream_wait_ms(1000)).expect("a file");
    let (code, stdout, stderr) = run(&["check-config", path]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stderr.is_empty(), "{stderr}");
    let slow = "[server]\nshards = 4\n[[origin]]\nurl = \"rtmp://o/a/{stream}\"\n\
                connects_per_second_max = 3\n";
    fs::write(&file, slow).expect("a file");
    let (code, stdout, stderr) = run(&["check-config", path]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(
        stderr.contains("origin.connects_per_second_max: 3 of rtmp://o/a/{stream}"),
        "{stderr}"
    );
    fs::write(&file, "# one\n# two\nno_such_key = 1\n").expect("a file");
    let (code, stdout, stderr) = run(&["check-config", path]);
    assert_ne!(code, Some(0));
    let text = stdout + &stderr;
    assert!(text.contains("no_such_key") && text.contains('3'), "{text}");
}

#[test]
fn media_is_copied_at_most_once() {
    let relay = Relay::start(2);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let players: Vec<Player> = (0..6)
        .flat_map(|_| {
            [
                Player::http_flv(relay.http, "/live/a.live.flv"),
                Player::ws_flv(relay.http, "/live/a.live.flv"),
                Player::rtmp(relay.rtmp, "live", "a"),
            ]
        })
        .collect();
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 100));
    let copied = relay.metric("rillcast_media_bytes_copied_total");
    let media_in = relay.metric("rillcast_media_bytes_in_total");
    assert!(copied > 50_000, "{copied}");
    // What came in was read later.
    assert!(copied <= media_in, "{copied} copied of {media_in}");
    // Each flush of a video frame, on the shard of the stream or on both.
    let flushes = relay.metric("rillcast_residence_seconds_count");
    assert!(flushes >= 100, "{flushes}");
    assert_eq!(relay.samples("rillcast_residence_seconds_bucket").len(), 23);
    drop(players);
    publisher.stop();
    relay.stop();
}

#[test]
fn demo_shows_its_streams_and_ends_with_a_zero_ledger() {
    let dir = TempDir::new("demo");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rillcast"));
    command.arg("demo").stdout(Stdio::piped());
    let mut process = Process::start("rillcast demo", &mut command, dir.file("stderr.log"));
    let stdout = lines_of(&mut process);
    let mut text = String::new();
    kit::wait_until(LIVENESS, "playback URLs and both streams", || {
        while let Ok(line) = stdout.try_recv() {
            text += &(line + "\n");
        }
        assert!(process.is_running(), "{text}{}", process.log());
        ["rtmp://", "http://", ".flv", "registered"].iter().all(|part| text.contains(part))
    });
    let url =
        text.split_whitespace().find(|word| word.contains("http://") && word.contains(".flv"));
    let url = url.expect("just seen").trim_matches(|c: char| !c.is_ascii_alphanumeric());
    kit::ffmpeg::decode_first_frames(Modern::No, url, 5);
    process.signal(Signal::SIGINT);
    let status = process.wait(Duration::from_secs(10));
    assert!(status.is_some_and(|status| status.success()), "{status:?} {}", process.log());
    let mut last = String::new();
    while let Ok(line) = stdout.recv_timeout(LIVENESS) {
        last = line;
    }
    assert_zero_ledger(&last);
}
