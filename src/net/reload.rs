//! The config file read again while the node runs: by SIGHUP, or by the API.

use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{io, thread};

use futures_util::future::join_all;
use tracing::{error, info, warn};

use super::NodeHandle;
use super::driver::Driver;
use crate::bus::keeper::ToKeeper;
use crate::bus::message::{Answer, Ask, NodeAsk};
use crate::clock;
use crate::config::{ConfigSource, ReloadError, Reloaded, Reread};
use crate::media::ShardId;
use crate::rt::oneshot;

impl NodeHandle {
    /// Reads the file again and has every shard use what changed in it.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing is changed then.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let reader = self.driver.borrow().setup.config_reader.clone();
        let reader = reader.ok_or(ReloadError::NoFile)?;
        let result: Result<_, ReloadError> = self.reread(&reader).await.and_then(|file| {
            self.change_config(|config| {
                let reloaded = reader.source.merge(&file, config)?;
                *config = reloaded.config.clone();
                Ok(reloaded)
            })
        });
        match &result {
            Err(error) => error!(%error, "the config is not changed"),
            Ok(Reloaded { config, changed, needs_restart }) => {
                info!(?changed, "the config file is read again");
                if !needs_restart.is_empty() {
                    warn!(?needs_restart, "some keys of the config file need a restart");
                }
                if changed.iter().any(|key| key == "origin") {
                    config.warnings(self.shards()).iter().for_each(|warning| warn!("{warning}"));
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

    /// Has the file read, and changes nothing when that takes too long.
    async fn reread(&self, reader: &ConfigReader) -> Result<Reread, ReloadError> {
        let receiver = {
            let mut driver = self.driver.borrow_mut();
            let (sender, receiver) = oneshot();
            let serial = driver.await_answer(sender, clock::now() + READ_BOUND);
            let tell = driver.answer_from_thread(serial);
            reader.read(Box::new(|read| tell(Answer::Reread(Box::new(read)))));
            receiver
        };
        match receiver.await {
            Ok(Answer::Reread(read)) => *read,
            _ => Err(ReloadError::Slow(READ_BOUND.as_secs())),
        }
    }
}

/// Reads the config file on a thread of its own: a disk that stalls holds no shard up.
#[derive(Clone)]
pub struct ConfigReader {
    source: Arc<ConfigSource>,
    tasks: mpsc::Sender<Done>,
}

type Done = Box<dyn FnOnce(Result<Reread, ReloadError>) + Send>;

impl ConfigReader {
    /// Starts the thread, which ends with the last clone of this.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(source: ConfigSource) -> io::Result<Self> {
        let source = Arc::new(source);
        let (tasks, queue) = mpsc::channel::<Done>();
        let read = source.clone();
        let run = move || queue.into_iter().for_each(|done| done(read.read()));
        thread::Builder::new().name("config".to_owned()).spawn(run)?;
        Ok(Self { source, tasks })
    }

    fn read(&self, done: Done) {
        // The thread is there as long as this is.
        let _ = self.tasks.send(done);
    }
}

/// Longest time that a reading may take.
const READ_BOUND: Duration = Duration::from_secs(10);

impl Driver {
    /// Goes by the node's newest configuration.
    pub(super) fn configure(&mut self) {
        self.config = self.setup.newest_config.read();
        self.shard.configure(self.now, &self.config);
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
