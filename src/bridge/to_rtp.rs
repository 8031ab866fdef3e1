//! FLV tags into RTP packets.
//!
//! Which tracks there are must be known before the first packet: it is what a session description
//! tells. FLV tells it bit by bit, so frames wait until each kind of media that was announced or has
//! come has its configuration, or one kind has come for [`BRIDGE_WAIT_MS`] without the other. What
//! comes later than that is left out.

use crate::limits::{BRIDGE_HELD_FRAMES_MAX, BRIDGE_HELD_LEN_MAX, BRIDGE_WAIT_MS};
use crate::media::timeline::distance;
use crate::media::{Codec, Payload, TagKind};
use crate::proto::rtp::rtcp::NtpTime;
use crate::proto::rtp::{Format, Packet, PacketizerConfig};
use crate::proto::rtsp::SessionDescription;

use super::metadata::Announced;
use super::out_track::{OutTrack, TimedFrame};
use super::tag::{CodedTag, Content, is_carried};

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
    cname: String,
}

/// A packet, and what those who keep and send it need to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutPacket {
    /// By its number in the description.
    pub track: usize,
    pub kind: TagKind,
    /// Decoding time of the frame, as its tag told it.
    pub time_ms: u32,
    /// The first packet of a video keyframe; the parameter sets begin there.
    pub keyframe: bool,
    pub packet: Packet,
}

/// One kind of media.
#[derive(Debug)]
struct Lane {
    state: LaneState,
    numbering: PacketizerConfig,
    first_frame_ms: Option<i64>,
}

#[derive(Debug)]
enum LaneState {
    Unseen,
    /// Frames have come that can't be used without a configuration.
    Unconfigured,
    Track(Box<OutTrack>),
    /// We make no packets of its codec, or it came too late.
    LeftOut,
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
            cname: format!("{:016x}@rillcast", random.u64(..)),
        }
    }

    /// Takes the next tag, `payload` being what follows its header. Packets come in the order of
    /// the tags; the first ones when the tracks are known.
    pub fn handle_tag(
        &mut self,
        kind: TagKind,
        timestamp_ms: u32,
        payload: Payload,
        sink: &mut impl FnMut(OutPacket),
    ) {
        if kind == TagKind::Script {
            if let Some(announced) = Announced::read(&payload) {
                self.announced = Some(announced);
            }
            return;
        }
        let Some(tag) = CodedTag::read(kind, &payload) else { return };
        let lane = usize::from(kind == TagKind::Audio);
        let decoding_ms = self.unwrap_time(timestamp_ms);
        if tag.content == Content::Config {
            self.lanes[lane].set_config(tag.codec, &tag.body, self.is_complete);
        } else {
            self.lanes[lane].note_frame(&tag, decoding_ms, self.is_complete);
            let CodedTag { codec, keyframe, composition_ms, body: payload, .. } = tag;
            let frame = TimedFrame { codec, keyframe, decoding_ms, composition_ms, payload };
            self.take_frame(lane, frame, sink);
        }
        self.check_complete(sink);
    }

    /// The tracks as far as they are known, video first; `None` where there is none. It grows until
    /// [`Self::is_complete`]; from then on only configurations in it may change.
    pub fn description(&self) -> Option<SessionDescription> {
        let tracks = self.lanes.iter().filter_map(Lane::track);
        let media: Vec<_> =
            tracks.enumerate().map(|(number, track)| track.description(number)).collect();
        (!media.is_empty()).then(|| SessionDescription { media, ..SessionDescription::default() })
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
        let track = self.lanes.iter().filter_map(Lane::track).nth(track)?;
        track.sender_report(place, ntp, &self.cname)
    }

    fn unwrapped(&self, time_ms: u32) -> i64 {
        let from = |newest: i64| newest.wrapping_add(distance(newest as u32, time_ms));
        self.newest_ms.map_or(i64::from(time_ms), from)
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
        }
    }

    fn packetize(&mut self, lane: usize, frame: TimedFrame, sink: &mut impl FnMut(OutPacket)) {
        let is_second = lane == AUDIO && self.lanes[VIDEO].track().is_some();
        let LaneState::Track(track) = &mut self.lanes[lane].state else { return };
        let (time_ms, mut keyframe) = (frame.decoding_ms as u32, frame.keyframe);
        track.packetize(frame, |packet| {
            let keyframe = std::mem::take(&mut keyframe);
            let kind = if lane == VIDEO { TagKind::Video } else { TagKind::Audio };
            let track = usize::from(is_second);
            sink(OutPacket { track, kind, time_ms, keyframe, packet });
        });
    }

    fn check_complete(&mut self, sink: &mut impl FnMut(OutPacket)) {
        if self.is_complete || !self.knows_tracks() {
            return;
        }
        self.is_complete = true;
        for lane in &mut self.lanes {
            if lane.track().is_none() {
                lane.state = LaneState::LeftOut;
            }
        }
        self.held_len = 0;
        for (lane, frame) in std::mem::take(&mut self.held) {
            self.packetize(lane, frame, sink);
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
        Self { state: LaneState::Unseen, numbering, first_frame_ms: None }
    }

    fn set_config(&mut self, codec: Codec, record: &Payload, is_complete: bool) {
        // A record that is longer is none.
        if record.len() > RECORD_LEN_MAX {
            return;
        }
        let record = record.to_vec();
        match &mut self.state {
            LaneState::Track(track) if track.codec() == codec => track.set_config(&record),
            _ if is_complete => {}
            _ => self.begin(Format::of_codec(codec, &record), &record),
        }
    }

    fn begin(&mut self, format: Option<Format>, record: &[u8]) {
        let track = format.and_then(|format| OutTrack::new(format, record, self.numbering));
        self.state = track.map_or(LaneState::LeftOut, |track| LaneState::Track(track.into()));
    }

    /// Codecs without a configuration begin with their first frame.
    fn note_frame(&mut self, tag: &CodedTag, decoding_ms: i64, is_complete: bool) {
        if is_complete {
            return;
        }
        self.first_frame_ms.get_or_insert(decoding_ms);
        let is_new = matches!(self.state, LaneState::Unseen | LaneState::Unconfigured);
        if !is_new {
            return;
        }
        match tag.codec {
            Codec::PcmA | Codec::PcmU => self.begin(g711(tag.codec, tag.is_stereo), b""),
            // Under a number of its own it comes without a head (ZLMediaKit).
            Codec::Opus => self.begin(Format::of_codec(Codec::Opus, STEREO_OPUS_HEAD), b""),
            codec if is_carried(codec) => self.state = LaneState::Unconfigured,
            _ => self.state = LaneState::LeftOut,
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
            LaneState::Track(_) | LaneState::LeftOut => true,
        }
    }

    fn is_unseen(&self) -> bool {
        matches!(self.state, LaneState::Unseen)
    }

    fn is_unconfigured(&self) -> bool {
        matches!(self.state, LaneState::Unconfigured)
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
