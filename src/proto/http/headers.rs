//! Header fields of a request or reply, and what they say about the body (RFC 9112 6).

use crate::proto::http::error::HttpError;

/// Header fields in the order of arrival. Names are found in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    fields: Vec<(String, String)>,
}

/// How the length of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// A reply that lasts until the peer closes; never a request.
    UntilClose,
}

impl Headers {
    /// The fields of a parsed head. Bytes outside UTF-8 become replacement characters.
    pub(super) fn from_parsed(parsed: &[httparse::Header<'_>]) -> Self {
        let fields = parsed
            .iter()
            .map(|field| {
                (field.name.to_owned(), String::from_utf8_lossy(field.value).trim().to_owned())
            })
            .collect();
        Self { fields }
    }

    /// Appends a field as it is; for RTSP, whose heads are read elsewhere.
    pub(crate) fn push(&mut self, name: &str, value: &str) {
        self.fields.push((name.to_owned(), value.to_owned()));
    }

    /// Appends to the value of the last field (folded lines, RFC 2616, 2.2).
    pub(crate) fn extend_last(&mut self, more: &str) {
        if let Some((_, value)) = self.fields.last_mut() {
            value.push(' ');
            value.push_str(more);
        }
    }

    /// Fields, counted with repetitions.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The value of the first field of this name.
    pub fn find(&self, name: &str) -> Option<&str> {
        self.find_all(name).next()
    }

    /// The values of all fields of this name.
    pub fn find_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All fields as name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether a comma-separated list field (`Connection`, `Upgrade`) has this token.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.find_all(name)
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// How a request's body is framed. Every ambiguous shape is refused: a proxy before us may
    /// have read it the other way (RFC 9112 11.2, request smuggling).
    pub(super) fn request_framing(&self, version_minor: u8) -> Result<Framing, HttpError> {
        let mut codings = self.find_all("transfer-encoding");
        let mut lengths = self.find_all("content-length");
        let (coding, length) = (codings.next(), lengths.next());
        if codings.next().is_some() || lengths.next().is_some() {
            return Err(HttpError::BadHead("body length told twice"));
        }
        match (coding, length) {
            (Some(_), Some(_)) => Err(HttpError::BadHead("body length told twice")),
            (Some(_), None) if version_minor == 0 => {
                Err(HttpError::BadHead("transfer coding in HTTP/1.0"))
            }
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            (Some(_), None) => Err(HttpError::TransferCodingUnknown),
            (None, Some(length)) => Ok(Framing::Length(parse_length(length)?)),
            (None, None) => Ok(Framing::Length(0)),
        }
    }

    /// How a reply's body is framed. We send one request per connection and pass nothing on, so
    /// chunked wins over a length (RFC 9112 6.3) and equal lengths count as one.
    pub(super) fn reply_framing(&self) -> Result<Framing, HttpError> {
        if let Some(coding) = self.find("transfer-encoding") {
            return match coding {
                coding if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
                coding if coding.eq_ignore_ascii_case("identity") => Ok(Framing::UntilClose),
                _ => Err(HttpError::TransferCodingUnknown),
            };
        }
        let mut lengths = self.find_all("content-length");
        let Some(first) = lengths.next() else { return Ok(Framing::UntilClose) };
        if lengths.any(|other| other != first) {
            return Err(HttpError::BadHead("two content lengths"));
        }
        Ok(Framing::Length(parse_length(first)?))
    }
}

/// Digits only: no sign, no list, no space, as `str::parse` alone would allow.
fn parse_length(text: &str) -> Result<u64, HttpError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HttpError::BadHead("content length is not a number"));
    }
    text.parse().map_err(|_| HttpError::BodyTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let parsed: Vec<httparse::Header<'_>> = fields
            .iter()
            .map(|&(name, value)| httparse::Header { name, value: value.as_bytes() })
            .collect();
        Headers::from_parsed(&parsed)
    }

    #[test]
    fn names_and_tokens_are_found_in_any_case() {
        let headers = headers(&[("Connection", "Upgrade, KEEP-alive"), ("connection", "x")]);
        assert_eq!(headers.find("CONNECTION"), Some("Upgrade, KEEP-alive"));
        assert!(headers.has_token("connection", "keep-alive"));
        assert!(headers.has_token("connection", "X"));
        assert!(!headers.has_token("connection", "close"));
    }

    #[test]
    fn reply_framing_follows_the_precedence() {
        let te = ("Transfer-Encoding", "chunked");
        let length = ("Content-Length", "5");
        type Fields<'a> = &'a [(&'a str, &'a str)];
        let table: &[(Fields<'_>, Result<Framing, HttpError>)] = &[
            (&[], Ok(Framing::UntilClose)),
            (&[length], Ok(Framing::Length(5))),
            (&[length, length], Ok(Framing::Length(5))),
            (&[te, length], Ok(Framing::Chunked)),
            (&[("Transfer-Encoding", "identity")], Ok(Framing::UntilClose)),
            (&[("Transfer-Encoding", "gzip")], Err(HttpError::TransferCodingUnknown)),
            (&[length, ("Content-Length", "6")], Err(HttpError::BadHead("two content lengths"))),
        ];
        for (fields, framing) in table {
            assert_eq!(headers(fields).reply_framing(), *framing, "{fields:?}");
        }
    }
}
