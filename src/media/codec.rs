//! Codecs and what their configuration records tell: picture size, sample rate.
//!
//! Numbers and names are ZLMediaKit's, as its API shows them. Parsers here never fail hard: what a
//! record does not tell is `None`, and the media passes through all the same.

mod audio;
mod av1;
pub(crate) mod bits;
mod h264;
mod h265;
mod parameter_sets;

pub use parameter_sets::ParameterSets;

/// A codec, as far as we tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    H264,
    H265,
    Av1,
    Vp8,
    Vp9,
    OtherVideo,
    Aac,
    Opus,
    Flac,
    Ac3,
    Eac3,
    Mp3,
    PcmA,
    PcmU,
    Speex,
    OtherAudio,
}

impl Codec {
    /// ZLMediaKit's `codec_id`; -1 where it has none.
    pub fn id(self) -> i32 {
        match self {
            Self::H264 => 0,
            Self::H265 => 1,
            Self::Aac => 2,
            Self::PcmA => 3,
            Self::PcmU => 4,
            Self::Opus => 5,
            Self::Vp8 => 7,
            Self::Vp9 => 8,
            Self::Av1 => 9,
            Self::Mp3 => 14,
            Self::Flac
            | Self::Ac3
            | Self::Eac3
            | Self::Speex
            | Self::OtherVideo
            | Self::OtherAudio => -1,
        }
    }

    /// ZLMediaKit's `codec_id_name`, and names in its manner for the codecs that it lacks.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "H264",
            Self::H265 => "H265",
            Self::Av1 => "AV1",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::Aac => "mpeg4-generic",
            Self::Opus => "opus",
            Self::Flac => "FLAC",
            Self::Ac3 => "AC3",
            Self::Eac3 => "EAC3",
            Self::Mp3 => "MP3",
            Self::PcmA => "PCMA",
            Self::PcmU => "PCMU",
            Self::Speex => "speex",
            Self::OtherVideo | Self::OtherAudio => "unknown",
        }
    }

    pub fn is_video(self) -> bool {
        match self {
            Self::H264 | Self::H265 | Self::Av1 | Self::Vp8 | Self::Vp9 | Self::OtherVideo => true,
            Self::Aac
            | Self::Opus
            | Self::Flac
            | Self::Ac3
            | Self::Eac3
            | Self::Mp3
            | Self::PcmA
            | Self::PcmU
            | Self::Speex
            | Self::OtherAudio => false,
        }
    }

    /// ZLMediaKit's `codec_type`: 0 video, 1 audio.
    pub fn type_number(self) -> i32 {
        i32::from(!self.is_video())
    }
}

/// What a video configuration record tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoParameters {
    /// Of the picture as shown: cropping is taken off.
    pub width: u32,
    pub height: u32,
    /// Frames per second, where the record states a constant rate.
    pub fps: Option<f64>,
}

/// What an audio configuration record, or the FLV audio header, tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioParameters {
    pub sample_rate: u32,
    pub channels: u8,
    pub sample_bits: u8,
}

/// How long an AAC frame lasts: `samples` at `sample_rate` in Hz.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AacFrameTime {
    pub sample_rate: u32,
    pub samples: u32,
}

impl AacFrameTime {
    /// Reads an AudioSpecificConfig.
    pub fn from_config(record: &[u8]) -> Option<Self> {
        audio::parse_aac_frame_time(record)
    }

    /// In ticks of a clock.
    pub fn ticks(self, clock_rate: u32) -> u32 {
        let ticks = u64::from(self.samples) * u64::from(clock_rate) / u64::from(self.sample_rate);
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

/// How long an Opus packet that begins with `head` lasts, in samples of 48 kHz. Two bytes tell it;
/// `None` for what is no Opus packet.
pub fn opus_samples(head: &[u8]) -> Option<u32> {
    audio::opus_samples(head)
}

/// Passes an AudioSpecificConfig within other bits (LATM); `None` for what can't be passed.
pub(crate) fn pass_audio_specific_config(reader: &mut bits::BitReader<'_>) -> Option<()> {
    audio::pass_audio_specific_config(reader)
}

impl VideoParameters {
    /// Reads the codec's configuration record: avcC, hvcC or av1C. `None` for other codecs.
    pub fn from_config(codec: Codec, record: &[u8]) -> Option<Self> {
        match codec {
            Codec::H264 => h264::parse_record(record),
            Codec::H265 => h265::parse_record(record),
            Codec::Av1 => av1::parse_record(record),
            _ => None,
        }
    }
}

impl AudioParameters {
    /// Reads the codec's configuration record: AudioSpecificConfig, OpusHead or FLAC's STREAMINFO.
    /// `None` for other codecs and for sound without a channel or a rate.
    pub fn from_config(codec: Codec, record: &[u8]) -> Option<Self> {
        let parameters = match codec {
            Codec::Aac => audio::parse_audio_specific_config(record),
            Codec::Opus => audio::parse_opus_head(record),
            Codec::Flac => audio::parse_flac(record),
            _ => None,
        };
        parameters.filter(|sound| sound.channels > 0 && sound.sample_rate > 0)
    }

    /// Reads the first byte of an FLV audio payload. `None` for AAC and FourCC codecs, whose
    /// header bits mean nothing.
    pub fn from_flv_header(header: u8) -> Option<Self> {
        audio::parse_flv_header(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_the_api() {
        assert_eq!((Codec::Aac.id(), Codec::Aac.name()), (2, "mpeg4-generic"));
        assert_eq!((Codec::Mp3.id(), Codec::Mp3.name()), (14, "MP3"));
        assert_eq!((Codec::H265.id(), Codec::H265.type_number()), (1, 0));
        assert_eq!((Codec::Flac.id(), Codec::Flac.type_number()), (-1, 1));
    }

    /// Made by ffmpeg 5.1 with libx264, libx265, libaom-av1, and its own AAC and FLAC.
    fn video_table() -> Vec<(&'static str, Codec, &'static str, VideoParameters)> {
        let shown = |width, height, fps| VideoParameters { width, height, fps };
        vec![
            (
                "high profile, cropped, 25 fps",
                Codec::H264,
                "0164000cffe1001a6764000cacd941419f9f0110000003001000000303 20f142996001000668ebe3\
                 cb22c0fdf8f800",
                shown(320, 180, Some(25.0)),
            ),
            (
                "baseline, 1080 lines, 29.97 fps",
                Codec::H264,
                "0142c028ffe100176742c028da01e0089f970110 00003e90000ea600f1832a01000468ce0fc8",
                shown(1920, 1080, Some(30_000.0 / 1001.0)),
            ),
            (
                "4:2:2, interlaced",
                Codec::H264,
                "017a0015ffe10019677a0015bcd941433f3e0220000003002000000643e28532c001000668fba3cb\
                 22c0fef8f800",
                shown(320, 180, Some(25.0)),
            ),
            (
                "main profile, cropped",
                Codec::H265,
                "01016000000090000000 00003cf000fcfdf8f800000f0420000100184001 0c01ffff016000000300\
                 9000000300000300 3c959809210001002a420101016000000300900000030000 03003ca00a480b9c\
                 9596566924caf01680800000030080 00000c842200010007 4401c172b46240",
                shown(322, 182, None),
            ),
            ("main profile", Codec::Av1, "81000c000a0b00000004 3cfeccdaf90040", {
                shown(320, 180, None)
            }),
        ]
    }

    fn audio_table() -> Vec<(&'static str, Codec, &'static str, AudioParameters)> {
        let heard =
            |sample_rate, channels| AudioParameters { sample_rate, channels, sample_bits: 16 };
        vec![
            ("AAC-LC with extension", Codec::Aac, "121056e500", heard(44_100, 2)),
            ("AAC-LC mono", Codec::Aac, "1188", heard(48_000, 1)),
            ("explicit frequency", Codec::Aac, "1780 5dc0 10", heard(48_000, 2)),
            ("HE-AAC, 22.05 to 44.1 kHz", Codec::Aac, "2b920800", heard(44_100, 2)),
            ("HE-AAC v2 from mono", Codec::Aac, "eb8a0800", heard(44_100, 2)),
            ("7.1", Codec::Aac, "11b8", heard(48_000, 8)),
            ("program config of 2.1", Codec::Aac, "1180 04c4 0100 2000", heard(48_000, 3)),
            ("Opus", Codec::Opus, "4f707573486561640102380180bb0000000000", heard(48_000, 2)),
            (
                "FLAC",
                Codec::Flac,
                "664c6143000000221200120000047e0004da0ac440f00000227464b80e4dc9c9bd5ca308a6942a1c\
                 06ec",
                heard(44_100, 1),
            ),
            (
                "FLAC without its marker",
                Codec::Flac,
                "1200120000047e0004da0ac440f00000227464b80e4dc9c9bd5ca308a6942a1c06ec",
                heard(44_100, 1),
            ),
        ]
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    #[test]
    fn video_records_tell_size_and_rate() {
        for (name, codec, hex, parameters) in video_table() {
            let record = bytes(hex);
            assert_eq!(VideoParameters::from_config(codec, &record), Some(parameters), "{name}");
        }
    }

    #[test]
    fn audio_records_tell_rate_and_channels() {
        for (name, codec, hex, parameters) in audio_table() {
            let record = bytes(hex);
            assert_eq!(AudioParameters::from_config(codec, &record), Some(parameters), "{name}");
        }
    }

    #[test]
    fn sound_without_channels_or_rate_is_none() {
        let heads: [(_, &[u8]); 2] = [
            (Codec::Opus, b"OpusHead\x01\0\0\0\x80\xbb\0\0\0\0\0"),
            (Codec::Aac, &[0x17, 0x80, 0, 0, 0x10]),
        ];
        for (codec, record) in heads {
            assert_eq!(AudioParameters::from_config(codec, record), None, "{codec:?}");
        }
    }

    #[test]
    fn aac_frame_lasts_as_long_as_its_core_says() {
        for (hex, clock_rate, ticks) in [
            ("1190", 48_000, Some(1024)),
            ("1190", 90_000, Some(1920)),
            ("1194", 48_000, Some(960)),
            // HE-AAC: 2,048 samples of twice the rate.
            ("2b920800", 44_100, Some(2048)),
            ("eb8a0800", 44_100, Some(2048)),
            ("11", 48_000, None),
        ] {
            let time = AacFrameTime::from_config(&bytes(hex));
            assert_eq!(time.map(|time| time.ticks(clock_rate)), ticks, "{hex}");
        }
    }

    #[test]
    fn opus_packet_lasts_as_long_as_its_head_says() {
        for (head, samples) in [
            // SILK of 60 ms, hybrid of 10 and 20 ms, CELT of 2.5 and 20 ms.
            (&[3 << 3][..], Some(2880)),
            (&[12 << 3], Some(480)),
            (&[13 << 3], Some(960)),
            (&[16 << 3], Some(120)),
            (&[31 << 3], Some(960)),
            // Two frames, and a number of them.
            (&[31 << 3 | 1], Some(1920)),
            (&[31 << 3 | 3, 0x83], Some(2880)),
            (&[31 << 3 | 3, 7], None),
            (&[31 << 3 | 3, 0], None),
            (&[3], None),
            (&[], None),
        ] {
            assert_eq!(opus_samples(head), samples, "{head:?}");
        }
    }

    #[test]
    fn damaged_records_do_no_harm() {
        // Each cut must be read without a panic; the shortest ones tell nothing.
        for (name, codec, hex, _) in video_table() {
            let record = bytes(hex);
            for len in 0..record.len() {
                let cut = VideoParameters::from_config(codec, &record[..len]);
                assert!(len > 8 || cut.is_none(), "{name} {len}");
            }
            for at in 0..record.len() * 8 {
                let mut flipped = record.clone();
                flipped[at / 8] ^= 1 << (at % 8);
                let parameters = VideoParameters::from_config(codec, &flipped);
                assert!(parameters.is_none_or(|found| found.width > 0 || found.height > 0));
            }
        }
        for (name, codec, hex, _) in audio_table() {
            assert_eq!(AudioParameters::from_config(codec, &[]), None, "{name}");
            let record = bytes(hex);
            let cut = AudioParameters::from_config(codec, &record[..1]);
            assert_eq!(cut, None, "{name}");
        }
    }

    #[test]
    fn flv_header_tells_what_the_codec_leaves_open() {
        let heard = |sample_rate, channels, sample_bits| {
            Some(AudioParameters { sample_rate, channels, sample_bits })
        };
        assert_eq!(AudioParameters::from_flv_header(0x2f), heard(44_100, 2, 16));
        assert_eq!(AudioParameters::from_flv_header(0x72), heard(8000, 1, 16));
        assert_eq!(AudioParameters::from_flv_header(0xb6), heard(16_000, 1, 16));
        assert_eq!(AudioParameters::from_flv_header(0xaf), None);
        assert_eq!(AudioParameters::from_flv_header(0x90), None);
    }

    #[test]
    fn codecs_without_a_record_have_no_parameters() {
        assert_eq!(VideoParameters::from_config(Codec::Vp9, &[1; 64]), None);
        assert_eq!(AudioParameters::from_config(Codec::Mp3, &[1; 64]), None);
    }
}
