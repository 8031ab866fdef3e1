//! What our sessions as a client have in common: requests under their numbers and with credentials,
//! and which of them a response is for (RFC 2326, 12.17 and 12.37; RFC 7235, 2.1).

use std::time::Duration;

use bytes::Bytes;

use crate::proto::http::Headers;
use crate::proto::rtsp::auth::{ClientAuth, Credentials, Target};
use crate::proto::rtsp::message::{Method, Request, Response};
use crate::proto::rtsp::session_id::{SessionId, TIMEOUT_DEFAULT};

/// The requests of one connection; `P` says what each was for.
#[derive(Debug)]
pub(super) struct Dialog<P> {
    user_agent: String,
    credentials: Option<Credentials>,
    random: fastrand::Rng,
    next_cseq: u32,
    /// Requests without an answer; one, and one that keeps the session alive.
    pending: Vec<Pending<P>>,
    auth: Option<ClientAuth>,
    session: Option<SessionId>,
    /// The answer to a request may come that is waited for no longer.
    has_given_up: bool,
    /// The server can't count.
    miscounts: bool,
}

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Pending<P> {
    cseq: u32,
    pub(super) purpose: P,
    pub(super) request: Request,
    /// Sent again with other credentials.
    retries: u32,
}

impl<P: Copy + PartialEq> Dialog<P> {
    /// `seed` is random.
    pub(super) fn new(user_agent: String, credentials: Option<Credentials>, seed: u64) -> Self {
        Self {
            user_agent,
            credentials,
            random: fastrand::Rng::with_seed(seed),
            next_cseq: 1,
            pending: Vec::new(),
            auth: None,
            session: None,
            has_given_up: false,
            miscounts: false,
        }
    }

    /// A request's bytes, under a new number, with credentials if they are known to be wanted.
    pub(super) fn send(&mut self, purpose: P, request: Request) -> Bytes {
        self.send_again(Pending { cseq: 0, purpose, request, retries: 0 })
    }

    /// The request that a response answers: that of its CSeq, the newest where it has none. A CSeq of no
    /// request is that of one that was given up, unless the server has shown that it can't count: then
    /// it is as good as none.
    pub(super) fn take(&mut self, response: &Response) -> Option<Pending<P>> {
        let cseq = response.headers.find("cseq").and_then(|cseq| cseq.parse::<u32>().ok());
        let is_of = |cseq| self.pending.iter().position(|pending| pending.cseq == cseq);
        if let Some(at) = cseq.and_then(is_of) {
            return Some(self.pending.remove(at));
        }
        self.miscounts |= cseq.is_some() && !self.has_given_up;
        if cseq.is_none() || self.miscounts { self.pending.pop() } else { None }
    }

    /// Sends a request again with credentials for this 401, if that makes sense.
    pub(super) fn authorize(&mut self, pending: &Pending<P>, response: &Response) -> Option<Bytes> {
        if self.credentials.is_none() || pending.retries >= RETRIES_MAX {
            return None;
        }
        let challenges = response.headers.find_all("www-authenticate");
        let auth = ClientAuth::from_challenges(challenges)?;
        // A second refusal of the same credentials is about them, unless the nonce was too old.
        let may_retry = pending.retries == 0 || auth.is_stale;
        self.auth = Some(auth);
        may_retry.then(|| {
            let Pending { purpose, ref request, retries, .. } = *pending;
            let (request, retries) = (request.clone(), retries + 1);
            self.send_again(Pending { cseq: 0, purpose, request, retries })
        })
    }

    /// Whether credentials were refused for themselves: another try could lock us out.
    pub(super) fn is_denied(&self) -> bool {
        self.auth.as_ref().is_some_and(|auth| !auth.is_stale)
    }

    /// Takes the session's name from the answer to a SETUP or PLAY. One that does not tell the timeout
    /// again leaves it as it was.
    pub(super) fn note_session(&mut self, response: &Response) {
        let session = response.headers.find("session").and_then(SessionId::parse);
        let Some(mut session) = session else { return };
        let before = self.session.take().filter(|before| before.id == session.id);
        session.timeout = session.timeout.or_else(|| before.and_then(|before| before.timeout));
        self.session = Some(session);
    }

    pub(super) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// How often the session wants a sign of life.
    pub(super) fn keep_alive_interval(&self) -> Duration {
        let timeout = self.session.as_ref().and_then(|session| session.timeout);
        let timeout = timeout.unwrap_or(TIMEOUT_DEFAULT);
        (timeout / 2).max(Duration::from_secs(1))
    }

    /// Whether a request of this purpose has no answer.
    pub(super) fn is_pending(&self, is_meant: impl Fn(P) -> bool) -> bool {
        self.pending.iter().any(|pending| is_meant(pending.purpose))
    }

    #[cfg(test)]
    pub(super) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Waits for the answers to such requests no longer.
    pub(super) fn forget(&mut self, purpose: P) {
        let count = self.pending.len();
        self.pending.retain(|pending| pending.purpose != purpose);
        self.has_given_up |= self.pending.len() < count;
    }

    fn send_again(&mut self, mut pending: Pending<P>) -> Bytes {
        pending.cseq = self.next_cseq;
        self.next_cseq = self.next_cseq.wrapping_add(1);
        let Request { method, uri, headers, body } = &pending.request;
        let mut sent = Headers::default();
        sent.push("CSeq", &pending.cseq.to_string());
        sent.push("User-Agent", &self.user_agent);
        if let Some(session) = &self.session {
            sent.push("Session", &session.id);
        }
        if let (Some(auth), Some(credentials)) = (&mut self.auth, &self.credentials) {
            let target = Target { method: method.as_str(), uri };
            let value = auth.authorization(credentials, target, self.random.u64(..));
            sent.push("Authorization", &value);
        }
        headers.iter().for_each(|(name, value)| sent.push(name, value));
        let (uri, body) = (uri.clone(), body.clone());
        let request = Request { method: *method, uri, headers: sent, body };
        self.pending.push(pending);
        request.encode()
    }
}

/// A request without a body.
pub(super) fn request(method: Method, uri: String, fields: &[(&str, &str)]) -> Request {
    let mut headers = Headers::default();
    fields.iter().for_each(|(name, value)| headers.push(name, value));
    Request { method, uri, headers, body: Bytes::new() }
}

/// What a client answers to a request of the server.
pub(super) fn answer(request: &Request) -> Bytes {
    let status = match request.method {
        Method::Options
        | Method::GetParameter
        | Method::SetParameter
        | Method::Redirect
        | Method::Teardown => 200,
        _ => 501,
    };
    let mut response = Response::new(status);
    if let Some(cseq) = request.headers.find("cseq") {
        response.headers.push("CSeq", cseq);
    }
    response.encode()
}

/// With credentials, and once more with a new nonce.
const RETRIES_MAX: u32 = 2;
