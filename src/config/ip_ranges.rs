//! Address ranges as ZLMediaKit writes them: `::1,10.0.0.0-10.255.255.255`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Who may call the API. An empty text means everyone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpRanges {
    text: String,
    ranges: Vec<(IpAddr, IpAddr)>,
}

/// Why a text is no list of address ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IpRangesError {
    #[error("not an IP address or a range of two")]
    Malformed,
    #[error("both ends of an IP range must be of one version, the lower one first")]
    Backward,
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
    type Error = IpRangesError;

    fn try_from(text: String) -> Result<Self, IpRangesError> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let ranges = items.map(parse_range).collect::<Result<_, _>>()?;
        Ok(Self { text, ranges })
    }
}

impl From<IpRanges> for String {
    fn from(ranges: IpRanges) -> Self {
        ranges.text
    }
}

pub(super) fn parse_range(text: &str) -> Result<(IpAddr, IpAddr), IpRangesError> {
    let parse = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| IpRangesError::Malformed);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse(first)?, parse(last)?);
    if first.is_ipv4() != last.is_ipv4() || first > last {
        return Err(IpRangesError::Backward);
    }
    Ok((first, last))
}

const PRIVATE: &str = "::1,127.0.0.1,172.16.0.0-172.31.255.255,192.168.0.0-192.168.255.255,\
                       10.0.0.0-10.255.255.255";

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Result<IpRanges, IpRangesError> {
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
    fn other_texts_are_refused() {
        for text in ["x", "1.2.3", "10.0.0.0/8", "1.1.1.1-", "1.1.1.1-1.1.1.2-1.1.1.3"] {
            assert_eq!(ranges(text), Err(IpRangesError::Malformed), "{text}");
        }
        for text in ["1.1.1.2-1.1.1.1", "1.1.1.1-::1", "::1-1.1.1.1"] {
            assert_eq!(ranges(text), Err(IpRangesError::Backward), "{text}");
        }
    }
}
