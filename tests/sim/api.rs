//! What people ask for, and what they must be answered.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rillcast::bus::message::{CloseOutcome, Closed, IdleClose, Message};
use rillcast::bus::{Answer, Ask, PullOptions, Ticket};
use rillcast::limits::KEYFRAME_PATIENCE;
use rillcast::media::state::{Generation, StreamState};
use rillcast::media::{ConnectionId, ShardId, SourceUrl};
use rillcast::proto::rtsp::LowerTransport;

use super::bus::Way;
use super::journal::Name;
use super::plan::{Deed, pick};
use super::updates::Up;
use super::world::{Event, Visit, World};

/// A question on its way, or answered.
pub(crate) struct Asked {
    what: What,
    key: usize,
    answer_by: Instant,
    /// What lived under the key when the owner read the question.
    generation: Option<Generation>,
    /// The only one that was to be closed.
    only: Option<Generation>,
    is_answered: bool,
    /// The sources that a pull is to have.
    urls: Vec<Arc<SourceUrl>>,
    /// The pull that was up when its owner read that it is to have other sources.
    up: Option<Up>,
}

impl Asked {
    /// What its answer is about, as the journal has it.
    pub(crate) fn name(&self) -> Name {
        match self.what {
            What::AddPush { number } => Name::Push(self.key, number),
            _ => Name::Pull(self.key),
        }
    }

    pub(crate) fn generation(&self) -> Option<Generation> {
        self.generation
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Add { no_wait: bool },
    Update,
    Delete,
    AddPush { number: usize },
    DeletePush { number: usize },
    Close,
    Streams,
    Players,
}

/// Who asks, where that is known.
const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const MEDIA_TIMEOUT_MAX: Duration = Duration::from_millis(3000);
pub(crate) const TIMEOUT_MS_MAX: u64 = 6000;

impl World {
    /// Somebody does something.
    pub(crate) fn do_something(&mut self) {
        if self.ending {
            return;
        }
        let pause_ms = self.rng.u64(0..=2 * self.plan.pause_ms);
        self.after_ms(pause_ms, Event::People);
        match self.plan.deed(&mut self.rng) {
            Deed::Play => self.new_player(),
            Deed::Publish => {
                let key = self.rng.usize(0..self.keys.len());
                self.publish(key);
            }
            Deed::Add => self.add(),
            Deed::Delete => {
                let key = self.rng.usize(0..self.keys.len());
                let ask = Ask::DeletePull { key: self.keys[key].clone() };
                self.ask(key, What::Delete, self.plan.policy.close_bound, ask);
            }
            Deed::Close => self.close(),
            Deed::Look => self.look(),
            Deed::Kick => self.kick(),
            Deed::Turn => {
                let origin = self.rng.usize(0..self.origins.len());
                self.origins[origin] = *pick(&mut self.rng, &self.plan.behaviors);
            }
            Deed::ChangePolicy => self.change_policy(),
            Deed::Update => self.update(),
            Deed::Push => self.add_push(),
            Deed::DeletePush => self.delete_push(),
        }
    }

    fn add(&mut self) {
        let key = self.rng.usize(0..self.keys.len());
        let urls = self.some_urls(key);
        let no_wait = self.rng.u32(0..3) == 0;
        let one_in = self.plan.hedge_one_in;
        let rng = &mut self.rng;
        let hedge = match one_in > 0 && rng.u32(0..one_in) == 0 {
            true => Duration::from_millis(rng.u64(1..=1500)),
            false => Duration::ZERO,
        };
        let options = PullOptions {
            retries_max: *pick(rng, &[None, Some(0), Some(1), Some(3)]),
            force: rng.bool(),
            no_wait,
            timeout: Duration::from_millis(rng.u64(300..=TIMEOUT_MS_MAX)),
            media_timeout: MEDIA_TIMEOUT_MAX.mul_f64(rng.f64().max(0.1)),
            hedge,
            rtp_transport: LowerTransport::Tcp,
            idle_close: IdleClose {
                after: *pick(rng, &[None, None, None, Some(Duration::from_secs(4))]),
                always: *pick(rng, &[None, None, Some(true), Some(false)]),
            },
            asked_by: *pick(rng, &[None, Some(CALLER), Some(CALLER)]),
        };
        let bound = if no_wait { Duration::ZERO } else { round_max(urls.len()) };
        let ask = Ask::AddPull { key: self.keys[key].clone(), urls, options };
        self.ask(key, What::Add { no_wait }, bound, ask);
    }

    fn update(&mut self) {
        let key = self.rng.usize(0..self.keys.len());
        let urls = self.some_urls(key);
        let timeout = Duration::from_millis(self.rng.u64(300..=TIMEOUT_MS_MAX));
        // One that has taken over may fail before its first frame is whole, and then the others are
        // tried again.
        let bound = round_max(2 * urls.len()) + KEYFRAME_PATIENCE * 2 * urls.len() as u32;
        let ask = Ask::UpdatePull { key: self.keys[key].clone(), urls, timeout };
        self.ask(key, What::Update, bound, ask);
    }

    /// Some of the sources of a key, in any order.
    fn some_urls(&mut self, key: usize) -> Vec<Arc<SourceUrl>> {
        let mut urls = self.urls[key].clone();
        self.rng.shuffle(&mut urls);
        urls.truncate(self.rng.usize(1..=urls.len()));
        urls
    }

    fn close(&mut self) {
        let key = self.rng.usize(0..self.keys.len());
        let seen = self.peek(key).map(|view| view.generation);
        let ask = Ask::Close {
            key: self.keys[key].clone(),
            generation: seen.filter(|_| self.rng.bool()),
            form: None,
            force: self.rng.bool(),
            pending_too: self.rng.bool(),
        };
        self.ask(key, What::Close, self.plan.policy.close_bound, ask);
    }

    fn look(&mut self) {
        let key = self.rng.usize(0..self.keys.len());
        if self.rng.bool() {
            let ask = Ask::Players { key: self.keys[key].clone() };
            self.ask(key, What::Players, Duration::ZERO, ask);
        } else {
            let ask = if self.rng.bool() {
                Ask::Stream { key: self.keys[key].clone() }
            } else {
                Ask::Streams { from: 0, registered_only: self.rng.bool() }
            };
            self.ask(key, What::Streams, Duration::ZERO, ask);
        }
    }

    /// Puts a question to the owner of a key, from any shard.
    pub(crate) fn ask(&mut self, key: usize, what: What, bound: Duration, ask: Ask) {
        let home = self.rng.usize(0..self.shards.len());
        let owner = self.owner(key);
        let serial = self.next_serial();
        let ticket = Ticket { shard: ShardId(home as u16), serial };
        let way = 2 * self.plan.bus_delay_max() + Duration::from_millis(5);
        let answer_by = self.now + bound + way;
        let only = match &ask {
            Ask::Close { generation, .. } => *generation,
            _ => None,
        };
        let urls = match &ask {
            Ask::AddPull { urls, .. } | Ask::UpdatePull { urls, .. } => urls.clone(),
            _ => Vec::new(),
        };
        let (generation, is_answered, up) = (None, false, None);
        let asked = Asked { what, key, answer_by, generation, only, is_answered, urls, up };
        self.note(|_| format!("  ask {serial} from {home} of {owner}: {what:?} s{key}"));
        self.asked.insert(serial, asked);
        if home == owner {
            self.look_before(ticket, &ask);
            self.on_shard(owner, |shard, now, _| shard.handle_ask(now, ticket, ask));
        } else {
            self.send(Way { from: home, to: owner }, Message::Ask { ticket, ask });
        }
    }

    /// Notes what the owner has just before it reads a question.
    pub(crate) fn look_before(&mut self, ticket: Ticket, ask: &Ask) {
        if matches!(ask, Ask::DeletePull { .. } | Ask::Close { .. }) {
            let key = self.asked[&ticket.serial].key;
            let generation = self.peek(key).map(|view| view.generation);
            self.asked.get_mut(&ticket.serial).expect("it was asked").generation = generation;
        }
        if let What::DeletePush { number } = self.asked[&ticket.serial].what {
            let generation = self.push_generation(self.asked[&ticket.serial].key, number);
            self.asked.get_mut(&ticket.serial).expect("it was asked").generation = generation;
        }
        if matches!(ask, Ask::UpdatePull { .. }) {
            let up = self.up(self.asked[&ticket.serial].key);
            self.asked.get_mut(&ticket.serial).expect("it was asked").up = up;
        }
    }

    /// An answer leaves the owner: what it says must be true now.
    pub(crate) fn check_answer(&mut self, owner: usize, ticket: Ticket, answer: &Answer) {
        let asked = self.asked.get(&ticket.serial).expect("an answer that nobody asked for");
        let (key, generation, only) = (asked.key, asked.generation, asked.only);
        assert_eq!(owner, self.owner(key), "answered by another shard than the owner");
        let closed = match answer {
            Answer::Deleted(Some(closed)) | Answer::Close(CloseOutcome::Closed(closed)) => closed,
            Answer::Streams { page, .. } => {
                for view in page {
                    assert_eq!(view.registered, view.state == StreamState::Registered);
                }
                return;
            }
            Answer::Added { .. } => {
                self.check_kept_urls(ticket);
                return;
            }
            _ => return,
        };
        self.stats.closes += 1;
        let generation = generation.expect("something was closed");
        assert!(only.is_none_or(|only| only == generation), "another one was closed");
        let Closed { complete, .. } = *closed;
        if !complete {
            self.stats.closes_incomplete += 1;
            assert!(!self.plan.prompt, "everybody confirms at once, and a close is not complete");
            return;
        }
        for shard in &self.shards {
            let holds = shard.holds_generation(generation);
            assert!(!holds, "shard {} holds what was closed", shard.id());
        }
        let attempts = self.attempts.values().filter(|a| a.generation() == generation).count();
        assert_eq!(attempts, 0, "an attempt of what was closed is open");
    }

    /// Sources that are acknowledged are those that the journal has.
    fn check_kept_urls(&self, ticket: Ticket) {
        let Asked { what, key, ref urls, .. } = self.asked[&ticket.serial];
        let wanted: Vec<&str> = urls.iter().map(|url| url.as_str()).collect();
        let kept = self.journal.urls(key);
        match what {
            // It may have joined one with the same URLs in another order.
            What::Add { .. } => {
                let set = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect();
                let (wanted, kept): (BTreeSet<String>, BTreeSet<String>) =
                    (set(&wanted), set(&kept));
                assert_eq!(wanted, kept, "s{key}: other URLs are kept than were added");
            }
            _ => assert_eq!(wanted, kept, "s{key}: other URLs are kept than it was given"),
        }
    }

    /// An answer has come to whoever asked.
    pub(crate) fn answered(&mut self, shard: usize, ticket: Ticket, answer: &Answer) {
        if shard == self.owner(self.asked[&ticket.serial].key) {
            self.check_answer(shard, ticket, answer);
        }
        self.note(|_| format!("  ask {} is answered: {}", ticket.serial, describe(answer)));
        let asked = self.asked.get_mut(&ticket.serial).expect("it was asked");
        assert!(!asked.is_answered, "ask {} is answered twice", ticket.serial);
        asked.is_answered = true;
        self.stats.answers += 1;
        if matches!((asked.what, answer), (What::Update, Answer::Added { .. })) {
            let (key, up) = (asked.key, asked.up);
            self.updated.extend(up.map(|up| (key, up)));
        }
        assert!(self.now <= asked.answer_by, "ask {} is answered late", ticket.serial);
        self.acknowledge(ticket, answer);
        let asked = &self.asked[&ticket.serial];
        let fits = match asked.what {
            What::Add { no_wait } => match answer {
                Answer::Added { .. } | Answer::Exists { .. } | Answer::Overloaded(_) => true,
                Answer::AddFailed(_) | Answer::AddCancelled => !no_wait,
                _ => false,
            },
            What::Update => matches!(
                answer,
                Answer::Added { .. }
                    | Answer::AddFailed(_)
                    | Answer::AddCancelled
                    | Answer::NoSuchPull
            ),
            What::Delete | What::DeletePush { .. } => matches!(answer, Answer::Deleted(_)),
            What::AddPush { .. } => matches!(
                answer,
                Answer::PushAdded { .. }
                    | Answer::NoSource
                    | Answer::AddFailed(_)
                    | Answer::AddCancelled
                    | Answer::Overloaded(_)
            ),
            What::Close => matches!(answer, Answer::Close(_)),
            What::Streams => matches!(answer, Answer::Streams { .. } | Answer::Stream(_)),
            What::Players => matches!(answer, Answer::Players(_)),
        };
        assert!(fits, "{:?} is answered with {}", asked.what, describe(answer));
    }

    fn change_policy(&mut self) {
        let policy = &mut self.plan.policy;
        policy.connects_per_origin_max = self.rng.usize(1..4);
        policy.pending_max = self.rng.usize(1..20);
        policy.waiters_per_key_max = self.rng.usize(0..20);
        policy.audio_wait = Duration::from_millis(self.rng.u64(0..=40));
        let policy = self.plan.policy;
        self.policy_changed_at = Some(self.now);
        self.note(|_| format!("  policy {policy:?}"));
        for shard in 0..self.shards.len() {
            self.on_shard(shard, |shard, _, _| shard.set_policy(policy));
        }
    }

    fn kick(&mut self) {
        let players = self.visits().map(|visit| visit.connection);
        let mut all: Vec<(ConnectionId, usize)> =
            players.map(|connection| (connection, connection.shard.index())).collect();
        let publishers = self.publishers.iter().filter(|(_, publisher)| !publisher.is_gone);
        all.extend(publishers.map(|(&connection, of)| (connection, self.owner(of.key))));
        if all.is_empty() {
            return;
        }
        let (connection, shard) = *pick(&mut self.rng, &all);
        self.note(|_| format!("  kick {connection}"));
        self.on_shard(shard, |shard, now, _| shard.kick(now, connection));
    }

    /// Ends everything without a shut-down: sources first, then what people asked for.
    pub(crate) fn drain(&mut self) {
        let publishers: Vec<ConnectionId> = self.publishers.keys().copied().collect();
        for connection in publishers {
            self.unpublish(connection);
        }
        for key in 0..self.keys.len() {
            let ask = Ask::Close {
                key: self.keys[key].clone(),
                generation: None,
                form: None,
                force: true,
                pending_too: true,
            };
            self.ask(key, What::Close, self.plan.policy.close_bound, ask);
        }
        self.delete_all_pushes();
        let visits: Vec<Visit> = self.visits().collect();
        for visit in visits {
            let delay_ms = self.rng.u64(0..3000);
            self.after_ms(delay_ms, Event::Leave(visit));
        }
    }

    pub(crate) fn check_bounds(&self) {
        self.check_waiters();
        self.check_attempts();
        self.check_publishers();
        self.check_memory();
        for (serial, asked) in &self.asked {
            let in_time = asked.is_answered || self.now <= asked.answer_by;
            assert!(in_time, "ask {serial} ({:?}) is not answered", asked.what);
        }
    }

    pub(crate) fn check_asked(&self) {
        for (serial, asked) in &self.asked {
            assert!(asked.is_answered, "ask {serial} ({:?}) was never answered", asked.what);
        }
    }
}

/// Of so many sources, each in the queue of its origin's budget, and at the origin.
fn round_max(sources: usize) -> Duration {
    Duration::from_millis(2 * TIMEOUT_MS_MAX) * sources as u32
}

fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Added { state, generation } => format!("added {state:?} {generation}"),
        Answer::AddFailed(fault) => format!("add failed {:?}", fault.class),
        Answer::Exists { state, generation, .. } => format!("exists {state:?} {generation}"),
        Answer::AddCancelled => "add cancelled".to_owned(),
        Answer::NoSuchPull => "no such pull".to_owned(),
        Answer::PushAdded { state, generation } => format!("push {state:?} {generation}"),
        Answer::NoSource => "no source".to_owned(),
        Answer::Overloaded(what) => format!("overloaded {what}"),
        Answer::Deleted(closed) => format!("deleted {closed:?}"),
        Answer::Close(outcome) => format!("{outcome:?}"),
        Answer::Stream(view) => format!("stream {}", view.is_some()),
        Answer::Streams { page, .. } => format!("{} streams", page.len()),
        Answer::Players(_) => "players".to_owned(),
        _ => "something else".to_owned(),
    }
}
