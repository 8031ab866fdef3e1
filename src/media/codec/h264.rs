//! Picture size and rate from an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1; the
//! sequence parameter set is ITU-T H.264, 7.3.2.1.1 and E.1.1).

use super::VideoParameters;
use super::bits::{BitReader, unescape};

pub(super) fn parse_record(record: &[u8]) -> Option<VideoParameters> {
    let (head, rest) = record.split_first_chunk::<6>()?;
    if head[5] & 0x1f == 0 {
        return None;
    }
    let (len, rest) = rest.split_first_chunk()?;
    let nal = rest.get(..usize::from(u16::from_be_bytes(*len)))?;
    parse_sps(&unescape(nal.get(1..)?))
}

fn parse_sps(payload: &[u8]) -> Option<VideoParameters> {
    let mut reader = BitReader::new(payload);
    let profile = reader.bits(8)?;
    reader.skip(16)?;
    reader.unsigned()?;
    let chroma = if PROFILES_WITH_CHROMA.contains(&profile) {
        chroma_format(&mut reader)?
    } else {
        Chroma::Subsampled420
    };
    reader.unsigned()?;
    skip_picture_order(&mut reader)?;
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
        let (unit_x, unit_y) = match chroma {
            Chroma::Subsampled420 => (2, 2 * fields),
            Chroma::Subsampled422 => (2, fields),
            Chroma::Full => (1, fields),
        };
        let left = reader.unsigned()?;
        let right = reader.unsigned()?;
        let top = reader.unsigned()?;
        let bottom = reader.unsigned()?;
        width = width.checked_sub(left.checked_add(right)?.checked_mul(unit_x)?)?;
        height = height.checked_sub(top.checked_add(bottom)?.checked_mul(unit_y)?)?;
    }
    Some(VideoParameters { width, height, fps: frame_rate(&mut reader) })
}

/// How far a chroma sample reaches, which is the unit of cropping.
#[derive(Debug, Clone, Copy)]
enum Chroma {
    Subsampled420,
    Subsampled422,
    /// 4:4:4, monochrome, or three separate planes.
    Full,
}

fn chroma_format(reader: &mut BitReader<'_>) -> Option<Chroma> {
    let format = reader.unsigned()?;
    if format == 3 {
        reader.bit()?;
    }
    reader.unsigned()?;
    reader.unsigned()?;
    reader.bit()?;
    if reader.bit()? {
        let list_count = if format == 3 { 12 } else { 8 };
        for index in 0..list_count {
            if reader.bit()? {
                skip_scaling_list(reader, if index < 6 { 16 } else { 64 })?;
            }
        }
    }
    Some(match format {
        1 => Chroma::Subsampled420,
        2 => Chroma::Subsampled422,
        _ => Chroma::Full,
    })
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

fn skip_picture_order(reader: &mut BitReader<'_>) -> Option<()> {
    match reader.unsigned()? {
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
    Some(())
}

fn frame_rate(reader: &mut BitReader<'_>) -> Option<f64> {
    if !reader.bit()? {
        return None;
    }
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
    if !reader.bit()? {
        return None;
    }
    let tick_units = reader.bits(32)?;
    let time_scale = reader.bits(32)?;
    // A tick is a field.
    (tick_units != 0 && time_scale != 0)
        .then(|| f64::from(time_scale) / (2.0 * f64::from(tick_units)))
}

/// `profile_idc` values whose parameter sets have the chroma fields.
const PROFILES_WITH_CHROMA: [u32; 13] =
    [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

const ASPECT_RATIO_EXTENDED: u32 = 255;
