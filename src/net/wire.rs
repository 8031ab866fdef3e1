//! The egress ring as what sends batches.

use std::time::Instant;

use crate::clock;
use crate::egress::{Batch, Shortfall, Wire};
use crate::ring::{EgressRing, SendFailure, SpanId};

/// Sends through a shard's egress ring.
pub(super) struct RingWire {
    ring: EgressRing,
    spans: Vec<SpanId>,
    /// When it first sent since this was taken.
    first_send: Option<Instant>,
}

impl RingWire {
    pub(super) fn new(ring: EgressRing) -> Self {
        Self { ring, spans: Vec::new(), first_send: None }
    }

    /// When it first sent something since the last call.
    pub(super) fn take_first_send(&mut self) -> Option<Instant> {
        self.first_send.take()
    }
}

impl Wire for RingWire {
    fn send(&mut self, batch: &Batch<'_>, shortfalls: &mut Vec<Shortfall>) {
        if batch.sends.is_empty() {
            return;
        }
        let mut sends = self.ring.batch();
        self.spans.clear();
        for span in &batch.spans {
            let slices = &batch.slices[span.slices.clone()];
            self.spans.push(match span.segment_len {
                0 => sends.add_span(slices),
                len => sends.add_datagrams(slices, len as u16),
            });
        }
        for (index, send) in batch.sends.iter().enumerate() {
            let span = self.spans[send.span as usize];
            sends.push(send.socket.0, index as u32, span);
        }
        self.first_send.get_or_insert_with(clock::now);
        sends.submit(|index, failure| {
            let ticket = batch.sends[index as usize].ticket;
            let (sent, errno) = match failure {
                SendFailure::Full { sent_len } => (sent_len as u64, None),
                SendFailure::Failed(errno) => (0, Some(errno as i32)),
            };
            shortfalls.push(Shortfall { ticket, sent, errno });
        });
    }
}
