//! Connections by the millisecond at which something of theirs is due.
//!
//! Hundreds of sources enter one for each of their frames and take it out with the next, which is a few
//! instructions here, however many there are.

use crate::ring::Token;

/// Connections that something is due of, in the next [`Wheel::SPAN_MS`].
pub(super) struct Wheel {
    /// By the millisecond, in turns.
    slots: Vec<Vec<Token>>,
    /// A bit for each slot in which somebody waits.
    awaited: [u64; WORDS],
    /// All before this has been taken.
    from_ms: u64,
    /// Memory of slots in which nobody waits.
    spare: Vec<Vec<Token>>,
}

impl Wheel {
    /// How far ahead the last may be due. A mark has an end after `egress.audio_wait_ms` and some
    /// milliseconds, a second at most; the rest is for a shard that has stood still.
    pub(super) const SPAN_MS: u64 = 2048;

    pub(super) fn new() -> Self {
        let slots = vec![Vec::new(); SLOTS];
        Self { slots, awaited: [0; WORDS], from_ms: 0, spare: Vec::new() }
    }

    /// Enters a connection.
    ///
    /// # Panics
    /// When the time was taken already or is too far ahead.
    pub(super) fn enter(&mut self, at_ms: u64, token: Token) {
        assert!((self.from_ms..self.from_ms + Self::SPAN_MS).contains(&at_ms), "beyond the wheel");
        let index = slot_of(at_ms);
        let slot = &mut self.slots[index];
        if slot.is_empty() {
            *slot = self.spare.pop().unwrap_or_default();
            self.awaited[index / 64] |= 1 << (index % 64);
        }
        slot.push(token);
    }

    /// Takes one out again. Those of a millisecond are looked through: 50 of 2,000 sources.
    pub(super) fn leave(&mut self, at_ms: u64, token: Token) {
        let index = slot_of(at_ms);
        let slot = &mut self.slots[index];
        if let Some(place) = slot.iter().position(|&entered| entered == token) {
            slot.swap_remove(place);
            self.left(index);
        }
    }

    /// Whether what is due is to be taken before others are entered: it was not for a long time.
    pub(super) fn is_behind(&self, now_ms: u64) -> bool {
        now_ms > self.from_ms + Self::SPAN_MS / 2
    }

    /// When the next is due.
    pub(super) fn next(&self) -> Option<u64> {
        let first = slot_of(self.from_ms);
        // The first word once more at the end, for the slots before the first.
        (0..=WORDS).find_map(|offset| {
            let word = (first / 64 + offset) % WORDS;
            let bits = match offset {
                0 => self.awaited[word] & (u64::MAX << (first % 64)),
                _ => self.awaited[word],
            };
            let index = word * 64 + bits.trailing_zeros() as usize;
            let ahead = (index + SLOTS - first) % SLOTS;
            (bits != 0).then_some(self.from_ms + ahead as u64)
        })
    }

    /// Takes one that is due, with its time.
    pub(super) fn take_due(&mut self, now_ms: u64) -> Option<(u64, Token)> {
        let Some(at_ms) = self.next().filter(|&at_ms| at_ms <= now_ms) else {
            self.from_ms = self.from_ms.max(now_ms + 1);
            return None;
        };
        self.from_ms = at_ms;
        let index = slot_of(at_ms);
        let token = self.slots[index].pop().expect("somebody waits there");
        self.left(index);
        Some((at_ms, token))
    }

    /// Somebody is not in a slot any more.
    fn left(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.is_empty() {
            self.spare.push(std::mem::take(slot));
            self.awaited[index / 64] &= !(1 << (index % 64));
        }
    }
}

fn slot_of(at_ms: u64) -> usize {
    (at_ms % Wheel::SPAN_MS) as usize
}

const SLOTS: usize = Wheel::SPAN_MS as usize;
const WORDS: usize = SLOTS / 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn due(wheel: &mut Wheel, now_ms: u64) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| wheel.take_due(now_ms))
            .map(|(at_ms, token)| (at_ms, token.value()))
            .collect()
    }

    #[test]
    fn those_that_are_due_are_taken_by_their_times() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.next(), None);
        for (at_ms, token) in [(7, 1), (5, 2), (7, 3), (2047, 4)] {
            wheel.enter(at_ms, Token::new(token));
        }
        assert_eq!(wheel.next(), Some(5));
        assert_eq!(due(&mut wheel, 4), []);
        assert_eq!(due(&mut wheel, 7), [(5, 2), (7, 3), (7, 1)]);
        assert!(
            !wheel.is_behind(8 + Wheel::SPAN_MS / 2) && wheel.is_behind(9 + Wheel::SPAN_MS / 2)
        );
        assert_eq!(wheel.next(), Some(2047));
        // Behind the end of the slots.
        wheel.enter(2050, Token::new(5));
        assert_eq!(wheel.next(), Some(2047));
        wheel.leave(2047, Token::new(4));
        assert_eq!(wheel.next(), Some(2050));
        assert_eq!(due(&mut wheel, 3000), [(2050, 5)]);
        wheel.enter(3001 + Wheel::SPAN_MS - 1, Token::new(6));
        assert_eq!(wheel.next(), Some(3001 + Wheel::SPAN_MS - 1));
    }

    #[test]
    #[should_panic(expected = "beyond the wheel")]
    fn nobody_waits_for_longer_than_a_turn_of_it() {
        Wheel::new().enter(Wheel::SPAN_MS, Token::new(1));
    }

    #[test]
    fn who_is_due_is_taken_and_nobody_else() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut wheel = Wheel::new();
        let mut waiting = BTreeSet::new();
        let mut now_ms = 0;
        for token in 0..20_000 {
            let at_ms = now_ms + 1 + random.u64(..1000);
            wheel.enter(at_ms, Token::new(token));
            waiting.insert((at_ms, token));
            if random.bool() {
                let index = random.usize(..waiting.len());
                let left = *waiting.iter().nth(index).expect("in range");
                waiting.remove(&left);
                wheel.leave(left.0, Token::new(left.1));
            }
            assert_eq!(wheel.next(), waiting.first().map(|&(at_ms, _)| at_ms));
            now_ms += random.u64(..20);
            let taken = due(&mut wheel, now_ms);
            let later = waiting.split_off(&(now_ms + 1, 0));
            assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), waiting);
            waiting = later;
        }
    }
}
