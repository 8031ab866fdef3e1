//! The shards, their bus, and what stands for `net`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Dial, HERE};
use crate::bus::message::{Answer, Ask, Message, NodeAsk, Ticket};
use crate::bus::view::{LoadView, SessionView};
use crate::config::Config;
use crate::egress::flush::{Batch, Shortfall};
use crate::egress::{Socket, Wire};
use crate::media::state::EndReason;
use crate::media::{ConnectionId, ShardId};
use crate::metrics;
use crate::shard::{Action, Admitted, PushDial, Shard};

/// Two shards and everything around them.
pub(super) struct World {
    pub(super) shards: Vec<Shard>,
    pub(super) now: Instant,
    pub(super) config: Arc<Config>,
    pub(super) ready: bool,
    pub(super) persisted: bool,
    /// Answers that waited for the journal.
    pub(super) synced: usize,
    /// Shards that answer nothing.
    pub(super) frozen: HashSet<ShardId>,
    /// Sockets of attempts and connections do not close.
    pub(super) stuck: bool,
    pub(super) messages: VecDeque<(ShardId, ShardId, Message)>,
    pub(super) answers: HashMap<u64, Answer>,
    pub(super) serial: u64,
    /// Questions that are not answered, and the most that there were.
    pub(super) open_asks: (usize, usize),
    pub(super) bounds: Vec<Duration>,
    pub(super) dials: Vec<Dial>,
    pub(super) sessions: HashMap<ConnectionId, SessionView>,
    pub(super) ended: Vec<(ConnectionId, EndReason)>,
}

impl World {
    pub(super) fn post(&mut self, to: ShardId, ask: Ask, bound: Duration) -> u64 {
        self.serial += 1;
        let ticket = Ticket { shard: HERE, serial: self.serial };
        self.bounds.push(bound);
        self.open_asks.0 += 1;
        self.open_asks.1 = self.open_asks.1.max(self.open_asks.0);
        self.messages.push_back((HERE, to, Message::Ask { ticket, ask }));
        self.serial
    }

    /// Carries messages and does actions until there are none.
    pub(super) fn pump(&mut self) {
        loop {
            let now = self.now;
            for index in 0..self.shards.len() {
                self.shards[index].tick(now, &mut Sink);
                while let Some(action) = self.shards[index].poll_action() {
                    self.act(ShardId(index as u16), action);
                }
            }
            let Some((from, to, message)) = self.messages.pop_front() else { return };
            match message {
                Message::Ask { ticket, ask: Ask::Node(ask) } => {
                    let answer = self.answer_for_net(to, ask);
                    self.answers.insert(ticket.serial, answer);
                }
                message => self.shards[to.index()].handle_message(now, from, message),
            }
        }
    }

    fn answer_for_net(&mut self, shard: ShardId, ask: NodeAsk) -> Answer {
        match ask {
            NodeAsk::Sessions => {
                let here = self.sessions.values().filter(|view| view.connection.shard == shard);
                let mut here: Vec<SessionView> = here.cloned().collect();
                here.sort_by_key(|view| view.connection);
                Answer::Sessions(here)
            }
            NodeAsk::Metrics => {
                let of = &self.shards[shard.index()];
                let mut ledger = of.ledger();
                ledger.sockets = 5;
                Answer::Metrics(metrics::of_shard(self.now, of, &ledger))
            }
            NodeAsk::Load => Answer::Load(LoadView { percent: 7, delay_ms: 1, fd_count: 9 }),
            NodeAsk::Configure => {
                self.shards[shard.index()].configure(self.now, &self.config);
                Answer::Done
            }
            NodeAsk::Tcp { .. } => Answer::Tcp(None),
            NodeAsk::Kick { connection } => {
                let is_here = connection.shard == shard;
                Answer::Kicked(is_here && self.sessions.remove(&connection).is_some())
            }
        }
    }

    fn act(&mut self, id: ShardId, action: Action) {
        let now = self.now;
        let shard = &mut self.shards[id.index()];
        match action {
            Action::Send { to, message } => self.messages.push_back((id, to, message)),
            Action::Answer { ticket, answer } => {
                assert_eq!(ticket.shard, id, "an answer comes where it is awaited");
                self.answers.insert(ticket.serial, answer);
            }
            Action::Admit { connection } => {
                let admitted =
                    Admitted { connection, socket: Socket(1), unsent: Bytes::new(), rtp: None };
                shard.admitted(now, admitted, &mut Sink);
            }
            Action::Refuse { connection, reason } | Action::End { connection, reason, .. } => {
                self.ended.push((connection, reason));
                if !self.stuck {
                    shard.released(connection);
                }
            }
            Action::Dial { attempt, url, rtp_transport, timeout, .. } => {
                self.dials.push(Dial { shard: id, attempt, url, rtp_transport, timeout });
            }
            Action::DialPush(PushDial { attempt, url, rtp_transport, .. }) => {
                let timeout = Duration::ZERO;
                self.dials.push(Dial { shard: id, attempt, url, rtp_transport, timeout });
            }
            Action::HangUp { attempt } => {
                if !self.stuck {
                    shard.attempt_closed(attempt, 1);
                }
            }
            Action::PollWritable { .. } | Action::Tell(_) | Action::Keep(_) => {}
        }
    }
}

/// Takes everything.
struct Sink;

impl Wire for Sink {
    fn send(&mut self, _batch: &Batch<'_>, _shortfalls: &mut Vec<Shortfall>) {}
}
