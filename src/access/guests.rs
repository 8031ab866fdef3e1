//! How many connections the node and each address have, and how fast they join streams.
//!
//! All shards share the counts: a peer's connections come to any of them. They are touched when a
//! connection comes, joins or goes, and never for media (`docs/decisions/0020-limits-of-the-node.md`).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{ADDRESS_STRIPES, ADDRESS_SWEEP_MS, ADDRESSES_PER_STRIPE_MAX};

/// What a node lets its peers do. 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub connections_max: u32,
    pub connections_per_address_max: u32,
    /// Plays and publishes in a second, of all.
    pub joins_per_second_max: u32,
    pub joins_per_second_per_address_max: u32,
}

/// The addresses that have connections here, or had a moment ago. IPv6 ones count by their /64, of
/// which a host has as many as it likes.
#[derive(Debug)]
pub struct Guests {
    /// An address is in the one that its hash names, so that shards seldom meet.
    stripes: Vec<Mutex<Stripe>>,
    hasher: RandomState,
    connections: AtomicU32,
    /// Taken with a stripe, and after it.
    joins: Mutex<Rate>,
}

#[derive(Debug, Default)]
struct Stripe {
    guests: HashMap<IpAddr, Guest>,
    /// When those that are gone were looked for last.
    swept: Option<Instant>,
}

#[derive(Debug, Default)]
struct Guest {
    connections: u32,
    joins: Rate,
}

/// When the joins so far would be done at the highest rate.
#[derive(Debug, Clone, Copy, Default)]
struct Rate(Option<Instant>);

/// How a connection that was let in is counted; to be given back with [`Guests::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Under its address too.
    Counted,
    /// There are too many addresses to count, and no limit asks for it.
    Uncounted,
}

/// Which limit is against a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Node,
    Address,
}

impl Default for Guests {
    fn default() -> Self {
        Self {
            stripes: (0..ADDRESS_STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            connections: AtomicU32::new(0),
            joins: Mutex::default(),
        }
    }
}

impl Guests {
    /// A connection has come.
    ///
    /// # Errors
    /// [`Full`]: it is to be closed, and is not counted.
    pub fn enter(&self, now: Instant, address: IpAddr, limits: &Limits) -> Result<Entry, Full> {
        let max = limits.connections_max;
        let one_more = |count: u32| (max == 0 || count < max).then(|| count.saturating_add(1));
        self.connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .map_err(|_| Full::Node)?;
        let entry = self.enter_address(now, network(address), limits);
        if entry.is_err() {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
        entry
    }

    fn enter_address(&self, now: Instant, address: IpAddr, limits: &Limits) -> Result<Entry, Full> {
        let max = limits.connections_per_address_max;
        let mut stripe = self.stripe(address);
        if stripe.is_full_for(&address) {
            stripe.sweep(now);
        }
        if stripe.is_full_for(&address) {
            let is_unlimited = max == 0 && limits.joins_per_second_per_address_max == 0;
            return if is_unlimited { Ok(Entry::Uncounted) } else { Err(Full::Address) };
        }
        let guest = stripe.guests.entry(address).or_default();
        if max != 0 && guest.connections >= max {
            return Err(Full::Address);
        }
        guest.connections += 1;
        Ok(Entry::Counted)
    }

    /// A connection that was let in is gone.
    pub fn leave(&self, now: Instant, address: IpAddr, entry: Entry) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if entry == Entry::Uncounted {
            return;
        }
        let address = network(address);
        let mut stripe = self.stripe(address);
        let Some(guest) = stripe.guests.get_mut(&address) else { return };
        guest.connections = guest.connections.saturating_sub(1);
        if guest.is_gone(now) {
            stripe.guests.remove(&address);
        }
    }

    /// A connection wants to play or publish. `false` when that is too much in this second, of it
    /// or of all.
    pub fn join(&self, now: Instant, address: IpAddr, limits: &Limits) -> bool {
        let (per_address, per_node) =
            (limits.joins_per_second_per_address_max, limits.joins_per_second_max);
        if per_address == 0 && per_node == 0 {
            return true;
        }
        let address = network(address);
        let mut stripe = self.stripe(address);
        let mut of_node = self.joins.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = stripe.guests.get_mut(&address).map(|guest| &mut guest.joins);
        // Both are asked before either counts.
        let own = of_address.as_ref().map(|rate| rate.after(now, per_address));
        let (Some(own), Some(all)) = (own.unwrap_or(Some(None)), of_node.after(now, per_node))
        else {
            return false;
        };
        if let Some(rate) = of_address {
            rate.0 = own;
        }
        of_node.0 = all;
        true
    }

    fn stripe(&self, address: IpAddr) -> MutexGuard<'_, Stripe> {
        let index = self.hasher.hash_one(address) as usize % ADDRESS_STRIPES;
        self.stripes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stripe {
    fn is_full_for(&self, address: &IpAddr) -> bool {
        self.guests.len() >= ADDRESSES_PER_STRIPE_MAX && !self.guests.contains_key(address)
    }

    /// Forgets who is gone, now and then: each who comes while it is full would have others wait.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|swept| now >= swept + SWEEP_TIME) {
            self.swept = Some(now);
            self.guests.retain(|_, guest| !guest.is_gone(now));
        }
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

/// What an address counts as.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(prefix).into()
        }
        address => address,
    }
}

const SECOND: Duration = Duration::from_secs(1);
const SWEEP_TIME: Duration = Duration::from_millis(ADDRESS_SWEEP_MS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn address_count(guests: &Guests) -> usize {
        guests.stripes.iter().map(|stripe| stripe.lock().unwrap().guests.len()).sum()
    }

    #[test]
    fn connections_of_one_address_are_limited() {
        let (guests, now) = (Guests::default(), clock::now());
        let limits = Limits { connections_per_address_max: 2, ..Limits::default() };
        let enter = |text| guests.enter(now, address(text), &limits);
        assert_eq!(enter("10.0.0.1"), Ok(Entry::Counted));
        assert_eq!(enter("::ffff:10.0.0.1"), Ok(Entry::Counted));
        assert_eq!(enter("10.0.0.1"), Err(Full::Address));
        assert_eq!(enter("10.0.0.2"), Ok(Entry::Counted));
        assert_eq!(enter("2001:db8::1"), Ok(Entry::Counted));
        assert_eq!(enter("2001:db8::ffff:1"), Ok(Entry::Counted));
        assert_eq!(enter("2001:db8::2"), Err(Full::Address));
        let leave = |text| guests.leave(now, address(text), Entry::Counted);
        leave("10.0.0.1");
        assert_eq!(enter("10.0.0.1"), Ok(Entry::Counted));
        let rest = ["10.0.0.1", "10.0.0.1", "10.0.0.2", "2001:db8::9", "2001:db8::9"];
        rest.into_iter().for_each(leave);
        assert_eq!((address_count(&guests), guests.connections.into_inner()), (0, 0));
    }

    #[test]
    fn connections_of_the_node_are_limited() {
        let (guests, now) = (Guests::default(), clock::now());
        let limits =
            Limits { connections_max: 2, connections_per_address_max: 1, ..Limits::default() };
        let enter = |text| guests.enter(now, address(text), &limits);
        assert_eq!(enter("10.0.0.1"), Ok(Entry::Counted));
        assert_eq!(enter("10.0.0.1"), Err(Full::Address), "what is refused does not count");
        assert_eq!(enter("10.0.0.2"), Ok(Entry::Counted));
        assert_eq!(enter("10.0.0.3"), Err(Full::Node));
        guests.leave(now, address("10.0.0.1"), Entry::Counted);
        assert_eq!(enter("10.0.0.3"), Ok(Entry::Counted));
    }

    #[test]
    fn joins_are_limited_for_each_and_for_all() {
        let (guests, start) = (Guests::default(), clock::now());
        let limits = Limits {
            joins_per_second_max: 5,
            joins_per_second_per_address_max: 3,
            ..Limits::default()
        };
        let (a, b) = (address("10.0.0.1"), address("10.0.0.2"));
        for address in [a, b] {
            guests.enter(start, address, &limits).unwrap();
        }
        let joins = |ms, address, count| {
            let now = start + Duration::from_millis(ms);
            (0..count).filter(|_| guests.join(now, address, &limits)).count()
        };
        assert_eq!(joins(0, a, 9), 3);
        assert_eq!(joins(0, b, 9), 2, "what was refused did not count");
        assert_eq!(joins(199, b, 9), 0);
        assert_eq!(joins(200, b, 9), 1);
        assert_eq!(joins(10_000, a, 9), 3);
    }

    /// Each shard would let all of them in.
    #[test]
    fn shards_count_together() {
        let (guests, now) = (Guests::default(), clock::now());
        let limits = Limits {
            connections_max: 700,
            connections_per_address_max: 300,
            joins_per_second_max: 0,
            joins_per_second_per_address_max: 100,
        };
        let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(address);
        let work = || {
            let each = addresses.map(|address| {
                let entered = (0..500).filter(|_| guests.enter(now, address, &limits).is_ok());
                let entered = entered.count();
                (entered, (0..500).filter(|_| guests.join(now, address, &limits)).count())
            });
            each.into_iter().fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
        };
        let sums = std::thread::scope(|scope| {
            let shards: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            shards.into_iter().map(|shard| shard.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(sums.iter().map(|sum| sum.0).sum::<usize>(), 700);
        assert!(sums.iter().map(|sum| sum.1).sum::<usize>() <= 300);
        assert_eq!(guests.connections.load(Ordering::Relaxed), 700);
    }

    #[test]
    fn without_limits_everyone_joins() {
        let (guests, now) = (Guests::default(), clock::now());
        assert!((0..10_000).all(|_| guests.join(now, address("::1"), &Limits::default())));
    }

    #[test]
    fn address_is_forgotten_when_its_joins_are_over() {
        let (guests, now) = (Guests::default(), clock::now());
        let limits = Limits { joins_per_second_per_address_max: 1, ..Limits::default() };
        let a = address("10.0.0.1");
        let entry = guests.enter(now, a, &limits).unwrap();
        assert!(guests.join(now, a, &limits));
        guests.leave(now, a, entry);
        guests.enter(now, a, &limits).unwrap();
        assert!(!guests.join(now, a, &limits), "a new connection is no new start");
        guests.leave(now, a, entry);
        assert_eq!(address_count(&guests), 1);
        guests.enter(now + SECOND, a, &limits).unwrap();
        guests.leave(now + SECOND, a, entry);
        assert_eq!(address_count(&guests), 0);
    }

    #[test]
    fn table_is_bounded() {
        let (guests, now) = (Guests::default(), clock::now());
        let unlimited = Limits::default();
        let late = address("255.0.0.1");
        let index = |address: IpAddr| guests.hasher.hash_one(address) as usize % ADDRESS_STRIPES;
        let others = (0..u32::MAX).map(|number| IpAddr::from(std::net::Ipv4Addr::from(number)));
        let others: Vec<IpAddr> = others
            .filter(|&other| index(other) == index(late))
            .take(ADDRESSES_PER_STRIPE_MAX)
            .collect();
        for &other in &others {
            assert_eq!(guests.enter(now, other, &unlimited), Ok(Entry::Counted));
        }
        assert_eq!(guests.enter(now, late, &unlimited), Ok(Entry::Uncounted));
        let limits = Limits { connections_per_address_max: 9, ..unlimited };
        assert_eq!(guests.enter(now, late, &limits), Err(Full::Address));
        guests.leave(now, others[7], Entry::Counted);
        assert_eq!(guests.enter(now, late, &limits), Ok(Entry::Counted));
        assert_eq!(address_count(&guests), ADDRESSES_PER_STRIPE_MAX);
    }

    #[test]
    fn full_table_is_looked_through_now_and_then() {
        let (mut stripe, now) = (Stripe::default(), clock::now());
        let others = (0..ADDRESSES_PER_STRIPE_MAX as u32).map(std::net::Ipv4Addr::from);
        let joins = Rate(Some(now + SECOND));
        let guest = || Guest { connections: 0, joins };
        stripe.guests.extend(others.map(|other| (IpAddr::from(other), guest())));
        let late = address("255.0.0.1");
        stripe.sweep(now + SECOND - SWEEP_TIME / 2);
        assert!(stripe.is_full_for(&late), "their joins count still");
        stripe.sweep(now + SECOND);
        assert!(stripe.is_full_for(&late), "it was looked through just then");
        stripe.sweep(now + SECOND + SWEEP_TIME / 2);
        assert!(!stripe.is_full_for(&late) && stripe.guests.is_empty());
    }
}
