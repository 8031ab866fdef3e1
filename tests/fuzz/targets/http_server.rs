//! The HTTP server session: the same requests and answers however the bytes come.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::any_split(data, rillcast_fuzz::serve_http);
});
