//! The parameter sets of an H.264 or H.265 track: from NAL units or a configuration record, and
//! into one.

use bytes::Bytes;

use super::{Codec, h264, h265};
use crate::limits::{PARAMETER_SET_LEN_MAX, PARAMETER_SETS_MAX};

/// The sets in force, by kind in the order of first appearance. A set that comes again with the
/// same id takes the place of the old one. They are equal in any order: slices refer to them by ids.
#[derive(Debug, Clone)]
pub struct ParameterSets {
    codec: Codec,
    vps: Vec<Set>,
    sps: Vec<Set>,
    pps: Vec<Set>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    id: u32,
    nal: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Video,
    Sequence,
    Picture,
}

impl ParameterSets {
    /// None yet, of this codec: H.264 or H.265.
    pub fn new(codec: Codec) -> Self {
        debug_assert!(matches!(codec, Codec::H264 | Codec::H265), "others have none");
        Self { codec, vps: Vec::new(), sps: Vec::new(), pps: Vec::new() }
    }

    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The sets of a configuration record: avcC or hvcC, an hvcC as far as it goes. Without one
    /// that can be read it is `None`.
    pub fn from_record(codec: Codec, record: &[u8]) -> Option<Self> {
        let nals = match codec {
            Codec::H264 => h264::record_nals(record)?,
            Codec::H265 => h265::record_nals(record)?,
            _ => return None,
        };
        let mut sets = Self::new(codec);
        for nal in nals {
            sets.insert(nal);
        }
        let is_empty = sets.nals().next().is_none();
        (!is_empty).then_some(sets)
    }

    /// Bytes of the length before each NAL unit of the record's stream: 1, 2 or 4.
    pub fn length_size(codec: Codec, record: &[u8]) -> Option<usize> {
        let at = if codec == Codec::H264 { 4 } else { 21 };
        Some(usize::from(record.get(at)? & 0x03) + 1)
    }

    /// Whether a NAL unit is a parameter set.
    pub fn is_parameter_set(codec: Codec, nal: &[u8]) -> bool {
        kind_of(codec, nal).is_some()
    }

    /// Takes a NAL unit; whether the sets have changed by it. What is no parameter set, is damaged or
    /// is over a limit changes nothing.
    pub fn insert(&mut self, nal: &[u8]) -> bool {
        let Some(kind) = kind_of(self.codec, nal) else { return false };
        if self.of_kind(kind).iter().any(|set| set.nal == nal) || nal.len() > PARAMETER_SET_LEN_MAX
        {
            return false;
        }
        let Some(id) = self.id_of(kind, nal) else { return false };
        let sets = match kind {
            Kind::Video => &mut self.vps,
            Kind::Sequence => &mut self.sps,
            Kind::Picture => &mut self.pps,
        };
        let nal = Bytes::copy_from_slice(nal);
        if let Some(set) = sets.iter_mut().find(|set| set.id == id) {
            set.nal = nal;
            return true;
        }
        if sets.len() == PARAMETER_SETS_MAX {
            return false;
        }
        sets.push(Set { id, nal });
        true
    }

    /// The configuration record; `None` before there is one set of each kind.
    pub fn to_record(&self) -> Option<Bytes> {
        if !self.is_complete() {
            return None;
        }
        let [vps, sps, pps] = [&self.vps, &self.sps, &self.pps]
            .map(|sets| sets.iter().map(|set| set.nal.clone()).collect::<Vec<_>>());
        let record = match self.codec {
            Codec::H264 => h264::encode_record(&sps, &pps),
            _ => h265::encode_record(&vps, &sps, &pps),
        };
        record.map(Bytes::from)
    }

    /// All sets in the order in which a decoder needs them.
    pub fn nals(&self) -> impl Iterator<Item = &Bytes> {
        self.vps.iter().chain(&self.sps).chain(&self.pps).map(|set| &set.nal)
    }

    /// Bytes of all sets.
    pub fn nals_len(&self) -> usize {
        self.nals().map(Bytes::len).sum()
    }

    pub fn vps(&self) -> impl Iterator<Item = &Bytes> {
        self.vps.iter().map(|set| &set.nal)
    }

    pub fn sps(&self) -> impl Iterator<Item = &Bytes> {
        self.sps.iter().map(|set| &set.nal)
    }

    pub fn pps(&self) -> impl Iterator<Item = &Bytes> {
        self.pps.iter().map(|set| &set.nal)
    }

    /// How many pictures may come between a picture and one that is shown before it: 0 without
    /// B-frames. `None` where the sets do not tell.
    pub fn reorder_depth(&self) -> Option<usize> {
        let nal = &self.sps.first()?.nal;
        let depth = match self.codec {
            Codec::H264 => h264::parse_sps(nal)?.reorder_depth,
            _ => h265::parse_sps(nal)?.reorder_depth,
        };
        depth.map(|depth| depth as usize)
    }

    /// There is one set of each kind.
    pub fn is_complete(&self) -> bool {
        let has_vps = self.codec == Codec::H264 || !self.vps.is_empty();
        has_vps && !self.sps.is_empty() && !self.pps.is_empty()
    }

    fn of_kind(&self, kind: Kind) -> &[Set] {
        match kind {
            Kind::Video => &self.vps,
            Kind::Sequence => &self.sps,
            Kind::Picture => &self.pps,
        }
    }

    fn id_of(&self, kind: Kind, nal: &[u8]) -> Option<u32> {
        match (self.codec, kind) {
            (Codec::H264, Kind::Sequence) => Some(h264::parse_sps(nal)?.id),
            (Codec::H264, _) => h264::pps_id(nal),
            (_, Kind::Video) => h265::vps_id(nal),
            (_, Kind::Sequence) => Some(h265::parse_sps(nal)?.id),
            (_, Kind::Picture) => h265::pps_id(nal),
        }
    }
}

impl PartialEq for ParameterSets {
    fn eq(&self, other: &Self) -> bool {
        let Self { codec, vps, sps, pps } = self;
        let kinds = [(vps, &other.vps), (sps, &other.sps), (pps, &other.pps)];
        let is_same = |(own, other): (&Vec<Set>, &Vec<Set>)| {
            // No two have one id.
            own.len() == other.len() && own.iter().all(|set| other.contains(set))
        };
        *codec == other.codec && kinds.into_iter().all(is_same)
    }
}

impl Eq for ParameterSets {}

fn kind_of(codec: Codec, nal: &[u8]) -> Option<Kind> {
    match (codec, nal.first()?) {
        (Codec::H264, first) if first & 0x1f == 7 => Some(Kind::Sequence),
        (Codec::H264, first) if first & 0x1f == 8 => Some(Kind::Picture),
        (Codec::H265, first) if first >> 1 & 0x3f == 32 => Some(Kind::Video),
        (Codec::H265, first) if first >> 1 & 0x3f == 33 => Some(Kind::Sequence),
        (Codec::H265, first) if first >> 1 & 0x3f == 34 => Some(Kind::Picture),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    /// Made by ffmpeg 5.1 with libx264 (2 B-frames in a pyramid; 4:2:2; baseline) and libx265.
    const HIGH: &str = "0164000cffe1001a6764000cacd941419f9f0110000003001000000303 20f142996001000668\
                        ebe3cb22c0fdf8f800";
    const HIGH_422: &str = "017a0015ffe10019677a0015bcd941433f3e0220000003002000000643e28532c00100066\
                            8fba3cb22c0fef8f800";
    const BASELINE: &str =
        "0142c028ffe100176742c028da01e0089f970110 00003e90000ea600f1832a01000468ce0fc8";
    const HEVC: &str = "01016000000090000000 00003cf000fcfdf8f800000f0320000100184001 0c01ffff01600000\
                        03009000000300000300 3c959809210001002a420101016000000300900000030000 03003ca00a\
                        480b9c9596566924caf01680800000030080 00000c842200010007 4401c172b46240";

    #[test]
    fn records_are_read_and_written() {
        for (name, codec, hex) in [
            ("high", Codec::H264, HIGH),
            ("4:2:2", Codec::H264, HIGH_422),
            ("baseline", Codec::H264, BASELINE),
        ] {
            let record = bytes(hex);
            let sets = ParameterSets::from_record(codec, &record).unwrap();
            assert_eq!(sets.to_record().unwrap(), record, "{name}");
            assert_eq!(ParameterSets::length_size(codec, &record), Some(4), "{name}");
        }
        let record = bytes(HEVC);
        let sets = ParameterSets::from_record(Codec::H265, &record).unwrap();
        let written = sets.to_record().unwrap();
        // But for the arrays' completeness, which x265 leaves open.
        assert_eq!(written.len(), record.len());
        let differing = written.iter().zip(&record).filter(|(own, other)| own != other);
        assert!(differing.clone().all(|(own, other)| own & 0x7f == *other), "{written:x?}");
        assert_eq!(differing.count(), 3);
        assert_eq!(ParameterSets::length_size(Codec::H265, &record), Some(4));
        assert_eq!(sets, ParameterSets::from_record(Codec::H265, &written).unwrap());
    }

    #[test]
    fn reordering_is_told() {
        for (name, codec, hex, depth) in [
            ("high", Codec::H264, HIGH, Some(2)),
            ("baseline", Codec::H264, BASELINE, Some(0)),
            ("HEVC", Codec::H265, HEVC, Some(2)),
        ] {
            let sets = ParameterSets::from_record(codec, &bytes(hex)).unwrap();
            assert_eq!(sets.reorder_depth(), depth, "{name}");
        }
    }

    #[test]
    fn set_of_the_same_id_is_replaced() {
        let mut sets = ParameterSets::from_record(Codec::H264, &bytes(HIGH)).unwrap();
        let other = ParameterSets::from_record(Codec::H264, &bytes(BASELINE)).unwrap();
        let before = sets.clone();
        for nal in before.nals() {
            assert!(!sets.insert(nal));
        }
        for nal in other.nals() {
            assert!(sets.insert(nal));
        }
        assert_eq!(sets, other);
        // Id 1 is another one.
        assert!(sets.insert(&[0x68, 0b0101_1000]));
        assert_eq!((sets.sps().count(), sets.pps().count(), sets.vps().count()), (1, 2, 0));
    }

    #[test]
    fn sets_are_the_same_in_any_order() {
        let of = |nals: &[&[u8]]| {
            let mut sets = ParameterSets::new(Codec::H264);
            assert!(nals.iter().all(|nal| sets.insert(nal)));
            sets
        };
        // Ids 0 and 1, and 1 once more.
        let [zero, one, other]: [&[u8]; 3] = [&[0x68, 0xce, 0x0f], &[0x68, 0x58], &[0x68, 0x59]];
        assert_eq!(of(&[zero, one]), of(&[one, zero]));
        assert_ne!(of(&[zero, one]), of(&[zero, other]));
        assert_ne!(of(&[zero, one]), of(&[zero]));
        assert_ne!(of(&[zero]), of(&[zero, one]));
        assert_ne!(ParameterSets::new(Codec::H264), ParameterSets::new(Codec::H265));
    }

    #[test]
    fn number_and_length_are_bounded() {
        let mut sets = ParameterSets::new(Codec::H264);
        assert!(!sets.insert(&vec![0x68; PARAMETER_SET_LEN_MAX + 1]));
        assert!(!sets.insert(&[0x68]));
        assert!(!sets.insert(&[0x65, 1]));
        assert!(!sets.insert(&[]));
        for id in 0..100_u32 {
            // ue(v) of 63 and more: six zeros, a one, six bits.
            let code = 64 + id % 64;
            let nal = [0x68, (code >> 5) as u8, (code << 3) as u8 | 4];
            sets.insert(&nal);
        }
        assert_eq!(sets.pps().count(), PARAMETER_SETS_MAX);
        assert_eq!(sets.to_record(), None);
    }

    #[test]
    fn damaged_records_do_no_harm() {
        for (codec, hex) in [(Codec::H264, HIGH), (Codec::H265, HEVC)] {
            let record = bytes(hex);
            // The record of a high profile is complete without its last four bytes.
            for len in 0..record.len() - 4 {
                let sets = ParameterSets::from_record(codec, &record[..len]);
                assert_eq!(sets.and_then(|sets| sets.to_record()), None, "{len}");
            }
            for at in 0..record.len() * 8 {
                let mut flipped = record.clone();
                flipped[at / 8] ^= 1 << (at % 8);
                let sets = ParameterSets::from_record(codec, &flipped);
                let written = sets.and_then(|sets| sets.to_record());
                assert!(written.is_none_or(|record| record.len() > 20));
            }
        }
    }
}
