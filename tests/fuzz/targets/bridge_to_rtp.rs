//! FLV tags into RTP packets: what comes out is sound, and makes tags again.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rillcast_fuzz::bridge::to_rtp(data));
