//! RTCP: sender and receiver reports, source description, goodbye (RFC 3550, 6).
//!
//! Read leniently: a compound packet may begin with anything and end in a packet that is cut off,
//! as those of cameras do. Other packet types are passed. What we send is a proper compound: a
//! report, then a canonical name.

use std::time::Duration;

use crate::limits::{CNAME_LEN_MAX, RTCP_BLOCKS_MAX};
use crate::proto::reader::{Incomplete, Reader};

/// Media time between our sender reports of a track, also where RFC 3550, 6.2 wants more: 360 s by the
/// session's bandwidth in kbit/s, 5.6 s with G.711 alone. rtspsrc of GStreamer heeds only those behind the
/// first, and shows a track at a wrong time until then.
pub const SENDER_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The packets of a compound packet, in order. Ends behind the first fault.
#[derive(Debug, Clone)]
pub struct Compound<'a> {
    reader: Reader<'a>,
}

/// One RTCP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RtcpPacket {
    SenderReport(SenderReport, Vec<ReportBlock>),
    ReceiverReport {
        ssrc: u32,
        blocks: Vec<ReportBlock>,
    },
    /// The canonical name of each source that tells one.
    SourceDescription(Vec<CanonicalName>),
    Bye {
        ssrcs: Vec<u32>,
    },
    /// Application, feedback, extended reports and whatever else.
    Other {
        packet_type: u8,
    },
}

/// What a sender tells of its clock and of what it has sent (RFC 3550, 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReport {
    pub ssrc: u32,
    /// The wall clock at `rtp_timestamp`.
    pub ntp: NtpTime,
    pub rtp_timestamp: u32,
    /// Modulo 2^32, since the beginning.
    pub packet_count: u32,
    /// Of payload, modulo 2^32, since the beginning.
    pub octet_count: u32,
}

/// What a receiver tells of one source (RFC 3550, 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportBlock {
    pub ssrc: u32,
    /// Of the packets since the last report, in 256ths.
    pub fraction_lost: u8,
    /// Since the beginning; negative where duplicates outnumber losses. 24 bits.
    pub cumulative_lost: i32,
    /// The highest sequence number, with the count of wraps above its 16 bits.
    pub highest_sequence: u32,
    /// In ticks of the track's clock.
    pub jitter: u32,
    /// The middle of the NTP time of the last sender report; 0 before any.
    pub last_report: u32,
    /// Since that came, in units of 1/65536 s.
    pub delay: u32,
}

/// The name by which the tracks of one sender are known as one (RFC 3550, 6.5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalName {
    pub ssrc: u32,
    /// At most [`CNAME_LEN_MAX`] bytes, or three times that where they were no UTF-8.
    pub name: String,
}

/// Seconds since 1900 in 32.32 fixed point (RFC 3550, 4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NtpTime(pub u64);

/// Why bytes are no RTCP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RtcpError {
    #[error("RTCP packet is cut off")]
    CutOff,
    #[error("RTCP version {0} is not 2")]
    Version(u8),
    #[error("RTCP padding of {0} bytes does not fit")]
    Padding(u8),
}

impl NtpTime {
    /// The NTP time of a Unix time.
    pub fn from_unix(seconds: u64, nanoseconds: u32) -> Self {
        let fraction = (u64::from(nanoseconds) << 32) / 1_000_000_000;
        Self(seconds.wrapping_add(UNIX_EPOCH_SECONDS) << 32 | fraction)
    }

    /// Nanoseconds since 1900: below 2^62.
    pub fn as_nanoseconds(self) -> i64 {
        let seconds = (self.0 >> 32).cast_signed();
        let fraction = ((self.0 & 0xffff_ffff) * 1_000_000_000) >> 32;
        seconds * 1_000_000_000 + fraction.cast_signed()
    }

    /// The 16 bits on either side of the point, as report blocks give it back.
    pub fn middle(self) -> u32 {
        (self.0 >> 16) as u32
    }
}

impl From<Incomplete> for RtcpError {
    fn from(_: Incomplete) -> Self {
        Self::CutOff
    }
}

impl<'a> Compound<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes) }
    }

    fn read(&mut self) -> Result<RtcpPacket, RtcpError> {
        let first = self.reader.u8()?;
        if first >> 6 != 2 {
            return Err(RtcpError::Version(first >> 6));
        }
        let packet_type = self.reader.u8()?;
        let len = 4 * usize::from(self.reader.u16()?);
        let mut body = self.reader.take(len)?;
        if first & PADDING_BIT != 0 {
            let padding = *body.last().ok_or(RtcpError::Padding(0))?;
            let kept_len = body.len().checked_sub(usize::from(padding));
            body = &body[..kept_len.ok_or(RtcpError::Padding(padding))?];
        }
        decode(packet_type, first & 0x1f, body)
    }
}

impl Iterator for Compound<'_> {
    type Item = Result<RtcpPacket, RtcpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let packet = self.read();
        if packet.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(packet)
    }
}

impl RtcpPacket {
    /// Appends the packet. Beyond [`RTCP_BLOCKS_MAX`] blocks, sources or names and beyond
    /// [`CNAME_LEN_MAX`] bytes of a name nothing is written; [`Self::Other`] writes nothing.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        match self {
            Self::SenderReport(report, blocks) => {
                begin(out, blocks.len(), PACKET_TYPE_SENDER_REPORT);
                report.encode(out);
                blocks.iter().take(RTCP_BLOCKS_MAX).for_each(|block| block.encode(out));
            }
            Self::ReceiverReport { ssrc, blocks } => {
                begin(out, blocks.len(), PACKET_TYPE_RECEIVER_REPORT);
                out.extend_from_slice(&ssrc.to_be_bytes());
                blocks.iter().take(RTCP_BLOCKS_MAX).for_each(|block| block.encode(out));
            }
            Self::SourceDescription(names) => {
                begin(out, names.len(), PACKET_TYPE_SOURCE_DESCRIPTION);
                names.iter().take(RTCP_BLOCKS_MAX).for_each(|name| name.encode(out));
            }
            Self::Bye { ssrcs } => {
                begin(out, ssrcs.len(), PACKET_TYPE_BYE);
                let ssrcs = ssrcs.iter().take(RTCP_BLOCKS_MAX);
                ssrcs.for_each(|ssrc| out.extend_from_slice(&ssrc.to_be_bytes()));
            }
            Self::Other { .. } => return,
        }
        let words = (out.len() - start) / 4 - 1;
        let words = u16::try_from(words).expect("31 of the longest names are 8 KiB");
        out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
    }
}

/// The compound packet of a sender (RFC 3550, 6.1): its report and its name.
pub fn encode_sender_report(report: SenderReport, cname: &str) -> Vec<u8> {
    let name = CanonicalName { ssrc: report.ssrc, name: cname.to_owned() };
    compound(&[
        RtcpPacket::SenderReport(report, Vec::new()),
        RtcpPacket::SourceDescription(vec![name]),
    ])
}

/// The compound packet of a receiver. `ssrc` is our own: never that of the sender, which would
/// take it for a collision (RFC 3550, 8.2).
pub fn encode_receiver_report(ssrc: u32, block: Option<ReportBlock>, cname: &str) -> Vec<u8> {
    let name = CanonicalName { ssrc, name: cname.to_owned() };
    compound(&[
        RtcpPacket::ReceiverReport { ssrc, blocks: block.into_iter().collect() },
        RtcpPacket::SourceDescription(vec![name]),
    ])
}

/// The compound packet of a sender that ends.
pub fn encode_bye(report: SenderReport, cname: &str) -> Vec<u8> {
    let mut bytes = encode_sender_report(report, cname);
    RtcpPacket::Bye { ssrcs: vec![report.ssrc] }.encode(&mut bytes);
    bytes
}

fn compound(packets: &[RtcpPacket]) -> Vec<u8> {
    let mut bytes = Vec::new();
    packets.iter().for_each(|packet| packet.encode(&mut bytes));
    bytes
}

fn begin(out: &mut Vec<u8>, count: usize, packet_type: u8) {
    let count = count.min(RTCP_BLOCKS_MAX) as u8;
    out.extend_from_slice(&[0x80 | count, packet_type, 0, 0]);
}

/// What stands behind `count` of an attribute list that is cut off is lost; what is whole is kept.
fn decode(packet_type: u8, count: u8, body: &[u8]) -> Result<RtcpPacket, RtcpError> {
    let mut reader = Reader::new(body);
    Ok(match packet_type {
        PACKET_TYPE_SENDER_REPORT => {
            let report = SenderReport::decode(&mut reader)?;
            RtcpPacket::SenderReport(report, blocks(&mut reader, count))
        }
        PACKET_TYPE_RECEIVER_REPORT => {
            let ssrc = reader.u32()?;
            RtcpPacket::ReceiverReport { ssrc, blocks: blocks(&mut reader, count) }
        }
        PACKET_TYPE_SOURCE_DESCRIPTION => {
            RtcpPacket::SourceDescription(canonical_names(&mut reader, count))
        }
        PACKET_TYPE_BYE => {
            let ssrcs = (0..count).map_while(|_| reader.u32().ok()).collect();
            RtcpPacket::Bye { ssrcs }
        }
        packet_type => RtcpPacket::Other { packet_type },
    })
}

fn blocks(reader: &mut Reader<'_>, count: u8) -> Vec<ReportBlock> {
    (0..count).map_while(|_| ReportBlock::decode(reader).ok()).collect()
}

fn canonical_names(reader: &mut Reader<'_>, count: u8) -> Vec<CanonicalName> {
    let mut names = Vec::new();
    for _ in 0..count {
        let Ok(name) = canonical_name(reader) else { break };
        names.extend(name);
    }
    names
}

/// Reads one chunk: a source, its items, and zeros up to the next word.
fn canonical_name(reader: &mut Reader<'_>) -> Result<Option<CanonicalName>, Incomplete> {
    let ssrc = reader.u32()?;
    let mut found = None;
    let items_len = reader.rest().len();
    loop {
        let item = reader.u8()?;
        if item == 0 {
            break;
        }
        let len = usize::from(reader.u8()?);
        let text = reader.take(len)?;
        if item == ITEM_CNAME && found.is_none() {
            found = Some(CanonicalName { ssrc, name: String::from_utf8_lossy(text).into_owned() });
        }
    }
    let read_len = items_len - reader.rest().len();
    reader.take(read_len.next_multiple_of(4) - read_len)?;
    Ok(found)
}

impl SenderReport {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Incomplete> {
        Ok(Self {
            ssrc: reader.u32()?,
            ntp: NtpTime(u64::from(reader.u32()?) << 32 | u64::from(reader.u32()?)),
            rtp_timestamp: reader.u32()?,
            packet_count: reader.u32()?,
            octet_count: reader.u32()?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        out.extend_from_slice(&self.ntp.0.to_be_bytes());
        for word in [self.rtp_timestamp, self.packet_count, self.octet_count] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }
}

impl ReportBlock {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Incomplete> {
        // Whole or not at all.
        let mut reader = Reader::new(reader.take(REPORT_BLOCK_LEN)?);
        Ok(Self {
            ssrc: reader.u32()?,
            fraction_lost: reader.u8()?,
            cumulative_lost: (reader.u24()? << 8).cast_signed() >> 8,
            highest_sequence: reader.u32()?,
            jitter: reader.u32()?,
            last_report: reader.u32()?,
            delay: reader.u32()?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let lost = self.cumulative_lost.clamp(CUMULATIVE_LOST_MIN, CUMULATIVE_LOST_MAX);
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        out.push(self.fraction_lost);
        out.extend_from_slice(&lost.to_be_bytes()[1..]);
        for word in [self.highest_sequence, self.jitter, self.last_report, self.delay] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }
}

impl CanonicalName {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut len = self.name.len().min(CNAME_LEN_MAX);
        while !self.name.is_char_boundary(len) {
            len -= 1;
        }
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        out.extend_from_slice(&[ITEM_CNAME, len as u8]);
        out.extend_from_slice(&self.name.as_bytes()[..len]);
        // The list ends in a zero at least, and at a word.
        let end = (out.len() + 1).next_multiple_of(4);
        out.resize(end, 0);
    }
}

const PACKET_TYPE_SENDER_REPORT: u8 = 200;
const PACKET_TYPE_RECEIVER_REPORT: u8 = 201;
const PACKET_TYPE_SOURCE_DESCRIPTION: u8 = 202;
const PACKET_TYPE_BYE: u8 = 203;

const ITEM_CNAME: u8 = 1;
const PADDING_BIT: u8 = 0x20;
const REPORT_BLOCK_LEN: usize = 24;
const CUMULATIVE_LOST_MIN: i32 = -(1 << 23);
const CUMULATIVE_LOST_MAX: i32 = (1 << 23) - 1;

/// Of 1970, on a clock that began in 1900.
const UNIX_EPOCH_SECONDS: u64 = 2_208_988_800;

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> SenderReport {
        SenderReport {
            ssrc: 0x0102_0304,
            ntp: NtpTime(0x83aa_7e80_8000_0000),
            rtp_timestamp: 90_000,
            packet_count: 7,
            octet_count: 700,
        }
    }

    fn block() -> ReportBlock {
        ReportBlock {
            ssrc: 0xaabb_ccdd,
            fraction_lost: 64,
            cumulative_lost: -2,
            highest_sequence: 0x0001_0002,
            jitter: 3,
            last_report: 0x7e80_8000,
            delay: 65_536,
        }
    }

    fn name(name: &str) -> CanonicalName {
        CanonicalName { ssrc: 1, name: name.to_owned() }
    }

    fn table() -> Vec<(&'static str, &'static [u8], RtcpPacket)> {
        vec![
            (
                "sender report",
                b"\x80\xc8\0\x06\x01\x02\x03\x04\x83\xaa\x7e\x80\x80\0\0\0\0\x01\x5f\x90\0\0\0\x07\
                  \0\0\x02\xbc",
                RtcpPacket::SenderReport(report(), vec![]),
            ),
            (
                "receiver report",
                b"\x81\xc9\0\x07\0\0\0\x05\xaa\xbb\xcc\xdd\x40\xff\xff\xfe\0\x01\0\x02\0\0\0\x03\
                  \x7e\x80\x80\0\0\x01\0\0",
                RtcpPacket::ReceiverReport { ssrc: 5, blocks: vec![block()] },
            ),
            (
                "empty receiver report",
                b"\x80\xc9\0\x01\0\0\0\x05",
                RtcpPacket::ReceiverReport { ssrc: 5, blocks: vec![] },
            ),
            (
                "names, one filling its word",
                b"\x82\xca\0\x07\0\0\0\x01\x01\x05abcde\0\0\0\0\x01\x01\x06abcdef\0\0\0\0",
                RtcpPacket::SourceDescription(vec![name("abcde"), name("abcdef")]),
            ),
            ("goodbye", b"\x81\xcb\0\x01\0\0\0\x05", RtcpPacket::Bye { ssrcs: vec![5] }),
        ]
    }

    #[test]
    fn packets_are_read_and_written() {
        for (name, bytes, packet) in table() {
            let packets: Vec<_> = Compound::new(bytes).collect();
            assert_eq!(packets, [Ok(packet.clone())], "{name}");
            let mut encoded = Vec::new();
            packet.encode(&mut encoded);
            assert_eq!(encoded, bytes, "{name}");
        }
    }

    #[test]
    fn compound_is_read_up_to_its_fault() {
        let whole: Vec<u8> = table().iter().flat_map(|(_, bytes, _)| bytes.to_vec()).collect();
        assert_eq!(Compound::new(&whole).count(), 5);
        let ends: Vec<usize> = table()
            .iter()
            .scan(0, |end, (_, bytes, _)| {
                *end += bytes.len();
                Some(*end)
            })
            .collect();
        for len in 0..whole.len() {
            let read: Vec<_> = Compound::new(&whole[..len]).collect();
            let whole_count = ends.iter().filter(|end| **end <= len).count();
            let is_cut = len > 0 && !ends.contains(&len);
            assert_eq!(read.len(), whole_count + usize::from(is_cut), "{len}");
            assert_eq!(read.last() == Some(&Err(RtcpError::CutOff)), is_cut, "{len}");
        }
        let then_rtp = [&whole[..28], &[0x40, 0, 0, 0]].concat();
        let read: Vec<_> = Compound::new(&then_rtp).collect();
        assert_eq!(read[1..], [Err(RtcpError::Version(1))]);
    }

    #[test]
    fn what_cameras_get_wrong_is_read_as_far_as_it_goes() {
        // A block is announced and not there.
        let bytes = b"\x81\xc9\0\x01\0\0\0\x05";
        let empty = RtcpPacket::ReceiverReport { ssrc: 5, blocks: vec![] };
        assert_eq!(Compound::new(bytes).collect::<Vec<_>>(), [Ok(empty)]);
        // A name without the zero behind it.
        let bytes = b"\x81\xca\0\x02\0\0\0\x01\x01\x02ab";
        let none = RtcpPacket::SourceDescription(vec![]);
        assert_eq!(Compound::new(bytes).collect::<Vec<_>>(), [Ok(none)]);
        let feedback = b"\x81\xce\0\x02\0\0\0\x01\0\0\0\x02";
        let other = RtcpPacket::Other { packet_type: 206 };
        assert_eq!(Compound::new(feedback).collect::<Vec<_>>(), [Ok(other)]);
    }

    #[test]
    fn padding_is_taken_off() {
        let bytes = b"\xa1\xcb\0\x02\0\0\0\x05\0\0\0\x04";
        let bye = RtcpPacket::Bye { ssrcs: vec![5] };
        assert_eq!(Compound::new(bytes).collect::<Vec<_>>(), [Ok(bye)]);
        let bytes = b"\xa1\xcb\0\x01\0\0\0\x05";
        assert_eq!(Compound::new(bytes).collect::<Vec<_>>(), [Err(RtcpError::Padding(5))]);
        let bytes = b"\xa0\xcb\0\0";
        assert_eq!(Compound::new(bytes).collect::<Vec<_>>(), [Err(RtcpError::Padding(0))]);
    }

    #[test]
    fn our_reports_are_compound() {
        let sent = encode_sender_report(report(), "cam@rillcast");
        let packets: Vec<_> = Compound::new(&sent).map(Result::unwrap).collect();
        let name = CanonicalName { ssrc: report().ssrc, name: "cam@rillcast".to_owned() };
        let description = RtcpPacket::SourceDescription(vec![name]);
        assert_eq!(packets, [RtcpPacket::SenderReport(report(), vec![]), description.clone()]);

        let bye = encode_bye(report(), "cam@rillcast");
        let packets: Vec<_> = Compound::new(&bye).map(Result::unwrap).collect();
        assert_eq!(packets[1..], [description, RtcpPacket::Bye { ssrcs: vec![report().ssrc] }]);

        let received = encode_receiver_report(9, Some(block()), &"é".repeat(200));
        let packets: Vec<_> = Compound::new(&received).map(Result::unwrap).collect();
        assert_eq!(packets[0], RtcpPacket::ReceiverReport { ssrc: 9, blocks: vec![block()] });
        let RtcpPacket::SourceDescription(names) = &packets[1] else { panic!("{packets:?}") };
        assert_eq!((names[0].ssrc, names[0].name.len()), (9, 254));
    }

    #[test]
    fn wall_clock_is_told_in_ntp() {
        let time = NtpTime::from_unix(0, 500_000_000);
        assert_eq!(time, NtpTime(0x83aa_7e80_8000_0000));
        assert_eq!(time.as_nanoseconds(), 2_208_988_800_500_000_000);
        assert_eq!(time.middle(), 0x7e80_8000);
        assert!(NtpTime(u64::MAX).as_nanoseconds() < 1 << 62);
    }
}
