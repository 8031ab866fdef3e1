//! Publishers: they come, send, go in good order or not, and come back.

use std::time::Instant;

use rillcast::bus::view::PublisherView;
use rillcast::media::{ConnectionId, Form, ShardId};
use rillcast::shard::StreamHandle;

use super::media::Source;
use super::origins::Feed;
use super::plan::pick;
use super::players::ADDRESS;
use super::world::{Event, World};

/// A connection that publishes.
pub(crate) struct Publisher {
    pub(crate) key: usize,
    /// While the shard takes its media.
    handle: Option<StreamHandle>,
    pub(crate) is_gone: bool,
    since: Instant,
    source: u32,
}

impl World {
    /// A publisher comes, is moved to the key's owner, and publishes.
    pub(crate) fn publish(&mut self, key: usize) {
        if self.ending {
            return;
        }
        let serial = self.next_serial() as u32;
        let form = *pick(&mut self.rng, &self.plan.forms);
        let accepted = self.rng.usize(0..self.shards.len());
        let connection = ConnectionId { serial, shard: ShardId(accepted as u16) };
        let view = PublisherView {
            connection,
            form,
            local: ADDRESS,
            peer: ADDRESS,
            params: String::new(),
        };
        let name = self.keys[key].clone();
        let owner = self.owner(key);
        let result = self.on_shard(owner, |shard, now, _| shard.publish(now, &name, view));
        self.note(|_| format!("  {connection} publishes {}: {result:?}", name.stream()));
        let Ok(handle) = result else { return };
        let interleaves = self.rng.bool();
        let feed = Feed::Publisher(connection);
        let source = self.new_source((key, form), interleaves, feed);
        let (handle, since) = (Some(handle), self.now);
        let publisher = Publisher { key, handle, is_gone: false, since, source };
        self.publishers.insert(connection, publisher);
        let delay_ms = self.rng.u64(0..300);
        if self.rng.u32(0..10) > 0 {
            self.after_ms(delay_ms, Event::Media(source));
        }
        let stay_ms = self.rng.u64(0..12_000);
        self.after_ms(stay_ms, Event::Unpublish(connection));
    }

    pub(crate) fn new_source(&mut self, of: (usize, Form), interleaves: bool, feed: Feed) -> u32 {
        let serial = self.sources.len() as u32;
        self.sources.push(Source::new(serial, of, interleaves, &mut self.rng));
        self.feeds.push(feed);
        serial
    }

    /// The handle that a publisher's media goes under, while it does.
    pub(crate) fn publisher_handle(&self, connection: ConnectionId) -> Option<StreamHandle> {
        self.publishers.get(&connection).and_then(|publisher| publisher.handle)
    }

    /// A publisher goes, in good order or not; sometimes it comes back soon.
    pub(crate) fn unpublish(&mut self, connection: ConnectionId) {
        let publisher = self.publishers.get_mut(&connection).expect("a known publisher");
        let key = publisher.key;
        if publisher.handle.take().is_none() {
            return;
        }
        publisher.is_gone = true;
        let clean = self.rng.bool();
        self.note(|_| format!("  {connection} unpublishes, clean: {clean}"));
        let owner = self.owner(key);
        self.on_shard(owner, |shard, now, _| shard.unpublish(now, connection, clean));
        if self.rng.u32(0..3) > 0 {
            let delay_ms = self.rng.u64(0..4000);
            self.after_ms(delay_ms, Event::Publish(key));
        }
    }

    /// The shard wants a publisher gone.
    pub(crate) fn end_publisher(&mut self, connection: ConnectionId) {
        let publisher = self.publishers.get_mut(&connection).expect("a known publisher");
        assert!(publisher.handle.take().is_some(), "{connection} is ended twice");
        let delay_ms = self.plan.confirm_ms(&mut self.rng);
        self.after_ms(delay_ms, Event::PublisherReleased(connection));
    }

    pub(crate) fn publisher_released(&mut self, connection: ConnectionId) {
        let publisher = self.publishers.get_mut(&connection).expect("a known publisher");
        publisher.is_gone = true;
        let key = publisher.key;
        let owner = self.owner(key);
        self.on_shard(owner, |shard, _, _| shard.released(connection));
    }

    /// Publishers that send nothing are ended in time.
    pub(crate) fn check_publishers(&self) {
        let silence = self.plan.policy.publisher_silence;
        let live = self.publishers.iter().filter(|(_, publisher)| publisher.handle.is_some());
        for (connection, publisher) in live {
            let last = self.sources[publisher.source as usize].last_media;
            let silent = self.now.duration_since(last.unwrap_or(publisher.since));
            assert!(silent <= silence, "{connection} is silent for {silent:?}");
        }
    }

    pub(crate) fn check_connections(&self) {
        for (connection, player) in &self.players {
            assert_eq!(player.phase, super::players::Phase::Gone, "{connection} is left");
        }
        for (connection, publisher) in &self.publishers {
            assert!(publisher.is_gone, "publisher {connection} is left");
        }
        assert!(self.wire.sockets.is_empty(), "sockets are left");
    }
}
