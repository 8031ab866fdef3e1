//! The name server of a test's own network, which answers when it is told to: that there is no such name.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::spawn;
use std::time::Duration;

use super::namespace::ip;

/// Stands at the addresses that this host asks for names.
#[derive(Debug)]
pub struct NameServer {
    asked: Arc<AtomicUsize>,
    answers: Arc<AtomicBool>,
}

impl NameServer {
    /// To be called within `Namespace::run`. Ends with the process.
    #[track_caller]
    pub fn start() -> Self {
        let (asked, answers) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        for address in addresses() {
            if !address.is_loopback() {
                ip(&["address", "add", &address.to_string(), "dev", "lo"]);
            }
            let socket = UdpSocket::bind((address, 53)).expect("nothing else is here");
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
            let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
            spawn(move || serve(&socket, &asked, &answers));
        }
        Self { asked, answers }
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Answers whatever it was asked and will be.
    pub fn answer(&self) {
        self.answers.store(true, Ordering::SeqCst);
    }
}

/// As the C library has them (resolv.conf(5)).
fn addresses() -> Vec<IpAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let told = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    let mut addresses: Vec<IpAddr> = told.filter_map(|name| name.trim().parse().ok()).collect();
    addresses.dedup();
    if addresses.is_empty() {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    addresses
}

fn serve(socket: &UdpSocket, asked: &AtomicUsize, answers: &AtomicBool) {
    let mut held = Vec::new();
    let mut buffer = [0; 512];
    loop {
        if let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            asked.fetch_add(1, Ordering::SeqCst);
            held.push((buffer[..len].to_vec(), peer));
        }
        if answers.load(Ordering::SeqCst) {
            for (mut query, peer) in held.drain(..) {
                // A response, recursion available, no such name (RFC 1035, 4.1.1).
                query[2] |= 0x80;
                query[3] = 0x83;
                // Who asked may have given up.
                let _ = socket.send_to(&query, peer);
            }
        }
    }
}
