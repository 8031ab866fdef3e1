//! Tracks that come late, or not at all.

use std::time::Duration;

use super::*;
use crate::proto::rtp::rtcp::{NtpTime, SenderReport};

/// A picture each 40 ms, of which the first is a keyframe.
fn pictures(media: &mut Media, from_ms: u32, to_ms: u32) {
    for at in (from_ms..to_ms).step_by(40) {
        let picture: &[u8] = match at {
            0 => b"\x17\x01\0\0\0\0\0\0\x02\x65\x88",
            _ => b"\x27\x01\0\0\0\0\0\0\x02\x41\x88",
        };
        tag(media, TagKind::Video, at, picture);
    }
    media.flush();
}

#[test]
fn track_that_comes_late_is_in_what_is_made_anew() {
    const AAC: &[&[u8]] = &[b"\xaf\0\x11\x90", b"\xaf\x01abc"];
    const G711: &[&[u8]] = &[&[PCMA, 1, 2, 3]];
    const OPUS: &[&[u8]] = &[b"\x91Opus\x07\x07"];
    const VIDEO_ALONE: &[u8] =
        b"\x02\0\x0aonMetaData\x08\0\0\0\x01\0\x0cvideocodecid\0\x40\x1c\0\0\0\0\0\0\0\0\x09";
    for sounds in [AAC, G711, OPUS] {
        for announces in [false, true] {
            let mut media = Media::default();
            let script = Bytes::from_static(VIDEO_ALONE);
            if announces {
                media.handle(MediaPart::Script { timestamp_ms: 0, payload: script });
            }
            tag(&mut media, TagKind::Video, 0, AVC);
            pictures(&mut media, 0, 40);
            want(&mut media, 0);
            pictures(&mut media, 40, 560);
            let told = |media: &Media| {
                let description = media.log(Form::Rtp).and_then(Log::description);
                description.map(|told| told.media.len())
            };
            assert_eq!((told(&media), media.other_is_void()), (Some(1), false));
            let bring = |media: &mut Media, at| {
                sounds.iter().for_each(|sound| tag(media, TagKind::Audio, at, sound));
                pictures(media, at, at + 40);
            };
            bring(&mut media, 600);
            assert!(media.other_is_void(), "{sounds:x?}");
            media.drop_other();
            want(&mut media, 0);
            assert_eq!((told(&media), media.other_is_void()), (Some(2), false));
            (16..100).for_each(|picture| bring(&mut media, 40 * picture));
            assert!(!media.other_is_void(), "once");
            let log = media.log(Form::Rtp).expect("it goes on");
            let audio = log.range(log.first_seq()..log.flushed_seq()).filter(|of| of.channel == 2);
            assert_eq!(audio.count(), 85, "from the first one on");
        }
    }
}

#[test]
fn players_of_packets_wait_for_pictures_that_tags_tell_of() {
    let mut media = Media::default();
    tag(&mut media, TagKind::Video, 0, AVC);
    let sound = |media: &mut Media, at| {
        tag(media, TagKind::Audio, at, &[PCMA, 1, 2, 3]);
        media.flush();
    };
    sound(&mut media, 0);
    want(&mut media, 0);
    sound(&mut media, 20);
    let awaits = |media: &Media| media.log(Form::Rtp).expect("it is made").awaits_keyframe();
    assert!(awaits(&media), "a picture in the middle of a GOP may come first");
    pictures(&mut media, 40, 80);
    assert!(awaits(&media));
    tag(&mut media, TagKind::Video, 80, b"\x17\x01\0\0\0\0\0\0\x02\x65\x88");
    media.flush();
    assert!(!awaits(&media) && !media.other_lost_video());

    // Where none comes they do not wait for ever.
    media.drop_other();
    let mut media = Media::default();
    tag(&mut media, TagKind::Video, 0, AVC);
    sound(&mut media, 0);
    want(&mut media, 0);
    (1..150).for_each(|at| sound(&mut media, 20 * at));
    assert!(awaits(&media) && !media.other_lost_video());
    (150..160).for_each(|at| sound(&mut media, 20 * at));
    assert!(!awaits(&media));
    assert_eq!([(); 2].map(|()| media.other_lost_video()), [true, false]);
}

/// Of packets of H.264 and G.711, of which there are no pictures for a while.
#[test]
fn players_of_tags_wait_no_longer_for_pictures_than_those_of_packets() {
    const BOTH: &str = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
        a=fmtp:96 sprop-parameter-sets=Z0LAKNoB4AiflwEQAAA+kAAOpgDxgyo=,aM4PyA==\r\n\
        m=audio 0 RTP/AVP 8\r\n";
    let sounds = |media: &mut Media, count: u16| {
        for at in 0..count {
            let timestamp = 160 * u32::from(at);
            let header =
                RtpHeader { marker: false, payload_type: 8, sequence: at, timestamp, ssrc: 8 };
            let bytes = [&header.encode()[..], &[1; 160]].concat();
            let packet = RtpPacket::parse(bytes.into()).expect("sound");
            media.handle_rtp(now(), RtpPart::Packet { track: 1, packet, gap: Gap::None });
            media.flush();
        }
    };
    let video = |log: &Log| {
        let entries = log.range(log.first_seq()..log.flushed_seq());
        let video = entries.filter(|of| of.kind == TagKind::Video);
        video.map(|of| (of.config, of.keyframe)).collect::<Vec<_>>()
    };
    for returns in [false, true] {
        for wants_before in [false, true] {
            let mut media = Media::new(Form::Rtp);
            begin(&mut media, BOTH);
            if wants_before {
                want(&mut media, 0);
            }
            if returns {
                packet((&mut media, now()), (1, 0), b"\x65\x88", Gap::None);
                packet((&mut media, now()), (2, 3600), b"\x41\x9a", Gap::None);
                media.flush();
                media.change_source();
                begin(&mut media, BOTH);
            }
            sounds(&mut media, 200);
            if !wants_before {
                want(&mut media, 0);
                sounds(&mut media, 2);
            }
            let tags = media.log(Form::Flv).expect("it is made");
            assert!(!tags.awaits_keyframe() && !tags.has_video(), "{returns} {wants_before}");
            let told = tags.prelude_at_start();
            assert!(told.tags.iter().all(|(kind, _)| *kind != TagKind::Video));
            let (at, unix) = now();
            let later = (at + Duration::from_secs(5), unix);
            packet((&mut media, later), (7, 0), b"\x65\x88", Gap::None);
            packet((&mut media, later), (8, 3600), b"\x41\x9a", Gap::None);
            media.flush();
            let tags = media.log(Form::Flv).expect("it goes on");
            let came = video(tags);
            assert_eq!(came[came.len() - 2..], [(true, false), (false, true)], "{came:?}");
            assert!(!tags.awaits_keyframe());
        }
    }
}

/// Sound that a camera sends late: its reports say that it was recorded so long before the pictures that
/// come with it.
#[test]
fn tags_of_sound_that_lies_far_before_the_first_picture_neither_wrap_nor_move_others() {
    const BOTH: &str =
        "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\nm=audio 0 RTP/AVP 8\r\n";
    for before_ms in [1500, 2000, 5000, 30_000] {
        let mut media = Media::new(Form::Rtp);
        begin(&mut media, BOTH);
        want(&mut media, 0);
        let start = now();
        for (track, wall_ms) in [(0, 40_000), (1, 40_000 - before_ms)] {
            let ntp = NtpTime::from_unix(wall_ms / 1000, (wall_ms % 1000) as u32 * 1_000_000);
            let (ssrc, rtp_timestamp, packet_count, octet_count) = (5, 0, 0, 0);
            let report = SenderReport { ssrc, ntp, rtp_timestamp, packet_count, octet_count };
            let bytes = Bytes::new();
            media.handle_rtp(start, RtpPart::Report { track, report: Some(report), bytes });
        }
        for picture in 0..1100_u16 {
            let at_ms = 40 * u32::from(picture);
            let now = (start.0 + Duration::from_millis(at_ms.into()), start.1);
            let payload = if picture == 0 { KEYFRAME } else { b"\x41\x01" };
            packet((&mut media, now), (picture, 90 * at_ms), payload, Gap::None);
            for (sequence, at_ms) in [(2 * picture, at_ms), (2 * picture + 1, at_ms + 20)] {
                let timestamp = 8 * at_ms;
                let header =
                    RtpHeader { marker: false, payload_type: 8, sequence, timestamp, ssrc: 6 };
                let packet = RtpPacket::parse([&header.encode()[..], &[7; 160]].concat().into());
                let (packet, gap) = (packet.expect("sound"), Gap::None);
                media.handle_rtp(now, RtpPart::Packet { track: 1, packet, gap });
            }
            media.flush();
        }
        let log = media.log(Form::Flv).expect("it is made");
        let times = |kind| -> Vec<u32> {
            let entries = log.range(log.first_seq()..log.flushed_seq());
            entries.filter(|of| of.kind == kind && !of.config).map(|of| of.timestamp_ms).collect()
        };
        let (video, audio) = (times(TagKind::Video), times(TagKind::Audio));
        assert!(video.windows(2).all(|two| two[1] - two[0] == 40), "{before_ms}: {video:?}");
        assert!(audio.is_sorted_by(|a, b| a < b), "{before_ms}: {audio:?}");
        assert_eq!(audio.len(), 2200);
        // In the end they lie apart as the reports say.
        assert_eq!(
            i64::from(audio[2198]) + i64::from(before_ms as u32),
            i64::from(video[0]) + 1099 * 40
        );
    }
}
