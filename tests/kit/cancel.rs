//! The ways to end a pull through the API, each of which says what was given back.

use serde_json::Value;

use super::Relay;

/// How a pull is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    Delete,
    CloseStream,
    CloseStreams,
}

impl Cancel {
    /// Ends the pull `live/a`, by force where it is closed by the name of its stream in `schema`, and
    /// checks that the reply says so. Tells what was released.
    #[track_caller]
    pub fn end(self, relay: &Relay, schema: &str, what: &str) -> Value {
        let stream = [
            ("schema", schema),
            ("vhost", "__defaultVhost__"),
            ("app", "live"),
            ("stream", "a"),
            ("force", "1"),
        ];
        let reply = match self {
            Self::Delete => relay.delete("a"),
            Self::CloseStream => relay.api("close_stream", &stream),
            Self::CloseStreams => relay.api("close_streams", &stream),
        };
        assert_eq!(reply["code"], 0, "{what}: {reply}");
        match self {
            Self::Delete => assert_eq!(reply["data"]["flag"], true, "{what}: {reply}"),
            Self::CloseStream => assert_eq!(reply["result"], 0, "{what}: {reply}"),
            Self::CloseStreams => assert_eq!(reply["count_closed"], 1, "{what}: {reply}"),
        }
        let released = released(&reply).clone();
        for kind in ["sockets", "timers", "players", "waiters", "bytes"] {
            assert!(released[kind].is_u64(), "{what}: no {kind} in {reply}");
        }
        assert_eq!(released["complete"], true, "{what}: {reply}");
        // The reply comes after the work: no waiting here.
        assert!(relay.proxy("a").is_none(), "{what}: still listed");
        released
    }
}

/// `released` stands beside `data` or in it.
#[track_caller]
pub fn released(reply: &Value) -> &Value {
    let found = reply.get("released").or_else(|| reply["data"].get("released"));
    found.unwrap_or_else(|| panic!("no released in {reply}"))
}
