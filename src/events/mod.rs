//! The keeper of the event log: an ordinary thread, so that no shard ever waits for who reads it.
//!
//! Shards tell what happens (`bus/event.rs`); the keeper numbers it in the order in which it comes,
//! keeps the newest, gives it to who follows (`/events`), and tells hooks of it.

mod follow;
mod hooks;
mod line;
mod log;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bus::KeeperPort;
use crate::bus::event::Event;
use crate::bus::keeper::{FromKeeper, KeeperInbox, ToKeeper, keeper_channel};
use crate::bus::mesh::Wake;
use crate::clock;
use crate::config::Config;
use follow::Followers;
use hooks::{Hooks, Place};
use log::Log;

/// The running keeper.
pub struct Keeper {
    port: KeeperPort,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system has no thread for it.
    pub fn start(config: Arc<Config>) -> io::Result<Self> {
        let (port, inbox) = keeper_channel();
        let thread = std::thread::Builder::new().name("events".to_owned());
        let desk = Desk::new(config, &port);
        let thread = thread.spawn(move || desk.run(&inbox))?;
        Ok(Self { port, thread })
    }

    /// The way to it, for the node.
    pub fn port(&self) -> KeeperPort {
        self.port.clone()
    }

    /// Ends it when everything that was told before is done with.
    pub fn stop(self) {
        self.port.tell(ToKeeper::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the keeper of the event log has panicked");
        }
    }
}

/// What the keeper's thread works with.
struct Desk {
    log: Log,
    followers: Followers,
    shards: Shards,
    hooks: Hooks,
}

/// The ways to the shards, by their number.
#[derive(Default)]
struct Shards(Vec<Option<ShardEnd>>);

struct ShardEnd {
    inbox: Sender<FromKeeper>,
    waker: Arc<dyn Wake>,
    to_wake: bool,
}

impl Desk {
    fn new(config: Arc<Config>, port: &KeeperPort) -> Self {
        let run = clock::realtime_ns() / 1000;
        Self {
            log: Log::new(run),
            followers: Followers::default(),
            shards: Shards::default(),
            hooks: Hooks::new(config, port),
        }
    }

    fn run(mut self, inbox: &KeeperInbox) {
        loop {
            let wait = self.next_deadline().saturating_duration_since(clock::now());
            let first = match inbox.receiver.recv_timeout(wait) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let now = clock::now();
            let more = inbox.receiver.try_iter().take(MESSAGES_PER_TURN_MAX);
            for message in first.into_iter().chain(more) {
                if let ToKeeper::Events { events, .. } = &message {
                    inbox.took(events.len());
                }
                if matches!(message, ToKeeper::Stop) {
                    self.finish(inbox);
                    return;
                }
                self.handle(now, message);
            }
            self.followers.handle_timeout(now, &self.log, &mut self.shards);
            self.hooks.handle_timeout(now, &mut self.shards);
            self.shards.wake();
        }
    }

    /// The node has ended: what hooks are still to be told is told, for a moment.
    fn finish(&mut self, inbox: &KeeperInbox) {
        let until = clock::now() + FINISH_MAX;
        self.hooks.exited();
        loop {
            let now = clock::now();
            self.hooks.handle_timeout(now, &mut self.shards);
            if self.hooks.is_done() || now >= until {
                return;
            }
            let due = self.hooks.poll_timeout().map_or(until, |due| due.min(until));
            let wait = due.saturating_duration_since(now).max(Duration::from_millis(1));
            if let Ok(message) = inbox.receiver.recv_timeout(wait) {
                self.handle(clock::now(), message);
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        let idle = clock::now() + IDLE_MAX;
        let deadlines = [self.followers.poll_timeout(), self.hooks.poll_timeout()];
        deadlines.into_iter().flatten().fold(idle, Instant::min)
    }

    fn handle(&mut self, now: Instant, message: ToKeeper) {
        match message {
            ToKeeper::Shard { shard, inbox, waker } => {
                self.shards.enter(shard.index(), ShardEnd { inbox, waker, to_wake: false });
            }
            ToKeeper::Events { time_ms, events, lost } => {
                if lost > 0 {
                    self.log.add_gap(time_ms, lost);
                    self.hooks.missed(lost);
                    self.followers.feed(&self.log, &mut self.shards);
                }
                for event in events {
                    self.add(now, time_ms, event);
                }
            }
            ToKeeper::Figures { shard, figures } => self.hooks.set_figures(shard, figures),
            ToKeeper::Follow { shard, follower, follow } => {
                self.followers.enter(now, &self.log, (shard, follower, follow), &mut self.shards);
            }
            ToKeeper::Unfollow { follower } => self.followers.leave(&follower),
            ToKeeper::Configure(config) => self.hooks.configure(now, config),
            ToKeeper::Started(config) => self.hooks.started(now, config),
            ToKeeper::Judge { shard, serial, question } => {
                self.hooks.judge(now, (shard, serial), question, &mut self.shards);
            }
            ToKeeper::Withdraw { shard, serial } => self.hooks.withdraw((shard, serial)),
            ToKeeper::Recent { shard, serial, key } => {
                let lines = line::recent(&self.log, &key);
                self.shards.put(shard.index(), FromKeeper::Recent { serial, lines });
            }
            ToKeeper::Posted { pool, id, posted } => {
                self.hooks.posted(now, (pool, id), &posted, &mut self.shards);
            }
            ToKeeper::Stop => {}
        }
    }

    fn add(&mut self, now: Instant, time_ms: u64, event: Event) {
        let place = Place { run: self.log.run, sequence: self.log.newest() + 1, time_ms };
        self.hooks.event(now, place, &event);
        self.log.add(time_ms, &event);
        self.followers.feed(&self.log, &mut self.shards);
    }
}

impl Shards {
    fn enter(&mut self, index: usize, end: ShardEnd) {
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(end);
    }

    /// Puts something into a shard's inbox. A shard that is gone needs nothing any more.
    fn put(&mut self, index: usize, message: FromKeeper) {
        if let Some(end) = self.0.get_mut(index).and_then(Option::as_mut) {
            let _ = end.inbox.send(message);
            end.to_wake = true;
        }
    }

    fn wake(&mut self) {
        for end in self.0.iter_mut().flatten() {
            if std::mem::take(&mut end.to_wake) {
                end.waker.wake();
            }
        }
    }
}

/// Messages that are looked at before what is due and who waits gets its turn.
const MESSAGES_PER_TURN_MAX: usize = 1024;
/// What the end of the process waits for hooks; ZLMediaKit waits as long.
const FINISH_MAX: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::bus::event::What;
    use crate::bus::keeper::{Filter, Follow, Follower};
    use crate::media::{ShardId, StreamKey};

    struct Awake;

    impl Wake for Awake {
        fn wake(&self) {}
    }

    /// Whoever follows one stream alone may have missed something of it.
    #[test]
    fn a_gap_is_told_to_who_follows_between_what_came_before_and_after_it() {
        let (port, _inbox) = keeper_channel();
        let mut desk = Desk::new(Arc::new(Config::default()), &port);
        let (inbox, told) = channel();
        let now = clock::now();
        let shard = ShardId(0);
        let mut handle = |message| desk.handle(now, message);
        handle(ToKeeper::Shard { shard, inbox, waker: Arc::new(Awake) });
        let filter = Filter { stream: Some("a".to_owned()), ..Filter::default() };
        let follow = Follow { filter, after: None };
        handle(ToKeeper::Follow { shard, follower: Arc::new(Follower::new(1)), follow });
        let event = |stream| {
            let key = StreamKey::in_default_vhost("live", stream).unwrap();
            Event { key, generation: None, what: What::Unwatched }
        };
        handle(ToKeeper::Events { time_ms: 1, events: vec![event("a"), event("b")], lost: 0 });
        handle(ToKeeper::Events { time_ms: 2, events: vec![event("a")], lost: 3 });
        handle(ToKeeper::Events { time_ms: 3, events: vec![], lost: 4 });
        let mut text = String::new();
        for message in told.try_iter() {
            let FromKeeper::Feed { bytes, .. } = message else { panic!("it reads all") };
            text += std::str::from_utf8(&bytes).unwrap();
        }
        let of = |field: &str| -> Vec<&str> {
            text.lines().filter_map(|line| line.strip_prefix(field)).collect()
        };
        assert_eq!(of("event: "), ["unwatched", "gap", "unwatched", "gap"]);
        let numbers = of("id: ");
        let numbers = numbers.iter().filter_map(|id| id.split_once('-')).map(|(_, number)| number);
        assert_eq!(numbers.collect::<Vec<_>>(), ["0", "1", "3", "4", "5"]);
        let data = of("data: ");
        for (at, missed) in [(1, 3), (3, 4)] {
            let gap: serde_json::Value = serde_json::from_str(data[at]).unwrap();
            assert_eq!((&gap["event"], &gap["missed"]), (&"gap".into(), &missed.into()), "{gap}");
        }
    }
}
