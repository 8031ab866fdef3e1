//! The node: getServerConfig, setServerConfig, reloadConfig, getStatistic, getThreadsLoad, getWorkThreadsLoad,
//! getApiList, version.

use tracing::warn;

use super::Node;
use super::router::{self, Call};
use super::wire::{
    self, Changed, Code, Data, Failure, LoadRow, ReloadedRow, Statistic, VersionRow,
};
use crate::bus::message::{Answer, Ask, NodeAsk};
use crate::bus::view::{LoadView, Metric};
use crate::config::{Reloaded, ZlmSet};
use crate::metrics;
use crate::proto::http::Response;

/// `getApiList`.
pub(super) async fn list_api() -> Response {
    wire::list(router::paths()).await
}

/// `getServerConfig`: a list of one flat object; each value is a text.
pub(super) fn show_config<N: Node>(call: &Call<'_, N>) -> Response {
    wire::success(Data { data: [call.config.zlm_map()] })
}

/// `setServerConfig`: counts what was changed and names what is refused; what it does not know it leaves
/// alone.
pub(super) async fn set_config<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let mut changed = 0;
    let mut refused = Vec::new();
    call.node.change_config(|config| {
        let names: Vec<String> = config.zlm_map().into_keys().collect();
        for (given, value) in call.params.given() {
            let Some(name) = names.iter().find(|name| name.eq_ignore_ascii_case(given)) else {
                continue;
            };
            match config.set_zlm(name, value) {
                ZlmSet::Changed => changed += 1,
                ZlmSet::Invalid => refused.push(name.clone()),
                ZlmSet::Unknown | ZlmSet::Unchanged => {}
            }
        }
    });
    if !refused.is_empty() {
        warn!(keys = refused.join(", "), "setServerConfig has values that are not taken");
    }
    if changed > 0 {
        for answer in call.ask_all(|| Ask::Node(NodeAsk::Configure)).await {
            answer?;
        }
    }
    Ok(wire::success(Changed { changed, refused }))
}

/// `reloadConfig`: as SIGHUP.
pub(super) async fn reload_config<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let reloaded = call.node.reload().await;
    let reloaded = reloaded.map_err(|error| Failure::new(Code::OtherFailed, error.to_string()))?;
    let Reloaded { changed, needs_restart, .. } = reloaded;
    Ok(wire::success(Data { data: ReloadedRow { changed, needs_restart } }))
}

/// `restartServer`: whoever started the process does that. ZLMediaKit's clients ask for it after
/// `setServerConfig`, whose hooks act there from the next start on.
pub(super) fn refuse_restart() -> Failure {
    let msg = "not restarted: what setServerConfig sets acts at once, and the process is restarted by \
               who started it";
    Failure::new(Code::OtherFailed, msg)
}

/// `getStatistic`: numbers like those that ZLMediaKit counts its objects by.
pub(super) async fn show_statistic<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let mut statistic = Statistic::default();
    for answer in call.ask_all(|| Ask::Node(NodeAsk::Metrics)).await {
        let Answer::Metrics(metrics) = answer? else { return Err(Failure::other_answer()) };
        let held = |kind| value_of(&metrics, metrics::LEDGER, ("kind", kind));
        let registered = value_of(&metrics, metrics::STREAMS, ("state", "registered"));
        statistic.media_source += registered;
        statistic.multi_media_source_muxer += registered;
        statistic.socket += held("sockets");
        statistic.tcp_server += LISTENERS_PER_SHARD;
    }
    for answer in call.ask_all(|| Ask::Node(NodeAsk::Sessions)).await {
        let Answer::Sessions(sessions) = answer? else { return Err(Failure::other_answer()) };
        statistic.tcp_session += sessions.len() as u64;
    }
    let inbound = statistic.tcp_session + statistic.tcp_server;
    statistic.tcp_client = statistic.socket.saturating_sub(inbound);
    Ok(wire::success(Data { data: statistic }))
}

fn value_of(metrics: &[Metric], name: &str, label: (&str, &str)) -> u64 {
    let is_label =
        |metric: &Metric| metric.label.as_ref().is_some_and(|(name, of)| (*name, &**of) == label);
    let is_it = |metric: &&Metric| metric.name == name && is_label(metric);
    metrics.iter().find(is_it).map_or(0, |metric| metric.value)
}

/// `getThreadsLoad`: one row for each shard. One that does not answer is as busy as can be, so that
/// a scheduler looks elsewhere.
pub(super) async fn list_load<N: Node>(call: &Call<'_, N>) -> Response {
    let unanswered = LoadView {
        percent: 100,
        delay_ms: u32::try_from(call.bound().as_millis()).unwrap_or(u32::MAX),
        fd_count: 0,
    };
    let answers = call.ask_all(|| Ask::Node(NodeAsk::Load)).await;
    let rows = answers.into_iter().enumerate().map(|(index, answer)| {
        let load = match answer {
            Ok(Answer::Load(load)) => load,
            _ => unanswered,
        };
        LoadRow::of(format!("event poller {index}"), load)
    });
    wire::list(rows).await
}

/// `getWorkThreadsLoad`: the threads that look names up, as one. They only wait for the network,
/// so their load is told as none; without a row, control planes divide by zero.
pub(super) async fn list_work_load() -> Response {
    wire::list([LoadRow::of("work poller 0".to_owned(), LoadView::default())]).await
}

/// `version`. Whoever builds a package sets the variables.
pub(super) fn show_version() -> Response {
    let data = VersionRow {
        branch_name: option_env!("RILLCAST_BRANCH").unwrap_or_default(),
        build_time: option_env!("RILLCAST_BUILD_TIME").unwrap_or_default(),
        commit_hash: option_env!("RILLCAST_COMMIT").unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION"),
    };
    wire::success(Data { data })
}

/// HTTP, RTMP and RTSP.
pub(super) const LISTENERS_PER_SHARD: u64 = 3;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::testing::{FakeNode, SECRET};
    use crate::media::ShardId;

    #[test]
    fn config_is_one_flat_object_of_texts() {
        let reply = FakeNode::new().call("getServerConfig", &[]);
        let [config] = reply["data"].as_array().unwrap().as_slice() else { panic!("{reply}") };
        assert!(config.as_object().unwrap().values().all(|value| value.is_string()), "{reply}");
        assert_eq!(config["api.secret"], SECRET);
        assert_eq!(config["http.port"], "8080");
    }

    #[test]
    fn changed_keys_are_counted_and_reach_every_shard() {
        let node = FakeNode::new();
        let params = [
            ("general.mediaServerId", "edge-1"),
            ("GENERAL.maxstreamwaitms", "250"),
            ("hook.enable", "1"),
            ("hook.timeoutSec", "10"),
            ("http.port", "81"),
            ("nosuch.key", "1"),
        ];
        assert_eq!(node.call("setServerConfig", &params), json!({"code": 0, "changed": 3}));
        assert_eq!(node.config().server.id, "edge-1");
        assert_eq!(node.call("setServerConfig", &params), json!({"code": 0, "changed": 0}));
        let config = &node.call("getServerConfig", &[])["data"][0];
        assert_eq!((&config["hook.enable"], &config["http.port"]), (&json!("1"), &json!("8080")));
        // Each shard goes by it: a waiter is refused after the new time.
        for shard in [ShardId(0), ShardId(1)] {
            let connection = crate::media::ConnectionId { serial: 5, shard };
            node.play(connection, "absent", crate::stream::Packaging::Flv);
        }
        node.pass(std::time::Duration::from_millis(250));
        assert_eq!(node.take_ended().len(), 2);
    }

    #[test]
    fn values_that_are_not_taken_are_named() {
        let node = FakeNode::new();
        let params = [
            ("hook.on_play", "https://h/x"),
            ("hook.on_publish", "http://h/x"),
            ("Hook.TimeoutSec", "soon"),
            ("nosuch.key", "1"),
        ];
        let mut reply = node.call("setServerConfig", &params);
        let refused = reply["refused"].as_array_mut().expect("a list");
        refused.sort_by_key(ToString::to_string);
        let refused = ["hook.on_play", "hook.timeoutSec"];
        assert_eq!(reply, json!({"code": 0, "changed": 1, "refused": refused}));
    }

    #[test]
    fn reload_tells_what_changed_and_what_waits() {
        let reply = FakeNode::new().call("reloadConfig", &[]);
        let data = json!({"changed": ["pull.timeout_ms"], "needsRestart": ["http.listen"]});
        assert_eq!(reply, json!({"code": 0, "data": data}));
    }

    #[test]
    fn new_secret_counts_from_the_next_call() {
        let node = FakeNode::new();
        assert_eq!(node.call("setServerConfig", &[("api.secret", "other")])["changed"], 1);
        assert_eq!(node.call("version", &[])["code"], -100);
        assert_eq!(node.config().api.secret, "other");
    }

    #[test]
    fn statistic_sums_the_shards() {
        let node = FakeNode::new();
        let data = &node.call("getStatistic", &[])["data"];
        let names = "Buffer BufferLikeString BufferList BufferRaw Frame FrameImp MediaSource \
                     MultiMediaSourceMuxer RtmpPacket RtpPacket Socket TcpClient TcpServer \
                     TcpSession UdpServer UdpSession";
        for name in names.split(' ') {
            assert!(data[name].is_u64(), "{name}: {data}");
        }
        assert_eq!(data.as_object().unwrap().len(), 16);
        assert_eq!((&data["Socket"], &data["TcpServer"]), (&json!(10), &json!(6)));
    }

    #[test]
    fn load_has_a_row_for_each_shard() {
        let node = FakeNode::new();
        let row = |name: &str| json!({"delay": 1, "fd_count": 9, "load": 7, "name": name});
        let rows = json!([row("event poller 0"), row("event poller 1")]);
        assert_eq!(node.call("getThreadsLoad", &[])["data"], rows);
        node.freeze(ShardId(1));
        let busy = &node.call("getThreadsLoad", &[])["data"][1];
        assert_eq!((&busy["load"], &busy["delay"]), (&json!(100), &json!(1500)));
        let work = node.call("getWorkThreadsLoad", &[]);
        assert_eq!(work["data"][0]["name"], "work poller 0");
    }

    #[test]
    fn version_is_texts() {
        let data = &FakeNode::new().call("version", &[])["data"];
        for name in ["branchName", "buildTime", "commitHash", "version"] {
            assert!(data[name].is_string(), "{name}: {data}");
        }
    }
}
