//! Who may do what: by address, by a signed URL, and how much at once. Pure; `net` and `api` ask.

mod asked;
mod guests;
mod signed_url;

use std::net::IpAddr;

pub use asked::{PendingPlace, PendingPulls, PullLimits};
pub use guests::{Entry, Full, Guests, Limits, network};
pub use signed_url::signature;

use crate::config::{AccessSection, Networks};
use crate::media::StreamKey;

/// What a peer asks for, and with what right.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub address: IpAddr,
    pub key: &'a StreamKey,
    /// The query of the URL, as sent.
    pub params: &'a str,
    /// Seconds since the Unix epoch.
    pub now_unix: u64,
}

/// Why a peer may not do what it asks for. Peers are told no more than that; the event log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Its address is denied, or not among the allowed ones.
    Address,
    /// The app needs a signed URL and this one has no `expires` and `sign`.
    Unsigned,
    Expired,
    /// The signature is not that of this stream and time.
    Signature,
}

impl Denied {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address_denied",
            Self::Unsigned => "not_signed",
            Self::Expired => "signature_expired",
            Self::Signature => "wrong_signature",
        }
    }
}

/// # Errors
/// [`Denied`], with the first rule that is against it.
pub fn may_publish(access: &AccessSection, ask: &Ask<'_>) -> Result<(), Denied> {
    check_address((&access.publish_allow, &access.publish_deny), ask.address)?;
    signed_url::check(&access.publish_keys, ask)
}

/// # Errors
/// [`Denied`], with the first rule that is against it.
pub fn may_play(access: &AccessSection, ask: &Ask<'_>) -> Result<(), Denied> {
    check_address((&access.play_allow, &access.play_deny), ask.address)?;
    signed_url::check(&access.play_keys, ask)
}

/// Whether a pull may connect to an address. To be asked of the address that is connected to, after
/// the lookup and after each redirect: a name may lead anywhere, and elsewhere the next time.
pub fn may_pull_from(access: &AccessSection, address: IpAddr) -> bool {
    !access.pull_deny.reaches(address)
}

fn check_address((allow, deny): (&Networks, &Networks), address: IpAddr) -> Result<(), Denied> {
    let is_allowed = allow.is_empty() || allow.contains(address);
    if is_allowed && !deny.reaches(address) { Ok(()) } else { Err(Denied::Address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &str) -> Networks {
        Networks::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn deny_wins_over_allow_and_an_empty_allow_is_everyone() {
        let key = StreamKey::in_default_vhost("live", "a").unwrap();
        let table = [
            ("", "", "8.8.8.8", true),
            ("", "8.0.0.0/8", "8.8.8.8", false),
            ("10.0.0.0/8", "", "8.8.8.8", false),
            ("10.0.0.0/8", "", "10.0.0.1", true),
            ("10.0.0.0/8", "10.0.0.1", "10.0.0.1", false),
            // One that leads there is not there, and is denied where that is.
            ("10.0.0.0/8", "", "64:ff9b::10.0.0.1", false),
            ("", "10.0.0.0/8", "64:ff9b::10.0.0.1", false),
            ("64:ff9b::/96", "", "64:ff9b::10.0.0.1", true),
        ];
        for (allow, deny, address, may) in table {
            let mut access = AccessSection::default();
            let address = address.parse().unwrap();
            let ask = Ask { address, key: &key, params: "", now_unix: 0 };
            (access.publish_allow, access.publish_deny) = (networks(allow), networks(deny));
            assert_eq!(may_publish(&access, &ask).is_ok(), may, "{allow} {deny} {address}");
            assert_eq!(may_play(&access, &ask), Ok(()));
            (access.play_allow, access.play_deny) = (networks(allow), networks(deny));
            assert_eq!(may_play(&access, &ask).is_ok(), may, "{allow} {deny} {address}");
        }
    }

    #[test]
    fn pulls_may_go_anywhere_but_where_it_is_denied() {
        let mut access = AccessSection::default();
        assert!(may_pull_from(&access, "127.0.0.1".parse().unwrap()));
        access.pull_deny = networks("loopback,link_local,private");
        for address in
            ["127.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "fe80::1", "64:ff9b::10.0.0.1"]
        {
            assert!(!may_pull_from(&access, address.parse().unwrap()), "{address}");
        }
        assert!(may_pull_from(&access, "8.8.8.8".parse().unwrap()));
    }
}
