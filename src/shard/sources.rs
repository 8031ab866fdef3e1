//! Publishers and pulls: a stream's way from pending to registered and back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Shard;
use super::demand::gives_way;
use super::ending::EndOfLocal;
use super::tables::{Source, Stream, StreamHandle, Subscriber};
use super::timers::Timer;
use crate::bus::event::{Asker, What};
use crate::bus::message::Message;
use crate::bus::view::PublisherView;
use crate::media::state::{EndReason, ErrorClass, Fault, StreamState};
use crate::media::{ConnectionId, Form, MediaPart, ShardId, StreamKey};
use crate::stream::ingest::Progress;

/// Why a publisher may not publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishRefusal {
    /// Somebody else has the name.
    NameTaken,
    Overloaded,
}

impl Shard {
    /// A publisher that was accepted here or moved here asks for a key that this shard owns.
    ///
    /// # Errors
    /// [`PublishRefusal`]; whoever has the name is not touched.
    pub fn publish(
        &mut self,
        now: Instant,
        key: &StreamKey,
        view: PublisherView,
    ) -> Result<StreamHandle, PublishRefusal> {
        debug_assert_eq!(self.owner_of(key), self.id);
        let found = self.tables.find(key);
        self.may_publish(found)?;
        self.somebody_brings(now, key);
        let (connection, form, peer) = (view.connection, view.form, view.peer);
        let view = Box::new(view);
        let source = Source::Publisher { connection, view, held: None };
        let mut was_kept = false;
        let handle = match found {
            None => {
                let generation = self.next_generation();
                self.tables.insert(key.clone(), generation, source, (now, self.now_unix))
            }
            Some(handle) => {
                let stream = self.tables.get_mut(handle).expect("just found");
                was_kept = matches!(stream.source, Source::None { kept: true });
                stream.source = source;
                let grace = stream.grace.take();
                stream.media.change_source();
                self.timers.cancel(grace);
                handle
            }
        };
        self.publishers.insert(connection, handle);
        self.hold_publisher_or_take_form(now, handle, form);
        let stream = self.tables.get_mut(handle).expect("just made or found");
        stream.last_media = now;
        let due = now + self.policy.publisher_silence;
        stream.silence = Some(self.timers.set(due, Timer::Silence(handle)));
        self.tell(handle, |_| match was_kept {
            true => What::SourceSwitched { connection, peer },
            false => What::Pending { by: Asker::Publisher, url: None },
        });
        Ok(handle)
    }

    /// Whether a publisher may have a key, under which this was found.
    fn may_publish(&mut self, found: Option<StreamHandle>) -> Result<(), PublishRefusal> {
        let is_full = self.tables.pending_count() >= self.policy.pending_max;
        if self.shutting_down || found.is_none() && is_full {
            return Err(PublishRefusal::Overloaded);
        }
        let stream = found.and_then(|handle| self.tables.get(handle));
        let is_free =
            |stream: &Stream| matches!(stream.source, Source::None { .. }) || gives_way(stream);
        if stream.is_none_or(is_free) {
            return Ok(());
        }
        self.totals.publishes_refused += 1;
        Err(PublishRefusal::NameTaken)
    }

    /// A publisher has ended its stream (`clean`), or its connection broke. Its socket is not the
    /// shard's any more.
    pub fn unpublish(&mut self, now: Instant, connection: ConnectionId, clean: bool) {
        let Some(handle) = self.publishers.remove(&connection) else { return };
        let stream = self.tables.get_mut(handle).expect("a publisher's stream is in a table");
        let keep = !clean && stream.registered && !self.policy.continue_push.is_zero();
        stream.source = Source::None { kept: keep };
        let silence = stream.silence.take();
        self.timers.cancel(silence);
        if keep {
            let grace = self.policy.continue_push;
            let fault = Fault::new(ErrorClass::Lost, "the publisher's connection has ended");
            self.tell(handle, |_| What::Lost { url: None, fault, next_try: None });
            self.suspend(now, handle, grace);
            return;
        }
        if stream.is_had() && !stream.registered {
            // It had come back for players that are kept, and brought nothing.
            stream.source = Source::None { kept: true };
            stream.media.change_source();
            let due = stream.lost.map_or(now + self.policy.continue_push, |lost| lost.kept_until);
            stream.grace = Some(self.timers.set(due, Timer::Grace(handle)));
            return;
        }
        if !stream.registered && !stream.subscribers.is_empty() {
            // It never came up, so those who wait for it go on waiting, and others are asked.
            stream.lost = None;
            self.forget_media(handle);
            self.tell_grace_over(handle);
            let stream = self.tables.get(handle).expect("just seen");
            let asking = stream.askings().next().cloned();
            match asking {
                Some(_) => self.demand_for(now, handle, asking),
                None => self.tell(handle, |_| What::Pending { by: Asker::Players, url: None }),
            }
            return;
        }
        let reason = if clean { EndReason::Unpublished } else { EndReason::SourceLost };
        self.end_stream(now, handle, reason, None);
    }

    /// The next piece of media of a source. `false` when the source is not that of the stream any
    /// more.
    pub fn media(&mut self, now: Instant, handle: StreamHandle, part: MediaPart) -> bool {
        let stream = self.tables.get_mut(handle);
        let stream = stream.filter(|stream| !matches!(stream.source, Source::None { .. }));
        let Some(stream) = stream else {
            self.totals.late_messages += 1;
            return false;
        };
        if let Some(held) = stream.held() {
            let is_media = matches!(part, MediaPart::Data { .. } | MediaPart::Script { .. });
            let (parts, dropped) = (held.handle(part), held.take_dropped());
            self.totals.add_trial(dropped);
            stream.note_held(now, is_media);
            if let Some(parts) = parts {
                self.publisher_takes_over(now, handle);
                for part in parts {
                    self.media(now, handle, part);
                }
                self.tell_forms(now, handle);
            }
            return true;
        }
        let received = stream.media.bytes().received;
        let progress = stream.media.handle(part);
        self.media_came(now, handle, received, progress);
        true
    }

    /// What is due after a part of a source: `received` were the bytes before it.
    pub(super) fn media_came(
        &mut self,
        now: Instant,
        handle: StreamHandle,
        received: u64,
        progress: Progress,
    ) {
        let stream = self.tables.get_mut(handle).expect("its media just came");
        let received = stream.media.bytes().received - received;
        if received == 0 && progress == Progress::default() {
            // A tag begins.
            return;
        }
        stream.rate.count(now, received);
        if received > 0 && !progress.beside {
            stream.last_media = now;
            stream.gaps.media_came(now);
        }
        if progress.lost_video {
            Form::ALL.into_iter().for_each(|form| self.renew_replicas(handle, form));
        }
        let stream = self.tables.get_mut(handle).expect("its media just came");
        if !progress.committed {
            if !stream.registered && stream.media.has_passed_over() {
                self.await_keyframe_of_lead(now, handle);
            }
            return;
        }
        stream.unflushed = true;
        if progress.frame && progress.video {
            stream.video_since.get_or_insert(now);
        }
        if progress.frame && !stream.registered {
            self.register(now, handle);
        }
        if !progress.frame && !progress.beside {
            // A configuration may be of another codec.
            self.tell_forms(now, handle);
        }
        self.flush_in_time(now, handle, progress.video);
    }

    /// Has a stream flushed when what came now is due: video at once, audio when it has waited for
    /// video, and all streams of the shard together where the operator wants a flush window.
    fn flush_in_time(&mut self, now: Instant, handle: StreamHandle, is_video: bool) {
        let wait = if is_video { Duration::ZERO } else { self.policy.audio_wait };
        let mut due = now + wait;
        let window = self.policy.flush_window;
        if !window.is_zero() {
            let start = *self.flush_grid.get_or_insert(now);
            let into_window = now.duration_since(start).as_nanos() % window.as_nanos();
            due = due.max(now + window - Duration::from_nanos(into_window as u64));
        }
        if due <= now {
            self.flush_soon(handle);
            return;
        }
        let stream = self.tables.get_mut(handle).expect("its media just came");
        if stream.flush_due.is_none_or(|old| due < old) {
            if let Some(old) = stream.flush_due.replace(due) {
                self.flush_queue.remove(&(old, handle));
            }
            self.flush_later.push(handle);
        }
    }

    /// Enters those of this turn that are to be flushed later. Most are not: video came with the audio, and
    /// they have been flushed.
    pub(super) fn queue_flushes(&mut self) {
        for handle in self.flush_later.drain(..) {
            let due = self.tables.get(handle).and_then(|stream| stream.flush_due);
            self.flush_queue.extend(due.map(|due| (due, handle)));
        }
    }

    /// Has a stream flushed in this turn's tick.
    pub(super) fn flush_soon(&mut self, handle: StreamHandle) {
        if let Some(stream) = self.tables.get_mut(handle)
            && !std::mem::replace(&mut stream.dirty, true)
        {
            self.dirty_streams.push(handle);
        }
    }

    pub(super) fn state_of(&self, handle: StreamHandle) -> StreamState {
        let Some(stream) = self.tables.get(handle) else { return StreamState::AwaitingSource };
        if stream.registered {
            return StreamState::Registered;
        }
        match &stream.source {
            Source::None { .. } => StreamState::AwaitingSource,
            Source::Publisher { .. } => StreamState::AwaitingMedia,
            Source::Pull(pull) => pull.state(),
        }
    }

    /// First media: from pending to registered.
    pub(super) fn register(&mut self, now: Instant, handle: StreamHandle) {
        self.tables.register(handle, (now, self.now_unix));
        self.totals.registrations += 1;
        let stream = self.tables.get_mut(handle).expect("just registered");
        let grace = stream.grace.take();
        stream.lost = None;
        let key = stream.key.clone();
        self.timers.cancel(grace);
        self.goes_up(now, handle);
        let stream = self.tables.get_mut(handle).expect("just registered");
        let places: Vec<(ShardId, Form)> = stream.subscribers.keys().copied().collect();
        for (shard, form) in places {
            let stream = self.tables.get_mut(handle).expect("just registered");
            // Not those that were refused with another one.
            let Some(subscriber) = stream.subscribers.get_mut(&(shard, form)) else { continue };
            if subscriber.attached && !subscriber.lacks_flush {
                subscriber.suspended = false;
                // What it has ends before the splice; the next flush carries the rest.
                let message = Message::Resumed { key: key.clone(), local: subscriber.local };
                self.send(shard, message);
            } else {
                self.attach(handle, shard, form);
            }
        }
        self.flush_soon(handle);
        self.watch_registered(now, handle);
        self.tell_registered(now, handle);
        self.wake_pushes(now, &key);
    }

    /// Gives a shard the log in a form, as far as it is flushed. Where that form is only being made,
    /// or the shard's queue is full, it gets it with a later flush: so no snapshots pile up which nobody
    /// can use.
    pub(super) fn attach(&mut self, handle: StreamHandle, shard: ShardId, form: Form) {
        let own = shard == self.id;
        self.want_form(handle, form);
        let Some(stream) = self.tables.get_mut(handle) else { return };
        let key = stream.key.clone();
        let Some(subscriber) = stream.subscribers.get_mut(&(shard, form)) else { return };
        let log = stream.media.log(form);
        let Some(log) = log.filter(|_| own || !self.backed_up[shard.index()]) else {
            subscriber.lacks_flush = true;
            return;
        };
        let snapshot = (!own).then(|| Box::new(log.snapshot()));
        subscriber.attached = true;
        subscriber.lacks_flush = false;
        subscriber.suspended = false;
        subscriber.sent_seq = log.flushed_seq();
        let local = subscriber.local;
        let generation = handle.generation;
        self.send(shard, Message::Attached { key, local, generation, snapshot });
    }

    /// The source to come brings a form. Where it is another one than that of the last source, players
    /// of packets who were kept for that go on if their description can hold, and are sent away if not.
    pub(super) fn take_form(&mut self, now: Instant, handle: StreamHandle, form: Form) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        if stream.media.form() == form {
            return;
        }
        if !stream.media.packets_can_go_on() {
            self.end_attached(handle, |of| of == Form::Rtp, EndReason::TracksChanged);
        }
        let stream = self.tables.get_mut(handle).expect("it stays");
        self.totals.add_media(&stream.media);
        let since = stream.lost.map_or(stream.last_media, |lost| lost.since);
        stream.media.take_form(form, now, now.duration_since(since));
        if !stream.is_had() {
            stream.media.start_over();
        } else if !stream.is_had_in(|of| of != form) {
            stream.media.drop_other();
        }
    }

    /// Ends the presences of a stream that have players, those of some forms.
    pub(super) fn end_attached(
        &mut self,
        handle: StreamHandle,
        of: impl Fn(Form) -> bool,
        reason: EndReason,
    ) {
        self.end_presences(handle, |form, subscriber| of(form) && subscriber.attached, reason);
    }

    /// Ends some presences of a stream.
    pub(super) fn end_presences(
        &mut self,
        handle: StreamHandle,
        which: impl Fn(Form, &Subscriber) -> bool,
        reason: EndReason,
    ) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let all = std::mem::take(&mut stream.subscribers);
        let (ended, kept) =
            all.into_iter().partition(|((_, form), subscriber)| which(*form, subscriber));
        stream.subscribers = kept;
        let ended: BTreeMap<(ShardId, Form), Subscriber> = ended;
        let wants_other = stream.subscribers.keys().any(|(_, of)| *of != stream.media.form());
        stream.ended_locals.extend(ended.values().map(|subscriber| subscriber.local));
        let key = stream.key.clone();
        for ((shard, _), Subscriber { local, .. }) in ended {
            let generation = handle.generation;
            self.ended_locals.insert(local);
            if shard == self.id {
                // At once: this shard's players read the log that may be taken away after this.
                let key = key.clone();
                self.end_local(EndOfLocal { key, local, owner: shard, generation, reason });
            } else {
                self.send(shard, Message::End { key: key.clone(), local, generation, reason });
            }
        }
        if !wants_other && let Some(stream) = self.tables.get_mut(handle) {
            stream.media.drop_other();
        }
    }

    /// Gives the memory of a lost source back when nobody has anything of it any more. An attempt
    /// that is under way may have brought its configurations already, so it keeps the log.
    pub(super) fn forget_media(&mut self, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let is_had = stream.is_had();
        let is_coming = stream.pull().is_some_and(|pull| pull.attempt().is_some());
        if !is_had && !is_coming && !stream.registered && stream.grace.is_none() {
            stream.media.start_over();
        }
    }

    /// Flushes the owned streams whose time has come; what other shards are to have of it is among
    /// the actions. [`Shard::tick`] does it too.
    pub fn flush_streams(&mut self) {
        for handle in std::mem::take(&mut self.dirty_streams) {
            if let Some(stream) = self.tables.get_mut(handle) {
                stream.dirty = false;
                self.flush_now(handle);
            }
        }
    }

    /// Lets players have everything that has come. What comes before a stream is registered waits
    /// for that.
    pub(super) fn flush_now(&mut self, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        if let Some(due) = stream.flush_due.take() {
            self.flush_queue.remove(&(due, handle));
        }
        if std::mem::take(&mut stream.unflushed) && stream.registered {
            stream.media.flush();
            self.look_at_other(handle);
            self.want_other_again(handle);
            let stream = self.tables.get_mut(handle).expect("it stays");
            let video_since = stream.video_since.take();
            for form in Form::ALL {
                self.send_flush(handle, form, video_since);
            }
        }
    }

    /// Tells who has players of a form what was flushed.
    pub(super) fn send_flush(
        &mut self,
        handle: StreamHandle,
        form: Form,
        video_since: Option<Instant>,
    ) {
        let own = self.id;
        let stream = self.tables.get_mut(handle).expect("just flushed");
        let Some(log) = stream.media.log(form) else {
            return;
        };
        let flushed_seq = log.flushed_seq();
        let mut others = Vec::new();
        let mut behind = Vec::new();
        let mut here = None;
        let of_form = stream.subscribers.iter_mut().filter(|((_, of), _)| *of == form);
        for (&(shard, _), subscriber) in of_form {
            if subscriber.lacks_flush {
                behind.push((shard, subscriber.attached));
            } else if shard == own {
                here = subscriber.attached.then_some(subscriber.local);
            } else {
                let (key, local) = (stream.key.clone(), subscriber.local);
                let delta = log.delta(subscriber.sent_seq);
                others.push((shard, Message::Flushed { key, local, delta, video_since }));
                subscriber.sent_seq = flushed_seq;
            }
        }
        for (shard, message) in others {
            self.send(shard, message);
        }
        for (shard, was_attached) in behind {
            let is_resync = was_attached && !self.backed_up[shard.index()];
            self.totals.resyncs += u64::from(is_resync);
            self.attach(handle, shard, form);
        }
        if let Some(local) = here {
            self.mark_local_dirty(local, video_since);
        } else {
            let gop_bytes_max = self.policy.gop_bytes_max;
            let stream = self.tables.get_mut(handle).expect("just flushed");
            stream.media.trim(form, None, gop_bytes_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use bytes::Bytes;

    use super::*;
    use crate::clock;
    use crate::config::Config;
    use crate::media::TagKind;
    use crate::shard::Policy;
    use crate::shard::bus_tests::NoPlayers;

    const SOUND: &[u8] = &[0x72, 1, 2, 3];
    const PICTURE: &[u8] = &[0x27, 1, 0, 0, 0, 1, 2, 3];

    #[test]
    fn flush_is_queued_for_sound_that_its_turn_does_not_flush() {
        let id = ShardId(0);
        let policy = Policy::of(&Config::default(), 1);
        let wait = policy.audio_wait;
        let mut shard = Shard::new(id, 1, 7, policy);
        let now = clock::now();
        let key = StreamKey::in_default_vhost("live", "a").unwrap();
        let nowhere = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9);
        let view = PublisherView {
            connection: ConnectionId { serial: 1, shard: id },
            form: Form::Flv,
            local: nowhere,
            peer: nowhere,
            params: String::new(),
        };
        let handle = shard.publish(now, &key, view).unwrap();
        let mut turn = |tags: &[(TagKind, &'static [u8])]| {
            for &(kind, payload) in tags {
                let (lane, len) = (kind as u32, payload.len() as u32);
                let begin = MediaPart::Begin { lane, kind, timestamp_ms: 0, len };
                let data = MediaPart::Data { lane, bytes: Bytes::from_static(payload) };
                assert!(shard.media(now, handle, begin) && shard.media(now, handle, data));
            }
            shard.tick(now, &mut NoPlayers);
            assert!(shard.flush_later.is_empty());
            shard.flush_queue.iter().copied().collect::<Vec<_>>()
        };
        let (sound, picture) = ((TagKind::Audio, SOUND), (TagKind::Video, PICTURE));
        // The first frame of all is flushed at once.
        assert_eq!(turn(&[sound]), []);
        assert_eq!(turn(&[sound, sound]), [(now + wait, handle)]);
        assert_eq!(turn(&[picture]), []);
        assert_eq!(turn(&[sound, picture]), []);
        assert_eq!(turn(&[sound]), [(now + wait, handle)]);
    }
}
