//! The log in one wire form, made once for all players: headers are encoded, payloads referred to.
//!
//! | packaging | a tag becomes |
//! |---|---|
//! | FLV | the tag as it lies in the log, so that a span is one run of bytes, or a few with holes |
//! | WebSocket-FLV | a binary frame (RFC 6455, 5.2) around the tag |
//! | RTMP | a message (RTMP 1.0, 5.3): type 0 chunk header, payload, type 3 header each 64 KiB |
//!
//! A packet becomes nothing else: interleaved with RTSP a span of packets is one run of bytes, like
//! one of tags. Who wants some of the tracks only gets runs without the others.

use std::io::IoSlice;

use super::log::{Entry, Log, MediaKinds, Prelude};
use crate::limits::CHUNK_SIZE_OUT;
use crate::media::{Form, TagKind};
use crate::proto::flv::{FILE_HEADER, TAG_HEADER_LEN, TagHeader};
use crate::proto::http::websocket;
use crate::proto::rtmp::chunk_encoding::{self, FirstChunk};

/// The wire form that a player gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packaging {
    Flv,
    WsFlv,
    Rtmp,
    /// RTP packets, interleaved with RTSP or over UDP.
    Rtsp,
    /// RTMP to a server that we publish to, on the message stream that it gave us.
    RtmpPush {
        stream_id: u32,
    },
}

/// Tracks of a stream that a player wants, by their places in the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackSet(u32);

impl TrackSet {
    pub const ALL: Self = Self(u32::MAX);

    /// These tracks of so many; all of them together are [`Self::ALL`].
    pub fn of(tracks: impl IntoIterator<Item = u8>, count: usize) -> Self {
        let bits =
            tracks.into_iter().filter(|&track| track < 32).fold(0, |bits, track| bits | 1 << track);
        let all = (1_u64 << count.min(32)) - 1;
        if u64::from(bits) & all == all { Self::ALL } else { Self(bits) }
    }

    /// Whether an entry is of these tracks.
    pub fn has(self, entry: &Entry) -> bool {
        self.has_channel(entry.channel)
    }

    fn has_channel(self, channel: u8) -> bool {
        self == Self::ALL || self.0 >> (channel / 2).min(31) & 1 == 1
    }
}

/// A place in the packaged log: a tag, and how many of its packaged bytes are behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub seq: u64,
    pub offset: u32,
}

impl Cursor {
    pub fn at(seq: u64) -> Self {
        Self { seq, offset: 0 }
    }
}

/// Message stream id of every RTMP player; `createStream` always answers with it. So do the servers that
/// are published to, nearly all of them.
const MESSAGE_STREAM_ID: u32 = 1;

/// What comes before metadata that is published (RTMP 1.0 has nothing of it; Flash Media Server's data
/// keyframes): without it ZLMediaKit takes none, and servers like that one keep none for players to come.
const SET_DATA_FRAME: &[u8] = b"\x02\0\x0d@setDataFrame";

impl Packaging {
    /// Those that are made once for all who have them.
    pub const SHARED: [Self; 5] = [
        Self::Flv,
        Self::WsFlv,
        Self::Rtmp,
        Self::Rtsp,
        Self::RtmpPush { stream_id: MESSAGE_STREAM_ID },
    ];
    /// Those of the FLV form.
    pub const OF_FLV: [Self; 3] = [Self::Flv, Self::WsFlv, Self::Rtmp];

    /// The form that it is made of.
    pub fn form(self) -> Form {
        match self {
            Self::Flv | Self::WsFlv | Self::Rtmp | Self::RtmpPush { .. } => Form::Flv,
            Self::Rtsp => Form::Rtp,
        }
    }

    /// Its place among [`Self::SHARED`], if it is one of them.
    pub fn place(self) -> Option<usize> {
        match self {
            Self::Flv => Some(0),
            Self::WsFlv => Some(1),
            Self::Rtmp => Some(2),
            Self::Rtsp => Some(3),
            Self::RtmpPush { stream_id: MESSAGE_STREAM_ID } => Some(4),
            Self::RtmpPush { .. } => None,
        }
    }

    /// What a message has before the payload of its tag.
    fn prefix(self, kind: TagKind, is_config: bool) -> &'static [u8] {
        match (self, kind) {
            (Self::RtmpPush { .. }, TagKind::Script) if is_config => SET_DATA_FRAME,
            _ => &[],
        }
    }

    fn first_chunk(self, kind: TagKind, timestamp_ms: u32, message_len: u32) -> FirstChunk {
        let stream_id = match self {
            Self::RtmpPush { stream_id } => stream_id,
            _ => MESSAGE_STREAM_ID,
        };
        let csid = chunk_stream_of(kind);
        FirstChunk { csid, timestamp_ms, message_len, kind: kind as u8, stream_id }
    }

    /// Bytes of a tag in this form.
    pub fn len_of(self, entry: &Entry) -> u64 {
        match self {
            Self::Flv | Self::Rtsp => u64::from(entry.len),
            Self::WsFlv => {
                let (_, header_len) = websocket::encode_header(u64::from(entry.len));
                header_len as u64 + u64::from(entry.len)
            }
            Self::Rtmp | Self::RtmpPush { .. } => {
                let prefix = self.prefix(entry.kind, entry.config);
                let message_len = prefix.len() + entry.payload_len() as usize;
                let extended = if entry.timestamp_ms >= 0xff_ffff { 4 } else { 0 };
                let continuations = (message_len.max(1) - 1) / CHUNK_SIZE_OUT;
                (12 + extended + continuations * (1 + extended) + message_len) as u64
            }
        }
    }

    /// What a player gets before its first tag: file header (in its `greeting`), metadata and
    /// configurations, with the timestamp of the first frame.
    pub fn encode_prelude(
        self,
        prelude: &Prelude,
        timestamp_ms: u32,
        greeting: Option<MediaKinds>,
        tracks: TrackSet,
    ) -> Vec<u8> {
        if self == Self::Rtsp {
            let wanted = prelude.reports.iter().filter(|(channel, _)| tracks.has_channel(*channel));
            return wanted.flat_map(|(_, report)| report.to_vec()).collect();
        }
        let mut out = Vec::new();
        let mut flv = Vec::new();
        let is_rtmp = matches!(self, Self::Rtmp | Self::RtmpPush { .. });
        if let Some(kinds) = greeting
            && !is_rtmp
        {
            flv.extend_from_slice(&file_header(kinds, prelude));
        }
        for (kind, payload) in &prelude.tags {
            // ffmpeg takes metadata of another time for a track of texts.
            let is_first_metadata = greeting.is_some() && *kind == TagKind::Script;
            let timestamp_ms = if is_first_metadata { 0 } else { timestamp_ms };
            if is_rtmp {
                let message = [self.prefix(*kind, true), payload].concat();
                self.encode_message(&mut out, *kind, timestamp_ms, &message);
            } else {
                let header = TagHeader::new(*kind, timestamp_ms, payload.len() as u32);
                flv.extend_from_slice(&header.encode());
                flv.extend_from_slice(payload);
                flv.extend_from_slice(&((TAG_HEADER_LEN + payload.len()) as u32).to_be_bytes());
            }
        }
        match self {
            Self::Flv => flv,
            Self::Rtmp | Self::RtmpPush { .. } => out,
            Self::Rtsp => unreachable!("returned above"),
            Self::WsFlv if flv.is_empty() => out,
            Self::WsFlv => {
                let (header, len) = websocket::encode_header(flv.len() as u64);
                out.extend_from_slice(&header[..len]);
                out.extend_from_slice(&flv);
                out
            }
        }
    }

    fn encode_message(self, out: &mut Vec<u8>, kind: TagKind, timestamp_ms: u32, payload: &[u8]) {
        let mut header = [0; 16];
        let len = payload.len() as u32;
        let header_len = self.first_chunk(kind, timestamp_ms, len).encode(&mut header);
        out.extend_from_slice(&header[..header_len]);
        for (index, piece) in payload.chunks(CHUNK_SIZE_OUT).enumerate() {
            if index > 0 {
                let (header, len) =
                    chunk_encoding::encode_continuation(chunk_stream_of(kind), timestamp_ms);
                out.extend_from_slice(&header[..len]);
            }
            out.extend_from_slice(piece);
        }
    }
}

/// The file header says which kinds of media there are, and ffmpeg waits for each that it names.
/// A kind counts when it has come, or when the metadata announces it.
fn file_header(kinds: MediaKinds, prelude: &Prelude) -> [u8; FILE_HEADER.len()] {
    let metadata = prelude.tags.iter().find(|(kind, _)| *kind == TagKind::Script);
    let announces = |name: &[u8]| {
        metadata.is_some_and(|(_, payload)| payload.windows(name.len()).any(|at| at == name))
    };
    let video = kinds.video || announces(b"videocodecid");
    let audio = kinds.audio || announces(b"audiocodecid");
    let mut header = FILE_HEADER;
    if video != audio {
        header[4] = if video { 0x01 } else { 0x04 };
    }
    header
}

fn chunk_stream_of(kind: TagKind) -> u8 {
    match kind {
        TagKind::Audio => chunk_encoding::CSID_AUDIO,
        TagKind::Script => chunk_encoding::CSID_SCRIPT,
        TagKind::Video => chunk_encoding::CSID_VIDEO,
    }
}

/// Some tags of the log in one packaging, as slices: the headers are here, the payloads in the log.
#[derive(Default)]
pub struct Span {
    headers: Vec<u8>,
    /// Lengths of the runs of the span, headers and log bytes in turn: `(header bytes, log bytes)`.
    runs: Vec<Run>,
    /// All of it in one piece, where it is wanted so.
    joined: Vec<u8>,
    len: u64,
    end: Cursor,
}

#[derive(Clone, Copy)]
struct Run {
    header_len: u32,
    position: u64,
    log_len: u32,
}

impl Run {
    fn end(self) -> u64 {
        self.position + u64::from(self.log_len)
    }
}

impl Span {
    /// Encodes the tags from `from` to `to_seq`, stopping behind the tag that reaches
    /// [`SPAN_LEN_MAX`] bytes or the most runs that one send takes. Reuses its memory: no
    /// allocation once it has grown.
    pub fn encode(&mut self, packaging: Packaging, log: &Log, from: Cursor, to_seq: u64) {
        self.encode_tracks(packaging, TrackSet::ALL, log, from, to_seq);
    }

    /// As [`Self::encode`], of some tracks only.
    pub fn encode_tracks(
        &mut self,
        packaging: Packaging,
        tracks: TrackSet,
        log: &Log,
        from: Cursor,
        to_seq: u64,
    ) {
        self.clear(from);
        for entry in log.range(from.seq..to_seq) {
            match packaging {
                _ if !tracks.has(entry) => {}
                Packaging::Flv | Packaging::Rtsp => self.push_tag(entry),
                Packaging::WsFlv => self.push_frame(entry),
                Packaging::Rtmp | Packaging::RtmpPush { .. } => self.push_message(packaging, entry),
            }
            self.end = Cursor::at(self.end.seq + 1);
            if self.len >= SPAN_LEN_MAX || self.runs.len() >= SPAN_RUNS_MAX {
                break;
            }
        }
        self.skip(from.offset);
    }

    /// Leaves it empty, for who has everything before `from`.
    pub fn clear(&mut self, from: Cursor) {
        self.headers.clear();
        self.runs.clear();
        self.joined.clear();
        self.len = 0;
        self.end = Cursor::at(from.seq);
    }

    /// Lengthens the last run, unless there is a hole behind it.
    fn push_tag(&mut self, entry: &Entry) {
        self.len += u64::from(entry.len);
        match self.runs.last_mut() {
            Some(run) if run.end() == entry.position => run.log_len += entry.len,
            _ => {
                let (position, log_len) = (entry.position, entry.len);
                self.runs.push(Run { header_len: 0, position, log_len });
            }
        }
    }

    fn push_message(&mut self, packaging: Packaging, entry: &Entry) {
        let mut header = [0; 16 + SET_DATA_FRAME.len()];
        let prefix = packaging.prefix(entry.kind, entry.config);
        let mut rest = entry.payload_len();
        let message_len = prefix.len() as u32 + rest;
        let first = packaging.first_chunk(entry.kind, entry.timestamp_ms, message_len);
        let header_len = first.encode(header.first_chunk_mut().expect("16 at least"));
        let mut position = entry.payload().start;
        let mut chunk_len = rest.min((CHUNK_SIZE_OUT - prefix.len()) as u32);
        header[header_len..][..prefix.len()].copy_from_slice(prefix);
        self.push_run(&header[..header_len + prefix.len()], position, chunk_len);
        while rest > chunk_len {
            rest -= chunk_len;
            position += u64::from(chunk_len);
            chunk_len = rest.min(CHUNK_SIZE_OUT as u32);
            let stream = chunk_stream_of(entry.kind);
            let (header, len) = chunk_encoding::encode_continuation(stream, entry.timestamp_ms);
            self.push_run(&header[..len], position, chunk_len);
        }
    }

    fn push_frame(&mut self, entry: &Entry) {
        let (header, len) = websocket::encode_header(u64::from(entry.len));
        self.push_run(&header[..len], entry.position, entry.len);
    }

    fn push_run(&mut self, header: &[u8], position: u64, log_len: u32) {
        self.headers.extend_from_slice(header);
        self.runs.push(Run { header_len: header.len() as u32, position, log_len });
        self.len += header.len() as u64 + u64::from(log_len);
    }

    /// Leaves out the first bytes, which the player has already.
    fn skip(&mut self, offset: u32) {
        if offset == 0 {
            return;
        }
        let mut rest = offset;
        let mut header_bytes = 0;
        let mut whole = 0;
        for run in &mut self.runs {
            let header = rest.min(run.header_len);
            run.header_len -= header;
            header_bytes += header;
            rest -= header;
            let body = rest.min(run.log_len);
            run.position += u64::from(body);
            run.log_len -= body;
            rest -= body;
            if run.header_len == 0 && run.log_len == 0 {
                whole += 1;
            } else {
                break;
            }
        }
        self.runs.drain(..whole);
        self.headers.drain(..header_bytes as usize);
        self.len -= u64::from(offset - rest);
    }

    /// Copies a span of several pieces into one, which the kernel takes for less each time that it is
    /// sent. Returns the bytes copied: none where it is one piece, or longer than [`JOINED_LEN_MAX`].
    pub fn join(&mut self, log: &Log) -> u64 {
        let is_one_piece = self.runs.len() <= 1 && self.headers.is_empty();
        if is_one_piece || self.len > JOINED_LEN_MAX {
            return 0;
        }
        let mut joined = std::mem::take(&mut self.joined);
        let mut headers = &self.headers[..];
        for run in &self.runs {
            let (header, rest) = headers.split_at(run.header_len as usize);
            headers = rest;
            joined.extend_from_slice(header);
            log.slices(run.position..run.end()).for_each(|slice| joined.extend_from_slice(&slice));
        }
        self.joined = joined;
        self.len
    }

    /// Appends the span's bytes as slices, in order.
    pub fn slices<'a>(&'a self, log: &'a Log, out: &mut Vec<IoSlice<'a>>) {
        if !self.joined.is_empty() {
            out.push(IoSlice::new(&self.joined));
            return;
        }
        let mut headers = &self.headers[..];
        for run in &self.runs {
            let (header, rest) = headers.split_at(run.header_len as usize);
            headers = rest;
            if !header.is_empty() {
                out.push(IoSlice::new(header));
            }
            out.extend(log.slices(run.position..run.end()));
        }
    }

    /// Bytes of the span.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where a player stands that has got all of it.
    pub fn end(&self) -> Cursor {
        self.end
    }
}

/// Moves a cursor on by bytes that were sent.
pub fn advance(
    packaging: Packaging,
    tracks: TrackSet,
    log: &Log,
    mut cursor: Cursor,
    sent: u64,
) -> Cursor {
    let mut rest = u64::from(cursor.offset) + sent;
    while let Some(entry) = log.entry(cursor.seq) {
        let len = if tracks.has(entry) { packaging.len_of(entry) } else { 0 };
        if rest < len {
            break;
        }
        rest -= len;
        cursor.seq += 1;
    }
    cursor.offset = u32::try_from(rest).expect("within one tag");
    cursor
}

/// Bytes of one span at most: what a socket with a bounded unsent queue takes in a few sends.
pub const SPAN_LEN_MAX: u64 = 256 * 1024;
/// Bytes of a span that is joined at most: a flush of 10 Mbit/s, and what stays in the caches.
const JOINED_LEN_MAX: u64 = 64 * 1024;
/// Runs of one span at most: a run is up to `1 + 64 KiB / CHUNK_LEN + 1` slices and a send takes
/// 1,024 of them.
const SPAN_RUNS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::super::testing::{Writer, payload_of};
    use super::*;
    use crate::limits::MESSAGE_LEN_MAX;
    use crate::media::MediaPart;
    use crate::proto::rtmp::message::Message;

    /// Whole tags one behind the other, encoded anew.
    fn reference(packaging: Packaging, log: &Log) -> Vec<u8> {
        let mut out = Vec::new();
        for seq in log.first_seq()..log.flushed_seq() {
            let entry = log.entry(seq).unwrap();
            let payload = payload_of(log, seq);
            let header = TagHeader::new(entry.kind, entry.timestamp_ms, payload.len() as u32);
            let size = (TAG_HEADER_LEN + payload.len()) as u32;
            let tag = [&header.encode()[..], &payload[..], &size.to_be_bytes()[..]].concat();
            match packaging {
                Packaging::Flv | Packaging::Rtsp => out.extend_from_slice(&tag),
                Packaging::WsFlv => {
                    let (header, len) = websocket::encode_header(tag.len() as u64);
                    out.extend_from_slice(&header[..len]);
                    out.extend_from_slice(&tag);
                }
                Packaging::Rtmp | Packaging::RtmpPush { .. } => {
                    let (stream_id, prefix) = match packaging {
                        Packaging::RtmpPush { stream_id } => (stream_id, SET_DATA_FRAME),
                        _ => (MESSAGE_STREAM_ID, &[][..]),
                    };
                    let is_metadata = payload.starts_with(b"\x02\0\x0aonMetaData");
                    let prefix = if is_metadata { prefix } else { &[] };
                    let message = Message {
                        kind: entry.kind as u8,
                        stream_id,
                        timestamp_ms: entry.timestamp_ms,
                        payload: [prefix, &payload].concat().into(),
                    };
                    let csid = chunk_stream_of(entry.kind);
                    chunk_encoding::encode_message(csid, &message, CHUNK_SIZE_OUT, &mut out);
                }
            }
        }
        out
    }

    fn bytes_from(packaging: Packaging, log: &Log, mut cursor: Cursor) -> Vec<u8> {
        let mut out = Vec::new();
        let mut span = Span::default();
        while cursor.seq < log.flushed_seq() {
            span.encode(packaging, log, cursor, log.flushed_seq());
            let mut slices = Vec::new();
            span.slices(log, &mut slices);
            let before = out.len();
            slices.iter().for_each(|slice| out.extend_from_slice(slice));
            assert_eq!((out.len() - before) as u64, span.len(), "the length of a span");
            assert_eq!(advance(packaging, TrackSet::ALL, log, cursor, span.len()), span.end());
            cursor = span.end();
        }
        out
    }

    const PUSHES: [Packaging; 2] =
        [Packaging::RtmpPush { stream_id: 1 }, Packaging::RtmpPush { stream_id: 7 }];

    /// What every split point must hold, at the given distances from the start.
    fn check_splits(log: &Log, distances: impl Fn(usize) -> Vec<usize>) {
        for packaging in Packaging::OF_FLV.into_iter().chain(PUSHES) {
            let whole = reference(packaging, log);
            let start = Cursor::at(log.first_seq());
            for sent in distances(whole.len()) {
                let cursor = advance(packaging, TrackSet::ALL, log, start, sent as u64);
                assert!(
                    bytes_from(packaging, log, cursor) == whole[sent..],
                    "{packaging:?} {sent}"
                );
            }
            let lens: u64 =
                log.range(log.first_seq()..log.flushed_seq()).map(|of| packaging.len_of(of)).sum();
            assert_eq!(lens, whole.len() as u64, "{packaging:?}");
        }
    }

    #[test]
    fn spans_from_every_offset_are_the_rest_of_the_whole_tags() {
        let mut writer = Writer::opened();
        writer.keyframe(0, 300);
        writer.audio(20, 2);
        // At the border of the extended timestamp and behind it.
        writer.frame(0xff_fffe, 40);
        writer.frame(0xff_ffff, 41);
        writer.audio(0x0100_0000, 100);
        writer.log.flush();
        check_splits(&writer.log, |len| (0..=len).collect());
    }

    #[test]
    fn spans_go_over_holes() {
        let mut writer = Writer::opened();
        for (timestamp_ms, hole_len) in [(0, 1), (40, 300), (80, 0), (120, 70_000)] {
            if hole_len > 0 {
                writer.begin(0, TagKind::Video, timestamp_ms, hole_len);
            }
            writer.begin(1, TagKind::Audio, timestamp_ms, 40);
            writer.part(MediaPart::Abort { lane: 0 });
            writer.data(1, &[0xaf; 40]);
            writer.frame(timestamp_ms, 100);
        }
        writer.log.flush();
        check_splits(&writer.log, |len| (0..=len).collect());
    }

    #[test]
    fn spans_of_large_tags_split_at_chunk_borders_as_well() {
        let mut writer = Writer::opened();
        for (timestamp_ms, len) in
            [(0, CHUNK_SIZE_OUT), (40, CHUNK_SIZE_OUT + 1), (0xff_ffff, 200_000), (0x0100_0001, 9)]
        {
            writer.keyframe(timestamp_ms, len);
        }
        writer.log.flush();
        check_splits(&writer.log, |len| {
            let near = (0..len).step_by(CHUNK_SIZE_OUT).flat_map(|at| at..(at + 60).min(len));
            near.chain((0..len).step_by(7919)).collect()
        });
    }

    #[test]
    fn a_span_is_never_more_slices_than_one_send_takes() {
        const SLICES_MAX: usize = 1024;
        let mut writer = Writer::default();
        for _ in 0..SPAN_RUNS_MAX - 1 {
            writer.frame(0, 6);
        }
        writer.keyframe(40, MESSAGE_LEN_MAX);
        writer.log.flush();
        for packaging in Packaging::OF_FLV {
            let mut span = Span::default();
            span.encode(packaging, &writer.log, Cursor::at(0), writer.log.flushed_seq());
            let mut slices = Vec::new();
            span.slices(&writer.log, &mut slices);
            assert!(slices.len() <= SLICES_MAX, "{packaging:?}: {}", slices.len());
        }
    }

    #[test]
    fn a_joined_span_is_the_same_bytes_in_one_piece() {
        let mut writer = Writer::opened();
        writer.keyframe(0, 300);
        writer.audio(20, 2);
        writer.log.flush();
        let log = &writer.log;
        let mut span = Span::default();
        for packaging in Packaging::OF_FLV {
            span.encode(packaging, log, Cursor::at(log.first_seq()), log.flushed_seq());
            let copied = span.join(log);
            let mut slices = Vec::new();
            span.slices(log, &mut slices);
            assert_eq!(slices.len(), 1);
            assert!(*slices[0] == reference(packaging, log)[..], "{packaging:?}");
            let expected = if packaging == Packaging::Flv { 0 } else { span.len() };
            assert_eq!(copied, expected, "what is one piece is not copied");
        }
    }

    #[test]
    fn metadata_that_is_published_is_a_data_frame_and_other_scripts_are_not() {
        let mut writer = Writer::opened();
        let cue = b"\x02\0\x0aonCuePoint\x05";
        let timestamp_ms = 40;
        writer.part(MediaPart::Script { timestamp_ms, payload: cue.to_vec().into() });
        writer.keyframe(80, 10);
        writer.log.flush();
        let log = &writer.log;
        check_splits(log, |len| (0..=len).collect());
        let is_at = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|at| at == what);
        let prefixed = [SET_DATA_FRAME, b"\x02\0\x0aonMetaData"].concat();
        let greeting = Some(log.kinds());
        for packaging in PUSHES {
            let whole = reference(packaging, log);
            assert!(is_at(&whole, &prefixed) && is_at(&whole, cue));
            assert!(!is_at(&whole, &[SET_DATA_FRAME, cue].concat()));
            let prelude = packaging.encode_prelude(log.prelude(), 80, greeting, TrackSet::ALL);
            assert!(is_at(&prelude, &prefixed));
        }
        let played = Packaging::Rtmp.encode_prelude(log.prelude(), 80, greeting, TrackSet::ALL);
        assert!(!is_at(&played, SET_DATA_FRAME));
    }

    #[test]
    fn each_shared_packaging_has_its_place() {
        for (place, packaging) in Packaging::SHARED.into_iter().enumerate() {
            assert_eq!(packaging.place(), Some(place));
        }
        assert_eq!(PUSHES.map(Packaging::place), [Some(4), None]);
    }

    fn flv_stamps(mut tags: &[u8]) -> Vec<u32> {
        let mut stamps = Vec::new();
        while let Some((header, rest)) = tags.split_first_chunk::<TAG_HEADER_LEN>() {
            let header = TagHeader::decode(*header);
            stamps.push(header.timestamp_ms);
            tags = &rest[header.len as usize + 4..];
        }
        stamps
    }

    #[test]
    fn a_prelude_is_stamped_like_the_frame_behind_it() {
        let mut writer = Writer::opened();
        writer.keyframe(7000, 10);
        writer.log.flush();
        let prelude = writer.log.prelude();
        let greeting = Some(writer.log.kinds());
        let flv = Packaging::Flv.encode_prelude(prelude, 7000, greeting, TrackSet::ALL);
        let (header, tags) = flv.split_at(FILE_HEADER.len());
        assert_eq!(header, FILE_HEADER);
        assert_eq!(flv_stamps(tags), [0, 7000, 7000], "the first metadata at 0");
        let again = Packaging::Flv.encode_prelude(prelude, 7000, None, TrackSet::ALL);
        assert_eq!(flv_stamps(&again), [7000; 3]);
        let frame = Packaging::WsFlv.encode_prelude(prelude, 7000, greeting, TrackSet::ALL);
        assert!(frame.ends_with(&flv), "one frame holds it all");
        assert!(
            Packaging::WsFlv.encode_prelude(&Prelude::default(), 0, None, TrackSet::ALL).is_empty()
        );
    }
}
