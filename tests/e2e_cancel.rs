//! Cancel anywhere: a pull is added and ended at each stage at which an origin can hang. The origin
//! sees its socket closed, the pending add is answered, the relay holds exactly what it held before,
//! and the name is free at once.

mod kit;

use kit::cancel::{Cancel, released};
use kit::fault::{Mode, Origin, Stage};
use kit::player::End;
use kit::relay::{Holdings, add_params, key};
use kit::{LIVENESS, Player, Relay, wait_until};
use serde_json::json;

/// An origin's behavior, and how far a pull comes with it.
#[derive(Debug, Clone)]
enum Hang {
    /// The connection hangs at this stage.
    At(Mode, Stage),
    /// The kernel answers no SYN.
    Connecting,
    /// Each attempt fails at once: the pull is backing off.
    Failing(Mode),
}

fn hangs_rtmp() -> Vec<Hang> {
    vec![
        Hang::Connecting,
        Hang::At(Mode::AcceptedSilent, Stage::Accepted),
        Hang::At(Mode::AfterC0C1, Stage::Greeted),
        Hang::At(Mode::AfterHandshake, Stage::HandshakeDone),
        Hang::At(Mode::ConnectUnanswered, Stage::ConnectRead),
        Hang::At(Mode::PlayUnanswered, Stage::PlayRead),
        Hang::At(Mode::NoMedia, Stage::PlayRead),
        Hang::At(Mode::MidFrame, Stage::PlayRead),
        Hang::At(Mode::Healthy, Stage::Serving),
        Hang::Failing(Mode::Refused),
        Hang::Failing(Mode::Reset),
        Hang::Failing(Mode::NotFound),
        Hang::Failing(Mode::NotFlv),
    ]
}

fn hangs_http() -> Vec<Hang> {
    vec![
        Hang::Connecting,
        Hang::At(Mode::AcceptedSilent, Stage::Accepted),
        Hang::At(Mode::PlayUnanswered, Stage::Greeted),
        Hang::At(Mode::NoMedia, Stage::Greeted),
        Hang::At(Mode::MidFrame, Stage::Greeted),
        Hang::At(Mode::Healthy, Stage::Serving),
        Hang::Failing(Mode::Refused),
        Hang::Failing(Mode::Reset),
        Hang::Failing(Mode::NotFound),
        Hang::Failing(Mode::NotFlv),
    ]
}

/// The name at the origin of what is pulled when a pull has gone.
const AGAIN: &str = "again";

struct Bench {
    relay: Relay,
    origin: Origin,
    rtmp: bool,
    start: Holdings,
}

impl Bench {
    fn new(rtmp: bool, shards: usize) -> Self {
        let relay = Relay::start(shards);
        let origin = Origin::start(Mode::Refused);
        // One whole life first, so that what stays allocated for good is there.
        origin.set(Mode::Healthy);
        let url = if rtmp { origin.rtmp_url("a") } else { origin.flv_url("a") };
        assert_eq!(relay.add("a", &url, &[])["code"], 0);
        assert_eq!(relay.delete("a")["data"]["flag"], true);
        origin.wait_all_closed(LIVENESS);
        let start = relay.holdings();
        Self { relay, origin, rtmp, start }
    }

    fn url(&self) -> String {
        self.url_of("a")
    }

    fn url_of(&self, stream: &str) -> String {
        if self.rtmp { self.origin.rtmp_url(stream) } else { self.origin.flv_url(stream) }
    }

    #[track_caller]
    fn wait_hang(&self, hang: &Hang, before: usize, what: &str) {
        match hang {
            Hang::At(_, stage) => self.origin.wait_stage(before, *stage),
            Hang::Connecting => {
                wait_until(LIVENESS, &format!("{what}: a SYN is out"), || {
                    self.origin.half_open_count() == 1
                });
            }
            Hang::Failing(_) => wait_until(LIVENESS, &format!("{what}: an attempt fails"), || {
                let proxy = self.relay.proxy("a").unwrap_or_else(|| panic!("{what}: not kept"));
                proxy["lastError"].is_string()
            }),
        }
    }

    /// Everything of the pull is gone, and the name is free.
    #[track_caller]
    fn assert_gone(&self, what: &str) {
        self.origin.wait_all_closed(LIVENESS);
        assert_eq!(self.origin.half_open_count(), 0, "{what}: a SYN is still out");
        self.relay.assert_back_to(&self.start, what);
        // By its name: the origin may come to see a connection of what was ended only now.
        let served = || {
            let connections = self.origin.connections();
            connections.iter().filter(|one| one.request.contains(AGAIN)).count()
        };
        let count = served();
        self.origin.set(Mode::Healthy);
        let again = self.relay.add("a", &self.url_of(AGAIN), &[]);
        assert_eq!(again["code"], 0, "{what}: re-add: {again}");
        assert_eq!(served(), count + 1, "{what}: re-add connects once");
        assert_eq!(self.relay.delete("a")["data"]["flag"], true, "{what}");
        self.origin.wait_all_closed(LIVENESS);
        self.relay.assert_back_to(&self.start, what);
    }

    /// An add that answers at once, then the cancel.
    #[track_caller]
    fn cancel_async(&self, hang: &Hang, cancel: Cancel) {
        let what = format!("{hang:?}, rtmp {}, async, {cancel:?}", self.rtmp);
        let before = self.prepare(hang);
        let more = [("async", "1"), ("force", "1"), ("timeout_sec", "30")];
        let reply = self.relay.add("a", &self.url(), &more);
        assert_eq!(reply["code"], 0, "{what}: {reply}");
        assert_eq!(reply["data"]["key"], key("a"), "{what}");
        self.wait_hang(hang, before, &what);
        cancel.end(&self.relay, "rtmp", &what);
        self.assert_gone(&what);
    }

    /// An add that waits for the first media, then the cancel: the add is answered.
    #[track_caller]
    fn cancel_blocking(&self, hang: &Hang, cancel: Cancel) {
        let what = format!("{hang:?}, rtmp {}, blocking, {cancel:?}", self.rtmp);
        let before = self.prepare(hang);
        let url = self.url();
        let params = add_params("a", &url, &[("timeout_sec", "30")]);
        let add = self.relay.api.call_later("addStreamProxy", &params);
        match hang {
            Hang::Failing(_) => {
                let reply = add.join().expect("a reply");
                assert_eq!(reply["code"], -1, "{what}: {reply}");
                assert!(reply["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{what}");
                assert_eq!(self.relay.delete("a")["data"]["flag"], false, "{what}");
            }
            Hang::At(Mode::Healthy, _) => {
                assert_eq!(add.join().expect("a reply")["code"], 0, "{what}");
                cancel.end(&self.relay, "rtmp", &what);
            }
            Hang::At(..) | Hang::Connecting => {
                self.wait_hang(hang, before, &what);
                assert!(!add.is_finished(), "{what}: answered while it hangs");
                cancel.end(&self.relay, "rtmp", &what);
                let reply = add.join().expect("a reply");
                assert_eq!(reply["code"], -1, "{what}: {reply}");
                assert!(reply["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{what}");
            }
        }
        self.assert_gone(&what);
    }

    /// The number of connections before the next one.
    fn prepare(&self, hang: &Hang) -> usize {
        self.origin.set(match hang {
            Hang::At(mode, _) | Hang::Failing(mode) => mode.clone(),
            Hang::Connecting => Mode::SynDropped,
        });
        self.origin.count()
    }
}

#[test]
fn rtmp_pull_is_deleted_at_any_stage() {
    let bench = Bench::new(true, 2);
    for hang in hangs_rtmp() {
        bench.cancel_async(&hang, Cancel::Delete);
        bench.cancel_blocking(&hang, Cancel::Delete);
    }
    bench.relay.stop();
}

#[test]
fn http_pull_is_deleted_at_any_stage() {
    let bench = Bench::new(false, 2);
    for hang in hangs_http() {
        bench.cancel_async(&hang, Cancel::Delete);
        bench.cancel_blocking(&hang, Cancel::Delete);
    }
    bench.relay.stop();
}

#[test]
fn rtmp_pull_is_closed_by_force_at_any_stage() {
    let bench = Bench::new(true, 1);
    for hang in hangs_rtmp() {
        bench.cancel_async(&hang, Cancel::CloseStreams);
        bench.cancel_async(&hang, Cancel::CloseStream);
    }
    bench.relay.stop();
}

#[test]
fn http_pull_is_closed_by_force_at_any_stage() {
    let bench = Bench::new(false, 2);
    for hang in hangs_http() {
        bench.cancel_blocking(&hang, Cancel::CloseStreams);
        bench.cancel_blocking(&hang, Cancel::CloseStream);
    }
    bench.relay.stop();
}

#[test]
fn close_without_force_leaves_a_pending_pull_alone() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::NoMedia);
    let more = [("async", "1"), ("timeout_sec", "30"), ("media_timeout_ms", "30000")];
    assert_eq!(relay.add("a", &origin.rtmp_url("a"), &more)["code"], 0);
    origin.wait_stage(0, Stage::PlayRead);
    let stream =
        [("schema", "rtmp"), ("vhost", "__defaultVhost__"), ("app", "live"), ("stream", "a")];
    let reply = relay.api("close_stream", &stream);
    assert_eq!(reply["code"], -500, "{reply}");
    let reply = relay.api("close_streams", &stream);
    assert_eq!(reply["code"], 0, "{reply}");
    assert_eq!((&reply["count_hit"], &reply["count_closed"]), (&json!(0), &json!(0)), "{reply}");
    assert_eq!(reply["count_pending"], 1, "{reply}");
    assert!(relay.proxy("a").is_some());
    assert_eq!((origin.count(), origin.open_count()), (1, 1), "the attempt is untouched");
    let reply = relay.api("close_streams", &[&stream[..], &[("pending", "1")]].concat());
    assert_eq!(reply["count_closed"], 1, "{reply}");
    origin.wait_all_closed(LIVENESS);
    relay.stop();
}

#[test]
fn config_can_leave_pending_pulls_to_delete_alone() {
    let relay = Relay::start_with(1, kit::config::FORCE_LEAVES_PENDING);
    let origin = Origin::start(Mode::NoMedia);
    assert_eq!(relay.add("a", &origin.rtmp_url("a"), &[("async", "1")])["code"], 0);
    let reply = relay.api("close_streams", &[("app", "live"), ("force", "1")]);
    assert_eq!((&reply["count_hit"], &reply["count_closed"]), (&json!(0), &json!(0)), "{reply}");
    assert_eq!(relay.delete("a")["data"]["flag"], true);
    relay.stop();
}

#[test]
fn delete_releases_players_that_wait() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::NoMedia);
    let start = relay.holdings();
    let more = [("async", "1"), ("timeout_sec", "30"), ("media_timeout_ms", "30000")];
    assert_eq!(relay.add("a", &origin.flv_url("a"), &more)["code"], 0);
    let players = [
        Player::http_flv(relay.http, "/live/a.live.flv"),
        Player::ws_flv(relay.http, "/live/a.live.flv"),
        Player::rtmp(relay.rtmp, "live", "a"),
    ];
    wait_until(LIVENESS, "three waiters", || {
        relay.proxy("a").is_some_and(|proxy| proxy["waiters"] == 3)
    });
    let reply = relay.delete("a");
    assert_eq!(reply["data"]["flag"], true, "{reply}");
    let released = released(&reply);
    assert_eq!(released["waiters"], 3, "{reply}");
    for player in players {
        let end = player.wait_end(LIVENESS);
        assert_ne!(end, End::Reset, "{}", player.what());
        assert_eq!(player.tags(), [], "{}", player.what());
    }
    relay.assert_back_to(&start, "waiters released");
    relay.stop();
}

#[test]
fn delete_of_a_live_pull_closes_its_players() {
    let relay = Relay::start(2);
    let origin = Origin::start(Mode::Healthy);
    let start = relay.holdings();
    assert_eq!(relay.add("a", &origin.rtmp_url("a"), &[])["code"], 0);
    let players: Vec<Player> = (0..4)
        .flat_map(|_| {
            [
                Player::http_flv(relay.http, "/live/a.live.flv"),
                Player::ws_flv(relay.http, "/live/a.live.flv"),
                Player::rtmp(relay.rtmp, "live", "a"),
            ]
        })
        .collect();
    players.iter().for_each(|player| player.wait_frames(kit::flv::Kind::Video, 10));
    let reply = relay.delete("a");
    let released = released(&reply);
    assert_eq!(released["players"], 12, "{reply}");
    assert!(released["sockets"].as_u64() >= Some(1), "{reply}");
    assert!(released["bytes"].as_u64() >= Some(1), "{reply}");
    for player in players {
        assert_ne!(player.wait_end(LIVENESS), End::Reset, "{}", player.what());
    }
    origin.wait_all_closed(LIVENESS);
    relay.assert_back_to(&start, "a live pull deleted");
    relay.stop();
}

#[test]
fn delete_of_an_absent_key_says_so() {
    let relay = Relay::start(2);
    let reply = relay.delete("nothing");
    assert_eq!((&reply["code"], &reply["data"]["flag"]), (&json!(0), &json!(false)), "{reply}");
    relay.stop();
}
