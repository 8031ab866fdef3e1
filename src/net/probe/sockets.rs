//! The sockets of a look at an origin: the connection, and those of tracks over UDP. None of them blocks;
//! a look waits for all of them, and for its caller, in one place.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use bytes::Bytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use super::Probe;
use crate::clock;
use crate::limits::UDP_PORT_TRIES_MAX;
use crate::media::state::{ErrorClass, Fault};
use crate::net::origin::OriginSession;
use crate::net::rtsp_origin::{EMPTY_RTP, RtspOrigin};
use crate::proto::rtsp::{PacketKind, Ports};

/// The sockets of one track.
pub(super) struct UdpPair {
    /// As the origin's description counts it.
    pub(super) track: usize,
    pub(super) rtp: UdpSocket,
    pub(super) rtcp: UdpSocket,
}

impl Probe<'_> {
    /// A connection that is not waited for.
    pub(super) fn connect_to(
        &self,
        address: SocketAddr,
        until: Instant,
    ) -> Result<io::Result<TcpStream>, Fault> {
        let begin = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            match socket.connect(&address.into()) {
                Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
                _ => Ok(socket),
            }
        };
        let socket = match begin() {
            Ok(socket) => socket,
            Err(error) => return Ok(Err(error)),
        };
        self.wait(vec![(socket.as_fd(), PollFlags::POLLOUT)], until)?;
        Ok(match socket.take_error() {
            Ok(Some(error)) | Err(error) => Err(error),
            Ok(None) if socket.peer_addr().is_err() => Err(ErrorKind::TimedOut.into()),
            Ok(None) => Ok(socket.into()),
        })
    }

    /// Waits for one of these, until then at the latest.
    pub(super) fn wait(
        &self,
        wanted: Vec<(BorrowedFd<'_>, PollFlags)>,
        until: Instant,
    ) -> Result<(), Fault> {
        let mut fds: Vec<PollFd<'_>> =
            wanted.into_iter().map(|(fd, flags)| PollFd::new(fd, flags)).collect();
        fds.extend(self.caller.iter().map(|caller| PollFd::new(caller.as_fd(), PollFlags::POLLIN)));
        // Rounded up, so that nobody turns round and round in the last millisecond.
        let left = until.saturating_duration_since(clock::now()).as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        // An interruption is no more than a wait that was short.
        let _ = poll(&mut fds, timeout);
        let is_gone = self.caller.is_some() && fds.last().and_then(PollFd::any).unwrap_or(false);
        match is_gone {
            true => Err(Fault::new(ErrorClass::Lost, "nobody waits for the answer any more")),
            false => Ok(()),
        }
    }

    pub(super) fn send(&self, socket: &mut TcpStream, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            match socket.write(bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(error) if is_wait(&error) => {
                    self.check_time()?;
                    self.wait(vec![(socket.as_fd(), PollFlags::POLLOUT)], self.deadline)?;
                }
                Err(error) => return Err(Fault::new(ErrorClass::Lost, error.to_string())),
            }
        }
        Ok(())
    }

    pub(super) fn receive_datagrams(&self, session: &mut OriginSession, buffer: &mut [u8]) {
        for pair in &self.udp {
            for (socket, kind) in [(&pair.rtp, PacketKind::Rtp), (&pair.rtcp, PacketKind::Rtcp)] {
                // The sender's own faults come as errors too; a silent one is found by the time.
                for _ in 0..DATAGRAMS_AT_ONCE {
                    let Ok(len) = socket.recv(buffer) else { break };
                    let bytes = Bytes::copy_from_slice(&buffer[..len]);
                    session.handle_datagram(clock::now(), pair.track, kind, bytes);
                }
            }
        }
    }

    /// A pair of ports beside the connection's own address, of those that pulls use.
    pub(super) fn open_udp(&mut self, track: usize, socket: &TcpStream) -> Option<Ports> {
        let mut local = socket.local_addr().ok()?;
        for _ in 0..UDP_PORT_TRIES_MAX {
            let port = 2 * fastrand::u16(self.udp_ports.pairs());
            let mut bind = |port| {
                local.set_port(port);
                let socket = UdpSocket::bind(local)?;
                socket.set_nonblocking(true)?;
                Ok::<_, io::Error>(socket)
            };
            if let (Ok(rtp), Ok(rtcp)) = (bind(port), bind(port + 1)) {
                self.udp.push(UdpPair { track, rtp, rtcp });
                return Some(Ports { rtp: port, rtcp: port + 1 });
            }
        }
        None
    }

    /// The origin sends to a pair from these ports.
    pub(super) fn connect_udp(
        &self,
        origin: &mut RtspOrigin,
        (track, port): (usize, Ports),
        socket: &TcpStream,
    ) -> io::Result<()> {
        let mut peer = socket.peer_addr()?;
        let pair = self.udp.iter().find(|pair| pair.track == track);
        let pair = pair.ok_or(ErrorKind::NotFound)?;
        peer.set_port(port.rtp);
        pair.rtp.connect(peer)?;
        peer.set_port(port.rtcp);
        pair.rtcp.connect(peer)?;
        origin.udp_connected(track, peer.ip());
        // They open the firewalls on the way; an origin that does not listen there answers with an error.
        let _ = pair.rtp.send(&EMPTY_RTP);
        let _ = pair.rtcp.send(&origin.first_report());
        Ok(())
    }
}

pub(super) fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

pub(super) fn connect_fault(error: &io::Error) -> Fault {
    let class = match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => ErrorClass::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => ErrorClass::TimedOut,
        _ => ErrorClass::Unreachable,
    };
    Fault::new(class, error.to_string())
}

const DATAGRAMS_AT_ONCE: usize = 64;
