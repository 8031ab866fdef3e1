//! A file of tests/media as RTP: formats, and packets each with its time. What the tests' own
//! publisher and camera send.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::flv::{self, Kind, Role, Tag};
use super::rtp::{Codec, Format, Packet, SenderReport, sender_reports};
use super::rtsp_player::Recording;
use super::units::{self, Unit, split_nals};

/// Where parameter sets are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sets {
    Everywhere,
    DescriptionOnly,
    InBandOnly,
    /// In band, before the first keyframe.
    InBandOnce,
}

/// Which tracks have sender reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    Both,
    /// The one of this kind alone.
    Only(Kind),
}

/// What to make of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub sets: Sets,
    /// How often the file is played.
    pub turns: u32,
    /// The first sender report of each track; they go on each second.
    pub report_after_ms: u32,
    pub reported: Reported,
    /// How much later than its timestamps say sound is sent. Where it is sent earlier, it begins with what
    /// is due at the start.
    pub audio_late_ms: i32,
    /// The time of the first picture that is sent.
    pub video_from_ms: u32,
    /// Parameter sets are packets of a time of their own, the last with a mark, as Reolink sends them.
    pub sets_apart: bool,
    /// Each picture of H.264 begins with a delimiter and its message, before parameter sets.
    pub leads: bool,
    /// No picture of H.264 is a keyframe, as where an encoder refreshes them bit by bit.
    pub refreshes: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            sets: Sets::Everywhere,
            turns: 3,
            report_after_ms: 0,
            reported: Reported::Both,
            audio_late_ms: 0,
            video_from_ms: 0,
            sets_apart: false,
            leads: false,
            refreshes: false,
        }
    }
}

/// What becomes of a source while it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Its clock is set by so many ms: timestamps and sender reports.
    Clock(i32),
    /// Another SSRC, with a sequence and timestamps of its own.
    Ssrc,
    /// The sequence numbers begin anew.
    Sequence,
}

impl Change {
    fn of_packet(self, packet: Packet, track: usize, clock_rate: u32) -> Packet {
        let Packet { sequence, timestamp, ssrc, .. } = packet;
        match self {
            Self::Clock(ms) => {
                let timestamp = timestamp.wrapping_add(ticks(ms, clock_rate));
                Packet { timestamp, ..packet }
            }
            Self::Ssrc => Packet {
                ssrc: !ssrc,
                sequence: sequence.wrapping_add(12_345),
                timestamp: timestamp.wrapping_add(new_base(track)),
                ..packet
            },
            Self::Sequence => Packet { sequence: sequence.wrapping_add(23_456), ..packet },
        }
    }

    fn of_report(self, report: SenderReport, track: usize, clock_rate: u32) -> SenderReport {
        let SenderReport { ssrc, ntp, timestamp } = report;
        match self {
            Self::Clock(ms) => SenderReport {
                ntp: ntp.wrapping_add_signed((i64::from(ms) << 32) / 1000),
                timestamp: timestamp.wrapping_add(ticks(ms, clock_rate)),
                ..report
            },
            Self::Ssrc => SenderReport {
                ssrc: !ssrc,
                timestamp: timestamp.wrapping_add(new_base(track)),
                ..report
            },
            Self::Sequence => report,
        }
    }
}

/// Ticks of a clock in so many ms.
fn ticks(ms: i32, clock_rate: u32) -> u32 {
    (i64::from(ms) * i64::from(clock_rate) / 1000) as u32
}

/// By how much a new source's timestamps are elsewhere.
fn new_base(track: usize) -> u32 {
    [0x3000_0000, 0xa123_4567][track % 2]
}

/// An RTP or RTCP packet and its time.
#[derive(Debug, Clone)]
pub struct Timed {
    pub track: usize,
    pub at_ms: u32,
    pub is_rtcp: bool,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Media {
    pub formats: Vec<Format>,
    pub packets: Vec<Timed>,
    /// What the packets carry.
    pub units: Vec<Unit>,
    /// The timestamp of all tracks at 0 ms.
    pub start_timestamp: u32,
}

/// A track in the making.
struct Track {
    format: Format,
    sets: Vec<Vec<u8>>,
    has_told_sets: bool,
    sequence: u16,
    ssrc: u32,
    next_report_ms: u32,
}

impl Media {
    /// Each picture has a message (SEI) of its own.
    #[track_caller]
    pub fn of(file: &str, plan: Plan) -> Self {
        let mut tags = flv::read(&super::media(file));
        units::set_messages(&mut tags);
        Self::of_tags(tags, plan)
    }

    /// As it is in any file of FLV.
    #[track_caller]
    pub fn of_file(path: &Path, plan: Plan) -> Self {
        Self::of_tags(flv::read(path), plan)
    }

    #[track_caller]
    fn of_tags(tags: Vec<Tag>, plan: Plan) -> Self {
        let (coded, configs): (Vec<Tag>, Vec<Tag>) = tags.into_iter().partition(Tag::is_coded);
        let mut tracks: Vec<Track> = [Kind::Video, Kind::Audio]
            .into_iter()
            .filter_map(|kind| coded.iter().find(|tag| tag.kind == kind))
            .enumerate()
            .map(|(index, first)| {
                let config =
                    configs.iter().find(|tag| tag.kind == first.kind && tag.role() == Role::Config);
                Track::new(index, first, config, plan)
            })
            .collect();
        let last_ms = coded.iter().map(|tag| tag.timestamp_ms).max().expect("a file with frames");
        let mut sent = Vec::new();
        for turn in 0..plan.turns {
            let moved = |tag: &Tag| Tag {
                timestamp_ms: tag.timestamp_ms + turn * (last_ms + 40),
                ..tag.clone()
            };
            sent.extend(coded.iter().map(moved));
        }
        let mut packets = Vec::new();
        let mut units = units::of_tags(&sent);
        if plan.refreshes {
            units.iter_mut().filter(|unit| unit.is_keyframe).for_each(refresh);
        }
        for (tag, unit) in sent.iter().zip(&units) {
            let of_tag = |(_, track): &(usize, &mut Track)| track.format.codec.kind() == tag.kind;
            let found = tracks.iter_mut().enumerate().find(of_tag);
            let (index, track) = found.expect("each tag has a track");
            let (late_ms, from_ms) = match tag.kind {
                Kind::Audio => (plan.audio_late_ms, 0),
                _ => (0, plan.video_from_ms),
            };
            let at_ms = tag.timestamp_ms.checked_add_signed(late_ms);
            let Some(at_ms) = at_ms.filter(|_| tag.timestamp_ms >= from_ms) else { continue };
            let timed = |is_rtcp, bytes| Timed { track: index, at_ms, is_rtcp, bytes };
            if tag.timestamp_ms >= track.next_report_ms {
                track.next_report_ms = tag.timestamp_ms + 1000;
                packets.push(timed(true, track.report(tag.timestamp_ms)));
            }
            packets.extend(track.packets(unit, plan).map(|bytes| timed(false, bytes)));
        }
        packets.sort_by_key(|packet| packet.at_ms);
        let formats = tracks.into_iter().map(|track| track.format).collect();
        Self { formats, packets, units, start_timestamp: START_TIMESTAMP }
    }

    /// Four seconds of noise under the names of encodings that the relay does not know, with metadata
    /// beside it.
    pub fn of_unknown(names: [&'static str; 2]) -> Self {
        let kinds =
            [(Kind::Video, 90_000_u32, 4), (Kind::Audio, 16_000, 1), (Kind::Script, 90_000, 1)];
        let names = [names[0], names[1], "vnd.onvif.metadata"];
        let formats: Vec<Format> = kinds
            .into_iter()
            .zip(names)
            .zip(0_u8..)
            .map(|(((kind, clock_rate, _), name), index)| Format {
                codec: Codec::Other(kind, name),
                payload_type: 100 + index,
                clock_rate,
                channels: 1,
                fmtp: "noise=1".to_owned(),
                control: format!("track{}", index + 1),
            })
            .collect();
        let mut packets = Vec::new();
        for turn in 0..200_u16 {
            for (track, (_, clock_rate, count)) in kinds.into_iter().enumerate() {
                for index in 0..count {
                    let sequence = (65_500 + u32::from(turn * count + index)) as u16;
                    // Of all lengths, and none alike.
                    let len = 1 + usize::from(sequence.wrapping_mul(37)) % 1400;
                    let payload = (0..len).map(|at| (at * 31 + usize::from(sequence)) as u8);
                    let packet = Packet {
                        marker: index + 1 == count,
                        payload_type: formats[track].payload_type,
                        sequence,
                        timestamp: u32::from(turn) * clock_rate / 50,
                        ssrc: 0x7000_0000 + track as u32,
                        payload: payload.collect(),
                    };
                    let (at_ms, bytes) = (20 * u32::from(turn), packet.encode());
                    packets.push(Timed { track, at_ms, is_rtcp: false, bytes });
                }
            }
        }
        Self { formats, packets, units: Vec::new(), start_timestamp: 0 }
    }

    /// The same, whose source changes at this time.
    #[must_use]
    pub fn changed(mut self, at_ms: u32, change: Change) -> Self {
        for timed in self.packets.iter_mut().filter(|timed| timed.at_ms >= at_ms) {
            let clock_rate = self.formats[timed.track].clock_rate;
            timed.bytes = if timed.is_rtcp {
                let reports = sender_reports(&timed.bytes).expect("made here");
                change.of_report(reports[0], timed.track, clock_rate).encode()
            } else {
                let packet = Packet::parse(&timed.bytes).expect("made here");
                change.of_packet(packet, timed.track, clock_rate).encode()
            };
        }
        self
    }

    /// With a second track of video behind the others, whose keyframes come half a second after those of
    /// the first.
    #[must_use]
    pub fn with_second_video(mut self) -> Self {
        let Self { formats, packets, .. } = Self::of("video.flv", Plan::default());
        let track = self.formats.len();
        let (payload_type, control) = (100, format!("track{}", track + 1));
        self.formats.push(Format { payload_type, control, ..formats[0].clone() });
        // Reports that tell nothing false would tell the same.
        for timed in packets.iter().filter(|timed| !timed.is_rtcp) {
            let packet = Packet::parse(&timed.bytes).expect("made here");
            let packet = Packet { payload_type, ssrc: !packet.ssrc, ..packet };
            let at_ms = timed.at_ms + 520;
            self.packets.push(Timed { track, at_ms, is_rtcp: false, bytes: packet.encode() });
        }
        self.packets.sort_by_key(|packet| packet.at_ms);
        self
    }

    /// With metadata behind the other tracks, a packet each second, of which the first is the first of all.
    /// Nobody reports on it.
    #[must_use]
    pub fn with_metadata(mut self) -> Self {
        let track = self.formats.len();
        let (payload_type, clock_rate) = (107, 90_000);
        self.formats.push(Format {
            codec: Codec::Other(Kind::Script, "vnd.onvif.metadata"),
            payload_type,
            clock_rate,
            channels: 1,
            fmtp: String::new(),
            control: format!("track{}", track + 1),
        });
        let last_ms = self.packets.iter().map(|packet| packet.at_ms).max().unwrap_or(0);
        for second in (0..=last_ms / 1000).rev() {
            let packet = Packet {
                marker: true,
                payload_type,
                sequence: second as u16,
                timestamp: second * clock_rate,
                ssrc: 0x7654_3210,
                payload: b"<tt:MetadataStream/>".to_vec(),
            };
            let at_ms = 1000 * second;
            let timed = Timed { track, at_ms, is_rtcp: false, bytes: packet.encode() };
            self.packets.insert(0, timed);
        }
        self.packets.sort_by_key(|packet| packet.at_ms);
        self
    }

    /// The RTP packets of a track.
    pub fn rtp(&self, track: usize) -> Vec<Packet> {
        let own = self.packets.iter().filter(|packet| packet.track == track && !packet.is_rtcp);
        own.map(|packet| Packet::parse(&packet.bytes).expect("made here")).collect()
    }

    /// What tells the whole stream.
    pub fn description(&self) -> String {
        super::rtp::description("", &self.formats)
    }
}

impl Track {
    fn new(index: usize, first: &Tag, config: Option<&Tag>, plan: Plan) -> Self {
        let config = config.map_or(&[][..], |tag| &tag.payload);
        let (codec, channels, clock_rate) = match (first.kind, first.payload[0]) {
            (Kind::Video, 0x80..) => (Codec::H265, 1, 90_000),
            (Kind::Video, _) => (Codec::H264, 1, 90_000),
            (_, 0x90..=0x9f) => (Codec::Opus, 2, 48_000),
            (_, 0xa0..=0xaf) => {
                let rate = (config[2] & 7) << 1 | config[3] >> 7;
                (Codec::Aac, config[3] >> 3 & 0x0f, AAC_RATES[usize::from(rate)])
            }
            (_, 0x70..=0x7f) => (Codec::PcmA, 1, 8000),
            _ => (Codec::PcmU, 1, 8000),
        };
        let sets = match codec {
            Codec::H264 => sets_of_avc(&config[5..]),
            Codec::H265 => sets_of_hevc(&config[5..]),
            _ => Vec::new(),
        };
        let tells_sets = matches!(plan.sets, Sets::Everywhere | Sets::DescriptionOnly);
        let base64 = |sets: &[Vec<u8>]| {
            let texts: Vec<String> = sets.iter().map(|set| STANDARD.encode(set)).collect();
            texts.join(",")
        };
        let fmtp = match codec {
            Codec::H264 if tells_sets => {
                format!("packetization-mode=1;sprop-parameter-sets={}", base64(&sets))
            }
            Codec::H264 => "packetization-mode=1".to_owned(),
            Codec::H265 if tells_sets => {
                let named = ["vps", "sps", "pps"].iter().zip(&sets);
                let named = named.map(|(name, set)| {
                    format!("sprop-{name}={}", base64(std::slice::from_ref(set)))
                });
                named.collect::<Vec<_>>().join(";")
            }
            Codec::Aac => {
                let config: String = config[2..].iter().map(|b| format!("{b:02x}")).collect();
                format!(
                    "streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;\
                     indexdeltalength=3;config={config}"
                )
            }
            _ => String::new(),
        };
        let number = u8::try_from(index).expect("few tracks");
        let payload_type = match codec {
            Codec::PcmA => 8,
            Codec::PcmU => 0,
            _ => 96 + number,
        };
        let control = format!("track{}", index + 1);
        Self {
            format: Format { codec, payload_type, clock_rate, channels, fmtp, control },
            sets,
            has_told_sets: false,
            // Wraps soon.
            sequence: 65_500 + u16::from(number),
            ssrc: 0x1234_5670 + u32::from(number),
            next_report_ms: match plan.reported {
                Reported::Only(kind) if kind != codec.kind() => u32::MAX,
                _ => plan.report_after_ms,
            },
        }
    }

    fn timestamp(&self, ms: f64) -> u32 {
        let ticks = (ms * f64::from(self.format.clock_rate) / 1000.0).round() as i64;
        START_TIMESTAMP.wrapping_add(ticks as u32)
    }

    fn report(&self, ms: u32) -> Vec<u8> {
        let seconds = u64::from(ms / 1000) + 3_900_000_000;
        let ntp = (seconds << 32) | ((u64::from(ms % 1000) << 32) / 1000);
        let timestamp = self.timestamp(f64::from(ms));
        SenderReport { ssrc: self.ssrc, ntp, timestamp }.encode()
    }

    fn packets(&mut self, unit: &Unit, plan: Plan) -> impl Iterator<Item = Vec<u8>> {
        let has_sets = unit.is_keyframe
            && match plan.sets {
                Sets::DescriptionOnly => false,
                Sets::InBandOnce => !std::mem::replace(&mut self.has_told_sets, true),
                Sets::Everywhere | Sets::InBandOnly => true,
            };
        let payloads = match self.format.codec {
            codec @ (Codec::H264 | Codec::H265) => {
                let mut nals = split_nals(&unit.bytes);
                if plan.leads && codec == Codec::H264 {
                    nals.insert(0, DELIMITER.to_vec());
                }
                if has_sets {
                    // Behind the delimiter and the message.
                    let at = if plan.leads { 2 } else { 0 };
                    nals.splice(at..at, self.sets.iter().cloned());
                }
                nals.iter().flat_map(|nal| fragments(codec, nal)).collect()
            }
            Codec::Aac => {
                let len = u16::try_from(unit.bytes.len()).expect("a short frame") << 3;
                let [high, low] = len.to_be_bytes();
                vec![[&[0, 16, high, low], unit.bytes.as_slice()].concat()]
            }
            _ => vec![unit.bytes.clone()],
        };
        let timestamp = self.timestamp(unit.pts_ms);
        let apart = if has_sets && plan.sets_apart { self.sets.len() } else { 0 };
        let count = payloads.len();
        let Format { codec, payload_type, .. } = self.format;
        let (ssrc, start) = (self.ssrc, self.sequence);
        self.sequence = start.wrapping_add(u16::try_from(count).expect("few packets"));
        payloads.into_iter().enumerate().map(move |(index, payload)| {
            let is_last = index + 1 == count || index + 1 == apart;
            let timestamp =
                if index < apart { timestamp.wrapping_sub(APART_TICKS) } else { timestamp };
            let marker = is_last && matches!(codec, Codec::H264 | Codec::H265 | Codec::Aac);
            let sequence = start.wrapping_add(index as u16);
            Packet { marker, payload_type, sequence, timestamp, ssrc, payload }.encode()
        })
    }
}

/// Each track's packets are a contiguous part of what was sent, payloads, marks and types equal,
/// times moved by one number.
#[track_caller]
pub fn assert_same_packets(what: &str, media: &Media, recording: &Recording, at_least: usize) {
    assert_eq!(recording.tracks.len(), media.formats.len(), "{what}: tracks");
    for (track, (format, got)) in media.formats.iter().zip(&recording.tracks).enumerate() {
        let codec = format.codec;
        assert_eq!(got.format.codec, codec, "{what}");
        assert_eq!(got.format.clock_rate, format.clock_rate, "{what}: {codec:?}");
        let sent = media.rtp(track);
        let first = &got.packets[0];
        let is_first = |packet: &&Packet| packet.payload == first.payload;
        let told = |packet: &Packet, base: u32| {
            let Packet { marker, payload_type, timestamp, .. } = *packet;
            (marker, payload_type, timestamp.wrapping_sub(base), packet.payload.clone())
        };
        let fits =
            sent.iter().enumerate().filter(|(_, packet)| is_first(packet)).any(|(at, start)| {
                let part = sent.get(at..at + got.packets.len());
                part.is_some_and(|part| {
                    let part = part.iter().map(|packet| told(packet, start.timestamp));
                    part.eq(got.packets.iter().map(|packet| told(packet, first.timestamp)))
                })
            });
        let count = got.packets.len();
        assert!(count >= at_least, "{what}: {count} packets of {codec:?}");
        assert!(fits, "{what}: {count} packets of {codec:?} are not those that were sent");
        for pair in got.packets.windows(2) {
            let next = pair[0].sequence.wrapping_add(1);
            assert_eq!(pair[1].sequence, next, "{what}: {codec:?}");
        }
    }
}

/// Makes slices of a keyframe of H.264 those of another picture.
fn refresh(unit: &mut Unit) {
    if unit.kind != Kind::Video {
        return;
    }
    let mut nals = split_nals(&unit.bytes);
    for nal in nals.iter_mut().filter(|nal| nal[0] & 0x1f == 5) {
        nal[0] = nal[0] & 0xe0 | 1;
    }
    unit.bytes = units::picture(Codec::H264, &nals);
    unit.is_keyframe = false;
}

fn fragments(codec: Codec, nal: &[u8]) -> Vec<Vec<u8>> {
    if nal.len() <= PAYLOAD_LEN_MAX {
        return vec![nal.to_vec()];
    }
    let (header, kind) = match codec {
        Codec::H264 => (vec![nal[0] & 0xe0 | 28], nal[0] & 0x1f),
        _ => (vec![nal[0] & 0x81 | 49 << 1, nal[1]], nal[0] >> 1 & 0x3f),
    };
    let pieces: Vec<&[u8]> =
        nal[header.len()..].chunks(PAYLOAD_LEN_MAX - header.len() - 1).collect();
    let last = pieces.len() - 1;
    let fragment = |(index, piece): (usize, &&[u8])| {
        let marks = if index == 0 { 0x80 } else { 0 } | if index == last { 0x40 } else { 0 };
        [&header, &[kind | marks][..], piece].concat()
    };
    pieces.iter().enumerate().map(fragment).collect()
}

/// Of an `AVCDecoderConfigurationRecord`.
fn sets_of_avc(record: &[u8]) -> Vec<Vec<u8>> {
    let mut sets = Vec::new();
    let mut at = 5;
    for mask in [0x1f, 0xff] {
        let count = record[at] & mask;
        at += 1;
        for _ in 0..count {
            sets.push(take_set(record, &mut at));
        }
    }
    sets
}

/// Of an `HEVCDecoderConfigurationRecord`.
fn sets_of_hevc(record: &[u8]) -> Vec<Vec<u8>> {
    let mut sets = Vec::new();
    let mut at = 23;
    for _ in 0..record[22] {
        let kind = record[at] & 0x3f;
        let count = u16::from_be_bytes([record[at + 1], record[at + 2]]);
        at += 3;
        for _ in 0..count {
            let set = take_set(record, &mut at);
            // SEI is there, too.
            sets.extend((32..=34).contains(&kind).then_some(set));
        }
    }
    sets
}

fn take_set(record: &[u8], at: &mut usize) -> Vec<u8> {
    let len = usize::from(u16::from_be_bytes([record[*at], record[*at + 1]]));
    let set = record[*at + 2..*at + 2 + len].to_vec();
    *at += 2 + len;
    set
}

const AAC_RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000,
    7350,
];

/// An access unit delimiter.
const DELIMITER: &[u8] = &[0x09, 0xf0];

/// By how much parameter sets go before their picture that have a time of their own: 10 ms.
const APART_TICKS: u32 = 900;

/// Wraps soon.
const START_TIMESTAMP: u32 = u32::MAX - 90_000;

const PAYLOAD_LEN_MAX: usize = 1200;
