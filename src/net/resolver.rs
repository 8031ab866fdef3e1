//! Name lookups: a few threads around the blocking resolver of the C library.
//!
//! Shards never block on a name. Lookups of one name are made once for all who wait, and an answer
//! is remembered for five seconds. Names that failed or took long the last time are looked up by half of
//! the threads, so that those of a dead name server do not hold up the others. No DNS of our own: `/etc/hosts`, NSS modules and search
//! domains work as everywhere else on the machine.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::clock;
use crate::limits::{HOST_LEN_MAX, RESOLVER_CACHE_MAX, RESOLVER_THREADS, RESOLVER_WAITERS_MAX};

/// Gets the addresses, in the order in which they should be tried, or why there are none.
pub type Answer = Box<dyn FnOnce(Result<Vec<SocketAddr>, ResolveError>) + Send>;

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name is no host name.
    #[error("not a host name")]
    NotAName,
    /// No such name, or the name server did not answer; the C library's reasons differ too much
    /// between systems to be told apart.
    #[error("name lookup failed")]
    LookupFailed,
    /// [`RESOLVER_WAITERS_MAX`] answers are awaited already.
    #[error("too many name lookups under way")]
    Busy,
    /// The process is about to end.
    #[error("name lookups have ended")]
    Stopping,
}

/// The lookup threads; shards share it by reference.
pub struct Resolver {
    shared: Arc<Shared<Lookup>>,
    threads: Vec<JoinHandle<()>>,
}

impl Resolver {
    /// Starts the threads.
    pub fn start() -> io::Result<Self> {
        Self::start_with(|host| {
            Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
        })
    }

    fn start_with<L>(lookup: L) -> io::Result<Self>
    where
        L: Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    {
        let shared: Arc<Shared<Lookup>> =
            Arc::new(Shared { lookup, state: Mutex::default(), work: Condvar::new() });
        let threads = (0..RESOLVER_THREADS)
            .map(|index| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("resolver-{index}"))
                    .spawn(move || shared.run(index))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { shared, threads })
    }

    /// Looks `host` up and calls `answer` exactly once: before this returns when the answer is
    /// known, else on a lookup thread. Who has lost interest says so by ignoring the call.
    ///
    /// Literals are for [`literal`]; here they would only take a thread's time.
    pub fn resolve(&self, host: &str, port: u16, answer: Answer) {
        let waiter = Waiter { port, answer };
        if host.is_empty() || host.len() > HOST_LEN_MAX || host.contains('\0') {
            return waiter.give(Err(ResolveError::NotAName));
        }
        let mut state = self.shared.lock();
        if state.stopping {
            drop(state);
            return waiter.give(Err(ResolveError::Stopping));
        }
        if let Some(addresses) = state.cache.addresses(host, clock::now()) {
            drop(state);
            return waiter.give(Ok(&addresses));
        }
        if state.waiters_count == RESOLVER_WAITERS_MAX {
            drop(state);
            return waiter.give(Err(ResolveError::Busy));
        }
        state.waiters_count += 1;
        if let Some(waiters) = state.waiters.get_mut(host) {
            waiters.push(waiter);
        } else {
            state.waiters.insert(host.to_owned(), vec![waiter]);
            state.enqueue(host);
            // One of those for slow names may be woken by it alone.
            self.shared.work.notify_all();
        }
    }
}

impl Drop for Resolver {
    /// Answers who still waits, and joins the threads but those inside a lookup, which may hang for
    /// as long as the name server likes; they end after it.
    fn drop(&mut self) {
        let (waiters, busy) = self.shared.stop();
        for waiter in waiters {
            waiter.give(Err(ResolveError::Stopping));
        }
        for (thread, busy) in self.threads.drain(..).zip(busy) {
            // A thread that panicked has said so on standard error.
            let _ = busy || thread.join().is_err();
        }
    }
}

/// The address that `host` spells out (`192.0.2.1`, `2001:db8::1`, `[2001:db8::1]`), if it does.
pub fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match inner {
        Some(inner) => IpAddr::V6(inner.parse().ok()?),
        None => host.parse().ok()?,
    };
    Some(SocketAddr::new(address, port))
}

/// What the threads share; unsized for the lookup, which tests replace.
struct Shared<L: ?Sized> {
    state: Mutex<State>,
    work: Condvar,
    lookup: L,
}

#[derive(Default)]
struct State {
    cache: Cache,
    /// Who waits for a name that is queued or being looked up.
    waiters: HashMap<String, Vec<Waiter>>,
    waiters_count: usize,
    queue: VecDeque<String>,
    /// Names that were slow the last time.
    slow_queue: VecDeque<String>,
    /// Bounded by [`RESOLVER_CACHE_MAX`].
    slow: HashSet<String>,
    /// Which threads are inside a lookup.
    busy: [bool; RESOLVER_THREADS],
    stopping: bool,
}

type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

struct Waiter {
    port: u16,
    answer: Answer,
}

impl State {
    fn enqueue(&mut self, host: &str) {
        let queue = if self.slow.contains(host) { &mut self.slow_queue } else { &mut self.queue };
        queue.push_back(host.to_owned());
    }

    /// The next name for a thread; every other one takes slow names too.
    fn dequeue(&mut self, thread_index: usize) -> Option<String> {
        let name = self.queue.pop_front();
        name.or_else(|| (thread_index % 2 == 1).then(|| self.slow_queue.pop_front()).flatten())
    }

    fn note_pace(&mut self, host: &str, is_slow: bool) {
        if !is_slow {
            self.slow.remove(host);
        } else if self.slow.len() < RESOLVER_CACHE_MAX {
            self.slow.insert(host.to_owned());
        }
    }
}

impl Shared<Lookup> {
    /// A lookup thread. Answers are given without the lock held: they may ask again.
    fn run(&self, thread_index: usize) {
        while let Some(host) = self.next_name(thread_index) {
            let begun = clock::now();
            let result = (self.lookup)(&host);
            let found = match &result {
                Ok(addresses) if !addresses.is_empty() => Ok(&addresses[..]),
                _ => Err(ResolveError::LookupFailed),
            };
            let is_slow = found.is_err() || clock::now().duration_since(begun) > SLOW_AFTER;
            for waiter in self.finish(thread_index, &host, found, is_slow) {
                waiter.give(found);
            }
        }
    }

    fn next_name(&self, thread_index: usize) -> Option<String> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            if let Some(host) = state.dequeue(thread_index) {
                state.busy[thread_index] = true;
                return Some(host);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(
        &self,
        thread_index: usize,
        host: &str,
        found: Result<&[IpAddr], ResolveError>,
        is_slow: bool,
    ) -> Vec<Waiter> {
        let mut state = self.lock();
        state.busy[thread_index] = false;
        state.note_pace(host, is_slow);
        if let Ok(addresses) = found {
            state.cache.insert(host, addresses, clock::now());
        }
        let waiters = state.waiters.remove(host).unwrap_or_default();
        state.waiters_count -= waiters.len();
        waiters
    }

    fn stop(&self) -> (Vec<Waiter>, [bool; RESOLVER_THREADS]) {
        let mut state = self.lock();
        state.stopping = true;
        state.queue.clear();
        state.slow_queue.clear();
        state.waiters_count = 0;
        let waiters = state.waiters.drain().flat_map(|(_, waiters)| waiters).collect();
        self.work.notify_all();
        (waiters, state.busy)
    }

    /// The state has no invariant that a panic under the lock could break half-way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    fn give(self, found: Result<&[IpAddr], ResolveError>) {
        let port = self.port;
        (self.answer)(found.map(|addresses| {
            addresses.iter().map(|&address| SocketAddr::new(address, port)).collect()
        }));
    }
}

/// Names found not long ago.
#[derive(Default)]
struct Cache(HashMap<String, Found>);

struct Found {
    addresses: Vec<IpAddr>,
    expires: Instant,
}

impl Cache {
    fn addresses(&self, host: &str, now: Instant) -> Option<Vec<IpAddr>> {
        let found = self.0.get(host).filter(|found| now < found.expires)?;
        Some(found.addresses.clone())
    }

    /// Remembers nothing new while [`RESOLVER_CACHE_MAX`] names are fresh.
    fn insert(&mut self, host: &str, addresses: &[IpAddr], now: Instant) {
        if self.0.len() >= RESOLVER_CACHE_MAX {
            self.0.retain(|_, found| now < found.expires);
        }
        if self.0.len() < RESOLVER_CACHE_MAX {
            let found = Found { addresses: addresses.to_vec(), expires: now + ANSWER_LIFE };
            self.0.insert(host.to_owned(), found);
        }
    }
}

/// Long enough for a thousand pulls of one origin that start together, short enough that a moved
/// origin is found at the next attempt or the one after.
const ANSWER_LIFE: Duration = Duration::from_secs(5);

/// A name server near by answers within some milliseconds, one that has to ask within some hundreds.
const SLOW_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    type Found = Result<Vec<SocketAddr>, ResolveError>;

    fn answer_to(sender: &Sender<Found>) -> Answer {
        let sender = sender.clone();
        Box::new(move |found| sender.send(found).expect("the test listens"))
    }

    /// A resolver whose lookups say that they began and last until the test lets them go.
    struct Held {
        resolver: Resolver,
        begun: Receiver<String>,
        release: Sender<()>,
        lookups: Arc<AtomicUsize>,
    }

    fn held_resolver() -> Held {
        let (begin, begun) = channel();
        let (release, released) = channel::<()>();
        let released = Mutex::new(released);
        let lookups = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lookups);
        let resolver = Resolver::start_with(move |host| {
            counted.fetch_add(1, Ordering::SeqCst);
            begin.send(host.to_owned()).map_err(io::Error::other)?;
            released.lock().expect("no panic").recv().map_err(io::Error::other)?;
            Ok(vec![ADDRESS])
        });
        Held { resolver: resolver.expect("threads"), begun, release, lookups }
    }

    #[test]
    fn literals_are_recognized() {
        let v4 = SocketAddr::from(([192, 0, 2, 1], 80));
        let v6 = "[2001:db8::1]:80".parse().expect("an address");
        assert_eq!(literal("192.0.2.1", 80), Some(v4));
        assert_eq!(literal("2001:db8::1", 80), Some(v6));
        assert_eq!(literal("[2001:db8::1]", 80), Some(v6));
        for name in ["", "localhost", "192.0.2", "[192.0.2.1]", "[2001:db8::1", "a:b"] {
            assert_eq!(literal(name, 80), None, "{name}");
        }
    }

    #[test]
    fn one_lookup_answers_all_and_is_remembered() {
        let held = held_resolver();
        let (sender, answers) = channel();
        held.resolver.resolve("origin.example", 1935, answer_to(&sender));
        assert_eq!(held.begun.recv().expect("begins"), "origin.example");
        held.resolver.resolve("origin.example", 554, answer_to(&sender));
        held.release.send(()).expect("a lookup waits");
        let mut ports: Vec<u16> = (0..2)
            .map(|_| {
                let found = answers.recv().expect("answered").expect("found");
                assert_eq!(found.len(), 1);
                assert_eq!(found[0].ip(), ADDRESS);
                found[0].port()
            })
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, [554, 1935]);

        held.resolver.resolve("origin.example", 80, answer_to(&sender));
        let found = answers.try_recv().expect("answered at once").expect("found");
        assert_eq!(found, [SocketAddr::new(ADDRESS, 80)]);
        assert_eq!(held.lookups.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn failed_lookup_is_not_remembered() {
        let lookups = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lookups);
        let resolver =
            Resolver::start_with(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
                0 => Err(io::ErrorKind::NotFound.into()),
                1 => Ok(Vec::new()),
                _ => Ok(vec![ADDRESS]),
            })
            .expect("threads");
        let (sender, answers) = channel();
        let ask = || {
            resolver.resolve("origin.example", 1, answer_to(&sender));
            answers.recv().expect("answered")
        };
        assert_eq!(ask(), Err(ResolveError::LookupFailed));
        assert_eq!(ask(), Err(ResolveError::LookupFailed));
        assert!(ask().is_ok());
    }

    #[test]
    fn names_that_failed_leave_threads_to_the_others() {
        let (release, released) = channel::<()>();
        let (released, seen) = (Mutex::new(released), Mutex::new(HashSet::new()));
        // A dead name fails at once the first time, and later hangs.
        let lookup = move |host: &str| {
            if !host.starts_with("dead") {
                return Ok(vec![ADDRESS]);
            }
            if !seen.lock().expect("no panic").insert(host.to_owned()) {
                let _ = released.lock().expect("no panic").recv();
            }
            Err(io::ErrorKind::TimedOut.into())
        };
        let resolver = Resolver::start_with(lookup).expect("threads");
        let (sender, answers) = channel();
        let ask_dead = || {
            for index in 0..RESOLVER_THREADS {
                resolver.resolve(&format!("dead-{index}"), 1, answer_to(&sender));
            }
        };
        ask_dead();
        for _ in 0..RESOLVER_THREADS {
            assert_eq!(answers.recv().expect("answered"), Err(ResolveError::LookupFailed));
        }
        ask_dead();
        resolver.resolve("origin.example", 1, answer_to(&sender));
        let found = answers.recv_timeout(Duration::from_secs(60)).expect("answered before those");
        assert_eq!(found, Ok(vec![SocketAddr::new(ADDRESS, 1)]));
        drop(release);
        drop(resolver);
    }

    #[test]
    fn names_that_cannot_be_are_refused_at_once() {
        let held = held_resolver();
        let (sender, answers) = channel();
        let long = "a".repeat(HOST_LEN_MAX + 1);
        for name in ["", "a\0b", &long] {
            held.resolver.resolve(name, 1, answer_to(&sender));
            assert_eq!(answers.try_recv(), Ok(Err(ResolveError::NotAName)));
        }
        assert_eq!(held.lookups.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn waiters_are_bounded() {
        let held = held_resolver();
        let (sender, answers) = channel();
        for _ in 0..RESOLVER_WAITERS_MAX {
            held.resolver.resolve("origin.example", 1, answer_to(&sender));
        }
        held.resolver.resolve("origin.example", 1, answer_to(&sender));
        assert_eq!(answers.try_recv(), Ok(Err(ResolveError::Busy)));
        held.release.send(()).expect("a lookup waits");
        for _ in 0..RESOLVER_WAITERS_MAX {
            assert!(answers.recv().expect("answered").is_ok());
        }
        held.resolver.resolve("origin.example", 1, answer_to(&sender));
        assert!(answers.recv().expect("answered").is_ok());
    }

    #[test]
    fn stop_answers_waiters_and_leaves_hanging_lookups_behind() {
        let Held { resolver, begun, release, .. } = held_resolver();
        let (sender, answers) = channel();
        for index in 0..=RESOLVER_THREADS {
            resolver.resolve(&format!("origin-{index}.example"), 1, answer_to(&sender));
        }
        for _ in 0..RESOLVER_THREADS - 1 {
            begun.recv().expect("begins");
        }
        // Returns though no lookup has.
        drop(resolver);
        for _ in 0..=RESOLVER_THREADS {
            assert_eq!(answers.try_recv(), Ok(Err(ResolveError::Stopping)));
        }
        drop(release);
    }

    #[test]
    fn cache_forgets_with_time_and_keeps_its_bound() {
        let now = clock::now();
        let mut cache = Cache::default();
        cache.insert("a.example", &[ADDRESS], now);
        let just_before = now + ANSWER_LIFE - Duration::from_nanos(1);
        assert_eq!(cache.addresses("a.example", just_before), Some(vec![ADDRESS]));
        assert_eq!(cache.addresses("a.example", now + ANSWER_LIFE), None);

        for index in 0..2 * RESOLVER_CACHE_MAX {
            cache.insert(&format!("{index}.example"), &[ADDRESS], now);
        }
        assert_eq!(cache.0.len(), RESOLVER_CACHE_MAX);
        cache.insert("late.example", &[ADDRESS], now + ANSWER_LIFE);
        assert_eq!(cache.0.len(), 1);
    }

    #[test]
    fn system_resolver_finds_this_machine() {
        let resolver = Resolver::start().expect("threads");
        let (sender, answers) = channel();
        resolver.resolve("localhost", 1935, answer_to(&sender));
        let found = answers.recv().expect("answered").expect("localhost is in /etc/hosts");
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 1935));
    }
}
