//! A bus message from one shard to another: an answer, and a flush of 40 ms of the stream as
//! replicas get it. On one thread, so that it is the cost of the queue that is seen and not that of
//! waking the other core.

mod kit;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kit::allocations;
use rillcast::bus::mesh::{Mesh, MeshPort, Put};
use rillcast::bus::message::{Answer, LocalId, Message, Ticket};
use rillcast::media::{Form, ShardId, StreamKey};

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);

/// Messages of one tick with 100 streams that have players on the other shard.
const BURST: u64 = 100;

fn cross(criterion: &mut Criterion) {
    let mut mesh = Mesh::new(2);
    let (mut here, mut there) = (mesh.take_port(HERE), mesh.take_port(THERE));
    let mut group = criterion.benchmark_group("bus");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one answer", |bencher| {
        bencher.iter(|| carry(&mut here, &mut there, [answer(1)]));
    });
    group.throughput(Throughput::Elements(BURST));
    group.bench_function("100 answers", |bencher| {
        bencher.iter(|| carry(&mut here, &mut there, (0..BURST).map(answer)));
    });
    group.throughput(Throughput::Elements(1));
    let mut stream = kit::Stream::new();
    let key = StreamKey::in_default_vhost("live", "a").expect("a valid key");
    let local = LocalId { shard: THERE, form: Form::Flv, slot: 0, serial: 1 };
    group.bench_function("one flush", |bencher| {
        let next_frame = || {
            let from = stream.log.next_seq();
            stream.flush_frame();
            let delta = stream.log.delta(from);
            Message::Flushed { key: key.clone(), local, delta, video_since: None }
        };
        let cross = |message| carry(&mut here, &mut there, [message]);
        bencher.iter_batched(next_frame, cross, BatchSize::SmallInput);
    });
    group.finish();
    allocations::report("one answer", || carry(&mut here, &mut there, [answer(1)]));
    allocations::report("one flush, with its making", || {
        let from = stream.log.next_seq();
        stream.flush_frame();
        let delta = stream.log.delta(from);
        let message = Message::Flushed { key: key.clone(), local, delta, video_since: None };
        carry(&mut here, &mut there, [message]);
    });
}

fn carry(from: &mut MeshPort, to: &mut MeshPort, messages: impl IntoIterator<Item = Message>) {
    for message in messages {
        assert_eq!(from.put(THERE, message), Put::Sent);
    }
    from.flush();
    while let Some(message) = to.take() {
        black_box(message);
    }
}

fn answer(serial: u64) -> Message {
    Message::Answer { ticket: Ticket { shard: THERE, serial }, answer: Answer::Done }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = cross
}
criterion_main!(benches);
