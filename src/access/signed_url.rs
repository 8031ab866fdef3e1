//! Signed URLs: `...?expires=UNIX&sign=HEX`, where `HEX` is the HMAC-SHA256 (RFC 2104) of
//! `/app/stream?expires=UNIX` with the key of the app. The path has no suffix such as `.live.flv`, so
//! that one signature serves every protocol.

use std::collections::BTreeMap;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use url::form_urlencoded;

use super::{Ask, Denied};
use crate::media::StreamKey;

/// Lets pass what needs no signature or has a right one. The signature is compared in a time that
/// does not tell where it differs.
pub(super) fn check(keys: &BTreeMap<String, String>, ask: &Ask<'_>) -> Result<(), Denied> {
    let Some(secret) = keys.get(ask.key.app()).or_else(|| keys.get(ANY_APP)) else { return Ok(()) };
    let (mut expires, mut sign) = (None, None);
    for (name, value) in form_urlencoded::parse(ask.params.as_bytes()) {
        match &*name {
            "expires" => expires = Some(value),
            "sign" => sign = Some(value),
            _ => {}
        }
    }
    let (Some(expires), Some(sign)) = (expires, sign) else { return Err(Denied::Unsigned) };
    let expires = expires.parse().map_err(|_| Denied::Signature)?;
    let sign = parse_hex(&sign).ok_or(Denied::Signature)?;
    let verified = mac(secret, ask.key, expires).verify_slice(&sign);
    verified.map_err(|_| Denied::Signature)?;
    if expires > ask.now_unix { Ok(()) } else { Err(Denied::Expired) }
}

/// The `sign` of a stream until `expires`, in seconds since the Unix epoch.
pub fn signature(secret: &str, key: &StreamKey, expires: u64) -> String {
    let bytes = mac(secret, key, expires).finalize().into_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(secret: &str, key: &StreamKey, expires: u64) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length is a key");
    mac.update(format!("/{}/{}?expires={expires}", key.app(), key.stream()).as_bytes());
    mac
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

/// Stands for every app that has no key of its own.
const ANY_APP: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(keys: &[(&str, &str)], stream: &str, params: &str) -> Result<(), Denied> {
        let keys = keys.iter().map(|&(app, key)| (app.to_owned(), key.to_owned())).collect();
        let key = &StreamKey::parse(&format!("v/{stream}")).unwrap();
        let address = [127, 0, 0, 1].into();
        check(&keys, &Ask { address, key, params, now_unix: 1_000 })
    }

    #[test]
    fn signature_is_that_of_other_tools() {
        let key = StreamKey::in_default_vhost("live", "a").unwrap();
        // printf '/live/a?expires=2000' | openssl dgst -sha256 -hmac s3cret
        let expected = "e3dd5902f12cff0571697ef6aa9629041e1e4ff65c1dcd3c7580a44931fed0e9";
        assert_eq!(signature("s3cret", &key, 2000), expected);
    }

    #[test]
    fn only_the_right_signature_passes_and_only_in_time() {
        let key = |stream: &str| StreamKey::parse(&format!("v/{stream}")).unwrap();
        let sign = |secret, stream, expires| signature(secret, &key(stream), expires);
        let right = sign("s3cret", "live/a", 2000);
        let keys = [("live", "s3cret")];
        let table = [
            (format!("expires=2000&sign={right}"), Ok(())),
            (format!("x=1&sign={}&expires=2000", right.to_uppercase()), Ok(())),
            (format!("expires=2001&sign={right}"), Err(Denied::Signature)),
            (
                format!("expires=2000&sign={}", sign("other", "live/a", 2000)),
                Err(Denied::Signature),
            ),
            (
                format!("expires=2000&sign={}", sign("s3cret", "live/b", 2000)),
                Err(Denied::Signature),
            ),
            (format!("expires=1000&sign={}", sign("s3cret", "live/a", 1000)), Err(Denied::Expired)),
            (format!("expires=999&sign={right}"), Err(Denied::Signature)),
            (format!("expires=2000&sign={}", &right[..62]), Err(Denied::Signature)),
            (format!("expires=2000&sign={}zz", &right[..62]), Err(Denied::Signature)),
            (format!("expires=-1&sign={right}"), Err(Denied::Signature)),
            (format!("sign={right}"), Err(Denied::Unsigned)),
            ("expires=2000".to_owned(), Err(Denied::Unsigned)),
            (String::new(), Err(Denied::Unsigned)),
        ];
        for (params, result) in table {
            assert_eq!(checked(&keys, "live/a", &params), result, "{params}");
        }
        for at in 0..right.len() {
            let mut wrong = right.clone().into_bytes();
            wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
            let params = format!("expires=2000&sign={}", String::from_utf8(wrong).unwrap());
            assert_eq!(checked(&keys, "live/a", &params), Err(Denied::Signature), "{at}");
        }
    }

    #[test]
    fn apps_have_their_own_keys_or_none() {
        assert_eq!(checked(&[("vod", "x")], "live/a", ""), Ok(()));
        let keys = [("*", "any"), ("live", "s3cret")];
        assert_eq!(checked(&keys, "other/a", ""), Err(Denied::Unsigned));
        let key = StreamKey::in_default_vhost("live", "a/b").unwrap();
        let params = format!("expires=2000&sign={}", signature("any", &key, 2000));
        assert_eq!(checked(&keys, "live/a/b", &params), Err(Denied::Signature));
        let params = format!("expires=2000&sign={}", signature("s3cret", &key, 2000));
        assert_eq!(checked(&keys, "live/a/b", &params), Ok(()));
    }
}
