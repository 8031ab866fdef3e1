//! All tracks of a source, whole and in pieces; what is told to be cut off makes no frame.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rillcast_fuzz::ingest::receive_source(data));
