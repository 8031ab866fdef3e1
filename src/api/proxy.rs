//! Pulls, which ZLMediaKit calls stream proxies: addStreamProxy, delStreamProxy, listStreamProxy,
//! getProxyInfo.
//!
//! Keys that ZLMediaKit passes to its puller or muxer (`rtp_type`, `enable_hls`, ...) are accepted
//! and have no effect.

use std::sync::Arc;
use std::time::Duration;

use super::Node;
use super::router::Call;
use super::wire::{
    self, AddedRow, Code, Data, DeletedRow, Failure, ProxyRow, ReleasedRow, TakenRow,
};
use crate::bus::message::{Answer, Ask, PullOptions};
use crate::bus::view::{SourceView, StreamView};
use crate::limits::PULL_TIMEOUT_MS_MAX;
use crate::media::state::{ErrorClass, Fault};
use crate::media::url::SourceUrlError;
use crate::media::{SourceUrl, StreamKey};
use crate::proto::http::Response;

/// `addStreamProxy`: answers at first media or first failure; at once with `async=1`.
pub(super) async fn add<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let key = call.key().map_err(|error| Failure::new(Code::InvalidArgs, error.to_string()))?;
    let url = source_url(call)?;
    let options = options(call);
    // Its turn in the origin's connect budget may take one timeout, its attempt another.
    let bound = options.timeout * 2 + call.bound();
    let ask = Ask::AddPull { key: key.clone(), url: Arc::new(url), options };
    match call.ask_within(call.node.owner_of(&key), ask, bound).await? {
        Answer::Added { state, generation } => {
            let (key, state) = (key.as_str(), state.as_str());
            let added = AddedRow { key, state, generation: generation.0 };
            Ok(wire::success(Data { data: added }))
        }
        Answer::Exists { state, url, generation } => {
            let data = TakenRow {
                key: key.as_str(),
                state: state.as_str(),
                generation: generation.0,
                url: url.as_ref().map(|url| url.as_str()),
            };
            let msg = Some("This stream already exists");
            Ok(wire::reply(Code::OtherFailed, msg, Data { data }))
        }
        Answer::AddFailed(fault) => Err(Failure::new(Code::OtherFailed, add_failed_text(fault))),
        Answer::AddCancelled => Err(Failure::new(Code::OtherFailed, "player proxy close")),
        Answer::Overloaded(limit) => Err(Failure::new(Code::OtherFailed, limit)),
        _ => Err(Failure::other_answer()),
    }
}

/// `delStreamProxy`: ends a pull in whatever state it is.
pub(super) async fn delete<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let closed = match wire::parse_key(call.params.text("key")) {
        None => None,
        Some(key) => {
            let ask = Ask::DeletePull { key: key.clone() };
            let Answer::Deleted(closed) = call.ask_owner(&key, ask).await? else {
                return Err(Failure::other_answer());
            };
            closed
        }
    };
    let released = closed.as_ref().map(ReleasedRow::of);
    Ok(wire::success(Data { data: DeletedRow { flag: closed.is_some(), released } }))
}

/// `listStreamProxy`: all pulls, or the one of a key.
pub(super) async fn list<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let streams = match call.params.find("key") {
        None => call.streams(None).await?,
        Some(text) => {
            let pull = find_pull(call, text).await?;
            let not_found = || Failure::new(Code::Exception, format!("key not found: {text}"));
            vec![pull.ok_or_else(not_found)?]
        }
    };
    Ok(wire::list(streams.iter().filter_map(ProxyRow::of)).await)
}

/// `getProxyInfo`.
pub(super) async fn show<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let pull = find_pull(call, call.params.text("key")).await?;
    let row = pull.as_ref().and_then(ProxyRow::of).map(ProxyRow::without_key);
    let row = row.ok_or_else(|| Failure::new(Code::NotFound, "can not find the proxy"))?;
    Ok(wire::success(Data { data: row }))
}

async fn find_pull<N: Node>(call: &Call<'_, N>, key: &str) -> Result<Option<StreamView>, Failure> {
    let Some(key): Option<StreamKey> = wire::parse_key(key) else { return Ok(None) };
    let streams = call.streams(Some(key)).await?;
    Ok(streams.into_iter().find(|stream| matches!(stream.source, SourceView::Pull(_))))
}

fn source_url<N: Node>(call: &Call<'_, N>) -> Result<SourceUrl, Failure> {
    let text = call.params.text("url");
    let is_flv = call.params.text("schema").eq_ignore_ascii_case("flv");
    SourceUrl::parse(text, is_flv).map_err(|error| {
        let msg = match error {
            SourceUrlError::Scheme => format!("not supported play schema:{text}"),
            error => format!("{error}: {text}"),
        };
        Failure::new(Code::OtherFailed, msg)
    })
}

fn options<N: Node>(call: &Call<'_, N>) -> PullOptions {
    let (params, pull) = (&call.params, &call.config.pull);
    let longest = PULL_TIMEOUT_MS_MAX as f64 / 1000.0;
    let timeout = params.float("timeout_sec").filter(|seconds| *seconds > TIMEOUT_SEC_MIN);
    let media_timeout_ms = params.integer("media_timeout_ms").filter(|&ms| ms > 0);
    PullOptions {
        // Any negative number is without end.
        retries_max: u32::try_from(params.integer("retry_count").unwrap_or(-1)).ok(),
        force: params.flag("force"),
        no_wait: params.flag("async"),
        timeout: timeout.map_or(Duration::from_millis(pull.timeout_ms), |seconds| {
            Duration::from_secs_f64(seconds.min(longest))
        }),
        media_timeout: Duration::from_millis(
            media_timeout_ms
                .map_or(pull.media_timeout_ms, i64::unsigned_abs)
                .min(PULL_TIMEOUT_MS_MAX),
        ),
    }
}

/// ZLMediaKit's words for the most common failure; ours for the others, which nobody switches on.
fn add_failed_text(fault: Fault) -> String {
    match fault.class {
        ErrorClass::Refused => "connection refused".to_owned(),
        _ => fault.text,
    }
}

/// A timeout of this or less is not honored, as in ZLMediaKit.
const TIMEOUT_SEC_MIN: f64 = 0.1;
