//! Lists of networks: single addresses, `10.0.0.0/8`, `10.0.0.1-10.0.0.9`, and names for groups of
//! them, with commas between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Networks for a rule to allow or deny. Unlike that of [`super::IpRanges`], an empty list has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Networks {
    text: String,
    ranges: Vec<(IpAddr, IpAddr)>,
}

/// Why a text is no list of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetworksError {
    #[error(
        "not an IP address or a range of two, nor a network such as 10.0.0.0/8, loopback, link_local \
         or private"
    )]
    Malformed,
    #[error("both ends of an IP range must be of one version, the lower one first")]
    Backward,
    #[error("a network's prefix is longer than its address")]
    Prefix,
    #[error("a network has bits behind its prefix")]
    Bits,
}

impl Networks {
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether the address itself is in one of them: what allows goes by that. An IPv4 address that is
    /// written as an IPv6 one counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.ranges.iter().any(|&(first, last)| {
            first.is_ipv4() == address.is_ipv4() && (first..=last).contains(&address)
        })
    }

    /// Whether the address is in one of them, or the IPv4 address that it leads to (NAT64, 6to4): what
    /// denies goes by that.
    pub fn reaches(&self, address: IpAddr) -> bool {
        let behind = translated(address.to_canonical()).map(IpAddr::V4);
        self.contains(address) || behind.is_some_and(|behind| self.contains(behind))
    }
}

/// The IPv4 address that an address of NAT64 (RFC 6052, 2.1) or 6to4 (RFC 3056, 2) leads to.
fn translated(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let embedded = match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [high, low],
        [0x2002, high, low, ..] => [high, low],
        _ => return None,
    };
    let [[a, b], [c, d]] = embedded.map(u16::to_be_bytes);
    Some(Ipv4Addr::new(a, b, c, d))
}

impl TryFrom<String> for Networks {
    type Error = NetworksError;

    fn try_from(text: String) -> Result<Self, NetworksError> {
        let ranges = parse_networks(&text)?;
        Ok(Self { text, ranges })
    }
}

impl From<Networks> for String {
    fn from(networks: Networks) -> Self {
        networks.text
    }
}

/// The first and the last address of each network in a list.
pub(super) fn parse_networks(text: &str) -> Result<Vec<(IpAddr, IpAddr)>, NetworksError> {
    let mut ranges = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let group = GROUPS.iter().find(|(name, _)| *name == item);
        for network in group.map_or(&[item][..], |(_, networks)| networks) {
            ranges.push(canonical(parse_network(network)?));
        }
    }
    Ok(ranges)
}

/// IPv4 networks that are written as IPv6 ones become what they are, as addresses do.
fn canonical((first, last): (IpAddr, IpAddr)) -> (IpAddr, IpAddr) {
    match (first.to_canonical(), last.to_canonical()) {
        (first @ IpAddr::V4(_), last @ IpAddr::V4(_)) => (first, last),
        _ => (first, last),
    }
}

fn parse_network(text: &str) -> Result<(IpAddr, IpAddr), NetworksError> {
    let Some((address, prefix)) = text.split_once('/') else { return parse_range(text) };
    let address = parse_address(address)?;
    let prefix: u32 = prefix.trim().parse().map_err(|_| NetworksError::Malformed)?;
    match address {
        IpAddr::V4(address) => {
            let rest = u32::MAX.checked_shr(prefix).unwrap_or(0);
            let first = u32::from(address);
            check_prefix((prefix, 32), first & rest == 0)?;
            Ok((address.into(), Ipv4Addr::from(first | rest).into()))
        }
        IpAddr::V6(address) => {
            let rest = u128::MAX.checked_shr(prefix).unwrap_or(0);
            let first = u128::from(address);
            check_prefix((prefix, 128), first & rest == 0)?;
            Ok((address.into(), Ipv6Addr::from(first | rest).into()))
        }
    }
}

fn parse_range(text: &str) -> Result<(IpAddr, IpAddr), NetworksError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_address(first)?, parse_address(last)?);
    if first.is_ipv4() != last.is_ipv4() || first > last {
        return Err(NetworksError::Backward);
    }
    Ok((first, last))
}

fn parse_address(text: &str) -> Result<IpAddr, NetworksError> {
    text.trim().parse().map_err(|_| NetworksError::Malformed)
}

fn check_prefix((prefix, max): (u32, u32), has_no_bits: bool) -> Result<(), NetworksError> {
    if prefix > max {
        return Err(NetworksError::Prefix);
    }
    if has_no_bits { Ok(()) } else { Err(NetworksError::Bits) }
}

/// The unspecified addresses are among the loopback ones: a connect to them reaches this host.
const GROUPS: &[(&str, &[&str])] = &[
    ("loopback", &["127.0.0.0/8", "::1", "0.0.0.0/8", "::"]),
    ("link_local", &["169.254.0.0/16", "fe80::/10"]),
    (
        "private",
        &[
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "198.18.0.0/15",
            "fc00::/7",
            "fec0::/10",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &str) -> Result<Networks, NetworksError> {
        Networks::try_from(text.to_owned())
    }

    #[test]
    fn addresses_are_in_their_networks_and_groups() {
        let table = [
            ("", "127.0.0.1", false),
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::2", false),
            ("::/0", "2001:db8::1", true),
            ("1.2.3.4/32", "1.2.3.4", true),
            ("1.2.3.4/32", "1.2.3.5", false),
            ("1.2.3.4-1.2.3.6, 2001:db8::/32", "1.2.3.5", true),
            ("1.2.3.4-1.2.3.6, 2001:db8::/32", "2001:db8:ffff::1", true),
            ("loopback", "127.8.9.1", true),
            ("loopback", "::1", true),
            ("loopback", "::", true),
            ("loopback", "0.0.0.0", true),
            ("loopback", "::2", false),
            ("link_local", "169.254.169.254", true),
            ("link_local", "fe80::1", true),
            ("link_local", "fec0::1", false),
            ("private", "172.31.255.255", true),
            ("private", "172.32.0.0", false),
            ("private", "100.127.0.1", true),
            ("private", "fd00::1", true),
            ("private", "127.0.0.1", false),
            ("private,loopback", "::ffff:127.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.1.2.3", false),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1", true),
            ("::/0", "10.0.0.1", false),
        ];
        for (list, address, is_in) in table {
            let (list_of, parsed) = (networks(list).unwrap(), address.parse().unwrap());
            assert_eq!(list_of.contains(parsed), is_in, "{list}: {address}");
            assert_eq!(list_of.reaches(parsed), is_in, "{list}: {address}");
        }
    }

    #[test]
    fn an_address_reaches_what_it_leads_to_and_is_not_there() {
        let table = [
            ("private", "64:ff9b::10.0.0.1", true),
            ("private", "64:ff9b::8.8.8.8", false),
            ("link_local", "2002:a9fe:a9fe::1", true),
            ("loopback", "2002:0808:0808::1", false),
        ];
        for (list, address, reaches) in table {
            let (list_of, parsed) = (networks(list).unwrap(), address.parse().unwrap());
            assert!(!list_of.contains(parsed), "{list}: {address}");
            assert_eq!(list_of.reaches(parsed), reaches, "{list}: {address}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let table = [
            ("x", NetworksError::Malformed),
            ("10.0.0.0/x", NetworksError::Malformed),
            ("/8", NetworksError::Malformed),
            ("2.0.0.0-1.0.0.0", NetworksError::Backward),
            ("10.0.0.0/33", NetworksError::Prefix),
            ("::/129", NetworksError::Prefix),
            ("10.0.0.1/8", NetworksError::Bits),
            ("2001:db8::1/32", NetworksError::Bits),
        ];
        for (text, error) in table {
            assert_eq!(networks(text), Err(error), "{text}");
        }
    }
}
