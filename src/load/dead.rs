//! Origins that no pull ever comes up from, on ports of this machine.
//!
//! *Silent* accepts and says nothing; *refused* is a port that nobody listens on; *black hole* has
//! a full queue, so that the kernel drops each SYN.

use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use socket2::{Domain, SockRef, Socket, Type};

use crate::clock;
use crate::limits::LOAD_BLACK_HOLE_MAX;

/// One of each kind, for as long as it lives.
pub struct DeadOrigins {
    silent: Silent,
    /// Bound and not listening: the port stays ours.
    refused: Socket,
    black_hole: BlackHole,
}

impl DeadOrigins {
    /// # Errors
    /// When there is no port, or no way to fill a queue.
    pub fn start() -> std::io::Result<Self> {
        Ok(Self { silent: Silent::start()?, refused: bound()?, black_hole: BlackHole::start()? })
    }

    /// The RTMP URLs of a stream at the silent one, the refused port and the black hole.
    pub fn urls(&self, stream: &str) -> [String; 3] {
        let refused = self.refused.local_addr().ok().and_then(|address| address.as_socket());
        let ports = [
            self.silent.address.port(),
            refused.map_or(0, |address| address.port()),
            self.black_hole.address.port(),
        ];
        ports.map(|port| format!("rtmp://127.0.0.1:{port}/live/{stream}"))
    }
}

/// Accepts and says nothing; one thread for all connections.
struct Silent {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Silent {
    fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        SockRef::from(&listener).listen(4096)?;
        listener.set_nonblocking(true)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let for_thread = Arc::clone(&stopped);
        let thread = Some(spawn(move || hold(&listener, &for_thread)));
        Ok(Self { address, stopped, thread })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.stopped.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}

/// Holds what is accepted until its peer closes it.
fn hold(listener: &TcpListener, stopped: &AtomicBool) {
    let mut held: Vec<TcpStream> = Vec::new();
    let mut next_look = clock::now() + LOOK_INTERVAL;
    while !stopped.load(Relaxed) {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        // Interrupted or not, it is looked at again.
        let _ = poll(&mut fds, WAIT_MS);
        while let Ok((socket, _)) = listener.accept() {
            if socket.set_nonblocking(true).is_ok() {
                held.push(socket);
            }
        }
        if clock::now() < next_look {
            continue;
        }
        next_look = clock::now() + LOOK_INTERVAL;
        let mut looked_at = 0;
        held.retain_mut(|socket| {
            looked_at += 1;
            if looked_at % LOOK_SLICE == 0 {
                rest();
            }
            match socket.read(&mut [0; 4096]) {
                Ok(len) => len > 0,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            }
        });
    }
}

/// What is measured may be on this CPU too.
#[allow(clippy::disallowed_methods, reason = "a thread of its own, paced by sleeping")]
fn rest() {
    std::thread::sleep(Duration::from_millis(1));
}

/// A listener whose queue is full.
struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    fn start() -> std::io::Result<Self> {
        let listener = bound()?;
        listener.listen(0)?;
        let address = listener.local_addr()?.as_socket().ok_or(ErrorKind::AddrNotAvailable)?;
        let mut queued = Vec::new();
        while let Ok(socket) = TcpStream::connect_timeout(&address, FILL_WAIT) {
            queued.push(socket);
            if queued.len() == LOAD_BLACK_HOLE_MAX {
                return Err(std::io::Error::other("a queue of none does not become full"));
            }
        }
        Ok(Self { address, _listener: listener, _queued: queued })
    }
}

fn bound() -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    Ok(socket)
}

/// How often it is looked who has gone: that takes a system call for each connection.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const LOOK_SLICE: usize = 32;
const WAIT_MS: u16 = 100;

/// A connect on this machine that takes longer is one whose SYN was dropped.
const FILL_WAIT: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_dead_in_its_own_way() {
        let origins = DeadOrigins::start().expect("three ports");
        let addresses = origins.urls("x").map(|url| -> SocketAddr {
            let (_, rest) = url.split_once("//").expect("a URL");
            rest.split('/').next().expect("a host").parse().expect("an address")
        });
        let connect = |index: usize| {
            TcpStream::connect_timeout(&addresses[index], Duration::from_millis(300))
        };
        let mut silent = connect(0).expect("it accepts");
        silent.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let kind = silent.read(&mut [0]).expect_err("it says nothing").kind();
        assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut));
        assert_eq!(connect(1).expect_err("refused").kind(), ErrorKind::ConnectionRefused);
        assert_eq!(connect(2).expect_err("no answer").kind(), ErrorKind::TimedOut);
    }
}
