//! FLV: the file header and a streaming tag reader (FLV 10.1, Annex E.2 to E.4).
//!
//! The reader gives a tag's payload in pieces, as views of the input. RTMP aggregate messages hold
//! tags of the same form and are read here too. What a payload carries is told by
//! [`classify`](classify::classify). Encrypted tags are skipped.

pub mod classify;

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::limits::{MESSAGE_LEN_MAX, SCRIPT_LEN_MAX};
use crate::media::{MediaPart, TagKind};

/// The file header and the size of the tag before the first, for a stream with both kinds of media.
pub const FILE_HEADER: [u8; 13] = *b"FLV\x01\x05\0\0\0\x09\0\0\0\0";

/// Bytes of the file header alone.
const FILE_HEADER_LEN: usize = 9;

/// Bytes of a tag's header.
pub const TAG_HEADER_LEN: usize = 11;

/// Bytes of the `PreviousTagSize` field behind each tag.
pub const TAG_SIZE_LEN: usize = 4;

/// Why bytes are no FLV stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlvError {
    #[error("stream does not begin with \"FLV\"")]
    Signature,
    #[error("data offset {0} lies within the file header")]
    DataOffset(u32),
    #[error("tag of {0} bytes is longer than {MESSAGE_LEN_MAX}")]
    TagTooLong(u32),
}

/// A tag's header.
///
/// ```text
///  0        1               4               7              8           11
/// +--------+---------------+---------------+--------------+-----------+
/// |..f|type| payload length| timestamp low | timestamp 31 | stream id |
/// |        |    24 bits    |   24 bits     |   ..24       |   (0)     |
/// +--------+---------------+---------------+--------------+-----------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagHeader {
    /// The five bits of the type; see [`TagKind::from_number`].
    pub kind: u8,
    /// The payload is encrypted (`Filter`).
    pub encrypted: bool,
    pub len: u32,
    pub timestamp_ms: u32,
}

impl TagHeader {
    pub fn new(kind: TagKind, timestamp_ms: u32, len: u32) -> Self {
        Self { kind: kind as u8, encrypted: false, len, timestamp_ms }
    }

    pub fn decode(bytes: [u8; TAG_HEADER_LEN]) -> Self {
        let [kind, l2, l1, l0, t2, t1, t0, t3, ..] = bytes;
        Self {
            kind: kind & 0x1f,
            encrypted: kind & 0x20 != 0,
            len: u32::from_be_bytes([0, l2, l1, l0]),
            timestamp_ms: u32::from_be_bytes([t3, t2, t1, t0]),
        }
    }

    /// The header's bytes; `len` must fit 24 bits.
    pub fn encode(&self) -> [u8; TAG_HEADER_LEN] {
        let [l3, l2, l1, l0] = self.len.to_be_bytes();
        debug_assert_eq!(l3, 0, "a tag's length has 24 bits");
        let [t3, t2, t1, t0] = self.timestamp_ms.to_be_bytes();
        let kind = self.kind & 0x1f | if self.encrypted { 0x20 } else { 0 };
        [kind, l2, l1, l0, t2, t1, t0, t3, 0, 0, 0]
    }
}

/// Reads an FLV stream from its first byte on.
#[derive(Debug)]
pub struct TagReader {
    head: FileHead,
    parser: TagParser,
    parts: VecDeque<MediaPart>,
}

#[derive(Debug)]
enum FileHead {
    /// The bytes of the header so far.
    Header(Header<FILE_HEADER_LEN>),
    /// Bytes between the header and the first tag, the first `PreviousTagSize` included.
    Gap(usize),
    Passed,
}

impl Default for TagReader {
    fn default() -> Self {
        Self::new()
    }
}

impl TagReader {
    pub fn new() -> Self {
        Self {
            head: FileHead::Header(Header::default()),
            parser: TagParser::new(0),
            parts: VecDeque::new(),
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// [`FlvError`]; the reader is of no use then.
    pub fn handle_input(&mut self, mut input: Bytes) -> Result<(), FlvError> {
        self.pass_file_head(&mut input)?;
        while let Some(part) = self.parser.next_part(&mut input)? {
            self.parts.push_back(part);
        }
        Ok(())
    }

    /// The next part, on lane 0.
    pub fn poll_part(&mut self) -> Option<MediaPart> {
        self.parts.pop_front()
    }

    /// Tags that were not given on: of unknown type, encrypted, or scripts that are too long.
    pub fn skipped_count(&self) -> u64 {
        self.parser.skipped_count
    }

    /// Bytes that the tag that has begun still lacks; 0 between tags.
    pub fn lacking(&self) -> usize {
        match &self.parser.state {
            State::Header(header) if header.len > 0 => TAG_HEADER_LEN - header.len,
            State::Header(_) => 0,
            State::Media(left) | State::Script { left, .. } => left + TAG_SIZE_LEN,
            State::Skip(left) => *left,
        }
    }

    fn pass_file_head(&mut self, input: &mut Bytes) -> Result<(), FlvError> {
        if let FileHead::Header(header) = &mut self.head {
            let complete = header.fill(input);
            let signature_len = header.filled().len().min(3);
            if header.filled()[..signature_len] != b"FLV"[..signature_len] {
                return Err(FlvError::Signature);
            }
            let Some([.., o3, o2, o1, o0]) = complete else { return Ok(()) };
            let offset = u32::from_be_bytes([o3, o2, o1, o0]);
            // A header that grew would still be followed by tags; one that says 0 would not, but
            // anything below the header's own length is nonsense.
            let gap = usize::try_from(offset).ok().and_then(|len| len.checked_sub(FILE_HEADER_LEN));
            let gap = gap.filter(|gap| *gap <= SCRIPT_LEN_MAX);
            let gap = gap.ok_or(FlvError::DataOffset(offset))?;
            self.head = FileHead::Gap(gap + TAG_SIZE_LEN);
        }
        if let FileHead::Gap(left) = &mut self.head {
            skip(input, left);
            if *left == 0 {
                self.head = FileHead::Passed;
            }
        }
        Ok(())
    }
}

/// Reads tags without a file header before them.
#[derive(Debug)]
pub(crate) struct TagParser {
    lane: u32,
    clock: TagClock,
    state: State,
    skipped_count: u64,
}

#[derive(Debug, Clone, Copy)]
enum TagClock {
    /// Timestamps as they stand in the tags.
    Own,
    /// The first tag's timestamp becomes this one (RTMP 1.0, 7.1.6).
    From(u32),
    /// Add this to each.
    Shifted(u32),
}

#[derive(Debug)]
enum State {
    Header(Header<TAG_HEADER_LEN>),
    /// Payload bytes of an audio or video tag that are still to come.
    Media(usize),
    Script {
        timestamp_ms: u32,
        payload: Vec<u8>,
        left: usize,
    },
    /// Bytes of no interest: a skipped payload, `PreviousTagSize`.
    Skip(usize),
}

impl TagParser {
    pub(crate) fn new(lane: u32) -> Self {
        Self {
            lane,
            clock: TagClock::Own,
            state: State::Header(Header::default()),
            skipped_count: 0,
        }
    }

    /// A parser that shifts all timestamps so that the first is `timestamp_ms`.
    pub(crate) fn starting_at(lane: u32, timestamp_ms: u32) -> Self {
        Self { clock: TagClock::From(timestamp_ms), ..Self::new(lane) }
    }

    /// Whether a tag was begun whose end has not come.
    pub(crate) fn is_within_media(&self) -> bool {
        matches!(self.state, State::Media(_))
    }

    /// Takes from `input` up to the next part; `None` when `input` is used up.
    pub(crate) fn next_part(&mut self, input: &mut Bytes) -> Result<Option<MediaPart>, FlvError> {
        while !input.is_empty() {
            match &mut self.state {
                State::Header(header) => {
                    let Some(bytes) = header.fill(input) else { continue };
                    if let Some(begin) = self.begin(TagHeader::decode(bytes))? {
                        return Ok(Some(begin));
                    }
                }
                State::Media(left) => {
                    let bytes = input.split_to(input.len().min(*left));
                    *left -= bytes.len();
                    if *left == 0 {
                        self.state = State::Skip(TAG_SIZE_LEN);
                    }
                    return Ok(Some(MediaPart::Data { lane: self.lane, bytes }));
                }
                State::Script { timestamp_ms, payload, left } => {
                    let bytes = input.split_to(input.len().min(*left));
                    *left -= bytes.len();
                    payload.extend_from_slice(&bytes);
                    if *left == 0 {
                        let timestamp_ms = *timestamp_ms;
                        let payload = Bytes::from(std::mem::take(payload));
                        self.state = State::Skip(TAG_SIZE_LEN);
                        return Ok(Some(MediaPart::Script { timestamp_ms, payload }));
                    }
                }
                State::Skip(left) => {
                    skip(input, left);
                    if *left == 0 {
                        self.state = State::Header(Header::default());
                    }
                }
            }
        }
        Ok(None)
    }

    fn begin(&mut self, header: TagHeader) -> Result<Option<MediaPart>, FlvError> {
        let timestamp_ms = self.shifted(header.timestamp_ms);
        let len = header.len as usize;
        let kind = TagKind::from_number(header.kind).filter(|_| !header.encrypted);
        match kind {
            // Some encoders send empty audio tags to mark silence; there is nothing to give on.
            Some(_) if len == 0 => self.state = State::Skip(TAG_SIZE_LEN),
            Some(TagKind::Script) if len <= SCRIPT_LEN_MAX => {
                self.state = State::Script { timestamp_ms, payload: Vec::new(), left: len };
            }
            Some(kind @ (TagKind::Audio | TagKind::Video)) => {
                if len > MESSAGE_LEN_MAX {
                    return Err(FlvError::TagTooLong(header.len));
                }
                self.state = State::Media(len);
                let lane = self.lane;
                return Ok(Some(MediaPart::Begin { lane, kind, timestamp_ms, len: header.len }));
            }
            Some(TagKind::Script) | None => {
                self.skipped_count += 1;
                self.state = State::Skip(len + TAG_SIZE_LEN);
            }
        }
        Ok(None)
    }

    fn shifted(&mut self, timestamp_ms: u32) -> u32 {
        if let TagClock::From(first) = self.clock {
            self.clock = TagClock::Shifted(first.wrapping_sub(timestamp_ms));
        }
        match self.clock {
            TagClock::Shifted(shift) => timestamp_ms.wrapping_add(shift),
            TagClock::Own | TagClock::From(_) => timestamp_ms,
        }
    }
}

/// A header of fixed length that may come in pieces.
#[derive(Debug)]
struct Header<const LEN: usize> {
    bytes: [u8; LEN],
    len: usize,
}

impl<const LEN: usize> Default for Header<LEN> {
    fn default() -> Self {
        Self { bytes: [0; LEN], len: 0 }
    }
}

impl<const LEN: usize> Header<LEN> {
    /// Takes what is missing from `input`; the whole header once it is there.
    fn fill(&mut self, input: &mut Bytes) -> Option<[u8; LEN]> {
        let len = input.len().min(LEN - self.len);
        input.copy_to_slice(&mut self.bytes[self.len..self.len + len]);
        self.len += len;
        (self.len == LEN).then_some(self.bytes)
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn skip(input: &mut Bytes, left: &mut usize) {
    let len = input.len().min(*left);
    input.advance(len);
    *left -= len;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(kind: u8, timestamp_ms: u32, payload: &[u8]) -> Vec<u8> {
        let len = payload.len() as u32;
        let mut header = TagHeader { kind: 0, encrypted: false, len, timestamp_ms }.encode();
        header[0] = kind;
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(&(len + 11).to_be_bytes());
        bytes
    }

    fn sample() -> Vec<u8> {
        [
            FILE_HEADER.to_vec(),
            tag(18, 0, b"\x02\0\x0aonMetaData"),
            tag(9, 0x1234_5678, b"video one"),
            tag(8, 5, b"a"),
            tag(8, 6, b""),
            tag(0x28, 7, b"encrypted"),
            tag(15, 7, b"unknown"),
            tag(9, 40, b"video two"),
        ]
        .concat()
    }

    /// All parts of the pieces, with adjacent data of a tag joined.
    fn parts(pieces: &[&[u8]]) -> Result<Vec<MediaPart>, FlvError> {
        let mut reader = TagReader::new();
        let mut joined: Vec<MediaPart> = Vec::new();
        for piece in pieces {
            reader.handle_input(Bytes::copy_from_slice(piece))?;
            while let Some(part) = reader.poll_part() {
                match (joined.last_mut(), part) {
                    (
                        Some(MediaPart::Data { bytes: before, .. }),
                        MediaPart::Data { bytes, .. },
                    ) => {
                        *before = [&before[..], &bytes[..]].concat().into();
                    }
                    (_, part) => joined.push(part),
                }
            }
        }
        Ok(joined)
    }

    fn begin(kind: TagKind, timestamp_ms: u32, len: u32) -> MediaPart {
        MediaPart::Begin { lane: 0, kind, timestamp_ms, len }
    }

    fn data(bytes: &'static [u8]) -> MediaPart {
        MediaPart::Data { lane: 0, bytes: Bytes::from_static(bytes) }
    }

    #[test]
    fn tags_are_the_same_at_every_split() {
        let sample = sample();
        let expected = vec![
            MediaPart::Script {
                timestamp_ms: 0,
                payload: Bytes::from_static(b"\x02\0\x0aonMetaData"),
            },
            begin(TagKind::Video, 0x1234_5678, 9),
            data(b"video one"),
            begin(TagKind::Audio, 5, 1),
            data(b"a"),
            begin(TagKind::Video, 40, 9),
            data(b"video two"),
        ];
        assert_eq!(parts(&[&sample]), Ok(expected.clone()));
        for at in 0..sample.len() {
            let (left, right) = sample.split_at(at);
            assert_eq!(parts(&[left, right]), Ok(expected.clone()), "split at {at}");
        }
        let single: Vec<&[u8]> = sample.chunks(1).collect();
        assert_eq!(parts(&single), Ok(expected));
    }

    #[test]
    fn payload_is_a_view_of_the_input() {
        let input = Bytes::from(sample());
        let mut reader = TagReader::new();
        reader.handle_input(input.clone()).unwrap();
        let range = input.as_ptr_range();
        let mut data_count = 0;
        while let Some(part) = reader.poll_part() {
            if let MediaPart::Data { bytes, .. } = part {
                assert!(range.contains(&bytes.as_ptr()));
                data_count += 1;
            }
        }
        assert_eq!((data_count, reader.skipped_count()), (3, 2));
    }

    #[test]
    fn other_signatures_are_refused_at_once() {
        assert_eq!(parts(&[b"FLX"]), Err(FlvError::Signature));
        assert_eq!(parts(&[b"H"]), Err(FlvError::Signature));
        assert_eq!(parts(&[b"F", b"L", b"V"]), Ok(vec![]));
    }

    #[test]
    fn data_offset_is_followed_within_reason() {
        let video = tag(9, 1, b"x");
        let gapped = [b"FLV\x01\x01\0\0\0\x0b??\0\0\0\0".to_vec(), video].concat();
        assert_eq!(parts(&[&gapped]).unwrap().len(), 2);
        assert_eq!(parts(&[b"FLV\x01\x01\0\0\0\x08"]), Err(FlvError::DataOffset(8)));
        assert_eq!(parts(&[b"FLV\x01\x01\xff\0\0\0"]), Err(FlvError::DataOffset(0xff00_0000)));
    }

    #[test]
    fn wrong_previous_tag_size_does_not_matter() {
        let mut first = tag(9, 1, b"x");
        let at = first.len() - 4;
        first[at..].copy_from_slice(&[0xff; 4]);
        let stream = [FILE_HEADER.to_vec(), first, tag(9, 2, b"y")].concat();
        assert_eq!(parts(&[&stream]).unwrap().len(), 4);
    }

    #[test]
    fn long_media_is_an_error_and_a_long_script_is_skipped() {
        let too_long = MESSAGE_LEN_MAX as u32 + 1;
        let header = TagHeader::new(TagKind::Video, 0, too_long).encode();
        let stream = [&FILE_HEADER[..], &header].concat();
        assert_eq!(parts(&[&stream]), Err(FlvError::TagTooLong(too_long)));

        let script = tag(18, 0, &vec![0; SCRIPT_LEN_MAX + 1]);
        let stream = [FILE_HEADER.to_vec(), script, tag(8, 2, b"y")].concat();
        assert_eq!(parts(&[&stream]), Ok(vec![begin(TagKind::Audio, 2, 1), data(b"y")]));
    }

    #[test]
    fn header_decodes_as_it_was_encoded() {
        for timestamp_ms in [0, 0x00ff_ffff, 0x0100_0000, u32::MAX] {
            let header = TagHeader::new(TagKind::Audio, timestamp_ms, 0x00ab_cdef);
            assert_eq!(TagHeader::decode(header.encode()), header);
        }
    }

    #[test]
    fn shifted_tags_begin_at_the_given_time() {
        let mut parser = TagParser::starting_at(3, 1000);
        let mut input = Bytes::from([tag(9, 40, b"v"), tag(8, 50, b"a")].concat());
        let mut times = Vec::new();
        while let Some(part) = parser.next_part(&mut input).unwrap() {
            if let MediaPart::Begin { timestamp_ms, lane: 3, .. } = part {
                times.push(timestamp_ms);
            }
        }
        assert_eq!(times, [1000, 1010]);
        assert!(!parser.is_within_media());
    }
}
