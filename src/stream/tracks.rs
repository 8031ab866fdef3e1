//! What a stream carries, as far as its configurations and frames have told.

use super::log::{Entry, Log};
use crate::media::TagKind;
use crate::media::codec::{AudioParameters, Codec, VideoParameters};
use crate::media::timeline::distance;
use crate::proto::flv::classify::TagClass;

/// One elementary stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    pub codec: Codec,
    /// A configuration has come, or the codec needs none and a frame has come.
    pub ready: bool,
    pub frames: u64,
    pub keyframes: u64,
    pub duration_ms: u64,
    /// Frames and milliseconds between the last two keyframes.
    pub gop_frames: u32,
    pub gop_interval_ms: u32,
    pub video: Option<VideoParameters>,
    pub audio: Option<AudioParameters>,
    /// By the frames' timestamps over the last GOP; 0 until there was one.
    pub fps_measured: f64,
    /// Packets that did not come from the source, lately, in percent; `None` of a source of tags.
    pub loss_percent: Option<f64>,
    last_ms: Option<u32>,
    keyframe_ms: Option<u32>,
    frames_since_keyframe: u32,
}

/// The tracks of a stream: one of each kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tracks {
    pub video: Option<Track>,
    pub audio: Option<Track>,
}

impl Tracks {
    pub fn has_video(&self) -> bool {
        self.video.is_some()
    }

    /// There are those tracks as well, of which nothing has come.
    pub(super) fn expect(&mut self, tracks: &Self) {
        let to_come = |track: &Track| Track {
            ready: track.ready,
            video: track.video,
            audio: track.audio,
            ..Track::new(track.codec)
        };
        for (own, other) in [(&mut self.video, &tracks.video), (&mut self.audio, &tracks.audio)] {
            if own.is_none() {
                *own = other.as_ref().map(to_come);
            }
        }
    }

    /// The source that took over has none.
    pub(super) fn forget_video(&mut self) {
        self.video = None;
    }

    /// A track of this codec is to come. The first of a kind counts.
    pub(super) fn announce(&mut self, kind: TagKind, codec: Codec) {
        if let Some(slot) = self.slot(kind) {
            slot.get_or_insert_with(|| Track::new(codec));
        }
    }

    /// The codec's configuration record has become known.
    pub(super) fn configure(&mut self, kind: TagKind, record: &[u8]) {
        if let Some(track) = self.slot(kind).and_then(Option::as_mut) {
            track.configure(kind, record);
        }
    }

    pub(super) fn set_audio(&mut self, parameters: AudioParameters) {
        if let Some(track) = &mut self.audio {
            track.ready = true;
            track.audio = Some(parameters);
        }
    }

    /// A frame has come of a codec that needs no configuration, or tells none.
    pub(super) fn set_ready(&mut self, kind: TagKind) {
        if let Some(track) = self.slot(kind).and_then(Option::as_mut) {
            track.ready = true;
        }
    }

    pub(super) fn set_loss(&mut self, kind: TagKind, percent: f64) {
        if let Some(track) = self.slot(kind).and_then(Option::as_mut) {
            track.loss_percent = Some(percent);
        }
    }

    /// Counts a frame.
    pub(super) fn count(&mut self, entry: &Entry) {
        if let Some(track) = self.slot(entry.kind).and_then(Option::as_mut) {
            track.count(entry);
        }
    }

    /// The frame that was counted last is a keyframe.
    pub(super) fn count_keyframe(&mut self, entry: &Entry) {
        if let Some(track) = self.slot(entry.kind).and_then(Option::as_mut) {
            track.frames_since_keyframe = track.frames_since_keyframe.saturating_sub(1);
            track.begin_gop(entry.timestamp_ms);
            track.frames_since_keyframe = 1;
        }
    }

    fn slot(&mut self, kind: TagKind) -> Option<&mut Option<Track>> {
        match kind {
            TagKind::Video => Some(&mut self.video),
            TagKind::Audio => Some(&mut self.audio),
            TagKind::Script => None,
        }
    }

    /// Counts a committed tag, and reads it where it is a configuration.
    pub(super) fn note(&mut self, entry: &Entry, class: &TagClass, log: &Log) {
        let Some(slot) = self.slot(entry.kind) else { return };
        if slot.as_ref().is_none_or(|track| track.codec != class.codec) {
            *slot = Some(Track::new(class.codec));
        }
        let track = slot.as_mut().expect("just made");
        if entry.config {
            let payload = log.latest_config(entry.kind).map_or(&[][..], |payload| payload);
            track.configure(entry.kind, payload.get(class.header_len..).unwrap_or_default());
        } else {
            if !track.ready && entry.kind == TagKind::Audio {
                let head = log.slices(entry.payload()).next();
                let head = head.as_deref().and_then(|slice| slice.first()).copied();
                track.audio = head.and_then(AudioParameters::from_flv_header);
            }
            track.ready = true;
            track.count(entry);
        }
    }
}

impl Track {
    fn new(codec: Codec) -> Self {
        Self {
            codec,
            ready: false,
            frames: 0,
            keyframes: 0,
            duration_ms: 0,
            gop_frames: 0,
            gop_interval_ms: 0,
            video: None,
            audio: None,
            fps_measured: 0.0,
            loss_percent: None,
            last_ms: None,
            keyframe_ms: None,
            frames_since_keyframe: 0,
        }
    }

    fn configure(&mut self, kind: TagKind, record: &[u8]) {
        self.ready = true;
        match kind {
            TagKind::Video => {
                self.video = VideoParameters::from_config(self.codec, record);
            }
            _ => {
                self.audio = AudioParameters::from_config(self.codec, record);
            }
        }
    }

    fn count(&mut self, entry: &Entry) {
        if let Some(last) = self.last_ms {
            // Presentation times, as packets have them, go back at times.
            let step = u32::try_from(distance(last, entry.timestamp_ms)).unwrap_or(0);
            self.duration_ms += u64::from(step);
            self.last_ms = Some(last.wrapping_add(step));
        } else {
            self.last_ms = Some(entry.timestamp_ms);
        }
        if entry.keyframe {
            self.begin_gop(entry.timestamp_ms);
        }
        self.frames += 1;
        self.frames_since_keyframe += 1;
    }

    fn begin_gop(&mut self, timestamp_ms: u32) {
        if let Some(keyframe_ms) = self.keyframe_ms {
            let interval = distance(keyframe_ms, timestamp_ms);
            self.gop_interval_ms = u32::try_from(interval).unwrap_or(0);
            self.gop_frames = self.frames_since_keyframe;
            if self.gop_interval_ms > 0 {
                let per_second = f64::from(self.gop_frames) * 1000.0;
                self.fps_measured = per_second / f64::from(self.gop_interval_ms);
            }
        }
        self.keyframe_ms = Some(timestamp_ms);
        self.keyframes += 1;
        self.frames_since_keyframe = 0;
    }
}
