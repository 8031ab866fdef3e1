//! The config file read again: validated first, and without a player noticing.

mod kit;

use std::fs;

use kit::ffmpeg::{Modern, Publisher};
use kit::flv::Kind;
use kit::{LIVENESS, Player, Relay, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn write(relay: &Relay, text: &str) {
    fs::write(relay.dir().file("rillcast.toml"), text).expect("the relay's config file");
}

/// Sends SIGHUP and waits for so many lines about it in the log.
fn hang_up(relay: &Relay, line: &str, count: usize) {
    relay.process.signal(Signal::SIGHUP);
    wait_until(LIVENESS, &format!("{line:?} in the log"), || {
        relay.log().matches(line).count() == count
    });
}

/// The ports that a control plane is told; `0` is a listener that is off.
#[track_caller]
fn assert_ports(relay: &Relay) {
    let data = relay.api("getServerConfig", &[])["data"][0].clone();
    for (name, address) in
        [("http.port", relay.http), ("rtmp.port", relay.rtmp), ("rtsp.port", relay.rtsp)]
    {
        assert_eq!(data[name], address.port().to_string(), "{name}");
    }
}

fn stream_wait(relay: &Relay) -> Value {
    relay.api("getServerConfig", &[])["data"][0]["general.maxStreamWaitMS"].clone()
}

#[test]
fn reload_changes_what_changed_and_no_player_drops() {
    let relay = Relay::start_with(2, "[stream]\nmax_stream_wait_ms = 9000\n");
    let _publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let path = "/live/a.live.flv";
    let players: Vec<Player> = (0..4)
        .flat_map(|_| {
            [
                Player::http_flv(relay.http, path),
                Player::ws_flv(relay.http, path),
                Player::rtmp(relay.rtmp, "live", "a"),
            ]
        })
        .collect();
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 5));
    assert_ports(&relay);
    relay.api("setServerConfig", &[("protocol.continue_push_ms", "4321")]);
    assert_ports(&relay);
    let read = "the config file is read again";
    write(&relay, "[stream]\nmax_stream_wait_ms = 8000\n[egress]\nlag_evict_ms = 14000\n");
    hang_up(&relay, read, 1);
    assert_eq!(stream_wait(&relay), "8000");
    assert_ports(&relay);
    // What is not valid is told with its place, and changes nothing.
    write(&relay, "[stream]\nmax_stream_wait_ms = 7000\ncontinue_push_ms = \"x\"\n");
    hang_up(&relay, "rillcast.toml:3:20", 1);
    let reply = relay.api("reloadConfig", &[]);
    assert_eq!(reply["code"], -1, "{reply}");
    assert!(reply["msg"].as_str().expect("why").contains("rillcast.toml:3:20"), "{reply}");
    assert_eq!(stream_wait(&relay), "8000");
    // The command line wins over the file, and a port waits for a restart.
    write(
        &relay,
        "[stream]\nmax_stream_wait_ms = 7000\n[api]\nsecret = \"x\"\n[log]\nfilter = \"warn\"\n[server]\nsteer_by_cpu = true\n",
    );
    let reply = relay.api("reloadConfig", &[]);
    let changed = json!(["egress.lag_evict_ms", "stream.max_stream_wait_ms"]);
    assert_eq!(reply["data"], json!({"changed": changed, "needsRestart": ["server.steer_by_cpu"]}));
    let config = relay.api("getServerConfig", &[])["data"][0].clone();
    assert_eq!(config["protocol.continue_push_ms"], "4321");
    // All of them play on.
    for player in &players {
        player.wait_more_frames(Kind::Video, 5);
        player.assert_open();
    }
    drop(players);
    relay.stop();
}

/// Origins, budgets and lists change and go under an added pull and one on demand that are played.
#[test]
fn reload_of_origins_and_lists_drops_no_player_of_what_is_up() {
    let origin = Relay::start(1);
    let _publishers = ["demanded", "added"].map(|stream| {
        let publisher = Publisher::start(Modern::No, "av.flv", &origin.rtmp_url(stream));
        origin.wait_online(stream);
        publisher
    });
    let url = format!("[[origin]]\nurl = \"rtmp://{}/{{app}}/{{stream}}\"\n", origin.rtmp);
    let edge = Relay::start_with(2, &url);
    let reply = edge.add("added", &origin.rtmp_url("added"), &[]);
    assert_eq!(reply["code"], 0, "{reply}");
    let players: Vec<Player> = ["demanded", "added"]
        .into_iter()
        .flat_map(|stream| {
            let path = format!("/live/{stream}.live.flv");
            [
                Player::http_flv(edge.http, &path),
                Player::ws_flv(edge.http, &path),
                Player::rtmp(edge.rtmp, "live", stream),
            ]
        })
        .collect();
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 5));
    let generations = || {
        ["demanded", "added"].map(|stream| {
            let proxy = edge.proxy(stream).expect("a pull");
            assert_eq!(proxy["state"], "registered", "{proxy}");
            proxy["generation"].clone()
        })
    };
    let before = generations();
    let other = "[[origin]]\nurl = \"rtmp://127.0.0.1:1/{app}/{stream}\"\npriority = 0\n";
    let steps = [
        format!("{other}{url}priority = 5\nweight = 7\ntimeout_ms = 700\n"),
        format!("{url}connects_max = 1\nconnects_per_second_max = 1\n"),
        "[access]\npublish_deny = \"loopback\"\npull_deny = \"loopback\"\n".to_owned(),
        "[access]\nplay_deny = \"loopback\"\n".to_owned(),
        String::new(),
    ];
    for step in &steps {
        write(&edge, step);
        let reply = edge.api("reloadConfig", &[]);
        assert_ne!(reply["data"]["changed"], json!([]), "{reply}");
        for player in &players {
            player.wait_more_frames(Kind::Video, 5);
            player.assert_open();
        }
        assert_eq!(generations(), before, "{step}");
        // Those to come go by it.
        let newcomer = Player::http_flv(edge.http, "/live/added.live.flv");
        wait_until(LIVENESS, "an answer", || newcomer.look(|seen| seen.status.is_some()));
        let is_denied = step.contains("play_deny");
        assert_eq!(newcomer.look(|seen| seen.status == Some(200)), !is_denied, "{step}");
    }
    assert_eq!(edge.metric("rillcast_demand_pulls_total"), 1);
    drop(players);
    edge.stop();
    origin.stop();
}

#[test]
fn changes_on_all_shards_at_once_are_all_kept() {
    let relay = Relay::start_with(2, "[stream]\nnone_reader_delay_ms = 9000\n");
    let keys = ["general.maxStreamWaitMS", "protocol.continue_push_ms", "general.mediaServerId"];
    let in_file = "general.streamNoneReaderDelayMS";
    for round in 0..20 {
        let value = (5000 + round).to_string();
        write(&relay, &format!("[stream]\nnone_reader_delay_ms = {value}\n"));
        let calls = keys.map(|key| relay.api.call_later("setServerConfig", &[(key, &value)]));
        let reload = relay.api.call_later("reloadConfig", &[]);
        for call in calls.into_iter().chain([reload]) {
            assert_eq!(call.join().expect("an answer")["code"], 0);
        }
        // Each call comes to a shard of the kernel's choice.
        for _ in 0..12 {
            let config = relay.api("getServerConfig", &[])["data"][0].clone();
            for key in keys.into_iter().chain([in_file]) {
                assert_eq!(config[key], value.as_str(), "{key} in round {round}");
            }
        }
    }
    relay.stop();
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let relay = Relay::start(1);
    assert_eq!(relay.api("reloadConfig", &[])["code"], -1);
    hang_up(&relay, "there is no config file", 2);
    relay.stop();
}
