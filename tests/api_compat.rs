//! ZLMediaKit's API: its captured exchanges replayed key by key and type by type, and the rules of
//! its contract about parameters, secrets and the envelope.
//!
//! Differences that we want, and that the replay allows:
//! - lists are `[]` and never absent; a reply may have more fields than ZLMediaKit's;
//! - `cookie` is of the web page's login, which there is none of;
//! - `msg` may be more precise (its presence and type are held, its text only where clients know it);
//! - a stream counts in the schemas that it can be played in, so rows of others may lack; the one
//!   `close_streams` that hit came before the stream was up in its second schema;
//! - an add of a key whose pull is pending joins it and is answered with it;
//! - push (`addStreamPusherProxy` and its list) needs a destination, and is held by `tests/e2e_push.rs`.

mod kit;

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use kit::config::FORCE_LEAVES_PENDING;
use kit::fault::{Mode, Origin, Stage};
use kit::http::{Reply, encode, request};
use kit::relay::{SECRET, key};
use kit::{LIVENESS, Player, Relay, wait_until};
use serde_json::{Map, Value, json};

/// One line of the capture.
struct Exchange {
    line: usize,
    name: String,
    params: Vec<(String, String)>,
    /// `None` for HTTP 404.
    reply: Option<Value>,
}

fn capture() -> Vec<Exchange> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures/zlmediakit-a9e0e1a-api");
    let text = std::fs::read_to_string(path).expect("the capture");
    let is_exchange = |line: &&str| !line.is_empty() && !line.starts_with('#');
    text.lines()
        .filter(is_exchange)
        .enumerate()
        .map(|(index, line)| exchange(index, line))
        .collect()
}

fn exchange(index: usize, line: &str) -> Exchange {
    let (name, rest) = line.split_once(' ').expect("a name");
    let (params, rest) = rest.split_once("} (").expect("parameters");
    let (_, reply) = rest.split_once(") -> ").expect("a reply");
    // Python's notation, without quotes inside the strings.
    let params: Map<String, Value> =
        serde_json::from_str(&(params.replace('\'', "\"") + "}")).expect("parameters");
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Exchange {
        line: index + 1,
        name: name.to_owned(),
        params: params.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        reply: serde_json::from_str(reply).ok(),
    }
}

/// Members whose value must be ZLMediaKit's, not only its type.
const SAME_VALUE: [&str; 26] = [
    "app",
    "changed",
    "channels",
    "code",
    "codec_id",
    "codec_id_name",
    "codec_type",
    "count_closed",
    "count_hit",
    "flag",
    "fps",
    "height",
    "key",
    "online",
    "originType",
    "originTypeStr",
    "params",
    "rePullCount",
    "result",
    "sample_bit",
    "sample_rate",
    "schema",
    "status",
    "stream",
    "vhost",
    "width",
];

/// Members that a reply need not have.
const NOT_REQUIRED: [&str; 1] = ["cookie"];

/// Everything in `want` is in `have` with the same type.
fn differences(path: &str, want: &Value, have: &Value, found: &mut Vec<String>) {
    match (want, have) {
        (Value::Object(want), Value::Object(have)) => {
            for (name, want) in want {
                if NOT_REQUIRED.contains(&name.as_str()) {
                    continue;
                }
                let path = format!("{path}.{name}");
                let Some(have) = have.get(name) else {
                    found.push(format!("{path} is missing"));
                    continue;
                };
                if SAME_VALUE.contains(&name.as_str()) && !same(want, have) {
                    found.push(format!("{path} is {have}, want {want}"));
                }
                differences(&path, want, have, found);
            }
        }
        (Value::Array(want), Value::Array(have)) => {
            for (index, have) in have.iter().enumerate() {
                let path = format!("{path}[{index}]");
                match counterpart(want, have) {
                    Some(want) => differences(&path, want, have, found),
                    None => found.push(format!("{path} has no counterpart: {have}")),
                }
            }
            if have.is_empty() && !want.is_empty() {
                found.push(format!("{path} is empty"));
            }
        }
        (want, have) => {
            if std::mem::discriminant(want) != std::mem::discriminant(have) {
                found.push(format!("{path} is {have}, want the type of {want}"));
            }
        }
    }
}

fn same(want: &Value, have: &Value) -> bool {
    match (want.as_f64(), have.as_f64()) {
        // An integer must stay one: clients read it into an integer.
        (Some(a), Some(b)) => (a - b).abs() < f64::EPSILON && (!want.is_i64() || have.is_i64()),
        _ => want == have,
    }
}

/// The captured element of the same schema or track type; any when there is no such member.
fn counterpart<'a>(want: &'a [Value], have: &Value) -> Option<&'a Value> {
    ["schema", "codec_type"].iter().find(|member| have.get(**member).is_some()).map_or_else(
        || want.first(),
        |member| want.iter().find(|want| want[*member] == have[*member]),
    )
}

/// The relay and the peers that stand for those of the capture.
struct Replay {
    relay: Relay,
    hole: Origin,
    source: Origin,
    /// Adds that are answered only when their pull ends.
    joined: Vec<JoinHandle<Value>>,
}

impl Replay {
    /// The captured URL, at our peers.
    fn url(&self, url: &str) -> String {
        url.replace("127.0.0.1:60535", &format!("127.0.0.1:{}", self.hole.port()))
            .replace("127.0.0.1:19350", &format!("127.0.0.1:{}", self.source.port()))
    }

    fn params(&self, exchange: &Exchange) -> Vec<(String, String)> {
        let ours = |(name, value): &(String, String)| (name.clone(), self.url(value));
        let mut params: Vec<(String, String)> = exchange.params.iter().map(ours).collect();
        if exchange.name == "close_streams" && params.iter().all(|(name, _)| name != "schema") {
            params.push(("schema".to_owned(), "rtmp".to_owned()));
        }
        params
    }

    /// Starts an add into the hole; it hangs.
    fn add_to_hole(&mut self, params: &[(String, String)]) {
        let params = borrowed(params);
        self.joined.push(self.relay.api.call_later("addStreamProxy", &params));
        self.hole.wait_stage(0, Stage::Accepted);
        wait_until(LIVENESS, "the pull is pending", || self.relay.proxy("hole").is_some());
    }

    /// The pull is gone: all adds that hung on it are answered.
    #[track_caller]
    fn assert_joined_failed(&mut self) {
        for add in self.joined.drain(..) {
            let reply = add.join().expect("a reply");
            assert_eq!(reply["code"], -1, "{reply}");
            assert!(reply["msg"].is_string(), "{reply}");
        }
    }

    #[track_caller]
    fn replay(&mut self, exchange: &Exchange, found: &mut Vec<String>) {
        let params = self.params(exchange);
        let is_hole =
            exchange.params.iter().any(|(name, value)| name == "url" && value.contains(":60535/"));
        if exchange.name == "addStreamProxy" && is_hole {
            self.add_to_hole(&params);
            if exchange.params.iter().any(|(name, _)| name == "retry_count") {
                // In the capture a delete came a second later.
                assert_eq!(self.relay.delete("hole")["data"]["flag"], true);
                self.assert_joined_failed();
            }
            return;
        }
        let path = format!("/index/api/{}?{}", exchange.name, encode(&borrowed(&params)));
        let refused = exchange.reply.as_ref().is_some_and(|reply| reply["code"] == -100);
        let secret = if refused { String::new() } else { format!("&secret={SECRET}") };
        let reply = self.relay.api.get(&(path + &secret));
        let place = format!("line {}: {}", exchange.line, exchange.name);
        match &exchange.reply {
            None if reply.status == 404 => {}
            None => found.push(format!("{place}: HTTP {}, want 404", reply.status)),
            Some(_) if reply.status != 200 => found.push(format!("{place}: HTTP {}", reply.status)),
            Some(want) => {
                let have = reply.json();
                check_list(&place, &have, found);
                differences(&place, want, &have, found);
            }
        }
        if exchange.name == "delStreamProxy" {
            self.assert_joined_failed();
        }
    }
}

/// A list is never absent.
fn check_list(place: &str, have: &Value, found: &mut Vec<String>) {
    let lists = ["getMediaList", "listStreamProxy", "getAllSession", "getMediaPlayerList"];
    let is_list = lists.iter().any(|list| place.ends_with(list));
    if is_list && have["code"] == 0 && !have["data"].is_array() {
        found.push(format!("{place}: data is no list: {have}"));
    }
}

fn borrowed(params: &[(String, String)]) -> Vec<(&str, &str)> {
    params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn captured_exchanges_are_answered_key_by_key_and_type_by_type() {
    // In the capture, close_stream does nothing to what is pending.
    let mut replay = Replay {
        relay: Relay::start_with(2, FORCE_LEAVES_PENDING),
        hole: Origin::start(Mode::AcceptedSilent),
        source: Origin::start(Mode::Healthy),
        joined: Vec::new(),
    };
    let exchanges = capture();
    let first = exchanges.iter().find(|exchange| exchange.name == "addStreamProxy").expect("one");
    replay.add_to_hole(&replay.params(first));
    let mut found = Vec::new();
    for exchange in &exchanges {
        if exchange.name.contains("PusherProxy") {
            continue;
        }
        replay.replay(exchange, &mut found);
        let added = exchange.name == "addStreamProxy"
            && exchange.reply.as_ref().is_some_and(|reply| reply["code"] == 0);
        if added {
            replay.relay.wait_online("p1");
            // The capture was two seconds into the stream.
            kit::pause(Duration::from_millis(2500));
        }
    }
    // ZLMediaKit lists what it has, we list what we have.
    found.retain(|difference| !difference.contains("getApiList.data["));
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    replay.relay.stop();
}

#[test]
fn comparison_finds_what_is_missing_and_what_has_another_type() {
    let want = json!({"code": 0, "data": [{"schema": "rtmp", "fps": 25.0, "n": 1}], "cookie": "x"});
    let find = |have: Value| {
        let mut found = Vec::new();
        differences("", &want, &have, &mut found);
        found.len()
    };
    assert_eq!(
        find(json!({"code": 0, "data": [{"schema": "rtmp", "fps": 25, "n": 7}], "new": 1})),
        0
    );
    assert_eq!(find(json!({"code": -1, "data": [{"schema": "rtmp", "fps": 25.0, "n": 1}]})), 1);
    assert_eq!(find(json!({"code": 0, "data": [{"schema": "rtmp", "fps": 24.0, "n": 1}]})), 1);
    assert_eq!(find(json!({"code": 0, "data": [{"schema": "rtmp", "fps": 25.0, "n": "1"}]})), 1);
    assert_eq!(find(json!({"code": 0, "data": [{"schema": "rtmp", "fps": 25.0}]})), 1);
    assert_eq!(find(json!({"code": 0, "data": [{"schema": "hls", "fps": 25.0, "n": 1}]})), 1);
    assert_eq!(find(json!({"code": 0, "data": []})), 1);
    assert_eq!(find(json!({"code": 0})), 1);
}

/// Sends a request with a body or headers of its own.
#[track_caller]
fn send(relay: &Relay, line: &str, headers: &[&str], body: &str) -> Reply {
    request(relay.http, line, headers, body.as_bytes())
        .unwrap_or_else(|error| panic!("{line}: {error}"))
}

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
const JSON: &str = "Content-Type: application/json";

#[test]
fn parameters_come_from_query_form_json_and_header() {
    let relay = Relay::start(2);
    let path = "/index/api/delStreamProxy";
    let secret = format!("secret: {SECRET}");
    let query = format!("{path}?secret={SECRET}&key=a");
    let form = format!("secret={SECRET}&key=a%2Fb%2Bc");
    let body = json!({"secret": SECRET, "key": "a", "other": {"nested": [1, 2]}}).to_string();
    let replies = [
        send(&relay, &format!("GET {query}"), &[], ""),
        send(&relay, &format!("POST {query}"), &[], ""),
        send(&relay, &format!("PUT {path}"), &[FORM], &form),
        send(&relay, &format!("POST {path}"), &[FORM], &form),
        send(&relay, &format!("POST {path}"), &[JSON], &body),
        send(&relay, &format!("POST {path}?key=b"), &[JSON], &body),
        send(&relay, &format!("GET {path}?key=a"), &[&secret], ""),
        send(&relay, &format!("GET /INDEX/api/DELSTREAMPROXY?KEY=a&Secret={SECRET}"), &[], ""),
    ];
    for (index, reply) in replies.iter().enumerate() {
        assert_eq!(reply.status, 200, "{index}: {reply:?}");
        assert_eq!(reply.json()["code"], 0, "{index}: {}", reply.text());
        let content = reply.header("content-type").unwrap_or_default();
        assert!(content.starts_with("application/json"), "{index}: {content}");
    }
    relay.stop();
}

#[test]
fn query_wins_over_body() {
    let relay = Relay::start(1);
    let origin = Origin::start(Mode::NoMedia);
    assert_eq!(relay.add("a", &origin.rtmp_url("a"), &[("async", "1")])["code"], 0);
    let body = json!({"secret": "wrong", "key": "nothing"}).to_string();
    let line = format!("POST /index/api/delStreamProxy?secret={SECRET}&key={}", key("a"));
    let reply = send(&relay, &line, &[JSON], &body).json();
    assert_eq!((&reply["code"], &reply["data"]["flag"]), (&json!(0), &json!(true)), "{reply}");
    relay.stop();
}

#[test]
fn wrong_and_missing_secrets_are_refused() {
    let relay = Relay::start(1);
    for query in ["", "?secret=", "?secret=wrong"] {
        for name in ["getMediaList", "addStreamProxy", "delStreamProxy", "getServerConfig"] {
            let reply = relay.api.get(&format!("/index/api/{name}{query}"));
            assert_eq!(reply.status, 200, "{name}{query}");
            assert_eq!(reply.json()["code"], -100, "{name}{query}");
        }
    }
    relay.stop();
}

#[test]
fn missing_parameters_are_listed() {
    let relay = Relay::start(1);
    let cases = [
        ("addStreamProxy", r#""vhost","app","stream","url""#),
        ("delStreamProxy", r#""key""#),
        ("getProxyInfo", r#""key""#),
        ("close_stream", r#""schema","vhost","app","stream""#),
        ("isMediaOnline", r#""schema","vhost","app","stream""#),
        ("getMediaInfo", r#""schema","vhost","app","stream""#),
        ("getMediaPlayerList", r#""schema","vhost","app","stream""#),
        ("kick_session", r#""id""#),
    ];
    for (name, list) in cases {
        let reply = relay.api(name, &[("app", "")]);
        assert_eq!(reply["code"], -300, "{name}: {reply}");
        assert_eq!(reply["msg"], format!("Required parameter missed: {list}"), "{name}");
    }
    relay.stop();
}

#[test]
fn absent_things_have_their_codes() {
    let relay = Relay::start(2);
    let stream =
        [("schema", "rtmp"), ("vhost", "__defaultVhost__"), ("app", "live"), ("stream", "no")];
    assert_eq!(relay.api("listStreamProxy", &[("key", "no")])["code"], -400);
    assert_eq!(relay.api("getProxyInfo", &[("key", "no")])["code"], -500);
    assert_eq!(relay.api("getMediaInfo", &stream)["code"], -500);
    assert_eq!(relay.api("getMediaPlayerList", &stream)["code"], -500);
    assert_eq!(relay.api("close_stream", &stream)["code"], -500);
    assert_eq!(relay.api("isMediaOnline", &stream)["online"], false);
    assert_eq!(relay.api("kick_session", &[("id", "no")])["code"], -1);
    let bad = relay.add("a", "foo://127.0.0.1/live/a", &[]);
    assert_eq!(bad["code"], -1, "{bad}");
    assert_eq!(send(&relay, "POST /index/api/nosuch", &[FORM], "a=1").status, 404);
    relay.stop();
}

#[test]
fn connection_header_is_honest() {
    use std::io::{Read, Write};
    let relay = Relay::start(1);
    let mut socket = std::net::TcpStream::connect(relay.http).expect("the API");
    socket.set_read_timeout(Some(LIVENESS)).expect("a timeout");
    // An error too leaves the connection as its header says.
    for path in ["/index/api/getMediaList", "/index/api/nosuch", "/index/api/getMediaList"] {
        let query = format!("?secret={SECRET}");
        let head = format!("GET {path}{query} HTTP/1.1\r\nHost: a\r\n\r\n");
        socket.write_all(head.as_bytes()).expect("the connection is kept");
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        let keeps = loop {
            let len = socket.read(&mut buffer).expect("a reply");
            assert!(len > 0, "{path}: closed without a whole reply");
            bytes.extend_from_slice(&buffer[..len]);
            let Some((reply, start)) = kit::http::parse_head(&bytes) else { continue };
            let len: usize =
                reply.header("content-length").expect("a length").parse().expect("a number");
            if bytes.len() >= start + len {
                break reply.header("connection").is_none_or(|value| value != "close");
            }
        };
        if !keeps {
            assert_eq!(socket.read(&mut buffer).expect("the end"), 0, "{path}: said close");
            return;
        }
    }
}

#[test]
fn players_are_listed_and_kicked() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::Healthy);
    assert_eq!(relay.add("a", &origin.rtmp_url("a"), &[])["code"], 0);
    let players: Vec<Player> = (0..3)
        .flat_map(|_| {
            [
                Player::http_flv(relay.http, "/live/a.live.flv"),
                Player::ws_flv(relay.http, "/live/a.live.flv"),
                Player::rtmp(relay.rtmp, "live", "a"),
            ]
        })
        .collect();
    players.iter().for_each(|player| player.wait_frames(kit::flv::Kind::Video, 5));
    let stream =
        [("schema", "rtmp"), ("vhost", "__defaultVhost__"), ("app", "live"), ("stream", "a")];
    let list = relay.api("getMediaPlayerList", &stream);
    let rows = list["data"].as_array().expect("a list");
    assert_eq!(rows.len(), 9, "{list}");
    for row in rows {
        for member in ["identifier", "local_ip", "peer_ip", "typeid"] {
            assert!(row[member].is_string(), "{member}: {row}");
        }
        assert!(row["local_port"].is_u64() && row["peer_port"].is_u64(), "{row}");
    }
    let info = relay.api("getMediaInfo", &stream);
    assert_eq!(info["totalReaderCount"], 9, "{info}");
    let rtsp = [&[("schema", "rtsp")], &stream[1..]].concat();
    let info = relay.api("getMediaInfo", &rtsp);
    assert_eq!((&info["readerCount"], &info["totalReaderCount"]), (&json!(0), &json!(9)), "{info}");
    assert_eq!(relay.api("getMediaPlayerList", &rtsp)["data"], json!([]));
    let reply = relay.api("close_stream", &stream);
    assert_eq!((&reply["code"], &reply["result"]), (&json!(-1), &json!(-1)), "{reply}");
    let id = rows[0]["identifier"].as_str().expect("a string");
    assert_eq!(relay.api("kick_session", &[("id", id)])["code"], 0);
    let ended = || players.iter().filter(|player| player.look(|seen| seen.end.is_some())).count();
    wait_until(LIVENESS, "one is kicked", || ended() == 1);
    let rtmp_port = relay.rtmp.port().to_string();
    let reply = relay.api("kick_sessions", &[("local_port", &rtmp_port)]);
    assert_eq!(reply["code"], 0, "{reply}");
    wait_until(LIVENESS, "all RTMP players are kicked", || {
        let rtmp = players.iter().filter(|player| player.what().starts_with("rtmp"));
        rtmp.clone().all(|player| player.look(|seen| seen.end.is_some()))
    });
    assert!(ended() <= 4, "{} ended", ended());
    relay.stop();
}

#[test]
fn server_config_is_one_flat_map_of_texts_and_can_be_changed() {
    let relay = Relay::start(1);
    let reply = relay.api("getServerConfig", &[]);
    let config = reply["data"][0].as_object().expect("an object").clone();
    assert_eq!(reply["data"].as_array().map(Vec::len), Some(1));
    assert!(config.values().all(Value::is_string), "{reply}");
    for name in ["http.port", "rtmp.port", "general.mediaServerId"] {
        assert!(config.contains_key(name), "{name}: {reply}");
    }
    assert_eq!(config["http.port"], relay.http.port().to_string());
    let change = [("protocol.continue_push_ms", "3456"), ("no.such_key", "1")];
    assert_eq!(relay.api("setServerConfig", &change)["changed"], 1);
    assert_eq!(relay.api("setServerConfig", &change)["changed"], 0);
    let reply = relay.api("getServerConfig", &[]);
    assert_eq!(reply["data"][0]["protocol.continue_push_ms"], "3456");
    relay.stop();
}

#[test]
fn list_of_endpoints_is_that_of_the_contract() {
    let relay = Relay::start(1);
    let reply = relay.api("getApiList", &[]);
    let list: Vec<&str> =
        reply["data"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let names = [
        "addStreamProxy",
        "delStreamProxy",
        "listStreamProxy",
        "getProxyInfo",
        "addStreamPusherProxy",
        "delStreamPusherProxy",
        "listStreamPusherProxy",
        "getProxyPusherInfo",
        "close_stream",
        "close_streams",
        "getMediaList",
        "isMediaOnline",
        "getMediaInfo",
        "getMediaPlayerList",
        "getAllSession",
        "kick_session",
        "kick_sessions",
        "getStatistic",
        "getThreadsLoad",
        "getWorkThreadsLoad",
        "getServerConfig",
        "setServerConfig",
        "getApiList",
        "version",
    ];
    for name in names {
        assert!(list.contains(&format!("/index/api/{name}").as_str()), "{name} of {list:?}");
    }
    relay.stop();
}
