//! What survives: pulls and pushes that the API acknowledged are there after `kill -9` at any moment,
//! and those that it acknowledged to be gone are not.

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, SystemTime};

use kit::camera::{Access, Camera, Habits, Stage};
use kit::fault::{Mode, Origin};
use kit::relay::{add_params, key, run};
use kit::{Api, LIVENESS, Player, Relay, TempDir, http, pause, wait_until};
use rillcast::media::SourceUrl;
use serde_json::Value;

/// Times that the relay is killed: each sixth time while it writes its journal anew, as far as it does
/// so in time.
const KILLS: usize = 300;
const KILLS_PER_COMPACTION: usize = 6;
const CALLERS: usize = 4;
/// Streams of each caller that are pulled, and others that are pushed.
const PULLS_OF_EACH: usize = 8;
const PUSHES_OF_EACH: usize = 4;
/// Longest traffic before a kill.
const TRAFFIC_MS_MAX: u64 = 120;
/// URLs are so long that the journal, which is written anew when 1 MiB of it is waste, soon is.
const URLS_MAX: usize = 8;
const URL_PAD_MAX: usize = 1900;

/// What a caller adds, updates and deletes, by its stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Pull(String),
    Push(String),
}

/// Those of a pull, or the one of a push.
type Urls = Vec<String>;

/// By name: the URLs that it may have; `None` where it may be absent.
type Allowed = BTreeMap<Name, BTreeSet<Option<Urls>>>;

fn data_dir(dir: &TempDir) -> String {
    format!("[server]\ndata_dir = {:?}\n", dir.path().join("data"))
}

/// Calls the API; `None` when no whole reply came.
fn call(api: &Api, name: &str, params: &[(&str, &str)]) -> Option<Value> {
    let body = http::encode(&[params, &[("secret", &api.secret)]].concat());
    let line = format!("POST /index/api/{name}");
    let form = ["Content-Type: application/x-www-form-urlencoded"];
    Some(http::request(api.address, &line, &form, body.as_bytes()).ok()?.json())
}

/// Adds, updates and deletes pulls and pushes of its own until the relay is gone.
fn traffic(api: &Api, seed: u64, allowed: &mut Allowed) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let names: Vec<Name> = allowed.keys().cloned().collect();
    for count in 0.. {
        let name = &names[random.usize(..names.len())];
        let states = allowed.get_mut(name).expect("one of ours");
        let old = states.first().expect("known").clone();
        let is_update = matches!(name, Name::Pull(_)) && random.bool();
        let new = (old.is_none() || is_update).then(|| some_urls(name, &mut random));
        states.insert(new.clone());
        let reply = change(api, name, old.as_ref(), new.as_ref());
        let Some(reply) = reply else { return count };
        assert_eq!(reply["code"], 0, "{name:?}: {reply}");
        let is_deleted = reply["data"]["flag"] == true || reply["count_closed"] == 1;
        assert!(new.is_some() || is_deleted, "{name:?}: {reply}");
        *states = BTreeSet::from([new]);
    }
    unreachable!("it ends with the relay")
}

/// URLs that refuse at once, and were never used before.
fn some_urls(name: &Name, random: &mut fastrand::Rng) -> Urls {
    let count = match name {
        Name::Pull(_) => random.usize(1..=URLS_MAX),
        Name::Push(_) => 1,
    };
    let url = |random: &mut fastrand::Rng| {
        let pad = "x".repeat(random.usize(..URL_PAD_MAX));
        format!("rtmp://127.0.0.1:1/live/{:x}{pad}", random.u64(..))
    };
    (0..count).map(|_| url(random)).collect()
}

/// One call: what has the old URLs is to have the new ones.
fn change(api: &Api, name: &Name, old: Option<&Urls>, new: Option<&Urls>) -> Option<Value> {
    match (name, old, new) {
        (Name::Pull(stream), None, Some(urls)) => {
            let more = [("urls", &*urls.join(";")), ("async", "1")];
            call(api, "addStreamProxy", &add_params(stream, &urls[0], &more))
        }
        (Name::Pull(stream), Some(_), Some(urls)) => {
            let params = [("key", &*key(stream)), ("urls", &urls.join(";"))];
            call(api, "updateStreamProxy", &params)
        }
        // Each of the two that delete, as it comes.
        (Name::Pull(stream), Some(urls), None) if urls.len() % 2 == 0 => {
            let params = [
                ("vhost", "__defaultVhost__"),
                ("app", "live"),
                ("stream", stream),
                ("force", "1"),
            ];
            call(api, "close_streams", &params)
        }
        (Name::Pull(stream), _, None) => call(api, "delStreamProxy", &[("key", &key(stream))]),
        (Name::Push(stream), _, Some(urls)) => {
            // The stream is absent.
            let more = [("schema", "rtmp"), ("dst_url", &urls[0]), ("force", "1")];
            call(api, "addStreamPusherProxy", &add_params(stream, "", &more))
        }
        (Name::Push(stream), old, None) => {
            let url = &old.expect("only what is there is deleted")[0];
            let digest = SourceUrl::parse(url, false).expect("one of ours").digest().0;
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            let key = format!("rtmp/{}/{digest}", key(stream));
            call(api, "delStreamPusherProxy", &[("key", &key)])
        }
    }
}

/// All pulls and pushes, with their URLs.
fn wanted(relay: &Relay) -> BTreeMap<Name, Urls> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let rows = |list: &str| relay.api(list, &[])["data"].as_array().expect("a list").clone();
    let mut wanted = BTreeMap::new();
    for row in rows("listStreamProxy") {
        let sources = row["sources"].as_array().expect("a list").iter();
        let urls = sources.map(|source| text(&source["url"])).collect();
        let pull = Name::Pull(text(&row["src"]["stream"]));
        assert!(wanted.insert(pull, urls).is_none(), "twice: {row}");
    }
    for row in rows("listStreamPusherProxy") {
        let push = Name::Push(text(&row["src"]["stream"]));
        assert!(wanted.insert(push, vec![text(&row["url"])]).is_none(), "twice: {row}");
    }
    wanted
}

/// The file that is to take the journal's place.
struct NewFile<'a> {
    path: &'a Path,
    /// When it was written last, in a life before this one.
    before: Option<SystemTime>,
}

impl<'a> NewFile<'a> {
    fn look_at(path: &'a Path) -> Self {
        Self { path, before: written_at(path) }
    }

    /// Waits until it is written or was, and a moment more; not for long.
    fn wait(&self, moment: Duration) {
        for _ in 0..2000 {
            if written_at(self.path) != self.before {
                pause(moment);
                return;
            }
            pause(Duration::from_micros(200));
        }
    }

    /// Whether it was written in this life, and has not taken the journal's place.
    fn is_left(&self) -> bool {
        let now = written_at(self.path);
        now.is_some() && now != self.before
    }
}

fn written_at(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
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
    let new_path = dir.path().join("data/journal.new");
    let mut callers: Vec<Allowed> = (0..CALLERS)
        .map(|caller| {
            let stream = |number| format!("{caller}-{number}");
            let pulls = (0..PULLS_OF_EACH).map(|number| Name::Pull(stream(number)));
            let pushes = (0..PUSHES_OF_EACH).map(|number| Name::Push(stream(number)));
            pulls.chain(pushes).map(|name| (name, BTreeSet::from([None]))).collect()
        })
        .collect();
    let (mut calls, mut compactions, mut kills_within) = (0, 0, 0);
    for kill in 0..=KILLS {
        let new_file = NewFile::look_at(&new_path);
        let mut relay = Relay::start_with(1 + kill % 2, &data_dir(&dir));
        let mut found = wanted(&relay);
        for (name, states) in callers.iter_mut().flatten() {
            let now = found.remove(name);
            assert!(states.contains(&now), "kill {kill}: {name:?}: {now:?} not in {states:?}");
            *states = BTreeSet::from([now]);
        }
        assert!(found.is_empty(), "kill {kill}: nobody's: {found:?}");
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
            match kill % KILLS_PER_COMPACTION {
                0 => new_file.wait(Duration::from_micros(random.u64(..1000))),
                _ => pause(Duration::from_millis(random.u64(..TRAFFIC_MS_MAX))),
            }
            relay.process.kill();
        });
        kills_within += usize::from(new_file.is_left());
        compactions += relay.log().matches("the journal is compacted").count();
    }
    eprintln!("{calls} calls, {compactions} compactions, {kills_within} kills within one");
    assert!(calls > KILLS, "there was traffic: {calls}");
    assert!(compactions > 0 && kills_within > 0, "{compactions}, {kills_within} within one");
}

/// A thousand pulls of one origin that is up when the node comes back: as many at once as its budget has,
/// and as many again each quarter of a second.
#[test]
fn restored_pulls_come_at_the_pace_of_their_origins_budget() {
    const PULLS: usize = 1000;
    const BUDGET: usize = 64;
    const GROUP_MS: u128 = 250;
    let dir = TempDir::new("journal");
    let origin = Origin::start(Mode::Refused);
    let relay = Relay::start_with(2, &data_dir(&dir));
    for number in 0..PULLS {
        let stream = format!("s{number}");
        let more = [("async", "1"), ("force", "1"), ("timeout_sec", "60")];
        let reply = relay.add(&stream, &origin.rtmp_url(&stream), &more);
        assert_eq!(reply["code"], 0, "{reply}");
    }
    relay.stop();
    origin.set(Mode::NoMedia);
    assert_eq!(origin.count(), 0);
    let begun = rillcast::clock::now();
    let relay = Relay::start_with(2, &data_dir(&dir));
    wait_until(LIVENESS, "all of them come", || {
        let count = origin.count();
        let groups = begun.elapsed().as_millis() / GROUP_MS + 1;
        assert!(count <= BUDGET * groups as usize, "{count} within {groups} times {GROUP_MS} ms");
        count == PULLS
    });
    relay.stop();
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
    camera.wait_reached(before, Stage::Play);
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
