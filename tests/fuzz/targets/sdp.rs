//! Session descriptions: what is written is read as the same, and each format makes its tools.
#![no_main]

use rillcast::proto::rtp::{Depacketizer, LossPolicy, Packetizer, PacketizerConfig};
use rillcast::proto::rtsp::SessionDescription;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(description) = SessionDescription::parse(data) else { return };
    for media in &description.media {
        let _ = media.format.parameter_sets().to_record();
        let _ = Depacketizer::new(&media.format, LossPolicy::default());
        let _ = Packetizer::new(&media.format, PacketizerConfig::new(1, 2, 3));
    }
    // Control characters become spaces in the first turn, which are trimmed in the second.
    let read = |text: &str| SessionDescription::parse(text.as_bytes()).expect("our own");
    let trimmed = read(&read(&description.encode()).encode()).encode();
    assert_eq!(read(&trimmed).encode(), trimmed);
});
