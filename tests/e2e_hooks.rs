//! Web hooks with a real server: what it is told and asked, and what happens when it fails, stalls
//! and restarts.

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hmac::{Hmac, Mac};
use kit::fault::{Mode, Origin};
use kit::ffmpeg::{Modern, Publisher};
use kit::flv::Kind;
use kit::hook_server::{Call, TOLD};
use kit::http::{encode, request};
use kit::process::Process;
use kit::relay::{SECRET, add_params, key, label};
use kit::{Answer, HookServer, LIVENESS, Player, Relay, TempDir, wait_until};
use serde_json::{Value, json};
use sha2::Sha256;

/// Sets hooks on a running relay: their names, and more keys.
#[track_caller]
fn set_hooks(relay: &Relay, server: &HookServer, hooks: &[&str], more: &[(&str, &str)]) {
    let urls: Vec<(String, String)> =
        hooks.iter().map(|hook| (format!("hook.{hook}"), server.url(hook))).collect();
    let mut params: Vec<(&str, &str)> =
        urls.iter().map(|(name, url)| (name.as_str(), url.as_str())).collect();
    params.push(("hook.enable", "1"));
    params.extend(more);
    let reply = relay.api("setServerConfig", &params);
    assert_eq!(reply["code"], 0, "{reply}");
}

fn status_of(player: &Player) -> u16 {
    wait_until(LIVENESS, "an answer", || player.look(|seen| seen.status.is_some()));
    player.look(|seen| seen.status.expect("just seen"))
}

/// The calls of its client: a form with the secret in it.
fn post(relay: &Relay, name: &str, params: &[(&str, &str)]) -> Value {
    let body = encode(&[params, &[("secret", SECRET)]].concat());
    let line = format!("POST /index/api/{name}");
    let kind = "Content-Type: application/x-www-form-urlencoded";
    let reply = request(relay.http, &line, &[kind], body.as_bytes()).expect("a reply");
    reply.json()
}

/// What WVP-PRO does with a node, in its order (its `ZLMServerFactory` and `ZLMHttpHookListener`).
#[test]
fn wvp_pro_takes_a_node_and_its_hooks_act_at_once() {
    let relay = Relay::start(2);
    let server = HookServer::start();
    let config = post(&relay, "getServerConfig", &[])["data"][0].clone();
    for name in [
        "http.port",
        "http.sslport",
        "rtmp.port",
        "rtmp.sslport",
        "rtsp.port",
        "rtsp.sslport",
        "rtp_proxy.port",
    ] {
        assert!(config[name].as_str().is_some_and(|port| port.parse::<u16>().is_ok()), "{name}");
    }
    let interval = config["hook.alive_interval"].as_str().unwrap().parse::<f32>();
    assert!(interval.is_ok_and(|seconds| seconds > 0.0), "{config}");
    server.behave(|call| match call.hook.as_str() {
        "on_publish" => Answer::Json(json!({"code": 0, "msg": "success", "enable_audio": true,
            "enable_mp4": false, "mp4_max_second": null, "mp4_save_path": null})),
        "on_stream_none_reader" | "on_stream_not_found" => {
            // As for a pull that is to stay without players.
            Answer::Json(json!({"code": 0, "close": call.body["stream"] != "cam"}))
        }
        _ => Answer::Json(json!({"code": 0, "msg": "success"})),
    });
    let names = [
        "on_play",
        "on_publish",
        "on_server_started",
        "on_stream_changed",
        "on_stream_none_reader",
        "on_stream_not_found",
        "on_server_keepalive",
        "on_send_rtp_stopped",
        "on_rtp_server_timeout",
        "on_record_mp4",
    ];
    let urls: Vec<(String, String)> =
        names.iter().map(|hook| (format!("hook.{hook}"), server.url(hook))).collect();
    let mut params: Vec<(&str, &str)> =
        urls.iter().map(|(name, url)| (name.as_str(), url.as_str())).collect();
    params.extend([
        ("hook.enable", "1"),
        ("hook.timeoutSec", "30"),
        ("hook.alive_interval", "0.2"),
        ("general.mediaServerId", "edge-1"),
        ("general.streamNoneReaderDelayMS", "100"),
        ("protocol.continue_push_ms", "3000"),
        ("rtp_proxy.port_range", "40000,45000"),
    ]);
    let reply = post(&relay, "setServerConfig", &params);
    assert_eq!((&reply["code"], &reply["changed"]), (&json!(0), &json!(params.len())), "{reply}");
    assert_eq!(post(&relay, "setServerConfig", &params)["changed"], 0);
    // It goes on without one where it is told so: what it has set acts.
    let restart = post(&relay, "restartServer", &[]);
    assert_eq!(restart["code"], -1, "{restart}");
    assert!(restart["msg"].is_string(), "{restart}");

    // It is alive as long as these come.
    let alive = server.wait("on_server_keepalive", |_| true);
    assert_eq!(alive.body["mediaServerId"], "edge-1", "{alive:?}");
    assert!(alive.body["data"]["Socket"].is_u64(), "{alive:?}");
    wait_until(LIVENESS, "a second sign of life", || {
        server.calls_of("on_server_keepalive").len() > 1
    });

    let mut publisher =
        Publisher::start(Modern::No, "av.flv", &format!("{}?sign=x", relay.rtmp_url("a")));
    let asked = server.wait("on_publish", |body| body["stream"] == "a");
    for (name, value) in [
        ("app", json!("live")),
        ("schema", json!("rtmp")),
        ("protocol", json!("rtmp")),
        ("vhost", json!("__defaultVhost__")),
        ("params", json!("sign=x")),
        ("ip", json!("127.0.0.1")),
        ("originType", json!(1)),
    ] {
        assert_eq!(asked.body[name], value, "{name}: {asked:?}");
    }
    assert!(asked.body["id"].is_string() && asked.body["port"].is_u64(), "{asked:?}");
    let up =
        server.wait("on_stream_changed", |body| body["regist"] == true && body["schema"] == "rtsp");
    assert_eq!(up.body["stream"], "a");
    assert!(up.body["tracks"].is_array() && up.body["originTypeStr"] == "rtmp_push", "{up:?}");

    let player = Player::http_flv(relay.http, "/live/a.live.flv?callId=1");
    player.wait_frames(Kind::Video, 5);
    let asked = server.wait("on_play", |body| body["stream"] == "a");
    assert_eq!(
        (&asked.body["params"], &asked.body["protocol"]),
        (&json!("callId=1"), &json!("http"))
    );
    drop(player);

    // Nobody is left, and the answer closes it.
    server.wait("on_stream_none_reader", |body| body["stream"] == "a");
    let down = server
        .wait("on_stream_changed", |body| body["regist"] == false && body["schema"] == "rtsp");
    assert_eq!(down.body["stream"], "a");
    assert!(publisher.wait_end(), "the publisher is sent away");

    // Its pulls: only the schema rtsp counts, and a new URL is a close and an add right behind it.
    let origins = [Origin::start(Mode::Healthy), Origin::start(Mode::Healthy)];
    let mut key = Value::Null;
    for origin in &origins {
        let url = origin.rtmp_url("a");
        let target = [("vhost", "__defaultVhost__"), ("app", "live"), ("stream", "cam")];
        let media = [&target[..], &[("schema", "rtsp")]].concat();
        assert_ne!(post(&relay, "getMediaInfo", &media)["originUrl"], json!(url));
        let close = [&target[..], &[("force", "1")]].concat();
        assert_eq!(post(&relay, "close_streams", &close)["code"], 0);
        let add = [
            &target[..],
            &[
                ("url", url.as_str()),
                ("enable_audio", "1"),
                ("enable_mp4", "0"),
                ("rtp_type", "0"),
                ("timeout_sec", "10"),
            ],
        ]
        .concat();
        let added = post(&relay, "addStreamProxy", &add);
        assert_eq!(added["code"], 0, "{added}");
        key = added["data"]["key"].clone();
        let is_up = || post(&relay, "getMediaInfo", &media)["originUrl"] == json!(url);
        wait_until(LIVENESS, "the wanted URL in the schema rtsp", is_up);
    }
    let told = || -> Vec<bool> {
        let calls = server.calls_of("on_stream_changed").into_iter();
        let calls =
            calls.filter(|call| call.body["stream"] == "cam" && call.body["schema"] == "rtsp");
        calls.map(|call| call.body["regist"] == true).collect()
    };
    wait_until(LIVENESS, "both lives of it", || told().len() >= 3);
    let deleted = post(&relay, "delStreamProxy", &[("key", key.as_str().expect("a key"))]);
    assert_eq!(deleted["code"], 0, "{deleted}");
    wait_until(LIVENESS, "its end", || told().len() == 4);
    assert_eq!(told(), [true, false, true, false]);

    // Nobody brings it, and the answer sends who waits away at once.
    let waiter = Player::http_flv(relay.http, "/live/absent.live.flv?token=7");
    let missing = server.wait("on_stream_not_found", |body| body["stream"] == "absent");
    assert_eq!(
        (&missing.body["params"], &missing.body["ip"]),
        (&json!("token=7"), &json!("127.0.0.1"))
    );
    assert_eq!(status_of(&waiter), 404);
    drop(waiter);
    relay.stop();
}

#[test]
fn a_hook_brings_the_stream_that_a_player_waits_for() {
    let relay = Relay::start(2);
    let server = HookServer::start();
    let origin = Origin::start(Mode::Healthy);
    let (api, url) = (relay.api.clone(), origin.rtmp_url("a"));
    server.behave(move |call| {
        if call.hook == "on_stream_not_found" {
            let stream = call.body["stream"].as_str().expect("a stream");
            let params = add_params(stream, &url, &[("async", "1")]);
            assert_eq!(api.call("addStreamProxy", &params)["code"], 0);
        }
        Answer::Json(json!({"code": 0}))
    });
    set_hooks(&relay, &server, &["on_stream_not_found", "on_proxy_state"], &[]);
    let player = Player::http_flv(relay.http, "/live/wanted.live.flv");
    player.wait_frames(Kind::Video, 5);
    server.wait("on_proxy_state", |body| body["state"] == "registered");
    let states: Vec<Value> = server
        .calls_of("on_proxy_state")
        .into_iter()
        .map(|call| call.body["state"].clone())
        .collect();
    assert_eq!(states, ["pending", "registered"]);
    drop(player);
    relay.stop();
}

/// The calls of each stream, in the order in which they came.
fn calls_by_stream(server: &HookServer) -> BTreeMap<String, Vec<Call>> {
    let mut streams = BTreeMap::new();
    for call in server.calls_of("on_proxy_state") {
        let stream = call.body["stream"].as_str().expect("a stream").to_owned();
        streams.entry(stream).or_insert_with(Vec::new).push(call);
    }
    streams
}

fn sequence_of(call: &Call) -> u64 {
    call.body["sequence"].as_u64().expect("a sequence")
}

/// A thousand lives of streams, six calls in a hundred of which fail or are not answered, and a server that
/// is down for a quarter of them.
#[test]
fn a_server_that_fails_stalls_and_restarts_is_told_everything_in_order() {
    const STREAMS: usize = 50;
    const CYCLES: usize = 20;
    let relay = Relay::start(2);
    let mut server = HookServer::start();
    let origin = Origin::start(Mode::Refused);
    let count = AtomicUsize::new(0);
    server.behave(move |_| match count.fetch_add(1, Ordering::Relaxed) % 100 {
        3 => Answer::Status(500),
        // Of a proxy whose server is being changed, and of one that sends us elsewhere.
        23 => Answer::Status(404),
        43 => Answer::Status(302),
        46 | 66 => Answer::Close,
        88 => Answer::Stall(Duration::from_millis(700)),
        _ => Answer::Json(json!({"code": 0})),
    });
    let soon = [("hook.timeoutSec", "0.4"), ("hook.retry_delay", "0.1")];
    set_hooks(&relay, &server, &["on_proxy_state"], &soon);
    let mut ended = 0;
    for cycle in 0..CYCLES {
        for number in 0..STREAMS {
            let stream = format!("s{number}");
            let reply = relay.add(&stream, &origin.rtmp_url(&stream), &[("async", "1")]);
            assert_eq!(reply["code"], 0, "the API does not wait for hooks: {reply}");
            ended += usize::from(relay.delete(&stream)["data"]["flag"] == true);
        }
        match cycle {
            7 => server.stop(),
            12 => server.restart(),
            _ => {}
        }
    }
    let taken_ends = || -> usize {
        let calls = server.calls_of("on_proxy_state").into_iter();
        let of_end = calls.filter(|call| call.is_taken && call.body["state"] == "ended");
        of_end.map(|call| sequence_of(&call)).collect::<BTreeSet<_>>().len()
    };
    wait_until(Duration::from_secs(60), "all ends are told", || taken_ends() == ended);
    let mut repeated = 0;
    for (stream, calls) in calls_by_stream(&server) {
        // Each call of it that came, also those that were answered with a failure or not at all.
        let mut bodies: BTreeMap<u64, Value> = BTreeMap::new();
        let (mut newest, mut is_taken) = (0, true);
        for call in calls {
            let sequence = sequence_of(&call);
            let mut body = call.body.clone();
            body.as_object_mut().expect("an object").remove("hook_index");
            assert_eq!(body["lost"], 0, "{stream}");
            match bodies.get(&sequence) {
                // What failed, or whose answer was lost, comes again as it was.
                Some(first) => {
                    repeated += 1;
                    assert_eq!((first, sequence), (&body, newest), "{stream}");
                }
                None => {
                    assert!(sequence > newest, "{stream}: {sequence} after {newest}");
                    assert!(is_taken, "{stream}: {sequence} before {newest} was taken");
                }
            }
            (newest, is_taken) = (sequence, call.is_taken);
            bodies.insert(sequence, body);
        }
        assert!(is_taken, "{stream}");
        let states: Vec<&str> =
            bodies.values().map(|body| body["state"].as_str().unwrap_or_default()).collect();
        let life_begins = states.iter().filter(|state| **state == "pending").count();
        assert_eq!(life_begins, CYCLES, "{stream}: {states:?}");
        assert!(states.windows(2).all(|pair| pair != ["ended", "ended"]), "{stream}: {states:?}");
    }
    assert!(repeated > 0, "something failed and came again");
    let calls = server.calls_of("on_proxy_state");
    let connections = calls.iter().map(|call| call.connection).collect::<BTreeSet<_>>();
    assert!(connections.len() < calls.len(), "connections are kept");
    assert!(relay.metric("rillcast_hook_calls_total") > 0);
    relay.stop();
}

/// A handler that never answers for one stream, and nothing else that would show that its server is there.
#[test]
fn a_call_that_is_never_answered_holds_up_its_own_stream_alone() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let relay = Relay::start(2);
    let server = HookServer::start();
    let origin = Origin::start(Mode::Refused);
    server.behave(|call| match call.body["stream"] == "stalled" {
        true => Answer::Stall(LIVENESS * 3),
        false => Answer::Json(json!({"code": 0})),
    });
    set_hooks(&relay, &server, &["on_proxy_state"], &[("hook.timeoutSec", "2")]);
    let add = |stream: &str| {
        let reply = relay.add(stream, &origin.rtmp_url(stream), &[("async", "1")]);
        assert_eq!(reply["code"], 0, "{reply}");
    };
    let sequences_of = |stream: &str| -> Vec<u64> {
        let calls = server.calls_of("on_proxy_state").into_iter();
        calls.filter(|call| call.body["stream"] == stream).map(|call| sequence_of(&call)).collect()
    };
    add("stalled");
    wait_until(LIVENESS, "its second try", || sequences_of("stalled").len() == 2);
    let others: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    for stream in &others {
        add(stream);
        relay.delete(stream);
    }
    let is_told = |stream: &String| {
        let of_end = |body: &Value| body["stream"] == *stream && body["state"] == "ended";
        server.calls_of("on_proxy_state").iter().any(|call| call.is_taken && of_end(&call.body))
    };
    wait_until(TIMEOUT * 2, "the others are told", || others.iter().all(is_told));
    let stalled = sequences_of("stalled");
    assert!(stalled.iter().all(|&sequence| sequence == stalled[0]), "in order: {stalled:?}");
    relay.stop();
}

/// Calls that were not taken.
fn failures(relay: &Relay) -> u64 {
    let samples = relay.samples("rillcast_hook_calls_total").into_iter();
    let failed = samples.filter(|(labels, _)| label(labels, "result") == "failed");
    failed.map(|(_, count)| count).sum()
}

/// All that is told goes to one server, which says nothing, ends connections, fails, and is not there.
/// Nobody else waits for it: whoever did would do so for its whole timeout at least.
#[test]
fn a_dead_hook_server_delays_no_media_and_no_api_call() {
    const TIMEOUT: Duration = Duration::from_secs(120);
    /// Far below that, and far above what a busy machine takes.
    const DELAY_MAX: Duration = Duration::from_secs(10);
    let relay = Relay::start(2);
    let mut server = HookServer::start();
    let origin = Origin::start(Mode::Healthy);
    let seconds = TIMEOUT.as_secs().to_string();
    let set = [("hook.timeoutSec", seconds.as_str()), ("hook.alive_interval", "0.2")];
    set_hooks(&relay, &server, &TOLD, &set);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let player = Player::http_flv(relay.http, "/live/a.live.flv");
    player.wait_frames(Kind::Video, 10);
    let call = |name: &str, params: &[(&str, &str)]| {
        let start = rillcast::clock::now();
        let reply = relay.api(name, params);
        let took = start.elapsed();
        assert!(took < DELAY_MAX, "{name} took {took:?}");
        assert_eq!(reply["code"], 0, "{name}: {reply}");
        reply
    };
    let mut names = Vec::new();
    let mut change = |phase: &str, number: usize| {
        let stream = format!("{phase}{number}");
        let url = origin.rtmp_url(&stream);
        call("addStreamProxy", &add_params(&stream, &url, &[("async", "1")]));
        call("getMediaList", &[("stream", &stream)]);
        call("delStreamProxy", &[("key", &key(&stream))]);
        names.push(stream);
    };
    // `in_vain` counts calls that were not taken.
    let mut live = |phase: &str, in_vain: &dyn Fn() -> u64| {
        let before = in_vain();
        change(phase, 0);
        wait_until(LIVENESS, "it is called in vain", || in_vain() > before);
        let start = rillcast::clock::now();
        (1..10).for_each(|number| change(phase, number));
        // Who comes now is served now, and who plays goes on.
        let newcomer = Player::http_flv(relay.http, "/live/a.live.flv");
        newcomer.wait_frames(Kind::Video, 5);
        newcomer.stop();
        player.wait_more_frames(Kind::Video, 50);
        let gap = player.longest_gap(start);
        assert!(gap < DELAY_MAX, "{phase}: no picture for {gap:?}");
    };
    server.behave(|_| Answer::Stall(TIMEOUT * 2));
    live("stalled", &|| server.calls_of("on_proxy_state").len() as u64);
    server.behave(|_| Answer::Close);
    // Ends the calls that are under way.
    server.restart();
    live("closed", &|| failures(&relay));
    server.behave(|_| Answer::Status(503));
    live("failed", &|| failures(&relay));
    server.stop();
    live("gone", &|| failures(&relay));
    server.behave(|_| Answer::Json(json!({"code": 0})));
    server.restart();
    let taken = || -> BTreeSet<String> {
        let calls = server.calls_of("on_proxy_state").into_iter();
        let of_end = calls.filter(|call| call.is_taken && call.body["state"] == "ended");
        of_end.filter_map(|call| call.body["stream"].as_str().map(str::to_owned)).collect()
    };
    wait_until(LIVENESS * 2, "all is told", || {
        let taken = taken();
        names.iter().all(|name| taken.contains(name))
    });
    player.assert_open();
    player.stop();
    publisher.stop();
    relay.stop();
}

#[test]
fn a_denied_player_or_publisher_is_told_so_in_its_own_protocol() {
    let relay = Relay::start(2);
    let server = HookServer::start();
    server.behave(|_| Answer::Json(json!({"code": -1, "msg": "not you"})));
    set_hooks(&relay, &server, &["on_play", "on_publish"], &[]);
    let player = Player::http_flv(relay.http, "/live/a.live.flv");
    assert_eq!(status_of(&player), 401);
    let player = Player::ws_flv(relay.http, "/live/a.live.flv");
    assert!(matches!(player.wait_end(LIVENESS), kit::player::End::WebSocket(4401, _)));
    for (peer, code) in [
        (Player::rtmp(relay.rtmp, "live", "a"), "NetStream.Play.BadAuth"),
        (Player::rtmp_publish(relay.rtmp, "live", "a"), "NetStream.Publish.BadAuth"),
    ] {
        wait_until(LIVENESS, code, || peer.look(|seen| seen.codes.iter().any(|have| have == code)));
    }
    assert_eq!(relay.ledger()["streams"], 0);
    relay.stop();
}

/// ffmpeg over RTSP, interleaved.
fn ffmpeg(name: &str, args: &[&str], dir: &TempDir) -> Process {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostdin", "-loglevel", "warning"]).args(args);
    command.stdout(Stdio::null());
    Process::start(name, &mut command, dir.file(&format!("{name}.log")))
}

#[test]
fn rtsp_is_asked_about_and_told_in_both_schemas() {
    let relay = Relay::start(2);
    let server = HookServer::start();
    server.behave(|_| Answer::Json(json!({"code": 0})));
    let hooks = ["on_play", "on_publish", "on_stream_changed", "on_flow_report"];
    let more = [("general.flowThreshold", "0"), ("protocol.continue_push_ms", "1000")];
    set_hooks(&relay, &server, &hooks, &more);
    let dir = TempDir::new("rtsp");
    let file = kit::media("av.flv").display().to_string();
    let tcp = ["-rtsp_transport", "tcp"];
    // Two keys, so that one of the publishers may move to the other shard after the verdict.
    let urls = ["a", "b"].map(|stream| format!("{}?sign=x", relay.rtsp_url(stream)));
    let mut publishers = urls.each_ref().map(|url| {
        let input = ["-re", "-stream_loop", "-1", "-i", &file, "-c", "copy", "-f", "rtsp"];
        ffmpeg("publisher", &[&input[..], &tcp, &[url.as_str()]].concat(), &dir)
    });
    for stream in ["a", "b"] {
        let asked = server.wait("on_publish", |body| body["stream"] == stream).body;
        for (name, value) in [
            ("schema", json!("rtsp")),
            ("protocol", json!("rtsp")),
            ("params", json!("sign=x")),
            ("originType", json!(2)),
        ] {
            assert_eq!(asked[name], value, "{name}: {asked}");
        }
        for schema in ["rtmp", "rtsp"] {
            server.wait("on_stream_changed", |body| {
                body["stream"] == stream && body["schema"] == schema && body["regist"] == true
            });
        }
    }

    let play = ["-i", &urls[0], "-map", "0:v", "-frames:v", "5", "-f", "null", "-"];
    let mut player = ffmpeg("player", &[&tcp[..], &play].concat(), &dir);
    let asked = server.wait("on_play", |body| body["stream"] == "a").body;
    assert_eq!((&asked["protocol"], &asked["params"]), (&json!("rtsp"), &json!("sign=x")));
    let status = player.wait(LIVENESS);
    assert!(status.is_some_and(|status| status.success()), "{}", player.log());
    let flow = server.wait("on_flow_report", |body| body["player"] == true).body;
    assert_eq!((&flow["id"], &flow["schema"]), (&asked["id"], &json!("rtsp")), "{flow}");
    assert!(flow["totalBytes"].as_u64().is_some_and(|bytes| bytes > 1000), "{flow}");

    publishers.iter_mut().for_each(Process::kill);
    for stream in ["a", "b"] {
        server.wait("on_flow_report", |body| {
            body["player"] == false && body["stream"] == stream && body["schema"] == "rtsp"
        });
        for schema in ["rtmp", "rtsp"] {
            server.wait("on_stream_changed", |body| {
                body["stream"] == stream && body["schema"] == schema && body["regist"] == false
            });
        }
    }
    let reports = server.calls_of("on_flow_report");
    assert_eq!(reports.len(), 3, "each of them once: {reports:?}");
    relay.stop();
}

/// The status of the answer to an RTSP request.
fn rtsp_status(relay: &Relay, request: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(relay.rtsp).expect("a relay");
    socket.set_read_timeout(Some(LIVENESS)).unwrap();
    let len = body.len();
    write!(
        socket,
        "{request} {} RTSP/1.0\r\nCSeq: 1\r\nContent-Type: application/sdp\r\n\
         Content-Length: {len}\r\n\r\n{body}",
        relay.rtsp_url("a")
    )
    .expect("a request");
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).expect("an answer");
    line
}

#[test]
fn rtsp_is_denied() {
    let relay = Relay::start(2);
    let server = HookServer::start();
    server.behave(|_| Answer::Json(json!({"code": -1, "msg": "not you"})));
    set_hooks(&relay, &server, &["on_play", "on_publish"], &[]);
    let sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n\
               a=rtpmap:96 H264/90000\r\na=control:track0\r\n";
    for (request, body) in [("DESCRIBE", ""), ("ANNOUNCE", sdp)] {
        let status = rtsp_status(&relay, request, body);
        assert_eq!(status.trim_end(), "RTSP/1.0 403 Forbidden", "{request}");
    }
    assert_eq!((server.calls_of("on_play").len(), server.calls_of("on_publish").len()), (1, 1));
    assert_eq!(relay.ledger()["streams"], 0);
    relay.stop();
}

#[test]
fn without_an_answer_the_policy_decides_and_nothing_else_waits() {
    let relay = Relay::start(2);
    let server = HookServer::start();
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let before = Player::http_flv(relay.http, "/live/a.live.flv");
    before.wait_frames(Kind::Video, 5);
    server.behave(|_| Answer::Stall(Duration::from_secs(30)));
    let retry = [("hook.timeoutSec", "3"), ("hook.retry_delay", "0.1")];
    set_hooks(&relay, &server, &["on_play"], &retry);
    let waiting = Player::http_flv(relay.http, "/live/a.live.flv");
    server.wait("on_play", |_| true);
    // Meanwhile the API answers and media flows.
    assert!(relay.is_online("a"));
    before.wait_more_frames(Kind::Video, 5);
    assert_eq!(status_of(&waiting), 401);
    set_hooks(
        &relay,
        &server,
        &["on_play"],
        &[("hook.timeoutSec", "0.3"), ("hook.fail_open", "1")],
    );
    let open = Player::http_flv(relay.http, "/live/a.live.flv");
    open.wait_frames(Kind::Video, 5);
    server.behave(|call| {
        let is_known = call.body["params"] == "token=good";
        Answer::Json(json!({"code": if is_known { 0 } else { 7 }}))
    });
    set_hooks(
        &relay,
        &server,
        &["on_play"],
        &[("hook.timeoutSec", "10"), ("hook.verdict_cache_ms", "60000")],
    );
    let asked = server.calls_of("on_play").len();
    for _ in 0..3 {
        let player = Player::http_flv(relay.http, "/live/a.live.flv?token=good");
        player.wait_frames(Kind::Video, 1);
        let player = Player::http_flv(relay.http, "/live/a.live.flv?token=bad");
        assert_eq!(status_of(&player), 401);
    }
    assert_eq!(server.calls_of("on_play").len() - asked, 2, "answers are remembered");
    publisher.stop();
    relay.stop();
}

#[test]
fn start_and_end_of_the_node_are_told_and_signed() {
    let server = HookServer::start();
    let config = format!(
        "[hook]\nenable = true\nhmac_secret = \"k3y\"\non_server_started = \"{}\"\n\
         on_server_exited = \"{}\"\non_stream_changed = \"{}\"\n",
        server.url("on_server_started"),
        server.url("on_server_exited"),
        server.url("on_stream_changed"),
    );
    let relay = Relay::start_with(1, &config);
    let port = relay.http.port().to_string();
    let started = server.wait("on_server_started", |_| true);
    assert_eq!(
        (&started.body["http.port"], &started.body["api.secret"]),
        (&json!(port), &json!(SECRET))
    );
    let _publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    relay.stop();
    let calls = server.calls();
    let told: Vec<(&str, &Value)> =
        calls.iter().map(|call| (call.hook.as_str(), &call.body["regist"])).collect();
    for expected in [("on_stream_changed", true), ("on_stream_changed", false)] {
        assert!(told.contains(&(expected.0, &json!(expected.1))), "{expected:?} in {told:?}");
    }
    assert!(told.iter().any(|(hook, _)| *hook == "on_server_exited"), "{told:?}");
    for call in calls {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"k3y").expect("any length is a key");
        let time = call.timestamp.clone().expect("a time");
        mac.update(format!("{time}.").as_bytes());
        mac.update(&call.raw);
        assert!(!String::from_utf8_lossy(&call.raw).contains("k3y"), "{}", call.hook);
        let hex: String =
            mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(call.signature, Some(format!("sha256={hex}")), "{}", call.hook);
    }
}

/// Lives of streams, one call in seven of which fails.
#[test]
fn each_change_of_a_stream_is_told_in_order() {
    const STREAMS: usize = 5;
    const CYCLES: usize = 6;
    let relay = Relay::start(2);
    let server = HookServer::start();
    let origin = Origin::start(Mode::Healthy);
    let count = AtomicUsize::new(0);
    server.behave(move |_| match count.fetch_add(1, Ordering::Relaxed) % 14 {
        3 => Answer::Status(503),
        10 => Answer::Close,
        _ => Answer::Json(json!({"code": 0})),
    });
    let only = [("hook.stream_changed_schemas", "rtmp")];
    set_hooks(&relay, &server, &["on_stream_changed"], &only);
    for _ in 0..CYCLES {
        for number in 0..STREAMS {
            let stream = format!("s{number}");
            let reply = relay.add(&stream, &origin.rtmp_url(&stream), &[]);
            assert_eq!(reply["code"], 0, "{reply}");
        }
        for number in 0..STREAMS {
            assert_eq!(relay.delete(&format!("s{number}"))["data"]["flag"], true);
        }
    }
    let taken = |stream: &str| -> Vec<Call> {
        let calls = server.calls_of("on_stream_changed").into_iter();
        calls.filter(|call| call.is_taken && call.body["stream"] == stream).collect()
    };
    for number in 0..STREAMS {
        let stream = format!("s{number}");
        wait_until(LIVENESS, "each change", || taken(&stream).len() >= 2 * CYCLES);
        let told = taken(&stream);
        let is_up: Vec<bool> = told.iter().map(|call| call.body["regist"] == true).collect();
        assert_eq!(is_up, [true, false].repeat(CYCLES), "{stream}");
        assert!(told.is_sorted_by_key(sequence_of), "{stream}");
    }
    let calls = server.calls_of("on_stream_changed");
    assert!(calls.iter().any(|call| !call.is_taken), "some have failed");
    relay.stop();
}
