//! An elementary stream, in ZLMediaKit's codec numbers and names.

use serde::Serialize;

use crate::stream::Tracks;
use crate::stream::tracks::Track;

/// An elementary stream.
#[derive(Serialize)]
pub(super) struct TrackRow {
    codec_id: i32,
    codec_id_name: &'static str,
    codec_type: i32,
    ready: bool,
    frames: u64,
    duration: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f64>,
    #[serde(skip)]
    loss_percent: Option<f64>,
    #[serde(flatten)]
    kind: TrackKindRow,
}

#[derive(Serialize)]
#[serde(untagged)]
enum TrackKindRow {
    Video {
        fps: f64,
        gop_interval_ms: u32,
        gop_size: u32,
        height: u32,
        key_frames: u64,
        width: u32,
    },
    Audio {
        channels: u32,
        sample_bit: u32,
        sample_rate: u32,
    },
}

impl TrackRow {
    /// With its loss in percent, -1 where it is not known.
    pub(super) fn show_loss(&mut self) {
        self.loss = Some(self.loss_percent.unwrap_or(-1.0));
    }
}

/// The rows of a stream's tracks, video first.
pub(super) fn rows(tracks: &Tracks) -> Vec<TrackRow> {
    let video = tracks.video.as_ref().map(|track| {
        let fps = track.video.and_then(|video| video.fps).unwrap_or(track.fps_measured);
        let kind = TrackKindRow::Video {
            // What an encoder claims may be no number at all, which JSON cannot say.
            fps: if fps.is_finite() { fps.round() } else { 0.0 },
            gop_interval_ms: track.gop_interval_ms,
            gop_size: track.gop_frames,
            height: track.video.map_or(0, |video| video.height),
            key_frames: track.keyframes,
            width: track.video.map_or(0, |video| video.width),
        };
        row(track, kind)
    });
    let audio = tracks.audio.as_ref().map(|track| {
        let kind = TrackKindRow::Audio {
            channels: track.audio.map_or(0, |audio| audio.channels.into()),
            sample_bit: track.audio.map_or(0, |audio| audio.sample_bits.into()),
            sample_rate: track.audio.map_or(0, |audio| audio.sample_rate),
        };
        row(track, kind)
    });
    video.into_iter().chain(audio).collect()
}

fn row(track: &Track, kind: TrackKindRow) -> TrackRow {
    TrackRow {
        codec_id: track.codec.id(),
        codec_id_name: track.codec.name(),
        codec_type: track.codec.type_number(),
        ready: track.ready,
        frames: track.frames,
        duration: track.duration_ms,
        loss: None,
        loss_percent: track.loss_percent,
        kind,
    }
}
