//! Pulls, which ZLMediaKit calls stream proxies: addStreamProxy, delStreamProxy,
//! listStreamProxy, getProxyInfo, probeStream.
//!
//! Of the keys that ZLMediaKit passes to its puller or muxer, `rtp_type`, `rtsp_user`, `rtsp_pwd` and
//! `auto_close` have an effect; the others (`enable_hls`, ...) are accepted and have none.

use std::sync::Arc;
use std::time::Duration;

use super::Node;
use super::router::Call;
use super::wire::{
    self, AddedRow, Code, Data, DeletedRow, Failure, ProbeRow, ProxyRow, ReleasedRow, TakenRow,
};
use crate::bus::message::{Answer, Ask, IdleClose, PullOptions};
use crate::bus::view::{SourceView, StreamView};
use crate::limits::{
    IDLE_CLOSE_MS_MAX, KEYFRAME_PATIENCE, LOGIN_LEN_MAX, PROBE_TIMEOUT_MS_MAX, PULL_TIMEOUT_MS_MAX,
    SOURCES_MAX,
};
use crate::media::state::{ErrorClass, Fault};
use crate::media::url::{Login, SourceUrlError};
use crate::media::{SourceUrl, StreamKey};
use crate::proto::http::Response;
use crate::proto::rtsp::LowerTransport;

/// `addStreamProxy`: answers at first media or first failure; at once with `async=1`.
pub(super) async fn add<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let key = call.key().map_err(|error| Failure::new(Code::InvalidArgs, error.to_string()))?;
    let urls = source_urls(call)?;
    let options = options(call);
    if call.node.journal_is_behind() {
        return Err(Failure::new(Code::OtherFailed, "the journal can't keep up"));
    }
    let bound = call.bound() + round(options.timeout, urls.len());
    let ask = Ask::AddPull { key: key.clone(), urls, options };
    match call.ask_within(call.node.owner_of(&key), ask, bound).await? {
        Answer::Added { state, generation } => {
            let (key, state) = (key.as_str(), state.as_str());
            let added = AddedRow { key, state, generation: generation.0 };
            Ok(wire::success(Data { data: added }))
        }
        Answer::Exists { state, url, generation } => {
            let data = TakenRow {
                key: key.as_str(),
                state: state.as_str(),
                generation: generation.0,
                url: url.as_ref().map(|url| url.as_str()),
            };
            let msg = Some("This stream already exists");
            Ok(wire::reply(Code::OtherFailed, msg, Data { data }))
        }
        Answer::AddFailed(fault) => Err(Failure::new(Code::OtherFailed, add_failed_text(fault))),
        Answer::AddCancelled => Err(Failure::new(Code::OtherFailed, "player proxy close")),
        Answer::Overloaded(limit) => Err(Failure::new(Code::OtherFailed, limit)),
        _ => Err(Failure::other_answer()),
    }
}

/// What trying each source may take: its turn in the origin's connect budget one timeout, its attempt
/// another, and its keyframe some time, where what it brings is held back for that.
pub(super) fn round(timeout: Duration, sources: usize) -> Duration {
    (timeout * 2 + KEYFRAME_PATIENCE) * sources as u32
}

/// `delStreamProxy`: ends a pull in whatever state it is.
pub(super) async fn delete<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let closed = match wire::parse_key(call.params.text("key")) {
        None => None,
        Some(key) => {
            let ask = Ask::DeletePull { key: key.clone() };
            let Answer::Deleted(closed) = call.ask_owner(&key, ask).await? else {
                return Err(Failure::other_answer());
            };
            closed
        }
    };
    let released = closed.as_ref().map(ReleasedRow::of);
    Ok(wire::success(Data { data: DeletedRow { flag: closed.is_some(), released } }))
}

/// `listStreamProxy`: all pulls, or the one of a key.
pub(super) async fn list<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let streams = match call.params.find("key") {
        None => call.streams(false, is_pull).await?.into_values().collect(),
        Some(text) => {
            let pull = find_pull(call, text).await?;
            let not_found = || Failure::new(Code::Exception, format!("key not found: {text}"));
            vec![pull.ok_or_else(not_found)?]
        }
    };
    Ok(wire::list(streams.iter().filter_map(ProxyRow::of)).await)
}

/// `getProxyInfo`.
pub(super) async fn show<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let pull = find_pull(call, call.params.text("key")).await?;
    let row = pull.as_ref().and_then(ProxyRow::of).map(ProxyRow::without_key);
    let row = row.ok_or_else(|| Failure::new(Code::NotFound, "can not find the proxy"))?;
    Ok(wire::success(Data { data: row }))
}

/// `probeStream`: looks at an origin as a pull would, and registers nothing.
pub(super) async fn probe<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let url = parse_url(call, call.params.text("url"))?;
    let PullOptions { timeout, rtp_transport, .. } = options(call);
    let timeout = timeout.min(Duration::from_millis(PROBE_TIMEOUT_MS_MAX));
    let view = call.node.probe(call.caller.connection, (url, rtp_transport), timeout).await;
    let busy = || Failure::new(Code::OtherFailed, "too many probes under way");
    let view = view.ok_or_else(busy)?;
    let data = Data { data: ProbeRow::of(&view) };
    Ok(match &view.fault {
        None => wire::success(data),
        Some(fault) => wire::reply(Code::OtherFailed, Some(&fault.text), data),
    })
}

async fn find_pull<N: Node>(call: &Call<'_, N>, key: &str) -> Result<Option<StreamView>, Failure> {
    let Some(key): Option<StreamKey> = wire::parse_key(key) else { return Ok(None) };
    Ok(call.stream(&key).await?.filter(is_pull))
}

fn is_pull(stream: &StreamView) -> bool {
    matches!(stream.source, SourceView::Pull(_))
}

/// `url`, and behind it those of `urls` that are others: a JSON array, or URLs with `;` between.
pub(super) fn source_urls<N: Node>(call: &Call<'_, N>) -> Result<Vec<Arc<SourceUrl>>, Failure> {
    let given = call.params.text("urls").trim();
    let more: Vec<String> = match given.starts_with('[') {
        true => serde_json::from_str(given).map_err(|_| {
            Failure::new(Code::InvalidArgs, "urls is no array of texts, and no list with ; between")
        })?,
        false => given.split(';').map(|url| url.trim().to_owned()).collect(),
    };
    let mut urls: Vec<Arc<SourceUrl>> = Vec::new();
    for text in std::iter::once(call.params.text("url")).chain(more.iter().map(String::as_str)) {
        if text.is_empty() || urls.iter().any(|url| url.as_str() == text) {
            continue;
        }
        if urls.len() == SOURCES_MAX {
            let msg = format!("a pull has {SOURCES_MAX} URLs at most");
            return Err(Failure::new(Code::InvalidArgs, msg));
        }
        urls.push(Arc::new(parse_url(call, text)?));
    }
    match urls.is_empty() {
        true => Err(Failure::new(Code::InvalidArgs, "it needs \"url\" or \"urls\"")),
        false => Ok(urls),
    }
}

fn parse_url<N: Node>(call: &Call<'_, N>, text: &str) -> Result<SourceUrl, Failure> {
    let is_flv = call.params.text("schema").eq_ignore_ascii_case("flv");
    let url = SourceUrl::parse(text, is_flv).map_err(|error| {
        let msg = match error {
            SourceUrlError::Scheme => format!("not supported play schema:{text}"),
            error => format!("{error}: {text}"),
        };
        Failure::new(Code::OtherFailed, msg)
    })?;
    Ok(url.with_rtsp_login(login(call)?))
}

/// User and password that are given beside a URL.
pub(super) fn login<N: Node>(call: &Call<'_, N>) -> Result<Option<Login>, Failure> {
    let [user, password] = ["rtsp_user", "rtsp_pwd"].map(|name| call.params.text(name));
    for (name, text) in [("rtsp_user", user), ("rtsp_pwd", password)] {
        let fault = match text {
            text if text.len() > LOGIN_LEN_MAX => format!("is longer than {LOGIN_LEN_MAX} bytes"),
            text if text.chars().any(char::is_control) => "has control characters".to_owned(),
            _ => continue,
        };
        return Err(Failure::new(Code::InvalidArgs, format!("{name} {fault}")));
    }
    let login = || Login { user: user.to_owned(), password: password.to_owned() };
    Ok((!user.is_empty()).then(login))
}

pub(super) fn options<N: Node>(call: &Call<'_, N>) -> PullOptions {
    let (params, pull) = (&call.params, &call.config.pull);
    let default_timeout = Duration::from_millis(pull.timeout_ms.min(PULL_TIMEOUT_MS_MAX));
    let media_timeout_ms = match params.integer("media_timeout_ms") {
        Some(ms) if ms > 0 => ms.unsigned_abs(),
        _ => pull.media_timeout_ms,
    };
    let hedge_ms = match params.integer("hedge_ms") {
        Some(ms) => ms.max(0).unsigned_abs(),
        None => pull.hedge_ms,
    };
    PullOptions {
        // Any negative number is without end.
        retries_max: u32::try_from(params.integer("retry_count").unwrap_or(-1)).ok(),
        force: params.flag("force"),
        no_wait: params.flag("async"),
        timeout: named_timeout(call).unwrap_or(default_timeout),
        hedge: Duration::from_millis(hedge_ms.min(PULL_TIMEOUT_MS_MAX)),
        media_timeout: Duration::from_millis(media_timeout_ms.min(PULL_TIMEOUT_MS_MAX)),
        // 2, multicast, is not served: TCP works wherever that does.
        rtp_transport: match params.integer("rtp_type") {
            Some(1) => LowerTransport::Udp,
            _ => LowerTransport::Tcp,
        },
        idle_close: IdleClose {
            after: params
                .integer("idle_close_ms")
                .filter(|&ms| ms > 0)
                .map(|ms| Duration::from_millis(ms.unsigned_abs().min(IDLE_CLOSE_MS_MAX))),
            always: params.find("auto_close").map(|_| params.flag("auto_close")),
        },
        asked_by: Some(call.caller.peer.ip()),
    }
}

/// The caller's `timeout_sec`, where it gives one that is honored.
pub(super) fn named_timeout<N: Node>(call: &Call<'_, N>) -> Option<Duration> {
    let seconds = call.params.float("timeout_sec").filter(|seconds| *seconds > TIMEOUT_SEC_MIN)?;
    // A cast saturates.
    Some(Duration::from_millis(((seconds * 1000.0) as u64).min(PULL_TIMEOUT_MS_MAX)))
}

/// ZLMediaKit's words for the most common failure; ours for the others, which nobody switches on.
pub(super) fn add_failed_text(fault: Fault) -> String {
    match fault.class {
        ErrorClass::Refused => "connection refused".to_owned(),
        _ => fault.text,
    }
}

/// A timeout of this or less is not honored, as in ZLMediaKit.
const TIMEOUT_SEC_MIN: f64 = 0.1;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::testing::pulls::{URL, key_of, params, shown};
    use crate::api::testing::{Dial, FakeNode};
    use crate::bus::view::SessionProtocol;
    use crate::media::state::EndReason;
    use crate::media::{ConnectionId, ShardId};
    use crate::shard::Stage;
    use crate::stream::Packaging;

    fn refused() -> Fault {
        Fault::new(ErrorClass::Refused, "connection refused by 10.0.0.1:1935")
    }

    #[test]
    fn add_is_answered_at_first_media() {
        let node = FakeNode::new();
        let mut add = node.start("addStreamProxy", &params("a", &[]));
        let dial = node.take_dial();
        assert_eq!(dial.url.as_str(), URL);
        node.reach(&dial, Stage::Handshaking);
        assert!(add.poll().is_none());
        node.deliver(&dial);
        let reply = add.poll().expect("media has come").json();
        assert_eq!((&reply["code"], &reply["data"]["key"]), (&json!(0), &json!(key_of("a"))));
        assert_eq!(reply["data"]["state"], "registered");
        assert!(reply["data"]["generation"].is_u64(), "{reply}");
    }

    #[test]
    fn transport_and_login_of_rtsp_are_the_callers() {
        let node = FakeNode::new();
        for (stream, more, transport, login) in [
            ("a", &[][..], LowerTransport::Tcp, None),
            (
                "b",
                &[("rtp_type", "1"), ("rtsp_user", "u"), ("rtsp_pwd", "p")],
                LowerTransport::Udp,
                Some(("u", "p")),
            ),
            ("c", &[("rtp_type", "0"), ("rtsp_pwd", "p")], LowerTransport::Tcp, None),
        ] {
            let url = [("url", "rtsp://10.0.0.1/a"), ("async", "1")];
            node.call("addStreamProxy", &params(stream, &[&url[..], more].concat()));
            let dial = node.take_dial();
            let given = dial.url.login.as_ref().map(|login| (&*login.user, &*login.password));
            assert_eq!((dial.rtp_transport, given), (transport, login), "{stream}");
        }
    }

    #[test]
    fn login_that_is_none_is_refused_by_its_name() {
        let node = FakeNode::new();
        let [longest, long] = [LOGIN_LEN_MAX, LOGIN_LEN_MAX + 1].map(|len| "x".repeat(len));
        let too_long = format!("longer than {LOGIN_LEN_MAX} bytes");
        let table = [
            ("rtsp_user", &*long, format!("rtsp_user is {too_long}")),
            ("rtsp_pwd", &*long, format!("rtsp_pwd is {too_long}")),
            ("rtsp_pwd", "p\r\nX: y", "rtsp_pwd has control characters".to_owned()),
        ];
        let push = [("schema", "rtsp"), ("dst_url", "rtsp://10.0.0.9/out"), ("force", "1")];
        for (name, value, msg) in table {
            let params = params("a", &[&push[..], &[("rtsp_user", "u"), (name, value)]].concat());
            for call in ["addStreamProxy", "addStreamPusherProxy"] {
                assert_eq!(node.call(call, &params), json!({"code": -300, "msg": msg}), "{call}");
            }
        }
        node.assert_empty();
        let good = [("rtsp_user", &*longest), ("rtsp_pwd", &longest), ("async", "1")];
        assert_eq!(node.call("addStreamProxy", &params("a", &good))["code"], 0);
    }

    #[test]
    fn add_is_answered_at_first_failure() {
        let node = FakeNode::new();
        let table =
            [(refused(), "connection refused"), (Fault::new(ErrorClass::NotFound, "404"), "404")];
        for (fault, msg) in table {
            let mut add = node.start("addStreamProxy", &params("a", &[("retry_count", "3")]));
            node.fail(&node.take_dial(), fault);
            assert_eq!(add.poll().expect("failed").json(), json!({"code": -1, "msg": msg}));
            node.assert_empty();
        }
    }

    #[test]
    fn forced_add_survives_its_first_failure() {
        let node = FakeNode::new();
        let mut add = node.start("addStreamProxy", &params("a", &[("force", "1")]));
        node.fail(&node.take_dial(), refused());
        let reply = add.poll().expect("the first attempt has ended").json();
        assert_eq!((&reply["code"], &reply["data"]["state"]), (&json!(0), &json!("backing_off")));
        let row = shown(&node, "a");
        assert_eq!(row["status"], 1);
        assert_eq!(row["status_str"], "play failed: connection refused by 10.0.0.1:1935");
        assert_eq!((&row["attempts"], &row["nextRetryMs"]), (&json!(1), &json!(2000)));
        assert_eq!((&row["state"], &row["errorClass"]), (&json!("backing_off"), &json!("refused")));
        node.pass(Duration::from_secs(2));
        assert_eq!(node.take_dials().len(), 1);
        let row = shown(&node, "a");
        assert_eq!((&row["attempts"], &row["nextRetryMs"]), (&json!(2), &json!(0)));
        assert_eq!(row["lastError"], "connection refused by 10.0.0.1:1935");
    }

    #[test]
    fn asynchronous_add_is_answered_at_once() {
        let node = FakeNode::new();
        let reply = node.call("addStreamProxy", &params("a", &[("async", "1")]));
        assert_eq!((&reply["code"], &reply["data"]["state"]), (&json!(0), &json!("resolving")));
        let row = shown(&node, "a");
        assert_eq!(reply["data"]["generation"], row["generation"]);
        assert_eq!((&row["status"], &row["status_str"]), (&json!(1), &json!("connecting")));
        assert_eq!((&row["lastError"], &row["errorClass"]), (&Value::Null, &Value::Null));
        assert_eq!((&row["attempts"], &row["waiters"]), (&json!(1), &json!(0)));
        assert!(row["ageMs"].is_u64() && row.get("key").is_none(), "{row}");
    }

    #[test]
    fn adds_of_one_url_join_one_pull() {
        let node = FakeNode::new();
        let mut adds: Vec<_> =
            (0..64).map(|_| node.start("addStreamProxy", &params("a", &[]))).collect();
        let dials = node.take_dials();
        assert_eq!(dials.len(), 1);
        node.deliver(&dials[0]);
        let replies: Vec<Value> =
            adds.iter_mut().map(|add| add.poll().expect("media has come").json()).collect();
        assert_eq!(replies[0]["code"], 0);
        assert!(replies.iter().all(|reply| *reply == replies[0]));
    }

    #[test]
    fn taken_key_says_what_has_it() {
        let node = FakeNode::new();
        let other = [("url", "rtmp://10.0.0.2/live/other")];
        let taken = |more: &[(&str, &str)], state: &str| {
            let reply = node.call("addStreamProxy", &params("a", more));
            assert_eq!(reply["code"], -1, "{reply}");
            assert_eq!(reply["msg"], "This stream already exists");
            let data = json!({"key": key_of("a"), "state": state, "url": URL});
            assert_eq!(reply["data"]["generation"], shown(&node, "a")["generation"]);
            for name in ["key", "state", "url"] {
                assert_eq!(reply["data"][name], data[name], "{name} of {reply}");
            }
        };
        let mut add = node.start("addStreamProxy", &params("a", &[]));
        taken(&other, "resolving");
        let dial = node.take_dial();
        node.deliver(&dial);
        assert_eq!(add.poll().expect("media has come").json()["code"], 0);
        taken(&[], "registered");
        taken(&other, "registered");
        node.fail(&dial, Fault::new(ErrorClass::Lost, "end of file"));
        taken(&[], "backing_off");
    }

    #[test]
    fn lost_pull_tells_the_truth() {
        let node = FakeNode::new();
        node.call("addStreamProxy", &params("a", &[("async", "1")]));
        let dial = node.take_dial();
        node.deliver(&dial);
        node.pass(Duration::from_secs(3));
        let row = shown(&node, "a");
        assert_eq!((&row["status"], &row["status_str"]), (&json!(0), &json!("playing")));
        assert_eq!((&row["liveSecs"], &row["rePullCount"]), (&json!(3), &json!(0)));
        assert_eq!(row["tracks"].as_array().map(Vec::len), Some(2));
        node.fail(&dial, Fault::new(ErrorClass::Lost, "end of file"));
        let row = shown(&node, "a");
        assert_eq!((&row["status"], &row["rePullCount"]), (&json!(1), &json!(1)));
        assert_eq!(row["status_str"], "play shutdown: end of file");
        assert_eq!((&row["liveSecs"], &row["errorClass"]), (&json!(0), &json!("lost")));
        node.pass(Duration::from_secs(2));
        node.deliver(&node.take_dial());
        let row = shown(&node, "a");
        assert_eq!((&row["status"], &row["status_str"]), (&json!(0), &json!("playing")));
        assert_eq!((&row["attempts"], &row["lastError"]), (&json!(2), &json!("end of file")));
    }

    #[test]
    fn delete_ends_a_pull_in_every_state() {
        let steps: [fn(&FakeNode, &Dial); 6] = [
            |_, _| {},
            |node, dial| node.reach(dial, Stage::Connecting),
            |node, dial| node.reach(dial, Stage::Handshaking),
            |node, dial| node.reach(dial, Stage::AwaitingMedia),
            FakeNode::deliver,
            |node, dial| node.fail(dial, refused()),
        ];
        for (index, step) in steps.into_iter().enumerate() {
            let node = FakeNode::new();
            node.call("addStreamProxy", &params("a", &[("async", "1")]));
            let dial = node.take_dial();
            step(&node, &dial);
            let reply = node.call("delStreamProxy", &[("key", &key_of("a"))]);
            let sockets = u64::from(index != 5);
            assert_eq!((&reply["code"], &reply["data"]["flag"]), (&json!(0), &json!(true)));
            let released = &reply["data"]["released"];
            assert_eq!(released["sockets"], sockets, "{index}: {reply}");
            assert_eq!((&released["timers"], &released["complete"]), (&json!(1), &json!(true)));
            for name in ["players", "waiters", "bytes"] {
                assert!(released[name].is_u64(), "{index}: {reply}");
            }
            node.assert_empty();
            let again = node.call("delStreamProxy", &[("key", &key_of("a"))]);
            assert_eq!(again, json!({"code": 0, "data": {"flag": false}}));
            let readd = node.call("addStreamProxy", &params("a", &[("async", "1")]));
            assert_eq!(readd["code"], 0);
        }
    }

    #[test]
    fn delete_answers_adds_and_releases_players_and_waiters() {
        let node = FakeNode::new();
        let mut adds = [(); 2].map(|()| node.start("addStreamProxy", &params("a", &[])));
        let waiters = [0, 1].map(|shard| ConnectionId { serial: 7, shard: ShardId(shard) });
        for connection in waiters {
            node.play(connection, "a", Packaging::Flv);
        }
        assert_eq!(shown(&node, "a")["waiters"], 2);
        let reply = node.call("delStreamProxy", &[("key", &key_of("a"))]);
        assert_eq!(reply["data"]["released"]["waiters"], 2);
        for add in &mut adds {
            let reply = add.poll().expect("the pull is gone").json();
            assert_eq!(reply, json!({"code": -1, "msg": "player proxy close"}));
        }
        let ended = node.take_ended();
        assert_eq!(ended.len(), 2);
        assert!(ended.iter().all(|(_, reason)| *reason == EndReason::Deleted));
        node.assert_empty();
    }

    #[test]
    fn delete_that_is_not_confirmed_says_so_within_its_bound() {
        let node = FakeNode::new();
        node.call("addStreamProxy", &params("a", &[("async", "1")]));
        node.keep_sockets_open();
        let mut delete = node.start("delStreamProxy", &[("key", &key_of("a"))]);
        assert!(delete.poll().is_none());
        node.pass(Duration::from_secs(1));
        let reply = delete.poll().expect("the bound has passed").json();
        assert_eq!(reply["data"]["flag"], true);
        assert_eq!(reply["data"]["released"]["complete"], false);
    }

    #[test]
    fn every_vhost_is_the_default_one() {
        let node = FakeNode::new();
        let more = [("vhost", "10.11.4.193:9680"), ("async", "1")];
        let reply = node.call("addStreamProxy", &params("a/b", &more));
        assert_eq!(reply["data"]["key"], "__defaultVhost__/live/a/b");
        let foreign = "10.11.4.193:9680/live/a/b";
        assert_eq!(
            node.call("listStreamProxy", &[("key", foreign)])["data"][0]["key"],
            key_of("a/b")
        );
        assert_eq!(node.call("getProxyInfo", &[("key", foreign)])["code"], 0);
        assert_eq!(node.call("delStreamProxy", &[("key", foreign)])["data"]["flag"], true);
        node.assert_empty();
    }

    #[test]
    fn what_cannot_be_pulled_says_why() {
        let node = FakeNode::new();
        let long = "x".repeat(600);
        let table = [
            ("url", "foo://h/live/x", -1, "not supported play schema:foo://h/live/x"),
            ("url", "http://h/live/x", -1, "not supported play schema:http://h/live/x"),
            ("url", "rtmp://h/live", -1, "an RTMP URL needs an app and a stream: rtmp://h/live"),
            ("url", "live", -1, "the URL is malformed: live"),
            ("app", "a/b", -300, "vhost and app must not contain a slash"),
            ("stream", "a\nb", -300, "control characters are not allowed in a stream key"),
            ("stream", &long, -300, "vhost, app and stream are longer than 512 bytes together"),
        ];
        for (name, value, code, msg) in table {
            let reply = node.call("addStreamProxy", &params("a", &[(name, value)]));
            assert_eq!(reply, json!({"code": code, "msg": msg}));
        }
        assert!(node.take_dials().is_empty());
        let hint = [("url", "http://h/live/x"), ("schema", "flv"), ("async", "1")];
        assert_eq!(node.call("addStreamProxy", &params("a", &hint))["code"], 0);
        assert_eq!(node.take_dial().url.as_str(), "http://h/live/x");
    }

    #[test]
    fn timeouts_are_read_and_bound_the_answer() {
        let table = [
            ("0.5", 500),
            ("3", 3000),
            ("0.1", 10_000),
            ("", 10_000),
            ("x", 10_000),
            ("-1", 10_000),
            ("1e99", PULL_TIMEOUT_MS_MAX),
        ];
        for (text, ms) in table {
            let node = FakeNode::new();
            node.call("addStreamProxy", &params("a", &[("async", "1"), ("timeout_sec", text)]));
            let timeout = Duration::from_millis(ms);
            assert_eq!(node.take_dial().timeout, timeout, "{text}");
            let bound = timeout * 2 + KEYFRAME_PATIENCE + Duration::from_millis(1500);
            assert_eq!(node.last_bound(), bound);
        }
    }

    #[test]
    fn media_timeout_and_retries_are_read() {
        let node = FakeNode::new();
        let more = [("async", "1"), ("media_timeout_ms", "700"), ("retry_count", "0")];
        node.call("addStreamProxy", &params("a", &more));
        node.deliver(&node.take_dial());
        node.pass(Duration::from_millis(650));
        assert_eq!(shown(&node, "a")["status"], 0);
        node.pass(Duration::from_millis(100));
        assert_eq!(node.call("getProxyInfo", &[("key", &key_of("a"))])["code"], -500);
        let more = [("async", "1"), ("retry_count", "-7")];
        node.call("addStreamProxy", &params("b", &more));
        node.fail(&node.take_dial(), refused());
        assert_eq!(shown(&node, "b")["state"], "backing_off");
    }

    #[test]
    fn lists_have_every_pull_and_nothing_else() {
        let node = FakeNode::new();
        assert_eq!(node.call("listStreamProxy", &[]), json!({"code": 0, "data": []}));
        let streams: Vec<String> = (0..1000).map(|index| format!("s{index:03}")).collect();
        for stream in &streams {
            node.call("addStreamProxy", &params(stream, &[("async", "1")]));
        }
        let connection = ConnectionId { serial: 9, shard: ShardId(1) };
        node.accept(connection, SessionProtocol::Http);
        node.play(connection, "awaited", Packaging::Flv);
        let list = node.call("listStreamProxy", &[]);
        let keys: Vec<&str> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["key"].as_str().unwrap())
            .collect();
        assert_eq!(keys, Vec::from_iter(streams.iter().map(|stream| key_of(stream))));
        let missing = node.call("listStreamProxy", &[("key", &key_of("awaited"))]);
        let msg = "key not found: __defaultVhost__/live/awaited";
        assert_eq!(missing, json!({"code": -400, "msg": msg}));
        assert_eq!(node.call("listStreamProxy", &[("key", "no")])["msg"], "key not found: no");
        let unknown = node.call("getProxyInfo", &[("key", "no/such/key")]);
        assert_eq!(unknown, json!({"code": -500, "msg": "can not find the proxy"}));
    }

    #[test]
    fn too_many_pulls_are_refused() {
        let node = FakeNode::with(|config| config.limits.pending_per_shard_max = 1);
        let codes: Vec<Value> = (0..3)
            .map(|index| {
                let stream = format!("s{index}");
                node.call("addStreamProxy", &params(&stream, &[("async", "1")]))["code"].clone()
            })
            .collect();
        // Each shard takes one.
        assert!(codes.contains(&json!(0)) && codes.contains(&json!(-1)), "{codes:?}");
    }

    #[test]
    fn sources_are_a_list_or_an_array_behind_the_url() {
        let node = FakeNode::new();
        let [one, two] = ["rtmp://10.0.0.2/live/b", "http://10.0.0.3/c.flv?x=1,2"];
        let array = json!([one, URL, two]).to_string();
        for (stream, urls) in [("a", format!("{one}; {two};")), ("b", array)] {
            node.call("addStreamProxy", &params(stream, &[("urls", &urls), ("async", "1")]));
            let row = shown(&node, stream);
            let rows = row["sources"].as_array().expect("they are listed");
            let listed: Vec<&str> = rows.iter().filter_map(|row| row["url"].as_str()).collect();
            assert_eq!(listed, [URL, one, two], "{urls}");
            assert_eq!((&row["url"], &rows[0]["inUse"]), (&json!(URL), &json!(true)));
        }
        let many: Vec<String> = (0..SOURCES_MAX).map(|n| format!("rtmp://h/live/{n}")).collect();
        for (urls, code) in [("[1]", -300), ("foo://h/a", -1), (&*many.join(";"), -300)] {
            let reply = node.call("addStreamProxy", &params("c", &[("urls", urls)]));
            assert_eq!(reply["code"], code, "{urls}: {reply}");
        }
    }
}
