//! A follower of the event log: reads server-sent events on a thread and keeps them.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

use serde_json::Value;

use super::{LIVENESS, wait_until};

/// One event as it came.
#[derive(Debug, Clone)]
pub struct SseEvent {
    pub id: String,
    pub name: String,
    pub data: Value,
}

/// A connection to `/events`.
#[derive(Debug)]
pub struct Follower {
    socket: TcpStream,
    got: Arc<Mutex<Got>>,
}

#[derive(Debug, Default)]
struct Got {
    status: Option<u16>,
    events: Vec<SseEvent>,
    /// The last id, also that of a block without data.
    last_id: String,
}

impl Follower {
    /// Follows with a query and, where there is one, a `Last-Event-ID`. Returns when the answer has
    /// begun.
    #[track_caller]
    pub fn start(address: SocketAddr, query: &str, last_id: Option<&str>) -> Self {
        let mut socket = TcpStream::connect(address).expect("the relay listens");
        let header = last_id.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let head = format!("GET /events?{query} HTTP/1.1\r\nHost: h\r\n{header}\r\n");
        socket.write_all(head.as_bytes()).expect("a request");
        let got = Arc::new(Mutex::new(Got::default()));
        let (reader, place) = (socket.try_clone().expect("a socket"), got.clone());
        spawn(move || read(reader, &place));
        let follower = Self { socket, got };
        wait_until(LIVENESS, "the event log answers", || {
            let got = follower.got.lock().unwrap();
            got.status.is_some_and(|status| status != 200) || !got.last_id.is_empty()
        });
        follower
    }

    pub fn status(&self) -> u16 {
        self.got.lock().unwrap().status.expect("the answer has begun")
    }

    pub fn events(&self) -> Vec<SseEvent> {
        self.got.lock().unwrap().events.clone()
    }

    pub fn names(&self) -> Vec<String> {
        self.events().into_iter().map(|event| event.name).collect()
    }

    pub fn last_id(&self) -> String {
        self.got.lock().unwrap().last_id.clone()
    }

    /// Waits until an event of this name has come, and returns the newest such.
    #[track_caller]
    pub fn wait(&self, name: &str) -> SseEvent {
        let mut found = None;
        wait_until(LIVENESS, &format!("event {name}; so far {:?}", self.names()), || {
            found = self.events().into_iter().rev().find(|event| event.name == name);
            found.is_some()
        });
        found.expect("just found")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // The relay may have closed it.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn read(socket: TcpStream, place: &Mutex<Got>) {
    let mut lines = BufReader::new(socket).lines().map_while(Result::ok);
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    place.lock().unwrap().status = status;
    let _ = lines.by_ref().find(String::is_empty);
    let (mut id, mut name, mut data) = (String::new(), String::new(), String::new());
    for line in lines {
        if let Some(value) = line.strip_prefix("id: ") {
            id = value.to_owned();
        } else if let Some(value) = line.strip_prefix("event: ") {
            name = value.to_owned();
        } else if let Some(value) = line.strip_prefix("data: ") {
            data = value.to_owned();
        } else if line.is_empty() {
            let mut got = place.lock().unwrap();
            if !id.is_empty() {
                got.last_id.clone_from(&id);
            }
            if !data.is_empty() {
                let data = serde_json::from_str(&data).expect("data is JSON");
                let (id, name) = (id.clone(), name.clone());
                got.events.push(SseEvent { id, name, data });
            }
            (name, data) = (String::new(), String::new());
        }
    }
}
