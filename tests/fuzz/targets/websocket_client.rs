//! Frames of a WebSocket server that has accepted us.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split(data, rillcast_fuzz::play_websocket);
});
