//! Frames into RTP packets, for H.264, H.265, AAC (`mpeg4-generic`, AAC-hbr), Opus and G.711.
//!
//! Packets refer to the frame's bytes; of their own they have only headers. All packets of a frame
//! but the last are as long as the bound allows, so that they can leave as segments of one send.

mod nal;

use self::nal::NalPacketizer;
use crate::limits::RTP_PACKET_LEN_OUT;
use crate::media::codec::ParameterSets;
use crate::media::{Codec, Frame, Payload};
use crate::proto::rtp::format::Format;
use crate::proto::rtp::packet::{HEADER_LEN, RtpHeader};

/// Makes packets of one track's frames.
#[derive(Debug)]
pub struct Packetizer {
    format: PayloadFormat,
    output: Output,
}

/// Where a track's packets begin, and how long they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketizerConfig {
    pub ssrc: u32,
    /// Of the first packet; random (RFC 3550, 5.1).
    pub sequence: u16,
    /// Added to every timestamp; random.
    pub timestamp_offset: u32,
    /// Bytes of a packet with its RTP header, without UDP's and IP's. At least 64.
    pub packet_len_max: usize,
}

/// A packet in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub header: RtpHeader,
    /// What follows the header.
    pub payload: Payload,
}

/// Why a frame was not packetized. None of its packets was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketizeError {
    #[error("lengths of NAL units do not fill the frame")]
    NalLength,
    #[error("AAC frame of {0} bytes is longer than its length field can say")]
    TooLong(usize),
    #[error("frame is not of the track's codec")]
    Codec,
}

#[derive(Debug)]
enum PayloadFormat {
    Nal(NalPacketizer),
    Aac,
    Opus,
    /// A frame may be cut between any samples; of this many channels.
    G711(usize),
}

/// Numbers packets.
#[derive(Debug)]
struct Output {
    codec: Codec,
    payload_type: u8,
    config: PacketizerConfig,
}

impl PacketizerConfig {
    /// With the usual bound of length.
    pub fn new(ssrc: u32, sequence: u16, timestamp_offset: u32) -> Self {
        Self { ssrc, sequence, timestamp_offset, packet_len_max: RTP_PACKET_LEN_OUT }
    }
}

impl Packet {
    /// Bytes of the packet.
    pub fn len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// A packet is never empty: it has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The packet behind an interleaved header (RFC 2326, 10.12). `None` where it is too long for one.
    pub fn interleaved(self, channel: u8) -> Option<Payload> {
        let [high, low] = u16::try_from(self.len()).ok()?.to_be_bytes();
        let mut bytes = [0; 4 + HEADER_LEN];
        bytes[..4].copy_from_slice(&[b'$', channel, high, low]);
        bytes[4..].copy_from_slice(&self.header.encode());
        let mut packet = Payload::new();
        packet.push_inline(&bytes);
        packet.append(self.payload);
        Some(packet)
    }
}

impl Packetizer {
    /// A packetizer for the format; `None` for formats that we do not make.
    pub fn new(format: &Format, config: PacketizerConfig) -> Option<Self> {
        let codec = format.codec();
        let payload_format = match codec {
            Codec::H264 | Codec::H265 => {
                PayloadFormat::Nal(NalPacketizer::new(codec, format.parameter_sets()))
            }
            Codec::Aac if !format.is_latm() => PayloadFormat::Aac,
            Codec::Opus => PayloadFormat::Opus,
            Codec::PcmA | Codec::PcmU => PayloadFormat::G711(usize::from(format.channels.max(1))),
            _ => return None,
        };
        let config = PacketizerConfig { packet_len_max: config.packet_len_max.max(64), ..config };
        let output = Output { codec, payload_type: format.payload_type, config };
        Some(Self { format: payload_format, output })
    }

    /// The configuration record has changed: its parameter sets go before the keyframes to come, and
    /// it tells the size of the frames' NAL lengths (4 until then).
    pub fn set_config(&mut self, record: &[u8]) {
        let PayloadFormat::Nal(nal) = &mut self.format else { return };
        if let Some(sets) = ParameterSets::from_record(self.output.codec, record) {
            nal.set_config(sets, ParameterSets::length_size(self.output.codec, record));
        }
    }

    /// Makes the packets of a frame; none of an empty one.
    ///
    /// # Errors
    /// [`PacketizeError`]; the next frame can be packetized all the same.
    pub fn packetize(
        &mut self,
        frame: &Frame,
        mut sink: impl FnMut(Packet),
    ) -> Result<(), PacketizeError> {
        if frame.codec != self.output.codec {
            return Err(PacketizeError::Codec);
        }
        let payload_len_max = self.output.config.packet_len_max - HEADER_LEN;
        match &mut self.format {
            PayloadFormat::Nal(nal) => {
                let payloads = nal.payloads(frame, payload_len_max)?;
                let last = payloads.len();
                for (index, payload) in payloads.into_iter().enumerate() {
                    let marker = index + 1 == last;
                    sink(self.output.packet(frame.timestamp, marker, payload));
                }
            }
            PayloadFormat::Aac => self.output.packetize_aac(frame, payload_len_max, &mut sink)?,
            PayloadFormat::Opus if frame.payload.is_empty() => {}
            PayloadFormat::Opus => {
                sink(self.output.packet(frame.timestamp, false, frame.payload.clone()));
            }
            PayloadFormat::G711(channels) => {
                let mut timestamp = frame.timestamp;
                let len_max = payload_len_max - payload_len_max % *channels;
                for payload in pieces_of(&frame.payload, len_max) {
                    let samples = (payload.len() / *channels) as u32;
                    sink(self.output.packet(timestamp, false, payload));
                    timestamp = timestamp.wrapping_add(samples);
                }
            }
        }
        Ok(())
    }

    /// The sequence number and the timestamp of the packet that a frame would begin with: what
    /// `RTP-Info` tells of a stream that begins with it.
    pub fn next_packet(&self, timestamp: u32) -> (u16, u32) {
        let config = &self.output.config;
        (config.sequence, timestamp.wrapping_add(config.timestamp_offset))
    }
}

impl Output {
    fn packet(&mut self, timestamp: u32, marker: bool, payload: Payload) -> Packet {
        let header = RtpHeader {
            marker,
            payload_type: self.payload_type,
            sequence: self.config.sequence,
            timestamp: timestamp.wrapping_add(self.config.timestamp_offset),
            ssrc: self.config.ssrc,
        };
        self.config.sequence = header.sequence.wrapping_add(1);
        Packet { header, payload }
    }

    /// One access unit a packet; where it is longer, fragments that each tell its whole size
    /// (RFC 3640, 3.2.3 and 3.3.6).
    fn packetize_aac(
        &mut self,
        frame: &Frame,
        payload_len_max: usize,
        sink: &mut impl FnMut(Packet),
    ) -> Result<(), PacketizeError> {
        let len = frame.payload.len();
        let size = u16::try_from(len).ok().filter(|size| *size <= AAC_LEN_MAX);
        let [high, low] = (size.ok_or(PacketizeError::TooLong(len))? << 3).to_be_bytes();
        let mut left = len;
        for piece in pieces_of(&frame.payload, payload_len_max - AAC_HEADER_LEN) {
            left -= piece.len();
            let mut payload = Payload::new();
            payload.push_inline(&[0, 16, high, low]);
            payload.append(piece);
            sink(self.packet(frame.timestamp, left == 0, payload));
        }
        Ok(())
    }
}

/// The payload in pieces of this length, the last one shorter.
fn pieces_of(payload: &Payload, len_max: usize) -> impl Iterator<Item = Payload> {
    let mut reader = payload.reader();
    std::iter::from_fn(move || {
        let len = reader.left().min(len_max);
        if len == 0 { None } else { reader.take(len) }
    })
}

const AAC_HEADER_LEN: usize = 4;

/// `sizelength=13`
const AAC_LEN_MAX: u16 = (1 << 13) - 1;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::rtp::depacketizer::{Depacketized, Depacketizer, LossPolicy};
    use crate::proto::rtp::packet::RtpPacket;
    use crate::proto::rtp::reorder::Gap;

    fn config(packet_len_max: usize) -> PacketizerConfig {
        PacketizerConfig { ssrc: 7, sequence: 65_535, timestamp_offset: 1000, packet_len_max }
    }

    fn frame(codec: Codec, timestamp: u32, payload: &[u8]) -> Frame {
        let payload = Bytes::copy_from_slice(payload).into();
        Frame { codec, keyframe: false, timestamp, payload }
    }

    fn packets(packetizer: &mut Packetizer, frame: &Frame) -> Vec<Packet> {
        let mut packets = Vec::new();
        packetizer.packetize(frame, |packet| packets.push(packet)).unwrap();
        packets
    }

    /// Each packet as sequence number, timestamp, marker and payload.
    fn told(packets: &[Packet]) -> Vec<(u16, u32, bool, Vec<u8>)> {
        let told = packets.iter().map(|packet| {
            let RtpHeader { sequence, timestamp, marker, .. } = packet.header;
            (sequence, timestamp, marker, packet.payload.to_vec())
        });
        told.collect()
    }

    /// What a depacketizer of the same format makes of the packets.
    fn back(format: &Format, packets: &[Packet]) -> Vec<Frame> {
        let mut depacketizer = Depacketizer::new(format, LossPolicy::default()).unwrap();
        for packet in packets {
            let bytes = packet.clone().interleaved(3).unwrap().to_vec();
            assert_eq!(bytes[..2], *b"$\x03");
            assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len() - 4);
            let packet = RtpPacket::parse(Bytes::from(bytes).slice(4..)).unwrap();
            depacketizer.handle_packet(&packet, Gap::None).unwrap();
        }
        depacketizer.flush();
        let items = std::iter::from_fn(|| depacketizer.poll_item());
        let frames = items.filter_map(|item| match item {
            Depacketized::Frame(frame) => Some(frame),
            Depacketized::Config { .. } => None,
        });
        frames.collect()
    }

    #[test]
    fn aac_is_a_packet_or_fragments() {
        let format = Format::of_codec(Codec::Aac, b"\x11\x90").unwrap();
        let mut packetizer = Packetizer::new(&format, config(64)).unwrap();
        assert_eq!(packetizer.next_packet(24), (65_535, 1024));
        let one = packets(&mut packetizer, &frame(Codec::Aac, 24, b"abc"));
        assert_eq!(told(&one), [(65_535, 1024, true, b"\0\x10\0\x18abc".to_vec())]);
        let long = frame(Codec::Aac, 1048, &[5; 100]);
        let three = packets(&mut packetizer, &long);
        assert_eq!(three.iter().map(Packet::len).collect::<Vec<_>>(), [64, 64, 20]);
        assert_eq!((three[0].header.sequence, three[2].header.marker), (0, true));
        assert_eq!(back(&format, &three)[0].payload, long.payload);
        assert_eq!(packets(&mut packetizer, &frame(Codec::Aac, 0, b"")), []);
        let endless = frame(Codec::Aac, 0, &[0; 8192]);
        let error = packetizer.packetize(&endless, |_| panic!("no packet"));
        assert_eq!(error, Err(PacketizeError::TooLong(8192)));
    }

    #[test]
    fn opus_is_a_packet_and_g711_pieces() {
        let head = b"OpusHead\x01\x02\0\0\x80\xbb\0\0\0\0\0";
        let opus = Format::of_codec(Codec::Opus, head).unwrap();
        let mut packetizer = Packetizer::new(&opus, config(64)).unwrap();
        let made = packets(&mut packetizer, &frame(Codec::Opus, 0, &[1; 100]));
        assert_eq!(told(&made), [(65_535, 1000, false, vec![1; 100])]);

        let pcma = Format::of_codec(Codec::PcmA, b"").unwrap();
        let mut packetizer = Packetizer::new(&pcma, config(64)).unwrap();
        let made = packets(&mut packetizer, &frame(Codec::PcmA, 0, &[1; 100]));
        let expected = [(65_535, 1000, false, vec![1; 52]), (0, 1052, false, vec![1; 48])];
        assert_eq!(told(&made), expected);
        assert_eq!(made[0].header.payload_type, 8);
    }

    #[test]
    fn frames_of_another_codec_are_refused() {
        let pcma = Format::of_codec(Codec::PcmA, b"").unwrap();
        let mut packetizer = Packetizer::new(&pcma, config(64)).unwrap();
        let error = packetizer.packetize(&frame(Codec::PcmU, 0, b"a"), |_| panic!("no packet"));
        assert_eq!(error, Err(PacketizeError::Codec));
        let video = Format::of_payload_type(crate::proto::rtp::TrackKind::Video, 26);
        assert!(Packetizer::new(&video, config(64)).is_none());
    }

    #[test]
    fn video_comes_back_whatever_the_length_of_packets() {
        let avc = b"\x01\x42\xc0\x28\xff\xe1\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\
                    \0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a\x01\0\x04\x68\xce\x0f\xc8";
        let format = Format::of_codec(Codec::H264, avc).unwrap();
        let mut payload = Vec::new();
        for len in [1_u32, 30, 2, 300, 61, 62, 63] {
            payload.extend_from_slice(&len.to_be_bytes());
            let filling = (1..len).map(|byte| 0x80 | byte as u8);
            payload.extend([0x65].into_iter().chain(filling));
        }
        let whole = Frame { keyframe: true, ..frame(Codec::H264, 9, &payload) };
        for packet_len_max in 64..500 {
            let mut packetizer = Packetizer::new(&format, config(packet_len_max)).unwrap();
            let made = packets(&mut packetizer, &whole);
            assert!(made.iter().all(|packet| packet.len() <= packet_len_max));
            let frames = back(&format, &made);
            let expected = Frame { timestamp: 1009, ..whole.clone() };
            assert_eq!(frames, [expected], "{packet_len_max}");
        }
    }
}
