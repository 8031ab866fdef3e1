//! An RTSP push from the first answer: the same events and requests however the bytes come.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split(data, rillcast_fuzz::rtsp::push);
});
