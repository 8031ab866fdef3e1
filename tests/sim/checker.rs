//! What one player may get: what its source sent, whole and in order, from a configuration and a
//! keyframe on, with timestamps that never step back, and with nothing left out silently.

use std::time::Instant;

use rillcast::media::{Form, TagKind};
use rillcast::stream::Packaging;

use super::media::{Class, Source, SourceTag, TagName, name_of};
use super::packets::made_config;
use super::parse::{Parser, Tag};

/// Where a source has taken over: audio that its first frame overtakes is dropped, and so is what began
/// between the chunks of that one, which was held back until it was known to be a keyframe.
#[derive(Clone, Copy)]
struct Splice {
    source: u32,
    timestamp_ms: u32,
    whole_at: Option<Instant>,
}

/// Follows one player's stream.
pub(crate) struct Checker {
    parser: Parser,
    key: usize,
    /// Protocol replies that go before the stream.
    unsent: usize,
    last_frame: Option<TagName>,
    /// Sources before that of the last frame: none of them comes again.
    former: Vec<u32>,
    /// The first frame after a change of source.
    spliced_at: Option<Splice>,
    /// The source and what is added to its timestamps.
    offset: Option<(u32, u32)>,
    stamps: [Option<u32>; 2],
    configs: [Option<TagName>; 2],
    /// Timestamps of configurations before the first frame.
    opening: Vec<u32>,
    saw_video: bool,
    /// Runs of frames that are missing within a source.
    pub(crate) gaps: u64,
    pub(crate) frames: u64,
}

impl Checker {
    pub(crate) fn new(packaging: Packaging, key: usize, unsent: usize) -> Self {
        Self {
            parser: Parser::new(packaging),
            key,
            unsent,
            last_frame: None,
            former: Vec::new(),
            spliced_at: None,
            offset: None,
            stamps: [None; 2],
            configs: [None; 2],
            opening: Vec::new(),
            saw_video: false,
            gaps: 0,
            frames: 0,
        }
    }

    pub(crate) fn handle_input(&mut self, mut bytes: &[u8], sources: &[Source]) {
        let skipped = self.unsent.min(bytes.len());
        self.unsent -= skipped;
        bytes = &bytes[skipped..];
        let mut tags = Vec::new();
        self.parser.handle_input(bytes, &mut tags);
        for tag in tags {
            self.handle_tag(&tag, sources);
        }
    }

    pub(crate) fn is_between_tags(&self) -> bool {
        self.unsent == 0 && self.parser.is_between_tags()
    }

    pub(crate) fn replies(&self) -> u64 {
        self.parser.replies
    }

    fn handle_tag(&mut self, tag: &Tag, sources: &[Source]) {
        if let Some(sets) = made_config(tag.kind, &tag.payload) {
            if tag.kind != TagKind::Script {
                self.configs[track(tag.kind)] = Some(made(sets));
            }
            return;
        }
        let name = name_of(tag.kind, &tag.payload);
        let source = sources.get(name.source as usize).expect("a tag of no source");
        assert_eq!(source.key, self.key, "a tag of another stream");
        let sent = source.tag(name.index);
        assert_eq!(sent.kind, tag.kind);
        assert!(tag.payload == source.payload(name.index), "{name:?} came in damaged");
        match sent.class {
            Class::Metadata => {}
            Class::Config => {
                self.configs[track(tag.kind)] = Some(name);
                if self.last_frame.is_none() {
                    self.opening.push(tag.timestamp_ms);
                }
            }
            Class::Keyframe | Class::Frame => self.handle_frame(tag, name, sources),
        }
    }

    fn handle_frame(&mut self, tag: &Tag, name: TagName, sources: &[Source]) {
        let source = &sources[name.source as usize];
        let sent = source.tag(name.index);
        assert!(sent.is_whole(), "{name:?} was not handed in whole");
        self.frames += 1;
        for stamp in self.opening.drain(..) {
            let step = tag.timestamp_ms.wrapping_sub(stamp).cast_signed();
            // Who was opened at a keyframe and moved before it got it waits for the next one.
            assert!((-500..4000).contains(&step), "opened at {stamp}, {step} ms before {name:?}");
        }
        self.check_stamp(tag, name, source);
        let is_keyframe = sent.class == Class::Keyframe;
        if tag.kind == TagKind::Video && !self.saw_video {
            assert!(is_keyframe, "{name:?} is the first video frame and no keyframe");
            self.saw_video = true;
        }
        match self.last_frame {
            Some(last) if last.source == name.source => {
                assert!(last.index < name.index, "{name:?} behind {last:?}");
                self.check_gap(last.index, name, source, is_keyframe);
            }
            Some(last) => {
                assert!(!self.former.contains(&name.source), "{name:?} behind {last:?}");
                self.former.push(last.source);
                self.check_tail(last, &sources[last.source as usize]);
                let may_begin = tag.kind == TagKind::Audio || is_keyframe;
                assert!(may_begin, "{name:?} begins a new source and is no keyframe");
                self.splice(name.source, sent);
            }
            None if source.is_first_keyframe(name.index) => self.splice(name.source, sent),
            None => {}
        }
        let config = source.config_before(tag.kind, name.index);
        if source.form == Form::Rtp {
            let sets = if tag.kind == TagKind::Video { source.sets() } else { 0 };
            assert_eq!(self.configs[track(tag.kind)], Some(made(sets)), "at {name:?}");
        }
        if let Some(index) = config {
            let is_named = tag.kind == TagKind::Video;
            let config = Some(if is_named { TagName { index, ..name } } else { made(0) });
            let sent = &source.tags[..=name.index as usize];
            assert_eq!(self.configs[track(tag.kind)], config, "at {name:?}, the last of {sent:#?}");
        }
        self.last_frame = Some(name);
    }

    /// Within one source timestamps move by the same distance; none ever steps back.
    fn check_stamp(&mut self, tag: &Tag, name: TagName, source: &Source) {
        let sent = source.tag(name.index);
        let stamp = &mut self.stamps[track(tag.kind)];
        if let Some(before) = stamp.replace(tag.timestamp_ms) {
            let step = tag.timestamp_ms.wrapping_sub(before).cast_signed();
            assert!(step >= 0, "{name:?} steps back from {before} to {}", tag.timestamp_ms);
        }
        let offset = tag.timestamp_ms.wrapping_sub(sent.timestamp_ms);
        let first = self.last_frame.filter(|last| last.source == name.source);
        let since = first.map_or(0, |last| last.index as usize + 1);
        let restarted =
            source.tags[since..=name.index as usize].iter().any(|tag| tag.clock_restarted);
        match self.offset {
            Some((serial, before)) if serial == name.source && !restarted => {
                assert_eq!(offset, before, "{name:?} has another distance to its source");
            }
            _ => self.offset = Some((name.source, offset)),
        }
    }

    fn check_gap(&mut self, last: u32, name: TagName, source: &Source, is_keyframe: bool) {
        let missing = &source.tags[last as usize + 1..name.index as usize];
        let is_gap = missing.iter().any(|tag| {
            tag.is_frame()
                && tag.is_whole()
                && !(tag.kind == TagKind::Audio && self.drops_audio(name.source, tag))
        });
        if is_gap {
            self.gaps += 1;
            let may_begin = is_keyframe || !source.has_video;
            let sent = &source.tags[last as usize..=name.index as usize];
            assert!(may_begin, "{name:?} follows a gap and is no keyframe: {sent:#?}");
        }
    }

    /// What a source sent before it was lost comes before what the next one sends.
    fn check_tail(&mut self, last: TagName, source: &Source) {
        if lacks_tail(last, source) {
            self.gaps += 1;
        }
    }

    /// Whether it lacks video or audio of its source, each of what came before a time.
    pub(crate) fn is_behind(&self, sources: &[Source], (video, audio): (Instant, Instant)) -> bool {
        let Some(last) = self.last_frame else { return false };
        let rest = &sources[last.source as usize].tags[last.index as usize + 1..];
        rest.iter().filter(|tag| tag.is_frame()).any(|tag| match (tag.kind, tag.whole_at) {
            (TagKind::Video, Some(at)) => at <= video,
            (_, Some(at)) => at < audio && !self.drops_audio(last.source, tag),
            (_, None) => false,
        })
    }

    /// Whether it has a tag of a source, or a later one.
    pub(crate) fn has(&self, name: TagName) -> bool {
        self.former.contains(&name.source)
            || self
                .last_frame
                .is_some_and(|last| last.source == name.source && last.index >= name.index)
    }

    pub(crate) fn source(&self) -> Option<u32> {
        self.last_frame.map(|last| last.source)
    }

    fn splice(&mut self, source: u32, first: &SourceTag) {
        let (timestamp_ms, whole_at) = (first.timestamp_ms, first.whole_at);
        self.spliced_at = Some(Splice { source, timestamp_ms, whole_at });
    }

    /// Audio that a new source sent before its first frame that counts is dropped, also for who
    /// came before it and had nothing of the source that it took over from.
    fn drops_audio(&self, source: u32, tag: &SourceTag) -> bool {
        self.spliced_at.filter(|splice| splice.source == source).is_some_and(|splice| {
            let is_before = tag.timestamp_ms.wrapping_sub(splice.timestamp_ms).cast_signed() <= 0;
            is_before || splice.whole_at.is_some_and(|by| tag.begun_at <= by)
        })
    }

    /// Whether it lacks something of what the last source that it got anything of has sent.
    pub(crate) fn lacks_end(&self, sources: &[Source]) -> bool {
        self.last_frame.is_some_and(|last| lacks_tail(last, &sources[last.source as usize]))
    }
}

/// Whether a source sent frames behind one. What was begun behind a tag that it never finished is
/// lost with that tag.
fn lacks_tail(last: TagName, source: &Source) -> bool {
    let rest = &source.tags[last.index as usize + 1..];
    rest.iter().take_while(|tag| tag.is_whole()).any(SourceTag::is_frame)
}

/// A configuration that was made for a source of packets, of these parameter sets.
fn made(sets: usize) -> TagName {
    TagName { source: u32::MAX, index: sets as u32 }
}

fn track(kind: TagKind) -> usize {
    usize::from(kind == TagKind::Video)
}
