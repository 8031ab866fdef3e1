//! The operator's keys as an RTSP session takes them.

use std::time::Duration;

use crate::config::{RtpTransport, RtspSection};
use crate::proto::rtsp::server::AuthConfig;
use crate::proto::rtsp::{AuthScheme, Credentials, LowerTransport, ServerConfig};

pub(super) fn server_config(config: &RtspSection) -> ServerConfig {
    let ms = Duration::from_millis;
    let transports = match config.rtp_transport {
        RtpTransport::Both => vec![LowerTransport::Tcp, LowerTransport::Udp],
        RtpTransport::Tcp => vec![LowerTransport::Tcp],
        RtpTransport::Udp => vec![LowerTransport::Udp],
    };
    let auth = (!config.auth_user.is_empty()).then(|| AuthConfig {
        schemes: match config.auth_basic {
            true => vec![AuthScheme::Basic, AuthScheme::DigestMd5, AuthScheme::DigestSha256],
            false => vec![AuthScheme::DigestMd5, AuthScheme::DigestSha256],
        },
        realm: "rillcast".to_owned(),
        credentials: Credentials {
            user: config.auth_user.clone(),
            password: config.auth_password.clone(),
        },
    });
    ServerConfig {
        transports,
        auth,
        session_timeout: ms(config.session_timeout_ms),
        command_timeout: ms(config.handshake_ms),
        ..ServerConfig::default()
    }
}
