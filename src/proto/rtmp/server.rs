//! The server session: a publisher or a player of ours (RTMP 1.0, 7.2; Enhanced RTMP v2, connect).
//!
//! ```text
//! handshaking -> connecting -> idle -> publish asked -> publishing -> idle
//!                                  \-> play asked ----> playing ----> idle
//! ```
//!
//! Between `publish` and its answer input is kept, not read: encoders that do not wait for the
//! answer lose nothing. Media to players is sent by the driver, not through the session.

mod commands;
mod reply;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::reply::{PlayEnd, PlayRefusal, PublishEnd, PublishRefusal};
use crate::limits::{CHUNK_SIZE_OUT, HELD_INPUT_LEN_MAX};
use crate::media::MediaPart;
use crate::proto::Output;
use crate::proto::rtmp::acknowledgement::ReceivedBytes;
use crate::proto::rtmp::chunk::{CHUNK_SIZE_DEFAULT, ChunkItem, ChunkReader};
use crate::proto::rtmp::chunk_encoding::{CSID_COMMAND, CSID_CONTROL, encode_message};
use crate::proto::rtmp::command::{Command, Status, script_payload};
use crate::proto::rtmp::error::{ChunkError, ServerError};
use crate::proto::rtmp::handshake::{ServerHandshake, ServerStep};
use crate::proto::rtmp::message::{Control, Message, kind};
pub use crate::proto::rtmp::stream_name::StreamRequest;

/// The one message stream of a connection.
pub const STREAM_ID: u32 = 1;

/// What the operator may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerConfig {
    /// Window that we announce, and acknowledge by until the peer states its own.
    pub window_ack_size: u32,
    /// Chunk size that we announce for what we send to players.
    pub chunk_size_out: u32,
    /// From the connection to the end of the handshake.
    pub handshake_timeout: Duration,
    /// From there to `publish` or `play`, and from the end of either to the next.
    pub command_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            window_ack_size: 5_000_000,
            chunk_size_out: CHUNK_SIZE_OUT as u32,
            handshake_timeout: Duration::from_secs(15),
            command_timeout: Duration::from_secs(15),
        }
    }
}

/// What the driver must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// Answer with [`ServerSession::accept_publish`] or [`ServerSession::refuse_publish`].
    Publish(StreamRequest),
    /// Answer with [`ServerSession::accept_play`] or [`ServerSession::refuse_play`].
    Play(StreamRequest),
    Media(MediaPart),
    /// The publisher ended the stream in an orderly way.
    Unpublish,
    /// The player wants no more; also before its answer.
    StopPlay,
}

/// The session of one accepted connection.
#[derive(Debug)]
pub struct ServerSession {
    window_ack_size: u32,
    chunk_size_out_playing: u32,
    command_timeout: Duration,
    phase: Phase,
    deadline: Option<Instant>,
    reader: ChunkReader,
    received: ReceivedBytes,
    peer_acknowledged: u32,
    chunk_size_out: u32,
    app: Box<str>,
    outputs: VecDeque<Output<ServerEvent>>,
}

#[derive(Debug)]
enum Phase {
    Handshaking(Box<ServerHandshake>),
    Connecting,
    Idle,
    PublishAsked {
        /// Input that came after `publish` and before its answer.
        held: Vec<u8>,
    },
    Publishing {
        /// Lanes of which a tag began since the stream is published. What comes on others is the
        /// rest of a tag that began before; it is dropped.
        lanes: Lanes,
    },
    PlayAsked,
    Playing,
    /// Refused or ended by us; whatever comes is ignored until the driver closes.
    Ended,
}

impl ServerSession {
    /// A session whose connection was just accepted. `seed` feeds the handshake.
    pub fn new(now: Instant, seed: u64, config: ServerConfig) -> Self {
        Self {
            window_ack_size: config.window_ack_size,
            chunk_size_out_playing: config.chunk_size_out,
            command_timeout: config.command_timeout,
            phase: Phase::Handshaking(Box::new(ServerHandshake::new(seed))),
            deadline: Some(now + config.handshake_timeout),
            reader: ChunkReader::new(),
            received: ReceivedBytes::new(config.window_ack_size),
            peer_acknowledged: 0,
            chunk_size_out: CHUNK_SIZE_DEFAULT as u32,
            app: Box::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes bytes from the peer.
    ///
    /// # Errors
    /// [`ServerError`]; the session is dead then.
    pub fn handle_input(&mut self, now: Instant, input: Bytes) -> Result<(), ServerError> {
        if let Some(acknowledgement) = self.received.add(input.len())
            && !matches!(self.phase, Phase::Handshaking(_) | Phase::Ended)
        {
            self.send_control(acknowledgement);
        }
        self.read(now, input)
    }

    /// Tells the session the time.
    ///
    /// # Errors
    /// [`ServerError::HandshakeTimeout`] or [`ServerError::CommandTimeout`] past the deadline.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ServerError> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        Err(match self.phase {
            Phase::Handshaking(_) => ServerError::HandshakeTimeout,
            _ => ServerError::CommandTimeout,
        })
    }

    pub fn poll_output(&mut self) -> Option<Output<ServerEvent>> {
        self.outputs.pop_front()
    }

    /// Where the next input's chunk streams are.
    pub fn chunk_streams(&self) -> (*const u8, usize) {
        self.reader.chunk_streams()
    }

    /// Exchanges the room for outputs with one that others have just used, and back when they are
    /// taken: room of its own is in no cache when the next input comes, and half a kilobyte that a
    /// player's session seldom has a use for again. Nothing happens while either has outputs.
    pub fn exchange_room(&mut self, room: &mut VecDeque<Output<ServerEvent>>) {
        if self.outputs.is_empty() && room.is_empty() {
            std::mem::swap(&mut self.outputs, room);
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Bytes received, handshake and all.
    pub fn received_bytes(&self) -> u64 {
        self.received.total()
    }

    /// As [`ChunkReader::lacking`].
    pub fn lacking(&self) -> usize {
        self.reader.lacking()
    }

    /// Bytes that the peer acknowledged last, modulo 2^32.
    pub fn peer_acknowledged_bytes(&self) -> u32 {
        self.peer_acknowledged
    }

    /// The publisher may publish; input that was kept is read. Answers [`ServerEvent::Publish`].
    ///
    /// # Errors
    /// [`ServerError`] in the kept input; the session is dead then.
    pub fn accept_publish(&mut self, now: Instant) -> Result<(), ServerError> {
        let Phase::PublishAsked { held } = &mut self.phase else { return Ok(()) };
        let held = std::mem::take(held);
        self.phase = Phase::Publishing { lanes: Lanes::default() };
        self.send_control(Control::StreamBegin(STREAM_ID));
        self.send_status(reply::PUBLISH_START);
        self.read(now, held.into())
    }

    /// The publisher may not publish. `detail` goes to the peer; empty stands for the usual text.
    pub fn refuse_publish(&mut self, refusal: PublishRefusal, detail: &str) {
        if matches!(self.phase, Phase::PublishAsked { .. }) {
            self.send_status(refusal.status(detail));
            self.end();
        }
    }

    /// Ends a publisher. The driver closes once the output is sent.
    pub fn end_publish(&mut self, end: PublishEnd) {
        if matches!(self.phase, Phase::PublishAsked { .. } | Phase::Publishing { .. }) {
            self.send_status(end.status());
            self.end();
        }
    }

    /// The player may play: the driver sends media from here on, on [`STREAM_ID`], in chunks of
    /// `chunk_size_out`. Nothing happens if the player has given up since.
    pub fn accept_play(&mut self) {
        if !matches!(self.phase, Phase::PlayAsked) {
            return;
        }
        self.phase = Phase::Playing;
        self.send_control(Control::SetChunkSize(self.chunk_size_out_playing));
        self.chunk_size_out = self.chunk_size_out_playing;
        self.send_control(Control::StreamBegin(STREAM_ID));
        self.send_status(reply::PLAY_RESET);
        self.send_status(reply::PLAY_START);
        self.send(CSID_COMMAND, &reply::sample_access());
        self.send(CSID_COMMAND, &reply::data_start());
    }

    /// The player may not play. `detail` goes to the peer; empty stands for the usual text.
    pub fn refuse_play(&mut self, refusal: PlayRefusal, detail: &str) {
        if matches!(self.phase, Phase::PlayAsked) {
            self.send_status(refusal.status(detail));
            self.end();
        }
    }

    /// Ends a player. The driver closes once the output is sent, which must not cut a chunk of
    /// media in two.
    pub fn end_play(&mut self, end: PlayEnd) {
        if matches!(self.phase, Phase::Playing) {
            self.send_status(end.status());
            self.send_control(Control::StreamEof(STREAM_ID));
            self.end();
        }
    }

    fn read(&mut self, now: Instant, mut input: Bytes) -> Result<(), ServerError> {
        while let Phase::Handshaking(handshake) = &mut self.phase {
            match handshake.next_step(&mut input)? {
                ServerStep::Waiting => return Ok(()),
                ServerStep::Reply(bytes) => self.outputs.push_back(Output::Send(bytes)),
                ServerStep::Done => {
                    self.phase = Phase::Connecting;
                    self.deadline = Some(now + self.command_timeout);
                }
            }
        }
        loop {
            match &mut self.phase {
                Phase::Ended => return Ok(()),
                Phase::PublishAsked { held } => return hold(held, &input),
                _ => {}
            }
            let Some(item) = self.reader.next_item(&mut input)? else { return Ok(()) };
            match item {
                ChunkItem::Part(part) => self.on_part(part),
                ChunkItem::Message(message) => self.on_message(now, &message)?,
            }
        }
    }

    fn on_part(&mut self, part: MediaPart) {
        let Phase::Publishing { lanes } = &mut self.phase else { return };
        match &part {
            MediaPart::Begin { lane, .. } => lanes.add(*lane),
            MediaPart::Data { lane, .. } | MediaPart::Abort { lane } if !lanes.have(*lane) => {
                return;
            }
            _ => {}
        }
        self.outputs.push_back(Output::Event(ServerEvent::Media(part)));
    }

    fn on_message(&mut self, now: Instant, message: &Message) -> Result<(), ServerError> {
        match message.kind {
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 => {
                let command = Command::decode(message);
                return command.map_or(Ok(()), |command| self.on_command(now, &command));
            }
            kind::DATA_AMF0 | kind::DATA_AMF3 => {
                if let Some(payload) = script_payload(message) {
                    let timestamp_ms = message.timestamp_ms;
                    self.on_part(MediaPart::Script { timestamp_ms, payload });
                }
                return Ok(());
            }
            _ => {}
        }
        let control = Control::decode(message);
        match control.map_err(|_| ChunkError::ControlCutOff(message.kind))? {
            Some(Control::Acknowledgement(count)) => self.peer_acknowledged = count,
            Some(Control::WindowAckSize(window)) => self.received.set_window(window),
            Some(Control::PingRequest(time)) => self.send_control(Control::PingResponse(time)),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.deadline = None;
    }

    fn send_status(&mut self, status: Status<'_>) {
        self.send(CSID_COMMAND, &status.to_message(STREAM_ID));
    }

    fn send_control(&mut self, control: Control) {
        self.send(CSID_CONTROL, &control.encode());
    }

    fn send(&mut self, csid: u8, message: &Message) {
        let mut bytes = Vec::new();
        encode_message(csid, message, self.chunk_size_out as usize, &mut bytes);
        self.outputs.push_back(Output::Send(bytes.into()));
    }
}

/// Some lanes. Those of encoders are a bit each, beside the session: memory of their own would be in no
/// cache when the next frame comes.
#[derive(Debug, Default)]
struct Lanes {
    below_64: u64,
    /// At most `CHUNK_STREAMS_MAX`.
    others: Vec<u32>,
}

impl Lanes {
    fn add(&mut self, lane: u32) {
        match lane {
            0..64 => self.below_64 |= 1 << lane,
            _ if !self.have(lane) => self.others.push(lane),
            _ => {}
        }
    }

    fn have(&self, lane: u32) -> bool {
        match lane {
            0..64 => self.below_64 >> lane & 1 == 1,
            _ => self.others.contains(&lane),
        }
    }
}

fn hold(held: &mut Vec<u8>, input: &Bytes) -> Result<(), ServerError> {
    if held.len() + input.len() > HELD_INPUT_LEN_MAX {
        return Err(ServerError::TooMuchBeforeAccept);
    }
    // A copy, because views would keep receive buffers from the kernel for as long as a hook
    // takes.
    held.extend_from_slice(input);
    Ok(())
}

#[cfg(test)]
mod tests;
