//! How long sound waits for video of the same source.

use crate::media::TagKind;

/// Video that a source has told of and not brought yet.
#[derive(Debug, Default)]
pub(super) struct VideoWait {
    /// Where the first sound lies of which none was followed by video.
    sound_from_ms: Option<i64>,
    is_over: bool,
}

/// Sound that a source may bring before it is taken to have no video.
pub(super) const SOUND_ALONE_MS_MAX: i64 = 3_000;

impl VideoWait {
    /// Of a source that is known to bring none: the next sound ends it.
    pub(super) fn over() -> Self {
        Self { sound_from_ms: None, is_over: true }
    }

    /// Takes a frame of the source; `true` when there was sound alone for too long.
    pub(super) fn is_over(&mut self, kind: TagKind, at_ms: i64) -> bool {
        match kind {
            TagKind::Video => *self = Self::default(),
            TagKind::Audio => {
                let from_ms = *self.sound_from_ms.get_or_insert(at_ms);
                return self.is_over || at_ms - from_ms > SOUND_ALONE_MS_MAX;
            }
            TagKind::Script => {}
        }
        false
    }
}
