//! When a stream that nobody plays is told of and closed, on a virtual clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::push_tests::push_options;
use super::{Action, Policy, Shard};
use crate::bus::event::{End, What};
use crate::bus::message::{
    Answer, Ask, CloseOutcome, IdleClose, LocalId, Message, PullOptions, Ticket,
};
use crate::bus::view::PublisherView;
use crate::clock;
use crate::config::Config;
use crate::limits::IDLE_TOLD_PER_TURN;
use crate::media::state::{EndReason, ErrorClass, Fault};
use crate::media::{
    AttemptId, ConnectionId, Form, MediaPart, ShardId, SourceUrl, StreamKey, TagKind,
};
use crate::proto::rtsp::LowerTransport;

const HERE: ShardId = ShardId(0);
const THERE: ShardId = ShardId(1);
/// `stream.none_reader_delay_ms`.
const DELAY: Duration = Duration::from_secs(20);

/// A registered pull on a shard that owns it, whose players are all on the other one.
struct Scene {
    shard: Shard,
    key: StreamKey,
    now: Instant,
    attempt: Option<AttemptId>,
    presence: u64,
    outcome: Option<CloseOutcome>,
    /// Names of what was told.
    told: Vec<String>,
}

impl Scene {
    fn new(idle_close: IdleClose, change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy::of(&Config::default(), 2);
        assert_eq!(policy.none_reader_delay, DELAY);
        change(&mut policy);
        let mut shard = Shard::new(HERE, 2, 7, policy);
        shard.keep_events();
        let keys = (0..).map(|n| StreamKey::in_default_vhost("live", &format!("s{n}")).unwrap());
        let key = { keys }.find(|key| shard.owner_of(key) == HERE).unwrap();
        let now = clock::now();
        let (told, presence) = (Vec::new(), 0);
        let mut scene = Self { shard, key, now, attempt: None, presence, outcome: None, told };
        let options = PullOptions {
            retries_max: None,
            force: true,
            no_wait: true,
            timeout: Duration::from_secs(10),
            media_timeout: Duration::from_secs(3600),
            hedge: Duration::ZERO,
            rtp_transport: LowerTransport::Tcp,
            idle_close,
            asked_by: None,
        };
        let urls = vec![Arc::new(SourceUrl::parse("rtmp://origin/live/a", false).unwrap())];
        scene.ask(Ask::AddPull { key: scene.key.clone(), urls, options });
        scene.media();
        scene
    }

    fn ask(&mut self, ask: Ask) {
        self.shard.handle_ask(self.now, Ticket { shard: HERE, serial: 1 }, ask);
        self.drain();
    }

    fn media(&mut self) {
        let begin = MediaPart::Begin { lane: 0, kind: TagKind::Audio, timestamp_ms: 0, len: 3 };
        let data = MediaPart::Data { lane: 0, bytes: (&[0xaf, 1, 2][..]).into() };
        let attempt = self.attempt.expect("it was dialed");
        for part in [begin, data] {
            assert!(self.shard.attempt_media(self.now, attempt, part));
        }
        self.drain();
    }

    /// The source is lost and comes back.
    fn blip(&mut self) {
        let attempt = self.attempt.expect("it was dialed");
        self.shard.attempt_failed(self.now, attempt, Fault::new(ErrorClass::Lost, "lost"));
        self.shard.attempt_closed(attempt, 1);
        self.now = self.shard.poll_timeout().expect("a retry");
        self.shard.handle_timeout(self.now);
        self.drain();
        self.media();
    }

    /// The other shard has so many players and waiters in a form.
    fn interest(&mut self, form: Form, (players, waiters): (u32, u32)) {
        let local = LocalId { shard: THERE, form, slot: 0, serial: self.presence };
        self.presence += u64::from(players + waiters == 0);
        let message =
            Message::Interest { key: self.key.clone(), local, players, waiters, askings: vec![] };
        self.shard.handle_message(self.now, THERE, message);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.shard.handle_timeout(self.now);
        self.drain();
    }

    /// The hook has answered `close:true`.
    fn hook_says_close(&mut self) -> CloseOutcome {
        let generation = self.shard.tables.find(&self.key).map(|handle| handle.generation);
        self.ask(Ask::CloseIdle { key: self.key.clone(), generation });
        self.outcome.take().expect("it was answered")
    }

    fn drain(&mut self) {
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Dial { attempt, .. } => self.attempt = Some(attempt),
                Action::HangUp { attempt } => self.shard.attempt_closed(attempt, 1),
                Action::Send { message: Message::End { key, local, generation, .. }, .. } => {
                    let released = Default::default();
                    let message = Message::Released { key, local, generation, released };
                    self.shard.handle_message(self.now, THERE, message);
                }
                Action::Answer { answer: Answer::Close(outcome), .. } => {
                    self.outcome = Some(outcome);
                }
                _ => {}
            }
        }
        self.told.extend(self.shard.take_events().into_iter().map(|event| match event.what {
            What::Ended { reason: End::For(reason), .. } => reason.as_str().to_owned(),
            what => what.name().to_owned(),
        }));
        self.shard.check_invariants();
    }

    fn lives(&self) -> bool {
        self.shard.tables.find(&self.key).is_some()
    }

    /// How often a hook was told that nobody plays it.
    fn unwatched(&self) -> usize {
        self.told.iter().filter(|what| *what == "unwatched").count()
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn after(seconds: u64) -> IdleClose {
    IdleClose { after: Some(SECOND * seconds as u32), always: None }
}

#[test]
fn unwatched_stream_is_told_once_and_stays() {
    let mut scene = Scene::new(IdleClose::default(), |_| {});
    scene.pass(DELAY - SECOND);
    assert_eq!(scene.unwatched(), 0);
    for _ in 0..5 {
        scene.pass(DELAY);
        assert_eq!((scene.unwatched(), scene.lives()), (1, true));
    }
}

#[test]
fn idle_pull_is_closed_after_its_own_time() {
    let mut scene = Scene::new(after(5), |_| {});
    scene.pass(SECOND * 4);
    assert!(scene.lives());
    scene.pass(SECOND);
    assert!(!scene.lives());
    assert_eq!(scene.told[scene.told.len() - 2..], ["unwatched", EndReason::Idle.as_str()]);
    assert!(scene.shard.ledger().is_zero(), "{}", scene.shard.ledger());
}

#[test]
fn auto_close_is_the_rule_of_all_or_of_one_pull() {
    let never = IdleClose { after: None, always: Some(false) };
    let always = IdleClose { after: None, always: Some(true) };
    for (of_pull, of_all, closes) in [
        (IdleClose::default(), true, true),
        (never, true, false),
        (always, false, true),
        (IdleClose::default(), false, false),
    ] {
        let mut scene = Scene::new(of_pull, |policy| {
            policy.auto_close = of_all;
            policy.none_reader_is_asked = true;
        });
        scene.pass(DELAY);
        assert_eq!((scene.unwatched(), !scene.lives()), (1, closes), "{of_pull:?} {of_all}");
    }
}

#[test]
fn hook_decides_where_one_is_set() {
    let mut scene = Scene::new(after(5), |policy| policy.none_reader_is_asked = true);
    assert_eq!(scene.hook_says_close(), CloseOutcome::HasPlayers, "it was not asked");
    scene.pass(SECOND * 5);
    assert_eq!((scene.unwatched(), scene.lives()), (1, true));
    assert!(matches!(scene.hook_says_close(), CloseOutcome::Closed(_)));
    assert_eq!(scene.told.last().unwrap(), "idle");
}

/// The hook is not reached, does not take it, or is switched off before it is told.
#[test]
fn without_a_word_of_the_hook_the_pull_itself_decides() {
    const ANSWER: Duration = Duration::from_secs(30);
    let asked = |policy: &mut Policy| {
        assert_eq!(policy.none_reader_answer, ANSWER);
        policy.none_reader_is_asked = true;
    };
    let mut scene = Scene::new(after(5), asked);
    scene.pass(SECOND * 5);
    scene.shard.set_policy(Policy { none_reader_delay: SECOND, ..scene.shard.policy });
    scene.pass(ANSWER - Duration::from_millis(1));
    assert_eq!((scene.unwatched(), scene.lives()), (1, true));
    scene.pass(Duration::from_millis(1));
    assert_eq!((scene.lives(), scene.told.last().unwrap().as_str()), (false, "idle"));
    assert!(scene.shard.ledger().is_zero(), "{}", scene.shard.ledger());
    // One that nobody but the hook may close.
    let mut scene = Scene::new(IdleClose::default(), asked);
    scene.pass(DELAY);
    scene.pass(ANSWER * 10);
    assert_eq!((scene.unwatched(), scene.lives()), (1, true));
}

#[test]
fn hook_that_lets_it_be_player_and_loss_end_the_wait_for_its_word() {
    let ask = |scene: &mut Scene| {
        scene.pass(SECOND * 5);
        assert_eq!((scene.unwatched(), scene.lives()), (1, true));
    };
    let asked = |policy: &mut Policy| policy.none_reader_is_asked = true;
    let [mut kept, mut played, mut lost] = [(); 3].map(|()| Scene::new(after(5), asked));
    ask(&mut kept);
    kept.ask(Ask::KeepIdle { key: kept.key.clone(), generation: None });
    kept.pass(SECOND * 100);
    assert_eq!((kept.unwatched(), kept.lives()), (1, true));
    assert!(matches!(kept.hook_says_close(), CloseOutcome::Closed(_)), "a second answer counts");
    ask(&mut played);
    played.interest(Form::Flv, (1, 0));
    played.ask(Ask::KeepIdle { key: played.key.clone(), generation: None });
    played.pass(SECOND * 100);
    assert!(played.lives());
    played.interest(Form::Flv, (0, 0));
    played.pass(SECOND * 5);
    assert_eq!((played.unwatched(), played.lives()), (2, true), "asked anew");
    played.pass(SECOND * 30);
    assert!(!played.lives());
    ask(&mut lost);
    lost.blip();
    lost.pass(SECOND * 30);
    assert_eq!((lost.unwatched(), lost.lives()), (2, true), "asked anew, and its time begins anew");
    lost.pass(SECOND * 30);
    assert!(!lost.lives());
}

#[test]
fn players_and_waiters_of_other_shards_and_forms_count() {
    for (form, counts) in [(Form::Flv, (1, 0)), (Form::Flv, (0, 1)), (Form::Rtp, (0, 1))] {
        let mut scene = Scene::new(after(5), |_| {});
        scene.interest(form, counts);
        scene.pass(SECOND * 60);
        assert_eq!((scene.unwatched(), scene.lives()), (0, true), "{form:?} {counts:?}");
        scene.interest(form, (0, 0));
        scene.pass(SECOND * 4);
        assert!(scene.lives(), "the time begins when the last one has gone");
        scene.pass(SECOND);
        assert!(!scene.lives(), "{form:?} {counts:?}");
    }
}

#[test]
fn player_between_question_and_answer_saves_the_stream_also_when_it_has_left() {
    let mut scene = Scene::new(IdleClose::default(), |policy| policy.none_reader_is_asked = true);
    scene.pass(DELAY);
    scene.interest(Form::Flv, (1, 0));
    assert_eq!(scene.hook_says_close(), CloseOutcome::HasPlayers);
    scene.interest(Form::Flv, (0, 0));
    assert_eq!(scene.hook_says_close(), CloseOutcome::HasPlayers);
    scene.pass(DELAY - SECOND);
    assert_eq!(scene.unwatched(), 1);
    scene.pass(SECOND);
    assert_eq!(scene.unwatched(), 2, "it is asked again");
    assert!(matches!(scene.hook_says_close(), CloseOutcome::Closed(_)));
}

#[test]
fn source_that_comes_and_goes_does_not_set_the_time_back() {
    let mut scene = Scene::new(after(30), |_| {});
    scene.pass(SECOND * 20);
    scene.blip();
    scene.pass(SECOND * 10);
    assert!(!scene.lives());
}

#[test]
fn pending_pull_is_not_closed_for_being_idle() {
    let mut scene = Scene::new(after(5), |_| {});
    let attempt = scene.attempt.expect("it was dialed");
    scene.shard.attempt_failed(scene.now, attempt, Fault::new(ErrorClass::Lost, "lost"));
    scene.pass(SECOND * 60);
    assert!(scene.lives());
}

#[test]
fn stream_that_is_pushed_is_not_idle() {
    let mut scene = Scene::new(after(5), |_| {});
    let url = Arc::new(SourceUrl::parse("rtmp://other/live/a", false).unwrap());
    let (key, digest) = (scene.key.clone(), url.digest());
    scene.ask(Ask::AddPush { key: key.clone(), url, options: push_options() });
    for _ in 0..10 {
        scene.pass(SECOND * 6);
        assert_eq!((scene.unwatched(), scene.lives()), (0, true));
    }
    scene.ask(Ask::DeletePush { key, digest });
    scene.pass(SECOND * 4);
    assert!(scene.lives(), "the time begins when it is not pushed any more");
    scene.pass(SECOND);
    assert!(!scene.lives());
}

#[test]
fn another_delay_holds_for_those_that_wait_already() {
    let mut scene = Scene::new(IdleClose::default(), |_| {});
    scene.pass(SECOND * 5);
    let mut policy = Policy::of(&Config::default(), 2);
    policy.none_reader_delay = SECOND * 6;
    scene.shard.set_policy(policy);
    scene.pass(SECOND - Duration::from_millis(1));
    assert_eq!(scene.unwatched(), 0);
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.unwatched(), 1);
}

#[test]
fn many_idle_streams_are_told_in_turns() {
    let mut policy = Policy::of(&Config::default(), 1);
    policy.auto_close = true;
    policy.publisher_silence = DELAY * 2;
    let mut shard = Shard::new(HERE, 1, 7, policy);
    let now = clock::now();
    for serial in 0..IDLE_TOLD_PER_TURN as u32 * 2 + 1 {
        let connection = ConnectionId { serial, shard: HERE };
        let key = StreamKey::in_default_vhost("live", &format!("s{serial}")).unwrap();
        let ends = SocketAddr::from(([127, 0, 0, 1], 1));
        let (form, params) = (Form::Flv, String::new());
        let view = PublisherView { connection, form, local: ends, peer: ends, params };
        let handle = shard.publish(now, &key, view).unwrap();
        let begin = MediaPart::Begin { lane: 0, kind: TagKind::Audio, timestamp_ms: 0, len: 3 };
        let data = MediaPart::Data { lane: 0, bytes: (&[0xaf, 1, 2][..]).into() };
        assert!([begin, data].into_iter().all(|part| shard.media(now, handle, part)));
    }
    let due = now + DELAY;
    let left = std::iter::from_fn(|| {
        shard.handle_timeout(due);
        shard.check_invariants();
        shard.poll_timeout().filter(|at| *at <= due).map(|_| shard.registered_count())
    });
    assert_eq!(left.collect::<Vec<_>>(), [IDLE_TOLD_PER_TURN + 1, 1]);
    assert_eq!(shard.registered_count(), 0);
}
