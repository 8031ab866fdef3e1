//! FLV as the tests read it: strict, and nothing shared with the relay's own parser.
//!
//! FLV 10.1 annex E, and Enhanced RTMP v2 for the extended headers.

/// What a tag carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Audio,
    Video,
    Script,
}

impl Kind {
    pub fn of(number: u8) -> Option<Self> {
        match number & 0x1f {
            8 => Some(Self::Audio),
            9 => Some(Self::Video),
            18 => Some(Self::Script),
            _ => None,
        }
    }

    pub fn number(self) -> u8 {
        match self {
            Self::Audio => 8,
            Self::Video => 9,
            Self::Script => 18,
        }
    }
}

/// One tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    pub kind: Kind,
    pub timestamp_ms: u32,
    pub payload: Vec<u8>,
}

/// What a tag is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Codec configuration, needed before the first frame.
    Config,
    /// A coded frame at which a decoder can start. Every audio frame is one.
    Keyframe,
    /// A coded frame that needs those before it.
    Frame,
    /// Script data, end of sequence, color metadata: carries no coded frame.
    Other,
}

impl Tag {
    pub fn role(&self) -> Role {
        let first = self.payload.first().copied().unwrap_or(0);
        let second = self.payload.get(1).copied().unwrap_or(0);
        match self.kind {
            Kind::Script => Role::Other,
            Kind::Audio if first >> 4 == 9 => match first & 0x0f {
                0 => Role::Config,
                1 => Role::Keyframe,
                _ => Role::Other,
            },
            Kind::Audio if first >> 4 == 10 && second == 0 => Role::Config,
            Kind::Audio => Role::Keyframe,
            Kind::Video => {
                let coded = if first >> 4 & 7 == 1 { Role::Keyframe } else { Role::Frame };
                match (first & 0x80 != 0, first & 0x0f, second) {
                    (true, 0 | 5, _) => Role::Config,
                    (true, 1 | 3, _) => coded,
                    (true, ..) => Role::Other,
                    (false, 7, 0) => Role::Config,
                    (false, 7, 1) => coded,
                    (false, 7, _) => Role::Other,
                    (false, ..) => coded,
                }
            }
        }
    }

    pub fn is_coded(&self) -> bool {
        matches!(self.role(), Role::Keyframe | Role::Frame)
    }

    pub fn is_video_keyframe(&self) -> bool {
        self.kind == Kind::Video && self.role() == Role::Keyframe
    }
}

/// FLV bytes in, tags out.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Vec<u8>,
    header_seen: bool,
    previous_len: u32,
}

impl Reader {
    /// The tags that `bytes` complete.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Tag>, String> {
        self.buffer.extend_from_slice(bytes);
        let mut tags = Vec::new();
        let mut at = 0;
        if !self.header_seen {
            if self.buffer.len() < 9 {
                return Ok(tags);
            }
            if &self.buffer[..4] != b"FLV\x01" || self.buffer[5..9] != [0, 0, 0, 9] {
                return Err(format!("no FLV header: {:02x?}", &self.buffer[..9]));
            }
            self.header_seen = true;
            at = 9;
        }
        while let Some((tag, len)) = self.next_tag(at)? {
            tags.push(tag);
            at += len;
        }
        self.buffer.drain(..at);
        Ok(tags)
    }

    /// PreviousTagSize and the tag after it.
    fn next_tag(&mut self, at: usize) -> Result<Option<(Tag, usize)>, String> {
        let rest = &self.buffer[at..];
        if rest.len() < 15 {
            return Ok(None);
        }
        let previous_len = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
        if previous_len != self.previous_len {
            return Err(format!("PreviousTagSize {previous_len}, want {}", self.previous_len));
        }
        let len = u32::from_be_bytes([0, rest[5], rest[6], rest[7]]);
        let timestamp_ms = u32::from_be_bytes([rest[11], rest[8], rest[9], rest[10]]);
        let end = 15 + len as usize;
        let kind = Kind::of(rest[4]).ok_or_else(|| format!("tag type {}", rest[4]))?;
        if rest[12..15] != [0, 0, 0] {
            return Err(format!("stream id {:02x?}", &rest[12..15]));
        }
        if rest.len() < end {
            return Ok(None);
        }
        let tag = Tag { kind, timestamp_ms, payload: rest[15..end].to_vec() };
        self.previous_len = 11 + len;
        Ok(Some((tag, end)))
    }
}

/// The tags of a file; a tag cut off at the end is left out.
#[track_caller]
pub fn read(path: &std::path::Path) -> Vec<Tag> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Reader::default().push(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The FLV header and the PreviousTagSize before the first tag.
pub fn header(audio: bool, video: bool) -> Vec<u8> {
    let flags = u8::from(audio) << 2 | u8::from(video);
    vec![b'F', b'L', b'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0]
}

/// A tag and its PreviousTagSize.
pub fn encode(tag: &Tag) -> Vec<u8> {
    let len = u32::try_from(tag.payload.len()).expect("a tag of a small file");
    let [_, l1, l2, l3] = len.to_be_bytes();
    let [t0, t1, t2, t3] = tag.timestamp_ms.to_be_bytes();
    let mut bytes = vec![tag.kind.number(), l1, l2, l3, t1, t2, t3, t0, 0, 0, 0];
    bytes.extend_from_slice(&tag.payload);
    bytes.extend_from_slice(&(len + 11).to_be_bytes());
    bytes
}
