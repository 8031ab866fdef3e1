//! What the targets of sources share: the steps of a source out of a fuzzer's bytes, and what must hold of
//! what is made of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rillcast::clock;
use rillcast::media::{Codec, MediaPart, TagKind};
use rillcast::proto::rtp::random_access::for_each_nal;
use rillcast::proto::rtp::rtcp::{Compound, NtpTime, RtcpPacket, SenderReport};
use rillcast::proto::rtp::{
    Depacketizer, Format, Gap, LossPolicy, RtpHeader, RtpPacket, RtpPart, SourceOutput,
    SourceReceiver, TrackKind,
};
use rillcast::proto::rtsp::SessionDescription;
use rillcast::stream::{Entry, Ingest, Log, RtpIngest, RtpProgress, Tryout};

use crate::bridge::KNOWN_TAGS;

/// Writes what the input describes into a log, and looks at each entry.
pub fn ingest(data: &[u8]) {
    let (mut ingest, mut log) = (RtpIngest::default(), Log::default());
    let mut steps = Steps::new(data);
    let mut seen = Written::default();
    while let Some(step) = steps.next() {
        match step {
            Step::Part(part) => {
                seen.note(&part);
                let progress = ingest.handle(&mut log, (steps.now, 1_700_000_000), part);
                if progress == RtpProgress::NewTracks {
                    seen.runs = Default::default();
                }
                seen.check(&log);
            }
            Step::ChangeSource => ingest.change_source(&mut log),
            Step::StartAtNext => ingest.start_at_next(),
            Step::StartOver => {
                ingest.start_over(&mut log);
                seen = Written::default();
            }
            Step::Trim => {
                log.flush();
                log.trim(None, 1000);
            }
        }
    }
    // What was held until a keyframe came is copied twice.
    let bytes = ingest.bytes();
    assert!(bytes.copied <= 2 * bytes.received, "{bytes:?}");
}

/// Holds back the source that the input describes, of packets or of tags, and lets it take over.
pub fn try_out(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let tryout = Tryout::new(choice & 1 == 1);
    if choice & 2 == 0 { try_packets(tryout, rest) } else { try_tags(tryout, rest) }
}

fn try_packets(mut tryout: Tryout, data: &[u8]) {
    let mut steps = Steps::new(data);
    let mut seen = Written::default();
    while let Some(step) = steps.next() {
        let Step::Part(part) = step else { continue };
        seen.note(&part);
        if let Some(parts) = tryout.handle_rtp(part) {
            return take_over(&tryout, parts, seen, steps.now);
        }
        tryout.needs_patience();
    }
}

/// A source takes over with what it brought, in order, and where players can start.
fn take_over(tryout: &Tryout, parts: Vec<RtpPart>, mut seen: Written, now: Instant) {
    let RtpPart::Begin(description) = &parts[0] else { panic!("begins with {:?}", parts[0]) };
    let video = description.main_track(TrackKind::Video);
    let codec = video.map(|track| description.media[track].format.codec());
    let is_known = matches!(codec, Some(Codec::H264 | Codec::H265));
    let (mut ingest, mut log) = (RtpIngest::default(), Log::default());
    if tryout.stands_in() {
        ingest.start_at_next();
    }
    if tryout.lacks_video() {
        ingest.start_without_video();
    }
    for part in parts {
        ingest.handle(&mut log, (now, 1_700_000_000), part);
    }
    seen.check(&log);
    let mut entries = log.range(log.first_seq()..log.next_seq());
    let starts = entries.any(|entry| entry.keyframe);
    assert_eq!(starts, is_known && !tryout.lacks_video(), "a start of video");
}

/// What a log holds against what came.
#[derive(Default)]
struct Written {
    next_seq: u64,
    /// Payloads of each track.
    came: [VecDeque<Bytes>; TRACKS],
    /// NAL units among them: of those that are parameter sets, the log may have some again.
    sets: [HashSet<Bytes>; TRACKS],
    runs: [Run; TRACKS],
}

/// What players have of a track so far.
#[derive(Default)]
struct Run {
    ssrc: Option<u32>,
    sequence: Option<u16>,
}

impl Written {
    fn note(&mut self, part: &RtpPart) {
        if let RtpPart::Packet { track, packet, .. } = part {
            let payload = packet.payload();
            for codec in [Codec::H264, Codec::H265] {
                for_each_nal(codec, &payload, |nal| {
                    self.sets[*track].insert(Bytes::copy_from_slice(nal));
                });
            }
            self.came[*track].push_back(payload);
        }
    }

    /// Whatever the source does, a track has one SSRC, and one run of numbers over what came of it, with
    /// parameter sets again before keyframes.
    fn check(&mut self, log: &Log) {
        for seq in self.next_seq.max(log.first_seq())..log.next_seq() {
            let entry = log.entry(seq).expect("it is in the log");
            assert!(u64::from(entry.lead) <= seq, "a lead of entries that there are");
            assert!(!entry.keyframe || entry.kind == TagKind::Video);
            let bytes = log.bytes(entry.packet());
            if entry.is_rtcp() {
                self.check_report(entry, &bytes);
            } else {
                self.check_packet(entry, bytes);
            }
        }
        self.next_seq = log.next_seq();
    }

    fn check_report(&mut self, entry: &Entry, bytes: &[u8]) {
        let first = Compound::new(bytes).next();
        let Some(Ok(RtcpPacket::SenderReport(report, _))) = first else { panic!("{first:?}") };
        let ssrc = self.runs[entry.track()].ssrc.get_or_insert(report.ssrc);
        assert_eq!(*ssrc, report.ssrc);
    }

    fn check_packet(&mut self, entry: &Entry, bytes: Bytes) {
        let packet = RtpPacket::parse(bytes).expect("a packet");
        let RtpHeader { ssrc, sequence, .. } = packet.header();
        let run = &mut self.runs[entry.track()];
        assert_eq!(*run.ssrc.get_or_insert(ssrc), ssrc);
        if let Some(before) = run.sequence.replace(sequence) {
            assert!((1..0x8000).contains(&sequence.wrapping_sub(before)), "{before}, {sequence}");
        }
        let payload = packet.payload();
        let came = &mut self.came[entry.track()];
        match came.iter().position(|came| *came == payload) {
            Some(place) => drop(came.drain(..=place)),
            None => assert!(self.sets[entry.track()].contains(&payload), "it came, in this order"),
        }
    }
}

/// The steps that an input describes.
///
/// Each: what it is (3 bits, of which 4 and more are packets; the rest chooses among several), flags
/// (marker, 2 bits of gap, same timestamp, second track, timestamp jumps by the length, a second passes,
/// length times 8), length, payload.
struct Steps<'a> {
    rest: &'a [u8],
    now: Instant,
    sources: [(u16, u32); TRACKS],
}

enum Step {
    Part(RtpPart),
    ChangeSource,
    StartAtNext,
    StartOver,
    Trim,
}

impl<'a> Steps<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest, now: clock::now(), sources: [(65_530, 0), (7, u32::MAX - 5000)] }
    }

    fn next(&mut self) -> Option<Step> {
        let [what, flags, len, ref behind @ ..] = *self.rest else { return None };
        let len = usize::from(len) * if flags & 0x80 == 0 { 1 } else { 8 };
        let (payload, behind) = behind.split_at(len.min(behind.len()));
        self.rest = behind;
        self.now += Duration::from_millis(if flags & 0x40 == 0 { 1 } else { 1000 });
        let track = usize::from(flags >> 4 & 1);
        let timestamp = &mut self.sources[track].1;
        if flags & 8 == 0 {
            *timestamp = timestamp.wrapping_add(3600);
        }
        if flags & 0x20 != 0 {
            *timestamp = timestamp.wrapping_add(0x1000_0001_u32.wrapping_mul(len as u32));
        }
        let timestamp = *timestamp;
        Some(match (what & 7, what >> 3) {
            (0, choice) => Step::Part(RtpPart::Begin(Arc::new(description(choice)))),
            (1, _) => Step::Part(RtpPart::Announced { track, timestamp }),
            (2, _) => Step::Part(self.report(track, payload)),
            (3, choice) => match choice % 4 {
                0 => Step::ChangeSource,
                1 => Step::StartAtNext,
                2 => Step::StartOver,
                _ => Step::Trim,
            },
            _ => Step::Part(self.packet(track, flags, payload)),
        })
    }

    fn report(&self, track: usize, payload: &[u8]) -> RtpPart {
        let ntp = payload.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let report = SenderReport {
            ssrc: 1,
            ntp: NtpTime(ntp),
            rtp_timestamp: self.sources[track].1,
            packet_count: 0,
            octet_count: 0,
        };
        RtpPart::Report { track, bytes: Bytes::new(), report: Some(report) }
    }

    fn packet(&mut self, track: usize, flags: u8, payload: &[u8]) -> RtpPart {
        let (sequence, timestamp) = &mut self.sources[track];
        let gap = match flags >> 1 & 3 {
            0 | 3 => Gap::None,
            1 => Gap::Lost(1),
            _ => Gap::Restart,
        };
        if gap == Gap::Restart {
            *sequence = sequence.wrapping_mul(31).wrapping_add(1000);
        }
        let marker = flags & 1 != 0;
        let ssrc = u32::from(gap == Gap::Restart) + 1;
        let header = RtpHeader {
            marker,
            payload_type: 96,
            sequence: *sequence,
            timestamp: *timestamp,
            ssrc,
        };
        *sequence = sequence.wrapping_add(1);
        RtpPart::Packet { track, packet: packet(header, payload), gap }
    }
}

fn packet(header: RtpHeader, payload: &[u8]) -> RtpPacket {
    let bytes = [&header.encode()[..], payload].concat();
    RtpPacket::parse(bytes.into()).expect("a packet of ours")
}

fn description(choice: u8) -> SessionDescription {
    let text = DESCRIPTIONS[usize::from(choice) % DESCRIPTIONS.len()];
    SessionDescription::parse(text.as_bytes()).expect("it is sound")
}

fn try_tags(mut tryout: Tryout, data: &[u8]) {
    let mut tags = Tags { rest: data, left: [0; 4], timestamp_ms: 0 };
    let mut stream: Option<(Ingest, Log)> = None;
    while let Some(parts) = tags.next() {
        for part in parts {
            if let Some((ingest, log)) = &mut stream {
                ingest.handle(log, part);
            } else if let Some(parts) = tryout.handle(part) {
                check_contract(&parts);
                let (mut ingest, mut log) = (Ingest::default(), Log::default());
                for part in parts {
                    ingest.handle(&mut log, part);
                }
                stream = Some((ingest, log));
            } else {
                tryout.needs_patience();
            }
        }
    }
}

/// The tags that an input describes, in lanes side by side.
///
/// Each step: what it is (3 bits: a tag begins, bytes of it, it is given up, a script; from 4 on a whole one
/// of [`KNOWN_TAGS`], which the rest chooses), flags (kind, 2 bits of lane, length times 8), length, which is
/// also the milliseconds since the one before, payload.
struct Tags<'a> {
    rest: &'a [u8],
    /// What the tag of each lane lacks.
    left: [u32; 4],
    timestamp_ms: u32,
}

impl Tags<'_> {
    fn next(&mut self) -> Option<Vec<MediaPart>> {
        let [what, flags, len, ref behind @ ..] = *self.rest else { return None };
        self.timestamp_ms = self.timestamp_ms.wrapping_add(u32::from(len));
        let timestamp_ms = self.timestamp_ms;
        let len = u32::from(len) * if flags & 0x80 == 0 { 1 } else { 8 };
        let payload_len = if matches!(what & 7, 1 | 3) { len as usize } else { 0 };
        let (payload, behind) = behind.split_at(payload_len.min(behind.len()));
        self.rest = behind;
        let kind = if flags & 1 == 0 { TagKind::Video } else { TagKind::Audio };
        let lane = u32::from(flags >> 4 & 3);
        let left = &mut self.left[lane as usize];
        let mut bytes = Bytes::copy_from_slice(payload);
        Some(match what & 7 {
            0 if *left == 0 => {
                *left = 1 + len;
                vec![MediaPart::Begin { lane, kind, timestamp_ms, len: *left }]
            }
            1 if *left > 0 && !bytes.is_empty() => {
                bytes.truncate(*left as usize);
                *left -= bytes.len() as u32;
                vec![MediaPart::Data { lane, bytes }]
            }
            2 => {
                *left = 0;
                vec![MediaPart::Abort { lane }]
            }
            3 => vec![MediaPart::Script { timestamp_ms, payload: bytes }],
            4.. if *left == 0 => known_tag(what >> 3, lane, timestamp_ms),
            _ => Vec::new(),
        })
    }
}

fn known_tag(choice: u8, lane: u32, timestamp_ms: u32) -> Vec<MediaPart> {
    let (kind, bytes) = KNOWN_TAGS[usize::from(choice) % KNOWN_TAGS.len()];
    let payload = Bytes::from_static(bytes);
    if kind == TagKind::Script {
        return vec![MediaPart::Script { timestamp_ms, payload }];
    }
    let len = bytes.len() as u32;
    let begin = MediaPart::Begin { lane, kind, timestamp_ms, len };
    vec![begin, MediaPart::Data { lane, bytes: payload }]
}

/// Each lane has bytes only of a tag that began, and not more than that lacks ([`MediaPart`]).
fn check_contract(parts: &[MediaPart]) {
    let mut left: HashMap<u32, u32> = HashMap::new();
    for part in parts {
        match part {
            MediaPart::Begin { lane, len, .. } => {
                assert!(*len > 0);
                assert_eq!(left.insert(*lane, *len).unwrap_or(0), 0, "a tag within another");
            }
            MediaPart::Data { lane, bytes } => {
                let of_tag = left.get_mut(lane).expect("it began");
                *of_tag = of_tag.checked_sub(bytes.len() as u32).expect("not more than it lacks");
            }
            MediaPart::Abort { lane } => {
                left.remove(lane);
            }
            MediaPart::Script { .. } => {}
        }
    }
}

/// Receives a source whose packets come whole and, beside that, in two pieces: both are the same, and a
/// payload that is told to be cut off makes no frame.
///
/// Each step: what it is (2 bits: time alone, RTCP, any bytes, a packet; the rest shifts its number), flags
/// (marker, -, -, same timestamp, 2 bits of track, three seconds pass, length times 8), length, payload.
pub fn receive_source(data: &[u8]) {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    let description = description(choice & 0x7f);
    let hold = Duration::from_millis(if choice & 0x80 == 0 { 100 } else { 0 });
    let [mut whole, mut cut] = [(); 2].map(|()| SourceReceiver::new(&description, hold, 7));
    let formats: Vec<_> = description.media.iter().map(|media| &media.format).collect();
    let depacketizer = |format: &&Format| Depacketizer::new(format, LossPolicy::DropFrame);
    let mut depacketizers: Vec<Option<Depacketizer>> = formats.iter().map(depacketizer).collect();
    let (mut now, mut sequence, mut timestamp, mut useless) = (clock::now(), 65_530_u16, 0_u32, 0);
    while let [what, flags, len, ref behind @ ..] = *rest {
        let len = usize::from(len) * if flags & 0x80 == 0 { 1 } else { 8 };
        let (payload, behind) = behind.split_at(len.min(behind.len()));
        rest = behind;
        now += Duration::from_millis(if flags & 0x40 == 0 { 1 } else { 3000 });
        timestamp = timestamp.wrapping_add(if flags & 8 == 0 { 3600 } else { 0 });
        let track = usize::from(flags >> 4 & 3);
        let mut bytes = Bytes::copy_from_slice(payload);
        if what & 3 == 3 {
            let payload_type = formats.get(track).map_or(96, |format| format.payload_type);
            let header = RtpHeader {
                marker: flags & 1 != 0,
                payload_type,
                sequence: sequence.wrapping_add(u16::from(what >> 2)),
                timestamp,
                ssrc: 1,
            };
            sequence = sequence.wrapping_add(1);
            bytes = [&header.encode()[..], payload].concat().into();
        }
        match what & 3 {
            0 => {}
            1 => {
                whole.handle_rtcp(now, track, bytes.clone());
                cut.handle_rtcp(now, track, bytes);
            }
            _ => {
                let at = (2 + usize::from(what)).min(bytes.len());
                cut.handle_pieces(now, track, (bytes.slice(..at), bytes.slice(at..)));
                whole.handle_packet(now, track, bytes);
            }
        }
        for source in [&mut whole, &mut cut] {
            source.handle_timeout(now);
            assert!(source.poll_timeout().is_none_or(|due| due > now), "what is due was done");
        }
        let told = told(&mut whole);
        useless += told.iter().filter(|told| told.makes_nothing(&mut depacketizers)).count() as u64;
        assert_eq!(told, self::told(&mut cut), "whole, and in two pieces");
        assert_eq!(whole.counts(), cut.counts());
        assert!(whole.counts().truncated <= useless, "cut off, and yet it makes a frame");
    }
}

/// What a source told.
#[derive(Debug, PartialEq)]
enum Told {
    Packet(usize, RtpHeader, Bytes, Gap),
    Report(usize, Bytes, Option<SenderReport>),
    Send(usize, Bytes),
    Ended,
}

impl Told {
    fn makes_nothing(&self, depacketizers: &mut [Option<Depacketizer>]) -> bool {
        let Self::Packet(track, header, payload, gap) = self else { return false };
        let Some(depacketizer) = &mut depacketizers[*track] else { return true };
        let made = depacketizer.handle_packet(&packet(*header, payload), *gap);
        while depacketizer.poll_item().is_some() {}
        made.is_err()
    }
}

fn told(source: &mut SourceReceiver) -> Vec<Told> {
    let outputs = std::iter::from_fn(|| source.poll_output());
    let told = outputs.map(|output| match output {
        SourceOutput::Part(RtpPart::Packet { track, packet, gap }) => {
            Told::Packet(track, packet.header(), packet.payload(), gap)
        }
        SourceOutput::Part(RtpPart::Report { track, bytes, report }) => {
            Told::Report(track, bytes, report)
        }
        SourceOutput::Part(other) => panic!("{other:?}"),
        SourceOutput::Send { track, report } => Told::Send(track, report),
        SourceOutput::Ended => Told::Ended,
    });
    told.collect()
}

const TRACKS: usize = 2;

const DESCRIPTIONS: [&str; 6] = [
    "m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\nm=audio 0 RTP/AVP 8\n",
    "m=video 0 RTP/AVP 96\na=rtpmap:96 H265/90000\n\
     m=audio 0 RTP/AVP 97\na=rtpmap:97 opus/48000/2\n",
    "m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\n\
     m=audio 0 RTP/AVP 97\na=rtpmap:97 mpeg4-generic/48000/2\n\
     a=fmtp:97 mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1190\n",
    "m=audio 0 RTP/AVP 96\na=rtpmap:96 MP4A-LATM/48000/2\na=fmtp:96 cpresent=1\n",
    "m=video 0 RTP/AVP 96\na=rtpmap:96 VP8/90000\nm=audio 0 RTP/AVP 97\na=rtpmap:97 L16/44100\n",
    // A clock of which a timestamp takes as long as any can.
    "m=audio 0 RTP/AVP 0\nm=video 0 RTP/AVP 97\na=rtpmap:97 H264/1\n",
];
