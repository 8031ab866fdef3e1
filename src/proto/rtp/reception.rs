//! What a receiver has seen of one source: loss and jitter for its reports (RFC 3550, A.1, A.3, A.8).

use std::time::{Duration, Instant};

use crate::proto::rtp::packet::RtpHeader;
use crate::proto::rtp::rtcp::{ReportBlock, SenderReport};

/// Statistics of one source, from its first packet on. A sender that changes its SSRC is another
/// source.
#[derive(Debug, Clone)]
pub struct Reception {
    ssrc: u32,
    clock_rate: u32,
    first_sequence: u32,
    /// With the count of wraps above the 16 bits.
    highest_sequence: u32,
    received: u32,
    expected_before: u32,
    received_before: u32,
    /// In 16ths of a tick.
    jitter: u32,
    last_arrival: Instant,
    last_timestamp: u32,
    last_report: Option<(u32, Instant)>,
}

impl Reception {
    /// Begins with the source's first packet. `clock_rate` in Hz.
    pub fn new(now: Instant, clock_rate: u32, first: RtpHeader) -> Self {
        let sequence = u32::from(first.sequence);
        Self {
            ssrc: first.ssrc,
            clock_rate,
            first_sequence: sequence,
            highest_sequence: sequence,
            received: 1,
            expected_before: 0,
            received_before: 0,
            jitter: 0,
            last_arrival: now,
            last_timestamp: first.timestamp,
            last_report: None,
        }
    }

    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Takes each further packet of the source's sequence as it arrives, late ones and duplicates
    /// included. One that jumps out of it must not come here: it would count as a step ahead.
    pub fn on_packet(&mut self, now: Instant, header: RtpHeader) {
        let ahead = header.sequence.wrapping_sub(self.highest_sequence as u16).cast_signed();
        let place = self.highest_sequence.wrapping_add_signed(i32::from(ahead));
        // One that was sent before the first that came is not expected (A.3): where it counted, it would
        // hide the loss of another.
        let is_expected = place.wrapping_sub(self.first_sequence).cast_signed() >= 0;
        self.received = self.received.wrapping_add(u32::from(is_expected));
        self.highest_sequence = if ahead >= 0 { place } else { self.highest_sequence };
        self.note_arrival(now, header);
    }

    /// The source's sequence begins anew with this packet, and what is counted with it (RFC 3550, A.1).
    /// Jitter and the last sender report are the source's still.
    pub fn restart(&mut self, now: Instant, first: RtpHeader) {
        self.first_sequence = u32::from(first.sequence);
        self.highest_sequence = self.first_sequence;
        self.received = 1;
        self.expected_before = 0;
        self.received_before = 0;
        self.note_arrival(now, first);
    }

    /// Takes a sender report of the source.
    pub fn on_sender_report(&mut self, now: Instant, report: &SenderReport) {
        if report.ssrc == self.ssrc {
            self.last_report = Some((report.ntp.middle(), now));
        }
    }

    /// Packets that should have come and did not, up to now.
    pub fn lost(&self) -> u32 {
        self.expected().saturating_sub(self.received)
    }

    /// The block for the next report. The fraction is that since the last call.
    pub fn report_block(&mut self, now: Instant) -> ReportBlock {
        let expected = self.expected();
        let expected_interval = expected.wrapping_sub(self.expected_before);
        let received_interval = self.received.wrapping_sub(self.received_before);
        self.expected_before = expected;
        self.received_before = self.received;
        let lost_interval = expected_interval.saturating_sub(received_interval);
        let fraction = (u64::from(lost_interval) << 8) / u64::from(expected_interval.max(1));
        let (last_report, delay) = self.last_report.map_or((0, 0), |(middle, arrival)| {
            (middle, ticks(now.saturating_duration_since(arrival), 1 << 16))
        });
        ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: fraction.min(255) as u8,
            cumulative_lost: expected.wrapping_sub(self.received).cast_signed(),
            highest_sequence: self.highest_sequence,
            jitter: self.jitter >> 4,
            last_report,
            delay,
        }
    }

    fn note_arrival(&mut self, now: Instant, header: RtpHeader) {
        let between = ticks(now.saturating_duration_since(self.last_arrival), self.clock_rate);
        let sent_between = header.timestamp.wrapping_sub(self.last_timestamp);
        let difference = between.wrapping_sub(sent_between).cast_signed().unsigned_abs();
        self.last_arrival = now;
        self.last_timestamp = header.timestamp;
        // A jump of the source's clock is no jitter.
        if difference < self.clock_rate.saturating_mul(JUMP_SECONDS) {
            let decay = self.jitter.saturating_add(8) >> 4;
            self.jitter = (self.jitter - decay).saturating_add(difference);
        }
    }

    fn expected(&self) -> u32 {
        self.highest_sequence.wrapping_sub(self.first_sequence).wrapping_add(1)
    }
}

/// Modulo 2^32.
fn ticks(time: Duration, rate: u32) -> u32 {
    (time.as_nanos() * u128::from(rate) / 1_000_000_000) as u32
}

const JUMP_SECONDS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rtp::rtcp::NtpTime;

    fn header(sequence: u16, timestamp: u32) -> RtpHeader {
        RtpHeader { marker: false, payload_type: 96, sequence, timestamp, ssrc: 7 }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn loss_is_counted_over_the_wrap() {
        let now = crate::clock::now();
        let mut reception = Reception::new(now, 90_000, header(65_534, 0));
        reception.on_packet(now, header(1, 0));
        let block = reception.report_block(now);
        assert_eq!((block.highest_sequence, block.cumulative_lost), (65_537, 2));
        assert_eq!((block.fraction_lost, reception.lost()), (128, 2));
        // One comes late, one new: none of one is missing.
        reception.on_packet(now, header(65_535, 0));
        reception.on_packet(now, header(2, 0));
        let block = reception.report_block(now);
        assert_eq!((block.highest_sequence, block.cumulative_lost), (65_538, 1));
        assert_eq!(block.fraction_lost, 0);
    }

    #[test]
    fn first_packet_may_come_second() {
        let now = crate::clock::now();
        for [first, second, third] in [[101, 100, 103], [0, u16::MAX, 2]] {
            let mut reception = Reception::new(now, 90_000, header(first, 0));
            reception.on_packet(now, header(second, 0));
            assert_eq!(reception.report_block(now).cumulative_lost, 0);
            reception.on_packet(now, header(third, 0));
            let block = reception.report_block(now);
            assert_eq!((block.cumulative_lost, block.fraction_lost), (1, 128));
        }
    }

    #[test]
    fn packet_from_before_the_first_one_is_no_loss_and_hides_none() {
        let now = crate::clock::now();
        for first in [500_u16, 3, 65_530] {
            let sequence = |place: u16| header(first.wrapping_add(place), 0);
            let mut reception = Reception::new(now, 90_000, header(first, 0));
            reception.on_packet(now, sequence(1));
            reception.on_packet(now, header(first.wrapping_sub(90), 0));
            let block = reception.report_block(now);
            assert_eq!((block.cumulative_lost, block.fraction_lost, reception.lost()), (0, 0, 0));
            reception.on_packet(now, sequence(3));
            reception.on_packet(now, header(first.wrapping_sub(1), 0));
            let block = reception.report_block(now);
            assert_eq!((block.cumulative_lost, block.fraction_lost, reception.lost()), (1, 128, 1));
            assert_eq!(block.highest_sequence, u32::from(first) + 3);
        }
    }

    #[test]
    fn duplicates_may_outnumber_losses() {
        let now = crate::clock::now();
        let mut reception = Reception::new(now, 8000, header(5, 0));
        reception.on_packet(now, header(5, 0));
        let block = reception.report_block(now);
        assert_eq!((block.cumulative_lost, block.fraction_lost), (-1, 0));
        assert_eq!(reception.lost(), 0);
    }

    #[test]
    fn jitter_is_that_of_arrival_against_timestamps() {
        let start = crate::clock::now();
        let mut reception = Reception::new(start, 90_000, header(0, u32::MAX - 1799));
        // As regular as they were sent.
        for packet in 1..=50 {
            let sent = (u32::MAX - 1799).wrapping_add(1800 * packet);
            reception.on_packet(start + 20 * MS * packet, header(packet as u16, sent));
        }
        assert_eq!(reception.report_block(start).jitter, 0);
        // Each second one 10 ms late: the difference is 900 ticks always.
        for packet in 51..=400 {
            let late = 10 * MS * (packet % 2);
            let sent = (u32::MAX - 1799).wrapping_add(1800 * packet);
            reception.on_packet(start + 20 * MS * packet + late, header(packet as u16, sent));
        }
        let jitter = reception.report_block(start).jitter;
        assert!((890..=900).contains(&jitter), "{jitter}");
        // A clock that jumps is none.
        reception.on_packet(start + 8020 * MS, header(401, 1 << 31));
        assert!(reception.report_block(start).jitter <= jitter);
    }

    #[test]
    fn jitter_has_an_end_at_any_rate() {
        let now = crate::clock::now();
        let mut reception = Reception::new(now, u32::MAX, header(0, 0));
        for packet in 1..200 {
            reception.on_packet(now, header(packet, u32::from(packet % 2) << 31));
        }
        assert!(reception.report_block(now).jitter >= 1 << 27);
    }

    #[test]
    fn last_sender_report_is_given_back() {
        let now = crate::clock::now();
        let mut reception = Reception::new(now, 90_000, header(0, 0));
        let block = reception.report_block(now);
        assert_eq!((block.ssrc, block.last_report, block.delay), (7, 0, 0));
        let report = SenderReport {
            ssrc: 7,
            ntp: NtpTime(0x1122_3344_5566_7788),
            rtp_timestamp: 0,
            packet_count: 0,
            octet_count: 0,
        };
        reception.on_sender_report(now, &report);
        reception.on_sender_report(now, &SenderReport { ssrc: 8, ntp: NtpTime(0), ..report });
        let block = reception.report_block(now + 1500 * MS);
        assert_eq!((block.last_report, block.delay), (0x3344_5566, 98_304));
    }
}
