//! Media parts into a log that is flushed and trimmed as the shard does it: the one copy of media
//! bytes. 2 s of the stream, in the pieces in which chunks of 4096 bytes bring it.

mod kit;

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kit::allocations;
use rillcast::media::{MediaPart, TagKind};
use rillcast::stream::{Ingest, Log};

fn ingest(criterion: &mut Criterion) {
    let (mut log, mut ingest) = (Log::default(), Ingest::default());
    let mut start_ms = 0;
    let payload_len: u64 = kit::gop(0).iter().map(|tag| tag.payload.len() as u64).sum();
    let tags: Vec<_> = kit::gop(0).iter().map(|tag| (tag.kind, kit::parts(tag, 4096))).collect();
    let mut next_gop = || {
        let mut tags = tags.clone();
        let begins = tags.iter_mut().filter_map(|(_, parts)| match &mut parts[0] {
            MediaPart::Begin { timestamp_ms, .. } => Some(timestamp_ms),
            _ => None,
        });
        begins.for_each(|timestamp_ms| *timestamp_ms += start_ms);
        start_ms += kit::GOP_MS;
        tags
    };
    let mut write = |tags: Vec<(TagKind, Vec<MediaPart>)>| {
        for (kind, parts) in tags {
            for part in parts {
                ingest.handle(&mut log, part);
            }
            if kind == TagKind::Video {
                log.flush();
                log.trim(None, kit::GOP_BYTES_MAX);
            }
        }
    };
    let mut group = criterion.benchmark_group("flv_ingest");
    group.throughput(Throughput::Bytes(payload_len));
    group.bench_function("2 s at 2 Mbit/s", |bencher| {
        bencher.iter_batched(&mut next_gop, &mut write, BatchSize::SmallInput);
    });
    group.finish();
    let gops: Vec<_> = (0..allocations::TURNS).map(|_| next_gop()).collect();
    let mut gops = gops.into_iter();
    allocations::report("2 s at 2 Mbit/s", || write(gops.next().expect("one for each turn")));
    assert_eq!(ingest.dropped(), 0, "every tag went into the log");
    let bytes = ingest.bytes();
    assert_eq!(bytes.copied, bytes.received, "each byte is copied once");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = ingest
}
criterion_main!(benches);
