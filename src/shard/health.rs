//! The sources of a pull: in which order they are tried, and how each of them does.
//!
//! They are tried in the order in which they were given, as in a ring: from the one that was tried last
//! to the next one; those of the form that the stream's players have go before others. A *round* is over
//! when each of them was tried once; then the pull backs off.

use std::sync::Arc;
use std::time::Instant;

use crate::bus::view::PullSourceView;
use crate::media::state::{ErrorClass, Fault};
use crate::media::{Form, SourceUrl};

/// The sources of one pull: one at least, and one of them in use.
pub(super) struct Sources {
    all: Vec<PullSource>,
    current: usize,
    /// Where in the ring the search for the one that is tried next begins.
    next: usize,
}

/// Which sources may have their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Any,
    /// Those of this form before the others.
    First(Form),
}

/// One of them.
pub(super) struct PullSource {
    pub(super) url: Arc<SourceUrl>,
    /// Failed tries since its last success.
    failures: u32,
    last_fault: Option<Fault>,
    last_up: Option<Instant>,
    /// It has had its turn in this round.
    is_tried: bool,
    /// It is not tried again before the pull was up.
    is_barred: bool,
}

impl Sources {
    pub(super) fn new(urls: Vec<Arc<SourceUrl>>) -> Self {
        assert!(!urls.is_empty(), "a pull has a source");
        let source = |url| PullSource {
            url,
            failures: 0,
            last_fault: None,
            last_up: None,
            is_tried: false,
            is_barred: false,
        };
        Self { all: urls.into_iter().map(source).collect(), current: 0, next: 0 }
    }

    pub(super) fn current_index(&self) -> usize {
        self.current
    }

    /// The one in use: the lead's.
    pub(super) fn current(&self) -> &PullSource {
        &self.all[self.current]
    }

    pub(super) fn url(&self, index: usize) -> &Arc<SourceUrl> {
        &self.all[index].url
    }

    pub(super) fn urls(&self) -> impl Iterator<Item = &Arc<SourceUrl>> {
        self.all.iter().map(|source| &source.url)
    }

    /// Whether they are these, in this order and with the same logins.
    pub(super) fn are(&self, urls: &[Arc<SourceUrl>]) -> bool {
        self.urls().eq(urls)
    }

    /// No source was tried yet.
    pub(super) fn begin_round(&mut self) {
        self.all.iter_mut().for_each(|source| source.is_tried = false);
    }

    /// One that served well was lost: it was tried, the others were not.
    pub(super) fn begin_round_after_current(&mut self) {
        self.begin_round();
        self.all[self.current].is_tried = true;
        self.next = (self.current + 1) % self.all.len();
    }

    pub(super) fn has_untried(&self, turn: Turn) -> bool {
        self.untried(turn).is_some()
    }

    /// Takes the next source of this round.
    pub(super) fn next_untried(&mut self, turn: Turn) -> Option<usize> {
        let index = self.untried(turn)?;
        self.all[index].is_tried = true;
        self.next = (index + 1) % self.all.len();
        Some(index)
    }

    fn untried(&self, turn: Turn) -> Option<usize> {
        let count = self.all.len();
        let ring = (self.next..self.next + count).map(|place| place % count);
        let mut left =
            ring.filter(|&index| !self.all[index].is_tried && !self.all[index].is_barred);
        let is_of = |form| move |&index: &usize| self.all[index].url.form() == form;
        match turn {
            Turn::Any => left.next(),
            Turn::First(form) => left.clone().find(is_of(form)).or_else(|| left.next()),
        }
    }

    /// The one in use is not tried again before the pull was up. Whether others may be.
    pub(super) fn bar_current(&mut self) -> bool {
        self.all[self.current].is_barred = true;
        self.all.iter().any(|source| !source.is_barred)
    }

    /// From now on this one is in use.
    pub(super) fn use_source(&mut self, index: usize) {
        self.current = index;
    }

    /// The one in use has failed.
    pub(super) fn fail(&mut self, fault: Fault) {
        self.fail_source(self.current, fault);
    }

    pub(super) fn fail_source(&mut self, index: usize, fault: Fault) {
        let source = &mut self.all[index];
        // Its turn did not come, so it was no try.
        source.failures += u32::from(fault.class != ErrorClass::Busy);
        source.last_fault = Some(fault);
    }

    /// The one in use brings media.
    pub(super) fn succeed(&mut self, now: Instant) {
        let source = &mut self.all[self.current];
        source.failures = 0;
        source.last_up = Some(now);
        self.all.iter_mut().for_each(|source| source.is_barred = false);
    }

    /// As the API shows them.
    pub(super) fn views(&self, now: Instant) -> Vec<PullSourceView> {
        let view = |(index, source): (usize, &PullSource)| PullSourceView {
            url: source.url.clone(),
            in_use: index == self.current,
            failures: source.failures,
            last_fault: source.last_fault.clone(),
            up_ago_ms: source.last_up.map(|at| now.duration_since(at).as_millis() as u64),
        };
        self.all.iter().enumerate().map(view).collect()
    }

    /// For tests.
    pub(super) fn check(&self) {
        assert!(self.current < self.all.len() && self.next < self.all.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(count: usize) -> Sources {
        let url = |n| Arc::new(SourceUrl::parse(&format!("rtmp://h{n}/live/a"), false).unwrap());
        Sources::new((0..count).map(url).collect())
    }

    #[test]
    fn each_is_tried_once_in_a_round_and_the_next_round_goes_on() {
        let mut three = sources(3);
        let mut round = |from_current: bool| -> Vec<usize> {
            match from_current {
                true => three.begin_round_after_current(),
                false => three.begin_round(),
            }
            let tried: Vec<usize> = std::iter::from_fn(|| three.next_untried(Turn::Any)).collect();
            three.use_source(tried.first().copied().unwrap_or(0));
            three.check();
            tried
        };
        assert_eq!([round(false), round(false)], [[0, 1, 2], [0, 1, 2]]);
        assert_eq!(round(true), [1, 2]);
        assert_eq!(round(true), [2, 0]);
        assert_eq!(round(false), [1, 2, 0]);
        let mut one = sources(1);
        one.begin_round_after_current();
        assert_eq!(one.next_untried(Turn::Any), None);
    }

    #[test]
    fn one_that_is_barred_has_no_turn_until_another_was_up() {
        let mut three = sources(3);
        let mut bar = |index, may_others: bool| {
            three.use_source(index);
            assert_eq!(three.bar_current(), may_others);
            three.begin_round();
            let has_untried = three.has_untried(Turn::Any);
            let tried: Vec<usize> = std::iter::from_fn(|| three.next_untried(Turn::Any)).collect();
            assert_eq!(has_untried, !tried.is_empty());
            tried
        };
        assert_eq!(bar(1, true), [0, 2]);
        assert_eq!(bar(0, true), [2]);
        assert!(bar(2, false).is_empty());
        three.succeed(crate::clock::now());
        three.begin_round();
        assert_eq!(std::iter::from_fn(|| three.next_untried(Turn::Any)).count(), 3);
    }

    #[test]
    fn those_of_one_form_have_their_turn_before_the_others() {
        let urls = ["rtmp://a/l/s", "rtsp://b/l/s", "http://c/s.flv", "rtsp://d/l/s"];
        let url = |text| Arc::new(SourceUrl::parse(text, false).unwrap());
        let mut four = Sources::new(urls.into_iter().map(url).collect());
        let mut round = |turn| {
            four.use_source(0);
            four.begin_round_after_current();
            let tried: Vec<usize> = std::iter::from_fn(|| four.next_untried(turn)).collect();
            four.check();
            tried
        };
        assert_eq!(round(Turn::First(Form::Flv)), [2, 3, 1]);
        assert_eq!(round(Turn::First(Form::Rtp)), [1, 3, 2]);
    }

    #[test]
    fn health_is_that_of_each() {
        let mut two = sources(2);
        let now = crate::clock::now();
        two.fail(Fault::new(ErrorClass::Refused, "no"));
        two.fail(Fault::new(ErrorClass::Busy, "its turn did not come"));
        two.fail_source(1, Fault::new(ErrorClass::Lost, "gone"));
        two.use_source(1);
        two.succeed(now);
        let seen = two.views(now).into_iter().map(|of| (of.in_use, of.failures, of.up_ago_ms));
        assert_eq!(seen.collect::<Vec<_>>(), [(false, 1, None), (true, 0, Some(0))]);
    }
}
