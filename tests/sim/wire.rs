//! Fake sockets of players: they take what their pace allows.

use std::collections::{BTreeMap, HashSet};

use rillcast::egress::{Batch, Shortfall, Wire};

/// How a player's socket takes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Everything at once.
    Fast,
    /// So many bytes each time that it is writable.
    Slow(u64),
    /// Nothing more after so many bytes.
    Stalls,
    /// Fails after so many bytes.
    Breaks,
}

/// A player's socket.
pub(crate) struct FakeSocket {
    pub(crate) pace: Pace,
    /// Bytes that it takes before it is full, or fails.
    pub(crate) room: u64,
    /// Taken and not looked at.
    pub(crate) inbox: Vec<u8>,
}

/// All sockets by their descriptor. A closed one is gone, and sending to it is a fault.
#[derive(Default)]
pub(crate) struct FakeWire {
    pub(crate) sockets: BTreeMap<i32, FakeSocket>,
    /// Sockets with something in their inbox.
    pub(crate) touched: Vec<i32>,
    pub(crate) sends: u64,
}

const EPIPE: i32 = 32;

impl Wire for FakeWire {
    fn send(&mut self, batch: &Batch<'_>, shortfalls: &mut Vec<Shortfall>) {
        let mut seen = HashSet::new();
        for send in &batch.sends {
            assert!(seen.insert(send.socket), "a socket stands in a batch twice");
            let socket = self.sockets.get_mut(&send.socket.0).expect("sent to a closed socket");
            let span = batch.span(send.span);
            let len: u64 = span.iter().map(|slice| slice.len() as u64).sum();
            assert!(len > 0, "an empty send");
            self.sends += 1;
            let mut rest = socket.take(len);
            let taken = rest;
            for slice in span {
                let part = (slice.len() as u64).min(rest) as usize;
                socket.inbox.extend_from_slice(&slice[..part]);
                rest -= part as u64;
            }
            self.touched.push(send.socket.0);
            if socket.pace == Pace::Breaks && taken < len {
                shortfalls.push(Shortfall { ticket: send.ticket, sent: taken, errno: Some(EPIPE) });
            } else if taken < len {
                shortfalls.push(Shortfall { ticket: send.ticket, sent: taken, errno: None });
            }
        }
    }
}

impl FakeSocket {
    fn take(&mut self, len: u64) -> u64 {
        if self.pace == Pace::Fast {
            return len;
        }
        let taken = len.min(self.room);
        self.room -= taken;
        taken
    }
}
