//! What a session description says of a track's one payload format: `rtpmap` and `fmtp` (RFC 8866,
//! 6.6 and 6.15; RFC 3551, 6), and what of it the codecs need.
//!
//! | codec | specification | out-of-band configuration |
//! |---|---|---|
//! | H.264 | RFC 6184, 8.1 | `sprop-parameter-sets` |
//! | H.265 | RFC 7798, 7.1 | `sprop-vps`, `sprop-sps`, `sprop-pps` |
//! | AAC | RFC 3640, 4.1; RFC 6416, 7.3 (LATM) | `config` |
//! | Opus | RFC 7587, 6.1 | `sprop-stereo` |
//! | G.711 | RFC 3551, 4.5.14 | |
//!
//! Unknown formats are kept as they are, so that they pass through.

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use crate::limits::REPEATED_SETS_LEN_MAX;
use crate::media::Codec;
use crate::media::codec::{AudioParameters, ParameterSets};

/// The kind of a media section (RFC 8866, 5.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrackKind {
    Video,
    Audio,
    /// Metadata, texts and the like.
    Other,
}

/// One payload format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pub kind: TrackKind,
    /// 0 to 127
    pub payload_type: u8,
    /// Encoding name as written; empty where nothing tells it.
    pub encoding: String,
    /// In Hz; never 0.
    pub clock_rate: u32,
    /// Of audio, as `rtpmap` says; 1 where it does not.
    pub channels: u8,
    /// What follows the payload type in `fmtp`, as written.
    pub parameters: String,
}

impl Format {
    /// A payload type without an `rtpmap`: by the table of static types (RFC 3551, 6).
    pub fn of_payload_type(kind: TrackKind, payload_type: u8) -> Self {
        let known = STATIC_TYPES.iter().find(|known| known.0 == payload_type);
        let rate = if kind == TrackKind::Audio { 8000 } else { 90_000 };
        let &(_, encoding, clock_rate, channels) = known.unwrap_or(&(payload_type, "", rate, 1));
        let (encoding, parameters) = (encoding.to_owned(), String::new());
        Self { kind, payload_type, encoding, clock_rate, channels, parameters }
    }

    /// Takes what follows the payload type in `rtpmap`: `encoding/rate[/channels]`. What can't be
    /// read leaves the format as it is.
    pub fn read_rtpmap(&mut self, text: &str) {
        let mut parts = text.trim().split('/').map(str::trim);
        let encoding = parts.next().unwrap_or_default();
        let rate = parts.next().and_then(|rate| rate.parse().ok()).filter(|rate| *rate > 0);
        let (false, Some(rate)) = (encoding.is_empty(), rate) else { return };
        self.encoding = encoding.to_owned();
        self.clock_rate = rate;
        let channels = parts.next().and_then(|channels| channels.parse().ok());
        self.channels = channels.filter(|channels| *channels > 0).unwrap_or(1);
    }

    /// What `rtpmap` says: `encoding/rate[/channels]`.
    pub fn rtpmap(&self) -> String {
        let Self { encoding, clock_rate, channels, .. } = self;
        if *channels > 1 {
            format!("{encoding}/{clock_rate}/{channels}")
        } else {
            format!("{encoding}/{clock_rate}")
        }
    }

    pub fn codec(&self) -> Codec {
        let names: &[(&str, Codec)] = match self.kind {
            TrackKind::Video => &VIDEO_ENCODINGS,
            _ => &AUDIO_ENCODINGS,
        };
        let known = names.iter().find(|(name, _)| self.encoding.eq_ignore_ascii_case(name));
        match (known, self.kind) {
            (Some((_, codec)), _) => *codec,
            (None, TrackKind::Video) => Codec::OtherVideo,
            (None, _) => Codec::OtherAudio,
        }
    }

    /// Whether FLV has a form for frames of it (E.4.2.1, E.4.3.1, Enhanced RTMP v2): of G.711 for that
    /// of 8 kHz alone, with two channels at most.
    pub fn fits_flv(&self) -> bool {
        match self.codec() {
            Codec::H264 | Codec::H265 | Codec::Aac | Codec::Opus => true,
            Codec::PcmA | Codec::PcmU => self.clock_rate == 8000 && self.channels <= 2,
            _ => false,
        }
    }

    pub fn is_latm(&self) -> bool {
        self.encoding.eq_ignore_ascii_case("MP4A-LATM")
    }

    /// H.264 whose units are not sent in the order in which they are decoded (RFC 6184, 6.4).
    pub fn is_interleaved(&self) -> bool {
        self.number("packetization-mode") == Some(2)
    }

    /// H.265 whose units have decoding order numbers before them (RFC 7798, 4.4 and 7.1).
    pub fn has_order_numbers(&self) -> bool {
        self.codec() == Codec::H265 && self.number("sprop-max-don-diff").is_some_and(|of| of > 0)
    }

    /// A parameter of `fmtp` by its name in any case, without quotes.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut pairs = self.parameters.split(';').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
        Some(value.trim().trim_matches('"'))
    }

    /// A numeric parameter of `fmtp`.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.parameter(name)?.parse().ok()
    }

    /// Whether packets of this format can go on behind those of another one: players were told that, and
    /// what reads its packets was made for it. Payload types may differ, and so may parameter sets, of which
    /// players learn in band.
    pub fn continues(&self, other: &Self) -> bool {
        let read = |of: &Self| {
            let form = (of.kind, of.encoding.to_ascii_lowercase(), of.clock_rate, of.channels);
            let layout = LAYOUT_NUMBERS.map(|name| of.number(name).unwrap_or(0));
            let mode = of.parameter("mode").map(str::to_ascii_lowercase);
            let is_in_band = of.parameter("cpresent") != Some("0");
            let config = of.config().map(without_absent_sbr);
            (form, layout, mode, of.is_interleaved(), is_in_band, config, of.opus_head())
        };
        read(self) == read(other)
    }

    /// Whether packets that we make of its codec are such as it says: whoever was told the format can read
    /// them.
    pub fn is_packetized_so(&self) -> bool {
        let ours = match self.codec() {
            Codec::Aac => self.config().and_then(|record| Self::of_codec(Codec::Aac, &record)),
            // Rates and channels are those that were told, and nothing of the layout.
            _ => Some(Self { parameters: String::new(), ..self.clone() }),
        };
        let is_opus = self.codec() == Codec::Opus;
        is_opus || ours.is_some_and(|ours| ours.continues(self))
    }

    /// The parameter sets that are told out of band, of H.264 and H.265.
    pub fn parameter_sets(&self) -> ParameterSets {
        let codec = self.codec();
        let names: &[&str] = match codec {
            Codec::H265 => &["sprop-vps", "sprop-sps", "sprop-pps"],
            _ => &["sprop-parameter-sets"],
        };
        let mut sets = ParameterSets::new(if codec == Codec::H265 { codec } else { Codec::H264 });
        for text in names.iter().filter_map(|name| self.parameter(name)) {
            for set in text.split(',').filter_map(|set| BASE64.decode(set.trim()).ok()) {
                // Some cameras leave the start code before it (H.264, B.1).
                let start = [&[0, 0, 0, 1][..], &[0, 0, 1]];
                let nal = start.iter().find_map(|start| set.strip_prefix(*start));
                sets.insert(nal.unwrap_or(&set));
            }
        }
        sets
    }

    /// Tells these parameter sets out of band, of H.264 and H.265; the other parameters stay. Sets that
    /// are not complete, or longer than encoders make them, change nothing.
    pub fn set_parameter_sets(&mut self, sets: &ParameterSets) {
        let told = match self.codec() {
            Codec::H264 => h264_sets(sets),
            Codec::H265 => Some(h265_sets(sets)),
            _ => None,
        };
        let is_told = sets.is_complete() && sets.nals_len() <= REPEATED_SETS_LEN_MAX;
        let Some(told) = told.filter(|_| is_told) else { return };
        let is_of_sets = |pair: &str| {
            let name = pair.split('=').next().unwrap_or_default().trim();
            SET_PARAMETERS.iter().any(|of_sets| name.eq_ignore_ascii_case(of_sets))
        };
        let others = self.parameters.split(';').map(str::trim);
        let others = others.filter(|pair| !pair.is_empty() && !is_of_sets(pair));
        self.parameters = others.chain([told.as_str()]).collect::<Vec<_>>().join(";");
    }

    /// The bytes of `config`, in hexadecimal.
    pub fn config(&self) -> Option<Bytes> {
        decode_hex(self.parameter("config")?).map(Bytes::from)
    }

    /// An `OpusHead` (RFC 7845, 5.1) for an Opus track. Opus decodes to whatever is asked for; one
    /// channel is told only where the sender states that it has no more.
    pub fn opus_head(&self) -> Bytes {
        let is_mono = self.parameter("sprop-stereo") == Some("0") || self.channels == 1;
        let channels = if is_mono { 1 } else { 2 };
        let [r0, r1, r2, r3] = 48_000_u32.to_le_bytes();
        let mut head = b"OpusHead\x01".to_vec();
        head.extend_from_slice(&[channels, 0, 0, r0, r1, r2, r3, 0, 0, 0]);
        head.into()
    }

    /// The format in which we send a codec, from its configuration record (none for G.711): the
    /// payload type is 96 for video, 97 for audio, the static one of G.711. `None` for codecs that
    /// we do not packetize, or a record that can't be read.
    pub fn of_codec(codec: Codec, record: &[u8]) -> Option<Self> {
        let video = |encoding: &str, parameters| Self {
            kind: TrackKind::Video,
            payload_type: VIDEO_PAYLOAD_TYPE,
            encoding: encoding.to_owned(),
            clock_rate: 90_000,
            channels: 1,
            parameters,
        };
        let audio = |encoding: &str, clock_rate, channels, parameters| Self {
            kind: TrackKind::Audio,
            payload_type: AUDIO_PAYLOAD_TYPE,
            encoding: encoding.to_owned(),
            clock_rate,
            channels,
            parameters,
        };
        Some(match codec {
            Codec::H264 => video("H264", h264_parameters(record)?),
            Codec::H265 => video("H265", h265_parameters(record)?),
            Codec::Aac => {
                let AudioParameters { sample_rate, channels, .. } =
                    AudioParameters::from_config(codec, record)?;
                let config = encode_hex(record);
                let parameters = format!(
                    "profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;\
                     indexdeltalength=3;config={config}"
                );
                audio("MPEG4-GENERIC", sample_rate, channels, parameters)
            }
            // The rate and the channels are those of every Opus stream (RFC 7587, 4.1 and 7).
            Codec::Opus => {
                let channels = AudioParameters::from_config(codec, record)?.channels;
                if channels > 2 {
                    return None;
                }
                audio("opus", 48_000, 2, format!("sprop-stereo={}", channels - 1))
            }
            Codec::PcmU => Self::of_payload_type(TrackKind::Audio, 0),
            Codec::PcmA => Self::of_payload_type(TrackKind::Audio, 8),
            _ => return None,
        })
    }
}

/// An AudioSpecificConfig that does not say at its end that there is no SBR (ISO 14496-3, 1.6.5.2): some
/// servers leave out what ffmpeg says there, and frames are read in the same way.
fn without_absent_sbr(config: Bytes) -> Bytes {
    match config.strip_suffix(ABSENT_SBR) {
        Some(head) if head.len() >= 2 => config.slice(..head.len()),
        _ => config,
    }
}

fn h264_parameters(record: &[u8]) -> Option<String> {
    let sets = h264_sets(&ParameterSets::from_record(Codec::H264, record)?)?;
    Some(format!("packetization-mode=1;{sets}"))
}

fn h264_sets(sets: &ParameterSets) -> Option<String> {
    let profile = encode_hex(sets.sps().next()?.get(1..4)?);
    let nals = encode_base64(&mut sets.nals());
    Some(format!("profile-level-id={profile};sprop-parameter-sets={nals}"))
}

fn h265_parameters(record: &[u8]) -> Option<String> {
    ParameterSets::from_record(Codec::H265, record).map(|sets| h265_sets(&sets))
}

fn h265_sets(sets: &ParameterSets) -> String {
    let (vps, sps) = (encode_base64(&mut sets.vps()), encode_base64(&mut sets.sps()));
    let pps = encode_base64(&mut sets.pps());
    format!("sprop-vps={vps};sprop-sps={sps};sprop-pps={pps}")
}

fn encode_base64(nals: &mut dyn Iterator<Item = &Bytes>) -> String {
    nals.map(|nal| BASE64.encode(nal)).collect::<Vec<_>>().join(",")
}

fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// `None` where there is anything but pairs of digits.
fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let (pairs, []) = digits.as_deref()?.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| (high << 4 | low) as u8).collect())
}

/// Padding is left out by some cameras.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What of `fmtp` is of the parameter sets.
const SET_PARAMETERS: [&str; 5] =
    ["profile-level-id", "sprop-parameter-sets", "sprop-vps", "sprop-sps", "sprop-pps"];

/// `syncExtensionType`, the object type of SBR, and that it is absent.
const ABSENT_SBR: &[u8] = &[0x56, 0xe5, 0x00];

const VIDEO_PAYLOAD_TYPE: u8 = 96;
const AUDIO_PAYLOAD_TYPE: u8 = 97;

const VIDEO_ENCODINGS: [(&str, Codec); 6] = [
    ("H264", Codec::H264),
    ("H265", Codec::H265),
    ("HEVC", Codec::H265),
    ("AV1", Codec::Av1),
    ("VP8", Codec::Vp8),
    ("VP9", Codec::Vp9),
];

const AUDIO_ENCODINGS: [(&str, Codec); 7] = [
    ("mpeg4-generic", Codec::Aac),
    ("MP4A-LATM", Codec::Aac),
    ("opus", Codec::Opus),
    ("PCMU", Codec::PcmU),
    ("PCMA", Codec::PcmA),
    ("MPA", Codec::Mp3),
    ("AC3", Codec::Ac3),
];

/// What else tells how payloads are to be read: of AAC (RFC 3640, 4.1), and of H.265 (RFC 7798, 7.1).
const LAYOUT_NUMBERS: [&str; 12] = [
    "sizelength",
    "indexlength",
    "indexdeltalength",
    "constantsize",
    "constantduration",
    "ctsdeltalength",
    "dtsdeltalength",
    "randomaccessindication",
    "streamstateindication",
    "auxiliarydatasizelength",
    "maxdisplacement",
    "sprop-max-don-diff",
];

/// Payload type, encoding name, clock rate and channels. G.722's rate is an erratum that stayed.
const STATIC_TYPES: [(u8, &str, u32, u8); 14] = [
    (0, "PCMU", 8000, 1),
    (3, "GSM", 8000, 1),
    (4, "G723", 8000, 1),
    (5, "DVI4", 8000, 1),
    (8, "PCMA", 8000, 1),
    (9, "G722", 8000, 1),
    (10, "L16", 44_100, 2),
    (11, "L16", 44_100, 1),
    (14, "MPA", 90_000, 1),
    (26, "JPEG", 90_000, 1),
    (31, "H261", 90_000, 1),
    (32, "MPV", 90_000, 1),
    (33, "MP2T", 90_000, 1),
    (34, "H263", 90_000, 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn format(kind: TrackKind, rtpmap: &str, parameters: &str) -> Format {
        let mut format = Format::of_payload_type(kind, 96);
        format.read_rtpmap(rtpmap);
        format.parameters = parameters.to_owned();
        format
    }

    #[test]
    fn what_changes_how_packets_are_read_is_another_format() {
        let aac = "mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1190";
        let of = |rtpmap: &str, parameters: &str| format(TrackKind::Audio, rtpmap, parameters);
        let base = of("mpeg4-generic/48000/2", aac);
        let mut other = of("MPEG4-GENERIC/48000/2", &aac.to_ascii_uppercase());
        other.payload_type = 97;
        assert!(other.continues(&base), "case and payload type");
        for change in
            ["sizelength=6", "indexlength=2", "indexdeltalength=2", "config=1210", "mode=AAC-lbr"]
        {
            // The first of a name counts.
            let changed = of("mpeg4-generic/48000/2", &format!("{change};{aac}"));
            assert!(!changed.continues(&base), "{change}");
        }
        for addition in [
            "constantsize=9",
            "constantduration=1024",
            "ctsdeltalength=8",
            "dtsdeltalength=8",
            "randomaccessindication=1",
            "streamstateindication=2",
            "auxiliarydatasizelength=8",
            "maxdisplacement=3072",
        ] {
            let changed = of("mpeg4-generic/48000/2", &format!("{aac};{addition}"));
            assert!(!changed.continues(&base) && !base.continues(&changed), "{addition}");
            let (name, _) = addition.split_once('=').unwrap();
            let told = of("mpeg4-generic/48000/2", &format!("{aac};{name}=0"));
            assert!(told.continues(&base), "{name} of 0 is the default");
        }
        for (kind, rtpmap, one, other, continues) in [
            (TrackKind::Audio, "MP4A-LATM/48000/2", "", "cpresent=0", false),
            (TrackKind::Audio, "MP4A-LATM/48000/2", "", "cpresent=1", true),
            (TrackKind::Audio, "mpeg4-generic/48000/2", "config=1190", "config=119056E500", true),
            (TrackKind::Audio, "mpeg4-generic/48000/2", "config=1190", "config=119056E580", false),
            (TrackKind::Audio, "opus/48000/2", "sprop-stereo=1", "sprop-stereo=0", false),
            (TrackKind::Audio, "opus/48000/2", "", "sprop-stereo=1;useinbandfec=1", true),
            (TrackKind::Video, "H265/90000", "", "sprop-max-don-diff=2", false),
            (TrackKind::Video, "H264/90000", "packetization-mode=1", "packetization-mode=2", false),
            (TrackKind::Video, "H264/90000", "", "packetization-mode=1;profile-level-id=42", true),
            (TrackKind::Video, "H264/90000", "", "sprop-parameter-sets=aM4xsg==", true),
            (TrackKind::Video, "H265/90000", "sprop-pps=RAE=", "sprop-pps=RAI=", true),
        ] {
            let [one, other] = [one, other].map(|parameters| format(kind, rtpmap, parameters));
            assert_eq!(other.continues(&one), continues, "{other:?}");
        }
    }

    #[test]
    fn rtpmap_is_read_and_written() {
        use TrackKind::{Audio, Video};
        for (kind, text, codec) in [
            (Video, "H264/90000", Codec::H264),
            (Video, "h265/90000", Codec::H265),
            (Video, "JPEG/90000", Codec::OtherVideo),
            (Audio, "MPEG4-GENERIC/44100/2", Codec::Aac),
            (Audio, "MP4A-LATM/90000", Codec::Aac),
            (Audio, "opus/48000/2", Codec::Opus),
            (Audio, "PCMA/8000", Codec::PcmA),
            (Audio, "G726-32/8000", Codec::OtherAudio),
        ] {
            let format = format(kind, text, "");
            assert_eq!((format.rtpmap().as_str(), format.codec()), (text, codec));
        }
        assert_eq!(format(Audio, " PCMU / 8000 / 1 ", "").rtpmap(), "PCMU/8000");
    }

    #[test]
    fn bad_rtpmap_changes_nothing() {
        for text in ["", "H264", "H264/", "/90000", "H264/0", "H264/x"] {
            let format = format(TrackKind::Video, text, "");
            assert_eq!((format.encoding.as_str(), format.clock_rate), ("", 90_000), "{text}");
            assert_eq!(format.codec(), Codec::OtherVideo);
        }
    }

    #[test]
    fn static_types_are_known() {
        let pcma = Format::of_payload_type(TrackKind::Audio, 8);
        assert_eq!((pcma.codec(), pcma.rtpmap().as_str()), (Codec::PcmA, "PCMA/8000"));
        let stereo = Format::of_payload_type(TrackKind::Audio, 10);
        assert_eq!(stereo.rtpmap(), "L16/44100/2");
        let unknown = Format::of_payload_type(TrackKind::Other, 107);
        assert_eq!((unknown.encoding.as_str(), unknown.clock_rate), ("", 90_000));
    }

    #[test]
    fn parameters_are_found_however_they_are_spaced() {
        let format = format(
            TrackKind::Video,
            "H264/90000",
            "profile-level-id=42C01F; Packetization-Mode = 1;sprop-parameter-sets=\"Z0LAH9oBQBbpUgAAAwACAAADAGTAgA==,aM4xsg\";",
        );
        assert_eq!(format.parameter("profile-level-id"), Some("42C01F"));
        assert_eq!(format.number("packetization-mode"), Some(1));
        assert_eq!(format.number("profile-level-id"), None);
        assert_eq!(format.parameter("absent"), None);
        let sets = format.parameter_sets();
        assert_eq!((sets.sps().count(), sets.pps().count()), (1, 1));
        assert_eq!(sets.pps().next().unwrap(), &b"\x68\xce\x31\xb2"[..]);
    }

    #[test]
    fn parameter_sets_behind_start_codes_are_read() {
        for text in ["AAAAAWjOMbI=", "AAABaM4xsg==", "aM4xsg=="] {
            let parameters = format!("sprop-parameter-sets={text}");
            let sets = format(TrackKind::Video, "H264/90000", &parameters).parameter_sets();
            assert_eq!(
                sets.pps().next().map(|nal| &nal[..]),
                Some(&b"\x68\xce\x31\xb2"[..]),
                "{text}"
            );
        }
    }

    #[test]
    fn parameter_sets_are_told_and_the_rest_stays() {
        let avc = b"\x01\x42\xc0\x28\xff\xe1\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\
                    \0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a\x01\0\x04\x68\xce\x0f\xc8";
        let sets = ParameterSets::from_record(Codec::H264, avc).unwrap();
        let of_sets = "profile-level-id=42C028;\
                       sprop-parameter-sets=Z0LAKNoB4AiflwEQAAA+kAAOpgDxgyo=,aM4PyA==";
        for (before, others) in [
            ("", ""),
            (" packetization-mode=1; x=a=b;", "packetization-mode=1;x=a=b;"),
            (
                "Profile-Level-Id = 64001E;packetization-mode=1;sprop-parameter-sets=aM4xsg==",
                "packetization-mode=1;",
            ),
        ] {
            let mut told = format(TrackKind::Video, "H264/90000", before);
            let source = told.clone();
            told.set_parameter_sets(&sets);
            assert_eq!(told.parameters, [others, of_sets].concat());
            assert!(told.parameter_sets() == sets && told.continues(&source));
        }
        let mut untold = format(TrackKind::Video, "H264/90000", "x=1");
        untold.set_parameter_sets(&ParameterSets::new(Codec::H264));
        assert_eq!(untold.parameters, "x=1");
    }

    #[test]
    fn bad_parameter_sets_are_left_out() {
        for text in ["", ",", "!!!", "AAAA,aM4xsg==", "aM4x sg=="] {
            let parameters = format!("sprop-parameter-sets={text}");
            let sets = format(TrackKind::Video, "H264/90000", &parameters).parameter_sets();
            assert_eq!(sets.to_record(), None, "{text}");
        }
    }

    #[test]
    fn config_is_hexadecimal() {
        let config = |text: &str| {
            let parameters = format!("mode=AAC-hbr;config={text};x=1");
            format(TrackKind::Audio, "mpeg4-generic/48000/2", &parameters).config()
        };
        assert_eq!(config("1190").as_deref(), Some(&[0x11, 0x90][..]));
        assert_eq!(config("11aF").as_deref(), Some(&[0x11, 0xaf][..]));
        assert_eq!((config("119"), config("11zz"), config("+1+2")), (None, None, None));
    }

    #[test]
    fn what_we_send_is_what_we_read() {
        let avc = b"\x01\x42\xc0\x28\xff\xe1\0\x17\x67\x42\xc0\x28\xda\x01\xe0\x08\x9f\x97\x01\x10\
                    \0\0\x3e\x90\0\x0e\xa6\0\xf1\x83\x2a\x01\0\x04\x68\xce\x0f\xc8";
        let format = Format::of_codec(Codec::H264, avc).unwrap();
        assert_eq!(format.parameter("profile-level-id"), Some("42C028"));
        assert_eq!(format.parameter_sets().to_record().unwrap(), avc[..]);

        let aac = Format::of_codec(Codec::Aac, b"\x11\x90").unwrap();
        assert_eq!(aac.rtpmap(), "MPEG4-GENERIC/48000/2");
        assert_eq!(aac.config().as_deref(), Some(&b"\x11\x90"[..]));

        let head = b"OpusHead\x01\x01\0\0\x80\xbb\0\0\0\0\0";
        let opus = Format::of_codec(Codec::Opus, head).unwrap();
        assert_eq!((opus.rtpmap().as_str(), opus.opus_head()), ("opus/48000/2", head[..].into()));

        let pcmu = Format::of_codec(Codec::PcmU, b"").unwrap();
        assert_eq!((pcmu.payload_type, pcmu.rtpmap().as_str()), (0, "PCMU/8000"));
        assert_eq!(Format::of_codec(Codec::Vp9, b""), None);
        assert_eq!(Format::of_codec(Codec::H264, b"\x01"), None);
    }
}
