//! RTP packets: the parts of one fill it, and its header is written as it was.
#![no_main]

use rillcast::proto::rtp::packet::HEADER_LEN;
use rillcast::proto::rtp::{RandomAccess, RtpPacket};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(packet) = RtpPacket::parse(data.to_vec().into()) else { return };
    let head_len = HEADER_LEN + 4 * packet.csrcs().count();
    let extension_len = packet.extension().map_or(0, |extension| 4 + extension.words.len());
    assert!(head_len + extension_len + packet.payload().len() <= data.len());
    let head = packet.header().encode();
    assert_eq!(head[1..], data[1..HEADER_LEN]);
    let again = RtpPacket::parse(head.to_vec().into()).expect("a header is a packet");
    assert_eq!(again.header(), packet.header());
    for codec in [rillcast::media::Codec::H264, rillcast::media::Codec::H265] {
        let mut access = RandomAccess::new(codec);
        let is_start = access.step(&packet).is_start;
        assert!(!is_start || !access.step(&packet).is_start);
    }
});
