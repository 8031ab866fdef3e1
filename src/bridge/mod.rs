//! Converters between the two forms in which a stream's media is kept: FLV tags and RTP packets.
//!
//! Both are synchronous and without I/O; what they make refers to the bytes that they are given.
//! Left out: codecs that one of the forms can't carry or that we do not packetize (AV1, VP9, MP3 and
//! others), and all tracks of a kind but the first.

mod counts;
mod metadata;
mod out_track;
mod picture_times;
mod tag;
mod to_flv;
mod to_rtp;

pub use counts::BridgeCounts;
pub use out_track::TrackStart;
pub use tag::FlvTag;
pub use to_flv::{InPacket, ToFlv};
pub use to_rtp::{OutPacket, ToRtp};

#[cfg(test)]
mod tests;
