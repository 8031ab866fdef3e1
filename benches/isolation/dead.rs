//! Three origins that no pull ever comes up from.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, scope, spawn};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};

use rillcast::clock;

use crate::kit::fault::{Mode, Origin};
use crate::kit::{Api, pause};

pub(crate) const APP: &str = "dead";

/// How often the silent origin looks who has gone: that takes a system call for each connection.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const SWEEP_SLICE: usize = 32;

/// Adds under way at once.
const ADDERS: usize = 4;

pub(crate) struct DeadOrigins {
    silent: Silent,
    refused: Origin,
    black_hole: Origin,
}

impl DeadOrigins {
    pub(crate) fn start() -> Self {
        Self {
            silent: Silent::start(),
            refused: Origin::start(Mode::Refused),
            black_hole: Origin::start(Mode::SynDropped),
        }
    }

    /// Adds so many pulls, a third of each kind, retried without end.
    pub(crate) fn add(&self, api: &Api, pulls: usize) {
        let silent = format!("rtmp://127.0.0.1:{}/live/dead", self.silent.port);
        let urls = [silent, self.refused.rtmp_url("dead"), self.black_hole.rtmp_url("dead")];
        scope(|scope| {
            for adder in 0..ADDERS {
                let urls = &urls;
                scope.spawn(move || {
                    for number in (adder..pulls).step_by(ADDERS) {
                        let stream = number.to_string();
                        let params = [
                            ("vhost", "__defaultVhost__"),
                            ("app", APP),
                            ("stream", &stream),
                            ("url", &urls[number % urls.len()]),
                            ("async", "1"),
                            ("force", "1"),
                        ];
                        assert_eq!(api.call("addStreamProxy", &params)["code"], 0);
                    }
                });
            }
        });
    }
}

/// Accepts and says nothing; one thread for all connections, unlike the kit's.
struct Silent {
    port: u16,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Silent {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        socket2::SockRef::from(&listener).listen(4096).expect("a longer queue");
        listener.set_nonblocking(true).expect("a nonblocking listener");
        let stopped = Arc::new(AtomicBool::new(false));
        let for_thread = Arc::clone(&stopped);
        let thread = Some(spawn(move || hold(&listener, &for_thread)));
        Self { port, stopped, thread }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}

fn hold(listener: &TcpListener, stopped: &AtomicBool) {
    let mut held: Vec<(usize, TcpStream)> = Vec::new();
    let mut buffer = [0; 4096];
    let mut next_sweep = clock::now() + SWEEP_INTERVAL;
    while !stopped.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, 100_u16).expect("poll");
        while let Ok((socket, _)) = listener.accept() {
            socket.set_nonblocking(true).expect("a nonblocking socket");
            held.push((held.len(), socket));
        }
        if clock::now() < next_sweep {
            continue;
        }
        next_sweep = clock::now() + SWEEP_INTERVAL;
        held.retain_mut(|(number, socket)| {
            if *number % SWEEP_SLICE == 0 {
                // The players are read on this CPU too.
                pause(Duration::from_millis(1));
            }
            match socket.read(&mut buffer) {
                Ok(len) => len > 0,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            }
        });
    }
}
