//! Streams that players wait for and nobody brings. Pure.
//!
//! Kept whether or not a hook wants to know, so that one that is set later hears of those who wait
//! already. Who waits is told by its shard, that nobody brings it by the key's owner, after that.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::Place;
use crate::bus::event::{Asker, Event, Peer, What};
use crate::limits::HOOK_WAITERS_MAX;
use crate::media::StreamKey;
use crate::media::state::Generation;

#[derive(Default)]
pub(super) struct Absents {
    by_key: HashMap<StreamKey, Absent>,
    /// In the order in which they came.
    order: BTreeMap<u64, StreamKey>,
    newest: u64,
}

/// A stream that is asked for.
struct Absent {
    number: u64,
    /// The newest event of it.
    place: Place,
    /// The newest of those who wait.
    peer: Option<Peer>,
    /// Which life of the key; known when its owner has said that nobody brings it.
    generation: Option<Generation>,
    told: Option<Instant>,
}

/// What the hook is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) key: StreamKey,
    pub(super) place: Place,
    pub(super) peer: Option<Peer>,
    pub(super) generation: Generation,
}

impl Absents {
    /// Learns from an event; what the hook is to be told now if it `is_wanted`: once when a key turns
    /// out to be absent, and again for who comes later.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        place: Place,
        event: &Event,
        is_wanted: bool,
    ) -> Option<Missing> {
        match &event.what {
            What::PlayerWaits(peer) => self.enter(&event.key, place).peer = Some((**peer).clone()),
            What::Pending { by: Asker::Players, .. } => {
                self.enter(&event.key, place).generation = event.generation;
            }
            What::Pending { .. }
            | What::Registered { .. }
            | What::Ended { .. }
            | What::PlayerStarted(_) => {
                if let Some(absent) = self.by_key.remove(&event.key) {
                    self.order.remove(&absent.number);
                }
                return None;
            }
            _ => return None,
        }
        if is_wanted { self.tell(now, &event.key) } else { None }
    }

    /// What a hook is to be told that is new.
    pub(super) fn tell_all(&mut self, now: Instant) -> Vec<Missing> {
        let keys: Vec<StreamKey> = self.order.values().cloned().collect();
        keys.iter().filter_map(|key| self.tell(now, key)).collect()
    }

    fn tell(&mut self, now: Instant, key: &StreamKey) -> Option<Missing> {
        let absent = self.by_key.get_mut(key)?;
        let generation = absent.generation?;
        if absent.told.is_some_and(|told| now.duration_since(told) < TOLD_AGAIN) {
            return None;
        }
        absent.told = Some(now);
        Some(Missing {
            key: key.clone(),
            place: absent.place,
            peer: absent.peer.clone(),
            generation,
        })
    }

    fn enter(&mut self, key: &StreamKey, place: Place) -> &mut Absent {
        if !self.by_key.contains_key(key) {
            if self.by_key.len() >= HOOK_WAITERS_MAX
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.by_key.remove(&oldest);
            }
            self.newest += 1;
            self.order.insert(self.newest, key.clone());
        }
        let number = self.newest;
        let new = || Absent { number, place, peer: None, generation: None, told: None };
        let absent = self.by_key.entry(key.clone()).or_insert_with(new);
        absent.place = place;
        absent
    }
}

/// Who comes to an absent stream so long after the hook was told of it has it told again.
const TOLD_AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::event::End;
    use crate::clock;
    use crate::media::{ConnectionId, ShardId};

    #[derive(Default)]
    struct Scene {
        absents: Absents,
        sequence: u64,
    }

    impl Scene {
        fn learn(
            &mut self,
            now: Instant,
            stream: &str,
            (generation, what): (Option<u64>, What),
            is_wanted: bool,
        ) -> Option<Missing> {
            self.sequence += 1;
            let key = StreamKey::in_default_vhost("live", stream).unwrap();
            let event = Event { key, generation: generation.map(Generation), what };
            let place = Place { run: 7, sequence: self.sequence, time_ms: 0 };
            self.absents.learn(now, place, &event, is_wanted)
        }
    }

    fn waits(serial: u32) -> (Option<u64>, What) {
        let peer = Peer {
            connection: ConnectionId { serial, shard: ShardId(0) },
            address: "10.0.0.1:5".parse().unwrap(),
            protocol: "http",
            params: String::new(),
            is_player: true,
        };
        (None, What::PlayerWaits(Box::new(peer)))
    }

    fn pending(generation: u64) -> (Option<u64>, What) {
        (Some(generation), What::Pending { by: Asker::Players, url: None })
    }

    #[test]
    fn it_is_told_once_with_its_life_and_again_for_who_comes_later() {
        let (mut scene, now) = (Scene::default(), clock::now());
        assert_eq!(scene.learn(now, "a", waits(1), true), None, "its owner has not said so");
        let missing = scene.learn(now, "a", pending(3), true).unwrap();
        assert_eq!((missing.generation, missing.place.sequence), (Generation(3), 2));
        assert_eq!(missing.peer.unwrap().connection.serial, 1);
        assert_eq!(scene.learn(now, "a", waits(2), true), None);
        let missing = scene.learn(now + TOLD_AGAIN, "a", waits(3), true).unwrap();
        assert_eq!((missing.generation, missing.place.sequence), (Generation(3), 4));
        assert_eq!(missing.peer.unwrap().connection.serial, 3);
    }

    #[test]
    fn who_waits_already_is_told_to_a_hook_that_is_set_later() {
        let (mut scene, now) = (Scene::default(), clock::now());
        for (stream, generation) in [("a", 1), ("b", 2), ("brought", 3)] {
            scene.learn(now, stream, waits(1), false);
            assert_eq!(scene.learn(now, stream, pending(generation), false), None);
        }
        let pull = (Some(3), What::Pending { by: Asker::Pull, url: None });
        scene.learn(now, "brought", pull, false);
        let told: Vec<u64> =
            scene.absents.tell_all(now).iter().map(|missing| missing.generation.0).collect();
        assert_eq!(told, [1, 2]);
        assert!(scene.absents.tell_all(now).is_empty(), "once");
        assert!(scene.learn(now + TOLD_AGAIN, "a", waits(4), true).is_some());
    }

    #[test]
    fn the_oldest_alone_is_forgotten_when_there_are_too_many() {
        let (mut scene, now) = (Scene::default(), clock::now());
        for number in 0..=HOOK_WAITERS_MAX {
            scene.learn(now, &format!("s{number}"), pending(1), true);
        }
        let later = now + TOLD_AGAIN;
        assert_eq!(
            scene.learn(later, "s1", waits(1), true).map(|missing| missing.generation.0),
            Some(1)
        );
        assert_eq!(scene.absents.by_key.len(), HOOK_WAITERS_MAX);
        let ended = || (Some(1), What::Ended { reason: End::Abandoned, forms: vec![], url: None });
        for number in 0..=HOOK_WAITERS_MAX {
            scene.learn(later, &format!("s{number}"), ended(), true);
        }
        assert!(scene.absents.by_key.is_empty() && scene.absents.order.is_empty());
    }
}
