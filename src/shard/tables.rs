//! The streams that a shard owns, each in exactly one of two tables: pending or registered.
//!
//! [`Tables`] is the only way in and out of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::demand::Demand;
use super::failover::Side;
use super::gaps::Gaps;
use super::idle::Watch;
use super::lifecycle::{Pull, Try};
use super::timers::TimerId;
use crate::bus::message::{LocalId, Ticket};
use crate::bus::view::PublisherView;
use crate::limits::{KEYFRAME_PATIENCE, SLOTS_PER_PAGE, STREAMS_PER_PAGE};
use crate::media::state::Generation;
use crate::media::{AttemptId, ConnectionId, Form, ShardId, StreamKey};
use crate::origin::Asking;
use crate::stream::{Media, Tryout};

/// A stream by its place; found without hashing, and known to be late by its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamHandle {
    pub slot: u32,
    pub generation: Generation,
}

/// A stream that this shard owns.
pub(super) struct Stream {
    pub(super) key: StreamKey,
    pub(super) generation: Generation,
    pub(super) source: Source,
    /// Who is asked for it while nobody brings it.
    pub(super) demand: Demand,
    pub(super) subscribers: BTreeMap<(ShardId, Form), Subscriber>,
    pub(super) media: Media,
    pub(super) registered: bool,
    pub(super) since: Instant,
    pub(super) since_unix: u64,
    pub(super) registered_at: Option<(Instant, u64)>,
    pub(super) last_media: Instant,
    pub(super) gaps: Gaps,
    /// It was registered before, so that the next time it is back.
    pub(super) was_registered: bool,
    /// The forms in which it was told to be registered, and not to be gone since: those of a lost source as
    /// long as its players are kept.
    pub(super) told_forms: Vec<Form>,
    pub(super) watch: Watch,
    pub(super) grace: Option<TimerId>,
    /// Its source is lost, and it has not come back.
    pub(super) lost: Option<Lost>,
    pub(super) silence: Option<TimerId>,
    /// Committed tags wait for their flush.
    pub(super) unflushed: bool,
    /// When the oldest video frame of those came in.
    pub(super) video_since: Option<Instant>,
    /// Its place in the queue of flushes to come.
    pub(super) flush_due: Option<Instant>,
    /// It is among the streams that the next tick flushes.
    pub(super) dirty: bool,
    pub(super) rate: Rate,
    /// Attempts whose sockets are not confirmed closed, the current one among them.
    pub(super) open_attempts: BTreeSet<AttemptId>,
    /// Presences that were ended after a loss and have not said `Released`.
    pub(super) ended_locals: HashSet<LocalId>,
}

/// A stream whose players are kept for a source to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost {
    /// When the lost source brought media last.
    pub(super) since: Instant,
    /// For how long they are kept, unless somebody is there who may bring it.
    pub(super) kept_until: Instant,
}

/// Who brings the media.
pub(super) enum Source {
    /// Nobody. Players wait, or are kept for a publisher that dropped.
    None {
        kept: bool,
    },
    Publisher {
        connection: ConnectionId,
        view: Box<PublisherView>,
        /// What it brings does not go into the log before its first keyframe.
        held: Option<Box<Tryout>>,
    },
    Pull(Box<Pull>),
}

/// A shard with players or waiters of a stream in one form.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) local: LocalId,
    pub(super) players: u32,
    pub(super) waiters: u32,
    /// What those of its waiters ask with who are pulled for, one of each address.
    pub(super) askings: Vec<Arc<Asking>>,
    /// It was given the log, or is the owner's own shard and reads it: it may have players.
    pub(super) attached: bool,
    /// It lacks a flush, or all of the log, and needs a new snapshot.
    pub(super) lacks_flush: bool,
    /// It was told that the source is lost, and not since that it is back.
    pub(super) suspended: bool,
    /// Sequence number up to which it has the log.
    pub(super) sent_seq: u64,
}

/// Bytes per second, over about the last second.
pub(super) struct Rate {
    from: Instant,
    bytes: u64,
    per_second: u64,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self { from: now, bytes: 0, per_second: 0 }
    }

    pub(super) fn count(&mut self, now: Instant, bytes: u64) {
        self.bytes += bytes;
        let elapsed_ms = now.duration_since(self.from).as_millis() as u64;
        if elapsed_ms >= 1000 {
            self.per_second = self.bytes * 1000 / elapsed_ms;
            self.bytes = 0;
            self.from = now;
        }
    }

    pub(super) fn per_second(&self, now: Instant) -> u64 {
        if now.duration_since(self.from).as_millis() > 3000 { 0 } else { self.per_second }
    }
}

/// The two tables.
#[derive(Default)]
pub(super) struct Tables {
    slots: Vec<Option<Box<Stream>>>,
    free: Vec<u32>,
    pending: HashMap<StreamKey, u32>,
    registered: HashMap<StreamKey, u32>,
}

impl Tables {
    /// Enters a key as pending.
    ///
    /// # Panics
    /// When the key is in a table.
    pub(super) fn insert(
        &mut self,
        key: StreamKey,
        generation: Generation,
        source: Source,
        now: (Instant, u64),
    ) -> StreamHandle {
        assert!(self.find(&key).is_none(), "a key is in one table only");
        let stream = Box::new(Stream {
            key: key.clone(),
            generation,
            source,
            demand: Demand::default(),
            subscribers: BTreeMap::new(),
            media: Media::default(),
            registered: false,
            since: now.0,
            since_unix: now.1,
            registered_at: None,
            last_media: now.0,
            gaps: Gaps::default(),
            was_registered: false,
            told_forms: Vec::new(),
            watch: Watch::default(),
            grace: None,
            lost: None,
            silence: None,
            unflushed: false,
            video_since: None,
            flush_due: None,
            dirty: false,
            rate: Rate::new(now.0),
            open_attempts: BTreeSet::new(),
            ended_locals: HashSet::new(),
        });
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[slot as usize] = Some(stream);
        self.pending.insert(key, slot);
        StreamHandle { slot, generation }
    }

    pub(super) fn register(&mut self, handle: StreamHandle, now: (Instant, u64)) {
        let stream = self.get_mut(handle).expect("only a live stream is registered");
        stream.registered = true;
        stream.registered_at = Some(now);
        let key = stream.key.clone();
        let slot = self.pending.remove(&key).expect("it was pending");
        self.registered.insert(key, slot);
    }

    pub(super) fn unregister(&mut self, handle: StreamHandle) {
        let stream = self.get_mut(handle).expect("only a live stream is unregistered");
        stream.registered = false;
        stream.registered_at = None;
        let key = stream.key.clone();
        let slot = self.registered.remove(&key).expect("it was registered");
        self.pending.insert(key, slot);
    }

    /// Takes a stream out of its table, for good.
    pub(super) fn remove(&mut self, handle: StreamHandle) -> Option<Box<Stream>> {
        self.get(handle)?;
        let stream = self.slots[handle.slot as usize].take()?;
        self.free.push(handle.slot);
        let table = if stream.registered { &mut self.registered } else { &mut self.pending };
        table.remove(&stream.key).expect("each stream is in its table");
        Some(stream)
    }

    pub(super) fn find(&self, key: &StreamKey) -> Option<StreamHandle> {
        let slot = *self.registered.get(key).or_else(|| self.pending.get(key))?;
        let stream = self.slots[slot as usize].as_ref().expect("a table names live streams");
        Some(StreamHandle { slot, generation: stream.generation })
    }

    /// Whatever stream is at a place.
    pub(super) fn at(&self, slot: u32) -> Option<&Stream> {
        self.slots.get(slot as usize)?.as_deref()
    }

    pub(super) fn get(&self, handle: StreamHandle) -> Option<&Stream> {
        let stream = self.slots.get(handle.slot as usize)?.as_deref()?;
        (stream.generation == handle.generation).then_some(stream)
    }

    pub(super) fn get_mut(&mut self, handle: StreamHandle) -> Option<&mut Stream> {
        let stream = self.slots.get_mut(handle.slot as usize)?.as_deref_mut()?;
        (stream.generation == handle.generation).then_some(stream)
    }

    /// A page of streams: those in the slots from `from` on, and the slot that the next page begins
    /// at. A stream keeps its slot, so one that lives through all pages is in one of them.
    pub(super) fn page(
        &self,
        from: u32,
        registered_only: bool,
    ) -> (Vec<StreamHandle>, Option<u32>) {
        let mut streams = Vec::new();
        let mut slot = from as usize;
        let end = self.slots.len().min(slot.saturating_add(SLOTS_PER_PAGE));
        while slot < end && streams.len() < STREAMS_PER_PAGE {
            if let Some(stream) = &self.slots[slot]
                && (stream.registered || !registered_only)
            {
                let generation = stream.generation;
                streams.push(StreamHandle { slot: slot as u32, generation });
            }
            slot += 1;
        }
        (streams, (slot < self.slots.len()).then_some(slot as u32))
    }

    pub(super) fn handles(&self) -> Vec<StreamHandle> {
        let slots = (0..).zip(&self.slots);
        let live = slots.filter_map(|(slot, stream)| Some((slot, stream.as_ref()?)));
        live.map(|(slot, stream)| StreamHandle { slot, generation: stream.generation }).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slots.iter().flatten().map(|stream| &**stream)
    }

    pub(super) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn registered_count(&self) -> usize {
        self.registered.len()
    }

    /// That the tables agree with each other; for tests.
    pub(super) fn check(&self) {
        for (key, &slot) in &self.pending {
            assert!(!self.registered.contains_key(key), "{key} is in both tables");
            let stream = self.slots[slot as usize].as_ref().expect("a live stream");
            assert!(!stream.registered && stream.key == *key);
        }
        for (key, &slot) in &self.registered {
            let stream = self.slots[slot as usize].as_ref().expect("a live stream");
            assert!(stream.registered && stream.key == *key);
        }
        let live = self.slots.iter().flatten().count();
        assert_eq!(live, self.pending.len() + self.registered.len());
    }
}

impl Stream {
    pub(super) fn players(&self) -> u32 {
        self.subscribers.values().map(|subscriber| subscriber.players).sum()
    }

    pub(super) fn players_of(&self, form: Form) -> u32 {
        let of_form = self.subscribers.iter().filter(|((_, of), _)| *of == form);
        of_form.map(|(_, subscriber)| subscriber.players).sum()
    }

    /// A registered stream can be played in this form; of a pending one, this is its source's.
    pub(super) fn is_playable(&self, form: Form) -> bool {
        if self.registered { self.media.can_be(form) } else { form == self.media.form() }
    }

    /// Those in which it can be played.
    pub(super) fn forms(&self) -> impl Iterator<Item = Form> {
        Form::ALL.into_iter().filter(|&form| self.is_playable(form))
    }

    /// Some shard has it, in any form.
    pub(super) fn is_had(&self) -> bool {
        self.is_had_in(|_| true)
    }

    /// Some shard has it in one of these forms.
    pub(super) fn is_had_in(&self, of: impl Fn(Form) -> bool) -> bool {
        self.subscribers.iter().any(|((_, form), subscriber)| of(*form) && subscriber.attached)
    }

    /// Whether a source that brings a form may end players. Those are players of packets, and of tags where
    /// they are or will be made of packets.
    pub(super) fn may_end_players(&self, brings: Form) -> bool {
        let is_of_packets = [self.media.form(), brings].contains(&Form::Rtp);
        self.is_had_in(|of| of == Form::Rtp || is_of_packets)
    }

    /// What a publisher brings that is held back.
    pub(super) fn held(&mut self) -> Option<&mut Tryout> {
        match &mut self.source {
            Source::Publisher { held, .. } => held.as_deref_mut(),
            Source::None { .. } | Source::Pull(_) => None,
        }
    }

    /// Something has come of a publisher that is held back: it is not silent. Players who are kept wait for
    /// its keyframe, but not for ever.
    pub(super) fn note_held(&mut self, now: Instant, is_media: bool) {
        let until = self.lost.map(|lost| lost.kept_until + KEYFRAME_PATIENCE);
        if is_media && until.is_none_or(|until| now < until) {
            self.last_media = now;
        }
    }

    /// Until when players who are kept stay for the keyframe of a pull's source: its media has come while
    /// they were kept anyway.
    pub(super) fn keyframe_awaited(&self, now: Instant) -> Option<Instant> {
        let (lost, pull) = (self.lost?, self.pull()?);
        let last = lost.kept_until + KEYFRAME_PATIENCE;
        let ways = Side::ALL.into_iter().filter_map(|side| pull.try_of(side));
        let dues = ways.filter_map(Try::keyframe_due);
        dues.filter(|due| now < *due && *due <= last).max()
    }

    pub(super) fn waiters(&self) -> u32 {
        self.subscribers.values().map(|subscriber| subscriber.waiters).sum()
    }

    /// What those who wait ask with, one of each address, shard and form.
    pub(super) fn askings(&self) -> impl Iterator<Item = &Arc<Asking>> {
        self.subscribers.values().flat_map(|subscriber| &subscriber.askings)
    }

    /// Nobody brings it, and nobody is kept for who did.
    pub(super) fn is_free(&self) -> bool {
        matches!(self.source, Source::None { kept: false })
    }

    pub(super) fn pull(&self) -> Option<&Pull> {
        match &self.source {
            Source::Pull(pull) => Some(pull),
            _ => None,
        }
    }

    pub(super) fn pull_mut(&mut self) -> Option<&mut Pull> {
        match &mut self.source {
            Source::Pull(pull) => Some(pull),
            _ => None,
        }
    }

    /// Adds and updates that wait for the pull's first result.
    pub(super) fn take_adds(&mut self) -> Vec<Ticket> {
        let Some(pull) = self.pull_mut() else { return Vec::new() };
        let update = pull.rival.as_ref().and_then(|rival| rival.ticket());
        std::mem::take(&mut pull.adds).into_iter().chain(update).collect()
    }

    pub(super) fn url(&self) -> Option<Arc<crate::media::SourceUrl>> {
        self.pull().map(|pull| pull.lead.url.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn key(stream: &str) -> StreamKey {
        StreamKey::in_default_vhost("live", stream).unwrap()
    }

    fn insert(tables: &mut Tables, stream: &str, generation: u64) -> StreamHandle {
        let source = Source::None { kept: false };
        tables.insert(key(stream), Generation(generation), source, (clock::now(), 0))
    }

    fn pages(tables: &Tables, registered_only: bool) -> Vec<Vec<StreamHandle>> {
        let mut pages = Vec::new();
        let mut from = Some(0);
        while let Some(slot) = from {
            let (page, next) = tables.page(slot, registered_only);
            pages.push(page);
            from = next;
        }
        pages
    }

    #[test]
    fn pages_hold_each_stream_once_and_are_bounded() {
        let mut tables = Tables::default();
        assert_eq!(pages(&tables, false), [[]]);
        let count = 2 * SLOTS_PER_PAGE + 1;
        let all: Vec<StreamHandle> = (0..count)
            .map(|number| insert(&mut tables, &number.to_string(), number as u64))
            .collect();
        let (gone, kept): (Vec<_>, Vec<_>) = all.iter().partition(|handle| handle.slot % 3 == 0);
        for handle in gone {
            tables.remove(handle);
        }
        let listed = pages(&tables, false);
        assert!(listed.iter().all(|page| page.len() <= STREAMS_PER_PAGE));
        assert_eq!(listed.concat(), kept);
        let last = *kept.last().unwrap();
        tables.register(last, (clock::now(), 0));
        let listed = pages(&tables, true);
        assert_eq!(listed.len(), count.div_ceil(SLOTS_PER_PAGE));
        assert_eq!(listed.concat(), [last]);
        assert_eq!(tables.page(u32::MAX, false), (Vec::new(), None));
    }

    #[test]
    fn a_key_is_in_one_table_at_a_time() {
        let mut tables = Tables::default();
        let handle = insert(&mut tables, "a", 1);
        for _ in 0..2 {
            tables.check();
            assert_eq!((tables.pending_count(), tables.registered_count()), (1, 0));
            tables.register(handle, (clock::now(), 0));
            tables.check();
            assert_eq!((tables.pending_count(), tables.registered_count()), (0, 1));
            assert_eq!(tables.find(&key("a")), Some(handle));
            tables.unregister(handle);
        }
        assert!(tables.remove(handle).is_some());
        tables.check();
        assert_eq!(tables.find(&key("a")), None);
    }

    #[test]
    fn an_old_handle_finds_nothing_in_the_slot_of_another() {
        let mut tables = Tables::default();
        let old = insert(&mut tables, "a", 1);
        tables.remove(old);
        let new = insert(&mut tables, "a", 2);
        assert_eq!(old.slot, new.slot);
        assert!(tables.get(old).is_none() && tables.get_mut(old).is_none());
        assert!(tables.remove(old).is_none());
        assert_eq!(tables.find(&key("a")), Some(new));
    }

    #[test]
    #[should_panic(expected = "in one table only")]
    fn a_key_is_not_entered_twice() {
        let mut tables = Tables::default();
        insert(&mut tables, "a", 1);
        insert(&mut tables, "a", 2);
    }

    #[test]
    fn handles_are_those_of_the_streams_in_both_tables() {
        let mut tables = Tables::default();
        let handles = [insert(&mut tables, "a", 1), insert(&mut tables, "b", 2)];
        tables.register(handles[0], (clock::now(), 0));
        assert_eq!(tables.handles(), handles);
        tables.remove(handles[0]);
        assert_eq!(tables.handles(), [handles[1]]);
    }

    #[test]
    fn a_rate_is_over_the_last_second_and_fades() {
        let start = clock::now();
        let at = |ms| start + std::time::Duration::from_millis(ms);
        let mut rate = Rate::new(start);
        for ms in (100..=1000).step_by(100) {
            rate.count(at(ms), 1000);
        }
        assert_eq!(rate.per_second(at(1000)), 10_000);
        assert_eq!(rate.per_second(at(4001)), 0);
    }
}
