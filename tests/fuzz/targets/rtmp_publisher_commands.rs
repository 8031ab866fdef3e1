//! The RTMP publisher session behind a handshake: answers and statuses.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split_after(&rillcast_fuzz::handshake(), data, rillcast_fuzz::push_rtmp);
});
