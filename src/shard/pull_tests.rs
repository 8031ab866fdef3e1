//! Pulls of one shard on a virtual clock: what it wants done, action by action.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bus_tests::NoPlayers;
use super::{Action, PlayRequest, Policy, PullNews, Shard, Stage};
use crate::bus::message::{Answer, Ask, IdleClose, PullOptions, Ticket};
use crate::clock;
use crate::config::Config;
use crate::journal::{PullRecord, Record};
use crate::limits::REDIRECTS_MAX;
use crate::media::state::{ErrorClass, Fault, StreamState};
use crate::media::url::Login;
use crate::media::{AttemptId, ConnectionId, MediaPart, ShardId, SourceUrl, StreamKey, TagKind};
use crate::proto::rtsp::LowerTransport;
use crate::stream::Packaging;

pub(super) const HERE: ShardId = ShardId(0);
pub(super) const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// A shard and what it has said.
pub(super) struct Scene {
    pub(super) shard: Shard,
    pub(super) now: Instant,
    pub(super) dialed: Vec<(AttemptId, String)>,
    pub(super) hung_up: Vec<AttemptId>,
    told: Vec<PullNews>,
    pub(super) kept: Vec<Record>,
    pub(super) answers: Vec<Answer>,
    pub(super) admitted: Vec<ConnectionId>,
    /// Players that were ended or refused.
    pub(super) ended: Vec<ConnectionId>,
}

impl Scene {
    /// So many connects may be under way to one origin.
    pub(super) fn new(connects_per_origin_max: usize) -> Self {
        let policy = Policy { connects_per_origin_max, ..Policy::of(&Config::default(), 1) };
        Self {
            shard: Shard::new(HERE, 1, 7, policy),
            now: clock::now(),
            dialed: Vec::new(),
            hung_up: Vec::new(),
            told: Vec::new(),
            kept: Vec::new(),
            answers: Vec::new(),
            admitted: Vec::new(),
            ended: Vec::new(),
        }
    }

    pub(super) fn play(&mut self, stream: &str, serial: u32, packaging: Packaging) {
        let (local, peer, params) = (NOWHERE, NOWHERE, String::new());
        let connection = ConnectionId { serial, shard: HERE };
        let request = PlayRequest { connection, key: key(stream), packaging, local, peer, params };
        self.shard.play(self.now, request);
        self.turn();
    }

    /// What the driver does once it has read what there is.
    pub(super) fn turn(&mut self) {
        self.shard.tick(self.now, &mut NoPlayers);
        self.drain();
    }

    fn add(&mut self, stream: &str, url: &str, retries_max: Option<u32>) {
        let options = PullOptions {
            retries_max,
            force: true,
            no_wait: true,
            timeout: TIMEOUT,
            media_timeout: TIMEOUT,
            hedge: Duration::ZERO,
            rtp_transport: LowerTransport::Tcp,
            idle_close: IdleClose::default(),
            asked_by: None,
        };
        let urls = vec![Arc::new(SourceUrl::parse(url, false).unwrap())];
        self.ask(Ask::AddPull { key: key(stream), urls, options });
    }

    pub(super) fn delete(&mut self, stream: &str) {
        self.ask(Ask::DeletePull { key: key(stream) });
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        self.shard.handle_ask(self.now, Ticket { shard: HERE, serial: 1 }, ask);
        self.drain();
    }

    /// Lets the next timer come due.
    pub(super) fn wait(&mut self) {
        self.now = self.shard.poll_timeout().expect("a timer is set");
        self.shard.handle_timeout(self.now);
        self.drain();
    }

    fn wait_for_a_dial(&mut self) {
        while self.dialed.is_empty() {
            self.wait();
        }
    }

    pub(super) fn stage(&mut self, stage: Stage) {
        self.shard.attempt_stage(self.now, self.attempt(), stage, "an answer");
        self.drain();
    }

    /// The attempt that was dialed last fails, and is closed.
    pub(super) fn fail(&mut self, class: ErrorClass) {
        self.fail_attempt(self.attempt(), class);
    }

    pub(super) fn fail_attempt(&mut self, attempt: AttemptId, class: ErrorClass) {
        self.shard.attempt_failed(self.now, attempt, Fault::new(class, "it failed"));
        self.shard.attempt_closed(attempt, 1);
        self.drain();
    }

    /// The attempt that was dialed last is sent elsewhere.
    pub(super) fn redirect(&mut self, url: &str) {
        let attempt = self.attempt();
        let url = Arc::new(SourceUrl::parse(url, true).unwrap());
        self.shard.attempt_redirected(self.now, attempt, url);
        self.shard.attempt_closed(attempt, 1);
        self.drain();
    }

    /// A frame of audio comes.
    pub(super) fn media(&mut self) {
        self.tag_of(self.attempt(), TagKind::Audio, &[0xaf, 1, 2]);
    }

    /// A tag of an attempt comes.
    pub(super) fn tag_of(&mut self, attempt: AttemptId, kind: TagKind, payload: &'static [u8]) {
        let len = payload.len() as u32;
        let begin = MediaPart::Begin { lane: 0, kind, timestamp_ms: 0, len };
        let data = MediaPart::Data { lane: 0, bytes: payload.into() };
        for part in [begin, data] {
            assert!(self.shard.attempt_media(self.now, attempt, part));
        }
        self.drain();
    }

    fn attempt(&self) -> AttemptId {
        self.dialed.last().expect("it was dialed").0
    }

    pub(super) fn drain(&mut self) {
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Dial { attempt, url, .. } => self.dialed.push((attempt, url.authority())),
                Action::HangUp { attempt } => {
                    self.hung_up.push(attempt);
                    self.shard.attempt_closed(attempt, 1);
                }
                Action::Tell(news) => self.told.push(news),
                Action::Keep(record) => self.kept.push(record),
                Action::Answer { answer, .. } => self.answers.push(answer),
                Action::Send { message, .. } => self.shard.handle_message(self.now, HERE, message),
                Action::Admit { connection } => self.admitted.push(connection),
                Action::Refuse { connection, .. } | Action::End { connection, .. } => {
                    self.ended.push(connection);
                    self.shard.released(connection);
                }
                _ => {}
            }
        }
        self.shard.check_invariants();
    }

    pub(super) fn state_of(&self, stream: &str) -> StreamState {
        self.shard.state_of(self.shard.tables.find(&key(stream)).expect("it is there"))
    }

    /// Hosts that were dialed, in order.
    pub(super) fn hosts(&self) -> Vec<&str> {
        self.dialed.iter().map(|(_, url)| url.split(':').next().unwrap()).collect()
    }

    pub(super) fn assert_nothing_is_left(&self) {
        let ledger = self.shard.ledger();
        assert!(ledger.is_zero(), "{ledger}");
        assert_eq!(self.shard.origins_dialed(), 0);
    }
}

pub(super) fn key(stream: &str) -> StreamKey {
    StreamKey::in_default_vhost("live", stream).unwrap()
}

/// The kind of news with its class and numbers.
fn told(news: &PullNews) -> (&'static str, &'static str, u32) {
    match news {
        PullNews::Failed { fault, attempt, .. } => ("failed", fault.class.as_str(), *attempt),
        PullNews::FailedAgain => ("again", "", 0),
        PullNews::UpdateFailed { fault, .. } => ("update failed", fault.class.as_str(), 0),
        PullNews::GaveUp { fault, failures, .. } => ("gave up", fault.class.as_str(), *failures),
        PullNews::Recovered { failures, .. } => ("recovered", "", *failures),
    }
}

#[test]
fn failures_are_told_where_they_change_and_when_they_end() {
    let mut scene = Scene::new(1);
    scene.add("a", "rtmp://origin/live/a", None);
    for class in [ErrorClass::Refused, ErrorClass::Refused, ErrorClass::NotFound] {
        scene.fail(class);
        scene.wait();
    }
    // An attempt whose time runs out is a failure like another.
    scene.stage(Stage::Connecting);
    scene.wait();
    scene.wait();
    scene.stage(Stage::Connecting);
    scene.wait();
    assert_eq!(scene.hung_up.len(), 2);
    scene.wait();
    scene.media();
    scene.fail(ErrorClass::Lost);
    scene.wait();
    scene.media();
    let news: Vec<_> = scene.told.iter().map(told).collect();
    let expected = [
        ("failed", "refused", 1),
        ("again", "", 0),
        ("failed", "not_found", 3),
        ("failed", "timed_out", 4),
        ("again", "", 0),
        ("recovered", "", 5),
        ("failed", "lost", 6),
        ("recovered", "", 1),
    ];
    assert_eq!(news, expected);
    let PullNews::Failed { key: of, origin, next_try, .. } = &scene.told[0] else { panic!() };
    assert_eq!((of, origin.as_str()), (&key("a"), "origin:1935"));
    assert!(!next_try.is_zero());
}

#[test]
fn giving_up_is_told_once_with_the_number_of_failures() {
    let mut scene = Scene::new(1);
    scene.add("a", "rtmp://origin/live/a", Some(2));
    scene.fail(ErrorClass::Refused);
    scene.wait();
    scene.fail(ErrorClass::Refused);
    scene.wait();
    scene.fail(ErrorClass::Unreachable);
    let news: Vec<_> = scene.told.iter().map(told).collect();
    assert_eq!(news, [("failed", "refused", 1), ("again", "", 0), ("gave up", "unreachable", 3)]);
    scene.assert_nothing_is_left();
}

/// One pull connects to the edge, another asks the center and is sent to the edge as well; each has
/// one place.
fn redirected_to_a_busy_edge() -> Scene {
    let mut scene = Scene::new(1);
    scene.add("first", "http://edge/first.flv", None);
    scene.stage(Stage::Connecting);
    scene.now += Duration::from_secs(4);
    scene.add("sent", "http://center/sent.flv", None);
    scene.stage(Stage::Connecting);
    scene.stage(Stage::Handshaking);
    scene.now += Duration::from_secs(3);
    scene.redirect("http://edge/sent.flv");
    assert_eq!(scene.state_of("sent"), StreamState::Queued);
    assert_eq!(scene.hosts(), ["edge", "center"]);
    scene
}

#[test]
fn a_redirected_pull_waits_for_the_budget_of_its_new_origin() {
    let mut scene = redirected_to_a_busy_edge();
    scene.add("third", "http://center/third.flv", None);
    assert_eq!(scene.hosts()[2..], ["center"], "its old place is free");
    let first = scene.dialed[0].0;
    scene.shard.attempt_stage(scene.now, first, Stage::Handshaking, "an answer");
    scene.drain();
    assert_eq!(scene.hosts()[3..], ["edge"]);
    assert_eq!(scene.state_of("sent"), StreamState::Resolving);
    assert_eq!(scene.shard.totals().attempts, 3, "a redirect is no try of its own");
    scene.media();
    assert_eq!(scene.state_of("sent"), StreamState::Registered);
    for stream in ["first", "sent", "third"] {
        scene.delete(stream);
    }
    scene.assert_nothing_is_left();
}

#[test]
fn a_redirected_pull_is_deleted_in_its_queue() {
    let mut scene = redirected_to_a_busy_edge();
    scene.delete("sent");
    assert_eq!(scene.shard.origins_dialed(), 1);
    scene.stage(Stage::Connecting);
    scene.delete("first");
    assert_eq!(scene.dialed.len(), 2);
    scene.assert_nothing_is_left();
}

#[test]
fn a_redirected_pull_has_the_time_that_its_try_has_left() {
    let mut scene = redirected_to_a_busy_edge();
    let start = scene.now - Duration::from_secs(3);
    // The first one's time is over, so it gets the place for the rest of its own.
    scene.wait();
    assert_eq!(scene.hosts()[2..], ["edge"]);
    // The first one tries again and is queued.
    scene.wait();
    assert_eq!(scene.state_of("first"), StreamState::Queued);
    scene.wait();
    assert_eq!(scene.now - start, TIMEOUT);
    let news: Vec<_> = scene.told.iter().map(told).collect();
    assert_eq!(news[1], ("failed", "unresolved", 1));
    assert_eq!(scene.state_of("sent"), StreamState::BackingOff);
}

#[test]
fn a_redirected_pull_whose_turn_comes_too_late_is_not_dialed() {
    let mut scene = redirected_to_a_busy_edge();
    let start = scene.now - Duration::from_secs(3);
    scene.now = start + TIMEOUT - Duration::from_millis(999);
    scene.delete("first");
    scene.shard.handle_timeout(scene.now);
    scene.drain();
    assert_eq!((scene.hosts().len(), scene.state_of("sent")), (2, StreamState::BackingOff));
    let news: Vec<_> = scene.told.iter().map(told).collect();
    assert_eq!(news, [("failed", "busy", 1)]);
    scene.wait();
    assert_eq!(scene.hosts()[2..], ["center"], "it begins anew");
    scene.delete("sent");
    scene.assert_nothing_is_left();
}

#[test]
fn the_next_try_asks_the_first_origin_again() {
    let mut scene = redirected_to_a_busy_edge();
    scene.delete("first");
    scene.fail(ErrorClass::Refused);
    scene.wait();
    assert_eq!(scene.hosts(), ["edge", "center", "edge", "center"]);
    let PullNews::Failed { origin, attempt: 1, .. } = &scene.told[0] else { panic!() };
    assert_eq!(origin, "edge:80");
}

#[test]
fn a_pull_that_is_sent_on_and_on_fails() {
    let mut scene = Scene::new(1);
    scene.add("a", "http://center/a.flv", None);
    for count in 0..=REDIRECTS_MAX {
        assert_eq!(scene.dialed.len(), count + 1);
        scene.stage(Stage::Connecting);
        scene.redirect("http://center/a.flv");
    }
    assert_eq!(scene.dialed.len(), REDIRECTS_MAX + 1);
    assert_eq!(scene.told.iter().map(told).collect::<Vec<_>>(), [("failed", "rejected", 1)]);
    scene.delete("a");
    scene.assert_nothing_is_left();
}

/// What an origin says that is up; `served` is how long it was.
fn moved_after(served: Duration) -> Scene {
    let mut scene = Scene::new(1);
    scene.add("a", "http://center/a.flv", None);
    scene.stage(Stage::Connecting);
    scene.media();
    scene.now += served;
    scene.media();
    scene.redirect("http://edge/a.flv");
    scene
}

#[test]
fn a_pull_that_is_sent_on_while_it_is_up_goes_there_at_once() {
    let mut scene = moved_after(Duration::from_secs(60));
    assert_eq!(scene.told.iter().map(told).collect::<Vec<_>>(), [("failed", "lost", 1)]);
    assert_eq!(scene.dialed.len(), 2);
    assert_eq!(scene.dialed[1].1, "edge:80");
    scene.stage(Stage::Connecting);
    scene.media();
    // The next try asks the origin itself.
    scene.fail(ErrorClass::Lost);
    while scene.dialed.len() < 3 {
        scene.wait();
    }
    assert_eq!(scene.dialed[2].1, "center:80");
    scene.delete("a");
    scene.assert_nothing_is_left();
}

#[test]
fn a_pull_that_is_sent_on_as_soon_as_it_is_up_waits_as_for_a_retry() {
    let mut scene = moved_after(Duration::from_millis(1));
    assert_eq!(scene.dialed.len(), 1);
    scene.delete("a");
    scene.assert_nothing_is_left();
}

/// A pull of the journal.
fn record(stream: &str, url: &str) -> PullRecord {
    PullRecord {
        over_udp: false,
        idle_close_ms: None,
        auto_close: None,
        key: key(stream).as_str().to_owned(),
        url: url.to_owned(),
        other_urls: Vec::new(),
        login: None,
        hedge_ms: 0,
        retries_max: None,
        timeout_ms: 10_000,
        media_timeout_ms: 10_000,
    }
}

#[test]
fn what_stays_is_kept_before_it_is_acknowledged_and_forgotten_when_it_ends() {
    let mut scene = Scene::new(1);
    let url = "rtmp://origin/live/a";
    scene.add("a", url, None);
    let added = Record::AddPull(record("a", url));
    assert_eq!(scene.kept, std::slice::from_ref(&added));
    scene.media();
    scene.fail(ErrorClass::Lost);
    scene.add("a", url, None);
    assert_eq!(scene.kept.len(), 1, "it is kept once");
    scene.delete("a");
    let removed = Record::RemovePull { key: key("a").as_str().to_owned() };
    assert_eq!(scene.kept, [added, removed.clone()]);
    // Giving up is an end as well; a shut-down is none.
    scene.add("a", url, Some(0));
    scene.fail(ErrorClass::Refused);
    assert_eq!(scene.kept.last(), Some(&removed));
    scene.add("a", url, None);
    scene.shard.shut_down(scene.now);
    scene.drain();
    assert_eq!(scene.kept.len(), 5);
}

#[test]
fn login_is_part_of_a_pull_and_comes_back_with_it() {
    let options = PullOptions {
        retries_max: None,
        force: true,
        no_wait: true,
        timeout: TIMEOUT,
        media_timeout: TIMEOUT,
        hedge: Duration::ZERO,
        rtp_transport: LowerTransport::Tcp,
        idle_close: IdleClose::default(),
        asked_by: None,
    };
    let login = |password: &str| Login { user: "u".to_owned(), password: password.to_owned() };
    let add = |login: Option<Login>| {
        let url = |text| SourceUrl::parse(text, false).unwrap();
        let urls = ["rtsp://one/a", "http://two/a.flv"];
        let urls = urls.map(|text| Arc::new(url(text).with_rtsp_login(login.clone())));
        Ask::AddPull { key: key("a"), urls: urls.to_vec(), options }
    };
    let mut first = Scene::new(1);
    first.ask(add(Some(login("old"))));
    let [Record::AddPull(kept)] = &first.kept[..] else { panic!("{:?}", first.kept) };
    assert_eq!(
        (&*kept.url, &kept.other_urls[..]),
        ("rtsp://one/a", &["http://two/a.flv".into()][..])
    );
    assert_eq!(kept.login, Some(login("old")));
    let pulls = [kept.clone()];
    let mut second = Scene::new(1);
    second.shard.restore(second.now, &pulls);
    for scene in [&mut first, &mut second] {
        scene.drain();
        scene.wait_for_a_dial();
        for (given, is_same) in
            [(Some(login("new")), false), (None, false), (Some(login("old")), true)]
        {
            scene.answers.clear();
            scene.ask(add(given.clone()));
            let joins = matches!(scene.answers[..], [Answer::Added { .. }]);
            let taken = matches!(scene.answers[..], [Answer::Exists { .. }]);
            assert_eq!((joins, taken), (is_same, !is_same), "{given:?}");
        }
    }
}

#[test]
fn an_add_that_may_end_with_its_first_try_is_kept_when_it_succeeds() {
    let plain = PullOptions {
        retries_max: None,
        force: false,
        no_wait: false,
        timeout: TIMEOUT,
        media_timeout: TIMEOUT,
        hedge: Duration::ZERO,
        rtp_transport: LowerTransport::Tcp,
        idle_close: IdleClose::default(),
        asked_by: None,
    };
    let url = Arc::new(SourceUrl::parse("rtmp://origin/live/a", false).unwrap());
    let mut scene = Scene::new(1);
    let add = |options| Ask::AddPull { key: key("a"), urls: vec![url.clone()], options };
    scene.ask(add(plain));
    scene.fail(ErrorClass::Refused);
    assert_eq!(scene.kept, [], "nobody was told that it is there");
    scene.ask(add(plain));
    scene.media();
    assert_eq!(scene.kept.len(), 1);
    scene.delete("a");
    scene.ask(add(plain));
    // Who joins without waiting is told at once, and finds it there after a failure, as the other does.
    scene.ask(add(PullOptions { no_wait: true, ..plain }));
    assert_eq!(scene.kept.len(), 3);
    scene.answers.clear();
    scene.fail(ErrorClass::Refused);
    let stays = matches!(scene.answers[..], [Answer::Added { state: StreamState::BackingOff, .. }]);
    assert!(stays);
    assert_eq!((scene.state_of("a"), scene.kept.len()), (StreamState::BackingOff, 3));
}

/// Those of a host that is an origin of the config too, with the defaults.
#[test]
fn restored_pulls_come_within_their_timeouts_at_the_rate_of_their_origin() {
    let mut config = Config::default();
    let origin = "url = \"rtmp://origin/{app}/{stream}\"\nsend_hops = false\n";
    config.origin = vec![toml::from_str(origin).unwrap()];
    let mut scene = Scene::new(64);
    scene.shard.set_origins(&config);
    let pulls: Vec<_> =
        (0..1000).map(|n| record(&n.to_string(), "rtmp://origin:1935/live/a")).collect();
    assert_eq!(scene.shard.restore(scene.now, &pulls).0, 1000);
    let start = scene.now;
    let mut answered = 0;
    while answered < 1000 {
        scene.wait();
        while answered < scene.dialed.len() {
            let attempt = scene.dialed[answered].0;
            scene.shard.attempt_stage(scene.now, attempt, Stage::Handshaking, "an answer");
            scene.tag_of(attempt, TagKind::Audio, &[0xaf, 1, 2]);
            answered += 1;
        }
        assert_eq!(scene.shard.totals().attempts_failed.iter().sum::<u64>(), 0);
    }
    let time = scene.now - start;
    assert!(time < Duration::from_secs(5), "{time:?}");
}

#[test]
fn restored_pulls_come_in_groups_as_large_as_their_budget() {
    let mut pulls: Vec<_> =
        (0..5).map(|n| record(&n.to_string(), "rtmp://origin/live/a")).collect();
    pulls.push(record("other", "rtmp://other/live/a"));
    pulls.push(PullRecord { key: "nosuch".to_owned(), ..record("x", "rtmp://h/a/b") });
    pulls.push(PullRecord { url: "gopher://h/a".to_owned(), ..record("y", "") });
    let mut scene = Scene::new(2);
    scene.shard.keep_events();
    let (count, refused) = scene.shard.restore(scene.now, &pulls);
    assert_eq!((count, refused.len()), (6, 2));
    let told = scene.shard.take_events();
    assert_eq!(told.iter().filter(|event| event.what.name() == "pending").count(), 6);
    scene.drain();
    assert_eq!((scene.dialed.len(), scene.kept.len()), (0, 0));
    assert_eq!(scene.state_of("4"), StreamState::BackingOff);
    let start = scene.now;
    let mut times = Vec::new();
    while scene.dialed.len() < 6 {
        let dialed = scene.dialed.len();
        scene.wait();
        for index in dialed..scene.dialed.len() {
            times.push((scene.now - start).as_millis());
            let attempt = scene.dialed[index].0;
            scene.shard.attempt_stage(scene.now, attempt, Stage::Handshaking, "an answer");
        }
        scene.drain();
    }
    assert_eq!(times, [0, 0, 2, 250, 250, 500]);
    scene.media();
    // They are as if they had been added: a failure does not end them, a delete does, for good.
    scene.fail(ErrorClass::Lost);
    scene.delete("4");
    assert_eq!(scene.kept, [Record::RemovePull { key: key("4").as_str().to_owned() }]);
}
