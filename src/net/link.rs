//! A socket with the session on it, and the operations that the kernel has of it.
//!
//! ```text
//!  open ── finish: nothing more is sent ──► finishing ── peer is done, or its time is over ─┐
//!   │                                                                                        ▼
//!   └── close: cancel every operation ──────────────────► closing ── the last one ended ──► gone
//! ```
//!
//! A descriptor is closed only when no operation of it is left in the kernel.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};

use super::destination::Destination;
use super::driver::ANSWER_TIME_MAX;
use super::low_water::LowWater;
use super::origin::OriginSession;
use super::rtsp_peer::RtspPeer;
use super::udp::PairId;
use crate::access::Entry;
use crate::bus::keeper::Follower;
use crate::media::state::{EndReason, Generation};
use crate::media::{AttemptId, ConnectionId, StreamKey};
use crate::proto::{http, rtmp};
use crate::ring::{Token, socket, unacked_bytes};
use crate::shard::StreamHandle;

/// A socket of a shard.
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) token: Token,
    pub(super) fd: OwnedFd,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) session: Session,
    pub(super) role: Role,
    pub(super) phase: Phase,
    pub(super) receiving: bool,
    pub(super) polling: bool,
    pub(super) connecting: bool,
    /// When another address of the same host is tried instead.
    pub(super) connect_by: Option<Instant>,
    /// How it is counted, where it came to us.
    pub(super) guest: Option<Entry>,
    /// A cancel of the receive operation is under way.
    pub(super) receive_cancelled: bool,
    /// Of a source whose video has begun.
    pub(super) low_water: Option<Box<LowWater>>,
    /// Its datagram sockets, which go before it.
    pub(super) udp: Vec<PairId>,
    /// What the socket has not taken yet.
    out: VecDeque<Bytes>,
    out_bytes: usize,
    /// The entry in the shard's deadlines.
    pub(super) deadline: Option<Instant>,
    pub(super) opened: Instant,
    /// The stream that it publishes or plays, or did, for the log.
    pub(super) part: Option<Part>,
    /// It has played or published.
    pub(super) has_started: bool,
    /// Until when, and until how many bytes in and out, its earlier parts were told, where it had any.
    pub(super) told: Option<Box<(Instant, u64, u64)>>,
    /// The query that it came with, raw.
    pub(super) params: String,
    /// ZLMediaKit's word for what it plays or publishes over.
    pub(super) protocol: &'static str,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    /// It is slow to read what it was answered: what it had read when it was looked at last, and when that
    /// ends whatever it reads.
    slow: Option<Box<(u64, Instant)>>,
}

pub(super) enum Session {
    Rtmp(Box<rtmp::ServerSession>),
    Http(Box<http::server::ServerSession>),
    Rtsp(Box<RtspPeer>),
    Origin(Box<OriginSession>),
    /// Of a push.
    Destination(Box<Destination>),
}

/// What the shard's streams know of the connection.
pub(super) enum Role {
    /// Nothing (yet, or any more).
    None,
    /// It asked to play and was not answered.
    Waiter,
    /// Admitted and told what there is, over RTSP; it has not begun to play.
    Described,
    /// Its socket is fed by the egress.
    Player,
    /// Its datagram sockets are fed by the egress, which does not touch the connection.
    PlayerOverUdp,
    Publisher(StreamHandle),
    /// Moves to the owner of its key when the kernel has let go of it; input is kept.
    Leaving(Box<Leaving>),
    /// A hook is asked whether it may play or publish, under this number.
    Judged(u64),
    /// A request is answered by the API.
    Asking,
    /// It is sent the event log.
    Follower(Arc<Follower>),
    /// To an origin, or to the destination of a push that is no player yet.
    Attempt(AttemptId),
}

/// A publisher on its way.
pub(super) struct Leaving {
    pub(super) key: StreamKey,
    pub(super) params: String,
    pub(super) held: Vec<Bytes>,
}

impl Role {
    /// Nobody but us ends it.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::None | Self::Leaving(_) | Self::Follower(_) | Self::Judged(_))
    }
}

/// A connection's part in a stream.
pub(super) struct Part {
    pub(super) what: &'static str,
    pub(super) key: StreamKey,
    /// Which life of the stream, as soon as it is known; it is told of this one, whatever lives later.
    pub(super) generation: Option<Generation>,
    /// Why we ended it; nothing where the peer did.
    pub(super) ended: Option<EndReason>,
}

impl Part {
    pub(super) fn new(what: &'static str, key: StreamKey) -> Self {
        Self { what, key, generation: None, ended: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Everything was said; the peer may read it to the end until then.
    Finishing {
        until: Instant,
        shut: bool,
    },
    Closing,
}

impl Link {
    pub(super) fn new(
        id: ConnectionId,
        fd: OwnedFd,
        ends: (SocketAddr, SocketAddr),
        session: Session,
        role: Role,
        now: Instant,
    ) -> Self {
        Self {
            id,
            token: Token::new(0),
            fd,
            local: ends.0,
            peer: ends.1,
            session,
            role,
            phase: Phase::Open,
            receiving: false,
            polling: false,
            connecting: false,
            connect_by: None,
            guest: None,
            receive_cancelled: false,
            low_water: None,
            udp: Vec::new(),
            out: VecDeque::new(),
            out_bytes: 0,
            deadline: None,
            opened: now,
            part: None,
            has_started: false,
            told: None,
            params: String::new(),
            protocol: "",
            received_bytes: 0,
            sent_bytes: 0,
            slow: None,
        }
    }

    /// Puts bytes behind what the socket has not taken yet.
    pub(super) fn queue(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.out_bytes += bytes.len();
        self.out.push_back(bytes);
    }

    /// Bytes that the socket has not taken yet.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.out_bytes
    }

    /// Takes over what the socket has not taken yet.
    pub(super) fn take_unsent(&mut self) -> Bytes {
        self.out_bytes = 0;
        let pieces = Vec::from(std::mem::take(&mut self.out));
        match <[Bytes; 1]>::try_from(pieces) {
            Ok([one]) => one,
            Err(pieces) => pieces.concat().into(),
        }
    }

    /// Sends what the socket takes. `false` when it is broken.
    pub(super) fn send_out(&mut self) -> bool {
        while let Some(first) = self.out.front_mut() {
            match socket::send_now(&self.fd, first) {
                Ok(sent) => {
                    self.sent_bytes += sent as u64;
                    self.out_bytes -= sent;
                    first.advance(sent);
                    if first.is_empty() {
                        self.out.pop_front();
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.slow = None;
        true
    }

    /// Whether its peer has read some of what waits for it since this was asked last, and has time for
    /// the rest.
    pub(super) fn goes_on_reading(&mut self, now: Instant) -> bool {
        // What the kernel has is delivered also after a close.
        if self.unsent_bytes() == 0 {
            return false;
        }
        let Ok(unread) = unacked_bytes(&self.fd) else { return false };
        let read = self.sent_bytes.saturating_sub(unread);
        let (before, until) = self.slow.as_deref().copied().unwrap_or((0, now + ANSWER_TIME_MAX));
        self.slow = Some(Box::new((read, until)));
        read > before && now < until
    }

    /// The same of one whose next request is waited for: its time begins anew then.
    pub(super) fn is_slow_reader(&mut self, now: Instant) -> bool {
        let is_http = matches!(self.session, Session::Http(_)) && self.phase == Phase::Open;
        let is_slow = is_http && self.goes_on_reading(now);
        match &mut self.session {
            Session::Http(session) => is_slow && session.begin_pause(now),
            _ => false,
        }
    }

    /// Tells an origin that we go, as far as the socket takes it.
    pub(super) fn say_goodbye_to_origin(&mut self) {
        if let Session::Origin(session) = &mut self.session {
            for bytes in session.goodbye() {
                self.queue(bytes);
            }
            // A socket that is broken or full is closed all the same.
            let _ = self.send_out();
        }
    }

    pub(super) fn raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Whether the kernel has operations of this socket, or of those that go before it.
    pub(super) fn has_operations(&self) -> bool {
        self.receiving || self.polling || self.connecting || !self.udp.is_empty()
    }

    /// When its session wants to be called, or its connect or its last words have had their time.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Finishing { until, .. } => Some(until),
            Phase::Closing => None,
            Phase::Open if self.connecting => self.connect_by,
            Phase::Open => match &self.session {
                Session::Rtmp(session) => session.poll_timeout(),
                Session::Http(session) => session.poll_timeout(),
                Session::Rtsp(peer) => peer.poll_timeout(),
                Session::Origin(session) => session.poll_timeout(),
                Session::Destination(session) => session.poll_timeout(),
            },
        }
    }

    /// The attempt that it was opened for.
    pub(super) fn attempt(&self) -> Option<AttemptId> {
        match (&self.session, &self.role) {
            (Session::Destination(session), _) => Some(session.attempt),
            (_, Role::Attempt(attempt)) => Some(*attempt),
            _ => None,
        }
    }

    pub(super) fn is_inbound(&self) -> bool {
        !matches!(self.session, Session::Origin(_) | Session::Destination(_))
    }
}

/// Links by their place; a token carries the place and how often it was used.
#[derive(Default)]
pub(super) struct Links {
    slots: Vec<Slot>,
    free: Vec<u32>,
    count: usize,
}

#[derive(Default)]
struct Slot {
    used: u32,
    link: Option<Box<Link>>,
}

impl Links {
    /// Enters a link and gives it its token.
    pub(super) fn insert(&mut self, mut link: Link) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.used = slot.used.wrapping_add(1);
        let token = Token::new(u64::from(index) | u64::from(slot.used & USED_MASK) << INDEX_BITS);
        link.token = token;
        slot.link = Some(Box::new(link));
        self.count += 1;
        token
    }

    /// Whatever link is at the place of a token.
    pub(super) fn at(&self, token: Token) -> Option<&Link> {
        self.slots.get(split(token).0)?.link.as_deref()
    }

    pub(super) fn get(&self, token: Token) -> Option<&Link> {
        let (index, used) = split(token);
        let slot = self.slots.get(index)?;
        if slot.used & USED_MASK == used { slot.link.as_deref() } else { None }
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Link> {
        let (index, used) = split(token);
        let slot = self.slots.get_mut(index)?;
        if slot.used & USED_MASK == used { slot.link.as_deref_mut() } else { None }
    }

    /// The role and the session of one that speaks RTMP and was accepted.
    pub(super) fn rtmp_mut(&mut self, token: Token) -> Option<(&Role, &mut rtmp::ServerSession)> {
        let link = self.get_mut(token)?;
        match &mut link.session {
            Session::Rtmp(session) => Some((&link.role, session)),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Box<Link>> {
        self.get(token)?;
        let (index, _) = split(token);
        self.free.push(index as u32);
        self.count -= 1;
        self.slots[index].link.take()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.slots.iter().filter_map(|slot| slot.link.as_deref())
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }
}

fn split(token: Token) -> (usize, u32) {
    let value = token.value();
    ((value & ((1 << INDEX_BITS) - 1)) as usize, (value >> INDEX_BITS) as u32)
}

/// 16 million sockets of a shard.
const INDEX_BITS: u32 = 24;
/// The rest of a token's 56 bits, less two that tell listeners and datagram sockets from links.
const USED_MASK: u32 = 0x3fff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    /// Players are thousands, each with a link; see the memory of one in `docs/benchmarks.md`.
    #[test]
    fn link_takes_little_memory() {
        assert!(size_of::<Link>() <= 416, "{}", size_of::<Link>());
    }
}
