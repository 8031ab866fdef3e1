//! The chunked coding: the same data and end however the bytes come.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split(data, rillcast_fuzz::read_chunked);
});
