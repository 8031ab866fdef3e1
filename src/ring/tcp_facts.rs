//! What the kernel knows of a TCP connection (`TCP_INFO`, tcp(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// A connection as the kernel sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpFacts {
    /// Smoothed round trip, microseconds.
    pub rtt_us: u32,
    /// Congestion window, segments.
    pub window_segments: u32,
    /// Segments sent and not acknowledged.
    pub unacked_segments: u32,
    /// Segments retransmitted since the connection began.
    pub retransmitted_segments: u32,
    /// Milliseconds since the peer last acknowledged something.
    pub last_ack_ms: u32,
}

/// Asks the kernel.
///
/// # Errors
/// Where the descriptor is no TCP socket.
pub fn tcp_facts(fd: &impl AsFd) -> io::Result<TcpFacts> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`, which is as long and lives here.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain numbers, all of which may be zero, as they were before.
    let info = unsafe { info.assume_init() };
    Ok(TcpFacts {
        rtt_us: info.tcpi_rtt,
        window_segments: info.tcpi_snd_cwnd,
        unacked_segments: info.tcpi_unacked,
        retransmitted_segments: info.tcpi_total_retrans,
        last_ack_ms: info.tcpi_last_ack_recv,
    })
}

/// Bytes that the kernel was given and the peer has not acknowledged (`SIOCOUTQ`, tcp(7)).
///
/// # Errors
/// Where the descriptor is no TCP socket.
pub fn unacked_bytes(fd: &impl AsFd) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one int, which lives here.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    match result {
        0 => Ok(u64::try_from(count).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The shortest round trip of the last minutes, microseconds, that of the handshake among them.
///
/// # Errors
/// Where the descriptor is no TCP socket, or the kernel does not say (before Linux 4.6).
pub fn least_rtt_us(fd: &impl AsFd) -> io::Result<u32> {
    let mut info = [0_u32; LEAST_RTT_AT + 1];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`, which is as long and lives here.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    match result {
        0 if len as usize == size_of_val(&info) => Ok(info[LEAST_RTT_AT]),
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where `tcpi_min_rtt` stands in `struct tcp_info`, in words: behind what the crate knows of it.
const LEAST_RTT_AT: usize = 37;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_has_facts_and_a_file_has_none() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let socket = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let facts = tcp_facts(&socket).expect("a TCP socket");
        assert!(facts.window_segments > 0 && facts.rtt_us > 0, "{facts:?}");
        let least = least_rtt_us(&socket).expect("Linux 4.6");
        assert!(least > 0 && least <= facts.rtt_us, "{least}, {facts:?}");
        let (mut peer, _) = listener.accept().expect("a connection");
        peer.write_all(&[0; 1000]).expect("room");
        (&socket).read_exact(&mut [0; 1000]).expect("it has come");
        assert_eq!(unacked_bytes(&socket).expect("a TCP socket"), 0);
        assert!(unacked_bytes(&std::fs::File::open("/dev/null").expect("a file")).is_err());
        assert!(tcp_facts(&std::fs::File::open("/dev/null").expect("a file")).is_err());
    }
}
