//! Threads that post to hooks, each with a connection that it keeps. They block so that nobody else
//! has to; a thread is started when there is work for one more, and ends when there was none for it for a
//! while. The one that worked last goes on first, so that those beyond what is needed do end.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use url::{Position, Url};

use super::names::Names;
use crate::bus::KeeperPort;
use crate::bus::keeper::{HookPool, NoReply, Posted, ToKeeper};
use crate::clock;
use crate::limits::HOOK_THREAD_IDLE;
use crate::proto::http::{PostReply, ReplyReader, encode_post};

/// One call of a hook.
pub(super) struct Order {
    pub(super) id: u64,
    pub(super) url: Url,
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    pub(super) timeout: Duration,
}

/// Threads for one purpose; the keeper gets what came of each order.
pub(super) struct Pool {
    which: HookPool,
    bench: Arc<Bench>,
    keeper: KeeperPort,
    names: Names,
    threads_max: usize,
}

/// Where orders and threads wait for each other.
struct Bench {
    idle_max: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    orders: VecDeque<Order>,
    threads: usize,
    /// Those without work; the one that worked last is the last one.
    idle: Vec<Thread>,
}

impl Pool {
    pub(super) fn new(which: HookPool, threads_max: usize, keeper: KeeperPort) -> Self {
        let bench = Arc::new(Bench::new(HOOK_THREAD_IDLE));
        Self { which, bench, keeper, names: Names::default(), threads_max }
    }

    /// Has a hook called; `under_way` are the orders that have no answer yet, this one included.
    pub(super) fn give(&mut self, order: Order, under_way: usize) {
        let mut state = self.bench.state();
        if state.threads < under_way.min(self.threads_max) {
            let (which, keeper, bench) = (self.which, self.keeper.clone(), self.bench.clone());
            let names = self.names.clone();
            let thread = std::thread::Builder::new().name("hook".to_owned()).stack_size(STACK_LEN);
            match thread.spawn(move || work(which, &bench, &names, &keeper)) {
                Ok(_) => state.threads += 1,
                Err(error) => tracing::warn!(%error, "no thread to call a hook from"),
            }
        }
        if state.threads == 0 {
            let (pool, id) = (self.which, order.id);
            let posted = Err(NoReply::Unreachable("no thread to call it from".to_owned()));
            self.keeper.tell(ToKeeper::Posted { pool, id, posted });
            return;
        }
        state.orders.push_back(order);
        if let Some(thread) = state.idle.pop() {
            thread.unpark();
        }
    }
}

impl Bench {
    fn new(idle_max: Duration) -> Self {
        Self { idle_max, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next order for this thread, which waits for one; `None` when it waited for too long, and ends.
    fn next(&self) -> Option<Order> {
        let me = std::thread::current();
        let until = clock::now() + self.idle_max;
        let mut state = self.state();
        loop {
            state.idle.retain(|idle| idle.id() != me.id());
            if let Some(order) = state.orders.pop_front() {
                return Some(order);
            }
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                state.threads -= 1;
                return None;
            }
            state.idle.push(me.clone());
            drop(state);
            std::thread::park_timeout(left);
            state = self.state();
        }
    }
}

fn work(pool: HookPool, bench: &Bench, names: &Names, keeper: &KeeperPort) {
    let mut kept = None;
    while let Some(order) = bench.next() {
        let posted = post(&order, names, &mut kept);
        keeper.tell(ToKeeper::Posted { pool, id: order.id, posted });
    }
}

/// A connection that can be used again, and whose it is.
type Kept = Option<(String, TcpStream)>;

fn post(order: &Order, names: &Names, kept: &mut Kept) -> Posted {
    let deadline = clock::now() + order.timeout;
    let server = order.url[Position::BeforeHost..Position::AfterPort].to_owned();
    let fields: Vec<(&str, &str)> =
        order.fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let request = encode_post(&order.url, &fields, &order.body);
    let old = kept.take().filter(|(whose, socket)| *whose == server && is_quiet(socket));
    if let Some((_, mut socket)) = old {
        match exchange(&mut socket, &request, deadline) {
            Ok(reply) => return Ok(done(reply, socket, server, kept)),
            Err(error) if has_been_heard(&error) => return Err(unanswered(&error)),
            // The server has closed it meanwhile, as it may; it has not read the request.
            Err(_) => {}
        }
    }
    let unreachable = |error: io::Error| NoReply::Unreachable(error.to_string());
    let mut socket = connect(&order.url, names, deadline).map_err(unreachable)?;
    let reply = exchange(&mut socket, &request, deadline).map_err(|error| unanswered(&error))?;
    Ok(done(reply, socket, server, kept))
}

fn done(reply: PostReply, socket: TcpStream, server: String, kept: &mut Kept) -> (u16, Vec<u8>) {
    if reply.keep_alive {
        *kept = Some((server, socket));
    }
    (reply.status, reply.body)
}

/// Whether nothing has come on a connection since its last answer. What has would be taken for the
/// next one.
fn is_quiet(socket: &TcpStream) -> bool {
    let is_empty = |socket: &TcpStream| {
        socket.set_nonblocking(true)?;
        let peeked = socket.peek(&mut [0]);
        socket.set_nonblocking(false)?;
        io::Result::Ok(peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
    };
    is_empty(socket).unwrap_or(false)
}

fn connect(url: &Url, names: &Names, deadline: Instant) -> io::Result<TcpStream> {
    let addresses = names.look_up(url, deadline)?;
    let mut last = io::Error::new(ErrorKind::NotFound, "its name has no address");
    for (at, address) in addresses.iter().enumerate() {
        if is_link_local(address.ip()) {
            last =
                io::Error::new(ErrorKind::PermissionDenied, "link-local addresses are not called");
            continue;
        }
        // One that swallows everything leaves time for the others.
        let share = left(deadline)? / (addresses.len() - at) as u32;
        match TcpStream::connect_timeout(address, share) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Clouds tell secrets of the machine there to who asks.
fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn exchange(socket: &mut TcpStream, request: &[u8], deadline: Instant) -> io::Result<PostReply> {
    socket.set_write_timeout(Some(left(deadline)?))?;
    socket.write_all(request)?;
    let mut reader = ReplyReader::default();
    let mut buffer = [0; 4096];
    let fault = |error| io::Error::new(ErrorKind::InvalidData, error);
    let mut has_begun = false;
    loop {
        socket.set_read_timeout(Some(left(deadline)?))?;
        match socket.read(&mut buffer) {
            Ok(0) if !has_begun => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => return reader.handle_eof().map_err(fault),
            Ok(len) => {
                has_begun = true;
                if let Some(reply) = reader.handle_input(&buffer[..len]).map_err(fault)? {
                    return Ok(reply);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(clock::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Whether a call that failed so may have been read: it got a reply that is none, or nothing in time.
fn has_been_heard(error: &io::Error) -> bool {
    use ErrorKind::{InvalidData, TimedOut, WouldBlock};
    matches!(error.kind(), InvalidData | TimedOut | WouldBlock)
}

fn unanswered(error: &io::Error) -> NoReply {
    NoReply::Unanswered(error.to_string())
}

/// Name lookups of the C library take some; our own part needs little.
pub(super) const STACK_LEN: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc::channel;
    use std::thread::spawn;

    use super::*;
    use crate::limits::HOOK_REPLY_LEN_MAX;

    fn order(url: &str) -> Order {
        let timeout = Duration::from_secs(20);
        Order { id: 1, url: url.parse().unwrap(), fields: vec![], body: b"{}".to_vec(), timeout }
    }

    #[test]
    fn threads_without_work_end_and_the_one_that_worked_last_goes_on() {
        let bench = Arc::new(Bench::new(Duration::from_secs(60)));
        let (taken, takes) = channel();
        let threads: Vec<_> = (0..3)
            .map(|number| {
                bench.state().threads += 1;
                let (bench, taken) = (bench.clone(), taken.clone());
                let thread = spawn(move || {
                    while let Some(order) = bench.next() {
                        taken.send((number, order.id)).unwrap();
                    }
                });
                thread.thread().clone()
            })
            .collect();
        while bench.state().idle.len() < 3 {
            std::thread::yield_now();
        }
        let last = bench.state().idle.last().unwrap().id();
        for id in 0..10 {
            let mut state = bench.state();
            state.orders.push_back(Order { id, ..order("http://h/") });
            state.idle.pop().expect("one is idle").unpark();
            drop(state);
            let (number, of) = takes.recv().unwrap();
            assert_eq!((threads[number].id(), of), (last, id));
            while bench.state().idle.len() < 3 {
                std::thread::yield_now();
            }
        }
        let soon = Bench::new(Duration::from_millis(1));
        soon.state().threads = 1;
        assert!(soon.next().is_none());
        let state = soon.state();
        assert_eq!((state.threads, state.idle.len()), (0, 0));
    }

    #[test]
    fn bytes_that_came_between_two_calls_answer_neither() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let reply = |body| format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{body}");
        let mut buffer = [0; 4096];
        let (first, late) = (reply("1"), reply("2"));
        let (sender, sent) = channel();
        let server = spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            assert!(socket.read(&mut buffer).unwrap() > 0);
            socket.write_all(first.as_bytes()).unwrap();
            // Nobody has asked for this.
            sent.recv().unwrap();
            socket.write_all(late.as_bytes()).unwrap();
            sent.recv().unwrap();
            let (mut other, _) = listener.accept().unwrap();
            assert!(other.read(&mut buffer).unwrap() > 0);
            other.write_all(reply("3").as_bytes()).unwrap();
        });
        let (names, mut kept) = (Names::default(), None);
        assert_eq!(post(&order(&url), &names, &mut kept), Ok((200, b"1".to_vec())));
        sender.send(()).unwrap();
        let (_, socket) = kept.as_ref().expect("it is kept");
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.peek(&mut [0]).expect("the late bytes");
        sender.send(()).unwrap();
        assert_eq!(post(&order(&url), &names, &mut kept), Ok((200, b"3".to_vec())));
        server.join().unwrap();
    }

    #[test]
    fn a_server_is_unreachable_only_without_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let mut soon = order(&url);
        // The kernel takes the connection, and nobody reads.
        soon.timeout = Duration::from_millis(500);
        let silent = post(&soon, &Names::default(), &mut None);
        assert!(matches!(silent, Err(NoReply::Unanswered(_))), "{silent:?}");
        let len = HOOK_REPLY_LEN_MAX + 1;
        let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{}", "x".repeat(len));
        let replies = ["220 mail\r\n\r\n".to_owned(), long, String::new()];
        let count = replies.len();
        let server = spawn(move || {
            drop(listener.accept().unwrap());
            for reply in replies {
                let (mut socket, _) = listener.accept().unwrap();
                assert!(socket.read(&mut [0; 4096]).unwrap() > 0);
                // The caller goes as soon as it has seen enough.
                let _ = socket.write_all(reply.as_bytes());
            }
        });
        for number in 0..count {
            let posted = post(&order(&url), &Names::default(), &mut None);
            assert!(matches!(posted, Err(NoReply::Unanswered(_))), "{number}: {posted:?}");
        }
        server.join().unwrap();
        let gone = post(&order(&url), &Names::default(), &mut None);
        assert!(matches!(gone, Err(NoReply::Unreachable(_))), "{gone:?}");
    }

    #[test]
    fn what_is_no_reply_on_a_kept_connection_is_not_asked_for_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let server = spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            for reply in ["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "what?\r\n\r\n"] {
                assert!(socket.read(&mut [0; 4096]).unwrap() > 0);
                socket.write_all(reply.as_bytes()).unwrap();
            }
        });
        let (names, mut kept) = (Names::default(), None);
        assert_eq!(post(&order(&url), &names, &mut kept), Ok((200, Vec::new())));
        let posted = post(&order(&url), &names, &mut kept);
        assert!(matches!(posted, Err(NoReply::Unanswered(_))), "{posted:?}");
        server.join().unwrap();
    }

    #[test]
    fn link_local_addresses_are_not_called_and_others_are() {
        for url in ["http://169.254.169.254/", "http://[fe80::1]/", "http://[::ffff:169.254.1.1]/"]
        {
            let posted = post(&order(url), &Names::default(), &mut None);
            let why = "link-local addresses are not called".to_owned();
            assert_eq!(posted, Err(NoReply::Unreachable(why)), "{url}");
        }
        for address in ["127.0.0.1", "10.0.0.1", "192.168.0.1", "fd00::1", "8.8.8.8"] {
            assert!(!is_link_local(address.parse().unwrap()), "{address}");
        }
    }
}
