//! What an HTTP session wants: a live stream, or an answer of the API.

use super::admission::Refused;
use super::driver::Driver;
use super::link::{Phase, Role, Session};
use super::play::{FLV_TYPE, NO_STORE};
use super::{Call, live_path};
use crate::proto::http::request::{Method, Request};
use crate::proto::http::response::Response;
use crate::proto::http::server::ServerEvent as HttpEvent;
use crate::ring::Token;
use crate::stream::Packaging;

impl Driver {
    pub(super) fn http_event(&mut self, token: Token, event: HttpEvent) {
        match event {
            HttpEvent::Request(request) => self.http_request(token, request),
            HttpEvent::WebSocketClosed(_) => {
                self.leave_role(token, false);
            }
            HttpEvent::Close => self.finish(token),
        }
    }

    pub(super) fn http_request(&mut self, token: Token, request: Request) {
        let is_get = request.method == Method::Get;
        let live = live_path(&request.path).filter(|_| is_get || request.method == Method::Head);
        let Some(key) = live else {
            self.call_handler(token, request);
            return;
        };
        let packaging = match request.websocket_key {
            Some(_) => Packaging::WsFlv,
            None => Packaging::Flv,
        };
        self.asks_to_play(token, packaging, request.query);
        let refused = is_get.then(|| self.may_play(token, &key).err()).flatten();
        let Some(link) = self.links.get_mut(token) else { return };
        let Session::Http(session) = &mut link.session else { return };
        let answered = if let Some(refused) = refused {
            let (status, text) = match refused {
                Refused::Denied(_) => (403, "not allowed\n"),
                Refused::TooMany => (503, "too many at once\n"),
            };
            let answered = session.respond(self.now, Response::text(status, text));
            self.drain(token);
            answered
        } else if !is_get {
            session.begin_stream(self.now, FLV_TYPE, &[NO_STORE]).map(|_| ())
        } else if packaging == Packaging::WsFlv {
            let accepted = session.accept_websocket(self.now);
            self.play(token, key, packaging);
            accepted
        } else {
            self.play(token, key, packaging);
            Ok(())
        };
        if let Err(error) = answered {
            self.session_failed(token, &error);
        }
    }

    /// Has a request answered by the API, in a task of its own that starts when this turn is over.
    pub(super) fn call_handler(&mut self, token: Token, request: Request) {
        let Some(link) = self.links.get_mut(token) else { return };
        link.role = Role::Asking;
        let call = Call { peer: link.peer, local: link.local, connection: link.id, request };
        let node = self.handle.clone().expect("set when the driver was made");
        let answer = (self.handler)(node.clone(), call);
        self.tasks.push(Box::pin(async move {
            let reply = answer.await;
            node.respond(token, reply);
        }));
    }

    pub(super) fn respond(&mut self, token: Token, response: Response) {
        let now = self.now;
        let Some(link) = self.links.get_mut(token) else { return };
        let Session::Http(session) = &mut link.session else { return };
        link.role = Role::None;
        if link.phase != Phase::Open {
            return;
        }
        let answered = session.respond(now, response);
        self.drain(token);
        if let Err(error) = answered {
            self.session_failed(token, &error);
        }
        if self.shutting_down {
            self.finish(token);
        }
    }
}
