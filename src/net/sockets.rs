//! A link's bytes in and out, and its end.

use std::time::Instant;

use bytes::Bytes;
use tracing::{debug, info, warn};

use super::driver::{Driver, FINISH_TIME, UNSENT_BYTES_MAX};
use super::link::{Link, Part, Phase, Role, Session};
use crate::egress::Removed;
use crate::media::state::EndReason;
use crate::ring::{Ended, OpKind, Token};

impl Driver {
    pub(super) fn received(&mut self, token: Token, bytes: Bytes) {
        let Some(link) = self.links.get_mut(token) else { return };
        link.received_bytes += bytes.len() as u64;
        self.counters.receives += 1;
        if let Role::Leaving(leaving) = &mut link.role {
            // A view of this shard's receive buffers must not leave it.
            leaving.held.push(Bytes::copy_from_slice(&bytes));
            return;
        }
        if link.phase == Phase::Open {
            if link.unsent_bytes() > UNSENT_BYTES_MAX && !matches!(link.role, Role::Player) {
                self.repeats.count(self.now, "peer asks and does not read");
                self.close(token);
                return;
            }
            self.input(token, bytes);
            self.set_deadline(token);
            self.heard(token);
        }
    }

    pub(super) fn receive_ended(&mut self, token: Token, ended: Ended) {
        let Some(link) = self.links.get_mut(token) else { return };
        link.receiving = false;
        link.receive_cancelled = false;
        let fd = link.raw_fd();
        if self.gone_if_closing(token) {
            return;
        }
        let link = self.links.get_mut(token).expect("it is not gone");
        if matches!(link.role, Role::Leaving(_)) {
            match ended {
                Ended::Eof | Ended::Error(_) => self.close(token),
                _ => self.hand_over(token),
            }
            return;
        }
        match ended {
            Ended::NoBuffers | Ended::Rearm => {
                link.receiving = true;
                self.ring.recv_multishot(fd, token);
            }
            Ended::Eof => self.peer_ended(token, true),
            Ended::Error(_) | Ended::Cancelled => self.peer_ended(token, false),
        }
    }

    pub(super) fn writable(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if matches!(link.role, Role::Player) && link.phase == Phase::Open {
            let id = link.id;
            self.shard.writable(self.now, id, &mut self.wire);
        } else if matches!(link.role, Role::Leaving(_)) && !link.receiving {
            self.hand_over(token);
        } else {
            self.send_out(token);
        }
    }

    /// Sends what the socket takes and polls for the rest; goes on with finishing when all is sent.
    pub(super) fn send_out(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if link.connecting || link.phase == Phase::Closing {
            return;
        }
        let was_waiting = link.unsent_bytes() > 0;
        if !link.send_out() {
            self.close(token);
            return;
        }
        if link.unsent_bytes() == 0
            && was_waiting
            && let Session::Http(session) = &mut link.session
        {
            session.begin_pause(self.now);
        }
        if link.unsent_bytes() > 0 {
            self.poll_writable(token);
        } else if let Phase::Finishing { shut, .. } = &mut link.phase
            && !std::mem::replace(shut, true)
        {
            let _ = nix::sys::socket::shutdown(link.raw_fd(), nix::sys::socket::Shutdown::Write);
            if !link.receiving {
                self.close(token);
            }
        }
    }

    pub(super) fn poll_writable(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if !link.polling && link.phase != Phase::Closing {
            link.polling = true;
            let fd = link.raw_fd();
            self.ring.poll_writable(fd, token);
        }
    }

    /// Sends what is queued, then ends our direction and waits a little for the peer to read it.
    pub(super) fn finish(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if link.phase != Phase::Open {
            return;
        }
        link.phase = Phase::Finishing { until: self.now + FINISH_TIME, shut: false };
        self.leave_role(token, false);
        self.send_out(token);
        self.set_deadline(token);
    }

    /// Ends a link: every operation is cancelled; when the last has ended the socket is closed.
    pub(super) fn close(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        if link.phase == Phase::Closing {
            return;
        }
        link.phase = Phase::Closing;
        if !link.connecting {
            link.say_goodbye_to_origin();
        }
        self.say_goodbye_to_destination(token);
        self.leave_role(token, false);
        let link = self.links.get_mut(token).expect("leaving a role keeps the link");
        if link.receiving && !link.receive_cancelled {
            link.receive_cancelled = true;
            self.ring.cancel(token, OpKind::Receive);
        }
        if link.polling {
            self.ring.cancel(token, OpKind::PollWritable);
        }
        if link.connecting {
            self.ring.cancel(token, OpKind::Connect);
        }
        self.close_udp_of(token);
        self.gone_if_closing(token);
    }

    /// Tells the shard that the connection has no part in a stream any more. What a player has got.
    pub(super) fn leave_role(&mut self, token: Token, clean: bool) -> Option<Removed> {
        self.note_life(token);
        let link = self.links.get_mut(token)?;
        let id = link.id;
        match std::mem::replace(&mut link.role, Role::None) {
            Role::Waiter | Role::Described | Role::Player | Role::PlayerOverUdp => {
                let player = self.shard.leave(id);
                link.sent_bytes += player.map_or(0, |player| player.sent_bytes);
                return player;
            }
            Role::Publisher(_) => {
                self.forget_mark(token);
                self.shard.unpublish(self.now, id, clean);
            }
            Role::Follower(follower) => self.unfollow(follower),
            // An attempt's link stays its own to the end.
            Role::Attempt(attempt) => link.role = Role::Attempt(attempt),
            Role::Judged(serial) => self.withdraw_question(serial),
            Role::None | Role::Leaving(_) | Role::Asking => {}
        }
        None
    }

    /// Removes a closing link that the kernel has let go of. `true` when it is closing or gone.
    pub(super) fn gone_if_closing(&mut self, token: Token) -> bool {
        let Some(link) = self.links.get(token) else { return true };
        if link.phase != Phase::Closing {
            return false;
        }
        if link.has_operations() {
            return true;
        }
        let link = self.links.remove(token).expect("just seen");
        self.forget(link);
        true
    }

    pub(super) fn forget(&mut self, link: Box<Link>) {
        self.tell_left(&link);
        self.uncount_guest(&link);
        log_closed(&link, self.now);
        let attempt = link.attempt();
        let Link { id, token, deadline, .. } = *link;
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, token));
        }
        self.by_connection.remove(&id);
        self.probes.remove(&id);
        self.counters.count_rtp(&link.session);
        self.shard.released(id);
        if let Some(attempt) = attempt {
            self.attempt_link_closed(attempt, token);
        }
    }

    /// A fault of a peer: counted, told once, and the connection ends.
    pub(super) fn session_failed(&mut self, token: Token, error: &dyn std::fmt::Display) {
        self.counters.session_errors += 1;
        self.repeats.count(self.now, "session ended by an error of its peer");
        let Some(link) = self.links.get(token) else { return };
        warn_fault(link, error);
        match &link.session {
            // The reply that says what was wrong is on its way.
            Session::Http(_) | Session::Rtsp(_) if !matches!(link.role, Role::Player) => {
                self.finish(token);
            }
            _ => {
                self.send_out(token);
                self.close(token);
            }
        }
    }
}

/// The line of an operator's log when a connection, or its part in a stream, is over.
pub(super) fn log_closed(link: &Link, now: Instant) {
    let Link { id, peer, part, received_bytes, sent_bytes, .. } = link;
    let seconds = (now - link.opened).as_secs();
    match part {
        Some(Part { what, key, ended, .. }) => {
            let reason = ended.map_or("peer", EndReason::as_str);
            info!(connection = %id, %peer, %key, reason, seconds, received_bytes, sent_bytes,
                "{what} closed");
        }
        None => debug!(connection = %id, %peer, seconds, received_bytes, sent_bytes, "closed"),
    }
}

fn warn_fault(link: &Link, error: &dyn std::fmt::Display) {
    let offset = link.received_bytes;
    let (connection, peer) = (link.id, link.peer);
    if link.is_inbound() {
        debug!(%connection, %peer, offset, %error, "session failed");
    } else {
        warn!(%connection, %peer, offset, %error, "session failed");
    }
}
