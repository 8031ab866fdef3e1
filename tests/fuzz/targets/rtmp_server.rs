//! The RTMP server session from its first byte on.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split(data, rillcast_fuzz::serve_rtmp);
});
