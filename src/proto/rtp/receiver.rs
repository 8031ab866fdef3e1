//! One track's packets and reports as they arrive: validated, of one source, in order, counted.
//!
//! A track has one source at a time. Another SSRC takes over when two packets of it in a row agree
//! in their sequence (RFC 3550, A.1): what is left of an earlier session on the same port does not.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::proto::rtp::packet::{RtpHeader, RtpPacket};
use crate::proto::rtp::reception::Reception;
use crate::proto::rtp::reorder::{Ordered, Reorder, ReorderCounts, Standing};
use crate::proto::rtp::rtcp::{Compound, RtcpPacket, SenderReport, encode_receiver_report};

/// Receives one track.
#[derive(Debug)]
pub struct TrackReceiver {
    payload_type: u8,
    clock_rate: u32,
    reorder: Reorder<RtpPacket>,
    reception: Option<Reception>,
    /// Another source that asked to take over, and the sequence number that would confirm it.
    candidate: Option<(u32, u16)>,
    /// Reports of other SSRCs are none of the source's: one of its own has come, or it took over from
    /// another one.
    is_reported: bool,
    counts: ReceiverCounts,
}

/// What was not passed on, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceiverCounts {
    pub malformed: u64,
    /// Of a payload type that is not the track's. Geovision cameras send type 50 between their
    /// packets, with the sequence number of the packet before.
    pub foreign_type: u64,
    /// Of a source that is not the track's.
    pub foreign_source: u64,
    /// Compound RTCP packets in which something could not be read.
    pub malformed_rtcp: u64,
    pub reorder: ReorderCounts,
}

/// What a compound RTCP packet of the source tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RtcpNotice {
    pub report: Option<SenderReport>,
    /// The source has ended.
    pub bye: bool,
}

impl TrackReceiver {
    /// A track of this payload type and clock rate in Hz. A missing packet is waited for for `hold`;
    /// zero where the transport keeps the order.
    pub fn new(payload_type: u8, clock_rate: u32, hold: Duration) -> Self {
        Self {
            payload_type,
            clock_rate,
            reorder: Reorder::new(hold),
            reception: None,
            candidate: None,
            is_reported: false,
            counts: ReceiverCounts::default(),
        }
    }

    /// Of the packets that are taken.
    pub fn payload_type(&self) -> u8 {
        self.payload_type
    }

    /// The source says that the track begins with this sequence number.
    pub fn announce(&mut self, sequence: u16) {
        self.reorder.announce(sequence);
    }

    /// Takes what arrived as RTP. What is no use is counted. A packet that must wait is copied, so
    /// that it does not hold a receive buffer.
    pub fn handle_packet(&mut self, now: Instant, bytes: Bytes) {
        self.handle_pieces(now, bytes, Bytes::new());
    }

    /// As [`Self::handle_packet`], of a packet in two pieces.
    pub fn handle_pieces(&mut self, now: Instant, bytes: Bytes, tail: Bytes) {
        let Ok(packet) = RtpPacket::parse_pieces(bytes, tail) else {
            self.counts.malformed += 1;
            return;
        };
        let header = packet.header();
        if header.payload_type != self.payload_type {
            self.counts.foreign_type += 1;
            return;
        }
        if !self.accept_source(header) {
            self.counts.foreign_source += 1;
            return;
        }
        let packet = if self.reorder.is_due(header.sequence) { packet } else { packet.into_copy() };
        let standing = self.reorder.handle_packet(now, header.sequence, packet);
        self.note_reception(now, header, standing);
    }

    /// Takes what arrived as RTCP. Reports of another SSRC than the source's are of a mixer's, of an
    /// earlier session's or of repair packets'; but some cameras have a wrong one in all of theirs.
    pub fn handle_rtcp(&mut self, now: Instant, bytes: &[u8]) -> RtcpNotice {
        let mut notice = RtcpNotice::default();
        for packet in Compound::new(bytes) {
            match packet {
                Ok(RtcpPacket::SenderReport(report, _)) => {
                    if let Some(reception) = &mut self.reception {
                        reception.on_sender_report(now, &report);
                        self.is_reported |= reception.ssrc() == report.ssrc;
                    }
                    let source = self.reception.as_ref().map(Reception::ssrc);
                    if !self.is_reported || source == Some(report.ssrc) {
                        notice.report = Some(report);
                    } else {
                        self.counts.foreign_source += 1;
                    }
                }
                Ok(RtcpPacket::Bye { ssrcs }) => {
                    let source = self.reception.as_ref().map(Reception::ssrc);
                    notice.bye |= source.is_none_or(|ssrc| ssrcs.contains(&ssrc));
                }
                Ok(_) => {}
                Err(_) => self.counts.malformed_rtcp += 1,
            }
        }
        notice
    }

    /// Gives up what was waited for long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.reorder.handle_timeout(now);
    }

    /// The next packet in order, with what is missing before it.
    pub fn poll_packet(&mut self) -> Option<Ordered<RtpPacket>> {
        self.reorder.poll_packet()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.reorder.poll_timeout()
    }

    /// A receiver report, to be sent every few seconds (RFC 3550, 6.2). `ssrc` is our own; where it
    /// is the source's by chance, ours is another.
    pub fn receiver_report(&mut self, now: Instant, ssrc: u32, cname: &str) -> Vec<u8> {
        let block = self.reception.as_mut().map(|reception| reception.report_block(now));
        let collides = block.is_some_and(|block| block.ssrc == ssrc);
        encode_receiver_report(if collides { !ssrc } else { ssrc }, block, cname)
    }

    pub fn counts(&self) -> ReceiverCounts {
        ReceiverCounts { reorder: self.reorder.counts(), ..self.counts }
    }

    /// Whether a packet is of the track's source, be it from now on.
    fn accept_source(&mut self, header: RtpHeader) -> bool {
        let Some(reception) = &self.reception else { return true };
        if reception.ssrc() != header.ssrc {
            if self.candidate != Some((header.ssrc, header.sequence)) {
                self.candidate = Some((header.ssrc, header.sequence.wrapping_add(1)));
                return false;
            }
            self.is_reported = true;
            self.reorder.restart();
        }
        self.candidate = None;
        true
    }

    /// Reports tell of what was taken for the source's sequence, and of nothing else.
    fn note_reception(&mut self, now: Instant, header: RtpHeader, standing: Standing) {
        match (&mut self.reception, standing) {
            (_, Standing::Stray) => {}
            (Some(reception), Standing::Further) => reception.on_packet(now, header),
            (Some(reception), Standing::First) if reception.ssrc() == header.ssrc => {
                reception.restart(now, header);
            }
            (reception, _) => {
                *reception = Some(Reception::new(now, self.clock_rate, header));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rtp::reorder::Gap;
    use crate::proto::rtp::rtcp::{NtpTime, ReportBlock, encode_bye, encode_sender_report};

    const HOLD: Duration = Duration::from_millis(50);

    fn receiver() -> (TrackReceiver, Instant) {
        let mut receiver = TrackReceiver::new(96, 90_000, HOLD);
        receiver.announce(10);
        (receiver, crate::clock::now())
    }

    fn packet(ssrc: u32, sequence: u16) -> Bytes {
        let header = RtpHeader { marker: false, payload_type: 96, sequence, timestamp: 0, ssrc };
        Bytes::from([&header.encode()[..], b"x"].concat())
    }

    fn report(ssrc: u32) -> SenderReport {
        let (ntp, rtp_timestamp) = (NtpTime(0x0001_0000_0000), 5);
        SenderReport { ssrc, ntp, rtp_timestamp, packet_count: 1, octet_count: 1 }
    }

    fn ready(receiver: &mut TrackReceiver) -> Vec<(u32, u16, Gap)> {
        let ready = std::iter::from_fn(|| receiver.poll_packet());
        let told = ready.map(|ordered| {
            let header = ordered.item.header();
            (header.ssrc, header.sequence, ordered.gap)
        });
        told.collect()
    }

    #[test]
    fn what_is_no_use_is_counted() {
        let (mut receiver, now) = receiver();
        let mut foreign_type = packet(1, 10).to_vec();
        foreign_type[1] = 50;
        receiver.handle_packet(now, packet(1, 10));
        receiver.handle_packet(now, foreign_type.into());
        receiver.handle_packet(now, Bytes::from_static(b"garbage"));
        receiver.handle_packet(now, packet(1, 11));
        receiver.handle_rtcp(now, b"garbage");
        assert_eq!(ready(&mut receiver), [(1, 10, Gap::None), (1, 11, Gap::None)]);
        let counts = receiver.counts();
        assert_eq!((counts.malformed, counts.foreign_type, counts.malformed_rtcp), (1, 1, 1));
        assert_eq!(counts.reorder.delivered, 2);
    }

    #[test]
    fn another_source_takes_over_with_two_packets() {
        let (mut receiver, now) = receiver();
        receiver.handle_packet(now, packet(1, 10));
        receiver.handle_packet(now, packet(2, 500));
        receiver.handle_packet(now, packet(1, 12));
        receiver.handle_packet(now, packet(2, 501));
        assert_eq!(ready(&mut receiver), [(1, 10, Gap::None)]);
        receiver.handle_packet(now, packet(2, 502));
        assert_eq!(ready(&mut receiver), [(1, 12, Gap::Lost(1)), (2, 502, Gap::Restart)]);
        receiver.handle_packet(now, packet(1, 13));
        receiver.handle_packet(now, packet(2, 503));
        assert_eq!(ready(&mut receiver), [(2, 503, Gap::None)]);
        assert_eq!(receiver.counts().foreign_source, 3);
    }

    #[test]
    fn reports_with_a_wrong_source_are_taken_until_there_is_a_right_one() {
        let (mut receiver, now) = receiver();
        let told = |receiver: &mut TrackReceiver, ssrc| {
            receiver.handle_rtcp(now, &encode_sender_report(report(ssrc), "c")).report
        };
        receiver.handle_packet(now, packet(1, 10));
        assert_eq!(told(&mut receiver, 9), Some(report(9)));
        assert_eq!(told(&mut receiver, 1), Some(report(1)));
        assert_eq!(told(&mut receiver, 9), None);
        // The last one of a source that is gone is not the next one's.
        receiver.handle_packet(now, packet(2, 500));
        receiver.handle_packet(now, packet(2, 501));
        assert_eq!((told(&mut receiver, 1), told(&mut receiver, 2)), (None, Some(report(2))));
    }

    #[test]
    fn waiting_packet_is_a_copy() {
        let (mut receiver, now) = receiver();
        receiver.announce(1);
        let (first, third) = (packet(1, 1), packet(1, 3));
        let addresses = [first.as_ptr(), third.as_ptr()];
        receiver.handle_packet(now, first);
        receiver.handle_packet(now, third);
        receiver.handle_timeout(now + HOLD);
        let (first, third) = (receiver.poll_packet().unwrap(), receiver.poll_packet().unwrap());
        assert_eq!(first.item.pieces()[0].as_ptr(), addresses[0]);
        assert_ne!(third.item.pieces()[0].as_ptr(), addresses[1]);
        assert_eq!((third.item.header().sequence, third.gap), (3, Gap::Lost(1)));
    }

    /// The block of a receiver report.
    fn block(receiver: &mut TrackReceiver, now: Instant) -> ReportBlock {
        let sent = receiver.receiver_report(now, 7, "us");
        let first = Compound::new(&sent).next().unwrap().unwrap();
        let RtcpPacket::ReceiverReport { blocks, .. } = first else { panic!() };
        blocks[0]
    }

    #[test]
    fn stray_packets_are_not_reported() {
        for stray in [20_000, 40_000] {
            let (mut receiver, now) = receiver();
            for sequence in [10, 11, stray, 12] {
                receiver.handle_packet(now, packet(1, sequence));
            }
            let told = block(&mut receiver, now);
            assert_eq!((told.highest_sequence, told.cumulative_lost), (12, 0), "{stray}");
            assert_eq!(told.fraction_lost, 0, "{stray}");
        }
    }

    #[test]
    fn reports_begin_anew_with_a_sequence_that_does() {
        for (before, after) in [(10, 20_000), (20_000, 10), (10, 50_000)] {
            let (mut receiver, now) = receiver();
            receiver.handle_packet(now, packet(1, before));
            receiver.handle_packet(now, packet(1, before + 2));
            let told = block(&mut receiver, now);
            let highest = u32::from(before) + 2;
            assert_eq!((told.highest_sequence, told.cumulative_lost), (highest, 1));
            receiver.handle_rtcp(now, &encode_sender_report(report(1), "c"));
            // The first one asks only.
            for sequence in [after, after + 1, after + 2, after + 4] {
                receiver.handle_packet(now, packet(1, sequence));
            }
            let told = block(&mut receiver, now);
            let highest = u32::from(after) + 4;
            assert_eq!((told.highest_sequence, told.cumulative_lost), (highest, 1), "{after}");
            assert_eq!((told.fraction_lost, told.last_report), (64, 1 << 16), "{after}");
        }
    }

    #[test]
    fn reports_begin_anew_with_another_source() {
        let (mut receiver, now) = receiver();
        for (ssrc, sequence) in [(1, 10), (1, 12), (2, 500), (2, 501), (2, 502)] {
            receiver.handle_packet(now, packet(ssrc, sequence));
        }
        let told = block(&mut receiver, now);
        assert_eq!((told.ssrc, told.highest_sequence, told.cumulative_lost), (2, 502, 0));
    }

    #[test]
    fn reports_go_both_ways() {
        let (mut receiver, now) = receiver();
        let report = report(1);
        assert!(receiver.handle_rtcp(now, &encode_bye(report, "c")).bye);
        receiver.handle_packet(now, packet(1, 10));
        let notice = receiver.handle_rtcp(now, &encode_sender_report(report, "c"));
        assert_eq!(notice, RtcpNotice { report: Some(report), bye: false });
        let other = SenderReport { ssrc: 9, ..report };
        let notice = receiver.handle_rtcp(now, &encode_sender_report(other, "c"));
        assert_eq!((notice.report, receiver.counts().foreign_source), (None, 1));
        assert!(!receiver.handle_rtcp(now, &encode_bye(other, "c")).bye);
        assert!(receiver.handle_rtcp(now, &encode_bye(report, "c")).bye);

        let first_packet = |bytes: &[u8]| Compound::new(bytes).next().unwrap().unwrap();
        let sent = receiver.receiver_report(now, 7, "us");
        let RtcpPacket::ReceiverReport { ssrc, blocks } = first_packet(&sent) else { panic!() };
        assert_eq!((ssrc, blocks[0].ssrc, blocks[0].last_report), (7, 1, 1 << 16));
        // Our own SSRC is never the sender's.
        let sent = receiver.receiver_report(now, 1, "us");
        let RtcpPacket::ReceiverReport { ssrc, .. } = first_packet(&sent) else { panic!() };
        assert_eq!(ssrc, !1);
    }
}
