//! Small readers of what players get, written anew so that they share no mistake with the program.

use rillcast::media::TagKind;
use rillcast::stream::Packaging;

/// A tag as a player got it.
pub(crate) struct Tag {
    pub(crate) kind: TagKind,
    pub(crate) timestamp_ms: u32,
    pub(crate) payload: Vec<u8>,
}

/// Reads one player's bytes.
pub(crate) struct Parser {
    packaging: Packaging,
    /// What is not read yet.
    bytes: Vec<u8>,
    /// FLV inside of WebSocket frames.
    flv: Vec<u8>,
    saw_header: bool,
    /// Replies of the protocol that came between the tags.
    pub(crate) replies: u64,
}

const CHUNK_LEN: usize = 65_536;

impl Parser {
    pub(crate) fn new(packaging: Packaging) -> Self {
        Self { packaging, bytes: Vec::new(), flv: Vec::new(), saw_header: false, replies: 0 }
    }

    /// Takes bytes and appends the tags that they complete.
    pub(crate) fn handle_input(&mut self, input: &[u8], tags: &mut Vec<Tag>) {
        self.bytes.extend_from_slice(input);
        match self.packaging {
            Packaging::Flv | Packaging::Rtsp => {
                read_flv(&mut self.bytes, &mut self.saw_header, tags)
            }
            Packaging::WsFlv => {
                self.read_frames();
                read_flv(&mut self.flv, &mut self.saw_header, tags);
                assert!(self.flv.is_empty(), "a WebSocket frame ends within a tag");
            }
            Packaging::Rtmp | Packaging::RtmpPush { .. } => self.read_messages(tags),
        }
    }

    /// Whether a goodbye could follow now.
    pub(crate) fn is_between_tags(&self) -> bool {
        self.bytes.is_empty()
    }

    fn read_frames(&mut self) {
        let mut at = 0;
        while let Some((frame_len, header_len)) = frame_len(&self.bytes[at..]) {
            if self.bytes.len() < at + frame_len {
                break;
            }
            match self.bytes[at] {
                0x82 => {
                    self.flv.extend_from_slice(&self.bytes[at + header_len..at + frame_len]);
                }
                0x8a => self.replies += 1,
                other => panic!("a frame that we never send: {other:#x}"),
            }
            at += frame_len;
        }
        self.bytes.drain(..at);
    }

    /// A tag without what a push has before it.
    fn pushed(&self, mut tag: Tag) -> Tag {
        if matches!(self.packaging, Packaging::RtmpPush { .. }) && tag.kind == TagKind::Script {
            let rest =
                tag.payload.strip_prefix(SET_DATA_FRAME).expect("metadata is pushed as such");
            tag.payload = rest.to_vec();
        }
        tag
    }

    fn read_messages(&mut self, tags: &mut Vec<Tag>) {
        let mut at = 0;
        while let Some((message, len)) = read_message(&self.bytes[at..]) {
            at += len;
            match message {
                Some(tag) => tags.push(self.pushed(tag)),
                None => self.replies += 1,
            }
        }
        self.bytes.drain(..at);
    }
}

/// What goes before metadata that is pushed.
const SET_DATA_FRAME: &[u8] = b"\x02\0\x0d@setDataFrame";

fn read_flv(bytes: &mut Vec<u8>, saw_header: &mut bool, tags: &mut Vec<Tag>) {
    let mut at = 0;
    if !*saw_header {
        let Some(header) = bytes.get(..13) else { return };
        assert_eq!(&header[..4], b"FLV\x01", "no FLV header");
        assert!(matches!(header[4], 1 | 4 | 5), "no kind of media in the FLV header");
        assert_eq!(header[5..], [0, 0, 0, 9, 0, 0, 0, 0], "no end of the FLV header");
        *saw_header = true;
        at = 13;
    }
    while bytes.len() >= at + 11 {
        let head = &bytes[at..at + 11];
        let payload_len = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        let timestamp_ms = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
        let kind = TagKind::from_number(head[0]).expect("a tag of no known kind");
        assert_eq!(head[8..11], [0; 3], "a stream id");
        let end = at + 11 + payload_len + 4;
        if bytes.len() < end {
            break;
        }
        let payload = bytes[at + 11..end - 4].to_vec();
        let size = u32::from_be_bytes(bytes[end - 4..end].try_into().expect("four bytes"));
        assert_eq!(size as usize, payload_len + 11, "the size behind a tag is wrong");
        tags.push(Tag { kind, timestamp_ms, payload });
        at = end;
    }
    bytes.drain(..at);
}

/// Bytes of the frame at the start, and of its header, as soon as they can be told.
fn frame_len(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header_len, payload_len) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        len => (2, usize::from(len)),
    };
    assert!(payload_len < 1 << 30, "a frame's length is nonsense");
    Some((header_len + payload_len, header_len))
}

/// The message at the start and its bytes: `None` inside for a reply of the protocol.
fn read_message(bytes: &[u8]) -> Option<(Option<Tag>, usize)> {
    let head = bytes.get(..12)?;
    let csid = head[0];
    let number = head[7];
    let len = u32::from_be_bytes([0, head[4], head[5], head[6]]) as usize;
    let mut timestamp_ms = u32::from_be_bytes([0, head[1], head[2], head[3]]);
    let mut at = 12;
    let is_extended = timestamp_ms == 0xff_ffff;
    let extension = |at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    if is_extended {
        timestamp_ms = extension(at)?;
        at += 4;
    }
    let kind = TagKind::from_number(number);
    let expected_csid = match kind {
        Some(TagKind::Audio) => 4,
        Some(TagKind::Script) => 5,
        Some(TagKind::Video) => 6,
        None => 2,
    };
    assert_eq!(csid, expected_csid, "chunk stream of a message of type {number}");
    let mut payload = Vec::with_capacity(len);
    loop {
        let piece = (len - payload.len()).min(CHUNK_LEN);
        payload.extend_from_slice(bytes.get(at..at + piece)?);
        at += piece;
        if payload.len() == len {
            break;
        }
        assert_eq!(*bytes.get(at)?, 0xc0 | csid, "no continuation where one must be");
        at += 1;
        if is_extended {
            assert_eq!(extension(at)?, timestamp_ms, "another timestamp in a continuation");
            at += 4;
        }
    }
    Some((kind.map(|kind| Tag { kind, timestamp_ms, payload }), at))
}
