//! One published stream: its connection, its session, and what of the clip comes next.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use bytes::Bytes;

use super::Failure;
use super::clip::{Clip, ClipTag};
use super::connection::{Connection, Received};
use super::figures::Spread;
use super::rtsp::outlet::RtspOutlet;
use super::stamp::Stamp;
use super::target::{Protocol, Target};
use crate::clock;
use crate::proto::Output;
use crate::proto::rtmp;
use crate::proto::rtsp;

pub(super) struct Stream {
    outlet: Outlet,
    pub(super) connection: Connection,
    /// When it was to connect; ns of the monotonic clock.
    pub(super) due_ns: u64,
    /// When its first tag was due; none until the server says yes.
    base_ns: Option<u64>,
    next: u64,
    /// Bytes given to the connection, and at which of these counts tags end that it still holds.
    given: u64,
    held: VecDeque<(u64, u64)>,
    pub(super) is_over: bool,
}

enum Outlet {
    Rtmp(Box<rtmp::PublisherSession>),
    Rtsp(Box<RtspOutlet>),
}

/// What went out at once.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Piece {
    pub(super) frames: u64,
    pub(super) bytes: u64,
    /// Packets that the kernel did not take.
    pub(super) unsent_packets: u64,
}

impl Stream {
    /// Begins to connect, which was due at `due_ns`.
    pub(super) fn start(
        target: &Target,
        clip: &Clip,
        chunk_size: u32,
        due_ns: u64,
    ) -> Result<Self, Failure> {
        let seed = clock::monotonic_ns();
        let connection = Connection::start(target.address)?;
        let outlet = match target.protocol {
            Protocol::Rtsp(transport) => {
                Outlet::Rtsp(Box::new(RtspOutlet::new(target, transport.into(), clip, seed)?))
            }
            _ => {
                let (app, stream) = (target.app.clone(), target.stream.clone());
                let config = rtmp::PublisherConfig {
                    chunk_size,
                    ..rtmp::PublisherConfig::new(app, stream, target.tc_url.clone())
                };
                let session = rtmp::PublisherSession::new(clock::now(), seed, config);
                Outlet::Rtmp(Box::new(session))
            }
        };
        Ok(Self {
            outlet,
            connection,
            due_ns,
            base_ns: None,
            next: 0,
            given: 0,
            held: VecDeque::new(),
            is_over: false,
        })
    }

    /// Reads once, and does what it asks for; whether there was anything.
    pub(super) fn read(&mut self, now: Instant, buffer: &mut [u8]) -> Result<bool, Failure> {
        match self.connection.receive(buffer)? {
            Received::Bytes(len, _) => {
                let input = Bytes::copy_from_slice(&buffer[..len]);
                match &mut self.outlet {
                    Outlet::Rtmp(session) => session.handle_input(now, input)?,
                    Outlet::Rtsp(rtsp) => rtsp.session().handle_input(now, input)?,
                }
                Ok(true)
            }
            Received::Nothing => Ok(false),
            Received::End => Err("the server closed the connection".into()),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), Failure> {
        match &mut self.outlet {
            Outlet::Rtmp(session) => session.handle_timeout(now)?,
            Outlet::Rtsp(rtsp) => rtsp.session().handle_timeout(now)?,
        }
        Ok(())
    }

    /// Sends what the session has to say; whether the server has taken the stream just now.
    ///
    /// # Errors
    /// The stream's end.
    pub(super) fn drain(&mut self, now: Instant) -> Result<bool, Failure> {
        let mut has_started = false;
        loop {
            match self.poll_output(now)? {
                None => return Ok(has_started),
                Some(Said::Send(bytes)) => self.give(&bytes)?,
                Some(Said::Started) => has_started = true,
                Some(Said::Over(reason)) => return Err(reason.into()),
                Some(Said::Nothing) => {}
            }
        }
    }

    fn poll_output(&mut self, now: Instant) -> Result<Option<Said>, Failure> {
        Ok(match &mut self.outlet {
            Outlet::Rtmp(session) => session.poll_output().map(|output| match output {
                Output::Send(bytes) => Said::Send(bytes),
                Output::Event(rtmp::PublisherEvent::Started) => Said::Started,
                Output::Event(rtmp::PublisherEvent::Refused { code, description }) => {
                    Said::Over(format!("refused: {code} {description}"))
                }
                Output::Event(rtmp::PublisherEvent::Ended) => Said::ended(),
                Output::Event(rtmp::PublisherEvent::Progress(_)) => Said::Nothing,
            }),
            Outlet::Rtsp(rtsp) => {
                let address = self.connection.local_ip()?;
                rtsp.poll_output(now, address)?.map(|output| match output {
                    Output::Send(bytes) => Said::Send(bytes),
                    Output::Event(rtsp::PublisherEvent::Started) => Said::Started,
                    Output::Event(rtsp::PublisherEvent::Refused { status, reason }) => {
                        Said::Over(format!("refused: RTSP {status} {reason}"))
                    }
                    Output::Event(rtsp::PublisherEvent::Ended) => Said::ended(),
                    Output::Event(_) => Said::Nothing,
                })
            }
        })
    }

    /// The schedule begins at `now_ns`, with what goes before the first tag.
    pub(super) fn begin(&mut self, clip: &Clip, now_ns: u64) -> io::Result<()> {
        self.base_ns = Some(now_ns);
        let mut bytes = Vec::new();
        // The description of RTSP has the configurations.
        if let Outlet::Rtmp(session) = &self.outlet {
            for tag in &clip.configs {
                session.encode_tag(tag.kind, 0, &tag.payload, &mut bytes);
            }
        }
        self.give(&bytes)
    }

    pub(super) fn due_ns(&self, clip: &Clip) -> u64 {
        let (_, at_ms) = clip.tag(self.next);
        self.base_ns.unwrap_or(0) + at_ms * 1_000_000
    }

    /// Sends the tags that are due by `now_ns`, in one piece, or packet by packet over UDP. More
    /// than one is due only when we are late.
    pub(super) fn send_due(
        &mut self,
        clip: &Clip,
        now_ns: u64,
        scratch: &mut Vec<u8>,
    ) -> io::Result<Piece> {
        scratch.clear();
        let mut piece = Piece::default();
        while scratch.len() + (piece.bytes as usize) < LATE_LEN_MAX {
            let due_ns = self.due_ns(clip);
            if due_ns > now_ns {
                break;
            }
            let (tag, at_ms) = clip.tag(self.next);
            match &mut self.outlet {
                Outlet::Rtmp(session) => {
                    let sequence = clip.sequence(self.next);
                    let stamp = Stamp { sequence, due_ns };
                    append_rtmp(session, tag, at_ms as u32, stamp, scratch);
                }
                Outlet::Rtsp(rtsp) => {
                    rtsp.append(clip, self.next, due_ns, scratch);
                    piece.bytes += std::mem::take(&mut rtsp.sent_len);
                    piece.unsent_packets += std::mem::take(&mut rtsp.unsent_packets);
                }
            }
            self.held.push_back((self.given + scratch.len() as u64, due_ns));
            piece.frames += u64::from(tag.is_frame);
            self.next += 1;
        }
        self.give(scratch)?;
        piece.bytes += scratch.len() as u64;
        Ok(piece)
    }

    /// Records the lateness of the tags that the kernel has taken.
    pub(super) fn note_taken(&mut self, lateness: &mut Spread) {
        let taken = self.given - self.connection.backlog_len() as u64;
        while let Some(&(end, due_ns)) = self.held.front()
            && end <= taken
        {
            lateness.record_ns(clock::monotonic_ns().saturating_sub(due_ns));
            self.held.pop_front();
        }
    }

    /// Records the lateness up to now of the tags that the kernel will not take any more.
    pub(super) fn note_untaken(&mut self, lateness: &mut Spread) {
        let now_ns = clock::monotonic_ns();
        let held = self.held.drain(..);
        held.for_each(|(_, due_ns)| lateness.record_ns(now_ns.saturating_sub(due_ns)));
    }

    /// Whether the server has taken it.
    pub(super) fn has_begun(&self) -> bool {
        self.base_ns.is_some()
    }

    /// Ends it in order. The server learns it from the close where that can't be sent.
    pub(super) fn end(&mut self) {
        match &mut self.outlet {
            Outlet::Rtmp(session) => session.unpublish(),
            Outlet::Rtsp(rtsp) => rtsp.session().teardown(),
        }
        while let Ok(Some(said)) = self.poll_output(clock::now()) {
            if let Said::Send(bytes) = said {
                let _ = self.connection.send(&bytes);
            }
        }
    }

    fn give(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.given += bytes.len() as u64;
        self.connection.send(bytes)
    }
}

/// What a session says, of whatever protocol.
enum Said {
    Send(Bytes),
    Started,
    Over(String),
    Nothing,
}

impl Said {
    fn ended() -> Self {
        Self::Over("the server ended the stream".to_owned())
    }
}

fn append_rtmp(
    session: &rtmp::PublisherSession,
    tag: &ClipTag,
    timestamp_ms: u32,
    stamp: Stamp,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    session.encode_tag(tag.kind, timestamp_ms, &tag.payload, out);
    if let Some(at) = tag.stamp_at {
        // Within the first chunk: none is shorter than what a stamp ends in.
        let at = start + at + if timestamp_ms < 0x00ff_ffff { 12 } else { 16 };
        let stamp = stamp.encode();
        out[at..at + stamp.len()].copy_from_slice(&stamp);
    }
}

/// Bytes of a stream from which on what is late waits for its next turn.
const LATE_LEN_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::target::expand;
    use super::*;

    #[test]
    fn tags_that_the_kernel_never_took_are_late_too() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let url = format!("rtmp://{}/live/s0", listener.local_addr().expect("bound"));
        let (targets, clip) = (expand(&url, 0, 1).expect("a URL"), Clip::load(None).expect("ours"));
        let mut stream = Stream::start(&targets[0], &clip, 4096, 0).expect("a listener");
        let (_server, _) = listener.accept().expect("a publisher");
        let begun_ns = clock::monotonic_ns();
        stream.begin(&clip, begun_ns).expect("a connection");
        let (mut lateness, mut scratch) = (Spread::default(), Vec::new());
        // Nobody reads: the kernel's buffers fill.
        while stream.connection.backlog_len() == 0 {
            stream.send_due(&clip, begun_ns + HOUR_NS, &mut scratch).expect("a connection");
            stream.note_taken(&mut lateness);
        }
        let taken = lateness.summary().map_or(0, |of| of.count);
        assert!(taken < stream.next, "{taken} of {}", stream.next);
        stream.note_untaken(&mut lateness);
        let all = lateness.summary().expect("recorded");
        assert_eq!(all.count, stream.next);
    }

    const HOUR_NS: u64 = 3_600_000_000_000;
}
