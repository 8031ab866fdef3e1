//! Both forms of a stream, made of what its source brings.

use bytes::Bytes;

use super::*;
use crate::media::TagKind;
use crate::proto::rtp::{RtpHeader, RtpPacket};
use crate::proto::rtsp::SessionDescription;
use crate::stream::Entry;

mod forms;
mod late;

fn tag(media: &mut Media, kind: TagKind, timestamp_ms: u32, payload: &[u8]) {
    let (lane, len) = (kind as u32, payload.len() as u32);
    media.handle(MediaPart::Begin { lane, kind, timestamp_ms, len });
    media.handle(MediaPart::Data { lane, bytes: Bytes::copy_from_slice(payload) });
}

/// The other form, with what there is of it.
fn want(media: &mut Media, now_unix: u64) {
    media.want_other(7, now_unix);
    while media.other_is_behind() {
        media.make_other();
    }
}

const PCMA: u8 = 0x72;

#[test]
fn tags_are_made_packets_from_where_players_start_and_on() {
    let mut media = Media::default();
    let sound = |index: u32| [&[PCMA][..], &[index as u8; 160]].concat();
    for index in 0..60 {
        tag(&mut media, TagKind::Audio, index * 20, &sound(index));
    }
    media.flush();
    assert!(media.log(Form::Rtp).is_none());
    want(&mut media, 1_700_000_000);
    for index in 60..120 {
        tag(&mut media, TagKind::Audio, index * 20, &sound(index));
    }
    media.flush();
    let log = media.log(Form::Rtp).expect("it is made");
    assert_eq!(log.description().expect("told").media.len(), 1);
    let packets: Vec<RtpPacket> = log
        .range(log.first_seq()..log.flushed_seq())
        .filter(|entry| !entry.is_rtcp())
        .map(|entry| RtpPacket::parse(log.bytes(entry.packet())).expect("sound"))
        .collect();
    assert_eq!(packets.len(), 60);
    assert_eq!(packets[0].payload()[..], [60; 160]);
    let steps = packets
        .windows(2)
        .map(|two| two[1].header().timestamp.wrapping_sub(two[0].header().timestamp));
    assert!(steps.into_iter().all(|step| step == 160));
    assert!(media.bridge_counts().bytes_copied >= 60 * 160);
    media.drop_other();
    assert!(media.log(Form::Rtp).is_none() && media.bridge_counts().bytes_copied > 0);
}

#[test]
fn a_frame_that_no_packet_can_carry_is_left_out() {
    let mut media = Media::default();
    let opus = |len: usize| [&b"\x91Opus"[..], &vec![7; len]].concat();
    tag(&mut media, TagKind::Audio, 0, &opus(100));
    media.flush();
    want(&mut media, 0);
    for (index, len) in [100, 70_000, 100].into_iter().enumerate() {
        tag(&mut media, TagKind::Audio, 20 + 600 * index as u32, &opus(len));
    }
    media.flush();
    let log = media.log(Form::Rtp).expect("it is made");
    let entries = log.range(log.first_seq()..log.flushed_seq());
    assert_eq!(entries.filter(|entry| !entry.is_rtcp()).count(), 2);
}

#[test]
fn packets_of_another_codec_are_of_no_use_to_players() {
    let mut media = Media::default();
    tag(&mut media, TagKind::Audio, 0, &[PCMA, 1, 2, 3]);
    media.flush();
    want(&mut media, 0);
    for index in 1..40 {
        tag(&mut media, TagKind::Audio, 20 * index, &[PCMA, 1, 2, 3]);
    }
    media.flush();
    assert!(media.log(Form::Rtp).is_some() && !media.other_is_void());
    media.change_source();
    tag(&mut media, TagKind::Audio, 0, &[PCMA, 1, 2, 3]);
    media.flush();
    assert!(!media.other_is_void());
    media.change_source();
    tag(&mut media, TagKind::Audio, 0, b"\x91Opus\x07\x07");
    media.flush();
    assert!(media.other_is_void());
}

#[test]
fn packets_of_sound_with_another_record_are_of_no_use_to_players() {
    const MONO: &[u8] = b"\xaf\0\x11\x88";
    const STEREO: &[u8] = b"\xaf\0\x11\x90";
    let mut media = Media::default();
    let mut time_ms = 0;
    let mut bring = |media: &mut Media, record: &[u8]| {
        tag(media, TagKind::Audio, time_ms, record);
        for _ in 0..40 {
            tag(media, TagKind::Audio, time_ms, b"\xaf\x01abc");
            time_ms += 21;
        }
        media.flush();
    };
    bring(&mut media, MONO);
    want(&mut media, 0);
    // Some encoders repeat it.
    for _ in 0..2 {
        bring(&mut media, MONO);
        assert!(media.log(Form::Rtp).is_some() && !media.other_is_void());
    }
    bring(&mut media, STEREO);
    assert!(media.other_is_void());
    // Who comes then is told of what there is.
    media.drop_other();
    want(&mut media, 0);
    bring(&mut media, STEREO);
    let told = media.log(Form::Rtp).and_then(Log::description).expect("it is made");
    assert!(told.media[0].format.parameters.ends_with("config=1190"), "{told:?}");
    assert!(!media.other_is_void());
}

#[test]
fn new_parameter_sets_are_told_to_who_comes_next() {
    let mut media = Media::default();
    let bring = |media: &mut Media, time_ms: u32, record: &[u8]| {
        tag(media, TagKind::Video, time_ms, record);
        tags(media, time_ms, true, 100);
        media.flush();
        let told = media.log(Form::Rtp).and_then(Log::description);
        told.map(|told| told.media[0].format.parameters.clone())
    };
    bring(&mut media, 0, AVC);
    want(&mut media, 0);
    let first = bring(&mut media, 40, AVC).expect("it is made");
    assert_eq!(bring(&mut media, 80, AVC), Some(first.clone()));
    let other = [&AVC[..AVC.len() - 1], b"\xc9"].concat();
    let told = bring(&mut media, 120, &other).expect("it goes on");
    assert!(told != first && told.starts_with("packetization-mode=1"), "{told}");
    assert!(!media.other_is_void(), "they are in band, too");
}

fn now() -> (Instant, u64) {
    (crate::clock::now(), 1_700_000_000)
}

fn packet(
    (media, now): (&mut Media, (Instant, u64)),
    (sequence, timestamp): (u16, u32),
    payload: &[u8],
    gap: Gap,
) {
    let header = RtpHeader { marker: false, payload_type: 96, sequence, timestamp, ssrc: 5 };
    let bytes = [&header.encode()[..], payload].concat();
    let packet = RtpPacket::parse(bytes.into()).expect("sound");
    media.handle_rtp(now, RtpPart::Packet { track: 0, packet, gap });
}

fn begin(media: &mut Media, sdp: &str) -> MediaProgress {
    let description = SessionDescription::parse(sdp.as_bytes()).expect("a description");
    media.handle_rtp(now(), RtpPart::Begin(description.into()))
}

/// Both sets and a keyframe in one packet.
const KEYFRAME: &[u8] =
    b"\x78\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\
      \x83\x2a\0\x04\x68\xce\x0f\xc8\0\x02\x65\x88";
const H264: &str = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";

#[test]
fn tags_go_on_where_a_source_begins_anew() {
    let (mut media, now) = (Media::new(Form::Rtp), now());
    begin(&mut media, H264);
    want(&mut media, 0);
    packet((&mut media, now), (1, 0), KEYFRAME, Gap::None);
    packet((&mut media, now), (2, 3600), b"\x41\x01", Gap::None);
    packet((&mut media, now), (3, 7200), b"\x5c\x81ab", Gap::None);
    media.flush();
    // The end of a picture whose beginning is another one's, at a moment that nothing parts from
    // the last packet's.
    packet((&mut media, now), (40_000, 2_000_000_000), b"\x5c\x41cd", Gap::Restart);
    packet((&mut media, now), (40_001, 2_000_003_600), KEYFRAME, Gap::None);
    packet((&mut media, now), (40_002, 2_000_007_200), b"\x41\x02", Gap::None);
    packet((&mut media, now), (40_003, 2_000_010_800), b"\x41\x03", Gap::None);
    media.flush();
    let log = media.log(Form::Flv).expect("it is made");
    let frames = frames(log);
    let payloads: Vec<&[u8]> = frames.iter().map(|(_, payload)| &payload[..]).collect();
    assert_eq!(payloads, [b"\x65\x88", b"\x41\x01", b"\x65\x88", b"\x41\x02"]);
    assert!(frames.windows(2).all(|two| two[0].0 < two[1].0), "{frames:?}");
}

/// In the description they are not, and in band once: what is made for who comes later needs them.
#[test]
fn tags_that_begin_late_have_parameter_sets_that_came_once() {
    let mut media = Media::new(Form::Rtp);
    begin(&mut media, H264);
    packet((&mut media, now()), (1, 0), KEYFRAME, Gap::None);
    for sequence in 2..10 {
        let picture: &[u8] = if sequence % 5 == 0 { b"\x65\x88" } else { b"\x41\x01" };
        packet((&mut media, now()), (sequence, 3600 * u32::from(sequence)), picture, Gap::None);
        media.flush();
        media.trim(Form::Rtp, None, u64::MAX);
    }
    want(&mut media, 0);
    let log = media.log(Form::Flv).expect("it is made");
    let payloads: Vec<Vec<u8>> = frames(log).into_iter().map(|(_, payload)| payload).collect();
    // The last one is not over yet.
    assert_eq!(payloads, [&b"\x65\x88"[..], b"\x41\x01", b"\x41\x01", b"\x41\x01"]);
    let mut entries = log.range(log.first_seq()..log.flushed_seq());
    let told = entries.find(|entry| entry.kind == TagKind::Video && entry.config);
    let record = log.bytes(told.expect("a configuration").payload());
    assert_eq!(record[record.len() - 4..], *b"\x68\xce\x0f\xc8");
    assert_eq!(media.bridge_counts().unconfigured, 0);
}

#[test]
fn tracks_of_which_no_tags_can_be_made_end_players_of_tags() {
    let mut media = Media::new(Form::Rtp);
    begin(&mut media, H264);
    want(&mut media, 0);
    packet((&mut media, now()), (1, 0), KEYFRAME, Gap::None);
    media.flush();
    media.change_source();
    assert!(!media.other_is_void());
    let progress = begin(&mut media, "v=0\r\nm=video 0 RTP/AVP 26\r\n");
    assert_eq!(progress, MediaProgress::NewTracks);
    assert!(media.other_is_void());
    // They may come back.
    media.change_source();
    begin(&mut media, H264);
    assert!(!media.other_is_void());
}

#[test]
fn tags_go_on_with_the_parameter_sets_of_the_next_source() {
    let described = |sets: &str| format!("{H264}a=fmtp:96 sprop-parameter-sets={sets}\r\n");
    let mut media = Media::new(Form::Rtp);
    begin(&mut media, &described("Z0LAKNoB4AiflwEQAAA+kAAOpgDxgyo=,aM4PyA=="));
    want(&mut media, 0);
    packet((&mut media, now()), (1, 0), b"\x65\x88", Gap::None);
    packet((&mut media, now()), (2, 3600), b"\x41\x01", Gap::None);
    media.flush();
    media.change_source();
    let progress = begin(&mut media, &described("Z2QAHqzZQKAv+XARAAADAAEAAAMAMg8WLZY=,aOvjyyLA"));
    assert_eq!(progress, MediaProgress::Went(Progress::default()));
    for (sequence, payload) in (0..).zip([b"\x65\x89", b"\x41\x02", b"\x65\x8a", b"\x41\x03"]) {
        let header = (sequence, 3600 * u32::from(sequence));
        packet((&mut media, now()), header, payload, Gap::None);
    }
    media.flush();
    let log = media.log(Form::Flv).expect("it goes on");
    let video = log.range(log.first_seq()..log.flushed_seq());
    let payloads: Vec<Bytes> =
        video.filter(|of| of.kind == TagKind::Video).map(|of| log.bytes(of.payload())).collect();
    // The profile of a configuration, and what a picture ends with.
    let told = |payload: &Bytes| match payload[1] {
        0 => payload[6],
        _ => payload[payload.len() - 1],
    };
    let told: Vec<u8> = payloads.iter().map(told).collect();
    assert_eq!(told[..4], [0x42, 0x88, 0x64, 0x89], "{payloads:x?}");
    assert!(told[4..].iter().all(|of| *of < 0x42 || *of == 0x8a), "one configuration: {told:x?}");
}

/// Video tags of a log that can be played: timestamps, and payloads behind the tag's header.
fn frames(log: &Log) -> Vec<(u32, Vec<u8>)> {
    log.range(log.first_seq()..log.flushed_seq())
        .filter(|entry| entry.kind == TagKind::Video && !entry.config)
        .map(|entry| (entry.timestamp_ms, log.bytes(entry.payload())[9..].to_vec()))
        .collect()
}

/// A player that has nothing but sound yet could not read them.
#[test]
fn pictures_before_a_keyframe_are_made_no_packets() {
    let mut media = Media::default();
    tag(&mut media, TagKind::Video, 0, AVC);
    tags(&mut media, 0, false, 100);
    media.flush();
    want(&mut media, 0);
    for at in 1..20 {
        tags(&mut media, 40 * at, at == 15, 100);
    }
    media.flush();
    let log = media.log(Form::Rtp).expect("it is made");
    let of = |entry: &Entry| (entry.kind, entry.keyframe);
    let entries = log.range(log.first_seq()..log.flushed_seq()).filter(|entry| !entry.is_rtcp());
    let kinds: Vec<_> = entries.map(of).collect();
    let first = kinds.iter().find(|(kind, _)| *kind == TagKind::Video);
    assert_eq!(first, Some(&(TagKind::Video, true)), "{kinds:?}");
    assert_eq!(media.bridge_counts().before_keyframe, 14);
}

#[test]
fn reports_of_what_is_made_packets_go_on_over_the_wrap() {
    let mut media = Media::default();
    let first = u32::MAX - 999;
    let sound = [&[PCMA][..], &[7; 160]].concat();
    tag(&mut media, TagKind::Audio, first, &sound);
    media.flush();
    want(&mut media, 1_700_000_000);
    for index in 1..600 {
        tag(&mut media, TagKind::Audio, first.wrapping_add(20 * index), &sound);
    }
    media.flush();
    let log = media.log(Form::Rtp).expect("it is made");
    let reports = log.range(log.first_seq()..log.flushed_seq()).filter(|entry| entry.is_rtcp());
    let ntp_ms = reports.map(|entry| {
        let bytes = log.bytes(entry.packet());
        let ntp = u64::from_be_bytes(*bytes[8..].first_chunk().expect("a report"));
        ((u128::from(ntp) * 1000) >> 32) as u64
    });
    let ntp_ms: Vec<u64> = ntp_ms.collect();
    assert_eq!(ntp_ms.len(), 12);
    assert!(ntp_ms.windows(2).all(|two| (999..=1001).contains(&(two[1] - two[0]))));
    // 1900 to 1970, and the time of the first tag.
    assert!((ntp_ms[0] / 1000).abs_diff(2_208_988_800 + 1_700_000_000) <= 1, "{ntp_ms:?}");
}

#[test]
fn packets_are_made_tags() {
    let mut media = Media::new(Form::Rtp);
    let now = (crate::clock::now(), 1_700_000_000);
    let sdp = b"v=0\r\nm=audio 0 RTP/AVP 8\r\n";
    let description = SessionDescription::parse(sdp).expect("a description");
    media.handle_rtp(now, RtpPart::Begin(description.into()));
    want(&mut media, 0);
    for index in 0..10_u16 {
        let header = RtpHeader {
            marker: false,
            payload_type: 8,
            sequence: index,
            timestamp: 160 * u32::from(index),
            ssrc: 5,
        };
        let bytes = [&header.encode()[..], &[index as u8; 160]].concat();
        let packet = RtpPacket::parse(bytes.into()).expect("sound");
        media.handle_rtp(now, RtpPart::Packet { track: 0, packet, gap: Gap::None });
    }
    media.flush();
    let log = media.log(Form::Flv).expect("it is made");
    let tags: Vec<u32> = log
        .range(log.first_seq()..log.flushed_seq())
        .filter(|entry| entry.kind == TagKind::Audio)
        .map(|entry| entry.timestamp_ms)
        .collect();
    assert_eq!(tags.len(), 10);
    assert!(tags.windows(2).all(|two| two[1] - two[0] == 20), "{tags:?}");
}

const AVC: &[u8] =
    b"\x17\0\0\0\0\x01\x42\xc0\x28\xff\xe1\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\
    \x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a\x01\0\x04\x68\xce\x0f\xc8";

/// Tags of a picture of so many bytes, and of a sound.
fn tags(media: &mut Media, timestamp_ms: u32, keyframe: bool, len: u32) {
    let head: &[u8] = if keyframe { b"\x17\x01\0\0\0" } else { b"\x27\x01\0\0\0" };
    let kind = if keyframe { 0x65 } else { 0x41 };
    let body: Vec<u8> = (1..len).map(|at| (at + timestamp_ms) as u8 | 1).collect();
    let picture = [head, &len.to_be_bytes(), &[kind], &body].concat();
    tag(media, TagKind::Video, timestamp_ms, &picture);
    tag(media, TagKind::Audio, timestamp_ms, &[&[PCMA][..], &[timestamp_ms as u8; 160]].concat());
}

/// Packets of a picture and of a sound.
fn packets(media: &mut Media, count: &mut u16, keyframe: bool, len: usize) {
    let timestamp = 3600 * u32::from(*count);
    if keyframe {
        packet((media, now()), (*count, timestamp), KEYFRAME, Gap::None);
        *count += 1;
    }
    let body: Vec<u8> = (1..len).map(|at| (at + usize::from(*count)) as u8 | 1).collect();
    packet((media, now()), (*count, timestamp), &[&[0x41][..], &body].concat(), Gap::None);
    *count += 1;
}

/// Everything that is in a log: what each entry is, and its bytes.
fn contents(log: &Log) -> Vec<(Entry, Bytes)> {
    let entries = log.range(log.first_seq()..log.flushed_seq());
    entries.map(|entry| (*entry, log.bytes(entry.position..entry.end()))).collect()
}

/// A GOP of 5 MB that somebody comes to, goes on with a flush after each slice, a keyframe and a
/// trimmed log among them. Sliced or at once, the same is made.
fn made_of(form: Form, len_max: u64) -> (Vec<(Entry, Bytes)>, usize) {
    let mut media = Media::new(form);
    let mut count = 0;
    let mut bring = |media: &mut Media, at: u32, keyframe: bool| match form {
        Form::Flv => tags(media, 40 * at, keyframe, 50_000),
        Form::Rtp => (0..36).for_each(|packet| {
            packets(media, &mut count, keyframe && packet == 0, 1400);
        }),
    };
    match form {
        Form::Flv => tag(&mut media, TagKind::Video, 0, AVC),
        Form::Rtp => drop(begin(&mut media, H264)),
    }
    (0..100).for_each(|at| bring(&mut media, at, at == 0));
    media.flush();
    media.want_other(7, 0);
    let mut slices = 0;
    for at in 100..140 {
        let bridged = media.bridged.as_mut().expect("just wanted");
        if bridged.is_behind(&media.log) {
            let (copied, before) = (bridged.counts().bytes_copied, bridged.next_seq());
            bridged.follow(&media.log, len_max);
            assert!(bridged.next_seq() > before);
            let copied = bridged.counts().bytes_copied - copied;
            // What waited until the tracks were known comes with the slice in which they are.
            assert!(copied <= len_max.saturating_mul(2), "{copied} bytes in one slice");
            slices += 1;
        }
        bring(&mut media, at, at == 103);
        media.log.flush();
        media.trim(form, None, u64::MAX);
    }
    while media.other_is_behind() {
        media.bridged.as_mut().expect("made").follow(&media.log, len_max);
        slices += 1;
    }
    (contents(media.log(form.other()).expect("it is made")), slices)
}

#[test]
fn a_large_gop_is_made_in_slices_and_nothing_differs() {
    for form in Form::ALL {
        let (at_once, _) = made_of(form, u64::MAX);
        let (sliced, slices) = made_of(form, BRIDGE_SLICE_LEN);
        assert!(slices >= 5, "{slices} slices of {form:?}");
        assert_eq!(sliced.len(), at_once.len());
        assert!(sliced == at_once, "{form:?} differs");
        assert!(sliced.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > 7_000_000);
    }
}

#[test]
fn what_is_left_of_a_source_is_not_taken_for_the_next_ones() {
    let mut media = Media::default();
    tag(&mut media, TagKind::Video, 0, AVC);
    (0..100).for_each(|at| tags(&mut media, 40 * at, at == 0, 50_000));
    media.flush();
    media.want_other(7, 0);
    media.make_other();
    assert!(media.other_is_behind());
    media.change_source();
    assert!(!media.other_is_behind());
    tags(&mut media, 0, true, 1000);
    media.flush();
    let made = contents(media.log(Form::Rtp).expect("it is made"));
    let keyframes = made.iter().filter(|(entry, _)| entry.keyframe).count();
    assert_eq!(keyframes, 2);
    assert!(made.len() < 3000, "{} packets", made.len());
}

#[test]
fn codecs_that_no_packets_are_made_of_are_known_with_the_tracks() {
    let mut media = Media::default();
    tag(&mut media, TagKind::Video, 0, b"\x91vp09\0\0");
    media.flush();
    want(&mut media, 0);
    // A sound that can be carried may be late.
    assert!(!media.other_is_barren());
    tag(&mut media, TagKind::Audio, 10, b"\x2f\xff\xfb");
    media.flush();
    assert!(media.other_is_barren() && media.log(Form::Rtp).is_none());

    let mut media = Media::new(Form::Rtp);
    begin(&mut media, "v=0\r\nm=video 0 RTP/AVP 26\r\n");
    want(&mut media, 0);
    assert!(media.other_is_barren());
}

/// Both sets and a picture that is no keyframe in one packet.
const CONFIGURED: &[u8] =
    b"\x78\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\
      \x83\x2a\0\x04\x68\xce\x0f\xc8\0\x02\x41\x9a";

/// So many pictures without a keyframe, 40 ms apart, each known by its last two bytes. Nothing but the
/// next one tells where a picture ends.
fn refreshed(media: &mut Media, pictures: std::ops::Range<u16>) {
    let now = now();
    for at in pictures {
        let timestamp = 3600 * u32::from(at);
        let picture = [b"\x41\x9a", &at.to_be_bytes()[..]].concat();
        let payload = if at == 0 { CONFIGURED } else { &picture };
        packet((media, now), (at, timestamp), payload, Gap::None);
    }
    media.flush();
}

/// Of the pictures that players of tags may start at: the first byte of the tag, the last of the picture.
fn starts(log: &Log) -> Vec<(u8, u8)> {
    log.range(log.first_seq()..log.flushed_seq())
        .filter(|entry| entry.keyframe && entry.kind == TagKind::Video)
        .map(|entry| log.bytes(entry.payload()))
        .map(|payload| (payload[0], payload[payload.len() - 1]))
        .collect()
}

#[test]
fn players_of_tags_start_where_those_of_packets_do() {
    let mut media = Media::new(Form::Rtp);
    let sets = "Z0LAKNoB4AiflwEQAAA+kAAOpgDxgyo=,aM4PyA==";
    begin(&mut media, &format!("{H264}a=fmtp:96 sprop-parameter-sets={sets}\r\n"));
    refreshed(&mut media, 0..503);
    let packets = media.log(Form::Rtp).expect("its own");
    assert!(!packets.awaits_keyframe());
    let stands_in = packets.bytes(packets.entry(packets.start_seq()).expect("held").packet());
    want(&mut media, 0);
    let tags = media.log(Form::Flv).expect("it is made");
    assert!(!tags.awaits_keyframe());
    assert_eq!(starts(tags), [(0x17, 500_u16 as u8)]);
    assert_eq!(stands_in[stands_in.len() - 2..], 500_u16.to_be_bytes());
}

#[test]
fn source_without_keyframes_takes_over_in_both_forms_at_once() {
    let mut media = Media::new(Form::Rtp);
    begin(&mut media, H264);
    want(&mut media, 0);
    packet((&mut media, now()), (1, 0), KEYFRAME, Gap::None);
    packet((&mut media, now()), (2, 3600), b"\x41\x9a", Gap::None);
    media.flush();
    let mut expected = vec![(0x17, 0x88)];
    for stands_in in [false, true] {
        media.change_source();
        if stands_in {
            media.start_at_next();
        }
        begin(&mut media, H264);
        // The first one stands in, or that after 10 s.
        let first = if stands_in { 0 } else { 250 };
        refreshed(&mut media, 0..first + 3);
        for form in Form::ALL {
            assert!(!media.log(form).expect("both").awaits_keyframe(), "{form:?}");
        }
        expected.push((0x17, if stands_in { 0x9a } else { 250 }));
        assert_eq!(starts(media.log(Form::Flv).expect("it goes on")), expected);
    }
}

/// One keyframe, none for 60 s, and another one, with GOPs of 200,000 bytes kept.
#[test]
fn keyframe_that_is_too_far_back_has_pictures_stand_in() {
    for form in Form::ALL {
        let mut media = Media::new(form);
        match form {
            Form::Flv => tag(&mut media, TagKind::Video, 0, AVC),
            Form::Rtp => drop(begin(&mut media, H264)),
        }
        media.want_other(7, 0);
        let (mut count, mut waited, mut waited_max) = (0, [0; 2], [0; 2]);
        for at in 0..1510 {
            let keyframe = at % 1500 == 0;
            match form {
                Form::Flv => tags(&mut media, 40 * at, keyframe, 1000),
                Form::Rtp => packets(&mut media, &mut count, keyframe, 1000),
            }
            media.flush();
            for (index, form) in Form::ALL.into_iter().enumerate() {
                media.trim(form, None, 200_000);
                let awaits = media.log(form).is_none_or(|log| log.awaits_keyframe());
                waited[index] = if awaits { waited[index] + 1 } else { 0 };
                waited_max[index] = waited[index].max(waited_max[index]);
            }
        }
        assert_eq!(waited, [0; 2], "they start at the keyframe");
        // Less than 10 s, though what stands in is not kept for 10 s either.
        assert!(waited_max.iter().all(|waited| (1..250).contains(waited)), "{waited_max:?}");
    }
}

#[test]
fn packets_that_no_tags_are_made_of_are_counted() {
    let mut media = Media::new(Form::Rtp);
    begin(&mut media, H264);
    want(&mut media, 0);
    // STAP-B, which the description did not tell; a type that is reserved; a set that is cut off.
    for (at, payload) in [b"\x79\0\0", b"\x7f\0\0", b"\x78\0\x17"].into_iter().enumerate() {
        packet((&mut media, now()), (at as u16, 3600 * at as u32), payload, Gap::None);
    }
    let counts_of = |media: &Media| {
        let counts = media.bridge_counts();
        (counts.packets_unread, counts.before_keyframe, counts.unconfigured)
    };
    media.flush();
    assert_eq!(counts_of(&media), ([1, 1, 1, 0, 0, 0], 0, 0));
    // Two pictures that nobody can begin with: before the configuration, and behind it.
    packet((&mut media, now()), (3, 10_800), b"\x41\x9a", Gap::None);
    packet((&mut media, now()), (4, 14_400), CONFIGURED, Gap::None);
    packet((&mut media, now()), (5, 18_000), b"\x41\x9a", Gap::None);
    media.flush();
    assert_eq!(counts_of(&media), ([1, 1, 1, 0, 0, 0], 1, 1));
    // They stay counted when other tracks come, and when nobody wants tags any more.
    media.change_source();
    begin(&mut media, "v=0\r\nm=audio 0 RTP/AVP 8\r\n");
    assert_eq!(counts_of(&media), ([1, 1, 1, 0, 0, 0], 1, 1));
    media.drop_other();
    assert_eq!(counts_of(&media), ([1, 1, 1, 0, 0, 0], 1, 1));
}

#[test]
fn packets_count_as_tags_where_those_can_be_made() {
    for (tracks, can_be_tags) in [
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\n", true),
        ("m=audio 0 RTP/AVP 8\n", true),
        ("m=audio 0 RTP/AVP 96\na=rtpmap:96 PCMA/16000\n", false),
        ("m=audio 0 RTP/AVP 96\na=rtpmap:96 PCMA/16000\nm=audio 0 RTP/AVP 0\n", true),
        ("m=audio 0 RTP/AVP 96\na=rtpmap:96 mpeg4-generic/48000/2\n", false),
        ("m=audio 0 RTP/AVP 96\na=rtpmap:96 MP4A-LATM/48000/2\na=fmtp:96 cpresent=0\n", false),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 H265/90000\na=fmtp:96 sprop-max-don-diff=1\n", false),
        ("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=fmtp:96 packetization-mode=2\n", false),
        ("m=audio 0 RTP/AVP 14\n", false),
    ] {
        let mut media = Media::new(Form::Rtp);
        assert!(!media.can_be(Form::Flv), "nothing is known");
        begin(&mut media, tracks);
        assert!(media.can_be(Form::Rtp));
        assert_eq!(media.can_be(Form::Flv), can_be_tags, "{tracks}");
        want(&mut media, 0);
        assert_eq!(media.other_is_barren(), !can_be_tags, "{tracks}");
        media.start_over();
        assert!(!media.can_be(Form::Flv));
    }
}

/// The first tags are held until a sound tells that there is one.
#[test]
fn players_of_packets_start_where_those_of_tags_do() {
    let mut media = Media::default();
    tag(&mut media, TagKind::Video, 0, AVC);
    for at in 0..251 {
        tags(&mut media, 40 * at, false, 1000);
    }
    media.flush();
    want(&mut media, 0);
    let packets = media.log(Form::Rtp).expect("it is made");
    assert!(!packets.awaits_keyframe());
    let first = packets.entry(packets.start_seq()).expect("held");
    assert_eq!((first.timestamp_ms, first.keyframe), (10_000, true));
    let packet = RtpPacket::parse(packets.bytes(first.packet())).expect("sound");
    assert_eq!(packet.payload()[..4], *b"\x78\0\x17\x67", "with the parameter sets");
}
