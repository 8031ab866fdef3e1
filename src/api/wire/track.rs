//! An elementary stream, in ZLMediaKit's codec numbers and names.

use serde::Serialize;

use crate::media::Codec;
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
    pub(super) loss: Option<f64>,
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

/// The rows of a stream's tracks, video first.
pub(super) fn rows(tracks: &Tracks) -> Vec<TrackRow> {
    let video = tracks.video.as_ref().map(|track| {
        let fps = track.video.fps.unwrap_or(track.fps_measured);
        let kind = TrackKindRow::Video {
            // What an encoder claims may be no number at all, which JSON cannot say.
            fps: if fps.is_finite() { fps.round() } else { 0.0 },
            gop_interval_ms: track.gop_interval_ms,
            gop_size: track.gop_frames,
            height: track.video.height,
            key_frames: track.keyframes,
            width: track.video.width,
        };
        row(track, 0, kind)
    });
    let audio = tracks.audio.as_ref().map(|track| {
        let kind = TrackKindRow::Audio {
            channels: track.audio.channels,
            sample_bit: track.audio.sample_bits,
            sample_rate: track.audio.sample_rate,
        };
        row(track, 1, kind)
    });
    video.into_iter().chain(audio).collect()
}

fn row(track: &Track, codec_type: i32, kind: TrackKindRow) -> TrackRow {
    let (codec_id, codec_id_name) = codec_identity(track.codec);
    TrackRow {
        codec_id,
        codec_id_name,
        codec_type,
        ready: track.ready,
        frames: track.frames,
        duration: track.duration_ms,
        loss: None,
        kind,
    }
}

fn codec_identity(codec: Codec) -> (i32, &'static str) {
    match codec {
        Codec::H264 => (0, "H264"),
        Codec::H265 => (1, "H265"),
        Codec::Aac => (2, "mpeg4-generic"),
        Codec::PcmA => (3, "PCMA"),
        Codec::PcmU => (4, "PCMU"),
        Codec::Opus => (5, "opus"),
        Codec::Vp8 => (7, "VP8"),
        Codec::Vp9 => (8, "VP9"),
        Codec::Av1 => (9, "AV1"),
        Codec::Mp3 => (14, "MP3"),
        _ => (-1, "invalid"),
    }
}
