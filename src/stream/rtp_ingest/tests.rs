//! Packets, sources and tracks into a log.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use super::*;
use crate::limits::{LEAD_ENTRIES_KEPT, REPEATED_SETS_LEN_MAX};
use crate::proto::rtp::rtcp::{Compound, RtcpPacket};
use crate::stream::Entry;

mod alone;
mod order_numbers;

const SDP: &[u8] = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
    m=audio 0 RTP/AVP 8\r\n";

struct Scene {
    ingest: RtpIngest,
    log: Log,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        let (ingest, log) = (RtpIngest::default(), Log::default());
        let mut scene = Self { ingest, log, now: crate::clock::now() };
        assert_eq!(scene.begin(SDP), RtpProgress::Media(Progress::default()));
        scene
    }

    fn begin(&mut self, sdp: &[u8]) -> RtpProgress {
        let description = SessionDescription::parse(sdp).expect("a description");
        self.part(RtpPart::Begin(Arc::new(description)))
    }

    fn part(&mut self, part: RtpPart) -> RtpProgress {
        self.ingest.handle(&mut self.log, (self.now, 1_700_000_000), part)
    }

    fn packet(&mut self, track: usize, header: (u32, u16, u32), payload: &[u8]) -> Bytes {
        let bytes = packet(track, header, payload);
        let packet = RtpPacket::parse(bytes.clone()).expect("a packet");
        self.part(RtpPart::Packet { track, packet, gap: Gap::None });
        bytes
    }

    /// The source reports that video (of SSRC 9) and sound (of SSRC 8) began together.
    fn report_beginnings_at_once(&mut self) {
        for (track, ssrc) in [(0, 9), (1, 8)] {
            let (ntp, rtp_timestamp) = (NtpTime::from_unix(1_700_000_000, 0), 0);
            let (packet_count, octet_count) = (0, 0);
            let report = SenderReport { ssrc, ntp, rtp_timestamp, packet_count, octet_count };
            self.part(RtpPart::Report { track, report: Some(report), bytes: Bytes::new() });
        }
    }

    fn entries(&self) -> Vec<Entry> {
        self.log.range(self.log.first_seq()..self.log.next_seq()).copied().collect()
    }

    /// The packets of a track as players get them, reports left out.
    fn given(&self, track: usize) -> Vec<Bytes> {
        let of_track = |of: &&Entry| of.track() == track && !of.is_rtcp();
        let entries = self.entries();
        entries.iter().filter(of_track).map(|of| self.log.bytes(of.packet())).collect()
    }
}

fn packet(track: usize, (ssrc, sequence, timestamp): (u32, u16, u32), payload: &[u8]) -> Bytes {
    let payload_type = if track == 0 { 96 } else { 8 };
    let header = RtpHeader { marker: false, payload_type, sequence, timestamp, ssrc };
    [&header.encode()[..], payload].concat().into()
}

const IDR: &[u8] = &[0x65, 1, 2, 3];
const SLICE: &[u8] = &[0x41, 1, 2, 3];

#[test]
fn packets_lie_as_they_came_behind_their_interleaved_headers() {
    let mut scene = Scene::new();
    let mut sent = Vec::new();
    for index in 0..100_u16 {
        let payload = [SLICE, &vec![7; 1400]].concat();
        let header = (9, 65_500_u16.wrapping_add(index), 90 * u32::from(index));
        sent.push(scene.packet(0, header, &payload));
    }
    assert_eq!(scene.given(0), sent);
    let IngestBytes { received, copied, .. } = scene.ingest.bytes();
    assert_eq!((copied, received), (received, 100 * 1416));
    for entry in scene.entries() {
        let header = scene.log.bytes(entry.position..entry.position + 4);
        let len = (entry.len as u16 - 4).to_be_bytes();
        assert_eq!(header, [b'$', entry.channel, len[0], len[1]].as_slice());
    }
}

#[test]
fn each_track_begins_with_a_report_and_all_agree() {
    let mut scene = Scene::new();
    scene.packet(0, (9, 1, 90_000), IDR);
    scene.now += Duration::from_millis(500);
    scene.packet(1, (8, 1, 4000), &[1]);
    let channels: Vec<u8> = scene.entries().iter().map(|of| of.channel).collect();
    assert_eq!(channels, [1, 0, 3, 2]);
    let reports: Vec<SenderReport> = scene
        .entries()
        .iter()
        .filter(|of| of.is_rtcp())
        .map(|of| {
            let bytes = scene.log.bytes(of.packet());
            let first = Compound::new(&bytes).next().expect("a packet").expect("a sound one");
            let RtcpPacket::SenderReport(report, _) = first else { panic!("{first:?}") };
            report
        })
        .collect();
    let between = reports[1].ntp.as_nanoseconds() - reports[0].ntp.as_nanoseconds();
    assert!((between - 500_000_000).abs() < 1_000, "{between}");
    assert_eq!((reports[0].rtp_timestamp, reports[1].rtp_timestamp), (90_000, 4000));
}

#[test]
fn another_source_goes_on_at_its_keyframe() {
    let mut scene = Scene::new();
    scene.packet(0, (9, 100, 90_000), IDR);
    scene.packet(0, (9, 101, 93_600), SLICE);
    scene.packet(1, (8, 50, 0), &[1]);
    scene.log.flush();
    scene.ingest.change_source(&mut scene.log);
    assert!(scene.log.awaits_keyframe());
    scene.now += Duration::from_secs(2);
    scene.begin(SDP);
    scene.packet(1, (3, 7, 777), &[2]);
    scene.packet(0, (2, 5000, 5), SLICE);
    assert_eq!((scene.given(0).len(), scene.given(1).len()), (2, 1), "no keyframe yet");
    scene.packet(0, (2, 5001, 3605), IDR);
    scene.packet(0, (2, 5002, 7205), SLICE);
    scene.packet(1, (3, 8, 1097), &[3]);
    let headers = |track| -> Vec<(u32, u16, u32)> {
        let packets = scene.given(track).into_iter().map(|of| RtpPacket::parse(of).expect("sound"));
        packets.map(|of| of.header()).map(|of| (of.ssrc, of.sequence, of.timestamp)).collect()
    };
    let video = headers(0);
    // 2 s after the newest packet, and a frame behind the source's first.
    let start = 93_600 + 180_000 + 3600;
    assert_eq!(video[2..], [(9, 102, start), (9, 103, start + 3600)]);
    assert_eq!((headers(1)[1].0, headers(1)[1].1), (8, 51));
    let keyframes = scene.entries().iter().filter(|of| of.keyframe).count();
    assert_eq!(keyframes, 2);
}

#[test]
fn another_source_without_keyframes_goes_on_after_a_while() {
    let mut scene = Scene::new();
    scene.packet(0, (9, 100, 0), IDR);
    scene.log.flush();
    scene.ingest.change_source(&mut scene.log);
    scene.begin(SDP);
    // Two packets a picture, 25 pictures a second.
    for picture in 0..250_u16 {
        for half in 0..2 {
            let sequence = 2 * picture + half;
            scene.packet(0, (2, sequence, 3600 * u32::from(picture)), SLICE);
        }
    }
    assert_eq!(scene.given(0).len(), 1, "no keyframe, and it may still come");
    for sequence in 500..502 {
        scene.packet(0, (2, sequence, 3600 * 250), SLICE);
    }
    scene.log.flush();
    assert_eq!(scene.given(0).len(), 3);
    assert!(!scene.log.awaits_keyframe());
    let starts: Vec<bool> = scene.entries().iter().map(|of| of.keyframe).collect();
    assert_eq!(starts[starts.len() - 2..], [true, false], "one start a picture");
}

#[test]
fn parameter_sets_in_packets_of_their_own_tell_the_size() {
    let mut scene = Scene::new();
    let size = |scene: &Scene| {
        let video = scene.ingest.tracks().video.as_ref().expect("announced");
        (video.ready, video.video.map(|video| (video.width, video.height)))
    };
    scene.packet(
        0,
        (9, 1, 0),
        b"\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a",
    );
    assert_eq!(size(&scene), (false, None));
    scene.packet(0, (9, 2, 0), b"\x68\xce\x0f\xc8");
    assert_eq!(size(&scene), (true, Some((1920, 1080))));
    scene.packet(0, (9, 3, 0), IDR);
    assert_eq!(scene.entries().iter().filter(|of| of.keyframe).count(), 1);
}

/// Groups of five pictures, whose keyframes come behind these with timestamps of their own or not.
fn counted_with(lead: &[&[u8]], own_timestamp: bool) -> (u64, u64, u32, f64) {
    let mut scene = Scene::new();
    let mut sequence = 0;
    let mut starts = Vec::new();
    for picture in 0..15_u32 {
        let at = 3600 * picture;
        if picture % 5 == 0 {
            starts.push(scene.log.next_seq() + u64::from(picture == 0));
            for payload in lead {
                let of_lead = if own_timestamp { at.wrapping_sub(90) } else { at };
                scene.packet(0, (9, sequence, of_lead), payload);
                sequence += 1;
            }
        }
        let payload = if picture % 5 == 0 { IDR } else { SLICE };
        for _ in 0..2 {
            scene.packet(0, (9, sequence, at), payload);
            sequence += 1;
        }
    }
    scene.log.flush();
    assert_eq!(scene.log.start_seq(), starts[2]);
    let video = scene.ingest.tracks().video.clone().expect("told");
    (video.frames, video.keyframes, video.gop_frames, video.fps_measured)
}

#[test]
fn what_comes_before_a_keyframe_is_counted_with_it() {
    const SETS: [&[u8]; 2] = [b"\x67\x42", b"\x68\xce"];
    const DELIMITER: [&[u8]; 2] = [b"\x09\xf0", b"\x06\x05\0\x80"];
    for (lead, own_timestamp) in [(SETS, true), (SETS, false), (DELIMITER, false)] {
        let (frames, keyframes, gop_frames, fps) = counted_with(&lead, own_timestamp);
        assert_eq!((frames, keyframes, gop_frames, fps), (15, 3, 5, 25.0), "{lead:?}");
    }
}

#[test]
fn parameter_sets_between_keyframes_are_no_start() {
    let mut scene = Scene::new();
    scene.packet(0, (9, 0, 0), IDR);
    for picture in 1..5_u16 {
        let at = 3600 * u32::from(picture);
        for (piece, payload) in (0..).zip([b"\x67\x42", b"\x68\xce", &SLICE[..2]]) {
            scene.packet(0, (9, 3 * picture + piece, at), payload);
        }
    }
    scene.log.flush();
    assert_eq!(scene.log.start_seq(), 1, "behind the report");
    let video = scene.ingest.tracks().video.clone().expect("told");
    assert_eq!((video.frames, video.keyframes), (5, 1));
}

/// Starts of pictures in packets of their own: parameter sets, a message, a keyframe.
const KEYFRAME: [&[u8]; 4] = [b"\x67\x42", b"\x68\xce", b"\x06\x05\0\x80", IDR];

#[test]
fn source_that_takes_over_begins_with_its_parameter_sets() {
    let mut scene = Scene::new();
    scene.packet(0, (9, 100, 0), IDR);
    scene.log.flush();
    scene.ingest.change_source(&mut scene.log);
    scene.begin(SDP);
    let others = [b"\x67\x41", b"\x68\xce", &SLICE[..2]];
    for (sequence, payload) in (0..).zip(others.into_iter().chain(KEYFRAME)) {
        // The first sets have a timestamp of their own.
        scene.packet(0, (2, sequence, 3600 * u32::from(sequence / 2)), payload);
        scene.packet(1, (3, sequence, 0), &[1]);
    }
    let payloads: Vec<Bytes> =
        scene.given(0).into_iter().map(|of| of.slice(HEADER_LEN..)).collect();
    assert_eq!(payloads[1..], KEYFRAME);
    assert_eq!(scene.given(1).len(), 1, "behind the keyframe");
    let dropped = RtpDropped { before_keyframe: 3 + 6, ..RtpDropped::default() };
    assert_eq!(scene.ingest.dropped(), dropped);
    scene.log.flush();
    let first = scene.log.entry(scene.log.start_seq()).expect("it is held");
    assert_eq!(scene.log.bytes(first.packet())[HEADER_LEN..], *KEYFRAME[0]);
}

#[test]
fn what_comes_before_the_first_keyframe_is_kept() {
    for flushed_behind in 0..3 {
        let mut scene = Scene::new();
        let mut replica = None;
        for (sequence, payload) in (0..).zip(KEYFRAME) {
            scene.packet(0, (9, sequence, 0), payload);
            scene.packet(1, (3, sequence, 0), &[1]);
            if sequence == flushed_behind {
                scene.log.flush();
                scene.log.trim(None, 1 << 20);
                replica = Some(Log::from_snapshot(scene.log.snapshot()));
            }
        }
        let mut replica = replica.expect("made");
        scene.log.flush();
        assert!(replica.follow(scene.log.delta(replica.next_seq())));
        for log in [&scene.log, &replica] {
            assert!(!log.awaits_keyframe());
            let first = log.entry(log.start_seq()).expect("it is held");
            assert_eq!(log.bytes(first.packet())[HEADER_LEN..], *KEYFRAME[0]);
        }
    }
}

#[test]
fn log_without_a_keyframe_keeps_little() {
    let mut scene = Scene::new();
    for sequence in 0..2000 {
        scene.packet(0, (9, sequence, 3600 * u32::from(sequence)), b"\x68\xce");
        scene.log.flush();
        scene.log.trim(None, 1 << 20);
    }
    assert_eq!(scene.entries().len() as u64, LEAD_ENTRIES_KEPT);
}

#[test]
fn a_recovery_point_is_a_start() {
    let mut scene = Scene::new();
    scene.packet(0, (9, 100, 0), SLICE);
    scene.log.flush();
    assert!(scene.log.awaits_keyframe());
    scene.packet(0, (9, 101, 3600), &[6, 6, 1, 0xc4, 0x80]);
    scene.packet(0, (9, 102, 3600), SLICE);
    scene.log.flush();
    assert!(!scene.log.awaits_keyframe());
}

#[test]
fn each_track_is_reported_on_in_its_own_time() {
    let mut scene = Scene::new();
    for quarter in 0..12 {
        scene.packet(1, (8, quarter, 2000 * u32::from(quarter)), &[1]);
        scene.packet(0, (9, quarter, 22_500 * u32::from(quarter)), SLICE);
        scene.now += Duration::from_millis(250);
    }
    // A B-frame right behind a report.
    scene.packet(0, (9, 12, 22_500 * 15), SLICE);
    scene.packet(0, (9, 13, 22_500 * 14), SLICE);
    let reports = |channel| scene.entries().iter().filter(|of| of.channel == channel).count();
    assert_eq!((reports(1), reports(3)), (4, 3));
}

#[test]
fn track_that_moves_is_reported_on_when_it_has() {
    let mut scene = Scene::new();
    scene.packet(0, (9, 0, 0), IDR);
    // 160 ms late.
    scene.now += Duration::from_millis(160);
    scene.packet(1, (8, 0, 0), &[1]);
    scene.report_beginnings_at_once();
    for packet in 1..20_u16 {
        scene.packet(1, (8, packet, 160 * u32::from(packet)), &[1]);
    }
    let entries = scene.entries();
    let reported: Vec<u32> =
        entries.iter().filter(|of| of.channel == 3).map(|of| of.timestamp_ms).collect();
    // As soon as it is where it belongs, which takes 213 ms of media.
    assert_eq!(reported, [4160, 4220]);
}

#[test]
fn players_start_where_the_keyframe_begins() {
    const DELIMITER: &[u8] = &[0x09, 0xf0];
    const MESSAGE: &[u8] = &[0x06, 5, 1, 0, 0x80];
    let mut scene = Scene::new();
    scene.packet(0, (9, 1, 0), SLICE);
    scene.packet(0, (9, 2, 3600), DELIMITER);
    scene.packet(0, (9, 3, 3600), MESSAGE);
    scene.packet(1, (8, 1, 0), &[1]);
    let lead = scene.log.next_seq();
    scene.log.flush();
    let begins = lead - 4;
    assert!(scene.log.awaits_keyframe(), "nobody can tell yet that it is a keyframe");
    scene.packet(0, (9, 4, 3600), IDR);
    assert!(scene.log.awaits_keyframe());
    scene.log.flush();
    assert_eq!((scene.log.start_seq(), scene.log.resume_from(lead)), (begins, Some(begins)));
    assert_eq!(scene.log.resume_from(lead + 1), None);
    let replica = Log::from_snapshot(scene.log.snapshot());
    assert_eq!((replica.start_seq(), replica.resume_from(lead)), (begins, Some(begins)));
    let first = scene.log.entry(begins).expect("it is held");
    assert_eq!(scene.log.bytes(first.packet())[HEADER_LEN..], *DELIMITER);
}

#[test]
fn loss_is_that_of_the_last_interval() {
    let mut scene = Scene::new();
    let loss = |scene: &Scene| {
        let tracks = scene.ingest.tracks();
        [&tracks.video, &tracks.audio].map(|of| of.as_ref().and_then(|of| of.loss_percent))
    };
    assert_eq!(loss(&scene), [None; 2]);
    for second in 0..12_u16 {
        let bytes = packet(0, (9, second, u32::from(second) * 90_000), IDR);
        let packet = RtpPacket::parse(bytes).expect("a packet");
        let gap = if second == 1 { Gap::Lost(2) } else { Gap::None };
        scene.part(RtpPart::Packet { track: 0, packet, gap });
        match second {
            0 => assert_eq!(loss(&scene), [Some(0.0), None]),
            1 => assert_eq!(loss(&scene), [Some(50.0), None]),
            _ => {}
        }
    }
    assert_eq!(loss(&scene), [Some(0.0), None], "the interval without any");
}

#[test]
fn other_tracks_are_told() {
    let mut scene = Scene::new();
    scene.packet(0, (9, 1, 0), IDR);
    scene.ingest.change_source(&mut scene.log);
    let sets_only = [SDP, b"a=fmtp:8 x=1\r\n"].concat();
    assert_eq!(scene.begin(&sets_only), RtpProgress::Media(Progress::default()));
    assert_eq!(scene.begin(b"v=0\r\nm=audio 0 RTP/AVP 8\r\n"), RtpProgress::NewTracks);
}

#[test]
fn without_video_nobody_waits_for_a_keyframe_any_more() {
    let mut scene = Scene::new();
    scene.packet(0, (9, 1, 0), IDR);
    scene.packet(1, (8, 1, 0), &[1]);
    scene.log.flush();
    assert_eq!(scene.log.prelude().reports.len(), 2);
    scene.ingest.change_source(&mut scene.log);
    scene.begin(b"v=0\r\nm=audio 0 RTP/AVP 8\r\n");
    scene.packet(0, (7, 1, 0), &[1]);
    scene.log.flush();
    assert!(!scene.log.awaits_keyframe());
    let channels: Vec<u8> = scene.log.prelude().reports.iter().map(|(of, _)| *of).collect();
    assert_eq!(channels, [1]);
}

/// Of 640x360, of 1920x1080.
const SETS: [&str; 2] =
    ["Z2QAHqzZQKAv+XARAAADAAEAAAMAMg8WLZY=,aOvjyyLA", "Z0LAKNoB4AiflwEQAAA+kAAOpgDxgyo=,aM4PyA=="];

fn with_sets(payload_type: u8, sets: &str) -> Vec<u8> {
    let media = format!("v=0\r\nm=video 0 RTP/AVP {payload_type}\r\n");
    let map = format!("a=rtpmap:{payload_type} H264/90000\r\n");
    let fmtp = format!("a=fmtp:{payload_type} sprop-parameter-sets={sets}\r\n");
    [media, map, fmtp].concat().into_bytes()
}

fn sets_of(log: &Log) -> Vec<Bytes> {
    let description = log.description().expect("told");
    description.media[0].format.parameter_sets().nals().cloned().collect()
}

/// A stream of the first sets, of which a keyframe has come.
fn of_first_sets() -> Scene {
    let mut scene = Scene::new();
    scene.ingest.start_over(&mut scene.log);
    scene.begin(&with_sets(96, SETS[0]));
    scene.packet(0, (9, 100, 0), IDR);
    scene.log.flush();
    scene
}

/// Packets of another source; each slice is a picture, with what comes before it.
fn take_over(scene: &mut Scene, sdp: &[u8], payloads: &[&[u8]]) -> RtpProgress {
    scene.ingest.change_source(&mut scene.log);
    let progress = scene.begin(sdp);
    let mut timestamp = 0;
    for (sequence, payload) in (5000..).zip(payloads) {
        scene.packet(0, (2, sequence, timestamp), payload);
        timestamp += if [IDR, SLICE].contains(payload) { 3600 } else { 0 };
    }
    scene.log.flush();
    progress
}

#[test]
fn other_parameter_sets_go_before_each_keyframe() {
    let mut scene = of_first_sets();
    let mut replica = Log::from_snapshot(scene.log.snapshot());
    let copied = scene.ingest.bytes().config_copied;
    let progress = take_over(&mut scene, &with_sets(98, SETS[1]), &[IDR, SLICE, IDR]);
    assert_eq!(progress, RtpProgress::NewSets);
    let sets = sets_of(&scene.log);
    let [sps, pps] = &sets[..] else { panic!("{sets:?}") };
    let packets: Vec<RtpPacket> =
        scene.given(0).into_iter().map(|of| RtpPacket::parse(of).expect("sound")).collect();
    let payloads: Vec<Bytes> = packets.iter().map(RtpPacket::payload).collect();
    assert_eq!(payloads, [IDR, sps, pps, IDR, SLICE, sps, pps, IDR]);
    let headers: Vec<RtpHeader> = packets.iter().map(RtpPacket::header).collect();
    for (index, header) in headers.iter().enumerate() {
        // What players were told of the track stays.
        let expected = (9, 100 + index as u16, 96);
        assert_eq!((header.ssrc, header.sequence, header.payload_type), expected);
    }
    let steps = headers.windows(2).map(|two| two[1].timestamp.wrapping_sub(two[0].timestamp));
    assert_eq!(steps.skip(1).collect::<Vec<_>>(), [0, 0, 3600, 3600, 0, 0]);
    // Who comes starts with them, on other shards as well.
    assert!(replica.follow(scene.log.delta(replica.next_seq())));
    for log in [&scene.log, &replica] {
        let first = log.entry(log.start_seq()).expect("it is held");
        assert_eq!(log.bytes(first.packet())[HEADER_LEN..], sps[..]);
        assert_eq!(sets_of(log), sets);
        assert_eq!(log.description().expect("told").media[0].format.payload_type, 96);
    }
    let tracks = scene.ingest.tracks().video.clone().expect("told");
    assert_eq!((tracks.frames, tracks.keyframes), (4, 3));
    assert_eq!(tracks.video.map(|of| (of.width, of.height)), Some((1920, 1080)));
    let IngestBytes { received, copied: of_packets, config_copied } = scene.ingest.bytes();
    let sets_len = sets.iter().map(|set| HEADER_LEN + set.len()).sum::<usize>() as u64;
    assert_eq!((of_packets, config_copied >= copied + 2 * sets_len), (received, true));
}

#[test]
fn parameter_sets_of_keyframes_that_bring_their_own_are_not_repeated() {
    let mut scene = of_first_sets();
    let sets = [b"\x67\x42\xc0\x1f", &b"\x68\xce\x0f\xc8"[..]];
    let progress = take_over(&mut scene, &with_sets(96, SETS[1]), &[sets[0], sets[1], IDR]);
    assert_eq!(progress, RtpProgress::NewSets);
    assert_eq!(scene.given(0).len(), 1 + 3);
    // The first ones again: those who were told the others need them.
    let progress = take_over(&mut scene, &with_sets(96, SETS[0]), &[b"\x09\xf0", IDR]);
    assert_eq!(progress, RtpProgress::NewSets);
    let given = scene.given(0).into_iter().skip(4).map(|of| of.slice(HEADER_LEN..));
    let sets = sets_of(&scene.log);
    let expected = [&b"\x09\xf0"[..], &sets[0], &sets[1], IDR];
    assert_eq!(given.collect::<Vec<_>>(), expected);
}

#[test]
fn parameter_sets_that_changed_in_band_are_told_again() {
    let mut scene = of_first_sets();
    const OTHER: &[u8] =
        b"\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a";
    scene.packet(0, (9, 101, 3600), OTHER);
    scene.packet(0, (9, 102, 3600), IDR);
    scene.log.flush();
    let before = scene.given(0).len();
    let progress = take_over(&mut scene, &with_sets(96, SETS[0]), &[IDR]);
    assert_eq!(progress, RtpProgress::NewSets, "who came meanwhile was told the others");
    assert_eq!(scene.given(0).len() - before, 3);
}

/// Of 1920x1080.
const SPS: &[u8] =
    b"\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a";
const PPS: &[u8] = b"\x68\xce\x0f\xc8";

#[test]
fn parameter_sets_that_came_once_are_told_to_who_comes() {
    for sdp in [SDP.to_vec(), with_sets(96, SETS[0])] {
        let mut scene = Scene::new();
        scene.ingest.start_over(&mut scene.log);
        scene.begin(&sdp);
        let replica = Log::from_snapshot(scene.log.snapshot());
        let before = scene.log.description().expect("told").clone();
        for (sequence, payload) in (0..).zip([SPS, PPS]) {
            scene.packet(0, (9, sequence, 0), payload);
            assert_eq!(scene.log.description(), Some(&before), "nobody starts here yet");
        }
        scene.packet(0, (9, 2, 0), IDR);
        scene.log.flush();
        let mut replica = replica;
        assert!(replica.follow(scene.log.delta(replica.next_seq())));
        for log in [&scene.log, &replica] {
            assert_eq!(sets_of(log), [SPS, PPS]);
        }
        // Who was told none, or others, and starts at the next keyframe gets them as well.
        scene.packet(0, (9, 3, 3600), SLICE);
        scene.packet(0, (9, 4, 7200), IDR);
        let payloads = scene.given(0).into_iter().map(|of| of.slice(HEADER_LEN..));
        let expected = [SPS, PPS, IDR, SLICE, SPS, PPS, IDR];
        assert_eq!(payloads.collect::<Vec<_>>(), expected);
    }
}

/// Those are not repeated, and so the description of who came before is void.
#[test]
fn parameter_sets_that_are_too_long_to_be_repeated_are_new_tracks() {
    let long = BASE64_STANDARD.encode([&b"\x68"[..], &[7; REPEATED_SETS_LEN_MAX - 1]].concat());
    let long = with_sets(96, &format!("{},{long}", SETS[1].split(',').next().expect("an SPS")));
    let short = with_sets(96, SETS[0]);
    let mut scene = of_first_sets();
    assert_eq!(take_over(&mut scene, &long, &[IDR, SLICE]), RtpProgress::NewTracks);
    // Players were told of them, all of them.
    let progress = take_over(&mut scene, &long, &[IDR, SLICE]);
    assert_eq!(progress, RtpProgress::Media(Progress::default()));
    assert_eq!(take_over(&mut scene, &short, &[IDR, SLICE]), RtpProgress::NewSets);
    assert_eq!(take_over(&mut scene, &long, &[IDR, SLICE]), RtpProgress::NewTracks);
}

#[test]
fn parameter_sets_before_a_keyframe_that_is_waited_for_are_not_lost() {
    let mut scene = Scene::new();
    scene.packet(0, (9, 1, 0), IDR);
    take_over(&mut scene, SDP, &[SPS, PPS, SLICE, SLICE, IDR]);
    let payloads = scene.given(0).into_iter().skip(1).map(|of| of.slice(HEADER_LEN..));
    assert_eq!(payloads.collect::<Vec<_>>(), [SPS, PPS, IDR]);
    assert_eq!(sets_of(&scene.log), [SPS, PPS]);
    // A source that tells none keeps those that players know, until it brings its own.
    let progress = take_over(&mut scene, SDP, &[]);
    assert_eq!(progress, RtpProgress::Media(Progress::default()));
    assert_eq!(sets_of(&scene.log), [SPS, PPS]);
}

#[test]
fn picture_stands_in_though_its_source_began_anew_before_it() {
    let mut scene = Scene::new();
    scene.packet(0, (9, 1, 0), IDR);
    scene.ingest.change_source(&mut scene.log);
    scene.ingest.start_at_next();
    scene.begin(SDP);
    for (sequence, gap) in (7..).zip([Gap::Restart, Gap::None, Gap::None]) {
        let bytes = packet(0, (2, sequence, 3600 * u32::from(sequence)), SLICE);
        let packet = RtpPacket::parse(bytes).expect("a packet");
        scene.part(RtpPart::Packet { track: 0, packet, gap });
    }
    let starts = scene.entries().into_iter().filter(|of| !of.is_rtcp()).map(|of| of.keyframe);
    assert_eq!(starts.collect::<Vec<_>>(), [true, true, false, false]);
}

#[test]
fn what_is_dropped_is_counted_by_reason() {
    let mut scene = Scene::new();
    scene.packet(2, (9, 1, 0), IDR);
    scene.packet(0, (9, 1, 0), &vec![0x65; 1 << 16]);
    let dropped = |scene: &Scene| scene.ingest.dropped().by_reason().map(|(_, count)| count);
    assert_eq!((dropped(&scene), scene.entries().len()), ([1, 1, 0, 0], 0));
    scene.packet(0, (9, 2, 900_000), IDR);
    take_over(&mut scene, SDP, &[SLICE, IDR]);
    assert_eq!(dropped(&scene), [1, 1, 1, 0]);
    // Of sound that lies before what players have had.
    scene.packet(1, (8, 1, 0), &[1]);
    take_over(&mut scene, SDP, &[]);
    for track in [0, 1] {
        scene.part(RtpPart::Announced { track, timestamp: 0 });
    }
    scene.packet(0, (2, 1, 0), IDR);
    scene.packet(1, (7, 1, 0_u32.wrapping_sub(8000)), &[1]);
    assert_eq!(dropped(&scene), [1, 1, 1, 1]);
    scene.ingest.start_over(&mut scene.log);
    assert_eq!(dropped(&scene), [1, 1, 1, 1], "what was counted stays");
}

#[test]
fn tracks_are_told_by_the_description_and_counted_by_frames() {
    let mut scene = Scene::new();
    for frame in 0..10 {
        for piece in 0..3 {
            let payload: &[u8] = if frame % 5 == 0 { IDR } else { SLICE };
            scene.packet(0, (9, frame * 3 + piece, u32::from(frame) * 3600), payload);
        }
    }
    let tracks = scene.ingest.tracks();
    let video = tracks.video.as_ref().expect("told");
    assert_eq!((video.frames, video.keyframes, video.fps_measured), (10, 2, 25.0));
    let audio = tracks.audio.as_ref().and_then(|track| track.audio).expect("told");
    assert_eq!((audio.sample_rate, audio.channels), (8000, 1));
}

#[test]
fn second_track_of_a_kind_is_handed_on_and_no_more() {
    const TWO: &[u8] = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
        m=audio 0 RTP/AVP 8\r\n\
        m=video 0 RTP/AVP 97\r\na=rtpmap:97 H265/90000\r\n\
        m=audio 0 RTP/AVP 98\r\na=rtpmap:98 L16/44100/2\r\n";
    const H265_IDR: &[u8] = &[0x26, 1, 0x80];
    let mut scene = Scene::new();
    scene.ingest.start_over(&mut scene.log);
    scene.begin(TWO);
    for picture in 0..11_u16 {
        let at = 3600 * u32::from(picture);
        scene.packet(0, (9, picture, at), if picture % 5 == 0 { IDR } else { SLICE });
        scene.packet(1, (8, picture, at * 8 / 90), &[1]);
        scene.packet(2, (7, picture, at), H265_IDR);
        scene.packet(3, (6, picture, at), &[2]);
    }
    assert_eq!([0, 1, 2, 3].map(|track| scene.given(track).len()), [11; 4]);
    let starts = scene.entries().into_iter().filter(|of| of.keyframe).map(|of| of.track());
    assert_eq!(starts.collect::<Vec<_>>(), [0; 3]);
    let tracks = scene.ingest.tracks();
    let (video, audio) = (tracks.video.as_ref().unwrap(), tracks.audio.as_ref().unwrap());
    assert_eq!((video.frames, video.gop_frames, video.fps_measured), (11, 5, 25.0));
    assert_eq!((audio.frames, audio.audio.map(|of| of.sample_rate)), (11, Some(8000)));
}

#[test]
fn what_goes_beside_audio_and_video_is_handed_on_and_no_sign_of_those() {
    const METADATA: &[u8] =
        b"m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n";
    let progress_of = |sdp: &[u8], track: usize| {
        let mut scene = Scene::new();
        scene.ingest.start_over(&mut scene.log);
        scene.begin(sdp);
        let bytes = packet(track, (6, 1, 0), b"<tt:MetadataStream/>");
        let sent = RtpPacket::parse(bytes).expect("a packet");
        let progress = scene.part(RtpPart::Packet { track, packet: sent, gap: Gap::None });
        assert_eq!(scene.given(track).len(), 1);
        let RtpProgress::Media(progress) = progress else { panic!("{progress:?}") };
        (progress.committed, progress.frame, progress.beside)
    };
    let both = [SDP, METADATA].concat();
    assert_eq!(progress_of(&both, 2), (true, false, true));
    assert_eq!(progress_of(&both, 1), (true, true, false));
    // Of a publisher that has nothing else.
    assert_eq!(progress_of(&[b"v=0\r\n", METADATA].concat(), 0), (true, true, false));
}
