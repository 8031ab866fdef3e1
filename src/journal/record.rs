//! One record of the journal.
//!
//! ```text
//!  0        4          8
//!  ┌────────┬──────────┬─────────────────┐
//!  │ length │ checksum │ JSON, so long   │   numbers little-endian
//!  └────────┴──────────┴─────────────────┘
//! ```
//!
//! The checksum is CRC-32C (RFC 3720, appendix B.4) of the length's bytes and the JSON. A length of
//! zero is no record: zeros are what a file system may leave where a write was cut off.

use serde::{Deserialize, Serialize};

use crate::limits::JOURNAL_RECORD_LEN_MAX;
use crate::media::url::Login;

/// One thing that was asked for and acknowledged, or is not wanted any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Record {
    AddPull(PullRecord),
    /// The pull of a key, as `vhost/app/stream`.
    RemovePull {
        key: String,
    },
    AddPush(PushRecord),
    /// The push of a stream, as `vhost/app/stream`, to a URL.
    RemovePush {
        key: String,
        url: String,
    },
}

/// A push as it was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRecord {
    /// The stream, as `vhost/app/stream`.
    pub key: String,
    /// Where it goes.
    pub url: String,
    /// User and password that were given beside the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// `None` without end.
    #[serde(default)]
    pub retries_max: Option<u32>,
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// RTP to an RTSP destination goes over UDP.
    #[serde(default)]
    pub over_udp: bool,
}

/// A pull as it was added. A field that an older version did not write has its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRecord {
    /// `vhost/app/stream`.
    pub key: String,
    pub url: String,
    /// Those that are tried after the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_urls: Vec<String>,
    /// User and password that were given beside the URLs, for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// 0 not at all.
    #[serde(default)]
    pub hedge_ms: u64,
    /// `None` without end.
    #[serde(default)]
    pub retries_max: Option<u32>,
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    #[serde(default = "media_timeout_ms")]
    pub media_timeout_ms: u64,
    /// RTP of an RTSP origin comes over UDP.
    #[serde(default)]
    pub over_udp: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_close_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_close: Option<bool>,
}

fn timeout_ms() -> u64 {
    10_000
}

fn media_timeout_ms() -> u64 {
    5_000
}

/// What stands at the beginning of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A whole record of so many bytes.
    Record { record: Record, len: usize },
    /// A whole record of so many bytes whose content this version does not know.
    Unknown { len: usize },
    /// Nothing.
    End,
    /// No whole record, and why.
    Damaged(&'static str),
}

/// Appends a record.
pub fn encode(record: &Record, into: &mut Vec<u8>) {
    let json = serde_json::to_vec(record).expect("plain data is JSON");
    let len = u32::try_from(json.len()).expect("a key and a URL have their own limits");
    let len = len.to_le_bytes();
    into.extend_from_slice(&len);
    into.extend_from_slice(&checksum(&[&len, &json]).to_le_bytes());
    into.extend_from_slice(&json);
}

/// Reads the first record.
pub fn decode(bytes: &[u8]) -> Frame {
    if bytes.is_empty() {
        return Frame::End;
    }
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_LEN>() else {
        return Frame::Damaged("it ends within a record's head");
    };
    let (len_bytes, sum) = head.split_at(4);
    let len = u32::from_le_bytes(len_bytes.try_into().expect("four bytes")) as usize;
    let sum = u32::from_le_bytes(sum.try_into().expect("four bytes"));
    if len == 0 || len > JOURNAL_RECORD_LEN_MAX {
        return Frame::Damaged("a record's length is not possible");
    }
    let Some(json) = rest.get(..len) else {
        return Frame::Damaged("it ends within a record");
    };
    if checksum(&[len_bytes, json]) != sum {
        return Frame::Damaged("a record's checksum is wrong");
    }
    let len = HEAD_LEN + len;
    match serde_json::from_slice(json) {
        Ok(record) => Frame::Record { record, len },
        Err(_) => Frame::Unknown { len },
    }
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(!0, |sum, &byte| {
        let index = (sum ^ u32::from(byte)) & 0xff;
        (sum >> 8) ^ CRC_32C[index as usize]
    })
}

const HEAD_LEN: usize = 8;

/// By byte, for the reflected polynomial of CRC-32C.
const CRC_32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut sum = index as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
            bit += 1;
        }
        table[index] = sum;
        index += 1;
    }
    table
};

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::limits::{KEY_LEN_MAX, LOGIN_LEN_MAX, SOURCE_URL_LEN_MAX, SOURCES_MAX};

    fn login() -> Login {
        Login { user: "admin".to_owned(), password: "p\"ä\\:".to_owned() }
    }

    fn add() -> Record {
        Record::AddPull(PullRecord {
            other_urls: vec!["rtsp://other/b".to_owned()],
            login: Some(login()),
            hedge_ms: 300,
            over_udp: false,
            idle_close_ms: Some(30_000),
            auto_close: Some(false),
            key: "__defaultVhost__/live/a \"é\"".to_owned(),
            url: "rtmp://origin/live/a?token=1".to_owned(),
            retries_max: Some(3),
            timeout_ms: 9_000,
            media_timeout_ms: 4_000,
        })
    }

    fn encoded(record: &Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(record, &mut bytes);
        bytes
    }

    /// Any content as a whole record.
    pub(in crate::journal) fn framed(json: &[u8]) -> Vec<u8> {
        let len = (json.len() as u32).to_le_bytes();
        [&len, &checksum(&[&len, json]).to_le_bytes()[..], json].concat()
    }

    #[test]
    fn checksum_is_that_of_the_standard() {
        // RFC 3720, appendix B.4, and the check value of the CRC's catalogues.
        assert_eq!(checksum(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(checksum(&[&[0xff; 16], &[0xff; 16]]), 0x62a8_ab43);
        assert_eq!(checksum(&[b"1234", b"56789"]), 0xe306_9283);
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let text = str::to_owned;
        let push = PushRecord {
            key: text("v/a/s"),
            url: text("rtsp://cdn/live/s"),
            login: Some(login()),
            retries_max: None,
            timeout_ms: 9_000,
            over_udp: true,
        };
        let without_login = Record::AddPush(PushRecord { login: None, ..push.clone() });
        let add_push = Record::AddPush(push);
        let remove_push = Record::RemovePush { key: text("v/a/s"), url: text("rtmp://cdn/live/s") };
        let remove = Record::RemovePull { key: text("v/a/s") };
        for record in [add(), remove, add_push, without_login, remove_push] {
            let bytes = encoded(&record);
            let len = bytes.len();
            assert_eq!(decode(&[&bytes[..], b"more"].concat()), Frame::Record { record, len });
        }
        assert_eq!(decode(b""), Frame::End);
    }

    #[test]
    fn password_is_in_the_journal_and_not_in_what_is_shown() {
        let record = add();
        let json = String::from_utf8_lossy(&encoded(&record)[HEAD_LEN..]).into_owned();
        let read = serde_json::from_str::<serde_json::Value>(&json).expect("JSON");
        assert_eq!(read["login"]["password"], login().password);
        let shown = format!("{record:?}");
        assert!(shown.contains("admin") && !shown.contains('ä'), "{shown}");
    }

    #[test]
    fn longest_record_is_one() {
        // Of all bytes, control characters grow the most in JSON.
        let worst = |len| "\u{1}".repeat(len);
        let record = Record::AddPull(PullRecord {
            key: "\"".repeat(KEY_LEN_MAX),
            url: worst(SOURCE_URL_LEN_MAX),
            other_urls: vec![worst(SOURCE_URL_LEN_MAX); SOURCES_MAX - 1],
            login: Some(Login { user: worst(LOGIN_LEN_MAX), password: worst(LOGIN_LEN_MAX) }),
            hedge_ms: u64::MAX,
            retries_max: Some(u32::MAX),
            timeout_ms: u64::MAX,
            media_timeout_ms: u64::MAX,
            over_udp: false,
            idle_close_ms: Some(u64::MAX),
            auto_close: Some(false),
        });
        let bytes = encoded(&record);
        assert!(bytes.len() > 6 * SOURCES_MAX * SOURCE_URL_LEN_MAX);
        assert!(matches!(decode(&bytes), Frame::Record { .. }), "{} bytes", bytes.len());
    }

    #[test]
    fn record_that_is_cut_or_changed_anywhere_is_damaged() {
        let bytes = encoded(&add());
        for len in 1..bytes.len() {
            assert!(matches!(decode(&bytes[..len]), Frame::Damaged(_)), "{len}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(matches!(decode(&changed), Frame::Damaged(_)), "{at}.{bit}");
            }
        }
    }

    #[test]
    fn zeros_are_no_record() {
        for len in 1..32 {
            assert!(matches!(decode(&vec![0; len]), Frame::Damaged(_)), "{len}");
        }
    }

    #[test]
    fn older_record_has_defaults_and_a_newer_one_is_passed_over() {
        let json = br#"{"do":"add_pull","key":"v/a/s","url":"rtmp://h/a/s","colour":"red"}"#;
        let Frame::Record { record: Record::AddPull(pull), .. } = decode(&framed(json)) else {
            panic!("a record")
        };
        assert_eq!(
            (pull.timeout_ms, pull.media_timeout_ms, pull.retries_max),
            (10_000, 5_000, None)
        );
        assert_eq!((pull.idle_close_ms, pull.auto_close, pull.login), (None, None, None));
        let json = br#"{"do":"add_push","key":"v/a/s","url":"rtsp://h/a/s"}"#;
        let Frame::Record { record: Record::AddPush(push), .. } = decode(&framed(json)) else {
            panic!("a record")
        };
        assert_eq!((push.timeout_ms, push.login), (10_000, None));
        let newer = framed(br#"{"do":"add_wings"}"#);
        assert_eq!(decode(&newer), Frame::Unknown { len: newer.len() });
    }
}
