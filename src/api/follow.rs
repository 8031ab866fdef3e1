//! `/events`: who may follow the event log, of which streams, from where. `net` and the keeper do
//! the rest.

use super::auth;
use super::params::Params;
use super::{Caller, Node};
use crate::bus::keeper::{Filter, Follow};
use crate::proto::http::{Method, Request, Response};

/// The path of the event log.
pub const EVENTS_PATH: &str = "/events";

/// Lets a request for the event log pass.
///
/// # Errors
/// The answer to who may not, with the status that ends an `EventSource`.
pub fn admit_follower<N: Node>(
    node: &N,
    caller: &Caller,
    request: &Request,
) -> Result<Follow, Response> {
    if !matches!(request.method, Method::Get | Method::Head) {
        return Err(Response::empty(405).with_field("Allow", "GET, HEAD"));
    }
    let params = Params::of(request);
    auth::check(&node.config(), caller, &params).map_err(|failure| failure.response(401))?;
    let mut filter = Filter {
        vhost: text(&params, "vhost"),
        app: text(&params, "app"),
        stream: text(&params, "stream"),
    };
    if let Some(key) = params.find("key") {
        let mut parts = key.splitn(3, '/').map(str::to_owned);
        filter = Filter { vhost: parts.next(), app: parts.next(), stream: parts.next() };
    }
    // A browser that comes back sends the header with the query of its first request.
    let last_id = request.headers.find("last-event-id");
    let after = last_id.or_else(|| params.find("last_event_id")).map(str::to_owned);
    Ok(Follow { filter, after })
}

fn text(params: &Params, name: &str) -> Option<String> {
    params.find(name).filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{FakeNode, SECRET, caller, request};

    fn admitted(query: &str, header: &str) -> Result<Follow, Response> {
        let head = format!("GET /events?{query} HTTP/1.1{header}");
        admit_follower(&FakeNode::new(), &caller(), &request(&head, ""))
    }

    #[test]
    fn a_follower_needs_the_secret() {
        assert!(admitted("", "").is_err());
        assert!(admitted("secret=x", "").is_err());
        assert_eq!(admitted(&format!("secret={SECRET}"), ""), Ok(Follow::default()));
        let head = format!("POST /events?secret={SECRET} HTTP/1.1");
        assert!(admit_follower(&FakeNode::new(), &caller(), &request(&head, "")).is_err());
    }

    #[test]
    fn filter_and_position_are_read() {
        let secret = format!("secret={SECRET}");
        let follow = admitted(&format!("{secret}&key=v/live/a/b&last_event_id=7-1"), "").unwrap();
        let filter = follow.filter;
        let parts = (filter.vhost.as_deref(), filter.app.as_deref(), filter.stream.as_deref());
        assert_eq!(parts, (Some("v"), Some("live"), Some("a/b")));
        assert_eq!(follow.after.as_deref(), Some("7-1"));
        let header = "\r\nLast-Event-ID: 7-9";
        let follow = admitted(&format!("{secret}&app=live&last_event_id=7-1"), header).unwrap();
        assert_eq!((follow.filter.app.as_deref(), follow.filter.stream), (Some("live"), None));
        assert_eq!(follow.after.as_deref(), Some("7-9"));
    }
}
