//! Sessions and their links: input to the session, its output to the socket or the stream.

use bytes::Bytes;

use super::driver::Driver;
use super::link::{Phase, Role, Session};
use crate::proto::Output;
use crate::ring::Token;

impl Driver {
    /// Bytes for a session.
    pub(super) fn input(&mut self, token: Token, bytes: Bytes) {
        let Some(link) = self.links.get_mut(token) else { return };
        let now = self.now;
        let failed: Option<Box<dyn std::fmt::Display>> = match &mut link.session {
            Session::Rtmp(_) => {
                self.rtmp_input(token, bytes);
                return;
            }
            Session::Http(session) => boxed(session.handle_input(now, bytes)),
            // It keeps copies of what it has not parsed.
            Session::Rtsp(peer) => {
                let result = peer.handle_input(now, bytes);
                self.counters.count_error(&result);
                boxed(result)
            }
            Session::Origin(session) => {
                let fault = session.handle_input(now, bytes);
                self.drain(token);
                if let Some(fault) = fault {
                    self.origin_failed(token, fault);
                }
                return;
            }
            Session::Destination(session) => {
                let fault = session.handle_input(now, bytes);
                self.drain(token);
                if let Some(fault) = fault {
                    self.origin_failed(token, fault);
                }
                return;
            }
        };
        self.drain(token);
        if let Some(error) = failed {
            self.session_failed(token, &*error);
        }
    }

    fn rtmp_input(&mut self, token: Token, bytes: Bytes) {
        let Some((role, session)) = self.links.rtmp_mut(token) else { return };
        let publishes = matches!(role, Role::Publisher(_));
        // A session may keep a view of what it has not parsed. One that may yet move to another
        // shard gets bytes of its own: receive buffers stay on theirs.
        let moves = !publishes && !matches!(role, Role::Player);
        let bytes = if moves { Bytes::copy_from_slice(&bytes) } else { bytes };
        session.exchange_room(&mut self.outputs_room);
        let result = session.handle_input(self.now, bytes);
        self.drain(token);
        if let Some((_, session)) = self.links.rtmp_mut(token) {
            session.exchange_room(&mut self.outputs_room);
        }
        if let Err(error) = result {
            self.session_failed(token, &error);
        }
    }

    /// The peer sends no more, or its connection is broken.
    pub(super) fn peer_ended(&mut self, token: Token, orderly: bool) {
        let Some(link) = self.links.get_mut(token) else { return };
        if !orderly {
            if link.attempt().is_some() {
                self.origin_ended(token, false);
            } else {
                self.close(token);
            }
            return;
        }
        match &mut link.session {
            Session::Rtmp(_) | Session::Rtsp(_) => self.close(token),
            Session::Origin(_) | Session::Destination(_) => self.origin_ended(token, true),
            Session::Http(session) => {
                let waits_for_stream = matches!(
                    link.role,
                    Role::Player | Role::Waiter | Role::Judged(_) | Role::Follower(_)
                );
                let answering = matches!(link.role, Role::Asking);
                // Who has just shut its direction can't be told from who has gone: a look would go on for
                // a minute.
                self.probes.remove(&link.id);
                let ended = session.handle_eof(self.now);
                self.drain(token);
                let Some(link) = self.links.get(token) else { return };
                // A half-closed peer may still read the answer that it asked for.
                let nothing_left = link.unsent_bytes() == 0 && !answering;
                let finishing = matches!(link.phase, Phase::Finishing { .. });
                if ended.is_err() || waits_for_stream || nothing_left || finishing {
                    self.close(token);
                }
            }
        }
    }

    pub(super) fn session_timeout(&mut self, token: Token) {
        let Some(link) = self.links.get_mut(token) else { return };
        let now = self.now;
        let failed: Option<Box<dyn std::fmt::Display>> = match &mut link.session {
            Session::Rtmp(session) => boxed(session.handle_timeout(now)),
            Session::Http(session) => boxed(session.handle_timeout(now)),
            Session::Rtsp(peer) => {
                let result = peer.handle_timeout(now);
                self.counters.count_error(&result);
                boxed(result)
            }
            Session::Origin(session) => {
                let fault = session.handle_timeout(now);
                self.drain(token);
                if let Some(fault) = fault {
                    self.origin_failed(token, fault);
                }
                return;
            }
            Session::Destination(session) => {
                let fault = session.handle_timeout(now);
                self.drain(token);
                if let Some(fault) = fault {
                    self.origin_failed(token, fault);
                }
                return;
            }
        };
        self.drain(token);
        if let Some(error) = failed {
            self.session_failed(token, &*error);
        }
    }

    /// Does what a session wants done, until it wants nothing more.
    pub(super) fn drain(&mut self, token: Token) {
        loop {
            let Some(link) = self.links.get_mut(token) else { return };
            match &mut link.session {
                Session::Rtmp(session) => match session.poll_output() {
                    None => break,
                    Some(Output::Send(bytes)) => self.session_sends(token, bytes),
                    Some(Output::Event(event)) => self.rtmp_event(token, event),
                },
                Session::Http(session) => match session.poll_output() {
                    None => break,
                    Some(Output::Send(bytes)) => self.session_sends(token, bytes),
                    Some(Output::Event(event)) => self.http_event(token, event),
                },
                Session::Rtsp(_) => {
                    self.drain_rtsp(token);
                    break;
                }
                Session::Origin(_) => {
                    if !self.drain_origin_step(token) {
                        break;
                    }
                }
                Session::Destination(_) => {
                    if !self.drain_destination_step(token) {
                        break;
                    }
                }
            }
        }
        self.send_out(token);
        self.set_deadline(token);
    }

    pub(super) fn session_sends(&mut self, token: Token, bytes: Bytes) {
        let Some(link) = self.links.get_mut(token) else { return };
        if matches!(link.role, Role::Player) {
            let id = link.id;
            self.shard.insert(self.now, id, bytes, &mut self.wire);
        } else {
            link.queue(bytes);
        }
    }
}

fn boxed<E: std::fmt::Display + 'static>(
    result: Result<(), E>,
) -> Option<Box<dyn std::fmt::Display>> {
    result.err().map(|error| Box::new(error) as Box<dyn std::fmt::Display>)
}
