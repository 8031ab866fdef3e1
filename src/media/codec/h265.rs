//! Picture size and reordering from H.265 sequence parameter sets (ITU-T H.265, 7.3.2.2), and the
//! HEVCDecoderConfigurationRecord around them (ISO/IEC 14496-15, 8.3.3.1). The rate is the record's.

use bytes::Bytes;

use super::VideoParameters;
use super::bits::{BitReader, unescape};
use super::h264::{push_nals, take_nal};

/// What a sequence parameter set tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SequenceParameters {
    pub(super) id: u32,
    width: u32,
    height: u32,
    /// The bytes from `general_profile_space` to `general_level_idc`.
    general: [u8; 12],
    sub_layer_count: u8,
    is_temporal_nested: bool,
    chroma_format: u32,
    bit_depth_luma: u32,
    bit_depth_chroma: u32,
    /// Pictures that may come between a picture and one that is shown before it, if it was read.
    pub(super) reorder_depth: Option<u32>,
}

/// The NAL units of a record, in its order, as far as it goes.
pub(super) fn record_nals(record: &[u8]) -> Option<Vec<&[u8]>> {
    let (head, mut rest) = record.split_first_chunk::<23>()?;
    let mut nals = Vec::new();
    for _ in 0..head[22] {
        let Some((array, behind)) = rest.split_first_chunk::<3>() else { break };
        rest = behind;
        for _ in 0..u16::from_be_bytes([array[1], array[2]]) {
            let Some(nal) = take_nal(&mut rest) else { return Some(nals) };
            nals.push(nal);
        }
    }
    Some(nals)
}

/// A record of these sets, whose NAL units have lengths of four bytes.
pub(super) fn encode_record(vps: &[Bytes], sps: &[Bytes], pps: &[Bytes]) -> Option<Vec<u8>> {
    let parameters = parse_sps(sps.first()?)?;
    let mut record = vec![1];
    record.extend_from_slice(&parameters.general);
    // No minimum of spatial segmentation, parallelism of any type.
    record.extend_from_slice(&[0xf0, 0, 0xfc]);
    record.push(0xfc | parameters.chroma_format as u8);
    record.push(0xf8 | parameters.bit_depth_luma as u8);
    record.push(0xf8 | parameters.bit_depth_chroma as u8);
    // No average rate is told, nor a constant one.
    record.extend_from_slice(&[0, 0]);
    let nesting = if parameters.is_temporal_nested { 0x04 } else { 0 };
    record.push(parameters.sub_layer_count << 3 | nesting | 0x03);
    record.push(3);
    for (kind, nals) in [(NAL_TYPE_VPS, vps), (NAL_TYPE_SPS, sps), (NAL_TYPE_PPS, pps)] {
        // Complete: the frames hold no more of them.
        record.push(0x80 | kind);
        record.extend_from_slice(&u16::try_from(nals.len()).ok()?.to_be_bytes());
        push_nals(&mut record, nals)?;
    }
    Some(record)
}

pub(super) fn parse_record(record: &[u8]) -> Option<VideoParameters> {
    let frames_per_256_s = u16::from_be_bytes([*record.get(19)?, *record.get(20)?]);
    let fps = (frames_per_256_s != 0).then(|| f64::from(frames_per_256_s) / 256.0);
    let nals = record_nals(record)?;
    let sps = nals.into_iter().find(|nal| nal_type(nal) == Some(NAL_TYPE_SPS))?;
    let SequenceParameters { width, height, .. } = parse_sps(sps)?;
    Some(VideoParameters { width, height, fps })
}

pub(super) fn nal_type(nal: &[u8]) -> Option<u8> {
    Some(nal.first()? >> 1 & 0x3f)
}

/// The id of a video parameter set.
pub(super) fn vps_id(nal: &[u8]) -> Option<u32> {
    Some(u32::from(nal.get(2)? >> 4))
}

/// The id of a picture parameter set.
pub(super) fn pps_id(nal: &[u8]) -> Option<u32> {
    BitReader::new(&unescape(nal.get(2..)?)).unsigned()
}

/// Reads a whole NAL unit of type 33.
pub(super) fn parse_sps(nal: &[u8]) -> Option<SequenceParameters> {
    let payload = unescape(nal.get(2..)?);
    let mut reader = BitReader::new(&payload);
    reader.skip(4)?;
    let sub_layers_minus_1 = reader.bits(3)?;
    let is_temporal_nested = reader.bit()?;
    let general = *payload.get(1..)?.first_chunk()?;
    skip_profile_tier_level(&mut reader, sub_layers_minus_1)?;
    let id = reader.unsigned()?;
    let chroma_format = reader.unsigned().filter(|format| *format <= 3)?;
    if chroma_format == 3 {
        reader.bit()?;
    }
    let (width, height) = picture_size(&mut reader, chroma_format)?;
    let bit_depth_luma = reader.unsigned().filter(|depth| *depth <= 7)?;
    let bit_depth_chroma = reader.unsigned().filter(|depth| *depth <= 7)?;
    Some(SequenceParameters {
        id,
        width,
        height,
        general,
        sub_layer_count: sub_layers_minus_1 as u8 + 1,
        is_temporal_nested,
        chroma_format,
        bit_depth_luma,
        bit_depth_chroma,
        reorder_depth: reorder_depth(&mut reader, sub_layers_minus_1),
    })
}

/// `sps_max_num_reorder_pics` of the highest sub-layer.
fn reorder_depth(reader: &mut BitReader<'_>, sub_layers_minus_1: u32) -> Option<u32> {
    reader.unsigned()?;
    let has_all_layers = reader.bit()?;
    let mut depth = None;
    for _ in 0..=if has_all_layers { sub_layers_minus_1 } else { 0 } {
        reader.unsigned()?;
        depth = Some(reader.unsigned()?);
        reader.unsigned()?;
    }
    depth.filter(|depth| *depth <= REORDER_DEPTH_MAX)
}

fn picture_size(reader: &mut BitReader<'_>, chroma_format: u32) -> Option<(u32, u32)> {
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

const NAL_TYPE_VPS: u8 = 32;
const NAL_TYPE_SPS: u8 = 33;
const NAL_TYPE_PPS: u8 = 34;

/// `MaxDpbSize` (A.4.2).
const REORDER_DEPTH_MAX: u32 = 16;

const GENERAL_PROFILE_BITS: usize = 88;
const LEVEL_BITS: usize = 8;
