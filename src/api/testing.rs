//! A node of two real shards in memory, for tests: messages and actions are carried at once, and
//! what would be a socket is what the test says.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use url::form_urlencoded;

use super::{Caller, Node, handle};
use crate::bus::message::{Answer, Ask, Message, NodeAsk, Ticket};
use crate::bus::view::{LoadView, SessionProtocol, SessionView};
use crate::clock;
use crate::config::Config;
use crate::egress::flush::{Batch, Shortfall};
use crate::egress::{Socket, Wire};
use crate::media::state::{EndReason, Fault};
use crate::media::{AttemptId, ConnectionId, MediaPart, ShardId, SourceUrl, StreamKey, TagKind};
use crate::metrics;
use crate::proto::Output;
use crate::proto::http::{Request, Response, ServerConfig, ServerEvent, ServerSession, WallClock};
use crate::shard::{Action, Admitted, PlayRequest, Policy, Shard, Stage};
use crate::stream::Packaging;

pub(super) const SECRET: &str = "s3cret";

/// The node, and the hands that tests have on it.
#[derive(Clone)]
pub(super) struct FakeNode {
    world: Rc<RefCell<World>>,
}

/// A pull's attempt that the shard wants made.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) shard: ShardId,
    pub(super) attempt: AttemptId,
    pub(super) url: Arc<SourceUrl>,
    pub(super) timeout: Duration,
}

struct World {
    shards: Vec<Shard>,
    now: Instant,
    config: Arc<Config>,
    ready: bool,
    /// Shards that answer nothing.
    frozen: HashSet<ShardId>,
    /// Sockets of attempts and connections do not close.
    stuck: bool,
    messages: VecDeque<(ShardId, ShardId, Message)>,
    answers: HashMap<u64, Answer>,
    serial: u64,
    /// Questions that are not answered, and the most that there were.
    open_asks: (usize, usize),
    bounds: Vec<Duration>,
    dials: Vec<Dial>,
    sessions: HashMap<ConnectionId, SessionView>,
    ended: Vec<(ConnectionId, EndReason)>,
}

/// Takes everything.
struct Sink;

impl Wire for Sink {
    fn send(&mut self, _batch: &Batch<'_>, _shortfalls: &mut Vec<Shortfall>) {}
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

    fn set_config(&self, config: Config) {
        self.world.borrow_mut().config = Arc::new(config);
    }

    fn ready(&self) -> bool {
        self.world.borrow().ready
    }

    fn now_unix(&self) -> u64 {
        NOW_UNIX
    }
}

impl World {
    fn post(&mut self, to: ShardId, ask: Ask, bound: Duration) -> u64 {
        self.serial += 1;
        let ticket = Ticket { shard: HERE, serial: self.serial };
        self.bounds.push(bound);
        self.open_asks.0 += 1;
        self.open_asks.1 = self.open_asks.1.max(self.open_asks.0);
        self.messages.push_back((HERE, to, Message::Ask { ticket, ask }));
        self.serial
    }

    /// Carries messages and does actions until there are none.
    fn pump(&mut self) {
        loop {
            let now = self.now;
            for index in 0..self.shards.len() {
                self.shards[index].tick(now, &mut Sink);
                while let Some(action) = self.shards[index].poll_action() {
                    self.act(ShardId(index as u16), action);
                }
            }
            let Some((from, to, message)) = self.messages.pop_front() else { return };
            match message {
                Message::Ask { ticket, ask: Ask::Node(ask) } => {
                    let answer = self.answer_for_net(to, ask);
                    self.answers.insert(ticket.serial, answer);
                }
                message => self.shards[to.index()].handle_message(now, from, message),
            }
        }
    }

    fn answer_for_net(&mut self, shard: ShardId, ask: NodeAsk) -> Answer {
        match ask {
            NodeAsk::Sessions => {
                let here = self.sessions.values().filter(|view| view.connection.shard == shard);
                let mut here: Vec<SessionView> = here.cloned().collect();
                here.sort_by_key(|view| view.connection);
                Answer::Sessions(here)
            }
            NodeAsk::Metrics => {
                let of = &self.shards[shard.index()];
                let mut ledger = of.ledger();
                ledger.sockets = 5;
                Answer::Metrics(metrics::of_shard(of, &ledger))
            }
            NodeAsk::Load => Answer::Load(LoadView { percent: 7, delay_ms: 1, fd_count: 9 }),
            NodeAsk::Kick { connection } => {
                let is_here = connection.shard == shard;
                Answer::Kicked(is_here && self.sessions.remove(&connection).is_some())
            }
        }
    }

    fn act(&mut self, id: ShardId, action: Action) {
        let now = self.now;
        let shard = &mut self.shards[id.index()];
        match action {
            Action::Send { to, message } => self.messages.push_back((id, to, message)),
            Action::Answer { ticket, answer } => {
                assert_eq!(ticket.shard, id, "an answer comes where it is awaited");
                self.answers.insert(ticket.serial, answer);
            }
            Action::Admit { connection } => {
                let admitted = Admitted { connection, socket: Socket(1), unsent: Bytes::new() };
                shard.admitted(now, admitted, &mut Sink);
            }
            Action::Refuse { connection, reason } | Action::End { connection, reason, .. } => {
                self.ended.push((connection, reason));
                if !self.stuck {
                    shard.released(connection);
                }
            }
            Action::Dial { attempt, url, timeout, .. } => {
                self.dials.push(Dial { shard: id, attempt, url, timeout });
            }
            Action::HangUp { attempt } => {
                if !self.stuck {
                    shard.attempt_closed(attempt, 1);
                }
            }
            Action::PollWritable { .. } => {}
        }
    }
}

impl FakeNode {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.api.secret = SECRET.to_owned();
        config.pull.retry_jitter_percent = 0;
        change(&mut config);
        let mut shards: Vec<Shard> = (0..SHARDS)
            .map(|id| Shard::new(ShardId(id as u16), SHARDS, 7, Policy::of(&config, SHARDS)))
            .collect();
        shards.iter_mut().for_each(|shard| shard.set_unix_seconds(NOW_UNIX));
        let world = World {
            shards,
            now: clock::now(),
            config: Arc::new(config),
            ready: true,
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
    pub(super) fn call(&self, name: &str, params: &[(&str, &str)]) -> Value {
        self.start(name, params).finish().json()
    }

    /// Begins such a call.
    pub(super) fn start(&self, name: &str, params: &[(&str, &str)]) -> Exchange {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("secret", SECRET)
            .extend_pairs(params)
            .finish();
        self.exchange(&format!("GET /index/api/{name}?{query} HTTP/1.1"), "")
    }

    /// Begins an exchange of any request.
    pub(super) fn exchange(&self, head: &str, body: &str) -> Exchange {
        let (session, request) = ask_session(head, body);
        let mut exchange = Exchange {
            session,
            future: Box::pin(handle(self.clone(), caller(), request)),
            first: None,
        };
        // What it asks is asked now, in the order of the calls.
        exchange.first = exchange.poll();
        exchange
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.world.borrow_mut().ready = ready;
    }

    /// Makes a shard answer nothing any more.
    pub(super) fn freeze(&self, shard: ShardId) {
        self.world.borrow_mut().frozen.insert(shard);
    }

    /// From now on no socket closes.
    pub(super) fn keep_sockets_open(&self) {
        self.world.borrow_mut().stuck = true;
    }

    pub(super) fn open_asks_max(&self) -> usize {
        self.world.borrow().open_asks.1
    }

    /// The bound of the last question.
    pub(super) fn last_bound(&self) -> Duration {
        *self.world.borrow().bounds.last().expect("something was asked")
    }

    /// Attempts that were not taken yet.
    pub(super) fn take_dials(&self) -> Vec<Dial> {
        let mut world = self.world.borrow_mut();
        world.pump();
        std::mem::take(&mut world.dials)
    }

    #[track_caller]
    pub(super) fn take_dial(&self) -> Dial {
        self.take_dials().pop().expect("an attempt")
    }

    /// Connections that were sent away.
    pub(super) fn take_ended(&self) -> Vec<(ConnectionId, EndReason)> {
        std::mem::take(&mut self.world.borrow_mut().ended)
    }

    pub(super) fn reach(&self, dial: &Dial, stage: Stage) {
        self.on_shard(dial.shard, |shard, now| shard.attempt_stage(now, dial.attempt, stage, "x"));
    }

    pub(super) fn fail(&self, dial: &Dial, fault: Fault) {
        self.on_shard(dial.shard, |shard, now| {
            shard.attempt_failed(now, dial.attempt, fault);
            shard.attempt_closed(dial.attempt, 1);
        });
    }

    /// An attempt is connected and delivers its first picture.
    pub(super) fn deliver(&self, dial: &Dial) {
        self.on_shard(dial.shard, |shard, now| {
            let ends =
                ("127.0.0.1:40000".parse().unwrap(), "[::ffff:10.0.0.1]:1935".parse().unwrap());
            shard.attempt_stage(now, dial.attempt, Stage::AwaitingMedia, "media");
            shard.attempt_connected(dial.attempt, ends);
            for (kind, payload) in [(TagKind::Video, KEYFRAME), (TagKind::Audio, AUDIO)] {
                let (lane, len) = (0, payload.len() as u32);
                let begin = MediaPart::Begin { lane, kind, timestamp_ms: 4000, len };
                assert!(shard.attempt_media(now, dial.attempt, begin));
                let data = MediaPart::Data { lane, bytes: Bytes::from_static(payload) };
                assert!(shard.attempt_media(now, dial.attempt, data));
            }
        });
    }

    /// A player comes to a shard.
    pub(super) fn play(&self, connection: ConnectionId, stream: &str, packaging: Packaging) {
        let key = StreamKey::in_default_vhost("live", stream).unwrap();
        let (local, peer) = ends(connection);
        let request = PlayRequest { connection, key, packaging, local, peer };
        self.on_shard(connection.shard, |shard, now| shard.play(now, request));
    }

    /// `net` has accepted a connection.
    pub(super) fn accept(&self, connection: ConnectionId, protocol: SessionProtocol) {
        let (local, peer) = ends(connection);
        let view = SessionView { connection, protocol, local, peer };
        self.world.borrow_mut().sessions.insert(connection, view);
    }

    pub(super) fn pass(&self, time: Duration) {
        let mut world = self.world.borrow_mut();
        world.now += time;
        let now = world.now;
        world.shards.iter_mut().for_each(|shard| shard.handle_timeout(now));
        world.pump();
    }

    pub(super) fn on_shard<T>(&self, id: ShardId, act: impl FnOnce(&mut Shard, Instant) -> T) -> T {
        let mut world = self.world.borrow_mut();
        let now = world.now;
        let result = act(&mut world.shards[id.index()], now);
        world.pump();
        result
    }

    /// That nothing is left of any stream.
    #[track_caller]
    pub(super) fn assert_empty(&self) {
        let mut world = self.world.borrow_mut();
        world.pump();
        for shard in &world.shards {
            shard.check_invariants();
            assert!(shard.ledger().is_zero(), "{}: {}", shard.id(), shard.ledger());
        }
    }
}

/// A request that is being answered.
pub(super) struct Exchange {
    session: ServerSession,
    future: Pin<Box<dyn Future<Output = Response>>>,
    first: Option<Reply>,
}

/// A reply as its peer reads it.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Reply {
    #[track_caller]
    pub(super) fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert!(self.head.contains("\r\nContent-Type: application/json; charset=utf-8\r\n"));
        serde_json::from_str(&self.body).expect("JSON")
    }
}

impl Exchange {
    /// The reply, if it has come.
    pub(super) fn poll(&mut self) -> Option<Reply> {
        if self.first.is_some() {
            return self.first.take();
        }
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..POLLS_MAX {
            if let Poll::Ready(response) = self.future.as_mut().poll(&mut context) {
                return Some(read_reply(&mut self.session, response));
            }
        }
        None
    }

    #[track_caller]
    pub(super) fn finish(mut self) -> Reply {
        self.poll().expect("an answer without anything else happening")
    }
}

fn read_reply(session: &mut ServerSession, response: Response) -> Reply {
    session.respond(clock::now(), response).expect("nothing more was sent");
    let mut bytes = Vec::new();
    while let Some(output) = session.poll_output() {
        if let Output::Send(sent) = output {
            bytes.extend_from_slice(&sent);
        }
    }
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Reply { status: status.expect("a status"), head: format!("{head}\r\n"), body: body.to_owned() }
}

/// What a session makes of a request; `head` is without `Host` and length.
pub(super) fn request(head: &str, body: &str) -> Request {
    ask_session(head, body).1
}

fn ask_session(head: &str, body: &str) -> (ServerSession, Request) {
    let now = clock::now();
    let second = Duration::from_secs(1);
    let wall_clock = WallClock { at: now, unix_seconds: NOW_UNIX };
    let config = ServerConfig {
        header_timeout: second,
        idle_timeout: second,
        cross_domains_allowed: true,
        wall_clock,
    };
    let mut session = ServerSession::new(now, config);
    let len = body.len();
    let text = format!("{head}\r\nHost: h\r\nContent-Length: {len}\r\n\r\n{body}");
    session.handle_input(now, text.into()).expect("a good request");
    loop {
        match session.poll_output().expect("a whole request") {
            Output::Event(ServerEvent::Request(request)) => return (session, request),
            _ => continue,
        }
    }
}

pub(super) fn caller() -> Caller {
    let connection = ConnectionId { serial: 1, shard: HERE };
    let (local, peer) = ends(connection);
    Caller { peer, local, connection }
}

/// The ends of an accepted connection: port 8080 here.
fn ends(connection: ConnectionId) -> (std::net::SocketAddr, std::net::SocketAddr) {
    let port = 50_000 + connection.serial as u16;
    ("127.0.0.1:8080".parse().unwrap(), ([127, 0, 0, 1], port).into())
}

/// Runs a future that waits for nothing from outside.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
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
pub(super) const NOW_UNIX: u64 = 1_795_365_287;
/// More than any call needs: a list of 1,000 rows gives way 16 times.
const POLLS_MAX: usize = 10_000;
/// An AVC keyframe (FLV E.4.3.1): frame type 1, codec 7, a NALU, composition time 0.
const KEYFRAME: &[u8] = &[0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88];
/// AAC, raw (FLV E.4.2.1).
const AUDIO: &[u8] = &[0xaf, 1, 0x21, 0x10];
