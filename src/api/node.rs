//! The running node as what the API asks.

use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::bus::message::{Answer, Ask};
use crate::bus::view::ProbeView;
use crate::config::{Config, ReloadError, Reloaded};
use crate::media::{ConnectionId, ShardId, SourceUrl, StreamKey};
use crate::net::NodeHandle;
use crate::proto::rtsp::LowerTransport;

impl Node for NodeHandle {
    fn shards(&self) -> usize {
        Self::shards(self)
    }

    fn owner_of(&self, key: &StreamKey) -> ShardId {
        Self::owner_of(self, key)
    }

    fn ask(&self, to: ShardId, ask: Ask, bound: Duration) -> impl Future<Output = Option<Answer>> {
        Self::ask(self, to, ask, bound)
    }

    fn config(&self) -> Arc<Config> {
        Self::config(self)
    }

    fn change_config<R>(&self, edit: impl FnOnce(&mut Config) -> R) -> R {
        Self::change_config(self, edit)
    }

    async fn recent_events(&self, key: &StreamKey, bound: Duration) -> Vec<String> {
        Self::recent_events(self, key, bound).await.unwrap_or_default()
    }

    fn probe(
        &self,
        by: ConnectionId,
        origin: (SourceUrl, LowerTransport),
        timeout: Duration,
    ) -> impl Future<Output = Option<ProbeView>> {
        Self::probe(self, by, origin, timeout)
    }

    fn reload(&self) -> impl Future<Output = Result<Reloaded, ReloadError>> {
        Self::reload(self)
    }

    fn persisted(&self, bound: Duration) -> impl Future<Output = bool> {
        Self::persisted(self, bound)
    }

    fn journal_is_behind(&self) -> bool {
        Self::journal_is_behind(self)
    }

    fn ready(&self) -> bool {
        self.is_ready()
    }
}
