//! What `probeStream` found. Ours; ZLMediaKit has nothing like it.

use std::net::SocketAddr;

use serde::Serialize;

use super::track::{self, TrackRow};
use crate::bus::view::ProbeView;

/// A look at an origin; times in milliseconds since it began, absent ones `null`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct ProbeRow {
    address: Option<SocketAddr>,
    resolved_ms: Option<u64>,
    connected_ms: Option<u64>,
    handshake_ms: Option<u64>,
    first_media_ms: Option<u64>,
    tracks_ms: Option<u64>,
    first_keyframe_ms: Option<u64>,
    tracks: Vec<TrackRow>,
    error_class: Option<&'static str>,
}

impl ProbeRow {
    pub(in crate::api) fn of(view: &ProbeView) -> Self {
        Self {
            address: view.address,
            resolved_ms: view.resolved_ms,
            connected_ms: view.connected_ms,
            handshake_ms: view.handshake_ms,
            first_media_ms: view.first_media_ms,
            tracks_ms: view.tracks_ms,
            first_keyframe_ms: view.first_keyframe_ms,
            tracks: track::rows(&view.tracks),
            error_class: view.fault.as_ref().map(|fault| fault.class.as_str()),
        }
    }
}
