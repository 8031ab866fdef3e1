//! Sample rate and channels from AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1), OpusHead
//! (RFC 7845, 5.1), FLAC STREAMINFO (RFC 9639, 8.2) and the FLV audio header (FLV 10.1, E.4.2.1).

use super::bits::BitReader;
use super::{AacFrameTime, AudioParameters};

pub(super) fn parse_audio_specific_config(record: &[u8]) -> Option<AudioParameters> {
    let mut reader = BitReader::new(record);
    let object_type = audio_object_type(&mut reader)?;
    let mut sample_rate = sampling_frequency(&mut reader)?;
    let channel_configuration = reader.bits(4)?;
    let mut core_type = object_type;
    if matches!(object_type, OBJECT_TYPE_SBR | OBJECT_TYPE_PS) {
        // With explicit signalling the rate before is the core's; players hear this one.
        sample_rate = sampling_frequency(&mut reader)?;
        core_type = audio_object_type(&mut reader)?;
    }
    let channels = match channel_configuration {
        0 => program_config_channels(&mut reader, core_type)?,
        // Parametric stereo makes two of the core's one.
        1 if object_type == OBJECT_TYPE_PS => 2,
        count @ 1..=6 => count as u8,
        7 | 12 | 14 => 8,
        11 => 7,
        13 => 24,
        _ => return None,
    };
    Some(AudioParameters { sample_rate, channels, sample_bits: 16 })
}

/// The time that an AAC frame lasts, by the core codec: spectral band replication changes the rate
/// and the samples alike.
pub(super) fn parse_aac_frame_time(record: &[u8]) -> Option<AacFrameTime> {
    let mut reader = BitReader::new(record);
    let object_type = audio_object_type(&mut reader)?;
    let sample_rate = sampling_frequency(&mut reader).filter(|rate| *rate > 0)?;
    reader.skip(4)?;
    if matches!(object_type, OBJECT_TYPE_SBR | OBJECT_TYPE_PS) {
        sampling_frequency(&mut reader)?;
        audio_object_type(&mut reader)?;
    }
    // `frameLengthFlag` of GASpecificConfig (4.4.1).
    let samples = if reader.bit()? { 960 } else { 1024 };
    Some(AacFrameTime { sample_rate, samples })
}

/// Passes an AudioSpecificConfig that nothing tells the length of; `None` for what can't be passed.
pub(super) fn pass_audio_specific_config(reader: &mut BitReader<'_>) -> Option<()> {
    let mut object_type = audio_object_type(reader)?;
    sampling_frequency(reader)?;
    let channel_configuration = reader.bits(4)?;
    if matches!(object_type, OBJECT_TYPE_SBR | OBJECT_TYPE_PS) {
        sampling_frequency(reader)?;
        object_type = audio_object_type(reader)?;
    }
    // AAC without error resilience, whose channels are one of the usual ones.
    if !matches!(object_type, 1..=4) || channel_configuration == 0 {
        return None;
    }
    reader.bit()?;
    if reader.bit()? {
        reader.skip(14)?;
    }
    if reader.bit()? {
        return None;
    }
    pass_sync_extension(reader);
    Some(())
}

/// Passes the announcement of spectral band replication behind a configuration (1.6.5), if it is
/// there. In LATM it is not specified, and GStreamer writes it; what would stand there instead can't
/// begin with the same bits.
fn pass_sync_extension(reader: &mut BitReader<'_>) {
    let mut behind = reader.clone();
    let mut pass = || {
        let is_there = behind.bits(11)? == SYNC_EXTENSION && behind.bits(5)? == OBJECT_TYPE_SBR;
        if is_there && behind.bit()? {
            sampling_frequency(&mut behind)?;
        }
        is_there.then_some(())
    };
    if pass().is_some() {
        *reader = behind;
    }
}

fn audio_object_type(reader: &mut BitReader<'_>) -> Option<u32> {
    match reader.bits(5)? {
        31 => Some(32 + reader.bits(6)?),
        object_type => Some(object_type),
    }
}

fn sampling_frequency(reader: &mut BitReader<'_>) -> Option<u32> {
    match reader.bits(4)? {
        15 => reader.bits(24),
        index => SAMPLING_FREQUENCIES.get(index as usize).copied(),
    }
}

/// Channels of the program config element in a GASpecificConfig (4.4.1).
fn program_config_channels(reader: &mut BitReader<'_>, core_type: u32) -> Option<u8> {
    if !matches!(core_type, 1..=4 | 6 | 7 | 17 | 19..=23) {
        return None;
    }
    reader.bit()?;
    if reader.bit()? {
        reader.skip(14)?;
    }
    reader.bit()?;
    reader.skip(4 + 2 + 4)?;
    let front_count = reader.bits(4)?;
    let side_count = reader.bits(4)?;
    let back_count = reader.bits(4)?;
    let lfe_count = reader.bits(2)?;
    reader.skip(3 + 4)?;
    for matrix_bits in [4, 4, 3] {
        if reader.bit()? {
            reader.skip(matrix_bits)?;
        }
    }
    let mut channels = lfe_count;
    for _ in 0..front_count + side_count + back_count {
        channels += if reader.bit()? { 2 } else { 1 };
        reader.skip(4)?;
    }
    u8::try_from(channels).ok().filter(|channels| *channels > 0)
}

pub(super) fn parse_opus_head(record: &[u8]) -> Option<AudioParameters> {
    let fields = record.strip_prefix(b"OpusHead")?;
    let channels = *fields.get(1)?;
    // The rate in the header is that of the source; Opus always decodes to 48 kHz.
    Some(AudioParameters { sample_rate: 48_000, channels, sample_bits: 16 })
}

/// The length of an Opus packet in samples of 48 kHz (RFC 6716, 3.1 and 3.2).
pub(super) fn opus_samples(head: &[u8]) -> Option<u32> {
    let first = *head.first()?;
    let config = usize::from(first >> 3);
    let frame_samples = match config {
        0..12 => [480, 960, 1920, 2880][config % 4],
        12..16 => [480, 960][config % 2],
        _ => [120, 240, 480, 960][config % 4],
    };
    let frame_count = match first & 0x03 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(head.get(1)? & 0x3f),
    };
    // A packet lasts 120 ms at most.
    Some(frame_samples * frame_count).filter(|samples| (1..=5760).contains(samples))
}

pub(super) fn parse_flac(record: &[u8]) -> Option<AudioParameters> {
    // The marker and the block's header may be missing.
    let stream_info = match record.strip_prefix(b"fLaC") {
        Some(blocks) => blocks.get(4..)?,
        None => record,
    };
    let mut reader = BitReader::new(stream_info);
    reader.skip(16 + 16 + 24 + 24)?;
    let sample_rate = reader.bits(20)?;
    let channels = reader.bits(3)? as u8 + 1;
    let sample_bits = reader.bits(5)? as u8 + 1;
    (sample_rate > 0).then_some(AudioParameters { sample_rate, channels, sample_bits })
}

pub(super) fn parse_flv_header(header: u8) -> Option<AudioParameters> {
    let stated_rate = [5512, 11_025, 22_050, 44_100][usize::from(header >> 2 & 0x03)];
    let stated_channels = 1 + (header & 1);
    let (sample_rate, channels) = match header >> 4 {
        9 | 10 => return None,
        4 => (16_000, 1),
        5 => (8000, 1),
        7 | 8 => (8000, stated_channels),
        11 => (16_000, 1),
        13 => (48_000, stated_channels),
        14 => (8000, stated_channels),
        _ => (stated_rate, stated_channels),
    };
    let sample_bits = if header & 0x02 == 0 { 8 } else { 16 };
    Some(AudioParameters { sample_rate, channels, sample_bits })
}

const OBJECT_TYPE_SBR: u32 = 5;
const SYNC_EXTENSION: u32 = 0x2b7;
const OBJECT_TYPE_PS: u32 = 29;

const SAMPLING_FREQUENCIES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000,
    7350,
];
