//! Temporary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    H264,
    H265,
    Av1,
    Vp8,
    Vp9,
    Aac,
    Opus,
    Flac,
    Ac3,
    Eac3,
    Mp3,
    PcmA,
    PcmU,
    Speex,
    OtherVideo,
    OtherAudio,
}
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VideoParameters {
    pub width: u32,
    pub height: u32,
    pub fps: Option<f64>,
}
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AudioParameters {
    pub sample_rate: u32,
    pub channels: u32,
    pub sample_bits: u32,
}
pub fn video_parameters(_: Codec, _: &[u8]) -> Option<VideoParameters> {
    None
}
pub fn audio_parameters(_: Codec, _: &[u8]) -> Option<AudioParameters> {
    None
}
pub fn legacy_audio(_: u8) -> AudioParameters {
    AudioParameters::default()
}
