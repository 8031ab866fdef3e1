//! RTMP messages other than media: type numbers, protocol control and user control
//! (RTMP 1.0, 5.4, 6.2, 7.1.7).

use bytes::Bytes;

use crate::proto::reader::{Incomplete, Reader};

/// A whole message that is not streamed media.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// One of [`kind`].
    pub kind: u8,
    pub timestamp_ms: u32,
    pub stream_id: u32,
    pub payload: Bytes,
}

/// Message type numbers.
pub mod kind {
    pub const SET_CHUNK_SIZE: u8 = 1;
    pub const ABORT: u8 = 2;
    pub const ACKNOWLEDGEMENT: u8 = 3;
    pub const USER_CONTROL: u8 = 4;
    pub const WINDOW_ACK_SIZE: u8 = 5;
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    pub const AUDIO: u8 = 8;
    pub const VIDEO: u8 = 9;
    pub const DATA_AMF3: u8 = 15;
    pub const COMMAND_AMF3: u8 = 17;
    pub const DATA_AMF0: u8 = 18;
    pub const COMMAND_AMF0: u8 = 20;
    pub const AGGREGATE: u8 = 22;
}

/// Protocol control and user control messages. Of the latter those that we act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    SetChunkSize(u32),
    /// Drop the chunk stream's partial message.
    Abort(u32),
    /// Bytes received so far, modulo 2^32.
    Acknowledgement(u32),
    WindowAckSize(u32),
    SetPeerBandwidth {
        window: u32,
        /// 0 hard, 1 soft, 2 dynamic.
        limit: u8,
    },
    StreamBegin(u32),
    StreamEof(u32),
    StreamDry(u32),
    SetBufferLength {
        stream_id: u32,
        buffer_ms: u32,
    },
    PingRequest(u32),
    PingResponse(u32),
    /// A user control event that means nothing to us.
    OtherEvent(u16),
}

impl Control {
    /// The control message that `message` is; `None` for other types.
    ///
    /// # Errors
    /// [`Incomplete`] when the payload is too short for its type.
    pub fn decode(message: &Message) -> Result<Option<Self>, Incomplete> {
        let mut reader = Reader::new(&message.payload);
        Ok(Some(match message.kind {
            kind::SET_CHUNK_SIZE => Self::SetChunkSize(reader.u32()?),
            kind::ABORT => Self::Abort(reader.u32()?),
            kind::ACKNOWLEDGEMENT => Self::Acknowledgement(reader.u32()?),
            kind::WINDOW_ACK_SIZE => Self::WindowAckSize(reader.u32()?),
            kind::SET_PEER_BANDWIDTH => {
                // The limit type is missing in what some encoders send; hard is the default.
                Self::SetPeerBandwidth { window: reader.u32()?, limit: reader.u8().unwrap_or(0) }
            }
            kind::USER_CONTROL => match reader.u16()? {
                event::STREAM_BEGIN => Self::StreamBegin(reader.u32()?),
                event::STREAM_EOF => Self::StreamEof(reader.u32()?),
                event::STREAM_DRY => Self::StreamDry(reader.u32()?),
                event::SET_BUFFER_LENGTH => {
                    Self::SetBufferLength { stream_id: reader.u32()?, buffer_ms: reader.u32()? }
                }
                event::PING_REQUEST => Self::PingRequest(reader.u32()?),
                event::PING_RESPONSE => Self::PingResponse(reader.u32()?),
                other => Self::OtherEvent(other),
            },
            _ => return Ok(None),
        }))
    }

    /// The message; control messages belong to message stream 0.
    pub fn encode(self) -> Message {
        let (kind, payload) = match self {
            Self::SetChunkSize(size) => (kind::SET_CHUNK_SIZE, size.to_be_bytes().to_vec()),
            Self::Abort(csid) => (kind::ABORT, csid.to_be_bytes().to_vec()),
            Self::Acknowledgement(count) => (kind::ACKNOWLEDGEMENT, count.to_be_bytes().to_vec()),
            Self::WindowAckSize(size) => (kind::WINDOW_ACK_SIZE, size.to_be_bytes().to_vec()),
            Self::SetPeerBandwidth { window, limit } => {
                (kind::SET_PEER_BANDWIDTH, [&window.to_be_bytes()[..], &[limit]].concat())
            }
            Self::StreamBegin(stream_id) => user_control(event::STREAM_BEGIN, &[stream_id]),
            Self::StreamEof(stream_id) => user_control(event::STREAM_EOF, &[stream_id]),
            Self::StreamDry(stream_id) => user_control(event::STREAM_DRY, &[stream_id]),
            Self::SetBufferLength { stream_id, buffer_ms } => {
                user_control(event::SET_BUFFER_LENGTH, &[stream_id, buffer_ms])
            }
            Self::PingRequest(time) => user_control(event::PING_REQUEST, &[time]),
            Self::PingResponse(time) => user_control(event::PING_RESPONSE, &[time]),
            Self::OtherEvent(event) => user_control(event, &[]),
        };
        Message { kind, timestamp_ms: 0, stream_id: 0, payload: payload.into() }
    }
}

fn user_control(event: u16, values: &[u32]) -> (u8, Vec<u8>) {
    let mut payload = event.to_be_bytes().to_vec();
    values.iter().for_each(|value| payload.extend_from_slice(&value.to_be_bytes()));
    (kind::USER_CONTROL, payload)
}

mod event {
    pub(super) const STREAM_BEGIN: u16 = 0;
    pub(super) const STREAM_EOF: u16 = 1;
    pub(super) const STREAM_DRY: u16 = 2;
    pub(super) const SET_BUFFER_LENGTH: u16 = 3;
    pub(super) const PING_REQUEST: u16 = 6;
    pub(super) const PING_RESPONSE: u16 = 7;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<(u8, &'static [u8], Control)> {
        vec![
            (1, &[0, 1, 0, 0], Control::SetChunkSize(65_536)),
            (2, &[0, 0, 0, 4], Control::Abort(4)),
            (3, &[0, 0, 1, 0], Control::Acknowledgement(256)),
            (5, &[0, 0, 1, 0], Control::WindowAckSize(256)),
            (6, &[0, 0, 1, 0, 2], Control::SetPeerBandwidth { window: 256, limit: 2 }),
            (4, &[0, 0, 0, 0, 0, 1], Control::StreamBegin(1)),
            (4, &[0, 1, 0, 0, 0, 1], Control::StreamEof(1)),
            (4, &[0, 2, 0, 0, 0, 1], Control::StreamDry(1)),
            (
                4,
                &[0, 3, 0, 0, 0, 1, 0, 0, 0, 9],
                Control::SetBufferLength { stream_id: 1, buffer_ms: 9 },
            ),
            (4, &[0, 6, 0, 0, 0, 7], Control::PingRequest(7)),
            (4, &[0, 7, 0, 0, 0, 7], Control::PingResponse(7)),
            (4, &[0, 31], Control::OtherEvent(31)),
        ]
    }

    fn message(kind: u8, payload: &'static [u8]) -> Message {
        Message { kind, timestamp_ms: 0, stream_id: 0, payload: Bytes::from_static(payload) }
    }

    #[test]
    fn table_decodes_and_encodes() {
        for (kind, payload, control) in table() {
            assert_eq!(Control::decode(&message(kind, payload)), Ok(Some(control)));
            assert_eq!(control.encode(), message(kind, payload));
        }
    }

    #[test]
    fn short_payloads_are_incomplete() {
        for (kind, payload, _) in table() {
            // The limit type alone may be missing.
            let len_min = if kind == 6 { 4 } else { payload.len() };
            for len in 0..len_min {
                assert_eq!(Control::decode(&message(kind, &payload[..len])), Err(Incomplete));
            }
        }
        assert_eq!(Control::decode(&message(20, b"")), Ok(None));
    }
}
