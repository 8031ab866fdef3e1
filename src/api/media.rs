//! Streams: getMediaList, getMediaInfo, isMediaOnline, getMediaPlayerList, close_stream,
//! close_streams.
//!
//! Only registered streams count, except for the closes and where `include_pending` asks for the
//! others. Each counts in one schema ([`wire::SCHEMA`]); a filter for another matches nothing.

use super::Node;
use super::gather::concurrently;
use super::router::Call;
use super::wire::{
    self, CloseCounts, CloseRow, Code, Failure, MediaInfo, MediaRow, Online, PlayerRow, ReleasedRow,
};
use crate::bus::message::{Answer, Ask, CloseOutcome, Closed};
use crate::bus::view::StreamView;
use crate::clock;
use crate::media::StreamKey;
use crate::media::state::{Released, StreamState};
use crate::proto::http::Response;

/// `getMediaList`.
pub(super) async fn list<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let with_pending = call.params.flag("include_pending");
    let mut streams = matching(call).await?;
    streams.retain(|stream| stream.registered || with_pending);
    Ok(wire::list(streams.iter().map(MediaRow::of)).await)
}

/// `getMediaInfo`.
pub(super) async fn show<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let stream = find_registered(call).await?.ok_or_else(Failure::stream_not_found)?;
    let row = MediaRow::of(&stream).with_loss();
    Ok(wire::success(MediaInfo { online: true, row }))
}

/// `isMediaOnline`.
pub(super) async fn is_online<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let online = find_registered(call).await?.is_some();
    Ok(wire::success(Online { online }))
}

/// `getMediaPlayerList`.
pub(super) async fn list_players<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let stream = find_registered(call).await?.ok_or_else(Failure::stream_not_found)?;
    let mut players = Vec::new();
    for answer in call.ask_all(|| Ask::Players { key: stream.key.clone() }).await {
        let Answer::Players(views) = answer? else { return Err(Failure::other_answer()) };
        players.extend(views.unwrap_or_default());
    }
    Ok(wire::list(players.iter().map(PlayerRow::of)).await)
}

/// `close_stream`.
pub(super) async fn close<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let key = named_key(call).ok_or_else(Failure::stream_not_found)?;
    let order = Order::of(call);
    let ask = Ask::Close {
        key: key.clone(),
        generation: None,
        force: order.force,
        pending_too: order.pending_too,
    };
    let Answer::Close(outcome) = call.ask_owner(&key, ask).await? else {
        return Err(Failure::other_answer());
    };
    match outcome {
        CloseOutcome::Closed(closed) => {
            let released = Some(ReleasedRow::of(&closed));
            Ok(wire::reply(Code::Success, Some("success"), CloseRow { result: 0, released }))
        }
        CloseOutcome::HasPlayers => {
            let row = CloseRow { result: -1, released: None };
            Ok(wire::reply(Code::OtherFailed, Some("close failed"), row))
        }
        CloseOutcome::Pending(state) if call.config.api.force_closes_pending => {
            Err(Failure::new(Code::NotFound, pending_text(state)))
        }
        CloseOutcome::Pending(_) | CloseOutcome::NotFound => Err(Failure::stream_not_found()),
    }
}

/// `close_streams`: closes what matches now, each by its generation, so that what comes under the
/// same name meanwhile is left alone.
pub(super) async fn close_all<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let order = Order::of(call);
    let streams = matching(call).await?;
    let (registered, pending): (Vec<_>, Vec<_>) =
        streams.iter().partition(|stream| stream.registered);
    let mut counts = CloseCounts {
        count_hit: registered.len() as u64,
        count_pending: pending.len() as u64,
        ..CloseCounts::default()
    };
    let pending = pending.into_iter().filter(|_| order.pending_too);
    // Each close has its bound; this one is for a node that confirms none of thousands.
    let deadline = clock::now() + call.bound() * CLOSE_ALL_BOUNDS;
    let closes = registered
        .into_iter()
        .chain(pending)
        .take_while(|_| clock::now() < deadline)
        .map(|stream| close_one(call, order, stream));
    let mut all = Closed { released: Released::default(), complete: true };
    for outcome in concurrently(closes).await {
        match outcome {
            Some(CloseOutcome::Closed(closed)) => {
                counts.count_closed += 1;
                all.released += closed.released;
                all.complete &= closed.complete;
            }
            // It has ended by itself, or players or a lost source came in between.
            Some(CloseOutcome::NotFound | CloseOutcome::HasPlayers | CloseOutcome::Pending(_)) => {}
            None => all.complete = false,
        }
    }
    counts.released = ReleasedRow::of(&all);
    Ok(wire::success(counts))
}

/// `None` when the owner did not answer.
async fn close_one<N: Node>(
    call: &Call<'_, N>,
    order: Order,
    stream: &StreamView,
) -> Option<CloseOutcome> {
    let ask = Ask::Close {
        key: stream.key.clone(),
        generation: Some(stream.generation),
        force: order.force,
        pending_too: order.pending_too,
    };
    match call.ask_owner(&stream.key, ask).await {
        Ok(Answer::Close(outcome)) => Some(outcome),
        _ => None,
    }
}

/// What a close may end.
#[derive(Debug, Clone, Copy)]
struct Order {
    /// Streams with players.
    force: bool,
    /// Pending streams.
    pending_too: bool,
}

impl Order {
    fn of<N: Node>(call: &Call<'_, N>) -> Self {
        let force = call.params.flag("force");
        let forces_pending = force && call.config.api.force_closes_pending;
        Self { force, pending_too: forces_pending || call.params.flag("pending") }
    }
}

fn pending_text(state: StreamState) -> String {
    format!(
        "can not find the stream: it is pending ({}); to end it, call again with force=1 or \
         pending=1, or delStreamProxy with its key where it is pulled",
        state.as_str()
    )
}

/// The streams that the optional filters let through, pending ones too. ZLMediaKit takes the vhost
/// of these filters as it stands.
async fn matching<N: Node>(call: &Call<'_, N>) -> Result<Vec<StreamView>, Failure> {
    if call.params.find("schema").is_some_and(|schema| schema != wire::SCHEMA) {
        return Ok(Vec::new());
    }
    let (vhost, app, stream) =
        (call.params.find("vhost"), call.params.find("app"), call.params.find("stream"));
    let key = match (app, stream) {
        (Some(app), Some(stream)) => match StreamKey::in_default_vhost(app, stream) {
            Ok(key) => Some(key),
            Err(_) => return Ok(Vec::new()),
        },
        _ => None,
    };
    let mut streams = call.streams(key).await?;
    let lets_through = |filter: Option<&str>, part: &str| filter.is_none_or(|only| only == part);
    streams.retain(|view| {
        lets_through(vhost, view.key.vhost())
            && lets_through(app, view.key.app())
            && lets_through(stream, view.key.stream())
    });
    Ok(streams)
}

/// The key of a call that names a stream with its schema; `None` when there can be no such stream.
fn named_key<N: Node>(call: &Call<'_, N>) -> Option<StreamKey> {
    (call.params.text("schema") == wire::SCHEMA).then(|| call.key().ok()).flatten()
}

async fn find_registered<N: Node>(call: &Call<'_, N>) -> Result<Option<StreamView>, Failure> {
    let Some(key) = named_key(call) else { return Ok(None) };
    Ok(call.streams(Some(key)).await?.into_iter().find(|stream| stream.registered))
}

/// Bounds of one close that all closes of a call may take together.
const CLOSE_ALL_BOUNDS: u32 = 10;
