//! FLV payloads: their class, and the configuration records of all codecs.
#![no_main]

use rillcast::media::TagKind;
use rillcast::media::codec::{AudioParameters, VideoParameters};
use rillcast::proto::flv::classify::{TAG_HEAD_LEN, classify};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for kind in [TagKind::Audio, TagKind::Video, TagKind::Script] {
        let Some(class) = classify(kind, data) else { continue };
        assert_eq!(classify(kind, &data[..data.len().min(TAG_HEAD_LEN)]), Some(class));
        let record = &data[class.header_len..];
        let _ = VideoParameters::from_config(class.codec, record);
        let _ = AudioParameters::from_config(class.codec, record);
        let _ = AudioParameters::from_flv_header(data[0]);
    }
});
