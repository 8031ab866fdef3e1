//! Which tags the floor sends together: each by itself, those of some time, or audio with the next
//! video frame as a server's flush does.

use std::ops::Range;

use super::clip::Clip;

/// Which tags go out together, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// Each tag by itself, when it is due.
    Tag,
    /// All that became due within so many ms, at their end.
    Window(u32),
    /// Video when it is due, with the audio that waited for it; audio waits so many ms at most.
    AudioOnVideo(u32),
}

impl Flush {
    pub(super) fn name(self) -> String {
        match self {
            Self::Tag => "each tag by itself".to_owned(),
            Self::Window(ms) => format!("tags of {ms} ms together"),
            Self::AudioOnVideo(ms) => format!("audio with the next video, {ms} ms at most"),
        }
    }

    /// The flush that begins with the tag at `index`: when, in ms from the beginning, and of which
    /// tags.
    pub(super) fn next(self, clip: &Clip, index: u64) -> (u64, Range<u64>) {
        let (first, first_ms) = clip.tag(index);
        match self {
            Self::Window(window_ms) => {
                let at_ms = (first_ms / u64::from(window_ms) + 1) * u64::from(window_ms);
                let end = (index..).find(|next| clip.tag(*next).1 >= at_ms);
                (at_ms, index..end.expect("clips go on"))
            }
            Self::AudioOnVideo(wait_ms) if !first.is_frame => {
                let until_ms = first_ms + u64::from(wait_ms);
                let ends = |next: &u64| clip.tag(*next).0.is_frame || clip.tag(*next).1 > until_ms;
                let end = (index + 1..).find(ends).expect("clips go on");
                match clip.tag(end) {
                    (_, at_ms) if at_ms > until_ms => (until_ms, index..end),
                    (_, at_ms) => (at_ms, index..end + 1),
                }
            }
            Self::Tag | Self::AudioOnVideo(_) => (first_ms, index..index + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::TagKind;

    /// All flushes of ten seconds: when, and the times of their tags.
    fn flushes(flush: Flush, clip: &Clip) -> Vec<(u64, Vec<(TagKind, u64)>)> {
        let mut next = 0;
        let mut flushes = Vec::new();
        while clip.tag(next).1 < 10_000 {
            let (at_ms, tags) = flush.next(clip, next);
            assert_eq!(tags.start, next, "no tag is left out");
            assert!(tags.end > next, "each flush has a tag");
            next = tags.end;
            let of = |index| (clip.tag(index).0.kind, clip.tag(index).1);
            flushes.push((at_ms, tags.map(of).collect()));
        }
        flushes
    }

    #[test]
    fn flushes_take_what_their_policy_says() {
        let clip = Clip::load(None).expect("it is ours");
        let each = flushes(Flush::Tag, &clip);
        assert!(each.iter().all(|(at_ms, tags)| tags.len() == 1 && tags[0].1 == *at_ms));
        let windows = flushes(Flush::Window(100), &clip);
        assert_eq!(windows.len(), 100);
        for (at_ms, tags) in &windows {
            assert!(tags.iter().all(|(_, tag_ms)| (at_ms - 100..*at_ms).contains(tag_ms)));
        }
        let riding = flushes(Flush::AudioOnVideo(40), &clip);
        assert_eq!(riding.len(), 250);
        for (at_ms, tags) in &riding {
            assert_eq!(*tags.last().expect("a tag"), (TagKind::Video, *at_ms));
        }
        for (at_ms, tags) in flushes(Flush::AudioOnVideo(10), &clip) {
            assert!(tags.iter().all(|(_, tag_ms)| (*tag_ms..=tag_ms + 10).contains(&at_ms)));
            let frames = tags.iter().filter(|(kind, _)| *kind == TagKind::Video).count();
            assert!(frames <= 1 && (frames == 0 || tags[tags.len() - 1].0 == TagKind::Video));
        }
    }
}
