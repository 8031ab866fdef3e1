//! How many pulls are pending, of the node and of each address that asked for them.
//!
//! A pull counts while it is pending: from its add, or the player that it is for, to its first media, and
//! again while its source is lost. One that comes from the journal has no address, and one on demand none
//! any more when it was up. The shards share the counts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::guests::network;

/// Pulls that may be pending. 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullLimits {
    pub pending_max: u32,
    pub pending_per_address_max: u32,
}

/// The pulls that are pending on the node. As many entries at most as there are pulls.
#[derive(Debug, Clone, Default)]
pub struct PendingPulls {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    by_address: HashMap<IpAddr, u32>,
}

/// A pull's place among the pending ones, given back when it is dropped.
#[derive(Debug)]
pub struct PendingPlace {
    pulls: PendingPulls,
    address: Option<IpAddr>,
    is_pending: bool,
}

impl PendingPulls {
    /// A pull is asked for, by whom where that is known.
    ///
    /// # Errors
    /// The limit that it would break, as the caller is told it.
    pub fn enter(
        &self,
        address: Option<IpAddr>,
        limits: &PullLimits,
    ) -> Result<PendingPlace, &'static str> {
        let address = address.map(network);
        let mut counts = self.lock();
        let is_full = |count: u32, max: u32| max != 0 && count >= max;
        if is_full(counts.all, limits.pending_max) {
            return Err("too many pending pulls");
        }
        let own = address.and_then(|address| counts.by_address.get(&address)).copied();
        if address.is_some() && is_full(own.unwrap_or(0), limits.pending_per_address_max) {
            return Err("too many pending pulls of this address");
        }
        counts.add(address);
        Ok(PendingPlace { pulls: self.clone(), address, is_pending: true })
    }

    /// Pulls that are pending.
    pub fn count(&self) -> u32 {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn add(&mut self, address: Option<IpAddr>) {
        self.all += 1;
        if let Some(address) = address {
            *self.by_address.entry(address).or_default() += 1;
        }
    }

    fn remove(&mut self, address: Option<IpAddr>) {
        self.all -= 1;
        self.remove_address(address);
    }

    fn remove_address(&mut self, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        let count = self.by_address.get_mut(&address).expect("it was added");
        *count -= 1;
        if *count == 0 {
            self.by_address.remove(&address);
        }
    }
}

impl PendingPlace {
    /// The pull is up, or pending again. What was let in is not turned away: the second may be beyond
    /// the limits.
    pub fn set_pending(&mut self, is_pending: bool) {
        if std::mem::replace(&mut self.is_pending, is_pending) == is_pending {
            return;
        }
        let mut counts = self.pulls.lock();
        match is_pending {
            true => counts.add(self.address),
            false => counts.remove(self.address),
        }
    }

    /// Counts for no address from now on.
    pub fn leave_address(&mut self) {
        let address = self.address.take();
        if self.is_pending {
            self.pulls.lock().remove_address(address);
        }
    }
}

impl Drop for PendingPlace {
    fn drop(&mut self) {
        self.set_pending(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn pending_pulls_are_limited_for_each_and_for_all() {
        let pulls = PendingPulls::default();
        let limits = PullLimits { pending_max: 4, pending_per_address_max: 2 };
        let enter = |of| pulls.enter(of, &limits);
        let (a, b) = (address("10.0.0.1"), address("2001:db8::1"));
        let mut of_a = [enter(a).unwrap(), enter(a).unwrap()];
        assert!(enter(address("::ffff:10.0.0.1")).is_err());
        let of_b = [enter(b).unwrap(), enter(address("2001:db8::2")).unwrap()];
        assert_eq!(enter(None).unwrap_err(), "too many pending pulls");
        of_a[0].set_pending(false);
        assert!(enter(b).is_err());
        let kept = enter(None).unwrap();
        // What is lost after it was up counts, whatever the limits.
        of_a[0].set_pending(true);
        of_a[0].set_pending(true);
        assert_eq!(pulls.count(), 5);
        drop((of_a, of_b, kept));
        assert_eq!((pulls.count(), pulls.lock().by_address.len()), (0, 0));
    }

    #[test]
    fn a_place_that_left_its_address_counts_among_all() {
        let pulls = PendingPulls::default();
        let limits = PullLimits { pending_max: 2, pending_per_address_max: 1 };
        let a = address("10.0.0.1");
        let mut first = pulls.enter(a, &limits).unwrap();
        assert!(pulls.enter(a, &limits).is_err());
        first.leave_address();
        first.leave_address();
        let mut second = pulls.enter(a, &limits).unwrap();
        assert_eq!(pulls.count(), 2);
        second.set_pending(false);
        second.leave_address();
        second.set_pending(true);
        assert_eq!((pulls.count(), pulls.lock().by_address.len()), (2, 0));
        drop((first, second));
        assert_eq!(pulls.count(), 0);
    }

    #[test]
    fn without_limits_all_are_let_in() {
        let pulls = PendingPulls::default();
        let none = PullLimits::default();
        let places: Vec<_> = (0..1000).map(|_| pulls.enter(address("::1"), &none)).collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(pulls.count(), 1000);
    }
}
