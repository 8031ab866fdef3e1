//! A caller of ZLMediaKit's HTTP API, ours or its own: one call a connection, one after another.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use url::Url;

use crate::clock;
use crate::limits::LOAD_REPLY_LEN_MAX;
use crate::proto::Output;
use crate::proto::http::{ClientConfig, ClientEvent, ClientSession, HttpError};
use crate::ring::socket;

use super::target::first_reachable;

/// The API of one server.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    base: Url,
    address: SocketAddr,
    secret: String,
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    Connection(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] HttpError),
    #[error("HTTP {0}")]
    Status(u16),
    #[error("the answer is longer than {LOAD_REPLY_LEN_MAX} bytes")]
    TooLong,
    #[error("no answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    #[error("given up before the answer")]
    GivenUp,
    #[error("the answer is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0} is no URL of an API: http://host:port")]
    Url(String),
}

impl Api {
    /// The API at `http://host:port`. Each call takes `timeout` at most, in all.
    pub(crate) fn new(base: &str, secret: &str, timeout: Duration) -> Result<Self, ApiError> {
        let bad = || ApiError::Url(base.to_owned());
        let base_url = Url::parse(base).map_err(|_| bad())?;
        if base_url.scheme() != "http" {
            return Err(bad());
        }
        let host = base_url.host_str().ok_or_else(bad)?;
        let port = base_url.port_or_known_default().unwrap_or(80);
        let addresses = format!("{host}:{port}").to_socket_addrs()?.collect();
        let address = first_reachable(addresses).ok_or_else(bad)?;
        Ok(Self { base: base_url, address, secret: secret.to_owned(), timeout })
    }

    /// Whether the server is on this machine, as far as its address tells.
    pub(crate) fn is_local(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }

    /// Calls `/index/api/<name>`.
    ///
    /// # Errors
    /// [`ApiError`]; a `code` that is not 0 is an answer and none of them.
    pub(crate) fn call(&self, name: &str, params: &[(&str, &str)]) -> Result<Value, ApiError> {
        static NEVER: AtomicBool = AtomicBool::new(false);
        self.call_unless(&NEVER, name, params)
    }

    /// As [`Self::call`], until it is `stopped`.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn call_unless(
        &self,
        stopped: &AtomicBool,
        name: &str,
        params: &[(&str, &str)],
    ) -> Result<Value, ApiError> {
        let mut url = self.base.clone();
        url.set_path(&format!("/index/api/{name}"));
        url.query_pairs_mut().extend_pairs(params).append_pair("secret", &self.secret);
        let now = clock::now();
        let config = ClientConfig {
            url,
            user_agent: concat!("rillcast-load/", env!("CARGO_PKG_VERSION")).to_owned(),
            reply_timeout: self.timeout,
            body_timeout: self.timeout,
        };
        let mut session = ClientSession::new(now, config);
        let patience = Patience { end: now + self.timeout, timeout: self.timeout, stopped };
        let mut socket = patience.connect(self.address)?;
        let mut buffer = vec![0; 16 * 1024];
        let mut body = Vec::new();
        loop {
            while let Some(output) = session.poll_output() {
                match output {
                    Output::Send(bytes) => patience.write_all(&mut socket, &bytes)?,
                    Output::Event(ClientEvent::Body(bytes)) => body.extend_from_slice(&bytes),
                    Output::Event(ClientEvent::BodyEnds) => {
                        return Ok(serde_json::from_slice(&body)?);
                    }
                    Output::Event(ClientEvent::Status { code, .. }) => {
                        return Err(ApiError::Status(code));
                    }
                    Output::Event(ClientEvent::Redirect(_)) => return Err(ApiError::Status(302)),
                    Output::Event(ClientEvent::BodyBegins { .. }) => {}
                }
            }
            if body.len() > LOAD_REPLY_LEN_MAX {
                return Err(ApiError::TooLong);
            }
            match patience.read(&mut socket, &mut buffer)? {
                0 => session.handle_eof(now)?,
                len => session.handle_input(now, Bytes::copy_from_slice(&buffer[..len]))?,
            }
        }
    }
}

/// How long a call may take, whatever it waits for.
struct Patience<'a> {
    end: Instant,
    timeout: Duration,
    stopped: &'a AtomicBool,
}

impl Patience<'_> {
    fn connect(&self, address: SocketAddr) -> Result<TcpStream, ApiError> {
        let fd = socket::stream(address)?;
        match socket2::SockRef::from(&fd).connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                return Err(error.into());
            }
            _ => {}
        }
        let socket = TcpStream::from(fd);
        self.wait(&socket, PollFlags::POLLOUT)?;
        match socket.take_error()? {
            Some(error) => Err(error.into()),
            None => Ok(socket),
        }
    }

    fn write_all(&self, socket: &mut TcpStream, mut bytes: &[u8]) -> Result<(), ApiError> {
        while !bytes.is_empty() {
            self.wait(socket, PollFlags::POLLOUT)?;
            bytes = &bytes[taken(socket.write(bytes))?.unwrap_or(0)..];
        }
        Ok(())
    }

    fn read(&self, socket: &mut TcpStream, buffer: &mut [u8]) -> Result<usize, ApiError> {
        loop {
            self.wait(socket, PollFlags::POLLIN)?;
            if let Some(len) = taken(socket.read(buffer))? {
                return Ok(len);
            }
        }
    }

    /// Until the socket is ready, or for no longer.
    fn wait(&self, socket: &TcpStream, flags: PollFlags) -> Result<(), ApiError> {
        loop {
            if self.stopped.load(Relaxed) {
                return Err(ApiError::GivenUp);
            }
            if clock::now() >= self.end {
                return Err(ApiError::Late(self.timeout));
            }
            let mut fds = [PollFd::new(socket.as_fd(), flags)];
            match poll(&mut fds, PollTimeout::from(LOOK_MS)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }
}

/// None where the socket was not ready after all.
fn taken(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        result => result.map(Some),
    }
}

/// How often a call that waits looks whether it is to go on.
const LOOK_MS: u8 = 50;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::spawn;

    use super::*;

    fn answered(answer: &'static str) -> (Result<Value, ApiError>, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let server = spawn(move || {
            let (mut socket, _) = listener.accept().expect("a call");
            let mut request = vec![0; 4096];
            let len = socket.read(&mut request).expect("a request");
            socket.write_all(answer.as_bytes()).expect("an answer");
            String::from_utf8_lossy(&request[..len]).into_owned()
        });
        let api = Api::new(&base, "s&s", Duration::from_secs(20)).expect("an address");
        let result = api.call("addStreamProxy", &[("url", "rtmp://h/a?b=c")]);
        (result, server.join().expect("no panic"))
    }

    #[test]
    fn call_is_encoded_and_answered() {
        let (result, request) =
            answered("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"code\":0}");
        assert_eq!(result.expect("an answer")["code"], 0);
        let line = request.lines().next().expect("a line");
        assert_eq!(
            line,
            "GET /index/api/addStreamProxy?url=rtmp%3A%2F%2Fh%2Fa%3Fb%3Dc&secret=s%26s HTTP/1.1"
        );
    }

    /// A server whose answer never comes to its end, and a call that is stopped meanwhile or not.
    fn trickled(timeout: Duration, stops: bool) -> ApiError {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let stopped = std::sync::Arc::new(AtomicBool::new(false));
        let stop = stops.then(|| std::sync::Arc::clone(&stopped));
        let server = spawn(move || {
            let (mut socket, _) = listener.accept().expect("a call");
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n";
            let mut result = socket.write_all(head);
            while result.is_ok() {
                stop.iter().for_each(|stop| stop.store(true, Relaxed));
                result = socket.write_all(b" ");
                let _ = poll(&mut [], PollTimeout::from(20u8));
            }
        });
        let api = Api::new(&base, "s", timeout).expect("an address");
        let error = api.call_unless(&stopped, "getMediaList", &[]).expect_err("no answer");
        server.join().expect("no panic");
        error
    }

    #[test]
    fn answer_that_trickles_ends_in_time() {
        let error = trickled(Duration::from_millis(300), false);
        assert!(matches!(error, ApiError::Late(_)), "{error}");
    }

    #[test]
    fn call_is_given_up_when_it_is_stopped() {
        let error = trickled(Duration::from_secs(1000), true);
        assert!(matches!(error, ApiError::GivenUp), "{error}");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let error = |answer| answered(answer).0.expect_err("no answer");
        assert!(matches!(error("HTTP/1.1 404 No\r\n\r\n"), ApiError::Status(404)));
        assert!(matches!(error("HTTP/1.1 200 OK\r\n\r\nno"), ApiError::Json(_)));
        assert!(matches!(error("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), ApiError::Http(_)));
        assert!(Api::new("rtmp://h", "", Duration::ZERO).is_err());
    }
}
