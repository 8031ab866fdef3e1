//! Web hooks: what happens is told, and players and publishers are asked about, over HTTP.
//!
//! - `queue.rs`: what is to be told, in order, until it is taken.
//! - `absent.rs`: which streams players wait for in vain.
//! - `verdicts.rs`: who waits for an answer.
//! - `memory.rs`: what was answered.
//! - `body.rs`, `reply.rs`: what is sent and what comes back, in ZLMediaKit's terms.
//! - `signature.rs`: the proof that a call is ours.
//! - `names.rs`: where servers are.
//! - `pool.rs`: the threads that wait for servers, so that the keeper does not.

mod absent;
mod body;
mod memory;
mod names;
mod pool;
mod queue;
mod reply;
mod signature;
mod verdicts;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use url::{Position, Url};

use self::absent::{Absents, Missing};
use self::pool::{Order, Pool};
use self::queue::{Item, Outcome, Queue};
use self::reply::Said;
use self::signature::signature;
use self::verdicts::{Asked, Asker, Judgment, Verdicts};
use super::Shards;
use crate::bus::KeeperPort;
use crate::bus::event::Event;
use crate::bus::keeper::{Figures, FromKeeper, HookCounts, HookPool, Posted, Question, Verdict};
use crate::bus::message::Ask;
use crate::clock;
use crate::config::{Config, Hook};
use crate::limits::{HOOK_POSTS_ALL_MAX, HOOK_QUESTIONS_MAX, HOOK_SERVERS_MAX};
use crate::media::state::Generation;
use crate::media::{ShardId, StreamKey};

/// Everything about hooks that the keeper has.
pub(super) struct Hooks {
    config: Arc<Config>,
    queue: Queue,
    verdicts: Verdicts,
    tellers: Pool,
    askers: Pool,
    tells_under_way: usize,
    asks_under_way: usize,
    /// ZLMediaKit's: counts each call, repeated ones too.
    hook_index: u64,
    /// Events and calls that were lost since the start, and that a server may have missed.
    lost: u64,
    next_keepalive: Option<Instant>,
    figures: HashMap<ShardId, Figures>,
    absents: Absents,
    /// What of them nobody waits for the hook's word on: it fails, or is not told.
    unheard: Vec<Ask>,
    /// The last call about an absent stream was not taken.
    not_found_fails: bool,
    counts: Arc<HookCounts>,
}

/// Where an event stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) run: u64,
    pub(super) sequence: u64,
    pub(super) time_ms: u64,
}

impl Hooks {
    pub(super) fn new(config: Arc<Config>, keeper: &KeeperPort) -> Self {
        Self {
            config,
            queue: Queue::default(),
            verdicts: Verdicts::default(),
            tellers: Pool::new(HookPool::Tell, TELLERS_MAX, keeper.clone()),
            askers: Pool::new(HookPool::Ask, ASKERS_MAX, keeper.clone()),
            tells_under_way: 0,
            asks_under_way: 0,
            hook_index: 0,
            lost: 0,
            next_keepalive: None,
            figures: HashMap::new(),
            absents: Absents::default(),
            unheard: Vec::new(),
            not_found_fails: false,
            counts: keeper.hooks.clone(),
        }
    }

    /// Goes by another configuration from now on.
    pub(super) fn configure(&mut self, now: Instant, config: Arc<Config>) {
        let before = std::mem::replace(&mut self.config, config);
        if before.hook != self.config.hook {
            let hook = &self.config.hook;
            let gone = self.queue.retarget(|of| hook.url(of).map(|url| server_of(&url)));
            gone.iter().for_each(|item| self.drop_item(item));
            self.verdicts.forget_servers(now);
            self.not_found_fails = false;
        }
        let hook = &self.config.hook;
        self.next_keepalive = match hook.wants(Hook::ServerKeepalive) {
            true => {
                Some(self.next_keepalive.map_or(now, |next| next.min(now + self.alive_interval())))
            }
            false => None,
        };
        if !before.hook.wants(Hook::StreamNotFound) && hook.wants(Hook::StreamNotFound) {
            for missing in self.absents.tell_all(now) {
                self.push_missing(missing);
            }
        }
    }

    /// The node serves.
    pub(super) fn started(&mut self, now: Instant, config: Arc<Config>) {
        self.configure(now, config);
        let body = body::server_started(&self.config);
        self.push_of_node(Hook::ServerStarted, body, false);
    }

    /// The node has ended. What is told now is told within a moment or not at all.
    pub(super) fn exited(&mut self) {
        self.next_keepalive = None;
        self.push_of_node(Hook::ServerExited, Map::new(), true);
    }

    pub(super) fn set_figures(&mut self, shard: ShardId, figures: Figures) {
        self.figures.insert(shard, figures);
    }

    /// Something has happened.
    pub(super) fn event(&mut self, now: Instant, place: Place, event: &Event) {
        let is_wanted = self.config.hook.wants(Hook::StreamNotFound);
        if let Some(missing) = self.absents.learn(now, place, event, is_wanted) {
            self.push_missing(missing);
        }
        if !self.config.hook.enable {
            return;
        }
        for (hook, body) in body::of_event(event, &self.config) {
            self.push(hook, place, (&event.key, event.generation), body);
        }
    }

    /// So many events were lost on their way here.
    pub(super) fn missed(&mut self, count: u64) {
        self.lost += count;
    }

    /// Somebody may not go on before it is judged.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        (shard, serial): (ShardId, u64),
        question: Box<Question>,
        shards: &mut Shards,
    ) {
        let asker = Asker { shard, serial };
        let asked = match self.config.hook.wants(question.hook) {
            true => self.verdicts.ask(now, &self.config.hook, asker, question),
            // It was switched off in this moment.
            false => Asked::Known(Verdict::Allow),
        };
        match asked {
            Asked::Waits => {}
            Asked::Known(verdict) => self.answer(asker, &verdict, shards),
            Asked::Overflow(verdict) => {
                count(&self.counts.unanswered);
                count(&self.counts.overflowed);
                self.answer(asker, &verdict, shards);
            }
        }
    }

    /// Who was to be judged has gone.
    pub(super) fn withdraw(&mut self, (shard, serial): (ShardId, u64)) {
        if self.verdicts.withdraw(Asker { shard, serial }) {
            count(&self.counts.withdrawn);
        }
    }

    /// What came of a call.
    pub(super) fn posted(
        &mut self,
        now: Instant,
        (pool, id): (HookPool, u64),
        posted: &Posted,
        shards: &mut Shards,
    ) {
        match pool {
            HookPool::Ask => {
                self.asks_under_way -= 1;
                let said = Said::of(posted);
                if matches!(said, Said::Nothing(_)) {
                    count(&self.counts.failed);
                }
                if let Some(judgment) = self.verdicts.said(now, &self.config.hook, id, said) {
                    self.give(&judgment, shards);
                }
            }
            HookPool::Tell => {
                self.tells_under_way -= 1;
                let outcome = reply::outcome(posted);
                count(match outcome {
                    Outcome::Taken => &self.counts.taken,
                    _ => &self.counts.failed,
                });
                if let Err(error) = posted {
                    tracing::debug!(%error, "a hook was not reached");
                }
                self.note_not_found(id, outcome);
                if let Some(item) = self.queue.done(now, id, outcome) {
                    match outcome {
                        Outcome::Taken => follow(&item, &Said::of(posted), shards),
                        _ if item.once => {}
                        _ => self.drop_item(&item),
                    }
                }
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let verdicts = self.verdicts.poll_timeout();
        [self.next_keepalive, verdicts, self.queue.poll_timeout()].into_iter().flatten().min()
    }

    /// Does what is due, and has everything called that may be.
    pub(super) fn handle_timeout(&mut self, now: Instant, shards: &mut Shards) {
        if self.next_keepalive.is_some_and(|due| due <= now) {
            self.next_keepalive = Some(now + self.alive_interval());
            let mut body = Map::new();
            let figures = self.figures.values().copied();
            body.insert("data".to_owned(), crate::api::statistic_object(figures));
            self.push_of_node(Hook::ServerKeepalive, body, true);
        }
        for judgment in self.verdicts.handle_timeout(now, &self.config.hook) {
            self.give(&judgment, shards);
        }
        self.call(now, shards);
        self.tell_unheard(shards);
        let waiting = self.queue.waiting_count() + self.verdicts.waiting_count();
        self.counts.waiting.store(waiting as u64, Ordering::Relaxed);
    }

    /// Whether nothing is left to tell.
    pub(super) fn is_done(&self) -> bool {
        self.queue.waiting_count() == 0
    }

    fn call(&mut self, now: Instant, shards: &mut Shards) {
        let timeout = Duration::from_millis(self.config.hook.timeout_ms);
        while let Some((id, item)) = self.queue.take(now, self.config.hook.questions_max()) {
            let (hook, body) = (item.hook, item.body.clone());
            self.tells_under_way += 1;
            match self.order(id, hook, body, timeout) {
                Some(order) => self.tellers.give(order, self.tells_under_way),
                None => {
                    self.tells_under_way -= 1;
                    if let Some(item) = self.queue.done(now, id, Outcome::Taken) {
                        self.drop_item(&item);
                    }
                }
            }
        }
        while let Some((id, question, until)) = self.verdicts.take(now, &self.config.hook) {
            let (hook, body) = (question.hook, body::of_peer(&question.key, &question.peer));
            let timeout = until.saturating_duration_since(now).max(Duration::from_millis(1));
            self.asks_under_way += 1;
            match self.order(id, hook, body, timeout) {
                Some(order) => self.askers.give(order, self.asks_under_way),
                None => {
                    // Switched off meanwhile.
                    self.asks_under_way -= 1;
                    let said = Said::Yes { close: false };
                    if let Some(judgment) = self.verdicts.said(now, &self.config.hook, id, said) {
                        self.give(&judgment, shards);
                    }
                }
            }
        }
    }

    /// A call of a hook as it goes out; `None` where it has no URL any more.
    fn order(
        &mut self,
        id: u64,
        hook: Hook,
        mut body: Map<String, Value>,
        timeout: Duration,
    ) -> Option<Order> {
        let url = self.config.hook.url(hook)?;
        let mut fields = Vec::new();
        if let Some(vhost) = body.get("vhost").and_then(Value::as_str) {
            fields.push(("X-VHOST", vhost.to_owned()));
        }
        self.hook_index += 1;
        body.insert("hook_index".to_owned(), self.hook_index.into());
        if !matches!(hook, Hook::Play | Hook::Publish) {
            body.insert("lost".to_owned(), self.lost.into());
        }
        body.insert("mediaServerId".to_owned(), self.config.server.id.as_str().into());
        let body = serde_json::to_vec(&body).expect("bodies are plain data with text keys");
        let secret = &self.config.hook.hmac_secret;
        if !secret.is_empty() {
            let time = clock::unix_seconds().to_string();
            fields.push(("X-Rillcast-Signature", signature(secret, &time, &body)));
            fields.push(("X-Rillcast-Timestamp", time));
        }
        Some(Order { id, url, fields, body, timeout })
    }

    fn push(
        &mut self,
        hook: Hook,
        place: Place,
        (key, generation): (&StreamKey, Option<Generation>),
        mut body: Map<String, Value>,
    ) {
        let Some(url) = self.config.hook.url(hook) else { return };
        let Place { run, sequence, time_ms } = place;
        body::stamp(&mut body, (run, sequence), time_ms, generation);
        let (server, key) = (server_of(&url), Some(key.clone()));
        self.enter(Item {
            hook,
            server,
            key,
            generation,
            body,
            once: false,
            refusals: 0,
            failures: 0,
        });
    }

    fn push_of_node(&mut self, hook: Hook, body: Map<String, Value>, once: bool) {
        let Some(url) = self.config.hook.url(hook) else { return };
        let server = server_of(&url);
        let (key, generation, refusals, failures) = (None, None, 0, 0);
        self.enter(Item { hook, server, key, generation, body, once, refusals, failures });
    }

    fn enter(&mut self, item: Item) {
        let max = usize::try_from(self.config.hook.queue_max).unwrap_or(usize::MAX);
        let Some(gone) = self.queue.push(item, max) else { return };
        match (gone.hook, &gone.key) {
            (Hook::StreamNotFound, Some(key)) => {
                count(&self.counts.dropped);
                let (key, generation) = (key.clone(), gone.generation);
                self.unheard.push(Ask::TurnAway { key, generation });
            }
            _ => self.drop_item(&gone),
        }
    }

    /// Counts what is not told.
    fn drop_item(&mut self, item: &Item) {
        count(&self.counts.dropped);
        match item.hook {
            // It says nothing of what streams do.
            Hook::StreamNotFound => self.leave_to_origins(item.key.as_ref(), item.generation),
            _ => self.lost += 1,
        }
    }

    /// Nobody waits for a hook that fails to tell of an absent stream; it is told later all the same.
    fn note_not_found(&mut self, id: u64, outcome: Outcome) {
        let item = self.queue.under_way(id).filter(|item| item.hook == Hook::StreamNotFound);
        let Some(Item { key, generation, .. }) = item else { return };
        let (key, generation) = (key.clone(), *generation);
        self.not_found_fails = outcome != Outcome::Taken;
        if self.not_found_fails {
            self.leave_to_origins(key.as_ref(), generation);
        }
    }

    fn tell_unheard(&mut self, shards: &mut Shards) {
        for ask in self.unheard.drain(..) {
            let (Ask::Demand { key, .. } | Ask::TurnAway { key, .. }) = &ask else { continue };
            shards.put(0, FromKeeper::Ask { key: key.clone(), ask });
        }
    }

    fn leave_to_origins(&mut self, key: Option<&StreamKey>, generation: Option<Generation>) {
        self.unheard.extend(key.map(|key| Ask::Demand { key: key.clone(), generation }));
    }

    fn give(&self, judgment: &Judgment, shards: &mut Shards) {
        for &asker in &judgment.askers {
            if judgment.is_unanswered {
                count(&self.counts.unanswered);
            }
            self.answer(asker, &judgment.verdict, shards);
        }
    }

    fn answer(&self, asker: Asker, verdict: &Verdict, shards: &mut Shards) {
        count(match verdict {
            Verdict::Allow => &self.counts.allowed,
            Verdict::Deny(_) => &self.counts.denied,
        });
        let (Asker { shard, serial }, verdict) = (asker, verdict.clone());
        shards.put(shard.index(), FromKeeper::Judged { serial, verdict });
    }

    fn push_missing(&mut self, missing: Missing) {
        let Missing { key, place, peer, generation } = missing;
        let body = peer.map_or_else(|| body::stream(&key), |peer| body::of_peer(&key, &peer));
        let url = self.config.hook.url(Hook::StreamNotFound);
        if self.not_found_fails || url.is_some_and(|url| self.queue.is_gone(&server_of(&url))) {
            self.leave_to_origins(Some(&key), Some(generation));
        }
        self.push(Hook::StreamNotFound, place, (&key, Some(generation)), body);
    }

    fn alive_interval(&self) -> Duration {
        Duration::from_millis(self.config.hook.alive_interval_ms)
    }
}

/// Does what a hook wants that was told something.
fn follow(item: &Item, said: &Said, shards: &mut Shards) {
    let Some(to) = item.key.clone() else { return };
    let (key, generation) = (to.clone(), item.generation);
    let closes = matches!(said, Said::Yes { close: true });
    let ask = match item.hook {
        // A player that came meanwhile saves it.
        Hook::StreamNoneReader if closes => Ask::CloseIdle { key, generation },
        Hook::StreamNoneReader => Ask::KeepIdle { key, generation },
        Hook::StreamNotFound if closes => Ask::SendAway { key, generation },
        // It may have added a pull, or have nothing to do with it: then origins are asked.
        Hook::StreamNotFound => Ask::Demand { key, generation },
        _ => return,
    };
    shards.put(0, FromKeeper::Ask { key: to, ask });
}

fn server_of(url: &Url) -> Arc<str> {
    url[Position::BeforeHost..Position::AfterPort].into()
}

/// A thread for each call that may be under way: for what is told, and absent streams beside that; for two
/// hooks that are asked.
const TELLERS_MAX: usize = HOOK_POSTS_ALL_MAX + HOOK_SERVERS_MAX * HOOK_QUESTIONS_MAX;
const ASKERS_MAX: usize = 2 * HOOK_SERVERS_MAX * HOOK_QUESTIONS_MAX;

fn count(counter: &std::sync::atomic::AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::bus::event::{Asker as Wanted, What};
    use crate::bus::keeper::{KeeperInbox, NoReply, keeper_channel};
    use crate::bus::mesh::Wake;
    use crate::events::ShardEnd;
    use crate::limits::HOOK_REFUSALS_MAX;

    struct Awake;

    impl Wake for Awake {
        fn wake(&self) {}
    }

    struct Scene {
        hooks: Hooks,
        shards: Shards,
        told: Receiver<FromKeeper>,
        _keeper: KeeperInbox,
    }

    impl Scene {
        /// Hooks whose server listens nowhere.
        fn new() -> Self {
            let (port, keeper) = keeper_channel();
            let (inbox, told) = channel();
            let mut shards = Shards::default();
            shards.enter(0, ShardEnd { inbox, waker: Arc::new(Awake), to_wake: false });
            let hooks = Hooks::new(Arc::new(Config::default()), &port);
            Self { hooks, shards, told, _keeper: keeper }
        }

        fn set(&mut self, hooks: &[Hook], max: u64) {
            let mut config = Config::default();
            (config.hook.enable, config.hook.queue_max) = (true, max);
            for hook in hooks {
                config.set_zlm(hook.key(), "http://127.0.0.1:1/x");
            }
            self.hooks.configure(clock::now(), Arc::new(config));
        }

        fn happen(&mut self, what: What) {
            self.happen_to("a", what);
        }

        /// Players wait for what nobody brings.
        fn ask_for(&mut self, stream: &str) {
            self.happen_to(stream, What::Pending { by: Wanted::Players, url: None });
        }

        fn happen_to(&mut self, stream: &str, what: What) {
            let key = StreamKey::in_default_vhost("live", stream).unwrap();
            let place = Place { run: 7, sequence: 1, time_ms: 0 };
            let event = Event { key, generation: Some(Generation(3)), what };
            self.hooks.event(clock::now(), place, &event);
        }

        /// What a call to this hook has in its body now.
        fn body(&mut self, hook: Hook) -> Value {
            let order = self.hooks.order(1, hook, Map::new(), Duration::ZERO).unwrap();
            serde_json::from_slice(&order.body).unwrap()
        }
    }

    #[test]
    fn who_is_sent_away_waits_in_the_life_that_was_told() {
        let mut scene = Scene::new();
        scene.happen(What::Pending { by: Wanted::Players, url: None });
        scene.set(&[Hook::StreamNotFound], 10);
        let (id, _) = scene.hooks.queue.take(clock::now(), 1).expect("told although set later");
        scene.hooks.tells_under_way += 1;
        let posted = Ok((200, br#"{"code":0,"close":true}"#.to_vec()));
        scene.hooks.posted(clock::now(), (HookPool::Tell, id), &posted, &mut scene.shards);
        let Ok(FromKeeper::Ask { ask: Ask::SendAway { generation, .. }, .. }) =
            scene.told.try_recv()
        else {
            panic!("they are sent away");
        };
        assert_eq!(generation, Some(Generation(3)));
    }

    #[test]
    fn a_server_is_told_how_much_it_may_have_missed() {
        let mut scene = Scene::new();
        scene.set(&[Hook::StreamNoneReader, Hook::ServerKeepalive, Hook::Play], 2);
        for _ in 0..5 {
            scene.happen(What::Unwatched);
        }
        assert_eq!(scene.body(Hook::ServerKeepalive)["lost"], 3, "pushed out");
        scene.hooks.missed(10);
        assert_eq!(scene.body(Hook::StreamNoneReader)["lost"], 13, "and never here");
        assert!(scene.body(Hook::Play)["lost"].is_null());
    }

    #[test]
    fn what_a_server_refuses_for_too_long_is_counted_as_missed() {
        let (mut scene, mut now) = (Scene::new(), clock::now());
        scene.set(&[Hook::StreamNoneReader], 10);
        scene.happen(What::Unwatched);
        for _ in 0..HOOK_REFUSALS_MAX {
            assert_eq!(scene.hooks.lost, 0);
            let (id, _) = scene.hooks.queue.take(now, 1).expect("it is told again");
            scene.hooks.tells_under_way += 1;
            let posted = Ok((404, br#"{"code":0,"close":true}"#.to_vec()));
            scene.hooks.posted(now, (HookPool::Tell, id), &posted, &mut scene.shards);
            now = scene.hooks.queue.poll_timeout().unwrap_or(now);
        }
        assert_eq!((scene.hooks.lost, scene.hooks.is_done()), (1, true));
        assert!(scene.told.try_recv().is_err(), "nothing is done at its word");
    }

    #[test]
    fn a_call_that_fails_when_its_hook_is_switched_off_is_counted_as_missed() {
        let (mut scene, now) = (Scene::new(), clock::now());
        scene.set(&[Hook::StreamNoneReader], 10);
        (0..3).for_each(|number| scene.happen_to(&format!("s{number}"), What::Unwatched));
        let calls = [(); 2].map(|()| {
            scene.hooks.tells_under_way += 1;
            scene.hooks.queue.take(now, 1).expect("it is told").0
        });
        scene.set(&[], 10);
        let dropped =
            |scene: &Scene| (scene.hooks.counts.dropped.load(Ordering::Relaxed), scene.hooks.lost);
        assert_eq!(dropped(&scene), (1, 1), "what waits is missed at once");
        let failed = Err(NoReply::Unanswered("nothing in time".to_owned()));
        for (id, posted, expected) in [
            (calls[0], failed, (2, 2)),
            (calls[1], Ok((200, br#"{"code":0,"close":true}"#.to_vec())), (2, 2)),
        ] {
            scene.hooks.posted(now, (HookPool::Tell, id), &posted, &mut scene.shards);
            assert_eq!(dropped(&scene), expected);
        }
        assert!(scene.hooks.is_done());
        assert!(scene.told.try_recv().is_ok(), "an answer counts");
    }

    #[test]
    fn a_hook_that_takes_what_nobody_plays_decides_with_its_answer() {
        let (mut scene, now) = (Scene::new(), clock::now());
        scene.set(&[Hook::StreamNoneReader], 10);
        for (body, closes) in [
            (r#"{"code":0,"close":true}"#, true),
            (r#"{"code":0,"close":false}"#, false),
            ("", false),
        ] {
            scene.happen(What::Unwatched);
            let (id, _) = scene.hooks.queue.take(now, 1).expect("it is told");
            scene.hooks.tells_under_way += 1;
            let posted = Ok((200, body.into()));
            scene.hooks.posted(now, (HookPool::Tell, id), &posted, &mut scene.shards);
            let Ok(FromKeeper::Ask { ask, .. }) = scene.told.try_recv() else { panic!("{body}") };
            let generation = match (ask, closes) {
                (Ask::CloseIdle { generation, .. }, true) => generation,
                (Ask::KeepIdle { generation, .. }, false) => generation,
                _ => panic!("{body}"),
            };
            assert_eq!(generation, Some(Generation(3)), "{body}");
        }
    }

    /// The streams whose search begins in this turn; "not" those whose players go where there is none.
    fn searched(scene: &mut Scene) -> Vec<String> {
        scene.hooks.tell_unheard(&mut scene.shards);
        let searched = scene.told.try_iter().map(|told| match told {
            FromKeeper::Ask { ask: Ask::Demand { key, generation }, .. } => {
                assert_eq!(generation, Some(Generation(3)), "in the life that was told");
                key.stream().to_owned()
            }
            FromKeeper::Ask { ask: Ask::TurnAway { key, generation }, .. } => {
                assert_eq!(generation, Some(Generation(3)), "in the life that was told");
                // Where no origin is asked either, its players go.
                format!("not {}", key.stream())
            }
            _ => panic!("something else is asked"),
        });
        searched.collect()
    }

    #[test]
    fn origins_are_asked_at_once_where_the_hook_fails_or_is_not_told() {
        let mut scene = Scene::new();
        scene.set(&[Hook::StreamNotFound], 2);
        let now = clock::now();
        let tell = |scene: &mut Scene, posted: Posted| {
            let (id, _) = scene.hooks.queue.take(now, 1).expect("it is told");
            scene.hooks.tells_under_way += 1;
            scene.hooks.posted(now, (HookPool::Tell, id), &posted, &mut scene.shards);
        };
        scene.ask_for("a");
        assert!(searched(&mut scene).is_empty(), "its word is awaited");
        tell(&mut scene, Ok((503, Vec::new())));
        assert_eq!(searched(&mut scene), ["a"]);
        assert_eq!(scene.hooks.queue.waiting_count(), 1, "and it is told again");
        scene.ask_for("b");
        assert_eq!(searched(&mut scene), ["b"], "it has just failed");
        tell(&mut scene, Ok((200, br#"{"code":0}"#.to_vec())));
        assert_eq!(searched(&mut scene), ["b"], "as it always is without `close`");
        scene.ask_for("c");
        assert!(searched(&mut scene).is_empty(), "it works again");
        scene.ask_for("d");
        assert_eq!(searched(&mut scene), ["not a"], "pushed out");
        assert_eq!(scene.hooks.counts.dropped.load(Ordering::Relaxed), 1);
        tell(&mut scene, Err(NoReply::Unreachable("it is gone".to_owned())));
        assert_eq!(searched(&mut scene), ["c"]);
        scene.set(&[], 2);
        assert_eq!(searched(&mut scene), ["c", "d"], "it is switched off");
    }

    #[test]
    fn a_server_that_another_hook_has_found_gone_is_not_waited_for() {
        let mut scene = Scene::new();
        scene.set(&[Hook::StreamNoneReader, Hook::StreamNotFound], 10);
        scene.happen(What::Unwatched);
        let (id, _) = scene.hooks.queue.take(clock::now(), 1).unwrap();
        scene.hooks.queue.done(clock::now(), id, Outcome::Unreachable);
        scene.ask_for("b");
        assert_eq!(searched(&mut scene), ["b"]);
    }

    #[test]
    fn a_change_of_something_else_leaves_hooks_alone() {
        let mut scene = Scene::new();
        scene.set(&[Hook::StreamNoneReader], 10);
        scene.happen(What::Unwatched);
        let (id, _) = scene.hooks.queue.take(clock::now(), 1).unwrap();
        scene.hooks.queue.done(clock::now(), id, Outcome::Unreachable);
        scene.set(&[Hook::StreamNoneReader], 10);
        assert!(scene.hooks.queue.take(clock::now(), 1).is_none(), "its server has its time still");
    }
}
