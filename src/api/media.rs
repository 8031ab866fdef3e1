//! Streams: getMediaList, getMediaInfo, isMediaOnline, getMediaPlayerList, close_stream,
//! close_streams.
//!
//! Only registered streams count, except for the closes and where `include_pending` asks for the
//! others. Each counts in the schemas of the forms that it can be played in, a pending one in that
//! of its source; a filter for another matches nothing.

use super::Node;
use super::gather::concurrently;
use super::router::Call;
use super::wire::{
    self, CloseCounts, CloseRow, Code, Failure, MediaInfo, MediaRow, Online, PlayerRow, ReleasedRow,
};
use crate::bus::message::{Answer, Ask, CloseOutcome, Closed};
use crate::bus::view::StreamView;
use crate::clock;
use crate::media::state::{Released, StreamState};
use crate::media::{Form, StreamKey};
use crate::proto::http::Response;

/// `getMediaList`.
pub(super) async fn list<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let with_pending = call.params.flag("include_pending");
    let forms = wanted_forms(call);
    let streams = matching(call, !with_pending, &forms, count).await?;
    let rows = streams.iter().flat_map(|stream| {
        let playable = forms.iter().filter(|form| stream.form(**form).playable);
        playable.map(|form| MediaRow::of(stream, *form))
    });
    Ok(wire::list(rows).await)
}

/// `getMediaInfo`.
pub(super) async fn show<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let (stream, form) = find_registered(call).await?.ok_or_else(Failure::stream_not_found)?;
    let row = MediaRow::of(&stream, form).with_loss();
    Ok(wire::success(MediaInfo { online: true, row }))
}

/// `isMediaOnline`.
pub(super) async fn is_online<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let online = find_registered(call).await?.is_some();
    Ok(wire::success(Online { online }))
}

/// `getMediaPlayerList`.
pub(super) async fn list_players<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let (stream, form) = find_registered(call).await?.ok_or_else(Failure::stream_not_found)?;
    let mut players = Vec::new();
    for answer in call.ask_all(|| Ask::Players { key: stream.key.clone() }).await {
        let Answer::Players(views) = answer? else { return Err(Failure::other_answer()) };
        players.extend(views.unwrap_or_default());
    }
    let of_form = players.iter().filter(|player| player.packaging.form() == form);
    Ok(wire::list(of_form.map(PlayerRow::of)).await)
}

/// `close_stream`.
pub(super) async fn close<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let (key, form) = named(call).ok_or_else(Failure::stream_not_found)?;
    let order = Order::of(call);
    let ask = Ask::Close {
        key: key.clone(),
        generation: None,
        form: Some(form),
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
/// same name meanwhile is left alone. A pending stream is one of either schema: in which it would be
/// played is not known yet.
pub(super) async fn close_all<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let order = Order::of(call);
    let forms = wanted_forms(call);
    let streams = matching(call, false, &forms, count_to_close).await?;
    let (registered, pending): (Vec<_>, Vec<_>) =
        streams.iter().partition(|stream| stream.registered);
    let mut counts = CloseCounts {
        count_hit: registered.iter().map(|stream| count_to_close(stream, &forms)).sum(),
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
    for (stream, outcome) in planned.iter().zip(outcomes) {
        match outcome {
            Some(CloseOutcome::Closed(closed)) => {
                counts.count_closed += count_to_close(stream, &forms);
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
        form: None,
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

/// The streams that the optional filters let through and that count in these forms. ZLMediaKit takes
/// the vhost of these filters as it stands.
async fn matching<N: Node>(
    call: &Call<'_, N>,
    registered_only: bool,
    forms: &[Form],
    count: fn(&StreamView, &[Form]) -> u64,
) -> Result<Vec<StreamView>, Failure> {
    if forms.is_empty() {
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
            && count(view, forms) > 0
    };
    if let (Some(app), Some(stream)) = (app, stream) {
        let Ok(key) = StreamKey::in_default_vhost(app, stream) else { return Ok(Vec::new()) };
        return Ok(call.stream(&key).await?.into_iter().filter(lets_through).collect());
    }
    Ok(call.streams(registered_only, lets_through).await?.into_values().collect())
}

/// The forms that a list's filter for a schema lets through.
fn wanted_forms<N: Node>(call: &Call<'_, N>) -> Vec<Form> {
    match call.params.find("schema") {
        None => Form::ALL.to_vec(),
        Some(schema) => wire::parse_schema(schema).into_iter().collect(),
    }
}

/// In how many of these forms a stream counts.
fn count(stream: &StreamView, forms: &[Form]) -> u64 {
    forms.iter().filter(|form| stream.form(**form).playable).count() as u64
}

/// The same for a close.
fn count_to_close(stream: &StreamView, forms: &[Form]) -> u64 {
    if stream.registered { count(stream, forms) } else { 1 }
}

/// Key and form of a call that names a stream with its schema; `None` when there can be no such
/// stream.
fn named<N: Node>(call: &Call<'_, N>) -> Option<(StreamKey, Form)> {
    Some((call.key().ok()?, wire::parse_schema(call.params.text("schema"))?))
}

async fn find_registered<N: Node>(
    call: &Call<'_, N>,
) -> Result<Option<(StreamView, Form)>, Failure> {
    let Some((key, form)) = named(call) else { return Ok(None) };
    let stream = call.stream(&key).await?;
    let stream = stream.filter(|stream| stream.registered && stream.form(form).playable);
    Ok(stream.map(|stream| (stream, form)))
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
    use crate::media::{ConnectionId, ShardId, TagKind};
    use crate::stream::Packaging;

    const URL: &str = "rtmp://10.0.0.1/live/src";

    /// Sounds in an FLV tag (FLV E.4.2.1): A-law, which both forms carry, and MP3.
    const PCMA: &[u8] = &[0x72; 161];
    const MP3: &[u8] = &[0x2f, 0xff, 0xfb, 0x90, 0];

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
            let rows = 2 * usize::from(online);
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
        let list = node.call("getMediaList", &[("include_pending", "1"), ("schema", "rtmp")]);
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
        let table: [(&[(&str, &str)], usize); 12] = [
            (&[], 4),
            (&[("schema", "rtmp")], 2),
            (&[("schema", "rtsp")], 2),
            (&[("schema", "RTMP")], 0),
            (&[("schema", "hls")], 0),
            (&[("vhost", "__defaultVhost__")], 4),
            (&[("vhost", "v")], 0),
            (&[("app", "live")], 4),
            (&[("app", "Live")], 0),
            (&[("stream", "a")], 2),
            (&[("app", "live"), ("stream", "b")], 2),
            (&[("app", "live/"), ("stream", "b")], 0),
        ];
        for (filters, count) in table {
            let list = node.call("getMediaList", filters);
            assert_eq!(list["data"].as_array().unwrap().len(), count, "{filters:?}");
        }
        // A named stream is found under any vhost, and in its own schema only.
        assert_eq!(node.call("isMediaOnline", &with(&[("vhost", "v")]))["online"], true);
        assert_eq!(node.call("isMediaOnline", &with(&[("schema", "hls")]))["online"], false);
        assert_eq!(node.call("getMediaInfo", &with(&[("schema", "ts")]))["code"], -500);
    }

    #[test]
    fn a_stream_counts_in_each_schema_with_its_own_players() {
        let (node, dial) = pending();
        node.deliver_tags(&dial, 0, &[(TagKind::Audio, PCMA)]);
        node.play(ConnectionId { serial: 7, shard: ShardId(0) }, "a", Packaging::Flv);
        node.play(ConnectionId { serial: 8, shard: ShardId(1) }, "a", Packaging::WsFlv);
        let rtsp = ConnectionId { serial: 9, shard: ShardId(1) };
        node.play(rtsp, "a", Packaging::Rtsp);
        // Packets are made for it from now on, once it is clear that no picture will come.
        for second in 1..5 {
            node.deliver_tags(&dial, second * 1000, &[(TagKind::Audio, PCMA)]);
            node.pass(Duration::from_secs(1));
        }
        let list = node.call("getMediaList", &[]);
        let rows = list["data"].as_array().unwrap();
        let column = |name: &str| Vec::from_iter(rows.iter().map(|row| row[name].clone()));
        assert_eq!(column("schema"), ["rtmp", "rtsp"]);
        assert_eq!(column("readerCount"), [2, 1]);
        assert_eq!(column("totalReaderCount"), [3, 3]);
        assert_eq!(column("tracks")[0], column("tracks")[1]);
        let rtsp_schema = with(&[("schema", "rtsp")]);
        let players = node.call("getMediaPlayerList", &rtsp_schema);
        assert_eq!(players["data"].as_array().map(Vec::len), Some(1), "{players}");
        assert_eq!(players["data"][0]["identifier"], rtsp.to_string());
        assert_eq!(players["data"][0]["typeid"], "mediakit::RtspSession");
        let players = node.call("getMediaPlayerList", &STREAM);
        assert_eq!(players["data"].as_array().map(Vec::len), Some(2), "{players}");
        let info = node.call("getMediaInfo", &rtsp_schema);
        assert_eq!((&info["schema"], &info["readerCount"]), (&json!("rtsp"), &json!(1)));
        assert_eq!(node.call("isMediaOnline", &rtsp_schema)["online"], true);
        assert_eq!(node.call("close_stream", &rtsp_schema)["result"], -1, "it has players");
        let forced = with(&[("schema", "rtsp"), ("force", "1")]);
        assert_eq!(node.call("close_stream", &forced)["released"]["players"], 3);
        node.assert_empty();
    }

    #[test]
    fn a_stream_that_rtp_cannot_carry_is_not_in_schema_rtsp() {
        let (node, dial) = pending();
        let rtsp = with(&[("schema", "rtsp"), ("force", "1")]);
        node.deliver_tags(&dial, 0, &[(TagKind::Audio, MP3)]);
        let list = node.call("getMediaList", &[]);
        assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
        assert_eq!(list["data"][0]["schema"], "rtmp");
        assert_eq!(node.call("isMediaOnline", &rtsp)["online"], false);
        assert_eq!(node.call("isMediaOnline", &STREAM)["online"], true);
        for name in ["getMediaInfo", "getMediaPlayerList", "close_stream"] {
            assert_eq!(node.call(name, &rtsp)["code"], -500, "{name}");
        }
        let counts = node.call("close_streams", &rtsp);
        assert_eq!((&counts["count_hit"], &counts["count_closed"]), (&json!(0), &json!(0)));
        let counts = node.call("close_streams", &[("force", "1")]);
        assert_eq!((&counts["count_hit"], &counts["count_closed"]), (&json!(1), &json!(1)));
        node.assert_empty();
    }

    #[test]
    fn a_pending_stream_is_in_one_row_and_closed_by_either_schema() {
        for schema in ["rtmp", "rtsp"] {
            let (node, _) = pending();
            let list = node.call("getMediaList", &[("include_pending", "1")]);
            assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
            assert_eq!(list["data"][0]["schema"], "rtmp");
            let by = with(&[("schema", schema), ("pending", "1")]);
            let counts = node.call("close_streams", &[("schema", schema)]);
            assert_eq!((&counts["count_hit"], &counts["count_pending"]), (&json!(0), &json!(1)));
            assert_eq!(node.call("close_streams", &by)["count_closed"], 1, "{schema}");
            node.assert_empty();
            let (node, _) = pending();
            assert_eq!(node.call("close_stream", &by)["result"], 0, "{schema}");
            node.assert_empty();
        }
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
        let reply = node.call("close_stream", &with(&[("force", "1"), ("schema", "hls")]));
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
        assert_eq!(counts["count_hit"], 4, "two streams in two schemas: {counts}");
        assert_eq!(counts["count_closed"], 2, "the one without players: {counts}");
        assert_eq!(counts["count_pending"], 1, "{counts}");
        assert_eq!(counts["released"]["sockets"], 1, "{counts}");
        let counts = node.call("close_streams", &[("pending", "1")]);
        assert_eq!((&counts["count_hit"], &counts["count_closed"]), (&json!(2), &json!(1)));
        let counts = node.call("close_streams", &[("schema", "rtsp"), ("force", "1")]);
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
