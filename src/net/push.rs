//! Pushes: we are the client that publishes. Up to its connection an attempt of a push is one like a
//! pull's; from when its destination is ready it is a player of its stream.
//!
//! ```text
//!  RTMP:  attempt ── publish is answered ──► waiter ─ admitted ─► player
//!  RTSP:  attempt ── connected ──► waiter ─ admitted ─► described ── RECORD is answered ──► player,
//!                                                                                 or player over UDP
//! ```

use bytes::Bytes;
use tracing::info;

use super::destination::{Destination, Wanted};
use super::driver::Driver;
use super::link::{Link, Phase, Role, Session};
use super::pull::{Dial, Purpose};
use crate::egress::{RtpStart, Socket};
use crate::media::state::{EndReason, ErrorClass, Fault};
use crate::media::{AttemptId, Form};
use crate::ring::Token;
use crate::shard::{Admitted, PlayRequest, PushDial};

impl Driver {
    pub(super) fn dial_push(&mut self, dial: PushDial) {
        let PushDial { attempt, key, url, rtp_transport, timeout } = dial;
        self.dial(attempt, Dial { purpose: Purpose::Push, key, url, rtp_transport, timeout });
    }

    fn destination(&mut self, token: Token) -> Option<&mut Destination> {
        self.links.get_mut(token)?.destination()
    }

    /// One output of a destination's session. `false` when there is none.
    pub(super) fn drain_destination_step(&mut self, token: Token) -> bool {
        let now = self.now;
        let Some(link) = self.links.get_mut(token) else { return false };
        if link.phase != Phase::Open || link.connecting {
            return false;
        }
        let Some(destination) = link.destination() else { return false };
        let id = destination.attempt;
        match destination.poll() {
            None => return false,
            Some(Wanted::Send(bytes)) => self.session_sends(token, bytes),
            Some(Wanted::Stage(stage, awaiting)) => {
                self.shard.attempt_stage(now, id, stage, awaiting);
            }
            Some(Wanted::Join) => self.push_joins(token, id),
            Some(Wanted::Begin) => self.push_begins(token, id),
            Some(Wanted::OpenUdp { track }) => {
                let ports = self.open_udp(token, track);
                match (ports, self.destination(token)) {
                    (Some(ports), Some(destination)) => destination.udp_opened(now, ports),
                    _ => self.no_udp(id),
                }
            }
            Some(Wanted::ConnectUdp { track, server_port }) => {
                if !self.connect_udp(token, track, server_port) {
                    self.no_udp(id);
                }
            }
            Some(Wanted::Fail(fault)) => self.attempt_failed(id, fault),
        }
        true
    }

    fn no_udp(&mut self, id: AttemptId) {
        let fault =
            Fault::new(ErrorClass::Unreachable, "there are no UDP ports to send from or to");
        self.attempt_failed(id, fault);
    }

    fn push_joins(&mut self, token: Token, id: AttemptId) {
        let Some(key) = self.attempt_key(id) else { return };
        let Some(link) = self.links.get_mut(token) else { return };
        let Some(packaging) = link.destination().map(|destination| destination.packaging()) else {
            return;
        };
        link.role = Role::Waiter;
        let (connection, local, peer) = (link.id, link.local, link.peer);
        let request =
            PlayRequest { connection, key, packaging, local, peer, params: String::new() };
        if !self.shard.push_joins(self.now, id, request) {
            self.hang_up(id);
        }
    }

    /// The stream is there for it.
    pub(super) fn push_admitted(&mut self, token: Token) {
        let now = self.now;
        let Some(link) = self.links.get_mut(token) else { return };
        let connection = link.id;
        let Some(destination) = link.destination() else { return };
        let id = destination.attempt;
        if destination.packaging().form() == Form::Flv {
            self.push_plays(token, id, None);
            return;
        }
        let announced = match self.shard.description(connection) {
            Some(description) => {
                let description = (*description).clone();
                self.destination(token).is_some_and(|to| to.announce(now, description))
            }
            None => false,
        };
        if announced {
            if let Some(link) = self.links.get_mut(token) {
                link.role = Role::Described;
            }
            self.drain(token);
        } else {
            let text = "the stream has no track that could be announced";
            self.attempt_failed(id, Fault::new(ErrorClass::Rejected, text));
        }
    }

    /// An RTSP destination waits for packets.
    fn push_begins(&mut self, token: Token, id: AttemptId) {
        let Some(link) = self.links.get_mut(token) else { return };
        let connection = link.id;
        let over_udp = link.destination().is_some_and(|destination| destination.is_over_udp());
        let count = self.shard.description(connection).map_or(0, |of| of.media.len());
        let tracks: Vec<u8> = (0..count).filter_map(|track| u8::try_from(track).ok()).collect();
        let udp = match over_udp {
            true => (0..count).filter_map(|track| self.udp_track(token, track)).collect(),
            false => Vec::new(),
        };
        if count == 0 || over_udp && udp.len() < count {
            self.no_udp(id);
            return;
        }
        self.push_plays(token, id, Some(RtpStart { tracks, udp }));
    }

    fn push_plays(&mut self, token: Token, id: AttemptId, rtp: Option<RtpStart>) {
        let over_udp = rtp.as_ref().is_some_and(|rtp| !rtp.udp.is_empty());
        let Some(key) = self.attempt_key(id) else { return };
        let Some(link) = self.links.get_mut(token) else { return };
        link.role = if over_udp { Role::PlayerOverUdp } else { Role::Player };
        let unsent = if over_udp { Bytes::new() } else { link.take_unsent() };
        let (connection, socket) = (link.id, Socket(link.raw_fd()));
        info!(%connection, peer = %link.peer, %key, "pushes");
        self.shard.push_is_up(self.now, id);
        let admitted = Admitted { connection, socket, unsent, rtp };
        self.shard.admitted(self.now, admitted, &mut self.wire);
    }

    /// The shard has ended a push's part as a player, or has none for it.
    pub(super) fn end_push(&mut self, token: Token, reason: EndReason, between_tags: bool) {
        let Some(link) = self.links.get_mut(token) else { return };
        let sent_bytes = link.sent_bytes;
        let Some(destination) = link.destination() else { return };
        let id = destination.attempt;
        if between_tags {
            let said = destination.goodbye();
            said.into_iter().for_each(|bytes| link.queue(bytes));
            // A socket that is broken or full is closed all the same.
            let _ = link.send_out();
        }
        self.shard.push_ended(self.now, id, reason, sent_bytes);
        self.hang_up(id);
    }

    /// Tells a destination that we go, unless a tag is half sent or it was told.
    pub(super) fn say_goodbye_to_destination(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if link.connecting || link.destination().is_none() || matches!(link.role, Role::None) {
            return;
        }
        let player = self.leave_role(token, false);
        let Some(link) = self.links.get_mut(token) else { return };
        if player.is_none_or(|player| player.between_tags)
            && let Some(destination) = link.destination()
        {
            let said = destination.goodbye();
            said.into_iter().for_each(|bytes| link.queue(bytes));
            let _ = link.send_out();
        }
    }
}

impl Link {
    /// The session with a push's destination.
    pub(super) fn destination(&mut self) -> Option<&mut Destination> {
        match &mut self.session {
            Session::Destination(destination) => Some(destination),
            _ => None,
        }
    }
}
