//! RTP and RTCP packets, and the session descriptions that name them, as the tests read and write
//! them (RFC 3550, RFC 8866). Strict, and nothing shared with the relay's own parser.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::flv::Kind;

/// One RTP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub marker: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub payload: Vec<u8>,
}

impl Packet {
    /// # Errors
    /// What is wrong with the bytes. Extensions and CSRCs are: nothing in the tests sends them on.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let Some(([first, marked, s1, s0, t3, t2, t1, t0, r3, r2, r1, r0], payload)) =
            bytes.split_first_chunk::<12>()
        else {
            return Err(format!("RTP of {} bytes", bytes.len()));
        };
        if *first != 0x80 {
            return Err(format!("RTP begins with {first:02x}"));
        }
        Ok(Self {
            marker: marked & 0x80 != 0,
            payload_type: marked & 0x7f,
            sequence: u16::from_be_bytes([*s1, *s0]),
            timestamp: u32::from_be_bytes([*t3, *t2, *t1, *t0]),
            ssrc: u32::from_be_bytes([*r3, *r2, *r1, *r0]),
            payload: payload.to_vec(),
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0x80, self.payload_type | u8::from(self.marker) << 7];
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.timestamp.to_be_bytes());
        bytes.extend_from_slice(&self.ssrc.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// What a sender report says of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReport {
    pub ssrc: u32,
    /// Seconds since 1900, in 32.32 bits.
    pub ntp: u64,
    pub timestamp: u32,
}

impl SenderReport {
    pub fn ntp_ms(&self) -> f64 {
        self.ntp as f64 / f64::from(1 << 16) / f64::from(1 << 16) * 1000.0
    }

    /// The report alone, without a CNAME.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0x80, 200, 0, 6];
        bytes.extend_from_slice(&self.ssrc.to_be_bytes());
        bytes.extend_from_slice(&self.ntp.to_be_bytes());
        bytes.extend_from_slice(&self.timestamp.to_be_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes
    }
}

/// The sender reports of a compound packet.
///
/// # Errors
/// What is wrong with the bytes.
pub fn sender_reports(mut bytes: &[u8]) -> Result<Vec<SenderReport>, String> {
    let mut reports = Vec::new();
    while !bytes.is_empty() {
        let Some([first, kind, high, low]) = bytes.first_chunk() else {
            return Err(format!("RTCP ends with {bytes:02x?}"));
        };
        let len = 4 + 4 * usize::from(u16::from_be_bytes([*high, *low]));
        if first >> 6 != 2 || len > bytes.len() {
            return Err(format!("RTCP of {} bytes, type {kind}, {first:02x}", bytes.len()));
        }
        let (packet, rest) = bytes.split_at(len);
        if *kind == 200 {
            let word = |at: usize| packet.get(at..at + 4).and_then(|word| word.try_into().ok());
            let words = [4, 8, 12, 16].map(|at| word(at).map(u32::from_be_bytes));
            let [Some(ssrc), Some(high), Some(low), Some(timestamp)] = words else {
                return Err(format!("sender report of {len} bytes"));
            };
            let ntp = u64::from(high) << 32 | u64::from(low);
            reports.push(SenderReport { ssrc, ntp, timestamp });
        }
        bytes = rest;
    }
    Ok(reports)
}

/// What a receiver says of the sources that it hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverReport {
    pub ssrc: u32,
    pub blocks: Vec<ReportBlock>,
}

/// What it says of one of them (RFC 3550, 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportBlock {
    pub ssrc: u32,
    /// Since the last report, in 256ths.
    pub fraction_lost: u8,
    /// Since the beginning, in 24 bits.
    pub cumulative_lost: u32,
    /// With the count of wraps above its 16 bits.
    pub highest_sequence: u32,
    /// The middle of the NTP time of the last sender report.
    pub last_report: u32,
}

impl ReceiverReport {
    /// The report of a compound packet, behind which the receiver tells its name under the same SSRC, and
    /// nothing else.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let fault = |what: &str| format!("{what}: {bytes:02x?}");
        let words: Vec<u32> = bytes
            .chunks(4)
            .map(|word| word.try_into().map(u32::from_be_bytes).map_err(|_| fault("cut off")))
            .collect::<Result<_, _>>()?;
        let [head, ssrc, rest @ ..] = &words[..] else { return Err(fault("too short")) };
        let count = (head >> 24 & 0x1f) as usize;
        let is_report = head & 0xe0ff_ffff == 0x80c9_0000 | (1 + 6 * count as u32);
        let Some((blocks, names)) = rest.split_at_checked(6 * count).filter(|_| is_report) else {
            return Err(fault("no receiver report"));
        };
        // One source, whose first item is its canonical name.
        let is_name = matches!(names, [head, of, item, ..]
            if *head == 0x81ca_0000 | (names.len() as u32 - 1) && of == ssrc && item >> 24 == 1);
        if !is_name {
            return Err(fault("no name of the same source"));
        }
        let block = |words: &[u32]| ReportBlock {
            ssrc: words[0],
            fraction_lost: (words[1] >> 24) as u8,
            cumulative_lost: words[1] & 0x00ff_ffff,
            highest_sequence: words[2],
            last_report: words[4],
        };
        Ok(Self { ssrc: *ssrc, blocks: blocks.chunks(6).map(block).collect() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    H264,
    H265,
    Aac,
    /// AAC in LATM, without configuration in band.
    Latm,
    Opus,
    PcmA,
    PcmU,
    /// Known by its name alone. Of [`Kind::Script`] is what is neither video nor audio.
    Other(Kind, &'static str),
}

impl Codec {
    pub fn kind(self) -> Kind {
        match self {
            Self::H264 | Self::H265 => Kind::Video,
            Self::Other(kind, _) => kind,
            _ => Kind::Audio,
        }
    }

    fn of_encoding(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "H264" => Self::H264,
            "H265" => Self::H265,
            "MPEG4-GENERIC" => Self::Aac,
            "MP4A-LATM" => Self::Latm,
            "OPUS" => Self::Opus,
            "PCMA" => Self::PcmA,
            "PCMU" => Self::PcmU,
            "VP8" => Self::Other(Kind::Video, "VP8"),
            "MP4V-ES" => Self::Other(Kind::Video, "MP4V-ES"),
            "X-NOISE" => Self::Other(Kind::Audio, "X-NOISE"),
            "VND.ONVIF.METADATA" => Self::Other(Kind::Script, "vnd.onvif.metadata"),
            _ => return None,
        })
    }

    fn encoding(self) -> &'static str {
        match self {
            Self::H264 => "H264",
            Self::H265 => "H265",
            Self::Aac => "mpeg4-generic",
            Self::Latm => "MP4A-LATM",
            Self::Opus => "opus",
            Self::PcmA => "PCMA",
            Self::PcmU => "PCMU",
            Self::Other(_, name) => name,
        }
    }

    /// Whether a NAL unit is kept elsewhere by some carriers, or left out: parameter sets, delimiters and
    /// filler.
    pub fn is_beside_picture(self, nal: &[u8]) -> bool {
        let first = nal.first().copied().unwrap_or(0);
        match self {
            Self::H264 => matches!(first & 0x1f, 7..=9 | 12),
            _ => matches!(first >> 1 & 0x3f, 32..=35 | 38),
        }
    }

    /// Whether a NAL unit has messages beside the picture (SEI).
    pub fn is_message(self, nal: &[u8]) -> bool {
        let first = nal.first().copied().unwrap_or(0);
        match self {
            Self::H264 => first & 0x1f == 6,
            _ => matches!(first >> 1 & 0x3f, 39 | 40),
        }
    }

    pub fn is_keyframe(self, nal: &[u8]) -> bool {
        let first = nal.first().copied().unwrap_or(0);
        match self {
            Self::H264 => first & 0x1f == 5,
            _ => matches!(first >> 1 & 0x3f, 16..=21),
        }
    }
}

/// A media section of a session description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pub codec: Codec,
    pub payload_type: u8,
    pub clock_rate: u32,
    pub channels: u8,
    /// Without the payload type.
    pub fmtp: String,
    pub control: String,
}

impl Format {
    /// The section's lines.
    pub fn lines(&self) -> String {
        let Self { codec, payload_type, clock_rate, channels, fmtp, control } = self;
        let kind = match codec.kind() {
            Kind::Video => "video",
            Kind::Audio => "audio",
            Kind::Script => "application",
        };
        let mut text = format!("m={kind} 0 RTP/AVP {payload_type}\r\n");
        text += &format!("a=rtpmap:{payload_type} {}/{clock_rate}", codec.encoding());
        if codec.kind() == Kind::Audio && *channels > 1 {
            text += &format!("/{channels}");
        }
        text += "\r\n";
        if !fmtp.is_empty() {
            text += &format!("a=fmtp:{payload_type} {fmtp}\r\n");
        }
        if !control.is_empty() {
            text += &format!("a=control:{control}\r\n");
        }
        text
    }

    /// Parameter sets that the section tells.
    pub fn parameter_sets(&self) -> Vec<Vec<u8>> {
        let values = self.fmtp.split(';').filter_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            name.starts_with("sprop-").then_some(value)
        });
        let sets = values.flat_map(|value| value.split(','));
        sets.filter_map(|set| STANDARD.decode(set).ok()).collect()
    }
}

/// A whole description.
pub fn description(session_control: &str, formats: &[Format]) -> String {
    let mut text = String::from("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=kit\r\nc=IN IP4 0.0.0.0\r\n");
    text += "t=0 0\r\n";
    if !session_control.is_empty() {
        text += &format!("a=control:{session_control}\r\n");
    }
    formats.iter().for_each(|format| text += &format.lines());
    text
}

/// The media sections of a description.
///
/// # Errors
/// What is wrong with the text, or unknown to the tests.
pub fn parse_description(text: &str) -> Result<Vec<Format>, String> {
    if !text.starts_with("v=0\r\n") {
        return Err(format!("no description: {text:?}"));
    }
    let sections = text.split("\r\nm=").skip(1);
    sections.map(|section| parse_section(section).ok_or_else(|| section.to_owned())).collect()
}

fn parse_section(section: &str) -> Option<Format> {
    let payload_type: u8 = section.lines().next()?.split(' ').nth(3)?.parse().ok()?;
    let value = |name: &str| section.lines().find_map(|line| line.strip_prefix(name));
    let known = match payload_type {
        0 => Some("PCMU/8000"),
        8 => Some("PCMA/8000"),
        _ => None,
    };
    let rtpmap = value(&format!("a=rtpmap:{payload_type} ")).or(known)?;
    let mut parts = rtpmap.split('/');
    let codec = Codec::of_encoding(parts.next()?)?;
    Some(Format {
        codec,
        payload_type,
        clock_rate: parts.next()?.parse().ok()?,
        channels: parts.next().map_or(Some(1), |channels| channels.parse().ok())?,
        fmtp: value(&format!("a=fmtp:{payload_type} ")).unwrap_or_default().to_owned(),
        control: value("a=control:").unwrap_or_default().to_owned(),
    })
}
