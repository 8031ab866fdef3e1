//! The proof that a call of a hook is ours: an HMAC (RFC 2104) that only who has the secret can make.

use std::fmt::Write as _;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// `sha256=` and the HMAC of the time, a point and the body in hex. With the time in it a server can
/// refuse what somebody has recorded and sends again.
pub(super) fn signature(secret: &str, time: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length is a key");
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut text = "sha256=".to_owned();
    for byte in mac.finalize().into_bytes() {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_over_the_time_and_the_body() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac Jefe
        let text = signature("Jefe", "1700000000", b"{}");
        let expected = "sha256=d3793e2b4103edfbd98cc19591832f5fad701d413db9fcae0ae7dab8184ed207";
        assert_eq!(text, expected);
    }
}
