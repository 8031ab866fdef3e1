//! Requests out of received bytes, one at a time: head, then body in either framing.
//!
//! What comes behind a request is held until the next one is asked for.

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::{REQUEST_BODY_LEN_MAX, REQUEST_HELD_LEN_MAX};
use crate::proto::http::chunked::{ChunkedDecoder, Step};
use crate::proto::http::error::HttpError;
use crate::proto::http::headers::Framing;
use crate::proto::http::request::{self, HeadScanner, Request};

/// Reads the requests of one connection.
#[derive(Debug, Default)]
pub(super) struct RequestReader {
    /// Input that is not consumed yet.
    held: BytesMut,
    part: Part,
}

/// What reading on has led to.
#[derive(Debug)]
pub(super) enum Progress {
    /// All input is consumed and more is needed.
    Incomplete,
    /// A head is complete and its body is to be read next.
    Head {
        is_continue_awaited: bool,
    },
    Request(Box<Request>),
}

#[derive(Debug)]
enum Part {
    Head(HeadScanner),
    Body { request: Box<Request>, body: Body },
}

#[derive(Debug)]
enum Body {
    Length(usize),
    Chunked { decoder: ChunkedDecoder, data: BytesMut },
}

impl RequestReader {
    pub(super) fn push(&mut self, input: &[u8]) {
        self.held.extend_from_slice(input);
    }

    /// Whether more is held than one request may have. After a read to the end this is so only
    /// while an answer is outstanding.
    pub(super) fn is_full(&self) -> bool {
        self.held.len() > REQUEST_HELD_LEN_MAX
    }

    /// Whether nothing is held that no request has taken.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether no byte of the next request has come.
    pub(super) fn is_between_requests(&self) -> bool {
        self.held.is_empty() && matches!(self.part, Part::Head(_))
    }

    /// What is held, for another protocol to read.
    pub(super) fn take_held(&mut self) -> Bytes {
        std::mem::take(&mut self.held).freeze()
    }

    /// Reads on to the next step. After an error nothing more can be read.
    pub(super) fn poll_progress(&mut self) -> Result<Progress, HttpError> {
        match &mut self.part {
            Part::Head(_) => self.read_head(),
            Part::Body { body, .. } => {
                let Some(data) = body.read(&mut self.held)? else {
                    return Ok(Progress::Incomplete);
                };
                Ok(self.finish(data))
            }
        }
    }

    fn read_head(&mut self) -> Result<Progress, HttpError> {
        let Part::Head(scanner) = &mut self.part else { return Ok(Progress::Incomplete) };
        // Some clients end a body with a line end that they do not count (RFC 9112 2.2).
        while self.held.starts_with(b"\r\n") {
            self.held.advance(2);
            *scanner = HeadScanner::default();
        }
        let Some(head_len) = scanner.find_end(&self.held)? else {
            return Ok(Progress::Incomplete);
        };
        let head = request::parse_head(&self.held.split_to(head_len))?;
        let body = match head.framing {
            Framing::Length(len) => Body::Length(len as usize),
            Framing::Chunked => {
                Body::Chunked { decoder: ChunkedDecoder::new(), data: BytesMut::new() }
            }
            Framing::UntilClose => unreachable!("request_framing never gives it"),
        };
        let is_body_due = !matches!(body, Body::Length(0)) && self.held.is_empty();
        self.part = Part::Body { request: Box::new(head.request), body };
        Ok(Progress::Head { is_continue_awaited: head.continue_expected && is_body_due })
    }

    fn finish(&mut self, data: Bytes) -> Progress {
        if self.held.is_empty() {
            // An idle connection holds no buffer.
            self.held = BytesMut::new();
        }
        match std::mem::take(&mut self.part) {
            Part::Body { mut request, .. } => {
                request.body = data;
                Progress::Request(request)
            }
            Part::Head(_) => unreachable!("only a body is finished"),
        }
    }
}

impl Default for Part {
    fn default() -> Self {
        Self::Head(HeadScanner::default())
    }
}

impl Body {
    /// The whole body, once it has come.
    fn read(&mut self, held: &mut BytesMut) -> Result<Option<Bytes>, HttpError> {
        match self {
            Self::Length(len) if held.len() < *len => Ok(None),
            Self::Length(len) => Ok(Some(held.split_to(*len).freeze())),
            Self::Chunked { decoder, data } => loop {
                let (framing_len, step) = decoder.decode(held)?;
                held.advance(framing_len);
                match step {
                    Step::Incomplete => return Ok(None),
                    Step::End => return Ok(Some(std::mem::take(data).freeze())),
                    Step::Data(len) if data.len() + len > REQUEST_BODY_LEN_MAX => {
                        return Err(HttpError::BodyTooLarge);
                    }
                    Step::Data(len) => data.extend_from_slice(&held.split_to(len)),
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http::testing::at_every_split;

    fn read(reader: &mut RequestReader) -> Result<Option<Box<Request>>, HttpError> {
        loop {
            match reader.poll_progress()? {
                Progress::Incomplete => return Ok(None),
                Progress::Head { .. } => {}
                Progress::Request(request) => return Ok(Some(request)),
            }
        }
    }

    #[test]
    fn requests_with_every_framing_are_read_at_every_split() {
        let table = [
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", ""),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", "hello"),
            (
                "\r\n\r\nPUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nhel\r\n2;x\r\nlo\r\n0\r\n\r\n",
                "hello",
            ),
        ];
        for (input, body) in table {
            // Twice the same, so that a request is also read behind another.
            at_every_split(input.repeat(2).as_bytes(), |pieces| {
                let (mut reader, mut count) = (RequestReader::default(), 0);
                for piece in pieces {
                    reader.push(piece);
                    while let Some(request) = read(&mut reader).unwrap() {
                        assert_eq!(request.body, body);
                        count += 1;
                    }
                }
                assert_eq!(count, 2, "{input}");
                assert!(reader.is_between_requests());
            });
        }
    }

    #[test]
    fn largest_bodies_are_read_and_one_byte_more_is_not() {
        let whole = "x".repeat(REQUEST_BODY_LEN_MAX);
        let mut reader = RequestReader::default();
        let len = REQUEST_BODY_LEN_MAX;
        reader.push(
            format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n{whole}")
                .as_bytes(),
        );
        assert_eq!(read(&mut reader).unwrap().unwrap().body, whole);
        reader.push(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        reader.push(format!("{len:x}\r\n{whole}\r\n").as_bytes());
        assert_eq!(read(&mut reader), Ok(None));
        reader.push(b"1\r\nx");
        assert_eq!(read(&mut reader), Err(HttpError::BodyTooLarge));
    }
}
