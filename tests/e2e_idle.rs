//! Streams that nobody plays: who counts as a player, when they are closed, and who decides.

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kit::fault::{Mode, Origin};
use kit::flv::Kind;
use kit::rtsp::Lower;
use kit::rtsp_player::RtspPlayer;
use kit::{Answer, HookServer, LIVENESS, Player, Relay, TempDir, pause, wait_until};
use serde_json::json;

/// Streams whose end shows that their shards have looked for idle ones. Which shard has which nobody
/// tells; all of them are on one of two in one run of 2,000.
const UNPLAYED: usize = 12;

#[track_caller]
fn wait_gone(relay: &Relay, stream: &str) {
    let what = format!("{stream} is closed");
    wait_until(LIVENESS, &what, || relay.proxy(stream).is_none() && !relay.is_online(stream));
}

/// Returns when streams have come, were played by nobody for so long, and were closed: then whatever was
/// there before them has stood the same look with the same idle time, however slow this host is.
#[track_caller]
fn wait_for_looks(relay: &Relay, origin: &Origin, idle_close_ms: &str) {
    let streams: Vec<String> = (0..UNPLAYED).map(|number| format!("unplayed{number}")).collect();
    let more = [("idle_close_ms", idle_close_ms), ("async", "1")];
    for stream in &streams {
        assert_eq!(relay.add(stream, &origin.rtmp_url("a"), &more)["code"], 0);
    }
    for stream in &streams {
        wait_gone(relay, stream);
        assert_eq!(end_of(relay, stream), "closed idle");
    }
}

/// The reason of the last event of a stream.
#[track_caller]
fn end_of(relay: &Relay, stream: &str) -> String {
    let key = kit::relay::key(stream);
    let events = relay.api("why", &[("key", &key)])["data"]["events"].clone();
    let last = events.as_array().expect("events").last().expect("an event").clone();
    format!("{} {}", last["event"].as_str().unwrap(), last["reason"].as_str().unwrap())
}

#[test]
fn idle_pull_is_closed_and_the_others_stay() {
    let origin = Origin::start(Mode::Healthy);
    let relay = Relay::start_with(2, "[stream]\nnone_reader_delay_ms = 300\n");
    relay.add("stays", &origin.rtmp_url("a"), &[]);
    relay.add("zero", &origin.rtmp_url("a"), &[("idle_close_ms", "0")]);
    relay.add("idle", &origin.rtmp_url("a"), &[("idle_close_ms", "500")]);
    relay.add("auto", &origin.rtmp_url("a"), &[("auto_close", "1")]);
    wait_gone(&relay, "idle");
    wait_gone(&relay, "auto");
    assert_eq!(end_of(&relay, "idle"), "closed idle");
    assert!(relay.is_online("stays") && relay.is_online("zero"));
    // ZLMediaKit's key, for streams that come after and those that are there.
    assert_eq!(relay.api("setServerConfig", &[("protocol.auto_close", "1")])["code"], 0);
    relay.add("kept", &origin.rtmp_url("a"), &[("auto_close", "0")]);
    relay.add("late", &origin.rtmp_url("a"), &[]);
    wait_gone(&relay, "late");
    assert!(relay.is_online("kept"));
    relay.delete("kept");
    relay.stop();
}

/// Over more shards than one, players are on other shards than the stream; over RTSP, a stream that
/// came as FLV is made into the other form for them.
#[test]
fn players_of_every_shard_and_form_keep_a_stream() {
    let origin = Origin::start(Mode::Healthy);
    let relay = Relay::start(2);
    let add = |stream: &str| {
        let reply = relay.add(stream, &origin.rtmp_url("a"), &[("idle_close_ms", "1500")]);
        assert_eq!(reply["code"], 0, "{reply}");
    };
    let flv: Vec<(String, Player)> = (0..6)
        .map(|number| {
            let stream = format!("flv{number}");
            add(&stream);
            let path = format!("/live/{stream}.live.flv");
            (stream, Player::http_flv(relay.http, &path))
        })
        .collect();
    add("rtsp");
    let rtsp = RtspPlayer::start(relay.rtsp, &relay.rtsp_url("rtsp"), Lower::Tcp);
    rtsp.wait_units(Kind::Video, 1);
    flv.iter().for_each(|(_, player)| player.wait_frames(Kind::Video, 1));
    wait_for_looks(&relay, &origin, "1500");
    for (stream, player) in &flv {
        assert!(relay.is_online(stream), "{stream}");
        player.assert_open();
    }
    assert!(relay.is_online("rtsp"));
    drop(rtsp);
    wait_gone(&relay, "rtsp");
    for (stream, player) in flv {
        drop(player);
        wait_gone(&relay, &stream);
    }
    relay.stop();
}

#[test]
fn player_that_comes_back_in_time_saves_the_stream() {
    let origin = Origin::start(Mode::Healthy);
    let relay = Relay::start(2);
    relay.add("a", &origin.rtmp_url("a"), &[("idle_close_ms", "9000")]);
    // Each is away for less than the idle time, all of them together for longer.
    for _ in 0..3 {
        Player::http_flv(relay.http, "/live/a.live.flv").wait_frames(Kind::Video, 2);
        pause(Duration::from_millis(3500));
        assert!(relay.is_online("a"));
    }
    wait_gone(&relay, "a");
    relay.stop();
}

#[test]
fn hook_decides_and_a_player_between_question_and_answer_saves_the_stream() {
    let origin = Origin::start(Mode::Healthy);
    let server = HookServer::start();
    let relay = Relay::start(2);
    let [close, asks, plays] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
    let (answer, is_asking, is_playing) = (close.clone(), asks.clone(), plays.clone());
    server.behave(move |call| match call.body["stream"].as_str() {
        Some("asked") => Answer::Json(json!({"code": 0, "close": answer.load(Ordering::Relaxed)})),
        Some("saved") => {
            is_asking.store(true, Ordering::Relaxed);
            wait_until(LIVENESS, "a player has come", || is_playing.load(Ordering::Relaxed));
            Answer::Json(json!({"code": 0, "close": true}))
        }
        _ => Answer::Json(json!({"code": 0, "close": true})),
    });
    let url = server.url("on_stream_none_reader");
    let params = [
        ("hook.enable", "1"),
        ("hook.on_stream_none_reader", url.as_str()),
        ("hook.timeoutSec", "60"),
    ];
    assert_eq!(relay.api("setServerConfig", &params)["code"], 0);
    let idle = [("idle_close_ms", "200")];
    relay.add("asked", &origin.rtmp_url("a"), &idle);
    relay.add("saved", &origin.rtmp_url("a"), &idle);
    wait_until(LIVENESS, "the hook is asked", || asks.load(Ordering::Relaxed));
    let player = Player::http_flv(relay.http, "/live/saved.live.flv");
    player.wait_frames(Kind::Video, 2);
    plays.store(true, Ordering::Relaxed);
    let said = |stream: &str| {
        let calls = server.calls_of("on_stream_none_reader");
        calls.iter().filter(|call| call.is_taken && call.body["stream"] == stream).count()
    };
    wait_until(LIVENESS, "both are answered", || said("asked") == 1 && said("saved") == 1);
    wait_for_looks(&relay, &origin, "200");
    assert!(relay.is_online("asked"), "close:false");
    assert!(relay.is_online("saved"), "it has a player");
    player.assert_open();
    assert_eq!((said("asked"), said("saved")), (1, 1), "they are not asked again");
    // Somebody came and went: it is asked again.
    close.store(true, Ordering::Relaxed);
    Player::http_flv(relay.http, "/live/asked.live.flv").wait_frames(Kind::Video, 2);
    drop(player);
    for stream in ["asked", "saved"] {
        wait_gone(&relay, stream);
        assert_eq!((said(stream), end_of(&relay, stream).as_str()), (2, "closed idle"));
    }
    relay.stop();
}

/// Its server is not there, or refuses what it is told.
#[test]
fn idle_pulls_do_not_stay_for_a_hook_that_says_nothing() {
    let origin = Origin::start(Mode::Healthy);
    let source = Relay::start(1);
    source.add("a", &origin.rtmp_url("a"), &[]);
    let mut server = HookServer::start();
    server.behave(|_| Answer::Status(404));
    let url = server.url("on_stream_none_reader");
    let config = format!(
        "[stream]\nnone_reader_delay_ms = 200\n[hook]\nenable = true\ntimeout_ms = 300\n\
         on_stream_none_reader = \"{url}\"\n[[origin]]\nurl = \"rtmp://{}/{{app}}/a\"\n",
        source.rtmp
    );
    let relay = Relay::start_with(2, &config);
    for round in ["refused", "gone"] {
        let [stays, idle, demanded] =
            ["stays", "idle", "demanded"].map(|stream| format!("{round}_{stream}"));
        relay.add(&stays, &origin.rtmp_url("a"), &[]);
        relay.add(&idle, &origin.rtmp_url("a"), &[("idle_close_ms", "200")]);
        let path = format!("/live/{demanded}.live.flv");
        Player::http_flv(relay.http, &path).wait_frames(Kind::Video, 2);
        for stream in [&idle, &demanded] {
            wait_gone(&relay, stream);
            assert_eq!(end_of(&relay, stream), "closed idle");
        }
        assert!(relay.is_online(&stays), "the hook alone closes it");
        if round == "refused" {
            assert!(!server.calls_of("on_stream_none_reader").is_empty());
        }
        server.stop();
    }
    relay.stop();
    source.stop();
}

#[test]
fn idle_time_survives_a_restart_and_a_closed_pull_does_not() {
    let origin = Origin::start(Mode::Healthy);
    let dir = TempDir::new("idle");
    let config = format!("[server]\ndata_dir = {:?}\n", dir.path().join("data"));
    let relay = Relay::start_with(1, &config);
    let async_add = |stream: &str, idle_ms: &str| {
        let more = [("idle_close_ms", idle_ms), ("async", "1")];
        assert_eq!(relay.add(stream, &origin.rtmp_url("a"), &more)["code"], 0);
    };
    async_add("gone", "100");
    wait_gone(&relay, "gone");
    async_add("comes", "3000");
    relay.wait_online("comes");
    relay.stop();
    let relay = Relay::start_with(1, &config);
    assert!(relay.proxy("gone").is_none());
    relay.wait_online("comes");
    wait_gone(&relay, "comes");
    assert_eq!(end_of(&relay, "comes"), "closed idle");
    relay.stop();
}
