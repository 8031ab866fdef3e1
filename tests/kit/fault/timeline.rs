//! A file's tags repeated without end, on a clock.

use std::time::Instant;

use super::super::flv::{Kind, Role, Tag};

/// The endless stream of an origin. Timestamps go on over the end of the file.
#[derive(Debug)]
pub(super) struct Timeline {
    /// Metadata and codec configuration.
    opening: Vec<Tag>,
    coded: Vec<Tag>,
    /// Length of one turn.
    turn_ms: u32,
    start: Instant,
}

/// A connection's place.
pub(super) struct Cursor {
    /// What a new connection gets first.
    pub(super) opening: Vec<Tag>,
    next: usize,
    start: Instant,
}

impl Timeline {
    pub(super) fn new(tags: Vec<Tag>) -> Self {
        let (coded, opening): (Vec<Tag>, Vec<Tag>) = tags.into_iter().partition(Tag::is_coded);
        let opening: Vec<Tag> = opening
            .into_iter()
            .filter(|tag| tag.kind == Kind::Script || tag.role() == Role::Config)
            .collect();
        let last_ms = coded.iter().map(|tag| tag.timestamp_ms).max().expect("a file with frames");
        Self { opening, coded, turn_ms: last_ms + 40, start: Instant::now() }
    }

    pub(super) fn restart(&mut self) {
        self.start = Instant::now();
    }

    /// A new connection starts at the newest keyframe.
    pub(super) fn join(&self) -> Cursor {
        let now = self.now_index();
        let start = (0..=now).rev().find(|index| {
            let tag = &self.coded[index % self.coded.len()];
            tag.is_video_keyframe()
        });
        let next = start.unwrap_or(now);
        let timestamp_ms = self.tag(next).timestamp_ms;
        let opening = self.opening.iter().map(|tag| Tag { timestamp_ms, ..tag.clone() }).collect();
        Cursor { opening, next, start: self.start }
    }

    /// The tags whose time has come.
    pub(super) fn due(&self, cursor: &mut Cursor) -> Vec<Tag> {
        if cursor.start != self.start {
            *cursor = Cursor { next: 0, ..self.join() };
        }
        let end = self.now_index();
        let due = (cursor.next..end).map(|index| self.tag(index)).collect();
        cursor.next = cursor.next.max(end);
        due
    }

    pub(super) fn until_now(&self) -> Vec<Tag> {
        let coded = (0..self.now_index() + self.coded.len()).map(|index| self.tag(index));
        self.opening.iter().cloned().chain(coded).collect()
    }

    pub(super) fn first_keyframe(&self) -> (Vec<Tag>, Tag) {
        let keyframe = self.coded.iter().find(|tag| tag.is_video_keyframe());
        (self.opening.clone(), keyframe.expect("a file with video").clone())
    }

    /// The number of tags whose time has come since the start.
    fn now_index(&self) -> usize {
        let elapsed_ms = u32::try_from(self.start.elapsed().as_millis()).expect("a short test");
        let turns = (elapsed_ms / self.turn_ms) as usize;
        let rest_ms = elapsed_ms % self.turn_ms;
        let in_turn = self.coded.partition_point(|tag| tag.timestamp_ms <= rest_ms);
        turns * self.coded.len() + in_turn
    }

    fn tag(&self, index: usize) -> Tag {
        let tag = &self.coded[index % self.coded.len()];
        let turn = u32::try_from(index / self.coded.len()).expect("a short test");
        Tag { timestamp_ms: tag.timestamp_ms + turn * self.turn_ms, ..tag.clone() }
    }
}
