//! Cancel anywhere, over RTSP: a pull is ended in each way at each stage at which a camera can hang. The
//! camera sees its sockets closed, the pending add is answered, the relay says what it gave back and
//! holds exactly what it held before, ports included, and the name is free at once.

mod kit;

use kit::camera::{Access, Camera, Habits, Stage};
use kit::cancel::Cancel;
use kit::fault::{Mode, Origin};
use kit::flv::Kind;
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
    /// Each attempt fails at once: the pull is backing off.
    Refused,
    Closed(Stage),
}

impl Hang {
    fn all() -> Vec<Self> {
        let at = Stage::ALL.map(Self::At);
        let redirected = [Stage::Options, Stage::SecondSetup].map(Self::Redirected);
        let closed = [Stage::Describe, Stage::SecondSetup].map(Self::Closed);
        let login = Self::At(Stage::Login);
        let rest = [Self::Connecting, login, Self::RedirectedConnecting, Self::Playing];
        [&rest[..], &at, &redirected, &[Self::Refused], &closed].concat()
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
        let relay = Relay::start(shards);
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
            Hang::At(stage) => self.camera.wait_reached(before[0], stage),
            Hang::Playing => self.camera.wait_reached(before[0], Stage::Media),
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
        let what = format!("live, {:?}, {cancel:?}", self.lower);
        self.camera.set(Habits::default());
        let reply = self.relay.add("a", &self.camera.url(), &[rtp_type(self.lower)]);
        assert_eq!(reply["code"], 0, "{what}: {reply}");
        let flv = Player::http_flv(self.relay.http, "/live/a.live.flv");
        let rtsp = [Lower::Tcp, Lower::Udp]
            .map(|lower| RtspPlayer::start(self.relay.rtsp, &self.relay.rtsp_url("a"), lower));
        flv.wait_frames(Kind::Video, 5);
        rtsp.iter().for_each(|player| player.wait_units(Kind::Video, 5));
        let released = cancel.end(&self.relay, "rtsp", &what);
        assert_eq!(released["players"], 3, "{what}: {released}");
        assert!(released["bytes"].as_u64() > Some(0), "{what}: {released}");
        flv.wait_end(LIVENESS);
        rtsp.iter().for_each(|player| drop(player.wait_end(LIVENESS)));
        drop((flv, rtsp));
        self.assert_gone(&what);
    }
}

fn rtp_type(lower: Lower) -> (&'static str, &'static str) {
    ("rtp_type", if lower == Lower::Tcp { "0" } else { "1" })
}

/// None of them is to end a pull here.
const TIMEOUT: (&str, &str) = ("timeout_sec", "30");
const MEDIA_TIMEOUT: (&str, &str) = ("media_timeout_ms", "30000");

#[track_caller]
fn is_deleted_anywhere(lower: Lower) {
    let bench = Bench::new(lower, 2);
    for hang in Hang::all() {
        bench.cancel_async(hang, Cancel::Delete);
        bench.cancel_blocking(hang, Cancel::Delete);
    }
    bench.cancel_live(Cancel::Delete);
    bench.relay.stop();
}

#[track_caller]
fn is_closed_anywhere(lower: Lower, shards: usize) {
    let bench = Bench::new(lower, shards);
    for hang in Hang::all() {
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
