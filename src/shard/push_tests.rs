//! Pushes of one shard on a virtual clock: what it wants done, action by action.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Action, Admitted, PlayRequest, Policy, Shard, Stage};
use crate::bus::message::{Answer, Ask, PushOptions, Ticket};
use crate::bus::view::{PublisherView, PushView};
use crate::clock;
use crate::config::Config;
use crate::egress::flush::{Batch, Shortfall};
use crate::egress::{Socket, Wire};
use crate::journal::{PushRecord, Record};
use crate::media::state::{EndReason, ErrorClass, Fault};
use crate::media::url::Login;
use crate::media::{
    AttemptId, ConnectionId, Form, MediaPart, PushState, ShardId, SourceUrl, StreamKey, TagKind,
};
use crate::proto::rtsp::LowerTransport;
use crate::stream::Packaging;

const HERE: ShardId = ShardId(0);
const URL: &str = "rtmp://cdn/live/out";
const PUBLISHER: ConnectionId = ConnectionId { serial: 1, shard: HERE };

/// A push without end that is acknowledged at once.
pub(super) fn push_options() -> PushOptions {
    PushOptions {
        retries_max: None,
        force: true,
        no_wait: true,
        timeout: Duration::from_secs(10),
        rtp_transport: LowerTransport::Tcp,
    }
}

/// Takes everything.
struct Sink;

impl Wire for Sink {
    fn send(&mut self, _batch: &Batch<'_>, _shortfalls: &mut Vec<Shortfall>) {}
}

/// A shard and what it has said.
struct Scene {
    shard: Shard,
    now: Instant,
    dialed: Vec<AttemptId>,
    hung_up: Vec<AttemptId>,
    answers: Vec<Answer>,
    kept: Vec<Record>,
    admitted: Vec<ConnectionId>,
    ended: Vec<(ConnectionId, EndReason)>,
    /// Sockets do not close.
    stuck: bool,
    connections: u32,
}

impl Scene {
    fn new() -> Self {
        let mut config = Config::default();
        config.pull.retry_jitter_percent = 0;
        let policy = Policy { connects_per_origin_max: 1, ..Policy::of(&config, 1) };
        Self {
            shard: Shard::new(HERE, 1, 7, policy),
            now: clock::now(),
            dialed: Vec::new(),
            hung_up: Vec::new(),
            answers: Vec::new(),
            kept: Vec::new(),
            admitted: Vec::new(),
            ended: Vec::new(),
            stuck: false,
            connections: 1,
        }
    }

    /// With a stream that is registered.
    fn live() -> Self {
        let mut scene = Self::new();
        scene.publish();
        scene
    }

    fn publish(&mut self) {
        let address = "127.0.0.1:1".parse().unwrap();
        let view = PublisherView {
            connection: PUBLISHER,
            form: Form::Flv,
            local: address,
            peer: address,
            params: String::new(),
        };
        let handle = self.shard.publish(self.now, &key(), view).expect("the name is free");
        let begin = MediaPart::Begin { lane: 0, kind: TagKind::Audio, timestamp_ms: 0, len: 3 };
        let data = MediaPart::Data { lane: 0, bytes: (&[0xaf, 1, 2][..]).into() };
        for part in [begin, data] {
            assert!(self.shard.media(self.now, handle, part));
        }
        self.drain();
    }

    fn add(&mut self, url: &str, force: bool, no_wait: bool) {
        let options = PushOptions { force, no_wait, ..push_options() };
        let url = Arc::new(SourceUrl::parse(url, false).unwrap());
        self.ask(Ask::AddPush { key: key(), url, options });
    }

    fn delete(&mut self) {
        let digest = SourceUrl::parse(URL, false).unwrap().digest();
        self.ask(Ask::DeletePush { key: key(), digest });
    }

    fn ask(&mut self, ask: Ask) {
        self.shard.handle_ask(self.now, Ticket { shard: HERE, serial: 1 }, ask);
        self.drain();
    }

    fn views(&mut self) -> Vec<PushView> {
        self.shard.page_of_pushes(self.now, None).0
    }

    #[track_caller]
    fn state(&mut self) -> PushState {
        let views = self.views();
        assert_eq!(views.len(), 1);
        views[0].state
    }

    fn attempt(&self) -> AttemptId {
        *self.dialed.last().expect("it was dialed")
    }

    fn stage(&mut self, stage: Stage) {
        self.shard.attempt_stage(self.now, self.attempt(), stage, "an answer");
        self.drain();
    }

    /// The destination is ready.
    fn join(&mut self) -> bool {
        self.connections += 1;
        let address = "127.0.0.1:1935".parse().unwrap();
        let request = PlayRequest {
            connection: ConnectionId { serial: self.connections, shard: HERE },
            key: key(),
            packaging: Packaging::Rtmp,
            local: address,
            peer: address,
            params: String::new(),
        };
        let joined = self.shard.push_joins(self.now, self.attempt(), request);
        self.drain();
        joined
    }

    /// The attempt that was dialed last gets all the way.
    fn succeed(&mut self) {
        self.stage(Stage::Handshaking);
        assert!(self.join());
        let connection = *self.admitted.last().expect("the stream is there");
        self.shard.push_is_up(self.now, self.attempt());
        let admitted = Admitted { connection, socket: Socket(1), unsent: Bytes::new(), rtp: None };
        self.shard.admitted(self.now, admitted, &mut Sink);
        self.drain();
    }

    /// The attempt that was dialed last fails, and is closed.
    fn fail(&mut self, class: ErrorClass) {
        let attempt = self.attempt();
        self.shard.attempt_failed(self.now, attempt, Fault::new(class, "it failed"));
        self.close(attempt);
        self.drain();
    }

    fn close(&mut self, attempt: AttemptId) {
        let connection = ConnectionId { serial: self.connections, shard: HERE };
        self.shard.leave(connection);
        self.shard.released(connection);
        self.shard.attempt_closed(attempt, 1);
    }

    /// Lets the next timer of the push come due.
    fn wait(&mut self) {
        self.now = self.shard.poll_timeout().expect("a timer is set");
        self.shard.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        self.shard.tick(self.now, &mut Sink);
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Send { message, .. } => {
                    self.shard.handle_message(self.now, HERE, message);
                }
                Action::Answer { answer, .. } => self.answers.push(answer),
                Action::DialPush(dial) => self.dialed.push(dial.attempt),
                Action::HangUp { attempt } => {
                    self.hung_up.push(attempt);
                    if !self.stuck {
                        self.close(attempt);
                    }
                }
                Action::Keep(record) => self.kept.push(record),
                Action::Admit { connection } => self.admitted.push(connection),
                Action::Refuse { connection, reason } | Action::End { connection, reason, .. } => {
                    self.ended.push((connection, reason));
                    self.shard.released(connection);
                    if connection != PUBLISHER {
                        let attempt = self.attempt();
                        self.shard.push_ended(self.now, attempt, reason, 0);
                        self.shard.attempt_closed(attempt, 1);
                    }
                }
                _ => {}
            }
            self.shard.tick(self.now, &mut Sink);
        }
        self.shard.check_invariants();
    }
}

fn key() -> StreamKey {
    StreamKey::in_default_vhost("live", "a").unwrap()
}

#[test]
fn push_is_up_when_its_destination_takes_the_stream_and_counts_as_a_player() {
    let mut scene = Scene::live();
    scene.add(URL, false, false);
    assert!(scene.answers.is_empty() && scene.kept.is_empty());
    assert_eq!(scene.state(), PushState::Resolving);
    scene.stage(Stage::Connecting);
    assert_eq!(scene.state(), PushState::Connecting);
    assert_eq!(scene.shard.ledger().players, 0);
    scene.succeed();
    assert_eq!(scene.state(), PushState::Up);
    assert!(matches!(scene.answers[..], [Answer::PushAdded { state: PushState::Up, .. }]));
    assert!(matches!(scene.kept[..], [Record::AddPush(_)]));
    assert_eq!((scene.shard.ledger().players, scene.shard.ledger().pushes), (1, 1));
}

#[test]
fn first_failure_ends_a_push_that_was_not_to_stay() {
    let mut scene = Scene::live();
    scene.add(URL, false, false);
    scene.fail(ErrorClass::Refused);
    let [Answer::AddFailed(fault)] = &scene.answers[..] else { panic!("one answer") };
    assert_eq!(fault.class, ErrorClass::Refused);
    assert!(scene.views().is_empty() && scene.kept.is_empty());
    assert_eq!(scene.shard.ledger().timers, 1, "the publisher's");
}

#[test]
fn destination_that_is_lost_is_tried_again_and_again() {
    let mut scene = Scene::live();
    scene.add(URL, false, false);
    scene.succeed();
    for round in 1..=3 {
        scene.fail(ErrorClass::Lost);
        assert_eq!(scene.state(), PushState::BackingOff);
        assert_eq!(scene.views()[0].next_retry_ms, 2000);
        scene.wait();
        assert_eq!(scene.dialed.len(), round + 1);
        scene.succeed();
        assert_eq!(scene.views()[0].returns, round as u32);
    }
    assert_eq!(scene.shard.totals().push_losses, 3);
}

#[test]
fn push_waits_for_its_stream_and_asks_nobody_for_it() {
    let mut scene = Scene::new();
    scene.add(URL, false, false);
    assert!(matches!(scene.answers[..], [Answer::NoSource]));
    scene.add(URL, true, false);
    assert_eq!(scene.state(), PushState::AwaitingSource);
    assert_eq!(scene.shard.pending_count(), 0, "the key is not asked for");
    assert_eq!(scene.shard.ledger().waiters, 0);
    scene.publish();
    assert_eq!(scene.dialed.len(), 1);
    scene.succeed();
    assert_eq!(scene.state(), PushState::Up);
    scene.shard.unpublish(scene.now, PUBLISHER, true);
    scene.drain();
    assert_eq!(scene.ended.last().map(|ended| ended.1), Some(EndReason::Unpublished));
    assert_eq!(scene.state(), PushState::AwaitingSource);
    assert_eq!(scene.shard.pending_count(), 0);
    scene.publish();
    scene.succeed();
    let view = &scene.views()[0];
    assert_eq!((view.returns, view.attempts, view.last_fault.as_ref()), (1, 2, None));
}

#[test]
fn push_keeps_its_connection_while_its_stream_blips() {
    let mut scene = Scene::live();
    scene.add(URL, false, false);
    scene.succeed();
    scene.shard.unpublish(scene.now, PUBLISHER, false);
    scene.drain();
    assert_eq!(scene.state(), PushState::Up);
    scene.publish();
    assert_eq!((scene.state(), scene.dialed.len()), (PushState::Up, 1));
}

#[test]
fn destination_that_is_ready_when_the_stream_is_gone_is_left() {
    let mut scene = Scene::live();
    scene.add(URL, true, true);
    scene.stage(Stage::Handshaking);
    scene.shard.unpublish(scene.now, PUBLISHER, true);
    scene.drain();
    assert!(!scene.join());
    scene.close(scene.attempt());
    assert_eq!(scene.state(), PushState::AwaitingSource);
    assert_eq!((scene.shard.pending_count(), scene.shard.ledger().timers), (0, 0));
}

#[test]
fn add_of_a_push_that_is_there_is_answered_at_once() {
    let mut scene = Scene::live();
    scene.add(URL, false, false);
    scene.add(URL, false, false);
    let [Answer::PushAdded { state, .. }] = scene.answers[..] else { panic!("the second") };
    assert_eq!((state, scene.dialed.len()), (PushState::Resolving, 1));
    scene.fail(ErrorClass::Refused);
    assert_eq!(scene.state(), PushState::BackingOff, "it was acknowledged");
    assert!(matches!(scene.kept[..], [Record::AddPush(_)]));
}

#[test]
fn delete_ends_a_push_at_every_stage() {
    let steps: [fn(&mut Scene); 6] = [
        |_| {},
        |scene| scene.stage(Stage::Connecting),
        |scene| scene.stage(Stage::Handshaking),
        |scene| {
            scene.stage(Stage::Handshaking);
            assert!(scene.join());
        },
        Scene::succeed,
        |scene| scene.fail(ErrorClass::Refused),
    ];
    for (index, step) in steps.into_iter().enumerate() {
        let mut scene = Scene::live();
        let before = scene.shard.ledger();
        scene.add(URL, true, true);
        step(&mut scene);
        scene.answers.clear();
        scene.stuck = true;
        scene.delete();
        assert!(scene.views().is_empty(), "{index}: it is out of its table");
        let is_dialed = index != 5;
        assert_eq!(scene.answers.is_empty(), is_dialed, "{index}: answered when all is closed");
        if is_dialed {
            assert_eq!(scene.hung_up, scene.dialed);
            scene.close(scene.attempt());
            scene.drain();
        }
        let [Answer::Deleted(Some(closed))] = scene.answers[..] else { panic!("{index}") };
        assert_eq!(closed.released.sockets, u32::from(is_dialed), "{index}");
        assert!(closed.complete);
        assert!(matches!(scene.kept[..], [Record::AddPush(_), Record::RemovePush { .. }]));
        let mut after = scene.shard.ledger();
        after.log_bytes = before.log_bytes;
        assert_eq!(after, before, "{index}");
        assert_eq!(scene.shard.pushes.budget.len(), 0, "{index}");
    }
}

#[test]
fn delete_answers_the_add_that_waits() {
    let mut scene = Scene::live();
    scene.add(URL, false, false);
    scene.delete();
    assert!(matches!(scene.answers[..], [Answer::AddCancelled, Answer::Deleted(Some(_))]));
}

#[test]
fn silent_destination_fails_with_what_was_awaited() {
    let mut scene = Scene::live();
    scene.add(URL, true, true);
    scene.stage(Stage::Handshaking);
    scene.wait();
    let fault = scene.views()[0].last_fault.clone().expect("it failed");
    assert_eq!(fault.class, ErrorClass::Silent);
    assert!(fault.text.contains("an answer"), "{}", fault.text);
    assert_eq!(scene.hung_up, scene.dialed);
}

#[test]
fn pushes_of_a_stream_share_the_budget_of_a_destination_only() {
    let mut scene = Scene::live();
    for url in [URL, "rtmp://cdn/live/out2", "rtmp://other/live/out"] {
        scene.add(url, true, true);
    }
    let states: Vec<PushState> = scene.views().iter().map(|view| view.state).collect();
    assert_eq!(states, [PushState::Resolving, PushState::Queued, PushState::Resolving]);
    let first = scene.dialed[0];
    scene.shard.attempt_failed(scene.now, first, Fault::new(ErrorClass::Refused, "no"));
    scene.shard.attempt_closed(first, 1);
    scene.drain();
    assert_eq!(scene.views()[1].state, PushState::Resolving);
}

#[test]
fn kept_pushes_come_back_and_wait_and_a_shut_down_keeps_them() {
    let mut scene = Scene::new();
    let record = PushRecord {
        key: key().as_str().to_owned(),
        url: URL.to_owned(),
        login: None,
        retries_max: Some(3),
        timeout_ms: 4_000,
        over_udp: false,
    };
    let broken = PushRecord { url: "x".to_owned(), ..record.clone() };
    let records = [record, broken];
    let (count, refused) = scene.shard.restore_pushes(scene.now, &records);
    assert_eq!((count, refused.len()), (1, 1));
    assert_eq!(scene.state(), PushState::AwaitingSource);
    scene.publish();
    scene.fail(ErrorClass::Refused);
    assert_eq!(scene.state(), PushState::BackingOff);
    scene.shard.shut_down(scene.now);
    scene.drain();
    assert!(scene.kept.is_empty() && scene.views().is_empty());
}

#[test]
fn login_of_a_push_comes_back_with_it() {
    let login = Login { user: "u".to_owned(), password: "p".to_owned() };
    let url = SourceUrl::parse("rtsp://cdn/live/out", false).unwrap();
    let url = Arc::new(url.with_login(Some(login.clone())));
    let mut scene = Scene::new();
    scene.ask(Ask::AddPush { key: key(), url: url.clone(), options: push_options() });
    let [Record::AddPush(kept)] = &scene.kept[..] else { panic!("{:?}", scene.kept) };
    assert_eq!(kept.login, Some(login));
    let records = [kept.clone()];
    let mut scene = Scene::new();
    assert_eq!(scene.shard.restore_pushes(scene.now, &records).0, 1);
    assert_eq!(scene.views()[0].url, url);
}

#[test]
fn push_that_gives_up_is_taken_out_of_the_journal() {
    let mut scene = Scene::live();
    let options = PushOptions { retries_max: Some(0), ..push_options() };
    let url = Arc::new(SourceUrl::parse(URL, false).unwrap());
    scene.ask(Ask::AddPush { key: key(), url, options });
    scene.fail(ErrorClass::Refused);
    assert!(scene.views().is_empty());
    assert!(matches!(scene.kept[..], [Record::AddPush(_), Record::RemovePush { .. }]));
}
