//! The config keys that the tests change, all in one place.

/// How long players are kept without their source, in ms.
pub fn grace_ms(ms: u32) -> String {
    format!("[stream]\ncontinue_push_ms = {ms}\nreconnect_grace_ms = {ms}\n")
}

/// How long a player waits for a stream that is not up, in ms.
pub fn max_stream_wait_ms(ms: u32) -> String {
    format!("[stream]\nmax_stream_wait_ms = {ms}\n")
}

/// How far a player may be behind, in bytes, and how long it may stay stalled, in ms.
pub fn lag(bytes: u32, evict_ms: u32) -> String {
    format!("[egress]\nlag_bytes_max = {bytes}\nlag_evict_ms = {evict_ms}\n")
}

/// Connects that may be under way to one origin.
pub fn connects_per_origin_max(count: u32) -> String {
    format!("[pull]\nconnects_per_origin_max = {count}\n")
}

/// `close_stream` and `close_streams` leave pending streams alone, as ZLMediaKit does.
pub const FORCE_LEAVES_PENDING: &str = "[api]\nforce_closes_pending = false\n";

/// What may carry RTP: `both`, `tcp` or `udp`.
pub fn rtp_transport(name: &str) -> String {
    format!("[rtsp]\nrtp_transport = \"{name}\"\n")
}

/// Packets over UDP go one by one.
pub const WITHOUT_GSO: &str = "[egress]\nudp_gso = false\n";

/// Who may publish and play over RTSP.
pub fn rtsp_user(user: &str, password: &str, basic: bool) -> String {
    format!(
        "[rtsp]\nauth_user = \"{user}\"\nauth_password = \"{password}\"\nauth_basic = {basic}\n"
    )
}

/// Pulls that fail are tried again at once.
pub const RETRY_SOON: &str = "[pull]\nretry_base_ms = 100\nretry_step_ms = 100\n";
