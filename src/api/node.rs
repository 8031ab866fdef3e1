//! The running node as what the API asks.

use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::bus::message::{Answer, Ask};
use crate::config::Config;
use crate::media::{ShardId, StreamKey};
use crate::net::NodeHandle;

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

    fn set_config(&self, config: Config) {
        Self::set_config(self, config);
    }

    async fn recent_events(&self, key: &StreamKey, bound: Duration) -> Vec<String> {
        Self::recent_events(self, key, bound).await.unwrap_or_default()
    }

    fn ready(&self) -> bool {
        self.is_ready()
    }
}
