//! What must hold between the tables of a shard; for tests.

use super::Shard;
use super::replica::Role;
use super::tables::{Source, StreamHandle};
use super::timers::Timer;
use crate::media::state::Generation;

impl Shard {
    /// Asserts what must always hold; for tests.
    ///
    /// # Panics
    /// When it does not.
    pub fn check_invariants(&self) {
        self.tables.check();
        self.check_ways();
        self.check_idle();
        for stream in self.tables.iter().filter(|stream| !stream.told_forms.is_empty()) {
            let may_be_back =
                stream.grace.is_some() || matches!(stream.source, Source::Publisher { .. });
            assert!(stream.registered || may_be_back, "{} was told to be there", stream.key);
        }
        for stream in self.tables.iter().filter(|stream| stream.lost.is_some()) {
            let is_back = matches!(stream.source, Source::Publisher { .. });
            assert!(stream.grace.is_some() || is_back, "{} is lost for nobody", stream.key);
        }
        for (connection, handle) in &self.publishers {
            let stream = self.tables.get(*handle).expect("a publisher's stream is in a table");
            assert!(
                matches!(stream.source, Source::Publisher { connection: own, .. } if own == *connection)
            );
        }
        for local in self.locals.iter() {
            let members = |is: fn(&Role) -> bool| {
                self.members
                    .values()
                    .filter(|m| m.is_of(&local.key, local.id.form) && is(&m.role))
                    .count()
            };
            assert_eq!(local.waiters.len(), members(|role| matches!(role, Role::Waiter(_))));
            assert_eq!(local.crowd.len(), members(|role| *role == Role::Player));
            assert_eq!(local.admitting as usize, members(|role| *role == Role::Admitting));
        }
        for member in self.members.values() {
            assert!(
                self.locals.get(&member.key, member.form()).is_some(),
                "a member's key is here"
            );
        }
        for ending in self.endings.values() {
            assert!(!ending.open.is_empty(), "an ending without open connections is over");
        }
        self.pushes.check();
        for closing in self.closings.values() {
            assert!(!closing.is_complete(), "a complete close is over");
        }
    }

    /// Whether anything of one life of a key is left here; for tests.
    pub fn holds_generation(&self, generation: Generation) -> bool {
        let is_it = |handle: &StreamHandle| handle.generation == generation;
        self.tables.iter().any(|stream| stream.generation == generation)
            || self.publishers.values().any(is_it)
            || self.attempts.values().any(is_it)
            || self.timers.any(|timer| match timer {
                Timer::Retry(of)
                | Timer::Queue(of, _)
                | Timer::Hedge(of)
                | Timer::Grace(of)
                | Timer::Silence(of)
                | Timer::Demand(of) => is_it(of),
                Timer::Close(of) | Timer::Push(of) => *of == generation,
                Timer::Wait(_) | Timer::Attempt(_) => false,
            })
            || self.locals.iter().any(|local| local.generation == Some(generation))
            || self.closings.contains_key(&generation)
            || self.pushes.has(generation)
            || self.endings.values().any(|ending| ending.generation == generation)
    }
}
