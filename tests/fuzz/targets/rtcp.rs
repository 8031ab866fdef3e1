//! RTCP: what is read, written and read again is the same; clocks and statistics take anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    rillcast_fuzz::rtp::read_rtcp(data);
});
