//! What the shards and the keeper of the event log tell each other.
//!
//! ```text
//!  shards ── Events, Figures ──►┐                  ┌── Feed(bytes) ──► a follower's shard
//!         ── Follow, Unfollow ─►│ keeper, a thread ├── Ended ────────► a follower's shard
//!         ── Configure ────────►│ of its own       ├── Ask ──────────► shard 0, for the bus
//!         ── Judge, Withdraw ──►┘                  └── Judged ───────► who asked
//! ```
//!
//! Nobody waits here: events beyond [`EVENTS_UNDER_WAY_MAX`] stay in their shard's
//! [`Outbox`](super::Outbox), a follower that does not read is dropped, and everything else comes once
//! for what a connection or an operator does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::mpsc::{Sender, channel};

use bytes::Bytes;

use super::event::{Event, Peer};
use super::mesh::Wake;
use super::message::Ask;
use crate::config::{Config, Hook};
use crate::limits::{EVENTS_UNDER_WAY_MAX, FOLLOWER_QUEUE_LEN_MAX};
use crate::media::{ShardId, StreamKey};

/// What the keeper is told.
pub enum ToKeeper {
    /// A shard runs.
    Shard {
        shard: ShardId,
        inbox: Sender<FromKeeper>,
        waker: Arc<dyn Wake>,
    },
    /// What happened on a shard in one turn, or a piece of it. `lost` events before them found no room.
    Events {
        time_ms: u64,
        events: Vec<Event>,
        lost: u64,
    },
    /// A shard's numbers, once a second.
    Figures {
        shard: ShardId,
        figures: Figures,
    },
    Follow {
        shard: ShardId,
        follower: Arc<Follower>,
        follow: Follow,
    },
    Unfollow {
        follower: Arc<Follower>,
    },
    /// The operator has changed the configuration.
    Configure(Arc<Config>),
    /// All listeners are up, at these addresses.
    Started(Arc<Config>),
    /// A player or publisher may not go on before a hook says so.
    Judge {
        shard: ShardId,
        serial: u64,
        question: Box<Question>,
    },
    /// Whom that is about has gone.
    Withdraw {
        shard: ShardId,
        serial: u64,
    },
    /// Asks for the last events of a key.
    Recent {
        shard: ShardId,
        serial: u64,
        key: StreamKey,
    },
    /// What came of calling a hook; from the threads that do that.
    Posted {
        pool: HookPool,
        id: u64,
        posted: Posted,
    },
    /// The node has ended; nothing comes after this.
    Stop,
}

/// What a shard is told.
pub enum FromKeeper {
    /// The next bytes for a follower.
    Feed { follower: Arc<Follower>, bytes: Bytes },
    /// It did not read, and gets no more.
    Ended { follower: Arc<Follower> },
    /// What a hook says, or the policy where it says nothing.
    Judged { serial: u64, verdict: Verdict },
    /// The answer to [`ToKeeper::Recent`].
    Recent { serial: u64, lines: Vec<String> },
    /// Put this to the key's owner; nobody waits for the answer.
    Ask { key: StreamKey, ask: Ask },
}

/// Whether somebody may play or publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub hook: Hook,
    pub key: StreamKey,
    pub peer: Peer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// With the text for the peer.
    Deny(String),
}

/// What the threads that call hooks are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPool {
    /// Hooks that are told what happened.
    Tell,
    /// Hooks that are asked.
    Ask,
}

/// Status and body of a hook's reply, or why there is none.
pub type Posted = Result<(u16, Vec<u8>), NoReply>;

/// Why a hook has not replied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    /// There is no connection to its server.
    #[error("{0}")]
    Unreachable(String),
    /// It was called, and said nothing in time or nothing that can be read.
    #[error("{0}")]
    Unanswered(String),
}

/// What the keeper counts; a shard shows it.
#[derive(Debug, Default)]
pub struct HookCounts {
    pub taken: AtomicU64,
    /// Calls that were not taken and are tried again.
    pub failed: AtomicU64,
    /// Calls that are not told: they found the queue full, were refused too often, or their hook is
    /// switched off.
    pub dropped: AtomicU64,
    pub waiting: AtomicU64,
    pub allowed: AtomicU64,
    pub denied: AtomicU64,
    /// Questions that the policy had to answer.
    pub unanswered: AtomicU64,
    /// Of these, those that found too many others waiting.
    pub overflowed: AtomicU64,
    /// Questions whose peer has gone meanwhile.
    pub withdrawn: AtomicU64,
}

/// What a shard holds, for `getStatistic` and its hook.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub sockets: u64,
    pub sessions: u64,
    pub registered: u64,
}

/// A connection that follows the event log.
#[derive(Debug)]
pub struct Follower {
    /// What its shard knows it by.
    pub token: u64,
    /// Bytes that its shard has not taken.
    queued: AtomicUsize,
}

/// What a follower wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Follow {
    /// Only events of streams that have all of these.
    pub filter: Filter,
    /// `Last-Event-ID`; without one only what comes from now on.
    pub after: Option<String>,
}

/// Streams by the parts of their name; what is left out matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub vhost: Option<String>,
    pub app: Option<String>,
    pub stream: Option<String>,
}

impl Filter {
    pub fn lets_through(&self, key: &StreamKey) -> bool {
        let is = |wanted: &Option<String>, part: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == part)
        };
        is(&self.vhost, key.vhost()) && is(&self.app, key.app()) && is(&self.stream, key.stream())
    }
}

impl Follower {
    pub fn new(token: u64) -> Self {
        Self { token, queued: AtomicUsize::new(0) }
    }

    /// The keeper gives bytes to the follower's shard. `false` when that has too many already.
    pub fn put(&self, len: usize) -> bool {
        self.queued.fetch_add(len, Ordering::Relaxed) + len <= FOLLOWER_QUEUE_LEN_MAX
    }

    /// The shard has taken bytes.
    pub fn take(&self, len: usize) {
        self.queued.fetch_sub(len, Ordering::Relaxed);
    }
}

/// A shard's way to the keeper.
#[derive(Clone)]
pub struct KeeperPort {
    sender: Sender<ToKeeper>,
    under_way: Arc<AtomicUsize>,
    pub hooks: Arc<HookCounts>,
}

/// The keeper's end.
pub struct KeeperInbox {
    pub receiver: Receiver<ToKeeper>,
    under_way: Arc<AtomicUsize>,
}

/// Both ends of the way to the keeper.
pub fn keeper_channel() -> (KeeperPort, KeeperInbox) {
    let (sender, receiver) = channel();
    let under_way = Arc::new(AtomicUsize::new(0));
    let hooks = Arc::new(HookCounts::default());
    (
        KeeperPort { sender, under_way: under_way.clone(), hooks },
        KeeperInbox { receiver, under_way },
    )
}

impl KeeperPort {
    /// Tells something. A keeper that is gone needs to know nothing any more.
    pub fn tell(&self, message: ToKeeper) {
        let _ = self.sender.send(message);
    }

    /// Events that may be told now.
    pub(super) fn room(&self) -> usize {
        EVENTS_UNDER_WAY_MAX.saturating_sub(self.under_way.load(Ordering::Relaxed))
    }

    /// Takes room for so many events, or for as many as there is.
    pub(super) fn reserve(&self, wanted: usize) -> usize {
        let mut taken = 0;
        let take = |under_way: usize| {
            taken = wanted.min(EVENTS_UNDER_WAY_MAX.saturating_sub(under_way));
            Some(under_way + taken)
        };
        // It always says a new value.
        let _ = self.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken
    }

    /// So many events are told that no room was taken for.
    pub(super) fn count(&self, count: usize) {
        self.under_way.fetch_add(count, Ordering::Relaxed);
    }

    /// Tells what happened; there is room for it.
    pub(super) fn tell_events(&self, time_ms: u64, events: Vec<Event>, lost: u64) {
        self.tell(ToKeeper::Events { time_ms, events, lost });
    }
}

impl KeeperInbox {
    /// Events have been taken out.
    pub fn took(&self, count: usize) {
        self.under_way.fetch_sub(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_compares_whole_parts() {
        let key = StreamKey::in_default_vhost("live", "cam1").unwrap();
        let filter = |app: Option<&str>, stream: Option<&str>| Filter {
            vhost: None,
            app: app.map(str::to_owned),
            stream: stream.map(str::to_owned),
        };
        assert!(filter(None, None).lets_through(&key));
        assert!(filter(Some("live"), None).lets_through(&key));
        assert!(filter(Some("live"), Some("cam1")).lets_through(&key));
        assert!(!filter(Some("live"), Some("cam")).lets_through(&key));
        assert!(!filter(Some("liv"), Some("cam1")).lets_through(&key));
    }
}
