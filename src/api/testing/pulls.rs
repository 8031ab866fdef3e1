//! Questions about pulls.

use serde_json::Value;

use super::FakeNode;

pub(in crate::api) const URL: &str = "rtmp://10.0.0.1/live/src?token=1";

/// Of a call that names a stream and its source; of a repeated name the last counts.
pub(in crate::api) fn params<'a>(
    stream: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let plain = [("vhost", "__defaultVhost__"), ("app", "live"), ("stream", stream), ("url", URL)];
    [&plain[..], more].concat()
}

pub(in crate::api) fn key_of(stream: &str) -> String {
    format!("__defaultVhost__/live/{stream}")
}

#[track_caller]
pub(in crate::api) fn shown(node: &FakeNode, stream: &str) -> Value {
    node.call("getProxyInfo", &[("key", &key_of(stream))])["data"].clone()
}
