//! A caller of the API, as a scheduler would be one.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::cli::Failure;
use crate::load::api::Api;

pub(super) struct ApiClient(Api);

impl ApiClient {
    pub(super) fn new(address: SocketAddr, secret: &str) -> Result<Self, Failure> {
        Ok(Self(Api::new(&format!("http://{address}"), secret, TIMEOUT)?))
    }

    /// Adds a pull that is kept whatever happens.
    pub(super) fn add(&self, stream: &str, url: &str) -> Result<(), Failure> {
        let key = [("vhost", "__defaultVhost__"), ("app", "live"), ("stream", stream)];
        let params = [&key[..], &[("url", url), ("async", "1")]].concat();
        let reply = self.0.call("addStreamProxy", &params)?;
        if reply["code"] == 0 { Ok(()) } else { Err(format!("addStreamProxy: {reply}").into()) }
    }

    /// Every stream, pending or registered, with what `listStreamProxy` tells of it.
    pub(super) fn streams(&self) -> Result<Vec<Value>, Failure> {
        let mut reply = self.0.call("listStreamProxy", &[])?;
        match reply["data"].take() {
            Value::Array(streams) => Ok(streams),
            _ => Err(format!("listStreamProxy: {reply}").into()),
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(5);
