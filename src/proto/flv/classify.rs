//! What a tag's payload carries, told from its first bytes (FLV 10.1, E.4.2 and E.4.3; Enhanced
//! RTMP v2, `ExVideoTagHeader` and `ExAudioTagHeader`).
//!
//! ```text
//! video   0 ffff cccc            c codec 7, 12..15: packet type (8), composition time (24)
//!         1 fff pppp             then ModEx*, FourCC or multitrack
//! audio   ssss rrbc              s = 10: AAC packet type (8)
//!         1001 pppp              then ModEx*, FourCC or multitrack
//! ```
//!
//! Codec numbers 12 to 15 are the ones Chinese CDNs gave to HEVC, AV1, VP8 and VP9 before Enhanced
//! RTMP; ZLMediaKit and SRS send them to players that do not announce FourCC support.

use crate::media::{Codec, TagKind};
use crate::proto::reader::{Incomplete, Reader};

/// Payload bytes that tell a tag's class in all forms seen in the field: a nanosecond offset
/// (5 bytes), a many-track head and a composition time.
pub const TAG_HEAD_LEN: usize = 24;

/// What a tag carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagClass {
    pub codec: Codec,
    /// A player can start at this tag. Only coded video is ever a keyframe.
    pub keyframe: bool,
    /// The tag is a codec's configuration (sequence header), not media.
    pub config: bool,
    pub end_of_sequence: bool,
    /// Presentation after decoding time; of the first track where there are several.
    pub composition_ms: i32,
    /// Bytes before the codec's own: its configuration record or coded frame.
    pub header_len: usize,
}

impl TagClass {
    fn new(codec: Codec) -> Self {
        Self {
            codec,
            keyframe: false,
            config: false,
            end_of_sequence: false,
            composition_ms: 0,
            header_len: 0,
        }
    }
}

/// The class of an audio or video payload that begins with `head`. `None` for scripts, and when
/// `head` is too short to tell. Only the first [`TAG_HEAD_LEN`] bytes are looked at, so that it
/// does not depend on how much of a payload has come.
pub fn classify(kind: TagKind, head: &[u8]) -> Option<TagClass> {
    let head = &head[..head.len().min(TAG_HEAD_LEN)];
    let mut reader = Reader::new(head);
    let class = match kind {
        TagKind::Video => video(&mut reader),
        TagKind::Audio => audio(&mut reader),
        TagKind::Script => return None,
    };
    let header_len = head.len() - reader.rest().len();
    class.ok().map(|class| TagClass { header_len, ..class })
}

fn video(reader: &mut Reader<'_>) -> Result<TagClass, Incomplete> {
    let first = reader.u8()?;
    let frame = first >> 4 & 0x07;
    if first & 0x80 != 0 {
        return enhanced_video(reader, frame, first & 0x0f);
    }
    let codec = match first & 0x0f {
        7 => Codec::H264,
        12 => Codec::H265,
        13 => Codec::Av1,
        14 => Codec::Vp8,
        15 => Codec::Vp9,
        _ => {
            let keyframe = frame == frame_type::KEY;
            return Ok(TagClass { keyframe, ..TagClass::new(Codec::OtherVideo) });
        }
    };
    if frame == frame_type::COMMAND {
        return Ok(TagClass::new(codec));
    }
    let packet_type = reader.u8()?;
    let composition_ms = composition(reader)?;
    Ok(match packet_type {
        0 => TagClass { config: true, ..TagClass::new(codec) },
        1 => {
            TagClass { keyframe: frame == frame_type::KEY, composition_ms, ..TagClass::new(codec) }
        }
        2 => TagClass { end_of_sequence: true, ..TagClass::new(codec) },
        _ => TagClass::new(codec),
    })
}

fn enhanced_video(
    reader: &mut Reader<'_>,
    frame: u8,
    packet_type: u8,
) -> Result<TagClass, Incomplete> {
    let packet_type = pass_extensions(reader, packet_type)?;
    if frame == frame_type::COMMAND && packet_type != packet_type::METADATA {
        reader.u8()?;
        return Ok(TagClass::new(Codec::OtherVideo));
    }
    let (packet_type, fourcc) = pass_tracks(reader, packet_type, packet_type::VIDEO_MULTITRACK)?;
    let class = TagClass::new(video_codec(fourcc));
    let keyframe = frame == frame_type::KEY;
    Ok(match packet_type {
        packet_type::SEQUENCE_START | packet_type::MPEG2TS_SEQUENCE_START => {
            TagClass { config: true, ..class }
        }
        packet_type::CODED_FRAMES => {
            let has_composition = matches!(class.codec, Codec::H264 | Codec::H265);
            let composition_ms =
                if has_composition || &fourcc == b"vvc1" { composition(reader)? } else { 0 };
            TagClass { keyframe, composition_ms, ..class }
        }
        packet_type::CODED_FRAMES_X => TagClass { keyframe, ..class },
        packet_type::SEQUENCE_END => TagClass { end_of_sequence: true, ..class },
        _ => class,
    })
}

fn audio(reader: &mut Reader<'_>) -> Result<TagClass, Incomplete> {
    let first = reader.u8()?;
    let codec = match first >> 4 {
        2 | 14 => Codec::Mp3,
        7 => Codec::PcmA,
        8 => Codec::PcmU,
        9 => return enhanced_audio(reader, first & 0x0f),
        10 => {
            let config = reader.u8()? == 0;
            return Ok(TagClass { config, ..TagClass::new(Codec::Aac) });
        }
        11 => Codec::Speex,
        13 => Codec::Opus,
        _ => Codec::OtherAudio,
    };
    Ok(TagClass::new(codec))
}

fn enhanced_audio(reader: &mut Reader<'_>, packet_type: u8) -> Result<TagClass, Incomplete> {
    let packet_type = pass_extensions(reader, packet_type)?;
    let (packet_type, fourcc) = pass_tracks(reader, packet_type, packet_type::AUDIO_MULTITRACK)?;
    let class = TagClass::new(audio_codec(fourcc));
    Ok(match packet_type {
        packet_type::SEQUENCE_START => TagClass { config: true, ..class },
        packet_type::SEQUENCE_END => TagClass { end_of_sequence: true, ..class },
        _ => class,
    })
}

/// Passes the `ModEx` blocks before the packet; the packet's type.
fn pass_extensions(reader: &mut Reader<'_>, mut packet_type: u8) -> Result<u8, Incomplete> {
    while packet_type == packet_type::MOD_EX {
        let mut len = usize::from(reader.u8()?) + 1;
        if len == 256 {
            len = usize::from(reader.u16()?) + 1;
        }
        reader.take(len)?;
        packet_type = reader.u8()? & 0x0f;
    }
    Ok(packet_type)
}

/// Passes what lies between the packet type and the (first) track's bytes; the type of the packet
/// within and its FourCC.
fn pass_tracks(
    reader: &mut Reader<'_>,
    packet_type: u8,
    multitrack: u8,
) -> Result<(u8, [u8; 4]), Incomplete> {
    if packet_type != multitrack {
        return Ok((packet_type, reader.u32()?.to_be_bytes()));
    }
    let types = reader.u8()?;
    let fourcc = reader.u32()?.to_be_bytes();
    let _track_id = reader.u8()?;
    if types >> 4 != ONE_TRACK {
        let _track_len = reader.u24()?;
    }
    Ok((types & 0x0f, fourcc))
}

fn composition(reader: &mut Reader<'_>) -> Result<i32, Incomplete> {
    Ok((reader.u24()? << 8).cast_signed() >> 8)
}

fn video_codec(fourcc: [u8; 4]) -> Codec {
    match &fourcc {
        b"avc1" => Codec::H264,
        b"hvc1" => Codec::H265,
        b"av01" => Codec::Av1,
        b"vp08" => Codec::Vp8,
        b"vp09" => Codec::Vp9,
        _ => Codec::OtherVideo,
    }
}

fn audio_codec(fourcc: [u8; 4]) -> Codec {
    match &fourcc {
        b"mp4a" => Codec::Aac,
        b"Opus" => Codec::Opus,
        b"fLaC" => Codec::Flac,
        b"ac-3" => Codec::Ac3,
        b"ec-3" => Codec::Eac3,
        b".mp3" => Codec::Mp3,
        _ => Codec::OtherAudio,
    }
}

const ONE_TRACK: u8 = 0;

mod frame_type {
    pub(super) const KEY: u8 = 1;
    pub(super) const COMMAND: u8 = 5;
}

mod packet_type {
    pub(super) const SEQUENCE_START: u8 = 0;
    pub(super) const CODED_FRAMES: u8 = 1;
    pub(super) const SEQUENCE_END: u8 = 2;
    pub(super) const CODED_FRAMES_X: u8 = 3;
    pub(super) const METADATA: u8 = 4;
    pub(super) const MPEG2TS_SEQUENCE_START: u8 = 5;
    pub(super) const AUDIO_MULTITRACK: u8 = 5;
    pub(super) const VIDEO_MULTITRACK: u8 = 6;
    pub(super) const MOD_EX: u8 = 7;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(codec: Codec, composition_ms: i32, header_len: usize) -> TagClass {
        TagClass { keyframe: true, composition_ms, header_len, ..TagClass::new(codec) }
    }

    fn config(codec: Codec, header_len: usize) -> TagClass {
        TagClass { config: true, header_len, ..TagClass::new(codec) }
    }

    fn plain(codec: Codec, header_len: usize) -> TagClass {
        TagClass { header_len, ..TagClass::new(codec) }
    }

    fn end(codec: Codec, header_len: usize) -> TagClass {
        TagClass { end_of_sequence: true, header_len, ..TagClass::new(codec) }
    }

    /// Each head ends where the codec's own bytes begin.
    fn table() -> Vec<(&'static str, TagKind, &'static [u8], TagClass)> {
        use TagKind::{Audio, Video};
        vec![
            ("AVC config", Video, b"\x17\0\0\0\0", config(Codec::H264, 5)),
            ("AVC keyframe", Video, b"\x17\x01\0\0\x50", key(Codec::H264, 80, 5)),
            ("AVC negative offset", Video, b"\x17\x01\xff\xff\xff", key(Codec::H264, -1, 5)),
            ("AVC inter frame", Video, b"\x27\x01\0\0\0", plain(Codec::H264, 5)),
            ("AVC end", Video, b"\x17\x02\0\0\0", end(Codec::H264, 5)),
            ("AVC command", Video, b"\x57", plain(Codec::H264, 1)),
            ("HEVC by number", Video, b"\x1c\x01\0\0\0", key(Codec::H265, 0, 5)),
            ("AV1 by number", Video, b"\x1d\0\0\0\0", config(Codec::Av1, 5)),
            ("Sorenson keyframe", Video, b"\x12", key(Codec::OtherVideo, 0, 1)),
            ("VP6 inter frame", Video, b"\x24", plain(Codec::OtherVideo, 1)),
            ("HEVC config", Video, b"\x90hvc1", config(Codec::H265, 5)),
            ("HEVC keyframe", Video, b"\x91hvc1\0\0\x28", key(Codec::H265, 40, 8)),
            ("HEVC without offset", Video, b"\x93hvc1", key(Codec::H265, 0, 5)),
            ("HEVC inter frame", Video, b"\xa3hvc1", plain(Codec::H265, 5)),
            ("HEVC end", Video, b"\x92hvc1", end(Codec::H265, 5)),
            ("AVC by FourCC", Video, b"\x91avc1\0\0\0", key(Codec::H264, 0, 8)),
            ("AV1 keyframe", Video, b"\x91av01", key(Codec::Av1, 0, 5)),
            ("AV1 in MPEG-2 TS", Video, b"\x95av01", config(Codec::Av1, 5)),
            ("VP9 config", Video, b"\x90vp09", config(Codec::Vp9, 5)),
            ("VP8 keyframe", Video, b"\x91vp08", key(Codec::Vp8, 0, 5)),
            ("HDR metadata", Video, b"\xd4hvc1", plain(Codec::H265, 5)),
            ("enhanced command", Video, b"\xd1\0", plain(Codec::OtherVideo, 2)),
            ("VVC", Video, b"\x91vvc1\0\0\x01", key(Codec::OtherVideo, 1, 8)),
            ("one track", Video, b"\x96\x01hvc1\x02\0\0\x07", key(Codec::H265, 7, 10)),
            ("many tracks", Video, b"\x96\x10av01\x01\0\0\x09", config(Codec::Av1, 10)),
            ("many codecs", Video, b"\x96\x23avc1\0\0\0\x09", key(Codec::H264, 0, 10)),
            ("nanoseconds", Video, b"\x97\x02\0\0\x01\x01hvc1\0\0\x02", key(Codec::H265, 2, 13)),
            ("AAC config", Audio, b"\xaf\0", config(Codec::Aac, 2)),
            ("AAC", Audio, b"\xaf\x01", plain(Codec::Aac, 2)),
            ("MP3", Audio, b"\x2f", plain(Codec::Mp3, 1)),
            ("MP3 at 8 kHz", Audio, b"\xe2", plain(Codec::Mp3, 1)),
            ("A-law", Audio, b"\x72", plain(Codec::PcmA, 1)),
            ("mu-law", Audio, b"\x82", plain(Codec::PcmU, 1)),
            ("Speex", Audio, b"\xb2", plain(Codec::Speex, 1)),
            ("Nellymoser", Audio, b"\x62", plain(Codec::OtherAudio, 1)),
            ("Opus config", Audio, b"\x90Opus", config(Codec::Opus, 5)),
            ("Opus", Audio, b"\x91Opus", plain(Codec::Opus, 5)),
            ("FLAC config", Audio, b"\x90fLaC", config(Codec::Flac, 5)),
            ("AC-3", Audio, b"\x91ac-3", plain(Codec::Ac3, 5)),
            ("E-AC-3", Audio, b"\x91ec-3", plain(Codec::Eac3, 5)),
            ("MP3 by FourCC", Audio, b"\x91.mp3", plain(Codec::Mp3, 5)),
            ("AAC by FourCC", Audio, b"\x90mp4a", config(Codec::Aac, 5)),
            ("channel layout", Audio, b"\x94Opus", plain(Codec::Opus, 5)),
            ("audio end", Audio, b"\x92mp4a", end(Codec::Aac, 5)),
            ("audio track", Audio, b"\x95\x00mp4a\x01", config(Codec::Aac, 7)),
            ("audio nanoseconds", Audio, b"\x97\x02\0\0\x64\x01mp4a", plain(Codec::Aac, 10)),
        ]
    }

    #[test]
    fn table_is_classified_whole_and_with_more_behind() {
        for (name, kind, head, class) in table() {
            assert_eq!(classify(kind, head), Some(class), "{name}");
            let longer = [head, b"payload"].concat();
            assert_eq!(classify(kind, &longer), Some(class), "{name}, longer");
        }
    }

    #[test]
    fn short_heads_are_not_guessed() {
        for (name, kind, head, _) in table() {
            for len in 0..head.len() {
                assert_eq!(classify(kind, &head[..len]), None, "{name} {len}");
            }
        }
        assert_eq!(classify(TagKind::Script, b"\x02\0\x01x"), None);
    }

    #[test]
    fn extensions_can_be_long() {
        let mut head = vec![0x97, 0xff, 0x00, 0x02, 1, 2, 3, 0x00];
        head.extend_from_slice(b"hvc1");
        assert_eq!(classify(TagKind::Video, &head), Some(config(Codec::H265, 12)));
    }

    #[test]
    fn a_class_is_told_by_the_head_alone() {
        let mut head = vec![0x97, TAG_HEAD_LEN as u8];
        head.resize(2 + TAG_HEAD_LEN + 1, 0);
        head.extend_from_slice(b"\0hvc1");
        assert_eq!(classify(TagKind::Video, &head[..TAG_HEAD_LEN]), None);
        assert_eq!(classify(TagKind::Video, &head), None);
    }
}
