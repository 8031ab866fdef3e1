//! Source timestamps to a stream's own: continuous over a change of source, never a step back.
//!
//! RTMP and FLV timestamps are 32-bit milliseconds that wrap after 49.7 days (RTMP 1.0, 4).
//! While one source feeds the stream the offset is constant, so that what comes out is what went
//! in, bit for bit. A new source is joined on right after the last tag of the old one.

use crate::media::TagKind;

/// Maps the timestamps of whatever source there is to those of the stream.
#[derive(Debug, Default)]
pub struct Timeline {
    offset: u32,
    audio: Option<u32>,
    video: Option<u32>,
    /// When the last of the video so far is shown.
    shown: Option<u32>,
    /// Distance of the last two video tags, else audio tags: the step to a new source's first tag.
    step_ms: u32,
    joining: bool,
    /// Tags of a joined source at or before this would step back.
    floor: Option<u32>,
}

/// Backward or forward steps within one source beyond these are not jitter or a pause but a new
/// timeline (an encoder that restarted its clock).
const STEP_BACK_MS_MAX: i64 = 3_000;
const STEP_AHEAD_MS_MAX: i64 = 3_600_000;
const STEP_MS_DEFAULT: u32 = 40;
/// Behind the join by more, nothing of the former source is in the way; and what came before that says
/// nothing of now. Wrapping timestamps compare over 24 days at most.
const MEMORY_MS: i64 = 60_000;
/// No encoder reorders pictures over more; what says so says nothing.
const COMPOSITION_MS_MAX: u32 = 5_000;

impl Timeline {
    /// The first tag comes behind something else that ended there.
    pub fn behind(timestamp_ms: u32) -> Self {
        Self { video: Some(timestamp_ms), joining: true, ..Self::default() }
    }

    /// The next tag comes from another source.
    pub fn join(&mut self) {
        if self.last().is_some() {
            self.joining = true;
        }
    }

    /// The stream's timestamp of a tag, or `None` where the tag must be dropped because it would
    /// step back behind what players of the former source already have. `composition_ms` is what lies
    /// between a picture's decoding, which is its timestamp, and its being shown.
    pub fn map(&mut self, kind: TagKind, timestamp_ms: u32, composition_ms: i32) -> Option<u32> {
        let is_believed = composition_ms.unsigned_abs() <= COMPOSITION_MS_MAX;
        let composition_ms = if is_believed { composition_ms } else { 0 };
        if self.joining {
            self.joining = false;
            self.go_on(timestamp_ms, composition_ms);
        }
        let mut mapped = timestamp_ms.wrapping_add(self.offset);
        let previous = match kind {
            TagKind::Audio => self.audio,
            TagKind::Video => self.video,
            TagKind::Script => None,
        };
        // A clock may restart before a track's first tag, too.
        if let Some(previous) = previous.or_else(|| self.last()) {
            let step = distance(previous, mapped);
            if !(-STEP_BACK_MS_MAX..=STEP_AHEAD_MS_MAX).contains(&step) {
                self.go_on(timestamp_ms, composition_ms);
                mapped = timestamp_ms.wrapping_add(self.offset);
            }
        }
        if self.floor.is_some_and(|floor| distance(floor, mapped) <= 0) {
            return None;
        }
        for past in [&mut self.floor, &mut self.shown, &mut self.audio, &mut self.video] {
            past.take_if(|past| distance(*past, mapped) > MEMORY_MS);
        }
        match kind {
            TagKind::Video => {
                self.note_step(self.video, mapped);
                self.video = Some(mapped);
                let shown = mapped.wrapping_add_signed(composition_ms);
                self.shown = Some(self.shown.map_or(shown, |before| later(before, shown)));
            }
            TagKind::Audio => {
                if self.video.is_none() {
                    self.note_step(self.audio, mapped);
                }
                self.audio = Some(mapped);
            }
            TagKind::Script => {}
        }
        Some(mapped)
    }

    /// The newest timestamp of the stream.
    pub fn last(&self) -> Option<u32> {
        match (self.audio, self.video) {
            (Some(audio), Some(video)) => Some(later(audio, video)),
            (audio, video) => audio.or(video),
        }
    }

    /// Has a tag be the first one after what there is: decoded after it, and shown after it.
    fn go_on(&mut self, timestamp_ms: u32, composition_ms: i32) {
        let last = self.last().expect("only after a tag");
        let mut next = last.wrapping_add(self.step());
        if let Some(shown) = self.shown {
            let in_turn = shown.wrapping_add(self.step()).wrapping_add_signed(-composition_ms);
            next = later(next, in_turn);
        }
        self.floor = Some(last);
        self.offset = next.wrapping_sub(timestamp_ms);
    }

    fn step(&self) -> u32 {
        if self.step_ms == 0 { STEP_MS_DEFAULT } else { self.step_ms }
    }

    fn note_step(&mut self, previous: Option<u32>, next: u32) {
        let step = previous.map_or(0, |previous| distance(previous, next));
        if let Ok(step) = u32::try_from(step)
            && (1..=1000).contains(&step)
        {
            self.step_ms = step;
        }
    }
}

fn later(one: u32, other: u32) -> u32 {
    if distance(one, other) > 0 { other } else { one }
}

/// From one wrapping timestamp to another: positive where `to` is later.
pub fn distance(from: u32, to: u32) -> i64 {
    i64::from(to.wrapping_sub(from).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_passes_unchanged() {
        let mut timeline = Timeline::default();
        for (kind, stamp) in
            [(TagKind::Video, 0), (TagKind::Audio, 5), (TagKind::Video, 40), (TagKind::Audio, 28)]
        {
            assert_eq!(timeline.map(kind, stamp, 0), Some(stamp));
        }
    }

    #[test]
    fn wrap_around_is_not_a_new_timeline() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.map(TagKind::Video, u32::MAX - 10, 0), Some(u32::MAX - 10));
        assert_eq!(timeline.map(TagKind::Video, 29, 0), Some(29));
    }

    #[test]
    fn a_new_source_goes_on_one_step_later() {
        let mut timeline = Timeline::default();
        timeline.map(TagKind::Video, 1000, 0);
        timeline.map(TagKind::Video, 1040, 0);
        timeline.map(TagKind::Audio, 1050, 0);
        timeline.join();
        assert_eq!(timeline.map(TagKind::Video, 7, 0), Some(1090));
        assert_eq!(timeline.map(TagKind::Audio, 0, 0), Some(1083));
        assert_eq!(timeline.map(TagKind::Video, 47, 0), Some(1130));
    }

    #[test]
    fn a_new_source_is_shown_after_the_old_one() {
        let mut timeline = Timeline::default();
        timeline.map(TagKind::Video, 1000, 80);
        timeline.map(TagKind::Video, 1040, 160);
        timeline.map(TagKind::Video, 1080, 0);
        timeline.join();
        assert_eq!(timeline.map(TagKind::Video, 7, 20), Some(1220));
        timeline.map(TagKind::Video, 47, 20);
        assert_eq!(timeline.map(TagKind::Video, 87, -8_000_000), Some(1300), "nobody's picture");
        timeline.join();
        assert_eq!(timeline.map(TagKind::Video, 7, 200), Some(1340), "the old one is over then");
    }

    #[test]
    fn a_joined_source_goes_on_for_as_long_as_it_likes() {
        let day_ms = 24 * 3_600_000;
        let mut timeline = Timeline::default();
        timeline.map(TagKind::Video, 0, 0);
        timeline.map(TagKind::Audio, 10, 0);
        for _ in 0..2 {
            timeline.join();
            let first = timeline.map(TagKind::Audio, 0, 0).expect("it goes on");
            let mut before = first;
            for at in (1..60 * day_ms / 600_000).map(|step: u64| step * 600_000) {
                let mapped = timeline.map(TagKind::Audio, at as u32, 0).expect("it goes on");
                assert_eq!(mapped.wrapping_sub(before), 600_000);
                before = mapped;
            }
            assert_eq!(timeline.last(), Some(before), "the video of long ago is forgotten");
        }
    }

    #[test]
    fn a_joined_source_never_steps_back() {
        let mut timeline = Timeline::default();
        timeline.map(TagKind::Audio, 5000, 0);
        timeline.map(TagKind::Video, 4960, 0);
        timeline.join();
        assert_eq!(timeline.map(TagKind::Video, 100, 0), Some(5040));
        assert_eq!(timeline.map(TagKind::Audio, 50, 0), None);
        assert_eq!(timeline.map(TagKind::Audio, 61, 0), Some(5001));
    }

    #[test]
    fn a_clock_that_restarts_before_a_tracks_first_tag_is_joined_on() {
        let mut timeline = Timeline::default();
        timeline.map(TagKind::Video, 100_000, 0);
        timeline.map(TagKind::Video, 100_040, 0);
        assert_eq!(timeline.map(TagKind::Audio, 10, 0), Some(100_080));
        assert_eq!(timeline.map(TagKind::Video, 0, 0), Some(100_070));
        assert_eq!(timeline.map(TagKind::Video, 40, 0), Some(100_110));
    }

    #[test]
    fn an_encoder_that_restarts_its_clock_is_joined_on() {
        let mut timeline = Timeline::default();
        timeline.map(TagKind::Video, 100_000, 0);
        timeline.map(TagKind::Video, 100_040, 0);
        assert_eq!(timeline.map(TagKind::Video, 0, 0), Some(100_080));
        assert_eq!(timeline.map(TagKind::Video, 40, 0), Some(100_120));
    }
}
