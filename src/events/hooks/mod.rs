//! Web hooks: what happens is told, and players and publishers are asked about, over HTTP.
//!
//! - `queue.rs`: what is to be told, in order, until it is taken.
//! - `verdicts.rs`: who waits for an answer.
//! - `body.rs`, `reply.rs`: what is sent and what comes back, in ZLMediaKit's terms.
//! - `pool.rs`: the threads that wait for servers, so that the keeper does not.

mod body;
mod pool;
mod queue;
mod reply;
mod verdicts;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use serde_json::{Map, Value};
use sha2::Sha256;
use url::{Position, Url};

use self::pool::{Order, Pool};
use self::queue::{Item, Outcome, Queue};
use self::reply::Said;
use self::verdicts::{Asker, Verdicts};
use super::Shards;
use crate::bus::KeeperPort;
use crate::bus::event::{Asker as Wanted, Event, Peer, What};
use crate::bus::keeper::{Figures, FromKeeper, HookCounts, HookPool, Posted, Question, Verdict};
use crate::bus::message::Ask;
use crate::config::{Config, Hook};
use crate::limits::{HOOK_POSTS_MAX, HOOK_QUESTIONS_MAX, HOOK_WAITERS_MAX};
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
    next_keepalive: Option<Instant>,
    figures: HashMap<ShardId, Figures>,
    absent: HashMap<StreamKey, Absent>,
    counts: Arc<HookCounts>,
}

/// A stream that players wait for.
#[derive(Default)]
struct Absent {
    /// The newest of those who wait.
    peer: Option<Peer>,
    /// Nobody brings it, and its owner has said so.
    is_known: bool,
    told: Option<Instant>,
}

/// Where an event stands in the log.
#[derive(Debug, Clone, Copy)]
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
            tellers: Pool::new(HookPool::Tell, HOOK_POSTS_MAX, keeper.clone()),
            askers: Pool::new(HookPool::Ask, HOOK_QUESTIONS_MAX, keeper.clone()),
            tells_under_way: 0,
            asks_under_way: 0,
            hook_index: 0,
            next_keepalive: None,
            figures: HashMap::new(),
            absent: HashMap::new(),
            counts: keeper.hooks.clone(),
        }
    }

    /// Goes by another configuration from now on.
    pub(super) fn configure(&mut self, now: Instant, config: Arc<Config>) {
        self.config = config;
        let hook = &self.config.hook;
        self.queue.retarget(|of| hook.url(of).map(|url| server_of(&url)));
        self.verdicts.forget_kept();
        if !hook.wants(Hook::StreamNotFound) {
            self.absent.clear();
        }
        self.next_keepalive = match hook.wants(Hook::ServerKeepalive) {
            true => {
                Some(self.next_keepalive.map_or(now, |next| next.min(now + self.alive_interval())))
            }
            false => None,
        };
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
        if !self.config.hook.enable {
            return;
        }
        self.look_for_absent(now, place, event);
        for (hook, body) in body::of_event(event, &self.config) {
            self.push(hook, place, event, body);
        }
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
        let verdict = match self.config.hook.wants(question.hook) {
            true => self.verdicts.ask(now, &self.config.hook, asker, question),
            // It was switched off in this moment.
            false => Some(Verdict::Allow),
        };
        if let Some(verdict) = verdict {
            self.answer(asker, verdict, shards);
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
                let unanswered = matches!(said, Said::Nothing(_));
                if let Some((asker, verdict)) = self.verdicts.said(now, &self.config.hook, id, said)
                {
                    if unanswered {
                        count(&self.counts.unanswered);
                    }
                    self.answer(asker, verdict, shards);
                }
            }
            HookPool::Tell => {
                self.tells_under_way -= 1;
                let outcome = reply::outcome(posted);
                count(match outcome {
                    Outcome::Taken => &self.counts.taken,
                    Outcome::NotNow | Outcome::Unreachable => &self.counts.failed,
                });
                if let Err(error) = posted {
                    tracing::debug!(error, "a hook was not reached");
                }
                if let Some(item) = self.queue.done(now, id, outcome) {
                    follow(&item, &Said::of(posted), shards);
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
        for (asker, verdict) in self.verdicts.handle_timeout(now, &self.config.hook) {
            count(&self.counts.unanswered);
            self.answer(asker, verdict, shards);
        }
        self.queue.handle_timeout(now);
        self.call(now, shards);
        let waiting = self.queue.waiting_count() + self.verdicts.waiting_count();
        self.counts.waiting.store(waiting as u64, Ordering::Relaxed);
    }

    /// Whether nothing is left to tell.
    pub(super) fn is_done(&self) -> bool {
        self.queue.waiting_count() == 0
    }

    fn call(&mut self, now: Instant, shards: &mut Shards) {
        let timeout = Duration::from_millis(self.config.hook.timeout_ms);
        while let Some((id, item)) = self.queue.take(now) {
            let (hook, body) = (item.hook, item.body.clone());
            self.tells_under_way += 1;
            match self.order(id, hook, body, timeout) {
                Some(order) => self.tellers.give(order, self.tells_under_way),
                None => {
                    self.tells_under_way -= 1;
                    self.queue.done(now, id, Outcome::Taken);
                }
            }
        }
        while let Some((id, question, until)) = self.verdicts.take() {
            let (hook, body) = (question.hook, body::of_peer(&question.key, &question.peer));
            let timeout = until.saturating_duration_since(now).max(Duration::from_millis(1));
            self.asks_under_way += 1;
            match self.order(id, hook, body, timeout) {
                Some(order) => self.askers.give(order, self.asks_under_way),
                None => {
                    // Switched off meanwhile.
                    self.asks_under_way -= 1;
                    let said = Said::Yes { close: false };
                    let verdict = self.verdicts.said(now, &self.config.hook, id, said);
                    if let Some((asker, verdict)) = verdict {
                        self.answer(asker, verdict, shards);
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
        body.insert("mediaServerId".to_owned(), self.config.server.id.as_str().into());
        let body = serde_json::to_vec(&body).expect("bodies are plain data with text keys");
        let secret = &self.config.hook.hmac_secret;
        if !secret.is_empty() {
            fields.push(("X-Rillcast-Signature", signature(secret, &body)));
        }
        Some(Order { id, url, fields, body, timeout })
    }

    fn push(&mut self, hook: Hook, place: Place, event: &Event, mut body: Map<String, Value>) {
        let Some(url) = self.config.hook.url(hook) else { return };
        let Place { run, sequence, time_ms } = place;
        body::stamp(&mut body, (run, sequence), time_ms, event.generation);
        let (server, key, generation) =
            (server_of(&url), Some(event.key.clone()), event.generation);
        self.enter(Item { hook, server, key, generation, body, once: false });
    }

    fn push_of_node(&mut self, hook: Hook, body: Map<String, Value>, once: bool) {
        let Some(url) = self.config.hook.url(hook) else { return };
        let server = server_of(&url);
        self.enter(Item { hook, server, key: None, generation: None, body, once });
    }

    fn enter(&mut self, item: Item) {
        let max = usize::try_from(self.config.hook.queue_max).unwrap_or(usize::MAX);
        if !self.queue.push(item, max) {
            count(&self.counts.dropped);
        }
    }

    fn answer(&self, asker: Asker, verdict: Verdict, shards: &mut Shards) {
        count(match verdict {
            Verdict::Allow => &self.counts.allowed,
            Verdict::Deny(_) => &self.counts.denied,
        });
        let Asker { shard, serial } = asker;
        shards.put(shard.index(), FromKeeper::Judged { serial, verdict });
    }

    /// `on_stream_not_found`: when the owner of a key says that nobody brings it, and again for who
    /// comes later. Who waits is told by its shard, before that.
    fn look_for_absent(&mut self, now: Instant, place: Place, event: &Event) {
        if !self.config.hook.wants(Hook::StreamNotFound) {
            return;
        }
        match &event.what {
            What::PlayerWaits(peer) => {
                if self.absent.len() >= HOOK_WAITERS_MAX {
                    self.absent.clear();
                }
                self.absent.entry(event.key.clone()).or_default().peer = Some((**peer).clone());
            }
            What::Pending { by: Wanted::Players, .. } => {
                self.absent.entry(event.key.clone()).or_default().is_known = true;
            }
            What::Pending { .. }
            | What::Registered { .. }
            | What::Ended { .. }
            | What::PlayerStarted(_) => {
                self.absent.remove(&event.key);
                return;
            }
            _ => return,
        }
        let Some(absent) = self.absent.get_mut(&event.key) else { return };
        let is_due = absent.told.is_none_or(|told| now.duration_since(told) >= TOLD_AGAIN);
        if !absent.is_known || !is_due {
            return;
        }
        absent.told = Some(now);
        let body = match &absent.peer {
            Some(peer) => body::of_peer(&event.key, peer),
            None => body::stream(&event.key),
        };
        self.push(Hook::StreamNotFound, place, event, body);
    }

    fn alive_interval(&self) -> Duration {
        Duration::from_millis(self.config.hook.alive_interval_ms)
    }
}

/// Does what a hook wants that was told something.
fn follow(item: &Item, said: &Said, shards: &mut Shards) {
    let Some(key) = &item.key else { return };
    let closes = matches!(said, Said::Yes { close: true });
    let ask = match item.hook {
        // It may have added a pull, or have nothing to do with it: then origins are asked.
        Hook::StreamNotFound if !closes => Ask::Demand { key: key.clone() },
        _ if !closes => return,
        // A player that came meanwhile saves it.
        Hook::StreamNoneReader => Ask::CloseIdle { key: key.clone(), generation: item.generation },
        Hook::StreamNotFound => Ask::SendAway { key: key.clone() },
        _ => return,
    };
    shards.put(0, FromKeeper::Ask { key: key.clone(), ask });
}

fn server_of(url: &Url) -> Arc<str> {
    url[Position::BeforeHost..Position::AfterPort].into()
}

/// `sha256=` and the HMAC of the body in hex.
fn signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length is a key");
    mac.update(body);
    let mut text = "sha256=".to_owned();
    for byte in mac.finalize().into_bytes() {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

fn count(counter: &std::sync::atomic::AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Who comes to an absent stream so long after the hook was told of it has it told again.
const TOLD_AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_rfc_4231() {
        // Test case 2.
        let text = signature("Jefe", b"what do ya want for nothing?");
        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(text, expected);
    }
}
