//! Source URLs and stream keys: what is parsed shows as it was written.
#![no_main]

use rillcast::media::{SourceUrl, StreamKey};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(url) = SourceUrl::parse(text, true) {
        assert_eq!(SourceUrl::parse(url.as_str(), true).as_ref(), Ok(&url));
        let _ = (url.authority(), url.rtmp_names());
    }
    if let Ok(key) = StreamKey::parse(text) {
        assert_eq!(key.as_str(), text);
        assert_eq!(StreamKey::new(key.vhost(), key.app(), key.stream()), Ok(key));
    }
});
