//! The journal of the simulated node, and its death: what was acknowledged must be there in the next
//! life, and what was acknowledged to be gone must not.
//!
//! ```text
//!  a shard keeps a record ──► bytes: | on the disk | written, and lost in a crash |
//!  a caller has its answer ──► waits until all that is before it is on the disk ──► acknowledged
//!  the node dies ──► cut anywhere behind what is on the disk ──► replay ──► restore in new shards
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rillcast::bus::message::{CloseOutcome, Closed};
use rillcast::bus::view::{SourceView, StreamView};
use rillcast::bus::{Answer, Ticket};
use rillcast::journal::{PullRecord, Record, encode, replay, whole};
use rillcast::media::state::{Generation, StreamState};

use super::world::{Event, World};

/// What the node has written, and whom it has told what about that.
#[derive(Default)]
pub(crate) struct Journal {
    bytes: Vec<u8>,
    /// Bytes that survive a crash.
    synced_len: usize,
    /// By where its record ends: each pull that was ever in it.
    entered: Vec<Entered>,
    /// Callers that wait for all before here to be on the disk.
    waiting: Vec<(usize, Said)>,
    /// Pulls that are acknowledged to be there, by key.
    wanted: BTreeMap<usize, Generation>,
    /// Lives of keys that are acknowledged to be over.
    over: BTreeSet<Generation>,
}

struct Entered {
    end: usize,
    key: usize,
    generation: Generation,
}

#[derive(Debug, Clone, Copy)]
enum Said {
    Added(usize, Generation),
    Ended(Generation),
}

/// Longest time until what was written is on the disk.
const SYNC_MS_MAX: u64 = 60;

impl World {
    /// A shard has decided something that is to survive.
    pub(crate) fn keep(&mut self, record: Record) {
        let was_idle = self.journal.synced_len == self.journal.bytes.len();
        encode(&record, &mut self.journal.bytes);
        if let Record::AddPull(pull) = &record {
            let key = self.keys.iter().position(|key| key.as_str() == pull.key);
            let key = key.expect("only our keys");
            let owner = self.owner(key);
            let generation = self.shards[owner].generation_of(&self.keys[key]);
            let generation = generation.expect("what is kept is in a table");
            let end = self.journal.bytes.len();
            self.journal.entered.push(Entered { end, key, generation });
        }
        if was_idle {
            self.sync_soon();
        }
    }

    /// A caller has its answer, and is told of it when that is true after a crash.
    pub(crate) fn acknowledge(&mut self, ticket: Ticket, answer: &Answer) {
        let asked = &self.asked[&ticket.serial];
        let said = match answer {
            Answer::Added { generation, .. } => Said::Added(asked.key(), *generation),
            Answer::Deleted(Some(Closed { .. }))
            | Answer::Close(CloseOutcome::Closed(Closed { .. })) => {
                Said::Ended(asked.generation().expect("something was closed"))
            }
            _ => return,
        };
        self.journal.waiting.push((self.journal.bytes.len(), said));
        if self.journal.synced_len == self.journal.bytes.len() {
            self.sync_soon();
        }
    }

    fn sync_soon(&mut self) {
        let delay_ms = self.rng.u64(0..=SYNC_MS_MAX);
        self.after_ms(delay_ms, Event::Sync);
    }

    /// All that was written is on the disk.
    pub(crate) fn sync(&mut self) {
        let journal = &mut self.journal;
        journal.synced_len = journal.bytes.len();
        for (end, said) in std::mem::take(&mut journal.waiting) {
            assert!(end <= journal.synced_len);
            match said {
                Said::Added(key, generation) => {
                    // The answers of an add and of the delete after it may overtake each other.
                    let newer = journal.wanted.get(&key).is_none_or(|known| *known < generation);
                    if newer {
                        journal.wanted.insert(key, generation);
                    }
                    self.stats.acknowledged += 1;
                }
                Said::Ended(generation) => {
                    journal.over.insert(generation);
                    self.stats.acknowledged += 1;
                }
            }
        }
    }

    /// The node dies, and another one begins with what is on the disk.
    pub(crate) fn crash(&mut self) {
        let pulls = self.check_what_survives();
        self.note(|_| format!("dies, and {} pulls survive", pulls.len()));
        let mut plan = self.plan.clone();
        plan.crashes -= 1;
        plan.run = Duration::from_millis(self.rng.u64(2_000..=12_000));
        let mut next = Self::begin(self.rng.fork(), plan, self.now, self.take_trace());
        next.stats = self.stats;
        next.stats.crashes += 1;
        next.stats.restored += pulls.len() as u64;
        *self = next;
        self.restore(&pulls);
    }

    /// What is read of a journal that ends anywhere behind what was synced.
    fn check_what_survives(&mut self) -> Vec<PullRecord> {
        let Journal { bytes, synced_len, entered, wanted, over, .. } =
            std::mem::take(&mut self.journal);
        let mut left = bytes;
        left.truncate(self.rng.usize(synced_len..=left.len()));
        let cut = left.len();
        if self.rng.u32(0..4) == 0 {
            // What some file systems leave behind a write that was cut off.
            left.resize(cut + self.rng.usize(1..64), 0);
        }
        let found = replay(&left);
        let good_len = found.damage.map_or(left.len(), |damage| damage.offset);
        assert!((synced_len..=cut).contains(&good_len), "{good_len} of {synced_len}..{cut}");
        self.stats.torn += u64::from(found.damage.is_some());
        let survived: BTreeMap<usize, Generation> = found
            .pulls
            .iter()
            .map(|pull| {
                let is_of =
                    |of: &&Entered| of.end <= good_len && self.keys[of.key].as_str() == pull.key;
                let last = entered.iter().rfind(is_of).expect("it was entered");
                (last.key, last.generation)
            })
            .collect();
        for (key, generation) in &survived {
            assert!(!over.contains(generation), "s{key}: a pull that was acknowledged to be gone");
        }
        for (key, generation) in wanted {
            if self.pull_of(key).is_some_and(|view| view.generation == generation) {
                let what = format!("s{key}: the acknowledged pull {generation} is lost");
                assert_eq!(survived.get(&key), Some(&generation), "{what}");
            }
        }
        found.pulls
    }

    /// The stream of a key, where it is a pull.
    fn pull_of(&mut self, key: usize) -> Option<StreamView> {
        self.peek(key).filter(|view| matches!(view.source, SourceView::Pull(_)))
    }

    /// Enters what survived, before anything else happens.
    fn restore(&mut self, pulls: &[PullRecord]) {
        // Written anew, as the journal is from time to time.
        self.journal.bytes = whole(pulls);
        self.journal.synced_len = self.journal.bytes.len();
        let mut count = 0;
        for shard in 0..self.shards.len() {
            count += self.on_shard(shard, |shard, now, _| {
                let (count, refused) = shard.restore(now, pulls);
                assert!(refused.is_empty(), "{refused:?}");
                count
            });
        }
        assert_eq!(count, pulls.len(), "each pull has one owner");
        for key in 0..self.keys.len() {
            let name = self.keys[key].as_str().to_owned();
            let record = pulls.iter().find(|pull| pull.key == name);
            let view = self.pull_of(key);
            assert_eq!(view.is_some(), record.is_some(), "s{key}");
            let (Some(view), Some(record)) = (view, record) else { continue };
            let SourceView::Pull(pull) = &view.source else { unreachable!("just seen") };
            assert_eq!(pull.url.as_str(), record.url);
            assert_eq!(view.state, StreamState::BackingOff);
            let end = self.journal.synced_len;
            self.journal.entered.push(Entered { end, key, generation: view.generation });
            self.journal.wanted.insert(key, view.generation);
        }
    }

    /// The node has ended in order: what it would begin with again.
    pub(crate) fn check_journal(&mut self, is_drained: bool) {
        let found = replay(&self.journal.bytes);
        assert_eq!(found.damage, None);
        if is_drained {
            assert_eq!(found.pulls, [], "everything was closed");
        }
        assert!(self.journal.waiting.is_empty(), "somebody waits for the disk");
    }
}

impl Journal {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let bytes = whole(&[]);
        Self { synced_len: bytes.len(), bytes, ..Self::default() }
    }
}
