//! What a node has beside streams: players, sessions, threads, counts, a version.

use std::net::SocketAddr;

use serde::Serialize;

use crate::bus::view::{LoadView, PlayerView, SessionProtocol, SessionView};
use crate::stream::Packaging;

/// Both ends of a connection.
#[derive(Serialize)]
pub(super) struct Ends {
    local_ip: String,
    local_port: u16,
    peer_ip: String,
    peer_port: u16,
}

impl Ends {
    pub(super) fn of(local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            local_ip: ip_text(local),
            local_port: local.port(),
            peer_ip: ip_text(peer),
            peer_port: peer.port(),
        }
    }
}

/// An IPv4 address of a dual-stack socket as what it is.
pub(in crate::api) fn ip_text(address: SocketAddr) -> String {
    address.ip().to_canonical().to_string()
}

/// A player: `getMediaPlayerList`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct PlayerRow {
    identifier: String,
    #[serde(flatten)]
    ends: Ends,
    typeid: &'static str,
    sent_bytes: u64,
    lag_bytes: u64,
    jumps: u32,
}

impl PlayerRow {
    pub(in crate::api) fn of(view: &PlayerView) -> Self {
        let protocol = match view.packaging {
            Packaging::Rtmp | Packaging::RtmpPush { .. } => SessionProtocol::Rtmp,
            Packaging::Flv | Packaging::WsFlv => SessionProtocol::Http,
            Packaging::Rtsp => SessionProtocol::Rtsp,
        };
        Self {
            identifier: view.connection.to_string(),
            ends: Ends::of(view.local, view.peer),
            typeid: type_id(protocol),
            sent_bytes: view.sent_bytes,
            lag_bytes: view.lag_bytes,
            jumps: view.jumps,
        }
    }
}

/// An accepted connection: `getAllSession`.
#[derive(Serialize)]
pub(in crate::api) struct SessionRow {
    id: String,
    identifier: String,
    #[serde(flatten)]
    ends: Ends,
    #[serde(rename = "type")]
    transport: &'static str,
    typeid: &'static str,
}

impl SessionRow {
    pub(in crate::api) fn of(view: &SessionView) -> Self {
        let id = view.connection.to_string();
        Self {
            id: id.clone(),
            identifier: id,
            ends: Ends::of(view.local, view.peer),
            transport: "tcp",
            typeid: type_id(view.protocol),
        }
    }
}

/// ZLMediaKit's class, by which control planes tell protocols apart.
fn type_id(protocol: SessionProtocol) -> &'static str {
    match protocol {
        SessionProtocol::Rtmp => "mediakit::RtmpSession",
        SessionProtocol::Http => "mediakit::HttpSession",
        SessionProtocol::Rtsp => "mediakit::RtspSession",
    }
}

/// A thread: `getThreadsLoad`, `getWorkThreadsLoad`.
#[derive(Serialize)]
pub(in crate::api) struct LoadRow {
    delay: u32,
    fd_count: u32,
    load: u32,
    name: String,
}

impl LoadRow {
    pub(in crate::api) fn of(name: String, view: LoadView) -> Self {
        Self { delay: view.delay_ms, fd_count: view.fd_count, load: view.percent, name }
    }
}

/// How much of what is there: `getStatistic`. What we have nothing like is 0.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::api) struct Statistic {
    pub(in crate::api) buffer: u64,
    pub(in crate::api) buffer_like_string: u64,
    pub(in crate::api) buffer_list: u64,
    pub(in crate::api) buffer_raw: u64,
    pub(in crate::api) frame: u64,
    pub(in crate::api) frame_imp: u64,
    pub(in crate::api) media_source: u64,
    pub(in crate::api) multi_media_source_muxer: u64,
    pub(in crate::api) rtmp_packet: u64,
    pub(in crate::api) rtp_packet: u64,
    pub(in crate::api) socket: u64,
    pub(in crate::api) tcp_client: u64,
    pub(in crate::api) tcp_server: u64,
    pub(in crate::api) tcp_session: u64,
    pub(in crate::api) udp_server: u64,
    pub(in crate::api) udp_session: u64,
}

/// `version`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct VersionRow {
    pub(in crate::api) branch_name: &'static str,
    pub(in crate::api) build_time: &'static str,
    pub(in crate::api) commit_hash: &'static str,
    pub(in crate::api) version: &'static str,
}
