//! Finding frames in a track's packets without putting them together: a frame is the packets of one
//! timestamp, to the one with the marker, and whole if no number is missing in between.
//!
//! Packets are looked at as they come. One that is overtaken by others counts as missing and then
//! as misplaced. Frames that lack a packet are left out, so that they show as missing frames.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::stamp::Stamp;
use super::super::watch::Picture;
use crate::media::Codec;
use crate::media::timeline::distance;
use crate::proto::rtp::random_access::for_each_nal;
use crate::proto::rtp::reorder::Gap;
use crate::proto::rtp::{DecodingTimes, Format, RandomAccess, RtpPacket, TrackReceiver};

/// What a player sees of one track.
#[derive(Debug)]
pub(super) struct TrackScan {
    pub(super) receiver: TrackReceiver,
    /// Of H.264 and H.265; there is nothing to be found in others.
    video: Option<VideoScan>,
}

#[derive(Debug)]
struct VideoScan {
    codec: Codec,
    clock_rate: u32,
    access: RandomAccess,
    times: DecodingTimes,
    /// The timestamp of the frame before, and what it is since the first one, in ticks.
    last: Option<(u32, i64)>,
    current: Option<Current>,
}

/// The frame that is under way.
#[derive(Debug, Clone, Copy)]
struct Current {
    timestamp: u32,
    keyframe: bool,
    stamp: Option<Stamp>,
    /// Lacks a packet, or was told of.
    is_done: bool,
}

impl TrackScan {
    pub(super) fn new(format: &Format) -> Self {
        let codec = format.codec();
        let is_known = matches!(codec, Codec::H264 | Codec::H265);
        Self {
            receiver: TrackReceiver::new(format.payload_type, format.clock_rate, Duration::ZERO),
            video: is_known.then(|| VideoScan::new(format)),
        }
    }

    /// Takes an RTP packet and tells of the frames that end with it.
    pub(super) fn handle_packet(
        &mut self,
        now: Instant,
        packet: Bytes,
        mut on_picture: impl FnMut(Picture),
    ) {
        self.receiver.handle_packet(now, packet);
        while let Some(ordered) = self.receiver.poll_packet() {
            if let Some(video) = &mut self.video {
                video.take(&ordered.item, ordered.gap, &mut on_picture);
            }
        }
    }
}

impl VideoScan {
    fn new(format: &Format) -> Self {
        let (codec, clock_rate) = (format.codec(), format.clock_rate);
        let depth = format.parameter_sets().reorder_depth();
        Self {
            codec,
            clock_rate,
            access: RandomAccess::of(format),
            // For the first frames those of 25 a second will do.
            times: DecodingTimes::new(depth, i64::from(clock_rate / 25)),
            last: None,
            current: None,
        }
    }

    fn take(&mut self, packet: &RtpPacket, gap: Gap, on_picture: &mut impl FnMut(Picture)) {
        let (header, payload) = (packet.header(), packet.payload());
        let is_whole = gap == Gap::None;
        let before = self.current.filter(|current| current.timestamp != header.timestamp);
        if let Some(before) = before.filter(|before| is_whole && !before.is_done) {
            // Its sender sets no markers.
            on_picture(self.picture(&before));
        }
        let mut current = match self.current {
            Some(current) if before.is_none() => {
                Current { is_done: current.is_done || !is_whole, ..current }
            }
            _ => Current {
                timestamp: header.timestamp,
                keyframe: false,
                stamp: None,
                is_done: !is_whole && self.is_continuation(&payload),
            },
        };
        current.keyframe |= self.access.step(packet).is_start;
        current.stamp = current.stamp.or_else(|| self.stamp(&payload));
        if header.marker && !current.is_done {
            current.is_done = true;
            on_picture(self.picture(&current));
        }
        self.current = Some(current);
    }

    fn picture(&mut self, current: &Current) -> Picture {
        let ticks = self
            .last
            .map_or(0, |(timestamp, ticks)| ticks + distance(timestamp, current.timestamp));
        self.last = Some((current.timestamp, ticks));
        let decoding_ms = self.times.next(ticks) * 1000 / i64::from(self.clock_rate);
        Picture {
            // Modulo 2^32, as the timestamps of FLV are.
            timestamp_ms: decoding_ms as u32,
            keyframe: current.keyframe,
            stamp: current.stamp,
        }
    }

    /// Whether a payload is a fragment that is not a unit's first.
    fn is_continuation(&self, payload: &[u8]) -> bool {
        match (self.codec, payload) {
            (Codec::H264, [unit, fragment, ..]) => unit & 0x1f == FU_A && fragment & START_BIT == 0,
            (Codec::H265, [unit, _, fragment, ..]) => {
                unit >> 1 & 0x3f == FRAGMENTATION_UNIT && fragment & START_BIT == 0
            }
            _ => false,
        }
    }

    fn stamp(&self, payload: &[u8]) -> Option<Stamp> {
        let mut stamp = None;
        if self.codec == Codec::H264 {
            for_each_nal(self.codec, payload, |nal| stamp = stamp.or_else(|| Stamp::decode(nal)));
        }
        stamp
    }
}

const FU_A: u8 = 28;
const FRAGMENTATION_UNIT: u8 = 49;
const START_BIT: u8 = 0x80;
