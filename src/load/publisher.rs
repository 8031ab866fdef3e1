//! Publishers of one thread: each sends the clip over RTMP on its own schedule.
//!
//! A schedule begins when the server has taken the stream and is never moved: what comes late is
//! sent late, and how late is recorded when the kernel has taken it. A stamp says when its frame
//! was due, so that the lateness of the publisher is part of what players measure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::clip::{Clip, ClipTag};
use super::connection::{Connection, Received};
use super::figures::Spread;
use super::progress::{Progress, Told};
use super::stamp::Stamp;
use super::target::Target;
use crate::clock;
use crate::limits::LOAD_RECEIVE_LEN;
use crate::proto::Output;
use crate::proto::rtmp::{PublisherConfig, PublisherEvent, PublisherSession};

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
    /// Numbers of the progress that are ours.
    told: Told,
    pub(super) sent: Sent,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) streams: u64,
    pub(super) started: u64,
    /// Streams that did not begin or did not last, by reason.
    pub(super) failed: BTreeMap<String, u64>,
    pub(super) frames: u64,
    pub(super) bytes: u64,
    /// From the connect to the server's yes.
    pub(super) accept: Spread,
    /// From the time at which a tag was due to that at which the kernel had all of it.
    pub(super) lateness: Spread,
}

struct Stream {
    session: PublisherSession,
    connection: Connection,
    started_ns: u64,
    /// When its first tag was due; none until the server says yes.
    base_ns: Option<u64>,
    next: u64,
    /// Bytes given to the connection, and at which of these counts tags end that it still holds.
    given: u64,
    held: VecDeque<(u64, u64)>,
    is_over: bool,
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
            stream.session.unpublish();
            // The server learns it from the close where this can't be sent.
            while let Some(Output::Send(bytes)) = stream.session.poll_output() {
                let _ = stream.connection.send(&bytes);
            }
        }
        Ok(())
    }

    fn start_due(&mut self, now_ns: u64) {
        while self.starts.front().is_some_and(|(at_ns, _)| *at_ns <= now_ns) {
            let Some((_, target)) = self.starts.pop_front() else { return };
            if let Err(error) = self.start(&target) {
                self.sent.fail(&error);
            }
        }
    }

    fn start(&mut self, target: &Target) -> std::io::Result<()> {
        let started_ns = clock::monotonic_ns();
        let connection = Connection::start(target.address)?;
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll.add(&connection, EpollEvent::new(events, self.streams.len() as u64))?;
        let config = PublisherConfig {
            chunk_size: self.chunk_size,
            ..PublisherConfig::new(target.app.clone(), target.stream.clone(), target.tc_url.clone())
        };
        let session = PublisherSession::new(clock::now(), started_ns, config);
        self.streams.push(Stream {
            session,
            connection,
            started_ns,
            base_ns: None,
            next: 0,
            given: 0,
            held: VecDeque::new(),
            is_over: false,
        });
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
                Ok(frames) => {
                    self.sent.bytes += self.scratch.len() as u64;
                    self.sent.frames += frames;
                    stream.note_taken(&mut self.sent.lateness);
                    self.due.push(Reverse((stream.due_ns(&self.clip), index)));
                }
                Err(error) => {
                    stream.is_over = true;
                    self.sent.fail(&error);
                }
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
                self.streams[index].is_over = true;
                self.sent.fail(&*error);
            }
        }
        self.check_deadlines();
        Ok(())
    }

    fn advance(&mut self, index: usize, buffer: &mut [u8]) -> Result<(), super::Failure> {
        let stream = &mut self.streams[index];
        stream.connection.connect_result()?;
        stream.connection.flush()?;
        stream.note_taken(&mut self.sent.lateness);
        let now = clock::now();
        loop {
            self.drain(index)?;
            let stream = &mut self.streams[index];
            match stream.connection.receive(buffer)? {
                Received::Bytes(len, _) => {
                    stream.session.handle_input(now, Bytes::copy_from_slice(&buffer[..len]))?;
                }
                Received::Nothing => return Ok(()),
                Received::End => return Err("the server closed the connection".into()),
            }
        }
    }

    fn drain(&mut self, index: usize) -> Result<(), super::Failure> {
        let stream = &mut self.streams[index];
        while let Some(output) = stream.session.poll_output() {
            match output {
                Output::Send(bytes) => stream.give(&bytes)?,
                Output::Event(PublisherEvent::Started) => {
                    let now_ns = clock::monotonic_ns();
                    self.sent.started += 1;
                    self.sent.accept.record_ns(now_ns - stream.started_ns);
                    stream.base_ns = Some(now_ns);
                    stream.send_configs(&self.clip, &mut self.scratch)?;
                    self.due.push(Reverse((stream.due_ns(&self.clip), index)));
                }
                Output::Event(PublisherEvent::Refused { code, description }) => {
                    return Err(format!("refused: {code} {description}").into());
                }
                Output::Event(PublisherEvent::Ended) => {
                    return Err("the server ended the stream".into());
                }
                Output::Event(PublisherEvent::Progress(_)) => {}
            }
        }
        Ok(())
    }

    fn check_deadlines(&mut self) {
        if self.sent.started + self.sent.failed_count() == self.streams.len() as u64 {
            return;
        }
        let now = clock::now();
        for stream in self.streams.iter_mut().filter(|stream| !stream.is_over) {
            if let Err(error) = stream.session.handle_timeout(now) {
                stream.is_over = true;
                self.sent.fail(&error);
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

impl Stream {
    fn due_ns(&self, clip: &Clip) -> u64 {
        let (_, at_ms) = clip.tag(self.next);
        self.base_ns.unwrap_or(0) + at_ms * 1_000_000
    }

    fn send_configs(&mut self, clip: &Clip, scratch: &mut Vec<u8>) -> std::io::Result<()> {
        for tag in &clip.configs {
            scratch.clear();
            self.session.encode_tag(tag.kind, 0, &tag.payload, scratch);
            self.give(scratch)?;
        }
        Ok(())
    }

    /// Sends the tags that are due by `now_ns`, in one piece; how many of them are video frames.
    /// More than one is due only when we are late.
    fn send_due(
        &mut self,
        clip: &Clip,
        now_ns: u64,
        scratch: &mut Vec<u8>,
    ) -> std::io::Result<u64> {
        scratch.clear();
        let mut frames = 0;
        while scratch.len() < LATE_LEN_MAX {
            let due_ns = self.due_ns(clip);
            if due_ns > now_ns {
                break;
            }
            let (tag, at_ms) = clip.tag(self.next);
            let sequence = clip.sequence(self.next);
            self.append(tag, at_ms as u32, Stamp { sequence, due_ns }, scratch);
            self.held.push_back((self.given + scratch.len() as u64, due_ns));
            frames += u64::from(tag.is_frame);
            self.next += 1;
        }
        self.give(scratch)?;
        Ok(frames)
    }

    fn append(&self, tag: &ClipTag, timestamp_ms: u32, stamp: Stamp, out: &mut Vec<u8>) {
        let start = out.len();
        self.session.encode_tag(tag.kind, timestamp_ms, &tag.payload, out);
        if let Some(at) = tag.stamp_at {
            // Within the first chunk: none is shorter than what a stamp ends in.
            let at = start + at + if timestamp_ms < 0x00ff_ffff { 12 } else { 16 };
            let stamp = stamp.encode();
            out[at..at + stamp.len()].copy_from_slice(&stamp);
        }
    }

    fn give(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.given += bytes.len() as u64;
        self.connection.send(bytes)
    }

    /// Records the lateness of the tags that the kernel has taken.
    fn note_taken(&mut self, lateness: &mut Spread) {
        let taken = self.given - self.connection.backlog_len() as u64;
        while let Some(&(end, due_ns)) = self.held.front()
            && end <= taken
        {
            lateness.record_ns(clock::monotonic_ns().saturating_sub(due_ns));
            self.held.pop_front();
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
        self.frames += other.frames;
        self.bytes += other.bytes;
        for (reason, count) in other.failed {
            *self.failed.entry(reason).or_default() += count;
        }
        self.accept.add(&other.accept);
        self.lateness.add(&other.lateness);
    }
}

/// How often the sockets are looked at.
const LOOK_NS: u64 = 2_000_000;

/// Bytes of a stream from which on what is late waits for its next turn.
const LATE_LEN_MAX: usize = 64 * 1024;
