//! Who is let in: the rules of `access` where a connection is accepted, plays, publishes, and where a
//! pull connects.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tracing::debug;

use super::driver::Driver;
use super::link::Link;
use crate::access::{self, Denied, Entry, Full, Guests, Limits, PendingPulls};
use crate::bus::event::Refusal;
use crate::clock;
use crate::config::AccessSection;
use crate::media::StreamKey;
use crate::ring::Token;

/// What the shards count together.
#[derive(Clone, Default)]
pub(super) struct Shared {
    pub(super) guests: Arc<Guests>,
    pub(super) pending: PendingPulls,
}

/// What a peer is told of why it may not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// A rule is against it.
    Denied(Denied),
    /// There are too many at once.
    TooMany,
}

impl Driver {
    /// Whether a connection of this address may stay, and how it is then counted.
    pub(super) fn count_guest(&mut self, address: IpAddr) -> Option<Entry> {
        let limits = self.guest_limits();
        let full = match self.guests.enter(self.now, address, &limits) {
            Ok(entry) => return Some(entry),
            Err(full) => full,
        };
        self.counters.refused += 1;
        let what = match full {
            Full::Node => "connection refused: the node has too many",
            Full::Address => "connection refused: its address has too many",
        };
        self.repeats.count(self.now, what);
        None
    }

    /// A connection is gone.
    pub(super) fn uncount_guest(&mut self, link: &Link) {
        if let Some(entry) = link.guest {
            self.guests.leave(self.now, link.peer.ip(), entry);
        }
    }

    pub(super) fn may_publish(
        &mut self,
        token: Token,
        key: &StreamKey,
        params: &str,
    ) -> Result<(), Refused> {
        self.may_join(token, key, params, access::may_publish)
    }

    /// Whether a connection may play, which [`Self::asks_to_play`]; where not, that is told.
    pub(super) fn may_play(&mut self, token: Token, key: &StreamKey) -> Result<(), Refused> {
        let params = self.links.get(token).map_or_else(String::new, |link| link.params.clone());
        self.may_join(token, key, &params, access::may_play).inspect_err(|&refused| {
            let refusal = match refused {
                Refused::Denied(denied) => Refusal::Access(denied),
                Refused::TooMany => Refusal::TooManyJoins,
            };
            self.tell_not_let_in(token, key.clone(), refusal);
        })
    }

    fn may_join(
        &mut self,
        token: Token,
        key: &StreamKey,
        params: &str,
        rule: fn(&AccessSection, &access::Ask<'_>) -> Result<(), Denied>,
    ) -> Result<(), Refused> {
        // A connection that is gone asks for nothing.
        let Some(link) = self.links.get(token) else {
            return Err(Refused::Denied(Denied::Address));
        };
        let (connection, peer) = (link.id, link.peer);
        let now_unix = clock::unix_seconds();
        let ask = access::Ask { address: peer.ip(), key, params, now_unix };
        rule(&self.config.access, &ask).map_err(|denied| {
            self.counters.denied += 1;
            self.repeats.count(self.now, "refused: not allowed to play or publish");
            debug!(%connection, %peer, %key, reason = denied.as_str(), "is not let in");
            Refused::Denied(denied)
        })?;
        // Who may not join anyway takes no place of those who may.
        let limits = self.guest_limits();
        if !self.guests.join(self.now, peer.ip(), &limits) {
            self.counters.denied += 1;
            self.repeats.count(self.now, "refused: too many plays and publishes a second");
            return Err(Refused::TooMany);
        }
        Ok(())
    }

    /// Drops the addresses that pulls must not connect to; one of them, if any.
    pub(super) fn drop_denied(&self, addresses: &mut Vec<SocketAddr>) -> Option<IpAddr> {
        let access = &self.config.access;
        let is_denied = |address: &SocketAddr| !access::may_pull_from(access, address.ip());
        let denied = addresses.iter().copied().find(is_denied);
        addresses.retain(|address| !is_denied(address));
        denied.map(|address| address.ip())
    }

    fn guest_limits(&self) -> Limits {
        let limits = &self.config.limits;
        Limits {
            connections_max: limits.connections_max,
            connections_per_address_max: limits.connections_per_address_max,
            joins_per_second_max: limits.joins_per_second_max,
            joins_per_second_per_address_max: limits.joins_per_second_per_address_max,
        }
    }
}
