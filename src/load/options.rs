//! The command line of `rillcast load`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::flush::Flush;
use crate::config::CpuList;
use crate::proto::rtsp::LowerTransport;

/// Load a live server, ours or another one, and measure what it does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Play streams over HTTP-FLV, WebSocket-FLV, RTMP or RTSP and measure what comes.
    Play(PlayOptions),
    /// Play while other players come and leave at a steady rate.
    Churn(ChurnOptions),
    /// Play beside players that stop reading, or read too slowly.
    Slow(SlowOptions),
    /// Add pulls that never come up, hold them, and delete them.
    Pending(PendingOptions),
    /// Publish an FLV file in a loop over RTMP or RTSP, to any number of streams.
    Publish(PublishOptions),
    /// Measure the floor: the same file to players by a bare loop of sends, or by batches.
    Limit(LimitOptions),
}

/// What is played, and how it is measured.
#[derive(Debug, Args)]
pub struct PlayOptions {
    #[command(flatten)]
    pub(super) target: TargetOptions,
    #[command(flatten)]
    pub(super) crowd: CrowdOptions,
}

/// Players that come and leave, beside those that stay and are measured.
#[derive(Debug, Args)]
pub struct ChurnOptions {
    /// Visitors that join each second; as many leave.
    #[arg(long, value_name = "N", default_value_t = 100.0)]
    pub(super) rate: f64,
    /// Time that a visitor stays; until a second after its first keyframe unless given.
    #[arg(long, value_name = "S")]
    pub(super) stay: Option<f64>,
    /// How visitors leave. A fin leaves a port in TIME_WAIT for a minute each.
    #[arg(long, value_enum, default_value_t = Leave::Reset)]
    pub(super) leave: Leave,
    #[command(flatten)]
    pub(super) target: TargetOptions,
    #[command(flatten)]
    pub(super) crowd: CrowdOptions,
}

/// Players that do not keep up, beside those that do and are measured.
#[derive(Debug, Args)]
pub struct SlowOptions {
    /// Players that stop reading after their first keyframe.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(super) slow: u32,
    /// Have them read so many bytes per second instead.
    #[arg(long, value_name = "BYTES")]
    pub(super) trickle: Option<u32>,
    #[command(flatten)]
    pub(super) target: TargetOptions,
    #[command(flatten)]
    pub(super) crowd: CrowdOptions,
}

/// What is loaded, what is measured of it, and where the results go.
#[derive(Debug, Args)]
pub struct TargetOptions {
    /// What to play: http://, ws://, rtmp:// or rtsp://; {i} is the number of the stream.
    #[arg(long, value_name = "URL")]
    pub(super) url: String,
    /// What carries the media of RTSP.
    #[arg(long, value_enum, default_value_t = RtspTransport::Tcp)]
    pub(super) rtsp_transport: RtspTransport,
    /// What the results are to be called.
    #[arg(long, value_name = "TEXT")]
    pub(super) label: Option<String>,
    #[command(flatten)]
    pub(super) server: ServerOptions,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// Options of everything that has measured players.
#[derive(Debug, Args)]
pub struct CrowdOptions {
    /// Players that are measured, in turns over the streams.
    #[arg(long, visible_aliases = ["viewers", "steady"], value_name = "N", default_value_t = 100)]
    pub(super) players: u32,
    /// Streams that {i} goes over.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) streams: u32,
    /// Number of the first stream.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) first: u32,
    /// Time over which the players join; 500 of them a second unless given.
    #[arg(long, value_name = "S")]
    pub(super) ramp: Option<f64>,
    /// Time from the last join to the beginning of the measurement.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub(super) warm_up: f64,
    /// Time that is measured.
    #[arg(long, value_name = "S", default_value_t = 15.0)]
    pub(super) duration: f64,
    /// Time that a player may take from when it was to join to its first keyframe.
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub(super) join_timeout: f64,
    /// CPUs for the players, a thread each; one thread, not pinned, unless given.
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    pub(super) cpus: Option<CpuList>,
    /// Wake with each arrival instead of sweeping once a millisecond: charges the server for it.
    #[arg(long)]
    pub(super) blocking: bool,
}

/// What is measured of the server.
#[derive(Debug, Args)]
pub struct ServerOptions {
    /// The server's processes: CPU time and memory of them, their threads and their children.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(super) pid: Vec<u32>,
    /// Measure what is left of this CPU by a thread of the idle class.
    #[arg(long, value_name = "CPU")]
    pub(super) soak: Option<usize>,
}

/// Where the results go.
#[derive(Debug, Args)]
pub struct OutputOptions {
    /// Write the results as JSON to a file, or with - to standard output instead of the table.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
}

/// Pulls of origins that are dead.
#[derive(Debug, Args)]
pub struct PendingOptions {
    /// The API of the server (ZLMediaKit's, as ours is): http://host:port.
    #[arg(long, value_name = "URL")]
    pub(super) api: String,
    /// Secret of the API.
    #[arg(long, value_name = "S")]
    pub(super) secret: String,
    /// Pulls.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(super) count: u32,
    /// What they pull from, in turns; {i} is the number of the pull. A silent listener, a refused
    /// port and a black hole of our own unless given.
    #[arg(long, value_name = "URL")]
    pub(super) origin: Vec<String>,
    /// Time over which they are added; as fast as the API answers unless given.
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    pub(super) ramp: f64,
    /// Time that they are held.
    #[arg(long, value_name = "S", default_value_t = 15.0)]
    pub(super) duration: f64,
    /// CPUs to call from; not pinned unless given.
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    pub(super) cpus: Option<CpuList>,
    /// Calls under way at once, 512 at most. ZLMediaKit answers an add when its first try has ended.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(super) at_once: usize,
    /// The server's processes: memory and CPU time of them and their children.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(super) pid: Vec<u32>,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// What is published.
#[derive(Debug, Args)]
pub struct PublishOptions {
    /// Where to: rtmp:// or rtsp://; {i} is the number of the stream.
    #[arg(long, value_name = "URL")]
    pub(super) url: String,
    /// What carries the media of RTSP.
    #[arg(long, value_enum, default_value_t = RtspTransport::Tcp)]
    pub(super) rtsp_transport: RtspTransport,
    /// FLV file; five seconds of H.264 and AAC that are built in unless given.
    #[arg(long, value_name = "FLV")]
    pub(super) file: Option<PathBuf>,
    /// Streams that {i} goes over.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) streams: u32,
    /// Number of the first stream.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) first: u32,
    /// Time over which the streams begin; spread over a round of the file, but 200 a second at
    /// most, unless given.
    #[arg(long, value_name = "S")]
    pub(super) ramp: Option<f64>,
    /// Time from the first connect to the end; until Ctrl-C unless given.
    #[arg(long, value_name = "S")]
    pub(super) duration: Option<f64>,
    /// Bytes of an RTMP chunk; OBS has 4096, ffmpeg 60000.
    #[arg(long, value_name = "N", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(128..=8_388_608))]
    pub(super) chunk_size: u32,
    /// CPUs to publish from, a thread each; one thread, not pinned, unless given.
    #[arg(long, alias = "cpu", value_name = "LIST", value_parser = parse_cpus)]
    pub(super) cpus: Option<CpuList>,
    /// The server's processes: CPU time and memory of them and their children, once all streams
    /// have begun.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(super) pid: Vec<u32>,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// How the floor is measured.
#[derive(Debug, Args)]
pub struct LimitOptions {
    /// What is sent: FLV over HTTP, or the packets of RTSP.
    #[arg(long, value_enum, default_value_t = Wire::Flv)]
    pub(super) wire: Wire,
    /// How it is sent.
    #[arg(long, value_enum, default_value_t = Method::Send)]
    pub(super) method: Method,
    /// Send all tags of so many ms together; 0 for each by itself.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(super) flush_ms: u32,
    /// Send audio with the next video frame, as rillcast does; it waits 40 ms at most.
    #[arg(long, conflicts_with = "flush_ms")]
    pub(super) audio_on_video: bool,
    /// Receive what is sent: a publisher on the first of the CPUs for the players sends each tag
    /// when it is due, and a flush goes on when its last byte has come. CPU time of processes has
    /// the publisher's in it.
    #[arg(long)]
    pub(super) relayed: bool,
    /// FLV file; five seconds of H.264 and AAC that are built in unless given.
    #[arg(long, value_name = "FLV")]
    pub(super) file: Option<PathBuf>,
    /// Players.
    #[arg(long, visible_alias = "viewers", value_name = "N", default_value_t = 100)]
    pub(super) players: u32,
    /// CPUs to send from, a thread each; one thread, not pinned, unless given.
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    pub(super) cpus: Option<CpuList>,
    /// CPUs for the players.
    #[arg(long, value_name = "LIST")]
    pub(super) client_cpus: Option<String>,
    /// Time over which the players join; 500 of them a second unless given.
    #[arg(long, value_name = "S")]
    pub(super) ramp: Option<f64>,
    /// Time from the last join to the beginning of the measurement.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub(super) warm_up: f64,
    /// Time that is measured.
    #[arg(long, value_name = "S", default_value_t = 15.0)]
    pub(super) duration: f64,
    /// Players wake with each arrival instead of sweeping once a millisecond.
    #[arg(long)]
    pub(super) blocking: bool,
    /// Measure what is left of this CPU by a thread of the idle class.
    #[arg(long, value_name = "CPU")]
    pub(super) soak: Option<usize>,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// How bytes are given to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// send(2), one after another: of RTP one for each packet.
    Send,
    /// sendto(2) for each packet over UDP: the kernel looks up the way each time.
    Sendto,
    /// Of RTP, all packets of a flush together: in one send over TCP, by UDP_SEGMENT over UDP.
    Joined,
    /// Batches of an io_uring; of RTP over TCP all packets of a flush in one send.
    Uring,
}

/// What the floor sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// FLV over HTTP.
    Flv,
    /// RTP packets interleaved with RTSP.
    RtspTcp,
    /// RTP packets over UDP.
    RtspUdp,
    /// The same to players that take packets joined, as `--rtsp-transport udp-gro`.
    RtspUdpGro,
}

/// What carries the packets of RTSP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RtspTransport {
    /// The connection of RTSP.
    Tcp,
    /// Ports of their own.
    Udp,
    /// The same, and players take packets joined (UDP_GRO): over loopback nothing cuts a server's
    /// UDP_SEGMENT apart then, as where a NIC does it.
    UdpGro,
}

/// How a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Leave {
    /// By a reset: nothing stays in TIME_WAIT.
    Reset,
    /// In order.
    Fin,
    /// In turns.
    Both,
}

impl From<RtspTransport> for LowerTransport {
    fn from(transport: RtspTransport) -> Self {
        match transport {
            RtspTransport::Tcp => Self::Tcp,
            RtspTransport::Udp | RtspTransport::UdpGro => Self::Udp,
        }
    }
}

impl LimitOptions {
    pub(super) fn flush(&self) -> Flush {
        match (self.audio_on_video, self.flush_ms) {
            (true, _) => Flush::AudioOnVideo(AUDIO_WAIT_MS),
            (false, 0) => Flush::Tag,
            (false, window_ms) => Flush::Window(window_ms),
        }
    }
}

/// The default of `egress.audio_wait_ms`.
const AUDIO_WAIT_MS: u32 = 40;

fn parse_cpus(text: &str) -> Result<CpuList, String> {
    CpuList::try_from(text.to_owned()).map_err(|error| error.to_string())
}
