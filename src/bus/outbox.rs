//! What a shard has told of streams and players, until the keeper of the event log has room for it.
//!
//! In the order in which it happened. A crowd of players that come or go at once fills the room of
//! their own events, and what happens to streams waits beside it: control planes go by that.

use std::collections::VecDeque;

use super::KeeperPort;
use super::event::Event;
use crate::limits::{PLAYER_EVENTS_WAITING_MAX, STREAM_EVENTS_WAITING_MAX};

/// A shard's events on their way to the keeper.
pub struct Outbox {
    keeper: KeeperPort,
    batches: VecDeque<Batch>,
    /// Events in all batches.
    waiting: usize,
    /// Events that found no room, since the newest batch.
    lost: u64,
    lost_total: u64,
}

/// What happened in a turn. `lost` events before it found no room; there is one event at least.
struct Batch {
    time_ms: u64,
    lost: u64,
    events: Vec<Event>,
}

impl Outbox {
    pub fn new(keeper: KeeperPort) -> Self {
        Self { keeper, batches: VecDeque::new(), waiting: 0, lost: 0, lost_total: 0 }
    }

    /// Whether there is nothing to be told.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.lost == 0
    }

    /// Events that found no room, ever.
    pub fn lost_total(&self) -> u64 {
        self.lost_total
    }

    /// Takes what happened in a turn, and tells as much of all that waits as the keeper has room for. To
    /// be called again soon for the rest.
    pub fn tell(&mut self, time_ms: u64, events: Vec<Event>) {
        self.keep(time_ms, events);
        while let Some(batch) = self.batches.front_mut() {
            let count = self.keeper.reserve(batch.events.len());
            if count == 0 {
                return;
            }
            self.waiting -= count;
            let rest = batch.events.split_off(count);
            let events = std::mem::replace(&mut batch.events, rest);
            self.keeper.tell_events(batch.time_ms, events, std::mem::take(&mut batch.lost));
            if batch.events.is_empty() {
                self.batches.pop_front();
            }
        }
        if self.lost > 0 && self.keeper.room() > 0 {
            self.keeper.tell_events(time_ms, Vec::new(), std::mem::take(&mut self.lost));
        }
    }

    /// Tells all that waits, whether or not there is room: the shard ends.
    pub fn tell_rest(&mut self, time_ms: u64) {
        for Batch { time_ms, lost, events } in self.batches.drain(..) {
            self.keeper.count(events.len());
            self.keeper.tell_events(time_ms, events, lost);
        }
        self.waiting = 0;
        if self.lost > 0 {
            self.keeper.tell_events(time_ms, Vec::new(), std::mem::take(&mut self.lost));
        }
    }

    /// Keeps of a turn's events what has room.
    fn keep(&mut self, time_ms: u64, mut events: Vec<Event>) {
        let (count, room) = (events.len(), self.keeper.room());
        events.retain(|event| {
            let max = match event.what.is_of_player() {
                true => PLAYER_EVENTS_WAITING_MAX,
                false => STREAM_EVENTS_WAITING_MAX,
            };
            let has_room = self.waiting < room + max;
            self.waiting += usize::from(has_room);
            has_room
        });
        let lost = (count - events.len()) as u64;
        self.lost += lost;
        self.lost_total += lost;
        if !events.is_empty() {
            let lost = std::mem::take(&mut self.lost);
            self.batches.push_back(Batch { time_ms, lost, events });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::event::What;
    use crate::bus::keeper::{KeeperInbox, ToKeeper, keeper_channel};
    use crate::limits::EVENTS_UNDER_WAY_MAX;
    use crate::media::{ConnectionId, ShardId, StreamKey};

    const ALL_MAX: usize = EVENTS_UNDER_WAY_MAX + STREAM_EVENTS_WAITING_MAX;

    fn event(stream: &str, what: What) -> Event {
        let key = StreamKey::in_default_vhost("live", stream).unwrap();
        Event { key, generation: None, what }
    }

    fn of_streams(count: usize) -> Vec<Event> {
        vec![event("a", What::Unwatched); count]
    }

    fn of_players(count: usize) -> Vec<Event> {
        let connection = ConnectionId { serial: 1, shard: ShardId(0) };
        vec![event("a", What::PlayerEvicted { connection }); count]
    }

    /// What the keeper takes now: the time, the number of events, and what was lost before them.
    fn take(inbox: &KeeperInbox) -> Vec<(u64, usize, u64)> {
        let took = |message| match message {
            ToKeeper::Events { time_ms, events, lost } => {
                inbox.took(events.len());
                (time_ms, events.len(), lost)
            }
            _ => panic!("only events are told"),
        };
        inbox.receiver.try_iter().map(took).collect()
    }

    #[test]
    fn a_batch_that_is_larger_than_the_room_is_told_in_pieces() {
        let (port, inbox) = keeper_channel();
        let mut outbox = Outbox::new(port);
        outbox.tell(1, of_streams(2 * EVENTS_UNDER_WAY_MAX + 3));
        outbox.tell(2, of_streams(4));
        assert_eq!(take(&inbox), [(1, EVENTS_UNDER_WAY_MAX, 0)]);
        assert!(!outbox.is_empty());
        outbox.tell(3, Vec::new());
        assert_eq!(take(&inbox), [(1, EVENTS_UNDER_WAY_MAX, 0)]);
        outbox.tell(4, Vec::new());
        assert_eq!(take(&inbox), [(1, 3, 0), (2, 4, 0)]);
        assert!(outbox.is_empty() && outbox.lost_total() == 0);
    }

    #[test]
    fn a_crowd_of_players_pushes_nothing_out_that_happens_to_streams() {
        let (port, inbox) = keeper_channel();
        let mut outbox = Outbox::new(port);
        let crowd = EVENTS_UNDER_WAY_MAX + PLAYER_EVENTS_WAITING_MAX;
        let mut events = of_streams(1);
        events.extend(of_players(crowd + 5));
        events.extend(of_streams(2));
        outbox.tell(1, events);
        outbox.tell(2, of_streams(1));
        let mut told = take(&inbox);
        while !outbox.is_empty() {
            outbox.tell(3, Vec::new());
            told.extend(take(&inbox));
        }
        // The gap is told before what is left of its turn, and no stream's event is in it.
        let pieces = [(1, EVENTS_UNDER_WAY_MAX, 6), (1, PLAYER_EVENTS_WAITING_MAX, 0)];
        assert_eq!((&told[..2], &told[2..]), (&pieces[..], &[(1, 2, 0), (2, 1, 0)][..]));
        assert_eq!(outbox.lost_total(), 6);
    }

    #[test]
    fn events_beyond_the_bound_are_counted_and_announced() {
        let (port, inbox) = keeper_channel();
        let mut outbox = Outbox::new(port);
        outbox.tell(1, of_streams(ALL_MAX));
        outbox.tell(2, of_streams(3));
        outbox.tell(3, of_players(1));
        assert_eq!(outbox.lost_total(), 4);
        let mut told = Vec::new();
        for _ in 0..=ALL_MAX / EVENTS_UNDER_WAY_MAX {
            told.extend(take(&inbox));
            outbox.tell(4, Vec::new());
        }
        assert!(outbox.is_empty(), "a gap does not wait for the next event");
        told.extend(take(&inbox));
        assert_eq!(told.pop(), Some((4, 0, 4)));
        assert!(told.iter().all(|&(time_ms, _, lost)| (time_ms, lost) == (1, 0)));
        assert_eq!(told.iter().map(|&(_, count, _)| count).sum::<usize>(), ALL_MAX);
    }

    #[test]
    fn shards_share_the_room_and_what_waits_is_told_when_one_ends() {
        let (port, inbox) = keeper_channel();
        let mut outboxes = [Outbox::new(port.clone()), Outbox::new(port)];
        for outbox in &mut outboxes {
            outbox.tell(1, of_streams(EVENTS_UNDER_WAY_MAX));
        }
        assert!(outboxes[0].is_empty() && !outboxes[1].is_empty());
        outboxes[1].tell_rest(2);
        assert!(outboxes[1].is_empty());
        assert_eq!(take(&inbox), [(1, EVENTS_UNDER_WAY_MAX, 0); 2]);
        // All of it was counted, and is under way no more.
        assert_eq!(outboxes[1].keeper.room(), EVENTS_UNDER_WAY_MAX);
    }
}
