//! The RTMP client session from its first byte on.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split(data, rillcast_fuzz::pull_rtmp);
});
