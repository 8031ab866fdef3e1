//! What the server session makes of commands (RTMP 1.0, 7.2.1 and 7.2.2; Enhanced RTMP v2,
//! connect). Those of Flash Media Live Encoder (`FCPublish`, `releaseStream`) are not specified.

use std::time::Instant;

use super::{Phase, STREAM_ID, ServerEvent, ServerSession, StreamRequest, reply};
use crate::proto::Output;
use crate::proto::amf0::Value;
use crate::proto::rtmp::chunk_encoding::CSID_COMMAND;
use crate::proto::rtmp::command::{Command, Status, command};
use crate::proto::rtmp::error::ServerError;
use crate::proto::rtmp::message::Control;

impl ServerSession {
    pub(super) fn on_command(
        &mut self,
        now: Instant,
        command: &Command,
    ) -> Result<(), ServerError> {
        let transaction = command.transaction;
        if matches!(self.phase, Phase::Connecting) {
            return match command.name.as_str() {
                "connect" => self.on_connect(command),
                // Flash clients may measure the bandwidth first.
                "_checkbw" => Ok(()),
                "publish" => Err(ServerError::UnexpectedCommand("publish before connect")),
                "play" => Err(ServerError::UnexpectedCommand("play before connect")),
                "createStream" => {
                    Err(ServerError::UnexpectedCommand("createStream before connect"))
                }
                _ => Ok(()),
            };
        }
        match command.name.as_str() {
            "connect" => Err(ServerError::UnexpectedCommand("second connect")),
            "createStream" => {
                self.send_result(transaction, Value::Number(f64::from(STREAM_ID)));
                Ok(())
            }
            "publish" if command.argument(0) == &Value::Boolean(false) => {
                self.on_stop(now);
                Ok(())
            }
            "publish" => {
                let name = command.argument(0).as_str();
                let name = name.ok_or(ServerError::MalformedCommand("publish"))?;
                self.on_request(name, Phase::PublishAsked { held: Vec::new() }, "publish")
            }
            "play" => {
                let name = command.argument(0).as_str();
                let name = name.ok_or(ServerError::MalformedCommand("play"))?;
                self.on_request(name, Phase::PlayAsked, "play")
            }
            "play2" => {
                let name = command.argument(0).property("streamName").and_then(Value::as_str);
                let name = name.ok_or(ServerError::MalformedCommand("play2"))?;
                self.on_request(name, Phase::PlayAsked, "play2")
            }
            "FCUnpublish" => {
                self.on_stop(now);
                self.send_notice("onFCUnpublish", reply::UNPUBLISHED);
                Ok(())
            }
            "closeStream" | "deleteStream" => {
                self.on_stop(now);
                Ok(())
            }
            _ => {
                self.on_small_command(command);
                Ok(())
            }
        }
    }

    fn on_connect(&mut self, command: &Command) -> Result<(), ServerError> {
        let property = |name| command.object().property(name).and_then(Value::as_str);
        let app = property("app").ok_or(ServerError::MalformedCommand("connect"))?;
        self.app = app.into();
        self.phase = Phase::Idle;
        let encoding = command.object().property("objectEncoding").and_then(Value::as_number);
        let window = self.window_ack_size;
        self.send_control(Control::WindowAckSize(window));
        self.send_control(Control::SetPeerBandwidth { window, limit: 2 });
        let result = reply::connect_result(command.transaction, encoding.unwrap_or(0.0));
        self.send(CSID_COMMAND, &result);
        Ok(())
    }

    /// `asked` is the phase that waits for the driver's answer.
    fn on_request(
        &mut self,
        name: &str,
        asked: Phase,
        command: &'static str,
    ) -> Result<(), ServerError> {
        if !matches!(self.phase, Phase::Idle) {
            return Err(ServerError::UnexpectedCommand(command));
        }
        let request = StreamRequest::new(&self.app, name)?;
        let event = if matches!(asked, Phase::PublishAsked { .. }) {
            ServerEvent::Publish(request)
        } else {
            ServerEvent::Play(request)
        };
        self.phase = asked;
        self.deadline = None;
        self.outputs.push_back(Output::Event(event));
        Ok(())
    }

    /// The peer ends what it does, if it does something.
    fn on_stop(&mut self, now: Instant) {
        let event = match self.phase {
            Phase::Publishing { .. } => ServerEvent::Unpublish,
            Phase::PlayAsked | Phase::Playing => ServerEvent::StopPlay,
            _ => return,
        };
        self.phase = Phase::Idle;
        self.deadline = Some(now + self.command_timeout);
        // Encoders close right after the command: the event goes before what can't be sent then.
        let is_unpublished = event == ServerEvent::Unpublish;
        self.outputs.push_back(Output::Event(event));
        if is_unpublished {
            self.send_status(reply::UNPUBLISHED);
        }
    }

    fn on_small_command(&mut self, command: &Command) {
        let transaction = command.transaction;
        match command.name.as_str() {
            "releaseStream" | "_checkbw" => self.send_result(transaction, Value::Null),
            "getStreamLength" => self.send_result(transaction, Value::Number(0.0)),
            "FCPublish" => {
                self.send_result(transaction, Value::Null);
                self.send_notice("onFCPublish", reply::PUBLISH_START);
            }
            "FCSubscribe" => self.send_notice("onFCSubscribe", reply::PLAY_START),
            // A live stream goes on whatever the player's buttons say.
            "pause" | "pauseRaw" | "seek" | "receiveAudio" | "receiveVideo" | "FCUnsubscribe" => {}
            // Replies to calls that we never make.
            "_result" | "_error" | "onStatus" => {}
            _ if transaction != 0.0 => {
                let status = reply::CALL_FAILED.to_value();
                self.send_reply("_error", transaction, status);
            }
            _ => {}
        }
    }

    fn send_result(&mut self, transaction: f64, value: Value) {
        if transaction != 0.0 {
            self.send_reply("_result", transaction, value);
        }
    }

    fn send_reply(&mut self, name: &'static str, transaction: f64, value: Value) {
        self.send(CSID_COMMAND, &command(0, name, transaction, &[Value::Null, value]));
    }

    fn send_notice(&mut self, name: &'static str, status: Status<'_>) {
        let arguments = [Value::Null, status.to_value()];
        self.send(CSID_COMMAND, &command(0, name, 0.0, &arguments));
    }
}
