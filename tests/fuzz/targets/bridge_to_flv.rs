//! RTP packets into FLV tags: what comes out is sound, and begins where players can.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rillcast_fuzz::bridge::to_flv(data));
