//! An RTSP server session from its first byte: the same events and answers however the bytes come.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split(data, rillcast_fuzz::rtsp::serve);
});
