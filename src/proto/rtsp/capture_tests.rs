//! What real publishers send, read down to frames and compared with the files that they published.
//!
//! `tests/captures/make-rtsp` says how the captures were made.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::message::{Item, MessageReader, Method};
use super::sdp::{MediaDescription, SessionDescription};
use super::transport::Transport;
use crate::media::codec::ParameterSets;
use crate::media::{Codec, Frame, MediaPart, TagKind};
use crate::proto::flv::TagReader;
use crate::proto::flv::classify::classify;
use crate::proto::rtp::reorder::Gap;
use crate::proto::rtp::{
    DecodingTimes, Depacketized, Depacketizer, Format, LossPolicy, Packetizer, PacketizerConfig,
    RtpPacket, StreamClock, TrackReceiver,
};

/// A published track: its description, its packets in order, and its first sender report.
pub(crate) struct Track {
    pub(crate) media: MediaDescription,
    pub(crate) packets: Vec<RtpPacket>,
    has_report: bool,
}

/// A tag of the published file.
#[derive(Debug)]
struct Tag {
    kind: TagKind,
    codec: Codec,
    config: bool,
    keyframe: bool,
    timestamp_ms: i64,
    composition_ms: i64,
    payload: Vec<u8>,
}

/// The tracks of a capture, in the order of the session description.
pub(crate) fn read(capture: &[u8]) -> Vec<Track> {
    let mut reader = MessageReader::new();
    let mut input = Bytes::copy_from_slice(capture);
    let mut description = None;
    let mut tracks = Vec::new();
    let mut channels = HashMap::new();
    let mut receivers = HashMap::new();
    let now = crate::clock::now();
    while let Some(item) = reader.next_item(&mut input).expect("a sound capture") {
        match item {
            Item::Request(request) if request.method == Method::Announce => {
                description = Some(SessionDescription::parse(&request.body).unwrap());
            }
            Item::Request(request) if request.method == Method::Setup => {
                let media = &description.as_ref().expect("ANNOUNCE came before").media;
                let is_asked = |media: &MediaDescription| {
                    media.control.as_deref().is_some_and(|control| request.uri.ends_with(control))
                };
                let track = media.iter().position(is_asked).expect("a track of the description");
                let transport = request.headers.find("transport").unwrap();
                let transport = Transport::parse_list(transport).remove(0);
                let pair = transport.interleaved.expect("TCP");
                channels.insert(pair.rtp, (track, true));
                channels.insert(pair.rtcp, (track, false));
                let Format { payload_type, clock_rate, .. } = media[track].format;
                let receiver = TrackReceiver::new(payload_type, clock_rate, Duration::ZERO);
                receivers.insert(track, (receiver, Vec::new(), false));
            }
            Item::Interleaved(packet) => {
                let (track, is_rtp) = channels[&packet.channel()];
                let (receiver, packets, has_report) = receivers.get_mut(&track).unwrap();
                if is_rtp {
                    receiver.handle_packet(now, packet.packet());
                } else {
                    *has_report |= receiver.handle_rtcp(now, &packet.packet()).report.is_some();
                }
                packets.extend(std::iter::from_fn(|| receiver.poll_packet()).map(|ordered| {
                    assert_eq!(ordered.gap, Gap::None);
                    ordered.item
                }));
                let counts = receiver.counts();
                assert_eq!(
                    (counts.malformed, counts.malformed_rtcp, counts.foreign_type),
                    (0, 0, 0)
                );
            }
            _ => {}
        }
    }
    for (track, media) in description.expect("an ANNOUNCE").media.into_iter().enumerate() {
        let (_, packets, has_report) = receivers.remove(&track).expect("every track is set up");
        tracks.push(Track { media, packets, has_report });
    }
    tracks
}

/// The audio and video tags of a file of `tests/media`.
fn tags(flv: &[u8]) -> Vec<Tag> {
    let mut reader = TagReader::new();
    reader.handle_input(Bytes::copy_from_slice(flv)).unwrap();
    let mut tags: Vec<Tag> = Vec::new();
    let mut begun: Option<(TagKind, u32, Vec<u8>, u32)> = None;
    while let Some(part) = reader.poll_part() {
        match part {
            MediaPart::Begin { kind, timestamp_ms, len, .. } => {
                begun = Some((kind, timestamp_ms, Vec::new(), len));
            }
            MediaPart::Data { bytes, .. } => {
                let (kind, timestamp_ms, payload, len) = begun.as_mut().unwrap();
                payload.extend_from_slice(&bytes);
                // Color metadata and channel layouts are no frames.
                let is_other =
                    matches!((*kind, payload[0]), (TagKind::Video, 0xd4) | (TagKind::Audio, 0x94));
                if payload.len() == *len as usize && !is_other {
                    let class = classify(*kind, payload).expect("a known tag");
                    let coded = payload.split_off(class.header_len);
                    tags.push(Tag {
                        kind: *kind,
                        codec: class.codec,
                        config: class.config,
                        keyframe: class.keyframe,
                        timestamp_ms: i64::from(*timestamp_ms),
                        composition_ms: i64::from(class.composition_ms),
                        payload: coded,
                    });
                }
            }
            _ => {}
        }
    }
    tags
}

/// The configuration record and the frames of a file's track.
fn published(flv: &[u8], kind: TagKind) -> (Vec<u8>, Vec<Tag>) {
    let tags = tags(flv).into_iter().filter(|tag| tag.kind == kind && !tag.payload.is_empty());
    let (configs, frames): (Vec<_>, Vec<_>) = tags.partition(|tag| tag.config);
    (configs.into_iter().next().map(|tag| tag.payload).unwrap_or_default(), frames)
}

/// The configuration record and the frames that a depacketizer finds.
fn depacketized(track: &Track) -> (Vec<u8>, Vec<Frame>) {
    let format = &track.media.format;
    let mut depacketizer =
        Depacketizer::new(format, LossPolicy::default()).expect("a known format");
    for packet in &track.packets {
        depacketizer.handle_packet(packet, Gap::None).unwrap();
    }
    depacketizer.flush();
    let (mut record, mut frames) = (Vec::new(), Vec::new());
    while let Some(item) = depacketizer.poll_item() {
        match item {
            Depacketized::Config { record: config, .. } => record = config.to_vec(),
            Depacketized::Frame(frame) => frames.push(frame),
        }
    }
    let counts = depacketizer.counts();
    assert_eq!((counts.damaged, counts.unconfigured), (0, 0));
    (record, frames)
}

/// Presentation and decoding times in ms, from the first presentation on.
fn times(track: &Track, frames: &[Frame]) -> Vec<(i64, i64)> {
    let format = &track.media.format;
    let arrival: Instant = crate::clock::now();
    let mut clock = StreamClock::new(&[format.clock_rate]);
    let depth = match format.codec() {
        Codec::H264 | Codec::H265 => format.parameter_sets().reorder_depth(),
        _ => Some(0),
    };
    let mut decoding = DecodingTimes::new(depth, i64::from(format.clock_rate) / 25);
    let times = frames.iter().map(|frame| {
        let stamp = clock.map(0, frame.timestamp, arrival);
        let decoding_ns = clock.position(0, decoding.next(stamp.ticks));
        let ms = |ns: i64| (ns + 500_000).div_euclid(1_000_000);
        (ms(stamp.position_ns), ms(decoding_ns))
    });
    times.collect()
}

/// The NAL units of a frame without parameter sets, which x265 repeats in the file.
fn nals_of_frame(payload: &[u8], codec: Codec) -> Vec<&[u8]> {
    let mut nals = Vec::new();
    let mut rest = payload;
    while let Some((len, behind)) = rest.split_first_chunk() {
        let (nal, behind) = behind.split_at(u32::from_be_bytes(*len) as usize);
        nals.push(nal);
        rest = behind;
    }
    nals.retain(|nal| !ParameterSets::is_parameter_set(codec, nal));
    nals
}

fn assert_same_video(track: &Track, flv: &[u8]) {
    let (_, published) = published(flv, TagKind::Video);
    let (_, frames) = depacketized(track);
    assert!(frames.len() >= 45, "{} frames", frames.len());
    for (frame, tag) in frames.iter().zip(&published) {
        // ffmpeg does not mark clean random access pictures, where a player can start all the same.
        let is_more = frame.codec == Codec::H265 && frame.keyframe;
        assert_eq!((frame.codec, frame.keyframe), (tag.codec, tag.keyframe || is_more));
        let nals = nals_of_frame(&tag.payload, tag.codec);
        assert!(
            nals_of_frame(&frame.payload.to_vec(), tag.codec) == nals,
            "frame at {} ms: {:x?}",
            tag.timestamp_ms,
            nals.iter().map(|n| (n[0], n.len())).collect::<Vec<_>>()
        );
    }
    let first_ms = published[0].timestamp_ms + published[0].composition_ms;
    let expected = published.iter().map(|tag| {
        let decoding_ms = tag.timestamp_ms - first_ms;
        (decoding_ms + tag.composition_ms, decoding_ms)
    });
    let expected: Vec<_> = expected.take(frames.len()).collect();
    assert_eq!(times(track, &frames), expected);
}

fn assert_same_audio(track: &Track, flv: &[u8], off_ms_max: i64) {
    let (record, published) = published(flv, TagKind::Audio);
    let (found, frames) = depacketized(track);
    // The record may lack what is announced of spectral band replication, and zeros.
    assert!(record.starts_with(&found[..2]), "{found:x?} {record:x?}");
    assert!(frames.len() >= 80, "{} frames", frames.len());
    for (frame, tag) in frames.iter().zip(&published) {
        assert!(frame.payload.to_vec() == tag.payload, "frame at {} ms", tag.timestamp_ms);
    }
    let first_ms = published[0].timestamp_ms;
    for ((presentation_ms, decoding_ms), tag) in times(track, &frames).iter().zip(&published) {
        assert_eq!(presentation_ms, decoding_ms);
        let off_ms = presentation_ms - (tag.timestamp_ms - first_ms);
        assert!(off_ms.abs() <= off_ms_max, "{off_ms} ms at {}", tag.timestamp_ms);
    }
}

/// Frames made packets again, and those frames, are the same.
fn assert_round_trip(track: &Track) {
    let (record, frames) = depacketized(track);
    let codec = track.media.format.codec();
    let format = Format::of_codec(codec, &record).expect("a format that we make");
    let mut packetizer =
        Packetizer::new(&format, PacketizerConfig::new(1, 65_530, 77)).expect("a known format");
    packetizer.set_config(&record);
    let mut packets = Vec::new();
    for frame in &frames {
        let sink = |packet: crate::proto::rtp::Packet| {
            let bytes = packet.interleaved(0).expect("short enough").to_vec();
            packets.push(RtpPacket::parse(Bytes::from(bytes).slice(4..)).unwrap());
        };
        packetizer.packetize(frame, sink).unwrap();
    }
    let media = MediaDescription::new(format, 0);
    let (_, again) = depacketized(&Track { media, packets, has_report: false });
    assert_eq!(again.len(), frames.len());
    for (one, other) in again.iter().zip(&frames) {
        assert_eq!(one.payload, other.payload);
        assert_eq!(one.timestamp, other.timestamp.wrapping_add(77));
    }
}

#[test]
fn ffmpegs_h264_and_aac_are_those_of_the_file() {
    let tracks = read(include_bytes!("../../../tests/captures/ffmpeg-5.1.9-h264-aac"));
    let flv = include_bytes!("../../../tests/media/av.flv");
    let [video, audio] = &tracks[..] else { panic!("{} tracks", tracks.len()) };
    assert!(video.has_report && audio.has_report);
    assert_same_video(video, flv);
    assert_same_audio(audio, flv, 1);
    let (record, _) = published(flv, TagKind::Video);
    let (found, _) = depacketized(video);
    assert_eq!(found, record);
    tracks.iter().for_each(assert_round_trip);
}

#[test]
fn ffmpegs_hevc_and_opus_are_those_of_the_files() {
    let tracks = read(include_bytes!("../../../tests/captures/ffmpeg-9.0.2-hevc-opus"));
    let [video, audio] = &tracks[..] else { panic!("{} tracks", tracks.len()) };
    let flv = include_bytes!("../../../tests/media/hevc_aac.flv");
    assert_same_video(video, flv);
    let (record, _) = published(flv, TagKind::Video);
    let sets = ParameterSets::from_record(Codec::H265, &record).unwrap();
    assert_eq!(ParameterSets::from_record(Codec::H265, &depacketized(video).0), Some(sets));
    assert_same_audio(audio, include_bytes!("../../../tests/media/av1_opus.flv"), 1);
    tracks.iter().for_each(assert_round_trip);
}

#[test]
fn ffmpegs_latm_and_g711_are_read() {
    let tracks = read(include_bytes!("../../../tests/captures/ffmpeg-5.1.9-latm-pcma"));
    let [latm, pcma] = &tracks[..] else { panic!("{} tracks", tracks.len()) };
    assert_same_audio(latm, include_bytes!("../../../tests/media/audio.flv"), 1);
    let (record, frames) = depacketized(pcma);
    assert!(record.is_empty());
    let samples: usize = frames.iter().map(|frame| frame.payload.len()).sum();
    assert!((15_000..17_000).contains(&samples), "{samples}");
    let mut expected = frames[0].timestamp;
    for frame in &frames {
        // ffmpeg is off by some samples, under a millisecond, where it resamples.
        let off = frame.timestamp.wrapping_sub(expected).cast_signed();
        assert!(off.abs() < 8, "{off}");
        expected = frame.timestamp;
        expected = expected.wrapping_add(frame.payload.len() as u32);
    }
    tracks.iter().for_each(assert_round_trip);
}

#[test]
fn gstreamers_h264_and_latm_are_those_of_the_file() {
    let tracks = read(include_bytes!("../../../tests/captures/gstreamer-1.22-h264-latm"));
    let flv = include_bytes!("../../../tests/media/av.flv");
    let [audio, video] = &tracks[..] else { panic!("{} tracks", tracks.len()) };
    assert!(audio.media.format.is_latm());
    assert_same_video(video, flv);
    // The first two frames have one timestamp.
    assert_same_audio(audio, flv, 24);
    tracks.iter().for_each(assert_round_trip);
}
