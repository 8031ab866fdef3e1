//! Verdicts that count for who comes with the same request. Pure.
//!
//! All have the same time, so that the oldest is the first to end: each entry is put and taken out once. Who
//! may and who may not have places of their own: anybody can cause denials, and they push out no other.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::bus::keeper::{Question, Verdict};
use crate::limits::{HOOK_ALLOWED_KEPT_MAX, HOOK_DENIED_KEPT_MAX};

/// What one verdict counts for: hook, key, query and address, in few bytes however long they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Case([u8; 32]);

#[derive(Default)]
pub(super) struct Memory {
    verdicts: HashMap<Case, (Instant, Verdict)>,
    /// In the order in which they end.
    allowed: VecDeque<(Instant, Case)>,
    denied: VecDeque<(Instant, Case)>,
}

impl Case {
    pub(super) fn of(question: &Question) -> Self {
        let Question { hook, key, peer } = question;
        let mut hash = Sha256::new();
        for part in [hook.key(), key.vhost(), key.app(), key.stream(), &peer.params] {
            // With its length, so that no two cases have the same bytes.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(peer.address.ip().to_string());
        Self(hash.finalize().into())
    }
}

impl Memory {
    pub(super) fn recall(&self, now: Instant, case: Case) -> Option<Verdict> {
        let (until, verdict) = self.verdicts.get(&case)?;
        (now < *until).then(|| verdict.clone())
    }

    /// Keeps a verdict for a time, which changes only with [`Self::clear`].
    pub(super) fn keep(&mut self, now: Instant, time: Duration, case: Case, verdict: &Verdict) {
        for order in [&mut self.allowed, &mut self.denied] {
            while order.front().is_some_and(|&(until, _)| until <= now) {
                forget_first(&mut self.verdicts, order);
            }
        }
        if self.verdicts.contains_key(&case) {
            return;
        }
        let (order, max) = match verdict {
            Verdict::Allow => (&mut self.allowed, HOOK_ALLOWED_KEPT_MAX),
            Verdict::Deny(_) => (&mut self.denied, HOOK_DENIED_KEPT_MAX),
        };
        if order.len() >= max {
            forget_first(&mut self.verdicts, order);
        }
        let until = now + time;
        order.push_back((until, case));
        self.verdicts.insert(case, (until, verdict.clone()));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn forget_first(
    verdicts: &mut HashMap<Case, (Instant, Verdict)>,
    order: &mut VecDeque<(Instant, Case)>,
) {
    if let Some((_, case)) = order.pop_front() {
        verdicts.remove(&case);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::event::Peer;
    use crate::clock;
    use crate::config::Hook;
    use crate::media::{ConnectionId, ShardId, StreamKey};

    const TIME: Duration = Duration::from_secs(60);

    fn numbered(number: u32) -> Case {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Case(bytes)
    }

    fn deny() -> Verdict {
        Verdict::Deny("no".to_owned())
    }

    /// Each of a million would look at all others if one could.
    #[test]
    fn junk_pushes_out_junk_alone_and_costs_the_same_each_time() {
        const JUNK: u32 = 1_000_000;
        let (mut memory, now) = (Memory::default(), clock::now());
        memory.keep(now, TIME, numbered(0), &Verdict::Allow);
        for number in 1..=JUNK {
            memory.keep(now, TIME, numbered(number), &deny());
        }
        assert_eq!(memory.recall(now, numbered(0)), Some(Verdict::Allow));
        assert_eq!(memory.recall(now, numbered(JUNK)), Some(deny()), "the newest of it");
        assert_eq!(memory.recall(now, numbered(1)), None);
        assert_eq!((memory.verdicts.len(), memory.denied.len()), (8193, 8192));
        for number in 0..2 * HOOK_ALLOWED_KEPT_MAX as u32 {
            memory.keep(now, TIME, numbered(JUNK + 1 + number), &Verdict::Allow);
        }
        assert_eq!(memory.verdicts.len(), HOOK_ALLOWED_KEPT_MAX + HOOK_DENIED_KEPT_MAX);
        assert_eq!(memory.recall(now, numbered(0)), None, "the oldest goes");
        memory.keep(now + TIME, TIME, numbered(0), &deny());
        assert_eq!((memory.verdicts.len(), memory.allowed.len(), memory.denied.len()), (1, 0, 1));
    }

    #[test]
    fn a_verdict_counts_until_its_time_is_over_and_is_then_replaced() {
        let (mut memory, now) = (Memory::default(), clock::now());
        memory.keep(now, TIME, numbered(1), &deny());
        memory.keep(now, TIME, numbered(1), &Verdict::Allow);
        let last = now + TIME - Duration::from_millis(1);
        assert_eq!(memory.recall(last, numbered(1)), Some(deny()));
        assert_eq!(memory.recall(now + TIME, numbered(1)), None);
        memory.keep(now + TIME, TIME, numbered(1), &Verdict::Allow);
        assert_eq!(memory.recall(now + TIME, numbered(1)), Some(Verdict::Allow));
        assert_eq!((memory.allowed.len(), memory.denied.len()), (1, 0));
    }

    #[test]
    fn cases_differ_in_each_part_and_nowhere_else() {
        let question = |hook, (app, stream): (&str, &str), params: &str, address: &str| {
            let peer = Peer {
                connection: ConnectionId { serial: 1, shard: ShardId(0) },
                address: address.parse().unwrap(),
                protocol: "http",
                params: params.to_owned(),
                is_player: true,
            };
            let key = StreamKey::in_default_vhost(app, stream).unwrap();
            Case::of(&Question { hook, key, peer })
        };
        let name = ("live", "a");
        let case = question(Hook::Play, name, "t=1", "10.0.0.1:5");
        assert_eq!(case, question(Hook::Play, name, "t=1", "10.0.0.1:6"), "another port");
        for other in [
            question(Hook::Publish, name, "t=1", "10.0.0.1:5"),
            question(Hook::Play, ("livea", "x"), "t=1", "10.0.0.1:5"),
            question(Hook::Play, ("live", "at"), "=1", "10.0.0.1:5"),
            question(Hook::Play, name, "t=11", "0.0.0.1:5"),
            question(Hook::Play, name, "t=1", "10.0.0.2:5"),
        ] {
            assert_ne!(case, other);
        }
    }
}
