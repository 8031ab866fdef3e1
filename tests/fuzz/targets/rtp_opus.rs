//! Opus, a frame of which is a packet: frames come back from packets of ours.
#![no_main]

use rillcast::proto::rtp::TrackKind;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let layouts = ["", "sprop-stereo=0"];
    rillcast_fuzz::rtp::depacketize(TrackKind::Audio, "opus/48000/2", &layouts, data);
});
