//! Sources on trial, of tags and of packets.

use super::*;
use crate::proto::rtp::{Gap, RtpHeader, RtpPacket};
use crate::stream::testing::{AUDIO_CONFIG, METADATA, VIDEO_CONFIG, payload};

/// Feeds a tag in pieces, and returns what is handed on.
fn tag(
    tryout: &mut Tryout,
    (lane, kind, timestamp_ms): (u32, TagKind, u32),
    bytes: &[u8],
    piece: usize,
) -> Vec<MediaPart> {
    let len = bytes.len() as u32;
    let mut given = Vec::new();
    let begin = MediaPart::Begin { lane, kind, timestamp_ms, len };
    assert!(tryout.handle(begin).is_none());
    for bytes in bytes.chunks(piece) {
        let part = MediaPart::Data { lane, bytes: Bytes::copy_from_slice(bytes) };
        match given.is_empty() {
            true => given.extend(tryout.handle(part).into_iter().flatten()),
            false => given.push(part),
        }
    }
    given
}

/// The tags that the parts make: kinds and payloads.
fn tags(parts: &[MediaPart]) -> Vec<(TagKind, Vec<u8>)> {
    let mut tags: Vec<(u32, TagKind, Vec<u8>)> = Vec::new();
    for part in parts {
        match part {
            MediaPart::Begin { lane, kind, .. } => tags.push((*lane, *kind, Vec::new())),
            MediaPart::Data { lane, bytes } => {
                let tag = tags.iter_mut().rfind(|tag| tag.0 == *lane).expect("it has begun");
                tag.2.extend_from_slice(bytes);
            }
            MediaPart::Script { payload, .. } => tags.push((0, TagKind::Script, payload.to_vec())),
            MediaPart::Abort { .. } => panic!("nothing is aborted"),
        }
    }
    tags.into_iter().map(|(_, kind, bytes)| (kind, bytes)).collect()
}

#[test]
fn a_source_begins_with_its_configurations_and_its_keyframe() {
    let keyframe = payload(&[0x17, 1, 0, 0, 0], 3000);
    for piece in [1, 2, 5, 23, 24, 25, 1000, 5000] {
        let mut tryout = Tryout::new(true);
        let payload_of = Bytes::from_static(METADATA);
        assert!(
            tryout.handle(MediaPart::Script { timestamp_ms: 0, payload: payload_of }).is_none()
        );
        let video = |at| (6, TagKind::Video, at);
        let audio = |at| (4, TagKind::Audio, at);
        assert!(tag(&mut tryout, video(0), VIDEO_CONFIG, piece).is_empty());
        assert!(tag(&mut tryout, audio(0), AUDIO_CONFIG, piece).is_empty());
        assert!(tag(&mut tryout, audio(10), &payload(&[0xaf, 1], 300), piece).is_empty());
        assert!(tag(&mut tryout, video(40), &payload(&[0x27, 1, 0, 0, 0], 900), piece).is_empty());
        let given = tag(&mut tryout, video(80), &keyframe, piece);
        assert_eq!(tryout.take_dropped().tags, 2, "of all a frame of each kind");
        let wanted = [
            (TagKind::Script, METADATA.to_vec()),
            (TagKind::Video, VIDEO_CONFIG.to_vec()),
            (TagKind::Audio, AUDIO_CONFIG.to_vec()),
            (TagKind::Video, keyframe.clone()),
        ];
        assert_eq!(tags(&given), wanted, "{piece}");
    }
}

#[test]
fn of_each_configuration_the_newest_is_held() {
    let mut tryout = Tryout::new(true);
    let other = [VIDEO_CONFIG, &[7]].concat();
    let video = |at| (6, TagKind::Video, at);
    tag(&mut tryout, video(0), VIDEO_CONFIG, 9);
    tag(&mut tryout, video(0), &other, 9);
    for timestamp_ms in 0..20 {
        tag(&mut tryout, (4, TagKind::Audio, timestamp_ms), AUDIO_CONFIG, 9);
        let payload = Bytes::from_static(METADATA);
        tryout.handle(MediaPart::Script { timestamp_ms, payload });
    }
    let given = tag(&mut tryout, video(80), &payload(&[0x17, 1, 0, 0, 0], 90), 200);
    let kinds: Vec<TagKind> = tags(&given).iter().map(|(kind, _)| *kind).collect();
    let scripts = given.iter().filter(|part| matches!(part, MediaPart::Script { .. }));
    assert_eq!(scripts.count(), 1);
    assert_eq!(kinds.iter().filter(|kind| **kind == TagKind::Audio).count(), 1);
    assert!(tags(&given).contains(&(TagKind::Video, other)));
    assert!(!tags(&given).contains(&(TagKind::Video, VIDEO_CONFIG.to_vec())));
}

#[test]
fn keyframe_is_held_until_it_is_whole_or_large() {
    let keyframe = payload(&[0x17, 1, 0, 0, 0], 2 * HELD_START_LEN_MAX);
    let (lane, kind, timestamp_ms) = (6, TagKind::Video, 0);
    let begin = |len: usize| MediaPart::Begin { lane, kind, timestamp_ms, len: len as u32 };
    let data = |bytes: &[u8]| MediaPart::Data { lane, bytes: Bytes::copy_from_slice(bytes) };
    let mut tryout = Tryout::new(true);
    tag(&mut tryout, (lane, kind, 0), VIDEO_CONFIG, 9);
    // One that breaks off, and one of its own that begins meanwhile.
    tryout.handle(begin(900));
    assert!(tryout.handle(data(&keyframe[..500])).is_none());
    tryout.handle(begin(900));
    assert!(tryout.handle(data(&keyframe[..600])).is_none());
    assert!(tag(&mut tryout, (4, TagKind::Audio, 5), AUDIO_CONFIG, 9).is_empty());
    let given = tryout.handle(data(&keyframe[600..900])).expect("it is whole");
    let wanted = [
        (TagKind::Video, VIDEO_CONFIG.to_vec()),
        (TagKind::Video, keyframe[..900].to_vec()),
        (TagKind::Audio, AUDIO_CONFIG.to_vec()),
    ];
    assert_eq!(tags(&given), wanted);
    tryout.handle(begin(keyframe.len()));
    let chunks = keyframe.chunks(64 * 1024);
    let held = chunks.take_while(|bytes| tryout.handle(data(bytes)).is_none()).count();
    assert!((HELD_START_LEN_MAX / (64 * 1024) - 1..=8).contains(&held), "{held}");
}

#[test]
fn pictures_stand_in_where_no_keyframe_comes() {
    let mut tryout = Tryout::new(true);
    let frame = payload(&[0x27, 1, 0, 0, 0], 50);
    for at in (0..10_000).step_by(40) {
        assert!(tag(&mut tryout, (6, TagKind::Video, at), &frame, 99).is_empty());
    }
    assert!(tryout.needs_patience() && !tryout.stands_in());
    assert_eq!(tryout.take_dropped(), TrialDropped { tags: 250, ..TrialDropped::default() });
    assert_eq!(tryout.take_dropped(), TrialDropped::default(), "once");
    assert!(!tag(&mut tryout, (6, TagKind::Video, 10_000), &frame, 99).is_empty());
    assert!(tryout.stands_in());
}

#[test]
fn audio_begins_where_no_video_comes() {
    let sound = payload(&[0xaf, 1], 30);
    let at = |ms| (4, TagKind::Audio, ms);
    assert!(!tag(&mut Tryout::new(false), at(0), &sound, 8).is_empty());
    let mut tryout = Tryout::new(true);
    assert!(tag(&mut tryout, at(1000), &sound, 8).is_empty());
    assert!(tag(&mut tryout, at(4000), &sound, 8).is_empty());
    assert!(!tag(&mut tryout, at(4001), &sound, 8).is_empty() && tryout.lacks_video());
    // A configuration is no picture.
    let mut tryout = Tryout::new(true);
    let config = payload(&[0x17, 0, 0, 0, 0], 30);
    assert!(tag(&mut tryout, (6, TagKind::Video, 1000), &config, 8).is_empty());
    assert!(tag(&mut tryout, at(1000), &sound, 8).is_empty());
    assert!(!tag(&mut tryout, at(4001), &sound, 8).is_empty() && tryout.lacks_video());
    let mut tryout = Tryout::new(false);
    tag(&mut tryout, (6, TagKind::Video, 0), VIDEO_CONFIG, 8);
    assert!(tag(&mut tryout, at(0), &sound, 8).is_empty(), "its video has a keyframe to come");
}

#[test]
fn what_is_held_is_bounded() {
    let mut tryout = Tryout::new(true);
    for number in 0..3 * HELD_CONFIGS_MAX as u32 {
        let of_another_codec = [0x90, b'a' + number as u8, b'a', b'a', b'a', 1];
        tag(&mut tryout, (6, TagKind::Audio, number), &of_another_codec, 9);
        tryout.handle(MediaPart::Begin {
            lane: 100 + number,
            kind: TagKind::Video,
            timestamp_ms: 0,
            len: 1 << 20,
        });
    }
    let large = [VIDEO_CONFIG, &vec![0; HELD_CONFIG_LEN_MAX]].concat();
    tag(&mut tryout, (6, TagKind::Video, 0), &large, 4096);
    assert_eq!(tryout.configs.len(), HELD_CONFIGS_MAX);
    assert!(tryout.open.len() <= DRAFTS_MAX);
    let held: usize = tryout.open.iter().map(|tag| tag.bytes.len()).sum();
    assert!(held < HELD_CONFIG_LEN_MAX, "{held}");
}

#[test]
fn what_a_source_breaks_off_is_forgotten() {
    let mut tryout = Tryout::new(true);
    let keyframe = payload(&[0x17, 1, 0, 0, 0], 100);
    let (lane, kind, timestamp_ms) = (6, TagKind::Video, 0);
    let data = |bytes: &[u8]| MediaPart::Data { lane, bytes: Bytes::copy_from_slice(bytes) };
    tryout.handle(MediaPart::Begin { lane, kind, timestamp_ms, len: 105 });
    assert!(tryout.handle(data(&keyframe[..10])).is_none());
    tryout.handle(MediaPart::Abort { lane });
    assert!(tryout.handle(data(&keyframe[10..])).is_none());
    tryout.handle(MediaPart::Begin { lane, kind, timestamp_ms, len: 5 });
    assert!(tryout.handle(data(&keyframe)).is_none(), "it brings too much");
    assert!(!tag(&mut tryout, (6, kind, 9), &keyframe, 50).is_empty());
}

#[test]
fn packets_begin_with_a_keyframe_and_what_was_said_of_their_clocks() {
    let sdp = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\nm=audio 0 RTP/AVP 8\r\n";
    let description = Arc::new(SessionDescription::parse(sdp).expect("a description"));
    let packet_at = |timestamp, marker, track: usize, payload: &[u8]| {
        let payload_type = if track == 0 { 96 } else { 8 };
        let (sequence, ssrc) = (1, 9);
        let header = RtpHeader { marker, payload_type, sequence, timestamp, ssrc };
        let packet = RtpPacket::parse([&header.encode()[..], payload].concat().into());
        RtpPart::Packet { track, packet: packet.expect("sound"), gap: Gap::None }
    };
    let packet = |track, payload| packet_at(7, false, track, payload);
    let mut tryout = Tryout::new(true);
    assert!(tryout.handle_rtp(packet(0, &[0x65, 1])).is_none(), "of no description");
    assert!(tryout.handle_rtp(RtpPart::Begin(description.clone())).is_none());
    assert!(!tryout.needs_patience());
    for timestamp in [1, 2] {
        assert!(tryout.handle_rtp(RtpPart::Announced { track: 0, timestamp }).is_none());
    }
    assert!(tryout.handle_rtp(packet(1, &[1, 2])).is_none());
    assert!(tryout.handle_rtp(packet(0, &[0x41, 1])).is_none());
    assert!(tryout.handle_rtp(packet(7, &[0x65, 1])).is_none());
    assert!(tryout.needs_patience());
    let begins_anew = RtpPart::Begin(description);
    for (timestamp, marker) in [(7, true), (8, false)] {
        assert!(tryout.handle_rtp(packet(0, &[0x65, 1])).is_none(), "there is more of it");
        assert!(tryout.handle_rtp(packet(1, &[5])).is_none());
        let last = packet_at(timestamp, marker, 0, &[0x65, 2]);
        let given = tryout.handle_rtp(last).expect("a whole keyframe");
        let tracks = given.iter().filter_map(|part| match part {
            RtpPart::Packet { track, .. } => Some(*track),
            _ => None,
        });
        assert_eq!(tracks.collect::<Vec<_>>(), [0, 1, 0]);
        assert!(matches!(given[0], RtpPart::Begin(_)));
        let told = RtpPart::Announced { track: 0, timestamp: 2 };
        assert_eq!(format!("{:?}", given[1]), format!("{told:?}"));
        assert!(!tryout.stands_in());
        tryout.handle_rtp(begins_anew.clone());
        tryout.handle_rtp(told);
    }
    for seconds in 0..10 {
        let picture = packet_at(90_000 * seconds, true, 0, &[0x41, 1]);
        assert!(tryout.handle_rtp(picture).is_none(), "{seconds}");
    }
    assert!(tryout.handle_rtp(packet_at(900_000, true, 0, &[0x41, 1])).is_some());
    assert!(tryout.stands_in());
}

#[test]
fn what_is_said_of_clocks_while_the_keyframe_comes_is_not_lost() {
    let sdp = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\nm=audio 0 RTP/AVP 8\r\n";
    let description = Arc::new(SessionDescription::parse(sdp).expect("a description"));
    let packet = |sequence, marker| {
        let header = RtpHeader { marker, payload_type: 96, sequence, timestamp: 7, ssrc: 9 };
        let packet = RtpPacket::parse([&header.encode()[..], &[0x65, 1]].concat().into());
        RtpPart::Packet { track: 0, packet: packet.expect("sound"), gap: Gap::None }
    };
    let report =
        |track, octet| RtpPart::Report { track, report: None, bytes: vec![octet; 4].into() };
    let mut tryout = Tryout::new(true);
    tryout.handle_rtp(RtpPart::Begin(description));
    assert!(tryout.handle_rtp(report(0, 1)).is_none());
    assert!(tryout.handle_rtp(packet(1, false)).is_none());
    for part in [report(0, 2), report(1, 3), RtpPart::Announced { track: 1, timestamp: 5 }] {
        assert!(tryout.handle_rtp(part).is_none());
    }
    let given = tryout.handle_rtp(packet(2, true)).expect("a whole keyframe");
    let told = [report(0, 2), report(1, 3), RtpPart::Announced { track: 1, timestamp: 5 }];
    assert_eq!(format!("{:?}", &given[1..4]), format!("{told:?}"));
    assert_eq!(sequences(&given[4..]), [1, 2]);
}

#[test]
fn packets_begin_with_sound_where_no_video_comes() {
    let sdp = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\nm=audio 0 RTP/AVP 8\r\n";
    let description = Arc::new(SessionDescription::parse(sdp).expect("a description"));
    let packet = |track: usize, timestamp, gap| {
        let payload_type = if track == 0 { 96 } else { 8 };
        let (sequence, ssrc, marker) = (1, 9, true);
        let header = RtpHeader { marker, payload_type, sequence, timestamp, ssrc };
        let packet = RtpPacket::parse([&header.encode()[..], &[0x41, 1]].concat().into());
        RtpPart::Packet { track, packet: packet.expect("sound"), gap }
    };
    let begun = || {
        let mut tryout = Tryout::new(true);
        assert!(tryout.handle_rtp(RtpPart::Begin(description.clone())).is_none());
        tryout
    };
    let mut tryout = begun();
    let start = u32::MAX - 8000;
    let at = |ms: u32| start.wrapping_add(8 * ms);
    assert!(tryout.handle_rtp(packet(1, at(0), Gap::None)).is_none());
    assert!(tryout.handle_rtp(packet(1, at(3000), Gap::None)).is_none());
    let given = tryout.handle_rtp(packet(1, at(3001), Gap::None)).expect("its sound");
    assert!(matches!(given[..], [RtpPart::Begin(_), RtpPart::Packet { track: 1, .. }]));
    assert_eq!(tryout.take_dropped().packets.before_keyframe, 2);
    assert!(tryout.lacks_video() && !tryout.stands_in());
    // Pictures begin the wait anew, and so does a sound whose source does.
    for other in [packet(0, 0, Gap::None), packet(1, 5, Gap::Restart)] {
        let mut tryout = begun();
        assert!(tryout.handle_rtp(packet(1, at(0), Gap::None)).is_none());
        assert!(tryout.handle_rtp(other).is_none());
        assert!(tryout.handle_rtp(packet(1, at(3001), Gap::None)).is_none());
        assert!(!tryout.lacks_video());
    }
}

/// Sequence numbers, from 0 on, of the packets that are handed on first.
fn handed_on(sent: &[(u32, bool, &[u8])]) -> Vec<u16> {
    sequences(&parts_handed_on(sent))
}

fn sequences(parts: &[RtpPart]) -> Vec<u16> {
    let sequences = parts.iter().filter_map(|part| match part {
        RtpPart::Packet { packet, .. } => Some(packet.header().sequence),
        _ => None,
    });
    sequences.collect()
}

fn parts_handed_on(sent: &[(u32, bool, &[u8])]) -> Vec<RtpPart> {
    let sdp = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";
    let description = Arc::new(SessionDescription::parse(sdp).expect("a description"));
    let mut tryout = Tryout::new(true);
    tryout.handle_rtp(RtpPart::Begin(description));
    let given = (0..).zip(sent).find_map(|(sequence, &(timestamp, marker, payload))| {
        let (payload_type, ssrc) = (96, 9);
        let header = RtpHeader { marker, payload_type, sequence, timestamp, ssrc };
        let packet = RtpPacket::parse([&header.encode()[..], payload].concat().into());
        let (packet, gap) = (packet.expect("sound"), Gap::None);
        tryout.handle_rtp(RtpPart::Packet { track: 0, packet, gap })
    });
    given.unwrap_or_default()
}

#[test]
fn packets_begin_with_the_parameter_sets_of_the_keyframe_alone() {
    let sent: [(u32, bool, &[u8]); 6] = [
        (1, false, &[0x67, 1]),
        (1, false, &[0x41]),
        (2, false, &[0x67, 2]),
        (2, false, &[0x68]),
        (3, false, &[0x65]),
        (4, false, &[0x41]),
    ];
    assert_eq!(handed_on(&sent), [2, 3, 4, 5]);
}

#[test]
fn message_with_a_marker_is_no_whole_picture() {
    const RECOVERY_POINT: &[u8] = &[6, 6, 1, 0x80, 0x80];
    for timestamp in [1, 2] {
        let sent: [(u32, bool, &[u8]); 4] = [
            (1, true, RECOVERY_POINT),
            (timestamp, false, &[0x41, 1]),
            (timestamp, true, &[0x41, 2]),
            (3, true, &[0x41, 3]),
        ];
        assert_eq!(handed_on(&sent), [0, 1, 2], "{timestamp}");
    }
}

#[test]
fn packets_of_no_track_are_passed_also_where_they_begin_anew() {
    let sdp = b"v=0\r\nm=audio 0 RTP/AVP 8\r\n";
    let description = Arc::new(SessionDescription::parse(sdp).expect("a description"));
    let mut tryout = Tryout::new(false);
    let packet = |track| {
        let header =
            RtpHeader { marker: true, payload_type: 8, sequence: 1, timestamp: 0, ssrc: 9 };
        let packet = RtpPacket::parse([&header.encode()[..], &[1]].concat().into());
        RtpPart::Packet { track, packet: packet.expect("sound"), gap: Gap::Restart }
    };
    assert!(tryout.handle_rtp(packet(0)).is_none(), "of no description");
    tryout.handle_rtp(RtpPart::Begin(description));
    assert!(tryout.handle_rtp(packet(1)).is_none());
    assert!(tryout.handle_rtp(packet(0)).is_some());
}

#[test]
fn parameter_sets_that_came_long_before_the_keyframe_are_told() {
    const SPS: &[u8] =
        b"\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a";
    const PPS: &[u8] = b"\x68\xce\x0f\xc8";
    let sent: [(u32, bool, &[u8]); 6] = [
        (1, false, SPS),
        (1, false, PPS),
        (1, true, &[0x41, 1]),
        (2, true, &[0x41, 2]),
        (3, true, &[0x65]),
        (4, true, &[0x41, 3]),
    ];
    let parts = parts_handed_on(&sent);
    assert_eq!(sequences(&parts), [4]);
    let RtpPart::Begin(description) = &parts[0] else { panic!("{:?}", parts[0]) };
    let sets = description.media[0].format.parameter_sets();
    assert_eq!(sets.nals().collect::<Vec<_>>(), [SPS, PPS]);
}

#[test]
fn parameter_sets_behind_decoding_order_numbers_are_not_told() {
    let sdp = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\n\
        a=fmtp:96 sprop-max-don-diff=1\r\n";
    let description = Arc::new(SessionDescription::parse(sdp).expect("a description"));
    let mut tryout = Tryout::new(true);
    tryout.handle_rtp(RtpPart::Begin(description.clone()));
    let heads = [0x40, 0x42, 0x44, 0x26];
    let given = (0..).zip(heads).find_map(|(sequence, head)| {
        let (marker, timestamp) = (head == 0x26, 7);
        let header = RtpHeader { marker, payload_type: 96, sequence, timestamp, ssrc: 9 };
        let payload = [head, 1, 0, sequence as u8, 0x80];
        let packet = RtpPacket::parse([&header.encode()[..], &payload].concat().into());
        let (packet, gap) = (packet.expect("sound"), Gap::None);
        tryout.handle_rtp(RtpPart::Packet { track: 0, packet, gap })
    });
    let given = given.expect("a keyframe");
    assert_eq!(sequences(&given), [0, 1, 2, 3]);
    assert!(matches!(&given[0], RtpPart::Begin(told) if **told == *description));
}

#[test]
fn what_goes_beside_audio_is_no_start() {
    let sdp = b"v=0\r\nm=audio 0 RTP/AVP 8\r\nm=application 0 RTP/AVP 107\r\n";
    let description = Arc::new(SessionDescription::parse(sdp).expect("a description"));
    let packet = |track: usize, payload_type| {
        let (sequence, ssrc) = (1, 9);
        let header = RtpHeader { marker: true, payload_type, sequence, timestamp: 0, ssrc };
        let packet = RtpPacket::parse([&header.encode()[..], &[1]].concat().into());
        RtpPart::Packet { track, packet: packet.expect("sound"), gap: Gap::None }
    };
    let mut tryout = Tryout::new(false);
    assert!(tryout.handle_rtp(RtpPart::Begin(description)).is_none());
    assert!(tryout.handle_rtp(packet(1, 107)).is_none());
    assert!(!tryout.needs_patience(), "it may be silent still");
    assert!(tryout.handle_rtp(packet(0, 8)).is_some());
}
