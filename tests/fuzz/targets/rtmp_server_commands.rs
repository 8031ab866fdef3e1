//! The RTMP server session behind a handshake: connect, publish, play, media.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split_after(&rillcast_fuzz::handshake(), data, rillcast_fuzz::serve_rtmp);
});
