//! UDP sockets of RTSP tracks: pairs of an even port for RTP and the next for RTCP.
//!
//! ```text
//!  open: bound to the connection's own address ── connect: receives ──► connected
//!    │                                                                     │
//!    └── close: cancel both ──► closing ── both operations ended ──► gone ◄┘
//! ```
//!
//! A peer that does not tell its ports is received from all of them; what it sends first tells the one
//! that it is sent to.
//!
//! A pair belongs to the link of its RTSP connection, which is gone only when all its pairs are. Sockets
//! are connected to the address of the connection's peer: nothing is sent to another, and nothing of
//! another is received. Ports go back to the pool with the sockets' end, not before.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use bytes::Bytes;
use nix::errno::Errno;
use tracing::debug;

use super::driver::Driver;
use super::link::{Role, Session};
use crate::config::PortRange;
use crate::egress::{Socket, UdpTrack};
use crate::limits::{
    DATAGRAM_LEN_MAX, UDP_PAIRS_PER_CONNECTION_MAX, UDP_PORT_TRIES_MAX, UDP_RECEIVE_BUFFER_LEN,
    UDP_REPORT_BUFFER_LEN, UDP_SEND_BUFFER_LEN,
};
use crate::proto::rtsp::{PacketKind, Ports};
use crate::ring::{Ended, OpKind, Outcome, Token, socket};

/// The pairs of a shard.
pub(super) struct UdpPairs {
    pool: PortPool,
    pairs: HashMap<PairId, UdpPair>,
    last: u64,
}

/// Names a pair; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PairId(u64);

struct UdpPair {
    owner: Token,
    /// As the owner's session counts it.
    track: usize,
    port: EvenPort,
    rtp: Side,
    rtcp: Side,
    closing: bool,
}

struct Side {
    fd: OwnedFd,
    /// What the kernel has of it.
    operation: Option<OpKind>,
    /// The peer's port, once it is known.
    peer: Option<SocketAddr>,
}

/// Marks a token as that of a datagram socket.
pub(super) const UDP_BIT: u64 = 1 << 54;

impl UdpPairs {
    pub(super) fn new(pool: PortPool) -> Self {
        Self { pool, pairs: HashMap::new(), last: 0 }
    }

    /// Sockets that are open.
    pub(super) fn sockets(&self) -> usize {
        2 * self.pairs.len()
    }

    /// Pairs of ports that are free, as far as other processes do not have them.
    pub(super) fn free_pairs(&self) -> usize {
        self.pool.free.len()
    }

    /// Binds a pair next to a connection's own address. `None` without free ports.
    fn bind(&mut self, local: SocketAddr) -> Option<(EvenPort, OwnedFd, OwnedFd)> {
        for _ in 0..UDP_PORT_TRIES_MAX {
            let port = self.pool.take()?;
            match bind_pair(local, port) {
                Ok((rtp, rtcp)) => return Some((port, rtp, rtcp)),
                Err(error) => {
                    self.pool.put_back(port);
                    if error.kind() != io::ErrorKind::AddrInUse {
                        debug!(%local, %error, "no UDP socket");
                        return None;
                    }
                }
            }
        }
        None
    }
}

fn bind_pair(mut local: SocketAddr, EvenPort(port): EvenPort) -> io::Result<(OwnedFd, OwnedFd)> {
    local.set_port(port);
    let rtp = socket::datagram(local, UDP_RECEIVE_BUFFER_LEN, UDP_SEND_BUFFER_LEN)?;
    local.set_port(port + 1);
    Ok((rtp, socket::datagram(local, UDP_REPORT_BUFFER_LEN, UDP_REPORT_BUFFER_LEN)?))
}

impl UdpPair {
    fn side(&mut self, kind: PacketKind) -> &mut Side {
        match kind {
            PacketKind::Rtp => &mut self.rtp,
            PacketKind::Rtcp => &mut self.rtcp,
        }
    }
}

fn token(PairId(id): PairId, kind: PacketKind) -> Token {
    let kind = u64::from(kind == PacketKind::Rtcp);
    Token::new(UDP_BIT | (id << 1 & (UDP_BIT - 1)) | kind)
}

fn split(token: Token) -> (PairId, PacketKind) {
    let value = token.value() & (UDP_BIT - 1);
    let kind = if value & 1 == 0 { PacketKind::Rtp } else { PacketKind::Rtcp };
    (PairId(value >> 1), kind)
}

impl Driver {
    /// Opens a pair for a track of a link's session; one that the track had is closed. Until the kernel
    /// has let go of that it counts, so that a peer which sets up a track again and again takes no more
    /// than its part of the ports.
    pub(super) fn open_udp(&mut self, owner: Token, track: usize) -> Option<Ports> {
        self.close_udp_track(owner, track);
        let link = self.links.get_mut(owner)?;
        if link.udp.len() >= UDP_PAIRS_PER_CONNECTION_MAX {
            self.counters.udp_refused += 1;
            return None;
        }
        let Some((port, rtp, rtcp)) = self.udp.bind(link.local) else {
            self.counters.udp_refused += 1;
            self.repeats.count(self.now, "no UDP ports are free");
            return None;
        };
        self.udp.last += 1;
        let id = PairId(self.udp.last);
        let side = |fd| Side { fd, operation: None, peer: None };
        let (rtp, rtcp) = (side(rtp), side(rtcp));
        let pair = UdpPair { owner, track, port, rtp, rtcp, closing: false };
        self.udp.pairs.insert(id, pair);
        link.udp.push(id);
        Some(Ports { rtp: port.0, rtcp: port.0 + 1 })
    }

    /// Connects a track's pair to these ports of the link's peer, 0 for any, and begins to receive.
    /// `false` when that can't be.
    pub(super) fn connect_udp(&mut self, owner: Token, track: usize, peer: Ports) -> bool {
        let Some(id) = self.udp_of(owner, track) else { return false };
        let Some(link) = self.links.get(owner) else { return false };
        let Some(pair) = self.udp.pairs.get_mut(&id) else { return false };
        let mut address = link.peer;
        for (kind, port) in [(PacketKind::Rtp, peer.rtp), (PacketKind::Rtcp, peer.rtcp)] {
            address.set_port(port);
            let side = pair.side(kind);
            if let Err(error) = socket::connect_datagram(&side.fd, address) {
                debug!(peer = %address, %error, "no UDP socket");
                self.close_udp(id);
                return false;
            }
            side.peer = (port != 0).then_some(address);
            if side.peer.is_some() {
                side.operation = Some(OpKind::Receive);
                self.ring.recv_multishot(side.fd.as_raw_fd(), token(id, kind));
            } else {
                side.operation = Some(OpKind::PollReadable);
                self.ring.poll_readable(side.fd.as_raw_fd(), token(id, kind));
            }
        }
        true
    }

    /// The first datagram of a peer that did not tell its port is there: it tells that, and until one of
    /// RTCP comes the port above that of RTP stands for RTCP's (RFC 3550, 11).
    fn udp_readable(&mut self, id: PairId, kind: PacketKind) {
        let Some(pair) = self.udp.pairs.get_mut(&id) else { return };
        let (owner, track) = (pair.owner, pair.track);
        let side = pair.side(kind);
        side.operation = None;
        if pair.closing {
            self.udp_gone_if_closing(id);
            return;
        }
        let Some(link) = self.links.get(owner) else { return };
        let side = pair.side(kind);
        let Ok(sender) = socket::next_sender(&side.fd) else {
            // An error that is told once: what a host answered to one of ours.
            side.operation = Some(OpKind::PollReadable);
            self.ring.poll_readable(side.fd.as_raw_fd(), token(id, kind));
            return;
        };
        // Its address is the one that the connection has proven.
        let peer = |port| {
            let mut peer = link.peer;
            peer.set_port(port);
            peer
        };
        side.peer = Some(peer(sender.port()));
        side.operation = Some(OpKind::Receive);
        self.ring.recv_multishot(side.fd.as_raw_fd(), token(id, kind));
        if kind == PacketKind::Rtp
            && let Some(port) = sender.port().checked_add(1)
        {
            pair.rtcp.peer.get_or_insert_with(|| peer(port));
        }
        self.open_path(owner, track);
    }

    /// The sockets of a track, for the egress.
    pub(super) fn udp_track(&self, owner: Token, track: usize) -> Option<UdpTrack> {
        let pair = self.udp.pairs.get(&self.udp_of(owner, track)?)?;
        let socket = |side: &Side| Socket(side.fd.as_raw_fd());
        let number = u8::try_from(track).ok()?;
        Some(UdpTrack { track: number, rtp: socket(&pair.rtp), rtcp: socket(&pair.rtcp) })
    }

    /// Sends a datagram to the peer's port of a track, if it is known and the socket takes it.
    pub(super) fn send_udp(&mut self, owner: Token, track: usize, kind: PacketKind, bytes: &[u8]) {
        let Some(id) = self.udp_of(owner, track) else { return };
        let Some(pair) = self.udp.pairs.get_mut(&id) else { return };
        let side = pair.side(kind);
        if let Some(peer) = side.peer {
            // Reports and the like: another one follows.
            let _ = socket::send_to_now(&side.fd, bytes, peer);
        }
    }

    /// Closes the pair of a track of a link, if it has one.
    pub(super) fn close_udp_track(&mut self, owner: Token, track: usize) {
        if let Some(id) = self.udp_of(owner, track) {
            self.close_udp(id);
        }
    }

    /// Closes all pairs of a link.
    pub(super) fn close_udp_of(&mut self, owner: Token) {
        let Some(link) = self.links.get(owner) else { return };
        for id in link.udp.clone() {
            self.close_udp(id);
        }
    }

    fn udp_of(&self, owner: Token, track: usize) -> Option<PairId> {
        let is_it = |id: &PairId| {
            self.udp.pairs.get(id).is_some_and(|pair| pair.track == track && !pair.closing)
        };
        self.links.get(owner)?.udp.iter().copied().find(is_it)
    }

    fn close_udp(&mut self, id: PairId) {
        let Some(pair) = self.udp.pairs.get_mut(&id) else { return };
        if std::mem::replace(&mut pair.closing, true) {
            return;
        }
        for kind in [PacketKind::Rtp, PacketKind::Rtcp] {
            if let Some(operation) = pair.side(kind).operation {
                self.ring.cancel(token(id, kind), operation);
            }
        }
        self.udp_gone_if_closing(id);
    }

    /// Closes the sockets that the kernel has let go of, and lets their owner go on.
    fn udp_gone_if_closing(&mut self, id: PairId) {
        let Some(pair) = self.udp.pairs.get(&id) else { return };
        if !pair.closing || pair.rtp.operation.is_some() || pair.rtcp.operation.is_some() {
            return;
        }
        let UdpPair { owner, port, rtp, rtcp, .. } = self.udp.pairs.remove(&id).expect("just seen");
        drop((rtp, rtcp));
        self.udp.pool.put_back(port);
        let Some(link) = self.links.get_mut(owner) else { return };
        link.udp.retain(|other| *other != id);
        if let Some(attempt) = link.attempt()
            && let Some(attempt) = self.attempts.get_mut(&attempt)
        {
            attempt.sockets_closed += 2;
        }
        if !self.gone_if_closing(owner)
            && let Some(link) = self.links.get(owner)
            && matches!(link.role, Role::Leaving(_))
        {
            self.hand_over(owner);
        }
    }

    pub(super) fn complete_udp(&mut self, of: Token, outcome: Outcome) {
        let (id, kind) = split(of);
        match outcome {
            Outcome::Received(bytes) => self.datagram(id, kind, bytes.into_bytes()),
            Outcome::ReceiveEnded(ended) => self.udp_receive_ended(id, kind, ended),
            Outcome::Readable => self.udp_readable(id, kind),
            _ => {}
        }
    }

    fn datagram(&mut self, id: PairId, kind: PacketKind, bytes: Bytes) {
        let Some(pair) = self.udp.pairs.get(&id).filter(|pair| !pair.closing) else { return };
        let (owner, track) = (pair.owner, pair.track);
        if bytes.len() > DATAGRAM_LEN_MAX {
            self.counters.datagrams_too_long += 1;
            return;
        }
        let Some(link) = self.links.get_mut(owner) else { return };
        link.received_bytes += bytes.len() as u64;
        let taken = match &mut link.session {
            Session::Rtsp(peer) => peer.handle_datagram(self.now, track, kind, bytes),
            Session::Origin(session) => session.handle_datagram(self.now, track, kind, bytes),
            // Reports of whoever we push to.
            Session::Destination(_) => true,
            Session::Rtmp(_) | Session::Http(_) => false,
        };
        if taken {
            self.drain(owner);
        } else {
            self.counters.datagrams_unwanted += 1;
        }
    }

    fn udp_receive_ended(&mut self, id: PairId, kind: PacketKind, ended: Ended) {
        let Some(pair) = self.udp.pairs.get_mut(&id) else { return };
        let (owner, closing) = (pair.owner, pair.closing);
        let side = pair.side(kind);
        side.operation = None;
        if closing {
            self.udp_gone_if_closing(id);
            return;
        }
        match ended {
            // An empty datagram is no end, and neither is what a host or router answered to one of ours.
            Ended::NoBuffers
            | Ended::Rearm
            | Ended::Eof
            | Ended::Error(
                Errno::ECONNREFUSED
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH
                | Errno::EHOSTDOWN
                | Errno::EMSGSIZE
                | Errno::EPROTO
                | Errno::ENOPROTOOPT
                | Errno::EACCES,
            ) => {
                side.operation = Some(OpKind::Receive);
                self.ring.recv_multishot(side.fd.as_raw_fd(), token(id, kind));
            }
            Ended::Error(_) | Ended::Cancelled => self.close(owner),
        }
    }
}

/// The even port of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EvenPort(u16);

/// The ports that a shard may use. The one that was free longest is taken next: what is still under way
/// to its last user must not reach another.
#[derive(Debug)]
pub(super) struct PortPool {
    free: VecDeque<EvenPort>,
}

impl PortPool {
    /// A shard's share of a range.
    pub(super) fn new(range: &PortRange, shard: usize, shards: usize) -> Self {
        let own = range.pairs().skip(shard).step_by(shards.max(1));
        Self { free: own.map(|half| EvenPort(2 * half)).collect() }
    }

    fn take(&mut self) -> Option<EvenPort> {
        self.free.pop_front()
    }

    fn put_back(&mut self, port: EvenPort) {
        self.free.push_back(port);
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    const LOCAL: SocketAddr =
        SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 9));

    #[test]
    fn shards_share_the_range_without_overlap() {
        let range = PortRange::new(30_001, 30_020).unwrap();
        let ports_of = |shard| {
            let pool = PortPool::new(&range, shard, 3);
            pool.free.iter().map(|port| port.0).collect::<Vec<_>>()
        };
        assert_eq!(ports_of(0), [30_002, 30_008, 30_014]);
        assert_eq!(ports_of(1), [30_004, 30_010, 30_016]);
        assert_eq!(ports_of(2), [30_006, 30_012, 30_018]);
        assert_eq!(PortPool::new(&range, 20, 30).free.len(), 0);
    }

    #[test]
    fn port_that_was_free_longest_is_taken_next() {
        let range = PortRange::new(30_000, 30_005).unwrap();
        let mut pool = PortPool::new(&range, 0, 1);
        let first = pool.take().unwrap();
        pool.put_back(first);
        let order: Vec<u16> = std::iter::from_fn(|| pool.take()).map(|port| port.0).collect();
        assert_eq!(order, [30_002, 30_004, 30_000]);
    }

    #[test]
    fn taken_ports_are_skipped_and_stay_in_the_pool() {
        // Three pairs in a row, of which the first's odd port and the second's even one are taken.
        let (first, _taken) = (0..100)
            .find_map(|_| {
                let probe = UdpSocket::bind((LOCAL.ip(), 0)).ok()?;
                let first = probe.local_addr().ok()?.port().checked_add(7)? / 2 * 2;
                let taken = [first + 1, first + 2].map(|port| UdpSocket::bind((LOCAL.ip(), port)));
                let all_free = [first, first + 3, first + 4, first + 5]
                    .iter()
                    .all(|port| UdpSocket::bind((LOCAL.ip(), *port)).is_ok());
                (all_free && taken.iter().all(Result::is_ok)).then_some((first, taken))
            })
            .expect("six free ports in a row");
        let range = PortRange::new(first, first + 5).unwrap();
        let mut pairs = UdpPairs::new(PortPool::new(&range, 0, 1));
        let (port, rtp, rtcp) = pairs.bind(LOCAL).expect("the third pair");
        let bound = |fd: &OwnedFd| socket::local_addr(fd).unwrap().port();
        assert_eq!((port.0, bound(&rtp), bound(&rtcp)), (first + 4, first + 4, first + 5));
        assert_eq!(pairs.free_pairs(), 2);
        // Nothing is left, and nothing is lost by trying.
        assert!(pairs.bind(LOCAL).is_none());
        assert_eq!(pairs.free_pairs(), 2);
        drop((rtp, rtcp));
        pairs.pool.put_back(port);
        assert_eq!(pairs.bind(LOCAL).expect("free again").0, port);
    }

    #[test]
    fn tokens_tell_pair_and_kind() {
        for id in [1, 2, 1 << 40] {
            for kind in [PacketKind::Rtp, PacketKind::Rtcp] {
                let token = token(PairId(id), kind);
                assert_eq!(split(token), (PairId(id), kind));
                assert_ne!(token.value() & UDP_BIT, 0);
            }
        }
    }
}
