//! The test kit: peers, a relay under test, fault origins, players that keep what they got.
//!
//! Each end-to-end test crate has `mod kit;`. A missing peer (ffmpeg, nginx) fails the test; it
//! never skips it. Bounds here are for liveness only: no test asserts how fast something was.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test crate uses its own part of the kit"
)]
#![allow(clippy::disallowed_methods, reason = "end-to-end tests wait for real peers on real time")]

pub mod browser;
pub mod camera;
pub mod cancel;
pub mod compare;
pub mod config;
pub mod fault;
pub mod ffmpeg;
pub mod flv;
pub mod gst_server;
pub mod hook_server;
pub mod http;
pub mod load;
pub mod name_server;
pub mod namespace;
pub mod nginx;
pub mod player;
pub mod process;
pub mod relay;
pub mod rtmp;
pub mod rtmp_destination;
pub mod rtmp_player;
pub mod rtmp_publisher;
pub mod rtp;
pub mod rtp_media;
pub mod rtsp;
pub mod rtsp_crowd;
pub mod rtsp_peers;
pub mod rtsp_player;
pub mod rtsp_publisher;
pub mod sse;
pub mod tape;
pub mod tshark;
pub mod units;
pub mod ws_player;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use ffmpeg::{Modern, Publisher};
pub use hook_server::{Answer, HookServer};
pub use http::Api;
pub use nginx::Nginx;
pub use player::Player;
pub use relay::Relay;
pub use rtmp_destination::Destination;
pub use rtmp_publisher::Interleaver;
pub use sse::Follower;

/// How long anything may take that must happen at all, on a busy two-core machine.
pub const LIVENESS: Duration = Duration::from_secs(20);

/// Waits until `holds` is true; panics with `what` after `bound`.
#[track_caller]
pub fn wait_until(bound: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    assert!(holds_within(bound, &mut holds), "not within {bound:?}: {what}");
}

/// Whether `holds` becomes true within `bound`.
pub fn holds_within(bound: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + bound;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
}

/// Gives the peers time to do what they must not do. Never used to wait for what must happen.
pub fn pause(time: Duration) {
    sleep(time);
}

/// A file of tests/media.
pub fn media(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/media").join(name);
    assert!(path.is_file(), "{} is missing; tests/media/make makes it", path.display());
    path
}

/// A directory of its own, removed when dropped unless the test is failing.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(what: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{what}-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a directory in target/tmp");
        Self(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // What is left behind is in target/tmp and harms nothing.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Numbers that look like noise, the same each time.
pub fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}

/// Raises the soft limit of open files to the hard one, for tests with thousands of sockets. The
/// processes that the test starts inherit it.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of open files");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("soft limit up to the hard one");
}
