//! Packets in the order of their sequence numbers, within a bound of packets and time.
//!
//! A gap is waited for until `hold` has passed since it showed, or until more than
//! [`REORDER_PACKETS_MAX`] numbers would be under way; then what is missing is lost. A sequence that
//! jumps further than RFC 3550 A.1 takes for loss begins anew once two packets agree on it. What a
//! packet is, is the caller's: a view, a place in a log.
//!
//! The first packet to come need not be the first that was sent. So it waits as long for those before it,
//! [`OPENING_LEN`] at most, unless it is the one that the source announced; none of them is missed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::REORDER_PACKETS_MAX;

/// Puts one track's packets in order.
#[derive(Debug)]
pub struct Reorder<T> {
    hold: Duration,
    /// The number that the source says it begins with.
    announced: Option<u16>,
    /// Nothing was handed out or given up: what is missing at the front may never have been sent.
    is_opening: bool,
    /// The sequence number that is due; `None` before the first packet.
    due: Option<u16>,
    /// What came before it was due: place `i` is for `due + i`. The first place is always empty.
    window: VecDeque<Option<Held<T>>>,
    /// When the gap at the front showed; present while something waits behind it.
    gap_since: Option<Instant>,
    /// The gap before the next packet that is handed out.
    gap: Gap,
    /// Which of the numbers before `due` were handed out; bit 0 is `due - 1`.
    delivered: u128,
    /// The number that would confirm a sequence that began anew.
    restart_due: Option<u16>,
    ready: VecDeque<Ordered<T>>,
    counts: ReorderCounts,
}

#[derive(Debug)]
struct Held<T> {
    arrival: Instant,
    item: T,
}

/// A packet whose turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordered<T> {
    pub item: T,
    /// What is missing right before it.
    pub gap: Gap,
}

/// What a packet is in the sequence of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The sequence begins with it, be it anew.
    First,
    /// It belongs there, be it late or a duplicate.
    Further,
    /// It jumped out of it and was dropped.
    Stray,
}

/// What is missing before a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Gap {
    #[default]
    None,
    /// That many packets did not come in time.
    Lost(u32),
    /// The sender began a new sequence: how much is missing is not known.
    Restart,
}

/// What became of the packets of a track.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReorderCounts {
    /// Handed out in their turn.
    pub delivered: u64,
    /// Of those, the ones that waited for an earlier one.
    pub held: u64,
    pub lost: u64,
    /// Came a second time.
    pub duplicate: u64,
    /// Came after they had been given up.
    pub late: u64,
    /// Jumped out of the sequence and were not followed.
    pub stray: u64,
    /// Sequences that began anew.
    pub restarts: u64,
}

impl<T> Reorder<T> {
    /// Waits for a missing packet for `hold` at most; zero hands out what comes at once, for
    /// transports that keep the order.
    pub fn new(hold: Duration) -> Self {
        Self {
            hold,
            announced: None,
            is_opening: true,
            due: None,
            window: VecDeque::new(),
            gap_since: None,
            gap: Gap::None,
            delivered: 0,
            restart_due: None,
            ready: VecDeque::new(),
            counts: ReorderCounts::default(),
        }
    }

    /// The source says that its sequence begins with this number (`seq` of `RTP-Info`, RFC 2326, 12.33). Where
    /// that is not so, nothing but the wait for what may come before the first packet is in vain.
    pub fn announce(&mut self, sequence: u16) {
        self.announced = Some(sequence);
    }

    /// Takes the packet with this sequence number, and tells what it is there. What it makes ready is
    /// in [`Self::poll_packet`].
    pub fn handle_packet(&mut self, now: Instant, sequence: u16, item: T) -> Standing {
        let is_first = self.due.is_none();
        let first_due = self.first_due(sequence);
        let due = *self.due.get_or_insert(first_due);
        let ahead = sequence.wrapping_sub(due).cast_signed();
        let standing = match usize::try_from(ahead) {
            Ok(ahead) if ahead < DROPOUT_MAX => {
                self.place(now, sequence, ahead, item);
                if is_first { Standing::First } else { Standing::Further }
            }
            Err(_) if ahead > -MISORDER_MAX => {
                self.count_past(ahead);
                Standing::Further
            }
            _ => self.on_jump(now, sequence, item),
        };
        self.handle_timeout(now);
        standing
    }

    /// Gives up what was waited for long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.gap_since.is_some_and(|since| now >= since + self.hold) {
            self.skip_gap();
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.gap_since.map(|since| since + self.hold)
    }

    /// The next packet in order.
    pub fn poll_packet(&mut self) -> Option<Ordered<T>> {
        self.ready.pop_front()
    }

    /// Hands out what waits, gaps and all. The next packet may begin anywhere.
    pub fn flush(&mut self) {
        while self.gap_since.is_some() {
            self.skip_gap();
        }
        self.due = None;
        self.is_opening = false;
    }

    /// The sender begins anew with the next packet, wherever its sequence is: what waits is handed
    /// out before it.
    pub fn restart(&mut self) {
        self.flush();
        self.counts.restarts += 1;
        self.gap = Gap::Restart;
        self.delivered = 0;
        self.restart_due = None;
    }

    /// Whether a packet with this number would be handed out at once.
    pub fn is_due(&self, sequence: u16) -> bool {
        self.due.unwrap_or_else(|| self.first_due(sequence)) == sequence
    }

    /// The number that is due where this one is the first to come.
    fn first_due(&self, sequence: u16) -> u16 {
        if !self.is_opening || self.hold.is_zero() {
            return sequence;
        }
        let before = self.announced.map(|announced| sequence.wrapping_sub(announced));
        sequence.wrapping_sub(before.filter(|&before| before <= OPENING_LEN).unwrap_or(OPENING_LEN))
    }

    pub fn counts(&self) -> ReorderCounts {
        self.counts
    }

    fn place(&mut self, now: Instant, sequence: u16, ahead: usize, item: T) {
        self.restart_due = None;
        let mut ahead = ahead;
        while ahead >= REORDER_PACKETS_MAX {
            if self.gap_since.is_none() {
                self.lose(ahead);
                return self.deliver(item);
            }
            self.skip_gap();
            let due = self.due.expect("a packet came before");
            ahead = usize::from(sequence.wrapping_sub(due));
        }
        if ahead == 0 {
            self.window.pop_front();
            self.deliver(item);
            return self.deliver_front();
        }
        if self.window.len() <= ahead {
            self.window.resize_with(ahead + 1, || None);
        }
        let place = &mut self.window[ahead];
        if place.is_some() {
            self.counts.duplicate += 1;
            return;
        }
        *place = Some(Held { arrival: now, item });
        self.counts.held += 1;
        self.gap_since.get_or_insert(now);
    }

    fn count_past(&mut self, ahead: i16) {
        let age = u32::from(ahead.unsigned_abs()) - 1;
        if age < u128::BITS && self.delivered >> age & 1 == 1 {
            self.counts.duplicate += 1;
        } else {
            self.counts.late += 1;
        }
    }

    fn on_jump(&mut self, now: Instant, sequence: u16, item: T) -> Standing {
        if self.restart_due != Some(sequence) {
            self.restart_due = Some(sequence.wrapping_add(1));
            self.counts.stray += 1;
            return Standing::Stray;
        }
        self.restart();
        self.due = Some(sequence);
        self.place(now, sequence, 0, item);
        Standing::First
    }

    /// Passes the empty places at the front and hands out what is behind them.
    fn skip_gap(&mut self) {
        let missing = self.window.iter().take_while(|place| place.is_none()).count();
        self.window.drain(..missing);
        self.lose(missing);
        self.deliver_front();
    }

    /// Hands out what waits without a gap before it.
    fn deliver_front(&mut self) {
        while let Some(Some(_)) = self.window.front() {
            let held = self.window.pop_front().flatten().expect("the front is filled");
            self.deliver(held.item);
        }
        self.gap_since = self.window.iter().flatten().map(|held| held.arrival).min();
    }

    fn lose(&mut self, count: usize) {
        self.due = self.due.map(|due| due.wrapping_add(count as u16));
        if std::mem::take(&mut self.is_opening) {
            return;
        }
        let lost = u32::try_from(count).expect("a window is shorter");
        self.counts.lost += u64::from(lost);
        self.delivered = self.delivered.checked_shl(lost).unwrap_or(0);
        self.gap = match self.gap {
            Gap::None => Gap::Lost(lost),
            Gap::Lost(before) => Gap::Lost(before + lost),
            Gap::Restart => Gap::Restart,
        };
    }

    fn deliver(&mut self, item: T) {
        self.is_opening = false;
        self.due = self.due.map(|due| due.wrapping_add(1));
        self.delivered = self.delivered << 1 | 1;
        self.counts.delivered += 1;
        self.ready.push_back(Ordered { item, gap: std::mem::take(&mut self.gap) });
    }
}

/// `MAX_DROPOUT` and `MAX_MISORDER` of RFC 3550 A.1: a step ahead up to the one is loss, back up to
/// the other is disorder.
const DROPOUT_MAX: usize = 3000;
const MISORDER_MAX: i16 = 100;

/// Packets that may have been sent before the first one that comes: networks put few of them out of order.
const OPENING_LEN: u16 = 32;

const _: () = assert!(REORDER_PACKETS_MAX < DROPOUT_MAX);
const _: () = assert!((OPENING_LEN as usize) < REORDER_PACKETS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_millis(100);

    struct Bench {
        reorder: Reorder<u16>,
        now: Instant,
    }

    impl Bench {
        fn new(hold: Duration) -> Self {
            Self { reorder: Reorder::new(hold), now: crate::clock::now() }
        }

        /// Gives the packets, a millisecond apart; what is ready then. The very first one is announced.
        fn feed(&mut self, sequences: &[u16]) -> Vec<(u16, Gap)> {
            if self.reorder.announced.is_none() {
                self.reorder.announce(sequences[0]);
            }
            for &sequence in sequences {
                self.now += Duration::from_millis(1);
                self.reorder.handle_packet(self.now, sequence, sequence);
            }
            self.ready()
        }

        fn wait(&mut self, time: Duration) -> Vec<(u16, Gap)> {
            self.now += time;
            self.reorder.handle_timeout(self.now);
            self.ready()
        }

        fn ready(&mut self) -> Vec<(u16, Gap)> {
            let ready = std::iter::from_fn(|| self.reorder.poll_packet());
            ready.map(|packet| (packet.item, packet.gap)).collect()
        }
    }

    fn whole(sequences: &[u16]) -> Vec<(u16, Gap)> {
        sequences.iter().map(|&sequence| (sequence, Gap::None)).collect()
    }

    #[test]
    fn order_is_restored_over_the_wrap() {
        let mut bench = Bench::new(HOLD);
        let arrivals = [0xfffd, 0xffff, 0, 0xfffe, 2, 1, 3];
        assert_eq!(bench.feed(&arrivals), whole(&[0xfffd, 0xfffe, 0xffff, 0, 1, 2, 3]));
        assert_eq!(bench.reorder.poll_timeout(), None);
        let counts = ReorderCounts { delivered: 7, held: 3, ..ReorderCounts::default() };
        assert_eq!(bench.reorder.counts(), counts);
    }

    #[test]
    fn first_packet_waits_for_those_before_it() {
        const NONE: u16 = 40_000;
        // Of what was announced, and what comes: what is handed out at once, and when the wait is over.
        type Case = (u16, &'static [u16], &'static [u16], &'static [u16]);
        let whole_at_once: [Case; 6] = [
            (100, &[101, 100, 102], &[100, 101, 102], &[]),
            (101, &[101, 100, 102], &[101, 102], &[]),
            (NONE, &[101, 100, 102], &[], &[100, 101, 102]),
            (102, &[101, 100, 102], &[], &[100, 101, 102]),
            (98, &[101, 100], &[], &[100, 101]),
            (0xffff, &[1, 0, 0xffff], &[0xffff, 0, 1], &[]),
        ];
        for (announced, arrivals, at_once, later) in whole_at_once {
            let mut bench = Bench::new(HOLD);
            bench.reorder.announce(announced);
            assert_eq!(bench.feed(arrivals), whole(at_once), "{announced}: {arrivals:?}");
            assert_eq!(bench.wait(HOLD), whole(later), "{announced}: {arrivals:?}");
            let ReorderCounts { lost, duplicate, .. } = bench.reorder.counts();
            assert_eq!((lost, duplicate), (0, 0), "none is missed that may never have been sent");
            assert_eq!(bench.reorder.poll_timeout(), None);
        }
        // Between two that came some were sent.
        let mut bench = Bench::new(HOLD);
        bench.reorder.announce(NONE);
        assert_eq!(bench.feed(&[103, 100, 101]), []);
        let ready = bench.wait(HOLD);
        assert_eq!(ready, [(100, Gap::None), (101, Gap::None), (103, Gap::Lost(1))]);
        // What came before a sequence that begins anew is handed out before it.
        let mut bench = Bench::new(HOLD);
        bench.reorder.announce(NONE);
        assert_eq!(bench.feed(&[103, 20_000]), []);
        assert_eq!(bench.feed(&[20_001]), [(103, Gap::None), (20_001, Gap::Restart)]);
    }

    #[test]
    fn gap_is_waited_for_and_then_lost() {
        let mut bench = Bench::new(HOLD);
        assert_eq!(bench.feed(&[10, 13, 12]), whole(&[10]));
        // 13 came at 2 ms; that 12 came at 3 ms does not prolong its wait.
        let due = bench.reorder.poll_timeout().unwrap();
        assert_eq!(due, bench.now - Duration::from_millis(1) + HOLD);
        assert_eq!(bench.wait(Duration::from_millis(98)), []);
        assert_eq!(bench.wait(Duration::from_millis(1)), [(12, Gap::Lost(1)), (13, Gap::None)]);
        assert_eq!(bench.feed(&[11, 12, 14]), whole(&[14]));
        let counts = bench.reorder.counts();
        assert_eq!((counts.lost, counts.late, counts.duplicate), (1, 1, 1));
    }

    #[test]
    fn each_gap_has_its_own_time() {
        let mut bench = Bench::new(HOLD);
        assert_eq!(bench.feed(&[1, 3]), whole(&[1]));
        assert_eq!(bench.wait(Duration::from_millis(50)), []);
        assert_eq!(bench.feed(&[5]), []);
        assert_eq!(bench.wait(Duration::from_millis(49)), [(3, Gap::Lost(1))]);
        assert_eq!(bench.wait(Duration::from_millis(49)), []);
        assert_eq!(bench.wait(Duration::from_millis(2)), [(5, Gap::Lost(1))]);
        assert_eq!(bench.reorder.poll_timeout(), None);
    }

    #[test]
    fn without_hold_nothing_waits() {
        let mut bench = Bench::new(Duration::ZERO);
        assert_eq!(bench.feed(&[1, 4]), [(1, Gap::None), (4, Gap::Lost(2))]);
        assert_eq!(bench.feed(&[3, 5]), whole(&[5]));
        assert_eq!(bench.reorder.counts().late, 1);
    }

    #[test]
    fn window_is_bounded_by_packets() {
        let mut bench = Bench::new(HOLD);
        let max = REORDER_PACKETS_MAX as u16;
        assert_eq!(bench.feed(&[0, 2, max]), whole(&[0]));
        // One more would be too far from number 1, which is given up for it.
        assert_eq!(bench.feed(&[max + 1]), [(2, Gap::Lost(1))]);
        let lost = u32::from(max) - 3;
        assert_eq!(bench.wait(HOLD), [(max, Gap::Lost(lost)), (max + 1, Gap::None)]);
        // A jump over the whole window leaves nothing to wait for.
        let far = max + 2 + 2000;
        assert_eq!(bench.feed(&[far]), [(far, Gap::Lost(2000))]);
        assert!(bench.reorder.window.is_empty());
    }

    #[test]
    fn packet_behind_a_full_window_may_be_due_at_once() {
        let mut bench = Bench::new(100 * HOLD);
        let max = REORDER_PACKETS_MAX as u16;
        let last = max - 1;
        assert_eq!(bench.feed(&[u16::MAX]), whole(&[u16::MAX]));
        let held: Vec<u16> = (1..=last).collect();
        assert_eq!(bench.feed(&held), []);
        let mut ready = bench.feed(&[max]);
        assert_eq!(ready.remove(0), (1, Gap::Lost(1)));
        assert_eq!(ready, whole(&(2..=max).collect::<Vec<_>>()));
        assert_eq!(bench.feed(&[max + 1]), whole(&[max + 1]));
    }

    #[test]
    fn new_sequence_needs_two_packets() {
        let mut bench = Bench::new(HOLD);
        assert_eq!(bench.feed(&[100, 102, 40_000]), whole(&[100]));
        assert_eq!(bench.feed(&[40_002]), []);
        let ready = bench.feed(&[40_003]);
        assert_eq!(ready, [(102, Gap::Lost(1)), (40_003, Gap::Restart)]);
        assert_eq!(bench.feed(&[40_004]), whole(&[40_004]));
        let counts = bench.reorder.counts();
        assert_eq!((counts.stray, counts.restarts, counts.lost), (2, 1, 1));
        // One stray packet between two good ones changes nothing.
        assert_eq!(bench.feed(&[7, 40_005]), whole(&[40_005]));
        assert_eq!(bench.feed(&[8]), []);
    }

    #[test]
    fn flushed_order_begins_anywhere() {
        let mut bench = Bench::new(HOLD);
        bench.feed(&[1, 3]);
        bench.reorder.flush();
        assert_eq!(bench.ready(), [(3, Gap::Lost(1))]);
        assert_eq!(bench.feed(&[9000]), whole(&[9000]));
        assert_eq!(bench.reorder.counts().lost, 1);
    }

    #[test]
    fn nothing_comes_twice_or_out_of_order() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bench = Bench::new(HOLD);
            let start = random.u16(..);
            let mut arrivals: Vec<u16> = (0..2000).map(|n| start.wrapping_add(n)).collect();
            for at in 1..arrivals.len() - 30 {
                match random.u8(..20) {
                    0 => arrivals.swap(at, at + random.usize(..30)),
                    1 => arrivals[at] = arrivals[at - 1],
                    _ => {}
                }
            }
            let mut ready = bench.feed(&arrivals);
            ready.extend(bench.wait(HOLD));
            let mut previous = start.wrapping_sub(1);
            for (sequence, gap) in ready {
                let lost = match gap {
                    Gap::None => 0,
                    Gap::Lost(lost) => lost,
                    Gap::Restart => panic!("seed {seed}: restarted"),
                };
                assert_eq!(u32::from(sequence.wrapping_sub(previous)), lost + 1, "seed {seed}");
                previous = sequence;
            }
            let counts = bench.reorder.counts();
            let seen = counts.delivered + counts.duplicate + counts.late + counts.stray;
            assert_eq!(seen, 2000, "seed {seed}");
        }
    }
}
