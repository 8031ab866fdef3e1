//! ZLMediaKit's HTTP API, and what else is asked of us over HTTP that is no live stream: health and
//! metrics. It talks to the shards through the bus only. `docs/api.md` has what differs from
//! ZLMediaKit.
//!
//! - `router.rs`: one table of endpoints; `params.rs` and `auth.rs` come before each.
//! - `proxy.rs`, `push.rs`, `media.rs`, `session.rs`, `server.rs`: one file per resource; `update.rs`: other
//!   sources for a pull.
//! - `absences.rs`: streams that are known to be missing.
//! - `origins.rs`: how the hosts do that are pulled from.
//! - `why.rs`: what one stream is doing, and why; `rules.rs`: which rules have acted on it.
//! - `follow.rs`: who may follow the event log.
//! - `wire.rs`: ZLMediaKit's field names, casing and codes.

mod absences;
mod auth;
#[cfg(test)]
mod capture;
mod follow;
mod gather;
mod media;
mod node;
mod objects;
mod origins;
mod params;
mod proxy;
mod push;
mod router;
mod rules;
mod server;
mod session;
#[cfg(test)]
mod testing;
mod update;
mod why;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use follow::{EVENTS_PATH, admit_follower};
pub use objects::{statistic_object, stream_object};
pub use wire::schema;

use crate::bus::message::{Answer, Ask, NodeAsk};
use crate::bus::view::ProbeView;
use crate::config::{Config, ReloadError, Reloaded};
use crate::media::{ConnectionId, ShardId, SourceUrl, StreamKey};
use crate::metrics;
use crate::proto::http::{Request, Response};
use crate::proto::rtsp::LowerTransport;

/// The node as the API sees it.
pub trait Node: Clone + 'static {
    fn shards(&self) -> usize;

    fn owner_of(&self, key: &StreamKey) -> ShardId;

    /// Asks a shard. `None` when it is shutting down or does not answer within `bound`.
    fn ask(&self, to: ShardId, ask: Ask, bound: Duration) -> impl Future<Output = Option<Answer>>;

    /// The last events of a key, each a line of JSON, the oldest first.
    fn recent_events(&self, key: &StreamKey, bound: Duration) -> impl Future<Output = Vec<String>>;

    /// What this shard goes by.
    fn config(&self) -> Arc<Config>;

    /// Changes the node's configuration; the API then asks every shard to use it.
    fn change_config<R>(&self, edit: impl FnOnce(&mut Config) -> R) -> R;

    /// Looks at an origin for a connection; `None` when too many looks are under way.
    fn probe(
        &self,
        by: ConnectionId,
        origin: (SourceUrl, LowerTransport),
        timeout: Duration,
    ) -> impl Future<Output = Option<ProbeView>>;

    /// Reads the config file again and uses what changed in it.
    fn reload(&self) -> impl Future<Output = Result<Reloaded, ReloadError>>;

    /// Waits until all that was acknowledged so far survives a crash; `false` when it does not.
    fn persisted(&self, bound: Duration) -> impl Future<Output = bool>;

    /// Whether so much waits for that that nothing is to be added.
    fn journal_is_behind(&self) -> bool;

    /// All listeners are up and nothing is being shut down.
    fn ready(&self) -> bool;
}

/// Whose request it is.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub connection: ConnectionId,
}

/// Answers any HTTP request that is not a live stream: API, health, metrics.
pub async fn handle<N: Node>(node: N, caller: Caller, request: Request) -> Response {
    match request.path.as_str() {
        "/healthz" => Response::text(200, "ok"),
        "/readyz" if node.ready() => Response::text(200, "ready"),
        "/readyz" => Response::text(503, "not ready"),
        "/metrics" => metrics_page(&node).await,
        path if router::is_api(path) => router::handle(&node, &caller, &request).await,
        _ => Response::text(404, "there is nothing here\n"),
    }
}

/// What the shards that answer have counted; a shard that does not is counted itself.
async fn metrics_page<N: Node>(node: &N) -> Response {
    let bound = Duration::from_millis(node.config().api.reply_bound_ms);
    let shards = (0..node.shards()).map(|index| ShardId(index as u16));
    let asks = shards.map(|shard| node.ask(shard, Ask::Node(NodeAsk::Metrics), bound));
    let mut page = metrics::Page::default();
    for answer in gather::concurrently(asks).await {
        match answer {
            Some(Answer::Metrics(metrics)) => page.add_shard(&metrics),
            _ => page.add_unanswered(),
        }
    }
    Response::new(200, metrics::CONTENT_TYPE, page.render())
}

#[cfg(test)]
mod tests {
    use crate::api::testing::FakeNode;
    use crate::media::ShardId;

    #[test]
    fn health_needs_no_secret() {
        let node = FakeNode::new();
        let get = |path: &str| {
            let reply = node.exchange(&format!("GET {path} HTTP/1.1"), "").finish();
            (reply.status, reply.body)
        };
        assert_eq!(get("/healthz"), (200, "ok".to_owned()));
        assert_eq!(get("/readyz").0, 200);
        node.set_ready(false);
        assert_eq!(get("/healthz").0, 200);
        assert_eq!(get("/readyz").0, 503);
        assert_eq!(get("/favicon.ico").0, 404);
    }

    #[test]
    fn metrics_come_from_all_shards_that_answer() {
        let node = FakeNode::new();
        let page = || {
            let reply = node.exchange("GET /metrics HTTP/1.1", "").finish();
            assert!(reply.head.contains("text/plain; version=0.0.4"), "{}", reply.head);
            reply.body
        };
        let text = page();
        assert!(text.contains("\nrillcast_ledger{kind=\"sockets\"} 10\n"), "{text}");
        assert!(text.contains("\nrillcast_shards_unanswered 0\n"), "{text}");
        node.freeze(ShardId(1));
        let text = page();
        assert!(text.contains("\nrillcast_ledger{kind=\"sockets\"} 5\n"), "{text}");
        assert!(text.contains("\nrillcast_shards_unanswered 1\n"), "{text}");
    }
}
