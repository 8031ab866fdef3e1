//! Pulls on demand: who is asked for a stream that nobody brings, how often, and what its players get.

mod kit;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread::spawn;
use std::time::Duration;

use kit::config::RETRY_SOON;
use kit::fault::{Mode, Origin};
use kit::ffmpeg::{Modern, Publisher, decode_first_frames};
use kit::flv::Kind;
use kit::{Answer, HookServer, LIVENESS, Nginx, Player, Relay, pause, wait_until};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use serde_json::json;

/// An HTTP origin that has no stream, and counts who asks.
struct Desert {
    address: SocketAddr,
    seen: Arc<Mutex<Asked>>,
}

#[derive(Default)]
struct Asked {
    requests: Vec<String>,
    /// Connections that were made, whether or not something was asked.
    attempts: usize,
    /// Connections whose peer had not ended them when they were counted last.
    open: Vec<TcpStream>,
    open_max: usize,
}

impl Asked {
    fn count_open(&mut self) {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        self.open.retain(|socket| {
            matches!(recv(socket.as_raw_fd(), &mut [0], flags), Ok(1) | Err(Errno::EAGAIN))
        });
        self.open_max = self.open_max.max(self.open.len());
    }
}

impl Desert {
    /// One that thinks for so long.
    fn start(delay: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let seen = Arc::new(Mutex::new(Asked::default()));
        let shared = seen.clone();
        spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                let mut asked = shared.lock().unwrap();
                asked.attempts += 1;
                asked.open.push(socket.try_clone().expect("a descriptor"));
                asked.count_open();
                drop(asked);
                spawn(move || serve(socket, &shared, delay));
            }
        });
        Self { address, seen }
    }

    fn entry(&self, more: &str) -> String {
        format!("[[origin]]\nurl = \"http://{}/{{app}}/{{stream}}.flv\"\n{more}\n", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.clone()
    }

    fn attempts(&self) -> usize {
        self.seen.lock().unwrap().attempts
    }

    fn open_max(&self) -> usize {
        self.seen.lock().unwrap().open_max
    }
}

fn serve(mut socket: TcpStream, shared: &Mutex<Asked>, delay: Duration) {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match socket.read(&mut buffer) {
            Ok(len) if len > 0 => head.extend_from_slice(&buffer[..len]),
            _ => break,
        }
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    shared.lock().unwrap().requests.push(line);
    pause(delay);
    // The relay may have given up.
    let _ = socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    while matches!(socket.read(&mut buffer), Ok(len) if len > 0) {}
}

/// Asks for many streams at once over HTTP-FLV; the status that each gets.
fn ask_all(relay: &Relay, streams: impl Iterator<Item = String>) -> Vec<u16> {
    let sockets: Vec<TcpStream> = streams
        .map(|stream| {
            let mut socket = TcpStream::connect(relay.http).expect("the relay accepts");
            let request = format!("GET /live/{stream}.live.flv HTTP/1.1\r\nHost: h\r\n\r\n");
            socket.write_all(request.as_bytes()).expect("it reads");
            socket
        })
        .collect();
    let status = |mut socket: TcpStream| {
        socket.set_read_timeout(Some(LIVENESS * 2)).expect("an option");
        let mut head = [0; 12];
        socket.read_exact(&mut head).expect("an answer");
        String::from_utf8_lossy(&head[9..]).parse().expect("a status")
    };
    sockets.into_iter().map(status).collect()
}

fn status_of(player: &Player) -> u16 {
    wait_until(LIVENESS, "an answer", || player.look(|seen| seen.status.is_some()));
    player.look(|seen| seen.status.expect("just seen"))
}

fn ask(relay: &Relay, path: &str) -> u16 {
    status_of(&Player::http_flv(relay.http, path))
}

/// Waits until `why` says that a rule has refused a stream's players; the cause that it names.
#[track_caller]
fn wait_rule(relay: &Relay, stream: &str, rule: &str) -> String {
    let mut cause = String::new();
    wait_until(LIVENESS, rule, || {
        let data = relay.api("why", &[("app", "live"), ("stream", stream)])["data"].clone();
        cause = data["cause"].as_str().expect("a cause").to_owned();
        let mut rows = data["rules"].as_array().expect("rules").iter();
        rows.any(|row| row["event"] == "player_refused" && row["rule"] == rule)
    });
    cause
}

/// What 5,000 players of the debug build ask for.
const HERD: usize = 5000;

#[test]
fn players_of_every_protocol_get_what_an_origin_of_every_protocol_has() {
    let origin = Relay::start(1);
    let _publisher = Publisher::start(Modern::No, "av.flv", &origin.rtmp_url("a"));
    origin.wait_online("a");
    let entries = [
        ("rtmp", format!("rtmp://{}/{{app}}/a", origin.rtmp)),
        ("flv", format!("http://{}/{{app}}/a.live.flv", origin.http)),
        ("rtsp", format!("rtsp://{}/{{app}}/a", origin.rtsp)),
    ]
    .map(|(name, url)| format!("[[origin]]\nurl = \"{url}\"\nmatch = \"live/{name}\"\n"));
    let config = format!("[stream]\nnone_reader_delay_ms = 500\n{}", entries.concat());
    let edge = Relay::start_with(2, &config);
    let start = edge.holdings();
    for stream in ["rtmp", "flv", "rtsp"] {
        let path = format!("/live/{stream}.live.flv");
        let players = [
            Player::http_flv(edge.http, &path),
            Player::http_flv(edge.http, &path),
            Player::ws_flv(edge.http, &path),
            Player::rtmp(edge.rtmp, "live", stream),
        ];
        decode_first_frames(Modern::No, &edge.rtsp_url(stream), 5);
        players.iter().for_each(|player| player.wait_frames(Kind::Video, 20));
        players.iter().for_each(Player::assert_open);
    }
    assert_eq!(edge.metric("rillcast_demand_pulls_total"), 3);
    // Nobody is left, and so is nothing.
    edge.assert_back_to(&start, "after the last player");
    edge.stop();
    origin.stop();
}

#[test]
fn an_origin_of_zlmediakits_list_is_pulled_from_nginx() {
    let nginx = Nginx::start();
    let edge = Relay::start(2);
    let _publisher = Publisher::start(Modern::No, "av.flv", &nginx.url("a"));
    let warm = Player::rtmp(([127, 0, 0, 1], nginx.port).into(), "live", "a");
    warm.wait_frames(Kind::Video, 1);
    let url = format!("rtmp://127.0.0.1:{}/%s/%s", nginx.port);
    let set = [("cluster.origin_url", url.as_str()), ("cluster.timeout_sec", "5")];
    assert_eq!(edge.api("setServerConfig", &set)["changed"], 2);
    assert_eq!(edge.api("getServerConfig", &[])["data"][0]["cluster.origin_url"], url.as_str());
    let player = Player::rtmp(edge.rtmp, "live", "a");
    decode_first_frames(Modern::No, &edge.flv_url("a"), 5);
    player.wait_frames(Kind::Video, 10);
    assert_eq!(edge.metric("rillcast_demand_pulls_total"), 1);
    let proxy = edge.proxy("a").expect("it is shown as a pull");
    assert!(proxy["url"].as_str().expect("a URL").contains("?edge=1&vhost="), "{proxy}");
    assert_eq!(proxy["onDemand"], true, "{proxy}");
    player.stop();
    edge.stop();
}

#[test]
fn two_edges_that_pull_from_each_other_say_that_there_is_nothing() {
    let any = "[stream]\nmax_stream_wait_ms = 15000\n";
    let edges = [Relay::start_with(2, any), Relay::start_with(2, any)];
    let starts = [edges[0].holdings(), edges[1].holdings()];
    for (edge, other) in [(&edges[0], &edges[1]), (&edges[1], &edges[0])] {
        let origin = format!("[[origin]]\nurl = \"rtmp://{}/{{app}}/{{stream}}\"\n", other.rtmp);
        fs::write(edge.dir().file("rillcast.toml"), format!("{any}{origin}")).expect("its config");
        assert_eq!(edge.api("reloadConfig", &[])["data"]["changed"], json!(["origin"]));
    }
    for path in ["/live/x.live.flv", "/live/x.live.flv"] {
        assert_eq!(ask(&edges[0], path), 404);
    }
    let rtmp = Player::rtmp(edges[0].rtmp, "live", "y");
    wait_until(LIVENESS, "an answer", || {
        rtmp.look(|seen| seen.codes.iter().any(|code| code == "NetStream.Play.StreamNotFound"))
    });
    drop(rtmp);
    for (edge, pulls) in [(&edges[0], 2), (&edges[1], 2)] {
        assert_eq!(edge.metric("rillcast_demand_pulls_total"), pulls);
        assert_eq!(edge.metric("rillcast_attempts_total"), pulls);
    }
    assert_eq!(edges[0].metric("rillcast_demand_passive_total"), 2);
    for (edge, start) in edges.iter().zip(&starts) {
        edge.assert_back_to(start, "after the loop");
    }
    edges.into_iter().for_each(Relay::stop);
}

#[test]
fn a_herd_for_one_missing_stream_costs_one_attempt() {
    let desert = Desert::start(Duration::from_secs(4));
    let edge = Relay::start_with(2, &desert.entry("timeout_ms = 60000"));
    // All of them have come before it has thought.
    let statuses = ask_all(&edge, (0..HERD).map(|_| "a".to_owned()));
    assert_eq!(statuses, vec![404; HERD]);
    assert_eq!(desert.requests().len(), 1);
    assert_eq!(ask(&edge, "/live/a.live.flv"), 404);
    assert_eq!(desert.requests().len(), 1, "and whoever comes after that");
    edge.stop();
}

/// So many fit into a time, beside those at its begin.
fn at_rate(per_second: usize, time: Duration) -> usize {
    (per_second as f64 * time.as_secs_f64()).ceil() as usize
}

#[test]
fn a_herd_for_many_missing_streams_costs_the_budget() {
    const PLACES: usize = 8;
    const THINKS: Duration = Duration::from_millis(40);
    /// Each place is taken for as long as the origin thinks, and longer.
    const PER_SECOND: usize = PLACES * 1000 / THINKS.as_millis() as usize;
    let desert = Desert::start(THINKS);
    let more = format!("connects_max = {PLACES}\nconnects_per_second_max = 0");
    let edge = Relay::start_with(2, &desert.entry(&more));
    let begun = rillcast::clock::now();
    let statuses = ask_all(&edge, (0..HERD).map(|number| format!("s{number}")));
    let max = PLACES + at_rate(PER_SECOND, begun.elapsed());
    assert!(statuses.iter().all(|status| matches!(status, 404 | 503)), "{statuses:?}");
    let (asked, attempts) = (desert.requests(), desert.attempts());
    let names: std::collections::BTreeSet<&String> = asked.iter().collect();
    assert_eq!(names.len(), asked.len(), "each is asked for once");
    assert!(attempts <= max, "{attempts} attempts, and no more than {max} fit into the time");
    let found = statuses.iter().filter(|&&status| status == 404).count();
    assert!(found >= PLACES && found <= asked.len(), "{found} of {}", asked.len());
    let open_max = desert.open_max();
    assert!((1..=PLACES).contains(&open_max), "{open_max} connections at once");
    edge.stop();
}

/// One that answers at once is not held up by how many connects may be under way.
#[test]
fn a_herd_for_many_missing_streams_costs_the_rate() {
    const PER_SECOND: usize = 20;
    let desert = Desert::start(Duration::ZERO);
    let wait = "[stream]\nmax_stream_wait_ms = 4000\n";
    let entry = desert.entry(&format!("connects_per_second_max = {PER_SECOND}"));
    let edge = Relay::start_with(2, &format!("{wait}{entry}"));
    let begun = rillcast::clock::now();
    let statuses = ask_all(&edge, (0..HERD).map(|number| format!("s{number}")));
    // As many as in a second may come at once.
    let max = PER_SECOND + at_rate(PER_SECOND, begun.elapsed());
    // On a busy machine the origin may be too late for who has the last turns.
    let of_no_stream = |status: &u16| matches!(status, 404 | 502 | 503);
    assert!(statuses.iter().all(of_no_stream), "{statuses:?}");
    let (asked, attempts) = (desert.requests(), desert.attempts());
    let names: std::collections::BTreeSet<&String> = asked.iter().collect();
    assert_eq!(names.len(), asked.len(), "each is asked for once");
    assert!(attempts >= PER_SECOND, "{attempts} attempts");
    assert!(
        attempts <= max && max < HERD / 4,
        "{attempts} attempts, no more than {max} in the time"
    );
    edge.stop();
}

/// With the defaults, as docs/operations.md says.
#[test]
fn a_herd_for_many_missing_streams_costs_no_more_than_the_default_rate() {
    const PER_SECOND: usize = 256;
    let desert = Desert::start(Duration::ZERO);
    let edge = Relay::start_with(2, &desert.entry(""));
    let begun = rillcast::clock::now();
    let statuses = ask_all(&edge, (0..HERD).map(|number| format!("s{number}")));
    let max = PER_SECOND + at_rate(PER_SECOND, begun.elapsed());
    let of_no_stream = |status: &u16| matches!(status, 404 | 502 | 503);
    assert!(statuses.iter().all(of_no_stream), "{statuses:?}");
    let attempts = desert.attempts();
    assert!(attempts > PER_SECOND && attempts <= max, "{attempts} attempts, {max} in the time");
    edge.stop();
}

#[test]
fn a_missing_stream_is_shown_until_it_is_forgotten_and_a_query_goes_where_it_may() {
    let desert = Desert::start(Duration::ZERO);
    let other = Desert::start(Duration::ZERO);
    let entries = desert.entry("pass_query = true") + &other.entry("priority = 1");
    let edge = Relay::start_with(2, &entries);
    let asked = || (desert.requests().len(), other.requests().len());
    // What is said to one player's own query is not said to all.
    assert_eq!(ask(&edge, "/live/a.live.flv?token=1"), 404);
    assert_eq!(edge.api("getNegativeCache", &[])["count"], 0);
    assert_eq!(ask(&edge, "/live/a.live.flv?token=2"), 404);
    assert_eq!(asked(), (2, 2));
    assert!(desert.requests()[0].starts_with("GET /live/a.flv?token=1&rillcast_hops="));
    assert!(other.requests()[0].starts_with("GET /live/a.flv?rillcast_hops="));
    assert_eq!(ask(&edge, "/live/a.live.flv"), 404);
    let shown = edge.api("getNegativeCache", &[]);
    assert_eq!((&shown["count"], &shown["data"][0]["stream"]), (&json!(1), &json!("a")), "{shown}");
    assert_eq!(shown["data"][0]["errorClass"], "not_found", "{shown}");
    assert_eq!(edge.metric("rillcast_demand_absences"), 1);
    assert_eq!(ask(&edge, "/live/a.live.flv"), 404);
    assert_eq!(asked(), (3, 3));
    let stream = [("app", "live"), ("stream", "a")];
    let cause = wait_rule(&edge, "a", "demand.not_found_ms");
    assert!(cause.starts_with("it could not be had"), "{cause}");
    assert_eq!(edge.api("delNegativeCache", &stream)["data"]["count"], 1);
    let cause = wait_rule(&edge, "a", "[[origin]] or demand.origin_url");
    let failed = "its last try failed (not_found)";
    assert!(cause.starts_with("nobody brings it now") && cause.contains(failed), "{cause}");
    assert_eq!(ask(&edge, "/live/a.live.flv"), 404);
    assert_eq!(asked(), (4, 4));
    // Somebody brings it.
    let _publisher = Publisher::start(Modern::No, "av.flv", &edge.rtmp_url("a"));
    edge.wait_online("a");
    assert_eq!(edge.api("getNegativeCache", &[])["count"], 0);
    edge.stop();
}

/// The hook may take longer than the test waits; its server fails, ends connections, and is not there.
#[test]
fn a_dead_hook_server_keeps_nobody_from_what_an_origin_has() {
    let origin = Relay::start(1);
    let _publisher = Publisher::start(Modern::No, "av.flv", &origin.rtmp_url("a"));
    origin.wait_online("a");
    let entry = format!("[[origin]]\nurl = \"rtmp://{}/{{app}}/a\"\n", origin.rtmp);
    let wait_ms = (LIVENESS * 6).as_millis();
    let edge = Relay::start_with(2, &format!("[stream]\nmax_stream_wait_ms = {wait_ms}\n{entry}"));
    let mut server = HookServer::start();
    let hook = server.url("on_stream_not_found");
    let timeout = (LIVENESS * 2).as_secs().to_string();
    let set = [
        ("hook.enable", "1"),
        ("hook.on_stream_not_found", hook.as_str()),
        ("hook.timeoutSec", timeout.as_str()),
    ];
    assert_eq!(edge.api("setServerConfig", &set)["code"], 0);
    let play = |stream: &str| {
        let player = Player::http_flv(edge.http, &format!("/live/{stream}.live.flv"));
        player.wait_frames(Kind::Video, 5);
        player.stop();
    };
    server.behave(|_| Answer::Status(503));
    play("failed");
    server.behave(|_| Answer::Close);
    play("closed");
    server.stop();
    play("gone");
    server.behave(|_| Answer::Json(json!({"code": 0})));
    server.restart();
    for stream in ["failed", "closed", "gone"] {
        let is_told = || {
            let mut calls = server.calls_of("on_stream_not_found").into_iter();
            calls.any(|call| call.is_taken && call.body["stream"] == stream)
        };
        wait_until(LIVENESS, "it is told all the same", is_told);
    }
    assert_eq!(edge.metric("rillcast_demand_pulls_total"), 3);
    edge.stop();
    origin.stop();
}

#[test]
fn the_hook_is_asked_before_origins_and_may_bring_the_stream() {
    let desert = Desert::start(Duration::ZERO);
    let edge = Relay::start_with(2, &desert.entry(""));
    let origin = Relay::start(1);
    let _publisher = Publisher::start(Modern::No, "av.flv", &origin.rtmp_url("a"));
    origin.wait_online("a");
    let server = HookServer::start();
    let (asked, early) = (desert.seen.clone(), Arc::new(Mutex::new(0)));
    let (told, api, url) = (early.clone(), edge.api.clone(), origin.rtmp_url("a"));
    server.behave(move |call| {
        *told.lock().unwrap() += asked.lock().unwrap().requests.len();
        if call.body["stream"] == "added" {
            api.call("addStreamProxy", &kit::relay::add_params("added", &url, &[]));
        }
        Answer::Json(json!({"code": 0, "close": call.body["stream"] == "closed"}))
    });
    let hook = server.url("on_stream_not_found");
    let set = [("hook.enable", "1"), ("hook.on_stream_not_found", hook.as_str())];
    assert_eq!(edge.api("setServerConfig", &set)["changed"], 2);
    assert_eq!(ask(&edge, "/live/closed.live.flv"), 404);
    assert_eq!(desert.requests().len(), 0, "the hook sent its player away");
    let cause = wait_rule(&edge, "closed", "on_stream_not_found");
    let by = "nobody brings it now; it was closed by on_stream_not_found";
    assert!(cause.starts_with(by), "{cause}");
    let player = Player::http_flv(edge.http, "/live/added.live.flv");
    player.wait_frames(Kind::Video, 5);
    assert_eq!(desert.requests().len(), 0, "the hook brought it");
    assert_eq!(ask(&edge, "/live/left.live.flv"), 404);
    assert_eq!((*early.lock().unwrap(), desert.requests().len()), (0, 1), "the hook left it");
    player.stop();
    edge.stop();
}

#[test]
fn an_origin_that_asks_for_a_password_gets_that_of_its_entry() {
    let password = "p@ss:word";
    let origin = Relay::start_with(1, &kit::config::rtsp_user("admin", password, false));
    let _publisher = Publisher::start(Modern::No, "av.flv", &origin.rtmp_url("a"));
    origin.wait_online("a");
    let entry = |name: &str, login: &str| {
        let url = format!("rtsp://{}/{{app}}/a", origin.rtsp);
        format!("[[origin]]\nurl = \"{url}\"\nmatch = \"live/{name}\"\n{login}\n")
    };
    let login = |password: &str| format!("user = \"admin\"\npassword = \"{password}\"");
    let entries =
        [entry("right", &login(password)), entry("wrong", &login("no")), entry("none", "")];
    let edge = Relay::start_with(2, &entries.concat());
    for stream in ["wrong", "none"] {
        assert_eq!(ask(&edge, &format!("/live/{stream}.live.flv")), 502, "{stream}");
    }
    let player = Player::http_flv(edge.http, "/live/right.live.flv");
    player.wait_frames(Kind::Video, 20);
    let proxy = edge.proxy("right").expect("it is shown as a pull").to_string();
    assert!(!proxy.contains(password) && !edge.log().contains(password), "{proxy}");
    player.stop();
    edge.stop();
    origin.stop();
}

/// "Not now" is no "no": it is asked again, and what it said is forgotten soon.
#[test]
fn an_origin_that_can_not_now_is_asked_again() {
    let times = "[demand]\nnot_found_ms = 600000\nfailed_ms = 100\n";
    for url in ["rtmp://{}/live/{stream}", "http://{}/live/{stream}.flv"] {
        let origin = Origin::start(Mode::Unavailable);
        let url = url.replacen("{}", &format!("127.0.0.1:{}", origin.port()), 1);
        let entry = format!("[[origin]]\nurl = \"{url}\"\n");
        let edge = Relay::start_with(1, &format!("{RETRY_SOON}{times}{entry}"));
        assert_eq!(ask(&edge, "/live/a.live.flv"), 502, "{url}");
        assert_eq!(origin.count(), 2, "{url}: as retry_on has it by default");
        origin.set(Mode::Healthy);
        wait_until(LIVENESS, "it is forgotten", || edge.api("getNegativeCache", &[])["count"] == 0);
        assert_eq!(ask(&edge, "/live/a.live.flv"), 200, "{url}");
        edge.stop();
    }
}

/// Of two equals, the one that has the weight is dead, or says that it can't now: it is asked first
/// until it has failed three times in a row, then after the other; and first again when its time is over.
fn an_origin_that_brings_nothing_is_avoided(fault: &Mode, class: &str) {
    let (heavy, light) = (Origin::start(fault.clone()), Origin::start(Mode::Healthy));
    let entry = |origin: &Origin, more: &str| {
        let url = format!("http://127.0.0.1:{}/live/{{stream}}.flv", origin.port());
        format!("[[origin]]\nurl = \"{url}\"\n{more}\n")
    };
    let retry_on = "weight = 1000000\nretry_count = 5\nretry_on = [\"silent\"]";
    let entries = entry(&heavy, retry_on) + &entry(&light, "");
    let edge = Relay::start_with(1, &format!("[demand]\navoid_ms = 8000\n{entries}"));
    let row = |origin: &Origin| {
        let name = format!("127.0.0.1:{}", origin.port());
        let reply = edge.api("getOrigins", &[("origin", &name)]);
        reply["data"].get(0).cloned().unwrap_or_default()
    };
    let untouched = row(&heavy);
    assert_eq!((&untouched["connects"], &untouched["avoided"]), (&json!(0), &json!(false)));
    for number in 0..5 {
        assert_eq!(ask(&edge, &format!("/live/s{number}.live.flv")), 200, "{class}");
    }
    // Each failed once: it is not asked again for what it is not said to be asked again.
    let dead = row(&heavy);
    assert_eq!(dead["connects"], 3, "{dead}");
    assert_eq!(dead["failures"], json!({ class: 3 }), "{dead}");
    assert_eq!((&dead["unanswered"], &dead["errorClass"]), (&json!(3), &json!(class)), "{dead}");
    assert!(dead["lastError"].as_str().is_some_and(|text| !text.is_empty()), "{dead}");
    assert_eq!((&dead["avoided"], &dead["ups"]), (&json!(true), &json!(0)), "{dead}");
    assert!(dead["avoidedMs"].as_u64().is_some_and(|ms| ms <= 8000), "{dead}");
    let other = row(&light);
    assert_eq!((&other["connects"], &other["ups"]), (&json!(5), &json!(5)), "{other}");
    assert_eq!((&other["failures"], &other["avoided"]), (&json!({}), &json!(false)), "{other}");
    assert!(other["mediaMs"].is_u64() && other["connectMs"].is_u64(), "{other}");
    let avoiding = edge.samples("rillcast_origin_avoided");
    let of_heavy = avoiding.iter().find(|(labels, _)| labels.contains(&heavy.port().to_string()));
    assert_eq!(of_heavy.map(|(_, shards)| *shards), Some(1), "{avoiding:?}");

    heavy.set(Mode::Healthy);
    wait_until(2 * LIVENESS, "its time is over", || row(&heavy)["avoided"] == false);
    assert_eq!(row(&heavy)["unanswered"], 3, "nothing has shown that it is well");
    assert_eq!(ask(&edge, "/live/again.live.flv"), 200);
    let well = row(&heavy);
    assert_eq!(
        (&well["connects"], &well["ups"], &well["unanswered"]),
        (&json!(4), &json!(1), &json!(0))
    );
    assert_eq!(well["failures"], json!({ class: 3 }), "what was is kept: {well}");
    edge.stop();
}

#[test]
fn an_origin_that_is_dead_is_avoided_and_shown() {
    an_origin_that_brings_nothing_is_avoided(&Mode::Refused, "refused");
}

#[test]
fn an_origin_that_can_not_now_is_avoided_and_shown() {
    an_origin_that_brings_nothing_is_avoided(&Mode::Unavailable, "unavailable");
}
