//! The sockets that a node listens on, one of each kind for each shard.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use super::{NodeError, Protocol};
use crate::config::Config;
use crate::ring::{self, socket};

/// Listening sockets of all shards, bound before any shard starts.
pub(super) struct Listeners {
    pub(super) by_shard: Vec<Vec<(OwnedFd, Protocol)>>,
    pub(super) http: SocketAddr,
    pub(super) rtmp: SocketAddr,
    pub(super) rtsp: SocketAddr,
}

impl Listeners {
    pub(super) fn bind(config: &Config, cpus: &[usize]) -> Result<Self, NodeError> {
        let mut by_shard: Vec<Vec<(OwnedFd, Protocol)>> = cpus.iter().map(|_| Vec::new()).collect();
        let mut bind = |what: &'static str, mut address: SocketAddr, protocol| {
            // SO_REUSEPORT would let us share the port with another process of the same user.
            let mut probe = std::net::TcpListener::bind(address);
            if address.ip() == Ipv6Addr::UNSPECIFIED && probe.as_ref().is_err_and(lacks_ipv6) {
                address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
                probe = std::net::TcpListener::bind(address);
            }
            let listen_error = |source: io::Error| NodeError::Listen { what, address, source };
            match probe {
                Ok(probe) => drop(probe),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Err(NodeError::AddressTaken { what, address });
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(NodeError::AddressPrivileged { what, address });
                }
                Err(error) => return Err(listen_error(error)),
            }
            let mut bound = address;
            for listeners in &mut by_shard {
                let fd = socket::listener(bound).map_err(listen_error)?;
                bound = socket::local_addr(&fd).map_err(listen_error)?;
                listeners.push((fd, protocol));
            }
            if config.server.steer_by_cpu
                && let Some((listener, _)) = by_shard.first().and_then(|first| first.last())
            {
                ring::steer_by_cpu(listener, cpus).map_err(listen_error)?;
            }
            Ok(bound)
        };
        let http = bind("http", config.http.listen, Protocol::Http)?;
        let rtmp = bind("rtmp", config.rtmp.listen, Protocol::Rtmp)?;
        let rtsp = bind("rtsp", config.rtsp.listen, Protocol::Rtsp)?;
        Ok(Self { by_shard, http, rtmp, rtsp })
    }
}

/// A host without IPv6: the unspecified address is then IPv4's.
fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}
