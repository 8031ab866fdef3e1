//! A crowd to test with: a stream, fake sockets, and a clock that a test moves.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::crowd::{Crowd, CrowdEvents, CrowdLimits, PlayerStats, Scratch, Turn};
use super::flush::{Batch, Send, Shortfall, Socket, Wire};
use super::player::PlayerStart;
use crate::media::{ConnectionId, ShardId};
use crate::proto::flv::FILE_HEADER;
use crate::stream::testing::Writer;
use crate::stream::{Packaging, TrackSet};

/// Sockets that take what there is room for; one without an entry takes everything.
#[derive(Default)]
pub(crate) struct FakeWire {
    pub(crate) room: BTreeMap<i32, u64>,
    pub(crate) broken: Vec<i32>,
    /// Sockets that take nothing that is to be cut into datagrams.
    pub(crate) uncut: Vec<i32>,
    pub(crate) got: BTreeMap<i32, Vec<u8>>,
    pub(crate) submissions: Vec<usize>,
}

impl Wire for FakeWire {
    fn send(&mut self, batch: &Batch<'_>, shortfalls: &mut Vec<Shortfall>) {
        self.submissions.push(batch.sends.len());
        for send in &batch.sends {
            let bytes: Vec<u8> =
                batch.span(send.span).iter().flat_map(|slice| slice.to_vec()).collect();
            let Send { socket: Socket(fd), ticket, .. } = *send;
            let is_cut = batch.spans[send.span as usize].segment_len > 0;
            if is_cut && self.uncut.contains(&fd) {
                shortfalls.push(Shortfall { ticket, sent: 0, errno: Some(libc::EMSGSIZE) });
                continue;
            }
            let room = self.room.get(&fd).copied().unwrap_or(u64::MAX);
            let sent = room.min(bytes.len() as u64);
            self.room.entry(fd).and_modify(|room| *room -= sent);
            self.got.entry(fd).or_default().extend_from_slice(&bytes[..sent as usize]);
            let errno = self.broken.contains(&fd).then_some(32);
            if sent < bytes.len() as u64 || errno.is_some() {
                shortfalls.push(Shortfall { ticket, sent, errno });
            }
        }
    }
}

pub(crate) struct Scene {
    pub(crate) writer: Writer,
    pub(crate) crowd: Crowd,
    pub(crate) wire: FakeWire,
    pub(crate) limits: CrowdLimits,
    pub(crate) scratch: Scratch,
    pub(crate) now: Instant,
}

impl Scene {
    /// A stream with its configurations, a keyframe and a frame, all flushed.
    pub(crate) fn new() -> Self {
        let mut writer = Writer::opened();
        writer.keyframe(0, 500);
        writer.frame(40, 100);
        writer.log.flush();
        let mut crowd = Crowd::default();
        crowd.follow(&writer.log);
        Self {
            writer,
            crowd,
            wire: FakeWire::default(),
            limits: CrowdLimits {
                lag_bytes_max: 5000,
                lag_evict: Duration::from_secs(10),
                gso: true,
            },
            scratch: Scratch::default(),
            now: crate::clock::now(),
        }
    }

    pub(crate) fn turn(&mut self, act: impl FnOnce(&mut Crowd, &mut Turn<'_>)) -> CrowdEvents {
        let mut events = CrowdEvents::default();
        let mut turn = Turn {
            log: &self.writer.log,
            now: self.now,
            limits: &self.limits,
            wire: &mut self.wire,
            scratch: &mut self.scratch,
            events: &mut events,
        };
        act(&mut self.crowd, &mut turn);
        events
    }

    pub(crate) fn join(&mut self, fd: i32, packaging: Packaging) -> CrowdEvents {
        let start = PlayerStart {
            id: id(fd),
            socket: Socket(fd),
            packaging,
            unsent: Bytes::new(),
            tracks: TrackSet::ALL,
        };
        self.turn(|crowd, turn| {
            let index = crowd.join(turn.log, start, turn.now);
            crowd.advance(index, turn);
        })
    }

    pub(crate) fn flush(&mut self) -> CrowdEvents {
        self.writer.log.flush();
        self.turn(|crowd, turn| crowd.flush(turn))
    }

    pub(crate) fn writable(&mut self, fd: i32, room: u64) -> CrowdEvents {
        self.wire.room.insert(fd, room);
        self.turn(|crowd, turn| crowd.writable(id(fd), turn))
    }

    pub(crate) fn stats(&self, fd: i32) -> PlayerStats {
        self.crowd.stats(&self.writer.log).find(|of| of.id == id(fd)).expect("it plays")
    }

    pub(crate) fn timestamps(&self, fd: i32) -> Vec<u32> {
        flv_timestamps(&self.wire.got[&fd])
    }
}

pub(crate) fn id(fd: i32) -> ConnectionId {
    ConnectionId { serial: fd.unsigned_abs(), shard: ShardId(0) }
}

/// Timestamps of all tags, each of which must be whole, configurations left out.
fn flv_timestamps(bytes: &[u8]) -> Vec<u32> {
    let mut rest = bytes.strip_prefix(&FILE_HEADER[..]).expect("the file header");
    let mut stamps = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
        let is_frame = rest[0] != 18 && rest[12] == 1;
        if is_frame {
            stamps.push(u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]]));
        }
        rest = &rest[11 + len + 4..];
    }
    stamps
}
