//! What replies show, as objects for others that tell it: web hooks.

use serde_json::{Map, Value};

use super::wire::{MediaRow, Statistic};
use crate::bus::keeper::Figures;
use crate::bus::view::StreamView;
use crate::media::Form;

/// A stream in one schema, as `getMediaList` shows it.
pub fn stream_object(view: &StreamView, form: Form) -> Map<String, Value> {
    match serde_json::to_value(MediaRow::of(view, form)) {
        Ok(Value::Object(map)) => map,
        _ => unreachable!("a row is plain data with text keys"),
    }
}

/// The counts of `getStatistic`, of what the shards last told.
pub fn statistic_object(shards: impl IntoIterator<Item = Figures>) -> Value {
    let mut statistic = Statistic::default();
    for figures in shards {
        statistic.media_source += figures.registered;
        statistic.multi_media_source_muxer += figures.registered;
        statistic.socket += figures.sockets;
        statistic.tcp_session += figures.sessions;
        statistic.tcp_server += super::server::LISTENERS_PER_SHARD;
    }
    let inbound = statistic.tcp_session + statistic.tcp_server;
    statistic.tcp_client = statistic.socket.saturating_sub(inbound);
    serde_json::to_value(statistic).expect("counts are plain data")
}
