//! The HTTP client session: the same reply however the bytes come.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split(data, rillcast_fuzz::pull_http);
});
