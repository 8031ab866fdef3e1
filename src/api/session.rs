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
