//! The load generator against servers whose faults are known, against our relay, and against nginx.

#![allow(clippy::disallowed_methods, reason = "a server that is late by so much, on real time")]

mod kit;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread::spawn;
use std::time::Duration;

use nix::sys::signal::Signal;
use rillcast::clock;
use serde_json::Value;

use kit::fault::{Mode, Origin};
use kit::load::{load, number};
use kit::process::Process;
use kit::relay::run;
use kit::{LIVENESS, Nginx, Relay, TempDir, wait_until};

/// Upper bound of a worst time that is known: what a busy machine may add to it once.
const SLACK_MS: f64 = 10_000.0;

/// The same for what most of many times are, or the best of several.
const TYPICAL_SLACK_MS: f64 = 300.0;

const FRAME_MS: u64 = 40;

/// The worst time: at least what is known.
#[track_caller]
fn assert_worst(report: &Value, pointer: &str, known_ms: f64) {
    assert_within(report, pointer, known_ms, SLACK_MS);
}

/// What most times are, or the best: what is known, and not much more.
#[track_caller]
fn assert_typical(report: &Value, pointer: &str, known_ms: f64) {
    assert_within(report, pointer, known_ms, TYPICAL_SLACK_MS);
}

#[track_caller]
fn assert_within(report: &Value, pointer: &str, known_ms: f64, slack_ms: f64) {
    let found = number(report, pointer);
    let about = known_ms - 1.0..known_ms + slack_ms;
    assert!(about.contains(&found), "{pointer} is {found}, known {known_ms}");
}

/// An HTTP-FLV server of 25 frames a second whose faults the path names.
fn faulty_server() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            // A player that goes ends its own thread and nothing else.
            spawn(move || serve(socket).err());
        }
    });
    address
}

fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    let path = read_path(&mut socket)?;
    if path == "/gone.flv" {
        return socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
    if path == "/silent.flv" {
        // Until the player gives up.
        return socket.read_exact(&mut [0]);
    }
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n\r\n")?;
    kit::pause(Duration::from_millis(200));
    socket.write_all(b"FLV\x01\x01\0\0\0\x09\0\0\0\0")?;
    let start = clock::now();
    let mut held = Duration::ZERO;
    for index in 0u64.. {
        let due = Duration::from_millis(index * FRAME_MS);
        // What comes after a frame that is held back comes with it, not later still.
        held = match (path.as_str(), index) {
            ("/late.flv", index) if index % 10 == 9 => due + Duration::from_millis(300),
            ("/stall.flv", 75) => due + Duration::from_millis(1200),
            ("/close.flv", 75) => return Ok(()),
            // The player ends it.
            ("/freeze.flv", 75) => return socket.read_exact(&mut [0]),
            _ => held,
        };
        kit::pause((start + due.max(held)).saturating_duration_since(clock::now()));
        match (path.as_str(), index) {
            ("/missing.flv", 75) => {}
            ("/broken.flv", 75) => socket.write_all(&frame(index, 1))?,
            _ => socket.write_all(&frame(index, 0))?,
        }
    }
    Ok(())
}

fn read_path(socket: &mut TcpStream) -> std::io::Result<String> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if socket.read(&mut byte)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    Ok(request.split(' ').nth(1).unwrap_or_default().to_owned())
}

/// A tag with one frame of 1 KB, a keyframe each second; the size behind it is wrong by so much.
fn frame(index: u64, size_error: u32) -> Vec<u8> {
    let len: u32 = 1000;
    let at_ms = (index * FRAME_MS) as u32;
    let mut tag = vec![9];
    tag.extend_from_slice(&len.to_be_bytes()[1..]);
    tag.extend_from_slice(&at_ms.to_be_bytes()[1..]);
    tag.extend_from_slice(&[at_ms.to_be_bytes()[0], 0, 0, 0]);
    tag.extend_from_slice(&[if index.is_multiple_of(25) { 0x17 } else { 0x27 }, 1, 0, 0, 0]);
    tag.resize(11 + len as usize, 7);
    tag.extend_from_slice(&(11 + len + size_error).to_be_bytes());
    tag
}

/// One player of one of its streams, measured from about its 30th frame to its 155th.
fn play_faulty(stream: &str) -> (Value, bool) {
    play_faulty_by(stream, "1")
}

fn play_faulty_by(stream: &str, players: &str) -> (Value, bool) {
    let url = format!("http://{}/{stream}.flv", faulty_server());
    load(&["play", "--url", &url, "--players", players, "--warm-up", "1", "--duration", "5"])
}

#[test]
fn frames_held_back_are_found() {
    let (report, _) = play_faulty_by("late", "5");
    assert_typical(&report, "/joins/connect_ms/p50", 0.0);
    assert_typical(&report, "/joins/first_byte_ms/p50", 200.0);
    assert_typical(&report, "/joins/first_keyframe_ms/p50", 200.0);
    // Of ten frames one is late by 300 ms and holds up seven: by 260, 220, and so on to 20 ms.
    assert_worst(&report, "/lateness_ms/max", 300.0);
    assert_typical(&report, "/lateness_ms/p90", 259.0);
    assert_typical(&report, "/lateness_ms/p50", 99.0);
    assert_worst(&report, "/player_p99_lateness_ms/max", 280.0);
    assert_typical(&report, "/player_p99_lateness_ms/min", 280.0);
    // 340 ms from the frame before to one that is held back; twelve of these in five seconds.
    assert_worst(&report, "/frame_gap_ms/max", 340.0);
    assert!(number(&report, "/stalls/over_200_ms") >= 8.0, "{report:#}");
    assert!(number(&report, "/stalls/stalled_s") >= 8.0 * 0.139, "{report:#}");
    assert_eq!(report["missing_frames"], 0);
    assert_eq!(report["broken_tags"], 0);
    assert_eq!(report["delay_ms"], Value::Null, "nobody stamped the frames");
}

#[test]
fn a_stall_is_found_and_weighs_what_it_hid() {
    let (report, _) = play_faulty("stall");
    assert_worst(&report, "/lateness_ms/max", 1200.0);
    assert_typical(&report, "/lateness_ms/p50", 0.0);
    assert_worst(&report, "/frame_gap_ms/max", 1240.0);
    assert_typical(&report, "/frame_gap_ms/p50", 39.0);
    // Of 125 gaps in five seconds 30 lie in the stall: a fifth, not one of a hundred.
    assert!(number(&report, "/frame_gap_ms/p90") >= 400.0, "{report:#}");
    assert!(number(&report, "/stalls/over_1_s") >= 1.0, "{report:#}");
    assert!(number(&report, "/stalls/long_stalled_s") >= 0.239, "{report:#}");
    assert_eq!(report["missing_frames"], 0);
}

#[test]
fn a_server_that_stands_still_to_the_end_is_a_fault() {
    let (report, was_content) = play_faulty("freeze");
    assert!(!was_content);
    assert_eq!(report["stalls"]["silent_at_end"], 1, "{report:#}");
    let faults = report["faults"].to_string();
    assert!(faults.contains("1 players had no frame at the end"), "{report:#}");
    assert!(faults.contains("stalls over 1 s"), "{report:#}");
    // Frames as they were due: the 5 s hold 125 all the same.
    let count = number(&report, "/lateness_ms/count");
    assert!((120.0..=130.0).contains(&count), "{report:#}");
}

#[test]
fn what_a_frozen_server_owes_is_in_the_delay() {
    let relay = Relay::start(1);
    let streams = Streams::start(&relay.rtmp_url("s{i}"), 1);
    relay.wait_online("s0");
    // Of a window of 4 s it stands still for the last 2.5.
    let way = Way { late: Duration::ZERO, open: Duration::from_millis(3500) };
    let url = format!("http://{}/live/s0.live.flv", way.start(relay.http));
    let window = ["--players", "1", "--warm-up", "2", "--duration", "4"];
    let (report, was_content) = load(&[&["play", "--url", &url], &window[..]].concat());
    assert!(!was_content, "{report:#}");
    assert_worst(&report, "/delay_ms/max", 2300.0);
    let (delay, lateness) = (number(&report, "/delay_ms/p99"), number(&report, "/lateness_ms/p99"));
    assert!(lateness > 2000.0 && delay >= lateness - 5.0, "{report:#}");
    assert_eq!(report["delay_ms"]["count"], report["lateness_ms"]["count"], "{report:#}");
    streams.stop();
    relay.stop();
}

#[test]
fn missing_frame_and_broken_tag_are_found() {
    let (report, _) = play_faulty("missing");
    assert_eq!((&report["missing_frames"], &report["broken_tags"]), (&1.into(), &0.into()));
    let (report, was_content) = play_faulty("broken");
    assert_eq!((&report["missing_frames"], &report["broken_tags"]), (&0.into(), &1.into()));
    assert!(!was_content);
    assert!(report["faults"].to_string().contains("1 broken tags"), "{report:#}");
}

#[test]
fn players_that_are_refused_or_closed_are_told() {
    let url = format!("http://{}/gone.flv", faulty_server());
    let (report, was_content) =
        load(&["play", "--url", &url, "--players", "3", "--warm-up", "0", "--duration", "1"]);
    assert!(!was_content);
    assert_eq!(report["joins"]["failed"]["refused: HTTP 404 Not Found"], 3, "{report:#}");
    assert_eq!(report["joins"]["joined"], 0);
    let (report, was_content) = play_faulty("close");
    assert!(!was_content);
    assert_eq!(report["lost"]["closed by the server"], 1, "{report:#}");
    let url = format!("http://{}/close.flv", faulty_server());
    let slow = ["--steady", "0", "--slow", "3", "--warm-up", "2", "--duration", "4"];
    for (more, bytes_per_s) in [(&[][..], 0), (&["--trickle", "500"], 500)] {
        let (report, _) = load(&[&["slow", "--url", &url][..], &slow, more].concat());
        assert_eq!(report["slow"]["joins"]["joined"], 3, "{report:#}");
        assert_eq!(report["slow"]["closed_by_server"], 3, "{report:#}");
        assert_eq!(report["slow"]["bytes_per_s"], bytes_per_s, "{report:#}");
    }
}

#[test]
fn a_late_connect_is_part_of_the_join() {
    let origin = Origin::start(Mode::SynDropped);
    let url = origin.rtmp_url("s0");
    let player = spawn(move || {
        load(&["play", "--url", &url, "--players", "1", "--warm-up", "3", "--duration", "1"])
    });
    wait_until(LIVENESS, "a SYN is out", || origin.half_open_count() == 1);
    origin.set(Mode::Healthy);
    let (report, _) = player.join().expect("a report");
    // The kernel asks again after a second (RFC 6298 2).
    assert_worst(&report, "/joins/connect_ms/max", 1000.0);
    assert_worst(&report, "/joins/first_byte_ms/max", 1000.0);
    assert_worst(&report, "/joins/first_keyframe_ms/max", 1000.0);
    assert_eq!(report["joins"]["joined"], 1, "{report:#}");
}

#[test]
fn players_that_wait_for_media_are_given_up_in_time() {
    let url = format!("http://{}/silent.flv", faulty_server());
    let times = ["--join-timeout", "0.5", "--warm-up", "2", "--duration", "1"];
    let (report, was_content) =
        load(&[&["play", "--url", &url, "--players", "2"][..], &times].concat());
    assert!(!was_content);
    assert_eq!(report["joins"]["failed"]["refused: no media in time"], 2, "{report:#}");
    assert_eq!(report["joins"]["joined"], 0, "{report:#}");
}

#[test]
fn players_join_over_the_ramp() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let url = format!("http://{}/a.flv", listener.local_addr().expect("a bound socket"));
    let (found, came) = mpsc::channel();
    spawn(move || {
        for _ in listener.incoming().map_while(Result::ok) {
            if found.send(clock::now()).is_err() {
                return;
            }
        }
    });
    let times = ["--ramp", "1.5", "--warm-up", "0", "--duration", "0.1"];
    load(&[&["play", "--url", &url, "--players", "3"][..], &times].concat());
    let came: Vec<_> = came.try_iter().collect();
    assert_eq!(came.len(), 3);
    // Two of three parts of it lie between the first and the last: a second, or a little less when
    // the first was late.
    assert!(came[2] - came[0] >= Duration::from_millis(500), "{came:?}");
}

#[test]
fn players_whose_frames_all_come_in_the_window_are_told() {
    // The stream's first frame comes 200 ms after the request, the window begins before.
    let url = format!("http://{}/late.flv", faulty_server());
    let window = ["--ramp", "0", "--warm-up", "0", "--duration", "2"];
    let (report, was_content) =
        load(&[&["play", "--url", &url, "--players", "2"][..], &window].concat());
    assert!(!was_content);
    assert_eq!(report["without_baseline"], 2, "{report:#}");
    assert_eq!(report["lateness_ms"], Value::Null, "{report:#}");
    assert!(number(&report, "/frame_gap_ms/count") > 0.0);
}

#[test]
fn json_goes_to_a_file_beside_the_table() {
    let (folder, server) = (TempDir::new("load"), faulty_server());
    let (url, path) = (format!("http://{server}/a.flv"), folder.file("report.json"));
    let path = path.to_str().expect("a path of ours");
    let times = ["--players", "1", "--warm-up", "1", "--duration", "1", "--json", path];
    let (_, table, _) = run(&[&["load", "play", "--url", &url], &times[..]].concat());
    assert!(table.contains("joined 1 of 1, lost 0\n"), "{table}");
    let json = std::fs::read_to_string(path).expect("a report");
    let report: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(report["joins"]["joined"], 1, "{report:#}");
}

/// A way to a server.
#[derive(Clone, Copy)]
struct Way {
    /// All that the server sends comes later by so much.
    late: Duration,
    /// For how long it brings anything back.
    open: Duration,
}

/// A way, by which all that the server sends comes later by so much.
fn long_way(server: SocketAddr, late: Duration) -> SocketAddr {
    Way { late, open: Duration::MAX }.start(server)
}

impl Way {
    fn start(self, server: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        spawn(move || {
            for player in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(server).expect("a server");
                let mut there =
                    (player.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
                // A player that goes is gone for the server too.
                spawn(move || {
                    std::io::copy(&mut there.0, &mut there.1)
                        .and_then(|_| there.1.shutdown(Shutdown::Write))
                        .err()
                });
                spawn(move || self.come_back(server, player).err());
            }
        });
        address
    }

    /// Gives what the server sends to the player, each piece later by so much than it came.
    fn come_back(self, mut server: TcpStream, mut player: TcpStream) -> std::io::Result<()> {
        let (sender, pieces) = mpsc::channel();
        spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(len @ 1..) = server.read(&mut buffer) {
                let piece = (clock::now() + self.late, buffer[..len].to_vec());
                if sender.send(piece).is_err() {
                    break;
                }
            }
        });
        let start = clock::now();
        for (due, piece) in pieces {
            kit::pause(due.saturating_duration_since(clock::now()));
            if start.elapsed() < self.open {
                player.write_all(&piece)?;
            }
        }
        Ok(())
    }
}

#[test]
fn a_long_way_is_part_of_the_delay() {
    let relay = Relay::start(1);
    let streams = Streams::start(&relay.rtmp_url("s{i}"), 1);
    relay.wait_online("s0");
    let late = Duration::from_millis(400);
    let http = long_way(relay.http, late);
    let rtmp = long_way(relay.rtmp, late);
    for (url, ways) in [
        (format!("http://{http}/live/s0.live.flv"), 1.0),
        (format!("ws://{http}/live/s0.live.flv"), 1.0),
        // The handshake, connect, createStream and play wait for one another.
        (format!("rtmp://{rtmp}/live/s0"), 4.0),
    ] {
        let times = ["--players", "3", "--warm-up", "3", "--duration", "3"];
        let (report, _) = load(&[&["play", "--url", &url], &times[..]].concat());
        assert_typical(&report, "/joins/connect_ms/p50", 0.0);
        assert_typical(&report, "/joins/first_keyframe_ms/p50", ways * 400.0);
        assert_typical(&report, "/delay_ms/p50", 400.0);
        assert_typical(&report, "/lateness_ms/p50", 0.0);
        assert_eq!(report["frames"], report["stamped_frames"], "{report:#}");
    }
    streams.stop();
    relay.stop();
}

#[test]
fn waiting_for_a_flush_is_part_of_the_delay() {
    // A frame that is due at the beginning of a window of 400 ms waits for its end.
    for (wire, method) in [
        ("flv", "send"),
        ("flv", "uring"),
        ("rtsp-tcp", "send"),
        ("rtsp-tcp", "joined"),
        ("rtsp-tcp", "uring"),
        ("rtsp-udp", "send"),
        ("rtsp-udp", "sendto"),
        ("rtsp-udp", "joined"),
        ("rtsp-udp", "uring"),
        ("rtsp-udp-gro", "joined"),
    ] {
        let limit = ["limit", "--players", "5", "--wire", wire, "--method", method];
        let times = ["--warm-up", "1", "--duration", "3", "--flush-ms", "400"];
        let (report, _) = load(&[&limit[..], &times].concat());
        assert_worst(&report, "/delay_ms/max", 360.0);
        assert_typical(&report, "/delay_ms/p50", 160.0);
        assert_eq!((&report["missing_frames"], &report["broken_tags"]), (&0.into(), &0.into()));
        assert_eq!(report["joins"]["joined"], 5);
        assert_eq!(report["frames"], report["stamped_frames"], "{report:#}");
        if wire != "flv" {
            assert_packets(&report);
        }
        assert!(number(&report, "/server/cpu_s") > 0.0, "{report:#}");
        assert_eq!(report["server"]["processes"], 1, "the players are none of them");
    }
}

#[test]
fn floor_of_a_relay_passes_on_what_it_receives() {
    for method in ["send", "uring"] {
        let limit =
            ["limit", "--relayed", "--audio-on-video", "--players", "5", "--method", method];
        let (report, _) = load(&[&limit[..], &["--warm-up", "1", "--duration", "3"]].concat());
        assert_eq!((&report["missing_frames"], &report["broken_tags"]), (&0.into(), &0.into()));
        assert_eq!(report["joins"]["joined"], 5);
        assert!(number(&report, "/frames") > 300.0, "{report:#}");
        assert_eq!(report["frames"], report["stamped_frames"], "{report:#}");
        assert!(number(&report, "/delay_ms/p50") > 0.0, "{report:#}");
    }
}

/// Packets came, each once and in its turn.
#[track_caller]
fn assert_packets(report: &Value) {
    assert!(number(report, "/rtp/packets") > 100.0, "{report:#}");
    for none in ["missing", "misplaced", "dropped_by_client"] {
        assert_eq!(report["rtp"][none], 0, "{none}: {report:#}");
    }
}

#[test]
fn ffmpeg_takes_what_is_published_over_rtsp() {
    for transport in ["tcp", "udp"] {
        // Nobody else may take the port meanwhile; a test that was unlucky says so.
        let port = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = port.local_addr().expect("a bound socket");
        drop(port);
        let url = format!("rtsp://{address}/live/a");
        let dir = TempDir::new("listen");
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-rtsp_flags", "listen", "-i", &url]);
        // Beyond the seam of the loop, which is 5 s long.
        command.args(["-t", "7", "-map", "0", "-f", "framecrc", "-"]);
        command.stdout(File::create(dir.file("frames")).expect("a file"));
        let mut server = Process::start("ffmpeg", &mut command, dir.file("stderr.log"));
        let until = clock::now() + LIVENESS;
        // It listens for one connection: only the publisher's may come.
        let is_listening = || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").expect("sockets");
            sockets.contains(&format!(":{:04X} 00000000:0000 0A", address.port()))
        };
        while !is_listening() {
            assert!(clock::now() < until, "it does not listen: {}", server.log());
            kit::pause(Duration::from_millis(20));
        }
        let publish = ["publish", "--url", &url, "--rtsp-transport", transport];
        let (report, _) = load(&[&publish[..], &["--duration", "9"]].concat());
        assert_eq!(report["started"], 1, "{report:#}\n{}", server.log());
        assert!(number(&report, "/frames") > 150.0, "{report:#}");
        let status = server.wait(LIVENESS);
        assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", server.log());
        let frames = std::fs::read_to_string(dir.file("frames")).expect("frames");
        let of_track = |track: &str| frames.lines().filter(|line| line.starts_with(track)).count();
        assert!(of_track("0,") > 150 && of_track("1,") > 200, "{}\n{frames}", server.log());
    }
}

/// `load publish` of so many streams, for as long as it lives.
struct Streams {
    process: Process,
    dir: TempDir,
}

impl Streams {
    fn start(url: &str, count: u32) -> Self {
        Self::start_with(url, count, &[])
    }

    fn start_with(url: &str, count: u32, more: &[&str]) -> Self {
        let dir = TempDir::new("publish");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rillcast"));
        command.args(["load", "publish", "--url", url, "--streams", &count.to_string()]);
        command.args(["--ramp", "0.1", "--json", "-"]).args(more);
        command.stdout(File::create(dir.file("report.json")).expect("a file"));
        let process = Process::start("load publish", &mut command, dir.file("stderr.log"));
        Self { process, dir }
    }

    /// Ctrl-C: it tells what it did.
    #[track_caller]
    fn stop(mut self) -> Value {
        self.process.signal(Signal::SIGINT);
        let status = self.process.wait(LIVENESS);
        assert!(status.is_some(), "it does not end: {}", self.process.log());
        let report = std::fs::read(self.dir.file("report.json")).expect("a report");
        serde_json::from_slice(&report).expect("a report in JSON")
    }
}

/// Plays both streams with four players: nothing is broken, nothing misses, delays are told.
#[track_caller]
fn assert_plays(url: &str, more: &[&str]) -> Value {
    let players = ["--players", "4", "--streams", "2", "--warm-up", "1", "--duration", "3"];
    let (report, _) = load(&[&["play", "--url", url], &players[..], more].concat());
    assert_eq!(report["joins"]["joined"], 4, "{url}: {report:#}");
    for none in ["broken_tags", "missing_frames", "missing_frames_before", "misplaced_frames"] {
        assert_eq!(report[none], 0, "{url}: {none}: {report:#}");
    }
    assert_eq!(report["lost"], serde_json::json!({}), "{url}: {report:#}");
    assert_eq!(report["frames"], report["stamped_frames"], "{url}: {report:#}");
    assert!(number(&report, "/frames") >= 150.0, "{url}: {report:#}");
    assert!(number(&report, "/delay_ms/min") > 0.0, "{url}: {report:#}");
    report
}

#[test]
fn relay_is_played_over_all_protocols() {
    let relay = Relay::start(1);
    let pid = relay.process.child.id().to_string();
    let streams = Streams::start(&relay.rtmp_url("s{i}"), 2);
    relay.wait_online("s0");
    relay.wait_online("s1");
    let http = relay.flv_url("s{i}");
    let report = assert_plays(&http, &["--pid", &pid]);
    assert!(number(&report, "/server/cpu_s") > 0.0, "{report:#}");
    assert!(number(&report, "/server/rss_bytes") > 1e6, "{report:#}");
    assert_plays(&http.replace("http://", "ws://"), &[]);
    assert_plays(&relay.rtmp_url("s{i}"), &["--blocking"]);
    let report = streams.stop();
    assert_eq!((&report["started"], &report["failed"]), (&2.into(), &serde_json::json!({})));
    assert!(number(&report, "/lateness_ms/count") > 100.0, "{report:#}");
    relay.stop();
}

#[test]
fn relay_carries_rtsp_over_both_transports() {
    let relay = Relay::start(1);
    for (transport, name) in [("tcp", "t{i}"), ("udp", "u{i}")] {
        let url = relay.rtsp_url(name);
        let over = ["--rtsp-transport", transport];
        let streams = Streams::start_with(&url, 2, &over);
        relay.wait_online(&name.replace("{i}", "0"));
        relay.wait_online(&name.replace("{i}", "1"));
        for played_over in ["tcp", "udp", "udp-gro"] {
            let report = assert_plays(&url, &["--rtsp-transport", played_over]);
            assert_packets(&report);
        }
        // The other forms of the same stream, with its stamps.
        assert_plays(&relay.flv_url(name), &[]);
        let report = streams.stop();
        assert_eq!((&report["started"], &report["failed"]), (&2.into(), &serde_json::json!({})));
        assert_eq!(report["unsent_packets"], 0, "{report:#}");
    }
    let streams = Streams::start(&relay.rtmp_url("r{i}"), 2);
    relay.wait_online("r0");
    relay.wait_online("r1");
    for played_over in ["tcp", "udp"] {
        let url = relay.rtsp_url("r{i}");
        assert_packets(&assert_plays(&url, &["--rtsp-transport", played_over]));
    }
    streams.stop();
    relay.stop();
}

/// Streams that did not begin or did not last, and what was said of it.
#[track_caller]
fn assert_failed(report: &Value, started: u64, failed: u64) {
    assert_eq!(report["started"], started, "{report:#}");
    let reasons = report["failed"].as_object().expect("reasons");
    let count: u64 = reasons.values().filter_map(Value::as_u64).sum();
    assert_eq!(count, failed, "{report:#}");
    assert!(report["faults"].to_string().contains("streams"), "{report:#}");
}

#[test]
fn publishers_that_are_refused_or_closed_are_told() {
    let relay = Relay::start(1);
    let both = Streams::start(&relay.rtmp_url("s{i}"), 2);
    relay.wait_online("s0");
    relay.wait_online("s1");
    let more = Streams::start(&relay.rtmp_url("s{i}"), 3);
    relay.wait_online("s2");
    let key = [("vhost", "__defaultVhost__"), ("app", "live"), ("stream", "s0")];
    let reply = relay.api("close_streams", &[&key[..], &[("force", "1")]].concat());
    assert_eq!(reply["released"]["complete"], true, "{reply}");
    wait_until(LIVENESS, "it is closed", || !relay.is_online("s0"));
    assert_failed(&more.stop(), 1, 2);
    let report = both.stop();
    assert_failed(&report, 2, 1);
    relay.stop();
}

#[test]
fn ffmpeg_decodes_what_is_published() {
    let relay = Relay::start(1);
    let streams = Streams::start(&relay.rtmp_url("s{i}"), 1);
    relay.wait_online("s0");
    let dir = TempDir::new("decode");
    let mut command = Command::new("ffmpeg");
    // Beyond the seam of the loop, which is 5 s long.
    command.args(["-v", "error", "-xerror", "-err_detect", "explode", "-i", &relay.flv_url("s0")]);
    command.args(["-t", "7", "-f", "null", "-"]);
    let mut process = Process::start("ffmpeg", &mut command, dir.file("stderr.log"));
    let status = process.wait(LIVENESS);
    assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", process.log());
    assert_eq!(process.log(), "", "it has something to say");
    streams.stop();
    relay.stop();
}

#[test]
fn churn_leaves_nothing_behind() {
    let relay = Relay::start(2);
    let pid = relay.process.child.id().to_string();
    let streams = Streams::start(&relay.rtmp_url("s{i}"), 1);
    relay.wait_online("s0");
    let url = relay.flv_url("s0");
    for (leave, stay) in [("both", "0.5"), ("reset", "1.5")] {
        let steady = ["churn", "--url", &url, "--steady", "3", "--rate", "50", "--pid", &pid];
        let times = ["--warm-up", "1", "--duration", "4", "--leave", leave, "--stay", stay];
        let (report, _) = load(&[&steady[..], &times].concat());
        let visitors = &report["visitors"];
        assert!(number(visitors, "/joins/asked") >= 200.0, "{report:#}");
        assert_eq!(visitors["joins"]["failed"], serde_json::json!({}), "{report:#}");
        assert!(number(visitors, "/left") >= 100.0, "{report:#}");
        assert!(number(visitors, "/joins/first_keyframe_ms/count") >= 100.0, "{report:#}");
        assert_eq!(report["missing_frames"], 0, "{report:#}");
        // Half of what it would be if each of 50 visitors a second left one behind.
        let slope = number(&report, "/server/fd_slope_per_s");
        assert!(slope < 25.0, "{report:#}");
    }
    streams.stop();
    relay.stop();
}

#[test]
fn nginx_is_loaded_too() {
    let nginx = Nginx::start();
    let streams = Streams::start(&nginx.url("s{i}"), 2);
    let report = assert_plays(&nginx.url("s{i}"), &[]);
    assert_eq!(report["protocol"], "RTMP");
    let report = streams.stop();
    assert_eq!((&report["started"], &report["failed"]), (&2.into(), &serde_json::json!({})));
    nginx.stop();
}

#[test]
fn what_cannot_be_loaded_is_said_in_one_line() {
    let lines: BTreeSet<String> = [
        &["load", "play", "--url", "srt://127.0.0.1/a"][..],
        &["load", "play", "--url", "http://127.0.0.1/a.flv", "--streams", "2"],
        &["load", "play", "--url", "http://127.0.0.1/a.flv", "--pid", "4294967295"],
        &["load", "play", "--url", "http://127.0.0.1/a.flv", "--json", "/dev/null/a"],
        &["load", "publish", "--url", "http://127.0.0.1/a.flv"],
        &["load", "slow", "--url", "rtsp://127.0.0.1/a/b", "--rtsp-transport", "udp"],
        &["load", "limit", "--method", "joined"],
        &["load", "limit", "--wire", "rtsp-tcp", "--method", "sendto"],
        &["load", "limit", "--wire", "rtsp-tcp", "--relayed"],
        &["load", "limit", "--cpus", "0,1", "--relayed"],
        &["load", "pending", "--api", "http://192.0.2.1:80", "--secret", "s"],
        &["load", "publish", "--url", "rtsp://127.0.0.1/a/b", "--rtsp-transport", "udp-gro"],
    ]
    .into_iter()
    .map(|args| {
        let (code, _, log) = run(args);
        assert_eq!(code, Some(1), "{args:?}: {log}");
        assert_eq!(log.lines().count(), 1, "{args:?}: {log}");
        log
    })
    .collect();
    assert_eq!(lines.len(), 12, "{lines:?}");
}
