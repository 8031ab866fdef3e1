//! Coded pictures and sounds, whatever carries them: what FLV and RTP recordings are compared by.
//!
//! A picture is its NAL units behind lengths of four bytes, without parameter sets, delimiters and
//! filler, which carriers keep elsewhere or leave out. A sound is the codec's own bytes.
//!
//! Messages (SEI) are of the picture. None of the peers that are compared adds or drops any: neither
//! ffmpeg 5.1 and 9 (copying, over RTMP and RTSP), nor GStreamer 1.22 (h264parse, rtph264pay,
//! rtph264depay).

use std::collections::HashMap;

use super::compare::AtLeast;
use super::flv::{Kind, Role, Tag};
use super::rtp::{Codec, Format, Packet};

#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    pub kind: Kind,
    /// When it is shown or heard; NaN where the program that wrote it could not tell.
    pub pts_ms: f64,
    pub is_keyframe: bool,
    /// G.711: may be cut anywhere.
    pub is_pcm: bool,
    pub bytes: Vec<u8>,
}

/// The coded frames of FLV.
#[track_caller]
pub fn of_tags(tags: &[Tag]) -> Vec<Unit> {
    tags.iter().filter(|tag| tag.is_coded()).map(of_tag).collect()
}

#[track_caller]
fn of_tag(tag: &Tag) -> Unit {
    let body = &tag.payload;
    let is_video = tag.kind == Kind::Video;
    let (start, offset_ms) = data_of(tag);
    let data = &body[start..];
    let codec = if body[0] & 0x80 != 0 { Codec::H265 } else { Codec::H264 };
    Unit {
        kind: tag.kind,
        pts_ms: f64::from(tag.timestamp_ms) + f64::from(offset_ms),
        is_keyframe: tag.role() == Role::Keyframe,
        is_pcm: !is_video && matches!(body[0] >> 4, 7 | 8),
        bytes: if is_video { picture(codec, &split_nals(data)) } else { data.to_vec() },
    }
}

/// Where the data of a coded frame begins, and how much later than sent it is shown.
fn data_of(tag: &Tag) -> (usize, i32) {
    let body = &tag.payload;
    // Behind the FourCC: a composition time, where the packet type says so.
    let (start, has_offset) = match (tag.kind, body[0]) {
        (Kind::Video, first) if first & 0x80 != 0 => (5, first & 0x0f == 1),
        (Kind::Video, _) => (2, true),
        (_, first) if first >> 4 == 9 => (5, false),
        (_, first) if first >> 4 == 10 => (2, false),
        _ => (1, false),
    };
    if !has_offset {
        return (start, 0);
    }
    (start + 3, i32::from_be_bytes([body[start], body[start + 1], body[start + 2], 0]) >> 8)
}

/// Gives each picture of H.264 and H.265 one message of user data with a number of its own (H.264, D.1.7;
/// H.265, D.2.7), in place of those that it had.
#[track_caller]
pub fn set_messages(tags: &mut [Tag]) {
    let pictures = tags.iter_mut().filter(|tag| tag.kind == Kind::Video && tag.is_coded());
    for (number, tag) in pictures.enumerate() {
        let (codec, header) = match tag.payload[..5] {
            [first, b'h', b'v', b'c', b'1'] if first & 0x80 != 0 => (Codec::H265, &[78, 1][..]),
            [first, ..] if first & 0x8f == 7 => (Codec::H264, &[6][..]),
            _ => return,
        };
        let (start, _) = data_of(tag);
        let mut nals = split_nals(&tag.payload[start..]);
        nals.retain(|nal| !codec.is_message(nal));
        let text = format!("{MESSAGE}{number:08}");
        let len = u8::try_from(text.len()).expect("a short text");
        nals.insert(0, [header, &[5, len], text.as_bytes(), &[0x80]].concat());
        tag.payload.truncate(start);
        tag.payload.extend(joined_nals(&nals));
    }
}

/// The picture without the message that [`set_messages`] gave it.
fn without_message(unit: &Unit) -> Vec<u8> {
    if unit.kind != Kind::Video {
        return unit.bytes.clone();
    }
    let mut nals = split_nals(&unit.bytes);
    let is_message =
        |nal: &Vec<u8>| nal.windows(MESSAGE.len()).any(|window| window == MESSAGE.as_bytes());
    nals.retain(|nal| !is_message(nal));
    joined_nals(&nals)
}

/// Sixteen bytes, which stand for its UUID.
const MESSAGE: &str = "a message of it ";

/// Units behind lengths of four bytes.
#[track_caller]
pub fn split_nals(mut data: &[u8]) -> Vec<Vec<u8>> {
    let mut nals = Vec::new();
    while let Some((len, rest)) = data.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        assert!(len <= rest.len(), "NAL unit of {len} bytes in {}", rest.len());
        nals.push(rest[..len].to_vec());
        data = &rest[len..];
    }
    nals
}

/// The picture that units make.
pub fn picture(codec: Codec, nals: &[Vec<u8>]) -> Vec<u8> {
    joined_nals(nals.iter().filter(|nal| !codec.is_beside_picture(nal)))
}

/// As [`split_nals`] has them.
fn joined_nals<'a>(nals: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for nal in nals {
        let len = u32::try_from(nal.len()).expect("a short unit");
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(nal);
    }
    bytes
}

/// The units of a track's packets, which must follow each other without a gap. `ms_of` tells what
/// an RTP timestamp means. A picture that is not whole at the end is left out.
#[track_caller]
pub fn of_packets(format: &Format, packets: &[Packet], ms_of: impl Fn(u32) -> f64) -> Vec<Unit> {
    for pair in packets.windows(2) {
        let [before, after] = [pair[0].sequence, pair[1].sequence];
        assert_eq!(after, before.wrapping_add(1), "{:?}: sequence number", format.codec);
    }
    let codec = format.codec;
    let unit = |timestamp: u32, is_keyframe: bool, bytes: Vec<u8>| Unit {
        kind: codec.kind(),
        pts_ms: ms_of(timestamp),
        is_keyframe,
        is_pcm: matches!(codec, Codec::PcmA | Codec::PcmU),
        bytes,
    };
    if codec.kind() == Kind::Video {
        let mut groups: Vec<&[Packet]> =
            packets.chunk_by(|a, b| a.timestamp == b.timestamp).collect();
        // Its marker has not come yet.
        groups.pop_if(|group| !group.last().is_some_and(|packet| packet.marker));
        let pictures = groups.iter().map(|group| {
            let nals = nals_of(codec, group);
            let is_keyframe = nals.iter().any(|nal| codec.is_keyframe(nal));
            unit(group[0].timestamp, is_keyframe, picture(codec, &nals))
        });
        return pictures.filter(|unit| !unit.bytes.is_empty()).collect();
    }
    if codec == Codec::Latm {
        let whole = |packet: &Packet| unit(packet.timestamp, true, latm(&packet.payload));
        return packets.iter().map(whole).collect();
    }
    if codec != Codec::Aac {
        return packets.iter().map(|p| unit(p.timestamp, true, p.payload.clone())).collect();
    }
    let frames = packets.iter().flat_map(|packet| {
        access_units(&packet.payload).into_iter().enumerate().map(|(index, bytes)| {
            // 1024 samples each.
            let ticks = 1024 * u32::try_from(index).expect("few units");
            unit(packet.timestamp.wrapping_add(ticks), true, bytes)
        })
    });
    frames.collect()
}

/// One frame behind its length, in bytes of 255 and one that is less (ISO/IEC 14496-3, 1.7.3).
#[track_caller]
fn latm(payload: &[u8]) -> Vec<u8> {
    let full = payload.iter().take_while(|byte| **byte == 255).count();
    let len = 255 * full + usize::from(payload[full]);
    assert_eq!(payload.len(), full + 1 + len, "LATM in one packet");
    payload[full + 1..].to_vec()
}

/// `mode=AAC-hbr`: sizes of 13 bits behind the length of them all (RFC 3640, 3.3.6).
#[track_caller]
fn access_units(payload: &[u8]) -> Vec<Vec<u8>> {
    let headers_len = usize::from(u16::from_be_bytes([payload[0], payload[1]])) / 8;
    let (headers, mut data) = payload[2..].split_at(headers_len);
    let mut units = Vec::new();
    for header in headers.chunks(2) {
        let len = usize::from(u16::from_be_bytes([header[0], header[1]]) >> 3);
        assert!(len <= data.len(), "AAC of {len} bytes is fragmented");
        units.push(data[..len].to_vec());
        data = &data[len..];
    }
    assert!(data.is_empty(), "AAC with {} bytes behind it", data.len());
    units
}

/// Of single units, aggregates and fragments (RFC 6184, 5.6 to 5.8; RFC 7798, 4.4).
#[track_caller]
pub fn nals_of(codec: Codec, packets: &[Packet]) -> Vec<Vec<u8>> {
    let header_len = if codec == Codec::H264 { 1 } else { 2 };
    let mut nals: Vec<Vec<u8>> = Vec::new();
    for packet in packets {
        let body = &packet.payload;
        let kind = if codec == Codec::H264 { body[0] & 0x1f } else { body[0] >> 1 & 0x3f };
        match (codec, kind) {
            (Codec::H264, 24) | (Codec::H265, 48) => {
                let mut rest = &body[header_len..];
                while let Some((len, behind)) = rest.split_first_chunk::<2>() {
                    let len = usize::from(u16::from_be_bytes(*len));
                    nals.push(behind[..len].to_vec());
                    rest = &behind[len..];
                }
            }
            (Codec::H264, 28) | (Codec::H265, 49) => {
                let fragment = body[header_len];
                if fragment & 0x80 != 0 {
                    nals.push(if codec == Codec::H264 {
                        vec![body[0] & 0xe0 | fragment & 0x1f]
                    } else {
                        vec![body[0] & 0x81 | (fragment & 0x3f) << 1, body[1]]
                    });
                }
                let nal = nals.last_mut().expect("a fragment follows the first one");
                nal.extend_from_slice(&body[header_len + 1..]);
            }
            _ => nals.push(body.clone()),
        }
    }
    nals
}

/// How far a unit's time may be from what was sent, beside the one offset of all tracks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WithinMs(pub f64);

/// `got` is a contiguous part of `sent`, from a keyframe on, all times moved by one offset.
#[track_caller]
pub fn assert_same(what: &str, sent: &[Unit], got: &[Unit], at_least: AtLeast, within: WithinMs) {
    let of = |units: &[Unit], kind: Kind| -> Vec<Unit> {
        units.iter().filter(|unit| unit.kind == kind).cloned().collect()
    };
    let [sent_video, sent_audio] = [Kind::Video, Kind::Audio].map(|kind| of(sent, kind));
    let [got_video, got_audio] = [Kind::Video, Kind::Audio].map(|kind| of(got, kind));
    assert!(
        got_video.len() >= at_least.video && got_audio.len() >= at_least.audio,
        "{what}: {} pictures and {} sounds, want {at_least:?}; {} and {} were sent",
        got_video.len(),
        got_audio.len(),
        sent_video.len(),
        sent_audio.len(),
    );
    assert!(got_video.first().is_none_or(|unit| unit.is_keyframe), "{what}: begins in a GOP");
    let lead =
        if got_video.is_empty() { (&sent_audio, &got_audio) } else { (&sent_video, &got_video) };
    let Some(first) = lead.1.iter().find(|unit| !unit.pts_ms.is_nan()) else { return };
    let mut problems = Vec::new();
    for start in starts(lead.0, first) {
        let offset_ms = first.pts_ms - start;
        let problem = mismatch("video", &sent_video, &got_video, offset_ms, within)
            .or_else(|| mismatch("audio", &sent_audio, &got_audio, offset_ms, within));
        match problem {
            None => return,
            Some(problem) => problems.push(format!("at offset {offset_ms:.3} ms: {problem}")),
        }
    }
    problems.truncate(4);
    panic!("{what}: not what was sent; {problems:#?}");
}

/// When something with the first one's bytes was sent.
fn starts(sent: &[Unit], first: &Unit) -> Vec<f64> {
    if !first.is_pcm {
        let same = sent.iter().filter(|unit| unit.bytes == first.bytes);
        return same.map(|unit| unit.pts_ms).collect();
    }
    let (bytes, _) = joined(sent);
    places(&bytes, &first.bytes).into_iter().map(|place| ms_at(sent, place)).collect()
}

fn mismatch(
    track: &str,
    sent: &[Unit],
    got: &[Unit],
    offset_ms: f64,
    within: WithinMs,
) -> Option<String> {
    let first = got.first()?;
    if first.is_pcm {
        return mismatch_pcm(sent, got, offset_ms, within);
    }
    let is_at = |sent: &Unit, got: &Unit| {
        got.pts_ms.is_nan() || (sent.pts_ms + offset_ms - got.pts_ms).abs() <= within.0
    };
    let untimed = got.iter().take_while(|unit| unit.pts_ms.is_nan()).count();
    let first = got.get(untimed)?;
    // A tone's units are alike each few of them, and several may be near enough.
    let is_start = |&at: &usize| sent[at].bytes == first.bytes && is_at(&sent[at], first);
    let starts_at = (0..sent.len()).filter(is_start).filter_map(|at| at.checked_sub(untimed));
    let mut problems = Vec::new();
    for start in starts_at {
        let (index, problem) = mismatch_from(track, &sent[start..], got, offset_ms, is_at)?;
        problems.push((index, problem));
    }
    let furthest = problems.into_iter().max_by_key(|(index, _)| *index);
    Some(furthest.map(|(_, problem)| problem).unwrap_or_else(|| {
        let near = starts(sent, first).into_iter().map(|ms| first.pts_ms - ms - offset_ms);
        let near = near.min_by(|a, b| a.abs().total_cmp(&b.abs()));
        format!("{track}: its first unit is off by {near:?} ms")
    }))
}

/// The first of `got` that is not what was sent from its place on.
fn mismatch_from(
    track: &str,
    sent: &[Unit],
    got: &[Unit],
    offset_ms: f64,
    is_at: impl Fn(&Unit, &Unit) -> bool,
) -> Option<(usize, String)> {
    for (index, unit) in got.iter().enumerate() {
        let Some(expected) = sent.get(index) else {
            let problem = format!("{track}: unit {index} is past the end of what was sent");
            return Some((index, problem));
        };
        if expected.bytes != unit.bytes || !is_at(expected, unit) {
            let problem = format!(
                "{track}: unit {index} of {}: sent {:.3} ms and {} bytes, got {:.3} ms and {} \
                 bytes, bytes equal: {}",
                got.len(),
                expected.pts_ms + offset_ms,
                expected.bytes.len(),
                unit.pts_ms,
                unit.bytes.len(),
                expected.bytes == unit.bytes,
            );
            return Some((index, problem));
        }
    }
    None
}

fn mismatch_pcm(sent: &[Unit], got: &[Unit], offset_ms: f64, within: WithinMs) -> Option<String> {
    let (sent_bytes, _) = joined(sent);
    let (got_bytes, got_starts) = joined(got);
    let off = |place: usize, start: usize, unit: &Unit| {
        (ms_at(sent, place + start) + offset_ms - unit.pts_ms).abs()
    };
    let mut worst = f64::INFINITY;
    for place in places(&sent_bytes, &got_bytes) {
        let offs = got.iter().zip(&got_starts).map(|(unit, start)| off(place, *start, unit));
        worst = worst.min(offs.fold(0.0, f64::max));
    }
    (worst > within.0).then(|| format!("samples are off by {worst} ms, or not what was sent"))
}

/// All bytes, and where each unit's begin.
fn joined(units: &[Unit]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    let mut starts = Vec::new();
    for unit in units {
        starts.push(bytes.len());
        bytes.extend_from_slice(&unit.bytes);
    }
    (bytes, starts)
}

/// When the sample at this place was sent: 8000 a second.
fn ms_at(sent: &[Unit], place: usize) -> f64 {
    let mut before = 0;
    for unit in sent {
        if place < before + unit.bytes.len() {
            return unit.pts_ms + (place - before) as f64 / 8.0;
        }
        before += unit.bytes.len();
    }
    f64::NAN
}

fn places(bytes: &[u8], part: &[u8]) -> Vec<usize> {
    if part.is_empty() || part.len() > bytes.len() {
        return Vec::new();
    }
    (0..=bytes.len() - part.len()).filter(|at| bytes[*at..].starts_with(part)).collect()
}

/// Units from so long after the first picture on, pictures from a keyframe on. One that is moved back
/// shows times again: what lies behind the last earlier one counts.
#[track_caller]
pub fn settled(units: &[Unit], settled_ms: f64) -> Vec<Unit> {
    let first = units.iter().find(|unit| unit.kind == Kind::Video).expect("a picture");
    let from_ms = first.pts_ms + settled_ms;
    let of = |kind| {
        let own: Vec<Unit> = units.iter().filter(|unit| unit.kind == kind).cloned().collect();
        let begins = own.iter().rposition(|unit| unit.pts_ms < from_ms).map_or(0, |last| last + 1);
        own.into_iter().skip(begins).skip_while(|unit| !unit.is_keyframe)
    };
    of(Kind::Video).chain(of(Kind::Audio)).collect()
}

/// How many pictures were lost of a track whose packets may be: each one that came was sent, in
/// its order, whole. For players over a faulty network.
#[track_caller]
pub fn assert_part_of(what: &str, sent: &[Unit], got: &[Unit], kind: Kind) -> usize {
    let places = places_of(what, sent, got, kind);
    places.windows(2).map(|pair| pair[1] - pair[0] - 1).sum()
}

/// Which of the units of this kind that were sent each one that came is. Messages are not compared: nothing
/// tells that the packet of one is missing.
#[track_caller]
pub fn places_of(what: &str, sent: &[Unit], got: &[Unit], kind: Kind) -> Vec<usize> {
    let mut same: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (at, unit) in sent.iter().filter(|unit| unit.kind == kind).enumerate() {
        same.entry(without_message(unit)).or_default().push(at);
    }
    let mut next = 0;
    let place = |unit: &Unit| {
        let found = same.get(&without_message(unit));
        let place = found.and_then(|places| places.iter().find(|place| **place >= next));
        let place = *place.unwrap_or_else(|| panic!("{what}: {:.0} ms was not sent", unit.pts_ms));
        next = place + 1;
        place
    };
    got.iter().filter(|unit| unit.kind == kind).map(place).collect()
}
