//! A node of two real shards in memory, for tests: messages and actions are carried at once, and
//! what would be a socket is what the test says.

mod exchange;
pub(in crate::api) mod pulls;
mod world;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use url::form_urlencoded;

use exchange::ask_session;
pub(in crate::api) use exchange::{Exchange, request};
use world::World;

use super::{Caller, Node, handle};
use crate::bus::message::{Answer, Ask};
use crate::bus::view::ProbeView;
use crate::bus::view::{SessionProtocol, SessionView};
use crate::clock;
use crate::config::{Config, ReloadError, Reloaded};
use crate::media::state::{EndReason, Fault};
use crate::media::{AttemptId, ConnectionId, MediaPart, ShardId, SourceUrl, StreamKey, TagKind};
use crate::proto::rtsp::LowerTransport;
use crate::shard::{PlayRequest, Policy, Shard, Stage};
use crate::stream::Packaging;

pub(in crate::api) const SECRET: &str = "s3cret";

/// The node, and the hands that tests have on it.
#[derive(Clone)]
pub(in crate::api) struct FakeNode {
    world: Rc<RefCell<World>>,
}

/// A pull's attempt that the shard wants made.
#[derive(Clone)]
pub(in crate::api) struct Dial {
    pub(in crate::api) shard: ShardId,
    pub(in crate::api) attempt: AttemptId,
    pub(in crate::api) url: Arc<SourceUrl>,
    pub(in crate::api) rtp_transport: LowerTransport,
    pub(in crate::api) timeout: Duration,
}

impl Node for FakeNode {
    fn shards(&self) -> usize {
        self.world.borrow().shards.len()
    }

    fn owner_of(&self, key: &StreamKey) -> ShardId {
        self.world.borrow().shards[0].owner_of(key)
    }

    async fn ask(&self, to: ShardId, ask: Ask, bound: Duration) -> Option<Answer> {
        let serial = self.world.borrow_mut().post(to, ask, bound);
        let answer = poll_fn(|_| {
            let mut world = self.world.borrow_mut();
            if world.frozen.contains(&to) {
                return Poll::Ready(None);
            }
            world.pump();
            world.answers.remove(&serial).map_or(Poll::Pending, |answer| Poll::Ready(Some(answer)))
        })
        .await;
        self.world.borrow_mut().open_asks.0 -= 1;
        answer
    }

    fn config(&self) -> Arc<Config> {
        self.world.borrow().config.clone()
    }

    fn change_config<R>(&self, edit: impl FnOnce(&mut Config) -> R) -> R {
        edit(Arc::make_mut(&mut self.world.borrow_mut().config))
    }

    async fn recent_events(&self, _key: &StreamKey, _bound: Duration) -> Vec<String> {
        Vec::new()
    }

    async fn probe(
        &self,
        _by: ConnectionId,
        _origin: (SourceUrl, LowerTransport),
        _timeout: Duration,
    ) -> Option<ProbeView> {
        Some(ProbeView { resolved_ms: Some(1), ..ProbeView::default() })
    }

    async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let config = (*self.config()).clone();
        let names = |name: &str| vec![name.to_owned()];
        let (changed, needs_restart) = (names("pull.timeout_ms"), names("http.listen"));
        Ok(Reloaded { config, changed, needs_restart })
    }

    async fn persisted(&self, _bound: Duration) -> bool {
        let mut world = self.world.borrow_mut();
        world.synced += 1;
        world.persisted
    }

    fn journal_is_behind(&self) -> bool {
        false
    }

    fn ready(&self) -> bool {
        self.world.borrow().ready
    }
}

impl FakeNode {
    pub(in crate::api) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(in crate::api) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.api.secret = SECRET.to_owned();
        config.pull.retry_jitter_percent = 0;
        change(&mut config);
        let mut shards: Vec<Shard> = (0..SHARDS)
            .map(|id| Shard::new(ShardId(id as u16), SHARDS, 7, Policy::of(&config, SHARDS)))
            .collect();
        shards.iter_mut().for_each(|shard| shard.set_unix_seconds(NOW_UNIX));
        for shard in &mut shards {
            shard.set_origins(&config);
        }
        let world = World {
            shards,
            now: clock::now(),
            config: Arc::new(config),
            ready: true,
            persisted: true,
            synced: 0,
            frozen: HashSet::new(),
            stuck: false,
            messages: VecDeque::new(),
            answers: HashMap::new(),
            serial: 0,
            open_asks: (0, 0),
            bounds: Vec::new(),
            dials: Vec::new(),
            sessions: HashMap::new(),
            ended: Vec::new(),
        };
        Self { world: Rc::new(RefCell::new(world)) }
    }

    /// Calls an endpoint with the secret and waits for its reply.
    #[track_caller]
    pub(in crate::api) fn call(&self, name: &str, params: &[(&str, &str)]) -> Value {
        self.start(name, params).finish().json()
    }

    /// Begins such a call.
    pub(in crate::api) fn start(&self, name: &str, params: &[(&str, &str)]) -> Exchange {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("secret", SECRET)
            .extend_pairs(params)
            .finish();
        self.exchange(&format!("GET /index/api/{name}?{query} HTTP/1.1"), "")
    }

    /// Begins an exchange of any request.
    pub(in crate::api) fn exchange(&self, head: &str, body: &str) -> Exchange {
        let (session, request) = ask_session(head, body);
        Exchange::begin(session, Box::pin(handle(self.clone(), caller(), request)))
    }

    /// Whether the journal takes what it is given.
    pub(in crate::api) fn set_persisted(&self, persisted: bool) {
        self.world.borrow_mut().persisted = persisted;
    }

    /// Answers that waited for the journal.
    pub(in crate::api) fn synced(&self) -> usize {
        self.world.borrow().synced
    }

    pub(in crate::api) fn set_ready(&self, ready: bool) {
        self.world.borrow_mut().ready = ready;
    }

    /// Makes a shard answer nothing any more.
    pub(in crate::api) fn freeze(&self, shard: ShardId) {
        self.world.borrow_mut().frozen.insert(shard);
    }

    /// From now on no socket closes.
    pub(in crate::api) fn keep_sockets_open(&self) {
        self.world.borrow_mut().stuck = true;
    }

    pub(in crate::api) fn open_asks_max(&self) -> usize {
        self.world.borrow().open_asks.1
    }

    /// The bound of the last question.
    pub(in crate::api) fn last_bound(&self) -> Duration {
        *self.world.borrow().bounds.last().expect("something was asked")
    }

    /// Attempts that were not taken yet.
    pub(in crate::api) fn take_dials(&self) -> Vec<Dial> {
        let mut world = self.world.borrow_mut();
        world.pump();
        std::mem::take(&mut world.dials)
    }

    #[track_caller]
    pub(in crate::api) fn take_dial(&self) -> Dial {
        self.take_dials().pop().expect("an attempt")
    }

    /// Connections that were sent away.
    pub(in crate::api) fn take_ended(&self) -> Vec<(ConnectionId, EndReason)> {
        std::mem::take(&mut self.world.borrow_mut().ended)
    }

    pub(in crate::api) fn reach(&self, dial: &Dial, stage: Stage) {
        self.on_shard(dial.shard, |shard, now| shard.attempt_stage(now, dial.attempt, stage, "x"));
    }

    pub(in crate::api) fn fail(&self, dial: &Dial, fault: Fault) {
        self.on_shard(dial.shard, |shard, now| {
            shard.attempt_failed(now, dial.attempt, fault);
            shard.attempt_closed(dial.attempt, 1);
        });
    }

    /// An attempt is connected and delivers its first picture.
    pub(in crate::api) fn deliver(&self, dial: &Dial) {
        self.deliver_tags(dial, 4000, &[(TagKind::Video, KEYFRAME), (TagKind::Audio, AUDIO)]);
    }

    /// An attempt is connected and delivers these.
    pub(in crate::api) fn deliver_tags(
        &self,
        dial: &Dial,
        timestamp_ms: u32,
        tags: &[(TagKind, &'static [u8])],
    ) {
        self.on_shard(dial.shard, |shard, now| {
            let ends =
                ("127.0.0.1:40000".parse().unwrap(), "[::ffff:10.0.0.1]:1935".parse().unwrap());
            shard.attempt_stage(now, dial.attempt, Stage::AwaitingMedia, "media");
            shard.attempt_connected(dial.attempt, ends);
            for &(kind, payload) in tags {
                let (lane, len) = (0, payload.len() as u32);
                let begin = MediaPart::Begin { lane, kind, timestamp_ms, len };
                assert!(shard.attempt_media(now, dial.attempt, begin));
                let data = MediaPart::Data { lane, bytes: Bytes::from_static(payload) };
                assert!(shard.attempt_media(now, dial.attempt, data));
            }
        });
    }

    /// A player comes to a shard.
    pub(in crate::api) fn play(
        &self,
        connection: ConnectionId,
        stream: &str,
        packaging: Packaging,
    ) {
        let key = StreamKey::in_default_vhost("live", stream).unwrap();
        let (local, peer) = ends(connection);
        let request =
            PlayRequest { connection, key, packaging, local, peer, params: String::new() };
        self.on_shard(connection.shard, |shard, now| shard.play(now, request));
    }

    /// `net` has accepted a connection.
    pub(in crate::api) fn accept(&self, connection: ConnectionId, protocol: SessionProtocol) {
        let (local, peer) = ends(connection);
        let view = SessionView { connection, protocol, local, peer };
        self.world.borrow_mut().sessions.insert(connection, view);
    }

    pub(in crate::api) fn pass(&self, time: Duration) {
        let mut world = self.world.borrow_mut();
        world.now += time;
        let now = world.now;
        world.shards.iter_mut().for_each(|shard| shard.handle_timeout(now));
        world.pump();
    }

    pub(in crate::api) fn on_shard<T>(
        &self,
        id: ShardId,
        act: impl FnOnce(&mut Shard, Instant) -> T,
    ) -> T {
        let mut world = self.world.borrow_mut();
        let now = world.now;
        let result = act(&mut world.shards[id.index()], now);
        world.pump();
        result
    }

    /// That nothing is left of any stream.
    #[track_caller]
    pub(in crate::api) fn assert_empty(&self) {
        let mut world = self.world.borrow_mut();
        world.pump();
        for shard in &world.shards {
            shard.check_invariants();
            assert!(shard.ledger().is_zero(), "{}: {}", shard.id(), shard.ledger());
        }
    }
}

pub(in crate::api) fn caller() -> Caller {
    let connection = ConnectionId { serial: 1, shard: HERE };
    let (local, peer) = ends(connection);
    Caller { peer, local, connection }
}

/// The ends of an accepted connection: port 8080 here.
fn ends(connection: ConnectionId) -> (SocketAddr, SocketAddr) {
    let port = 50_000 + connection.serial as u16;
    ("127.0.0.1:8080".parse().unwrap(), ([127, 0, 0, 1], port).into())
}

/// Runs a future that waits for nothing from outside.
pub(in crate::api) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..POLLS_MAX {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
    }
    panic!("it waits for something that does not come");
}

const SHARDS: usize = 2;
const HERE: ShardId = ShardId(0);
pub(in crate::api) const NOW_UNIX: u64 = 1_795_365_287;
/// More than any call needs: a list of 1,000 rows gives way 16 times.
const POLLS_MAX: usize = 10_000;
/// An AVC keyframe (FLV E.4.3.1): frame type 1, codec 7, a NALU, composition time 0.
const KEYFRAME: &[u8] = &[0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88];
/// AAC, raw (FLV E.4.2.1).
const AUDIO: &[u8] = &[0xaf, 1, 0x21, 0x10];
