//! The chunked transfer coding, decoding only (RFC 9112 7.1).
//!
//! ```text
//! 1a;extension CRLF   26 bytes   CRLF   ...   0 CRLF   trailer: fields CRLF   CRLF
//! ```
//!
//! Extensions and trailers are read over. Lines end in CRLF; a bare LF is an error.

use crate::limits::{HTTP_CHUNK_LINE_LEN_MAX, HTTP_TRAILERS_LEN_MAX};
use crate::proto::http::error::HttpError;

/// Finds the data in a chunked body. It copies nothing: the caller cuts the data out of its input.
#[derive(Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// Bytes of the chunk line or of the trailers so far.
    line_len: usize,
}

/// What stands after the framing bytes that a call of [`ChunkedDecoder::decode`] consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many bytes of data, all in the given input. They count as consumed.
    Data(usize),
    /// The body has ended; what follows is not part of it.
    End,
    /// All input is consumed and more is needed.
    Incomplete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size { size: u64, digits: u8 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Ended,
}

impl ChunkedDecoder {
    pub fn new() -> Self {
        Self { state: State::Size { size: 0, digits: 0 }, line_len: 0 }
    }

    /// Consumes framing up to the next data, the end of the body or the end of the input, and
    /// tells how many framing bytes that were.
    ///
    /// # Errors
    /// [`HttpError::BadChunk`] where the framing is wrong; the body cannot be read on.
    pub fn decode(&mut self, input: &[u8]) -> Result<(usize, Step), HttpError> {
        let mut at = 0;
        loop {
            if let State::Data { left } = self.state
                && at < input.len()
            {
                let available = (input.len() - at) as u64;
                let len = left.min(available);
                self.state =
                    if len == left { State::DataCr } else { State::Data { left: left - len } };
                return Ok((at, Step::Data(len as usize)));
            }
            if self.state == State::Ended {
                return Ok((at, Step::End));
            }
            let Some(&byte) = input.get(at) else { return Ok((at, Step::Incomplete)) };
            self.state = self.next(byte)?;
            at += 1;
        }
    }

    fn next(&mut self, byte: u8) -> Result<State, HttpError> {
        self.count_line()?;
        match (self.state, byte) {
            (State::Size { digits: 0, .. }, b'\r' | b';' | b' ' | b'\t') => {
                Err(HttpError::BadChunk("size is missing"))
            }
            (State::Size { size, .. } | State::Extension { size }, b'\r') => {
                Ok(State::SizeLf { size })
            }
            // Old servers pad the size with spaces instead of an extension.
            (State::Size { size, .. }, b';' | b' ' | b'\t') => Ok(State::Extension { size }),
            (State::Size { size, digits }, _) => {
                let digit = char::from(byte).to_digit(16);
                let digit = digit.ok_or(HttpError::BadChunk("size is not hexadecimal"))?;
                if digits == SIZE_DIGITS_MAX {
                    return Err(HttpError::BadChunk("size is too large"));
                }
                Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
            }
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::Extension { .. } | State::Trailer | State::TrailerStart, byte)
                if byte.is_ascii_control() && byte != b'\t' =>
            {
                Err(HttpError::BadChunk("control character"))
            }
            (State::Extension { .. } | State::Trailer, _) => Ok(self.state),
            (State::TrailerStart, _) => Ok(State::Trailer),
            (State::SizeLf { size: 0 }, b'\n') => {
                self.line_len = 0;
                Ok(State::TrailerStart)
            }
            (State::SizeLf { size }, b'\n') => Ok(State::Data { left: size }),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataCr, _) => Err(HttpError::BadChunk("data is longer than its size")),
            (State::DataLf, b'\n') => {
                self.line_len = 0;
                Ok(State::Size { size: 0, digits: 0 })
            }
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::EndLf, b'\n') => Ok(State::Ended),
            (State::SizeLf { .. } | State::DataLf | State::TrailerLf | State::EndLf, _) => {
                Err(HttpError::BadChunk("CR without LF"))
            }
            (State::Data { .. } | State::Ended, _) => unreachable!("decode handles both"),
        }
    }

    fn count_line(&mut self) -> Result<(), HttpError> {
        let len_max = match self.state {
            State::Size { .. } | State::Extension { .. } => HTTP_CHUNK_LINE_LEN_MAX,
            State::TrailerStart | State::Trailer => HTTP_TRAILERS_LEN_MAX,
            _ => return Ok(()),
        };
        self.line_len += 1;
        if self.line_len > len_max {
            return Err(HttpError::BadChunk("line is too long"));
        }
        Ok(())
    }
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// 15 hex digits: sizes up to 2^60 - 1, so that no shift can overflow.
const SIZE_DIGITS_MAX: u8 = 15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http::testing::at_every_split;
    use bytes::Bytes;

    fn decode(pieces: &[Bytes]) -> Result<(Vec<u8>, bool, usize), HttpError> {
        let mut decoder = ChunkedDecoder::new();
        let (mut body, mut ended, mut left_over) = (Vec::new(), false, 0);
        for piece in pieces {
            let mut rest = &piece[..];
            loop {
                let (framing, step) = decoder.decode(rest)?;
                rest = &rest[framing..];
                match step {
                    Step::Data(len) => {
                        body.extend_from_slice(&rest[..len]);
                        rest = &rest[len..];
                    }
                    Step::End => {
                        ended = true;
                        left_over += rest.len();
                        break;
                    }
                    Step::Incomplete => break,
                }
            }
        }
        Ok((body, ended, left_over))
    }

    #[test]
    fn valid_bodies_decode_at_every_split() {
        let table: &[(&[u8], &[u8], usize)] = &[
            (b"0\r\n\r\n", b"", 0),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello", 0),
            (b"1;x=y\r\na\r\n0A  \r\n0123456789\r\n000\r\n\r\nGET", b"a0123456789", 3),
            (b"2\r\n\r\n\r\n0\r\nSum: 1\r\nX: y\r\n\r\n", b"\r\n", 0),
        ];
        for &(input, body, left_over) in table {
            at_every_split(input, |pieces| {
                assert_eq!(decode(pieces), Ok((body.to_vec(), true, left_over)), "{pieces:?}");
            });
        }
    }

    #[test]
    fn malformed_bodies_are_refused_at_every_split() {
        let too_long = [b"1;", &[b'x'; HTTP_CHUNK_LINE_LEN_MAX][..]].concat();
        let trailers = [b"0\r\n", &[b'x'; HTTP_TRAILERS_LEN_MAX + 1][..]].concat();
        let table: &[&[u8]] = &[
            b"\r\n",
            b";x\r\n",
            b" 5\r\n",
            b"g\r\n",
            b"-1\r\n",
            b"0x5\r\n",
            b"5\nhello\r\n",
            b"5\rhello",
            b"5;\nx\r\n",
            b"5\r\nhello!\r\n",
            b"5\r\nhello\n",
            b"5\r\nhello\rx",
            b"1000000000000000\r\n",
            b"0\r\n\n",
            b"0\r\nA: b\nC: d\r\n",
            b"0\r\n\rx",
            &too_long,
            &trailers,
        ];
        for input in table {
            at_every_split(input, |pieces| {
                assert!(matches!(decode(pieces), Err(HttpError::BadChunk(_))), "{pieces:?}");
            });
        }
    }

    #[test]
    fn unfinished_body_is_incomplete() {
        let input = b"5\r\nhello\r\n0\r\n\r\n";
        for len in 0..input.len() {
            let (_, ended, _) = decode(&[Bytes::copy_from_slice(&input[..len])]).unwrap();
            assert!(!ended, "after {len} bytes");
        }
    }
}
