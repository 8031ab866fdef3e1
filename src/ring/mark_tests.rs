//! A receive below and above the mark of its socket (`socket::set_receive_mark`).

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;

use super::{Completion, Ended, MediaRing, OpKind, Outcome, RingSizes, Token, socket};

const TOKEN: Token = Token::new(1);

/// A connection whose far end is received from `mark` bytes on.
struct Marked {
    ring: MediaRing,
    near: TcpStream,
    far: TcpStream,
}

impl Marked {
    fn new(mark: u32) -> Self {
        let sizes = RingSizes { submissions: 8, completions: 16, buffer_count: 4, buffer_len: 64 };
        let mut ring = MediaRing::new(sizes).expect("io_uring");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("up");
        let (far, _) = listener.accept().expect("up");
        socket::set_receive_mark(&far, mark).expect("TCP");
        ring.recv_multishot(far.as_raw_fd(), TOKEN);
        ring.submit();
        Self { ring, near, far }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.near.write_all(bytes).expect("up");
    }

    /// What comes within the time; loopback brings bytes before the write returns.
    fn outcomes(&mut self, time: Duration) -> Vec<Outcome> {
        let mut completions: Vec<Completion> = Vec::new();
        self.ring.wait(time, Duration::ZERO);
        self.ring.harvest(&mut completions);
        completions.into_iter().map(|completion| completion.outcome).collect()
    }

    fn assert_nothing(&mut self) {
        let outcomes = self.outcomes(Duration::from_millis(2));
        assert!(outcomes.is_empty(), "{outcomes:?}");
    }

    fn assert_received(&mut self, bytes: &[u8]) {
        let outcomes = self.outcomes(Duration::from_secs(10));
        let [Outcome::Received(got)] = &outcomes[..] else { panic!("{outcomes:?}") };
        let got = got.as_ref();
        assert_eq!(got, bytes);
    }

    /// The operation's one terminal outcome, whatever comes before it.
    fn end(&mut self) -> Ended {
        loop {
            let outcomes = self.outcomes(Duration::from_secs(10));
            assert!(!outcomes.is_empty(), "nothing in 10 s");
            if let Some(Outcome::ReceiveEnded(ended)) = outcomes.last() {
                assert_eq!(self.ring.ops_in_flight(), 0);
                return *ended;
            }
        }
    }
}

#[test]
fn what_is_below_the_mark_waits_until_it_is_lifted() {
    let mut marked = Marked::new(4);
    marked.write(b"abc");
    marked.assert_nothing();
    marked.write(b"d");
    marked.assert_received(b"abcd");
    marked.write(b"e");
    marked.assert_nothing();
    socket::set_receive_mark(&marked.far, 1).expect("TCP");
    marked.assert_received(b"e");
}

#[test]
fn the_peer_s_end_comes_below_the_mark() {
    let mut marked = Marked::new(1000);
    marked.write(b"abc");
    marked.assert_nothing();
    marked.near.shutdown(std::net::Shutdown::Write).expect("up");
    assert_eq!(marked.end(), Ended::Eof);
}

#[test]
fn a_reset_comes_below_the_mark() {
    let mut marked = Marked::new(1000);
    marked.write(b"abc");
    marked.assert_nothing();
    let linger = socket2::SockRef::from(&marked.near).set_linger(Some(Duration::ZERO));
    linger.expect("TCP");
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("bound");
    marked.near = TcpStream::connect(address).expect("up");
    assert_eq!(marked.end(), Ended::Error(Errno::ECONNRESET));
}

#[test]
fn a_cancel_comes_below_the_mark() {
    let mut marked = Marked::new(1000);
    marked.write(b"abc");
    marked.assert_nothing();
    marked.ring.cancel(TOKEN, OpKind::Receive);
    assert_eq!(marked.end(), Ended::Cancelled);
}
