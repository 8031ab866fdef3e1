//! What a key has that the file lacks.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::{
    ApiSection, CpuList, EgressSection, HttpSection, IpRanges, LimitsSection, LogSection, MIB,
    MediaRingSection, PortRange, PullSection, RtmpSection, RtpTransport, RtspSection,
    ServerSection, StreamSection,
};

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            shards: 0,
            cpus: CpuList::default(),
            steer_by_cpu: false,
            id: "rillcast".to_owned(),
            data_dir: PathBuf::new(),
        }
    }
}

impl Default for HttpSection {
    fn default() -> Self {
        Self {
            listen: any_address(8080),
            header_timeout_ms: 15_000,
            keep_alive_ms: 30_000,
            allow_ip_range: IpRanges::default(),
            allow_cross_domains: true,
        }
    }
}

impl Default for RtmpSection {
    fn default() -> Self {
        Self { listen: any_address(1935), handshake_ms: 15_000, keep_alive_ms: 15_000 }
    }
}

impl Default for RtspSection {
    fn default() -> Self {
        Self {
            listen: any_address(8554),
            handshake_ms: 15_000,
            session_timeout_ms: 60_000,
            rtp_transport: RtpTransport::Both,
            udp_ports: PortRange::new(30_000, 34_999).expect("it has pairs"),
            reorder_ms: 100,
            auth_user: String::new(),
            auth_password: String::new(),
            auth_basic: false,
        }
    }
}

impl Default for PullSection {
    fn default() -> Self {
        Self {
            timeout_ms: 10_000,
            media_timeout_ms: 5_000,
            retry_base_ms: 2_000,
            retry_step_ms: 3_000,
            retry_max_ms: 60_000,
            retry_jitter_percent: 20,
            connects_per_origin_max: 64,
        }
    }
}

impl Default for StreamSection {
    fn default() -> Self {
        Self {
            continue_push_ms: 15_000,
            reconnect_grace_ms: 15_000,
            max_stream_wait_ms: 15_000,
            none_reader_delay_ms: 20_000,
            auto_close: false,
            gop_bytes_max: 16 * MIB,
            waiters_per_key_max: 10_000,
        }
    }
}

impl Default for EgressSection {
    fn default() -> Self {
        Self {
            audio_wait_ms: 40,
            flush_window_ms: 0,
            lag_bytes_max: 2 * MIB,
            lag_evict_ms: 15_000,
            send_notsent_lowat_bytes: 131_072,
            udp_gso: true,
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            connections_max: 0,
            connections_per_shard_max: 20_000,
            connections_per_address_max: 0,
            joins_per_second_max: 0,
            joins_per_second_per_address_max: 0,
            pending_per_shard_max: 20_000,
            pending_pulls_max: 0,
            pending_pulls_per_address_max: 0,
        }
    }
}

impl Default for ApiSection {
    fn default() -> Self {
        Self { secret: String::new(), force_closes_pending: true, reply_bound_ms: 1_000 }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { filter: "info".to_owned() }
    }
}

/// `[::]` takes IPv4 as well.
fn any_address(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

impl Default for MediaRingSection {
    fn default() -> Self {
        Self { coalesce_us: 1000, await_frames: true }
    }
}
