//! Who may call the API: first the address, then the secret, as in ZLMediaKit.
//!
//! Left out: its web page's login (the `ZLM_LOGINED` cookie) and the header that names another
//! address, which anybody could send.

use sha2::{Digest, Sha256};

use super::Caller;
use super::params::Params;
use super::wire::{Code, Failure};
use crate::config::Config;

/// Lets a call pass or says why not.
pub(super) fn check(config: &Config, caller: &Caller, params: &Params) -> Result<(), Failure> {
    let fail = |msg: &'static str| Err(Failure::new(Code::AuthFailed, msg));
    let address = caller.peer.ip();
    let is_denied = config.access.api_deny.reaches(address);
    if is_denied || !config.http.allow_ip_range.contains(address) {
        return fail("Your ip is not allowed to access the service.");
    }
    match params.find("secret") {
        None => fail("Please login first"),
        Some(secret) if is_same(secret, &config.api.secret) => Ok(()),
        Some(_) => fail("Incorrect secret"),
    }
}

/// In a time that tells nothing of where two texts differ, nor of the length of either.
fn is_same(given: &str, secret: &str) -> bool {
    let (given, secret) = (Sha256::digest(given), Sha256::digest(secret));
    given.iter().zip(secret).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{self, request};
    use crate::config::{IpRanges, Networks};

    fn checked(config: &Config, peer: &str, query: &str) -> Option<(Code, String)> {
        let caller = Caller { peer: peer.parse().unwrap(), ..testing::caller() };
        let params = Params::of(&request(&format!("GET /x{query} HTTP/1.1"), ""));
        let failure = check(config, &caller, &params).err()?;
        Some((failure.code, failure.msg.into_owned()))
    }

    #[test]
    fn address_is_checked_before_the_secret() {
        let mut config = Config::default();
        config.api.secret = "s3cret".to_owned();
        let (home, away) = ("[::ffff:127.0.0.1]:1", "8.8.8.8:1");
        let table = [
            (home, "?secret=s3cret", None),
            (home, "", Some("Please login first")),
            (home, "?secret=", Some("Please login first")),
            (home, "?secret=s3cre", Some("Incorrect secret")),
            (home, "?secret=s3crets", Some("Incorrect secret")),
            (home, "?secret=S3cret", Some("Incorrect secret")),
            (away, "?secret=s3cret", Some("Your ip is not allowed to access the service.")),
            (away, "", Some("Your ip is not allowed to access the service.")),
        ];
        for (peer, query, msg) in table {
            let expected = msg.map(|msg| (Code::AuthFailed, msg.to_owned()));
            assert_eq!(checked(&config, peer, query), expected, "{peer} {query}");
        }
        config.http.allow_ip_range = IpRanges::try_from(String::new()).unwrap();
        assert_eq!(checked(&config, away, "?secret=s3cret"), None);
        config.access.api_deny = Networks::try_from("8.0.0.0/8".to_owned()).unwrap();
        assert!(checked(&config, away, "?secret=s3cret").is_some());
        assert_eq!(checked(&config, home, "?secret=s3cret"), None);
    }

    #[test]
    fn without_a_secret_nobody_passes() {
        assert!(checked(&Config::default(), "127.0.0.1:1", "?secret=").is_some());
    }
}
