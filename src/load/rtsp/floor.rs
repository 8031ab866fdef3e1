//! The floor under the price of RTP: the clip's packets, made once, to N players by bare system calls.
//!
//! Over TCP each packet behind its four bytes of RTSP, over UDP from a connected socket for each
//! player and track. Players are not read from once they play: their reports stay in the sockets.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::super::Failure;
use super::super::clip::Clip;
use super::source::{self, RtpSource};
use super::udp::UdpPair;
use crate::clock;
use crate::limits::LOAD_REQUEST_LEN_MAX;
use crate::proto::Output;
use crate::proto::rtsp::message::interleaved_header;
use crate::proto::rtsp::server::Refusal;
use crate::proto::rtsp::{
    LowerTransport, ServerConfig, ServerEvent, ServerSession, SessionDescription,
};
use crate::ring::{EgressRing, socket};

/// What a player of the floor is served with.
#[derive(Debug)]
pub(in crate::load) struct FloorPlayer {
    connection: TcpStream,
    /// Of each track, over UDP.
    sockets: Vec<UdpSocket>,
    /// Where they are connected to.
    peers: Vec<SocketAddr>,
}

/// The packets of one flush, in one run of bytes.
#[derive(Debug)]
pub(in crate::load) struct Packets {
    source: RtpSource,
    transport: LowerTransport,
    bytes: Vec<u8>,
    /// Each packet: its track, and where its bytes are, with the header of RTSP over TCP.
    places: Vec<(usize, Range<usize>)>,
}

/// The calls that packets are sent by.
pub(in crate::load) enum Calls {
    /// One for each packet.
    Single,
    /// The same over UDP with the player's address in each, as from a socket that is not connected.
    Addressed,
    /// One for all packets of a flush that can go together.
    Joined,
    Uring(Box<EgressRing>),
}

/// Packets of one track that the kernel cuts apart by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    track: usize,
    bytes: Range<usize>,
    /// Bytes of each packet but the last, which may be shorter.
    segment_len: usize,
    count: usize,
}

impl FloorPlayer {
    /// Serves a connection up to its PLAY.
    pub(in crate::load) fn accept(
        mut connection: TcpStream,
        description: &SessionDescription,
    ) -> Result<Self, Failure> {
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut session = ServerSession::new(clock::now(), 1, ServerConfig::default());
        let (mut sockets, mut peers) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; LOAD_REQUEST_LEN_MAX];
        let mut is_playing = false;
        loop {
            let now = clock::now();
            while let Some(output) = session.poll_output() {
                match output {
                    Output::Send(bytes) => connection.write_all(&bytes)?,
                    Output::Event(ServerEvent::Describe(_)) => {
                        session.accept_describe(now, description.clone())?;
                    }
                    Output::Event(ServerEvent::SetupUdp { client_port, .. }) => {
                        let pair = UdpPair::bind(connection.local_addr()?.ip())?;
                        pair.connect(connection.peer_addr()?.ip(), client_port)?;
                        session.accept_udp(now, pair.ports())?;
                        let socket = pair.into_rtp();
                        peers.push(socket.peer_addr()?);
                        sockets.push(socket);
                    }
                    Output::Event(ServerEvent::Play(_)) => {
                        session.accept_play(now, &[])?;
                        is_playing = true;
                    }
                    Output::Event(_) => session.refuse(now, Refusal::Unavailable)?,
                }
            }
            if is_playing {
                connection.set_nodelay(true)?;
                return Ok(Self { connection, sockets, peers });
            }
            match connection.read(&mut buffer)? {
                0 => return Err("a player left before it played".into()),
                len => session.handle_input(now, Bytes::copy_from_slice(&buffer[..len]))?,
            }
        }
    }
}

impl Packets {
    pub(in crate::load) fn new(clip: &Clip, transport: LowerTransport) -> Result<Self, Failure> {
        let source = RtpSource::new(clip, SEED)?;
        Ok(Self { source, transport, bytes: Vec::new(), places: Vec::new() })
    }

    pub(in crate::load) fn description(&self) -> SessionDescription {
        self.source.description()
    }

    /// Makes the packets of the tags, of which the first of all was due at `start_ns`.
    pub(in crate::load) fn make(&mut self, clip: &Clip, tags: Range<u64>, start_ns: u64) {
        self.bytes.clear();
        self.places.clear();
        let (bytes, places, transport) = (&mut self.bytes, &mut self.places, self.transport);
        for index in tags {
            let due_ns = start_ns + clip.tag(index).1 * 1_000_000;
            self.source.packetize(clip, index, due_ns, |track, packet| {
                let start = bytes.len();
                if transport == LowerTransport::Tcp {
                    let header = interleaved_header(2 * track as u8, packet.len() as u16);
                    bytes.extend_from_slice(&header);
                }
                source::append(&packet, bytes);
                places.push((track, start..bytes.len()));
            });
        }
    }

    /// Sends them to all players. Those whose connection is full or gone are left.
    pub(in crate::load) fn send(&self, calls: &mut Calls, players: &mut Vec<FloorPlayer>) {
        match (calls, self.transport) {
            (Calls::Uring(ring), LowerTransport::Tcp) => {
                let mut gone = Vec::new();
                let mut batch = ring.batch();
                let span = batch.add_span(&[IoSlice::new(&self.bytes)]);
                for (slot, player) in players.iter().enumerate() {
                    batch.push(player.connection.as_raw_fd(), slot as u32, span);
                }
                batch.submit(|slot, _| gone.push(slot as usize));
                gone.sort_unstable();
                for slot in gone.into_iter().rev() {
                    players.swap_remove(slot);
                }
            }
            (Calls::Uring(ring), LowerTransport::Udp) => {
                let mut batch = ring.batch();
                let spans = self.places.iter().map(|(track, place)| {
                    (*track, batch.add_span(&[IoSlice::new(&self.bytes[place.clone()])]))
                });
                let spans: Vec<_> = spans.collect();
                for (slot, player) in players.iter().enumerate() {
                    for (track, span) in &spans {
                        batch.push(player.sockets[*track].as_raw_fd(), slot as u32, *span);
                    }
                }
                // What a socket does not take is lost, as on any way over UDP.
                batch.submit(|_, _| {});
            }
            (Calls::Single | Calls::Addressed, LowerTransport::Tcp) => players.retain(|player| {
                let taken = |(_, place): &(usize, Range<usize>)| {
                    is_taken(&player.connection, &self.bytes[place.clone()])
                };
                self.places.iter().all(taken)
            }),
            (Calls::Joined, LowerTransport::Tcp) => {
                players.retain(|player| is_taken(&player.connection, &self.bytes));
            }
            (Calls::Single, LowerTransport::Udp) => {
                for player in players {
                    for (track, place) in &self.places {
                        let _ = player.sockets[*track].send(&self.bytes[place.clone()]);
                    }
                }
            }
            (Calls::Addressed, LowerTransport::Udp) => {
                for player in players {
                    for (track, place) in &self.places {
                        let (socket, peer) = (&player.sockets[*track], player.peers[*track]);
                        let _ = socket.send_to(&self.bytes[place.clone()], peer);
                    }
                }
            }
            (Calls::Joined, LowerTransport::Udp) => {
                let runs = self.runs();
                for player in players {
                    for run in &runs {
                        let _ = self.send_run(player.sockets[run.track].as_raw_fd(), run);
                    }
                }
            }
        }
    }

    fn send_run(&self, fd: RawFd, run: &Run) -> io::Result<usize> {
        let bytes = [IoSlice::new(&self.bytes[run.bytes.clone()])];
        let segment_len = run.segment_len as u16;
        let control = [ControlMessage::UdpGsoSegments(&segment_len)];
        let control = if run.count > 1 { &control[..] } else { &[] };
        Ok(sendmsg::<()>(fd, &bytes, control, MsgFlags::MSG_DONTWAIT, None)?)
    }

    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (track, place) in &self.places {
            if let Some(run) = runs.last_mut()
                && run.takes(*track, place.len())
            {
                run.bytes.end = place.end;
                run.count += 1;
            } else {
                let (bytes, segment_len) = (place.clone(), place.len());
                runs.push(Run { track: *track, bytes, segment_len, count: 1 });
            }
        }
        runs
    }
}

impl Run {
    /// Whether a packet may follow: all but the last are of one length.
    fn takes(&self, track: usize, len: usize) -> bool {
        let is_even = self.bytes.len() == self.segment_len * self.count;
        self.track == track
            && is_even
            && len <= self.segment_len
            && self.count < SEGMENTS_MAX
            && self.bytes.len() + len <= DATAGRAM_LEN_MAX
    }
}

fn is_taken(connection: &TcpStream, bytes: &[u8]) -> bool {
    matches!(socket::send_now(connection, bytes), Ok(len) if len == bytes.len())
}

/// All threads make the same packets.
const SEED: u64 = 1;

/// `UDP_MAX_SEGMENTS` of kernels before 6.9, and the longest datagram (udp(7)).
const SEGMENTS_MAX: usize = 64;
const DATAGRAM_LEN_MAX: usize = 65_507;

#[cfg(test)]
mod tests {
    use super::super::super::clip::Clip;
    use super::*;

    #[test]
    fn runs_have_all_packets_and_only_the_last_is_shorter() {
        let clip = Clip::load(None).expect("it is ours");
        let mut packets = Packets::new(&clip, LowerTransport::Udp).expect("H.264 and AAC");
        let mut joined = 0;
        for index in 0..clip.tags.len() as u64 - 4 {
            packets.make(&clip, index..index + 4, 0);
            let mut places = packets.places.iter();
            for run in packets.runs() {
                let of_run: Vec<_> = places.by_ref().take(run.count).collect();
                let is_of_track = |(track, _): &&(usize, Range<usize>)| *track == run.track;
                assert!(of_run.iter().all(is_of_track));
                let (_, last) = of_run.last().expect("a packet");
                assert_eq!(run.bytes, of_run[0].1.start..last.end);
                let lens: Vec<usize> = of_run.iter().map(|(_, place)| place.len()).collect();
                assert!(lens[..lens.len() - 1].iter().all(|len| *len == run.segment_len));
                assert!(lens[lens.len() - 1] <= run.segment_len && run.count <= SEGMENTS_MAX);
                joined += usize::from(run.count > 1);
            }
            assert_eq!(places.next(), None, "no packet is left out");
        }
        assert!(joined > 20, "{joined}");
    }

    #[test]
    fn interleaved_packets_are_behind_their_headers() {
        let clip = Clip::load(None).expect("it is ours");
        let mut packets = Packets::new(&clip, LowerTransport::Tcp).expect("H.264 and AAC");
        packets.make(&clip, 0..4, 0);
        assert!(packets.places.len() >= 4);
        for (track, place) in &packets.places {
            let bytes = &packets.bytes[place.clone()];
            assert_eq!(bytes[..2], [b'$', 2 * *track as u8]);
            assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len() - 4);
        }
        let whole = 0..packets.bytes.len();
        let ends =
            packets.places.first().expect("one").1.start..packets.places.last().expect("one").1.end;
        assert_eq!(ends, whole);
    }
}
