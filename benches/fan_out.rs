//! One flush of 40 ms (a video frame and the audio before it) to all players of a stream, without
//! the kernel: what we add to the sends. It ends with the allocations of a flush, which must not
//! grow with the players.

mod kit;

use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use kit::allocations;
use rillcast::clock;
use rillcast::egress::{
    Batch, Crowd, CrowdEvents, CrowdLimits, PlayerStart, Scratch, Shortfall, Socket, Turn, Wire,
};
use rillcast::media::{ConnectionId, ShardId};
use rillcast::stream::{Packaging, TrackSet};

/// A hot stream of an edge has about a thousand players on a core; 10,000 are ten such cores' in one.
const PLAYERS: [u32; 4] = [1, 100, 1_000, 10_000];

/// Allocations of a flush: the lists of a batch, which double as they grow to 10,000 sends.
const ALLOCATIONS_MAX: u64 = 24;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    flush(&mut criterion);
    criterion.final_summary();
    report_allocations();
}

fn flush(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan_out");
    for packaging in Packaging::OF_FLV {
        for players in PLAYERS {
            group.throughput(Throughput::Elements(players.into()));
            let id = BenchmarkId::new(format!("{packaging:?}"), players);
            group.bench_function(id, |bencher| {
                let mut hall = Hall::new(packaging, players);
                bencher.iter_custom(|turns| (0..turns).map(|_| hall.flush().time).sum());
            });
        }
    }
    group.finish();
}

fn report_allocations() {
    const TURNS: u64 = 500;
    for packaging in Packaging::OF_FLV {
        for players in PLAYERS {
            let mut hall = Hall::new(packaging, players);
            let counts: Vec<u64> = (0..TURNS).map(|_| hall.flush().allocations).collect();
            let (sum, max) = (counts.iter().sum::<u64>(), counts.iter().max().unwrap_or(&0));
            let mean = sum as f64 / TURNS as f64;
            eprintln!(
                "{packaging:?} to {players} players: {mean:.1} allocations per flush, at most {max}"
            );
            assert!(*max <= ALLOCATIONS_MAX, "allocations grow with the players");
        }
    }
}

/// A stream and its players.
struct Hall {
    stream: kit::Stream,
    crowd: Crowd,
    wire: CountingWire,
    limits: CrowdLimits,
    scratch: Scratch,
    events: CrowdEvents,
    players: u32,
}

struct Flush {
    time: Duration,
    allocations: u64,
}

impl Hall {
    fn new(packaging: Packaging, players: u32) -> Self {
        let limits = CrowdLimits {
            lag_bytes_max: 8 * 1024 * 1024,
            lag_evict: Duration::from_secs(10),
            gso: true,
        };
        let mut hall = Self {
            stream: kit::Stream::new(),
            crowd: Crowd::default(),
            wire: CountingWire::default(),
            limits,
            scratch: Scratch::default(),
            events: CrowdEvents::default(),
            players,
        };
        hall.crowd.follow(&hall.stream.log);
        for serial in 0..players {
            let start = PlayerStart {
                id: ConnectionId { serial, shard: ShardId(0) },
                socket: Socket(serial as i32),
                packaging,
                unsent: Bytes::new(),
                tracks: TrackSet::ALL,
            };
            hall.crowd.join(&hall.stream.log, start, clock::now());
        }
        // The prelude goes out, and the lists get their size.
        for _ in 0..kit::GOP_FRAMES {
            hall.flush();
        }
        hall
    }

    fn flush(&mut self) -> Flush {
        let bytes = self.stream.flush_frame();
        let sent_before = self.wire.bytes;
        let allocations = allocations::count();
        let now = clock::now();
        self.crowd.flush(&mut Turn {
            log: &self.stream.log,
            now,
            limits: &self.limits,
            wire: &mut self.wire,
            scratch: &mut self.scratch,
            events: &mut self.events,
        });
        let time = now.elapsed();
        let allocations = allocations::count() - allocations;
        // An RTMP message has no tag size and its header is 12 bytes, not 11: at most 4 are saved.
        let sent = self.wire.bytes - sent_before;
        assert!(sent >= u64::from(self.players) * (bytes - 4 * 4), "everybody got the frame");
        Flush { time, allocations }
    }
}

/// Takes everything and counts it.
#[derive(Default)]
struct CountingWire {
    bytes: u64,
}

impl Wire for CountingWire {
    fn send(&mut self, batch: &Batch<'_>, _shortfalls: &mut Vec<Shortfall>) {
        for send in &batch.sends {
            self.bytes += batch.span(send.span).iter().map(|slice| slice.len() as u64).sum::<u64>();
        }
    }
}
