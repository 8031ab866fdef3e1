//! A request as its peer sends it, through a real session, and the reply as it is read.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::Value;

use super::{NOW_UNIX, POLLS_MAX};
use crate::clock;
use crate::proto::Output;
use crate::proto::http::{Request, Response, ServerConfig, ServerEvent, ServerSession, WallClock};

/// A request that is being answered.
pub(in crate::api) struct Exchange {
    session: ServerSession,
    future: Pin<Box<dyn Future<Output = Response>>>,
    first: Option<Reply>,
}

/// A reply as its peer reads it.
#[derive(Debug)]
pub(in crate::api) struct Reply {
    pub(in crate::api) status: u16,
    pub(in crate::api) head: String,
    pub(in crate::api) body: String,
}

impl Reply {
    #[track_caller]
    pub(in crate::api) fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert!(self.head.contains("\r\nContent-Type: application/json; charset=utf-8\r\n"));
        serde_json::from_str(&self.body).expect("JSON")
    }
}

impl Exchange {
    /// Begins to answer; what it asks is asked now, in the order of the calls.
    pub(super) fn begin(
        session: ServerSession,
        future: Pin<Box<dyn Future<Output = Response>>>,
    ) -> Self {
        let mut exchange = Self { session, future, first: None };
        exchange.first = exchange.poll();
        exchange
    }

    /// The reply, if it has come.
    pub(in crate::api) fn poll(&mut self) -> Option<Reply> {
        if self.first.is_some() {
            return self.first.take();
        }
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..POLLS_MAX {
            if let Poll::Ready(response) = self.future.as_mut().poll(&mut context) {
                return Some(read_reply(&mut self.session, response));
            }
        }
        None
    }

    #[track_caller]
    pub(in crate::api) fn finish(mut self) -> Reply {
        self.poll().expect("an answer without anything else happening")
    }
}

fn read_reply(session: &mut ServerSession, response: Response) -> Reply {
    session.respond(clock::now(), response).expect("nothing more was sent");
    let mut bytes = Vec::new();
    while let Some(output) = session.poll_output() {
        if let Output::Send(sent) = output {
            bytes.extend_from_slice(&sent);
        }
    }
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Reply { status: status.expect("a status"), head: format!("{head}\r\n"), body: body.to_owned() }
}

/// What a session makes of a request.
pub(in crate::api) fn request(head: &str, body: &str) -> Request {
    ask_session(head, body).1
}

/// A session that has read a request; `head` is without `Host` and length.
pub(super) fn ask_session(head: &str, body: &str) -> (ServerSession, Request) {
    let now = clock::now();
    let second = Duration::from_secs(1);
    let wall_clock = WallClock { at: now, unix_seconds: NOW_UNIX };
    let config = ServerConfig {
        header_timeout: second,
        idle_timeout: second,
        cross_domains_allowed: true,
        wall_clock,
    };
    let mut session = ServerSession::new(now, config);
    let len = body.len();
    let text = format!("{head}\r\nHost: h\r\nContent-Length: {len}\r\n\r\n{body}");
    session.handle_input(now, text.into()).expect("a good request");
    loop {
        match session.poll_output().expect("a whole request") {
            Output::Event(ServerEvent::Request(request)) => return (session, request),
            _ => continue,
        }
    }
}
