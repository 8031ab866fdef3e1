//! What the records of a journal amount to.

use std::collections::BTreeMap;

use super::record::{Frame, PullRecord, PushRecord, Record, decode, encode};
use crate::limits::JOURNAL_WASTE_LEN_MAX;

/// The first bytes of every journal.
pub(super) const MAGIC: &[u8; 8] = b"RILLJ001";

/// The pulls and pushes that are wanted, and how long the file is that says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pulls: BTreeMap<String, (PullRecord, usize)>,
    /// By stream and URL.
    pushes: BTreeMap<(String, String), (PushRecord, usize)>,
    /// Records of a newer version as they are in the file, in their order: wanted as far as is known.
    unknown: Vec<u8>,
    /// Bytes of the file.
    pub(super) file_len: usize,
    /// Bytes that a file of nothing but the wanted ones has.
    live_len: usize,
}

/// What was read from a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// What is wanted, in the order of the keys.
    pub pulls: Vec<PullRecord>,
    /// As the pulls.
    pub pushes: Vec<PushRecord>,
    /// Records of a newer version, which were passed over. They stay in the journal.
    pub unknown_count: usize,
    /// What is behind the last whole record, if anything is.
    pub damage: Option<Damage>,
}

/// Where a journal stops making sense, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Bytes before it, which are good.
    pub offset: usize,
    /// Bytes from there to the end.
    pub len: usize,
    pub reason: &'static str,
}

/// Reads a whole journal up to the first byte that makes no sense. An empty one is in order.
pub fn replay(bytes: &[u8]) -> Replay {
    let (state, unknown_count, damage) = State::read(bytes);
    state.to_replay(unknown_count, damage)
}

/// A whole journal of these pulls and nothing else.
pub fn whole<'a>(pulls: impl IntoIterator<Item = &'a PullRecord>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for pull in pulls {
        encode(&Record::AddPull(pull.clone()), &mut bytes);
    }
    bytes
}

impl State {
    pub(super) fn read(bytes: &[u8]) -> (Self, usize, Option<Damage>) {
        let mut state = Self { live_len: MAGIC.len(), ..Self::default() };
        if bytes.is_empty() {
            return (state, 0, None);
        }
        let damage_at =
            |offset: usize, reason| Some(Damage { offset, len: bytes.len() - offset, reason });
        if !bytes.starts_with(MAGIC) {
            return (state, 0, damage_at(0, "it does not begin like a journal"));
        }
        state.file_len = MAGIC.len();
        let mut unknown_count = 0;
        loop {
            match decode(&bytes[state.file_len..]) {
                Frame::Record { record, len } => state.apply(record, len),
                Frame::Unknown { len } => {
                    unknown_count += 1;
                    let end = state.file_len + len;
                    state.unknown.extend_from_slice(&bytes[state.file_len..end]);
                    state.file_len = end;
                    state.live_len += len;
                }
                Frame::End => return (state, unknown_count, None),
                Frame::Damaged(reason) => {
                    let damage = damage_at(state.file_len, reason);
                    return (state, unknown_count, damage);
                }
            }
        }
    }

    /// Counts a record of so many bytes.
    pub(super) fn apply(&mut self, record: Record, len: usize) {
        self.file_len += len;
        let replaced = match record {
            Record::AddPull(pull) => {
                self.live_len += len;
                self.pulls.insert(pull.key.clone(), (pull, len)).map(|(_, len)| len)
            }
            Record::RemovePull { key } => self.pulls.remove(&key).map(|(_, len)| len),
            Record::AddPush(push) => {
                self.live_len += len;
                let name = (push.key.clone(), push.url.clone());
                self.pushes.insert(name, (push, len)).map(|(_, len)| len)
            }
            Record::RemovePush { key, url } => self.pushes.remove(&(key, url)).map(|(_, len)| len),
        };
        self.live_len -= replaced.unwrap_or(0);
    }

    /// Whether the file is to be written anew: half of it and more is of no use any longer, so that
    /// each byte written is copied about once.
    pub(super) fn wants_compaction(&self) -> bool {
        let waste = self.file_len.saturating_sub(self.live_len);
        waste > self.live_len.max(JOURNAL_WASTE_LEN_MAX)
    }

    /// A whole journal of what is wanted. What this version does not know comes first, so that for a
    /// newer one it does not undo what this one has added since.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.unknown);
        for pull in self.pulls() {
            encode(&Record::AddPull(pull.clone()), &mut bytes);
        }
        for (push, _) in self.pushes.values() {
            encode(&Record::AddPush(push.clone()), &mut bytes);
        }
        bytes
    }

    /// The file was written anew, so long.
    pub(super) fn compacted(&mut self, len: usize) {
        self.file_len = len;
    }

    /// What is wanted, for whoever opens the journal.
    pub(super) fn to_replay(&self, unknown_count: usize, damage: Option<Damage>) -> Replay {
        let pulls = self.pulls().cloned().collect();
        let pushes = self.pushes.values().map(|(push, _)| push.clone()).collect();
        Replay { pulls, pushes, unknown_count, damage }
    }

    pub(super) fn pulls(&self) -> impl Iterator<Item = &PullRecord> {
        self.pulls.values().map(|(pull, _)| pull)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::record::tests::framed;
    use super::*;

    pub(in crate::journal) fn add(name: &str, url: &str) -> Record {
        Record::AddPull(PullRecord {
            other_urls: Vec::new(),
            login: None,
            hedge_ms: 0,
            over_udp: false,
            idle_close_ms: None,
            auto_close: None,
            key: format!("v/live/{name}"),
            url: format!("rtmp://origin/live/{url}"),
            retries_max: None,
            timeout_ms: 10_000,
            media_timeout_ms: 5_000,
        })
    }

    pub(in crate::journal) fn remove(name: &str) -> Record {
        Record::RemovePull { key: format!("v/live/{name}") }
    }

    fn urls(replay: &Replay) -> Vec<&str> {
        replay.pulls.iter().map(|pull| pull.url.rsplit('/').next().unwrap()).collect()
    }

    /// A journal, and after each record its length and what is wanted.
    fn journal() -> (Vec<u8>, Vec<(usize, Vec<&'static str>)>) {
        let steps = [
            (add("a", "1"), vec!["1"]),
            (add("b", "2"), vec!["1", "2"]),
            (add("a", "3"), vec!["3", "2"]),
            (remove("b"), vec!["3"]),
            (remove("nosuch"), vec!["3"]),
            (add("b", "4"), vec!["3", "4"]),
            (remove("a"), vec!["4"]),
        ];
        let mut bytes = MAGIC.to_vec();
        let mut marks = vec![(bytes.len(), Vec::new())];
        for (record, wanted) in steps {
            encode(&record, &mut bytes);
            marks.push((bytes.len(), wanted));
        }
        (bytes, marks)
    }

    /// The last mark that is not behind `len`.
    fn before<'a>(
        marks: &'a [(usize, Vec<&'static str>)],
        len: usize,
    ) -> &'a (usize, Vec<&'static str>) {
        marks.iter().rev().find(|(end, _)| *end <= len).expect("the first is at the magic")
    }

    #[test]
    fn journal_cut_at_any_byte_is_good_up_to_its_last_whole_record() {
        let (bytes, marks) = journal();
        for len in MAGIC.len()..=bytes.len() {
            let found = replay(&bytes[..len]);
            let (end, wanted) = before(&marks, len);
            assert_eq!(urls(&found), *wanted, "{len}");
            let cut = found.damage.map(|damage| (damage.offset, damage.len));
            assert_eq!(cut, (*end != len).then_some((*end, len - end)), "{len}");
        }
        for len in 0..MAGIC.len() {
            let found = replay(&bytes[..len]);
            assert_eq!((urls(&found).len(), found.damage.is_some()), (0, len > 0), "{len}");
        }
    }

    #[test]
    fn journal_changed_at_any_byte_is_good_up_to_there() {
        let (bytes, marks) = journal();
        for at in 0..bytes.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                let found = replay(&changed);
                let damage = found.damage.expect("it is damaged");
                if at < MAGIC.len() {
                    assert_eq!((damage.offset, found.pulls.len()), (0, 0), "{at}");
                    continue;
                }
                let (end, wanted) = before(&marks, at);
                assert_eq!(urls(&found), *wanted, "{at}");
                assert_eq!((damage.offset, damage.len), (*end, bytes.len() - end), "{at}");
            }
        }
    }

    #[test]
    fn records_of_a_newer_version_outlive_compactions() {
        let mut unknown = framed(br#"{"do":"add_wings","key":"v/live/a"}"#);
        let first_len = unknown.len();
        // A known name whose content is not.
        unknown.extend(framed(br#"{"do":"add_pull","sources":[]}"#));
        let (first, second) = unknown.split_at(first_len);
        let mut bytes = MAGIC.to_vec();
        encode(&add("a", "1"), &mut bytes);
        bytes.extend_from_slice(first);
        encode(&add("b", "2"), &mut bytes);
        encode(&remove("a"), &mut bytes);
        bytes.extend_from_slice(second);
        let (mut state, count, damage) = State::read(&bytes);
        assert_eq!((count, damage), (2, None));
        for _ in 0..3 {
            let compact = state.encode();
            assert_eq!(compact.len(), state.live_len);
            assert_eq!(compact[MAGIC.len()..][..unknown.len()], unknown);
            state.compacted(compact.len());
            assert_eq!(State::read(&compact), (state.clone(), 2, None));
            assert_eq!(urls(&replay(&compact)), ["2"]);
            state = State::read(&compact).0;
        }
        assert!(!state.wants_compaction(), "what is not known is no waste");
    }

    #[test]
    fn compaction_is_wanted_when_most_is_waste_and_keeps_what_is_wanted() {
        let mut state = State::read(MAGIC).0;
        let mut count = 0;
        while !state.wants_compaction() {
            count += 1;
            assert!(count < 1_000_000, "it is wanted in the end");
            for record in [add("a", &count.to_string()), add("b", "1")] {
                let mut bytes = Vec::new();
                encode(&record, &mut bytes);
                state.apply(record, bytes.len());
            }
        }
        assert!(state.file_len > JOURNAL_WASTE_LEN_MAX);
        assert!(state.file_len < JOURNAL_WASTE_LEN_MAX + 1024);
        let compact = state.encode();
        assert_eq!(compact.len(), state.live_len);
        state.compacted(compact.len());
        assert!(!state.wants_compaction());
        assert_eq!(State::read(&compact), (state, 0, None));
    }
}
