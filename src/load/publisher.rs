//! Publishers of one thread: each sends the clip on its own schedule.
//!
//! A schedule begins when the server has taken the stream and is never moved: what comes late is
//! sent late, and how late is recorded when the kernel has taken it. A stamp says when its frame
//! was due, so that the lateness of the publisher is part of what players measure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::clip::Clip;
use super::figures::Spread;
use super::outcome::add_reasons;
use super::progress::{Progress, Told};
use super::stream::Stream;
use super::target::Target;
use crate::clock;
use crate::limits::LOAD_RECEIVE_LEN;

/// What one thread publishes.
pub(super) struct Publishers {
    clip: Arc<Clip>,
    chunk_size: u32,
    epoll: Epoll,
    streams: Vec<Stream>,
    /// Streams still to be started, in the order of their times.
    starts: VecDeque<(u64, Target)>,
    /// What each live stream has to send next, by the time at which it is due.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    scratch: Vec<u8>,
    next_check_ns: u64,
    /// Numbers of the progress that are ours.
    told: Told,
    pub(super) sent: Sent,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) streams: u64,
    pub(super) started: u64,
    /// Streams that began or failed to.
    pub(super) settled: u64,
    /// Streams that did not begin or did not last, by reason.
    pub(super) failed: BTreeMap<String, u64>,
    pub(super) frames: u64,
    pub(super) bytes: u64,
    /// Packets that the kernel did not take.
    pub(super) unsent_packets: u64,
    /// From when it was to connect to the server's yes.
    pub(super) accept: Spread,
    /// From the time at which a tag was due to that at which the kernel had all of it.
    pub(super) lateness: Spread,
}

impl Publishers {
    /// `starts` are the times at which to connect, in ns of the monotonic clock.
    pub(super) fn new(
        clip: Arc<Clip>,
        chunk_size: u32,
        starts: VecDeque<(u64, Target)>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            clip,
            chunk_size,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            streams: Vec::new(),
            sent: Sent { streams: starts.len() as u64, ..Sent::default() },
            starts,
            due: BinaryHeap::new(),
            scratch: Vec::new(),
            next_check_ns: 0,
            told: Told::default(),
        })
    }

    /// Publishes until told to stop, then ends the streams in order.
    pub(super) fn run(&mut self, progress: &Progress) -> std::io::Result<()> {
        let mut buffer = vec![0; LOAD_RECEIVE_LEN];
        while !progress.is_stopping() {
            let now_ns = clock::monotonic_ns();
            self.start_due(now_ns);
            self.send_due();
            self.poll(&mut buffer)?;
            progress.add_publishing(&self.sent, &mut self.told);
            self.sleep();
        }
        for stream in self.streams.iter_mut().filter(|stream| !stream.is_over) {
            stream.note_untaken(&mut self.sent.lateness);
            stream.end();
        }
        Ok(())
    }

    fn start_due(&mut self, now_ns: u64) {
        while self.starts.front().is_some_and(|(due_ns, _)| *due_ns <= now_ns) {
            let Some((due_ns, target)) = self.starts.pop_front() else { return };
            if let Err(error) = self.start(&target, due_ns) {
                self.sent.settled += 1;
                self.sent.fail(&*error);
            }
        }
    }

    fn start(&mut self, target: &Target, due_ns: u64) -> Result<(), super::Failure> {
        let stream = Stream::start(target, &self.clip, self.chunk_size, due_ns)?;
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        let event = EpollEvent::new(events, self.streams.len() as u64);
        self.epoll.add(&stream.connection, event)?;
        self.streams.push(stream);
        Ok(())
    }

    /// Sends what is due, the longest overdue first, until it is time to look at the sockets.
    fn send_due(&mut self) {
        let until_ns = clock::monotonic_ns() + LOOK_NS;
        while let Some(&Reverse((due_ns, index))) = self.due.peek() {
            let now_ns = clock::monotonic_ns();
            if due_ns > now_ns || now_ns > until_ns {
                return;
            }
            self.due.pop();
            let stream = &mut self.streams[index];
            if stream.is_over {
                continue;
            }
            match stream.send_due(&self.clip, now_ns, &mut self.scratch) {
                Ok(piece) => {
                    self.sent.bytes += piece.bytes;
                    self.sent.frames += piece.frames;
                    self.sent.unsent_packets += piece.unsent_packets;
                    stream.note_taken(&mut self.sent.lateness);
                    self.due.push(Reverse((stream.due_ns(&self.clip), index)));
                }
                Err(error) => self.fail(index, &error),
            }
        }
    }

    fn poll(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Err(nix::errno::Errno::EINTR) => 0,
            result => result?,
        };
        for event in &events[..count] {
            let index = event.data() as usize;
            if self.streams[index].is_over {
                continue;
            }
            if let Err(error) = self.advance(index, buffer) {
                self.fail(index, &*error);
            }
        }
        let now_ns = clock::monotonic_ns();
        if now_ns >= self.next_check_ns {
            self.next_check_ns = now_ns + CHECK_NS;
            self.handle_timeouts();
        }
        Ok(())
    }

    fn advance(&mut self, index: usize, buffer: &mut [u8]) -> Result<(), super::Failure> {
        let stream = &mut self.streams[index];
        stream.connection.connect_result()?;
        stream.connection.flush()?;
        stream.note_taken(&mut self.sent.lateness);
        let now = clock::now();
        loop {
            self.drain(index, now)?;
            if !self.streams[index].read(now, buffer)? {
                return Ok(());
            }
        }
    }

    fn drain(&mut self, index: usize, now: Instant) -> Result<(), super::Failure> {
        let stream = &mut self.streams[index];
        if stream.drain(now)? {
            let now_ns = clock::monotonic_ns();
            self.sent.started += 1;
            self.sent.settled += 1;
            self.sent.accept.record_ns(now_ns.saturating_sub(stream.due_ns));
            stream.begin(&self.clip, now_ns)?;
            self.due.push(Reverse((stream.due_ns(&self.clip), index)));
        }
        Ok(())
    }

    /// A stream is over before its time.
    fn fail(&mut self, index: usize, reason: &dyn std::fmt::Display) {
        let stream = &mut self.streams[index];
        stream.is_over = true;
        stream.note_untaken(&mut self.sent.lateness);
        self.sent.settled += u64::from(!stream.has_begun());
        self.sent.fail(reason);
    }

    /// Gives up what takes too long, and keeps sessions alive.
    fn handle_timeouts(&mut self) {
        let now = clock::now();
        for index in 0..self.streams.len() {
            let stream = &mut self.streams[index];
            if stream.is_over {
                continue;
            }
            let handled = stream.handle_timeout(now);
            if let Err(error) = handled.and_then(|()| self.drain(index, now)) {
                self.fail(index, &*error);
            }
        }
    }

    /// Sleeps until the next tag is due, at most until it is time to look at the sockets again.
    #[allow(clippy::disallowed_methods, reason = "a thread of its own, paced by sleeping")]
    fn sleep(&self) {
        let now_ns = clock::monotonic_ns();
        let next_ns = self.due.peek().map_or(u64::MAX, |Reverse((due_ns, _))| *due_ns);
        let wait_ns = next_ns.saturating_sub(now_ns).min(LOOK_NS);
        if wait_ns > 0 {
            std::thread::sleep(Duration::from_nanos(wait_ns));
        }
    }
}

impl Sent {
    fn fail(&mut self, reason: &dyn std::fmt::Display) {
        *self.failed.entry(reason.to_string()).or_default() += 1;
    }

    pub(super) fn failed_count(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Takes in what another thread sent.
    pub(super) fn add(&mut self, other: Self) {
        self.streams += other.streams;
        self.started += other.started;
        self.settled += other.settled;
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.unsent_packets += other.unsent_packets;
        add_reasons(&mut self.failed, other.failed);
        self.accept.add(&other.accept);
        self.lateness.add(&other.lateness);
    }
}

/// How often the sockets are looked at.
const LOOK_NS: u64 = 2_000_000;

/// How often timeouts are looked at.
const CHECK_NS: u64 = 50_000_000;
