//! Picture size, rate and reordering from H.264 sequence parameter sets (ITU-T H.264, 7.3.2.1.1 and
//! E.1.1), and the AVCDecoderConfigurationRecord around them (ISO/IEC 14496-15, 5.3.3.1).

use bytes::Bytes;

use super::VideoParameters;
use super::bits::{BitReader, unescape};

/// What a sequence parameter set tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SequenceParameters {
    pub(super) id: u32,
    pub(super) video: VideoParameters,
    chroma_format: u32,
    bit_depth_luma: u32,
    bit_depth_chroma: u32,
    /// Pictures that may come between a picture and one that is shown before it, if told.
    pub(super) reorder_depth: Option<u32>,
}

/// The parameter sets of a record: SPS, then PPS.
pub(super) fn record_nals(record: &[u8]) -> Option<Vec<&[u8]>> {
    let (head, mut rest) = record.split_first_chunk::<6>()?;
    let mut nals = Vec::new();
    for _ in 0..head[5] & 0x1f {
        nals.push(take_nal(&mut rest)?);
    }
    let (&pps_count, rest_nals) = rest.split_first()?;
    rest = rest_nals;
    for _ in 0..pps_count {
        nals.push(take_nal(&mut rest)?);
    }
    Some(nals)
}

/// The NAL unit behind its 16-bit length.
pub(super) fn take_nal<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, behind) = rest.split_first_chunk()?;
    let (nal, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    *rest = behind;
    Some(nal)
}

/// A record of these sets, whose NAL units have lengths of four bytes.
pub(super) fn encode_record(sps: &[Bytes], pps: &[Bytes]) -> Option<Vec<u8>> {
    let first = sps.first()?;
    let parameters = parse_sps(first)?;
    let profile = *first.get(1..4)?.first_chunk::<3>()?;
    let sps_count = u8::try_from(sps.len()).ok().filter(|count| *count <= 31)?;
    let mut record = vec![1, profile[0], profile[1], profile[2], 0xff, 0xe0 | sps_count];
    push_nals(&mut record, sps)?;
    record.push(u8::try_from(pps.len()).ok()?);
    push_nals(&mut record, pps)?;
    if PROFILES_WITH_CHROMA.contains(&u32::from(profile[0])) {
        record.push(0xfc | parameters.chroma_format as u8);
        record.push(0xf8 | parameters.bit_depth_luma as u8);
        record.push(0xf8 | parameters.bit_depth_chroma as u8);
        record.push(0);
    }
    Some(record)
}

/// Each behind its 16-bit length.
pub(super) fn push_nals(record: &mut Vec<u8>, nals: &[Bytes]) -> Option<()> {
    for nal in nals {
        record.extend_from_slice(&u16::try_from(nal.len()).ok()?.to_be_bytes());
        record.extend_from_slice(nal);
    }
    Some(())
}

pub(super) fn parse_record(record: &[u8]) -> Option<VideoParameters> {
    let (head, mut rest) = record.split_first_chunk::<6>()?;
    if head[5] & 0x1f == 0 {
        return None;
    }
    Some(parse_sps(take_nal(&mut rest)?)?.video)
}

/// The id of a picture parameter set.
pub(super) fn pps_id(nal: &[u8]) -> Option<u32> {
    BitReader::new(&unescape(nal.get(1..)?)).unsigned()
}

/// Reads a whole NAL unit of type 7.
pub(super) fn parse_sps(nal: &[u8]) -> Option<SequenceParameters> {
    let payload = unescape(nal.get(1..)?);
    let mut reader = BitReader::new(&payload);
    let profile = reader.bits(8)?;
    let constraints = reader.bits(8)?;
    reader.skip(8)?;
    let id = reader.unsigned()?;
    let chroma = if PROFILES_WITH_CHROMA.contains(&profile) {
        chroma(&mut reader)?
    } else {
        Chroma { format: 1, bit_depth_luma: 0, bit_depth_chroma: 0 }
    };
    reader.unsigned()?;
    let order_type = skip_picture_order(&mut reader)?;
    reader.unsigned()?;
    reader.bit()?;
    let width_mbs = reader.unsigned()?.checked_add(1)?;
    let height_units = reader.unsigned()?.checked_add(1)?;
    let is_frame_only = reader.bit()?;
    if !is_frame_only {
        reader.bit()?;
    }
    reader.bit()?;
    let fields = if is_frame_only { 1 } else { 2 };
    let mut width = width_mbs.checked_mul(16)?;
    let mut height = height_units.checked_mul(16 * fields)?;
    if reader.bit()? {
        let (unit_x, unit_y) = match chroma.format {
            1 => (2, 2 * fields),
            2 => (2, fields),
            // 4:4:4, monochrome, or three separate planes.
            _ => (1, fields),
        };
        let left = reader.unsigned()?;
        let right = reader.unsigned()?;
        let top = reader.unsigned()?;
        let bottom = reader.unsigned()?;
        width = width.checked_sub(left.checked_add(right)?.checked_mul(unit_x)?)?;
        height = height.checked_sub(top.checked_add(bottom)?.checked_mul(unit_y)?)?;
    }
    let usability = usability(&mut reader).unwrap_or_default();
    let is_intra = constraints & CONSTRAINT_SET3 != 0 && PROFILES_INTRA.contains(&profile);
    let is_in_order = profile == PROFILE_BASELINE || order_type == 2 || is_intra;
    Some(SequenceParameters {
        id,
        video: VideoParameters { width, height, fps: usability.fps },
        chroma_format: chroma.format,
        bit_depth_luma: chroma.bit_depth_luma,
        bit_depth_chroma: chroma.bit_depth_chroma,
        reorder_depth: if is_in_order { Some(0) } else { usability.reorder_depth },
    })
}

/// Format 0 to 3; depths beyond 8 bits.
#[derive(Debug, Clone, Copy)]
struct Chroma {
    format: u32,
    bit_depth_luma: u32,
    bit_depth_chroma: u32,
}

fn chroma(reader: &mut BitReader<'_>) -> Option<Chroma> {
    let format = reader.unsigned().filter(|format| *format <= 3)?;
    if format == 3 {
        reader.bit()?;
    }
    let bit_depth_luma = reader.unsigned().filter(|depth| *depth <= 6)?;
    let bit_depth_chroma = reader.unsigned().filter(|depth| *depth <= 6)?;
    reader.bit()?;
    if reader.bit()? {
        let list_count = if format == 3 { 12 } else { 8 };
        for index in 0..list_count {
            if reader.bit()? {
                skip_scaling_list(reader, if index < 6 { 16 } else { 64 })?;
            }
        }
    }
    Some(Chroma { format, bit_depth_luma, bit_depth_chroma })
}

fn skip_scaling_list(reader: &mut BitReader<'_>, len: usize) -> Option<()> {
    let mut last: i32 = 8;
    for _ in 0..len {
        let next = last.wrapping_add(reader.signed()?).rem_euclid(256);
        if next == 0 {
            break;
        }
        last = next;
    }
    Some(())
}

/// Passes the picture order count's fields; its type.
fn skip_picture_order(reader: &mut BitReader<'_>) -> Option<u32> {
    let order_type = reader.unsigned()?;
    match order_type {
        0 => {
            reader.unsigned()?;
        }
        1 => {
            reader.bit()?;
            reader.signed()?;
            reader.signed()?;
            // At most 255; more is nonsense and would only burn time.
            let offset_count = reader.unsigned().filter(|count| *count <= 255)?;
            for _ in 0..offset_count {
                reader.signed()?;
            }
        }
        _ => {}
    }
    Some(order_type)
}

/// What video usability information tells (E.1.1).
#[derive(Debug, Clone, Copy, Default)]
struct Usability {
    fps: Option<f64>,
    reorder_depth: Option<u32>,
}

/// Reads as far as it goes: a set that is cut off behind the rate still tells the rate.
fn usability(reader: &mut BitReader<'_>) -> Option<Usability> {
    if !reader.bit()? {
        return None;
    }
    skip_colors(reader)?;
    let mut usability = Usability::default();
    if reader.bit()? {
        let tick_units = reader.bits(32)?;
        let time_scale = reader.bits(32)?;
        reader.bit()?;
        // A tick is a field.
        usability.fps = (tick_units != 0 && time_scale != 0)
            .then(|| f64::from(time_scale) / (2.0 * f64::from(tick_units)));
    }
    usability.reorder_depth = reorder_depth(reader);
    Some(usability)
}

fn skip_colors(reader: &mut BitReader<'_>) -> Option<()> {
    if reader.bit()? && reader.bits(8)? == ASPECT_RATIO_EXTENDED {
        reader.skip(32)?;
    }
    if reader.bit()? {
        reader.bit()?;
    }
    if reader.bit()? {
        reader.skip(4)?;
        if reader.bit()? {
            reader.skip(24)?;
        }
    }
    if reader.bit()? {
        reader.unsigned()?;
        reader.unsigned()?;
    }
    Some(())
}

/// `max_num_reorder_frames`, behind the buffering parameters.
fn reorder_depth(reader: &mut BitReader<'_>) -> Option<u32> {
    let has_nal_buffering = reader.bit()?;
    if has_nal_buffering {
        skip_buffering(reader)?;
    }
    let has_vcl_buffering = reader.bit()?;
    if has_vcl_buffering {
        skip_buffering(reader)?;
    }
    if has_nal_buffering || has_vcl_buffering {
        reader.bit()?;
    }
    reader.bit()?;
    if !reader.bit()? {
        return None;
    }
    reader.bit()?;
    for _ in 0..4 {
        reader.unsigned()?;
    }
    reader.unsigned().filter(|depth| *depth <= REORDER_DEPTH_MAX)
}

/// `hrd_parameters` (E.1.2).
fn skip_buffering(reader: &mut BitReader<'_>) -> Option<()> {
    let count = reader.unsigned().filter(|count| *count < 32)? + 1;
    reader.skip(8)?;
    for _ in 0..count {
        reader.unsigned()?;
        reader.unsigned()?;
        reader.bit()?;
    }
    reader.skip(20)
}

/// `profile_idc` values whose parameter sets have the chroma fields.
const PROFILES_WITH_CHROMA: [u32; 13] =
    [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// Those of them that have intra profiles.
const PROFILES_INTRA: [u32; 6] = [44, 86, 100, 110, 122, 244];
const PROFILE_BASELINE: u32 = 66;
const CONSTRAINT_SET3: u32 = 0x10;

const ASPECT_RATIO_EXTENDED: u32 = 255;

/// `MaxDpbFrames` (A.3.1).
const REORDER_DEPTH_MAX: u32 = 16;
