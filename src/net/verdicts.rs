//! Who may play or publish is the word of a hook, where the operator has one. The connection waits;
//! nothing else does.

use super::driver::Driver;
use super::events::peer_of;
use super::link::{Role, Session};
use crate::bus::event::Refusal as Told;
use crate::bus::keeper::{Question, ToKeeper, Verdict};
use crate::config::Hook;
use crate::media::state::EndReason;
use crate::media::{ConnectionId, StreamKey};
use crate::proto::http::response::Response;
use crate::proto::rtmp::{PlayRefusal, PublishRefusal as RtmpRefusal};
use crate::proto::rtsp::server::Refusal;
use crate::ring::Token;
use crate::stream::Packaging;

/// What a connection wants, which waits for a verdict.
pub(super) enum Wanted {
    Play { key: StreamKey, packaging: Packaging },
    Publish { key: StreamKey, params: String },
}

impl Driver {
    /// Has the hook asked about a connection, whose `params` and `protocol` are set; [`Self::judged`]
    /// goes on with it. Gives `wanted` back where no hook is to be asked.
    pub(super) fn ask_verdict(&mut self, token: Token, wanted: Wanted) -> Option<Wanted> {
        let (hook, key) = match &wanted {
            Wanted::Play { key, .. } => (Hook::Play, key),
            Wanted::Publish { key, .. } => (Hook::Publish, key),
        };
        if !self.config.hook.wants(hook) {
            return Some(wanted);
        }
        let Some(link) = self.links.get_mut(token) else { return Some(wanted) };
        let peer = peer_of(link, hook == Hook::Play);
        let question = Box::new(Question { hook, key: key.clone(), peer });
        self.next_verdict += 1;
        let serial = self.next_verdict;
        link.role = Role::Judged(serial);
        self.judged.insert(serial, (link.id, wanted));
        let shard = self.shard.id();
        self.events.keeper.tell(ToKeeper::Judge { shard, serial, question });
        None
    }

    /// A connection that waits for a verdict is gone.
    pub(super) fn withdraw_question(&mut self, serial: u64) {
        self.judged.remove(&serial);
        let shard = self.shard.id();
        self.events.keeper.tell(ToKeeper::Withdraw { shard, serial });
    }

    /// The verdict about a connection has come; it may be gone meanwhile.
    pub(super) fn judged(&mut self, serial: u64, verdict: Verdict) {
        let Some((connection, wanted)) = self.judged.remove(&serial) else { return };
        let Some(token) = self.token_of_judged(connection) else { return };
        match (verdict, wanted) {
            (Verdict::Allow, Wanted::Play { key, packaging }) => {
                self.play_allowed(token, key, packaging);
            }
            (Verdict::Allow, Wanted::Publish { key, params }) => {
                self.publish_allowed(token, key, params);
            }
            (Verdict::Deny(text), Wanted::Play { key, .. }) => self.deny_play(token, key, &text),
            (Verdict::Deny(text), Wanted::Publish { .. }) => {
                self.refuse_publish(token, RtmpRefusal::Denied, &text);
            }
        }
        self.act();
    }

    fn token_of_judged(&mut self, connection: ConnectionId) -> Option<Token> {
        let token = *self.by_connection.get(&connection)?;
        let link = self.links.get_mut(token)?;
        if !matches!(link.role, Role::Judged(_)) {
            return None;
        }
        link.role = Role::None;
        Some(token)
    }

    fn deny_play(&mut self, token: Token, key: StreamKey, text: &str) {
        let now = self.now;
        let reason = EndReason::Denied;
        self.tell_not_let_in(token, key, Told::For(reason));
        let Some(link) = self.links.get_mut(token) else { return };
        match &mut link.session {
            Session::Rtmp(session) => session.refuse_play(PlayRefusal::Denied, text),
            Session::Http(session) if session.is_websocket() => {
                session.close_websocket(WS_UNAUTHORIZED, reason.as_str());
            }
            Session::Http(session) => {
                let answered = session.respond(now, Response::text(401, format!("{text}\n")));
                self.drain(token);
                if let Err(error) = answered {
                    self.session_failed(token, &error);
                }
                return;
            }
            Session::Rtsp(_) => {
                self.refuse_rtsp(token, Refusal::Denied);
                return;
            }
            Session::Origin(_) | Session::Destination(_) => return,
        }
        self.drain(token);
        self.finish(token);
    }
}

/// HTTP's code in the range for applications.
const WS_UNAUTHORIZED: u16 = 4401;
