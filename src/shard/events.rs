//! What is told to the event log, where somebody keeps one.

use std::time::Instant;

use super::Shard;
use super::lifecycle::AfterFailure;
use super::tables::{Stream, StreamHandle};
use crate::bus::event::{End, Event, What};
use crate::media::state::{Fault, Generation};
use crate::media::{ConnectionId, Form, StreamKey};

impl Shard {
    /// From now on what happens is told; whoever wants that empties [`Self::take_events`] each turn.
    pub fn keep_events(&mut self) {
        self.events.get_or_insert_default();
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Tells of a connection here, whose session is `net`'s, or of a push; `generation` is its life of
    /// the key.
    pub fn tell_of(&mut self, key: StreamKey, generation: Option<Generation>, what: What) {
        if let Some(events) = &mut self.events {
            events.push(Event { key, generation, what });
        }
    }

    /// Which life of a key a connection plays, waits for, or had a part in until it was ended; for one
    /// without a part in any, what lives here now. `None` where this shard has heard of none.
    pub fn life_of(&self, connection: ConnectionId, key: &StreamKey) -> Option<Generation> {
        let ending = self.ending_of.get(&connection).and_then(|local| self.endings.get(local));
        ending.map(|ending| ending.generation).or_else(|| self.life_here(key))
    }

    /// Which life of a key this shard has the stream of, or owns.
    pub(super) fn life_here(&self, key: &StreamKey) -> Option<Generation> {
        let here = |form| self.locals.get(key, form)?.generation;
        Form::ALL.into_iter().find_map(here).or_else(|| self.generation_of(key))
    }

    /// Whether this shard waits for the owner of a key to let it have the stream.
    pub fn is_awaited(&self, connection: ConnectionId) -> bool {
        let member = self.members.get(&connection);
        member.is_some_and(|member| matches!(member.role, super::Role::Waiter(_)))
    }

    pub(super) fn tell(&mut self, handle: StreamHandle, what: impl FnOnce(&Stream) -> What) {
        let Some(events) = &mut self.events else { return };
        if let Some(stream) = self.tables.get(handle) {
            let generation: Option<Generation> = Some(stream.generation);
            events.push(Event { key: stream.key.clone(), generation, what: what(stream) });
        }
    }

    pub(super) fn tell_registered(&mut self, now: Instant, handle: StreamHandle) {
        if self.events.is_none() {
            return;
        }
        let view = self.view(now, handle).map(Box::new);
        let Some(stream) = self.tables.get_mut(handle) else { return };
        let back = std::mem::replace(&mut stream.was_registered, true);
        let forms = stream.forms().collect();
        let before = std::mem::replace(&mut stream.told_forms, forms);
        self.tell(handle, |stream| What::Registered { view, url: stream.url(), back, before });
    }

    /// Nobody is kept any more for a source that was lost: its stream is gone, as far as anybody was told
    /// that it was there.
    pub(super) fn tell_grace_over(&mut self, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let forms = std::mem::take(&mut stream.told_forms);
        if !forms.is_empty() {
            self.tell(handle, |_| What::GraceOver { forms });
        }
    }

    /// Tells in which forms a registered stream can be played, where these are others than was told.
    pub(super) fn tell_forms(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get(handle).filter(|stream| stream.registered);
        let is_told =
            stream.is_none_or(|stream| stream.forms().eq(stream.told_forms.iter().copied()));
        if is_told || self.events.is_none() {
            return;
        }
        let view = self.view(now, handle).map(Box::new);
        let stream = self.tables.get_mut(handle).expect("just seen");
        let forms: Vec<Form> = stream.forms().collect();
        let before = std::mem::replace(&mut stream.told_forms, forms.clone());
        self.tell(handle, |_| What::FormsChanged { view, before, forms });
    }

    /// A try has failed, or a pull that was up is lost.
    pub(super) fn tell_failure(
        &mut self,
        handle: StreamHandle,
        fault: &Fault,
        after: &AfterFailure,
    ) {
        let next_try = after.delay();
        let fault = || fault.clone();
        self.tell(handle, |stream| {
            let pull = stream.pull().expect("only pulls fail");
            let (url, attempt) = (pull.lead.url.clone(), pull.attempts);
            match stream.registered {
                true => What::Lost { url: Some(url), fault: fault(), next_try },
                false => What::AttemptFailed { url, fault: fault(), attempt, next_try },
            }
        });
    }

    /// A stream is out of its table.
    pub(super) fn tell_end(&mut self, stream: &Stream, reason: End) {
        if let Some(events) = &mut self.events {
            let url = stream.url();
            let what = What::Ended { reason, forms: stream.told_forms.clone(), url };
            let generation = Some(stream.generation);
            events.push(Event { key: stream.key.clone(), generation, what });
        }
    }

    pub(super) fn tell_slow(&mut self, connection: ConnectionId, jumps: u32) {
        if let Some(member) = self.members.get(&connection) {
            let (key, generation) = (member.key.clone(), self.life_here(&member.key));
            self.tell_of(key, generation, What::PlayerSlow { connection, jumps });
        }
    }

    pub(super) fn tell_evicted(&mut self, connection: ConnectionId) {
        if let Some(member) = self.members.get(&connection) {
            let (key, generation) = (member.key.clone(), self.life_here(&member.key));
            self.tell_of(key, generation, What::PlayerEvicted { connection });
        }
    }
}
