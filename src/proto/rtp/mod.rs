//! RTP: packets, RTCP, order of arrival, clocks, and the payload formats of the codecs that we know.
//!
//! Everything is per track and without I/O. A packet is validated once and stays one counted view
//! of its bytes, so that it can be sent on as it came. Left out: SRTP, retransmission, FEC,
//! multicast, RTCP feedback (AVPF).

pub mod clock;
pub mod depacketizer;
pub mod dts;
pub mod format;
pub mod packet;
pub mod packetizer;
pub mod part;
pub mod random_access;
pub mod receiver;
pub mod reception;
pub mod reorder;
pub mod rtcp;
pub mod source;
mod structure;

pub use clock::StreamClock;
pub use depacketizer::{DepacketizeError, Depacketized, Depacketizer, LossPolicy};
pub use dts::DecodingTimes;
pub use format::{Format, TrackKind};
pub use packet::{PacketError, RtpHeader, RtpPacket};
pub use packetizer::{Packet, PacketizeError, Packetizer, PacketizerConfig};
pub use part::RtpPart;
pub use random_access::{RandomAccess, Step};
pub use receiver::{RtcpNotice, TrackReceiver};
pub use reception::Reception;
pub use reorder::{Gap, Ordered, Reorder, Standing};
pub use source::{SourceCounts, SourceOutput, SourceReceiver};
