//! Who may: signed URLs, allow and deny lists, limits of one address, and peers that take their time.

mod kit;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use kit::fault::{Mode, Origin};
use kit::ffmpeg::{Modern, Publisher};
use kit::flv::Kind;
use kit::relay::{SECRET, key};
use kit::rtp_media::{Media, Plan};
use kit::{Follower, LIVENESS, Player, Relay, config, http, pause, wait_until};
use rillcast::access::signature;
use rillcast::clock;
use rillcast::media::StreamKey;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// The query of a signed URL of `live/<stream>`.
fn signed(secret: &str, stream: &str) -> String {
    let key = StreamKey::in_default_vhost("live", stream).expect("a key");
    let expires = clock::unix_seconds() + 600;
    format!("expires={expires}&sign={}", signature(secret, &key, expires))
}

fn status(relay: &Relay, path: &str) -> u16 {
    http::request(relay.http, &format!("GET {path}"), &[], b"").expect("a reply").status
}

#[test]
fn signed_urls_are_for_one_stream_and_one_purpose() {
    let keys = "publish_keys = { live = \"pub\" }\nplay_keys = { \"*\" = \"play\" }\n";
    let relay = Relay::start_with(2, &format!("[access]\n{keys}"));
    let refused = Player::rtmp_publish(relay.rtmp, "live", "a");
    wait_code(&refused, "NetStream.Publish.BadAuth");
    let wrong = format!("a?{}", signed("play", "a"));
    wait_code(&Player::rtmp_publish(relay.rtmp, "live", &wrong), "NetStream.Publish.BadAuth");
    let url = format!("{}?{}", relay.rtmp_url("a"), signed("pub", "a"));
    let _publisher = Publisher::start(Modern::No, "av.flv", &url);
    relay.wait_online("a");

    let path = "/live/a.live.flv";
    assert_eq!(status(&relay, path), 403);
    assert_eq!(status(&relay, &format!("{path}?{}", signed("play", "b"))), 403);
    assert_eq!(status(&relay, &format!("{path}?{}", signed("pub", "a"))), 403);
    let name = format!("a?{}", signed("pub", "a"));
    wait_code(&Player::rtmp(relay.rtmp, "live", &name), "NetStream.Play.BadAuth");
    let query = signed("play", "a");
    let players = [
        Player::http_flv(relay.http, &format!("{path}?{query}")),
        Player::ws_flv(relay.http, &format!("{path}?{query}")),
        Player::rtmp(relay.rtmp, "live", &format!("a?{query}")),
    ];
    players.iter().for_each(|player| player.wait_frames(Kind::Video, 5));
    assert!(relay.metric("rillcast_joins_denied_total") >= 6);
    drop(players);
    relay.stop();
}

#[track_caller]
fn wait_code(player: &Player, code: &str) {
    wait_until(LIVENESS, code, || player.look(|seen| seen.codes.iter().any(|seen| seen == code)));
}

#[test]
fn denied_addresses_are_not_let_in_and_a_reload_lets_them() {
    let relay = Relay::start_with(
        1,
        "[access]\npublish_deny = \"loopback\"\nplay_allow = \"192.0.2.0/24\"\napi_deny = \"::1\"\n",
    );
    assert_eq!(status(&relay, "/live/a.live.flv"), 403);
    wait_code(&Player::rtmp_publish(relay.rtmp, "live", "a"), "NetStream.Publish.BadAuth");
    wait_code(&Player::rtmp(relay.rtmp, "live", "a"), "NetStream.Play.BadAuth");
    std::fs::write(relay.dir().file("rillcast.toml"), "").expect("the relay's config file");
    assert_eq!(relay.api("reloadConfig", &[])["code"], 0);
    let _publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    Player::http_flv(relay.http, "/live/a.live.flv").wait_frames(Kind::Video, 2);
    relay.stop();
}

/// What a call of the API from an address of ours is answered with.
fn api_code_from(relay: &Relay, from: &str) -> i64 {
    let mut socket = bound_to(relay.http, &format!("{from}:0"));
    let path = format!("/index/api/version?secret={SECRET}");
    let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).expect("a request");
    socket.set_read_timeout(Some(LIVENESS)).expect("a timeout");
    let mut reply = String::new();
    socket.read_to_string(&mut reply).expect("a reply");
    let body = reply.split("\r\n\r\n").nth(1).expect("a body");
    let body: Value = serde_json::from_str(body).expect("JSON");
    body["code"].as_i64().expect("a code")
}

#[test]
fn networks_say_who_may_call_the_api() {
    let lists = "[http]\nallow_ip_range = \"127.0.0.0/8\"\n[access]\napi_deny = \"127.0.0.2\"\n";
    let relay = Relay::start_with(1, lists);
    let codes = || ["127.0.0.1", "127.0.0.2", "127.0.0.9"].map(|from| api_code_from(&relay, from));
    assert_eq!(codes(), [0, -100, 0]);
    let set = [("http.allow_ip_range", "127.0.0.0/30")];
    assert_eq!(relay.api("setServerConfig", &set)["changed"], 1);
    assert_eq!(codes(), [0, -100, -100]);
    relay.stop();
}

#[test]
fn pulls_do_not_reach_what_is_denied_by_name_address_or_redirect() {
    let target = Origin::start(Mode::Healthy);
    let origin = Origin::start(Mode::Healthy);
    // All of 127/8 is this host; origins listen on 127.0.0.1.
    let relay = Relay::start_with(1, "[access]\npull_deny = \"127.0.0.2, ::1, 127.0.0.9\"\n");
    let reply = relay.add("fine", &origin.rtmp_url("a"), &[]);
    assert_eq!(reply["code"], 0, "{reply}");
    let elsewhere = origin.flv_url("a").replace("127.0.0.1", "127.0.0.2");
    let reply = relay.add("literal", &elsewhere, &[]);
    assert_eq!(reply["msg"], "127.0.0.2 is in access.pull_deny");
    let mapped = origin.flv_url("a").replace("127.0.0.1", "[::ffff:127.0.0.2]");
    let reply = relay.add("mapped", &mapped, &[("async", "1")]);
    assert_eq!(reply["code"], 0, "{reply}");
    wait_until(LIVENESS, "it is denied", || {
        relay.proxy("mapped").is_some_and(|row| row["errorClass"] == "denied")
    });
    origin.set(Mode::Redirect(target.flv_url("a").replace("127.0.0.1", "127.0.0.2")));
    let reply = relay.add("redirected", &origin.flv_url("a"), &[]);
    assert_eq!(reply["msg"], "127.0.0.2 is in access.pull_deny");
    drop(relay);
    let relay = Relay::start_with(1, "[access]\npull_deny = \"loopback\"\n");
    let named = origin.flv_url("a").replace("127.0.0.1", "localhost");
    let reply = relay.add("named", &named, &[]);
    let msg = reply["msg"].as_str().expect("why");
    assert!(msg.ends_with("is in access.pull_deny"), "{reply}");
    relay.stop();
}

#[test]
fn what_pulls_may_not_reach_pushes_looks_and_origins_may_not_either() {
    const DENIED: &str = "127.0.0.2 is in access.pull_deny";
    let target = Origin::start(Mode::Healthy);
    let there = |url: String| url.replace("127.0.0.1", "127.0.0.2");
    let entry = format!("[[origin]]\nurl = \"{}\"\n", there(target.rtmp_url("{stream}")));
    let relay = Relay::start_with(1, &format!("[access]\npull_deny = \"127.0.0.2\"\n{entry}"));

    let sends_on = Origin::start(Mode::Redirect(there(target.flv_url("a"))));
    let look = [("url", &*sends_on.flv_url("a")), ("timeout_sec", "10")];
    let reply = relay.api("probeStream", &look);
    assert_eq!((&reply["code"], &reply["msg"]), (&json!(-1), &json!(DENIED)), "{reply}");
    assert_eq!(reply["data"]["errorClass"], "denied", "{reply}");

    let _publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    let url = there(target.rtmp_url("out"));
    let (vhost, schema) = ("__defaultVhost__", "rtmp");
    let push = [("vhost", vhost), ("app", "live"), ("stream", "a"), ("schema", schema)];
    let reply = relay.api("addStreamPusherProxy", &[&push[..], &[("dst_url", &*url)]].concat());
    assert_eq!((&reply["code"], &reply["msg"]), (&json!(-1), &json!(DENIED)), "{reply}");

    assert_eq!(status(&relay, "/live/absent.live.flv"), 502);
    let why = || relay.api("why", &[("app", "live"), ("stream", "absent")])["data"].clone();
    wait_until(LIVENESS, "the rule is named", || {
        let rules = why()["rules"].as_array().cloned().unwrap_or_default();
        rules.iter().any(|row| row["rule"] == "access.pull_deny")
    });
    assert_eq!(target.count(), 0, "nobody was there");
    relay.stop();
}

#[test]
fn one_address_has_so_many_connections_and_joins() {
    let limits = "connections_per_address_max = 8\njoins_per_second_per_address_max = 2\n";
    let relay = Relay::start_with(1, &format!("[limits]\n{limits}"));
    let open = || TcpStream::connect(relay.http).expect("it listens");
    let mut held: Vec<TcpStream> = (0..8).map(|_| open()).collect();
    wait_until(LIVENESS, "the ninth is closed", || ended(&mut open()));
    held.truncate(1);
    wait_until(LIVENESS, "there is room again", || relay_answers(relay.http));
    // All come at once: two may, and again so many in the next second.
    let mut sockets: Vec<TcpStream> = (0..6).map(|_| open()).collect();
    sockets.iter_mut().for_each(ask_for_absent);
    let statuses: Vec<u16> = sockets.iter_mut().map(status_or_wait).collect();
    assert_eq!(statuses[0], 0, "{statuses:?}");
    assert!(statuses.contains(&503), "{statuses:?}");
    drop(sockets);
    wait_until(LIVENESS, "somebody may join again", || {
        let mut socket = open();
        ask_for_absent(&mut socket);
        status_or_wait(&mut socket) == 0
    });
    assert!(relay.metric("rillcast_connections_refused_total") >= 1);
    drop(held);
    relay.stop();
}

fn ask_for_absent(socket: &mut TcpStream) {
    let head = b"GET /live/absent.live.flv HTTP/1.1\r\nHost: x\r\n\r\n";
    socket.write_all(head).expect("a request");
}

/// 0 where it waits for the stream.
fn status_or_wait(socket: &mut TcpStream) -> u16 {
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let mut reply = [0; 12];
    match socket.read_exact(&mut reply) {
        Ok(()) => String::from_utf8_lossy(&reply[9..]).parse().expect("a status"),
        Err(_) => 0,
    }
}

/// Whether the peer has closed it.
fn ended(socket: &mut TcpStream) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    match socket.read(&mut [0]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

fn relay_answers(address: SocketAddr) -> bool {
    http::request(address, "GET /healthz", &[], b"").is_ok_and(|reply| reply.status == 200)
}

#[test]
fn those_who_may_not_join_take_no_place_of_those_who_may() {
    let rules = "[limits]\njoins_per_second_max = 2\n[access]\nplay_deny = \"127.0.0.2\"\n";
    let relay = Relay::start_with(1, rules);
    for _ in 0..6 {
        let mut socket = bound_to(relay.http, "127.0.0.2:0");
        ask_for_absent(&mut socket);
        assert_eq!(status_or_wait(&mut socket), 403);
    }
    let mut socket = bound_to(relay.http, "127.0.0.1:0");
    ask_for_absent(&mut socket);
    assert_eq!(status_or_wait(&mut socket), 0, "it waits for the stream");
    relay.stop();
}

/// A connection from an address of ours.
fn bound_to(to: SocketAddr, from: &str) -> TcpStream {
    let from: SocketAddr = from.parse().expect("an address");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&from.into()).expect("a loopback address");
    socket.connect(&to.into()).expect("it listens");
    socket.into()
}

/// The status of what is asked over RTSP on a connection of its own from an address of ours.
fn rtsp_status(relay: &Relay, from: &str, method: &str, name: &str) -> u16 {
    let mut socket = bound_to(relay.rtsp, &format!("{from}:0"));
    let body = match method {
        "ANNOUNCE" => Media::of("av.flv", Plan::default()).description(),
        _ => String::new(),
    };
    let url = relay.rtsp_url(name);
    let len = body.len();
    let head = format!("{method} {url} RTSP/1.0\r\nCSeq: 1\r\nContent-Type: application/sdp\r\n");
    socket
        .write_all(format!("{head}Content-Length: {len}\r\n\r\n{body}").as_bytes())
        .expect("a request");
    socket.set_read_timeout(Some(LIVENESS)).expect("a timeout");
    let mut reply = [0; 12];
    socket.read_exact(&mut reply).expect("an answer");
    String::from_utf8_lossy(&reply[9..]).parse().expect("a status")
}

#[test]
fn over_rtsp_the_same_rules_hold() {
    let keys = "publish_keys = { live = \"pub\" }\nplay_keys = { \"*\" = \"play\" }\n";
    let deny = "publish_deny = \"127.0.0.2\"\nplay_deny = \"127.0.0.2\"\n";
    let wait = config::max_stream_wait_ms(200);
    let relay = Relay::start_with(1, &format!("{wait}[access]\n{keys}{deny}"));
    for (method, secret) in [("DESCRIBE", "play"), ("ANNOUNCE", "pub")] {
        let right = format!("a?{}", signed(secret, "a"));
        let wrong = format!("a?{}", signed(secret, "b"));
        assert_eq!(rtsp_status(&relay, "127.0.0.1", method, "a"), 403, "{method}");
        assert_eq!(rtsp_status(&relay, "127.0.0.1", method, &wrong), 403, "{method}");
        assert_eq!(rtsp_status(&relay, "127.0.0.2", method, &right), 403, "{method}");
        let let_in = rtsp_status(&relay, "127.0.0.1", method, &right);
        assert_eq!(let_in, if method == "ANNOUNCE" { 200 } else { 404 }, "{method}");
    }
    relay.stop();
    let relay = Relay::start_with(1, &format!("{wait}[limits]\njoins_per_second_max = 1\n"));
    for method in ["DESCRIBE", "ANNOUNCE"] {
        wait_until(LIVENESS, "a join too many", || {
            rtsp_status(&relay, "127.0.0.1", method, &format!("{method}-a")) == 503
        });
    }
    relay.stop();
}

/// The next `player_refused` of a stream, once it has been asked for.
fn refused(follower: &Follower, stream: &str) -> Value {
    let mut found = None;
    wait_until(LIVENESS, &format!("{stream} is refused"), || {
        let mut events = follower.events().into_iter();
        found = events.find(|e| e.name == "player_refused" && e.data["key"] == key(stream));
        found.is_some()
    });
    found.expect("just found").data
}

#[test]
fn players_that_are_not_let_in_are_told_with_the_rule() {
    let rules = "play_keys = { live = \"play\" }\nplay_deny = \"127.0.0.2\"\n";
    let relay = Relay::start_with(2, &format!("[access]\n{rules}"));
    let follower = Follower::start(relay.http, &format!("secret={SECRET}"), None);
    let why = |stream: &str| relay.api("why", &[("key", &key(stream))])["data"].clone();

    assert_eq!(status(&relay, "/live/http.live.flv"), 403);
    let event = refused(&follower, "http");
    assert_eq!((&event["reason"], &event["protocol"]), (&json!("not_signed"), &json!("http")));
    assert!(event["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{event}");
    assert_eq!(why("http")["rules"][0]["rule"], "access.play_keys");

    let name = format!("rtmp?{}", signed("play", "other"));
    wait_code(&Player::rtmp(relay.rtmp, "live", &name), "NetStream.Play.BadAuth");
    let event = refused(&follower, "rtmp");
    assert_eq!((&event["reason"], &event["protocol"]), (&json!("wrong_signature"), &json!("rtmp")));

    assert_eq!(rtsp_status(&relay, "127.0.0.2", "DESCRIBE", "rtsp"), 403);
    let event = refused(&follower, "rtsp");
    assert_eq!((&event["reason"], &event["protocol"]), (&json!("address_denied"), &json!("rtsp")));
    assert_eq!(why("rtsp")["rules"][0]["rule"], "access.play_allow or access.play_deny");
    relay.stop();

    let relay = Relay::start_with(1, "[limits]\njoins_per_second_max = 1\n");
    let follower = Follower::start(relay.http, &format!("secret={SECRET}"), None);
    wait_until(LIVENESS, "a join too many", || {
        let mut socket = bound_to(relay.http, "127.0.0.1:0");
        ask_for_absent(&mut socket);
        status_or_wait(&mut socket) == 503
    });
    assert_eq!(refused(&follower, "absent")["reason"], "too_many_joins");
    relay.stop();
}

#[test]
fn peers_that_send_a_byte_now_and_then_are_closed() {
    let deadlines = "[http]\nheader_timeout_ms = 500\n[rtmp]\nhandshake_ms = 500\n";
    let relay = Relay::start_with(1, deadlines);
    let head = b"GET /index/api/version HTTP/1.1\r\nX-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let handshake = [3; 100];
    for (address, bytes) in [(relay.http, &head[..]), (relay.rtmp, &handshake[..])] {
        let socket = TcpStream::connect(address).expect("it listens");
        wait_closed_while_it_drips(socket, bytes);
    }
    relay.stop();
}

#[test]
fn peers_that_are_slow_behind_the_handshake_are_closed() {
    let deadlines = "[http]\nheader_timeout_ms = 500\n[rtmp]\nhandshake_ms = 1000\n\
        [rtsp]\nhandshake_ms = 1000\n";
    let relay = Relay::start_with(1, deadlines);
    let begin = |address: SocketAddr, opening: &[u8]| {
        let mut socket = TcpStream::connect(address).expect("it listens");
        socket.write_all(opening).expect("it reads");
        socket
    };
    // A body, behind its head.
    let head = b"POST /index/api/version HTTP/1.1\r\nHost: h\r\nContent-Length: 9999\r\n\r\n";
    wait_closed_while_it_drips(begin(relay.http, head), b"a");
    // A request, behind one that was answered.
    let options = b"OPTIONS rtsp://h/ RTSP/1.0\r\nCSeq: 1\r\n\r\n";
    let mut socket = begin(relay.rtsp, options);
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"RTSP/1.0 200");
    wait_closed_while_it_drips(socket, b"OPTIONS rtsp://h/ RTSP/1.0\r\nX: aaaaaaaaaaaaaaaaaaa");
    // A command, behind C2.
    let mut socket = begin(relay.rtmp, &[&[3][..], &[0; 1536]].concat());
    let mut answer = [0; 1 + 2 * 1536];
    socket.read_exact(&mut answer).expect("S0, S1 and S2");
    socket.write_all(&answer[1..1537]).expect("it reads C2");
    wait_closed_while_it_drips(socket, b"\x03\0\0\0\0\xff\xff\x14\0\0\0\0\x02\0\x07connect");
    relay.stop();
}

/// Sends a byte now and then until the relay has enough of it.
#[track_caller]
fn wait_closed_while_it_drips(mut socket: TcpStream, bytes: &[u8]) {
    let mut sent = 0;
    wait_until(LIVENESS, "it is closed", || {
        pause(Duration::from_millis(80));
        let byte = bytes[sent % bytes.len()];
        sent += 1;
        socket.write_all(&[byte]).is_err() || ended(&mut socket)
    });
}
