//! updateStreamProxy, ours: other sources for a pull that is there.

use std::time::Duration;

use super::Node;
use super::proxy::{add_failed_text, named_timeout, round, source_urls};
use super::router::Call;
use super::wire::{self, AddedRow, Code, Data, Failure};
use crate::bus::message::{Answer, Ask};
use crate::bus::view::SourceView;
use crate::media::StreamKey;
use crate::proto::http::Response;

/// `updateStreamProxy`: gives a pull other sources. Answers when one of them brings the stream, or
/// when none does.
pub(super) async fn sources<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let no_such = || Failure::new(Code::NotFound, "can not find the proxy");
    let key = wire::parse_key(call.params.text("key")).ok_or_else(no_such)?;
    let urls = source_urls(call)?;
    if call.node.journal_is_behind() {
        return Err(Failure::new(Code::OtherFailed, "the journal can't keep up"));
    }
    let timeout = match named_timeout(call) {
        Some(timeout) => timeout,
        None => timeout_of_pull(call, &key).await?.ok_or_else(no_such)?,
    };
    // Each may be tried again, where one that took over fails at once.
    let bound = call.bound() + round(timeout, urls.len()) * 2;
    let ask = Ask::UpdatePull { key: key.clone(), urls, timeout };
    match call.ask_within(call.node.owner_of(&key), ask, bound).await? {
        Answer::Added { state, generation } => {
            let (key, state) = (key.as_str(), state.as_str());
            let updated = AddedRow { key, state, generation: generation.0 };
            Ok(wire::success(Data { data: updated }))
        }
        Answer::AddFailed(fault) => Err(Failure::new(Code::OtherFailed, add_failed_text(fault))),
        Answer::AddCancelled => Err(Failure::new(Code::OtherFailed, "player proxy close")),
        Answer::NoSuchPull => Err(no_such()),
        _ => Err(Failure::other_answer()),
    }
}

/// The time that each try of a pull has.
async fn timeout_of_pull<N: Node>(
    call: &Call<'_, N>,
    key: &StreamKey,
) -> Result<Option<Duration>, Failure> {
    let stream = call.stream(key).await?;
    Ok(stream.and_then(|stream| match stream.source {
        SourceView::Pull(pull) => Some(pull.timeout),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::testing::FakeNode;
    use crate::api::testing::pulls::{URL, key_of, params, shown};
    use crate::media::state::{ErrorClass, Fault};

    #[test]
    fn update_is_answered_when_a_new_source_takes_over_or_all_fail() {
        let node = FakeNode::new();
        node.call("addStreamProxy", &params("a", &[("async", "1")]));
        let old = node.take_dial();
        node.deliver(&old);
        let key = key_of("a");
        let url = "rtmp://10.0.0.9/live/new";
        let update = [("key", &*key), ("url", url)];
        let mut failing = node.start("updateStreamProxy", &update);
        node.fail(
            &node.take_dial(),
            Fault::new(ErrorClass::Refused, "connection refused by 10.0.0.9:1935"),
        );
        let reply = failing.poll().expect("there is no other one").json();
        assert_eq!(reply, json!({"code": -1, "msg": "connection refused"}));
        assert_eq!(shown(&node, "a")["url"], URL);
        let mut working = node.start("updateStreamProxy", &update);
        assert_eq!(shown(&node, "a")["rival"], url);
        node.deliver(&node.take_dial());
        let reply = working.poll().expect("it has a keyframe").json();
        assert_eq!((&reply["code"], &reply["data"]["state"]), (&json!(0), &json!("registered")));
        let row = shown(&node, "a");
        assert_eq!((&row["url"], &row["rival"]), (&json!(url), &Value::Null));
        let nobody = node.call("updateStreamProxy", &[("key", "v/live/x"), ("url", url)]);
        assert_eq!(nobody["code"], -500);
        assert_eq!(node.call("updateStreamProxy", &[("key", &key)])["code"], -300);
    }

    #[test]
    fn update_that_names_no_timeout_leaves_the_pull_its_own() {
        let node = FakeNode::new();
        node.call("addStreamProxy", &params("a", &[("async", "1"), ("timeout_sec", "77")]));
        assert_eq!(node.take_dial().timeout, Duration::from_secs(77));
        let key = key_of("a");
        let url = |number: u32| format!("rtmp://10.0.0.9/live/{number}");
        // A timeout that is not honored is none.
        for (number, timeout_sec, expected) in [(1, "", 77), (2, "0", 77), (3, "5", 5), (4, "", 5)]
        {
            let url = url(number);
            let update = [("key", &*key), ("url", &url), ("timeout_sec", timeout_sec)];
            let _updating = node.start("updateStreamProxy", &update);
            assert_eq!(node.take_dial().timeout, Duration::from_secs(expected), "{url}");
        }
        // While it is up, the new source is tried beside the old one.
        node.call("addStreamProxy", &params("b", &[("async", "1"), ("timeout_sec", "33")]));
        node.deliver(&node.take_dial());
        let update = [("key", &*key_of("b")), ("url", &*url(5))];
        let _updating = node.start("updateStreamProxy", &update);
        assert_eq!(node.take_dial().timeout, Duration::from_secs(33));
    }
}
