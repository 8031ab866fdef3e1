//! Counting received bytes and when to acknowledge them (RTMP 1.0, 5.4.3 and 5.4.4).

use crate::proto::rtmp::message::Control;

/// Bytes received against the peer's window.
#[derive(Debug)]
pub(super) struct ReceivedBytes {
    total: u64,
    unacknowledged: u32,
    window: u32,
}

impl ReceivedBytes {
    /// `window` holds until the peer states its own.
    pub(super) fn new(window: u32) -> Self {
        Self { total: 0, unacknowledged: 0, window }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Window Acknowledgement Size from the peer. Zero would ask for one with every read; it is
    /// what some clients send for "none".
    pub(super) fn set_window(&mut self, window: u32) {
        if window > 0 {
            self.window = window;
        }
    }

    /// Counts bytes; the acknowledgement that is due, if any.
    pub(super) fn add(&mut self, len: usize) -> Option<Control> {
        self.total += len as u64;
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.unacknowledged = self.unacknowledged.saturating_add(len);
        if self.unacknowledged < self.window {
            return None;
        }
        self.unacknowledged = 0;
        Some(Control::Acknowledgement(self.total as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgement_is_due_once_per_window() {
        let mut received = ReceivedBytes::new(100);
        assert_eq!(received.add(99), None);
        assert_eq!(received.add(1), Some(Control::Acknowledgement(100)));
        assert_eq!(received.add(99), None);
        received.set_window(0);
        received.set_window(50);
        assert_eq!(received.add(0), Some(Control::Acknowledgement(199)));
        assert_eq!(received.total(), 199);
    }

    #[test]
    fn count_wraps_on_the_wire() {
        let mut received = ReceivedBytes::new(1);
        let wrapped = received.add(0x1_0000_0005);
        assert_eq!(wrapped, Some(Control::Acknowledgement(5)));
    }
}
