//! From the first media of a pull's source to the stream that it brings: at once, or held back until it
//! can take over from another one.

use std::time::{Duration, Instant};

use super::failover::{Purpose, Side};
use super::lifecycle::{KEYFRAME, PullState, Try};
use super::tables::{Source, StreamHandle};
use super::timers::Timer;
use super::{Action, PullNews, Shard, Stage};
use crate::bus::event::{Switch, What};
use crate::bus::message::Answer;
use crate::limits::KEYFRAME_PATIENCE;
use crate::media::state::{ErrorClass, Fault, StreamState};
use crate::media::{AttemptId, Form, MediaPart};
use crate::proto::rtp::RtpPart;
use crate::stream::Tryout;

/// How long a keyframe is awaited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) until: Instant,
    /// When media came last.
    pub(super) heard: Instant,
}

impl Patience {
    /// When it ends if no more media comes.
    pub(super) fn due(self, media_timeout: Duration) -> Instant {
        self.until.min(self.heard + media_timeout)
    }
}

impl Shard {
    /// Media of an attempt. `false` when it is not that of the stream any more.
    pub fn attempt_media(&mut self, now: Instant, attempt: AttemptId, part: MediaPart) -> bool {
        let Some((handle, held)) = self.way_of(attempt) else { return false };
        let Some(held) = held else { return self.media(now, handle, part) };
        let (parts, dropped) = (held.handle(part), held.take_dropped());
        let needs_patience = parts.is_none() && held.needs_patience();
        self.totals.add_trial(dropped);
        if let Some(parts) = parts {
            self.take_over(now, handle, attempt);
            for part in parts {
                self.media(now, handle, part);
            }
            self.tell_forms(now, handle);
        } else if needs_patience {
            self.await_keyframe(now, attempt);
        }
        true
    }

    /// The next step of an attempt whose origin brings RTP. `false` as of [`Self::attempt_media`].
    pub fn attempt_rtp(&mut self, now: Instant, attempt: AttemptId, part: RtpPart) -> bool {
        let Some((handle, held)) = self.way_of(attempt) else { return false };
        let Some(held) = held else { return self.rtp(now, handle, part) };
        let (parts, dropped) = (held.handle_rtp(part), held.take_dropped());
        let needs_patience = parts.is_none() && held.needs_patience();
        self.totals.add_trial(dropped);
        if let Some(parts) = parts {
            self.take_over(now, handle, attempt);
            for part in parts {
                self.rtp(now, handle, part);
            }
            self.tell_forms(now, handle);
        } else if needs_patience {
            self.await_keyframe(now, attempt);
        }
        true
    }

    /// As [`Self::await_keyframe`], of a lead that goes on where another source ended and is not held back.
    pub(super) fn await_keyframe_of_lead(&mut self, now: Instant, handle: StreamHandle) {
        let pull = self.tables.get(handle).and_then(|stream| stream.pull());
        if let Some(attempt) = pull.and_then(|pull| pull.attempt()) {
            self.await_keyframe(now, attempt);
        }
    }

    /// A source that is to take over brings media, so it is not silent: its keyframe may take longer than
    /// its first media, as long as more comes.
    fn await_keyframe(&mut self, now: Instant, attempt: AttemptId) {
        let Some(&handle) = self.attempts.get(&attempt) else { return };
        let pull = self.tables.get_mut(handle).and_then(|stream| stream.pull_mut());
        let Some(pull) = pull else { return };
        let media_timeout = pull.options.media_timeout;
        let way = pull.side_of(attempt).and_then(|side| pull.try_mut(side));
        let Some(Try { state: PullState::Trying { awaiting, timer, .. }, patience, .. }) = way
        else {
            return;
        };
        if let Some(patience) = patience {
            patience.heard = now;
            return;
        }
        let begun = Patience { until: now + KEYFRAME_PATIENCE, heard: now };
        (*awaiting, *patience) = (KEYFRAME, Some(begun));
        let due = self.timers.set(begun.due(media_timeout), Timer::Attempt(attempt));
        let old = timer.replace(due);
        self.timers.cancel(old);
    }

    /// The stream that an attempt brings media to, and what holds that back.
    fn way_of(&mut self, attempt: AttemptId) -> Option<(StreamHandle, Option<&mut Tryout>)> {
        let handle = *self.attempts.get(&attempt)?;
        let pull = self.tables.get_mut(handle).and_then(|stream| stream.pull_mut());
        let way = pull.and_then(|pull| pull.try_mut(pull.side_of(attempt)?));
        let Some(way) = way else {
            self.totals.late_messages += 1;
            return None;
        };
        Some((handle, way.held.as_deref_mut()))
    }

    /// Decides before a try whether what it brings goes into the log at once. It does not while another
    /// source brings the stream, or where players may be ended for what it brings: they stay as long as it
    /// may fail.
    pub(super) fn hold_or_take_form(&mut self, now: Instant, handle: StreamHandle, side: Side) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let wants_video = stream.media.tracks().video.is_some();
        let pull = stream.pull_mut().expect("only pulls are dialed");
        let way = pull.try_mut(side).expect("callers have one");
        let brings = way.target().form();
        way.held = None;
        if side == Side::Rival || stream.may_end_players(brings) {
            let pull = stream.pull_mut().expect("just seen");
            let way = pull.try_mut(side).expect("just seen");
            way.held = Some(Box::new(Tryout::new(wants_video)));
        } else {
            self.take_form(now, handle, brings);
        }
    }

    /// As [`Self::hold_or_take_form`], of a publisher that has just come.
    pub(super) fn hold_publisher_or_take_form(
        &mut self,
        now: Instant,
        handle: StreamHandle,
        brings: Form,
    ) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let wants_video = stream.media.tracks().video.is_some();
        let is_held = stream.may_end_players(brings);
        if let Source::Publisher { held, .. } = &mut stream.source
            && is_held
        {
            *held = Some(Box::new(Tryout::new(wants_video)));
        } else {
            self.take_form(now, handle, brings);
        }
    }

    /// A publisher that was held back has a keyframe.
    pub(super) fn publisher_takes_over(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("its media just came");
        let Source::Publisher { held, view, .. } = &mut stream.source else { return };
        let (held, form) = (held.take(), view.form);
        match stream.is_had() {
            true => stream.media.change_source(),
            false => stream.media.start_over(),
        }
        self.take_form(now, handle, form);
        let stream = self.tables.get_mut(handle).expect("it stays");
        if let Some(held) = held {
            held.begin_in(&mut stream.media);
        }
    }

    /// A source that was held back has a keyframe: from here on it brings the stream.
    fn take_over(&mut self, now: Instant, handle: StreamHandle, attempt: AttemptId) {
        let stream = self.tables.get_mut(handle).expect("its media just came");
        let registered = stream.registered;
        let pull = stream.pull_mut().expect("its attempt's media just came");
        let is_rival = pull.side_of(attempt) == Some(Side::Rival);
        if is_rival {
            self.replace_lead(now, handle);
        }
        let stream = self.tables.get_mut(handle).expect("it stays");
        let pull = stream.pull_mut().expect("it stays");
        let held = pull.lead.held.take();
        let form = pull.lead.target().form();
        if registered && form != stream.media.form() {
            let grace = self.policy.reconnect_grace;
            let fault = Fault::new(ErrorClass::Lost, "a source of another form takes over");
            self.tell(handle, |stream| What::Lost {
                url: stream.pull().and_then(|pull| pull.up_url.clone()),
                fault,
                next_try: Some(Duration::ZERO),
            });
            self.suspend(now, handle, grace);
        }
        self.flush_now(handle);
        let stream = self.tables.get_mut(handle).expect("it stays");
        let is_had = stream.is_had();
        if is_had || registered {
            stream.media.drop_unfinished();
            stream.media.change_source();
        } else {
            stream.media.start_over();
        }
        self.take_form(now, handle, form);
        let stream = self.tables.get_mut(handle).expect("it stays");
        if let Some(held) = held {
            held.begin_in(&mut stream.media);
        }
        if stream.registered {
            self.goes_up(now, handle);
        }
    }

    /// Gives the lead up for the rival.
    fn replace_lead(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let silence = stream.silence.take();
        let pull = stream.pull_mut().expect("callers look");
        let rival = *pull.rival.take().expect("callers look");
        let (old, hedge) = (pull.lead_state(), pull.hedge.take());
        let is_update = matches!(rival.purpose, Purpose::Update { .. });
        // Those that came while it was pending asked for the sources that it had.
        let adds = if is_update { std::mem::take(&mut pull.adds) } else { Vec::new() };
        if is_update {
            pull.switch = Switch::Updated;
        }
        pull.lead_with(rival);
        self.timers.cancel(silence);
        self.timers.cancel(hedge);
        self.give_up(now, handle, old);
        if is_update {
            self.keep_again(handle);
        }
        for ticket in adds {
            self.answer(ticket, Answer::AddCancelled);
        }
    }

    /// The lead brings media: whoever waits is answered, and no other one of its sources is needed.
    pub(super) fn goes_up(&mut self, now: Instant, handle: StreamHandle) {
        let stream = self.tables.get_mut(handle).expect("callers look");
        let key = stream.key.clone();
        let Some(pull) = stream.pull_mut() else { return };
        let (was_up, took) = (pull.lead.is_up(), pull.lead.took(now));
        let failures = pull.succeed(now);
        let hedge = pull.hedge.take();
        let url = pull.lead.url.clone();
        let before = pull.up_url.replace(url.clone());
        let why = std::mem::take(&mut pull.switch);
        pull.up_since = Some(now);
        let (timer, place) = (pull.lead.timer(), pull.lead.place());
        if let PullState::Trying { stage, awaiting, timer, holds_place, .. } = &mut pull.lead.state
        {
            (*stage, *awaiting, *timer, *holds_place) = (Stage::Up, "media", None, false);
        }
        let is_hedged = pull.is_hedged();
        let due = now + pull.options.media_timeout;
        let adds = std::mem::take(&mut pull.adds);
        let origin = pull.lead.origin();
        stream.last_media = now;
        if !was_up {
            self.hosts.went_up(now, &origin, took);
        }
        let silence = stream.silence.replace(self.timers.set(due, Timer::Silence(handle)));
        for timer in [timer, hedge, silence] {
            self.timers.cancel(timer);
        }
        if failures > 0 {
            self.actions.push_back(Action::Tell(PullNews::Recovered { key, origin, failures }));
        }
        if let Some(place) = place {
            self.give_place_back(now, &place.origin);
        }
        if is_hedged {
            self.drop_rival(now, handle);
        }
        if let Some(from) = before.filter(|before| before.as_str() != url.as_str()) {
            self.tell(handle, |_| What::SourceReplaced { from, url, why });
        }
        self.keep_pull(handle);
        for ticket in adds {
            let state = StreamState::Registered;
            self.answer(ticket, Answer::Added { state, generation: handle.generation });
        }
    }

    /// Whether what an attempt brings goes into its stream's log; for tests.
    pub fn brings_media(&self, attempt: AttemptId) -> bool {
        let stream = self.attempts.get(&attempt).and_then(|&handle| self.tables.get(handle));
        let stream = stream.filter(|stream| stream.registered || !stream.media.has_passed_over());
        let pull = stream.and_then(|stream| stream.pull());
        pull.is_some_and(|pull| pull.attempt() == Some(attempt) && pull.lead.held.is_none())
    }
}
