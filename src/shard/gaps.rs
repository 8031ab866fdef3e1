//! When the source of a stream was silent, and for how long.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::bus::view::{GapView, GapsView};
use crate::limits::{SOURCE_GAP_MS_MIN, SOURCE_GAPS_KEPT};

/// The gaps of one stream over all of its sources, those between two sources included.
#[derive(Default)]
pub(super) struct Gaps {
    last_media: Option<Instant>,
    /// The newest is the last.
    recent: VecDeque<Gap>,
    count: u64,
}

struct Gap {
    end: Instant,
    length: Duration,
}

impl Gaps {
    /// Media has come.
    pub(super) fn media_came(&mut self, now: Instant) {
        let Some(last) = self.last_media.replace(now) else { return };
        let length = now.duration_since(last);
        if length < Duration::from_millis(SOURCE_GAP_MS_MIN) {
            return;
        }
        self.count += 1;
        if self.recent.len() == SOURCE_GAPS_KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(Gap { end: now, length });
    }

    pub(super) fn view(&self, now: Instant) -> GapsView {
        let view = |gap: &Gap| GapView {
            ago_ms: now.duration_since(gap.end).as_millis() as u64,
            length_ms: gap.length.as_millis() as u64,
        };
        GapsView { count: self.count, recent: self.recent.iter().rev().map(view).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn newest_gaps_are_kept_and_all_are_counted() {
        let start = clock::now();
        let mut gaps = Gaps::default();
        let mut now = start + Duration::from_secs(9);
        gaps.media_came(now);
        for number in 1..=SOURCE_GAPS_KEPT as u64 + 3 {
            now += Duration::from_millis(SOURCE_GAP_MS_MIN + number);
            gaps.media_came(now);
            now += Duration::from_millis(SOURCE_GAP_MS_MIN - 1);
            gaps.media_came(now);
        }
        let view = gaps.view(now);
        assert_eq!(
            (view.count, view.recent.len()),
            (SOURCE_GAPS_KEPT as u64 + 3, SOURCE_GAPS_KEPT)
        );
        let newest = SOURCE_GAP_MS_MIN + SOURCE_GAPS_KEPT as u64 + 3;
        let first = GapView { ago_ms: SOURCE_GAP_MS_MIN - 1, length_ms: newest };
        assert_eq!(view.recent[0], first);
        assert_eq!(view.recent.last().map(|gap| gap.length_ms), Some(SOURCE_GAP_MS_MIN + 4));
    }
}
