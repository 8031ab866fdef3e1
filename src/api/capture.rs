//! Exchanges with a ZLMediaKit of April 2026 (commit a9e0e1a), captured live, and ours: everything
//! in its reply is in ours with the same type, and with the same value where the table of names
//! says so.
//!
//! Left out: `cookie`, which belongs to its web page's login, and the push proxies, which need a
//! destination (`tests/e2e_push.rs`). Its one `close_streams` that hit came when the stream was up in one schema only.

use std::time::Duration;

use serde_json::{Value, json};

use super::testing::FakeNode;
use crate::media::state::{ErrorClass, Fault};

const STREAM: [(&str, &str); 3] =
    [("vhost", "__defaultVhost__"), ("app", "live"), ("schema", "rtmp")];

/// Members whose value must be the same, not only their type.
const SAME_VALUE: &[&str] = &[
    "app",
    "code",
    "codec_id",
    "codec_id_name",
    "codec_type",
    "count_closed",
    "count_hit",
    "flag",
    "isRecordingHLS",
    "isRecordingMP4",
    "key",
    "loss",
    "msg",
    "name",
    "online",
    "originType",
    "originTypeStr",
    "originUrl",
    "params",
    "rePullCount",
    "result",
    "schema",
    "status",
    "status_str",
    "stream",
    "type",
    "typeid",
    "url",
    "vhost",
];

/// What the reply lacks of the captured one, or has otherwise.
fn differences(path: &str, captured: &Value, ours: &Value, found: &mut Vec<String>) {
    match (captured, ours) {
        (Value::Object(captured), Value::Object(members)) => {
            for (name, captured) in captured {
                let path = format!("{path}.{name}");
                let Some(ours) = members.get(name) else {
                    found.push(format!("{path} is missing"));
                    continue;
                };
                if SAME_VALUE.contains(&name.as_str()) && captured != ours {
                    found.push(format!("{path} is {ours}, not {captured}"));
                }
                differences(&path, captured, ours, found);
            }
        }
        (Value::Array(captured), Value::Array(rows)) => {
            if captured.len() != rows.len() {
                found.push(format!("{path} has {} rows, not {}", rows.len(), captured.len()));
            }
            for (index, (captured, ours)) in captured.iter().zip(rows).enumerate() {
                differences(&format!("{path}[{index}]"), captured, ours, found);
            }
        }
        // A client in a typed language reads 25 into a float, but not 25.0 into an integer.
        (Value::Number(captured), Value::Number(ours)) if captured.is_f64() != ours.is_f64() => {
            found.push(format!("{path} is {ours}, of another type than {captured}"));
        }
        _ if std::mem::discriminant(captured) != std::mem::discriminant(ours) => {
            found.push(format!("{path} is {ours}, of another type than {captured}"));
        }
        _ => {}
    }
}

#[track_caller]
fn assert_like(captured: &Value, ours: &Value) {
    let mut found = Vec::new();
    differences("", captured, ours, &mut found);
    assert!(found.is_empty(), "{}\n{ours}", found.join("\n"));
}

#[track_caller]
fn compare(node: &FakeNode, name: &str, params: &[(&str, &str)], captured: &Value) {
    assert_like(captured, &node.call(name, params));
}

fn tracks() -> Value {
    json!([
        {"codec_id": 0, "codec_id_name": "H264", "codec_type": 0, "duration": 960, "fps": 25.0,
         "frames": 25, "gop_interval_ms": 1037, "gop_size": 1, "height": 360, "key_frames": 1,
         "ready": true, "width": 640},
        {"channels": 1, "codec_id": 2, "codec_id_name": "mpeg4-generic", "codec_type": 1,
         "duration": 2020, "frames": 88, "ready": true, "sample_bit": 16, "sample_rate": 44100},
    ])
}

fn media_row(schema: &str, tracks: &Value) -> Value {
    json!({"aliveSecond": 2, "app": "live", "bytesSpeed": 38142, "createStamp": 1795365287_u64,
        "currentStamp": 4969, "isRecordingHLS": false, "isRecordingMP4": false,
        "originSock": {"identifier": "mediakit::RtmpPlayerImp-5", "local_ip": "127.0.0.1",
            "local_port": 42117, "peer_ip": "127.0.0.1", "peer_port": 19350},
        "originType": 4, "originTypeStr": "pull", "originUrl": UP, "params": "", "readerCount": 0,
        "schema": schema, "stream": "p1", "totalBytes": 79681, "totalReaderCount": 0,
        "tracks": tracks, "vhost": "__defaultVhost__"})
}

fn proxy_row(stream: &str, status: (u32, &str), tracks: &Value, url: &str) -> Value {
    json!({"bytesSpeed": 0, "liveSecs": 2, "rePullCount": 0,
        "src": {"app": "live", "params": "", "stream": stream, "vhost": "__defaultVhost__"},
        "status": status.0, "status_str": status.1, "totalBytes": 187, "totalReaderCount": 0,
        "tracks": tracks, "url": url})
}

fn with_key(mut row: Value, key: &str) -> Value {
    row["key"] = json!(key);
    row
}

const HOLE: &str = "rtmp://127.0.0.1:60535/live/x";
const UP: &str = "rtmp://127.0.0.1:19350/live/src";

#[test]
fn pull_that_never_comes_up() {
    // ZLMediaKit's force does not reach what is pending.
    let node = FakeNode::with(|config| config.api.force_closes_pending = false);
    let stream = [&STREAM[..], &[("stream", "hole")]].concat();
    let forced = [&stream[..], &[("force", "1")]].concat();
    let add = [&stream[..], &[("url", HOLE), ("timeout_sec", "8"), ("schema", "")]].concat();
    let key = [("key", "__defaultVhost__/live/hole")];
    let mut adding = node.start("addStreamProxy", &add);
    let not_found = json!({"code": -500, "msg": "can not find the stream"});
    let row = proxy_row("hole", (1, "connecting"), &json!([]), HOLE);
    let list = json!({"code": 0, "data": [with_key(row.clone(), key[0].1)]});
    compare(&node, "getMediaList", &[], &json!({"code": 0, "data": []}));
    compare(&node, "isMediaOnline", &stream, &json!({"code": 0, "online": false}));
    compare(&node, "getMediaInfo", &stream, &not_found);
    compare(&node, "listStreamProxy", &[], &list);
    compare(&node, "close_stream", &forced, &not_found);
    let counts = json!({"code": 0, "count_closed": 0, "count_hit": 0});
    compare(&node, "close_streams", &forced, &counts);
    compare(&node, "getProxyInfo", &key, &json!({"code": 0, "data": row}));
    // The one difference: an add of the same URL joins; of another one it is refused as captured.
    let other = [&add[..], &[("url", UP)]].concat();
    let exists = json!({"code": -1, "msg": "This stream already exists"});
    compare(&node, "addStreamProxy", &other, &exists);
    compare(&node, "delStreamProxy", &key, &json!({"code": 0, "data": {"flag": true}}));
    let cancelled = json!({"code": -1, "msg": "player proxy close"});
    assert_like(&cancelled, &adding.poll().expect("the pull is gone").json());
    compare(&node, "listStreamProxy", &[], &json!({"code": 0, "data": []}));
    compare(&node, "delStreamProxy", &key, &json!({"code": 0, "data": {"flag": false}}));
    for retry_count in ["-1", "3", "0"] {
        let add = [&add[..], &[("retry_count", retry_count)]].concat();
        let mut adding = node.start("addStreamProxy", &add);
        node.fail(&node.take_dial(), Fault::new(ErrorClass::Refused, "refused"));
        let refused = json!({"code": -1, "msg": "connection refused"});
        assert_like(&refused, &adding.poll().expect("it failed").json());
        compare(&node, "listStreamProxy", &[], &json!({"code": 0, "data": []}));
    }
    let bad = [&add[..], &[("url", "foo://127.0.0.1:1/live/x")]].concat();
    let msg = "not supported play schema:foo://127.0.0.1:1/live/x";
    compare(&node, "addStreamProxy", &bad, &json!({"code": -1, "msg": msg}));
    let msg = "Required parameter missed: \"vhost\",\"app\",\"stream\",\"url\"";
    compare(&node, "addStreamProxy", &STREAM, &json!({"code": -300, "msg": msg}));
    node.assert_empty();
}

#[test]
fn pull_that_comes_up() {
    let node = FakeNode::new();
    let stream = [&STREAM[..], &[("stream", "p1")]].concat();
    let forced = [&stream[..], &[("force", "1")]].concat();
    let add = [&stream[..], &[("url", UP), ("schema", "")]].concat();
    let key = [("key", "__defaultVhost__/live/p1")];
    let come_up = || {
        let mut adding = node.start("addStreamProxy", &add);
        node.deliver(&node.take_dial());
        let added = json!({"code": 0, "data": {"key": key[0].1}});
        assert_like(&added, &adding.poll().expect("it is up").json());
        node.pass(Duration::from_secs(2));
    };
    come_up();
    let exists = json!({"code": -1, "msg": "This stream already exists"});
    compare(&node, "addStreamProxy", &add, &exists);
    let rows = ["rtmp", "rtsp"].map(|schema| media_row(schema, &tracks()));
    compare(&node, "getMediaList", &[], &json!({"code": 0, "data": rows}));
    compare(&node, "isMediaOnline", &stream, &json!({"code": 0, "online": true}));
    let mut lossy = tracks();
    lossy[0]["loss"] = json!(-1.0);
    lossy[1]["loss"] = json!(-1.0);
    let mut media = media_row("rtmp", &lossy);
    media["code"] = json!(0);
    compare(&node, "getMediaInfo", &stream, &media);
    let row = proxy_row("p1", (0, "playing"), &tracks(), UP);
    let list = json!({"code": 0, "data": [with_key(row.clone(), key[0].1)]});
    compare(&node, "listStreamProxy", &[], &list);
    compare(&node, "getProxyInfo", &key, &json!({"code": 0, "data": row}));
    compare(&node, "getMediaPlayerList", &stream, &json!({"code": 0, "data": []}));
    let closed = json!({"code": 0, "msg": "success", "result": 0});
    compare(&node, "close_stream", &forced, &closed);
    compare(&node, "getMediaList", &[], &json!({"code": 0, "data": []}));
    compare(&node, "listStreamProxy", &[], &json!({"code": 0, "data": []}));
    come_up();
    let counts = json!({"code": 0, "count_closed": 1, "count_hit": 1});
    let of_one = [("app", "live"), ("schema", "rtmp"), ("force", "1")];
    compare(&node, "close_streams", &of_one, &counts);
    compare(&node, "listStreamProxy", &[], &json!({"code": 0, "data": []}));
    come_up();
    compare(&node, "delStreamProxy", &key, &json!({"code": 0, "data": {"flag": true}}));
    compare(&node, "getMediaList", &[], &json!({"code": 0, "data": []}));
    node.assert_empty();
}

#[test]
fn node_and_sessions() {
    let node = FakeNode::new();
    node.accept(super::testing::caller().connection, crate::bus::view::SessionProtocol::Http);
    let session = json!({"id": "33-15", "identifier": "33-15", "local_ip": "127.0.0.1",
        "local_port": 18080, "peer_ip": "127.0.0.1", "peer_port": 46440, "type": "tcp",
        "typeid": "mediakit::HttpSession"});
    compare(&node, "getAllSession", &[], &json!({"code": 0, "data": [session]}));
    let load = |name: &str| json!({"delay": 0, "fd_count": 7, "load": 65, "name": name});
    let threads = json!([load("event poller 0"), load("event poller 1")]);
    compare(&node, "getThreadsLoad", &[], &json!({"code": 0, "data": threads}));
    let version = json!({"branchName": "", "buildTime": "2026-11-22T15:56:58", "commitHash": ""});
    compare(&node, "version", &[], &json!({"code": 0, "data": version}));
    let not_found = json!({"code": -1, "msg": "can not find the target"});
    compare(&node, "kick_session", &[("id", "nosuch")], &not_found);
    compare(&node, "kick_sessions", &[], &json!({"code": 0, "count_hit": 0}));
    let login = json!({"code": -100, "msg": "Please login first"});
    let reply = node.exchange("GET /index/api/getMediaList HTTP/1.1", "").finish();
    assert_like(&login, &reply.json());
}

#[test]
fn comparison_finds_what_is_missing_and_of_another_type() {
    let captured = json!({"code": 0, "data": [{"fps": 25.0, "n": 1, "s": null}]});
    let count = |ours: Value| {
        let mut found = Vec::new();
        differences("", &captured, &ours, &mut found);
        found.len()
    };
    assert_eq!(count(json!({"code": 0, "data": [{"fps": 1.0, "n": 2, "s": null, "x": 1}]})), 0);
    assert_eq!(count(json!({"code": -1, "data": [{"fps": 1.0, "n": 2, "s": null}]})), 1);
    assert_eq!(count(json!({"code": 0, "data": [{"fps": 1, "n": 2, "s": null}]})), 1);
    assert_eq!(count(json!({"code": 0, "data": [{"fps": 1.0, "n": 2}]})), 1);
    assert_eq!(count(json!({"code": 0, "data": [{"fps": 1.0, "n": "2", "s": null}]})), 1);
    assert_eq!(count(json!({"code": 0, "data": []})), 1);
    assert_eq!(count(json!({"code": 0})), 1);
}
