//! The newest events, numbered in the order in which they came.

use std::collections::VecDeque;

use super::line;
use crate::bus::event::Event;
use crate::limits::{EVENTS_KEPT, EVENTS_KEPT_LEN_MAX};
use crate::media::StreamKey;

/// A bounded log. Numbers begin at 1 with each run of the process; `run` tells the runs apart.
pub(super) struct Log {
    /// Unix microseconds of the start; a JSON number holds them without loss.
    pub(super) run: u64,
    newest: u64,
    kept: VecDeque<Entry>,
    kept_len: usize,
}

/// What has a number.
pub(super) struct Entry {
    pub(super) seq: u64,
    /// `None` for what is not of one stream.
    pub(super) key: Option<StreamKey>,
    pub(super) name: &'static str,
    /// One line of text, with no room to grow: thousands are kept.
    pub(super) json: Box<str>,
}

pub(super) enum Told<'a> {
    Event(&'a Event),
    /// So many events found no room on their way here.
    Gap(u64),
}

/// Where a follower goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    /// With the entry of this number; nothing is missing before it.
    At(u64),
    /// With the oldest that is kept; so many before it are gone.
    Missed { from: u64, count: u64 },
    /// The number is of another run, or none: with the oldest that is kept.
    OtherRun { from: u64 },
}

impl Log {
    pub(super) fn new(run: u64) -> Self {
        Self { run, newest: 0, kept: VecDeque::new(), kept_len: 0 }
    }

    /// Number of the newest entry; 0 before the first.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// `time_ms` is the Unix time in milliseconds at which its shard told it.
    pub(super) fn add(&mut self, time_ms: u64, event: &Event) -> u64 {
        self.push(time_ms, &Told::Event(event))
    }

    pub(super) fn add_gap(&mut self, time_ms: u64, count: u64) -> u64 {
        self.push(time_ms, &Told::Gap(count))
    }

    fn push(&mut self, time_ms: u64, told: &Told<'_>) -> u64 {
        self.newest += 1;
        let seq = self.newest;
        let key = match told {
            Told::Event(event) => Some(event.key.clone()),
            Told::Gap(_) => None,
        };
        let json = line::json((self.run, seq), time_ms, told).into_boxed_str();
        let entry = Entry { seq, key, name: line::name(told), json };
        self.kept_len += entry.len();
        self.kept.push_back(entry);
        while self.kept.len() > EVENTS_KEPT || self.kept_len > EVENTS_KEPT_LEN_MAX {
            let gone = self.kept.pop_front().expect("the length is of what is kept");
            self.kept_len -= gone.len();
        }
        seq
    }

    /// What is kept from a number on.
    pub(super) fn from(&self, seq: u64) -> impl Iterator<Item = &Entry> {
        let skip = seq.saturating_sub(self.oldest()) as usize;
        self.kept.range(skip.min(self.kept.len())..)
    }

    /// The newest first.
    pub(super) fn backwards(&self) -> impl Iterator<Item = &Entry> {
        self.kept.iter().rev()
    }

    /// Where a follower goes on whose last id was this, as [`Self::id`] writes it.
    pub(super) fn resume(&self, last_id: &str) -> Resume {
        let parsed = last_id.split_once('-').and_then(|(run, seq)| {
            let (run, seq): (u64, u64) = (run.parse().ok()?, seq.parse().ok()?);
            (run == self.run && seq <= self.newest).then_some(seq)
        });
        let oldest = self.oldest();
        match parsed {
            None => Resume::OtherRun { from: oldest },
            Some(seq) if seq + 1 >= oldest => Resume::At(seq + 1),
            Some(seq) => Resume::Missed { from: oldest, count: oldest - seq - 1 },
        }
    }

    /// How an entry is named to followers: `<run>-<number>`.
    pub(super) fn id(&self, seq: u64) -> String {
        format!("{}-{seq}", self.run)
    }

    /// Number of the oldest entry that is kept, or of the first to come.
    fn oldest(&self) -> u64 {
        self.newest + 1 - self.kept.len() as u64
    }
}

impl Entry {
    /// Bytes of its text for a follower, or a little more.
    fn len(&self) -> usize {
        self.json.len() + FRAME_LEN
    }
}

/// `id`, `event` and `data` of an entry and the empty line, without what the last has.
const FRAME_LEN: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::event::What;

    fn log_of(count: usize) -> Log {
        let mut log = Log::new(77);
        let key = StreamKey::in_default_vhost("live", "a").unwrap();
        for at in 0..count {
            let event = Event { key: key.clone(), generation: None, what: What::Unwatched };
            log.add(at as u64, &event);
        }
        log
    }

    #[test]
    fn numbers_are_without_a_hole_and_the_oldest_goes_first() {
        let log = log_of(EVENTS_KEPT + 5);
        let seqs: Vec<u64> = log.from(0).map(|entry| entry.seq).collect();
        assert_eq!(seqs.len(), EVENTS_KEPT);
        assert_eq!((seqs[0], *seqs.last().unwrap()), (6, log.newest()));
        assert!(seqs.is_sorted());
        assert_eq!(log.from(log.newest()).count(), 1);
        assert_eq!(log.from(log.newest() + 1).count(), 0);
        assert_eq!(log.from(log.newest() + 99).count(), 0);
    }

    #[test]
    fn a_follower_goes_on_where_it_was_or_is_told_what_it_missed() {
        let log = log_of(EVENTS_KEPT + 5);
        assert_eq!(log.resume("77-10"), Resume::At(11));
        assert_eq!(log.resume("77-5"), Resume::At(6));
        assert_eq!(log.resume("77-4"), Resume::Missed { from: 6, count: 1 });
        assert_eq!(log.resume(&log.id(log.newest())), Resume::At(log.newest() + 1));
        for other in ["76-10", "77-99999999", "", "77", "77-", "x-y", "77--1"] {
            assert_eq!(log.resume(other), Resume::OtherRun { from: 6 }, "{other}");
        }
        assert_eq!(Log::new(77).resume("77-0"), Resume::At(1));
    }
}
