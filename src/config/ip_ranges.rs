//! Address ranges as ZLMediaKit writes them, `::1,10.0.0.0-10.255.255.255`, and networks as
//! everybody does.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::networks::{NetworksError, parse_networks};

/// Who may call the API. An empty text means everyone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpRanges {
    text: String,
    ranges: Vec<(IpAddr, IpAddr)>,
}

impl IpRanges {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the address is in one of the ranges. An IPv4 peer of a dual-stack socket counts as
    /// what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.ranges.is_empty()
            || self.ranges.iter().any(|&(first, last)| {
                first.is_ipv4() == address.is_ipv4() && (first..=last).contains(&address)
            })
    }
}

impl Default for IpRanges {
    /// This host and private networks, as in ZLMediaKit.
    fn default() -> Self {
        Self::try_from(PRIVATE.to_owned()).expect("a valid list, as a test proves")
    }
}

impl TryFrom<String> for IpRanges {
    type Error = NetworksError;

    fn try_from(text: String) -> Result<Self, NetworksError> {
        let ranges = parse_networks(&text)?;
        Ok(Self { text, ranges })
    }
}

impl From<IpRanges> for String {
    fn from(ranges: IpRanges) -> Self {
        ranges.text
    }
}

const PRIVATE: &str = "::1,127.0.0.1,172.16.0.0-172.31.255.255,192.168.0.0-192.168.255.255,\
                       10.0.0.0-10.255.255.255";

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Result<IpRanges, NetworksError> {
        IpRanges::try_from(text.to_owned())
    }

    #[test]
    fn default_is_this_host_and_private_networks() {
        let table = [
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::2", false),
            ("172.15.255.255", false),
            ("172.16.0.0", true),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("10.20.30.40", true),
            ("11.0.0.0", false),
            ("::ffff:8.8.8.8", false),
        ];
        for (address, is_in) in table {
            assert_eq!(IpRanges::default().contains(address.parse().unwrap()), is_in, "{address}");
        }
    }

    #[test]
    fn empty_list_is_everyone_and_spaces_do_not_matter() {
        assert!(ranges("").unwrap().contains("8.8.8.8".parse().unwrap()));
        let list = ranges(" 1.2.3.4 - 1.2.3.6 , fe80::-fe80::f").unwrap();
        assert!(list.contains("1.2.3.5".parse().unwrap()));
        assert!(list.contains("fe80::3".parse().unwrap()));
        assert!(!list.contains("0.0.0.0".parse().unwrap()));
    }

    #[test]
    fn networks_and_their_groups_are_ranges_too() {
        let list = ranges("10.0.0.0/8, loopback,2001:db8::/32").unwrap();
        for (address, is_in) in [
            ("10.255.255.255", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.0", false),
            ("127.1.2.3", true),
            ("::1", true),
            ("2001:db8:ffff::1", true),
            // It is a caller's own address, wherever it would lead to.
            ("64:ff9b::10.0.0.1", false),
        ] {
            assert_eq!(list.contains(address.parse().unwrap()), is_in, "{address}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["x", "1.2.3", "10.0.0.0/", "1.1.1.1-", "1.1.1.1-1.1.1.2-1.1.1.3"] {
            assert_eq!(ranges(text), Err(NetworksError::Malformed), "{text}");
        }
        for text in ["1.1.1.2-1.1.1.1", "1.1.1.1-::1", "::1-1.1.1.1"] {
            assert_eq!(ranges(text), Err(NetworksError::Backward), "{text}");
        }
        assert_eq!(ranges("10.0.0.1/8"), Err(NetworksError::Bits));
    }
}
