//! The life of a pull on one shard, without sockets: add, dial, first media, registered, delete,
//! released. Alone, and beside 10,000 pulls of an origin that never answers, which is what an edge
//! has when an origin is lost; they must not make it dearer.

mod kit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kit::allocations;
use rillcast::bus::message::{Answer, Ask, IdleClose, Message, PullOptions, Ticket};
use rillcast::clock;
use rillcast::config::Config;
use rillcast::egress::{Batch, Shortfall, Wire};
use rillcast::media::{AttemptId, MediaPart, ShardId, SourceUrl, StreamKey};
use rillcast::proto::rtsp::LowerTransport;
use rillcast::shard::{Action, Policy, Shard, Stage};

const HERE: ShardId = ShardId(0);

fn live(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("life_cycle");
    group.throughput(Throughput::Elements(1));
    for (name, pending_count) in [("alone", 0), ("beside 10,000 pending", 10_000)] {
        let mut node = Node::new();
        for index in 0..pending_count {
            node.add(&format!("lost{index}"), "rtmp://10.0.0.9/live/a");
        }
        let held = node.shard.ledger();
        group.bench_function(name, |bencher| bencher.iter(|| node.live_and_die()));
        allocations::report(name, || node.live_and_die());
        assert_eq!(node.shard.ledger(), held, "nothing is left of the pulls that were deleted");
        node.shard.check_invariants();
    }
    group.finish();
}

/// One shard, and what `net` would do for it.
struct Node {
    shard: Shard,
    now: Instant,
    frame: Vec<MediaPart>,
    serial: u64,
    dialed: Option<AttemptId>,
    answer: Option<Answer>,
}

impl Node {
    fn new() -> Self {
        let mut config = Config::default();
        config.limits.pending_per_shard_max = 20_000;
        let tags = kit::configurations().into_iter().chain(kit::gop(0).into_iter().take(1));
        Self {
            shard: Shard::new(HERE, 1, 7, Policy::of(&config, 1)),
            now: clock::now(),
            frame: tags.flat_map(|tag| kit::parts(&tag, 4096)).collect(),
            serial: 0,
            dialed: None,
            answer: None,
        }
    }

    fn live_and_die(&mut self) {
        self.add("a", "rtmp://10.0.0.1/live/a");
        let attempt = self.dialed.take().expect("the origin has places");
        self.shard.attempt_stage(self.now, attempt, Stage::AwaitingMedia, "media");
        for part in &self.frame {
            assert!(self.shard.attempt_media(self.now, attempt, part.clone()));
        }
        self.pump();
        assert!(matches!(self.answer.take(), Some(Answer::Added { .. })));
        self.ask(Ask::DeletePull { key: key("a") });
        assert!(
            matches!(self.answer.take(), Some(Answer::Deleted(Some(closed))) if closed.complete)
        );
    }

    fn add(&mut self, stream: &str, url: &str) {
        let url = Arc::new(SourceUrl::parse(url, false).expect("a valid URL"));
        let options = PullOptions {
            retries_max: None,
            force: true,
            no_wait: false,
            timeout: Duration::from_secs(10),
            media_timeout: Duration::from_secs(10),
            rtp_transport: LowerTransport::Tcp,
            idle_close: IdleClose::default(),
            asked_by: None,
        };
        self.ask(Ask::AddPull { key: key(stream), url, options });
    }

    fn ask(&mut self, ask: Ask) {
        self.serial += 1;
        let ticket = Ticket { shard: HERE, serial: self.serial };
        self.shard.handle_message(self.now, HERE, Message::Ask { ticket, ask });
        self.pump();
    }

    /// Does what the shard wants until it wants no more.
    fn pump(&mut self) {
        self.shard.tick(self.now, &mut NoPlayers);
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Send { message, .. } => self.shard.handle_message(self.now, HERE, message),
                Action::Answer { answer, .. } => self.answer = Some(answer),
                Action::Dial { attempt, .. } => self.dialed = Some(attempt),
                Action::HangUp { attempt } => self.shard.attempt_closed(attempt, 1),
                Action::Tell(_) | Action::Keep(_) => {}
                _ => unreachable!("there are no players"),
            }
        }
    }
}

fn key(stream: &str) -> StreamKey {
    StreamKey::in_default_vhost("live", stream).expect("a valid key")
}

struct NoPlayers;

impl Wire for NoPlayers {
    fn send(&mut self, batch: &Batch<'_>, _shortfalls: &mut Vec<Shortfall>) {
        assert!(batch.sends.is_empty(), "there are no players");
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = live
}
criterion_main!(benches);
