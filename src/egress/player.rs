//! A player: a socket and a cursor into the log.
//!
//! ```text
//!            ┌────────── flush took all ──────────┐
//!            ▼                                    │
//!  start ─► caught up ──socket full──► blocked ──writable──► (sends on from its cursor)
//!            ▲                           │ lag over the bound, or no keyframe yet
//!            └── the next keyframe ── awaiting keyframe
//! ```

use std::io::IoSlice;
use std::time::Instant;

use bytes::{Buf, Bytes};

use super::flush::Socket;
use crate::limits::DETOUR_LEN_MAX;
use crate::media::ConnectionId;
use crate::stream::{Cursor, Log, Packaging, Span, TrackSet, packaging};

/// What a player starts with.
pub struct PlayerStart {
    pub id: ConnectionId,
    pub socket: Socket,
    pub packaging: Packaging,
    /// Protocol replies that the socket has not taken yet; they go before the first tag.
    pub unsent: Bytes,
    pub tracks: TrackSet,
}

/// What a player of RTP gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RtpStart {
    /// The places in the description of the tracks that it wants.
    pub tracks: Vec<u8>,
    /// Its sockets where the packets go over UDP, one item for each track; none where they are
    /// interleaved. They are connected to the player's ports.
    pub udp: Vec<UdpTrack>,
}

/// A track's sockets of one player.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpTrack {
    pub track: u8,
    pub rtp: Socket,
    pub rtcp: Socket,
}

/// How far a player is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlayerState {
    /// Has everything that was flushed.
    CaughtUp,
    /// Its socket is full; it goes on when the socket is writable.
    Blocked,
    /// Gets nothing until the next keyframe.
    AwaitingKeyframe,
    /// Its socket failed, and it is about to be removed.
    Broken,
}

/// One player of a stream on this shard.
pub struct Player {
    pub(super) id: ConnectionId,
    pub(super) socket: Socket,
    pub(super) packaging: Packaging,
    pub(super) tracks: TrackSet,
    pub(super) state: PlayerState,
    pub(super) cursor: Cursor,
    /// The rest of a tag that was begun before a jump; it must be finished first.
    leftover: Option<Box<(Log, Cursor)>>,
    /// Bytes that go between two tags: prelude, protocol replies.
    detour: Bytes,
    pub(super) prelude_version: u32,
    /// The prelude with the protocol's greeting (FLV file header) has been put on its way.
    pub(super) greeted: bool,
    pub(super) sent_bytes: u64,
    pub(super) jumps: u32,
    pub(super) last_progress: Instant,
    /// When it jumped first since it was last caught up.
    pub(super) jumped_since: Option<Instant>,
    /// A poll for writability is under way.
    pub(super) polling: bool,
}

/// Where the next bytes of a player come from.
pub(super) enum Next {
    Leftover,
    Detour,
    /// The rest of a tag that was begun, before a detour.
    Tag,
    Log,
    Nothing,
}

impl Player {
    pub(super) fn new(start: PlayerStart, now: Instant) -> Self {
        Self {
            id: start.id,
            socket: start.socket,
            packaging: start.packaging,
            tracks: start.tracks,
            state: PlayerState::AwaitingKeyframe,
            cursor: Cursor::default(),
            leftover: None,
            detour: start.unsent,
            prelude_version: 0,
            greeted: false,
            sent_bytes: 0,
            jumps: 0,
            last_progress: now,
            jumped_since: None,
            polling: false,
        }
    }

    /// Puts bytes between the tags: at once where it stands between two, else behind the current.
    /// `false` when the peer has left too many of ours unread already.
    #[must_use]
    pub(super) fn insert(&mut self, bytes: Bytes) -> bool {
        if self.detour.len() > DETOUR_LEN_MAX {
            return false;
        }
        self.insert_prelude(bytes);
        true
    }

    /// As [`Self::insert`], for bytes of ours that no peer asked for.
    pub(super) fn insert_prelude(&mut self, bytes: Bytes) {
        if self.detour.is_empty() {
            self.detour = bytes;
        } else {
            self.detour = [&self.detour[..], &bytes[..]].concat().into();
        }
    }

    /// Whether the peer could make sense of other bytes now: no tag is half sent.
    pub(super) fn is_between_tags(&self) -> bool {
        self.leftover.is_none() && self.detour.is_empty() && self.cursor.offset == 0
    }

    /// What must go out before anything else can: the rest of a tag that is half sent, and what was put
    /// behind it.
    pub(super) fn rest(&self, log: &Log) -> Bytes {
        let (log, cursor) = match self.leftover.as_deref() {
            Some((leftover, cursor)) => (leftover, *cursor),
            None => (log, self.cursor),
        };
        let (mut span, mut slices) = (Span::default(), Vec::new());
        if cursor.offset > 0 {
            span.encode_tracks(self.packaging, self.tracks, log, cursor, cursor.seq + 1);
            span.slices(log, &mut slices);
        }
        slices.push(IoSlice::new(&self.detour));
        slices.iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    /// Whether something of its own must go out before it can share a flush.
    pub(super) fn has_own_bytes(&self) -> bool {
        !self.is_between_tags()
    }

    /// Leaves its place in the log; a tag that is half sent is kept aside and finished.
    pub(super) fn leave_log(&mut self, log: &Log) {
        if self.cursor.offset > 0 && self.leftover.is_none() {
            self.leftover = Some(Box::new((log.single(self.cursor.seq), self.cursor)));
            self.cursor = Cursor::at(self.cursor.seq + 1);
        }
        self.cursor.offset = 0;
        self.state = PlayerState::AwaitingKeyframe;
    }

    pub(super) fn next(&self, flushed_seq: u64) -> Next {
        if self.leftover.is_some() {
            Next::Leftover
        } else if !self.detour.is_empty() {
            if self.cursor.offset > 0 { Next::Tag } else { Next::Detour }
        } else if self.state != PlayerState::AwaitingKeyframe && self.cursor.seq < flushed_seq {
            Next::Log
        } else {
            Next::Nothing
        }
    }

    /// Encodes the next bytes; empty where there is nothing to send.
    pub(super) fn encode_next(&self, log: &Log, span: &mut Span) -> Next {
        let next = self.next(log.flushed_seq());
        match &next {
            Next::Leftover => {
                let (rest, cursor) = &**self.leftover.as_ref().expect("just seen");
                span.encode_tracks(self.packaging, self.tracks, rest, *cursor, cursor.seq + 1);
            }
            Next::Tag => {
                span.encode_tracks(
                    self.packaging,
                    self.tracks,
                    log,
                    self.cursor,
                    self.cursor.seq + 1,
                );
            }
            Next::Log => {
                span.encode_tracks(self.packaging, self.tracks, log, self.cursor, log.flushed_seq())
            }
            Next::Detour | Next::Nothing => {}
        }
        next
    }

    /// The bytes that [`Self::encode_next`] chose.
    pub(super) fn next_slices<'a>(
        &'a self,
        next: &Next,
        log: &'a Log,
        span: &'a Span,
        out: &mut Vec<IoSlice<'a>>,
    ) -> u64 {
        match next {
            Next::Nothing => 0,
            Next::Detour => {
                out.push(IoSlice::new(&self.detour));
                self.detour.len() as u64
            }
            Next::Leftover => {
                let (rest, _) = &**self.leftover.as_ref().expect("just seen");
                span.slices(rest, out);
                span.len()
            }
            Next::Tag | Next::Log => {
                span.slices(log, out);
                span.len()
            }
        }
    }

    /// Notes that the socket took so many of the chosen bytes.
    pub(super) fn sent(&mut self, next: &Next, log: &Log, sent: u64, now: Instant) {
        if sent > 0 {
            self.last_progress = now;
            self.sent_bytes += sent;
        }
        match next {
            Next::Nothing => {}
            Next::Detour => {
                self.detour.advance(sent as usize);
                if self.detour.is_empty() {
                    // An empty view would keep the memory of what was sent.
                    self.detour = Bytes::new();
                }
            }
            Next::Leftover => {
                let (rest, cursor) = &mut **self.leftover.as_mut().expect("just sent");
                *cursor = packaging::advance(self.packaging, self.tracks, rest, *cursor, sent);
                if cursor.seq >= rest.next_seq() {
                    self.leftover = None;
                }
            }
            Next::Tag | Next::Log => {
                self.cursor =
                    packaging::advance(self.packaging, self.tracks, log, self.cursor, sent);
            }
        }
    }

    /// Bytes of the log that it is behind.
    pub(super) fn lag_bytes(&self, log: &Log) -> u64 {
        if self.state == PlayerState::AwaitingKeyframe {
            return 0;
        }
        log.position_of(log.flushed_seq()) - log.position_of(self.cursor.seq)
    }
}
