//! The command line.

#![allow(clippy::print_stdout, reason = "what the commands print is their result")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::close;
use tracing::{debug, info, warn};

use crate::api;
use crate::clock;
use crate::config::{
    AccessSection, Config, ConfigSource, CpuList, NewestConfig, Overrides, RtspSection,
};
use crate::demo;
use crate::doctor;
use crate::events::Keeper;
use crate::journal::Journal;
use crate::limits::{DESCRIPTORS_AT_START_MAX, PROBE_TIMEOUT_MS_MAX};
use crate::load;
use crate::logging;
use crate::media::SourceUrl;
use crate::media::codec::VideoParameters;
use crate::media::state::Fault;
use crate::net::resolver::Resolver;
use crate::net::{
    self, Call, ConfigReader, Handler, Kept, MakeHandler, Node, NodeHandle, ProbeRequest, Reply,
    Setup,
};
use crate::proto::rtsp::LowerTransport;
use crate::shard::ledger::Ledger;
use crate::stream::tracks::Track;

#[derive(Parser)]
#[command(name = "rillcast", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the relay.
    Serve(ServeOptions),
    /// Run the relay with an origin of its own, a pull of it and a pull that never comes up.
    Demo(DemoOptions),
    /// Load a live server, ours or another one, and measure what it does.
    #[command(subcommand)]
    Load(load::Command),
    /// Ask a running relay what a stream is doing and why it is slow or absent.
    Why(WhyOptions),
    /// Look at an origin as a pull would: each step with its time, or what failed.
    ///
    /// Exit code: 0 when it delivers, 1 when it does not.
    Probe {
        url: String,
        /// Seconds for all of it.
        #[arg(long, value_name = "S", default_value_t = 10)]
        timeout: u64,
    },
    /// Check a config file: that it is ok, or what is wrong with it and where.
    CheckConfig { file: PathBuf },
    /// Look at this host: what is fine, what costs performance, and what to do about it.
    ///
    /// Exit code: 0, or 1 where something costs performance, or 2 where the relay would not start.
    #[command(verbatim_doc_comment)]
    Doctor(doctor::Options),
}

#[derive(Args)]
struct ServeOptions {
    /// Config file (TOML); see docs/rillcast.example.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of HTTP-FLV, WebSocket-FLV and the API.
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    #[arg(long, value_name = "ADDR")]
    rtmp: Option<SocketAddr>,
    #[arg(long, value_name = "ADDR")]
    rtsp: Option<SocketAddr>,
    /// Shards, one CPU each; 0 for all CPUs that the process may use.
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// CPUs that shards may use, such as 0-3,8.
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,
    /// Folder in which pulls that the API added survive a restart. Without one nothing is kept.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Secret of the API. Without one it is generated and printed once.
    #[arg(long, value_name = "S")]
    secret: Option<String>,
    /// Log filter, such as info or warn,rillcast::net=debug.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Args)]
struct WhyOptions {
    /// The stream: vhost/app/stream.
    key: String,
    /// Where the relay's API is.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    api: String,
    /// Secret of the API.
    #[arg(long, value_name = "S")]
    secret: String,
}

#[derive(Args)]
pub(crate) struct DemoOptions {
    /// Address of HTTP-FLV, WebSocket-FLV and the API.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) http: SocketAddr,
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1935")]
    pub(crate) rtmp: SocketAddr,
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8554")]
    pub(crate) rtsp: SocketAddr,
    /// Stop by itself after so many seconds.
    #[arg(long, value_name = "S")]
    pub(crate) seconds: Option<u64>,
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(options) => serve(options),
        Command::Demo(options) => demo::run(&options),
        Command::Load(command) => run_load(&command),
        Command::Why(options) => why(&options),
        Command::Probe { url, timeout } => probe(&url, timeout),
        Command::CheckConfig { file } => check_config(&file),
        Command::Doctor(options) => Ok(doctor::run(&options)),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rillcast: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One line for the operator: what stood in the way, and what to do about it.
pub(crate) type Failure = Box<dyn std::error::Error>;

fn check_config(file: &Path) -> Result<ExitCode, Failure> {
    let config = Config::load(file)?;
    // What decides is the machine that it is served on; this may be another one.
    let shards = match usize::from(config.server.shards) {
        0 => cpus_of(&config).map_or(1, |cpus| cpus.len()),
        shards => shards,
    };
    for warning in config.warnings(shards) {
        eprintln!("{}: {warning}", file.display());
    }
    println!("{}: ok", file.display());
    Ok(ExitCode::SUCCESS)
}

/// Prints the cause and, below it, the whole answer.
fn why(options: &WhyOptions) -> Result<ExitCode, Failure> {
    let api = load::api::Api::new(&options.api, &options.secret, WHY_TIMEOUT)?;
    let mut reply = api.call("why", &[("key", &options.key)])?;
    if reply["code"] != 0 {
        return Err(format!("why: {reply}").into());
    }
    let data = reply["data"].take();
    println!("{}", data["cause"].as_str().unwrap_or_default());
    println!("{data:#}");
    Ok(ExitCode::SUCCESS)
}

fn probe(url: &str, timeout_sec: u64) -> Result<ExitCode, Failure> {
    let url = SourceUrl::parse(url, true).map_err(|error| format!("{url}: {error}"))?;
    let timeout = Duration::from_millis(timeout_sec.saturating_mul(1000).min(PROBE_TIMEOUT_MS_MAX));
    let (access, udp_ports) = (AccessSection::default(), RtspSection::default().udp_ports);
    let rtp_transport = LowerTransport::Tcp;
    let request = ProbeRequest { url, rtp_transport, udp_ports, timeout, access };
    let view = net::probe(&Resolver::start()?, request);
    let steps = [
        ("resolved", view.resolved_ms),
        ("connected", view.connected_ms),
        ("handshake", view.handshake_ms),
        ("first media", view.first_media_ms),
        ("tracks", view.tracks_ms),
        ("first keyframe", view.first_keyframe_ms),
    ];
    for (what, ms) in steps {
        if let Some(ms) = ms {
            println!("{what:<15} {ms:>6} ms");
        }
    }
    if let Some(address) = view.address {
        println!("{:<15} {address}", "address");
    }
    let tracks = &view.tracks;
    for track in tracks.video.iter().chain(&tracks.audio) {
        println!("{:<15} {}", "track", describe(track));
    }
    let Some(Fault { class, text }) = &view.fault else { return Ok(ExitCode::SUCCESS) };
    println!("{:<15} {}: {text}", "failed", class.as_str());
    Ok(ExitCode::FAILURE)
}

fn describe(track: &Track) -> String {
    let codec = format!("{:?}", track.codec);
    match (track.video, track.audio) {
        (Some(VideoParameters { width, height, fps }), _) => {
            let fps = fps.unwrap_or(track.fps_measured);
            format!("{codec} {width}x{height} {fps:.2} fps")
        }
        (_, Some(audio)) => format!("{codec} {} Hz {} channels", audio.sample_rate, audio.channels),
        _ => codec,
    }
}

fn run_load(command: &load::Command) -> Result<ExitCode, Failure> {
    let signals = Signals::block()?;
    raise_file_limit();
    // What can't be waited for ends the run.
    let mut wait = |at_most| signals.wait(Some(at_most)).unwrap_or(true);
    load::run(command, &mut wait).map_err(|error| -> Failure { error })
}

fn serve(options: ServeOptions) -> Result<ExitCode, Failure> {
    let mut config = match &options.config {
        Some(file) => Config::load(file)?,
        None => Config::default(),
    };
    let cpus = match options.cpus {
        Some(text) => Some(
            CpuList::try_from(text.clone()).map_err(|error| format!("--cpus {text}: {error}"))?,
        ),
        None => None,
    };
    let overrides = Overrides {
        shards: options.shards,
        cpus,
        id: None,
        data_dir: options.data_dir,
        http_listen: options.http,
        rtmp_listen: options.rtmp,
        rtsp_listen: options.rtsp,
        secret: options.secret,
        log_filter: options.log,
    };
    config.apply(overrides.clone());
    config.validate()?;
    logging::init(&config.log.filter)?;
    let source = ConfigSource::new(options.config, overrides, config.clone());
    let generated = ensure_secret(&mut config)?;
    let signals = Signals::block_with_hangup()?;
    let (_journal, kept) = open_journal(&config.server.data_dir)?.unzip();
    let reader = ConfigReader::start(source)
        .map_err(|error| format!("no thread to read the config file: {error}"))?;
    let (node, keeper) = start(config.clone(), kept, Some(reader))?;
    if generated {
        eprintln!("rillcast: no secret is set; made for this run: {}", config.api.secret);
    }
    for warning in config.warnings(node.shard_count()) {
        warn!("{warning}");
    }
    let Node { http, rtmp, rtsp, .. } = node;
    println!("ready http={http} rtmp={rtmp} rtsp={rtsp} shards={}", node.shard_count());
    notify("READY=1");
    loop {
        match signals.next(None)? {
            Some(Signal::SIGHUP) => node.reload(),
            Some(_) => break,
            None => {}
        }
    }
    let ledger = shut_down(node, keeper, &signals)?;
    Ok(report(&ledger))
}

/// Generates the secret where there is none.
pub(crate) fn ensure_secret(config: &mut Config) -> Result<bool, Failure> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| format!("no random bytes: {error}"))?;
    Ok(config.ensure_secret(random))
}

/// Opens the journal, where there is to be one. It is written until it is dropped.
fn open_journal(dir: &Path) -> Result<Option<(Journal, Kept)>, Failure> {
    if dir.as_os_str().is_empty() {
        return Ok(None);
    }
    let (journal, replay) = Journal::open(dir)?;
    if replay.unknown_count > 0 {
        warn!(count = replay.unknown_count, "the journal has records of a newer version");
    }
    let (pulls, pushes) = (Arc::new(replay.pulls), Arc::new(replay.pushes));
    let kept = Kept { journal: journal.handle(), pulls, pushes };
    Ok(Some((journal, kept)))
}

/// Starts the node on the CPUs that the config names, and the keeper of its event log.
pub(crate) fn start(
    config: Config,
    kept: Option<Kept>,
    config_reader: Option<ConfigReader>,
) -> Result<(Node, Keeper), Failure> {
    raise_file_limit();
    let cpus = cpus_of(&config)?;
    let config = Arc::new(config);
    let keeper = Keeper::start(config.clone())
        .map_err(|error| format!("no thread for the event log: {error}"))?;
    let make_handler = make_handler();
    let newest_config = Arc::new(NewestConfig::new(config.clone()));
    let setup = Setup { make_handler, kept, config_reader, newest_config, keeper: keeper.port() };
    Ok((Node::start(&config, &cpus, &setup)?, keeper))
}

/// The API, as what answers requests on each shard.
fn make_handler() -> MakeHandler {
    Arc::new(|| {
        let handler: Handler = Rc::new(|node: NodeHandle, call: Call| {
            let Call { peer, local, connection, request } = call;
            let caller = api::Caller { peer, local, connection };
            Box::pin(async move {
                if request.path == api::EVENTS_PATH {
                    return match api::admit_follower(&node, &caller, &request) {
                        Ok(follow) => Reply::Follow(follow),
                        Err(response) => response.into(),
                    };
                }
                Reply::Response(api::handle(node, caller, request).await)
            })
        });
        handler
    })
}

fn cpus_of(config: &Config) -> Result<Vec<usize>, Failure> {
    let mut cpus = config.server.cpus.cpus().to_vec();
    if cpus.is_empty() {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
        cpus = match allowed {
            Ok(set) => (0..nix::sched::CpuSet::count())
                .filter(|&cpu| set.is_set(cpu) == Ok(true))
                .collect(),
            Err(_) => (0..count).collect(),
        };
    }
    let shards = usize::from(config.server.shards);
    if shards > cpus.len() {
        let count = cpus.len();
        return Err(format!(
            "{shards} shards need {shards} CPUs and there are {count}; lower --shards, or name \
             more with --cpus"
        )
        .into());
    }
    if shards > 0 {
        cpus.truncate(shards);
    }
    Ok(cpus)
}

/// Each connection is a descriptor; take as many as the process may have.
fn raise_file_limit() {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        warn!(%error, "the limit of open files was not raised");
        return;
    }
    // The kernel doubles a process's table of descriptors when it is full, and in a process with
    // threads each time waits for an RCU grace period, 10 to 50 ms in which a shard stands still.
    // A descriptor with a high number has it grown once, before there are threads.
    let highest = hard.clamp(1, DESCRIPTORS_AT_START_MAX) - 1;
    let Ok(highest) = i32::try_from(highest) else { return };
    let grown = fcntl(std::io::stderr(), FcntlArg::F_DUPFD_CLOEXEC(highest)).and_then(close);
    if let Err(error) = grown {
        // It still grows, only later.
        debug!(%error, "the table of descriptors was not grown");
    }
}

/// Ends every session and waits until nothing is held, for as long as the operator was promised. A
/// second signal ends the process at once.
pub(crate) fn shut_down(node: Node, keeper: Keeper, signals: &Signals) -> Result<Ledger, Failure> {
    info!("shutting down");
    notify("STOPPING=1");
    node.shut_down();
    let until = clock::now() + SHUT_DOWN_MAX;
    while !node.is_empty() && clock::now() < until {
        if signals.wait(Some(Duration::from_millis(5)))? {
            eprintln!("rillcast: second signal, exiting at once");
            std::process::exit(130);
        }
    }
    let ledger = node.stop();
    keeper.stop();
    Ok(ledger)
}

/// Prints the ledger; an exit code that tells whether it is zero.
pub(crate) fn report(ledger: &Ledger) -> ExitCode {
    println!("{ledger}");
    if ledger.is_zero() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const WHY_TIMEOUT: Duration = Duration::from_secs(5);
const SHUT_DOWN_MAX: Duration = Duration::from_secs(4);

/// SIGTERM and SIGINT, and SIGHUP where it is asked for, taken by the main thread alone.
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks them for this thread and all that it starts from now on.
    pub(crate) fn block() -> Result<Self, Failure> {
        // By default the end of a process without a goodbye.
        SigSet::from(Signal::SIGHUP).thread_block()?;
        Self::take(&[Signal::SIGTERM, Signal::SIGINT])
    }

    fn block_with_hangup() -> Result<Self, Failure> {
        Self::take(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
    }

    fn take(signals: &[Signal]) -> Result<Self, Failure> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&set, flags)?))
    }

    /// Waits for a signal to end, at most so long. `true` when one came.
    pub(crate) fn wait(&self, at_most: Option<Duration>) -> Result<bool, Failure> {
        Ok(self.next(at_most)?.is_some_and(|signal| signal != Signal::SIGHUP))
    }

    fn next(&self, at_most: Option<Duration>) -> Result<Option<Signal>, Failure> {
        use std::os::fd::AsFd;
        let until = at_most.map(|time| clock::now() + time);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            let left = until.map(|until| until.saturating_duration_since(clock::now()));
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            match nix::poll::poll(&mut fds, timeout) {
                // As when the process was stopped and goes on.
                Err(Errno::EINTR) => {}
                polled => {
                    polled?;
                    break;
                }
            };
        }
        let signal = self.0.read_signal()?;
        Ok(signal.and_then(|signal| Signal::try_from(signal.ssi_signo as i32).ok()))
    }
}

/// Tells systemd, where it started us with `Type=notify` (sd_notify(3)).
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::net::{SocketAddr, UnixDatagram};
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)
    };
    if let Err(error) = send() {
        warn!(%error, "systemd was not notified");
    }
}
