//! The ring that takes in: multishot accept and receive, connect, poll for writability, cancel.
//!
//! One per shard, made on the shard's own thread. The contract is that *every armed operation
//! yields exactly one terminal completion* ([`Outcome::is_terminal`]): whoever counts them knows
//! when the kernel has let go of a descriptor, and closes it only then.
//!
//! A tick is: [`MediaRing::wait`], [`MediaRing::harvest`], act. The thread sleeps in the ring itself:
//! one system call arms what the tick before wanted and waits (decision 0011).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::errno::Errno;
use socket2::SockAddr;

use super::Waker;
use super::buffers::{BUFFER_GROUP, BufferPool, Received};
use super::completion::{
    CANCEL_USER_DATA, Completion, Ended, OpKind, Outcome, Token, WAKE_USER_DATA,
};
use crate::limits;

/// A shard's ring for everything that comes in.
pub struct MediaRing {
    // Dropped in this order: the kernel's side goes before the memory that it was given.
    pub(super) ring: IoUring,
    pool: Rc<BufferPool>,
    connect_addresses: HashMap<u64, Box<SockAddr>>,
    pub(super) waker: Waker,
    /// Operations that found the submission queue full and the kernel unwilling.
    pub(super) backlog: VecDeque<squeue::Entry>,
    /// What `harvest` copies the kernel's completions to before it interprets them.
    harvested: Vec<cqueue::Entry>,
    ops_in_flight: usize,
    /// This kernel knows how to gather completions ([`MediaRing::wait`]). Linux 6.12.
    pub(super) gathers: bool,
}

/// Sizes of a [`MediaRing`], all powers of two but the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSizes {
    /// Operations that can be armed between two submits without a system call.
    pub submissions: u32,
    /// Completions between two harvests without an allocation in the kernel.
    pub completions: u32,
    /// Receive buffers, all connections of the shard together.
    pub buffer_count: u16,
    /// Bytes of each receive buffer.
    pub buffer_len: u32,
}

impl Default for RingSizes {
    fn default() -> Self {
        Self {
            submissions: limits::RING_SUBMISSIONS,
            completions: limits::RING_COMPLETIONS,
            buffer_count: limits::RECEIVE_BUFFERS,
            buffer_len: limits::RECEIVE_BUFFER_LEN,
        }
    }
}

impl MediaRing {
    /// Makes the ring and its buffers. To be called on the thread that will use it.
    pub fn new(sizes: RingSizes) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(sizes.completions)
            .build(sizes.submissions)?;
        let pool = BufferPool::new(sizes.buffer_count, sizes.buffer_len)?;
        pool.register(&ring)?;
        let mut media = Self {
            ring,
            pool,
            connect_addresses: HashMap::new(),
            waker: Waker::new()?,
            backlog: VecDeque::new(),
            harvested: Vec::with_capacity(sizes.completions as usize),
            ops_in_flight: 0,
            gathers: true,
        };
        media.poll_waker();
        Ok(media)
    }

    /// A handle for other threads to wake this shard with.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Operations armed and not yet ended by a harvested terminal completion.
    pub fn ops_in_flight(&self) -> usize {
        self.ops_in_flight
    }

    /// Receive buffers held by views that have not been dropped.
    pub fn buffers_out(&self) -> usize {
        self.pool.buffers_out()
    }

    /// Accepts connections until the operation ends; up to the limit of descriptors that the process
    /// has at this moment.
    pub fn accept_multishot(&mut self, listener: RawFd, token: Token) {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(flags).build();
        self.arm(entry, token, OpKind::Accept);
    }

    /// Receives into the ring's buffers until the operation ends.
    pub fn recv_multishot(&mut self, fd: RawFd, token: Token) {
        let entry = opcode::RecvMulti::new(Fd(fd), BUFFER_GROUP).build();
        self.arm(entry, token, OpKind::Receive);
    }

    /// Connects a stream socket.
    pub fn connect(&mut self, fd: RawFd, peer: SocketAddr, token: Token) {
        let address = Box::new(SockAddr::from(peer));
        let entry = opcode::Connect::new(Fd(fd), address.as_ptr().cast(), address.len()).build();
        let user_data = token.user_data(OpKind::Connect);
        let earlier = self.connect_addresses.insert(user_data, address);
        assert!(earlier.is_none(), "two connects under one token");
        self.arm(entry, token, OpKind::Connect);
    }

    /// Waits once until the socket takes bytes.
    pub fn poll_writable(&mut self, fd: RawFd, token: Token) {
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLOUT as u32).build();
        self.arm(entry, token, OpKind::PollWritable);
    }

    /// Waits once until the socket has input.
    pub fn poll_readable(&mut self, fd: RawFd, token: Token) {
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).build();
        self.arm(entry, token, OpKind::PollReadable);
    }

    /// Asks for the end of an operation in flight. Its terminal completion still comes: usually
    /// cancelled, or what it had become before the cancel reached it. Without such an operation
    /// nothing happens.
    pub fn cancel(&mut self, token: Token, kind: OpKind) {
        let entry = opcode::AsyncCancel::new(token.user_data(kind))
            .build()
            .user_data(CANCEL_USER_DATA)
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry);
    }

    /// Hands the armed operations to the kernel; no system call when there are none. What a kernel
    /// short of memory does not take stays for the next time.
    pub fn submit(&mut self) {
        while !self.ring.submission().is_empty() || !self.backlog.is_empty() {
            let consumed = self.enter();
            self.refill_from_backlog();
            if consumed == 0 {
                return;
            }
        }
    }

    /// Appends all that has happened since the last call to `out`, in order.
    ///
    /// Forgets earlier wakes: queues that a [`Waker`] announces are drained after this call. One
    /// system call when the kernel has more work, none otherwise. Allocates when `out` grows.
    pub fn harvest(&mut self, out: &mut Vec<Completion>) {
        self.waker.clear();
        if self.kernel_has_work() {
            self.enter();
        }
        self.refill_from_backlog();
        self.drain(out);
    }

    /// Has a wake end the sleep: each write of the eventfd is a completion.
    fn poll_waker(&mut self) {
        let eventfd = Fd(self.waker.eventfd().as_raw_fd());
        let entry = opcode::PollAdd::new(eventfd, libc::POLLIN as u32).multi(true).build();
        self.push(entry.user_data(WAKE_USER_DATA));
    }

    fn drain(&mut self, out: &mut Vec<Completion>) {
        let mut harvested = std::mem::take(&mut self.harvested);
        harvested.extend(self.ring.completion());
        for cqe in harvested.drain(..) {
            if let Some((token, kind)) = Token::from_user_data(cqe.user_data()) {
                self.interpret(&cqe, token, kind, out);
            } else if cqe.user_data() == WAKE_USER_DATA && !cqueue::more(cqe.flags()) {
                self.poll_waker();
            }
        }
        self.harvested = harvested;
    }

    fn interpret(
        &mut self,
        cqe: &cqueue::Entry,
        token: Token,
        kind: OpKind,
        out: &mut Vec<Completion>,
    ) {
        let result = nonnegative(cqe.result());
        let more = cqueue::more(cqe.flags());
        let ended = match kind {
            OpKind::Accept => {
                let ended = ended_of(result, more);
                if let Ok(fd) = result {
                    // SAFETY: the kernel made this descriptor for this completion; nobody else
                    // knows it.
                    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
                    out.push(Completion { token, outcome: Outcome::Accepted(fd) });
                }
                ended.map(Outcome::AcceptEnded)
            }
            OpKind::Receive => {
                let ended = if result == Ok(0) { Some(Ended::Eof) } else { ended_of(result, more) };
                if let Some(bytes) = self.received(cqe.flags(), result) {
                    out.push(Completion { token, outcome: Outcome::Received(bytes) });
                }
                ended.map(Outcome::ReceiveEnded)
            }
            OpKind::Connect => {
                self.connect_addresses.remove(&token.user_data(OpKind::Connect));
                Some(Outcome::Connected(result.map(|_| ())))
            }
            OpKind::PollWritable => Some(match result {
                Ok(_) => Outcome::Writable,
                Err(errno) => Outcome::PollEnded(Ended::from_errno(errno)),
            }),
            OpKind::PollReadable => Some(Outcome::Readable),
        };
        if let Some(outcome) = ended {
            self.ops_in_flight -= 1;
            out.push(Completion { token, outcome });
        }
    }

    /// The bytes of a receive completion; a buffer without bytes goes straight back.
    fn received(&self, flags: u32, result: Result<u32, Errno>) -> Option<Received> {
        let buffer_id = cqueue::buffer_select(flags);
        match result {
            Ok(len) if len > 0 => {
                let buffer_id = buffer_id.expect("received bytes are in a buffer of the ring");
                Some(self.pool.view(buffer_id, len as usize))
            }
            _ => {
                if let Some(buffer_id) = buffer_id {
                    self.pool.give_back_unused(buffer_id);
                }
                None
            }
        }
    }

    fn arm(&mut self, entry: squeue::Entry, token: Token, kind: OpKind) {
        self.ops_in_flight += 1;
        self.push(entry.user_data(token.user_data(kind)));
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.backlog.push_back(entry);
        self.refill_from_backlog();
        if !self.backlog.is_empty() {
            self.submit();
        }
    }

    pub(super) fn refill_from_backlog(&mut self) {
        let mut submission = self.ring.submission();
        while !submission.is_full() {
            let Some(entry) = self.backlog.pop_front() else { return };
            // SAFETY: entries hold no pointers but those to connect addresses, which are boxed in
            // `connect_addresses` until the operation's completion, and group 0's buffers, which
            // the pool owns.
            unsafe { submission.push(&entry) }.expect("the queue was not full");
        }
    }

    fn kernel_has_work(&mut self) -> bool {
        let submission = self.ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// Enters the kernel once: submits and, where the kernel has flagged work, runs it. Returns the
    /// number of operations taken.
    fn enter(&self) -> usize {
        loop {
            return match self.ring.submit().map_err(|error| error.raw_os_error()) {
                Ok(consumed) => consumed,
                Err(Some(libc::EINTR)) => continue,
                Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM)) => 0,
                // Completions were lost (EBADR), or it is not our thread or not a ring: the counts
                // of operations can never be right again.
                Err(errno) => panic!("io_uring_enter failed: errno {errno:?}"),
            };
        }
    }
}

impl Drop for MediaRing {
    fn drop(&mut self) {
        // Connections accepted and never handed out are closed with their completions.
        let mut unclaimed = Vec::new();
        self.drain(&mut unclaimed);
    }
}

fn nonnegative(result: i32) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| Errno::from_raw(-result))
}

/// How a multishot operation ended, if it did.
fn ended_of(result: Result<u32, Errno>, more: bool) -> Option<Ended> {
    match result {
        _ if more => None,
        Ok(_) => Some(Ended::Rearm),
        Err(errno) => Some(Ended::from_errno(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::ring::socket;

    const SMALL: RingSizes =
        RingSizes { submissions: 8, completions: 16, buffer_count: 4, buffer_len: 1024 };

    /// A ring and what it said, with the contract checked on the way.
    struct Watched {
        ring: MediaRing,
        seen: Vec<Completion>,
        /// Operations armed less terminal completions, by token and kind.
        armed: BTreeMap<(Token, u8), i32>,
    }

    impl Watched {
        fn new(sizes: RingSizes) -> Self {
            let ring = MediaRing::new(sizes).expect("io_uring");
            Self { ring, seen: Vec::new(), armed: BTreeMap::new() }
        }

        fn armed(&mut self, token: Token, kind: OpKind) {
            *self.armed.entry((token, kind as u8)).or_default() += 1;
        }

        fn accept(&mut self, listener: &impl AsRawFd, token: u64) {
            self.ring.accept_multishot(listener.as_raw_fd(), Token::new(token));
            self.armed(Token::new(token), OpKind::Accept);
        }

        fn receive(&mut self, fd: &impl AsRawFd, token: u64) {
            self.ring.recv_multishot(fd.as_raw_fd(), Token::new(token));
            self.armed(Token::new(token), OpKind::Receive);
        }

        fn connect(&mut self, fd: &impl AsRawFd, peer: SocketAddr, token: u64) {
            self.ring.connect(fd.as_raw_fd(), peer, Token::new(token));
            self.armed(Token::new(token), OpKind::Connect);
        }

        fn poll(&mut self, fd: &impl AsRawFd, token: u64) {
            self.ring.poll_writable(fd.as_raw_fd(), Token::new(token));
            self.armed(Token::new(token), OpKind::PollWritable);
        }

        /// Ticks once, after something has happened.
        fn tick(&mut self) {
            self.ring.wait(Duration::from_secs(10), Duration::ZERO);
            let has_news = self.ring.kernel_has_work() || !self.ring.ring.completion().is_empty();
            assert!(has_news, "nothing in 10 s; seen: {:?}", self.seen);
            let known = self.seen.len();
            self.ring.harvest(&mut self.seen);
            for completion in &self.seen[known..] {
                let outcome = &completion.outcome;
                let key = (completion.token, outcome.kind() as u8);
                let count = self.armed.get_mut(&key).expect("an armed operation");
                assert!(*count > 0, "a completion after the last: {completion:?}");
                *count -= i32::from(outcome.is_terminal());
            }
            assert_eq!(self.ring.ops_in_flight(), self.in_flight());
        }

        fn in_flight(&self) -> usize {
            self.armed.values().sum::<i32>() as usize
        }

        /// Ticks until a completion satisfies `wanted` and takes it out.
        fn wait_for(&mut self, wanted: impl Fn(&Outcome) -> bool) -> Completion {
            loop {
                if let Some(at) = self.seen.iter().position(|seen| wanted(&seen.outcome)) {
                    return self.seen.remove(at);
                }
                self.tick();
            }
        }

        fn is_quiet(&mut self) -> bool {
            self.ring.wait(Duration::from_millis(1), Duration::ZERO);
            !self.ring.kernel_has_work() && self.ring.ring.completion().is_empty()
        }
    }

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("up");
        let (far, _) = listener.accept().expect("up");
        (near, far)
    }

    /// Fills the socket's buffers.
    fn fill(near: &TcpStream) {
        while socket::send_now(near, &[0; 65_536]).is_ok() {}
    }

    fn ended(wanted: Ended) -> impl Fn(&Outcome) -> bool {
        move |outcome| {
            matches!(outcome, Outcome::AcceptEnded(ended)
                | Outcome::ReceiveEnded(ended)
                | Outcome::PollEnded(ended) if *ended == wanted)
        }
    }

    #[test]
    fn input_is_told_once() {
        let mut watched = Watched::new(SMALL);
        let (near, mut far) = connected();
        for is_cancelled in [false, true] {
            watched.ring.poll_readable(near.as_raw_fd(), Token::new(7));
            watched.armed(Token::new(7), OpKind::PollReadable);
            match is_cancelled {
                true => watched.ring.cancel(Token::new(7), OpKind::PollReadable),
                false => far.write_all(b"x").expect("room"),
            }
            watched.wait_for(|outcome| matches!(outcome, Outcome::Readable));
            assert_eq!((&near).read(&mut [0; 1]).is_ok(), !is_cancelled);
            near.set_nonblocking(true).expect("a nonblocking socket");
        }
    }

    #[test]
    fn connection_is_accepted_read_and_ended() {
        let mut watched = Watched::new(RingSizes::default());
        let listener = socket::listener(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = socket::local_addr(&listener).expect("bound");
        watched.accept(&listener, 1);
        watched.ring.submit();

        let peers: Vec<_> = (0..3).map(|_| TcpStream::connect(address).expect("up")).collect();
        let accepted: Vec<_> = (0..3)
            .map(|_| {
                match watched.wait_for(|outcome| matches!(outcome, Outcome::Accepted(_))).outcome {
                    Outcome::Accepted(fd) => fd,
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        assert_eq!(
            socket::peer_addr(&accepted[1]).expect("up"),
            peers[1].local_addr().expect("up")
        );

        watched.receive(&accepted[1], 2);
        (&peers[1]).write_all(b"hello").expect("up");
        let completion = watched.wait_for(|outcome| matches!(outcome, Outcome::Received(_)));
        assert_eq!(completion.token, Token::new(2));
        let Outcome::Received(bytes) = completion.outcome else { unreachable!() };
        let bytes = bytes.into_bytes();
        assert_eq!(bytes, "hello");
        assert_eq!(watched.ring.buffers_out(), 1);
        drop(bytes);
        assert_eq!(watched.ring.buffers_out(), 0);

        drop(peers);
        watched.wait_for(ended(Ended::Eof));
        watched.ring.cancel(Token::new(1), OpKind::Accept);
        watched.wait_for(ended(Ended::Cancelled));
        assert_eq!(watched.ring.ops_in_flight(), 0);
    }

    #[test]
    fn connect_succeeds_fails_and_is_cancelled() {
        let mut watched = Watched::new(SMALL);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let fd = socket::stream(address).expect("a socket");
        watched.connect(&fd, address, 1);
        let completion = watched.wait_for(|outcome| matches!(outcome, Outcome::Connected(Ok(()))));
        assert_eq!(completion.token, Token::new(1));
        assert_eq!(socket::peer_addr(&fd).expect("up"), address);

        drop(listener);
        let fd = socket::stream(address).expect("a socket");
        watched.connect(&fd, address, 1);
        watched.wait_for(|outcome| matches!(outcome, Outcome::Connected(Err(Errno::ECONNREFUSED))));

        // The accept queue takes one connection; the SYNs of later ones are dropped.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        full.listen(0).expect("bound");
        let address = socket::local_addr(&full).expect("bound");
        let _queued = TcpStream::connect(address).expect("the one");
        let fd = socket::stream(address).expect("a socket");
        watched.connect(&fd, address, 1);
        watched.ring.cancel(Token::new(1), OpKind::Connect);
        watched.wait_for(|outcome| matches!(outcome, Outcome::Connected(Err(Errno::ECANCELED))));
        assert_eq!(watched.ring.ops_in_flight(), 0);
        assert!(watched.ring.connect_addresses.is_empty());
    }

    #[test]
    fn full_socket_becomes_writable_or_is_cancelled() {
        let mut watched = Watched::new(SMALL);
        let (near, mut far) = connected();
        fill(&near);
        watched.poll(&near, 1);
        watched.ring.submit();
        assert!(watched.is_quiet());
        let reader = thread::spawn(move || {
            far.read_exact(&mut vec![0; 1 << 20]).expect("up");
            far
        });
        watched.wait_for(|outcome| matches!(outcome, Outcome::Writable));
        let _far = reader.join().expect("no panic");

        fill(&near);
        watched.poll(&near, 1);
        watched.ring.cancel(Token::new(1), OpKind::PollWritable);
        // Whichever was first, there is one end.
        watched.wait_for(Outcome::is_terminal);
        assert_eq!(watched.ring.ops_in_flight(), 0);
    }

    #[test]
    fn flood_beyond_the_buffers_is_received_without_loss() {
        let mut watched = Watched::new(SMALL);
        let (mut near, far) = connected();
        let sent: Vec<u8> = (0..100_000_u32).map(|index| (index % 251) as u8).collect();
        let to_send = sent.clone();
        let writer = thread::spawn(move || near.write_all(&to_send).expect("up"));

        let mut received = Vec::new();
        let mut held = Vec::new();
        let mut no_buffers_count = 0;
        watched.receive(&far, 7);
        loop {
            watched.tick();
            let mut over = None;
            for completion in watched.seen.drain(..) {
                match completion.outcome {
                    Outcome::Received(bytes) => held.push(bytes.into_bytes()),
                    Outcome::ReceiveEnded(ended) => over = Some(ended),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(watched.ring.buffers_out(), held.len());
            match over {
                // Only now do the buffers go back: every round runs the ring dry.
                Some(Ended::NoBuffers | Ended::Rearm) => {
                    no_buffers_count += i32::from(over == Some(Ended::NoBuffers));
                    received.extend(held.drain(..).flatten());
                    watched.receive(&far, 7);
                }
                Some(Ended::Eof) => break,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
        received.extend(held.drain(..).flatten());
        writer.join().expect("no panic");
        assert!(no_buffers_count >= 100_000 / (4 * 1024) - 1, "{no_buffers_count}");
        assert_eq!(received, sent);
        assert_eq!(watched.ring.ops_in_flight(), 0);
        assert_eq!(watched.ring.buffers_out(), 0);
    }

    #[test]
    fn cancel_among_data_yields_one_end() {
        let mut watched = Watched::new(SMALL);
        for round in 0..200 {
            let (near, far) = UnixStream::pair().expect("a pair");
            watched.receive(&far, round);
            (&near).write_all(&[1; 100]).expect("room");
            if round % 2 == 0 {
                watched.ring.submit();
                (&near).write_all(&[2; 100]).expect("room");
            }
            watched.ring.cancel(Token::new(round), OpKind::Receive);
            if round % 3 == 0 {
                drop(near);
            }
            while watched.ring.ops_in_flight() > 0 {
                watched.tick();
            }
            // An operation that is over is not found, and nothing comes of it.
            watched.ring.cancel(Token::new(round), OpKind::Receive);
            watched.seen.clear();
        }
        assert_eq!(watched.ring.buffers_out(), 0);
    }

    #[test]
    fn more_operations_than_both_queues_hold_all_complete() {
        let mut watched = Watched::new(SMALL);
        let (near, _far) = UnixStream::pair().expect("a pair");
        for token in 0..200 {
            watched.poll(&near, token);
        }
        while watched.ring.ops_in_flight() > 0 {
            watched.tick();
        }
        assert_eq!(watched.seen.len(), 200);
    }

    #[test]
    fn a_ring_is_quiet_until_something_happens() {
        let mut watched = Watched::new(SMALL);
        let (near, far) = UnixStream::pair().expect("a pair");
        watched.receive(&far, 1);
        watched.ring.submit();
        assert!(watched.is_quiet());
        for _ in 0..10 {
            (&near).write_all(b"x").expect("room");
            assert!(!watched.is_quiet());
            watched.tick();
            assert!(matches!(
                watched.seen.pop(),
                Some(Completion { outcome: Outcome::Received(_), .. })
            ));
            assert!(watched.is_quiet());
        }
    }

    #[test]
    fn bad_descriptor_ends_each_kind_of_operation() {
        let mut watched = Watched::new(SMALL);
        let bad = -1;
        watched.accept(&bad, 1);
        watched.receive(&bad, 1);
        watched.connect(&bad, SocketAddr::from(([127, 0, 0, 1], 1)), 1);
        watched.poll(&bad, 1);
        while watched.ring.ops_in_flight() > 0 {
            watched.tick();
        }
        assert_eq!(watched.seen.len(), 4);
        assert!(watched.seen.iter().all(|seen| match seen.outcome {
            Outcome::Connected(result) => result == Err(Errno::EBADF),
            _ => ended(Ended::Error(Errno::EBADF))(&seen.outcome),
        }));
    }

    #[test]
    fn ring_dropped_with_operations_in_flight_leaves_views_whole() {
        let mut watched = Watched::new(SMALL);
        let (near, far) = UnixStream::pair().expect("a pair");
        watched.receive(&far, 1);
        (&near).write_all(b"kept").expect("room");
        let completion = watched.wait_for(|outcome| matches!(outcome, Outcome::Received(_)));
        drop(watched);
        (&near).write_all(b"late").expect("room");
        let Outcome::Received(bytes) = completion.outcome else { unreachable!() };
        let bytes = bytes.into_bytes();
        assert_eq!(bytes, "kept");
    }

    #[test]
    fn what_comes_in_quick_succession_is_gathered() {
        let mut watched = Watched::new(SMALL);
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().expect("a pair")).collect();
        for (token, (_, far)) in pairs.iter().enumerate() {
            watched.receive(far, token as u64);
        }
        assert!(watched.is_quiet());
        let writer = thread::spawn(move || {
            for (near, _) in &pairs {
                (&*near).write_all(b"x").expect("room");
            }
            pairs
        });
        watched.ring.wait(Duration::from_secs(10), Duration::from_secs(1));
        let pairs = writer.join().expect("no panic");
        watched.ring.harvest(&mut watched.seen);
        assert_eq!((watched.seen.len(), pairs.len()), (3, 3));
    }
}
