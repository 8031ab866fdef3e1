//! RTSP of the load generator: players, publishers and the floor, over TCP and UDP.

pub(super) mod floor;
pub(super) mod outlet;
pub(super) mod player;
mod scan;
mod source;
mod udp;
