//! Finding tags in what a player receives, at the price of their headers: payloads are passed over
//! but for the beginning of video, which tells the keyframe and holds the stamp.

use super::stamp::STAMPED_HEAD_LEN;
use crate::media::{MediaPart, TagKind};
use crate::proto::flv::{TAG_HEADER_LEN, TAG_SIZE_LEN, TagHeader};

/// A tag that has come to its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TagSeen<'a> {
    pub(super) kind: TagKind,
    pub(super) timestamp_ms: u32,
    pub(super) len: u32,
    /// The beginning of a video tag's payload; empty for others.
    pub(super) head: &'a [u8],
}

/// FLV whose tags can no longer be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("the stream does not begin as FLV does")]
    FileHeader,
    #[error("no tag where one must begin")]
    TagHeader,
}

/// Reads FLV piece by piece.
#[derive(Debug, Default)]
pub(super) struct FlvScan {
    state: State,
    /// The beginning of a header or size whose rest has not come.
    carry: [u8; FILE_HEAD_LEN],
    carry_len: usize,
    tag: Lane,
    /// Tags with another length in front than behind.
    pub(super) wrong_sizes: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    FileHead,
    TagHeader,
    Payload,
    TagSize,
}

/// A tag under way.
#[derive(Debug)]
struct Lane {
    /// Its number among the lanes of RTMP.
    number: u32,
    kind: TagKind,
    timestamp_ms: u32,
    len: u32,
    left: u32,
    head: [u8; STAMPED_HEAD_LEN],
    head_len: usize,
}

impl Default for Lane {
    fn default() -> Self {
        Self::begin(0, TagKind::Script, 0, 0)
    }
}

impl Lane {
    fn begin(number: u32, kind: TagKind, timestamp_ms: u32, len: u32) -> Self {
        let head = [0; STAMPED_HEAD_LEN];
        Self { number, kind, timestamp_ms, len, left: len, head, head_len: 0 }
    }

    /// Takes what belongs to the tag from `input`; whether it is complete.
    fn take(&mut self, input: &mut &[u8]) -> bool {
        let (taken, rest) = input.split_at(input.len().min(self.left as usize));
        if self.kind == TagKind::Video && self.head_len < self.head.len() {
            let copied = &taken[..taken.len().min(self.head.len() - self.head_len)];
            self.head[self.head_len..self.head_len + copied.len()].copy_from_slice(copied);
            self.head_len += copied.len();
        }
        self.left -= taken.len() as u32;
        *input = rest;
        self.left == 0
    }

    fn seen(&self) -> TagSeen<'_> {
        let (kind, timestamp_ms, len) = (self.kind, self.timestamp_ms, self.len);
        TagSeen { kind, timestamp_ms, len, head: &self.head[..self.head_len] }
    }
}

impl FlvScan {
    /// Reads `input` and tells of each tag that ends in it.
    ///
    /// # Errors
    /// [`Broken`]; what follows means nothing.
    pub(super) fn feed(
        &mut self,
        mut input: &[u8],
        mut on_tag: impl FnMut(TagSeen<'_>),
    ) -> Result<(), Broken> {
        loop {
            match self.state {
                State::FileHead => {
                    let Some(head) = self.fill::<FILE_HEAD_LEN>(&mut input) else { return Ok(()) };
                    let is_flv = head.starts_with(b"FLV\x01") && head[5..] == *FILE_HEAD_REST;
                    if !is_flv {
                        return Err(Broken::FileHeader);
                    }
                    self.state = State::TagHeader;
                }
                State::TagHeader => {
                    let Some(head) = self.fill::<TAG_HEADER_LEN>(&mut input) else { return Ok(()) };
                    let header = TagHeader::decode(head);
                    let kind = TagKind::from_number(header.kind).filter(|_| head[8..] == [0; 3]);
                    let kind = kind.filter(|_| !header.encrypted).ok_or(Broken::TagHeader)?;
                    self.tag = Lane::begin(0, kind, header.timestamp_ms, header.len);
                    self.state = State::Payload;
                }
                State::Payload => {
                    if !self.tag.take(&mut input) {
                        return Ok(());
                    }
                    on_tag(self.tag.seen());
                    self.state = State::TagSize;
                }
                State::TagSize => {
                    let Some(size) = self.fill::<TAG_SIZE_LEN>(&mut input) else { return Ok(()) };
                    let expected = self.tag.len + TAG_HEADER_LEN as u32;
                    self.wrong_sizes += u64::from(u32::from_be_bytes(size) != expected);
                    self.state = State::TagHeader;
                }
            }
        }
    }

    /// The next `N` bytes once they are there.
    fn fill<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        if self.carry_len == 0
            && let Some((whole, rest)) = input.split_first_chunk::<N>()
        {
            *input = rest;
            return Some(*whole);
        }
        let (taken, rest) = input.split_at(input.len().min(N - self.carry_len));
        self.carry[self.carry_len..self.carry_len + taken.len()].copy_from_slice(taken);
        self.carry_len += taken.len();
        *input = rest;
        if self.carry_len < N {
            return None;
        }
        self.carry_len = 0;
        self.carry.first_chunk::<N>().copied()
    }
}

/// Puts the parts of an RTMP session together, as far as [`FlvScan`] would look at them.
#[derive(Debug, Default)]
pub(super) struct PartScan {
    lanes: Vec<Lane>,
}

impl PartScan {
    /// Takes a part and tells of the tag that ends with it.
    pub(super) fn take(&mut self, part: &MediaPart, mut on_tag: impl FnMut(TagSeen<'_>)) {
        match part {
            MediaPart::Begin { lane, kind, timestamp_ms, len } => {
                let begun = Lane::begin(*lane, *kind, *timestamp_ms, *len);
                match self.lane(*lane) {
                    Some(index) => self.lanes[index] = begun,
                    None => self.lanes.push(begun),
                }
            }
            MediaPart::Data { lane, bytes } => {
                let Some(index) = self.lane(*lane) else { return };
                if self.lanes[index].take(&mut &bytes[..]) {
                    on_tag(self.lanes[index].seen());
                }
            }
            MediaPart::Script { timestamp_ms, payload } => {
                let (timestamp_ms, len) = (*timestamp_ms, payload.len() as u32);
                on_tag(TagSeen { kind: TagKind::Script, timestamp_ms, len, head: &[] });
            }
            MediaPart::Abort { lane } => self.lanes.retain(|known| known.number != *lane),
        }
    }

    fn lane(&self, number: u32) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.number == number)
    }
}

/// The file header and the size of no tag.
const FILE_HEAD_LEN: usize = 13;
const FILE_HEAD_REST: &[u8; 8] = b"\0\0\0\x09\0\0\0\0";

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::flv::FILE_HEADER;

    fn tag(kind: TagKind, timestamp_ms: u32, len: u32) -> Vec<u8> {
        let mut bytes = TagHeader::new(kind, timestamp_ms, len).encode().to_vec();
        bytes.extend((0..len).map(|at| at as u8));
        bytes.extend_from_slice(&(len + 11).to_be_bytes());
        bytes
    }

    fn stream() -> Vec<u8> {
        [
            FILE_HEADER.to_vec(),
            tag(TagKind::Script, 0, 20),
            tag(TagKind::Video, 5, 300),
            tag(TagKind::Audio, 0x0100_0000, 3),
            tag(TagKind::Video, 45, 0),
            tag(TagKind::Video, 85, 7),
        ]
        .concat()
    }

    type Seen = Vec<(TagKind, u32, u32, Vec<u8>)>;

    fn feed(scan: &mut FlvScan, seen: &mut Seen, bytes: &[u8]) -> Result<(), Broken> {
        scan.feed(bytes, |tag| {
            seen.push((tag.kind, tag.timestamp_ms, tag.len, tag.head.to_vec()));
        })
    }

    #[test]
    fn tags_are_the_same_at_every_split() {
        let stream = stream();
        let mut whole = Seen::new();
        feed(&mut FlvScan::default(), &mut whole, &stream).unwrap();
        let lens: Vec<_> =
            whole.iter().map(|(kind, at, len, head)| (*kind, *at, *len, head.len())).collect();
        let expected = [
            (TagKind::Script, 0, 20, 0),
            (TagKind::Video, 5, 300, STAMPED_HEAD_LEN),
            (TagKind::Audio, 0x0100_0000, 3, 0),
            (TagKind::Video, 45, 0, 0),
            (TagKind::Video, 85, 7, 7),
        ];
        assert_eq!(lens, expected);
        assert_eq!(whole[1].3, (0..STAMPED_HEAD_LEN as u8).collect::<Vec<u8>>());
        for at in 0..=stream.len() {
            let (mut scan, mut seen) = (FlvScan::default(), Seen::new());
            feed(&mut scan, &mut seen, &stream[..at]).unwrap();
            feed(&mut scan, &mut seen, &stream[at..]).unwrap();
            assert_eq!((&seen, scan.wrong_sizes), (&whole, 0), "at {at}");
        }
        let (mut scan, mut seen) = (FlvScan::default(), Seen::new());
        stream.iter().for_each(|byte| feed(&mut scan, &mut seen, &[*byte]).unwrap());
        assert_eq!(seen, whole);
    }

    #[test]
    fn wrong_size_behind_a_tag_is_counted() {
        let mut stream = stream();
        let at = FILE_HEADER.len() + 11 + 20 + 3;
        stream[at] ^= 1;
        let (mut scan, mut seen) = (FlvScan::default(), Seen::new());
        feed(&mut scan, &mut seen, &stream).unwrap();
        assert_eq!((scan.wrong_sizes, seen.len()), (1, 5));
    }

    #[test]
    fn lost_framing_is_an_error() {
        let fault = |at: usize, byte: u8| {
            let mut stream = stream();
            stream[at] = byte;
            feed(&mut FlvScan::default(), &mut Seen::new(), &stream).unwrap_err()
        };
        assert_eq!(fault(0, b'X'), Broken::FileHeader);
        assert_eq!(fault(8, 10), Broken::FileHeader);
        assert_eq!(fault(13, 7), Broken::TagHeader);
        assert_eq!(fault(13, 0x20 | 9), Broken::TagHeader);
        assert_eq!(fault(13 + 10, 1), Broken::TagHeader);
        // A length that is wrong shows where the next tag should be.
        assert_eq!(fault(13 + 3, 19), Broken::TagHeader);
    }

    #[test]
    fn parts_of_interleaved_lanes_become_tags() {
        let mut scan = PartScan::default();
        let mut seen = Seen::new();
        let begin = |lane, kind, len| MediaPart::Begin { lane, kind, timestamp_ms: lane, len };
        let data =
            |lane, bytes: &'static [u8]| MediaPart::Data { lane, bytes: Bytes::from_static(bytes) };
        for part in [
            begin(6, TagKind::Video, 4),
            data(6, b"ab"),
            begin(4, TagKind::Audio, 1),
            data(4, b"x"),
            data(6, b"cd"),
            begin(6, TagKind::Video, 9),
            MediaPart::Abort { lane: 6 },
            data(6, b"no"),
            MediaPart::Script { timestamp_ms: 3, payload: Bytes::from_static(b"12") },
        ] {
            scan.take(&part, |tag| {
                seen.push((tag.kind, tag.timestamp_ms, tag.len, tag.head.to_vec()));
            });
        }
        let expected = [
            (TagKind::Audio, 4, 1, vec![]),
            (TagKind::Video, 6, 4, b"abcd".to_vec()),
            (TagKind::Script, 3, 2, vec![]),
        ];
        assert_eq!(seen, expected);
    }
}
