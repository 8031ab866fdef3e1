//! A source that is held back, of packets or tags: it takes over in order, and where players can start.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rillcast_fuzz::ingest::try_out(data));
