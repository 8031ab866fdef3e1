//! AAC in LATM payloads, configured out of band and in band.
#![no_main]

use rillcast::proto::rtp::TrackKind;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let layouts = ["cpresent=0;config=400023203fc0", "cpresent=1", "cpresent=0;config=40002320"];
    rillcast_fuzz::rtp::depacketize(TrackKind::Audio, "MP4A-LATM/48000/2", &layouts, data);
});
