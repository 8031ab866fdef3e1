//! Streams that could not be had a moment ago: getNegativeCache, delNegativeCache. Both are ours.

use serde::Serialize;

use super::Node;
use super::router::Call;
use super::wire::{self, Code, Data, Failure};
use crate::bus::message::{Answer, Ask};
use crate::bus::view::AbsenceView;
use crate::media::StreamKey;
use crate::proto::http::Response;

/// One missing stream.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AbsenceRow<'a> {
    key: &'a str,
    app: &'a str,
    stream: &'a str,
    error_class: &'static str,
    reason: &'a str,
    age_ms: u64,
    left_ms: u64,
    refused: u64,
}

/// What there is, and what of it is shown.
#[derive(Serialize)]
struct Found<'a> {
    count: usize,
    data: Vec<AbsenceRow<'a>>,
}

/// How many were forgotten.
#[derive(Serialize)]
struct Forgotten {
    count: usize,
}

/// `getNegativeCache`: those of each shard that are forgotten first, up to a limit.
pub(super) async fn list<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let wanted = named(call)?;
    let (mut views, mut count): (Vec<AbsenceView>, _) = (Vec::new(), 0);
    for answer in call.ask_all(|| Ask::Absences { key: wanted.clone() }).await {
        let Answer::Absences(shown, of_shard) = answer? else {
            return Err(Failure::other_answer());
        };
        views.extend(shown);
        count += of_shard;
    }
    views.sort_by(|a, b| a.key.cmp(&b.key));
    let data = views.iter().map(AbsenceRow::of).collect();
    Ok(wire::success(Found { count, data }))
}

/// `delNegativeCache`: of one key, or all of them.
pub(super) async fn forget<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let key = named(call)?;
    let answers = match &key {
        Some(key) => {
            let ask = Ask::ForgetAbsences { key: Some(key.clone()) };
            vec![call.ask_owner(key, ask).await]
        }
        None => call.ask_all(|| Ask::ForgetAbsences { key: None }).await,
    };
    let mut count = 0;
    for answer in answers {
        let Answer::Forgotten(of_shard) = answer? else { return Err(Failure::other_answer()) };
        count += of_shard;
    }
    Ok(wire::success(Data { data: Forgotten { count } }))
}

/// The stream that is named by `key`, or by `app` and `stream`.
fn named<N: Node>(call: &Call<'_, N>) -> Result<Option<StreamKey>, Failure> {
    let bad = |text: String| Failure::new(Code::InvalidArgs, text);
    if let Some(text) = call.params.find("key") {
        let key = wire::parse_key(text).ok_or_else(|| bad(format!("no key: {text}")))?;
        return Ok(Some(key));
    }
    if call.params.find("app").is_none() && call.params.find("stream").is_none() {
        return Ok(None);
    }
    call.key().map(Some).map_err(|error| bad(error.to_string()))
}

impl<'a> AbsenceRow<'a> {
    fn of(view: &'a AbsenceView) -> Self {
        Self {
            key: view.key.as_str(),
            app: view.key.app(),
            stream: view.key.stream(),
            error_class: view.class.as_str(),
            reason: &view.text,
            age_ms: view.age_ms,
            left_ms: view.left_ms,
            refused: view.refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use crate::api::testing::FakeNode;
    use crate::media::state::{EndReason, ErrorClass, Fault};
    use crate::media::{ConnectionId, ShardId};
    use crate::stream::Packaging;

    fn node() -> FakeNode {
        FakeNode::with(|config| {
            config.demand.origin_url = "rtmp://10.0.0.1/%s/%s".to_owned();
        })
    }

    fn play(node: &FakeNode, serial: u32, stream: &str) {
        let connection = ConnectionId { serial, shard: ShardId(0) };
        node.play(connection, stream, Packaging::Rtmp);
    }

    fn shown(node: &FakeNode, params: &[(&str, &str)]) -> Value {
        node.call("getNegativeCache", params)
    }

    #[test]
    fn a_missing_stream_is_shown_until_it_is_forgotten() {
        let node = node();
        assert_eq!(shown(&node, &[]), json!({"code": 0, "count": 0, "data": []}));
        for (serial, stream) in [(1, "a"), (2, "b")] {
            play(&node, serial, stream);
            let dial = node.take_dial();
            assert!(
                dial.url.as_str().starts_with(&format!("rtmp://10.0.0.1/live/{stream}?edge=1"))
            );
            node.fail(&dial, Fault::new(ErrorClass::NotFound, "the origin refused"));
        }
        play(&node, 3, "a");
        assert_eq!(node.take_dials().len(), 0);
        let reasons: Vec<_> = node.take_ended().into_iter().map(|(_, reason)| reason).collect();
        let known = [EndReason::NotFound, EndReason::NotFound, EndReason::KnownMissing];
        assert_eq!(reasons, known);
        node.pass(Duration::from_secs(1));
        let all = shown(&node, &[]);
        assert_eq!(all["count"], 2);
        let row = json!({
            "key": "__defaultVhost__/live/a", "app": "live", "stream": "a",
            "errorClass": "not_found", "reason": "the origin refused",
            "ageMs": 1000, "leftMs": 9000, "refused": 1,
        });
        assert_eq!(all["data"][0], row);
        let of_b = [("app", "live"), ("stream", "b")];
        assert_eq!(shown(&node, &of_b)["data"].as_array().map(Vec::len), Some(1));
        assert_eq!(node.call("delNegativeCache", &of_b)["data"]["count"], 1);
        assert_eq!(node.call("delNegativeCache", &[])["data"]["count"], 1);
        play(&node, 4, "a");
        assert_eq!(node.take_dials().len(), 1, "it is asked for again");
    }

    #[test]
    fn lists_tell_a_pull_on_demand_from_an_added_one() {
        let node = node();
        play(&node, 1, "a");
        node.take_dial();
        let url = "rtmp://10.0.0.1/live/b";
        let of_b = [("vhost", "v"), ("app", "live"), ("stream", "b"), ("url", url), ("async", "1")];
        assert_eq!(node.call("addStreamProxy", &of_b)["code"], 0);
        let list = node.call("listStreamProxy", &[]);
        let rows = list["data"].as_array().expect("a list").iter();
        let told: Vec<_> = rows.map(|row| (&row["src"]["stream"], &row["onDemand"])).collect();
        assert_eq!(told, [(&json!("a"), &json!(true)), (&json!("b"), &json!(false))]);
        let key = [("key", "__defaultVhost__/live/a")];
        assert_eq!(node.call("getProxyInfo", &key)["data"]["onDemand"], true);
        // An added one takes its place, and is none.
        let of_a = [&of_b[..], &[("stream", "a")]].concat();
        assert_eq!(node.call("addStreamProxy", &of_a)["code"], 0);
        assert_eq!(node.call("getProxyInfo", &key)["data"]["onDemand"], false);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let node = node();
        for params in [&[("key", "a")][..], &[("app", "live")]] {
            assert_eq!(node.call("delNegativeCache", params)["code"], -300);
            assert_eq!(shown(&node, params)["code"], -300);
        }
    }
}
