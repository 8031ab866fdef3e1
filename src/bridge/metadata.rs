//! `onMetaData` (FLV 10.1, E.5): what FLV says of its tracks beforehand.

use crate::limits::SCRIPT_LEN_MAX;
use crate::media::codec::{AudioParameters, VideoParameters};
use crate::media::{Codec, Payload};
use crate::proto::amf0::{Decoder, Value};

/// What we tell of a stream.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    pub(super) video: Option<(Codec, Option<VideoParameters>)>,
    pub(super) audio: Option<(Codec, Option<AudioParameters>)>,
}

/// The kinds of media that a script tag says there will be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) video: bool,
    pub(super) audio: bool,
}

impl Metadata {
    /// The script tag's payload.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut properties = Vec::new();
        let mut tell = |name: &str, value| properties.push((name.to_owned(), value));
        if let Some((codec, parameters)) = self.video {
            tell("videocodecid", Value::Number(number_of(codec)));
            if let Some(VideoParameters { width, height, fps }) = parameters {
                tell("width", Value::Number(width.into()));
                tell("height", Value::Number(height.into()));
                if let Some(fps) = fps {
                    tell("framerate", Value::Number(fps));
                }
            }
        }
        if let Some((codec, parameters)) = self.audio {
            tell("audiocodecid", Value::Number(number_of(codec)));
            if let Some(AudioParameters { sample_rate, channels, sample_bits }) = parameters {
                tell("audiosamplerate", Value::Number(sample_rate.into()));
                tell("audiosamplesize", Value::Number(sample_bits.into()));
                tell("stereo", Value::Boolean(channels > 1));
            }
        }
        let mut payload = Vec::new();
        Value::string("onMetaData").encode(&mut payload);
        Value::EcmaArray(properties).encode(&mut payload);
        payload
    }
}

impl Announced {
    /// Reads a script tag; `None` where it is another one than `onMetaData`, or damaged.
    pub(super) fn read(payload: &Payload) -> Option<Self> {
        if payload.len() > SCRIPT_LEN_MAX {
            return None;
        }
        let bytes = payload.to_vec();
        let mut decoder = Decoder::new(&bytes);
        let mut name = decoder.next_value().ok()??;
        if name.as_str() == Some("@setDataFrame") {
            name = decoder.next_value().ok()??;
        }
        if name.as_str() != Some("onMetaData") {
            return None;
        }
        let values = decoder.next_value().ok()??;
        let tells = |name| match values.property(name) {
            Some(Value::Number(number)) => *number != 0.0,
            Some(Value::String(text)) => !text.is_empty(),
            _ => false,
        };
        Some(Self { video: tells("videocodecid"), audio: tells("audiocodecid") })
    }
}

/// FLV's number of a codec (E.4.2.1, E.4.3.1), or its FourCC (Enhanced RTMP v2).
fn number_of(codec: Codec) -> f64 {
    f64::from(match codec {
        Codec::H264 => 7,
        Codec::H265 => u32::from_be_bytes(*b"hvc1"),
        Codec::Aac => 10,
        Codec::Opus => u32::from_be_bytes(*b"Opus"),
        Codec::PcmA => 7,
        Codec::PcmU => 8,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn read(values: &[Value]) -> Option<Announced> {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| value.encode(&mut bytes));
        Announced::read(&Bytes::from(bytes).into())
    }

    #[test]
    fn what_is_told_is_read() {
        let video = VideoParameters { width: 640, height: 360, fps: Some(25.0) };
        let metadata = Metadata { video: Some((Codec::H265, Some(video))), audio: None };
        let payload = metadata.encode();
        let mut decoder = Decoder::new(&payload);
        assert_eq!(decoder.next_value(), Ok(Some(Value::string("onMetaData"))));
        let values = decoder.next_value().unwrap().unwrap();
        assert_eq!(values.property("videocodecid"), Some(&Value::Number(1_752_589_105.0)));
        assert_eq!(values.property("height"), Some(&Value::Number(360.0)));
        let announced = Announced::read(&Bytes::from(payload).into());
        assert_eq!(announced, Some(Announced { video: true, audio: false }));

        let metadata = Metadata { video: None, audio: Some((Codec::PcmA, None)) };
        let announced = Announced::read(&Bytes::from(metadata.encode()).into());
        assert_eq!(announced, Some(Announced { video: false, audio: true }));
    }

    #[test]
    fn names_and_numbers_are_announcements_and_nothing_else_is() {
        let values = Value::object([
            ("videocodecid", Value::string("avc1")),
            ("audiocodecid", Value::Number(0.0)),
        ]);
        let name = Value::string("onMetaData");
        let announced = Some(Announced { video: true, audio: false });
        assert_eq!(read(&[name.clone(), values.clone()]), announced);
        let prefixed = [Value::string("@setDataFrame"), name.clone(), values.clone()];
        assert_eq!(read(&prefixed), announced);
        assert_eq!(read(&[Value::string("onCuePoint"), values]), None);
        assert_eq!(read(std::slice::from_ref(&name)), None);
        assert_eq!(read(&[name, Value::Null]), Some(Announced::default()));
    }
}
