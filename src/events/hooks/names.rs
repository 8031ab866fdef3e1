//! Addresses of hook servers. The lookup of the C library has no deadline, so that a thread of its
//! own makes it; whoever wants the same name meanwhile waits for the same one, as long as it may.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use url::{Host, Url};

use super::pool::STACK_LEN;
use crate::clock;

/// The lookups under way, at most one of each name.
#[derive(Clone, Default)]
pub(super) struct Names(Arc<Mutex<HashMap<String, Arc<Lookup>>>>);

#[derive(Default)]
struct Lookup {
    found: Mutex<Option<Result<Vec<SocketAddr>, String>>>,
    done: Condvar,
}

impl Names {
    /// The addresses of a URL's host, with its port.
    ///
    /// # Errors
    /// There are none, or not in time.
    pub(super) fn look_up(&self, url: &Url, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
        match url.host() {
            Some(Host::Domain(_)) => {
                let of = url.clone();
                let name = format!("{}:{:?}", url.host_str().unwrap_or_default(), url.port());
                self.look_up_by(&name, deadline, move || of.socket_addrs(|| None))
            }
            _ => url.socket_addrs(|| None),
        }
    }

    fn look_up_by<L>(&self, name: &str, deadline: Instant, ask: L) -> io::Result<Vec<SocketAddr>>
    where
        L: FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    {
        let lookup = self.begin(name, ask)?;
        let mut found = lock(&lookup.found);
        loop {
            if let Some(found) = &*found {
                return found.clone().map_err(io::Error::other);
            }
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, "its name was not found in time"));
            }
            let waited = lookup.done.wait_timeout(found, left);
            found = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The lookup of this name that is under way, or a new one.
    fn begin<L>(&self, name: &str, ask: L) -> io::Result<Arc<Lookup>>
    where
        L: FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    {
        let mut under_way = lock(&self.0);
        if let Some(lookup) = under_way.get(name) {
            return Ok(lookup.clone());
        }
        let lookup = Arc::new(Lookup::default());
        let (result, names, whose) = (lookup.clone(), self.clone(), name.to_owned());
        let thread = std::thread::Builder::new().name("hook-name".to_owned()).stack_size(STACK_LEN);
        thread.spawn(move || {
            let found = ask().map_err(|error| error.to_string());
            lock(&names.0).remove(&whose);
            *lock(&result.found) = Some(found);
            result.done.notify_all();
        })?;
        under_way.insert(name.to_owned(), lookup.clone());
        Ok(lookup)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lookup_that_hangs_holds_nobody_beyond_the_deadline_and_is_made_once() {
        let names = Names::default();
        let (answer, waits) = channel::<()>();
        let addresses = vec!["10.0.0.1:80".parse::<SocketAddr>().unwrap()];
        let found = addresses.clone();
        let error = names.look_up_by("h", clock::now(), move || {
            let _ = waits.recv();
            Ok(found)
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
        let again = || -> io::Result<Vec<SocketAddr>> { panic!("one is under way") };
        assert!(names.look_up_by("h", clock::now(), again).is_err());
        let other = addresses.clone();
        assert!(names.look_up_by("other", clock::now() + LONG, move || Ok(other)).is_ok());
        let lookup = lock(&names.0)["h"].clone();
        answer.send(()).unwrap();
        let mut result = lock(&lookup.found);
        while result.is_none() {
            result = lookup.done.wait(result).unwrap();
        }
        assert_eq!(*result, Some(Ok(addresses)));
        assert!(!lock(&names.0).contains_key("h"), "the next one looks anew");
    }

    const LONG: Duration = Duration::from_secs(60);
}
