//! Pushes, which ZLMediaKit calls pusher proxies: addStreamPusherProxy, delStreamPusherProxy,
//! listStreamPusherProxy, getProxyPusherInfo.

use std::sync::Arc;

use super::Node;
use super::gather::concurrently;
use super::proxy::{add_failed_text, login, options};
use super::router::Call;
use super::wire::{
    self, AddedRow, Code, Data, DeletedRow, Failure, PushName, PushRow, ReleasedRow,
};
use crate::bus::message::{Answer, Ask, PullOptions, PushOptions};
use crate::bus::view::PushView;
use crate::media::url::{SourceProtocol, SourceUrlError};
use crate::media::{ShardId, SourceUrl};
use crate::proto::http::Response;

/// `addStreamPusherProxy`: answers when the destination takes the stream or does not; at once with
/// `async=1`. With `force=1` the push stays when its stream is absent or the first attempt fails.
pub(super) async fn add<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let key = call.key().map_err(|error| Failure::new(Code::InvalidArgs, error.to_string()))?;
    let url = destination_url(call)?;
    let name = PushName::of(key.clone(), &url);
    if call.node.journal_is_behind() {
        return Err(Failure::new(Code::OtherFailed, "the journal can't keep up"));
    }
    let PullOptions { retries_max, force, no_wait, timeout, rtp_transport, .. } = options(call);
    let options = PushOptions { retries_max, force, no_wait, timeout, rtp_transport };
    // Its turn in the destination's connect budget may take one timeout, its attempt another.
    let bound = timeout * 2 + call.bound();
    let owner = call.node.owner_of(&key);
    let ask = Ask::AddPush { key, url: Arc::new(url), options };
    match call.ask_within(owner, ask, bound).await? {
        Answer::PushAdded { state, generation } => {
            let (key, state) = (name.text(), state.as_str());
            let added = AddedRow { key: &key, state, generation: generation.0 };
            Ok(wire::success(Data { data: added }))
        }
        Answer::NoSource => Err(Failure::new(Code::OtherFailed, "can not find the source stream")),
        Answer::AddFailed(fault) => Err(Failure::new(Code::OtherFailed, add_failed_text(fault))),
        Answer::AddCancelled => Err(Failure::new(Code::OtherFailed, "pusher proxy close")),
        Answer::Overloaded(limit) => Err(Failure::new(Code::OtherFailed, limit)),
        _ => Err(Failure::other_answer()),
    }
}

/// `delStreamPusherProxy`: ends a push in whatever state it is.
pub(super) async fn delete<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let closed = match PushName::parse(call.params.text("key")) {
        None => None,
        Some(PushName { key, digest, .. }) => {
            let owner = call.node.owner_of(&key);
            let answer = call.ask(owner, Ask::DeletePush { key, digest }).await?;
            let Answer::Deleted(closed) = answer else { return Err(Failure::other_answer()) };
            closed
        }
    };
    let released = closed.as_ref().map(ReleasedRow::of);
    Ok(wire::success(Data { data: DeletedRow { flag: closed.is_some(), released } }))
}

/// `listStreamPusherProxy`: all pushes, or the one of a key.
pub(super) async fn list<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let pushes = match call.params.find("key") {
        None => all(call).await?,
        Some(text) => {
            let not_found = || Failure::new(Code::Exception, format!("key not found: {text}"));
            vec![find(call, text).await?.ok_or_else(not_found)?]
        }
    };
    Ok(wire::list(pushes.iter().map(PushRow::of)).await)
}

/// `getProxyPusherInfo`.
pub(super) async fn show<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let push = find(call, call.params.text("key")).await?;
    let row = push.as_ref().map(|push| PushRow::of(push).without_key());
    let row = row.ok_or_else(|| Failure::new(Code::NotFound, "can not find pusher"))?;
    Ok(wire::success(Data { data: row }))
}

async fn find<N: Node>(call: &Call<'_, N>, text: &str) -> Result<Option<PushView>, Failure> {
    let Some(PushName { key, digest, .. }) = PushName::parse(text) else { return Ok(None) };
    let owner = call.node.owner_of(&key);
    let Answer::Push(push) = call.ask(owner, Ask::Push { key, digest }).await? else {
        return Err(Failure::other_answer());
    };
    Ok(push.map(|push| *push))
}

/// The pushes of all shards, in the order of their streams and then of their adds.
async fn all<N: Node>(call: &Call<'_, N>) -> Result<Vec<PushView>, Failure> {
    let shards = (0..call.node.shards()).map(|index| ShardId(index as u16));
    let lists = concurrently(shards.map(async |shard| {
        let mut of_shard = Vec::new();
        let mut after = None;
        loop {
            let Answer::Pushes { page, next } = call.ask(shard, Ask::Pushes { after }).await?
            else {
                return Err(Failure::other_answer());
            };
            of_shard.extend(page);
            after = next;
            if after.is_none() {
                return Ok(of_shard);
            }
        }
    }));
    let lists: Result<Vec<Vec<PushView>>, Failure> = lists.await.into_iter().collect();
    let mut pushes: Vec<PushView> = lists?.into_iter().flatten().collect();
    pushes.sort_by(|a, b| (&a.key, a.generation).cmp(&(&b.key, b.generation)));
    Ok(pushes)
}

/// A destination that the schema to push is right for.
fn destination_url<N: Node>(call: &Call<'_, N>) -> Result<SourceUrl, Failure> {
    let text = call.params.text("dst_url");
    let failed = |msg: String| Failure::new(Code::OtherFailed, msg);
    let unsupported = || failed(format!("not supported push schema:{text}"));
    let url = SourceUrl::parse(text, true).map_err(|error| match error {
        SourceUrlError::Scheme => unsupported(),
        error => failed(format!("{error}: {text}")),
    })?;
    if url.protocol == SourceProtocol::HttpFlv {
        return Err(unsupported());
    }
    let schema = call.params.text("schema");
    if schema != wire::schema(url.form()) {
        return Err(failed(format!("schema {schema} can't be pushed to {text}")));
    }
    Ok(url.with_login(login(call)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::api::testing::FakeNode;

    const URL: &str = "rtmp://10.0.0.9/live/out";

    fn params<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let plain = [
            ("schema", "rtmp"),
            ("vhost", "__defaultVhost__"),
            ("app", "live"),
            ("stream", "a"),
            ("dst_url", URL),
        ];
        [&plain[..], more].concat()
    }

    #[test]
    fn push_of_an_absent_stream_is_refused_unless_it_is_to_wait() {
        let node = FakeNode::new();
        let reply = node.call("addStreamPusherProxy", &params(&[]));
        assert_eq!(reply, json!({"code": -1, "msg": "can not find the source stream"}));
        node.assert_empty();
        let reply = node.call("addStreamPusherProxy", &params(&[("force", "1")]));
        assert_eq!(
            (&reply["code"], &reply["data"]["state"]),
            (&json!(0), &json!("awaiting_source"))
        );
        let key = reply["data"]["key"].as_str().expect("a key").to_owned();
        let list = node.call("listStreamPusherProxy", &[]);
        let row = &list["data"][0];
        assert_eq!((&row["key"], &row["status"]), (&json!(key), &json!(1)));
        assert_eq!((&row["url"], &row["src"]["stream"]), (&json!(URL), &json!("a")));
        let info = node.call("getProxyPusherInfo", &[("key", &key)]);
        assert_eq!((&info["data"]["attempts"], info["data"].get("key")), (&json!(0), None));
        let reply = node.call("delStreamPusherProxy", &[("key", &key)]);
        assert_eq!(
            (&reply["data"]["flag"], &reply["data"]["released"]["timers"]),
            (&json!(true), &json!(0))
        );
        node.assert_empty();
    }

    #[test]
    fn what_can_not_be_pushed_to_is_refused_at_once() {
        let node = FakeNode::new();
        for (more, msg) in [
            (("dst_url", "http://h/live/a.flv"), "not supported push schema:http://h/live/a.flv"),
            (("dst_url", "srt://h:9000"), "not supported push schema:srt://h:9000"),
            (("dst_url", "rtsp://h/live/a"), "schema rtmp can't be pushed to rtsp://h/live/a"),
            (("schema", "RTMP"), "schema RTMP can't be pushed to rtmp://10.0.0.9/live/out"),
        ] {
            let reply = node.call("addStreamPusherProxy", &params(&[more, ("force", "1")]));
            assert_eq!(reply, json!({"code": -1, "msg": msg}));
        }
        node.assert_empty();
    }

    #[test]
    fn unknown_keys_are_answered_as_zlmediakit_does() {
        let node = FakeNode::new();
        for key in ["nosuch", "rtmp/__defaultVhost__/live/a/abcca1af2befe8cab8e0a65c3d7b7304"] {
            let key = [("key", key)];
            let deleted = node.call("delStreamPusherProxy", &key);
            assert_eq!(deleted, json!({"code": 0, "data": {"flag": false}}));
            let listed = node.call("listStreamPusherProxy", &key);
            assert_eq!(listed["code"], -400);
            let shown = node.call("getProxyPusherInfo", &key);
            assert_eq!(shown, json!({"code": -500, "msg": "can not find pusher"}));
        }
        assert_eq!(node.call("listStreamPusherProxy", &[]), json!({"code": 0, "data": []}));
    }
}
