//! H.265 whose units have decoding order numbers before them.

use super::*;

/// Those of packets are not read, and none of ours are put between them.
#[test]
fn parameter_sets_behind_decoding_order_numbers_are_handed_on_alone() {
    let sdp = |sets: &str| {
        format!(
            "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\n\
             a=fmtp:96 sprop-max-don-diff=1{sets}\r\n"
        )
    };
    for sets in ["", ";sprop-vps=QAEM;sprop-sps=QgEB;sprop-pps=RAHB"] {
        let mut scene = Scene::new();
        scene.ingest.start_over(&mut scene.log);
        scene.begin(sdp(sets).as_bytes());
        let told = scene.log.description().expect("told").clone();
        let mut sent = Vec::new();
        for number in 0..20_u8 {
            let of_type = |head: u8, body: u8| [head, 1, 0, number, body];
            let payload = match number % 5 {
                0 => of_type(0x40, 0x0c),
                1 => of_type(0x42, 0x01),
                2 => of_type(0x44, 0xc1),
                // A keyframe, and another one without sets.
                _ => of_type(0x26, 0x80),
            };
            let picture = u32::from(number) / 5 + u32::from(number % 5 == 4);
            sent.push(scene.packet(0, (9, number.into(), 3600 * picture), &payload));
        }
        scene.log.flush();
        assert_eq!(scene.given(0), sent);
        assert_eq!(scene.log.description(), Some(&told));
        assert!(!scene.log.awaits_keyframe());
        // Of another source the same sets, or none, and others.
        for of_next in [sets, ""] {
            scene.ingest.change_source(&mut scene.log);
            let progress = scene.begin(sdp(of_next).as_bytes());
            assert_eq!(progress, RtpProgress::Media(Progress::default()));
        }
        scene.ingest.change_source(&mut scene.log);
        let progress = scene.begin(sdp(";sprop-pps=RAHC").as_bytes());
        assert_eq!(progress, RtpProgress::NewTracks);
    }
}
