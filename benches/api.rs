//! `getMediaList` of a shard with 10,000 registered streams, as the API answers it: the pages that
//! it asks the shard for, their order, the text.

mod kit;

use std::cell::RefCell;
use std::future::Future;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kit::allocations;
use rillcast::api::{self, Caller};
use rillcast::bus::message::{Answer, Ask, Message, Ticket};
use rillcast::bus::view::{ProbeView, PublisherView};
use rillcast::clock;
use rillcast::config::{Config, ReloadError, Reloaded};
use rillcast::media::{ConnectionId, Form, ShardId, SourceUrl, StreamKey, TagKind};
use rillcast::proto::http::{Headers, Method, Request, Response};
use rillcast::proto::rtsp::LowerTransport;
use rillcast::shard::{Action, Policy, Shard};

const STREAMS: u32 = 10_000;
const HERE: ShardId = ShardId(0);
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

fn media_list(criterion: &mut Criterion) {
    let node = Node::new();
    let len = format!("{:?}", node.list("getMediaList")).len();
    assert!(len > STREAMS as usize * 100, "a row for each stream");
    let mut group = criterion.benchmark_group("api");
    group.throughput(Throughput::Elements(STREAMS.into()));
    group.bench_function("getMediaList, 10,000 streams", |bencher| {
        bencher.iter(|| black_box(node.list("getMediaList")));
    });
    group.finish();
    allocations::report("getMediaList, 10,000 streams", || drop(node.list("getMediaList")));
}

/// One shard, asked without a bus.
#[derive(Clone)]
struct Node {
    shard: Rc<RefCell<Shard>>,
    config: Arc<Config>,
}

impl api::Node for Node {
    fn shards(&self) -> usize {
        1
    }

    fn owner_of(&self, _: &StreamKey) -> ShardId {
        HERE
    }

    async fn ask(&self, _: ShardId, ask: Ask, _: Duration) -> Option<Answer> {
        let mut shard = self.shard.borrow_mut();
        let ticket = Ticket { shard: HERE, serial: 1 };
        shard.handle_message(clock::now(), HERE, Message::Ask { ticket, ask });
        match shard.poll_action() {
            Some(Action::Answer { answer, .. }) => Some(answer),
            _ => None,
        }
    }

    fn config(&self) -> Arc<Config> {
        self.config.clone()
    }

    fn change_config<R>(&self, edit: impl FnOnce(&mut Config) -> R) -> R {
        edit(&mut Config::default())
    }

    async fn probe(
        &self,
        _: ConnectionId,
        _: (SourceUrl, LowerTransport),
        _: Duration,
    ) -> Option<ProbeView> {
        None
    }

    async fn reload(&self) -> Result<Reloaded, ReloadError> {
        unreachable!("nobody asks for it")
    }

    async fn persisted(&self, _: Duration) -> bool {
        true
    }

    async fn recent_events(&self, _: &StreamKey, _: Duration) -> Vec<String> {
        Vec::new()
    }

    fn journal_is_behind(&self) -> bool {
        false
    }

    fn ready(&self) -> bool {
        true
    }
}

impl Node {
    fn new() -> Self {
        let mut config = Config::default();
        config.api.secret = "bench".to_owned();
        config.limits.pending_per_shard_max = STREAMS;
        let mut shard = Shard::new(HERE, 1, 7, Policy::of(&config, 1));
        let keyframe = kit::Tag {
            kind: TagKind::Video,
            timestamp_ms: 0,
            payload: Bytes::from_static(b"\x17\x01\0\0\0\x09"),
        };
        let tags: Vec<_> = kit::configurations().into_iter().chain([keyframe]).collect();
        for serial in 0..STREAMS {
            let key = StreamKey::in_default_vhost("live", &format!("camera-{serial}"));
            let connection = ConnectionId { serial, shard: HERE };
            let view = PublisherView {
                connection,
                form: Form::Flv,
                local: PEER,
                peer: PEER,
                params: String::new(),
            };
            let handle = shard.publish(clock::now(), &key.expect("a valid key"), view);
            let handle = handle.expect("the name is free");
            for part in tags.iter().flat_map(|tag| kit::parts(tag, 4096)) {
                assert!(shard.media(clock::now(), handle, part));
            }
        }
        assert_eq!(shard.registered_count(), STREAMS as usize);
        while shard.poll_action().is_some() {}
        Self { shard: Rc::new(RefCell::new(shard)), config: Arc::new(config) }
    }

    fn list(&self, name: &str) -> Response {
        let connection = ConnectionId { serial: 0, shard: HERE };
        let caller = Caller { peer: PEER, local: PEER, connection };
        let request = Request {
            method: Method::Get,
            path: format!("/index/api/{name}"),
            query: "secret=bench".to_owned(),
            headers: Headers::default(),
            body: Bytes::new(),
            keep_alive: true,
            websocket_key: None,
        };
        finish(api::handle(self.clone(), caller, request))
    }
}

/// Runs a future that waits for nothing but its turn.
fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = media_list
}
criterion_main!(benches);
