//! Cancel anywhere, over RTSP: a pull is ended in each way at each stage at which a camera can hang. The
//! camera sees its sockets closed, the pending add is answered, the relay says what it gave back and
//! holds exactly what it held before, ports included, and the name is free at once.

mod kit;

use std::time::Duration;

use kit::camera::{Access, Camera, Habits, Stage};
use kit::cancel::Cancel;
use kit::fault::{Mode, Origin};
use kit::flv::Kind;
use kit::name_server::NameServer;
use kit::namespace::Namespace;
use kit::relay::{Holdings, add_params};
use kit::rtsp::Lower;
use kit::rtsp_player::RtspPlayer;
use kit::{LIVENESS, Player, Relay, wait_until};
use serde_json::Value;

/// How far a pull comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hang {
    /// The kernel answers no SYN.
    Connecting,
    /// The camera answers nothing from here on.
    At(Stage),
    /// The camera plays.
    Playing,
    /// The same of the camera that the first one sends to.
    Redirected(Stage),
    /// The camera sends to where no SYN is answered.
    RedirectedConnecting,
    /// The camera takes no UDP, and answers nothing from here on of what is asked over TCP instead.
    FallenBack(Stage),
    /// Each attempt fails at once: the pull is backing off.
    Refused,
    Closed(Stage),
}

impl Hang {
    fn all(lower: Lower) -> Vec<Self> {
        let at = Stage::ALL.map(Self::At);
        let fallen_back = FALLEN_BACK.map(Self::FallenBack);
        let fallen_back = if lower == Lower::Udp { &fallen_back[..] } else { &[] };
        let redirected = [Stage::Options, Stage::SecondSetup].map(Self::Redirected);
        let closed = [Stage::Describe, Stage::SecondSetup].map(Self::Closed);
        let login = Self::At(Stage::Login);
        let rest = [Self::Connecting, login, Self::RedirectedConnecting, Self::Playing];
        [&rest[..], &at, &redirected, fallen_back, &[Self::Refused], &closed].concat()
    }

    fn is_failing(self) -> bool {
        matches!(self, Self::Refused | Self::Closed(_))
    }

    /// Some media comes of it, which is all that an add waits for.
    fn brings_media(self, lower: Lower) -> bool {
        self == Self::Playing || self == Self::At(Stage::MidPacket) && lower == Lower::Udp
    }

    /// Sockets that a pull has there: its connection, and the pairs of the tracks that it has begun to
    /// set up. `None` where it depends on the moment.
    fn sockets(self, lower: Lower) -> Option<u64> {
        let pairs = match self {
            Self::At(stage) | Self::Redirected(stage) => match stage {
                Stage::Options | Stage::Describe | Stage::Login => 0,
                Stage::Setup => 1,
                Stage::SecondSetup | Stage::Play | Stage::Media | Stage::MidPacket => 2,
            },
            Self::Playing => 2,
            Self::Connecting | Self::RedirectedConnecting => 0,
            // Given back as soon as it was refused; all that the try has had is told.
            Self::FallenBack(_) => 1,
            Self::Refused | Self::Closed(_) => return None,
        };
        Some(if lower == Lower::Udp { 1 + 2 * pairs } else { 1 })
    }
}

/// The relay, cameras, and what was held before any of it.
struct Bench {
    relay: Relay,
    camera: Camera,
    /// Where the camera may send to.
    other: Camera,
    /// Answers no SYN, or refuses.
    dead: Origin,
    lower: Lower,
    start: Holdings,
}

impl Bench {
    fn new(lower: Lower, shards: usize) -> Self {
        Self::new_with(lower, shards, "")
    }

    fn new_with(lower: Lower, shards: usize, config: &str) -> Self {
        let relay = Relay::start_with(shards, config);
        let [camera, other] = [(); 2].map(|()| Camera::start(Habits::default()));
        let dead = Origin::start(Mode::Refused);
        // One whole life first, so that what stays allocated for good is there.
        let rtp_type = rtp_type(lower);
        assert_eq!(relay.add("a", &camera.url(), &[rtp_type])["code"], 0);
        assert_eq!(relay.delete("a")["data"]["flag"], true);
        camera.wait_all_closed();
        let start = relay.holdings();
        Self { relay, camera, other, dead, lower, start }
    }

    /// What the peers are to do; the URL to pull.
    fn prepare(&self, hang: Hang) -> String {
        let url = self.camera.url();
        let dead = format!("rtsp://127.0.0.1:{}/cam", self.dead.port());
        let to = |url: &str| Habits { redirect: Some(url.to_owned()), ..Habits::default() };
        let stalled = |stage| Habits { stall: Some(stage), ..Habits::default() };
        match hang {
            Hang::Connecting => {
                self.dead.set(Mode::SynDropped);
                return dead;
            }
            Hang::Refused => {
                self.dead.set(Mode::Refused);
                return dead;
            }
            Hang::At(Stage::Login) => {
                let access = Some(Access::DigestMd5);
                self.camera.set(Habits { access, ..stalled(Stage::Login) });
                return url.replace("rtsp://", "rtsp://admin:p%40ss%3Aword@");
            }
            Hang::At(stage) => self.camera.set(stalled(stage)),
            Hang::Playing => self.camera.set(Habits::default()),
            Hang::FallenBack(stage) => {
                self.camera.set(Habits { udp_refused: true, ..stalled(stage) });
            }
            Hang::Redirected(stage) => {
                self.camera.set(to(&self.other.url()));
                self.other.set(stalled(stage));
            }
            Hang::RedirectedConnecting => {
                self.dead.set(Mode::SynDropped);
                self.camera.set(to(&dead));
            }
            Hang::Closed(stage) => {
                self.camera.set(Habits { drop: Some(stage), ..Habits::default() });
            }
        }
        url
    }

    /// Waits until the pull is there. `before`: the connections that the cameras had.
    #[track_caller]
    fn wait_hang(&self, hang: Hang, before: [usize; 2], what: &str) {
        match hang {
            Hang::Playing => self.camera.wait_reached(before[0], Stage::Media),
            Hang::At(stage) => self.camera.wait_reached(before[0], stage),
            Hang::FallenBack(stage) => {
                self.camera.wait_reached(before[0], stage);
                self.relay.wait_udp_pairs_free(self.start.udp_pairs_free);
            }
            Hang::Redirected(stage) => self.other.wait_reached(before[1], stage),
            Hang::Connecting | Hang::RedirectedConnecting => {
                wait_until(LIVENESS, &format!("{what}: a SYN is out"), || {
                    self.dead.half_open_count() == 1
                });
                // It may be heard of before its first connection is seen to be closed.
                self.camera.wait_all_closed();
            }
            Hang::Refused | Hang::Closed(_) => {
                wait_until(LIVENESS, &format!("{what}: an attempt fails"), || {
                    let proxy = self.relay.proxy("a");
                    let proxy = proxy.unwrap_or_else(|| panic!("{what}: not kept"));
                    proxy["lastError"].is_string()
                });
            }
        }
    }

    fn before(&self) -> [usize; 2] {
        [&self.camera, &self.other].map(|camera| camera.connections().len())
    }

    #[track_caller]
    fn end(&self, hang: Hang, cancel: Cancel, what: &str) {
        let released = cancel.end(&self.relay, "rtsp", what);
        self.assert_released(hang, &released, what);
    }

    /// What was given back is what such a pull holds, and ports are free when the reply comes.
    #[track_caller]
    fn assert_released(&self, hang: Hang, released: &Value, what: &str) {
        if let Some(sockets) = hang.sockets(self.lower) {
            assert_eq!(released["sockets"], sockets, "{what}: {released}");
        }
        assert_eq!(self.relay.udp_pairs_free(), self.start.udp_pairs_free, "{what}");
    }

    #[track_caller]
    fn assert_gone(&self, what: &str) {
        self.camera.wait_all_closed();
        self.other.wait_all_closed();
        assert_eq!(self.dead.half_open_count(), 0, "{what}: a SYN is still out");
        self.relay.assert_back_to(&self.start, what);
    }

    /// An add that answers at once, then the cancel, and the name again.
    #[track_caller]
    fn cancel_async(&self, hang: Hang, cancel: Cancel) {
        let what = format!("{hang:?}, {:?}, async, {cancel:?}", self.lower);
        let (url, before) = (self.prepare(hang), self.before());
        let more = [("async", "1"), ("force", "1"), TIMEOUT, MEDIA_TIMEOUT, rtp_type(self.lower)];
        let reply = self.relay.add("a", &url, &more);
        assert_eq!(reply["code"], 0, "{what}: {reply}");
        self.wait_hang(hang, before, &what);
        self.end(hang, cancel, &what);
        self.assert_gone(&what);
        self.other.set(Habits::default());
        let reply = self.relay.add("a", &self.other.url(), &[rtp_type(self.lower)]);
        assert_eq!(reply["code"], 0, "{what}: again: {reply}");
        assert_eq!(self.relay.delete("a")["data"]["flag"], true, "{what}");
        self.assert_gone(&what);
    }

    /// An add that waits for the first media, then the cancel: the add is answered, before it where there
    /// is some.
    #[track_caller]
    fn cancel_blocking(&self, hang: Hang, cancel: Cancel) {
        let what = format!("{hang:?}, {:?}, blocking, {cancel:?}", self.lower);
        let (url, before) = (self.prepare(hang), self.before());
        let more = [TIMEOUT, MEDIA_TIMEOUT, rtp_type(self.lower)];
        let add = self.relay.api.call_later("addStreamProxy", &add_params("a", &url, &more));
        if hang.brings_media(self.lower) {
            let reply = add.join().expect("a reply");
            assert_eq!(reply["code"], 0, "{what}: {reply}");
            self.end(hang, cancel, &what);
            return self.assert_gone(&what);
        }
        if !hang.is_failing() {
            self.wait_hang(hang, before, &what);
            assert!(!add.is_finished(), "{what}: answered while it hangs");
            self.end(hang, cancel, &what);
        }
        let reply = add.join().expect("a reply");
        assert_eq!(reply["code"], -1, "{what}: {reply}");
        assert!(reply["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{what}: {reply}");
        self.assert_gone(&what);
    }

    /// A pull that is up, with players of both forms.
    #[track_caller]
    fn cancel_live(&self, cancel: Cancel) {
        self.camera.set(Habits::default());
        self.cancel_playing(cancel, &format!("live, {:?}, {cancel:?}", self.lower), || {});
    }

    /// The same of one whose camera sends it elsewhere while it plays: its players stay while it hangs there.
    #[track_caller]
    fn cancel_redirected(&self, stage: Stage, cancel: Cancel) {
        let what = format!("sent elsewhere, {stage:?}, {:?}, {cancel:?}", self.lower);
        let redirect_later = Some((Duration::from_secs(1), self.other.url()));
        self.camera.set(Habits { redirect_later, ..Habits::default() });
        self.other.set(Habits { stall: Some(stage), ..Habits::default() });
        let before = self.other.connections().len();
        self.cancel_playing(cancel, &what, || {
            self.other.wait_reached(before, stage);
            self.camera.wait_all_closed();
        });
    }

    #[track_caller]
    fn cancel_playing(&self, cancel: Cancel, what: &str, wait: impl FnOnce()) {
        let more = [TIMEOUT, MEDIA_TIMEOUT, rtp_type(self.lower)];
        let reply = self.relay.add("a", &self.camera.url(), &more);
        assert_eq!(reply["code"], 0, "{what}: {reply}");
        let flv = Player::http_flv(self.relay.http, "/live/a.live.flv");
        let rtsp = LOWERS
            .map(|lower| RtspPlayer::start(self.relay.rtsp, &self.relay.rtsp_url("a"), lower));
        flv.wait_frames(Kind::Video, 5);
        rtsp.iter().for_each(|player| player.wait_units(Kind::Video, 5));
        wait();
        let released = cancel.end(&self.relay, "rtsp", what);
        assert_eq!(released["players"], 3, "{what}: {released}");
        assert!(released["bytes"].as_u64() > Some(0), "{what}: {released}");
        flv.wait_end(LIVENESS);
        rtsp.iter().for_each(|player| drop(player.wait_end(LIVENESS)));
        drop((flv, rtsp));
        self.assert_gone(what);
    }
}

/// Of the stages over TCP.
const FALLEN_BACK: [Stage; 4] = [Stage::Setup, Stage::SecondSetup, Stage::Play, Stage::Media];

fn rtp_type(lower: Lower) -> (&'static str, &'static str) {
    ("rtp_type", if lower == Lower::Tcp { "0" } else { "1" })
}

const LOWERS: [Lower; 2] = [Lower::Tcp, Lower::Udp];

const CANCELS: [Cancel; 3] = [Cancel::Delete, Cancel::CloseStreams, Cancel::CloseStream];

/// None of them is to end a pull here.
const TIMEOUT: (&str, &str) = ("timeout_sec", "30");
const MEDIA_TIMEOUT: (&str, &str) = ("media_timeout_ms", "30000");

#[track_caller]
fn is_deleted_anywhere(lower: Lower) {
    let bench = Bench::new(lower, 2);
    for hang in Hang::all(lower) {
        bench.cancel_async(hang, Cancel::Delete);
        bench.cancel_blocking(hang, Cancel::Delete);
    }
    bench.cancel_live(Cancel::Delete);
    bench.relay.stop();
}

#[track_caller]
fn is_closed_anywhere(lower: Lower, shards: usize) {
    let bench = Bench::new(lower, shards);
    for hang in Hang::all(lower) {
        bench.cancel_async(hang, Cancel::CloseStreams);
        bench.cancel_blocking(hang, Cancel::CloseStreams);
        bench.cancel_async(hang, Cancel::CloseStream);
    }
    bench.cancel_live(Cancel::CloseStreams);
    bench.cancel_live(Cancel::CloseStream);
    bench.relay.stop();
}

#[test]
fn pull_over_tcp_is_deleted_at_any_stage() {
    is_deleted_anywhere(Lower::Tcp);
}

#[test]
fn pull_over_udp_is_deleted_at_any_stage() {
    is_deleted_anywhere(Lower::Udp);
}

#[test]
fn pull_over_tcp_is_closed_by_force_at_any_stage() {
    is_closed_anywhere(Lower::Tcp, 1);
}

#[test]
fn pull_over_udp_is_closed_by_force_at_any_stage() {
    is_closed_anywhere(Lower::Udp, 2);
}

#[test]
fn pull_that_is_sent_elsewhere_while_it_plays_is_ended_at_any_stage() {
    for lower in LOWERS {
        // Up for long enough that it is followed at once.
        let bench = Bench::new_with(lower, 2, kit::config::RETRY_SOON);
        for stage in Stage::ALL {
            bench.cancel_redirected(stage, Cancel::Delete);
        }
        bench.cancel_redirected(Stage::SecondSetup, Cancel::CloseStreams);
        bench.cancel_redirected(Stage::SecondSetup, Cancel::CloseStream);
        bench.relay.stop();
    }
}

/// An add that answers at once and one that waits, each ended by each call while it is in this state, in
/// which it has no socket.
#[track_caller]
fn is_ended_in_state(relay: &Relay, url: &str, state: &str, is_there: impl Fn() -> bool) {
    let wait = || {
        wait_until(LIVENESS, state, || {
            relay.proxy("a").is_some_and(|proxy| proxy["state"] == state) && is_there()
        });
    };
    for (at, cancel) in CANCELS.into_iter().enumerate() {
        let what = format!("{state}, {cancel:?}");
        let more = [TIMEOUT, MEDIA_TIMEOUT, rtp_type(LOWERS[at % 2])];
        let more_async = [&more[..], &[("async", "1"), ("force", "1")]].concat();
        let reply = relay.add("a", url, &more_async);
        assert_eq!(reply["code"], 0, "{what}: {reply}");
        wait();
        assert_eq!(cancel.end(relay, "rtsp", &what)["sockets"], 0, "{what}");
        let add = relay.api.call_later("addStreamProxy", &add_params("a", url, &more));
        wait();
        assert!(!add.is_finished(), "{what}: answered while it waits");
        assert_eq!(cancel.end(relay, "rtsp", &what)["sockets"], 0, "{what}");
        assert_eq!(add.join().expect("a reply")["code"], -1, "{what}");
    }
}

/// One pull at a time may connect to the camera, and another one does.
#[test]
fn pull_is_ended_while_it_waits_for_its_origins_budget() {
    let relay = Relay::start_with(1, &kit::config::connects_per_origin_max(1));
    let dead = Origin::start(Mode::SynDropped);
    let url = format!("rtsp://127.0.0.1:{}/cam", dead.port());
    let more = [("async", "1"), ("force", "1"), ("timeout_sec", "60")];
    assert_eq!(relay.add("other", &url, &more)["code"], 0);
    wait_until(LIVENESS, "a SYN is out", || dead.half_open_count() == 1);
    let start = relay.holdings();
    is_ended_in_state(&relay, &url, "queued", || true);
    assert_eq!(dead.half_open_count(), 1, "it has its turn after all");
    relay.assert_back_to(&start, "nothing of what was queued is left");
    assert_eq!(relay.delete("other")["data"]["flag"], true);
    let camera = Camera::start(Habits::default());
    assert_eq!(relay.add("a", &camera.url(), &[])["code"], 0, "the name is free");
    assert_eq!(relay.delete("a")["data"]["flag"], true);
    camera.wait_all_closed();
    relay.stop();
}

/// A lookup cannot be called off: what waits for it can.
#[test]
fn pull_is_ended_while_its_camera_is_looked_up() {
    Namespace::new().run(|| {
        let relay = Relay::start(2);
        let names = NameServer::start();
        let camera = Camera::start(Habits::default());
        assert_eq!(relay.add("a", &camera.url(), &[])["code"], 0);
        assert_eq!(relay.delete("a")["data"]["flag"], true);
        camera.wait_all_closed();
        let start = relay.holdings();
        is_ended_in_state(&relay, "rtsp://camera.example:554/cam", "resolving", || {
            names.asked() > 0
        });
        let is_back = || relay.ledger() == start.ledger;
        wait_until(LIVENESS, "all is back but what the lookup has", is_back);
        assert_eq!(relay.add("a", &camera.url(), &[])["code"], 0, "the name is free");
        names.answer();
        assert_eq!(relay.delete("a")["data"]["flag"], true);
        camera.wait_all_closed();
        relay.assert_back_to(&start, "a late answer changes nothing");
        relay.stop();
    });
}
