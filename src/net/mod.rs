//! The only accepting sockets, and what drives the sessions on them: one driver for each shard.

mod accept;
mod admission;
mod answers;
mod counters;
mod destination;
mod driver;
mod events;
mod http;
mod keeping;
mod link;
mod listeners;
mod load;
mod low_water;
mod marks;
mod origin;
mod pace;
mod play;
mod prefetch;
mod probe;
mod pull;
mod push;
mod reload;
mod report;
pub mod resolver;
mod rtmp;
mod rtsp;
mod rtsp_origin;
mod rtsp_peer;
mod serve;
mod sockets;
mod udp;
mod verdicts;
mod wheel;
mod wire;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use admission::Shared;
pub use driver::Protocol;
use driver::{Driver, Parts};
use events::Events;
pub use keeping::Kept;
use listeners::Listeners;
use probe::Prober;
pub use probe::{ProbeRequest, probe};
pub use reload::ConfigReader;
use resolver::Resolver;
use wire::RingWire;

use crate::bus::keeper::{Follow, ToKeeper};
use crate::bus::mesh::Wake;
use crate::bus::message::{Answer, Ask, Message, Ticket};
use crate::bus::{KeeperPort, Mesh, MeshPort};
use crate::clock;
use crate::config::{Config, NewestConfig};
use crate::media::{ConnectionId, ShardId, StreamKey};
use crate::proto::http::request::Request;
use crate::proto::http::response::Response;
use crate::ring::{EgressRing, MediaRing, RingSizes, Token, Waker};
use crate::rt::{self, OneshotReceiver, StartError, Tasks, oneshot};
use crate::shard::ledger::Ledger;
use crate::shard::{Policy, Shard};

/// Who asks, and what.
pub struct Call {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub connection: ConnectionId,
    pub request: Request,
}

/// How a request is answered.
pub enum Reply {
    Response(Response),
    /// With the event log, as long as the peer stays.
    Follow(Follow),
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Self::Response(response)
    }
}

/// Answers the requests that are not for a live stream. One on each shard.
pub type Handler = Rc<dyn Fn(NodeHandle, Call) -> Pin<Box<dyn Future<Output = Reply>>>>;

/// Makes a shard's handler on its thread.
pub type MakeHandler = Arc<dyn Fn() -> Handler + Send + Sync>;

/// What a node works with beside its config.
#[derive(Clone)]
pub struct Setup {
    pub make_handler: MakeHandler,
    pub kept: Option<Kept>,
    /// What is read again.
    pub config_reader: Option<ConfigReader>,
    pub newest_config: Arc<NewestConfig>,
    /// The way to who keeps the event log.
    pub keeper: KeeperPort,
}

/// The node, as seen from one of its shards.
#[derive(Clone)]
pub struct NodeHandle {
    driver: Rc<RefCell<Driver>>,
}

impl NodeHandle {
    fn new(driver: &Rc<RefCell<Driver>>) -> Self {
        Self { driver: driver.clone() }
    }

    pub fn shards(&self) -> usize {
        self.driver.borrow().shard.shards()
    }

    pub fn owner_of(&self, key: &StreamKey) -> ShardId {
        self.driver.borrow().shard.owner_of(key)
    }

    pub fn config(&self) -> Arc<Config> {
        self.driver.borrow().config.clone()
    }

    /// Changes the node's configuration. Shards go by it when they are asked to.
    pub fn change_config<R>(&self, edit: impl FnOnce(&mut Config) -> R) -> R {
        let newest = self.driver.borrow().setup.newest_config.clone();
        newest.change(edit)
    }

    /// Whether the node takes new work.
    pub fn is_ready(&self) -> bool {
        !self.driver.borrow().shutting_down
    }

    /// Asks a shard. `None` when it does not answer within `bound`.
    pub async fn ask(&self, to: ShardId, ask: Ask, bound: Duration) -> Option<Answer> {
        let (ticket, receiver) = self.open_ticket(bound);
        {
            let mut driver = self.driver.borrow_mut();
            driver.port.put(to, Message::Ask { ticket, ask });
            // The own turn takes it, or flushes it to the other shard.
            driver.again = true;
        }
        // Not answered in time, the sender is dropped.
        receiver.await.ok()
    }

    /// The last events of a key, each a line of JSON; `None` when the keeper does not answer within
    /// `bound`.
    pub async fn recent_events(&self, key: &StreamKey, bound: Duration) -> Option<Vec<String>> {
        let (Ticket { shard, serial }, receiver) = self.open_ticket(bound);
        let message = ToKeeper::Recent { shard, serial, key: key.clone() };
        self.driver.borrow().events.keeper.tell(message);
        match receiver.await {
            Ok(Answer::Recent(lines)) => Some(lines),
            _ => None,
        }
    }

    /// Has an answer awaited, for so long.
    fn open_ticket(&self, bound: Duration) -> (Ticket, OneshotReceiver<Answer>) {
        let (sender, receiver) = oneshot();
        let deadline = clock::now() + bound;
        let mut driver = self.driver.borrow_mut();
        let serial = driver.await_answer(sender, deadline);
        (Ticket { shard: driver.shard.id(), serial }, receiver)
    }

    fn respond(&self, token: Token, reply: Reply) {
        let mut driver = self.driver.borrow_mut();
        driver.now = clock::now();
        match reply {
            Reply::Response(response) => driver.respond(token, response),
            Reply::Follow(follow) => driver.follow(token, follow),
        }
        driver.act();
        driver.again = true;
    }
}

/// `/app/stream.live.flv` or `/app/stream.flv`: the key that is asked for.
fn live_path(path: &str) -> Option<StreamKey> {
    let path = path.strip_prefix('/')?;
    let lower = path.to_ascii_lowercase();
    let suffix = [".live.flv", ".flv"].into_iter().find(|suffix| lower.ends_with(suffix))?;
    let (app, stream) = path[..path.len() - suffix.len()].split_once('/')?;
    if app == "index" {
        return None;
    }
    StreamKey::in_default_vhost(app, stream).ok()
}

impl Wake for Waker {
    fn wake(&self) {
        Self::wake(self);
    }
}

/// Why a node does not start; one line with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(
        "{what} address {address} is taken: another process listens there; stop it or choose \
         another with --{what}"
    )]
    AddressTaken { what: &'static str, address: SocketAddr },
    #[error(
        "{what} address {address} needs a right that the process has not: give it \
         CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), or lower the sysctl \
         net.ipv4.ip_unprivileged_port_start to the port"
    )]
    AddressPrivileged { what: &'static str, address: SocketAddr },
    #[error("{what} address {address} can't be listened on: {source}")]
    Listen { what: &'static str, address: SocketAddr, source: io::Error },
    #[error("shard {shard} has no io_uring: {cause}")]
    Ring { shard: usize, cause: String },
    #[error("no thread for lookups: {0}")]
    Resolver(io::Error),
}

/// What the main thread and the shards tell each other.
struct Control {
    phase: AtomicU8,
    /// The config file is to be read again.
    reload: AtomicBool,
    /// The shard shuts down and holds nothing any more.
    empty: Vec<AtomicBool>,
}

const RUN: u8 = 0;
const SHUT_DOWN: u8 = 1;
const STOP: u8 = 2;

/// A node whose shards run.
pub struct Node {
    shards: Vec<rt::JoinHandle<Ledger>>,
    wakers: Vec<Waker>,
    control: Arc<Control>,
    pub http: SocketAddr,
    pub rtmp: SocketAddr,
    pub rtsp: SocketAddr,
}

impl Node {
    /// Binds the addresses and starts a shard on each of `cpus`, which has what was kept before it
    /// listens. Returns when all listen.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn start(config: &Arc<Config>, cpus: &[usize], setup: &Setup) -> Result<Self, NodeError> {
        rt::preflight()?;
        rt::check_cpus(cpus)?;
        let Listeners { by_shard, http, rtmp, rtsp } = Listeners::bind(config, cpus)?;
        // A port that was left to the system is told as what it is, whatever is changed later.
        setup.newest_config.change(|config| {
            (config.http.listen, config.rtmp.listen, config.rtsp.listen) = (http, rtmp, rtsp);
        });
        let config = setup.newest_config.read();
        let resolver = Arc::new(Resolver::start().map_err(NodeError::Resolver)?);
        let prober = Prober::start(resolver.clone()).map_err(NodeError::Resolver)?;
        let mut mesh = Mesh::new(cpus.len());
        let control = Arc::new(Control {
            phase: AtomicU8::new(RUN),
            reload: AtomicBool::new(false),
            empty: cpus.iter().map(|_| AtomicBool::new(false)).collect(),
        });
        let hash_seed = fastrand::u64(..);
        let shared = Shared::default();
        let (ready, all_ready) = mpsc::channel();
        let mut shards = Vec::new();
        let mut give_wakers = Vec::new();
        for ((index, &cpu), listeners) in cpus.iter().enumerate().zip(by_shard) {
            let id = ShardId(index as u16);
            let (give, wakers) = mpsc::channel();
            give_wakers.push(give);
            let start = ShardStart {
                id,
                shards: cpus.len(),
                hash_seed,
                config: config.clone(),
                port: mesh.take_port(id),
                listeners,
                resolver: resolver.clone(),
                prober: prober.clone(),
                setup: setup.clone(),
                shared: shared.clone(),
                control: control.clone(),
                ready: ready.clone(),
                wakers,
            };
            shards.push(rt::start_executor(&format!("shard-{index}"), cpu, || start.run())?);
        }
        drop(ready);
        let mut wakers: Vec<Option<Waker>> = vec![None; cpus.len()];
        for (id, result) in all_ready {
            match result {
                Ok(waker) => wakers[id.index()] = Some(waker),
                Err(cause) => return Err(NodeError::Ring { shard: id.index(), cause }),
            }
            if wakers.iter().all(Option::is_some) {
                break;
            }
        }
        let wakers: Vec<Waker> = wakers.into_iter().flatten().collect();
        for give in give_wakers {
            give.send(wakers.clone()).expect("each shard waits for them");
        }
        setup.keeper.tell(ToKeeper::Started(config));
        Ok(Self { shards, wakers, control, http, rtmp, rtsp })
    }

    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Has the config file read again; what comes of it is in the log.
    pub fn reload(&self) {
        self.control.reload.store(true, Ordering::Release);
        if let Some(waker) = self.wakers.first() {
            waker.wake();
        }
    }

    /// Begins to shut down: nothing is accepted any more, every session is ended.
    pub fn shut_down(&self) {
        self.enter(SHUT_DOWN);
    }

    /// Whether everything is released.
    pub fn is_empty(&self) -> bool {
        self.control.empty.iter().all(|empty| empty.load(Ordering::Acquire))
    }

    /// Ends the shards and returns what they still held.
    pub fn stop(self) -> Ledger {
        self.enter(STOP);
        let mut ledger = Ledger::default();
        for shard in self.shards {
            if let Ok(held) = shard.join() {
                ledger += held;
            }
        }
        ledger
    }

    fn enter(&self, phase: u8) {
        self.control.phase.store(phase, Ordering::Release);
        for waker in &self.wakers {
            waker.wake();
        }
    }
}

/// What a shard's thread is started with.
struct ShardStart {
    id: ShardId,
    shards: usize,
    hash_seed: u64,
    config: Arc<Config>,
    port: MeshPort,
    listeners: Vec<(OwnedFd, Protocol)>,
    resolver: Arc<Resolver>,
    prober: Prober,
    setup: Setup,
    shared: Shared,
    control: Arc<Control>,
    ready: mpsc::Sender<(ShardId, Result<Waker, String>)>,
    /// Those of all shards, when all have started.
    wakers: mpsc::Receiver<Vec<Waker>>,
}

impl ShardStart {
    async fn run(self) -> Ledger {
        let _guard = AbortOnPanic;
        let Self { id, shards, hash_seed, config, mut port, control, .. } = self;
        let rings =
            MediaRing::new(RingSizes::default()).and_then(|media| Ok((media, EgressRing::new()?)));
        let (ring, egress) = match rings {
            Ok(rings) => rings,
            Err(error) => {
                // The starter reports it.
                let _ = self.ready.send((id, Err(error.to_string())));
                return Ledger::default();
            }
        };
        // The starter waits for it, or has given up and stops us by the phase.
        let _ = self.ready.send((id, Ok(ring.waker())));
        // Nothing comes where another shard did not start.
        let Ok(wakers) = self.wakers.recv() else { return Ledger::default() };
        for (index, waker) in wakers.iter().enumerate() {
            port.set_waker(ShardId(index as u16), Arc::new(waker.clone()));
        }
        let mut shard = Shard::new(id, shards, hash_seed, Policy::of(&config, shards));
        shard.set_origins(&config);
        shard.keep_events();
        shard.share_pending(self.shared.pending);
        let (resolver, prober, setup) = (self.resolver, self.prober, self.setup);
        let events = Events::connect(id, setup.keeper.clone(), ring.waker());
        let wire = RingWire::new(egress);
        let guests = self.shared.guests;
        let parts =
            Parts { shard, ring, wire, port, config, resolver, events, prober, setup, guests };
        let driver = Driver::new(parts);
        driver.borrow_mut().restore();
        for (fd, protocol) in self.listeners {
            driver.borrow_mut().listen(fd, protocol);
        }
        let ledger = drive(&driver, &control);
        driver.borrow_mut().handle = None;
        ledger
    }
}

/// A shard that panics takes the process with it: its kernel operations can't be recalled, and the
/// other shards would wait for it for ever.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Turns until the node stops. The tasks run between two turns, when the driver is not borrowed.
fn drive(driver: &Rc<RefCell<Driver>>, control: &Control) -> Ledger {
    let id = driver.borrow().shard.id();
    let mut tasks = Tasks::default();
    loop {
        driver.borrow_mut().turn();
        match control.phase.load(Ordering::Acquire) {
            RUN if id.index() == 0 && control.reload.load(Ordering::Acquire) => {
                control.reload.store(false, Ordering::Release);
                driver.borrow_mut().start_reload();
            }
            RUN => {}
            SHUT_DOWN => {
                let mut driver = driver.borrow_mut();
                driver.shut_down();
                let empty = driver.ledger().is_zero();
                control.empty[id.index()].store(empty, Ordering::Release);
            }
            _ => {
                let mut driver = driver.borrow_mut();
                driver.tell_last_events();
                return driver.ledger();
            }
        }
        let new_tasks = std::mem::take(&mut driver.borrow_mut().tasks);
        new_tasks.into_iter().for_each(|task| tasks.push(task));
        tasks.run();
        let mut driver = driver.borrow_mut();
        driver.again |= tasks.are_ready();
        driver.sleep();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    use super::*;

    /// Connections that each shard has waiting when all came in on one CPU, that of the last shard.
    fn connections_by_shard(steer_by_cpu: bool) -> Vec<usize> {
        let this_thread = Pid::from_raw(0);
        let allowed = sched_getaffinity(this_thread).expect("an affinity");
        let cpu = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu) == Ok(true));
        let cpu = cpu.expect("a CPU that we run on");
        let mut config = Config::default();
        config.server.steer_by_cpu = steer_by_cpu;
        config.http.listen = ([127, 0, 0, 1], 0).into();
        config.rtmp.listen = ([127, 0, 0, 1], 0).into();
        config.rtsp.listen = ([127, 0, 0, 1], 0).into();
        let listeners = Listeners::bind(&config, &[100_000, cpu]).expect("free ports");
        let mut only = CpuSet::new();
        only.set(cpu).expect("in range");
        sched_setaffinity(this_thread, &only).expect("allowed");
        let _connections: Vec<_> = (0..32)
            .flat_map(|_| [listeners.http, listeners.rtmp, listeners.rtsp])
            .map(|address| TcpStream::connect(address).expect("a listener"))
            .collect();
        let waiting = |listeners: Vec<(OwnedFd, Protocol)>| {
            let listeners = listeners.into_iter().map(|(fd, _)| TcpListener::from(fd));
            listeners.map(|own| std::iter::from_fn(|| own.accept().ok()).count()).sum()
        };
        listeners.by_shard.into_iter().map(waiting).collect()
    }

    #[test]
    fn connections_go_to_the_shard_of_their_cpu_only_where_it_is_asked_for() {
        assert_eq!(connections_by_shard(true), [0, 96]);
        let spread = connections_by_shard(false);
        assert_eq!(spread.iter().sum::<usize>(), 96);
        assert!(spread[0] > 0, "{spread:?}");
    }
}
