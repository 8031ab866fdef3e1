//! Thousands of pulls that never come up. Beside one stream that is live, on one shard: its players
//! lose nothing, the API answers, and all of them can be ended in one call. On two shards: deleted
//! by many callers while they are listed, and left pending when the relay is stopped.

mod kit;

use std::thread;
use std::time::Duration;

use kit::compare::{AtLeast, assert_same_media};
use kit::fault::{Mode, Origin};
use kit::ffmpeg::{Modern, Publisher};
use kit::flv::Kind;
use kit::{Api, LIVENESS, Player, Relay, wait_until};

const PULLS: usize = 2000;
const PULLS_OF_A_STORM: usize = 10_000;

/// Far above what a call takes, far below what a blocked shard would take.
const CALL_BOUND: Duration = Duration::from_secs(5);

/// Calls the API; it answers within the bound.
#[track_caller]
fn timed(api: &Api, name: &str, params: &[(&str, &str)]) -> serde_json::Value {
    let start = rillcast::clock::now();
    let reply = api.call(name, params);
    assert!(start.elapsed() < CALL_BOUND, "{name} took {:?}", start.elapsed());
    reply
}

/// Silent, refused, black-holed.
fn dead_origins() -> [Origin; 3] {
    [Mode::AcceptedSilent, Mode::Refused, Mode::SynDropped].map(Origin::start)
}

/// Adds so many pulls, a third of each kind, from four threads.
fn add_all(api: &Api, origins: &[Origin; 3], pulls: usize) {
    let urls = origins.each_ref().map(|origin| origin.rtmp_url("dead"));
    by_four(pulls, |number| {
        let stream = number.to_string();
        let params = [
            ("vhost", "__defaultVhost__"),
            ("app", "dead"),
            ("stream", &stream),
            ("url", &urls[number % urls.len()]),
            ("async", "1"),
            ("force", "1"),
        ];
        assert_eq!(timed(api, "addStreamProxy", &params)["code"], 0);
    });
}

fn by_four(count: usize, work: impl Fn(usize) + Sync) {
    let work = &work;
    thread::scope(|scope| {
        for first in 0..4 {
            scope.spawn(move || (first..count).step_by(4).for_each(work));
        }
    });
}

#[test]
fn dead_pulls_cost_a_live_stream_nothing() {
    let relay = Relay::start(1);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let players = [
        Player::http_flv(relay.http, "/live/a.live.flv"),
        Player::ws_flv(relay.http, "/live/a.live.flv"),
        Player::rtmp(relay.rtmp, "live", "a"),
    ];
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 10));
    let start = relay.holdings();
    let origins = dead_origins();
    add_all(&relay.api, &origins, PULLS);
    // A few seconds of retries, with a call now and then.
    for _ in 0..10 {
        let list = timed(&relay.api, "listStreamProxy", &[]);
        assert_eq!(list["data"].as_array().map(Vec::len), Some(PULLS));
        assert_eq!(timed(&relay.api, "getMediaList", &[])["code"], 0);
        kit::pause(Duration::from_millis(500));
    }
    // A stream can come and go as ever.
    let healthy = Origin::start(Mode::Healthy);
    assert_eq!(relay.add("b", &healthy.flv_url("b"), &[])["code"], 0);
    relay.wait_online("b");
    assert_eq!(relay.delete("b")["data"]["flag"], true);
    players.iter().for_each(|player| player.wait_more_frames(Kind::Video, 50));
    let reply = relay.api("close_streams", &[("app", "dead"), ("force", "1")]);
    assert_eq!(reply["count_closed"], PULLS, "{}", reply["msg"]);
    origins.iter().for_each(|origin| origin.wait_all_closed(LIVENESS));
    wait_until(LIVENESS, "no SYN is out", || {
        origins.iter().all(|origin| origin.half_open_count() == 0)
    });
    // The stream's own log grows and shrinks; everything else is as it was.
    wait_until(LIVENESS, "all is released", || {
        let mut now = relay.holdings_now();
        now.ledger.insert("log_bytes".to_owned(), start.ledger["log_bytes"]);
        now == start
    });
    let recordings = players.map(|player| (player.what().to_owned(), player.stop()));
    publisher.stop();
    let sent = publisher.sent();
    for (what, tags) in recordings {
        assert_same_media(&what, &sent, &tags, AtLeast { video: 150, audio: 150 });
    }
    relay.stop();
}

#[test]
fn ten_thousand_dead_pulls_come_and_go() {
    let relay = Relay::start(2);
    let start = relay.holdings();
    let table_len = descriptor_table_len(&relay);
    let origins = dead_origins();
    let count = |api: &Api| timed(api, "listStreamProxy", &[])["data"].as_array().map(Vec::len);
    add_all(&relay.api, &origins, PULLS_OF_A_STORM);
    assert_eq!(count(&relay.api), Some(PULLS_OF_A_STORM));
    // Half are deleted one by one, while they are listed.
    thread::scope(|scope| {
        scope.spawn(|| (0..20).for_each(|_| assert!(count(&relay.api) <= Some(PULLS_OF_A_STORM))));
        by_four(PULLS_OF_A_STORM / 2, |number| {
            let key = format!("__defaultVhost__/dead/{number}");
            let reply = timed(&relay.api, "delStreamProxy", &[("key", &key)]);
            assert_eq!(reply["data"]["flag"], true, "{key}: {reply}");
            assert_eq!(reply["data"]["released"]["complete"], true, "{key}: {reply}");
        });
    });
    assert_eq!(count(&relay.api), Some(PULLS_OF_A_STORM / 2));
    let reply = timed(&relay.api, "close_streams", &[("app", "dead"), ("force", "1")]);
    assert_eq!(reply["count_closed"], PULLS_OF_A_STORM / 2, "{}", reply["msg"]);
    assert_eq!(reply["released"]["complete"], true, "{}", reply["released"]);
    assert_eq!(count(&relay.api), Some(0));
    relay.assert_back_to(&start, "after the storm");
    origins.iter().for_each(|origin| origin.wait_all_closed(LIVENESS));
    add_all(&relay.api, &origins, PULLS_OF_A_STORM);
    // To grow it would have held up every shard (cli.rs).
    assert_eq!(descriptor_table_len(&relay), table_len);
    relay.stop();
    origins.iter().for_each(|origin| origin.wait_all_closed(LIVENESS));
}

/// `FDSize` of proc(5): slots for descriptors that the kernel has allocated.
fn descriptor_table_len(relay: &Relay) -> usize {
    let path = format!("/proc/{}/status", relay.process.child.id());
    let status = std::fs::read_to_string(path).expect("our child's status");
    let line = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    line.and_then(|rest| rest.trim().parse().ok()).expect("FDSize")
}
