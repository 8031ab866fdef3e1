//! Parameters of a call, as ZLMediaKit reads them: from the body (form, or the top-level members of
//! a JSON object), the query laid over it, and the header of that name where both have nothing.
//!
//! Names are found in any case, of a repeated one the last counts, and an empty value counts as
//! absent. Nothing here fails: what can't be read is 0 or absent. Unlike ZLMediaKit, a nested JSON
//! value does not lose the members after it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use url::form_urlencoded;

use crate::proto::http::{Headers, Request};

/// What a call was given.
#[derive(Debug)]
pub(super) struct Params {
    /// By the name in lower case.
    given: BTreeMap<String, String>,
    headers: Headers,
}

impl Params {
    pub(super) fn of(request: &Request) -> Self {
        let mut given = BTreeMap::new();
        let content_type = request.headers.find("content-type").unwrap_or_default();
        let content_type = content_type.to_ascii_lowercase();
        if content_type.starts_with("application/x-www-form-urlencoded") {
            given.extend(pairs(&request.body));
        } else if content_type.starts_with("application/json") {
            let body: Map<String, Value> =
                serde_json::from_slice(&request.body).unwrap_or_default();
            given.extend(body.iter().map(|(name, value)| (name.to_ascii_lowercase(), text(value))));
        }
        given.extend(pairs(request.query.as_bytes()));
        Self { given, headers: request.headers.clone() }
    }

    /// The value of a parameter that is there and not empty.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        let given = self.given.get(&name.to_ascii_lowercase()).map(String::as_str);
        given.filter(|value| !value.is_empty()).or_else(|| {
            // Of a repeated header the last counts too.
            self.headers.find_all(name).last().filter(|value| !value.is_empty())
        })
    }

    /// A text; empty without one.
    pub(super) fn text(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.find(name)
            .is_some_and(|text| text.eq_ignore_ascii_case("true") || leading_integer(text) == 1)
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.find(name).map(leading_integer)
    }

    pub(super) fn float(&self, name: &str) -> Option<f64> {
        self.find(name).map(leading_float)
    }

    /// What body and query gave, names in lower case.
    pub(super) fn given(&self) -> impl Iterator<Item = (&str, &str)> {
        self.given.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn pairs(encoded: &[u8]) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(encoded)
        .map(|(name, value)| (name.to_ascii_lowercase(), value.into_owned()))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The number that a text begins with, 0 without one; what is too large becomes the largest.
fn leading_integer(text: &str) -> i64 {
    let text = text.trim_start();
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = digits
        .bytes()
        .take_while(u8::is_ascii_digit)
        .fold(0_i64, |sum, digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    if negative { -magnitude } else { magnitude }
}

fn leading_float(text: &str) -> f64 {
    let text = text.trim_start();
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let len = text.bytes().take(FLOAT_LEN_MAX).take_while(is_part).count();
    (1..=len).rev().find_map(|len| text[..len].parse().ok()).unwrap_or(0.0)
}

/// Longer than any number that means something; each prefix of it may have to be tried.
const FLOAT_LEN_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::request;

    fn params(head: &str, body: &str) -> Params {
        Params::of(&request(head, body))
    }

    const FORM: &str = "Content-Type: application/x-www-form-urlencoded; charset=utf-8";
    const JSON: &str = "content-type: Application/JSON";

    #[test]
    fn query_wins_over_body_and_body_over_header() {
        let table = [
            ("GET /x?a=q HTTP/1.1\r\na: h", "", Some("q")),
            ("POST /x?a=q HTTP/1.1\r\na: h\r\nFORM", "a=b", Some("q")),
            ("POST /x HTTP/1.1\r\na: h\r\nFORM", "a=b", Some("b")),
            ("POST /x HTTP/1.1\r\na: h\r\nJSON", r#"{"a":"b"}"#, Some("b")),
            ("GET /x HTTP/1.1\r\nA: h", "", Some("h")),
            // Empty counts as absent, and hides what it was laid over.
            ("POST /x?a= HTTP/1.1\r\na: h\r\nFORM", "a=b", Some("h")),
            ("POST /x?a= HTTP/1.1\r\nFORM", "a=b", None),
            ("GET /x?a= HTTP/1.1\r\na:", "", None),
            // A GET's body counts too; one of another type does not.
            ("GET /x HTTP/1.1\r\nFORM", "a=b", Some("b")),
            ("POST /x HTTP/1.1\r\nContent-Type: text/plain", "a=b", None),
            ("POST /x HTTP/1.1", "a=b", None),
        ];
        for (head, body, value) in table {
            let head = head.replace("FORM", FORM).replace("JSON", JSON);
            assert_eq!(params(&head, body).find("a"), value, "{head} {body}");
        }
    }

    #[test]
    fn names_have_any_case_and_the_last_of_a_name_counts() {
        let given = params("GET /x?Vhost=1&VHOST=2&b=%E4%BD%A0+%2B&=3&c HTTP/1.1", "");
        assert_eq!((given.find("vhost"), given.find("vHost")), (Some("2"), Some("2")));
        assert_eq!(given.find("b"), Some("你 +"));
        assert_eq!(given.find("c"), None);
        assert_eq!(params("GET / HTTP/1.1\r\nX-a: 1\r\nx-A: 2", "").find("X-A"), Some("2"));
    }

    #[test]
    fn nested_json_values_lose_nothing() {
        let body = r#"{"a":1,"b":{"x":[1]},"c":null,"d":true,"e":0.5,"f":-7,"Z":"last","a":2}"#;
        let given = params(&format!("POST /x HTTP/1.1\r\n{JSON}"), body);
        let table = [
            ("a", Some("2")),
            ("b", Some(r#"{"x":[1]}"#)),
            ("c", None),
            ("d", Some("true")),
            ("e", Some("0.5")),
            ("f", Some("-7")),
            ("z", Some("last")),
        ];
        for (name, value) in table {
            assert_eq!(given.find(name), value, "{name}");
        }
    }

    #[test]
    fn what_is_no_json_object_is_nothing() {
        for body in ["", "[1]", "7", "{\"a\":1", "{\"a\":1}x", &"[".repeat(5000)] {
            let given = params(&format!("POST /x?q=1 HTTP/1.1\r\n{JSON}"), body);
            assert_eq!((given.find("a"), given.find("q")), (None, Some("1")), "{body}");
        }
    }

    #[test]
    fn typed_reads_are_lenient() {
        let flag = |text: &str| params(&format!("GET /x?a={text} HTTP/1.1"), "").flag("a");
        for text in ["1", "true", "TRUE", "01"] {
            assert!(flag(text), "{text}");
        }
        for text in ["", "0", "2", "-1", "yes", "on", "false", "truer"] {
            assert!(!flag(text), "{text}");
        }
        let integers = [
            ("12", 12),
            ("-3x", -3),
            ("+4", 4),
            (" 5", 5),
            ("x", 0),
            ("99999999999999999999", i64::MAX),
            ("-99999999999999999999", -i64::MAX),
        ];
        for (text, value) in integers {
            assert_eq!(leading_integer(text), value, "{text}");
        }
        let floats = [("1.5", 1.5), ("2e1s", 20.0), (" 3e", 3.0), (".5.5", 0.5), ("inf", 0.0)];
        for (text, value) in floats {
            assert!((leading_float(text) - value).abs() < f64::EPSILON, "{text}");
        }
        assert!(leading_float(&"1".repeat(40_000)).is_finite());
    }
}
