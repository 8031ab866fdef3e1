//! Sources over RTSP with other parameter sets, another size or another codec, all told in their
//! descriptions alone: players over RTSP go on for as long as their own description lets them.

mod kit;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kit::camera::{Camera, Habits};
use kit::ffmpeg::{Decoder, Modern};
use kit::flv::Kind;
use kit::relay::key;
use kit::rtp_media::{Media, Plan, Sets};
use kit::rtsp::Lower;
use kit::rtsp_peers::FilePlayer;
use kit::rtsp_player::RtspPlayer;
use kit::{LIVENESS, Player, Relay, TempDir, holds_within, media};

/// Players are kept for long.
const EDGE: &str = "[pull]\nretry_base_ms = 200\nretry_step_ms = 200\nretry_max_ms = 500\n\
    [stream]\nreconnect_grace_ms = 30000\n";
/// A try that brings nothing for a second, a GOP of the next source, and as much for a busy machine.
const GAP_MAX: Duration = Duration::from_secs(8);
/// By which pictures of av.flv are sent before those that they are shown after.
const REORDER_MS: i64 = 120;

/// A camera of which nobody gets parameter sets in band.
#[track_caller]
fn camera(file: &Path) -> Camera {
    let plan = Plan { sets: Sets::DescriptionOnly, turns: 20, ..Plan::default() };
    Camera::start_of(Habits::default(), Media::of_file(file, plan))
}

/// The demo in another size, with the same sound.
#[track_caller]
fn shrunk(dir: &TempDir) -> PathBuf {
    let path = dir.file("small.flv");
    let mut command = Command::new(Modern::No.program());
    command.args(["-hide_banner", "-nostdin", "-loglevel", "error", "-i"]).arg(media("demo.flv"));
    command.args(["-vf", "scale=320:180", "-c:v", "libx264", "-preset", "ultrafast", "-g", "25"]);
    command.args(["-bf", "0", "-c:a", "copy", "-y"]).arg(&path);
    let output = command.output().expect("ffmpeg");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path
}

/// Players of one stream.
struct Crowd {
    packets: RtspPlayer,
    tags: Player,
    decoder: Decoder,
    gstreamer: FilePlayer,
}

impl Crowd {
    #[track_caller]
    fn start(edge: &Relay) -> Self {
        let url = edge.rtsp_url("a");
        Self {
            packets: RtspPlayer::start(edge.rtsp, &url, Lower::Tcp),
            tags: Player::http_flv(edge.http, "/live/a.live.flv"),
            decoder: Decoder::start(&url),
            gstreamer: FilePlayer::gstreamer(&url, Lower::Tcp),
        }
    }

    /// All of them get so many more pictures.
    #[track_caller]
    fn go_on(&mut self, count: usize) {
        let of_gstreamer = |units: Vec<kit::units::Unit>| {
            units.iter().filter(|unit| unit.kind == Kind::Video).count()
        };
        let recorded = of_gstreamer(self.gstreamer.units());
        self.packets.wait_units(Kind::Video, self.packets.pictures() + count);
        self.tags.wait_more_frames(Kind::Video, count);
        self.gstreamer.wait(recorded + count, 0);
        self.decoder.assert_runs();
    }
}

#[track_caller]
fn update(edge: &Relay, urls: &[String], more: &[(&str, &str)]) -> serde_json::Value {
    let params = [("key", &*key("a")), ("urls", &*urls.join(";"))];
    edge.api("updateStreamProxy", &[&params, more].concat())
}

fn url_of(edge: &Relay) -> String {
    let proxy = edge.proxy("a").expect("it is pulled");
    proxy["url"].as_str().expect("a URL").to_owned()
}

/// By update and by loss, also where one that sets up its tracks and stays silent comes between.
#[test]
fn players_over_rtsp_go_on_with_other_parameter_sets() {
    let dir = TempDir::new("small");
    let files = [media("av.flv"), media("demo.flv"), shrunk(&dir)];
    let mut cameras: Vec<Camera> = files.iter().map(|file| camera(file)).collect();
    let edge = Relay::start_with(2, EDGE);
    let urls: Vec<String> = cameras.iter().map(Camera::url).collect();
    assert_eq!(edge.add("a", &urls[0], &[])["code"], 0);
    let mut crowd = Crowd::start(&edge);
    crowd.go_on(10);
    for url in [&urls[1], &urls[2], &urls[0]] {
        let reply = update(&edge, std::slice::from_ref(url), &[]);
        assert_eq!(reply["code"], 0, "{reply}");
        assert_eq!(url_of(&edge), *url);
        crowd.go_on(40);
    }
    let silent = camera(&files[1]);
    silent.set(Habits { is_silent: true, ..Habits::default() });
    let sources = [urls[0].clone(), silent.url(), urls[2].clone()];
    assert_eq!(update(&edge, &sources, &[("timeout_sec", "1")])["code"], 0);
    crowd.go_on(20);
    let start = rillcast::clock::now();
    drop(cameras.remove(0));
    kit::wait_until(LIVENESS, "the last source is in use", || {
        url_of(&edge) == sources[2] && edge.is_online("a")
    });
    crowd.go_on(20);
    assert!(start.elapsed() < GAP_MAX, "{:?}", start.elapsed());
    let asked = silent.connections().into_iter().flat_map(|connection| connection.asked);
    assert_eq!(asked.filter(|method| method == "PLAY").count(), 1);
    crowd.packets.look(|seen| assert_eq!(seen.end, None));
    crowd.tags.assert_open();
    let recording = crowd.packets.stop();
    assert_eq!(recording.tracks.len(), 2);
    recording.tracks.iter().for_each(|track| track.assert_continuous(REORDER_MS, GAP_MAX));
    let payloads = recording.tracks.iter().flat_map(|track| &track.packets).map(|of| &of.payload);
    // Sequence parameter sets.
    let told: HashSet<_> = payloads.filter(|payload| payload.first() == Some(&0x67)).collect();
    assert_eq!(told.len(), 3, "each source's");
    // Who comes is described the source that there is.
    let late = RtspPlayer::start(edge.rtsp, &edge.rtsp_url("a"), Lower::Tcp);
    late.wait_units(Kind::Video, 10);
    let description = late.stop().description;
    let camera_told = &cameras[1].media.formats[0].fmtp;
    assert!(description.contains(camera_told), "{description}");
    edge.delete("a");
    edge.stop();
}

/// Of another codec: players over RTSP stay until it has a keyframe, and `why` says what ended them.
#[test]
fn source_of_another_codec_ends_players_over_rtsp_when_it_takes_over() {
    let cameras = ["av.flv", "hevc_aac.flv"].map(|file| camera(&media(file)));
    let edge = Relay::start_with(2, EDGE);
    assert_eq!(edge.add("a", &cameras[0].url(), &[])["code"], 0);
    let player = RtspPlayer::start(edge.rtsp, &edge.rtsp_url("a"), Lower::Tcp);
    player.wait_units(Kind::Video, 10);
    cameras[1].set(Habits { is_silent: true, ..Habits::default() });
    let other = [cameras[1].url()];
    let reply = update(&edge, &other, &[("timeout_sec", "1")]);
    assert_eq!(reply["code"], -1, "{reply}");
    player.wait_units(Kind::Video, player.pictures() + 10);
    cameras[1].set(Habits::default());
    assert_eq!(update(&edge, &other, &[("timeout_sec", "5")])["code"], 0);
    player.wait_end(LIVENESS);
    let mut reply = serde_json::Value::Null;
    let is_told = holds_within(LIVENESS, || {
        reply = edge.api("why", &[("key", &*key("a"))]);
        let rules = reply["data"]["rules"].as_array().expect("rules");
        rules.iter().any(|row| {
            let rule = row["rule"].as_str().unwrap_or_default();
            row["event"] == "player_left" && rule.contains("other tracks")
        })
    });
    assert!(is_told, "{reply}");
    edge.delete("a");
    edge.stop();
}
