//! Pulls on demand of one shard on a virtual clock.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bus_tests::NoPlayers;
use super::push_tests::push_options;
use super::{Action, PlayRequest, Policy, Shard, Stage};
use crate::bus::event::What;
use crate::bus::message::{Ask, IdleClose, PullOptions, Ticket};
use crate::bus::view::PublisherView;
use crate::clock;
use crate::config::{Config, Hook};
use crate::journal::Record;
use crate::media::state::{EndReason, ErrorClass, Fault, StreamState};
use crate::media::{
    AttemptId, ConnectionId, Form, MediaPart, ShardId, SourceUrl, StreamKey, TagKind,
};
use crate::proto::rtsp::LowerTransport;
use crate::stream::Packaging;

const HERE: ShardId = ShardId(0);
const PUBLISHER: ConnectionId = ConnectionId { serial: 999, shard: HERE };
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
pub(super) const ONE: &str = "rtmp://one/%s/%s";
const TWO: &str = "rtmp://one/%s/%s;rtmp://one/%s/%s/b";

/// A shard, with the attempts and answers that it made.
pub(super) struct Scene {
    pub(super) shard: Shard,
    pub(super) now: Instant,
    pub(super) dialed: Vec<(AttemptId, String)>,
    pub(super) hung_up: Vec<AttemptId>,
    pub(super) refused: Vec<(u32, EndReason)>,
    pub(super) admitted: Vec<u32>,
    ended: u32,
    serial: u32,
}

impl Scene {
    pub(super) fn new(origin_url: &str, change: impl FnOnce(&mut Config)) -> Self {
        let config = config(origin_url, change);
        let mut shard = Shard::new(HERE, 1, 7, Policy::of(&config, 1));
        shard.set_origins(&config);
        shard.keep_events();
        Self {
            shard,
            now: clock::now(),
            dialed: Vec::new(),
            hung_up: Vec::new(),
            refused: Vec::new(),
            admitted: Vec::new(),
            ended: 0,
            serial: 0,
        }
    }

    /// The node goes by another config from now on.
    pub(super) fn reload(&mut self, origin_url: &str, change: impl FnOnce(&mut Config)) {
        self.shard.configure(self.now, &config(origin_url, change));
        self.turn();
    }

    /// A player comes; its number.
    pub(super) fn play(&mut self, stream: &str, params: &str) -> u32 {
        self.play_from(NOWHERE, stream, params)
    }

    pub(super) fn play_from(&mut self, peer: SocketAddr, stream: &str, params: &str) -> u32 {
        self.play_over(Packaging::Flv, peer, stream, params)
    }

    /// A player over RTSP comes.
    pub(super) fn play_rtsp_from(&mut self, peer: SocketAddr, stream: &str) -> u32 {
        self.play_over(Packaging::Rtsp, peer, stream, "")
    }

    fn play_over(
        &mut self,
        packaging: Packaging,
        peer: SocketAddr,
        stream: &str,
        params: &str,
    ) -> u32 {
        self.serial += 1;
        let request = PlayRequest {
            connection: ConnectionId { serial: self.serial, shard: HERE },
            key: key(stream),
            packaging,
            local: NOWHERE,
            peer,
            params: params.to_owned(),
        };
        self.shard.play(self.now, request);
        self.turn();
        self.serial
    }

    pub(super) fn leave(&mut self, serial: u32) {
        self.shard.leave(ConnectionId { serial, shard: HERE });
        self.turn();
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        self.shard.handle_ask(self.now, Ticket { shard: HERE, serial: 1 }, ask);
        self.turn();
    }

    pub(super) fn publish(&mut self, stream: &str) -> bool {
        let connection = PUBLISHER;
        let (local, peer, params) = (NOWHERE, NOWHERE, String::new());
        let view = PublisherView { connection, form: Form::Flv, local, peer, params };
        let published = self.shard.publish(self.now, &key(stream), view).is_ok();
        self.turn();
        published
    }

    /// The publisher goes.
    pub(super) fn unpublish(&mut self) {
        self.shard.unpublish(self.now, PUBLISHER, true);
        self.shard.released(PUBLISHER);
        self.turn();
    }

    /// The attempt that was dialed last fails; its socket is closed.
    pub(super) fn fail(&mut self, class: ErrorClass) {
        let attempt = self.fail_unclosed(class);
        self.shard.attempt_closed(attempt, 1);
        self.turn();
    }

    fn fail_unclosed(&mut self, class: ErrorClass) -> AttemptId {
        let attempt = self.dialed.last().expect("it was dialed").0;
        self.shard.attempt_failed(self.now, attempt, Fault::new(class, "it failed"));
        self.turn();
        attempt
    }

    /// A frame of audio comes from the attempt that was dialed last.
    pub(super) fn media(&mut self) {
        let attempt = self.dialed.last().expect("it was dialed").0;
        let begin = MediaPart::Begin { lane: 0, kind: TagKind::Audio, timestamp_ms: 0, len: 3 };
        let data = MediaPart::Data { lane: 0, bytes: (&[0xaf, 1, 2][..]).into() };
        for part in [begin, data] {
            assert!(self.shard.attempt_media(self.now, attempt, part));
        }
        self.turn();
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.shard.handle_timeout(self.now);
        self.turn();
    }

    /// What a turn of the driver does, until nothing follows.
    pub(super) fn turn(&mut self) {
        for _ in 0..4 {
            self.act();
            self.shard.tick(self.now, &mut NoPlayers);
            self.shard.handle_timeout(self.now);
        }
        self.act();
        self.shard.check_invariants();
    }

    fn act(&mut self) {
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Send { message, .. } => self.shard.handle_message(self.now, HERE, message),
                Action::Dial { attempt, url, .. } => {
                    self.dialed.push((attempt, url.as_str().to_owned()));
                }
                Action::HangUp { attempt } => {
                    self.hung_up.push(attempt);
                    self.shard.attempt_closed(attempt, 1);
                }
                Action::Refuse { connection, reason } => {
                    self.refused.push((connection.serial, reason));
                    self.shard.released(connection);
                }
                Action::Admit { connection } => self.admitted.push(connection.serial),
                Action::End { connection, .. } => {
                    self.ended += 1;
                    self.shard.released(connection);
                }
                Action::Keep(Record::AddPush(_) | Record::RemovePush { .. }) => {}
                Action::Keep(record) => panic!("kept: {record:?}"),
                _ => {}
            }
        }
    }

    /// The hosts that were dialed.
    pub(super) fn hosts(&self) -> Vec<&str> {
        self.dialed.iter().filter_map(|(_, url)| url.split('/').nth(2)).collect()
    }

    pub(super) fn askers(&mut self) -> Vec<&'static str> {
        let events = self.shard.take_events().into_iter();
        let askers = events.filter_map(|event| match event.what {
            What::Pending { by, .. } => Some(by.as_str()),
            _ => None,
        });
        askers.collect()
    }

    #[track_caller]
    pub(super) fn assert_nothing_is_left(&mut self) {
        self.pass(Duration::from_secs(60));
        let ledger = self.shard.ledger();
        assert!(ledger.is_zero(), "{ledger}");
        assert_eq!(self.shard.origins_dialed(), 0);
    }
}

fn config(origin_url: &str, change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    config.demand.origin_url = origin_url.to_owned();
    config.pull.retry_jitter_percent = 0;
    change(&mut config);
    config.validate().unwrap();
    config
}

pub(super) fn key(stream: &str) -> StreamKey {
    StreamKey::in_default_vhost("live", stream).unwrap()
}

pub(super) fn options() -> PullOptions {
    PullOptions {
        retries_max: None,
        force: false,
        no_wait: false,
        timeout: Duration::from_secs(10),
        media_timeout: Duration::from_secs(10),
        hedge: Duration::ZERO,
        rtp_transport: LowerTransport::Tcp,
        idle_close: IdleClose::default(),
        asked_by: None,
    }
}

#[test]
fn players_of_a_missing_stream_cost_one_attempt_and_are_answered_together() {
    let mut scene = Scene::new(ONE, |_| {});
    for _ in 0..5000 {
        scene.play("a", "");
    }
    assert_eq!((scene.dialed.len(), scene.refused.len()), (1, 0));
    scene.fail(ErrorClass::NotFound);
    assert_eq!(scene.refused.len(), 5000);
    assert!(scene.refused.iter().all(|(_, reason)| *reason == EndReason::NotFound));
    scene.play("a", "");
    assert_eq!((scene.dialed.len(), scene.refused.len()), (1, 5001));
    let totals = scene.shard.demand_totals();
    assert_eq!((totals.pulls, totals.refused, totals.absences), (1, 1, 1));
    scene.pass(Duration::from_secs(10));
    scene.play("a", "");
    assert_eq!(scene.dialed.len(), 2, "it is asked for again when its time is over");
    scene.fail(ErrorClass::NotFound);
    scene.assert_nothing_is_left();
}

#[test]
fn players_are_admitted_together_when_it_is_up() {
    let mut scene = Scene::new(ONE, |_| {});
    let players = [scene.play("a", ""), scene.play("a", "")];
    assert_eq!(scene.askers(), ["players", "demand"]);
    scene.media();
    assert_eq!(scene.admitted, players);
    players.into_iter().for_each(|player| scene.leave(player));
    assert!(scene.shard.tables.find(&key("a")).is_some(), "somebody may come back");
    scene.pass(Duration::from_secs(20));
    assert_eq!((scene.hung_up.len(), scene.shard.registered_count()), (1, 0));
    scene.assert_nothing_is_left();
}

#[test]
fn each_origin_is_asked_and_the_worst_failure_counts() {
    use ErrorClass::{NotFound, Refused, Rejected, Unavailable};
    for (classes, reason, seconds) in [
        ([NotFound, NotFound], EndReason::NotFound, 10),
        ([NotFound, Refused], EndReason::OriginFailed, 2),
        ([Refused, NotFound], EndReason::OriginFailed, 2),
        ([NotFound, Rejected], EndReason::OriginFailed, 10),
        ([Rejected, Unavailable], EndReason::OriginFailed, 2),
        ([Unavailable, Rejected], EndReason::OriginFailed, 2),
    ] {
        let mut scene = Scene::new(TWO, |_| {});
        scene.play("a", "");
        for class in classes {
            scene.fail(class);
        }
        assert_eq!(scene.dialed.len(), 2);
        assert_ne!(scene.dialed[0].1, scene.dialed[1].1);
        assert_eq!(scene.refused, [(1, reason)]);
        scene.pass(Duration::from_secs(seconds) - Duration::from_millis(1));
        scene.play("a", "");
        let again = match reason {
            EndReason::NotFound => EndReason::KnownMissing,
            _ => EndReason::KnownFailed,
        };
        assert_eq!((scene.dialed.len(), scene.refused[1].1), (2, again));
        scene.pass(Duration::from_millis(1));
        scene.play("a", "");
        assert_eq!(scene.dialed.len(), 3);
    }
}

#[test]
fn an_origin_is_tried_again_while_players_wait() {
    let mut scene = Scene::new("", |config| {
        let text = "url = \"rtmp://one/{app}/{stream}\"\nretry_count = 9\nsend_hops = false\n";
        config.origin = vec![toml::from_str(text).unwrap()];
    });
    scene.play("a", "");
    scene.fail(ErrorClass::Unavailable);
    assert_eq!((scene.dialed.len(), scene.refused.len()), (1, 0));
    scene.pass(Duration::from_secs(2));
    assert_eq!(scene.dialed.len(), 2);
    while scene.refused.is_empty() {
        scene.fail(ErrorClass::Refused);
        if scene.refused.is_empty() {
            scene.pass(Duration::from_secs(9));
        }
    }
    // After 2 s and 3 s; another time would be too late for who waits.
    assert_eq!((scene.dialed.len(), &scene.refused[..]), (3, &[(1, EndReason::OriginFailed)][..]));
    scene.assert_nothing_is_left();
}

#[test]
fn a_budget_holds_until_the_sockets_are_closed() {
    let mut scene = Scene::new(ONE, |config| config.pull.connects_per_origin_max = 3);
    for number in 0..10 {
        scene.play(&format!("s{number}"), "");
    }
    assert_eq!(scene.dialed.len(), 3);
    for (attempt, _) in scene.dialed.clone() {
        scene.shard.attempt_stage(scene.now, attempt, Stage::Handshaking, "x");
    }
    scene.turn();
    assert_eq!(scene.dialed.len(), 3, "a connection without media holds its place");
    let attempt = scene.fail_unclosed(ErrorClass::NotFound);
    assert_eq!(scene.dialed.len(), 3, "and so does one that is being closed");
    scene.shard.attempt_closed(attempt, 1);
    scene.turn();
    assert_eq!(scene.dialed.len(), 4);
    scene.media();
    assert_eq!(scene.dialed.len(), 5, "one that is up needs none");
    scene.pass(Duration::from_secs(16));
    let busy = scene.refused.iter().filter(|(_, reason)| *reason == EndReason::Busy).count();
    assert!(busy > 0, "{:?}", scene.refused);
    assert!(scene.shard.demand_totals().absences < 9, "our budget says nothing about a stream");
}

/// An origin that says "no" at once, which a budget of connects under way does not slow down.
#[test]
fn connects_follow_each_other_no_faster_than_an_origin_may_be_asked() {
    let mut scene = Scene::new("", with_origins(["connects_per_second_max = 4"]));
    let fail_new = |scene: &mut Scene, before: usize| {
        for at in before..scene.dialed.len() {
            let attempt = scene.dialed[at].0;
            let fault = Fault::new(ErrorClass::NotFound, "no");
            scene.shard.attempt_failed(scene.now, attempt, fault);
            scene.shard.attempt_closed(attempt, 1);
        }
        scene.turn();
        scene.dialed.len() - before
    };
    for number in 0..100 {
        let before = scene.dialed.len();
        scene.play(&format!("s{number}"), "");
        fail_new(&mut scene, before);
    }
    assert_eq!((scene.dialed.len(), scene.refused.len()), (4, 4));
    for _ in 0..8 {
        let before = scene.dialed.len();
        scene.pass(Duration::from_millis(250));
        assert_eq!(fail_new(&mut scene, before), 1);
    }
    let names: std::collections::BTreeSet<&String> =
        scene.dialed.iter().map(|(_, url)| url).collect();
    assert_eq!(names.len(), 12, "each is asked for once");
    scene.pass(Duration::from_secs(16));
    let busy = scene.refused.iter().filter(|(_, reason)| *reason == EndReason::Busy).count();
    assert!(busy >= 80, "{busy} had no turn");
    assert!(scene.dialed.len() < 20, "{}", scene.dialed.len());
    scene.pass(Duration::from_secs(1));
    let before = scene.dialed.len();
    scene.play("later", "");
    assert_eq!(scene.dialed.len(), before + 1);
    scene.fail(ErrorClass::NotFound);
    scene.assert_nothing_is_left();
}

/// What docs/operations.md says of the defaults.
#[test]
fn different_names_cost_an_origin_no_more_than_its_rate_by_default() {
    let mut scene = Scene::new("", with_origins([""]));
    let start = scene.now;
    const NAMES: u32 = 2500;
    for serial in 1..=NAMES {
        let (local, peer, params) = (NOWHERE, NOWHERE, String::new());
        let connection = ConnectionId { serial, shard: HERE };
        let (key, packaging) = (key(&format!("s{serial}")), Packaging::Flv);
        let request = PlayRequest { connection, key, packaging, local, peer, params };
        scene.shard.play(scene.now, request);
    }
    scene.turn();
    let mut failed = 0;
    while scene.refused.len() < NAMES as usize {
        let dialed = scene.dialed.len();
        for at in std::mem::replace(&mut failed, dialed)..dialed {
            let attempt = scene.dialed[at].0;
            let fault = Fault::new(ErrorClass::NotFound, "no");
            scene.shard.attempt_failed(scene.now, attempt, fault);
            scene.shard.attempt_closed(attempt, 1);
        }
        scene.turn();
        let within = scene.now - start;
        let most = 256 + (256.0 * within.as_secs_f64()) as usize;
        assert!(scene.dialed.len() <= most, "{} within {within:?}", scene.dialed.len());
        if failed == scene.dialed.len() {
            scene.pass(Duration::from_millis(250));
        }
    }
    let count = scene.dialed.len();
    assert!((1200..=1536).contains(&count), "{count} of {NAMES}");
    assert!(scene.now - start <= Duration::from_secs(6), "who has no turn in time is told so");
}

#[test]
fn a_hook_is_asked_first_and_origins_after_its_answer_or_its_time() {
    let with_hook = |config: &mut Config| {
        config.hook.enable = true;
        config.hook.on_stream_not_found = "http://h/x".to_owned();
        assert!(config.hook.wants(Hook::StreamNotFound));
    };
    let mut scene = Scene::new(ONE, with_hook);
    scene.play("a", "");
    scene.play("b", "");
    assert_eq!((scene.dialed.len(), scene.askers()), (0, vec!["players"; 2]));
    scene.ask(Ask::Demand { key: key("a"), generation: None });
    scene.ask(Ask::Demand { key: key("a"), generation: None });
    assert_eq!(scene.dialed.len(), 1);
    scene.pass(Duration::from_secs(5));
    assert_eq!(scene.dialed.len(), 2, "it has had its time");
    scene.ask(Ask::Demand { key: key("nobody asks for it"), generation: None });
    // What the hook adds while it is asked is not pulled a second time.
    scene.play("c", "");
    let urls = vec![Arc::new(SourceUrl::parse("rtmp://added/live/c", false).unwrap())];
    scene.ask(Ask::AddPull { key: key("c"), urls, options: options() });
    scene.ask(Ask::Demand { key: key("c"), generation: None });
    scene.pass(Duration::from_secs(6));
    let added = scene.dialed.iter().filter(|(_, url)| url.contains("/c")).count();
    assert_eq!(added, 1, "{:?}", scene.dialed);
}

#[test]
fn who_leaves_a_hook_asked_leaves_nothing() {
    let mut scene = Scene::new(ONE, |config| {
        config.hook.enable = true;
        config.hook.on_stream_not_found = "http://h/x".to_owned();
    });
    let player = scene.play("a", "");
    scene.leave(player);
    scene.play("b", "");
    scene.ask(Ask::SendAway { key: key("b"), generation: None });
    assert_eq!(scene.refused, [(2, EndReason::SentAway)]);
    assert_eq!(scene.dialed.len(), 0);
    scene.assert_nothing_is_left();
}

/// The hook is told of too many others.
#[test]
fn who_waits_for_what_nobody_is_asked_for_is_refused_at_once() {
    let mut scene = Scene::new("", |config| {
        config.hook.enable = true;
        config.hook.on_stream_not_found = "http://h/x".to_owned();
    });
    scene.play("a", "");
    scene.play("a", "");
    scene.ask(Ask::TurnAway { key: key("a"), generation: None });
    assert_eq!(scene.refused, [(1, EndReason::Overloaded), (2, EndReason::Overloaded)]);
    scene.assert_nothing_is_left();
    let mut scene = Scene::new(ONE, |config| {
        config.hook.enable = true;
        config.hook.on_stream_not_found = "http://h/x".to_owned();
    });
    scene.play("a", "");
    scene.ask(Ask::TurnAway { key: key("a"), generation: None });
    assert_eq!((scene.dialed.len(), scene.refused.len()), (1, 0), "an origin may have it");
}

#[test]
fn a_publisher_takes_the_place_of_a_search_and_ends_an_absence() {
    let mut scene = Scene::new(ONE, |_| {});
    scene.play("a", "");
    scene.fail(ErrorClass::NotFound);
    assert!(scene.publish("a"));
    scene.play("a", "");
    assert_eq!((scene.refused.len(), scene.dialed.len()), (1, 1), "it waits for the publisher");
    let mut scene = Scene::new(ONE, |_| {});
    scene.play("a", "");
    assert!(scene.publish("a"));
    assert_eq!((scene.hung_up.len(), scene.refused.len()), (1, 0));
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.dialed.len(), 1);
    assert_eq!(scene.shard.origins_dialed(), 0);
    let mut scene = Scene::new(ONE, |_| {});
    scene.play("a", "");
    scene.media();
    assert!(!scene.publish("a"), "one that is up keeps its name");
}

/// What is refused has no effect: the search goes on, and what is known to be missing stays so.
#[test]
fn a_publisher_that_is_refused_ends_no_search() {
    let mut scene = Scene::new(ONE, |config| {
        config.pull.connects_per_origin_max = 9;
        config.limits.pending_per_shard_max = 1;
    });
    scene.play("a", "");
    scene.fail(ErrorClass::NotFound);
    scene.play("b", "");
    assert!(!scene.publish("a"), "too many are pending");
    let urls = vec![Arc::new(SourceUrl::parse("rtmp://added/live/a", false).unwrap())];
    scene.ask(Ask::AddPull { key: key("a"), urls, options: options() });
    assert_eq!(scene.shard.demand_totals().absences, 1);
    scene.shard.shut_down(scene.now);
    assert!(!scene.publish("b"));
}

#[test]
fn who_comes_in_a_loop_is_not_pulled_for_and_not_kept_waiting() {
    let mut scene = Scene::new(ONE, |config| config.demand.hops_max = 2);
    scene.play("a", "t=1");
    let hops = scene.dialed[0].1.split("rillcast_hops=").nth(1).unwrap().to_owned();
    for (stream, params) in [
        ("b", format!("rillcast_hops={hops}")),
        ("b", "rillcast_hops=x,y".to_owned()),
        ("b", "edge=1&vhost=v".to_owned()),
        ("a", format!("rillcast_hops={hops}")),
    ] {
        scene.play(stream, &params);
    }
    assert_eq!((scene.dialed.len(), scene.refused.len()), (1, 0));
    assert_eq!(scene.askers(), ["players", "demand", "edge"]);
    scene.pass(Duration::from_millis(200));
    let reasons = [2, 3, 4, 5].map(|serial| (serial, EndReason::WaitOver));
    assert_eq!(scene.refused, reasons, "and who waits beside them does so on");
    scene.play("c", "rillcast_hops=x");
    assert_eq!(scene.dialed.len(), 2);
    assert!(scene.dialed[1].1.contains("rillcast_hops=x,"), "{:?}", scene.dialed);
    // Beside one that is not pulled for, one that is.
    scene.play("d", "edge=1");
    scene.play("d", "");
    assert_eq!(scene.dialed.len(), 3);
    assert_eq!(scene.shard.demand_totals().passive, 5);
}

#[test]
fn a_lost_pull_is_tried_again_elsewhere_while_somebody_plays() {
    let mut scene = Scene::new(TWO, |config| config.demand.retry_count = 3);
    let player = scene.play("a", "");
    scene.media();
    scene.fail(ErrorClass::Lost);
    assert_eq!(scene.dialed.len(), 2, "the other origin at once");
    assert_ne!(scene.dialed[0].1, scene.dialed[1].1);
    scene.fail(ErrorClass::Refused);
    assert_eq!(scene.dialed.len(), 2);
    scene.pass(Duration::from_secs(3));
    assert_eq!((scene.dialed.len(), &scene.dialed[2].1), (3, &scene.dialed[0].1.clone()));
    scene.leave(player);
    scene.fail(ErrorClass::Refused);
    assert_eq!(scene.dialed.len(), 3, "nobody plays it");
    scene.assert_nothing_is_left();
}

#[test]
fn a_lost_pull_is_tried_again_while_it_is_pushed() {
    let mut scene = Scene::new(ONE, |config| config.demand.retry_count = 3);
    let player = scene.play("a", "");
    scene.media();
    let (source, url) = (scene.dialed[0].0, "rtmp://other/live/a");
    let url = Arc::new(SourceUrl::parse(url, false).unwrap());
    let digest = url.digest();
    scene.ask(Ask::AddPush { key: key("a"), url, options: push_options() });
    scene.leave(player);
    scene.shard.attempt_failed(scene.now, source, Fault::new(ErrorClass::Lost, "it broke"));
    scene.shard.attempt_closed(source, 1);
    scene.pass(Duration::from_secs(3));
    assert_eq!(scene.dialed.len(), 2, "its destination would wait for ever");
    scene.ask(Ask::DeletePush { key: key("a"), digest });
    scene.fail(ErrorClass::Refused);
    scene.assert_nothing_is_left();
}

/// Entries of `[[origin]]`: what each of them has besides its place in the order.
pub(super) fn with_origins<const N: usize>(entries: [&str; N]) -> impl FnOnce(&mut Config) {
    let entry = |(at, more): (usize, &str)| {
        let url = format!("url = \"rtmp://o{at}/{{app}}/{{stream}}\"\npriority = {at}\n");
        toml::from_str(&format!("{url}send_hops = false\n{more}")).unwrap()
    };
    let origins = entries.into_iter().enumerate().map(entry).collect();
    move |config| config.origin = origins
}

#[test]
fn a_lost_pull_has_the_other_origins_as_its_sources() {
    let mut scene = Scene::new("", |config| {
        with_origins(["timeout_ms = 3000", "timeout_ms = 1000", ""])(config);
        config.demand.retry_count = 0;
    });
    scene.play("a", "");
    scene.fail(ErrorClass::NotFound);
    scene.media();
    assert_eq!(scene.admitted, [1]);
    scene.pass(Duration::from_secs(4));
    scene.media();
    scene.fail(ErrorClass::Lost);
    // In its time, which is that of the last entry, and then the first one's.
    scene.pass(Duration::from_millis(4999));
    assert_eq!(scene.hosts(), ["o0", "o1", "o2"]);
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.hosts()[3..], ["o0"], "what lacked it then is asked again");
    scene.pass(Duration::from_millis(2999));
    scene.media();
    assert_eq!((scene.refused.len(), scene.ended), (0, 0), "its player has stayed");
    scene.pass(Duration::from_secs(3));
    scene.media();
    scene.fail(ErrorClass::Lost);
    scene.fail(ErrorClass::Refused);
    scene.fail(ErrorClass::Refused);
    assert_eq!((scene.dialed.len(), scene.ended), (6, 1), "without retries, one round");
    scene.assert_nothing_is_left();
}

#[test]
fn only_who_may_be_asked_again_is() {
    let mut scene = Scene::new("", with_origins(["", "retry_on = [\"silent\"]", ""]));
    scene.play("a", "");
    scene.fail(ErrorClass::NotFound);
    scene.fail(ErrorClass::Silent);
    scene.fail(ErrorClass::Refused);
    scene.pass(Duration::from_secs(2));
    scene.fail(ErrorClass::NotFound);
    assert_eq!(scene.hosts(), ["o0", "o1", "o2", "o1", "o2"]);
    scene.fail(ErrorClass::Refused);
    assert_eq!(scene.refused, [(1, EndReason::OriginFailed)]);
    scene.assert_nothing_is_left();
}

#[test]
fn a_search_that_nobody_waits_for_ends_with_its_attempt() {
    let mut scene = Scene::new(TWO, |_| {});
    let player = scene.play("a", "");
    scene.leave(player);
    assert_eq!(scene.hung_up.len(), 0, "what the origin says is of use");
    scene.fail(ErrorClass::NotFound);
    assert_eq!((scene.dialed.len(), scene.shard.demand_totals().absences), (1, 0));
    scene.assert_nothing_is_left();
}

#[test]
fn other_origins_make_an_absence_void() {
    let mut scene = Scene::new(ONE, |_| {});
    scene.play("a", "");
    scene.fail(ErrorClass::NotFound);
    let mut config = Config::default();
    config.demand.origin_url = ONE.to_owned();
    config.stream.max_stream_wait_ms = 1000;
    scene.shard.set_origins(&config);
    assert_eq!(scene.shard.demand_totals().absences, 1);
    config.demand.origin_url = TWO.to_owned();
    scene.shard.set_origins(&config);
    assert_eq!(scene.shard.demand_totals().absences, 0);
    scene.play("a", "");
    assert_eq!(scene.dialed.len(), 2);
    assert_eq!(
        scene.shard.state_of(scene.shard.tables.find(&key("a")).unwrap()),
        StreamState::Resolving
    );
}
