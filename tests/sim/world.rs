//! The world of one run: real shards on a virtual clock, and everything around them faked. It
//! drives the shards as `net` does, by the contract of [`Action`].

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rillcast::access::PendingPulls;
use rillcast::bus::message::Message;
use rillcast::bus::view::StreamView;
use rillcast::bus::{Answer, Ask, LocalId, Ticket};
use rillcast::media::state::EndReason;
use rillcast::media::{ConnectionId, ShardId, SourceUrl, StreamKey};
use rillcast::shard::{Action, PullNews, Shard};

use super::api::Asked;
use super::bus::{Bus, Put, Way};
use super::journal::Journal;
use super::media::Source;
use super::origins::{Attempt, AttemptName, Behavior, Feed};
use super::plan::{Ending, Plan, pick};
use super::players::Player;
use super::publishers::Publisher;
use super::pushes::PushAttempt;
use super::told::Told;
use super::updates::Up;
use super::wire::FakeWire;

/// Something that happens at its time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    Bus(Way),
    Tick(usize),
    Housekeep,
    /// Somebody does something.
    People,
    Attempt(AttemptName),
    AttemptClosed(AttemptName),
    /// An attempt of a push.
    Push(AttemptName),
    PushClosed(AttemptName),
    /// A source hands on its next parts.
    Media(u32),
    Admitted(Visit),
    Released(Visit),
    Leave(Visit),
    Writable(Visit),
    Reply(Visit),
    Unpublish(ConnectionId),
    PublisherReleased(ConnectionId),
    Publish(usize),
    End,
    ShutDown(usize),
    /// Nobody comes any more.
    Doors,
    Drain,
    /// What was kept is on the disk.
    Sync,
    Crash,
}

/// One stay of a connection with a stream; a connection that was refused may ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Visit {
    pub(crate) connection: ConnectionId,
    pub(crate) number: u32,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) now: Instant,
    epoch: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    serial: u64,
    pub(crate) shards: Vec<Shard>,
    /// Those that the shards count together.
    pending_pulls: PendingPulls,
    tick_is_due: Vec<bool>,
    /// By sending and receiving shard: the sender knows that the queue is full.
    backed_up: Vec<Vec<bool>>,
    /// What the shard that acts knew of its queues before.
    told: Vec<bool>,
    bus: Bus,
    /// Flushes lost, and logs renewed, by receiving shard and key: a player there may lack something.
    pub(crate) lost_flushes: BTreeMap<(usize, usize), u64>,
    /// Presences that were given a log.
    attached: HashSet<LocalId>,
    /// Gaps in what players got, by shard.
    pub(crate) gaps: Vec<u64>,
    pub(crate) wire: FakeWire,
    pub(crate) keys: Vec<StreamKey>,
    pub(crate) urls: Vec<Vec<std::sync::Arc<SourceUrl>>>,
    pub(crate) origins: Vec<Behavior>,
    pub(crate) attempts: BTreeMap<AttemptName, Attempt>,
    pub(crate) push_attempts: BTreeMap<AttemptName, PushAttempt>,
    pub(crate) sources: Vec<Source>,
    /// By the serial of the source.
    pub(crate) feeds: Vec<Feed>,
    pub(crate) players: BTreeMap<ConnectionId, Player>,
    pub(crate) publishers: BTreeMap<ConnectionId, Publisher>,
    pub(crate) asked: BTreeMap<u64, Asked>,
    /// Keys of which an update was just answered, with what they were before.
    pub(crate) updated: Vec<(usize, Up)>,
    /// What hooks know of the streams.
    pub(crate) told_of: Told,
    /// By key: presences and players that were ended as the source was lost.
    pub(crate) ends_of_lost: Vec<u64>,
    pub(crate) ending: bool,
    pub(crate) policy_changed_at: Option<Instant>,
    /// Shards that were told to shut down.
    pub(crate) is_shut: Vec<bool>,
    pub(crate) stats: Stats,
    pub(crate) journal: Journal,
    trace: Option<VecDeque<String>>,
    steps: u64,
}

/// How often what happened, so that a test can tell that it did.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Stats {
    pub(crate) frames: u64,
    /// Those that came as packets, to players over RTSP.
    pub(crate) packet_frames: u64,
    /// How often such a player was told other parameter sets.
    pub(crate) changes_of_sets: u64,
    pub(crate) gaps: u64,
    pub(crate) jumps: u64,
    pub(crate) evictions: u64,
    pub(crate) resyncs: u64,
    pub(crate) losses: u64,
    /// Times that a lost stream was back before anybody was told, and that it was not.
    pub(crate) hidden_losses: u64,
    pub(crate) told_losses: u64,
    pub(crate) registrations: u64,
    pub(crate) attempts: u64,
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    pub(crate) closes: u64,
    pub(crate) closes_incomplete: u64,
    pub(crate) answers: u64,
    pub(crate) late: u64,
    /// Failures of pulls that are told, and that are only counted.
    pub(crate) news: u64,
    pub(crate) no_news: u64,
    pub(crate) update_failures: u64,
    /// Sources that took another one's place while that one brought the stream.
    pub(crate) updates: u64,
    /// Attempts that were begun beside another one.
    pub(crate) rivals: u64,
    pub(crate) recoveries: u64,
    pub(crate) redirects: u64,
    /// Pulls that nobody added.
    pub(crate) demands: u64,
    /// Times that a push was up.
    pub(crate) pushed: u64,
    /// Messages that met a full queue.
    pub(crate) kept: u64,
    /// Times that the node died, and pulls and pushes that it then began with.
    pub(crate) crashes: u64,
    pub(crate) restored: u64,
    pub(crate) restored_pushes: u64,
    /// Journals whose end was damaged.
    pub(crate) torn: u64,
    /// Adds, deletes and closes that survive.
    pub(crate) acknowledged: u64,
}

const TRACE_LEN: usize = 400;
/// Steps after which a run is taken to have no end.
const STEPS_MAX: u64 = 200_000;
/// A ticket of our own, to look at a shard with.
const PEEK: u64 = 0;

impl World {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::new(&mut rng);
        Self::begin(rng, plan, rillcast::clock::now(), traced.then(VecDeque::new))
    }

    /// A node that begins, with nothing in it.
    pub(crate) fn begin(
        mut rng: Rng,
        plan: Plan,
        epoch: Instant,
        trace: Option<VecDeque<String>>,
    ) -> Self {
        let hash_seed = rng.u64(..);
        let config = plan.config(&mut rng);
        let pending_pulls = PendingPulls::default();
        let shards = (0..plan.shards)
            .map(|id| {
                let id = ShardId(id as u16);
                let mut shard = Shard::new(id, plan.shards, hash_seed, plan.policy);
                shard.share_pending(pending_pulls.clone());
                shard.set_origins(&config);
                shard.keep_events();
                shard
            })
            .collect();
        let bus = Bus::new(
            plan.shards,
            plan.bus_latency_us_max,
            plan.bus_full_one_in,
            plan.bus_full_ms_max,
        );
        let keys: Vec<StreamKey> = (0..plan.keys)
            .map(|key| StreamKey::in_default_vhost("live", &format!("s{key}")).expect("a good key"))
            .collect();
        let urls = (0..plan.keys)
            .map(|key| {
                let urls = (0..plan.origins).map(|origin| {
                    let text = plan.url(origin, &format!("s{key}"));
                    SourceUrl::parse(&text, false).expect("a good URL").into()
                });
                urls.collect()
            })
            .collect();
        let behaviors = &plan.behaviors;
        let origins = (0..plan.origins).map(|_| *pick(&mut rng, behaviors)).collect();
        let mut world = Self {
            now: epoch,
            epoch,
            events: BTreeMap::new(),
            serial: 0,
            shards,
            pending_pulls,
            tick_is_due: vec![false; plan.shards],
            backed_up: vec![vec![false; plan.shards]; plan.shards],
            told: vec![false; plan.shards],
            bus,
            lost_flushes: BTreeMap::new(),
            attached: HashSet::new(),
            gaps: vec![0; plan.shards],
            wire: FakeWire::default(),
            keys,
            urls,
            origins,
            attempts: BTreeMap::new(),
            push_attempts: BTreeMap::new(),
            sources: Vec::new(),
            feeds: Vec::new(),
            players: BTreeMap::new(),
            publishers: BTreeMap::new(),
            asked: BTreeMap::new(),
            updated: Vec::new(),
            told_of: Told::default(),
            ends_of_lost: vec![0; plan.keys],
            ending: false,
            policy_changed_at: None,
            is_shut: vec![false; plan.shards],
            stats: Stats::default(),
            journal: Journal::new(),
            trace,
            steps: 0,
            rng,
            plan,
        };
        world.note(|world| format!("{:#?}", world.plan));
        let run = world.plan.run;
        world.after(run, Event::End);
        if world.plan.crashes > 0 {
            let at = run.mul_f64(world.rng.f64());
            world.after(at, Event::Crash);
        }
        world.after(Duration::ZERO, Event::People);
        world.after(Duration::from_secs(1), Event::Housekeep);
        world
    }

    /// Lets everything happen that does, up to the end of it all.
    pub(crate) fn run(&mut self) {
        loop {
            let event_at = self.events.first_key_value().map(|(&(at, _), _)| at);
            let timers = self.shards.iter().enumerate();
            let timer = timers.filter_map(|(id, shard)| Some((shard.poll_timeout()?, id))).min();
            match (event_at, timer) {
                (None, None) => break,
                (Some(at), Some((due, shard))) if due <= at => self.handle_timeout(due, shard),
                (None, Some((due, shard))) => self.handle_timeout(due, shard),
                (Some(_), _) => {
                    let ((at, _), event) = self.events.pop_first().expect("just seen");
                    self.now = self.now.max(at);
                    self.note(|_| format!("{event:?}"));
                    self.handle_event(event);
                }
            }
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "it does not end");
            for shard in &self.shards {
                shard.check_invariants();
            }
            self.check_updates();
            self.check_told();
            if self.steps.is_multiple_of(32) {
                self.check_bounds();
            }
        }
        self.check_end();
    }

    pub(crate) fn trace(&self) -> String {
        let lines = self.trace.iter().flatten();
        lines.fold(String::new(), |text, line| text + line + "\n")
    }

    pub(crate) fn take_trace(&mut self) -> Option<VecDeque<String>> {
        self.trace.take()
    }

    /// Writes a line for whoever looks for a fault.
    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_none() {
            return;
        }
        let ms = self.now.duration_since(self.epoch).as_secs_f64() * 1000.0;
        let line = format!("{ms:10.3} {}", line(self));
        let trace = self.trace.as_mut().expect("just seen");
        if trace.len() == TRACE_LEN {
            trace.pop_front();
        }
        trace.push_back(line);
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(crate) fn after_ms(&mut self, delay_ms: u64, event: Event) {
        self.after(Duration::from_millis(delay_ms), event);
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.serial += 1;
        self.events.insert((at, self.serial), event);
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn owner(&self, key: usize) -> usize {
        self.shards[0].owner_of(&self.keys[key]).index()
    }

    pub(crate) fn key_index(&self, key: &StreamKey) -> usize {
        self.keys.iter().position(|of| of == key).expect("only our keys")
    }

    /// Calls a shard and does what it wants done.
    pub(crate) fn on_shard<R>(
        &mut self,
        shard: usize,
        call: impl FnOnce(&mut Shard, Instant, &mut FakeWire) -> R,
    ) -> R {
        self.told.clone_from(&self.backed_up[shard]);
        let result = call(&mut self.shards[shard], self.now, &mut self.wire);
        self.read_players();
        self.do_actions(shard);
        if !std::mem::replace(&mut self.tick_is_due[shard], true) {
            let delay = Duration::from_micros(self.rng.u64(0..2000));
            self.after(delay, Event::Tick(shard));
        }
        result
    }

    /// As [`Self::on_shard`], while an action of that shard is done.
    pub(crate) fn within_action<R>(
        &mut self,
        shard: usize,
        call: impl FnOnce(&mut Shard, Instant, &mut FakeWire) -> R,
    ) -> R {
        let told = self.told.clone();
        let result = self.on_shard(shard, call);
        self.told = told;
        result
    }

    /// What the owner of a key has under it.
    pub(crate) fn peek(&mut self, key: usize) -> Option<StreamView> {
        let owner = self.owner(key);
        let ticket = Ticket { shard: ShardId(owner as u16), serial: PEEK };
        let shard = &mut self.shards[owner];
        shard.handle_ask(self.now, ticket, Ask::Stream { key: self.keys[key].clone() });
        match shard.poll_action() {
            Some(Action::Answer { answer: Answer::Stream(view), .. }) => view.map(|view| *view),
            _ => panic!("streams are answered at once"),
        }
    }

    fn handle_timeout(&mut self, due: Instant, shard: usize) {
        self.now = self.now.max(due);
        self.note(|_| format!("timeout of shard {shard}"));
        self.on_shard(shard, |shard, now, _| shard.handle_timeout(now));
        // What is due at once is due in the next turn, and each turn ends with a tick.
        if self.shards[shard].poll_timeout().is_some_and(|due| due <= self.now) {
            self.tick(shard);
        }
    }

    fn tick(&mut self, shard: usize) {
        self.tell_room(shard);
        self.tick_is_due[shard] = true;
        self.on_shard(shard, |shard, now, wire| shard.tick(now, wire));
        self.tick_is_due[shard] = false;
        self.check_tick(shard);
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Bus(way) => self.deliver(way),
            Event::Tick(shard) => self.tick(shard),
            Event::Housekeep => {
                for shard in 0..self.shards.len() {
                    self.on_shard(shard, |shard, now, wire| shard.housekeep(now, wire));
                }
                if !self.ending {
                    self.check_progress();
                    self.after(Duration::from_secs(1), Event::Housekeep);
                }
            }
            Event::People => self.do_something(),
            Event::Attempt(name) => self.attempt_step(name),
            Event::AttemptClosed(name) => self.attempt_closed(name),
            Event::Push(name) => self.push_step(name),
            Event::PushClosed(name) => self.push_closed(name),
            Event::Media(source) => self.media(source),
            Event::Admitted(visit) => self.admitted(visit),
            Event::Released(visit) => self.released(visit),
            Event::Leave(visit) => self.leave(visit),
            Event::Writable(visit) => self.writable(visit),
            Event::Reply(visit) => self.reply(visit),
            Event::Unpublish(connection) => self.unpublish(connection),
            Event::PublisherReleased(connection) => self.publisher_released(connection),
            Event::Publish(key) => self.publish(key),
            Event::End => self.end(),
            Event::ShutDown(shard) => self.shut_down(shard),
            Event::Doors => self.ending = true,
            Event::Drain => self.drain(),
            Event::Sync => self.sync(),
            Event::Crash => self.crash(),
        }
    }

    fn do_actions(&mut self, shard: usize) {
        while let Some(action) = self.shards[shard].poll_action() {
            match action {
                Action::Send { to, message } => {
                    if let Message::Answer { ticket, answer } = &message {
                        self.check_answer(shard, *ticket, answer);
                    }
                    if let Message::End { key, reason: EndReason::SourceLost, .. } = &message {
                        let key = self.key_index(key);
                        self.ends_of_lost[key] += 1;
                    }
                    self.send(Way { from: shard, to: to.index() }, message);
                }
                Action::Answer { ticket, answer } => {
                    assert_eq!(ticket.shard.index(), shard, "an answer on the wrong shard");
                    self.answered(shard, ticket, &answer);
                }
                Action::Admit { connection }
                | Action::Refuse { connection, .. }
                | Action::End { connection, .. }
                    if self.is_late_for_push(connection) => {}
                Action::Admit { connection } => self.admit(connection),
                Action::Refuse { connection, reason } => self.refuse(connection, reason),
                Action::End { connection, reason, player } => {
                    let between_tags = player.is_none_or(|player| player.between_tags);
                    self.end_connection(connection, reason, between_tags);
                }
                Action::Dial { attempt, stream, url, timeout, .. } => {
                    self.dial(AttemptName { shard, attempt }, stream, (&url, timeout));
                }
                Action::DialPush(dial) => self.dial_push(shard, dial),
                Action::HangUp { attempt } => {
                    let name = AttemptName { shard, attempt };
                    match self.push_attempts.contains_key(&name) {
                        true => self.hang_up_push(name),
                        false => self.hang_up(name),
                    }
                }
                Action::PollWritable { connection } => self.poll_writable(connection),
                Action::Keep(record) => self.keep(record),
                Action::Tell(news) => {
                    self.note(|_| format!("  {news:?}"));
                    match news {
                        PullNews::Failed { .. } | PullNews::GaveUp { .. } => self.stats.news += 1,
                        PullNews::UpdateFailed { .. } => self.stats.update_failures += 1,
                        PullNews::FailedAgain => self.stats.no_news += 1,
                        PullNews::Recovered { .. } => self.stats.recoveries += 1,
                    }
                }
            }
        }
    }

    /// Tells a shard which queues have room again.
    fn tell_room(&mut self, shard: usize) {
        for to in 0..self.shards.len() {
            if self.bus.full_until(self.now, Way { from: shard, to }).is_none() {
                self.shards[shard].set_backed_up(ShardId(to as u16), false);
                self.backed_up[shard][to] = false;
            }
        }
    }

    /// Something waits for room in a queue. Net comes back when there is.
    fn tell_backed_up(&mut self, way: Way) {
        let Some(until) = self.bus.full_until(self.now, way) else { return };
        self.stats.kept += 1;
        self.shards[way.from].set_backed_up(ShardId(way.to as u16), true);
        if !std::mem::replace(&mut self.backed_up[way.from][way.to], true) {
            self.at(until, Event::Tick(way.from));
        }
    }

    pub(crate) fn send(&mut self, way: Way, message: Message) {
        self.note(|_| format!("  {} -> {}: {}", way.from, way.to, describe(&message)));
        if let Message::Attached { key, local, snapshot: Some(_), .. } = &message
            && !self.attached.insert(*local)
        {
            // What it had and not sent yet is in the new log only as far as who joins needs it.
            *self.lost_flushes.entry((way.to, self.key_index(key))).or_default() += 1;
        }
        let is_told = self.told[way.to];
        let is_latest = matches!(
            message,
            Message::Interest { .. } | Message::Attached { snapshot: Some(_), .. }
        );
        assert!(!is_told || !is_latest, "{} is put down for a full queue", describe(&message));
        match self.bus.put(self.now, way, message, &mut self.rng) {
            Put::At(due) => {
                self.at(due, Event::Bus(way));
                self.tell_backed_up(way);
            }
            Put::Dropped(Message::Flushed { key, local, .. }) => {
                self.note(|_| "  it is lost".to_owned());
                *self.lost_flushes.entry((way.to, self.key_index(&key))).or_default() += 1;
                self.shards[way.from].flush_was_dropped(ShardId(way.to as u16), &key, local.form);
            }
            Put::Dropped(_) => unreachable!("only flushes are"),
        }
    }

    fn deliver(&mut self, way: Way) {
        let message = self.bus.take(way);
        self.note(|_| format!("  {} got {}", way.to, describe(&message)));
        if let Message::Ask { ticket, ask } = &message {
            self.look_before(*ticket, ask);
        }
        self.on_shard(way.to, |shard, now, _| {
            shard.handle_message(now, ShardId(way.from as u16), message);
        });
    }

    /// Ends everything in the way of the plan.
    fn end(&mut self) {
        match self.plan.ending {
            Ending::ShutDown => {
                for shard in 0..self.shards.len() {
                    let delay_ms = self.rng.u64(0..300);
                    self.after_ms(delay_ms, Event::ShutDown(shard));
                }
                // People go on asking for a while.
                self.after_ms(1000, Event::Doors);
            }
            Ending::Drain => {
                self.ending = true;
                // What was asked before has reached its owner by then.
                self.after(self.plan.bus_delay_max(), Event::Drain);
            }
        }
    }

    fn shut_down(&mut self, shard: usize) {
        self.is_shut[shard] = true;
        self.on_shard(shard, |shard, now, _| shard.shut_down(now));
    }

    fn check_end(&mut self) {
        assert!(self.bus.is_empty(), "the bus holds something");
        assert_eq!(self.pending_pulls.count(), 0, "a pull is still counted as pending");
        self.check_asked();
        self.check_journal(self.plan.ending == Ending::Drain);
        self.check_connections();
        self.check_told_end();
        let open: Vec<_> = self.attempts.keys().collect();
        assert!(open.is_empty(), "attempts were never closed: {open:?}");
        let open: Vec<_> = self.push_attempts.keys().collect();
        assert!(open.is_empty(), "attempts of pushes were never closed: {open:?}");
        let mut failed = 0;
        for shard in &self.shards {
            let ledger = shard.ledger();
            assert!(ledger.is_zero(), "shard {} holds {ledger}", shard.id());
            assert_eq!(shard.origins_dialed(), 0, "places in connect budgets are taken");
            let totals = shard.totals();
            self.stats.jumps += totals.player_jumps;
            self.stats.evictions += totals.player_evictions;
            self.stats.resyncs += totals.resyncs;
            self.stats.losses += totals.losses;
            self.stats.registrations += totals.registrations;
            self.stats.attempts += totals.attempts;
            self.stats.demands += shard.demand_totals().pulls;
            self.stats.late += totals.late_messages;
            failed += totals.attempts_failed.iter().sum::<u64>();
        }
        // And those whose turn did not come, which are no attempts.
        let told = self.stats.news + self.stats.no_news + self.stats.update_failures;
        assert!(told >= failed, "a failure is not accounted for");
        self.stats.gaps = self.gaps.iter().sum();
    }

    pub(crate) fn origin_of(&self, url: &SourceUrl) -> usize {
        let number = url.host.strip_prefix("origin").expect("our origins");
        number.parse().expect("numbered")
    }
}

fn describe(message: &Message) -> String {
    match message {
        Message::Interest { key, local, players, waiters, .. } => {
            format!(
                "interest {} local {} players {players} waiters {waiters}",
                key.stream(),
                local.serial
            )
        }
        Message::Released { key, local, .. } => {
            format!("released {} local {}", key.stream(), local.serial)
        }
        Message::Attached { key, local, generation, .. } => {
            format!("attached {} local {} generation {generation}", key.stream(), local.serial)
        }
        Message::Flushed { key, delta, .. } => {
            let to = delta.first_seq + delta.entries.len() as u64;
            format!("flushed {} {}..{to}", key.stream(), delta.first_seq)
        }
        Message::Suspended { key, .. } => format!("suspended {}", key.stream()),
        Message::Resumed { key, .. } => format!("resumed {}", key.stream()),
        Message::End { key, local, generation, reason } => {
            format!(
                "end {} local {} generation {generation} {reason:?}",
                key.stream(),
                local.serial
            )
        }
        Message::Ask { ticket, .. } => format!("ask {}", ticket.serial),
        Message::Answer { ticket, .. } => format!("answer {}", ticket.serial),
        Message::Adopt(_) => "what is net's".to_owned(),
    }
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.packet_frames += other.packet_frames;
        self.changes_of_sets += other.changes_of_sets;
        self.gaps += other.gaps;
        self.jumps += other.jumps;
        self.evictions += other.evictions;
        self.resyncs += other.resyncs;
        self.losses += other.losses;
        self.hidden_losses += other.hidden_losses;
        self.told_losses += other.told_losses;
        self.registrations += other.registrations;
        self.attempts += other.attempts;
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.closes += other.closes;
        self.closes_incomplete += other.closes_incomplete;
        self.answers += other.answers;
        self.late += other.late;
        self.news += other.news;
        self.no_news += other.no_news;
        self.update_failures += other.update_failures;
        self.updates += other.updates;
        self.rivals += other.rivals;
        self.recoveries += other.recoveries;
        self.redirects += other.redirects;
        self.demands += other.demands;
        self.pushed += other.pushed;
        self.kept += other.kept;
        self.crashes += other.crashes;
        self.restored += other.restored;
        self.restored_pushes += other.restored_pushes;
        self.torn += other.torn;
        self.acknowledged += other.acknowledged;
    }
}
