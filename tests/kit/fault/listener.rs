//! What stands on the origin's port: a listener, nobody, or a queue that is full.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{Connection, Link, Mode, Record, Shared, Stage, spawn_small};

/// What stands on the port.
enum Listening {
    Yes(TcpListener),
    /// Bound and not listening: refused, and the port stays ours.
    Refusing(Socket),
    /// Listening with a full queue.
    Full(TcpListener, Vec<TcpStream>),
}

pub(super) fn listen(shared: &Arc<Shared>, reserved: Socket) {
    let mut listening = Listening::Refusing(reserved);
    while !shared.stopped.load(Ordering::SeqCst) {
        let epoch = shared.epoch.load(Ordering::SeqCst);
        if shared.applied.load(Ordering::SeqCst) < epoch {
            listening = apply(shared, listening);
            shared.applied.store(epoch, Ordering::SeqCst);
        }
        let Listening::Yes(listener) = &listening else {
            sleep(Duration::from_millis(5));
            continue;
        };
        match listener.accept() {
            Ok((socket, _)) => accept(shared, socket),
            Err(_) => sleep(Duration::from_millis(2)),
        }
    }
}

fn apply(shared: &Shared, listening: Listening) -> Listening {
    match (shared.mode(), listening) {
        (Mode::Refused, before) => {
            drop(before);
            shared.cut_all();
            Listening::Refusing(bound(shared.address))
        }
        (Mode::SynDropped, before) => {
            drop(before);
            let listener = started(bound(shared.address), 0);
            let fill = fill(shared.address);
            Listening::Full(listener, fill)
        }
        (_, Listening::Yes(listener)) => Listening::Yes(listener),
        (_, Listening::Refusing(socket)) => Listening::Yes(started(socket, 4096)),
        (_, Listening::Full(listener, fill)) => {
            drop((listener, fill));
            Listening::Yes(started(bound(shared.address), 4096))
        }
    }
}

fn accept(shared: &Arc<Shared>, socket: TcpStream) {
    let reset = shared.mode() == Mode::Reset;
    let connection =
        Connection { stage: Stage::Accepted, request: String::new(), closed: None, cut: reset };
    let mut records = shared.records.lock().expect("no panic while locked");
    let index = records.len();
    if reset {
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a linger time");
        records.push(Record { connection, socket: None });
        return;
    }
    socket.set_nonblocking(false).expect("a blocking socket");
    let second = socket.try_clone().expect("a second handle");
    records.push(Record { connection, socket: Some(second) });
    drop(records);
    let link = Link { shared: Arc::clone(shared), index, socket };
    spawn_small("origin connection", move || link.run());
}

pub(super) fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("origin at {address}: {error}"));
    socket
}

fn started(socket: Socket, backlog: i32) -> TcpListener {
    socket.listen(backlog).expect("a listener");
    socket.set_nonblocking(true).expect("a nonblocking listener");
    socket.into()
}

/// Connects until the listener's queue takes no more: from then on Linux drops each SYN.
fn fill(address: SocketAddr) -> Vec<TcpStream> {
    let mut fill = Vec::new();
    while let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        fill.push(socket);
    }
    fill
}
