//! An RTSP publisher whose packets the test knows.

use std::io::Read;
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use super::player::is_wait;
use super::rtp_media::Media;
use super::rtsp::{Client, Item, Lower, first_of_pair, interleaved, transport_parameter};
use super::rtsp_player::{control_url, udp_pair};

/// Sends a stream in real time, once.
#[derive(Debug)]
pub struct RtspPublisher {
    client: Client,
    url: String,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    sockets: Vec<[UdpSocket; 2]>,
    rtcp: Rtcp,
}

/// What came back as RTCP, each with its track.
type Rtcp = Arc<Mutex<Vec<(usize, Vec<u8>)>>>;

impl RtspPublisher {
    /// Publishes to `url`, at once.
    #[track_caller]
    pub fn start(address: SocketAddr, url: &str, lower: Lower, media: &Media) -> Self {
        Self::start_with(Client::connect(address), url, lower, media)
    }

    /// As [`Self::start`], over this connection.
    #[track_caller]
    pub fn start_with(mut client: Client, url: &str, lower: Lower, media: &Media) -> Self {
        client.demand("OPTIONS", url, &[], "");
        let sdp = [("Content-Type", "application/sdp")];
        client.demand("ANNOUNCE", url, &sdp, &media.description());
        let mut sockets = Vec::new();
        for (index, format) in media.formats.iter().enumerate() {
            let url = control_url(url, &format.control);
            let transport = match lower {
                Lower::Tcp => {
                    let rtp = 2 * index;
                    format!("RTP/AVP/TCP;unicast;interleaved={rtp}-{};mode=record", rtp + 1)
                }
                Lower::Udp => {
                    let own = client.socket.local_addr().expect("a connected socket");
                    let pair = udp_pair(own.ip());
                    let port = pair[0].local_addr().expect("a bound socket").port();
                    sockets.push(pair);
                    format!("RTP/AVP/UDP;unicast;client_port={port}-{};mode=record", port + 1)
                }
            };
            let answer = client.demand("SETUP", &url, &[("Transport", &transport)], "");
            let Some(pair) = sockets.get(index) else { continue };
            let told = answer.header("transport").unwrap_or_default();
            let port = transport_parameter(told, "server_port").and_then(first_of_pair::<u16>);
            let port = port.unwrap_or_else(|| panic!("no server_port in {told:?}"));
            for (socket, port) in pair.iter().zip([port, port + 1]) {
                let relay = client.socket.peer_addr().expect("a connected socket").ip();
                socket.connect((relay, port)).expect("any port can be connected to");
            }
        }
        client.demand("RECORD", url, &[("Range", "npt=0.000-")], "");
        let stopped = Arc::new(AtomicBool::new(false));
        let (url, rtcp) = (url.to_owned(), Rtcp::default());
        let mut publisher = Self { client, url, stopped, threads: Vec::new(), sockets, rtcp };
        publisher.send(media);
        publisher
    }

    fn send(&mut self, media: &Media) {
        let packets = media.packets.clone();
        let mut socket = self.client.socket.try_clone().expect("a second handle");
        let udp: Vec<[UdpSocket; 2]> = self
            .sockets
            .iter()
            .map(|pair| pair.each_ref().map(|socket| socket.try_clone().expect("a handle")))
            .collect();
        let stopped = Arc::clone(&self.stopped);
        self.threads.push(spawn(move || {
            use std::io::Write;
            let start = Instant::now();
            for packet in packets {
                let due = start + Duration::from_millis(packet.at_ms.into());
                while Instant::now() < due && !stopped.load(Ordering::Relaxed) {
                    let left = due.saturating_duration_since(Instant::now());
                    sleep(left.min(Duration::from_millis(50)));
                }
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let sent = match udp.get(packet.track) {
                    // A port may be closed when the relay is; the test tells.
                    Some(pair) => {
                        let _ = pair[usize::from(packet.is_rtcp)].send(&packet.bytes);
                        Ok(())
                    }
                    None => {
                        let channel = 2 * packet.track + usize::from(packet.is_rtcp);
                        let channel = u8::try_from(channel).expect("few tracks");
                        socket.write_all(&interleaved(channel, &packet.bytes))
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        }));
        // The relay's reports must be read, or it stalls.
        let mut reading = self.client.socket.try_clone().expect("a second handle");
        reading.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let (stopped, rtcp) = (Arc::clone(&self.stopped), Arc::clone(&self.rtcp));
        let mut reader = std::mem::take(&mut self.client.reader);
        self.threads.push(spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                match reading.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(len) => reader.push(&buffer[..len]),
                    Err(error) if is_wait(&error) => {}
                    Err(_) => return,
                }
                while let Ok(Some(item)) = reader.next_item() {
                    if let Item::Packet { channel, bytes } = item {
                        let mut rtcp = rtcp.lock().expect("no panic while locked");
                        rtcp.push((usize::from(channel / 2), bytes));
                    }
                }
            }
        }));
        for (track, pair) in self.sockets.iter().enumerate() {
            let socket = pair[1].try_clone().expect("a handle");
            let (stopped, rtcp) = (Arc::clone(&self.stopped), Arc::clone(&self.rtcp));
            self.threads.push(spawn(move || {
                let mut buffer = [0; 2048];
                while !stopped.load(Ordering::Relaxed) {
                    let Ok(len) = socket.recv(&mut buffer) else { continue };
                    let mut rtcp = rtcp.lock().expect("no panic while locked");
                    rtcp.push((track, buffer[..len].to_vec()));
                }
            }));
        }
    }

    /// What the relay has sent back as RTCP so far, each with its track.
    pub fn rtcp(&self) -> Vec<(usize, Vec<u8>)> {
        self.rtcp.lock().expect("no panic while locked").clone()
    }

    /// The port that a track's RTP comes to.
    pub fn relay_port(&self, track: usize) -> SocketAddr {
        self.sockets[track][0].peer_addr().expect("a connected socket")
    }

    /// Whether the relay has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished) && !self.stopped.load(Ordering::Relaxed)
    }

    /// Ends the stream as a publisher should.
    pub fn stop(mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the threads do not panic");
        }
        let session = self.client.session.clone().unwrap_or_default();
        let url = &self.url;
        let request = format!("TEARDOWN {url} RTSP/1.0\r\nCSeq: 99\r\nSession: {session}\r\n\r\n");
        // The relay may have closed it first.
        let _ = self.client.send(request.as_bytes());
    }
}

impl Drop for RtspPublisher {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = self.client.socket.shutdown(Shutdown::Both);
    }
}
