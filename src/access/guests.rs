//! How many connections an address has on a shard, and how fast it and all others join streams.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::limits::ADDRESSES_MAX;

/// What one shard lets its peers do. 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub connections_per_address_max: u32,
    /// Plays and publishes in a second, of all.
    pub joins_per_second_max: u32,
    pub joins_per_second_per_address_max: u32,
}

/// The addresses that have connections here, or had a moment ago. IPv6 ones count by their /64, of
/// which a host has as many as it likes.
#[derive(Debug, Default)]
pub struct Guests {
    by_address: HashMap<IpAddr, Guest>,
    joins: Rate,
}

#[derive(Debug, Default)]
struct Guest {
    connections: u32,
    joins: Rate,
}

/// When the joins so far would be done at the highest rate.
#[derive(Debug, Clone, Copy, Default)]
struct Rate(Option<Instant>);

/// Whether a connection that came is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// [`Guests::leave`] is to be called when it is gone.
    Counted,
    /// There are too many addresses to count, and no limit asks for it.
    Uncounted,
    Refused,
}

impl Guests {
    /// A connection has come.
    pub fn enter(&mut self, now: Instant, address: IpAddr, limits: &Limits) -> Entry {
        let (address, max) = (network(address), limits.connections_per_address_max);
        let is_full = |guests: &Self| {
            guests.by_address.len() >= ADDRESSES_MAX && !guests.by_address.contains_key(&address)
        };
        if is_full(self) {
            self.sweep(now);
        }
        if is_full(self) {
            return if max == 0 { Entry::Uncounted } else { Entry::Refused };
        }
        let guest = self.by_address.entry(address).or_default();
        if max != 0 && guest.connections >= max {
            return Entry::Refused;
        }
        guest.connections += 1;
        Entry::Counted
    }

    /// A counted connection is gone.
    pub fn leave(&mut self, now: Instant, address: IpAddr) {
        let address = network(address);
        let Some(guest) = self.by_address.get_mut(&address) else { return };
        guest.connections = guest.connections.saturating_sub(1);
        if guest.is_gone(now) {
            self.by_address.remove(&address);
        }
    }

    /// A connection wants to play or publish. `false` when that is too much in this second, of it
    /// or of all.
    pub fn join(&mut self, now: Instant, address: IpAddr, limits: &Limits) -> bool {
        let guest = self.by_address.get_mut(&network(address));
        let of_address = guest.map(|guest| &mut guest.joins);
        // Both are asked before either counts.
        let (per_address, all) =
            (limits.joins_per_second_per_address_max, limits.joins_per_second_max);
        let own = of_address.as_ref().map(|rate| rate.after(now, per_address));
        let (Some(own), Some(all)) = (own.unwrap_or(Some(None)), self.joins.after(now, all)) else {
            return false;
        };
        if let Some(rate) = of_address {
            rate.0 = own;
        }
        self.joins.0 = all;
        true
    }

    fn sweep(&mut self, now: Instant) {
        self.by_address.retain(|_, guest| !guest.is_gone(now));
    }
}

impl Guest {
    /// Whether nothing is to be remembered of it.
    fn is_gone(&self, now: Instant) -> bool {
        self.connections == 0 && self.joins.0.is_none_or(|done| done <= now)
    }
}

impl Rate {
    /// What one more makes of it; `None` when it is too much. As many as may come in a second may
    /// come at once.
    fn after(self, now: Instant, per_second: u32) -> Option<Option<Instant>> {
        if per_second == 0 {
            return Some(None);
        }
        let done = self.0.map_or(now, |done| done.max(now)) + SECOND / per_second;
        (done <= now + SECOND).then_some(Some(done))
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(prefix).into()
        }
        address => address,
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_of_one_address_are_limited() {
        let (mut guests, now) = (Guests::default(), clock::now());
        let limits = Limits { connections_per_address_max: 2, ..Limits::default() };
        let mut enter = |text| guests.enter(now, address(text), &limits);
        assert_eq!(enter("10.0.0.1"), Entry::Counted);
        assert_eq!(enter("::ffff:10.0.0.1"), Entry::Counted);
        assert_eq!(enter("10.0.0.1"), Entry::Refused);
        assert_eq!(enter("10.0.0.2"), Entry::Counted);
        assert_eq!(enter("2001:db8::1"), Entry::Counted);
        assert_eq!(enter("2001:db8::ffff:1"), Entry::Counted);
        assert_eq!(enter("2001:db8::2"), Entry::Refused);
        guests.leave(now, address("10.0.0.1"));
        assert_eq!(guests.enter(now, address("10.0.0.1"), &limits), Entry::Counted);
        for text in ["10.0.0.1", "10.0.0.1", "10.0.0.2", "2001:db8::9", "2001:db8::9"] {
            guests.leave(now, address(text));
        }
        assert!(guests.by_address.is_empty());
    }

    #[test]
    fn joins_are_limited_for_each_and_for_all() {
        let (mut guests, start) = (Guests::default(), clock::now());
        let limits = Limits {
            joins_per_second_max: 5,
            joins_per_second_per_address_max: 3,
            ..Limits::default()
        };
        let (a, b) = (address("10.0.0.1"), address("10.0.0.2"));
        for address in [a, b] {
            guests.enter(start, address, &limits);
        }
        let mut joins = |ms, address, count| {
            let now = start + Duration::from_millis(ms);
            (0..count).filter(|_| guests.join(now, address, &limits)).count()
        };
        assert_eq!(joins(0, a, 9), 3);
        assert_eq!(joins(0, b, 9), 2, "what was refused did not count");
        assert_eq!(joins(199, b, 9), 0);
        assert_eq!(joins(200, b, 9), 1);
        assert_eq!(joins(10_000, a, 9), 3);
    }

    #[test]
    fn without_limits_everyone_joins() {
        let (mut guests, now) = (Guests::default(), clock::now());
        assert!((0..10_000).all(|_| guests.join(now, address("::1"), &Limits::default())));
    }

    #[test]
    fn address_is_forgotten_when_its_joins_are_over() {
        let (mut guests, now) = (Guests::default(), clock::now());
        let limits = Limits { joins_per_second_per_address_max: 1, ..Limits::default() };
        let (a, b) = (address("10.0.0.1"), address("10.0.0.2"));
        guests.enter(now, a, &limits);
        assert!(guests.join(now, a, &limits));
        guests.leave(now, a);
        guests.enter(now, a, &limits);
        assert!(!guests.join(now, a, &limits), "a new connection is no new start");
        guests.leave(now, a);
        guests.enter(now, b, &limits);
        guests.sweep(now + SECOND);
        assert_eq!(guests.by_address.len(), 1);
    }

    #[test]
    fn table_is_bounded() {
        let (mut guests, now) = (Guests::default(), clock::now());
        let unlimited = Limits::default();
        for index in 0..ADDRESSES_MAX as u32 {
            let address = std::net::Ipv4Addr::from(index).into();
            assert_eq!(guests.enter(now, address, &unlimited), Entry::Counted);
        }
        let late = address("255.0.0.1");
        assert_eq!(guests.enter(now, late, &unlimited), Entry::Uncounted);
        let limits = Limits { connections_per_address_max: 9, ..unlimited };
        assert_eq!(guests.enter(now, late, &limits), Entry::Refused);
        guests.leave(now, address("0.0.0.7"));
        assert_eq!(guests.enter(now, late, &limits), Entry::Counted);
    }
}
