//! A caller of the API, as a scheduler would be one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::cli::Failure;

pub(super) struct ApiClient {
    address: SocketAddr,
    secret: String,
}

impl ApiClient {
    pub(super) fn new(address: SocketAddr, secret: String) -> Self {
        Self { address, secret }
    }

    /// Adds a pull that is kept whatever happens.
    pub(super) fn add(&self, stream: &str, url: &str) -> Result<(), Failure> {
        let url = utf8_percent_encode(url, NON_ALPHANUMERIC);
        let reply = self.get(&format!(
            "addStreamProxy?vhost=__defaultVhost__&app=live&stream={stream}&url={url}&async=1"
        ))?;
        if reply["code"] == 0 { Ok(()) } else { Err(format!("addStreamProxy: {reply}").into()) }
    }

    /// Every stream, pending or registered, with what `listStreamProxy` tells of it.
    pub(super) fn streams(&self) -> Result<Vec<Value>, Failure> {
        let mut reply = self.get("listStreamProxy?")?;
        match reply["data"].take() {
            Value::Array(streams) => Ok(streams),
            _ => Err(format!("listStreamProxy: {reply}").into()),
        }
    }

    fn get(&self, call: &str) -> Result<Value, Failure> {
        let mut connection = TcpStream::connect_timeout(&self.address, TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        let secret = &self.secret;
        write!(
            connection,
            "GET /index/api/{call}&secret={secret} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n"
        )?;
        let mut reply = String::new();
        connection.read_to_string(&mut reply)?;
        let (_, body) = reply.split_once("\r\n\r\n").ok_or("the API's reply has no body")?;
        Ok(serde_json::from_str(body)?)
    }
}

const TIMEOUT: Duration = Duration::from_secs(5);
