//! Getting bytes out, many players at a time.

pub mod crowd;
pub mod flush;
pub mod player;
#[cfg(test)]
pub(crate) mod testing;

pub use crowd::{
    Crowd, CrowdEvents, CrowdLimits, CrowdTotals, PlayerStats, Removed, Scratch, Turn,
};
pub use flush::{Batch, Shortfall, Socket, Wire};
pub use player::{Player, PlayerStart};
