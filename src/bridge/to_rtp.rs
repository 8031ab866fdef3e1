//! FLV tags into RTP packets.
//!
//! Which tracks there are must be known before the first packet: it is what a session description
//! tells. FLV tells it bit by bit, so frames wait until each kind of media that was announced or has
//! come has its configuration, or one kind has come for [`BRIDGE_WAIT_MS`] without the other. What
//! comes later than that is left out, and voids what was told where packets can be made of it: another
//! converter, which is told beforehand that there is such a track, has both.

use crate::limits::{BRIDGE_HELD_FRAMES_MAX, BRIDGE_HELD_LEN_MAX, BRIDGE_WAIT_MS};
use crate::media::timeline::distance;
use crate::media::{Codec, Payload, TagKind};
use crate::proto::rtp::rtcp::NtpTime;
use crate::proto::rtp::{Format, Packet, PacketizeError, PacketizerConfig, TrackKind};
use crate::proto::rtsp::SessionDescription;

use super::counts::BridgeCounts;
use super::metadata::Announced;
use super::out_track::{OutTrack, TimedFrame, TrackStart};
use super::tag::{CodedTag, Content, FlvTag, is_carried};

/// Makes RTP packets of one stream's tags.
#[derive(Debug)]
pub struct ToRtp {
    /// Video, audio.
    lanes: [Lane; 2],
    announced: Option<Announced>,
    /// Frames of all lanes that came before the tracks were known.
    held: Vec<(usize, TimedFrame)>,
    held_len: usize,
    is_complete: bool,
    /// The last tag's time, unwrapped.
    newest_ms: Option<i64>,
    told: Option<Told>,
    counts: BridgeCounts,
}

/// What players were told before there was anything to be made: tracks stay as they are there.
#[derive(Debug)]
struct Told {
    description: SessionDescription,
    /// The track of each lane, where it has one.
    numbers: [Option<usize>; 2],
}

/// A packet, and what those who keep and send it need to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutPacket {
    /// By its number in the description.
    pub track: usize,
    pub kind: TagKind,
    /// Decoding time of the frame, as its tag told it.
    pub time_ms: u32,
    /// The first packet of a video keyframe, or of what stands in for one; the parameter sets begin
    /// there.
    pub keyframe: bool,
    pub packet: Packet,
}

/// One kind of media.
#[derive(Debug)]
struct Lane {
    state: LaneState,
    numbering: PacketizerConfig,
    first_frame_ms: Option<i64>,
    /// It was left out because nothing was known of it in time, and packets could be made of it now.
    came_late: bool,
}

#[derive(Debug)]
enum LaneState {
    Unseen,
    /// Frames have come that can't be used without a configuration.
    Unconfigured,
    Track(Box<OutTrack>),
    /// We make no packets of its codec.
    LeftOut,
    /// It is left out as well: not enough was known of it when the others began.
    Late,
}

impl ToRtp {
    /// A converter whose SSRCs, first sequence numbers and timestamp offsets are drawn from `seed`,
    /// which must be another one for every stream (RFC 3550, 5.1).
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut numbering = || {
            let (sequence, offset) = (random.u16(..), random.u32(..));
            PacketizerConfig::new(random.u32(..), sequence, offset)
        };
        let video = numbering();
        let mut audio = numbering();
        // Two sources of one session must differ.
        audio.ssrc ^= u32::from(audio.ssrc == video.ssrc);
        Self {
            lanes: [video, audio].map(Lane::new),
            announced: None,
            held: Vec::new(),
            held_len: 0,
            is_complete: false,
            newest_ms: None,
            told: None,
            counts: BridgeCounts::default(),
        }
    }

    /// There is such a track, whose configuration comes later: the payload of its tag. Before the first tag.
    pub fn expect_config(&mut self, kind: TagKind, payload: &Payload) {
        let tag = CodedTag::read(kind, payload).filter(|tag| tag.content == Content::Config);
        if let Some(tag) = tag {
            self.lanes[usize::from(kind == TagKind::Audio)].set_config(tag.codec, &tag.body, false);
        }
    }

    /// As [`Self::expect_config`], of sound that has none.
    pub fn expect_sound(&mut self, codec: Codec, is_stereo: bool) {
        let lane = &mut self.lanes[AUDIO];
        if lane.is_unseen() {
            lane.begin_bare(codec, is_stereo);
        }
    }

    /// A converter that goes on behind packets of something else, which end at `newest_ms`: players were
    /// given that description, and tracks start like this. What is neither audio nor video stays away, as a
    /// track does of which nothing comes. `None` where tags can't be made what the description says.
    pub fn behind(
        description: &SessionDescription,
        starts: &[TrackStart],
        newest_ms: i64,
    ) -> Option<Self> {
        let mut numbers = [None; 2];
        let mut converter = Self::new(0);
        for (number, (media, start)) in description.media.iter().zip(starts).enumerate() {
            let lane = match media.format.kind {
                TrackKind::Video => VIDEO,
                TrackKind::Audio => AUDIO,
                TrackKind::Other => continue,
            };
            // FLV has one of each kind.
            if numbers[lane].replace(number).is_some() {
                return None;
            }
            let track = OutTrack::behind(&media.format, *start)?;
            converter.lanes[lane].state = LaneState::Track(track.into());
        }
        converter.told = Some(Told { description: description.clone(), numbers });
        converter.newest_ms = Some(newest_ms);
        converter.leave_out_unknown();
        Some(converter)
    }

    /// Whether [`Self::behind`] can go on so.
    pub fn can_go_behind(description: &SessionDescription) -> bool {
        let numbering = PacketizerConfig::new(0, 0, 0);
        let start = TrackStart { numbering, packet_count: 0, octet_count: 0 };
        Self::behind(description, &vec![start; description.media.len()], 0).is_some()
    }

    /// Takes the next tag. Players of the tags may start at the picture in it where `is_start`, also
    /// where that is no keyframe. Packets come in the order of the tags; the first ones when the tracks
    /// are known.
    pub fn handle_tag(&mut self, tag: FlvTag, is_start: bool, sink: &mut impl FnMut(OutPacket)) {
        let FlvTag { kind, timestamp_ms, payload } = tag;
        if kind == TagKind::Script {
            if let Some(announced) = Announced::read(&payload) {
                self.announced = Some(announced);
            }
            return;
        }
        let Some(tag) = CodedTag::read(kind, &payload) else {
            self.counts.unreadable += 1;
            return;
        };
        let lane = usize::from(kind == TagKind::Audio);
        let decoding_ms = self.unwrap_time(timestamp_ms);
        if tag.content == Content::Config {
            self.lanes[lane].set_config(tag.codec, &tag.body, self.is_complete);
        } else {
            self.lanes[lane].note_frame(&tag, decoding_ms, self.is_complete);
            let CodedTag { codec, keyframe, composition_ms, body: payload, .. } = tag;
            let keyframe = keyframe || is_start && kind == TagKind::Video;
            let frame = TimedFrame { codec, keyframe, decoding_ms, composition_ms, payload };
            self.take_frame(lane, frame, sink);
        }
        self.check_complete(sink);
    }

    /// The tracks as far as they are known, video first; `None` where there is none. It grows until
    /// [`Self::is_complete`]; from then on only configurations in it may change.
    pub fn description(&self) -> Option<SessionDescription> {
        if let Some(Told { description, numbers }) = &self.told {
            let mut description = description.clone();
            for (lane, number) in self.lanes.iter().zip(numbers) {
                if let Some((track, number)) = lane.track().zip(*number) {
                    description.media[number].format = track.format().clone();
                }
            }
            return Some(description);
        }
        let tracks = self.lanes.iter().filter_map(Lane::track);
        let media: Vec<_> =
            tracks.enumerate().map(|(number, track)| track.description(number)).collect();
        (!media.is_empty()).then(|| SessionDescription { media, ..SessionDescription::default() })
    }

    /// Whether what comes can't be read by the description any more, or is of a track that it lacks.
    pub fn is_void(&self) -> bool {
        let is_late = self.lanes.iter().any(|lane| lane.came_late);
        is_late || self.lanes.iter().filter_map(Lane::track).any(OutTrack::is_void)
    }

    /// The tracks are known for good. There may be none, when no codec of the stream can be sent.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// A sender report with our name, as a compound packet (RFC 3550, 6.1): that the track's time
    /// was `time_ms`, on the timeline of the tags, when the wall clock was `ntp`. `None` before the
    /// track's first packet.
    pub fn sender_report(&self, track: usize, time_ms: u32, ntp: NtpTime) -> Option<Vec<u8>> {
        let place = self.unwrapped(time_ms);
        self.track(track)?.sender_report(place, ntp)
    }

    /// Where a timestamp of a track lies, that is not far from the newest: on the timeline of the tags, in
    /// nanoseconds.
    pub fn place_ns(&self, track: usize, timestamp: u32) -> Option<i64> {
        Some(self.track(track)?.place_ns(timestamp, self.newest_ms?))
    }

    /// Packets and bytes of payload of a track so far, as its reports tell them.
    pub fn sent(&self, track: usize) -> (u32, u32) {
        self.track(track).map(OutTrack::sent).unwrap_or_default()
    }

    fn track(&self, number: usize) -> Option<&OutTrack> {
        let mut lanes = [VIDEO, AUDIO].into_iter();
        let lane = lanes.find(|&lane| self.number_of(lane) == Some(number))?;
        self.lanes[lane].track()
    }

    /// The number of a lane's track in the description.
    fn number_of(&self, lane: usize) -> Option<usize> {
        self.lanes[lane].track()?;
        match &self.told {
            Some(told) => told.numbers[lane],
            None => Some(usize::from(lane == AUDIO && self.lanes[VIDEO].track().is_some())),
        }
    }

    /// What was no use.
    pub fn counts(&self) -> BridgeCounts {
        self.counts
    }

    fn unwrapped(&self, time_ms: u32) -> i64 {
        let from = |newest: i64| newest.wrapping_add(distance(newest as u32, time_ms));
        self.newest_ms.map_or_else(|| i64::from(time_ms), from)
    }

    fn unwrap_time(&mut self, time_ms: u32) -> i64 {
        let place = self.unwrapped(time_ms);
        self.newest_ms = Some(place);
        place
    }

    fn take_frame(&mut self, lane: usize, frame: TimedFrame, sink: &mut impl FnMut(OutPacket)) {
        if self.is_complete {
            self.packetize(lane, frame, sink);
        } else if self.lanes[lane].track().is_some() {
            self.held_len += frame.payload.len();
            self.held.push((lane, frame));
        } else if self.lanes[lane].is_unconfigured() {
            self.counts.unconfigured += 1;
        } else {
            self.counts.left_out += 1;
        }
    }

    fn packetize(&mut self, lane: usize, frame: TimedFrame, sink: &mut impl FnMut(OutPacket)) {
        let number = self.number_of(lane);
        let (LaneState::Track(out), Some(track)) = (&mut self.lanes[lane].state, number) else {
            self.counts.left_out += 1;
            return;
        };
        let (time_ms, mut keyframe) = (frame.decoding_ms as u32, frame.keyframe);
        let made = out.packetize(frame, |packet| {
            let keyframe = std::mem::take(&mut keyframe);
            let kind = if lane == VIDEO { TagKind::Video } else { TagKind::Audio };
            sink(OutPacket { track, kind, time_ms, keyframe, packet });
        });
        // It is one damaged frame, which a player conceals like a loss.
        match made {
            Ok(()) => {}
            Err(PacketizeError::NalLength) => self.counts.unreadable += 1,
            Err(PacketizeError::TooLong(_)) => self.counts.too_long += 1,
            Err(PacketizeError::Codec) => self.counts.left_out += 1,
        }
    }

    fn check_complete(&mut self, sink: &mut impl FnMut(OutPacket)) {
        if self.is_complete || !self.knows_tracks() {
            return;
        }
        self.leave_out_unknown();
        self.held_len = 0;
        for (lane, frame) in std::mem::take(&mut self.held) {
            self.packetize(lane, frame, sink);
        }
    }

    fn leave_out_unknown(&mut self) {
        self.is_complete = true;
        for lane in &mut self.lanes {
            if lane.is_unseen() || lane.is_unconfigured() {
                lane.state = LaneState::Late;
            }
        }
    }

    fn knows_tracks(&self) -> bool {
        let announced = self.announced.unwrap_or_default();
        let [video, audio] = &self.lanes;
        let is_told = video.is_told(announced.video) && audio.is_told(announced.audio);
        // Without an announcement the other kind may just be late.
        let is_announced = announced.video || announced.audio;
        let has_both = !video.is_unseen() && !audio.is_unseen();
        if is_told && (has_both || is_announced && !(video.is_unseen() && audio.is_unseen())) {
            return true;
        }
        let is_full =
            self.held.len() >= BRIDGE_HELD_FRAMES_MAX || self.held_len >= BRIDGE_HELD_LEN_MAX;
        let has_track = video.track().is_some() || audio.track().is_some();
        let waits_for_config = [video, audio].into_iter().any(Lane::is_unconfigured);
        let has_waited = self.lanes.iter().any(|lane| {
            let waited_ms = lane.first_frame_ms.zip(self.newest_ms);
            waited_ms.is_some_and(|(first, now)| now.wrapping_sub(first) >= BRIDGE_WAIT_MS)
        });
        is_full || has_waited && (has_track || !waits_for_config)
    }
}

impl Lane {
    fn new(numbering: PacketizerConfig) -> Self {
        Self { state: LaneState::Unseen, numbering, first_frame_ms: None, came_late: false }
    }

    fn set_config(&mut self, codec: Codec, record: &Payload, is_complete: bool) {
        // A record that is longer is none.
        if record.len() > RECORD_LEN_MAX {
            return;
        }
        let record = record.to_vec();
        match &mut self.state {
            LaneState::Track(track) if track.codec() == codec => {
                track.set_config(&record);
                if track.is_void() && !is_complete {
                    // Nobody was told yet.
                    self.begin(Format::of_codec(codec, &record), &record);
                }
            }
            LaneState::Late => self.note_late(Format::of_codec(codec, &record), &record),
            _ if is_complete => {}
            _ => self.begin(Format::of_codec(codec, &record), &record),
        }
    }

    fn begin(&mut self, format: Option<Format>, record: &[u8]) {
        let track = format.and_then(|format| OutTrack::new(format, record, self.numbering));
        self.state = track.map_or(LaneState::LeftOut, |track| LaneState::Track(track.into()));
    }

    /// As [`Self::begin`], where it is too late for that.
    fn note_late(&mut self, format: Option<Format>, record: &[u8]) {
        let track = format.and_then(|format| OutTrack::new(format, record, self.numbering));
        self.came_late |= track.is_some();
    }

    /// Begins with sound that has no configuration; whether it is such.
    fn begin_bare(&mut self, codec: Codec, is_stereo: bool) -> bool {
        let format = bare_format(codec, is_stereo);
        let is_bare = format.is_some();
        if is_bare {
            self.begin(format, b"");
        }
        is_bare
    }

    /// Codecs without a configuration begin with their first frame.
    fn note_frame(&mut self, tag: &CodedTag, decoding_ms: i64, is_complete: bool) {
        if matches!(self.state, LaneState::Late) && !self.came_late {
            self.note_late(bare_format(tag.codec, tag.is_stereo), b"");
        }
        if is_complete {
            return;
        }
        self.first_frame_ms.get_or_insert(decoding_ms);
        let is_new = matches!(self.state, LaneState::Unseen | LaneState::Unconfigured);
        if !is_new {
            return;
        }
        if !self.begin_bare(tag.codec, tag.is_stereo) {
            self.state = match is_carried(tag.codec) {
                true => LaneState::Unconfigured,
                false => LaneState::LeftOut,
            };
        }
    }

    fn track(&self) -> Option<&OutTrack> {
        match &self.state {
            LaneState::Track(track) => Some(track),
            _ => None,
        }
    }

    /// Nothing more needs to be known of it.
    fn is_told(&self, announced: bool) -> bool {
        match self.state {
            LaneState::Unseen => !announced,
            LaneState::Unconfigured => false,
            LaneState::Track(_) | LaneState::LeftOut | LaneState::Late => true,
        }
    }

    fn is_unseen(&self) -> bool {
        matches!(self.state, LaneState::Unseen)
    }

    fn is_unconfigured(&self) -> bool {
        matches!(self.state, LaneState::Unconfigured)
    }
}

/// Of sound without a configuration.
fn bare_format(codec: Codec, is_stereo: bool) -> Option<Format> {
    match codec {
        Codec::PcmA | Codec::PcmU => g711(codec, is_stereo),
        // Under a number of its own it comes without a head (ZLMediaKit).
        Codec::Opus => Format::of_codec(Codec::Opus, STEREO_OPUS_HEAD),
        _ => None,
    }
}

/// The static payload types have one channel.
fn g711(codec: Codec, is_stereo: bool) -> Option<Format> {
    let format = Format::of_codec(codec, b"")?;
    Some(if is_stereo { Format { channels: 2, payload_type: 97, ..format } } else { format })
}

const STEREO_OPUS_HEAD: &[u8] = b"OpusHead\x01\x02\0\0\x80\xbb\0\0\0\0\0";

const VIDEO: usize = 0;
const AUDIO: usize = 1;

/// Bytes of a configuration record: sixteen parameter sets of each kind at their longest.
const RECORD_LEN_MAX: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const AVC: &[u8] =
        b"\x17\0\0\0\0\x01\x42\xc0\x28\xff\xe1\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\
                         \x9f\x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a\x01\0\x04\x68\xce\x0f\
                         \xc8";
    const KEYFRAME: &[u8] = b"\x17\x01\0\0\0\0\0\0\x02\x65\x88";
    const PICTURE: &[u8] = b"\x27\x01\0\0\0\0\0\0\x02\x41\x88";
    const AAC: &[u8] = b"\xaf\0\x11\x90";
    const SOUND: &[u8] = b"\xaf\x01abc";
    /// Announces both kinds: 7 and 10.
    const BOTH: &[u8] =
        b"\x02\0\x0aonMetaData\x08\0\0\0\x02\0\x0cvideocodecid\0\x40\x1c\0\0\0\0\0\0\
                          \0\x0caudiocodecid\0\x40\x24\0\0\0\0\0\0\0\0\x09";
    const VIDEO_ONLY: &[u8] =
        b"\x02\0\x0aonMetaData\x08\0\0\0\x01\0\x0cvideocodecid\0\x40\x1c\0\0\0\0\
                                \0\0\0\0\x09";

    struct Bench {
        converter: ToRtp,
    }

    impl Bench {
        fn new() -> Self {
            Self { converter: ToRtp::new(1) }
        }

        /// Feeds a tag; each packet as track, time and keyframe.
        fn feed(&mut self, timestamp_ms: u32, payload: &'static [u8]) -> Vec<(usize, u32, bool)> {
            let kind = match payload[0] {
                0x02 => TagKind::Script,
                first if first >> 4 >= 9 && first != 0x90 => TagKind::Audio,
                0x72 => TagKind::Audio,
                _ => TagKind::Video,
            };
            let mut packets = Vec::new();
            let payload = Bytes::from_static(payload).into();
            let tag = FlvTag { kind, timestamp_ms, payload };
            self.converter.handle_tag(tag, false, &mut |packet| {
                packets.push((packet.track, packet.time_ms, packet.keyframe));
            });
            packets
        }

        fn tracks(&self) -> Vec<Codec> {
            let description = self.converter.description().unwrap_or_default();
            description.media.iter().map(|media| media.format.codec()).collect()
        }
    }

    #[test]
    fn announced_tracks_are_waited_for() {
        let mut bench = Bench::new();
        for tag in [BOTH, AVC] {
            assert_eq!(bench.feed(0, tag), []);
            assert!(!bench.converter.is_complete());
        }
        // Frames of what is known already are held, in the order of tags.
        assert_eq!((bench.feed(0, KEYFRAME), bench.feed(40, PICTURE)), (vec![], vec![]));
        assert_eq!(bench.feed(40, AAC), [(0, 0, true), (0, 40, false)]);
        assert!(bench.converter.is_complete());
        assert_eq!(bench.tracks(), [Codec::H264, Codec::Aac]);
        assert_eq!(bench.feed(40, SOUND), [(1, 40, false)]);
        assert_eq!(bench.feed(80, KEYFRAME), [(0, 80, true)]);
    }

    #[test]
    fn another_record_of_aac_voids_what_was_told() {
        const MONO: &[u8] = b"\xaf\0\x11\x88";
        let mut bench = Bench::new();
        for tag in [BOTH, MONO, AAC, AVC, KEYFRAME] {
            bench.feed(0, tag);
        }
        let told = bench.converter.description().expect("both are known");
        assert!(told.media[1].format.parameters.ends_with("config=1190"), "{told:?}");
        for (record, is_void) in [(AAC, false), (MONO, true), (AAC, false)] {
            bench.feed(40, record);
            assert_eq!(bench.converter.is_void(), is_void, "{record:x?}");
            assert_eq!(bench.converter.description().as_ref(), Some(&told));
        }
        // Parameter sets go in band as well.
        let other = [&AVC[..AVC.len() - 1], b"\xc9"].concat();
        bench.feed(40, other.leak());
        assert!(!bench.converter.is_void());
        assert_ne!(bench.converter.description(), Some(told));
    }

    #[test]
    fn one_announced_track_is_enough() {
        let mut bench = Bench::new();
        bench.feed(0, VIDEO_ONLY);
        assert!(!bench.converter.is_complete());
        bench.feed(0, AVC);
        assert!(bench.converter.is_complete());
        assert_eq!(bench.feed(0, KEYFRAME), [(0, 0, true)]);
        // What comes later is left out, and voids what was told where packets can be made of it.
        assert_eq!((bench.feed(20, b"\x2f\xff\xfb"), bench.feed(20, SOUND)), (vec![], vec![]));
        assert!(!bench.converter.is_void());
        assert_eq!((bench.feed(20, AAC), bench.feed(20, SOUND)), (vec![], vec![]));
        assert!(bench.converter.is_void());
        assert_eq!(bench.tracks(), [Codec::H264]);
        // So is another codec of the same kind.
        let hevc = [&b"\x90hvc1"[..], &[1; 40]].concat();
        bench.feed(40, hevc.leak());
        assert_eq!(bench.tracks(), [Codec::H264]);
        assert_eq!(bench.feed(40, b"\x93hvc1\0\0\0\x02\x26\x01"), []);
    }

    #[test]
    fn tracks_that_are_expected_need_no_wait() {
        let read = |payload: &'static [u8]| Bytes::from_static(payload).into();
        let mut bench = Bench::new();
        bench.converter.expect_config(TagKind::Audio, &read(AAC));
        for tag in [VIDEO_ONLY, AVC] {
            assert_eq!(bench.feed(0, tag), []);
        }
        assert!(bench.converter.is_complete());
        assert_eq!(bench.tracks(), [Codec::H264, Codec::Aac]);
        assert_eq!((bench.feed(0, KEYFRAME), bench.feed(700, AAC)), (vec![(0, 0, true)], vec![]));
        assert_eq!(bench.feed(700, SOUND), [(1, 700, false)]);
        assert!(!bench.converter.is_void());

        for codec in [Codec::PcmA, Codec::Opus] {
            let mut bench = Bench::new();
            bench.converter.expect_sound(codec, false);
            bench.feed(0, AVC);
            assert_eq!(bench.feed(0, KEYFRAME), [(0, 0, true)]);
            assert_eq!(bench.tracks(), [Codec::H264, codec]);
        }
        // Of what has a configuration, or can't be sent, nothing is known before.
        for codec in [Codec::Aac, Codec::Mp3] {
            let mut bench = Bench::new();
            bench.converter.expect_sound(codec, false);
            bench.feed(0, AVC);
            assert_eq!(bench.feed(0, KEYFRAME), []);
        }
    }

    #[test]
    fn sound_without_a_configuration_may_be_late_as_well() {
        let mut bench = Bench::new();
        bench.feed(0, AVC);
        bench.feed(0, KEYFRAME);
        assert_eq!(bench.feed(500, PICTURE).len(), 2);
        assert!(!bench.converter.is_void());
        assert_eq!(bench.feed(600, b"\x72aaa"), []);
        assert!(bench.converter.is_void());
    }

    #[test]
    fn without_an_announcement_the_other_kind_has_half_a_second() {
        let mut bench = Bench::new();
        bench.feed(0, AVC);
        assert_eq!(bench.feed(100, KEYFRAME), []);
        assert_eq!(bench.feed(599, PICTURE), []);
        let held = bench.feed(600, PICTURE);
        assert_eq!(held, [(0, 100, true), (0, 599, false), (0, 600, false)]);
        assert!(bench.converter.is_complete());

        let mut bench = Bench::new();
        assert_eq!(bench.feed(0, b"\x72aaa"), []);
        assert_eq!(bench.feed(0, AVC), [(1, 0, false)]);
        assert_eq!(bench.tracks(), [Codec::H264, Codec::PcmA]);
    }

    #[test]
    fn frames_before_their_configuration_are_left_out() {
        let mut bench = Bench::new();
        bench.feed(0, BOTH);
        assert_eq!((bench.feed(0, SOUND), bench.feed(600, SOUND)), (vec![], vec![]));
        // There is nothing to send yet.
        assert!(!bench.converter.is_complete());
        assert_eq!(bench.feed(700, AAC), []);
        assert!(bench.converter.is_complete());
        assert_eq!(bench.tracks(), [Codec::Aac]);
        assert_eq!(bench.feed(700, SOUND), [(0, 700, false)]);
    }

    #[test]
    fn what_no_packets_are_made_of_is_counted() {
        let mut bench = Bench::new();
        bench.feed(0, BOTH);
        bench.feed(0, SOUND);
        bench.feed(0, AVC);
        bench.feed(0, AAC);
        assert!(bench.converter.is_complete());
        // A length that goes beyond the frame, the end of the sequence, MP3.
        for tag in [&b"\x27\x01\0\0\0\0\0\0\x09\x41\x88"[..], b"\x17\x02\0\0\0", b"\x2f\xff\xfb"] {
            let kind = if tag[0] == 0x2f { TagKind::Audio } else { TagKind::Video };
            let payload = Bytes::from_static(tag).into();
            let tag = FlvTag { kind, timestamp_ms: 0, payload };
            bench.converter.handle_tag(tag, false, &mut |packet| panic!("{packet:?}"));
        }
        let BridgeCounts { unconfigured, unreadable, left_out, .. } = bench.converter.counts();
        assert_eq!((unconfigured, unreadable, left_out), (1, 2, 1));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut bench = Bench::new();
        bench.feed(0, AVC);
        for _ in 1..BRIDGE_HELD_FRAMES_MAX {
            assert_eq!(bench.feed(0, PICTURE), []);
        }
        assert_eq!(bench.feed(0, PICTURE).len(), BRIDGE_HELD_FRAMES_MAX);
        assert!(bench.converter.is_complete());
    }

    #[test]
    fn seeds_differ() {
        let lanes = |seed| ToRtp::new(seed).lanes.map(|lane| lane.numbering);
        assert_eq!(lanes(1), lanes(1));
        assert_ne!(lanes(1), lanes(2));
        assert_ne!(lanes(1)[0].ssrc, lanes(1)[1].ssrc);
    }
}
