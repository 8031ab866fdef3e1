//! `why`, ours: what one stream is doing and why it is slow or absent, in one answer.

use serde::Serialize;
use serde_json::value::RawValue;

use super::Node;
use super::gather::concurrently;
use super::router::Call;
use super::rules::{RuleRow, last_failure, rules};
use super::wire::{self, Code, Failure, SourceRow};
use crate::bus::message::{Answer, Ask, NodeAsk};
use crate::bus::view::{AbsenceView, GapView, GapsView, PlayerView, SourceView, StreamView};
use crate::config::{Config, Hook};
use crate::media::state::StreamState;
use crate::media::{ConnectionId, StreamKey};
use crate::proto::http::Response;
use crate::ring::TcpFacts;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Why<'a> {
    key: &'a str,
    /// One sentence: what acts on it now.
    cause: String,
    state: &'static str,
    players: u32,
    waiters: u32,
    /// Milliseconds since its source last brought media.
    media_age_ms: Option<u64>,
    bytes_per_second: u64,
    /// Of a pull.
    sources: Vec<SourceRow<'a>>,
    /// Times without media of its source, of so many ms and more, since the key was asked for.
    source_gaps: u64,
    /// The last of them, the newest first.
    last_gaps: Vec<GapRow>,
    slowest: Vec<Slow>,
    /// Those whose players are not among them.
    shards_unanswered: Vec<u16>,
    /// What has acted on it, the last first, as far as its last events tell.
    rules: Vec<RuleRow>,
    /// Its last events, the oldest first; as `/events` tells them.
    events: Vec<Box<RawValue>>,
}

/// A player, those that lag most first.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Slow {
    identifier: String,
    peer: String,
    lag_bytes: u64,
    jumps: u32,
    #[serde(flatten)]
    tcp: Option<TcpRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GapRow {
    /// Since its end.
    ago_ms: u64,
    length_ms: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TcpRow {
    rtt_us: u32,
    window_segments: u32,
    unacked_segments: u32,
    retransmitted_segments: u32,
    last_ack_ms: u32,
}

/// `why`: with `key`, or `app` and `stream`.
pub(super) async fn explain<N: Node>(call: &Call<'_, N>) -> Result<Response, Failure> {
    let named = call.params.find("key").and_then(wire::parse_key).or_else(|| call.key().ok());
    let bad = || Failure::new(Code::InvalidArgs, "why needs a key, or an app and a stream");
    let key = named.ok_or_else(bad)?;
    let view = call.stream(&key).await?;
    let events = call.node.recent_events(&key, call.bound()).await;
    let (slowest, shards_unanswered) = match &view {
        Some(_) => slowest(call, &key).await?,
        None => Default::default(),
    };
    let gaps = gaps(call, &key).await?;
    let rules = rules(&events);
    let cause = match &view {
        Some(view) if is_told_of(view, &call.config) => {
            "players wait, and nobody brings it; on_stream_not_found is told of it".to_owned()
        }
        Some(view) => cause(view, (&gaps, &slowest), call.config.egress.lag_bytes_max),
        None => absent(absence(call, &key).await?.as_ref(), &rules, last_failure(&events)),
    };
    let why = Why {
        key: key.as_str(),
        cause,
        state: view.as_ref().map_or("absent", |view| view.state.as_str()),
        players: view.as_ref().map_or(0, StreamView::players),
        waiters: view.as_ref().map_or(0, |view| view.waiters),
        media_age_ms: view.as_ref().filter(|view| view.bytes_total > 0).map(|v| v.media_age_ms),
        bytes_per_second: view.as_ref().map_or(0, |view| view.bytes_per_second),
        sources: match view.as_ref().map(|view| &view.source) {
            Some(SourceView::Pull(pull)) => SourceRow::of(pull),
            _ => Vec::new(),
        },
        source_gaps: gaps.count,
        last_gaps: gaps.recent.iter().map(GapRow::of).collect(),
        slowest,
        shards_unanswered,
        rules,
        events: events.into_iter().filter_map(|line| RawValue::from_string(line).ok()).collect(),
    };
    Ok(wire::success(wire::Data { data: why }))
}

impl GapRow {
    fn of(gap: &GapView) -> Self {
        let GapView { ago_ms, length_ms } = *gap;
        Self { ago_ms, length_ms }
    }
}

/// What is remembered of a stream that could not be had.
async fn absence<N: Node>(
    call: &Call<'_, N>,
    key: &StreamKey,
) -> Result<Option<AbsenceView>, Failure> {
    match call.ask_owner(key, Ask::Absences { key: Some(key.clone()) }).await? {
        Answer::Absences(mut views, _) => Ok(views.pop()),
        _ => Err(Failure::other_answer()),
    }
}

async fn gaps<N: Node>(call: &Call<'_, N>, key: &StreamKey) -> Result<GapsView, Failure> {
    match call.ask_owner(key, Ask::Gaps { key: key.clone() }).await? {
        Answer::Gaps(gaps) => Ok(gaps),
        _ => Err(Failure::other_answer()),
    }
}

/// Also the shards that do not answer: the others know of most of it.
async fn slowest<N: Node>(
    call: &Call<'_, N>,
    key: &StreamKey,
) -> Result<(Vec<Slow>, Vec<u16>), Failure> {
    let (mut players, mut unanswered) = (Vec::<PlayerView>::new(), Vec::new());
    for (shard, answer) in (0..).zip(call.ask_all(|| Ask::Players { key: key.clone() }).await) {
        match answer {
            Ok(Answer::Players(views)) => players.extend(views.unwrap_or_default()),
            Ok(_) => return Err(Failure::other_answer()),
            Err(_) => unanswered.push(shard),
        }
    }
    let players = slowest_of(players);
    let facts = players.iter().map(|player| tcp_of(call, player.connection));
    let facts = concurrently(facts).await;
    let rows = players.iter().zip(facts).map(|(player, tcp)| Slow {
        identifier: player.connection.to_string(),
        peer: player.peer.to_string(),
        lag_bytes: player.lag_bytes,
        jumps: player.jumps,
        tcp,
    });
    Ok((rows.collect(), unanswered))
}

/// Those that lag most, the most first; of equals, who has jumped more often.
fn slowest_of(mut players: Vec<PlayerView>) -> Vec<PlayerView> {
    players.sort_by_key(|player| std::cmp::Reverse((player.lag_bytes, player.jumps)));
    players.truncate(SLOWEST);
    players
}

/// A player stays on the shard that accepted it.
async fn tcp_of<N: Node>(call: &Call<'_, N>, connection: ConnectionId) -> Option<TcpRow> {
    let ask = Ask::Node(NodeAsk::Tcp { connection });
    let Ok(Answer::Tcp(Some(facts))) = call.ask(connection.shard, ask).await else { return None };
    let TcpFacts { rtt_us, window_segments, unacked_segments, retransmitted_segments, last_ack_ms } =
        facts;
    Some(TcpRow { rtt_us, window_segments, unacked_segments, retransmitted_segments, last_ack_ms })
}

/// Why there is no stream: it is known to be missing, or what its last events tell.
fn absent(absence: Option<&AbsenceView>, rules: &[RuleRow], failure: Option<String>) -> String {
    if let Some(AbsenceView { class, text, age_ms, left_ms, .. }) = absence {
        return format!(
            "it could not be had {age_ms} ms ago ({}): {text}; players are refused for {left_ms} ms \
             more (demand.not_found_ms, demand.failed_ms)",
            class.as_str()
        );
    }
    let of = |events: &[&str]| rules.iter().find(|rule| events.contains(&&*rule.event));
    let mut whole = "nobody has asked for it or brings it".to_owned();
    if failure.is_some() || of(&["closed", "deleted", "player_refused"]).is_some() {
        whole = "nobody brings it now".to_owned();
    }
    if let Some(ended) = of(&["closed", "deleted"]) {
        whole += &format!("; it was closed by {}", ended.rule);
    }
    if let Some(refused) = of(&["player_refused"]) {
        whole += &format!("; a player was refused by {}", refused.rule);
    }
    if let Some(failure) = failure {
        whole += &format!("; its last try failed {failure}");
    }
    whole
}

/// Whether a hook may bring it: players wait for it, and nobody has brought it yet.
fn is_told_of(view: &StreamView, config: &Config) -> bool {
    let is_absent = view.state == StreamState::AwaitingSource && view.bytes_total == 0;
    is_absent && config.hook.wants(Hook::StreamNotFound)
}

/// The first of these that holds: no source, a source that fails, falls silent or did so a
/// moment ago, a player that lags.
fn cause(view: &StreamView, (gaps, slowest): (&GapsView, &[Slow]), lag_bytes_max: u64) -> String {
    if let (false, SourceView::Pull(pull)) = (view.registered, &view.source) {
        let fault = pull.last_fault.as_ref();
        let last = fault.map_or(String::new(), |fault| {
            format!("; try {} failed ({}): {}", pull.attempts, fault.class.as_str(), fault.text)
        });
        return match view.state {
            StreamState::BackingOff => {
                format!("its origin fails: the next try is in {} ms{last}", pull.next_retry_ms)
            }
            StreamState::Queued => format!("it waits for its origin's connect budget{last}"),
            state => format!("a try is under way: {}{last}", state.as_str()),
        };
    }
    match view.state {
        StreamState::AwaitingSource => return "players wait, and nobody brings it".to_owned(),
        StreamState::AwaitingMedia => return "its publisher has sent no media yet".to_owned(),
        _ => {}
    }
    if view.media_age_ms >= SOURCE_GAP_MS {
        return format!("its source is silent: no media for {} ms", view.media_age_ms);
    }
    if let Some(gap) = gaps.recent.first().filter(|gap| gap.ago_ms < RECENT_GAP_MS) {
        let GapView { ago_ms, length_ms } = gap;
        return format!("its source brought no media for {length_ms} ms, until {ago_ms} ms ago");
    }
    match slowest.first() {
        Some(slow) if slow.jumps > 0 || slow.lag_bytes > lag_bytes_max / 2 => format!(
            "its source is fine; player {} lags {} bytes and has jumped {} times \
             (egress.lag_bytes_max is {lag_bytes_max})",
            slow.identifier, slow.lag_bytes, slow.jumps
        ),
        _ => "it is live, and no player lags".to_owned(),
    }
}

/// A gap is the cause for so long: players have played what they had until then.
const RECENT_GAP_MS: u64 = 10_000;
/// Players that are shown.
const SLOWEST: usize = 5;
/// A source that is silent for longer than a frame of one a second is.
const SOURCE_GAP_MS: u64 = 1500;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{RECENT_GAP_MS, RuleRow, SLOWEST, Slow, absent, slowest_of};
    use crate::api::Node;
    use crate::api::testing::FakeNode;
    use crate::bus::view::{FormView, GapView, GapsView, PlayerView, SourceView, StreamView};
    use crate::media::state::{ErrorClass, Fault, Generation, StreamState};
    use crate::media::{ConnectionId, Form, ShardId, StreamKey, TagKind};
    use crate::stream::{Packaging, Tracks};

    const CAM: (&str, &str) = ("key", "__defaultVhost__/live/cam1");

    fn cause(node: &FakeNode) -> String {
        node.call("why", &[CAM])["data"]["cause"].as_str().unwrap().to_owned()
    }

    #[test]
    fn an_absent_stream_has_the_cause_that_is_remembered_or_told() {
        let node = FakeNode::with(|config| {
            config.demand.origin_url = "rtmp://10.0.0.1/%s/%s".to_owned();
        });
        node.play(ConnectionId { serial: 9, shard: ShardId(1) }, "cam1", Packaging::Flv);
        node.fail(&node.take_dial(), Fault::new(ErrorClass::NotFound, "no such stream"));
        node.pass(std::time::Duration::from_secs(1));
        let text = "it could not be had 1000 ms ago (not_found): no such stream; players are \
                    refused for 9000 ms more (demand.not_found_ms, demand.failed_ms)";
        assert_eq!(cause(&node), text);
        let row = |rule, event: &str| RuleRow {
            rule,
            event: event.to_owned(),
            count: 1,
            last_time_ms: 1,
        };
        let rows = [row("b", "player_refused"), row("a", "closed"), row("c", "deleted")];
        let failed = Some("(busy): full".to_owned());
        let text = "nobody brings it now; it was closed by a; a player was refused by b; \
                    its last try failed (busy): full";
        assert_eq!(absent(None, &rows, failed), text);
        assert_eq!(absent(None, &[], None), "nobody has asked for it or brings it");
    }

    /// A stream whose source is fine.
    fn live() -> StreamView {
        let form = |form| FormView { form, playable: true, players: 1 };
        StreamView {
            key: StreamKey::in_default_vhost("live", "cam1").unwrap(),
            generation: Generation(1),
            state: StreamState::Registered,
            registered: true,
            source: SourceView::None,
            age_ms: 5000,
            alive_ms: 5000,
            created_unix: 0,
            forms: Form::ALL.map(form),
            waiters: 0,
            media_age_ms: 20,
            bytes_per_second: 1000,
            bytes_total: 5000,
            timestamp_ms: 0,
            tracks: Tracks::default(),
        }
    }

    #[test]
    fn a_player_that_lags_is_the_cause_where_the_source_is_fine() {
        const LAG_MAX: u64 = 1000;
        let slow = |lag_bytes, jumps| Slow {
            identifier: "7-1".to_owned(),
            peer: "10.0.0.1:5".to_owned(),
            lag_bytes,
            jumps,
            tcp: None,
        };
        let gap = |ago_ms| GapView { ago_ms, length_ms: 2000 };
        let old = GapsView { count: 1, recent: vec![gap(RECENT_GAP_MS)] };
        let cause =
            |gaps: &GapsView, slowest: &[Slow]| super::cause(&live(), (gaps, slowest), LAG_MAX);
        for (lag_bytes, jumps) in [(501, 0), (0, 1), (1000, 3)] {
            let text = format!(
                "its source is fine; player 7-1 lags {lag_bytes} bytes and has jumped {jumps} \
                 times (egress.lag_bytes_max is 1000)"
            );
            assert_eq!(cause(&old, &[slow(lag_bytes, jumps), slow(0, 0)]), text);
        }
        let fine = "it is live, and no player lags";
        assert_eq!(cause(&old, &[slow(500, 0)]), fine);
        assert_eq!(cause(&old, &[]), fine);
        let recent = GapsView { count: 2, recent: vec![gap(RECENT_GAP_MS - 1), gap(20_000)] };
        let text = cause(&recent, &[slow(1000, 3)]);
        assert!(text.starts_with("its source brought no media for 2000 ms"), "{text}");
    }

    #[test]
    fn the_slowest_come_first_and_there_are_a_few() {
        let address = "10.0.0.1:5".parse().unwrap();
        let player = |serial, lag_bytes, jumps| PlayerView {
            connection: ConnectionId { serial, shard: ShardId(0) },
            packaging: Packaging::Flv,
            local: address,
            peer: address,
            sent_bytes: 0,
            lag_bytes,
            jumps,
        };
        let players = [(1, 0, 9), (2, 70, 0), (3, 50, 1), (4, 50, 2), (5, 900, 0), (6, 0, 0)];
        let players = players.map(|(serial, lag, jumps)| player(serial, lag, jumps)).to_vec();
        let order: Vec<u32> =
            slowest_of(players).iter().map(|player| player.connection.serial).collect();
        assert_eq!(order, [5, 2, 4, 3, 1]);
        assert_eq!(order.len(), SLOWEST);
    }

    #[test]
    fn a_hook_that_may_bring_the_stream_is_named_until_somebody_does() {
        let node = FakeNode::with(|config| {
            config.demand.origin_url = "rtmp://10.0.0.1/%s/%s".to_owned();
            config.hook.enable = true;
            config.hook.on_stream_not_found = "http://h/x".to_owned();
        });
        node.play(ConnectionId { serial: 9, shard: ShardId(1) }, "cam1", Packaging::Flv);
        let text = "players wait, and nobody brings it; on_stream_not_found is told of it";
        assert_eq!(cause(&node), text);
        node.pass(std::time::Duration::from_secs(5));
        assert!(cause(&node).starts_with("a try is under way"), "{}", cause(&node));
    }

    #[test]
    fn a_shard_that_does_not_answer_is_named_and_hides_no_other() {
        let node = FakeNode::new();
        let key = StreamKey::parse(CAM.1).unwrap();
        let owner = node.owner_of(&key);
        node.play(ConnectionId { serial: 9, shard: owner }, "cam1", Packaging::Flv);
        assert_eq!(node.call("why", &[CAM])["data"]["shardsUnanswered"], json!([]));
        node.freeze(ShardId(1 - owner.0));
        let data = &node.call("why", &[CAM])["data"];
        assert_eq!(
            (&data["waiters"], &data["shardsUnanswered"]),
            (&json!(1), &json!([1 - owner.0]))
        );
        node.freeze(owner);
        assert_eq!(node.call("why", &[CAM])["code"], -400);
    }

    #[test]
    fn the_first_cause_is_named_at_each_stage() {
        let node = FakeNode::new();
        assert_eq!(node.call("why", &[])["code"], -300);
        assert!(cause(&node).starts_with("nobody has asked"), "{}", cause(&node));
        node.play(ConnectionId { serial: 9, shard: ShardId(1) }, "cam1", Packaging::Flv);
        assert!(cause(&node).starts_with("players wait"), "{}", cause(&node));
        let url = "rtmp://10.0.0.1/live/cam1";
        let params =
            [("vhost", "v"), ("app", "live"), ("stream", "cam1"), ("url", url), ("async", "1")];
        node.call("addStreamProxy", &params);
        assert!(cause(&node).starts_with("a try is under way"), "{}", cause(&node));
        node.fail(&node.take_dial(), Fault::new(ErrorClass::Refused, "connection refused"));
        let text = cause(&node);
        assert!(text.starts_with("its origin fails") && text.contains("(refused)"), "{text}");
        node.pass(std::time::Duration::from_secs(3));
        let dial = node.take_dial();
        node.deliver(&dial);
        assert_eq!(cause(&node), "it is live, and no player lags");
        node.pass(std::time::Duration::from_secs(2));
        assert!(cause(&node).starts_with("its source is silent"), "{}", cause(&node));
        node.deliver_tags(&dial, 40, &[(TagKind::Audio, &[0xaf, 1, 9])]);
        let text = "its source brought no media for 2000 ms, until 0 ms ago";
        assert_eq!(cause(&node), text);
        let data = node.call("why", &[("app", "live"), ("stream", "cam1")])["data"].clone();
        assert_eq!((&data["players"], &data["events"]), (&json!(1), &json!([])));
        let gap = json!({"agoMs": 0, "lengthMs": 2000});
        assert_eq!((&data["sourceGaps"], &data["lastGaps"]), (&json!(1), &json!([gap])));
        assert_eq!(data["slowest"][0]["identifier"], "9-1");
    }
}
