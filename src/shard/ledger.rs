//! What a shard holds, counted by kind from the tables themselves; zero when all is gone.

use std::fmt;

use super::Shard;
use super::replica::Role;

/// Counts of what is held. Sockets are counted by `net`, the rest by the shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ledger {
    pub sockets: u64,
    pub timers: u64,
    pub players: u64,
    pub waiters: u64,
    pub publishers: u64,
    pub pulls: u64,
    pub pushes: u64,
    /// Pending and registered.
    pub streams: u64,
    /// Presences of streams on shards that have players or waiters of them.
    pub replicas: u64,
    /// Closes that are not confirmed.
    pub closings: u64,
    /// Bytes of memory held for media, those of a replica counted where they were written.
    pub log_bytes: u64,
}

impl Shard {
    /// What this shard holds, sockets excepted.
    pub fn ledger(&self) -> Ledger {
        let streams = self.tables.iter();
        let waiters = |role: &Role| matches!(role, Role::Waiter(_));
        Ledger {
            sockets: 0,
            timers: self.timers.len() as u64,
            players: self.members.values().filter(|member| !waiters(&member.role)).count() as u64,
            waiters: self.members.values().filter(|member| waiters(&member.role)).count() as u64,
            publishers: self.publishers.len() as u64,
            pulls: self.tables.iter().filter(|stream| stream.pull().is_some()).count() as u64,
            pushes: self.pushes.len() as u64,
            streams: (self.tables.pending_count() + self.tables.registered_count()) as u64,
            replicas: self.locals.len() as u64,
            closings: (self.closings.len() + self.endings.len() + self.ended_locals.len()) as u64,
            log_bytes: streams.map(|stream| stream.media.held_bytes()).sum(),
        }
    }
}

impl Ledger {
    /// Each kind by its name.
    pub fn items(&self) -> [(&'static str, u64); 11] {
        [
            ("sockets", self.sockets),
            ("timers", self.timers),
            ("players", self.players),
            ("waiters", self.waiters),
            ("publishers", self.publishers),
            ("pulls", self.pulls),
            ("pushes", self.pushes),
            ("streams", self.streams),
            ("replicas", self.replicas),
            ("closings", self.closings),
            ("log_bytes", self.log_bytes),
        ]
    }

    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl std::ops::AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        self.sockets += other.sockets;
        self.timers += other.timers;
        self.players += other.players;
        self.waiters += other.waiters;
        self.publishers += other.publishers;
        self.pulls += other.pulls;
        self.pushes += other.pushes;
        self.streams += other.streams;
        self.replicas += other.replicas;
        self.closings += other.closings;
        self.log_bytes += other.log_bytes;
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ledger")?;
        for (name, count) in self.items() {
            write!(f, " {name}={count}")?;
        }
        Ok(())
    }
}
