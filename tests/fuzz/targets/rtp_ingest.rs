//! RTP packets of any sources into a log: one run of numbers and one SSRC for each track, in order.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rillcast_fuzz::ingest::ingest(data));
