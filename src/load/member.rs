//! A player of a crowd: its role, and what its socket is watched for.

use std::time::Duration;

use nix::sys::epoll::EpollFlags;

use super::figures::Spread;
use super::outcome::{Role, ThreadUse};
use super::player::{End, Look, Player};
use super::rtsp::player::UdpPlace;
use super::watch::Figures;
use crate::clock;

/// Where a member is, and which of those that were there.
pub(super) type Place = (usize, u64);

pub(super) struct Member {
    pub(super) player: Player,
    pub(super) role: Role,
    pub(super) serial: u64,
    /// What its socket is watched for.
    pub(super) interest: EpollFlags,
    /// Tracks whose UDP sockets are watched.
    pub(super) watched_tracks: usize,
    pub(super) has_joined: bool,
}

/// What epoll says of one socket of a member.
#[derive(Debug, Clone, Copy)]
pub(super) struct SocketEvent {
    pub(super) flags: EpollFlags,
    /// None: its connection.
    pub(super) udp: Option<UdpPlace>,
}

/// How an event names a socket: the member's index, and above it which of its sockets.
pub(super) fn socket_number(index: usize, udp: Option<UdpPlace>) -> u64 {
    let socket = udp.map_or(0, |place| place.number() + 1);
    (socket as u64) << SOCKET_SHIFT | index as u64
}

/// The member's index and its socket.
pub(super) fn socket_of(number: u64) -> (usize, Option<UdpPlace>) {
    let socket = (number >> SOCKET_SHIFT) as usize;
    let index = number & ((1 << SOCKET_SHIFT) - 1);
    (index as usize, socket.checked_sub(1).map(UdpPlace::of_number))
}

const SOCKET_SHIFT: u32 = 32;

/// What is measured of ourselves.
pub(super) struct Measure {
    pub(super) start_ns: u64,
    pub(super) cpu: Duration,
    pub(super) sweep_late: Spread,
}

impl Member {
    pub(super) fn new(player: Player, role: Role, serial: u64) -> Self {
        let mut member = Self {
            player,
            role,
            serial,
            interest: EpollFlags::empty(),
            watched_tracks: 0,
            has_joined: false,
        };
        member.interest = member.wanted();
        member
    }

    /// Whether it reads no more than it is allowed to.
    pub(super) fn is_slowed(&self) -> bool {
        self.role == Role::Slow && self.has_joined
    }

    /// What its socket is to be watched for.
    pub(super) fn wanted(&self) -> EpollFlags {
        if self.is_slowed() {
            EpollFlags::EPOLLRDHUP
        } else if self.player.is_connected() && self.player.connection.is_flushed() {
            EpollFlags::EPOLLIN
        } else {
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT
        }
    }

    /// Takes what epoll says of one of its sockets.
    pub(super) fn step(
        &mut self,
        event: SocketEvent,
        look: &Look,
        buffer: &mut [u8],
        figures: &mut Figures,
    ) -> Result<(), End> {
        let events = event.flags;
        if let Some(place) = event.udp {
            return self.player.on_datagrams(place, look, buffer, figures);
        }
        if events.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLERR) {
            self.player.on_writable()?;
        }
        if self.is_slowed() {
            return Err(End::Closed);
        }
        if events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP) {
            self.player.on_readable(look, buffer, figures)?;
        }
        Ok(())
    }
}

impl Measure {
    pub(super) fn finish(&self, now_ns: u64, has_kernel_stamps: bool) -> ThreadUse {
        ThreadUse {
            has_kernel_stamps,
            cpu_ns: (clock::thread_cpu() - self.cpu).as_nanos() as u64,
            wall_ns: now_ns - self.start_ns,
            sweep_late_p99_ms: self.sweep_late.percentile_ms(99.0),
        }
    }
}
