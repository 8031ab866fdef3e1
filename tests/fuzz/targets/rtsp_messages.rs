//! RTSP messages and interleaved packets: the same items however the bytes come.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split(data, rillcast_fuzz::rtsp::read_messages);
});
