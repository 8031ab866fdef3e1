//! Files and captures of real encoders, through the bridge and back.

use std::time::Duration;

use bytes::Bytes;

use super::tag::{CodedTag, Content};
use super::{FlvTag, InPacket, OutPacket, ToFlv, ToRtp};
use crate::media::{Codec, MediaPart, Payload, TagKind};
use crate::proto::flv::TagReader;
use crate::proto::rtp::rtcp::{Compound, NtpTime, RtcpPacket};
use crate::proto::rtp::{Gap, RtpPacket, StreamClock};
use crate::proto::rtsp::SessionDescription;
use crate::proto::rtsp::capture_tests::read;

const AV: &[u8] = include_bytes!("../../tests/media/av.flv");
const DEMO: &[u8] = include_bytes!("../../tests/media/demo.flv");
const VIDEO: &[u8] = include_bytes!("../../tests/media/video.flv");
const AUDIO: &[u8] = include_bytes!("../../tests/media/audio.flv");
const HEVC_AAC: &[u8] = include_bytes!("../../tests/media/hevc_aac.flv");
const AV1_OPUS: &[u8] = include_bytes!("../../tests/media/av1_opus.flv");
const VP9_FLAC: &[u8] = include_bytes!("../../tests/media/vp9_flac.flv");

/// A frame of an FLV stream.
#[derive(Debug, PartialEq)]
struct Told {
    codec: Codec,
    keyframe: bool,
    decoding_ms: u32,
    composition_ms: i32,
    /// NAL units of video, without those that do not travel; else the frame.
    pieces: Vec<Vec<u8>>,
}

impl Told {
    fn presentation_ms(&self) -> u32 {
        self.decoding_ms.wrapping_add_signed(self.composition_ms)
    }
}

/// The tags of a file, their times shifted and their payloads in pieces.
fn tags(flv: &[u8], shift_ms: u32) -> Vec<FlvTag> {
    let mut reader = TagReader::new();
    for piece in flv.chunks(1000) {
        reader.handle_input(Bytes::copy_from_slice(piece)).unwrap();
    }
    let mut tags: Vec<FlvTag> = Vec::new();
    while let Some(part) = reader.poll_part() {
        match part {
            MediaPart::Begin { kind, timestamp_ms, .. } => {
                let timestamp_ms = timestamp_ms.wrapping_add(shift_ms);
                tags.push(FlvTag { kind, timestamp_ms, payload: Payload::new() });
            }
            MediaPart::Data { bytes, .. } => tags.last_mut().unwrap().payload.push(bytes),
            MediaPart::Script { timestamp_ms, payload } => {
                tags.push(FlvTag { kind: TagKind::Script, timestamp_ms, payload: payload.into() });
            }
            MediaPart::Abort { .. } => panic!("FLV has no aborts"),
        }
    }
    tags
}

fn frames(tags: &[FlvTag], kind: TagKind) -> Vec<Told> {
    let of_kind = tags.iter().filter(|tag| tag.kind == kind);
    let frames = of_kind.filter_map(|tag| {
        let coded = CodedTag::read(kind, &tag.payload)?;
        (coded.content == Content::Frame).then(|| Told {
            codec: coded.codec,
            keyframe: coded.keyframe,
            decoding_ms: tag.timestamp_ms,
            composition_ms: coded.composition_ms,
            pieces: pieces(coded.codec, coded.body.to_vec()),
        })
    });
    frames.collect()
}

fn pieces(codec: Codec, frame: Vec<u8>) -> Vec<Vec<u8>> {
    if !matches!(codec, Codec::H264 | Codec::H265) {
        return vec![frame];
    }
    let mut nals = Vec::new();
    let mut rest = &frame[..];
    while let Some((len, behind)) = rest.split_first_chunk() {
        let (nal, behind) = behind.split_at(u32::from_be_bytes(*len) as usize);
        nals.push(nal.to_vec());
        rest = behind;
    }
    // Parameter sets, delimiters, ends of sequence, filler.
    nals.retain(|nal| match codec {
        Codec::H264 => !matches!(nal[0] & 0x1f, 7..=12),
        _ => !matches!(nal[0] >> 1 & 0x3f, 32..=38),
    });
    nals
}

fn packets(tags: &[FlvTag]) -> (ToRtp, Vec<OutPacket>) {
    let mut converter = ToRtp::new(7);
    let mut packets = Vec::new();
    for tag in tags.iter().cloned() {
        converter.handle_tag(tag, false, &mut |packet| packets.push(packet));
    }
    (converter, packets)
}

fn parsed(packet: &OutPacket) -> RtpPacket {
    let bytes = packet.packet.clone().interleaved(0).unwrap().to_vec();
    RtpPacket::parse(Bytes::from(bytes).slice(4..)).unwrap()
}

/// The timestamp that a sender report tells for a time.
fn reported(converter: &ToRtp, track: usize, time_ms: u32) -> u32 {
    let bytes = converter.sender_report(track, time_ms, NtpTime(1)).unwrap();
    let packets: Vec<_> = Compound::new(&bytes).map(Result::unwrap).collect();
    let [RtcpPacket::SenderReport(report, _), RtcpPacket::SourceDescription(names)] = &packets[..]
    else {
        panic!("{packets:?}")
    };
    assert_eq!(names[0].ssrc, report.ssrc);
    report.rtp_timestamp
}

/// Tags of packets whose places in time the sender reports tell.
fn back(converter: &ToRtp, packets: &[(OutPacket, Gap)]) -> Vec<FlvTag> {
    let description = converter.description().unwrap();
    // As a player would have it.
    let description = SessionDescription::parse(description.encode().as_bytes()).unwrap();
    let mut to_flv = ToFlv::new(&description).unwrap();
    let mut tags = Vec::new();
    for (packet, gap) in packets {
        let rate = i64::from(description.media[packet.track].format.clock_rate);
        let rtp = parsed(packet);
        let start = reported(converter, packet.track, packet.time_ms);
        let ticks = i64::from(rtp.header().timestamp.wrapping_sub(start).cast_signed());
        let off_ms = (ticks * 1000 + rate / 2).div_euclid(rate);
        let time_ms = packet.time_ms.wrapping_add_signed(off_ms as i32);
        let (track, gap, is_start) = (packet.track, *gap, packet.keyframe);
        let incoming = InPacket { track, packet: &rtp, gap, time_ms, is_start };
        to_flv.handle_packet(incoming, &mut |tag| tags.push(tag));
    }
    tags
}

fn without_gaps(packets: Vec<OutPacket>) -> Vec<(OutPacket, Gap)> {
    packets.into_iter().map(|packet| (packet, Gap::None)).collect()
}

/// `off_ms_max` is for presentation times.
fn assert_same(again: &[Told], before: &[Told], off_ms_max: u32) {
    for (one, other) in again.iter().zip(before) {
        // ffmpeg does not mark clean random access pictures.
        assert_eq!((one.codec, one.keyframe || one.codec == Codec::H265), {
            (other.codec, other.keyframe || one.codec == Codec::H265)
        });
        assert!(one.pieces == other.pieces, "frame at {} ms", other.decoding_ms);
        let off_ms = one.presentation_ms().wrapping_sub(other.presentation_ms()).cast_signed();
        assert!(off_ms.unsigned_abs() <= off_ms_max, "{off_ms} ms at {}", other.decoding_ms);
        assert!(one.composition_ms >= 0);
    }
    let rises = |pair: &[Told]| pair[1].decoding_ms.wrapping_sub(pair[0].decoding_ms) as i32 > 0;
    assert!(again.windows(2).all(rises));
}

/// From FLV to RTP and back the frames are the same, at the same time.
fn assert_round_trip(flv: &[u8], kinds: &[TagKind], shift_ms: u32) {
    let before = tags(flv, shift_ms);
    let (converter, packets) = packets(&before);
    assert!(converter.is_complete());
    let after = back(&converter, &without_gaps(packets));
    for kind in [TagKind::Video, TagKind::Audio] {
        let expected = frames(&before, kind);
        let again = frames(&after, kind);
        let expected_count = if kinds.contains(&kind) { expected.len() } else { 0 };
        assert_eq!(again.len(), expected_count, "{kind:?}");
        assert_same(&again, &expected, u32::from(kind == TagKind::Audio));
    }
    assert_eq!(after[0].kind, TagKind::Script);
    let is_config = |tag: &FlvTag| {
        CodedTag::read(tag.kind, &tag.payload).is_some_and(|coded| coded.content == Content::Config)
    };
    assert!(after[1..=kinds.len()].iter().all(is_config));
    assert_eq!(after.iter().filter(|tag| is_config(tag)).count(), kinds.len());
}

#[test]
fn frames_are_the_same_there_and_back() {
    use TagKind::{Audio, Video};
    for (flv, kinds) in [
        (AV, &[Video, Audio][..]),
        // Without B-frames.
        (DEMO, &[Video, Audio]),
        (VIDEO, &[Video]),
        (AUDIO, &[Audio]),
        (HEVC_AAC, &[Video, Audio]),
        // AV1 is left out.
        (AV1_OPUS, &[Audio]),
    ] {
        assert_round_trip(flv, kinds, 0);
        assert_round_trip(flv, kinds, 1_000_000);
    }
}

#[test]
fn timestamps_wrap_on_either_side() {
    let (converter, packets) = packets(&tags(AV, 0));
    assert!(!packets.is_empty());
    let kinds = &[TagKind::Video, TagKind::Audio];
    assert_round_trip(AV, kinds, 0_u32.wrapping_sub(2000));
    for (track, rate) in [(0, 90_000), (1, 44_100)] {
        let until_wrap = u64::from(0_u32.wrapping_sub(reported(&converter, track, 0)));
        let shift_ms = (until_wrap * 1000 / rate) as u32 - 2000;
        assert!(
            reported(&converter, track, shift_ms) > reported(&converter, track, shift_ms + 4000)
        );
        assert_round_trip(AV, kinds, shift_ms);
    }
}

#[test]
fn aac_advances_by_its_samples() {
    let (_, packets) = packets(&tags(AV, 0));
    let audio = packets.iter().filter(|packet| packet.track == 1);
    let timestamps: Vec<u32> = audio.map(|packet| packet.packet.header.timestamp).collect();
    assert!(timestamps.len() > 200);
    assert!(timestamps.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == 1024));
}

#[test]
fn keyframes_are_marked_once_with_their_parameter_sets() {
    let before = tags(AV, 0);
    let (_, packets) = packets(&before);
    let keyframes = frames(&before, TagKind::Video).iter().filter(|told| told.keyframe).count();
    let marked: Vec<_> = packets.iter().filter(|packet| packet.keyframe).collect();
    assert_eq!(marked.len(), keyframes);
    for packet in marked {
        assert_eq!(packet.track, 0);
        let payload = packet.packet.payload.to_vec();
        // A STAP-A that begins with a sequence parameter set.
        assert_eq!((payload[0] & 0x1f, payload[3] & 0x1f), (24, 7));
    }
}

#[test]
fn loss_costs_the_damaged_frame_alone() {
    let before = tags(AV, 0);
    let (converter, packets) = packets(&before);
    let of_frame = |time_ms| {
        packets.iter().filter(move |packet| packet.track == 0 && packet.time_ms == time_ms)
    };
    let is_long = |packet: &&OutPacket| packet.track == 0 && of_frame(packet.time_ms).count() > 2;
    let damaged_ms = packets.iter().skip(100).find(is_long).unwrap().time_ms;
    let lost = of_frame(damaged_ms).nth(1).unwrap().packet.header.sequence;
    let mut received = Vec::new();
    for packet in &packets {
        let sequence = packet.packet.header.sequence;
        match sequence.wrapping_sub(lost) {
            0 if packet.track == 0 => {}
            1 if packet.track == 0 => received.push((packet.clone(), Gap::Lost(1))),
            _ => received.push((packet.clone(), Gap::None)),
        }
    }
    let after = back(&converter, &received);
    let mut expected = frames(&before, TagKind::Video);
    let all_count = expected.len();
    expected.retain(|told| told.decoding_ms != damaged_ms);
    assert_eq!(expected.len(), all_count - 1);
    let again = frames(&after, TagKind::Video);
    assert_eq!(again.len(), expected.len());
    assert_same(&again, &expected, 0);
    assert_eq!(frames(&after, TagKind::Audio).len(), frames(&before, TagKind::Audio).len());
}

#[test]
fn g711_is_the_same_there_and_back() {
    for first in [0x72, 0x73, 0x82, 0x83] {
        let channels = 1 + u32::from(first & 1);
        let tag = |n: u32| {
            let mut payload = vec![first];
            payload.extend((0..160 * channels).map(|at| (at * n) as u8));
            let payload = Bytes::from(payload).into();
            FlvTag { kind: TagKind::Audio, timestamp_ms: 20 * n, payload }
        };
        let before: Vec<_> = (0..60).map(tag).collect();
        let (converter, packets) = packets(&before);
        assert!(converter.is_complete());
        let sdp = converter.description().unwrap();
        assert_eq!(u32::from(sdp.media[0].format.channels), channels);
        let steps = packets.windows(2).map(|pair| {
            pair[1].packet.header.timestamp.wrapping_sub(pair[0].packet.header.timestamp)
        });
        assert!(steps.into_iter().all(|step| step == 160));
        let after = back(&converter, &without_gaps(packets));
        assert_eq!(after[1..], before);
    }
}

#[test]
fn codecs_that_rtp_can_not_carry_leave_nothing() {
    let (converter, packets) = packets(&tags(VP9_FLAC, 0));
    assert!(converter.is_complete() && packets.is_empty());
    assert_eq!(converter.description(), None);
    assert_eq!(converter.sender_report(0, 0, NtpTime(1)), None);
}

/// Every frame of a captured publisher comes out, as it stands in the file that was published.
/// Files are of the tracks in the capture's order, with how far off audio may be.
fn assert_capture(capture: &[u8], files: &[(TagKind, &[u8], u32)]) {
    let tracks = read(capture);
    let media = tracks.iter().map(|track| track.media.clone()).collect();
    let description = SessionDescription { media, ..SessionDescription::default() };
    let mut to_flv = ToFlv::new(&description).unwrap();
    let now = crate::clock::now();
    let mut after = Vec::new();
    for (number, track) in tracks.iter().enumerate() {
        let mut clock = StreamClock::new(&[track.media.format.clock_rate]);
        for packet in &track.packets {
            let position_ns = clock.map(0, packet.header().timestamp, now).position_ns;
            let position = Duration::from_nanos((position_ns + 500_000).try_into().unwrap());
            let time_ms = 1000 + position.as_millis() as u32;
            let (track, gap, is_start) = (number, Gap::None, false);
            let incoming = InPacket { track, packet, gap, time_ms, is_start };
            to_flv.handle_packet(incoming, &mut |tag| after.push(tag));
        }
    }
    for &(kind, flv, off_ms_max) in files {
        let expected = frames(&tags(flv, 0), kind);
        // From the first frame's presentation on.
        let shift = 1000_u32.wrapping_sub(expected[0].presentation_ms());
        let expected = frames(&tags(flv, shift), kind);
        let again = frames(&after, kind);
        assert!(again.len() >= 45, "{} frames", again.len());
        assert_same(&again, &expected, off_ms_max);
    }
}

#[test]
fn captured_publishers_are_those_of_their_files() {
    use TagKind::{Audio, Video};
    let ffmpeg = include_bytes!("../../tests/captures/ffmpeg-5.1.9-h264-aac");
    assert_capture(ffmpeg, &[(Video, AV, 0), (Audio, AV, 1)]);
    let hevc = include_bytes!("../../tests/captures/ffmpeg-9.0.2-hevc-opus");
    assert_capture(hevc, &[(Video, HEVC_AAC, 0), (Audio, AV1_OPUS, 1)]);
    let latm = include_bytes!("../../tests/captures/ffmpeg-5.1.9-latm-pcma");
    assert_capture(latm, &[(Audio, AUDIO, 1)]);
    // The first two audio frames of GStreamer have one timestamp, so they can't rise.
    let gstreamer = include_bytes!("../../tests/captures/gstreamer-1.22-h264-latm");
    assert_capture(gstreamer, &[(Video, AV, 0)]);
}
