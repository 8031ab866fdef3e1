//! Pushes: what a stream has is what their destinations get, and each goes its own way until it is
//! deleted, whatever becomes of its stream and its destination.

mod kit;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::spawn;

use kit::compare::{AtLeast, assert_never_steps_back, assert_same_media, coded};
use kit::fault::{Mode, Origin, Stage};
use kit::ffmpeg::{Modern, Publisher, Recorder, assert_same_packets, packets_of};
use kit::flv::{self, Kind, Tag};
use kit::relay::Holdings;
use kit::rtmp::Message;
use kit::rtsp::Lower;
use kit::rtsp_peers::{Clip, ffmpeg_publish};
use kit::units::{self, WithinMs, assert_same};
use kit::{Destination, LIVENESS, Nginx, Player, Relay, TempDir, config, free_port, wait_until};
use serde_json::{Value, json};

/// About two seconds.
const BOTH: AtLeast = AtLeast { video: 50, audio: 40 };

fn params<'a>(url: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let schema = if url.starts_with("rtsp:") { "rtsp" } else { "rtmp" };
    let base = [
        ("schema", schema),
        ("vhost", "__defaultVhost__"),
        ("app", "live"),
        ("stream", "a"),
        ("dst_url", url),
    ];
    [&base, more].concat()
}

#[track_caller]
fn add(relay: &Relay, url: &str, more: &[(&str, &str)]) -> Value {
    relay.api("addStreamPusherProxy", &params(url, more))
}

/// Adds a push that must succeed; its key.
#[track_caller]
fn push(relay: &Relay, url: &str, more: &[(&str, &str)]) -> String {
    let reply = add(relay, url, more);
    assert_eq!(reply["code"], 0, "{reply}\n{}", relay.log());
    reply["data"]["key"].as_str().expect("a key").to_owned()
}

#[track_caller]
fn delete(relay: &Relay, key: &str) -> Value {
    relay.api("delStreamPusherProxy", &[("key", key)])["data"].clone()
}

#[track_caller]
fn show(relay: &Relay, key: &str) -> Value {
    relay.api("getProxyPusherInfo", &[("key", key)])["data"].clone()
}

#[track_caller]
fn wait_state(relay: &Relay, key: &str, state: &str) {
    let mut last = Value::Null;
    let there = kit::holds_within(LIVENESS, || {
        last = show(relay, key);
        last["state"] == state
    });
    assert!(there, "not {state}: {last}\n{}", relay.log());
}

/// ffmpeg publishes a file as `live/a`.
fn publish(modern: Modern, file: &str, relay: &Relay) -> Publisher {
    let publisher = Publisher::start(modern, file, &relay.rtmp_url("a"));
    relay.wait_online("a");
    publisher
}

/// From the first keyframe on, with the configurations that came before.
fn from_keyframe(tags: &[Tag]) -> Vec<Tag> {
    let start = tags.iter().position(Tag::is_video_keyframe).expect("a keyframe");
    let configs = tags[..start].iter().filter(|tag| tag.role() == flv::Role::Config).cloned();
    configs.chain(tags[start..].iter().cloned()).collect()
}

#[test]
fn nginx_gets_what_was_published() {
    let relay = Relay::start(2);
    let nginx = Nginx::start();
    let mut publisher = publish(Modern::No, "av.flv", &relay);
    let key = push(&relay, &nginx.url("out"), &[]);
    let mut recorder = Recorder::start(Modern::No, &nginx.url("out"));
    let player = Player::rtmp(([127, 0, 0, 1], nginx.port).into(), "live", "out");
    recorder.wait_packets(100);
    player.wait_frames(Kind::Video, 100);
    let row = show(&relay, &key);
    assert_eq!((&row["status"], &row["rePublishCount"]), (&json!(0), &json!(0)), "{row}");
    assert!(row["totalBytes"].as_u64() > Some(0), "{row}");
    assert_eq!(delete(&relay, &key)["flag"], true);
    let (tags, packets) = (player.stop(), recorder.stop());
    publisher.stop();
    assert_same_media("nginx", &publisher.sent(), &from_keyframe(&tags), BOTH);
    let sent = packets_of(Modern::No, &publisher.sent_file());
    assert_same_packets("ffmpeg from nginx", &sent, &packets, 100);
    relay.stop();
    nginx.stop();
}

/// To two other relays at once; both get the whole.
#[track_caller]
fn two_relays_get(modern: Modern, file: &str, at_least: AtLeast) {
    let relay = Relay::start(2);
    let others = [Relay::start(1), Relay::start(2)];
    let mut publisher = publish(modern, file, &relay);
    let keys = others.each_ref().map(|other| push(&relay, &other.rtmp_url("out"), &[]));
    let players = others.each_ref().map(|other| {
        other.wait_online("out");
        Player::http_flv(other.http, "/live/out.live.flv")
    });
    let list = relay.api("listStreamPusherProxy", &[]);
    let listed: Vec<&Value> = list["data"].as_array().expect("a list").iter().collect();
    assert_eq!(listed.len(), 2, "{list}");
    assert!(keys.iter().all(|key| listed.iter().any(|row| row["key"] == **key)), "{list}");
    let media = relay.api("getMediaList", &[("schema", "rtmp")]);
    assert_eq!(media["data"][0]["readerCount"], 2, "{media}");
    for player in &players {
        player.wait_frames(Kind::Video, at_least.video);
    }
    assert_eq!(delete(&relay, &keys[0])["flag"], true);
    wait_until(LIVENESS, "the first relay's stream ends", || !others[0].is_online("out"));
    assert!(others[1].is_online("out"), "the other goes on");
    let [first, second] = players.map(Player::stop);
    assert_eq!(delete(&relay, &keys[1])["flag"], true);
    publisher.stop();
    let sent = publisher.sent();
    assert_same_media("the first", &sent, &first, at_least);
    assert_same_media("the second", &sent, &second, at_least);
    relay.stop();
    others.into_iter().for_each(Relay::stop);
}

#[test]
fn two_relays_get_what_was_published() {
    two_relays_get(Modern::No, "av.flv", BOTH);
}

#[test]
fn destination_numbers_its_message_stream_and_gets_metadata_as_a_data_frame() {
    let relay = Relay::start(2);
    let destinations = [1, 7].map(Destination::start);
    let mut publisher = publish(Modern::No, "av.flv", &relay);
    for destination in &destinations {
        push(&relay, &format!("rtmp://{}/live/out", destination.address), &[]);
    }
    for (destination, stream_id) in destinations.iter().zip([1, 7]) {
        wait_until(LIVENESS, "pictures", || destination.media().len() > 100);
        let media = destination.media();
        assert!(media.iter().all(|message| message.stream_id == stream_id), "{stream_id}");
        let tags: Vec<Tag> = media.iter().filter_map(tag_of).collect();
        assert_same_media(
            &format!("message stream {stream_id}"),
            &publisher.sent(),
            &from_keyframe(&tags),
            AtLeast { video: 20, audio: 20 },
        );
        let metadata = b"\x02\0\x0d@setDataFrame\x02\0\x0aonMetaData";
        assert!(media[0].payload.starts_with(metadata), "{:?}", media[0]);
    }
    publisher.stop();
    relay.stop();
}

fn tag_of(message: &Message) -> Option<Tag> {
    let kind = Kind::of(message.number).filter(|kind| *kind != Kind::Script)?;
    Some(Tag { kind, timestamp_ms: message.timestamp_ms, payload: message.payload.clone() })
}

#[test]
fn codecs_of_enhanced_rtmp_pass_unchanged() {
    two_relays_get(Modern::Yes, "hevc_aac.flv", BOTH);
}

#[test]
fn push_keeps_its_connection_while_its_stream_blips() {
    let relay = Relay::start_with(2, &config::grace_ms(20_000));
    let other = Relay::start(1);
    let mut publisher = publish(Modern::No, "av.flv", &relay);
    let key = push(&relay, &other.rtmp_url("out"), &[]);
    other.wait_online("out");
    let player = Player::http_flv(other.http, "/live/out.live.flv");
    player.wait_frames(Kind::Video, 30);
    for round in 1..=3 {
        publisher.crash();
        publisher = publish(Modern::No, "av.flv", &relay);
        let frames = coded(&player.tags(), Kind::Video).len();
        player.wait_frames(Kind::Video, frames + 30);
        let row = show(&relay, &key);
        assert_eq!((&row["state"], &row["attempts"]), (&json!("up"), &json!(1)), "{round}: {row}");
    }
    assert_never_steps_back("over three publishers", &player.stop());
    publisher.stop();
    // An orderly end is none of the push: it waits, and begins anew.
    wait_state(&relay, &key, "awaiting_source");
    wait_until(LIVENESS, "its destination is told", || !other.is_online("out"));
    let mut publisher = publish(Modern::No, "av.flv", &relay);
    wait_state(&relay, &key, "up");
    other.wait_online("out");
    let row = show(&relay, &key);
    assert_eq!((&row["rePublishCount"], &row["lastError"]), (&json!(1), &Value::Null), "{row}");
    assert_eq!(delete(&relay, &key)["flag"], true);
    publisher.stop();
    relay.stop();
    other.stop();
}

#[test]
fn push_comes_back_with_its_destination() {
    let relay = Relay::start_with(2, config::RETRY_SOON);
    let port = free_port();
    let mut nginx = Nginx::start_at(port, "");
    let mut publisher = publish(Modern::No, "av.flv", &relay);
    let key = push(&relay, &nginx.url("out"), &[]);
    for round in 1..=2 {
        nginx.stop();
        wait_until(LIVENESS, "the loss is seen", || show(&relay, &key)["status"] == 1);
        let class = show(&relay, &key)["errorClass"].clone();
        assert!(class == "lost" || class == "refused", "{class}");
        nginx = Nginx::start_at(port, "");
        wait_state(&relay, &key, "up");
        let row = show(&relay, &key);
        assert_eq!(row["rePublishCount"], round, "{row}");
        let player = Player::rtmp(([127, 0, 0, 1], port).into(), "live", "out");
        player.wait_frames(Kind::Video, 30);
        player.stop();
    }
    assert_eq!(delete(&relay, &key)["flag"], true);
    publisher.stop();
    relay.stop();
    nginx.stop();
}

#[test]
fn push_is_deleted_at_any_stage() {
    let relay = Relay::start(2);
    let mut publisher = publish(Modern::No, "av.flv", &relay);
    let place = Origin::start(Mode::Refused);
    let start = Bench { relay: &relay }.settled();
    let hangs = [
        (Mode::SynDropped, None),
        (Mode::AcceptedSilent, Some(Stage::Accepted)),
        (Mode::AfterC0C1, Some(Stage::Greeted)),
        (Mode::AfterHandshake, Some(Stage::HandshakeDone)),
        (Mode::ConnectUnanswered, Some(Stage::ConnectRead)),
        (Mode::Refused, None),
        (Mode::Reset, None),
        (Mode::NotFlv, None),
    ];
    for (mode, stage) in hangs {
        for waits in [false, true] {
            let what = format!("{mode:?}, the add waits: {waits}");
            place.set(mode.clone());
            let (before, url) = (place.count(), place.rtmp_url("out"));
            let is_async = if waits { "0" } else { "1" };
            let params = params(&url, &[("async", is_async), ("timeout_sec", "30")]);
            let adding = relay.api.call_later("addStreamPusherProxy", &params);
            let key = match waits {
                false => adding.join().expect("a reply")["data"]["key"].as_str().map(str::to_owned),
                true if matches!(mode, Mode::Refused | Mode::Reset | Mode::NotFlv) => {
                    let reply = adding.join().expect("a reply");
                    assert_eq!(reply["code"], -1, "{what}: {reply}");
                    let list = relay.api("listStreamPusherProxy", &[]);
                    assert_eq!(list["data"], json!([]), "{what}");
                    place.wait_all_closed(LIVENESS);
                    Bench { relay: &relay }.assert_back_to(&start, &what);
                    continue;
                }
                true => {
                    let mut key = None;
                    wait_until(LIVENESS, &format!("{what}: it is listed"), || {
                        let list = relay.api("listStreamPusherProxy", &[]);
                        key = list["data"][0]["key"].as_str().map(str::to_owned);
                        key.is_some()
                    });
                    reached(&relay, &place, &mode, stage, before, &what);
                    let key = key.expect("just seen");
                    assert_eq!(delete(&relay, &key)["flag"], true, "{what}");
                    let reply = adding.join().expect("a reply");
                    assert_eq!(reply["code"], -1, "{what}: {reply}");
                    place.wait_all_closed(LIVENESS);
                    Bench { relay: &relay }.assert_back_to(&start, &what);
                    continue;
                }
            };
            let key = key.unwrap_or_else(|| panic!("{what}: no key"));
            reached(&relay, &place, &mode, stage, before, &what);
            let deleted = delete(&relay, &key);
            assert_eq!(deleted["flag"], true, "{what}: {deleted}");
            assert_eq!(deleted["released"]["complete"], true, "{what}: {deleted}");
            assert_eq!(delete(&relay, &key)["flag"], false, "{what}: again");
            place.wait_all_closed(LIVENESS);
            assert_eq!(place.half_open_count(), 0, "{what}: a SYN is still out");
            Bench { relay: &relay }.assert_back_to(&start, &what);
        }
    }
    let other = Relay::start(1);
    let key = push(&relay, &other.rtmp_url("out"), &[]);
    other.wait_online("out");
    let deleted = delete(&relay, &key);
    assert_eq!(
        (&deleted["released"]["sockets"], &deleted["released"]["players"]),
        (&json!(1), &json!(1)),
        "{deleted}"
    );
    wait_until(LIVENESS, "the destination sees its end", || !other.is_online("out"));
    Bench { relay: &relay }.assert_back_to(&start, "up");
    publisher.stop();
    relay.stop();
    other.stop();
}

/// What a relay holds, but for the media, which comes and goes.
struct Bench<'a> {
    relay: &'a Relay,
}

impl Bench<'_> {
    fn now(&self) -> Holdings {
        let mut now = self.relay.holdings_now();
        now.ledger.remove("log_bytes");
        now
    }

    /// With its publisher and nothing else.
    #[track_caller]
    fn settled(&self) -> Holdings {
        let mut settled = self.relay.holdings();
        settled.ledger.remove("log_bytes");
        let kinds = settled.ledger.iter().filter(|(_, count)| **count > 0);
        let kinds: Vec<&str> = kinds.map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["publishers", "sockets", "streams", "timers"], "{settled:?}");
        settled
    }

    #[track_caller]
    fn assert_back_to(&self, start: &Holdings, what: &str) {
        let mut now = self.now();
        let is_back = kit::holds_within(LIVENESS, || {
            now = self.now();
            now == *start
        });
        assert!(is_back, "{what}: holds {now:?}, started with {start:?}");
    }
}

/// Waits until an attempt hangs, or has failed.
#[track_caller]
fn reached(
    relay: &Relay,
    place: &Origin,
    mode: &Mode,
    stage: Option<Stage>,
    before: usize,
    what: &str,
) {
    match stage {
        Some(stage) => place.wait_stage(before, stage),
        None if *mode == Mode::SynDropped => {
            wait_until(LIVENESS, &format!("{what}: a SYN is out"), || place.half_open_count() == 1);
        }
        None => wait_until(LIVENESS, &format!("{what}: an attempt fails"), || {
            let list = relay.api("listStreamPusherProxy", &[]);
            list["data"][0]["lastError"].is_string()
        }),
    }
}

#[test]
fn add_answers_as_the_contract_says() {
    let relay = Relay::start(2);
    let other = Relay::start(1);
    let url = other.rtmp_url("out");
    let reply = add(&relay, &url, &[]);
    assert_eq!(reply, json!({"code": -1, "msg": "can not find the source stream"}));
    let mut publisher = publish(Modern::No, "av.flv", &relay);
    let key = push(&relay, &url, &[]);
    assert!(key.starts_with("rtmp/__defaultVhost__/live/a/"), "{key}");
    assert_eq!(push(&relay, &url, &[]), key, "it is there already");
    let list = relay.api("listStreamPusherProxy", &[("key", &key)]);
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
    let captured = json!({"bytesSpeed": 0, "key": key, "liveSecs": 0, "rePublishCount": 0,
        "src": {"app": "live", "params": "", "stream": "a", "vhost": "__defaultVhost__"},
        "status": 0, "totalBytes": 0, "url": url});
    for (name, value) in captured.as_object().expect("an object") {
        let ours = &list["data"][0][name];
        let is_count = value.is_u64() && name != "status";
        assert!(ours == value || is_count && ours.is_u64(), "{name}: {ours}, not {value}");
    }
    let refused = add(&relay, &format!("rtmp://127.0.0.1:{}/live/x", free_port()), &[]);
    assert_eq!(refused, json!({"code": -1, "msg": "connection refused"}));
    // The name is taken there, by this very push.
    let mut second = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("b"));
    relay.wait_online("b");
    let params = params(&url, &[("stream", "b")]);
    let taken = relay.api("addStreamPusherProxy", &params);
    assert_eq!(taken["code"], -1, "{taken}");
    assert!(taken["msg"].as_str().is_some_and(|msg| msg.contains("BadName")), "{taken}");
    let list = relay.api("listStreamPusherProxy", &[]);
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(delete(&relay, &key)["flag"], true);
    second.stop();
    publisher.stop();
    relay.stop();
    other.stop();
}

#[test]
fn pushes_come_back_after_a_crash() {
    let dir = TempDir::new("push-journal");
    let config = format!("[server]\ndata_dir = {:?}\n", dir.path().join("data"));
    let other = Relay::start(1);
    let mut relay = Relay::start_with(2, &config);
    let mut publisher = publish(Modern::No, "av.flv", &relay);
    let kept = push(&relay, &other.rtmp_url("kept"), &[]);
    let gone = push(&relay, &other.rtmp_url("gone"), &[]);
    assert_eq!(delete(&relay, &gone)["flag"], true);
    relay.process.kill();
    publisher.stop();
    let relay = Relay::start_with(1, &config);
    let list = relay.api("listStreamPusherProxy", &[]);
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
    let row = &list["data"][0];
    assert_eq!((&row["key"], &row["state"]), (&json!(kept), &json!("awaiting_source")));
    let mut publisher = publish(Modern::No, "av.flv", &relay);
    wait_state(&relay, &kept, "up");
    other.wait_online("kept");
    assert_eq!(delete(&relay, &kept)["flag"], true);
    publisher.stop();
    relay.stop();
    other.stop();
}

/// To another relay over RTSP, from a publisher over RTMP.
#[track_caller]
fn relay_gets_over_rtsp(transport: &str, within: WithinMs) {
    let clip = Clip::of("av.flv");
    let relay = Relay::start(2);
    let other = Relay::start(2);
    let mut publisher = ffmpeg_publish(Modern::No, &clip, &relay.rtmp_url("a"), Lower::Tcp);
    relay.wait_online("a");
    let start = Bench { relay: &relay }.settled();
    let key = push(&relay, &other.rtsp_url("out"), &[("rtp_type", transport)]);
    other.wait_online("out");
    let player = Player::http_flv(other.http, "/live/out.live.flv");
    player.wait_frames(Kind::Video, BOTH.video);
    player.wait_frames(Kind::Audio, BOTH.audio);
    let row = show(&relay, &key);
    assert_eq!(row["state"], "up", "{row}");
    let tags = player.stop();
    assert_same("the other relay", &clip.units, &units::of_tags(&tags), BOTH, within);
    assert_eq!(delete(&relay, &key)["flag"], true);
    wait_until(LIVENESS, "the destination sees its end", || !other.is_online("out"));
    Bench { relay: &relay }.assert_back_to(&start, "deleted");
    publisher.terminate(LIVENESS);
    relay.stop();
    other.stop();
}

#[test]
fn relay_gets_over_rtsp_by_tcp() {
    relay_gets_over_rtsp("0", WithinMs(10.0));
}

#[test]
fn relay_gets_over_rtsp_by_udp() {
    relay_gets_over_rtsp("1", WithinMs(10.0));
}

/// Stands before a server of RTSP, and hands on what comes of a connection up to a request.
struct Gate {
    address: SocketAddr,
    /// The request has come.
    reached: Receiver<()>,
}

impl Gate {
    fn start(server: SocketAddr, method: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (reaches, reached) = channel();
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let reaches = reaches.clone();
                // They end with the client.
                spawn(move || pass_until(client, server, method, &reaches));
            }
        });
        Self { address, reached }
    }
}

fn pass_until(
    mut client: TcpStream,
    server: SocketAddr,
    method: &str,
    reaches: &Sender<()>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server)?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    spawn(move || std::io::copy(&mut from_server, &mut to_client));
    let mut buffer = [0; 65536];
    loop {
        let len = client.read(&mut buffer)?;
        if len == 0 {
            return server.shutdown(Shutdown::Both);
        }
        if buffer[..len].starts_with(method.as_bytes()) {
            // Whoever waits for it may have gone.
            let _ = reaches.send(());
            while client.read(&mut buffer)? > 0 {}
            return server.shutdown(Shutdown::Both);
        }
        server.write_all(&buffer[..len])?;
    }
}

#[test]
fn push_over_rtsp_is_deleted_at_any_stage() {
    let relay = Relay::start(2);
    let other = Relay::start(2);
    let mut publisher = publish(Modern::No, "av.flv", &relay);
    let start = Bench { relay: &relay }.settled();
    let pairs_free = relay.udp_pairs_free();
    for transport in ["0", "1"] {
        for method in ["OPTIONS", "ANNOUNCE", "SETUP", "RECORD"] {
            let what = format!("{method}, rtp_type {transport}");
            let gate = Gate::start(other.rtsp, method);
            let url = format!("rtsp://{}/live/out", gate.address);
            let more = [("async", "1"), ("timeout_sec", "30"), ("rtp_type", transport)];
            let key = push(&relay, &url, &more);
            gate.reached.recv_timeout(LIVENESS).expect(&what);
            let has_ports = transport == "1" && ["SETUP", "RECORD"].contains(&method);
            assert_eq!(relay.udp_pairs_free() < pairs_free, has_ports, "{what}");
            let deleted = delete(&relay, &key);
            assert_eq!(deleted["flag"], true, "{what}: {deleted}");
            assert_eq!(deleted["released"]["complete"], true, "{what}: {deleted}");
            assert_eq!(relay.udp_pairs_free(), pairs_free, "{what}");
            Bench { relay: &relay }.assert_back_to(&start, &what);
        }
    }
    publisher.stop();
    relay.stop();
    other.stop();
}

/// Publishers of other parameter sets, one with pictures out of order and one without.
#[test]
fn push_over_rtsp_keeps_its_connection_while_its_stream_blips() {
    let relay = Relay::start_with(2, &config::grace_ms(20_000));
    let other = Relay::start(1);
    let mut publisher = publish(Modern::No, "av.flv", &relay);
    let key = push(&relay, &other.rtsp_url("out"), &[]);
    other.wait_online("out");
    let player = Player::http_flv(other.http, "/live/out.live.flv");
    player.wait_frames(Kind::Video, 30);
    for file in ["demo.flv", "av.flv"] {
        publisher.crash();
        publisher = publish(Modern::No, file, &relay);
        player.wait_more_frames(Kind::Video, 30);
        let row = show(&relay, &key);
        assert_eq!((&row["state"], &row["attempts"]), (&json!("up"), &json!(1)), "{file}: {row}");
    }
    player.assert_open();
    assert_never_steps_back("over three publishers", &player.stop());
    assert_eq!(delete(&relay, &key)["flag"], true);
    publisher.stop();
    relay.stop();
    other.stop();
}
