//! What a hook's reply says, in ZLMediaKit's terms: HTTP 200 and a JSON object with a `code`.

use serde_json::Value;

use super::queue::Outcome;
use crate::bus::keeper::{NoReply, Posted};
use crate::limits::HOOK_TEXT_LEN_MAX;

/// What a hook said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// `code` 0; `close` where it has that.
    Yes { close: bool },
    /// Another `code`, with the text for the peer.
    No(String),
    /// Nothing that counts, and why.
    Nothing(String),
}

impl Said {
    pub(super) fn of(posted: &Posted) -> Self {
        let (status, body) = match posted {
            Ok(reply) => reply,
            Err(error) => return Self::Nothing(format!("[network err]:{error}")),
        };
        if *status != 200 {
            return Self::Nothing(format!("[bad http status code]:{status}"));
        }
        let Ok(reply) = serde_json::from_slice::<Value>(body) else {
            return Self::Nothing("[parse json failed]".to_owned());
        };
        match reply["code"].as_i64() {
            None => Self::Nothing("[json code]".to_owned()),
            Some(0) => Self::Yes { close: reply["close"].as_bool().unwrap_or(false) },
            Some(code) => {
                let msg = reply["msg"].as_str().unwrap_or_default();
                let text = format!("[auth failed]: code:{code} msg:{msg}");
                let mut len = text.len().min(HOOK_TEXT_LEN_MAX);
                while !text.is_char_boundary(len) {
                    len -= 1;
                }
                Self::No(text[..len].to_owned())
            }
        }
    }
}

/// Whether a hook that was told something has taken it: with a status of success, whatever it said beside
/// that. Redirects are not followed. A server that is overloaded or behind a proxy that can't reach it says
/// so with its status, for as long as that lasts. One that does not answer this call may answer others, and
/// one that fails at it may do so each time.
pub(super) fn outcome(posted: &Posted) -> Outcome {
    match posted {
        Err(NoReply::Unreachable(_)) => Outcome::Unreachable,
        Err(NoReply::Unanswered(_)) => Outcome::NotNow,
        Ok((200..=299, _)) => Outcome::Taken,
        Ok((408 | 425 | 429 | 502..=504, _)) => Outcome::NotNow,
        Ok((500.., _)) => Outcome::Failed,
        Ok(_) => Outcome::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_status_200_with_a_code_counts() {
        let yes = |close| Said::Yes { close };
        let nothing = |text: &str| Said::Nothing(text.to_owned());
        let table = [
            (200, r#"{"code":0}"#, yes(false)),
            (200, r#"{"code":0,"msg":null,"close":true,"enable_mp4":null}"#, yes(true)),
            (200, r#"{"code":-1,"msg":"no"}"#, Said::No("[auth failed]: code:-1 msg:no".into())),
            (200, r#"{"code":"0"}"#, nothing("[json code]")),
            (200, "ok", nothing("[parse json failed]")),
            (500, r#"{"code":0}"#, nothing("[bad http status code]:500")),
        ];
        for (status, body, said) in table {
            assert_eq!(Said::of(&Ok((status, body.into()))), said, "{status} {body}");
        }
        for no_reply in [NoReply::Unreachable("x".into()), NoReply::Unanswered("x".into())] {
            assert_eq!(Said::of(&Err(no_reply)), nothing("[network err]:x"));
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        let body = format!(r#"{{"code":1,"msg":"{}"}}"#, "ä".repeat(HOOK_TEXT_LEN_MAX));
        let Said::No(text) = Said::of(&Ok((200, body.into_bytes()))) else { panic!("it is no") };
        assert!((HOOK_TEXT_LEN_MAX - 1..=HOOK_TEXT_LEN_MAX).contains(&text.len()));
        assert!(text.ends_with('ä'));
    }

    #[test]
    fn a_server_has_taken_what_it_answers_with_success() {
        let of = |status| outcome(&Ok((status, Vec::new())));
        let failed = |no_reply: fn(String) -> NoReply| outcome(&Err(no_reply(String::new())));
        assert_eq!(failed(NoReply::Unreachable), Outcome::Unreachable);
        assert_eq!(failed(NoReply::Unanswered), Outcome::NotNow);
        for status in [200, 204, 299] {
            assert_eq!(of(status), Outcome::Taken, "{status}");
        }
        for status in [101, 302, 304, 400, 401, 404] {
            assert_eq!(of(status), Outcome::Refused, "{status}");
        }
        for status in [408, 425, 429, 502, 503, 504] {
            assert_eq!(of(status), Outcome::NotNow, "{status}");
        }
        for status in [500, 501, 505, 599] {
            assert_eq!(of(status), Outcome::Failed, "{status}");
        }
    }
}
