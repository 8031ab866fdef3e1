//! The marks of all sources of a shard: who is to be set anew in this turn, and whose time is over.

use std::time::{Duration, Instant};

use super::driver::Driver;
use super::link::{Phase, Session};
use super::low_water::LowWater;
use super::origin::OriginSession;
use super::wheel::Wheel;
use crate::media::{MediaPart, TagKind};
use crate::ring::{Token, least_rtt_us, socket};

/// Marks that are set, and those to be looked at.
pub(super) struct Marks {
    start: Instant,
    /// In milliseconds since the start, so that many share a turn.
    until: Wheel,
    /// Sources that have sent something in this turn.
    heard: Vec<Token>,
    pub(super) lifted: u64,
}

impl Marks {
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, until: Wheel::new(), heard: Vec::new(), lifted: 0 }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until.next().map(|at_ms| self.start + Duration::from_millis(at_ms))
    }
}

impl Driver {
    /// Media of a source's connection.
    pub(super) fn note_media(&mut self, token: Token, part: &MediaPart) {
        let &MediaPart::Begin { kind: TagKind::Video, timestamp_ms, len, .. } = part else {
            return;
        };
        let now = self.now.duration_since(self.marks.start);
        let Some(link) = self.links.get_mut(token) else { return };
        let low_water = link.low_water.get_or_insert_with(|| Box::new(LowWater::new(timestamp_ms)));
        if low_water.video(now, timestamp_ms, len) {
            low_water.is_near = least_rtt_us(&link.fd).is_ok_and(|rtt| rtt <= NEAR_RTT_US_MAX);
        }
    }

    /// A connection has sent something; its mark is looked at when all of the turn is read.
    pub(super) fn heard(&mut self, token: Token) {
        if self.links.get(token).is_some_and(|link| link.low_water.is_some())
            && self.marks.heard.last() != Some(&token)
        {
            self.marks.heard.push(token);
        }
    }

    /// Sets the marks of those who have sent something.
    pub(super) fn set_marks(&mut self) {
        let wait_max = match self.config.media_ring.await_frames {
            true => Duration::from_millis(self.config.egress.audio_wait_ms),
            false => Duration::ZERO,
        };
        let now = self.now.duration_since(self.marks.start);
        if self.marks.until.is_behind(now.as_millis() as u64) {
            // The shard has stood still.
            self.lift_marks();
        }
        let mut heard = std::mem::take(&mut self.marks.heard);
        for token in heard.drain(..) {
            let Some(link) = self.links.get_mut(token) else { continue };
            let Some(low_water) = &mut link.low_water else { continue };
            if link.phase != Phase::Open {
                continue;
            }
            let lacking = lacking(&link.session);
            let before = low_water.until_ms();
            if let Some(mark) = low_water.set(now, lacking, wait_max) {
                // A broken socket says so itself.
                let _ = socket::set_receive_mark(&link.fd, mark);
            }
            let after = low_water.until_ms();
            if before != after {
                before.into_iter().for_each(|at_ms| self.marks.until.leave(at_ms, token));
                after.into_iter().for_each(|at_ms| self.marks.until.enter(at_ms, token));
            }
        }
        self.marks.heard = heard;
    }

    /// Lifts the marks whose time is over. What waited in their sockets comes at once.
    pub(super) fn lift_marks(&mut self) {
        let now = self.now.duration_since(self.marks.start);
        while let Some((at_ms, token)) = self.marks.until.take_due(now.as_millis() as u64) {
            let Some(link) = self.links.get_mut(token) else { continue };
            let Some(low_water) = &mut link.low_water else { continue };
            // The entry may be that of an earlier part of the connection.
            if low_water.until_ms() == Some(at_ms)
                && let Some(mark) = low_water.lift(now - Duration::from_millis(at_ms))
            {
                self.marks.lifted += 1;
                let _ = socket::set_receive_mark(&link.fd, mark);
            }
        }
    }

    /// The connection is no source any more: it is read as others are.
    pub(super) fn forget_mark(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if let Some(mut low_water) = link.low_water.take() {
            low_water.until_ms().into_iter().for_each(|at_ms| self.marks.until.leave(at_ms, token));
            if let Some(mark) = low_water.lift(Duration::ZERO) {
                let _ = socket::set_receive_mark(&link.fd, mark);
            }
        }
    }
}

/// Bytes that the tags that have begun still lack.
fn lacking(session: &Session) -> usize {
    match session {
        Session::Rtmp(session) => session.lacking(),
        Session::Origin(origin) => match &**origin {
            OriginSession::Rtmp(session) => session.lacking(),
            OriginSession::Http(_, tags) => tags.lacking(),
            OriginSession::Rtsp(_) => 0,
        },
        Session::Http(_) | Session::Rtsp(_) | Session::Destination(_) => 0,
    }
}

/// The kernel acknowledges what waits below a mark later than what is read. A peer that does not set
/// `TCP_NODELAY` may hold back the end of a frame for that, for a round trip at most.
const NEAR_RTT_US_MAX: u32 = 2000;
