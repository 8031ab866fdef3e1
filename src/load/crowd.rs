//! The players of one thread: joins them as planned, reads them all, measures in the window.
//!
//! A sweep sleeps for a millisecond and then reads all that came: the server is never charged for
//! waking us. Times of arrival are the kernel's all the same. What was not yet there at the sweep
//! is seen by the next one; that the loop itself comes late is recorded, because then it is us who
//! are measured.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::connection::Received;
use super::figures::Spread;
use super::member::{Measure, Member, Place, SocketEvent, socket_number, socket_of};
use super::options::Leave;
use super::outcome::{Outcome, Role};
use super::plan::{Join, Mode, Plan};
use super::player::{End, Look, Player};
use super::progress::Progress;
use super::watch::Counts;
use crate::clock;
use crate::limits::LOAD_RECEIVE_LEN;

/// The thread's state.
pub(super) struct Crowd<'a> {
    plan: Plan,
    progress: &'a Progress,
    epoll: Epoll,
    members: Vec<Option<Member>>,
    /// Places in `members` that are free.
    free: Vec<usize>,
    /// Members on their way to their keyframe.
    joining: Vec<Place>,
    /// When visitors leave.
    leaves: BinaryHeap<Reverse<(u64, Place)>>,
    next_serial: u64,
    measure: Option<Measure>,
    outcome: Outcome,
    /// Counted since the progress was last told.
    untold: Counts,
    next_check_ns: u64,
    next_times_ns: u64,
    last_look_ns: u64,
    is_finished: bool,
    unstamped_reads: u64,
    /// What slow players may read beyond whole bytes: bytes a second, times ns.
    trickle_rest: u64,
}

impl<'a> Crowd<'a> {
    pub(super) fn new(plan: Plan, progress: &'a Progress) -> std::io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            members: Vec::new(),
            free: Vec::new(),
            joining: Vec::new(),
            leaves: BinaryHeap::new(),
            next_serial: 0,
            measure: None,
            outcome: Outcome::default(),
            untold: Counts::default(),
            next_check_ns: 0,
            next_times_ns: 0,
            last_look_ns: 0,
            is_finished: false,
            unstamped_reads: 0,
            trickle_rest: 0,
            plan,
            progress,
        })
    }

    /// Measures to the end of the window, then goes on playing until told to stop: what the server
    /// holds is read off meanwhile.
    pub(super) fn run(mut self) -> std::io::Result<Outcome> {
        let mut buffer = vec![0; LOAD_RECEIVE_LEN];
        let mut events = vec![EpollEvent::empty(); EVENTS];
        loop {
            let now_ns = clock::monotonic_ns();
            let is_stopping = self.progress.is_stopping();
            if !self.is_finished && (is_stopping || now_ns >= self.plan.window.end_ns) {
                self.finish(now_ns);
            }
            if is_stopping {
                return Ok(self.outcome);
            }
            if now_ns >= self.plan.window.start_ns && self.measure.is_none() && !self.is_finished {
                self.begin_window(now_ns);
            }
            self.note_lateness(now_ns);
            if !self.is_finished {
                self.join_due(now_ns);
            }
            self.leave_due(now_ns);
            if now_ns >= self.next_check_ns {
                self.next_check_ns = now_ns + CHECK_NS;
                self.check_joining(now_ns);
                self.keep_alive(now_ns);
                self.trickle(&mut buffer);
            }
            if now_ns >= self.next_times_ns {
                self.next_times_ns = now_ns + TIMES_NS;
                self.progress.set_times(self.plan.thread, &self.outcome.figures);
            }
            self.pause();
            self.read(&mut events, &mut buffer)?;
            self.tell();
        }
    }

    fn begin_window(&mut self, now_ns: u64) {
        for member in self.members.iter_mut().flatten() {
            if member.role == Role::Steady {
                member.player.watch.begin_window(now_ns);
            }
        }
        self.last_look_ns = now_ns;
        self.unstamped_reads = 0;
        let (cpu, sweep_late) = (clock::thread_cpu(), Spread::default());
        self.measure = Some(Measure { start_ns: now_ns, cpu, sweep_late });
    }

    fn join_due(&mut self, now_ns: u64) {
        for _ in 0..JOINS_PER_LOOK {
            let next = self.plan.joins.front().copied();
            let Some(join) = next.filter(|join| join.at_ns <= now_ns) else { return };
            self.plan.joins.pop_front();
            self.outcome.of(join.role).asked += 1;
            if let Err(error) = self.join(join) {
                self.outcome.of(join.role).fail(&error.into());
                self.progress.failed.fetch_add(1, Relaxed);
            }
        }
    }

    fn join(&mut self, join: Join) -> std::io::Result<()> {
        let serial = self.next_serial;
        let player = Player::start(&self.plan.targets[join.target], serial, join.at_ns)?;
        let mut member = Member::new(player, join.role, serial);
        if let (Role::Steady, Some(_)) = (join.role, &self.measure) {
            member.player.watch.begin_window(clock::monotonic_ns());
        }
        let due_ns = member.player.times.due_ns;
        let index = self.enter(member)?;
        if let (Role::Visitor, Some(stay_ns)) = (join.role, self.plan.visit.stay_ns) {
            self.leaves.push(Reverse((due_ns + stay_ns, (index, serial))));
        }
        self.next_serial += 1;
        self.joining.push((index, serial));
        self.progress.open.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Watches a member's socket and gives it a place.
    fn enter(&mut self, member: Member) -> std::io::Result<usize> {
        let index = self.free.last().copied().unwrap_or(self.members.len());
        let event = EpollEvent::new(member.interest, socket_number(index, None));
        self.epoll.add(&member.player.connection, event)?;
        match self.free.pop() {
            Some(_) => self.members[index] = Some(member),
            None => self.members.push(Some(member)),
        }
        Ok(index)
    }

    fn note_lateness(&mut self, now_ns: u64) {
        let passed_ns = now_ns - std::mem::replace(&mut self.last_look_ns, now_ns);
        if let Some(measure) = self.measure.as_mut().filter(|_| self.plan.mode == Mode::Sweep) {
            measure.sweep_late.record_ns(passed_ns.saturating_sub(SWEEP_NS));
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a thread of its own; sweeping is its design")]
    fn pause(&self) {
        if self.plan.mode == Mode::Sweep {
            std::thread::sleep(Duration::from_nanos(SWEEP_NS));
        }
    }

    fn read(&mut self, events: &mut [EpollEvent], buffer: &mut [u8]) -> std::io::Result<()> {
        let mut timeout = match self.plan.mode {
            Mode::Sweep => EpollTimeout::ZERO,
            Mode::Blocking => EpollTimeout::from(BLOCKED_MS_MAX),
        };
        let mut rounds = 0;
        loop {
            let count = match self.epoll.wait(events, timeout) {
                Err(Errno::EINTR) => 0,
                result => result?,
            };
            let look = Look::now();
            for event in &events[..count] {
                let (index, udp) = socket_of(event.data());
                let event = SocketEvent { flags: event.events(), udp };
                self.advance(index, event, &look, buffer);
            }
            rounds += 1;
            if count < events.len() || rounds == READS_PER_LOOK {
                return Ok(());
            }
            timeout = EpollTimeout::ZERO;
        }
    }

    fn advance(&mut self, index: usize, event: SocketEvent, look: &Look, buffer: &mut [u8]) {
        let Some(member) = &mut self.members[index] else { return };
        let before = member.player.watch.counts;
        let mut result = member.step(event, look, buffer, &mut self.outcome.figures);
        self.unstamped_reads += std::mem::take(&mut member.player.unstamped_reads);
        self.untold.add(&member.player.watch.counts.since(&before));
        if !member.has_joined && !self.is_finished && member.player.times.keyframe_ns.is_some() {
            member.has_joined = true;
            self.outcome.of(member.role).note(&member.player.times, look.now_ns);
            self.progress.joined.fetch_add(1, Relaxed);
            if member.role == Role::Visitor && self.plan.visit.stay_ns.is_none() {
                let leaves_ns = look.now_ns + VISIT_NS;
                self.leaves.push(Reverse((leaves_ns, (index, member.serial))));
            }
        }
        let interest = member.wanted();
        if interest != member.interest {
            member.interest = interest;
            let mut event = EpollEvent::new(interest, socket_number(index, None));
            // It is in the list: it was added when it joined.
            let _ = self.epoll.modify(&member.player.connection, &mut event);
        }
        if member.watched_tracks < member.player.track_count() {
            for (place, socket) in member.player.sockets_from(member.watched_tracks) {
                let number = socket_number(index, Some(place));
                let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
                if let Err(error) = self.epoll.add(socket, event) {
                    result = Err(End::Connection(error.into()));
                }
            }
            member.watched_tracks = member.player.track_count();
        }
        if let Err(end) = result {
            self.end(index, look.now_ns, &end);
        }
    }

    fn member(&self, (index, serial): Place) -> Option<&Member> {
        self.members[index].as_ref().filter(|member| member.serial == serial)
    }

    fn check_joining(&mut self, now_ns: u64) {
        let timeout_ns = self.plan.join_timeout.as_nanos() as u64;
        let mut joining = std::mem::take(&mut self.joining);
        joining.retain(|place| {
            let Some(member) = self.member(*place) else { return false };
            if member.has_joined {
                return false;
            }
            if now_ns.saturating_sub(member.player.times.due_ns) < timeout_ns {
                return true;
            }
            let step = member.player.times.missing_step();
            self.give_up(place.0, now_ns, step);
            false
        });
        self.joining = joining;
    }

    fn keep_alive(&mut self, now_ns: u64) {
        let now = clock::now();
        for index in 0..self.members.len() {
            let Some(member) = &mut self.members[index] else { continue };
            if let Err(end) = member.player.handle_timeout(now) {
                self.end(index, now_ns, &end);
            }
        }
    }

    fn leave_due(&mut self, now_ns: u64) {
        while let Some(&Reverse((leaves_ns, place))) = self.leaves.peek()
            && leaves_ns <= now_ns
        {
            self.leaves.pop();
            let Some(member) = self.member(place) else { continue };
            let resets = match self.plan.visit.leave {
                Leave::Reset => true,
                Leave::Fin => false,
                Leave::Both => place.1 % 2 == 0,
            };
            if resets {
                member.player.connection.reset_on_close();
            }
            if member.has_joined {
                self.outcome.visitors.left += 1;
                self.remove(place.0);
            } else {
                self.give_up(place.0, now_ns, "no keyframe during its stay");
            }
        }
    }

    /// Lets slow players read what they are to read between two checks.
    fn trickle(&mut self, buffer: &mut [u8]) {
        // Fewer than a byte at a time add up.
        self.trickle_rest += u64::from(self.plan.slow_bytes_per_s) * CHECK_NS;
        let len = self.trickle_rest / 1_000_000_000;
        self.trickle_rest %= 1_000_000_000;
        let len = usize::try_from(len).map_or(buffer.len(), |len| len.min(buffer.len()));
        if len == 0 {
            return;
        }
        let look = Look::now();
        for index in 0..self.members.len() {
            let Some(member) = self.members[index].as_mut().filter(|member| member.is_slowed())
            else {
                continue;
            };
            let (before, figures) = (member.player.watch.counts, &mut self.outcome.figures);
            let result = member.player.read_once(&look, &mut buffer[..len], figures);
            self.untold.add(&member.player.watch.counts.since(&before));
            if let Err(end) = result {
                self.end(index, look.now_ns, &end);
            }
        }
    }

    fn remove(&mut self, index: usize) -> Option<Member> {
        let member = self.members[index].take()?;
        self.free.push(index);
        self.progress.open.fetch_sub(1, Relaxed);
        Some(member)
    }

    /// A member that has not joined waits no longer.
    fn give_up(&mut self, index: usize, now_ns: u64, reason: &str) {
        let Some(member) = self.take(index, now_ns) else { return };
        let end = End::Refused(reason.to_owned());
        self.outcome.of(member.role).give_up(&member.player.times, now_ns, &end);
        self.progress.failed.fetch_add(1, Relaxed);
    }

    /// A member is gone.
    fn end(&mut self, index: usize, now_ns: u64, end: &End) {
        let Some(member) = self.take(index, now_ns) else { return };
        self.outcome.broken_tags += u64::from(end.is_broken());
        if member.has_joined {
            self.outcome.of(member.role).lose(end);
        } else {
            self.outcome.of(member.role).fail(end);
            self.progress.failed.fetch_add(1, Relaxed);
        }
    }

    /// Takes a member out, and what it saw into account; none when the run is over.
    fn take(&mut self, index: usize, now_ns: u64) -> Option<Member> {
        let mut member = self.remove(index).filter(|_| !self.is_finished)?;
        let outcome = &mut self.outcome;
        outcome.broken_tags += member.player.wrong_sizes();
        outcome.players.extend(member.player.watch.finish(now_ns, &mut outcome.figures));
        Some(member)
    }

    /// Takes stock of all members.
    fn finish(&mut self, now_ns: u64) {
        if let Some(measure) = self.measure.take() {
            let is_stamped = self.unstamped_reads == 0;
            self.outcome.threads.push(measure.finish(now_ns, is_stamped));
        }
        // Those that are closed end by this, and are not counted again below.
        self.find_closed(now_ns);
        for member in self.members.iter_mut().flatten() {
            let outcome = &mut self.outcome;
            outcome.broken_tags += member.player.wrong_sizes();
            outcome.players.extend(member.player.watch.finish(now_ns, &mut outcome.figures));
            if member.has_joined {
                continue;
            }
            let times = &member.player.times;
            let age_ns = now_ns.saturating_sub(times.due_ns);
            // A visitor that came just now is nobody's fault.
            if member.role == Role::Visitor && age_ns < VISITOR_AGE_NS_MAX {
                continue;
            }
            let end = End::Refused(format!("{} (when the run ended)", times.missing_step()));
            outcome.of(member.role).give_up(times, now_ns, &end);
        }
        self.is_finished = true;
    }

    /// Finds the slow players that the server has closed: the end of their stream lies behind what
    /// they have not read.
    fn find_closed(&mut self, now_ns: u64) {
        let mut buffer = vec![0; LOAD_RECEIVE_LEN];
        let until_ns = now_ns + DRAIN_NS;
        while clock::monotonic_ns() < until_ns {
            let before = self.outcome.slow.lost_count();
            let mut is_read = false;
            for index in 0..self.members.len() {
                let slowed = self.members[index].as_ref().filter(|member| member.is_slowed());
                let Some(member) = slowed else { continue };
                match member.player.connection.receive(&mut buffer) {
                    Ok(Received::Bytes(..)) => is_read = true,
                    Ok(Received::Nothing) => {}
                    Ok(Received::End) | Err(_) => self.end(index, now_ns, &End::Closed),
                }
            }
            if !is_read && self.outcome.slow.lost_count() == before {
                return;
            }
        }
    }

    fn tell(&mut self) {
        let counts = std::mem::take(&mut self.untold);
        self.progress.bytes.fetch_add(counts.bytes, Relaxed);
        self.progress.frames.fetch_add(counts.frames, Relaxed);
        self.progress.missing.fetch_add(counts.missing, Relaxed);
    }
}

const SWEEP_NS: u64 = 1_000_000;
const EVENTS: usize = 1024;

/// Rounds of a full list of events before joins and the clock get a turn.
const READS_PER_LOOK: usize = 8;

/// Players that are started between two looks at the sockets: at 30 µs each, 2 ms.
const JOINS_PER_LOOK: usize = 64;

/// How often players on their way and slow ones are looked at.
const CHECK_NS: u64 = 50_000_000;

/// How often the times so far are told; it copies two histograms.
const TIMES_NS: u64 = 1_000_000_000;

/// How long a visitor stays after its first keyframe.
const VISIT_NS: u64 = 1_000_000_000;

/// Age from which on a visitor that has no keyframe when the run ends did not join.
const VISITOR_AGE_NS_MAX: u64 = 1_000_000_000;

/// How long the end of a slow player's stream is looked for.
const DRAIN_NS: u64 = 2_000_000_000;

/// A blocking wait ends after this, for joins and the clock.
const BLOCKED_MS_MAX: u8 = 2;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::{AsFd as _, AsRawFd as _};
    use std::sync::Arc;

    use nix::sys::socket::{MsgFlags, recv};

    use super::super::plan::{Visit, Window};
    use super::super::target::expand;
    use super::*;

    /// A tag with a frame of 100 bytes every 40 ms, the first of them a keyframe.
    fn frame(index: u8) -> Vec<u8> {
        let kind = if index == 0 { 0x17 } else { 0x27 };
        let mut tag = vec![9, 0, 0, 100, 0, 0, index * 40, 0, 0, 0, 0, kind, 1, 0, 0, 0];
        tag.resize(111, 7);
        tag.extend_from_slice(&[0, 0, 0, 111]);
        tag
    }

    /// A crowd that is to play so: role and age of each player. The server says nothing.
    fn crowd<'a>(
        progress: &'a Progress,
        joins: &[(Role, u64)],
        slow_bytes_per_s: u32,
    ) -> (Crowd<'a>, TcpListener) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let url = format!("http://{}/a.flv", listener.local_addr().expect("bound"));
        let now_ns = clock::monotonic_ns();
        let join = |&(role, ago_ns)| Join { at_ns: now_ns - ago_ns, target: 0, role };
        let plan = Plan {
            thread: 0,
            targets: Arc::new(expand(&url, 0, 1).expect("a URL")),
            joins: joins.iter().map(join).collect(),
            mode: Mode::Sweep,
            window: Window { start_ns: u64::MAX, end_ns: u64::MAX },
            join_timeout: Duration::MAX,
            visit: Visit { stay_ns: None, leave: Leave::Reset },
            slow_bytes_per_s,
        };
        (Crowd::new(plan, progress).expect("an epoll"), listener)
    }

    /// A slow player that has its first keyframe, and its server.
    struct Slow<'a> {
        crowd: Crowd<'a>,
        server: TcpStream,
        events: Vec<EpollEvent>,
        buffer: Vec<u8>,
    }

    impl<'a> Slow<'a> {
        /// One that was to join so long ago.
        fn join(progress: &'a Progress, slow_bytes_per_s: u32, ago_ns: u64) -> Self {
            let (mut crowd, listener) = crowd(progress, &[(Role::Slow, ago_ns)], slow_bytes_per_s);
            crowd.join_due(clock::monotonic_ns());
            let (server, _) = listener.accept().expect("a player");
            let (events, buffer) = (vec![EpollEvent::empty(); 8], vec![0; LOAD_RECEIVE_LEN]);
            let mut slow = Self { crowd, server, events, buffer };
            slow.send(b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\n\r\n");
            slow.send(b"FLV\x01\x01\0\0\0\x09\0\0\0\0");
            slow.send(&frame(0));
            while slow.crowd.outcome.slow.joined == 0 {
                slow.look();
            }
            slow
        }

        fn send(&mut self, bytes: &[u8]) {
            self.server.write_all(bytes).expect("a player that is there");
        }

        /// What epoll has to say.
        fn look(&mut self) {
            self.crowd.read(&mut self.events, &mut self.buffer).expect("an epoll");
            assert!(self.crowd.members[0].is_some(), "{:?}", self.crowd.outcome.slow.failed);
        }

        /// Bytes that it has read.
        fn bytes(&self) -> u64 {
            self.crowd.members[0].as_ref().expect("a player").player.watch.counts.bytes
        }

        /// Waits until so many bytes can be read.
        fn await_input(&self, len: usize) {
            let player = &self.crowd.members[0].as_ref().expect("a player").player;
            let (fd, flags) = (player.connection.as_fd().as_raw_fd(), MsgFlags::MSG_PEEK);
            let mut seen = vec![0; len];
            while recv(fd, &mut seen, flags | MsgFlags::MSG_DONTWAIT) != Ok(len) {}
        }
    }

    #[test]
    fn joins_count_from_when_they_were_due() {
        let progress = Progress::new(1);
        let slow = Slow::join(&progress, 0, 7_000_000_000);
        let joins = &slow.crowd.outcome.slow;
        for spread in [&joins.connect, &joins.first_byte, &joins.keyframe] {
            let least_ms = spread.summary().expect("it joined").min;
            assert!(least_ms > 6_990.0, "{least_ms}");
        }
    }

    #[test]
    fn trickling_player_reads_what_it_may_and_no_more() {
        let progress = Progress::new(1);
        // 50 bytes in each 50 ms.
        let mut slow = Slow::join(&progress, 1000, 0);
        let before = slow.bytes();
        let sent: Vec<u8> = (1..6).flat_map(frame).collect();
        slow.send(&sent);
        slow.await_input(sent.len());
        for turn in 1..=10 {
            slow.look();
            slow.crowd.trickle(&mut slow.buffer);
            assert_eq!(slow.bytes(), before + 50 * turn);
            assert_eq!(slow.crowd.untold.bytes, slow.bytes(), "all that it read is told");
        }
    }

    #[test]
    fn less_than_a_byte_at_a_time_adds_up() {
        let progress = Progress::new(1);
        // A byte in each 100 ms.
        let mut slow = Slow::join(&progress, 10, 0);
        let before = slow.bytes();
        slow.send(&frame(1));
        slow.await_input(115);
        for turn in 1..=10 {
            slow.crowd.trickle(&mut slow.buffer);
            assert_eq!(slow.bytes(), before + turn / 2);
        }
    }

    #[test]
    fn what_was_broken_counts_once_when_the_server_closes_too() {
        let progress = Progress::new(1);
        let mut slow = Slow::join(&progress, 1_000_000, 0);
        let mut broken = frame(1);
        broken[114] += 1;
        slow.send(&broken);
        slow.await_input(broken.len());
        slow.crowd.trickle(&mut slow.buffer);
        slow.server.shutdown(Shutdown::Both).expect("a connection");
        slow.crowd.finish(clock::monotonic_ns());
        let outcome = &slow.crowd.outcome;
        assert_eq!((outcome.slow.lost_count(), outcome.broken_tags), (1, 1));
    }

    #[test]
    fn visitor_that_never_joined_is_told_when_it_had_time() {
        let progress = Progress::new(1);
        let visitors = [(Role::Visitor, 1_500_000_000), (Role::Visitor, 0)];
        let (mut crowd, _listener) = crowd(&progress, &visitors, 0);
        let now_ns = crowd.plan.joins[1].at_ns;
        crowd.join_due(now_ns);
        crowd.finish(now_ns);
        let visitors = &crowd.outcome.visitors;
        assert_eq!(visitors.failed.values().collect::<Vec<_>>(), [&1]);
        let waited = visitors.keyframe.summary().expect("its age");
        assert!(waited.count == 1 && (1498.0..1502.0).contains(&waited.min), "{waited:?}");
    }

    #[test]
    fn player_that_joins_within_the_window_is_measured() {
        let progress = Progress::new(1);
        let (mut crowd, _listener) = crowd(&progress, &[(Role::Steady, 0)], 0);
        let now_ns = clock::monotonic_ns();
        crowd.begin_window(now_ns);
        crowd.join_due(now_ns);
        crowd.finish(now_ns);
        assert_eq!(crowd.outcome.players.len(), 1);
    }

    #[test]
    fn place_is_not_lost_to_a_member_that_cannot_enter() {
        let progress = Progress::new(1);
        let (mut crowd, _listener) = crowd(&progress, &[(Role::Steady, 0)], 0);
        crowd.join_due(clock::monotonic_ns());
        crowd.remove(0).expect("it had joined");
        let player = Player::start(&crowd.plan.targets[0], 1, 0).expect("it listens");
        // A descriptor is watched once.
        let watched = crowd.epoll.add(&player.connection, EpollEvent::empty());
        watched.expect("a socket");
        assert!(crowd.enter(Member::new(player, Role::Steady, 1)).is_err());
        assert_eq!((crowd.free.as_slice(), crowd.members.len()), (&[0][..], 1));
    }

    #[test]
    fn sweep_that_begins_late_is_recorded() {
        let progress = Progress::new(1);
        let (mut crowd, _listener) = crowd(&progress, &[], 0);
        let now_ns = clock::monotonic_ns();
        crowd.begin_window(now_ns);
        crowd.note_lateness(now_ns + SWEEP_NS);
        crowd.note_lateness(now_ns + 30 * SWEEP_NS);
        crowd.finish(clock::monotonic_ns());
        let late_ms = crowd.outcome.threads[0].sweep_late_p99_ms;
        assert_eq!(late_ms.round(), 28.0);
    }

    #[test]
    fn player_that_stopped_reads_nothing() {
        let progress = Progress::new(1);
        let mut slow = Slow::join(&progress, 0, 0);
        let before = slow.bytes();
        slow.send(&frame(1));
        slow.await_input(115);
        slow.look();
        slow.crowd.trickle(&mut slow.buffer);
        assert_eq!(slow.bytes(), before);
    }
}
