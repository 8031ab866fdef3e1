//! A journal: what is read of it is the same with what was cut off, and its records are written back.
#![no_main]

use rillcast::journal::{Frame, decode, encode, replay};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let found = replay(data);
    if let Some(damage) = found.damage {
        let cut = replay(&data[..damage.offset]);
        assert_eq!((cut.pulls, cut.damage), (found.pulls, None));
        assert_eq!(damage.offset + damage.len, data.len());
    }
    if let Frame::Record { record, .. } = decode(data) {
        let mut bytes = Vec::new();
        encode(&record, &mut bytes);
        let len = bytes.len();
        assert_eq!(decode(&bytes), Frame::Record { record, len });
    }
});
