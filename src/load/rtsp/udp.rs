//! The UDP sockets of a track: RTP's on an even port, RTCP's on the next one (RFC 3550, 11).

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};

use super::super::connection::{self, Arrival};
use crate::limits::LOAD_UDP_BUFFER_LEN;
use crate::proto::rtsp::{PacketKind, Ports};

/// Two sockets on neighboring ports.
#[derive(Debug)]
pub(super) struct UdpPair {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    ports: Ports,
}

impl UdpPair {
    /// Opens a pair at this address of ours.
    pub(super) fn bind(address: IpAddr) -> io::Result<Self> {
        for _ in 0..TRIES {
            let first = bind(address, 0)?;
            let port = first.local_addr()?.port();
            let second = match bind(address, port ^ 1) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => continue,
                result => result?,
            };
            let is_first_even = port.is_multiple_of(2);
            let (rtp, rtcp) = if is_first_even { (first, second) } else { (second, first) };
            let ports = Ports { rtp: port & !1, rtcp: port | 1 };
            return Ok(Self { rtp, rtcp, ports });
        }
        Err(io::Error::new(ErrorKind::AddrInUse, "no two neighboring UDP ports are free"))
    }

    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    pub(super) fn socket(&self, kind: PacketKind) -> &UdpSocket {
        match kind {
            PacketKind::Rtp => &self.rtp,
            PacketKind::Rtcp => &self.rtcp,
        }
    }

    /// RTP packets that came together may be received together: [`Arrival::segment_len`].
    pub(super) fn join_packets(&self) -> io::Result<()> {
        Ok(setsockopt(&self.rtp, sockopt::UdpGroSegment, &true)?)
    }

    /// Only this peer's packets come, and what is sent goes there.
    pub(super) fn connect(&self, peer: IpAddr, ports: Ports) -> io::Result<()> {
        self.rtp.connect(SocketAddr::new(peer, ports.rtp))?;
        self.rtcp.connect(SocketAddr::new(peer, ports.rtcp))
    }

    /// The next datagram, if there is one.
    pub(super) fn receive(
        &self,
        kind: PacketKind,
        buffer: &mut [u8],
    ) -> io::Result<Option<Arrival>> {
        connection::receive(self.socket(kind), buffer)
    }

    /// The socket for RTP alone.
    pub(super) fn into_rtp(self) -> UdpSocket {
        self.rtp
    }
}

fn bind(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((address, port))?;
    socket.set_nonblocking(true)?;
    // A GOP may come at once, and it is not our buffer that is measured. Without the privilege it is
    // as large as the system allows; drops of ours are counted.
    if setsockopt(&socket, sockopt::RcvBufForce, &LOAD_UDP_BUFFER_LEN).is_err() {
        let _ = setsockopt(&socket, sockopt::RcvBuf, &LOAD_UDP_BUFFER_LEN);
    }
    let _ = setsockopt(&socket, sockopt::RxqOvfl, &1);
    // Without stamps the time of reading stands for that of arrival.
    let _ = setsockopt(&socket, sockopt::ReceiveTimestampns, &true);
    Ok(socket)
}

const TRIES: usize = 32;

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn joined_packets_are_cut_where_they_were() {
        let (near, far) =
            (UdpPair::bind(HERE).expect("ports"), UdpPair::bind(HERE).expect("ports"));
        far.connect(HERE, near.ports()).expect("an address");
        near.join_packets().expect("an option");
        let sent: Vec<u8> = (0..=250).collect();
        let (slices, control) = ([IoSlice::new(&sent)], [ControlMessage::UdpGsoSegments(&100)]);
        let fd = far.rtp.as_raw_fd();
        sendmsg::<()>(fd, &slices, &control, MsgFlags::empty(), None).expect("sent");
        far.rtp.send(&[7; 3]).expect("sent");
        far.rtp.send(&[]).expect("sent");
        let mut buffer = [0; 2000];
        let mut calls = 0;
        let mut packets = Vec::new();
        while let Some(arrival) = near.receive(PacketKind::Rtp, &mut buffer).expect("good") {
            calls += 1;
            packets.extend(arrival.datagrams(&buffer).map(<[u8]>::to_vec));
        }
        let mut expected: Vec<Vec<u8>> = sent.chunks(100).map(<[u8]>::to_vec).collect();
        expected.extend([vec![7; 3], vec![]]);
        assert_eq!((calls, packets), (3, expected), "three are received by one call");
    }

    #[test]
    fn ports_are_neighbors_and_the_first_is_even() {
        let pairs: Vec<UdpPair> = (0..20).map(|_| UdpPair::bind(HERE).expect("ports")).collect();
        for pair in &pairs {
            let Ports { rtp, rtcp } = pair.ports();
            assert_eq!((rtp % 2, rtcp), (0, rtp + 1));
            assert_eq!(pair.rtp.local_addr().expect("bound").port(), rtp);
            assert_eq!(pair.rtcp.local_addr().expect("bound").port(), rtcp);
        }
    }

    #[test]
    fn datagrams_come_one_by_one_and_drops_are_told() {
        let (near, far) =
            (UdpPair::bind(HERE).expect("ports"), UdpPair::bind(HERE).expect("ports"));
        far.connect(HERE, near.ports()).expect("an address");
        let mut buffer = [0; 2000];
        let mut receive = || near.receive(PacketKind::Rtp, &mut buffer).expect("a good socket");
        assert_eq!(receive(), None);
        for len in [3, 0, 1400] {
            assert_eq!(far.rtp.send(&vec![1; len]).expect("sent"), len);
        }
        let lens: Vec<usize> =
            std::iter::from_fn(&mut receive).map(|arrival| arrival.len).collect();
        assert_eq!(lens, [3, 0, 1400]);
        setsockopt(&near.rtp, sockopt::RcvBuf, &4096).expect("an option");
        for _ in 0..100 {
            far.rtp.send(&[1; 1400]).expect("sent");
        }
        let kept = std::iter::from_fn(&mut receive).count();
        far.rtp.send(&[1; 1400]).expect("sent");
        let dropped = receive().expect("there is room").dropped;
        assert_eq!(dropped, Some(100 - kept as u32));
    }
}
