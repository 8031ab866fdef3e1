//! Chromium without a window, playing with mpegts.js.
//!
//! A server of a few lines gives it a page and takes its reports: what each `<video>` has decoded.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::spawn;
use std::time::Duration;

use serde_json::Value;

use super::process::Process;
use super::{LIVENESS, TempDir, holds_within};

/// Where `./test` puts the library.
const MPEGTS_JS: &str = "target/node/node_modules/mpegts.js/dist/mpegts.js";

/// Starting it takes seconds on a busy machine.
const BROWSER_BOUND: Duration = Duration::from_secs(60);

const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><script src="/mpegts.js"></script><script>
const players = URLS.map(url => {
  const video = document.createElement("video");
  video.muted = true;
  document.body.append(video);
  const player = mpegts.createPlayer({ type: "flv", isLive: true, url });
  const state = { url, errors: [], media: null };
  player.on(mpegts.Events.ERROR, (...what) => state.errors.push(what.slice(0, 2).join(" ")));
  player.on(mpegts.Events.MEDIA_INFO, info => state.media = info.mimeType);
  player.attachMediaElement(video);
  player.load();
  player.play().catch(error => state.errors.push(String(error)));
  return { video, state };
});
setInterval(() => fetch("/report", { method: "POST", body: JSON.stringify(players.map(
  ({ video, state }) => ({
    ...state,
    time: video.currentTime,
    width: video.videoWidth,
    height: video.videoHeight,
    frames: video.getVideoPlaybackQuality().totalVideoFrames,
    audioBytes: video.webkitAudioDecodedByteCount,
  }))) }), 200);
</script>"#;

/// A browser with a page that plays.
#[derive(Debug)]
pub struct Browser {
    process: Process,
    reports: Arc<Mutex<Value>>,
    _dir: TempDir,
}

impl Browser {
    /// Plays FLV from these URLs, `http://` or `ws://`, each in a `<video>` of its own.
    pub fn play(urls: &[String]) -> Self {
        let reports = Arc::new(Mutex::new(Value::Null));
        let page = format!("<body>{}", PAGE.replace("URLS", &format!("{urls:?}")));
        let port = serve(page, Arc::clone(&reports));
        let dir = TempDir::new("browser");
        let mut command = Command::new("chromium");
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio"]);
        command.args(["--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"]);
        command.arg("--autoplay-policy=no-user-gesture-required");
        command.arg(format!("--user-data-dir={}", dir.path().display()));
        command.arg(format!("http://127.0.0.1:{port}/")).stdout(Stdio::null());
        let process = Process::start("chromium", &mut command, dir.file("stderr.log"));
        Self { process, reports, _dir: dir }
    }

    /// Waits until each player's last report satisfies `holds`.
    #[track_caller]
    pub fn wait(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut last = Value::Null;
        let held = holds_within(BROWSER_BOUND, || {
            assert!(self.process.is_running(), "chromium ended: {}", self.process.log());
            last = self.reports.lock().expect("no panic while locked").clone();
            last.as_array().is_some_and(|players| players.iter().all(&holds))
        });
        assert!(held, "{what}: {last:#}");
        last.as_array().expect("just seen").clone()
    }

    pub fn stop(mut self) {
        self.process.terminate(LIVENESS);
    }
}

/// Serves the page, the library and the reports' place, each connection on a thread of its own.
fn serve(page: String, reports: Arc<Mutex<Value>>) -> u16 {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join(MPEGTS_JS);
    let library = std::fs::read(&library)
        .unwrap_or_else(|error| panic!("{} ({error}); ./test installs it", library.display()));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port();
    let files = Arc::new((page, library));
    spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let (files, reports) = (Arc::clone(&files), Arc::clone(&reports));
            // A browser that is gone wants no answer.
            spawn(move || answer(socket, &files, &reports).ok());
        }
    });
    port
}

fn answer(
    mut socket: TcpStream,
    (page, library): &(String, Vec<u8>),
    reports: &Mutex<Value>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    let (line, body_start, body_len) = loop {
        let len = socket.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&buffer[..len]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let len = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        break (head.lines().next().unwrap_or_default().to_owned(), end + 4, len.unwrap_or(0));
    };
    while bytes.len() < body_start + body_len {
        let len = socket.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&buffer[..len]);
    }
    let (kind, body): (&str, &[u8]) = if line.starts_with("POST /report ") {
        if let Ok(report) = serde_json::from_slice(&bytes[body_start..]) {
            *reports.lock().expect("no panic while locked") = report;
        }
        ("text/plain", b"")
    } else if line.starts_with("GET /mpegts.js ") {
        ("text/javascript", library)
    } else {
        ("text/html", page.as_bytes())
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes())?;
    socket.write_all(body)
}
