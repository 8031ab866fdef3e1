//! Names of what a node holds.

use std::fmt;

/// One core's world, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A connection, inbound or to an origin; never used twice in a process. Shows as
/// `<serial>-<shard>`, which is also the id that the API gives and `kick_session` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    pub serial: u32,
    /// The shard that accepted it.
    pub shard: ShardId,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.serial, self.shard)
    }
}

impl ConnectionId {
    /// Parses what [`fmt::Display`] shows.
    pub fn parse(text: &str) -> Option<Self> {
        let (serial, shard) = text.split_once('-')?;
        Some(Self { serial: serial.parse().ok()?, shard: ShardId(shard.parse().ok()?) })
    }
}

/// One try of a pull at its origin; never used twice on a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);
