//! Picture size and rate from an AV1CodecConfigurationRecord (AV1 in ISOBMFF, 2.3; the sequence
//! header is AV1 bitstream, 5.5).

use super::VideoParameters;
use super::bits::BitReader;

pub(super) fn parse_record(record: &[u8]) -> Option<VideoParameters> {
    let mut rest = record.get(4..)?;
    loop {
        let (&header, after) = rest.split_first()?;
        let after = if header & 0x04 == 0 { after } else { after.get(1..)? };
        let (payload, next) = if header & 0x02 == 0 {
            (after, &[][..])
        } else {
            let (len, after) = leb128(after)?;
            after.split_at_checked(len)?
        };
        if header >> 3 & 0x0f == OBU_SEQUENCE_HEADER {
            return parse_sequence_header(payload);
        }
        rest = next;
    }
}

fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for index in 0..4 {
        let byte = *bytes.get(index)?;
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

fn parse_sequence_header(payload: &[u8]) -> Option<VideoParameters> {
    let mut reader = BitReader::new(payload);
    reader.skip(4)?;
    let mut fps = None;
    if reader.bit()? {
        reader.skip(5)?;
    } else {
        fps = pass_timing_and_operating_points(&mut reader)?;
    }
    let width_bits = reader.bits(4)? + 1;
    let height_bits = reader.bits(4)? + 1;
    let width = reader.bits(width_bits)? + 1;
    let height = reader.bits(height_bits)? + 1;
    Some(VideoParameters { width, height, fps })
}

/// Passes the fields between the reduced header flag and the picture size; the rate, if constant.
fn pass_timing_and_operating_points(reader: &mut BitReader<'_>) -> Option<Option<f64>> {
    let mut fps = None;
    let mut delay_bits = None;
    if reader.bit()? {
        let tick_units = reader.bits(32)?;
        let time_scale = reader.bits(32)?;
        if reader.bit()? {
            let ticks = f64::from(reader.unsigned()?) + 1.0;
            fps = (tick_units != 0 && time_scale != 0)
                .then(|| f64::from(time_scale) / (f64::from(tick_units) * ticks));
        }
        if reader.bit()? {
            delay_bits = Some(reader.bits(5)? as usize + 1);
            reader.skip(32 + 5 + 5)?;
        }
    }
    let has_initial_delay = reader.bit()?;
    let point_count = reader.bits(5)? + 1;
    for _ in 0..point_count {
        reader.skip(12)?;
        if reader.bits(5)? > LEVEL_WITHOUT_TIER_MAX {
            reader.bit()?;
        }
        if let Some(delay_bits) = delay_bits
            && reader.bit()?
        {
            reader.skip(2 * delay_bits + 1)?;
        }
        if has_initial_delay && reader.bit()? {
            reader.skip(4)?;
        }
    }
    Some(fps)
}

const OBU_SEQUENCE_HEADER: u8 = 1;

/// `seq_level_idx` above this is followed by a tier bit.
const LEVEL_WITHOUT_TIER_MAX: u32 = 7;
