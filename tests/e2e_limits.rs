//! Limits of the node, over all of its shards: connections, joins and pending pulls, in all and of one
//! address. And peers that take their time with what they send.

mod kit;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kit::fault::{Mode, Origin};
use kit::http::encode;
use kit::relay::{SECRET, add_params};
use kit::{Answer, HookServer, LIVENESS, Relay, pause, wait_until};
use rillcast::clock;
use serde_json::json;

/// Other addresses of this host than that which the kit calls from.
const A: &str = "127.0.0.2:0";
const B: &str = "127.0.0.3:0";

fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    let from: SocketAddr = from.parse().expect("an address");
    socket.bind(&from.into()).expect("an address of this host");
    socket.connect(&to.into()).expect("it listens");
    socket.into()
}

/// Whether the peer has closed it, within a moment.
fn is_ended(socket: &mut TcpStream) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    match socket.read(&mut [0]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

#[track_caller]
fn wait_ended(sockets: &mut [TcpStream], count: usize) {
    let ended = |sockets: &mut [TcpStream]| {
        sockets.iter_mut().filter_map(|s| is_ended(s).then_some(())).count()
    };
    wait_until(LIVENESS, "those beyond the limit are closed", || ended(sockets) >= count);
    assert_eq!(ended(sockets), count);
}

#[test]
fn connections_are_limited_over_all_shards() {
    let limits = "connections_max = 9\nconnections_per_address_max = 6\n";
    let relay = Relay::start_with(2, &format!("[limits]\n{limits}"));
    let mut of_a: Vec<TcpStream> = (0..16).map(|_| connect(A, relay.http)).collect();
    wait_ended(&mut of_a, 10);
    let mut of_b: Vec<TcpStream> = (0..8).map(|_| connect(B, relay.rtmp)).collect();
    wait_ended(&mut of_b, 5);
    drop((of_a, of_b));
    wait_until(LIVENESS, "there is room again", || {
        let mut new = connect(A, relay.http);
        !is_ended(&mut new)
    });
    relay.stop();
}

#[test]
fn joins_of_an_address_are_limited_over_all_shards() {
    let relay = Relay::start_with(2, "[limits]\njoins_per_second_per_address_max = 1\n");
    let start = clock::now();
    let mut players: Vec<TcpStream> = (0..24)
        .map(|_| {
            let mut socket = connect(A, relay.http);
            let head = b"GET /live/absent.live.flv HTTP/1.1\r\nHost: x\r\n\r\n";
            socket.write_all(head).expect("a request");
            socket
        })
        .collect();
    // Those who are let in wait for the stream, so many in a second.
    players.iter().for_each(|player| {
        player.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    });
    wait_until(LIVENESS, "all but one of each second are refused", || {
        players.retain_mut(|player| {
            let mut reply = [0; 12];
            match player.read_exact(&mut reply) {
                Ok(()) => {
                    assert_eq!(&reply[9..], b"503");
                    false
                }
                Err(error) => {
                    let is_waiting = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
                    assert!(is_waiting.contains(&error.kind()), "{error}");
                    true
                }
            }
        });
        let seconds = clock::now().duration_since(start).as_secs();
        (1..=1 + seconds).contains(&(players.len() as u64))
    });
    drop(players);
    relay.stop();
}

/// `addStreamProxy` from an address; the answer's `msg`, empty where it took it.
fn add_from(from: &str, relay: &Relay, stream: &str, url: &str) -> String {
    let more = [("force", "1"), ("async", "1"), ("secret", SECRET)];
    let query = encode(&add_params(stream, url, &more));
    let mut socket = connect(from, relay.http);
    let head = format!(
        "GET /index/api/addStreamProxy?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).expect("a request");
    socket.set_read_timeout(Some(LIVENESS)).expect("a timeout");
    let mut reply = String::new();
    socket.read_to_string(&mut reply).expect("a reply");
    let body = reply.split("\r\n\r\n").nth(1).expect("a body");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    body["msg"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn pending_pulls_are_limited_for_each_caller_and_for_all() {
    let dead = Origin::start(Mode::Refused);
    let origin = Origin::start(Mode::Healthy);
    let limits = "pending_pulls_max = 4\npending_pulls_per_address_max = 2\n";
    let relay = Relay::start_with(2, &format!("[http]\nallow_ip_range = \"\"\n[limits]\n{limits}"));
    let add = |from, stream: &str| add_from(from, &relay, stream, &dead.rtmp_url("a"));
    assert_eq!([add(A, "a1"), add(A, "a2")], ["", ""]);
    let of_address = "too many pending pulls of this address";
    assert_eq!(add(A, "a3"), of_address);
    // Those of others go on, as does an add of what is there.
    assert_eq!([add(B, "b1"), add(B, "b2"), add(A, "a1")], ["", "", ""]);
    assert_eq!(relay.add("c", &dead.rtmp_url("a"), &[])["msg"], "too many pending pulls");
    assert_eq!(relay.delete("b1")["data"]["flag"], true);
    // What is up is not pending, until it is lost.
    assert_eq!(add_from(B, &relay, "up", &origin.rtmp_url("a")), "");
    relay.wait_online("up");
    assert_eq!(add(B, "b3"), "");
    relay.delete("b3");
    origin.set(Mode::Refused);
    wait_until(LIVENESS, "it is lost", || {
        relay.proxy("up").is_some_and(|row| row["state"] == "backing_off")
    });
    assert_eq!(add(B, "b3"), "too many pending pulls");
    assert_eq!(relay.delete("up")["data"]["flag"], true);
    assert_eq!(add(B, "b3"), "");
    for stream in ["a1", "a2", "b2", "b3"] {
        assert_eq!(relay.delete(stream)["data"]["flag"], true, "{stream}");
    }
    relay.stop();
}

fn play_from(from: &str, relay: &Relay, stream: &str) -> TcpStream {
    let mut socket = connect(from, relay.http);
    let head = format!("GET /live/{stream}.live.flv HTTP/1.1\r\nHost: x\r\n\r\n");
    socket.write_all(head.as_bytes()).expect("a request");
    socket
}

/// One that has as many as it may and asks first is not in the way of who waits beside it.
#[test]
fn a_pending_pull_is_that_of_whoever_waits_and_may_have_it() {
    let origin = Origin::start(Mode::NoMedia);
    let server = HookServer::start();
    let may_answer = Arc::new(AtomicBool::new(false));
    let gate = may_answer.clone();
    server.behave(move |call| {
        if call.body["stream"] == "x" {
            wait_until(LIVENESS, "both wait", || gate.load(Ordering::Relaxed));
        }
        Answer::Json(json!({"code": 0}))
    });
    let url = origin.rtmp_url("a").replace("/a", "/{stream}");
    let config = format!(
        "[stream]\nmax_stream_wait_ms = {wait}\n[limits]\npending_pulls_per_address_max = 1\n\
         [hook]\nenable = true\ntimeout_ms = {wait}\non_stream_not_found = \"{hook}\"\n\
         [[origin]]\nurl = \"{url}\"\ntimeout_ms = {wait}\n",
        wait = (LIVENESS * 3).as_millis(),
        hook = server.url("on_stream_not_found"),
    );
    let relay = Relay::start_with(1, &config);
    let pulls = |count: u64| {
        wait_until(LIVENESS, &format!("{count} pulls"), || {
            relay.metric("rillcast_demand_pulls_total") == count
        });
    };
    let mut players = vec![play_from(A, &relay, "full")];
    pulls(1);
    for (from, waiting) in [(A, 2), (B, 3)] {
        players.push(play_from(from, &relay, "x"));
        wait_until(LIVENESS, "it waits", || relay.ledger()["waiters"] == waiting);
    }
    may_answer.store(true, Ordering::Relaxed);
    pulls(2);
    assert!(!players.iter_mut().any(is_ended), "all of them wait");
    // What the second has begun is its own.
    players.push(play_from(B, &relay, "y"));

    wait_until(LIVENESS, "it is refused", || {
        let mut head = [0; 12];
        let last = players.last_mut().expect("it has come");
        last.peek(&mut head).is_ok_and(|len| len == 12) && head.ends_with(b"503")
    });
    assert!(!players[..3].iter_mut().any(is_ended), "who waited goes on");
    assert_eq!(relay.metric("rillcast_demand_pulls_total"), 2);
    relay.stop();
}

/// Whoever asks for more than the kernel holds, and reads it slowly, gets all of it; whoever stops
/// reading is closed.
#[test]
fn a_long_answer_is_read_as_slowly_as_a_narrow_way_is() {
    let relay = Relay::start_with(1, "[http]\nkeep_alive_ms = 1500\n");
    let origin = Origin::start(Mode::Refused);
    let url = origin.rtmp_url(&"x".repeat(1900));
    for number in 0..2500 {
        let added = relay.add(&format!("s{number}"), &url, &[("async", "1"), ("force", "1")]);
        assert_eq!(added["code"], 0, "{added}");
    }
    let ask = |connection: &str| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.set_recv_buffer_size(64 * 1024).expect("an option");
        socket.connect(&relay.http.into()).expect("it listens");
        let mut socket = TcpStream::from(socket);
        let head = format!("Host: h\r\nConnection: {connection}\r\n\r\n");
        let path = format!("/index/api/listStreamProxy?secret={SECRET}");
        write!(socket, "GET {path} HTTP/1.1\r\n{head}").expect("a request");
        socket.set_read_timeout(Some(LIVENESS)).expect("an option");
        socket
    };
    for connection in ["close", "keep-alive"] {
        let mut socket = ask(connection);
        let (mut got, mut buffer) = (Vec::new(), vec![0; 50_000]);
        let whole = loop {
            let len = socket.read(&mut buffer).expect("more of it");
            got.extend_from_slice(&buffer[..len]);
            if let Some((head, head_len)) = kit::http::parse_head(&got) {
                let len = head.header("content-length").and_then(|len| len.parse::<usize>().ok());
                if got.len() >= head_len + len.expect("a length") {
                    break got.split_off(head_len);
                }
            }
            assert!(len > 0, "{connection}: it ends after {} bytes", got.len());
            pause(Duration::from_millis(40));
        };
        let reply: serde_json::Value = serde_json::from_slice(&whole).expect("JSON");
        assert_eq!(reply["data"].as_array().map(Vec::len), Some(2500), "{connection}");
        assert!(whole.len() > 8_000_000, "more than kernels hold: {}", whole.len());
    }
    for connection in ["close", "keep-alive"] {
        let stuck = ask(connection);
        let port = stuck.local_addr().expect("an address").port();
        let is_held = || {
            let sessions = relay.api("getAllSession", &[]);
            let mut all = sessions["data"].as_array().expect("sessions").iter();
            all.any(|session| session["peer_port"] == port)
        };
        wait_until(LIVENESS, "it is held", is_held);
        wait_until(LIVENESS, "it is closed", || !is_held());
        drop(stuck);
    }
    relay.stop();
}

/// A player that never plays is none for ever: its stream becomes idle.
#[test]
fn requests_over_rtsp_do_not_keep_a_connection_or_a_stream() {
    let origin = Origin::start(Mode::Healthy);
    let entry = format!(
        "[[origin]]\nurl = \"http://127.0.0.1:{}/{{app}}/{{stream}}.flv\"\n",
        origin.port()
    );
    let times = "[rtsp]\nhandshake_ms = 1500\n[stream]\nnone_reader_delay_ms = 500\n";
    let relay = Relay::start_with(1, &format!("{times}{entry}"));
    let mut socket = TcpStream::connect(relay.rtsp).expect("it listens");
    let url = relay.rtsp_url("a");
    write!(socket, "DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\n\r\n").expect("a request");
    relay.wait_online("a");
    let mut asked = 0;
    wait_until(LIVENESS, "it is closed", || {
        asked += 1;
        pause(Duration::from_millis(100));
        let options = format!("OPTIONS {url} RTSP/1.0\r\nCSeq: {}\r\n\r\n", 1 + asked);
        let is_over = socket.write_all(options.as_bytes()).is_err();
        let mut reply = [0; 4096];
        socket.set_read_timeout(Some(LIVENESS)).expect("a timeout");
        is_over || !matches!(socket.read(&mut reply), Ok(len) if len > 0)
    });
    assert!(asked > 3, "not at once: {asked}");
    wait_until(LIVENESS, "nobody plays it", || !relay.is_online("a"));
    origin.wait_all_closed(LIVENESS);
    relay.stop();
}

#[test]
fn bodies_and_rtsp_requests_that_trickle_are_closed() {
    let deadlines = "[http]\nheader_timeout_ms = 500\n[rtsp]\nhandshake_ms = 500\n";
    let relay = Relay::start_with(1, deadlines);
    let post = "POST /index/api/version HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n";
    let options = "OPTIONS rtsp://127.0.0.1/live/a RTSP/1.0\r\nCSeq: 1\r\nX-Filler: ";
    for (address, start) in [(relay.http, post), (relay.rtsp, options), (relay.rtsp, "")] {
        let mut socket = TcpStream::connect(address).expect("it listens");
        socket.write_all(start.as_bytes()).expect("a start");
        wait_until(LIVENESS, "it is closed", || {
            pause(Duration::from_millis(80));
            socket.write_all(b"a").is_err() || is_ended(&mut socket)
        });
    }
    relay.stop();
}
