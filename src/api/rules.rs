//! Which rules have acted on a stream: the config keys, parameters and calls that its last events come
//! from, for `why`.

use serde::{Deserialize, Serialize};

/// A rule that acted.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RuleRow {
    /// What is to be changed where it should not have acted.
    pub(super) rule: &'static str,
    /// What it did, as `/events` calls it.
    pub(super) event: String,
    /// How often, among the events that were looked at.
    pub(super) count: u32,
    /// When it did so last, Unix milliseconds.
    pub(super) last_time_ms: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    event: String,
    time_ms: u64,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    error_class: String,
}

/// What its last try came to, where it was not up since: its class, and why.
pub(super) fn last_failure(events: &[String]) -> Option<String> {
    let lines = events.iter().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let mut since_up = lines.take_while(|line| !matches!(&*line.event, "registered" | "back"));
    let failed = since_up.find(|line| line.event == "attempt_failed")?;
    Some(format!("({}): {}", failed.error_class, failed.reason))
}

/// Those that the events of a stream, the oldest first, tell of; the one that acted last is first.
pub(super) fn rules(events: &[String]) -> Vec<RuleRow> {
    let mut rows: Vec<RuleRow> = Vec::new();
    let lines = events.iter().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    for Line { event, time_ms, reason, error_class } in lines {
        let Some(rule) = rule_of(&event, &reason, &error_class) else { continue };
        match rows.iter_mut().find(|row| row.rule == rule && row.event == event) {
            Some(row) => row.count += 1,
            None => rows.push(RuleRow { rule, event, count: 1, last_time_ms: time_ms }),
        }
    }
    rows
}

fn rule_of(event: &str, reason: &str, error_class: &str) -> Option<&'static str> {
    Some(match (event, reason, error_class) {
        ("closed", "idle", _) => {
            "idle_close_ms, auto_close, stream.auto_close or on_stream_none_reader"
        }
        ("closed", "gave_up", _) => "retry_count or demand.retry_count",
        ("closed", "source_lost", _) => "stream.continue_push_ms",
        ("closed" | "player_refused", "sent_away", _) => "on_stream_not_found",
        ("closed" | "player_refused", "not_found" | "origin_failed", _) => {
            "[[origin]] or demand.origin_url"
        }
        ("closed" | "player_refused", "busy", _) => {
            "connects_max or connects_per_second_max of the [[origin]]"
        }
        ("closed", "closed", _) => "close_stream or close_streams",
        ("deleted", ..) => "delStreamProxy",
        ("player_refused", "denied", _) => "on_play",
        ("player_refused", "address_denied", _) => "access.play_allow or access.play_deny",
        ("player_refused", "not_signed" | "signature_expired" | "wrong_signature", _) => {
            "access.play_keys"
        }
        ("player_refused", "too_many_joins", _) => {
            "limits.joins_per_second_max or limits.joins_per_second_per_address_max"
        }
        ("player_refused", "known_missing", _) => "demand.not_found_ms",
        ("player_refused", "known_failed", _) => "demand.failed_ms",
        ("player_refused", "wait_over", _) => {
            "stream.max_stream_wait_ms; demand.hops_max or edge=1 for who comes through a node"
        }
        ("closed" | "player_refused", "too_many_pulls", _) => {
            "limits.pending_pulls_max or limits.pending_pulls_per_address_max"
        }
        ("player_refused", "overloaded", _) => {
            "stream.waiters_per_key_max or limits.pending_per_shard_max"
        }
        ("player_slow", ..) => "egress.lag_bytes_max",
        ("player_evicted", ..) => "egress.lag_evict_ms",
        ("player_left", "source_lost", _) | ("grace_over", ..) => {
            "stream.reconnect_grace_ms or stream.continue_push_ms"
        }
        ("player_left", "tracks_changed", _) => {
            "url, urls or [[origin]]: a source with other tracks took over"
        }
        ("player_left" | "publisher_left", "kicked", _) => "kick_session or kick_sessions",
        ("attempt_failed", _, "busy") => {
            "pull.connects_per_origin_max; connects_max or connects_per_second_max of the [[origin]]"
        }
        ("attempt_failed", _, "denied") => "access.pull_deny",
        // How often there is one, its encoder says.
        ("attempt_failed", reason, "timed_out") if reason.starts_with("no keyframe") => {
            return None;
        }
        ("attempt_failed", _, "timed_out") => {
            "timeout_sec, pull.timeout_ms or timeout_ms of the [[origin]]"
        }
        ("lost" | "attempt_failed", _, "silent") => "media_timeout_ms or pull.media_timeout_ms",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Denied;
    use crate::bus::event::Refusal;
    use crate::media::state::EndReason;

    fn line(time_ms: u64, event: &str, reason: &str, class: &str) -> String {
        format!(
            r#"{{"sequence":1,"timeMs":{time_ms},"event":"{event}","reason":"{reason}","errorClass":"{class}"}}"#
        )
    }

    #[test]
    fn last_rule_is_first_and_repeated_ones_are_counted() {
        let events = [
            line(1, "registered", "", ""),
            line(2, "player_slow", "", ""),
            line(3, "player_slow", "", ""),
            line(4, "player_evicted", "too_slow", ""),
            line(5, "player_left", "peer", ""),
            line(6, "player_slow", "", ""),
            "no JSON".to_owned(),
            line(7, "closed", "idle", ""),
        ];
        let rows = rules(&events);
        let found: Vec<_> =
            rows.iter().map(|row| (row.event.as_str(), row.count, row.last_time_ms)).collect();
        assert_eq!(found, [("closed", 1, 7), ("player_slow", 3, 6), ("player_evicted", 1, 4)]);
        assert!(rows[0].rule.starts_with("idle_close_ms"), "{rows:?}");
    }

    #[test]
    fn each_way_to_be_refused_names_its_own_rule() {
        let rule = |event: &str, reason: EndReason| {
            rules(&[line(1, event, reason.as_str(), "")]).pop().map(|row| row.rule)
        };
        let reasons = [
            EndReason::NotFound,
            EndReason::WaitOver,
            EndReason::SentAway,
            EndReason::KnownMissing,
            EndReason::KnownFailed,
            EndReason::Busy,
            EndReason::TooManyPulls,
            EndReason::Overloaded,
        ];
        let mut found = reasons.map(|reason| rule("player_refused", reason).expect("a rule"));
        found.sort_unstable();
        assert!(found.windows(2).all(|pair| pair[0] != pair[1]), "{found:?}");
        assert_eq!(
            rule("player_refused", EndReason::OriginFailed),
            rule("closed", EndReason::NotFound)
        );
        assert_eq!(rule("closed", EndReason::SentAway), Some("on_stream_not_found"));
    }

    #[test]
    fn player_that_other_tracks_ended_was_kept_long_enough() {
        let rule = |reason: EndReason| {
            let row = rules(&[line(1, "player_left", reason.as_str(), "")]).pop();
            row.expect("a rule").rule
        };
        assert!(rule(EndReason::TracksChanged).starts_with("url, urls"));
        let kept = rule(EndReason::SourceLost);
        assert!(kept.starts_with("stream.reconnect_grace_ms"));
        assert_eq!(rules(&[line(1, "grace_over", "", "")])[0].rule, kept);
    }

    #[test]
    fn the_last_failure_is_that_of_a_stream_that_was_not_up_since() {
        let failed = line(1, "attempt_failed", "no", "rejected");
        let refused = line(2, "player_refused", "not_found", "");
        let story = [failed.clone(), line(1, "closed", "not_found", ""), refused];
        assert_eq!(last_failure(&story).as_deref(), Some("(rejected): no"));
        assert_eq!(last_failure(&[failed, line(2, "registered", "", "")]), None);
    }

    #[test]
    fn a_rule_that_did_not_let_a_player_in_is_named() {
        let rule = |reason: &str| {
            let row = rules(&[line(1, "player_refused", reason, "")]).pop();
            row.expect("a rule").rule
        };
        for (denied, key) in [
            (Denied::Address, "access.play_allow or access.play_deny"),
            (Denied::Unsigned, "access.play_keys"),
            (Denied::Expired, "access.play_keys"),
            (Denied::Signature, "access.play_keys"),
        ] {
            assert_eq!(rule(Refusal::Access(denied).as_str()), key);
        }
        assert!(rule(Refusal::TooManyJoins.as_str()).starts_with("limits.joins_per_second_max"));
        assert_eq!(rule(Refusal::For(EndReason::Denied).as_str()), "on_play");
    }

    #[test]
    fn failed_attempts_are_rules_of_ours_only_where_we_decided() {
        let rule = |class: &str| rules(&[line(1, "attempt_failed", "text", class)]).pop();
        assert_eq!(
            rule("busy").map(|row| row.rule),
            Some(
                "pull.connects_per_origin_max; connects_max or connects_per_second_max of the \
                 [[origin]]"
            )
        );
        assert_eq!(rule("denied").map(|row| row.rule), Some("access.pull_deny"));
        assert_eq!(rule("refused"), None);
    }
}
