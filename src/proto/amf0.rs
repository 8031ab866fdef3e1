//! AMF0 values: what RTMP commands and FLV script tags are made of (AMF0 specification, 2007).
//!
//! Of AMF3 only the scalars are read, behind the `avmplus` marker. References are kept as numbers
//! and not followed: no peer of ours sends them, and following them invites cycles.

use crate::limits::{AMF_DEPTH_MAX, AMF_VALUES_MAX};
use crate::proto::reader::{Incomplete, Reader};

/// An object's properties, in the order of the wire.
pub type Properties = Vec<(String, Value)>;

/// One AMF0 value. Strings that are not UTF-8 are read with replacement characters.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    Boolean(bool),
    /// A string or long string; encoding chooses by length.
    String(String),
    Object(Properties),
    Null,
    Undefined,
    Reference(u16),
    EcmaArray(Properties),
    StrictArray(Vec<Self>),
    Date {
        unix_ms: f64,
        time_zone: u16,
    },
    Unsupported,
    XmlDocument(String),
    TypedObject {
        class: String,
        properties: Properties,
    },
}

/// Why bytes are no AMF0 value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmfError {
    #[error("AMF value is cut off")]
    Incomplete,
    #[error("AMF marker {0:#04x} is not known")]
    Marker(u8),
    #[error("AMF values are nested deeper than {AMF_DEPTH_MAX}")]
    TooDeep,
    #[error("more than {AMF_VALUES_MAX} AMF values in one message")]
    TooMany,
}

impl From<Incomplete> for AmfError {
    fn from(_: Incomplete) -> Self {
        Self::Incomplete
    }
}

impl Value {
    pub fn string(text: &str) -> Self {
        Self::String(text.to_owned())
    }

    /// An object of borrowed names.
    pub fn object<const LEN: usize>(properties: [(&str, Self); LEN]) -> Self {
        Self::Object(properties.map(|(name, value)| (name.to_owned(), value)).into())
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The property of an object or ECMA array.
    pub fn property(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(properties)
            | Self::EcmaArray(properties)
            | Self::TypedObject { properties, .. } => {
                properties.iter().find(|(known, _)| known == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// Appends the value's encoding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => {
                out.push(marker::NUMBER);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::Boolean(boolean) => out.extend_from_slice(&[marker::BOOLEAN, (*boolean).into()]),
            Self::String(text) => encode_string(text, out),
            Self::Object(properties) => {
                out.push(marker::OBJECT);
                encode_properties(properties, out);
            }
            Self::Null => out.push(marker::NULL),
            Self::Undefined => out.push(marker::UNDEFINED),
            Self::Reference(index) => {
                out.push(marker::REFERENCE);
                out.extend_from_slice(&index.to_be_bytes());
            }
            Self::EcmaArray(properties) => {
                out.push(marker::ECMA_ARRAY);
                out.extend_from_slice(&len_u32(properties.len()));
                encode_properties(properties, out);
            }
            Self::StrictArray(values) => {
                out.push(marker::STRICT_ARRAY);
                out.extend_from_slice(&len_u32(values.len()));
                values.iter().for_each(|value| value.encode(out));
            }
            Self::Date { unix_ms, time_zone } => {
                out.push(marker::DATE);
                out.extend_from_slice(&unix_ms.to_be_bytes());
                out.extend_from_slice(&time_zone.to_be_bytes());
            }
            Self::Unsupported => out.push(marker::UNSUPPORTED),
            Self::XmlDocument(text) => {
                out.push(marker::XML_DOCUMENT);
                out.extend_from_slice(&len_u32(text.len()));
                out.extend_from_slice(text.as_bytes());
            }
            Self::TypedObject { class, properties } => {
                out.push(marker::TYPED_OBJECT);
                encode_name(class, out);
                encode_properties(properties, out);
            }
        }
    }
}

/// Reads values one after the other, within one message's limits.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    reader: Reader<'a>,
    values_left: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes), values_left: AMF_VALUES_MAX }
    }

    /// The bytes after the last value read.
    pub fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }

    /// The next value; `None` at the end of the bytes.
    ///
    /// # Errors
    /// [`AmfError`]; what follows can't be read then.
    pub fn next_value(&mut self) -> Result<Option<Value>, AmfError> {
        if self.reader.is_empty() { Ok(None) } else { self.value(0).map(Some) }
    }

    fn value(&mut self, depth: usize) -> Result<Value, AmfError> {
        if depth > AMF_DEPTH_MAX {
            return Err(AmfError::TooDeep);
        }
        self.values_left = self.values_left.checked_sub(1).ok_or(AmfError::TooMany)?;
        Ok(match self.reader.u8()? {
            marker::NUMBER => Value::Number(self.reader.f64()?),
            marker::BOOLEAN => Value::Boolean(self.reader.u8()? != 0),
            marker::STRING => Value::String(self.name()?),
            marker::OBJECT => Value::Object(self.properties(depth)?),
            marker::NULL => Value::Null,
            marker::UNDEFINED => Value::Undefined,
            marker::REFERENCE => Value::Reference(self.reader.u16()?),
            marker::ECMA_ARRAY => {
                // The count is a hint: encoders write 0 or too many. The end marker decides.
                self.reader.u32()?;
                Value::EcmaArray(self.properties(depth)?)
            }
            marker::STRICT_ARRAY => Value::StrictArray(self.strict_array(depth)?),
            marker::DATE => {
                Value::Date { unix_ms: self.reader.f64()?, time_zone: self.reader.u16()? }
            }
            marker::LONG_STRING => Value::String(self.long_string()?),
            marker::UNSUPPORTED => Value::Unsupported,
            marker::XML_DOCUMENT => Value::XmlDocument(self.long_string()?),
            marker::TYPED_OBJECT => {
                Value::TypedObject { class: self.name()?, properties: self.properties(depth)? }
            }
            marker::AVMPLUS => self.amf3_scalar()?,
            unknown => return Err(AmfError::Marker(unknown)),
        })
    }

    fn properties(&mut self, depth: usize) -> Result<Properties, AmfError> {
        let mut properties = Properties::new();
        loop {
            let name = self.name()?;
            if name.is_empty() && self.reader.rest().first() == Some(&marker::OBJECT_END) {
                self.reader.u8()?;
                return Ok(properties);
            }
            properties.push((name, self.value(depth + 1)?));
        }
    }

    fn strict_array(&mut self, depth: usize) -> Result<Vec<Value>, AmfError> {
        // Grows with values read: the count is the peer's word.
        let count = self.reader.u32()?;
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(depth + 1)?);
        }
        Ok(values)
    }

    fn name(&mut self) -> Result<String, AmfError> {
        let len = self.reader.u16()?;
        self.text(usize::from(len))
    }

    fn long_string(&mut self) -> Result<String, AmfError> {
        let len = self.reader.u32()?;
        self.text(usize::try_from(len).map_err(|_| AmfError::Incomplete)?)
    }

    fn text(&mut self, len: usize) -> Result<String, AmfError> {
        Ok(String::from_utf8_lossy(self.reader.take(len)?).into_owned())
    }

    fn amf3_scalar(&mut self) -> Result<Value, AmfError> {
        Ok(match self.reader.u8()? {
            0x00 => Value::Undefined,
            0x01 => Value::Null,
            0x02 => Value::Boolean(false),
            0x03 => Value::Boolean(true),
            0x04 => {
                // U29 is a 29-bit two's complement number: its top bit is the sign.
                let bits = self.amf3_u29()?;
                Value::Number(f64::from((bits << 3).cast_signed() >> 3))
            }
            0x05 => Value::Number(self.reader.f64()?),
            0x06 => {
                let head = self.amf3_u29()?;
                if head & 1 == 0 {
                    return Err(AmfError::Marker(0x06));
                }
                Value::String(self.text((head >> 1) as usize)?)
            }
            unknown => return Err(AmfError::Marker(unknown)),
        })
    }

    fn amf3_u29(&mut self) -> Result<u32, AmfError> {
        let mut number = 0;
        for _ in 0..3 {
            let byte = self.reader.u8()?;
            number = number << 7 | u32::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Ok(number << 8 | u32::from(self.reader.u8()?))
    }
}

/// All values of one message.
///
/// # Errors
/// [`AmfError`] when any of them can't be read.
pub fn decode_all(bytes: &[u8]) -> Result<Vec<Value>, AmfError> {
    let mut decoder = Decoder::new(bytes);
    let mut values = Vec::new();
    while let Some(value) = decoder.next_value()? {
        values.push(value);
    }
    Ok(values)
}

fn encode_string(text: &str, out: &mut Vec<u8>) {
    if u16::try_from(text.len()).is_ok() {
        out.push(marker::STRING);
        encode_name(text, out);
    } else {
        out.push(marker::LONG_STRING);
        out.extend_from_slice(&len_u32(text.len()));
        out.extend_from_slice(text.as_bytes());
    }
}

fn encode_properties(properties: &[(String, Value)], out: &mut Vec<u8>) {
    for (name, value) in properties {
        encode_name(name, out);
        value.encode(out);
    }
    out.extend_from_slice(&[0, 0, marker::OBJECT_END]);
}

fn encode_name(name: &str, out: &mut Vec<u8>) {
    // A name that was read with replacement characters can be longer than its 16-bit length allows.
    let mut len = u16::try_from(name.len()).unwrap_or(u16::MAX);
    while !name.is_char_boundary(usize::from(len)) {
        len -= 1;
    }
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&name.as_bytes()[..usize::from(len)]);
}

fn len_u32(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("messages are far below 4 GiB").to_be_bytes()
}

mod marker {
    pub(super) const NUMBER: u8 = 0x00;
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const STRING: u8 = 0x02;
    pub(super) const OBJECT: u8 = 0x03;
    pub(super) const NULL: u8 = 0x05;
    pub(super) const UNDEFINED: u8 = 0x06;
    pub(super) const REFERENCE: u8 = 0x07;
    pub(super) const ECMA_ARRAY: u8 = 0x08;
    pub(super) const OBJECT_END: u8 = 0x09;
    pub(super) const STRICT_ARRAY: u8 = 0x0a;
    pub(super) const DATE: u8 = 0x0b;
    pub(super) const LONG_STRING: u8 = 0x0c;
    pub(super) const UNSUPPORTED: u8 = 0x0d;
    pub(super) const XML_DOCUMENT: u8 = 0x0f;
    pub(super) const TYPED_OBJECT: u8 = 0x10;
    pub(super) const AVMPLUS: u8 = 0x11;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<(&'static str, Vec<u8>, Value)> {
        vec![
            ("number", b"\0\x3f\xf0\0\0\0\0\0\0".to_vec(), Value::Number(1.0)),
            ("true", vec![1, 1], Value::Boolean(true)),
            ("false", vec![1, 0], Value::Boolean(false)),
            ("string", b"\x02\0\x04live".to_vec(), Value::string("live")),
            ("empty string", vec![2, 0, 0], Value::string("")),
            (
                "object",
                b"\x03\0\x03app\x02\0\x01a\0\0\x09".to_vec(),
                Value::object([("app", Value::string("a"))]),
            ),
            ("object with an empty name", b"\x03\0\0\x05\0\0\x09".to_vec(), {
                Value::object([("", Value::Null)])
            }),
            ("null", vec![5], Value::Null),
            ("undefined", vec![6], Value::Undefined),
            ("reference", vec![7, 1, 2], Value::Reference(0x0102)),
            (
                "array by name",
                b"\x08\0\0\0\x01\0\x01w\x00\x40\x08\0\0\0\0\0\0\0\0\x09".to_vec(),
                Value::EcmaArray(vec![("w".to_owned(), Value::Number(3.0))]),
            ),
            (
                "array by index",
                vec![10, 0, 0, 0, 2, 5, 1, 1],
                Value::StrictArray(vec![Value::Null, Value::Boolean(true)]),
            ),
            (
                "date",
                b"\x0b\x3f\xf0\0\0\0\0\0\0\0\x3c".to_vec(),
                Value::Date { unix_ms: 1.0, time_zone: 60 },
            ),
            ("unsupported", vec![13], Value::Unsupported),
            ("XML", b"\x0f\0\0\0\x02<>".to_vec(), Value::XmlDocument("<>".to_owned())),
            (
                "typed object",
                b"\x10\0\x01C\0\x01x\x05\0\0\x09".to_vec(),
                Value::TypedObject {
                    class: "C".to_owned(),
                    properties: vec![("x".to_owned(), Value::Null)],
                },
            ),
        ]
    }

    fn encoded(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        value.encode(&mut out);
        out
    }

    #[test]
    fn table_decodes_and_encodes() {
        for (name, bytes, value) in table() {
            assert_eq!(decode_all(&bytes), Ok(vec![value.clone()]), "decode {name}");
            assert_eq!(encoded(&value), bytes, "encode {name}");
        }
    }

    #[test]
    fn every_cut_is_incomplete() {
        for (name, bytes, _) in table() {
            for len in 1..bytes.len() {
                assert_eq!(decode_all(&bytes[..len]), Err(AmfError::Incomplete), "{name} {len}");
            }
        }
    }

    #[test]
    fn long_strings_have_their_own_marker() {
        let text = "x".repeat(70_000);
        let bytes = encoded(&Value::string(&text));
        assert_eq!(bytes[..5], [12, 0, 1, 0x11, 0x70]);
        assert_eq!(decode_all(&bytes), Ok(vec![Value::String(text)]));
    }

    #[test]
    fn amf3_scalars_are_read() {
        let table: [(&[u8], Value); 7] = [
            (&[0x11, 0], Value::Undefined),
            (&[0x11, 1], Value::Null),
            (&[0x11, 3], Value::Boolean(true)),
            (&[0x11, 4, 0x81, 0], Value::Number(128.0)),
            (&[0x11, 4, 0xff, 0xff, 0xff, 0xff], Value::Number(-1.0)),
            (&[0x11, 5, 0x40, 8, 0, 0, 0, 0, 0, 0], Value::Number(3.0)),
            (b"\x11\x06\x05ab", Value::string("ab")),
        ];
        for (bytes, value) in table {
            assert_eq!(decode_all(bytes), Ok(vec![value]), "{bytes:x?}");
        }
        assert_eq!(decode_all(&[0x11, 0x0a]), Err(AmfError::Marker(0x0a)));
        assert_eq!(decode_all(&[0x11, 6, 4]), Err(AmfError::Marker(6)));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| {
            let mut bytes = [10, 0, 0, 0, 1].repeat(depth);
            bytes.push(5);
            bytes
        };
        assert!(decode_all(&nested(AMF_DEPTH_MAX)).is_ok());
        assert_eq!(decode_all(&nested(AMF_DEPTH_MAX + 1)), Err(AmfError::TooDeep));
    }

    #[test]
    fn count_is_bounded() {
        assert!(decode_all(&vec![5; AMF_VALUES_MAX]).is_ok());
        assert_eq!(decode_all(&vec![5; AMF_VALUES_MAX + 1]), Err(AmfError::TooMany));
        assert_eq!(decode_all(&[10, 0xff, 0xff, 0xff, 0xff, 5]), Err(AmfError::Incomplete));
    }

    #[test]
    fn unknown_markers_are_errors_and_text_is_never_invalid() {
        assert_eq!(decode_all(&[0x04]), Err(AmfError::Marker(4)));
        assert_eq!(decode_all(&[2, 0, 1, 0xff]), Ok(vec![Value::string("\u{fffd}")]));
    }

    #[test]
    fn name_grown_by_replacement_characters_is_cut_in_encoding() {
        let mut bytes = vec![3, 0xff, 0xff];
        bytes.extend_from_slice(&[0xff; 0xffff]);
        bytes.extend_from_slice(&[5, 0, 0, 9]);
        let value = decode_all(&bytes).unwrap().remove(0);
        assert_eq!(encoded(&value).len(), bytes.len());
    }

    #[test]
    fn properties_are_found_by_name() {
        let value = Value::object([("a", Value::Number(1.0)), ("b", Value::string("x"))]);
        assert_eq!(value.property("b").and_then(Value::as_str), Some("x"));
        assert_eq!(value.property("a").and_then(Value::as_number), Some(1.0));
        assert_eq!(value.property("c"), None);
        assert_eq!(Value::Null.property("a"), None);
    }
}
