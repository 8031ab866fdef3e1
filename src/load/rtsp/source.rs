//! A clip as RTP: one track for its video and one for its audio, with timestamps and sequence numbers
//! that go on over the rounds.

use bytes::Bytes;

use super::super::Failure;
use super::super::clip::{Clip, ClipTag};
use super::super::stamp::Stamp;
use crate::clock;
use crate::media::{Codec, Frame, TagKind};
use crate::proto::flv::classify::classify;
use crate::proto::rtp::rtcp::{NtpTime, SenderReport, encode_sender_report};
use crate::proto::rtp::{Format, Packet, Packetizer, PacketizerConfig};
use crate::proto::rtsp::{MediaDescription, SessionDescription};

/// The packets of one stream.
#[derive(Debug)]
pub(super) struct RtpSource {
    tracks: Vec<Track>,
    /// The wall clock less the monotonic one, in ns.
    wall_ns: u64,
}

#[derive(Debug)]
struct Track {
    kind: TagKind,
    format: Format,
    packetizer: Packetizer,
    config: PacketizerConfig,
    packet_count: u32,
    octet_count: u32,
}

impl RtpSource {
    /// Names and first numbers are drawn from `seed`.
    ///
    /// # Errors
    /// When the clip has a codec that we do not send as RTP.
    pub(super) fn new(clip: &Clip, seed: u64) -> Result<Self, Failure> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut tracks = Vec::new();
        for kind in [TagKind::Video, TagKind::Audio] {
            let first = clip.configs.iter().chain(&clip.tags).find(|tag| tag.kind == kind);
            let Some(first) = first else { continue };
            let config = PacketizerConfig::new(random.u32(..), random.u16(..), random.u32(..));
            tracks.push(Track::new(first, config)?);
        }
        Ok(Self { tracks, wall_ns: clock::realtime_ns().saturating_sub(clock::monotonic_ns()) })
    }

    pub(super) fn description(&self) -> SessionDescription {
        let media = self.tracks.iter().enumerate();
        let media = media.map(|(index, track)| MediaDescription::new(track.format.clone(), index));
        SessionDescription {
            name: "rillcast-load".to_owned(),
            control: None,
            media: media.collect(),
        }
    }

    /// The packets of the tag at `index`, which is due at `due_ns`, with the number of their track.
    pub(super) fn packetize(
        &mut self,
        clip: &Clip,
        index: u64,
        due_ns: u64,
        mut sink: impl FnMut(usize, Packet),
    ) {
        let (tag, at_ms) = clip.tag(index);
        let Some(number) = self.tracks.iter().position(|track| track.kind == tag.kind) else {
            return;
        };
        let Some(class) = classify(tag.kind, &tag.payload) else { return };
        let track = &mut self.tracks[number];
        if class.config {
            return track.packetizer.set_config(&tag.payload[class.header_len..]);
        }
        let payload = match tag.stamp_at {
            None => tag.payload.slice(class.header_len..),
            Some(at) => {
                let stamp = Stamp { sequence: clip.sequence(index), due_ns }.encode();
                let mut stamped = tag.payload.to_vec();
                stamped[at..at + stamp.len()].copy_from_slice(&stamp);
                Bytes::from(stamped).slice(class.header_len..)
            }
        };
        let timestamp = track.ticks(at_ms as i64 + i64::from(class.composition_ms));
        let (codec, keyframe) = (class.codec, class.keyframe);
        let frame = Frame { codec, keyframe, timestamp, payload: payload.into() };
        let (mut packet_count, mut octet_count) = (0, 0);
        let made = track.packetizer.packetize(&frame, |packet| {
            packet_count += 1;
            octet_count += packet.payload.len() as u32;
            sink(number, packet);
        });
        // A frame that can't be sent shows as one that misses.
        let _ = made;
        track.packet_count = track.packet_count.wrapping_add(packet_count);
        track.octet_count = track.octet_count.wrapping_add(octet_count);
    }

    /// A sender report of each track: of what is `at_ms` into the stream and due at `due_ns`.
    pub(super) fn reports(&self, at_ms: u64, due_ns: u64) -> impl Iterator<Item = Vec<u8>> {
        let wall_ns = self.wall_ns + due_ns;
        let ntp = NtpTime::from_unix(wall_ns / 1_000_000_000, (wall_ns % 1_000_000_000) as u32);
        self.tracks.iter().map(move |track| {
            let timestamp = track.ticks(at_ms as i64);
            let report = SenderReport {
                ssrc: track.config.ssrc,
                ntp,
                rtp_timestamp: timestamp.wrapping_add(track.config.timestamp_offset),
                packet_count: track.packet_count,
                octet_count: track.octet_count,
            };
            encode_sender_report(report, "rillcast-load")
        })
    }
}

impl Track {
    /// By the first tag of its kind: the configuration where the codec has one.
    fn new(first: &ClipTag, config: PacketizerConfig) -> Result<Self, Failure> {
        let class = classify(first.kind, &first.payload).ok_or("a tag is cut off")?;
        let has_record = !matches!(class.codec, Codec::PcmA | Codec::PcmU);
        let record = if has_record { &first.payload[class.header_len..] } else { &[] };
        let format = Format::of_codec(class.codec, record);
        let unknown =
            || format!("{:?} is not sent as RTP, or its configuration is broken", class.codec);
        let format = format.ok_or_else(unknown)?;
        let mut packetizer = Packetizer::new(&format, config).ok_or_else(unknown)?;
        packetizer.set_config(record);
        let kind = first.kind;
        Ok(Self { kind, format, packetizer, config, packet_count: 0, octet_count: 0 })
    }

    /// Modulo 2^32.
    fn ticks(&self, at_ms: i64) -> u32 {
        (at_ms * i64::from(self.format.clock_rate) / 1000) as u32
    }
}

/// Appends a packet's bytes.
pub(super) fn append(packet: &Packet, out: &mut Vec<u8>) {
    out.extend_from_slice(&packet.header.encode());
    packet.payload.slices().for_each(|slice| out.extend_from_slice(slice));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::scan::TrackScan;
    use super::*;
    use crate::proto::rtp::RtpPacket;
    use crate::proto::rtp::rtcp::{Compound, RtcpPacket};

    /// The packets of so many rounds by their track, and the media time of each in ms.
    fn packets(clip: &Clip, rounds: u64) -> (RtpSource, BTreeMap<usize, Vec<(u64, Bytes)>>) {
        let mut source = RtpSource::new(clip, 7).expect("H.264 and AAC");
        let mut packets: BTreeMap<usize, Vec<(u64, Bytes)>> = BTreeMap::new();
        for index in 0..rounds * clip.tags.len() as u64 {
            let at_ms = clip.tag(index).1;
            source.packetize(clip, index, 5_000_000 + at_ms * 1_000_000, |track, packet| {
                let mut bytes = Vec::new();
                append(&packet, &mut bytes);
                packets.entry(track).or_default().push((at_ms, bytes.into()));
            });
        }
        (source, packets)
    }

    #[test]
    fn numbers_and_times_go_on_over_the_seam() {
        let clip = Clip::load(None).expect("it is ours");
        let (source, packets) = packets(&clip, 3);
        assert_eq!(source.tracks.len(), 2);
        for (track, rate) in [(0, 90_000), (1, u64::from(source.tracks[1].format.clock_rate))] {
            let of_track = &packets[&track];
            let (first_ms, first) = &of_track[0];
            let first = RtpPacket::parse(first.clone()).expect("ours").header();
            for (count, (at_ms, bytes)) in of_track.iter().enumerate() {
                let header = RtpPacket::parse(bytes.clone()).expect("ours").header();
                assert_eq!(header.sequence, first.sequence.wrapping_add(count as u16));
                let ticks = header.timestamp.wrapping_sub(first.timestamp);
                let due = (at_ms - first_ms) * rate / 1000;
                assert!(u64::from(ticks).abs_diff(due) <= rate / 1000, "track {track} {at_ms} ms");
            }
        }
        // The last report accounts for all of them.
        for (track, bytes) in source.reports(15_000, 15_005_000_000).enumerate() {
            let report = Compound::new(&bytes).next().expect("a report").expect("ours");
            let RtcpPacket::SenderReport(report, _) = report else { panic!("{report:?}") };
            assert_eq!(report.packet_count as usize, packets[&track].len());
        }
    }

    #[test]
    fn frames_are_found_with_their_stamps() {
        let clip = Clip::load(None).expect("it is ours");
        let (source, packets) = packets(&clip, 2);
        let mut scan = TrackScan::new(&source.tracks[0].format);
        let mut pictures = Vec::new();
        let now = clock::now();
        for (_, bytes) in &packets[&0] {
            scan.handle_packet(now, bytes.clone(), |picture| pictures.push(picture));
        }
        assert_eq!(pictures.len(), 250);
        let first_due_ns = pictures[0].stamp.expect("all are stamped").due_ns;
        for (sequence, picture) in (0u32..).zip(&pictures) {
            let stamp = picture.stamp.expect("all are stamped");
            assert_eq!(stamp.sequence, sequence);
            assert_eq!(stamp.due_ns, first_due_ns + u64::from(sequence) * 40_000_000);
            assert_eq!(picture.timestamp_ms, sequence * 40);
        }
        let keyframes = pictures.iter().filter(|picture| picture.keyframe).count();
        assert!(pictures[0].keyframe && (2..=20).contains(&keyframes), "{keyframes}");
        let counts = scan.receiver.counts();
        assert_eq!(counts.reorder.delivered, packets[&0].len() as u64);
        assert_eq!((counts.reorder.lost, counts.malformed), (0, 0));
    }

    #[test]
    fn frames_that_are_shown_in_another_order_are_on_time() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/media/av.flv");
        let clip = Clip::load(Some(path.as_ref())).expect("it is ours");
        let (source, packets) = packets(&clip, 2);
        let mut scan = TrackScan::new(&source.tracks[0].format);
        let mut times_ms = Vec::new();
        for (_, bytes) in &packets[&0] {
            scan.handle_packet(clock::now(), bytes.clone(), |picture| {
                times_ms.push(picture.timestamp_ms);
            });
        }
        assert_eq!(times_ms.len(), 300);
        let steps = times_ms.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
        assert!(steps.clone().all(|step| step == 40), "{:?}", steps.collect::<Vec<_>>());
    }

    #[test]
    fn frame_that_lacks_any_packet_is_left_out() {
        let clip = Clip::load(None).expect("it is ours");
        let (source, packets) = packets(&clip, 1);
        let packets: Vec<&Bytes> = packets[&0].iter().map(|(_, bytes)| bytes).collect();
        let timestamp = |bytes: &Bytes| bytes.slice(4..8);
        // Of the frames after the first, which a player may have come into the middle of.
        let second = packets.iter().position(|bytes| timestamp(bytes) != timestamp(packets[0]));
        let second = second.expect("many frames");
        for left_out in second..packets.len().min(120) {
            let mut scan = TrackScan::new(&source.tracks[0].format);
            let mut sequences = Vec::new();
            for (index, bytes) in packets.iter().enumerate() {
                if index != left_out {
                    scan.handle_packet(clock::now(), (*bytes).clone(), |picture| {
                        sequences.extend(picture.stamp.map(|stamp| stamp.sequence));
                    });
                }
            }
            assert_eq!(scan.receiver.counts().reorder.lost, 1);
            // What lost its stamp is counted by the steps of the timestamps at worst.
            assert!((123..=124).contains(&sequences.len()), "{left_out}: {}", sequences.len());
            assert!(sequences.is_sorted_by(|a, b| a < b));
        }
    }
}
