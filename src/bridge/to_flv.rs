//! RTP packets into FLV tags.
//!
//! First `onMetaData`, then the configurations that the session description tells, then frames; a
//! configuration again before the first frame that it is for, when it changes. Video begins at a
//! keyframe, or where players of the packets may start for want of one, since a player can't begin
//! before. A frame that a loss has damaged is left out, as the depacketizer has it.

use bytes::Bytes;

use super::counts::BridgeCounts;
use super::metadata::Metadata;
use super::picture_times::{PictureTimes, SoundTimes};
use super::tag::{COMPOSITION_MS_MAX, FlvTag, FrameHead, config_payload};
use crate::media::codec::{AudioParameters, ParameterSets, VideoParameters};
use crate::media::timeline::distance;
use crate::media::{Codec, Frame, TagKind};
use crate::proto::rtp::{
    Depacketized, Depacketizer, Format, Gap, LossPolicy, RtpPacket, TrackKind,
};
use crate::proto::rtsp::SessionDescription;

/// Makes FLV tags of one stream's packets.
#[derive(Debug)]
pub struct ToFlv {
    /// By their numbers in the description; `None` for those that are left out.
    tracks: Vec<Option<Track>>,
    /// The last packet's place, unwrapped.
    newest_ms: Option<i64>,
    /// The metadata that was told last.
    metadata: Vec<u8>,
    counts: BridgeCounts,
}

#[derive(Debug)]
struct Track {
    codec: Codec,
    clock_rate: u32,
    channels: u8,
    depacketizer: Depacketizer,
    /// The configuration in force.
    record: Option<Bytes>,
    /// It goes before the next frame.
    record_untold: bool,
    /// It brings nothing yet, so that the record goes before its first frame and not before those of others.
    is_silent: bool,
    places: Places,
    times: PictureTimes,
    sounds: SoundTimes,
    awaiting_keyframe: bool,
    /// Where the first keyframe is shown, until a picture behind it comes.
    start: Option<i64>,
}

/// A packet to be made tags, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct InPacket<'a> {
    /// By its number in the description.
    pub track: usize,
    pub packet: &'a RtpPacket,
    /// What is missing before it.
    pub gap: Gap,
    /// Where its timestamp lies on the timeline of the stream, in milliseconds modulo 2^32.
    pub time_ms: u32,
    /// Players of the packets may start at the picture that it begins, which may be no keyframe.
    pub is_start: bool,
}

/// Where the last two timestamps lie on the timeline. A frame may end only with the packet after
/// it.
#[derive(Debug, Default)]
struct Places {
    newest: Option<(u32, i64)>,
    before: Option<(u32, i64)>,
}

impl ToFlv {
    /// A converter for the main tracks of video and audio ([`SessionDescription::main_track`]) that FLV
    /// can carry; `None` where there is neither.
    pub fn new(description: &SessionDescription) -> Option<Self> {
        let main = [TrackKind::Video, TrackKind::Audio].map(|kind| description.main_track(kind));
        let tracks = description.media.iter().enumerate().map(|(number, media)| {
            let is_wanted = media.is_rtp && main.contains(&Some(number));
            is_wanted.then(|| Track::new(&media.format)).flatten()
        });
        let tracks: Vec<_> = tracks.collect();
        let has_tracks = tracks.iter().any(Option::is_some);
        has_tracks.then(|| {
            let (metadata, counts) = (Vec::new(), BridgeCounts::default());
            Self { tracks, newest_ms: None, metadata, counts }
        })
    }

    /// Takes the next packet of a track, in the order of its sequence.
    pub fn handle_packet(&mut self, incoming: InPacket<'_>, sink: &mut impl FnMut(FlvTag)) {
        let InPacket { track, packet, gap, time_ms, is_start } = incoming;
        if self.tracks.get(track).is_none_or(Option::is_none) {
            return;
        }
        if self.newest_ms.is_none() {
            self.tell_metadata(time_ms, sink);
            let tracks = self.tracks.iter_mut().flatten().filter(|track| !track.is_silent);
            tracks.for_each(|track| track.tell_config(time_ms, sink));
        }
        let from = |newest: i64| newest.wrapping_add(distance(newest as u32, time_ms));
        let place = self.newest_ms.map_or_else(|| i64::from(time_ms), from);
        self.newest_ms = Some(place);
        let Some(Some(taken)) = self.tracks.get_mut(track) else { return };
        taken.places.note(packet.header().timestamp, place);
        if is_start {
            taken.depacketizer.start_at_next();
        }
        // What can't be read damages one frame.
        if let Err(error) = taken.depacketizer.handle_packet(packet, gap) {
            self.counts.packets_unread[error.reason()] += 1;
        }
        while let Some(item) = self.next_item(track) {
            self.take_item(track, item, sink);
        }
    }

    /// Video does not come, and players are told of none: its configuration goes before its next frame.
    pub fn silence_video(&mut self) {
        for track in self.tracks.iter_mut().flatten().filter(|track| track.codec.is_video()) {
            (track.is_silent, track.record_untold) = (true, track.record.is_some());
        }
    }

    /// Some of the tracks are made video.
    pub fn has_video(&self) -> bool {
        self.tracks.iter().flatten().any(|track| track.codec.is_video())
    }

    /// What was no use.
    pub fn counts(&self) -> BridgeCounts {
        let mut counts = self.counts;
        for track in self.tracks.iter().flatten() {
            let frames = track.depacketizer.counts();
            counts.damaged += frames.damaged;
            counts.unconfigured += frames.unconfigured;
            counts.before_keyframe += frames.awaiting_keyframe;
        }
        counts
    }

    fn next_item(&mut self, track: usize) -> Option<Depacketized> {
        self.tracks.get_mut(track)?.as_mut()?.depacketizer.poll_item()
    }

    fn take_item(&mut self, track: usize, item: Depacketized, sink: &mut impl FnMut(FlvTag)) {
        let Some(Some(taken)) = self.tracks.get_mut(track) else { return };
        let frame = match item {
            Depacketized::Config { record, .. } => return taken.set_config(record),
            Depacketized::Frame(frame) => frame,
        };
        let presentation = taken.places.time_of(frame.timestamp, taken.clock_rate);
        // Also of a picture that is left out: one that is shown before the first may come behind it.
        let decoding = match taken.codec.is_video() {
            true => taken.times.next(presentation),
            false => taken.sounds.next(presentation),
        };
        if taken.awaiting_keyframe && frame.keyframe {
            (taken.awaiting_keyframe, taken.start) = (false, Some(presentation));
        }
        taken.start.take_if(|start| *start < presentation);
        let is_before_start = taken.start.is_some_and(|start| presentation < start);
        // Such a picture (RASL of HEVC) refers to those before the keyframe, and there is no time left at
        // which it could be decoded: decoders drop it, and players would show it late if they could.
        if taken.awaiting_keyframe || is_before_start && decoding > presentation {
            self.counts.before_keyframe += 1;
            return;
        }
        if taken.record_untold {
            self.tell_metadata(decoding as u32, sink);
        }
        let Some(Some(taken)) = self.tracks.get_mut(track) else { return };
        taken.tell_config(decoding as u32, sink);
        sink(taken.frame_tag(frame, presentation, decoding));
    }

    /// Where it differs from what was told before.
    fn tell_metadata(&mut self, timestamp_ms: u32, sink: &mut impl FnMut(FlvTag)) {
        let mut metadata = Metadata::default();
        for track in self.tracks.iter().flatten() {
            match track.codec.is_video() {
                true => metadata.video = Some((track.codec, track.video_parameters())),
                false => metadata.audio = Some((track.codec, track.audio_parameters())),
            }
        }
        let bytes = metadata.encode();
        if bytes != self.metadata {
            self.metadata.clone_from(&bytes);
            let payload = Bytes::from(bytes).into();
            sink(FlvTag { kind: TagKind::Script, timestamp_ms, payload });
        }
    }
}

impl Track {
    fn new(format: &Format) -> Option<Self> {
        let &Format { clock_rate, channels, .. } = format;
        let codec = format.codec();
        if !format.fits_flv() {
            return None;
        }
        let mut track = Self {
            codec,
            clock_rate,
            channels,
            depacketizer: Depacketizer::new(format, LossPolicy::DropFrame)?,
            record: None,
            record_untold: false,
            is_silent: false,
            places: Places::default(),
            times: PictureTimes::new(None),
            sounds: SoundTimes::default(),
            awaiting_keyframe: codec.is_video(),
            start: None,
        };
        while let Some(Depacketized::Config { record, .. }) = track.depacketizer.poll_item() {
            track.set_config(record);
        }
        if codec.is_video()
            && let Some(record) = format.parameter_sets().to_record()
        {
            track.set_config(record);
        }
        Some(track)
    }

    fn set_config(&mut self, record: Bytes) {
        if self.record.as_ref() == Some(&record) {
            return;
        }
        if let Some(sets) = ParameterSets::from_record(self.codec, &record) {
            self.times.set_depth(sets.reorder_depth());
        }
        self.record = Some(record);
        self.record_untold = true;
    }

    fn tell_config(&mut self, timestamp_ms: u32, sink: &mut impl FnMut(FlvTag)) {
        if !std::mem::take(&mut self.record_untold) {
            return;
        }
        let record = self.record.clone().unwrap_or_default();
        if let Some(payload) = config_payload(self.codec, record) {
            sink(FlvTag { kind: self.tag_kind(), timestamp_ms, payload });
        }
    }

    fn frame_tag(&self, frame: Frame, presentation: i64, decoding: i64) -> FlvTag {
        let composition = (presentation - decoding).clamp(0, COMPOSITION_MS_MAX);
        let head = FrameHead {
            codec: self.codec,
            keyframe: frame.keyframe,
            composition_ms: composition as i32,
            is_stereo: self.channels == 2,
        };
        let payload = head.payload(frame.payload);
        FlvTag { kind: self.tag_kind(), timestamp_ms: decoding as u32, payload }
    }

    fn tag_kind(&self) -> TagKind {
        if self.codec.is_video() { TagKind::Video } else { TagKind::Audio }
    }

    fn video_parameters(&self) -> Option<VideoParameters> {
        VideoParameters::from_config(self.codec, self.record.as_deref()?)
    }

    fn audio_parameters(&self) -> Option<AudioParameters> {
        if matches!(self.codec, Codec::PcmA | Codec::PcmU) {
            let (sample_rate, channels) = (self.clock_rate, self.channels);
            return Some(AudioParameters { sample_rate, channels, sample_bits: 16 });
        }
        AudioParameters::from_config(self.codec, self.record.as_deref()?)
    }
}

impl Places {
    fn note(&mut self, timestamp: u32, place_ms: i64) {
        if self.newest.is_some_and(|newest| newest.0 != timestamp) {
            self.before = self.newest;
        }
        self.newest = Some((timestamp, place_ms));
    }

    /// The place of a frame's timestamp: that of its packet, or for units further back in a packet
    /// as far from it as their ticks say.
    fn time_of(&self, timestamp: u32, clock_rate: u32) -> i64 {
        let mut known = [self.newest, self.before].into_iter().flatten();
        if let Some((_, place_ms)) = known.find(|known| known.0 == timestamp) {
            return place_ms;
        }
        let (newest, place_ms) = self.newest.unwrap_or((timestamp, 0));
        let ticks = i64::from(timestamp.wrapping_sub(newest).cast_signed());
        let rate = i64::from(clock_rate);
        place_ms + (ticks * 1000 + rate / 2).div_euclid(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rtp::RtpHeader;

    const SPS: &[u8] =
        b"\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a";
    const PPS: &[u8] = b"\x68\xce\x0f\xc8";
    const OTHER_PPS: &[u8] = b"\x68\xce\x0f\xc9";

    type Tag = (TagKind, u32, Vec<u8>);

    struct Bench {
        converter: ToFlv,
        sequence: u16,
    }

    impl Bench {
        fn new(text: &str) -> Self {
            let description = SessionDescription::parse(text.as_bytes()).unwrap();
            Self { converter: ToFlv::new(&description).unwrap(), sequence: 0 }
        }

        /// Feeds a packet; each tag as kind, time, and payload.
        fn feed(&mut self, track: usize, time_ms: u32, timestamp: u32, payload: &[u8]) -> Vec<Tag> {
            let header = self.header(timestamp);
            self.feed_packet(header, payload, (track, time_ms, false))
        }

        /// Feeds a packet of the first track without a marker, at which players may start or not.
        fn feed_open(&mut self, time_ms: u32, payload: &[u8], is_start: bool) -> Vec<Tag> {
            let header = RtpHeader { marker: false, ..self.header(90 * time_ms) };
            self.feed_packet(header, payload, (0, time_ms, is_start))
        }

        fn header(&mut self, timestamp: u32) -> RtpHeader {
            let sequence = self.sequence;
            self.sequence += 1;
            RtpHeader { marker: true, payload_type: 96, sequence, timestamp, ssrc: 1 }
        }

        fn feed_packet(
            &mut self,
            header: RtpHeader,
            payload: &[u8],
            (track, time_ms, is_start): (usize, u32, bool),
        ) -> Vec<Tag> {
            let packet = RtpPacket::parse([&header.encode()[..], payload].concat().into()).unwrap();
            let gap = Gap::None;
            let incoming = InPacket { track, packet: &packet, gap, time_ms, is_start };
            let mut tags = Vec::new();
            self.converter.handle_packet(incoming, &mut |tag| {
                tags.push((tag.kind, tag.timestamp_ms, tag.payload.to_vec()));
            });
            tags
        }
    }

    fn aggregated(nals: &[&[u8]]) -> Vec<u8> {
        let mut payload = vec![0x78];
        for nal in nals {
            payload.extend_from_slice(&(nal.len() as u16).to_be_bytes());
            payload.extend_from_slice(nal);
        }
        payload
    }

    #[test]
    fn video_begins_at_a_keyframe_and_tells_changes() {
        let mut bench = Bench::new("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\n");
        let metadata = bench.feed(0, 0, 0, b"\x41\x88");
        assert!(matches!(metadata[..], [(TagKind::Script, 0, _)]));
        // Configured, and no keyframe.
        assert_eq!(bench.feed(0, 40, 3600, &aggregated(&[SPS, PPS, b"\x41\x88"])), []);
        let tags = bench.feed(0, 80, 7200, b"\x65\x88");
        let kinds: Vec<_> = tags.iter().map(|(kind, time_ms, _)| (*kind, *time_ms)).collect();
        // The size is known by now.
        assert_eq!(kinds, [(TagKind::Script, 80), (TagKind::Video, 80), (TagKind::Video, 80)]);
        assert_eq!(tags[1].2[..6], *b"\x17\0\0\0\0\x01");
        assert_eq!(tags[2].2, b"\x17\x01\0\0\0\0\0\0\x02\x65\x88");
        let picture = b"\x27\x01\0\0\0\0\0\0\x02\x41\x88".to_vec();
        assert_eq!(bench.feed(0, 120, 10_800, b"\x41\x88"), [(TagKind::Video, 120, picture)]);
        // The same again is no news, another one is.
        assert_eq!(bench.feed(0, 160, 14_400, &aggregated(&[SPS, PPS, b"\x65\x88"])).len(), 1);
        let tags = bench.feed(0, 200, 18_000, &aggregated(&[SPS, OTHER_PPS, b"\x65\x88"]));
        assert_eq!(tags.len(), 2);
        assert!(tags[0].2.ends_with(OTHER_PPS) && tags[0].2[1] == 0 && tags[0].1 == 200);
    }

    #[test]
    fn video_without_keyframes_begins_where_players_of_its_packets_do() {
        let mut bench = Bench::new("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\n");
        bench.feed_open(0, &aggregated(&[SPS, PPS, b"\x41\x9a"]), false);
        for frame in 1..50 {
            assert_eq!(bench.feed_open(40 * frame, b"\x41\x9a", false), []);
        }
        assert_eq!(bench.feed_open(2000, b"\x41\x9b", true), [], "it ends the picture before");
        let video = |tags: Vec<Tag>| {
            tags.into_iter().filter(|(kind, ..)| *kind == TagKind::Video).collect::<Vec<_>>()
        };
        let tags = video(bench.feed_open(2040, b"\x41\x9c", false));
        assert_eq!(tags.iter().map(|tag| tag.1).collect::<Vec<_>>(), [2000; 2]);
        assert_eq!(tags[1].2, b"\x17\x01\0\0\0\0\0\0\x02\x41\x9b");
        let tags = bench.feed_open(2080, b"\x41\x9d", false);
        assert_eq!(tags[0].2[..2], *b"\x27\x01");
    }

    /// x265 begins groups like this.
    #[test]
    fn pictures_that_are_shown_before_the_first_keyframe_are_left_out() {
        const SETS: &str = "sprop-vps=QAEMAf//AWAAAAMAkAAAAwAAAwA8lZgJ;\
            sprop-sps=QgEBAWAAAAMAkAAAAwAAAwA8oApIC5yVllZpJMrwFoCAAAADAIAAAAyE;sprop-pps=RAHBcrRiQA==";
        let sdp = format!("m=video 0 RTP/AVP 96\na=rtpmap:96 H265/90000\na=fmtp:96 {SETS}\n");
        let mut bench = Bench::new(&sdp);
        let [clean, skipped, trailing]: [&[u8]; 3] =
            [b"\x2a\x01\xaf", b"\x10\x01\xd0", b"\x02\x01\xd0"];
        let mut times = Vec::new();
        for (time_ms, nal) in [
            (1000, clean),
            (960, skipped),
            (920, skipped),
            (1160, trailing),
            (1080, trailing),
            (1040, trailing),
            (1120, trailing),
            // The next keyframe has them.
            (1320, clean),
            (1240, skipped),
            (1200, skipped),
            (1280, skipped),
        ] {
            for (kind, decoding, payload) in bench.feed(0, time_ms, 90 * time_ms, nal) {
                if let (TagKind::Video, true) = (kind, payload.ends_with(nal)) {
                    let at = payload.len() - nal.len() - 4;
                    // Coded frames without an offset (`CodedFramesX`) are shown when they are decoded.
                    let offset = if payload[0] & 0x0f == 3 { 0 } else { payload[at - 1] };
                    times.push((decoding, decoding + u32::from(offset)));
                }
            }
        }
        let shown: Vec<u32> = times.iter().map(|(_, shown)| *shown).collect();
        assert_eq!(shown, [1000, 1160, 1080, 1040, 1120, 1320, 1240, 1200, 1280], "{times:?}");
        assert!(times.windows(2).all(|two| two[0].0 < two[1].0), "{times:?}");
        assert_eq!(bench.converter.counts().before_keyframe, 2);
    }

    #[test]
    fn each_unit_of_a_packet_has_its_own_time() {
        let mut bench = Bench::new(
            "m=audio 0 RTP/AVP 96\na=rtpmap:96 mpeg4-generic/44100/2\n\
             a=fmtp:96 mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1210\n",
        );
        // Over the wrap of the timestamp.
        let first = 0_u32.wrapping_sub(1024);
        let four = b"\0\x40\0\x08\0\x08\0\x08\0\x08abcd";
        let tags = bench.feed(0, 100, first, four);
        assert!(matches!(tags[..2], [(TagKind::Script, 100, _), (TagKind::Audio, 100, _)]));
        assert_eq!(tags[1].2, b"\xaf\0\x12\x10");
        let times: Vec<u32> = tags[2..].iter().map(|(_, time_ms, _)| *time_ms).collect();
        assert_eq!(times, [100, 123, 146, 170]);
        // A track that is moved back: the next packet lies where the last one's units are.
        let mut moved = Bench::new(
            "m=audio 0 RTP/AVP 96\na=rtpmap:96 mpeg4-generic/44100/2\n\
             a=fmtp:96 mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1210\n",
        );
        moved.feed(0, 100, first, four);
        let tags = moved.feed(0, 123, first.wrapping_add(4096), four);
        let times: Vec<u32> = tags.iter().map(|(_, time_ms, _)| *time_ms).collect();
        assert_eq!(times, [171, 172, 173, 193]);
        // What was rounded there is not carried on.
        let tags = bench.feed(0, 193, first.wrapping_add(4096), b"\0\x10\0\x08e");
        assert_eq!(tags, [(TagKind::Audio, 193, b"\xaf\x01e".to_vec())]);
    }

    #[test]
    fn first_track_of_each_kind_that_flv_carries_is_taken() {
        let mut bench = Bench::new(
            "m=application 0 RTP/AVP 0\nm=audio 0 RTP/AVP 97\na=rtpmap:97 PCMA/16000\n\
             m=audio 0 RTP/AVP 8\nm=audio 0 RTP/AVP 0\nm=video 0 RTP/AVP 26\n",
        );
        for left_out in [0, 1, 3, 4, 5] {
            assert_eq!(bench.feed(left_out, 0, 0, b"a"), []);
        }
        let tags = bench.feed(2, 7, 0, b"a");
        assert_eq!(tags[1], (TagKind::Audio, 7, b"\x72a".to_vec()));
        let none = SessionDescription::parse(b"m=video 0 RTP/AVP 26\n").unwrap();
        assert!(ToFlv::new(&none).is_none());
    }
}
