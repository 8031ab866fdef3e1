//! Bodies of hooks: ZLMediaKit's names and members (its `server/WebHook.cpp`), and ours beside them.

use serde_json::{Map, Value, json};

use crate::api::schema;
use crate::bus::event::{Asker, End, Event, Peer, Traffic, What};
use crate::config::{Config, Hook};
use crate::media::state::{EndReason, Fault, Generation};
use crate::media::{Form, SourceUrl, StreamKey};

/// What is told of an event, and to which hooks.
pub(super) fn of_event(event: &Event, config: &Config) -> Vec<(Hook, Map<String, Value>)> {
    let key = &event.key;
    let mut bodies = Vec::new();
    for form in Form::ALL.into_iter().filter(|&form| config.hook.tells_schema(schema(form))) {
        if let Some(body) = stream_changed(key, &event.what, form) {
            bodies.push((Hook::StreamChanged, body));
        }
    }
    if let Some(body) = proxy_state(key, &event.what) {
        bodies.push((Hook::ProxyState, body));
    }
    match &event.what {
        What::Unwatched => bodies.push((Hook::StreamNoneReader, stream(key))),
        What::Left { peer, traffic, .. }
            if moved(traffic) / 1024 >= config.hook.flow_threshold_kb =>
        {
            bodies.push((Hook::FlowReport, flow_report(key, peer, traffic)));
        }
        _ => {}
    }
    bodies
}

/// A peer and what it wants: `on_play`, `on_publish`, `on_stream_not_found`.
pub(super) fn of_peer(key: &StreamKey, peer: &Peer) -> Map<String, Value> {
    let schema = schema_of(peer);
    let mut body = stream(key);
    body.insert("schema".to_owned(), schema.into());
    body.insert("protocol".to_owned(), peer.protocol.into());
    body.insert("params".to_owned(), peer.params.as_str().into());
    body.insert("ip".to_owned(), peer.address.ip().to_canonical().to_string().into());
    body.insert("port".to_owned(), peer.address.port().into());
    body.insert("id".to_owned(), peer.connection.to_string().into());
    if !peer.is_player {
        let (number, name) = if schema == "rtsp" { (2, "rtsp_push") } else { (1, "rtmp_push") };
        body.insert("originType".to_owned(), number.into());
        body.insert("originTypeStr".to_owned(), name.into());
    }
    body
}

/// What every hook about a stream has.
pub(super) fn stream(key: &StreamKey) -> Map<String, Value> {
    map(json!({
        "schema": schema(Form::Flv),
        "vhost": key.vhost(),
        "app": key.app(),
        "stream": key.stream(),
        "params": "",
    }))
}

/// Where an event stands in the log, for who wants to put calls in order or leave out repeated ones.
pub(super) fn stamp(
    body: &mut Map<String, Value>,
    (run, sequence): (u64, u64),
    time_ms: u64,
    generation: Option<Generation>,
) {
    body.insert("run".to_owned(), run.into());
    body.insert("sequence".to_owned(), sequence.into());
    body.insert("timeMs".to_owned(), time_ms.into());
    if let Some(generation) = generation {
        body.insert("generation".to_owned(), generation.0.into());
    }
}

/// Every key of the configuration.
pub(super) fn server_started(config: &Config) -> Map<String, Value> {
    config.zlm_map().into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// A change in one schema; nothing where the stream is not, or was not, in it. Of a source that is lost and
/// comes back while its players are kept they notice nothing, and nobody is told that the stream is gone.
fn stream_changed(key: &StreamKey, what: &What, form: Form) -> Option<Map<String, Value>> {
    let (view, was, is) = match what {
        What::Registered { view: Some(view), before, .. } => {
            (Some(view), before.contains(&form), view.form(form).playable)
        }
        What::FormsChanged { view, before, forms } => {
            (view.as_ref(), before.contains(&form), forms.contains(&form))
        }
        What::GraceOver { forms } | What::Ended { forms, .. } => {
            (None, forms.contains(&form), false)
        }
        _ => return None,
    };
    let (regist, mut body) = match view {
        _ if was == is => return None,
        Some(view) if is => (true, crate::api::stream_object(view, form)),
        _ if was => (false, stream(key)),
        _ => return None,
    };
    body.insert("schema".to_owned(), schema(form).into());
    body.insert("regist".to_owned(), regist.into());
    Some(body)
}

/// How a pull gets on: what ZLMediaKit tells nobody.
fn proxy_state(key: &StreamKey, what: &What) -> Option<Map<String, Value>> {
    let (url, state, fault, attempt, next_try) = match what {
        What::Pending { by: Asker::Pull | Asker::Demand, url } => {
            (url.as_deref()?, "pending", None, None, None)
        }
        What::AttemptFailed { url, fault, attempt, next_try } => {
            let state = if next_try.is_some() { "retrying" } else { "given_up" };
            (&**url, state, Some(fault), Some(*attempt), *next_try)
        }
        What::Lost { url: Some(url), fault, next_try, .. } => {
            let state = if next_try.is_some() { "retrying" } else { "given_up" };
            (&**url, state, Some(fault), None, *next_try)
        }
        What::SourceReplaced { url, .. } => (&**url, "source_switched", None, None, None),
        What::Registered { url: Some(url), .. } => (&**url, "registered", None, None, None),
        // Its last failure has said so.
        What::Ended { reason: End::For(EndReason::GaveUp), .. } => return None,
        What::Ended { url: Some(url), reason, .. } => {
            let body = proxy(key, url, "ended", None);
            let reason = ("reason".to_owned(), reason.as_str().into());
            return Some(body.into_iter().chain([reason]).collect());
        }
        _ => return None,
    };
    let mut body = proxy(key, url, state, fault);
    if let Some(attempt) = attempt {
        body.insert("attempt".to_owned(), attempt.into());
    }
    if let Some(delay) = next_try {
        body.insert("nextRetryMs".to_owned(), (delay.as_millis() as u64).into());
    }
    Some(body)
}

fn proxy(
    key: &StreamKey,
    url: &SourceUrl,
    state: &str,
    fault: Option<&Fault>,
) -> Map<String, Value> {
    map(json!({
        "vhost": key.vhost(),
        "app": key.app(),
        "stream": key.stream(),
        "key": key.as_str(),
        "url": url.as_str(),
        "state": state,
        "reason": fault.map(|fault| &fault.text),
        "errorClass": fault.map(|fault| fault.class.as_str()),
    }))
}

fn flow_report(key: &StreamKey, peer: &Peer, traffic: &Traffic) -> Map<String, Value> {
    let mut body = of_peer(key, peer);
    body.remove("originType");
    body.remove("originTypeStr");
    body.insert("totalBytes".to_owned(), moved(traffic).into());
    body.insert("duration".to_owned(), traffic.seconds.into());
    body.insert("player".to_owned(), peer.is_player.into());
    body
}

fn moved(traffic: &Traffic) -> u64 {
    traffic.received_bytes + traffic.sent_bytes
}

fn schema_of(peer: &Peer) -> &'static str {
    schema(if peer.protocol == "rtsp" { Form::Rtp } else { Form::Flv })
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => unreachable!("callers give objects"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::media::state::ErrorClass;
    use crate::media::{ConnectionId, ShardId};

    fn key() -> StreamKey {
        StreamKey::in_default_vhost("live", "cam1").unwrap()
    }

    fn url() -> Arc<SourceUrl> {
        SourceUrl::parse("rtmp://h/live/a", false).unwrap().into()
    }

    fn told(what: What) -> Vec<(Hook, Map<String, Value>)> {
        let event = Event { key: key(), generation: Some(Generation(3)), what };
        of_event(&event, &Config::default())
    }

    fn peer(is_player: bool) -> Peer {
        Peer {
            connection: ConnectionId { serial: 26, shard: ShardId(5) },
            address: "[::ffff:10.0.0.77]:40118".parse().unwrap(),
            protocol: "http",
            params: "sign=abc".to_owned(),
            is_player,
        }
    }

    #[test]
    fn a_player_is_told_as_zlmediakit_does() {
        let expected = json!({"schema": "rtmp", "protocol": "http", "vhost": "__defaultVhost__",
            "app": "live", "stream": "cam1", "params": "sign=abc", "ip": "10.0.0.77",
            "port": 40118, "id": "26-5"});
        assert_eq!(Value::Object(of_peer(&key(), &peer(true))), expected);
        let publisher = of_peer(&key(), &peer(false));
        assert_eq!(
            (&publisher["originType"], &publisher["originTypeStr"]),
            (&json!(1), &json!("rtmp_push"))
        );
    }

    #[test]
    fn each_step_of_a_pull_is_a_state_and_its_end_is_told_once() {
        let fault = || Fault::new(ErrorClass::Refused, "connection refused");
        let failed =
            |next_try| What::AttemptFailed { url: url(), fault: fault(), attempt: 2, next_try };
        let rtmp = || vec![Form::Flv];
        let lost = |next_try| What::Lost { url: Some(url()), fault: fault(), next_try };
        let ended =
            |reason, forms| What::Ended { reason: End::For(reason), forms, url: Some(url()) };
        let soon = Some(Duration::from_secs(2));
        let state = (Hook::ProxyState, Some("retrying"));
        let gone = (Hook::StreamChanged, None);
        let table = [
            (
                What::Pending { by: Asker::Pull, url: Some(url()) },
                vec![(Hook::ProxyState, Some("pending"))],
            ),
            (failed(soon), vec![state]),
            (failed(None), vec![(Hook::ProxyState, Some("given_up"))]),
            (lost(soon), vec![state]),
            (What::GraceOver { forms: rtmp() }, vec![gone]),
            (lost(None), vec![(Hook::ProxyState, Some("given_up"))]),
            (ended(EndReason::GaveUp, rtmp()), vec![gone]),
            (ended(EndReason::GaveUp, vec![]), vec![]),
            (ended(EndReason::Deleted, rtmp()), vec![gone, (Hook::ProxyState, Some("ended"))]),
        ];
        for (what, expected) in table {
            let name = format!("{what:?}");
            let bodies = told(what);
            let found: Vec<_> = bodies
                .iter()
                .map(|(hook, body)| (*hook, body.get("state").and_then(Value::as_str)))
                .collect();
            assert_eq!(found, expected, "{name}");
        }
        let (_, body) = told(failed(soon)).pop().unwrap();
        let expected = json!({"vhost": "__defaultVhost__", "app": "live", "stream": "cam1",
            "key": "__defaultVhost__/live/cam1", "url": "rtmp://h/live/a", "state": "retrying",
            "reason": "connection refused", "errorClass": "refused", "attempt": 2,
            "nextRetryMs": 2000});
        assert_eq!(Value::Object(body), expected);
    }

    #[test]
    fn only_who_moved_much_is_in_the_flow_report() {
        let left = |received_bytes| {
            let traffic = Traffic { received_bytes, sent_bytes: 24, seconds: 9 };
            told(What::Left { peer: Box::new(peer(true)), reason: None, traffic })
        };
        assert_eq!(left(1000).len(), 0);
        let (hook, body) = left(1024 * 1024).pop().unwrap();
        assert_eq!(hook, Hook::FlowReport);
        let members = (&body["totalBytes"], &body["duration"], &body["player"]);
        assert_eq!(members, (&json!(1_048_600), &json!(9), &json!(true)));
    }

    #[test]
    fn a_change_is_told_in_each_schema_that_the_operator_wants() {
        let lost = |forms| What::GraceOver { forms };
        let event = |what| Event { key: key(), generation: None, what };
        let mut config = Config::default();
        let body = |schema| {
            json!({"schema": schema, "vhost": "__defaultVhost__", "app": "live",
                "stream": "cam1", "params": "", "regist": false})
        };
        let bodies = |forms, config: &Config| -> Vec<Value> {
            let bodies = of_event(&event(lost(forms)), config);
            bodies.into_iter().map(|(_, body)| Value::Object(body)).collect()
        };
        let both = || Form::ALL.to_vec();
        assert_eq!(bodies(vec![Form::Flv], &config), [body("rtmp")]);
        assert_eq!(bodies(both(), &config), [body("rtmp"), body("rtsp")]);
        let gone = What::FormsChanged { view: None, before: both(), forms: vec![Form::Flv] };
        let told = of_event(&event(gone), &config);
        assert_eq!(
            told.into_iter().map(|(_, body)| Value::Object(body)).collect::<Vec<_>>(),
            [body("rtsp")]
        );
        config.hook.stream_changed_schemas = "ts/rtsp".to_owned();
        assert_eq!(bodies(both(), &config), [body("rtsp")]);
        config.hook.stream_changed_schemas = "ts".to_owned();
        assert!(bodies(both(), &config).is_empty());
    }
}
