//! Whether a player got what the publisher sent.
//!
//! The same coded frames in the same order with the same timestamps, but for one offset that holds
//! for all tracks together (or audio and video would drift apart); a contiguous part of what was
//! sent, from a video keyframe on, with the codec configuration before it.

use super::flv::{Kind, Role, Tag};

/// How many frames must have come, so that an empty recording proves nothing.
#[derive(Debug, Clone, Copy)]
pub struct AtLeast {
    pub video: usize,
    pub audio: usize,
}

/// The whole of `got` is a contiguous part of `sent`, as the module says. Returns the offset in ms.
#[track_caller]
pub fn assert_same_media(what: &str, sent: &[Tag], got: &[Tag], at_least: AtLeast) -> i64 {
    assert_configured(what, sent, got);
    let (sent_video, got_video) = (coded(sent, Kind::Video), coded(got, Kind::Video));
    let (sent_audio, got_audio) = (coded(sent, Kind::Audio), coded(got, Kind::Audio));
    assert!(
        got_video.len() >= at_least.video && got_audio.len() >= at_least.audio,
        "{what}: got {} video and {} audio frames, want {at_least:?}; {} and {} were sent",
        got_video.len(),
        got_audio.len(),
        sent_video.len(),
        sent_audio.len(),
    );
    let lead =
        if got_video.is_empty() { (&sent_audio, &got_audio) } else { (&sent_video, &got_video) };
    let first = lead.1.first().unwrap_or_else(|| panic!("{what}: no coded frame at all"));
    if let Some(video) = got_video.first() {
        assert!(video.is_video_keyframe(), "{what}: the first picture is not a keyframe");
    }
    // A looped file repeats its frames: each place with the same bytes is tried.
    let mut offsets: Vec<i64> = lead
        .0
        .iter()
        .filter(|tag| tag.payload == first.payload)
        .map(|tag| i64::from(first.timestamp_ms) - i64::from(tag.timestamp_ms))
        .collect();
    offsets.sort_by_key(|offset| offset.abs());
    let mut problems = Vec::new();
    for offset in &offsets {
        let problem = mismatch("video", &sent_video, &got_video, *offset)
            .or_else(|| mismatch("audio", &sent_audio, &got_audio, *offset));
        match problem {
            None => return *offset,
            Some(problem) => problems.push(format!("at offset {offset}: {problem}")),
        }
    }
    problems.truncate(3);
    panic!("{what}: not what was sent; {} possible starts; {problems:#?}", offsets.len());
}

/// Timestamps of each track never step back, and one track is not far from the other.
#[track_caller]
pub fn assert_never_steps_back(what: &str, got: &[Tag]) {
    for kind in [Kind::Audio, Kind::Video] {
        let frames = coded(got, kind);
        for pair in frames.windows(2) {
            assert!(
                pair[1].timestamp_ms >= pair[0].timestamp_ms,
                "{what}: {kind:?} steps back from {} to {} ms",
                pair[0].timestamp_ms,
                pair[1].timestamp_ms,
            );
        }
    }
}

/// The coded frames of one track.
pub fn coded(tags: &[Tag], kind: Kind) -> Vec<&Tag> {
    tags.iter().filter(|tag| tag.kind == kind && tag.is_coded()).collect()
}

/// Every coded frame was sent, none comes twice or out of order, and after each gap in the video the
/// next picture is a keyframe. Returns how many gaps there are. For players that were moved forward.
#[track_caller]
pub fn assert_gaps_end_at_keyframes(what: &str, sent: &[Tag], got: &[Tag]) -> usize {
    let sent = coded(sent, Kind::Video);
    let mut gaps = 0;
    let mut next = None;
    for frame in coded(got, Kind::Video) {
        let from = next.unwrap_or(0);
        let found = sent[from..]
            .iter()
            .position(|tag| tag.timestamp_ms == frame.timestamp_ms && tag.payload == frame.payload);
        let skipped = found.unwrap_or_else(|| {
            panic!(
                "{what}: picture at {} ms was not sent, or not in this order",
                frame.timestamp_ms
            )
        });
        if next.is_some() && skipped > 0 {
            assert!(frame.is_video_keyframe(), "{what}: a gap ends at {} ms", frame.timestamp_ms);
            gaps += 1;
        }
        next = Some(from + skipped + 1);
    }
    gaps
}

/// Before the first frame of a track there is a configuration, if any was sent, and one of those
/// sent (FLAC's changes at the end of a file).
#[track_caller]
fn assert_configured(what: &str, sent: &[Tag], got: &[Tag]) {
    for kind in [Kind::Audio, Kind::Video] {
        let is_config = |tag: &&Tag| tag.kind == kind && tag.role() == Role::Config;
        let Some(first_frame) = got.iter().position(|tag| tag.kind == kind && tag.is_coded())
        else {
            continue;
        };
        let Some(first_sent) = sent.iter().find(is_config) else { continue };
        let config = got[..first_frame].iter().rfind(is_config);
        let config =
            config.unwrap_or_else(|| panic!("{what}: {kind:?} frames without configuration"));
        assert!(
            sent.iter().filter(is_config).any(|tag| tag.payload == config.payload),
            "{what}: {kind:?} configuration {:02x?}, sent {:02x?}",
            config.payload,
            first_sent.payload,
        );
    }
}

/// Why `got` is not a contiguous part of `sent` moved by `offset`.
fn mismatch(track: &str, sent: &[&Tag], got: &[&Tag], offset: i64) -> Option<String> {
    let first = got.first()?;
    let moved = |tag: &Tag| i64::from(tag.timestamp_ms) + offset;
    let Some(start) = sent.iter().position(|tag| {
        moved(tag) == i64::from(first.timestamp_ms) && tag.payload == first.payload
    }) else {
        return Some(format!("{track}: its first frame, {} ms, was not sent", first.timestamp_ms));
    };
    for (index, frame) in got.iter().enumerate() {
        let Some(tag) = sent.get(start + index) else {
            return Some(format!("{track}: frame {index} is past the end of what was sent"));
        };
        if tag.payload != frame.payload || moved(tag) != i64::from(frame.timestamp_ms) {
            return Some(format!(
                "{track}: frame {index} of {}: sent {} ms and {} bytes, got {} ms and {} bytes, \
                 bytes equal: {}",
                got.len(),
                moved(tag),
                tag.payload.len(),
                frame.timestamp_ms,
                frame.payload.len(),
                tag.payload == frame.payload,
            ));
        }
    }
    None
}
