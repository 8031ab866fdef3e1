//! The journal beside a shard: what the shard wants kept goes there, and who acknowledges it waits
//! until it is on the disk.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use tracing::{info, warn};

use super::NodeHandle;
use super::driver::Driver;
use crate::bus::message::Answer;
use crate::clock;
use crate::journal::{self, PullRecord, PushRecord, Record};
use crate::rt::oneshot;

/// A journal, and what it said at the start.
#[derive(Clone)]
pub struct Kept {
    pub journal: journal::Handle,
    pub pulls: Arc<Vec<PullRecord>>,
    pub pushes: Arc<Vec<PushRecord>>,
}

/// A shard's way to the journal and back.
pub(super) struct Keeper {
    journal: journal::Handle,
    synced_in: mpsc::Sender<(u64, bool)>,
    synced_out: mpsc::Receiver<(u64, bool)>,
}

impl Keeper {
    pub(super) fn new(journal: journal::Handle) -> Self {
        let (synced_in, synced_out) = mpsc::channel();
        Self { journal, synced_in, synced_out }
    }
}

impl NodeHandle {
    /// Waits until all that this node has acknowledged so far is in the journal. `false` when it
    /// can't be written, is not within `bound`, or the node shuts down; `true` at once where there is none.
    pub async fn persisted(&self, bound: Duration) -> bool {
        let receiver = {
            let mut driver = self.driver.borrow_mut();
            let Some(keeper) = &driver.keeper else { return true };
            if driver.shutting_down {
                // What is absent now comes back with the next start.
                return false;
            }
            let (sender, receiver) = oneshot();
            let (journal, synced_in) = (keeper.journal.clone(), keeper.synced_in.clone());
            let deadline = clock::now() + bound;
            let serial = driver.await_answer(sender, deadline);
            let waker = driver.waker.clone();
            journal.sync(Box::new(move |written| {
                // A shard that is gone wants no answer.
                let _ = synced_in.send((serial, written));
                waker.wake();
            }));
            receiver
        };
        matches!(receiver.await, Ok(Answer::Persisted(true)))
    }

    /// Whether so much waits for the journal that nothing is to be added.
    pub fn journal_is_behind(&self) -> bool {
        self.driver.borrow().keeper.as_ref().is_some_and(|keeper| keeper.journal.is_behind())
    }
}

impl Driver {
    pub(super) fn keep(&mut self, record: Record) {
        if let Some(keeper) = &self.keeper {
            keeper.journal.put(record);
        }
    }

    /// Takes what the journal's thread has said since the last turn.
    pub(super) fn take_synced(&mut self) {
        while let Some(keeper) = &self.keeper
            && let Ok((serial, written)) = keeper.synced_out.try_recv()
        {
            self.give_answer(serial, Answer::Persisted(written));
        }
    }

    /// Enters the pulls and pushes of the journal that are this shard's.
    pub(super) fn restore(&mut self) {
        let Some(Kept { pulls, pushes, .. }) = self.setup.kept.clone() else { return };
        let (count, refused) = self.shard.restore(self.now, &pulls);
        for (PullRecord { key, url, .. }, error) in refused {
            warn!(key, url, %error, "a pull of the journal is not restored");
        }
        if count > 0 {
            info!(count, shard = self.shard.id().0, "pulls are restored");
        }
        let (count, refused) = self.shard.restore_pushes(self.now, &pushes);
        for (PushRecord { key, url, .. }, error) in refused {
            warn!(key, url, %error, "a push of the journal is not restored");
        }
        if count > 0 {
            info!(count, shard = self.shard.id().0, "pushes are restored");
        }
    }
}
