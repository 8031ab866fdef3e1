//! Several sources of one pull: killed in turn, replaced while they serve, and tried side by side. What
//! players get goes on as from one source.

mod kit;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kit::compare::coded;
use kit::fault::{Mode, Origin};
use kit::ffmpeg::{Decoder, Modern, Publisher};
use kit::flv::{self, Kind, Role, Tag};
use kit::process::Process;
use kit::relay::key;
use kit::rtsp::Lower;
use kit::rtsp_player::RtspPlayer;
use kit::{HookServer, LIVENESS, Player, Relay, TempDir, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Retries come soon, and players are kept for long.
const EDGE: &str = "[pull]\nretry_base_ms = 200\nretry_step_ms = 200\nretry_max_ms = 500\n\
    [stream]\nreconnect_grace_ms = 30000\n";
const MEDIA_TIMEOUT_MS: &str = "700";
/// How soon a lost source is known: by its connection at once, or by its silence.
const AT_ONCE: Duration = Duration::ZERO;
const BY_SILENCE: Duration = Duration::from_millis(700);
/// The one after it does not answer, `timeout_sec`.
const BY_CONNECT: Duration = Duration::from_secs(2);
/// That of the kit's files: the next source may begin so long before its next keyframe.
const GOP: Duration = Duration::from_secs(1);
/// For a busy machine.
const SLACK: Duration = Duration::from_secs(3);
/// For all of it, until several pictures have come.
const GAP_MAX: Duration = Duration::from_secs(8);

/// By which pictures of av.flv are sent before those that they are shown after.
const REORDER_MS: i64 = 120;

/// How often a source is killed, and what becomes of the third one then.
const ROUNDS: usize = 36;
const THIRD: [Mode; 4] = [Mode::Refused, Mode::NoMedia, Mode::Reset, Mode::SynDropped];

/// A relay that is the origin of one stream, and what publishes to it.
struct Site {
    relay: Relay,
    _publisher: Publisher,
}

impl Site {
    fn start(file: &str) -> Self {
        let relay = Relay::start(1);
        let publisher = Publisher::start(Modern::No, file, &relay.rtmp_url("a"));
        relay.wait_online("a");
        Self { relay, _publisher: publisher }
    }
}

/// What players saw of a source's loss is bounded by its detection and a GOP; how much of it is beside the
/// detection.
#[track_caller]
fn assert_gap(
    players: &[Player],
    since: Instant,
    detection: Duration,
    source: &str,
) -> Vec<Duration> {
    let gap_of = |player: &Player| {
        let gap = player.longest_gap(since);
        let bound = detection + GOP + SLACK;
        assert!(gap < bound, "{}: {gap:?} without a picture after {source}", player.what());
        gap.saturating_sub(detection)
    };
    players.iter().map(gap_of).collect()
}

/// Most losses cost no more than the GOP until the next source's keyframe: half of one on the average.
#[track_caller]
fn assert_usual_gap(mut beside_detection: Vec<Duration>) {
    beside_detection.sort_unstable();
    let median = beside_detection[beside_detection.len() / 2];
    assert!(median < GOP + Duration::from_millis(300), "{beside_detection:?}");
}

/// Each loss was counted; a busy machine may have had a source silent on top.
#[track_caller]
fn assert_lost(proxy: &Value, count: usize) {
    assert!(proxy["rePullCount"].as_u64() >= Some(count as u64), "{proxy}");
}

/// The URL of the source in use.
fn url_of(edge: &Relay) -> String {
    let proxy = edge.proxy("a").expect("it is pulled");
    proxy["url"].as_str().expect("a URL").to_owned()
}

/// What a player got goes on as one stream: timestamps of each track rise strictly and without a gap,
/// and all of it can be decoded.
#[track_caller]
fn assert_is_one_stream(what: &str, tags: &[Tag]) {
    for kind in [Kind::Audio, Kind::Video] {
        let frames = coded(tags, kind);
        assert!(frames.len() > 50, "{what}: {} {kind:?} frames", frames.len());
        for pair in frames.windows(2) {
            let step = i64::from(pair[1].timestamp_ms) - i64::from(pair[0].timestamp_ms);
            assert!((1..1000).contains(&step), "{what}: {kind:?} steps by {step} ms");
        }
    }
    for part in tags.chunk_by(|_, next| !is_video_configuration(next)) {
        assert_decodes(what, part);
    }
}

/// One part of a stream, with one configuration: ffmpeg reads that of another part all right, but finds
/// fault with it where it looks for the bounds of pictures (5.1, going from high to main profile).
#[track_caller]
fn assert_decodes(what: &str, tags: &[Tag]) {
    if !tags.iter().any(Tag::is_coded) {
        return;
    }
    let dir = TempDir::new("decode");
    let file = dir.file("got.flv");
    let mut bytes = flv::header(true, true);
    tags.iter().for_each(|tag| bytes.extend(flv::encode(tag)));
    std::fs::write(&file, bytes).expect("a file");
    let mut command = Command::new(Modern::No.program());
    // Its parser knows the first configuration alone and complains of every other; the decoder takes
    // each. Without a rate of the output, frames of two rates keep their timestamps. Those of sound count
    // samples: where the file begins anew they step by 1 ms, which rounding to milliseconds would make none.
    command.args(["-hide_banner", "-nostdin", "-loglevel", "error", "-xerror"]);
    command.args(["-fflags", "+nofillin+noparse", "-i"]).arg(&file);
    command.args(["-fps_mode", "passthrough", "-enc_time_base:v", "1:1000"]);
    let output = command.args(["-f", "null", "-"]).output().expect("ffmpeg");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.is_empty(), "{what}: {text}");
}

fn is_video_configuration(tag: &Tag) -> bool {
    tag.kind == Kind::Video && tag.role() == Role::Config
}

#[test]
fn players_do_not_notice_that_sources_are_killed_in_turn() {
    let (silent, kicked) = (Site::start("av.flv"), Site::start("demo.flv"));
    let third = Origin::start(Mode::Healthy);
    let edge = Relay::start_with(2, EDGE);
    let urls = [silent.relay.rtmp_url("a"), kicked.relay.flv_url("a"), third.rtmp_url("a")];
    let more = [("urls", &*urls[1..].join(";")), ("media_timeout_ms", MEDIA_TIMEOUT_MS)];
    let reply = edge.add("a", &urls[0], &[&more[..], &[("timeout_sec", "2")]].concat());
    assert_eq!(reply["code"], 0, "{reply}");
    let path = "/live/a.live.flv";
    let players = [Player::http_flv(edge.http, path), Player::rtmp(edge.rtmp, "live", "a")];
    let mut decoder = Decoder::start(&edge.flv_url("a"));
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 10));
    let mut gaps = Vec::new();
    for round in 0..ROUNDS {
        // Anywhere in a GOP.
        kit::pause(Duration::from_millis(fastrand::u64(0..700)));
        let source = url_of(&edge);
        let start = rillcast::clock::now();
        let place = urls.iter().position(|url| *url == source).expect("one of them");
        let mode = THIRD[round / 3 % THIRD.len()].clone();
        let detection = match (place, &mode) {
            (0, _) | (2, Mode::NoMedia) => BY_SILENCE,
            (1, Mode::SynDropped) => BY_CONNECT,
            _ => AT_ONCE,
        };
        match place {
            0 => silent.relay.process.signal(Signal::SIGSTOP),
            1 => {
                // Where that drops SYNs, the one after it has to take over.
                let next = if mode == Mode::SynDropped { Mode::SynDropped } else { Mode::Healthy };
                third.set(next);
                let port = kicked.relay.http.port().to_string();
                let reply = kicked.relay.api("kick_sessions", &[("local_port", &port)]);
                assert_eq!(reply["count_hit"], 1, "{reply}");
            }
            _ => third.set(mode.clone()),
        }
        wait_until(LIVENESS, "another source is in use", || {
            url_of(&edge) != source && edge.is_online("a")
        });
        if (place, &mode) == (2, &Mode::Reset) {
            let proxy = edge.proxy("a").expect("it is pulled");
            let error = proxy["sources"][2]["lastError"].as_str().unwrap_or_default();
            assert!(error.contains("connection reset"), "{proxy}");
        }
        players.iter().for_each(|player| player.wait_more_frames(Kind::Video, 10));
        gaps.extend(assert_gap(&players, start, detection, &source));
        match place {
            0 => silent.relay.process.signal(Signal::SIGCONT),
            _ => third.set(Mode::Healthy),
        }
        decoder.assert_runs();
    }
    assert_usual_gap(gaps);
    let proxy = edge.proxy("a").expect("it is pulled");
    assert_lost(&proxy, ROUNDS);
    let rows = proxy["sources"].as_array().expect("all of them");
    assert!(rows.iter().all(|row| row["upAgoMs"].is_u64()), "{proxy}");
    let in_use: Vec<&str> = rows
        .iter()
        .filter(|row| row["inUse"] == true)
        .filter_map(|row| row["url"].as_str())
        .collect();
    assert_eq!(in_use, [proxy["url"].as_str().expect("a URL")]);
    for player in players {
        player.assert_open();
        let what = player.what().to_owned();
        assert_is_one_stream(&what, &player.stop());
    }
    edge.delete("a");
    edge.stop();
}

/// The origins of the config, with nobody at the first.
#[test]
fn players_of_a_pull_on_demand_do_not_notice_that_its_origin_is_killed() {
    let mut sites = [Site::start("av.flv"), Site::start("demo.flv")];
    let dead = format!("127.0.0.1:{}", kit::free_port());
    let hosts = [dead, sites[0].relay.rtmp.to_string(), sites[1].relay.rtmp.to_string()];
    let entry = |(at, host): (usize, &String)| {
        format!("[[origin]]\nurl = \"rtmp://{host}/{{app}}/{{stream}}\"\npriority = {at}\n")
    };
    let entries: Vec<String> = hosts.iter().enumerate().map(entry).collect();
    let edge = Relay::start_with(2, &format!("{EDGE}{}", entries.concat()));
    let path = "/live/a.live.flv";
    let players = [Player::http_flv(edge.http, path), Player::rtmp(edge.rtmp, "live", "a")];
    let mut decoder = Decoder::start(&edge.flv_url("a"));
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 10));
    assert!(url_of(&edge).contains(&hosts[1]), "{}", url_of(&edge));
    let start = rillcast::clock::now();
    sites[0].relay.process.kill();
    players.iter().for_each(|player| player.wait_more_frames(Kind::Video, 50));
    assert_gap(&players, start, AT_ONCE, &hosts[1]);
    assert!(url_of(&edge).contains(&hosts[2]), "{}", url_of(&edge));
    decoder.assert_runs();
    assert_eq!(edge.metric("rillcast_demand_pulls_total"), 1);
    for player in players {
        player.assert_open();
        let what = player.what().to_owned();
        assert_is_one_stream(&what, &player.stop());
    }
    edge.stop();
}

#[test]
fn source_is_replaced_while_it_serves() {
    let sites = [Site::start("av.flv"), Site::start("demo.flv")];
    let silent = Origin::start(Mode::AcceptedSilent);
    let dir = TempDir::new("data");
    let config = format!("{EDGE}[server]\ndata_dir = {:?}\n", dir.path());
    let edge = Relay::start_with(2, &config);
    let urls = [sites[0].relay.rtmp_url("a"), sites[1].relay.rtmp_url("a")];
    assert_eq!(edge.add("a", &urls[0], &[])["code"], 0);
    let players =
        [Player::ws_flv(edge.http, "/live/a.live.flv"), Player::rtmp(edge.rtmp, "live", "a")];
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 10));
    let before = edge.proxy("a").expect("it is pulled");
    let key = key("a");
    let update = |params: &[(&str, &str)]| {
        edge.api("updateStreamProxy", &[&[("key", &*key)][..], params].concat())
    };
    for round in 1..=4 {
        let reply = update(&[("url", &urls[round % 2])]);
        assert_eq!((&reply["code"], &reply["data"]["state"]), (&0.into(), &"registered".into()));
        assert_eq!(url_of(&edge), urls[round % 2]);
        players.iter().for_each(|player| player.wait_more_frames(Kind::Video, 30));
    }
    let silent_url = silent.rtmp_url("a");
    let reply = update(&[("url", &silent_url), ("timeout_sec", "1")]);
    assert_eq!(reply["code"], -1, "{reply}");
    assert!(reply["msg"].as_str().is_some_and(|msg| msg.contains("silent")), "{reply}");
    silent.wait_all_closed(LIVENESS);
    let reply =
        update(&[("urls", &format!("[\"{silent_url}\", \"{}\"]", urls[1])), ("timeout_sec", "1")]);
    assert_eq!(reply["code"], 0, "{reply}");
    assert_eq!(update(&[])["code"], -300);
    let nobody = edge.api("updateStreamProxy", &[("key", "v/a/b"), ("url", &urls[0])]);
    assert_eq!(nobody["code"], -500, "{nobody}");
    players.iter().for_each(|player| player.wait_more_frames(Kind::Video, 10));
    let after = edge.proxy("a").expect("it is pulled");
    assert_eq!((&after["generation"], &after["rePullCount"]), (&before["generation"], &0.into()));
    for player in players {
        player.assert_open();
        let what = player.what().to_owned();
        assert_is_one_stream(&what, &player.stop());
    }
    edge.stop();
    // What was acknowledged is there after a restart.
    let edge = Relay::start_with(1, &config);
    edge.wait_online("a");
    let proxy = edge.proxy("a").expect("it came back");
    let rows = proxy["sources"].as_array().expect("all of them");
    let listed: Vec<&str> = rows.iter().filter_map(|row| row["url"].as_str()).collect();
    assert_eq!(listed, [&*silent_url, &*urls[1]]);
    edge.delete("a");
    edge.stop();
}

/// A source that is joined in the middle of a GOP is waited for longer than for one that is silent, and players
/// are kept for it longer than for one that does not come back.
#[test]
fn players_stay_for_the_keyframe_of_a_source_that_brings_media() {
    const LATE: Duration = Duration::from_secs(5);
    type UrlOf = fn(&Origin, &str) -> String;
    let of: [(UrlOf, &str); 2] = [(Origin::flv_url, "30000"), (Origin::rtmp_url, "3000")];
    for (url_of_origin, grace_ms) in of {
        let origins = [Origin::start(Mode::Healthy), Origin::start(Mode::KeyframeLate(LATE))];
        let edge = Relay::start_with(2, &EDGE.replace("30000", grace_ms));
        let urls = origins.each_ref().map(|origin| url_of_origin(origin, "a"));
        let more = [("urls", &*urls[1]), ("timeout_sec", "2"), ("media_timeout_ms", "2000")];
        assert_eq!(edge.add("a", &urls[0], &more)["code"], 0);
        let path = "/live/a.live.flv";
        let players = [Player::http_flv(edge.http, path), Player::rtmp(edge.rtmp, "live", "a")];
        players.iter().for_each(|player| player.wait_frames(Kind::Video, 50));
        origins[0].set(Mode::Refused);
        let lost = rillcast::clock::now();
        wait_until(LIVENESS, "the other source is up", || {
            edge.is_online("a") && url_of(&edge) == urls[1]
        });
        assert!(lost.elapsed() > LATE, "its keyframe came soon: {:?}", lost.elapsed());
        players.iter().for_each(|player| player.wait_more_frames(Kind::Video, 60));
        assert_eq!(origins[1].count(), 1, "it was not cut");
        for player in players {
            player.assert_open();
            let what = player.what().to_owned();
            assert_is_one_stream(&what, &player.stop());
        }
        edge.delete("a");
        edge.stop();
    }
}

/// A source that breaks off in its first keyframe is none: what serves is not given up for it.
#[test]
fn update_to_a_source_that_stops_in_its_first_keyframe_breaks_nothing() {
    let (healthy, half) = (Origin::start(Mode::Healthy), Origin::start(Mode::MidFrame));
    let edge = Relay::start_with(2, EDGE);
    assert_eq!(edge.add("a", &healthy.rtmp_url("a"), &[])["code"], 0);
    let path = "/live/a.live.flv";
    let players = [Player::http_flv(edge.http, path), Player::rtmp(edge.rtmp, "live", "a")];
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 10));
    for url in [half.rtmp_url("a"), half.flv_url("a")] {
        let before = players.each_ref().map(|player| player.frame_count(Kind::Video));
        let update = [("key", &*key("a")), ("url", &*url), ("timeout_sec", "2")];
        let reply = edge.api("updateStreamProxy", &update);
        assert_eq!(reply["code"], -1, "{reply}");
        let msg = reply["msg"].as_str().unwrap_or_default();
        assert!(msg.contains("its first frame has begun and is not whole in time"), "{reply}");
        // Of the 50 pictures that belong to the time that it took.
        for (player, before) in players.iter().zip(before) {
            let came = player.frame_count(Kind::Video) - before;
            assert!(came >= 20, "{}: {came} pictures", player.what());
        }
        assert_eq!(url_of(&edge), healthy.rtmp_url("a"));
    }
    half.wait_all_closed(LIVENESS);
    assert_eq!((half.count(), healthy.count()), (2, 1));
    for player in players {
        player.assert_open();
        let what = player.what().to_owned();
        let tags = player.stop();
        for pair in coded(&tags, Kind::Video).windows(2) {
            let step = pair[1].timestamp_ms.wrapping_sub(pair[0].timestamp_ms);
            assert_eq!(step, 40, "{what}: a picture is not there");
        }
    }
    edge.delete("a");
    edge.stop();
}

/// Players of packets go on where the next source has the same tracks: by update and by loss, with and
/// without pictures out of order.
#[test]
fn players_over_rtsp_go_on_from_one_rtsp_source_to_another() {
    for (file, reorder_ms) in [("demo.flv", 0), ("av.flv", 120)] {
        let sites = [Site::start(file), Site::start(file)];
        let edge = Relay::start_with(2, EDGE);
        let urls = sites.each_ref().map(|site| site.relay.rtsp_url("a"));
        assert_eq!(edge.add("a", &urls[0], &[])["code"], 0);
        let url = edge.rtsp_url("a");
        let player = RtspPlayer::start(edge.rtsp, &url, Lower::Tcp);
        let mut decoder = Decoder::start(&url);
        let go_on = |count: usize| player.wait_units(Kind::Video, player.pictures() + count);
        go_on(10);
        for round in 1..=4 {
            let update = [("key", &*key("a")), ("url", &*urls[round % 2])];
            let reply = edge.api("updateStreamProxy", &update);
            assert_eq!(reply["code"], 0, "{reply}");
            assert_eq!(url_of(&edge), urls[round % 2]);
            go_on(40);
        }
        let update = [("key", &*key("a")), ("urls", &*urls.join(";"))];
        assert_eq!(edge.api("updateStreamProxy", &update)["code"], 0);
        for round in 0..4 {
            go_on(20);
            let site = &sites[round % 2];
            let start = rillcast::clock::now();
            let port = site.relay.rtsp.port().to_string();
            let reply = site.relay.api("kick_sessions", &[("local_port", &port)]);
            assert_eq!(reply["count_hit"], 1, "{reply}");
            wait_until(LIVENESS, "the other source is in use", || {
                url_of(&edge) == urls[(round + 1) % 2] && edge.is_online("a")
            });
            go_on(20);
            assert!(start.elapsed() < GAP_MAX, "{:?}", start.elapsed());
        }
        decoder.assert_runs();
        player.look(|seen| assert_eq!(seen.end, None, "{file}"));
        let proxy = edge.proxy("a").expect("it is pulled");
        assert_eq!(proxy["rePullCount"], 4, "{proxy}");
        let recording = player.stop();
        assert_eq!(recording.tracks.len(), 2, "{file}");
        recording.tracks.iter().for_each(|track| track.assert_continuous(reorder_ms, GAP_MAX));
        edge.delete("a");
        edge.stop();
    }
}

#[test]
fn slow_source_does_not_hold_up_a_pull_that_hedges() {
    let (slow, fast) = (Origin::start(Mode::AcceptedSilent), Origin::start(Mode::Healthy));
    let edge = Relay::start_with(1, EDGE);
    let start = edge.holdings();
    let fast_url = fast.rtmp_url("a");
    let more = [("urls", &*fast_url), ("hedge_ms", "200"), ("timeout_sec", "60")];
    let begun = rillcast::clock::now();
    let reply = edge.add("a", &slow.rtmp_url("a"), &more);
    assert_eq!((&reply["code"], url_of(&edge)), (&0.into(), fast_url));
    assert!(begun.elapsed() < LIVENESS, "it waited for the slow one");
    slow.wait_all_closed(LIVENESS);
    assert_eq!((slow.count(), fast.count()), (1, 1));
    edge.delete("a");
    edge.assert_back_to(&start, "after the pull");
    edge.stop();
}

/// RTMP and RTSP of one stream, the next of which nobody listens for: all players go on, whichever form
/// there was when they came.
#[test]
fn source_of_another_form_takes_over_behind_one_that_refuses() {
    let site = Site::start("av.flv");
    let first = Origin::start(Mode::Healthy);
    let edge = Relay::start_with(2, EDGE);
    let dead = format!("rtsp://127.0.0.1:{}/live/a", kit::free_port());
    let urls = format!("{dead};{}", site.relay.rtsp_url("a"));
    assert_eq!(edge.add("a", &first.rtmp_url("a"), &[("urls", &*urls)])["code"], 0);
    let path = "/live/a.live.flv";
    let players = [Player::http_flv(edge.http, path), Player::rtmp(edge.rtmp, "live", "a")];
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 10));
    let mut of_packets = Vec::new();
    for round in 0..2 {
        kit::pause(Duration::from_millis(300));
        first.set(Mode::Refused);
        wait_until(LIVENESS, "the RTSP source", || {
            edge.is_online("a") && url_of(&edge).starts_with("rtsp")
        });
        players.iter().for_each(|player| player.wait_more_frames(Kind::Video, 10));
        let proxy = edge.proxy("a").expect("it is pulled");
        assert_eq!(proxy["sources"][1]["errorClass"], "refused", "{round}: {proxy}");
        of_packets.push(Decoder::start(&edge.rtsp_url("a")));
        let count = (players.len() + of_packets.len()) as u64;
        wait_until(LIVENESS, "a player of packets", || edge.ledger()["players"] == count);
        first.set(Mode::Healthy);
        let port = site.relay.rtsp.port().to_string();
        let reply = site.relay.api("kick_sessions", &[("local_port", &port)]);
        assert_eq!(reply["count_hit"], 1, "{reply}");
        wait_until(LIVENESS, "the RTMP source", || {
            edge.is_online("a") && url_of(&edge).starts_with("rtmp")
        });
        players.iter().for_each(|player| player.wait_more_frames(Kind::Video, 30));
        of_packets.iter_mut().for_each(Decoder::assert_runs);
        assert_eq!(edge.ledger()["players"], count);
    }
    for player in players {
        player.assert_open();
        let what = player.what().to_owned();
        assert_is_one_stream(&what, &player.stop());
    }
    edge.delete("a");
    edge.stop();
}

/// A source that is lost and replaced before players notice is no end of the stream for who is told of
/// those; one that is away for longer than players are kept is.
#[test]
fn a_stream_is_told_to_be_gone_when_its_players_are() {
    let origins = [Origin::start(Mode::Healthy), Origin::start(Mode::Healthy)];
    let config = kit::config::RETRY_SOON.to_owned() + &kit::config::grace_ms(3000);
    let relay = Relay::start_with(2, &config);
    let server = HookServer::start();
    let set = [
        ("hook.enable", "1"),
        ("hook.stream_changed_schemas", "rtmp"),
        ("hook.on_stream_changed", &server.url("on_stream_changed")),
        ("hook.on_proxy_state", &server.url("on_proxy_state")),
    ];
    assert_eq!(relay.api("setServerConfig", &set)["changed"], 4);
    let told = |hook: &str, of: &str| -> Vec<Value> {
        server.calls_of(hook).into_iter().map(|call| call.body[of].clone()).collect()
    };
    let urls = origins.each_ref().map(|origin| origin.rtmp_url("a"));
    assert_eq!(relay.add("a", &urls[0], &[("urls", &urls[1])])["code"], 0);
    let player = Player::http_flv(relay.http, "/live/a.live.flv");
    player.wait_frames(Kind::Video, 5);
    origins[0].set(Mode::Refused);
    server.wait("on_proxy_state", |body| body["state"] == "source_switched");
    player.wait_more_frames(Kind::Video, 5);
    player.assert_open();
    assert_eq!(told("on_stream_changed", "regist"), [true]);
    origins[1].set(Mode::Refused);
    server.wait("on_stream_changed", |body| body["regist"] == false);
    player.wait_end(LIVENESS);
    origins[0].set(Mode::Healthy);
    wait_until(LIVENESS, "it is told to be back", || {
        told("on_stream_changed", "regist").len() == 3
    });
    assert_eq!(told("on_stream_changed", "regist"), [true, false, true]);
    let states = told("on_proxy_state", "state");
    let count = |state: &str| states.iter().filter(|of| *of == state).count();
    assert_eq!((count("pending"), count("registered")), (1, 3), "{states:?}");
    assert!(count("retrying") >= 2, "{states:?}");
    relay.stop();
}

/// ffmpeg that records a stream over RTSP as it is: pictures in one file, sound in another.
struct Recorder {
    process: Process,
    dir: TempDir,
}

impl Recorder {
    fn start(url: &str, lower: Lower) -> Self {
        let dir = TempDir::new("recorder");
        let mut command = Command::new(Modern::No.program());
        command.args(["-hide_banner", "-nostdin", "-loglevel", "warning"]);
        command.args(["-rtsp_transport", lower.name(), "-i", url]);
        for (map, format) in [("0:v", "h264"), ("0:a", "adts")] {
            command.args(["-map", map, "-c", "copy", "-f", format, "-y"]).arg(dir.file(format));
        }
        command.stdout(Stdio::null());
        let process = Process::start("ffmpeg -c copy", &mut command, dir.file("stderr.log"));
        Self { process, dir }
    }

    /// It has not ended by itself, and all that it has can be decoded.
    #[track_caller]
    fn stop_and_decode(mut self) {
        assert!(self.process.is_running(), "ffmpeg has ended: {}", self.process.log());
        self.process.terminate(LIVENESS);
        for format in ["h264", "adts"] {
            let format_of_input = if format == "adts" { "aac" } else { format };
            let mut command = Command::new(Modern::No.program());
            command.args(["-hide_banner", "-nostdin", "-loglevel", "error", "-xerror"]);
            command.args(["-f", format_of_input, "-i"]).arg(self.dir.file(format));
            let output = command.args(["-f", "null", "-"]).output().expect("ffmpeg");
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{format}: {text}");
        }
    }
}

/// The one player of a site is the edge.
#[track_caller]
fn kick_player(relay: &Relay) {
    let mut schema = "rtmp";
    if relay.api("getMediaPlayerList", &player_list("rtmp"))["data"] == serde_json::json!([]) {
        schema = "rtsp";
    }
    let reply = relay.api("getMediaPlayerList", &player_list(schema));
    let id = reply["data"][0]["identifier"].as_str().unwrap_or_else(|| panic!("{reply}"));
    assert_eq!(relay.api("kick_session", &[("id", id)])["code"], 0);
}

fn player_list(schema: &str) -> [(&str, &str); 4] {
    [("schema", schema), ("vhost", "__defaultVhost__"), ("app", "live"), ("stream", "a")]
}

/// Two sources of one stream with other parameter sets, lost in turn by an end and by silence, anywhere in
/// a GOP, and at last one that is killed and refuses from then on: nobody's connection closes, whatever it
/// plays.
fn lost_in_turn(schemes: [&str; 2]) {
    // The last one is killed for good.
    const ROUNDS: usize = 8;
    let mut sites = [Site::start("av.flv"), Site::start("demo.flv")];
    let edge = Relay::start_with(2, EDGE);
    let url_at = |site: usize| match schemes[site] {
        "rtsp" => sites[site].relay.rtsp_url("a"),
        _ => sites[site].relay.rtmp_url("a"),
    };
    let urls = [url_at(0), url_at(1)];
    let more = [("urls", &*urls[1]), ("media_timeout_ms", MEDIA_TIMEOUT_MS)];
    let reply = edge.add("a", &urls[0], &more);
    assert_eq!(reply["code"], 0, "{reply}");
    let url = edge.rtsp_url("a");
    let path = "/live/a.live.flv";
    let of_tags = [Player::http_flv(edge.http, path), Player::rtmp(edge.rtmp, "live", "a")];
    let lowers = [Lower::Tcp, Lower::Udp];
    let of_packets = lowers.map(|lower| RtspPlayer::start(edge.rtsp, &url, lower));
    let recorders = lowers.map(|lower| Recorder::start(&url, lower));
    let mut decoders = [Decoder::start(&url), Decoder::start(&edge.flv_url("a"))];
    let go_on = |count: usize| {
        of_tags.iter().for_each(|player| player.wait_more_frames(Kind::Video, count));
        for player in &of_packets {
            player.wait_units(Kind::Video, player.pictures() + count);
        }
    };
    go_on(50);
    let mut gaps = Vec::new();
    for round in 0..=ROUNDS {
        kit::pause(Duration::from_millis(fastrand::u64(0..700)));
        let source = url_of(&edge);
        let site = urls.iter().position(|url| *url == source).expect("one of them");
        let process = &mut sites[site].relay.process;
        let is_silent = round / 2 % 2 == 1;
        let start = rillcast::clock::now();
        match is_silent {
            true => process.signal(Signal::SIGSTOP),
            false if round == ROUNDS => process.kill(),
            false => kick_player(&sites[site].relay),
        }
        wait_until(LIVENESS, "the other source is in use", || {
            url_of(&edge) == urls[1 - site] && edge.is_online("a")
        });
        go_on(3);
        let detection = if is_silent { BY_SILENCE } else { AT_ONCE };
        assert!(
            start.elapsed() < detection + GOP + SLACK,
            "{:?} without {source}",
            start.elapsed()
        );
        gaps.extend(assert_gap(&of_tags, start, detection, &source));
        if is_silent {
            sites[site].relay.process.signal(Signal::SIGCONT);
        }
        go_on(20);
        decoders.iter_mut().for_each(Decoder::assert_runs);
    }
    assert_usual_gap(gaps);
    let proxy = edge.proxy("a").expect("it is pulled");
    assert_lost(&proxy, ROUNDS + 1);
    recorders.into_iter().for_each(Recorder::stop_and_decode);
    for player in of_tags {
        player.assert_open();
        let what = player.what().to_owned();
        assert_is_one_stream(&what, &player.stop());
    }
    for player in of_packets {
        player.look(|seen| assert_eq!(seen.end, None));
        let recording = player.stop();
        assert_eq!(recording.tracks.len(), 2);
        recording.tracks.iter().for_each(|track| track.assert_continuous(REORDER_MS, GAP_MAX));
    }
    edge.delete("a");
    edge.stop();
}

#[test]
fn players_do_not_notice_that_sources_of_two_forms_are_lost_in_turn() {
    lost_in_turn(["rtsp", "rtmp"]);
}

#[test]
fn players_do_not_notice_that_rtmp_sources_are_lost_in_turn() {
    lost_in_turn(["rtmp", "rtmp"]);
}

#[test]
fn players_do_not_notice_that_rtsp_sources_are_lost_in_turn() {
    lost_in_turn(["rtsp", "rtsp"]);
}
