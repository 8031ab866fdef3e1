//! Streams: getMediaList, getMediaInfo, isMediaOnline, getMediaPlayerList, close_stream,
//! close_streams.
//!
//! Only registered streams count, except for the closes and where `include_pending` asks for the
//! others. Each counts in one schema ([`wire::SCHEMA`]); a filter for another matches nothing.

use super::Node;
use super::gather::concurrently;
use super::router::Call;
use super::wire::{
    self, CloseCounts, CloseRow, Code, Failure, MediaInfo, MediaRow, Online, PlayerRow, ReleasedRow,
};
use crate::bus::message::{Answer, Ask, CloseOutcome, Closed};
use crate::bus::view::StreamView;
use crate::clock;
use crate::media::StreamKey;
use crate::media::state::{Released, StreamState};
use crate::proto::http::Response;

/// `getMediaList`.
pub(super) async fn list<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let with_pending = call.params.flag("include_pending");
    let streams = matching(call, !with_pending).await?;
    Ok(wire::list(streams.iter().map(MediaRow::of)).await)
}

/// `getMediaInfo`.
pub(super) async fn show<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let stream = find_registered(call).await?.ok_or_else(Failure::stream_not_found)?;
    let row = MediaRow::of(&stream).with_loss();
    Ok(wire::success(MediaInfo { online: true, row }))
}

/// `isMediaOnline`.
pub(super) async fn is_online<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let online = find_registered(call).await?.is_some();
    Ok(wire::success(Online { online }))
}

/// `getMediaPlayerList`.
pub(super) async fn list_players<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let stream = find_registered(call).await?.ok_or_else(Failure::stream_not_found)?;
    let mut players = Vec::new();
    for answer in call.ask_all(|| Ask::Players { key: stream.key.clone() }).await {
        let Answer::Players(views) = answer? else { return Err(Failure::other_answer()) };
        players.extend(views.unwrap_or_default());
    }
    Ok(wire::list(players.iter().map(PlayerRow::of)).await)
}

/// `close_stream`.
pub(super) async fn close<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let key = named_key(call).ok_or_else(Failure::stream_not_found)?;
    let order = Order::of(call);
    let ask = Ask::Close {
        key: key.clone(),
        generation: None,
        force: order.force,
        pending_too: order.pending_too,
    };
    let Answer::Close(outcome) = call.ask_owner(&key, ask).await? else {
        return Err(Failure::other_answer());
    };
    match outcome {
        CloseOutcome::Closed(closed) => {
            let released = Some(ReleasedRow::of(&closed));
            Ok(wire::reply(Code::Success, Some("success"), CloseRow { result: 0, released }))
        }
        CloseOutcome::HasPlayers => {
            let row = CloseRow { result: -1, released: None };
            Ok(wire::reply(Code::OtherFailed, Some("close failed"), row))
        }
        CloseOutcome::Pending(state) if call.config.api.force_closes_pending => {
            Err(Failure::new(Code::NotFound, pending_text(state)))
        }
        CloseOutcome::Pending(_) | CloseOutcome::NotFound => Err(Failure::stream_not_found()),
    }
}

/// `close_streams`: closes what matches now, each by its generation, so that what comes under the
/// same name meanwhile is left alone.
pub(super) async fn close_all<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let order = Order::of(call);
    let streams = matching(call, false).await?;
    let (registered, pending): (Vec<_>, Vec<_>) =
        streams.iter().partition(|stream| stream.registered);
    let mut counts = CloseCounts {
        count_hit: registered.len() as u64,
        count_pending: pending.len() as u64,
        ..CloseCounts::default()
    };
    let mut planned = registered;
    planned.extend(pending.into_iter().filter(|_| order.pending_too));
    // Those that queue for their origin's connect budget first: each of the others that ends would
    // let one of them dial, only to be hung up.
    planned.sort_by_key(|stream| stream.state != StreamState::Queued);
    // Each close has its bound; this one is for a node that confirms none of thousands.
    let deadline = clock::now() + call.bound() * CLOSE_ALL_BOUNDS;
    let in_time = planned.iter().take_while(|_| clock::now() < deadline);
    let outcomes = concurrently(in_time.map(|stream| close_one(call, order, stream))).await;
    let complete = outcomes.len() == planned.len();
    let mut all = Closed { released: Released::default(), complete };
    for outcome in outcomes {
        match outcome {
            Some(CloseOutcome::Closed(closed)) => {
                counts.count_closed += 1;
                all.released += closed.released;
                all.complete &= closed.complete;
            }
            // It has ended by itself, or players or a lost source came in between.
            Some(CloseOutcome::NotFound | CloseOutcome::HasPlayers | CloseOutcome::Pending(_)) => {}
            None => all.complete = false,
        }
    }
    counts.released = ReleasedRow::of(&all);
    Ok(wire::success(counts))
}

/// `None` when the owner did not answer.
async fn close_one<N: Node>(
    call: &Call<'_, N>,
    order: Order,
    stream: &StreamView,
) -> Option<CloseOutcome> {
    let ask = Ask::Close {
        key: stream.key.clone(),
        generation: Some(stream.generation),
        force: order.force,
        pending_too: order.pending_too,
    };
    match call.ask_owner(&stream.key, ask).await {
        Ok(Answer::Close(outcome)) => Some(outcome),
        _ => None,
    }
}

/// What a close may end.
#[derive(Debug, Clone, Copy)]
struct Order {
    /// Streams with players.
    force: bool,
    /// Pending streams.
    pending_too: bool,
}

impl Order {
    fn of<N: Node>(call: &Call<'_, N>) -> Self {
        let force = call.params.flag("force");
        let forces_pending = force && call.config.api.force_closes_pending;
        Self { force, pending_too: forces_pending || call.params.flag("pending") }
    }
}

fn pending_text(state: StreamState) -> String {
    format!(
        "can not find the stream: it is pending ({}); to end it, call again with force=1 or \
         pending=1, or delStreamProxy with its key where it is pulled",
        state.as_str()
    )
}

/// The streams that the optional filters let through. ZLMediaKit takes the vhost of these filters as
/// it stands.
async fn matching<N: Node>(
    call: &Call<'_, N>,
    registered_only: bool,
) -> Result<Vec<StreamView>, Failure> {
    if call.params.find("schema").is_some_and(|schema| schema != wire::SCHEMA) {
        return Ok(Vec::new());
    }
    let (vhost, app, stream) =
        (call.params.find("vhost"), call.params.find("app"), call.params.find("stream"));
    let has = |filter: Option<&str>, part: &str| filter.is_none_or(|only| only == part);
    let lets_through = |view: &StreamView| {
        (view.registered || !registered_only)
            && has(vhost, view.key.vhost())
            && has(app, view.key.app())
            && has(stream, view.key.stream())
    };
    if let (Some(app), Some(stream)) = (app, stream) {
        let Ok(key) = StreamKey::in_default_vhost(app, stream) else { return Ok(Vec::new()) };
        return Ok(call.stream(&key).await?.into_iter().filter(lets_through).collect());
    }
    Ok(call.streams(registered_only, lets_through).await?.into_values().collect())
}

/// The key of a call that names a stream with its schema; `None` when there can be no such stream.
fn named_key<N: Node>(call: &Call<'_, N>) -> Option<StreamKey> {
    (call.params.text("schema") == wire::SCHEMA).then(|| call.key().ok()).flatten()
}

async fn find_registered<N: Node>(call: &Call<'_, N>) -> Result<Option<StreamView>, Failure> {
    let Some(key) = named_key(call) else { return Ok(None) };
    Ok(call.stream(&key).await?.filter(|stream| stream.registered))
}

/// Bounds of one close that all closes of a call may take together.
const CLOSE_ALL_BOUNDS: u32 = 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use crate::api::testing::{Dial, FakeNode, NOW_UNIX};
    use crate::limits::API_ASKS_MAX;
    use crate::media::state::{EndReason, ErrorClass, Fault};
    use crate::media::{ConnectionId, ShardId};
    use crate::stream::Packaging;

    const URL: &str = "rtmp://10.0.0.1/live/src";

    const STREAM: [(&str, &str); 4] =
        [("schema", "rtmp"), ("vhost", "__defaultVhost__"), ("app", "live"), ("stream", "a")];

    fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [&STREAM[..], more].concat()
    }

    fn add(node: &FakeNode, stream: &str) -> Dial {
        add_more(node, stream);
        node.take_dial()
    }

    /// An add that may have to wait for its origin's connect budget.
    fn add_more(node: &FakeNode, stream: &str) {
        let params =
            [("vhost", "v"), ("app", "live"), ("stream", stream), ("url", URL), ("async", "1")];
        assert_eq!(node.call("addStreamProxy", &params)["code"], 0);
    }

    /// A node with one pull, pending.
    fn pending() -> (FakeNode, Dial) {
        let node = FakeNode::new();
        let dial = add(&node, "a");
        (node, dial)
    }

    /// A node with one pull, registered, and a player on each shard.
    fn watched() -> (FakeNode, Dial, [ConnectionId; 2]) {
        let (node, dial) = pending();
        node.deliver(&dial);
        let players = [0, 1].map(|shard| ConnectionId { serial: 7, shard: ShardId(shard) });
        node.play(players[0], "a", Packaging::Rtmp);
        node.play(players[1], "a", Packaging::WsFlv);
        (node, dial, players)
    }

    #[test]
    fn only_registered_streams_count() {
        let (node, dial) = pending();
        let shows = |online: bool| {
            let rows = usize::from(online);
            assert_eq!(node.call("getMediaList", &[])["data"].as_array().unwrap().len(), rows);
            assert_eq!(node.call("isMediaOnline", &STREAM)["online"], online);
            let code = if online { 0 } else { -500 };
            assert_eq!(node.call("getMediaInfo", &STREAM)["code"], code);
            assert_eq!(node.call("getMediaPlayerList", &STREAM)["code"], code);
        };
        shows(false);
        node.deliver(&dial);
        shows(true);
        node.fail(&dial, Fault::new(ErrorClass::Lost, "end of file"));
        shows(false);
    }

    #[test]
    fn pending_streams_are_shown_on_demand() {
        let node = FakeNode::new();
        node.deliver(&add(&node, "a"));
        add(&node, "b");
        node.play(ConnectionId { serial: 3, shard: ShardId(1) }, "c", Packaging::Flv);
        let list = node.call("getMediaList", &[("include_pending", "1")]);
        let rows = list["data"].as_array().unwrap();
        let column = |name: &str| Vec::from_iter(rows.iter().map(|row| row[name].clone()));
        assert_eq!(column("stream"), ["a", "b", "c"]);
        assert_eq!(column("pending"), [false, true, true]);
        assert_eq!(column("state"), ["registered", "resolving", "awaiting_source"]);
        assert_eq!(column("originType"), [4, 4, 0]);
        assert_eq!(column("waiters"), [0, 0, 1]);
        assert_eq!(column("attempts"), [Value::Null, json!(1), Value::Null]);
        assert!(rows[1]["lastError"].is_null() && rows[1].get("lastError").is_some());
        assert_eq!(column("aliveSecond"), [0, 0, 0]);
        assert_eq!(column("createStamp"), [NOW_UNIX; 3]);
    }

    #[test]
    fn filters_are_exact() {
        let node = FakeNode::new();
        node.deliver(&add(&node, "a"));
        node.deliver(&add(&node, "b"));
        let table: [(&[(&str, &str)], usize); 11] = [
            (&[], 2),
            (&[("schema", "rtmp")], 2),
            (&[("schema", "rtsp")], 0),
            (&[("schema", "RTMP")], 0),
            (&[("vhost", "__defaultVhost__")], 2),
            (&[("vhost", "v")], 0),
            (&[("app", "live")], 2),
            (&[("app", "Live")], 0),
            (&[("stream", "a")], 1),
            (&[("app", "live"), ("stream", "b")], 1),
            (&[("app", "live/"), ("stream", "b")], 0),
        ];
        for (filters, count) in table {
            let list = node.call("getMediaList", filters);
            assert_eq!(list["data"].as_array().unwrap().len(), count, "{filters:?}");
        }
        // A named stream is found under any vhost, and in its own schema only.
        assert_eq!(node.call("isMediaOnline", &with(&[("vhost", "v")]))["online"], true);
        assert_eq!(node.call("isMediaOnline", &with(&[("schema", "hls")]))["online"], false);
        assert_eq!(node.call("getMediaInfo", &with(&[("schema", "rtsp")]))["code"], -500);
    }

    #[test]
    fn players_of_all_shards_are_listed() {
        let (node, _, players) = watched();
        let list = node.call("getMediaPlayerList", &STREAM);
        let rows = list["data"].as_array().unwrap();
        let column = |name: &str| Vec::from_iter(rows.iter().map(|row| row[name].clone()));
        assert_eq!(column("identifier"), players.map(|player| json!(player.to_string())));
        assert_eq!(column("typeid"), ["mediakit::RtmpSession", "mediakit::HttpSession"]);
        assert_eq!(column("peer_ip"), ["127.0.0.1"; 2]);
        assert_eq!(column("local_port"), [8080; 2]);
        let info = node.call("getMediaInfo", &STREAM);
        assert_eq!((&info["readerCount"], &info["totalReaderCount"]), (&json!(2), &json!(2)));
        assert_eq!(info["tracks"][0]["loss"], -1.0);
        assert_eq!(info["online"], true);
    }

    #[test]
    fn close_stream_of_an_absent_key_finds_nothing() {
        let node = FakeNode::new();
        let not_found = json!({"code": -500, "msg": "can not find the stream"});
        assert_eq!(node.call("close_stream", &STREAM), not_found);
        assert_eq!(node.call("close_stream", &with(&[("force", "1")])), not_found);
        let counts = node.call("close_streams", &[("force", "1")]);
        assert_eq!((&counts["count_hit"], &counts["count_closed"]), (&json!(0), &json!(0)));
        assert_eq!(counts["count_pending"], 0);
    }

    #[test]
    fn close_stream_of_a_pending_key_names_the_ways_to_end_it() {
        let (node, _) = pending();
        let reply = node.call("close_stream", &STREAM);
        assert_eq!(reply["code"], -500);
        let msg = reply["msg"].as_str().unwrap();
        for part in
            ["can not find the stream", "resolving", "force=1", "pending=1", "delStreamProxy"]
        {
            assert!(msg.contains(part), "{part}: {msg}");
        }
        for word in ["force", "pending"] {
            let (node, _) = pending();
            let reply = node.call("close_stream", &with(&[(word, "1")]));
            assert_eq!((&reply["code"], &reply["result"]), (&json!(0), &json!(0)), "{word}");
            assert_eq!(reply["msg"], "success");
            assert_eq!(reply["released"]["sockets"], 1);
            assert_eq!(reply["released"]["complete"], true);
            node.assert_empty();
        }
        let (node, _) = pending();
        let reply = node.call("close_stream", &with(&[("force", "1"), ("schema", "rtsp")]));
        assert_eq!(reply["code"], -500);
        assert_eq!(node.call("listStreamProxy", &[])["data"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn close_stream_spares_players_without_force() {
        let (node, _, players) = watched();
        let failed = json!({"code": -1, "msg": "close failed", "result": -1});
        assert_eq!(node.call("close_stream", &STREAM), failed);
        assert_eq!(node.call("close_stream", &with(&[("pending", "1")])), failed);
        assert!(node.take_ended().is_empty());
        let reply = node.call("close_stream", &with(&[("force", "1")]));
        assert_eq!((&reply["code"], &reply["result"]), (&json!(0), &json!(0)));
        assert_eq!(reply["released"]["players"], 2);
        assert!(reply["released"]["bytes"].as_u64() > Some(0), "{reply}");
        let mut ended = node.take_ended();
        ended.sort_by_key(|(connection, _)| *connection);
        assert_eq!(ended, players.map(|player| (player, EndReason::Closed)));
        node.assert_empty();
    }

    #[test]
    fn close_stream_without_players_needs_no_force() {
        let (node, dial) = pending();
        node.deliver(&dial);
        assert_eq!(node.call("close_stream", &STREAM)["result"], 0);
        node.assert_empty();
    }

    #[test]
    fn close_streams_leaves_pending_ones_alone_and_counts_them() {
        let node = FakeNode::new();
        node.deliver(&add(&node, "up"));
        add(&node, "down");
        node.deliver(&add(&node, "watched"));
        node.play(ConnectionId { serial: 7, shard: ShardId(1) }, "watched", Packaging::Flv);
        let counts = node.call("close_streams", &[("app", "live")]);
        assert_eq!(counts["count_hit"], 2, "{counts}");
        assert_eq!(counts["count_closed"], 1, "the one without players: {counts}");
        assert_eq!(counts["count_pending"], 1, "{counts}");
        assert_eq!(counts["released"]["sockets"], 1, "{counts}");
        let counts = node.call("close_streams", &[("pending", "1")]);
        assert_eq!((&counts["count_hit"], &counts["count_closed"]), (&json!(1), &json!(1)));
        let counts = node.call("close_streams", &[("force", "1")]);
        assert_eq!((&counts["count_hit"], &counts["count_closed"]), (&json!(1), &json!(1)));
        assert_eq!(counts["released"]["players"], 1, "{counts}");
        assert_eq!(counts["code"], 0);
        node.assert_empty();
    }

    #[test]
    fn close_streams_of_many_pending_pulls_ends_all_and_dials_none() {
        let node = FakeNode::new();
        for index in 0..500 {
            add_more(&node, &format!("s{index}"));
        }
        let counts = node.call("close_streams", &[("force", "1")]);
        assert_eq!((&counts["count_hit"], &counts["count_closed"]), (&json!(0), &json!(500)));
        assert_eq!(counts["count_pending"], 500);
        // Those beyond the origin's connect budget had no socket, and get none now.
        assert_eq!(counts["released"]["sockets"], node.take_dials().len(), "{counts}");
        assert_eq!(counts["released"]["sockets"], 64, "{counts}");
        node.assert_empty();
    }

    #[test]
    fn closes_that_hang_are_under_way_few_at_a_time() {
        let node = FakeNode::new();
        for index in 0..=API_ASKS_MAX {
            let url = format!("rtmp://10.0.0.{index}/live/src");
            let stream = format!("s{index}");
            let params = [
                ("vhost", "v"),
                ("app", "live"),
                ("stream", &stream),
                ("url", &url),
                ("async", "1"),
            ];
            assert_eq!(node.call("addStreamProxy", &params)["code"], 0);
        }
        node.keep_sockets_open();
        let mut close = node.start("close_streams", &[("force", "1")]);
        assert_eq!(node.open_asks_max(), API_ASKS_MAX);
        node.pass(Duration::from_secs(1));
        assert!(close.poll().is_none(), "the last one has begun");
        node.pass(Duration::from_secs(1));
        let counts = close.poll().expect("all bounds have passed").json();
        assert_eq!(counts["count_closed"], API_ASKS_MAX + 1);
        assert_eq!(node.open_asks_max(), API_ASKS_MAX);
    }

    #[test]
    fn close_streams_tells_what_is_not_confirmed() {
        let (node, _) = pending();
        node.keep_sockets_open();
        let mut close = node.start("close_streams", &[("force", "1")]);
        assert!(close.poll().is_none());
        node.pass(Duration::from_secs(1));
        let counts = close.poll().expect("the bound has passed").json();
        assert_eq!(counts["count_closed"], 1);
        assert_eq!(counts["released"]["complete"], false);
    }

    #[test]
    fn force_can_leave_pending_pulls_alone() {
        let node = FakeNode::with(|config| config.api.force_closes_pending = false);
        add(&node, "a");
        let reply = node.call("close_stream", &with(&[("force", "1")]));
        assert_eq!(reply, json!({"code": -500, "msg": "can not find the stream"}));
        let counts = node.call("close_streams", &[("force", "1")]);
        assert_eq!((&counts["count_hit"], &counts["count_closed"]), (&json!(0), &json!(0)));
        // That word is ours, so whoever says it means it.
        assert_eq!(node.call("close_streams", &[("pending", "1")])["count_closed"], 1);
        node.assert_empty();
    }

    #[test]
    fn lost_stream_with_players_is_closed_as_pending() {
        let (node, dial, _) = watched();
        node.fail(&dial, Fault::new(ErrorClass::Lost, "end of file"));
        assert_eq!(node.call("close_stream", &STREAM)["code"], -500);
        let reply = node.call("close_stream", &with(&[("force", "1")]));
        assert_eq!(reply["released"]["players"], 2, "{reply}");
        node.assert_empty();
    }
}
