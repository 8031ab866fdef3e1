//! The chunk stream, as we read it (RTMP 1.0, 5.3, 5.4.1 and 5.4.2). Its encoding is in
//! [`chunk_encoding`](super::chunk_encoding).
//!
//! Media is given on chunk by chunk, as views of the input; all other messages are assembled.
//! Set Chunk Size and Abort are obeyed here. Aggregates come out as the tags that they hold.

use bytes::{Buf, Bytes};

use crate::limits::{CHUNK_STREAMS_MAX, MESSAGE_LEN_MAX, SCRIPT_LEN_MAX};
use crate::media::{MediaPart, TagKind};
use crate::proto::flv::TagParser;
use crate::proto::rtmp::chunk_header::{CHUNK_HEADER_LEN_MAX, ChunkHeader, Fields, Time};
use crate::proto::rtmp::error::ChunkError;
use crate::proto::rtmp::message::{Control, Message, kind};

/// What comes out of a chunk stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkItem {
    /// Media; its lane is the chunk stream id. Scripts come as messages, except from aggregates.
    Part(MediaPart),
    /// A whole message of another type.
    Message(Message),
}

/// Reads chunks from the first byte after the handshake on.
#[derive(Debug)]
pub struct ChunkReader {
    chunk_size: u32,
    /// The beginning of a header whose rest has not come.
    carry: Carry,
    streams: Vec<ChunkStream>,
    /// Index of the stream whose chunk is being read, and its bytes still to come.
    current: Option<(u32, u32)>,
    /// The beginning of a message that followed an aborted one.
    queued: Option<Box<MediaPart>>,
}

#[derive(Debug, Default)]
struct Carry {
    bytes: [u8; CHUNK_HEADER_LEN_MAX],
    len: u8,
}

#[derive(Debug)]
struct ChunkStream {
    csid: u32,
    /// Timestamp of the message begun last.
    timestamp_ms: u32,
    /// What fmt 3 adds for a new message: the last delta, or the absolute time of an fmt 0.
    time: Time,
    message_len: u32,
    kind: u8,
    stream_id: u32,
    /// Payload bytes of the message that are still to come; 0 between messages.
    left: u32,
    /// What has come of a message under way that is not media.
    body: Option<Box<Body>>,
}

#[derive(Debug)]
enum Body {
    Whole(Vec<u8>),
    Aggregate(Aggregate),
}

/// The tags of an aggregate, and the bytes of the chunk that were not parsed yet.
#[derive(Debug)]
struct Aggregate {
    parser: TagParser,
    unparsed: Bytes,
}

impl Default for ChunkReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkReader {
    pub fn new() -> Self {
        Self {
            chunk_size: CHUNK_SIZE_DEFAULT as u32,
            carry: Carry::default(),
            streams: Vec::new(),
            current: None,
            queued: None,
        }
    }

    /// Takes from `input` up to the next item; `None` when `input` is used up. What `input` still
    /// holds after an item is the caller's to keep and to pass in again.
    ///
    /// # Errors
    /// [`ChunkError`]; the reader is of no use then.
    pub fn next_item(&mut self, input: &mut Bytes) -> Result<Option<ChunkItem>, ChunkError> {
        loop {
            let item = match self.current {
                _ if self.queued.is_some() => self.queued.take().map(|part| ChunkItem::Part(*part)),
                None if input.is_empty() => return Ok(None),
                None => self.read_header(input)?,
                Some((index, left)) if !self.streams[index as usize].has_unparsed() => {
                    if left == 0 {
                        self.current = None;
                        self.finish_chunk(index)?
                    } else if input.is_empty() {
                        return Ok(None);
                    } else {
                        self.read_payload(index, left, input)
                    }
                }
                Some((index, _)) => self.streams[index as usize].next_tag_part()?,
            };
            if item.is_some() {
                return Ok(item);
            }
        }
    }

    /// Where its chunk streams are, and how many bytes of them.
    pub fn chunk_streams(&self) -> (*const u8, usize) {
        (self.streams.as_ptr().cast(), size_of_val(&self.streams[..]))
    }

    /// Bytes that what has begun still lacks, at least; 0 between messages.
    pub fn lacking(&self) -> usize {
        let header = usize::from(self.carry.len > 0);
        self.streams.iter().fold(header, |sum, stream| sum + stream.left as usize)
    }

    fn read_header(&mut self, input: &mut Bytes) -> Result<Option<ChunkItem>, ChunkError> {
        let streams = &self.streams;
        let extended_before = |csid| find(streams, csid).and_then(|at| streams[at].repeated());
        if self.carry.len == 0
            && let Ok(header) = ChunkHeader::decode(input, extended_before)
        {
            input.advance(header.len);
            return self.begin_chunk(header);
        }
        let carried_len = usize::from(self.carry.len);
        let copied_len = input.len().min(CHUNK_HEADER_LEN_MAX - carried_len);
        let candidate_len = carried_len + copied_len;
        self.carry.bytes[carried_len..candidate_len].copy_from_slice(&input[..copied_len]);
        let candidate = &self.carry.bytes[..candidate_len];
        let Ok(header) = ChunkHeader::decode(candidate, extended_before) else {
            input.advance(copied_len);
            self.carry.len = candidate_len as u8;
            return Ok(None);
        };
        self.carry.len = 0;
        if header.len >= carried_len {
            input.advance(header.len - carried_len);
            return self.begin_chunk(header);
        }
        // Bytes that might have been a repeated extended timestamp were payload after all: up to
        // three, which go before the input. The copy is of the rest of one receive buffer.
        let carried = &self.carry.bytes[header.len..carried_len];
        *input = [carried, &input[..]].concat().into();
        self.begin_chunk(header)
    }

    fn begin_chunk(&mut self, header: ChunkHeader) -> Result<Option<ChunkItem>, ChunkError> {
        let index = self.stream_index(&header)?;
        let stream = &mut self.streams[index as usize];
        if header.fields == Fields::None && stream.left > 0 {
            self.current = Some((index, stream.chunk_left(self.chunk_size)));
            return Ok(None);
        }
        // A new header within a message ends it: librtmp goes on after a dropped frame like that.
        let abort = stream.abort();
        let begin = stream.begin_message(header.fields)?;
        self.current = Some((index, stream.chunk_left(self.chunk_size)));
        if abort.is_some() {
            self.queued = begin.map(Box::new);
            return Ok(abort.map(ChunkItem::Part));
        }
        Ok(begin.map(ChunkItem::Part))
    }

    fn stream_index(&mut self, header: &ChunkHeader) -> Result<u32, ChunkError> {
        if let Some(index) = find(&self.streams, header.csid) {
            return Ok(index as u32);
        }
        // librtmp begins chunk stream 2 with fmt 1 (its ping response): stream id 0, time 0.
        if matches!(header.fields, Fields::SameLength { .. } | Fields::None) {
            return Err(ChunkError::NoMessageHeader(header.csid));
        }
        if self.streams.len() == CHUNK_STREAMS_MAX {
            return Err(ChunkError::TooManyChunkStreams);
        }
        // Players use two or three for as long as they live.
        self.streams.reserve_exact(1);
        self.streams.push(ChunkStream::new(header.csid));
        Ok(self.streams.len() as u32 - 1)
    }

    fn read_payload(&mut self, index: u32, left: u32, input: &mut Bytes) -> Option<ChunkItem> {
        let stream = &mut self.streams[index as usize];
        let bytes = input.split_to(input.len().min(left as usize));
        self.current = Some((index, left - bytes.len() as u32));
        stream.left -= bytes.len() as u32;
        match stream.body.as_deref_mut() {
            None => {
                return Some(ChunkItem::Part(MediaPart::Data { lane: stream.csid, bytes }));
            }
            Some(Body::Whole(payload)) => payload.extend_from_slice(&bytes),
            Some(Body::Aggregate(aggregate)) => aggregate.unparsed = bytes,
        }
        None
    }

    /// Ends the message too when the chunk was its last.
    fn finish_chunk(&mut self, index: u32) -> Result<Option<ChunkItem>, ChunkError> {
        let stream = &mut self.streams[index as usize];
        if stream.left > 0 {
            return Ok(None);
        }
        let payload = match stream.body.take().map(|body| *body) {
            None => return Ok(None),
            Some(Body::Aggregate(aggregate)) => {
                let abort = MediaPart::Abort { lane: stream.csid };
                return Ok(aggregate.parser.is_within_media().then_some(ChunkItem::Part(abort)));
            }
            Some(Body::Whole(payload)) => payload,
        };
        let message = Message {
            kind: stream.kind,
            timestamp_ms: stream.timestamp_ms,
            stream_id: stream.stream_id,
            payload: payload.into(),
        };
        let control = match message.kind {
            kind::SET_CHUNK_SIZE | kind::ABORT => {
                Control::decode(&message).map_err(|_| ChunkError::ControlCutOff(message.kind))?
            }
            _ => None,
        };
        match control {
            Some(Control::SetChunkSize(size)) => {
                // The top bit must be zero; there is nothing else to make of it.
                self.chunk_size = size & 0x7fff_ffff;
                if self.chunk_size == 0 { Err(ChunkError::ChunkSizeZero) } else { Ok(None) }
            }
            Some(Control::Abort(csid)) => {
                let stream = find(&self.streams, csid).map(|index| &mut self.streams[index]);
                Ok(stream.and_then(ChunkStream::abort).map(ChunkItem::Part))
            }
            _ => Ok(Some(ChunkItem::Message(message))),
        }
    }
}

impl ChunkStream {
    fn new(csid: u32) -> Self {
        Self {
            csid,
            timestamp_ms: 0,
            time: Time::default(),
            message_len: 0,
            kind: 0,
            stream_id: 0,
            left: 0,
            body: None,
        }
    }

    /// What an fmt 3 chunk's extended field would say: the field of the last header, or, as some
    /// servers write after a delta, the message's timestamp.
    fn repeated(&self) -> Option<[u32; 2]> {
        self.time.extended.then_some([self.time.value, self.timestamp_ms])
    }

    /// Payload bytes of a chunk that begins.
    fn chunk_left(&self, chunk_size: u32) -> u32 {
        chunk_size.min(self.left)
    }

    fn has_unparsed(&self) -> bool {
        matches!(
            self.body.as_deref(),
            Some(Body::Aggregate(aggregate)) if !aggregate.unparsed.is_empty()
        )
    }

    fn next_tag_part(&mut self) -> Result<Option<ChunkItem>, ChunkError> {
        match self.body.as_deref_mut() {
            Some(Body::Aggregate(Aggregate { parser, unparsed })) => {
                let part = parser.next_part(unparsed)?;
                if unparsed.is_empty() {
                    // An empty view holds its receive buffer all the same.
                    *unparsed = Bytes::new();
                }
                Ok(part.map(ChunkItem::Part))
            }
            None | Some(Body::Whole(_)) => Ok(None),
        }
    }

    /// Forgets the message under way.
    fn abort(&mut self) -> Option<MediaPart> {
        let was_within = std::mem::take(&mut self.left) > 0;
        let was_media = match self.body.take().as_deref() {
            None => true,
            Some(Body::Whole(_)) => false,
            Some(Body::Aggregate(aggregate)) => aggregate.parser.is_within_media(),
        };
        (was_within && was_media).then_some(MediaPart::Abort { lane: self.csid })
    }

    fn begin_message(&mut self, fields: Fields) -> Result<Option<MediaPart>, ChunkError> {
        match fields {
            Fields::Full { time, message_len, kind, stream_id } => {
                (self.time, self.message_len) = (time, message_len);
                (self.kind, self.stream_id) = (kind, stream_id);
                self.timestamp_ms = 0;
            }
            Fields::SameStream { delta, message_len, kind } => {
                (self.time, self.message_len, self.kind) = (delta, message_len, kind);
            }
            Fields::SameLength { delta } => self.time = delta,
            // The delta once more. After an fmt 0 that is its timestamp (5.3.1.2.4): ffmpeg and
            // librtmp write and read it so.
            Fields::None => {}
        }
        self.timestamp_ms = self.timestamp_ms.wrapping_add(self.time.value);
        self.left = self.message_len;
        let is_media = matches!(self.kind, kind::AUDIO | kind::VIDEO);
        if is_media || self.kind == kind::AGGREGATE {
            if self.left as usize > MESSAGE_LEN_MAX {
                return Err(ChunkError::MediaTooLong(self.message_len));
            }
        } else if self.left as usize > SCRIPT_LEN_MAX {
            return Err(ChunkError::MessageTooLong { kind: self.kind, len: self.message_len });
        }
        self.body = match self.kind {
            kind::AUDIO | kind::VIDEO => None,
            kind::AGGREGATE => {
                let parser = TagParser::starting_at(self.csid, self.timestamp_ms);
                Some(Box::new(Body::Aggregate(Aggregate { parser, unparsed: Bytes::new() })))
            }
            _ => Some(Box::new(Body::Whole(Vec::new()))),
        };
        let kind = TagKind::from_number(self.kind).filter(|_| is_media && self.left > 0);
        Ok(kind.map(|kind| MediaPart::Begin {
            lane: self.csid,
            kind,
            timestamp_ms: self.timestamp_ms,
            len: self.message_len,
        }))
    }
}

fn find(streams: &[ChunkStream], csid: u32) -> Option<usize> {
    streams.iter().position(|stream| stream.csid == csid)
}

/// Chunk size until Set Chunk Size.
pub const CHUNK_SIZE_DEFAULT: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rtmp::chunk_encoding::encode_message;

    fn message(kind: u8, timestamp_ms: u32, payload: &[u8]) -> Message {
        Message { kind, timestamp_ms, stream_id: 1, payload: Bytes::copy_from_slice(payload) }
    }

    fn chunks(csid: u8, message: &Message, chunk_size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        encode_message(csid, message, chunk_size, &mut out);
        out
    }

    /// All items of the pieces, with adjacent data of a lane joined.
    fn items<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ChunkItem>, ChunkError> {
        let mut reader = ChunkReader::new();
        let mut items: Vec<ChunkItem> = Vec::new();
        for piece in pieces {
            let mut input = Bytes::copy_from_slice(piece);
            while let Some(item) = reader.next_item(&mut input)? {
                if let ChunkItem::Part(MediaPart::Data { lane, bytes }) = &item
                    && let Some(ChunkItem::Part(MediaPart::Data { lane: last, bytes: before })) =
                        items.last_mut()
                    && lane == last
                {
                    *before = [&before[..], &bytes[..]].concat().into();
                } else {
                    items.push(item);
                }
            }
            assert!(input.is_empty());
        }
        Ok(items)
    }

    fn assert_same_at_every_split(bytes: &[u8], expected: &[ChunkItem]) {
        assert_eq!(items([bytes]).as_deref(), Ok(expected));
        for at in 0..bytes.len() {
            let (left, right) = bytes.split_at(at);
            assert_eq!(items([left, right]).as_deref(), Ok(expected), "split at {at}");
        }
        assert_eq!(items(bytes.chunks(1)).as_deref(), Ok(expected), "byte by byte");
    }

    fn begin(lane: u32, kind: TagKind, timestamp_ms: u32, len: u32) -> ChunkItem {
        ChunkItem::Part(MediaPart::Begin { lane, kind, timestamp_ms, len })
    }

    fn data(lane: u32, bytes: &[u8]) -> ChunkItem {
        ChunkItem::Part(MediaPart::Data { lane, bytes: Bytes::copy_from_slice(bytes) })
    }

    fn abort(lane: u32) -> ChunkItem {
        ChunkItem::Part(MediaPart::Abort { lane })
    }

    fn times(bytes: &[u8]) -> Vec<u32> {
        let items = items([bytes]).unwrap();
        let time = |item: &ChunkItem| match item {
            ChunkItem::Part(MediaPart::Begin { timestamp_ms, .. }) => Some(*timestamp_ms),
            _ => None,
        };
        items.iter().filter_map(time).collect()
    }

    #[test]
    fn messages_are_the_same_at_every_split() {
        let video: Vec<u8> = (0..300_u32).map(|at| at as u8).collect();
        let bytes = [
            chunks(3, &message(20, 0, &[7; 200]), 128),
            chunks(6, &message(9, 0x0100_0000, &video), 128),
            chunks(2, &Control::SetChunkSize(200).encode(), 128),
            chunks(6, &message(9, 40, &video), 200),
            chunks(4, &message(8, 41, b""), 200),
            chunks(4, &message(8, 42, b"a"), 200),
            chunks(5, &message(18, 43, b"script"), 200),
        ]
        .concat();
        let expected = [
            ChunkItem::Message(message(20, 0, &[7; 200])),
            begin(6, TagKind::Video, 0x0100_0000, 300),
            data(6, &video),
            begin(6, TagKind::Video, 40, 300),
            data(6, &video),
            begin(4, TagKind::Audio, 42, 1),
            data(4, b"a"),
            ChunkItem::Message(message(18, 43, b"script")),
        ];
        assert_same_at_every_split(&bytes, &expected);
    }

    #[test]
    fn interleaved_chunk_streams_keep_their_lanes() {
        let video = chunks(6, &message(9, 10, &[1; 256]), 128);
        let (first, second) = video.split_at(12 + 128);
        let audio = chunks(4, &message(8, 11, b"audio"), 128);
        let expected = [
            begin(6, TagKind::Video, 10, 256),
            data(6, &[1; 128]),
            begin(4, TagKind::Audio, 11, 5),
            data(4, b"audio"),
            data(6, &[1; 128]),
        ];
        assert_same_at_every_split(&[first, &audio, second].concat(), &expected);
    }

    #[test]
    fn chunk_size_changes_within_a_message_of_another_stream() {
        let video = chunks(6, &message(9, 10, &[1; 256]), 128);
        let (first, _) = video.split_at(12 + 128);
        let control = chunks(2, &Control::SetChunkSize(64).encode(), 128);
        let rest = [&[0xc6][..], &[1; 64], &[0xc6], &[1; 64]].concat();
        let expected = [begin(6, TagKind::Video, 10, 256), data(6, &[1; 256])];
        assert_same_at_every_split(&[first, &control, &rest].concat(), &expected);
    }

    #[test]
    fn media_is_a_view_of_the_input() {
        let mut input = Bytes::from(chunks(6, &message(9, 10, &[1; 256]), 128));
        let range = input.as_ptr_range();
        let mut reader = ChunkReader::new();
        let mut data_count = 0;
        while let Some(item) = reader.next_item(&mut input).unwrap() {
            if let ChunkItem::Part(MediaPart::Data { bytes, .. }) = item {
                assert!(range.contains(&bytes.as_ptr()));
                data_count += 1;
            }
        }
        assert_eq!(data_count, 2);
    }

    #[test]
    fn deltas_add_up_and_wrap() {
        let bytes = [
            &[0x06, 0xff, 0xff, 0xff, 0, 0, 1, 9, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xf0, 1][..],
            &[0x46, 0, 0, 0x20, 0, 0, 1, 9, 1],
            &[0x86, 0, 0, 5, 1],
            &[0xc6, 1],
            &[0xc6, 1],
            &[0x86, 0xff, 0xff, 0xff, 0x01, 0, 0, 0, 1],
            &[0xc6, 0x01, 0, 0, 0, 1],
        ]
        .concat();
        let expected = [0xffff_fff0, 0x10, 0x15, 0x1a, 0x1f, 0x0100_001f, 0x0200_001f];
        assert_eq!(times(&bytes), expected);
    }

    #[test]
    fn fmt_3_after_fmt_0_adds_its_timestamp() {
        let bytes = [&[0x06, 0, 0, 20, 0, 0, 1, 9, 1, 0, 0, 0, 1][..], &[0xc6, 1]].concat();
        assert_eq!(times(&bytes), [20, 40]);
    }

    #[test]
    fn extended_timestamp_may_be_left_out_of_continuations() {
        let time = 0x0102_0304_u32;
        let head = [0x06, 0xff, 0xff, 0xff, 0, 0, 131, 9, 1, 0, 0, 0, 1, 2, 3, 4];
        let payload: Vec<u8> = (0..131_u32).map(|at| at as u8 + 100).collect();
        let expected = [begin(6, TagKind::Video, time, 131), data(6, &payload)];
        let (first, second) = payload.split_at(128);
        for repeated in [&[0xc6][..], &[0xc6, 1, 2, 3, 4]] {
            assert_same_at_every_split(&[&head[..], first, repeated, second].concat(), &expected);
        }
    }

    #[test]
    fn payload_that_begins_like_the_extended_timestamp_is_kept() {
        let head = [0x06, 0xff, 0xff, 0xff, 0, 0, 130, 9, 1, 0, 0, 0, 1, 2, 3, 4];
        let payload = [&[9; 128][..], &[1, 2]].concat();
        // Only the header of the next message shows that the two bytes were payload.
        let next = chunks(4, &message(8, 7, b"a"), 128);
        let bytes = [&head[..], &payload[..128], &[0xc6, 1, 2], &next].concat();
        let expected = [
            begin(6, TagKind::Video, 0x0102_0304, 130),
            data(6, &payload),
            begin(4, TagKind::Audio, 7, 1),
            data(4, b"a"),
        ];
        assert_same_at_every_split(&bytes, &expected);
    }

    #[test]
    fn abort_message_ends_the_lane() {
        let video = chunks(6, &message(9, 10, &[1; 256]), 128);
        let bytes = [
            &video[..140],
            &chunks(2, &Control::Abort(6).encode(), 128),
            &chunks(2, &Control::Abort(6).encode(), 128),
            &chunks(2, &Control::Abort(9).encode(), 128),
            &chunks(6, &message(9, 50, b"next"), 128),
        ]
        .concat();
        let expected = [
            begin(6, TagKind::Video, 10, 256),
            data(6, &[1; 128]),
            abort(6),
            begin(6, TagKind::Video, 50, 4),
            data(6, b"next"),
        ];
        assert_same_at_every_split(&bytes, &expected);
    }

    #[test]
    fn new_header_within_a_message_aborts_it() {
        let video = chunks(6, &message(9, 10, &[1; 256]), 128);
        let command = chunks(3, &message(20, 0, &[7; 200]), 128);
        let bytes = [
            &video[..140],
            &chunks(6, &message(9, 50, b"next"), 128),
            &command[..140],
            &chunks(3, &message(20, 0, b"whole"), 128),
        ]
        .concat();
        let expected = [
            begin(6, TagKind::Video, 10, 256),
            data(6, &[1; 128]),
            abort(6),
            begin(6, TagKind::Video, 50, 4),
            data(6, b"next"),
            ChunkItem::Message(message(20, 0, b"whole")),
        ];
        assert_same_at_every_split(&bytes, &expected);
    }

    fn tag(kind: u8, timestamp_ms: u8, payload: &[u8]) -> Vec<u8> {
        let len = payload.len() as u8;
        let head = [kind, 0, 0, len, 0, 0, timestamp_ms, 0, 0, 0, 0];
        [&head[..], payload, &[0, 0, 0, len + 11]].concat()
    }

    #[test]
    fn aggregate_comes_out_as_its_tags() {
        let tags = [tag(9, 5, &[1; 150]), tag(8, 8, b"audio"), tag(18, 9, b"script")].concat();
        let bytes = [
            chunks(6, &message(22, 1000, &tags), 128),
            chunks(6, &message(22, 2000, &tags[..tags.len() - 4]), 128),
        ]
        .concat();
        let mut expected = Vec::new();
        for base in [1000, 2000] {
            expected.extend([
                begin(6, TagKind::Video, base, 150),
                data(6, &[1; 150]),
                begin(6, TagKind::Audio, base + 3, 5),
                data(6, b"audio"),
                ChunkItem::Part(MediaPart::Script {
                    timestamp_ms: base + 4,
                    payload: Bytes::from_static(b"script"),
                }),
            ]);
        }
        assert_same_at_every_split(&bytes, &expected);
    }

    /// Receive buffers belong to a shard, and a session may move to another.
    #[test]
    fn no_view_of_the_input_is_kept() {
        use std::sync::Arc;

        struct Owner {
            bytes: Vec<u8>,
            _held: Arc<()>,
        }
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        let tags = [tag(9, 5, &[1; 150]), tag(1, 6, &[2; 90]), tag(18, 9, b"script")].concat();
        let bytes =
            [chunks(6, &message(22, 1000, &tags), 128), chunks(4, &message(9, 8, &[3; 300]), 128)];
        let bytes = bytes.concat();
        for split in 1..=bytes.len() {
            let held = Arc::new(());
            let mut reader = ChunkReader::new();
            let mut input =
                Bytes::from_owner(Owner { bytes: bytes[..split].to_vec(), _held: held.clone() });
            while reader.next_item(&mut input).unwrap().is_some() {}
            drop(input);
            assert_eq!(Arc::strong_count(&held), 1, "split at {split}");
        }
    }

    #[test]
    fn aggregate_cut_off_within_a_tag_aborts_it() {
        let cut = &tag(9, 5, b"video")[..13];
        let bytes =
            [chunks(6, &message(22, 7, cut), 128), chunks(6, &message(9, 8, b"v"), 128)].concat();
        let expected = [
            begin(6, TagKind::Video, 7, 5),
            data(6, b"vi"),
            abort(6),
            begin(6, TagKind::Video, 8, 1),
            data(6, b"v"),
        ];
        assert_same_at_every_split(&bytes, &expected);
    }

    #[test]
    fn malformed_chunks_are_errors() {
        let fault = |bytes: &[u8]| items([bytes]).unwrap_err();
        assert_eq!(fault(&[0x84, 0, 0, 1]), ChunkError::NoMessageHeader(4));
        assert_eq!(fault(&[0xc4]), ChunkError::NoMessageHeader(4));
        assert_eq!(
            fault(&[0x04, 0, 0, 0, 0xff, 0xff, 0xff, 9, 1, 0, 0, 0]),
            ChunkError::MediaTooLong(0x00ff_ffff)
        );
        assert_eq!(
            fault(&[0x04, 0, 0, 0, 1, 0, 1, 18, 1, 0, 0, 0]),
            ChunkError::MessageTooLong { kind: 18, len: 0x0001_0001 }
        );
        let zero = chunks(2, &Control::SetChunkSize(0).encode(), 128);
        assert_eq!(fault(&zero), ChunkError::ChunkSizeZero);
        let short = chunks(2, &message(1, 0, &[0]), 128);
        assert_eq!(fault(&short), ChunkError::ControlCutOff(1));
        let mut tags = tag(9, 0, b"");
        tags[1..4].fill(0xff);
        let aggregate = chunks(6, &message(22, 0, &tags), 128);
        assert!(matches!(fault(&aggregate), ChunkError::Aggregate(_)));
    }

    #[test]
    fn chunk_streams_are_bounded() {
        let head = |csid: usize| {
            let [low, high] = ((csid - 64) as u16).to_le_bytes();
            vec![0x41, low, high, 0, 0, 0, 0, 0, 0, 8]
        };
        let streams = |count: usize| (0..count).flat_map(|at| head(1000 + at)).collect::<Vec<_>>();
        assert_eq!(items([&streams(CHUNK_STREAMS_MAX)[..]]), Ok(vec![]));
        assert_eq!(
            items([&streams(CHUNK_STREAMS_MAX + 1)[..]]),
            Err(ChunkError::TooManyChunkStreams)
        );
    }
}
