//! Streams that could not be had a moment ago: the negative cache. Who asks for one meanwhile is refused
//! at once, and no origin is asked.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::bus::view::AbsenceView;
use crate::limits::{ABSENCE_TEXT_LEN_MAX, ABSENCES_MAX, ABSENCES_SHOWN_MAX};
use crate::media::StreamKey;
use crate::media::state::{ErrorClass, Fault};

/// Missing streams of one shard's keys.
#[derive(Default)]
pub(super) struct Absences {
    by_key: HashMap<StreamKey, Absence>,
    /// When each is forgotten.
    due: BTreeSet<(Instant, StreamKey)>,
}

struct Absence {
    class: ErrorClass,
    text: String,
    since: Instant,
    until: Instant,
    refused: u64,
}

impl Absences {
    /// Remembers why a stream can't be had. Where there is no room, what would be forgotten first goes.
    pub(super) fn insert(&mut self, now: Instant, key: StreamKey, fault: &Fault, time: Duration) {
        if time.is_zero() {
            return;
        }
        self.forget(&key);
        self.expire(now);
        if self.by_key.len() >= ABSENCES_MAX
            && let Some((_, first)) = self.due.pop_first()
        {
            self.by_key.remove(&first);
        }
        let Fault { class, text } = fault.clipped(ABSENCE_TEXT_LEN_MAX);
        let until = now + time;
        self.due.insert((until, key.clone()));
        let absence = Absence { class, text, since: now, until, refused: 0 };
        self.by_key.insert(key, absence);
    }

    /// Why a stream can't be had, for one more who asks.
    pub(super) fn ask(&mut self, now: Instant, key: &StreamKey) -> Option<ErrorClass> {
        self.expire(now);
        let absence = self.by_key.get_mut(key)?;
        absence.refused += 1;
        Some(absence.class)
    }

    /// Whether it was there.
    pub(super) fn forget(&mut self, key: &StreamKey) -> bool {
        let absence = self.by_key.remove(key);
        absence.is_some_and(|absence| self.due.remove(&(absence.until, key.clone())))
    }

    /// Returns how many there were.
    pub(super) fn forget_all(&mut self) -> usize {
        self.due.clear();
        std::mem::take(&mut self.by_key).len()
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Those that are forgotten first, up to a limit.
    pub(super) fn views(&mut self, now: Instant) -> Vec<AbsenceView> {
        self.expire(now);
        let shown = self.due.iter().take(ABSENCES_SHOWN_MAX);
        shown.map(|(_, key)| self.by_key[key].view(now, key)).collect()
    }

    /// That of one key.
    pub(super) fn view(&mut self, now: Instant, key: &StreamKey) -> Option<AbsenceView> {
        self.expire(now);
        self.by_key.get(key).map(|absence| absence.view(now, key))
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((until, _)) = self.due.first()
            && *until <= now
        {
            let (_, key) = self.due.pop_first().expect("just seen");
            self.by_key.remove(&key);
        }
    }
}

impl Absence {
    fn view(&self, now: Instant, key: &StreamKey) -> AbsenceView {
        AbsenceView {
            key: key.clone(),
            class: self.class,
            text: self.text.clone(),
            age_ms: now.duration_since(self.since).as_millis() as u64,
            left_ms: self.until.duration_since(now).as_millis() as u64,
            refused: self.refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const TIME: Duration = Duration::from_secs(10);

    fn key(stream: &str) -> StreamKey {
        StreamKey::in_default_vhost("live", stream).unwrap()
    }

    fn fault() -> Fault {
        Fault::new(ErrorClass::NotFound, "é".repeat(ABSENCE_TEXT_LEN_MAX))
    }

    #[test]
    fn an_absence_is_forgotten_in_its_time() {
        let (mut absences, now) = (Absences::default(), clock::now());
        absences.insert(now, key("a"), &fault(), TIME);
        absences.insert(now, key("b"), &fault(), TIME * 2);
        absences.insert(now, key("c"), &fault(), Duration::ZERO);
        assert_eq!(absences.ask(now, &key("a")), Some(ErrorClass::NotFound));
        assert_eq!(absences.ask(now, &key("c")), None);
        let views = absences.views(now + TIME / 2);
        assert_eq!((views.len(), views[0].refused, views[0].left_ms), (2, 1, 5000));
        assert!(views[0].text.len() <= ABSENCE_TEXT_LEN_MAX);
        assert_eq!(absences.ask(now + TIME, &key("a")), None);
        assert_eq!(absences.len(), 1);
    }

    #[test]
    fn an_absence_that_is_found_again_lasts_from_then_on() {
        let (mut absences, now) = (Absences::default(), clock::now());
        absences.insert(now, key("a"), &fault(), TIME);
        absences.insert(now + TIME / 2, key("a"), &fault(), TIME);
        assert_eq!(absences.len(), 1);
        assert!(absences.ask(now + TIME, &key("a")).is_some());
        assert!(absences.forget(&key("a")) && !absences.forget(&key("a")));
        assert_eq!(absences.views(now).len(), 0);
    }

    #[test]
    fn their_number_is_bounded() {
        let (mut absences, now) = (Absences::default(), clock::now());
        for number in 0..ABSENCES_MAX as u32 + 5 {
            let time = TIME + Duration::from_millis(number.into());
            absences.insert(now, key(&number.to_string()), &fault(), time);
        }
        assert_eq!(absences.len(), ABSENCES_MAX);
        assert!(absences.ask(now, &key("4")).is_none() && absences.ask(now, &key("5")).is_some());
        assert_eq!(absences.views(now).len(), ABSENCES_SHOWN_MAX);
        assert_eq!(absences.forget_all(), ABSENCES_MAX);
        assert_eq!((absences.len(), absences.due.len()), (0, 0));
    }
}
