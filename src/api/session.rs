//! Accepted connections: getAllSession, kick_session, kick_sessions.

use super::Node;
use super::gather::concurrently;
use super::router::Call;
use super::wire::{self, Code, Failure, Hit, Nothing, SessionRow};
use crate::bus::message::{Answer, Ask, NodeAsk};
use crate::bus::view::SessionView;
use crate::media::{ConnectionId, ShardId};
use crate::proto::http::Response;

/// `getAllSession`.
pub(super) async fn list<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let sessions = matching(call).await?;
    Ok(wire::list(sessions.iter().map(|(_, session)| SessionRow::of(session))).await)
}

/// `kick_session`.
pub(super) async fn kick<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let not_found = || Failure::new(Code::OtherFailed, "can not find the target");
    let connection = ConnectionId::parse(call.params.text("id")).ok_or_else(not_found)?;
    // A publisher's connection is not where it was accepted any more, so all are asked.
    let mut unanswered = None;
    for answer in call.ask_all(|| Ask::Node(NodeAsk::Kick { connection })).await {
        match answer {
            Ok(Answer::Kicked(true)) => return Ok(wire::success(Nothing {})),
            Ok(_) => {}
            Err(failure) => unanswered = Some(failure),
        }
    }
    Err(unanswered.unwrap_or_else(not_found))
}

/// `kick_sessions`: everybody that matches, except the caller.
pub(super) async fn kick_all<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let sessions = matching(call).await?;
    let others = sessions.iter().map(|&(shard, ref session)| (shard, session.connection));
    let kicks = others
        .filter(|&(_, connection)| connection != call.caller.connection)
        .map(|(shard, connection)| call.ask(shard, Ask::Node(NodeAsk::Kick { connection })));
    let answers = concurrently(kicks).await;
    let hit = answers.iter().filter(|answer| matches!(answer, Ok(Answer::Kicked(true)))).count();
    Ok(wire::success(Hit { count_hit: hit as u64 }))
}

/// The sessions that the optional filters let through, each with the shard that has it.
async fn matching<N: Node>(call: &Call<'_, N>) -> Result<Vec<(ShardId, SessionView)>, Failure> {
    let local_port = call.params.integer("local_port").unwrap_or(0);
    let peer_ip = call.params.find("peer_ip");
    let lets_through = |session: &SessionView| {
        (local_port == 0 || local_port == i64::from(session.local.port()))
            && peer_ip.is_none_or(|ip| ip == wire::ip_text(session.peer))
    };
    let mut sessions = Vec::new();
    let answers = call.ask_all(|| Ask::Node(NodeAsk::Sessions)).await;
    for (index, answer) in answers.into_iter().enumerate() {
        let Answer::Sessions(views) = answer? else { return Err(Failure::other_answer()) };
        let shard = ShardId(index as u16);
        sessions.extend(views.into_iter().filter(lets_through).map(|session| (shard, session)));
    }
    Ok(sessions)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::testing::{FakeNode, caller};
    use crate::bus::view::SessionProtocol;

    /// The caller and three more.
    fn node() -> FakeNode {
        let node = FakeNode::new();
        node.accept(caller().connection, SessionProtocol::Http);
        for (serial, shard) in [(2, 0), (3, 1), (4, 1)] {
            let connection = ConnectionId { serial, shard: ShardId(shard) };
            node.accept(connection, SessionProtocol::Rtmp);
        }
        node
    }

    fn ids(list: &Value) -> Vec<&str> {
        list["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect()
    }

    #[test]
    fn sessions_of_all_shards_are_listed() {
        let node = node();
        let list = node.call("getAllSession", &[]);
        assert_eq!(ids(&list), ["1-0", "2-0", "3-1", "4-1"]);
        let first = json!({"id": "1-0", "identifier": "1-0", "local_ip": "127.0.0.1",
            "local_port": 8080, "peer_ip": "127.0.0.1", "peer_port": 50001, "type": "tcp",
            "typeid": "mediakit::HttpSession"});
        assert_eq!(list["data"][0], first);
        assert_eq!(list["data"][1]["typeid"], "mediakit::RtmpSession");
        let table = [
            (("local_port", "8080"), 4),
            (("local_port", "0"), 4),
            (("local_port", "1935"), 0),
            (("peer_ip", "127.0.0.1"), 4),
            (("peer_ip", "127.0.0.2"), 0),
        ];
        for (filter, count) in table {
            let list = node.call("getAllSession", &[filter]);
            assert_eq!(list["data"].as_array().unwrap().len(), count, "{filter:?}");
        }
    }

    #[test]
    fn one_session_is_kicked_by_its_id() {
        let node = node();
        assert_eq!(node.call("kick_session", &[("id", "3-1")]), json!({"code": 0}));
        assert_eq!(ids(&node.call("getAllSession", &[])), ["1-0", "2-0", "4-1"]);
        let not_found = json!({"code": -1, "msg": "can not find the target"});
        for id in ["3-1", "nosuch", "9-9", "2-1"] {
            assert_eq!(node.call("kick_session", &[("id", id)]), not_found, "{id}");
        }
    }

    #[test]
    fn everybody_but_the_caller_is_kicked() {
        let node = node();
        assert_eq!(node.call("kick_sessions", &[("local_port", "1")])["count_hit"], 0);
        assert_eq!(node.call("kick_sessions", &[]), json!({"code": 0, "count_hit": 3}));
        assert_eq!(ids(&node.call("getAllSession", &[])), ["1-0"]);
    }
}
