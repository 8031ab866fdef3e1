//! One track of RTP packets that are made of FLV's frames, and its clock.
//!
//! FLV tells times in whole milliseconds. Video's are as they are; audio's are made smooth: a frame is
//! as far from the one before as that has samples, while the tag's time stays near. Where it does not,
//! something is missing or the encoder's clock is another one, and the tag's time counts.

use bytes::Bytes;

use crate::media::codec::{AacFrameTime, opus_samples};
use crate::media::{Codec, Frame, Payload};
use crate::proto::rtp::rtcp::{NtpTime, SenderReport, encode_sender_report};
use crate::proto::rtp::source::CNAME;
use crate::proto::rtp::{Format, Packet, PacketizeError, Packetizer, PacketizerConfig};
use crate::proto::rtsp::MediaDescription;

#[derive(Debug)]
pub(super) struct OutTrack {
    codec: Codec,
    format: Format,
    /// The newest record is not the one that the format tells, and players have no other word of it.
    is_void: bool,
    numbering: PacketizerConfig,
    packetizer: Packetizer,
    /// Samples of an AAC frame.
    aac_ticks: i64,
    /// Where the next audio frame begins if nothing is missing before it.
    due: Option<i64>,
    packet_count: u32,
    octet_count: u32,
}

/// Where the packets of a track begin that goes on behind those of something else.
#[derive(Debug, Clone, Copy)]
pub struct TrackStart {
    pub numbering: PacketizerConfig,
    pub packet_count: u32,
    pub octet_count: u32,
}

/// A frame with FLV's times.
#[derive(Debug)]
pub(super) struct TimedFrame {
    pub(super) codec: Codec,
    pub(super) keyframe: bool,
    /// Unwrapped.
    pub(super) decoding_ms: i64,
    pub(super) composition_ms: i32,
    pub(super) payload: Payload,
}

impl OutTrack {
    /// A track of a format and its configuration record; `None` where we can't make packets of it.
    pub(super) fn new(format: Format, record: &[u8], numbering: PacketizerConfig) -> Option<Self> {
        let packetizer = Packetizer::new(&format, numbering)?;
        let mut track = Self {
            codec: format.codec(),
            format,
            is_void: false,
            numbering,
            packetizer,
            aac_ticks: 0,
            due: None,
            packet_count: 0,
            octet_count: 0,
        };
        track.set_config(record);
        Some(track)
    }

    /// A track that players were told so and have packets of; `None` where ours can't be read by that.
    pub(super) fn behind(format: &Format, start: TrackStart) -> Option<Self> {
        let record = match format.codec() {
            Codec::Aac => format.config()?,
            _ => Bytes::new(),
        };
        let track = Self::new(format.clone(), &record, start.numbering)?;
        let TrackStart { packet_count, octet_count, .. } = start;
        let is_ours = format.fits_flv() && format.is_packetized_so();
        is_ours.then_some(Self { packet_count, octet_count, ..track })
    }

    pub(super) fn format(&self) -> &Format {
        &self.format
    }

    /// Packets and bytes of payload so far.
    pub(super) fn sent(&self) -> (u32, u32) {
        (self.packet_count, self.octet_count)
    }

    pub(super) fn codec(&self) -> Codec {
        self.codec
    }

    /// The record has changed. Parameter sets go in band as well; how AAC is read the description alone
    /// tells, which is void then, and stays as it was. So do payload types and rates.
    pub(super) fn set_config(&mut self, record: &[u8]) {
        self.packetizer.set_config(record);
        match Format::of_codec(self.codec, record) {
            Some(format) if self.codec == Codec::Aac => {
                self.is_void = !format.continues(&self.format);
            }
            Some(format) => self.format.parameters = format.parameters,
            None => {}
        }
        let time = AacFrameTime::from_config(record).filter(|_| self.codec == Codec::Aac);
        self.aac_ticks = time.map_or(0, |time| i64::from(time.ticks(self.format.clock_rate)));
    }

    /// Whether its format does not tell how to read its packets any more.
    pub(super) fn is_void(&self) -> bool {
        self.is_void
    }

    pub(super) fn description(&self, number: usize) -> MediaDescription {
        MediaDescription::new(self.format.clone(), number)
    }

    /// Makes a frame's packets.
    ///
    /// # Errors
    /// [`PacketizeError`]; the next frame can be packetized all the same.
    pub(super) fn packetize(
        &mut self,
        timed: TimedFrame,
        mut sink: impl FnMut(Packet),
    ) -> Result<(), PacketizeError> {
        let TimedFrame { codec, keyframe, decoding_ms, composition_ms, payload } = timed;
        let presentation_ms = decoding_ms.wrapping_add(i64::from(composition_ms));
        let nominal = self.ticks_at(presentation_ms);
        let ticks = if codec.is_video() { nominal } else { self.smooth(nominal, &payload) };
        let frame = Frame { codec, keyframe, timestamp: ticks as u32, payload };
        self.packetizer.packetize(&frame, |packet| {
            self.packet_count = self.packet_count.wrapping_add(1);
            self.octet_count = self.octet_count.wrapping_add(packet.payload.len() as u32);
            sink(packet);
        })
    }

    /// Where a timestamp of its packets lies, that is not far from there.
    pub(super) fn place_ns(&self, timestamp: u32, near_ms: i64) -> i64 {
        let of_near = (self.ticks_at(near_ms) as u32).wrapping_add(self.numbering.timestamp_offset);
        let ticks = i64::from(timestamp.wrapping_sub(of_near).cast_signed());
        near_ms * 1_000_000 + ticks * 1_000_000_000 / i64::from(self.format.clock_rate.max(1))
    }

    /// RFC 3550, 6.4.1; `None` before the first packet.
    pub(super) fn sender_report(&self, ms: i64, ntp: NtpTime) -> Option<Vec<u8>> {
        if self.packet_count == 0 {
            return None;
        }
        let PacketizerConfig { ssrc, timestamp_offset, .. } = self.numbering;
        let report = SenderReport {
            ssrc,
            ntp,
            rtp_timestamp: (self.ticks_at(ms) as u32).wrapping_add(timestamp_offset),
            packet_count: self.packet_count,
            octet_count: self.octet_count,
        };
        Some(encode_sender_report(report, CNAME))
    }

    /// Only the lower 32 bits count, so that it may wrap.
    fn ticks_at(&self, ms: i64) -> i64 {
        ms.wrapping_mul(i64::from(self.format.clock_rate)).div_euclid(1000)
    }

    fn smooth(&mut self, nominal: i64, payload: &Payload) -> i64 {
        let off_max = AUDIO_OFF_MS_MAX * u64::from(self.format.clock_rate) / 1000;
        let is_near = |due: &i64| due.abs_diff(nominal) <= off_max;
        let ticks = self.due.filter(is_near).unwrap_or(nominal);
        self.due = self.duration(payload).map(|duration| ticks.wrapping_add(duration));
        ticks
    }

    /// Samples of an audio frame.
    fn duration(&self, payload: &Payload) -> Option<i64> {
        match self.codec {
            Codec::Aac => Some(self.aac_ticks).filter(|ticks| *ticks > 0),
            Codec::Opus => {
                let head: Vec<u8> = payload.slices().flatten().take(2).copied().collect();
                opus_samples(&head).map(i64::from)
            }
            _ => i64::try_from(payload.len() / usize::from(self.format.channels.max(1))).ok(),
        }
    }
}

/// How far audio may be from its tags' times. Encoders' stamps wobble by some milliseconds; 10 are
/// not heard and not seen against a picture.
const AUDIO_OFF_MS_MAX: u64 = 8;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn track(codec: Codec, record: &[u8]) -> OutTrack {
        let format = Format::of_codec(codec, record).unwrap();
        OutTrack::new(format, record, PacketizerConfig::new(1, 2, 0)).unwrap()
    }

    fn timestamps(track: &mut OutTrack, times_ms: impl Iterator<Item = i64>) -> Vec<u32> {
        let mut timestamps = Vec::new();
        for decoding_ms in times_ms {
            let payload = Bytes::from_static(&[0xfc; 160]).into();
            let codec = track.codec;
            let frame =
                TimedFrame { codec, keyframe: false, decoding_ms, composition_ms: 0, payload };
            track.packetize(frame, |packet| timestamps.push(packet.header.timestamp)).unwrap();
        }
        timestamps
    }

    fn steps(timestamps: &[u32]) -> Vec<u32> {
        timestamps.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect()
    }

    #[test]
    fn audio_advances_by_its_samples() {
        for (codec, record, rate, samples) in [
            (Codec::Aac, &b"\x12\x10"[..], 44_100, 1024),
            (Codec::Aac, b"\x11\x94", 48_000, 960),
            (Codec::Opus, b"OpusHead\x01\x02\0\0\x80\xbb\0\0\0\0\0", 48_000, 960),
            (Codec::PcmU, b"", 8000, 160),
        ] {
            let mut track = track(codec, record);
            let times = (0..20_000).map(|n| n * samples * 1000 / rate);
            let timestamps = timestamps(&mut track, times);
            assert!(steps(&timestamps).iter().all(|step| i64::from(*step) == samples));
            assert_eq!(timestamps[0], 0);
        }
    }

    #[test]
    fn wobble_is_smoothed_and_a_gap_is_not() {
        let mut track = track(Codec::PcmA, b"");
        let wobbling =
            timestamps(&mut track, (0..100).map(|n| 20 * n + [0, 5, -5, 2][n as usize % 4]));
        assert_eq!(steps(&wobbling), [160; 99]);
        let behind_gap = timestamps(&mut track, [2500, 2520, 2540].into_iter());
        assert_eq!(behind_gap, [20_000, 20_160, 20_320]);
        // A clock that is off by 1 % is followed, never further away than a listener notices.
        let slow = timestamps(&mut track, (0..2000).map(|n| 2560 + n * 202 / 10));
        for (n, timestamp) in slow.iter().enumerate() {
            let off = i64::from(*timestamp) - (2560 + n as i64 * 202 / 10) * 8;
            assert!(off.abs() <= 64, "{off}");
        }
    }

    #[test]
    fn timestamps_wrap() {
        let mut track = track(Codec::PcmA, b"");
        let wrap_ms = (1 << 32) / 8;
        let timestamps = timestamps(&mut track, (-2..2).map(|n| wrap_ms + 20 * n));
        assert_eq!(timestamps, [u32::MAX - 319, u32::MAX - 159, 0, 160]);
    }

    #[test]
    fn report_is_where_packets_are() {
        let mut track = track(Codec::PcmA, b"");
        assert_eq!(track.sender_report(0, NtpTime(1)), None);
        let last = timestamps(&mut track, [1000, 1020].into_iter())[1];
        let bytes = track.sender_report(1020, NtpTime(1)).unwrap();
        assert_eq!(bytes[4..8], 1_u32.to_be_bytes());
        assert_eq!(bytes[16..20], last.to_be_bytes());
        assert_eq!(bytes[20..28], [0, 0, 0, 2, 0, 0, 1, 64]);
    }
}
