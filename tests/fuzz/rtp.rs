//! What the RTP targets share: packets out of a fuzzer's bytes, and what must hold of what is made.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rillcast::clock;
use rillcast::media::{Codec, Frame};
use rillcast::proto::rtp::rtcp::{Compound, RtcpPacket};
use rillcast::proto::rtp::{
    Depacketized, Depacketizer, Format, Gap, LossPolicy, Packetizer, PacketizerConfig, RtpHeader,
    RtpPacket, StreamClock, TrackKind, TrackReceiver,
};

/// Makes frames of packets that the input describes, in the layout that its first byte chooses.
///
/// Each packet: its length (8 bits; times 8 with the highest flag), flags (marker, gap, restart, same
/// timestamp), payload.
pub fn depacketize(kind: TrackKind, rtpmap: &str, layouts: &[&str], data: &[u8]) {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    let mut format = Format::of_payload_type(kind, 96);
    format.read_rtpmap(rtpmap);
    format.parameters = layouts[usize::from(choice >> 1) % layouts.len()].to_owned();
    let policy = if choice & 1 == 0 { LossPolicy::DropFrame } else { LossPolicy::AwaitKeyframe };
    let mut depacketizer = Depacketizer::new(&format, policy).expect("a layout of ours");
    let (mut sequence, mut timestamp) = (0_u16, 0_u32);
    let mut seen = Seen::default();
    while let [len, flags, ref behind @ ..] = *rest {
        let len = usize::from(len) * if flags & 0x80 == 0 { 1 } else { 8 };
        let (payload, behind) = behind.split_at(len.min(behind.len()));
        rest = behind;
        if flags & 8 == 0 {
            timestamp = timestamp.wrapping_add(3600);
        }
        let marker = flags & 1 != 0;
        let header = RtpHeader { marker, payload_type: 96, sequence, timestamp, ssrc: 1 };
        sequence = sequence.wrapping_add(1);
        let bytes = [&header.encode()[..], payload].concat();
        let packet = RtpPacket::parse(bytes.into()).expect("a packet of ours");
        let gap = match flags >> 1 & 3 {
            0 | 3 => Gap::None,
            1 => Gap::Lost(1),
            _ => Gap::Restart,
        };
        let _ = depacketizer.handle_packet(&packet, gap);
        seen.check_items(&mut depacketizer);
    }
    depacketizer.flush();
    seen.check_items(&mut depacketizer);
}

/// What has come out so far.
#[derive(Default)]
struct Seen {
    record: Bytes,
    frame_count: usize,
}

impl Seen {
    fn check_items(&mut self, depacketizer: &mut Depacketizer) {
        while let Some(item) = depacketizer.poll_item() {
            match item {
                Depacketized::Config { record, .. } => self.record = record,
                Depacketized::Frame(frame) => {
                    self.frame_count += 1;
                    // Thousands of frames of an input would be checked for seconds.
                    if self.frame_count < 64 {
                        check_frame(&frame, &self.record);
                    }
                }
            }
        }
    }
}

/// A frame that we make packets of is the same when it is made of them.
fn check_frame(frame: &Frame, record: &Bytes) {
    assert!(!frame.payload.is_empty());
    let video = matches!(frame.codec, Codec::H264 | Codec::H265);
    if video {
        check_lengths(frame);
    }
    let Some(format) = Format::of_codec(frame.codec, record) else { return };
    let config = PacketizerConfig { packet_len_max: 100, ..PacketizerConfig::new(1, 65_530, 0) };
    let mut packetizer = Packetizer::new(&format, config).expect("a format of ours");
    let mut depacketizer = Depacketizer::new(&format, LossPolicy::default()).expect("the same");
    let mut parsed = Vec::new();
    let made = packetizer.packetize(frame, |packet| {
        // A frame of Opus is not cut.
        assert!(packet.len() <= 100 || frame.codec == Codec::Opus);
        let bytes = Bytes::from(packet.interleaved(0).expect("it is short").to_vec());
        parsed.push(RtpPacket::parse(bytes.slice(4..)).expect("a packet of ours"));
    });
    if made.is_err() {
        assert!(!video && frame.payload.len() > 8191);
        return;
    }
    for packet in &parsed {
        depacketizer.handle_packet(packet, Gap::None).expect("a packet of ours");
    }
    depacketizer.flush();
    let items = std::iter::from_fn(|| depacketizer.poll_item());
    let frames: Vec<Frame> = items
        .filter_map(|item| match item {
            Depacketized::Frame(frame) => Some(frame),
            Depacketized::Config { .. } => None,
        })
        .collect();
    let [again] = &frames[..] else { panic!("{} frames of one", frames.len()) };
    assert_eq!((&again.payload, again.timestamp), (&frame.payload, frame.timestamp));
}

fn check_lengths(frame: &Frame) {
    let mut reader = frame.payload.reader();
    while reader.left() > 0 {
        let len = reader.array().map(u32::from_be_bytes).expect("a length");
        reader.skip(len as usize).expect("as long as it says");
    }
}

/// Gives a receiver packets with the numbers and times of the input.
pub fn receive(data: &[u8]) {
    let mut now = clock::now();
    let mut receiver = TrackReceiver::new(96, 90_000, Duration::from_millis(100));
    let mut clock = StreamClock::new(&[90_000]);
    let mut previous: Option<(u32, u16)> = None;
    for &[high, low, source, time] in data.as_chunks::<4>().0 {
        now += Duration::from_millis(u64::from(time));
        let sequence = u16::from_be_bytes([high, low]);
        let timestamp = u32::from_be_bytes([time, source, high, low]);
        let ssrc = u32::from(source & 1);
        let header = RtpHeader { marker: false, payload_type: 96, sequence, timestamp, ssrc };
        receiver.handle_packet(now, header.encode().to_vec().into());
        receiver.handle_timeout(now);
        let due = receiver.poll_timeout();
        assert!(due.is_none_or(|due| due > now), "what is due was done");
        while let Some(ordered) = receiver.poll_packet() {
            let header = ordered.item.header();
            check_order(previous, header, ordered.gap);
            previous = Some((header.ssrc, header.sequence));
            take_time(&mut clock, header, ordered.gap, now);
        }
    }
    let counts = receiver.counts().reorder;
    assert!(counts.delivered <= data.len() as u64 / 4);
    let _ = receiver.receiver_report(now, 1, "fuzz");
}

fn check_order(previous: Option<(u32, u16)>, header: RtpHeader, gap: Gap) {
    let Some((ssrc, sequence)) = previous else { return };
    let step = match gap {
        Gap::None => 1,
        Gap::Lost(lost) => lost + 1,
        Gap::Restart => return,
    };
    assert_eq!((header.ssrc, header.sequence), (ssrc, sequence.wrapping_add(step as u16)));
}

fn take_time(clock: &mut StreamClock, header: RtpHeader, gap: Gap, now: Instant) {
    if gap == Gap::Restart {
        clock.restart(0);
    }
    let stamp = clock.map(0, header.timestamp, now);
    assert_eq!(stamp.ticks as u32, header.timestamp);
    assert_eq!(clock.position(0, stamp.ticks), stamp.position_ns);
}

/// Reads a compound packet, and writes and reads again what was in it.
pub fn read_rtcp(data: &[u8]) {
    let mut clock = StreamClock::new(&[90_000, 8000]);
    clock.map(0, 0, clock::now());
    for packet in Compound::new(data) {
        let Ok(packet) = packet else { break };
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        let again: Vec<_> = Compound::new(&bytes).collect();
        match &packet {
            RtcpPacket::Other { .. } => assert!(again.is_empty()),
            // What was no UTF-8 may be longer than a name can be.
            RtcpPacket::SourceDescription(names)
                if names.iter().any(|name| name.name.len() > 255) => {}
            _ => assert_eq!(again, [Ok(packet.clone())]),
        }
        if let RtcpPacket::SenderReport(report, _) = packet {
            clock.on_sender_report(0, &report);
            clock.on_sender_report(1, &report);
        }
    }
    clock.map(1, 0, clock::now());
    let mut receiver = TrackReceiver::new(96, 90_000, Duration::ZERO);
    let _ = receiver.handle_rtcp(clock::now(), data);
}
