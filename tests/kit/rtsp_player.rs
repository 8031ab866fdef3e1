//! An RTSP player that keeps every packet: over TCP or UDP, with what `RTP-Info` and the sender
//! reports said.

use std::io::Read;
use std::net::{IpAddr, Shutdown, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use super::flv::Kind;
use super::player::{End, is_wait};
use super::rtp::{Codec, Format, Packet, SenderReport, parse_description, sender_reports};
use super::rtsp::{Client, Item, Lower, Message, Reader, first_of_pair, transport_parameter};
use super::tape::{Tape, Way};
use super::units::{self, Unit};
use super::{LIVENESS, wait_until};

/// What has been seen so far.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// All comes over the one connection, in the order in which it was sent.
    pub is_interleaved: bool,
    pub description: String,
    pub tracks: Vec<TrackRecording>,
    pub end: Option<End>,
    /// What was wrong with the bytes.
    pub fault: Option<String>,
}

#[derive(Debug, Clone)]
pub struct TrackRecording {
    pub format: Format,
    /// SSRC that the answer to SETUP told.
    pub ssrc: Option<u32>,
    /// Sequence number and timestamp of `RTP-Info`.
    pub start: Option<(u16, u32)>,
    pub packets: Vec<Packet>,
    /// Each with the number of packets before it.
    pub reports: Vec<(usize, SenderReport)>,
}

impl TrackRecording {
    fn new(format: Format) -> Self {
        Self { format, ssrc: None, start: None, packets: Vec::new(), reports: Vec::new() }
    }

    /// Milliseconds of a timestamp, on the sender's clock.
    #[track_caller]
    fn ms_of(&self, timestamp: u32) -> f64 {
        let since = |report: &SenderReport| timestamp.wrapping_sub(report.timestamp) as i32;
        let mut before = self.reports.iter().rev().filter(|(_, report)| since(report) >= 0);
        let (_, report) =
            before.next().or_else(|| self.reports.first()).expect("a sender report has come");
        report.ntp_ms() + f64::from(since(report)) * 1000.0 / f64::from(self.format.clock_rate)
    }

    /// How many units are whole: pictures by their marks, sounds as packets tell them.
    pub fn unit_count(&self) -> usize {
        let marked = self.packets.iter().filter(|packet| packet.marker).count();
        let sounds = |packet: &Packet| match (self.format.codec, packet.payload.get(1)) {
            // Bits of their headers, 16 each.
            (Codec::Aac, Some(bits)) => usize::from(*bits) / 16,
            _ => 1,
        };
        if self.format.codec.kind() == Kind::Video {
            marked
        } else {
            self.packets.iter().map(sounds).sum()
        }
    }

    /// What came is as of one source: no packet is missing, and each unit is later than all before it,
    /// with no gap of `gap_max`, but for pictures that are sent before the ones that they are shown after.
    #[track_caller]
    pub fn assert_continuous(&self, reorder_ms: i64, gap_max: Duration) {
        let Format { codec, clock_rate, .. } = self.format;
        let reorder_ms = if codec.kind() == Kind::Video { reorder_ms } else { 0 };
        let rate = i64::from(clock_rate);
        assert!(self.packets.len() > 100, "{codec:?}: {} packets", self.packets.len());
        let mut shown = vec![0];
        for pair in self.packets.windows(2) {
            let [before, after] = pair else { unreachable!("windows of two") };
            assert_eq!(
                after.sequence,
                before.sequence.wrapping_add(1),
                "{codec:?}: of its packets"
            );
            assert_eq!(after.ssrc, before.ssrc);
            assert_eq!(after.payload_type, before.payload_type);
            let ticks = i64::from(after.timestamp.wrapping_sub(before.timestamp) as i32);
            if ticks != 0 {
                let last = *shown.last().expect("one at the least");
                shown.push(last + ticks);
                let newest = shown.iter().rev().skip(1).take(10).max().expect("one at the least");
                let ahead_ms = (last + ticks - newest) * 1000 / rate;
                let steps = -reorder_ms..gap_max.as_millis() as i64;
                assert!(steps.contains(&ahead_ms), "{codec:?} steps by {ahead_ms} ms");
            }
        }
        let count = shown.len();
        shown.sort_unstable();
        shown.dedup();
        assert_eq!(shown.len(), count, "{codec:?}: two units have one timestamp");
    }

    /// The track's units by the sender's clock.
    #[track_caller]
    pub fn units(&self) -> Vec<Unit> {
        let first = self.packets.first().map_or(0, |packet| packet.timestamp);
        units::of_packets(&self.format, &self.packets, |timestamp| {
            if self.reports.is_empty() { f64::from(first) } else { self.ms_of(timestamp) }
        })
    }
}

impl Recording {
    /// What a publisher sent over a connection of its own: its tracks by its own timestamps and reports.
    #[track_caller]
    pub fn of_publisher(bytes: &[u8]) -> Self {
        let mut reader = Reader::default();
        reader.push(bytes);
        let (mut recording, mut set_up) = (Self::default(), Vec::new());
        while let Some(item) = reader.next_item().expect("RTSP") {
            match item {
                Item::Message(request) if request.method() == "ANNOUNCE" => {
                    let formats = parse_description(&request.text()).expect("a description");
                    recording.tracks = formats.into_iter().map(TrackRecording::new).collect();
                }
                Item::Message(request) if request.method() == "SETUP" => {
                    let of =
                        |track: &TrackRecording| request.uri().ends_with(&track.format.control);
                    set_up.push(recording.tracks.iter().position(of).expect("a track of its own"));
                }
                // Channels are given in the order of the requests.
                Item::Packet { channel, bytes } => {
                    let track = set_up[usize::from(channel / 2)];
                    note(&mut recording, track, channel % 2 == 1, &bytes);
                }
                Item::Message(_) => {}
            }
        }
        recording
    }

    /// `RTP-Info` named each track: for players that begin where each has packets.
    #[track_caller]
    pub fn assert_all_told(&self, what: &str) {
        for track in &self.tracks {
            assert!(track.start.is_some(), "{what}: RTP-Info lacks {:?}", track.format.codec);
        }
    }

    /// Whether the newest GOP has some of each track, and will last: what players to come begin with.
    fn is_in_gop(&self) -> bool {
        let units = self.units();
        let newest_ms =
            |is_it: fn(&&Unit) -> bool| units.iter().rfind(is_it).map(|unit| unit.pts_ms);
        let keyframe_ms = newest_ms(|unit| unit.kind == Kind::Video && unit.is_keyframe);
        let sound_ms = newest_ms(|unit| unit.kind == Kind::Audio);
        let since = keyframe_ms.zip(sound_ms).map(|(keyframe_ms, sound_ms)| sound_ms - keyframe_ms);
        since.is_some_and(|since_ms| (50.0..400.0).contains(&since_ms))
    }

    /// The units of all tracks by the sender's clock.
    #[track_caller]
    pub fn units(&self) -> Vec<Unit> {
        self.tracks.iter().flat_map(TrackRecording::units).collect()
    }

    /// `RTP-Info` names the first packet of every track that had any by then, and no track behind one
    /// that had none; and as [`Self::assert_reported`].
    #[track_caller]
    pub fn assert_announced(&self, what: &str) {
        let untold = self.tracks.iter().skip_while(|track| track.start.is_some());
        let mut told_behind = untold.filter(|track| track.start.is_some());
        assert!(told_behind.next().is_none(), "{what}: RTP-Info lacks a track before another");
        self.assert_reported(what);
        for track in &self.tracks {
            let begins = (track.packets[0].sequence, track.packets[0].timestamp);
            let told = track.start.unwrap_or(begins);
            let codec = track.format.codec;
            assert_eq!(told, begins, "{what}: {codec:?} begins otherwise than RTP-Info says");
        }
    }

    /// Each track had its sender report before its first packet, which over UDP is read a little later,
    /// and every packet and report has the SSRC that SETUP told.
    #[track_caller]
    pub fn assert_reported(&self, what: &str) {
        let after_max = if self.is_interleaved { 0 } else { REPORT_AFTER_MAX };
        for track in &self.tracks {
            let codec = track.format.codec;
            let first = track.packets.first().unwrap_or_else(|| panic!("{what}: no {codec:?}"));
            let before = track.reports.first().map(|(before, _)| *before);
            let soon = before.is_some_and(|before| before <= after_max);
            assert!(soon, "{what}: {codec:?} has its first sender report after {before:?} packets");
            let ssrc = track.ssrc.unwrap_or(first.ssrc);
            let reports = track.reports.iter().map(|(_, report)| report.ssrc);
            let mut all = track.packets.iter().map(|packet| packet.ssrc).chain(reports);
            assert!(all.all(|have| have == ssrc), "{what}: {codec:?} is not of SSRC {ssrc:08x}");
        }
    }
}

/// A connected player.
#[derive(Debug)]
pub struct RtspPlayer {
    what: String,
    seen: Arc<Mutex<Recording>>,
    paused: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    client: Client,
    threads: Vec<JoinHandle<()>>,
    url: String,
}

/// A track's sockets and where the relay sends from.
struct Udp {
    track: usize,
    is_rtcp: bool,
    socket: UdpSocket,
}

impl RtspPlayer {
    /// Plays all tracks of `url`.
    #[track_caller]
    pub fn start(address: SocketAddr, url: &str, lower: Lower) -> Self {
        Self::start_with(Client::connect(address), url, lower)
    }

    /// As [`Self::start`], over this connection.
    #[track_caller]
    pub fn start_with(mut client: Client, url: &str, lower: Lower) -> Self {
        let what = format!("rtsp over {} {url}", lower.name());
        client.demand("OPTIONS", url, &[], "");
        let described = client.demand("DESCRIBE", url, &[("Accept", "application/sdp")], "");
        let description = described.text();
        let formats = parse_description(&description);
        let formats = formats.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert!(!formats.is_empty(), "{what}: no tracks");
        let base = described.header("content-base").unwrap_or(url).to_owned();
        let mut sockets = Vec::new();
        let mut tracks = Vec::new();
        let mut urls = Vec::new();
        for (index, format) in formats.into_iter().enumerate() {
            let track_url = control_url(&base, &format.control);
            let (answer, mut own) = set_up(&mut client, &track_url, index, lower);
            sockets.append(&mut own);
            let transport = answer.header("transport").unwrap_or_default();
            let ssrc = transport_parameter(transport, "ssrc");
            let ssrc = ssrc.map(|ssrc| u32::from_str_radix(ssrc, 16).expect("an SSRC"));
            urls.push(track_url);
            tracks.push(TrackRecording { ssrc, ..TrackRecording::new(format) });
        }
        let played = client.demand("PLAY", &base, &[("Range", "npt=0.000-")], "");
        read_starts(&mut tracks, &urls, played.header("rtp-info").unwrap_or_default());
        let is_interleaved = lower == Lower::Tcp;
        let recording = Recording { is_interleaved, description, tracks, ..Recording::default() };
        let mut player = Self {
            what,
            seen: Arc::new(Mutex::new(recording)),
            paused: Arc::default(),
            stopped: Arc::default(),
            client,
            threads: Vec::new(),
            url: base,
        };
        player.listen(sockets);
        player
    }

    fn listen(&mut self, sockets: Vec<Udp>) {
        for udp in sockets {
            let (seen, stopped) = (Arc::clone(&self.seen), Arc::clone(&self.stopped));
            let tape = self.client.tape.clone();
            self.threads.push(spawn(move || read_udp(&udp, &seen, &stopped, &tape)));
        }
        for (channel, bytes) in std::mem::take(&mut self.client.early) {
            note_interleaved(&mut self.seen.lock().expect("a fresh lock"), channel, &bytes);
        }
        let mut reader = std::mem::take(&mut self.client.reader);
        let mut socket = self.client.socket.try_clone().expect("a second handle");
        socket.set_read_timeout(Some(TURN)).expect("a timeout");
        let (seen, stopped) = (Arc::clone(&self.seen), Arc::clone(&self.stopped));
        let (paused, tape) = (Arc::clone(&self.paused), self.client.tape.clone());
        self.threads.push(spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if paused.load(Ordering::Relaxed) {
                    std::thread::sleep(TURN);
                    continue;
                }
                // What came with the answer to PLAY is here already.
                take_items(&mut reader, &seen);
                match socket.read(&mut buffer) {
                    Ok(0) => return end(&seen, End::Eof),
                    Ok(len) => {
                        tape.tcp(&socket, Way::In, &buffer[..len]);
                        reader.push(&buffer[..len]);
                    }
                    Err(error) if is_wait(&error) => {}
                    Err(_) => return end(&seen, End::Reset),
                }
            }
        }));
    }

    pub fn what(&self) -> &str {
        &self.what
    }

    /// Looks at what has been seen. A fault in the bytes fails the test here.
    #[track_caller]
    pub fn look<T>(&self, look: impl FnOnce(&Recording) -> T) -> T {
        let seen = self.seen.lock().expect("no panic while locked");
        assert_eq!(seen.fault, None, "{}: bad bytes", self.what);
        look(&seen)
    }

    /// Pictures that were got whole.
    pub fn pictures(&self) -> usize {
        let of_track = |track: &&TrackRecording| track.format.codec.kind() == Kind::Video;
        self.look(|seen| seen.tracks.iter().filter(of_track).map(TrackRecording::unit_count).sum())
    }

    /// Waits for so many pictures or sounds in each track of this kind.
    #[track_caller]
    pub fn wait_units(&self, kind: Kind, count: usize) {
        wait_until(LIVENESS, &format!("{}: {count} {kind:?} units", self.what), || {
            self.look(|seen| {
                let of_kind = seen.tracks.iter().filter(|t| t.format.codec.kind() == kind);
                let have = of_kind.map(TrackRecording::unit_count).min().unwrap_or(0);
                let is_open = seen.end.is_none() || have >= count;
                assert!(is_open, "{}: ended ({:?}) with {have}", self.what, seen.end);
                have >= count
            })
        });
    }

    /// Waits until players that begin now are told of each track: for streams of H.264 or H.265, with
    /// AAC.
    #[track_caller]
    pub fn wait_in_gop(&self) {
        wait_until(LIVENESS, &format!("{}: a GOP of both tracks", self.what), || {
            self.look(Recording::is_in_gop)
        });
    }

    #[track_caller]
    pub fn wait_end(&self, bound: Duration) -> End {
        wait_until(bound, &format!("{}: closed by the relay", self.what), || {
            self.look(|seen| seen.end.is_some())
        });
        self.look(|seen| seen.end.clone()).expect("just seen")
    }

    /// Stops reading the connection.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    /// What went over the wire, as a pcap file.
    pub fn write_tape(&self, path: &Path) {
        self.client.tape.write(path);
    }

    /// Leaves as a player should; what came until then.
    #[track_caller]
    pub fn stop(mut self) -> Recording {
        let url = self.url.clone();
        let session = self.client.session.clone().unwrap_or_default();
        let request = format!("TEARDOWN {url} RTSP/1.0\r\nCSeq: 99\r\nSession: {session}\r\n\r\n");
        // The relay may have closed it first.
        let _ = self.client.send(request.as_bytes());
        self.close();
        self.look(Clone::clone)
    }

    fn close(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // The relay may have closed it first.
        let _ = self.client.socket.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            thread.join().expect("the reading threads do not panic");
        }
    }
}

impl Drop for RtspPlayer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = self.client.socket.shutdown(Shutdown::Both);
    }
}

/// A relative address behind its base, or an absolute one as it is.
pub fn control_url(base: &str, control: &str) -> String {
    match control {
        "" | "*" => base.to_owned(),
        _ if control.starts_with("rtsp://") => control.to_owned(),
        _ if base.ends_with('/') => format!("{base}{control}"),
        _ => format!("{base}/{control}"),
    }
}

#[track_caller]
fn set_up(client: &mut Client, url: &str, track: usize, lower: Lower) -> (Message, Vec<Udp>) {
    if lower == Lower::Tcp {
        let rtp = 2 * track;
        let transport = format!("RTP/AVP/TCP;unicast;interleaved={rtp}-{}", rtp + 1);
        let answer = client.demand("SETUP", url, &[("Transport", &transport)], "");
        let told = answer.header("transport").unwrap_or_default().to_owned();
        let channel = transport_parameter(&told, "interleaved").and_then(first_of_pair::<usize>);
        assert_eq!(channel, Some(rtp), "{url}: {told:?}");
        return (answer, Vec::new());
    }
    let sockets = udp_pair(client.socket.local_addr().expect("a connected socket").ip());
    let ports = sockets.each_ref().map(|s| s.local_addr().expect("a bound socket").port());
    let transport = format!("RTP/AVP;unicast;client_port={}-{}", ports[0], ports[1]);
    let answer = client.demand("SETUP", url, &[("Transport", &transport)], "");
    let told = answer.header("transport").unwrap_or_default().to_owned();
    let port: Option<u16> = transport_parameter(&told, "server_port").and_then(first_of_pair);
    assert!(port.is_some_and(|port| port > 0), "{url}: {told:?}");
    let udp = sockets.into_iter().enumerate();
    (answer, udp.map(|(at, socket)| Udp { track, is_rtcp: at == 1, socket }).collect())
}

/// Two ports of this host, an even one and the next.
pub fn udp_pair(host: IpAddr) -> [UdpSocket; 2] {
    loop {
        let first = UdpSocket::bind((host, 0)).expect("a free port");
        let port = first.local_addr().expect("a bound socket").port();
        let second = UdpSocket::bind((host, port.wrapping_add(1)));
        if let (0, Ok(second)) = (port % 2, second) {
            for socket in [&first, &second] {
                let socket = socket2::SockRef::from(socket);
                socket.set_recv_buffer_size(1 << 20).expect("a large receive buffer");
                socket.set_read_timeout(Some(TURN)).expect("a timeout");
            }
            return [first, second];
        }
    }
}

fn read_starts(tracks: &mut [TrackRecording], urls: &[String], rtp_info: &str) {
    for entry in rtp_info.split(",url=") {
        let value = |name: &str| {
            let mut parts = entry.split(';').filter_map(|part| part.trim().split_once('='));
            parts.find(|(have, _)| *have == name).map(|(_, value)| value)
        };
        let url = entry.split(';').next().unwrap_or_default().trim_start_matches("url=");
        let place = urls.iter().position(|have| have == url);
        let number = |name| value(name).and_then(|value| value.parse::<u32>().ok());
        if let (Some(place), Some(seq), Some(timestamp)) = (place, number("seq"), number("rtptime"))
        {
            tracks[place].start = Some((u16::try_from(seq).expect("16 bits"), timestamp));
        }
    }
}

fn take_items(reader: &mut Reader, seen: &Mutex<Recording>) {
    let mut seen = seen.lock().expect("no panic while locked");
    loop {
        match reader.next_item() {
            Ok(Some(Item::Packet { channel, bytes })) => {
                note_interleaved(&mut seen, channel, &bytes);
            }
            Ok(Some(Item::Message(_))) => {}
            Ok(None) => return,
            Err(fault) => {
                seen.fault = Some(fault);
                return;
            }
        }
    }
}

fn note_interleaved(seen: &mut Recording, channel: u8, bytes: &[u8]) {
    note(seen, usize::from(channel / 2), channel % 2 == 1, bytes);
}

fn note(seen: &mut Recording, track: usize, is_rtcp: bool, bytes: &[u8]) {
    let Some(track) = seen.tracks.get_mut(track) else {
        seen.fault = Some(format!("a packet for track {track}"));
        return;
    };
    let result = if is_rtcp {
        sender_reports(bytes).map(|reports| {
            let before = track.packets.len();
            track.reports.extend(reports.into_iter().map(|report| (before, report)));
        })
    } else {
        Packet::parse(bytes).map(|packet| track.packets.push(packet))
    };
    if let Err(fault) = result {
        seen.fault = Some(fault);
    }
}

fn read_udp(udp: &Udp, seen: &Mutex<Recording>, stopped: &AtomicBool, tape: &Tape) {
    let mut buffer = [0; 2048];
    while !stopped.load(Ordering::Relaxed) {
        let Ok((len, from)) = udp.socket.recv_from(&mut buffer) else { continue };
        // Packets that open the way through a NAT.
        if len < 8 {
            continue;
        }
        tape.udp(&udp.socket, from, Way::In, &buffer[..len]);
        let mut seen = seen.lock().expect("no panic while locked");
        note(&mut seen, udp.track, udp.is_rtcp, &buffer[..len]);
    }
}

fn end(seen: &Mutex<Recording>, end: End) {
    seen.lock().expect("no panic while locked").end.get_or_insert(end);
}

/// How long a thread sleeps at most.
const TURN: Duration = Duration::from_millis(50);

/// Packets of a track before its first sender report: over UDP another thread reads those, while a
/// GOP comes at once.
const REPORT_AFTER_MAX: usize = 60;
