//! The relay under test: started on free ports, watched, and stopped with its ledger checked.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::spawn;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::http::Api;
use super::process::Process;
use super::{LIVENESS, TempDir, holds_within, pause, raise_file_limit, wait_until};

/// The secret of every relay in the tests.
pub const SECRET: &str = "kit-secret-0123456789";

/// SIGTERM must be done within 5 s; the rest is for a busy machine.
const STOP_BOUND: Duration = Duration::from_secs(10);

/// Listening sockets of a shard: HTTP, RTMP, RTSP.
const LISTENERS: usize = 3;

/// Looks at the descriptors of a relay that is asked nothing: half a second.
const QUIET_LOOKS: usize = 25;

/// Counts of what the relay holds, by kind.
pub type Ledger = BTreeMap<String, u64>;

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    pub process: Process,
    pub http: SocketAddr,
    pub rtmp: SocketAddr,
    pub rtsp: SocketAddr,
    pub shards: usize,
    pub api: Api,
    stdout: Receiver<String>,
    dir: TempDir,
}

impl Relay {
    /// A relay with so many shards and defaults for the rest.
    pub fn start(shards: usize) -> Self {
        Self::start_with(shards, "")
    }

    /// As [`Self::start`], with a config file.
    pub fn start_with(shards: usize, config: &str) -> Self {
        Self::start_at("127.0.0.1", shards, config)
    }

    /// As [`Self::start_with`], listening on this host.
    pub fn start_at(host: &str, shards: usize, config: &str) -> Self {
        raise_file_limit();
        let dir = TempDir::new("relay");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rillcast"));
        let any = format!("{host}:0");
        command.args(["serve", "--http", &any, "--rtmp", &any, "--rtsp", &any]);
        command.args(["--secret", SECRET]);
        command.args(["--shards", &shards.to_string(), "--log", "info"]);
        if !config.is_empty() {
            let file = dir.file("rillcast.toml");
            fs::write(&file, config).expect("a config file");
            command.arg("--config").arg(file);
        }
        command.stdout(Stdio::piped());
        let log = dir.file("stderr.log");
        let mut process = Process::start("rillcast", &mut command, log);
        let stdout = lines_of(&mut process);
        let ready = wait_line(&stdout, "ready ")
            .unwrap_or_else(|| panic!("no ready line: {}", process.log()));
        let field = |name: &str| {
            let value = ready.split(' ').find_map(|word| word.strip_prefix(&format!("{name}=")));
            value.unwrap_or_else(|| panic!("no {name} in {ready:?}")).to_owned()
        };
        let address = |name: &str| -> SocketAddr {
            field(name).parse().unwrap_or_else(|error| panic!("{name} in {ready:?}: {error}"))
        };
        let (http, rtmp, rtsp) = (address("http"), address("rtmp"), address("rtsp"));
        assert_eq!(field("shards"), shards.to_string(), "{ready}");
        let api = Api { address: http, secret: SECRET.to_owned() };
        Self { process, http, rtmp, rtsp, shards, api, stdout, dir }
    }

    pub fn rtmp_url(&self, stream: &str) -> String {
        format!("rtmp://{}/live/{stream}", self.rtmp)
    }

    pub fn rtsp_url(&self, stream: &str) -> String {
        format!("rtsp://{}/live/{stream}", self.rtsp)
    }

    pub fn flv_url(&self, stream: &str) -> String {
        format!("http://{}/live/{stream}.live.flv", self.http)
    }

    /// Calls the API with GET and the secret.
    #[track_caller]
    pub fn api(&self, name: &str, params: &[(&str, &str)]) -> Value {
        self.api.call(name, params)
    }

    /// `addStreamProxy` into `live/<stream>`, with more parameters.
    #[track_caller]
    pub fn add(&self, stream: &str, url: &str, more: &[(&str, &str)]) -> Value {
        self.api("addStreamProxy", &add_params(stream, url, more))
    }

    #[track_caller]
    pub fn delete(&self, stream: &str) -> Value {
        self.api("delStreamProxy", &[("key", &key(stream))])
    }

    /// `getProxyInfo`'s data; `None` when there is no such pull.
    #[track_caller]
    pub fn proxy(&self, stream: &str) -> Option<Value> {
        self.api("getProxyInfo", &[("key", &key(stream))]).get("data").cloned()
    }

    #[track_caller]
    pub fn is_online(&self, stream: &str) -> bool {
        let params = [
            ("schema", "rtmp"),
            ("vhost", "__defaultVhost__"),
            ("app", "live"),
            ("stream", stream),
        ];
        self.api("isMediaOnline", &params)["online"] == Value::Bool(true)
    }

    #[track_caller]
    pub fn wait_online(&self, stream: &str) {
        wait_until(LIVENESS, &format!("live/{stream} is registered"), || self.is_online(stream));
    }

    /// The schemas in which `getMediaList` shows a stream.
    #[track_caller]
    pub fn schemas(&self, stream: &str) -> Vec<String> {
        let list = self.api("getMediaList", &[("stream", stream)]);
        let media = list["data"].as_array().cloned().unwrap_or_default();
        let mut schemas: Vec<String> =
            media.iter().filter_map(|media| media["schema"].as_str().map(str::to_owned)).collect();
        schemas.sort();
        schemas
    }

    /// The sum of a metric over its labels, such as shards.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        sum(&self.samples(name))
    }

    /// What the relay holds, by kind, over all shards. The socket of the question counts.
    #[track_caller]
    pub fn ledger(&self) -> Ledger {
        ledger_of(&self.metrics())
    }

    /// Labels and value of each sample of a metric.
    #[track_caller]
    pub fn samples(&self, name: &str) -> Vec<(String, u64)> {
        let text = self.metrics();
        let samples = samples_of(&text, name);
        assert!(!samples.is_empty(), "no {name} in /metrics:\n{text}");
        samples
    }

    #[track_caller]
    fn metrics(&self) -> String {
        let reply = self.api.get("/metrics");
        assert_eq!(reply.status, 200, "/metrics");
        reply.text()
    }

    pub fn open_fds(&self) -> usize {
        let path = format!("/proc/{}/fd", self.process.child.id());
        fs::read_dir(path).expect("our child's descriptors").count()
    }

    /// What the relay holds, to come back to with [`Self::assert_back_to`], as soon as nothing of it is
    /// of something that has ended: no close is under way, and each socket listens or is that of a
    /// player, a waiter, a publisher, a pull or the question. So it is for moments in which each pull
    /// has one socket and no push is up.
    #[track_caller]
    pub fn holdings(&self) -> Holdings {
        let mut ledger = self.ledger();
        let is_settled = holds_within(LIVENESS, || {
            ledger = self.ledger();
            self.has_owners(&ledger)
        });
        assert!(is_settled, "it holds what nobody has: {ledger:?}");
        // The socket of the last question may still be open, on a busy host for long. Nobody asks here.
        let counts = (0..QUIET_LOOKS).map(|_| {
            pause(Duration::from_millis(20));
            self.open_fds()
        });
        let udp_pairs_free = self.udp_pairs_free();
        Holdings { ledger, fds: counts.min().expect("there are looks"), udp_pairs_free }
    }

    /// Whether what is held has somebody to whom it belongs.
    fn has_owners(&self, ledger: &Ledger) -> bool {
        let count = |kind: &str| *ledger.get(kind).expect("the ledger has it") as usize;
        let owners: usize = ["players", "waiters", "publishers", "pulls"].map(count).iter().sum();
        count("closings") == 0 && count("sockets") == LISTENERS * self.shards + owners + 1
    }

    #[track_caller]
    pub fn holdings_now(&self) -> Holdings {
        let text = self.metrics();
        let udp_pairs_free = sum(&samples_of(&text, UDP_PAIRS_FREE));
        Holdings { ledger: ledger_of(&text), fds: self.open_fds(), udp_pairs_free }
    }

    /// Pairs of UDP ports that nobody has.
    #[track_caller]
    pub fn udp_pairs_free(&self) -> u64 {
        self.metric(UDP_PAIRS_FREE)
    }

    /// Waits until so many pairs of UDP ports are free, as when all of their owners are gone.
    #[track_caller]
    pub fn wait_udp_pairs_free(&self, count: u64) {
        wait_until(LIVENESS, &format!("{count} pairs of ports are free"), || {
            self.udp_pairs_free() == count
        });
    }

    /// Ledger, descriptors and free ports are exactly as they were. Sockets of the kit that the relay has yet
    /// to see closed are waited for.
    #[track_caller]
    pub fn assert_back_to(&self, start: &Holdings, what: &str) {
        let mut now = None;
        let back = holds_within(LIVENESS, || {
            let current = self.holdings_now();
            let same = current == *start;
            now = Some(current);
            same
        });
        assert!(back, "{what}: holds {:?}, started with {start:?}", now.expect("looked once"));
    }

    /// SIGTERM: exit 0 in time, and the last line is a ledger of zeros.
    #[track_caller]
    pub fn stop(mut self) {
        self.process.signal(Signal::SIGTERM);
        self.assert_clean_exit();
    }

    #[track_caller]
    pub fn assert_clean_exit(&mut self) {
        let status = self.process.wait(STOP_BOUND);
        assert!(
            status.is_some_and(|status| status.success()),
            "exit after SIGTERM: {status:?}\n{}",
            self.process.log()
        );
        let mut last = String::new();
        while let Ok(line) = self.stdout.recv_timeout(LIVENESS) {
            last = line;
        }
        assert_zero_ledger(&last);
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn dir(&self) -> &TempDir {
        &self.dir
    }
}

/// A moment's ledger, open descriptors and free ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    pub ledger: Ledger,
    pub fds: usize,
    pub udp_pairs_free: u64,
}

/// Labels and value of each sample of a metric in a page of them.
fn samples_of(text: &str, name: &str) -> Vec<(String, u64)> {
    let sample = |line: &str| {
        let (head, value) = line.rsplit_once(' ')?;
        let (found, labels) = head.split_once('{').unwrap_or((head, ""));
        let value = value.parse::<f64>().ok()? as u64;
        (found == name).then(|| (labels.to_owned(), value))
    };
    text.lines().filter_map(sample).collect()
}

fn sum(samples: &[(String, u64)]) -> u64 {
    samples.iter().map(|(_, value)| value).sum()
}

/// The value of a label.
#[track_caller]
pub fn label(labels: &str, name: &str) -> String {
    let value = labels.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
    value.unwrap_or_else(|| panic!("no {name} in {labels:?}")).to_owned()
}

#[track_caller]
fn ledger_of(text: &str) -> Ledger {
    let mut ledger = Ledger::new();
    for (labels, value) in samples_of(text, "rillcast_ledger") {
        *ledger.entry(label(&labels, "kind")).or_default() += value;
    }
    assert!(!ledger.is_empty(), "no rillcast_ledger in /metrics");
    ledger
}

const UDP_PAIRS_FREE: &str = "rillcast_udp_port_pairs_free";

/// The kinds that the last line must name.
const LEDGER_KINDS: [&str; 9] = [
    "sockets",
    "timers",
    "players",
    "waiters",
    "publishers",
    "pulls",
    "streams",
    "replicas",
    "log_bytes",
];

/// `ledger sockets=0 timers=0 ...`
#[track_caller]
pub fn assert_zero_ledger(line: &str) {
    let rest = line.strip_prefix("ledger ").unwrap_or_else(|| panic!("no ledger line: {line:?}"));
    let counts: BTreeMap<&str, &str> =
        rest.split(' ').filter_map(|word| word.split_once('=')).collect();
    for kind in LEDGER_KINDS {
        assert!(counts.contains_key(kind), "no {kind} in {line:?}");
    }
    assert!(counts.values().all(|count| *count == "0"), "not all released: {line:?}");
}

/// The lines of a process's standard output, as they come.
pub fn lines_of(process: &mut Process) -> Receiver<String> {
    let stdout = process.child.stdout.take().expect("standard output is piped");
    let (sender, receiver) = channel();
    spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The first line that begins with `start`; `None` when there is none until the end.
pub fn wait_line(lines: &Receiver<String>, start: &str) -> Option<String> {
    loop {
        let line = lines.recv_timeout(LIVENESS).ok()?;
        if line.starts_with(start) {
            return Some(line);
        }
    }
}

/// The key of `live/<stream>`.
pub fn key(stream: &str) -> String {
    format!("__defaultVhost__/live/{stream}")
}

/// Parameters of `addStreamProxy` into `live/<stream>`.
pub fn add_params<'a>(
    stream: &'a str,
    url: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let base = [("vhost", "__defaultVhost__"), ("app", "live"), ("stream", stream), ("url", url)];
    [&base, more].concat()
}

/// The binary with any arguments, run to its end: exit code, standard output and error.
#[track_caller]
pub fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let dir = TempDir::new("run");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rillcast"));
    let out = dir.file("stdout.log");
    command.args(args).stdout(File::create(&out).expect("a file"));
    let mut process = Process::start("rillcast", &mut command, dir.file("stderr.log"));
    let status = process.wait(LIVENESS).unwrap_or_else(|| panic!("{args:?} does not end"));
    (status.code(), fs::read_to_string(out).expect("standard output"), process.log())
}
