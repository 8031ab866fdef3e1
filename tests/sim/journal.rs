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
use rillcast::journal::{PullRecord, Record, Replay, encode, replay, whole};
use rillcast::media::state::{Generation, StreamState};

use super::pushes::{DESTINATIONS, destination};
use super::world::{Event, World};

/// What the node has written, and whom it has told what about that.
#[derive(Default)]
pub(crate) struct Journal {
    bytes: Vec<u8>,
    /// Bytes that survive a crash.
    synced_len: usize,
    /// In their order: each pull and push that was ever in it.
    entered: Vec<Entered>,
    /// Callers that wait for all before here to be on the disk.
    waiting: Vec<(usize, Said)>,
    /// What is acknowledged to be there.
    wanted: BTreeMap<Name, Generation>,
    /// Lives that are acknowledged to be over.
    over: BTreeSet<Generation>,
}

/// What one record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// Of a key.
    Pull(usize),
    /// Of a key, to one of its destinations.
    Push(usize, usize),
}

struct Entered {
    /// Where the record ends.
    end: usize,
    name: Name,
    generation: Generation,
    record: Record,
}

#[derive(Debug, Clone, Copy)]
enum Said {
    Added(Name, Generation),
    Ended(Generation),
}

/// Longest time until what was written is on the disk.
const SYNC_MS_MAX: u64 = 60;

impl World {
    /// A shard has decided something that is to survive.
    pub(crate) fn keep(&mut self, record: Record) {
        let was_idle = self.journal.synced_len == self.journal.bytes.len();
        encode(&record, &mut self.journal.bytes);
        if let Some(name) = self.name_of_added(&record) {
            let generation = self.generation_of(name).expect("what is kept is in a table");
            let end = self.journal.bytes.len();
            self.journal.entered.push(Entered { end, name, generation, record });
        }
        if was_idle {
            self.sync_soon();
        }
    }

    /// What a record says that there is.
    fn name_of_added(&self, record: &Record) -> Option<Name> {
        let key_of = |text: &str| {
            let key = self.keys.iter().position(|key| key.as_str() == text);
            key.expect("only our keys")
        };
        match record {
            Record::AddPull(pull) => Some(Name::Pull(key_of(&pull.key))),
            Record::AddPush(push) => {
                let key = key_of(&push.key);
                let is_it = |number: &usize| destination(key, *number).as_str() == push.url;
                let number = (0..DESTINATIONS).find(is_it).expect("only our destinations");
                Some(Name::Push(key, number))
            }
            Record::RemovePull { .. } | Record::RemovePush { .. } => None,
        }
    }

    /// The life of a pull or push that there is. A stream that has its key in place of a pull has one, too.
    fn generation_of(&self, name: Name) -> Option<Generation> {
        match name {
            Name::Pull(key) => self.shards[self.owner(key)].generation_of(&self.keys[key]),
            Name::Push(key, number) => self.push_generation(key, number),
        }
    }

    /// A caller has its answer, and is told of it when that is true after a crash.
    pub(crate) fn acknowledge(&mut self, ticket: Ticket, answer: &Answer) {
        let asked = &self.asked[&ticket.serial];
        let said = match answer {
            Answer::Added { generation, .. } | Answer::PushAdded { generation, .. } => {
                Said::Added(asked.name(), *generation)
            }
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
                Said::Added(name, generation) => {
                    // The answers of an add and of the delete after it may overtake each other.
                    let newer = journal.wanted.get(&name).is_none_or(|known| *known < generation);
                    if newer {
                        journal.wanted.insert(name, generation);
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
        self.check_sources();
        let found = self.check_what_survives();
        let (pulls, pushes) = (found.pulls.len() as u64, found.pushes.len() as u64);
        self.note(|_| format!("dies, and {pulls} pulls and {pushes} pushes survive"));
        let mut plan = self.plan.clone();
        plan.crashes -= 1;
        plan.run = Duration::from_millis(self.rng.u64(2_000..=12_000));
        let mut next = Self::begin(self.rng.fork(), plan, self.now, self.take_trace());
        next.stats = self.stats;
        next.stats.crashes += 1;
        next.stats.restored += pulls;
        next.stats.restored_pushes += pushes;
        *self = next;
        self.restore(&found);
    }

    /// All that was written has each pull with the sources that it has.
    fn check_sources(&mut self) {
        for pull in replay(&self.journal.bytes).pulls {
            let key = self.keys.iter().position(|key| key.as_str() == pull.key);
            let key = key.expect("only our keys");
            assert_eq!(self.sources_of(key), Some(urls_of(&pull)), "s{key} and what is written");
        }
    }

    /// The sources of the pull of a key.
    fn sources_of(&mut self, key: usize) -> Option<Vec<String>> {
        let view = self.pull_of(key)?;
        let SourceView::Pull(pull) = view.source else { unreachable!("just seen") };
        Some(pull.sources.iter().map(|source| source.url.as_str().to_owned()).collect())
    }

    /// What is read of a journal that ends anywhere behind what was synced.
    fn check_what_survives(&mut self) -> Replay {
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
        let pulls = found.pulls.iter().cloned().map(Record::AddPull);
        let records = pulls.chain(found.pushes.iter().cloned().map(Record::AddPush));
        let mut survived = BTreeMap::new();
        for record in records {
            let name = self.name_of_added(&record).expect("it is one that adds");
            let is_of = |of: &&Entered| of.end <= good_len && of.name == name;
            let last = entered.iter().rfind(is_of).expect("it was entered");
            assert_eq!(record, last.record, "{name:?} is as it was when it was entered last");
            let generation = last.generation;
            assert!(!over.contains(&generation), "{name:?} was acknowledged to be gone");
            survived.insert(name, generation);
        }
        for (name, generation) in wanted {
            let is_there = match name {
                Name::Pull(key) => self.pull_of(key).map(|view| view.generation),
                Name::Push(..) => self.generation_of(name),
            };
            if is_there == Some(generation) {
                let what = format!("{name:?}: the acknowledged {generation} is lost");
                assert_eq!(survived.get(&name), Some(&generation), "{what}");
            }
        }
        found
    }

    /// The stream of a key, where it is a pull.
    fn pull_of(&mut self, key: usize) -> Option<StreamView> {
        self.peek(key).filter(|view| matches!(view.source, SourceView::Pull(_)))
    }

    /// Enters what survived, before anything else happens.
    fn restore(&mut self, found: &Replay) {
        // Written anew, as the journal is from time to time.
        self.journal.bytes = whole(&found.pulls);
        for push in &found.pushes {
            encode(&Record::AddPush(push.clone()), &mut self.journal.bytes);
        }
        self.journal.synced_len = self.journal.bytes.len();
        let mut count = 0;
        for shard in 0..self.shards.len() {
            count += self.on_shard(shard, |shard, now, _| {
                let (pulls, refused) = shard.restore(now, &found.pulls);
                assert!(refused.is_empty(), "{refused:?}");
                let (pushes, refused) = shard.restore_pushes(now, &found.pushes);
                assert!(refused.is_empty(), "{refused:?}");
                pulls + pushes
            });
        }
        assert_eq!(count, found.pulls.len() + found.pushes.len(), "each has one owner");
        for pull in &found.pulls {
            let record = Record::AddPull(pull.clone());
            let key = self.note_restored(record);
            assert_eq!(self.sources_of(key), Some(urls_of(pull)), "s{key}");
            let state = self.pull_of(key).map(|view| view.state);
            assert_eq!(state, Some(StreamState::BackingOff));
        }
        for push in &found.pushes {
            self.note_restored(Record::AddPush(push.clone()));
        }
        let pulls = (0..self.keys.len()).filter(|&key| self.pull_of(key).is_some()).count();
        assert_eq!(pulls, found.pulls.len(), "nothing else is there");
    }

    /// What was restored is acknowledged. Returns its key.
    fn note_restored(&mut self, record: Record) -> usize {
        let name = self.name_of_added(&record).expect("it is one that adds");
        let generation = self.generation_of(name).expect("it is restored");
        let end = self.journal.synced_len;
        self.journal.entered.push(Entered { end, name, generation, record });
        self.journal.wanted.insert(name, generation);
        match name {
            Name::Pull(key) | Name::Push(key, _) => key,
        }
    }

    /// The node has ended in order: what it would begin with again.
    pub(crate) fn check_journal(&mut self, is_drained: bool) {
        let found = replay(&self.journal.bytes);
        assert_eq!(found.damage, None);
        if is_drained {
            assert_eq!(found.pulls, [], "everything was closed");
            assert_eq!(found.pushes, [], "and every push deleted");
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

    /// The URLs of the pull of a key that was entered last.
    pub(crate) fn urls(&self, key: usize) -> Vec<&str> {
        let is_of = |entered: &&Entered| entered.name == Name::Pull(key);
        let last = self.entered.iter().rfind(is_of).expect("what is acknowledged was entered");
        let Record::AddPull(pull) = &last.record else { unreachable!("it is a pull's name") };
        std::iter::once(&*pull.url).chain(pull.other_urls.iter().map(|url| &**url)).collect()
    }
}

fn urls_of(pull: &PullRecord) -> Vec<String> {
    std::iter::once(&pull.url).chain(&pull.other_urls).cloned().collect()
}
