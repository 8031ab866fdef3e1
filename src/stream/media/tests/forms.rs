//! Sources of the other form: who writes which log changes, and players of both go on.

use super::*;

#[test]
fn tags_go_on_where_the_next_source_brings_packets_and_back() {
    let (mut media, now) = (Media::default(), now());
    let key = |of: u8| [b"\x17\x01\0\0\0\0\0\0\x02", &[0x65, of][..]].concat();
    tag(&mut media, TagKind::Video, 0, crate::stream::testing::VIDEO_CONFIG);
    tag(&mut media, TagKind::Video, 1000, &key(1));
    media.flush();
    let seq = media.log(Form::Flv).expect("its own").flushed_seq();
    media.take_form(Form::Rtp, now.0, Duration::ZERO);
    assert_eq!((media.form(), media.bytes()), (Form::Rtp, IngestBytes::default()));
    media.flush();
    assert!(!media.other_is_void(), "nothing is known of the source");
    begin(&mut media, H264);
    packet((&mut media, now), (1, 0), KEYFRAME, Gap::None);
    packet((&mut media, now), (2, 3600), b"\x41\x01", Gap::None);
    packet((&mut media, now), (3, 7200), b"\x41\x02", Gap::None);
    media.flush();
    assert!(!media.other_is_void());
    let log = media.log(Form::Flv).expect("it goes on");
    assert!(log.flushed_seq() > seq + 1);
    assert_eq!(log.range(log.first_seq()..seq).count(), 2, "what there was");
    media.take_form(Form::Flv, now.0, Duration::ZERO);
    tag(&mut media, TagKind::Video, 500_000, crate::stream::testing::VIDEO_CONFIG);
    tag(&mut media, TagKind::Video, 500_000, &key(2));
    media.flush();
    let frames = frames(media.log(Form::Flv).expect("its own"));
    let payloads: Vec<&[u8]> = frames.iter().map(|(_, payload)| &payload[..]).collect();
    assert_eq!(payloads, [&b"\x65\x01"[..], b"\x65\x88", b"\x41\x01", b"\x65\x02"]);
    assert!(frames.windows(2).all(|two| two[0].0 < two[1].0), "{frames:?}");
    assert!(frames.last().expect("four").0 < 10_000, "one timeline: {frames:?}");
}

#[test]
fn packets_begin_anew_where_tags_can_not_be_made_what_was_described() {
    for (sdp, can) in [
        (H264.to_owned(), true),
        (format!("{H264}m=application 0 RTP/AVP 97\r\na=rtpmap:97 x/90000\r\n"), true),
        (format!("{H264}a=fmtp:96 packetization-mode=2\r\n"), false),
        (H264.replace("H264", "AV1"), false),
        (format!("{H264}m=audio 0 RTP/AVP 8\r\n"), true),
        (format!("{H264}m=audio 0 RTP/AVP 8\r\nm=audio 0 RTP/AVP 8\r\n"), false),
        (format!("{H264}m=audio 0 RTP/AVP 97\r\na=rtpmap:97 PCMA/16000\r\n"), false),
        (format!("{H264}m=audio 0 RTP/AVP 97\r\na=rtpmap:97 MP4A-LATM/48000/2\r\n"), false),
        (format!("{H264}m=audio 0 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\n"), true),
        (format!("{H264}{AAC}"), true),
        (format!("{H264}{}", AAC.replace("sizelength=13", "sizelength=6")), false),
    ] {
        let mut media = Media::new(Form::Rtp);
        begin(&mut media, &sdp);
        packet((&mut media, now()), (1, 0), KEYFRAME, Gap::None);
        media.flush();
        assert_eq!(media.packets_can_go_on(), can, "{sdp}");
        media.take_form(Form::Flv, now().0, Duration::ZERO);
        assert!(media.log(Form::Flv).is_some_and(|log| log.next_seq() == 0));
        assert_eq!(media.log(Form::Rtp).is_some(), can, "{sdp}");
    }
}

const AAC: &str = "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 mpeg4-generic/48000/2\r\na=fmtp:97 \
    mode=AAC-hbr; sizelength=13; indexlength=3; indexdeltalength=3; config=1190\r\n";

/// Packets that are no reports, from a number on: the track, and what each is.
fn packets_of(log: &Log, from: u64) -> Vec<(usize, RtpPacket)> {
    let entries = log.range(from.max(log.first_seq())..log.flushed_seq());
    let packets = entries.filter(|entry| !entry.is_rtcp());
    let parse = |entry: &Entry| RtpPacket::parse(log.bytes(entry.packet())).expect("sound");
    packets.map(|entry| (entry.track(), parse(entry))).collect()
}

/// Sources in turn: tags with sound, packets, tags. Who plays packets has one stream.
#[test]
fn packets_go_on_where_the_next_source_brings_tags_and_back() {
    for first in Form::ALL {
        let mut media = Media::new(first);
        let described = format!("{H264}{AAC}").replace("AVP 96", "AVP 98").replace(":96", ":98");
        let (mut forms, mut form) = (0, first);
        let mut seen: Option<u64> = None;
        let mut headers: [Vec<RtpHeader>; 2] = Default::default();
        let mut ntp: Vec<(u64, u32)> = Vec::new();
        while forms < 6 {
            match form {
                Form::Flv => {
                    let base = 1_000_000 * forms as u32;
                    tag(&mut media, TagKind::Video, base, AVC);
                    tag(&mut media, TagKind::Audio, base, b"\xaf\0\x11\x90");
                    for at in 0..30 {
                        let head: &[u8] = if at % 10 == 0 { b"\x17\x01" } else { b"\x27\x01" };
                        let unit = if at % 10 == 0 { 0x65 } else { 0x41 };
                        // Pictures are shown 80 ms after they are decoded.
                        let picture = [head, &[0, 0, 80, 0, 0, 0, 2, unit, at as u8]].concat();
                        tag(&mut media, TagKind::Video, base + 40 * at, &picture);
                        tag(&mut media, TagKind::Audio, base + 40 * at, b"\xaf\x01abc");
                        media.flush();
                    }
                }
                Form::Rtp => {
                    begin(&mut media, &described);
                    for at in 0..30_u16 {
                        let timestamp = 7_000_000 * forms as u32 + 3600 * u32::from(at);
                        let unit = if at % 10 == 0 { KEYFRAME } else { &[0x41, 9] };
                        let sequence = (65_530 - 9000 * forms as u16).wrapping_add(at);
                        let header = (sequence, timestamp);
                        packet((&mut media, now()), header, unit, Gap::None);
                        media.flush();
                    }
                }
            }
            if forms == 0 && first == Form::Flv {
                want(&mut media, 1_700_000_000);
                assert!(!media.other_is_behind());
            }
            let log = media.log(Form::Rtp).expect("it goes on");
            let from = seen.unwrap_or_else(|| log.start_seq());
            let packets = packets_of(log, from);
            assert!(packets.len() >= 10, "{} packets of {form:?}", packets.len());
            packets.iter().for_each(|(track, packet)| headers[*track].push(packet.header()));
            for entry in log.range(from..log.flushed_seq()).filter(|entry| entry.is_rtcp()) {
                let bytes = log.bytes(entry.packet());
                let word =
                    |at: usize| u32::from_be_bytes(*bytes[at..].first_chunk().expect("four"));
                let time = u64::from_be_bytes(*bytes[8..].first_chunk().expect("a report"));
                if entry.track() == 0 {
                    ntp.push((time, word(16)));
                }
                assert_eq!(word(4), headers[entry.track()][0].ssrc);
            }
            seen = Some(log.flushed_seq());
            assert!(!media.other_is_void());
            media.change_source();
            form = form.other();
            assert!(media.packets_can_go_on());
            media.take_form(form, now().0, Duration::from_millis(500));
            forms += 1;
        }
        for headers in headers {
            for two in headers.windows(2) {
                let step = two[1].timestamp.wrapping_sub(two[0].timestamp).cast_signed();
                assert_eq!(two[1].sequence, two[0].sequence.wrapping_add(1), "{two:?}");
                assert!((0..200_000).contains(&step), "{two:?}");
                let what = |of: RtpHeader| (of.ssrc, of.payload_type);
                assert_eq!(what(two[1]), what(two[0]));
            }
            assert!(headers.len() > 60);
        }
        // Reports lie on one line: 90,000 ticks a second.
        for two in ntp.windows(2) {
            let seconds = (two[1].0 - two[0].0) as f64 / f64::from(u32::MAX);
            let ticks = f64::from(two[1].1.wrapping_sub(two[0].1));
            assert!((ticks / 90_000.0 - seconds).abs() < 0.002, "{two:?}");
        }
        assert!(ntp.len() >= 6);
    }
}

/// Players were told a camera's words, and what is made of tags is described in ours: they need to be told
/// sets again only where those are others.
#[test]
fn sets_in_other_words_are_no_new_ones() {
    let described = format!(
        "{H264}a=fmtp:96 packetization-mode=1; \
         sprop-parameter-sets=AAAAAWdCwCjaAeAIn5cBEAAAPpAADqYA8YMq,AAAAAWjOD8g; \
         profile-level-id=42c028\r\n"
    );
    let other = [&AVC[..AVC.len() - 1], b"\xc9"].concat();
    for (config, payloads) in
        [(AVC, &[&b"\x65\x89"[..]][..]), (&other, &[&AVC[13..36], &AVC[39..], b"\x65\x89"])]
    {
        let mut media = Media::new(Form::Rtp);
        begin(&mut media, &described);
        packet((&mut media, now()), (1, 0), KEYFRAME, Gap::None);
        media.flush();
        media.change_source();
        media.take_form(Form::Flv, now().0, Duration::ZERO);
        tag(&mut media, TagKind::Video, 0, config);
        tag(&mut media, TagKind::Video, 0, b"\x17\x01\0\0\0\0\0\0\x02\x65\x88");
        media.flush();
        assert!(!media.other_is_void());
        media.change_source();
        media.take_form(Form::Rtp, now().0, Duration::ZERO);
        let from = media.log(Form::Rtp).expect("it goes on").next_seq();
        begin(&mut media, &described);
        packet((&mut media, now()), (1, 0), b"\x65\x89", Gap::None);
        media.flush();
        let packets = packets_of(media.log(Form::Rtp).expect("its own"), from);
        let told: Vec<Bytes> = packets.iter().map(|(_, packet)| packet.payload()).collect();
        assert_eq!(told, payloads);
    }
}

/// The next source's record of sound is another one: known with its tags, which are not made packets.
#[test]
fn packets_are_void_where_the_next_source_brings_tags_of_other_tracks() {
    let stereo: (&[u8], &[u8]) = (b"\xaf\0\x11\x90", b"\xaf\x01abc");
    let mono: (&[u8], &[u8]) = (b"\xaf\0\x11\x88", b"\xaf\x01abc");
    // What ffmpeg writes behind it says that there is no SBR.
    let long: (&[u8], &[u8]) = (b"\xaf\0\x11\x90\x56\xe5\0", b"\xaf\x01abc");
    let opus: (&[u8], &[u8]) = (b"\x91Opus\x07", b"\x91Opus\x07\x07");
    for ((record, sound), is_void) in [(stereo, false), (long, false), (mono, true), (opus, true)] {
        let mut media = Media::new(Form::Rtp);
        begin(&mut media, &format!("{H264}{AAC}"));
        packet((&mut media, now()), (1, 0), KEYFRAME, Gap::None);
        media.flush();
        media.change_source();
        media.take_form(Form::Flv, now().0, Duration::ZERO);
        tag(&mut media, TagKind::Video, 0, AVC);
        tag(&mut media, TagKind::Audio, 0, record);
        // Nothing but a keyframe begins.
        tag(&mut media, TagKind::Audio, 0, sound);
        tag(&mut media, TagKind::Video, 40, b"\x17\x01\0\0\0\0\0\0\x02\x65\x88");
        tag(&mut media, TagKind::Audio, 40, sound);
        media.flush();
        assert_eq!(media.other_is_void(), is_void, "{record:x?}");
    }
}

/// The number of frames of sound that players of tags have got.
fn sounds_made(media: &Media) -> usize {
    let log = media.log(Form::Flv).expect("it goes on");
    let entries = log.range(log.first_seq()..log.flushed_seq());
    entries.filter(|entry| entry.kind == TagKind::Audio && !entry.config).count()
}

fn sound(media: &mut Media, sequence: u16) {
    let timestamp = 160 * u32::from(sequence);
    let header = RtpHeader { marker: false, payload_type: 8, sequence, timestamp, ssrc: 8 };
    let bytes = [&header.encode()[..], &[1; 160]].concat();
    let packet = RtpPacket::parse(bytes.into()).expect("sound");
    media.handle_rtp(now(), RtpPart::Packet { track: 0, packet, gap: Gap::None });
}

/// Nobody waits for video that the next source does not have, or that no tags are made of.
#[test]
fn sound_goes_on_at_once_where_the_next_source_tells_of_no_video() {
    const SOUND: &str = "m=audio 0 RTP/AVP 8\r\n";
    for sdp in [format!("v=0\r\n{SOUND}"), format!("v=0\r\n{SOUND}m=video 0 RTP/AVP 26\r\n")] {
        for was in Form::ALL {
            let mut media = Media::new(was);
            if was == Form::Rtp {
                begin(&mut media, H264);
                want(&mut media, 0);
                packet((&mut media, now()), (1, 0), KEYFRAME, Gap::None);
                packet((&mut media, now()), (2, 3600), b"\x41\x01", Gap::None);
            } else {
                let picture = b"\x17\x01\0\0\0\0\0\0\x02\x65\x01";
                tag(&mut media, TagKind::Video, 0, crate::stream::testing::VIDEO_CONFIG);
                tag(&mut media, TagKind::Video, 1000, picture);
            }
            media.flush();
            assert!(media.log(Form::Flv).expect("players have it").has_video());
            media.change_source();
            media.take_form(Form::Rtp, now().0, Duration::ZERO);
            begin(&mut media, &sdp);
            (0..5).for_each(|sequence| sound(&mut media, sequence));
            media.flush();
            let log = media.log(Form::Flv).expect("it goes on");
            assert!(!log.awaits_keyframe(), "{was:?} {sdp}");
            assert!(sounds_made(&media) >= 4, "{was:?} {sdp}");
        }
    }
}
