//! Peers of other makes, each as its users have it: what they play is what was sent, what they
//! publish is what players get. `docs/interop.md` has their quirks.

mod kit;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kit::browser::Browser;
use kit::compare::{AtLeast, assert_same_media};
use kit::ffmpeg::{Modern, Publisher};
use kit::flv::{self, Kind};
use kit::player::End;
use kit::process::Process;
use kit::{LIVENESS, Nginx, Player, Relay, TempDir, media, wait_until};

const AT_LEAST: AtLeast = AtLeast { video: 50, audio: 80 };

/// Waits until a file that is being recorded has so many pictures.
#[track_caller]
fn wait_recorded(process: &mut Process, file: &Path, pictures: usize) {
    wait_until(LIVENESS, &format!("{} records", process.name), || {
        assert!(process.is_running(), "{} ended: {}", process.name, process.log());
        let has_begun = std::fs::metadata(file).is_ok_and(|data| data.len() > 13);
        let is_picture = |tag: &flv::Tag| tag.kind == Kind::Video && tag.is_coded();
        has_begun && flv::read(file).iter().filter(|tag| is_picture(tag)).count() >= pictures
    });
}

/// librtmp plays; with `more` arguments. What it logged.
fn rtmpdump(more: &[&str]) -> String {
    let relay = Relay::start(1);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let dir = TempDir::new("rtmpdump");
    let file = dir.file("got.flv");
    let mut command = Command::new("rtmpdump");
    command.args(["--live", "--verbose", "-r", &relay.rtmp_url("a"), "-o"]).arg(&file).args(more);
    let mut process = Process::start("rtmpdump", &mut command, dir.file("stderr.log"));
    wait_recorded(&mut process, &file, AT_LEAST.video);
    process.terminate(LIVENESS);
    publisher.stop();
    assert_same_media("rtmpdump", &publisher.sent(), &flv::read(&file), AT_LEAST);
    relay.stop();
    process.log()
}

#[test]
fn librtmp_plays() {
    rtmpdump(&[]);
}

#[test]
fn librtmp_with_a_digest_handshake_plays() {
    // It only uses one where it is to prove that it is a certain SWF player.
    let hash = "00".repeat(32);
    let log = rtmpdump(&["--debug", "--swfhash", &hash, "--swfsize", "1"]);
    // It has checked our digest.
    assert!(log.contains("Genuine Adobe Flash Media Server"), "{log}");
}

/// GStreamer with `sink`, playing the file once in real time; it keeps what it sends.
fn gstreamer(sink: &str, url: &str, dir: &TempDir) -> (Process, PathBuf) {
    let sent = dir.file("sent.flv");
    let pipeline = format!(
        "filesrc location={} ! flvdemux name=in flvmux name=mux streamable=true ! tee name=out \
         ! queue ! {sink} sync=true location={url} out. ! queue ! filesink location={} \
         in.video ! queue ! h264parse ! mux. in.audio ! queue ! aacparse ! mux.",
        media("av.flv").display(),
        sent.display(),
    );
    let mut command = Command::new("gst-launch-1.0");
    command.arg("-q").args(pipeline.split_whitespace()).stdout(Stdio::null());
    (Process::start(sink, &mut command, dir.file("stderr.log")), sent)
}

/// A sink publishes; a player gets the same, and is told that it is over.
fn publishes(sink: &str) {
    let relay = Relay::start(1);
    let dir = TempDir::new(sink);
    let (mut process, sent) = gstreamer(sink, &relay.rtmp_url("a"), &dir);
    relay.wait_online("a");
    let player = Player::http_flv(relay.http, "/live/a.live.flv");
    assert_eq!(player.wait_end(LIVENESS), End::Eof);
    let status = process.wait(LIVENESS);
    assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", process.log());
    assert_same_media(sink, &flv::read(&sent), &player.stop(), AT_LEAST);
    relay.stop();
}

#[test]
fn librtmp_publishes() {
    publishes("rtmpsink");
}

#[test]
fn gstreamers_own_rtmp_publishes() {
    publishes("rtmp2sink");
}

#[test]
fn nginx_pulls_from_us() {
    let relay = Relay::start(1);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let nginx = Nginx::start_with(&format!("pull {} name=b static;", relay.rtmp_url("a")));
    let address = ([127, 0, 0, 1], nginx.port).into();
    let player = Player::rtmp(address, "live", "b");
    player.wait_frames(Kind::Video, 100);
    publisher.stop();
    // It begins inside a GOP (see the interop document); from the next keyframe on all must be there.
    let got = player.stop();
    let start = got.iter().position(flv::Tag::is_video_keyframe).expect("a keyframe");
    let configs = got.iter().filter(|tag| tag.role() == flv::Role::Config).cloned();
    let got: Vec<flv::Tag> = configs.chain(got[start..].iter().cloned()).collect();
    assert_same_media("nginx's pull", &publisher.sent(), &got, AT_LEAST);
    nginx.stop();
    relay.stop();
}

#[test]
fn nginx_pushes_to_us() {
    let relay = Relay::start(1);
    let nginx = Nginx::start_with(&format!("push rtmp://{}/live;", relay.rtmp));
    let mut publisher = Publisher::start(Modern::No, "av.flv", &nginx.url("a"));
    relay.wait_online("a");
    let player = Player::http_flv(relay.http, "/live/a.live.flv");
    player.wait_frames(Kind::Video, 100);
    publisher.stop();
    assert_same_media("nginx's push", &publisher.sent(), &player.stop(), AT_LEAST);
    nginx.stop();
    relay.stop();
}

#[test]
fn browser_plays_with_mpegts_js() {
    let relay = Relay::start(1);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let urls = [relay.flv_url("a"), relay.flv_url("a").replace("http://", "ws://")];
    let mut browser = Browser::play(&urls);
    let players = browser.wait("each plays for 3 s", |player| {
        player["time"].as_f64() > Some(3.0) && player["frames"].as_u64() > Some(75)
    });
    for player in players {
        assert_eq!(player["errors"], serde_json::json!([]), "{player}");
        assert_eq!((&player["width"], &player["height"]), (&640.into(), &360.into()), "{player}");
        assert!(player["audioBytes"].as_u64() > Some(0), "{player}");
    }
    browser.stop();
    publisher.stop();
    relay.stop();
}
