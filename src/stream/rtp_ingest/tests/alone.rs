//! Sound that comes alone of a source that tells of video, and what goes beside both.

use super::*;

/// So many ms of G.711 from a time on, in packets of 20 ms; whether each passed, and what the stream lost.
fn sounds(scene: &mut Scene, from_ms: u32, len_ms: u32) -> Vec<(bool, bool)> {
    let sound = |at_ms: u32| {
        let bytes = packet(1, (8, (at_ms / 20) as u16, at_ms * 8), &[1]);
        let packet = RtpPacket::parse(bytes).expect("a packet");
        let part = RtpPart::Packet { track: 1, packet, gap: Gap::None };
        let RtpProgress::Media(progress) = scene.part(part) else { panic!("the same tracks") };
        (progress.frame, progress.lost_video)
    };
    (from_ms..from_ms + len_ms).step_by(20).map(sound).collect()
}

#[test]
fn players_wait_for_video_that_is_told_of() {
    let mut scene = Scene::new();
    assert_eq!(sounds(&mut scene, 0, 100), [(true, false); 5]);
    scene.log.flush();
    let replica = Log::from_snapshot(scene.log.snapshot());
    assert!(scene.log.awaits_keyframe() && replica.awaits_keyframe());
    scene.packet(0, (9, 1, 0), SLICE);
    scene.log.flush();
    assert!(scene.log.awaits_keyframe());
    scene.packet(0, (9, 2, 3600), IDR);
    scene.log.flush();
    assert!(!scene.log.awaits_keyframe());
    assert_eq!(scene.given(0).len(), 2, "who has the ones before may use them");

    // Of a codec whose keyframes are not known nobody waits for one.
    let mut scene = Scene::new();
    scene.ingest.start_over(&mut scene.log);
    scene.begin(b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\nm=audio 0 RTP/AVP 8\r\n");
    sounds(&mut scene, 0, 20);
    scene.log.flush();
    assert!(!scene.log.awaits_keyframe());
}

#[test]
fn video_that_is_told_of_and_does_not_come_is_given_up() {
    let mut scene = Scene::new();
    let passed = sounds(&mut scene, 0, 3040);
    assert!(passed.iter().all(|(frame, _)| *frame));
    assert_eq!(passed.iter().position(|(_, lost)| *lost), Some(151));
    scene.log.flush();
    assert!(!scene.log.awaits_keyframe());
    assert_eq!(scene.log.start_seq(), scene.log.flushed_seq());
    // When it comes after all it begins as it may.
    scene.packet(0, (9, 1, 0), SLICE);
    assert_eq!(scene.given(0).len(), 0);
    scene.packet(0, (9, 2, 3600), IDR);
    scene.packet(0, (9, 3, 7200), SLICE);
    assert_eq!(scene.given(0).len(), 2);
    assert!(sounds(&mut scene, 3040, 6000).iter().all(|progress| *progress == (true, false)));
    scene.log.flush();
    assert!(scene.log.has_video() && !scene.log.awaits_keyframe());
}

#[test]
fn another_source_without_video_goes_on_with_its_sound() {
    for is_known in [false, true] {
        let mut scene = Scene::new();
        scene.packet(0, (9, 100, 0), IDR);
        sounds(&mut scene, 0, 20);
        scene.log.flush();
        scene.ingest.change_source(&mut scene.log);
        if is_known {
            scene.ingest.start_without_video();
        }
        scene.begin(SDP);
        // A picture that nobody can use begins the wait anew.
        let waited = if is_known {
            0
        } else {
            sounds(&mut scene, 0, 2000);
            scene.packet(0, (2, 7, 0), SLICE);
            151
        };
        let passed = sounds(&mut scene, 2000, 4000);
        let first = passed.iter().position(|(frame, _)| *frame);
        assert_eq!((first, passed[waited]), (Some(waited), (true, true)));
        assert!(passed[waited + 1..].iter().all(|progress| *progress == (true, false)));
        scene.log.flush();
        assert!(!scene.log.awaits_keyframe());
        scene.packet(0, (2, 8, 3600), SLICE);
        scene.packet(0, (2, 9, 7200), IDR);
        let sequences = scene.given(0).into_iter().map(|of| RtpPacket::parse(of).expect("sound"));
        let sequences: Vec<u16> = sequences.map(|of| of.header().sequence).collect();
        assert_eq!(sequences, [100, 101], "its keyframe, without a gap");
        scene.log.flush();
        assert!(scene.log.has_video() && !scene.log.awaits_keyframe());
    }
}

#[test]
fn metadata_that_comes_first_keeps_no_tracks_apart() {
    let sdp = [SDP, b"m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n"];
    let mut scene = Scene::new();
    scene.ingest.start_over(&mut scene.log);
    scene.begin(&sdp.concat());
    scene.packet(2, (6, 1, 0), b"<tt:MetadataStream/>");
    scene.packet(0, (9, 0, 0), IDR);
    scene.now += Duration::from_millis(160);
    scene.packet(1, (8, 0, 0), &[1]);
    scene.report_beginnings_at_once();
    for packet in 1..50_u16 {
        scene.packet(1, (8, packet, 160 * u32::from(packet)), &[1]);
    }
    scene.packet(0, (9, 1, 90_000 * 49 / 50), SLICE);
    let newest = |channel| {
        let entries = scene.entries();
        entries.iter().rfind(|of| of.channel == channel).map(|of| of.timestamp_ms)
    };
    assert_eq!((newest(0), newest(2)), (Some(4980), Some(4980)));
}
