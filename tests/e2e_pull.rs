//! Pulls: from nginx-rtmp, from another rillcast, from an origin that redirects, chunks, goes away
//! and comes back. One key is one pull, however many ask for it.

mod kit;

use std::thread::JoinHandle;
use std::time::Duration;

use kit::compare::{AtLeast, assert_never_steps_back, assert_same_media};
use kit::fault::{Mode, Origin, Stage};
use kit::ffmpeg::{Modern, Publisher, decode_first_frames};
use kit::flv::{Kind, Tag};
use kit::nginx::Nginx;
use kit::relay::{add_params, key};
use kit::{LIVENESS, Player, Relay, wait_until};
use rillcast::clock;
use serde_json::{Value, json};

/// About two seconds.
const BOTH: AtLeast = AtLeast { video: 50, audio: 40 };

fn players(relay: &Relay, stream: &str) -> Vec<Player> {
    let mut players = Vec::new();
    for _ in 0..3 {
        players.push(Player::http_flv(relay.http, &format!("/live/{stream}.live.flv")));
        players.push(Player::ws_flv(relay.http, &format!("/live/{stream}.live.flv")));
        players.push(Player::rtmp(relay.rtmp, "live", stream));
    }
    players
}

fn record(players: Vec<Player>) -> Vec<(String, Vec<Tag>)> {
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 60));
    players.into_iter().map(|player| (player.what().to_owned(), player.stop())).collect()
}

#[track_caller]
fn assert_added(reply: &Value, stream: &str) {
    assert_eq!(reply["code"], 0, "{reply}");
    assert_eq!(reply["data"]["key"], key(stream), "{reply}");
}

fn class_of(proxy: &Value) -> &str {
    proxy["errorClass"].as_str().unwrap_or_default()
}

#[track_caller]
fn pull_from_nginx(file: &str, shards: usize) {
    let nginx = Nginx::start();
    let relay = Relay::start(shards);
    let mut publisher = Publisher::start(Modern::No, file, &nginx.url("a"));
    let warm = Player::rtmp(([127, 0, 0, 1], nginx.port).into(), "live", "a");
    warm.wait_frames(Kind::Video, 1);
    assert_added(&relay.add("a", &nginx.url("a"), &[]), "a");
    relay.wait_online("a");
    let recordings = record(players(&relay, "a"));
    decode_first_frames(Modern::No, &relay.rtmp_url("a"), 5);
    assert_eq!(relay.delete("a")["data"]["flag"], true);
    publisher.stop();
    for (what, tags) in recordings {
        assert_same_media(&what, &publisher.sent(), &tags, AtLeast { audio: 0, ..BOTH });
    }
    relay.stop();
}

#[test]
fn pull_from_nginx_rtmp_passes_unchanged_on_one_shard() {
    pull_from_nginx("av.flv", 1);
}

#[test]
fn pull_from_nginx_rtmp_passes_unchanged_on_two_shards() {
    pull_from_nginx("av.flv", 2);
}

#[test]
fn pull_of_video_alone_from_nginx_rtmp_passes_unchanged() {
    pull_from_nginx("video.flv", 2);
}

#[track_caller]
fn pull_from_rillcast(modern: Modern, file: &str, shards: usize) {
    let origin = Relay::start(2);
    let relay = Relay::start(shards);
    let mut publisher = Publisher::start(modern, file, &origin.rtmp_url("a"));
    origin.wait_online("a");
    let urls = [("rtmp", origin.rtmp_url("a")), ("flv", origin.flv_url("a"))];
    for (stream, url) in &urls {
        assert_added(&relay.add(stream, url, &[]), stream);
        relay.wait_online(stream);
    }
    let recordings: Vec<_> =
        urls.iter().flat_map(|(stream, _)| record(players(&relay, stream))).collect();
    publisher.stop();
    for (what, tags) in recordings {
        assert_same_media(&what, &publisher.sent(), &tags, BOTH);
    }
    relay.stop();
    origin.stop();
}

#[test]
fn pull_from_another_rillcast_passes_unchanged_on_one_shard() {
    pull_from_rillcast(Modern::No, "av.flv", 1);
}

#[test]
fn pull_from_another_rillcast_passes_unchanged_on_two_shards() {
    pull_from_rillcast(Modern::No, "av.flv", 2);
}

#[test]
fn enhanced_codecs_pass_through_two_rillcasts() {
    pull_from_rillcast(Modern::Yes, "hevc_aac.flv", 2);
    pull_from_rillcast(Modern::Yes, "av1_opus.flv", 2);
}

#[test]
fn pull_over_ipv6_passes_unchanged() {
    let origin = Relay::start_at("[::1]", 1, "");
    let relay = Relay::start(1);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &origin.rtmp_url("a"));
    origin.wait_online("a");
    for (stream, url) in [("rtmp", origin.rtmp_url("a")), ("flv", origin.flv_url("a"))] {
        assert_added(&relay.add(stream, &url, &[]), stream);
        let player = Player::http_flv(relay.http, &format!("/live/{stream}.flv"));
        player.wait_frames(Kind::Video, 60);
        assert_same_media(stream, &publisher.sent(), &player.stop(), BOTH);
    }
    publisher.stop();
    relay.stop();
    origin.stop();
}

#[test]
fn redirects_chunked_bodies_names_and_query_strings_are_understood() {
    let relay = Relay::start(2);
    let target = Origin::start(Mode::HealthyChunked);
    let url = target.flv_url("b").replace("127.0.0.1", "localhost") + "?sign=a%2Fb&n=1";
    let origin = Origin::start(Mode::Redirect(url));
    assert_added(&relay.add("a", &(origin.flv_url("a") + "?token=x"), &[]), "a");
    let player = Player::http_flv(relay.http, "/live/a.live.flv");
    player.wait_frames(Kind::Video, 60);
    assert_same_media("redirected", &target.sent(), &player.stop(), BOTH);
    assert_eq!(origin.connections()[0].request, "/live/a.flv?token=x");
    assert_eq!(target.connections()[0].request, "/live/b.flv?sign=a%2Fb&n=1");
    assert_added(&relay.add("r", &(target.rtmp_url("b") + "?sign=a%2Fb"), &[]), "r");
    assert_eq!(target.connections()[1].request, "live/b?sign=a%2Fb");
    relay.stop();
}

#[test]
fn redirects_without_end_are_a_failure() {
    let relay = Relay::start(1);
    let origin = Origin::start(Mode::NotFound);
    origin.set(Mode::Redirect(origin.flv_url("again")));
    let reply = relay.add("a", &origin.flv_url("a"), &[]);
    assert_eq!(reply["code"], -1, "{reply}");
    assert!(origin.count() <= 10, "{} requests", origin.count());
    origin.wait_all_closed(LIVENESS);
    relay.stop();
}

/// Pulls of an origin that sends all of them to a host that answers no SYN.
#[test]
fn redirected_pulls_keep_to_the_connect_budget_of_their_target() {
    let relay = Relay::start_with(1, &kit::config::connects_per_origin_max(1));
    let start = relay.holdings();
    let target = Origin::start(Mode::SynDropped);
    let origin = Origin::start(Mode::Redirect(target.flv_url("b")));
    let streams = ["a", "b", "c"];
    for stream in streams {
        let more = [("async", "1"), ("force", "1"), ("timeout_sec", "60")];
        let reply = relay.add(stream, &origin.flv_url(stream), &more);
        assert_eq!(reply["code"], 0, "{reply}");
    }
    origin.wait_stage(2, Stage::Greeted);
    let in_state = |state: &str| {
        let is_it = |stream: &&&str| relay.proxy(stream).is_some_and(|row| row["state"] == state);
        streams.iter().filter(is_it).copied().collect::<Vec<_>>()
    };
    wait_until(LIVENESS, "one connects, two wait", || {
        in_state("connecting").len() == 1 && in_state("queued").len() == 2
    });
    assert_eq!(target.half_open_count(), 1);
    origin.wait_all_closed(LIVENESS);
    // One that waits can be deleted, and one that connects makes room for the next.
    let [connecting, queued] = ["connecting", "queued"].map(|state| in_state(state)[0]);
    assert_eq!(relay.delete(queued)["data"]["flag"], true);
    assert_eq!(relay.delete(connecting)["data"]["flag"], true);
    wait_until(LIVENESS, "the last one connects", || in_state("connecting").len() == 1);
    let last = in_state("connecting")[0];
    assert_eq!(relay.proxy(last).expect("it is there")["attempts"], 1);
    target.set(Mode::Healthy);
    relay.wait_online(last);
    assert_eq!(relay.delete(last)["data"]["flag"], true);
    relay.assert_back_to(&start, "all deleted");
    relay.stop();
}

/// 64 adds of one key at an origin that says nothing yet; all of them are waiting.
#[track_caller]
fn sixty_four_adds(relay: &Relay, origin: &Origin) -> Vec<JoinHandle<Value>> {
    let url = origin.rtmp_url("a");
    let params = add_params("a", &url, &[("timeout_sec", "30"), ("media_timeout_ms", "30000")]);
    let adds: Vec<_> = (0..64).map(|_| relay.api.call_later("addStreamProxy", &params)).collect();
    origin.wait_stage(0, Stage::PlayRead);
    kit::pause(Duration::from_secs(2));
    assert!(adds.iter().all(|add| !add.is_finished()), "answered before the first media");
    let list = relay.api("listStreamProxy", &[]);
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
    adds
}

#[track_caller]
fn replies(adds: Vec<JoinHandle<Value>>, code: i64) {
    let replies: Vec<Value> = adds.into_iter().map(|add| add.join().expect("a reply")).collect();
    assert_eq!(replies.len(), 64);
    assert_eq!(replies[0]["code"], code, "{}", replies[0]);
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
}

#[test]
fn sixty_four_adds_of_one_key_are_one_pull() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::NoMedia);
    let adds = sixty_four_adds(&relay, &origin);
    origin.set(Mode::Healthy);
    replies(adds, 0);
    assert_eq!(origin.count(), 1);
    let list = relay.api("listStreamProxy", &[]);
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
    relay.stop();
}

#[test]
fn sixty_four_adds_of_one_key_are_cancelled_together() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::NoMedia);
    let adds = sixty_four_adds(&relay, &origin);
    assert_eq!(relay.delete("a")["data"]["flag"], true);
    replies(adds, -1);
    assert_eq!(relay.api("listStreamProxy", &[])["data"], json!([]));
    origin.wait_all_closed(LIVENESS);
    assert_eq!(origin.count(), 1);
    relay.stop();
}

#[test]
fn add_of_a_taken_name_tells_who_has_it() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::Healthy);
    assert_added(&relay.add("a", &origin.flv_url("a"), &[]), "a");
    relay.wait_online("a");
    let reply = relay.add("a", &origin.flv_url("a"), &[]);
    assert_eq!(reply["code"], -1, "{reply}");
    assert_eq!(reply["data"]["key"], key("a"), "{reply}");
    assert_eq!(reply["data"]["url"], origin.flv_url("a"), "{reply}");
    assert!(reply["msg"].as_str().is_some_and(|msg| msg.contains("already exists")), "{reply}");
    origin.set(Mode::NoMedia);
    assert_eq!(relay.add("b", &origin.flv_url("b"), &[("async", "1")])["code"], 0);
    let reply = relay.add("b", &origin.flv_url("other"), &[]);
    assert_eq!(reply["code"], -1, "{reply}");
    assert!(reply["data"]["state"].is_string(), "{reply}");
    relay.stop();
}

/// Players stay connected while their source is away, and go on when it is back.
#[track_caller]
fn players_are_kept_over_an_outage(outage: Mode, class: &[&str], rtmp: bool) {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::Healthy);
    let url = if rtmp { origin.rtmp_url("a") } else { origin.flv_url("a") };
    assert_added(&relay.add("a", &url, &[("timeout_sec", "2"), ("media_timeout_ms", "1500")]), "a");
    let players = players(&relay, "a");
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 30));
    let generation = relay.proxy("a").expect("a pull")["generation"].clone();
    let sent_before = origin.sent();
    origin.set(outage);
    wait_until(LIVENESS, "the relay says that the source is lost", || !relay.is_online("a"));
    wait_until(LIVENESS, "and why", || {
        let proxy = relay.proxy("a").expect("still a pull");
        assert_eq!(proxy["status"], 1, "{proxy}");
        class.contains(&class_of(&proxy))
    });
    players.iter().for_each(Player::assert_open);
    let before: Vec<usize> = players.iter().map(|player| player.tags().len()).collect();
    origin.restart_clock();
    origin.set(Mode::Healthy);
    relay.wait_online("a");
    players.iter().for_each(|player| player.wait_more_frames(Kind::Video, 60));
    let proxy = relay.proxy("a").expect("a pull");
    assert_eq!(proxy["generation"], generation, "the same pull: {proxy}");
    assert_eq!(proxy["status"], 0, "{proxy}");
    assert!(proxy["rePullCount"].as_u64() >= Some(1), "{proxy}");
    let sent = origin.sent();
    for (player, before) in players.into_iter().zip(before) {
        let what = player.what().to_owned();
        let tags = player.stop();
        assert_same_media(&what, &sent_before, &tags[..before], AtLeast { video: 30, audio: 0 });
        assert_same_media(&what, &sent, &tags[before..], BOTH);
        assert_never_steps_back(&what, &tags);
    }
    assert_eq!(relay.delete("a")["data"]["flag"], true);
    origin.wait_all_closed(LIVENESS);
    relay.stop();
}

#[test]
fn players_are_kept_while_the_origin_refuses() {
    players_are_kept_over_an_outage(Mode::Refused, &["refused", "lost"], true);
}

#[test]
fn players_are_kept_while_the_origin_is_silent() {
    players_are_kept_over_an_outage(Mode::AcceptedSilent, &["silent"], false);
}

#[test]
fn failures_are_named_by_their_class() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::Refused);
    let cases = [
        (Mode::Refused, "refused"),
        (Mode::NotFound, "not_found"),
        (Mode::Unavailable, "unavailable"),
        (Mode::NotFlv, "protocol_error"),
        (Mode::NoMedia, "silent"),
        (Mode::AcceptedSilent, "silent"),
        (Mode::SynDropped, "timed_out"),
    ];
    for (mode, class) in cases {
        origin.set(mode.clone());
        for (kind, url) in [("rtmp", origin.rtmp_url("a")), ("http", origin.flv_url("a"))] {
            let more = [
                ("async", "1"),
                ("force", "1"),
                ("timeout_sec", "1"),
                ("media_timeout_ms", "1000"),
            ];
            assert_added(&relay.add("a", &url, &more), "a");
            wait_until(LIVENESS, &format!("{mode:?} over {kind} is {class}"), || {
                let proxy = relay.proxy("a").expect("pending");
                let found = class_of(&proxy);
                assert!(found.is_empty() || found == class, "{mode:?} over {kind}: {proxy}");
                found == class
            });
            let proxy = relay.proxy("a").expect("pending");
            assert!(proxy["attempts"].as_u64() >= Some(1), "{proxy}");
            assert!(proxy["lastError"].as_str().is_some_and(|e| !e.is_empty()), "{proxy}");
            assert!(proxy["nextRetryMs"].is_u64(), "{proxy}");
            assert!(proxy["ageMs"].is_u64(), "{proxy}");
            assert_eq!(relay.delete("a")["data"]["flag"], true);
        }
    }
    relay.stop();
}

/// What the API shows of a pull that fails is what its origin sees: how often it was asked, and when it is
/// asked again.
#[test]
fn attempts_and_the_next_one_are_shown_as_the_origin_sees_them() {
    const TRIES: usize = 3;
    // The relay rounds, and the kit looks at the origin now and then.
    const EARLY: Duration = Duration::from_millis(2);
    const LATE: Duration = Duration::from_secs(1);
    let relay = Relay::start_with(2, "[pull]\nretry_base_ms = 400\nretry_step_ms = 300\n");
    for rtmp in [true, false] {
        let origin = Origin::start(Mode::NotFound);
        let url = if rtmp { origin.rtmp_url("a") } else { origin.flv_url("a") };
        assert_added(&relay.add("a", &url, &[("async", "1"), ("force", "1")]), "a");
        for tries in 1..=TRIES {
            let mut shown = (clock::now(), Value::Null, clock::now());
            wait_until(LIVENESS, &format!("try {tries} has failed"), || {
                let before = clock::now();
                let proxy = relay.proxy("a").expect("pending");
                let has_failed = proxy["state"] == "backing_off" && proxy["attempts"] == tries;
                shown = (before, proxy, clock::now());
                has_failed
            });
            let (before, proxy, after) = shown;
            assert_eq!(origin.count(), tries, "{proxy}");
            let next = Duration::from_millis(proxy["nextRetryMs"].as_u64().expect("a time"));
            wait_until(LIVENESS, "the next try", || origin.count() > tries);
            let came = clock::now();
            assert!(came + EARLY >= before + next, "{:?} after {proxy}", came - before);
            assert!(came <= after + next + LATE, "{:?} after {proxy}", came - after);
        }
        assert_eq!(relay.delete("a")["data"]["flag"], true);
        origin.wait_all_closed(LIVENESS);
    }
    relay.stop();
}

/// Origins that accept and say nothing, or no media, with each default time at a tenth: what may be ten
/// requests in a minute, and one that heals is back with the next of them.
#[test]
fn silent_origins_are_asked_as_rarely_as_the_policy_says_and_heal() {
    const WATCHED: Duration = Duration::from_secs(6);
    const REQUESTS_MAX: usize = 10;
    let tenth = "[pull]\nretry_base_ms = 200\nretry_step_ms = 300\nretry_max_ms = 6000\n\
                 retry_jitter_percent = 0\ntimeout_ms = 1000\nmedia_timeout_ms = 1000\n";
    let relay = Relay::start_with(2, tenth);
    let modes = [Mode::AcceptedSilent, Mode::AfterHandshake, Mode::NoMedia];
    let begun = clock::now();
    let origins = modes.map(|mode| (format!("{mode:?}"), Origin::start(mode)));
    for (stream, origin) in &origins {
        let more = [("async", "1"), ("force", "1")];
        assert_added(&relay.add(stream, &origin.rtmp_url("a"), &more), stream);
    }
    kit::pause(WATCHED);
    for (stream, origin) in &origins {
        let (count, elapsed) = (origin.count(), begun.elapsed());
        // A try takes 1 s; 0.2 s, 0.3 s, 0.6 s, 0.9 s and so on lie between two of them.
        let waits = (0..).map(|failures| 1000 + if failures == 0 { 200 } else { failures * 300 });
        let begins = waits.scan(0, |begin, wait| {
            *begin += wait;
            Some(Duration::from_millis(*begin))
        });
        let count_max = 1 + begins.take_while(|begin| *begin <= elapsed).count();
        let counts = 2..=count_max.min(REQUESTS_MAX);
        assert!(counts.contains(&count), "{stream}: {count} in {elapsed:?}");
        assert!(origin.open_count() <= 1, "{stream}: one at a time");
        origin.set(Mode::Healthy);
    }
    for (stream, origin) in &origins {
        relay.wait_online(stream);
        assert_eq!(origin.open_count(), 1, "{stream}");
    }
    relay.stop();
}

#[test]
fn pending_pull_shows_its_state_and_registers_when_the_origin_comes_up() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::Refused);
    let added = relay.add("a", &origin.rtmp_url("a"), &[("async", "1"), ("force", "1")]);
    assert_added(&added, "a");
    assert!(added["data"]["state"].is_string(), "{added}");
    let list = relay.api("listStreamProxy", &[]);
    let entry = &list["data"][0];
    assert_eq!(entry["status"], 1, "{entry}");
    for field in ["state", "generation", "attempts", "nextRetryMs", "ageMs", "waiters"] {
        assert!(entry[field].is_u64() || entry[field].is_string(), "{field} of {entry}");
    }
    assert_eq!(relay.api("getMediaList", &[])["data"], json!([]));
    let pending = relay.api("getMediaList", &[("include_pending", "1")]);
    assert_eq!(pending["data"].as_array().map(Vec::len), Some(1), "{pending}");
    kit::pause(Duration::from_millis(300));
    origin.set(Mode::Healthy);
    relay.wait_online("a");
    let player = Player::http_flv(relay.http, "/live/a.live.flv");
    player.wait_frames(Kind::Video, 60);
    assert_same_media("a", &origin.sent(), &player.stop(), BOTH);
    assert_eq!(relay.api("listStreamProxy", &[])["data"][0]["status"], 0);
    relay.stop();
}

#[test]
fn retry_count_is_obeyed() {
    let relay = Relay::start(1);
    let origin = Origin::start(Mode::NotFound);
    let more = [("async", "1"), ("force", "1"), ("retry_count", "1")];
    assert_added(&relay.add("a", &origin.flv_url("a"), &more), "a");
    wait_until(Duration::from_secs(60), "the pull gives up", || relay.proxy("a").is_none());
    assert_eq!(origin.count(), 2);
    origin.wait_all_closed(LIVENESS);
    relay.stop();
}

/// A pull of itself, and two that pull from each other: none has it, each says so, and that is all.
#[test]
fn pulls_in_a_circle_fail_and_leave_nothing() {
    let soon = "[pull]\nretry_base_ms = 100\nretry_step_ms = 100\nretry_max_ms = 200\n";
    let relays = [Relay::start_with(2, soon), Relay::start_with(2, soon)];
    let starts = relays.each_ref().map(Relay::holdings);
    let more = [("timeout_sec", "1"), ("retry_count", "2")];
    let own = relays[0].rtmp_url("own");
    let reply = relays[0].add("own", &own, &more);
    assert_eq!(reply["code"], -1, "{reply}");
    let more = [&more[..], &[("async", "1")]].concat();
    for (relay, other) in [(&relays[0], &relays[1]), (&relays[1], &relays[0])] {
        for url in [other.rtmp_url("a"), other.flv_url("b"), other.rtsp_url("c")] {
            let stream = url.rsplit('/').next().expect("a name").trim_end_matches(".live.flv");
            assert_added(&relay.add(stream, &url, &more), stream);
        }
    }
    for (relay, start) in relays.iter().zip(&starts) {
        for stream in ["a", "b", "c"] {
            wait_until(LIVENESS, "it gives up", || relay.proxy(stream).is_none());
        }
        relay.assert_back_to(start, "after the circle");
    }
    // Three tries of three streams, and the one of its own.
    let attempts = relays.each_ref().map(|relay| relay.metric("rillcast_attempts_total"));
    assert_eq!(attempts, [10, 9]);
    relays.into_iter().for_each(Relay::stop);
}
