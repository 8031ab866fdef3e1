//! What survives: pulls that the API acknowledged are there after `kill -9` at any moment, and those
//! that it acknowledged to be gone are not.

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use kit::camera::{Access, Camera, Habits};
use kit::fault::{Mode, Origin};
use kit::relay::{add_params, key, run};
use kit::{Api, LIVENESS, Player, Relay, TempDir, http, pause, wait_until};
use serde_json::Value;

/// Times that the relay is killed.
const KILLS: usize = 300;
const CALLERS: usize = 4;
const KEYS_OF_EACH: usize = 12;
/// Longest traffic before a kill.
const TRAFFIC_MS_MAX: u64 = 120;

/// By stream: the URLs that it may be pulled from; `None` where it may be absent.
type Allowed = BTreeMap<String, BTreeSet<Option<String>>>;

fn data_dir(dir: &TempDir) -> String {
    format!("[server]\ndata_dir = {:?}\n", dir.path().join("data"))
}

/// Calls the API; `None` when no whole reply came.
fn call(api: &Api, name: &str, params: &[(&str, &str)]) -> Option<Value> {
    let query = http::encode(&[params, &[("secret", &api.secret)]].concat());
    let line = format!("GET /index/api/{name}?{query}");
    Some(http::request(api.address, &line, &[], b"").ok()?.json())
}

/// Adds and deletes pulls of its own until the relay is gone.
fn traffic(api: &Api, seed: u64, allowed: &mut Allowed) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let streams: Vec<String> = allowed.keys().cloned().collect();
    for count in 0.. {
        let stream = &streams[random.usize(..streams.len())];
        let states = allowed.get_mut(stream).expect("one of ours");
        let is_absent = states.first().expect("known").is_none();
        let url = format!("rtmp://127.0.0.1:1/live/{:x}", random.u64(..));
        let new = is_absent.then(|| url.clone());
        states.insert(new.clone());
        let reply = match is_absent {
            true => call(api, "addStreamProxy", &add_params(stream, &url, &[("async", "1")])),
            false => call(api, "delStreamProxy", &[("key", &key(stream))]),
        };
        let Some(reply) = reply else { return count };
        assert_eq!(reply["code"], 0, "{reply}");
        assert!(is_absent || reply["data"]["flag"] == true, "{reply}");
        *states = BTreeSet::from([new]);
    }
    unreachable!("it ends with the relay")
}

/// The pulls by stream, with their URLs.
fn pulls(relay: &Relay) -> BTreeMap<String, String> {
    let list = relay.api("listStreamProxy", &[]);
    let rows = list["data"].as_array().expect("a list");
    let row = |row: &Value| {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        (text(&row["src"]["stream"]), text(&row["url"]))
    };
    rows.iter().map(row).collect()
}

#[test]
fn kill_at_any_moment_loses_no_acknowledged_add_and_brings_back_no_delete() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = TempDir::new("journal");
    let mut callers: Vec<Allowed> = (0..CALLERS)
        .map(|caller| {
            let streams = (0..KEYS_OF_EACH).map(|number| format!("{caller}-{number}"));
            streams.map(|stream| (stream, BTreeSet::from([None]))).collect()
        })
        .collect();
    let mut calls = 0;
    for kill in 0..=KILLS {
        let mut relay = Relay::start_with(1 + kill % 2, &data_dir(&dir));
        let found = pulls(&relay);
        for (stream, states) in callers.iter_mut().flatten() {
            let now = found.get(stream).cloned();
            assert!(states.contains(&now), "kill {kill}: {stream}: {now:?} not in {states:?}");
            *states = BTreeSet::from([now]);
        }
        assert!(found.len() <= CALLERS * KEYS_OF_EACH);
        if kill == KILLS {
            relay.stop();
            break;
        }
        let api = &relay.api.clone();
        let counted = Mutex::new(&mut calls);
        thread::scope(|scope| {
            for allowed in &mut callers {
                let (seed, counted) = (random.u64(..), &counted);
                scope.spawn(move || {
                    let count = traffic(api, seed, allowed);
                    **counted.lock().expect("no caller panics") += count;
                });
            }
            pause(Duration::from_millis(random.u64(..TRAFFIC_MS_MAX)));
            relay.process.kill();
        });
    }
    eprintln!("{calls} calls");
    assert!(calls > KILLS, "there was traffic: {calls}");
}

#[test]
fn restored_pull_plays_and_a_given_up_one_stays_away() {
    let dir = TempDir::new("journal");
    let origin = Origin::start(Mode::Healthy);
    let mut relay = Relay::start_with(2, &data_dir(&dir));
    // Acknowledged at its first media, and without `force`.
    let reply = relay.add("up", &origin.rtmp_url("a"), &[]);
    assert_eq!(reply["code"], 0, "{reply}");
    let reply = relay.add("gone", "rtmp://127.0.0.1:1/live/a", &[]);
    assert_eq!(reply["code"], -1, "{reply}");
    let reply = relay.add(
        "tried",
        "rtmp://127.0.0.1:1/live/a",
        &[("async", "1"), ("retry_count", "0"), ("timeout_sec", "7")],
    );
    assert_eq!(reply["code"], 0, "{reply}");
    wait_until(LIVENESS, "the pull is given up", || relay.proxy("tried").is_none());
    relay.add("closed", "rtmp://127.0.0.1:1/live/a", &[("async", "1")]);
    relay.api("close_streams", &[("stream", "closed"), ("force", "1")]);
    relay.process.kill();
    drop(relay);
    origin.set(Mode::Refused);

    let relay = Relay::start_with(1, &data_dir(&dir));
    assert_eq!(pulls(&relay).into_keys().collect::<Vec<_>>(), ["up"]);
    wait_until(LIVENESS, "it is tried", || {
        relay.proxy("up").is_some_and(|row| row["errorClass"] == "refused")
    });
    origin.set(Mode::Healthy);
    relay.wait_online("up");
    let player = Player::http_flv(relay.http, "/live/up.live.flv");
    player.wait_frames(kit::flv::Kind::Video, 5);
    // A shut-down is no delete.
    drop(player);
    relay.stop();
    let relay = Relay::start_with(1, &data_dir(&dir));
    assert_eq!(pulls(&relay).len(), 1);
    relay.delete("up");
    relay.stop();
    let relay = Relay::start_with(1, &data_dir(&dir));
    assert_eq!(pulls(&relay).len(), 0);
}

#[test]
fn logins_survive_a_crash_and_no_log_has_them() {
    let password = "p@ss:word";
    let dir = TempDir::new("journal");
    let camera = Camera::start(Habits { access: Some(Access::DigestMd5), ..Habits::default() });
    let other = Relay::start_with(1, &kit::config::rtsp_user("admin", password, false));
    let login = [("rtsp_user", "admin"), ("rtsp_pwd", password)];
    let mut relay = Relay::start_with(2, &data_dir(&dir));
    let reply = relay.add("a", &camera.url(), &login);
    assert_eq!(reply["code"], 0, "{reply}");
    let url = other.rtsp_url("out");
    let push = [("schema", "rtsp"), ("dst_url", url.as_str())];
    let params = add_params("a", &url, &[&push[..], &login].concat());
    let reply = relay.api("addStreamPusherProxy", &params);
    assert_eq!(reply["code"], 0, "{reply}");
    // Another login is another pull.
    let reply = relay.add("a", &camera.url(), &[("async", "1")]);
    assert_eq!(reply["msg"], "This stream already exists", "{reply}");
    relay.process.kill();
    let before = camera.connections().len();
    wait_until(LIVENESS, "the push is gone", || !other.is_online("out"));

    let relay = Relay::start_with(1, &data_dir(&dir));
    relay.wait_online("a");
    camera.wait_asked(before, "PLAY");
    other.wait_online("out");
    let events = relay.api("why", &[("key", &key("a"))]).to_string();
    for (what, text) in [("log", relay.log()), ("events", events)] {
        assert!(!text.contains(password), "{what}: {text}");
    }
    let journal = dir.path().join("data/journal");
    let mode = fs::metadata(&journal).expect("a journal").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    relay.stop();
    other.stop();
}

#[test]
fn damaged_journal_is_told_and_cut_and_a_folder_is_for_one_process() {
    let dir = TempDir::new("journal");
    let mut relay = Relay::start_with(1, &data_dir(&dir));
    for stream in ["a", "b"] {
        relay.add(stream, "rtmp://127.0.0.1:1/live/a", &[("async", "1")]);
    }
    let data = dir.path().join("data");
    let (code, _, error) = run(&["serve", "--data-dir", data.to_str().expect("a text")]);
    assert_eq!(code, Some(1));
    assert!(error.contains("is in use by another process"), "{error}");
    relay.process.kill();
    drop(relay);
    let mut bytes = fs::read(data.join("journal")).expect("a journal");
    bytes.truncate(bytes.len() - 3);
    fs::write(data.join("journal"), bytes).expect("a journal");
    let relay = Relay::start_with(1, &data_dir(&dir));
    assert!(relay.log().contains("the journal is damaged"), "{}", relay.log());
    assert_eq!(pulls(&relay).into_keys().collect::<Vec<_>>(), ["a"]);
    relay.add("c", "rtmp://127.0.0.1:1/live/a", &[("async", "1")]);
    relay.stop();
    let relay = Relay::start_with(1, &data_dir(&dir));
    assert_eq!(pulls(&relay).into_keys().collect::<Vec<_>>(), ["a", "c"]);
}
