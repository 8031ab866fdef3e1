//! One flush of all streams of a shard that have something new, in one submission.
//!
//! The batch of all streams is what makes 1,000 streams with one player each as cheap as one with
//! 1,000: a submission of one send costs more than the system call.

use std::time::Instant;

use super::crowd::{Crowd, CrowdEvents, CrowdLimits, Scratch, Turn};
use super::flush::{Batch, Wire};
use crate::stream::{Log, Packaging, Span};

/// A crowd that has something to get, the log that it reads, and what the flush led to.
pub struct Due<'a> {
    pub crowd: &'a mut Crowd,
    pub log: &'a Log,
    pub events: CrowdEvents,
}

/// What a stream gives out in this round, in each packaging that is wanted.
#[derive(Default)]
pub(super) struct Staged {
    pub(super) from: u64,
    pub(super) to: u64,
    /// In the order of [`Packaging::SHARED`].
    pub(super) spans: [Span; Packaging::SHARED.len()],
}

impl Staged {
    /// Bytes that a caught-up player gets in this round. Where they are more than one send takes,
    /// none: everybody goes on from their own cursor.
    pub(super) fn len(&self, place: usize) -> u64 {
        let span = &self.spans[place];
        if span.end().seq == self.to { span.len() } else { 0 }
    }
}

/// Sends what was flushed to all who have everything before it, and lets the others catch up.
pub fn flush(
    dues: &mut [Due<'_>],
    now: Instant,
    limits: &CrowdLimits,
    wire: &mut dyn Wire,
    scratch: &mut Scratch,
) {
    let mut staged = std::mem::take(&mut scratch.staged);
    if staged.len() < dues.len() {
        staged.resize_with(dues.len(), Staged::default);
    }
    for (due, staged) in dues.iter_mut().zip(&mut staged) {
        due.crowd.stage(due.log, staged);
    }
    send(dues, &staged, now, wire, scratch);
    for (due, staged) in dues.iter_mut().zip(&staged) {
        let Due { crowd, log, events } = due;
        let turn = &mut Turn { log, now, limits, wire, scratch, events };
        crowd.flush_others(staged.from, turn);
        crowd.flush_datagrams(staged.from..staged.to, turn);
    }
    scratch.staged = staged;
}

fn send(
    dues: &mut [Due<'_>],
    staged: &[Staged],
    now: Instant,
    wire: &mut dyn Wire,
    scratch: &mut Scratch,
) {
    let mut batch = Batch::new(std::mem::take(&mut scratch.lists));
    for (index, (due, staged)) in dues.iter_mut().zip(staged).enumerate() {
        let ticket_base = (index as u64) << TICKET_PLAYER_BITS;
        due.crowd.fill(staged, due.log, ticket_base, now, &mut batch);
    }
    scratch.shortfalls.clear();
    if !batch.sends.is_empty() {
        wire.send(&batch, &mut scratch.shortfalls);
    }
    scratch.lists = batch.into_lists();
    for shortfall in scratch.shortfalls.drain(..) {
        let due = (shortfall.ticket >> TICKET_PLAYER_BITS) as usize;
        let player = (shortfall.ticket & TICKET_PLAYER_MASK) as usize;
        let Due { crowd, log, events } = &mut dues[due];
        crowd.take_back(&staged[due], log, (player, shortfall), now, events);
    }
}

/// A ticket is the place of a crowd in the round, then of the player in its crowd.
const TICKET_PLAYER_BITS: u32 = 32;
const TICKET_PLAYER_MASK: u64 = (1 << TICKET_PLAYER_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, id};
    use super::*;

    /// Flushes all through the first one's wire; what each led to.
    fn flush_all(scenes: &mut [Scene]) -> Vec<CrowdEvents> {
        let (first, rest) = scenes.split_at_mut(1);
        let Scene { writer, crowd, wire, limits, scratch, now } = &mut first[0];
        writer.log.flush();
        let mut dues = vec![Due { crowd, log: &writer.log, events: CrowdEvents::default() }];
        for Scene { writer, crowd, .. } in rest {
            writer.log.flush();
            dues.push(Due { crowd, log: &writer.log, events: CrowdEvents::default() });
        }
        flush(&mut dues, *now, limits, wire, scratch);
        dues.into_iter().map(|due| due.events).collect()
    }

    /// Three streams with two players each, and a frame that nobody has.
    fn scenes() -> Vec<Scene> {
        let mut scenes: Vec<Scene> = (0..3).map(|_| Scene::new()).collect();
        for (index, scene) in scenes.iter_mut().enumerate() {
            for fd in [index as i32, 10 + index as i32] {
                scene.join(fd, Packaging::SHARED[index]);
            }
        }
        for scene in &mut scenes {
            scene.writer.frame(80, 300);
            scene.writer.audio(85, 30);
        }
        scenes[0].wire.submissions.clear();
        scenes
    }

    #[test]
    fn all_streams_share_one_submission() {
        let mut scenes = scenes();
        let before = scenes[0].wire.got[&0].clone();
        flush_all(&mut scenes);
        assert_eq!(scenes[0].wire.submissions, [6]);
        for scene in &mut scenes {
            scene.writer.frame(120, 10);
        }
        flush_all(&mut scenes);
        assert_eq!(scenes[0].wire.submissions, [6, 6]);
        let wire = &scenes[0].wire;
        for stream in 0..3 {
            assert_eq!(wire.got[&stream], wire.got[&(10 + stream)]);
        }
        assert!(wire.got[&0].starts_with(&before));
        assert_eq!(scenes[0].timestamps(0), [0, 40, 80, 85, 120]);
        for scene in &scenes {
            let sent: Vec<u64> =
                scene.crowd.stats(&scene.writer.log).map(|of| of.lag_bytes).collect();
            assert_eq!(sent, [0, 0]);
        }
    }

    #[test]
    fn a_full_or_broken_socket_of_one_stream_is_that_streams_alone() {
        let mut scenes = scenes();
        scenes[0].wire.room.insert(11, 33);
        scenes[0].wire.broken.push(2);
        let events = flush_all(&mut scenes);
        assert_eq!((&events[1].blocked[..], &events[1].broken[..]), (&[id(11)][..], &[][..]));
        assert_eq!((&events[2].blocked[..], &events[2].broken[..]), (&[][..], &[id(2)][..]));
        assert!(events[0].blocked.is_empty() && events[0].broken.is_empty());
        assert_eq!(scenes[0].wire.got[&11].len(), 33);
        scenes[0].wire.room.remove(&11);
        let Scene { wire, limits, scratch, now, .. } = &mut scenes.remove(0);
        let Scene { writer, crowd, .. } = &mut scenes[0];
        let mut events = CrowdEvents::default();
        let log = &writer.log;
        crowd.writable(
            id(11),
            &mut Turn { log, now: *now, limits, wire, scratch, events: &mut events },
        );
        assert_eq!(wire.got[&11], wire.got[&1]);
    }

    #[test]
    fn a_broken_socket_gets_nothing_more() {
        let mut scenes = scenes();
        scenes[0].wire.broken.push(0);
        assert_eq!(flush_all(&mut scenes)[0].broken, [id(0)]);
        let got = scenes[0].wire.got[&0].len();
        scenes[0].writer.frame(120, 10);
        assert!(flush_all(&mut scenes)[0].broken.is_empty());
        assert_eq!(scenes[0].wire.got[&0].len(), got);
    }
}
