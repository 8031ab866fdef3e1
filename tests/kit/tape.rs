//! What went over the wire, kept as a pcap file for tshark to judge.
//!
//! The tests' own sockets note what they read and write, and the headers of IP, TCP and UDP are made
//! here. What an interface saw is `namespace::Capture`'s.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::spawn;
use std::time::{Duration, Instant};

use super::player::is_wait;

/// Which way bytes went, as its owner sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

#[derive(Debug)]
struct Frame {
    at: Duration,
    way: Way,
    is_tcp: bool,
    from_port: u16,
    to_port: u16,
    bytes: Vec<u8>,
}

/// A recording that several threads add to.
#[derive(Debug, Clone)]
pub struct Tape {
    start: Instant,
    frames: Arc<Mutex<Vec<Frame>>>,
}

impl Tape {
    pub fn new() -> Self {
        Self { start: Instant::now(), frames: Arc::default() }
    }

    pub fn tcp(&self, socket: &TcpStream, way: Way, bytes: &[u8]) {
        if let (Ok(own), Ok(peer)) = (socket.local_addr(), socket.peer_addr()) {
            self.push(true, own, peer, way, bytes);
        }
    }

    pub fn udp(&self, socket: &UdpSocket, peer: SocketAddr, way: Way, bytes: &[u8]) {
        if let Ok(own) = socket.local_addr() {
            self.push(false, own, peer, way, bytes);
        }
    }

    fn push(&self, is_tcp: bool, own: SocketAddr, peer: SocketAddr, way: Way, bytes: &[u8]) {
        let (from_port, to_port) = match way {
            Way::In => (peer.port(), own.port()),
            Way::Out => (own.port(), peer.port()),
        };
        let at = self.start.elapsed();
        let frame = Frame { at, way, is_tcp, from_port, to_port, bytes: bytes.to_vec() };
        self.frames.lock().expect("no panic while locked").push(frame);
    }

    /// The bytes that went one way over the only connection.
    pub fn bytes(&self, way: Way) -> Vec<u8> {
        let frames = self.frames.lock().expect("no panic while locked");
        let of_way = frames.iter().filter(|frame| frame.way == way);
        of_way.flat_map(|frame| frame.bytes.clone()).collect()
    }

    /// Writes a pcap file (raw IP).
    pub fn write(&self, path: &Path) {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, LINK_RAW] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        let mut sent: Vec<((u16, u16), u32)> = Vec::new();
        for frame in self.frames.lock().expect("no panic while locked").iter() {
            for piece in frame.bytes.chunks(PIECE_LEN) {
                let packet = if frame.is_tcp {
                    let way = (frame.from_port, frame.to_port);
                    let acknowledged = count(&mut sent, (way.1, way.0), 0);
                    let sequence = count(&mut sent, way, piece.len());
                    tcp_packet(way, sequence, acknowledged, piece)
                } else {
                    udp_packet((frame.from_port, frame.to_port), piece)
                };
                let seconds = u32::try_from(frame.at.as_secs()).expect("a short test");
                let len = u32::try_from(packet.len()).expect("a short packet");
                for word in [seconds, frame.at.subsec_micros(), len, len] {
                    file.extend_from_slice(&word.to_le_bytes());
                }
                file.extend_from_slice(&packet);
            }
        }
        std::fs::write(path, file).expect("a pcap file");
    }
}

/// Bytes that went a way before these.
fn count(sent: &mut Vec<((u16, u16), u32)>, way: (u16, u16), len: usize) -> u32 {
    if !sent.iter().any(|(have, _)| *have == way) {
        sent.push((way, 1));
    }
    let entry = sent.iter_mut().find(|(have, _)| *have == way).expect("just made");
    let before = entry.1;
    entry.1 += u32::try_from(len).expect("a short piece");
    before
}

fn tcp_packet(ports: (u16, u16), sequence: u32, acknowledged: u32, body: &[u8]) -> Vec<u8> {
    let mut packet = ip_header(6, 20 + body.len());
    packet.extend_from_slice(&ports.0.to_be_bytes());
    packet.extend_from_slice(&ports.1.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&acknowledged.to_be_bytes());
    packet.extend_from_slice(&[0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    packet.extend_from_slice(body);
    packet
}

fn udp_packet(ports: (u16, u16), body: &[u8]) -> Vec<u8> {
    let mut packet = ip_header(17, 8 + body.len());
    let len = u16::try_from(8 + body.len()).expect("a short datagram");
    for word in [ports.0, ports.1, len, 0] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.extend_from_slice(body);
    packet
}

fn ip_header(protocol: u8, len: usize) -> Vec<u8> {
    let [high, low] = u16::try_from(20 + len).expect("a short packet").to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    for _ in 0..2 {
        header.extend_from_slice(&Ipv4Addr::LOCALHOST.octets());
    }
    header
}

/// A port before another one: what passes is noted.
#[derive(Debug)]
pub struct Tap {
    pub address: SocketAddr,
    pub tape: Tape,
}

impl Tap {
    /// Passes connections on to `target`; ends with the process.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let tape = Tape::new();
        let for_thread = tape.clone();
        spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let Ok(far) = TcpStream::connect(target) else { continue };
                let others = (near.try_clone(), far.try_clone());
                let (Ok(near_too), Ok(far_too)) = others else { continue };
                let (in_tape, out_tape) = (for_thread.clone(), for_thread.clone());
                // Ports as the near side has them, in both ways.
                spawn(move || pass(near_too, far_too, &in_tape, Way::In));
                spawn(move || pass(far, near, &out_tape, Way::Out));
            }
        });
        Self { address, tape }
    }
}

/// `way` is that of the bytes as the near socket sees them.
fn pass(mut from: TcpStream, mut to: TcpStream, tape: &Tape, way: Way) {
    let mut buffer = [0; 16_384];
    loop {
        match from.read(&mut buffer) {
            Err(error) if is_wait(&error) => {}
            Ok(0) | Err(_) => break,
            Ok(len) => {
                let near = if way == Way::In { &from } else { &to };
                tape.tcp(near, way, &buffer[..len]);
                if to.write_all(&buffer[..len]).is_err() {
                    break;
                }
            }
        }
    }
    // The other side may be gone.
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

/// LINKTYPE_RAW
const LINK_RAW: u32 = 101;

/// Longest body of a packet.
const PIECE_LEN: usize = 16_384;
