//! Sockets as the shard wants them: nonblocking, close-on-exec, options set in one place.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::limits::DATAGRAMS_DROPPED_MAX;

/// Options of a media connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// Send each flush at once (`TCP_NODELAY`).
    pub nodelay: bool,
    /// Bytes that the kernel may hold unsent (`TCP_NOTSENT_LOWAT`). Without it a player that does
    /// not read takes 3.9 MB before the first sign of it.
    pub notsent_bytes_max: u32,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { nodelay: true, notsent_bytes_max: 128 * 1024 }
    }
}

/// A listening socket; every shard has its own on the same address (`SO_REUSEPORT`). An
/// unspecified IPv6 address takes IPv4 too.
pub fn listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// A stream socket to connect to `peer` with.
pub fn stream(peer: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A datagram socket on this address, with buffers of these sizes as far as the kernel allows. On an IPv6
/// address that stands for one of IPv4 it takes that, whatever `net.ipv6.bindv6only` says: so our
/// address on a connection of a [`listener`] is.
pub fn datagram(local: SocketAddr, receive_len: usize, send_len: usize) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(receive_len)?;
    socket.set_send_buffer_size(send_len)?;
    if let SocketAddr::V6(local) = local {
        socket
            .set_only_v6(!local.ip().is_unspecified() && local.ip().to_ipv4_mapped().is_none())?;
    }
    socket.bind(&local.into())?;
    Ok(socket.into())
}

/// Has a datagram socket send to `peer` and receive from it alone; what came before is dropped. With
/// port 0 it receives from every port of the peer's address (Linux compares only what is set), and
/// sends by [`send_to_now`] alone.
///
/// No more than [`DATAGRAMS_DROPPED_MAX`] are dropped: more than the socket's buffer holds come from the
/// peer itself, which sends meanwhile.
pub fn connect_datagram(fd: &impl AsFd, peer: SocketAddr) -> io::Result<()> {
    let socket = SockRef::from(fd);
    socket.connect(&peer.into())?;
    // From whoever sent to it while it was not connected.
    for _ in 0..DATAGRAMS_DROPPED_MAX {
        let dropped = recv(fd.as_fd().as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT);
        if !matches!(dropped, Ok(_) | Err(Errno::ECONNREFUSED)) {
            break;
        }
    }
    Ok(())
}

/// Sets the options of a connected or connecting stream socket.
pub fn set_stream_options(fd: &impl AsFd, options: StreamOptions) -> io::Result<()> {
    let socket = SockRef::from(fd);
    socket.set_tcp_nodelay(options.nodelay)?;
    socket.set_tcp_notsent_lowat(options.notsent_bytes_max)
}

/// Has the kernel tell of input once there are `len` bytes of it (`SO_RCVLOWAT`, socket(7)), of what
/// is there already too. The peer's end and errors are told at once.
pub fn set_receive_mark(fd: &impl AsFd, len: u32) -> io::Result<()> {
    let len = len as libc::c_int;
    // SAFETY: the kernel reads the integer, which lives here.
    let result = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const len).cast(),
            size_of_val(&len) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Our address on a connection or listener.
pub fn local_addr(fd: &impl AsFd) -> io::Result<SocketAddr> {
    internet(SockRef::from(fd).local_addr()?)
}

/// The peer's address; an error once the connection is reset.
pub fn peer_addr(fd: &impl AsFd) -> io::Result<SocketAddr> {
    internet(SockRef::from(fd).peer_addr()?)
}

/// Sends what the socket takes at once, without a signal when the peer is gone.
pub fn send_now(fd: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(send(fd.as_fd().as_raw_fd(), bytes, flags)?)
}

/// As [`send_now`], to an address of a datagram socket's own choice.
pub fn send_to_now(fd: &impl AsFd, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    SockRef::from(fd).send_to_with_flags(bytes, &to.into(), flags)
}

/// Who sent the datagram that a nonblocking socket would receive next.
pub fn next_sender(fd: &impl AsFd) -> io::Result<SocketAddr> {
    internet(SockRef::from(fd).peek_sender()?)
}

/// Ends the connection in both directions: operations on it complete, the peer sees its end.
pub fn shutdown(fd: &impl AsFd) -> io::Result<()> {
    match SockRef::from(fd).shutdown(std::net::Shutdown::Both) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(()),
        result => result,
    }
}

/// A descriptor held in reserve, so that connections can be refused when there is no other.
///
/// At `EMFILE` the accept queue stays full and the accept operation ends at once, each time it is
/// armed. Giving up the reserve lets the queue be emptied by accepting and closing.
#[derive(Debug)]
pub struct ReserveFd(Option<File>);

impl ReserveFd {
    /// Takes the descriptor.
    pub fn open() -> io::Result<Self> {
        Ok(Self(Some(null_device()?)))
    }

    /// Closes up to `connections_max` waiting connections of `listener`; returns how many.
    pub fn shed(&mut self, listener: &impl AsFd, connections_max: usize) -> io::Result<usize> {
        self.0 = None;
        let listener = SockRef::from(listener);
        let mut shed_count = 0;
        let result = loop {
            if shed_count == connections_max {
                break Ok(shed_count);
            }
            match listener.accept() {
                Ok(connection) => {
                    // A reset instead of a FIN: nothing stays in TIME_WAIT under an attack.
                    // Failing to ask for it only costs that.
                    let _ = connection.0.set_linger(Some(std::time::Duration::ZERO));
                    shed_count += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(shed_count),
                // Each is an error of a connection that ended while it waited.
                Err(error) if is_of_connection(&error) => shed_count += 1,
                Err(error) => break Err(error),
            }
        };
        // Another thread may have taken the descriptor; then the next call tries again without.
        self.0 = null_device().ok();
        result
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ECONNABORTED | Errno::EPROTO | Errno::EPERM | Errno::EINTR)
    )
}

fn internet(address: socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn null_device() -> io::Result<File> {
    File::open("/dev/null")
}

/// Connections that may wait to be accepted. The kernel cuts it to `net.core.somaxconn`, 4096 by
/// default.
pub const LISTEN_BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::{TcpStream, UdpSocket};

    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn two_listeners_share_an_address() {
        let first = listener(loopback()).expect("a free port");
        let address = local_addr(&first).expect("bound");
        let second = listener(address).expect("shared by SO_REUSEPORT");
        assert_eq!(local_addr(&second).expect("bound"), address);
    }

    #[test]
    fn unspecified_ipv6_listener_takes_ipv4() {
        let Ok(listener) = listener("[::]:0".parse().expect("an address")) else {
            return; // A machine without IPv6.
        };
        let port = local_addr(&listener).expect("bound").port();
        let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("IPv4 is taken");
        let mut reserve = ReserveFd::open().expect("a descriptor");
        while reserve.shed(&listener, 8).expect("accepts") == 0 {}
        let error = connection.read(&mut [0]).expect_err("shed by a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn shed_stops_at_its_limit() {
        let listener = listener(loopback()).expect("a free port");
        let address = local_addr(&listener).expect("bound");
        // On loopback a connection is in the accept queue when connect returns.
        let _connections: Vec<_> =
            (0..3).map(|_| TcpStream::connect(address).expect("accepted")).collect();
        let mut reserve = ReserveFd::open().expect("a descriptor");
        assert_eq!(reserve.shed(&listener, 2).expect("accepts"), 2);
        assert_eq!(reserve.shed(&listener, 2).expect("accepts"), 1);
        assert_eq!(reserve.shed(&listener, 2).expect("accepts"), 0);
        assert!(reserve.0.is_some());
    }

    #[test]
    fn connected_datagram_socket_takes_from_its_peer_alone() {
        let bound = || UdpSocket::bind(loopback()).expect("a free port");
        let (peer, sibling) = (bound(), bound());
        let stranger = UdpSocket::bind("127.0.0.2:0").expect("a free port");
        for any_port in [false, true] {
            let ours = datagram(loopback(), 1 << 16, 1 << 16).expect("a free port");
            let address = local_addr(&ours).expect("bound");
            stranger.send_to(b"early", address).expect("room");
            let mut from = peer.local_addr().expect("bound");
            if any_port {
                from.set_port(0);
            }
            connect_datagram(&ours, from).expect("loopback");
            stranger.send_to(b"late", address).expect("room");
            sibling.send_to(b"sibling", address).expect("room");
            peer.send_to(b"peer", address).expect("room");
            let first = if any_port { &sibling } else { &peer };
            let sender = next_sender(&ours).expect("it is there");
            assert_eq!(sender, first.local_addr().expect("bound"));
            send_to_now(&ours, b"answer", sender).expect("room");
            assert_eq!(first.recv_from(&mut [0; 16]).expect("an answer"), (6, address));
            let ours = UdpSocket::from(ours);
            let mut got = Vec::new();
            let mut buffer = [0; 16];
            while let Ok(len) = ours.recv(&mut buffer) {
                got.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
            }
            let expected: &[&str] = if any_port { &["sibling", "peer"] } else { &["peer"] };
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn datagram_socket_takes_ipv4_in_the_form_of_ipv6() {
        let only_v6 = |local: &str| {
            let socket = datagram(local.parse().expect("an address"), 1 << 16, 1 << 16).ok()?;
            Some(SockRef::from(&socket).only_v6().expect("an IPv6 socket"))
        };
        // None on a machine without IPv6.
        assert_ne!(only_v6("[::ffff:127.0.0.1]:0"), Some(true));
        assert_ne!(only_v6("[::1]:0"), Some(false));
    }

    #[test]
    fn send_now_reports_a_full_socket_and_a_gone_peer() {
        let listener = listener(loopback()).expect("a free port");
        let connection = TcpStream::connect(local_addr(&listener).expect("bound")).expect("up");
        set_stream_options(&connection, StreamOptions::default()).expect("TCP options");
        assert_eq!(peer_addr(&connection).expect("up"), local_addr(&listener).expect("bound"));
        let bytes = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = send_now(&connection, &bytes) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        shutdown(&connection).expect("up");
        let error = send_now(&connection, &bytes).expect_err("shut down");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        shutdown(&stream(loopback()).expect("a socket")).expect("not connected is fine");
    }
}
