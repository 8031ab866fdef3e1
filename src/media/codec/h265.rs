//! Picture size from an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 8.3.3.1; the sequence
//! parameter set is ITU-T H.265, 7.3.2.2). The rate is the record's own.

use super::VideoParameters;
use super::bits::{BitReader, unescape};

pub(super) fn parse_record(record: &[u8]) -> Option<VideoParameters> {
    let (head, mut rest) = record.split_first_chunk::<23>()?;
    let frames_per_256_s = u16::from_be_bytes([head[19], head[20]]);
    let fps = (frames_per_256_s != 0).then(|| f64::from(frames_per_256_s) / 256.0);
    for _ in 0..head[22] {
        let (array, nals) = rest.split_first_chunk::<3>()?;
        rest = nals;
        for _ in 0..u16::from_be_bytes([array[1], array[2]]) {
            let (len, nals) = rest.split_first_chunk()?;
            let (nal, nals) = nals.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            rest = nals;
            if array[0] & 0x3f == NAL_TYPE_SPS {
                let (width, height) = parse_sps(&unescape(nal.get(2..)?))?;
                return Some(VideoParameters { width, height, fps });
            }
        }
    }
    None
}

fn parse_sps(payload: &[u8]) -> Option<(u32, u32)> {
    let mut reader = BitReader::new(payload);
    reader.skip(4)?;
    let sub_layers_minus_1 = reader.bits(3)?;
    reader.skip(1)?;
    skip_profile_tier_level(&mut reader, sub_layers_minus_1)?;
    reader.unsigned()?;
    let chroma_format = reader.unsigned()?;
    if chroma_format == 3 {
        reader.bit()?;
    }
    let width = reader.unsigned()?;
    let height = reader.unsigned()?;
    if !reader.bit()? {
        return Some((width, height));
    }
    let (unit_x, unit_y) = match chroma_format {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1),
    };
    let left = reader.unsigned()?;
    let right = reader.unsigned()?;
    let top = reader.unsigned()?;
    let bottom = reader.unsigned()?;
    Some((
        width.checked_sub(left.checked_add(right)?.checked_mul(unit_x)?)?,
        height.checked_sub(top.checked_add(bottom)?.checked_mul(unit_y)?)?,
    ))
}

fn skip_profile_tier_level(reader: &mut BitReader<'_>, sub_layers_minus_1: u32) -> Option<()> {
    reader.skip(GENERAL_PROFILE_BITS + LEVEL_BITS)?;
    if sub_layers_minus_1 == 0 {
        return Some(());
    }
    let mut sub_layers_len = 0;
    for _ in 0..sub_layers_minus_1 {
        if reader.bit()? {
            sub_layers_len += GENERAL_PROFILE_BITS;
        }
        if reader.bit()? {
            sub_layers_len += LEVEL_BITS;
        }
    }
    // The flags are padded to eight pairs.
    reader.skip(2 * (8 - sub_layers_minus_1 as usize) + sub_layers_len)
}

const NAL_TYPE_SPS: u8 = 33;
const GENERAL_PROFILE_BITS: usize = 88;
const LEVEL_BITS: usize = 8;
