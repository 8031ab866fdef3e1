//! H.264 payloads: NAL units fill their frames, and frames come back from packets of ours.
#![no_main]

use rillcast::proto::rtp::TrackKind;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::rtp::depacketize(
        TrackKind::Video,
        "H264/90000",
        &["packetization-mode=1"],
        data,
    );
});
