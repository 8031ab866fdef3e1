//! The event log: what happens to a stream is told in order, and who comes back misses nothing.

mod kit;

use std::io::Write;
use std::net::TcpStream;

use kit::fault::{Mode, Origin};
use kit::ffmpeg::{Modern, Publisher, Repeat};
use kit::flv::Kind;
use kit::relay::{SECRET, key};
use kit::{Follower, LIVENESS, Player, Relay, config};
use serde_json::{Value, json};

fn follow(relay: &Relay, more: &str, last_id: Option<&str>) -> Follower {
    Follower::start(relay.http, &format!("secret={SECRET}{more}"), last_id)
}

/// Positions of the names in what came, each behind the one before it.
#[track_caller]
fn assert_in_order(follower: &Follower, names: &[&str]) {
    let got = follower.names();
    let mut rest = got.iter();
    for name in names {
        assert!(rest.any(|have| have == name), "{name} of {names:?} in {got:?}");
    }
}

#[test]
fn a_pull_tells_its_attempts_and_its_end() {
    let relay = Relay::start(2);
    let follower = follow(&relay, "", None);
    let origin = Origin::start(Mode::Refused);
    let url = origin.rtmp_url("a");
    let reply = relay.add("a", &url, &[("async", "1")]);
    assert_eq!(reply["code"], 0, "{reply}");
    let failed = follower.wait("attempt_failed");
    assert_eq!(failed.data["errorClass"], "refused", "{failed:?}");
    assert_eq!((&failed.data["attempt"], &failed.data["url"]), (&json!(1), &json!(url)));
    assert!(failed.data["nextTryMs"].as_u64().is_some_and(|ms| ms > 0), "{failed:?}");
    relay.delete("a");
    let deleted = follower.wait("deleted");
    assert_in_order(&follower, &["pending", "attempt_failed", "deleted"]);
    for event in [&failed, &deleted] {
        assert_eq!(event.data["generation"], reply["data"]["generation"], "{event:?}");
        assert_eq!(event.data["key"], key("a"));
    }
    let sequences: Vec<u64> =
        follower.events().iter().map(|event| event.data["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
    relay.stop();
}

#[test]
fn losses_and_switches_are_told_with_their_reasons() {
    let origins = [Origin::start(Mode::Healthy), Origin::start(Mode::Healthy)];
    let urls = origins.each_ref().map(|origin| origin.rtmp_url("a"));
    let relay = Relay::start(2);
    let follower = follow(&relay, "", None);
    assert_eq!(relay.add("a", &urls[0], &[("urls", &urls[1])])["code"], 0);
    let registered = follower.wait("registered");
    let player = Player::http_flv(relay.http, "/live/a.live.flv");
    player.wait_frames(Kind::Video, 5);
    origins[0].set(Mode::Refused);
    let switched = follower.wait("source_switched");
    follower.wait("back");
    let told = |data: &Value| ["reason", "from", "url"].map(|name| data[name].clone());
    assert_eq!(told(&switched.data), [json!("lost"), json!(urls[0]), json!(urls[1])]);
    origins[0].set(Mode::Healthy);
    let update = [("key", &*key("a")), ("url", &*urls[0])];
    assert_eq!(relay.api("updateStreamProxy", &update)["code"], 0);
    kit::wait_until(LIVENESS, "two switches", || {
        follower.names().iter().filter(|name| *name == "source_switched").count() == 2
    });
    let events = follower.events();
    let last = events.iter().rfind(|event| event.data["event"] == "source_switched");
    let last = &last.expect("just counted").data;
    assert_eq!(told(last), [json!("updated"), json!(urls[1]), json!(urls[0])], "{last}");
    assert_in_order(&follower, &["pending", "registered", "lost", "source_switched", "back"]);
    let lost = events.iter().find(|event| event.data["event"] == "lost").expect("it is in order");
    assert!(lost.data["reason"].is_string() && lost.data["errorClass"].is_string(), "{lost:?}");
    for event in &events {
        assert!(event.data["sequence"].is_u64() && event.data["timeMs"].is_u64(), "{event:?}");
        if event.data["generation"].is_u64() {
            assert_eq!(event.data["generation"], registered.data["generation"], "{event:?}");
        }
    }
    player.assert_open();
    drop(player);
    relay.stop();
}

#[test]
fn players_and_publishers_are_told_and_a_filter_leaves_out_the_others() {
    let relay = Relay::start(2);
    let (all, other) = (follow(&relay, "", None), follow(&relay, "&app=live&stream=b", None));
    let waiter = Player::http_flv(relay.http, "/live/a.live.flv?token=x");
    all.wait("player_waits");
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    waiter.wait_frames(Kind::Video, 5);
    let started = all.wait("player_started");
    assert_eq!(started.data["protocol"], "http", "{started:?}");
    drop(waiter);
    let left = all.wait("player_left");
    assert!(left.data["sentBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{left:?}");
    assert_eq!(left.data["connection"], started.data["connection"]);
    publisher.stop();
    all.wait("closed");
    all.wait("publisher_left");
    // ffmpeg unpublishes before it hangs up.
    kit::wait_until(LIVENESS, "its end is in the log", || relay.log().contains("publisher closed"));
    let order =
        ["player_waits", "pending", "registered", "player_started", "player_left", "closed"];
    assert_in_order(&all, &order);
    assert!(other.names().is_empty(), "{:?}", other.names());
    let log = relay.log();
    relay.stop();
    let left = all.names().iter().filter(|name| *name == "publisher_left").count();
    assert_eq!((left, log.matches("publisher closed").count()), (1, 1), "{log}");
}

/// All events of a name, once there are so many.
fn wait_all(follower: &Follower, name: &str, count: usize) -> Vec<Value> {
    let all = || follower.events().into_iter().filter(|e| e.name == name);
    kit::wait_until(LIVENESS, &format!("{count} of {name}"), || all().count() >= count);
    all().map(|event| event.data).collect()
}

#[test]
fn each_of_a_crowd_that_is_refused_at_once_is_told() {
    const CROWD: usize = 300;
    let relay = Relay::start(1);
    let follower = follow(&relay, "", None);
    let origin = Origin::start(Mode::Refused);
    assert_eq!(relay.add("a", &origin.rtmp_url("a"), &[("async", "1"), ("force", "1")])["code"], 0);
    let crowd: Vec<TcpStream> = (0..CROWD)
        .map(|_| {
            let mut player = TcpStream::connect(relay.http).expect("a listener");
            player.write_all(b"GET /live/a.live.flv HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
            player
        })
        .collect();
    wait_all(&follower, "player_waits", CROWD);
    relay.delete("a");
    kit::wait_until(LIVENESS, "the crowd is refused", || {
        relay.metric("rillcast_waiters_refused_total") == CROWD as u64
    });
    // It comes behind all of them.
    relay.add("b", &origin.rtmp_url("b"), &[("async", "1"), ("force", "1")]);
    kit::wait_until(LIVENESS, "b is told", || {
        follower.events().iter().any(|event| event.data["key"] == key("b"))
    });
    assert_eq!(wait_all(&follower, "player_refused", CROWD).len(), CROWD);
    assert_eq!(
        (wait_all(&follower, "deleted", 1).len(), relay.metric("rillcast_events_lost_total")),
        (1, 0)
    );
    drop(crowd);
    relay.stop();
}

#[test]
fn what_is_told_of_a_peer_is_of_the_life_that_it_had() {
    let relay = Relay::start(2);
    let follower = follow(&relay, "", None);
    let origin = Origin::start(Mode::Healthy);
    let mut lives = Vec::new();
    // The shards take turns in no order; the key's owner stays.
    for _ in 0..8 {
        let reply = relay.add("a", &origin.rtmp_url("a"), &[]);
        lives.push(reply["data"]["generation"].clone());
        let player = Player::http_flv(relay.http, "/live/a.live.flv");
        player.wait_frames(Kind::Video, 2);
        // It is told when the stream is gone from its shard.
        relay.delete("a");
    }
    for name in ["player_started", "player_left"] {
        let told = wait_all(&follower, name, lives.len());
        let mut told: Vec<_> = told.iter().map(|data| data["generation"].clone()).collect();
        told.sort_by_key(Value::as_u64);
        assert_eq!(told, lives, "{name}");
    }
    origin.set(Mode::Refused);
    let mut lives = Vec::new();
    for number in 0..8 {
        let stream = format!("b{number}");
        let reply = relay.add(&stream, &origin.rtmp_url("b"), &[("async", "1")]);
        lives.push(reply["data"]["generation"].clone());
        let waiter = Player::http_flv(relay.http, &format!("/live/{stream}.live.flv"));
        wait_all(&follower, "player_waits", number + 1);
        kit::wait_until(LIVENESS, "it waits", || {
            relay.proxy(&stream).is_some_and(|row| row["waiters"] == 1)
        });
        relay.delete(&stream);
        let told = wait_all(&follower, "player_refused", number + 1);
        assert_eq!(told[number]["generation"], lives[number], "{told:?}");
        waiter.wait_end(LIVENESS);
    }
    for stream in ["c", "d", "e"] {
        let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url(stream));
        relay.wait_online(stream);
        publisher.stop();
    }
    let left = wait_all(&follower, "publisher_left", 3);
    let registered = wait_all(&follower, "registered", 3);
    for data in left {
        let of_key = registered.iter().find(|of| of["key"] == data["key"]).expect("its stream");
        assert_eq!(data["generation"], of_key["generation"], "{data}");
        assert!(data["generation"].is_u64(), "{data}");
    }
    relay.stop();
}

/// It reads nothing, has its socket full, jumps, and is evicted at last.
#[test]
fn a_player_that_is_too_slow_is_told_and_evicted() {
    let relay = Relay::start_with(2, &config::lag(1_000_000, 3000));
    let follower = follow(&relay, "", None);
    let dir = kit::TempDir::new("heavy");
    let heavy = dir.file("heavy.flv");
    kit::ffmpeg::make_heavy_file(&heavy, 10);
    let url = relay.rtmp_url("a");
    let mut publisher = Publisher::start_file(Modern::No, &heavy, &url, Repeat::Forever);
    relay.wait_online("a");
    let player = Player::http_flv_with(relay.http, "/live/a.live.flv", kit::player::Buffer::Small);
    player.wait_frames(Kind::Video, 1);
    player.pause();
    let evicted = wait_all(&follower, "player_evicted", 1).remove(0);
    let slow = wait_all(&follower, "player_slow", 1).remove(0);
    let registered = follower.wait("registered").data;
    for event in [&slow, &evicted] {
        assert_eq!(event["generation"], registered["generation"], "{event}");
        assert_eq!(event["connection"], follower.wait("player_started").data["connection"]);
    }
    assert_eq!((&slow["jumps"], &evicted["reason"]), (&json!(1), &json!("too_slow")));
    let rules = relay.api("why", &[("key", &key("a"))])["data"]["rules"].clone();
    let rules: Vec<_> =
        rules.as_array().expect("rules").iter().map(|r| r["rule"].clone()).collect();
    assert!(rules.contains(&json!("egress.lag_evict_ms")), "{rules:?}");
    assert!(rules.contains(&json!("egress.lag_bytes_max")), "{rules:?}");
    publisher.stop();
    relay.stop();
}

#[test]
fn who_comes_back_gets_what_it_missed_once_and_in_order() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::Refused);
    let cycle = |stream: &str| {
        relay.add(stream, &origin.rtmp_url(stream), &[("async", "1")]);
        relay.delete(stream);
    };
    let whole = follow(&relay, "", None);
    let first = follow(&relay, "", None);
    cycle("a");
    first.wait("deleted");
    let (last_id, mut got) = (first.last_id(), first.events());
    drop(first);
    for number in 0..20 {
        cycle(&format!("s{number}"));
    }
    let again = follow(&relay, "", Some(&last_id));
    cycle("z");
    let is_last =
        |event: &kit::sse::SseEvent| event.name == "deleted" && event.data["key"] == key("z");
    for follower in [&whole, &again] {
        kit::wait_until(LIVENESS, "the last event", || follower.events().iter().any(is_last));
    }
    got.extend(again.events());
    let ids = |events: &[kit::sse::SseEvent]| -> Vec<String> {
        events.iter().map(|event| event.id.clone()).collect()
    };
    assert_eq!(ids(&got), ids(&whole.events()));
    // Of another run: all that is kept, and a word about it.
    let stranger = follow(&relay, "", Some("1-5"));
    kit::wait_until(LIVENESS, "the replay", || stranger.events().iter().any(is_last));
    assert_eq!(stranger.names()[0], "gap");
    assert_eq!(ids(&stranger.events()[1..]), ids(&whole.events()));
    relay.stop();
}

/// Pulls that come and go tell 2 KiB each time, until one who does not read is closed; one who comes
/// back from the beginning then is told that not all of it is kept, and gets the rest.
#[test]
fn who_does_not_read_is_closed_and_who_missed_too_much_is_told_so() {
    let relay = Relay::start(2);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&relay.http.into()).unwrap();
    let mut stuck = TcpStream::from(socket);
    write!(stuck, "GET /events?secret={SECRET} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    kit::wait_until(LIVENESS, "it follows", || relay.metric("rillcast_event_followers") == 1);
    let reader = follow(&relay, "&stream=last", None);
    let first_id = reader.last_id();
    let origin = Origin::start(Mode::Refused);
    let url = origin.rtmp_url(&"x".repeat(1900));
    let cycle = |stream: &str| {
        assert_eq!(relay.add(stream, &url, &[("async", "1")])["code"], 0);
        relay.delete(stream);
    };
    kit::wait_until(2 * LIVENESS, "it is closed", || {
        (0..100).for_each(|number| cycle(&format!("s{number}")));
        relay.metric("rillcast_event_followers_dropped_total") == 1
    });
    let position = reader.last_id();
    assert_ne!(position, first_id, "it is told how far the log is, with no event for it");
    cycle("last");
    assert_eq!(reader.wait("deleted").data["key"], key("last"), "who reads goes on");
    let names = |last_id: &str| {
        let again = follow(&relay, "&stream=last", Some(last_id));
        again.wait("deleted");
        again.names()
    };
    let told = reader.names();
    assert_eq!(names(&position), told, "all that was passed over was for others");
    assert_eq!(names(&first_id), [&["gap".to_owned()][..], &told].concat());
    let again = follow(&relay, "", Some(&first_id));
    let is_last =
        |event: &kit::sse::SseEvent| event.name == "deleted" && event.data["key"] == key("last");
    kit::wait_until(LIVENESS, "the replay", || again.events().iter().any(is_last));
    let events = again.events();
    assert_eq!(events[0].name, "gap");
    let missed = events[0].data["missed"].as_u64().expect("how many");
    let sequence = |event: &kit::sse::SseEvent| event.data["sequence"].as_u64().unwrap();
    let (_, first) = first_id.split_once('-').expect("an id");
    assert_eq!(sequence(&events[1]), first.parse::<u64>().unwrap() + missed + 1);
    assert!(events[1..].windows(2).all(|pair| sequence(&pair[1]) == sequence(&pair[0]) + 1));
    assert_eq!(relay.metric("rillcast_event_followers_dropped_total"), 1, "nobody else");
    relay.stop();
}

#[test]
fn why_names_the_failing_origin_and_shows_what_led_there() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::Refused);
    relay.add("a", &origin.rtmp_url("a"), &[("async", "1")]);
    let why = |stream: &str| relay.api("why", &[("key", &key(stream))])["data"].clone();
    kit::wait_until(LIVENESS, "a failed try", || why("a")["state"] == "backing_off");
    let data = why("a");
    let cause = data["cause"].as_str().expect("a cause");
    assert!(cause.starts_with("its origin fails") && cause.contains("(refused)"), "{data}");
    let names: Vec<&str> = data["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter_map(|e| e["event"].as_str())
        .collect();
    assert_eq!(names, ["pending", "attempt_failed"]);
    let api = format!("http://{}", relay.http);
    let (code, out, log) = kit::relay::run(&["why", &key("a"), "--api", &api, "--secret", SECRET]);
    assert_eq!(code, Some(0), "{log}");
    assert!(out.starts_with("its origin fails"), "{out}");
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("b"));
    let player = Player::http_flv(relay.http, "/live/b.live.flv");
    player.wait_frames(Kind::Video, 5);
    let slowest = &why("b")["slowest"][0];
    assert!(slowest["rttUs"].as_u64().is_some_and(|us| us > 0), "{slowest}");
    assert!(slowest["lagBytes"].is_u64(), "{slowest}");
    publisher.stop();
    relay.stop();
}

#[test]
fn nobody_follows_without_the_secret() {
    let relay = Relay::start(1);
    assert_eq!(Follower::start(relay.http, "secret=wrong", None).status(), 401);
    assert_eq!(follow(&relay, "", None).status(), 200);
    relay.stop();
}

/// A shard has so many followers.
const FOLLOWERS_MAX: usize = 64;

#[test]
fn follower_beyond_the_limit_is_refused_until_another_one_goes() {
    let relay = Relay::start(1);
    let mut followers: Vec<_> = (0..FOLLOWERS_MAX).map(|_| follow(&relay, "", None)).collect();
    assert!(followers.iter().all(|follower| follower.status() == 200));
    assert_eq!(follow(&relay, "", None).status(), 503);
    assert_eq!(relay.metric("rillcast_event_followers"), FOLLOWERS_MAX as u64);
    followers.pop();
    kit::wait_until(LIVENESS, "there is room again", || follow(&relay, "", None).status() == 200);
    drop(followers);
    relay.stop();
}
