//! The thread that writes the journal.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::{error, info};

use super::file::{JournalFile, OpenError};
use super::record::Record;
use super::state::Replay;
use crate::limits::{JOURNAL_BATCH_MAX, JOURNAL_QUEUE_MAX};

/// Is told whether all that was put before is on the disk.
pub type Synced = Box<dyn FnOnce(bool) + Send>;

/// The journal of a node. Dropped, it writes what was put and ends its thread.
pub struct Journal {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// Puts records into the journal, from any thread and without waiting.
#[derive(Clone)]
pub struct Handle {
    tasks: Sender<Task>,
    /// Records that were put and are not written.
    waiting: Arc<AtomicUsize>,
}

enum Task {
    Put(Record),
    Sync(Synced),
    Stop,
}

impl Journal {
    /// Opens the journal of a folder and tells what it says.
    ///
    /// # Errors
    /// [`OpenError`] where the folder can't be made, read or written, or another process has it. A
    /// damaged journal is none: it is cut at its last whole record.
    pub fn open(dir: &Path) -> Result<(Self, Replay), OpenError> {
        let (file, replay) = JournalFile::open(dir)?;
        let (tasks, queue) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let handle = Handle { tasks, waiting: waiting.clone() };
        let writer = Writer { file, queue, waiting };
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(|| writer.run());
        let failed = |source: io::Error| OpenError::Io { dir: dir.to_owned(), source };
        let thread = Some(thread.map_err(failed)?);
        Ok((Self { handle, thread }, replay))
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // A thread that is gone has said why.
        let _ = self.handle.tasks.send(Task::Stop);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Handle {
    /// Writes a record behind those that were put before.
    pub fn put(&self, record: Record) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The thread is there until the journal is dropped, and then nothing is acknowledged.
        let _ = self.tasks.send(Task::Put(record));
    }

    /// Has `synced` told, on the writer's thread, when all that was put before is on the disk or
    /// could not be written.
    pub fn sync(&self, synced: Synced) {
        // Dropped with the queue, it tells nothing; whoever waits has a bound.
        let _ = self.tasks.send(Task::Sync(synced));
    }

    /// Whether so much waits to be written that nothing is to be added.
    pub fn is_behind(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > JOURNAL_QUEUE_MAX
    }
}

struct Writer {
    file: JournalFile,
    queue: Receiver<Task>,
    waiting: Arc<AtomicUsize>,
}

/// What is done with one sync.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    waiters: Vec<Synced>,
    is_last: bool,
}

impl Batch {
    fn add(&mut self, task: Task) {
        match task {
            Task::Put(record) => self.records.push(record),
            Task::Sync(synced) => self.waiters.push(synced),
            Task::Stop => self.is_last = true,
        }
    }
}

impl Writer {
    fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            let count = batch.records.len();
            let was_behind = self.file.is_behind();
            let written = match count {
                0 => self.file.catch_up(),
                _ => self.file.commit(batch.records),
            };
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            match &written {
                Err(error) if !was_behind => {
                    error!(%error, "the journal can't be written; it is tried again and again");
                }
                Ok(()) if was_behind => info!("the journal is written again"),
                _ => {}
            }
            for synced in batch.waiters {
                synced(written.is_ok());
            }
            if batch.is_last {
                return;
            }
        }
    }

    /// All that waits, or the time to try again.
    fn next_batch(&self) -> Option<Batch> {
        let mut batch = Batch::default();
        let first = match self.file.is_behind() {
            true => self.queue.recv_timeout(RETRY),
            false => self.queue.recv().map_err(RecvTimeoutError::from),
        };
        match first {
            Ok(task) => batch.add(task),
            Err(RecvTimeoutError::Timeout) => return Some(batch),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        while batch.records.len() < JOURNAL_BATCH_MAX
            && !batch.is_last
            && let Ok(task) = self.queue.try_recv()
        {
            batch.add(task);
        }
        Some(batch)
    }
}

/// How often a disk that takes nothing is tried.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::super::state::tests::{add, remove};
    use super::*;

    #[test]
    fn what_was_put_before_a_sync_is_on_the_disk_after_it() {
        let name = format!("rillcast-journal-{}-writer", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let (journal, replay) = Journal::open(&dir).unwrap();
        assert_eq!(replay.pulls, []);
        let (told, synced) = channel();
        let threads: Vec<_> = (0..4)
            .map(|index| {
                let (handle, told) = (journal.handle(), told.clone());
                thread::spawn(move || {
                    for round in 0..50 {
                        let name = format!("{index}-{round}");
                        handle.put(add(&name, "x"));
                        if round % 2 == 0 {
                            handle.put(remove(&name));
                        }
                        let told = told.clone();
                        handle.sync(Box::new(move |written| told.send(written).unwrap()));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(told);
        let answers: Vec<bool> = synced.iter().collect();
        assert_eq!(answers, [true; 200]);
        let on_disk = super::super::replay(&std::fs::read(dir.join("journal")).unwrap());
        assert!(!journal.handle().is_behind());
        drop(journal);
        let (_, replay) = Journal::open(&dir).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((replay.pulls.len(), on_disk), (100, replay));
    }
}
