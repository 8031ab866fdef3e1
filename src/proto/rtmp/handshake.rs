//! The handshake, both sides (RTMP 1.0, 5.2), plain and with digests.
//!
//! ```text
//! client          server        C0, S0: version (8)
//!   C0 C1  ---->                C1, S1: time (32) zero or version (32) random (1528 bytes)
//!          <----  S0 S1 S2      C2, S2: the peer's C1 or S1, or random with a digest at its end
//!   C2     ---->
//! ```
//!
//! The digests are Flash Player 9's, unpublished but known from nginx-rtmp, SRS and librtmp: C1 and
//! S1 hold an HMAC-SHA256 of themselves at an offset that they state, in one of two layouts. Flash
//! players want one for H.264; nobody else asks. Encrypted RTMP (versions 6, 8, 9) is refused.

use bytes::{Buf, Bytes};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::proto::rtmp::error::HandshakeError;

/// Bytes of each of C1, S1, C2 and S2.
const BLOCK_LEN: usize = 1536;

type Block = [u8; BLOCK_LEN];

/// How a client introduces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HandshakeKind {
    /// As RTMP 1.0 has it; all servers of today take it.
    #[default]
    Plain,
    /// With digests, for Adobe servers that serve H.264 to no other.
    Digest,
}

/// The server's side.
#[derive(Debug)]
pub struct ServerHandshake {
    rng: fastrand::Rng,
    /// C0 and C1, as far as they have come.
    received: Received,
    /// Bytes of C2 that are still to come, once C1 is answered.
    c2_left: Option<usize>,
}

/// The client's side.
#[derive(Debug)]
pub struct ClientHandshake {
    rng: fastrand::Rng,
    kind: HandshakeKind,
    received: Received,
}

/// What a step of the server's side leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerStep {
    /// The input is used up.
    Waiting,
    /// Send these bytes and go on.
    Reply(Bytes),
    /// What is left of the input are chunks.
    Done,
}

impl ServerHandshake {
    /// `seed` feeds the random bytes; they are no secret.
    pub fn new(seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self { rng, received: Received::default(), c2_left: None }
    }

    /// Takes what belongs to the handshake from `input`.
    ///
    /// # Errors
    /// [`HandshakeError`] for a version that is not served, at its first byte.
    pub fn next_step(&mut self, input: &mut Bytes) -> Result<ServerStep, HandshakeError> {
        if let Some(left) = &mut self.c2_left {
            // C2 is not looked at: encoders that answer with anything are served everywhere.
            let len = input.len().min(*left);
            input.advance(len);
            *left -= len;
            return Ok(if *left == 0 { ServerStep::Done } else { ServerStep::Waiting });
        }
        self.received.fill(input, 1 + BLOCK_LEN);
        self.received.check_version()?;
        let Some(c1) = self.received.block(1) else { return Ok(ServerStep::Waiting) };
        // Players come by the thousand: what each had said is not kept while its C2 is on the way.
        self.received = Received::default();
        self.c2_left = Some(BLOCK_LEN);
        Ok(ServerStep::Reply(self.reply(&c1)))
    }

    fn reply(&mut self, c1: &Block) -> Bytes {
        let mut s1 = random_block(&mut self.rng);
        let mut s2 = *c1;
        s1[4..8].fill(0);
        // Digests come with a player version; a plain C1 has zeros there.
        if c1[4..8] != [0; 4]
            && let Some((layout, c1_digest)) =
                find_digest(c1, &PLAYER_KEY[..PLAYER_KEY_SIGNING_LEN])
        {
            s1[4..8].copy_from_slice(&SERVER_VERSION);
            sign(&mut s1, layout, &SERVER_KEY[..SERVER_KEY_SIGNING_LEN]);
            s2 = answer(&mut self.rng, &SERVER_KEY, &c1_digest);
        }
        [&[VERSION][..], &s1, &s2].concat().into()
    }
}

impl ClientHandshake {
    /// The handshake, and C0 and C1 to be sent at once.
    pub fn new(seed: u64, kind: HandshakeKind) -> (Self, Bytes) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut c1 = random_block(&mut rng);
        match kind {
            HandshakeKind::Plain => c1[4..8].fill(0),
            HandshakeKind::Digest => {
                c1[4..8].copy_from_slice(&PLAYER_VERSION);
                sign(&mut c1, Layout::Early, &PLAYER_KEY[..PLAYER_KEY_SIGNING_LEN]);
            }
        }
        let hello = [&[VERSION][..], &c1].concat().into();
        (Self { rng, kind, received: Received::default() }, hello)
    }

    /// Takes what belongs to the handshake from `input`. C2 to be sent ends it: what is left of
    /// the input then are chunks.
    ///
    /// # Errors
    /// [`HandshakeError`] for a version that is not ours, at its first byte.
    pub fn handle_input(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, HandshakeError> {
        self.received.fill(input, 1 + 2 * BLOCK_LEN);
        self.received.check_version()?;
        // S2 is waited for but not looked at: servers differ in what they echo.
        let (Some(s1), Some(_)) = (self.received.block(1), self.received.block(1 + BLOCK_LEN))
        else {
            return Ok(None);
        };
        let digest = match self.kind {
            HandshakeKind::Plain => None,
            HandshakeKind::Digest => find_digest(&s1, &SERVER_KEY[..SERVER_KEY_SIGNING_LEN]),
        };
        let c2 = match digest {
            Some((_, s1_digest)) => answer(&mut self.rng, &PLAYER_KEY, &s1_digest),
            None => s1,
        };
        Ok(Some(Bytes::copy_from_slice(&c2)))
    }
}

/// The peer's version byte and blocks, as far as they have come.
#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
}

impl Received {
    /// Takes from `input` up to `len_max` bytes in all.
    fn fill(&mut self, input: &mut Bytes, len_max: usize) {
        let len = input.len().min(len_max - self.bytes.len());
        self.bytes.extend_from_slice(&input[..len]);
        input.advance(len);
    }

    fn check_version(&self) -> Result<(), HandshakeError> {
        match self.bytes.first().copied() {
            None | Some(VERSION) => Ok(()),
            Some(version @ (6 | 8 | 9)) => Err(HandshakeError::Encrypted(version)),
            Some(version) => Err(HandshakeError::Version(version)),
        }
    }

    fn block(&self, at: usize) -> Option<Block> {
        self.bytes.get(at..)?.first_chunk().copied()
    }
}

/// Where a block keeps its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// The offset is stated at byte 8, the digest lies in bytes 12 to 771.
    Early,
    /// The offset is stated at byte 772, the digest lies in bytes 776 to 1535.
    Late,
}

impl Layout {
    fn digest_start(self, block: &Block) -> usize {
        let base = match self {
            Self::Early => 8,
            Self::Late => 772,
        };
        let offset: usize = block[base..base + 4].iter().copied().map(usize::from).sum();
        base + 4 + offset % 728
    }
}

fn find_digest(block: &Block, key: &[u8]) -> Option<(Layout, [u8; DIGEST_LEN])> {
    [Layout::Early, Layout::Late].into_iter().find_map(|layout| {
        let digest = block_digest(block, layout, key);
        let start = layout.digest_start(block);
        (block[start..start + DIGEST_LEN] == digest).then_some((layout, digest))
    })
}

fn sign(block: &mut Block, layout: Layout, key: &[u8]) {
    let digest = block_digest(block, layout, key);
    let start = layout.digest_start(block);
    block[start..start + DIGEST_LEN].copy_from_slice(&digest);
}

/// The digest of all but the digest's own place.
fn block_digest(block: &Block, layout: Layout, key: &[u8]) -> [u8; DIGEST_LEN] {
    let start = layout.digest_start(block);
    hmac(key, &[&block[..start], &block[start + DIGEST_LEN..]])
}

/// C2 or S2: random bytes, signed with a key that depends on the digest they answer.
fn answer(rng: &mut fastrand::Rng, key: &[u8], digest: &[u8; DIGEST_LEN]) -> Block {
    let mut block = random_block(rng);
    let key = hmac(key, &[digest]);
    let signature = hmac(&key, &[&block[..BLOCK_LEN - DIGEST_LEN]]);
    block[BLOCK_LEN - DIGEST_LEN..].copy_from_slice(&signature);
    block
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST_LEN] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// A block of random bytes with time zero.
fn random_block(rng: &mut fastrand::Rng) -> Block {
    let mut block = [0; BLOCK_LEN];
    rng.fill(&mut block[8..]);
    block
}

const VERSION: u8 = 3;
const DIGEST_LEN: usize = 32;

/// Player and server versions of the digest era, as nginx-rtmp states them.
const PLAYER_VERSION: [u8; 4] = [9, 0, 124, 2];
const SERVER_VERSION: [u8; 4] = [13, 14, 10, 13];

/// The first part signs C1, all of it C2.
const PLAYER_KEY: [u8; 62] = *b"Genuine Adobe Flash Player 001\
    \xf0\xee\xc2\x4a\x80\x68\xbe\xe8\x2e\x00\xd0\xd1\x02\x9e\x7e\x57\
    \x6e\xec\x5d\x2d\x29\x80\x6f\xab\x93\xb8\xe6\x36\xcf\xeb\x31\xae";
const PLAYER_KEY_SIGNING_LEN: usize = 30;

/// The first part signs S1, all of it S2.
const SERVER_KEY: [u8; 68] = *b"Genuine Adobe Flash Media Server 001\
    \xf0\xee\xc2\x4a\x80\x68\xbe\xe8\x2e\x00\xd0\xd1\x02\x9e\x7e\x57\
    \x6e\xec\x5d\x2d\x29\x80\x6f\xab\x93\xb8\xe6\x36\xcf\xeb\x31\xae";
const SERVER_KEY_SIGNING_LEN: usize = 36;

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs both sides, the server's input cut into pieces of `piece_len`; what the server sent
    /// and what the client answered.
    fn shake(kind: HandshakeKind, piece_len: usize) -> (Bytes, Bytes) {
        let (mut client, hello) = ClientHandshake::new(7, kind);
        let mut server = ServerHandshake::new(8);
        let mut reply = None;
        for piece in hello.chunks(piece_len) {
            let mut input = Bytes::copy_from_slice(piece);
            match server.next_step(&mut input).unwrap() {
                ServerStep::Waiting => assert!(input.is_empty()),
                ServerStep::Reply(bytes) => reply = Some(bytes),
                step => panic!("{step:?} before C2"),
            }
        }
        let reply = reply.expect("C1 is answered");
        let mut answer = None;
        for piece in [&reply[..], b"chunk"].concat().chunks(piece_len) {
            let mut input = Bytes::copy_from_slice(piece);
            match client.handle_input(&mut input).unwrap() {
                None => assert!(input.is_empty()),
                Some(bytes) => {
                    assert!(b"chunk".starts_with(&input));
                    answer = Some(bytes);
                    break;
                }
            }
        }
        let answer = answer.expect("S1 is answered");
        let mut input = Bytes::from([&answer[..], b"chunk"].concat());
        assert_eq!(server.next_step(&mut input), Ok(ServerStep::Done));
        assert_eq!(input, b"chunk"[..]);
        (reply, answer)
    }

    #[test]
    fn plain_sides_echo_each_other() {
        for piece_len in [1, 7, 1536, 1537, 4000] {
            let (reply, answer) = shake(HandshakeKind::Plain, piece_len);
            let (_, hello) = ClientHandshake::new(7, HandshakeKind::Plain);
            assert_eq!(reply[0], 3);
            assert_eq!(reply[1 + BLOCK_LEN..], hello[1..]);
            assert_eq!(answer[..], reply[1..1 + BLOCK_LEN]);
        }
    }

    #[test]
    fn digests_are_answered_with_digests() {
        for piece_len in [1, 1537, 4000] {
            let (reply, answer) = shake(HandshakeKind::Digest, piece_len);
            let s1 = reply[1..].first_chunk().unwrap();
            let (_, s1_digest) = find_digest(s1, b"Genuine Adobe Flash Media Server 001").unwrap();
            let (signed, signature) = answer.split_at(BLOCK_LEN - DIGEST_LEN);
            let key = hmac(&PLAYER_KEY, &[&s1_digest]);
            assert_eq!(signature, hmac(&key, &[signed]));
        }
    }

    #[test]
    fn both_layouts_are_found() {
        let mut block = random_block(&mut fastrand::Rng::with_seed(1));
        assert_eq!(find_digest(&block, b"key"), None);
        for layout in [Layout::Early, Layout::Late] {
            sign(&mut block, layout, b"key");
            assert_eq!(find_digest(&block, b"key").map(|(found, _)| found), Some(layout));
        }
        block[..].fill(0xff);
        for layout in [Layout::Early, Layout::Late] {
            assert!(layout.digest_start(&block) + DIGEST_LEN <= BLOCK_LEN);
        }
    }

    #[test]
    fn version_without_digest_is_answered_plainly() {
        let mut c1 = random_block(&mut fastrand::Rng::with_seed(1));
        c1[4..8].copy_from_slice(&PLAYER_VERSION);
        let mut input = Bytes::from([&[3][..], &c1].concat());
        let step = ServerHandshake::new(1).next_step(&mut input).unwrap();
        let ServerStep::Reply(reply) = step else { panic!("{step:?}") };
        assert_eq!(reply[1 + BLOCK_LEN..], c1);
    }

    #[test]
    fn other_versions_are_refused_at_the_first_byte() {
        let server = |version: u8| {
            ServerHandshake::new(1).next_step(&mut Bytes::copy_from_slice(&[version]))
        };
        assert_eq!(server(3), Ok(ServerStep::Waiting));
        assert_eq!(server(6), Err(HandshakeError::Encrypted(6)));
        assert_eq!(server(b'G'), Err(HandshakeError::Version(b'G')));
        let (mut client, _) = ClientHandshake::new(1, HandshakeKind::Plain);
        assert_eq!(
            client.handle_input(&mut Bytes::from_static(&[8])),
            Err(HandshakeError::Encrypted(8))
        );
    }
}
