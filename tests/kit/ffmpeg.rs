//! ffmpeg as a publisher and as a player.
//!
//! A publisher writes what it sends to a file as well, through the same muxer in the same process:
//! that file is the truth that recordings are compared with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::flv::{self, Tag};
use super::process::Process;
use super::{LIVENESS, TempDir, holds_within};

/// ffmpeg that decodes a URL and ends at the first fault.
#[derive(Debug)]
pub struct Decoder {
    process: Process,
    _dir: TempDir,
}

impl Decoder {
    pub fn start(url: &str) -> Self {
        let dir = TempDir::new("decoder");
        let mut command = Command::new(Modern::No.program());
        command.args(["-hide_banner", "-nostdin", "-loglevel", "warning", "-xerror"]);
        if url.starts_with("rtsp") {
            command.args(["-rtsp_transport", "tcp"]);
        }
        command.args(["-i", url]);
        command.args(["-f", "null", "-"]).stdout(Stdio::null());
        let process = Process::start("ffmpeg", &mut command, dir.file("stderr.log"));
        Self { process, _dir: dir }
    }

    #[track_caller]
    pub fn assert_runs(&mut self) {
        assert!(self.process.is_running(), "ffmpeg has ended: {}", self.process.log());
    }

    /// Waits until its stream is ended.
    #[track_caller]
    pub fn wait_end(&mut self) {
        assert!(self.process.wait(LIVENESS).is_some(), "it still plays");
    }
}

/// Which ffmpeg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modern {
    /// Debian's, 5.1: no enhanced RTMP.
    No,
    /// From PyPI's imageio-ffmpeg, 8 or later: HEVC, AV1, VP9, Opus and FLAC over RTMP.
    Yes,
}

impl Modern {
    pub fn program(self) -> PathBuf {
        if self == Self::No {
            return PathBuf::from("ffmpeg");
        }
        let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv");
        let python = venv.join("bin/python");
        let script = "import imageio_ffmpeg as i; print(i.get_ffmpeg_exe())";
        let output = Command::new(&python)
            .args(["-c", script])
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}; ./test makes it", python.display()));
        assert!(output.status.success(), "imageio-ffmpeg is missing; ./test installs it");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    }
}

/// Whether a publisher starts over at the end of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    Once,
    Forever,
}

/// ffmpeg sending a file in real time.
#[derive(Debug)]
pub struct Publisher {
    pub process: Process,
    dir: TempDir,
}

impl Publisher {
    /// Sends a file of tests/media, over and over.
    pub fn start(modern: Modern, file: &str, url: &str) -> Self {
        Self::start_with(modern, file, url, Repeat::Forever)
    }

    pub fn start_with(modern: Modern, file: &str, url: &str, repeat: Repeat) -> Self {
        Self::start_file(modern, &super::media(file), url, repeat)
    }

    pub fn start_file(modern: Modern, file: &Path, url: &str, repeat: Repeat) -> Self {
        let dir = TempDir::new("publisher");
        let mut command = Command::new(modern.program());
        command.args(["-hide_banner", "-nostdin", "-loglevel", "warning", "-re"]);
        if repeat == Repeat::Forever {
            command.args(["-stream_loop", "-1"]);
        }
        command.arg("-i").arg(file);
        // The file first, so that what was sent is in it even when ffmpeg is killed.
        for _ in 0..2 {
            command.args(["-map", "0", "-c", "copy", "-flush_packets", "1", "-f", "flv"]);
            command.args(["-flvflags", "no_duration_filesize"]);
            if command.get_args().any(|arg| arg == "-y") {
                command.arg(url);
            } else {
                command.arg("-y").arg(dir.file("sent.flv"));
            }
        }
        command.stdout(Stdio::null());
        let process =
            Process::start(&format!("ffmpeg to {url}"), &mut command, dir.file("stderr.log"));
        Self { process, dir }
    }

    /// What has been sent so far.
    pub fn sent(&self) -> Vec<Tag> {
        flv::read(&self.sent_file())
    }

    pub fn sent_file(&self) -> PathBuf {
        self.dir.file("sent.flv")
    }

    /// Ends the stream as a user does who presses stop.
    pub fn stop(&mut self) {
        self.process.terminate(LIVENESS);
    }

    /// Ends it as a crash does: no goodbye.
    pub fn crash(&mut self) {
        self.process.kill();
    }

    /// Waits until ffmpeg ends by itself (its file is over, or the relay refused it).
    pub fn wait_end(&mut self) -> bool {
        self.process.wait(LIVENESS).is_some()
    }
}

/// A file of so many seconds at about 8 Mbit/s, with a keyframe each second: more than any socket
/// buffer holds.
#[track_caller]
pub fn make_heavy_file(path: &Path, seconds: u32) {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostdin", "-loglevel", "error"]);
    command.args(["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25,noise=alls=60:allf=t"]);
    command.args(["-f", "lavfi", "-i", "sine=frequency=440", "-t", &seconds.to_string()]);
    command.args(["-c:v", "libx264", "-preset", "ultrafast", "-b:v", "8M", "-minrate", "8M"]);
    command.args(["-maxrate", "8M", "-bufsize", "8M", "-g", "25", "-sc_threshold", "0"]);
    command.args(["-pix_fmt", "yuv420p", "-c:a", "aac", "-ac", "1", "-y"]).arg(path);
    let output = command.output().expect("ffmpeg; ./test installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// ffmpeg playing a URL into a file.
#[derive(Debug)]
pub struct Recorder {
    process: Process,
    dir: TempDir,
}

impl Recorder {
    pub fn start(modern: Modern, url: &str) -> Self {
        let dir = TempDir::new("recorder");
        let mut command = Command::new(modern.program());
        command.args(["-hide_banner", "-nostdin", "-loglevel", "warning", "-copyts", "-i", url]);
        command.args(["-map", "0:v?", "-map", "0:a?", "-c", "copy", "-copyts"]);
        command.args(["-flush_packets", "1", "-f", "framemd5", "-y"]).arg(dir.file("got.md5"));
        command.stdout(Stdio::null());
        let process =
            Process::start(&format!("ffmpeg from {url}"), &mut command, dir.file("stderr.log"));
        Self { process, dir }
    }

    /// Waits until the recording has so many packets.
    #[track_caller]
    pub fn wait_packets(&mut self, count: usize) {
        let enough = holds_within(LIVENESS, || {
            let packets = self.packets().len();
            assert!(
                packets >= count || self.process.is_running(),
                "ffmpeg ended with {packets} packets: {}",
                self.process.log()
            );
            packets >= count
        });
        assert!(enough, "{} packets of {count}", self.packets().len());
    }

    fn packets(&self) -> Vec<Packet> {
        std::fs::read_to_string(self.dir.file("got.md5")).map_or(Vec::new(), |text| packets(&text))
    }

    pub fn stop(mut self) -> Vec<Packet> {
        self.process.terminate(LIVENESS);
        self.packets()
    }
}

/// The packets of a file.
#[track_caller]
pub fn packets_of(modern: Modern, file: &Path) -> Vec<Packet> {
    let mut command = Command::new(modern.program());
    command.args(["-hide_banner", "-nostdin", "-loglevel", "error", "-copyts", "-i"]).arg(file);
    command.args(["-map", "0:v?", "-map", "0:a?", "-c", "copy", "-copyts"]);
    command.args(["-f", "framemd5", "-"]);
    let output = command.output().expect("ffmpeg");
    packets(&String::from_utf8_lossy(&output.stdout))
}

/// A packet as ffmpeg's framemd5 shows it: stream, times and hash of the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub track: u32,
    pub dts: i64,
    pub pts: i64,
    pub len: u32,
    pub hash: String,
}

fn packets(text: &str) -> Vec<Packet> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split(',').map(str::trim);
            let track = fields.next()?.parse().ok()?;
            let dts = fields.next()?.parse().ok()?;
            let pts = fields.next()?.parse().ok()?;
            let len = fields.nth(1)?.parse().ok()?;
            Some(Packet { track, dts, pts, len, hash: fields.next()?.to_owned() })
        })
        .collect()
}

/// ffmpeg's packets are a contiguous part of what was sent, with one offset for all tracks.
#[track_caller]
pub fn assert_same_packets(what: &str, sent: &[Packet], got: &[Packet], at_least: usize) {
    assert!(got.len() >= at_least, "{what}: {} packets, want {at_least}", got.len());
    let first = &got[0];
    let offsets: Vec<i64> = sent
        .iter()
        .filter(|packet| packet.track == first.track && packet.hash == first.hash)
        .map(|packet| first.dts - packet.dts)
        .collect();
    let fits = |offset: i64| {
        (0..=1).all(|track| {
            let of_track =
                |packets: &[Packet]| packets.iter().filter(|p| p.track == track).cloned().collect();
            let (sent, got): (Vec<Packet>, Vec<Packet>) = (of_track(sent), of_track(got));
            let moved = |packet: &Packet| Packet {
                dts: packet.dts + offset,
                pts: packet.pts + offset,
                ..packet.clone()
            };
            let Some(first) = got.first() else { return sent.is_empty() };
            let Some(start) = sent.iter().position(|packet| moved(packet) == *first) else {
                return false;
            };
            let end = start + got.len();
            sent.get(start..end).is_some_and(|part| part.iter().map(moved).eq(got))
        })
    };
    assert!(
        offsets.iter().any(|offset| fits(*offset)),
        "{what}: packets differ from those sent; possible offsets {offsets:?}; first {first:?}"
    );
}

/// Decodes the first `frames` pictures of a URL, any error being fatal.
#[track_caller]
pub fn decode_first_frames(modern: Modern, url: &str, frames: u32) {
    let dir = TempDir::new("decode");
    let mut command = Command::new(modern.program());
    command.args(["-hide_banner", "-nostdin", "-v", "error", "-xerror", "-i", url]);
    command.args(["-map", "0:v", "-frames:v", &frames.to_string(), "-f", "null", "-"]);
    command.stdout(Stdio::null());
    let mut process =
        Process::start(&format!("ffmpeg decoding {url}"), &mut command, dir.file("stderr.log"));
    let status = process.wait(LIVENESS + Duration::from_secs(10));
    let log = process.log();
    assert!(
        status.is_some_and(|status| status.success()) && log.is_empty(),
        "{url}: first pictures do not decode: {status:?} {log}"
    );
}
