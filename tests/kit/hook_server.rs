//! A server that web hooks call: keeps what it was told, and fails, stalls and restarts as the test
//! says.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use serde_json::{Value, json};

use super::{LIVENESS, wait_until};

/// Hooks that are told what happens.
pub const TOLD: [&str; 6] = [
    "on_stream_changed",
    "on_stream_none_reader",
    "on_stream_not_found",
    "on_flow_report",
    "on_proxy_state",
    "on_server_keepalive",
];

/// One call as it came.
#[derive(Debug, Clone)]
pub struct Call {
    /// The last part of the path.
    pub hook: String,
    pub body: Value,
    pub raw: Vec<u8>,
    pub signature: Option<String>,
    /// Of the signature, as it came.
    pub timestamp: Option<String>,
    /// The number of its connection.
    pub connection: usize,
    /// It was answered with status 200.
    pub is_taken: bool,
}

/// What a call is answered with.
#[derive(Debug, Clone)]
pub enum Answer {
    Json(Value),
    Status(u16),
    /// Nothing for so long, then the connection is closed.
    Stall(Duration),
    /// The connection is closed at once.
    Close,
}

type Behavior = Arc<dyn Fn(&Call) -> Answer + Send + Sync>;

/// A hook server on a port that it keeps over restarts.
pub struct HookServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<Running>,
}

struct Shared {
    calls: Mutex<Vec<Call>>,
    behavior: Mutex<Behavior>,
    sockets: Mutex<Vec<TcpStream>>,
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl HookServer {
    /// A server that answers everything with `{"code":0}`.
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let shared = Arc::new(Shared {
            calls: Mutex::default(),
            behavior: Mutex::new(Arc::new(|_| Answer::Json(json!({"code": 0})))),
            sockets: Mutex::default(),
        });
        let address = listener.local_addr().expect("a bound socket");
        let running = Some(Running::start(listener, shared.clone()));
        Self { address, shared, running }
    }

    pub fn url(&self, hook: &str) -> String {
        format!("http://{}/index/hook/{hook}", self.address)
    }

    /// From the next call on.
    pub fn behave(&self, behavior: impl Fn(&Call) -> Answer + Send + Sync + 'static) {
        *self.shared.behavior.lock().unwrap() = Arc::new(behavior);
    }

    /// Closes the listener and every connection.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.store(true, Ordering::Release);
            running.thread.join().expect("the server does not panic");
        }
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            // The peer may have closed it.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    pub fn restart(&mut self) {
        self.stop();
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        listener.set_reuse_address(true).expect("an option");
        listener.bind(&self.address.into()).expect("the port that it had");
        listener.listen(128).expect("a listener");
        self.running = Some(Running::start(listener.into(), self.shared.clone()));
    }

    /// All calls in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    pub fn calls_of(&self, hook: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.hook == hook).collect()
    }

    /// Waits for a call of this hook for which `is_it` holds.
    #[track_caller]
    pub fn wait(&self, hook: &str, is_it: impl Fn(&Value) -> bool) -> Call {
        let mut found = None;
        wait_until(
            LIVENESS,
            &format!("a call of {hook}; so far {:#?}", self.calls_of(hook)),
            || {
                found = self.calls_of(hook).into_iter().find(|call| is_it(&call.body));
                found.is_some()
            },
        );
        found.expect("just found")
    }
}

impl Drop for HookServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Running {
    fn start(listener: TcpListener, shared: Arc<Shared>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        listener.set_nonblocking(true).expect("an option");
        let thread = spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Acquire) {
                let Ok((socket, _)) = listener.accept() else {
                    sleep(Duration::from_millis(2));
                    continue;
                };
                count += 1;
                socket.set_nonblocking(false).expect("an option");
                let copy = socket.try_clone().expect("a descriptor");
                shared.sockets.lock().unwrap().push(copy);
                let shared = shared.clone();
                spawn(move || serve(socket, count, &shared));
            }
        });
        Self { stop, thread }
    }
}

fn serve(mut socket: TcpStream, connection: usize, shared: &Shared) {
    let mut bytes = Vec::new();
    while let Some(mut call) = read_call(&mut socket, &mut bytes, connection) {
        let behavior = shared.behavior.lock().unwrap().clone();
        let answer = behavior(&call);
        call.is_taken = matches!(answer, Answer::Json(_));
        shared.calls.lock().unwrap().push(call);
        let (status, body) = match answer {
            Answer::Json(body) => (200, body.to_string()),
            Answer::Status(status) => (status, String::new()),
            Answer::Stall(time) => {
                sleep(time);
                break;
            }
            Answer::Close => break,
        };
        let len = body.len();
        let reply = format!("HTTP/1.1 {status} x\r\nContent-Length: {len}\r\n\r\n{body}");
        if socket.write_all(reply.as_bytes()).is_err() {
            break;
        }
    }
    // The peer may have closed it.
    let _ = socket.shutdown(Shutdown::Both);
}

/// The next request; `None` when there is none.
fn read_call(socket: &mut TcpStream, bytes: &mut Vec<u8>, connection: usize) -> Option<Call> {
    let mut buffer = [0; 8192];
    loop {
        if let Some((call, len)) = parse(bytes, connection) {
            bytes.drain(..len);
            return Some(call);
        }
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(len) => bytes.extend_from_slice(&buffer[..len]),
        }
    }
}

fn parse(bytes: &[u8], connection: usize) -> Option<(Call, usize)> {
    let head_len = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_len]).into_owned();
    let field = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    };
    let body_len: usize = field("content-length")?.parse().ok()?;
    let raw = bytes.get(head_len..head_len + body_len)?.to_vec();
    let path = head.split(' ').nth(1)?;
    let hook = path.rsplit('/').next()?.to_owned();
    let body = serde_json::from_slice(&raw).expect("hooks send JSON");
    let signature = field("x-rillcast-signature");
    let timestamp = field("x-rillcast-timestamp");
    let call = Call { hook, body, raw, signature, timestamp, connection, is_taken: false };
    Some((call, head_len + body_len))
}
