//! Web hooks by the thousand: players who rejoin a stream, or ask for as many streams, with a healthy server
//! that takes its time; lives of streams with one that fails.

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kit::fault::{Mode, Origin};
use kit::ffmpeg::{Modern, Publisher};
use kit::hook_server::Call;
use kit::relay::{add_params, label};
use kit::{Answer, HookServer, LIVENESS, Relay, pause, wait_until};
use rillcast::clock::now;
use serde_json::{Value, json};

const CROWD: usize = 4_000;
const THINKS: Duration = Duration::from_millis(100);
/// Of all of a crowd, on a busy machine.
const CROWD_TIME: Duration = Duration::from_secs(60);

#[track_caller]
fn set(relay: &Relay, server: &HookServer, hook: &str, more: &[(&str, &str)]) {
    let (name, url) = (format!("hook.{hook}"), server.url(hook));
    let mut params = vec![("hook.enable", "1"), (name.as_str(), url.as_str())];
    params.extend(more);
    let reply = relay.api("setServerConfig", &params);
    assert_eq!(reply["code"], 0, "{reply}");
}

/// A player over HTTP that reads no more than the first line of its answer.
fn ask(relay: &Relay, stream: &str) -> TcpStream {
    let mut socket = TcpStream::connect(relay.http).expect("a relay");
    socket.set_read_timeout(Some(CROWD_TIME)).expect("an option");
    write!(socket, "GET /live/{stream}.live.flv HTTP/1.1\r\nHost: h\r\n\r\n").expect("a request");
    socket
}

fn status_of(socket: TcpStream) -> u16 {
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).expect("an answer");
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no status: {line:?}"))
}

/// Calls or verdicts with this label.
fn count(relay: &Relay, name: &str, of: (&str, &str)) -> u64 {
    let samples = relay.samples(name).into_iter();
    samples.filter(|(labels, _)| label(labels, of.0) == of.1).map(|(_, count)| count).sum()
}

/// The queue is longer than a call may take: that is no reason to refuse anybody.
#[test]
fn a_crowd_that_rejoins_a_stream_is_let_in_by_a_slow_hook() {
    kit::raise_file_limit();
    let relay = Relay::start(2);
    let server = HookServer::start();
    server.behave(|_| {
        pause(THINKS);
        Answer::Json(json!({"code": 0}))
    });
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    set(&relay, &server, "on_play", &[("hook.timeoutSec", "2"), ("hook.retry", "0")]);
    let players: Vec<TcpStream> = (0..CROWD).map(|_| ask(&relay, "a")).collect();
    let refused = players.into_iter().map(status_of).filter(|&status| status != 200).count();
    assert_eq!(refused, 0);
    assert_eq!(server.calls_of("on_play").len(), CROWD);
    for verdict in ["denied", "unanswered", "overflow"] {
        assert_eq!(count(&relay, "rillcast_hook_verdicts_total", ("verdict", verdict)), 0);
    }

    // Where an answer counts for all who ask the same, they cost one call.
    let asked = server.calls_of("on_play").len();
    set(&relay, &server, "on_play", &[("hook.verdict_cache_ms", "60000")]);
    let players: Vec<TcpStream> = (0..500).map(|_| ask(&relay, "a")).collect();
    assert!(players.into_iter().all(|player| status_of(player) == 200));
    assert_eq!(server.calls_of("on_play").len() - asked, 1);
    publisher.stop();
    relay.stop();
}

#[test]
fn who_hangs_up_before_its_turn_is_not_asked_about() {
    const HUNG_UP: usize = 50;
    let relay = Relay::start(2);
    let server = HookServer::start();
    server.behave(|_| Answer::Stall(LIVENESS));
    let mut publisher = Publisher::start(Modern::No, "av.flv", &relay.rtmp_url("a"));
    relay.wait_online("a");
    set(&relay, &server, "on_play", &[("hook.concurrent_max", "1"), ("hook.timeoutSec", "3600")]);
    let first = ask(&relay, "a");
    server.wait("on_play", |_| true);
    let others: Vec<TcpStream> = (0..HUNG_UP).map(|_| ask(&relay, "a")).collect();
    let waiting = || relay.metric("rillcast_hook_calls_waiting");
    wait_until(LIVENESS, "all wait", || waiting() == HUNG_UP as u64 + 1);
    drop(others);
    wait_until(LIVENESS, "they are withdrawn", || waiting() == 1);
    server.behave(|_| Answer::Json(json!({"code": 0})));
    let last = ask(&relay, "a");
    // More calls at once act at once.
    set(&relay, &server, "on_play", &[("hook.concurrent_max", "2")]);
    assert_eq!(status_of(last), 200);
    assert_eq!(server.calls_of("on_play").len(), 2);
    let withdrawn = count(&relay, "rillcast_hook_verdicts_total", ("verdict", "withdrawn"));
    assert_eq!(withdrawn, HUNG_UP as u64);
    drop(first);
    publisher.stop();
    relay.stop();
}

/// After a restart of a node without origins: the hook alone brings streams.
#[test]
fn a_crowd_that_asks_for_as_many_streams_is_told_to_a_slow_hook() {
    const BROUGHT_EACH: usize = 100;
    kit::raise_file_limit();
    let relay = Relay::start(2);
    let server = HookServer::start();
    let origin = Origin::start(Mode::Healthy);
    let (api, url) = (relay.api.clone(), origin.rtmp_url("a"));
    let is_brought = |number: usize| number.is_multiple_of(BROUGHT_EACH);
    server.behave(move |call| {
        pause(THINKS);
        let stream = call.body["stream"].as_str().expect("a stream");
        let is_brought = is_brought(stream[1..].parse().expect("a number"));
        if is_brought {
            let params = add_params(stream, &url, &[("async", "1")]);
            assert_eq!(api.call("addStreamProxy", &params)["code"], 0);
        }
        Answer::Json(json!({"code": 0, "close": !is_brought}))
    });
    set(&relay, &server, "on_stream_not_found", &[]);
    let players: Vec<TcpStream> =
        (0..CROWD).map(|number| ask(&relay, &format!("s{number}"))).collect();
    for (number, player) in players.into_iter().enumerate() {
        let expected = if is_brought(number) { 200 } else { 404 };
        assert_eq!(status_of(player), expected, "s{number}");
    }
    let calls = server.calls_of("on_stream_not_found").into_iter();
    let told: BTreeSet<String> =
        calls.filter_map(|call| call.body["stream"].as_str().map(str::to_owned)).collect();
    assert_eq!(told.len(), CROWD);
    assert_eq!(count(&relay, "rillcast_hook_calls_total", ("result", "dropped")), 0);
    relay.stop();
}

/// The queue is made too short for all; who finds no room in it hears so at once.
#[test]
fn who_the_hook_is_not_told_of_is_refused_at_once() {
    let relay = Relay::start(2);
    let server = HookServer::start();
    server.behave(|_| Answer::Stall(LIVENESS * 3));
    let wait_ms = (LIVENESS * 3).as_millis().to_string();
    let few = [
        ("hook.concurrent_max", "1"),
        ("hook.queue_max", "2"),
        ("hook.timeoutSec", "3600"),
        ("general.maxStreamWaitMS", wait_ms.as_str()),
    ];
    set(&relay, &server, "on_stream_not_found", &few);
    let told = ask(&relay, "told");
    server.wait("on_stream_not_found", |_| true);
    let oldest = ask(&relay, "oldest");
    wait_until(LIVENESS, "it waits", || relay.metric("rillcast_hook_calls_waiting") == 2);
    let others = [ask(&relay, "b"), ask(&relay, "c")];
    assert_eq!(status_of(oldest), 503);
    assert_eq!(count(&relay, "rillcast_hook_calls_total", ("result", "dropped")), 1);
    drop((told, others));
    relay.stop();
}

/// The calls of each stream, in the order in which they came.
fn calls_by_stream(server: &HookServer) -> BTreeMap<String, Vec<Call>> {
    let mut streams = BTreeMap::new();
    for call in server.calls_of("on_proxy_state") {
        let stream = call.body["stream"].as_str().expect("a stream").to_owned();
        streams.entry(stream).or_insert_with(Vec::new).push(call);
    }
    streams
}

fn sequence_of(call: &Call) -> u64 {
    call.body["sequence"].as_u64().expect("a sequence")
}

/// A thousand lives of streams, three calls in ten of which fail or are not answered, and a server that is down
/// for a quarter of them, and answers nobody for 10 s.
#[test]
fn a_server_that_fails_stalls_and_restarts_is_told_everything_in_order() {
    const STREAMS: usize = 50;
    const CYCLES: usize = 20;
    const STALL: Duration = Duration::from_secs(10);
    let relay = Relay::start(2);
    let mut server = HookServer::start();
    let origin = Origin::start(Mode::Refused);
    let (count, stall_end) = (AtomicUsize::new(0), Arc::new(OnceLock::<Instant>::new()));
    let stalls_until = stall_end.clone();
    server.behave(move |_| match count.fetch_add(19, Ordering::Relaxed) % 100 {
        _ if stalls_until.get().is_some_and(|end| *end > now()) => Answer::Stall(STALL),
        0..8 => Answer::Status(500),
        // Of a proxy whose server is being changed, and of one that sends us elsewhere.
        8..12 => Answer::Status(404),
        12..16 => Answer::Status(302),
        16..28 => Answer::Close,
        28..30 => Answer::Stall(Duration::from_millis(700)),
        _ => Answer::Json(json!({"code": 0})),
    });
    set(&relay, &server, "on_proxy_state", &[("hook.timeoutSec", "0.4")]);
    let mut ended = 0;
    for cycle in 0..CYCLES {
        for number in 0..STREAMS {
            let stream = format!("s{number}");
            let reply = relay.add(&stream, &origin.rtmp_url(&stream), &[("async", "1")]);
            assert_eq!(reply["code"], 0, "the API does not wait for hooks: {reply}");
            ended += usize::from(relay.delete(&stream)["data"]["flag"] == true);
        }
        match cycle {
            7 => server.stop(),
            12 => server.restart(),
            15 => stall_end.set(now() + STALL).expect("once"),
            _ => {}
        }
    }
    let taken_ends = || -> usize {
        let calls = server.calls_of("on_proxy_state").into_iter();
        let of_end = calls.filter(|call| call.is_taken && call.body["state"] == "ended");
        of_end.map(|call| sequence_of(&call)).collect::<BTreeSet<_>>().len()
    };
    wait_until(Duration::from_secs(60), "all ends are told", || taken_ends() == ended);
    let mut repeated = 0;
    for (stream, calls) in calls_by_stream(&server) {
        // Each call of it that came, also those that were answered with a failure or not at all.
        let mut bodies: BTreeMap<u64, Value> = BTreeMap::new();
        let (mut newest, mut is_taken) = (0, true);
        for call in calls {
            let sequence = sequence_of(&call);
            let mut body = call.body.clone();
            body.as_object_mut().expect("an object").remove("hook_index");
            assert_eq!(body["lost"], 0, "{stream}");
            match bodies.get(&sequence) {
                // What failed, or whose answer was lost, comes again as it was.
                Some(first) => {
                    repeated += 1;
                    assert_eq!((first, sequence), (&body, newest), "{stream}");
                }
                None => {
                    assert!(sequence > newest, "{stream}: {sequence} after {newest}");
                    assert!(is_taken, "{stream}: {sequence} before {newest} was taken");
                }
            }
            (newest, is_taken) = (sequence, call.is_taken);
            bodies.insert(sequence, body);
        }
        assert!(is_taken, "{stream}");
        let states: Vec<&str> =
            bodies.values().map(|body| body["state"].as_str().unwrap_or_default()).collect();
        let life_begins = states.iter().filter(|state| **state == "pending").count();
        assert_eq!(life_begins, CYCLES, "{stream}: {states:?}");
        assert!(states.windows(2).all(|pair| pair != ["ended", "ended"]), "{stream}: {states:?}");
    }
    assert!(repeated > 0, "something failed and came again");
    let calls = server.calls_of("on_proxy_state");
    let connections = calls.iter().map(|call| call.connection).collect::<BTreeSet<_>>();
    assert!(connections.len() < calls.len(), "connections are kept");
    assert!(relay.metric("rillcast_hook_calls_total") > 0);
    relay.stop();
}
