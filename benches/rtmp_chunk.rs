//! Reading a publisher's chunk stream: 2 s of the stream in chunks of 4096 bytes, out of receive
//! buffers of 16 KiB.

mod kit;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kit::allocations;
use rillcast::limits::RECEIVE_BUFFER_LEN;
use rillcast::proto::rtmp::chunk::{CHUNK_SIZE_DEFAULT, ChunkReader};
use rillcast::proto::rtmp::chunk_encoding::{CSID_AUDIO, CSID_CONTROL, CSID_VIDEO, encode_message};
use rillcast::proto::rtmp::message::{Control, Message};

const CHUNK_SIZE: usize = 4096;

fn read_chunks(criterion: &mut Criterion) {
    let bytes = chunk_stream();
    let buffers: Vec<Bytes> = (0..bytes.len())
        .step_by(RECEIVE_BUFFER_LEN as usize)
        .map(|at| bytes.slice(at..bytes.len().min(at + RECEIVE_BUFFER_LEN as usize)))
        .collect();
    let read = || {
        let mut reader = ChunkReader::new();
        for buffer in &buffers {
            let mut input = buffer.clone();
            while let Some(item) = reader.next_item(&mut input).expect("valid chunks") {
                black_box(item);
            }
        }
    };
    let mut group = criterion.benchmark_group("rtmp_chunk");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("read 2 s at 2 Mbit/s", |bencher| {
        bencher.iter(read);
    });
    group.finish();
    allocations::report("read 2 s at 2 Mbit/s", read);
}

fn chunk_stream() -> Bytes {
    let mut bytes = Vec::new();
    let size = Control::SetChunkSize(CHUNK_SIZE as u32).encode();
    encode_message(CSID_CONTROL, &size, CHUNK_SIZE_DEFAULT, &mut bytes);
    for tag in kit::configurations().into_iter().chain(kit::gop(0)) {
        let csid = if tag.kind as u8 == 9 { CSID_VIDEO } else { CSID_AUDIO };
        let message = Message {
            kind: tag.kind as u8,
            timestamp_ms: tag.timestamp_ms,
            stream_id: 1,
            payload: tag.payload,
        };
        encode_message(csid, &message, CHUNK_SIZE, &mut bytes);
    }
    bytes.into()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = read_chunks
}
criterion_main!(benches);
