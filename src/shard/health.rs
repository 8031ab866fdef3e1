//! The sources of a pull: in which order they are tried, and how each of them does.
//!
//! They are tried in the order in which they were given, as in a ring: from the one that was tried last
//! to the next one. A *round* is over when each of them was tried once; then the pull backs off.

use std::sync::Arc;
use std::time::Instant;

use crate::bus::view::PullSourceView;
use crate::media::SourceUrl;
use crate::media::state::{ErrorClass, Fault};

/// The sources of one pull: one at least, and one of them in use.
pub(super) struct Sources {
    all: Vec<PullSource>,
    current: usize,
    /// Which one is tried next.
    next: usize,
    /// Sources tried in this round.
    tried: usize,
}

/// One of them.
pub(super) struct PullSource {
    pub(super) url: Arc<SourceUrl>,
    /// Failed tries since its last success.
    failures: u32,
    last_fault: Option<Fault>,
    last_up: Option<Instant>,
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
            is_barred: false,
        };
        Self { all: urls.into_iter().map(source).collect(), current: 0, next: 0, tried: 0 }
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
        self.tried = 0;
    }

    /// One that served well was lost: it was tried, the others were not.
    pub(super) fn begin_round_after_current(&mut self) {
        self.tried = 1;
        self.next = (self.current + 1) % self.all.len();
    }

    pub(super) fn has_untried(&self) -> bool {
        let left = self.tried..self.all.len();
        left.zip(self.all.iter().cycle().skip(self.next)).any(|(_, source)| !source.is_barred)
    }

    /// Takes the next source of this round.
    pub(super) fn next_untried(&mut self) -> Option<usize> {
        while self.tried < self.all.len() {
            let index = self.next;
            self.next = (index + 1) % self.all.len();
            self.tried += 1;
            if !self.all[index].is_barred {
                return Some(index);
            }
        }
        None
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
        assert!(self.tried <= self.all.len());
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
            let tried: Vec<usize> = std::iter::from_fn(|| three.next_untried()).collect();
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
        assert_eq!(one.next_untried(), None);
    }

    #[test]
    fn one_that_is_barred_has_no_turn_until_another_was_up() {
        let mut three = sources(3);
        let mut bar = |index, may_others: bool| {
            three.use_source(index);
            assert_eq!(three.bar_current(), may_others);
            three.begin_round();
            let has_untried = three.has_untried();
            let tried: Vec<usize> = std::iter::from_fn(|| three.next_untried()).collect();
            assert_eq!(has_untried, !tried.is_empty());
            tried
        };
        assert_eq!(bar(1, true), [0, 2]);
        assert_eq!(bar(0, true), [2]);
        assert!(bar(2, false).is_empty());
        three.succeed(crate::clock::now());
        three.begin_round();
        assert_eq!(std::iter::from_fn(|| three.next_untried()).count(), 3);
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
