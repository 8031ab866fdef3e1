//! WebSocket frames: the same however the bytes come.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split(data, rillcast_fuzz::read_frames);
});
