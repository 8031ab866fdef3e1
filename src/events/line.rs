//! An entry of the log as one JSON object: the data of `/events`.

use serde::Serialize;

use super::log::{Log, Told};
use crate::bus::event::{Peer, PushStep, Switch, What};
use crate::limits::RECENT_EVENTS_MAX;
use crate::media::StreamKey;
use crate::media::state::{EndReason, Fault};

/// What every event has, and what its kind adds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    sequence: u64,
    run: u64,
    time_ms: u64,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    #[serde(flatten)]
    detail: Detail<'a>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Detail<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_try_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schemas: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jumps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
}

/// The name under which an entry is told.
pub(super) fn name(told: &Told<'_>) -> &'static str {
    match told {
        Told::Event(event) => event.what.name(),
        Told::Gap(_) => "gap",
    }
}

/// The object; one line of text. It has its number in its run, and `time_ms` is Unix time.
pub(super) fn json((run, sequence): (u64, u64), time_ms: u64, told: &Told<'_>) -> String {
    let (key, generation, detail) = match told {
        Told::Event(event) => {
            let generation = event.generation.map(|generation| generation.0);
            (Some(event.key.as_str()), generation, Detail::of(&event.what))
        }
        Told::Gap(missed) => {
            let reason = Some("events came faster than they were taken");
            (None, None, Detail { missed: Some(*missed), reason, ..Detail::default() })
        }
    };
    let line = Line { sequence, run, time_ms, event: name(told), key, generation, detail };
    serde_json::to_string(&line).expect("a line is plain data with text keys")
}

/// The last events of a key, the oldest first.
pub(super) fn recent(log: &Log, key: &StreamKey) -> Vec<String> {
    let of_key = log.backwards().filter(|entry| entry.key.as_ref() == Some(key));
    let mut lines: Vec<String> =
        of_key.take(RECENT_EVENTS_MAX).map(|entry| entry.json.to_string()).collect();
    lines.reverse();
    lines
}

impl<'a> Detail<'a> {
    fn of(what: &'a What) -> Self {
        let url = |url: &'a Option<std::sync::Arc<crate::media::SourceUrl>>| {
            url.as_ref().map(|url| url.as_str())
        };
        match what {
            What::Pending { by, url: of } => {
                Self { reason: Some(by.as_str()), url: url(of), ..Self::default() }
            }
            What::AttemptFailed { url, fault, attempt, next_try } => {
                let detail = Self::of_fault(fault, *next_try);
                Self { url: Some(url.as_str()), attempt: Some(*attempt), ..detail }
            }
            What::Registered { url: of, .. } => Self { url: url(of), ..Self::default() },
            What::SourceSwitched { connection, peer } => Self {
                reason: Some(Switch::Lost.as_str()),
                connection: Some(connection.to_string()),
                peer: Some(peer.to_string()),
                ..Self::default()
            },
            What::SourceReplaced { from, url, why } => Self {
                reason: Some(why.as_str()),
                from: Some(from.as_str()),
                url: Some(url.as_str()),
                ..Self::default()
            },
            What::SourceFailed { url, fault } => {
                Self { url: Some(url.as_str()), ..Self::of_fault(fault, None) }
            }
            What::FormsChanged { forms, .. } => {
                let schemas = forms.iter().map(|&form| crate::api::schema(form)).collect();
                Self { schemas: Some(schemas), ..Self::default() }
            }
            What::Lost { url: of, fault, next_try, .. } => {
                Self { url: url(of), ..Self::of_fault(fault, *next_try) }
            }
            What::Ended { reason, url: of, .. } => {
                Self { reason: Some(reason.as_str()), url: url(of), ..Self::default() }
            }
            What::Push { url, step } => Self { url: Some(url.as_str()), ..Self::of_push(step) },
            What::Unwatched | What::GraceOver { .. } => Self::default(),
            What::PlayerWaits(peer) | What::PlayerStarted(peer) => Self::of_peer(peer),
            What::PlayerRefused { peer, reason } => {
                Self { reason: Some(reason.as_str()), ..Self::of_peer(peer) }
            }
            What::PlayerSlow { connection, jumps } => Self {
                reason: Some("too_far_behind"),
                connection: Some(connection.to_string()),
                jumps: Some(*jumps),
                ..Self::default()
            },
            What::PlayerEvicted { connection } => Self {
                connection: Some(connection.to_string()),
                reason: Some(EndReason::TooSlow.as_str()),
                ..Self::default()
            },
            What::Left { peer, reason, traffic } => Self {
                reason: Some(reason.map_or("peer", EndReason::as_str)),
                received_bytes: Some(traffic.received_bytes),
                sent_bytes: Some(traffic.sent_bytes),
                seconds: Some(traffic.seconds),
                ..Self::of_peer(peer)
            },
        }
    }

    fn of_push(step: &'a PushStep) -> Self {
        match step {
            PushStep::Pending | PushStep::Up | PushStep::Waits => Self::default(),
            PushStep::Failed { fault, attempt, next_try, .. } => {
                Self { attempt: Some(*attempt), ..Self::of_fault(fault, *next_try) }
            }
            PushStep::Ended(reason) => Self { reason: Some(reason.as_str()), ..Self::default() },
        }
    }

    fn of_fault(fault: &'a Fault, next_try: Option<std::time::Duration>) -> Self {
        Self {
            reason: Some(&fault.text),
            error_class: Some(fault.class.as_str()),
            next_try_ms: next_try.map(|delay| delay.as_millis() as u64),
            ..Self::default()
        }
    }

    fn of_peer(peer: &Peer) -> Self {
        Self {
            connection: Some(peer.connection.to_string()),
            peer: Some(peer.address.to_string()),
            protocol: Some(peer.protocol),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::bus::event::{Event, Traffic};
    use crate::media::state::{ErrorClass, Generation};
    use crate::media::{ConnectionId, ShardId, SourceUrl};

    fn line_of(what: What) -> Value {
        let key = StreamKey::in_default_vhost("live", "a").unwrap();
        let event = Event { key, generation: Some(Generation(5)), what };
        serde_json::from_str(&json((7, 1), 1234, &Told::Event(&event))).unwrap()
    }

    #[test]
    fn a_failed_attempt_says_class_number_and_next_try() {
        let url = SourceUrl::parse("rtmp://h/live/a", false).unwrap().into();
        let fault = Fault::new(ErrorClass::Refused, "connection refused");
        let next_try = Some(Duration::from_millis(2000));
        let line = line_of(What::AttemptFailed { url, fault, attempt: 3, next_try });
        let expected = json!({"sequence": 1, "run": 7, "timeMs": 1234, "event": "attempt_failed",
            "key": "__defaultVhost__/live/a", "generation": 5, "reason": "connection refused",
            "errorClass": "refused", "attempt": 3, "nextTryMs": 2000, "url": "rtmp://h/live/a"});
        assert_eq!(line, expected);
    }

    #[test]
    fn a_player_that_leaves_says_what_it_got() {
        let peer = Peer {
            connection: ConnectionId { serial: 3, shard: ShardId(1) },
            address: "10.0.0.1:5".parse().unwrap(),
            protocol: "ws",
            params: String::new(),
            is_player: true,
        };
        let traffic = Traffic { received_bytes: 1, sent_bytes: 2, seconds: 3 };
        let line = line_of(What::Left { peer: Box::new(peer), reason: None, traffic });
        assert_eq!((&line["event"], &line["reason"]), (&json!("player_left"), &json!("peer")));
        assert_eq!((&line["connection"], &line["peer"]), (&json!("3-1"), &json!("10.0.0.1:5")));
        assert_eq!((&line["sentBytes"], &line["protocol"]), (&json!(2), &json!("ws")));
    }
}
