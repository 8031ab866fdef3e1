//! Players: joining in the middle, coming too early, coming for nothing, falling behind.

mod kit;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use kit::compare::{AtLeast, assert_gaps_end_at_keyframes, assert_same_media};
use kit::fault::{Mode, Origin};
use kit::ffmpeg::{Modern, Publisher, Repeat, decode_first_frames, make_heavy_file};
use kit::flv::Kind;
use kit::http::request;
use kit::player::{Buffer, End};
use kit::{LIVENESS, Player, Relay, TempDir, wait_until};

/// A second.
const BRIEF: AtLeast = AtLeast { video: 25, audio: 20 };

fn one_of_each(relay: &Relay, stream: &str) -> [Player; 3] {
    let path = format!("/live/{stream}.live.flv");
    [
        Player::http_flv(relay.http, &path),
        Player::ws_flv(relay.http, &path),
        Player::rtmp(relay.rtmp, "live", stream),
    ]
}

#[test]
fn player_that_joins_inside_a_gop_decodes_its_first_picture() {
    let relay = Relay::start(2);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    // The GOP is one second, so these fall at different places of it.
    for wait_ms in [0, 270, 490, 730] {
        kit::pause(Duration::from_millis(wait_ms));
        decode_first_frames(Modern::No, &relay.flv_url("a"), 5);
        decode_first_frames(Modern::No, &relay.rtmp_url("a"), 5);
        for player in one_of_each(&relay, "a") {
            player.wait_frames(Kind::Video, 30);
            let what = player.what().to_owned();
            assert_same_media(&what, &publisher.sent(), &player.stop(), BRIEF);
        }
    }
    publisher.stop();
    relay.stop();
}

#[test]
fn players_that_come_before_the_publisher_start_with_it() {
    let relay = Relay::start(2);
    let start = relay.holdings();
    let players: Vec<Player> = (0..4).flat_map(|_| one_of_each(&relay, "a")).collect();
    wait_until(LIVENESS, "twelve waiters", || relay.ledger().get("waiters") == Some(&12));
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 60));
    assert_eq!(relay.ledger().get("waiters"), Some(&0));
    publisher.stop();
    for player in players {
        let what = player.what().to_owned();
        assert_same_media(&what, &publisher.sent(), &player.stop(), BRIEF);
    }
    relay.assert_back_to(&start, "all left");
    relay.stop();
}

#[test]
fn a_thousand_players_that_join_at_once_are_all_served() {
    let relay = Relay::start(1);
    let start = relay.holdings();
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let mut players: Vec<TcpStream> = (0..1000)
        .map(|_| {
            let mut socket = TcpStream::connect(relay.http).expect("it listens");
            socket.write_all(b"GET /live/a.live.flv HTTP/1.1\r\nHost: x\r\n\r\n").expect("room");
            socket
        })
        .collect();
    for player in &mut players {
        player.set_read_timeout(Some(LIVENESS)).expect("a time");
        // Its head and a second of media.
        player.read_exact(&mut [0; 20_000]).expect("media");
    }
    assert_eq!(relay.ledger().get("players"), Some(&1000));
    drop(players);
    publisher.stop();
    relay.assert_back_to(&start, "all left");
    relay.stop();
}

#[test]
fn players_of_a_pending_pull_start_when_it_registers() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::Refused);
    let more = [("async", "1"), ("force", "1")];
    assert_eq!(relay.add("a", &origin.flv_url("a"), &more)["code"], 0);
    let players = one_of_each(&relay, "a");
    wait_until(LIVENESS, "three waiters", || {
        relay.proxy("a").is_some_and(|proxy| proxy["waiters"] == 3)
    });
    origin.set(Mode::Healthy);
    for player in players {
        player.wait_frames(Kind::Video, 60);
        let what = player.what().to_owned();
        assert_same_media(&what, &origin.sent(), &player.stop(), BRIEF);
    }
    relay.stop();
}

#[test]
fn waiter_that_leaves_is_forgotten() {
    let relay = Relay::start(2);
    let start = relay.holdings();
    let players = one_of_each(&relay, "nothing");
    wait_until(LIVENESS, "three waiters", || relay.ledger().get("waiters") == Some(&3));
    drop(players);
    relay.assert_back_to(&start, "waiters left");
    relay.stop();
}

#[test]
fn players_of_nothing_are_refused_in_their_protocols_words() {
    let relay = Relay::start_with(2, &kit::config::max_stream_wait_ms(1000));
    let start = relay.holdings();
    let [http, ws, rtmp] = one_of_each(&relay, "nothing");
    wait_until(LIVENESS, "404", || http.look(|seen| seen.status.is_some()));
    assert_eq!(http.look(|seen| seen.status), Some(404));
    match ws.wait_end(LIVENESS) {
        End::WebSocket(code, _) => assert_eq!(code % 1000, 404, "the close code"),
        End::Eof => assert_eq!(ws.look(|seen| seen.status), Some(404)),
        End::Reset => panic!("a WebSocket player is reset"),
    }
    wait_until(LIVENESS, "StreamNotFound", || {
        rtmp.look(|seen| seen.codes.contains(&"NetStream.Play.StreamNotFound".to_owned()))
    });
    assert_eq!(rtmp.wait_end(LIVENESS), End::Eof);
    assert_eq!(rtmp.tags(), []);
    drop((http, ws, rtmp));
    relay.assert_back_to(&start, "all refused");
    relay.stop();
}

#[test]
fn http_players_get_what_browsers_ask_for() {
    let relay = Relay::start(1);
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let path = "/live/a.live.flv";
    let origin = ["Origin: http://page.example"];
    let head = request(relay.http, &format!("HEAD {path}"), &origin, b"").expect("a reply");
    assert_eq!(head.status, 200);
    let options = request(relay.http, &format!("OPTIONS {path}"), &origin, b"").expect("a reply");
    assert!(matches!(options.status, 200 | 204), "{options:?}");
    for reply in [&head, &options] {
        let allowed = reply.header("access-control-allow-origin");
        assert!(matches!(allowed, Some("*" | "http://page.example")), "{reply:?}");
    }
    let player = Player::http_flv(relay.http, path);
    player.wait_frames(Kind::Video, 5);
    let (kind, length) = player.look(|seen| {
        let header = |name: &str| {
            seen.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone())
        };
        (header("content-type"), header("content-length"))
    });
    assert!(kind.is_some_and(|kind| kind.starts_with("video/x-flv")));
    assert_eq!(length, None);
    publisher.stop();
    relay.stop();
}

/// A heavy stream, with the file that it is made of.
fn publish_heavy(relay: &Relay, dir: &TempDir) -> Publisher {
    let file: &Path = &dir.file("heavy.flv");
    make_heavy_file(file, 4);
    let publisher = Publisher::start_file(Modern::No, file, &relay.rtmp_url("a"), Repeat::Forever);
    relay.wait_online("a");
    publisher
}

#[test]
fn stalled_player_is_moved_to_a_keyframe_and_costs_the_others_nothing() {
    let dir = TempDir::new("heavy");
    let relay = Relay::start_with(1, &kit::config::lag(2_000_000, 60_000));
    let mut publisher = publish_heavy(&relay, &dir);
    let stalled = Player::http_flv_with(relay.http, "/live/a.live.flv", Buffer::Small);
    stalled.wait_frames(Kind::Video, 5);
    let others = one_of_each(&relay, "a");
    others.iter().for_each(|player| player.wait_frames(Kind::Video, 25));
    stalled.pause();
    // Connection buffers of the kernel take up to about 4 MB, the stream has 1 MB a second.
    wait_until(Duration::from_secs(60), "a jump", || {
        relay.metric("rillcast_player_jumps_total") > 0
    });
    stalled.resume();
    stalled.wait_more_frames(Kind::Video, 100);
    stalled.assert_open();
    let (stalled, others) = (stalled.stop(), others.map(|p| (p.what().to_owned(), p.stop())));
    publisher.stop();
    let sent = publisher.sent();
    assert!(assert_gaps_end_at_keyframes("stalled", &sent, &stalled) > 0, "it was moved");
    for (what, tags) in others {
        assert_same_media(&what, &sent, &tags, AtLeast { video: 100, audio: 50 });
    }
    relay.stop();
}

#[test]
fn player_that_stays_stalled_is_evicted() {
    let dir = TempDir::new("heavy");
    let relay = Relay::start_with(2, &kit::config::lag(1_000_000, 3000));
    let mut publisher = publish_heavy(&relay, &dir);
    let stalled: Vec<Player> = (0..4)
        .map(|_| {
            let player = Player::http_flv_with(relay.http, "/live/a.live.flv", Buffer::Small);
            player.wait_frames(Kind::Video, 5);
            player.pause();
            player
        })
        .collect();
    let healthy = Player::http_flv(relay.http, "/live/a.live.flv");
    wait_until(Duration::from_secs(60), "all are evicted", || {
        relay.metric("rillcast_player_evictions_total") == 4
    });
    for player in stalled {
        player.resume();
        player.wait_end(LIVENESS);
    }
    healthy.assert_open();
    let tags = healthy.stop();
    publisher.stop();
    assert_same_media("healthy", &publisher.sent(), &tags, BRIEF);
    relay.stop();
}
