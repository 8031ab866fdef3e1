//! The config file read again while the node runs: by SIGHUP, or by the API.

use std::time::Duration;

use futures_util::future::join_all;
use tracing::{error, info, warn};

use super::NodeHandle;
use super::driver::Driver;
use crate::bus::keeper::ToKeeper;
use crate::bus::message::{Ask, NodeAsk};
use crate::config::{ReloadError, Reloaded};
use crate::media::ShardId;

impl NodeHandle {
    /// Reads the file again and has every shard use what changed in it.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing is changed then.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let source = self.driver.borrow().setup.config_source.clone();
        let source = source.ok_or(ReloadError::NoFile)?;
        // Nobody waits for the disk to change or renew a config.
        let result: Result<_, ReloadError> = source.read().and_then(|file| {
            self.change_config(|config| {
                let reloaded = file.merge(config)?;
                *config = reloaded.config.clone();
                Ok(reloaded)
            })
        });
        match &result {
            Err(error) => error!(%error, "the config is not changed"),
            Ok(Reloaded { changed, needs_restart, .. }) => {
                info!(?changed, "the config file is read again");
                if !needs_restart.is_empty() {
                    warn!(?needs_restart, "some keys of the config file need a restart");
                }
            }
        }
        let reloaded = result?;
        if !reloaded.changed.is_empty() {
            let bound = Duration::from_secs(1);
            let shards = (0..self.shards()).map(|index| ShardId(index as u16));
            let asks = shards.map(|shard| self.ask(shard, Ask::Node(NodeAsk::Configure), bound));
            // One that is late has it in its queue all the same.
            join_all(asks).await;
        }
        Ok(reloaded)
    }
}

impl Driver {
    /// Goes by the node's newest configuration.
    pub(super) fn configure(&mut self) {
        self.config = self.setup.newest_config.read();
        self.shard.configure(&self.config);
        // One tells it, so that the keeper hears of changes in their order.
        if self.shard.id() == ShardId(0) {
            self.events.keeper.tell(ToKeeper::Configure(self.config.clone()));
        }
    }

    /// Has the file read again, in a task of its own.
    pub(super) fn start_reload(&mut self) {
        let node = self.handle.clone().expect("set when the driver was made");
        self.tasks.push(Box::pin(async move {
            // It is in the log.
            let _ = node.reload().await;
        }));
    }
}
