//! The RTMP client session behind a handshake: answers, statuses, media.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split_after(&rillcast_fuzz::handshake(), data, rillcast_fuzz::pull_rtmp);
});
