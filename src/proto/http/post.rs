//! The client's side of a POST with a short reply, on a connection that is kept: web hooks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use url::{Position, Url};

use crate::limits::{HOOK_REPLY_LEN_MAX, REPLY_HEAD_LEN_MAX};
use crate::proto::http::chunked::{ChunkedDecoder, Step};
use crate::proto::http::client::{find_end, parse_head};
use crate::proto::http::error::HttpError;
use crate::proto::http::headers::Framing;

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostReply {
    pub status: u16,
    pub body: Vec<u8>,
    /// The connection may be used again.
    pub keep_alive: bool,
}

/// Reads one reply as it comes.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// What came and was not read: of the head, or of the chunked body.
    input: Vec<u8>,
    scanned_len: usize,
    interim_len: usize,
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    reply: PostReply,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Length(usize),
    Chunked(ChunkedDecoder),
    UntilClose,
}

/// A request with a JSON body. Control characters in the values of `fields` become spaces.
pub fn encode_post(url: &Url, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let target = &url[Position::BeforePath..Position::AfterQuery];
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let mut head = format!(
        "POST {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: rillcast/{}\r\nAccept: */*\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: keep-alive\r\n",
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    if !url.username().is_empty() || url.password().is_some() {
        let user = percent_decode_str(url.username());
        let password = percent_decode_str(url.password().unwrap_or_default());
        let credentials: Vec<u8> = user.chain(b":".iter().copied()).chain(password).collect();
        head += &format!("Authorization: Basic {}\r\n", STANDARD.encode(credentials));
    }
    for (name, value) in fields {
        head += &format!("{name}: {}\r\n", value.replace(char::is_control, " "));
    }
    head += "\r\n";
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

impl ReplyReader {
    /// Takes received bytes; the reply when it is whole.
    ///
    /// # Errors
    /// A fault of the server; the connection cannot be used again.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<Option<PostReply>, HttpError> {
        self.input.extend_from_slice(input);
        if self.begun.is_none() {
            self.read_head()?;
        }
        let Some(Begun { reply, body }) = &mut self.begun else { return Ok(None) };
        let is_whole = match body {
            Body::UntilClose => {
                reply.body.append(&mut self.input);
                false
            }
            Body::Length(len) => {
                reply.body.append(&mut self.input);
                // What stands behind it was not asked for.
                reply.keep_alive &= reply.body.len() <= *len;
                reply.body.truncate(*len);
                reply.body.len() == *len
            }
            Body::Chunked(decoder) => read_chunks(decoder, &mut self.input, &mut reply.body)?,
        };
        if reply.body.len() > HOOK_REPLY_LEN_MAX {
            return Err(HttpError::ReplyTooLarge);
        }
        Ok(if is_whole { self.begun.take().map(|begun| begun.reply) } else { None })
    }

    /// The server sends no more; the reply where that ends it.
    ///
    /// # Errors
    /// [`HttpError::Truncated`] where it does not.
    pub fn handle_eof(&mut self) -> Result<PostReply, HttpError> {
        match self.begun.take() {
            Some(Begun { reply, body: Body::UntilClose }) => Ok(reply),
            _ => Err(HttpError::Truncated),
        }
    }

    fn read_head(&mut self) -> Result<(), HttpError> {
        while let Some(head_len) = find_end(&self.input, &mut self.scanned_len) {
            if head_len + self.interim_len > REPLY_HEAD_LEN_MAX {
                return Err(HttpError::ReplyHeadTooLarge);
            }
            let head = parse_head(&self.input[..head_len])?;
            self.input.drain(..head_len);
            self.scanned_len = 0;
            if (100..200).contains(&head.code) {
                self.interim_len += head_len;
                continue;
            }
            let body = match head.headers.reply_framing()? {
                _ if matches!(head.code, 204 | 304) => Body::Length(0),
                Framing::Length(len) if len > HOOK_REPLY_LEN_MAX as u64 => {
                    return Err(HttpError::ReplyTooLarge);
                }
                Framing::Length(len) => Body::Length(len as usize),
                Framing::Chunked => Body::Chunked(ChunkedDecoder::new()),
                Framing::UntilClose => Body::UntilClose,
            };
            let keep_alive =
                !head.headers.has_token("connection", "close") && !matches!(body, Body::UntilClose);
            let reply = PostReply { status: head.code, body: Vec::new(), keep_alive };
            self.begun = Some(Begun { reply, body });
            return Ok(());
        }
        match self.input.len() + self.interim_len > REPLY_HEAD_LEN_MAX {
            true => Err(HttpError::ReplyHeadTooLarge),
            false => Ok(()),
        }
    }
}

fn read_chunks(
    decoder: &mut ChunkedDecoder,
    input: &mut Vec<u8>,
    body: &mut Vec<u8>,
) -> Result<bool, HttpError> {
    let mut at = 0;
    let is_whole = loop {
        let (framing_len, step) = decoder.decode(&input[at..])?;
        at += framing_len;
        match step {
            Step::Data(len) => {
                body.extend_from_slice(&input[at..at + len]);
                at += len;
            }
            Step::End => break true,
            Step::Incomplete => break false,
        }
    };
    input.drain(..at);
    Ok(is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http::testing::at_every_split;

    fn read(text: &str) -> Result<Option<PostReply>, HttpError> {
        let mut first = None;
        at_every_split(text.as_bytes(), |pieces| {
            let mut reader = ReplyReader::default();
            let mut reply = Ok(None);
            for piece in pieces {
                if matches!(reply, Ok(None)) {
                    reply = reader.handle_input(piece);
                }
            }
            if matches!(reply, Ok(None)) {
                reply = reader.handle_eof().map(Some);
            }
            assert_eq!(*first.get_or_insert_with(|| reply.clone()), reply, "{text}");
        });
        first.expect("read once")
    }

    #[test]
    fn replies_are_read_in_every_framing() {
        let reply = |status, body: &str, keep_alive| {
            Ok(Some(PostReply { status, body: body.as_bytes().to_vec(), keep_alive }))
        };
        let table = [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"code\":0}",
                (200, "{\"code\":0}", true),
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
                (200, "{}", false),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
                (200, "{}", true),
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n",
                (500, "", true),
            ),
            ("HTTP/1.0 200 OK\r\n\r\n{}", (200, "{}", false)),
            ("HTTP/1.1 204 No Content\r\n\r\n", (204, "", true)),
        ];
        for (text, (status, body, keep_alive)) in table {
            assert_eq!(read(text), reply(status, body, keep_alive), "{text}");
        }
    }

    #[test]
    fn what_is_cut_or_too_large_is_a_fault() {
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{";
        assert_eq!(read(cut), Err(HttpError::Truncated));
        let large =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", HOOK_REPLY_LEN_MAX + 1);
        assert_eq!(read(&large), Err(HttpError::ReplyTooLarge));
        let mut reader = ReplyReader::default();
        assert_eq!(reader.handle_input(b"HTTP/1.0 200 OK\r\n\r\n"), Ok(None));
        let body = vec![b'x'; HOOK_REPLY_LEN_MAX + 1];
        assert_eq!(reader.handle_input(&body), Err(HttpError::ReplyTooLarge));
    }

    #[test]
    fn a_request_says_whom_it_is_for_and_no_value_ends_its_line() {
        let url = Url::parse("http://u:p%40@h:81/a?b=c#d").unwrap();
        let bytes = encode_post(&url, &[("X-VHOST", "v\r\nX: y")], b"{}");
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("POST /a?b=c HTTP/1.1\r\nHost: h:81\r\n"), "{text}");
        assert!(text.contains("\r\nAuthorization: Basic dTpwQA==\r\n"), "{text}");
        assert!(text.contains("\r\nX-VHOST: v  X: y\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n{}") && text.contains("Content-Length: 2\r\n"), "{text}");
    }
}
