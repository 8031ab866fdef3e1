//! What the API asks of a shard.

use std::time::Instant;

use super::Shard;
use super::closing::AskedFor;
use super::tables::{Source, StreamHandle};
use crate::bus::message::{Answer, Ask, CloseOutcome, Ticket};
use crate::bus::view::{FormView, PlayerView, PullView, SourceView, StreamView};
use crate::media::state::{EndReason, Generation};
use crate::media::{Form, StreamKey};

impl Shard {
    /// Which life of a key that this shard owns lives now.
    pub fn generation_of(&self, key: &StreamKey) -> Option<Generation> {
        self.tables.find(key).map(|handle| handle.generation)
    }

    /// Answers, at once or when it is done. `Ask::Node` is `net`'s.
    pub fn handle_ask(&mut self, now: Instant, ticket: Ticket, ask: Ask) {
        match ask {
            Ask::AddPull { key, urls, options } => self.add_pull(now, ticket, key, urls, options),
            Ask::UpdatePull { key, urls, timeout } => {
                self.update_pull(now, ticket, &key, (urls, timeout));
            }
            Ask::DeletePull { key } => self.delete_pull(now, ticket, &key),
            Ask::AddPush { key, url, options } => self.add_push(now, ticket, key, url, options),
            Ask::DeletePush { key, digest } => self.delete_push(now, ticket, (&key, digest)),
            Ask::Push { key, digest } => {
                let view = self.push_of(now, (&key, digest)).map(Box::new);
                self.answer(ticket, Answer::Push(view));
            }
            Ask::Pushes { after } => {
                let (page, next) = self.page_of_pushes(now, after);
                self.answer(ticket, Answer::Pushes { page, next });
            }
            Ask::Close { key, generation, form, force, pending_too } => {
                self.close(now, ticket, &key, (generation, form), (force, pending_too));
            }
            Ask::CloseIdle { key, generation } => self.close_idle(now, ticket, &key, generation),
            Ask::KeepIdle { key, generation } => {
                self.keep_idle(&key, generation);
                self.answer(ticket, Answer::Done);
            }
            Ask::SendAway { key, generation } => {
                self.send_away_waiters(now, ticket, &key, generation);
            }
            Ask::Demand { key, generation } => {
                self.hook_has_answered(now, &key, generation);
                self.answer(ticket, Answer::Done);
            }
            Ask::Absences { key } => {
                let (views, count) = self.absences(now, key.as_ref());
                self.answer(ticket, Answer::Absences(views, count));
            }
            Ask::Origins => {
                let views = self.origin_views(now);
                self.answer(ticket, Answer::Origins(views));
            }
            Ask::ForgetAbsences { key } => {
                let count = self.forget_absences(key.as_ref());
                self.answer(ticket, Answer::Forgotten(count));
            }
            Ask::Stream { key } => {
                let found = self.tables.find(&key);
                let view = found.and_then(|handle| self.view(now, handle)).map(Box::new);
                self.answer(ticket, Answer::Stream(view));
            }
            Ask::Gaps { key } => {
                let found = self.tables.find(&key).and_then(|handle| self.tables.get(handle));
                let gaps = found.map(|stream| stream.gaps.view(now)).unwrap_or_default();
                self.answer(ticket, Answer::Gaps(gaps));
            }
            Ask::Streams { from, registered_only } => {
                let (handles, next) = self.tables.page(from, registered_only);
                let page = handles.into_iter().filter_map(|handle| self.view(now, handle));
                let page = page.collect();
                self.answer(ticket, Answer::Streams { page, next });
            }
            Ask::Players { key } => {
                let views = self.player_views(&key);
                self.answer(ticket, Answer::Players(views));
            }
            Ask::Node(_) => unreachable!("net answers these"),
        }
    }

    fn delete_pull(&mut self, now: Instant, ticket: Ticket, key: &StreamKey) {
        let found = self.tables.find(key);
        let pull =
            found.filter(|&handle| self.tables.get(handle).is_some_and(|s| s.pull().is_some()));
        match pull {
            None => self.answer(ticket, Answer::Deleted(None)),
            Some(handle) => {
                let asked = Some((ticket, AskedFor::Delete));
                self.end_stream(now, handle, EndReason::Deleted, asked);
            }
        }
    }

    /// A hook says that nobody will bring it. Where somebody does meanwhile, nothing happens.
    fn send_away_waiters(
        &mut self,
        now: Instant,
        ticket: Ticket,
        key: &StreamKey,
        generation: Option<Generation>,
    ) {
        let found = self.tables.find(key).filter(|&handle| {
            if generation.is_some_and(|of| of != handle.generation) {
                return false;
            }
            let stream = self.tables.get(handle);
            stream.is_some_and(|stream| matches!(stream.source, Source::None { kept: false }))
        });
        match found {
            None => self.answer(ticket, Answer::Close(CloseOutcome::NotFound)),
            Some(handle) => {
                let asked = Some((ticket, AskedFor::Close));
                self.end_stream(now, handle, EndReason::SentAway, asked);
            }
        }
    }

    fn close(
        &mut self,
        now: Instant,
        ticket: Ticket,
        key: &StreamKey,
        (generation, form): (Option<Generation>, Option<Form>),
        (force, pending_too): (bool, bool),
    ) {
        let found = self.tables.find(key);
        let found = found.filter(|handle| generation.is_none_or(|of| of == handle.generation));
        let Some(handle) = found else {
            self.answer(ticket, Answer::Close(CloseOutcome::NotFound));
            return;
        };
        let stream = self.tables.get(handle).expect("just found");
        if !stream.registered && !pending_too {
            let outcome = CloseOutcome::Pending(self.state_of(handle));
            self.answer(ticket, Answer::Close(outcome));
            return;
        }
        if stream.registered && form.is_some_and(|form| !stream.is_playable(form)) {
            self.answer(ticket, Answer::Close(CloseOutcome::NotFound));
            return;
        }
        if stream.registered && !force && stream.players() + stream.waiters() > 0 {
            self.answer(ticket, Answer::Close(CloseOutcome::HasPlayers));
            return;
        }
        self.end_stream(now, handle, EndReason::Closed, Some((ticket, AskedFor::Close)));
    }

    pub(super) fn view(&self, now: Instant, handle: StreamHandle) -> Option<StreamView> {
        let stream = self.tables.get(handle)?;
        let source = match &stream.source {
            Source::None { .. } => SourceView::None,
            Source::Publisher { view, .. } => SourceView::Publisher(view.clone()),
            Source::Pull(pull) => SourceView::Pull(PullView {
                on_demand: pull.on_demand,
                url: pull.lead.url.clone(),
                sources: pull.sources.views(now),
                rival: pull.rival.as_ref().map(|rival| rival.way.url.clone()),
                timeout: pull.options.timeout,
                attempts: pull.attempts,
                last_fault: pull.last_fault.clone(),
                next_retry_ms: pull.next_retry_ms(now),
                was_up: pull.was_up,
                losses: pull.losses,
                ends: pull.lead.ends,
            }),
        };
        let alive = stream.registered_at.map(|(since, _)| now.duration_since(since));
        Some(StreamView {
            key: stream.key.clone(),
            generation: stream.generation,
            state: self.state_of(handle),
            registered: stream.registered,
            source,
            age_ms: now.duration_since(stream.since).as_millis() as u64,
            alive_ms: alive.map_or(0, |alive| alive.as_millis() as u64),
            created_unix: stream.registered_at.map_or(stream.since_unix, |(_, unix)| unix),
            forms: Form::ALL.map(|form| FormView {
                form,
                playable: stream.is_playable(form),
                players: stream.players_of(form),
            }),
            waiters: stream.waiters(),
            media_age_ms: now.duration_since(stream.last_media).as_millis() as u64,
            bytes_per_second: stream.rate.per_second(now),
            bytes_total: stream.media.bytes().received,
            timestamp_ms: stream.media.timestamp_ms().unwrap_or(0),
            tracks: stream.media.tracks().clone(),
        })
    }

    fn player_views(&self, key: &StreamKey) -> Option<Vec<PlayerView>> {
        let present = Form::ALL.map(|form| self.locals.get(key, form));
        if present.iter().all(Option::is_none) {
            return None;
        }
        let mut views = Vec::new();
        for here in present.into_iter().flatten() {
            let Some(log) = here.log.get(here.id.form, &self.tables) else { continue };
            views.extend(here.crowd.stats(log).filter_map(|stats| {
                let member = self.members.get(&stats.id)?;
                Some(PlayerView {
                    connection: stats.id,
                    packaging: stats.packaging,
                    local: member.local,
                    peer: member.peer,
                    sent_bytes: stats.sent_bytes,
                    lag_bytes: stats.lag_bytes,
                    jumps: stats.jumps,
                })
            }));
        }
        Some(views)
    }
}
