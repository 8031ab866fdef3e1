//! A fake bus: first in, first out between every two shards, late at random, and now and then full.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rillcast::bus::Message;

/// All queues, by sending and receiving shard.
pub(crate) struct Bus {
    pipes: Vec<Pipe>,
    shards: usize,
    latency_us_max: u64,
    /// Of so many messages one meets a queue that has become full; 0 for never.
    full_one_in: u32,
    full_ms_max: u64,
}

#[derive(Default)]
struct Pipe {
    queue: VecDeque<Message>,
    last: Option<Instant>,
    full_until: Option<Instant>,
}

/// What became of a message.
pub(crate) enum Put {
    At(Instant),
    /// The queue was full and the message is lost.
    Dropped(Message),
}

impl Bus {
    pub(crate) fn new(
        shards: usize,
        latency_us_max: u64,
        full_one_in: u32,
        full_ms_max: u64,
    ) -> Self {
        let pipes = (0..shards * shards).map(|_| Pipe::default()).collect();
        Self { pipes, shards, latency_us_max, full_one_in, full_ms_max }
    }

    pub(crate) fn put(&mut self, now: Instant, way: Way, message: Message, rng: &mut Rng) -> Put {
        let pipe = &mut self.pipes[way.from * self.shards + way.to];
        let is_full = pipe.full_until.is_some_and(|until| now < until);
        if !is_full && self.full_one_in > 0 && rng.u32(0..self.full_one_in) == 0 {
            let for_ms = rng.u64(1..=self.full_ms_max);
            pipe.full_until = Some(now + Duration::from_millis(for_ms));
        } else if is_full && matches!(message, Message::Flushed { .. }) {
            return Put::Dropped(message);
        }
        let due = now + Duration::from_micros(rng.u64(0..=self.latency_us_max));
        let due = pipe.last.into_iter().chain(pipe.full_until).fold(due, Instant::max);
        pipe.last = Some(due);
        pipe.queue.push_back(message);
        Put::At(due)
    }

    /// Until when a queue is full, if it is: what is put into it waits.
    pub(crate) fn full_until(&self, now: Instant, way: Way) -> Option<Instant> {
        let until = self.pipes[way.from * self.shards + way.to].full_until;
        until.filter(|&until| now < until)
    }

    pub(crate) fn take(&mut self, way: Way) -> Message {
        let pipe = &mut self.pipes[way.from * self.shards + way.to];
        pipe.queue.pop_front().expect("one event for each message")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pipes.iter().all(|pipe| pipe.queue.is_empty())
    }
}

/// From one shard to another, or to itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) from: usize,
    pub(crate) to: usize,
}
