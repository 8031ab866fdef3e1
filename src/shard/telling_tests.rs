//! What happens to streams reaches the keeper of the event log, however much happens in one turn.

use std::collections::HashMap;

use super::demand_tests::{ONE, Scene, key};
use super::{PlayRequest, Shard};
use crate::bus::Outbox;
use crate::bus::event::{Peer, Refusal, What};
use crate::bus::keeper::{KeeperInbox, ToKeeper, keeper_channel};
use crate::bus::message::Ask;
use crate::journal::PullRecord;
use crate::limits::EVENTS_UNDER_WAY_MAX;
use crate::media::state::{EndReason, ErrorClass, Fault};
use crate::media::{ConnectionId, ShardId, StreamKey};
use crate::stream::Packaging;

/// A shard's way to a keeper that takes what it was told after each turn.
struct Way {
    outbox: Outbox,
    inbox: KeeperInbox,
    told: HashMap<(StreamKey, &'static str), usize>,
}

impl Way {
    fn new() -> Self {
        let (keeper, inbox) = keeper_channel();
        Self { outbox: Outbox::new(keeper), inbox, told: HashMap::new() }
    }

    /// Turns until all is told; how many of them.
    fn tell(&mut self, shard: &mut Shard) -> usize {
        for turn in 1.. {
            self.outbox.tell(turn, shard.take_events());
            for message in self.inbox.receiver.try_iter() {
                let ToKeeper::Events { events, .. } = message else { continue };
                self.inbox.took(events.len());
                for event in events {
                    *self.told.entry((event.key, event.what.name())).or_default() += 1;
                }
            }
            if self.outbox.is_empty() {
                return turn as usize;
            }
        }
        unreachable!("it ends when all is told")
    }

    fn count(&self, name: &str) -> usize {
        self.told.iter().filter(|((_, of), _)| *of == name).map(|(_, count)| count).sum()
    }
}

fn peer(serial: u32) -> Peer {
    Peer {
        connection: ConnectionId { serial, shard: ShardId(0) },
        address: ([127, 0, 0, 1], 9).into(),
        protocol: "http",
        params: String::new(),
        is_player: true,
    }
}

#[test]
fn a_crowd_that_is_refused_at_once_hides_nothing_of_other_streams() {
    let mut scene = Scene::new(ONE, |_| {});
    let mut way = Way::new();
    let mut serial = 0;
    for (stream, count) in [("a", 10_000), ("b", 6_500)] {
        for _ in 0..count {
            serial += 1;
            let Peer { connection, address, .. } = peer(serial);
            scene.shard.play(
                scene.now,
                PlayRequest {
                    connection,
                    key: key(stream),
                    packaging: Packaging::Flv,
                    local: address,
                    peer: address,
                    params: String::new(),
                },
            );
        }
    }
    scene.turn();
    assert_eq!((scene.dialed.len(), scene.refused.len()), (2, 0));
    way.tell(&mut scene.shard);
    // In one turn: both are not to be had, another stream registers, and is closed.
    for (attempt, _) in scene.dialed.clone() {
        scene.shard.attempt_failed(scene.now, attempt, Fault::new(ErrorClass::NotFound, "no"));
    }
    scene.turn();
    assert_eq!(scene.refused.len(), 16_500);
    for (index, &(serial, _)) in scene.refused.iter().enumerate() {
        let stream = if index < 10_000 { "a" } else { "b" };
        let (peer, reason) = (Box::new(peer(serial)), Refusal::For(EndReason::NotFound));
        scene.shard.tell_of(key(stream), None, What::PlayerRefused { peer, reason });
    }
    // On demand, as what stays would be kept.
    scene.play("d", "");
    scene.media();
    let (generation, form) = (None, None);
    let close = Ask::Close { key: key("d"), generation, form, force: true, pending_too: true };
    scene.ask(close);
    let turns = way.tell(&mut scene.shard);
    assert!(turns > 1, "the crowd alone is more than the room");
    for name in ["pending", "registered", "closed"] {
        assert!(way.told.contains_key(&(key("d"), name)), "{name} of {:?}", way.told);
    }
    assert_eq!((way.count("player_refused"), way.outbox.lost_total()), (16_500, 0));
}

#[test]
fn all_that_is_restored_and_shut_down_is_told_in_pieces() {
    const COUNT: usize = 2 * EVENTS_UNDER_WAY_MAX + 5;
    let record = |number: usize| PullRecord {
        over_udp: false,
        idle_close_ms: None,
        auto_close: None,
        key: key(&number.to_string()).as_str().to_owned(),
        url: "rtmp://origin/live/a".to_owned(),
        other_urls: Vec::new(),
        login: None,
        hedge_ms: 0,
        retries_max: None,
        timeout_ms: 10_000,
        media_timeout_ms: 10_000,
    };
    let records: Vec<PullRecord> = (0..COUNT).map(record).collect();
    let mut scene = Scene::new("", |_| {});
    let mut way = Way::new();
    assert_eq!(scene.shard.restore(scene.now, &records).0, COUNT);
    assert_eq!(way.tell(&mut scene.shard), 3);
    assert_eq!(way.count("pending"), COUNT);
    scene.shard.shut_down(scene.now);
    assert_eq!(way.tell(&mut scene.shard), 3);
    assert_eq!((way.count("closed"), way.outbox.lost_total()), (COUNT, 0));
}
