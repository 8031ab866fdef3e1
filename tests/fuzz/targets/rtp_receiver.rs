//! Packets in any order: they are handed out in the order of their numbers, the gaps between told.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::rtp::receive(data);
});
