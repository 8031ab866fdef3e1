//! Bounded queues between every two shards, and the waker of each.
//!
//! A message is never waited for: a shard that can't put one down keeps it in its own outbox and
//! tries again in the next tick, or drops it where that is the message's policy
//! ([`Message::Flushed`]: the replica is given a new snapshot instead). So two shards with full
//! queues can't hold each other up.
//!
//! An outbox has no limit of its own, but it does not grow with media or time. While it holds
//! something, flushes for that shard are dropped, and its sender puts down no interest and no
//! snapshot (`Shard::set_backed_up`). What is left comes once for what a peer has asked: at most
//! `Suspended`, `Resumed`, `Suspended` and `End` or `Released` for each presence of a key, one
//! `Adopt` for each connection, one `Ask` or `Answer` for each question under way. Connections and
//! questions have limits; a presence has a connection that came for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::message::Message;
use crate::limits::{BUS_MESSAGES_PER_SHARD, BUS_QUEUE_MAX, BUS_QUEUE_MIN};
use crate::media::ShardId;

/// Wakes a shard from any thread.
pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// All queues; each shard takes its port.
pub struct Mesh {
    ports: Vec<Option<MeshPort>>,
}

/// One shard's end of the mesh.
pub struct MeshPort {
    id: ShardId,
    /// By receiving shard; the own one is a queue like the others.
    senders: Vec<SyncSender<Message>>,
    receivers: Vec<Receiver<Message>>,
    outboxes: Vec<VecDeque<Message>>,
    wakers: Vec<Option<Arc<dyn Wake>>>,
    to_wake: Vec<bool>,
    /// The queue that is looked at first the next time.
    next_queue: usize,
    dropped: u64,
    kept: u64,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Sent,
    /// It goes out as soon as there is room.
    Kept,
    /// The queue was full and the message may be lost.
    Dropped,
}

impl Mesh {
    pub fn new(shards: usize) -> Self {
        let mut ports: Vec<MeshPort> = (0..shards)
            .map(|index| MeshPort {
                id: ShardId(index as u16),
                senders: Vec::new(),
                receivers: Vec::new(),
                outboxes: (0..shards).map(|_| VecDeque::new()).collect(),
                wakers: vec![None; shards],
                to_wake: vec![false; shards],
                next_queue: 0,
                dropped: 0,
                kept: 0,
            })
            .collect();
        let queue_len = (BUS_MESSAGES_PER_SHARD / shards).clamp(BUS_QUEUE_MIN, BUS_QUEUE_MAX);
        for from in 0..shards {
            for to in 0..shards {
                let (sender, receiver) = sync_channel(queue_len);
                ports[from].senders.push(sender);
                ports[to].receivers.push(receiver);
            }
        }
        Self { ports: ports.into_iter().map(Some).collect() }
    }

    /// A shard's port.
    ///
    /// # Panics
    /// When it is taken twice.
    pub fn take_port(&mut self, shard: ShardId) -> MeshPort {
        self.ports[shard.index()].take().expect("each port is taken once")
    }
}

impl MeshPort {
    pub fn shards(&self) -> usize {
        self.senders.len()
    }

    /// Learns how to wake a shard.
    pub fn set_waker(&mut self, shard: ShardId, waker: Arc<dyn Wake>) {
        self.wakers[shard.index()] = Some(waker);
    }

    /// Puts a message into another shard's queue.
    pub fn put(&mut self, to: ShardId, message: Message) -> Put {
        let outbox = &mut self.outboxes[to.index()];
        self.to_wake[to.index()] = true;
        if outbox.is_empty() {
            match self.senders[to.index()].try_send(message) {
                Ok(()) => return Put::Sent,
                // A shard that is gone has released everything, so nothing is owed to it.
                Err(TrySendError::Disconnected(_)) => return Put::Dropped,
                Err(TrySendError::Full(message)) => return self.keep(to, message),
            }
        }
        self.keep(to, message)
    }

    fn keep(&mut self, to: ShardId, message: Message) -> Put {
        if matches!(message, Message::Flushed { .. }) {
            self.dropped += 1;
            return Put::Dropped;
        }
        self.kept += 1;
        self.outboxes[to.index()].push_back(message);
        Put::Kept
    }

    /// Sends what was kept, as far as there is room, and wakes the shards that have got something.
    /// `true` when the next turn is due: something is still kept, or was sent to this shard itself.
    pub fn flush(&mut self) -> bool {
        let mut again = false;
        for index in 0..self.senders.len() {
            while let Some(message) = self.outboxes[index].pop_front() {
                match self.senders[index].try_send(message) {
                    Ok(()) => self.to_wake[index] = true,
                    Err(TrySendError::Full(message)) => {
                        self.outboxes[index].push_front(message);
                        again = true;
                        break;
                    }
                    Err(TrySendError::Disconnected(_)) => {}
                }
            }
            if !std::mem::take(&mut self.to_wake[index]) {
                continue;
            }
            if index == self.id.index() {
                again = true;
            } else if let Some(waker) = &self.wakers[index] {
                waker.wake();
            }
        }
        again
    }

    /// The next message for this shard, the queues in turn.
    pub fn take(&mut self) -> Option<(ShardId, Message)> {
        let count = self.receivers.len();
        (0..count).find_map(|step| {
            let index = (self.next_queue + step) % count;
            let message = self.receivers[index].try_recv().ok()?;
            self.next_queue = (index + 1) % count;
            Some((ShardId(index as u16), message))
        })
    }

    /// Whether messages to a shard wait for room in its queue.
    pub fn is_backed_up(&self, to: ShardId) -> bool {
        !self.outboxes[to.index()].is_empty()
    }

    /// Messages that wait for room now.
    pub fn waiting(&self) -> usize {
        self.outboxes.iter().map(VecDeque::len).sum()
    }

    /// Messages that have found a full queue and waited.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Messages that a full queue cost.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::message::{Answer, Ticket};

    fn done(serial: u64) -> Message {
        Message::Answer { ticket: Ticket { shard: ShardId(0), serial }, answer: Answer::Done }
    }

    fn serial(message: &Message) -> u64 {
        match message {
            Message::Answer { ticket, .. } => ticket.serial,
            _ => panic!("only these are sent"),
        }
    }

    #[test]
    fn a_full_queue_keeps_the_order_and_loses_nothing() {
        let mut mesh = Mesh::new(2);
        let mut sender = mesh.take_port(ShardId(0));
        let mut receiver = mesh.take_port(ShardId(1));
        let count = BUS_QUEUE_MAX as u64 + 10;
        for serial in 0..count {
            let put = sender.put(ShardId(1), done(serial));
            assert_eq!(put == Put::Sent, serial < BUS_QUEUE_MAX as u64);
        }
        assert!(sender.flush(), "something is kept");
        assert!(sender.is_backed_up(ShardId(1)) && !sender.is_backed_up(ShardId(0)));
        assert_eq!((sender.waiting(), sender.kept()), (10, 10));
        let mut seen = Vec::new();
        while seen.len() < count as usize {
            let (from, message) = receiver.take().expect("all come in the end");
            assert_eq!(from, ShardId(0));
            seen.push(serial(&message));
            sender.flush();
        }
        assert!(seen.is_sorted());
        assert!(receiver.take().is_none());
        assert!(!sender.flush() && !sender.is_backed_up(ShardId(1)));
        assert_eq!((sender.waiting(), sender.kept()), (0, 10));
    }

    #[test]
    fn a_busy_shard_does_not_keep_the_others_waiting() {
        let mut mesh = Mesh::new(3);
        let mut ports: Vec<MeshPort> = (0..3).map(|id| mesh.take_port(ShardId(id))).collect();
        for serial in 0..3 {
            ports[0].put(ShardId(2), done(serial));
        }
        ports[1].put(ShardId(2), done(9));
        let from: Vec<u16> =
            std::iter::from_fn(|| ports[2].take()).map(|(from, _)| from.0).collect();
        assert_eq!(from, [0, 1, 0, 0]);
    }

    #[test]
    fn a_shard_that_is_gone_is_no_obstacle() {
        let mut mesh = Mesh::new(2);
        let mut sender = mesh.take_port(ShardId(0));
        drop(mesh);
        assert_eq!(sender.put(ShardId(1), done(1)), Put::Dropped);
        assert!(!sender.flush());
    }
}
