//! Getting bytes out, many players at a time.

pub mod crowd;
mod datagrams;
pub mod flush;
mod lag;
pub mod player;
pub mod round;
#[cfg(test)]
pub(crate) mod testing;

pub use crowd::{
    Crowd, CrowdEvents, CrowdLimits, CrowdTotals, PlayerStats, Removed, Scratch, Turn,
};
pub use flush::{Batch, BatchSpan, Lists, Shortfall, Socket, Wire};
pub use player::{Player, PlayerStart, RtpStart, UdpTrack};
pub use round::Due;
