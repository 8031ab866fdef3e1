//! A nonblocking connection to the server under load: what cannot be sent at once waits, bounded;
//! what is received comes with the kernel's time of its arrival.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use socket2::SockRef;

use crate::limits::LOAD_BACKLOG_LEN_MAX;
use crate::ring::socket::{self, StreamOptions};

#[derive(Debug)]
pub(super) struct Connection {
    fd: OwnedFd,
    /// Bytes to be sent, from `sent_len` on.
    backlog: Vec<u8>,
    sent_len: usize,
}

/// What came of a receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes; the last of them arrived at this time of the wall clock, if the kernel said.
    Bytes(usize, Option<u64>),
    Nothing,
    /// The peer has closed.
    End,
}

/// What one receive got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) len: usize,
    /// When the last of it arrived by the wall clock, if the kernel said.
    pub(super) stamp_ns: Option<u64>,
    /// Datagrams that the socket had no room for so far, if there are any and the kernel said.
    pub(super) dropped: Option<u32>,
    /// Bytes of each datagram but the last, where several came together (udp(7), `UDP_GRO`).
    pub(super) segment_len: Option<NonZero<usize>>,
}

impl Arrival {
    /// The datagrams of it, in the buffer that it was received into.
    pub(super) fn datagrams(self, buffer: &[u8]) -> impl Iterator<Item = &[u8]> {
        let len = self.segment_len.map_or_else(|| self.len.max(1), NonZero::get);
        let empty: Option<&[u8]> = (self.len == 0).then_some(&[]);
        buffer[..self.len].chunks(len).chain(empty)
    }
}

impl Connection {
    /// Begins to connect; [`Self::connect_result`] tells the end of it once the socket is writable.
    pub(super) fn start(peer: SocketAddr) -> io::Result<Self> {
        let fd = socket::stream(peer)?;
        socket::set_stream_options(&fd, StreamOptions::default())?;
        // Without stamps the time of reading stands for that of arrival.
        let _ = setsockopt(&fd, ReceiveTimestampns, &true);
        match SockRef::from(&fd).connect(&peer.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
            _ => Ok(Self { fd, backlog: Vec::new(), sent_len: 0 }),
        }
    }

    pub(super) fn is_made(&self) -> bool {
        socket::peer_addr(&self.fd).is_ok()
    }

    /// Our address on it.
    pub(super) fn local_ip(&self) -> io::Result<IpAddr> {
        Ok(socket::local_addr(&self.fd)?.ip())
    }

    /// # Errors
    /// Why the connection could not be made.
    pub(super) fn connect_result(&self) -> io::Result<()> {
        SockRef::from(&self.fd).take_error()?.map_or(Ok(()), Err)
    }

    /// Sends, or keeps for [`Self::flush`] what the socket does not take.
    ///
    /// # Errors
    /// The connection is of no use any more; also when too much waits.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let taken_len = if self.is_flushed() { self.send_now(bytes)? } else { 0 };
        let rest = &bytes[taken_len..];
        if self.backlog_len() + rest.len() > LOAD_BACKLOG_LEN_MAX {
            return Err(io::Error::new(ErrorKind::OutOfMemory, "the server does not read"));
        }
        if self.sent_len > self.backlog_len() {
            self.backlog.drain(..self.sent_len);
            self.sent_len = 0;
        }
        self.backlog.extend_from_slice(rest);
        Ok(())
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.is_flushed() {
            let taken_len = self.send_now(&self.backlog[self.sent_len..])?;
            if taken_len == 0 {
                return Ok(());
            }
            self.sent_len += taken_len;
        }
        self.backlog.clear();
        self.sent_len = 0;
        Ok(())
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.backlog_len() == 0
    }

    pub(super) fn backlog_len(&self) -> usize {
        self.backlog.len() - self.sent_len
    }

    /// Receives into `buffer` what is there.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        Ok(match receive(&self.fd, buffer)? {
            None => Received::Nothing,
            Some(Arrival { len: 0, .. }) => Received::End,
            Some(Arrival { len, stamp_ns, .. }) => Received::Bytes(len, stamp_ns),
        })
    }

    /// Has the close reset the connection: the peer sees an error, and nothing stays in TIME_WAIT.
    pub(super) fn reset_on_close(&self) {
        // If it does not, the close is an orderly one.
        let _ = SockRef::from(&self.fd).set_linger(Some(Duration::ZERO));
    }

    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match socket::send_now(&self.fd, bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            // The connection is still being made.
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(0),
            result => result,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Receives into `buffer` what is there: of a stream, or one datagram.
pub(super) fn receive(fd: &impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Arrival>> {
    let mut control = ControlBuffer([0; 88]);
    let mut slices = [IoSliceMut::new(buffer)];
    let fd = fd.as_fd().as_raw_fd();
    let message = match recvmsg::<()>(fd, &mut slices, Some(&mut control.0), MsgFlags::MSG_DONTWAIT)
    {
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        result => result?,
    };
    let mut arrival =
        Arrival { len: message.bytes, stamp_ns: None, dropped: None, segment_len: None };
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::ScmTimestampns(time) => {
                let (seconds, ns) = (time.tv_sec() as u64, time.tv_nsec() as u64);
                arrival.stamp_ns = Some(seconds * 1_000_000_000 + ns);
            }
            ControlMessageOwned::RxqOvfl(dropped) => arrival.dropped = Some(dropped),
            ControlMessageOwned::UdpGroSegments(len) => {
                arrival.segment_len = usize::try_from(len).ok().and_then(NonZero::new);
            }
            _ => {}
        }
    }
    Ok(Some(arrival))
}

/// Room for a timestamp (32 bytes), a count of drops and the length of joined datagrams (24 each),
/// aligned as the kernel's control messages are.
#[repr(align(8))]
struct ControlBuffer([u8; 88]);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::clock;

    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let near = Connection::start(listener.local_addr().expect("bound")).expect("it listens");
        let (far, _) = listener.accept().expect("it connects");
        (near, far)
    }

    fn receive(near: &Connection, buffer: &mut [u8]) -> Received {
        loop {
            match near.receive(buffer).expect("a good socket") {
                Received::Nothing => std::thread::yield_now(),
                received => return received,
            }
        }
    }

    #[test]
    fn kernel_tells_when_bytes_came() {
        let (near, mut far) = pair();
        let mut buffer = [0; 16];
        assert_eq!(near.receive(&mut buffer).expect("a good socket"), Received::Nothing);
        // The kernel begins to stamp some time after the first socket asks for it.
        let until = clock::now() + Duration::from_secs(20);
        let (before_ns, at_ns) = loop {
            let before_ns = clock::realtime_ns();
            far.write_all(b"abc").expect("sent");
            match receive(&near, &mut buffer) {
                Received::Bytes(3, Some(at_ns)) => break (before_ns, at_ns),
                Received::Bytes(3, None) => assert!(clock::now() < until, "no stamp"),
                other => panic!("{other:?}"),
            }
        };
        assert!((before_ns..=clock::realtime_ns()).contains(&at_ns));
        drop(far);
        assert_eq!(receive(&near, &mut buffer), Received::End);
    }

    #[test]
    fn what_does_not_fit_waits_in_order_and_is_bounded() {
        let (mut near, mut far) = pair();
        let bytes: Vec<u8> = (0..1_000_000u32).map(|number| number as u8).collect();
        let mut given = 0;
        while near.backlog_len() + bytes.len() <= LOAD_BACKLOG_LEN_MAX {
            near.send(&bytes).expect("there is room");
            given += bytes.len();
        }
        let error = near.send(&[0; LOAD_BACKLOG_LEN_MAX]).expect_err("too much");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            far.read_to_end(&mut received).map(|_| received)
        });
        while !near.is_flushed() {
            near.flush().expect("it is read");
        }
        drop(near);
        let received = reader.join().expect("no panic").expect("read to the end");
        assert!(received.len() == given && received.chunks(bytes.len()).all(|part| part == bytes));
    }
}
