//! ffmpeg and GStreamer as RTSP publishers and players.
//!
//! What a publisher sends is a file that the test can read, played once; what a player gets it
//! writes to files that the kit reads.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::ffmpeg::Modern;
use super::flv::{self, Kind};
use super::process::Process;
use super::rtp::Codec;
use super::rtsp::Lower;
use super::units::{self, Unit};
use super::{LIVENESS, TempDir, holds_within};

/// A file that a publisher sends, and what is in it.
#[derive(Debug)]
pub struct Clip {
    dir: TempDir,
    name: &'static str,
    pub units: Vec<Unit>,
}

/// What the sound of a clip is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sound {
    /// As in the file.
    Same,
    Opus,
    PcmA,
    PcmU,
}

impl Clip {
    /// A file of tests/media four times over: 24 s. Each picture of H.264 and H.265 has a message (SEI) of
    /// its own.
    #[track_caller]
    pub fn of(file: &str) -> Self {
        Self::with_sound(file, Sound::Same)
    }

    #[track_caller]
    pub fn with_sound(file: &str, sound: Sound) -> Self {
        let dir = TempDir::new("clip");
        let mut command = Command::new(Modern::Yes.program());
        command.args(["-hide_banner", "-nostdin", "-loglevel", "error", "-stream_loop", "3", "-i"]);
        command.arg(super::media(file));
        let pcm = |name| ["-map", "0", "-c:v", "copy", "-c:a", name, "-ar", "8000", "-ac", "1"];
        match sound {
            Sound::Same => command.args(["-map", "0", "-c", "copy"]),
            Sound::Opus => command
                .args(["-stream_loop", "3", "-i"])
                .arg(super::media("av1_opus.flv"))
                .args(["-map", "0:v", "-map", "1:a", "-c", "copy"]),
            Sound::PcmA => command.args(pcm("pcm_alaw")),
            Sound::PcmU => command.args(pcm("pcm_mulaw")),
        };
        command.args(["-f", "flv", "-y"]).arg(dir.file("clip.flv"));
        let output = command.output().expect("ffmpeg");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut tags = flv::read(&dir.file("clip.flv"));
        units::set_messages(&mut tags);
        let has = |kind: Kind| tags.iter().any(|tag| tag.kind == kind);
        let mut file = flv::header(has(Kind::Audio), has(Kind::Video));
        tags.iter().for_each(|tag| file.extend(flv::encode(tag)));
        std::fs::write(dir.file("clip.flv"), file).expect("a clip");
        Self { dir, name: "clip.flv", units: units::of_tags(&tags) }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.file(self.name)
    }

    /// In FLV it is of the enhanced kind, which older programs can't read.
    #[track_caller]
    pub fn is_enhanced(&self) -> bool {
        let tags = flv::read(&self.dir.file("clip.flv"));
        tags.iter().any(|tag| match tag.kind {
            Kind::Video => tag.payload[0] & 0x80 != 0,
            Kind::Audio => tag.payload[0] >> 4 == 9,
            Kind::Script => false,
        })
    }

    /// The same in Matroska, which older programs can read whatever the codec.
    #[track_caller]
    pub fn into_matroska(self) -> Self {
        self.written_again("clip.mkv", &[])
    }

    /// The same for tshark: parameter sets of H.264 hold no three zeros in a row, so that no emulation
    /// prevention byte (H.264, 7.4.1) is needed, which it would not take out: the time unit of 1 becomes
    /// another, of which there are still 50 a second. And pictures have no messages, of which it calls those
    /// with user data malformed.
    #[track_caller]
    pub fn without_escapes(self) -> Self {
        let rate = "h264_metadata=tick_rate=842150453/16843009,filter_units=remove_types=6";
        self.written_again("plain.flv", &["-bsf:v", rate])
    }

    /// The same of H.265, without its messages alone.
    #[track_caller]
    pub fn without_messages(self) -> Self {
        self.written_again("plain.flv", &["-bsf:v", "filter_units=remove_types=39"])
    }

    #[track_caller]
    fn written_again(mut self, name: &'static str, more: &[&str]) -> Self {
        let mut command = Command::new(Modern::Yes.program());
        command.args(["-hide_banner", "-nostdin", "-loglevel", "error", "-i"]).arg(self.path());
        command.args(["-map", "0", "-c", "copy"]).args(more).arg("-y").arg(self.dir.file(name));
        let output = command.output().expect("ffmpeg");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.name = name;
        self
    }
}

/// ffmpeg sends a clip in real time, over RTSP or, where the URL says so, RTMP.
#[track_caller]
pub fn ffmpeg_publish(modern: Modern, clip: &Clip, url: &str, lower: Lower) -> Process {
    let mut command = Command::new(modern.program());
    command.args(["-hide_banner", "-nostdin", "-loglevel", "warning", "-re", "-i"]);
    command.arg(clip.path()).args(["-map", "0", "-c", "copy"]);
    if url.starts_with("rtsp") {
        command.args(["-f", "rtsp", "-rtsp_transport", lower.name()]);
    } else {
        command.args(["-f", "flv"]);
    }
    command.arg(url).stdout(Stdio::null());
    Process::start(&format!("ffmpeg to {url}"), &mut command, clip.dir.file("publisher.log"))
}

/// GStreamer sends a clip of H.264 and AAC in real time.
#[track_caller]
pub fn gstreamer_publish(clip: &Clip, url: &str, lower: Lower) -> Process {
    let file = format!("location={}", clip.path().display());
    let place = format!("location={url}");
    let protocols = format!("protocols={}", lower.name());
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "filesrc", &file, "!", "flvdemux", "name=d"]);
    command.args(["rtspclientsink", "name=s", &place, &protocols, "latency=0"]);
    command.args(["d.video", "!", "queue", "!", "h264parse", "!", "s."]);
    command.args(["d.audio", "!", "queue", "!", "aacparse", "!", "s."]);
    command.stdout(Stdio::null());
    Process::start(&format!("GStreamer to {url}"), &mut command, clip.dir.file("publisher.log"))
}

/// A program playing a URL into files.
#[derive(Debug)]
pub struct FilePlayer {
    what: String,
    process: Process,
    dir: TempDir,
    /// Of FLV: its pictures are units behind lengths, not behind start codes.
    is_flv: bool,
    /// `None` for ffmpeg.
    gstreamer: Option<Gstreamer>,
}

#[derive(Debug)]
struct Gstreamer {
    command: Command,
    starts: u32,
}

/// Starts of a player that does not link its elements.
const GSTREAMER_STARTS_MAX: u32 = 3;

impl FilePlayer {
    /// ffmpeg without decoding: its packets one behind the other, and a list of them. (FLV of
    /// pictures whose decoding times RTP does not tell is more than it can write.)
    #[track_caller]
    pub fn ffmpeg(modern: Modern, url: &str, lower: Lower) -> Self {
        Self::ffmpeg_of(modern, url, lower, &[Kind::Video, Kind::Audio])
    }

    /// As [`Self::ffmpeg`], of a stream that has no other tracks.
    #[track_caller]
    pub fn ffmpeg_of(modern: Modern, url: &str, lower: Lower, kinds: &[Kind]) -> Self {
        Self::ffmpeg_with(modern, url, Some(lower), kinds)
    }

    /// The same of FLV.
    #[track_caller]
    pub fn ffmpeg_of_flv(modern: Modern, url: &str, kinds: &[Kind]) -> Self {
        Self::ffmpeg_with(modern, url, None, kinds)
    }

    #[track_caller]
    fn ffmpeg_with(modern: Modern, url: &str, lower: Option<Lower>, kinds: &[Kind]) -> Self {
        let dir = TempDir::new("ffmpeg-player");
        let mut command = Command::new(modern.program());
        command.args(["-hide_banner", "-nostdin", "-loglevel", "warning", "-copyts"]);
        if let Some(lower) = lower {
            command.args(["-rtsp_transport", lower.name()]);
        }
        command.args(["-i", url]);
        for kind in kinds {
            let is_video = *kind == Kind::Video;
            let (map, name) = if is_video { ("0:v", "got.video") } else { ("0:a", "got.audio") };
            command.args(["-map", map, "-c", "copy", "-copyts", "-flush_packets", "1"]);
            // Of AAC in LATM no frame is a keyframe for version 9.
            command.arg("-copyinkf:a");
            // Times are in the list; what has none in order would be refused here.
            command.args(["-bsf", "setts=ts=N", "-f", "data", "-y"]).arg(dir.file(name));
        }
        command.args(["-map", "0:v?", "-map", "0:a?", "-c", "copy", "-copyts", "-copyinkf:a"]);
        command.args(["-flush_packets", "1", "-f", "framecrc", "-y"]).arg(dir.file("got.list"));
        command.stdout(Stdio::null());
        let over = lower.map_or("FLV", Lower::name);
        let what = format!("ffmpeg, {modern:?}, from {url} over {over}");
        let process = Process::start(&what, &mut command, dir.file("stderr.log"));
        Self { what, process, dir, is_flv: lower.is_none(), gstreamer: None }
    }

    /// GStreamer, H.264 and AAC into a file each, behind headers that have each buffer's time. It goes
    /// by timestamps and sender reports alone: its times by default are those of arrival, smoothed.
    #[track_caller]
    pub fn gstreamer(url: &str, lower: Lower) -> Self {
        let dir = TempDir::new("gstreamer-player");
        let place = format!("location={url}");
        let protocols = format!("protocols={}", lower.name());
        let files = ["video", "audio"]
            .map(|name| format!("location={}", dir.file(&format!("got.{name}")).display()));
        let mut command = Command::new("gst-launch-1.0");
        command.args(["-q", "rtspsrc", "name=s", &place, &protocols, "latency=100"]);
        command.args(["buffer-mode=none"]);
        command.args(["s.", "!", "application/x-rtp,media=video", "!", "rtph264depay"]);
        command.args(["!", "video/x-h264,stream-format=byte-stream,alignment=au", "!", "gdppay"]);
        command.args(["!", "filesink", "buffer-mode=unbuffered", &files[0]]);
        command.args(["s.", "!", "application/x-rtp,media=audio", "!", "rtpmp4gdepay"]);
        command.args(["!", "gdppay", "!", "filesink", "buffer-mode=unbuffered", &files[1]]);
        // Its launcher does not always say on its own that it could not link.
        command.env("GST_DEBUG", "default:2").stdout(Stdio::null());
        let what = format!("GStreamer from {url} over {}", lower.name());
        let process = Process::start(&what, &mut command, dir.file("stderr.log"));
        let gstreamer = Some(Gstreamer { command, starts: 1 });
        Self { what, process, dir, is_flv: false, gstreamer }
    }

    pub fn what(&self) -> &str {
        &self.what
    }

    /// How often it was started, see [`Self::wait`].
    pub fn starts(&self) -> usize {
        self.gstreamer.as_ref().map_or(1, |gstreamer| gstreamer.starts as usize)
    }

    /// Waits for so many pictures and sounds.
    #[track_caller]
    pub fn wait(&mut self, video: usize, audio: usize) {
        let mut counts = (0, 0);
        let enough = holds_within(LIVENESS, || {
            self.start_again_if_unlinked();
            let units = self.units();
            let count = |kind| units.iter().filter(|unit| unit.kind == kind).count();
            counts = (count(Kind::Video), count(Kind::Audio));
            let enough = counts.0 >= video && counts.1 >= audio;
            assert!(
                enough || self.process.is_running(),
                "{}: ended with {counts:?}: {}",
                self.what,
                self.process.log()
            );
            enough
        });
        assert!(enough, "{}: {counts:?} pictures and sounds: {}", self.what, self.process.log());
    }

    /// GStreamer's launcher now and then leaves a track unlinked and records nothing, whoever serves it: the
    /// file of the other one waits for the first buffer of both.
    #[track_caller]
    fn start_again_if_unlinked(&mut self) {
        let Some(Gstreamer { command, starts }) = &mut self.gstreamer else { return };
        let is_unlinked = self.process.log().contains("Delayed linking failed");
        if *starts < GSTREAMER_STARTS_MAX && is_unlinked {
            *starts += 1;
            self.process.kill();
            let log = self.dir.file(&format!("stderr-{starts}.log"));
            self.process = Process::start(&self.what, command, log);
        }
    }

    /// What is written so far.
    #[track_caller]
    pub fn units(&self) -> Vec<Unit> {
        if self.gstreamer.is_none() {
            let split = if self.is_flv { units::split_nals } else { nals_of_annex_b };
            return listed_units(&self.dir, split);
        }
        let read = |name: &str| std::fs::read(self.dir.file(name)).unwrap_or_default();
        let pictures = gstreamer_buffers(&read("got.video")).into_iter().map(gstreamer_picture);
        let sounds = gstreamer_buffers(&read("got.audio")).into_iter().map(gstreamer_sound);
        pictures.chain(sounds).collect()
    }

    /// Ends it; a player of its kind heeds that only while media comes.
    pub fn stop(mut self) -> Vec<Unit> {
        self.process.terminate(LIVENESS);
        self.units()
    }
}

/// What ffmpeg's list says of its packets, whose bytes are in two files.
fn listed_units(dir: &TempDir, split: fn(&[u8]) -> Vec<Vec<u8>>) -> Vec<Unit> {
    let list = std::fs::read_to_string(dir.file("got.list")).unwrap_or_default();
    let mut data = ["got.video", "got.audio"].map(|name| {
        let bytes = std::fs::read(dir.file(name)).unwrap_or_default();
        std::collections::VecDeque::from(bytes)
    });
    let mut tracks: Vec<(f64, String)> = Vec::new();
    let mut units = Vec::new();
    for line in list.lines() {
        // `#tb 0: 1/90000`, `#codec_id 0: h264`
        if let Some((_, base)) = line.strip_prefix("#tb ").and_then(|rest| rest.split_once("1/")) {
            tracks.push((base.parse().expect("a clock rate"), String::new()));
        } else if let Some(rest) = line.strip_prefix("#codec_id ") {
            let (track, name) = rest.split_once(": ").expect("a track and its codec");
            tracks[track.parse::<usize>().expect("a number")].1 = name.to_owned();
        }
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [track, _, pts, _, len, ..] = fields[..] else { continue };
        let (clock_rate, codec) = &tracks[track.parse::<usize>().expect("a track's number")];
        let video = match codec.as_str() {
            "h264" => Some(Codec::H264),
            "hevc" => Some(Codec::H265),
            _ => None,
        };
        let data = &mut data[usize::from(video.is_none())];
        // The line may be cut off, and the files are written in turns.
        let Some(len) = len.parse::<usize>().ok().filter(|len| *len <= data.len()) else { break };
        let bytes: Vec<u8> = data.drain(..len).collect();
        let nals = video.map(|_| split(&bytes)).unwrap_or_default();
        units.push(Unit {
            kind: if video.is_some() { Kind::Video } else { Kind::Audio },
            pts_ms: match pts.parse() {
                Ok(i64::MIN) | Err(_) => f64::NAN,
                Ok(pts) => pts as f64 * 1000.0 / clock_rate,
            },
            is_keyframe: video.is_none_or(|codec| nals.iter().any(|nal| codec.is_keyframe(nal))),
            is_pcm: codec.starts_with("pcm"),
            bytes: video.map_or(bytes, |codec| units::picture(codec, &nals)),
        });
    }
    units
}

/// Units behind start codes.
fn nals_of_annex_b(bytes: &[u8]) -> Vec<Vec<u8>> {
    let starts: Vec<usize> = bytes
        .windows(3)
        .enumerate()
        .filter_map(|(at, window)| (window == [0, 0, 1]).then_some(at + 3))
        .collect();
    let ends = starts.iter().skip(1).map(|start| start - 3).chain([bytes.len()]);
    let nals = starts.iter().zip(ends).map(|(start, end)| {
        let nal = &bytes[*start..end];
        let len = nal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        nal[..len].to_vec()
    });
    nals.filter(|nal| !nal.is_empty()).collect()
}

/// Time in ms, NaN where there is none, and bytes of each whole buffer behind its header (GStreamer Data
/// Protocol 1.0): type at 4, length at 6, presentation time in ns at 10, 62 bytes in all.
fn gstreamer_buffers(mut bytes: &[u8]) -> Vec<(f64, Vec<u8>)> {
    let mut buffers = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<62>() {
        let number = |at: usize, len: usize| {
            header[at..at + len].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let Some(body) = rest.get(..number(6, 4) as usize) else { break };
        if number(4, 2) == 1 {
            let pts_ns = number(10, 8);
            let pts_ms = if pts_ns == u64::MAX { f64::NAN } else { pts_ns as f64 / 1e6 };
            buffers.push((pts_ms, body.to_vec()));
        }
        bytes = &rest[body.len()..];
    }
    buffers
}

fn gstreamer_picture((pts_ms, bytes): (f64, Vec<u8>)) -> Unit {
    let nals = nals_of_annex_b(&bytes);
    Unit {
        kind: Kind::Video,
        pts_ms,
        is_keyframe: nals.iter().any(|nal| Codec::H264.is_keyframe(nal)),
        is_pcm: false,
        bytes: units::picture(Codec::H264, &nals),
    }
}

fn gstreamer_sound((pts_ms, bytes): (f64, Vec<u8>)) -> Unit {
    Unit { kind: Kind::Audio, pts_ms, is_keyframe: true, is_pcm: false, bytes }
}
