//! What goes out in one submission: spans of bytes, and the sockets that get each of them.

use std::io::IoSlice;
use std::ops::Range;

/// A socket by its file descriptor; whoever sends on it knows that it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Socket(pub i32);

/// Sends of one submission. A span is built once and sent to any number of sockets; a socket stands
/// in a batch once at most, so that what is sent to it can't be reordered; of datagrams any number of
/// times.
#[derive(Default)]
pub struct Batch<'a> {
    pub slices: Vec<IoSlice<'a>>,
    pub spans: Vec<BatchSpan>,
    pub sends: Vec<Send>,
}

/// The memory of a batch, between two of them.
#[derive(Default)]
pub struct Lists(Batch<'static>);

/// A run of the slices of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSpan {
    pub slices: Range<usize>,
    /// Bytes of each datagram that the span is cut into; 0 where it is not.
    pub segment_len: u32,
}

/// One span to one socket. `ticket` is the caller's name for it.
#[derive(Debug, Clone, Copy)]
pub struct Send {
    pub socket: Socket,
    pub span: u32,
    pub ticket: u64,
}

impl<'a> Batch<'a> {
    /// An empty batch in memory that was used before.
    pub fn new(lists: Lists) -> Self {
        lists.0
    }

    /// Gives the memory back.
    pub fn into_lists(self) -> Lists {
        let Self { mut slices, mut spans, mut sends } = self;
        slices.clear();
        spans.clear();
        sends.clear();
        // The list is empty: collecting it in place is a change of lifetime.
        let slices = slices.into_iter().map(|_| unreachable!("it is empty")).collect();
        Lists(Batch { slices, spans, sends })
    }

    /// Adds a span, whose slices `fill` appends, and returns its number.
    pub fn add_span(&mut self, fill: impl FnOnce(&mut Vec<IoSlice<'a>>)) -> u32 {
        self.add_datagrams(0, fill)
    }

    /// As [`Self::add_span`], to be cut into datagrams of a length; the last may be shorter.
    pub fn add_datagrams(
        &mut self,
        segment_len: u32,
        fill: impl FnOnce(&mut Vec<IoSlice<'a>>),
    ) -> u32 {
        let start = self.slices.len();
        fill(&mut self.slices);
        self.spans.push(BatchSpan { slices: start..self.slices.len(), segment_len });
        (self.spans.len() - 1) as u32
    }

    pub fn span(&self, number: u32) -> &[IoSlice<'a>] {
        &self.slices[self.spans[number as usize].slices.clone()]
    }
}

/// A send that did not take all of its span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    pub ticket: u64,
    pub sent: u64,
    /// The error that ended it; `None` where the socket is only full.
    pub errno: Option<i32>,
}

/// What sends batches: the egress ring, or a fake in tests.
pub trait Wire {
    /// Sends the batch without waiting; `shortfalls` gets one item for each send that did not take
    /// all of its span, in any order.
    fn send(&mut self, batch: &Batch<'_>, shortfalls: &mut Vec<Shortfall>);
}
