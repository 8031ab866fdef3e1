//! Players and waiters, and the presence of a stream on this shard.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::replica::{Local, LocalLog, LocalState, Member, Role};
use super::tables::Subscriber;
use super::timers::Timer;
use super::{Action, Admitted, PlayRequest, Shard};
use crate::bus::message::{LocalId, Message};
use crate::egress::datagrams::CATCH_UP_INTERVAL;
use crate::egress::{Crowd, CrowdEvents, Due, PlayerStart, Removed, RtpStart, Turn, Wire, round};
use crate::media::state::{EndReason, Generation};
use crate::media::{ConnectionId, Form, ShardId, StreamKey};
use crate::origin::Asking;
use crate::stream::log::{Delta, Snapshot};
use crate::stream::{Log, TrackSet};

impl Shard {
    /// The key as those hold it who play it here already: each of thousands would have its text once
    /// more.
    pub fn own_copy(&self, key: StreamKey) -> StreamKey {
        let mut forms = Form::ALL.into_iter();
        forms.find_map(|form| self.locals.get(&key, form)).map_or(key, |here| here.key.clone())
    }

    /// A connection asks to play. It is admitted as soon as the key is registered, or refused when
    /// it has waited long enough.
    pub fn play(&mut self, now: Instant, request: PlayRequest) {
        let PlayRequest { connection, key, packaging, local, peer, params } = request;
        if self.shutting_down {
            self.actions.push_back(Action::Refuse { connection, reason: EndReason::Shutdown });
            return;
        }
        let form = packaging.form();
        if self.locals.get(&key, form).is_none() {
            let serial = self.next_serial();
            self.locals.insert(key.clone(), form, self.id, serial);
            self.changed_interest.push((key.clone(), form));
        }
        let here = self.locals.get_mut(&key, form).expect("just made");
        let (asking, wait) = self.demands.ask((&params, peer.ip()), now, self.policy.stream_wait);
        let role = if here.state == LocalState::Live {
            here.admitting += 1;
            self.actions.push_back(Action::Admit { connection });
            Role::Admitting
        } else if here.waiters.len() >= self.policy.waiters_per_key_max {
            self.actions.push_back(Action::Refuse { connection, reason: EndReason::Overloaded });
            return;
        } else {
            here.waiters.insert(connection, asking);
            Role::Waiter(self.timers.set(now + wait, Timer::Wait(connection)))
        };
        // Boxed: a table that has just doubled is half empty places.
        let member = Box::new(Member { key: key.clone(), role, packaging, local, peer });
        self.members.insert(connection, member);
        self.interest_changed(&key, form);
    }

    /// The session of an admitted player knows that it plays; from now on its socket is fed.
    pub fn admitted(&mut self, now: Instant, admitted: Admitted, wire: &mut dyn Wire) {
        let Admitted { connection, socket, unsent, rtp } = admitted;
        let Some(member) = self.members.get_mut(&connection) else { return };
        if member.role != Role::Admitting {
            return;
        }
        member.role = Role::Player;
        let (key, packaging, form) = (member.key.clone(), member.packaging, member.form());
        let here = self.locals.get_mut(&key, form).expect("a member's key is here");
        here.admitting -= 1;
        let RtpStart { tracks, udp } = rtp.unwrap_or_default();
        self.with_crowd(&key, form, now, wire, |crowd, turn| {
            if !udp.is_empty() {
                crowd.join_datagrams(connection, &udp, turn);
                return;
            }
            let tracks = match turn.log.description() {
                Some(description) => TrackSet::of(tracks, description.media.len()),
                None => TrackSet::ALL,
            };
            let start = PlayerStart { id: connection, socket, packaging, unsent, tracks };
            let index = crowd.join(turn.log, start, turn.now);
            crowd.advance(index, turn);
        });
    }

    /// A player or waiter of this shard is gone, or is not one any more; what is left of its
    /// connection is not the shard's. What a player has got is in the answer.
    pub fn leave(&mut self, connection: ConnectionId) -> Option<Removed> {
        let member = self.members.remove(&connection)?;
        let form = member.form();
        let here = self.locals.get_mut(&member.key, form).expect("a member's key is here");
        let removed = match member.role {
            Role::Waiter(timer) => {
                here.waiters.remove(&connection);
                self.timers.cancel(Some(timer));
                None
            }
            Role::Admitting => {
                here.admitting -= 1;
                None
            }
            Role::Player => here.crowd.remove(connection),
        };
        self.interest_changed(&member.key, form);
        removed
    }

    /// A full socket takes bytes again.
    pub fn writable(&mut self, now: Instant, connection: ConnectionId, wire: &mut dyn Wire) {
        if let Some(member) = self.members.get(&connection) {
            let (key, form) = (member.key.clone(), member.form());
            self.with_crowd(&key, form, now, wire, |crowd, turn| crowd.writable(connection, turn));
        }
    }

    /// Protocol bytes for a player, to go between two tags.
    pub fn insert(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        bytes: Bytes,
        wire: &mut dyn Wire,
    ) {
        if let Some(member) = self.members.get(&connection) {
            let (key, form) = (member.key.clone(), member.form());
            self.with_crowd(&key, form, now, wire, |crowd, turn| {
                crowd.insert(connection, bytes, turn)
            });
        }
    }

    pub(super) fn wait_is_over(&mut self, connection: ConnectionId) {
        self.leave(connection);
        self.totals.waiters_refused += 1;
        self.actions.push_back(Action::Refuse { connection, reason: EndReason::WaitOver });
    }

    /// How many of a key's players and waiters another shard has, or this one.
    pub(super) fn interest(
        &mut self,
        now: Instant,
        (from, local): (ShardId, LocalId),
        key: StreamKey,
        (players, waiters): (u32, u32),
        askings: Vec<Arc<Asking>>,
    ) {
        if self.ended_locals.contains(&local) {
            self.totals.late_messages += 1;
            return;
        }
        let nobody = players == 0 && waiters == 0;
        let handle = match self.tables.find(&key) {
            Some(handle) => handle,
            None if nobody => return,
            None => {
                let entered = self.enter_awaited(now, (from, local), key, askings.is_empty());
                let Some(handle) = entered else { return };
                handle
            }
        };
        let asking = askings.first().cloned();
        let stream = self.tables.get_mut(handle).expect("just found or made");
        if nobody {
            stream.subscribers.retain(|_, subscriber| subscriber.local != local);
            if !stream.subscribers.keys().any(|(_, form)| *form != stream.media.form()) {
                stream.media.drop_other();
            }
            if stream.subscribers.is_empty() {
                self.nobody_is_left(now, handle);
            }
            self.look_who_plays(now, handle);
            return;
        }
        let known =
            stream.subscribers.get_mut(&(from, local.form)).filter(|known| known.local == local);
        if let Some(known) = known {
            (known.players, known.waiters) = (players, waiters);
            known.askings = askings;
            self.demand_for(now, handle, asking);
            self.look_who_plays(now, handle);
            return;
        }
        let subscriber = Subscriber {
            local,
            players,
            waiters,
            askings,
            attached: false,
            lacks_flush: false,
            suspended: false,
            sent_seq: 0,
        };
        stream.subscribers.insert((from, local.form), subscriber);
        if stream.registered {
            self.attach(handle, from, local.form);
        }
        self.demand_for(now, handle, asking);
        self.look_who_plays(now, handle);
    }

    /// The owner lets this shard have the log.
    pub(super) fn attached(
        &mut self,
        key: &StreamKey,
        local: LocalId,
        generation: Generation,
        snapshot: Option<Box<Snapshot>>,
    ) {
        let own = self.tables.find(key);
        let Some(here) = self.locals.of_mut(local) else {
            self.totals.late_messages += 1;
            return;
        };
        here.state = LocalState::Live;
        here.generation = Some(generation);
        match snapshot {
            None => {
                let handle = own.expect("the owner attaches only what it has");
                here.log = LocalLog::Owner(handle);
                let media = &self.tables.get(handle).expect("just found").media;
                here.crowd.follow(media.log(local.form).expect("the owner attaches what it has"));
            }
            Some(snapshot) => {
                let log = Box::new(Log::from_snapshot(*snapshot));
                match &here.log {
                    LocalLog::Replica(old) => here.crowd.relocate(old, &log),
                    _ => here.crowd.follow(&log),
                }
                here.log = LocalLog::Replica(log);
            }
        }
        self.admit_waiters(key, local.form);
        self.mark_local_dirty(local, None);
    }

    pub(super) fn flushed(&mut self, local: LocalId, delta: Delta, video_since: Option<Instant>) {
        let Some(here) = self.locals.of_mut(local) else {
            self.totals.late_messages += 1;
            return;
        };
        if let LocalLog::Replica(log) = &mut here.log
            && log.follow(delta)
        {
            self.totals.config_bytes_copied += log.take_config_bytes_copied();
            self.mark_local_dirty(local, video_since);
        }
    }

    pub(super) fn suspended(&mut self, local: LocalId) {
        if let Some(here) = self.locals.of_mut(local) {
            here.state = LocalState::Suspended;
            if let LocalLog::Replica(log) = &mut here.log {
                log.forget_gop();
            }
        }
    }

    pub(super) fn resumed(&mut self, key: &StreamKey, local: LocalId) {
        if let Some(here) = self.locals.of_mut(local) {
            here.state = LocalState::Live;
            self.admit_waiters(key, local.form);
        }
    }

    fn admit_waiters(&mut self, key: &StreamKey, form: Form) {
        let here = self.locals.get_mut(key, form).expect("callers look");
        for connection in std::mem::take(&mut here.waiters).into_keys() {
            let member = self.members.get_mut(&connection).expect("each waiter is a member");
            if let Role::Waiter(timer) = member.role {
                self.timers.cancel(Some(timer));
            }
            member.role = Role::Admitting;
            here.admitting += 1;
            self.actions.push_back(Action::Admit { connection });
        }
        self.interest_changed(key, form);
    }

    /// Has the players here get what is new in the next tick. `video_since` is when the oldest
    /// video frame of it came in.
    pub(super) fn mark_local_dirty(&mut self, local: LocalId, video_since: Option<Instant>) {
        let Some(here) = self.locals.of_mut(local) else { return };
        here.video_since = here.video_since.or(video_since);
        if !std::mem::replace(&mut here.dirty, true) {
            self.dirty_locals.push(local);
        }
    }

    fn interest_changed(&mut self, key: &StreamKey, form: Form) {
        let here = self.locals.get_mut(key, form).expect("callers look");
        if !here.interest_changed {
            here.interest_changed = true;
            self.changed_interest.push((key.clone(), form));
        }
    }

    /// Tells owners what has changed; a presence without anybody ends itself. An owner whose queue
    /// is full is told the latest when it has room, and not what was meanwhile.
    pub(super) fn report_interest(&mut self) {
        for (key, form) in std::mem::take(&mut self.changed_interest) {
            let owner = self.owner_of(&key);
            let here = self.locals.get_mut(&key, form);
            let Some(here) = here.filter(|here| here.interest_changed) else { continue };
            // Who came and went before the owner heard of it is nothing to it.
            let concerns_owner = here.reported || !here.is_empty();
            if concerns_owner && self.backed_up[owner.index()] {
                self.changed_interest.push((key, form));
                continue;
            }
            here.interest_changed = false;
            here.reported = true;
            let (local, players, waiters) = (here.id, here.players(), here.waiters.len() as u32);
            let askings = here.askings();
            if here.is_empty() {
                let mut here = self.locals.remove(&key, form).expect("just seen");
                let totals = here.crowd.take_totals();
                self.count_egress(totals);
            }
            if concerns_owner {
                self.send(owner, Message::Interest { key, local, players, waiters, askings });
            }
        }
    }

    /// Sends what was flushed to the players here, of all streams in one submission.
    pub(super) fn flush_locals(&mut self, now: Instant, wire: &mut dyn Wire) {
        let mut lent = self.lend_dirty_locals();
        let mut dues: Vec<Due<'_>> = Vec::with_capacity(lent.len());
        for here in &mut lent {
            let Local { id, log, crowd, .. } = &mut **here;
            let log = log.get(id.form, &self.tables).expect("it was looked for");
            dues.push(Due { crowd, log, events: CrowdEvents::default() });
        }
        round::flush(&mut dues, now, &self.policy.crowd, wire, &mut self.scratch);
        let events: Vec<CrowdEvents> = dues.into_iter().map(|due| due.events).collect();
        let mut flushed = Vec::with_capacity(lent.len());
        self.sent_video.clear();
        for mut here in lent {
            let totals = here.crowd.take_totals();
            self.count_egress(totals);
            let video_since = here.video_since.take();
            self.sent_video.extend(video_since.filter(|_| totals.sends > 0));
            flushed.push(here.id);
            self.locals.put_back(here);
        }
        for (&local, events) in flushed.iter().zip(events) {
            self.handle_crowd_events(local, events, now);
        }
        for local in flushed {
            self.trim(local);
        }
    }

    /// All dirty presences that have a log.
    #[allow(clippy::vec_box, reason = "they go back to their places as they are")]
    fn lend_dirty_locals(&mut self) -> Vec<Box<Local>> {
        let mut lent = Vec::with_capacity(self.dirty_locals.len());
        for local in self.dirty_locals.drain(..) {
            if let Some(here) = self.locals.of_mut(local)
                && std::mem::take(&mut here.dirty)
                && here.log.get(local.form, &self.tables).is_some()
            {
                lent.extend(self.locals.lend(local));
            }
        }
        lent
    }

    /// Players over UDP get the next piece of what they lack.
    pub(super) fn catch_up(&mut self) {
        self.behind_due = None;
        for local in std::mem::take(&mut self.behind) {
            self.mark_local_dirty(local, None);
        }
    }

    /// Drops what neither a new player nor a blocked one needs.
    fn trim(&mut self, local: LocalId) {
        let gop_bytes_max = self.policy.gop_bytes_max;
        let Some(here) = self.locals.of_mut(local) else { return };
        let slowest = here.crowd.slowest_seq();
        match &mut here.log {
            LocalLog::None => {}
            LocalLog::Replica(log) => log.trim(slowest, gop_bytes_max),
            LocalLog::Owner(handle) => {
                if let Some(stream) = self.tables.get_mut(*handle) {
                    stream.media.trim(local.form, slowest, gop_bytes_max);
                }
            }
        }
    }

    pub(super) fn check_slow_players(&mut self, now: Instant, wire: &mut dyn Wire) {
        let locals = self.locals.iter().filter(|here| !here.crowd.is_empty());
        let mut keys: Vec<(StreamKey, Form)> =
            locals.map(|here| (here.key.clone(), here.id.form)).collect();
        keys.sort_unstable();
        for (key, form) in keys {
            self.with_crowd(&key, form, now, wire, |crowd, turn| crowd.check_slow(turn));
        }
    }

    /// Does something with a key's players, then acts on what it led to.
    fn with_crowd(
        &mut self,
        key: &StreamKey,
        form: Form,
        now: Instant,
        wire: &mut dyn Wire,
        act: impl FnOnce(&mut Crowd, &mut Turn<'_>),
    ) {
        let Some(here) = self.locals.get_mut(key, form) else { return };
        let Some(log) = here.log.get(form, &self.tables) else { return };
        let mut events = CrowdEvents::default();
        let mut turn = Turn {
            log,
            now,
            limits: &self.policy.crowd,
            wire,
            scratch: &mut self.scratch,
            events: &mut events,
        };
        act(&mut here.crowd, &mut turn);
        let totals = here.crowd.take_totals();
        let local = here.id;
        self.count_egress(totals);
        self.handle_crowd_events(local, events, now);
    }

    fn handle_crowd_events(&mut self, local: LocalId, events: CrowdEvents, now: Instant) {
        if events.is_behind {
            self.behind.push(local);
            self.behind_due.get_or_insert(now + CATCH_UP_INTERVAL);
        }
        for connection in events.blocked {
            self.actions.push_back(Action::PollWritable { connection });
        }
        for (connection, jumps) in events.jumped {
            self.tell_slow(connection, jumps);
        }
        for connection in events.broken {
            self.send_away(connection, EndReason::Broken);
        }
        for connection in events.evicted {
            self.totals.player_evictions += 1;
            self.tell_evicted(connection);
            self.send_away(connection, EndReason::TooSlow);
        }
    }

    fn send_away(&mut self, connection: ConnectionId, reason: EndReason) {
        if let Some(player) = self.leave(connection) {
            self.actions.push_back(Action::End { connection, reason, player: Some(player) });
        }
    }

    /// Ends one player, waiter or publisher at the operator's word. `false` when it is none.
    pub fn kick(&mut self, now: Instant, connection: ConnectionId) -> bool {
        if self.publishers.contains_key(&connection) {
            let reason = EndReason::Kicked;
            self.actions.push_back(Action::End { connection, reason, player: None });
            self.unpublish(now, connection, true);
            return true;
        }
        let Some(member) = self.members.get(&connection) else { return false };
        let waits = matches!(member.role, Role::Waiter(_));
        let player = self.leave(connection);
        let reason = EndReason::Kicked;
        self.actions.push_back(if waits {
            Action::Refuse { connection, reason }
        } else {
            Action::End { connection, reason, player }
        });
        true
    }
}
