//! AMF0: what is decoded, encoded and decoded again is the same.
#![no_main]

use rillcast::proto::amf0::decode_all;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(values) = decode_all(data) else { return };
    let mut bytes = Vec::new();
    values.iter().for_each(|value| value.encode(&mut bytes));
    // NaN is not equal to itself, so texts are compared.
    assert_eq!(format!("{:?}", decode_all(&bytes)), format!("{:?}", Ok::<_, ()>(values)));
});
