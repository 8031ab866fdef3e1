//! Accepting connections, and entering what was accepted or connected.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use tracing::debug;

use super::driver::{Driver, LISTENER_BIT, Listener, Protocol};
use super::link::{Link, Role, Session};
use super::rtsp_peer::RtspPeer;
use crate::clock;
use crate::limits::CHUNK_SIZE_OUT;
use crate::media::ConnectionId;
use crate::proto::http::server::ServerSession as HttpSession;
use crate::proto::http::server::{ServerConfig as HttpConfig, WallClock};
use crate::proto::rtmp::{ServerConfig as RtmpConfig, ServerSession as RtmpSession};
use crate::ring::{Ended, Outcome, Token, socket};

impl Driver {
    pub(super) fn listen(&mut self, fd: OwnedFd, protocol: Protocol) {
        let token = Token::new(LISTENER_BIT | self.listeners.len() as u64);
        self.ring.accept_multishot(fd.as_raw_fd(), token);
        self.listeners.push(Listener { fd, protocol, accepting: true });
    }

    pub(super) fn complete_accept(&mut self, index: usize, outcome: Outcome) {
        match outcome {
            Outcome::Accepted(fd) => {
                let protocol = self.listeners[index].protocol;
                self.accepted(fd, protocol);
            }
            Outcome::AcceptEnded(ended) => {
                self.listeners[index].accepting = false;
                if self.shutting_down {
                    return;
                }
                if let Ended::Error(errno) = ended {
                    self.repeats.count(self.now, "accept failed");
                    debug!(%errno, "accept failed");
                    let listener = &self.listeners[index].fd;
                    if let Some(reserve) = &mut self.reserve
                        && let Ok(shed) = reserve.shed(listener, SHED_MAX)
                    {
                        self.counters.shed += shed as u64;
                    }
                    // Armed again by the housekeeping, so that a lasting error costs little.
                    return;
                }
                self.accept_again();
            }
            _ => {}
        }
    }

    pub(super) fn accept_again(&mut self) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if !listener.accepting && !self.shutting_down {
                listener.accepting = true;
                let token = Token::new(LISTENER_BIT | index as u64);
                self.ring.accept_multishot(listener.fd.as_raw_fd(), token);
            }
        }
    }

    pub(super) fn accepted(&mut self, fd: OwnedFd, protocol: Protocol) {
        let max = self.config.limits.connections_per_shard_max as usize;
        if self.shutting_down || self.links.len() >= max {
            self.counters.refused += 1;
            self.repeats.count(self.now, "connection refused: the shard's limit is reached");
            return;
        }
        // A peer that is gone already has no address; its connection ends here.
        let Ok(peer) = socket::peer_addr(&fd) else { return };
        let Ok(local) = socket::local_addr(&fd) else { return };
        let Some(guest) = self.count_guest(peer.ip()) else { return };
        self.counters.accepted += 1;
        let notsent_bytes_max = self.config.egress.send_notsent_lowat_bytes;
        let options = socket::StreamOptions { nodelay: true, notsent_bytes_max };
        if let Err(error) = socket::set_stream_options(&fd, options) {
            debug!(%peer, %error, "socket options were not set");
        }
        let session = self.new_session(protocol);
        let id = self.new_connection_id();
        let ends = (unmapped(local), unmapped(peer));
        let mut link = Link::new(id, fd, ends, session, Role::None, self.now);
        link.guest = Some(guest);
        debug!(connection = %id, peer = %link.peer, ?protocol, "opened");
        self.enter(link);
    }

    pub(super) fn new_session(&self, protocol: Protocol) -> Session {
        let ms = Duration::from_millis;
        match protocol {
            Protocol::Rtmp => {
                let seed = fastrand::u64(..);
                let config = RtmpConfig {
                    chunk_size_out: CHUNK_SIZE_OUT as u32,
                    handshake_timeout: ms(self.config.rtmp.handshake_ms),
                    command_timeout: ms(self.config.rtmp.handshake_ms),
                    ..RtmpConfig::default()
                };
                Session::Rtmp(Box::new(RtmpSession::new(self.now, seed, config)))
            }
            Protocol::Http => {
                let config = HttpConfig {
                    header_timeout: ms(self.config.http.header_timeout_ms),
                    idle_timeout: ms(self.config.http.keep_alive_ms),
                    cross_domains_allowed: self.config.http.allow_cross_domains,
                    wall_clock: WallClock { at: self.now, unix_seconds: clock::unix_seconds() },
                };
                Session::Http(Box::new(HttpSession::new(self.now, config)))
            }
            Protocol::Rtsp => {
                let seed = fastrand::u64(..);
                Session::Rtsp(Box::new(RtspPeer::new(self.now, seed, &self.config.rtsp)))
            }
        }
    }

    /// Enters a link and begins to receive on it.
    pub(super) fn enter(&mut self, link: Link) -> Token {
        let (id, fd) = (link.id, link.raw_fd());
        let token = self.links.insert(link);
        self.by_connection.insert(id, token);
        let link = self.links.get_mut(token).expect("just entered");
        link.receiving = true;
        self.ring.recv_multishot(fd, token);
        self.drain(token);
        token
    }

    pub(super) fn new_connection_id(&mut self) -> ConnectionId {
        self.next_connection = self.next_connection.wrapping_add(1);
        ConnectionId { serial: self.next_connection, shard: self.shard.id() }
    }
}

/// An IPv4 address as itself where the socket is a dual-stack one.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Waiting connections that are closed at once when descriptors run out.
const SHED_MAX: usize = 64;
