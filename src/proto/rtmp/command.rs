//! Commands and data messages: AMF0 values with a name in front (RTMP 1.0, 7.1.1, 7.1.2, 7.2).

use bytes::Bytes;

use crate::proto::amf0::{Decoder, Value};
use crate::proto::rtmp::message::{Message, kind};

/// A command as a peer sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    pub name: String,
    pub transaction: f64,
    /// The command object and what follows it.
    pub arguments: Vec<Value>,
}

impl Command {
    /// The command of a message; `None` for other types and for payloads that can't be read,
    /// which are ignored as unknown commands are.
    pub fn decode(message: &Message) -> Option<Self> {
        let mut decoder = Decoder::new(match message.kind {
            kind::COMMAND_AMF0 => &message.payload,
            kind::COMMAND_AMF3 => strip_amf3_marker(&message.payload),
            _ => return None,
        });
        let Value::String(name) = decoder.next_value().ok()?? else { return None };
        let transaction = decoder.next_value().ok()?.and_then(|value| value.as_number());
        let mut arguments = Vec::new();
        while let Some(value) = decoder.next_value().ok()? {
            arguments.push(value);
        }
        Some(Self { name, transaction: transaction.unwrap_or(0.0), arguments })
    }

    /// The command object, or null.
    pub fn object(&self) -> &Value {
        self.arguments.first().unwrap_or(&Value::Null)
    }

    /// The argument after the command object at `index`, or null.
    pub fn argument(&self, index: usize) -> &Value {
        self.arguments.get(index + 1).unwrap_or(&Value::Null)
    }
}

/// A command to send.
pub fn command(stream_id: u32, name: &str, transaction: f64, arguments: &[Value]) -> Message {
    let mut payload = Vec::new();
    Value::string(name).encode(&mut payload);
    Value::Number(transaction).encode(&mut payload);
    arguments.iter().for_each(|value| value.encode(&mut payload));
    Message { kind: kind::COMMAND_AMF0, timestamp_ms: 0, stream_id, payload: payload.into() }
}

/// A data message to send.
pub fn data(stream_id: u32, values: &[Value]) -> Message {
    let mut payload = Vec::new();
    values.iter().for_each(|value| value.encode(&mut payload));
    Message { kind: kind::DATA_AMF0, timestamp_ms: 0, stream_id, payload: payload.into() }
}

/// What a NetStream or NetConnection status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status<'a> {
    pub is_error: bool,
    pub code: &'static str,
    pub description: &'a str,
}

impl Status<'_> {
    /// The info object. `clientid` is what some Flash players look for.
    pub fn to_value(self) -> Value {
        let level = if self.is_error { "error" } else { "status" };
        Value::object([
            ("level", Value::string(level)),
            ("code", Value::string(self.code)),
            ("description", Value::string(self.description)),
            ("clientid", Value::string("0")),
        ])
    }

    /// The `onStatus` command.
    pub fn to_message(self, stream_id: u32) -> Message {
        command(stream_id, "onStatus", 0.0, &[Value::Null, self.to_value()])
    }
}

/// A script tag's payload of a data message: without `@setDataFrame` and AMF3 marker. `None` when
/// the message is not for players: other handlers that begin with `@`, statuses, access rights.
pub fn script_payload(message: &Message) -> Option<Bytes> {
    let mut payload = message.payload.clone();
    match message.kind {
        kind::DATA_AMF0 => {}
        kind::DATA_AMF3 => {
            payload = payload.slice_ref(strip_amf3_marker(&payload));
        }
        _ => return None,
    }
    let mut decoder = Decoder::new(&payload);
    let mut name = decoder.next_value().ok()??;
    if name.as_str() == Some("@setDataFrame") {
        payload = payload.slice_ref(decoder.rest());
        name = Decoder::new(&payload).next_value().ok()??;
    }
    let name = name.as_str()?;
    let is_for_players = !name.starts_with(['@', '|']) && name != "onStatus";
    is_for_players.then_some(payload)
}

/// AMF3 messages begin with a zero and go on with AMF0 values (as all peers write them).
fn strip_amf3_marker(payload: &[u8]) -> &[u8] {
    payload.strip_prefix(&[0]).unwrap_or(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, payload: &'static [u8]) -> Message {
        Message { kind, timestamp_ms: 0, stream_id: 0, payload: Bytes::from_static(payload) }
    }

    #[test]
    fn commands_are_read_in_both_wrappings() {
        let plain = b"\x02\0\x04play\0\x40\x08\0\0\0\0\0\0\x05\x02\0\x01s";
        let wrapped = b"\0\x02\0\x04play\0\x40\x08\0\0\0\0\0\0\x05\x02\0\x01s";
        let expected = Command {
            name: "play".to_owned(),
            transaction: 3.0,
            arguments: vec![Value::Null, Value::string("s")],
        };
        assert_eq!(Command::decode(&message(20, plain)), Some(expected.clone()));
        assert_eq!(Command::decode(&message(17, wrapped)), Some(expected.clone()));
        assert_eq!(expected.object(), &Value::Null);
        assert_eq!(expected.argument(0), &Value::string("s"));
        assert_eq!(expected.argument(1), &Value::Null);
        assert_eq!(Command::decode(&message(18, plain)), None);
    }

    #[test]
    fn command_without_transaction_or_arguments_is_read() {
        let command = Command::decode(&message(20, b"\x02\0\x05close")).unwrap();
        assert_eq!((command.transaction, command.object()), (0.0, &Value::Null));
    }

    #[test]
    fn unreadable_commands_are_ignored() {
        assert_eq!(Command::decode(&message(20, b"")), None);
        assert_eq!(Command::decode(&message(20, b"\x05")), None);
        assert_eq!(Command::decode(&message(20, b"\x02\0\x01x\0\0\0")), None);
        assert_eq!(Command::decode(&message(20, b"\x02\0\x01x\0\0\0\0\0\0\0\0\0\x04")), None);
    }

    #[test]
    fn written_commands_are_read_again() {
        let status = Status { is_error: true, code: "NetStream.Failed", description: "no" };
        let decoded = Command::decode(&status.to_message(1)).unwrap();
        assert_eq!(decoded.name, "onStatus");
        assert_eq!(decoded.argument(0).property("level"), Some(&Value::string("error")));
    }

    #[test]
    fn scripts_lose_their_wrappings() {
        let script = |kind, payload| script_payload(&message(kind, payload));
        let meta = Some(Bytes::from_static(b"\x02\0\x0aonMetaData\x05"));
        assert_eq!(script(18, b"\x02\0\x0aonMetaData\x05"), meta);
        assert_eq!(script(18, b"\x02\0\x0d@setDataFrame\x02\0\x0aonMetaData\x05"), meta);
        assert_eq!(script(15, b"\0\x02\0\x0d@setDataFrame\x02\0\x0aonMetaData\x05"), meta);
        assert_eq!(script(18, b"\x02\0\x0d@setDataFrame"), None);
        assert_eq!(script(18, b"\x02\0\x0f@clearDataFrame\x02\0\x01x"), None);
        assert_eq!(script(18, b"\x02\0\x11|RtmpSampleAccess\x01\x01\x01\x01"), None);
        assert_eq!(script(18, b"\x02\0\x08onStatus\x05"), None);
        assert_eq!(script(18, b"\x05"), None);
        assert_eq!(script(20, b"\x02\0\x01x"), None);
    }
}
