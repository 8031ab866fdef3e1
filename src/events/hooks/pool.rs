//! Threads that post to hooks, each with connections that it keeps. They block so that nobody else
//! has to; a thread is started when there is work for one more.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use url::{Position, Url};

use crate::bus::KeeperPort;
use crate::bus::keeper::{HookPool, Posted, ToKeeper};
use crate::clock;
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
    orders: Sender<Order>,
    waiting: Arc<Mutex<Receiver<Order>>>,
    keeper: KeeperPort,
    threads: usize,
    threads_max: usize,
}

impl Pool {
    pub(super) fn new(which: HookPool, threads_max: usize, keeper: KeeperPort) -> Self {
        let (orders, waiting) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        Self { which, orders, waiting, keeper, threads: 0, threads_max }
    }

    /// Has a hook called; `under_way` are the orders that have no answer yet, this one included.
    pub(super) fn give(&mut self, order: Order, under_way: usize) {
        if self.threads < under_way.min(self.threads_max) {
            let (which, keeper, waiting) = (self.which, self.keeper.clone(), self.waiting.clone());
            let thread = std::thread::Builder::new().name("hook".to_owned()).stack_size(STACK_LEN);
            match thread.spawn(move || work(which, &waiting, &keeper)) {
                Ok(_) => self.threads += 1,
                Err(error) => tracing::warn!(%error, "no thread to call a hook from"),
            }
        }
        if self.threads == 0 {
            let (pool, id) = (self.which, order.id);
            let posted = Err("no thread to call it from".to_owned());
            self.keeper.tell(ToKeeper::Posted { pool, id, posted });
            return;
        }
        // Our own end of the channel keeps it open.
        let _ = self.orders.send(order);
    }
}

fn work(pool: HookPool, orders: &Mutex<Receiver<Order>>, keeper: &KeeperPort) {
    let mut kept = None;
    loop {
        let next = orders.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(order) = next else { return };
        let posted = post(&order, &mut kept);
        keeper.tell(ToKeeper::Posted { pool, id: order.id, posted });
    }
}

/// A connection that can be used again, and whose it is.
type Kept = Option<(String, TcpStream)>;

fn post(order: &Order, kept: &mut Kept) -> Posted {
    let deadline = clock::now() + order.timeout;
    let server = order.url[Position::BeforeHost..Position::AfterPort].to_owned();
    let fields: Vec<(&str, &str)> =
        order.fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let request = encode_post(&order.url, &fields, &order.body);
    let old = kept.take().filter(|(whose, _)| *whose == server);
    if let Some((_, mut socket)) = old {
        match exchange(&mut socket, &request, deadline) {
            Ok(reply) => return Ok(done(reply, socket, server, kept)),
            // The server has closed it meanwhile, as it may; it has not read the request.
            Err(error) if !is_timeout(&error) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let mut socket = connect(&order.url, deadline).map_err(|error| error.to_string())?;
    let reply = exchange(&mut socket, &request, deadline).map_err(|error| error.to_string())?;
    Ok(done(reply, socket, server, kept))
}

fn done(reply: PostReply, socket: TcpStream, server: String, kept: &mut Kept) -> (u16, Vec<u8>) {
    if reply.keep_alive {
        *kept = Some((server, socket));
    }
    (reply.status, reply.body)
}

fn connect(url: &Url, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "its name has no address");
    for address in url.socket_addrs(|| None)? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(socket: &mut TcpStream, request: &[u8], deadline: Instant) -> io::Result<PostReply> {
    socket.set_write_timeout(Some(left(deadline)?))?;
    socket.write_all(request)?;
    let mut reader = ReplyReader::default();
    let mut buffer = [0; 4096];
    let fault = |error| io::Error::new(ErrorKind::InvalidData, error);
    loop {
        socket.set_read_timeout(Some(left(deadline)?))?;
        match socket.read(&mut buffer) {
            Ok(0) => return reader.handle_eof().map_err(fault),
            Ok(len) => {
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

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

/// Name lookups of the C library take some; our own part needs little.
const STACK_LEN: usize = 256 * 1024;
