//! How the hosts do that are pulled from: getOrigins, which is ours.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Node;
use super::router::Call;
use super::wire::{self, Data, Failure};
use crate::bus::message::{Answer, Ask};
use crate::bus::view::OriginView;
use crate::media::state::ErrorClass;
use crate::origin::Origins;
use crate::proto::http::Response;

/// One host, as all shards see it together.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OriginRow<'a> {
    /// Host and port.
    origin: &'a str,
    /// Templates of the config; none of a host of added pulls.
    urls: Vec<&'a str>,
    connects: u64,
    ups: u64,
    /// By class, without those that never were.
    failures: BTreeMap<&'static str, u64>,
    /// Tries in a row that it has not answered, of the shard with the longest row.
    unanswered: u32,
    error_class: Option<&'static str>,
    last_error: Option<&'a str>,
    last_error_ago_ms: Option<u64>,
    up_ago_ms: Option<u64>,
    connect_ms: Option<u64>,
    media_ms: Option<u64>,
    pulls: u32,
    connecting: u32,
    queued: u32,
    connects_max: u32,
    avoided: bool,
    avoided_ms: u64,
}

/// `getOrigins`: those of the config, and others that were pulled from; `origin` leaves out others.
pub(super) async fn list<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let mut by_name: BTreeMap<String, OriginView> = BTreeMap::new();
    for answer in call.ask_all(|| Ask::Origins).await {
        let Answer::Origins(views) = answer? else { return Err(Failure::other_answer()) };
        for view in views {
            let sum = by_name.entry(view.name.clone()).or_default();
            *sum = together(std::mem::take(sum), view);
        }
    }
    if let Some(wanted) = call.params.find("origin") {
        by_name.retain(|name, _| name == wanted);
    }
    // Its number among its equals is of no use here.
    let origins = Origins::of(&call.config, 0);
    let data: Vec<OriginRow<'_>> =
        by_name.values().map(|view| OriginRow::of(view, &origins)).collect();
    Ok(wire::success(Data { data }))
}

/// What two shards see. Of what was last, the later one counts.
fn together(a: OriginView, b: OriginView) -> OriginView {
    let mut failures = a.failures;
    failures.iter_mut().zip(b.failures).for_each(|(sum, count)| *sum += count);
    OriginView {
        name: b.name,
        connects: a.connects + b.connects,
        ups: a.ups + b.ups,
        failures,
        unanswered: a.unanswered.max(b.unanswered),
        last_fault: a.last_fault.into_iter().chain(b.last_fault).min_by_key(|(ago, _)| *ago),
        up_ago: a.up_ago.into_iter().chain(b.up_ago).min(),
        connect: a.connect.into_iter().chain(b.connect).min(),
        media: a.media.into_iter().chain(b.media).min(),
        pulls: a.pulls + b.pulls,
        connecting: a.connecting + b.connecting,
        queued: a.queued + b.queued,
        places: a.places + b.places,
        avoided: a.avoided.max(b.avoided),
    }
}

impl<'a> OriginRow<'a> {
    fn of(view: &'a OriginView, origins: &'a Origins) -> Self {
        let ms = |time: Duration| time.as_millis() as u64;
        let fault = view.last_fault.as_ref();
        let failures = ErrorClass::ALL.iter().zip(view.failures).filter(|(_, count)| *count > 0);
        Self {
            origin: &view.name,
            urls: origins.templates(&view.name).collect(),
            connects: view.connects,
            ups: view.ups,
            failures: failures.map(|(class, count)| (class.as_str(), count)).collect(),
            unanswered: view.unanswered,
            error_class: fault.map(|(_, fault)| fault.class.as_str()),
            last_error: fault.map(|(_, fault)| fault.text.as_str()),
            last_error_ago_ms: fault.map(|(ago, _)| ms(*ago)),
            up_ago_ms: view.up_ago.map(ms),
            connect_ms: view.connect.map(|(_, time)| ms(time)),
            media_ms: view.media.map(|(_, time)| ms(time)),
            pulls: view.pulls,
            connecting: view.connecting,
            queued: view.queued,
            connects_max: view.places,
            avoided: view.avoided.is_some(),
            avoided_ms: view.avoided.map_or(0, ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use crate::api::testing::FakeNode;
    use crate::media::state::{ErrorClass, Fault};
    use crate::media::{ConnectionId, ShardId};
    use crate::shard::Stage;
    use crate::stream::Packaging;

    fn node() -> FakeNode {
        FakeNode::with(|config| {
            config.demand.origin_url = "rtmp://10.0.0.1/%s/%s".to_owned();
            config.demand.failed_ms = 0;
        })
    }

    fn shown(node: &FakeNode, name: &str) -> Value {
        node.call("getOrigins", &[("origin", name)])["data"].get(0).cloned().unwrap_or_default()
    }

    #[test]
    fn an_origin_of_the_config_is_shown_from_the_start_and_avoided_when_it_is_dead() {
        let node = node();
        let all = node.call("getOrigins", &[]);
        assert_eq!(all["data"].as_array().map(Vec::len), Some(1), "{all}");
        let fresh = &all["data"][0];
        assert_eq!(fresh["urls"], json!(["rtmp://10.0.0.1/{app}/{stream}"]), "{fresh}");
        assert_eq!((&fresh["connects"], &fresh["lastError"]), (&json!(0), &Value::Null));
        assert!(fresh["connectsMax"].as_u64() > Some(0), "{fresh}");
        for serial in 1..=3 {
            let connection = ConnectionId { serial, shard: ShardId(0) };
            node.play(connection, "a", Packaging::Rtmp);
            let dial = node.take_dial();
            assert_eq!(shown(&node, "10.0.0.1:1935")["connecting"], 1);
            node.fail(&dial, Fault::new(ErrorClass::Refused, "nobody listens"));
        }
        node.pass(Duration::from_secs(1));
        let row = shown(&node, "10.0.0.1:1935");
        assert_eq!((&row["connects"], &row["failures"]), (&json!(3), &json!({"refused": 3})));
        assert_eq!((&row["unanswered"], &row["avoided"]), (&json!(3), &json!(true)), "{row}");
        assert_eq!((&row["avoidedMs"], &row["lastErrorAgoMs"]), (&json!(9000), &json!(1000)));
        assert_eq!((&row["errorClass"], &row["connecting"]), (&json!("refused"), &json!(0)));
    }

    #[test]
    fn a_host_of_an_added_pull_is_shown_with_its_times() {
        let node = node();
        let params = [
            ("vhost", "v"),
            ("app", "live"),
            ("stream", "b"),
            ("url", "rtmp://10.0.0.2/live/b"),
            ("async", "1"),
        ];
        assert_eq!(node.call("addStreamProxy", &params)["code"], 0);
        let dial = node.take_dial();
        node.pass(Duration::from_millis(20));
        node.reach(&dial, Stage::Handshaking);
        node.pass(Duration::from_millis(30));
        node.deliver(&dial);
        let row = shown(&node, "10.0.0.2:1935");
        assert_eq!((&row["urls"], &row["pulls"]), (&json!([]), &json!(1)), "{row}");
        assert_eq!((&row["connectMs"], &row["mediaMs"]), (&json!(20), &json!(50)), "{row}");
        let key = [("key", "v/live/b")];
        assert_eq!(node.call("delStreamProxy", &key)["code"], 0);
        assert_eq!(shown(&node, "10.0.0.2:1935")["pulls"], 0);
        assert_eq!(shown(&node, "10.0.0.3:1935"), Value::Null);
    }
}
