//! A player of a crowd: its role, and what its socket is watched for.

use std::time::Duration;

use nix::sys::epoll::EpollFlags;

use super::figures::Spread;
use super::outcome::{Role, ThreadUse};
use super::player::{End, Look, Player};
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
    pub(super) has_joined: bool,
}

/// What is measured of ourselves.
pub(super) struct Measure {
    pub(super) start_ns: u64,
    pub(super) cpu: Duration,
    pub(super) sweep_late: Spread,
}

impl Member {
    pub(super) fn new(player: Player, role: Role, serial: u64) -> Self {
        let mut member =
            Self { player, role, serial, interest: EpollFlags::empty(), has_joined: false };
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

    pub(super) fn step(
        &mut self,
        events: EpollFlags,
        look: &Look,
        buffer: &mut [u8],
        figures: &mut Figures,
    ) -> Result<(), End> {
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
