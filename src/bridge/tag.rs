//! The payloads of FLV's audio and video tags: heads before frames and configuration records
//! (FLV 10.1, E.4.2 and E.4.3; Enhanced RTMP v2 for H.265 and Opus).

use bytes::Bytes;

use crate::media::{Codec, Payload, TagKind};
use crate::proto::flv::classify::{TAG_HEAD_LEN, classify};

/// A tag in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlvTag {
    pub kind: TagKind,
    /// Decoding time in milliseconds, modulo 2^32.
    pub timestamp_ms: u32,
    /// What follows the tag's header.
    pub payload: Payload,
}

/// What stands before a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameHead {
    pub(super) codec: Codec,
    pub(super) keyframe: bool,
    /// Presentation after decoding; of video only. 0 to [`COMPOSITION_MS_MAX`].
    pub(super) composition_ms: i32,
    /// Of G.711 only; of other codecs the configuration tells.
    pub(super) is_stereo: bool,
}

/// A tag's payload, taken apart.
#[derive(Debug)]
pub(super) struct CodedTag {
    pub(super) codec: Codec,
    pub(super) content: Content,
    pub(super) keyframe: bool,
    pub(super) composition_ms: i32,
    /// Of codecs that have no configuration.
    pub(super) is_stereo: bool,
    /// The configuration record or the frame.
    pub(super) body: Payload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Config,
    Frame,
}

/// Composition times have 24 bits with a sign.
pub(super) const COMPOSITION_MS_MAX: i64 = 0x7f_ffff;

impl FrameHead {
    /// The tag's payload; of a codec that [`is_carried`].
    pub(super) fn payload(self, frame: Payload) -> Payload {
        let [_, c2, c1, c0] = self.composition_ms.to_be_bytes();
        let frame_type = if self.keyframe { KEYFRAME } else { INTER_FRAME };
        let enhanced_type = ENHANCED_VIDEO | frame_type;
        let stereo = u8::from(self.is_stereo);
        let mut payload = Payload::new();
        let mut put = |head: &[u8]| payload.push_inline(head);
        match self.codec {
            Codec::H264 => put(&[frame_type | AVC, 1, c2, c1, c0]),
            Codec::H265 if self.composition_ms == 0 => {
                put(&[enhanced_type | CODED_FRAMES_X, b'h', b'v', b'c', b'1'])
            }
            Codec::H265 => put(&[enhanced_type | CODED_FRAMES, b'h', b'v', b'c', b'1', c2, c1, c0]),
            Codec::Aac => put(&[AAC, 1]),
            Codec::Opus => put(&[ENHANCED_AUDIO | CODED_FRAMES, b'O', b'p', b'u', b's']),
            Codec::PcmA => put(&[A_LAW | stereo]),
            _ => put(&[MU_LAW | stereo]),
        };
        payload.append(frame);
        payload
    }
}

/// The payload of a tag that tells a codec's configuration; `None` where the codec has none.
pub(super) fn config_payload(codec: Codec, record: Bytes) -> Option<Payload> {
    let head: &[u8] = match codec {
        Codec::H264 => &[KEYFRAME | AVC, 0, 0, 0, 0],
        Codec::H265 => &[ENHANCED_VIDEO | KEYFRAME | SEQUENCE_START, b'h', b'v', b'c', b'1'],
        Codec::Aac => &[AAC, 0],
        Codec::Opus => &[ENHANCED_AUDIO | SEQUENCE_START, b'O', b'p', b'u', b's'],
        _ => return None,
    };
    let mut payload = Payload::new();
    payload.push_inline(head);
    payload.push(record);
    Some(payload)
}

/// Whether FLV carries the codec and we packetize it.
pub(super) fn is_carried(codec: Codec) -> bool {
    use Codec::{Aac, H264, H265, Opus, PcmA, PcmU};
    matches!(codec, H264 | H265 | Aac | Opus | PcmA | PcmU)
}

impl CodedTag {
    /// Takes an audio or video payload apart. `None` for what is neither a frame nor a
    /// configuration: ends of sequences, color metadata, several tracks in one tag.
    pub(super) fn read(kind: TagKind, payload: &Payload) -> Option<Self> {
        let mut head = [0; TAG_HEAD_LEN];
        let head_len = copy_head(payload, &mut head);
        let class = classify(kind, &head[..head_len])?;
        let content = if class.config { Content::Config } else { Content::Frame };
        if class.end_of_sequence || !is_single(kind, &head, content) {
            return None;
        }
        let mut reader = payload.reader();
        reader.skip(class.header_len)?;
        Some(Self {
            codec: class.codec,
            content,
            keyframe: class.keyframe,
            composition_ms: class.composition_ms,
            is_stereo: head[0] & 1 != 0,
            body: reader.take(reader.left())?,
        })
    }
}

/// Copies the first bytes of the payload, as far as they go.
fn copy_head(payload: &Payload, head: &mut [u8; TAG_HEAD_LEN]) -> usize {
    let bytes = payload.slices().flatten().take(TAG_HEAD_LEN);
    head.iter_mut().zip(bytes).map(|(place, byte)| *place = *byte).count()
}

/// Whether what the class says of the tag is all that the tag holds, and it is that.
fn is_single(kind: TagKind, head: &[u8; TAG_HEAD_LEN], content: Content) -> bool {
    let is_enhanced = match kind {
        TagKind::Video => head[0] & ENHANCED_VIDEO != 0,
        _ => head[0] & 0xf0 == ENHANCED_AUDIO,
    };
    let has_packet_type = kind == TagKind::Video || head[0] & 0xf0 == AAC & 0xf0;
    match (head[0] & 0x0f, content) {
        _ if kind == TagKind::Video && head[0] >> 4 & 0x07 == COMMAND_FRAME => false,
        (packet_type, Content::Frame) if is_enhanced => {
            matches!(packet_type, CODED_FRAMES | CODED_FRAMES_X | MOD_EX)
        }
        (packet_type, Content::Config) if is_enhanced => {
            matches!(packet_type, SEQUENCE_START | MOD_EX)
        }
        (_, Content::Frame) => !has_packet_type || head[1] == 1,
        (_, Content::Config) => true,
    }
}

const KEYFRAME: u8 = 1 << 4;
const INTER_FRAME: u8 = 2 << 4;
const COMMAND_FRAME: u8 = 5;
const AVC: u8 = 7;
/// AAC; rate, size and channels stand for nothing and have these values (E.4.2.1).
const AAC: u8 = 0xaf;
/// 16 bits once decoded; of 8 kHz, which has no number of its own.
const A_LAW: u8 = 0x72;
const MU_LAW: u8 = 0x82;

const ENHANCED_VIDEO: u8 = 0x80;
const ENHANCED_AUDIO: u8 = 0x90;
const SEQUENCE_START: u8 = 0;
const CODED_FRAMES: u8 = 1;
const CODED_FRAMES_X: u8 = 3;
const MOD_EX: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Payload {
        Bytes::from_static(b"body").into()
    }

    #[test]
    fn frames_are_written_and_read() {
        for (codec, keyframe, composition_ms, bytes) in [
            (Codec::H264, true, 80, &b"\x17\x01\0\0\x50body"[..]),
            (Codec::H264, false, 0, b"\x27\x01\0\0\0body"),
            (Codec::H265, true, 0, b"\x93hvc1body"),
            (Codec::H265, false, 256, b"\xa1hvc1\0\x01\0body"),
            (Codec::Aac, false, 0, b"\xaf\x01body"),
            (Codec::Opus, false, 0, b"\x91Opusbody"),
            (Codec::PcmA, false, 0, b"\x73body"),
            (Codec::PcmU, false, 0, b"\x83body"),
        ] {
            let head = FrameHead { codec, keyframe, composition_ms, is_stereo: true };
            let payload = head.payload(body());
            assert_eq!(payload.to_vec(), bytes);
            let kind = if codec.is_video() { TagKind::Video } else { TagKind::Audio };
            let tag = CodedTag::read(kind, &payload).unwrap();
            assert_eq!((tag.codec, tag.content, tag.keyframe), (codec, Content::Frame, keyframe));
            assert_eq!((tag.composition_ms, tag.body), (composition_ms, body()));
        }
    }

    #[test]
    fn configurations_are_written_and_read() {
        for (codec, bytes) in [
            (Codec::H264, Some(&b"\x17\0\0\0\0body"[..])),
            (Codec::H265, Some(b"\x90hvc1body")),
            (Codec::Aac, Some(b"\xaf\0body")),
            (Codec::Opus, Some(b"\x90Opusbody")),
            (Codec::PcmA, None),
        ] {
            let payload = config_payload(codec, Bytes::from_static(b"body"));
            assert_eq!(payload.as_ref().map(Payload::to_vec).as_deref(), bytes);
            let Some(payload) = payload else { continue };
            let kind = if codec.is_video() { TagKind::Video } else { TagKind::Audio };
            let tag = CodedTag::read(kind, &payload).unwrap();
            assert_eq!((tag.codec, tag.content, tag.body), (codec, Content::Config, body()));
        }
    }

    #[test]
    fn what_is_no_frame_is_passed() {
        for (kind, bytes) in [
            (TagKind::Video, &b"\x17\x02\0\0\0"[..]),
            (TagKind::Video, b"\x57\0"),
            (TagKind::Video, b"\xd4hvc1\x02"),
            (TagKind::Video, b"\xa2hvc1"),
            (TagKind::Video, b"\x96\x21hvc1\0\0\0\x01a"),
            (TagKind::Video, b"\x96\x20hvc1\0\0\0\x01a"),
            (TagKind::Video, b"\x17\x01\0"),
            (TagKind::Audio, b"\x94Opus\0"),
            (TagKind::Audio, b"\xaf\x07a"),
            (TagKind::Audio, b""),
        ] {
            let payload = Bytes::from_static(bytes).into();
            assert!(CodedTag::read(kind, &payload).is_none(), "{bytes:x?}");
        }
    }
}
