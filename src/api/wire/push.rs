//! A push, as lists show it, and its key.

use serde::Serialize;

use super::stream::Src;
use super::{parse_key, parse_schema, schema};
use crate::bus::view::PushView;
use crate::media::{Form, PushState, SourceUrl, StreamKey, UrlDigest};

/// The key of a push: `schema/vhost/app/stream/md5(dst_url)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct PushName {
    pub(in crate::api) form: Form,
    pub(in crate::api) key: StreamKey,
    pub(in crate::api) digest: UrlDigest,
}

impl PushName {
    pub(in crate::api) fn of(key: StreamKey, url: &SourceUrl) -> Self {
        Self { form: url.form(), key, digest: url.digest() }
    }

    /// As a caller may write it; `None` when it is none.
    pub(in crate::api) fn parse(text: &str) -> Option<Self> {
        let (first, rest) = text.split_once('/')?;
        let (key, digest) = rest.rsplit_once('/')?;
        let digest = UrlDigest(digest_of(digest)?);
        Some(Self { form: parse_schema(first)?, key: parse_key(key)?, digest })
    }

    pub(in crate::api) fn text(&self) -> String {
        let digest: String = self.digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}/{}/{digest}", schema(self.form), self.key)
    }
}

fn digest_of(hex: &str) -> Option<[u8; 16]> {
    if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 16];
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(digest)
}

/// A push: `listStreamPusherProxy`, `getProxyPusherInfo`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct PushRow<'a> {
    bytes_speed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    live_secs: u64,
    re_publish_count: u32,
    src: Src<'a>,
    status: i32,
    total_bytes: u64,
    url: &'a str,
    state: &'static str,
    generation: u64,
    age_ms: u64,
    attempts: u32,
    last_error: Option<&'a str>,
    error_class: Option<&'static str>,
    next_retry_ms: u64,
}

impl<'a> PushRow<'a> {
    pub(in crate::api) fn of(view: &'a PushView) -> Self {
        let fault = view.last_fault.as_ref();
        Self {
            bytes_speed: view.bytes_per_second,
            key: Some(PushName::of(view.key.clone(), &view.url).text()),
            live_secs: view.up_ms / 1000,
            re_publish_count: view.returns,
            src: Src::of(&view.key),
            status: i32::from(view.state != PushState::Up),
            total_bytes: view.bytes_total,
            url: view.url.as_str(),
            state: view.state.as_str(),
            generation: view.generation.0,
            age_ms: view.age_ms,
            attempts: view.attempts,
            last_error: fault.map(|fault| fault.text.as_str()),
            error_class: fault.map(|fault| fault.class.as_str()),
            next_retry_ms: view.next_retry_ms,
        }
    }

    /// As `getProxyPusherInfo` shows it.
    pub(in crate::api) fn without_key(self) -> Self {
        Self { key: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_that_of_zlmediakit_and_is_read_as_written() {
        let key = StreamKey::in_default_vhost("live", "p/1").unwrap();
        let url = SourceUrl::parse("rtmp://127.0.0.1:19350/live/pushed", false).unwrap();
        let name = PushName::of(key, &url);
        let text = "rtmp/__defaultVhost__/live/p/1/abcca1af2befe8cab8e0a65c3d7b7304";
        assert_eq!(name.text(), text);
        assert_eq!(PushName::parse(text), Some(name));
    }

    #[test]
    fn what_is_no_name_is_none() {
        let digest = "abcca1af2befe8cab8e0a65c3d7b7304";
        for text in [
            "",
            "rtmp",
            "__defaultVhost__/live/a",
            &format!("hls/__defaultVhost__/live/a/{digest}"),
            &format!("rtmp/live/{digest}"),
            &format!("rtmp/__defaultVhost__/live/a/{}", &digest[1..]),
            &format!("rtmp/__defaultVhost__/live/a/+{}", &digest[1..]),
        ] {
            assert_eq!(PushName::parse(text), None, "{text}");
        }
    }
}
