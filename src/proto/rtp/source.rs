//! All tracks of one source: what arrives becomes parts of its stream, in order, and each track is
//! reported on every few seconds (RFC 3550, 6.2).
//!
//! A source that has said goodbye on every track that brought packets has ended when nothing follows:
//! some change their SSRC so.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::proto::rtp::format::Format;
use crate::proto::rtp::packet::is_rtcp;
use crate::proto::rtp::part::RtpPart;
use crate::proto::rtp::receiver::{ReceiverCounts, TrackReceiver};
use crate::proto::rtp::structure::Structure;
use crate::proto::rtsp::sdp::SessionDescription;

/// Receives a source.
#[derive(Debug)]
pub struct SourceReceiver {
    tracks: Vec<Track>,
    /// Our own, in reports.
    ssrc: u32,
    /// When the source is over, where every track has said goodbye.
    over_at: Option<Instant>,
    /// Packets and reports of tracks that the source does not have.
    stray: u64,
    outputs: VecDeque<SourceOutput>,
}

#[derive(Debug)]
struct Track {
    receiver: TrackReceiver,
    structure: Structure,
    /// Packets whose payload ends within that.
    truncated: u64,
    /// When its next report is due; from its first packet on.
    report_at: Option<Instant>,
    said_bye: bool,
}

/// What a source brings about.
#[derive(Debug, Clone)]
pub enum SourceOutput {
    /// For the stream.
    Part(RtpPart),
    /// For the source: a compound RTCP packet about one of its tracks.
    Send { track: usize, report: Bytes },
    /// The source has said that it ends.
    Ended,
}

/// What arrived and was no use, by reason, and what did not arrive, of all tracks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceCounts {
    pub malformed: u64,
    pub foreign_type: u64,
    pub foreign_source: u64,
    pub malformed_rtcp: u64,
    /// Passed on, though the payload ends within its own structure.
    pub truncated: u64,
    pub duplicate: u64,
    pub late: u64,
    /// Jumped out of the sequence, or are of a track that the source does not have.
    pub stray: u64,
    pub lost: u64,
}

impl SourceReceiver {
    /// A source with the tracks of a description. A missing packet is waited for for `hold`; zero
    /// where the transport keeps the order. `ssrc` is random.
    pub fn new(description: &SessionDescription, hold: Duration, ssrc: u32) -> Self {
        let track = |format: &Format| Track {
            receiver: TrackReceiver::new(format.payload_type, format.clock_rate, hold),
            structure: Structure::of(format),
            truncated: 0,
            report_at: None,
            said_bye: false,
        };
        Self {
            tracks: description.media.iter().map(|media| track(&media.format)).collect(),
            ssrc,
            over_at: None,
            stray: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The source says that a track begins with this sequence number (`seq` of `RTP-Info`): its first packet
    /// need not wait for others then.
    pub fn announce(&mut self, track: usize, sequence: u16) {
        if let Some(track) = self.tracks.get_mut(track) {
            track.receiver.announce(sequence);
        }
    }

    /// Takes what arrived as RTP of a track, by its place in the description.
    pub fn handle_packet(&mut self, now: Instant, track: usize, packet: Bytes) {
        self.handle_pieces(now, track, (packet, Bytes::new()));
    }

    /// As [`Self::handle_packet`], of a packet in two pieces.
    pub fn handle_pieces(&mut self, now: Instant, track: usize, (packet, tail): (Bytes, Bytes)) {
        let Some(found) = self.tracks.get_mut(track) else {
            self.stray += 1;
            return;
        };
        // A packet of such a type with its marker looks the same.
        let is_own = packet.get(1).is_some_and(|byte| byte & 0x7f == found.receiver.payload_type());
        if is_rtcp(&packet) && !is_own {
            return self.handle_rtcp(now, track, [packet, tail].concat().into());
        }
        found.receiver.handle_pieces(now, packet, tail);
        if self.take_packets(now, track) {
            self.tracks[track].said_bye = false;
            self.over_at = None;
        }
    }

    /// Takes what arrived as RTCP of a track.
    pub fn handle_rtcp(&mut self, now: Instant, track: usize, packet: Bytes) {
        let Some(found) = self.tracks.get_mut(track) else {
            self.stray += 1;
            return;
        };
        let notice = found.receiver.handle_rtcp(now, &packet);
        found.said_bye |= notice.bye;
        let part = RtpPart::Report { track, bytes: packet, report: notice.report };
        self.outputs.push_back(SourceOutput::Part(part));
        // A track without a packet says nothing of the source's end.
        let mut begun = self.tracks.iter().filter(|track| track.report_at.is_some()).peekable();
        if notice.bye && begun.peek().is_some() && begun.all(|track| track.said_bye) {
            self.over_at.get_or_insert(now + BYE_GRACE);
        }
    }

    /// Gives up what was waited for long enough, and reports.
    pub fn handle_timeout(&mut self, now: Instant) {
        for track in 0..self.tracks.len() {
            self.tracks[track].receiver.handle_timeout(now);
            // They came before, maybe before a goodbye.
            self.take_packets(now, track);
            let found = &mut self.tracks[track];
            if found.report_at.is_some_and(|due| now >= due) {
                found.report_at = Some(now + REPORT_INTERVAL);
                let report = found.receiver.receiver_report(now, self.ssrc, CNAME).into();
                self.outputs.push_back(SourceOutput::Send { track, report });
            }
        }
        if self.over_at.take_if(|over_at| now >= *over_at).is_some() {
            self.outputs.push_back(SourceOutput::Ended);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_tracks = self
            .tracks
            .iter()
            .flat_map(|track| [track.receiver.poll_timeout(), track.report_at])
            .flatten();
        of_tracks.chain(self.over_at).min()
    }

    pub fn poll_output(&mut self) -> Option<SourceOutput> {
        self.outputs.pop_front()
    }

    pub fn counts(&self) -> SourceCounts {
        let mut counts = SourceCounts { stray: self.stray, ..SourceCounts::default() };
        for track in &self.tracks {
            counts.add_track(track.receiver.counts());
            counts.truncated += track.truncated;
        }
        counts
    }

    /// Whether there were any.
    fn take_packets(&mut self, now: Instant, track: usize) -> bool {
        let count_before = self.outputs.len();
        let found = &mut self.tracks[track];
        while let Some(ordered) = found.receiver.poll_packet() {
            found.report_at.get_or_insert(now + FIRST_REPORT);
            found.truncated += u64::from(found.structure.is_cut_off(&ordered.item));
            let part = RtpPart::Packet { track, packet: ordered.item, gap: ordered.gap };
            self.outputs.push_back(SourceOutput::Part(part));
        }
        self.outputs.len() > count_before
    }
}

impl SourceCounts {
    fn add_track(&mut self, track: ReceiverCounts) {
        let ReceiverCounts { malformed, foreign_type, foreign_source, malformed_rtcp, reorder } =
            track;
        *self += Self {
            malformed,
            foreign_type,
            foreign_source,
            malformed_rtcp,
            truncated: 0,
            duplicate: reorder.duplicate,
            late: reorder.late,
            stray: reorder.stray,
            lost: reorder.lost,
        };
    }
}

impl std::ops::AddAssign for SourceCounts {
    fn add_assign(&mut self, other: Self) {
        self.malformed += other.malformed;
        self.foreign_type += other.foreign_type;
        self.foreign_source += other.foreign_source;
        self.malformed_rtcp += other.malformed_rtcp;
        self.truncated += other.truncated;
        self.duplicate += other.duplicate;
        self.late += other.late;
        self.stray += other.stray;
        self.lost += other.lost;
    }
}

/// The least that RFC 3550, 6.2 asks for; cameras take a minute without for the receiver's end.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Half of it, as RFC 3550, 6.2 has the first one.
const FIRST_REPORT: Duration = Duration::from_millis(2500);
/// In which a source that said goodbye may go on.
const BYE_GRACE: Duration = Duration::from_secs(1);
/// What our reports are signed with (RFC 3550, 6.5.1); it tells nothing of the host.
pub const CNAME: &str = "rillcast";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rtp::RtpHeader;
    use crate::proto::rtp::reorder::Gap;
    use crate::proto::rtp::rtcp::{
        Compound, NtpTime, RtcpPacket, SenderReport, encode_bye, encode_sender_report,
    };

    const SDP: &[u8] = b"m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\nm=audio 0 RTP/AVP 0\n";
    const MS: Duration = Duration::from_millis(1);

    fn source(hold: Duration) -> (SourceReceiver, Instant) {
        let description = SessionDescription::parse(SDP).unwrap();
        (SourceReceiver::new(&description, hold, 7), crate::clock::now())
    }

    fn packet(payload_type: u8, sequence: u16) -> Bytes {
        let header = RtpHeader { marker: false, payload_type, sequence, timestamp: 0, ssrc: 1 };
        Bytes::from([&header.encode()[..], b"x"].concat())
    }

    fn report() -> SenderReport {
        let ntp = NtpTime(0x0001_0000_0000);
        SenderReport { ssrc: 1, ntp, rtp_timestamp: 5, packet_count: 1, octet_count: 1 }
    }

    fn bye() -> Bytes {
        encode_bye(report(), "c").into()
    }

    /// Outputs as text: `0:10` is the packet 10 of track 0.
    fn told(source: &mut SourceReceiver) -> Vec<String> {
        let outputs = std::iter::from_fn(|| source.poll_output());
        let text = |output| match output {
            SourceOutput::Part(RtpPart::Packet { track, packet, gap }) => {
                let gap = if gap == Gap::None { String::new() } else { format!(" {gap:?}") };
                format!("{track}:{}{gap}", packet.header().sequence)
            }
            SourceOutput::Part(RtpPart::Report { track, report, .. }) => {
                format!("{track}:report {}", report.is_some())
            }
            SourceOutput::Part(other) => panic!("{other:?}"),
            SourceOutput::Send { track, .. } => format!("{track}:send"),
            SourceOutput::Ended => "ended".to_owned(),
        };
        outputs.map(text).collect()
    }

    #[test]
    fn packets_come_out_in_order_track_by_track() {
        let (mut source, now) = source(50 * MS);
        source.announce(0, 10);
        source.announce(1, 7);
        source.handle_packet(now, 0, packet(96, 10));
        source.handle_packet(now, 0, packet(96, 12));
        source.handle_packet(now, 1, packet(0, 7));
        source.handle_rtcp(now, 0, encode_sender_report(report(), "c").into());
        source.handle_packet(now, 0, packet(96, 11));
        assert_eq!(told(&mut source), ["0:10", "1:7", "0:report true", "0:11", "0:12"]);
        source.handle_packet(now, 1, packet(0, 9));
        assert_eq!(source.poll_timeout(), Some(now + 50 * MS));
        source.handle_timeout(now + 50 * MS);
        assert_eq!(told(&mut source), ["1:9 Lost(1)"]);
    }

    #[test]
    fn first_packets_of_each_track_are_put_in_order() {
        let (mut source, now) = source(50 * MS);
        source.announce(0, 10);
        for (track, payload_type) in [(0, 96), (1, 0)] {
            source.handle_packet(now, track, packet(payload_type, 11));
            source.handle_packet(now, track, packet(payload_type, 10));
        }
        assert_eq!(told(&mut source), ["0:10", "0:11"]);
        assert_eq!(source.poll_timeout(), Some(now + 50 * MS));
        source.handle_timeout(now + 50 * MS);
        assert_eq!(told(&mut source), ["1:10", "1:11"]);
        assert_eq!(source.counts(), SourceCounts::default());
    }

    #[test]
    fn report_among_packets_is_a_report() {
        let (mut source, now) = source(Duration::ZERO);
        let report = Bytes::from(encode_sender_report(report(), "c"));
        let (head, tail) = (report.slice(..9), report.slice(9..));
        source.handle_pieces(now, 0, (head, tail));
        assert_eq!(told(&mut source), ["0:report true"]);
        assert_eq!(source.counts(), SourceCounts::default());
    }

    #[test]
    fn nothing_is_held_without_a_hold() {
        let (mut source, now) = source(Duration::ZERO);
        source.handle_packet(now, 0, packet(96, 10));
        source.handle_packet(now, 0, packet(96, 12));
        assert_eq!(told(&mut source), ["0:10", "0:12 Lost(1)"]);
    }

    #[test]
    fn packet_with_a_marker_is_no_report_whatever_its_type() {
        let sdp = b"v=0\r\nm=video 0 RTP/AVP 72\r\na=rtpmap:72 H264/90000\r\n";
        let description = SessionDescription::parse(sdp).unwrap();
        let mut source = SourceReceiver::new(&description, Duration::ZERO, 7);
        let header =
            RtpHeader { marker: true, payload_type: 72, sequence: 10, timestamp: 0, ssrc: 1 };
        let packet = [&header.encode()[..], b"x"].concat();
        source.handle_packet(crate::clock::now(), 0, packet.into());
        assert_eq!(told(&mut source), ["0:10"]);
    }

    #[test]
    fn packets_are_views_of_what_came() {
        let (mut source, now) = source(Duration::ZERO);
        let bytes = packet(96, 10);
        source.handle_packet(now, 0, bytes.clone());
        let Some(SourceOutput::Part(RtpPart::Packet { packet, .. })) = source.poll_output() else {
            panic!("no packet");
        };
        assert_eq!(packet.pieces()[0].as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn each_track_with_packets_is_reported_on() {
        let (mut source, now) = source(Duration::ZERO);
        assert_eq!(source.poll_timeout(), None);
        source.handle_packet(now, 1, packet(0, 10));
        told(&mut source);
        let mut due = source.poll_timeout().unwrap();
        assert_eq!(due, now + FIRST_REPORT);
        for _ in 0..3 {
            source.handle_timeout(due - MS);
            assert_eq!(told(&mut source), [""; 0]);
            source.handle_timeout(due);
            let Some(SourceOutput::Send { track: 1, report }) = source.poll_output() else {
                panic!("no report");
            };
            let first = Compound::new(&report).next().unwrap().unwrap();
            let RtcpPacket::ReceiverReport { ssrc: 7, blocks } = first else { panic!("{first:?}") };
            assert_eq!(blocks[0].ssrc, 1);
            assert_eq!(source.poll_timeout(), Some(due + REPORT_INTERVAL));
            due += REPORT_INTERVAL;
        }
    }

    #[test]
    fn source_ends_when_every_track_said_goodbye_and_nothing_follows() {
        let (mut source, now) = source(Duration::ZERO);
        source.handle_rtcp(now, 0, bye());
        assert_eq!(source.poll_timeout(), None);
        source.handle_packet(now, 0, packet(96, 10));
        source.handle_packet(now, 1, packet(0, 10));
        source.handle_rtcp(now, 0, bye());
        source.handle_timeout(now + BYE_GRACE);
        told(&mut source);
        source.handle_rtcp(now, 1, bye());
        source.handle_timeout(now + BYE_GRACE);
        assert_eq!(told(&mut source), ["1:report true", "ended"]);

        source.handle_rtcp(now, 1, bye());
        source.handle_packet(now, 1, packet(0, 11));
        source.handle_timeout(now + BYE_GRACE);
        assert!(!told(&mut source).contains(&"ended".to_owned()));
    }

    #[test]
    fn packets_that_waited_do_not_take_a_goodbye_back() {
        let (mut source, now) = source(50 * MS);
        source.announce(0, 10);
        source.handle_packet(now, 0, packet(96, 10));
        source.handle_packet(now, 0, packet(96, 12));
        source.handle_rtcp(now, 0, bye());
        source.handle_timeout(now + 50 * MS);
        source.handle_timeout(now + BYE_GRACE);
        assert_eq!(told(&mut source), ["0:10", "0:report true", "0:12 Lost(1)", "ended"]);
    }

    #[test]
    fn truncated_payload_is_counted_and_passed_on() {
        let (mut source, now) = source(Duration::ZERO);
        for (sequence, payload) in (10..).zip([&b"\x7c"[..], b"\x78\0\x09ab", b"\x65\x88"]) {
            let packet = [&packet(96, sequence)[..12], payload].concat();
            source.handle_packet(now, 0, packet.into());
        }
        assert_eq!(told(&mut source), ["0:10", "0:11", "0:12"]);
        assert_eq!(source.counts(), SourceCounts { truncated: 2, ..SourceCounts::default() });
    }

    #[test]
    fn what_is_no_use_is_counted() {
        let (mut source, now) = source(Duration::ZERO);
        source.handle_packet(now, 0, packet(96, 10));
        source.handle_packet(now, 0, packet(97, 10));
        source.handle_packet(now, 0, packet(96, 10));
        source.handle_packet(now, 0, Bytes::from_static(b"garbage"));
        source.handle_packet(now, 0, packet(96, 13));
        source.handle_packet(now, 2, packet(96, 10));
        source.handle_rtcp(now, 2, bye());
        source.handle_rtcp(now, 1, Bytes::from_static(b"garbage"));
        let counts = SourceCounts {
            malformed: 1,
            foreign_type: 1,
            malformed_rtcp: 1,
            duplicate: 1,
            stray: 2,
            lost: 2,
            ..SourceCounts::default()
        };
        assert_eq!(source.counts(), counts);
    }
}
