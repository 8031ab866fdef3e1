//! Pushes of the streams that this shard owns: added, listed, ended, brought back after a restart.
//!
//! A push is a task of its own. It outlives its stream, waits for it without being a waiter (nobody
//! is asked to bring the stream for it), and is a player of it from when its destination is ready.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::closing::{AskedFor, Closing};
use super::keeping::RestoreError;
use super::push::{Progress, Push};
use super::timers::Timer;
use super::{Action, Shard};
use crate::bus::event::{PushStep, What};
use crate::bus::message::{Answer, PushOptions, Ticket};
use crate::bus::view::PushView;
use crate::journal::{PushRecord, Record};
use crate::limits::{PUSHES_PER_PAGE, PUSHES_PER_SHARD_MAX, PUSHES_PER_STREAM_MAX};
use crate::media::state::{EndReason, Generation, Released};
use crate::media::{AttemptId, PushState, SourceUrl, StreamKey, UrlDigest};
use crate::proto::rtsp::LowerTransport;

/// A shard's pushes. Each life of one has a generation, which is never used twice.
#[derive(Default)]
pub(super) struct Pushes {
    by_id: BTreeMap<Generation, Push>,
    by_stream: HashMap<StreamKey, Vec<Generation>>,
    by_attempt: HashMap<AttemptId, Generation>,
    /// By destination.
    pub(super) budget: Budget<Generation>,
}

impl Pushes {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether anything is left of one.
    pub(super) fn has(&self, id: Generation) -> bool {
        self.by_id.contains_key(&id) || self.by_attempt.values().any(|of| *of == id)
    }

    pub(super) fn get(&self, id: Generation) -> Option<&Push> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: Generation) -> Option<&mut Push> {
        self.by_id.get_mut(&id)
    }

    /// The push whose attempt is under way or being closed.
    pub(super) fn of_attempt(&self, attempt: AttemptId) -> Option<Generation> {
        self.by_attempt.get(&attempt).copied()
    }

    pub(super) fn of_stream(&self, key: &StreamKey) -> Vec<Generation> {
        self.by_stream.get(key).cloned().unwrap_or_default()
    }

    /// Whether a push sends a stream on, or would if its destination were there.
    pub(super) fn hold(&self, key: &StreamKey) -> bool {
        let ids = self.by_stream.get(key).into_iter().flatten();
        let mut pushes = ids.filter_map(|&id| self.get(id));
        pushes.any(|push| push.state() != PushState::AwaitingSource)
    }

    pub(super) fn ids(&self) -> Vec<Generation> {
        self.by_id.keys().copied().collect()
    }

    /// Enters an attempt of a push; it is the push's until it is closed.
    pub(super) fn begin_attempt(&mut self, id: Generation, attempt: AttemptId) {
        self.by_attempt.insert(attempt, id);
        if let Some(push) = self.by_id.get_mut(&id) {
            push.open_attempts.insert(attempt);
        }
    }

    pub(super) fn end_attempt(&mut self, attempt: AttemptId) {
        self.by_attempt.remove(&attempt);
    }

    pub(super) fn find(&self, (key, digest): (&StreamKey, UrlDigest)) -> Option<Generation> {
        let mut of_stream = self.by_stream.get(key)?.iter().copied();
        of_stream.find(|id| self.by_id.get(id).is_some_and(|push| push.digest == digest))
    }

    fn insert(&mut self, id: Generation, push: Push) {
        self.by_stream.entry(push.key.clone()).or_default().push(id);
        self.by_id.insert(id, push);
    }

    fn remove(&mut self, id: Generation) -> Option<Push> {
        let push = self.by_id.remove(&id)?;
        if let Some(of_stream) = self.by_stream.get_mut(&push.key) {
            of_stream.retain(|other| *other != id);
            if of_stream.is_empty() {
                self.by_stream.remove(&push.key);
            }
        }
        Some(push)
    }

    /// That the indexes agree with each other; for tests.
    pub(super) fn check(&self) {
        let listed: usize = self.by_stream.values().map(Vec::len).sum();
        assert_eq!(listed, self.by_id.len(), "each push is listed with its stream");
        let mut destinations = HashSet::new();
        for (id, push) in &self.by_id {
            assert!(destinations.insert((&push.key, push.digest)), "a destination once");
            let own = |attempt: &AttemptId| self.by_attempt.get(attempt) == Some(id);
            assert!(push.open_attempts.iter().all(own), "an open attempt is its push's");
        }
    }
}

impl Shard {
    /// Pushes, by how far they are.
    pub fn pushes_by_state(&self) -> [(PushState, u64); PushState::ALL.len()] {
        let mut counts = PushState::ALL.map(|state| (state, 0));
        for push in self.pushes.by_id.values() {
            counts[push.state() as usize].1 += 1;
        }
        counts
    }

    /// Enters a push. Whoever asked is answered at once or by the first result; for one that is there
    /// already at once, whatever it is doing, as ZLMediaKit does.
    pub(super) fn add_push(
        &mut self,
        now: Instant,
        ticket: Ticket,
        key: StreamKey,
        url: Arc<SourceUrl>,
        options: PushOptions,
    ) {
        if let Some(id) = self.pushes.find((&key, url.digest())) {
            let push = self.pushes.get_mut(id).expect("just found");
            let state = push.state();
            // It is acknowledged, so it stays, like one that was to.
            push.options.force = true;
            self.keep_push(id);
            self.answer(ticket, Answer::PushAdded { state, generation: id });
            return;
        }
        let of_stream = self.pushes.by_stream.get(&key).map_or(0, Vec::len);
        if self.shutting_down
            || self.pushes.len() >= PUSHES_PER_SHARD_MAX
            || of_stream >= PUSHES_PER_STREAM_MAX
        {
            self.answer(ticket, Answer::Overloaded("too many pushes"));
            return;
        }
        let form = url.form();
        let stream = self.tables.find(&key).and_then(|handle| self.tables.get(handle));
        let has_source = stream.is_some_and(|stream| stream.registered && stream.is_playable(form));
        if !has_source && !options.force {
            self.answer(ticket, Answer::NoSource);
            return;
        }
        let id = self.next_generation();
        let mut push = Push::new(now, key, url, options);
        let answers_later = has_source && !options.no_wait;
        if answers_later {
            push.adds.push(ticket);
        }
        self.pushes.insert(id, push);
        self.tell_push(id, PushStep::Pending);
        if options.force || options.no_wait {
            self.keep_push(id);
        }
        self.start_push(now, id);
        if !answers_later {
            let state = self.pushes.get(id).map_or(PushState::AwaitingSource, Push::state);
            self.answer(ticket, Answer::PushAdded { state, generation: id });
        }
    }

    pub(super) fn delete_push(
        &mut self,
        now: Instant,
        ticket: Ticket,
        name: (&StreamKey, UrlDigest),
    ) {
        match self.pushes.find(name) {
            None => self.answer(ticket, Answer::Deleted(None)),
            Some(id) => self.end_push(now, id, EndReason::Deleted, Some(ticket)),
        }
    }

    /// Takes a push out of its table and ends what hangs on it; `asked` is answered when all of that is
    /// confirmed.
    pub(super) fn end_push(
        &mut self,
        now: Instant,
        id: Generation,
        reason: EndReason,
        asked: Option<Ticket>,
    ) {
        self.tell_push(id, PushStep::Ended(reason));
        let Some(mut push) = self.pushes.remove(id) else { return };
        if push.kept && reason != EndReason::Shutdown {
            let (key, url) = (push.key.as_str().to_owned(), push.url.as_str().to_owned());
            self.actions.push_back(Action::Keep(Record::RemovePush { key, url }));
        }
        for ticket in std::mem::take(&mut push.adds) {
            self.answer(ticket, Answer::AddCancelled);
        }
        let players = u32::from(push.player.is_some());
        let destination = push.url.authority();
        let timer = match push.progress {
            Progress::AwaitingSource => None,
            Progress::Queued { timer } | Progress::BackingOff { timer, .. } => Some(timer),
            Progress::Trying { attempt, timer, holds_place, .. } => {
                self.actions.push_back(Action::HangUp { attempt });
                if holds_place {
                    self.give_push_place_back(now, &destination);
                }
                timer
            }
        };
        let timers = u32::from(self.timers.cancel(timer));
        let released = Released { players, timers, ..Released::default() };
        self.pushes.budget.leave(&destination, id);
        let timer = self.timers.set(now + self.policy.close_bound, Timer::Close(id));
        let closing = Closing {
            asked: asked.map(|ticket| (ticket, AskedFor::Delete)).into_iter().collect(),
            locals: HashSet::new(),
            attempts: push.open_attempts,
            publisher: None,
            released,
            timer,
        };
        self.closings.insert(id, closing);
        self.closed_for(id, |_| {});
        self.look_who_plays_key(now, &push.key);
    }

    pub(super) fn shut_down_pushes(&mut self, now: Instant) {
        for id in self.pushes.ids() {
            self.end_push(now, id, EndReason::Shutdown, None);
        }
    }

    /// Enters the pushes of a journal whose streams this shard owns. They wait for their streams.
    ///
    /// Returns how many were entered, and those that can't be.
    pub fn restore_pushes<'a>(
        &mut self,
        now: Instant,
        records: &'a [PushRecord],
    ) -> (usize, Vec<(&'a PushRecord, RestoreError)>) {
        let (mut count, mut refused) = (0, Vec::new());
        for record in records {
            match read(now, record) {
                Ok(push) if self.owner_of(&push.key) != self.id => {}
                Ok(push) => {
                    let id = self.next_generation();
                    self.pushes.insert(id, push);
                    self.tell_push(id, PushStep::Pending);
                    count += 1;
                }
                Err(error) => refused.push((record, error)),
            }
        }
        (count, refused)
    }

    /// Which life of a push there is, by its stream and the digest of its URL; for tests.
    pub fn generation_of_push(&self, name: (&StreamKey, UrlDigest)) -> Option<Generation> {
        self.pushes.find(name)
    }

    /// Puts a push into the journal, once.
    pub(super) fn keep_push(&mut self, id: Generation) {
        if let Some(push) = self.pushes.get_mut(id)
            && !std::mem::replace(&mut push.kept, true)
        {
            let record = Record::AddPush(written(push));
            self.actions.push_back(Action::Keep(record));
        }
    }

    pub(super) fn tell_push(&mut self, id: Generation, step: PushStep) {
        if self.events.is_some()
            && let Some(push) = self.pushes.get(id)
        {
            let (key, url) = (push.key.clone(), push.url.clone());
            let generation = self.life_here(&key);
            self.tell_of(key, generation, What::Push { url, step });
        }
    }

    pub(super) fn push_of(
        &mut self,
        now: Instant,
        name: (&StreamKey, UrlDigest),
    ) -> Option<PushView> {
        let id = self.pushes.find(name)?;
        self.see_pushed(now, id);
        self.view_of_push(now, id)
    }

    /// A page of pushes: those after this one, and the last of them where there may be more.
    pub(super) fn page_of_pushes(
        &mut self,
        now: Instant,
        after: Option<Generation>,
    ) -> (Vec<PushView>, Option<Generation>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.pushes.by_id.range((from, Bound::Unbounded));
        let ids: Vec<Generation> = range.map(|(&id, _)| id).take(PUSHES_PER_PAGE).collect();
        let next = ids.last().copied().filter(|_| ids.len() == PUSHES_PER_PAGE);
        ids.iter().for_each(|&id| self.see_pushed(now, id));
        (ids.iter().filter_map(|&id| self.view_of_push(now, id)).collect(), next)
    }

    /// Once a second: what has gone to destinations.
    pub(super) fn count_pushed(&mut self, now: Instant) {
        for id in self.pushes.ids() {
            self.see_pushed(now, id);
        }
    }

    /// Notes what a push has sent by now.
    pub(super) fn see_pushed(&mut self, now: Instant, id: Generation) {
        let Some(push) = self.pushes.by_id.get_mut(&id) else { return };
        let here = self.locals.get(&push.key, push.url.form());
        if let Some(player) = push.player
            && let Some(sent) = here.and_then(|here| here.crowd.sent_bytes_of(player))
        {
            push.sent.see(now, sent);
        }
    }

    fn view_of_push(&self, now: Instant, id: Generation) -> Option<PushView> {
        let push = self.pushes.get(id)?;
        let ms = |since: Instant| now.duration_since(since).as_millis() as u64;
        Some(PushView {
            key: push.key.clone(),
            url: push.url.clone(),
            generation: id,
            state: push.state(),
            attempts: push.attempts,
            last_fault: push.last_fault.clone(),
            next_retry_ms: push.next_retry_ms(now),
            was_up: push.was_up,
            returns: push.returns,
            age_ms: ms(push.since),
            up_ms: push.up_since.map_or(0, ms),
            bytes_per_second: push.sent.rate.per_second(now),
            bytes_total: push.sent.total(),
        })
    }
}

fn written(push: &Push) -> PushRecord {
    PushRecord {
        key: push.key.as_str().to_owned(),
        url: push.url.as_str().to_owned(),
        login: push.url.login.clone(),
        retries_max: push.options.retries_max,
        timeout_ms: push.options.timeout.as_millis() as u64,
        over_udp: push.options.rtp_transport == LowerTransport::Udp,
    }
}

/// A kept push stays when its first try fails, like a kept pull.
fn read(now: Instant, record: &PushRecord) -> Result<Push, RestoreError> {
    let key = StreamKey::parse(&record.key)?;
    let url = SourceUrl::parse(&record.url, false)?.with_login(record.login.clone());
    let options = PushOptions {
        retries_max: record.retries_max,
        force: true,
        no_wait: true,
        timeout: Duration::from_millis(record.timeout_ms),
        rtp_transport: match record.over_udp {
            true => LowerTransport::Udp,
            false => LowerTransport::Tcp,
        },
    };
    let mut push = Push::new(now, key, Arc::new(url), options);
    push.kept = true;
    Ok(push)
}
