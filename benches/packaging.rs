//! A GOP of the stream in each packaging, as a player that joins gets it: the headers around the
//! payloads, which stay where they are.

mod kit;

use std::hint::black_box;
use std::io::IoSlice;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kit::allocations;
use rillcast::stream::{Cursor, Packaging, Span};

fn package(criterion: &mut Criterion) {
    let mut stream = kit::Stream::new();
    for _ in 1..kit::GOP_FRAMES {
        stream.flush_frame();
    }
    let log = &stream.log;
    let (from, to) = (log.start_seq(), log.flushed_seq());
    let len: u64 = log.range(from..to).map(|entry| u64::from(entry.len)).sum();
    let mut group = criterion.benchmark_group("packaging");
    group.throughput(Throughput::Bytes(len));
    for packaging in Packaging::SHARED {
        let mut span = Span::default();
        let mut encode = || {
            // More than one send takes goes on where the last one ended.
            let mut cursor = Cursor::at(from);
            let mut encoded = 0;
            while cursor != Cursor::at(to) {
                span.encode(packaging, log, cursor, to);
                let mut slices: Vec<IoSlice<'_>> = Vec::new();
                span.slices(log, &mut slices);
                encoded += span.len();
                cursor = span.end();
                black_box(&slices);
            }
            encoded
        };
        assert!(encode() > len * 9 / 10, "all of the GOP");
        group.bench_function(format!("{packaging:?}, 2 s at 2 Mbit/s"), |bencher| {
            bencher.iter(&mut encode);
        });
        allocations::report(&format!("{packaging:?}, 2 s"), || {
            encode();
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = package
}
criterion_main!(benches);
